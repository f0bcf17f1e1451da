/* SPDX-License-Identifier: Apache-2.0 */
/* W-TinyLFU with ghosts. What is new stands in a window, by use. What falls out of it goes on to
 * the main part when it was read more often of late (a sketch counts) than what would have to go
 * for it there, all together: so a large entry must be worth as many hits as the small ones in its
 * place. The main part is a segmented LRU: on probation until it is read again, protected from
 * then on. The keys of what goes are remembered as ghosts; one that comes back while it is a ghost
 * was away for too short a time for the window to tell, and goes to the main part at once. With
 * ghosts the window's share matters little, and is fixed (spec/tiering.md has the figures). */
#include "tiering/evictor_int.h"
#include "tiering/sketch.h"

#define WINDOW 0
#define PROBATION 1
#define PROTECTED 2

#define WINDOW_PERCENT 10
#define PROTECTED_PERCENT 80 /* of the main part */
#define VICTIMS_MAX 128      /* to be compared with one that is not worth as much as they are */

struct tinylfu {
        struct tier_evictor evictor;
        struct tier_sketch sketch;
};

static uint64_t percent_of(uint64_t bytes, unsigned percent)
{
        return bytes / 100 * percent + bytes % 100 * percent / 100;
}

static uint64_t window_max_bytes(const struct tier_evictor *p)
{
        return percent_of(p->capacity_bytes, WINDOW_PERCENT);
}

static void tinylfu_init(struct tier_evictor *p)
{
        tier_sketch_init(&((struct tinylfu *)p)->sketch, p->capacity_bytes / p->expected_bytes);
}

static void tinylfu_release(struct tier_evictor *p)
{
        tier_sketch_release(&((struct tinylfu *)p)->sketch);
}

static uint64_t tinylfu_memory_bytes(const struct tier_evictor *p)
{
        return tier_sketch_bytes(&((const struct tinylfu *)p)->sketch);
}

static void tinylfu_seen(struct tier_evictor *p, uint64_t hash)
{
        tier_sketch_note(&((struct tinylfu *)p)->sketch, hash);
}

static void limit_protected(struct tier_evictor *p)
{
        uint64_t max = percent_of(p->capacity_bytes - window_max_bytes(p), PROTECTED_PERCENT);
        while (p->queues[PROTECTED].bytes > max)
                tier_queue_move(p, PROBATION, p->queues[PROTECTED].oldest);
}

static void tinylfu_used(struct tier_evictor *p, uint32_t i)
{
        tier_queue_move(p, tier_entry_at(p, i)->queue == WINDOW ? WINDOW : PROTECTED, i);
        limit_protected(p);
}

/* What goes from the main part after that one (none: first). */
static uint32_t next_victim(const struct tier_evictor *p, uint32_t after)
{
        uint32_t next = p->queues[PROBATION].oldest;
        if (after != TIER_NO_ENTRY)
                next = tier_entry_at(p, after)->newer;
        if (next == TIER_NO_ENTRY &&
            (after == TIER_NO_ENTRY || tier_entry_at(p, after)->queue == PROBATION))
                next = p->queues[PROTECTED].oldest;
        return next;
}

/* Takes away from the main part, then from the window, until all fits; `keep` stays. */
static void evict_until_fit(struct tier_evictor *p, uint32_t keep, const struct tier_eviction *told)
{
        while (p->used_bytes > p->capacity_bytes) {
                uint32_t victim = next_victim(p, TIER_NO_ENTRY);
                if (victim == keep && victim != TIER_NO_ENTRY)
                        victim = next_victim(p, victim);
                if (victim == TIER_NO_ENTRY) {
                        victim = p->queues[WINDOW].oldest;
                        if (victim == keep)
                                victim = tier_entry_at(p, victim)->newer;
                }
                tier_entry_haunt(p, victim, told);
        }
}

static unsigned uses_of(const struct tinylfu *t, uint32_t i)
{
        const struct tier_evictor *p = &t->evictor;
        return tier_sketch_count(&t->sketch, tier_evictor_hash(p, &tier_entry_at(p, i)->key));
}

/* Whether a candidate was read more often than all that would have to go for it. If not, those
 * that it was compared with are behind the others: the next candidate meets other ones. */
static bool is_worth_its_place(struct tinylfu *t, uint32_t candidate)
{
        struct tier_evictor *p = &t->evictor;
        uint64_t freed = 0, sum = 0, uses = uses_of(t, candidate);
        uint32_t victim = TIER_NO_ENTRY;
        unsigned compared = 0;
        while (p->used_bytes > p->capacity_bytes + freed) {
                victim = next_victim(p, victim);
                if (victim == TIER_NO_ENTRY)
                        return false;
                freed += tier_entry_at(p, victim)->bytes;
                sum += uses_of(t, victim);
                if (sum >= uses || ++compared == VICTIMS_MAX) {
                        while (compared-- > 0 && p->queues[PROBATION].count > 0)
                                tier_queue_move(p, PROBATION, p->queues[PROBATION].oldest);
                        return false;
                }
        }
        return true;
}

/* fresh: the new entry; returns whether it is in at the end. */
static bool make_room(struct tinylfu *t, uint32_t fresh, bool must,
                      const struct tier_eviction *told)
{
        struct tier_evictor *p = &t->evictor;
        bool in = true;
        while (p->queues[WINDOW].bytes > window_max_bytes(p)) {
                uint32_t candidate = p->queues[WINDOW].oldest;
                if ((must && candidate == fresh) || is_worth_its_place(t, candidate)) {
                        tier_queue_move(p, PROBATION, candidate);
                        evict_until_fit(p, candidate, told);
                } else {
                        in = in && candidate != fresh;
                        tier_entry_haunt(p, candidate, candidate == fresh ? NULL : told);
                }
        }
        evict_until_fit(p, fresh, told);
        return in;
}

static void tinylfu_shrink(struct tier_evictor *p, const struct tier_eviction *told)
{
        (void)make_room((struct tinylfu *)p, TIER_NO_ENTRY, false, told);
        limit_protected(p);
}

static bool tinylfu_admit(struct tier_evictor *p, uint32_t i, bool ghost, bool must,
                          const struct tier_eviction *told)
{
        struct tinylfu *t = (struct tinylfu *)p;
        tier_sketch_grow(&t->sketch, p->entry_count - p->queues[TIER_QUEUE_GHOSTS].count);
        tier_queue_push(p, ghost ? PROBATION : WINDOW, i);
        return make_room(t, i, must, told);
}

const struct tier_policy tier_policy_tinylfu = {
        .name = "tinylfu",
        .size_bytes = sizeof(struct tinylfu),
        .init = tinylfu_init,
        .release = tinylfu_release,
        .seen = tinylfu_seen,
        .used = tinylfu_used,
        .admit = tinylfu_admit,
        .shrink = tinylfu_shrink,
        .memory_bytes = tinylfu_memory_bytes,
};
