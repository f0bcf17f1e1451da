/* SPDX-License-Identifier: Apache-2.0 */
/* Looks after a store in the background: collection every so often, and scrub all the time, each in
 * a thread of the store's owner that keeps to its pace. Nothing depends on it: it may be ended at
 * any time, and a later one goes on where it was. */
#ifndef CAS_CARETAKER_H
#define CAS_CARETAKER_H

#include "cas/scrub.h"

struct cas_caretaker_config {
        unsigned gc_every_s;            /* from the end of a run to the next; 0: no runs */
        struct cas_gc_options gc;       /* stop is the caretaker's own */
        unsigned scrub_every_s;         /* from the end of a pass to the next; 0: no scrub */
        struct cas_scrub_options scrub; /* the same */
};
struct cas_caretaker;
/* What the configuration's pointers point to outlives it. */
struct cas_caretaker *cas_caretaker_start(struct cas_store *s,
                                          const struct cas_caretaker_config *config);
/* Waits for the batch or item that is under way. NULL is fine. */
void cas_caretaker_stop(struct cas_caretaker *c);

#endif
