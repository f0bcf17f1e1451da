/* SPDX-License-Identifier: Apache-2.0 */
/* Pauses of work in the background, which end at once when it is told to stop. Thread-safe. */
#ifndef CAS_PACER_H
#define CAS_PACER_H

#include "cas/mutex.h"

struct cas_pacer {
        struct cas_mutex mutex; /* "pacer", guards: */
        pthread_cond_t change;
        bool stopping;
};
void cas_pacer_init(struct cas_pacer *p);
void cas_pacer_release(struct cas_pacer *p);
/* From now on every pause is over. */
void cas_pacer_stop(struct cas_pacer *p);
bool cas_pacer_stopping(struct cas_pacer *p);
/* False: it is time to end. */
bool cas_pacer_pause_ms(struct cas_pacer *p, uint64_t ms);
/* After work that took `ms`: what is left of its time when it may have that share of it. */
bool cas_pacer_rest(struct cas_pacer *p, uint64_t ms, unsigned share_percent);
uint64_t cas_clock_ms(void); /* CLOCK_MONOTONIC */
/* The calling thread goes behind others from now on: CPU, and disk where the scheduler knows that.
 */
void cas_thread_is_background(void);

#endif
