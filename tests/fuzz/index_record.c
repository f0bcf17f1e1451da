/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as key and value of any family: decoders answer, and what they take
 * encodes to the same bytes again. Input: family, length of the key, key, value. */
#include "cas/elsewhere_int.h"
#include "cas/namerecord_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect_same(const struct cas_buf *again, const void *value, size_t len)
{
        cas_assert(again->len_bytes == len);
        cas_assert(len == 0 || memcmp(again->data, value, len) == 0);
}

static void try_value(enum cas_family family, const void *value, size_t len, struct cas_buf *again)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest blob = {.alg = CAS_DIGEST_SHA256};
        union {
                struct cas_chunk_record chunk;
                struct cas_object_record object;
                struct cas_pack_record pack;
                struct cas_layer_record layer;
                struct cas_blob_record blob;
                struct cas_recipe_record recipe;
                struct cas_tree_record tree;
                struct cas_elsewhere_layer elsewhere;
        } rec;
        int rc = -1;
        if (family == CAS_FAMILY_CHUNKS &&
            (rc = cas_chunk_record_decode(value, len, &rec.chunk, &err)) == 0)
                cas_chunk_record_encode(&rec.chunk, again);
        if (family == CAS_FAMILY_OBJECTS &&
            (rc = cas_object_record_decode(value, len, &rec.object, &err)) == 0)
                cas_object_record_encode(&rec.object, again);
        if (family == CAS_FAMILY_PACKS &&
            (rc = cas_pack_record_decode(value, len, &rec.pack, &err)) == 0)
                cas_pack_record_encode(&rec.pack, again);
        if (family == CAS_FAMILY_LAYERS &&
            (rc = cas_layer_record_decode(&blob, value, len, &rec.layer, &err)) == 0)
                cas_layer_record_encode(&rec.layer, again);
        if (family == CAS_FAMILY_BLOBS &&
            (rc = cas_blob_record_decode(value, len, &rec.blob, &err)) == 0)
                cas_blob_record_encode(&rec.blob, again);
        if (family == CAS_FAMILY_RECIPES &&
            (rc = cas_recipe_record_decode(&blob, value, len, &rec.recipe, &err)) == 0)
                cas_recipe_record_encode(&rec.recipe, again);
        if (family == CAS_FAMILY_TREES &&
            (rc = cas_tree_record_decode(value, len, &rec.tree, &err)) == 0) {
                cas_tree_record_encode(&rec.tree, again);
                free(rec.tree.layers);
        }
        if (family == CAS_FAMILY_ELSEWHERE &&
            (rc = cas_elsewhere_decode(&blob, value, len, &rec.elsewhere, &err)) == 0)
                cas_elsewhere_encode(&rec.elsewhere, again);
        if (rc == 0)
                expect_same(again, value, len);
}

static void try_order(const void *key, size_t key_len, const void *value, size_t len)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest manifest;
        struct cas_hash *ids;
        size_t count;
        (void)cas_order_manifest(key, key_len, value, len, &manifest);
        if (cas_order_decode(value, len, &ids, &count, SIZE_MAX, &err) == 0)
                free(ids);
}

static void try_name(enum cas_family family, const void *key, size_t key_len, const void *value,
                     size_t len, struct cas_buf *again)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_name_record rec;
        struct cas_record_key back;
        if (cas_name_record_from_index(family, key, key_len, value, len, &rec, &err) < 0)
                return;
        cas_assert(cas_name_record_key(&rec, &back) == family);
        cas_assert(back.len == key_len && memcmp(back.bytes, key, key_len) == 0);
        bool adds = cas_name_record_value(&rec, again);
        cas_assert(adds);
        if (family != CAS_FAMILY_REFERRERS) /* whose values are of no concern */
                expect_same(again, value, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        struct cas_lease lease;
        struct cas_err err = CAS_ERR_INIT;
        if (size < 2 || data[1] > size - 2)
                return 0;
        enum cas_family family = data[0] % CAS_FAMILY_COUNT;
        const uint8_t *key = data + 2, *value = key + data[1];
        size_t key_len = data[1], len = size - 2 - key_len;
        if (family == CAS_FAMILY_MANIFESTS || family == CAS_FAMILY_TAGS ||
            family == CAS_FAMILY_BLOB_LINKS || family == CAS_FAMILY_REFERRERS) {
                try_name(family, key, key_len, value, len, &again);
        } else if (family == CAS_FAMILY_LEASES) {
                if (cas_lease_decode(key, key_len, value, len, &lease, &err) == 0) {
                        cas_lease_encode(&lease, &again);
                        expect_same(&again, value, len);
                }
        } else if (family == CAS_FAMILY_ORDERS) {
                try_order(key, key_len, value, len);
        } else {
                try_value(family, value, len, &again);
        }
        return 0;
}
