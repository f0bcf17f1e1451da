/* SPDX-License-Identifier: Apache-2.0 */
/* S3-FIFO: three queues by age. What is new stands in a small one (a tenth of the bytes); what was
 * read again while there goes on to the main one, the rest leaves, its key remembered as a ghost.
 * What comes back as a ghost goes to the main queue at once. There, each use (three at most count)
 * is worth another round. A hit only counts: nothing is moved. */
#include "tiering/evictor_int.h"

#define SMALL 0
#define MAIN 1
#define SMALL_PERCENT 10
#define USES_MAX 3
#define USES_OF_MAIN 2 /* in the small queue, to go on to the main one */

static void s3fifo_used(struct tier_evictor *p, uint32_t i)
{
        struct tier_entry *e = tier_entry_at(p, i);
        if (e->uses < USES_MAX)
                e->uses++;
}

/* The oldest of the small queue goes on, or away. */
static void step_small(struct tier_evictor *p, uint32_t keep, const struct tier_eviction *told)
{
        uint32_t i = p->queues[SMALL].oldest;
        struct tier_entry *e = tier_entry_at(p, i);
        if (e->uses >= USES_OF_MAIN || i == keep) {
                e->uses = 0;
                tier_queue_move(p, MAIN, i);
        } else {
                e->uses = 0;
                tier_entry_haunt(p, i, told);
        }
}

static void step_main(struct tier_evictor *p, uint32_t keep, const struct tier_eviction *told)
{
        uint32_t i = p->queues[MAIN].oldest;
        struct tier_entry *e = tier_entry_at(p, i);
        if (e->uses > 0) {
                e->uses--;
                tier_queue_move(p, MAIN, i);
        } else if (i == keep) {
                tier_queue_move(p, MAIN, i);
        } else {
                tier_entry_evict(p, i, told);
        }
}

/* Each step takes a use from an entry, moves it to the main queue, or evicts it: as many steps as
 * there were admissions and hits, in all. keep: the new one, which fits by itself. */
static void make_room(struct tier_evictor *p, uint32_t keep, const struct tier_eviction *told)
{
        uint64_t small_max = p->capacity_bytes / 100 * SMALL_PERCENT;
        while (p->used_bytes > p->capacity_bytes) {
                bool main_is_done =
                        p->queues[MAIN].newest == keep && p->queues[MAIN].oldest == keep;
                if (p->queues[SMALL].bytes > small_max || main_is_done ||
                    p->queues[MAIN].count == 0)
                        step_small(p, keep, told);
                else
                        step_main(p, keep, told);
        }
}

static void s3fifo_shrink(struct tier_evictor *p, const struct tier_eviction *told)
{
        make_room(p, TIER_NO_ENTRY, told);
}

static bool s3fifo_admit(struct tier_evictor *p, uint32_t i, bool ghost, bool must CAS_UNUSED,
                         const struct tier_eviction *told)
{
        tier_queue_push(p, ghost ? MAIN : SMALL, i);
        make_room(p, i, told);
        return true;
}

const struct tier_policy tier_policy_s3fifo = {
        .name = "s3fifo",
        .size_bytes = sizeof(struct tier_evictor),
        .used = s3fifo_used,
        .admit = s3fifo_admit,
        .shrink = s3fifo_shrink,
};
