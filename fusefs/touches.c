/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/touches_int.h"

#include <time.h>

#include "cas/mutex.h"

#define SEND_MS 1000
#define ANSWER_MS 1000
/* Kept until they are sent: a second of some thousand blocks. */
#define KEPT_MAX (8 * FFS_RESOLVE_TOUCHES_MAX)

struct ffs_touches {
        struct ffs_resolve_client *client; /* borrowed */
        void (*sweep)(void *arg);
        void *arg;
        struct cas_mutex mutex; /* leaf; guards all below */
        pthread_cond_t changed;
        struct ffs_resolve_touch *kept; /* owned; KEPT_MAX of them once there is a thread */
        uint32_t count;
        pthread_t thread;
        bool started, stopping;
};

struct ffs_touches *ffs_touches_new(struct ffs_resolve_client *client, void (*sweep)(void *arg),
                                    void *arg)
{
        struct ffs_touches *t = cas_xcalloc(1, sizeof(*t));
        t->client = client;
        t->sweep = sweep;
        t->arg = arg;
        cas_mutex_init(&t->mutex, "touches");
        cas_cond_init(&t->changed);
        return t;
}

void ffs_touches_free(struct ffs_touches *t)
{
        if (!t)
                return;
        cas_mutex_lock(&t->mutex);
        t->stopping = true;
        bool started = t->started;
        (void)pthread_cond_signal(&t->changed);
        cas_mutex_unlock(&t->mutex);
        if (started)
                (void)pthread_join(t->thread, NULL);
        (void)pthread_cond_destroy(&t->changed);
        cas_mutex_release(&t->mutex);
        free(t->kept);
        free(t);
}

static void send_all(struct ffs_touches *t, struct ffs_resolve_touch *batch)
{
        for (;;) {
                struct cas_err ignored = CAS_ERR_INIT;
                cas_mutex_lock(&t->mutex);
                uint32_t n = (uint32_t)cas_min_u64(t->count, FFS_RESOLVE_TOUCHES_MAX);
                t->count -= n;
                memcpy(batch, t->kept + t->count, n * sizeof(*batch));
                cas_mutex_unlock(&t->mutex);
                if (n == 0)
                        return;
                if (ffs_resolve_touched(t->client, batch, n, ANSWER_MS, &ignored) < 0) {
                        cas_mutex_lock(&t->mutex);
                        t->count = 0;
                        cas_mutex_unlock(&t->mutex);
                }
        }
}

static void *touches_thread(void *arg)
{
        struct ffs_touches *t = arg;
        struct ffs_resolve_touch batch[FFS_RESOLVE_TOUCHES_MAX];
        unsigned since_sweep_ms = 0;
        for (;;) {
                struct timespec until;
                (void)clock_gettime(CLOCK_MONOTONIC, &until);
                cas_mutex_lock(&t->mutex);
                const unsigned wait_ms = t->count ? SEND_MS : FFS_TOUCHES_SWEEP_MS;
                until.tv_sec += wait_ms / 1000;
                const bool idle = t->count == 0;
                while (!t->stopping && !(idle && t->count > 0) &&
                       cas_mutex_timedwait(&t->mutex, &t->changed, &until))
                        ;
                const bool woken = idle && t->count > 0, stopping = t->stopping;
                cas_mutex_unlock(&t->mutex);
                if (stopping)
                        return NULL;
                if (woken)
                        continue; /* more will come within the second */
                send_all(t, batch);
                since_sweep_ms += wait_ms;
                if (since_sweep_ms >= FFS_TOUCHES_SWEEP_MS) {
                        since_sweep_ms = 0;
                        t->sweep(t->arg);
                }
        }
}

static void start_locked(struct ffs_touches *t)
{
        t->kept = cas_xcalloc(KEPT_MAX, sizeof(*t->kept));
        t->started = pthread_create(&t->thread, NULL, touches_thread, t) == 0;
        if (t->started)
                (void)pthread_setname_np(t->thread, "touches");
        else
                free(cas_steal(&t->kept));
}

void ffs_touches_note(struct ffs_touches *t, const struct ffs_resolve_touch *touch)
{
        cas_mutex_lock(&t->mutex);
        if (!t->started)
                start_locked(t);
        if (t->started && t->count < KEPT_MAX) {
                t->kept[t->count++] = *touch;
                if (t->count == 1)
                        (void)pthread_cond_signal(&t->changed);
        }
        cas_mutex_unlock(&t->mutex);
}
