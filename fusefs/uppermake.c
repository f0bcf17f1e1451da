/* SPDX-License-Identifier: Apache-2.0 */
/* Making what is new in an upper. A name appears with everything that belongs to
 * it, by one of three ways:
 *
 *   plain     what one system call makes as it is to be, in its place;
 *   files     made without a name (O_TMPFILE), dressed, linked;
 *   others    made in work/, dressed, renamed.
 *
 * A whiteout that has the name gives way: to files by a rename over it, to
 * directories by an exchange. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "fusefs/upperparts_int.h"

/* ---- what it is to be ---- */

/* New files of a directory have its default ACL; what is copied up has its own. */
static bool is_new(const struct ffs_upper_new *what)
{
        return !what->set_mtime && !what->has_origin;
}

static bool is_allowed(const struct ffs_upperlayer *u, const struct ffs_upper_new *what)
{
        bool marked = what->metacopy || what->redirect;
        return !(S_ISCHR(what->mode) && what->rdev == makedev(0, 0)) && /* a whiteout */
               !(marked && u->config.format == FFS_UPPER_USER);
}

static bool is_plain(const struct ffs_upperlayer *u, const struct ffs_upper_new *what)
{
        if (what->set_mtime || what->opaque || what->redirect || what->metacopy ||
            what->has_origin || what->xattr_count > 0 || (what->mode & 07000))
                return false;
        if (u->config.owners_in_xattrs)
                return !ffs_upper_needs_override(u, what->uid, what->gid, what->mode);
        return what->uid == u->euid && what->gid == u->egid;
}

/* The inode as it lies on the disk: special files of who keeps owners in xattrs are regular there.
 * out_fd: of a regular file, if it is wanted. */
static int make_node(const struct ffs_upperlayer *u, int dirfd, const char *name,
                     const struct ffs_upper_new *what, int *out_fd)
{
        mode_t permissions = ffs_upper_disk_mode(u, what->mode) & 0777;
        mode_t type = what->mode & S_IFMT;
        if (type == S_IFDIR)
                return mkdirat(dirfd, name, permissions) < 0 ? -errno : 0;
        if (type == S_IFLNK)
                return symlinkat(what->target, dirfd, name) < 0 ? -errno : 0;
        if (type != S_IFREG && !u->config.owners_in_xattrs)
                return mknodat(dirfd, name, type | permissions, what->rdev) < 0 ? -errno : 0;
        cas_cleanup_fd int fd = openat(
                dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, permissions);
        if (fd < 0)
                return -errno;
        if (out_fd)
                *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* ---- dressing ---- */

static int put_mark(const struct ffs_upperlayer *u, struct ffs_place at, const char *mark,
                    const void *value, size_t len)
{
        char name[FFS_UPPER_XATTR_NAME_BYTES];
        ffs_upper_mark_name(u, mark, name);
        return ffs_place_setxattr(at, name, value, len, 0);
}

static int put_marks(const struct ffs_upperlayer *u, struct ffs_place at,
                     const struct ffs_upper_new *what)
{
        int rc = 0;
        if (what->opaque)
                rc = put_mark(u, at, "opaque", "y", 1);
        if (rc == 0 && what->redirect)
                rc = put_mark(u, at, "redirect", what->redirect, strlen(what->redirect));
        if (rc == 0 && what->metacopy)
                rc = put_mark(u, at, "metacopy", "", 0);
        if (rc < 0 || !what->has_origin)
                return rc;
        char text[32];
        (void)snprintf(text, sizeof(text), "%016llx", (unsigned long long)what->origin);
        rc = put_mark(u, at, "lamina.origin", text, strlen(text));
        /* Links and special files take no user.* xattrs: such a one gets a number of its own. */
        return rc == -EPERM || rc == -EOPNOTSUPP ? 0 : rc;
}

/* As overlayfs copies up: what cannot be kept is left out, but for what guards access. */
static bool may_be_lost(const char *name, int rc)
{
        return (rc == -EOPNOTSUPP || rc == -EPERM) && strncmp(name, "security.", 9) != 0 &&
               strncmp(name, "system.posix_acl_", 17) != 0;
}

static int put_xattrs(const struct ffs_upperlayer *u, struct ffs_place at,
                      const struct ffs_upper_new *what)
{
        for (size_t i = 0; i < what->xattr_count; i++) {
                const struct cas_xattr *x = &what->xattrs[i];
                int rc = ffs_upper_put_xattr(u, at, x->name, x->value, x->value_bytes, 0);
                bool link = S_ISLNK(what->mode) && rc == -EPERM && u->config.owners_in_xattrs;
                if (rc < 0 && !link && !may_be_lost(x->name, rc))
                        return rc;
        }
        return 0;
}

/* Owner, mode, ACL, xattrs, marks, time: in this order, since each may take something of those
 * before it away. inherit_from: the directory whose default ACL is not on it yet, or -1. */
static int dress(const struct ffs_upperlayer *u, struct ffs_place at,
                 const struct ffs_upper_new *what, int inherit_from)
{
        mode_t mode = what->mode;
        int rc = ffs_upper_put_owner(u, at, what->uid, what->gid, mode, what->rdev);
        if (rc == 0 && inherit_from >= 0 && is_new(what) && !S_ISLNK(mode)) {
                rc = ffs_upper_inherit_acl(u, inherit_from, at, &mode);
                if (rc == 0 && mode != what->mode)
                        rc = ffs_upper_put_owner(u, at, what->uid, what->gid, mode, what->rdev);
        }
        if (rc == 0)
                rc = put_xattrs(u, at, what);
        if (rc == 0)
                rc = put_marks(u, at, what);
        /* What is below has no other time of reading. */
        const struct timespec time = {.tv_sec = what->mtime_s, .tv_nsec = what->mtime_ns};
        const struct timespec times[2] = {time, time};
        if (rc == 0 && what->set_mtime)
                rc = ffs_place_utimens(at, times);
        return rc;
}

/* ---- names ---- */

/* Gives what has a name in work/ its place. */
static int place_named(struct ffs_upperlayer *u, const char *temp, int dirfd, const char *name,
                       bool is_dir)
{
        if (renameat2(u->work_fd, temp, dirfd, name, RENAME_NOREPLACE) == 0)
                return 0;
        if (errno != EEXIST)
                return -errno;
        enum ffs_upper_kind kind;
        struct stat st;
        int rc = ffs_upper_kind((struct ffs_place){dirfd, name}, u, &kind, &st);
        if (rc < 0 || kind != FFS_UPPER_WHITEOUT)
                return rc < 0 ? rc : -EEXIST;
        if (renameat2(u->work_fd, temp, dirfd, name, is_dir ? RENAME_EXCHANGE : 0) < 0)
                return -errno;
        if (is_dir)
                (void)unlinkat(u->work_fd, temp, 0); /* the whiteout; else litter, no more */
        return 0;
}

/* Links fd there. What is in the way gives way if it is a whiteout, or with `replace` a file. */
static int place_fd(struct ffs_upperlayer *u, int fd, int dirfd, const char *name, bool replace)
{
        int rc = ffs_place_link(fd, dirfd, name);
        if (rc != -EEXIST)
                return rc;
        enum ffs_upper_kind kind;
        struct stat st;
        rc = ffs_upper_kind((struct ffs_place){dirfd, name}, u, &kind, &st);
        if (rc < 0)
                return rc;
        if (kind != FFS_UPPER_WHITEOUT && !(replace && S_ISREG(st.st_mode)))
                return -EEXIST;
        char temp[FFS_UPPER_TEMP_BYTES];
        ffs_upper_work_name(u, temp);
        rc = ffs_place_link(fd, u->work_fd, temp);
        if (rc < 0)
                return rc;
        if (renameat(u->work_fd, temp, dirfd, name) < 0) {
                rc = -errno;
                (void)unlinkat(u->work_fd, temp, 0);
                return rc;
        }
        if (kind == FFS_UPPER_PRESENT)
                ffs_upper_credit(u, &st);
        return 0;
}

int ffs_upper_link(struct ffs_upperlayer *u, int fd, int dirfd, const char *name)
{
        if (!ffs_upper_is_name(name))
                return -EINVAL;
        int rc = place_fd(u, fd, dirfd, name, false);
        return rc == 0 ? ffs_upper_note_impure(u, (struct ffs_place){fd, NULL}, dirfd) : rc;
}

int ffs_upper_link_hidden(struct ffs_upperlayer *u, int fd, const char *hidden)
{
        return ffs_upper_is_hidden_name(hidden) ? ffs_place_link(fd, u->work_fd, hidden) : -EINVAL;
}

/* ---- files ---- */

int ffs_upper_begin(struct ffs_upperlayer *u, int *out_fd)
{
        int rc = ffs_upper_charge_inode(u);
        if (rc < 0)
                return rc;
        int fd = openat(u->work_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0) {
                rc = -errno;
                ffs_upper_unreserve(u, FFS_UPPER_INODE_BYTES);
                return rc;
        }
        *out_fd = fd;
        return 0;
}

int ffs_upper_finish(struct ffs_upperlayer *u, int fd, const struct ffs_upper_new *what, int dirfd,
                     const char *name, bool replace)
{
        if (!is_allowed(u, what) || !S_ISREG(what->mode))
                return -EPERM;
        if (!ffs_upper_is_name(name))
                return -EINVAL;
        int rc = dress(u, (struct ffs_place){fd, NULL}, what, is_new(what) ? dirfd : -1);
        return rc < 0 ? rc : place_fd(u, fd, dirfd, name, replace);
}

/* Made in its directory, whose default ACL is then on it, but where that is kept in an xattr. */
int ffs_upper_tmpfile(struct ffs_upperlayer *u, int dirfd, const struct ffs_upper_new *what,
                      int *out_fd)
{
        if (!is_allowed(u, what) || !S_ISREG(what->mode))
                return -EPERM;
        int rc = ffs_upper_charge_inode(u);
        if (rc < 0)
                return rc;
        cas_cleanup_fd int fd =
                openat(is_new(what) ? dirfd : u->work_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC,
                       ffs_upper_disk_mode(u, what->mode) & 0777);
        struct ffs_place at = {fd, NULL};
        struct ffs_upper_new as_made = *what;
        struct stat st;
        rc = fd < 0 ? -errno : ffs_place_stat(at, &st);
        bool disk_acl = is_new(what) && !u->config.owners_in_xattrs;
        if (rc == 0 && disk_acl) /* with what the default ACL left of the permissions */
                as_made.mode = (what->mode & ~(mode_t)0777) | (st.st_mode & 0777);
        if (rc == 0 && what->metacopy && ftruncate(fd, (off_t)what->size_bytes) < 0)
                rc = -errno;
        if (rc == 0)
                rc = dress(u, at, &as_made, disk_acl ? -1 : dirfd);
        if (rc < 0) {
                ffs_upper_unreserve(u, FFS_UPPER_INODE_BYTES);
                return rc;
        }
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int make_file(struct ffs_upperlayer *u, int dirfd, const char *name,
                     const struct ffs_upper_new *what, int *out_fd)
{
        cas_cleanup_fd int fd = -1;
        int rc = ffs_upper_tmpfile(u, dirfd, what, &fd);
        if (rc < 0)
                return rc;
        rc = place_fd(u, fd, dirfd, name, false);
        if (rc < 0) {
                ffs_upper_unreserve(u, FFS_UPPER_INODE_BYTES);
                return rc;
        }
        if (out_fd)
                *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* ---- everything ---- */

static int make_others(struct ffs_upperlayer *u, int dirfd, const char *name,
                       const struct ffs_upper_new *what)
{
        int rc = ffs_upper_charge_inode(u);
        if (rc < 0)
                return rc;
        char temp[FFS_UPPER_TEMP_BYTES];
        ffs_upper_work_name(u, temp);
        rc = make_node(u, u->work_fd, temp, what, NULL);
        if (rc == 0) {
                rc = dress(u, (struct ffs_place){u->work_fd, temp}, what, dirfd);
                if (rc == 0)
                        rc = place_named(u, temp, dirfd, name, S_ISDIR(what->mode));
                if (rc < 0)
                        (void)ffs_upper_work_remove(u, temp);
        }
        if (rc < 0)
                ffs_upper_unreserve(u, FFS_UPPER_INODE_BYTES);
        return rc;
}

/* 1: it has to be made in another way. */
static int make_plain(struct ffs_upperlayer *u, int dirfd, const char *name,
                      const struct ffs_upper_new *what, int *out_fd)
{
        /* An ACL that is kept in an xattr is not applied by the disk. */
        char acl[8];
        if (u->config.owners_in_xattrs && !S_ISLNK(what->mode) &&
            ffs_place_getxattr((struct ffs_place){dirfd, "."}, FFS_OVERRIDE_PREFIX FFS_ACL_DEFAULT,
                               acl, sizeof(acl)) != -ENODATA)
                return 1;
        int rc = ffs_upper_charge_inode(u);
        if (rc < 0)
                return rc;
        rc = make_node(u, dirfd, name, what, out_fd);
        if (rc < 0)
                ffs_upper_unreserve(u, FFS_UPPER_INODE_BYTES);
        return rc == -EEXIST ? 1 : rc; /* by a whiteout perhaps */
}

int ffs_upper_make(struct ffs_upperlayer *u, int dirfd, const char *name,
                   const struct ffs_upper_new *what, int *out_fd)
{
        if (!ffs_upper_is_name(name))
                return -EINVAL;
        if (!is_allowed(u, what))
                return -EPERM;
        int rc = is_plain(u, what) ? make_plain(u, dirfd, name, what, out_fd) : 1;
        if (rc <= 0)
                return rc;
        return S_ISREG(what->mode) ? make_file(u, dirfd, name, what, out_fd)
                                   : make_others(u, dirfd, name, what);
}
