/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/tagtimes.h"

#include "cas/record_int.h"
#include "cas/store_int.h"

struct record {
        struct cas_digest manifest;
        struct cas_tag_times times;
};

static int record_get(struct cas_store *s, const struct cas_record_key *key, struct record *out,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        int rc = cas_index_get(s->index, CAS_FAMILY_TAG_TIMES, key->bytes, key->len, &value, err);
        if (rc < 0)
                return rc;
        struct cas_cursor c = cas_cursor_over(value.data, value.len_bytes);
        *out = (struct record){0};
        cas_cursor_digest(&c, &out->manifest);
        out->times.pushed_unix_s = cas_cursor_varint(&c);
        out->times.pulled_unix_s = cas_cursor_varint(&c);
        return cas_cursor_end(&c, "times of a tag", err);
}

static int names_check(const char *repo, const char *tag, struct cas_err *err)
{
        if (!cas_repo_name_valid(repo) || !cas_tag_valid(tag))
                return cas_fail(err, CAS_E_INVALID, "no name of a tag: %.255s:%.128s", repo, tag);
        return 0;
}

static int note_one(struct cas_store *s, const struct cas_tag_note *note, struct cas_batch *batch,
                    struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_record_key key;
        struct record rec;
        int rc = names_check(note->repo, note->tag, err);
        if (rc < 0)
                return rc;
        cas_key_tag(note->repo, note->tag, &key);
        rc = record_get(s, &key, &rec, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND && rc != -CAS_E_CORRUPT) {
                *err = miss;
                return rc;
        }
        if (rc < 0 || !cas_digest_equal(&rec.manifest, &note->manifest))
                rec = (struct record){.manifest = note->manifest};
        struct cas_tag_times *t = &rec.times;
        t->pushed_unix_s = cas_max_u64(t->pushed_unix_s, note->times.pushed_unix_s);
        t->pulled_unix_s = cas_max_u64(t->pulled_unix_s, note->times.pulled_unix_s);
        if (t->pushed_unix_s == 0)
                t->pushed_unix_s = t->pulled_unix_s;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_digest_append(&value, &rec.manifest);
        cas_varint_append(&value, t->pushed_unix_s);
        cas_varint_append(&value, t->pulled_unix_s);
        cas_batch_put(batch, CAS_FAMILY_TAG_TIMES, key.bytes, key.len, value.data, value.len_bytes);
        return 0;
}

int cas_tag_times_note(struct cas_store *s, const struct cas_tag_note *notes, size_t count,
                       struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        for (size_t i = 0; i < count; i++) {
                int rc = note_one(s, &notes[i], batch, err);
                if (rc < 0)
                        return rc;
        }
        return cas_batch_bytes(batch) > 0 ? cas_index_write(s->index, batch, err) : 0;
}

int cas_tag_times_get(struct cas_store *s, const char *repo, const char *tag,
                      const struct cas_digest *manifest, struct cas_tag_times *out,
                      struct cas_err *err)
{
        struct cas_record_key key;
        struct record rec;
        int rc = names_check(repo, tag, err);
        if (rc < 0)
                return rc;
        cas_key_tag(repo, tag, &key);
        rc = record_get(s, &key, &rec, err);
        if (rc < 0)
                return rc;
        if (!cas_digest_equal(&rec.manifest, manifest))
                return cas_fail(err, CAS_E_NOTFOUND, "nothing is known of %s:%s as it is", repo,
                                tag);
        *out = rec.times;
        return 0;
}
