/* SPDX-License-Identifier: Apache-2.0 */
/* Verbatim blobs: STORE/blobs/ALGORITHM/first two hex digits/hex digits. */
#include "cas/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/record_int.h"
#include "cas/store_int.h"

void cas_blob_path(const struct cas_digest *digest, char *out)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_digest_hex(digest, hex);
        (void)snprintf(out, CAS_BLOB_PATH_BYTES, CAS_DIR_BLOBS "/%s/%.2s/%s",
                       cas_digest_alg_name(digest->alg), hex, hex);
}

/* All 256 at once and one sync: later nobody needs to ask whether one is there for good. */
static int make_dirs(struct cas_store *s, enum cas_digest_alg alg, struct cas_err *err)
{
        char path[CAS_BLOB_PATH_BYTES];
        (void)snprintf(path, sizeof(path), CAS_DIR_BLOBS "/%s", cas_digest_alg_name(alg));
        int rc = cas_store_mkdir(s, path, err);
        for (unsigned i = 0; rc == 0 && i < 256; i++) {
                (void)snprintf(path, sizeof(path), CAS_DIR_BLOBS "/%s/%02x",
                               cas_digest_alg_name(alg), i);
                rc = cas_store_mkdir(s, path, err);
        }
        if (rc < 0)
                return rc;
        *strrchr(path, '/') = '\0';
        rc = cas_io_sync_dir(s->io, s->dirfd, path, err);
        return rc < 0 ? rc : cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_BLOBS, err);
}

int cas_blob_dirs_make(struct cas_store *s, enum cas_digest_alg alg, struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&s->blob_dirs_mutex);
        if (!s->blob_dirs_made[alg])
                rc = make_dirs(s, alg, err);
        if (rc == 0)
                s->blob_dirs_made[alg] = true;
        cas_mutex_unlock(&s->blob_dirs_mutex);
        return rc;
}

static int blob_record(struct cas_store *s, const struct cas_digest *digest,
                       struct cas_blob_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_key_digest(digest, &key);
        int rc = cas_index_get(s->index, CAS_FAMILY_BLOBS, key.bytes, key.len, &value, err);
        if (rc == -CAS_E_NOTFOUND)
                return cas_fail(err, CAS_E_NOTFOUND, "no blob %s", cas_digest_text(digest, text));
        return rc < 0 ? rc : cas_blob_record_decode(value.data, value.len_bytes, out, err);
}

int cas_blob_stat(struct cas_store *s, const struct cas_digest *digest, uint64_t *out_bytes,
                  struct cas_err *err)
{
        struct cas_blob_record rec;
        struct stat st;
        char path[CAS_BLOB_PATH_BYTES];
        int rc = blob_record(s, digest, &rec, err);
        if (rc < 0)
                return rc;
        cas_blob_path(digest, path);
        if (s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
                if ((uint64_t)st.st_size != rec.size_bytes)
                        return cas_fail(err, CAS_E_NOTFOUND, "blob %s: %llu bytes, %llu expected",
                                        path, (unsigned long long)st.st_size,
                                        (unsigned long long)rec.size_bytes);
        } else if (errno == ENOENT) {
                return cas_fail(err, CAS_E_NOTFOUND, "blob %s: its file is gone", path);
        } else {
                return cas_fail_sys(err, errno, "stat %s", path);
        }
        if (out_bytes)
                *out_bytes = rec.size_bytes;
        return 0;
}

int cas_blob_open(struct cas_store *s, const struct cas_digest *digest, int *out_fd,
                  uint64_t *out_bytes, struct cas_err *err)
{
        struct cas_blob_record rec;
        int rc = blob_record(s, digest, &rec, err);
        if (rc < 0)
                return rc;
        char path[CAS_BLOB_PATH_BYTES];
        struct cas_err open_err = CAS_ERR_INIT;
        cas_blob_path(digest, path);
        int fd;
        rc = cas_io_open(s->io, s->dirfd, path, O_RDONLY, 0, &fd, &open_err);
        if (rc == -CAS_E_NOTFOUND) { /* unless it was collected just now */
                rc = blob_record(s, digest, &rec, err);
                return rc < 0 ? rc
                              : cas_fail(err, CAS_E_CORRUPT, "blob %s: its file is gone", path);
        }
        if (rc < 0) {
                *err = open_err;
                return rc;
        }
        *out_fd = fd;
        if (out_bytes)
                *out_bytes = rec.size_bytes;
        return 0;
}

int cas_blob_read(struct cas_store *s, const struct cas_digest *digest, size_t max_bytes,
                  struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        uint64_t size_bytes;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = cas_blob_open(s, digest, &fd, &size_bytes, err);
        if (rc < 0)
                return rc;
        cas_digest_text(digest, text);
        if (size_bytes > max_bytes)
                return cas_fail(err, CAS_E_LIMIT, "blob %s: %llu bytes, at most %zu are read", text,
                                (unsigned long long)size_bytes, max_bytes);
        rc = cas_buf_try_reserve(out, size_bytes, out->len_bytes + max_bytes, err);
        if (rc == 0)
                rc = cas_io_pread_exact(s->io, fd, out->data + out->len_bytes, size_bytes, 0, text,
                                        err);
        if (rc < 0)
                return rc;
        struct cas_digest got;
        cas_digest_of(digest->alg, out->data + out->len_bytes, size_bytes, &got);
        if (!cas_digest_equal(&got, digest))
                return cas_fail(err, CAS_E_CORRUPT, "blob %s: its bytes have another digest", text);
        out->len_bytes += size_bytes;
        out->data[out->len_bytes] = '\0';
        return 0;
}
