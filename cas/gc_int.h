/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of collection share (spec/gc.md). One run at a time, in one thread. Private to
 * cas.
 *
 * A batch is made in three steps: outside of everything, what is to be removed is looked up, with
 * all that goes with it (a *plan* for each thing); with the gate closed, each plan is looked at
 * again, and those that still stand are written; then the gate is open again. Files go later, after
 * a sync. */
#ifndef CAS_GC_INT_H
#define CAS_GC_INT_H

#include "cas/condemned_int.h"
#include "cas/maintain.h"
#include "cas/pace.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"

/* Of one batch. */
#define CAS_GC_THINGS_MAX 1000
#define CAS_GC_THINGS_MIN 8
#define CAS_GC_BATCH_BYTES CAS_MIB

enum cas_gc_verdict {
        CAS_GC_WAITS,  /* it stays condemned */
        CAS_GC_NEEDED, /* its record goes */
        CAS_GC_GOES,
};

struct cas_gc_file;
struct cas_gc_run {
        struct cas_store *s;
        struct cas_index *ix; /* the store's, or the copy that a trial changes */
        bool trial;
        const struct cas_gc_options *options;
        const struct cas_progress *progress;
        struct cas_gc_result *out;
        struct cas_err damage; /* the first that could not be read: told at the end */

        /* the batch */
        unsigned things;    /* that the next has at most: as many as take the gate's time */
        uint64_t sequence;  /* of the index, when its plans were begun */
        bool unchanged;     /* with the gate closed: nobody has written since */
        uint64_t closed_ns; /* when the gate was closed */
        struct cas_pace pace;

        struct cas_condemned *page; /* owned; of CAS_GC_THINGS_MAX */
        size_t page_count;
        uint64_t blobs_condemned; /* by this run */
        struct cas_map *dead;     /* be64 pack id to bytes, of chunks that were removed; owned */

        struct cas_gc_file *files; /* owned: of things that the index does not know any more */
        size_t file_count, file_max;
};

/* ---- gc.c ---- */

/* After each batch: keeps to the pace. False: told to stop. */
bool cas_gc_goes_on(struct cas_gc_run *gc);
/* Whether what was condemned, added or asked for then stays for now. */
bool cas_gc_is_young(const struct cas_gc_run *gc, uint64_t since_unix_s);
/* Something cannot be read, so what it refers to stays; err is cleared. */
void cas_gc_note_damage(struct cas_gc_run *gc, struct cas_err *err);
/* Reads the next page of a kind, of at most gc->things; `after`: the key of the one before, moved
 * on. */
int cas_gc_page(struct cas_gc_run *gc, enum cas_condemned_kind kind, struct cas_record_key *after,
                struct cas_err *err) CAS_MUST_CHECK;

/* Plans of a batch are begun. */
void cas_gc_plan(struct cas_gc_run *gc);
/* From here to cas_gc_write nobody pins, leases or condemns, nor moves chunks, nor makes trees
 * known. */
void cas_gc_close(struct cas_gc_run *gc);
/* Writes the batch and lets everybody go on. */
int cas_gc_write(struct cas_gc_run *gc, struct cas_batch *batch,
                 struct cas_err *err) CAS_MUST_CHECK;

/* Condemns what a removed thing had, unless it is already: no grace of its own. */
int cas_gc_pass_on(struct cas_gc_run *gc, struct cas_batch *batch, enum cas_condemned_kind kind,
                   const struct cas_hash *hash, struct cas_err *err) CAS_MUST_CHECK;
/* A key's record, whether there is one. */
int cas_gc_has(struct cas_gc_run *gc, enum cas_family family, const struct cas_record_key *key,
               bool *out, struct cas_err *err) CAS_MUST_CHECK;

/* ---- a page of each kind ---- */

int cas_gc_links(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;
int cas_gc_blobs(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;
int cas_gc_parents(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK; /* LISTING, RECIPE */
int cas_gc_objects(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;
int cas_gc_chunks(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;

/* Whether a manifest of the repository names the blob. */
int cas_gc_link_is_named(struct cas_gc_run *gc, const char *repo, const struct cas_digest *blob,
                         bool *out, struct cas_err *err) CAS_MUST_CHECK;

/* ---- gcfiles.c ---- */

/* A blob's or a tree's file goes after the next sync, unless the index knows it again by then. */
int cas_gc_file_later(struct cas_gc_run *gc, const struct cas_digest *digest, bool is_tree,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Syncs, and removes them. */
int cas_gc_files(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;
void cas_gc_files_release(struct cas_gc_run *gc);

/* ---- gcfull.c ---- */

/* Condemns what never was; goes on where it was stopped. */
int cas_gc_full(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;
/* Whether one is due: after an unclean end, or where one was not finished. */
int cas_gc_full_is_due(struct cas_gc_run *gc, bool *out, struct cas_err *err) CAS_MUST_CHECK;
/* When a store is opened: a full run is due unless it was just made, or closed well. */
int cas_gc_note_made(struct cas_index *ix, struct cas_err *err) CAS_MUST_CHECK;
int cas_gc_note_opened(struct cas_index *ix, struct cas_err *err) CAS_MUST_CHECK;
/* Nothing is under way any more. A failure costs a full run. */
void cas_gc_note_closed(struct cas_store *s);

/* ---- gcpacks.c ---- */

/* Adds what is known of dead bytes to the records. */
int cas_gc_note_dead(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;
/* Writes packs anew that are worth it. */
int cas_gc_packs(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;

/* ---- gcremote.c ---- */

/* Packs on remote tiers that the index does not tell of, older than the grace, go. What a tier does
 * not answer waits for the next full run. */
int cas_gc_remote_packs(struct cas_gc_run *gc, struct cas_err *err) CAS_MUST_CHECK;

#endif
