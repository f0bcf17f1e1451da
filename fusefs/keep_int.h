/* SPDX-License-Identifier: Apache-2.0 */
/* What `lamina hold` keeps for `lamina fs`: named items of a little text and a
 * few descriptors, given to the successor when one dies (spec/mounts.md, "hold").
 * hold knows nothing of what they are. This is fs's side; thread-safe. */
#ifndef FFS_KEEP_INT_H
#define FFS_KEEP_INT_H

#include "cas/err.h"

#define FFS_KEEP_NAME_BYTES 96
#define FFS_KEEP_TEXT_BYTES_MAX 16384
#define FFS_KEEP_FDS_MAX 4

struct ffs_keep_item {
        char name[FFS_KEEP_NAME_BYTES];
        char *text;                /* owned */
        int fds[FFS_KEEP_FDS_MAX]; /* owned */
        size_t fd_count;
};
void ffs_keep_item_release(struct ffs_keep_item *item);

struct ffs_keep; /* the socket to hold, and what was given */
/* Gives or replaces an item. hold has it when this returns; blocks until then. Descriptors stay the
 * caller's too. Errors: LIMIT, IO (hold is gone: the next one gets everything that was given). */
int ffs_keep_put(struct ffs_keep *k, const char *name, const char *text, const int *fds,
                 size_t fd_count, struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. */
int ffs_keep_drop(struct ffs_keep *k, const char *name, struct cas_err *err) CAS_MUST_CHECK;

#endif
