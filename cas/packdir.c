/* SPDX-License-Identifier: Apache-2.0 */
/* Packing: a directory becomes the one layer of an image.
 *
 * The same directory packs to the same digest: entries in byte order of their
 * names, the layer in one form (cas/layerwrite.h), the image dated by its newest
 * entry or $SOURCE_DATE_EPOCH. Memory holds the names of the directories on the
 * way down, and of inodes with several names.
 *
 * Links are never followed. Sockets are left out. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "cas/derive.h"
#include "cas/layerwrite.h"
#include "cas/map.h"
#include "cas/transfer.h"

#define READ_BYTES (256 * 1024)

/* A directory on the way down. */
struct level {
        int fd;
        char *path;   /* owned; relative to the packed directory, "" is itself */
        char **names; /* owned; sorted */
        size_t count, next;
};

struct packdir {
        struct level *levels; /* owned; the innermost last */
        size_t depth;
        struct cas_map *links; /* owned; device and inode -> 1 + index in link_paths */
        char **link_paths;     /* owned */
        size_t link_count;
        int64_t newest_s;
        uint64_t sockets;
        struct cas_layer_writer *writer; /* owned */
        uint8_t *read_buf;               /* owned */
        const struct cas_progress *progress;
        uint64_t done_bytes;
};

static void level_release(struct level *l)
{
        for (size_t i = 0; i < l->count; i++)
                free(l->names[i]);
        free(l->names);
        free(l->path);
        if (l->fd >= 0)
                (void)close(l->fd);
}

static void packdir_release(struct packdir *p)
{
        while (p->depth > 0)
                level_release(&p->levels[--p->depth]);
        free(p->levels);
        for (size_t i = 0; i < p->link_count; i++)
                free(p->link_paths[i]);
        free(p->link_paths);
        cas_map_free(p->links);
        cas_layer_writer_free(p->writer);
        free(p->read_buf);
}

/* ---- one entry ---- */

static int name_order(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a directory, sorted. Takes the descriptor. */
static int level_push(struct packdir *p, int fd, const char *path, struct cas_err *err)
{
        struct level l = {.fd = fd, .path = cas_xstrdup(path)};
        int listed = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *list = listed < 0 ? NULL : fdopendir(listed);
        if (!list) {
                int saved = errno;
                if (listed >= 0)
                        (void)close(listed);
                level_release(&l);
                return cas_fail_sys(err, saved, "list %.200s", path);
        }
        errno = 0;
        for (struct dirent *e; (e = readdir(list)) != NULL; errno = 0) {
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                if ((l.count & (l.count - 1)) == 0)
                        l.names = cas_xrealloc(l.names,
                                               (l.count ? l.count * 2 : 1) * sizeof(*l.names));
                l.names[l.count++] = cas_xstrdup(e->d_name);
        }
        int failed = errno;
        (void)closedir(list);
        if (failed) {
                level_release(&l);
                return cas_fail_sys(err, failed, "list %.200s", path);
        }
        if (l.count > 0)
                qsort(l.names, l.count, sizeof(*l.names), name_order);
        p->levels = cas_xrealloc(p->levels, (p->depth + 1) * sizeof(*p->levels));
        p->levels[p->depth++] = l;
        return 0;
}

/* Attributes that an image cannot carry to another host, or that the kernel makes up. */
static bool xattr_is_local(const char *name)
{
        return strcmp(name, "security.selinux") == 0 ||
               strncmp(name, "trusted.overlay.", 16) == 0 ||
               strncmp(name, "user.overlay.", 13) == 0 || strcmp(name, "security.ima") == 0 ||
               strcmp(name, "security.evm") == 0;
}

/* Of an open file or directory, or else of a name: `at` does not follow a link in its last
 * place. */
struct xattr_source {
        int fd; /* -1: by name */
        char at[64 + CAS_NAME_BYTES_MAX];
};

static ssize_t xattr_list(const struct xattr_source *src, char *names, size_t size)
{
        return src->fd >= 0 ? flistxattr(src->fd, names, size) : llistxattr(src->at, names, size);
}

static ssize_t xattr_get(const struct xattr_source *src, const char *name, void *value)
{
        return src->fd >= 0 ? fgetxattr(src->fd, name, value, CAS_XATTR_VALUE_BYTES_MAX)
                            : lgetxattr(src->at, name, value, CAS_XATTR_VALUE_BYTES_MAX);
}

static int read_xattrs(const struct xattr_source *src, struct cas_entry *e, struct cas_err *err)
{
        ssize_t size = xattr_list(src, NULL, 0);
        if (size < 0 && errno != EOPNOTSUPP && errno != EACCES && errno != EPERM)
                return cas_fail_sys(err, errno, "%.200s: list xattrs", e->path);
        if (size <= 0)
                return 0;
        cas_cleanup_free char *names = cas_xmalloc((size_t)size + 1);
        cas_cleanup_free uint8_t *value = cas_xmalloc(CAS_XATTR_VALUE_BYTES_MAX);
        size = xattr_list(src, names, (size_t)size);
        if (size < 0)
                return cas_fail_sys(err, errno, "%.200s: list xattrs", e->path);
        for (ssize_t i = 0; i < size; i += (ssize_t)strlen(names + i) + 1) {
                if (xattr_is_local(names + i))
                        continue;
                ssize_t len = xattr_get(src, names + i, value);
                if (len < 0 && (errno == ENODATA || errno == EPERM || errno == EACCES))
                        continue;
                if (len < 0)
                        return cas_fail_sys(err, errno, "%.200s: %s", e->path, names + i);
                int r = cas_entry_set_xattr(e, names + i, value, (size_t)len, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_target(int dirfd, const char *name, struct cas_entry *e, struct cas_err *err)
{
        char text[CAS_SYMLINK_BYTES_MAX + 1];
        ssize_t len = readlinkat(dirfd, name, text, sizeof(text));
        if (len < 0)
                return cas_fail_sys(err, errno, "%.200s", e->path);
        if ((size_t)len == sizeof(text))
                return cas_fail(err, CAS_E_LIMIT, "%.200s: a link of more than %d bytes", e->path,
                                CAS_SYMLINK_BYTES_MAX);
        e->target = cas_xstrndup(text, (size_t)len);
        return 0;
}

/* A further name of an inode that was packed already becomes a hard link. */
static bool take_hard_link(struct packdir *p, const struct stat *st, struct cas_entry *e)
{
        uint64_t key[2] = {(uint64_t)st->st_dev, (uint64_t)st->st_ino};
        bool inserted;
        if (st->st_nlink < 2 || S_ISDIR(st->st_mode))
                return false;
        uint64_t *at = cas_map_put(p->links, key, sizeof(key), &inserted);
        if (!inserted) {
                e->type = CAS_ENTRY_HARDLINK;
                e->target = cas_xstrdup(p->link_paths[*at]);
                return true;
        }
        size_t n = p->link_count++;
        *at = n;
        if ((n & (n - 1)) == 0)
                p->link_paths =
                        cas_xrealloc(p->link_paths, (n ? n * 2 : 1) * sizeof(*p->link_paths));
        p->link_paths[n] = cas_xstrdup(e->path);
        return false;
}

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

static void entry_from_stat(struct packdir *p, const struct stat *st, struct cas_entry *e)
{
        e->type = type_of(st->st_mode);
        e->mode = st->st_mode & 07777;
        e->uid = st->st_uid;
        e->gid = st->st_gid;
        e->mtime_s = st->st_mtim.tv_sec;
        e->mtime_ns = (uint32_t)st->st_mtim.tv_nsec;
        e->dev_major = major(st->st_rdev);
        e->dev_minor = minor(st->st_rdev);
        if (S_ISREG(st->st_mode))
                e->size_bytes = (uint64_t)st->st_size;
        if (e->mtime_s > p->newest_s)
                p->newest_s = e->mtime_s;
}

/* Files and directories are opened first and described by what was opened: a name that changes
 * meanwhile cannot lead elsewhere. */
static int open_entry(int dirfd, const char *name, const struct stat *seen, struct stat *st,
                      int *out_fd, struct cas_err *err)
{
        *st = *seen;
        if (!S_ISREG(seen->st_mode) && !S_ISDIR(seen->st_mode))
                return 0;
        int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
        cas_cleanup_fd int fd =
                openat(dirfd, name, flags | (S_ISDIR(seen->st_mode) ? O_DIRECTORY : 0));
        if (fd < 0 || fstat(fd, st) < 0)
                return cas_fail_sys(err, errno, "%.200s", name);
        if ((st->st_mode & S_IFMT) != (seen->st_mode & S_IFMT))
                return cas_fail(err, CAS_E_BUSY, "%.200s changed while it was packed", name);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int pack_content(struct packdir *p, int fd, uint64_t size_bytes, struct cas_err *err)
{
        for (uint64_t at = 0; at < size_bytes;) {
                size_t n, want = (size_t)cas_min_u64(size_bytes - at, READ_BYTES);
                int r = cas_io_pread(cas_io_posix(), fd, p->read_buf, want, at, &n, "file", err);
                if (r < 0)
                        return r;
                if (n < want)
                        return cas_fail(err, CAS_E_BUSY,
                                        "a file became shorter while it was packed");
                r = cas_layer_writer_data(p->writer, p->read_buf, n, err);
                if (r < 0)
                        return r;
                at += n;
                p->done_bytes += n;
                cas_progress_update(p->progress, "pack", p->done_bytes, 0);
        }
        return 0;
}

/* Writes dirfd/name; what is in a directory comes next. */
static int pack_entry(struct packdir *p, int dirfd, const char *name, char *path,
                      struct cas_entry *e, struct cas_err *err)
{
        struct stat seen, st;
        cas_cleanup_fd int fd = -1;
        e->path = path;
        if (fstatat(dirfd, name, &seen, AT_SYMLINK_NOFOLLOW) < 0)
                return cas_fail_sys(err, errno, "%.200s", path);
        if (S_ISSOCK(seen.st_mode)) {
                p->sockets++;
                return 0;
        }
        int r = open_entry(dirfd, name, &seen, &st, &fd, err);
        if (r < 0)
                return r;
        entry_from_stat(p, &st, e);
        bool linked = take_hard_link(p, &st, e);
        if (!linked && S_ISLNK(st.st_mode))
                r = read_target(dirfd, name, e, err);
        if (r == 0 && !linked) {
                struct xattr_source src = {.fd = fd};
                (void)snprintf(src.at, sizeof(src.at), "/proc/self/fd/%d/%s", dirfd, name);
                r = read_xattrs(&src, e, err);
        }
        if (r == 0)
                r = cas_layer_writer_entry(p->writer, e, err);
        if (r < 0 || linked)
                return r;
        if (S_ISDIR(st.st_mode))
                return level_push(p, cas_steal_fd(&fd), path, err);
        return S_ISREG(st.st_mode) ? pack_content(p, fd, (uint64_t)st.st_size, err) : 0;
}

static int pack_next(struct packdir *p, struct cas_err *err)
{
        struct level *l = &p->levels[p->depth - 1];
        if (l->next == l->count) {
                level_release(l);
                p->depth--;
                return 0;
        }
        const char *name = l->names[l->next++];
        struct cas_entry e = {0};
        char *path = l->path[0] ? cas_xasprintf("%s/%s", l->path, name) : cas_xstrdup(name);
        if (strlen(path) > CAS_PATH_BYTES_MAX || p->depth > CAS_PATH_DEPTH_MAX) {
                free(path);
                return cas_fail(err, CAS_E_LIMIT, "directories are nested too deep");
        }
        int r = pack_entry(p, l->fd, name, path, &e, err);
        cas_entry_release(&e); /* and path */
        return r;
}

static int pack_layer(struct packdir *p, struct cas_store *s, const char *dir,
                      struct cas_layer_record *out, struct cas_err *err)
{
        struct cas_entry root = {0};
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%s", dir);
        p->links = cas_map_new();
        p->read_buf = cas_xmalloc(READ_BYTES);
        int r = cas_layer_writer_open(s, &p->writer, err);
        if (r < 0)
                return r;
        r = pack_entry(p, fd, ".", cas_xstrdup(""), &root, err);
        cas_entry_release(&root);
        while (r == 0 && p->depth > 0)
                r = pack_next(p, err);
        return r < 0 ? r : cas_layer_writer_finish(p->writer, out, err);
}

int cas_pack_dir(struct cas_store *s, const char *dir, const struct cas_ref *ref,
                 const struct cas_pack_options *options, const struct cas_progress *progress,
                 struct cas_manifest_info *out, struct cas_err *err)
{
        struct packdir p = {.progress = progress};
        struct cas_layer_record layer;
        if (ref->digest.alg != CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID, "pack under NAME[:TAG], without a digest");
        int r = pack_layer(&p, s, dir, &layer, err);
        if (r == 0) {
                struct cas_derive_options derive = {.layer = &layer,
                                                    .newest_s = p.newest_s,
                                                    .created_by = "lamina pack",
                                                    .config_json = options->config_json,
                                                    .platform = options->platform};
                r = cas_image_derive(s, ref, &derive, out, err);
        }
        if (r == 0 && options->skipped_count)
                *options->skipped_count = p.sockets;
        packdir_release(&p);
        return r < 0 ? cas_err_wrap(err, "pack %s", dir) : 0;
}
