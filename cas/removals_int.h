/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes files of the store away, packs, blobs and trees that the index does not tell of any
 * more, and who must find every file that the index told of at one instant. Thread-safe. */
#ifndef CAS_REMOVALS_INT_H
#define CAS_REMOVALS_INT_H

#include "cas/mutex.h"

struct cas_removals {
        struct cas_mutex mutex; /* "removals", guards: */
        pthread_cond_t change;
        unsigned running, holds;
};
void cas_removals_init(struct cas_removals *r);
void cas_removals_release(struct cas_removals *r);
/* Around one unlink and what is synced with it. Waits while removals are held. NULL: no-op. */
void cas_removal_begin(struct cas_removals *r);
void cas_removal_end(struct cas_removals *r);
/* Nothing is removed in between; what runs has ended. */
void cas_removals_hold(struct cas_removals *r);
void cas_removals_let_go(struct cas_removals *r);

#endif
