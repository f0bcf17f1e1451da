/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/plan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "tiering/heat.h"

const char *tier_reason_name(enum tier_reason reason)
{
        static const char *const names[] = {[TIER_STAYS] = "stays",
                                            [TIER_EVACUATED] = "evacuated",
                                            [TIER_SINKS] = "sinks",
                                            [TIER_COOLED] = "cooled",
                                            [TIER_DENSER] = "denser"};
        return names[reason];
}

const char *tier_reason_text(enum tier_reason reason)
{
        static const char *const texts[] = {
                [TIER_STAYS] = "it stays where it is",
                [TIER_EVACUATED] = "its tier is being evacuated",
                [TIER_SINKS] = "its tier is above its high mark, and it is among the coldest there",
                [TIER_COOLED] = "it was not read for as long as packs stay on its tier",
                [TIER_DENSER] = "it is to be written as densely as its tier has it"};
        return texts[reason];
}

void tier_plan_release(struct tier_plan *p)
{
        free(p->list);
        *p = (struct tier_plan){0};
}

/* ---- gathering ---- */

struct gathering {
        struct tier_plan *plan;
        size_t max;
};

static bool pack_seen(void *arg, const struct cas_pack_info *pack)
{
        struct gathering *g = arg;
        if (g->plan->count == g->max) {
                g->max = g->max ? g->max * 2 : 256;
                g->plan->list = cas_xrealloc(g->plan->list, g->max * sizeof(g->plan->list[0]));
        }
        g->plan->list[g->plan->count++] =
                (struct tier_candidate){.pack = *pack, .to = CAS_TIER_ANY};
        return true;
}

/* When it came to where it is, by its file; 0: not known. */
static uint64_t arrived_unix_s(struct cas_backend *b, const struct cas_pack_info *pack)
{
        struct cas_err ignored = CAS_ERR_INIT;
        struct stat st;
        char name[32];
        int dirfd;
        (void)snprintf(name, sizeof(name), "%016" PRIx64 ".pack", pack->pack_id);
        if (b->ops->pack_dir(b, pack->pack_id, pack->tier, &dirfd, &ignored) < 0 ||
            fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
                return 0;
        return st.st_mtime > 0 ? (uint64_t)st.st_mtime : 0;
}

static void warm(struct cas_store *s, struct tier_set *set, struct tier_candidate *c,
                 uint64_t now_s)
{
        struct tier_heat_of of = tier_heat_get(tier_set_heat(set), c->pack.pack_id, now_s);
        c->heat = of.heat;
        c->used_unix_s =
                cas_max_u64(of.read_unix_s, arrived_unix_s(cas_store_backend(s), &c->pack));
}

/* By tier; there, what nobody writes to first, then by heat, then by when it was used. */
static int by_coldness(const void *a, const void *b)
{
        const struct tier_candidate *x = a, *y = b;
        if (x->pack.tier != y->pack.tier)
                return x->pack.tier < y->pack.tier ? -1 : 1;
        if (x->pack.open != y->pack.open)
                return x->pack.open ? 1 : -1;
        if (x->heat != y->heat)
                return x->heat < y->heat ? -1 : 1;
        if (x->used_unix_s != y->used_unix_s)
                return x->used_unix_s < y->used_unix_s ? -1 : 1;
        return x->pack.pack_id < y->pack.pack_id ? -1 : x->pack.pack_id > y->pack.pack_id;
}

/* ---- deciding ---- */

struct deciding {
        struct tier_set *set;
        struct tier_plan *plan;
        uint64_t now_s;
        bool (*began)(void *arg, uint32_t tier);
        void *arg;
};

static void decide(struct deciding *d, struct tier_candidate *c, enum tier_reason reason)
{
        c->reason = reason;
        c->to = reason == TIER_DENSER ? c->pack.tier
                                      : tier_set_below(d->set, c->pack.tier, c->pack.size_bytes,
                                                       reason == TIER_EVACUATED);
        d->plan->due_count++;
        d->plan->due_bytes += c->pack.size_bytes;
}

static bool has_cooled(const struct tier_status *t, const struct tier_candidate *c, uint64_t now_s)
{
        return t->config.cool_after_s > 0 && c->used_unix_s > 0 && !c->pack.open &&
               now_s > c->used_unix_s && now_s - c->used_unix_s > t->config.cool_after_s;
}

/* A tier's packs, coldest first. */
static bool tier_decide(void *arg, const struct tier_status *t)
{
        struct deciding *d = arg;
        uint32_t id = t->config.id;
        uint64_t excess = 0, home = 0;
        if (t->state == TIER_OK)
                excess = tier_set_excess(d->set, id, d->began && d->began(d->arg, id));
        for (size_t i = 0; i < d->plan->count; i++) {
                struct tier_candidate *c = &d->plan->list[i];
                if (c->pack.tier != id)
                        continue;
                home += c->pack.size_bytes;
                if (t->state == TIER_LEAVING) {
                        decide(d, c, TIER_EVACUATED);
                } else if (excess > 0) {
                        decide(d, c, TIER_SINKS);
                        excess -= cas_min_u64(excess, c->pack.size_bytes);
                } else if (t->state == TIER_OK && has_cooled(t, c, d->now_s) &&
                           tier_set_below(d->set, id, c->pack.size_bytes, false) != CAS_TIER_ANY) {
                        decide(d, c, TIER_COOLED);
                } else if (t->state == TIER_OK && c->pack.density < t->config.density &&
                           c->pack.sealed && !c->pack.open) {
                        decide(d, c, TIER_DENSER);
                }
        }
        if (t->config.class == TIER_REMOTE)
                tier_set_count_remote(d->set, id, home);
        return true;
}

/* What is to be done first, by reason; the sort is stable by what by_coldness looks at. */
static int by_reason(const void *a, const void *b)
{
        const struct tier_candidate *x = a, *y = b;
        unsigned p = x->reason == TIER_STAYS ? TIER_DENSER + 1 : x->reason;
        unsigned q = y->reason == TIER_STAYS ? TIER_DENSER + 1 : y->reason;
        if (p != q)
                return p < q ? -1 : 1;
        return by_coldness(a, b);
}

int tier_plan_make(struct cas_store *s, struct tier_set *set,
                   bool (*began)(void *arg, uint32_t tier), void *arg, struct tier_plan *out,
                   struct cas_err *err)
{
        struct tier_plan plan = {0};
        struct gathering g = {.plan = &plan};
        struct deciding d = {.set = set,
                             .plan = &plan,
                             .now_s = (uint64_t)time(NULL),
                             .began = began,
                             .arg = arg};
        int rc = cas_pack_each(s, pack_seen, &g, err);
        if (rc < 0) {
                tier_plan_release(&plan);
                return rc;
        }
        for (size_t i = 0; i < plan.count; i++)
                warm(s, set, &plan.list[i], d.now_s);
        if (plan.count)
                qsort(plan.list, plan.count, sizeof(plan.list[0]), by_coldness);
        tier_set_each(set, tier_decide, &d);
        if (plan.count)
                qsort(plan.list, plan.count, sizeof(plan.list[0]), by_reason);
        *out = plan;
        return 0;
}
