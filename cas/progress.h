/* SPDX-License-Identifier: Apache-2.0 */
/* Progress of work that runs in parallel parts: their sum is told to one
 * receiver, one call at a time. Thread-safe; a part belongs to one thread. */
#ifndef CAS_PROGRESS_H
#define CAS_PROGRESS_H

#include "cas/mutex.h"
#include "cas/store.h"

struct cas_progress_sum {
        struct cas_mutex mutex;        /* guards done_bytes, and the receiver */
        const struct cas_progress *to; /* borrowed; may be NULL */
        const char *what;              /* borrowed */
        uint64_t done_bytes, total_bytes;
};
void cas_progress_sum_init(struct cas_progress_sum *sum, const struct cas_progress *to,
                           const char *what, uint64_t total_bytes);
void cas_progress_sum_release(struct cas_progress_sum *sum);
#define cas_cleanup_progress_sum __attribute__((cleanup(cas_progress_sum_release)))

struct cas_progress_part {
        struct cas_progress progress; /* hand this to the work */
        struct cas_progress_sum *sum; /* borrowed */
        uint64_t done_bytes;          /* of this part */
        uint64_t total_bytes;
};
void cas_progress_part_init(struct cas_progress_part *part, struct cas_progress_sum *sum,
                            uint64_t total_bytes);
/* Counts the part as done whole, whatever was told of it. */
void cas_progress_part_end(struct cas_progress_part *part);

#endif
