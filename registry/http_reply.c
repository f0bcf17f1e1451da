/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: headers are collected in the request and joined with the body when
 * that is known. */
#include <stdarg.h>
#include <stdio.h>

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

void reg_http_reply_response(struct reg_http_req *req, unsigned status,
                             struct MHD_Response *response)
{
        cas_assert(!req->answered);
        cas_assert(response != NULL);
        for (unsigned i = 0; i < req->header_count; i++) {
                (void)MHD_add_response_header(response, req->headers[i].name,
                                              req->headers[i].value);
                free(req->headers[i].value);
        }
        req->header_count = 0;
        req->response = response;
        req->status = status;
        req->answered = true;
}

void reg_http_reply_empty(struct reg_http_req *req, unsigned status)
{
        reg_http_reply_response(req, status,
                                MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT));
}

void reg_http_reply_bytes(struct reg_http_req *req, unsigned status, const void *data, size_t len)
{
        /* the library does not write to what it copies */
        void *copied = (void *)(uintptr_t)data;
        reg_http_reply_response(
                req, status, MHD_create_response_from_buffer(len, copied, MHD_RESPMEM_MUST_COPY));
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
                                MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE));
}

void reg_http_reply_fd(struct reg_http_req *req, unsigned status, int fd, uint64_t offset,
                       uint64_t len)
{
        if (len == 0 || req->method == REG_HTTP_HEAD) {
                (void)close(fd);
                reg_http_reply_head(req, status, len);
                return;
        }
        reg_http_reply_response(req, status,
                                MHD_create_response_from_fd_at_offset64(len, fd, offset));
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
                                MHD_create_response_from_callback(len, 1, no_body, NULL, NULL));
}
