/* SPDX-License-Identifier: Apache-2.0 */
/* SIEVE: one queue by age, and a hand that goes from the oldest to the newest and begins again:
 * what was read since it came by last stays where it is, the first that was not goes. */
#include "tiering/evictor_int.h"

#define ALL 0

struct sieve {
        struct tier_evictor evictor;
        uint32_t hand; /* the next to be looked at; none: the oldest */
};

static void sieve_init(struct tier_evictor *p)
{
        ((struct sieve *)p)->hand = TIER_NO_ENTRY;
}

static void sieve_used(struct tier_evictor *p, uint32_t i)
{
        tier_entry_at(p, i)->uses = 1;
}

static void sieve_leaving(struct tier_evictor *p, uint32_t i)
{
        struct sieve *s = (struct sieve *)p;
        if (s->hand == i)
                s->hand = tier_entry_at(p, i)->newer;
}

static void make_room(struct sieve *s, uint32_t keep, const struct tier_eviction *told)
{
        struct tier_evictor *p = &s->evictor;
        while (p->used_bytes > p->capacity_bytes) {
                uint32_t i = s->hand != TIER_NO_ENTRY ? s->hand : p->queues[ALL].oldest;
                struct tier_entry *e = tier_entry_at(p, i);
                s->hand = e->newer;
                if (!e->uses && i != keep)
                        tier_entry_evict(p, i, told);
                else
                        e->uses = 0;
        }
}

static void sieve_shrink(struct tier_evictor *p, const struct tier_eviction *told)
{
        make_room((struct sieve *)p, TIER_NO_ENTRY, told);
}

static bool sieve_admit(struct tier_evictor *p, uint32_t i, bool ghost CAS_UNUSED,
                        bool must CAS_UNUSED, const struct tier_eviction *told)
{
        tier_queue_push(p, ALL, i);
        make_room((struct sieve *)p, i, told);
        return true;
}

const struct tier_policy tier_policy_sieve = {
        .name = "sieve",
        .size_bytes = sizeof(struct sieve),
        .init = sieve_init,
        .used = sieve_used,
        .admit = sieve_admit,
        .shrink = sieve_shrink,
        .leaving = sieve_leaving,
};
