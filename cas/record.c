/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/record_int.h"

void cas_varint_append(struct cas_buf *b, uint64_t v)
{
        while (v >= 0x80) {
                cas_buf_append_byte(b, (uint8_t)(v | 0x80));
                v >>= 7;
        }
        cas_buf_append_byte(b, (uint8_t)v);
}

uint64_t cas_cursor_varint(struct cas_cursor *c)
{
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
                uint8_t byte = cas_cursor_u8(c);
                if (c->failed || (shift == 63 && byte > 1) || (shift > 0 && byte == 0))
                        break;
                v |= (uint64_t)(byte & 0x7f) << shift;
                if (!(byte & 0x80))
                        return v;
        }
        c->failed = true;
        return 0;
}

void cas_digest_append(struct cas_buf *b, const struct cas_digest *d)
{
        cas_buf_append_byte(b, d->alg);
        cas_buf_append(b, d->bytes, cas_digest_alg_bytes(d->alg));
}

void cas_cursor_digest(struct cas_cursor *c, struct cas_digest *out)
{
        *out = (struct cas_digest){.alg = cas_cursor_u8(c)};
        if (out->alg != CAS_DIGEST_SHA256 && out->alg != CAS_DIGEST_SHA512) {
                c->failed = true;
                out->alg = CAS_DIGEST_NONE;
                return;
        }
        size_t len = cas_digest_alg_bytes(out->alg);
        const uint8_t *bytes = cas_cursor_take(c, len);
        if (bytes)
                memcpy(out->bytes, bytes, len);
}

void cas_text_append(struct cas_buf *b, const char *s)
{
        size_t len = strlen(s);
        cas_varint_append(b, len);
        cas_buf_append(b, s, len);
}

void cas_cursor_text(struct cas_cursor *c, char *out, size_t out_bytes)
{
        out[0] = '\0';
        uint64_t len = cas_cursor_varint(c);
        const uint8_t *bytes = len < out_bytes ? cas_cursor_take(c, len) : NULL;
        if (!bytes || memchr(bytes, '\0', len)) {
                c->failed = true;
                return;
        }
        memcpy(out, bytes, len);
        out[len] = '\0';
}

int cas_cursor_end(const struct cas_cursor *c, const char *what, struct cas_err *err)
{
        if (c->failed || cas_cursor_left(c) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "%s: malformed record", what);
        return 0;
}

/* ---- keys ---- */

static void key_add(struct cas_record_key *k, const void *data, size_t len)
{
        cas_assert(len <= sizeof(k->bytes) - k->len);
        memcpy(k->bytes + k->len, data, len);
        k->len += len;
}

static void key_add_digest(struct cas_record_key *k, const struct cas_digest *d)
{
        size_t len = cas_digest_alg_bytes(d->alg);
        cas_assert(len > 0);
        key_add(k, &d->alg, 1);
        key_add(k, d->bytes, len);
}

void cas_key_pack(uint64_t pack_id, struct cas_record_key *out)
{
        uint8_t raw[8];
        cas_put_be64(raw, pack_id);
        out->len = 0;
        key_add(out, raw, sizeof(raw));
}

void cas_key_digest(const struct cas_digest *d, struct cas_record_key *out)
{
        out->len = 0;
        key_add_digest(out, d);
}

void cas_key_list_page(const struct cas_hash *object, uint32_t page, struct cas_record_key *out)
{
        const uint8_t raw[4] = {(uint8_t)(page >> 24), (uint8_t)(page >> 16), (uint8_t)(page >> 8),
                                (uint8_t)page};
        out->len = 0;
        key_add(out, object->bytes, sizeof(object->bytes));
        key_add(out, raw, sizeof(raw));
}

void cas_key_repo(const char *repo, struct cas_record_key *out)
{
        size_t len = strlen(repo);
        cas_assert(len <= CAS_REPO_NAME_BYTES_MAX);
        out->len = 0;
        key_add(out, repo, len + 1);
}

void cas_key_tag(const char *repo, const char *tag, struct cas_record_key *out)
{
        size_t len = strlen(tag);
        cas_assert(len <= CAS_TAG_BYTES_MAX);
        cas_key_repo(repo, out);
        key_add(out, tag, len);
}

void cas_key_repo_digest(const char *repo, const struct cas_digest *d, struct cas_record_key *out)
{
        cas_key_repo(repo, out);
        key_add_digest(out, d);
}

void cas_key_referrer(const char *repo, const struct cas_digest *subject,
                      const struct cas_digest *referrer, struct cas_record_key *out)
{
        cas_key_repo_digest(repo, subject, out);
        key_add_digest(out, referrer);
}

int cas_key_split_repo(const void *key, size_t len, char repo[CAS_REPO_NAME_BYTES_MAX + 1],
                       struct cas_cursor *rest, struct cas_err *err)
{
        const uint8_t *nul = memchr(key, '\0', len);
        size_t repo_len = nul ? (size_t)(nul - (const uint8_t *)key) : 0;
        if (repo_len == 0 || repo_len > CAS_REPO_NAME_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "index: malformed key of a name");
        memcpy(repo, key, repo_len + 1);
        *rest = cas_cursor_over(nul + 1, len - repo_len - 1);
        return 0;
}

/* ---- values ---- */

static uint32_t cursor_varint32(struct cas_cursor *c)
{
        uint64_t v = cas_cursor_varint(c);
        if (v > UINT32_MAX)
                c->failed = true;
        return (uint32_t)v;
}

void cas_chunk_record_encode(const struct cas_chunk_record *rec, struct cas_buf *out)
{
        cas_buf_append_byte(out, rec->codec);
        cas_buf_append_le64(out, rec->block_checksum);
        cas_varint_append(out, rec->pack_id);
        cas_varint_append(out, rec->block_offset);
        cas_varint_append(out, rec->block_stored_bytes);
        cas_varint_append(out, rec->block_raw_bytes);
        cas_varint_append(out, rec->chunk_offset);
        cas_varint_append(out, rec->length_bytes);
}

int cas_chunk_record_decode(const void *data, size_t len, struct cas_chunk_record *out,
                            struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        out->codec = cas_cursor_u8(&c);
        out->block_checksum = cas_cursor_le64(&c);
        out->pack_id = cas_cursor_varint(&c);
        out->block_offset = cas_cursor_varint(&c);
        out->block_stored_bytes = cursor_varint32(&c);
        out->block_raw_bytes = cursor_varint32(&c);
        out->chunk_offset = cursor_varint32(&c);
        out->length_bytes = cursor_varint32(&c);
        if (out->chunk_offset > out->block_raw_bytes ||
            out->length_bytes > out->block_raw_bytes - out->chunk_offset ||
            out->block_raw_bytes > CAS_BLOCK_BYTES_MAX)
                c.failed = true;
        return cas_cursor_end(&c, "chunk", err);
}

void cas_object_record_encode(const struct cas_object_record *rec, struct cas_buf *out)
{
        cas_varint_append(out, rec->size_bytes);
        cas_varint_append(out, rec->chunk_count);
}

int cas_object_record_decode(const void *data, size_t len, struct cas_object_record *out,
                             struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        out->size_bytes = cas_cursor_varint(&c);
        out->chunk_count = cursor_varint32(&c);
        if (out->size_bytes > CAS_OBJECT_BYTES_MAX ||
            (out->size_bytes == 0) != (out->chunk_count == 0))
                c.failed = true;
        return cas_cursor_end(&c, "object", err);
}

void cas_chunk_refs_encode(const struct cas_chunk_ref *refs, uint32_t count, struct cas_buf *out)
{
        for (uint32_t i = 0; i < count; i++) {
                cas_buf_append(out, refs[i].chunk.bytes, CAS_HASH_BYTES);
                cas_buf_append_le32(out, refs[i].length_bytes);
        }
}

int cas_chunk_refs_decode(const void *data, size_t len, struct cas_chunk_ref *out, uint32_t max,
                          uint32_t *count, struct cas_err *err)
{
        if (len % CAS_CHUNK_REF_BYTES != 0 || len / CAS_CHUNK_REF_BYTES > max)
                return cas_fail(err, CAS_E_CORRUPT, "chunk list: malformed record");
        struct cas_cursor c = cas_cursor_over(data, len);
        *count = (uint32_t)(len / CAS_CHUNK_REF_BYTES);
        for (uint32_t i = 0; i < *count; i++) {
                memcpy(out[i].chunk.bytes, cas_cursor_take(&c, CAS_HASH_BYTES), CAS_HASH_BYTES);
                out[i].length_bytes = cas_cursor_le32(&c);
        }
        return 0;
}

#define PACK_SEALED 1u
#define PACK_DENSITY_SHIFT 1

void cas_pack_record_encode(const struct cas_pack_record *rec, struct cas_buf *out)
{
        cas_buf_append_byte(out, (uint8_t)((rec->sealed ? PACK_SEALED : 0) |
                                           (unsigned)rec->density << PACK_DENSITY_SHIFT));
        cas_varint_append(out, rec->tier);
        cas_varint_append(out, rec->size_bytes);
        if (rec->sealed)
                cas_buf_append(out, rec->sha256.bytes, CAS_HASH_BYTES);
}

int cas_pack_record_decode(const void *data, size_t len, struct cas_pack_record *out,
                           struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        uint8_t flags = cas_cursor_u8(&c);
        *out = (struct cas_pack_record){.sealed = flags & PACK_SEALED,
                                        .density = flags >> PACK_DENSITY_SHIFT};
        out->tier = cursor_varint32(&c);
        out->size_bytes = cas_cursor_varint(&c);
        if (out->sealed) {
                const uint8_t *sha256 = cas_cursor_take(&c, CAS_HASH_BYTES);
                if (sha256)
                        memcpy(out->sha256.bytes, sha256, CAS_HASH_BYTES);
        }
        if (out->density > CAS_PACK_COLD)
                c.failed = true;
        return cas_cursor_end(&c, "pack", err);
}

void cas_layer_record_encode(const struct cas_layer_record *rec, struct cas_buf *out)
{
        cas_digest_append(out, &rec->diff_id);
        cas_varint_append(out, rec->tar_bytes);
        cas_varint_append(out, rec->content_bytes);
        cas_varint_append(out, rec->entry_count);
        cas_buf_append(out, rec->listing.bytes, CAS_HASH_BYTES);
        cas_varint_append(out, rec->listing_version);
        cas_buf_append_byte(out, rec->compression);
}

int cas_layer_record_decode(const struct cas_digest *blob, const void *data, size_t len,
                            struct cas_layer_record *out, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        *out = (struct cas_layer_record){.blob = *blob};
        cas_cursor_digest(&c, &out->diff_id);
        out->tar_bytes = cas_cursor_varint(&c);
        out->content_bytes = cas_cursor_varint(&c);
        out->entry_count = cas_cursor_varint(&c);
        const uint8_t *listing = cas_cursor_take(&c, CAS_HASH_BYTES);
        if (listing)
                memcpy(out->listing.bytes, listing, CAS_HASH_BYTES);
        out->listing_version = cursor_varint32(&c);
        out->compression = cas_cursor_u8(&c);
        return cas_cursor_end(&c, "layer", err);
}

void cas_blob_record_encode(const struct cas_blob_record *rec, struct cas_buf *out)
{
        cas_varint_append(out, rec->size_bytes);
        cas_varint_append(out, rec->added_unix_s);
        if (rec->copy != CAS_BLOB_VERBATIM)
                cas_buf_append_byte(out, (uint8_t)rec->copy);
}

int cas_blob_record_decode(const void *data, size_t len, struct cas_blob_record *out,
                           struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        out->size_bytes = cas_cursor_varint(&c);
        out->added_unix_s = cas_cursor_varint(&c);
        out->copy = CAS_BLOB_VERBATIM;
        if (cas_cursor_left(&c) > 0) {
                out->copy = (enum cas_blob_copy)cas_cursor_u8(&c);
                if (out->copy != CAS_BLOB_CACHED && out->copy != CAS_BLOB_CONDENSED)
                        c.failed = true;
        }
        return cas_cursor_end(&c, "blob", err);
}

#define RECIPE_PROVED 1u
#define RECIPE_OBJECT 2u /* there is one */

void cas_recipe_record_encode(const struct cas_recipe_record *rec, struct cas_buf *out)
{
        bool has_object = !cas_hash_is_zero(&rec->recipe);
        cas_assert(has_object || !rec->is_proved);
        cas_buf_append_byte(out, (uint8_t)((rec->is_proved ? RECIPE_PROVED : 0) |
                                           (has_object ? RECIPE_OBJECT : 0)));
        cas_varint_append(out, rec->analysis);
        cas_buf_append_byte(out, rec->wrap);
        if (has_object)
                cas_buf_append(out, rec->recipe.bytes, CAS_HASH_BYTES);
        cas_varint_append(out, rec->blob_bytes);
        cas_varint_append(out, rec->recipe_bytes);
        cas_varint_append(out, rec->corrections_bytes);
        cas_text_append(out, rec->text);
        cas_text_append(out, rec->reason);
}

int cas_recipe_record_decode(const struct cas_digest *blob, const void *data, size_t len,
                             struct cas_recipe_record *out, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        uint8_t flags = cas_cursor_u8(&c);
        *out = (struct cas_recipe_record){.blob = *blob, .is_proved = flags & RECIPE_PROVED};
        out->analysis = cursor_varint32(&c);
        out->wrap = cas_cursor_u8(&c);
        const uint8_t *recipe = flags & RECIPE_OBJECT ? cas_cursor_take(&c, CAS_HASH_BYTES) : NULL;
        if (recipe)
                memcpy(out->recipe.bytes, recipe, CAS_HASH_BYTES);
        out->blob_bytes = cas_cursor_varint(&c);
        out->recipe_bytes = cas_cursor_varint(&c);
        out->corrections_bytes = cas_cursor_varint(&c);
        cas_cursor_text(&c, out->text, sizeof(out->text));
        cas_cursor_text(&c, out->reason, sizeof(out->reason));
        if (flags > (RECIPE_PROVED | RECIPE_OBJECT) || flags == RECIPE_PROVED ||
            (recipe && cas_hash_is_zero(&out->recipe)))
                c.failed = true;
        return cas_cursor_end(&c, "recipe", err);
}

void cas_lease_encode(const struct cas_lease *lease, struct cas_buf *out)
{
        cas_digest_append(out, &lease->root);
        cas_varint_append(out, lease->expires_unix_s);
        cas_text_append(out, lease->owner);
}

int cas_lease_decode(const void *key, size_t key_len, const void *data, size_t len,
                     struct cas_lease *out, struct cas_err *err)
{
        if (key_len == 0 || key_len >= sizeof(out->id) || memchr(key, '\0', key_len))
                return cas_fail(err, CAS_E_CORRUPT, "lease: malformed id");
        memcpy(out->id, key, key_len);
        out->id[key_len] = '\0';
        struct cas_cursor c = cas_cursor_over(data, len);
        cas_cursor_digest(&c, &out->root);
        out->expires_unix_s = cas_cursor_varint(&c);
        cas_cursor_text(&c, out->owner, sizeof(out->owner));
        return cas_cursor_end(&c, "lease", err);
}

void cas_tree_record_encode(const struct cas_tree_record *rec, struct cas_buf *out)
{
        cas_digest_append(out, &rec->tree);
        cas_varint_append(out, rec->size_bytes);
        cas_varint_append(out, rec->layer_count);
        for (size_t i = 0; i < rec->layer_count; i++)
                cas_digest_append(out, &rec->layers[i]);
}

int cas_tree_record_decode(const void *data, size_t len, struct cas_tree_record *out,
                           struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        *out = (struct cas_tree_record){0};
        cas_cursor_digest(&c, &out->tree);
        out->size_bytes = cas_cursor_varint(&c);
        uint64_t count = cas_cursor_varint(&c);
        if (c.failed || count > CAS_LAYERS_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "tree: malformed record");
        cas_cleanup_free struct cas_digest *layers = cas_xcalloc(count + 1, sizeof(layers[0]));
        for (uint64_t i = 0; i < count; i++)
                cas_cursor_digest(&c, &layers[i]);
        int rc = cas_cursor_end(&c, "tree", err);
        if (rc < 0)
                return rc;
        out->layer_count = count;
        out->layers = cas_steal(&layers);
        return 0;
}

void cas_manifest_value_encode(const char *media_type, uint64_t size_bytes, struct cas_buf *out)
{
        cas_varint_append(out, size_bytes);
        cas_text_append(out, media_type);
}

int cas_manifest_value_decode(const void *data, size_t len, struct cas_manifest_info *out,
                              struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        out->size_bytes = cas_cursor_varint(&c);
        cas_cursor_text(&c, out->media_type, sizeof(out->media_type));
        return cas_cursor_end(&c, "manifest link", err);
}

int cas_manifest_entry_decode(const void *key, size_t key_len, const void *value, size_t value_len,
                              struct cas_manifest_info *out, struct cas_err *err)
{
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        struct cas_cursor rest;
        int rc = cas_key_split_repo(key, key_len, repo, &rest, err);
        if (rc < 0)
                return rc;
        cas_cursor_digest(&rest, &out->digest);
        rc = cas_cursor_end(&rest, "manifest", err);
        return rc < 0 ? rc : cas_manifest_value_decode(value, value_len, out, err);
}

int cas_digest_value_decode(const void *data, size_t len, struct cas_digest *out,
                            struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        cas_cursor_digest(&c, out);
        return cas_cursor_end(&c, "digest", err);
}

void cas_time_value_encode(uint64_t unix_s, struct cas_buf *out)
{
        cas_varint_append(out, unix_s);
}

int cas_time_value_decode(const void *data, size_t len, uint64_t *out_unix_s, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        *out_unix_s = cas_cursor_varint(&c);
        return cas_cursor_end(&c, "time", err);
}
