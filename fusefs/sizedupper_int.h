/* SPDX-License-Identifier: Apache-2.0 */
/* Uppers of limited size: upper/ and work/ lie in an ext4 file system in the
 * sparse file DIR/upper.ext4, so that every write, seen by a server or not, meets a
 * real end, and statfs(2) tells the truth. The file is mounted through a loop device
 * that goes with its last user; mounts of one file share the kernel's super block,
 * whichever process or namespace makes them. Needs root. */
#ifndef FFS_SIZEDUPPER_INT_H
#define FFS_SIZEDUPPER_INT_H

#include "cas/err.h"

#define FFS_SIZEDUPPER_NAME "upper.ext4"
#define FFS_SIZEDUPPER_BYTES_MIN (UINT64_C(16) << 20)
#define FFS_SIZEDUPPER_BYTES_MAX (UINT64_C(16) << 40)

/* Makes the file where it is missing; whole or not at all. Errors: LIMIT (a size beyond the above),
 * UNSUPPORTED (no mke2fs), INVALID (what has the name is no file), NOSPACE. */
int ffs_sizedupper_make(int dir_fd, uint64_t size_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* A mount of it that is attached nowhere: its root (O_PATH), which holds it. Errors: NOTFOUND,
 * INVALID, DENIED, UNSUPPORTED. */
int ffs_sizedupper_mount(int dir_fd, bool read_only, int *out_mount_fd,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Nobody mounts it anew until *out_lock_fd is closed; in_use: it is mounted somewhere. */
int ffs_sizedupper_lock(int dir_fd, int *out_lock_fd, bool *in_use,
                        struct cas_err *err) CAS_MUST_CHECK;

#endif
