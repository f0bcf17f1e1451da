/* SPDX-License-Identifier: Apache-2.0 */
/* Home copies of packs: where the index says that they lie, and how whoever walks them gets at
 * them. One that is moved meanwhile is looked for again in its new place. */
#include <errno.h>
#include <fcntl.h>

#include "cas/packfile_int.h"
#include "cas/record_int.h"
#include "cas/removals_int.h"

/* A pack moves seldom; so often in a row never. */
#define LOOKUPS_MAX 4
/* Packs that are fetched whole at a time. */
#define FETCHES_MAX 2
#define TEMPORARY_MODE 0600

struct cas_pack_file cas_pack_file_of(uint64_t pack_id, const struct cas_pack_record *rec)
{
        return (struct cas_pack_file){
                .pack_id = pack_id, .size_bytes = rec->size_bytes, .sha256 = rec->sha256};
}

/* ---- where ---- */

int cas_packset_home(struct cas_packset *ps, uint64_t pack_id, struct cas_pack_home *out,
                     struct cas_err *err)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        struct cas_tier_info info;
        *out = (struct cas_pack_home){.dirfd = -1};
        int rc = cas_index_get_pack(ps->index, pack_id, &out->rec, err);
        if (rc == 0)
                rc = ops->tier_info(ps->backend, out->rec.tier, &info, err);
        if (rc < 0)
                return rc;
        if (!info.reachable)
                return cas_fail(err, CAS_E_IO, "tier %s cannot be reached", info.name);
        if (!info.remote)
                return ops->pack_dir(ps->backend, pack_id, out->rec.tier, &out->dirfd, err);
        if (!ops->remote_get)
                return cas_fail(err, CAS_E_UNSUPPORTED, "tier %s cannot be read", info.name);
        return 0;
}

bool cas_packset_is_reachable(struct cas_packset *ps, uint32_t tier)
{
        struct cas_tier_info info;
        struct cas_err ignored = CAS_ERR_INIT;
        return ps->backend->ops->tier_info(ps->backend, tier, &info, &ignored) == 0 &&
               info.reachable;
}

bool cas_packset_is_remote(struct cas_packset *ps, uint32_t tier)
{
        struct cas_tier_info info;
        struct cas_err ignored = CAS_ERR_INIT;
        return ps->backend->ops->tier_info(ps->backend, tier, &info, &ignored) == 0 && info.remote;
}

static int refuse_unreachable(void *arg CAS_UNUSED, const struct cas_tier_info *tier,
                              int dirfd CAS_UNUSED, struct cas_err *err)
{
        return tier->reachable ? 0
                               : cas_fail(err, CAS_E_IO, "tier %s cannot be reached", tier->name);
}

int cas_packset_reach_all(struct cas_packset *ps, struct cas_err *err)
{
        return ps->backend->ops->tier_each(ps->backend, refuse_unreachable, NULL, err);
}

/* After a file was not there: whether the pack has moved since. */
static bool has_moved(struct cas_packset *ps, uint64_t pack_id, const struct cas_pack_home *from)
{
        struct cas_pack_record now;
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_index_get_pack(ps->index, pack_id, &now, &ignored) == 0 &&
               now.tier != from->rec.tier;
}

/* ---- whole, from elsewhere ---- */

int cas_pack_temporary(const struct cas_io *io, struct cas_backend *backend, uint64_t id,
                       int *out_fd, struct cas_err *err)
{
        char name[CAS_PACK_MOVING_NAME_BYTES];
        struct cas_err why = CAS_ERR_INIT;
        int dirfd;
        int rc = backend->ops->pack_dir(backend, id, CAS_TIER_OWN, &dirfd, err);
        if (rc < 0)
                return rc;
        rc = cas_io_open(io, dirfd, ".", O_TMPFILE | O_RDWR, TEMPORARY_MODE, out_fd, &why);
        if (rc < 0 && (why.sys_errno == EOPNOTSUPP || why.sys_errno == EISDIR)) {
                rc = cas_io_open(io, dirfd, cas_pack_moving_name(id, name),
                                 O_RDWR | O_CREAT | O_EXCL, TEMPORARY_MODE, out_fd, err);
                if (rc == 0)
                        (void)io->ops->unlinkat(io->ctx, dirfd, name, 0);
                return rc;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

static void fetch_begin(struct cas_packset *ps)
{
        cas_mutex_lock(&ps->mutex);
        while (ps->fetches == FETCHES_MAX)
                cas_mutex_wait(&ps->mutex, &ps->fetch_ended);
        ps->fetches++;
        cas_mutex_unlock(&ps->mutex);
}

static void fetch_end(struct cas_packset *ps)
{
        cas_mutex_lock(&ps->mutex);
        ps->fetches--;
        (void)pthread_cond_signal(&ps->fetch_ended);
        cas_mutex_unlock(&ps->mutex);
}

int cas_packset_fetch(struct cas_packset *ps, uint32_t tier, const struct cas_pack_file *pack,
                      bool damaged_too, int *out_fd, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        cas_cleanup_fd int fd = -1;
        fetch_begin(ps);
        int rc = cas_pack_temporary(ps->io, ps->backend, cas_packset_new_id(ps), &fd, err);
        if (rc == 0)
                rc = ps->backend->ops->remote_get(ps->backend, tier, pack, fd, &why);
        fetch_end(ps);
        if (rc == -CAS_E_CORRUPT && damaged_too)
                rc = 0;
        else if (rc < 0 && why.code != CAS_OK)
                *err = why;
        if (rc == 0)
                *out_fd = cas_steal_fd(&fd);
        return rc;
}

/* ---- for reading ---- */

/* As a directory's copy is opened whatever its bytes are, so one that is remote. */
static int open_home(struct cas_packset *ps, uint64_t pack_id, const struct cas_pack_home *home,
                     int flags, int *out_fd, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        if (home->dirfd >= 0)
                return cas_io_open(ps->io, home->dirfd, cas_pack_name(pack_id, name),
                                   O_RDONLY | flags, 0, out_fd, err);
        const struct cas_pack_file file = cas_pack_file_of(pack_id, &home->rec);
        return cas_packset_fetch(ps, home->rec.tier, &file, true, out_fd, err);
}

static int open_as(struct cas_packset *ps, uint64_t pack_id, int flags, bool fetches, int *out_fd,
                   struct cas_pack_home *home, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        struct cas_err why = CAS_ERR_INIT;
        int rc = 0;
        *out_fd = -1;
        for (unsigned i = 0; i < LOOKUPS_MAX; i++) {
                rc = cas_packset_home(ps, pack_id, home, &why);
                if (rc < 0)
                        break;
                if (home->dirfd < 0 && !fetches)
                        return 0;
                rc = open_home(ps, pack_id, home, flags, out_fd, &why);
                if (rc != -CAS_E_NOTFOUND || !has_moved(ps, pack_id, home))
                        break;
        }
        if (rc == 0)
                return 0;
        *err = why;
        return cas_err_wrap(err, "pack %s", cas_pack_name(pack_id, name));
}

int cas_packset_open_pack(struct cas_packset *ps, uint64_t pack_id, int *out_fd,
                          struct cas_err *err)
{
        struct cas_pack_home home;
        return open_as(ps, pack_id, 0, true, out_fd, &home, err);
}

int cas_packset_open_flags(struct cas_packset *ps, uint64_t pack_id, int flags, int *out_fd,
                           bool *fetched, struct cas_err *err)
{
        struct cas_pack_home home;
        int rc = open_as(ps, pack_id, flags, true, out_fd, &home, err);
        *fetched = rc == 0 && home.dirfd < 0;
        return rc;
}

int cas_packset_open_home(struct cas_packset *ps, uint64_t pack_id, int *out_fd,
                          struct cas_pack_record *out_rec, struct cas_err *err)
{
        struct cas_pack_home home;
        int rc = open_as(ps, pack_id, 0, false, out_fd, &home, err);
        *out_rec = home.rec;
        return rc;
}

/* ---- removing ---- */

static int unlink_file(struct cas_packset *ps, uint64_t pack_id, uint32_t tier, int dirfd,
                       struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        struct stat st;
        (void)cas_pack_name(pack_id, name);
        bool there = ps->io->ops->fstatat(ps->io->ctx, dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
        int rc = cas_io_unlink(ps->io, dirfd, name, err);
        if (rc < 0)
                return rc;
        if (there)
                cas_packset_room_give(ps, tier, (uint64_t)st.st_size);
        return cas_io_sync_dir(ps->io, dirfd, ".", err);
}

static int remove_copy(struct cas_packset *ps, uint64_t pack_id, const struct cas_pack_record *rec,
                       struct cas_err *err)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        struct cas_tier_info info;
        int dirfd;
        int rc = ops->tier_info(ps->backend, rec->tier, &info, err);
        if (rc < 0)
                return rc;
        if (info.remote) {
                const struct cas_pack_file file = cas_pack_file_of(pack_id, rec);
                return ops->remote_delete(ps->backend, rec->tier, &file, err);
        }
        rc = ops->pack_dir(ps->backend, pack_id, rec->tier, &dirfd, err);
        return rc < 0 ? rc : unlink_file(ps, pack_id, rec->tier, dirfd, err);
}

int cas_packset_unlink_copy(struct cas_packset *ps, uint64_t pack_id,
                            const struct cas_pack_record *rec, struct cas_err *err)
{
        cas_removal_begin(ps->removals);
        int rc = remove_copy(ps, pack_id, rec, err);
        cas_removal_end(ps->removals);
        return rc;
}

int cas_packset_unlink(struct cas_packset *ps, uint64_t pack_id, const struct cas_pack_record *rec,
                       struct cas_err *err)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        cas_packset_fd_drop(ps, pack_id);
        if (ops->pack_gone)
                ops->pack_gone(ps->backend, pack_id);
        return cas_packset_unlink_copy(ps, pack_id, rec, err);
}
