/* SPDX-License-Identifier: Apache-2.0 */
/* Layer streams: gzip (any number of members, RFC 1952), zstd (any number of
 * frames and skippable frames, RFC 8878) or plain bytes, told apart by their
 * first bytes. Pull interface over a source of stored bytes; constant memory.
 * Bounds bombs by CAS_TAR_BYTES_MAX and CAS_TAR_RATIO_MAX. */
#ifndef CAS_DECOMPRESS_H
#define CAS_DECOMPRESS_H

#include "cas/err.h"

enum cas_compression {
        CAS_COMPRESSION_NONE = 0,
        CAS_COMPRESSION_GZIP = 1,
        CAS_COMPRESSION_ZSTD = 2
};

/* Gives up to len stored bytes; *out_len 0 means the end. */
typedef int (*cas_source_fn)(void *arg, void *buf, size_t len, size_t *out_len,
                             struct cas_err *err);

struct cas_decompress;
/* Detects the compression from the first bytes. */
int cas_decompress_open(cas_source_fn source, void *arg, struct cas_decompress **out,
                        struct cas_err *err) CAS_MUST_CHECK;
enum cas_compression cas_decompress_kind(const struct cas_decompress *d);
/* Up to len decoded bytes; *out_len 0 means the end, after checksums were verified.
 * Errors: CORRUPT (bad stream, checksum, truncation, trailing garbage), LIMIT, and the source's. */
int cas_decompress_read(struct cas_decompress *d, void *buf, size_t len, size_t *out_len,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Stored bytes consumed so far. */
uint64_t cas_decompress_stored_bytes(const struct cas_decompress *d);
/* Whether that many decoded bytes may come of so many stored ones (CAS_TAR_BYTES_MAX,
 * CAS_TAR_RATIO_MAX). Errors: LIMIT. */
int cas_decompress_check(uint64_t decoded_bytes, uint64_t stored_bytes,
                         struct cas_err *err) CAS_MUST_CHECK;
void cas_decompress_close(struct cas_decompress *d);
CAS_DEFINE_CLEANUP(cas_cleanup_decompress_, struct cas_decompress *, cas_decompress_close);
#define cas_cleanup_decompress __attribute__((cleanup(cas_cleanup_decompress_)))

#endif
