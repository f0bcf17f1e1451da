/* SPDX-License-Identifier: Apache-2.0 */
/* A pack as the owner lends it to `lamina fs`: its home copy, its cache (pieces at their offsets,
 * holes elsewhere), or neither; what is in none of them the owner brings (spec/resolve.md). Any
 * number of threads may read; one frees it. */
#ifndef FFS_LENTPACK_INT_H
#define FFS_LENTPACK_INT_H

#include "fusefs/resolve_client_int.h"

struct ffs_lentpack;
/* Errors: NOTFOUND, IO; BUSY when the owner is away. */
int ffs_lentpack_open(struct ffs_resolve_client *client, uint64_t pack_id, int timeout_ms,
                      struct ffs_lentpack **out, struct cas_err *err) CAS_MUST_CHECK;
void ffs_lentpack_free(struct ffs_lentpack *p);

/* Where a block came from, and what that says of the pack. */
struct ffs_lentpack_use {
        bool from_home;
        bool by_owner;      /* who knows of it, then */
        bool cache_was_bad; /* what stood there was not the block */
        bool stale;         /* to be asked for again */
};
/* The decoded, verified block of an extent: from the cache where it is there, else from the home
 * copy, else the owner brings it. Nothing is left of it in the page cache. Errors: as
 * cas_block_read; BUSY when the owner is wanted and away, or the block is on its way. */
int ffs_lentpack_read(struct ffs_lentpack *p, struct ffs_resolve_client *client,
                      const struct cas_extent *extent, int timeout_ms, void *out,
                      struct cas_buf *scratch, struct ffs_lentpack_use *use,
                      struct cas_err *err) CAS_MUST_CHECK;
bool ffs_lentpack_wants_touched(const struct ffs_lentpack *p);
/* Asks the disk for what will be read of the home copy, if none of it is in the cache. */
void ffs_lentpack_fetch(const struct ffs_lentpack *p, uint64_t offset, uint64_t bytes);
/* Drops it from the page cache. bytes 0: to the end. */
void ffs_lentpack_drop(const struct ffs_lentpack *p, uint64_t offset, uint64_t bytes);
/* Whether a file of it was removed since: the pack has moved, or its cache was emptied. */
bool ffs_lentpack_is_stale(const struct ffs_lentpack *p);

#endif
