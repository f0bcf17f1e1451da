/* SPDX-License-Identifier: Apache-2.0 */
/* A sink of decoding that keeps what comes in memory, and checks what a sink may rely on. */
#ifndef TESTS_SUPPORT_MEMSINK_H
#define TESTS_SUPPORT_MEMSINK_H

#include "cas/decoding.h"
#include "cas/digest.h"

struct memsink {
        uint8_t *piece; /* CAS_DECODE_PIECE_BYTES */
        size_t piece_bytes;
        const uint8_t *used;         /* content of the piece lies before here */
        struct cas_hasher *tar;      /* the stream … */
        struct cas_hasher *contents; /* … and all files, one after the other: sizes, bytes */
        uint64_t tar_bytes, content_bytes, zero_bytes, file_count, file_left;
};

static inline uint8_t *memsink_buffer(void *arg)
{
        return ((struct memsink *)arg)->piece;
}

static inline int memsink_tar(void *arg, size_t len, struct cas_err *err)
{
        struct memsink *m = arg;
        (void)err;
        cas_assert(len > 0 && len <= CAS_DECODE_PIECE_BYTES);
        cas_hasher_update(m->tar, m->piece, len);
        m->piece_bytes = len;
        m->tar_bytes += len;
        m->used = m->piece;
        return 0;
}

static inline int memsink_file(void *arg, uint64_t size_bytes, struct cas_err *err)
{
        struct memsink *m = arg;
        (void)err;
        cas_assert(m->file_left == 0 && size_bytes > 64 && size_bytes <= CAS_OBJECT_BYTES_MAX);
        m->file_left = size_bytes;
        m->file_count++;
        cas_hasher_update(m->contents, &size_bytes, sizeof(size_bytes));
        return 0;
}

static inline int memsink_content(void *arg, const uint8_t *data, size_t len, struct cas_err *err)
{
        struct memsink *m = arg;
        (void)err;
        cas_assert(len > 0 && len <= m->file_left);
        cas_assert(data >= m->used && data + len <= m->piece + m->piece_bytes);
        m->used = data + len;
        m->file_left -= len;
        m->content_bytes += len;
        cas_hasher_update(m->contents, data, len);
        return 0;
}

static inline int memsink_zeros(void *arg, uint64_t len, struct cas_err *err)
{
        struct memsink *m = arg;
        (void)err;
        cas_assert(len > 0 && len <= m->file_left);
        m->file_left -= len;
        m->zero_bytes += len;
        return 0;
}

static inline void memsink_init(struct memsink *m, struct cas_decode_sink *out)
{
        *m = (struct memsink){.piece = cas_xcalloc(1, CAS_DECODE_PIECE_BYTES),
                              .tar = cas_hasher_new(CAS_DIGEST_SHA256),
                              .contents = cas_hasher_new(CAS_DIGEST_SHA256)};
        m->used = m->piece;
        *out = (struct cas_decode_sink){.arg = m,
                                        .buffer = memsink_buffer,
                                        .tar = memsink_tar,
                                        .file = memsink_file,
                                        .content = memsink_content,
                                        .zeros = memsink_zeros};
}

static inline void memsink_release(struct memsink *m)
{
        free(m->piece);
        cas_hasher_free(m->tar);
        cas_hasher_free(m->contents);
}

#endif
