/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/condemned_int.h"

#include <time.h>

#include "cas/store_int.h"

/* ---- as bytes ---- */

void cas_condemned_key(const struct cas_condemned *c, struct cas_record_key *out)
{
        struct cas_record_key name = {.len = 0};
        switch (c->kind) {
        case CAS_CONDEMNED_LINK:
                cas_key_repo_digest(c->repo, &c->blob, &name);
                break;
        case CAS_CONDEMNED_BLOB:
                cas_key_digest(&c->blob, &name);
                break;
        case CAS_CONDEMNED_LISTING:
        case CAS_CONDEMNED_RECIPE:
        case CAS_CONDEMNED_OBJECT:
        case CAS_CONDEMNED_CHUNK:
                memcpy(name.bytes, c->hash.bytes, CAS_HASH_BYTES);
                name.len = CAS_HASH_BYTES;
                break;
        }
        out->bytes[0] = (uint8_t)c->kind;
        memcpy(out->bytes + 1, name.bytes, name.len);
        out->len = 1 + name.len;
}

static int decode_name(struct cas_cursor *c, struct cas_condemned *out, struct cas_err *err)
{
        const uint8_t *hash;
        switch (out->kind) {
        case CAS_CONDEMNED_LINK: {
                struct cas_cursor rest;
                int rc = cas_key_split_repo(c->at, cas_cursor_left(c), out->repo, &rest, err);
                if (rc < 0)
                        return rc;
                *c = rest;
                if (!cas_repo_name_valid(out->repo))
                        c->failed = true;
                cas_cursor_digest(c, &out->blob);
                return 0;
        }
        case CAS_CONDEMNED_BLOB:
                cas_cursor_digest(c, &out->blob);
                return 0;
        case CAS_CONDEMNED_LISTING:
        case CAS_CONDEMNED_RECIPE:
        case CAS_CONDEMNED_OBJECT:
        case CAS_CONDEMNED_CHUNK:
                hash = cas_cursor_take(c, CAS_HASH_BYTES);
                if (hash)
                        memcpy(out->hash.bytes, hash, CAS_HASH_BYTES);
                return 0;
        }
        c->failed = true;
        return 0;
}

int cas_condemned_decode(const void *key, size_t key_len, const void *value, size_t value_len,
                         struct cas_condemned *out, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(key, key_len);
        memset(out, 0, sizeof(*out));
        out->kind = cas_cursor_u8(&c);
        int rc = decode_name(&c, out, err);
        if (rc == 0)
                rc = cas_cursor_end(&c, "condemned", err);
        return rc < 0 ? rc : cas_time_value_decode(value, value_len, &out->since_unix_s, err);
}

/* ---- writing ---- */

static void put(struct cas_batch *b, const struct cas_condemned *c)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_condemned_key(c, &key);
        cas_time_value_encode(c->since_unix_s, &value);
        cas_batch_put(b, CAS_FAMILY_CONDEMNED, key.bytes, key.len, value.data, value.len_bytes);
}

static void del(struct cas_batch *b, const struct cas_condemned *c)
{
        struct cas_record_key key;
        cas_condemned_key(c, &key);
        cas_batch_del(b, CAS_FAMILY_CONDEMNED, key.bytes, key.len);
}

static struct cas_condemned link_of(const char *repo, const struct cas_digest *blob)
{
        struct cas_condemned c = {.kind = CAS_CONDEMNED_LINK, .blob = *blob};
        size_t len = strlen(repo);
        cas_assert(len < sizeof(c.repo));
        memcpy(c.repo, repo, len + 1);
        return c;
}

void cas_batch_condemn_link(struct cas_batch *b, const char *repo, const struct cas_digest *blob,
                            uint64_t since_unix_s)
{
        struct cas_condemned c = link_of(repo, blob);
        c.since_unix_s = since_unix_s;
        put(b, &c);
}

void cas_batch_condemn_blob(struct cas_batch *b, const struct cas_digest *blob,
                            uint64_t since_unix_s)
{
        put(b, &(struct cas_condemned){
                       .kind = CAS_CONDEMNED_BLOB, .blob = *blob, .since_unix_s = since_unix_s});
}

void cas_batch_condemn(struct cas_batch *b, enum cas_condemned_kind kind,
                       const struct cas_hash *hash, uint64_t since_unix_s)
{
        cas_assert(kind >= CAS_CONDEMNED_LISTING && kind <= CAS_CONDEMNED_CHUNK);
        put(b, &(struct cas_condemned){.kind = kind, .hash = *hash, .since_unix_s = since_unix_s});
}

void cas_batch_uncondemn_link(struct cas_batch *b, const char *repo, const struct cas_digest *blob)
{
        const struct cas_condemned c = link_of(repo, blob);
        del(b, &c);
}

void cas_batch_uncondemn_blob(struct cas_batch *b, const struct cas_digest *blob)
{
        del(b, &(struct cas_condemned){.kind = CAS_CONDEMNED_BLOB, .blob = *blob});
}

void cas_batch_uncondemn(struct cas_batch *b, enum cas_condemned_kind kind,
                         const struct cas_hash *hash)
{
        cas_assert(kind >= CAS_CONDEMNED_LISTING && kind <= CAS_CONDEMNED_CHUNK);
        del(b, &(struct cas_condemned){.kind = kind, .hash = *hash});
}

/* ---- asking ---- */

static int since(struct cas_index *ix, const struct cas_condemned *c, uint64_t *out_unix_s,
                 struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_condemned_key(c, &key);
        int rc = cas_index_get(ix, CAS_FAMILY_CONDEMNED, key.bytes, key.len, &value, err);
        return rc < 0 ? rc : cas_time_value_decode(value.data, value.len_bytes, out_unix_s, err);
}

int cas_condemned_blob_since(struct cas_index *ix, const struct cas_digest *blob,
                             uint64_t *out_unix_s, struct cas_err *err)
{
        return since(ix, &(struct cas_condemned){.kind = CAS_CONDEMNED_BLOB, .blob = *blob},
                     out_unix_s, err);
}

int cas_condemned_link_since(struct cas_index *ix, const char *repo, const struct cas_digest *blob,
                             uint64_t *out_unix_s, struct cas_err *err)
{
        const struct cas_condemned c = link_of(repo, blob);
        return since(ix, &c, out_unix_s, err);
}

/* ---- dead bytes of packs ---- */

int cas_pack_dead_get(struct cas_index *ix, uint64_t pack_id, uint64_t *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_pack(pack_id, &key);
        *out = 0;
        int rc = cas_index_get(ix, CAS_FAMILY_PACK_DEAD, key.bytes, key.len, &value, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        struct cas_cursor c = cas_cursor_over(value.data, value.len_bytes);
        *out = cas_cursor_varint(&c);
        return cas_cursor_end(&c, "dead bytes of a pack", err);
}

void cas_batch_put_pack_dead(struct cas_batch *b, uint64_t pack_id, uint64_t bytes)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        cas_varint_append(&value, bytes);
        if (bytes == 0)
                cas_batch_del(b, CAS_FAMILY_PACK_DEAD, key.bytes, key.len);
        else
                cas_batch_put(b, CAS_FAMILY_PACK_DEAD, key.bytes, key.len, value.data,
                              value.len_bytes);
}
