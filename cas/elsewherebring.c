/* SPDX-License-Identifier: Apache-2.0 */
/* Bringing files of layers that are elsewhere: who waits for them, what is
 * asked of which source, and what happens when a source is away. */
#include <inttypes.h>
#include <time.h>

#include "cas/backend.h"
#include "cas/elsewhere_int.h"
#include "cas/index_int.h"
#include "cas/log.h"
#include "cas/map.h"
#include "cas/object.h"
#include "cas/store_int.h"

/* What comes along with a file that somebody waits for. */
#define NEIGHBOUR_FILES_MAX 32
#define NEIGHBOUR_BYTES_MAX (256 * CAS_KIB)
/* Of what is waited for by others, in the same layer. */
#define WANTED_BYTES_MAX (4 * CAS_MIB)
#define PAUSE_FIRST_MS 250
#define PAUSE_MAX_MS 5000
#define LOG_EVERY_MS 60000
/* A file that the source does not give is not asked for again so soon. */
#define REFUSED_MS 30000
/* Large files may take longer: a second for each of these. */
#define SLOW_BYTES_PER_S (256 * CAS_KIB)
/* Who asks for a file again and again is told that it was given up; then nobody asks any more. */
#define FORGET_MS 2000
/* The background waits for so long after a reader has asked. */
#define QUIET_MS 250

struct cas_want {
        struct cas_want *next;
        struct cas_hash id;
        uint64_t since_ms;
        uint64_t limit_ms; /* it is given up then */
        bool alone;        /* asked for without others, which may be what was refused */
};

/* ---- sources ---- */

bool cas_source_ready_locked(const struct cas_part_source *source, uint64_t now_ms)
{
        return !source->connecting && (source->down_since_ms == 0 || now_ms >= source->next_try_ms);
}

void cas_source_note_locked(struct cas_elsewhere *e, struct cas_part_source *source,
                            const struct cas_err *err)
{
        cas_assert_held(&e->mutex);
        uint64_t now = cas_elsewhere_now_ms();
        if (!err) {
                if (source->down_since_ms)
                        cas_log(CAS_LOG_INFO, "elsewhere", "source=%s answers=again", source->text);
                source->down_since_ms = source->pause_ms = source->logged_ms = 0;
                return;
        }
        if (!source->down_since_ms)
                source->down_since_ms = now;
        source->why = *err;
        source->pause_ms =
                source->pause_ms ? cas_min_u64(2 * source->pause_ms, PAUSE_MAX_MS) : PAUSE_FIRST_MS;
        source->next_try_ms = now + source->pause_ms;
        if (!source->logged_ms || now - source->logged_ms >= LOG_EVERY_MS) {
                source->logged_ms = now;
                cas_log(CAS_LOG_WARN, "elsewhere", "source=%s away-ms=%" PRIu64 " error=\"%s\"",
                        source->text, now - source->down_since_ms, err->msg);
        }
}

int cas_source_remote(struct cas_elsewhere *e, struct cas_part_source *source,
                      struct cas_remote **out, struct cas_err *err)
{
        struct cas_remote *remote = NULL;
        cas_mutex_lock(&e->mutex);
        while (source->connecting)
                cas_mutex_wait(&e->mutex, &e->changed);
        *out = source->remote;
        source->connecting = !*out;
        cas_mutex_unlock(&e->mutex);
        if (*out)
                return 0;
        int rc = e->remotes.open
                         ? e->remotes.open(e->remotes.arg, source->text, &remote, err)
                         : cas_fail(err, CAS_E_UNSUPPORTED, "no way to reach %s", source->text);
        cas_mutex_lock(&e->mutex);
        source->connecting = false;
        source->remote = *out = rc == 0 ? remote : NULL;
        (void)pthread_cond_broadcast(&e->changed);
        cas_mutex_unlock(&e->mutex);
        return rc;
}

/* It stayed away for as long as anybody waits. */
static bool source_is_lost(const struct cas_elsewhere *e, const struct cas_part_source *source,
                           uint64_t now_ms)
{
        return source->down_since_ms && now_ms - source->down_since_ms >= e->remotes.wait_ms;
}

/* ---- wants ---- */

static struct cas_want *want_find_locked(const struct cas_elsewhere *e, const struct cas_hash *id)
{
        for (struct cas_want *w = e->wants; w; w = w->next) {
                if (cas_hash_equal(&w->id, id))
                        return w;
        }
        return NULL;
}

static void want_drop_locked(struct cas_elsewhere *e, const struct cas_hash *id)
{
        for (struct cas_want **at = &e->wants; *at; at = &(*at)->next) {
                struct cas_want *w = *at;
                if (!cas_hash_equal(&w->id, id))
                        continue;
                *at = w->next;
                free(w);
                return;
        }
}

static struct cas_want *want_add_locked(struct cas_elsewhere *e, const struct cas_part_file *file,
                                        uint64_t now_ms)
{
        struct cas_want *w = cas_xcalloc(1, sizeof(*w)), **end = &e->wants;
        *w = (struct cas_want){.id = file->id,
                               .since_ms = now_ms,
                               .limit_ms = now_ms + e->remotes.wait_ms +
                                           file->size_bytes * 1000 / SLOW_BYTES_PER_S};
        while (*end)
                end = &(*end)->next;
        *end = w;
        (void)pthread_cond_broadcast(&e->changed);
        return w;
}

bool cas_elsewhere_is_wanted_locked(const struct cas_elsewhere *e, uint64_t now_ms)
{
        return e->wants != NULL || (e->wanted_ms && now_ms - e->wanted_ms < QUIET_MS);
}

/* ---- flights ---- */

void cas_flight_add_locked(struct cas_part_flight *f, struct cas_part_file *file)
{
        cas_assert(f->count < CAS_FLIGHT_FILES_MAX);
        cas_assert(file->part == f->part);
        if (file->here || file->flying)
                return;
        file->flying = true;
        f->bytes += file->size_bytes;
        f->files[f->count++] = file;
}

/* Publishes what the source gives. What was not wanted is garbage, and said nothing of. */
static int flight_fetch(struct cas_elsewhere *e, struct cas_part_flight *f, bool *ours,
                        struct cas_err *err)
{
        struct cas_remote *remote;
        struct cas_hash ids[CAS_FLIGHT_FILES_MAX];
        cas_cleanup_publish struct cas_publish *p = NULL;
        for (size_t i = 0; i < f->count; i++)
                ids[i] = f->files[i]->id;
        if (cas_source_remote(e, f->part->source, &remote, err) < 0 ||
            cas_publish_begin(e->store, &p, err) < 0 ||
            remote->ops->fetch_objects(remote, &f->part->rec.layer.blob, ids, f->count, p, err) < 0)
                return -(int)err->code;
        *ours = true;
        if (cas_publish_commit(p, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < f->count; i++) {
                if (cas_index_has(e->store->index, CAS_FAMILY_OBJECTS, ids[i].bytes, CAS_HASH_BYTES,
                                  &f->came[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

bool cas_is_refusal(enum cas_code code)
{
        return code == CAS_E_NOTFOUND || code == CAS_E_CORRUPT || code == CAS_E_INVALID ||
               code == CAS_E_UNSUPPORTED || code == CAS_E_LIMIT;
}

/* Wants of a flight that failed: one file alone is refused for good, others are tried by
 * themselves. */
static void flight_failed_locked(struct cas_elsewhere *e, struct cas_part_flight *f, bool ours,
                                 const struct cas_err *err)
{
        if (!ours && !cas_is_refusal(err->code)) {
                cas_source_note_locked(e, f->part->source, err);
                return;
        }
        for (size_t i = 0; i < f->count; i++) {
                struct cas_want *w = want_find_locked(e, &f->files[i]->id);
                if (f->count > 1 && !ours) {
                        if (w)
                                w->alone = true;
                        continue;
                }
                f->files[i]->refused_until_ms = cas_elsewhere_now_ms() + REFUSED_MS;
        }
        cas_log(CAS_LOG_WARN, "elsewhere", "source=%s files=%zu error=\"%s\"",
                f->part->source->text, f->count, err->msg);
}

int cas_flight_run_locked(struct cas_elsewhere *e, struct cas_part_flight *f, struct cas_err *err)
{
        cas_assert_held(&e->mutex);
        struct cas_err why = CAS_ERR_INIT;
        bool ours = false;
        f->part->users++;
        cas_mutex_unlock(&e->mutex);
        int rc = flight_fetch(e, f, &ours, &why);
        ours = ours || rc == -CAS_E_NOSPACE || rc == -CAS_E_NOMEM;
        cas_mutex_lock(&e->mutex);
        for (size_t i = 0; i < f->count; i++) {
                f->files[i]->flying = false;
                if (rc == 0 && f->came[i]) {
                        want_drop_locked(e, &f->files[i]->id);
                        cas_part_came_locked(e, f->files[i]);
                } else if (rc == 0) {
                        f->files[i]->refused_until_ms = cas_elsewhere_now_ms() + REFUSED_MS;
                        (void)cas_fail(&why, CAS_E_CORRUPT,
                                       "%s gave other files than were asked "
                                       "for",
                                       f->part->source->text);
                }
        }
        if (rc == 0)
                cas_source_note_locked(e, f->part->source, NULL);
        if (rc < 0)
                flight_failed_locked(e, f, ours, &why);
        cas_part_put_locked(e, f->part);
        (void)pthread_cond_broadcast(&e->changed);
        if (why.code != CAS_OK)
                *err = why;
        return -(int)why.code;
}

/* ---- workers ---- */

/* Others that are waited for in the same layer, then what follows in the listing. */
static void flight_fill_locked(struct cas_elsewhere *e, struct cas_part_flight *f)
{
        const struct cas_part_file *first = f->files[0];
        for (struct cas_want *w = e->wants; w && f->count < CAS_FLIGHT_FILES_MAX; w = w->next) {
                struct cas_part_file *file = cas_part_file_locked(e, &w->id);
                if (file && file->part == f->part && !w->alone &&
                    f->bytes + file->size_bytes <= WANTED_BYTES_MAX)
                        cas_flight_add_locked(f, file);
        }
        uint64_t bytes = 0;
        size_t at = (size_t)(first - f->part->files) + 1;
        for (size_t n = 0;
             n < NEIGHBOUR_FILES_MAX && at < f->part->count && f->count < CAS_FLIGHT_FILES_MAX;
             n++, at++) {
                struct cas_part_file *file = &f->part->files[at];
                bytes += file->size_bytes;
                if (first->size_bytes > NEIGHBOUR_BYTES_MAX || bytes > NEIGHBOUR_BYTES_MAX)
                        break;
                if (cas_elsewhere_now_ms() >= file->refused_until_ms)
                        cas_flight_add_locked(f, file);
        }
}

/* The oldest want that can be done something about. False: none; *wake_ms is when to look again.
 * Those who wait see for themselves that they have waited too long. */
static bool pick_locked(struct cas_elsewhere *e, struct cas_part_flight *f, uint64_t *wake_ms)
{
        uint64_t now = cas_elsewhere_now_ms();
        *wake_ms = now + 3600 * 1000;
        for (struct cas_want *w = e->wants, *next; w; w = next) {
                struct cas_part_file *file = cas_part_file_locked(e, &w->id);
                next = w->next;
                if (!file || (!file->flying && now >= w->limit_ms + FORGET_MS)) {
                        want_drop_locked(e, &w->id);
                        continue;
                }
                *wake_ms = cas_min_u64(*wake_ms, cas_max_u64(w->limit_ms + FORGET_MS, now + 10));
                if (file->flying || now < file->refused_until_ms || now >= w->limit_ms)
                        continue;
                const struct cas_part_source *source = file->part->source;
                if (!cas_source_ready_locked(source, now)) {
                        if (!source->connecting)
                                *wake_ms = cas_min_u64(*wake_ms, source->next_try_ms);
                        continue;
                }
                *f = (struct cas_part_flight){.part = file->part};
                cas_flight_add_locked(f, file);
                if (!w->alone && source->down_since_ms == 0)
                        flight_fill_locked(e, f);
                return true;
        }
        return false;
}

static void *worker_thread(void *arg)
{
        struct cas_elsewhere *e = arg;
        cas_cleanup_free struct cas_part_flight *f = cas_xcalloc(1, sizeof(*f));
        cas_mutex_lock(&e->mutex);
        while (!e->ending) {
                uint64_t wake_ms;
                struct cas_err ignored = CAS_ERR_INIT; /* told by the log, and to who waits */
                if (pick_locked(e, f, &wake_ms))
                        (void)!cas_flight_run_locked(e, f, &ignored);
                else
                        (void)cas_elsewhere_wait_locked(e, wake_ms);
        }
        cas_mutex_unlock(&e->mutex);
        return NULL;
}

static int start_workers_locked(struct cas_elsewhere *e, struct cas_err *err)
{
        while (!e->ending && e->worker_count < CAS_COUNT(e->workers)) {
                int rc = pthread_create(&e->workers[e->worker_count], NULL, worker_thread, e);
                if (rc && e->worker_count == 0)
                        return cas_fail_sys(err, rc, "thread");
                if (rc)
                        break;
                e->worker_count++;
        }
        /* whoever opens the store next goes on with it */
        return e->ending ? cas_fail(err, CAS_E_BUSY, "the store is being closed") : 0;
}

void cas_elsewhere_end(struct cas_elsewhere *e)
{
        if (!e)
                return;
        cas_mutex_lock(&e->mutex);
        e->ending = true;
        (void)pthread_cond_broadcast(&e->changed);
        cas_mutex_unlock(&e->mutex);
        for (; e->worker_count > 0; e->worker_count--)
                (void)pthread_join(e->workers[e->worker_count - 1], NULL);
        while (e->wants) {
                struct cas_want *w = e->wants;
                e->wants = w->next;
                free(w);
        }
}

/* ---- readers ---- */

/* Why a reader is not to wait (any longer), or 0. */
static int give_up_locked(struct cas_elsewhere *e, const struct cas_part_file *file,
                          const struct cas_want *want, uint64_t now, struct cas_err *err)
{
        const struct cas_part_source *source = file->part->source;
        if (now < file->refused_until_ms)
                return cas_fail(err, CAS_E_IO, "%s does not give the file, or it cannot be kept",
                                source->text);
        bool probed = file->flying || (!want && now >= source->next_try_ms);
        if (source_is_lost(e, source, now) && !probed)
                return cas_fail(err, CAS_E_IO, "%s is away: %.300s", source->text, source->why.msg);
        if (want && now >= want->limit_ms)
                return cas_fail(err, CAS_E_IO, "%s is too slow", source->text);
        return 0;
}

/* A step of waiting. 1: look again. */
static int wait_step_locked(struct cas_elsewhere *e, const struct cas_hash *id, unsigned hold_ms,
                            struct cas_err *err)
{
        uint64_t now = cas_elsewhere_now_ms();
        const struct cas_part_file *file = cas_part_file_locked(e, id);
        if (!file)
                return 0;
        struct cas_want *w = want_find_locked(e, id);
        if (give_up_locked(e, file, w, now, err) < 0) {
                want_drop_locked(e, id);
                return -(int)err->code;
        }
        if (start_workers_locked(e, err) < 0)
                return -(int)err->code;
        e->wanted_ms = now;
        if (!w)
                w = want_add_locked(e, file, now);
        if (now >= w->since_ms + hold_ms)
                return cas_fail(err, CAS_E_BUSY, "the file is on its way");
        (void)cas_elsewhere_wait_locked(e, cas_min_u64(w->since_ms + hold_ms, w->limit_ms));
        return 1;
}

int cas_elsewhere_bring(struct cas_store *s, const struct cas_hash *id, unsigned hold_ms,
                        struct cas_err *err)
{
        struct cas_elsewhere *e = s->elsewhere;
        int rc = cas_elsewhere_settle(e, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&e->mutex);
        do
                rc = wait_step_locked(e, id, hold_ms, err);
        while (rc == 1);
        cas_mutex_unlock(&e->mutex);
        struct cas_object_info info;
        return rc < 0 ? rc : cas_object_stat(s, id, &info, err);
}
