/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/parts.h"

#include <stdio.h>
#include <sys/random.h>

#define BOUNDARY_BYTES 33 /* hex of 16 random bytes, with NUL */
#define HEADER_BYTES_MAX 512

struct reg_parts {
        struct cas_blob_stream *stream; /* owned */
        struct reg_range *list;         /* owned */
        size_t count;
        uint64_t content_bytes;
        char media_type[256];
        char boundary[BOUNDARY_BYTES];
        /* Where reading is: `text` comes first, then `left_bytes` of the stream, then part `next`.
         */
        char text[HEADER_BYTES_MAX];
        size_t text_len, text_at;
        uint64_t left_bytes;
        size_t next; /* count: what ends it all; beyond: nothing */
};

/* What stands before part i, or at the end of all. */
static size_t write_text(const struct reg_parts *p, size_t i, char out[HEADER_BYTES_MAX])
{
        const struct reg_range *r = &p->list[i];
        int n;
        if (i == p->count)
                n = snprintf(out, HEADER_BYTES_MAX, "\r\n--%s--\r\n", p->boundary);
        else
                n = snprintf(out, HEADER_BYTES_MAX,
                             "%s--%s\r\nContent-Type: %s\r\n"
                             "Content-Range: bytes %llu-%llu/%llu\r\n\r\n",
                             i ? "\r\n" : "", p->boundary, p->media_type,
                             (unsigned long long)r->first,
                             (unsigned long long)(r->first + r->bytes - 1),
                             (unsigned long long)p->content_bytes);
        cas_assert(n > 0 && n < HEADER_BYTES_MAX);
        return (size_t)n;
}

/* Of 128 random bits: no content has it but by design, and none can know it. */
static void make_boundary(char out[BOUNDARY_BYTES])
{
        uint64_t r[2];
        ssize_t n = getrandom(r, sizeof(r), 0);
        cas_assert(n == (ssize_t)sizeof(r));
        (void)snprintf(out, BOUNDARY_BYTES, "%016llx%016llx", (unsigned long long)r[0],
                       (unsigned long long)r[1]);
}

/* Nothing that a client or an image made up may end the line. */
static bool is_line(const char *text)
{
        while ((unsigned char)*text >= ' ' && *text != 0x7f)
                text++;
        return !*text;
}

struct reg_parts *reg_parts_new(struct cas_blob_stream *stream, struct reg_range *list,
                                size_t count, uint64_t content_bytes, const char *media_type)
{
        struct reg_parts *p = cas_xcalloc(1, sizeof(*p));
        p->stream = stream;
        p->list = list;
        p->count = count;
        p->content_bytes = content_bytes;
        (void)snprintf(p->media_type, sizeof(p->media_type), "%s",
                       is_line(media_type) ? media_type : "application/octet-stream");
        make_boundary(p->boundary);
        return p;
}

struct reg_range reg_parts_window(const struct reg_range *list, size_t count)
{
        uint64_t first = UINT64_MAX, end = 0;
        for (size_t i = 0; i < count; i++) {
                first = cas_min_u64(first, list[i].first);
                end = cas_max_u64(end, list[i].first + list[i].bytes);
        }
        return (struct reg_range){.first = first, .bytes = end - first};
}

static void parts_free(void *source)
{
        struct reg_parts *p = source;
        cas_blob_stream_close(p->stream);
        free(p->list);
        free(p);
}

/* The next text, and the part that follows it. False: that was all. */
static bool begin_next(struct reg_parts *p)
{
        if (p->next > p->count)
                return false;
        size_t i = p->next++;
        p->text_at = 0;
        p->text_len = write_text(p, i, p->text);
        if (i < p->count) {
                cas_blob_stream_seek(p->stream, p->list[i].first);
                p->left_bytes = p->list[i].bytes;
        }
        return true;
}

static int parts_read(void *source, void *buf, size_t len, size_t *out_len, void (*wake)(void *arg),
                      void *arg, struct cas_err *err)
{
        struct reg_parts *p = source;
        uint8_t *out = buf;
        *out_len = 0;
        while (*out_len < len) {
                size_t room = len - *out_len, got = 0;
                if (p->text_at < p->text_len) {
                        got = cas_min_u64(room, p->text_len - p->text_at);
                        memcpy(out + *out_len, p->text + p->text_at, got);
                        p->text_at += got;
                } else if (p->left_bytes > 0) {
                        size_t want = cas_min_u64(room, p->left_bytes);
                        int rc = cas_blob_stream_poll(p->stream, out + *out_len, want, &got, wake,
                                                      arg, err);
                        if (rc < 0)
                                return rc;
                        if (got == 0)
                                return 0; /* to be asked again */
                        p->left_bytes -= got;
                } else if (!begin_next(p)) {
                        return 0;
                }
                *out_len += got;
        }
        return 0;
}

void reg_parts_reply(struct reg_parts *p, struct reg_http_req *req)
{
        static const struct reg_http_source_ops ops = {parts_read, parts_free};
        char text[HEADER_BYTES_MAX];
        uint64_t len = write_text(p, p->count, text);
        for (size_t i = 0; i < p->count; i++)
                len += write_text(p, i, text) + p->list[i].bytes;
        reg_http_reply_headerf(req, "Content-Type", "multipart/byteranges; boundary=%s",
                               p->boundary);
        reg_http_reply_source(req, 206, len, &ops, p);
}
