/* SPDX-License-Identifier: Apache-2.0 */
/* Making, opening and closing a store. */
#include "cas/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>

#include "cas/blobcache_int.h"
#include "cas/blockcache.h"
#include "cas/flights_int.h"
#include "cas/commit_int.h"
#include "cas/damage_int.h"
#include "cas/dirwalk_int.h"
#include "cas/elsewhere_int.h"
#include "cas/format_int.h"
#include "cas/gc_int.h"
#include "cas/kept_int.h"
#include "cas/learner_int.h"
#include "cas/prefetch_int.h"
#include "cas/lease_int.h"
#include "cas/map.h"
#include "cas/packset_int.h"
#include "cas/pins_int.h"
#include "cas/pool.h"
#include "cas/scrubturn_int.h"
#include "cas/shared_int.h"
#include "cas/slowio.h"
#include "cas/store_int.h"
#include "cas/tree_int.h"
#include "cas/upload_int.h"

#define LOCK_POLL_NS (10 * 1000 * 1000)
#define POOL_QUEUE_MAX 64
#define REGENERATIONS_PER_CPU 2
/* Some blocks of the largest kind for each of a few threads that regenerate layers: files of a
 * layer that other layers brought lie between its own, in blocks of theirs. */
#define BLOCK_CACHE_BYTES (64 * CAS_MIB)

const char *cas_store_path(const struct cas_store *s)
{
        return s->path;
}

const char *cas_store_id(const struct cas_store *s)
{
        return s->id;
}

int cas_store_dirfd(const struct cas_store *s)
{
        return s->dirfd;
}

/* ---- locks ---- */

void cas_keeping_lock(struct cas_store *s)
{
        cas_mutex_lock(&s->keeping);
}

void cas_keeping_unlock(struct cas_store *s)
{
        cas_mutex_unlock(&s->keeping);
}

/* ---- the directory ---- */

int cas_store_mkdir(struct cas_store *s, const char *path, struct cas_err *err)
{
        if (s->io->ops->mkdirat(s->io->ctx, s->dirfd, path, 0700) != 0) {
                if (errno == EEXIST)
                        return 0;
                return cas_fail_sys(err, errno, "make directory %s", path);
        }
        if (fchmodat(s->dirfd, path, 0700, 0) != 0)
                return cas_fail_sys(err, errno, "set the mode of %s", path);
        return 0;
}

/* Makes the store's directory and what is above it, as `mkdir -p` does, durably. */
static int make_parents(const struct cas_store *s, const char *path, struct cas_err *err)
{
        cas_cleanup_free char *part = cas_xstrdup(path);
        for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                *slash = '\0';
                int rc = cas_io_mkdir(s->io, AT_FDCWD, part, 0755, err);
                *slash = '/';
                if (rc < 0)
                        return rc;
        }
        if (access(part, F_OK) == 0)
                return 0;
        int rc = cas_io_mkdir(s->io, AT_FDCWD, part, 0700, err);
        if (rc == 0 && chmod(part, 0700) != 0)
                return cas_fail_sys(err, errno, "set the mode of %s", part);
        return rc;
}

static int open_dir(struct cas_store *s, const struct cas_store_config *config, struct cas_err *err)
{
        s->dirfd = open(config->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s->dirfd < 0 && errno == ENOENT && !config->must_exist) {
                int rc = make_parents(s, config->path, err);
                if (rc < 0)
                        return rc;
                s->dirfd = open(config->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        }
        if (s->dirfd < 0)
                return cas_fail_sys(err, errno, "open store %s", config->path);
        char real[PATH_MAX];
        if (!realpath(config->path, real))
                return cas_fail_sys(err, errno, "open store %s", config->path);
        s->path = cas_xstrdup(real);
        return 0;
}

/* ---- the lock ---- */

static int fail_locked(struct cas_store *s, struct cas_err *err)
{
        char pid[24] = "";
        ssize_t n = pread(s->lock_fd, pid, sizeof(pid) - 1, 0);
        size_t digits = n > 0 ? strspn(pid, "0123456789") : 0;
        pid[digits] = '\0';
        return cas_fail(err, CAS_E_BUSY, "store %s is in use by process %s", s->path,
                        digits ? pid : "(unknown)");
}

/* A lock of the open file: it lives while any descriptor of it does, and needs no cleaning up
 * after a crash. */
static int lock_store(struct cas_store *s, unsigned wait_ms, struct cas_err *err)
{
        s->lock_fd = openat(s->dirfd, CAS_LOCK_PATH, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (s->lock_fd < 0)
                return cas_fail_sys(err, errno, "open %s/%s", s->path, CAS_LOCK_PATH);
        struct timespec start, now;
        (void)clock_gettime(CLOCK_MONOTONIC, &start);
        for (;;) {
                struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
                if (fcntl(s->lock_fd, F_OFD_SETLK, &lock) == 0)
                        break;
                if (errno != EAGAIN && errno != EACCES)
                        return cas_fail_sys(err, errno, "lock %s/%s", s->path, CAS_LOCK_PATH);
                (void)clock_gettime(CLOCK_MONOTONIC, &now);
                int64_t waited_ms = (now.tv_sec - start.tv_sec) * 1000 +
                                    (now.tv_nsec - start.tv_nsec) / 1000000;
                if (waited_ms >= wait_ms)
                        return fail_locked(s, err);
                (void)nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_NS}, NULL);
        }
        char pid[24];
        int len = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
        /* For people only. */
        if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, pid, (size_t)len, 0) != len)
                return cas_fail_sys(err, errno, "write %s/%s", s->path, CAS_LOCK_PATH);
        return 0;
}

/* ---- making ---- */

static const char *const store_dirs[] = {CAS_DIR_INDEX,    CAS_DIR_BLOBS, CAS_DIR_JOURNAL,
                                         CAS_DIR_TREES,    CAS_DIR_PACKS, CAS_DIR_UPLOADS,
                                         CAS_DIR_SANDBOXES};

/* A store is made in an empty directory, or where making one was interrupted. */
static int refuse_foreign(void *arg, const char *path CAS_UNUSED, const char *name,
                          struct cas_err *err)
{
        const struct cas_store *s = arg;
        for (size_t i = 0; i < CAS_COUNT(store_dirs); i++) {
                if (strcmp(name, store_dirs[i]) == 0)
                        return 0;
        }
        if (strcmp(name, CAS_LOCK_PATH) == 0 || strcmp(name, CAS_FORMAT_PATH ".new") == 0)
                return 0;
        return cas_fail(err, CAS_E_INVALID, "%s is not a store, and not empty (it holds %s)",
                        s->path, name);
}

static int refuse_content(void *arg, const char *path CAS_UNUSED, const char *name,
                          struct cas_err *err)
{
        const struct cas_store *s = arg;
        return cas_fail(err, CAS_E_CORRUPT,
                        "%s holds packs (%s) but no `%s` file: restore that file", s->path, name,
                        CAS_FORMAT_PATH);
}

static int make_store(struct cas_store *s, struct cas_err *err)
{
        struct cas_format format = {.version = CAS_FORMAT_VERSION};
        int rc = cas_dir_each(s, ".", refuse_foreign, s, err);
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(store_dirs); i++)
                rc = cas_store_mkdir(s, store_dirs[i], err);
        if (rc == 0)
                rc = cas_dir_each(s, CAS_DIR_PACKS, refuse_content, s, err);
        if (rc == 0)
                rc = cas_blob_dirs_make(s, CAS_DIGEST_SHA256, err);
        if (rc == 0)
                rc = cas_format_new_id(format.id, err);
        if (rc == 0)
                rc = cas_journal_create(s->io, s->dirfd, format.id, err);
        if (rc == 0)
                rc = cas_index_open(s->index_path, true, &s->index, err);
        if (rc == 0)
                rc = cas_gc_note_made(s->index, err);
        if (rc == 0)
                rc = cas_io_sync_dir(s->io, s->dirfd, ".", err);
        if (rc == 0)
                rc = cas_format_write(s->io, s->dirfd, &format, err);
        if (rc < 0)
                return rc;
        memcpy(s->id, format.id, sizeof(s->id));
        return 0;
}

/* ---- opening ---- */

static int remove_temporary(void *arg, const char *path, const char *name, struct cas_err *err)
{
        const struct cas_store *s = arg;
        if (strncmp(name, CAS_TEMPORARY_PREFIX, strlen(CAS_TEMPORARY_PREFIX)) != 0)
                return 0;
        return cas_io_unlink(s->io, s->dirfd, path, err);
}

static int read_format(struct cas_store *s, const struct cas_store_config *config,
                       struct cas_err *err)
{
        struct cas_format format;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_format_read(s->io, s->dirfd, &format, &miss);
        if (rc == -CAS_E_NOTFOUND && config->must_exist)
                return cas_fail(err, CAS_E_NOTFOUND, "%s is not a store", s->path);
        if (rc == -CAS_E_NOTFOUND)
                return make_store(s, err);
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        memcpy(s->id, format.id, sizeof(s->id));
        s->blob_dirs_made[CAS_DIGEST_SHA256] = true;
        return cas_format_check(&format, err);
}

static bool is_there(const struct cas_store *s, const char *path)
{
        struct stat st;
        return s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int cas_store_settle_index(struct cas_store *s, struct cas_err *err)
{
        if (!is_there(s, CAS_DIR_INDEX_OLD))
                return 0;
        if (is_there(s, CAS_DIR_INDEX)) {
                cas_cleanup_free char *old = cas_xasprintf("%s/" CAS_DIR_INDEX_OLD, s->path);
                return cas_index_destroy(old, err);
        }
        int rc = cas_io_rename(s->io, s->dirfd, CAS_DIR_INDEX_OLD, s->dirfd, CAS_DIR_INDEX, err);
        return rc < 0 ? rc : cas_io_sync_dir(s->io, s->dirfd, ".", err);
}

static int open_index(struct cas_store *s, struct cas_err *err)
{
        if (s->index)
                return 0; /* just made */
        int rc = cas_store_settle_index(s, err);
        if (rc == 0 && is_there(s, CAS_DIR_INDEX_TRIAL)) {
                cas_cleanup_free char *trial = cas_xasprintf("%s/" CAS_DIR_INDEX_TRIAL, s->path);
                rc = cas_index_destroy(trial, err);
        }
        if (rc == 0)
                rc = cas_index_open(s->index_path, false, &s->index, err);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT)
                return cas_err_wrap(err, "the index cannot be read (`lamina fsck --rebuild` "
                                         "makes it anew)");
        return rc;
}

static int open_journal(struct cas_store *s, struct cas_err *err)
{
        struct cas_journal_position seen;
        int rc = cas_commit_seen(s->index, &seen, err);
        if (rc == 0)
                rc = cas_journal_open(s->io, s->dirfd, s->id, &seen, &s->journal, err);
        return rc;
}

int cas_store_open_backend(struct cas_store *s, const struct cas_store_config *config,
                           struct cas_err *err)
{
        int rc = cas_io_open(s->io, s->dirfd, CAS_DIR_PACKS, O_RDONLY | O_DIRECTORY, 0,
                             &s->packs_fd, err);
        if (rc < 0)
                return rc;
        s->own_backend = config->backend == NULL;
        s->backend = config->backend;
        if (s->own_backend && config->backend_open && config->backend_open(s, &s->backend, err) < 0)
                return -(int)err->code;
        if (!s->backend)
                s->backend = cas_backend_local_new(s->packs_fd);
        return 0;
}

int cas_store_own_room(struct cas_store *s, uint64_t bytes, struct cas_err *err)
{
        const struct cas_backend_ops *ops = s->backend->ops;
        return ops->own_grow && bytes > 0 ? ops->own_grow(s->backend, bytes, err) : 0;
}

struct cas_backend *cas_store_backend(struct cas_store *s)
{
        return s->backend;
}

static int open_packs(struct cas_store *s, const struct cas_store_config *config,
                      struct cas_err *err)
{
        int rc = cas_store_open_backend(s, config, err);
        if (rc < 0)
                return rc;
        s->flat_trees = config->flat_trees;
        s->decoder = config->decoder;
        s->pool = cas_pool_new(config->threads, POOL_QUEUE_MAX);
        s->blocks = cas_blockcache_new(BLOCK_CACHE_BYTES);
        s->flights = cas_flights_new(s,
                                     config->regenerations
                                             ? config->regenerations
                                             : REGENERATIONS_PER_CPU * cas_pool_threads(s->pool),
                                     config->threads);
        return cas_packset_open(s->io, s->backend, s->index, &s->removals, &s->packset, err);
}

static struct cas_store *store_new(const struct cas_store_config *config)
{
        struct cas_store *s = cas_xcalloc(1, sizeof(*s));
        s->io = config->io ? config->io : cas_io_device();
        s->dirfd = s->lock_fd = s->packs_fd = -1;
        cas_mutex_init(&s->collecting, "store.collecting");
        cas_shared_init(s);
        cas_mutex_init(&s->names, "store.names");
        cas_mutex_init(&s->uploads_mutex, "store.uploads");
        cas_mutex_init(&s->keeping, "store.keeping");
        cas_mutex_init(&s->blob_dirs_mutex, "store.blob_dirs");
        cas_cond_init(&s->names_change);
        s->commit_last = &s->commit_first;
        s->uploads = cas_map_new();
        s->trees = cas_trees_new();
        s->elsewhere = cas_elsewhere_new(s);
        s->learner = cas_learner_new();
        s->prefetcher = cas_prefetcher_new();
        s->damages = cas_damages_new();
        s->gate = cas_gate_new();
        s->leases = cas_leases_new();
        s->scrub_turn = cas_scrub_turn_new();
        s->blobcache = cas_blobcache_new();
        s->blob_cache_bytes = config->blob_cache_bytes;
        cas_rwlock_init(&s->blob_files, "store.blob_files");
        cas_removals_init(&s->removals);
        cas_maintenance_init(&s->maintenance);
        return s;
}

int cas_store_open_bare(const struct cas_store_config *config, struct cas_store **out,
                        struct cas_err *err)
{
        cas_cleanup_store struct cas_store *s = store_new(config);
        int rc = open_dir(s, config, err);
        if (rc < 0)
                return rc;
        s->index_path = cas_xasprintf("%s/" CAS_DIR_INDEX, s->path);
        rc = lock_store(s, config->lock_wait_ms, err);
        if (rc < 0)
                return rc;
        *out = cas_steal(&s);
        return 0;
}

int cas_store_open_parts(struct cas_store *s, const struct cas_store_config *config,
                         struct cas_err *err)
{
        int rc = open_index(s, err);
        if (rc == 0)
                rc = cas_leases_load(s, err);
        if (rc == 0)
                rc = open_journal(s, err);
        return rc < 0 ? rc : open_packs(s, config, err);
}

int cas_store_open(const struct cas_store_config *config, struct cas_store **out,
                   struct cas_err *err)
{
        cas_cleanup_store struct cas_store *s = NULL;
        int rc = cas_store_open_bare(config, &s, err);
        if (rc == 0)
                rc = read_format(s, config, err);
        if (rc == 0)
                rc = cas_dir_each(s, CAS_DIR_UPLOADS, remove_temporary, s, err);
        if (rc == 0)
                rc = cas_store_open_parts(s, config, err);
        if (rc == 0)
                rc = cas_gc_note_opened(s->index, err);
        if (rc < 0)
                return rc;
        s->is_open = true;
        if (config->shared_open && config->shared_open(s, &s->shared, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&s);
        return 0;
}

void cas_store_close(struct cas_store *s)
{
        if (!s)
                return;
        cas_prefetcher_free(s->prefetcher);
        cas_elsewhere_end(s->elsewhere); /* it may be publishing */
        if (s->shared)
                s->shared->ops->close(s->shared);
        cas_flights_free(s->flights);
        if (s->is_open && !s->commit_broken)
                cas_gc_note_closed(s);
        if (s->packset)
                cas_packset_close(s->packset);
        if (s->blocks)
                cas_blockcache_free(s->blocks);
        if (s->pool)
                cas_pool_free(s->pool);
        if (s->own_backend && s->backend && s->backend->ops->close)
                s->backend->ops->close(s->backend);
        cas_journal_close(s->journal);
        cas_index_close(s->index);
        cas_uploads_free(s);
        cas_trees_free(s->trees);
        cas_elsewhere_free(s->elsewhere);
        cas_learner_free(s->learner);
        cas_damages_free(s->damages);
        cas_leases_free(s->leases);
        cas_gate_free(s->gate);
        cas_scrub_turn_free(s->scrub_turn);
        cas_blobcache_free(s->blobcache);
        cas_rwlock_release(&s->blob_files);
        (void)pthread_cond_destroy(&s->names_change);
        cas_mutex_release(&s->collecting);
        cas_shared_release(s);
        cas_mutex_release(&s->names);
        cas_mutex_release(&s->uploads_mutex);
        cas_mutex_release(&s->blob_dirs_mutex);
        cas_mutex_release(&s->keeping);
        cas_removals_release(&s->removals);
        cas_maintenance_release(&s->maintenance);
        if (s->packs_fd >= 0)
                (void)close(s->packs_fd);
        if (s->lock_fd >= 0)
                (void)close(s->lock_fd); /* the lock goes with it */
        if (s->dirfd >= 0)
                (void)close(s->dirfd);
        free(s->index_path);
        free(s->path);
        free(s);
}
