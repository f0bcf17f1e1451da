/* SPDX-License-Identifier: Apache-2.0 */
/* Layers that come by parts: listing, recipe and file objects from a store elsewhere, and the blob
 * made of them here. What is taken over is what was proved here: the blob is made from the recipe,
 * its digest compared, and the layer decoded from those very bytes, so that neither a recipe nor a
 * listing has to be believed. */
#ifndef CAS_ASSEMBLE_H
#define CAS_ASSEMBLE_H

#include "cas/condense.h"
#include "cas/publish.h"

/* What of a layer's parts is not in the store. */
struct cas_assembly_needs {
        struct cas_hash *missing; /* owned; each once: objects of the listing in its order, then
                                   * those that the recipe alone names */
        uint64_t *missing_sizes;  /* owned; of each; 0 where the listing does not tell */
        size_t missing_count;
        uint64_t missing_bytes; /* of those in the listing; any more are not known */
        uint64_t content_bytes; /* of all distinct objects in the listing */
};
void cas_assembly_needs_release(struct cas_assembly_needs *n);
#define cas_cleanup_assembly_needs __attribute__((cleanup(cas_assembly_needs_release)))
/* listing and recipe are objects, from anybody. All parts, these two and those that are missing
 * included, are kept by `keep` (cas_publish_keep_object): what is here stays. Errors: NOTFOUND,
 * CORRUPT, UNSUPPORTED (a version, or a recipe that is made of more than file objects), LIMIT. */
int cas_assembly_needs(struct cas_publish *keep, const struct cas_hash *listing,
                       const struct cas_hash *recipe, struct cas_assembly_needs *out,
                       struct cas_err *err) CAS_MUST_CHECK;

/* Makes the blob from the recipe, whose objects are all here, and publishes layer, recipe and blob
 * in one publication: the blob is condensed from then on, without ever having had a copy. Done at
 * once when the store has the layer and the blob; concurrent calls for one blob do it once. The
 * caller keeps the parts until this returns, as cas_assembly_needs does. Blocks for a regeneration.
 * Errors: CORRUPT, INVALID or LIMIT (it does not make that blob of blob_bytes, or the
 * blob is no layer: the store is as it was), NOTFOUND (parts), NOSPACE, IO. */
int cas_layer_assemble(struct cas_store *s, const struct cas_digest *blob, uint64_t blob_bytes,
                       const struct cas_hash *recipe, const struct cas_progress *progress,
                       struct cas_layer_record *out, struct cas_err *err) CAS_MUST_CHECK;

/* Calls fn for the objects that the recipe names itself: the listing first, if it uses one, then
 * what is not in that. Errors: as cas_assembly_needs, and fn's. */
int cas_recipe_each_own_object(struct cas_store *s, const struct cas_hash *recipe,
                               int (*fn)(void *arg, const struct cas_hash *object,
                                         struct cas_err *err),
                               void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
