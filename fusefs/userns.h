/* SPDX-License-Identifier: Apache-2.0 */
/* User namespaces as maps of ids: of mounts whose owners are shown as others,
 * and of sandboxes. Thread-safe. */
#ifndef FFS_USERNS_H
#define FFS_USERNS_H

#include "cas/err.h"

/* A new user namespace in which image ids are those inside and host ids those outside; nobody is in
 * it. id_map is text as in ffs_mount_options; squash has no meaning here. Needs the right to map
 * these ids (root). *out_fd is close-on-exec. Errors: INVALID, DENIED, UNSUPPORTED. */
int ffs_userns_open(const char *id_map, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;

/* Mounts a FUSE file system at dir in the user namespace of this process, in which it must have all
 * rights: whoever is in there reaches it, ids are those inside. Device nodes and set-id bits have
 * no effect. *out_fd: its /dev/fuse descriptor, close-on-exec; its INIT request waits to be read.
 * Errors: UNSUPPORTED (no /dev/fuse), DENIED (the device, or mounting). */
int ffs_userns_mount_fuse(const char *dir, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Mounts overlayfs at dir, as the root of the user namespace of this process: upper_dir/upper, both
 * made when they are not there, over what is mounted at lower_dir. Its marks are user.overlay.*
 * xattrs; device nodes and set-id bits have no effect. Errors: UNSUPPORTED (Linux 5.11), DENIED. */
int ffs_userns_mount_overlay(const char *lower_dir, const char *upper_dir, const char *dir,
                             struct cas_err *err) CAS_MUST_CHECK;

#endif
