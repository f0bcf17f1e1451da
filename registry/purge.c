/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/purge.h"

#include <time.h>

#include "cas/log.h"
#include "cas/mutex.h"

#define QUEUE_MAX 1024
#define ATTEMPTS_MAX 8
#define PAUSE_S_MAX 30
#define CONNECT_TIMEOUT_MS 2000
#define IDLE_TIMEOUT_MS 5000

/* What changed, in the words of the templates. */
struct words {
        const char *key, *repo, *tag, *digest, *path;
};

struct item {
        struct item *next;
        uint64_t number;    /* in the order of the queue */
        struct words words; /* in text */
        char text[];
};

struct target {
        struct reg_purger *purger;
        const struct reg_purge_target *config;
        pthread_t thread;
        pthread_cond_t work; /* there is something to do, or the end has come */
        pthread_cond_t done; /* done_number or failing */
        /* guarded by the purger's mutex */
        struct item *first, **last;
        size_t count;
        uint64_t next_number, done_number; /* those up to done_number were brought or are lost */
        bool failing;                      /* the last attempt was in vain */
};

struct reg_purger {
        reg_purge_send_fn send;
        void *send_arg;
        struct reg_httpc *http; /* NULL: send is the caller's */
        struct cas_mutex mutex;
        bool ended;
        size_t count;
        struct target targets[REG_PURGE_TARGETS_MAX];
};

/* Templates */

static void expand(const char *text, const struct words *given, struct cas_buf *out)
{
        const struct {
                const char *word, *value;
        } words[] = {{"{key}", given->key},
                     {"{repo}", given->repo},
                     {"{tag}", given->tag},
                     {"{digest}", given->digest},
                     {"{path}", given->path}};
        while (*text) {
                size_t w = 0;
                while (w < CAS_COUNT(words) &&
                       strncmp(text, words[w].word, strlen(words[w].word)) != 0)
                        w++;
                if (w == CAS_COUNT(words)) {
                        cas_buf_append_byte(out, (uint8_t)*text++);
                        continue;
                }
                cas_buf_append_str(out, words[w].value);
                text += strlen(words[w].word);
        }
}

static int send_words(const struct target *t, const struct words *given, unsigned *out_status,
                      struct cas_err *err)
{
        const struct reg_purge_target *c = t->config;
        struct cas_buf url = CAS_BUF_INIT, body = CAS_BUF_INIT;
        struct cas_buf texts[REG_PURGE_HEADERS_MAX];
        const char *headers[REG_PURGE_HEADERS_MAX + 1] = {0};
        expand(c->url, given, &url);
        expand(c->body ? c->body : "", given, &body);
        for (size_t h = 0; h < c->header_count; h++) {
                cas_buf_init(&texts[h]);
                expand(c->headers[h], given, &texts[h]);
                headers[h] = cas_buf_str(&texts[h]);
        }
        struct reg_httpc_request request = {
                .method = c->method ? c->method : "PURGE",
                .url = cas_buf_str(&url),
                .headers = headers,
                .body = c->body ? cas_buf_str(&body) : NULL,
                .body_bytes = c->body ? body.len_bytes : 0,
                .no_redirects = true,
        };
        int rc = t->purger->send(t->purger->send_arg, &request, out_status, err);
        for (size_t h = 0; h < c->header_count; h++)
                cas_buf_release(&texts[h]);
        cas_buf_release(&url);
        cas_buf_release(&body);
        return rc;
}

static int send_http(void *arg, const struct reg_httpc_request *request, unsigned *out_status,
                     struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        int rc = reg_httpc_begin(arg, request, &t, err);
        if (rc == 0)
                *out_status = reg_httpc_status(t);
        return rc;
}

/* Bringing */

enum outcome {
        BROUGHT,
        AGAIN, /* the cache cannot be reached, or is not well */
        LOST,  /* it does not want it: no use in asking again */
};

/* Not found is what some caches say of what they do not have. */
static enum outcome outcome_of(unsigned status)
{
        if (status / 100 == 2 || status == 404)
                return BROUGHT;
        return status >= 500 || status == 429 ? AGAIN : LOST;
}

static void log_lost(const struct target *t, const struct words *given, const char *why)
{
        cas_log(CAS_LOG_ERROR, "purge", "cache=%s lost=\"%s\" error=\"%s\"", t->config->name,
                given->key, why);
}

static enum outcome bring(const struct target *t, const struct words *given, unsigned attempt)
{
        struct cas_err err = CAS_ERR_INIT;
        unsigned status = 0;
        int rc = send_words(t, given, &status, &err);
        enum outcome outcome = rc < 0 ? AGAIN : outcome_of(status);
        if (outcome == BROUGHT)
                return BROUGHT;
        if (rc == 0)
                (void)cas_fail(&err, CAS_E_IO, "status %u", status);
        if (outcome == AGAIN && attempt + 1 == ATTEMPTS_MAX)
                outcome = LOST;
        if (outcome == LOST)
                log_lost(t, given, err.msg);
        else if (attempt == 0)
                cas_log(CAS_LOG_WARN, "purge", "cache=%s again=\"%s\" error=\"%s\"",
                        t->config->name, given->key, err.msg);
        return outcome;
}

/* Before the next attempt; ends early when all ends. */
static void pause_locked(struct target *t, unsigned attempt)
{
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += 1L << attempt > PAUSE_S_MAX ? PAUSE_S_MAX : 1L << attempt;
        while (!t->purger->ended && cas_mutex_timedwait(&t->purger->mutex, &t->work, &until))
                ;
}

/* The first of the queue stays there while it is tried, so that nothing overtakes it. */
static void bring_first_locked(struct target *t)
{
        struct reg_purger *p = t->purger;
        struct item *i = t->first;
        t->first = i->next;
        if (!t->first)
                t->last = &t->first;
        enum outcome outcome = AGAIN;
        for (unsigned attempt = 0; outcome == AGAIN && !p->ended; attempt++) {
                cas_mutex_unlock(&p->mutex);
                outcome = bring(t, &i->words, attempt);
                cas_mutex_lock(&p->mutex);
                t->failing = outcome != BROUGHT;
                (void)pthread_cond_broadcast(&t->done);
                if (outcome == AGAIN)
                        pause_locked(t, attempt);
        }
        if (outcome == AGAIN)
                log_lost(t, &i->words, "the registry ends");
        t->count--;
        t->done_number = i->number;
        (void)pthread_cond_broadcast(&t->done);
        free(i);
}

static void *target_run(void *arg)
{
        struct target *t = arg;
        struct reg_purger *p = t->purger;
        cas_mutex_lock(&p->mutex);
        while (!p->ended) {
                if (t->first)
                        bring_first_locked(t);
                else
                        cas_mutex_wait(&p->mutex, &t->work);
        }
        for (struct item *next; t->first; t->first = next) {
                next = t->first->next;
                log_lost(t, &t->first->words, "the registry ends");
                free(t->first);
        }
        cas_mutex_unlock(&p->mutex);
        return NULL;
}

/* Queueing */

/* *at is moved behind the copy. */
static const char *copy_word(const char *word, char **at)
{
        size_t len = strlen(word) + 1;
        char *copy = *at;
        memcpy(copy, word, len);
        *at += len;
        return copy;
}

static struct item *item_new(const struct words *w)
{
        size_t len = strlen(w->key) + strlen(w->repo) + strlen(w->tag) + strlen(w->digest) +
                     strlen(w->path) + 5;
        struct item *i = cas_xcalloc(1, sizeof(*i) + len);
        char *at = i->text;
        i->words = (struct words){
                .key = copy_word(w->key, &at),
                .repo = copy_word(w->repo, &at),
                .tag = copy_word(w->tag, &at),
                .digest = copy_word(w->digest, &at),
                .path = copy_word(w->path, &at),
        };
        return i;
}

/* Returns the number of what will have done it. One that waits for the same is enough. */
static uint64_t enqueue_locked(struct target *t, const struct words *w)
{
        for (const struct item *q = t->first; q; q = q->next) {
                if (strcmp(q->words.path, w->path) == 0)
                        return q->number;
        }
        if (t->count == QUEUE_MAX) {
                log_lost(t, w, "too many are waiting");
                return 0;
        }
        struct item *i = item_new(w);
        i->number = ++t->next_number;
        *t->last = i;
        t->last = &i->next;
        t->count++;
        (void)pthread_cond_signal(&t->work);
        return i->number;
}

static void wait_locked(struct target *t, uint64_t number, const struct timespec *start)
{
        struct timespec until = *start;
        until.tv_sec += (time_t)(t->config->wait_ms / 1000);
        until.tv_nsec += (long)(t->config->wait_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000;
        }
        while (t->done_number < number && !t->failing && !t->purger->ended &&
               cas_mutex_timedwait(&t->purger->mutex, &t->done, &until))
                ;
}

/* To all caches at once, then waits. */
static void purge(struct reg_purger *p, const struct words *changes, size_t count)
{
        struct timespec start;
        uint64_t numbers[REG_PURGE_TARGETS_MAX] = {0};
        (void)clock_gettime(CLOCK_MONOTONIC, &start);
        cas_mutex_lock(&p->mutex);
        for (size_t t = 0; t < p->count; t++) {
                for (size_t i = 0; i < count; i++) {
                        uint64_t number = enqueue_locked(&p->targets[t], &changes[i]);
                        numbers[t] = number > numbers[t] ? number : numbers[t];
                }
        }
        for (size_t t = 0; t < p->count; t++)
                wait_locked(&p->targets[t], numbers[t], &start);
        cas_mutex_unlock(&p->mutex);
}

/* What an event makes stale */

struct change {
        const struct reg_event *event;
        char digest[CAS_DIGEST_TEXT_BYTES], hex[CAS_DIGEST_TEXT_BYTES];
        size_t count;
        struct words words[2];
        char *owned[4]; /* keys and paths */
};

/* Takes key and path. */
static void change_add(struct change *c, char *key, char *path)
{
        cas_assert(c->count < CAS_COUNT(c->words));
        c->owned[2 * c->count] = key;
        c->owned[2 * c->count + 1] = path;
        c->words[c->count++] = (struct words){.key = key,
                                              .repo = c->event->repo,
                                              .tag = c->event->tag,
                                              .digest = c->digest,
                                              .path = path};
}

static void change_tag(struct change *c)
{
        const struct reg_event *e = c->event;
        change_add(c, cas_xasprintf("tag:%s:%s", e->repo, e->tag),
                   cas_xasprintf("/v2/%s/manifests/%s", e->repo, e->tag));
}

static void change_digest(struct change *c, const char *noun)
{
        change_add(c, cas_xasprintf("dg:%s", c->hex),
                   cas_xasprintf("/v2/%s/%s/%s", c->event->repo, noun, c->digest));
}

static void change_lists(struct change *c)
{
        change_add(c, cas_xasprintf("list:%s", c->event->repo),
                   cas_xasprintf("/v2/%s/tags/list", c->event->repo));
}

/* A tag that is new was not kept: 404 is not. A manifest that goes takes its tags along, whose
 * answers have the key of its digest. */
static void change_of(struct change *c)
{
        const struct reg_event *e = c->event;
        bool moved = e->before.alg != CAS_DIGEST_NONE;
        switch (e->kind) {
        case REG_EVENT_PUSH_MANIFEST:
                if (!moved)
                        change_lists(c);
                else if (!cas_digest_equal(&e->before, &e->digest))
                        change_tag(c);
                return;
        case REG_EVENT_DELETE_TAG:
                change_tag(c);
                change_lists(c);
                return;
        case REG_EVENT_DELETE_MANIFEST:
                change_digest(c, "manifests");
                change_lists(c);
                return;
        case REG_EVENT_DELETE_BLOB:
                change_digest(c, "blobs");
                return;
        case REG_EVENT_PULL_MANIFEST:
        case REG_EVENT_PULL_BLOB:
        case REG_EVENT_PUSH_BLOB:
        case REG_EVENT_MOUNT_BLOB:
                return;
        }
}

void reg_purger_event(void *purger, const struct reg_event *event)
{
        struct change c = {.event = event};
        if (event->digest.alg != CAS_DIGEST_NONE) {
                cas_digest_text(&event->digest, c.digest);
                cas_digest_hex(&event->digest, c.hex);
        }
        change_of(&c);
        if (c.count > 0)
                purge(purger, c.words, c.count);
        for (size_t i = 0; i < CAS_COUNT(c.owned); i++)
                free(c.owned[i]);
}

/* Beginning and end */

static void target_start(struct reg_purger *p, const struct reg_purge_target *config)
{
        struct target *t = &p->targets[p->count++];
        t->purger = p;
        t->config = config;
        t->last = &t->first;
        cas_cond_init(&t->work);
        cas_cond_init(&t->done);
        int rc = pthread_create(&t->thread, NULL, target_run, t);
        cas_assert(rc == 0);
}

int reg_purger_new(const struct reg_purge_config *config, reg_purge_send_fn send, void *send_arg,
                   struct reg_purger **out, struct cas_err *err)
{
        struct reg_httpc *http = NULL;
        for (size_t i = 0; i < config->count; i++) {
                if (!config->targets[i].url)
                        return cas_fail(err, CAS_E_INVALID, "[purge %s]: url is missing",
                                        config->targets[i].name);
        }
        if (!send) {
                struct reg_httpc_config http_config = {.connect_timeout_ms = CONNECT_TIMEOUT_MS,
                                                       .idle_timeout_ms = IDLE_TIMEOUT_MS};
                int rc = reg_httpc_new(&http_config, &http, err);
                if (rc < 0)
                        return rc;
                send = send_http;
                send_arg = http;
        }
        struct reg_purger *p = cas_xcalloc(1, sizeof(*p));
        p->send = send;
        p->send_arg = send_arg;
        p->http = http;
        cas_mutex_init(&p->mutex, "purger");
        for (size_t i = 0; i < config->count; i++)
                target_start(p, &config->targets[i]);
        *out = p;
        return 0;
}

void reg_purger_free(struct reg_purger *p)
{
        if (!p)
                return;
        cas_mutex_lock(&p->mutex);
        p->ended = true;
        for (size_t i = 0; i < p->count; i++) {
                (void)pthread_cond_broadcast(&p->targets[i].work);
                (void)pthread_cond_broadcast(&p->targets[i].done);
        }
        cas_mutex_unlock(&p->mutex);
        if (p->http) /* whoever waited for what is still on its way has given up */
                reg_httpc_break(p->http);
        for (size_t i = 0; i < p->count; i++) {
                (void)pthread_join(p->targets[i].thread, NULL);
                (void)pthread_cond_destroy(&p->targets[i].work);
                (void)pthread_cond_destroy(&p->targets[i].done);
        }
        if (p->http)
                reg_httpc_free(p->http);
        cas_mutex_release(&p->mutex);
        free(p);
}
