/* SPDX-License-Identifier: Apache-2.0 */
/* Content of objects for `lamina fs`: asks the owner where an object lies,
 * reads blocks from packs, decodes and verifies them, and keeps bounded caches
 * of extents, decoded blocks and pack descriptors. Thread-safe. */
#ifndef FFS_READER_INT_H
#define FFS_READER_INT_H

#include "cas/object.h"

struct ffs_reader_config {
        const char *resolve_path;
        size_t block_cache_bytes;
        size_t extent_cache_bytes;
        unsigned packs_max; /* descriptors kept */
};

struct ffs_reader;
struct ffs_reader *ffs_reader_new(const struct ffs_reader_config *config);
void ffs_reader_free(struct ffs_reader *r);

/* The size of an object; what the owner says of its place is kept for the first read.
 * Errors: NOTFOUND; BUSY when the owner is away. */
int ffs_reader_stat(struct ffs_reader *r, const struct cas_hash *object, int timeout_ms,
                    uint64_t *size_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* Exactly len bytes, which lie within the object. Each thread has a scratch buffer of its own.
 * Errors: BUSY when the owner is away and had to be asked; CORRUPT, IO, NOTFOUND. */
int ffs_reader_read(struct ffs_reader *r, const struct cas_hash *object, uint64_t size_bytes,
                    uint64_t offset, void *out, size_t len, struct cas_buf *scratch, int timeout_ms,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Readable when packs were read since they were tidied up. Borrowed. */
int ffs_reader_activity_fd(const struct ffs_reader *r);
/* To be called now and then while that is so: when no block was read since the last call, what
 * the page cache still has of packs is dropped, as are decoded blocks, and the result is true. */
bool ffs_reader_tidy(struct ffs_reader *r);
/* Waits at most timeout_ms for the owner. Errors: BUSY. */
int ffs_reader_ping(struct ffs_reader *r, int timeout_ms, struct cas_err *err) CAS_MUST_CHECK;

#endif
