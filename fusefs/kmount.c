/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/kmount_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define CONFIG_VALUE_MAX 255

int ffs_kmount_open(const char *type, struct ffs_kmount *out, struct cas_err *err)
{
        int fd = fsopen(type, FSOPEN_CLOEXEC);
        if (fd < 0 && errno == ENODEV)
                return cas_fail(err, CAS_E_UNSUPPORTED, "this kernel has no %s file system", type);
        if (fd < 0 && errno == EPERM)
                return cas_fail(err, CAS_E_DENIED, "mounting %s needs root", type);
        if (fd < 0)
                return cas_fail_sys(err, errno, "fsopen %s", type);
        *out = (struct ffs_kmount){.context_fd = fd, .type = type};
        return 0;
}

void ffs_kmount_release(struct ffs_kmount *m)
{
        if (m->type)
                (void)close(m->context_fd);
        m->type = NULL;
}

/* The failed call with errno, and the last of what the kernel says about it. */
static int kernel_says(struct ffs_kmount *m, const char *what, int sys_errno, struct cas_err *err)
{
        char line[256], last[260] = "";
        ssize_t n;
        while ((n = read(m->context_fd, line, sizeof(line) - 1)) > 0) {
                line[n] = '\0';
                line[strcspn(line, "\n")] = '\0';
                (void)snprintf(last, sizeof(last), " (%s)", line);
        }
        return cas_fail_sys(err, sys_errno, "mount %s: %s%s", m->type, what, last);
}

int ffs_kmount_set(struct ffs_kmount *m, const char *key, const char *value, struct cas_err *err)
{
        if (fsconfig(m->context_fd, FSCONFIG_SET_STRING, key, value, 0) < 0)
                return kernel_says(m, key, errno, err);
        return 0;
}

int ffs_kmount_flag(struct ffs_kmount *m, const char *key, struct cas_err *err)
{
        if (fsconfig(m->context_fd, FSCONFIG_SET_FLAG, key, NULL, 0) < 0)
                return kernel_says(m, key, errno, err);
        return 0;
}

int ffs_kmount_set_path(struct ffs_kmount *m, const char *key, const char *path,
                        struct cas_err *err)
{
        if (strlen(path) <= CONFIG_VALUE_MAX)
                return ffs_kmount_set(m, key, path, err);
        cas_cleanup_fd int fd = open(path, O_PATH | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", path);
        if (ffs_kmount_set_fd(m, key, fd, err) < 0)
                return cas_err_wrap(err, "a path of more than %d bytes", CONFIG_VALUE_MAX);
        return 0;
}

int ffs_kmount_set_fd(struct ffs_kmount *m, const char *key, int fd, struct cas_err *err)
{
        if (fsconfig(m->context_fd, FSCONFIG_SET_FD, key, NULL, fd) == 0)
                return 0;
        if (errno == EINVAL)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "this kernel takes no %s of %s as a descriptor (Linux 6.13)", key,
                                m->type);
        return kernel_says(m, key, errno, err);
}

int ffs_kmount_detached(struct ffs_kmount *m, unsigned attributes, int *out_fd, struct cas_err *err)
{
        if (fsconfig(m->context_fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return kernel_says(m, "create", errno, err);
        int fd = fsmount(m->context_fd, FSMOUNT_CLOEXEC, attributes);
        if (fd < 0)
                return kernel_says(m, "fsmount", errno, err);
        *out_fd = fd;
        return 0;
}

int ffs_kmount_finish(struct ffs_kmount *m, unsigned attributes, const char *dir,
                      struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        if (ffs_kmount_detached(m, attributes, &fd, err) < 0)
                return -(int)err->code;
        return ffs_kmount_attach(fd, dir, err);
}

int ffs_kmount_attach(int fd, const char *dir, struct cas_err *err)
{
        if (move_mount(fd, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return cas_fail_sys(err, errno, "mount at %s", dir);
        return 0;
}

int ffs_kmount_set_attributes(int fd, unsigned attributes, struct cas_err *err)
{
        struct mount_attr attr = {.attr_set = attributes};
        if (attributes & MOUNT_ATTR__ATIME) /* one of several values, not a flag */
                attr.attr_clr = MOUNT_ATTR__ATIME;
        if (attributes && mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
                return cas_fail_sys(err, errno, "mount attributes");
        return 0;
}

int ffs_kmount_bind(const char *from, const char *to, unsigned attributes, struct cas_err *err)
{
        cas_cleanup_fd int fd = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "clone the mount at %s", from);
        if (ffs_kmount_set_attributes(fd, attributes, err) < 0)
                return cas_err_wrap(err, "%s", to);
        return ffs_kmount_attach(fd, to, err);
}

int ffs_kmount_clone_mapped(const char *dir, int userns_fd, int *out_fd, struct cas_err *err)
{
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned)userns_fd};
        cas_cleanup_fd int fd = open_tree(AT_FDCWD, dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "clone the mount at %s", dir);
        if (mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0) {
                if (errno == EINVAL || errno == EOPNOTSUPP)
                        return cas_fail(err, CAS_E_UNSUPPORTED,
                                        "this kernel shows no other owners of the file system of "
                                        "%s (idmapped mounts)",
                                        dir);
                return cas_fail_sys(err, errno, "map the owners of %s", dir);
        }
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

int ffs_kmount_detach(const char *dir, bool lazy, struct cas_err *err)
{
        if (umount2(dir, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0 || errno == EINVAL ||
            errno == ENOENT)
                return 0;
        return cas_fail_sys(err, errno, "unmount %s", dir);
}

static int identify(int fd, const char *dir, int flags, struct ffs_mount_id *out,
                    struct cas_err *err)
{
        struct statx sx;
        if (statx(fd, dir, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | flags, STATX_MNT_ID, &sx) < 0)
                return cas_fail_sys(err, errno, "look at %s", dir);
        *out = (struct ffs_mount_id){
                .mount_id = sx.stx_mnt_id,
                .dev_major = sx.stx_dev_major,
                .dev_minor = sx.stx_dev_minor,
                .is_mount_root = (sx.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0,
        };
        return 0;
}

int ffs_kmount_identify(const char *dir, struct ffs_mount_id *out, struct cas_err *err)
{
        return identify(AT_FDCWD, dir, AT_SYMLINK_NOFOLLOW, out, err);
}

int ffs_kmount_identify_fd(int fd, struct ffs_mount_id *out, struct cas_err *err)
{
        return identify(fd, "", AT_EMPTY_PATH, out, err);
}
