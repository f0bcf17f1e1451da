/* SPDX-License-Identifier: Apache-2.0 */
/* What is read is written down once for all images that are watched; which of it
 * is of which image is looked up when its time is over. Lost with the process:
 * the next start is watched again. */
#include "cas/learner_int.h"

#include <stdatomic.h>

#include "cas/elsewhere_int.h"
#include "cas/log.h"
#include "cas/map.h"
#include "cas/pins_int.h"
#include "cas/store_int.h"

#define WATCH_MS 30000
#define WATCHED_MAX 32
#define SEEN_MAX 16384
/* Images learned by this process, which are not watched again. */
#define LEARNED_MAX 4096

struct watch {
        struct cas_digest manifest;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        size_t first; /* of seen, that counts */
        uint64_t until_ms;
};

struct cas_learner {
        _Atomic bool watching;
        struct cas_mutex mutex; /* a leaf; guards all below */
        uint64_t watch_ms;
        struct watch watches[WATCHED_MAX];
        size_t watch_count;
        struct cas_hash *seen; /* owned; while something is watched */
        size_t seen_count;
        struct cas_map *learned; /* manifests */
};

struct cas_learner *cas_learner_new(void)
{
        struct cas_learner *l = cas_xcalloc(1, sizeof(*l));
        cas_mutex_init(&l->mutex, "learner");
        l->watch_ms = WATCH_MS;
        l->learned = cas_map_new();
        return l;
}

void cas_learner_free(struct cas_learner *l)
{
        if (!l)
                return;
        cas_map_free(l->learned);
        cas_mutex_release(&l->mutex);
        free(l->seen);
        free(l);
}

void cas_order_set_watch_ms(struct cas_store *s, uint64_t ms)
{
        cas_mutex_lock(&s->learner->mutex);
        s->learner->watch_ms = ms;
        cas_mutex_unlock(&s->learner->mutex);
}

void cas_order_watch(struct cas_store *s, const char *repo, const struct cas_digest *manifest)
{
        struct cas_learner *l = s->learner;
        bool first = true;
        cas_mutex_lock(&l->mutex);
        if (cas_map_count(l->learned) < LEARNED_MAX)
                (void)cas_map_put(l->learned, manifest, sizeof(*manifest), &first);
        else
                first = false;
        if (first && l->watch_count < WATCHED_MAX) {
                struct watch *w = &l->watches[l->watch_count++];
                memset(w, 0, sizeof(*w));
                w->manifest = *manifest;
                if (repo && strlen(repo) < sizeof(w->repo))
                        memcpy(w->repo, repo, strlen(repo) + 1);
                if (!l->seen)
                        l->seen = cas_xcalloc(SEEN_MAX, sizeof(l->seen[0]));
                w->first = l->seen_count;
                w->until_ms = cas_elsewhere_now_ms() + l->watch_ms;
                atomic_store(&l->watching, true);
        }
        cas_mutex_unlock(&l->mutex);
}

void cas_order_seen(struct cas_store *s, const struct cas_hash *id)
{
        struct cas_learner *l = s->learner;
        if (!atomic_load(&l->watching))
                return;
        cas_mutex_lock(&l->mutex);
        if (l->seen && l->seen_count < SEEN_MAX)
                l->seen[l->seen_count++] = *id;
        cas_mutex_unlock(&l->mutex);
}

/* ---- when its time is over ---- */

static void note_file(void *arg, const struct cas_entry *file)
{
        (void)cas_map_put(arg, file->object.bytes, CAS_HASH_BYTES, NULL);
}

/* Appends those of the image that are not in the order yet. */
static size_t add_seen(struct cas_map *files, const struct cas_hash *seen, size_t count,
                       struct cas_hash *ids, size_t have)
{
        for (size_t i = 0; i < have; i++)
                (void)cas_map_remove(files, ids[i].bytes, CAS_HASH_BYTES);
        for (size_t i = 0; i < count && have < CAS_ORDER_OBJECTS_MAX; i++) {
                if (cas_map_remove(files, seen[i].bytes, CAS_HASH_BYTES))
                        ids[have++] = seen[i];
        }
        return have;
}

static int learn(struct cas_store *s, const struct watch *w, const struct cas_hash *seen,
                 size_t seen_count, struct cas_err *err)
{
        cas_cleanup_map struct cas_map *files = cas_map_new();
        cas_cleanup_free struct cas_hash *before = NULL;
        cas_cleanup_free struct cas_hash *ids = cas_xcalloc(CAS_ORDER_OBJECTS_MAX, sizeof(*ids));
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        size_t before_count;
        cas_pin_blob(pins, &w->manifest);
        if (cas_order_get(s, &w->manifest, &before, &before_count, CAS_ORDER_OBJECTS_MAX, err) <
                    0 ||
            cas_order_each_file(s, &w->manifest, note_file, files, err) < 0)
                return -(int)err->code;
        if (before_count > 0)
                memcpy(ids, before, before_count * sizeof(*ids));
        size_t count = add_seen(files, seen, seen_count, ids, before_count);
        if (count == before_count)
                return 0;
        return cas_order_put(s, w->repo, &w->manifest, ids, count, err);
}

/* The first watch whose time is over, with what was seen since it began. *seen is the caller's. */
static bool take_due(struct cas_learner *l, struct watch *out, struct cas_hash **seen,
                     size_t *count)
{
        uint64_t now = cas_elsewhere_now_ms();
        bool found = false;
        cas_mutex_lock(&l->mutex);
        for (size_t i = 0; i < l->watch_count && !found; i++) {
                if (now < l->watches[i].until_ms)
                        continue;
                found = true;
                *out = l->watches[i];
                *count = l->seen_count - out->first;
                *seen = cas_xcalloc(*count + 1, sizeof(**seen));
                memcpy(*seen, l->seen + out->first, *count * sizeof(**seen));
                l->watches[i] = l->watches[--l->watch_count];
        }
        if (l->watch_count == 0 && l->seen) {
                atomic_store(&l->watching, false);
                free(cas_steal(&l->seen));
                l->seen_count = 0;
        }
        cas_mutex_unlock(&l->mutex);
        return found;
}

void cas_learner_tick(struct cas_store *s)
{
        for (;;) {
                cas_cleanup_free struct watch *w = cas_xcalloc(1, sizeof(*w));
                cas_cleanup_free struct cas_hash *seen = NULL;
                size_t count;
                struct cas_err err = CAS_ERR_INIT;
                if (!take_due(s->learner, w, &seen, &count))
                        return;
                if (learn(s, w, seen, count, &err) < 0 && err.code != CAS_E_NOTFOUND)
                        cas_log(CAS_LOG_WARN, "order", "error=\"%s\"", err.msg);
        }
}
