/* SPDX-License-Identifier: Apache-2.0 */
/* Answers with what a digest names, and with lists: entity tags, conditional
 * requests, ranges. Verbatim bytes leave by sendfile, but for those of several
 * ranges (parts.c). */
#include "cas/blobstream.h"
#include "cas/log.h"
#include "registry/parts.h"
#include "registry/operation.h"
#include "registry/registry_int.h"

/* Headers that every answer about the content carries. */
static void content_headers(struct reg_call *call, const struct reg_content *content,
                            const char *digest)
{
        struct reg_http_req *req = call->req;
        const char *repo = call->route.repo;
        struct reg_cached cached = {
                .kind = content->tag ? REG_CACHED_TAG : REG_CACHED_CONTENT,
                .is_public = !repo[0] || reg_access_public(call->registry->access, repo),
                .repo = repo,
                .tag = content->tag,
                .digest = content->digest,
        };
        reg_http_reply_header(req, "Docker-Content-Digest", digest);
        reg_http_reply_headerf(req, "ETag", "\"%s\"", digest);
        reg_cachepolicy_reply(call->registry->caches, &cached, req);
}

static void reply_unsatisfiable(struct reg_http_req *req, const struct reg_content *content)
{
        reg_http_reply_headerf(req, "Content-Range", "bytes */%llu",
                               (unsigned long long)content->size_bytes);
        reg_reply_code(req, REG_E_RANGE_INVALID, "the range is outside of the content");
}

/* What a name leads to must be there: a client that is told so does not push it again, and so would
 * never heal what a store has lost. False: answered. */
static bool check_there(struct reg_call *call, struct reg_content *content, enum reg_about about)
{
        struct cas_err err = CAS_ERR_INIT;
        char target[REG_HTTP_LOG_TEXT_BYTES];
        int rc = cas_blob_stat(call->store, content->digest, &content->size_bytes, &err);
        if (rc == 0)
                return true;
        if (rc == -CAS_E_NOTFOUND)
                cas_log(CAS_LOG_ERROR, "registry", "target=\"%s\" lost=\"%s\"",
                        reg_http_log_text(reg_http_target(call->req), target), err.msg);
        reg_answers_forget(call->registry->answers, reg_http_target(call->req));
        reg_reply_err(call->req, about, &err);
        return false;
}

static int stream_read(void *source, void *buf, size_t len, size_t *out_len,
                       void (*wake)(void *arg), void *arg, struct cas_err *err)
{
        return cas_blob_stream_poll(source, buf, len, out_len, wake, arg, err);
}

static void stream_free(void *source)
{
        cas_blob_stream_close(source);
}

/* Verbatim bytes leave by sendfile, regenerated ones as they are made. Takes the stream. */
static void reply_stream(struct reg_http_req *req, unsigned status, struct cas_blob_stream *stream)
{
        static const struct reg_http_source_ops ops = {stream_read, stream_free};
        uint64_t offset, len = cas_blob_stream_left(stream);
        int fd = cas_blob_stream_take_fd(stream, &offset);
        if (fd >= 0 || len == 0) {
                cas_blob_stream_close(stream);
                if (fd >= 0)
                        reg_http_reply_fd(req, status, fd, offset, len);
                else
                        reg_http_reply_empty(req, status);
                return;
        }
        reg_http_reply_source(req, status, len, &ops, stream);
}

/* What of the content is asked for. */
struct wanted {
        enum reg_range_kind kind;
        struct reg_range window; /* all of it */
        struct reg_range *list;  /* owned */
        size_t count;
};

/* False: answered. */
static bool read_ranges(struct reg_http_req *req, const struct reg_content *content,
                        const char *digest, struct wanted *w)
{
        *w = (struct wanted){.window = {.bytes = content->size_bytes}};
        if (reg_http_method(req) == REG_HTTP_HEAD ||
            !reg_if_range_allows(reg_http_header(req, "If-Range"), digest))
                return true;
        w->kind = reg_ranges_parse(reg_http_header(req, "Range"), content->size_bytes, &w->list,
                                   &w->count);
        switch (w->kind) {
        case REG_RANGE_UNSATISFIABLE:
                reply_unsatisfiable(req, content);
                return false;
        case REG_RANGE_TOO_MANY:
                reg_reply_status(req, 400, reg_code_text(REG_E_RANGE_INVALID),
                                 "more than 1024 ranges");
                return false;
        case REG_RANGE_PART:
        case REG_RANGE_PARTS:
                w->window = reg_parts_window(w->list, w->count);
                return true;
        case REG_RANGE_WHOLE:
                return true;
        }
        return true;
}

/* Takes the stream, which is open over the window. */
static void reply_wanted(struct reg_http_req *req, const struct reg_content *content,
                         struct wanted *w, struct cas_blob_stream *stream)
{
        reg_http_reply_header(req, "Accept-Ranges", "bytes");
        if (w->kind == REG_RANGE_PARTS) {
                reg_parts_reply(reg_parts_new(stream, cas_steal(&w->list), w->count,
                                              content->size_bytes, content->media_type),
                                req);
                return;
        }
        reg_http_reply_header(req, "Content-Type", content->media_type);
        if (w->kind == REG_RANGE_PART)
                reg_http_reply_headerf(req, "Content-Range", "bytes %llu-%llu/%llu",
                                       (unsigned long long)w->window.first,
                                       (unsigned long long)(w->window.first + w->window.bytes - 1),
                                       (unsigned long long)content->size_bytes);
        if (stream)
                reply_stream(req, w->kind == REG_RANGE_PART ? 206 : 200, stream);
        else
                reg_http_reply_head(req, 200, content->size_bytes);
}

static bool may_keep(const struct reg_call *call, uint64_t bytes)
{
        return call->keep && bytes <= REG_ANSWER_BODY_BYTES_MAX;
}

static void count_kept(const struct reg_call *call)
{
        reg_metrics_add(reg_operation_metrics(call->registry->operation), REG_COUNTER_ANSWERS_MADE,
                        1);
}

static void reply_unchanged(struct reg_call *call, const char *etag, uint64_t bytes)
{
        if (!may_keep(call, bytes)) {
                reg_http_reply_head(call->req, 304, bytes);
                return;
        }
        struct reg_http_answer *answer = reg_http_reply_kept(call->req, 304, NULL, bytes);
        reg_answers_keep(call->registry->answers, reg_http_target(call->req), call->route.repo,
                         call->names_generation, etag, answer, true, 0, NULL);
        count_kept(call);
        reg_http_answer_unref(answer);
}

/* Answers with a body that is in memory, and keeps the answer. */
static void reply_kept(struct reg_call *call, const char *etag, const void *data, size_t len,
                       const struct reg_event *pull)
{
        struct reg_http_answer *answer = reg_http_reply_kept(call->req, 200, data, len);
        reg_answers_keep(call->registry->answers, reg_http_target(call->req), call->route.repo,
                         call->names_generation, etag, answer, false, len, pull);
        count_kept(call);
        reg_http_answer_unref(answer);
}

/* Small verbatim bytes are read, compared with their digest, and the answer is kept. False: they
 * are not verbatim, and nothing was answered. */
static bool reply_small(struct reg_call *call, const struct reg_content *content, const char *etag,
                        struct cas_blob_stream *stream)
{
        uint8_t data[REG_ANSWER_BODY_BYTES_MAX];
        size_t len = (size_t)content->size_bytes;
        struct cas_digest digest;
        uint64_t offset;
        int fd = cas_blob_stream_take_fd(stream, &offset);
        if (fd < 0)
                return false;
        cas_blob_stream_close(stream);
        const struct reg_event pull = {.kind = content->pull,
                                       .tag = content->tag,
                                       .digest = *content->digest,
                                       .media_type = content->media_type,
                                       .bytes = content->size_bytes};
        reg_http_reply_header(call->req, "Accept-Ranges", "bytes");
        reg_http_reply_header(call->req, "Content-Type", content->media_type);
        bool whole = pread(fd, data, len, (off_t)offset) == (ssize_t)len;
        if (whole)
                cas_digest_of(content->digest->alg, data, len, &digest);
        if (whole && cas_digest_equal(&digest, content->digest)) {
                (void)close(fd);
                reply_kept(call, etag, data, len, &pull);
        } else { /* fsck tells of it */
                reg_http_reply_fd(call->req, 200, fd, offset, len);
        }
        return true;
}

bool reg_reply_content(struct reg_call *call, struct reg_content *content, enum reg_about about)
{
        struct reg_http_req *req = call->req;
        struct cas_err err = CAS_ERR_INIT;
        char digest[CAS_DIGEST_TEXT_BYTES];
        struct wanted w;
        if (!check_there(call, content, about))
                return false;
        cas_digest_text(content->digest, digest);
        if (reg_etag_listed(reg_http_header(req, "If-None-Match"), digest)) {
                content_headers(call, content, digest);
                reply_unchanged(call, digest, content->size_bytes);
                return false;
        }
        bool head = reg_http_method(req) == REG_HTTP_HEAD;
        struct cas_blob_stream *stream = NULL;
        bool ok = read_ranges(req, content, digest, &w);
        bool small = !head && may_keep(call, content->size_bytes) && w.kind == REG_RANGE_WHOLE;
        if (ok && !head &&
            cas_blob_stream_open(call->store, content->digest, w.window.first, w.window.bytes,
                                 false, &stream, &err) < 0) {
                reg_reply_err(req, about, &err);
                ok = false;
        }
        if (ok) {
                content_headers(call, content, digest);
                if (!small || !reply_small(call, content, digest, stream))
                        reply_wanted(req, content, &w, stream);
        }
        free(w.list);
        return ok && !head && w.window.first == 0;
}

void reg_reply_list(struct reg_call *call, const char *media_type, struct cas_buf *body)
{
        struct reg_http_req *req = call->req;
        const char *repo = call->route.repo[0] ? call->route.repo : NULL;
        struct reg_cached cached = {
                .kind = REG_CACHED_LIST,
                .is_public = reg_access_public(call->registry->access, repo),
                .repo = repo,
        };
        struct cas_hash hash;
        char tag[CAS_HASH_HEX_BYTES];
        cas_sha256(body->data, body->len_bytes, &hash);
        cas_hash_hex(&hash, tag);
        reg_http_reply_headerf(req, "ETag", "\"%s\"", tag);
        reg_cachepolicy_reply(call->registry->caches, &cached, req);
        if (reg_etag_listed(reg_http_header(req, "If-None-Match"), tag)) {
                reply_unchanged(call, tag, body->len_bytes);
                return;
        }
        reg_http_reply_header(req, "Content-Type", media_type);
        if (may_keep(call, body->len_bytes))
                reply_kept(call, tag, body->data, body->len_bytes, NULL);
        else
                reg_http_reply_buf(req, 200, body);
}
