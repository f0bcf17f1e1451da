/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub: the pass, its place, and who has the turn. */
#include "cas/scrub_int.h"

#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>

#include "cas/log.h"
#include "cas/scrubturn_int.h"

static const char place_key[] = "scrub";

/* The place in the index is never older. */
#define SAVE_NS (2 * UINT64_C(1000000000))
/* Of linux/ioprio.h. */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE (3 << 13)

/* In this order: what comes first makes what comes later easier to put right. */
static const struct step {
        const char *name; /* kept in the index */
        const char *at;   /* told */
        cas_scrub_step_fn fn;
        enum cas_family family; /* of references */
} steps[] = {
        {"tables", "index", cas_scrub_tables, 0},
        {"index-files", "index", cas_scrub_index_files, 0},
        {"leases", "index", cas_scrub_leases, 0},
        {"chains", "index", cas_scrub_chains, 0},
        {"orders", "index", cas_scrub_orders, 0},
        {"tag-times", "index", cas_scrub_tag_times, 0},
        {"condemned", "index", cas_scrub_condemned, 0},
        {"pack-dead", "index", cas_scrub_pack_dead, 0},
        {"packs", "packs", cas_scrub_packs, 0},
        {"places", "packs", cas_scrub_places, 0},
        {"objects", "objects", cas_scrub_objects, 0},
        {"unused", "objects", cas_scrub_unused, 0},
        {"blobs", "blobs", cas_scrub_blobs, 0},
        {"recipes", "blobs", cas_scrub_recipes, 0},
        {"layers", "layers", cas_scrub_layers, 0},
        {"elsewhere", "layers", cas_scrub_elsewhere, 0},
        {"trees", "trees", cas_scrub_trees, 0},
        {"manifests", "names", cas_scrub_manifests, 0},
        {"blob-links", "names", cas_scrub_blob_links, 0},
        {"tags", "names", cas_scrub_tags, 0},
        {"referrers", "names", cas_scrub_referrers, 0},
        {"journal", "names", cas_scrub_journal, 0},
        {"refs-manifests", "references", cas_scrub_references, CAS_FAMILY_MANIFESTS},
        {"refs-blob-links", "references", cas_scrub_references, CAS_FAMILY_BLOB_LINKS},
        {"refs-layers", "references", cas_scrub_references, CAS_FAMILY_LAYERS},
        {"refs-elsewhere", "references", cas_scrub_references, CAS_FAMILY_ELSEWHERE},
        {"refs-recipes", "references", cas_scrub_references, CAS_FAMILY_RECIPES},
        {"refs-trees", "references", cas_scrub_references, CAS_FAMILY_TREES},
        {"refs-objects", "references", cas_scrub_references, CAS_FAMILY_OBJECTS},
        {"refs-nodes", "references", cas_scrub_references, CAS_FAMILY_NODES},
        {"refs-blob-refs", "references", cas_scrub_references, CAS_FAMILY_BLOB_REFS},
        {"refs-object-refs", "references", cas_scrub_references, CAS_FAMILY_OBJECT_REFS},
        {"refs-chunk-refs", "references", cas_scrub_references, CAS_FAMILY_CHUNK_REFS},
        {"directories", "directories", cas_scrub_directories, 0},
};

static uint64_t now_ns(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- the place ---- */

void cas_scrub_place_encode(const struct cas_scrub_place *place, struct cas_buf *out)
{
        cas_varint_append(out, place->pass);
        cas_varint_append(out, place->began_unix_s);
        cas_varint_append(out, place->ended_unix_s);
        cas_varint_append(out, place->bytes);
        cas_text_append(out, place->step);
        cas_varint_append(out, place->key.len);
        cas_buf_append(out, place->key.bytes, place->key.len);
}

int cas_scrub_place_decode(const void *data, size_t len, struct cas_scrub_place *out,
                           struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        memset(out, 0, sizeof(*out));
        out->pass = cas_cursor_varint(&c);
        out->began_unix_s = cas_cursor_varint(&c);
        out->ended_unix_s = cas_cursor_varint(&c);
        out->bytes = cas_cursor_varint(&c);
        cas_cursor_text(&c, out->step, sizeof(out->step));
        uint64_t key_len = cas_cursor_varint(&c);
        const uint8_t *key =
                key_len <= sizeof(out->key.bytes) ? cas_cursor_take(&c, key_len) : NULL;
        if (!key)
                c.failed = c.failed || key_len > 0;
        else
                memcpy(out->key.bytes, key, key_len);
        out->key.len = c.failed ? 0 : key_len;
        return cas_cursor_end(&c, "scrub's place", err);
}

/* All zero when no pass was ever begun. */
static int load_place(struct cas_store *s, struct cas_scrub_place *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        memset(out, 0, sizeof(*out));
        int rc = cas_index_get(s->index, CAS_FAMILY_META, place_key, sizeof(place_key) - 1, &value,
                               &miss);
        if (rc == 0)
                rc = cas_scrub_place_decode(value.data, value.len_bytes, out, &miss);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        memset(out, 0, sizeof(*out));
        if (rc == -CAS_E_CORRUPT)
                return 0; /* a pass from the start tells of it */
        *err = miss;
        return rc;
}

/* Not being able to is no failure of the check: an index that cannot be written is looked at, too.
 */
void cas_scrub_save(struct cas_scrub_run *run)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_err ignored = CAS_ERR_INIT;
        cas_mutex_lock(&run->mutex);
        run->place.bytes += run->unsaved_bytes;
        run->unsaved_bytes = 0;
        cas_mutex_unlock(&run->mutex);
        cas_scrub_place_encode(&run->place, &value);
        cas_batch_put(run->notes, CAS_FAMILY_META, place_key, sizeof(place_key) - 1, value.data,
                      value.len_bytes);
        if (cas_index_write(run->s->index, run->notes, &ignored) < 0) {
                cas_batch_free(run->notes);
                run->notes = cas_batch_new();
        }
        run->saved_ns = now_ns();
}

/* ---- what steps call ---- */

static bool is_failed(struct cas_scrub_run *run)
{
        cas_mutex_lock(&run->mutex);
        bool failed = run->rc < 0;
        cas_mutex_unlock(&run->mutex);
        return failed;
}

/* Asked by the pace as well, so that nobody waits when he should stop. */
static bool is_to_stop(void *arg)
{
        const struct cas_scrub_run *run = arg;
        return cas_scrub_turn_is_wanted(run->s) ||
               (run->options->stop && run->options->stop(run->options->stop_arg));
}

bool cas_scrub_goes_on(struct cas_scrub_run *run)
{
        cas_pace_rest(&run->pace);
        if (is_failed(run))
                return false;
        run->out->stopped = run->out->stopped || is_to_stop(run);
        if (!run->out->stopped && now_ns() - run->saved_ns < SAVE_NS)
                return true;
        cas_scrub_wait(run);
        cas_scrub_save(run);
        return !run->out->stopped;
}

void cas_scrub_fail(struct cas_scrub_run *run, const struct cas_err *err)
{
        cas_mutex_lock(&run->mutex);
        if (run->rc == 0) {
                run->rc = -(int)err->code;
                run->err = *err;
        }
        cas_mutex_unlock(&run->mutex);
}

void cas_scrub_read(struct cas_scrub_run *run, uint64_t bytes)
{
        cas_pace_read(&run->pace, bytes);
        cas_mutex_lock(&run->mutex);
        run->done_bytes += bytes;
        run->unsaved_bytes += bytes;
        cas_progress_update(run->progress, run->doing, run->done_bytes,
                            cas_max_u64(run->total_bytes, run->done_bytes));
        cas_mutex_unlock(&run->mutex);
}

void cas_scrub_count(struct cas_scrub_run *run, uint64_t *counter, uint64_t n)
{
        cas_mutex_lock(&run->mutex);
        *counter += n;
        cas_mutex_unlock(&run->mutex);
}

void cas_scrub_submit(struct cas_scrub_run *run, void (*fn)(void *arg), void *arg)
{
        if (run->pool)
                cas_pool_submit(run->pool, &run->group, fn, arg);
        else
                fn(arg);
}

void cas_scrub_wait(struct cas_scrub_run *run)
{
        if (run->pool)
                cas_pool_wait(run->pool, &run->group);
}

/* ---- the pass ---- */

static bool sum_pack(void *arg, uint64_t pack_id CAS_UNUSED, const struct cas_pack_record *rec)
{
        *(uint64_t *)arg += rec->size_bytes;
        return true;
}

static void sum_blob(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     const void *value, size_t value_len)
{
        struct cas_blob_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        if (cas_blob_record_decode(value, value_len, &rec, &malformed) < 0)
                return;
        *(uint64_t *)arg += rec.size_bytes * (rec.copy == CAS_BLOB_CACHED ? 2 : 1);
}

/* What there is to read, for progress; damage is told of by the steps. */
static void estimate(struct cas_scrub_run *run)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (!run->progress)
                return;
        (void)!cas_index_each_pack(run->s->index, sum_pack, &run->total_bytes, &ignored);
        (void)cas_scrub_scan(run, &(struct cas_scan){.family = CAS_FAMILY_BLOBS}, sum_blob,
                             &run->total_bytes);
}

static size_t step_of(const struct cas_scrub_place *place)
{
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                if (strcmp(place->step, steps[i].name) == 0)
                        return i;
        }
        return CAS_COUNT(steps);
}

/* Goes to a step's beginning. */
static void enter_step(struct cas_scrub_run *run, size_t step)
{
        (void)snprintf(run->place.step, sizeof(run->place.step), "%s", steps[step].name);
        run->place.key.len = 0;
}

static int begin_pass(struct cas_scrub_run *run, struct cas_err *err)
{
        run->place.began_unix_s = (uint64_t)time(NULL);
        run->place.bytes = 0;
        enter_step(run, 0);
        struct cas_err ignored = CAS_ERR_INIT;
        int rc = cas_scrub_forget_packs(run, &ignored);
        if (rc < 0 && rc != -CAS_E_CORRUPT) {
                *err = ignored;
                return rc;
        }
        return 0;
}

static void end_pass(struct cas_scrub_run *run)
{
        struct cas_err ignored = CAS_ERR_INIT;
        run->place.pass++;
        run->place.ended_unix_s = (uint64_t)time(NULL);
        run->place.step[0] = '\0';
        run->place.key.len = 0;
        (void)!cas_scrub_forget_packs(run, &ignored);
        cas_scrub_save(run);
}

/* What readers have met meanwhile. Nothing is handed out. */
static void repair_noted(struct cas_scrub_run *run)
{
        struct cas_err err = CAS_ERR_INIT;
        if (run->repair && run->rc == 0 && cas_repair_noted(run->repair, run->out, &err) < 0)
                cas_scrub_fail(run, &err);
}

static int run_pass(struct cas_scrub_run *run, struct cas_err *err)
{
        int rc = load_place(run->s, &run->place, err);
        if (rc < 0)
                return rc;
        size_t step = run->options->from_start ? CAS_COUNT(steps) : step_of(&run->place);
        if (step == CAS_COUNT(steps)) {
                step = 0;
                rc = begin_pass(run, err);
        }
        estimate(run);
        while (rc == 0 && step < CAS_COUNT(steps)) {
                run->doing = steps[step].at;
                run->family = steps[step].family;
                steps[step].fn(run);
                cas_scrub_wait(run);
                repair_noted(run);
                if (run->rc < 0) {
                        *err = run->err;
                        return run->rc;
                }
                if (run->out->stopped)
                        return 0;
                if (++step < CAS_COUNT(steps))
                        enter_step(run, step);
        }
        if (rc == 0)
                end_pass(run);
        return rc;
}

/* The thread's own priority, and that of threads that it makes; 0 when it is not known. */
static int io_idle(void)
{
        long was = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0);
        (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
        return was < 0 ? 0 : (int)was;
}

static void io_restore(int was)
{
        (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, was);
}

/* What repair tells, one call at a time. */
static void relay(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                  const char *message)
{
        struct cas_scrub_run *run = arg;
        cas_mutex_lock(&run->mutex);
        if (run->fn)
                run->fn(run->arg, severity, id, subject, message);
        cas_mutex_unlock(&run->mutex);
}

static void run_init(struct cas_scrub_run *run)
{
        cas_pace_init(&run->pace, run->options->bytes_per_s, run->options->duty_percent, is_to_stop,
                      run);
        cas_mutex_init(&run->mutex, "scrub");
        run->notes = cas_batch_new();
        run->saved_ns = now_ns();
        run->doing = steps[0].at;
        if (!cas_pace_is_bounded(&run->pace))
                run->pool = cas_pool_new(0, 2 * cas_cpu_count());
        if (run->options->repair)
                run->repair = cas_repair_new(run->s, run->options, relay, run);
}

static void run_release(struct cas_scrub_run *run)
{
        cas_pool_free(run->pool);
        cas_repair_free(run->repair);
        cas_batch_free(run->notes);
        cas_mutex_release(&run->mutex);
        cas_pace_release(&run->pace);
}

/* What readers met comes first. What cannot be looked at now is met again. */
static void begin_with_noted(struct cas_scrub_run *run)
{
        struct cas_err why = CAS_ERR_INIT;
        if (run->repair && cas_repair_noted(run->repair, run->out, &why) < 0)
                cas_log(CAS_LOG_WARN, "repair", "error=\"%s\"", why.msg);
}

int cas_scrub(struct cas_store *s, const struct cas_scrub_options *options,
              const struct cas_progress *progress, cas_fsck_fn fn, void *arg,
              struct cas_fsck_result *out, struct cas_err *err)
{
        struct cas_scrub_run run = {
                .s = s, .options = options, .progress = progress, .fn = fn, .arg = arg, .out = out};
        *out = (struct cas_fsck_result){0};
        bool paced = options->bytes_per_s > 0 || options->duty_percent > 0;
        if (!cas_scrub_turn_take(s, !paced, options->stop, options->stop_arg)) {
                out->stopped = true;
                return 0;
        }
        run_init(&run);
        int was = paced ? io_idle() : 0;
        begin_with_noted(&run);
        int rc = options->noted_only ? 0 : run_pass(&run, err);
        if (paced)
                io_restore(was);
        run_release(&run);
        cas_scrub_turn_give(s);
        cas_maintenance_note_scrub(&s->maintenance, rc, out, !options->noted_only);
        return rc;
}

int cas_scrub_state(struct cas_store *s, struct cas_scrub_state *out, struct cas_err *err)
{
        struct cas_scrub_place place;
        int rc = load_place(s, &place, err);
        if (rc < 0)
                return rc;
        size_t step = step_of(&place);
        *out = (struct cas_scrub_state){
                .pass = place.pass,
                .began_unix_s = place.began_unix_s,
                .ended_unix_s = place.ended_unix_s,
                .bytes_checked = place.bytes,
                .at = step < CAS_COUNT(steps) ? steps[step].at : "done",
        };
        return 0;
}

int cas_fsck(struct cas_store *s, const struct cas_fsck_options *options,
             const struct cas_progress *progress, cas_fsck_fn fn, void *arg,
             struct cas_fsck_result *out, struct cas_err *err)
{
        const struct cas_scrub_options whole = {.from_start = true,
                                                .repair = options && options->repair};
        return cas_scrub(s, &whole, progress, fn, arg, out, err);
}
