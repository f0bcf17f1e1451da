/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/fetch.h"

#include <stdatomic.h>

#include "cas/blob.h"
#include "cas/layer.h"
#include "registry/stripes.h"

#define PIECE_BYTES ((size_t)256 * 1024)

/* Bytes of a blob on their way: counted, bounded by its size, ended when all is stopped. */
struct arrival {
        const struct reg_fetch *f;
        const struct reg_plan_blob *b;
        struct reg_board_part *part;
        int (*read)(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err);
        void *arg;
        uint64_t at;
};

static int arrival_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct arrival *a = arg;
        if (a->f->stop && atomic_load(a->f->stop))
                return cas_fail(err, CAS_E_BUSY, "stopped");
        if (a->read(a->arg, buf, len, out_len, err) < 0)
                return -(int)err->code;
        a->at += *out_len;
        if (a->at > a->b->size_bytes || (*out_len == 0 && a->at < a->b->size_bytes))
                return cas_fail(err, CAS_E_CORRUPT, "it has not the %llu bytes that are said",
                                (unsigned long long)a->b->size_bytes);
        reg_board_move(a->part, a->at, *out_len);
        return 0;
}

/* Before the first look. */
static void keep_blob(const struct reg_fetch *f, struct cas_publish *p,
                      const struct cas_digest *digest)
{
        cas_publish_keep_blob(p, digest);
        if (f->keep)
                cas_publish_keep_blob(f->keep, digest);
}

/* A link to be committed once the blob has come: it keeps it from before. */
static int link_begin(const struct reg_fetch *f, const struct cas_digest *digest,
                      struct cas_publish **out, struct cas_err *err)
{
        int rc = cas_publish_begin(f->store, out, err);
        return rc < 0 ? rc : cas_publish_blob_link(*out, f->to_repo, digest, err);
}

static int decode(const struct reg_fetch *f, const struct reg_plan_blob *b, struct cas_err *err)
{
        struct cas_layer_record rec;
        return b->layer ? cas_layer_ensure(f->store, &b->digest, NULL, &rec, err) : 0;
}

/* ---- what is here ---- */

static int link_here(const struct reg_fetch *f, const struct reg_plan_blob *b, bool *here,
                     struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t bytes;
        bool may = true;
        *here = false;
        int rc = cas_publish_begin(f->store, &p, err);
        if (rc == 0)
                keep_blob(f, p, &b->digest);
        if (rc == 0 && f->proved)
                rc = cas_blob_linked(f->store, f->to_repo, &b->digest, &may, err);
        if (rc < 0 || !may)
                return rc;
        rc = cas_blob_stat(f->store, &b->digest, &bytes, &miss);
        *here = rc == 0;
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (bytes != b->size_bytes)
                return cas_fail(err, CAS_E_INVALID, "it has %llu bytes, where %llu are said",
                                (unsigned long long)bytes, (unsigned long long)b->size_bytes);
        if (cas_publish_blob_link(p, f->to_repo, &b->digest, err) < 0)
                return -(int)err->code;
        return cas_publish_commit(p, err);
}

static int take_here(const struct reg_fetch *f, const struct reg_plan_blob *b, bool *here,
                     struct cas_err *err)
{
        int rc = link_here(f, b, here, err);
        return rc == 0 && *here ? decode(f, b, err) : rc;
}

/* ---- small ones: one publication ---- */

static int publish_whole(const struct reg_fetch *f, const struct reg_plan_blob *b,
                         struct arrival *a, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        if (cas_publish_begin(f->store, &p, err) < 0 ||
            cas_publish_blob_begin(p, b->digest.alg, err) < 0)
                return -(int)err->code;
        for (size_t n = 1; n > 0;) {
                if (arrival_read(a, piece, PIECE_BYTES, &n, err) < 0 ||
                    (n > 0 && cas_publish_blob_write(p, piece, n, err) < 0))
                        return -(int)err->code;
        }
        if (cas_publish_blob_end(p, &b->digest, NULL, NULL, err) < 0 ||
            cas_publish_blob_link(p, f->to_repo, &b->digest, err) < 0)
                return -(int)err->code;
        return cas_publish_commit(p, err);
}

static int take_whole(const struct reg_fetch *f, const struct reg_plan_blob *b, struct arrival *a,
                      struct cas_err *err)
{
        struct cas_layer_record rec;
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (!b->layer)
                return publish_whole(f, b, a, err);
        if (link_begin(f, &b->digest, &p, err) < 0 ||
            cas_layer_import(f->store, arrival_read, a, &b->digest, NULL, &rec, err) < 0)
                return -(int)err->code;
        return cas_publish_commit(p, err);
}

static int fetch_small(const struct reg_fetch *f, const struct reg_plan_blob *b,
                       struct reg_board_part *part, struct cas_err *err)
{
        reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
        if (reg_remote_blob_open(f->remote, f->repo, &b->digest, 0, &blob, NULL, NULL, err) < 0)
                return -(int)err->code;
        struct arrival a = {
                .f = f, .b = b, .part = part, .read = reg_remote_blob_read, .arg = blob};
        return take_whole(f, b, &a, err);
}

/* ---- large ones: a session ---- */

struct search {
        const struct reg_plan_blob *b;
        struct cas_upload_info found; /* id "": none */
};

static bool search_session(void *arg, const struct cas_upload_info *info)
{
        struct search *s = arg;
        if (strcmp(info->owner, REG_FETCH_OWNER) == 0 &&
            cas_digest_equal(&info->digest, &s->b->digest) &&
            info->size_bytes <= s->b->size_bytes &&
            (!s->found.id[0] || info->size_bytes > s->found.size_bytes))
                s->found = *info;
        return true;
}

/* The session of an earlier run that came farthest, or a new one. */
static int open_session(const struct reg_fetch *f, const struct reg_plan_blob *b,
                        struct cas_upload **out, struct cas_err *err)
{
        cas_cleanup_free struct search *search = cas_xcalloc(1, sizeof(*search));
        struct cas_err why = CAS_ERR_INIT;
        search->b = b;
        if (cas_upload_each(f->store, f->to_repo, search_session, search, err) < 0)
                return -(int)err->code;
        if (search->found.id[0] &&
            cas_upload_open(f->store, f->to_repo, search->found.id, out, &why) == 0)
                return 0;
        /* Another run may be at it, or has ended it. */
        cas_cleanup_free struct cas_upload_info *info = cas_xcalloc(1, sizeof(*info));
        char id[CAS_UPLOAD_ID_BYTES];
        (void)snprintf(info->owner, sizeof(info->owner), "%s", REG_FETCH_OWNER);
        info->digest = b->digest;
        if (cas_upload_begin(f->store, f->to_repo, info, id, err) < 0)
                return -(int)err->code;
        return cas_upload_open(f->store, f->to_repo, id, out, err);
}

static int fill_session(const struct reg_fetch *f, const struct reg_plan_blob *b,
                        struct reg_board_part *part, struct cas_upload *u, struct cas_err *err)
{
        reg_cleanup_stripes struct reg_stripes *stripes = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        uint64_t have = cas_upload_bytes(u);
        reg_board_move(part, have, 0);
        if (have == b->size_bytes)
                return 0;
        if (reg_stripes_open(f->remote, f->repo, &b->digest, have, b->size_bytes, f->streams,
                             &stripes, err) < 0)
                return -(int)err->code;
        struct arrival a = {
                .f = f, .b = b, .part = part, .read = reg_stripes_read, .arg = stripes, .at = have};
        for (size_t n = 1; n > 0;) {
                if (arrival_read(&a, piece, PIECE_BYTES, &n, err) < 0 ||
                    (n > 0 && cas_upload_append(u, piece, n, err) < 0))
                        return -(int)err->code;
        }
        return 0;
}

static void drop_session(struct cas_upload *u)
{
        struct cas_err unused = CAS_ERR_INIT;
        if (cas_upload_cancel(u, &unused) < 0)
                cas_upload_close(u); /* it expires */
}

static int fetch_large(const struct reg_fetch *f, const struct reg_plan_blob *b,
                       struct reg_board_part *part, struct cas_err *err)
{
        struct cas_upload *u = NULL;
        if (open_session(f, b, &u, err) < 0)
                return -(int)err->code;
        if (fill_session(f, b, part, u, err) < 0) {
                if (err->code == CAS_E_CORRUPT || err->code == CAS_E_NOTFOUND)
                        drop_session(u);
                else
                        cas_upload_close(u);
                return -(int)err->code;
        }
        if (cas_upload_finish(u, &b->digest, err) == 0)
                return decode(f, b, err);
        if (err->code == CAS_E_INVALID) {
                drop_session(u);
                err->code = CAS_E_CORRUPT;
                return -(int)err->code;
        }
        cas_upload_close(u);
        return -(int)err->code;
}

/* ---- ways ---- */

static int fetch_by_url(const struct reg_fetch *f, const struct reg_plan_blob *b,
                        struct reg_board_part *part, bool *found, struct cas_err *err)
{
        for (char **url = b->urls; url && *url && !*found; url++) {
                reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
                struct cas_err unused = CAS_ERR_INIT;
                if (reg_remote_blob_open_url(f->remote, *url, 0, &blob, NULL, NULL, &unused) < 0)
                        continue;
                struct arrival a = {
                        .f = f, .b = b, .part = part, .read = reg_remote_blob_read, .arg = blob};
                *found = true;
                if (take_whole(f, b, &a, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int fetch_there(const struct reg_fetch *f, const struct reg_plan_blob *b,
                       struct reg_board_part *part, enum reg_fetch_how *how, struct cas_err *err)
{
        bool brought = false;
        struct cas_err why = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (f->other && b->layer &&
            (link_begin(f, &b->digest, &p, err) < 0 ||
             f->other(f->other_arg, f, b, part, &brought, err) < 0))
                return -(int)err->code;
        if (brought)
                return cas_publish_commit(p, err);
        int rc = b->size_bytes <= REG_FETCH_SMALL_BYTES ? fetch_small(f, b, part, &why)
                                                        : fetch_large(f, b, part, &why);
        if (rc == -CAS_E_NOTFOUND && b->foreign) {
                rc = fetch_by_url(f, b, part, &brought, err);
                if (rc == 0 && !brought)
                        *how = REG_FETCH_LEFT_OUT;
                return rc;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

int reg_fetch_blob(const struct reg_fetch *f, const struct reg_plan_blob *b,
                   struct reg_board_part *part, enum reg_fetch_how *how, struct cas_err *err)
{
        bool here = false;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = take_here(f, b, &here, err);
        *how = here ? REG_FETCH_REUSED : REG_FETCH_FETCHED;
        if (rc == 0 && !here)
                rc = fetch_there(f, b, part, how, err);
        return rc < 0 ? cas_err_wrap(err, "%s", cas_digest_text(&b->digest, text)) : 0;
}
