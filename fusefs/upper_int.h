/* SPDX-License-Identifier: Apache-2.0 */
/* Upper directories of writable mounts. overlayfs stores file handles into the
 * trees in them, so one belongs to the exact trees and options that it was made
 * over: DIR/lamina.json records them, and nothing else is mounted with it. */
#ifndef FFS_UPPER_INT_H
#define FFS_UPPER_INT_H

#include "fusefs/binding_int.h"

struct ffs_upper {
        char upper[4096];
        char work[4096];
        struct ffs_binding binding; /* as it is on disk */
        int fd;                     /* the directory that holds upper/ and work/ */
        char shown[4096];           /* where an upper of limited size is mounted meanwhile, or "" */
};
#define FFS_UPPER_INIT                                                                             \
        {                                                                                          \
                .fd = -1                                                                           \
        }

/* Makes DIR/upper (like the root of the image, whose topmost tree is at tree_path) and DIR/work
 * where they are not, binds DIR as `want` says, or checks that it is bound so. With a size and
 * has_image, both lie in a file system of that size, whose file is made where it is missing; its
 * paths are good until ffs_upper_release, and the descriptor for as long as it is open. Durable.
 * Errors: INVALID (bound otherwise, or not made by us), DENIED (others can write to DIR),
 * UNSUPPORTED, LIMIT (a size that cannot be). */
int ffs_upper_prepare(const char *dir, const struct ffs_binding *want, const char *tree_path,
                      struct ffs_upper *out, struct cas_err *err) CAS_MUST_CHECK;
/* Of upper/, which has just been made: owner, mode, xattrs and time of the image's root. */
int ffs_upper_take_root(const struct ffs_upper *u, const char *tree_path,
                        struct cas_err *err) CAS_MUST_CHECK;
void ffs_upper_release(struct ffs_upper *u);
#define ffs_cleanup_upper __attribute__((cleanup(ffs_upper_release)))

/* For reading only, mounted or not: what DIR is bound to, and a descriptor of the directory that
 * holds upper/. Errors: NOTFOUND, INVALID (no upper of ours), DENIED. */
int ffs_upper_reach(const char *dir, struct ffs_binding *binding, int *out_fd,
                    struct cas_err *err) CAS_MUST_CHECK;
/* DENIED where others than this user own the opened directory or can write to it: they could turn
 * what root writes elsewhere by links, and give the kernel a file system of their own to mount. */
int ffs_upper_refuse_shared(int fd, const char *dir, struct cas_err *err) CAS_MUST_CHECK;
/* Removes a sandbox of ours with all that was written to it. */
int ffs_upper_remove(const char *dir, struct cas_err *err) CAS_MUST_CHECK;

#endif
