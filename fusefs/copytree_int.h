/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of directories as they are on disk: names, owners, modes, times, all
 * xattrs, devices, hard links, holes. Links are never followed; what is copied may
 * change meanwhile. One thread. */
#ifndef FFS_COPYTREE_INT_H
#define FFS_COPYTREE_INT_H

#include "fusefs/upper.h"

struct ffs_copytree;
/* link: files become hard links of the originals where they can. */
struct ffs_copytree *ffs_copytree_new(bool link);
void ffs_copytree_free(struct ffs_copytree *c);
CAS_DEFINE_CLEANUP(ffs_cleanup_copytree_, struct ffs_copytree *, ffs_copytree_free);
#define ffs_cleanup_copytree __attribute__((cleanup(ffs_cleanup_copytree_)))

/* Names below to_dir are made; `name` of both is the directory that is copied. Hard links between
 * directories of one ffs_copytree are kept, if to_dir is the same. skip_xattrs: names that no
 * inode gets, NULL last. Errors: DENIED, NOSPACE, IO, LIMIT, EXISTS. */
int ffs_copytree_add(struct ffs_copytree *c, int from_dir, int to_dir, const char *name,
                     const char *const *skip_xattrs, struct cas_err *err) CAS_MUST_CHECK;
/* Data of one file, shared where it can be; holes stay holes. Both are regular, `to` is empty. */
int ffs_copytree_data(struct ffs_copytree *c, int from, int to, struct cas_err *err) CAS_MUST_CHECK;
const struct ffs_clone_counts *ffs_copytree_counts(const struct ffs_copytree *c);

#endif
