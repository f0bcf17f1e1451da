/* SPDX-License-Identifier: Apache-2.0 */
/* Backing files of a connection (FUSE passthrough, Linux 6.9): which are
 * registered with the kernel under which id, and how many open files count on
 * each. A successor must answer opens of an inode with the id that is in use for
 * it, so the table is in a memfd kept by `lamina hold`; entries are whole at every
 * instant. Ids of objects are kept for a while after their last close, bounded, as
 * registering again costs more than opening. Thread-safe.
 *
 * A key is what the backing is of: an object's digest, or a node of a writable
 * volume (its id in the first eight bytes, the rest zero). */
#ifndef FFS_BACKING_INT_H
#define FFS_BACKING_INT_H

#include "cas/digest.h"

#define FFS_BACKINGS_IDLE_MAX                                                                      \
        32768 /* kept without open files; each holds an inode of about 1 KiB */

struct ffs_backings;
int ffs_backings_state_create(int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Both borrowed. */
int ffs_backings_open(int state_fd, int fuse_fd, struct ffs_backings **out,
                      struct cas_err *err) CAS_MUST_CHECK;
void ffs_backings_close(struct ffs_backings *b);
/* The id for one open file more of key; make() gives a descriptor (any, O_PATH is enough) when it
 * is not registered, which is closed afterwards. `unique` is that of the request: asked again for
 * the same one (a request delivered again) it counts once. 0 and *id, or a negative errno (those
 * of make; EPERM, ELOOP: this file cannot be passed through). */
int ffs_backings_get(struct ffs_backings *b, const struct cas_hash *key, uint64_t unique,
                     int (*make)(void *arg, int *out_fd), void *arg, int32_t *id);
/* One open file less, by a request of that `unique`; delivered again, it counts once. keep false:
 * the id goes with the last one. */
void ffs_backings_put(struct ffs_backings *b, const struct cas_hash *key, uint64_t unique,
                      bool keep);
/* Ids registered, and open files on them. */
void ffs_backings_count(struct ffs_backings *b, uint64_t *ids, uint64_t *open_files);

#endif
