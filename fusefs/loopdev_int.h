/* SPDX-License-Identifier: Apache-2.0 */
/* Loop devices: block devices over files. */
#ifndef FFS_LOOPDEV_INT_H
#define FFS_LOOPDEV_INT_H

#include "cas/err.h"

#define FFS_LOOP_NAME_BYTES 32

/* Gives a free loop device over a file, which goes with its last user: who holds out_loop_fd, then
 * what is mounted from it. flags: LO_FLAGS_READ_ONLY, LO_FLAGS_DIRECT_IO (left out where the file's
 * disk does not take it). Errors: UNSUPPORTED (there are no loop devices), BUSY, DENIED. */
int ffs_loop_attach(int fd, uint32_t flags, char name[FFS_LOOP_NAME_BYTES], int *out_loop_fd,
                    struct cas_err *err) CAS_MUST_CHECK;
/* The device that a file is attached to already. Errors: NOTFOUND. */
int ffs_loop_find(int fd, char name[FFS_LOOP_NAME_BYTES], int *out_loop_fd,
                  struct cas_err *err) CAS_MUST_CHECK;

#endif
