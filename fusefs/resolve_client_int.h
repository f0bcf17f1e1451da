/* SPDX-License-Identifier: Apache-2.0 */
/* The side of `lamina fs` of the resolve protocol. Connections are kept and
 * made again when the owner was away. Thread-safe; each call uses a connection
 * of its own, so that calls run in parallel. */
#ifndef FFS_RESOLVE_CLIENT_INT_H
#define FFS_RESOLVE_CLIENT_INT_H

#include "fusefs/resolve_msg_int.h"

struct ffs_resolve_client;
struct ffs_resolve_client *ffs_resolve_client_new(const char *path);
void ffs_resolve_client_free(struct ffs_resolve_client *c);

/* All block for at most timeout_ms. BUSY: the owner is away or did not answer in time; calls then
 * fail at once for a moment, but for pings. ffs_resolve_extents also when the object is on its way
 * from another store: to be asked for again, and no concern of others. */
int ffs_resolve_ping(struct ffs_resolve_client *c, int timeout_ms,
                     struct cas_err *err) CAS_MUST_CHECK;
/* extents has room for FFS_RESOLVE_EXTENTS_MAX. Errors: NOTFOUND, CORRUPT, IO, BUSY. */
int ffs_resolve_extents(struct ffs_resolve_client *c, const struct cas_hash *object,
                        uint32_t first_chunk, uint32_t count_max, int timeout_ms,
                        struct ffs_resolve_reply *out, struct cas_extent *extents,
                        struct cas_err *err) CAS_MUST_CHECK;
/* A pack, as the owner has it; the descriptors are the caller's. */
struct ffs_resolved_pack {
        int home_fd, cache_fd; /* -1: none */
        bool wants_touched, fills;
};
/* Errors: as above. */
int ffs_resolve_pack(struct ffs_resolve_client *c, uint64_t pack_id, int timeout_ms,
                     struct ffs_resolved_pack *out, struct cas_err *err) CAS_MUST_CHECK;
/* The owner brings a frame of a pack: *out_fd (the caller's) has it at its offset. was_bad: what
 * the pack's cache has there did not decode. Errors: as above; BUSY also when it is on its way. */
int ffs_resolve_fill(struct ffs_resolve_client *c, uint64_t pack_id, uint64_t offset,
                     uint32_t bytes, bool was_bad, int timeout_ms, int *out_fd,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Tells of reads, at most FFS_RESOLVE_TOUCHES_MAX. */
int ffs_resolve_touched(struct ffs_resolve_client *c, const struct ffs_resolve_touch *touches,
                        uint32_t count, int timeout_ms, struct cas_err *err) CAS_MUST_CHECK;

#endif
