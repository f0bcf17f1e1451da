/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/hashpipe.h"

#include "cas/mutex.h"

#define BUFFER_COUNT 4

struct cas_hashpipe {
        pthread_t thread;
        struct cas_hasher *hasher; /* the thread's, until it has nothing left to do */
        uint8_t *buffers[BUFFER_COUNT];

        struct cas_mutex mutex; /* guards what follows */
        pthread_cond_t change;
        size_t lengths[BUFFER_COUNT];
        uint64_t put_count;  /* buffers given to the thread */
        uint64_t done_count; /* hashed; ring positions follow from the counts */
        bool ended;
};

static void *hash_thread(void *arg)
{
        struct cas_hashpipe *p = arg;
        cas_mutex_lock(&p->mutex);
        for (;;) {
                while (p->done_count == p->put_count && !p->ended)
                        cas_mutex_wait(&p->mutex, &p->change);
                if (p->done_count == p->put_count)
                        break;
                size_t at = (size_t)(p->done_count % BUFFER_COUNT), len = p->lengths[at];
                cas_mutex_unlock(&p->mutex);
                cas_hasher_update(p->hasher, p->buffers[at], len);
                cas_mutex_lock(&p->mutex);
                p->done_count++;
                (void)pthread_cond_broadcast(&p->change);
        }
        cas_mutex_unlock(&p->mutex);
        return NULL;
}

static void release(struct cas_hashpipe *p)
{
        for (size_t i = 0; i < BUFFER_COUNT; i++)
                free(p->buffers[i]);
        cas_hasher_free(p->hasher);
        (void)pthread_cond_destroy(&p->change);
        cas_mutex_release(&p->mutex);
        free(p);
}

int cas_hashpipe_new(struct cas_hashpipe **out, struct cas_err *err)
{
        struct cas_hashpipe *p = cas_xcalloc(1, sizeof(*p));
        cas_mutex_init(&p->mutex, "hashpipe");
        (void)pthread_cond_init(&p->change, NULL);
        p->hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        for (size_t i = 0; i < BUFFER_COUNT; i++)
                p->buffers[i] = cas_xmalloc(CAS_HASHPIPE_BUFFER_BYTES);
        int errnum = pthread_create(&p->thread, NULL, hash_thread, p);
        if (errnum != 0) {
                release(p);
                return cas_fail_sys(err, errnum, "start a hashing thread");
        }
        *out = p;
        return 0;
}

void cas_hashpipe_free(struct cas_hashpipe *p)
{
        if (!p)
                return;
        cas_mutex_lock(&p->mutex);
        p->ended = true;
        (void)pthread_cond_broadcast(&p->change);
        cas_mutex_unlock(&p->mutex);
        (void)pthread_join(p->thread, NULL);
        release(p);
}

uint8_t *cas_hashpipe_buffer(struct cas_hashpipe *p)
{
        cas_mutex_lock(&p->mutex);
        while (p->put_count - p->done_count == BUFFER_COUNT)
                cas_mutex_wait(&p->mutex, &p->change);
        uint8_t *buffer = p->buffers[p->put_count % BUFFER_COUNT];
        cas_mutex_unlock(&p->mutex);
        return buffer;
}

void cas_hashpipe_put(struct cas_hashpipe *p, size_t len)
{
        cas_assert(len <= CAS_HASHPIPE_BUFFER_BYTES);
        cas_mutex_lock(&p->mutex);
        cas_assert(p->put_count - p->done_count < BUFFER_COUNT);
        p->lengths[p->put_count % BUFFER_COUNT] = len;
        p->put_count++;
        (void)pthread_cond_broadcast(&p->change);
        cas_mutex_unlock(&p->mutex);
}

void cas_hashpipe_final(struct cas_hashpipe *p, struct cas_digest *out)
{
        cas_mutex_lock(&p->mutex);
        while (p->done_count < p->put_count)
                cas_mutex_wait(&p->mutex, &p->change);
        cas_mutex_unlock(&p->mutex);
        cas_hasher_final(p->hasher, out);
}
