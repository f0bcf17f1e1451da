/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of fsck. Private to cas/fsck*.c. */
#ifndef CAS_FSCK_INT_H
#define CAS_FSCK_INT_H

#include "cas/fsck_messages.h"
#include "cas/hashset.h"
#include "cas/maintain.h"
#include "cas/pool.h"
#include "cas/store_int.h"

struct cas_fsck_run {
        struct cas_store *s;
        const struct cas_progress *progress;
        cas_fsck_fn fn;
        void *arg;
        uint64_t total_bytes;

        struct cas_mutex mutex; /* a leaf; guards all below, and calls of fn */
        struct cas_fsck_result *out;
        uint64_t done_bytes;
        struct cas_hashset chunks; /* found sound where the index says */
        int rc;                    /* first failure of the check itself, with err */
        struct cas_err err;

        struct cas_pool_group group;
};

/* Tells one finding. From any thread. */
void cas_fsck_say(struct cas_fsck_run *run, enum cas_fsck_message message, const char *subject,
                  const char *fmt, ...) CAS_PRINTF(4, 5);
/* Notes that the check itself cannot go on (NOMEM …). */
void cas_fsck_fail(struct cas_fsck_run *run, const struct cas_err *err);
void cas_fsck_progress(struct cas_fsck_run *run, const char *what, uint64_t bytes);
/* Adds to a counter of run->out. */
void cas_fsck_count(struct cas_fsck_run *run, uint64_t *counter);

/* Packs with their blocks and chunks; then objects. */
int cas_fsck_packs(struct cas_fsck_run *run, struct cas_err *err) CAS_MUST_CHECK;
int cas_fsck_objects(struct cas_fsck_run *run, struct cas_err *err) CAS_MUST_CHECK;
/* Names: manifests, tags, links, referrers, and the journal. */
int cas_fsck_names(struct cas_fsck_run *run, struct cas_err *err) CAS_MUST_CHECK;

#endif
