/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/caretaker.h"

#include <time.h>

#include "cas/log.h"
#include "cas/background.h"

/* A pass of scrub that met an error, and one that had been told to stop, go on after this. */
#define AGAIN_S 60
/* How often it is looked whether readers have met damage, which does not wait for the next pass. */
#define LOOK_MS 2000
/* After the start, before the first run. */
#define SETTLE_S 30

struct cas_caretaker {
        struct cas_store *store;
        struct cas_caretaker_config config;
        struct cas_background background;
        pthread_t gc_thread, scrub_thread;
};

static bool told_to_stop(void *arg)
{
        struct cas_caretaker *c = arg;
        return cas_background_stopping(&c->background);
}

/* ---- collection ---- */

static void collect(struct cas_caretaker *c)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r = {0};
        uint64_t start = cas_clock_ms();
        if (cas_gc(c->store, &c->config.gc, NULL, &r, &err) < 0)
                cas_log(CAS_LOG_WARN, "gc", "error=\"%s\"", err.msg);
        if (r.blobs_removed + r.objects_removed + r.packs_removed + r.packs_rewritten > 0)
                cas_log(CAS_LOG_INFO, "gc",
                        "blobs=%llu objects=%llu packs=%llu rewritten=%llu bytes=%lld "
                        "waiting=%llu ms=%llu",
                        (unsigned long long)r.blobs_removed, (unsigned long long)r.objects_removed,
                        (unsigned long long)r.packs_removed, (unsigned long long)r.packs_rewritten,
                        (long long)r.bytes_freed, (unsigned long long)r.waiting,
                        (unsigned long long)(cas_clock_ms() - start));
}

static void *gc_main(void *arg)
{
        struct cas_caretaker *c = arg;
        cas_thread_is_background();
        uint64_t wait_s = cas_min_u64(SETTLE_S, c->config.gc_every_s);
        while (cas_background_pause_ms(&c->background, wait_s * 1000)) {
                collect(c);
                wait_s = c->config.gc_every_s;
        }
        return NULL;
}

/* ---- scrub ---- */

static void tell_finding(void *arg, enum cas_fsck_severity severity, const char *id,
                         const char *subject, const char *message)
{
        (void)arg;
        enum cas_log_level level = severity == CAS_FSCK_ERROR     ? CAS_LOG_ERROR
                                   : severity == CAS_FSCK_WARNING ? CAS_LOG_WARN
                                                                  : CAS_LOG_DEBUG;
        cas_log(level, "scrub", "id=%s subject=\"%s\" message=\"%s\"", id, subject, message);
}

/* How long until the next pass is due. */
static uint64_t scrub_wait_s(struct cas_caretaker *c)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_scrub_state state;
        uint64_t now = (uint64_t)time(NULL), soon = cas_min_u64(AGAIN_S, c->config.scrub_every_s);
        if (cas_scrub_state(c->store, &state, &err) < 0 || state.bytes_checked > 0 ||
            state.ended_unix_s == 0 || state.ended_unix_s > now)
                return soon;
        uint64_t passed = now - state.ended_unix_s;
        return passed >= c->config.scrub_every_s ? soon : c->config.scrub_every_s - passed;
}

static void scrub(struct cas_caretaker *c, bool noted_only)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r = {0};
        struct cas_scrub_options options = c->config.scrub;
        uint64_t start = cas_clock_ms();
        options.noted_only = noted_only;
        if (cas_scrub(c->store, &options, NULL, tell_finding, NULL, &r, &err) < 0)
                cas_log(CAS_LOG_WARN, "scrub", "error=\"%s\"", err.msg);
        else if (!r.stopped && !noted_only)
                cas_log(CAS_LOG_INFO, "scrub",
                        "pass=ended errors=%llu warnings=%llu repaired=%llu quarantined=%llu "
                        "seconds=%llu",
                        (unsigned long long)r.errors, (unsigned long long)r.warnings,
                        (unsigned long long)r.repaired, (unsigned long long)r.quarantined,
                        (unsigned long long)((cas_clock_ms() - start) / 1000));
}

static void *scrub_main(void *arg)
{
        struct cas_caretaker *c = arg;
        cas_thread_is_background();
        uint64_t due_ms = cas_clock_ms() + scrub_wait_s(c) * 1000;
        while (cas_background_pause_ms(&c->background,
                                       cas_min_u64(due_ms - cas_clock_ms(), LOOK_MS))) {
                if (cas_clock_ms() >= due_ms) {
                        scrub(c, false);
                        due_ms = cas_clock_ms() + scrub_wait_s(c) * 1000;
                } else if (c->config.scrub.repair && cas_scrub_noted(c->store) > 0) {
                        scrub(c, true);
                }
                due_ms = cas_max_u64(due_ms, cas_clock_ms());
        }
        return NULL;
}

/* ---- both ---- */

struct cas_caretaker *cas_caretaker_start(struct cas_store *s,
                                          const struct cas_caretaker_config *config)
{
        struct cas_caretaker *c = cas_xcalloc(1, sizeof(*c));
        c->store = s;
        c->config = *config;
        c->config.gc.stop = told_to_stop;
        c->config.gc.stop_arg = c;
        c->config.scrub.stop = told_to_stop;
        c->config.scrub.stop_arg = c;
        cas_background_init(&c->background);
        int rc = 0;
        if (config->gc_every_s > 0)
                rc = pthread_create(&c->gc_thread, NULL, gc_main, c);
        if (rc == 0 && config->scrub_every_s > 0)
                rc = pthread_create(&c->scrub_thread, NULL, scrub_main, c);
        cas_assert(rc == 0);
        return c;
}

void cas_caretaker_stop(struct cas_caretaker *c)
{
        if (!c)
                return;
        cas_background_stop(&c->background);
        if (c->config.gc_every_s > 0)
                (void)pthread_join(c->gc_thread, NULL);
        if (c->config.scrub_every_s > 0)
                (void)pthread_join(c->scrub_thread, NULL);
        cas_background_release(&c->background);
        free(c);
}
