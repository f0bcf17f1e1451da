/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/names.h"

#include <xxhash.h>

#include "cas/blob.h"
#include "cas/condemned_int.h"
#include "cas/publish.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

static int check_repo(const char *repo, struct cas_err *err)
{
        if (!cas_repo_name_valid(repo))
                return cas_fail(err, CAS_E_INVALID, "invalid repository name %.255s", repo);
        return 0;
}

/* ---- single names ---- */

static int first_key(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                     struct cas_err *err CAS_UNUSED)
{
        *(bool *)arg = true;
        return 1;
}

int cas_repo_exists(struct cas_store *s, const char *repo, bool *out, struct cas_err *err)
{
        static const enum cas_family held[] = {CAS_FAMILY_MANIFESTS, CAS_FAMILY_BLOB_LINKS,
                                               CAS_FAMILY_TAGS};
        struct cas_record_key key;
        *out = false;
        if (!cas_repo_name_valid(repo))
                return 0;
        cas_key_repo(repo, &key);
        for (size_t i = 0; i < CAS_COUNT(held) && !*out; i++) {
                const struct cas_scan scan = {
                        .family = held[i], .prefix = key.bytes, .prefix_len = key.len};
                int rc = cas_index_scan(s->index, &scan, first_key, out, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* Says what is missing: `what` of a repository, or the repository. */
static int fail_missing(struct cas_store *s, const char *repo, const char *what,
                        struct cas_err *err)
{
        bool exists;
        int rc = cas_repo_exists(s, repo, &exists, err);
        if (rc < 0)
                return rc;
        if (!exists)
                return cas_fail(err, CAS_E_NOTFOUND, "no repository %s", repo);
        return cas_fail(err, CAS_E_NOTFOUND, "repository %s: no %s", repo, what);
}

int cas_tag_get(struct cas_store *s, const char *repo, const char *tag, struct cas_digest *out,
                struct cas_err *err)
{
        int rc = check_repo(repo, err);
        if (rc < 0)
                return rc;
        if (!cas_tag_valid(tag))
                return cas_fail(err, CAS_E_INVALID, "invalid tag %.128s", tag);
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_tag(repo, tag, &key);
        rc = cas_index_get(s->index, CAS_FAMILY_TAGS, key.bytes, key.len, &value, &miss);
        if (rc == -CAS_E_NOTFOUND) {
                cas_cleanup_free char *what = cas_xasprintf("tag %s", tag);
                return fail_missing(s, repo, what, err);
        }
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        return cas_digest_value_decode(value.data, value.len_bytes, out, err);
}

int cas_manifest_stat(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                      struct cas_manifest_info *out, struct cas_err *err)
{
        int rc = check_repo(repo, err);
        if (rc < 0)
                return rc;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_repo_digest(repo, digest, &key);
        rc = cas_index_get(s->index, CAS_FAMILY_MANIFESTS, key.bytes, key.len, &value, &miss);
        if (rc == -CAS_E_NOTFOUND) {
                char text[CAS_DIGEST_TEXT_BYTES];
                cas_cleanup_free char *what =
                        cas_xasprintf("manifest %s", cas_digest_text(digest, text));
                return fail_missing(s, repo, what, err);
        }
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        out->digest = *digest;
        return cas_manifest_value_decode(value.data, value.len_bytes, out, err);
}

int cas_ref_resolve(struct cas_store *s, const struct cas_ref *ref, struct cas_manifest_info *out,
                    struct cas_err *err)
{
        struct cas_digest digest = ref->digest;
        if (digest.alg == CAS_DIGEST_NONE) {
                int rc = cas_tag_get(s, ref->repo, ref->tag, &digest, err);
                if (rc < 0)
                        return rc;
        }
        return cas_manifest_stat(s, ref->repo, &digest, out, err);
}

int cas_blob_linked(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                    bool *out, struct cas_err *err)
{
        struct cas_record_key key;
        *out = false;
        if (!cas_repo_name_valid(repo))
                return 0;
        cas_key_repo_digest(repo, digest, &key);
        return cas_index_has(s->index, CAS_FAMILY_BLOB_LINKS, key.bytes, key.len, out, err);
}

int cas_blob_waits(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                   bool *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t since;
        *out = false;
        if (!cas_repo_name_valid(repo))
                return 0;
        int rc = cas_condemned_link_since(s->index, repo, digest, &since, &miss);
        *out = rc == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

int cas_blob_renew(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                   struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        bool linked = false;
        int rc = cas_publish_begin(s, &p, err);
        if (rc < 0)
                return rc;
        cas_publish_renew_links(p);
        cas_publish_keep_blob(p, digest); /* while it is linked it is here */
        rc = cas_blob_linked(s, repo, digest, &linked, err);
        if (rc < 0 || !linked)
                return rc;
        rc = cas_publish_blob_link(p, repo, digest, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static _Atomic uint64_t *generation_of(struct cas_store *s, const char *repo)
{
        return &s->names_generations[XXH3_64bits(repo, strlen(repo)) % CAS_NAMES_GENERATIONS];
}

uint64_t cas_names_generation(struct cas_store *s, const char *repo)
{
        return atomic_load(generation_of(s, repo));
}

void cas_names_changed(struct cas_store *s, const char *repo)
{
        atomic_fetch_add(generation_of(s, repo), 1);
}

/* ---- lists ---- */

static int take_repo(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                     size_t value_len CAS_UNUSED, struct cas_err *err)
{
        struct cas_cursor rest;
        int rc = cas_key_split_repo(key, key_len, arg, &rest, err);
        return rc < 0 ? rc : 1;
}

/* The first repository after `last` that has something in any family; "" when none has. */
static int next_repo(struct cas_store *s, const char *last, char out[CAS_REPO_NAME_BYTES_MAX + 1],
                     struct cas_err *err)
{
        static const enum cas_family held[] = {CAS_FAMILY_MANIFESTS, CAS_FAMILY_BLOB_LINKS,
                                               CAS_FAMILY_TAGS};
        /* Keys of `last` go on with NUL: behind them all is the name followed by \1. */
        char from[CAS_REPO_NAME_BYTES_MAX + 2];
        size_t from_len = strnlen(last, CAS_REPO_NAME_BYTES_MAX);
        memcpy(from, last, from_len);
        from[from_len++] = '\1';
        out[0] = '\0';
        for (size_t i = 0; i < CAS_COUNT(held); i++) {
                char repo[CAS_REPO_NAME_BYTES_MAX + 1] = "";
                const struct cas_scan scan = {
                        .family = held[i], .from = from, .from_len = *last ? from_len : 0};
                int rc = cas_index_scan(s->index, &scan, take_repo, repo, err);
                if (rc < 0)
                        return rc;
                if (repo[0] && (!out[0] || strcmp(repo, out) < 0))
                        memcpy(out, repo, sizeof(repo));
        }
        return 0;
}

int cas_repo_each(struct cas_store *s, const char *last, bool (*fn)(void *arg, const char *repo),
                  void *arg, struct cas_err *err)
{
        char repo[CAS_REPO_NAME_BYTES_MAX + 1] = "", next[CAS_REPO_NAME_BYTES_MAX + 1];
        int rc = next_repo(s, last ? last : "", next, err);
        while (rc == 0 && next[0] && fn(arg, next)) {
                memcpy(repo, next, sizeof(repo));
                rc = next_repo(s, repo, next, err);
        }
        return rc;
}

struct tag_scan {
        bool (*fn)(void *arg, const char *tag, const struct cas_digest *manifest);
        void *arg;
        const char *last;
};

static int scan_tag(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *err)
{
        const struct tag_scan *scan = arg;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1], tag[CAS_TAG_BYTES_MAX + 1];
        struct cas_cursor rest;
        struct cas_digest digest;
        int rc = cas_key_split_repo(key, key_len, repo, &rest, err);
        if (rc == 0)
                rc = cas_digest_value_decode(value, value_len, &digest, err);
        if (rc < 0)
                return rc;
        size_t len = cas_cursor_left(&rest);
        if (len > CAS_TAG_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "tag: malformed key");
        memcpy(tag, rest.at, len);
        tag[len] = '\0';
        if (strcmp(tag, scan->last) == 0)
                return 0;
        return scan->fn(scan->arg, tag, &digest) ? 0 : 1;
}

int cas_tag_each(struct cas_store *s, const char *repo, const char *last,
                 bool (*fn)(void *arg, const char *tag, const struct cas_digest *manifest),
                 void *arg, struct cas_err *err)
{
        int rc = check_repo(repo, err);
        if (rc < 0)
                return rc;
        char start[CAS_TAG_BYTES_MAX + 1] = "";
        if (last)
                (void)snprintf(start, sizeof(start), "%s", last);
        struct cas_record_key prefix, from;
        cas_key_repo(repo, &prefix);
        cas_key_tag(repo, start, &from);
        struct tag_scan tags = {.fn = fn, .arg = arg, .last = start};
        const struct cas_scan scan = {.family = CAS_FAMILY_TAGS,
                                      .prefix = prefix.bytes,
                                      .prefix_len = prefix.len,
                                      .from = from.bytes,
                                      .from_len = from.len};
        return cas_index_scan(s->index, &scan, scan_tag, &tags, err);
}

struct manifest_scan {
        bool (*fn)(void *arg, const struct cas_manifest_info *m);
        void *arg;
};

static int scan_manifest(void *arg, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *err)
{
        const struct manifest_scan *scan = arg;
        struct cas_manifest_info info;
        int rc = cas_manifest_entry_decode(key, key_len, value, value_len, &info, err);
        if (rc < 0)
                return rc;
        return scan->fn(scan->arg, &info) ? 0 : 1;
}

int cas_manifest_each(struct cas_store *s, const char *repo,
                      bool (*fn)(void *arg, const struct cas_manifest_info *m), void *arg,
                      struct cas_err *err)
{
        int rc = check_repo(repo, err);
        if (rc < 0)
                return rc;
        struct cas_record_key prefix;
        cas_key_repo(repo, &prefix);
        struct manifest_scan manifests = {.fn = fn, .arg = arg};
        const struct cas_scan scan = {
                .family = CAS_FAMILY_MANIFESTS, .prefix = prefix.bytes, .prefix_len = prefix.len};
        return cas_index_scan(s->index, &scan, scan_manifest, &manifests, err);
}

/* Keys that go on with a digest. */
struct digest_scan {
        bool (*fn)(void *arg, const struct cas_digest *digest);
        void *arg;
        size_t prefix_len;
};

static int scan_digest(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *err)
{
        const struct digest_scan *scan = arg;
        struct cas_digest digest;
        struct cas_cursor c = cas_cursor_over((const uint8_t *)key + scan->prefix_len,
                                              key_len - scan->prefix_len);
        cas_cursor_digest(&c, &digest);
        int rc = cas_cursor_end(&c, "names", err);
        if (rc < 0)
                return rc;
        return scan->fn(scan->arg, &digest) ? 0 : 1;
}

int cas_referrer_each(struct cas_store *s, const char *repo, const struct cas_digest *subject,
                      bool (*fn)(void *arg, const struct cas_digest *referrer), void *arg,
                      struct cas_err *err)
{
        int rc = check_repo(repo, err);
        if (rc < 0)
                return rc;
        struct cas_record_key prefix;
        cas_key_repo_digest(repo, subject, &prefix);
        struct digest_scan referrers = {.fn = fn, .arg = arg, .prefix_len = prefix.len};
        const struct cas_scan scan = {
                .family = CAS_FAMILY_REFERRERS, .prefix = prefix.bytes, .prefix_len = prefix.len};
        return cas_index_scan(s->index, &scan, scan_digest, &referrers, err);
}

int cas_blob_link_each(struct cas_store *s, const char *repo,
                       bool (*fn)(void *arg, const struct cas_digest *blob), void *arg,
                       struct cas_err *err)
{
        int rc = check_repo(repo, err);
        if (rc < 0)
                return rc;
        struct cas_record_key prefix;
        cas_key_repo(repo, &prefix);
        struct digest_scan blobs = {.fn = fn, .arg = arg, .prefix_len = prefix.len};
        const struct cas_scan scan = {
                .family = CAS_FAMILY_BLOB_LINKS, .prefix = prefix.bytes, .prefix_len = prefix.len};
        return cas_index_scan(s->index, &scan, scan_digest, &blobs, err);
}
