/* SPDX-License-Identifier: Apache-2.0 */
/* Maintenance of a store: garbage collection, checking, rebuilding, upgrading. */
#ifndef CAS_MAINTAIN_H
#define CAS_MAINTAIN_H

#include "cas/store.h"

struct cas_gc_result {
        uint64_t blobs_removed, blob_bytes;
        uint64_t objects_removed, chunks_removed, layers_removed, trees_removed, recipes_removed;
        uint64_t packs_removed, packs_rewritten;
        uint64_t bytes_freed; /* of files removed, less what was written */
};
/* Mark and sweep; publications wait while it runs. What stays: manifests of repositories, with
 * all they name; blobs linked to a repository that one of its manifests names; what leases keep;
 * what is younger than the grace. Links of blobs that no manifest of their repository names and
 * that are older than the grace are dropped, as are leases that have expired. dry_run counts only.
 * live_percent_min: packs below it are rewritten (e.g. 50). Nothing is removed when marking meets
 * damage (CORRUPT). */
struct cas_gc_options {
        bool dry_run;
        unsigned live_percent_min;
        uint64_t grace_s; /* blobs linked to nothing but younger than this stay */
};
int cas_gc(struct cas_store *s, const struct cas_gc_options *options,
           const struct cas_progress *progress, struct cas_gc_result *out,
           struct cas_err *err) CAS_MUST_CHECK;

enum cas_fsck_severity { CAS_FSCK_ERROR, CAS_FSCK_WARNING, CAS_FSCK_NOTE };
/* Message ids are stable (spec/store.md); `subject` names the thing. */
typedef void (*cas_fsck_fn)(void *arg, enum cas_fsck_severity severity, const char *id,
                            const char *subject, const char *message);
struct cas_fsck_result {
        uint64_t errors, warnings;
        uint64_t packs, blocks, chunks, objects, blobs, recipes, layers, trees, manifests, names;
};
/* Checks packs, blobs, objects, layers, trees, names and index against each other, every
 * byte by its digest; blobs that have a recipe are made from it. Publications and new leases wait
 * while it runs. Returns 0 also when it found errors: see the result. */
int cas_fsck(struct cas_store *s, const struct cas_progress *progress, cas_fsck_fn fn, void *arg,
             struct cas_fsck_result *out, struct cas_err *err) CAS_MUST_CHECK;
/* Makes the index anew from packs, blobs and the journal. The store must not be open: takes
 * its lock itself. Names included. The old index is kept as index.old until it has worked. */
int cas_rebuild(const struct cas_store_config *config, const struct cas_progress *progress,
                struct cas_err *err) CAS_MUST_CHECK;
/* Makes the index as small as can be, after much was changed. Others go on meanwhile. */
int cas_store_compact(struct cas_store *s, struct cas_err *err) CAS_MUST_CHECK;
/* Brings the format to this program's version. Success when it is already. Errors:
 * UNSUPPORTED (newer, or unknown incompatible bits). out_from/out_to: versions, for people. */
int cas_upgrade(const struct cas_store_config *config, unsigned *out_from, unsigned *out_to,
                struct cas_err *err) CAS_MUST_CHECK;

#endif
