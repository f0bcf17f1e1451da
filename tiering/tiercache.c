/* SPDX-License-Identifier: Apache-2.0 */
/* The cache of blocks of a set of tiers: where it is, and how large. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "tiering/tierset_int.h"

#define PACK_NAME_BYTES 32

static int home_open(void *arg, uint32_t tier, uint64_t pack_id, int *out_fd, struct cas_err *err)
{
        struct tier_set *set = arg;
        char name[PACK_NAME_BYTES];
        int dirfd = -1;
        int rc = set->backend.ops->pack_dir(&set->backend, pack_id, tier, &dirfd, err);
        if (rc < 0)
                return rc;
        (void)snprintf(name, sizeof(name), "%016" PRIx64 ".pack", pack_id);
        *out_fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "pack %s", name) : 0;
}

static int remote_read(void *arg, uint32_t tier, const struct cas_pack_file *pack, uint64_t offset,
                       void *out, size_t len, struct cas_err *err)
{
        struct tier_bucket *bucket;
        int rc = tier_bucket_of(arg, tier, &bucket, err);
        return rc < 0 ? rc : tier_bucket_read(bucket, pack, offset, out, len, err);
}

static const struct tier_blocks_ops blocks_ops = {.home_open = home_open,
                                                  .remote_read = remote_read,
                                                  .room_take = tier_cache_room_take,
                                                  .room_give = tier_cache_room_give};

/* The fastest directory that has a cache, and whether there is anything to keep in it. */
static struct tier *cache_wanted_locked(struct tier_set *set, bool *remote)
{
        struct tier *found = NULL;
        bool slower = false;
        *remote = false;
        for (size_t i = 0; i < set->count; i++) {
                struct tier *t = set->tiers[i];
                if (t->gone)
                        continue;
                slower = slower || found;
                *remote = *remote || !tier_is_local(t);
                if (!found && t->config.cache_bytes && !t->config.leaving && tier_is_local(t) &&
                    tier_is_reachable_locked(t))
                        found = t;
        }
        return slower ? found : NULL;
}

/* What is open goes on serving those who read from it, and keeps nothing any more. */
static void retire_locked(struct tier_set *set)
{
        if (!set->blocks)
                return;
        set->retired =
                cas_xrealloc(set->retired, (set->retired_count + 1) * sizeof(struct tier_blocks *));
        set->retired[set->retired_count++] = cas_steal(&set->blocks);
}

int tier_cache_open(struct tier_set *set, struct cas_err *err)
{
        cas_assert_held(&set->changing);
        bool remote;
        cas_mutex_lock(&set->mutex);
        struct tier *t = cache_wanted_locked(set, &remote);
        bool same = set->blocks ? t == set->cache_tier : !t && !remote;
        uint64_t share = t ? tier_cache_share_locked(t) : 0;
        struct tier_blocks *old = set->blocks;
        cas_mutex_unlock(&set->mutex);
        if (same)
                return 0;
        if (old)
                tier_blocks_resize(old, 0);
        cas_mutex_lock(&set->mutex);
        retire_locked(set);
        set->cache_tier = t;
        set->cache_capacity = share;
        cas_mutex_unlock(&set->mutex);
        if (!t && !remote)
                return 0;
        const struct tier_blocks_config config = {.dirfd = t ? t->dir.cache_fd : -1,
                                                  .capacity_bytes = share,
                                                  .evictor = TIER_EVICT_DEFAULT,
                                                  .ops = &blocks_ops,
                                                  .arg = set};
        struct tier_blocks *blocks;
        int rc = tier_blocks_open(&config, &blocks, err);
        if (rc < 0) {
                cas_mutex_lock(&set->mutex);
                set->cache_tier = NULL;
                cas_mutex_unlock(&set->mutex);
                return cas_err_wrap(err, "the cache of blocks");
        }
        cas_mutex_lock(&set->mutex);
        set->blocks = blocks;
        cas_mutex_unlock(&set->mutex);
        return 0;
}

void tier_cache_fit(struct tier_set *set)
{
        cas_mutex_lock(&set->mutex);
        struct tier_blocks *blocks = set->cache_tier ? set->blocks : NULL;
        uint64_t share = blocks ? tier_cache_share_locked(set->cache_tier) : 0;
        bool other = blocks && share != set->cache_capacity;
        set->cache_capacity = share;
        cas_mutex_unlock(&set->mutex);
        if (other)
                tier_blocks_resize(blocks, share);
}

void tier_cache_close(struct tier_set *set)
{
        if (set->blocks)
                tier_blocks_close(set->blocks);
        for (size_t i = 0; i < set->retired_count; i++)
                tier_blocks_close(set->retired[i]);
        free(set->retired);
}
