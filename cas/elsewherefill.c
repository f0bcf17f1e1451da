/* SPDX-License-Identifier: Apache-2.0 */
/* Completing layers that are elsewhere, for who needs one whole and in the
 * background. */
#include "cas/filler.h"

#include <inttypes.h>
#include <time.h>

#include "cas/backend.h"
#include "cas/blob.h"
#include "cas/blobcache_int.h"
#include "cas/condemned_int.h"
#include "cas/elsewhere_int.h"
#include "cas/learner_int.h"
#include "cas/log.h"
#include "cas/once.h"
#include "cas/order.h"
#include "cas/record_int.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"

/* What is asked for at a time, by how long the last took. */
#define FLIGHT_BYTES_MIN (256 * CAS_KIB)
#define FLIGHT_BYTES_MAX (8 * CAS_MIB)
/* While readers ask now and then: what they ask next waits for no more than this. */
#define FLIGHT_BYTES_POLITE (512 * CAS_KIB)
#define POLITE_MS 5000
#define FLIGHT_LONG_MS 800
#define FLIGHT_SHORT_MS 150
/* The background lets readers go first, and is not kept off for ever. */
#define YIELD_MS 1000
#define RETRY_MS 5000
#define IDLE_MS 1000

/* With blob files locked exclusively: nobody publishes the layer meanwhile. */
static int drop_locked(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        struct cas_layer_record layer;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_elsewhere_stat(s, blob, rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc == 0)
                rc = cas_layer_stat(s, blob, &layer, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        cas_key_digest(blob, &key);
        cas_batch_del(batch, CAS_FAMILY_ELSEWHERE, key.bytes, key.len);
        if (rc < 0 || !cas_hash_equal(&layer.listing, &rec->layer.listing)) {
                cas_batch_del_object_ref(batch, &rec->layer.listing, CAS_OBJECT_LISTING, key.bytes,
                                         key.len);
                cas_batch_condemn(batch, CAS_CONDEMNED_LISTING, &rec->layer.listing,
                                  (uint64_t)time(NULL));
        }
        return cas_index_write(s->index, batch, err);
}

int cas_elsewhere_drop(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_blob_files_lock(s, true);
        int rc = drop_locked(s, blob, err);
        cas_blob_files_unlock(s);
        return rc;
}

/* ---- one layer ---- */

struct completing {
        struct cas_elsewhere *e;
        const struct cas_digest *blob;
        const struct cas_progress *progress;
        bool background;
        uint64_t flight_bytes;
        struct cas_part_flight flight;
};

static void yield_locked(struct completing *c)
{
        struct cas_elsewhere *e = c->e;
        uint64_t now = cas_elsewhere_now_ms(), end = now + YIELD_MS;
        while (now < end && !e->ending && cas_elsewhere_is_wanted_locked(e, now)) {
                (void)cas_elsewhere_wait_locked(e, now + 10);
                now = cas_elsewhere_now_ms();
        }
        if (e->wanted_ms && now - e->wanted_ms < POLITE_MS)
                c->flight_bytes = cas_min_u64(c->flight_bytes, FLIGHT_BYTES_POLITE);
}

/* What comes next in the order of the listing. *left: files that are on their way for others, or
 * that the source refused. */
static void pick_files_locked(struct completing *c, struct cas_part *part, size_t *left)
{
        struct cas_part_flight *f = &c->flight;
        uint64_t now = cas_elsewhere_now_ms();
        bool gap = false;
        *f = (struct cas_part_flight){.part = part};
        *left = 0;
        for (size_t i = part->first_gap; i < part->count; i++) {
                struct cas_part_file *file = &part->files[i];
                if (!gap && file->here)
                        part->first_gap = i + 1;
                else
                        gap = true;
                if (file->here)
                        continue;
                if (f->count > 0 && (f->count == CAS_FLIGHT_FILES_MAX ||
                                     f->bytes + file->size_bytes > c->flight_bytes))
                        return;
                if (file->flying || now < file->refused_until_ms)
                        ++*left;
                else
                        cas_flight_add_locked(f, file);
        }
}

/* Another publication may have brought it. */
static void skip_here(struct completing *c)
{
        struct cas_part_flight *f = &c->flight;
        struct cas_elsewhere *e = c->e;
        size_t kept = 0;
        bool any = false;
        for (size_t i = 0; i < f->count; i++) {
                struct cas_err ignored = CAS_ERR_INIT;
                bool here = false;
                if (cas_index_has(e->store->index, CAS_FAMILY_OBJECTS, f->files[i]->id.bytes,
                                  CAS_HASH_BYTES, &here, &ignored) < 0 ||
                    !here) {
                        f->files[kept++] = f->files[i];
                        continue;
                }
                f->files[i]->flying = false;
                f->bytes -= f->files[i]->size_bytes;
                cas_part_came_locked(e, f->files[i]);
                any = true;
        }
        f->count = kept;
        if (any)
                (void)pthread_cond_broadcast(&e->changed);
}

static int fly_locked(struct completing *c, struct cas_err *err)
{
        struct cas_elsewhere *e = c->e;
        skip_here(c);
        if (c->flight.count == 0)
                return 0;
        uint64_t start = cas_elsewhere_now_ms();
        int rc = cas_flight_run_locked(e, &c->flight, err);
        uint64_t took = cas_elsewhere_now_ms() - start;
        if (rc < 0 && cas_is_refusal(err->code) && c->flight.count > 1) {
                c->flight_bytes = 1; /* one by one: which of them is it? */
                return 0;
        }
        if (rc < 0)
                return rc;
        if (took > FLIGHT_LONG_MS)
                c->flight_bytes = cas_max_u64(c->flight_bytes / 2, FLIGHT_BYTES_MIN);
        else if (took < FLIGHT_SHORT_MS)
                c->flight_bytes = cas_min_u64(c->flight_bytes * 2, FLIGHT_BYTES_MAX);
        return 0;
}

static int fail_missing_locked(const struct cas_part *part, struct cas_err *err)
{
        const struct cas_elsewhere_progress *p = &part->progress;
        return cas_err_wrap(err, "%" PRIu64 " of %" PRIu64 " files have not come from %s",
                            p->file_count - p->here_count, p->file_count, part->source->text);
}

/* One flight, or a wait for those of others. 1: there is more to do. */
static int step_locked(struct completing *c, struct cas_part *part, struct cas_err *err)
{
        struct cas_elsewhere *e = c->e;
        size_t left;
        if (e->ending)
                return cas_fail(err, CAS_E_IO, "the store is being closed");
        if (c->background)
                yield_locked(c);
        uint64_t now = cas_elsewhere_now_ms();
        if (part->source->connecting) {
                (void)cas_elsewhere_wait_locked(e, now + 100);
                return 1;
        }
        if (c->background && !cas_source_ready_locked(part->source, now)) {
                *err = part->source->why;
                return fail_missing_locked(part, err);
        }
        pick_files_locked(c, part, &left);
        if (c->flight.count == 0 && left == 0)
                return 0;
        if (c->flight.count == 0) {
                for (size_t i = part->first_gap; i < part->count; i++) {
                        if (!part->files[i].here && !part->files[i].flying) {
                                (void)cas_fail(err, CAS_E_IO, "refused");
                                return fail_missing_locked(part, err);
                        }
                }
                (void)cas_elsewhere_wait_locked(e, now + 100);
                return 1;
        }
        if (fly_locked(c, err) < 0)
                return fail_missing_locked(part, err);
        cas_progress_update(c->progress, "files", part->progress.here_bytes,
                            part->progress.file_bytes);
        return 1;
}

/* Its blob is here, though not decoded; or it is made or fetched by the remote. */
static int finish(struct cas_elsewhere *e, const struct cas_elsewhere_layer *rec,
                  struct cas_part_source *source, const struct cas_progress *progress,
                  struct cas_err *err)
{
        struct cas_layer_record layer;
        struct cas_remote *remote;
        struct cas_err miss = CAS_ERR_INIT;
        if (cas_blob_stat(e->store, &rec->layer.blob, NULL, &miss) == 0) {
                if (cas_layer_decode_here(e->store, &rec->layer.blob, progress, &layer, err) < 0)
                        return -(int)err->code;
        } else {
                if (cas_source_remote(e, source, &remote, err) < 0)
                        return -(int)err->code;
                if (!remote->ops->finish_layer)
                        return cas_fail(err, CAS_E_UNSUPPORTED, "%s cannot give the layer's blob",
                                        source->text);
                if (remote->ops->finish_layer(remote, e->store, &rec->layer, rec->blob_bytes,
                                              progress, err) < 0 ||
                    cas_layer_stat(e->store, &rec->layer.blob, &layer, err) < 0)
                        return -(int)err->code;
        }
        if (!cas_hash_equal(&layer.listing, &rec->layer.listing))
                cas_log(CAS_LOG_ERROR, "elsewhere",
                        "source=%s listing=differs note=\"the layer decodes to other files than "
                        "the source said\"",
                        source->text);
        if (cas_elsewhere_drop(e->store, &rec->layer.blob, err) < 0)
                return -(int)err->code;
        cas_elsewhere_changed(e->store);
        return 0;
}

static int complete_part(struct completing *c, struct cas_part *part, struct cas_err *err)
{
        struct cas_elsewhere *e = c->e;
        int rc = 1;
        while (rc == 1)
                rc = part->gone ? 0 : step_locked(c, part, err);
        struct cas_elsewhere_layer rec = part->rec;
        struct cas_part_source *source = part->source;
        cas_mutex_unlock(&e->mutex);
        if (rc == 0)
                rc = finish(e, &rec, source, c->progress, err);
        cas_mutex_lock(&e->mutex);
        if (rc < 0 && err->code == CAS_E_BUSY)
                cas_source_note_locked(e, source, err);
        return rc;
}

struct unit {
        char nothing;
};

/* Once for all who want the layer whole; the first one's progress is told. */
static int complete_once(void *arg, void *result CAS_UNUSED, struct cas_err *err)
{
        struct completing *c = arg;
        struct cas_elsewhere *e = c->e;
        struct cas_layer_record layer;
        struct cas_err miss = CAS_ERR_INIT;
        /* First, since it drops the record of a layer that is here: a crash may have left one. */
        if (cas_elsewhere_settle(e, err) < 0)
                return -(int)err->code;
        if (cas_layer_stat(e->store, c->blob, &layer, &miss) == 0)
                return 0;
        cas_mutex_lock(&e->mutex);
        struct cas_part *part = cas_part_find_locked(e, c->blob);
        int rc;
        if (part) {
                part->users++;
                rc = complete_part(c, part, err);
                cas_part_put_locked(e, part);
        } else {
                rc = cas_fail(err, CAS_E_NOTFOUND, "the layer is neither here nor elsewhere");
        }
        cas_mutex_unlock(&e->mutex);
        return rc;
}

static int complete(struct cas_store *s, const struct cas_digest *blob, bool background,
                    const struct cas_progress *progress, struct cas_err *err)
{
        static struct cas_once once = CAS_ONCE_INIT("elsewhere.once");
        struct unit unit;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free struct completing *c = cas_xcalloc(1, sizeof(*c));
        *c = (struct completing){.e = s->elsewhere,
                                 .blob = blob,
                                 .progress = progress,
                                 .background = background,
                                 .flight_bytes = CAS_MIB};
        int rc = cas_once(&once, s, blob, complete_once, c, &unit, sizeof(unit), err);
        return rc < 0 ? cas_err_wrap(err, "layer %s", cas_digest_text(blob, text)) : 0;
}

int cas_elsewhere_complete(struct cas_store *s, const struct cas_digest *blob,
                           const struct cas_progress *progress, struct cas_err *err)
{
        return complete(s, blob, false, progress, err);
}

/* ---- the background ---- */

struct cas_filler {
        struct cas_store *store;
        pthread_t thread;
        struct cas_mutex mutex; /* guards stopping */
        bool stopping;
};

static bool filler_goes_on(struct cas_filler *fl)
{
        cas_mutex_lock(&fl->mutex);
        bool go_on = !fl->stopping;
        cas_mutex_unlock(&fl->mutex);
        return go_on;
}

/* Layers that are to be filled, with the images that want them. */
struct filling {
        struct cas_elsewhere_layer *list; /* owned */
        size_t count;
};

static bool take_layer(void *arg, const struct cas_elsewhere_layer *layer)
{
        struct filling *f = arg;
        if (layer->on_demand_only)
                return true;
        f->list = cas_xrealloc(f->list, (f->count + 1) * sizeof(f->list[0]));
        f->list[f->count++] = *layer;
        return true;
}

/* The next files of the order that are of one layer. False: all of it is here, or was refused. */
static bool pick_learned_locked(struct completing *c, const struct cas_hash *ids, size_t count,
                                size_t *at)
{
        struct cas_elsewhere *e = c->e;
        struct cas_part_flight *f = &c->flight;
        uint64_t now = cas_elsewhere_now_ms();
        *f = (struct cas_part_flight){0};
        for (size_t i = *at; i < count && f->count < CAS_FLIGHT_FILES_MAX; i++) {
                struct cas_part_file *file = cas_part_file_locked(e, &ids[i]);
                bool can = file && !file->flying && now >= file->refused_until_ms;
                if (!can) {
                        if (i == *at && f->count == 0)
                                *at = i + 1;
                        continue;
                }
                if (f->count > 0 &&
                    (file->part != f->part || f->bytes + file->size_bytes > c->flight_bytes))
                        continue;
                f->part = file->part;
                cas_flight_add_locked(f, file);
        }
        return f->count > 0;
}

static void fill_learned(struct cas_filler *fl, const struct cas_digest *manifest)
{
        struct cas_elsewhere *e = fl->store->elsewhere;
        cas_cleanup_free struct cas_hash *ids = NULL;
        size_t count = 0, at = 0;
        struct cas_err err = CAS_ERR_INIT;
        if (cas_order_get(fl->store, manifest, &ids, &count, SIZE_MAX, &err) < 0 || count == 0)
                return;
        cas_cleanup_free struct completing *c = cas_xcalloc(1, sizeof(*c));
        *c = (struct completing){.e = e, .background = true, .flight_bytes = CAS_MIB};
        bool more = true;
        cas_mutex_lock(&e->mutex);
        while (more && !e->ending) {
                cas_mutex_unlock(&e->mutex);
                more = filler_goes_on(fl);
                cas_mutex_lock(&e->mutex);
                if (!more)
                        break;
                yield_locked(c);
                more = pick_learned_locked(c, ids, count, &at) && fly_locked(c, &err) == 0;
        }
        cas_mutex_unlock(&e->mutex);
}

/* Everything once. False: something has not come. */
static bool fill(struct cas_filler *fl, const struct filling *f)
{
        bool whole = true;
        for (size_t i = 0; i < f->count && filler_goes_on(fl); i++) {
                if (i == 0 || !cas_digest_equal(&f->list[i].manifest, &f->list[i - 1].manifest))
                        fill_learned(fl, &f->list[i].manifest);
        }
        for (size_t i = 0; i < f->count && filler_goes_on(fl); i++) {
                struct cas_err err = CAS_ERR_INIT;
                char text[CAS_DIGEST_TEXT_BYTES];
                cas_digest_text(&f->list[i].layer.blob, text);
                if (complete(fl->store, &f->list[i].layer.blob, true, NULL, &err) == 0) {
                        cas_log(CAS_LOG_INFO, "elsewhere", "layer=%s whole=yes", text);
                } else {
                        cas_log(CAS_LOG_DEBUG, "elsewhere", "layer=%s whole=no error=\"%s\"", text,
                                err.msg);
                        whole = false;
                }
        }
        return whole;
}

/* Until a record changes, at most so long. */
static void filler_wait(struct cas_filler *fl, uint64_t ms)
{
        struct cas_elsewhere *e = fl->store->elsewhere;
        uint64_t until = cas_elsewhere_now_ms() + ms;
        cas_mutex_lock(&e->mutex);
        while (!e->ending && !cas_elsewhere_is_stale_locked(e) && filler_goes_on(fl)) {
                if (!cas_elsewhere_wait_locked(e, until))
                        break;
        }
        cas_mutex_unlock(&e->mutex);
}

static void *filler_thread(void *arg)
{
        struct cas_filler *fl = arg;
        while (filler_goes_on(fl)) {
                struct filling f = {0};
                struct cas_err err = CAS_ERR_INIT;
                bool whole = true;
                if (cas_elsewhere_settle(fl->store->elsewhere, &err) == 0 &&
                    cas_elsewhere_each(fl->store, take_layer, &f, &err) == 0)
                        whole = fill(fl, &f);
                free(f.list);
                if (err.code != CAS_OK)
                        cas_log(CAS_LOG_WARN, "elsewhere", "error=\"%s\"", err.msg);
                cas_learner_tick(fl->store);
                filler_wait(fl, whole ? IDLE_MS : RETRY_MS);
        }
        return NULL;
}

struct cas_filler *cas_filler_start(struct cas_store *s)
{
        struct cas_filler *fl = cas_xcalloc(1, sizeof(*fl));
        fl->store = s;
        cas_mutex_init(&fl->mutex, "filler");
        int rc = pthread_create(&fl->thread, NULL, filler_thread, fl);
        cas_assert(rc == 0);
        (void)pthread_setname_np(fl->thread, "filler");
        return fl;
}

void cas_filler_stop(struct cas_filler *fl)
{
        if (!fl)
                return;
        struct cas_elsewhere *e = fl->store->elsewhere;
        cas_mutex_lock(&fl->mutex);
        fl->stopping = true;
        cas_mutex_unlock(&fl->mutex);
        cas_mutex_lock(&e->mutex);
        e->ending = true; /* nobody waits for what has not come any more */
        (void)pthread_cond_broadcast(&e->changed);
        cas_mutex_unlock(&e->mutex);
        (void)pthread_join(fl->thread, NULL);
        cas_mutex_release(&fl->mutex);
        free(fl);
}
