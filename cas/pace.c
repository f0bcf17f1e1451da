/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/pace.h"

#include <time.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
/* A stretch of work before a rest. */
#define STRETCH_NS (20 * NS_PER_MS)
/* Whoever waits asks that often whether to stop. */
#define NAP_NS (50 * NS_PER_MS)
/* What was not used is not saved up for longer. */
#define CREDIT_NS (200 * NS_PER_MS)

static uint64_t now_ns(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void cas_pace_init(struct cas_pace *p, uint64_t bytes_per_s, unsigned duty_percent,
                   bool (*stop)(void *arg), void *arg)
{
        *p = (struct cas_pace){.bytes_per_s = bytes_per_s,
                               .duty_percent = duty_percent < 100 ? duty_percent : 0,
                               .stop = stop,
                               .arg = arg,
                               .ready_ns = now_ns(),
                               .work_began_ns = now_ns()};
        cas_mutex_init(&p->mutex, "pace");
}

void cas_pace_release(struct cas_pace *p)
{
        cas_mutex_release(&p->mutex);
}

bool cas_pace_is_bounded(const struct cas_pace *p)
{
        return p->bytes_per_s > 0 || p->duty_percent > 0;
}

static void wait_until(const struct cas_pace *p, uint64_t until_ns)
{
        for (uint64_t now = now_ns(); now < until_ns; now = now_ns()) {
                if (p->stop && p->stop(p->arg))
                        return;
                uint64_t nap = cas_min_u64(until_ns - now, NAP_NS);
                const struct timespec t = {.tv_sec = 0, .tv_nsec = (long)nap};
                (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
        }
}

void cas_pace_read(struct cas_pace *p, uint64_t bytes)
{
        uint64_t bytes_per_s = atomic_load(&p->bytes_per_s);
        if (bytes_per_s == 0)
                return;
        uint64_t now = now_ns();
        /* Bytes of one call are few enough for this not to overflow. */
        uint64_t cost_ns = bytes * 1000 / bytes_per_s * NS_PER_MS +
                           bytes * 1000 % bytes_per_s * NS_PER_MS / bytes_per_s;
        cas_mutex_lock(&p->mutex);
        uint64_t earliest = now > CREDIT_NS ? now - CREDIT_NS : 0;
        p->ready_ns = cas_max_u64(p->ready_ns, earliest) + cost_ns;
        uint64_t until = p->ready_ns;
        cas_mutex_unlock(&p->mutex);
        wait_until(p, until);
        cas_mutex_lock(&p->mutex);
        p->work_began_ns += cas_min_u64(now_ns() - now, now_ns() - p->work_began_ns);
        cas_mutex_unlock(&p->mutex);
}

void cas_pace_rest(struct cas_pace *p)
{
        if (p->duty_percent == 0)
                return;
        cas_mutex_lock(&p->mutex);
        uint64_t now = now_ns();
        uint64_t worked = now - p->work_began_ns;
        cas_mutex_unlock(&p->mutex);
        if (worked < STRETCH_NS)
                return;
        wait_until(p, now + worked * (100 - p->duty_percent) / p->duty_percent);
        cas_mutex_lock(&p->mutex);
        p->work_began_ns = now_ns();
        cas_mutex_unlock(&p->mutex);
}
