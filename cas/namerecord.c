/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/namerecord_int.h"

void cas_name_record_encode(const struct cas_name_record *rec, struct cas_buf *out)
{
        cas_buf_append_byte(out, (uint8_t)rec->kind);
        cas_text_append(out, rec->repo);
        switch (rec->kind) {
        case CAS_NAME_MANIFEST_LINK:
                cas_digest_append(out, &rec->digest);
                cas_varint_append(out, rec->number);
                cas_text_append(out, rec->media_type);
                break;
        case CAS_NAME_BLOB_LINK:
                cas_digest_append(out, &rec->digest);
                cas_varint_append(out, rec->number);
                break;
        case CAS_NAME_MANIFEST_UNLINK:
        case CAS_NAME_BLOB_UNLINK:
                cas_digest_append(out, &rec->digest);
                break;
        case CAS_NAME_TAG:
                cas_text_append(out, rec->tag);
                cas_digest_append(out, &rec->digest);
                break;
        case CAS_NAME_UNTAG:
                cas_text_append(out, rec->tag);
                break;
        case CAS_NAME_REFERRER:
        case CAS_NAME_UNREFERRER:
                cas_digest_append(out, &rec->digest);
                cas_digest_append(out, &rec->referrer);
                break;
        }
}

/* What follows the repository's name. */
static void decode_fields(struct cas_cursor *c, struct cas_name_record *out)
{
        switch (out->kind) {
        case CAS_NAME_MANIFEST_LINK:
                cas_cursor_digest(c, &out->digest);
                out->number = cas_cursor_varint(c);
                cas_cursor_text(c, out->media_type, sizeof(out->media_type));
                return;
        case CAS_NAME_BLOB_LINK:
                cas_cursor_digest(c, &out->digest);
                out->number = cas_cursor_varint(c);
                return;
        case CAS_NAME_MANIFEST_UNLINK:
        case CAS_NAME_BLOB_UNLINK:
                cas_cursor_digest(c, &out->digest);
                return;
        case CAS_NAME_TAG:
                cas_cursor_text(c, out->tag, sizeof(out->tag));
                cas_cursor_digest(c, &out->digest);
                return;
        case CAS_NAME_UNTAG:
                cas_cursor_text(c, out->tag, sizeof(out->tag));
                return;
        case CAS_NAME_REFERRER:
        case CAS_NAME_UNREFERRER:
                cas_cursor_digest(c, &out->digest);
                cas_cursor_digest(c, &out->referrer);
                return;
        }
        c->failed = true;
}

int cas_name_record_decode(struct cas_cursor *c, struct cas_name_record *out, struct cas_err *err)
{
        memset(out, 0, sizeof(*out));
        out->kind = cas_cursor_u8(c);
        cas_cursor_text(c, out->repo, sizeof(out->repo));
        decode_fields(c, out);
        bool tagged = out->kind == CAS_NAME_TAG || out->kind == CAS_NAME_UNTAG;
        if (c->failed || !cas_repo_name_valid(out->repo) || (tagged && !cas_tag_valid(out->tag)))
                return cas_fail(err, CAS_E_CORRUPT, "journal: malformed record");
        return 0;
}

enum cas_family cas_name_record_key(const struct cas_name_record *rec, struct cas_record_key *key)
{
        switch (rec->kind) {
        case CAS_NAME_MANIFEST_LINK:
        case CAS_NAME_MANIFEST_UNLINK:
                cas_key_repo_digest(rec->repo, &rec->digest, key);
                return CAS_FAMILY_MANIFESTS;
        case CAS_NAME_BLOB_LINK:
        case CAS_NAME_BLOB_UNLINK:
                cas_key_repo_digest(rec->repo, &rec->digest, key);
                return CAS_FAMILY_BLOB_LINKS;
        case CAS_NAME_TAG:
        case CAS_NAME_UNTAG:
                cas_key_tag(rec->repo, rec->tag, key);
                return CAS_FAMILY_TAGS;
        case CAS_NAME_REFERRER:
        case CAS_NAME_UNREFERRER:
                break;
        }
        cas_key_referrer(rec->repo, &rec->digest, &rec->referrer, key);
        return CAS_FAMILY_REFERRERS;
}

bool cas_name_record_value(const struct cas_name_record *rec, struct cas_buf *value)
{
        switch (rec->kind) {
        case CAS_NAME_MANIFEST_LINK:
                cas_manifest_value_encode(rec->media_type, rec->number, value);
                return true;
        case CAS_NAME_BLOB_LINK:
                cas_time_value_encode(rec->number, value);
                return true;
        case CAS_NAME_TAG:
                cas_digest_append(value, &rec->digest);
                return true;
        case CAS_NAME_REFERRER:
                return true;
        case CAS_NAME_MANIFEST_UNLINK:
        case CAS_NAME_BLOB_UNLINK:
        case CAS_NAME_UNTAG:
        case CAS_NAME_UNREFERRER:
                break;
        }
        return false;
}

void cas_name_record_apply(const struct cas_name_record *rec, struct cas_batch *batch)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        enum cas_family family = cas_name_record_key(rec, &key);
        if (cas_name_record_value(rec, &value))
                cas_batch_put(batch, family, key.bytes, key.len, value.data, value.len_bytes);
        else
                cas_batch_del(batch, family, key.bytes, key.len);
}

static int manifest_from_index(const void *value, size_t value_len, struct cas_name_record *out,
                               struct cas_err *err)
{
        struct cas_manifest_info info;
        int rc = cas_manifest_value_decode(value, value_len, &info, err);
        if (rc < 0)
                return rc;
        out->kind = CAS_NAME_MANIFEST_LINK;
        out->number = info.size_bytes;
        memcpy(out->media_type, info.media_type, sizeof(out->media_type));
        return 0;
}

int cas_name_record_from_index(enum cas_family family, const void *key, size_t key_len,
                               const void *value, size_t value_len, struct cas_name_record *out,
                               struct cas_err *err)
{
        struct cas_cursor rest;
        memset(out, 0, sizeof(*out));
        int rc = cas_key_split_repo(key, key_len, out->repo, &rest, err);
        if (rc < 0)
                return rc;
        if (!cas_repo_name_valid(out->repo))
                return cas_fail(err, CAS_E_CORRUPT, "malformed repository name");
        if (family == CAS_FAMILY_TAGS) {
                size_t len = cas_cursor_left(&rest);
                out->kind = CAS_NAME_TAG;
                if (len > CAS_TAG_BYTES_MAX)
                        return cas_fail(err, CAS_E_CORRUPT, "tag: malformed key");
                memcpy(out->tag, cas_cursor_take(&rest, len), len);
                if (strlen(out->tag) != len || !cas_tag_valid(out->tag))
                        return cas_fail(err, CAS_E_CORRUPT, "tag: malformed key");
                return cas_digest_value_decode(value, value_len, &out->digest, err);
        }
        cas_cursor_digest(&rest, &out->digest);
        if (family == CAS_FAMILY_REFERRERS)
                cas_cursor_digest(&rest, &out->referrer);
        rc = cas_cursor_end(&rest, cas_family_name(family), err);
        if (rc < 0)
                return rc;
        if (family == CAS_FAMILY_MANIFESTS)
                return manifest_from_index(value, value_len, out, err);
        if (family == CAS_FAMILY_BLOB_LINKS) {
                out->kind = CAS_NAME_BLOB_LINK;
                return cas_time_value_decode(value, value_len, &out->number, err);
        }
        cas_assert(family == CAS_FAMILY_REFERRERS);
        out->kind = CAS_NAME_REFERRER;
        return 0;
}
