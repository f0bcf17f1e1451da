/* SPDX-License-Identifier: Apache-2.0 */
/* Which objects belong to which layer: nobody gets an object by its digest
 * alone, but only as part of a layer of a repository that they may pull from.
 * The sets of layers that were asked for last are kept in memory. Thread-safe. */
#ifndef REG_PEER_SETS_H
#define REG_PEER_SETS_H

#include "registry/peer_parts.h"

struct reg_peer_sets;
/* Sets beyond so much memory are forgotten, those that were used the longest time ago first; what
 * is in use, and the last one, stay. */
struct reg_peer_sets *reg_peer_sets_new(size_t memory_max_bytes);
/* None may be in use. */
void reg_peer_sets_free(struct reg_peer_sets *sets); /* NULL is nothing */

struct reg_peer_set;
/* The set of a decoded layer; recipe: the object of its proved recipe, all zero when there is none.
 * Reads both where the set is not kept; once, however many ask. To be put back. Errors: as
 * cas_layer_listing and cas_recipe_each_own_object. */
int reg_peer_sets_get(struct reg_peer_sets *sets, struct cas_store *store,
                      const struct cas_layer_record *layer, const struct cas_hash *recipe,
                      struct reg_peer_set **out, struct cas_err *err) CAS_MUST_CHECK;
void reg_peer_sets_put(struct reg_peer_sets *sets, struct reg_peer_set *set); /* NULL is nothing */
/* Whether it is one of the layer's files, its listing, its recipe, or what that names. */
bool reg_peer_set_has(const struct reg_peer_set *set, const struct cas_hash *id);
/* Borrowed until the set is put back. */
const struct reg_peer_parts *reg_peer_set_parts(const struct reg_peer_set *set);

/* For tests. */
unsigned reg_peer_sets_count(struct reg_peer_sets *sets);

#endif
