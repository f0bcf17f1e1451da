/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

static int posix_openat(void *ctx CAS_UNUSED, int dirfd, const char *path, int flags, mode_t mode)
{
        return openat(dirfd, path, flags, mode);
}

static int posix_close(void *ctx CAS_UNUSED, int fd)
{
        return close(fd);
}

static ssize_t posix_pread(void *ctx CAS_UNUSED, int fd, void *buf, size_t len, off_t offset)
{
        return pread(fd, buf, len, offset);
}

static ssize_t posix_pwrite(void *ctx CAS_UNUSED, int fd, const void *buf, size_t len, off_t offset)
{
        return pwrite(fd, buf, len, offset);
}

static ssize_t posix_copy_file_range(void *ctx CAS_UNUSED, int in, off_t *in_offset, int out,
                                     off_t *out_offset, size_t len)
{
        return copy_file_range(in, in_offset, out, out_offset, len, 0);
}

static int posix_ftruncate(void *ctx CAS_UNUSED, int fd, off_t len)
{
        return ftruncate(fd, len);
}

static int posix_fsync(void *ctx CAS_UNUSED, int fd)
{
        return fsync(fd);
}

static int posix_fdatasync(void *ctx CAS_UNUSED, int fd)
{
        return fdatasync(fd);
}

static int posix_renameat(void *ctx CAS_UNUSED, int old_dirfd, const char *old_path, int new_dirfd,
                          const char *new_path)
{
        return renameat(old_dirfd, old_path, new_dirfd, new_path);
}

static int posix_linkat(void *ctx CAS_UNUSED, int old_dirfd, const char *old_path, int new_dirfd,
                        const char *new_path)
{
        return linkat(old_dirfd, old_path, new_dirfd, new_path, 0);
}

static int posix_unlinkat(void *ctx CAS_UNUSED, int dirfd, const char *path, int flags)
{
        return unlinkat(dirfd, path, flags);
}

static int posix_mkdirat(void *ctx CAS_UNUSED, int dirfd, const char *path, mode_t mode)
{
        return mkdirat(dirfd, path, mode);
}

static int posix_fstatat(void *ctx CAS_UNUSED, int dirfd, const char *path, struct stat *st,
                         int flags)
{
        return fstatat(dirfd, path, st, flags);
}

const struct cas_io *cas_io_posix(void)
{
        static const struct cas_io_ops ops = {
                .openat = posix_openat,
                .close = posix_close,
                .pread = posix_pread,
                .pwrite = posix_pwrite,
                .copy_file_range = posix_copy_file_range,
                .ftruncate = posix_ftruncate,
                .fsync = posix_fsync,
                .fdatasync = posix_fdatasync,
                .renameat = posix_renameat,
                .linkat = posix_linkat,
                .unlinkat = posix_unlinkat,
                .mkdirat = posix_mkdirat,
                .fstatat = posix_fstatat,
        };
        static const struct cas_io io = {.ops = &ops};
        return &io;
}

int cas_io_open(const struct cas_io *io, int dirfd, const char *path, int flags, mode_t mode,
                int *out_fd, struct cas_err *err)
{
        int fd;
        do {
                fd = io->ops->openat(io->ctx, dirfd, path, flags | O_CLOEXEC, mode);
        } while (fd < 0 && errno == EINTR);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", path);
        *out_fd = fd;
        return 0;
}

int cas_io_close(const struct cas_io *io, int *fd, const char *what, struct cas_err *err)
{
        int rc = io->ops->close(io->ctx, cas_steal_fd(fd));
        if (rc != 0 && errno != EINTR)
                return cas_fail_sys(err, errno, "close %s", what);
        return 0;
}

int cas_io_pread_blocks(const struct cas_io *io, int fd, void *buf, size_t len, size_t align,
                        uint64_t offset, size_t *out_len, const char *what, struct cas_err *err)
{
        size_t done = 0;
        while (done < len && done % align == 0) {
                ssize_t n = io->ops->pread(io->ctx, fd, (uint8_t *)buf + done, len - done,
                                           (off_t)(offset + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return cas_fail_sys(err, errno, "read %s", what);
                if (n == 0)
                        break;
                done += (size_t)n;
        }
        *out_len = done;
        return 0;
}

int cas_io_pread(const struct cas_io *io, int fd, void *buf, size_t len, uint64_t offset,
                 size_t *out_len, const char *what, struct cas_err *err)
{
        return cas_io_pread_blocks(io, fd, buf, len, 1, offset, out_len, what, err);
}

int cas_io_pread_exact(const struct cas_io *io, int fd, void *buf, size_t len, uint64_t offset,
                       const char *what, struct cas_err *err)
{
        size_t got = 0;
        int rc = cas_io_pread(io, fd, buf, len, offset, &got, what, err);
        if (rc < 0)
                return rc;
        if (got != len)
                return cas_fail(
                        err, CAS_E_CORRUPT, "%s: ends at byte %llu, %zu bytes at %llu expected",
                        what, (unsigned long long)(offset + got), len, (unsigned long long)offset);
        return 0;
}

int cas_io_pwrite_all(const struct cas_io *io, int fd, const void *buf, size_t len, uint64_t offset,
                      const char *what, struct cas_err *err)
{
        size_t done = 0;
        while (done < len) {
                ssize_t n = io->ops->pwrite(io->ctx, fd, (const uint8_t *)buf + done, len - done,
                                            (off_t)(offset + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return cas_fail_sys(err, n < 0 ? errno : ENOSPC, "write %s", what);
                done += (size_t)n;
        }
        return 0;
}

int cas_io_fdatasync(const struct cas_io *io, int fd, const char *what, struct cas_err *err)
{
        if (io->ops->fdatasync(io->ctx, fd) != 0)
                return cas_fail_sys(err, errno, "sync %s", what);
        return 0;
}

int cas_io_fsync(const struct cas_io *io, int fd, const char *what, struct cas_err *err)
{
        if (io->ops->fsync(io->ctx, fd) != 0)
                return cas_fail_sys(err, errno, "sync %s", what);
        return 0;
}

int cas_io_ftruncate(const struct cas_io *io, int fd, uint64_t len, const char *what,
                     struct cas_err *err)
{
        if (io->ops->ftruncate(io->ctx, fd, (off_t)len) != 0)
                return cas_fail_sys(err, errno, "truncate %s", what);
        return 0;
}

int cas_io_rename(const struct cas_io *io, int dirfd, const char *from, int to_dirfd,
                  const char *to, struct cas_err *err)
{
        if (io->ops->renameat(io->ctx, dirfd, from, to_dirfd, to) != 0)
                return cas_fail_sys(err, errno, "rename %s to %s", from, to);
        return 0;
}

int cas_io_link(const struct cas_io *io, int dirfd, const char *from, int to_dirfd, const char *to,
                struct cas_err *err)
{
        if (io->ops->linkat(io->ctx, dirfd, from, to_dirfd, to) != 0)
                return cas_fail_sys(err, errno, "link %s as %s", from, to);
        return 0;
}

int cas_io_unlink(const struct cas_io *io, int dirfd, const char *path, struct cas_err *err)
{
        if (io->ops->unlinkat(io->ctx, dirfd, path, 0) != 0 && errno != ENOENT)
                return cas_fail_sys(err, errno, "remove %s", path);
        return 0;
}

/* The directory part of path, or "." */
static char *parent_of(const char *path)
{
        const char *slash = strrchr(path, '/');
        if (!slash)
                return cas_xstrdup(".");
        return slash == path ? cas_xstrdup("/") : cas_xstrndup(path, (size_t)(slash - path));
}

int cas_io_mkdir(const struct cas_io *io, int dirfd, const char *path, mode_t mode,
                 struct cas_err *err)
{
        if (io->ops->mkdirat(io->ctx, dirfd, path, mode) != 0) {
                if (errno == EEXIST)
                        return 0;
                return cas_fail_sys(err, errno, "make directory %s", path);
        }
        cas_cleanup_free char *parent = parent_of(path);
        return cas_io_sync_dir(io, dirfd, parent, err);
}

int cas_io_sync_dir(const struct cas_io *io, int dirfd, const char *path, struct cas_err *err)
{
        int fd;
        int rc = cas_io_open(io, dirfd, path, O_RDONLY | O_DIRECTORY, 0, &fd, err);
        if (rc < 0)
                return rc;
        rc = cas_io_fsync(io, fd, path, err);
        (void)io->ops->close(io->ctx, fd);
        return rc;
}

int cas_io_size(const struct cas_io *io, int dirfd, const char *path, uint64_t *out_bytes,
                struct cas_err *err)
{
        struct stat st;
        if (io->ops->fstatat(io->ctx, dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0)
                return cas_fail_sys(err, errno, "stat %s", path);
        *out_bytes = (uint64_t)st.st_size;
        return 0;
}

static int read_open_file(const struct cas_io *io, int fd, const char *path, size_t max_bytes,
                          struct cas_buf *out, struct cas_err *err)
{
        size_t start = out->len_bytes;
        for (;;) {
                size_t step = cas_max_u64(4096, out->len_bytes - start);
                size_t got = 0;
                if (step > max_bytes + 1)
                        step = max_bytes + 1;
                int rc = cas_buf_try_reserve(out, step, start + 2 * max_bytes + 2, err);
                if (rc == 0)
                        rc = cas_io_pread(io, fd, out->data + out->len_bytes, step,
                                          out->len_bytes - start, &got, path, err);
                if (rc < 0)
                        return rc;
                out->len_bytes += got;
                out->data[out->len_bytes] = '\0';
                if (out->len_bytes - start > max_bytes)
                        return cas_fail(err, CAS_E_LIMIT, "%s: more than %zu bytes", path,
                                        max_bytes);
                if (got < step)
                        return 0;
        }
}

int cas_io_read_file(const struct cas_io *io, int dirfd, const char *path, size_t max_bytes,
                     struct cas_buf *out, struct cas_err *err)
{
        int fd;
        int rc = cas_io_open(io, dirfd, path, O_RDONLY, 0, &fd, err);
        if (rc < 0)
                return rc;
        rc = read_open_file(io, fd, path, max_bytes, out, err);
        (void)io->ops->close(io->ctx, fd);
        return rc;
}

int cas_io_replace_file(const struct cas_io *io, int dirfd, const char *dir, const char *path,
                        const void *data, size_t len, mode_t mode, struct cas_err *err)
{
        cas_cleanup_free char *temporary = cas_xasprintf("%s.new", path);
        int fd;
        int rc = cas_io_open(io, dirfd, temporary, O_WRONLY | O_CREAT | O_TRUNC, mode, &fd, err);
        if (rc < 0)
                return rc;
        rc = cas_io_pwrite_all(io, fd, data, len, 0, temporary, err);
        if (rc == 0)
                rc = cas_io_fsync(io, fd, temporary, err);
        if (rc < 0) {
                (void)io->ops->close(io->ctx, fd);
                return rc;
        }
        rc = cas_io_close(io, &fd, temporary, err);
        if (rc == 0)
                rc = cas_io_rename(io, dirfd, temporary, dirfd, path, err);
        if (rc == 0)
                rc = cas_io_sync_dir(io, dirfd, dir, err);
        return rc;
}
