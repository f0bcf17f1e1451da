/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the object file system's inodes, in a memfd that `lamina hold`
 * keeps: all a successor of a killed `lamina fs` needs (spec/mounts.md,
 * "Takeover"). Each object that the kernel knows has a slot; its node id is
 * made of the slot's number and a generation, and so is never used again.
 *
 * Whatever instant the process is killed at, the table is whole: a slot is
 * filled before its count becomes positive. Counts may be too high after a kill
 * (a FORGET that was read and not done), never too low.
 *
 * Thread-safe. One process at a time maps it for writing. */
#ifndef FFS_SLOTS_INT_H
#define FFS_SLOTS_INT_H

#include "cas/digest.h"

#define FFS_NODE_FIRST UINT64_C(1024) /* smaller ones: the root and its directories */
#define FFS_SLOTS_MAX (UINT32_C(1) << 26)

struct ffs_slots;

/* Makes an empty table. The descriptor is the caller's. */
int ffs_slots_create(int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Maps a table; the descriptor is borrowed until close. Errors: CORRUPT, UNSUPPORTED. */
int ffs_slots_open(int fd, struct ffs_slots **out, struct cas_err *err) CAS_MUST_CHECK;
void ffs_slots_close(struct ffs_slots *s);
CAS_DEFINE_CLEANUP(ffs_cleanup_slots_, struct ffs_slots *, ffs_slots_close);
#define ffs_cleanup_slots __attribute__((cleanup(ffs_cleanup_slots_)))

/* The INIT request of the connection, as the kernel sent it; *len 0: none was saved yet. */
void ffs_slots_save_init(struct ffs_slots *s, const void *request, size_t len);
const void *ffs_slots_init(const struct ffs_slots *s, size_t *len);

/* Takes a reference of the kernel to an object that has a slot. NOTFOUND is no error here: false.
 */
bool ffs_slots_lookup(struct ffs_slots *s, const struct cas_hash *object, uint64_t *node,
                      uint64_t *size_bytes);
/* The same, making the slot. Errors: LIMIT (FFS_SLOTS_MAX), NOMEM. */
int ffs_slots_insert(struct ffs_slots *s, const struct cas_hash *object, uint64_t size_bytes,
                     uint64_t *node, struct cas_err *err) CAS_MUST_CHECK;
/* What the node is; false for one that the kernel cannot know. */
bool ffs_slots_get(struct ffs_slots *s, uint64_t node, struct cas_hash *object,
                   uint64_t *size_bytes);
/* Drops references; the slot is free when none are left. Unknown nodes are ignored. */
void ffs_slots_forget(struct ffs_slots *s, uint64_t node, uint64_t count);
size_t ffs_slots_count(struct ffs_slots *s);

#endif
