/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/condenser.h"

#include "cas/log.h"
#include "cas/background.h"

struct cas_condenser {
        struct cas_store *store;
        struct cas_condenser_config config;
        pthread_t thread;
        _Atomic bool stop_packs; /* for cas_condense_packs */
        struct cas_background background;
};

/* After work that took `ms`. False: it is time to end. */
static bool rest(struct cas_condenser *c, uint64_t ms)
{
        return cas_background_rest(&c->background, ms, c->config.share_percent);
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
                uint64_t start = cas_clock_ms();
                cas_digest_text(&b->blobs[i], text);
                if (cas_condense_blob(c->store, &b->blobs[i], &options, NULL, &rec, &err) < 0)
                        cas_log(CAS_LOG_WARN, "condense", "layer=%s error=\"%s\"", text, err.msg);
                else
                        cas_log(CAS_LOG_INFO, "condense", "layer=%s made-by=\"%s\" verbatim=\"%s\"",
                                text, rec.text, rec.reason);
                if (!rest(c, cas_clock_ms() - start))
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
                        return !cas_background_stopping(&c->background);
                }
                last = b.last;
                after = &last;
                if (!condense_some(c, &b))
                        return false;
        } while (b.more);
        return !cas_background_stopping(&c->background);
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
        cas_thread_is_background();
        while (cas_background_pause_ms(&c->background, (uint64_t)c->config.idle_s * 1000) &&
               condense_layers(c))
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
        cas_background_init(&c->background);
        int rc = pthread_create(&c->thread, NULL, condenser_main, c);
        cas_assert(rc == 0);
        return c;
}

void cas_condenser_stop(struct cas_condenser *c)
{
        if (!c)
                return;
        atomic_store(&c->stop_packs, true);
        cas_background_stop(&c->background);
        (void)pthread_join(c->thread, NULL);
        cas_background_release(&c->background);
        free(c);
}
