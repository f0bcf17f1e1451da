/* SPDX-License-Identifier: Apache-2.0 */
/* A pool of worker threads with a bounded queue. Thread-safe. Tasks may not
 * wait for tasks of the same pool. */
#ifndef CAS_POOL_H
#define CAS_POOL_H

#include "cas/base.h"

/* CPUs that this process may use. */
unsigned cas_cpu_count(void);

struct cas_pool;

/* threads 0 means one per CPU of this process. */
struct cas_pool *cas_pool_new(unsigned threads, unsigned queue_max);
unsigned cas_pool_threads(const struct cas_pool *p);

/* A group of tasks that one caller waits for. */
struct cas_pool_group {
        unsigned pending_count; /* guarded by the pool's mutex */
};
/* Blocks while the queue is full. `arg` is borrowed until fn returns. */
void cas_pool_submit(struct cas_pool *p, struct cas_pool_group *group, void (*fn)(void *arg),
                     void *arg);
/* Blocks until every task of the group has returned. */
void cas_pool_wait(struct cas_pool *p, struct cas_pool_group *group);
/* Waits for every task, ends the threads. */
void cas_pool_free(struct cas_pool *p);

#endif
