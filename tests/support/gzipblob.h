/* SPDX-License-Identifier: Apache-2.0 */
/* gzip blobs as different programs make them, and what analysis makes of them. */
#ifndef TESTS_SUPPORT_GZIPBLOB_H
#define TESTS_SUPPORT_GZIPBLOB_H

#include "cas/deflate/encoder.h"
#include "cas/wrap_int.h"

/* A header of ten bytes. */
void gzipblob_header(struct cas_buf *out, uint32_t mtime, uint8_t xfl, uint8_t os);
void gzipblob_trailer(struct cas_buf *out, const void *plain, size_t len);
/* Pieces of piece_bytes, each by a fresh encoder that saw so much of what came before; each but
 * the last ends with `end`, the last with last_end (NONE: nothing) and FINISH. */
struct gzipblob_pieces {
        const struct cas_deflate_class *class;
        int level;
        size_t piece_bytes; /* SIZE_MAX: one piece */
        size_t dictionary_bytes;
        enum cas_deflate_end end, last_end;
};
void gzipblob_deflate(struct cas_buf *out, const struct gzipblob_pieces *how, const uint8_t *plain,
                      size_t len);
/* Header, stream, trailer. */
void gzipblob_member(struct cas_buf *out, const struct gzipblob_pieces *how, const uint8_t *plain,
                     size_t len);

/* A recipe of a blob, in memory. */
struct gzipblob_recipe {
        struct cas_recipe_writer writer;
        struct cas_recipe *recipe; /* NULL: there is none, see report */
        struct cas_wrap_report report;
        enum cas_wrap_kind kind;
        uint64_t wrap_bytes;
        uint32_t mark_count;
};
/* 0 or -code. */
int gzipblob_analyse(const struct cas_buf *blob, uint64_t tar_bytes, struct gzipblob_recipe *out,
                     struct cas_err *err);
void gzipblob_recipe_release(struct gzipblob_recipe *r);
#define cleanup_gzipblob_recipe __attribute__((cleanup(gzipblob_recipe_release)))
/* Makes the blob from a mark on, up to `end`; 0 or -code. */
int gzipblob_regenerate(struct gzipblob_recipe *r, uint32_t mark, uint64_t end,
                        const struct cas_buf *tar, struct cas_buf *out, struct cas_err *err);

#endif
