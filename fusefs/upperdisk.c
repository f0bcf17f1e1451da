/* SPDX-License-Identifier: Apache-2.0 */
/* System calls on one name of a directory, or on what a descriptor stands for
 * (O_PATH too), that follow no link and open nothing. The calls that take a
 * directory and a name are recent (xattrs: Linux 6.13, modes: 6.6); older
 * kernels are asked by /proc/self/fd. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "fusefs/upperparts_int.h"

/* The same on every architecture but Alpha; headers of older systems lack them. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#define SYS_getxattrat 464
#define SYS_listxattrat 465
#define SYS_removexattrat 466
#endif

/* The kernel's struct xattr_args. */
struct xattr_args_ {
        uint64_t value;
        uint32_t size;
        uint32_t flags;
};

static _Atomic bool no_xattrat, no_fchmodat2;

#define PROC_PATH_BYTES 40
static const char *proc_path(int fd, char out[PROC_PATH_BYTES])
{
        (void)snprintf(out, PROC_PATH_BYTES, "/proc/self/fd/%d", fd);
        return out;
}

/* A descriptor for the place: its own, or one opened for the call, which *opened closes. */
static int place_fd(struct ffs_place at, int *opened)
{
        if (!at.name)
                return at.fd;
        *opened = openat(at.fd, at.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        return *opened;
}

static bool use_xattrat(struct ffs_place at)
{
        return at.name && !atomic_load_explicit(&no_xattrat, memory_order_relaxed);
}

/* True where the kernel does not know the call: the other way is to be taken from now on. */
static bool is_unknown(long rc, _Atomic bool *flag)
{
        if (rc >= 0 || errno != ENOSYS)
                return false;
        atomic_store_explicit(flag, true, memory_order_relaxed);
        return true;
}

int ffs_place_stat(struct ffs_place at, struct stat *out)
{
        int flags = at.name ? AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT : AT_EMPTY_PATH;
        return fstatat(at.fd, at.name ? at.name : "", out, flags) < 0 ? -errno : 0;
}

ssize_t ffs_place_getxattr(struct ffs_place at, const char *name, void *value, size_t size)
{
        if (use_xattrat(at)) {
                struct xattr_args_ args = {.value = (uintptr_t)value, .size = (uint32_t)size};
                long n = syscall(SYS_getxattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, name, &args,
                                 sizeof(args));
                if (!is_unknown(n, &no_xattrat))
                        return n < 0 ? -errno : n;
        }
        cas_cleanup_fd int opened = -1;
        int fd = place_fd(at, &opened);
        if (fd < 0)
                return -errno;
        ssize_t n = at.name ? -1 : fgetxattr(fd, name, value, size);
        if (n < 0 && (at.name || errno == EBADF)) {
                char path[PROC_PATH_BYTES];
                n = getxattr(proc_path(fd, path), name, value, size);
        }
        return n < 0 ? -errno : n;
}

ssize_t ffs_place_listxattr(struct ffs_place at, char *list, size_t size)
{
        if (use_xattrat(at)) {
                long n = syscall(SYS_listxattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, list, size);
                if (!is_unknown(n, &no_xattrat))
                        return n < 0 ? -errno : n;
        }
        cas_cleanup_fd int opened = -1;
        int fd = place_fd(at, &opened);
        if (fd < 0)
                return -errno;
        ssize_t n = at.name ? -1 : flistxattr(fd, list, size);
        if (n < 0 && (at.name || errno == EBADF)) {
                char path[PROC_PATH_BYTES];
                n = listxattr(proc_path(fd, path), list, size);
        }
        return n < 0 ? -errno : n;
}

int ffs_place_setxattr(struct ffs_place at, const char *name, const void *value, size_t size,
                       int flags)
{
        if (use_xattrat(at)) {
                struct xattr_args_ args = {.value = (uintptr_t)value,
                                           .size = (uint32_t)size,
                                           .flags = (uint32_t)flags};
                long rc = syscall(SYS_setxattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, name, &args,
                                  sizeof(args));
                if (!is_unknown(rc, &no_xattrat))
                        return rc < 0 ? -errno : 0;
        }
        cas_cleanup_fd int opened = -1;
        int fd = place_fd(at, &opened);
        if (fd < 0)
                return -errno;
        int rc = at.name ? -1 : fsetxattr(fd, name, value, size, flags);
        if (rc < 0 && (at.name || errno == EBADF)) {
                char path[PROC_PATH_BYTES];
                rc = setxattr(proc_path(fd, path), name, value, size, flags);
        }
        return rc < 0 ? -errno : 0;
}

int ffs_place_removexattr(struct ffs_place at, const char *name)
{
        if (use_xattrat(at)) {
                long rc = syscall(SYS_removexattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, name);
                if (!is_unknown(rc, &no_xattrat))
                        return rc < 0 ? -errno : 0;
        }
        cas_cleanup_fd int opened = -1;
        int fd = place_fd(at, &opened);
        if (fd < 0)
                return -errno;
        int rc = at.name ? -1 : fremovexattr(fd, name);
        if (rc < 0 && (at.name || errno == EBADF)) {
                char path[PROC_PATH_BYTES];
                rc = removexattr(proc_path(fd, path), name);
        }
        return rc < 0 ? -errno : 0;
}

int ffs_place_chmod(struct ffs_place at, mode_t mode)
{
        if (!at.name && fchmod(at.fd, mode) == 0)
                return 0;
        if (!at.name && errno != EBADF)
                return -errno;
        if (!atomic_load_explicit(&no_fchmodat2, memory_order_relaxed)) {
                long rc = syscall(SYS_fchmodat2, at.fd, at.name ? at.name : "", mode,
                                  at.name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH);
                if (!is_unknown(rc, &no_fchmodat2))
                        return rc < 0 ? -errno : 0;
        }
        cas_cleanup_fd int opened = -1;
        int fd = place_fd(at, &opened);
        char path[PROC_PATH_BYTES];
        /* Of a link this is refused: its descriptor is the link's own. */
        return fd < 0 || chmod(proc_path(fd, path), mode) < 0 ? -errno : 0;
}

int ffs_place_chown(struct ffs_place at, uid_t uid, gid_t gid)
{
        int flags = at.name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
        return fchownat(at.fd, at.name ? at.name : "", uid, gid, flags) < 0 ? -errno : 0;
}

int ffs_place_utimens(struct ffs_place at, const struct timespec times[2])
{
        int flags = at.name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
        return utimensat(at.fd, at.name ? at.name : "", times, flags) < 0 ? -errno : 0;
}

int ffs_place_link(int fd, int dirfd, const char *name)
{
        if (linkat(fd, "", dirfd, name, AT_EMPTY_PATH) == 0)
                return 0;
        if (errno != ENOENT) /* so who lacks CAP_DAC_READ_SEARCH is told before Linux 6.10 */
                return -errno;
        char path[PROC_PATH_BYTES];
        return linkat(AT_FDCWD, proc_path(fd, path), dirfd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno
                                                                                         : 0;
}

/* ---- whole lists and values ---- */

int ffs_place_xattr_names(struct ffs_place at, char **out, size_t *out_len)
{
        char small[1024];
        *out = NULL;
        *out_len = 0;
        ssize_t n = ffs_place_listxattr(at, small, sizeof(small));
        if (n == -EOPNOTSUPP || n == 0)
                return 0;
        size_t size = n > 0 ? (size_t)n : FFS_UPPER_XATTR_BYTES_MAX;
        if (n < 0 && n != -ERANGE)
                return (int)n;
        cas_cleanup_free char *list = malloc(size + 1);
        if (!list)
                return -ENOMEM;
        if (n > 0)
                memcpy(list, small, size);
        else
                n = ffs_place_listxattr(at, list, size);
        if (n < 0)
                return (int)n;
        list[n] = '\0';
        *out_len = (size_t)n;
        *out = cas_steal(&list);
        return 0;
}

int ffs_place_xattr_value(struct ffs_place at, const char *name, size_t max_bytes, uint8_t **out,
                          size_t *out_len)
{
        uint8_t small[512];
        size_t first = max_bytes < sizeof(small) ? max_bytes : sizeof(small);
        ssize_t n = ffs_place_getxattr(at, name, small, first);
        if (n == -ERANGE && first == max_bytes)
                return -E2BIG;
        size_t size = n >= 0 ? (size_t)n : max_bytes;
        if (n < 0 && n != -ERANGE)
                return (int)n;
        cas_cleanup_free uint8_t *value = malloc(size + 1);
        if (!value)
                return -ENOMEM;
        if (n >= 0)
                memcpy(value, small, size);
        else
                n = ffs_place_getxattr(at, name, value, size);
        if (n < 0)
                return n == -ERANGE ? -E2BIG : (int)n;
        value[n] = '\0';
        *out_len = (size_t)n;
        *out = cas_steal(&value);
        return 0;
}
