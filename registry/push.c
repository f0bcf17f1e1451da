/* SPDX-License-Identifier: Apache-2.0 */
/* Push and copy: the plan from the store or from a registry, blobs side by side, then the
 * documents, children before what names them. */
#include <stdatomic.h>

#include "cas/blob.h"
#include "cas/blobstream.h"
#include "cas/elsewhere.h"
#include "cas/limits.h"
#include "registry/blobwork.h"
#include "registry/deliver.h"
#include "registry/pull.h"

struct push {
        struct cas_publish *keep; /* what is pushed, of a store of ours; NULL: none */
        struct reg_deliver deliver;
        struct reg_plan plan;
        struct reg_board board;
        _Atomic bool stop;
        struct reg_transfer_result result;
};

/* ---- where bytes come from ---- */

static int store_open(void *arg, const struct reg_plan_blob *b, uint64_t offset, void **stream,
                      struct cas_err *err)
{
        struct cas_blob_stream *st;
        if (cas_layer_is_elsewhere(arg, &b->digest) &&
            cas_elsewhere_complete(arg, &b->digest, NULL, err) < 0)
                return -(int)err->code;
        if (cas_blob_stream_open(arg, &b->digest, offset, UINT64_MAX, true, &st, err) < 0)
                return -(int)err->code;
        *stream = st;
        return 0;
}

static void store_close(void *stream)
{
        cas_blob_stream_close(stream);
}

struct remote_source {
        struct reg_remote *remote;
        const char *repo;
};

/* A foreign layer may be at its URLs alone. */
static int open_urls(struct reg_remote *r, const struct reg_plan_blob *b, uint64_t offset,
                     struct reg_remote_blob **out)
{
        struct cas_err unused = CAS_ERR_INIT;
        for (char **url = b->urls; url && *url; url++) {
                if (reg_remote_blob_open_url(r, *url, offset, out, NULL, NULL, &unused) == 0)
                        return 0;
        }
        return -CAS_E_NOTFOUND;
}

static int remote_open(void *arg, const struct reg_plan_blob *b, uint64_t offset, void **stream,
                       struct cas_err *err)
{
        const struct remote_source *source = arg;
        struct reg_remote_blob *blob = NULL;
        struct cas_err why = CAS_ERR_INIT;
        uint64_t bytes = UINT64_MAX;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = reg_remote_blob_open(source->remote, source->repo, &b->digest, offset, &blob,
                                      &bytes, NULL, &why);
        if (rc == -CAS_E_NOTFOUND && open_urls(source->remote, b, offset, &blob) == 0)
                rc = 0;
        if (rc < 0) {
                *err = why;
                return rc;
        }
        *stream = blob;
        if (bytes == UINT64_MAX || bytes == b->size_bytes)
                return 0;
        reg_remote_blob_close(blob);
        *stream = NULL;
        return cas_fail(err, CAS_E_CORRUPT, "%s has %llu bytes, where %llu are said",
                        cas_digest_text(&b->digest, text), (unsigned long long)bytes,
                        (unsigned long long)b->size_bytes);
}

static void remote_close(void *stream)
{
        reg_remote_blob_close(stream);
}

/* ---- blobs ---- */

static int push_blob(void *arg, const struct reg_plan_blob *blob, struct reg_board_part *part,
                     enum reg_blobwork_end *end, struct cas_err *err)
{
        struct push *p = arg;
        struct cas_err why = CAS_ERR_INIT;
        enum reg_deliver_how how = REG_DELIVER_THERE;
        int rc = reg_deliver_blob(&p->deliver, blob, part, &how, &why);
        *end = how == REG_DELIVER_SENT      ? REG_BLOBWORK_MOVED
               : how == REG_DELIVER_MOUNTED ? REG_BLOBWORK_MOUNTED
                                            : REG_BLOBWORK_REUSED;
        if (rc == -CAS_E_NOTFOUND && blob->foreign) {
                *end = REG_BLOBWORK_LEFT_OUT;
                return 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

static int push_blobs(struct push *p, unsigned jobs, struct cas_err *err)
{
        const struct reg_blobwork work = {.plan = &p->plan,
                                          .board = &p->board,
                                          .jobs = jobs,
                                          .stop = &p->stop,
                                          .one = push_blob,
                                          .arg = p};
        return reg_blobwork_run(&work, &p->result, err);
}

static int push_documents(struct push *p, const char *tag, struct cas_err *err)
{
        for (size_t i = 0; i < p->plan.doc_count; i++) {
                const struct reg_plan_doc *doc = &p->plan.docs[i];
                char text[CAS_DIGEST_TEXT_BYTES];
                bool top = cas_digest_equal(&doc->info.digest, &p->result.info.digest);
                const char *reference =
                        top && tag[0] ? tag : cas_digest_text(&doc->info.digest, text);
                if (reg_deliver_document(&p->deliver, doc, reference, NULL, err) < 0)
                        return -(int)err->code;
                p->result.documents++;
        }
        return 0;
}

static int push_plan(struct push *p, const char *tag, const struct reg_transfer_options *options,
                     struct cas_err *err)
{
        int rc = push_blobs(p, options->jobs ? options->jobs : REG_TRANSFER_JOBS, err);
        return rc < 0 ? rc : push_documents(p, tag, err);
}

static struct push *push_new(struct reg_remote *to, const char *repo,
                             const struct reg_deliver_source *source,
                             const struct reg_transfer_options *options, const char *what)
{
        struct push *p = cas_xcalloc(1, sizeof(*p));
        p->deliver = (struct reg_deliver){
                .remote = to, .repo = repo, .source = source, .stop = &p->stop};
        reg_board_init(&p->board, options->progress, what);
        return p;
}

static void push_free(struct push *p)
{
        cas_publish_free(p->keep);
        reg_board_release(&p->board);
        reg_plan_release(&p->plan);
        free(p);
}

/* ---- push ---- */

static int store_doc_read(void *arg, const struct cas_digest *digest, struct cas_buf *out,
                          struct cas_err *err)
{
        return cas_blob_read(arg, digest, CAS_MANIFEST_BYTES_MAX, out, err);
}

struct referrers {
        struct cas_digest *digests; /* owned */
        size_t count;
};

static bool add_referrer(void *arg, const struct cas_digest *referrer)
{
        struct referrers *r = arg;
        if ((r->count & (r->count - 1)) == 0)
                r->digests = cas_xrealloc(r->digests,
                                          (r->count ? r->count * 2 : 1) * sizeof(*r->digests));
        r->digests[r->count++] = *referrer;
        return r->count < REG_PLAN_DOCS_MAX;
}

static int plan_referrers(struct push *p, struct cas_store *s, const char *repo,
                          const struct reg_plan_source *source, struct cas_err *err)
{
        struct referrers list = {0};
        int rc = cas_referrer_each(s, repo, &p->result.info.digest, add_referrer, &list, err);
        for (size_t i = 0; rc == 0 && i < list.count; i++) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                struct cas_manifest_info info;
                cas_publish_keep_blob(p->keep, &list.digests[i]);
                rc = cas_manifest_stat(s, repo, &list.digests[i], &info, err);
                if (rc == 0)
                        rc = store_doc_read(s, &info.digest, &bytes, err);
                if (rc == 0)
                        rc = reg_plan_add(&p->plan, source, &info, &bytes, err);
        }
        free(list.digests);
        return rc;
}

/* What the reference names, once that is kept: a tag may have been moved before. */
static int keep_image(struct push *p, struct cas_store *s, const struct cas_ref *ref,
                      struct cas_err *err)
{
        struct cas_digest kept = {0};
        int rc = cas_publish_begin(s, &p->keep, err);
        while (rc == 0) {
                rc = cas_ref_resolve(s, ref, &p->result.info, err);
                if (rc < 0 || cas_digest_equal(&p->result.info.digest, &kept))
                        break;
                kept = p->result.info.digest;
                cas_publish_keep_blob(p->keep, &kept);
        }
        return rc;
}

static int plan_of_store(struct push *p, struct cas_store *s, const struct cas_ref *ref,
                         const struct reg_transfer_options *options, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct reg_plan_source source = {
                .read = store_doc_read, .arg = s, .platform = options->platform};
        struct cas_manifest_info *info = &p->result.info;
        if (keep_image(p, s, ref, err) < 0 || store_doc_read(s, &info->digest, &bytes, err) < 0 ||
            reg_plan_add(&p->plan, &source, info, &bytes, err) < 0)
                return -(int)err->code;
        source.platform = NULL;
        return options->referrers ? plan_referrers(p, s, ref->repo, &source, err) : 0;
}

int reg_push(struct cas_store *s, const struct cas_ref *ref, struct reg_remote *to,
             const char *repo, const char *tag, const struct reg_transfer_options *options,
             struct reg_transfer_result *out, struct cas_err *err)
{
        const struct reg_deliver_source source = {
                .open = store_open, .read = cas_blob_stream_read, .close = store_close, .arg = s};
        struct push *p = push_new(to, repo, &source, options, "push");
        int rc = plan_of_store(p, s, ref, options, err);
        if (rc == 0)
                rc = push_plan(p, tag, options, err);
        p->result.moved_bytes = reg_board_moved(&p->board);
        *out = p->result;
        push_free(p);
        return rc;
}

/* ---- copy ---- */

static int plan_of_remote(struct push *p, struct reg_remote *from, const char *repo,
                          const char *reference, const struct reg_transfer_options *options,
                          struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct reg_remote_docs docs = {.remote = from, .repo = repo};
        struct reg_plan_source source = {
                .read = reg_remote_doc_read, .arg = &docs, .platform = options->platform};
        struct cas_manifest_info *info = &p->result.info;
        if (reg_remote_manifest(from, repo, reference, NULL, &bytes, info, NULL, NULL, err) < 0 ||
            reg_plan_add(&p->plan, &source, info, &bytes, err) < 0)
                return -(int)err->code;
        if (!options->referrers)
                return 0;
        return reg_plan_add_referrers(&p->plan, from, repo, &info->digest, NULL, err);
}

int reg_copy(struct reg_remote *from, const char *from_repo, const char *reference,
             struct reg_remote *to, const char *repo, const char *tag,
             const struct reg_transfer_options *options, struct reg_transfer_result *out,
             struct cas_err *err)
{
        struct remote_source arg = {.remote = from, .repo = from_repo};
        const struct reg_deliver_source source = {.open = remote_open,
                                                  .read = reg_remote_blob_read,
                                                  .close = remote_close,
                                                  .arg = &arg};
        struct push *p = push_new(to, repo, &source, options, "copy");
        if (strcmp(reg_remote_host(from), reg_remote_host(to)) == 0 && strcmp(from_repo, repo) != 0)
                p->deliver.mount_from = from_repo;
        int rc = plan_of_remote(p, from, from_repo, reference, options, err);
        if (rc == 0)
                rc = push_plan(p, tag, options, err);
        p->result.moved_bytes = reg_board_moved(&p->board);
        *out = p->result;
        push_free(p);
        return rc;
}
