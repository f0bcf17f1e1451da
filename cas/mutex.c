/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/mutex.h"

#include <errno.h>
#include <time.h>

#include "cas/lockorder_int.h"

_Static_assert(offsetof(struct cas_mutex, mutex) == 0, "a mutex is found by its first member");
_Static_assert(offsetof(struct cas_rwlock, lock) == 0, "a lock is found by its first member");

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
        cas_lock_order_take(m, m->name);
        int rc = pthread_mutex_lock(&m->mutex);
        cas_assert(rc == 0);
        note_owner(m);
}

void cas_mutex_unlock(struct cas_mutex *m)
{
        cas_assert_held(m);
        cas_lock_order_drop(m);
        atomic_store_explicit(&m->held, false, memory_order_release);
        int rc = pthread_mutex_unlock(&m->mutex);
        cas_assert(rc == 0);
}

bool cas_mutex_is_mine(const struct cas_mutex *m)
{
        return atomic_load_explicit(&m->held, memory_order_acquire) &&
               pthread_equal(atomic_load_explicit(&m->owner, memory_order_relaxed), pthread_self());
}

/* Who waits lets m go and takes it again: it must be the innermost of what the thread holds. */
static void before_wait(struct cas_mutex *m)
{
        cas_assert_held(m);
        cas_lock_order_drop(m);
        cas_lock_order_take(m, m->name);
        atomic_store_explicit(&m->held, false, memory_order_release);
}

void cas_mutex_wait(struct cas_mutex *m, pthread_cond_t *cond)
{
        before_wait(m);
        int rc = pthread_cond_wait(cond, &m->mutex);
        cas_assert(rc == 0);
        note_owner(m);
}

bool cas_mutex_timedwait(struct cas_mutex *m, pthread_cond_t *cond, const struct timespec *deadline)
{
        before_wait(m);
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

void cas_rwlock_init(struct cas_rwlock *l, const char *name)
{
        pthread_rwlockattr_t attr;
        l->name = name;
        (void)pthread_rwlockattr_init(&attr);
        /* Who writes is rare and quick, and must not starve. */
        (void)pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
        int rc = pthread_rwlock_init(&l->lock, &attr);
        cas_assert(rc == 0);
        (void)pthread_rwlockattr_destroy(&attr);
}

void cas_rwlock_release(struct cas_rwlock *l)
{
        (void)pthread_rwlock_destroy(&l->lock);
}

void cas_rwlock_read(struct cas_rwlock *l)
{
        cas_lock_order_take(l, l->name);
        int rc = pthread_rwlock_rdlock(&l->lock);
        cas_assert(rc == 0);
}

void cas_rwlock_write(struct cas_rwlock *l)
{
        cas_lock_order_take(l, l->name);
        int rc = pthread_rwlock_wrlock(&l->lock);
        cas_assert(rc == 0);
}

void cas_rwlock_unlock(struct cas_rwlock *l)
{
        cas_lock_order_drop(l);
        int rc = pthread_rwlock_unlock(&l->lock);
        cas_assert(rc == 0);
}
