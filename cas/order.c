/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/order.h"

#include <stdio.h>

#include "cas/blob.h"
#include "cas/elsewhere_int.h"
#include "cas/learner_int.h"
#include "cas/map.h"
#include "cas/pins_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

#define KEY_MANIFEST 'm'
#define KEY_REPO 'r'

static void manifest_key(const struct cas_digest *manifest, struct cas_buf *out)
{
        cas_buf_append_byte(out, KEY_MANIFEST);
        cas_digest_append(out, manifest);
}

static void repo_key(const char *repo, struct cas_buf *out)
{
        cas_buf_append_byte(out, KEY_REPO);
        cas_buf_append_str(out, repo);
}

int cas_order_put(struct cas_store *s, const char *repo, const struct cas_digest *manifest,
                  const struct cas_hash *ids, size_t count, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_buf struct cas_buf key = CAS_BUF_INIT, value = CAS_BUF_INIT;
        count = cas_min_u64(count, CAS_ORDER_OBJECTS_MAX);
        manifest_key(manifest, &key);
        cas_varint_append(&value, count);
        for (size_t i = 0; i < count; i++)
                cas_buf_append(&value, ids[i].bytes, CAS_HASH_BYTES);
        cas_batch_put(batch, CAS_FAMILY_ORDERS, key.data, key.len_bytes, value.data,
                      value.len_bytes);
        if (repo && cas_repo_name_valid(repo)) {
                cas_buf_clear(&key);
                cas_buf_clear(&value);
                repo_key(repo, &key);
                cas_digest_append(&value, manifest);
                cas_batch_put(batch, CAS_FAMILY_ORDERS, key.data, key.len_bytes, value.data,
                              value.len_bytes);
        }
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        cas_pin_blob(pins, manifest); /* it goes with that */
        int rc = cas_index_write(s->index, batch, err);
        return rc;
}

int cas_order_decode(const void *value, size_t len, struct cas_hash **ids, size_t *count,
                     size_t max, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(value, len);
        uint64_t n = cas_cursor_varint(&c);
        if (n > CAS_ORDER_OBJECTS_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "order of %llu objects", (unsigned long long)n);
        const uint8_t *bytes = cas_cursor_take(&c, n * CAS_HASH_BYTES);
        if (cas_cursor_end(&c, "order", err) < 0)
                return -(int)err->code;
        *count = cas_min_u64(n, max);
        *ids = cas_xcalloc(*count + 1, sizeof(**ids));
        for (size_t i = 0; i < *count; i++)
                memcpy((*ids)[i].bytes, bytes + i * CAS_HASH_BYTES, CAS_HASH_BYTES);
        return 0;
}

/* An absent entry is success with an empty value. */
static int entry_get(struct cas_store *s, const struct cas_buf *key, struct cas_buf *value,
                     struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc =
                cas_index_get(s->index, CAS_FAMILY_ORDERS, key->data, key->len_bytes, value, &miss);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

int cas_order_get(struct cas_store *s, const struct cas_digest *manifest, struct cas_hash **ids,
                  size_t *count, size_t max, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf key = CAS_BUF_INIT, value = CAS_BUF_INIT;
        *ids = NULL;
        *count = 0;
        manifest_key(manifest, &key);
        int rc = entry_get(s, &key, &value, err);
        if (rc < 0 || value.len_bytes == 0)
                return rc;
        return cas_order_decode(value.data, value.len_bytes, ids, count, max, err);
}

bool cas_order_manifest(const void *key, size_t key_len, const void *value, size_t value_len,
                        struct cas_digest *out)
{
        const uint8_t *k = key;
        struct cas_err ignored = CAS_ERR_INIT;
        if (key_len > 0 && k[0] == KEY_MANIFEST)
                return cas_digest_value_decode(k + 1, key_len - 1, out, &ignored) == 0;
        return key_len > 0 && k[0] == KEY_REPO &&
               cas_digest_value_decode(value, value_len, out, &ignored) == 0;
}

/* ---- from one version of an image to the next ---- */

int cas_order_each_file(struct cas_store *s, const struct cas_digest *manifest,
                        void (*fn)(void *arg, const struct cas_entry *file), void *arg,
                        struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        if (cas_blob_read(s, manifest, CAS_MANIFEST_BYTES_MAX, &bytes, err) < 0 ||
            cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, &m, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; m.kind == CAS_MANIFEST_IMAGE && i < m.child_count; i++) {
                struct cas_layer_record layer;
                cas_cleanup_listing struct cas_listing listing = {0};
                struct cas_err miss = CAS_ERR_INIT;
                if (cas_elsewhere_layer(s, &m.children[i].digest, &layer, &miss) < 0 ||
                    cas_layer_listing(s, &layer, &listing, &miss) < 0)
                        continue;
                for (size_t f = 0; f < listing.count; f++) {
                        const struct cas_entry *e = &listing.entries[f];
                        if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                                fn(arg, e);
                }
        }
        return 0;
}

struct carry {
        const struct cas_map *rank; /* object of the former image -> place in its order + 1 */
        struct cas_map *paths;      /* owned: path -> the same */
        struct cas_hash *ids;       /* by place; zero where the path is gone */
};

static void note_path(void *arg, const struct cas_entry *file)
{
        const struct carry *c = arg;
        const uint64_t *rank = cas_map_get(c->rank, file->object.bytes, CAS_HASH_BYTES);
        if (rank)
                *cas_map_put(c->paths, file->path, strlen(file->path), NULL) = *rank;
}

static void carry_path(void *arg, const struct cas_entry *file)
{
        const struct carry *c = arg;
        const uint64_t *rank = cas_map_get_str(c->paths, file->path);
        if (rank)
                c->ids[*rank - 1] = file->object;
}

static int carry_over(struct cas_store *s, const struct cas_digest *from,
                      const struct cas_digest *to, struct cas_hash *ids, size_t *count,
                      struct cas_err *err)
{
        cas_cleanup_map struct cas_map *rank = cas_map_new();
        cas_cleanup_map struct cas_map *paths = cas_map_new();
        struct carry c = {.rank = rank, .paths = paths, .ids = ids};
        for (size_t i = 0; i < *count; i++)
                *cas_map_put(rank, ids[i].bytes, CAS_HASH_BYTES, NULL) = i + 1;
        if (cas_order_each_file(s, from, note_path, &c, err) < 0)
                return -(int)err->code;
        memset(ids, 0, *count * sizeof(*ids));
        if (cas_order_each_file(s, to, carry_path, &c, err) < 0)
                return -(int)err->code;
        size_t kept = 0;
        for (size_t i = 0; i < *count; i++) {
                if (!cas_hash_is_zero(&ids[i]))
                        ids[kept++] = ids[i];
        }
        *count = kept;
        return 0;
}

int cas_order_find(struct cas_store *s, const char *repo, const struct cas_digest *manifest,
                   struct cas_hash **ids, size_t *count, size_t max, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf key = CAS_BUF_INIT, value = CAS_BUF_INIT;
        struct cas_digest latest;
        if (cas_order_get(s, manifest, ids, count, max, err) < 0)
                return -(int)err->code;
        if (*ids || !repo)
                return 0;
        repo_key(repo, &key);
        int rc = entry_get(s, &key, &value, err);
        if (rc < 0 || value.len_bytes == 0)
                return rc;
        if (cas_digest_value_decode(value.data, value.len_bytes, &latest, err) < 0 ||
            cas_order_get(s, &latest, ids, count, max, err) < 0)
                return -(int)err->code;
        struct cas_err gone = CAS_ERR_INIT;
        if (*count > 0 && carry_over(s, &latest, manifest, *ids, count, &gone) < 0)
                *count = 0; /* the former image is gone: there is nothing to learn from */
        return 0;
}
