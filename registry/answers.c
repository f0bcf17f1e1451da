/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/answers.h"

#include <stdatomic.h>
#include <time.h>

#include <xxhash.h>

#include "cas/mutex.h"

#define SHARDS 16
#define BUCKETS 512      /* of a shard */
#define ENTRY_BYTES 1024 /* what an answer costs beside its body: headers, texts, the library's */

/* Counted: one for the table, one for each who has it. Immutable but for its place in the table. */
struct entry {
        struct reg_kept kept; /* first */
        _Atomic unsigned refs;
        _Atomic bool used; /* since the hand passed */
        uint64_t generation;
        uint64_t made_ns;
        uint64_t hash;
        size_t cost_bytes;
        struct entry *next;          /* of the bucket */
        struct entry *newer, *older; /* ring in the order of making; the hand goes by it */
        char target[];
};

struct shard {
        struct cas_mutex mutex; /* guards all below, and the entries' places */
        struct entry *buckets[BUCKETS];
        struct entry *hand; /* NULL: empty */
        size_t bytes;
};

struct reg_answers {
        struct cas_store *store;
        size_t shard_bytes_max;
        struct shard shards[SHARDS];
};

static uint64_t now_ns(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void entry_unref(struct entry *e)
{
        if (atomic_fetch_sub(&e->refs, 1) != 1)
                return;
        reg_http_answer_unref(e->kept.whole);
        reg_http_answer_unref(e->kept.same);
        free(e->kept.repo);
        free(e->kept.etag);
        free((char *)(uintptr_t)e->kept.pull.tag);
        free((char *)(uintptr_t)e->kept.pull.media_type);
        free(e);
}

struct reg_answers *reg_answers_new(struct cas_store *s, size_t bytes_max)
{
        struct reg_answers *a = cas_xcalloc(1, sizeof(*a));
        a->store = s;
        a->shard_bytes_max = bytes_max / SHARDS;
        for (size_t i = 0; i < SHARDS; i++)
                cas_mutex_init(&a->shards[i].mutex, "kept answers");
        return a;
}

/* The table */

static struct entry **find_locked(struct shard *s, uint64_t hash, const char *target)
{
        cas_assert_held(&s->mutex);
        struct entry **at = &s->buckets[hash / SHARDS % BUCKETS];
        while (*at && ((*at)->hash != hash || strcmp((*at)->target, target) != 0))
                at = &(*at)->next;
        return at;
}

/* Takes an entry out of the table. */
static void drop_locked(struct shard *s, struct entry **at)
{
        cas_assert_held(&s->mutex);
        struct entry *e = *at;
        *at = e->next;
        s->bytes -= e->cost_bytes;
        e->newer->older = e->older;
        e->older->newer = e->newer;
        if (s->hand == e)
                s->hand = e->newer == e ? NULL : e->newer;
        entry_unref(e);
}

static void add_locked(struct shard *s, struct entry *e)
{
        cas_assert_held(&s->mutex);
        struct entry **at = &s->buckets[e->hash / SHARDS % BUCKETS];
        e->next = *at;
        *at = e;
        s->bytes += e->cost_bytes;
        if (!s->hand) {
                e->newer = e->older = e;
                s->hand = e;
                return;
        }
        /* behind the hand: the last that it comes to */
        e->newer = s->hand;
        e->older = s->hand->older;
        e->older->newer = e;
        e->newer->older = e;
}

/* Makes room: what was used since the hand passed is passed once more. */
static void shrink_locked(struct shard *s, size_t bytes_max)
{
        cas_assert_held(&s->mutex);
        while (s->hand && s->bytes > bytes_max) {
                struct entry *e = s->hand;
                s->hand = e->newer;
                if (!atomic_exchange(&e->used, false) || bytes_max == 0)
                        drop_locked(s, find_locked(s, e->hash, e->target));
        }
}

void reg_answers_clear(struct reg_answers *a)
{
        for (size_t i = 0; i < SHARDS; i++) {
                cas_mutex_lock(&a->shards[i].mutex);
                shrink_locked(&a->shards[i], 0);
                cas_mutex_unlock(&a->shards[i].mutex);
        }
}

void reg_answers_free(struct reg_answers *a)
{
        if (!a)
                return;
        reg_answers_clear(a);
        for (size_t i = 0; i < SHARDS; i++)
                cas_mutex_release(&a->shards[i].mutex);
        free(a);
}

static bool is_true(const struct reg_answers *a, const struct entry *e)
{
        return e->generation == cas_names_generation(a->store, e->kept.repo) &&
               now_ns() - e->made_ns < REG_ANSWER_AGE_NS_MAX;
}

const struct reg_kept *reg_answers_get(struct reg_answers *a, const char *target)
{
        uint64_t hash = XXH3_64bits(target, strlen(target));
        struct shard *s = &a->shards[hash % SHARDS];
        cas_mutex_lock(&s->mutex);
        struct entry **at = find_locked(s, hash, target);
        struct entry *e = *at;
        if (e && is_true(a, e)) {
                atomic_fetch_add(&e->refs, 1);
                if (!atomic_load_explicit(&e->used, memory_order_relaxed))
                        atomic_store_explicit(&e->used, true, memory_order_relaxed);
        } else if (e) {
                drop_locked(s, at);
                e = NULL;
        }
        cas_mutex_unlock(&s->mutex);
        return e ? &e->kept : NULL;
}

void reg_answers_forget(struct reg_answers *a, const char *target)
{
        uint64_t hash = XXH3_64bits(target, strlen(target));
        struct shard *s = &a->shards[hash % SHARDS];
        cas_mutex_lock(&s->mutex);
        struct entry **at = find_locked(s, hash, target);
        if (*at)
                drop_locked(s, at);
        cas_mutex_unlock(&s->mutex);
}

void reg_answers_put_back(const struct reg_kept *kept)
{
        entry_unref((struct entry *)(uintptr_t)kept);
}

/* An entry of the same content that is still true has the other answer: both are kept. */
static void inherit(struct entry *e, const struct entry *before)
{
        if (before->generation != e->generation || strcmp(before->kept.etag, e->kept.etag) != 0)
                return;
        e->made_ns = before->made_ns;
        if (!e->kept.same && before->kept.same) {
                e->kept.same = reg_http_answer_ref(before->kept.same);
                e->cost_bytes += ENTRY_BYTES;
        }
        if (!e->kept.whole && before->kept.whole) {
                e->kept.whole = reg_http_answer_ref(before->kept.whole);
                e->cost_bytes += before->cost_bytes;
                e->kept.is_pull = before->kept.is_pull;
                e->kept.pull = before->kept.pull;
                e->kept.pull.tag = cas_xstrdup(before->kept.pull.tag);
                e->kept.pull.media_type = cas_xstrdup(before->kept.pull.media_type);
        }
}

void reg_answers_keep(struct reg_answers *a, const char *target, const char *repo,
                      uint64_t generation, const char *etag, struct reg_http_answer *answer,
                      bool is_304, size_t body_bytes, const struct reg_event *pull)
{
        static const struct reg_event none = {.tag = "", .media_type = ""};
        size_t len = strlen(target) + 1;
        struct entry *e = cas_xcalloc(1, sizeof(*e) + len);
        memcpy(e->target, target, len);
        atomic_init(&e->refs, 1);
        e->generation = generation;
        e->made_ns = now_ns();
        e->hash = XXH3_64bits(target, len - 1);
        e->cost_bytes = ENTRY_BYTES + len + body_bytes;
        e->kept.repo = cas_xstrdup(repo);
        e->kept.etag = cas_xstrdup(etag);
        struct shard *s = &a->shards[e->hash % SHARDS];
        if (is_304) {
                e->kept.same = reg_http_answer_ref(answer);
        } else {
                e->kept.whole = reg_http_answer_ref(answer);
                e->kept.is_pull = pull != NULL;
                e->kept.pull = pull ? *pull : none;
                e->kept.pull.tag = cas_xstrdup(pull && pull->tag ? pull->tag : "");
                e->kept.pull.media_type =
                        cas_xstrdup(pull && pull->media_type ? pull->media_type : "");
        }
        cas_mutex_lock(&s->mutex);
        struct entry **before = find_locked(s, e->hash, target);
        if (*before) {
                inherit(e, *before);
                drop_locked(s, before);
        }
        add_locked(s, e);
        shrink_locked(s, a->shard_bytes_max);
        cas_mutex_unlock(&s->mutex);
}
