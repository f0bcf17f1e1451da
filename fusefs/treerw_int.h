/* SPDX-License-Identifier: Apache-2.0 */
/* Writable volumes: an image's view under an upper directory, as overlayfs
 * would show it, with the state that a successor needs in the connection's node
 * table. Requests arrive by treefs.c, which knows from the node that they are for
 * here. Each function answers its request. */
#ifndef FFS_TREERW_INT_H
#define FFS_TREERW_INT_H

#include "fusefs/treefs_int.h"

/* ---- the node table (nodes.c): one per connection, in a memfd ---- */
struct ffs_nodes;
int ffs_nodes_state_create(int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
int ffs_nodes_open(int state_fd, struct ffs_nodes **out, struct cas_err *err) CAS_MUST_CHECK;
void ffs_nodes_close(struct ffs_nodes *n);
uint64_t ffs_nodes_count(struct ffs_nodes *n);
/* The writable volume that a node is of. */
bool ffs_nodes_volume(struct ffs_nodes *n, uint64_t node, uint32_t *number);

/* ---- a volume ---- */
/* Opens the upper (dir_fd is taken over) and makes its root node, which stays until close. After a
 * takeover, what was in the making is finished or undone first. */
int ffs_rw_open(struct ffs_treefs *t, struct ffs_volume *v, int dir_fd, struct ffs_rw **out,
                struct cas_err *err) CAS_MUST_CHECK;
void ffs_rw_close(struct ffs_rw *rw);
/* Its connection has ended: nothing is kept any more for who has files open. Whoever mounts the
 * upper next is not touched by its close, however late that comes. */
void ffs_rw_give_up(struct ffs_rw *rw);
uint64_t ffs_rw_root(const struct ffs_rw *rw);
/* The volume goes: true when the kernel knows none of its nodes but the root any more. */
bool ffs_rw_is_idle(struct ffs_rw *rw);
void ffs_rw_root_attr(struct ffs_rw *rw, struct stat *out);

/* ---- requests ---- */
/* The request that this thread serves next, before libfuse hands it out: one that was delivered
 * before, to a process that died, is recognised by it. */
void ffs_rw_request_seen(uint64_t unique);

void ffs_rw_lookup(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name);
void ffs_rw_forget(struct ffs_treefs *t, uint64_t node, uint64_t count);
void ffs_rw_getattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, struct fuse_file_info *fi);
void ffs_rw_setattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, struct stat *attr,
                    int to_set, struct fuse_file_info *fi);
void ffs_rw_readlink(struct ffs_volume *v, fuse_req_t req, uint64_t node);
void ffs_rw_mknod(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name,
                  mode_t mode, dev_t rdev);
void ffs_rw_mkdir(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name,
                  mode_t mode);
void ffs_rw_unlink(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name);
void ffs_rw_rmdir(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name);
void ffs_rw_symlink(struct ffs_volume *v, fuse_req_t req, const char *target, uint64_t parent,
                    const char *name);
void ffs_rw_rename(struct ffs_volume *v, fuse_req_t req, uint64_t from, const char *from_name,
                   uint64_t to, const char *to_name, unsigned flags);
void ffs_rw_link(struct ffs_volume *v, fuse_req_t req, uint64_t node, uint64_t parent,
                 const char *name);
void ffs_rw_open_file(struct ffs_volume *v, fuse_req_t req, uint64_t node,
                      struct fuse_file_info *fi);
void ffs_rw_create(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name,
                   mode_t mode, struct fuse_file_info *fi);
void ffs_rw_tmpfile(struct ffs_volume *v, fuse_req_t req, uint64_t parent, mode_t mode,
                    struct fuse_file_info *fi);
void ffs_rw_read(struct ffs_volume *v, fuse_req_t req, uint64_t node, size_t size, off_t offset,
                 struct fuse_file_info *fi);
void ffs_rw_write(struct ffs_volume *v, fuse_req_t req, uint64_t node, struct fuse_bufvec *data,
                  off_t offset, struct fuse_file_info *fi);
void ffs_rw_release(struct ffs_volume *v, fuse_req_t req, uint64_t node, struct fuse_file_info *fi);
void ffs_rw_fsync(struct ffs_volume *v, fuse_req_t req, uint64_t node, int datasync,
                  struct fuse_file_info *fi);
void ffs_rw_readdir(struct ffs_volume *v, fuse_req_t req, uint64_t node, size_t size, off_t offset,
                    bool plus, struct fuse_file_info *fi);
void ffs_rw_statfs(struct ffs_volume *v, fuse_req_t req, uint64_t node);
void ffs_rw_setxattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, const char *name,
                     const void *value, size_t size, int flags);
void ffs_rw_getxattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, const char *name,
                     size_t size);
void ffs_rw_listxattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, size_t size);
void ffs_rw_removexattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, const char *name);
void ffs_rw_fallocate(struct ffs_volume *v, fuse_req_t req, uint64_t node, int mode, off_t offset,
                      off_t length, struct fuse_file_info *fi);
void ffs_rw_copy_file_range(struct ffs_volume *v, fuse_req_t req, uint64_t from, off_t from_offset,
                            struct fuse_file_info *from_fi, uint64_t to, off_t to_offset,
                            struct fuse_file_info *to_fi, size_t len, int flags);
void ffs_rw_lseek(struct ffs_volume *v, fuse_req_t req, uint64_t node, off_t offset, int whence,
                  struct fuse_file_info *fi);

#endif
