/* SPDX-License-Identifier: Apache-2.0 */
/* Uploads: sessions that take a blob in pieces, and the single POST.
 *
 * A session's length is the truth: pieces are appended at it or refused (416,
 * with where to go on). What a broken PATCH had sent stays, being what the
 * client meant to send; a PUT without Content-Range that breaks is taken back,
 * since the client will send the whole again. */
#include <stdio.h>

#include "cas/log.h"
#include "registry/range.h"
#include "registry/uploads_int.h"

enum upload_kind {
        UPLOAD_PATCH,
        UPLOAD_PUT,
        UPLOAD_SINGLE, /* POST with digest: the session lives for this request only */
};

/* A request with a body. Owned by the HTTP request from reg_http_accept on. */
struct upload {
        struct reg_call call;
        enum upload_kind kind;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *session; /* owned; NULL once it is closed */
        uint64_t start_bytes;       /* of the session when this request began */
        bool has_range;             /* Content-Range was given */
        uint64_t range_bytes;
        uint64_t room_bytes;      /* that the blob may have */
        struct cas_digest digest; /* PUT and POST */
};

void reg_session_headers(struct reg_call *call, const char *id, uint64_t bytes)
{
        reg_http_reply_headerf(call->req, "Location", "/v2/%s/blobs/uploads/%s", call->route.repo,
                               id);
        reg_http_reply_headerf(call->req, "Range", "0-%llu",
                               (unsigned long long)(bytes ? bytes - 1 : 0));
        /* Range tells nothing received from one byte no better than others have it */
        reg_http_reply_headerf(call->req, "Upload-Offset", "%llu", (unsigned long long)bytes);
        reg_http_reply_header(call->req, "Docker-Upload-UUID", id);
}

void reg_session_reply(struct reg_call *call, unsigned status, const char *id, uint64_t bytes)
{
        reg_session_headers(call, id, bytes);
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, status);
}

void reg_blob_reply_created(struct reg_call *call, const struct cas_digest *digest)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(digest, text);
        reg_http_reply_headerf(call->req, "Location", "/v2/%s/blobs/%s", call->route.repo, text);
        reg_http_reply_header(call->req, "Docker-Content-Digest", text);
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, 201);
}

/* Sessions that nobody ends take room, too. */
static void note_bytes(const struct reg_call *call, uint64_t add, uint64_t sub)
{
        reg_access_uploaded(call->registry->access, call->route.repo, add, sub);
}

/* Ends the writer; what this request added is taken back, or goes with the whole session. */
static void upload_abandon(struct upload *u, bool take_back)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload *session = cas_steal(&u->session);
        if (!session)
                return;
        int rc = 0;
        if (take_back && u->kind != UPLOAD_SINGLE)
                rc = cas_upload_truncate(session, u->start_bytes, &err);
        bool cancelled = u->kind == UPLOAD_SINGLE && (rc = cas_upload_cancel(session, &err)) == 0;
        uint64_t added = cancelled ? 0 : cas_upload_bytes(session) - u->start_bytes;
        if (!cancelled)
                cas_upload_close(session);
        note_bytes(&u->call, added, 0);
        if (rc < 0) /* a session left over expires; one too long tells its length by 416 */
                cas_log(CAS_LOG_WARN, "upload", "id=%s error=\"%s\"", u->id, err.msg);
}

static void upload_free(void *state)
{
        struct upload *u = state;
        upload_abandon(u, u->kind == UPLOAD_PUT && !u->has_range);
        free(u);
}

/* Fails the request; the session, if it stays, is as it was before. */
static void upload_fail(struct upload *u, const struct cas_err *err)
{
        upload_abandon(u, true);
        reg_reply_err(u->call.req, REG_ABOUT_UPLOAD, err);
}

static void refuse_room(struct upload *u)
{
        upload_abandon(u, true);
        reg_reply_code(u->call.req, REG_E_DENIED, REG_NO_ROOM);
}

static void upload_piece(struct reg_http_req *req CAS_UNUSED, void *state, const void *data,
                         size_t len)
{
        struct upload *u = state;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t added = cas_upload_bytes(u->session) - u->start_bytes;
        if (u->has_range && len > u->range_bytes - added) {
                upload_abandon(u, true);
                reg_reply_code(u->call.req, REG_E_SIZE_INVALID,
                               "the body is longer than its Content-Range");
        } else if (u->start_bytes + added + len > u->room_bytes) {
                refuse_room(u);
        } else if (cas_upload_append(u->session, data, len, &err) < 0) {
                upload_fail(u, &err);
        }
}

static void upload_too_long(struct reg_http_req *req, void *state)
{
        struct upload *u = state;
        upload_abandon(u, true);
        reg_reply_code(req, REG_E_TOO_LARGE, "the blob is larger than this registry takes");
}

/* The body is here; a chunk must be as long as it said. False: answered. */
static bool upload_complete(struct upload *u)
{
        uint64_t added = cas_upload_bytes(u->session) - u->start_bytes;
        if (!u->has_range || added == u->range_bytes)
                return true;
        upload_abandon(u, true);
        reg_reply_code(u->call.req, REG_E_SIZE_INVALID,
                       "the body is shorter than its Content-Range");
        return false;
}

static void patch_end(struct reg_http_req *req CAS_UNUSED, void *state)
{
        struct upload *u = state;
        struct cas_err err = CAS_ERR_INIT;
        if (!upload_complete(u))
                return;
        if (cas_upload_sync(u->session, &err) < 0) {
                upload_fail(u, &err);
                return;
        }
        uint64_t bytes = cas_upload_bytes(u->session);
        cas_upload_close(cas_steal(&u->session));
        note_bytes(&u->call, bytes - u->start_bytes, 0);
        reg_session_reply(&u->call, 202, u->id, bytes);
}

static void finish_end(struct reg_http_req *req CAS_UNUSED, void *state)
{
        struct upload *u = state;
        struct cas_err err = CAS_ERR_INIT;
        if (!upload_complete(u))
                return;
        uint64_t bytes = cas_upload_bytes(u->session);
        if (cas_upload_finish(u->session, &u->digest, &err) < 0) {
                upload_fail(u, &err);
                return;
        }
        u->session = NULL;
        note_bytes(&u->call, 0, u->start_bytes);
        reg_call_tell(&u->call, (struct reg_event){.kind = REG_EVENT_PUSH_BLOB,
                                                   .digest = u->digest,
                                                   .media_type = "application/octet-stream",
                                                   .bytes = bytes});
        reg_blob_reply_created(&u->call, &u->digest);
}

static const struct reg_http_body_ops patch_ops = {
        .bytes_max = CAS_UPLOAD_BYTES_MAX,
        .piece = upload_piece,
        .end = patch_end,
        .free = upload_free,
        .too_long = upload_too_long,
};
static const struct reg_http_body_ops finish_ops = {
        .bytes_max = CAS_UPLOAD_BYTES_MAX,
        .piece = upload_piece,
        .end = finish_end,
        .free = upload_free,
        .too_long = upload_too_long,
};

/* Where the body goes: at the session's end, and if it says otherwise it is refused with where
 * to go on. False: answered. */
static bool check_content_range(struct upload *u)
{
        const char *header = reg_http_header(u->call.req, "Content-Range");
        uint64_t first, last, body_bytes;
        if (!header)
                return true;
        bool fits = reg_content_range_parse(header, &first, &last) && first == u->start_bytes;
        if (!fits) {
                upload_abandon(u, false);
                reg_session_headers(&u->call, u->id, u->start_bytes);
                reg_reply_code(u->call.req, REG_E_RANGE_INVALID,
                               "a chunk starts where the upload ends");
                return false;
        }
        u->has_range = true;
        u->range_bytes = last - first + 1;
        (void)reg_http_body(u->call.req, &body_bytes);
        if (body_bytes != UINT64_MAX && body_bytes != u->range_bytes) {
                upload_abandon(u, false);
                reg_reply_code(u->call.req, REG_E_SIZE_INVALID,
                               "Content-Range and Content-Length differ");
                return false;
        }
        return true;
}

/* Whether the quotas leave room for what is announced. False: answered. */
static bool check_room(struct upload *u)
{
        struct reg_call *call = &u->call;
        uint64_t body_bytes;
        uint64_t room = reg_access_room(call->registry->access, call->identity, call->route.repo);
        /* what the session has is counted already */
        u->room_bytes = room > UINT64_MAX - u->start_bytes ? UINT64_MAX : u->start_bytes + room;
        (void)reg_http_body(call->req, &body_bytes);
        if (body_bytes == UINT64_MAX)
                body_bytes = 0; /* chunked: its pieces are counted */
        if (body_bytes <= room)
                return true;
        refuse_room(u);
        return false;
}

/* Opens the session and takes the body. Consumes u. */
static void upload_receive(struct upload *u, const struct reg_http_body_ops *ops)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_call *call = &u->call;
        (void)snprintf(u->id, sizeof(u->id), "%s", call->route.last);
        if (cas_upload_open(call->store, call->route.repo, call->route.last, &u->session, &err) <
            0) {
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
                upload_free(u);
                return;
        }
        u->start_bytes = cas_upload_bytes(u->session);
        if (check_content_range(u) && check_room(u))
                reg_http_accept(call->req, ops, u);
        else
                upload_free(u);
}

static struct upload *upload_new(const struct reg_call *call, enum upload_kind kind)
{
        struct upload *u = cas_xcalloc(1, sizeof(*u));
        u->call = *call;
        u->kind = kind;
        return u;
}

void reg_upload_patch(struct reg_call *call)
{
        upload_receive(upload_new(call, UPLOAD_PATCH), &patch_ops);
}

bool reg_query_digest(struct reg_call *call, const char *name, struct cas_digest *out)
{
        struct cas_err err = CAS_ERR_INIT;
        const char *text = reg_uri_param(reg_http_uri(call->req), name);
        if (!text) {
                reg_reply_code(call->req, REG_E_DIGEST_INVALID, "the digest parameter is missing");
                return false;
        }
        if (cas_digest_parse(text, out, &err) < 0) {
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
                return false;
        }
        return true;
}

void reg_upload_put(struct reg_call *call)
{
        struct cas_digest digest;
        if (!reg_query_digest(call, "digest", &digest))
                return;
        struct upload *u = upload_new(call, UPLOAD_PUT);
        u->digest = digest;
        upload_receive(u, &finish_ops);
}

/* POST with the digest and the whole body. */
static void upload_single(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload_info info;
        struct cas_digest digest;
        if (!reg_session_describe(call, &info) || !reg_query_digest(call, "digest", &digest))
                return;
        info.digest = digest;
        struct upload *u = upload_new(call, UPLOAD_SINGLE);
        u->digest = digest;
        int rc = cas_upload_begin(call->store, call->route.repo, &info, u->id, &err);
        if (rc == 0)
                rc = cas_upload_open(call->store, call->route.repo, u->id, &u->session, &err);
        if (rc < 0)
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
        if (rc == 0 && check_room(u))
                reg_http_accept(call->req, &finish_ops, u);
        else
                upload_free(u);
}

void reg_upload_create(struct reg_call *call)
{
        const struct reg_uri *uri = reg_http_uri(call->req);
        if (reg_uri_param(uri, "mount"))
                reg_call_work(call, reg_blob_mount);
        else if (reg_uri_param(uri, "digest"))
                upload_single(call);
        else if (reg_uri_param(uri, "resume"))
                reg_call_work(call, reg_session_resume);
        else
                reg_call_work(call, reg_session_begin);
}

/* What a broken request or a process that died has left is synced before it is told. */
static void status_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload *session;
        if (cas_upload_open(call->store, call->route.repo, call->route.last, &session, &err) < 0) {
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
                return;
        }
        uint64_t bytes = cas_upload_bytes(session);
        int rc = cas_upload_sync(session, &err);
        cas_upload_close(session);
        if (rc < 0)
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
        else
                reg_session_reply(call, 204, call->route.last, bytes);
}

void reg_upload_status(struct reg_call *call)
{
        reg_call_work(call, status_work);
}

static void upload_delete_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload *session;
        int rc = cas_upload_open(call->store, call->route.repo, call->route.last, &session, &err);
        if (rc == 0) {
                uint64_t bytes = cas_upload_bytes(session);
                rc = cas_upload_cancel(session, &err);
                if (rc < 0)
                        cas_upload_close(session);
                else
                        note_bytes(call, 0, bytes);
        }
        if (rc < 0) {
                reg_reply_err(call->req, REG_ABOUT_UPLOAD, &err);
                return;
        }
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, 204);
}

void reg_upload_delete(struct reg_call *call)
{
        reg_call_work(call, upload_delete_work);
}
