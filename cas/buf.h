/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer. Always NUL-terminated one past `len`, so that text in
 * it is a C string. Growth beyond what the caller bounded aborts only for want
 * of memory: callers check named limits before they append foreign input. */
#ifndef CAS_BUF_H
#define CAS_BUF_H

#include "cas/err.h"

struct cas_buf {
        uint8_t *data; /* owned */
        size_t len_bytes;
        size_t alloc_bytes;
};

#define CAS_BUF_INIT                                                                               \
        {                                                                                          \
                0                                                                                  \
        }

void cas_buf_init(struct cas_buf *b);
void cas_buf_release(struct cas_buf *b); /* contents; usable again after init */
void cas_buf_clear(struct cas_buf *b);   /* empty, memory kept */
#define cas_cleanup_buf __attribute__((cleanup(cas_buf_release)))

/* Makes room for `extra` more bytes; aborts when there is no memory. */
void cas_buf_reserve(struct cas_buf *b, size_t extra);
/* The same where the size comes from outside. Errors: NOMEM, LIMIT (> max_bytes in all). */
int cas_buf_try_reserve(struct cas_buf *b, size_t extra, size_t max_bytes,
                        struct cas_err *err) CAS_MUST_CHECK;
void cas_buf_append(struct cas_buf *b, const void *data, size_t len);
void cas_buf_append_str(struct cas_buf *b, const char *s);
void cas_buf_append_byte(struct cas_buf *b, uint8_t v);
void cas_buf_append_le16(struct cas_buf *b, uint16_t v);
void cas_buf_append_le32(struct cas_buf *b, uint32_t v);
void cas_buf_append_le64(struct cas_buf *b, uint64_t v);
void cas_buf_append_zero(struct cas_buf *b, size_t len);
void cas_buf_printf(struct cas_buf *b, const char *fmt, ...) CAS_PRINTF(2, 3);
static inline const char *cas_buf_str(const struct cas_buf *b)
{
        return b->data ? (const char *)b->data : "";
}

/* A bounded reader over bytes that are not trusted: after the first read past
 * the end `failed` stays set and every read returns zero. */
struct cas_cursor {
        const uint8_t *at; /* borrowed */
        const uint8_t *end;
        bool failed;
};
static inline struct cas_cursor cas_cursor_over(const void *data, size_t len)
{
        const uint8_t *at = data;
        return (struct cas_cursor){.at = at, .end = len > 0 ? at + len : at};
}
static inline size_t cas_cursor_left(const struct cas_cursor *c)
{
        return (size_t)(c->end - c->at);
}
/* Borrowed pointer to the next len bytes, or NULL (and failed). */
const uint8_t *cas_cursor_take(struct cas_cursor *c, size_t len);
uint8_t cas_cursor_u8(struct cas_cursor *c);
uint16_t cas_cursor_le16(struct cas_cursor *c);
uint32_t cas_cursor_le32(struct cas_cursor *c);
uint64_t cas_cursor_le64(struct cas_cursor *c);

#endif
