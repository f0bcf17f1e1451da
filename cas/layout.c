/* SPDX-License-Identifier: Apache-2.0 */
/* OCI image layouts as a source: a directory with oci-layout, index.json and
 * blobs/ALGORITHM/HEX. Paths are made from parsed digests only. */
#include <errno.h>
#include <fcntl.h>

#include "cas/manifest_int.h"
#include "cas/source_int.h"

struct layout {
        struct cas_source base;
        int dirfd;
};

char *cas_layout_blob_path(const struct cas_digest *digest, char *out)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(out, CAS_LAYOUT_PATH_BYTES, "blobs/%s/%s", cas_digest_alg_name(digest->alg),
                       cas_digest_hex(digest, hex));
        return out;
}

int cas_layout_check_marker(const void *data, size_t len, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        const char *version = NULL;
        int r = cas_json_parse(data, len, 64 * CAS_KIB, &j, err);
        if (r == 0)
                r = cas_json_string_in(j, "imageLayoutVersion", &version, err);
        if (r < 0)
                return cas_err_wrap(err, "oci-layout");
        if (!version)
                return cas_fail(err, CAS_E_INVALID, "oci-layout: no \"imageLayoutVersion\"");
        if (strncmp(version, "1.", 2) != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "OCI layout of version \"%.32s\"", version);
        return 0;
}

static int index_entry(const json_t *j, struct cas_source *src, struct cas_err *err)
{
        struct cas_descriptor top = {0};
        const json_t *annotations = NULL;
        const char *name = NULL, *full = NULL;
        int r = cas_descriptor_from_json(j, &top, err);
        if (r == 0)
                r = cas_json_object_in(j, "annotations", &annotations, err);
        if (r == 0)
                r = cas_json_string_in(annotations, CAS_LAYOUT_ANNOTATION_NAME, &name, err);
        if (r == 0)
                r = cas_json_string_in(annotations, CAS_LAYOUT_ANNOTATION_FULL, &full, err);
        if (r < 0)
                return r;
        if (!name)
                name = "";
        return cas_source_add(src, full ? full : name, full ? name : "", &top, err);
}

int cas_layout_read_index(const void *data, size_t len, struct cas_source *src, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        const json_t *manifests = NULL;
        uint64_t version = 0;
        int r = cas_json_parse(data, len, CAS_LAYOUT_INDEX_BYTES_MAX, &j, err);
        if (r == 0)
                r = cas_json_u64_in(j, "schemaVersion", 0, &version, err);
        if (r == 0)
                r = cas_json_array_in(j, "manifests", &manifests, err);
        if (r == 0 && version != 2)
                r = cas_fail(err, CAS_E_INVALID, "\"schemaVersion\" must be 2");
        for (size_t i = 0; r == 0 && i < json_array_size(manifests); i++) {
                r = index_entry(json_array_get(manifests, i), src, err);
                if (r < 0)
                        (void)cas_err_wrap(err, "entry %zu", i);
        }
        return r < 0 ? cas_err_wrap(err, "index.json") : 0;
}

/* Only regular files: a FIFO or a device would block or never end. */
static int layout_open_file(int dirfd, const char *path, int *out_fd, uint64_t *out_bytes,
                            struct cas_err *err)
{
        struct stat st;
        cas_cleanup_fd int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (!S_ISREG(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s is not a regular file", path);
        *out_bytes = (uint64_t)st.st_size;
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int layout_read_file(int dirfd, const char *path, size_t max_bytes, struct cas_buf *out,
                            struct cas_err *err)
{
        cas_cleanup_stream struct cas_stream st = {.fd = -1, .own_fd = true};
        int r = layout_open_file(dirfd, path, &st.fd, &st.left_bytes, err);
        return r < 0 ? r : cas_stream_read_all(&st, path, max_bytes, out, err);
}

static int layout_open_blob(struct cas_source *src, const struct cas_digest *digest,
                            struct cas_stream *out, struct cas_err *err)
{
        struct layout *l = (struct layout *)src;
        char path[CAS_LAYOUT_PATH_BYTES];
        struct cas_stream st = {.fd = -1, .own_fd = true};
        int r = layout_open_file(l->dirfd, cas_layout_blob_path(digest, path), &st.fd,
                                 &st.left_bytes, err);
        if (r < 0)
                return r;
        (void)posix_fadvise(st.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        *out = st;
        return 0;
}

static void layout_free(struct cas_source *src)
{
        struct layout *l = (struct layout *)src;
        cas_source_release(src);
        if (l->dirfd >= 0)
                (void)close(l->dirfd);
        free(l);
}

static const struct cas_source_ops layout_ops = {
        .open_blob = layout_open_blob,
        .free = layout_free,
};

static int layout_load(struct layout *l, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf marker = CAS_BUF_INIT, index = CAS_BUF_INIT;
        int r = layout_read_file(l->dirfd, "oci-layout", 64 * CAS_KIB, &marker, err);
        if (r == 0)
                r = cas_layout_check_marker(marker.data, marker.len_bytes, err);
        if (r == 0)
                r = layout_read_file(l->dirfd, "index.json", CAS_LAYOUT_INDEX_BYTES_MAX, &index,
                                     err);
        if (r == 0)
                r = cas_layout_read_index(index.data, index.len_bytes, &l->base, err);
        return r;
}

int cas_layout_source(const char *path, struct cas_source **out, struct cas_err *err)
{
        struct layout *l = cas_xcalloc(1, sizeof(*l));
        cas_cleanup_source struct cas_source *src = &l->base;
        src->ops = &layout_ops;
        l->dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (l->dirfd < 0)
                return cas_fail_sys(err, errno, "OCI layout %s", path);
        if (layout_load(l, err) < 0)
                return cas_err_wrap(err, "OCI layout %s", path);
        *out = cas_steal(&src);
        return 0;
}
