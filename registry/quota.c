/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/quota.h"

#include <stdio.h>

#include "cas/blob.h"
#include "cas/log.h"
#include "cas/map.h"
#include "cas/mutex.h"
#include "cas/names.h"
#include "registry/events.h"
#include "registry/reg_clock.h"
#include "registry/repo_pattern.h"

#define SHARDS 64
#define RECOUNT_NS (UINT64_C(2) * 1000000000)       /* after something has happened */
#define RECOUNT_ALL_NS (UINT64_C(600) * 1000000000) /* other commands change the store, too */
#define KEY_BYTES 320

struct quota {
        uint64_t bytes;
        bool together;
        size_t pattern_count;
        struct reg_repo_pattern *patterns; /* owned */
};

struct shard {
        struct cas_mutex mutex; /* registry.quota.counts; a leaf */
        /* "r NAME" of a repository, "u NAME" of what of that lies in upload sessions, "q INDEX
         * USER" of several together */
        struct cas_map *counts;
};

struct reg_quotas {
        struct cas_store *store; /* borrowed; NULL: nothing is counted but events */
        size_t count;
        struct quota *quotas; /* owned */
        struct shard shards[SHARDS];

        struct cas_mutex mutex; /* registry.quota; guards the rest */
        pthread_cond_t change;
        struct cas_map *dirty; /* repositories in which something has happened */
        bool ending;
        bool running;
        pthread_t thread;
};

/* ---- counts ---- */

static struct shard *shard_of(struct reg_quotas *q, const char *key)
{
        uint32_t hash = 2166136261U;
        for (const char *c = key; *c; c++)
                hash = (hash ^ (uint8_t)*c) * 16777619U;
        return &q->shards[hash % SHARDS];
}

static uint64_t count_get(struct reg_quotas *q, const char *key)
{
        struct shard *s = shard_of(q, key);
        cas_mutex_lock(&s->mutex);
        const uint64_t *count = cas_map_get_str(s->counts, key);
        uint64_t value = count ? *count : 0;
        cas_mutex_unlock(&s->mutex);
        return value;
}

/* Adds, takes away, or (set) replaces; returns what it was before. */
static uint64_t count_change(struct reg_quotas *q, const char *key, uint64_t add, uint64_t sub,
                             bool set)
{
        struct shard *s = shard_of(q, key);
        cas_mutex_lock(&s->mutex);
        uint64_t *count = cas_map_put(s->counts, key, strlen(key), NULL);
        uint64_t before = *count, value = set ? 0 : before;
        value = value > UINT64_MAX - add ? UINT64_MAX : value + add;
        value = value > sub ? value - sub : 0;
        if (value > 0)
                *count = value;
        else
                (void)cas_map_remove(s->counts, key, strlen(key));
        cas_mutex_unlock(&s->mutex);
        return before;
}

/* Whether the quota is for the repository; key gets the counter that it looks at. */
static bool quota_key(const struct reg_quotas *q, size_t i, const char *repo, char key[KEY_BYTES])
{
        char user[KEY_BYTES - 32];
        for (size_t j = 0; j < q->quotas[i].pattern_count; j++) {
                if (!reg_repo_pattern_owner(&q->quotas[i].patterns[j], repo, user, sizeof(user)))
                        continue;
                if (q->quotas[i].together)
                        (void)snprintf(key, KEY_BYTES, "q %zu %s", i, user);
                else
                        (void)snprintf(key, KEY_BYTES, "r %s", repo);
                return true;
        }
        return false;
}

/* The repository has `add` more and `sub` less. */
static void spread(struct reg_quotas *q, const char *repo, uint64_t add, uint64_t sub)
{
        char key[KEY_BYTES];
        for (size_t i = 0; i < q->count; i++) {
                if (q->quotas[i].together && quota_key(q, i, repo, key))
                        (void)count_change(q, key, add, sub, false);
        }
}

static bool is_counted(const struct reg_quotas *q, const char *repo)
{
        char key[KEY_BYTES];
        for (size_t i = 0; i < q->count; i++) {
                if (quota_key(q, i, repo, key))
                        return true;
        }
        return false;
}

uint64_t reg_quotas_room(struct reg_quotas *q, const char *repo)
{
        uint64_t room = UINT64_MAX;
        char key[KEY_BYTES];
        for (size_t i = 0; i < q->count; i++) {
                if (!quota_key(q, i, repo, key))
                        continue;
                uint64_t used = count_get(q, key), limit = q->quotas[i].bytes;
                room = cas_min_u64(room, limit > used ? limit - used : 0);
        }
        return room;
}

/* ---- counting from the store ---- */

struct recount {
        struct cas_store *store;
        uint64_t bytes;
};

static bool add_blob(void *arg, const struct cas_digest *digest)
{
        struct recount *r = arg;
        struct cas_err ignored = CAS_ERR_INIT; /* a blob that is lost takes no room */
        uint64_t bytes;
        if (cas_blob_stat(r->store, digest, &bytes, &ignored) == 0)
                r->bytes += bytes;
        return true;
}

static bool add_manifest(void *arg, const struct cas_manifest_info *m)
{
        ((struct recount *)arg)->bytes += m->size_bytes;
        return true;
}

static bool add_upload(void *arg, const struct cas_upload_info *info)
{
        ((struct recount *)arg)->bytes += info->size_bytes;
        return true;
}

/* Looks at all sessions of the store, so only where there were some. */
static int recount_uploads(struct reg_quotas *q, const char *repo, struct recount *r,
                           struct cas_err *err)
{
        struct recount uploads = {.store = q->store};
        char key[KEY_BYTES];
        (void)snprintf(key, sizeof(key), "u %s", repo);
        uint64_t known = count_get(q, key);
        if (known == 0)
                return 0;
        int rc = cas_upload_each(q->store, repo, add_upload, &uploads, err);
        if (rc == 0 && count_change(q, key, uploads.bytes, 0, true) != known)
                (void)count_change(q, key, 1, 0, false); /* it has changed: to be looked at again */
        r->bytes += uploads.bytes;
        return rc;
}

static void recount(struct reg_quotas *q, const char *repo)
{
        struct recount r = {.store = q->store};
        struct cas_err err = CAS_ERR_INIT;
        char key[KEY_BYTES];
        if (cas_blob_link_each(q->store, repo, add_blob, &r, &err) < 0 ||
            cas_manifest_each(q->store, repo, add_manifest, &r, &err) < 0 ||
            recount_uploads(q, repo, &r, &err) < 0) {
                cas_log(CAS_LOG_WARN, "quota", "repository=%s error=\"%s\"", repo, err.msg);
                return;
        }
        (void)snprintf(key, sizeof(key), "r %s", repo);
        uint64_t before = count_change(q, key, r.bytes, 0, true);
        spread(q, repo, r.bytes, before);
}

static bool mark_repo(void *arg, const char *repo)
{
        struct reg_quotas *q = arg;
        if (is_counted(q, repo)) {
                cas_mutex_lock(&q->mutex);
                (void)cas_map_put(q->dirty, repo, strlen(repo) + 1, NULL);
                cas_mutex_unlock(&q->mutex);
        }
        return true;
}

static void mark_counted(void *arg, const void *key, size_t key_len, uint64_t value CAS_UNUSED)
{
        const char *text = key;
        if (key_len > 2 && text[0] == 'r') { /* its NUL goes along with repositories in `dirty` */
                cas_cleanup_free char *repo = cas_xstrndup(text + 2, key_len - 2);
                (void)cas_map_put(arg, repo, strlen(repo) + 1, NULL);
        }
}

/* All that are there, and all that were. */
static void mark_all(struct reg_quotas *q)
{
        struct cas_err err = CAS_ERR_INIT;
        if (cas_repo_each(q->store, NULL, mark_repo, q, &err) < 0)
                cas_log(CAS_LOG_WARN, "quota", "error=\"%s\"", err.msg);
        for (size_t i = 0; i < SHARDS; i++) {
                cas_mutex_lock(&q->mutex);
                cas_mutex_lock(&q->shards[i].mutex);
                cas_map_each(q->shards[i].counts, mark_counted, q->dirty);
                cas_mutex_unlock(&q->shards[i].mutex);
                cas_mutex_unlock(&q->mutex);
        }
}

static bool is_ending(struct reg_quotas *q)
{
        cas_mutex_lock(&q->mutex);
        bool ending = q->ending;
        cas_mutex_unlock(&q->mutex);
        return ending;
}

static void recount_marked(void *arg, const void *key, size_t key_len CAS_UNUSED,
                           uint64_t value CAS_UNUSED)
{
        struct reg_quotas *q = arg;
        if (!is_ending(q))
                recount(q, key);
}

/* What happens to a repository after this begins marks it again. */
static void recount_dirty(struct reg_quotas *q)
{
        cas_mutex_lock(&q->mutex);
        cas_cleanup_map struct cas_map *dirty = q->dirty;
        q->dirty = cas_map_new();
        cas_mutex_unlock(&q->mutex);
        cas_map_each(dirty, recount_marked, q);
}

static void wait_a_while(struct reg_quotas *q)
{
        uint64_t until_ns = reg_clock_ns() + RECOUNT_NS;
        const struct timespec deadline = {.tv_sec = (time_t)(until_ns / 1000000000),
                                          .tv_nsec = (long)(until_ns % 1000000000)};
        cas_mutex_lock(&q->mutex);
        while (!q->ending && cas_mutex_timedwait(&q->mutex, &q->change, &deadline))
                continue;
        cas_mutex_unlock(&q->mutex);
}

static void *count_always(void *arg)
{
        struct reg_quotas *q = arg;
        uint64_t all_ns = 0;
        while (!is_ending(q)) {
                if (all_ns == 0 || reg_clock_ns() - all_ns >= RECOUNT_ALL_NS) {
                        all_ns = reg_clock_ns();
                        mark_all(q);
                }
                recount_dirty(q);
                wait_a_while(q);
        }
        return NULL;
}

/* ---- events ---- */

static void on_event(void *arg, const struct reg_event *event)
{
        struct reg_quotas *q = arg;
        char key[KEY_BYTES];
        switch (event->kind) {
        case REG_EVENT_PULL_MANIFEST:
        case REG_EVENT_PULL_BLOB:
        case REG_EVENT_DELETE_TAG:
                return;
        case REG_EVENT_PUSH_MANIFEST:
        case REG_EVENT_PUSH_BLOB:
        case REG_EVENT_MOUNT_BLOB: /* if it was there already, counting anew says so */
                if (!is_counted(q, event->repo))
                        return;
                (void)snprintf(key, sizeof(key), "r %s", event->repo);
                (void)count_change(q, key, event->bytes, 0, false);
                spread(q, event->repo, event->bytes, 0);
                break;
        case REG_EVENT_DELETE_MANIFEST:
        case REG_EVENT_DELETE_BLOB:
                break;
        }
        (void)mark_repo(q, event->repo);
}

void reg_quotas_uploaded(struct reg_quotas *q, const char *repo, uint64_t add, uint64_t sub)
{
        char key[KEY_BYTES];
        if (!is_counted(q, repo))
                return;
        (void)snprintf(key, sizeof(key), "u %s", repo);
        sub = cas_min_u64(sub, count_change(q, key, add, sub, false)); /* else: not counted yet */
        (void)snprintf(key, sizeof(key), "r %s", repo);
        (void)count_change(q, key, add, sub, false);
        spread(q, repo, add, sub);
        (void)mark_repo(q, repo);
}

void reg_quotas_listen(struct reg_quotas *q, struct reg_events *events)
{
        reg_events_listen(events, on_event, q);
}

/* ---- making it ---- */

static int add_quota(struct reg_quotas *q, const struct reg_access_quota *from, struct cas_err *err)
{
        struct quota *quota = &q->quotas[q->count++];
        if (from->repositories.count == 0 || from->bytes == 0)
                return cas_fail(err, CAS_E_INVALID, "repositories and bytes are wanted");
        quota->bytes = from->bytes;
        quota->together = from->together;
        quota->patterns = cas_xcalloc(from->repositories.count, sizeof(*quota->patterns));
        for (size_t i = 0; i < from->repositories.count; i++) {
                int rc = reg_repo_pattern_init(&quota->patterns[i], from->repositories.items[i],
                                               err);
                if (rc < 0)
                        return rc;
                quota->pattern_count++;
        }
        return 0;
}

static int add_all(struct reg_quotas *q, const struct reg_access_quotas *quotas,
                   struct cas_err *err)
{
        q->quotas = cas_xcalloc(quotas->count, sizeof(*q->quotas));
        for (size_t i = 0; i < quotas->count; i++) {
                if (add_quota(q, &quotas->items[i], err) < 0)
                        return cas_err_wrap(err, "[quota %s]", quotas->items[i].name);
        }
        return 0;
}

int reg_quotas_new(const struct reg_access_quotas *quotas, struct cas_store *store,
                   struct reg_quotas **out, struct cas_err *err)
{
        struct reg_quotas *q = cas_xcalloc(1, sizeof(*q));
        q->store = store;
        q->dirty = cas_map_new();
        cas_mutex_init(&q->mutex, "registry.quota");
        cas_cond_init(&q->change);
        for (size_t i = 0; i < SHARDS; i++) {
                q->shards[i].counts = cas_map_new();
                cas_mutex_init(&q->shards[i].mutex, "registry.quota.counts");
        }
        int rc = add_all(q, quotas, err);
        if (rc == 0 && store) {
                int status = pthread_create(&q->thread, NULL, count_always, q);
                q->running = status == 0;
                if (status != 0)
                        rc = cas_fail_sys(err, status, "starting a thread");
        }
        if (rc < 0) {
                reg_quotas_free(q);
                return rc;
        }
        *out = q;
        return 0;
}

void reg_quotas_free(struct reg_quotas *q)
{
        if (!q)
                return;
        cas_mutex_lock(&q->mutex);
        q->ending = true;
        (void)pthread_cond_broadcast(&q->change);
        cas_mutex_unlock(&q->mutex);
        if (q->running)
                (void)pthread_join(q->thread, NULL);
        for (size_t i = 0; i < q->count; i++) {
                for (size_t j = 0; j < q->quotas[i].pattern_count; j++)
                        reg_repo_pattern_release(&q->quotas[i].patterns[j]);
                free(q->quotas[i].patterns);
        }
        for (size_t i = 0; i < SHARDS; i++) {
                cas_map_free(q->shards[i].counts);
                cas_mutex_release(&q->shards[i].mutex);
        }
        cas_map_free(q->dirty);
        (void)pthread_cond_destroy(&q->change);
        cas_mutex_release(&q->mutex);
        free(q->quotas);
        free(q);
}
