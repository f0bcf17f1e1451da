/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: headers are collected in the request and joined with the body when
 * that is known. */
#include <stdarg.h>
#include <stdio.h>

#include <netinet/in.h>
#include <linux/tcp.h>
#include <sys/socket.h>

#include "registry/http_int.h"

void reg_http_reply_header(struct reg_http_req *req, const char *name, const char *value)
{
        cas_assert(!req->answered);
        for (const char *c = value; *c; c++) {
                if ((unsigned char)*c < ' ' || *c == 0x7f)
                        return;
        }
        cas_assert(req->header_count < REG_HTTP_REPLY_HEADERS_MAX);
        req->headers[req->header_count].name = name;
        req->headers[req->header_count].value = cas_xstrdup(value);
        req->header_count++;
}

void reg_http_reply_headerf(struct reg_http_req *req, const char *name, const char *fmt, ...)
{
        cas_cleanup_free char *text = NULL;
        va_list ap;
        va_start(ap, fmt);
        int n = vasprintf(&text, fmt, ap);
        va_end(ap);
        cas_assert(n >= 0);
        reg_http_reply_header(req, name, text);
}

static void take_headers(struct reg_http_req *req, struct MHD_Response *response)
{
        for (unsigned i = 0; i < req->header_count; i++) {
                (void)MHD_add_response_header(response, req->headers[i].name,
                                              req->headers[i].value);
                free(req->headers[i].value);
        }
        req->header_count = 0;
}

void reg_http_reply_response(struct reg_http_req *req, unsigned status,
                             struct MHD_Response *response, uint64_t len)
{
        cas_assert(!req->answered);
        cas_assert(response != NULL);
        take_headers(req, response);
        req->response = response;
        req->status = status;
        req->body_out_bytes = req->method == REG_HTTP_HEAD ? 0 : len;
        req->answered = true;
}

void reg_http_reply_empty(struct reg_http_req *req, unsigned status)
{
        reg_http_reply_response(
                req, status, MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT), 0);
}

void reg_http_reply_bytes(struct reg_http_req *req, unsigned status, const void *data, size_t len)
{
        /* the library does not write to what it copies */
        void *copied = (void *)(uintptr_t)data;
        reg_http_reply_response(req, status,
                                MHD_create_response_from_buffer(len, copied, MHD_RESPMEM_MUST_COPY),
                                len);
}

void reg_http_reply_buf(struct reg_http_req *req, unsigned status, struct cas_buf *body)
{
        if (!body->data) {
                reg_http_reply_empty(req, status);
                return;
        }
        size_t len = body->len_bytes;
        uint8_t *data = cas_steal(&body->data);
        cas_buf_init(body);
        reg_http_reply_response(req, status,
                                MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE),
                                len);
}

/* What the other end has taken of all that this connection has sent; 0 where nobody knows. */
static uint64_t acked_bytes(const struct reg_http_req *req)
{
        struct tcp_info info = {0};
        socklen_t len = sizeof(info);
        if (getsockopt(reg_http_fd(req), IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
                return 0;
        return info.tcpi_bytes_acked;
}

void reg_http_reply_fd(struct reg_http_req *req, unsigned status, int fd, uint64_t offset,
                       uint64_t len)
{
        if (len == 0 || req->method == REG_HTTP_HEAD) {
                (void)close(fd);
                reg_http_reply_head(req, status, len);
                return;
        }
        if (req->server->config.done) {
                req->is_file = true;
                req->acked_bytes = acked_bytes(req);
        }
        reg_http_reply_response(req, status,
                                MHD_create_response_from_fd_at_offset64(len, fd, offset), len);
}

/* Never called: only the headers of such an answer are sent. */
static ssize_t no_body(void *arg CAS_UNUSED, uint64_t at CAS_UNUSED, char *buf CAS_UNUSED,
                       size_t max CAS_UNUSED)
{
        return MHD_CONTENT_READER_END_WITH_ERROR;
}

void reg_http_reply_head(struct reg_http_req *req, unsigned status, uint64_t len)
{
        if (len == 0) {
                reg_http_reply_empty(req, status);
                return;
        }
        reg_http_reply_response(req, status,
                                MHD_create_response_from_callback(len, 1, no_body, NULL, NULL), 0);
}

uint64_t reg_http_reply_sent_bytes(const struct reg_http_req *req, bool broken)
{
        if (!broken || !req->is_file)
                return req->body_out_bytes;
        uint64_t acked = acked_bytes(req);
        return acked > req->acked_bytes ? cas_min_u64(acked - req->acked_bytes, req->body_out_bytes)
                                        : 0;
}

/* Answers made before */

struct reg_http_answer {
        _Atomic unsigned refs;
        unsigned status;
        struct MHD_Response *response; /* owns the body */
        void *body;                    /* borrowed from it; NULL: headers alone */
        size_t len;
};

/* data NULL: headers of an answer of len bytes. */
static struct reg_http_answer *answer_new(unsigned status, const void *data, size_t len)
{
        struct reg_http_answer *a = cas_xcalloc(1, sizeof(*a));
        atomic_init(&a->refs, 1);
        a->status = status;
        a->len = len;
        if (data) {
                a->body = cas_xmalloc(len ? len : 1);
                memcpy(a->body, data, len);
                a->response = MHD_create_response_from_buffer(len, a->body, MHD_RESPMEM_MUST_FREE);
        } else {
                a->response = MHD_create_response_from_callback(len, 1, no_body, NULL, NULL);
        }
        cas_assert(a->response != NULL);
        return a;
}

struct reg_http_answer *reg_http_answer_new(unsigned status, const struct reg_http_header *headers,
                                            size_t count, const void *body, size_t len)
{
        struct reg_http_answer *a = answer_new(status, body ? body : "", len);
        for (size_t i = 0; i < count; i++)
                (void)MHD_add_response_header(a->response, headers[i].name, headers[i].value);
        return a;
}

struct reg_http_answer *reg_http_reply_kept(struct reg_http_req *req, unsigned status,
                                            const void *data, size_t len)
{
        struct reg_http_answer *a = answer_new(status, data, len);
        take_headers(req, a->response);
        reg_http_reply_answer(req, a);
        return a;
}

struct reg_http_answer *reg_http_answer_ref(struct reg_http_answer *a)
{
        atomic_fetch_add(&a->refs, 1);
        return a;
}

void reg_http_answer_unref(struct reg_http_answer *a)
{
        if (!a || atomic_fetch_sub(&a->refs, 1) != 1)
                return;
        MHD_destroy_response(a->response);
        free(a);
}

void reg_http_reply_answer(struct reg_http_req *req, struct reg_http_answer *a)
{
        cas_assert(!req->answered);
        cas_assert(req->header_count == 0);
        req->answer = reg_http_answer_ref(a);
        req->status = a->status;
        req->body_out_bytes = req->method == REG_HTTP_HEAD || !a->body ? 0 : a->len;
        req->answered = true;
}

static enum MHD_Result copy_header(void *arg, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
        return kind == MHD_HEADER_KIND ? MHD_add_response_header(arg, name, value) : MHD_YES;
}

/* The same for one connection alone, which ends with it. */
static struct MHD_Response *copy_of(const struct reg_http_answer *a)
{
        struct MHD_Response *copy =
                a->body ? MHD_create_response_from_buffer(a->len, a->body, MHD_RESPMEM_MUST_COPY)
                        : MHD_create_response_from_callback(a->len, 1, no_body, NULL, NULL);
        cas_assert(copy != NULL);
        (void)MHD_get_response_headers(a->response, copy_header, copy);
        return copy;
}

enum MHD_Result reg_http_reply_queue(struct reg_http_req *req, bool closing)
{
        if (req->answer && !closing) /* many connections have it: nothing is added */
                return MHD_queue_response(req->connection, req->status, req->answer->response);
        struct MHD_Response *response =
                req->answer ? copy_of(req->answer) : cas_steal(&req->response);
        cas_assert(response != NULL);
        if (closing)
                (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
        enum MHD_Result rc = MHD_queue_response(req->connection, req->status, response);
        MHD_destroy_response(response);
        return rc;
}
