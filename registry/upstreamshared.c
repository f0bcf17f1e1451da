/* SPDX-License-Identifier: Apache-2.0 */
/* The store that nodes share (cas/shared.h, spec/cluster.md) as an upstream: what a flight asks it,
 * and what a request that changes something needs to know first. */
#include "cas/log.h"
#include "cas/shared.h"
#include "registry/upstream_int.h"

/* ---- blobs ---- */

struct arriving {
        struct reg_flight *f;
        struct cas_upload *session;
};

static int take_piece(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct arriving *a = arg;
        if (len > a->f->total_bytes - cas_upload_bytes(a->session))
                return cas_fail(err, CAS_E_CORRUPT, "%s is longer than it was said to be",
                                a->f->what);
        int rc = cas_upload_append(a->session, data, len, err);
        if (rc == 0)
                reg_flight_blob_more(a->f, cas_upload_bytes(a->session));
        return rc;
}

static int bring_blob(struct reg_flight *f, const struct cas_digest *digest)
{
        struct cas_store *s = f->up->set->store;
        struct cas_shared *sh = cas_store_shared(s);
        struct arriving a = {.f = f};
        struct cas_err ignored = CAS_ERR_INIT;
        const struct cas_upload_info info = {
                .owner = "shared", .alg = digest->alg, .digest = *digest, .here_only = true};
        char id[CAS_UPLOAD_ID_BYTES];
        int rc = cas_upload_begin(s, f->repo, &info, id, &f->err);
        if (rc == 0)
                rc = cas_upload_open(s, f->repo, id, &a.session, &f->err);
        if (rc == 0)
                rc = cas_upload_reader(a.session, &f->fd, &f->err);
        if (rc == 0) {
                reg_flight_arrive(f, REG_FLIGHT_ARRIVING);
                rc = sh->ops->blob_read(sh, digest, take_piece, &a, &f->err);
        }
        if (rc == 0)
                rc = cas_upload_finish(a.session, digest, &f->err);
        if (rc < 0 && a.session && cas_upload_cancel(a.session, &ignored) < 0)
                cas_upload_close(a.session);
        return rc;
}

static void run_blob(struct reg_flight *f)
{
        struct cas_digest digest;
        bool here = false;
        f->rc = cas_digest_parse(f->what, &digest, &f->err);
        if (f->rc == 0)
                f->rc = cas_shared_learn_blob(f->up->set->store, f->repo, &digest, &here,
                                              &f->total_bytes, &f->err);
        if (f->rc == 0 && !here)
                f->rc = bring_blob(f, &digest);
        if (f->rc < 0)
                reg_flight_close(f);
        reg_flight_blob_end(f, f->rc < 0);
}

/* Who is told that it is here may rely on it. */
static void run_blob_head(struct reg_flight *f)
{
        struct cas_digest digest;
        f->rc = cas_digest_parse(f->what, &digest, &f->err);
        if (f->rc == 0)
                f->rc = cas_shared_hold_blob(f->up->set->store, f->repo, &digest, &f->total_bytes,
                                             &f->err);
}

void reg_flight_run_shared(struct reg_flight *f)
{
        struct cas_store *s = f->up->set->store;
        uint64_t since_s = reg_upstream_now_s(); /* the answer is that old, at least */
        if (reg_upstream_is_paused(f->up)) {
                f->rc = cas_fail(&f->err, CAS_E_AWAY, "the bucket could not be reached just now");
                return;
        }
        switch (f->kind) {
        case REG_FLIGHT_MANIFEST:
                f->rc = cas_shared_learn_manifest(s, f->repo, f->what, &f->err);
                break;
        case REG_FLIGHT_BLOB:
                run_blob(f);
                break;
        case REG_FLIGHT_BLOB_HEAD:
                run_blob_head(f);
                break;
        case REG_FLIGHT_LIST:
                cas_assert(f->kind != REG_FLIGHT_LIST); /* never one of ours */
                break;
        }
        if (f->rc == 0 && f->kind != REG_FLIGHT_BLOB_HEAD)
                reg_upstream_note_at(f->up, f->repo, f->what, true, since_s);
        if (f->rc == -CAS_E_AWAY)
                reg_upstream_failed(f->up, &f->failure);
        if (f->rc < 0 && f->rc != -CAS_E_NOTFOUND)
                cas_log(CAS_LOG_WARN, "shared", "repository=%s what=\"%.140s\" error=\"%s\"",
                        f->repo, f->what, f->err.msg);
}

/* ---- lists ---- */

/* The subject's referrers are those that are here, once those that are there are. */
static void referrers_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest subject;
        if (cas_digest_parse(call->route.last, &subject, &err) == 0 &&
            cas_shared_learn_referrers(call->store, call->route.repo, &subject, &err) < 0)
                reg_reply_err(call->req, REG_ABOUT_MANIFEST, &err);
        else
                reg_referrers_list(call); /* it says what is wrong with a digest */
}

void reg_shared_list(const struct reg_call *call, reg_handler local)
{
        reg_call_work(call, call->route.noun == REG_NOUN_REFERRERS ? referrers_work : local);
}

/* ---- changes ---- */

/* What the handler of a request that changes something looks for. */
static int learn_for(const struct reg_call *call, struct cas_err *err)
{
        enum reg_http_method method = reg_http_method(call->req);
        struct cas_digest digest;
        struct cas_err ignored = CAS_ERR_INIT;
        bool here;
        uint64_t bytes;
        if (call->route.noun == REG_NOUN_MANIFEST && strchr(call->route.last, ':'))
                return cas_shared_learn_manifest(call->store, call->route.repo, call->route.last,
                                                 err);
        if (call->route.noun == REG_NOUN_MANIFEST && method == REG_HTTP_DELETE)
                return cas_shared_learn_manifest(call->store, call->route.repo, call->route.last,
                                                 err);
        if (call->route.noun == REG_NOUN_BLOB && method == REG_HTTP_DELETE &&
            cas_digest_parse(call->route.last, &digest, &ignored) == 0)
                return cas_shared_learn_blob(call->store, call->route.repo, &digest, &here, &bytes,
                                             err);
        return 0;
}

bool reg_shared_prepare(const struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = cas_store_shared(call->store) ? learn_for(call, &err) : 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND || rc == -CAS_E_INVALID || rc == -CAS_E_UNSUPPORTED)
                return true; /* the handler says so */
        reg_reply_err(call->req, REG_ABOUT_MANIFEST, &err);
        return false;
}
