/* SPDX-License-Identifier: Apache-2.0 */
/* Layers that are elsewhere as they are kept in memory: which files they have,
 * and which of those are here. Made from the records and listings when somebody
 * first asks, and again when records have changed. */
#include <string.h>
#include <time.h>

#include "cas/backend.h"
#include "cas/blob.h"
#include "cas/elsewhere_int.h"
#include "cas/hashset.h"
#include "cas/log.h"
#include "cas/map.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

/* ---- places ---- */

struct cas_part_file *cas_part_file_locked(const struct cas_elsewhere *e, const struct cas_hash *id)
{
        const uint64_t *place = cas_map_get(e->places, id->bytes, CAS_HASH_BYTES);
        return place ? (struct cas_part_file *)(uintptr_t)*place : NULL;
}

static void places_add_locked(struct cas_elsewhere *e, struct cas_part *part)
{
        for (size_t i = 0; i < part->count; i++) {
                struct cas_part_file *f = &part->files[i];
                if (!f->here)
                        *cas_map_put(e->places, f->id.bytes, CAS_HASH_BYTES, NULL) =
                                (uint64_t)(uintptr_t)f;
        }
}

/* Another part may have what a part that goes had. */
static void places_renew_locked(struct cas_elsewhere *e)
{
        cas_map_free(e->places);
        e->places = cas_map_new();
        for (struct cas_part *p = e->parts; p; p = p->next)
                places_add_locked(e, p);
}

static void note_here(struct cas_part_file *f)
{
        if (f->here)
                return;
        f->here = true;
        f->part->progress.here_count++;
        f->part->progress.here_bytes += f->size_bytes;
}

void cas_part_came_locked(struct cas_elsewhere *e, struct cas_part_file *file)
{
        cas_assert_held(&e->mutex);
        struct cas_part_file *place = cas_part_file_locked(e, &file->id);
        note_here(file);
        if (!place)
                return;
        note_here(place); /* of another layer, perhaps: nobody is to wait for it there */
        (void)cas_map_remove(e->places, file->id.bytes, CAS_HASH_BYTES);
}

struct cas_part *cas_part_find_locked(struct cas_elsewhere *e, const struct cas_digest *blob)
{
        cas_assert_held(&e->mutex);
        for (struct cas_part *p = e->parts; p; p = p->next) {
                if (cas_digest_equal(&p->rec.layer.blob, blob))
                        return p;
        }
        return NULL;
}

static struct cas_part_source *source_of_locked(struct cas_elsewhere *e, const char *text)
{
        for (struct cas_part_source *s = e->sources; s; s = s->next) {
                if (strcmp(s->text, text) == 0)
                        return s;
        }
        struct cas_part_source *s = cas_xcalloc(1, sizeof(*s));
        s->text = cas_xstrdup(text);
        s->next = e->sources;
        e->sources = s;
        return s;
}

static void part_free(struct cas_part *part)
{
        if (!part)
                return;
        free(part->files);
        free(part);
}
CAS_DEFINE_CLEANUP(cleanup_part_, struct cas_part *, part_free);
#define cleanup_part __attribute__((cleanup(cleanup_part_)))

void cas_part_put_locked(struct cas_elsewhere *e, struct cas_part *part)
{
        cas_assert_held(&e->mutex);
        cas_assert(part->users > 0);
        if (--part->users == 0 && part->gone)
                part_free(part);
}

static void part_go_locked(struct cas_elsewhere *e, struct cas_part *part)
{
        struct cas_part **at = &e->parts;
        while (*at != part)
                at = &(*at)->next;
        *at = part->next;
        part->gone = true;
        if (part->users == 0)
                part_free(part);
}

/* ---- making ---- */

static int file_is_here(struct cas_store *s, const struct cas_hash *id, bool *out,
                        struct cas_err *err)
{
        return cas_index_has(s->index, CAS_FAMILY_OBJECTS, id->bytes, CAS_HASH_BYTES, out, err);
}

static int part_make(struct cas_store *s, const struct cas_elsewhere_layer *rec,
                     struct cas_part **out, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        cleanup_part struct cas_part *part = cas_xcalloc(1, sizeof(*part));
        struct cas_hashset seen = CAS_HASHSET_INIT;
        if (cas_layer_listing(s, &rec->layer, &listing, err) < 0)
                return -(int)err->code;
        part->rec = *rec;
        part->files = cas_xcalloc(listing.count + 1, sizeof(part->files[0]));
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < listing.count; i++) {
                const struct cas_entry *entry = &listing.entries[i];
                if (entry->type != CAS_ENTRY_FILE || entry->size_bytes <= CAS_INLINE_BYTES_MAX ||
                    !cas_hashset_add(&seen, entry->object.bytes))
                        continue;
                struct cas_part_file *f = &part->files[part->count++];
                bool here = false;
                *f = (struct cas_part_file){
                        .id = entry->object, .size_bytes = entry->size_bytes, .part = part};
                part->progress.file_count++;
                part->progress.file_bytes += f->size_bytes;
                rc = file_is_here(s, &f->id, &here, err);
                if (rc == 0 && here)
                        note_here(f);
        }
        cas_hashset_release(&seen);
        if (rc == 0)
                *out = cas_steal(&part);
        return rc;
}

/* ---- looking at the records ---- */

struct records {
        struct cas_elsewhere_layer *list; /* owned */
        size_t count;
};

static bool take_record(void *arg, const struct cas_elsewhere_layer *layer)
{
        struct records *r = arg;
        r->list = cas_xrealloc(r->list, (r->count + 1) * sizeof(r->list[0]));
        r->list[r->count++] = *layer;
        return true;
}

static void records_release(struct records *r)
{
        free(r->list);
}

/* A part that is known gets the source that its record has now. One whose layer was noted again is
 * made anew: the record may have been collected meanwhile, with files that were here. */
static bool renew_locked(struct cas_elsewhere *e, const struct cas_elsewhere_layer *rec)
{
        struct cas_part *part = cas_part_find_locked(e, &rec->layer.blob);
        if (!part)
                return false;
        if (part->rec.added_unix_s != rec->added_unix_s ||
            !cas_hash_equal(&part->rec.layer.listing, &rec->layer.listing)) {
                part_go_locked(e, part);
                places_renew_locked(e);
                return false;
        }
        if (strcmp(part->rec.source, rec->source) != 0)
                part->source = source_of_locked(e, rec->source);
        part->rec = *rec;
        return true;
}

static bool has_record(const struct records *r, const struct cas_digest *blob)
{
        for (size_t i = 0; i < r->count; i++) {
                if (cas_digest_equal(&r->list[i].layer.blob, blob))
                        return true;
        }
        return false;
}

/* One that came otherwise, whole, needs no record any more. */
static int look_at_record(struct cas_elsewhere *e, const struct cas_elsewhere_layer *rec,
                          struct cas_err *err)
{
        struct cas_layer_record layer;
        struct cas_err miss = CAS_ERR_INIT;
        cleanup_part struct cas_part *part = NULL;
        if (cas_layer_stat(e->store, &rec->layer.blob, &layer, &miss) == 0)
                return cas_elsewhere_drop(e->store, &rec->layer.blob, err);
        cas_mutex_lock(&e->mutex);
        bool known = renew_locked(e, rec);
        cas_mutex_unlock(&e->mutex);
        if (known)
                return 0;
        if (part_make(e->store, rec, &part, &miss) < 0) {
                cas_log(CAS_LOG_WARN, "elsewhere", "listing=unread error=\"%s\"", miss.msg);
                return 0; /* its image cannot be mounted, others can */
        }
        cas_mutex_lock(&e->mutex);
        part->source = source_of_locked(e, rec->source);
        part->next = e->parts;
        e->parts = part;
        places_add_locked(e, cas_steal(&part));
        cas_mutex_unlock(&e->mutex);
        return 0;
}

static void forget_gone(struct cas_elsewhere *e, const struct records *records)
{
        struct cas_layer_record layer;
        struct cas_err ignored = CAS_ERR_INIT;
        bool any = false;
        cas_mutex_lock(&e->mutex);
        for (struct cas_part *p = e->parts, *next; p; p = next) {
                next = p->next;
                if (has_record(records, &p->rec.layer.blob) &&
                    cas_layer_stat(e->store, &p->rec.layer.blob, &layer, &ignored) < 0)
                        continue;
                part_go_locked(e, p);
                any = true;
        }
        if (any)
                places_renew_locked(e);
        (void)pthread_cond_broadcast(&e->changed);
        cas_mutex_unlock(&e->mutex);
}

static int look(struct cas_elsewhere *e, struct cas_err *err)
{
        __attribute__((cleanup(records_release))) struct records records = {0};
        int rc = cas_elsewhere_each(e->store, take_record, &records, err);
        for (size_t i = 0; rc == 0 && i < records.count; i++)
                rc = look_at_record(e, &records.list[i], err);
        if (rc == 0)
                forget_gone(e, &records);
        return rc;
}

bool cas_elsewhere_is_stale_locked(const struct cas_elsewhere *e)
{
        cas_assert_held(&e->mutex);
        return e->seen_changes != e->changes;
}

int cas_elsewhere_settle(struct cas_elsewhere *e, struct cas_err *err)
{
        cas_mutex_lock(&e->mutex);
        bool stale = cas_elsewhere_is_stale_locked(e);
        cas_mutex_unlock(&e->mutex);
        if (!stale)
                return 0;
        cas_mutex_lock(&e->loading);
        cas_mutex_lock(&e->mutex);
        uint64_t changes = e->changes;
        stale = cas_elsewhere_is_stale_locked(e);
        cas_mutex_unlock(&e->mutex);
        int rc = stale ? look(e, err) : 0;
        if (rc == 0) {
                cas_mutex_lock(&e->mutex);
                e->seen_changes = changes;
                cas_mutex_unlock(&e->mutex);
        }
        cas_mutex_unlock(&e->loading);
        return rc;
}

void cas_elsewhere_changed(struct cas_store *s)
{
        cas_mutex_lock(&s->elsewhere->mutex);
        s->elsewhere->changes++;
        (void)pthread_cond_broadcast(&s->elsewhere->changed);
        cas_mutex_unlock(&s->elsewhere->mutex);
}

int cas_elsewhere_progress(struct cas_store *s, const struct cas_digest *blob,
                           struct cas_elsewhere_progress *out, struct cas_err *err)
{
        struct cas_elsewhere *e = s->elsewhere;
        if (cas_elsewhere_settle(e, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&e->mutex);
        const struct cas_part *part = cas_part_find_locked(e, blob);
        if (part)
                *out = part->progress;
        cas_mutex_unlock(&e->mutex);
        return part ? 0 : cas_fail(err, CAS_E_NOTFOUND, "not elsewhere");
}

/* ---- life ---- */

struct cas_elsewhere *cas_elsewhere_new(struct cas_store *s)
{
        struct cas_elsewhere *e = cas_xcalloc(1, sizeof(*e));
        e->store = s;
        e->remotes.wait_ms = CAS_ELSEWHERE_WAIT_MS;
        e->changes = 1;
        e->places = cas_map_new();
        cas_mutex_init(&e->loading, "elsewhere.loading");
        cas_mutex_init(&e->mutex, "elsewhere");
        cas_cond_init(&e->changed);
        return e;
}

void cas_elsewhere_free(struct cas_elsewhere *e)
{
        if (!e)
                return;
        cas_assert(e->worker_count == 0);
        while (e->parts)
                part_go_locked(e, e->parts);
        while (e->sources) {
                struct cas_part_source *s = e->sources;
                e->sources = s->next;
                if (s->remote)
                        s->remote->ops->close(s->remote);
                free(s->text);
                free(s);
        }
        cas_map_free(e->places);
        (void)pthread_cond_destroy(&e->changed);
        cas_mutex_release(&e->loading);
        cas_mutex_release(&e->mutex);
        free(e);
}

void cas_store_set_remotes(struct cas_store *s, const struct cas_remotes *remotes)
{
        s->elsewhere->remotes = *remotes;
        if (remotes->wait_ms == 0)
                s->elsewhere->remotes.wait_ms = CAS_ELSEWHERE_WAIT_MS;
}

uint64_t cas_elsewhere_now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

bool cas_elsewhere_wait_locked(struct cas_elsewhere *e, uint64_t until_ms)
{
        const struct timespec deadline = {.tv_sec = (time_t)(until_ms / 1000),
                                          .tv_nsec = (long)(until_ms % 1000) * 1000000};
        return cas_mutex_timedwait(&e->mutex, &e->changed, &deadline);
}
