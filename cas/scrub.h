/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub: looks at every byte of the store again and again, paced, and goes on where it was when the
 * store was closed (spec/scrub.md). fsck is one pass of it at full speed. Runs beside everything
 * else: what looks wrong is looked at again before it is told. */
#ifndef CAS_SCRUB_H
#define CAS_SCRUB_H

#include "cas/maintain.h"

struct cas_publish;

struct cas_scrub_options {
        bool noted_only; /* no pass: only what readers have met (cas_scrub_noted), with `repair` */
        bool from_start; /* else from where the last one stopped */
        bool repair;     /* from any other copy; what cannot be repaired is put aside */
        uint64_t bytes_per_s;    /* read at most; 0: as fast as it goes */
        unsigned duty_percent;   /* share of the time to work; 0: all of it */
        bool (*stop)(void *arg); /* asked between items; NULL: never */
        void *stop_arg;
        /* An upstream that may have a blob: writes it into `p` (cas_publish_blob_begin …) and
         * answers 0, or NOTFOUND. repos: those that link it, for the upstream's sake. NULL: there
         * is none. */
        int (*fetch_blob)(void *arg, struct cas_publish *p, const struct cas_digest *blob,
                          const char *const *repos, size_t repo_count, struct cas_err *err);
        void *fetch_arg;
};
/* Where a pass is. */
struct cas_scrub_state {
        uint64_t pass;          /* passes that have ended */
        uint64_t began_unix_s;  /* of this pass */
        uint64_t ended_unix_s;  /* of the last whole pass; 0: none */
        uint64_t bytes_checked; /* in this pass */
        const char *at;         /* static text: packs, blobs, objects … */
};
/* One pass, or what is left of it; the result counts what this call has done. STOPPED (a bool of
 * the result) when told to. Messages as of fsck (spec/store.md). */
int cas_scrub(struct cas_store *s, const struct cas_scrub_options *options,
              const struct cas_progress *progress, cas_fsck_fn fn, void *arg,
              struct cas_fsck_result *out, struct cas_err *err) CAS_MUST_CHECK;
/* Things that readers found damaged and that no scrub has looked at since: those come first in the
 * next one, wherever it goes on. Who serves a store scrubs soon when there are some. */
uint64_t cas_scrub_noted(struct cas_store *s);
int cas_scrub_state(struct cas_store *s, struct cas_scrub_state *out,
                    struct cas_err *err) CAS_MUST_CHECK;

#endif
