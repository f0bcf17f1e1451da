/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/unixsock_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* sun_path holds 108 bytes: longer paths are reached through their open directory, which must
 * stay open (*dirfd) until the address was used. */
static int make_address(const char *path, struct sockaddr_un *addr, int *dirfd, struct cas_err *err)
{
        *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
        if (strlen(path) < sizeof(addr->sun_path)) {
                memcpy(addr->sun_path, path, strlen(path) + 1);
                return 0;
        }
        cas_cleanup_free char *copy = cas_xstrdup(path);
        char *slash = strrchr(copy, '/');
        if (!slash)
                return cas_fail(err, CAS_E_INVALID, "socket %s: the name is too long", path);
        *slash = '\0';
        *dirfd = open(copy, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (*dirfd < 0)
                return cas_fail_sys(err, errno, "open directory %s", copy);
        int n = snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", *dirfd,
                         slash + 1);
        if (n < 0 || (size_t)n >= sizeof(addr->sun_path))
                return cas_fail(err, CAS_E_INVALID, "socket %s: the name is too long", path);
        return 0;
}

int ffs_sock_connect(const char *path, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int dirfd = -1;
        struct sockaddr_un addr;
        if (make_address(path, &addr, &dirfd, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return cas_fail_sys(err, errno, "socket");
        if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
                if (errno == ECONNREFUSED || errno == EAGAIN)
                        return cas_fail(err, CAS_E_BUSY, "nobody answers at %s", path);
                return cas_fail_sys(err, errno, "connect to %s", path);
        }
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

int ffs_sock_listen(const char *path, int *out_fd, struct cas_err *err)
{
        struct cas_err probe = CAS_ERR_INIT;
        cas_cleanup_fd int other = -1;
        if (ffs_sock_connect(path, &other, &probe) == 0)
                return cas_fail(err, CAS_E_BUSY, "another process listens at %s", path);
        cas_cleanup_fd int dirfd = -1;
        struct sockaddr_un addr;
        if (make_address(path, &addr, &dirfd, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return cas_fail_sys(err, errno, "socket");
        if (unlink(addr.sun_path) < 0 && errno != ENOENT)
                return cas_fail_sys(err, errno, "remove old socket %s", path);
        /* The mode must be right from the first moment on, whatever the umask; fchmod on the
         * unbound socket gives its inode the mode that bind(2) uses. */
        if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
            listen(fd, 64) < 0)
                return cas_fail_sys(err, errno, "listen at %s", path);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

bool ffs_sock_peer_trusted(int fd)
{
        struct ucred peer;
        socklen_t len = sizeof(peer);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
                return false;
        return peer.uid == 0 || peer.uid == geteuid();
}

int ffs_sock_send(int fd, const void *msg, size_t len, const int *fds, size_t fd_count,
                  struct cas_err *err)
{
        cas_assert(fd_count <= FFS_SOCK_FDS_MAX);
        struct iovec iov = {.iov_base = (void *)msg, .iov_len = len};
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * FFS_SOCK_FDS_MAX)];
        } control = {0};
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
        if (fd_count) {
                header.msg_control = control.bytes;
                header.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
                struct cmsghdr *c = CMSG_FIRSTHDR(&header);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
        }
        ssize_t n;
        do
                n = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return cas_fail(err, CAS_E_IO, "send: %s",
                                errno == EAGAIN ? "the peer does not read" : "the peer has gone");
        return 0;
}

/* Keeps the descriptors asked for and closes the others. */
static void take_fds(struct msghdr *header, int *fds, size_t *fd_count)
{
        size_t max = *fd_count;
        *fd_count = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (*fd_count < max)
                                fds[(*fd_count)++] = fd;
                        else
                                (void)close(fd);
                }
        }
}

static int wait_readable(int fd, int timeout_ms, struct cas_err *err)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n;
        do
                n = poll(&p, 1, timeout_ms);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return cas_fail_sys(err, errno, "poll");
        return n ? 0 : cas_fail(err, CAS_E_BUSY, "no answer within %d ms", timeout_ms);
}

int ffs_sock_receive(int fd, void *msg, size_t msg_max, size_t *len, int *fds, size_t *fd_count,
                     int timeout_ms, struct cas_err *err)
{
        struct iovec iov = {.iov_base = msg, .iov_len = msg_max};
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * FFS_SOCK_FDS_MAX)];
        } control;
        struct msghdr header;
        for (;;) {
                if (wait_readable(fd, timeout_ms, err) < 0)
                        return -(int)err->code;
                header = (struct msghdr){.msg_iov = &iov,
                                         .msg_iovlen = 1,
                                         .msg_control = control.bytes,
                                         .msg_controllen = sizeof(control.bytes)};
                ssize_t n = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (n >= 0) {
                        *len = (size_t)n;
                        break;
                }
                if (errno == ECONNRESET) {
                        *len = 0;
                        *fd_count = 0;
                        return 0;
                }
                if (errno != EAGAIN && errno != EINTR)
                        return cas_fail_sys(err, errno, "receive");
        }
        take_fds(&header, fds, fd_count);
        if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
                for (size_t i = 0; i < *fd_count; i++)
                        (void)close(fds[i]);
                *fd_count = 0;
                return cas_fail(err, CAS_E_INVALID, "a message of more than %zu bytes", msg_max);
        }
        return 0;
}
