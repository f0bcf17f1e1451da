/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/maintain.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

int cas_store_compact(struct cas_store *s, struct cas_err *err)
{
        return cas_index_compact(s->index, err);
}

struct count_scan {
        enum cas_family family;
        uint64_t *count; /* may be NULL */
        uint64_t *bytes; /* may be NULL */
};

/* The size that a record tells. */
static int record_bytes(enum cas_family family, const void *value, size_t len, uint64_t *out,
                        struct cas_err *err)
{
        int rc = 0;
        *out = 0;
        if (family == CAS_FAMILY_OBJECTS) {
                struct cas_object_record rec;
                rc = cas_object_record_decode(value, len, &rec, err);
                *out = rec.size_bytes;
        } else if (family == CAS_FAMILY_CHUNKS) {
                struct cas_chunk_record rec;
                rc = cas_chunk_record_decode(value, len, &rec, err);
                *out = rec.length_bytes;
        } else if (family == CAS_FAMILY_PACKS) {
                struct cas_pack_record rec;
                rc = cas_pack_record_decode(value, len, &rec, err);
                *out = rec.size_bytes;
        } else if (family == CAS_FAMILY_LAYERS) {
                struct cas_layer_record rec;
                rc = cas_layer_record_decode(&(struct cas_digest){0}, value, len, &rec, err);
                *out = rec.content_bytes;
        } else if (family == CAS_FAMILY_TREES) {
                struct cas_tree_record rec;
                rc = cas_tree_record_decode(value, len, &rec, err);
                *out = rec.size_bytes;
                free(rec.layers);
        }
        return rc;
}

static int count_one(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     const void *value, size_t value_len, struct cas_err *err)
{
        const struct count_scan *scan = arg;
        uint64_t bytes = 0;
        int rc = scan->bytes ? record_bytes(scan->family, value, value_len, &bytes, err) : 0;
        if (rc < 0)
                return rc;
        (*scan->count)++;
        if (scan->bytes)
                *scan->bytes += bytes;
        return 0;
}

/* Blobs by what the store has of them. */
static int count_blob(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_store_stats *out = arg;
        struct cas_blob_record rec;
        int rc = cas_blob_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        bool file = rec.copy != CAS_BLOB_CONDENSED, cached = rec.copy == CAS_BLOB_CACHED;
        out->blob_count++;
        out->blob_bytes += rec.size_bytes;
        out->copy_count += file;
        out->copy_bytes += file ? rec.size_bytes : 0;
        out->cached_count += cached;
        out->cached_bytes += cached ? rec.size_bytes : 0;
        out->condensed_count += !file;
        out->condensed_bytes += file ? 0 : rec.size_bytes;
        return 0;
}

static int count_recipe(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct cas_store_stats *out = arg;
        struct cas_recipe_record rec;
        struct cas_digest blob;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc == 0)
                rc = cas_recipe_record_decode(&blob, value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        out->recipe_count += rec.is_proved;
        out->recipe_bytes += rec.is_proved ? rec.recipe_bytes : 0;
        out->refused_count += cas_hash_is_zero(&rec.recipe);
        return 0;
}

static bool count_repo(void *arg, const char *repo CAS_UNUSED)
{
        (*(uint64_t *)arg)++;
        return true;
}

int cas_store_stats(struct cas_store *s, struct cas_store_stats *out, struct cas_err *err)
{
        *out = (struct cas_store_stats){0};
        const struct count_scan scans[] = {
                {CAS_FAMILY_OBJECTS, &out->object_count, &out->object_bytes},
                {CAS_FAMILY_CHUNKS, &out->chunk_count, &out->chunk_bytes},
                {CAS_FAMILY_PACKS, &out->pack_count, &out->pack_bytes},
                {CAS_FAMILY_LAYERS, &out->layer_count, &out->content_bytes},
                {CAS_FAMILY_MANIFESTS, &out->manifest_count, NULL},
                {CAS_FAMILY_TAGS, &out->tag_count, NULL},
                {CAS_FAMILY_LEASES, &out->lease_count, NULL},
                {CAS_FAMILY_TREES, &out->tree_count, &out->tree_bytes},
        };
        for (size_t i = 0; i < CAS_COUNT(scans); i++) {
                struct count_scan scan = scans[i];
                int rc = cas_index_scan(s->index, &(struct cas_scan){.family = scan.family},
                                        count_one, &scan, err);
                if (rc < 0)
                        return rc;
        }
        int rc = cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_BLOBS},
                                count_blob, out, err);
        if (rc == 0)
                rc = cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_RECIPES},
                                    count_recipe, out, err);
        return rc < 0 ? rc : cas_repo_each(s, NULL, count_repo, &out->repo_count, err);
}
