/* SPDX-License-Identifier: Apache-2.0 */
/* Repair: puts damaged things right from other copies, and puts aside what cannot be
 * (spec/scrub.md). Called by scrub with what it has found, and seen twice. Thread-safe; blocks.
 * Private to cas. */
#ifndef CAS_REPAIR_INT_H
#define CAS_REPAIR_INT_H

#include "cas/scrub.h"

/* Ids of what fn is told, as notes (spec/store.md). */
#define CAS_REPAIR_QUARANTINED "quarantined" /* subject: what was put aside */
#define CAS_REPAIR_IMAGE "image-damaged"     /* subject: an image that needs it */

struct cas_repair;
/* options borrowed (fetch_blob); fn is told of what was put aside and which images need it. */
struct cas_repair *cas_repair_new(struct cas_store *s, const struct cas_scrub_options *options,
                                  cas_fsck_fn fn, void *arg);
void cas_repair_free(struct cas_repair *r);

enum cas_repaired {
        CAS_REPAIRED = 1, /* whole again */
        CAS_QUARANTINED =
                2, /* put aside: answered as absent from now on, brought again by who has it */
        CAS_NOT_NEEDED = 3, /* nothing needs it: removed */
};
/* A chunk (or object of one chunk) whose bytes are wrong or not there: other blocks of packs that
 * hold it, then layer blobs that contain the object (verbatim ones are decoded, condensed ones are
 * made of other objects as far as that goes), then an upstream. */
int cas_repair_chunk(struct cas_repair *r, const struct cas_hash *chunk, enum cas_repaired *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* An object whose record, list or digest is wrong. */
int cas_repair_object(struct cas_repair *r, const struct cas_hash *object, enum cas_repaired *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* A blob whose file is damaged, short or gone: from its recipe, else an upstream. Its file is put
 * aside, never removed, unless it could be made again. */
int cas_repair_blob(struct cas_repair *r, const struct cas_digest *blob, enum cas_repaired *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A blob whose recipe does not make it any more (its objects were repaired before). */
int cas_repair_recipe(struct cas_repair *r, const struct cas_digest *blob, enum cas_repaired *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* A tree: made again when it is wanted. */
int cas_repair_tree(struct cas_repair *r, const struct cas_digest *tree, enum cas_repaired *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A pack with damage: what is sound and live moves to others, chunks that are not are repaired;
 * then the pack is put aside (with damage that was not repaired) or removed. */
int cas_repair_pack(struct cas_repair *r, uint64_t pack_id, enum cas_repaired *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* What readers met since the last call (cas/damage_int.h): each is repaired. The counts are added
 * to: `errors` gets what was damaged indeed. */
int cas_repair_noted(struct cas_repair *r, struct cas_fsck_result *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
