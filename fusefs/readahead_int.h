/* SPDX-License-Identifier: Apache-2.0 */
/* Read-ahead in packs. Files of a layer lie in a pack in the layer's order, so
 * that who walks a tree reads packs front to back: the kernel is asked for what
 * comes next while a block is decoded. A few streams are followed at a time;
 * what was fetched for one that ends is dropped from the page cache, for the
 * decoded bytes are to be the only copy there. Thread-safe; a leaf. */
#ifndef FFS_READAHEAD_INT_H
#define FFS_READAHEAD_INT_H

#include "cas/base.h"

#define FFS_READAHEAD_MIN_BYTES (256U << 10)
#define FFS_READAHEAD_MAX_BYTES (2U << 20)

/* What the kernel is to fetch, and what it is to drop; zero lengths: nothing. */
struct ffs_readahead_advice {
        uint64_t fetch_offset, fetch_bytes;
        uint64_t drop_pack, drop_offset, drop_bytes;
};

struct ffs_readahead;
struct ffs_readahead *ffs_readahead_new(void);
void ffs_readahead_free(struct ffs_readahead *r);
/* A block of the pack is about to be read. */
void ffs_readahead_note(struct ffs_readahead *r, uint64_t pack_id, uint64_t offset, uint64_t bytes,
                        struct ffs_readahead_advice *out);

#endif
