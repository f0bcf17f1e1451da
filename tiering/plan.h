/* SPDX-License-Identifier: Apache-2.0 */
/* What the mover would do, and why: decided from the tiers, the packs and their heat alone, so that
 * it can be told as well as done. Thread-safe. */
#ifndef TIERING_PLAN_H
#define TIERING_PLAN_H

#include "tiering/tierset.h"

/* In the order in which they are served. */
enum tier_reason {
        TIER_STAYS,     /* nothing to do */
        TIER_EVACUATED, /* its tier is leaving */
        TIER_SINKS,     /* its tier is above its mark, and it is among the coldest there */
        TIER_COOLED,    /* not read for the tier's cool_after */
        TIER_DENSER     /* written less densely than its tier's home copies are */
};
const char *tier_reason_name(enum tier_reason reason); /* a word */
const char *tier_reason_text(enum tier_reason reason); /* for people */

struct tier_candidate {
        struct cas_pack_info pack;
        uint64_t heat;        /* now, in 1/TIER_HEAT_READ reads */
        uint64_t used_unix_s; /* read last, else when it came to its tier; 0: not known */
        enum tier_reason reason;
        uint32_t to; /* CAS_TIER_ANY: nowhere can take it now, or nothing is to be done */
};
struct tier_plan {
        struct tier_candidate *list; /* owned; in the order in which they would be moved, then what
                                      * stays, coldest first */
        size_t count;
        size_t due_count;   /* of them, with a reason */
        uint64_t due_bytes; /* of these */
};
/* began: tiers, by id, of which the mover has begun to sink packs and not come to the low mark. */
int tier_plan_make(struct cas_store *s, struct tier_set *set,
                   bool (*began)(void *arg, uint32_t tier), void *arg, struct tier_plan *out,
                   struct cas_err *err) CAS_MUST_CHECK;
void tier_plan_release(struct tier_plan *p);
#define tier_cleanup_plan __attribute__((cleanup(tier_plan_release)))

#endif
