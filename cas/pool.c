/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/pool.h"

#include <sched.h>

#include "cas/mutex.h"

struct task {
        void (*fn)(void *arg);
        void *arg;
        struct cas_pool_group *group;
};

struct cas_pool {
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t work;    /* queue not empty, or stopping */
        pthread_cond_t change;  /* a place in the queue, or a task ended */
        struct task *queue;     /* ring */
        unsigned queue_max;
        unsigned head;
        unsigned count;
        bool stopping;
        unsigned thread_count; /* fixed after start */
        pthread_t threads[];
};

static void *worker(void *arg)
{
        struct cas_pool *p = arg;
        cas_mutex_lock(&p->mutex);
        for (;;) {
                while (p->count == 0 && !p->stopping)
                        cas_mutex_wait(&p->mutex, &p->work);
                if (p->count == 0)
                        break;
                struct task task = p->queue[p->head];
                p->head = (p->head + 1) % p->queue_max;
                p->count--;
                (void)pthread_cond_broadcast(&p->change);
                cas_mutex_unlock(&p->mutex);
                task.fn(task.arg);
                cas_mutex_lock(&p->mutex);
                task.group->pending_count--;
                (void)pthread_cond_broadcast(&p->change);
        }
        cas_mutex_unlock(&p->mutex);
        return NULL;
}

unsigned cas_cpu_count(void)
{
        cpu_set_t set;
        if (sched_getaffinity(0, sizeof(set), &set) != 0)
                return 1;
        int n = CPU_COUNT(&set);
        return n > 0 ? (unsigned)n : 1;
}

struct cas_pool *cas_pool_new(unsigned threads, unsigned queue_max)
{
        cas_assert(queue_max > 0);
        unsigned count = threads ? threads : cas_cpu_count();
        struct cas_pool *p = cas_xcalloc(1, sizeof(*p) + count * sizeof(p->threads[0]));
        cas_mutex_init(&p->mutex, "pool");
        cas_cond_init(&p->work);
        cas_cond_init(&p->change);
        p->queue = cas_xcalloc(queue_max, sizeof(p->queue[0]));
        p->queue_max = queue_max;
        for (; p->thread_count < count; p->thread_count++) {
                if (pthread_create(&p->threads[p->thread_count], NULL, worker, p) != 0)
                        break;
        }
        cas_assert(p->thread_count > 0);
        return p;
}

unsigned cas_pool_threads(const struct cas_pool *p)
{
        return p->thread_count;
}

void cas_pool_submit(struct cas_pool *p, struct cas_pool_group *group, void (*fn)(void *arg),
                     void *arg)
{
        cas_mutex_lock(&p->mutex);
        while (p->count == p->queue_max)
                cas_mutex_wait(&p->mutex, &p->change);
        p->queue[(p->head + p->count) % p->queue_max] =
                (struct task){.fn = fn, .arg = arg, .group = group};
        p->count++;
        group->pending_count++;
        (void)pthread_cond_signal(&p->work);
        cas_mutex_unlock(&p->mutex);
}

void cas_pool_wait(struct cas_pool *p, struct cas_pool_group *group)
{
        cas_mutex_lock(&p->mutex);
        while (group->pending_count > 0)
                cas_mutex_wait(&p->mutex, &p->change);
        cas_mutex_unlock(&p->mutex);
}

void cas_pool_free(struct cas_pool *p)
{
        if (!p)
                return;
        cas_mutex_lock(&p->mutex);
        p->stopping = true;
        (void)pthread_cond_broadcast(&p->work);
        cas_mutex_unlock(&p->mutex);
        for (unsigned i = 0; i < p->thread_count; i++)
                (void)pthread_join(p->threads[i], NULL);
        (void)pthread_cond_destroy(&p->work);
        (void)pthread_cond_destroy(&p->change);
        cas_mutex_release(&p->mutex);
        free(p->queue);
        free(p);
}
