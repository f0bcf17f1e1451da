/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on the tiers of a store. */
#include "tools/ops_tier.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "tiering/heat.h"
#include "tools/ops_json.h"

#define BUSY_WAIT_MS 200
#define BUSY_MS                                                                                    \
        30000 /* for one pack that somebody writes to, or a store that asks for patience           \
               */

json_t *op_number(uint64_t v)
{
        return json_integer((json_int_t)v);
}

int op_tier_set_of(struct cas_store *s, struct tier_set **out, struct cas_err *err)
{
        *out = tier_set_of(s);
        return *out ? 0 : cas_fail(err, CAS_E_UNSUPPORTED, "the store was opened without tiers");
}

static bool told_to_stop(void *arg)
{
        const struct op_context *ctx = arg;
        return ctx->ending && atomic_load(ctx->ending);
}

/* ---- list ---- */

static void numbers_set(json_t *o, const struct op_number *rows, size_t count)
{
        for (size_t i = 0; i < count; i++)
                json_object_set_new(o, rows[i].key, op_number(rows[i].value));
}

static json_t *tier_json(const struct tier_status *t)
{
        const struct tier_config *c = &t->config;
        const struct op_number rows[] = {
                {"id", c->id},
                {"capacity", c->capacity_bytes},
                {"high", c->high_percent},
                {"low", c->low_percent},
                {"cache", c->cache_bytes},
                {"rate", c->bytes_per_s},
                {"coolAfter", c->cool_after_s},
                {"homeBytes", t->home_bytes},
                {"otherBytes", t->other_bytes},
                {"cachedBytes", t->cached_bytes},
                {"roomBytes", t->room_bytes},
                {"writtenBytes", t->written_bytes},
                {"readBytes", t->read_bytes},
                {"waits", t->waits},
                {"waitedMs", t->waited_ms},
                {"refused", t->refused},
        };
        json_t *o = json_pack("{s:s, s:s, s:o, s:s, s:s, s:o, s:b}", "name", c->name, "class",
                              tier_class_name(c->class), "where",
                              op_text_json(c->where ? c->where : ""), "density",
                              tier_density_name(c->density), "state", tier_state_name(t->state),
                              "why", op_text_json(t->why), "isCache", t->is_cache);
        numbers_set(o, rows, CAS_COUNT(rows));
        if (t->has_counts) {
                const struct op_number remote[] = {
                        {"requests", t->counts.requests}, {"failed", t->counts.failed},
                        {"retried", t->counts.retried},   {"slowed", t->counts.slowed},
                        {"bytesIn", t->counts.bytes_in},  {"bytesOut", t->counts.bytes_out}};
                json_t *r = json_object();
                numbers_set(r, remote, CAS_COUNT(remote));
                json_object_set_new(o, "remote", r);
        }
        return o;
}

static bool tier_seen(void *arg, const struct tier_status *t)
{
        json_array_append_new(arg, tier_json(t));
        return true;
}

static json_t *mover_json(const struct op_context *ctx, struct tier_set *set)
{
        struct tier_mover_status m = {.state = tier_set_is_paused(set) ? "paused" : "none"};
        char pack[20] = "";
        if (ctx->mover)
                tier_mover_status(ctx->mover, &m);
        const struct op_number rows[] = {
                {"duePacks", m.due_packs},         {"dueBytes", m.due_bytes},
                {"dueSince", m.due_since_unix_s},  {"movedPacks", m.moved_packs},
                {"recodedPacks", m.recoded_packs}, {"movedBytes", m.moved_bytes},
                {"writtenBytes", m.written_bytes}, {"failures", m.failures},
                {"bytesPerSecond", m.bytes_per_s}};
        json_t *o = json_pack("{s:s, s:b, s:o}", "state", m.state, "paused",
                              tier_set_is_paused(set), "lastFailure", op_text_json(m.failed));
        numbers_set(o, rows, CAS_COUNT(rows));
        if (m.pack_id) {
                (void)snprintf(pack, sizeof(pack), "%016" PRIx64, m.pack_id);
                json_object_set_new(o, "moving",
                                    json_pack("{s:s, s:o, s:o, s:o, s:o, s:s}", "pack", pack,
                                              "from", op_number(m.from), "to", op_number(m.to),
                                              "bytes", op_number(m.pack_bytes), "since",
                                              op_number(m.began_unix_s), "why",
                                              tier_reason_name(m.reason)));
        }
        return o;
}

static json_t *cache_json(struct tier_set *set)
{
        struct tier_blocks_counts c;
        if (!tier_set_cache_counts(set, &c))
                return json_null();
        const struct op_number rows[] = {{"capacity", c.capacity_bytes},
                                         {"cachedBytes", c.cached_bytes},
                                         {"blocks", c.cached_blocks},
                                         {"packs", c.cached_packs},
                                         {"hits", c.hits},
                                         {"misses", c.misses},
                                         {"hitBytes", c.hit_bytes},
                                         {"missBytes", c.miss_bytes},
                                         {"admitted", c.admitted},
                                         {"rejected", c.rejected},
                                         {"evicted", c.evicted},
                                         {"bad", c.bad},
                                         {"shared", c.shared},
                                         {"broughtBytes", c.brought_bytes},
                                         {"memoryBytes", c.memory_bytes},
                                         {"unkept", c.unkept}};
        json_t *o = json_object();
        numbers_set(o, rows, CAS_COUNT(rows));
        return o;
}

json_t *op_tiers_json(struct tier_set *set, const struct op_context *ctx)
{
        json_t *tiers = json_array();
        tier_set_each(set, tier_seen, tiers);
        return json_pack("{s:b, s:o, s:o, s:o}", "configured", tier_set_is_configured(set), "tiers",
                         tiers, "mover", mover_json(ctx, set), "blockCache", cache_json(set));
}

static json_t *packs_json(const struct tier_plan *plan)
{
        json_t *packs = json_array();
        for (size_t i = 0; i < plan->count; i++) {
                const struct tier_candidate *c = &plan->list[i];
                char id[20];
                (void)snprintf(id, sizeof(id), "%016" PRIx64, c->pack.pack_id);
                json_array_append_new(
                        packs,
                        json_pack("{s:s, s:o, s:o, s:o, s:s, s:b, s:f, s:o, s:s}", "pack", id,
                                  "tier", op_number(c->pack.tier), "bytes",
                                  op_number(c->pack.size_bytes), "deadBytes",
                                  op_number(c->pack.dead_bytes), "density",
                                  tier_density_name(c->pack.density), "open", c->pack.open, "heat",
                                  (double)c->heat / TIER_HEAT_READ, "used",
                                  op_number(c->used_unix_s), "next", tier_reason_name(c->reason)));
        }
        return packs;
}

int op_tier_list(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        tier_cleanup_plan struct tier_plan plan = {0};
        bool packs = json_is_true(json_object_get(args, "packs"));
        if (op_tier_set_of(s, &set, err) < 0 || tier_plan_make(s, set, NULL, NULL, &plan, err) < 0)
                return -(int)err->code;
        json_t *out = op_tiers_json(set, ctx);
        json_object_set_new(out, "time", op_number((uint64_t)time(NULL)));
        if (packs)
                json_object_set_new(out, "packs", packs_json(&plan));
        *result = out;
        return 0;
}

/* ---- the list's changes ---- */

static int settings_apply(const json_t *args, struct tier_config *c, struct cas_err *err)
{
        const char *key;
        json_t *value;
        json_t *settings = json_object_get(args, "settings");
        /* id and state are the store's own. */
        json_object_foreach(settings, key, value)
        {
                if (!json_is_string(value) || strcmp(key, "id") == 0 || strcmp(key, "state") == 0)
                        return cas_fail(err, CAS_E_INVALID, "setting %s", key);
                if (tier_config_set(c, key, json_string_value(value), err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

int op_tier_add(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        const char *name, *class_name;
        enum tier_class class = TIER_SSD;
        struct tier_config c;
        if (op_tier_set_of(s, &set, err) < 0 || op_arg_string(args, "name", &name, err) < 0 ||
            op_arg_string_opt(json_object_get(args, "settings"), "class", &class_name, err) < 0)
                return -(int)err->code;
        if (class_name && !tier_class_parse(class_name, &class))
                return cas_fail(err, CAS_E_INVALID, "class: nvme, ssd, hdd or remote, not %s",
                                class_name);
        tier_config_init(&c, class);
        (void)snprintf(c.name, sizeof(c.name), "%s", name);
        int rc = 0;
        if (strlen(name) >= sizeof(c.name))
                rc = cas_fail(err, CAS_E_INVALID, "%s: the name is too long", name);
        if (rc == 0)
                rc = settings_apply(args, &c, err);
        if (rc == 0)
                rc = tier_set_add(set, &c, err);
        tier_config_release(&c);
        if (rc == 0)
                *result = op_tiers_json(set, ctx);
        return rc;
}

/* Reads the settings, lets `edit` change them, and writes them. */
static int tier_edit(struct tier_set *set, const char *name, const json_t *args,
                     const bool *leaving, struct cas_err *err)
{
        struct tier_config c;
        int rc = tier_set_config(set, name, &c, err);
        if (rc < 0)
                return rc;
        if (leaving)
                c.leaving = *leaving;
        else
                rc = settings_apply(args, &c, err);
        if (rc == 0)
                rc = tier_set_change(set, &c, err);
        tier_config_release(&c);
        return rc;
}

int op_tier_set(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        const char *name;
        if (op_tier_set_of(s, &set, err) < 0 || op_arg_string(args, "name", &name, err) < 0 ||
            tier_edit(set, name, args, NULL, err) < 0)
                return -(int)err->code;
        *result = op_tiers_json(set, ctx);
        return 0;
}

int op_tier_pause(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        if (op_tier_set_of(s, &set, err) < 0 ||
            tier_set_pause(set, json_is_true(json_object_get(args, "paused")), err) < 0)
                return -(int)err->code;
        *result = op_tiers_json(set, ctx);
        return 0;
}

/* ---- removing ---- */

struct held {
        uint32_t tier;
        uint64_t packs, bytes;
};

static bool held_seen(void *arg, const struct cas_pack_info *pack)
{
        struct held *h = arg;
        if (pack->tier == h->tier) {
                h->packs++;
                h->bytes += pack->size_bytes;
        }
        return true;
}

struct state_wanted {
        uint32_t id;
        enum tier_state state;
};

static bool state_seen(void *arg, const struct tier_status *t)
{
        struct state_wanted *w = arg;
        if (t->config.id != w->id)
                return true;
        w->state = t->state;
        return false;
}

static int removal_check(struct tier_set *set, const struct held *h, const char *name, bool force,
                         struct cas_err *err)
{
        struct state_wanted w = {.id = h->tier};
        tier_set_each(set, state_seen, &w);
        bool lost = w.state == TIER_FAILED || w.state == TIER_REFUSED;
        if (h->packs == 0)
                return 0;
        if (!lost)
                return cas_fail(err, CAS_E_BUSY,
                                "tier %s holds %" PRIu64 " packs (%" PRIu64
                                " bytes): `lamina tier evacuate %s` moves them away first",
                                name, h->packs, h->bytes, name);
        if (!force)
                return cas_fail(err, CAS_E_BUSY,
                                "tier %s cannot be reached, and %" PRIu64 " packs (%" PRIu64
                                " bytes) have their home there. Bring it back; if it is lost for "
                                "good, --force forgets it and tells what depended on it, and "
                                "`lamina fsck --repair` then brings back what other copies there "
                                "are",
                                name, h->packs, h->bytes);
        return 0;
}

int op_tier_remove(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                   json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        const char *name;
        struct held h = {0};
        bool force = json_is_true(json_object_get(args, "force"));
        op_cleanup_json json_t *images = json_array();
        (void)ctx;
        if (op_tier_set_of(s, &set, err) < 0 || op_arg_string(args, "name", &name, err) < 0 ||
            tier_set_find(set, name, &h.tier, err) < 0 ||
            cas_pack_each(s, held_seen, &h, err) < 0 ||
            removal_check(set, &h, name, force, err) < 0)
                return -(int)err->code;
        if (h.packs > 0 && op_tier_dependents(s, h.tier, images, err) < 0)
                return -(int)err->code;
        if (tier_set_remove(set, name, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:o, s:o, s:O}", "packs", op_number(h.packs), "bytes",
                            op_number(h.bytes), "images", images);
        return 0;
}

/* ---- moving ---- */

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* One that somebody writes to is waited for. */
static int move_patiently(struct cas_store *s, const struct op_context *ctx,
                          const struct tier_candidate *c, struct cas_pack_move_result *out,
                          struct cas_err *err)
{
        struct op_context asked = *ctx;
        uint64_t until_ms = now_ms() + BUSY_MS;
        for (;;) {
                struct cas_err why = CAS_ERR_INIT;
                int rc = tier_move_pack(s, c, false, told_to_stop, &asked, out, &why);
                if (rc == 0 || rc == -CAS_E_NOTFOUND) /* collected meanwhile */
                        return 0;
                if (rc != -CAS_E_BUSY || now_ms() > until_ms || told_to_stop(&asked)) {
                        *err = why;
                        return rc;
                }
                (void)nanosleep(&(struct timespec){.tv_nsec = BUSY_WAIT_MS * 1000000}, NULL);
        }
}

struct moving {
        uint64_t packs, recoded, before, after;
};

static void moved_note(struct moving *m, const struct cas_pack_move_result *r)
{
        m->packs++;
        m->recoded += r->recoded;
        m->before += r->bytes_before;
        m->after += r->bytes_after;
}

static json_t *moved_json(const struct moving *m)
{
        return json_pack("{s:o, s:o, s:o, s:o}", "packs", op_number(m->packs), "recoded",
                         op_number(m->recoded), "bytes", op_number(m->before), "bytesAfter",
                         op_number(m->after));
}

int op_tier_move(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        const char *what, *name;
        uint32_t to;
        struct moving m = {0};
        op_cleanup_packs struct op_packs packs = {0};
        if (op_tier_set_of(s, &set, err) < 0 || op_arg_string(args, "what", &what, err) < 0 ||
            op_arg_string(args, "tier", &name, err) < 0 || tier_set_find(set, name, &to, err) < 0 ||
            op_packs_find(s, what, &packs, err) < 0)
                return -(int)err->code;
        uint64_t total = 0, done = 0;
        for (size_t i = 0; i < packs.count; i++)
                total += packs.list[i].info.size_bytes;
        for (size_t i = 0; i < packs.count; i++) {
                const struct tier_candidate c = {.pack = packs.list[i].info, .to = to};
                struct cas_pack_move_result r = {0};
                cas_progress_update(ctx->progress, "moving", done, total);
                if (c.pack.tier != to) {
                        if (move_patiently(s, ctx, &c, &r, err) < 0)
                                return -(int)err->code;
                        moved_note(&m, &r);
                }
                done += c.pack.size_bytes;
        }
        *result = moved_json(&m);
        return 0;
}

/* Of a plan, what leaves the tier; true: there was something. */
static bool next_leaving(const struct tier_plan *plan, uint32_t tier, size_t *at)
{
        for (; *at < plan->due_count; ++*at) {
                const struct tier_candidate *c = &plan->list[*at];
                if (c->pack.tier == tier && c->reason == TIER_EVACUATED)
                        return true;
        }
        return false;
}

/* One plan's worth. *left: of packs that are there still. */
static int evacuate_round(struct cas_store *s, struct tier_set *set, uint32_t tier,
                          const struct op_context *ctx, struct moving *m, uint64_t *left,
                          struct cas_err *err)
{
        tier_cleanup_plan struct tier_plan plan = {0};
        struct cas_pack_move_result r;
        uint64_t total = m->before;
        *left = 0;
        if (tier_plan_make(s, set, NULL, NULL, &plan, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; next_leaving(&plan, tier, &i); i++)
                total += plan.list[i].pack.size_bytes;
        for (size_t i = 0; next_leaving(&plan, tier, &i); i++) {
                struct tier_candidate *c = &plan.list[i];
                ++*left;
                cas_progress_update(ctx->progress, "evacuating", m->before, total);
                /* Room goes to those who came before. */
                c->to = tier_set_below(set, tier, c->pack.size_bytes, true);
                if (c->to == CAS_TIER_ANY)
                        return cas_fail(err, CAS_E_NOSPACE,
                                        "no other tier has room for pack %016" PRIx64 " (%" PRIu64
                                        " bytes): raise a capacity, or add a tier",
                                        c->pack.pack_id, c->pack.size_bytes);
                if (move_patiently(s, ctx, c, &r, err) < 0)
                        return -(int)err->code;
                moved_note(m, &r);
        }
        return 0;
}

int op_tier_evacuate(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                     json_t **result, struct cas_err *err)
{
        struct tier_set *set;
        const char *name;
        uint32_t id;
        bool leaving = !json_is_true(json_object_get(args, "stop"));
        struct moving m = {0};
        if (op_tier_set_of(s, &set, err) < 0 || op_arg_string(args, "name", &name, err) < 0 ||
            tier_set_find(set, name, &id, err) < 0 || tier_edit(set, name, args, &leaving, err) < 0)
                return -(int)err->code;
        uint64_t left = leaving ? 1 : 0;
        /* The mover, too, works on it: what is left is looked at until there is none. */
        while (left > 0) {
                if (evacuate_round(s, set, id, ctx, &m, &left, err) < 0)
                        return -(int)err->code;
        }
        *result = moved_json(&m);
        return 0;
}
