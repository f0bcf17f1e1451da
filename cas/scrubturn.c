/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/scrubturn_int.h"

#include <time.h>

#include "cas/mutex.h"
#include "cas/store_int.h"

/* Whoever waits asks that often whether to stop. */
#define POLL_NS (100 * 1000 * 1000)

struct cas_scrub_turn {
        struct cas_mutex mutex; /* a leaf; guards all below */
        pthread_cond_t change;
        bool taken, hurries; /* somebody has it; and is in a hurry */
        unsigned hurried;    /* waiting, in a hurry */
};

struct cas_scrub_turn *cas_scrub_turn_new(void)
{
        struct cas_scrub_turn *t = cas_xcalloc(1, sizeof(*t));
        cas_mutex_init(&t->mutex, "scrub.turn");
        cas_cond_init(&t->change);
        return t;
}

void cas_scrub_turn_free(struct cas_scrub_turn *t)
{
        if (!t)
                return;
        cas_assert(!t->taken);
        (void)pthread_cond_destroy(&t->change);
        cas_mutex_release(&t->mutex);
        free(t);
}

static void wait_locked(struct cas_scrub_turn *t)
{
        struct timespec until;
        cas_assert_held(&t->mutex);
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += POLL_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        (void)cas_mutex_timedwait(&t->mutex, &t->change, &until);
}

bool cas_scrub_turn_take(struct cas_store *s, bool hurries, bool (*stop)(void *arg), void *arg)
{
        struct cas_scrub_turn *t = s->scrub_turn;
        bool stopped = false;
        cas_mutex_lock(&t->mutex);
        t->hurried += hurries;
        while ((t->taken || (!hurries && t->hurried > 0)) && !stopped) {
                wait_locked(t);
                cas_mutex_unlock(&t->mutex);
                stopped = stop && stop(arg);
                cas_mutex_lock(&t->mutex);
        }
        t->hurried -= hurries;
        if (!stopped) {
                t->taken = true;
                t->hurries = hurries;
        }
        cas_mutex_unlock(&t->mutex);
        return !stopped;
}

void cas_scrub_turn_give(struct cas_store *s)
{
        struct cas_scrub_turn *t = s->scrub_turn;
        cas_mutex_lock(&t->mutex);
        t->taken = false;
        (void)pthread_cond_broadcast(&t->change);
        cas_mutex_unlock(&t->mutex);
}

bool cas_scrub_turn_is_wanted(struct cas_store *s)
{
        struct cas_scrub_turn *t = s->scrub_turn;
        cas_mutex_lock(&t->mutex);
        bool wanted = !t->hurries && t->hurried > 0;
        cas_mutex_unlock(&t->mutex);
        return wanted;
}
