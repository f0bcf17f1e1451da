/* SPDX-License-Identifier: Apache-2.0 */
/* The codecs of blocks. Lengths are kept beside the frame, so decoding is into
 * an exact number of bytes, and what does not fill it exactly is damaged.
 * cas_codec_decode is thread-safe; a compressor belongs to one thread at a time. */
#ifndef CAS_CODEC_H
#define CAS_CODEC_H

#include "cas/err.h"

/* Numbers are in packs and in the index. */
enum cas_codec {
        CAS_CODEC_NONE = 0,
        CAS_CODEC_LZ4 = 1,  /* one LZ4 block, without LZ4's own frame */
        CAS_CODEC_ZSTD = 2, /* one zstd frame */
        /* The same, of an encoder that is not ours, and of one chunk: recipes count on its very
         * bytes, so it is moved as it is, never compressed anew. It may be longer than the chunk.
         */
        CAS_CODEC_ZSTD_KEPT = 3,
};

bool cas_codec_is_known(unsigned codec);
/* The longest frame of so many bytes that is kept. */
#define CAS_KEPT_STORED_BYTES_MAX(RAW_BYTES) ((RAW_BYTES) + 4096)
const char *cas_codec_name(enum cas_codec codec);

struct cas_compressor;
/* level: zstd's own; of LZ4 the acceleration (1: densest). Of CAS_CODEC_LZ4 and CAS_CODEC_ZSTD. */
struct cas_compressor *cas_compressor_new(enum cas_codec codec, int level);
void cas_compressor_free(struct cas_compressor *c);
CAS_DEFINE_CLEANUP(cas_cleanup_compressor_, struct cas_compressor *, cas_compressor_free);
#define cas_cleanup_compressor __attribute__((cleanup(cas_cleanup_compressor_)))
enum cas_codec cas_compressor_codec(const struct cas_compressor *c);
/* The length of what was written to dst, or 0 when it would be more than dst_max: whoever
 * gives as dst_max what compression must win stores the bytes as they are then. */
size_t cas_compressor_run(struct cas_compressor *c, const void *data, size_t len, void *dst,
                          size_t dst_max);

/* Decodes into exactly raw_len bytes. Any input is safe. Errors: CORRUPT, UNSUPPORTED (codec). */
int cas_codec_decode(unsigned codec, const void *frame, size_t frame_len, void *raw, size_t raw_len,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
