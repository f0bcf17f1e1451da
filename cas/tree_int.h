/* SPDX-License-Identifier: Apache-2.0 */
/* The trees of a store: who makes one, and which files were found whole.
 * Private to cas. */
#ifndef CAS_TREE_INT_H
#define CAS_TREE_INT_H

#include "cas/tree.h"

/* What a store remembers about its trees while it is open. Thread-safe. */
struct cas_trees;
struct cas_trees *cas_trees_new(void);
void cas_trees_free(struct cas_trees *t);
/* Forgets that a tree's file was found whole: whoever removes or damages it says so. */
void cas_trees_forget(struct cas_trees *t, const struct cas_digest *tree);

/* Who makes a tree known to the index has its file in place before, and both hold this; shared.
 * Collection has it alone from looking whether a tree is to go to telling the index, and from
 * looking whether a record names a file to removing it; who drops a damaged tree from its record to
 * its file; scrub while it looks at a file that no record seems to tell of. */
void cas_trees_naming_lock(struct cas_trees *t, bool exclusive);
void cas_trees_naming_unlock(struct cas_trees *t);

/* Gives the listing of layer `index` of the chain, which the callee releases. */
typedef int (*cas_tree_listing_fn)(void *arg, size_t index, struct cas_listing *out,
                                   struct cas_err *err);
struct cas_tree_chain {
        const struct cas_layer_record *layers; /* lowest first */
        size_t count;
        size_t base_count; /* > 0: only what the layers above these change, stacked */
        bool alone;        /* of one layer: by itself, with its marks */
        cas_tree_listing_fn listing;
        void *listing_arg;
};
/* cas_tree_ensure() with listings from anywhere. */
int cas_tree_ensure_chain(struct cas_store *s, const struct cas_tree_chain *chain,
                          struct cas_tree_ref *out, struct cas_err *err) CAS_MUST_CHECK;

/* The key of a chain's tree in the index (spec/tree.md). */
void cas_tree_key(const struct cas_tree_chain *chain, struct cas_hash *out);

/* Forgets the tree that a chain has come to, if it is this one, and removes its file. */
int cas_tree_drop(struct cas_store *s, const struct cas_hash *key, const struct cas_digest *tree,
                  struct cas_err *err) CAS_MUST_CHECK;

/* "trees/<hex>.erofs", relative to the store's directory. */
#define CAS_TREE_PATH_BYTES 160
void cas_tree_relative_path(const struct cas_digest *tree, char out[CAS_TREE_PATH_BYTES]);

#endif
