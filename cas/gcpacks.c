/* SPDX-License-Identifier: Apache-2.0 */
/* Dead bytes of packs, and packs that are worth to be written anew. */
#include "cas/gc_int.h"

#include "cas/map.h"
#include "cas/packfile_int.h"

/* With less than this share, or so little, a pack may be empty: it is looked at. */
#define EMPTY_SHARE_DIVISOR 16
#define EMPTY_BYTES (64 * CAS_KIB)

/* ---- dead bytes ---- */

struct noting {
        struct cas_gc_run *gc;
        struct cas_batch *batch;
        struct cas_err *err;
        int rc;
};

static int note_pack(struct noting *n, uint64_t pack_id, uint64_t bytes, struct cas_err *err)
{
        struct cas_pack_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t before;
        int rc = cas_index_get_pack(n->gc->ix, pack_id, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0; /* it has gone, or nothing in it was ever committed */
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = cas_pack_dead_get(n->gc->ix, pack_id, &before, err);
        if (rc == 0)
                cas_batch_put_pack_dead(n->batch, pack_id,
                                        cas_min_u64(before + bytes, rec.size_bytes));
        return rc;
}

static void note_entry(void *arg, const void *key, size_t key_len CAS_UNUSED, uint64_t value)
{
        struct noting *n = arg;
        if (n->rc == 0)
                n->rc = note_pack(n, cas_get_be64(key), value, n->err);
}

static int note_map(struct cas_gc_run *gc, const struct cas_map *dead, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct noting n = {.gc = gc, .batch = batch, .err = err};
        cas_map_each(dead, note_entry, &n);
        return n.rc < 0 ? n.rc : cas_index_write_soon(gc->ix, batch, err);
}

int cas_gc_note_dead(struct cas_gc_run *gc, struct cas_err *err)
{
        int rc = note_map(gc, gc->dead, err);
        cas_map_free(gc->dead);
        gc->dead = cas_map_new();
        if (rc < 0 || gc->trial)
                return rc;
        cas_cleanup_map struct cas_map *others = cas_packset_take_dead(gc->s->packset);
        return note_map(gc, others, err);
}

/* ---- choosing ---- */

struct thin_pack {
        uint64_t pack_id, size_bytes, dead_bytes;
        uint32_t tier;
        enum cas_pack_density density;
        bool if_empty; /* only then */
};
struct thin_packs {
        struct cas_gc_run *gc;
        struct thin_pack *list; /* owned */
        size_t count, max;
        struct cas_batch *stale; /* borrowed: takes records of packs that are gone away */
};

static int find_thin_pack(void *arg, const void *key, size_t key_len, const void *value,
                          size_t value_len, struct cas_err *err)
{
        struct thin_packs *thin = arg;
        struct cas_pack_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_cursor c = cas_cursor_over(value, value_len);
        uint64_t dead = cas_cursor_varint(&c);
        if (key_len != 8 || c.failed)
                return cas_fail(err, CAS_E_CORRUPT, "dead bytes of a pack: malformed");
        const uint64_t pack_id = cas_get_be64(key);
        int rc = cas_index_get_pack(thin->gc->ix, pack_id, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND) { /* noted after the pack had gone */
                cas_batch_put_pack_dead(thin->stale, pack_id, 0);
                return 0;
        }
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (!cas_packset_is_reachable(thin->gc->s->packset, rec.tier))
                return 0; /* its turn comes when it is here again */
        uint64_t live = rec.size_bytes - cas_min_u64(dead, rec.size_bytes);
        bool is_thin = live * 100 < rec.size_bytes * thin->gc->options->live_percent_min;
        if (!is_thin && live >= rec.size_bytes / EMPTY_SHARE_DIVISOR && live >= EMPTY_BYTES)
                return 0;
        if (thin->count == thin->max) {
                thin->max = thin->max ? 2 * thin->max : 64;
                thin->list = cas_xrealloc(thin->list, thin->max * sizeof(thin->list[0]));
        }
        thin->list[thin->count++] =
                (struct thin_pack){.pack_id = pack_id,
                                   .size_bytes = rec.size_bytes,
                                   .dead_bytes = dead,
                                   .tier = rec.tier,
                                   .density = (enum cas_pack_density)rec.density,
                                   .if_empty = !is_thin};
        return 0;
}

struct liveness {
        struct cas_index *ix;
        bool live;
};

/* Ends the walk, as a failure of its own kind, with the first that is live. */
static int look_at_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct liveness *l = arg;
        int rc = cas_pack_item_is_live(l->ix, item, &l->live, err);
        return rc == 0 && l->live ? cas_fail(err, CAS_E_BUSY, "live") : rc;
}

/* Others recode packs, too. */
static bool pack_has_gone(struct cas_gc_run *gc, uint64_t pack_id)
{
        struct cas_pack_record rec;
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_index_get_pack(gc->s->index, pack_id, &rec, &ignored) == -CAS_E_NOTFOUND;
}

/* One that has gone meanwhile is not. */
static int pack_is_empty(struct cas_gc_run *gc, uint64_t pack_id, bool *out, struct cas_err *err)
{
        struct liveness l = {.ix = gc->ix};
        struct cas_err why = CAS_ERR_INIT;
        uint64_t end;
        bool sealed;
        cas_cleanup_fd int fd = -1;
        int rc = cas_packset_open_pack(gc->s->packset, pack_id, &fd, &why);
        if (rc == 0)
                rc = cas_pack_walk(gc->s->io, fd, pack_id, look_at_item, &l, &end, &sealed, &why);
        *out = rc == 0;
        if (l.live || (rc == -CAS_E_NOTFOUND && pack_has_gone(gc, pack_id)))
                return 0;
        if (rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED || rc == -CAS_E_NOTFOUND) {
                cas_gc_note_damage(gc, &why);
                return 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

/* ---- writing anew ---- */

static bool yield(void *arg)
{
        return cas_gc_goes_on(arg);
}

static int take_pack(struct cas_gc_run *gc, struct cas_recoder *recoder,
                     const struct thin_pack *pack, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        bool empty = true;
        int rc = pack->if_empty ? pack_is_empty(gc, pack->pack_id, &empty, err) : 0;
        if (rc < 0 || !empty)
                return rc;
        rc = cas_recoder_pack(recoder, pack->pack_id, &why);
        if (rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED) {
                cas_gc_note_damage(gc, &why);
                return 0;
        }
        if (rc == -CAS_E_BUSY && gc->out->stopped)
                return 0;
        if (rc < 0)
                *err = why;
        return rc;
}

static bool is_alike(const struct thin_pack *a, const struct thin_pack *b)
{
        return a->tier == b->tier && a->density == b->density;
}

/* The first, and all those that are written as it is, on the same tier. */
static int rewrite_alike(struct cas_gc_run *gc, const struct thin_packs *thin, size_t first,
                         struct cas_err *err)
{
        const struct cas_recode_hooks hooks = {.yield = yield, .arg = gc};
        struct cas_recode_result result = {0};
        struct cas_recoder *recoder = cas_recoder_new(gc->s->packset, thin->list[first].density,
                                                      thin->list[first].tier, &hooks);
        int rc = 0;
        for (size_t i = first; rc == 0 && i < thin->count && !gc->out->stopped; i++) {
                if (!is_alike(&thin->list[i], &thin->list[first]))
                        continue;
                rc = take_pack(gc, recoder, &thin->list[i], err);
                cas_progress_update(gc->progress, "packs", i + 1, thin->count);
        }
        if (rc == 0)
                rc = cas_recoder_finish(recoder, &result, err);
        cas_recoder_free(recoder);
        gc->out->packs_removed += result.empty;
        gc->out->packs_rewritten += result.packs - result.empty;
        gc->out->bytes_freed +=
                result.bytes_before - cas_min_u64(result.bytes_after, result.bytes_before);
        return rc;
}

static int rewrite_packs(struct cas_gc_run *gc, const struct thin_packs *thin, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < thin->count && !gc->out->stopped; i++) {
                bool done = false;
                for (size_t j = 0; j < i && !done; j++)
                        done = is_alike(&thin->list[i], &thin->list[j]);
                if (!done)
                        rc = rewrite_alike(gc, thin, i, err);
        }
        return rc;
}

/* What that would come to. */
static int count_packs(struct cas_gc_run *gc, const struct thin_packs *thin, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < thin->count; i++) {
                const struct thin_pack *pack = &thin->list[i];
                bool empty;
                rc = pack_is_empty(gc, pack->pack_id, &empty, err);
                if (rc < 0 || (pack->if_empty && !empty))
                        continue;
                gc->out->packs_removed += empty;
                gc->out->packs_rewritten += !empty;
                gc->out->bytes_freed +=
                        empty ? pack->size_bytes : cas_min_u64(pack->dead_bytes, pack->size_bytes);
        }
        return rc;
}

int cas_gc_packs(struct cas_gc_run *gc, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *stale = cas_batch_new();
        struct thin_packs thin = {.gc = gc, .stale = stale};
        int rc = cas_index_scan(gc->ix, &(struct cas_scan){.family = CAS_FAMILY_PACK_DEAD},
                                find_thin_pack, &thin, err);
        if (rc == 0)
                rc = cas_index_write_soon(gc->ix, stale, err);
        if (rc == 0 && gc->trial)
                rc = count_packs(gc, &thin, err);
        if (rc == 0 && !gc->trial)
                rc = rewrite_packs(gc, &thin, err);
        free(thin.list);
        return rc;
}
