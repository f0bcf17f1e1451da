/* SPDX-License-Identifier: Apache-2.0 */
/* Pace of work in the background: a share of the time, and bytes a second. Thread-safe: those who
 * work for one piece of work share its pace. */
#ifndef CAS_PACE_H
#define CAS_PACE_H

#include "cas/base.h"
#include "cas/mutex.h"

struct cas_pace {
        _Atomic(uint64_t) bytes_per_s; /* 0: no bound; may be changed meanwhile */
        unsigned duty_percent;         /* share of the time to work; 0: all of it */
        bool (*stop)(void *arg);       /* asked while waiting; NULL: never */
        void *arg;

        struct cas_mutex mutex; /* a leaf; guards: */
        uint64_t ready_ns;      /* of CLOCK_MONOTONIC: what was read is paid for */
        uint64_t work_began_ns; /* of the stretch of work since the last rest */
};
void cas_pace_init(struct cas_pace *p, uint64_t bytes_per_s, unsigned duty_percent,
                   bool (*stop)(void *arg), void *arg);
void cas_pace_release(struct cas_pace *p);
bool cas_pace_is_bounded(const struct cas_pace *p);
/* So many bytes were read. Waits for as long as they cost. */
void cas_pace_read(struct cas_pace *p, uint64_t bytes);
/* Between pieces of work: rests when a stretch of work is over. One thread. */
void cas_pace_rest(struct cas_pace *p);

#endif
