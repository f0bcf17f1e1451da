/* SPDX-License-Identifier: Apache-2.0 */
/* A run of collection: kinds of condemned things in their order, page by page (spec/gc.md). What
 * refers goes before what is referred to, and the index before files. */
#include "cas/gc_int.h"

#include <stdio.h>
#include <time.h>

#include "cas/elsewhere_int.h"
#include "cas/lease_int.h"
#include "cas/map.h"
#include "cas/packfile_int.h"
#include "cas/pins_int.h"
#include "cas/tree_int.h"

/* A batch that kept the gate closed for longer is followed by a smaller one. */
#define GATE_NS 1000000
#define NS_PER_S UINT64_C(1000000000)

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- pace ---- */

static bool is_told_to_stop(void *arg)
{
        struct cas_gc_run *gc = arg;
        /* A run that takes its time makes way for one that somebody waits for. */
        if (gc->options->duty_percent > 0 && atomic_load(&gc->s->collectors_waiting) > 0)
                gc->out->stopped = true;
        if (!gc->out->stopped && gc->options->stop && gc->options->stop(gc->options->stop_arg))
                gc->out->stopped = true;
        return gc->out->stopped;
}

bool cas_gc_goes_on(struct cas_gc_run *gc)
{
        cas_pace_rest(&gc->pace);
        return !is_told_to_stop(gc);
}

bool cas_gc_is_young(const struct cas_gc_run *gc, uint64_t since_unix_s)
{
        const uint64_t now = (uint64_t)time(NULL);
        return gc->options->grace_s > 0 &&
               since_unix_s > now - cas_min_u64(now, gc->options->grace_s);
}

void cas_gc_note_damage(struct cas_gc_run *gc, struct cas_err *err)
{
        if (gc->damage.code == CAS_OK) {
                gc->damage = *err;
                gc->damage.code = CAS_E_CORRUPT;
        }
        *err = (struct cas_err)CAS_ERR_INIT;
}

/* ---- pages ---- */

static int take_condemned(void *arg, const void *key, size_t key_len, const void *value,
                          size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct cas_gc_run *gc = arg;
        struct cas_err why = CAS_ERR_INIT;
        if (cas_condemned_decode(key, key_len, value, value_len, &gc->page[gc->page_count], &why) <
            0)
                cas_gc_note_damage(gc, &why);
        else
                gc->page_count++;
        return gc->page_count == gc->things;
}

int cas_gc_page(struct cas_gc_run *gc, enum cas_condemned_kind kind, struct cas_record_key *after,
                struct cas_err *err)
{
        const uint8_t prefix = (uint8_t)kind;
        gc->page_count = 0;
        int rc = cas_index_scan(gc->ix,
                                &(struct cas_scan){.family = CAS_FAMILY_CONDEMNED,
                                                   .prefix = &prefix,
                                                   .prefix_len = 1,
                                                   .from = after->bytes,
                                                   .from_len = after->len},
                                take_condemned, gc, err);
        if (rc < 0 || gc->page_count == 0)
                return rc;
        cas_condemned_key(&gc->page[gc->page_count - 1], after);
        after->bytes[after->len++] = 0; /* the least key behind it */
        gc->out->looked_at += gc->page_count;
        return 0;
}

/* ---- batches ---- */

void cas_gc_plan(struct cas_gc_run *gc)
{
        gc->sequence = cas_index_sequence(gc->ix);
}

void cas_gc_close(struct cas_gc_run *gc)
{
        if (!gc->trial) {
                cas_mutex_lock(&gc->s->packset->replacing);
                cas_trees_naming_lock(gc->s->trees, true);
                cas_index_condemning_lock(gc->ix);
        }
        cas_gate_close(gc->s);
        gc->closed_ns = now_ns();
        gc->unchanged = gc->trial || gc->sequence == cas_index_sequence(gc->ix);
}

/* The next batch is as large as keeps others waiting for no more than they should. */
static void note_closed(struct cas_gc_run *gc, uint64_t ns)
{
        unsigned bucket = 0;
        while (bucket + 1 < CAS_GC_WAITS_BUCKETS && ns / 1000 >= UINT64_C(1) << bucket)
                bucket++;
        gc->out->waits[bucket]++;
        gc->out->batches++;
        if (ns > 2 * GATE_NS)
                gc->things = (unsigned)cas_max_u64(gc->things / 2, CAS_GC_THINGS_MIN);
        else if (ns < GATE_NS / 2)
                gc->things =
                        (unsigned)cas_min_u64(gc->things + gc->things / 4 + 1, CAS_GC_THINGS_MAX);
}

int cas_gc_write(struct cas_gc_run *gc, struct cas_batch *batch, struct cas_err *err)
{
        int rc = cas_index_write_soon(gc->ix, batch, err);
        uint64_t ns = now_ns() - gc->closed_ns;
        cas_gate_open(gc->s);
        if (!gc->trial) {
                cas_index_condemning_unlock(gc->ix);
                cas_trees_naming_unlock(gc->s->trees);
                cas_mutex_unlock(&gc->s->packset->replacing);
        }
        note_closed(gc, ns);
        return rc;
}

int cas_gc_has(struct cas_gc_run *gc, enum cas_family family, const struct cas_record_key *key,
               bool *out, struct cas_err *err)
{
        return cas_index_has(gc->ix, family, key->bytes, key->len, out, err);
}

int cas_gc_pass_on(struct cas_gc_run *gc, struct cas_batch *batch, enum cas_condemned_kind kind,
                   const struct cas_hash *hash, struct cas_err *err)
{
        struct cas_record_key key;
        bool there;
        cas_condemned_key(&(struct cas_condemned){.kind = kind, .hash = *hash}, &key);
        int rc = cas_gc_has(gc, CAS_FAMILY_CONDEMNED, &key, &there, err);
        if (rc == 0 && !there)
                cas_batch_condemn(batch, kind, hash, 0);
        return rc;
}

/* ---- a run ---- */

typedef int (*page_fn)(struct cas_gc_run *gc, struct cas_err *err);

static int run_kind(struct cas_gc_run *gc, enum cas_condemned_kind kind, const char *what,
                    page_fn fn, struct cas_err *err)
{
        struct cas_record_key after = {.len = 0};
        int rc = 0;
        while (rc == 0 && !gc->out->stopped) {
                rc = cas_gc_page(gc, kind, &after, err);
                if (rc < 0 || gc->page_count == 0)
                        return rc;
                rc = fn(gc, err);
                cas_progress_update(gc->progress, what, gc->out->looked_at, 0);
                (void)cas_gc_goes_on(gc);
        }
        return rc;
}

/* A manifest's blobs are condemned when it goes, and an index's manifests: as deep as they are. */
static int run_blobs(struct cas_gc_run *gc, struct cas_err *err)
{
        uint64_t before;
        int rc;
        do {
                before = gc->blobs_condemned;
                rc = run_kind(gc, CAS_CONDEMNED_BLOB, "blobs", cas_gc_blobs, err);
        } while (rc == 0 && gc->options->grace_s == 0 && gc->blobs_condemned > before);
        return rc < 0 ? rc : cas_gc_files(gc, err);
}

static int run_kinds(struct cas_gc_run *gc, struct cas_err *err)
{
        int rc = run_kind(gc, CAS_CONDEMNED_LINK, "links", cas_gc_links, err);
        if (rc == 0)
                rc = run_blobs(gc, err);
        if (rc == 0)
                rc = run_kind(gc, CAS_CONDEMNED_LISTING, "layers", cas_gc_parents, err);
        if (rc == 0)
                rc = run_kind(gc, CAS_CONDEMNED_RECIPE, "recipes", cas_gc_parents, err);
        if (rc == 0)
                rc = run_kind(gc, CAS_CONDEMNED_OBJECT, "objects", cas_gc_objects, err);
        if (rc == 0)
                rc = run_kind(gc, CAS_CONDEMNED_CHUNK, "chunks", cas_gc_chunks, err);
        return rc;
}

static int expire_leases(struct cas_gc_run *gc, struct cas_err *err)
{
        uint64_t dropped;
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_leases_expire(gc->s, (uint64_t)time(NULL), &dropped, &why);
        if (rc == -CAS_E_CORRUPT) {
                cas_gc_note_damage(gc, &why);
                return 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

static int condemn_root(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct cas_batch *batch = arg;
        struct cas_lease lease;
        struct cas_err ignored = CAS_ERR_INIT;
        memset(&lease, 0, sizeof(lease));
        if (cas_lease_decode(key, key_len, value, value_len, &lease, &ignored) == 0 &&
            lease.expires_unix_s != 0 && lease.expires_unix_s < (uint64_t)time(NULL))
                cas_batch_condemn_blob(batch, &lease.root, (uint64_t)time(NULL));
        return 0;
}

/* What dropping the leases that have expired would condemn. */
static int expire_in_trial(struct cas_gc_run *gc, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = cas_index_scan(gc->ix, &(struct cas_scan){.family = CAS_FAMILY_LEASES},
                                condemn_root, batch, err);
        return rc < 0 ? rc : cas_index_write_soon(gc->ix, batch, err);
}

static int collect(struct cas_gc_run *gc, struct cas_err *err)
{
        bool due;
        /* After an error the index is opened anew by a sync: batches, with the gate closed, are not
         * the ones to wait for that. */
        int rc = cas_index_sync(gc->ix, err);
        if (rc == 0)
                rc = gc->trial ? expire_in_trial(gc, err) : expire_leases(gc, err);
        if (rc == 0)
                rc = cas_gc_full_is_due(gc, &due, err);
        if (rc == 0 && (due || gc->options->full))
                rc = cas_gc_full(gc, err);
        if (rc == 0)
                rc = run_kinds(gc, err);
        if (rc == 0)
                rc = cas_gc_note_dead(gc, err);
        if (rc == 0)
                rc = cas_index_sync(gc->ix, err);
        if (rc == 0 && !gc->out->stopped)
                rc = cas_gc_packs(gc, err);
        return rc;
}

static int run(struct cas_gc_run *gc, struct cas_err *err)
{
        gc->things = CAS_GC_THINGS_MAX / 8;
        gc->page = cas_xcalloc(CAS_GC_THINGS_MAX, sizeof(gc->page[0]));
        gc->dead = cas_map_new();
        cas_pace_init(&gc->pace, 0, gc->options->duty_percent, is_told_to_stop, gc);
        int rc = collect(gc, err);
        cas_pace_release(&gc->pace);
        cas_gc_files_release(gc);
        cas_map_free(gc->dead);
        free(gc->page);
        if (rc == 0 && gc->damage.code != CAS_OK) {
                *err = gc->damage;
                rc = -(int)err->code;
        }
        return rc;
}

/* The same on a copy of the index, which is thrown away. */
static int run_trial(struct cas_gc_run *gc, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/" CAS_DIR_INDEX_TRIAL, gc->s->path);
        int rc = cas_index_destroy(path, err);
        if (rc == 0)
                rc = cas_index_checkpoint(gc->s->index, path, err);
        if (rc == 0)
                rc = cas_index_open(path, false, &gc->ix, err);
        if (rc == 0) {
                gc->trial = true;
                rc = run(gc, err);
                cas_index_close(gc->ix);
        }
        struct cas_err left = CAS_ERR_INIT;
        int removed = cas_index_destroy(path, &left);
        if (rc == 0 && removed < 0) {
                *err = left;
                rc = removed;
        }
        return rc;
}

int cas_gc(struct cas_store *s, const struct cas_gc_options *options,
           const struct cas_progress *progress, struct cas_gc_result *out, struct cas_err *err)
{
        struct cas_gc_run gc = {
                .s = s, .ix = s->index, .options = options, .progress = progress, .out = out};
        *out = (struct cas_gc_result){0};
        atomic_fetch_add(&s->collectors_waiting, 1);
        cas_mutex_lock(&s->collecting);
        atomic_fetch_sub(&s->collectors_waiting, 1);
        const uint64_t began_ns = now_ns();
        atomic_fetch_add(&s->collections, !options->dry_run);
        int rc = options->dry_run ? run_trial(&gc, err) : run(&gc, err);
        atomic_fetch_add(&s->collections, !options->dry_run);
        cas_mutex_unlock(&s->collecting);
        if (options->dry_run)
                return rc;
        cas_elsewhere_changed(s);
        cas_maintenance_note_gc(&s->maintenance, rc, out, (now_ns() - began_ns) / 1000000);
        return rc;
}
