/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/deliver.h"

#include <stdatomic.h>

#include "registry/httpc_int.h"
#include "registry/range.h"
#include "registry/remote_int.h"

/* One upload: a session there, and where it stands. */
struct upload_there {
        const struct reg_deliver *d;
        const struct reg_plan_blob *b;
        struct reg_board_part *part;
        char repo[REG_REMOTE_REPO_BYTES];
        char digest[CAS_DIGEST_TEXT_BYTES];
        char *location; /* owned: a URL; NULL: no session */
        uint64_t offset;
        uint64_t chunk_bytes; /* sent at a time */
        void *stream;         /* of the source, NULL: not open */
        uint64_t stream_at;
        bool source_failed;
};

static void close_stream(struct upload_there *u)
{
        if (u->stream)
                u->d->source->close(u->stream);
        u->stream = NULL;
}

static void upload_release(struct upload_there *u)
{
        close_stream(u);
        free(u->location);
}
#define cleanup_upload __attribute__((cleanup(upload_release)))

/* The body of a request that begins at u->offset; libcurl may want it again. */
static int body_read(void *arg, uint64_t offset, void *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        struct upload_there *u = arg;
        const struct reg_deliver_source *source = u->d->source;
        uint64_t at = u->offset + offset;
        if (u->d->stop && atomic_load(u->d->stop))
                return cas_fail(err, CAS_E_BUSY, "stopped");
        if (u->stream && u->stream_at != at)
                close_stream(u);
        int rc = u->stream ? 0 : source->open(source->arg, u->b, at, &u->stream, err);
        if (rc == 0) {
                u->stream_at = at;
                rc = source->read(u->stream, buf, len, out_len, err);
        }
        if (rc < 0) {
                u->source_failed = true;
                return rc;
        }
        u->stream_at += *out_len;
        reg_board_move(u->part, u->stream_at, *out_len);
        return 0;
}

static int exchange(struct upload_there *u, struct reg_remote_request *q,
                    struct reg_httpc_transfer **out, struct reg_remote_failure *failure,
                    struct cas_err *err)
{
        q->scope_repo = u->repo;
        q->actions = "pull,push";
        return reg_remote_exchange(u->d->remote, q, out, failure, err);
}

static int is_there(struct upload_there *u, bool *there, struct cas_err *err)
{
        static const unsigned accept[] = {404, 0};
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        cas_cleanup_free char *path = cas_xasprintf("%s/blobs/%s", u->repo, u->digest);
        struct reg_remote_request q = {.method = "HEAD", .path = path, .accept = accept};
        if (exchange(u, &q, &t, NULL, err) < 0)
                return -(int)err->code;
        *there = reg_httpc_status(t) == 200;
        return 0;
}

/* Where the session is from now on, and what it has. */
static int take_session(struct upload_there *u, const struct reg_httpc_transfer *t, bool counts,
                        struct cas_err *err)
{
        const char *location = reg_httpc_header(t, "Location");
        const char *range = reg_httpc_header(t, "Range");
        uint64_t first, last;
        if (location) {
                cas_cleanup_free char *url = NULL, *origin = NULL;
                if (httpc_url(reg_httpc_url(t), location, &url, &origin, err) < 0)
                        return cas_err_wrap(err, "upload");
                free(u->location);
                u->location = cas_steal(&url);
        }
        if (!u->location)
                return cas_fail(err, CAS_E_INVALID, "an upload without a Location");
        if (!counts)
                return 0;
        u->offset = 0;
        /* "0-0" is said of nothing, too */
        if (range && reg_content_range_parse(range, &first, &last) && first == 0 && last > 0 &&
            last < u->b->size_bytes)
                u->offset = last + 1;
        reg_board_move(u->part, u->offset, 0);
        return 0;
}

/* Mounts, or begins a session; a lamina finds the one that an earlier run left. */
static int begin(struct upload_there *u, bool *mounted, struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        char from[REG_REMOTE_REPO_BYTES] = "";
        if (u->d->mount_from)
                reg_remote_repo(u->d->remote, u->d->mount_from, from);
        cas_cleanup_free char *path =
                cas_xasprintf("%s/blobs/uploads/?mount=%s%s%s&resume=%s", u->repo, u->digest,
                              from[0] ? "&from=" : "", from, u->digest);
        struct reg_remote_request q = {
                .method = "POST", .path = path, .from_repo = from[0] ? from : NULL};
        if (exchange(u, &q, &t, NULL, err) < 0)
                return -(int)err->code;
        unsigned status = reg_httpc_status(t);
        *mounted = status == 201;
        if (*mounted)
                return 0;
        if (status != 202)
                return cas_fail(err, CAS_E_INVALID, "an upload is answered by HTTP %u", status);
        return take_session(u, t, true, err);
}

/* How far the session is, after something broke. *gone: it is there no more. */
static int look(struct upload_there *u, bool *gone, struct cas_err *err)
{
        static const unsigned accept[] = {404, 400, 0};
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        struct reg_remote_request q = {.method = "GET", .path = u->location, .accept = accept};
        if (exchange(u, &q, &t, NULL, err) < 0)
                return -(int)err->code;
        *gone = reg_httpc_status(t) >= 400;
        return *gone ? 0 : take_session(u, t, true, err);
}

static char *final_url(const struct upload_there *u)
{
        return cas_xasprintf("%s%cdigest=%s", u->location, strchr(u->location, '?') ? '&' : '?',
                             u->digest);
}

/* Ends the upload, with the rest of the blob or with nothing. */
static int put(struct upload_there *u, uint64_t bytes, struct reg_remote_failure *failure,
               struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        cas_cleanup_free char *url = final_url(u);
        static const char *const headers[] = {"Content-Type: application/octet-stream", NULL};
        struct reg_remote_request q = {.method = "PUT",
                                       .path = url,
                                       .headers = headers,
                                       .body_bytes = bytes,
                                       .body_read = bytes ? body_read : NULL,
                                       .body_arg = u,
                                       .once = true};
        if (exchange(u, &q, &t, failure, err) < 0)
                return -(int)err->code;
        unsigned status = reg_httpc_status(t);
        const char *said = reg_httpc_header(t, "Docker-Content-Digest");
        if (status != 201 && status != 204)
                return cas_fail(err, CAS_E_INVALID, "the end of an upload is answered by HTTP %u",
                                status);
        if (said && strcmp(said, u->digest) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "the registry took it for %.100s", said);
        return 0;
}

static int patch(struct upload_there *u, struct reg_remote_failure *failure, struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        uint64_t bytes = cas_min_u64(u->chunk_bytes, u->b->size_bytes - u->offset);
        cas_cleanup_free char *range =
                cas_xasprintf("Content-Range: %llu-%llu", (unsigned long long)u->offset,
                              (unsigned long long)(u->offset + bytes - 1));
        const char *headers[] = {"Content-Type: application/octet-stream", range, NULL};
        struct reg_remote_request q = {.method = "PATCH",
                                       .path = u->location,
                                       .headers = headers,
                                       .body_bytes = bytes,
                                       .body_read = body_read,
                                       .body_arg = u,
                                       .once = true};
        if (exchange(u, &q, &t, failure, err) < 0)
                return -(int)err->code;
        if (take_session(u, t, false, err) < 0)
                return -(int)err->code;
        u->offset += bytes;
        return 0;
}

static int send_step(struct upload_there *u, bool *sent, struct reg_remote_failure *failure,
                     struct cas_err *err)
{
        uint64_t left = u->b->size_bytes - u->offset;
        bool whole = u->offset == 0 && left <= REG_DELIVER_WHOLE_BYTES;
        if (!whole && left > 0)
                return patch(u, failure, err);
        if (put(u, left, failure, err) < 0)
                return -(int)err->code;
        *sent = true;
        return 0;
}

/* After a failure: whether another attempt makes sense, and from where. */
static int recover(struct upload_there *u, unsigned attempt,
                   const struct reg_remote_failure *failure, const struct cas_err *why,
                   struct cas_err *err)
{
        bool gone = false, mounted = false;
        bool too_large = failure->status == 413 && u->chunk_bytes > REG_DELIVER_CHUNK_BYTES;
        bool elsewhere = failure->status == 416 || failure->status == 404;
        bool broken = failure->status == 0 && (why->code == CAS_E_IO || why->code == CAS_E_LIMIT);
        bool again = too_large || elsewhere || broken || remote_is_transient(failure->status);
        if (u->source_failed || !again || attempt + 1 >= u->d->remote->config.attempts ||
            failure->retry_after_s > REG_REMOTE_PAUSE_MAX_S) {
                *err = *why;
                return -(int)err->code;
        }
        if (too_large)
                u->chunk_bytes = REG_DELIVER_CHUNK_BYTES;
        close_stream(u);
        remote_pause(attempt, failure);
        if (look(u, &gone, err) < 0)
                return -(int)err->code;
        return gone ? begin(u, &mounted, err) : 0;
}

static int send_all(struct upload_there *u, struct cas_err *err)
{
        bool sent = false;
        unsigned attempt = 0;
        uint64_t farthest = u->offset;
        while (!sent) {
                struct reg_remote_failure failure = {0};
                struct cas_err why = CAS_ERR_INIT;
                if (send_step(u, &sent, &failure, &why) == 0)
                        continue;
                if (recover(u, attempt++, &failure, &why, err) < 0)
                        return -(int)err->code;
                if (u->offset > farthest) {
                        farthest = u->offset;
                        attempt = 0;
                }
        }
        return 0;
}

int reg_deliver_blob(const struct reg_deliver *d, const struct reg_plan_blob *b,
                     struct reg_board_part *part, enum reg_deliver_how *how, struct cas_err *err)
{
        cleanup_upload struct upload_there u = {
                .d = d, .b = b, .part = part, .chunk_bytes = UINT64_MAX};
        bool there = false, mounted = false;
        reg_remote_repo(d->remote, d->repo, u.repo);
        cas_digest_text(&b->digest, u.digest);
        int rc = is_there(&u, &there, err);
        *how = REG_DELIVER_THERE;
        if (rc < 0 || there)
                return rc < 0 ? cas_err_wrap(err, "%s", u.digest) : 0;
        rc = begin(&u, &mounted, err);
        *how = mounted ? REG_DELIVER_MOUNTED : REG_DELIVER_SENT;
        if (rc == 0 && !mounted)
                rc = send_all(&u, err);
        return rc < 0 ? cas_err_wrap(err, "%s", u.digest) : 0;
}

int reg_deliver_document(const struct reg_deliver *d, const struct reg_plan_doc *doc,
                         const char *reference, bool *subject_known, struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        char repo[REG_REMOTE_REPO_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *path = cas_xasprintf(
                "%s/manifests/%s", reg_remote_repo(d->remote, d->repo, repo), reference);
        cas_cleanup_free char *type = cas_xasprintf("Content-Type: %s", doc->info.media_type);
        const char *headers[] = {type, NULL};
        struct reg_remote_request q = {.method = "PUT",
                                       .path = path,
                                       .scope_repo = repo,
                                       .actions = "pull,push",
                                       .headers = headers,
                                       .body = doc->bytes.data,
                                       .body_bytes = doc->bytes.len_bytes};
        if (reg_remote_exchange(d->remote, &q, &t, NULL, err) < 0)
                return -(int)err->code;
        const char *said = reg_httpc_header(t, "Docker-Content-Digest");
        cas_digest_text(&doc->info.digest, text);
        if (said && strncmp(said, "sha256:", 7) == strncmp(text, "sha256:", 7) &&
            strcmp(said, text) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "%s: the registry took it for %.100s", text,
                                said);
        if (subject_known)
                *subject_known = reg_httpc_header(t, "OCI-Subject") != NULL;
        return 0;
}
