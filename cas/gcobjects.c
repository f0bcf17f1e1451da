/* SPDX-License-Identifier: Apache-2.0 */
/* Listings and recipes as what needs objects; objects; chunks. */
#include "cas/gc_int.h"

#include "cas/layer.h"
#include "cas/limits.h"
#include "cas/map.h"
#include "cas/object.h"
#include "cas/pack_int.h"
#include "cas/packset_int.h"
#include "cas/pins_int.h"
#include "cas/recipe_int.h"

/* Chunks of one object that go with it in one batch. Those behind them go in batches after it, as
 * long as nobody has brought the object again. */
#define OBJECT_CHUNKS_AT_ONCE 16384

/* ---- listings and recipes ---- */

/* A listing or a recipe that nothing needs as such: its references go, in several batches when
 * there are many, each while that still holds. */
struct parent {
        const struct cas_condemned *c;
        enum cas_gc_verdict verdict;
        struct cas_hash *children; /* owned */
        size_t count, max, done;
        size_t upto;             /* in this batch */
        struct cas_batch *batch; /* owned */
};

static bool is_listing(const struct parent *p)
{
        return p->c->kind == CAS_CONDEMNED_LISTING;
}

static const char *role_of(const struct parent *p)
{
        static const char listing[] = {CAS_OBJECT_LISTING, '\0'};
        static const char recipe[] = {CAS_OBJECT_RECIPE, '\0'};
        return is_listing(p) ? listing : recipe;
}

static int add_child(void *arg, const struct cas_hash *object, struct cas_err *err CAS_UNUSED)
{
        struct parent *p = arg;
        if (p->count == p->max) {
                p->max = p->max ? 2 * p->max : 64;
                p->children = cas_xrealloc(p->children, p->max * sizeof(p->children[0]));
        }
        p->children[p->count++] = *object;
        return 0;
}

static int read_listing(struct cas_gc_run *gc, struct parent *p, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        int rc = cas_object_read(gc->s, &p->c->hash, CAS_LISTING_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_listing_decode(bytes.data, bytes.len_bytes, &l, err);
        for (size_t i = 0; rc == 0 && i < l.count; i++) {
                const struct cas_entry *e = &l.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        rc = add_child(p, &e->object, err);
        }
        return rc;
}

static int read_recipe(struct cas_gc_run *gc, struct parent *p, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        int rc = cas_recipe_open(gc->s, &p->c->hash, &recipe, err);
        return rc < 0 ? rc : cas_tarrecipe_each_object(recipe, add_child, p, err);
}

static bool is_damage(int rc)
{
        return rc == -CAS_E_CORRUPT || rc == -CAS_E_INVALID || rc == -CAS_E_LIMIT ||
               rc == -CAS_E_UNSUPPORTED || rc == -CAS_E_NOTFOUND;
}

/* What is not there at all has nothing to be removed that could be known. */
static int object_is_here(struct cas_gc_run *gc, const struct cas_hash *hash, bool *out,
                          struct cas_err *err)
{
        return cas_index_has(gc->ix, CAS_FAMILY_OBJECTS, hash->bytes, CAS_HASH_BYTES, out, err);
}

static int plan_parent(struct cas_gc_run *gc, struct parent *p, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        bool needed, here;
        int rc = cas_object_is_needed(gc->ix, &p->c->hash, role_of(p), &needed, err);
        if (rc == 0 && needed)
                p->verdict = CAS_GC_NEEDED;
        if (rc < 0 || needed || cas_gc_is_young(gc, p->c->since_unix_s))
                return rc;
        rc = object_is_here(gc, &p->c->hash, &here, err);
        if (rc < 0)
                return rc;
        p->verdict = CAS_GC_GOES;
        if (here)
                rc = is_listing(p) ? read_listing(gc, p, &why) : read_recipe(gc, p, &why);
        if (rc == 0)
                return 0;
        p->verdict = CAS_GC_WAITS;
        if (!is_damage(rc)) {
                *err = why;
                return rc;
        }
        (void)cas_err_wrap(&why, "%s %s", is_listing(p) ? "listing" : "recipe",
                           cas_hash_hex(&p->c->hash, hex));
        cas_gc_note_damage(gc, &why);
        return 0;
}

/* The next of its references, up to *room; the rest of it with the last. */
static int fill_parent(struct cas_gc_run *gc, struct parent *p, size_t *room, struct cas_err *err)
{
        const enum cas_object_role role = is_listing(p) ? CAS_OBJECT_FILE : CAS_OBJECT_SOURCE;
        int rc = 0;
        cas_batch_free(p->batch);
        p->batch = cas_batch_new();
        p->upto = p->done;
        while (rc == 0 && p->upto<p->count && * room> 0) {
                const struct cas_hash *child = &p->children[p->upto++];
                cas_batch_del_object_ref(p->batch, child, role, p->c->hash.bytes, CAS_HASH_BYTES);
                rc = cas_gc_pass_on(gc, p->batch, CAS_CONDEMNED_OBJECT, child, err);
                --*room;
        }
        if (rc == 0 && p->upto == p->count) {
                cas_batch_uncondemn(p->batch, p->c->kind, &p->c->hash);
                rc = cas_gc_pass_on(gc, p->batch, CAS_CONDEMNED_OBJECT, &p->c->hash, err);
        }
        return rc;
}

static int judge_parent(struct cas_gc_run *gc, struct parent *p, struct cas_err *err)
{
        bool needed = p->verdict == CAS_GC_NEEDED;
        int rc = 0;
        if (p->verdict == CAS_GC_WAITS)
                return 0;
        if (!gc->unchanged)
                rc = cas_object_is_needed(gc->ix, &p->c->hash, role_of(p), &needed, err);
        if (needed)
                p->verdict = CAS_GC_NEEDED;
        else if (p->verdict == CAS_GC_NEEDED || cas_object_is_pinned(gc->s, &p->c->hash))
                p->verdict = CAS_GC_WAITS;
        return rc;
}

static int write_parents(struct cas_gc_run *gc, struct parent *list, size_t count,
                         struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = 0;
        cas_gc_close(gc);
        for (size_t i = 0; rc == 0 && i < count; i++) {
                struct parent *p = &list[i];
                rc = judge_parent(gc, p, err);
                if (p->verdict == CAS_GC_NEEDED)
                        cas_batch_uncondemn(batch, p->c->kind, &p->c->hash);
                if (p->verdict != CAS_GC_GOES)
                        continue;
                cas_batch_join(batch, p->batch);
                p->done = p->upto;
        }
        if (rc < 0) {
                cas_batch_free(batch);
                batch = cas_batch_new();
        }
        int written = cas_gc_write(gc, batch, err);
        return rc < 0 ? rc : written;
}

/* At one that has more references than went with the batch before. */
static int look_again(struct cas_gc_run *gc, struct parent *p, struct cas_err *err)
{
        bool needed;
        int rc = cas_object_is_needed(gc->ix, &p->c->hash, role_of(p), &needed, err);
        if (rc == 0 && needed)
                p->verdict = CAS_GC_NEEDED;
        return rc;
}

/* Parents from the first on that have something left, as many as fill a batch. *count: of them. */
static int fill_parents(struct cas_gc_run *gc, struct parent *list, size_t max, size_t *count,
                        struct cas_err *err)
{
        size_t room = gc->things;
        int rc = 0;
        *count = 0;
        cas_gc_plan(gc);
        while (rc == 0 && *count < max && (room > 0 || *count == 0)) {
                struct parent *p = &list[*count];
                if (p->done == 0)
                        rc = plan_parent(gc, p, err);
                else
                        rc = look_again(gc, p, err);
                if (rc == 0 && p->verdict == CAS_GC_GOES)
                        rc = fill_parent(gc, p, &room, err);
                ++*count;
        }
        return rc;
}

static void parent_release(struct parent *p)
{
        free(p->children);
        cas_batch_free(p->batch);
        p->children = NULL;
        p->batch = NULL;
}

int cas_gc_parents(struct cas_gc_run *gc, struct cas_err *err)
{
        const size_t count = gc->page_count;
        cas_cleanup_free struct parent *list = cas_xcalloc(count, sizeof(list[0]));
        size_t at = 0;
        int rc = 0;
        for (size_t i = 0; i < count; i++)
                list[i].c = &gc->page[i];
        while (rc == 0 && at < count && !gc->out->stopped) {
                size_t taken;
                rc = fill_parents(gc, list + at, count - at, &taken, err);
                if (rc == 0)
                        rc = write_parents(gc, list + at, taken, err);
                /* The last may have more. */
                const struct parent *last = &list[at + taken - 1];
                bool more = last->verdict == CAS_GC_GOES && last->done < last->count;
                for (size_t end = at + taken - more; at < end; at++) {
                        gc->out->waiting += list[at].verdict == CAS_GC_WAITS;
                        parent_release(&list[at]);
                }
                if (more)
                        (void)cas_gc_goes_on(gc);
        }
        for (; at < count; at++)
                parent_release(&list[at]);
        return rc;
}

/* ---- dead bytes ---- */

static void note_dead(struct cas_gc_run *gc, const struct cas_chunk_record *rec)
{
        struct cas_record_key key;
        cas_key_pack(rec->pack_id, &key);
        *cas_map_put(gc->dead, key.bytes, key.len, NULL) += cas_chunk_stored_bytes(rec);
}

static int find_chunk(struct cas_gc_run *gc, const struct cas_hash *chunk, bool *has,
                      struct cas_chunk_record *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_chunk(gc->ix, chunk, out, &miss);
        *has = rc == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* ---- objects ---- */

struct object_plan {
        const struct cas_condemned *c;
        enum cas_gc_verdict verdict;
        bool has_object, has_chunk;
        struct cas_object_record record;
        struct cas_chunk_record chunk; /* when it is one */
        struct cas_chunk_ref *refs;    /* owned; when it is of several */
        uint32_t ref_count, done;
        struct cas_batch *batch; /* owned */
};

static int get_object(struct cas_gc_run *gc, const struct cas_hash *id, bool *has,
                      struct cas_object_record *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_object(gc->ix, id, out, &miss);
        *has = rc == 0;
        if (rc < 0)
                *out = (struct cas_object_record){0};
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int get_refs(struct cas_gc_run *gc, struct object_plan *p, struct cas_err *err)
{
        uint32_t count = 1;
        int rc = 0;
        if (p->record.chunk_count > CAS_OBJECT_CHUNKS_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "too many chunks");
        p->refs = cas_xcalloc(p->record.chunk_count, sizeof(p->refs[0]));
        while (rc == 0 && p->ref_count < p->record.chunk_count && count > 0) {
                rc = cas_index_get_object_chunks(gc->ix, &p->c->hash, p->ref_count,
                                                 p->refs + p->ref_count,
                                                 p->record.chunk_count - p->ref_count, &count, err);
                p->ref_count += rc == 0 ? count : 0;
        }
        return rc;
}

static int drop_chunk_refs(struct cas_gc_run *gc, struct object_plan *p, struct cas_batch *batch,
                           struct cas_err *err)
{
        const uint32_t end =
                (uint32_t)cas_min_u64(p->ref_count, (uint64_t)p->done + OBJECT_CHUNKS_AT_ONCE);
        int rc = 0;
        for (; rc == 0 && p->done < end; p->done++) {
                cas_batch_del_chunk_ref(batch, &p->refs[p->done].chunk, &p->c->hash);
                rc = cas_gc_pass_on(gc, batch, CAS_CONDEMNED_CHUNK, &p->refs[p->done].chunk, err);
        }
        return rc;
}

static int fill_object(struct cas_gc_run *gc, struct object_plan *p, struct cas_err *err)
{
        int rc = 0;
        p->batch = cas_batch_new();
        cas_batch_uncondemn(p->batch, CAS_CONDEMNED_OBJECT, &p->c->hash);
        if (!p->has_object)
                return 0;
        cas_batch_del_object(p->batch, &p->c->hash, p->record.chunk_count);
        if (p->record.chunk_count > 1)
                rc = get_refs(gc, p, err);
        if (rc == 0 && p->record.chunk_count > 1)
                rc = drop_chunk_refs(gc, p, p->batch, err);
        if (rc == 0 && p->record.chunk_count == 1)
                rc = find_chunk(gc, &p->c->hash, &p->has_chunk, &p->chunk, err);
        if (rc == 0 && p->has_chunk)
                cas_batch_del_chunk(p->batch, &p->c->hash);
        return rc;
}

static int plan_object(struct cas_gc_run *gc, struct object_plan *p, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        bool needed;
        int rc = cas_object_is_needed(gc->ix, &p->c->hash, NULL, &needed, err);
        if (rc == 0 && needed)
                p->verdict = CAS_GC_NEEDED;
        if (rc < 0 || needed || cas_gc_is_young(gc, p->c->since_unix_s))
                return rc;
        rc = get_object(gc, &p->c->hash, &p->has_object, &p->record, &why);
        if (rc == 0)
                rc = fill_object(gc, p, &why);
        if (rc == 0)
                p->verdict = CAS_GC_GOES;
        if (rc == -CAS_E_CORRUPT) {
                cas_gc_note_damage(gc, &why);
                rc = 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

/* Whether record and list are those that the plan is of. */
static int object_is_same(struct cas_gc_run *gc, struct object_plan *p, bool *out,
                          struct cas_err *err)
{
        struct cas_object_record now;
        struct cas_chunk_record chunk;
        struct cas_chunk_ref first = {{{0}}, 0};
        uint32_t count = 0;
        bool has, has_chunk = false;
        int rc = get_object(gc, &p->c->hash, &has, &now, err);
        *out = false;
        if (rc < 0 || has != p->has_object || now.chunk_count != p->record.chunk_count)
                return rc;
        if (now.chunk_count > 1)
                rc = cas_index_get_object_chunks(gc->ix, &p->c->hash, 0, &first, 1, &count, err);
        if (rc == 0 && now.chunk_count == 1)
                rc = find_chunk(gc, &p->c->hash, &has_chunk, &chunk, err);
        if (rc < 0)
                return rc;
        *out = has_chunk == p->has_chunk &&
               (count == 0 || cas_hash_equal(&first.chunk, &p->refs[0].chunk));
        if (has_chunk)
                p->chunk = chunk; /* it may have moved */
        return 0;
}

static int judge_object(struct cas_gc_run *gc, struct object_plan *p, struct cas_err *err)
{
        bool needed = p->verdict == CAS_GC_NEEDED, same = true;
        int rc = 0;
        if (p->verdict == CAS_GC_WAITS)
                return 0;
        if (!gc->unchanged)
                rc = cas_object_is_needed(gc->ix, &p->c->hash, NULL, &needed, err);
        if (rc == 0 && !gc->unchanged && !needed && p->verdict == CAS_GC_GOES)
                rc = object_is_same(gc, p, &same, err);
        if (needed)
                p->verdict = CAS_GC_NEEDED;
        else if (p->verdict == CAS_GC_NEEDED || !same || cas_object_is_pinned(gc->s, &p->c->hash) ||
                 (p->has_chunk && cas_chunk_is_pinned(gc->s, &p->c->hash)))
                p->verdict = CAS_GC_WAITS;
        return rc;
}

static int write_objects(struct cas_gc_run *gc, struct object_plan *plans, size_t count,
                         struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = 0;
        cas_gc_close(gc);
        for (size_t i = 0; rc == 0 && i < count; i++) {
                rc = judge_object(gc, &plans[i], err);
                if (plans[i].verdict == CAS_GC_GOES)
                        cas_batch_join(batch, plans[i].batch);
                if (plans[i].verdict == CAS_GC_NEEDED)
                        cas_batch_uncondemn(batch, CAS_CONDEMNED_OBJECT, &plans[i].c->hash);
        }
        if (rc < 0) {
                cas_batch_free(batch);
                batch = cas_batch_new();
        }
        int written = cas_gc_write(gc, batch, err);
        return rc < 0 ? rc : written;
}

/* The references of a very long list, behind those that went with the object. Who brings the object
 * again writes all of them anew. */
static int drop_rest(struct cas_gc_run *gc, struct object_plan *p, struct cas_err *err)
{
        int rc = 0;
        bool back = false;
        while (rc == 0 && !back && p->done < p->ref_count) {
                cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
                rc = drop_chunk_refs(gc, p, batch, err);
                if (rc < 0)
                        return rc;
                cas_gc_close(gc);
                back = cas_object_is_pinned(gc->s, &p->c->hash);
                if (!back)
                        rc = object_is_here(gc, &p->c->hash, &back, err);
                if (rc < 0 || back) {
                        cas_batch_free(batch);
                        batch = cas_batch_new();
                }
                int written = cas_gc_write(gc, batch, err);
                rc = rc < 0 ? rc : written;
        }
        return rc;
}

static int settle_object(struct cas_gc_run *gc, struct object_plan *p, struct cas_err *err)
{
        gc->out->waiting += p->verdict == CAS_GC_WAITS;
        if (p->verdict != CAS_GC_GOES)
                return 0;
        gc->out->objects_removed += p->has_object;
        gc->out->chunks_removed += p->has_chunk;
        if (p->has_chunk)
                note_dead(gc, &p->chunk);
        return drop_rest(gc, p, err);
}

int cas_gc_objects(struct cas_gc_run *gc, struct cas_err *err)
{
        const size_t page = gc->page_count;
        cas_cleanup_free struct object_plan *plans = cas_xcalloc(page, sizeof(plans[0]));
        int rc = 0;
        for (size_t at = 0, end; rc == 0 && at < page; at = end) {
                size_t bytes = 0;
                cas_gc_plan(gc);
                for (end = at; rc == 0 && end < page && bytes < CAS_GC_BATCH_BYTES; end++) {
                        plans[end].c = &gc->page[end];
                        rc = plan_object(gc, &plans[end], err);
                        bytes += plans[end].batch ? cas_batch_bytes(plans[end].batch) : 0;
                }
                if (rc == 0)
                        rc = write_objects(gc, plans + at, end - at, err);
                for (size_t i = at; i < end; i++) {
                        if (rc == 0)
                                rc = settle_object(gc, &plans[i], err);
                        free(plans[i].refs);
                        cas_batch_free(plans[i].batch);
                }
        }
        return rc;
}

/* ---- chunks ---- */

struct chunk_plan {
        enum cas_gc_verdict verdict;
        bool has;
        struct cas_chunk_record record;
};

static int plan_chunk(struct cas_gc_run *gc, const struct cas_condemned *c, struct chunk_plan *p,
                      struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        bool needed;
        int rc = cas_chunk_is_needed(gc->ix, &c->hash, &needed, err);
        if (rc == 0 && needed)
                p->verdict = CAS_GC_NEEDED;
        if (rc < 0 || needed || cas_gc_is_young(gc, c->since_unix_s))
                return rc;
        rc = find_chunk(gc, &c->hash, &p->has, &p->record, &why);
        if (rc == 0)
                p->verdict = CAS_GC_GOES;
        if (rc == -CAS_E_CORRUPT) {
                cas_gc_note_damage(gc, &why);
                rc = 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

static int judge_chunk(struct cas_gc_run *gc, const struct cas_condemned *c, struct chunk_plan *p,
                       struct cas_err *err)
{
        bool needed = p->verdict == CAS_GC_NEEDED;
        int rc = 0;
        if (p->verdict == CAS_GC_WAITS)
                return 0;
        if (!gc->unchanged)
                rc = cas_chunk_is_needed(gc->ix, &c->hash, &needed, err);
        if (rc == 0 && !gc->unchanged && !needed)
                rc = find_chunk(gc, &c->hash, &p->has, &p->record, err);
        if (needed)
                p->verdict = CAS_GC_NEEDED;
        else if (p->verdict == CAS_GC_NEEDED || cas_chunk_is_pinned(gc->s, &c->hash))
                p->verdict = CAS_GC_WAITS;
        return rc;
}

static int write_chunks(struct cas_gc_run *gc, struct chunk_plan *plans, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = 0;
        cas_gc_close(gc);
        for (size_t i = 0; rc == 0 && i < gc->page_count; i++) {
                const struct cas_hash *hash = &gc->page[i].hash;
                rc = judge_chunk(gc, &gc->page[i], &plans[i], err);
                if (plans[i].verdict != CAS_GC_WAITS)
                        cas_batch_uncondemn(batch, CAS_CONDEMNED_CHUNK, hash);
                if (plans[i].verdict == CAS_GC_GOES && plans[i].has)
                        cas_batch_del_chunk(batch, hash);
        }
        if (rc < 0) {
                cas_batch_free(batch);
                batch = cas_batch_new();
        }
        int written = cas_gc_write(gc, batch, err);
        return rc < 0 ? rc : written;
}

int cas_gc_chunks(struct cas_gc_run *gc, struct cas_err *err)
{
        cas_cleanup_free struct chunk_plan *plans = cas_xcalloc(gc->page_count, sizeof(plans[0]));
        int rc = 0;
        cas_gc_plan(gc);
        for (size_t i = 0; rc == 0 && i < gc->page_count; i++)
                rc = plan_chunk(gc, &gc->page[i], &plans[i], err);
        if (rc == 0)
                rc = write_chunks(gc, plans, err);
        for (size_t i = 0; rc == 0 && i < gc->page_count; i++) {
                gc->out->waiting += plans[i].verdict == CAS_GC_WAITS;
                if (plans[i].verdict != CAS_GC_GOES || !plans[i].has)
                        continue;
                gc->out->chunks_removed++;
                note_dead(gc, &plans[i].record);
        }
        return rc;
}
