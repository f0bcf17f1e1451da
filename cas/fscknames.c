/* SPDX-License-Identifier: Apache-2.0 */
/* fsck: what names refer to, and the journal against the index. */
#include <stdio.h>
#include <xxhash.h>

#include "cas/blob.h"
#include "cas/commit_int.h"
#include "cas/fsck_int.h"
#include "cas/image.h"
#include "cas/map.h"

/* ---- manifests ---- */

static int has_blob(struct cas_fsck_run *run, const struct cas_digest *digest, bool *out,
                    struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_digest(digest, &key);
        int rc = cas_index_has(run->s->index, CAS_FAMILY_BLOBS, key.bytes, key.len, out, err);
        if (rc == 0 && !*out) /* told of as such */
                rc = cas_index_has(run->s->index, CAS_FAMILY_ELSEWHERE, key.bytes, key.len, out,
                                   err);
        return rc;
}

/* A blob that a manifest names: lost, unless the repository never had it: images of a cache come in
 * pieces, and a client may have deleted a blob. */
static int check_reference(struct cas_fsck_run *run, const char *subject, const char *repo,
                           const struct cas_descriptor *d, struct cas_err *err)
{
        bool here, linked = true;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = has_blob(run, &d->digest, &here, err);
        if (rc == 0 && !here)
                rc = cas_blob_linked(run->s, repo, &d->digest, &linked, err);
        if (rc == 0 && !here && linked && !d->foreign)
                cas_fsck_say(run, CAS_FSCK_MANIFEST_REFERENCE, subject, "%s",
                             cas_digest_text(&d->digest, text));
        return rc;
}

static int check_manifest_bytes(struct cas_fsck_run *run, const char *subject,
                                const struct cas_name_record *rec, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_blob_read(run->s, &rec->digest, CAS_MANIFEST_BYTES_MAX, &bytes, &bad);
        if (rc == 0)
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, rec->media_type, &m, &bad);
        if (rc < 0) {
                cas_fsck_say(run, CAS_FSCK_MANIFEST_MALFORMED, subject, "%s", bad.msg);
                return 0;
        }
        if (m.kind == CAS_MANIFEST_INDEX)
                return 0; /* children may be absent */
        rc = check_reference(run, subject, rec->repo, &m.config, err);
        for (size_t i = 0; rc == 0 && i < m.child_count; i++)
                rc = check_reference(run, subject, rec->repo, &m.children[i], err);
        return rc;
}

static int check_manifest(struct cas_fsck_run *run, const char *subject,
                          const struct cas_name_record *rec, struct cas_err *err)
{
        bool here;
        run->out->manifests++;
        int rc = has_blob(run, &rec->digest, &here, err);
        if (rc < 0)
                return rc;
        if (!here)
                cas_fsck_say(run, CAS_FSCK_MANIFEST_BLOB, subject, "%s", "");
        else if (cas_media_type_is_manifest(rec->media_type))
                rc = check_manifest_bytes(run, subject, rec, err);
        return rc;
}

/* ---- names of the index ---- */

static int check_linked(struct cas_fsck_run *run, const char *repo, const struct cas_digest *digest,
                        bool *out, struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_repo_digest(repo, digest, &key);
        return cas_index_has(run->s->index, CAS_FAMILY_MANIFESTS, key.bytes, key.len, out, err);
}

static int check_name(struct cas_fsck_run *run, const struct cas_name_record *rec,
                      struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *subject = cas_xasprintf(
                "%s%s%s@%s", rec->repo, rec->tag[0] ? ":" : "", rec->tag,
                cas_digest_text(rec->kind == CAS_NAME_REFERRER ? &rec->referrer : &rec->digest,
                                text));
        bool good = true;
        int rc = 0;
        switch (rec->kind) {
        case CAS_NAME_MANIFEST_LINK:
                rc = check_manifest(run, subject, rec, err);
                break;
        case CAS_NAME_BLOB_LINK:
                rc = has_blob(run, &rec->digest, &good, err);
                if (rc == 0 && !good)
                        cas_fsck_say(run, CAS_FSCK_BLOB_LINK, subject, "%s", "");
                break;
        case CAS_NAME_TAG:
                rc = check_linked(run, rec->repo, &rec->digest, &good, err);
                if (rc == 0 && !good)
                        cas_fsck_say(run, CAS_FSCK_TAG_MANIFEST, subject, "%s", "");
                break;
        case CAS_NAME_REFERRER:
                rc = check_linked(run, rec->repo, &rec->referrer, &good, err);
                if (rc == 0 && !good)
                        cas_fsck_say(run, CAS_FSCK_REFERRER_MANIFEST, subject, "%s", "");
                break;
        case CAS_NAME_MANIFEST_UNLINK:
        case CAS_NAME_BLOB_UNLINK:
        case CAS_NAME_UNTAG:
        case CAS_NAME_UNREFERRER:
                break; /* not in the index */
        }
        return rc;
}

/* ---- the journal ---- */

/* Names by the journal: family byte and key -> hash of the value, never 0; removed when the index
 * has the same. */
struct names {
        struct cas_fsck_run *run;
        struct cas_map *journal;
        enum cas_family family;
};

static uint64_t value_hash(const void *value, size_t len)
{
        uint64_t h = XXH3_64bits(value, len);
        return h ? h : 1;
}

static size_t full_key(enum cas_family family, const void *key, size_t len,
                       uint8_t out[1 + CAS_RECORD_KEY_BYTES_MAX])
{
        len = cas_min_u64(len, CAS_RECORD_KEY_BYTES_MAX);
        out[0] = (uint8_t)family;
        memcpy(out + 1, key, len);
        return 1 + len;
}

static int take_record(void *arg, const struct cas_name_record *rec, struct cas_err *err CAS_UNUSED)
{
        const struct names *names = arg;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        uint8_t full[1 + CAS_RECORD_KEY_BYTES_MAX];
        enum cas_family family = cas_name_record_key(rec, &key);
        size_t len = full_key(family, key.bytes, key.len, full);
        if (cas_name_record_value(rec, &value))
                *cas_map_put(names->journal, full, len, NULL) =
                        value_hash(value.data, value.len_bytes);
        else
                (void)cas_map_remove(names->journal, full, len);
        return 0;
}

static int check_name_entry(void *arg, const void *key, size_t key_len, const void *value,
                            size_t value_len, struct cas_err *err)
{
        const struct names *names = arg;
        struct cas_fsck_run *run = names->run;
        struct cas_name_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        uint8_t full[1 + CAS_RECORD_KEY_BYTES_MAX];
        run->out->names++;
        if (cas_name_record_from_index(names->family, key, key_len, value, value_len, &rec,
                                       &malformed) < 0) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, cas_family_name(names->family), "%s",
                             malformed.msg);
                return 0;
        }
        size_t len = full_key(names->family, key, key_len, full);
        const uint64_t *hash = cas_map_get(names->journal, full, len);
        if (!hash || *hash != value_hash(value, value_len))
                cas_fsck_say(run, CAS_FSCK_JOURNAL_DIFFERS, rec.repo, "%s: %s in the journal",
                             cas_family_name(names->family), hash ? "another value" : "not");
        (void)cas_map_remove(names->journal, full, len);
        return check_name(run, &rec, err);
}

static void tell_journal_only(void *arg, const void *key, size_t key_len, uint64_t value CAS_UNUSED)
{
        const struct names *names = arg;
        const uint8_t *full = key;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        (void)snprintf(repo, sizeof(repo), "%.*s", (int)cas_min_u64(key_len - 1, sizeof(repo) - 1),
                       (const char *)full + 1);
        cas_fsck_say(names->run, CAS_FSCK_JOURNAL_DIFFERS, repo, "%s: only in the journal",
                     cas_family_name(full[0]));
}

int cas_fsck_names(struct cas_fsck_run *run, struct cas_err *err)
{
        static const enum cas_family named[] = {CAS_FAMILY_MANIFESTS, CAS_FAMILY_BLOB_LINKS,
                                                CAS_FAMILY_TAGS, CAS_FAMILY_REFERRERS};
        cas_cleanup_map struct cas_map *journal = cas_map_new();
        struct names names = {.run = run, .journal = journal};
        struct cas_err bad = CAS_ERR_INIT;
        uint64_t bad_offset = 0;
        int rc = cas_journal_replay(run->s->journal, take_record, &names, &bad_offset, &bad);
        if (rc < 0)
                cas_fsck_say(run, CAS_FSCK_JOURNAL_DAMAGED, "journal", "%s", bad.msg);
        else if (bad_offset)
                cas_fsck_say(run, CAS_FSCK_JOURNAL_DAMAGED, "journal", "at byte %llu",
                             (unsigned long long)bad_offset);
        for (size_t i = 0; i < CAS_COUNT(named); i++) {
                names.family = named[i];
                rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = named[i]},
                                    check_name_entry, &names, err);
                if (rc < 0)
                        return rc;
        }
        cas_map_each(journal, tell_journal_only, &names);
        return 0;
}
