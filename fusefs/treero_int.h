/* SPDX-License-Identifier: Apache-2.0 */
/* Read-only volumes: everything follows from the view (of a vid) or from the
 * shared node itself. Each function answers its request. */
#ifndef FFS_TREERO_INT_H
#define FFS_TREERO_INT_H

#include "fusefs/treefs_int.h"

void ffs_ro_lookup(struct ffs_treefs *t, struct ffs_volume *v, fuse_req_t req, uint64_t dir,
                   const char *name);
void ffs_ro_getattr(const struct ffs_volume *v, fuse_req_t req, uint64_t vid);
void ffs_ro_readlink(const struct ffs_volume *v, fuse_req_t req, uint64_t vid);
void ffs_ro_readdir(struct ffs_treefs *t, struct ffs_volume *v, fuse_req_t req, uint64_t dir,
                    size_t size, off_t offset, bool plus);
void ffs_ro_getxattr(const struct ffs_volume *v, fuse_req_t req, uint64_t vid, const char *name,
                     size_t size);
void ffs_ro_listxattr(const struct ffs_volume *v, fuse_req_t req, uint64_t vid, size_t size);
void ffs_ro_statfs(const struct ffs_volume *v, fuse_req_t req);
void ffs_ro_open(struct ffs_treefs *t, const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                 struct fuse_file_info *fi);
void ffs_ro_read(struct ffs_treefs *t, const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                 size_t size, off_t offset);
void ffs_ro_release(struct ffs_treefs *t, const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                    const struct fuse_file_info *fi);
/* The root of a volume as an entry of the connection's root. */
int ffs_ro_root_entry(struct ffs_volume *v, struct fuse_entry_param *out,
                      struct cas_err *err) CAS_MUST_CHECK;

void ffs_shared_getattr(struct ffs_treefs *t, fuse_req_t req, uint64_t node);
void ffs_shared_readlink(struct ffs_treefs *t, fuse_req_t req, uint64_t node);
void ffs_shared_open(struct ffs_treefs *t, fuse_req_t req, uint64_t node,
                     struct fuse_file_info *fi);
void ffs_shared_read(struct ffs_treefs *t, fuse_req_t req, uint64_t node, size_t size,
                     off_t offset);
void ffs_shared_release(struct ffs_treefs *t, fuse_req_t req, uint64_t node,
                        const struct fuse_file_info *fi);

/* ---- of treefs.c, for these ---- */
struct ffs_sharednodes *ffs_treefs_shared(struct ffs_treefs *t);
/* The request that this thread serves: its `unique`, with the mark of one that comes again. */
uint64_t ffs_treefs_unique(void);
/* A read-only node was given to the kernel, or taken back. */
void ffs_treefs_known(struct ffs_volume *v, int64_t count);
struct ffs_ownerwait *ffs_treefs_wait(struct ffs_treefs *t);
struct ffs_reader *ffs_treefs_reader(struct ffs_treefs *t);
struct ffs_opener *ffs_treefs_opener(struct ffs_treefs *t); /* NULL: none */

#endif
