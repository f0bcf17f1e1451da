/* SPDX-License-Identifier: Apache-2.0 */
/* Marking, the first half of a collection: what must stay. */
#ifndef CAS_GC_INT_H
#define CAS_GC_INT_H

#include "cas/commit_int.h"
#include "cas/hashset.h"
#include "cas/maintain.h"

struct cas_gc_marks {
        struct cas_hashset blobs;   /* with manifests and configs */
        struct cas_hashset layers;  /* blobs that are decoded layers */
        struct cas_hashset objects; /* of those layers and their listings, and of recipes */
        struct cas_hashset chunks;
        struct cas_buf unlinks; /* records: links of blobs that nothing in their repository needs */
        uint32_t unlink_count;
};
void cas_gc_marks_release(struct cas_gc_marks *m);

/* The store is held exclusively. What is younger than `young_unix_s` stays in any case. */
int cas_gc_mark(struct cas_store *s, uint64_t young_unix_s, const struct cas_progress *progress,
                struct cas_gc_marks *m, struct cas_err *err) CAS_MUST_CHECK;

#endif
