/* SPDX-License-Identifier: Apache-2.0 */
/* LRU: what was not read for the longest time goes. One queue, by use. */
#include "tiering/evictor_int.h"

#define ALL 0

static void lru_used(struct tier_evictor *p, uint32_t i)
{
        tier_queue_move(p, ALL, i);
}

static void lru_shrink(struct tier_evictor *p, const struct tier_eviction *told)
{
        while (p->used_bytes > p->capacity_bytes)
                tier_entry_evict(p, p->queues[ALL].oldest, told);
}

static bool lru_admit(struct tier_evictor *p, uint32_t i, bool ghost CAS_UNUSED,
                      bool must CAS_UNUSED, const struct tier_eviction *told)
{
        tier_queue_push(p, ALL, i); /* as the newest: it fits, and so stays */
        lru_shrink(p, told);
        return true;
}

const struct tier_policy tier_policy_lru = {
        .name = "lru",
        .size_bytes = sizeof(struct tier_evictor),
        .used = lru_used,
        .admit = lru_admit,
        .shrink = lru_shrink,
};
