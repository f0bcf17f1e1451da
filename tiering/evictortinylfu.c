/* SPDX-License-Identifier: Apache-2.0 */
/* W-TinyLFU. */
#include <stdlib.h>
#include "tiering/evictor_int.h"
#include "tiering/sketch.h"

#define WINDOW 0
#define PROBATION 1
#define PROTECTED 2

/* experiment knobs */
double tl_window = 0.01, tl_protected = 0.8;
int tl_mode = 0, tl_climb = 0, tl_promote = 1;

struct tinylfu {
        struct tier_evictor evictor;
        struct tier_sketch sketch;
        double window_share;
        uint64_t window_max, protected_max;
        /* climbing */
        uint64_t hits, reads;
        double last_ratio, step;
};

static void set_shares(struct tinylfu *t)
{
        t->window_max = (uint64_t)((double)t->evictor.capacity_bytes * t->window_share);
        t->protected_max =
                (uint64_t)((double)(t->evictor.capacity_bytes - t->window_max) * tl_protected);
}

static void tinylfu_init(struct tier_evictor *p)
{
        struct tinylfu *t = (struct tinylfu *)p;
        tier_sketch_init(&t->sketch, p->capacity_bytes / p->expected_bytes);
        t->window_share = tl_window;
        t->step = 0.0625;
        set_shares(t);
}

static void tinylfu_release(struct tier_evictor *p)
{
        tier_sketch_release(&((struct tinylfu *)p)->sketch);
}

static void climb(struct tinylfu *t)
{
        uint64_t n = t->evictor.entry_count * 10ull;
        if (!tl_climb || t->reads < n || t->reads < 1000)
                return;
        double ratio = (double)t->hits / (double)t->reads, d = ratio - t->last_ratio;
        t->hits = t->reads = 0;
        if (d < 0)
                t->step = -t->step;
        if (d > 0.05 || d < -0.05)
                t->step = t->step > 0 ? 0.0625 : -0.0625;
        else
                t->step *= 0.98;
        t->last_ratio = ratio;
        t->window_share += t->step;
        if (t->window_share < 0.005)
                t->window_share = 0.005;
        if (t->window_share > 0.8)
                t->window_share = 0.8;
        set_shares(t);
}

static void tinylfu_seen(struct tier_evictor *p, uint64_t hash)
{
        struct tinylfu *t = (struct tinylfu *)p;
        tier_sketch_note(&t->sketch, hash);
        t->reads++;
        climb(t);
}

static void tinylfu_used(struct tier_evictor *p, uint32_t i)
{
        struct tinylfu *t = (struct tinylfu *)p;
        t->hits++;
        unsigned queue = tier_entry_at(p, i)->queue;
        tier_queue_move(p, queue == WINDOW ? WINDOW : PROTECTED, i);
        while (p->queues[PROTECTED].bytes > t->protected_max)
                tier_queue_move(p, PROBATION, p->queues[PROTECTED].oldest);
}

static double worth(const struct tinylfu *t, uint32_t i)
{
        const struct tier_entry *e = tier_entry_at(&t->evictor, i);
        double c = tier_sketch_count(&t->sketch, tier_evictor_hash(&t->evictor, &e->key));
        if (tl_mode == 1)
                c *= (double)e->bytes;
        return c;
}

static uint32_t next_victim(const struct tier_evictor *p, uint32_t i)
{
        if (i == TIER_NO_ENTRY)
                return p->queues[PROBATION].oldest != TIER_NO_ENTRY ? p->queues[PROBATION].oldest
                                                                    : p->queues[PROTECTED].oldest;
        const struct tier_entry *e = tier_entry_at(p, i);
        if (e->newer != TIER_NO_ENTRY || e->queue == PROTECTED)
                return e->newer;
        return p->queues[PROTECTED].oldest;
}

/* c is in no queue; true: it is in probation now. */
static bool contest(struct tinylfu *t, uint32_t c, bool must, const struct tier_eviction *told)
{
        struct tier_evictor *p = &t->evictor;
        uint64_t bytes = tier_entry_at(p, c)->bytes;
        uint64_t need = p->used_bytes + bytes > p->capacity_bytes
                                ? p->used_bytes + bytes - p->capacity_bytes
                                : 0;
        uint64_t freed = 0;
        double sum = 0, mine = worth(t, c);
        uint32_t v = TIER_NO_ENTRY;
        unsigned n = 0;
        bool win = true;
        while (freed < need) {
                v = next_victim(p, v);
                if (v == TIER_NO_ENTRY)
                        break;
                freed += tier_entry_at(p, v)->bytes;
                sum += worth(t, v);
                n++;
                if (!must && sum >= mine) {
                        win = false;
                        break;
                }
        }
        if (freed < need && !must)
                win = false;
        if (!win) {
                if (tl_promote)
                        for (unsigned k = 1; k < n && p->queues[PROBATION].count > 0; k++)
                                tier_queue_move(p, PROBATION, p->queues[PROBATION].oldest);
                return false;
        }
        while (need > 0 && p->used_bytes + bytes > p->capacity_bytes) {
                uint32_t victim = next_victim(p, TIER_NO_ENTRY);
                if (victim == TIER_NO_ENTRY)
                        victim = p->queues[WINDOW].oldest;
                tier_entry_evict(p, victim, told);
        }
        tier_queue_push(p, PROBATION, c);
        return true;
}

static bool make_room(struct tinylfu *t, uint32_t fresh, bool must,
                      const struct tier_eviction *told)
{
        struct tier_evictor *p = &t->evictor;
        bool in = true;
        while (p->queues[WINDOW].bytes > t->window_max) {
                uint32_t c = p->queues[WINDOW].oldest;
                tier_queue_take(p, c);
                if (contest(t, c, must && c == fresh, told))
                        continue;
                tier_queue_push(p, WINDOW, c);
                if (c == fresh) {
                        in = false;
                        tier_entry_evict(p, c, NULL);
                } else
                        tier_entry_evict(p, c, told);
        }
        while (p->used_bytes > p->capacity_bytes) {
                uint32_t v = next_victim(p, TIER_NO_ENTRY);
                if (v == TIER_NO_ENTRY)
                        v = p->queues[WINDOW].oldest;
                if (v == fresh)
                        in = false;
                tier_entry_evict(p, v, v == fresh ? NULL : told);
        }
        return in;
}

static void tinylfu_shrink(struct tier_evictor *p, const struct tier_eviction *told)
{
        struct tinylfu *t = (struct tinylfu *)p;
        set_shares(t);
        make_room(t, TIER_NO_ENTRY, false, told);
}

static bool tinylfu_admit(struct tier_evictor *p, uint32_t i, bool ghost CAS_UNUSED, bool must,
                          const struct tier_eviction *told)
{
        struct tinylfu *t = (struct tinylfu *)p;
        tier_sketch_grow(&t->sketch, p->entry_count);
        tier_queue_push(p, WINDOW, i);
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
};
