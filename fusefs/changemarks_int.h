/* SPDX-License-Identifier: Apache-2.0 */
/* Names of the view that an upper changes without having them: those of lower
 * hard-link groups that were copied up (overlayfs keeps such by its index), and of
 * groups of which a name lies in a directory that was moved. A layer holds a group
 * whole or not at all. Found by one walk of the upper's directories. One thread. */
#ifndef FFS_CHANGEMARKS_INT_H
#define FFS_CHANGEMARKS_INT_H

#include "fusefs/changelook_int.h"

struct ffs_marks;
/* source is borrowed until free. Errors: CORRUPT, IO, LIMIT. */
int ffs_marks_find(const struct ffs_changes_source *source, struct ffs_marks **out,
                   struct cas_err *err) CAS_MUST_CHECK;
void ffs_marks_free(struct ffs_marks *m);
CAS_DEFINE_CLEANUP(ffs_cleanup_marks_, struct ffs_marks *, ffs_marks_free);
#define ffs_cleanup_marks __attribute__((cleanup(ffs_cleanup_marks_)))

/* Marked names in a directory of the view, and directories that lead to some; NULL for none.
 * Sorted; borrowed. */
const struct ffs_names *ffs_marks_in(struct ffs_marks *m, uint64_t dir);
/* The inode that stands for a lower file of several names, O_PATH, borrowed; -1 where it is itself.
 */
int ffs_marks_indexed_fd(const struct ffs_marks *m, uint64_t vid);

#endif
