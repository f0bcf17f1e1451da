/* SPDX-License-Identifier: Apache-2.0 */
/* Who keeps the numbers of cas/maintenance.h. Private to cas. */
#ifndef CAS_MAINTENANCE_INT_H
#define CAS_MAINTENANCE_INT_H

#include "cas/maintenance.h"
#include "cas/mutex.h"

struct cas_maintenance {
        struct cas_mutex mutex; /* "maintenance", guards: */
        struct cas_maintenance_stats stats;
};
void cas_maintenance_init(struct cas_maintenance *m);
void cas_maintenance_release(struct cas_maintenance *m);
/* A run has ended (rc below 0: failed, with what it had done). Not of dry runs. */
void cas_maintenance_note_gc(struct cas_maintenance *m, int rc, const struct cas_gc_result *r,
                             uint64_t ms);
/* pass: it went on to the end, unless it was stopped. */
void cas_maintenance_note_scrub(struct cas_maintenance *m, int rc, const struct cas_fsck_result *r,
                                bool pass);

#endif
