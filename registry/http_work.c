/* SPDX-License-Identifier: Apache-2.0 */
/* Worker threads for what may block long: started when all are busy, up to a
 * number; one that has had nothing to do for a while ends, but for the last. */
#include "cas/log.h"
#include "registry/http_int.h"

#define WORK_IDLE_S 30

struct reg_work {
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t wanted;  /* the list is not empty, or stopping */
        pthread_cond_t ended;   /* a thread has ended */
        struct reg_work_item *head;
        struct reg_work_item **tail;
        unsigned queued_count;
        unsigned idle_count;
        unsigned thread_count;
        unsigned threads_max;
        bool stopping;
};

static struct reg_work_item *pop_locked(struct reg_work *w)
{
        cas_assert_held(&w->mutex);
        struct reg_work_item *item = w->head;
        w->head = item->next;
        if (!w->head)
                w->tail = &w->head;
        w->queued_count--;
        return item;
}

/* False when there was nothing to do for too long, or it is time to end. */
static bool wait_locked(struct reg_work *w)
{
        struct timespec deadline;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += WORK_IDLE_S;
        bool in_time = true;
        w->idle_count++;
        while (!w->head && !w->stopping && in_time)
                in_time = cas_mutex_timedwait(&w->mutex, &w->wanted, &deadline);
        w->idle_count--;
        return w->head != NULL || (!w->stopping && w->thread_count == 1);
}

static void *worker(void *arg)
{
        struct reg_work *w = arg;
        cas_mutex_lock(&w->mutex);
        while (w->head || wait_locked(w)) {
                if (!w->head)
                        continue;
                struct reg_work_item *item = pop_locked(w);
                cas_mutex_unlock(&w->mutex);
                item->fn(item);
                cas_mutex_lock(&w->mutex);
        }
        w->thread_count--;
        (void)pthread_cond_broadcast(&w->ended);
        cas_mutex_unlock(&w->mutex);
        return NULL;
}

static void start_thread_locked(struct reg_work *w)
{
        cas_assert_held(&w->mutex);
        pthread_attr_t attr;
        pthread_t thread;
        (void)pthread_attr_init(&attr);
        (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        int rc = pthread_create(&thread, &attr, worker, w);
        (void)pthread_attr_destroy(&attr);
        if (rc == 0)
                w->thread_count++;
        else
                cas_log(CAS_LOG_WARN, "http-thread", "error=\"%s\" threads=%u",
                        cas_code_text(cas_code_from_errno(rc)), w->thread_count);
}

struct reg_work *reg_work_new(unsigned threads_max)
{
        struct reg_work *w = cas_xcalloc(1, sizeof(*w));
        cas_mutex_init(&w->mutex, "http work");
        cas_cond_init(&w->wanted);
        cas_cond_init(&w->ended);
        w->tail = &w->head;
        w->threads_max = threads_max;
        cas_mutex_lock(&w->mutex);
        start_thread_locked(w);
        cas_assert(w->thread_count == 1);
        cas_mutex_unlock(&w->mutex);
        return w;
}

void reg_work_push(struct reg_work *w, struct reg_work_item *item)
{
        cas_mutex_lock(&w->mutex);
        cas_assert(!w->stopping);
        item->next = NULL;
        *w->tail = item;
        w->tail = &item->next;
        w->queued_count++;
        if (w->queued_count > w->idle_count && w->thread_count < w->threads_max)
                start_thread_locked(w);
        (void)pthread_cond_signal(&w->wanted);
        cas_mutex_unlock(&w->mutex);
}

void reg_work_free(struct reg_work *w)
{
        if (!w)
                return;
        cas_mutex_lock(&w->mutex);
        w->stopping = true;
        (void)pthread_cond_broadcast(&w->wanted);
        while (w->thread_count > 0)
                cas_mutex_wait(&w->mutex, &w->ended);
        cas_mutex_unlock(&w->mutex);
        (void)pthread_cond_destroy(&w->wanted);
        (void)pthread_cond_destroy(&w->ended);
        cas_mutex_release(&w->mutex);
        free(w);
}
