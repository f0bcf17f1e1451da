/* SPDX-License-Identifier: Apache-2.0 */
/* The set of packs: recovery at open, handing packs to writers and readers. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "cas/packfile_int.h"
#include "cas/record_int.h"
#include "cas/removals_int.h"

/* Idle packs beyond this many have no descriptor. */
#define IDLE_OPEN_MAX 16

/* ---- handing out ---- */

uint64_t cas_packset_new_id(struct cas_packset *ps)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        uint64_t now_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
        cas_mutex_lock(&ps->mutex);
        uint64_t id = cas_max_u64(ps->next_id, now_us);
        ps->next_id = id + 1;
        cas_mutex_unlock(&ps->mutex);
        return id;
}

static void idle_push_locked(struct cas_packset *ps, struct cas_packfile *pf)
{
        cas_assert_held(&ps->mutex);
        /* A pack that others depend on keeps its descriptor: they may have to sync it. */
        if (ps->idle_count >= IDLE_OPEN_MAX && pf->ref_count == 1 && pf->fd >= 0) {
                (void)ps->io->ops->close(ps->io->ctx, pf->fd);
                pf->fd = -1;
        }
        pf->next_idle = ps->idle;
        ps->idle = pf;
        ps->idle_count++;
}

void cas_packset_give_locked(struct cas_packset *ps, struct cas_packfile *pf)
{
        cas_assert_held(&ps->mutex);
        if (pf->sealed || atomic_load(&pf->failed))
                cas_packfile_unref_locked(ps, pf);
        else
                idle_push_locked(ps, pf);
}

void cas_packset_give(struct cas_packset *ps, struct cas_packfile *pf)
{
        cas_mutex_lock(&ps->mutex);
        cas_packset_give_locked(ps, pf);
        cas_mutex_unlock(&ps->mutex);
}

static struct cas_packfile *unlink_idle_locked(struct cas_packset *ps, struct cas_packfile **link)
{
        struct cas_packfile *found = *link;
        cas_assert_held(&ps->mutex);
        *link = found->next_idle;
        found->next_idle = NULL;
        ps->idle_count--;
        return found;
}

/* The link to the first idle pack of that id (0: any), or of that density (-1: any), or NULL. */
static struct cas_packfile **find_idle_locked(struct cas_packset *ps, uint64_t pack_id, int density)
{
        cas_assert_held(&ps->mutex);
        for (struct cas_packfile **link = &ps->idle; *link; link = &(*link)->next_idle) {
                if ((pack_id == 0 || (*link)->id == pack_id) &&
                    (density < 0 || (int)(*link)->density == density))
                        return link;
        }
        return NULL;
}

static struct cas_packfile *take_idle(struct cas_packset *ps, uint64_t pack_id, int density)
{
        cas_mutex_lock(&ps->mutex);
        struct cas_packfile **link = find_idle_locked(ps, pack_id, density);
        struct cas_packfile *found = link ? unlink_idle_locked(ps, link) : NULL;
        cas_mutex_unlock(&ps->mutex);
        return found;
}

struct cas_packfile *cas_packset_take_id(struct cas_packset *ps, uint64_t pack_id)
{
        return take_idle(ps, pack_id, -1);
}

/* Whether nobody has the pack in hand. *link: to it in the idle list, or NULL. */
static bool find_quiet_locked(struct cas_packset *ps, uint64_t pack_id, struct cas_packfile ***link)
{
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        *link = NULL;
        if (cas_map_get(ps->claimed, key.bytes, key.len))
                return false;
        if (!cas_map_get(ps->live, key.bytes, key.len))
                return true;
        *link = find_idle_locked(ps, pack_id, -1);
        return *link && (**link)->ref_count == 1;
}

bool cas_packset_is_quiet(struct cas_packset *ps, uint64_t pack_id)
{
        struct cas_packfile **link;
        cas_mutex_lock(&ps->mutex);
        bool quiet = find_quiet_locked(ps, pack_id, &link);
        cas_mutex_unlock(&ps->mutex);
        return quiet;
}

bool cas_packset_claim(struct cas_packset *ps, uint64_t pack_id, struct cas_pack_claim *out)
{
        struct cas_record_key key;
        struct cas_packfile **link;
        cas_key_pack(pack_id, &key);
        *out = (struct cas_pack_claim){.pack_id = pack_id};
        cas_mutex_lock(&ps->mutex);
        bool quiet = find_quiet_locked(ps, pack_id, &link);
        if (quiet && link)
                out->idle = unlink_idle_locked(ps, link);
        if (quiet)
                (void)cas_map_put(ps->claimed, key.bytes, key.len, NULL);
        cas_mutex_unlock(&ps->mutex);
        return quiet;
}

bool cas_packset_is_open(struct cas_packset *ps, uint64_t pack_id)
{
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        cas_mutex_lock(&ps->mutex);
        bool open = cas_map_get(ps->live, key.bytes, key.len) ||
                    cas_map_get(ps->claimed, key.bytes, key.len);
        cas_mutex_unlock(&ps->mutex);
        return open;
}

void cas_packset_unclaim(struct cas_packset *ps, const struct cas_pack_claim *claim, bool gone)
{
        struct cas_record_key key;
        cas_key_pack(claim->pack_id, &key);
        cas_mutex_lock(&ps->mutex);
        (void)cas_map_remove(ps->claimed, key.bytes, key.len);
        if (claim->idle && gone)
                cas_packfile_unref_locked(ps, claim->idle);
        else if (claim->idle)
                cas_packset_give_locked(ps, claim->idle);
        cas_mutex_unlock(&ps->mutex);
}

int cas_packset_take(struct cas_packset *ps, enum cas_pack_density density,
                     struct cas_packfile **out, struct cas_err *err)
{
        for (;;) {
                struct cas_packfile *pf = take_idle(ps, 0, (int)density);
                if (!pf)
                        return cas_packfile_create(ps, density, out, err);
                struct cas_err reason = CAS_ERR_INIT;
                if (!atomic_load(&pf->failed) && cas_packfile_reopen(ps, pf, &reason) == 0) {
                        *out = pf;
                        return 0;
                }
                /* Not one to write to: what is in it can still be read. */
                cas_packfile_unref(ps, pf);
        }
}

int cas_packset_pack_path(struct cas_packset *ps, uint64_t pack_id, int *out_dirfd, char *name,
                          struct cas_err *err)
{
        struct cas_pack_record rec;
        (void)cas_pack_name(pack_id, name);
        int rc = cas_index_get_pack(ps->index, pack_id, &rec, err);
        return rc < 0 ? rc
                      : ps->backend->ops->pack_dir(ps->backend, pack_id, rec.tier, out_dirfd, err);
}

int cas_packset_open_pack(struct cas_packset *ps, uint64_t pack_id, int *out_fd,
                          struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        int dirfd;
        int rc = cas_packset_pack_path(ps, pack_id, &dirfd, name, err);
        if (rc == 0)
                rc = cas_io_open(ps->io, dirfd, name, O_RDONLY, 0, out_fd, err);
        return rc < 0 ? cas_err_wrap(err, "pack %s", name) : 0;
}

/* ---- recovery ---- */

struct found_pack {
        uint64_t id;
        uint32_t tier;
        int dirfd;
        bool in_index, in_directory;
        struct cas_pack_record rec;
};

struct recovery {
        struct cas_packset *ps;
        struct found_pack *list; /* sorted by id once complete */
        size_t count, max;
        struct cas_batch *batch;
        bool changed; /* something is in the batch */
};

static void recovery_release(struct recovery *r)
{
        free(r->list);
        cas_batch_free(r->batch);
}

static void add_found(struct recovery *r, const struct found_pack *found)
{
        if (r->count == r->max) {
                r->max = r->max ? r->max * 2 : 256;
                r->list = cas_xrealloc(r->list, r->max * sizeof(r->list[0]));
        }
        r->list[r->count++] = *found;
}

static bool add_indexed(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        add_found(arg, &(struct found_pack){
                               .id = pack_id, .tier = rec->tier, .in_index = true, .rec = *rec});
        return true;
}

static void closedir_(DIR **dir)
{
        if (*dir)
                (void)closedir(*dir);
}

static int add_directory(void *arg, const struct cas_tier_info *info, int dirfd,
                         struct cas_err *err)
{
        uint32_t tier = info->tier;
        if (dirfd < 0)
                return 0;
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        __attribute__((cleanup(closedir_))) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir) {
                int sys_errno = errno;
                if (fd >= 0)
                        (void)close(fd);
                return cas_fail_sys(err, sys_errno, "list the packs of tier %u", tier);
        }
        for (;;) {
                uint64_t id;
                errno = 0;
                const struct dirent *e = readdir(dir);
                if (!e && errno != 0)
                        return cas_fail_sys(err, errno, "list the packs of tier %u", tier);
                if (!e)
                        return 0;
                if (strlen(e->d_name) == CAS_PACK_NAME_BYTES - 3 &&
                    cas_pack_name_parse(e->d_name, &id))
                        add_found(arg, &(struct found_pack){.id = id,
                                                            .tier = tier,
                                                            .dirfd = dirfd,
                                                            .in_directory = true});
        }
}

static int by_id(const void *a, const void *b)
{
        const struct found_pack *x = a, *y = b;
        if (x->id != y->id)
                return x->id < y->id ? -1 : 1;
        return (int)y->in_index - (int)x->in_index;
}

/* One element a pack: the index's word on its tier decides which file is meant. */
static void merge_found(struct recovery *r)
{
        size_t out = 0;
        if (r->count)
                qsort(r->list, r->count, sizeof(r->list[0]), by_id);
        for (size_t i = 0; i < r->count; i++) {
                struct found_pack *last = out ? &r->list[out - 1] : NULL;
                if (!last || last->id != r->list[i].id) {
                        r->list[out++] = r->list[i];
                } else if (last->in_index && last->tier == r->list[i].tier) {
                        last->in_directory = true;
                        last->dirfd = r->list[i].dirfd;
                }
        }
        r->count = out;
}

static int ignore_item(void *arg CAS_UNUSED, const struct cas_pack_item *item CAS_UNUSED,
                       struct cas_err *err CAS_UNUSED)
{
        return 0;
}

/* A whole pack whose footer was written, but the index was not told. */
static int adopt_sealed(struct recovery *r, const struct found_pack *found, int fd,
                        uint64_t size_bytes, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_digest digest;
        struct cas_pack_record rec = {
                .tier = found->tier,
                .sealed = true,
                .size_bytes = size_bytes,
                .density = found->rec.density,
        };
        int rc = cas_packfile_hash(r->ps->io, fd, size_bytes, cas_pack_name(found->id, name),
                                   hasher, err);
        if (rc == 0)
                rc = cas_io_fdatasync(r->ps->io, fd, name, err);
        if (rc < 0)
                return rc;
        cas_hasher_final(hasher, &digest);
        memcpy(rec.sha256.bytes, digest.bytes, CAS_HASH_BYTES);
        cas_batch_put_pack(r->batch, found->id, &rec);
        r->changed = true;
        return 0;
}

/* Tells the index how far the pack's records go. */
static int note_length(struct recovery *r, const struct found_pack *found, int fd, uint64_t end,
                       struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        struct cas_pack_record rec = {
                .tier = found->tier, .size_bytes = end, .density = found->rec.density};
        if (found->in_index && end == found->rec.size_bytes)
                return 0;
        int rc = cas_io_fdatasync(r->ps->io, fd, cas_pack_name(found->id, name), err);
        if (rc == 0)
                rc = cas_io_sync_dir(r->ps->io, found->dirfd, ".", err);
        if (rc < 0)
                return rc;
        cas_batch_put_pack(r->batch, found->id, &rec);
        r->changed = true;
        return 0;
}

/* Packs of older versions are read, but nothing new is put into them. */
static int read_version(struct recovery *r, const struct found_pack *found, int fd, uint32_t *out,
                        struct cas_err *err)
{
        uint8_t header[CAS_PACK_HEADER_BYTES];
        char name[CAS_PACK_NAME_BYTES];
        int rc = cas_io_pread_exact(r->ps->io, fd, header, sizeof(header), 0,
                                    cas_pack_name(found->id, name), err);
        return rc < 0 ? rc : cas_pack_header_decode(header, found->id, out, err);
}

/* A pack to go on with, or merely to be known: what is in it beyond what the index knows was
 * never acknowledged and is garbage for gc to find. A torn tail is cut. One with whole records
 * behind the damage has lost something in its middle: it stays as it is and nobody writes to it. */
static int adopt_unsealed(struct recovery *r, const struct found_pack *found, int fd,
                          uint64_t file_bytes, uint64_t end, struct cas_err *err)
{
        struct cas_packset *ps = r->ps;
        char name[CAS_PACK_NAME_BYTES];
        bool more = false;
        uint32_t version;
        (void)cas_pack_name(found->id, name);
        int rc = read_version(r, found, fd, &version, err);
        if (rc == 0 && end < file_bytes)
                rc = cas_pack_has_record(ps->io, fd, found->id, end + 1, &more, err);
        if (rc == 0 && end < file_bytes && !more)
                rc = cas_io_ftruncate(ps->io, fd, end, name, err);
        if (rc == 0)
                rc = note_length(r, found, fd, end, err);
        if (rc < 0 || more || version < CAS_PACK_VERSION)
                return rc;
        const struct cas_pack_record rec = {
                .tier = found->tier, .size_bytes = end, .density = found->rec.density};
        cas_packset_give(ps, cas_packfile_adopt(ps, found->id, &rec, found->dirfd));
        return 0;
}

/* A new pack whose header never reached the disk, and that the index does not know: nothing in it
 * was acknowledged. Without a record in it it is removed; else, the index may be the one that is
 * wrong, and it is put aside, where nobody takes it for a pack. */
static int clear_headless(struct recovery *r, const struct found_pack *found, int fd,
                          struct cas_err *err)
{
        const struct cas_io *io = r->ps->io;
        char name[CAS_PACK_NAME_BYTES];
        bool more;
        (void)cas_pack_name(found->id, name);
        int rc = cas_pack_has_record(io, fd, found->id, 0, &more, err);
        if (rc < 0)
                return rc;
        if (!more)
                return cas_io_unlink(io, found->dirfd, name, err);
        cas_cleanup_free char *aside = cas_xasprintf("%s.damaged", name);
        rc = cas_io_rename(io, found->dirfd, name, found->dirfd, aside, err);
        return rc < 0 ? rc : cas_io_sync_dir(io, found->dirfd, ".", err);
}

static int recover_file(struct recovery *r, const struct found_pack *found, int fd,
                        struct cas_err *err)
{
        struct cas_packset *ps = r->ps;
        char name[CAS_PACK_NAME_BYTES];
        uint64_t known = found->in_index ? found->rec.size_bytes : 0;
        uint64_t file_bytes, end;
        bool sealed;
        int rc =
                cas_io_size(ps->io, found->dirfd, cas_pack_name(found->id, name), &file_bytes, err);
        if (rc < 0)
                return rc;
        if (file_bytes < known)
                return 0;
        struct cas_err reason = CAS_ERR_INIT;
        rc = cas_pack_walk_from(ps->io, fd, found->id, known, ignore_item, NULL, &end, &sealed,
                                &reason);
        if (rc == -CAS_E_CORRUPT && !found->in_index && end == 0)
                return clear_headless(r, found, fd, err);
        if (rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED)
                return 0; /* nobody writes to it; fsck tells */
        if (rc < 0) {
                *err = reason;
                return rc;
        }
        if (sealed)
                return adopt_sealed(r, found, fd, file_bytes, err);
        return adopt_unsealed(r, found, fd, file_bytes, end, err);
}

static int recover_pack(struct recovery *r, const struct found_pack *found, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        int fd;
        if (!found->in_directory || (found->in_index && found->rec.sealed))
                return 0;
        int rc = cas_io_open(r->ps->io, found->dirfd, cas_pack_name(found->id, name), O_RDWR, 0,
                             &fd, err);
        if (rc < 0)
                return rc;
        rc = recover_file(r, found, fd, err);
        (void)r->ps->io->ops->close(r->ps->io->ctx, fd);
        return rc < 0 ? cas_err_wrap(err, "recover pack %s", name) : 0;
}

static int recover(struct cas_packset *ps, struct cas_err *err)
{
        __attribute__((cleanup(recovery_release))) struct recovery r = {.ps = ps,
                                                                        .batch = cas_batch_new()};
        int rc = cas_index_each_pack(ps->index, add_indexed, &r, err);
        if (rc == 0)
                rc = ps->backend->ops->tier_each(ps->backend, add_directory, &r, err);
        if (rc < 0)
                return rc;
        merge_found(&r);
        for (size_t i = 0; i < r.count; i++) {
                ps->next_id = cas_max_u64(ps->next_id, r.list[i].id + 1);
                rc = recover_pack(&r, &r.list[i], err);
                if (rc < 0)
                        return rc;
        }
        return r.changed ? cas_index_write(ps->index, r.batch, err) : 0;
}

int cas_packset_open(const struct cas_io *io, struct cas_backend *backend, struct cas_index *index,
                     struct cas_removals *removals, struct cas_packset **out, struct cas_err *err)
{
        struct cas_packset *ps = cas_xcalloc(1, sizeof(*ps));
        ps->io = io;
        ps->backend = backend;
        ps->index = index;
        ps->removals = removals;
        ps->fds = cas_packfds_new();
        ps->pending = cas_map_new();
        ps->live = cas_map_new();
        ps->claimed = cas_map_new();
        ps->dead = cas_map_new();
        ps->next_id = 1;
        cas_mutex_init(&ps->replacing, "packset.replacing");
        cas_mutex_init(&ps->mutex, "packset");
        int rc = recover(ps, err);
        if (rc < 0) {
                cas_packset_close(ps);
                return rc;
        }
        *out = ps;
        return 0;
}

void cas_packset_close(struct cas_packset *ps)
{
        if (!ps)
                return;
        cas_assert(cas_map_count(ps->pending) == 0);
        for (struct cas_packfile *pf; (pf = cas_packset_take_id(ps, 0));)
                cas_packfile_unref(ps, pf);
        cas_packfds_free(ps->fds);
        cas_map_free(ps->pending);
        cas_map_free(ps->live);
        cas_map_free(ps->claimed);
        cas_map_free(ps->dead);
        cas_mutex_release(&ps->mutex);
        cas_mutex_release(&ps->replacing);
        free(ps);
}

static int seal_one(struct cas_packset *ps, struct cas_packfile *pf, struct cas_batch *batch,
                    struct cas_err *err)
{
        struct cas_pack_record rec;
        int rc = cas_packfile_reopen(ps, pf, err);
        if (rc == 0)
                rc = cas_packfile_seal(ps, pf, err);
        if (rc == 0)
                rc = cas_packfile_sync(ps, pf, pf->size_bytes, err);
        if (rc < 0)
                return rc;
        cas_packfile_record(ps, pf, &rec);
        cas_batch_put_pack(batch, pf->id, &rec);
        return 0;
}

int cas_packset_seal(struct cas_packset *ps, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        for (struct cas_packfile *pf; (pf = cas_packset_take_id(ps, 0));) {
                int rc = seal_one(ps, pf, batch, err);
                if (rc == 0)
                        rc = cas_index_write(ps->index, batch, err);
                cas_packset_give(ps, pf);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

int cas_packset_unlink(struct cas_packset *ps, uint64_t pack_id, uint32_t tier, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        int dirfd;
        cas_packset_fd_drop(ps, pack_id);
        cas_removal_begin(ps->removals);
        int rc = ps->backend->ops->pack_dir(ps->backend, pack_id, tier, &dirfd, err);
        if (rc == 0)
                rc = cas_io_unlink(ps->io, dirfd, cas_pack_name(pack_id, name), err);
        if (rc == 0)
                rc = cas_io_sync_dir(ps->io, dirfd, ".", err);
        cas_removal_end(ps->removals);
        return rc;
}

/* ---- dead bytes ---- */

uint64_t cas_chunk_stored_bytes(const struct cas_chunk_record *rec)
{
        return ((uint64_t)rec->block_stored_bytes + CAS_PACK_RECORD_BYTES) * rec->length_bytes /
                       cas_max_u64(rec->block_raw_bytes, 1) +
               CAS_PACK_CHUNK_BYTES;
}

void cas_packset_note_dead(struct cas_packset *ps, const struct cas_chunk_record *rec)
{
        struct cas_record_key key;
        cas_key_pack(rec->pack_id, &key);
        cas_mutex_lock(&ps->mutex);
        *cas_map_put(ps->dead, key.bytes, key.len, NULL) += cas_chunk_stored_bytes(rec);
        cas_mutex_unlock(&ps->mutex);
}

struct cas_map *cas_packset_take_dead(struct cas_packset *ps)
{
        struct cas_map *none = cas_map_new();
        cas_mutex_lock(&ps->mutex);
        struct cas_map *dead = ps->dead;
        ps->dead = none;
        cas_mutex_unlock(&ps->mutex);
        return dead;
}

int cas_packset_write(struct cas_packset *ps, struct cas_batch *batch, bool replaces,
                      struct cas_err *err)
{
        if (replaces)
                cas_mutex_lock(&ps->replacing);
        int rc = cas_index_write(ps->index, batch, err);
        if (replaces)
                cas_mutex_unlock(&ps->replacing);
        return rc;
}
