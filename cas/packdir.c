/* SPDX-License-Identifier: Apache-2.0 */
/* Packing: a directory becomes the one layer of an image.
 *
 * The same directory packs to the same digest: entries in byte order of their
 * names, tar headers in one form (cas/tarwrite.h), gzip without name or time,
 * the image dated by its newest entry or $SOURCE_DATE_EPOCH. The import of the
 * layer pulls: each of its reads moves the walk on. Memory holds the names of
 * the directories on the way down, and of inodes with several names.
 *
 * Links are never followed. Sockets are left out. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <zlib.h>

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/json.h"
#include "cas/map.h"
#include "cas/tarwrite.h"
#include "cas/transfer.h"

#define GZIP_LEVEL 6
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

        int file; /* whose content comes next, or -1 */
        uint64_t file_left;
        uint64_t file_bytes;
        struct cas_buf plain; /* tar bytes to compress */
        size_t plain_at;
        bool walked, ended;
        z_stream z;
        uint8_t *read_buf; /* owned */
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
        if (p->file >= 0)
                (void)close(p->file);
        cas_buf_release(&p->plain);
        free(p->read_buf);
        (void)deflateEnd(&p->z);
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

/* Appends the header of dirfd/name; its content or its directory comes next. */
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
                r = cas_tarwrite_header(&p->plain, e, err);
        if (r < 0 || linked)
                return r;
        if (S_ISDIR(st.st_mode))
                return level_push(p, cas_steal_fd(&fd), path, err);
        if (S_ISREG(st.st_mode)) {
                p->file = cas_steal_fd(&fd);
                p->file_bytes = p->file_left = (uint64_t)st.st_size;
        }
        return 0;
}

/* ---- the tar, piece by piece ---- */

static int next_entry(struct packdir *p, struct cas_err *err)
{
        struct level *l = &p->levels[p->depth - 1];
        if (l->next == l->count) {
                level_release(l);
                if (--p->depth == 0) {
                        cas_tarwrite_end(&p->plain);
                        p->walked = true;
                }
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

static int next_content(struct packdir *p, struct cas_err *err)
{
        size_t n;
        size_t want = (size_t)cas_min_u64(p->file_left, READ_BYTES);
        int r = cas_io_pread(cas_io_posix(), p->file, p->read_buf, want,
                             p->file_bytes - p->file_left, &n, "file", err);
        if (r < 0)
                return r;
        if (n < want)
                return cas_fail(err, CAS_E_BUSY, "a file became shorter while it was packed");
        cas_buf_append(&p->plain, p->read_buf, n);
        p->file_left -= n;
        p->done_bytes += n;
        cas_progress_update(p->progress, "pack", p->done_bytes, 0);
        if (p->file_left == 0) {
                cas_tarwrite_padding(&p->plain, p->file_bytes);
                (void)close(cas_steal_fd(&p->file));
        }
        return 0;
}

/* Makes tar bytes until there are some, or the walk is over. */
static int fill_plain(struct packdir *p, struct cas_err *err)
{
        if (p->plain_at < p->plain.len_bytes)
                return 0;
        cas_buf_clear(&p->plain);
        p->plain_at = 0;
        int r = 0;
        while (r == 0 && p->plain.len_bytes < READ_BYTES && !p->walked)
                r = p->file >= 0 ? next_content(p, err) : next_entry(p, err);
        return r;
}

/* Source of the layer import: compressed bytes. */
static int packdir_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct packdir *p = arg;
        unsigned room = (unsigned)cas_min_u64(len, 1u << 30);
        p->z.next_out = buf;
        p->z.avail_out = room;
        while (p->z.avail_out == room && !p->ended) {
                int r = fill_plain(p, err);
                if (r < 0)
                        return r;
                p->z.next_in = p->plain.data + p->plain_at;
                p->z.avail_in = (unsigned)(p->plain.len_bytes - p->plain_at);
                bool last = p->walked;
                r = deflate(&p->z, last ? Z_FINISH : Z_NO_FLUSH);
                cas_assert(r != Z_STREAM_ERROR);
                p->plain_at = p->plain.len_bytes - p->z.avail_in;
                p->ended = r == Z_STREAM_END;
        }
        *out_len = room - p->z.avail_out;
        return 0;
}

static int packdir_begin(struct packdir *p, const char *dir, struct cas_err *err)
{
        struct cas_entry root = {0};
        p->links = cas_map_new();
        p->read_buf = cas_xmalloc(READ_BYTES);
        int r = deflateInit2(&p->z, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
        cas_assert(r == Z_OK);
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%s", dir);
        r = pack_entry(p, fd, ".", cas_xstrdup(""), &root, err);
        cas_entry_release(&root);
        return r;
}

/* ---- the image ---- */

/* "2026-01-31T12:00:00Z". */
static int created_text(int64_t newest_s, char out[32], struct cas_err *err)
{
        const char *epoch = getenv("SOURCE_DATE_EPOCH");
        time_t when = (time_t)newest_s;
        if (epoch && epoch[0]) {
                char *end;
                errno = 0;
                when = (time_t)strtoll(epoch, &end, 10);
                if (*end || errno)
                        return cas_fail(err, CAS_E_INVALID, "SOURCE_DATE_EPOCH: \"%.64s\"", epoch);
        }
        struct tm tm;
        if (!gmtime_r(&when, &tm) || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
                return cas_fail(err, CAS_E_INVALID, "a time that is no date");
        return 0;
}

/* The "config" member of a config that was given, or an empty object. */
static int given_config(const char *text, json_t **out, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        const json_t *config = NULL;
        if (!text) {
                *out = json_object();
                return 0;
        }
        int r = cas_json_parse(text, strlen(text), CAS_CONFIG_BYTES_MAX, &j, err);
        if (r == 0)
                r = cas_json_object_in(j, "config", &config, err);
        if (r < 0)
                return cas_err_wrap(err, "config");
        *out = config ? json_deep_copy(config) : json_object();
        return 0;
}

static int make_config(const struct cas_pack_options *options, const struct cas_layer_record *layer,
                       int64_t newest_s, struct cas_buf *out, struct cas_err *err)
{
        struct cas_platform platform;
        char created[32], diff_id[CAS_DIGEST_TEXT_BYTES];
        json_t *config = NULL;
        cas_platform_host(&platform);
        if (options->platform)
                platform = *options->platform;
        int r = created_text(newest_s, created, err);
        if (r == 0)
                r = given_config(options->config_json, &config, err);
        if (r < 0)
                return r;
        cas_cleanup_json json_t *j =
                json_pack("{s:s, s:s, s:s, s:s*, s:o, s:{s:s, s:[s]}, s:[{s:s, s:s}]}", "created",
                          created, "architecture", platform.arch, "os", platform.os, "variant",
                          platform.variant[0] ? platform.variant : NULL, "config", config, "rootfs",
                          "type", "layers", "diff_ids", cas_digest_text(&layer->diff_id, diff_id),
                          "history", "created", created, "created_by", "lamina pack");
        cas_assert(j != NULL);
        cas_json_append(j, out);
        return 0;
}

static void make_manifest(const struct cas_digest *config, uint64_t config_bytes,
                          const struct cas_layer_record *layer, uint64_t layer_bytes,
                          struct cas_buf *out)
{
        char config_text[CAS_DIGEST_TEXT_BYTES], layer_text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_json json_t *j = json_pack(
                "{s:i, s:s, s:{s:s, s:s, s:I}, s:[{s:s, s:s, s:I}]}", "schemaVersion", 2,
                "mediaType", CAS_MT_OCI_MANIFEST, "config", "mediaType", CAS_MT_OCI_CONFIG,
                "digest", cas_digest_text(config, config_text), "size", (json_int_t)config_bytes,
                "layers", "mediaType", CAS_MT_OCI_LAYER_GZIP, "digest",
                cas_digest_text(&layer->blob, layer_text), "size", (json_int_t)layer_bytes);
        cas_assert(j != NULL);
        cas_json_append(j, out);
}

static int publish_config(struct cas_store *s, const struct cas_buf *config,
                          struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        int r = cas_publish_begin(s, &p, err);
        if (r == 0)
                r = cas_publish_blob(p, config->data, config->len_bytes, NULL, digest, err);
        if (r == 0)
                r = cas_publish_commit(p, err);
        return r;
}

static int pack_image(struct cas_store *s, const struct cas_ref *ref,
                      const struct cas_pack_options *options, const struct cas_layer_record *layer,
                      int64_t newest_s, struct cas_manifest_info *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf config = CAS_BUF_INIT, manifest = CAS_BUF_INIT;
        struct cas_digest digest;
        uint64_t layer_bytes;
        int r = make_config(options, layer, newest_s, &config, err);
        if (r == 0)
                r = publish_config(s, &config, &digest, err);
        if (r == 0)
                r = cas_blob_stat(s, &layer->blob, &layer_bytes, err);
        if (r < 0)
                return r;
        make_manifest(&digest, config.len_bytes, layer, layer_bytes, &manifest);
        struct cas_manifest_put_options put = {
                .repo = ref->repo, .tag = ref->tag, .media_type = CAS_MT_OCI_MANIFEST};
        return cas_manifest_put(s, &put, manifest.data, manifest.len_bytes, out, err);
}

int cas_pack_dir(struct cas_store *s, const char *dir, const struct cas_ref *ref,
                 const struct cas_pack_options *options, const struct cas_progress *progress,
                 struct cas_manifest_info *out, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *fence = NULL; /* collection waits for it */
        struct packdir p = {.file = -1, .progress = progress};
        struct cas_layer_record layer;
        if (ref->digest.alg != CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID, "pack under NAME[:TAG], without a digest");
        int r = cas_publish_begin(s, &fence, err);
        if (r == 0)
                r = packdir_begin(&p, dir, err);
        if (r == 0)
                r = cas_layer_import(s, packdir_read, &p, NULL, NULL, &layer, err);
        if (r == 0)
                r = pack_image(s, ref, options, &layer, p.newest_s, out, err);
        if (r == 0 && options->skipped_count)
                *options->skipped_count = p.sockets;
        packdir_release(&p);
        return r < 0 ? cas_err_wrap(err, "pack %s", dir) : 0;
}
