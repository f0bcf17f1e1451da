/* SPDX-License-Identifier: Apache-2.0 */
/* References that a publication writes, and what it condemns (spec/gc.md). It is told what the
 * publication adds, as that comes; at the commit, with blob files locked, it looks at what the
 * index has and fills the batch. Private to cas/publish.c. */
#ifndef CAS_PUBLISHREFS_INT_H
#define CAS_PUBLISHREFS_INT_H

#include "cas/namerecord_int.h"
#include "cas/refnodes_int.h"
#include "cas/prefixset.h"

struct cas_listing;
struct cas_map;
struct cas_recipe;

/* A record of the publication that has references to objects. */
struct cas_publish_parent {
        enum cas_family family; /* LAYERS, ELSEWHERE, RECIPES */
        struct cas_digest blob;
        struct cas_hash object; /* listing or recipe; zero: none */
};

struct cas_publish_refs {
        struct cas_store *store;
        struct cas_batch *told;             /* owned: of what was told */
        struct cas_prefixset objects;       /* that get a reference */
        struct cas_publish_parent *parents; /* owned */
        size_t parent_count, parent_max;
        /* made at the commit */
        struct cas_batch *settled; /* owned: what goes, then what of manifests comes */
        struct cas_map *kept;      /* owned: blobs that get a reference that keeps them */
        struct cas_map *named; /* owned: repo NUL digest, as manifests of the commit name them */
};

void cas_publish_refs_init(struct cas_publish_refs *r, struct cas_store *s);
void cas_publish_refs_release(struct cas_publish_refs *r);

/* A layer, here or elsewhere. Its listing is borrowed during the call. */
int cas_publish_refs_layer(struct cas_publish_refs *r, enum cas_family family,
                           const struct cas_layer_record *layer, const struct cas_listing *listing,
                           struct cas_err *err) CAS_MUST_CHECK;
/* opened: the recipe, where it is not in the store yet; else NULL. */
int cas_publish_refs_recipe(struct cas_publish_refs *r, const struct cas_recipe_record *recipe,
                            struct cas_recipe *opened, struct cas_err *err) CAS_MUST_CHECK;

/* The objects that get a reference are known. */
const struct cas_prefixset *cas_publish_refs_objects(struct cas_publish_refs *r);

/* What the commit brings. */
struct cas_publish_plan {
        const struct cas_buf *names; /* records */
        uint32_t name_count;
        const struct cas_staged_blob *staged;
        size_t staged_count;
        bool exclusive; /* so blob files are locked */
};
/* Whether a commit needs that lock for its references. */
bool cas_publish_refs_lock(const struct cas_publish_refs *r, const struct cas_publish_plan *plan);
/* *again: all of it has to be done once more, with blob files locked exclusively: others might
 * bring at the same time what this publication saw to be absent, or refer to what it takes a
 * reference from. */
int cas_publish_refs_settle(struct cas_publish_refs *r, const struct cas_publish_plan *plan,
                            bool *again, struct cas_err *err) CAS_MUST_CHECK;
/* Whether the commit gives the blob a reference that keeps it. Settled only. */
bool cas_publish_refs_keeps(const struct cas_publish_refs *r, const struct cas_digest *blob);
/* Moves all of it to the end of the batch. */
void cas_publish_refs_write(struct cas_publish_refs *r, struct cas_batch *batch);

#endif
