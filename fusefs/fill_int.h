/* SPDX-License-Identifier: Apache-2.0 */
/* Whose memory the pages of objects are: they are asked for by `lamina opener`, in the
 * cgroup of `lamina fs`, which serves all, before and ahead of who reads them, and
 * so are not charged to the sandbox that happened to be the first (spec/mounts.md,
 * "Whose memory"). A look-up that finds an object nobody has open yet is answered
 * once the kernel has been asked for its beginning; who reads a large one from
 * front to back finds the next pieces asked for.
 *
 * Nothing depends on it: what is not asked for ahead is read as without it.
 * Thread-safe; nothing here blocks. */
#ifndef FFS_FILL_INT_H
#define FFS_FILL_INT_H

#include <fuse_lowlevel.h>

#include "fusefs/opener_int.h"

struct ffs_fill;
/* opener is borrowed, and may be given later: what is taken before is nothing. answer() replies to
 * a look-up that was taken. */
struct ffs_fill *ffs_fill_new(void (*answer)(void *arg, fuse_req_t req, uint64_t node,
                                             const struct cas_hash *object, uint64_t size_bytes),
                              void *arg);
void ffs_fill_set_opener(struct ffs_fill *f, struct ffs_opener *opener);
/* The callback of the opener; arg is the struct ffs_fill. */
void ffs_fill_done(void *arg, uint64_t tag);
/* Takes a look-up over: true; else the caller answers it. */
bool ffs_fill_lookup(struct ffs_fill *f, fuse_req_t req, uint64_t node,
                     const struct cas_hash *object, uint64_t size_bytes) CAS_MUST_CHECK;
/* [offset, offset + len) is about to be answered to who reads it. */
void ffs_fill_read(struct ffs_fill *f, uint64_t node, const struct cas_hash *object,
                   uint64_t size_bytes, uint64_t offset, uint64_t len);

#endif
