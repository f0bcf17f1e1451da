/* SPDX-License-Identifier: Apache-2.0 */
/* Condensing in the background: a thread of the store's owner that condenses layers one after the
 * other, the oldest digests first, and rewrites sealed packs in between. Nothing depends on it: it
 * may be ended at any time, and a later one goes on with what is left. */
#ifndef CAS_CONDENSER_H
#define CAS_CONDENSER_H

#include "cas/condense.h"

struct cas_condenser_config {
        unsigned share_percent; /* of one CPU's time that it takes at most; 1 to 100 */
        unsigned idle_s;        /* pause after everything was looked at */
        enum cas_condense_codec codec;
};
struct cas_condenser;
struct cas_condenser *cas_condenser_start(struct cas_store *s,
                                          const struct cas_condenser_config *config);
/* Waits for the step that is under way: one layer, or one pack. NULL is fine. */
void cas_condenser_stop(struct cas_condenser *c);

#endif
