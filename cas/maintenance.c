/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/maintenance_int.h"

#include <time.h>

#include "cas/store_int.h"

void cas_maintenance_init(struct cas_maintenance *m)
{
        *m = (struct cas_maintenance){0};
        cas_mutex_init(&m->mutex, "maintenance");
}

void cas_maintenance_release(struct cas_maintenance *m)
{
        cas_mutex_release(&m->mutex);
}

void cas_maintenance_note_gc(struct cas_maintenance *m, int rc, const struct cas_gc_result *r,
                             uint64_t ms)
{
        struct cas_maintenance_stats *t = &m->stats;
        cas_mutex_lock(&m->mutex);
        t->gc_runs++;
        t->gc_full_runs += r->full && !r->stopped && rc == 0;
        t->gc_failed += rc < 0;
        t->gc_ended_unix_s = (uint64_t)time(NULL);
        t->gc_ms = ms;
        t->gc_waiting = r->waiting;
        t->gc_blobs += r->blobs_removed;
        t->gc_objects += r->objects_removed;
        t->gc_packs += r->packs_removed;
        t->gc_packs_rewritten += r->packs_rewritten;
        t->gc_bytes_freed += (int64_t)r->bytes_freed;
        cas_mutex_unlock(&m->mutex);
}

void cas_maintenance_note_scrub(struct cas_maintenance *m, int rc, const struct cas_fsck_result *r,
                                bool pass)
{
        struct cas_maintenance_stats *t = &m->stats;
        cas_mutex_lock(&m->mutex);
        if (pass && rc == 0 && !r->stopped) {
                t->scrub_passes++;
                t->scrub_ended_unix_s = (uint64_t)time(NULL);
        }
        t->scrub_failed += rc < 0;
        t->scrub_errors += r->errors;
        t->scrub_warnings += r->warnings;
        t->scrub_repaired += r->repaired;
        t->scrub_quarantined += r->quarantined;
        cas_mutex_unlock(&m->mutex);
}

void cas_maintenance_stats(struct cas_store *s, struct cas_maintenance_stats *out)
{
        cas_mutex_lock(&s->maintenance.mutex);
        *out = s->maintenance.stats;
        cas_mutex_unlock(&s->maintenance.mutex);
}
