/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of repair. Private to cas/repair*.c and cas/quarantine.c.
 *
 * What is damaged is collected as *losses*: chunks, and objects whose list is wrong. Sources bring
 * them again, in the order of a table, the cheapest first; each is looked at again then, from the
 * disk, by its digest. What is still lost is put aside: its records go, so that it is absent and
 * whoever brings it again heals it. */
#ifndef CAS_REPAIR_RUN_INT_H
#define CAS_REPAIR_RUN_INT_H

#include "cas/mend_int.h"
#include "cas/mutex.h"
#include "cas/packwriter_int.h"
#include "cas/repair_int.h"
#include "cas/store_int.h"

struct cas_repair {
        struct cas_store *s;
        const struct cas_scrub_options *options; /* borrowed */
        cas_fsck_fn fn;
        void *arg;
        struct cas_mutex mutex; /* "repair": one thing at a time; guards fn */
};

/* ---- losses (repairloss.c) ---- */

struct cas_loss {
        struct cas_hash name;
        bool is_list; /* an object of several chunks (or of none) whose record or list is wrong */
        bool was_kept;
        bool found;                  /* sound again */
        struct cas_chunk_place from; /* of a chunk: where the index has the damaged one */
};
/* Blobs that matter for losses: those whose layers have them, or whose recipes need them. */
struct cas_loss_blob {
        struct cas_digest blob;
        bool is_layer;  /* decoding it brings files and the listing again */
        bool is_recipe; /* its recipe needs what was lost */
        bool is_whole;  /* that recipe is not needed: the blob was had in another way */
};
struct cas_losses {
        struct cas_loss *list; /* owned */
        size_t count, max;
        struct cas_loss_blob *blobs; /* owned; filled by cas_losses_find_blobs */
        size_t blob_count, blob_max;
        struct cas_map *known; /* names that are in the list, blobs that are in `blobs` */
};
void cas_losses_init(struct cas_losses *l);
void cas_losses_release(struct cas_losses *l);
#define cas_cleanup_losses __attribute__((cleanup(cas_losses_release)))
/* Again is nothing. */
void cas_losses_add(struct cas_losses *l, const struct cas_hash *name, bool is_list);
size_t cas_losses_left(const struct cas_losses *l);
/* What is lost and why it matters: from the references. */
int cas_losses_find_blobs(struct cas_store *s, struct cas_losses *l,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Brings back what can be brought back, from any source; the rest is not `found`. */
int cas_losses_repair(struct cas_repair *r, struct cas_losses *l,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Adds to a batch that the list of an object goes, whatever is there of it: pages, references, and
 * its chunks for collection to look at. */
int cas_losses_drop_list(struct cas_store *s, const struct cas_hash *object,
                         struct cas_batch *batch, struct cas_err *err) CAS_MUST_CHECK;
/* Brings back, and what is left is put aside. */
int cas_losses_settle(struct cas_repair *r, struct cas_losses *l, enum cas_repaired *out,
                      struct cas_err *err) CAS_MUST_CHECK;

/* ---- looking, from the disk alone (repairlook.c) ---- */

/* The bytes of a chunk, from where the index says, compared with its name; *out is 1 to
 * CAS_CHUNK_BYTES_MAX of them in `buf`. Errors: CORRUPT (damaged), NOTFOUND (none). */
int cas_repair_read_chunk(struct cas_store *s, const struct cas_hash *name, struct cas_buf *buf,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Whether the bytes are what the name says: fs-verity for an object of one chunk, else SHA-256. */
bool cas_repair_is_chunk(const struct cas_hash *name, bool is_object, const void *data, size_t len);
/* An object, all of it, by its digest; what is wrong is added to the losses (may be NULL).
 * Errors: CORRUPT, NOTFOUND: it is not sound. */
int cas_repair_look_object(struct cas_store *s, const struct cas_hash *object, struct cas_losses *l,
                           struct cas_err *err) CAS_MUST_CHECK;
/* The file of a blob by its digest. Errors: NOTFOUND, CORRUPT. */
int cas_repair_look_file(struct cas_store *s, const struct cas_digest *blob, uint64_t size_bytes,
                         struct cas_err *err) CAS_MUST_CHECK;
/* What is not sound; else err is another failure. */
bool cas_repair_is_damage(int rc);

/* ---- sources of blobs (repairblob.c) ---- */

/* The blob from an upstream, as a verbatim one. *found false: nobody has it. */
int cas_repair_fetch(struct cas_repair *r, const struct cas_digest *blob, bool *found,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Of a blob whose recipe does not make it any more. */
int cas_repair_recipe_blob(struct cas_repair *r, const struct cas_digest *blob,
                           enum cas_repaired *out, struct cas_err *err) CAS_MUST_CHECK;

/* ---- who needs it (repairneeds.c) ---- */

/* Of one chunk or object: fn for each blob whose layer or recipe needs it. */
typedef void (*cas_need_fn)(void *arg, const struct cas_digest *blob, bool is_layer);
int cas_needs_of_chunk(struct cas_store *s, const struct cas_hash *chunk, cas_need_fn fn, void *arg,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_needs_of_object(struct cas_store *s, const struct cas_hash *object, cas_need_fn fn,
                        void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for each object of several chunks that has the chunk in its list. */
int cas_needs_objects(struct cas_store *s, const struct cas_hash *chunk,
                      void (*fn)(void *arg, const struct cas_hash *object), void *arg,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Names of repositories that have the blob: linked, or through manifests. Each owned, as is the
 * list. At most max. */
int cas_needs_repos(struct cas_store *s, const struct cas_digest *blob, char ***out,
                    size_t *out_count, size_t max, struct cas_err *err) CAS_MUST_CHECK;
/* Tells that a thing was put aside, and which images need the blobs. */
int cas_needs_tell(struct cas_repair *r, const char *what, const char *subject,
                   const struct cas_digest *blobs, size_t count,
                   struct cas_err *err) CAS_MUST_CHECK;

/* ---- putting aside (quarantine.c) ---- */

/* A file of the store, by its path relative to dirfd, to STORE/quarantine/<name>; durable. One of
 * that name is replaced. Absent is success. */
int cas_quarantine_file(struct cas_store *s, int dirfd, const char *path, const char *name,
                        struct cas_err *err) CAS_MUST_CHECK;
/* The same for what has no file here: a copy of the open one. */
int cas_quarantine_bytes(struct cas_store *s, int fd, const char *name,
                         struct cas_err *err) CAS_MUST_CHECK;
/* The file of a blob, and its record. */
int cas_quarantine_blob(struct cas_store *s, const struct cas_digest *blob,
                        struct cas_err *err) CAS_MUST_CHECK;
/* The records of what is left of the losses: chunks and objects are absent then, layers that have
 * them are decoded again as soon as their blobs are here, recipes that need them are not relied
 * on. */
int cas_quarantine_losses(struct cas_store *s, const struct cas_losses *l,
                          struct cas_err *err) CAS_MUST_CHECK;

#endif
