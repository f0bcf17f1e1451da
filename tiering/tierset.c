/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/tierset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "cas/log.h"
#include "tiering/tierset_int.h"

#define OWN_PACKS "packs"
#define OWN_CACHE "cache"
#define RECOUNT_NS UINT64_C(600000000000)
#define RECOUNT_FULL_NS UINT64_C(5000000000)
#define OWN_DEPTH_MAX 4 /* of directories of blobs */

uint64_t tier_now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

const char *tier_state_name(enum tier_state state)
{
        switch (state) {
        case TIER_OK:
                return "ok";
        case TIER_LEAVING:
                return "leaving";
        case TIER_REFUSED:
                return "refused";
        case TIER_FAILED:
                return "failed";
        }
        return "failed";
}

struct tier_set *tier_set_of(struct cas_store *s)
{
        struct cas_backend *b = cas_store_backend(s);
        return b->ops == &tier_set_ops ? (struct tier_set *)b : NULL;
}

bool tier_set_is_configured(struct tier_set *set)
{
        return atomic_load(&set->counts);
}

struct tier *tier_by_id_locked(struct tier_set *set, uint32_t id)
{
        cas_assert_held(&set->mutex);
        for (size_t i = 0; i < set->count; i++) {
                if (set->tiers[i]->id == id && !set->tiers[i]->gone)
                        return set->tiers[i];
        }
        return NULL;
}

static struct tier *by_name_locked(struct tier_set *set, const char *name)
{
        cas_assert_held(&set->mutex);
        for (size_t i = 0; i < set->count; i++) {
                if (!set->tiers[i]->gone && strcmp(set->tiers[i]->name, name) == 0)
                        return set->tiers[i];
        }
        return NULL;
}

bool tier_is_local(const struct tier *t)
{
        return t->config.class != TIER_REMOTE;
}

bool tier_is_reachable_locked(const struct tier *t)
{
        return t->state == TIER_OK && (!tier_is_local(t) || t->dir.packs_fd >= 0);
}

/* ---- one tier ---- */

static struct tier *tier_new(struct tier_set *set, const struct tier_config *c)
{
        struct tier *t = cas_xcalloc(1, sizeof(*t));
        t->set = set;
        t->id = c->id;
        (void)snprintf(t->name, sizeof(t->name), "%s", c->name);
        tier_config_copy(&t->config, c);
        t->dir = (struct tier_dir)TIER_DIR_INIT;
        cas_pace_init(&t->pace, c->bytes_per_s, 0, NULL, NULL);
        return t;
}

static void tier_free(struct tier *t)
{
        if (t->bucket)
                tier_bucket_close(t->bucket);
        tier_dir_close(&t->dir);
        tier_config_release(&t->config);
        cas_pace_release(&t->pace);
        free(t);
}

static bool is_faster(const struct tier *a, const struct tier *b)
{
        return a->config.class != b->config.class ? a->config.class < b->config.class
                                                  : a->id < b->id;
}

static void sort_locked(struct tier_set *set)
{
        for (size_t i = 1; i < set->count; i++) {
                struct tier *t = set->tiers[i];
                size_t at = i;
                for (; at > 0 && is_faster(t, set->tiers[at - 1]); at--)
                        set->tiers[at] = set->tiers[at - 1];
                set->tiers[at] = t;
        }
}

static void enlist_locked(struct tier_set *set, struct tier *t)
{
        set->tiers = cas_xrealloc(set->tiers, (set->count + 1) * sizeof(struct tier *));
        set->tiers[set->count++] = t;
        sort_locked(set);
}

static struct tier_dir_name dir_name(const struct tier_set *set, const struct tier *t)
{
        return (struct tier_dir_name){.store_id = set->store_id, .id = t->id, .name = t->name};
}

static int own_open(struct tier_set *set, struct tier_dir *out, struct cas_err *err)
{
        cas_cleanup_fd int packs =
                openat(set->store_dirfd, OWN_PACKS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (packs < 0)
                return cas_fail_sys(err, errno, "open " OWN_PACKS);
        out->packs_fd = cas_steal_fd(&packs);
        return 0;
}

/* The directory of a cache on tier 0 is made when it is wanted. */
static int own_cache_open(struct tier_set *set, struct tier *t, struct cas_err *err)
{
        if (t->id != CAS_TIER_OWN || !t->config.cache_bytes || t->dir.cache_fd >= 0)
                return 0;
        if (cas_io_mkdir(cas_io_posix(), set->store_dirfd, OWN_CACHE, 0700, err) < 0)
                return -(int)err->code;
        t->dir.cache_fd = openat(set->store_dirfd, OWN_CACHE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return t->dir.cache_fd < 0 ? cas_fail_sys(err, errno, "open " OWN_CACHE) : 0;
}

/* Descriptors that were given out stay the same numbers. */
static void dir_replace(struct tier_dir *old, struct tier_dir *fresh)
{
        if (old->packs_fd < 0) {
                *old = *fresh;
                return;
        }
        (void)dup3(fresh->packs_fd, old->packs_fd, O_CLOEXEC);
        (void)dup3(fresh->cache_fd, old->cache_fd, O_CLOEXEC);
        old->device = fresh->device;
        old->inode = fresh->inode;
        tier_dir_close(fresh);
}

/* Opens the directory of a tier, or looks whether it still is the one that is open. */
static int dir_look(struct tier_set *set, struct tier *t, bool is_open, uint64_t *bytes,
                    struct tier_dir *fresh, struct cas_err *err)
{
        const struct tier_dir_name name = dir_name(set, t);
        struct cas_err gone = CAS_ERR_INIT;
        if (t->id == CAS_TIER_OWN && is_open)
                return 0;
        if (t->id != CAS_TIER_OWN && is_open &&
            tier_dir_check(t->config.where, &t->dir, &gone) == 0)
                return 0;
        int rc = t->id == CAS_TIER_OWN ? own_open(set, fresh, err)
                                       : tier_dir_open(t->config.where, &name, fresh, err);
        if (rc == 0 && !is_open && atomic_load(&set->counts))
                rc = tier_dir_pack_bytes(fresh->packs_fd, bytes, err);
        if (rc < 0)
                tier_dir_close(fresh);
        return rc;
}

/* What the tier is now; logs changes. */
static void tier_look(struct tier_set *set, struct tier *t)
{
        struct tier_dir fresh = TIER_DIR_INIT;
        struct cas_err why = CAS_ERR_INIT;
        uint64_t bytes = 0;
        cas_mutex_lock(&set->mutex);
        bool was_open = t->dir.packs_fd >= 0;
        cas_mutex_unlock(&set->mutex);
        int rc = dir_look(set, t, was_open, &bytes, &fresh, &why);
        cas_mutex_lock(&set->mutex);
        enum tier_state before = t->state;
        if (rc == 0 && fresh.packs_fd >= 0)
                dir_replace(&t->dir, &fresh);
        if (rc == 0 && !was_open)
                t->home_bytes = bytes;
        t->state = rc == 0 ? TIER_OK : rc == -CAS_E_DENIED ? TIER_REFUSED : TIER_FAILED;
        (void)snprintf(t->why, sizeof(t->why), "%s", rc < 0 ? why.msg : "");
        cas_mutex_unlock(&set->mutex);
        if (rc < 0 && (before == TIER_OK || !was_open) && before != TIER_REFUSED)
                cas_log(CAS_LOG_WARN, "tiers", "tier=%s state=%s message=\"%s\"", t->name,
                        rc == -CAS_E_DENIED ? "refused" : "failed", why.msg);
        else if (rc == 0 && before != TIER_OK)
                cas_log(CAS_LOG_INFO, "tiers", "tier=%s state=ok", t->name);
}

void tier_set_look(struct tier_set *set)
{
        cas_mutex_lock(&set->changing);
        for (size_t i = 0; i < set->count; i++) {
                if (!set->tiers[i]->gone && tier_is_local(set->tiers[i]))
                        tier_look(set, set->tiers[i]);
        }
        cas_mutex_unlock(&set->changing);
        tier_cache_fit(set);
}

/* ---- opening ---- */

static struct tier_set *set_new(struct cas_store *s)
{
        struct tier_set *set = cas_xcalloc(1, sizeof(*set));
        set->backend.ops = &tier_set_ops;
        set->store_dirfd = fcntl(cas_store_dirfd(s), F_DUPFD_CLOEXEC, 3);
        set->store_path = cas_xstrdup(cas_store_path(s));
        (void)snprintf(set->store_id, sizeof(set->store_id), "%s", cas_store_id(s));
        set->heat = tier_heat_new();
        cas_mutex_init(&set->changing, "tiers.changing");
        cas_mutex_init(&set->mutex, "tiers");
        cas_cond_init(&set->room);
        return set;
}

void tier_set_free(struct tier_set *set)
{
        tier_cache_close(set);
        for (size_t i = 0; i < set->count; i++)
                tier_free(set->tiers[i]);
        free(set->tiers);
        tier_heat_free(set->heat);
        cas_mutex_release(&set->changing);
        cas_mutex_release(&set->mutex);
        (void)pthread_cond_destroy(&set->room);
        cas_cleanup_fd int fd CAS_UNUSED = set->store_dirfd;
        free(set->store_path);
        free(set);
}

static void heat_load(struct tier_set *set)
{
        struct cas_err err = CAS_ERR_INIT;
        if (tier_heat_load(set->heat, set->store_dirfd, &err) < 0)
                cas_log(CAS_LOG_WARN, "tiers", "heat=lost message=\"%s\"", err.msg);
}

/* What lies on tier 0 besides packs. */
static int own_count(struct tier_set *set, struct cas_err *err)
{
        static const char *const parts[] = {"blobs", "uploads"};
        uint64_t all = 0;
        cas_mutex_lock(&set->mutex);
        uint64_t taken = tier_by_id_locked(set, CAS_TIER_OWN)->other_taken;
        cas_mutex_unlock(&set->mutex);
        for (size_t i = 0; i < CAS_COUNT(parts); i++) {
                uint64_t bytes;
                if (tier_dir_tree_bytes(set->store_dirfd, parts[i], OWN_DEPTH_MAX, &bytes, err) < 0)
                        return -(int)err->code;
                all += bytes;
        }
        cas_mutex_lock(&set->mutex);
        struct tier *own = tier_by_id_locked(set, CAS_TIER_OWN);
        own->other_bytes = all + own->other_taken - taken; /* of what came meanwhile, all */
        set->recounted_ns = tier_now_ns();
        (void)pthread_cond_broadcast(&set->room);
        cas_mutex_unlock(&set->mutex);
        return 0;
}

void tier_set_recount(struct tier_set *set)
{
        struct cas_err err = CAS_ERR_INIT;
        bool full = tier_set_excess(set, CAS_TIER_OWN, false) > 0;
        cas_mutex_lock(&set->mutex);
        uint64_t age = tier_now_ns() - set->recounted_ns;
        cas_mutex_unlock(&set->mutex);
        if (age > (full ? RECOUNT_FULL_NS : RECOUNT_NS) && own_count(set, &err) < 0)
                cas_log(CAS_LOG_WARN, "tiers", "recount=failed message=\"%s\"", err.msg);
}

static int cache_open(struct tier_set *set, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < set->count; i++)
                rc = own_cache_open(set, set->tiers[i], err);
        return rc < 0 ? rc : tier_cache_open(set, err);
}

int tier_set_open(struct cas_store *s, struct cas_backend **out, struct cas_err *err)
{
        struct tier_list list;
        bool there;
        int rc = tier_list_read(cas_store_dirfd(s), &list, &there, err);
        if (rc < 0)
                return rc;
        struct tier_set *set = set_new(s);
        atomic_store(&set->counts, there);
        cas_mutex_lock(&set->mutex);
        for (size_t i = 0; i < list.count; i++)
                enlist_locked(set, tier_new(set, &list.tiers[i]));
        set->next_id = list.next_id;
        set->paused = list.paused;
        cas_mutex_unlock(&set->mutex);
        tier_list_release(&list);
        tier_set_look(set);
        if (there) {
                heat_load(set);
                rc = own_count(set, err);
                cas_mutex_lock(&set->changing);
                if (rc == 0)
                        rc = cache_open(set, err);
                cas_mutex_unlock(&set->changing);
        }
        if (rc < 0) {
                tier_set_free(set);
                return rc;
        }
        *out = &set->backend;
        return 0;
}

/* ---- changes (tierchange.c) ---- */

struct tier *tier_set_named(struct tier_set *set, const char *name)
{
        cas_mutex_lock(&set->mutex);
        struct tier *t = by_name_locked(set, name);
        cas_mutex_unlock(&set->mutex);
        return t;
}

int tier_set_begin_counting(struct tier_set *set, struct cas_err *err)
{
        cas_assert_held(&set->changing);
        if (atomic_load(&set->counts))
                return 0;
        uint64_t bytes;
        atomic_store(&set->counts, true);
        cas_mutex_lock(&set->mutex);
        struct tier *own = tier_by_id_locked(set, CAS_TIER_OWN);
        cas_mutex_unlock(&set->mutex);
        if (tier_dir_pack_bytes(own->dir.packs_fd, &bytes, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&set->mutex);
        own->home_bytes += bytes;
        cas_mutex_unlock(&set->mutex);
        return own_count(set, err);
}

int tier_set_enlist(struct tier_set *set, const struct tier_config *c, struct cas_err *err)
{
        cas_assert_held(&set->changing);
        struct tier *t = tier_new(set, c);
        cas_mutex_lock(&set->mutex);
        enlist_locked(set, t);
        cas_mutex_unlock(&set->mutex);
        if (tier_set_begin_counting(set, err) < 0)
                return -(int)err->code;
        if (tier_is_local(t))
                tier_look(set, t);
        cas_mutex_lock(&set->mutex);
        if (set->mover_wake)
                set->mover_wake(set->mover_arg);
        cas_mutex_unlock(&set->mutex);
        return cache_open(set, err);
}

int tier_set_settle(struct tier_set *set, struct tier *t, const struct tier_config *c,
                    struct cas_err *err)
{
        cas_assert_held(&set->changing);
        cas_mutex_lock(&set->mutex);
        t->config.class = c->class;
        t->config.capacity_bytes = c->capacity_bytes;
        t->config.high_percent = c->high_percent;
        t->config.low_percent = c->low_percent;
        t->config.density = c->density;
        t->config.cache_bytes = c->cache_bytes;
        t->config.bytes_per_s = c->bytes_per_s;
        t->config.cool_after_s = c->cool_after_s;
        t->config.leaving = c->leaving;
        sort_locked(set);
        (void)pthread_cond_broadcast(&set->room);
        if (set->mover_wake)
                set->mover_wake(set->mover_arg);
        cas_mutex_unlock(&set->mutex);
        atomic_store(&t->pace.bytes_per_s, c->bytes_per_s);
        int rc = tier_set_begin_counting(set, err);
        if (rc == 0)
                rc = cache_open(set, err);
        tier_cache_fit(set);
        return rc;
}

/* ---- telling ---- */

static void status_fill_locked(struct tier *t, struct tier_status *out)
{
        *out = (struct tier_status){
                .state = t->config.leaving && t->state == TIER_OK ? TIER_LEAVING : t->state,
                .home_bytes = t->home_bytes,
                .other_bytes = t->other_bytes,
                .cached_bytes = t->cached_bytes,
                .room_bytes = t->state == TIER_OK ? tier_room_locked(t) : 0,
                .written_bytes = t->written_bytes,
                .read_bytes = t->read_bytes,
                .waits = t->waits,
                .waited_ms = t->waited_ms,
                .refused = t->refused,
                .waiters = t->waiters,
                .is_cache = t == t->set->cache_tier,
        };
        tier_config_copy(&out->config, &t->config);
        out->has_counts = t->bucket != NULL;
        if (t->bucket)
                tier_bucket_counts(t->bucket, &out->counts);
}

void tier_set_each(struct tier_set *set, bool (*fn)(void *arg, const struct tier_status *t),
                   void *arg)
{
        bool on = true;
        for (size_t i = 0; on; i++) {
                struct tier_status status;
                char why[CAS_ERR_MSG_MAX];
                cas_mutex_lock(&set->mutex);
                bool end = i >= set->count, gone = end || set->tiers[i]->gone;
                if (!gone) {
                        status_fill_locked(set->tiers[i], &status);
                        (void)snprintf(why, sizeof(why), "%s", set->tiers[i]->why);
                }
                cas_mutex_unlock(&set->mutex);
                if (end)
                        return;
                if (gone)
                        continue;
                status.why = why;
                on = fn(arg, &status);
                tier_config_release(&status.config);
        }
}

int tier_set_find(struct tier_set *set, const char *name, uint32_t *out, struct cas_err *err)
{
        cas_mutex_lock(&set->mutex);
        const struct tier *t = by_name_locked(set, name);
        if (t)
                *out = t->id;
        cas_mutex_unlock(&set->mutex);
        return t ? 0 : cas_fail(err, CAS_E_NOTFOUND, "no tier is called %s", name);
}

int tier_set_config(struct tier_set *set, const char *name, struct tier_config *out,
                    struct cas_err *err)
{
        cas_mutex_lock(&set->mutex);
        const struct tier *t = by_name_locked(set, name);
        if (t)
                tier_config_copy(out, &t->config);
        cas_mutex_unlock(&set->mutex);
        return t ? 0 : cas_fail(err, CAS_E_NOTFOUND, "no tier is called %s", name);
}

bool tier_set_cache_counts(struct tier_set *set, struct tier_blocks_counts *out)
{
        cas_mutex_lock(&set->mutex);
        struct tier_blocks *blocks = set->blocks;
        cas_mutex_unlock(&set->mutex);
        if (blocks)
                tier_blocks_counts(blocks, out);
        return blocks != NULL;
}

bool tier_set_is_paused(struct tier_set *set)
{
        cas_mutex_lock(&set->mutex);
        bool paused = set->paused;
        cas_mutex_unlock(&set->mutex);
        return paused;
}

struct cas_pace *tier_set_pace(struct tier_set *set, uint32_t tier)
{
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, tier);
        cas_mutex_unlock(&set->mutex);
        return t ? &t->pace : NULL;
}

struct tier_heat *tier_set_heat(struct tier_set *set)
{
        return set->heat;
}

int tier_set_save_heat(struct tier_set *set, struct cas_err *err)
{
        return tier_heat_save(set->heat, set->store_dirfd, err);
}

void tier_set_mover(struct tier_set *set, void (*wake)(void *arg), void *arg)
{
        cas_mutex_lock(&set->mutex);
        set->mover_wake = wake;
        set->mover_arg = arg;
        set->mover_thread = pthread_self();
        (void)pthread_cond_broadcast(&set->room);
        cas_mutex_unlock(&set->mutex);
}

void tier_set_count_remote(struct tier_set *set, uint32_t tier, uint64_t bytes)
{
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, tier);
        if (t && !tier_is_local(t))
                t->home_bytes = bytes;
        cas_mutex_unlock(&set->mutex);
}
