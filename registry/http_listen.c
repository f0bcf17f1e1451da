/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/http_listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Splits "HOST:PORT" at its last colon; brackets around an IPv6 address are dropped. */
static int split_host_port(const char *where, char *host, size_t host_bytes, char *port,
                           size_t port_bytes, struct cas_err *err)
{
        const char *colon = strrchr(where, ':');
        size_t host_len = colon ? (size_t)(colon - where) : 0;
        bool bracketed = host_len >= 2 && where[0] == '[' && where[host_len - 1] == ']';
        if (!colon || colon[1] == '\0' || strlen(colon + 1) >= port_bytes ||
            strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
            strtoul(colon + 1, NULL, 10) > UINT16_MAX)
                return cas_fail(err, CAS_E_INVALID, "listen \"%s\": ADDR:PORT expected", where);
        if (bracketed) {
                where++;
                host_len -= 2;
        }
        if (host_len >= host_bytes || (!bracketed && memchr(where, ':', host_len)))
                return cas_fail(err, CAS_E_INVALID, "listen \"%s\": write IPv6 as [ADDR]:PORT",
                                where);
        (void)snprintf(host, host_bytes, "%.*s", (int)host_len, where);
        (void)snprintf(port, port_bytes, "%s", colon + 1);
        return 0;
}

static int bind_tcp(const struct addrinfo *ai, int *out_fd)
{
        cas_cleanup_fd int fd =
                socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int on = 1;
        if (fd < 0)
                return errno;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (ai->ai_family == AF_INET6) {
                int only = 0; /* [::] is every address of the host */
                (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only));
        }
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0)
                return errno;
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int fail_listen(struct cas_err *err, int sys_errno, const char *where)
{
        if (sys_errno == EADDRINUSE)
                return cas_fail(err, CAS_E_BUSY, "listen %s: address in use", where);
        return cas_fail_sys(err, sys_errno, "listen %s", where);
}

static int listen_tcp(const char *where, int *out_fd, struct cas_err *err)
{
        char host[256], port[8];
        int rc = split_host_port(where, host, sizeof(host), port, sizeof(port), err);
        if (rc < 0)
                return rc;
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
        struct addrinfo *list = NULL;
        int gai = getaddrinfo(host[0] ? host : NULL, port, &hints, &list);
        if (gai != 0)
                return cas_fail(err, CAS_E_INVALID, "listen %s: %s", where, gai_strerror(gai));
        int sys_errno = EADDRNOTAVAIL;
        for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
                sys_errno = bind_tcp(ai, out_fd);
                if (sys_errno == 0)
                        break;
        }
        freeaddrinfo(list);
        return sys_errno == 0 ? 0 : fail_listen(err, sys_errno, where);
}

/* The address of a socket file. A path that is too long is reached by a
 * descriptor of its directory, which *dir_fd must keep open until it is used. */
static int unix_address(const char *path, struct sockaddr_un *out, int *dir_fd, struct cas_err *err)
{
        *out = (struct sockaddr_un){.sun_family = AF_UNIX};
        if (strlen(path) < sizeof(out->sun_path)) {
                (void)snprintf(out->sun_path, sizeof(out->sun_path), "%s", path);
                return 0;
        }
        const char *slash = strrchr(path, '/');
        const char *base = slash ? slash + 1 : path;
        cas_cleanup_free char *dir = cas_xstrndup(path, slash ? (size_t)(slash - path) + 1 : 0);
        *dir_fd = open(slash ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (*dir_fd < 0)
                return cas_fail_sys(err, errno, "open %s", dir);
        int n = snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s", *dir_fd,
                         base);
        if (n < 0 || (size_t)n >= sizeof(out->sun_path))
                return cas_fail(err, CAS_E_INVALID, "socket %s: name too long", path);
        return 0;
}

int reg_connect_unix(const char *path, int *out_fd, struct cas_err *err)
{
        struct sockaddr_un address;
        cas_cleanup_fd int dir_fd = -1;
        int rc = unix_address(path, &address, &dir_fd, err);
        if (rc < 0)
                return rc;
        cas_cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return cas_fail_sys(err, errno, "socket");
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
                if (errno == ECONNREFUSED || errno == ENOENT)
                        return cas_fail(err, CAS_E_NOTFOUND, "connect %s: nobody listens", path);
                return cas_fail_sys(err, errno, "connect %s", path);
        }
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* Removes a socket that a dead process left. */
static int clear_stale(const char *path, struct cas_err *err)
{
        struct stat st;
        struct cas_err probe = CAS_ERR_INIT;
        if (lstat(path, &st) != 0)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "stat %s", path);
        if (!S_ISSOCK(st.st_mode))
                return cas_fail(err, CAS_E_EXISTS, "%s is there and is no socket", path);
        cas_cleanup_fd int fd = -1;
        if (reg_connect_unix(path, &fd, &probe) == 0)
                return cas_fail(err, CAS_E_BUSY, "listen %s: address in use", path);
        if (probe.code != CAS_E_NOTFOUND) {
                *err = probe;
                return -(int)err->code;
        }
        if (unlink(path) != 0 && errno != ENOENT)
                return cas_fail_sys(err, errno, "unlink %s", path);
        return 0;
}

static int listen_unix(const char *path, unsigned mode, int *out_fd, struct cas_err *err)
{
        struct sockaddr_un address;
        cas_cleanup_fd int dir_fd = -1;
        int rc = unix_address(path, &address, &dir_fd, err);
        if (rc == 0)
                rc = clear_stale(path, err);
        if (rc < 0)
                return rc;
        cas_cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return cas_fail_sys(err, errno, "socket");
        /* nobody can connect before listen, so the mode is never wider than asked for */
        if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
            chmod(address.sun_path, (mode_t)mode) != 0 || listen(fd, SOMAXCONN) != 0)
                return fail_listen(err, errno, path);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

int reg_listen(const char *where, unsigned socket_mode, int *out_fd, struct cas_err *err)
{
        if (where[0] == '/')
                return listen_unix(where, socket_mode, out_fd, err);
        return listen_tcp(where, out_fd, err);
}

unsigned reg_listen_port(int fd)
{
        struct sockaddr_storage address = {0};
        socklen_t len = sizeof(address);
        if (getsockname(fd, (struct sockaddr *)&address, &len) != 0)
                return 0;
        if (address.ss_family == AF_INET)
                return ntohs(((const struct sockaddr_in *)&address)->sin_port);
        if (address.ss_family == AF_INET6)
                return ntohs(((const struct sockaddr_in6 *)&address)->sin6_port);
        return 0;
}
