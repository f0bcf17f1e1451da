/* SPDX-License-Identifier: Apache-2.0 */
/* The set of packs: handing them to writers, and to who has one alone. */
#include <time.h>

#include "cas/packfile_int.h"
#include "cas/record_int.h"

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

/* The link to the idle pack of that id (0: to the first), or NULL. */
static struct cas_packfile **find_idle_locked(struct cas_packset *ps, uint64_t pack_id)
{
        cas_assert_held(&ps->mutex);
        for (struct cas_packfile **link = &ps->idle; *link; link = &(*link)->next_idle) {
                if (pack_id == 0 || (*link)->id == pack_id)
                        return link;
        }
        return NULL;
}

struct cas_packfile *cas_packset_take_id(struct cas_packset *ps, uint64_t pack_id)
{
        cas_mutex_lock(&ps->mutex);
        struct cas_packfile **link = find_idle_locked(ps, pack_id);
        struct cas_packfile *found = link ? unlink_idle_locked(ps, link) : NULL;
        cas_mutex_unlock(&ps->mutex);
        return found;
}

/* One that is written as it is wanted, on that tier. */
static struct cas_packfile *take_like(struct cas_packset *ps, uint32_t tier,
                                      enum cas_pack_density density)
{
        cas_mutex_lock(&ps->mutex);
        struct cas_packfile **link = &ps->idle;
        while (*link && ((*link)->tier != tier || (*link)->density != density))
                link = &(*link)->next_idle;
        struct cas_packfile *found = *link ? unlink_idle_locked(ps, link) : NULL;
        cas_mutex_unlock(&ps->mutex);
        return found;
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
        *link = find_idle_locked(ps, pack_id);
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

static int new_place(struct cas_packset *ps, uint32_t tier, struct cas_pack_place *out,
                     struct cas_err *err)
{
        *out = (struct cas_pack_place){.pack_id = cas_packset_new_id(ps)};
        return ps->backend->ops->pack_place(ps->backend, out->pack_id, tier, &out->dirfd,
                                            &out->tier, err);
}

int cas_packset_take_new(struct cas_packset *ps, uint32_t tier, enum cas_pack_density density,
                         struct cas_packfile **out, struct cas_err *err)
{
        struct cas_pack_place place;
        int rc = new_place(ps, tier, &place, err);
        return rc < 0 ? rc : cas_packfile_create(ps, &place, density, out, err);
}

int cas_packset_take(struct cas_packset *ps, uint32_t tier, enum cas_pack_density density,
                     struct cas_packfile **out, struct cas_err *err)
{
        /* The tier is chosen anew each time, so that what is written follows the room that is left:
         * an idle pack of another tier stays where it is until its turn comes. */
        struct cas_pack_place place;
        int rc = new_place(ps, tier, &place, err);
        if (rc < 0)
                return rc;
        for (;;) {
                struct cas_packfile *pf = take_like(ps, place.tier, density);
                if (!pf)
                        return cas_packfile_create(ps, &place, density, out, err);
                struct cas_err reason = CAS_ERR_INIT;
                if (!atomic_load(&pf->failed) && cas_packfile_reopen(ps, pf, &reason) == 0) {
                        *out = pf;
                        return 0;
                }
                /* Not one to write to: what is in it can still be read. */
                cas_packfile_unref(ps, pf);
        }
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
        cas_cond_init(&ps->fetch_ended);
        int rc = cas_packset_recover(ps, err);
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
        (void)pthread_cond_destroy(&ps->fetch_ended);
        cas_mutex_release(&ps->mutex);
        cas_mutex_release(&ps->replacing);
        free(ps);
}

int cas_packset_seal_one(struct cas_packset *ps, struct cas_packfile *pf, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
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
        return cas_index_write(ps->index, batch, err);
}

int cas_packset_seal(struct cas_packset *ps, struct cas_err *err)
{
        for (struct cas_packfile *pf; (pf = cas_packset_take_id(ps, 0));) {
                int rc = cas_packset_seal_one(ps, pf, err);
                cas_packset_give(ps, pf);
                if (rc < 0)
                        return rc;
        }
        return 0;
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
