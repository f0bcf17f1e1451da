/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/background.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NICENESS 10
/* linux/ioprio.h: best effort, lowest level. Idle class would starve on a busy disk. */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_LOWEST ((2 << 13) | 7)

void cas_background_init(struct cas_background *p)
{
        *p = (struct cas_background){0};
        cas_mutex_init(&p->mutex, "background");
        cas_cond_init(&p->change);
}

void cas_background_release(struct cas_background *p)
{
        (void)pthread_cond_destroy(&p->change);
        cas_mutex_release(&p->mutex);
}

void cas_background_stop(struct cas_background *p)
{
        cas_mutex_lock(&p->mutex);
        p->stopping = true;
        (void)pthread_cond_broadcast(&p->change);
        cas_mutex_unlock(&p->mutex);
}

bool cas_background_stopping(struct cas_background *p)
{
        cas_mutex_lock(&p->mutex);
        bool stopping = p->stopping;
        cas_mutex_unlock(&p->mutex);
        return stopping;
}

bool cas_background_pause_ms(struct cas_background *p, uint64_t ms)
{
        struct timespec deadline;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += (time_t)(ms / 1000);
        deadline.tv_nsec += (long)(ms % 1000) * 1000000;
        if (deadline.tv_nsec >= 1000000000) {
                deadline.tv_sec++;
                deadline.tv_nsec -= 1000000000;
        }
        cas_mutex_lock(&p->mutex);
        while (!p->stopping && cas_mutex_timedwait(&p->mutex, &p->change, &deadline))
                ;
        bool go_on = !p->stopping;
        cas_mutex_unlock(&p->mutex);
        return go_on;
}

bool cas_background_rest(struct cas_background *p, uint64_t ms, unsigned share_percent)
{
        cas_assert(share_percent >= 1 && share_percent <= 100);
        return cas_background_pause_ms(p, ms * (100 - share_percent) / share_percent);
}

uint64_t cas_clock_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void cas_thread_is_background(void)
{
        /* Of this thread alone, on Linux. */
        (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICENESS);
        (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_LOWEST);
}
