/* SPDX-License-Identifier: Apache-2.0 */
/* Between treefs.c, which has the volumes, and treefsops.c, which gives out requests. */
#ifndef FFS_TREEFSCORE_INT_H
#define FFS_TREEFSCORE_INT_H

#include "fusefs/connection_int.h"
#include "fusefs/treefs_int.h"

extern const struct fuse_lowlevel_ops ffs_treefs_operations; /* userdata: struct ffs_treefs */

bool ffs_treefs_is_shared(const struct ffs_treefs *t);
/* NULL: none of that name, or removed. Counted: put it. */
struct ffs_volume *ffs_treefs_volume_named(struct ffs_treefs *t, const char *id);
/* Ids and numbers of what is there, sorted by number, in memory of the caller's; their count. */
struct ffs_treefs_name {
        char id[40];
        uint32_t number;
};
size_t ffs_treefs_names(struct ffs_treefs *t, struct ffs_treefs_name **out);
/* Volumes that are removed, and not closed yet: who takes nodes back asks ffs_treefs_retire. */
bool ffs_treefs_retires(const struct ffs_treefs *t);
void ffs_treefs_retire(struct ffs_treefs *t, struct ffs_volume *v);

#endif
