/* SPDX-License-Identifier: Apache-2.0 */
/* Opening what is present, and the marks that are put on it later. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "fusefs/upperparts_int.h"

static int check_regular(int fd)
{
        struct stat st;
        return fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EUCLEAN;
}

static bool opens_data(int flags)
{
        return !(flags & (O_PATH | O_DIRECTORY));
}

int ffs_upper_open(struct ffs_upperlayer *u CAS_UNUSED, int dirfd, const char *name, int flags,
                   int *out_fd)
{
        struct stat st;
        if (!ffs_upper_is_name(name) || (flags & O_CREAT))
                return -EINVAL;
        if (opens_data(flags)) {
                int rc = ffs_place_stat((struct ffs_place){dirfd, name}, &st);
                if (rc < 0)
                        return rc;
                if (!S_ISREG(st.st_mode))
                        return -EUCLEAN;
                flags |= O_NONBLOCK; /* should a FIFO have taken its place meanwhile */
        }
        cas_cleanup_fd int fd = openat(dirfd, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;
        int rc = opens_data(flags) ? check_regular(fd) : 0;
        if (rc == 0)
                *out_fd = cas_steal_fd(&fd);
        return rc;
}

int ffs_upper_reopen(struct ffs_upperlayer *u CAS_UNUSED, int fd, int flags, int *out_fd)
{
        int rc = opens_data(flags) ? check_regular(fd) : 0;
        if (rc < 0)
                return rc;
        char path[40];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int again = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY);
        if (again < 0)
                return -errno;
        *out_fd = again;
        return 0;
}

int ffs_upper_utimens(struct ffs_upperlayer *u CAS_UNUSED, int fd, const struct timespec times[2])
{
        return ffs_place_utimens((struct ffs_place){fd, NULL}, times);
}

int ffs_upper_set_opaque(struct ffs_upperlayer *u, int fd)
{
        char name[FFS_UPPER_XATTR_NAME_BYTES];
        ffs_upper_mark_name(u, "opaque", name);
        return ffs_place_setxattr((struct ffs_place){fd, NULL}, name, "y", 1, 0);
}

int ffs_upper_set_redirect(struct ffs_upperlayer *u, int fd, const char *path)
{
        char name[FFS_UPPER_XATTR_NAME_BYTES];
        if (u->config.format == FFS_UPPER_USER)
                return -EXDEV; /* as overlayfs answers renames there */
        if (!ffs_upper_redirect_is_valid(path, strlen(path)))
                return strlen(path) > FFS_UPPER_REDIRECT_BYTES_MAX ? -ENAMETOOLONG : -EINVAL;
        ffs_upper_mark_name(u, "redirect", name);
        return ffs_place_setxattr((struct ffs_place){fd, NULL}, name, path, strlen(path), 0);
}

int ffs_upper_note_impure(struct ffs_upperlayer *u, struct ffs_place at, int dirfd)
{
        static const char *const marks[] = {"redirect", "origin"};
        char name[FFS_UPPER_XATTR_NAME_BYTES], text[1];
        ssize_t len = -ENODATA;
        for (size_t i = 0; i < CAS_COUNT(marks) && len == -ENODATA; i++) {
                ffs_upper_mark_name(u, marks[i], name);
                len = ffs_place_getxattr(at, name, text, 0);
        }
        if (len < 0)
                return len == -ENODATA ? 0 : (int)len;
        struct ffs_place dir = {dirfd, NULL};
        ffs_upper_mark_name(u, "impure", name);
        if (ffs_place_getxattr(dir, name, text, sizeof(text)) > 0)
                return 0;
        return ffs_place_setxattr(dir, name, "y", 1, 0);
}

int ffs_upper_clear_metacopy(struct ffs_upperlayer *u, int fd)
{
        static const char *const marks[] = {"metacopy", "redirect"}; /* in this order */
        for (size_t i = 0; i < CAS_COUNT(marks); i++) {
                char name[FFS_UPPER_XATTR_NAME_BYTES];
                ffs_upper_mark_name(u, marks[i], name);
                int rc = ffs_place_removexattr((struct ffs_place){fd, NULL}, name);
                if (rc < 0 && rc != -ENODATA)
                        return rc;
        }
        return 0;
}
