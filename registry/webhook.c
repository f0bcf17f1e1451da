/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/webhook.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "cas/limits.h"
#include "cas/log.h"
#include "cas/mutex.h"
#include "registry/hookqueue.h"
#include "registry/webhook_send.h"

#define DIR_NAME "webhooks"
#define BATCH_EVENTS 32
#define BATCH_BYTES (256 * 1024)
#define PULLS_MAX 4096 /* that wait in memory for the thread to put them into the queue */
#define PAUSE_MS_MIN 500
#define PAUSE_MS_MAX (60 * 1000)
#define DROPS_TOLD_EVERY_S 60
#define ID_BYTES 37

struct pull {
        struct pull *next;
        size_t len;
        char text[];
};

struct hook {
        struct reg_webhooks *all;
        const struct reg_webhook_config *config;
        struct reg_hookqueue *queue;
        struct reg_webhook_sender sender;
        struct reg_webhook_http *http; /* owned; NULL when another sends */
        _Atomic(uint64_t) delivered, failed, dropped, dropped_told_s;
        pthread_t thread;
        bool started;

        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;
        bool stop, added;
        struct pull *pulls, **pulls_end; /* owned */
        _Atomic(size_t) pull_count;      /* may be read without the lock */
};

struct reg_webhooks {
        struct cas_store *store;
        char source[256]; /* the host's name */
        size_t count;
        struct hook hooks[REG_WEBHOOKS_MAX];
};

static uint64_t realtime_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_REALTIME, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void make_id(char out[ID_BYTES])
{
        uint8_t b[16];
        if (getentropy(b, sizeof(b)) != 0)
                memset(b, 0, sizeof(b));
        b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
        b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
        (void)snprintf(out, ID_BYTES,
                       "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                       b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
                       b[13], b[14], b[15]);
}

/* ---- what happens ---- */

static bool wants(const struct reg_webhook_config *c, const struct reg_event *event)
{
        bool blob = event->kind == REG_EVENT_PULL_BLOB || event->kind == REG_EVENT_PUSH_BLOB ||
                    event->kind == REG_EVENT_DELETE_BLOB;
        return (c->actions & reg_webhook_action_of(event->kind)) && (c->blobs || !blob) &&
               (c->repositories.count == 0 || reg_globs_match(&c->repositories, event->repo));
}

/* Said at most once a minute for each webhook. */
static void dropped(struct hook *hook, const char *why)
{
        uint64_t now = realtime_ns() / 1000000000, told = atomic_load(&hook->dropped_told_s);
        atomic_fetch_add(&hook->dropped, 1);
        if (now - told >= DROPS_TOLD_EVERY_S &&
            atomic_compare_exchange_strong(&hook->dropped_told_s, &told, now))
                cas_log(CAS_LOG_ERROR, "webhook", "name=%s event=dropped dropped=%llu error=\"%s\"",
                        hook->config->name, (unsigned long long)atomic_load(&hook->dropped), why);
}

static void wake(struct hook *hook)
{
        cas_mutex_lock(&hook->mutex);
        hook->added = true;
        (void)pthread_cond_signal(&hook->change);
        cas_mutex_unlock(&hook->mutex);
}

/* Pulls are told where nobody may wait for a disk: the webhook's thread puts them into the queue.
 */
static void add_pull(struct hook *hook, const struct cas_buf *text)
{
        struct pull *pull = cas_xmalloc(sizeof(*pull) + text->len_bytes);
        pull->next = NULL;
        pull->len = text->len_bytes;
        memcpy(pull->text, text->data, text->len_bytes);
        cas_mutex_lock(&hook->mutex);
        bool room = atomic_load(&hook->pull_count) < PULLS_MAX;
        if (room) {
                *hook->pulls_end = pull;
                hook->pulls_end = &pull->next;
                hook->pull_count++;
                hook->added = true;
                (void)pthread_cond_signal(&hook->change);
        }
        cas_mutex_unlock(&hook->mutex);
        if (!room) {
                free(pull);
                dropped(hook, "too many pulls at once");
        }
}

static void add_durably(struct hook *hook, const struct cas_buf *text)
{
        struct cas_err err = CAS_ERR_INIT;
        if (reg_hookqueue_add(hook->queue, text->data, text->len_bytes, true, &err) < 0)
                dropped(hook, err.msg);
        wake(hook);
}

static void event_seen(void *arg, const struct reg_event *event)
{
        struct reg_webhooks *w = arg;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        char id[ID_BYTES];
        bool pull = reg_webhook_action_of(event->kind) == REG_WEBHOOK_PULL;
        for (size_t i = 0; i < w->count; i++) {
                struct hook *hook = &w->hooks[i];
                if (!wants(hook->config, event))
                        continue;
                if (pull && atomic_load(&hook->pull_count) >= PULLS_MAX) {
                        dropped(hook, "too many pulls at once");
                        continue; /* before its text is made */
                }
                if (text.len_bytes == 0) {
                        make_id(id);
                        const struct reg_webhook_event_context context = {.store = w->store,
                                                                          .source = w->source,
                                                                          .id = id,
                                                                          .unix_ns = realtime_ns()};
                        reg_webhook_event_json(&context, event, &text);
                }
                if (pull)
                        add_pull(hook, &text);
                else
                        add_durably(hook, &text);
        }
}

/* ---- delivery ---- */

static void queue_pulls(struct hook *hook)
{
        cas_mutex_lock(&hook->mutex);
        struct pull *pulls = cas_steal(&hook->pulls);
        hook->pulls_end = &hook->pulls;
        hook->pull_count = 0;
        hook->added = false;
        cas_mutex_unlock(&hook->mutex);
        while (pulls) {
                struct cas_err err = CAS_ERR_INIT;
                struct pull *pull = pulls;
                pulls = pull->next;
                if (reg_hookqueue_add(hook->queue, pull->text, pull->len, false, &err) < 0)
                        dropped(hook, err.msg);
                free(pull);
        }
}

static void append_event(void *arg, const void *event, size_t len)
{
        struct cas_buf *body = arg;
        if (body->data[body->len_bytes - 1] != '[')
                cas_buf_append_byte(body, ',');
        cas_buf_append(body, event, len);
}

static int post(struct hook *hook, const struct cas_buf *body, struct cas_err *err)
{
        const char *headers[REG_WEBHOOK_HEADERS_MAX + 3] = {
                "Content-Type: application/vnd.docker.distribution.events.v1+json"};
        size_t count = 1;
        cas_cleanup_free char *signature = NULL;
        for (size_t i = 0; i < hook->config->header_count; i++)
                headers[count++] = hook->config->headers[i];
        if (hook->config->secret) {
                char text[REG_WEBHOOK_SIGNATURE_BYTES];
                reg_webhook_sign(hook->config->secret, body->data, body->len_bytes, text);
                signature = cas_xasprintf("X-Lamina-Signature-256: %s", text);
                headers[count++] = signature;
        }
        unsigned status = 0;
        int rc = hook->sender.send(hook->sender.arg, hook->config, headers, body->data,
                                   body->len_bytes, &status, err);
        if (rc == 0 && (status < 200 || status > 299))
                rc = cas_fail(err, CAS_E_IO, "status %u", status);
        return rc;
}

/* Sends what is next. *count 0: nothing waits. */
static int deliver(struct hook *hook, unsigned max, unsigned *count, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        uint64_t last = 0;
        cas_buf_append_str(&body, "{\"events\":[");
        int rc = reg_hookqueue_next(hook->queue, max, BATCH_BYTES, append_event, &body, &last,
                                    count, err);
        if (rc < 0 || *count == 0)
                return rc;
        cas_buf_append_str(&body, "]}");
        rc = post(hook, &body, err);
        if (rc < 0)
                return rc;
        atomic_fetch_add(&hook->delivered, *count);
        return reg_hookqueue_delivered(hook->queue, last, err);
}

/* Until something was added (pause_ms 0), or for so long. False: the end. */
static bool pause_hook(struct hook *hook, unsigned pause_ms)
{
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += pause_ms ? pause_ms / 1000 : 3600;
        until.tv_nsec += (long)(pause_ms % 1000) * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        cas_mutex_lock(&hook->mutex);
        while (!hook->stop && (pause_ms || !hook->added) &&
               cas_mutex_timedwait(&hook->mutex, &hook->change, &until))
                ;
        bool stop = hook->stop;
        cas_mutex_unlock(&hook->mutex);
        return !stop;
}

static void *hook_main(void *arg)
{
        struct hook *hook = arg;
        unsigned pause_ms = 0, failures = 0;
        bool going = true;
        while (going) {
                struct cas_err err = CAS_ERR_INIT;
                unsigned count = 0;
                queue_pulls(hook);
                /* After a failure one at a time: a large body may be what is not liked. */
                if (deliver(hook, failures ? 1 : BATCH_EVENTS, &count, &err) < 0) {
                        atomic_fetch_add(&hook->failed, 1);
                        pause_ms = pause_ms ? pause_ms * 2 : PAUSE_MS_MIN;
                        if (pause_ms > PAUSE_MS_MAX)
                                pause_ms = PAUSE_MS_MAX;
                        cas_log(failures++ ? CAS_LOG_DEBUG : CAS_LOG_WARN, "webhook",
                                "name=%s delivery=failed again_ms=%u error=\"%s\"",
                                hook->config->name, pause_ms, err.msg);
                        going = pause_hook(hook, pause_ms);
                        continue;
                }
                if (failures && count > 0)
                        cas_log(CAS_LOG_INFO, "webhook", "name=%s delivery=ok failures=%u",
                                hook->config->name, failures);
                if (count > 0)
                        failures = pause_ms = 0;
                going = count > 0 ? pause_hook(hook, 1) : pause_hook(hook, 0);
        }
        queue_pulls(hook);
        return NULL;
}

/* ---- start and stop ---- */

/* What the end does not hear of stays in the queue. */
static void hook_stop(struct hook *hook)
{
        cas_mutex_lock(&hook->mutex);
        hook->stop = true;
        (void)pthread_cond_signal(&hook->change);
        cas_mutex_unlock(&hook->mutex);
        reg_webhook_http_break(hook->http);
}

static void hook_end(struct hook *hook)
{
        if (hook->started)
                (void)pthread_join(hook->thread, NULL);
        reg_hookqueue_close(hook->queue);
        reg_webhook_http_free(hook->http);
        (void)pthread_cond_destroy(&hook->change);
        cas_mutex_release(&hook->mutex);
}

static int hook_start(struct hook *hook, const struct reg_webhook_sender *sender,
                      struct cas_err *err)
{
        cas_cleanup_free char *file = cas_xasprintf("%s.queue", hook->config->name);
        const struct reg_hookqueue_config queue = {
                .dirfd = cas_store_dirfd(hook->all->store),
                .dir = DIR_NAME,
                .name = file,
                .store_id = cas_store_id(hook->all->store),
                .max_bytes = hook->config->queue_bytes,
        };
        uint64_t cut = 0, events, bytes;
        int rc = 0;
        if (!hook->config->url)
                return cas_fail(err, CAS_E_INVALID, "[webhook %s]: url is missing",
                                hook->config->name);
        if (sender)
                hook->sender = *sender;
        else
                rc = reg_webhook_http_new(hook->config, &hook->http, &hook->sender, err);
        if (rc == 0)
                rc = reg_hookqueue_open(&queue, &hook->queue, &cut, err);
        if (rc < 0)
                return cas_err_wrap(err, "[webhook %s]", hook->config->name);
        reg_hookqueue_pending(hook->queue, &events, &bytes);
        if (cut > 0)
                cas_log(CAS_LOG_WARN, "webhook", "name=%s cut_bytes=%llu", hook->config->name,
                        (unsigned long long)cut);
        if (events > 0)
                cas_log(CAS_LOG_INFO, "webhook", "name=%s waiting=%llu", hook->config->name,
                        (unsigned long long)events);
        if (pthread_create(&hook->thread, NULL, hook_main, hook) != 0)
                return cas_fail(err, CAS_E_NOMEM, "no thread for webhook %s", hook->config->name);
        hook->started = true;
        return 0;
}

int reg_webhooks_start(struct cas_store *store, const struct reg_webhooks_config *config,
                       const struct reg_webhook_sender *sender, struct reg_events *events,
                       struct reg_webhooks **out, struct cas_err *err)
{
        *out = NULL;
        if (!config || config->count == 0)
                return 0;
        struct reg_webhooks *w = cas_xcalloc(1, sizeof(*w));
        w->store = store;
        if (gethostname(w->source, sizeof(w->source) - 1) != 0)
                w->source[0] = '\0';
        int rc = cas_io_mkdir(cas_io_posix(), cas_store_dirfd(store), DIR_NAME, 0700, err);
        for (size_t i = 0; rc == 0 && i < config->count; i++) {
                struct hook *hook = &w->hooks[w->count++];
                hook->all = w;
                hook->config = config->hooks[i];
                hook->pulls_end = &hook->pulls;
                cas_mutex_init(&hook->mutex, "webhook");
                cas_cond_init(&hook->change);
                rc = hook_start(hook, sender, err);
        }
        if (rc < 0) {
                reg_webhooks_stop(w);
                return rc;
        }
        reg_events_listen(events, event_seen, w);
        *out = w;
        return 0;
}

void reg_webhooks_stop(struct reg_webhooks *w)
{
        if (!w)
                return;
        for (size_t i = 0; i < w->count; i++)
                hook_stop(&w->hooks[i]);
        for (size_t i = 0; i < w->count; i++)
                hook_end(&w->hooks[i]);
        free(w);
}

size_t reg_webhooks_count(const struct reg_webhooks *w)
{
        return w ? w->count : 0;
}

void reg_webhooks_stats(struct reg_webhooks *w, size_t i, struct reg_webhook_stats *out)
{
        struct hook *hook = &w->hooks[i];
        cas_assert(i < w->count);
        *out = (struct reg_webhook_stats){.name = hook->config->name,
                                          .delivered = atomic_load(&hook->delivered),
                                          .failed = atomic_load(&hook->failed),
                                          .dropped = atomic_load(&hook->dropped)};
        reg_hookqueue_pending(hook->queue, &out->pending_events, &out->pending_bytes);
}
