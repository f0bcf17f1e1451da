/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/shared_int.h"

#include <fcntl.h>
#include <xxhash.h>

#include "cas/blobstream.h"
#include "cas/image.h"
#include "cas/namerecord_int.h"

#define SHARED_STRIPES 64

void cas_shared_init(struct cas_store *s)
{
        s->shared_names = cas_xcalloc(SHARED_STRIPES, sizeof(*s->shared_names));
        for (size_t i = 0; i < SHARED_STRIPES; i++)
                cas_mutex_init(&s->shared_names[i], "shared.names");
}

void cas_shared_release(struct cas_store *s)
{
        for (size_t i = 0; i < SHARED_STRIPES; i++)
                cas_mutex_release(&s->shared_names[i]);
        free(s->shared_names);
}

struct cas_shared *cas_store_shared(const struct cas_store *s)
{
        return s->shared;
}

static struct cas_mutex *stripe_of(struct cas_store *s, const char *repo)
{
        return &s->shared_names[XXH3_64bits(repo, strlen(repo)) % SHARED_STRIPES];
}

/* ---- publications ---- */

static void name_of(const struct cas_name_record *rec, struct cas_shared_name *out)
{
        static const enum cas_shared_change changes[] = {
                [CAS_NAME_MANIFEST_LINK] = CAS_SHARED_LINK_MANIFEST,
                [CAS_NAME_MANIFEST_UNLINK] = CAS_SHARED_UNLINK_MANIFEST,
                [CAS_NAME_BLOB_LINK] = CAS_SHARED_LINK_BLOB,
                [CAS_NAME_BLOB_UNLINK] = CAS_SHARED_UNLINK_BLOB,
                [CAS_NAME_TAG] = CAS_SHARED_TAG,
                [CAS_NAME_UNTAG] = CAS_SHARED_UNTAG,
                [CAS_NAME_REFERRER] = CAS_SHARED_REFERRER,
        };
        cas_assert(rec->kind < CAS_COUNT(changes)); /* no publication takes a referrer away */
        *out = (struct cas_shared_name){.change = changes[rec->kind],
                                        .digest = rec->digest,
                                        .referrer = rec->referrer,
                                        .size_bytes = rec->number};
        memcpy(out->repo, rec->repo, sizeof(out->repo));
        memcpy(out->tag, rec->tag, sizeof(out->tag));
        memcpy(out->media_type, rec->media_type, sizeof(out->media_type));
}

static const struct cas_staged_blob *find_staged(const struct cas_shared_plan *plan,
                                                 const struct cas_digest *blob)
{
        for (size_t i = 0; i < plan->staged_count; i++) {
                if (cas_digest_equal(&plan->staged[i].digest, blob))
                        return &plan->staged[i];
        }
        return NULL;
}

struct file_source {
        struct cas_store *s;
        int fd;
        uint64_t at;
};

static int file_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct file_source *f = arg;
        int rc = cas_io_pread(f->s->io, f->fd, buf, len, f->at, out_len, "blob", err);
        if (rc == 0)
                f->at += *out_len;
        return rc;
}

static int put_staged(struct cas_store *s, const struct cas_staged_blob *blob, struct cas_err *err)
{
        struct file_source f = {.s = s, .fd = -1};
        int rc = cas_io_open(s->io, s->dirfd, blob->path, O_RDONLY, 0, &f.fd, err);
        if (rc < 0)
                return rc;
        rc = s->shared->ops->blob_put(s->shared, &blob->digest, blob->size_bytes, file_read, &f,
                                      err);
        (void)s->io->ops->close(s->io->ctx, f.fd);
        return rc;
}

static int put_stored(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        int rc = cas_blob_stream_open(s, blob, 0, UINT64_MAX, true, &st, err);
        if (rc < 0)
                return rc;
        return s->shared->ops->blob_put(s->shared, blob, cas_blob_stream_left(st),
                                        cas_blob_stream_read, st, err);
}

/* The blob is with all nodes. */
static int share_blob(struct cas_store *s, const struct cas_shared_plan *plan,
                      const struct cas_digest *blob, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t bytes;
        int rc = s->shared->ops->blob_hold(s->shared, blob, &bytes, &miss);
        if (rc == 0)
                return 0;
        if (rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        const struct cas_staged_blob *staged = find_staged(plan, blob);
        return staged ? put_staged(s, staged, err) : put_stored(s, blob, err);
}

/* Whether this node's own index is to be told of it. */
static int is_for_here(struct cas_store *s, const struct cas_shared_plan *plan,
                       const struct cas_name_record *rec, bool *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        *out = true;
        if (rec->kind != CAS_NAME_BLOB_LINK || find_staged(plan, &rec->digest))
                return 0;
        int rc = cas_blob_stat(s, &rec->digest, NULL, &miss);
        *out = rc == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

struct shared_work {
        struct cas_shared_name *list; /* owned */
        size_t count;
        struct cas_buf here; /* records for this node */
        uint32_t here_count;
        const char *ordered_repo; /* whose tags change; borrowed from list */
};

static int collect_names(struct cas_store *s, const struct cas_shared_plan *plan,
                         struct shared_work *w, struct cas_err *err)
{
        struct cas_cursor at = cas_cursor_over(plan->names->data, plan->names->len_bytes);
        cas_cleanup_free struct cas_name_record *rec = cas_xmalloc(sizeof(*rec));
        w->list = cas_xcalloc(*plan->count, sizeof(*w->list));
        for (uint32_t i = 0; i < *plan->count; i++) {
                struct cas_shared_name *name = &w->list[w->count++];
                bool here;
                int rc = cas_name_record_decode(&at, rec, err);
                if (rc == 0)
                        rc = is_for_here(s, plan, rec, &here, err);
                if (rc < 0)
                        return rc;
                name_of(rec, name);
                if (here) {
                        cas_name_record_encode(rec, &w->here);
                        w->here_count++;
                }
                if (name->change == CAS_SHARED_TAG || name->change == CAS_SHARED_UNTAG ||
                    name->change == CAS_SHARED_UNLINK_MANIFEST)
                        w->ordered_repo = name->repo;
        }
        return 0;
}

static int share_blobs(struct cas_store *s, const struct cas_shared_plan *plan,
                       const struct shared_work *w, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < w->count; i++) {
                if (w->list[i].change == CAS_SHARED_LINK_BLOB ||
                    w->list[i].change == CAS_SHARED_LINK_MANIFEST)
                        rc = share_blob(s, plan, &w->list[i].digest, err);
        }
        return rc;
}

int cas_shared_publish(struct cas_store *s, struct cas_shared_plan *plan, struct cas_err *err)
{
        struct shared_work w = {.here = CAS_BUF_INIT};
        int rc = collect_names(s, plan, &w, err);
        if (rc == 0)
                rc = share_blobs(s, plan, &w, err);
        if (rc == 0 && w.ordered_repo) {
                plan->ordered = stripe_of(s, w.ordered_repo);
                cas_mutex_lock(plan->ordered);
        }
        const struct cas_shared_names names = {.list = w.list,
                                               .count = w.count,
                                               .guard = plan->guard,
                                               .guard_arg = plan->guard_arg};
        if (rc == 0)
                rc = s->shared->ops->publish(s->shared, &names, err);
        if (rc == 0) {
                cas_buf_clear(plan->names);
                cas_buf_append(plan->names, w.here.data, w.here.len_bytes);
                *plan->count = w.here_count;
        }
        cas_buf_release(&w.here);
        free(w.list);
        return rc;
}

/* ---- learning ---- */

struct bytes_sink {
        struct cas_buf *out;
        size_t max_bytes;
};

static int take_bytes(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct bytes_sink *sink = arg;
        if (len > sink->max_bytes - sink->out->len_bytes)
                return cas_fail(err, CAS_E_LIMIT, "more than %zu bytes", sink->max_bytes);
        cas_buf_append(sink->out, data, len);
        return 0;
}

/* One change that is known to be so already. Absent is success. */
static int forget(struct cas_store *s, const char *repo, const char *tag,
                  const struct cas_digest *manifest, const struct cas_digest *blob,
                  struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(s, &p, err);
        if (rc < 0)
                return rc;
        cas_publish_learned(p);
        if (tag)
                rc = cas_publish_untag(p, repo, tag, err);
        else if (manifest)
                rc = cas_publish_manifest_unlink(p, repo, manifest, err);
        else
                rc = cas_publish_blob_unlink(p, repo, blob, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static int forget_known(struct cas_store *s, const char *repo, const struct cas_digest *manifest,
                        struct cas_err *err)
{
        struct cas_manifest_info info;
        struct cas_err ignored = CAS_ERR_INIT;
        if (cas_manifest_stat(s, repo, manifest, &info, &ignored) < 0)
                return 0;
        return forget(s, repo, NULL, manifest, NULL, err);
}

/* A manifest that is in the repository, with its bytes. */
static int bring_manifest(struct cas_store *s, const char *repo, const struct cas_digest *manifest,
                          struct cas_err *err)
{
        struct cas_shared *sh = s->shared;
        struct cas_manifest_info info = {0}, known;
        struct cas_err miss = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct bytes_sink sink = {.out = &bytes, .max_bytes = CAS_MANIFEST_BYTES_MAX};
        int rc = sh->ops->manifest_get(sh, repo, manifest, &info, &miss);
        if (rc == -CAS_E_NOTFOUND && forget_known(s, repo, manifest, err) < 0)
                return -(int)err->code;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (cas_manifest_stat(s, repo, manifest, &known, &miss) == 0 &&
            cas_blob_stat(s, manifest, NULL, &miss) == 0)
                return 0;
        rc = sh->ops->blob_read(sh, manifest, take_bytes, &sink, err);
        const struct cas_manifest_put_options options = {
                .repo = repo,
                .media_type = info.media_type,
                .expected = manifest,
                .allow_sparse = true,
                .linked_only = true,
                .allow_absent = true,
                .learned = true,
        };
        if (rc == 0)
                rc = cas_manifest_put(s, &options, bytes.data, bytes.len_bytes, NULL, err);
        return rc;
}

static int learn_tag_locked(struct cas_store *s, const char *repo, const char *tag,
                            struct cas_err *err)
{
        struct cas_shared *sh = s->shared;
        struct cas_digest digest, known;
        struct cas_err miss = CAS_ERR_INIT, ignored = CAS_ERR_INIT;
        bool here = cas_tag_get(s, repo, tag, &known, &ignored) == 0;
        int rc = sh->ops->tag_get(sh, repo, tag, &digest, &miss);
        if (rc == 0)
                rc = bring_manifest(s, repo, &digest, &miss);
        if (rc == -CAS_E_NOTFOUND && here && forget(s, repo, tag, NULL, NULL, err) < 0)
                return -(int)err->code;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (here && cas_digest_equal(&known, &digest))
                return 0;
        cas_cleanup_publish struct cas_publish *p = NULL;
        rc = cas_publish_begin(s, &p, err);
        if (rc < 0)
                return rc;
        cas_publish_learned(p);
        rc = cas_publish_tag(p, repo, tag, &digest, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

int cas_shared_learn_manifest(struct cas_store *s, const char *repo, const char *ref,
                              struct cas_err *err)
{
        struct cas_digest digest;
        struct cas_err ignored = CAS_ERR_INIT;
        if (!s->shared)
                return 0;
        if (!cas_repo_name_valid(repo))
                return cas_fail(err, CAS_E_NOTFOUND, "no repository %.255s", repo);
        if (cas_digest_parse(ref, &digest, &ignored) == 0)
                return bring_manifest(s, repo, &digest, err);
        if (!cas_tag_valid(ref))
                return cas_fail(err, CAS_E_NOTFOUND, "repository %s: no tag %.128s", repo, ref);
        struct cas_mutex *ordered = stripe_of(s, repo);
        cas_mutex_lock(ordered);
        int rc = learn_tag_locked(s, repo, ref, err);
        cas_mutex_unlock(ordered);
        return rc;
}

int cas_shared_learn_blob(struct cas_store *s, const char *repo, const struct cas_digest *blob,
                          bool *here, uint64_t *out_bytes, struct cas_err *err)
{
        struct cas_shared *sh = s->shared;
        struct cas_err miss = CAS_ERR_INIT;
        bool linked = false;
        int rc = cas_blob_linked(s, repo, blob, &linked, err);
        if (rc < 0)
                return rc;
        *here = cas_blob_stat(s, blob, out_bytes, &miss) == 0;
        if (!sh)
                return *here && linked ? 0 : cas_fail(err, CAS_E_NOTFOUND, "no such blob");
        miss = (struct cas_err)CAS_ERR_INIT;
        rc = sh->ops->link_get(sh, repo, blob, false, out_bytes, &miss);
        if (rc == -CAS_E_NOTFOUND && linked && forget(s, repo, NULL, NULL, blob, err) < 0)
                return -(int)err->code;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (linked || !*here)
                return 0;
        cas_cleanup_publish struct cas_publish *p = NULL;
        rc = cas_publish_begin(s, &p, err);
        if (rc < 0)
                return rc;
        cas_publish_learned(p);
        rc = cas_publish_blob_link(p, repo, blob, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

int cas_shared_hold_blob(struct cas_store *s, const char *repo, const struct cas_digest *blob,
                         uint64_t *out_bytes, struct cas_err *err)
{
        bool linked;
        if (s->shared)
                return s->shared->ops->link_get(s->shared, repo, blob, true, out_bytes, err);
        int rc = cas_blob_linked(s, repo, blob, &linked, err);
        if (rc == 0 && !linked)
                rc = cas_fail(err, CAS_E_NOTFOUND, "repository %s: no such blob", repo);
        return rc < 0 ? rc : cas_blob_stat(s, blob, out_bytes, err);
}

/* ---- referrers ---- */

struct found_referrers {
        struct cas_digest *list; /* owned */
        size_t count;
};

static bool referrer_seen(void *arg, const struct cas_digest *referrer)
{
        struct found_referrers *f = arg;
        if ((f->count & (f->count - 1)) == 0)
                f->list = cas_xrealloc(f->list, (f->count ? 2 * f->count : 1) * sizeof(*f->list));
        f->list[f->count++] = *referrer;
        return f->count < CAS_INDEX_CHILDREN_MAX;
}

int cas_shared_learn_referrers(struct cas_store *s, const char *repo,
                               const struct cas_digest *subject, struct cas_err *err)
{
        struct cas_shared *sh = s->shared;
        struct found_referrers there = {0}, here = {0};
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!sh)
                return 0;
        int rc = sh->ops->referrer_each(sh, repo, subject, referrer_seen, &there, err);
        if (rc == 0) /* those that are gone are found to be so */
                rc = cas_referrer_each(s, repo, subject, referrer_seen, &here, err);
        for (size_t i = 0; rc == 0 && i < there.count + here.count; i++) {
                const struct cas_digest *d =
                        i < there.count ? &there.list[i] : &here.list[i - there.count];
                struct cas_err miss = CAS_ERR_INIT;
                rc = cas_shared_learn_manifest(s, repo, cas_digest_text(d, text), &miss);
                if (rc == -CAS_E_NOTFOUND)
                        rc = 0;
                else if (rc < 0)
                        *err = miss;
        }
        free(there.list);
        free(here.list);
        return rc;
}
