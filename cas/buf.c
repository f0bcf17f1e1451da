/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/buf.h"

#include <stdarg.h>
#include <stdio.h>

void cas_buf_init(struct cas_buf *b)
{
        *b = (struct cas_buf)CAS_BUF_INIT;
}

void cas_buf_release(struct cas_buf *b)
{
        free(b->data);
        cas_buf_init(b);
}

void cas_buf_clear(struct cas_buf *b)
{
        b->len_bytes = 0;
        if (b->data)
                b->data[0] = '\0';
}

static size_t grown_size(const struct cas_buf *b, size_t extra)
{
        size_t want = b->len_bytes + extra + 1;
        size_t twice = b->alloc_bytes + b->alloc_bytes / 2;
        return want > twice ? want : twice;
}

void cas_buf_reserve(struct cas_buf *b, size_t extra)
{
        if (b->len_bytes + extra < b->alloc_bytes)
                return;
        b->alloc_bytes = grown_size(b, extra);
        b->data = cas_xrealloc(b->data, b->alloc_bytes);
}

int cas_buf_try_reserve(struct cas_buf *b, size_t extra, size_t max_bytes, struct cas_err *err)
{
        if (extra > max_bytes || b->len_bytes > max_bytes - extra)
                return cas_fail(err, CAS_E_LIMIT, "more than %zu bytes", max_bytes);
        if (b->len_bytes + extra < b->alloc_bytes)
                return 0;
        size_t alloc = grown_size(b, extra);
        uint8_t *data = realloc(b->data, alloc);
        if (!data)
                return cas_fail(err, CAS_E_NOMEM, "no memory for %zu bytes", alloc);
        b->data = data;
        b->alloc_bytes = alloc;
        return 0;
}

void cas_buf_append(struct cas_buf *b, const void *data, size_t len)
{
        cas_buf_reserve(b, len);
        if (len)
                memcpy(b->data + b->len_bytes, data, len);
        b->len_bytes += len;
        b->data[b->len_bytes] = '\0';
}

void cas_buf_append_str(struct cas_buf *b, const char *s)
{
        cas_buf_append(b, s, strlen(s));
}

void cas_buf_append_byte(struct cas_buf *b, uint8_t v)
{
        cas_buf_append(b, &v, 1);
}

void cas_buf_append_le16(struct cas_buf *b, uint16_t v)
{
        uint8_t raw[2];
        cas_put_le16(raw, v);
        cas_buf_append(b, raw, sizeof(raw));
}

void cas_buf_append_le32(struct cas_buf *b, uint32_t v)
{
        uint8_t raw[4];
        cas_put_le32(raw, v);
        cas_buf_append(b, raw, sizeof(raw));
}

void cas_buf_append_le64(struct cas_buf *b, uint64_t v)
{
        uint8_t raw[8];
        cas_put_le64(raw, v);
        cas_buf_append(b, raw, sizeof(raw));
}

void cas_buf_append_zero(struct cas_buf *b, size_t len)
{
        cas_buf_reserve(b, len);
        memset(b->data + b->len_bytes, 0, len + 1);
        b->len_bytes += len;
}

void cas_buf_printf(struct cas_buf *b, const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        va_list again;
        va_copy(again, ap);
        int n = vsnprintf(NULL, 0, fmt, ap);
        va_end(ap);
        cas_assert(n >= 0);
        cas_buf_reserve(b, (size_t)n);
        (void)vsnprintf((char *)b->data + b->len_bytes, (size_t)n + 1, fmt, again);
        va_end(again);
        b->len_bytes += (size_t)n;
}

const uint8_t *cas_cursor_take(struct cas_cursor *c, size_t len)
{
        if (c->failed || cas_cursor_left(c) < len) {
                c->failed = true;
                return NULL;
        }
        const uint8_t *at = c->at;
        c->at += len;
        return at;
}

uint8_t cas_cursor_u8(struct cas_cursor *c)
{
        const uint8_t *p = cas_cursor_take(c, 1);
        return p ? *p : 0;
}

uint16_t cas_cursor_le16(struct cas_cursor *c)
{
        const uint8_t *p = cas_cursor_take(c, 2);
        return p ? cas_get_le16(p) : 0;
}

uint32_t cas_cursor_le32(struct cas_cursor *c)
{
        const uint8_t *p = cas_cursor_take(c, 4);
        return p ? cas_get_le32(p) : 0;
}

uint64_t cas_cursor_le64(struct cas_cursor *c)
{
        const uint8_t *p = cas_cursor_take(c, 8);
        return p ? cas_get_le64(p) : 0;
}
