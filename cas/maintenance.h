/* SPDX-License-Identifier: Apache-2.0 */
/* What collection and scrub have done since the store was opened, whoever asked for it.
 * Thread-safe. */
#ifndef CAS_MAINTENANCE_H
#define CAS_MAINTENANCE_H

#include "cas/maintain.h"

struct cas_maintenance_stats {
        uint64_t gc_runs, gc_full_runs, gc_failed;
        uint64_t gc_ended_unix_s, gc_ms; /* of the last run; 0: none */
        uint64_t gc_waiting;             /* after it: condemned, but young or in use */
        uint64_t gc_blobs, gc_objects, gc_packs, gc_packs_rewritten;
        int64_t gc_bytes_freed;
        uint64_t scrub_passes, scrub_failed;
        uint64_t scrub_ended_unix_s; /* of the last whole pass */
        uint64_t scrub_errors, scrub_warnings, scrub_repaired, scrub_quarantined;
};
void cas_maintenance_stats(struct cas_store *s, struct cas_maintenance_stats *out);

#endif
