/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/condenser.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cas/log.h"
#include "cas/mutex.h"

#define NICENESS 10

struct cas_condenser {
        struct cas_store *store;
        struct cas_condenser_config config;
        pthread_t thread;
        _Atomic bool stop_packs; /* for cas_condense_packs */
        struct cas_mutex mutex;  /* guards all below */
        pthread_cond_t change;
        bool stopping;
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* False: it is time to end. */
static bool pause_ms(struct cas_condenser *c, uint64_t ms)
{
        struct timespec deadline;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += (time_t)(ms / 1000);
        deadline.tv_nsec += (long)(ms % 1000) * 1000000;
        if (deadline.tv_nsec >= 1000000000) {
                deadline.tv_sec++;
                deadline.tv_nsec -= 1000000000;
        }
        cas_mutex_lock(&c->mutex);
        while (!c->stopping && cas_mutex_timedwait(&c->mutex, &c->change, &deadline))
                ;
        bool go_on = !c->stopping;
        cas_mutex_unlock(&c->mutex);
        return go_on;
}

/* After work that took `ms`: the rest of its time's share. */
static bool pace(struct cas_condenser *c, uint64_t ms)
{
        return pause_ms(c, ms * (100 - c->config.share_percent) / c->config.share_percent);
}

/* Layers whose recipe is to be looked for, a few at a time: the index is not held open long. */
struct batch {
        struct cas_store *store;
        struct cas_digest blobs[64];
        size_t count;
        struct cas_digest last; /* that was seen */
        bool more;
};

static bool take_layer(void *arg, const struct cas_layer_record *layer)
{
        struct batch *b = arg;
        struct cas_recipe_record rec;
        struct cas_err err = CAS_ERR_INIT;
        b->last = layer->blob;
        if (cas_recipe_stat(b->store, &layer->blob, &rec, &err) == -CAS_E_NOTFOUND ||
            cas_recipe_is_due(&rec))
                b->blobs[b->count++] = layer->blob;
        b->more = b->count == CAS_COUNT(b->blobs);
        return !b->more;
}

static bool condense_some(struct cas_condenser *c, const struct batch *b)
{
        const struct cas_condense_options options = {.threads = 1};
        for (size_t i = 0; i < b->count; i++) {
                struct cas_recipe_record rec;
                struct cas_err err = CAS_ERR_INIT;
                char text[CAS_DIGEST_TEXT_BYTES];
                uint64_t start = now_ms();
                cas_digest_text(&b->blobs[i], text);
                if (cas_condense_blob(c->store, &b->blobs[i], &options, NULL, &rec, &err) < 0)
                        cas_log(CAS_LOG_WARN, "condense", "layer=%s error=\"%s\"", text, err.msg);
                else
                        cas_log(CAS_LOG_INFO, "condense", "layer=%s made-by=\"%s\" verbatim=\"%s\"",
                                text, rec.text, rec.reason);
                if (!pace(c, now_ms() - start))
                        return false;
        }
        return true;
}

/* Every layer once. False: it is time to end. */
static bool condense_layers(struct cas_condenser *c)
{
        struct batch b = {.store = c->store};
        const struct cas_digest *after = NULL;
        struct cas_digest last;
        do {
                struct cas_err err = CAS_ERR_INIT;
                b.count = 0;
                b.more = false;
                if (cas_layer_each(c->store, after, take_layer, &b, &err) < 0) {
                        cas_log(CAS_LOG_WARN, "condense", "error=\"%s\"", err.msg);
                        return pause_ms(c, 0);
                }
                last = b.last;
                after = &last;
                if (!condense_some(c, &b))
                        return false;
        } while (b.more);
        return pause_ms(c, 0);
}

static void recode_packs(struct cas_condenser *c)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result result = {0};
        if (cas_condense_packs(c->store, c->config.codec, &c->stop_packs, NULL, &result, &err) < 0)
                cas_log(CAS_LOG_WARN, "condense", "error=\"%s\"", err.msg);
        else if (result.packs > 0)
                cas_log(CAS_LOG_INFO, "condense", "packs=%llu bytes-before=%llu bytes-after=%llu",
                        (unsigned long long)result.packs, (unsigned long long)result.bytes_before,
                        (unsigned long long)result.bytes_after);
}

static void *condenser_main(void *arg)
{
        struct cas_condenser *c = arg;
        /* Of this thread alone, on Linux. */
        (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICENESS);
        while (pause_ms(c, (uint64_t)c->config.idle_s * 1000) && condense_layers(c))
                recode_packs(c);
        return NULL;
}

struct cas_condenser *cas_condenser_start(struct cas_store *s,
                                          const struct cas_condenser_config *config)
{
        cas_assert(config->share_percent >= 1 && config->share_percent <= 100);
        struct cas_condenser *c = cas_xcalloc(1, sizeof(*c));
        c->store = s;
        c->config = *config;
        cas_mutex_init(&c->mutex, "condenser");
        cas_cond_init(&c->change);
        int rc = pthread_create(&c->thread, NULL, condenser_main, c);
        cas_assert(rc == 0);
        return c;
}

void cas_condenser_stop(struct cas_condenser *c)
{
        if (!c)
                return;
        atomic_store(&c->stop_packs, true);
        cas_mutex_lock(&c->mutex);
        c->stopping = true;
        (void)pthread_cond_signal(&c->change);
        cas_mutex_unlock(&c->mutex);
        (void)pthread_join(c->thread, NULL);
        (void)pthread_cond_destroy(&c->change);
        cas_mutex_release(&c->mutex);
        free(c);
}
