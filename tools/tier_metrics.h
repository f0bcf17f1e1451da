/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of tiers, cache and mover for /metrics (spec/registry-operation.md), and what the store
 * saves. Thread-safe. */
#ifndef TOOLS_TIER_METRICS_H
#define TOOLS_TIER_METRICS_H

#include "cas/buf.h"
#include "tiering/mover.h"

/* What would lie there besides, if it were not for … */
struct tier_saved {
        uint64_t by_dedup;       /* files and pieces that several have are kept once */
        uint64_t by_compression; /* of those pieces, in packs */
        uint64_t by_condensing;  /* blobs that have a recipe and no file */
};
struct tier_saved tier_saved(const struct cas_store_stats *t);
/* Nothing for a store without a list of tiers. mover may be NULL. */
void tier_metrics_append(struct cas_store *s, struct tier_mover *mover, struct cas_buf *out);

#endif
