/* SPDX-License-Identifier: Apache-2.0 */
/* Moves of packs between tiers: two directories, and a bucket (tests/support/fewtiers.h), which lie
 * beside the store's directory and are cut short with it. */
#include "cas/packfile_int.h"
#include "cas/record_int.h"
#include "cas/tiers.h"
#include "tests/crash/parts/operation.h"
#include "tests/support/fewtiers.h"

enum { FAST, SLOW, FAR }; /* numbers of the tiers */

/* Of what is opened from now on: how SLOW and FAR are to be written. */
static enum cas_pack_density density;

/* ---- the backend ---- */

static void close_tiers(struct cas_backend *b)
{
        struct fewtiers *t = (struct fewtiers *)b;
        fewtiers_release(t);
        free(t);
}

static void add(struct fewtiers *t, struct cas_store *s, const char *name, const char *dir,
                bool is_remote)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", cas_store_path(s), dir);
        (void)fewtiers_add(t, name, path, is_remote, density);
}

int crash_tiers_open(struct cas_store *s, struct cas_backend **out, struct cas_err *err CAS_UNUSED)
{
        struct fewtiers *t = cas_xcalloc(1, sizeof(*t));
        fewtiers_init(t);
        t->ops.close = close_tiers;
        add(t, s, "fast", "packs", false);
        add(t, s, "slow", "../slow", false);
        add(t, s, "far", "../far", true);
        t->tiers[FAST].density = CAS_PACK_FAST;
        *out = &t->backend;
        return 0;
}

int crash_cold_tiers_open(struct cas_store *s, struct cas_backend **out, struct cas_err *err)
{
        density = CAS_PACK_DEFAULT;
        return crash_tiers_open(s, out, err);
}

/* ---- packs ---- */

struct list {
        struct cas_pack_info packs[16];
        size_t count;
};

static bool note(void *arg, const struct cas_pack_info *pack)
{
        struct list *l = arg;
        must(l->count < CAS_COUNT(l->packs));
        l->packs[l->count++] = *pack;
        return true;
}

static int move_all(struct cas_store *s, uint32_t to, struct cas_err *err)
{
        struct list l = {.count = 0};
        const struct cas_pack_move_options o = {.to = to};
        int rc = cas_pack_each(s, note, &l, err);
        for (size_t i = 0; rc == 0 && i < l.count; i++) {
                struct cas_pack_move_result r;
                rc = cas_pack_move(s, l.packs[i].pack_id, &o, &r, err);
        }
        return rc;
}

/* How many chunks lie on each tier: a pack without any may be there for collection to find. */
struct spread {
        struct cas_store *s;
        uint64_t chunks[FEWTIERS_MAX];
};

static int note_chunk(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      const void *value, size_t value_len, struct cas_err *err)
{
        struct spread *spread = arg;
        struct cas_chunk_record chunk;
        struct cas_pack_record pack;
        int rc = cas_chunk_record_decode(value, value_len, &chunk, err);
        if (rc == 0)
                rc = cas_index_get_pack(spread->s->index, chunk.pack_id, &pack, err);
        if (rc == 0)
                spread->chunks[pack.tier]++;
        return rc;
}

/* False: something is lost. */
static bool look_at_tiers(struct cas_store *s, struct spread *out)
{
        struct cas_err err = CAS_ERR_INIT;
        *out = (struct spread){.s = s};
        return look_both(s) == AFTER && image_is_whole(s, "third", 90) &&
               cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_CHUNKS}, note_chunk,
                              out, &err) == 0;
}

static enum outcome look_all(struct cas_store *s, uint32_t on)
{
        struct spread spread;
        bool all = true;
        if (!look_at_tiers(s, &spread))
                return BROKEN;
        for (uint32_t tier = FAST; tier <= FAR; tier++)
                all = all && (tier == on || spread.chunks[tier] == 0);
        return all ? AFTER : BEFORE;
}

/* A sealed pack, and one that is written to. */
static void prepare_packs(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        prepare_two(s);
        must(cas_packset_seal(s->packset, &err) == 0);
        put_image(s, "third", 90, &image);
}

static void prepare_far(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_packs(s);
        must(move_all(s, FAR, &err) == 0);
}

/* Of one tier, that is to be empty, to several. */
static void prepare_evacuate(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        prepare_packs(s);
        must(move_all(s, SLOW, &err) == 0);
        put_image(s, "fourth", 130, &image);
}

static int run_slow(struct cas_store *s, struct cas_err *err)
{
        return move_all(s, SLOW, err);
}
static enum outcome look_slow(struct cas_store *s)
{
        return look_all(s, SLOW);
}
static int run_far(struct cas_store *s, struct cas_err *err)
{
        return move_all(s, FAR, err);
}
static enum outcome look_far(struct cas_store *s)
{
        return look_all(s, FAR);
}
static int run_evacuate(struct cas_store *s, struct cas_err *err)
{
        struct list l = {.count = 0};
        int rc = cas_pack_each(s, note, &l, err);
        for (size_t i = 0; rc == 0 && i < l.count; i++) {
                struct cas_pack_move_result r;
                const struct cas_pack_move_options o = {.to = i % 2 ? FAST : FAR};
                if (l.packs[i].tier == SLOW)
                        rc = cas_pack_move(s, l.packs[i].pack_id, &o, &r, err);
        }
        return rc;
}
static enum outcome look_evacuate(struct cas_store *s)
{
        struct spread spread;
        if (!look_at_tiers(s, &spread) || !image_is_whole(s, "fourth", 130))
                return BROKEN;
        return spread.chunks[SLOW] == 0 ? AFTER : BEFORE;
}

/* After collection: on each tier lie those packs whose home it is, and nothing else, and that is
 * what is counted. */
static void check_tiers(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct fewtiers *t = (struct fewtiers *)s->backend;
        struct list l = {.count = 0};
        uint64_t counted[FEWTIERS_MAX];
        must(cas_pack_each(s, note, &l, &err) == 0);
        for (uint32_t tier = 0; tier < t->count; tier++) {
                unsigned packs = 0, others;
                for (size_t i = 0; i < l.count; i++)
                        packs += l.packs[i].tier == tier;
                must(fewtiers_packs(t, tier, &others) == packs);
                must(others == 0 || tier == FAR); /* a put that broke off: the bucket's own */
                counted[tier] = atomic_load(&t->tiers[tier].used_bytes);
        }
        fewtiers_recount(t);
        for (uint32_t tier = 0; tier < t->count; tier++)
                must(tier == FAR || atomic_load(&t->tiers[tier].used_bytes) == counted[tier]);
}

static const struct operation list[] = {
        {.name = "move",
         .prepare = prepare_packs,
         .run = run_slow,
         .look = look_slow,
         .settled = check_tiers,
         .backend_open = crash_tiers_open,
         .quick = true},
        {.name = "move-recode",
         .prepare = prepare_packs,
         .run = run_slow,
         .look = look_slow,
         .settled = check_tiers,
         .backend_open = crash_cold_tiers_open},
        {.name = "move-remote",
         .prepare = prepare_packs,
         .run = run_far,
         .look = look_far,
         .settled = check_tiers,
         .backend_open = crash_tiers_open,
         .quick = true},
        {.name = "recode-remote",
         .prepare = prepare_packs,
         .run = run_far,
         .look = look_far,
         .settled = check_tiers,
         .backend_open = crash_cold_tiers_open},
        {.name = "move-back",
         .prepare = prepare_far,
         .run = run_slow,
         .look = look_slow,
         .settled = check_tiers,
         .backend_open = crash_tiers_open},
        {.name = "evacuate",
         .prepare = prepare_evacuate,
         .run = run_evacuate,
         .look = look_evacuate,
         .settled = check_tiers,
         .backend_open = crash_tiers_open},
};
const struct operations crash_tiers = {list, CAS_COUNT(list)};
