/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/mover.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "cas/log.h"
#include "tiering/tierset_int.h"

#define TICK_MS 5000
#define HEAT_SAVE_NS UINT64_C(300000000000)
#define DELAY_BUSY_NS UINT64_C(1000000000)
#define DELAY_MIN_NS UINT64_C(2000000000)
#define DELAY_MAX_NS UINT64_C(900000000000)
#define DELAYS_MAX 512     /* packs and tiers that failed; the one that is due first is forgotten */
#define PLAN_NS 2000000000 /* a plan is not worked on for longer */
#define RATE_SLOTS 12      /* of 5 seconds */
#define TIER_KEY UINT64_MAX /* in place of a pack's id */

/* A pack, or a target as a whole, that is not tried before its time. */
struct delay {
        uint64_t pack_id; /* TIER_KEY: all that goes to the tier */
        uint32_t to;
        uint64_t until_ns, length_ns;
};

struct tier_mover {
        struct cas_store *s;
        struct tier_set *set;
        enum tier_mover_kind kind;
        pthread_t thread;
        _Atomic(bool) stopping;

        struct cas_mutex mutex; /* a leaf; guards the three below */
        pthread_cond_t wake;
        bool woken;
        struct tier_mover_status status;

        /* of the thread alone */
        struct delay delays[DELAYS_MAX];
        size_t delay_count;
        uint32_t sinking[TIERS_MAX]; /* tiers between their marks, on their way down */
        size_t sinking_count;
        uint64_t heat_saved_ns;
        uint64_t slots[RATE_SLOTS], slot_at; /* bytes moved; the slot's number of time */
};

/* ---- one move ---- */

/* Both devices pay; one pace can be waited for: the slower one's. */
static struct cas_pace *slower_pace(struct tier_set *set, uint32_t from, uint32_t to)
{
        struct cas_pace *a = tier_set_pace(set, from), *b = tier_set_pace(set, to);
        uint64_t x = a ? atomic_load(&a->bytes_per_s) : 0;
        uint64_t y = b ? atomic_load(&b->bytes_per_s) : 0;
        if (!x && !y)
                return NULL;
        return !y || (x && x < y) ? a : b;
}

int tier_move_pack(struct cas_store *s, const struct tier_candidate *c, bool hurry,
                   bool (*stop)(void *arg), void *stop_arg, struct cas_pack_move_result *out,
                   struct cas_err *err)
{
        struct tier_set *set = tier_set_of(s);
        const struct cas_pack_move_options o = {
                .to = c->to,
                .pace = hurry || !set ? NULL : slower_pace(set, c->pack.tier, c->to),
                .stop = stop,
                .stop_arg = stop_arg,
        };
        return cas_pack_move(s, c->pack.pack_id, &o, out, err);
}

/* ---- what failed is left alone for a while ---- */

static struct delay *delay_find(struct tier_mover *m, uint64_t pack_id, uint32_t to)
{
        for (size_t i = 0; i < m->delay_count; i++) {
                if (m->delays[i].pack_id == pack_id && m->delays[i].to == to)
                        return &m->delays[i];
        }
        return NULL;
}

static struct delay *delay_new(struct tier_mover *m)
{
        if (m->delay_count < DELAYS_MAX)
                return &m->delays[m->delay_count++];
        struct delay *first = &m->delays[0];
        for (size_t i = 1; i < m->delay_count; i++) {
                if (m->delays[i].until_ns < first->until_ns)
                        first = &m->delays[i];
        }
        return first;
}

static void delay_put(struct tier_mover *m, uint64_t pack_id, uint32_t to, uint64_t length_ns)
{
        struct delay *d = delay_find(m, pack_id, to);
        if (!d) {
                d = delay_new(m);
                *d = (struct delay){.pack_id = pack_id, .to = to};
        }
        d->length_ns = cas_min_u64(cas_max_u64(2 * d->length_ns, length_ns), DELAY_MAX_NS);
        d->until_ns = tier_now_ns() + d->length_ns;
}

static void delay_end(struct tier_mover *m, uint64_t pack_id, uint32_t to)
{
        struct delay *d = delay_find(m, pack_id, to);
        if (d)
                *d = m->delays[--m->delay_count];
}

static bool is_delayed(struct tier_mover *m, const struct tier_candidate *c)
{
        uint64_t now = tier_now_ns();
        const struct delay *pack = delay_find(m, c->pack.pack_id, c->to);
        const struct delay *tier = delay_find(m, TIER_KEY, c->to);
        return (pack && pack->until_ns > now) || (tier && tier->until_ns > now);
}

/* Whose fault it was decides what is left alone. */
static void note_failure(struct tier_mover *m, const struct tier_candidate *c,
                         const struct cas_err *err)
{
        uint64_t id = c->pack.pack_id;
        if (err->code == CAS_E_NOTFOUND)
                return; /* collected meanwhile */
        if (err->code == CAS_E_BUSY) {
                delay_put(m, id, c->to, DELAY_BUSY_NS);
                return;
        }
        delay_put(m, id, c->to, DELAY_MIN_NS);
        if (err->code != CAS_E_CORRUPT)
                delay_put(m, TIER_KEY, c->to, DELAY_MIN_NS);
        cas_log(CAS_LOG_WARN, "mover", "pack=%016" PRIx64 " from=%u to=%u failed message=\"%s\"",
                id, c->pack.tier, c->to, err->msg);
        cas_mutex_lock(&m->mutex);
        m->status.failures++;
        (void)snprintf(m->status.failed, sizeof(m->status.failed), "%s", err->msg);
        cas_mutex_unlock(&m->mutex);
}

/* ---- figures ---- */

static void rate_note(struct tier_mover *m, uint64_t bytes)
{
        uint64_t now = tier_now_ns() / (TICK_MS * UINT64_C(1000000));
        for (uint64_t i = m->slot_at + 1; i <= now && i <= m->slot_at + RATE_SLOTS; i++)
                m->slots[i % RATE_SLOTS] = 0;
        m->slot_at = now;
        m->slots[now % RATE_SLOTS] += bytes;
        uint64_t all = 0;
        for (size_t i = 0; i < RATE_SLOTS; i++)
                all += m->slots[i];
        cas_mutex_lock(&m->mutex);
        m->status.bytes_per_s = all * 1000 / (RATE_SLOTS * TICK_MS);
        cas_mutex_unlock(&m->mutex);
}

static void status_begin(struct tier_mover *m, const struct tier_candidate *c)
{
        cas_mutex_lock(&m->mutex);
        m->status.state = "moving";
        m->status.pack_id = c->pack.pack_id;
        m->status.from = c->pack.tier;
        m->status.to = c->to;
        m->status.pack_bytes = c->pack.size_bytes;
        m->status.began_unix_s = (uint64_t)time(NULL);
        m->status.reason = c->reason;
        cas_mutex_unlock(&m->mutex);
}

static void status_end(struct tier_mover *m, int rc, const struct cas_pack_move_result *r)
{
        cas_mutex_lock(&m->mutex);
        m->status.pack_id = 0;
        if (rc == 0) {
                m->status.moved_packs++;
                m->status.recoded_packs += r->recoded;
                m->status.moved_bytes += r->bytes_before;
                m->status.written_bytes += r->bytes_after;
        }
        cas_mutex_unlock(&m->mutex);
        rate_note(m, rc == 0 ? r->bytes_before : 0);
}

static void status_plan(struct tier_mover *m, const struct tier_plan *plan)
{
        cas_mutex_lock(&m->mutex);
        m->status.due_packs = plan->due_count;
        m->status.due_bytes = plan->due_bytes;
        if (plan->due_count == 0)
                m->status.due_since_unix_s = 0;
        else if (!m->status.due_since_unix_s)
                m->status.due_since_unix_s = (uint64_t)time(NULL);
        cas_mutex_unlock(&m->mutex);
}

static void state_set(struct tier_mover *m, const char *state)
{
        cas_mutex_lock(&m->mutex);
        m->status.state = state;
        cas_mutex_unlock(&m->mutex);
}

void tier_mover_status(struct tier_mover *m, struct tier_mover_status *out)
{
        cas_mutex_lock(&m->mutex);
        *out = m->status;
        cas_mutex_unlock(&m->mutex);
}

/* ---- a round ---- */

static bool told_to_stop(void *arg)
{
        struct tier_mover *m = arg;
        return atomic_load(&m->stopping) || tier_set_is_paused(m->set);
}

static bool has_begun(void *arg, uint32_t tier)
{
        const struct tier_mover *m = arg;
        for (size_t i = 0; i < m->sinking_count; i++) {
                if (m->sinking[i] == tier)
                        return true;
        }
        return false;
}

static bool sinking_look(void *arg, const struct tier_status *t)
{
        struct tier_mover *m = arg;
        bool began = has_begun(m, t->config.id);
        uint64_t excess = tier_set_excess(m->set, t->config.id, began);
        if (excess > 0 && !began && m->sinking_count < TIERS_MAX) {
                m->sinking[m->sinking_count++] = t->config.id;
        } else if (excess == 0 && began) {
                for (size_t i = 0; i < m->sinking_count; i++) {
                        if (m->sinking[i] == t->config.id)
                                m->sinking[i] = m->sinking[--m->sinking_count];
                }
        }
        return true;
}

/* True: it was moved, or was no more to be moved. */
static bool move_one(struct tier_mover *m, const struct tier_candidate *c)
{
        struct cas_pack_move_result r = {0};
        struct cas_err err = CAS_ERR_INIT;
        status_begin(m, c);
        int rc = tier_move_pack(m->s, c, tier_set_is_wanted(m->set, c->pack.tier), told_to_stop, m,
                                &r, &err);
        status_end(m, rc, &r);
        if (rc < 0 && !told_to_stop(m))
                note_failure(m, c, &err);
        if (rc < 0)
                return false;
        delay_end(m, c->pack.pack_id, c->to);
        delay_end(m, TIER_KEY, c->to);
        cas_log(m->kind == TIER_MOVER_ALWAYS ? CAS_LOG_INFO : CAS_LOG_DEBUG, "mover",
                "pack=%016" PRIx64 " from=%u to=%u why=%s bytes=%" PRIu64 " after=%" PRIu64
                " recoded=%d",
                c->pack.pack_id, c->pack.tier, c->to, tier_reason_name(c->reason), r.bytes_before,
                r.bytes_after, r.recoded);
        return true;
}

/* Whether it is still to be done: what was moved before it may have been enough. */
static bool is_due(struct tier_mover *m, const struct tier_candidate *c)
{
        return c->reason != TIER_SINKS ||
               tier_set_excess(m->set, c->pack.tier, has_begun(m, c->pack.tier)) > 0;
}

/* Whether something may come to leave the tier: a pack in use will be left by its user. */
static bool has_hope(struct tier_mover *m, const struct tier_plan *plan, uint32_t tier)
{
        for (size_t i = 0; i < plan->due_count; i++) {
                const struct tier_candidate *c = &plan->list[i];
                const struct delay *d = delay_find(m, TIER_KEY, c->to);
                if (c->pack.tier == tier && c->to != CAS_TIER_ANY && c->to != tier &&
                    (!d || d->until_ns <= tier_now_ns()))
                        return true;
        }
        return false;
}

static void tell_stuck(struct tier_mover *m, const struct tier_plan *plan)
{
        for (size_t i = 0; i < m->sinking_count; i++) {
                if (!has_hope(m, plan, m->sinking[i]))
                        tier_set_stuck(m->set, m->sinking[i]);
        }
        if (plan->due_count > 0)
                state_set(m, "waiting");
}

/* Works on a plan for a while. True: something was moved. */
static bool round_run(struct tier_mover *m)
{
        tier_cleanup_plan struct tier_plan plan = {0};
        struct cas_err err = CAS_ERR_INIT;
        uint64_t end = tier_now_ns() + PLAN_NS;
        bool moved = false;
        state_set(m, "idle");
        tier_set_each(m->set, sinking_look, m);
        if (tier_plan_make(m->s, m->set, has_begun, m, &plan, &err) < 0) {
                cas_log(CAS_LOG_WARN, "mover", "plan=failed message=\"%s\"", err.msg);
                return false;
        }
        status_plan(m, &plan);
        for (size_t i = 0; i < plan.due_count && !told_to_stop(m) && tier_now_ns() < end; i++) {
                const struct tier_candidate *c = &plan.list[i];
                if (c->to != CAS_TIER_ANY && !is_delayed(m, c) && is_due(m, c) && move_one(m, c))
                        moved = true;
        }
        if (!moved && !told_to_stop(m))
                tell_stuck(m, &plan);
        return moved;
}

/* ---- the thread ---- */

static void wake_up(void *arg)
{
        struct tier_mover *m = arg;
        cas_mutex_lock(&m->mutex);
        m->woken = true;
        (void)pthread_cond_signal(&m->wake);
        cas_mutex_unlock(&m->mutex);
}

static void rest(struct tier_mover *m)
{
        uint64_t until = tier_now_ns() + TICK_MS * UINT64_C(1000000);
        const struct timespec deadline = {.tv_sec = (time_t)(until / 1000000000),
                                          .tv_nsec = (long)(until % 1000000000)};
        cas_mutex_lock(&m->mutex);
        while (!m->woken && !atomic_load(&m->stopping)) {
                if (!cas_mutex_timedwait(&m->mutex, &m->wake, &deadline))
                        break;
        }
        m->woken = false;
        cas_mutex_unlock(&m->mutex);
}

static void heat_keep(struct tier_mover *m)
{
        struct cas_err err = CAS_ERR_INIT;
        if (tier_now_ns() - m->heat_saved_ns < HEAT_SAVE_NS)
                return;
        m->heat_saved_ns = tier_now_ns();
        if (tier_set_save_heat(m->set, &err) < 0)
                cas_log(CAS_LOG_WARN, "mover", "heat=unsaved message=\"%s\"", err.msg);
}

static bool wanted_seen(void *arg, const struct tier_status *t)
{
        bool *wanted = arg;
        *wanted = t->waiters > 0;
        return !*wanted;
}

static bool is_time(struct tier_mover *m)
{
        bool wanted = m->kind == TIER_MOVER_ALWAYS;
        if (tier_set_is_configured(m->set) && !wanted)
                tier_set_each(m->set, wanted_seen, &wanted);
        return wanted && tier_set_is_configured(m->set);
}

static bool turn(struct tier_mover *m)
{
        tier_set_look(m->set);
        tier_set_recount(m->set);
        heat_keep(m);
        if (!tier_set_is_paused(m->set))
                return round_run(m);
        state_set(m, "paused");
        return false;
}

static void *mover_run(void *arg)
{
        struct tier_mover *m = arg;
        tier_set_mover(m->set, wake_up, m);
        while (!atomic_load(&m->stopping)) {
                if (!is_time(m) || !turn(m))
                        rest(m);
        }
        tier_set_mover(m->set, NULL, NULL);
        return NULL;
}

struct tier_mover *tier_mover_start(struct cas_store *s, enum tier_mover_kind kind)
{
        struct tier_set *set = tier_set_of(s);
        if (!set)
                return NULL;
        struct tier_mover *m = cas_xcalloc(1, sizeof(*m));
        m->s = s;
        m->set = set;
        m->kind = kind;
        m->status.state = "idle";
        m->heat_saved_ns = tier_now_ns();
        cas_mutex_init(&m->mutex, "tier.mover");
        cas_cond_init(&m->wake);
        int rc = pthread_create(&m->thread, NULL, mover_run, m);
        cas_assert(rc == 0);
        return m;
}

void tier_mover_stop(struct tier_mover *m)
{
        if (!m)
                return;
        atomic_store(&m->stopping, true);
        wake_up(m);
        (void)pthread_join(m->thread, NULL);
        cas_mutex_release(&m->mutex);
        (void)pthread_cond_destroy(&m->wake);
        free(m);
}
