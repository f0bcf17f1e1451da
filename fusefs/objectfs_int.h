/* SPDX-License-Identifier: Apache-2.0 */
/* The object file system: every object of a store as one read-only file,
 * XX/YYYY… by its digest in hex, served over one /dev/fuse descriptor by a few
 * threads. One inode per content, so that whatever image or sandbox reads it
 * shares its pages; nothing of it ever changes, so the kernel may keep all.
 *
 * Directories of names are not listed: who knows a digest finds its file. */
#ifndef FFS_OBJECTFS_INT_H
#define FFS_OBJECTFS_INT_H

#include "fusefs/ownerwait_int.h"
#include "fusefs/reader_int.h"
#include "fusefs/slots_int.h"

struct ffs_fill;
struct ffs_objectfs;
struct ffs_objectfs_config {
        int fuse_fd;               /* borrowed */
        struct ffs_slots *slots;   /* borrowed */
        struct ffs_reader *reader; /* borrowed */
        unsigned threads;
        struct ffs_ownerwait *wait; /* borrowed */
};

/* Starts to serve: a new connection by its INIT, one that another process served before by the
 * saved INIT, after which requests that process had taken are delivered again. */
int ffs_objectfs_start(const struct ffs_objectfs_config *config, struct ffs_objectfs **out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* What asks for pages ahead of readers, once it has an opener (fill_int.h). Borrowed. */
struct ffs_fill *ffs_objectfs_fill(const struct ffs_objectfs *fs);
/* Becomes readable when the file system was unmounted or its connection aborted. Borrowed. */
int ffs_objectfs_ended_fd(const struct ffs_objectfs *fs);

#endif
