/* SPDX-License-Identifier: Apache-2.0 */
/* Tars of images by offset, and OCI archives (the tar of a layout) as a source. */
#include "cas/archive_int.h"

#include <errno.h>
#include <fcntl.h>

#include "cas/decompress.h"
#include "cas/tar.h"

#define WINDOW_BYTES (64 * 1024)
#define LINKS_FOLLOWED_MAX 8

struct cas_archive_member {
        enum cas_entry_type type; /* FILE, SYMLINK or HARDLINK */
        uint64_t offset, size_bytes;
        char *target; /* owned; of links: name in the archive, "" when it leads out of it */
};

/* ---- the tar as a stream whose contents need not be read ---- */

struct window {
        int fd;
        uint64_t given;     /* position of the stream */
        uint64_t unread_to; /* up to here the reader only passes over */
        uint8_t bytes[WINDOW_BYTES];
};

/* Contents are passed over without reading them: what is given for them is never looked at. */
static int window_next(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        struct window *w = arg;
        *data = w->bytes;
        if (w->given < w->unread_to) {
                *len = (size_t)cas_min_u64(w->unread_to - w->given, WINDOW_BYTES);
        } else {
                int r = cas_io_pread(cas_io_posix(), w->fd, w->bytes, WINDOW_BYTES, w->given, len,
                                     "archive", err);
                if (r < 0)
                        return r;
        }
        w->given += *len;
        return 0;
}

/* Resolves "." and ".." of a name in the archive; "" when it leads out. Owned. */
static char *clean_name(const char *dir, const char *name)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        cas_cleanup_free char *joined =
                name[0] == '/' ? cas_xstrdup(name) : cas_xasprintf("%s/%s", dir, name);
        for (const char *at = joined; *at;) {
                size_t len = strcspn(at, "/");
                if (len == 2 && memcmp(at, "..", 2) == 0) {
                        const char *slash =
                                out.len_bytes ? strrchr((const char *)out.data, '/') : NULL;
                        if (out.len_bytes == 0)
                                return cas_xstrdup("");
                        out.len_bytes = slash ? (size_t)(slash - (const char *)out.data) : 0;
                        out.data[out.len_bytes] = 0;
                } else if (len > 0 && !(len == 1 && *at == '.')) {
                        if (out.len_bytes)
                                cas_buf_append_byte(&out, '/');
                        cas_buf_append(&out, at, len);
                }
                at += len;
                at += *at == '/';
        }
        return cas_xstrdup(cas_buf_str(&out));
}

/* Where a link leads: symlinks from their directory, hard links from the archive's root. */
static char *link_target(const struct cas_entry *e, const char *name)
{
        if (e->type == CAS_ENTRY_HARDLINK)
                return clean_name("", e->target);
        const char *slash = strrchr(name, '/');
        cas_cleanup_free char *dir = cas_xstrndup(name, slash ? (size_t)(slash - name) : 0);
        return clean_name(dir, e->target);
}

static int archive_add(struct cas_archive *a, const struct cas_entry *e, uint64_t offset,
                       struct cas_err *err)
{
        if (e->type != CAS_ENTRY_FILE && e->type != CAS_ENTRY_SYMLINK &&
            e->type != CAS_ENTRY_HARDLINK)
                return 0;
        if (a->count >= CAS_ARCHIVE_ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d files", CAS_ARCHIVE_ENTRIES_MAX);
        cas_cleanup_free char *name = clean_name("", e->path);
        bool inserted;
        uint64_t *at = cas_map_put(a->at, name, strlen(name), &inserted);
        if (!inserted) {
                struct cas_archive_member *old = &a->members[*at];
                free(old->target); /* the last of a name counts */
                *old = (struct cas_archive_member){.type = e->type};
        } else {
                size_t n = a->count++;
                *at = n;
                if ((n & (n - 1)) == 0)
                        a->members =
                                cas_xrealloc(a->members, (n ? n * 2 : 1) * sizeof(*a->members));
                a->members[n] = (struct cas_archive_member){.type = e->type};
        }
        struct cas_archive_member *m = &a->members[*at];
        if (e->type == CAS_ENTRY_FILE) {
                m->offset = offset;
                m->size_bytes = e->size_bytes;
        } else {
                m->target = link_target(e, name);
        }
        return 0;
}

static int archive_walk(struct cas_archive *a, struct window *w, struct cas_err *err)
{
        cas_cleanup_tar struct cas_tar *tar = NULL;
        int r = cas_tar_open(window_next, w, &tar, err);
        while (r == 0) {
                struct cas_entry *e;
                r = cas_tar_next(tar, &e, err);
                if (r < 0 || !e)
                        break;
                if (cas_tar_is_sparse(tar))
                        return cas_fail(err, CAS_E_UNSUPPORTED,
                                        "%.200s is a sparse member: make the archive without them",
                                        e->path);
                uint64_t offset = cas_tar_stream_bytes(tar);
                r = archive_add(a, e, offset, err);
                w->unread_to = e->type == CAS_ENTRY_FILE ? offset + e->size_bytes : 0;
        }
        return r;
}

/* ---- opening ---- */

/* The decoded bytes as a file without a name. */
static int spool(struct cas_decompress *d, int tmp_dirfd, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = openat(tmp_dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0)
                return cas_fail_sys(err, errno, "make a temporary file");
        cas_cleanup_free uint8_t *buf = cas_xmalloc(CAS_MIB);
        uint64_t offset = 0;
        for (;;) {
                size_t n;
                int r = cas_decompress_read(d, buf, CAS_MIB, &n, err);
                if (r == 0 && n > 0)
                        r = cas_io_pwrite_all(cas_io_posix(), fd, buf, n, offset,
                                              "the decoded archive", err);
                if (r < 0)
                        return r;
                if (n == 0)
                        break;
                offset += n;
        }
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int fd_source(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        ssize_t n;
        do {
                n = read(*(int *)arg, buf, len);
        } while (n < 0 && errno == EINTR);
        if (n < 0)
                return cas_fail_sys(err, errno, "read");
        *out_len = (size_t)n;
        return 0;
}

/* Gives a descriptor that a plain tar can be read from by offset. */
static int archive_open_fd(const char *path, int tmp_dirfd, int *out_fd, struct cas_err *err)
{
        struct stat st;
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0 || fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "open");
        int r = cas_decompress_open(fd_source, &fd, &d, err);
        if (r < 0)
                return r;
        if (S_ISREG(st.st_mode) && cas_decompress_kind(d) == CAS_COMPRESSION_NONE) {
                *out_fd = cas_steal_fd(&fd);
                return 0;
        }
        return spool(d, tmp_dirfd, out_fd, err);
}

int cas_archive_open(const char *path, int tmp_dirfd, struct cas_archive *out, struct cas_err *err)
{
        struct cas_archive a = {.fd = -1, .at = cas_map_new()};
        int r = archive_open_fd(path, tmp_dirfd, &a.fd, err);
        if (r == 0) {
                cas_cleanup_free struct window *w = cas_xcalloc(1, sizeof(*w));
                w->fd = a.fd;
                r = archive_walk(&a, w, err);
        }
        if (r < 0) {
                cas_archive_release(&a);
                return cas_err_wrap(err, "archive %s", path);
        }
        *out = a;
        return 0;
}

void cas_archive_release(struct cas_archive *a)
{
        for (size_t i = 0; i < a->count; i++)
                free(a->members[i].target);
        free(a->members);
        cas_map_free(a->at);
        if (a->fd >= 0)
                (void)close(a->fd);
        *a = (struct cas_archive){.fd = -1};
}

/* ---- reading ---- */

int cas_archive_stream(const struct cas_archive *a, const char *name, struct cas_stream *out,
                       struct cas_err *err)
{
        cas_cleanup_free char *clean = clean_name("", name);
        const char *wanted = clean;
        for (unsigned links = 0; links <= LINKS_FOLLOWED_MAX; links++) {
                const uint64_t *at = cas_map_get_str(a->at, wanted);
                if (!at)
                        return cas_fail(err, CAS_E_NOTFOUND, "%.200s is not in the archive",
                                        wanted[0] ? wanted : name);
                const struct cas_archive_member *m = &a->members[*at];
                if (m->type == CAS_ENTRY_FILE) {
                        *out = (struct cas_stream){
                                .fd = a->fd, .offset = m->offset, .left_bytes = m->size_bytes};
                        return 0;
                }
                wanted = m->target;
        }
        return cas_fail(err, CAS_E_INVALID, "%.200s: links that lead in circles", name);
}

int cas_archive_read(const struct cas_archive *a, const char *name, size_t max_bytes,
                     struct cas_buf *out, struct cas_err *err)
{
        struct cas_stream st;
        int r = cas_archive_stream(a, name, &st, err);
        return r < 0 ? r : cas_stream_read_all(&st, name, max_bytes, out, err);
}

/* ---- OCI archives ---- */

struct oci_archive {
        struct cas_source base;
        struct cas_archive archive;
};

static int oci_archive_open_blob(struct cas_source *src, const struct cas_digest *digest,
                                 struct cas_stream *out, struct cas_err *err)
{
        struct oci_archive *oci = (struct oci_archive *)src;
        char path[CAS_LAYOUT_PATH_BYTES];
        return cas_archive_stream(&oci->archive, cas_layout_blob_path(digest, path), out, err);
}

static void oci_archive_free(struct cas_source *src)
{
        struct oci_archive *oci = (struct oci_archive *)src;
        cas_source_release(src);
        cas_archive_release(&oci->archive);
        free(oci);
}

static const struct cas_source_ops oci_archive_ops = {
        .open_blob = oci_archive_open_blob,
        .free = oci_archive_free,
};

int cas_archive_source(const char *path, int tmp_dirfd, struct cas_source **out,
                       struct cas_err *err)
{
        struct oci_archive *oci = cas_xcalloc(1, sizeof(*oci));
        cas_cleanup_source struct cas_source *src = &oci->base;
        cas_cleanup_buf struct cas_buf marker = CAS_BUF_INIT, index = CAS_BUF_INIT;
        src->ops = &oci_archive_ops;
        oci->archive.fd = -1;
        int r = cas_archive_open(path, tmp_dirfd, &oci->archive, err);
        if (r < 0)
                return r;
        r = cas_archive_read(&oci->archive, "oci-layout", 64 * CAS_KIB, &marker, err);
        if (r == 0)
                r = cas_layout_check_marker(cas_buf_str(&marker), marker.len_bytes, err);
        if (r == 0)
                r = cas_archive_read(&oci->archive, "index.json", CAS_LAYOUT_INDEX_BYTES_MAX,
                                     &index, err);
        if (r == 0)
                r = cas_layout_read_index(cas_buf_str(&index), index.len_bytes, src, err);
        if (r < 0)
                return cas_err_wrap(err, "OCI archive %s", path);
        *out = cas_steal(&src);
        return 0;
}
