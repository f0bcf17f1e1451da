/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/mutex.h"

#include <errno.h>
#include <time.h>

void cas_mutex_init(struct cas_mutex *m, const char *name)
{
        *m = (struct cas_mutex)CAS_MUTEX_INIT(name);
}

void cas_mutex_release(struct cas_mutex *m)
{
        cas_assert(!atomic_load(&m->held));
        (void)pthread_mutex_destroy(&m->mutex);
}

static void note_owner(struct cas_mutex *m)
{
        atomic_store_explicit(&m->owner, pthread_self(), memory_order_relaxed);
        atomic_store_explicit(&m->held, true, memory_order_release);
}

void cas_mutex_lock(struct cas_mutex *m)
{
        cas_assert(!cas_mutex_is_mine(m));
        int rc = pthread_mutex_lock(&m->mutex);
        cas_assert(rc == 0);
        note_owner(m);
}

void cas_mutex_unlock(struct cas_mutex *m)
{
        cas_assert_held(m);
        atomic_store_explicit(&m->held, false, memory_order_release);
        int rc = pthread_mutex_unlock(&m->mutex);
        cas_assert(rc == 0);
}

bool cas_mutex_is_mine(const struct cas_mutex *m)
{
        return atomic_load_explicit(&m->held, memory_order_acquire) &&
               pthread_equal(atomic_load_explicit(&m->owner, memory_order_relaxed), pthread_self());
}

void cas_mutex_wait(struct cas_mutex *m, pthread_cond_t *cond)
{
        cas_assert_held(m);
        atomic_store_explicit(&m->held, false, memory_order_release);
        int rc = pthread_cond_wait(cond, &m->mutex);
        cas_assert(rc == 0);
        note_owner(m);
}

bool cas_mutex_timedwait(struct cas_mutex *m, pthread_cond_t *cond, const struct timespec *deadline)
{
        cas_assert_held(m);
        atomic_store_explicit(&m->held, false, memory_order_release);
        int rc = pthread_cond_timedwait(cond, &m->mutex, deadline);
        cas_assert(rc == 0 || rc == ETIMEDOUT);
        note_owner(m);
        return rc == 0;
}

void cas_cond_init(pthread_cond_t *cond)
{
        pthread_condattr_t attr;
        (void)pthread_condattr_init(&attr);
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        (void)pthread_cond_init(cond, &attr);
        (void)pthread_condattr_destroy(&attr);
}
