/* SPDX-License-Identifier: Apache-2.0 */
/* Maintenance of a store: garbage collection, checking, rebuilding, upgrading. */
#ifndef CAS_MAINTAIN_H
#define CAS_MAINTAIN_H

#include "cas/store.h"

#define CAS_GC_WAITS_BUCKETS 24
struct cas_gc_result {
        uint64_t links_removed;
        uint64_t blobs_removed, blob_bytes;
        uint64_t objects_removed, chunks_removed, layers_removed, trees_removed, recipes_removed;
        uint64_t packs_removed, packs_rewritten;
        uint64_t bytes_freed; /* of files removed, less what was written */
        uint64_t looked_at;   /* condemned things */
        uint64_t waiting;     /* condemned still: young, pinned or leased */
        /* Batches, for whose time others waited; by how long: less than 2^i us, the last: longer.
         */
        uint64_t batches, waits[CAS_GC_WAITS_BUCKETS];
        bool full;    /* looked for what was never noted as well */
        bool stopped; /* told to stop before the end: the next run goes on */
};
/* Removes what nothing needs, while everything else goes on (spec/gc.md). A run looks at what has
 * changed since the last one; a full run also looks for what was never noted. What stays: manifests
 * of repositories, with all they name; blobs linked to a repository that one of its manifests
 * names; what leases keep; what is younger than the grace; what operations under way count on.
 * Links of blobs that no manifest of their repository names and that are older than the grace are
 * dropped, as are leases that have expired. One run at a time: a second waits, and one with a
 * duty makes way for it (stopped). Nothing is removed because of what cannot be read: a damaged
 * listing, recipe or manifest keeps what it refers to, and is told as an error (CORRUPT) after all
 * else has been done. */
struct cas_gc_options {
        bool dry_run;              /* counts only; of what would follow from removing as well */
        bool full;                 /* also when none is due */
        unsigned live_percent_min; /* packs below it are rewritten (e.g. 50) */
        uint64_t grace_s;          /* what is condemned, added or asked for later than this stays */
        unsigned duty_percent;     /* share of the time to work; 0: all of it */
        bool (*stop)(void *arg);   /* asked between batches; NULL: never */
        void *stop_arg;
};
int cas_gc(struct cas_store *s, const struct cas_gc_options *options,
           const struct cas_progress *progress, struct cas_gc_result *out,
           struct cas_err *err) CAS_MUST_CHECK;

/* Why something stays: the steps from it to a root, the thing itself first; or why it does not.
 * `text` for people, e.g. "file object", "layer sha256:…", "manifest sha256:… of library/app",
 * "lease mount:…", "younger than the grace". */
struct cas_why_step {
        const char *kind; /* stable: blob, object, chunk, listing, recipe, layer, manifest, index,
                             repository, tag, lease, condemned, pinned, garbage */
        const char *name;
        const char *text;
};
/* What the text names: a digest of a blob, a hash of an object or a chunk (64 hex digits), or
 * NAME[:TAG][@DIGEST]. fn is told of the steps of up to max_paths different ways to a root.
 * Errors: NOTFOUND (the store has nothing of that name), INVALID. */
int cas_why(struct cas_store *s, const char *what, unsigned max_paths,
            void (*fn)(void *arg, unsigned path, const struct cas_why_step *step), void *arg,
            struct cas_err *err) CAS_MUST_CHECK;

enum cas_fsck_severity { CAS_FSCK_ERROR, CAS_FSCK_WARNING, CAS_FSCK_NOTE };
/* Message ids are stable (spec/store.md); `subject` names the thing. */
typedef void (*cas_fsck_fn)(void *arg, enum cas_fsck_severity severity, const char *id,
                            const char *subject, const char *message);
struct cas_fsck_result {
        uint64_t errors, warnings;
        uint64_t repaired, quarantined; /* of the errors */
        bool stopped;                   /* told to stop before the end */
        uint64_t packs, blocks, chunks, objects, blobs, recipes, layers, trees, manifests, names;
};
/* Checks packs, blobs, objects, layers, trees, names, references and index against each other,
 * every byte by its digest; blobs that have a recipe are made from it. Everything else goes on
 * meanwhile: what looks wrong is looked at again before it is told, since it may have changed.
 * With `repair`, damage is put right from any other copy, and what cannot be is put aside (spec/
 * scrub.md). Returns 0 also when it found errors: see the result. A whole pass of scrub.h. */
struct cas_fsck_options {
        bool repair;
}; /* NULL: none of it */
int cas_fsck(struct cas_store *s, const struct cas_fsck_options *options,
             const struct cas_progress *progress, cas_fsck_fn fn, void *arg,
             struct cas_fsck_result *out, struct cas_err *err) CAS_MUST_CHECK;
/* Makes the index anew from packs, blobs and the journal. The store must not be open: takes
 * its lock itself. Names included. The old index is kept as index.old until it has worked. */
int cas_rebuild(const struct cas_store_config *config, const struct cas_progress *progress,
                struct cas_err *err) CAS_MUST_CHECK;
/* Makes the index as small as can be, after much was changed. Others go on meanwhile. */
int cas_store_compact(struct cas_store *s, struct cas_err *err) CAS_MUST_CHECK;
/* Makes a consistent copy of the store at `path`, which must not exist or be an empty directory,
 * while everything else goes on: the index as it is at one instant, and all that it tells of;
 * immutable files are hard-linked where both lie on one file system, else copied. Opening it is
 * restoring it. Uploads, sandboxes and what waits to be sent are not copied. Durable on return. */
struct cas_checkpoint_result {
        uint64_t files_linked, files_copied, bytes_copied;
};
int cas_checkpoint(struct cas_store *s, const char *path, const struct cas_progress *progress,
                   struct cas_checkpoint_result *out, struct cas_err *err) CAS_MUST_CHECK;
/* Brings the format to this program's version. Success when it is already. Errors:
 * UNSUPPORTED (newer, or unknown incompatible bits). out_from/out_to: versions, for people. */
int cas_upgrade(const struct cas_store_config *config, unsigned *out_from, unsigned *out_to,
                struct cas_err *err) CAS_MUST_CHECK;

#endif
