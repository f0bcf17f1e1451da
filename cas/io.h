/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O seam: every file operation of the store that matters for durability
 * goes through one table, so that tests can fail, tear, lose or kill at each
 * call. (RocksDB does its own I/O; its batches are atomic and synced.)
 *
 * Operations have the meaning and the errno of the system calls they are named
 * after. Thread-safe. Paths are relative to dirfd, as with openat(2). */
#ifndef CAS_IO_H
#define CAS_IO_H

#include <sys/stat.h>

#include "cas/buf.h"

struct cas_io_ops {
        int (*openat)(void *ctx, int dirfd, const char *path, int flags, mode_t mode);
        int (*close)(void *ctx, int fd);
        ssize_t (*pread)(void *ctx, int fd, void *buf, size_t len, off_t offset);
        ssize_t (*pwrite)(void *ctx, int fd, const void *buf, size_t len, off_t offset);
        ssize_t (*copy_file_range)(void *ctx, int in, off_t *in_offset, int out, off_t *out_offset,
                                   size_t len);
        int (*ftruncate)(void *ctx, int fd, off_t len);
        int (*fsync)(void *ctx, int fd); /* files and directories */
        int (*fdatasync)(void *ctx, int fd);
        int (*renameat)(void *ctx, int old_dirfd, const char *old_path, int new_dirfd,
                        const char *new_path);
        int (*linkat)(void *ctx, int old_dirfd, const char *old_path, int new_dirfd,
                      const char *new_path);
        int (*unlinkat)(void *ctx, int dirfd, const char *path, int flags);
        int (*mkdirat)(void *ctx, int dirfd, const char *path, mode_t mode);
        int (*fstatat)(void *ctx, int dirfd, const char *path, struct stat *st, int flags);
};

/* A table with its context. Passed by pointer; outlives the store. */
struct cas_io {
        const struct cas_io_ops *ops;
        void *ctx;
};

/* The system's own calls; static storage. */
const struct cas_io *cas_io_posix(void);

/* Wrappers with errors that name the path or `what`. */

/* O_CLOEXEC is added. */
int cas_io_open(const struct cas_io *io, int dirfd, const char *path, int flags, mode_t mode,
                int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Reports what close(2) reports: use it for files that were written. *fd becomes -1. */
int cas_io_close(const struct cas_io *io, int *fd, const char *what,
                 struct cas_err *err) CAS_MUST_CHECK;
/* Up to len bytes; fewer only at the end of the file. */
int cas_io_pread(const struct cas_io *io, int fd, void *buf, size_t len, uint64_t offset,
                 size_t *out_len, const char *what, struct cas_err *err) CAS_MUST_CHECK;
/* The same of a file with O_DIRECT that may be growing: a read that ends where no block ends was
 * the last, since none could begin there. align: of blocks. */
int cas_io_pread_blocks(const struct cas_io *io, int fd, void *buf, size_t len, size_t align,
                        uint64_t offset, size_t *out_len, const char *what,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Exactly len bytes. Errors: CORRUPT when the file ends before. */
int cas_io_pread_exact(const struct cas_io *io, int fd, void *buf, size_t len, uint64_t offset,
                       const char *what, struct cas_err *err) CAS_MUST_CHECK;
int cas_io_pwrite_all(const struct cas_io *io, int fd, const void *buf, size_t len, uint64_t offset,
                      const char *what, struct cas_err *err) CAS_MUST_CHECK;
int cas_io_fdatasync(const struct cas_io *io, int fd, const char *what,
                     struct cas_err *err) CAS_MUST_CHECK;
int cas_io_fsync(const struct cas_io *io, int fd, const char *what,
                 struct cas_err *err) CAS_MUST_CHECK;
int cas_io_ftruncate(const struct cas_io *io, int fd, uint64_t len, const char *what,
                     struct cas_err *err) CAS_MUST_CHECK;
int cas_io_rename(const struct cas_io *io, int dirfd, const char *from, int to_dirfd,
                  const char *to, struct cas_err *err) CAS_MUST_CHECK;
/* Errors: EXISTS. */
int cas_io_link(const struct cas_io *io, int dirfd, const char *from, int to_dirfd, const char *to,
                struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. */
int cas_io_unlink(const struct cas_io *io, int dirfd, const char *path,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Existing is success; the parent is synced when the directory was made. */
int cas_io_mkdir(const struct cas_io *io, int dirfd, const char *path, mode_t mode,
                 struct cas_err *err) CAS_MUST_CHECK;
/* Opens and syncs a directory. */
int cas_io_sync_dir(const struct cas_io *io, int dirfd, const char *path,
                    struct cas_err *err) CAS_MUST_CHECK;
int cas_io_size(const struct cas_io *io, int dirfd, const char *path, uint64_t *out_bytes,
                struct cas_err *err) CAS_MUST_CHECK;
/* Whole file into out (appended). Errors: LIMIT (> max_bytes), NOTFOUND. */
int cas_io_read_file(const struct cas_io *io, int dirfd, const char *path, size_t max_bytes,
                     struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
/* Replaces a file atomically and durably: PATH.new, fsync, rename, fsync of the
 * directory. `dir` is the directory of path, relative to dirfd. */
int cas_io_replace_file(const struct cas_io *io, int dirfd, const char *dir, const char *path,
                        const void *data, size_t len, mode_t mode,
                        struct cas_err *err) CAS_MUST_CHECK;

#endif
