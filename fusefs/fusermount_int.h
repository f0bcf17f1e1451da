/* SPDX-License-Identifier: Apache-2.0 */
/* FUSE mounts of normal users, by the set-uid helper fusermount3: it mounts and
 * hands over the /dev/fuse descriptor. No state; thread-safe, but for the
 * environment, which the helper inherits. */
#ifndef FFS_FUSERMOUNT_INT_H
#define FFS_FUSERMOUNT_INT_H

#include "cas/err.h"

/* Mounts a FUSE file system at dir, an absolute path. options: more of fusermount3's, separated by
 * commas, or NULL ("fsname=lamina,subtype=lamina,ro"); default_permissions is always among them,
 * and allow_other where this user may say so. The descriptor is close-on-exec; its INIT request
 * waits to be read. Blocks, 10 s at most. Errors: UNSUPPORTED (no fusermount3, no /dev/fuse),
 * DENIED (the device, the directory), INVALID (an option was refused), BUSY (too slow). */
int ffs_fusermount_mount(const char *dir, const char *options, int *out_fuse_fd,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Absent mounts are success. lazy: also when it is in use. Blocks, 10 s at most.
 * Errors: BUSY (in use), DENIED. */
int ffs_fusermount_umount(const char *dir, bool lazy, struct cas_err *err) CAS_MUST_CHECK;

/* Whether this process may mount with allow_other, so that others than its user reach the mount:
 * root, and everybody where fuse.conf says user_allow_other. */
bool ffs_fusermount_may_allow_other(void);
/* The same of the text of a fuse.conf. */
bool ffs_fusermount_conf_allows(const char *conf, size_t len);

#endif
