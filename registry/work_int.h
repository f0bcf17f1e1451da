/* SPDX-License-Identifier: Apache-2.0 */
/* Threads on demand with a queue that items are linked into (http_work.c). */
#ifndef REG_WORK_INT_H
#define REG_WORK_INT_H

struct reg_work;
struct reg_work_item {
        struct reg_work_item *next;
        void (*fn)(struct reg_work_item *item);
};
struct reg_work *reg_work_new(unsigned threads_max);
void reg_work_push(struct reg_work *w, struct reg_work_item *item);
/* Runs what is queued, waits for every thread. */
void reg_work_free(struct reg_work *w);

#endif
