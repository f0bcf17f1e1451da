/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs: STORE/blobs/ALGORITHM/first two hex digits/hex digits, or recipes that they can be made
 * from again. */
#include "cas/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
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

int cas_blob_record_get(struct cas_store *s, const struct cas_digest *digest,
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

/* Whether there is a recipe that the blob was made from and compared. */
static int recipe_is_proved(struct cas_store *s, const struct cas_digest *digest, bool *out,
                            struct cas_err *err)
{
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_recipe_stat(s, digest, &recipe, &miss);
        *out = rc == 0 && recipe.is_proved;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* The length of the blob's file; NOTFOUND when it has none or another one. */
static int file_stat(struct cas_store *s, const char *path, uint64_t expected, struct cas_err *err)
{
        struct stat st;
        if (s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0) {
                if (errno == ENOENT)
                        return cas_fail(err, CAS_E_NOTFOUND, "blob %s: its file is gone", path);
                return cas_fail_sys(err, errno, "stat %s", path);
        }
        if ((uint64_t)st.st_size != expected)
                return cas_fail(err, CAS_E_NOTFOUND, "blob %s: %llu bytes, %llu expected", path,
                                (unsigned long long)st.st_size, (unsigned long long)expected);
        return 0;
}

int cas_blob_stat(struct cas_store *s, const struct cas_digest *digest, uint64_t *out_bytes,
                  struct cas_err *err)
{
        struct cas_blob_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        char path[CAS_BLOB_PATH_BYTES];
        int rc = cas_blob_record_get(s, digest, &rec, err);
        if (rc < 0)
                return rc;
        cas_blob_path(digest, path);
        if (rec.copy == CAS_BLOB_CONDENSED)
                rc = cas_fail(&miss, CAS_E_NOTFOUND, "blob %s: its recipe is not proved", path);
        else
                rc = file_stat(s, path, rec.size_bytes, &miss);
        if (rc == -CAS_E_NOTFOUND && rec.copy != CAS_BLOB_VERBATIM) {
                bool proved;
                rc = recipe_is_proved(s, digest, &proved, &miss);
                if (rc == 0 && !proved)
                        rc = -(int)miss.code;
        }
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (out_bytes)
                *out_bytes = rec.size_bytes;
        return 0;
}

int cas_blob_copy(struct cas_store *s, const struct cas_digest *digest, enum cas_blob_copy *out,
                  struct cas_err *err)
{
        struct cas_blob_record rec;
        int rc = cas_blob_record_get(s, digest, &rec, err);
        if (rc == 0)
                *out = rec.copy;
        return rc;
}

int cas_blob_added(struct cas_store *s, const struct cas_digest *digest, uint64_t *out_unix_s,
                   struct cas_err *err)
{
        struct cas_blob_record rec;
        int rc = cas_blob_record_get(s, digest, &rec, err);
        if (rc == 0)
                *out_unix_s = rec.added_unix_s;
        return rc;
}

/* The answer where there is no file to open. */
static int fail_without_file(struct cas_store *s, const struct cas_digest *digest, const char *path,
                             struct cas_err *err)
{
        struct cas_blob_record rec;
        bool proved = false;
        int rc = cas_blob_record_get(s, digest, &rec, err); /* it may be collected by now */
        if (rc == 0 && rec.copy != CAS_BLOB_VERBATIM)
                rc = recipe_is_proved(s, digest, &proved, err);
        if (rc < 0)
                return rc;
        if (proved)
                return cas_fail(err, CAS_E_UNSUPPORTED, "blob %s is condensed", path);
        if (rec.copy == CAS_BLOB_CONDENSED)
                return cas_fail(err, CAS_E_NOTFOUND, "blob %s: its recipe is not proved", path);
        return cas_fail(err, CAS_E_CORRUPT, "blob %s: its file is gone", path);
}

/* A copy that is a cache counts only when it is whole. */
static int open_copy(struct cas_store *s, const char *path, const struct cas_blob_record *rec,
                     int *out_fd, struct cas_err *err)
{
        int rc = rec->copy == CAS_BLOB_CACHED ? file_stat(s, path, rec->size_bytes, err) : 0;
        return rc < 0 ? rc : cas_io_open(s->io, s->dirfd, path, O_RDONLY, 0, out_fd, err);
}

int cas_blob_open(struct cas_store *s, const struct cas_digest *digest, int *out_fd,
                  uint64_t *out_bytes, struct cas_err *err)
{
        struct cas_blob_record rec;
        struct cas_err open_err = CAS_ERR_INIT;
        char path[CAS_BLOB_PATH_BYTES];
        int fd = -1;
        int rc = cas_blob_record_get(s, digest, &rec, err);
        if (rc < 0)
                return rc;
        cas_blob_path(digest, path);
        if (rec.copy == CAS_BLOB_CONDENSED)
                return fail_without_file(s, digest, path, err);
        rc = open_copy(s, path, &rec, &fd, &open_err);
        if (rc == -CAS_E_NOTFOUND)
                return fail_without_file(s, digest, path, err);
        if (rc < 0) {
                *err = open_err;
                return rc;
        }
        if (rec.copy == CAS_BLOB_CACHED)
                cas_blobcache_used(s->blobcache, digest);
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
