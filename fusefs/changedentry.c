/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fusefs/changes_int.h"

#define LOOK_TRIES 8
#define XATTR_LIST_BYTES_MAX 65536

/* ---- inodes of an upper ---- */

void ffs_upper_inode_release(struct ffs_upper_inode *i)
{
        if (i->fd >= 0)
                (void)close(i->fd);
        ffs_upper_entry_release(&i->look);
        *i = (struct ffs_upper_inode)FFS_UPPER_INODE_INIT;
}

static int upper_fail(int rc, const char *path, struct cas_err *err)
{
        if (rc == -EUCLEAN)
                return cas_fail(err, CAS_E_CORRUPT,
                                "%.200s: the upper directory says of it what no overlay may say",
                                path);
        return cas_fail_sys(err, -rc, "%.200s", path);
}

int ffs_upper_inode_of(struct ffs_upperlayer *u, int fd, const char *path,
                       struct ffs_upper_inode *out, struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = {.fd = fd};
        struct stat st;
        int rc = -ESTALE; /* its marks change while it is looked at */
        for (int tries = 0; rc == -ESTALE && tries < LOOK_TRIES; tries++)
                rc = fstat(fd, &st) < 0 ? -errno : ffs_upper_look_fd(u, fd, &i.look);
        if (rc < 0)
                return upper_fail(rc, path, err);
        i.dev = st.st_dev;
        i.ino = st.st_ino;
        i.nlink = st.st_nlink;
        *out = i;
        i = (struct ffs_upper_inode)FFS_UPPER_INODE_INIT;
        return 0;
}

int ffs_upper_inode_at(struct ffs_upperlayer *u, int dirfd, const char *name, const char *path,
                       struct ffs_upper_inode *out, struct cas_err *err)
{
        *out = (struct ffs_upper_inode)FFS_UPPER_INODE_INIT;
        int fd, rc = ffs_upper_look(u, dirfd, name, &out->look);
        if (rc == 0 && out->look.kind != FFS_UPPER_PRESENT)
                return 0;
        ffs_upper_entry_release(&out->look);
        if (rc == 0 || rc == -ESTALE)
                rc = ffs_upper_open(u, dirfd, name, O_PATH, &fd);
        if (rc == -ENOENT) { /* removed while we looked */
                *out = (struct ffs_upper_inode){.fd = -1, .look.kind = FFS_UPPER_ABSENT};
                return 0;
        }
        return rc < 0 ? upper_fail(rc, path, err) : ffs_upper_inode_of(u, fd, path, out, err);
}

/* ---- entries ---- */

static enum cas_entry_type type_of(mode_t mode)
{
        switch (mode & S_IFMT) {
        case S_IFDIR:
                return CAS_ENTRY_DIR;
        case S_IFLNK:
                return CAS_ENTRY_SYMLINK;
        case S_IFCHR:
                return CAS_ENTRY_CHARDEV;
        case S_IFBLK:
                return CAS_ENTRY_BLOCKDEV;
        case S_IFIFO:
                return CAS_ENTRY_FIFO;
        case S_IFSOCK:
                return CAS_ENTRY_SOCKET;
        default:
                return CAS_ENTRY_FILE;
        }
}

/* Attributes that an image cannot carry to another host. */
static bool xattr_is_local(const char *name)
{
        return strcmp(name, "security.selinux") == 0 || strcmp(name, "security.ima") == 0 ||
               strcmp(name, "security.evm") == 0;
}

static int take_xattr(struct ffs_upperlayer *u, int fd, const char *name, uint8_t *value,
                      struct cas_entry *out, struct cas_err *err)
{
        if (xattr_is_local(name))
                return 0;
        ssize_t len = ffs_upper_getxattr(u, fd, name, value, CAS_XATTR_VALUE_BYTES_MAX);
        if (len == -ENODATA || len == -EPERM || len == -EACCES)
                return 0;
        if (len < 0)
                return upper_fail((int)len, out->path, err);
        if (cas_entry_set_xattr(out, name, value, (size_t)len, err) < 0)
                return cas_err_wrap(err, "%.200s", out->path);
        return 0;
}

static int take_xattrs(struct ffs_upperlayer *u, int fd, struct cas_entry *out, struct cas_err *err)
{
        ssize_t size = ffs_upper_listxattr(u, fd, NULL, 0);
        if (size == 0 || size == -EOPNOTSUPP)
                return 0;
        cas_cleanup_free char *names = cas_xmalloc(XATTR_LIST_BYTES_MAX);
        cas_cleanup_free uint8_t *value = cas_xmalloc(CAS_XATTR_VALUE_BYTES_MAX);
        size = ffs_upper_listxattr(u, fd, names, XATTR_LIST_BYTES_MAX);
        if (size < 0)
                return upper_fail((int)size, out->path, err);
        for (ssize_t i = 0; i < size; i += (ssize_t)strlen(names + i) + 1) {
                if (take_xattr(u, fd, names + i, value, out, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int take_target(int fd, struct cas_entry *out, struct cas_err *err)
{
        char text[CAS_SYMLINK_BYTES_MAX + 1];
        ssize_t len = readlinkat(fd, "", text, sizeof(text));
        if (len < 0)
                return cas_fail_sys(err, errno, "%.200s", out->path);
        if (len == 0 || (size_t)len == sizeof(text))
                return cas_fail(err, CAS_E_LIMIT, "%.200s: a link of more than %d bytes", out->path,
                                CAS_SYMLINK_BYTES_MAX);
        out->target = cas_xstrndup(text, (size_t)len);
        return 0;
}

int ffs_changed_entry_from_upper(struct ffs_upperlayer *u, const struct ffs_upper_inode *inode,
                                 struct cas_entry *out, struct cas_err *err)
{
        const struct stat *st = &inode->look.st;
        out->type = type_of(st->st_mode);
        out->mode = st->st_mode & 07777;
        out->uid = st->st_uid;
        out->gid = st->st_gid;
        out->mtime_s = st->st_mtim.tv_sec;
        out->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
        if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
                out->dev_major = major(st->st_rdev);
                out->dev_minor = minor(st->st_rdev);
        }
        if (S_ISREG(st->st_mode) && !inode->look.metacopy)
                out->size_bytes = (uint64_t)st->st_size;
        if (S_ISLNK(st->st_mode) && take_target(inode->fd, out, err) < 0)
                return -(int)err->code;
        return take_xattrs(u, inode->fd, out, err);
}

/* ---- of a view ---- */

struct xattr_take {
        struct cas_entry *entry;
        struct cas_err *err;
        int rc;
};

static bool take_view_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct xattr_take *t = arg;
        t->rc = cas_entry_set_xattr(t->entry, name, value, len, t->err);
        return t->rc == 0;
}

static int take_view_data(const struct ffs_view *v, uint64_t vid, const struct cas_inode *inode,
                          struct cas_entry *out, struct cas_err *err)
{
        const void *data;
        size_t len;
        out->size_bytes = inode->size_bytes;
        if (inode->has_object) {
                out->object = inode->object;
                return 0;
        }
        if (ffs_view_inline(v, vid, &data, &len, err) < 0)
                return -(int)err->code;
        if (len > CAS_INLINE_BYTES_MAX || len != inode->size_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "%.200s: a file of %zu bytes without an object",
                                out->path, len);
        memcpy(out->inline_data, data, len);
        return 0;
}

int ffs_changed_entry_from_view(const struct ffs_view *v, uint64_t vid, struct cas_entry *out,
                                struct cas_err *err)
{
        struct cas_inode i;
        struct xattr_take take = {.entry = out, .err = err};
        const void *text;
        size_t len;
        if (ffs_view_inode(v, vid, &i, err) < 0)
                return -(int)err->code;
        out->type = type_of(i.mode);
        out->mode = i.mode & 07777;
        out->uid = i.uid;
        out->gid = i.gid;
        out->mtime_s = i.mtime_s;
        out->mtime_ns = i.mtime_ns;
        if (S_ISCHR(i.mode) || S_ISBLK(i.mode)) {
                out->dev_major = major(i.rdev);
                out->dev_minor = minor(i.rdev);
        }
        if (S_ISREG(i.mode) && take_view_data(v, vid, &i, out, err) < 0)
                return -(int)err->code;
        if (S_ISLNK(i.mode)) {
                if (ffs_view_inline(v, vid, &text, &len, err) < 0)
                        return -(int)err->code;
                out->target = cas_xstrndup(text, len);
        }
        if (ffs_view_xattrs(v, vid, take_view_xattr, &take, err) < 0)
                return -(int)err->code;
        return take.rc;
}

int ffs_changed_data_from_view(const struct ffs_view *v, uint64_t vid, uint64_t size_bytes,
                               struct cas_entry *out, struct cas_err *err)
{
        struct cas_inode i;
        if (ffs_view_inode(v, vid, &i, err) < 0)
                return -(int)err->code;
        if (!S_ISREG(i.mode) || i.size_bytes != size_bytes)
                return cas_fail(err, CAS_E_CORRUPT,
                                "%.200s: it takes its data from what is no such file below",
                                out->path);
        return take_view_data(v, vid, &i, out, err);
}

bool ffs_changed_entry_equal(const struct cas_entry *a, const struct cas_entry *b)
{
        if (a->mode != b->mode || a->uid != b->uid || a->gid != b->gid ||
            a->mtime_s != b->mtime_s || a->mtime_ns != b->mtime_ns ||
            a->xattr_count != b->xattr_count)
                return false;
        for (size_t i = 0; i < a->xattr_count; i++) {
                const struct cas_xattr *x = &a->xattrs[i], *y = &b->xattrs[i];
                if (strcmp(x->name, y->name) != 0 || x->value_bytes != y->value_bytes ||
                    memcmp(x->value, y->value, x->value_bytes) != 0)
                        return false;
        }
        return true;
}
