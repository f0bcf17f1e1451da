/* SPDX-License-Identifier: Apache-2.0 */
/* The background thread of a registry. A pushed layer is acknowledged once its
 * bytes are durable; decoding it now rather than at the first mount makes that
 * mount fast. Nothing depends on it: what is dropped or fails is tried again by
 * the first use, which reports the error to somebody who asked. */
#include "cas/log.h"
#include "cas/mutex.h"
#include "cas/shared.h"
#include "registry/registry_int.h"

#define DECODE_QUEUE_MAX 1024
#define EXPIRE_EVERY_S 600
#define UPLOAD_AGE_S (24 * 3600)

struct reg_decoder {
        struct cas_store *store; /* borrowed */
        pthread_t thread;
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;
        bool stopping;
        unsigned head;
        unsigned count;
        struct cas_digest queue[DECODE_QUEUE_MAX]; /* ring */
};

static void expire_uploads(struct reg_decoder *d)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t count = 0;
        if (cas_upload_expire(d->store, UPLOAD_AGE_S, &count, &err) < 0)
                cas_log(CAS_LOG_WARN, "upload-expire", "error=\"%s\"", err.msg);
        else if (count > 0)
                cas_log(CAS_LOG_INFO, "upload-expire", "count=%llu", (unsigned long long)count);
}

static void decode(struct reg_decoder *d, const struct cas_digest *digest)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record record;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = cas_layer_ensure(d->store, digest, NULL, &record, &err);
        /* of what nodes share, it need not be on this one */
        bool elsewhere = rc == -CAS_E_NOTFOUND && cas_store_shared(d->store);
        if (rc < 0 && !elsewhere)
                cas_log(CAS_LOG_WARN, "layer-decode", "layer=%s error=\"%s\"",
                        cas_digest_text(digest, text), err.msg);
}

/* Waits for a layer; false when the time until `deadline` passed without one, or at the end. */
static bool next_locked(struct reg_decoder *d, const struct timespec *deadline,
                        struct cas_digest *out)
{
        cas_assert_held(&d->mutex);
        while (d->count == 0 && !d->stopping) {
                if (!cas_mutex_timedwait(&d->mutex, &d->change, deadline))
                        return false;
        }
        if (d->stopping)
                return false;
        *out = d->queue[d->head];
        d->head = (d->head + 1) % DECODE_QUEUE_MAX;
        d->count--;
        return true;
}

static void *decoder_main(void *arg)
{
        struct reg_decoder *d = arg;
        struct timespec deadline = {0}; /* of the next expiry: now */
        for (;;) {
                struct timespec now;
                struct cas_digest digest;
                (void)clock_gettime(CLOCK_MONOTONIC, &now);
                if (now.tv_sec >= deadline.tv_sec) {
                        expire_uploads(d);
                        deadline = now;
                        deadline.tv_sec += EXPIRE_EVERY_S;
                }
                cas_mutex_lock(&d->mutex);
                bool got = next_locked(d, &deadline, &digest);
                bool stopping = d->stopping;
                cas_mutex_unlock(&d->mutex);
                if (stopping)
                        return NULL;
                if (got)
                        decode(d, &digest);
        }
}

struct reg_decoder *reg_decoder_start(struct cas_store *store)
{
        struct reg_decoder *d = cas_xcalloc(1, sizeof(*d));
        d->store = store;
        cas_mutex_init(&d->mutex, "layer decoder");
        cas_cond_init(&d->change);
        int rc = pthread_create(&d->thread, NULL, decoder_main, d);
        cas_assert(rc == 0);
        return d;
}

void reg_decoder_add(struct reg_decoder *d, const struct cas_manifest *manifest)
{
        if (manifest->kind != CAS_MANIFEST_IMAGE)
                return;
        cas_mutex_lock(&d->mutex);
        for (size_t i = 0; i < manifest->child_count && d->count < DECODE_QUEUE_MAX; i++) {
                const struct cas_descriptor *layer = &manifest->children[i];
                if (!cas_media_type_is_layer(layer->media_type) || layer->foreign)
                        continue;
                d->queue[(d->head + d->count) % DECODE_QUEUE_MAX] = layer->digest;
                d->count++;
        }
        (void)pthread_cond_signal(&d->change);
        cas_mutex_unlock(&d->mutex);
}

void reg_decoder_stop(struct reg_decoder *d)
{
        if (!d)
                return;
        cas_mutex_lock(&d->mutex);
        d->stopping = true;
        (void)pthread_cond_signal(&d->change);
        cas_mutex_unlock(&d->mutex);
        (void)pthread_join(d->thread, NULL);
        (void)pthread_cond_destroy(&d->change);
        cas_mutex_release(&d->mutex);
        free(d);
}
