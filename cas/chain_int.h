/* SPDX-License-Identifier: Apache-2.0 */
/* Chains: which images of the store begin with the same layers. Decides where
 * an image's chain of layers is cut into two trees (spec/tree.md). What is kept
 * here only steers; losing it costs sharing, never correctness. Private to
 * cas. Thread-safe. */
#ifndef CAS_CHAIN_INT_H
#define CAS_CHAIN_INT_H

#include "cas/index_int.h"

/* Notes that the manifest's image stands on each beginning of its chain. */
int cas_chain_note(struct cas_store *s, struct cas_batch *batch, const struct cas_digest *diff_ids,
                   size_t count, const struct cas_digest *manifest,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Takes those notes back. */
int cas_chain_forget(struct cas_index *ix, struct cas_batch *batch,
                     const struct cas_digest *diff_ids, size_t count,
                     const struct cas_digest *manifest, struct cas_err *err) CAS_MUST_CHECK;
/* How many layers the lower tree takes: the longest proper beginning of the chain that another
 * chain of the store has too and that no earlier attempt found unfit; 0: one flat tree. */
int cas_chain_cut(struct cas_store *s, const struct cas_digest *diff_ids, size_t count,
                  size_t *out_base_count, struct cas_err *err) CAS_MUST_CHECK;
/* Remembers that this chain cannot be cut there. */
int cas_chain_note_unfit(struct cas_store *s, const struct cas_digest *diff_ids, size_t count,
                         size_t base_count, struct cas_err *err) CAS_MUST_CHECK;
/* The manifest of an entry of the family `chains`, for collection: false when it has none. */
bool cas_chain_manifest(const void *value, size_t value_len, struct cas_digest *out);

#endif
