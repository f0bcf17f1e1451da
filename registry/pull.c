/* SPDX-License-Identifier: Apache-2.0 */
/* Pull: the plan from the registry's documents, its blobs side by side, then names. */
#include "registry/pull.h"

#include <stdatomic.h>

#include "cas/blob.h"
#include "cas/limits.h"
#include "registry/blobwork.h"
#include "registry/peer_pull.h"

int reg_remote_doc_read(void *docs, const struct cas_digest *digest, struct cas_buf *out,
                        struct cas_err *err)
{
        const struct reg_remote_docs *d = docs;
        char text[CAS_DIGEST_TEXT_BYTES];
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_manifest_info info;
        if (d->store && cas_blob_read(d->store, digest, CAS_MANIFEST_BYTES_MAX, out, &miss) == 0)
                return 0;
        cas_buf_clear(out);
        return reg_remote_manifest(d->remote, d->repo, cas_digest_text(digest, text), NULL, out,
                                   &info, NULL, NULL, err);
}

/* An index of descriptors. Each is a document to be taken along. */
static int add_listed(struct reg_plan *p, const struct reg_plan_source *source,
                      const struct cas_buf *list, struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        if (cas_manifest_parse(list->data, list->len_bytes, CAS_MT_OCI_INDEX, &m, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < m.child_count; i++) {
                const struct cas_descriptor *d = &m.children[i];
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                struct cas_manifest_info info = {.digest = d->digest, .size_bytes = d->size_bytes};
                if (!cas_media_type_is_manifest(d->media_type))
                        continue;
                (void)snprintf(info.media_type, sizeof(info.media_type), "%s", d->media_type);
                if (source->read(source->arg, &d->digest, &bytes, err) < 0 ||
                    reg_plan_add(p, source, &info, &bytes, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

int reg_plan_add_referrers(struct reg_plan *p, struct reg_remote *r, const char *repo,
                           const struct cas_digest *subject, struct cas_store *store,
                           struct cas_err *err)
{
        char name[REG_REMOTE_REPO_BYTES], text[CAS_DIGEST_TEXT_BYTES], tag[CAS_DIGEST_TEXT_BYTES];
        static const unsigned accept[] = {404, 0};
        struct reg_remote_docs docs = {.remote = r, .repo = repo, .store = store};
        struct reg_plan_source source = {.read = reg_remote_doc_read, .arg = &docs};
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        cas_cleanup_buf struct cas_buf list = CAS_BUF_INIT;
        cas_cleanup_free char *path = cas_xasprintf(
                "%s/referrers/%s", reg_remote_repo(r, repo, name), cas_digest_text(subject, text));
        struct reg_remote_request q = {.method = "GET",
                                       .path = path,
                                       .scope_repo = name,
                                       .actions = "pull",
                                       .accept = accept};
        if (reg_remote_exchange(r, &q, &t, NULL, err) < 0)
                return -(int)err->code;
        if (reg_httpc_status(t) == 200) {
                if (reg_httpc_read_all(t, CAS_MANIFEST_BYTES_MAX, &list, err) < 0)
                        return -(int)err->code;
                return add_listed(p, &source, &list, err);
        }
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_manifest_info info;
        (void)snprintf(tag, sizeof(tag), "%s", text);
        *strchr(tag, ':') = '-';
        if (reg_remote_manifest(r, repo, tag, NULL, &list, &info, NULL, NULL, &miss) < 0) {
                if (miss.code == CAS_E_NOTFOUND)
                        return 0;
                *err = miss;
                return -(int)err->code;
        }
        return add_listed(p, &source, &list, err);
}

struct pull {
        struct reg_fetch fetch;
        struct reg_plan plan;
        struct reg_board board;
        _Atomic bool stop;
        struct reg_transfer_result result;
};

static int pull_blob(void *arg, const struct reg_plan_blob *blob, struct reg_board_part *part,
                     enum reg_blobwork_end *end, struct cas_err *err)
{
        struct pull *p = arg;
        enum reg_fetch_how how = REG_FETCH_REUSED;
        int rc = reg_fetch_blob(&p->fetch, blob, part, &how, err);
        *end = how == REG_FETCH_FETCHED    ? REG_BLOBWORK_MOVED
               : how == REG_FETCH_LEFT_OUT ? REG_BLOBWORK_LEFT_OUT
                                           : REG_BLOBWORK_REUSED;
        return rc;
}

static int pull_blobs(struct pull *p, unsigned jobs, struct cas_err *err)
{
        const struct reg_blobwork work = {.plan = &p->plan,
                                          .board = &p->board,
                                          .jobs = jobs,
                                          .stop = &p->stop,
                                          .one = pull_blob,
                                          .arg = p};
        return reg_blobwork_run(&work, &p->result, err);
}

/* The document that the reference names: from here where the registry says that it is the same. */
static int top_document(struct pull *p, const char *reference, const struct cas_ref *to,
                        struct cas_buf *bytes, struct cas_manifest_info *info, struct cas_err *err)
{
        const struct reg_fetch *f = &p->fetch;
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_manifest_info known;
        bool unchanged = false;
        bool has = to->tag[0] && cas_ref_resolve(f->store, to, &known, &miss) == 0;
        if (reg_remote_manifest(f->remote, f->repo, reference, has ? &known.digest : NULL, bytes,
                                info, &unchanged, NULL, err) < 0)
                return -(int)err->code;
        if (!unchanged)
                return 0;
        *info = known;
        if (cas_blob_read(f->store, &known.digest, CAS_MANIFEST_BYTES_MAX, bytes, &miss) == 0)
                return 0;
        cas_buf_clear(bytes);
        return reg_remote_manifest(f->remote, f->repo, reference, NULL, bytes, info, NULL, NULL,
                                   err);
}

static int make_plan(struct pull *p, const char *reference, const struct cas_ref *to,
                     const struct reg_transfer_options *options, struct cas_err *err)
{
        const struct reg_fetch *f = &p->fetch;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_store *here = options->proved ? NULL : f->store;
        struct reg_remote_docs docs = {.remote = f->remote, .repo = f->repo, .store = here};
        struct reg_plan_source source = {
                .read = reg_remote_doc_read, .arg = &docs, .platform = options->platform};
        struct cas_manifest_info *info = &p->result.info;
        if (top_document(p, reference, to, &bytes, info, err) < 0 ||
            reg_plan_add(&p->plan, &source, info, &bytes, err) < 0)
                return -(int)err->code;
        if (!options->referrers)
                return 0;
        return reg_plan_add_referrers(&p->plan, f->remote, f->repo, &info->digest, here, err);
}

static int put_documents(struct pull *p, const struct cas_ref *to, struct cas_err *err)
{
        for (size_t i = 0; i < p->plan.doc_count; i++) {
                const struct reg_plan_doc *doc = &p->plan.docs[i];
                bool top = cas_digest_equal(&doc->info.digest, &p->result.info.digest);
                struct cas_manifest_put_options put = {.repo = to->repo,
                                                       .tag = top ? to->tag : NULL,
                                                       .media_type = doc->info.media_type,
                                                       .expected = &doc->info.digest,
                                                       .allow_sparse = true,
                                                       .linked_only = p->fetch.proved};
                struct cas_manifest_info info;
                if (cas_manifest_put(p->fetch.store, &put, doc->bytes.data, doc->bytes.len_bytes,
                                     &info, err) < 0)
                        return -(int)err->code;
                p->result.documents++;
        }
        return 0;
}

int reg_pull(struct cas_store *s, struct reg_remote *from, const char *repo, const char *reference,
             const struct cas_ref *to, const struct reg_transfer_options *options,
             struct reg_transfer_result *out, struct cas_err *err)
{
        cas_cleanup_free struct pull *p = cas_xcalloc(1, sizeof(*p));
        cas_cleanup_publish struct cas_publish *keep = NULL;
        if (cas_publish_begin(s, &keep, err) < 0)
                return -(int)err->code;
        p->fetch = (struct reg_fetch){.store = s,
                                      .keep = keep,
                                      .remote = from,
                                      .repo = repo,
                                      .to_repo = to->repo,
                                      .streams = REG_TRANSFER_STREAMS,
                                      .stop = &p->stop,
                                      .proved = options->proved,
                                      .other = options->proved ? NULL : reg_peer_pull};
        reg_board_init(&p->board, options->progress, "pull");
        int rc = make_plan(p, reference, to, options, err);
        if (rc == 0)
                rc = pull_blobs(p, options->jobs ? options->jobs : REG_TRANSFER_JOBS, err);
        if (rc == 0)
                rc = put_documents(p, to, err);
        p->result.moved_bytes = reg_board_moved(&p->board);
        *out = p->result;
        reg_board_release(&p->board);
        reg_plan_release(&p->plan);
        return rc;
}
