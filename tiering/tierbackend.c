/* SPDX-License-Identifier: Apache-2.0 */
/* A set of tiers as the store's backend (cas/backend.h). */
#include <stdio.h>
#include <time.h>

#include "cas/log.h"
#include "tiering/tierset_int.h"

static struct tier_set *set_of(struct cas_backend *b)
{
        return (struct tier_set *)b;
}

/* ---- places of packs ---- */

static int op_pack_place(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t want,
                         int *out_dirfd, uint32_t *out_tier, struct cas_err *err)
{
        return tier_place(set_of(b), want, out_dirfd, out_tier, err);
}

static int op_pack_grow(struct cas_backend *b, uint32_t tier, uint64_t bytes, struct cas_err *err)
{
        return tier_room_take(set_of(b), tier, bytes, true, err);
}

static void op_pack_shrunk(struct cas_backend *b, uint32_t tier, uint64_t bytes)
{
        tier_room_give(set_of(b), tier, bytes, true);
}

static int op_own_grow(struct cas_backend *b, uint64_t bytes, struct cas_err *err)
{
        return tier_room_take(set_of(b), CAS_TIER_OWN, bytes, false, err);
}

static int op_pack_dir(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t tier,
                       int *out_dirfd, struct cas_err *err)
{
        struct tier_set *set = set_of(b);
        int rc = 0;
        cas_mutex_lock(&set->mutex);
        const struct tier *t = tier_by_id_locked(set, tier);
        if (!t)
                rc = cas_fail(err, CAS_E_UNSUPPORTED,
                              "no tier %u is configured: it was removed, or the list of tiers is "
                              "another store's",
                              tier);
        else if (!tier_is_local(t))
                rc = cas_fail(err, CAS_E_UNSUPPORTED, "tier %s is in a bucket", t->name);
        else if (!tier_is_reachable_locked(t))
                rc = cas_fail(err, CAS_E_IO, "tier %s cannot be used: %.300s", t->name, t->why);
        else
                *out_dirfd = t->dir.packs_fd;
        cas_mutex_unlock(&set->mutex);
        return rc;
}

static void info_fill_locked(const struct tier_set *set, const struct tier *t,
                             struct cas_tier_info *out)
{
        bool reachable = tier_is_reachable_locked(t);
        *out = (struct cas_tier_info){.tier = t->id,
                                      .name = t->name,
                                      .remote = !tier_is_local(t),
                                      .reachable = reachable,
                                      .writable = reachable && !t->config.leaving,
                                      .counts_reads = atomic_load(&set->counts),
                                      .density = t->config.density};
}

static int op_tier_info(struct cas_backend *b, uint32_t tier, struct cas_tier_info *out,
                        struct cas_err *err)
{
        struct tier_set *set = set_of(b);
        cas_mutex_lock(&set->mutex);
        const struct tier *t = tier_by_id_locked(set, tier);
        if (t)
                info_fill_locked(set, t, out);
        cas_mutex_unlock(&set->mutex);
        return t ? 0 : cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u is configured", tier);
}

static int op_tier_each(struct cas_backend *b,
                        int (*fn)(void *arg, const struct cas_tier_info *tier, int dirfd,
                                  struct cas_err *err),
                        void *arg, struct cas_err *err)
{
        struct tier_set *set = set_of(b);
        int rc = 0;
        for (size_t i = 0; rc == 0; i++) {
                struct cas_tier_info info;
                int dirfd = -1;
                cas_mutex_lock(&set->mutex);
                bool end = i >= set->count, gone = end || set->tiers[i]->gone;
                if (!gone) {
                        info_fill_locked(set, set->tiers[i], &info);
                        if (info.reachable && !info.remote)
                                dirfd = set->tiers[i]->dir.packs_fd;
                }
                cas_mutex_unlock(&set->mutex);
                if (end)
                        return 0;
                if (!gone)
                        rc = fn(arg, &info, dirfd, err);
        }
        return rc;
}

/* ---- buckets ---- */

static int op_remote_put(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                         int fd, struct cas_err *err)
{
        return tier_remote_put(set_of(b), tier, pack, fd, err);
}

static int op_remote_get(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                         int fd, struct cas_err *err)
{
        return tier_remote_get(set_of(b), tier, pack, fd, err);
}

static int op_remote_delete(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                            struct cas_err *err)
{
        return tier_remote_delete(set_of(b), tier, pack, err);
}

static int op_remote_each(struct cas_backend *b, uint32_t tier,
                          int (*fn)(void *arg, const struct cas_pack_file *pack,
                                    struct cas_err *err),
                          void *arg, struct cas_err *err)
{
        return tier_remote_each(set_of(b), tier, fn, arg, err);
}

/* ---- blocks ---- */

/* Of which cache a place is. */
struct place {
        struct tier_blocks *blocks;
        void *token;
};

/* The cache that a pack of that tier is read through, or NULL: it is read where it lies. */
static struct tier_blocks *blocks_for(struct tier_set *set, uint32_t tier, bool remote)
{
        if (!atomic_load(&set->counts))
                return NULL;
        cas_mutex_lock(&set->mutex);
        struct tier_blocks *blocks = set->blocks;
        const struct tier *t = tier_by_id_locked(set, tier), *cache = set->cache_tier;
        /* A cache that is no faster than the home copy would only wear the device. */
        if (!remote && (!cache || !t || t->config.class <= cache->config.class))
                blocks = NULL;
        cas_mutex_unlock(&set->mutex);
        return blocks;
}

/* Counts a read and heats the pack; gives whether it is in a bucket. */
static bool note_read(struct tier_set *set, uint32_t tier, uint64_t pack_id, uint32_t bytes)
{
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, tier);
        bool remote = t && !tier_is_local(t);
        if (t)
                t->read_bytes += bytes;
        cas_mutex_unlock(&set->mutex);
        tier_heat_touch(set->heat, pack_id, (uint64_t)time(NULL));
        return remote;
}

static int op_block_open(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                         int home_fd, uint64_t offset, uint32_t bytes, struct cas_block_place *out,
                         struct cas_err *err)
{
        struct tier_blocks *blocks = blocks_for(set_of(b), tier, home_fd < 0);
        if (atomic_load(&set_of(b)->counts))
                (void)note_read(set_of(b), tier, pack->pack_id, bytes);
        if (!blocks && home_fd < 0)
                return cas_fail(err, CAS_E_IO, "no tier %u in a bucket", tier);
        if (!blocks) {
                *out = (struct cas_block_place){.fd = home_fd};
                return 0;
        }
        int rc = tier_blocks_block_open(blocks, tier, pack, home_fd, offset, bytes, out, err);
        if (rc < 0)
                return rc;
        struct place *place = cas_xmalloc(sizeof(*place));
        *place = (struct place){.blocks = blocks, .token = out->token};
        out->token = place;
        return 0;
}

static void op_block_close(struct cas_backend *b CAS_UNUSED, struct cas_block_place *at, bool bad)
{
        if (!at->token)
                return;
        cas_cleanup_free struct place *place = at->token;
        at->token = place->token;
        tier_blocks_block_close(place->blocks, at, bad);
}

static int op_cache_open(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                         int *out_fd, struct cas_err *err)
{
        struct tier_set *set = set_of(b);
        cas_mutex_lock(&set->mutex);
        const struct tier *t = tier_by_id_locked(set, tier);
        bool remote = t && !tier_is_local(t);
        cas_mutex_unlock(&set->mutex);
        struct tier_blocks *blocks = blocks_for(set, tier, remote);
        *out_fd = -1;
        return blocks ? tier_blocks_cache_open(blocks, pack, out_fd, err) : 0;
}

static int op_blocks_bring(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                           int home_fd, const struct cas_block_range *ranges, size_t count,
                           bool (*stop)(void *arg), void *stop_arg, struct cas_err *err)
{
        struct tier_blocks *blocks = blocks_for(set_of(b), tier, home_fd < 0);
        return blocks ? tier_blocks_bring(blocks, tier, pack, home_fd, ranges, count, stop,
                                          stop_arg, err)
                      : 0;
}

static void op_touched(struct cas_backend *b, uint32_t tier, uint64_t pack_id, uint64_t offset,
                       uint32_t bytes)
{
        struct tier_set *set = set_of(b);
        if (!atomic_load(&set->counts))
                return;
        bool remote = note_read(set, tier, pack_id, bytes);
        struct tier_blocks *blocks = blocks_for(set, tier, remote);
        if (blocks)
                tier_blocks_touched(blocks, tier, remote, pack_id, offset, bytes);
}

static void op_pack_gone(struct cas_backend *b, uint64_t pack_id)
{
        struct tier_set *set = set_of(b);
        if (!atomic_load(&set->counts))
                return;
        tier_heat_forget(set->heat, pack_id);
        cas_mutex_lock(&set->mutex);
        struct tier_blocks *blocks = set->blocks;
        cas_mutex_unlock(&set->mutex);
        if (blocks)
                tier_blocks_pack_gone(blocks, pack_id);
}

static void op_close(struct cas_backend *b)
{
        struct tier_set *set = set_of(b);
        struct cas_err err = CAS_ERR_INIT;
        if (atomic_load(&set->counts) && tier_heat_save(set->heat, set->store_dirfd, &err) < 0)
                cas_log(CAS_LOG_WARN, "tiers", "heat=unsaved message=\"%s\"", err.msg);
        tier_set_free(set);
}

const struct cas_backend_ops tier_set_ops = {
        .pack_place = op_pack_place,
        .pack_grow = op_pack_grow,
        .pack_shrunk = op_pack_shrunk,
        .own_grow = op_own_grow,
        .pack_dir = op_pack_dir,
        .tier_info = op_tier_info,
        .tier_each = op_tier_each,
        .remote_put = op_remote_put,
        .remote_get = op_remote_get,
        .remote_delete = op_remote_delete,
        .remote_each = op_remote_each,
        .block_open = op_block_open,
        .block_close = op_block_close,
        .cache_open = op_cache_open,
        .blocks_bring = op_blocks_bring,
        .touched = op_touched,
        .pack_gone = op_pack_gone,
        .close = op_close,
};
