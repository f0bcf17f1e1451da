/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/ownerwait_int.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "cas/mutex.h"

/* Who serves a request gives the owner so long; then it is parked and the thread goes on. */
#define WORKER_WAIT_MS 1000
#define WAITER_WAIT_MS 5000
#define WAITER_TICK_MS 50

struct parked {
        struct ffs_ownerwait_job job; /* job.item is item[] */
        uint64_t deadline_ms;
        struct parked *next;
        uint64_t item[FFS_OWNERWAIT_ITEM_BYTES_MAX / 8];
};

struct ffs_ownerwait {
        struct ffs_ownerwait_config config;
        struct cas_mutex mutex; /* guards parked; leaf */
        pthread_cond_t changed;
        struct parked *parked; /* oldest first */
        _Atomic uint64_t kept; /* parked, or being tried again */
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void park(struct ffs_ownerwait *w, const struct ffs_ownerwait_job *job)
{
        struct parked *kept = cas_xcalloc(1, sizeof(*kept));
        cas_assert(job->item_bytes <= sizeof(kept->item));
        if (job->item_bytes > 0)
                memcpy(kept->item, job->item, job->item_bytes);
        kept->job = *job;
        kept->job.item = kept->item;
        kept->deadline_ms = now_ms() + w->config.wait_ms;
        atomic_fetch_add(&w->kept, 1);
        cas_mutex_lock(&w->mutex);
        struct parked **end = &w->parked;
        while (*end)
                end = &(*end)->next;
        *end = kept;
        (void)pthread_cond_signal(&w->changed);
        cas_mutex_unlock(&w->mutex);
}

void ffs_ownerwait_serve(struct ffs_ownerwait *w, const struct ffs_ownerwait_job *job)
{
        if (job->attempt(job->arg, job->item, WORKER_WAIT_MS) < 0)
                park(w, job);
}

uint64_t ffs_ownerwait_count(struct ffs_ownerwait *w)
{
        return atomic_load(&w->kept);
}

/* ---- who waits ---- */

struct blocked {
        int (*attempt)(void *arg, int timeout_ms);
        void *arg;
        struct cas_mutex mutex; /* guards the rest */
        pthread_cond_t changed;
        bool done;
        int rc;
};

static void blocked_wake(struct blocked *b, int rc)
{
        cas_mutex_lock(&b->mutex);
        b->rc = rc;
        b->done = true;
        (void)pthread_cond_signal(&b->changed);
        cas_mutex_unlock(&b->mutex);
}

static int blocked_attempt(void *arg, const void *item CAS_UNUSED, int timeout_ms)
{
        struct blocked *b = arg;
        int rc = b->attempt(b->arg, timeout_ms);
        if (rc != -CAS_E_BUSY)
                blocked_wake(b, rc);
        return rc == -CAS_E_BUSY ? rc : 0;
}

static void blocked_fail(void *arg, const void *item CAS_UNUSED, int error CAS_UNUSED)
{
        blocked_wake(arg, -CAS_E_BUSY);
}

int ffs_ownerwait_block(struct ffs_ownerwait *w, int (*attempt)(void *arg, int timeout_ms),
                        void *arg)
{
        struct blocked b = {.attempt = attempt, .arg = arg};
        cas_mutex_init(&b.mutex, "blocked");
        cas_cond_init(&b.changed);
        const struct ffs_ownerwait_job job = {
                .attempt = blocked_attempt, .fail = blocked_fail, .arg = &b};
        ffs_ownerwait_serve(w, &job);
        cas_mutex_lock(&b.mutex);
        while (!b.done)
                cas_mutex_wait(&b.mutex, &b.changed);
        cas_mutex_unlock(&b.mutex);
        (void)pthread_cond_destroy(&b.changed);
        cas_mutex_release(&b.mutex);
        return b.rc;
}

/* ---- the thread ---- */

static struct parked *take_parked(struct ffs_ownerwait *w)
{
        cas_mutex_lock(&w->mutex);
        while (!w->parked)
                cas_mutex_wait(&w->mutex, &w->changed);
        struct parked *list = w->parked;
        w->parked = NULL;
        cas_mutex_unlock(&w->mutex);
        return list;
}

/* Puts back what is still waiting, before what was parked since. */
static void return_parked(struct ffs_ownerwait *w, struct parked *list)
{
        if (!list)
                return;
        struct parked *last = list;
        while (last->next)
                last = last->next;
        cas_mutex_lock(&w->mutex);
        last->next = w->parked;
        w->parked = list;
        cas_mutex_unlock(&w->mutex);
}

/* What is still not there while the owner is, is on its way: the owner says when it is given up. */
static bool try_again(struct ffs_ownerwait *w, struct parked *p, bool *owner_is_there)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (p->job.attempt(p->job.arg, p->job.item, WAITER_WAIT_MS) == 0)
                return true;
        *owner_is_there = ffs_reader_ping(w->config.reader, WORKER_WAIT_MS, &ignored) == 0;
        if (*owner_is_there)
                p->deadline_ms = now_ms() + w->config.wait_ms;
        return false;
}

/* Answers those of the list that were interrupted or have waited too long, and with the owner
 * there all others. Gives what is left. */
static struct parked *sweep(struct ffs_ownerwait *w, struct parked *list, bool owner_is_there)
{
        struct parked *left = NULL, **end = &left;
        while (list) {
                struct parked *p = list;
                const struct ffs_ownerwait_job *job = &p->job;
                bool done = true;
                list = p->next;
                p->next = NULL;
                if (job->req && fuse_req_interrupted(job->req))
                        job->fail(job->arg, job->item, EINTR);
                else if (owner_is_there && try_again(w, p, &owner_is_there))
                        done = true;
                else if (now_ms() >= p->deadline_ms)
                        job->fail(job->arg, job->item, EIO);
                else
                        done = false;
                if (done) {
                        free(p);
                        atomic_fetch_sub(&w->kept, 1);
                } else {
                        *end = p;
                        end = &p->next;
                }
        }
        return left;
}

static void *waiter_thread(void *arg)
{
        struct ffs_ownerwait *w = arg;
        uint64_t away_since_ms = 0; /* 0: it is there, or nobody misses it */
        for (;;) {
                struct parked *list = take_parked(w);
                struct cas_err err = CAS_ERR_INIT;
                bool there = ffs_reader_ping(w->config.reader, WAITER_TICK_MS, &err) == 0;
                list = sweep(w, list, there);
                bool waiting = list != NULL;
                return_parked(w, list);
                if (there || !waiting)
                        away_since_ms = 0;
                else if (!away_since_ms)
                        away_since_ms = now_ms();
                else if (now_ms() - away_since_ms >= FFS_OWNER_AWAY_MS)
                        w->config.owner_away(w->config.owner_away_arg);
                if (waiting) {
                        struct timespec tick = {.tv_nsec = WAITER_TICK_MS * 1000000};
                        (void)nanosleep(&tick, NULL);
                }
        }
        return NULL;
}

int ffs_ownerwait_start(const struct ffs_ownerwait_config *config, struct ffs_ownerwait **out,
                        struct cas_err *err)
{
        struct ffs_ownerwait *w = cas_xcalloc(1, sizeof(*w));
        pthread_t thread;
        w->config = *config;
        cas_mutex_init(&w->mutex, "ownerwait");
        cas_cond_init(&w->changed);
        int rc = pthread_create(&thread, NULL, waiter_thread, w);
        if (rc) {
                free(w);
                return cas_fail_sys(err, rc, "thread");
        }
        (void)pthread_setname_np(thread, "ownerwait");
        (void)pthread_detach(thread);
        *out = w;
        return 0;
}
