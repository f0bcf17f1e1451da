/* SPDX-License-Identifier: Apache-2.0 */
/* A small cache of decoded, verified blocks, so that neighbours in a block are
 * not decoded again for each. Least recently used first out. Thread-safe:
 * several threads that want one block share one read of it. */
#ifndef CAS_BLOCKCACHE_H
#define CAS_BLOCKCACHE_H

#include "cas/object.h"

struct cas_blockcache;
/* max_bytes: of decoded blocks; those in use may go beyond it. */
struct cas_blockcache *cas_blockcache_new(size_t max_bytes);
/* Every block was put back. */
void cas_blockcache_free(struct cas_blockcache *c);

/* A decoded block: immutable, counted. */
struct cas_block {
        const uint8_t *data;
        uint32_t length_bytes;
};
/* The block of an extent when it is in the cache, else NULL. Put it back. */
struct cas_block *cas_blockcache_find(struct cas_blockcache *c, const struct cas_extent *extent);
/* The same, reading it where it is not there. Errors: as cas_block_read, NOMEM. */
int cas_blockcache_get(struct cas_blockcache *c, int pack_fd, const struct cas_extent *extent,
                       struct cas_block **out, struct cas_err *err) CAS_MUST_CHECK;
void cas_blockcache_put(struct cas_blockcache *c, struct cas_block *block);
/* Forgets all blocks that nobody holds: what is read next comes from the disk. */
void cas_blockcache_clear(struct cas_blockcache *c);

#endif
