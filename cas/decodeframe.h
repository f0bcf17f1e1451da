/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding in another process: what it says, as a stream of frames (spec/decoder.md). One side
 * decodes what comes in at one descriptor and writes frames to another; the other side takes the
 * stream apart without I/O of its own, believes nothing, and hands on to a sink what a decoder may
 * say. One thread each. */
#ifndef CAS_DECODEFRAME_H
#define CAS_DECODEFRAME_H

#include "cas/decoding.h"

#define CAS_DECODEFRAME_HEAD_BYTES 8
#define CAS_DECODEFRAME_BYTES_MAX (64 * 1024) /* but TAR, which has a piece */

enum cas_decodeframe_kind {
        CAS_DECODEFRAME_READY = 1,   /* how the process is confined; the first, and only then */
        CAS_DECODEFRAME_TAR = 2,     /* the next piece of the tar */
        CAS_DECODEFRAME_OPS = 3,     /* what the last piece has of files */
        CAS_DECODEFRAME_LISTING = 4, /* a part of it */
        CAS_DECODEFRAME_END = 5,     /* all was given */
        CAS_DECODEFRAME_ERROR = 6,   /* a bad layer, or a failure */
};
/* In OPS, each a byte and what follows it. */
enum cas_decodeop {
        CAS_DECODEOP_FILE = 1,    /* u64: size */
        CAS_DECODEOP_CONTENT = 2, /* u32, u32: where in the piece, how much */
        CAS_DECODEOP_ZEROS = 3,   /* u64: how many */
};

/* What holds the decoding process. */
enum cas_decode_confined {
        CAS_CONFINED_SECCOMP = 1,
        CAS_CONFINED_LANDLOCK = 2,
        CAS_CONFINED_USER = 4, /* an id that owns nothing */
        CAS_CONFINED_NAMESPACES = 8,
};

/* Writes a READY frame. False: nobody reads. */
bool cas_decodeframe_ready(int out_fd, uint32_t confined) CAS_MUST_CHECK;
/* Decodes the bytes that come in at in_fd. False: nobody reads; errors of the layer go out. */
bool cas_decodeframe_serve(int in_fd, int out_fd) CAS_MUST_CHECK;

struct cas_decodeframe_reader;
/* sink and out are borrowed; out is filled at the end. */
struct cas_decodeframe_reader *cas_decodeframe_reader_new(const struct cas_decode_sink *sink,
                                                          struct cas_decode_result *out);
void cas_decodeframe_reader_free(struct cas_decodeframe_reader *r);
CAS_DEFINE_CLEANUP(cas_cleanup_decodeframe_reader_, struct cas_decodeframe_reader *,
                   cas_decodeframe_reader_free);
#define cas_cleanup_decodeframe_reader __attribute__((cleanup(cas_cleanup_decodeframe_reader_)))
/* Where the next bytes of the stream go, and how many at most (> 0 until it has ended). */
void cas_decodeframe_reader_room(struct cas_decodeframe_reader *r, uint8_t **out, size_t *len);
/* That n bytes came there (n > 0). Errors: CORRUPT (not what a decoder may say), those of the sink,
 * and what the decoder reports: CORRUPT, INVALID, LIMIT, UNSUPPORTED, NOMEM. Then r is only to be
 * freed. */
int cas_decodeframe_reader_took(struct cas_decodeframe_reader *r, size_t n,
                                struct cas_err *err) CAS_MUST_CHECK;
/* How it is confined, once it has said so; *out gets enum cas_decode_confined. */
bool cas_decodeframe_reader_ready(const struct cas_decodeframe_reader *r, uint32_t *out);
/* All was said, and nothing may follow. */
bool cas_decodeframe_reader_ended(const struct cas_decodeframe_reader *r);

#endif
