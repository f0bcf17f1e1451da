/* SPDX-License-Identifier: Apache-2.0 */
/* Moves packs between tiers in the background, as plan.h has it: a thread of the store's owner. At
 * the pace of the slower of both devices, but for writers who wait for room; one that failed is
 * left alone for longer and longer, so that a full, absent or broken target costs nothing. It may
 * be ended at any time: what was under way is begun again by a later one. It also looks after the
 * tiers: whether they are there, how large the cache may be, and that heat is kept. */
#ifndef TIERING_MOVER_H
#define TIERING_MOVER_H

#include "tiering/plan.h"

struct tier_mover;
/* When it works: all the time, or only while somebody waits for room (for a store that is open for
 * one operation). */
enum tier_mover_kind { TIER_MOVER_ALWAYS, TIER_MOVER_WANTED };
/* NULL: the store was not opened by tier_set_open. */
struct tier_mover *tier_mover_start(struct cas_store *s, enum tier_mover_kind kind);
/* Waits until what is under way has stopped; before the store is closed. NULL is fine. */
void tier_mover_stop(struct tier_mover *m);

struct tier_mover_status {
        const char
                *state; /* "idle", "moving", "waiting" (all that is due failed before), "paused" */
        uint64_t pack_id; /* that is being moved; 0: none */
        uint32_t from, to;
        uint64_t pack_bytes, began_unix_s;
        enum tier_reason reason;
        uint64_t due_packs, due_bytes; /* the backlog … */
        uint64_t due_since_unix_s;     /* … and since when there is one; 0: there is none */
        uint64_t moved_packs, recoded_packs, moved_bytes, written_bytes, failures;
        uint64_t bytes_per_s;         /* of the last minute */
        char failed[CAS_ERR_MSG_MAX]; /* the last failure; "" */
};
void tier_mover_status(struct tier_mover *m, struct tier_mover_status *out);

/* Moves one pack as a mover does, at its pace. stop may be NULL. Blocks. Errors: of cas_pack_move.
 */
int tier_move_pack(struct cas_store *s, const struct tier_candidate *c, bool hurry,
                   bool (*stop)(void *arg), void *stop_arg, struct cas_pack_move_result *out,
                   struct cas_err *err) CAS_MUST_CHECK;

#endif
