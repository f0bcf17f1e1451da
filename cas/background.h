/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that works in the background: its pauses, which end at once when it is told to stop, and
 * its place behind others. Thread-safe. */
#ifndef CAS_BACKGROUND_H
#define CAS_BACKGROUND_H

#include "cas/mutex.h"

struct cas_background {
        struct cas_mutex mutex; /* "background", guards: */
        pthread_cond_t change;
        bool stopping;
};
void cas_background_init(struct cas_background *p);
void cas_background_release(struct cas_background *p);
/* From now on every pause is over. */
void cas_background_stop(struct cas_background *p);
bool cas_background_stopping(struct cas_background *p);
/* False: it is time to end. */
bool cas_background_pause_ms(struct cas_background *p, uint64_t ms);
/* After work that took `ms`: what is left of its time when it may have that share of it. */
bool cas_background_rest(struct cas_background *p, uint64_t ms, unsigned share_percent);
uint64_t cas_clock_ms(void); /* CLOCK_MONOTONIC */
/* The calling thread goes behind others from now on: CPU, and disk where the scheduler knows that.
 */
void cas_thread_is_background(void);

#endif
