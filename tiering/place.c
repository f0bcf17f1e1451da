/* SPDX-License-Identifier: Apache-2.0 */
/* Room on tiers, and where new packs go (spec/tiering.md). */
#include <inttypes.h>
#include <sys/statvfs.h>
#include <time.h>

#include "cas/limits.h"
#include "tiering/tierset_int.h"

/* A new piece of a pack goes to a tier with so much room, or an eighth of the capacity. */
#define PLACE_BYTES (32 * CAS_MIB)
/* … which is no less than the longest record. */
#define RECORD_BYTES (CAS_BLOCK_BYTES_MAX + CAS_MIB)
/* Left free of a file system: a hundredth, between these. */
#define RESERVE_BYTES_MIN (16 * CAS_MIB)
#define RESERVE_BYTES_MAX CAS_GIB
#define FREE_LOOK_NS UINT64_C(1000000000) /* what statvfs said is believed for so long */
#define WAIT_SLICE_MS 200

static uint64_t less(uint64_t a, uint64_t b)
{
        return a > b ? a - b : 0;
}

static uint64_t used_locked(const struct tier *t)
{
        return t->home_bytes + t->other_bytes + t->cached_bytes;
}

/* ---- how much room there is ---- */

static void free_look_locked(struct tier *t)
{
        struct statvfs fs;
        uint64_t now = tier_now_ns();
        if (t->free_looked_ns && now - t->free_looked_ns < FREE_LOOK_NS)
                return;
        t->free_looked_ns = now;
        if (t->dir.packs_fd < 0 || fstatvfs(t->dir.packs_fd, &fs) != 0) {
                t->free_bytes = 0;
                return;
        }
        uint64_t block = fs.f_frsize ? fs.f_frsize : fs.f_bsize;
        uint64_t reserve = cas_min_u64(cas_max_u64(fs.f_blocks * block / 100, RESERVE_BYTES_MIN),
                                       RESERVE_BYTES_MAX);
        t->free_bytes = less(fs.f_bavail * block, reserve);
}

uint64_t tier_room_locked(struct tier *t)
{
        uint64_t capacity = t->config.capacity_bytes;
        uint64_t room = capacity ? less(capacity, used_locked(t)) : UINT64_MAX;
        if (!tier_is_local(t))
                return room;
        free_look_locked(t);
        return cas_min_u64(room, t->free_bytes);
}

uint64_t tier_cache_share_locked(const struct tier *t)
{
        uint64_t capacity = t->config.capacity_bytes;
        if (!capacity)
                return t->config.cache_bytes;
        return cas_min_u64(t->config.cache_bytes, less(capacity, t->home_bytes + t->other_bytes));
}

static void take_locked(struct tier *t, uint64_t bytes)
{
        t->free_bytes = less(t->free_bytes, bytes);
}

bool tier_cache_room_take(void *arg, uint64_t bytes)
{
        struct tier_set *set = arg;
        cas_mutex_lock(&set->mutex);
        struct tier *t = set->cache_tier;
        bool room = t && bytes <= tier_room_locked(t);
        if (room) {
                t->cached_bytes += bytes;
                take_locked(t, bytes);
        }
        cas_mutex_unlock(&set->mutex);
        return room;
}

void tier_cache_room_give(void *arg, uint64_t bytes)
{
        struct tier_set *set = arg;
        cas_mutex_lock(&set->mutex);
        struct tier *t = set->cache_tier;
        if (t) {
                t->cached_bytes = less(t->cached_bytes, bytes);
                t->free_bytes += bytes;
        }
        (void)pthread_cond_broadcast(&set->room);
        cas_mutex_unlock(&set->mutex);
}

/* ---- waiting for room ---- */

static int no_room_locked(struct tier *t, uint64_t bytes, struct cas_err *err)
{
        const struct tier_config *c = &t->config;
        char needs[64];
        t->refused++;
        (void)snprintf(needs, sizeof(needs), "%" PRIu64, bytes);
        if (!c->capacity_bytes || less(c->capacity_bytes, used_locked(t)) >= bytes)
                return cas_fail(err, CAS_E_NOSPACE,
                                "tier %s: the file system of %s is full, but for what is kept "
                                "free (%s bytes were wanted): free some of it, or add a tier that "
                                "is slower (`lamina tier add`)",
                                t->name, c->where ? c->where : "the store", needs);
        return cas_fail(err, CAS_E_NOSPACE,
                        "tier %s is full: %" PRIu64 " of its capacity of %" PRIu64
                        " bytes are taken (%s were wanted). Raise it (`lamina tier set %s "
                        "--capacity`), add a slower tier (`lamina tier add`), or remove images and "
                        "run `lamina gc`",
                        t->name, used_locked(t), c->capacity_bytes, needs, t->name);
}

/* Makes the cache on that tier so much smaller; nothing is locked meanwhile. False: it has nothing
 * to give. */
static bool cache_shrink_locked(struct tier_set *set, struct tier *t, uint64_t bytes)
{
        if (t != set->cache_tier || t->cached_bytes == 0 || !set->blocks)
                return false;
        uint64_t before = t->cached_bytes;
        uint64_t wanted = less(before, cas_max_u64(bytes, PLACE_BYTES));
        struct tier_blocks *blocks = set->blocks;
        set->cache_capacity = wanted;
        cas_mutex_unlock(&set->mutex);
        tier_blocks_resize(blocks, wanted);
        cas_mutex_lock(&set->mutex);
        return t->cached_bytes < before;
}

/* Whether it is any use to wait for the mover there. */
static bool hope_locked(const struct tier_set *set, const struct tier *t)
{
        return set->mover_wake && !set->paused && !t->stuck &&
               !pthread_equal(set->mover_thread, pthread_self());
}

/* One slice. False: in vain, or for long enough. */
static bool wait_locked(struct tier_set *set, struct tier *t, uint64_t began_ns)
{
        uint64_t now = tier_now_ns(), end = began_ns + TIER_ROOM_WAIT_MS * UINT64_C(1000000);
        if (!hope_locked(set, t) || now >= end)
                return false;
        uint64_t until = cas_min_u64(end, now + WAIT_SLICE_MS * UINT64_C(1000000));
        const struct timespec deadline = {.tv_sec = (time_t)(until / 1000000000),
                                          .tv_nsec = (long)(until % 1000000000)};
        set->mover_wake(set->mover_arg);
        (void)cas_mutex_timedwait(&set->mutex, &set->room, &deadline);
        return true;
}

/* Waits until the tier has room. */
static int room_await_locked(struct tier_set *set, struct tier *t, uint64_t bytes,
                             struct cas_err *err)
{
        uint64_t began = tier_now_ns();
        bool waited = false;
        int rc = 0;
        while (rc == 0 && tier_room_locked(t) < bytes) {
                if (cache_shrink_locked(set, t, bytes))
                        continue;
                if (!waited) {
                        t->stuck = false;
                        t->waits++;
                        t->waiters++;
                        waited = true;
                }
                if (!wait_locked(set, t, began))
                        rc = no_room_locked(t, bytes, err);
        }
        if (waited) {
                t->waiters--;
                t->waited_ms += (tier_now_ns() - began) / 1000000;
        }
        return rc;
}

int tier_room_take(struct tier_set *set, uint32_t id, uint64_t bytes, bool pack,
                   struct cas_err *err)
{
        if (!atomic_load(&set->counts))
                return 0;
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, id);
        int rc = t ? room_await_locked(set, t, bytes, err) : 0; /* it is being forgotten */
        if (rc == 0 && t) {
                *(pack ? &t->home_bytes : &t->other_bytes) += bytes;
                *(pack ? &t->written_bytes : &t->other_taken) += bytes;
                take_locked(t, bytes);
        }
        cas_mutex_unlock(&set->mutex);
        return rc;
}

void tier_room_give(struct tier_set *set, uint32_t id, uint64_t bytes, bool pack)
{
        if (!atomic_load(&set->counts))
                return;
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, id);
        if (t) {
                uint64_t *from = pack ? &t->home_bytes : &t->other_bytes;
                *from = less(*from, bytes);
                t->free_bytes += bytes;
                t->free_looked_ns = 0;
        }
        (void)pthread_cond_broadcast(&set->room);
        cas_mutex_unlock(&set->mutex);
}

/* ---- where new packs go ---- */

static bool takes_locked(const struct tier *t)
{
        return !t->gone && t->state == TIER_OK && !t->config.leaving && tier_is_reachable_locked(t);
}

static uint64_t place_bytes(const struct tier *t)
{
        uint64_t capacity = t->config.capacity_bytes;
        return capacity ? cas_min_u64(PLACE_BYTES, cas_max_u64(capacity / 8, RECORD_BYTES))
                        : PLACE_BYTES;
}

/* Room for packs there; what the cache holds is room. On tier 0 what is above the high mark is kept
 * for blobs and uploads, which have no other place. */
static uint64_t pack_room_locked(struct tier *t, bool to_the_brim)
{
        uint64_t capacity = t->config.capacity_bytes;
        uint64_t room = tier_room_locked(t) + t->cached_bytes;
        if (t->id != CAS_TIER_OWN || to_the_brim || !capacity)
                return room;
        return less(room, capacity - capacity / 100 * t->config.high_percent);
}

/* The fastest directory that has room. */
static struct tier *fastest_locked(struct tier_set *set, bool to_the_brim)
{
        for (size_t i = 0; i < set->count; i++) {
                struct tier *t = set->tiers[i];
                if (takes_locked(t) && tier_is_local(t) &&
                    pack_room_locked(t, to_the_brim) >= place_bytes(t))
                        return t;
        }
        return NULL;
}

static struct tier *first_locked(struct tier_set *set)
{
        for (size_t i = 0; i < set->count; i++) {
                if (takes_locked(set->tiers[i]) && tier_is_local(set->tiers[i]))
                        return set->tiers[i];
        }
        return NULL;
}

static int place_any_locked(struct tier_set *set, struct tier **out, struct cas_err *err)
{
        *out = fastest_locked(set, false);
        if (!*out)
                *out = fastest_locked(set, true);
        if (*out)
                return 0;
        struct tier *first = first_locked(set);
        if (!first)
                return cas_fail(err, CAS_E_IO,
                                "no tier takes new packs: `lamina tier list` tells why");
        int rc = room_await_locked(set, first, place_bytes(first), err);
        *out = first;
        return rc;
}

static int place_there_locked(struct tier_set *set, uint32_t want, struct tier **out,
                              struct cas_err *err)
{
        struct tier *t = tier_by_id_locked(set, want);
        if (!t || !tier_is_local(t))
                return cas_fail(err, CAS_E_UNSUPPORTED, t ? "tier %u is in a bucket" : "no tier %u",
                                want);
        if (!takes_locked(t))
                return cas_fail(err, CAS_E_IO, "tier %s takes no new packs (%s)", t->name,
                                t->config.leaving ? "it is leaving" : t->why);
        *out = t;
        return 0;
}

int tier_place(struct tier_set *set, uint32_t want, int *out_dirfd, uint32_t *out_tier,
               struct cas_err *err)
{
        struct tier *t = NULL;
        cas_mutex_lock(&set->mutex);
        int rc = want == CAS_TIER_ANY ? place_any_locked(set, &t, err)
                                      : place_there_locked(set, want, &t, err);
        if (rc == 0) {
                *out_dirfd = t->dir.packs_fd;
                *out_tier = t->id;
        }
        cas_mutex_unlock(&set->mutex);
        return rc;
}

/* ---- what the mover asks ---- */

uint32_t tier_set_below(struct tier_set *set, uint32_t tier, uint64_t bytes, bool upwards)
{
        uint32_t found = CAS_TIER_ANY;
        size_t at = 0;
        cas_mutex_lock(&set->mutex);
        while (at < set->count && set->tiers[at]->id != tier)
                at++;
        for (size_t i = at + 1; i < set->count && found == CAS_TIER_ANY; i++) {
                struct tier *t = set->tiers[i];
                if (takes_locked(t) && tier_room_locked(t) + t->cached_bytes >= bytes)
                        found = t->id;
        }
        for (size_t i = cas_min_u64(at, set->count); upwards && i-- > 0 && found == CAS_TIER_ANY;) {
                struct tier *t = set->tiers[i];
                if (takes_locked(t) && tier_room_locked(t) + t->cached_bytes >= bytes)
                        found = t->id;
        }
        cas_mutex_unlock(&set->mutex);
        return found;
}

/* What the marks are of: the capacity, or the file system's that we may have, less the cache. */
static uint64_t marked_locked(struct tier *t)
{
        const struct tier_config *c = &t->config;
        uint64_t all = c->capacity_bytes;
        if (!all) {
                free_look_locked(t);
                all = used_locked(t) + t->free_bytes;
        }
        return less(all, c->cache_bytes);
}

uint64_t tier_set_excess(struct tier_set *set, uint32_t tier, bool began)
{
        uint64_t excess = 0;
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, tier);
        if (t && tier_is_local(t) && atomic_load(&set->counts)) {
                uint64_t all = marked_locked(t), held = t->home_bytes + t->other_bytes;
                began = began || t->waiters > 0 || held > all / 100 * t->config.high_percent;
                excess = began ? less(held, all / 100 * t->config.low_percent) : 0;
                if (t->waiters > 0)
                        excess = cas_max_u64(excess, 1);
        }
        cas_mutex_unlock(&set->mutex);
        return excess;
}

bool tier_set_is_wanted(struct tier_set *set, uint32_t tier)
{
        cas_mutex_lock(&set->mutex);
        const struct tier *t = tier_by_id_locked(set, tier);
        bool wanted = t && t->waiters > 0;
        cas_mutex_unlock(&set->mutex);
        return wanted;
}

void tier_set_stuck(struct tier_set *set, uint32_t tier)
{
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, tier);
        if (t)
                t->stuck = true;
        (void)pthread_cond_broadcast(&set->room);
        cas_mutex_unlock(&set->mutex);
}
