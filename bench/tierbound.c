/* SPDX-License-Identifier: Apache-2.0 */
/* What policies are measured by: bounds from the future (tiersim.h says which). */
#include "bench/tiersim.h"

#include <math.h>

#include "cas/base.h"

#define NEVER UINT32_MAX
#define CANDIDATES 32

/* For each read, when its key is read next. */
static uint32_t *next_uses(const struct sim_keys *k)
{
        uint32_t *next = cas_xmalloc((k->count + 1) * sizeof(next[0]));
        cas_cleanup_free uint32_t *seen = cas_xmalloc((k->distinct + 1) * sizeof(seen[0]));
        memset(seen, 0xff, k->distinct * sizeof(seen[0]));
        for (size_t i = k->count; i-- > 0;) {
                next[i] = seen[k->reads[i]];
                seen[k->reads[i]] = (uint32_t)i;
        }
        return next;
}

static void count_read(const struct sim_keys *k, size_t i, uint64_t hit_bytes,
                       struct sim_result *out)
{
        if (k->scan[i])
                return;
        uint64_t bytes = k->bytes[k->reads[i]];
        out->reads++;
        out->read_bytes += bytes;
        out->hits += hit_bytes == bytes;
        out->hit_bytes += hit_bytes;
}

/* ---- a heap of keys, the farthest next use on top; entries that are overtaken stay in it ---- */

struct far {
        uint32_t next, key;
};
struct heap {
        struct far *items; /* owned */
        size_t count, max;
};

static void heap_push(struct heap *h, struct far it)
{
        if (h->count == h->max) {
                h->max = h->max ? h->max * 2 : 1024;
                h->items = cas_xrealloc(h->items, h->max * sizeof(h->items[0]));
        }
        size_t i = h->count++;
        for (; i > 0 && h->items[(i - 1) / 2].next < it.next; i = (i - 1) / 2)
                h->items[i] = h->items[(i - 1) / 2];
        h->items[i] = it;
}

static void heap_pop(struct heap *h)
{
        struct far it = h->items[--h->count];
        size_t i = 0;
        for (size_t child; (child = 2 * i + 1) < h->count; i = child) {
                if (child + 1 < h->count && h->items[child + 1].next > h->items[child].next)
                        child++;
                if (h->items[child].next <= it.next)
                        break;
                h->items[i] = h->items[child];
        }
        h->items[i] = it;
}

void sim_bound_bytes(const struct sim_keys *k, uint64_t capacity, struct sim_result *out)
{
        *out = (struct sim_result){0};
        cas_cleanup_free uint32_t *next = next_uses(k);
        cas_cleanup_free uint64_t *kept = cas_xcalloc(k->distinct + 1, sizeof(kept[0]));
        cas_cleanup_free uint32_t *due = cas_xcalloc(k->distinct + 1, sizeof(due[0]));
        struct heap heap = {0};
        uint64_t used = 0;
        for (size_t i = 0; i < k->count; i++) {
                uint32_t n = k->reads[i];
                count_read(k, i, kept[n], out);
                used -= kept[n];
                kept[n] = next[i] == NEVER ? 0 : k->bytes[n];
                used += kept[n];
                due[n] = next[i];
                if (kept[n])
                        heap_push(&heap, (struct far){next[i], n});
                while (used > capacity) {
                        struct far top = heap.items[0];
                        if (due[top.key] != top.next || kept[top.key] == 0) {
                                heap_pop(&heap);
                                continue;
                        }
                        uint64_t cut = cas_min_u64(kept[top.key], used - capacity);
                        kept[top.key] -= cut;
                        used -= cut;
                }
        }
        free(heap.items);
}

struct cost {
        double bytes; /* times reads that it is kept for */
        uint32_t key;
};

static int by_cost(const void *a, const void *b)
{
        double x = ((const struct cost *)a)->bytes, y = ((const struct cost *)b)->bytes;
        return x < y ? -1 : x > y;
}

void sim_bound_hits(const struct sim_keys *k, uint64_t capacity, struct sim_result *out)
{
        *out = (struct sim_result){0};
        cas_cleanup_free uint32_t *next = next_uses(k);
        cas_cleanup_free struct cost *costs = cas_xmalloc((k->count + 1) * sizeof(costs[0]));
        size_t count = 0;
        for (size_t i = 0; i < k->count; i++) {
                count_read(k, i, 0, out);
                uint64_t bytes = k->bytes[k->reads[i]];
                if (next[i] != NEVER && !k->scan[next[i]] && bytes <= capacity)
                        costs[count++] =
                                (struct cost){(double)bytes * (double)(next[i] - i), k->reads[i]};
        }
        qsort(costs, count, sizeof(costs[0]), by_cost);
        double left = (double)capacity * (double)k->count;
        for (size_t i = 0; i < count && (left -= costs[i].bytes) >= 0; i++) {
                out->hits++;
                out->hit_bytes += k->bytes[costs[i].key];
        }
}

/* ---- whole entries, of which some are looked at when one must go ---- */

struct held {
        const struct sim_keys *k;
        uint32_t *place; /* owned; of each key: in `in`, and one */
        uint32_t *in;    /* owned */
        uint32_t in_count;
        uint64_t used, random;
};

static struct held held_new(const struct sim_keys *k)
{
        return (struct held){.k = k,
                             .place = cas_xcalloc(k->distinct + 1, sizeof(uint32_t)),
                             .in = cas_xcalloc(k->distinct + 1, sizeof(uint32_t)),
                             .random = 1};
}

static void held_free(struct held *h)
{
        free(h->place);
        free(h->in);
}

static void held_add(struct held *h, uint32_t n, struct sim_result *out)
{
        h->in[h->in_count++] = n;
        h->place[n] = h->in_count;
        h->used += h->k->bytes[n];
        out->written_bytes += h->k->bytes[n];
}

static void held_drop(struct held *h, uint32_t n)
{
        uint32_t at = h->place[n] - 1, moved = h->in[--h->in_count];
        h->in[at] = moved;
        h->place[moved] = at + 1;
        h->place[n] = 0;
        h->used -= h->k->bytes[n];
}

/* The one that is worth the least out of some, and n. */
static uint32_t held_worst(struct held *h, uint32_t n, double (*worth)(const void *arg, uint32_t n),
                           const void *arg)
{
        uint32_t worst = h->place[n] ? n : h->in[0];
        for (unsigned c = 0; c < CANDIDATES; c++) {
                uint32_t one = h->in[sim_random(&h->random) % h->in_count];
                if (worth(arg, one) < worth(arg, worst))
                        worst = one;
        }
        return worst;
}

struct future {
        const struct sim_keys *k;
        uint32_t *due; /* of each key */
        size_t now;
};

static double worth_later(const void *arg, uint32_t n)
{
        const struct future *f = arg;
        return f->due[n] == NEVER ? -1e300 : -(double)f->k->bytes[n] * (double)(f->due[n] - f->now);
}

void sim_offline(const struct sim_keys *k, uint64_t capacity, struct sim_result *out)
{
        *out = (struct sim_result){0};
        cas_cleanup_free uint32_t *next = next_uses(k);
        cas_cleanup_free uint32_t *due = cas_xcalloc(k->distinct + 1, sizeof(due[0]));
        struct held h = held_new(k);
        struct future f = {.k = k, .due = due};
        for (f.now = 0; f.now < k->count; f.now++) {
                uint32_t n = k->reads[f.now];
                count_read(k, f.now, h.place[n] ? k->bytes[n] : 0, out);
                due[n] = next[f.now];
                if (!h.place[n] && due[n] != NEVER && k->bytes[n] <= capacity)
                        held_add(&h, n, out);
                else if (h.place[n] && due[n] == NEVER)
                        held_drop(&h, n);
                while (h.used > capacity)
                        held_drop(&h, held_worst(&h, n, worth_later, &f));
        }
        held_free(&h);
}

/* Of all, as of one time: the logarithm, so that nothing must be decayed. */
static double heat_of(const void *arg, uint32_t n)
{
        return ((const double *)arg)[n];
}

void sim_heat(const struct sim_keys *k, uint64_t capacity, double half_life, struct sim_result *out)
{
        *out = (struct sim_result){0};
        cas_cleanup_free double *heat = cas_xcalloc(k->distinct + 1, sizeof(heat[0]));
        struct held h = held_new(k);
        for (uint32_t n = 0; n < k->distinct; n++)
                heat[n] = -1e300;
        for (size_t i = 0; i < k->count; i++) {
                uint32_t n = k->reads[i];
                double now = (double)i / half_life;
                count_read(k, i, h.place[n] ? k->bytes[n] : 0, out);
                heat[n] = heat[n] < now - 60 ? now : now + log2(1 + exp2(heat[n] - now));
                if (!h.place[n] && k->bytes[n] <= capacity)
                        held_add(&h, n, out);
                while (h.used > capacity) {
                        uint32_t worst = held_worst(&h, n, heat_of, heat);
                        if (worst == n)
                                out->written_bytes -= k->bytes[n]; /* it never came in */
                        held_drop(&h, worst);
                }
        }
        held_free(&h);
}

void sim_static(const struct sim_keys *k, uint64_t capacity, struct sim_result *out)
{
        *out = (struct sim_result){0};
        cas_cleanup_free struct cost *keys = cas_xcalloc(k->distinct + 1, sizeof(keys[0]));
        cas_cleanup_free uint32_t *uses = cas_xcalloc(k->distinct + 1, sizeof(uses[0]));
        for (size_t i = 0; i < k->count; i++) {
                count_read(k, i, 0, out);
                uses[k->reads[i]] += !k->scan[i];
        }
        for (uint32_t n = 0; n < k->distinct; n++)
                keys[n] = (struct cost){(double)k->bytes[n] / (double)(uses[n] + 1e-9), n};
        qsort(keys, k->distinct, sizeof(keys[0]), by_cost);
        uint64_t left = capacity;
        for (uint32_t i = 0; i < k->distinct; i++) {
                uint32_t n = keys[i].key;
                if (k->bytes[n] > left || uses[n] < 2)
                        continue;
                left -= k->bytes[n];
                out->hits += uses[n] - 1;
                out->hit_bytes += (uses[n] - 1) * k->bytes[n];
        }
}
