/* SPDX-License-Identifier: Apache-2.0 */
/* The last steps of a publication that changes names: its records are checked
 * against what is there, appended to the journal, and one batch of the index
 * commits them with all else that the publication adds. Publications that
 * arrive while another writes share the next sync. */
#ifndef CAS_COMMIT_INT_H
#define CAS_COMMIT_INT_H

#include "cas/journal_int.h"
#include "cas/publish.h"
#include "cas/store_int.h"

struct cas_name_changes {
        const struct cas_buf *records; /* borrowed: `count` encoded name records */
        uint32_t count;
        bool removes; /* they unlink a manifest or a blob */
        bool renews;  /* a blob's link begins anew, however young it is */
        /* repo NUL digest: blobs that manifests of this commit name in their repository; NULL: none
         */
        const struct cas_map *named;
        /* Called when the commit's turn has come, with the index as it is then, in any thread: may
         * fill in records, count and the batch. NULL: they are as they shall be. */
        int (*fill)(void *arg, struct cas_err *err);
        void *fill_arg;
        cas_tag_guard_fn guard; /* cas_publish_guard_tags; NULL: none */
        void *guard_arg;
};
/* The batch is emptied. Errors: NOTFOUND (a tag without its manifest), what the guard says, and
 * what I/O gives. */
int cas_commit_names(struct cas_store *s, struct cas_batch *batch,
                     const struct cas_name_changes *changes, struct cas_err *err) CAS_MUST_CHECK;

struct cas_pins;
/* What the publication pins; borrowed until it is freed. */
struct cas_pins *cas_publish_pins(struct cas_publish *p);

/* Records that follow from what is published and are written with it; borrowed until commit. */
struct cas_batch *cas_publish_batch(struct cas_publish *p);

/* A proved recipe goes into packs and index, and the copy of its blob, which must be in the store,
 * is a cache from the commit on; another goes into the index alone. One recipe a publication. */
struct cas_recipe; /* the recipe as long as it is not in the store; NULL: it is read from there */
int cas_publish_recipe(struct cas_publish *p, const struct cas_recipe_record *recipe,
                       struct cas_recipe *opened, struct cas_err *err) CAS_MUST_CHECK;

/* The same of a proved recipe whose blob need not be in the store: it is condensed then. */
int cas_publish_assembled(struct cas_publish *p, const struct cas_recipe_record *recipe,
                          struct cas_err *err) CAS_MUST_CHECK;

/* A layer that is elsewhere: its listing, which is in the publication or in the store, and files
 * are wanted from now on. The record itself is the caller's to write. */
int cas_publish_elsewhere(struct cas_publish *p, const struct cas_layer_record *layer,
                          const struct cas_listing *listing, struct cas_err *err) CAS_MUST_CHECK;

/* How far the index has seen the journal; all zero when it has not. */
int cas_commit_seen(struct cas_index *ix, struct cas_journal_position *out,
                    struct cas_err *err) CAS_MUST_CHECK;
void cas_commit_note_seen(struct cas_batch *batch, const struct cas_journal_position *position);
/* Between these no names are committed: index and journal tell the same. Keep it short. Errors: an
 * earlier commit failed, and what failed then still does. */
int cas_commit_pause(struct cas_store *s, struct cas_err *err) CAS_MUST_CHECK;
void cas_commit_go_on(struct cas_store *s);
/* Writes the journal anew from the index's names. No commit may be under way. */
int cas_commit_compact(struct cas_store *s, struct cas_err *err) CAS_MUST_CHECK;

#endif
