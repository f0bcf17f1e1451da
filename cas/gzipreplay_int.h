/* SPDX-License-Identifier: Apache-2.0 */
/* Analysis of one gzip member: whether an encoder class, at a level, makes its deflate stream, and
 * of which parts. The stream is decoded once; what comes out is fed to the encoder, and what that
 * makes is compared with the blob, up to the first difference. Where the stream was flushed, or
 * put together of pieces, shows in its blocks; how it went on from there is tried: the same
 * encoder, or a fresh one that saw so much of what came before. Constant memory, but for the list
 * of parts, which is bounded. One thread. Private to cas. */
#ifndef CAS_GZIPREPLAY_INT_H
#define CAS_GZIPREPLAY_INT_H

#include "cas/deflate/token.h"
#include "cas/gzipmark_int.h"
#include "cas/gzipplan_int.h"
#include "cas/wrap_int.h"

struct cas_gzip_coder {
        const struct cas_deflate_class *class;
        int level;
};

/* Tokens of a block that the class closes because it is full: any other was closed by a flush, or
 * is stored. 0: the class's blocks are not always of the same number. */
uint64_t cas_gzip_full_block_tokens(const struct cas_deflate_class *class);

/* How pieces are looked for. */
enum cas_gzip_framing {
        CAS_GZIP_FRAMING_LEARN,  /* what was right twice is taken to be so from there on */
        CAS_GZIP_FRAMING_DOUBT,  /* everything is tried everywhere */
        CAS_GZIP_FRAMING_PIECES, /* of CAS_GZIP_PIECE_BYTES, whether it shows or not */
        CAS_GZIP_FRAMING_COUNT
};
#define CAS_GZIP_PIECE_BYTES (128 * CAS_KIB) /* what pigz takes */
#define CAS_GZIP_PARTS_MAX (1 << 18)         /* of one member */

struct cas_gzip_found_part {
        struct cas_gzip_part part;
        bool first_end_is_open;
};
struct cas_gzip_found_mark {
        uint64_t blob_offset, tar_offset;
        struct cas_gzip_mark mark; /* part_index counts from the member's first part */
};
struct cas_gzip_member {
        struct cas_gzip_found_part *parts; /* owned */
        size_t part_count, part_alloc;
        struct cas_gzip_found_mark *marks; /* owned; behind the member's first byte */
        size_t mark_count, mark_alloc;
        uint64_t deflate_bytes, plain_bytes;
        uint32_t crc;
        bool has_pieces; /* begun by fresh encoders */
        bool has_points; /* flushed somewhere: another framing may fit when this one did not */
};
void cas_gzip_member_release(struct cas_gzip_member *m);
#define cas_cleanup_gzip_member __attribute__((cleanup(cas_gzip_member_release)))

struct cas_gzipreplay;
struct cas_gzipreplay *cas_gzipreplay_new(const struct cas_wrap_input *in);
void cas_gzipreplay_free(struct cas_gzipreplay *g);
CAS_DEFINE_CLEANUP(cas_cleanup_gzipreplay_, struct cas_gzipreplay *, cas_gzipreplay_free);
#define cas_cleanup_gzipreplay __attribute__((cleanup(cas_cleanup_gzipreplay_)))

/* Where the blob is read next: between members. */
void cas_gzipreplay_seek(struct cas_gzipreplay *g, uint64_t blob_offset);
uint64_t cas_gzipreplay_offset(const struct cas_gzipreplay *g);
/* What follows there: at least `want` bytes of it, unless the blob ends. Borrowed. */
int cas_gzipreplay_peek(struct cas_gzipreplay *g, size_t want, const uint8_t **data, size_t *len,
                        struct cas_err *err) CAS_MUST_CHECK;
/* skip <= what peek gave. */
void cas_gzipreplay_skip(struct cas_gzipreplay *g, size_t skip);

/* Tries a coder on the deflate stream that begins here; `tar_offset`: of what it decodes to.
 * *last_mark_at is where in tar the latest mark is, of this member or one before; marks are set
 * `spacing` apart. When it fits, the next byte is the one behind the stream; when not, *out_fits is
 * false, and only seek may follow. `m` is filled anew.
 * Errors: CORRUPT (no deflate), IO. */
int cas_gzipreplay_member(struct cas_gzipreplay *g, struct cas_gzip_coder coder,
                          enum cas_gzip_framing framing, uint64_t tar_offset, uint64_t spacing,
                          uint64_t *last_mark_at, struct cas_gzip_member *m, bool *out_fits,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Decodes the stream without trying anything: m has its lengths and checksum, and no parts. */
int cas_gzipreplay_measure(struct cas_gzipreplay *g, struct cas_gzip_member *m,
                           struct cas_err *err) CAS_MUST_CHECK;
/* Bytes that were fed to encoders so far. */
uint64_t cas_gzipreplay_work_bytes(const struct cas_gzipreplay *g);

#endif
