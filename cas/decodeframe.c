/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/decodeframe.h"

#include <errno.h>
#include <stdio.h>
#include <sys/uio.h>

#include "cas/entry.h"

#define ERROR_TEXT_BYTES_MAX 400

/* ---- writing ---- */

struct server {
        int in_fd, out_fd;
        bool unheard; /* nobody reads */
        uint8_t *piece;
        struct cas_buf ops; /* of the last piece, not written yet */
};

static bool write_frame(int fd, enum cas_decodeframe_kind kind, const void *data, size_t len)
{
        uint8_t head[CAS_DECODEFRAME_HEAD_BYTES];
        cas_put_le32(head, kind);
        cas_put_le32(head + 4, (uint32_t)len);
        struct iovec parts[2] = {{.iov_base = head, .iov_len = sizeof(head)},
                                 {.iov_base = (void *)(uintptr_t)data, .iov_len = len}};
        struct iovec *at = parts;
        while (at < parts + 2) {
                ssize_t n = writev(fd, at, (int)(parts + 2 - at));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return false;
                for (; at < parts + 2 && (size_t)n >= at->iov_len; at++)
                        n -= (ssize_t)at->iov_len;
                if (at < parts + 2) {
                        at->iov_base = (uint8_t *)at->iov_base + n;
                        at->iov_len -= (size_t)n;
                }
        }
        return true;
}

bool cas_decodeframe_ready(int out_fd, uint32_t confined)
{
        uint8_t bytes[4];
        cas_put_le32(bytes, confined);
        return write_frame(out_fd, CAS_DECODEFRAME_READY, bytes, sizeof(bytes));
}

static int put(struct server *s, enum cas_decodeframe_kind kind, const void *data, size_t len,
               struct cas_err *err)
{
        if (write_frame(s->out_fd, kind, data, len))
                return 0;
        s->unheard = true;
        return cas_fail(err, CAS_E_IO, "nobody reads what is decoded");
}

static int flush_ops(struct server *s, struct cas_err *err)
{
        if (s->ops.len_bytes == 0)
                return 0;
        int rc = put(s, CAS_DECODEFRAME_OPS, s->ops.data, s->ops.len_bytes, err);
        cas_buf_clear(&s->ops);
        return rc;
}

#define OP_BYTES_MAX 9

static int begin_op(struct server *s, enum cas_decodeop op, struct cas_err *err)
{
        if (s->ops.len_bytes + OP_BYTES_MAX > CAS_DECODEFRAME_BYTES_MAX && flush_ops(s, err) < 0)
                return -(int)err->code;
        cas_buf_append_byte(&s->ops, (uint8_t)op);
        return 0;
}

static uint8_t *server_buffer(void *arg)
{
        const struct server *s = arg;
        return s->piece;
}

/* The piece before is done with by now, and this buffer has the next one: so the operations of the
 * one before go first. */
static int server_tar(void *arg, size_t len, struct cas_err *err)
{
        struct server *s = arg;
        if (flush_ops(s, err) < 0)
                return -(int)err->code;
        return put(s, CAS_DECODEFRAME_TAR, s->piece, len, err);
}

static int server_file(void *arg, uint64_t size_bytes, struct cas_err *err)
{
        struct server *s = arg;
        if (begin_op(s, CAS_DECODEOP_FILE, err) < 0)
                return -(int)err->code;
        cas_buf_append_le64(&s->ops, size_bytes);
        return 0;
}

static int server_content(void *arg, const uint8_t *data, size_t len, struct cas_err *err)
{
        struct server *s = arg;
        if (begin_op(s, CAS_DECODEOP_CONTENT, err) < 0)
                return -(int)err->code;
        cas_buf_append_le32(&s->ops, (uint32_t)(data - s->piece));
        cas_buf_append_le32(&s->ops, (uint32_t)len);
        return 0;
}

static int server_zeros(void *arg, uint64_t len, struct cas_err *err)
{
        struct server *s = arg;
        if (begin_op(s, CAS_DECODEOP_ZEROS, err) < 0)
                return -(int)err->code;
        cas_buf_append_le64(&s->ops, len);
        return 0;
}

static int server_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        const struct server *s = arg;
        ssize_t n;
        do {
                n = read(s->in_fd, buf, len);
        } while (n < 0 && errno == EINTR);
        if (n < 0)
                return cas_fail_sys(err, errno, "read what is to be decoded");
        *out_len = (size_t)n;
        return 0;
}

static int put_end(struct server *s, const struct cas_decode_result *result, struct cas_err *err)
{
        const struct cas_buf *l = &result->listing;
        int rc = flush_ops(s, err);
        for (size_t at = 0; rc == 0 && at < l->len_bytes; at += CAS_DECODEFRAME_BYTES_MAX)
                rc = put(s, CAS_DECODEFRAME_LISTING, l->data + at,
                         cas_min_u64(l->len_bytes - at, CAS_DECODEFRAME_BYTES_MAX), err);
        uint8_t compression = (uint8_t)result->compression;
        return rc < 0 ? rc : put(s, CAS_DECODEFRAME_END, &compression, sizeof(compression), err);
}

static void put_error(struct server *s, const struct cas_err *why)
{
        uint8_t bytes[4 + ERROR_TEXT_BYTES_MAX];
        size_t len = strnlen(why->msg, ERROR_TEXT_BYTES_MAX);
        cas_put_le32(bytes, why->code);
        memcpy(bytes + 4, why->msg, len);
        if (!write_frame(s->out_fd, CAS_DECODEFRAME_ERROR, bytes, 4 + len))
                s->unheard = true;
}

bool cas_decodeframe_serve(int in_fd, int out_fd)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(CAS_DECODE_PIECE_BYTES);
        struct server s = {.in_fd = in_fd, .out_fd = out_fd, .piece = piece};
        const struct cas_decode_sink sink = {.arg = &s,
                                             .buffer = server_buffer,
                                             .tar = server_tar,
                                             .file = server_file,
                                             .content = server_content,
                                             .zeros = server_zeros};
        cas_cleanup_decode_result struct cas_decode_result result = {0};
        int rc = cas_decode_run(server_read, &s, &sink, &result, &err);
        if (rc == 0)
                rc = put_end(&s, &result, &err);
        if (rc < 0 && !s.unheard)
                put_error(&s, &err);
        cas_buf_release(&s.ops);
        return !s.unheard;
}

/* ---- reading ---- */

struct cas_decodeframe_reader {
        const struct cas_decode_sink *sink; /* borrowed */
        struct cas_decode_result *out;      /* borrowed */
        uint8_t head[CAS_DECODEFRAME_HEAD_BYTES];
        size_t have; /* bytes of the head, then of the payload */
        bool in_payload;
        enum cas_decodeframe_kind kind; /* in the payload */
        size_t len;                     /* of the payload, > 0 */
        uint8_t *to;                    /* where the payload goes; borrowed from here or the sink */
        uint8_t payload[CAS_DECODEFRAME_BYTES_MAX];

        bool ready, ended;
        uint32_t confined;
        const uint8_t *piece; /* the last; borrowed from the sink, piece_bytes long */
        size_t piece_bytes;
        size_t piece_used;  /* content of it lies before here */
        uint64_t file_left; /* of the open file; 0: none is open */
        struct cas_buf listing;
};

struct cas_decodeframe_reader *cas_decodeframe_reader_new(const struct cas_decode_sink *sink,
                                                          struct cas_decode_result *out)
{
        struct cas_decodeframe_reader *r = cas_xcalloc(1, sizeof(*r));
        r->sink = sink;
        r->out = out;
        return r;
}

void cas_decodeframe_reader_free(struct cas_decodeframe_reader *r)
{
        if (!r)
                return;
        cas_buf_release(&r->listing);
        free(r);
}

bool cas_decodeframe_reader_ready(const struct cas_decodeframe_reader *r, uint32_t *out)
{
        *out = r->confined;
        return r->ready;
}

bool cas_decodeframe_reader_ended(const struct cas_decodeframe_reader *r)
{
        return r->ended;
}

void cas_decodeframe_reader_room(struct cas_decodeframe_reader *r, uint8_t **out, size_t *len)
{
        cas_assert(!r->ended);
        *out = (r->in_payload ? r->to : r->head) + r->have;
        *len = (r->in_payload ? r->len : sizeof(r->head)) - r->have;
}

static int refuse(struct cas_err *err, const char *why)
{
        return cas_fail(err, CAS_E_CORRUPT, "the decoder sent nonsense: %s", why);
}

/* How long a payload may be; 0: no such frame, or not now. */
static size_t payload_max(const struct cas_decodeframe_reader *r, uint32_t kind)
{
        if (!r->ready)
                return kind == CAS_DECODEFRAME_READY ? 4 : 0;
        switch (kind) {
        case CAS_DECODEFRAME_TAR:
                return CAS_DECODE_PIECE_BYTES;
        case CAS_DECODEFRAME_OPS:
        case CAS_DECODEFRAME_LISTING:
                return CAS_DECODEFRAME_BYTES_MAX;
        case CAS_DECODEFRAME_END:
                return 1;
        case CAS_DECODEFRAME_ERROR:
                return 4 + ERROR_TEXT_BYTES_MAX;
        default:
                return 0;
        }
}

static int take_head(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        uint32_t kind = cas_get_le32(r->head), len = cas_get_le32(r->head + 4);
        if (len == 0 || len > payload_max(r, kind))
                return refuse(err, "a frame that cannot be");
        /* The tar is over when the listing begins. */
        if (r->listing.len_bytes > 0 &&
            (kind == CAS_DECODEFRAME_TAR || kind == CAS_DECODEFRAME_OPS))
                return refuse(err, "content after the listing");
        r->kind = (enum cas_decodeframe_kind)kind;
        r->len = len;
        r->in_payload = true;
        r->to = r->payload;
        if (kind == CAS_DECODEFRAME_TAR)
                r->to = r->sink->buffer(r->sink->arg);
        return 0;
}

/* ---- payloads ---- */

static int take_file(struct cas_decodeframe_reader *r, uint64_t size_bytes, struct cas_err *err)
{
        if (r->file_left > 0 || size_bytes <= CAS_INLINE_BYTES_MAX ||
            size_bytes > CAS_OBJECT_BYTES_MAX)
                return refuse(err, "a file that cannot be");
        r->file_left = size_bytes;
        return r->sink->file(r->sink->arg, size_bytes, err);
}

/* Content goes forward only, so that there is no more of it than there is tar. */
static int take_content(struct cas_decodeframe_reader *r, uint32_t at, uint32_t len,
                        struct cas_err *err)
{
        if (len == 0 || len > r->file_left || at < r->piece_used || at > r->piece_bytes ||
            len > r->piece_bytes - at)
                return refuse(err, "content that is not there");
        r->file_left -= len;
        r->piece_used = (size_t)at + len;
        return r->sink->content(r->sink->arg, r->piece + at, len, err);
}

static int take_zeros(struct cas_decodeframe_reader *r, uint64_t len, struct cas_err *err)
{
        if (len == 0 || len > r->file_left)
                return refuse(err, "a hole that is larger than its file");
        r->file_left -= len;
        return r->sink->zeros(r->sink->arg, len, err);
}

static int take_ops(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(r->payload, r->len);
        while (cas_cursor_left(&c) > 0) {
                uint8_t op = cas_cursor_u8(&c);
                uint64_t v = cas_cursor_le64(&c);
                int rc;
                if (c.failed)
                        return refuse(err, "half an operation");
                if (op == CAS_DECODEOP_FILE)
                        rc = take_file(r, v, err);
                else if (op == CAS_DECODEOP_CONTENT)
                        rc = take_content(r, (uint32_t)v, (uint32_t)(v >> 32), err);
                else if (op == CAS_DECODEOP_ZEROS)
                        rc = take_zeros(r, v, err);
                else
                        rc = refuse(err, "an unknown operation");
                if (rc < 0)
                        return rc;
        }
        return 0;
}

static int take_tar(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        r->piece = r->to;
        r->piece_bytes = r->len;
        r->piece_used = 0;
        return r->sink->tar(r->sink->arg, r->len, err);
}

static int take_listing(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        if (r->file_left > 0)
                return refuse(err, "a file that is cut off");
        if (cas_buf_try_reserve(&r->listing, r->len, CAS_LISTING_BYTES_MAX, err) < 0)
                return -(int)err->code;
        cas_buf_append(&r->listing, r->payload, r->len);
        return 0;
}

static int take_end(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        uint8_t compression = r->payload[0];
        if (r->listing.len_bytes == 0 || compression > CAS_COMPRESSION_ZSTD)
                return refuse(err, "an end that cannot be");
        r->ended = true;
        r->out->compression = (enum cas_compression)compression;
        r->out->listing = r->listing;
        cas_buf_init(&r->listing);
        return 0;
}

/* What it says of the layer, as text that a terminal can show. */
static int take_error(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        char text[ERROR_TEXT_BYTES_MAX + 1];
        uint32_t code = r->len >= 4 ? cas_get_le32(r->payload) : CAS_OK;
        size_t len = r->len >= 4 ? r->len - 4 : 0;
        for (size_t i = 0; i < len; i++) {
                uint8_t byte = r->payload[4 + i];
                text[i] = byte < 0x20 || byte == 0x7f ? '?' : (char)byte;
        }
        text[len] = '\0';
        switch (code) {
        case CAS_E_CORRUPT:
        case CAS_E_INVALID:
        case CAS_E_LIMIT:
        case CAS_E_UNSUPPORTED:
        case CAS_E_NOMEM:
                return cas_fail(err, (enum cas_code)code, "%s", text);
        default:
                return refuse(err, "an error that is none");
        }
}

static int take_payload(struct cas_decodeframe_reader *r, struct cas_err *err)
{
        switch (r->kind) {
        case CAS_DECODEFRAME_READY:
                if (r->ready || r->len != 4)
                        return refuse(err, "ready twice");
                r->ready = true;
                r->confined = cas_get_le32(r->payload);
                return 0;
        case CAS_DECODEFRAME_TAR:
                return take_tar(r, err);
        case CAS_DECODEFRAME_OPS:
                return take_ops(r, err);
        case CAS_DECODEFRAME_LISTING:
                return take_listing(r, err);
        case CAS_DECODEFRAME_END:
                return take_end(r, err);
        case CAS_DECODEFRAME_ERROR:
                return take_error(r, err);
        }
        return refuse(err, "an unknown frame");
}

int cas_decodeframe_reader_took(struct cas_decodeframe_reader *r, size_t n, struct cas_err *err)
{
        size_t want = r->in_payload ? r->len : sizeof(r->head);
        cas_assert(!r->ended && n > 0 && n <= want - r->have);
        r->have += n;
        if (r->have < want)
                return 0;
        r->have = 0;
        if (!r->in_payload)
                return take_head(r, err);
        r->in_payload = false;
        return take_payload(r, err);
}
