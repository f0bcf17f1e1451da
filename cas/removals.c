/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/removals_int.h"

void cas_removals_init(struct cas_removals *r)
{
        *r = (struct cas_removals){0};
        cas_mutex_init(&r->mutex, "removals");
        cas_cond_init(&r->change);
}

void cas_removals_release(struct cas_removals *r)
{
        cas_assert(r->running == 0 && r->holds == 0);
        (void)pthread_cond_destroy(&r->change);
        cas_mutex_release(&r->mutex);
}

void cas_removal_begin(struct cas_removals *r)
{
        if (!r)
                return;
        cas_mutex_lock(&r->mutex);
        while (r->holds > 0)
                cas_mutex_wait(&r->mutex, &r->change);
        r->running++;
        cas_mutex_unlock(&r->mutex);
}

void cas_removal_end(struct cas_removals *r)
{
        if (!r)
                return;
        cas_mutex_lock(&r->mutex);
        r->running--;
        (void)pthread_cond_broadcast(&r->change);
        cas_mutex_unlock(&r->mutex);
}

void cas_removals_hold(struct cas_removals *r)
{
        cas_mutex_lock(&r->mutex);
        r->holds++;
        while (r->running > 0)
                cas_mutex_wait(&r->mutex, &r->change);
        cas_mutex_unlock(&r->mutex);
}

void cas_removals_let_go(struct cas_removals *r)
{
        cas_mutex_lock(&r->mutex);
        r->holds--;
        (void)pthread_cond_broadcast(&r->change);
        cas_mutex_unlock(&r->mutex);
}
