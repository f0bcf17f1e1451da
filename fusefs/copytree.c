/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/copytree_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "cas/limits.h"
#include "cas/map.h"
#include "cas/path.h"

#define COPY_BYTES (1u << 30) /* at a time, by the kernel */
#define CHANGES_MAX 16        /* of one name while it is copied */
#define BUFFER_BYTES (256 * 1024)
#define XATTR_LIST_BYTES 65536

struct ffs_copytree {
        bool link;
        bool no_reflink, no_copy_range; /* the file system has said so */
        const char *const *skip_xattrs;
        int to_dir;
        struct cas_map *seen; /* device and inode -> 1 + place in paths */
        char **paths;         /* owned: of the copies, from to_dir */
        size_t path_count;
        char *names; /* lists and values of xattrs */
        uint8_t *buffer;
        struct ffs_clone_counts counts;
};

struct place { /* a name in both directories */
        int from_dir, to_dir;
        const char *name;
        const char *path; /* from to_dir of the whole, for messages and links */
        unsigned depth;
};

struct ffs_copytree *ffs_copytree_new(bool link)
{
        struct ffs_copytree *c = cas_xcalloc(1, sizeof(*c));
        c->link = link;
        c->seen = cas_map_new();
        c->names = cas_xmalloc(XATTR_LIST_BYTES);
        c->buffer = cas_xmalloc(BUFFER_BYTES);
        return c;
}

void ffs_copytree_free(struct ffs_copytree *c)
{
        if (!c)
                return;
        for (size_t i = 0; i < c->path_count; i++)
                free(c->paths[i]);
        free(c->paths);
        cas_map_free(c->seen);
        free(c->names);
        free(c->buffer);
        free(c);
}

const struct ffs_clone_counts *ffs_copytree_counts(const struct ffs_copytree *c)
{
        return &c->counts;
}

/* ---- data ---- */

static bool cannot(int errnum)
{
        return errnum == EOPNOTSUPP || errnum == EXDEV || errnum == EINVAL || errnum == ENOTTY ||
               errnum == ENOSYS;
}

static int copy_by_buffer(struct ffs_copytree *c, int from, int to, off_t *at, off_t end,
                          struct cas_err *err)
{
        while (*at < end) {
                size_t want = (size_t)cas_min_u64((uint64_t)(end - *at), BUFFER_BYTES);
                ssize_t n = pread(from, c->buffer, want, *at);
                if (n == 0)
                        return 0; /* it became shorter */
                if (n > 0)
                        n = pwrite(to, c->buffer, (size_t)n, *at);
                if (n < 0 && errno != EINTR)
                        return cas_fail_sys(err, errno, "copy");
                if (n > 0)
                        *at += n;
        }
        return 0;
}

static int copy_extent(struct ffs_copytree *c, int from, int to, off_t at, off_t end,
                       struct cas_err *err)
{
        off_t start = at;
        while (at < end && !c->no_copy_range) {
                off_t in = at, out = at;
                ssize_t n =
                        copy_file_range(from, &in, to, &out,
                                        (size_t)cas_min_u64((uint64_t)(end - at), COPY_BYTES), 0);
                if (n == 0)
                        break; /* it became shorter, or a file system that copies nothing so */
                if (n < 0 && cannot(errno))
                        c->no_copy_range = true;
                else if (n < 0 && errno != EINTR)
                        return cas_fail_sys(err, errno, "copy");
                if (n > 0)
                        at += n;
        }
        if (copy_by_buffer(c, from, to, &at, end, err) < 0)
                return -(int)err->code;
        c->counts.copied_bytes += (uint64_t)(at - start);
        return 0;
}

int ffs_copytree_data(struct ffs_copytree *c, int from, int to, struct cas_err *err)
{
        struct stat st;
        if (fstat(from, &st) < 0)
                return cas_fail_sys(err, errno, "copy");
        if (!c->no_reflink && st.st_size > 0) {
                if (ioctl(to, FICLONE, from) == 0) {
                        c->counts.shared_bytes += (uint64_t)st.st_size;
                        return 0;
                }
                c->no_reflink = cannot(errno);
        }
        if (ftruncate(to, st.st_size) < 0)
                return cas_fail_sys(err, errno, "copy");
        for (off_t at = 0; at < st.st_size;) {
                off_t data = lseek(from, at, SEEK_DATA);
                if (data < 0 && errno == ENXIO)
                        return 0; /* a hole to the end */
                if (data < 0)
                        return cas_fail_sys(err, errno, "copy");
                off_t end = lseek(from, data, SEEK_HOLE);
                if (end < 0 || end > st.st_size)
                        end = st.st_size;
                if (copy_extent(c, from, to, data, end, err) < 0)
                        return -(int)err->code;
                at = end;
        }
        return 0;
}

/* ---- attributes ---- */

static bool is_skipped(const struct ffs_copytree *c, const char *name)
{
        for (const char *const *s = c->skip_xattrs; s && *s; s++) {
                if (strcmp(*s, name) == 0)
                        return true;
        }
        return false;
}

/* Of what is open, or else of a name, whose last component is not followed. */
static ssize_t list_xattrs(int fd, const char *path, char *names)
{
        return fd >= 0 ? flistxattr(fd, names, XATTR_LIST_BYTES)
                       : llistxattr(path, names, XATTR_LIST_BYTES);
}

static ssize_t get_xattr(int fd, const char *path, const char *name, void *value)
{
        return fd >= 0 ? fgetxattr(fd, name, value, BUFFER_BYTES)
                       : lgetxattr(path, name, value, BUFFER_BYTES);
}

/* from: open, or -1. The copy is named through its directory's descriptor: that works for every
 * type of file. */
static int copy_xattrs(struct ffs_copytree *c, const struct place *p, int from, struct cas_err *err)
{
        cas_cleanup_free char *at = cas_xasprintf("/proc/self/fd/%d/%s", p->from_dir, p->name);
        cas_cleanup_free char *to = cas_xasprintf("/proc/self/fd/%d/%s", p->to_dir, p->name);
        ssize_t size = list_xattrs(from, at, c->names);
        if (size < 0 && errno != EOPNOTSUPP && errno != ENOENT)
                return cas_fail_sys(err, errno, "xattrs of %.200s", p->path);
        for (ssize_t i = 0; i < size; i += (ssize_t)strlen(c->names + i) + 1) {
                const char *name = c->names + i;
                if (is_skipped(c, name))
                        continue;
                ssize_t len = get_xattr(from, at, name, c->buffer);
                if (len < 0 && (errno == ENODATA || errno == ENOENT))
                        continue; /* removed meanwhile */
                if (len < 0 || lsetxattr(to, name, c->buffer, (size_t)len, 0) < 0)
                        return cas_fail_sys(err, errno, "xattr %.100s of %.200s", name, p->path);
        }
        return 0;
}

/* Owner before mode and xattrs, which it would take rights from; times last. */
static int copy_attributes(struct ffs_copytree *c, const struct place *p, int from,
                           const struct stat *st, struct cas_err *err)
{
        const struct timespec times[2] = {st->st_atim, st->st_mtim};
        if (fchownat(p->to_dir, p->name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
            (!S_ISLNK(st->st_mode) && fchmodat(p->to_dir, p->name, st->st_mode & 07777, 0) < 0))
                return cas_fail_sys(err, errno, "attributes of %.200s", p->path);
        if (copy_xattrs(c, p, from, err) < 0)
                return -(int)err->code;
        if (utimensat(p->to_dir, p->name, times, AT_SYMLINK_NOFOLLOW) < 0)
                return cas_fail_sys(err, errno, "times of %.200s", p->path);
        return 0;
}

/* ---- one name ---- */

/* What is gone when we come to it is left out; what is another file by then is looked at again. */
enum outcome { MADE, GONE, CHANGED };

static enum outcome missed(int errnum)
{
        if (errnum == ENOENT)
                return GONE;
        return errnum == ELOOP || errnum == ENOTDIR || errnum == EINVAL ? CHANGED : MADE;
}

static int copy_file(struct ffs_copytree *c, const struct place *p, const struct stat *seen,
                     enum outcome *out, struct cas_err *err)
{
        struct stat st;
        if (c->link && linkat(p->from_dir, p->name, p->to_dir, p->name, 0) == 0) {
                c->counts.files++;
                c->counts.shared_bytes += (uint64_t)seen->st_size;
                return 0;
        }
        cas_cleanup_fd int from =
                openat(p->from_dir, p->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        *out = from < 0 ? missed(errno) : MADE;
        if (*out != MADE)
                return 0;
        if (from < 0 || fstat(from, &st) < 0)
                return cas_fail_sys(err, errno, "open %.200s", p->path);
        if (!S_ISREG(st.st_mode)) {
                *out = CHANGED;
                return 0;
        }
        cas_cleanup_fd int to = openat(p->to_dir, p->name,
                                       O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (to < 0)
                return cas_fail_sys(err, errno, "make %.200s", p->path);
        c->counts.files++;
        if (ffs_copytree_data(c, from, to, err) < 0)
                return cas_err_wrap(err, "%.200s", p->path);
        return copy_attributes(c, p, from, &st, err);
}

static int copy_special(struct ffs_copytree *c, const struct place *p, const struct stat *st,
                        enum outcome *out, struct cas_err *err)
{
        char target[CAS_SYMLINK_BYTES_MAX + 2];
        ssize_t len = 0;
        int rc;
        if (S_ISLNK(st->st_mode)) {
                len = readlinkat(p->from_dir, p->name, target, sizeof(target) - 1);
                *out = len < 0 ? missed(errno) : MADE;
                if (*out != MADE)
                        return 0;
                if (len < 0)
                        return cas_fail_sys(err, errno, "%.200s", p->path);
                target[len] = '\0';
                rc = symlinkat(target, p->to_dir, p->name);
        } else {
                rc = mknodat(p->to_dir, p->name, (st->st_mode & S_IFMT) | 0600, st->st_rdev);
        }
        if (rc < 0)
                return cas_fail_sys(err, errno, "make %.200s", p->path);
        return copy_attributes(c, p, -1, st, err);
}

/* A further name of an inode that was copied. */
static int link_if_seen(struct ffs_copytree *c, const struct place *p, const struct stat *st,
                        bool *linked, struct cas_err *err)
{
        uint64_t key[2] = {(uint64_t)st->st_dev, (uint64_t)st->st_ino};
        bool inserted;
        *linked = false;
        if (st->st_nlink < 2)
                return 0;
        uint64_t *at = cas_map_put(c->seen, key, sizeof(key), &inserted);
        if (inserted) {
                size_t n = c->path_count++;
                *at = 1 + n;
                if ((n & (n - 1)) == 0)
                        c->paths = cas_xrealloc(c->paths, (n ? n * 2 : 1) * sizeof(*c->paths));
                c->paths[n] = cas_xstrdup(p->path);
                return 0;
        }
        *linked = true;
        if (linkat(c->to_dir, c->paths[*at - 1], p->to_dir, p->name, 0) < 0)
                return cas_fail_sys(err, errno, "link %.200s", p->path);
        return 0;
}

/* It was not copied: a further name is the first. */
static void forget(struct ffs_copytree *c, const struct stat *st)
{
        const uint64_t key[2] = {(uint64_t)st->st_dev, (uint64_t)st->st_ino};
        (void)cas_map_remove(c->seen, key, sizeof(key));
}

static int copy_directory(struct ffs_copytree *c, const struct place *p, enum outcome *out,
                          struct cas_err *err);

static int copy_once(struct ffs_copytree *c, const struct place *p, enum outcome *out,
                     struct cas_err *err)
{
        struct stat st;
        bool linked;
        *out = MADE;
        if (fstatat(p->from_dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                *out = missed(errno);
                return *out == MADE ? cas_fail_sys(err, errno, "%.200s", p->path) : 0;
        }
        if (S_ISDIR(st.st_mode))
                return copy_directory(c, p, out, err);
        if (link_if_seen(c, p, &st, &linked, err) < 0)
                return -(int)err->code;
        if (linked)
                return 0;
        int rc = S_ISREG(st.st_mode) ? copy_file(c, p, &st, out, err)
                                     : copy_special(c, p, &st, out, err);
        if (*out != MADE)
                forget(c, &st);
        return rc;
}

static int copy_name(struct ffs_copytree *c, const struct place *p, struct cas_err *err)
{
        for (int tries = 0; tries < CHANGES_MAX; tries++) {
                enum outcome outcome;
                int rc = copy_once(c, p, &outcome, err);
                if (rc < 0 || outcome != CHANGED)
                        return rc;
        }
        return cas_fail(err, CAS_E_BUSY, "%.200s changed while it was cloned", p->path);
}

static int copy_entries(struct ffs_copytree *c, const struct place *p, DIR *list, int to,
                        struct cas_err *err)
{
        for (;;) {
                errno = 0;
                const struct dirent *e = readdir(list);
                if (!e)
                        return errno ? cas_fail_sys(err, errno, "list %.200s", p->path) : 0;
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                cas_cleanup_free char *path = cas_xasprintf("%s/%s", p->path, e->d_name);
                const struct place child = {.from_dir = dirfd(list),
                                            .to_dir = to,
                                            .name = e->d_name,
                                            .path = path,
                                            .depth = p->depth + 1};
                if (copy_name(c, &child, err) < 0)
                        return -(int)err->code;
        }
}

static int copy_directory(struct ffs_copytree *c, const struct place *p, enum outcome *out,
                          struct cas_err *err)
{
        struct stat st;
        if (p->depth > CAS_PATH_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "directories are nested too deep");
        int from = openat(p->from_dir, p->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        *out = from < 0 ? missed(errno) : MADE;
        if (*out != MADE)
                return 0;
        DIR *list = from < 0 ? NULL : fdopendir(from);
        if (!list) {
                int saved = errno;
                if (from >= 0)
                        (void)close(from);
                return cas_fail_sys(err, saved, "open %.200s", p->path);
        }
        cas_cleanup_fd int to = -1;
        int rc = 0;
        if (fstat(from, &st) < 0 || mkdirat(p->to_dir, p->name, 0700) < 0 ||
            (to = openat(p->to_dir, p->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
                rc = cas_fail_sys(err, errno, "make %.200s", p->path);
        if (rc == 0)
                rc = copy_entries(c, p, list, to, err);
        if (rc == 0)
                rc = copy_attributes(c, p, from, &st, err);
        (void)closedir(list);
        return rc;
}

int ffs_copytree_add(struct ffs_copytree *c, int from_dir, int to_dir, const char *name,
                     const char *const *skip_xattrs, struct cas_err *err)
{
        struct place p = {.from_dir = from_dir, .to_dir = to_dir, .name = name, .path = name};
        enum outcome outcome;
        c->skip_xattrs = skip_xattrs;
        c->to_dir = to_dir;
        int rc = copy_directory(c, &p, &outcome, err);
        if (rc == 0 && outcome != MADE)
                return cas_fail(err, CAS_E_INVALID, "%s is no directory", name);
        return rc;
}
