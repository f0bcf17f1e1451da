/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/tagclock.h"

#include <stdio.h>
#include <time.h>

#include "cas/limits.h"
#include "cas/log.h"
#include "cas/map.h"
#include "cas/mutex.h"

#define SHARDS 16
#define SHARD_TAGS_MAX 8192 /* that wait to be written; of more, nothing is remembered */
#define SEEN_SLOTS 64
#define NAME_BYTES (CAS_REPO_NAME_BYTES_MAX + 1 + CAS_TAG_BYTES_MAX + 1)

struct entry {
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        char tag[CAS_TAG_BYTES_MAX + 1];
        struct cas_digest manifest;
        struct cas_tag_times times;
};

struct shard {
        _Alignas(64) struct cas_mutex mutex;
        struct cas_map *entries; /* "repo:tag" -> struct entry *, owned */
};

struct reg_tagclock {
        struct cas_store *store;
        struct shard shards[SHARDS];
};

static uint64_t hash_of(const char *name)
{
        uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a: a choice of shards, no more */
        for (const char *c = name; *c; c++)
                h = (h ^ (unsigned char)*c) * UINT64_C(1099511628211);
        return h ^ h >> 32;
}

/* Whether this thread has noted a pull of that tag and manifest within this minute. What it does
 * not remember is noted again. */
static bool pulled_lately(const struct reg_event *event, uint64_t hash, uint64_t now_s)
{
        static _Thread_local struct {
                uint64_t hash, minute;
        } seen[SEEN_SLOTS];
        hash ^= cas_get_le64(event->digest.bytes);
        size_t slot = hash % SEEN_SLOTS;
        if (seen[slot].hash == hash && seen[slot].minute == now_s / 60)
                return true;
        seen[slot].hash = hash;
        seen[slot].minute = now_s / 60;
        return false;
}

static void remember(struct shard *s, const char *name, const struct reg_event *event, bool pull,
                     uint64_t now_s)
{
        cas_mutex_lock(&s->mutex);
        uint64_t *slot = cas_map_get_str(s->entries, name);
        if (!slot && cas_map_count(s->entries) < SHARD_TAGS_MAX) {
                struct entry *e = cas_xcalloc(1, sizeof(*e));
                (void)snprintf(e->repo, sizeof(e->repo), "%s", event->repo);
                (void)snprintf(e->tag, sizeof(e->tag), "%s", event->tag);
                slot = cas_map_put(s->entries, name, strlen(name), NULL);
                *slot = (uint64_t)(uintptr_t)e;
        }
        if (slot) {
                struct entry *e = (struct entry *)(uintptr_t)*slot;
                if (!cas_digest_equal(&e->manifest, &event->digest))
                        e->times = (struct cas_tag_times){0};
                e->manifest = event->digest;
                *(pull ? &e->times.pulled_unix_s : &e->times.pushed_unix_s) = now_s;
        }
        cas_mutex_unlock(&s->mutex);
}

static void event_seen(void *arg, const struct reg_event *event)
{
        struct reg_tagclock *c = arg;
        char name[NAME_BYTES];
        bool pull = event->kind == REG_EVENT_PULL_MANIFEST;
        if ((!pull && event->kind != REG_EVENT_PUSH_MANIFEST) || !event->tag[0])
                return;
        uint64_t now_s = (uint64_t)time(NULL);
        (void)snprintf(name, sizeof(name), "%s:%s", event->repo, event->tag);
        uint64_t hash = hash_of(name);
        if (!pull || !pulled_lately(event, hash, now_s))
                remember(&c->shards[hash / SEEN_SLOTS % SHARDS], name, event, pull, now_s);
}

/* ---- writing ---- */

struct taken {
        size_t count;
        struct entry *entries; /* owned; copies */
};

static void take_entry(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       uint64_t value)
{
        struct taken *t = arg;
        t->entries[t->count++] = *(const struct entry *)(uintptr_t)value;
}

/* What is written now, and has not changed meanwhile. */
static void drop_written(struct shard *s, const struct taken *taken)
{
        char name[NAME_BYTES];
        cas_mutex_lock(&s->mutex);
        for (size_t i = 0; i < taken->count; i++) {
                const struct entry *was = &taken->entries[i];
                (void)snprintf(name, sizeof(name), "%s:%s", was->repo, was->tag);
                const uint64_t *slot = cas_map_get_str(s->entries, name);
                struct entry *e = slot ? (struct entry *)(uintptr_t)*slot : NULL;
                if (!e || !cas_digest_equal(&e->manifest, &was->manifest) ||
                    e->times.pushed_unix_s != was->times.pushed_unix_s ||
                    e->times.pulled_unix_s != was->times.pulled_unix_s)
                        continue;
                (void)cas_map_remove(s->entries, name, strlen(name));
                free(e);
        }
        cas_mutex_unlock(&s->mutex);
}

/* Entries stay where they are found until they are written. */
static int write_shard(struct reg_tagclock *c, struct shard *s, struct cas_err *err)
{
        struct taken taken = {0};
        cas_mutex_lock(&s->mutex);
        taken.entries = cas_xcalloc(cas_map_count(s->entries) + 1, sizeof(*taken.entries));
        cas_map_each(s->entries, take_entry, &taken);
        cas_mutex_unlock(&s->mutex);
        struct cas_tag_note *notes = cas_xcalloc(taken.count + 1, sizeof(*notes));
        for (size_t i = 0; i < taken.count; i++)
                notes[i] = (struct cas_tag_note){.repo = taken.entries[i].repo,
                                                 .tag = taken.entries[i].tag,
                                                 .manifest = taken.entries[i].manifest,
                                                 .times = taken.entries[i].times};
        int rc = cas_tag_times_note(c->store, notes, taken.count, err);
        if (rc == 0 || rc == -CAS_E_INVALID) /* the latter would never be */
                drop_written(s, &taken);
        free(taken.entries);
        free(notes);
        return rc;
}

int reg_tagclock_write(struct reg_tagclock *c, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; i < SHARDS; i++) {
                struct cas_err shard_err = CAS_ERR_INIT;
                if (write_shard(c, &c->shards[i], &shard_err) < 0 && rc == 0) {
                        *err = shard_err;
                        rc = -(int)err->code;
                }
        }
        return rc;
}

int reg_tagclock_get(struct reg_tagclock *c, const char *repo, const char *tag,
                     const struct cas_digest *manifest, struct cas_tag_times *out,
                     struct cas_err *err)
{
        char name[NAME_BYTES];
        struct cas_tag_times now = {0}, written = {0};
        struct cas_err miss = CAS_ERR_INIT;
        (void)snprintf(name, sizeof(name), "%s:%s", repo, tag);
        struct shard *s = &c->shards[hash_of(name) / SEEN_SLOTS % SHARDS];
        cas_mutex_lock(&s->mutex);
        const uint64_t *slot = cas_map_get_str(s->entries, name);
        const struct entry *e = slot ? (const struct entry *)(uintptr_t)*slot : NULL;
        if (e && cas_digest_equal(&e->manifest, manifest))
                now = e->times;
        cas_mutex_unlock(&s->mutex);
        int rc = cas_tag_times_get(c->store, repo, tag, manifest, &written, &miss);
        if (rc < 0 && (rc != -CAS_E_NOTFOUND || (!now.pushed_unix_s && !now.pulled_unix_s))) {
                *err = miss;
                return rc;
        }
        out->pulled_unix_s = cas_max_u64(now.pulled_unix_s, written.pulled_unix_s);
        out->pushed_unix_s = cas_max_u64(now.pushed_unix_s, written.pushed_unix_s);
        if (out->pushed_unix_s == 0)
                out->pushed_unix_s = out->pulled_unix_s;
        return 0;
}

struct reg_tagclock *reg_tagclock_new(struct cas_store *store, struct reg_events *events)
{
        struct reg_tagclock *c = aligned_alloc(_Alignof(struct reg_tagclock), sizeof(*c));
        cas_assert(c != NULL);
        memset(c, 0, sizeof(*c));
        c->store = store;
        for (size_t i = 0; i < SHARDS; i++) {
                cas_mutex_init(&c->shards[i].mutex, "tag clock");
                c->shards[i].entries = cas_map_new();
        }
        reg_events_listen(events, event_seen, c);
        return c;
}

static void free_entry(void *arg CAS_UNUSED, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       uint64_t value)
{
        free((void *)(uintptr_t)value);
}

void reg_tagclock_free(struct reg_tagclock *c)
{
        struct cas_err err = CAS_ERR_INIT;
        if (!c)
                return;
        if (reg_tagclock_write(c, &err) < 0)
                cas_log(CAS_LOG_WARN, "tag-times", "error=\"%s\"", err.msg);
        for (size_t i = 0; i < SHARDS; i++) {
                cas_map_each(c->shards[i].entries, free_entry, NULL);
                cas_map_free(c->shards[i].entries);
                cas_mutex_release(&c->shards[i].mutex);
        }
        free(c);
}
