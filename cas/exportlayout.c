/* SPDX-License-Identifier: Apache-2.0 */
/* Export into an OCI layout, new or existing. Blobs are written under
 * temporary names, synced and renamed; index.json, replaced last, makes the
 * image appear. A blob that is there already is compared, not trusted. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "cas/export_int.h"
#include "cas/pool.h"
#include "cas/source_int.h"
#include "cas/store_int.h"

struct layout_export {
        struct cas_export *ex;
        int dirfd;
        _Atomic bool stop;
};
struct layout_task {
        struct layout_export *target;
        const struct cas_export_blob *blob;
        size_t number;
        int fd;
        uint64_t offset;
        struct cas_err err;
        int result;
};

static int task_write(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct layout_task *t = arg;
        int r = cas_io_pwrite_all(cas_io_posix(), t->fd, data, len, t->offset, "blob", err);
        t->offset += len;
        return r;
}

/* Whether the layout has exactly these bytes. */
static bool layout_has(int dirfd, const char *path, const struct cas_export_blob *b)
{
        struct stat st;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
            (uint64_t)st.st_size != b->size_bytes)
                return false;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(b->digest.alg);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(CAS_MIB);
        uint64_t at = 0;
        for (size_t n = 1; n > 0; at += n) {
                if (cas_io_pread(cas_io_posix(), fd, buf, CAS_MIB, at, &n, path, &err) < 0)
                        return false;
                cas_hasher_update(hasher, buf, n);
        }
        struct cas_digest is;
        cas_hasher_final(hasher, &is);
        return cas_digest_equal(&is, &b->digest);
}

static int task_copy(struct layout_task *t, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        const struct layout_export *l = t->target;
        char path[CAS_LAYOUT_PATH_BYTES], temporary[64];
        cas_layout_blob_path(&t->blob->digest, path);
        if (layout_has(l->dirfd, path, t->blob))
                return 0;
        (void)snprintf(temporary, sizeof(temporary), "blobs/.lamina-%ld-%zu", (long)getpid(),
                       t->number);
        int r = cas_io_unlink(io, l->dirfd, temporary, err);
        if (r == 0)
                r = cas_io_open(io, l->dirfd, temporary, O_WRONLY | O_CREAT | O_EXCL, 0644, &t->fd,
                                err);
        if (r < 0)
                return r;
        r = cas_export_blob_each(l->ex, t->blob, task_write, t, err);
        if (r == 0)
                r = cas_io_fdatasync(io, t->fd, path, err);
        struct cas_err second = CAS_ERR_INIT;
        int closed = cas_io_close(io, &t->fd, path, r < 0 ? &second : err);
        if (r == 0)
                r = closed;
        if (r == 0)
                r = cas_io_rename(io, l->dirfd, temporary, l->dirfd, path, err);
        if (r < 0)
                (void)unlinkat(l->dirfd, temporary, 0);
        return r;
}

static void task_run(void *arg)
{
        struct layout_task *t = arg;
        if (atomic_load(&t->target->stop))
                return;
        t->result = task_copy(t, &t->err);
        if (t->result < 0)
                atomic_store(&t->target->stop, true);
}

static int layout_copy_blobs(struct layout_export *l, struct cas_err *err)
{
        size_t count = l->ex->blob_count;
        cas_cleanup_free struct layout_task *tasks = cas_xcalloc(count + 1, sizeof(*tasks));
        struct cas_pool *pool = cas_pool_new(cas_pool_threads(l->ex->s->pool), (unsigned)count + 1);
        struct cas_pool_group group = {0};
        for (size_t i = 0; i < count; i++) {
                tasks[i] = (struct layout_task){
                        .target = l, .blob = &l->ex->blobs[i], .number = i, .fd = -1};
                cas_pool_submit(pool, &group, task_run, &tasks[i]);
        }
        cas_pool_wait(pool, &group);
        cas_pool_free(pool);
        for (size_t i = 0; i < count; i++) {
                if (tasks[i].result < 0) {
                        *err = tasks[i].err;
                        return tasks[i].result;
                }
        }
        return 0;
}

/* An existing directory must be a layout, or empty. */
static int layout_check(int dirfd, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf marker = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        int r = cas_io_read_file(cas_io_posix(), dirfd, "oci-layout", 64 * CAS_KIB, &marker, &miss);
        if (r == 0)
                return cas_layout_check_marker(marker.data, marker.len_bytes, err);
        if (r != -CAS_E_NOTFOUND) {
                *err = miss;
                return r;
        }
        if (faccessat(dirfd, "index.json", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return cas_fail(err, CAS_E_INVALID, "index.json without oci-layout");
        return 0;
}

static int layout_make_dirs(struct layout_export *l, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        int r = cas_io_mkdir(io, l->dirfd, "blobs", 0755, err);
        if (r == 0)
                r = cas_io_mkdir(io, l->dirfd, "blobs/sha256", 0755, err);
        for (size_t i = 0; r == 0 && i < l->ex->blob_count; i++) {
                if (l->ex->blobs[i].digest.alg == CAS_DIGEST_SHA512) {
                        r = cas_io_mkdir(io, l->dirfd, "blobs/sha512", 0755, err);
                        break;
                }
        }
        return r;
}

static int layout_sync_dirs(struct layout_export *l, struct cas_err *err)
{
        static const char *const dirs[] = {"blobs/sha256", "blobs/sha512"};
        for (size_t i = 0; i < CAS_COUNT(dirs); i++) {
                struct cas_err miss = CAS_ERR_INIT;
                int r = cas_io_sync_dir(cas_io_posix(), l->dirfd, dirs[i], &miss);
                if (r < 0 && r != -CAS_E_NOTFOUND) {
                        *err = miss;
                        return r;
                }
        }
        return 0;
}

/* Under a lock of the directory, so that two exports into one layout both appear. */
static int layout_publish(struct layout_export *l, const char *name, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        cas_cleanup_buf struct cas_buf old = CAS_BUF_INIT, now = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        if (flock(l->dirfd, LOCK_EX) < 0)
                return cas_fail_sys(err, errno, "lock the layout");
        int r = cas_io_read_file(io, l->dirfd, "index.json", CAS_LAYOUT_INDEX_BYTES_MAX, &old,
                                 &miss);
        if (r < 0 && r != -CAS_E_NOTFOUND) {
                *err = miss;
                return r;
        }
        r = cas_export_index(l->ex, name, r == 0 ? &old : NULL, &now, err);
        if (r == 0)
                r = cas_io_replace_file(io, l->dirfd, ".", "oci-layout", CAS_LAYOUT_MARKER,
                                        strlen(CAS_LAYOUT_MARKER), 0644, err);
        if (r == 0)
                r = cas_io_replace_file(io, l->dirfd, ".", "index.json", now.data, now.len_bytes,
                                        0644, err);
        return r;
}

int cas_export_layout(struct cas_export *ex, const struct cas_transfer_address *to,
                      struct cas_err *err)
{
        struct layout_export l = {.ex = ex};
        cas_cleanup_free char *name = cas_export_name(&ex->ref, to->tag);
        if (mkdir(to->path, 0755) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", to->path);
        cas_cleanup_fd int dirfd = open(to->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return cas_fail_sys(err, errno, "%s", to->path);
        l.dirfd = dirfd;
        int r = layout_check(dirfd, err);
        if (r == 0)
                r = layout_make_dirs(&l, err);
        if (r == 0)
                r = layout_copy_blobs(&l, err);
        if (r == 0)
                r = layout_sync_dirs(&l, err);
        if (r == 0)
                r = layout_publish(&l, name, err);
        return r < 0 ? cas_err_wrap(err, "export to %s", to->path) : 0;
}
