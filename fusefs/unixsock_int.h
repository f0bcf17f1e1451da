/* SPDX-License-Identifier: Apache-2.0 */
/* SOCK_SEQPACKET Unix sockets of this host's processes: paths of any length,
 * peers checked by uid, one message at a time, with at most a few descriptors. */
#ifndef FFS_UNIXSOCK_INT_H
#define FFS_UNIXSOCK_INT_H

#include "cas/err.h"

#define FFS_SOCK_FDS_MAX 4

/* Replaces a socket that nobody listens on; mode 0600. Errors: BUSY (another process listens). */
int ffs_sock_listen(const char *path, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Non-blocking connect. Errors: NOTFOUND (no socket), BUSY (nobody accepts), DENIED. */
int ffs_sock_connect(const char *path, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* The peer runs as root or as ourselves. */
bool ffs_sock_peer_trusted(int fd);

/* One message; fds may be NULL when fd_count is 0. Never blocks: IO when the peer does not read. */
int ffs_sock_send(int fd, const void *msg, size_t len, const int *fds, size_t fd_count,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Waits up to timeout_ms (-1: for ever) for one message; *len 0: the peer has gone. Descriptors
 * beyond those asked for are closed; *fd_count is in and out. A truncated message is INVALID, a
 * time-out BUSY. Received descriptors are close-on-exec. */
int ffs_sock_receive(int fd, void *msg, size_t msg_max, size_t *len, int *fds, size_t *fd_count,
                     int timeout_ms, struct cas_err *err) CAS_MUST_CHECK;

#endif
