/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of condensed blobs under a budget, those used the longest time ago dropped first.
 *
 * A copy is never the truth: the index says that a blob has none before its file is unlinked, and
 * that it has one after the file was synced under its name. A crash between leaves a file that the
 * index does not count (collection removes it), or a blob that is made from its recipe. */
#include "cas/blobcache_int.h"

#include <fcntl.h>
#include <stdio.h>

#include "cas/map.h"
#include "cas/mutex.h"
#include "cas/pins_int.h"
#include "cas/store_int.h"

/* Copies dropped under one lock and one sync of the index. */
#define DROPS_AT_ONCE 32

struct copy {
        struct copy *newer, *older;
        struct cas_digest digest;
        uint64_t bytes;
};

struct cas_blobcache {
        struct cas_mutex mutex; /* a leaf; guards all below */
        bool loaded;
        struct cas_map *copies; /* digest to struct copy, owned */
        struct copy *newest, *oldest;
        uint64_t bytes;
};

struct cas_blobcache *cas_blobcache_new(void)
{
        struct cas_blobcache *c = cas_xcalloc(1, sizeof(*c));
        cas_mutex_init(&c->mutex, "blobcache");
        c->copies = cas_map_new();
        return c;
}

void cas_blobcache_free(struct cas_blobcache *c)
{
        if (!c)
                return;
        for (struct copy *copy = c->oldest; copy;) {
                struct copy *newer = copy->newer;
                free(copy);
                copy = newer;
        }
        cas_map_free(c->copies);
        cas_mutex_release(&c->mutex);
        free(c);
}

/* ---- the order ---- */

static struct copy *find_locked(struct cas_blobcache *c, const struct cas_digest *digest)
{
        cas_assert_held(&c->mutex);
        const uint64_t *value = cas_map_get(c->copies, digest, sizeof(*digest));
        return value ? (struct copy *)(uintptr_t)*value : NULL;
}

static void unlink_locked(struct cas_blobcache *c, struct copy *copy)
{
        cas_assert_held(&c->mutex);
        *(copy->newer ? &copy->newer->older : &c->newest) = copy->older;
        *(copy->older ? &copy->older->newer : &c->oldest) = copy->newer;
}

static void push_locked(struct cas_blobcache *c, struct copy *copy)
{
        cas_assert_held(&c->mutex);
        copy->newer = NULL;
        copy->older = c->newest;
        *(c->newest ? &c->newest->newer : &c->oldest) = copy;
        c->newest = copy;
}

static void add_locked(struct cas_blobcache *c, const struct cas_digest *digest, uint64_t bytes)
{
        struct copy *copy = find_locked(c, digest);
        if (copy) {
                unlink_locked(c, copy);
        } else {
                copy = cas_xcalloc(1, sizeof(*copy));
                copy->digest = *digest;
                copy->bytes = bytes;
                c->bytes += bytes;
                *cas_map_put(c->copies, digest, sizeof(*digest), NULL) = (uint64_t)(uintptr_t)copy;
        }
        push_locked(c, copy);
}

static void forget_locked(struct cas_blobcache *c, const struct cas_digest *digest)
{
        struct copy *copy = find_locked(c, digest);
        if (!copy)
                return;
        unlink_locked(c, copy);
        (void)cas_map_remove(c->copies, digest, sizeof(*digest));
        c->bytes -= copy->bytes;
        free(copy);
}

void cas_blobcache_used(struct cas_blobcache *c, const struct cas_digest *digest)
{
        cas_mutex_lock(&c->mutex);
        struct copy *copy = find_locked(c, digest);
        if (copy) {
                unlink_locked(c, copy);
                push_locked(c, copy);
        }
        cas_mutex_unlock(&c->mutex);
}

void cas_blobcache_add(struct cas_blobcache *c, const struct cas_digest *digest, uint64_t bytes)
{
        cas_mutex_lock(&c->mutex);
        if (c->loaded)
                add_locked(c, digest, bytes);
        cas_mutex_unlock(&c->mutex);
}

void cas_blobcache_forget(struct cas_blobcache *c, const struct cas_digest *digest)
{
        cas_mutex_lock(&c->mutex);
        forget_locked(c, digest);
        cas_mutex_unlock(&c->mutex);
}

/* ---- what an earlier process left ---- */

struct left {
        struct cas_digest digest;
        uint64_t bytes;
        int64_t time_s;
};
struct lefts {
        struct cas_store *s;
        struct left *list; /* owned */
        size_t count, max;
};

static int collect_copy(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct lefts *lefts = arg;
        struct cas_blob_record rec;
        struct left left = {0};
        struct stat st;
        char path[CAS_BLOB_PATH_BYTES];
        int rc = cas_digest_value_decode(key, key_len, &left.digest, err);
        if (rc == 0)
                rc = cas_blob_record_decode(value, value_len, &rec, err);
        if (rc < 0 || rec.copy != CAS_BLOB_CACHED)
                return rc;
        cas_blob_path(&left.digest, path);
        left.bytes = rec.size_bytes;
        if (lefts->s->io->ops->fstatat(lefts->s->io->ctx, lefts->s->dirfd, path, &st,
                                       AT_SYMLINK_NOFOLLOW) == 0)
                left.time_s = st.st_mtime;
        if (lefts->count == lefts->max) {
                lefts->max = lefts->max ? 2 * lefts->max : 64;
                lefts->list = cas_xrealloc(lefts->list, lefts->max * sizeof(lefts->list[0]));
        }
        lefts->list[lefts->count++] = left;
        return 0;
}

static int by_time(const void *a, const void *b)
{
        const struct left *x = a, *y = b;
        return (x->time_s > y->time_s) - (x->time_s < y->time_s);
}

/* Finds the copies that there are, once. Under the lock of the files: none come or go. */
static int load(struct cas_store *s, struct cas_err *err)
{
        struct cas_blobcache *c = s->blobcache;
        struct lefts lefts = {.s = s};
        if (c->loaded)
                return 0;
        int rc = cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_BLOBS},
                                collect_copy, &lefts, err);
        if (rc == 0 && lefts.count > 0)
                qsort(lefts.list, lefts.count, sizeof(lefts.list[0]), by_time);
        cas_mutex_lock(&c->mutex);
        for (size_t i = 0; rc == 0 && i < lefts.count; i++)
                add_locked(c, &lefts.list[i].digest, lefts.list[i].bytes);
        c->loaded = rc == 0;
        cas_mutex_unlock(&c->mutex);
        free(lefts.list);
        return rc;
}

/* ---- files and records ---- */

void cas_blob_files_lock(struct cas_store *s, bool exclusive)
{
        if (exclusive)
                cas_rwlock_write(&s->blob_files);
        else
                cas_rwlock_read(&s->blob_files);
}

void cas_blob_files_unlock(struct cas_store *s)
{
        cas_rwlock_unlock(&s->blob_files);
}

void cas_batch_put_blob(struct cas_batch *b, const struct cas_digest *digest,
                        const struct cas_blob_record *rec)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_digest(digest, &key);
        cas_blob_record_encode(rec, &value);
        cas_batch_put(b, CAS_FAMILY_BLOBS, key.bytes, key.len, value.data, value.len_bytes);
}

/* Whether the copy may go now: *rec is the blob's record then. */
static int may_drop(struct cas_store *s, const struct cas_digest *digest,
                    struct cas_blob_record *rec, bool *out, struct cas_err *err)
{
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_blob_record_get(s, digest, rec, &miss);
        if (rc == 0)
                rc = cas_recipe_stat(s, digest, &recipe, &miss);
        *out = rc == 0 && rec->copy == CAS_BLOB_CACHED && recipe.is_proved;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int remove_file(struct cas_store *s, const struct cas_digest *digest, struct cas_err *err)
{
        char path[CAS_BLOB_PATH_BYTES];
        struct cas_err gone = CAS_ERR_INIT;
        cas_blob_path(digest, path);
        int rc = cas_io_unlink(s->io, s->dirfd, path, &gone);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = gone;
                return rc;
        }
        *strrchr(path, '/') = '\0';
        return cas_io_sync_dir(s->io, s->dirfd, path, err);
}

/* Drops copies that may go, all or what can be; the others are forgotten: they are none. Records
 * are changed of blobs that are pinned, so that none is written again that was collected. */
static int drop_copies(struct cas_store *s, const struct cas_digest *digests, size_t count,
                       uint64_t *freed_bytes, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        bool drops[DROPS_AT_ONCE];
        uint64_t bytes = 0;
        int rc = 0;
        cas_assert(count <= DROPS_AT_ONCE);
        for (size_t i = 0; rc == 0 && i < count; i++) {
                struct cas_blob_record rec;
                cas_pin_blob(pins, &digests[i]);
                rc = may_drop(s, &digests[i], &rec, &drops[i], err);
                if (rc < 0 || !drops[i])
                        continue;
                rec.copy = CAS_BLOB_CONDENSED;
                bytes += rec.size_bytes;
                cas_batch_put_blob(batch, &digests[i], &rec);
        }
        if (rc == 0)
                rc = cas_index_write(s->index, batch, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&s->blobcache->mutex);
        for (size_t i = 0; i < count; i++)
                forget_locked(s->blobcache, &digests[i]);
        cas_mutex_unlock(&s->blobcache->mutex);
        for (size_t i = 0; rc == 0 && i < count; i++)
                rc = drops[i] ? remove_file(s, &digests[i], err) : 0;
        if (freed_bytes)
                *freed_bytes += bytes;
        return rc;
}

/* The copies that are to go, oldest first. */
static size_t choose(struct cas_blobcache *c, uint64_t budget_bytes,
                     struct cas_digest out[DROPS_AT_ONCE])
{
        size_t count = 0;
        cas_mutex_lock(&c->mutex);
        uint64_t left = c->bytes;
        for (struct copy *copy = c->oldest; copy && left > budget_bytes && count < DROPS_AT_ONCE;
             copy = copy->newer) {
                out[count++] = copy->digest;
                left -= copy->bytes;
        }
        cas_mutex_unlock(&c->mutex);
        return count;
}

int cas_blob_cache_shrink(struct cas_store *s, uint64_t budget_bytes, uint64_t *freed_bytes,
                          struct cas_err *err)
{
        struct cas_digest digests[DROPS_AT_ONCE];
        size_t count = 1;
        int rc = 0;
        if (freed_bytes)
                *freed_bytes = 0;
        while (rc == 0 && count > 0) {
                cas_blob_files_lock(s, true);
                rc = load(s, err);
                count = rc == 0 ? choose(s->blobcache, budget_bytes, digests) : 0;
                if (count > 0)
                        rc = drop_copies(s, digests, count, freed_bytes, err);
                cas_blob_files_unlock(s);
        }
        return rc;
}

int cas_blob_cache_drop(struct cas_store *s, const struct cas_digest *digest, struct cas_err *err)
{
        cas_blob_files_lock(s, true);
        int rc = drop_copies(s, digest, 1, NULL, err);
        cas_blob_files_unlock(s);
        return rc;
}

/* ---- a copy again ---- */

/* The file, synced, gets its name, and the record says so. */
static int name_copy(struct cas_store *s, const char *from, const struct cas_digest *digest,
                     struct cas_blob_record *rec, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(digest, path);
        int rc = cas_io_rename(s->io, s->dirfd, from, s->dirfd, path, err);
        if (rc < 0)
                return rc;
        *strrchr(path, '/') = '\0';
        rc = cas_io_sync_dir(s->io, s->dirfd, path, err);
        if (rc < 0)
                return rc;
        rec->copy = CAS_BLOB_CACHED;
        cas_batch_put_blob(batch, digest, rec);
        rc = cas_index_write(s->index, batch, err);
        if (rc == 0)
                cas_blobcache_add(s->blobcache, digest, rec->size_bytes);
        return rc;
}

/* Whether a copy of `bytes` bytes is wanted now. */
static int is_wanted(struct cas_store *s, const struct cas_digest *digest, uint64_t bytes,
                     struct cas_blob_record *rec, bool *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_blob_record_get(s, digest, rec, &miss);
        *out = rc == 0 && rec->copy == CAS_BLOB_CONDENSED && rec->size_bytes == bytes;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int take_copy(struct cas_store *s, const char *from, const struct cas_digest *digest,
                     bool *kept, struct cas_err *err)
{
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        struct cas_blob_record rec;
        uint64_t bytes;
        cas_cleanup_fd int fd = -1;
        int rc = cas_io_size(s->io, s->dirfd, from, &bytes, err);
        if (rc < 0 || bytes > s->blob_cache_bytes)
                return rc;
        rc = cas_io_open(s->io, s->dirfd, from, O_RDONLY, 0, &fd, err);
        if (rc == 0)
                rc = cas_io_fsync(s->io, fd, from, err);
        if (rc < 0)
                return rc;
        cas_pin_blob(pins, digest); /* a collection may have taken it */
        cas_blob_files_lock(s, true);
        rc = is_wanted(s, digest, bytes, &rec, kept, err);
        if (rc == 0 && *kept)
                rc = name_copy(s, from, digest, &rec, err);
        cas_blob_files_unlock(s);
        return rc;
}

int cas_blob_cache_put(struct cas_store *s, const char *name, const struct cas_digest *digest,
                       bool *kept, struct cas_err *err)
{
        char from[CAS_TEMPORARY_PATH_BYTES];
        cas_assert(strlen(name) < sizeof(from) - sizeof(CAS_DIR_UPLOADS));
        (void)snprintf(from, sizeof(from), CAS_DIR_UPLOADS "/%s", name);
        *kept = false;
        int rc = take_copy(s, from, digest, kept, err);
        if (rc < 0 || !*kept) {
                (void)s->io->ops->unlinkat(s->io->ctx, s->dirfd, from, 0);
                return rc;
        }
        return cas_blob_cache_shrink(s, s->blob_cache_bytes, NULL, err);
}
