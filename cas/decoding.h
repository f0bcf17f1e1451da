/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of a layer's stored bytes, apart from the store: decompression, the tar, and what its
 * entries come to. What comes out goes to a sink: the tar stream, the content of its files, and at
 * the end the listing, in which a file object is known by its number alone. So it can run in a
 * process that may do nothing else (cas/decodeframe.h is how the two talk; spec/security.md says
 * what is believed), and here where there is none. */
#ifndef CAS_DECODING_H
#define CAS_DECODING_H

#include "cas/buf.h"
#include "cas/decompress.h"
#include "cas/digest.h"
#include "cas/limits.h"

#define CAS_DECODE_PIECE_BYTES (512 * 1024)

/* Takes what is decoded, in this order: pieces of the tar, each followed by what of it is content
 * of files. A file's content comes whole, and before the next file begins. */
struct cas_decode_sink {
        void *arg; /* of all */
        /* Where the next piece goes: CAS_DECODE_PIECE_BYTES, which stay until the next call. */
        uint8_t *(*buffer)(void *arg);
        /* That buffer has len bytes of the tar now. */
        int (*tar)(void *arg, size_t len, struct cas_err *err);
        /* The next file object begins: the first is number 1. Never one that a listing has inside
         * of itself. */
        int (*file)(void *arg, uint64_t size_bytes, struct cas_err *err);
        /* Its next bytes: borrowed, out of the last piece. */
        int (*content)(void *arg, const uint8_t *data, size_t len, struct cas_err *err);
        int (*zeros)(void *arg, uint64_t len, struct cas_err *err);
};

struct cas_decode_result {
        enum cas_compression compression;
        /* As spec/layer.md has it, but for the digests of file objects: the object's number (u64)
         * and zeros. */
        struct cas_buf listing;
};
void cas_decode_result_release(struct cas_decode_result *r);
#define cas_cleanup_decode_result __attribute__((cleanup(cas_decode_result_release)))

/* Decodes all that `source` gives; sets out when it ends. One thread, no I/O of its own. Errors:
 * CORRUPT, INVALID, LIMIT, UNSUPPORTED (a bad layer), and those of source and sink. */
int cas_decode_run(cas_source_fn source, void *source_arg, const struct cas_decode_sink *sink,
                   struct cas_decode_result *out, struct cas_err *err) CAS_MUST_CHECK;

/* Another place to decode in, of the same contract; *out may be changed on errors. Thread-safe.
 * Besides the errors above: DENIED (there is no such place, and none else is wanted), IO (it broke:
 * the message says how). */
struct cas_decoder {
        int (*run)(void *ctx, cas_source_fn source, void *source_arg,
                   const struct cas_decode_sink *sink, struct cas_decode_result *out,
                   struct cas_err *err);
        void *ctx;
};

/* The object number that an entry of such a listing has; 0: none that can be. */
uint64_t cas_decode_number(const struct cas_hash *object);

/* Holes expand as compression does, and are bounded in the same way. Errors: LIMIT. */
int cas_decode_check_holes(uint64_t hole_bytes, uint64_t tar_bytes, uint64_t stored_bytes,
                           struct cas_err *err) CAS_MUST_CHECK;

#endif
