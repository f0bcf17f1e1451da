/* SPDX-License-Identifier: Apache-2.0 */
/* A scheduler for tests that is seeded and can be replayed: of the threads of the code under test
 * one runs at a time, and at every point where they could meet (a lock, a wait, a signal, the begin
 * and the end of a thread, a call of RocksDB, a call of the I/O table) it chooses who goes on. A
 * schedule is a function of its seed alone.
 *
 * It sits below libpthread by the linker's --wrap (SCHED_WRAP in the Makefile), so the code under
 * test knows nothing of it, and what libraries do among themselves stays as it is: a call of
 * RocksDB is one step. Locks, conditions, sleeps, clocks and random numbers are the scheduler's own
 * between begin and end. Waiting with a time limit is a choice: the time may be over at any point,
 * at the latest when nobody else can go on; clocks jump then.
 *
 * Between begin and end every thread belongs to it: begin before anything under test has made one,
 * end when all have ended. One schedule at a time in a process. */
#ifndef TESTS_SCHED_H
#define TESTS_SCHED_H

#include "cas/io.h"

enum sched_strategy {
        SCHED_WALK, /* at each point, with a probability that the seed sets, somebody else */
        SCHED_PCT,  /* priorities, and a few points where that of the running thread drops: finds
                     * what needs few switches at the right places */
};
struct sched_config {
        uint64_t seed;
        enum sched_strategy strategy;
        unsigned changes;     /* PCT: how often priorities drop */
        const char *focus;    /* PCT: only at points of this name, a lock's; NULL: at any */
        uint64_t steps_guess; /* PCT: such points in a schedule, about */
        uint64_t steps_max;   /* more is a failure: it does not end */
        const char *replay;   /* the command that plays it again; borrowed */
        bool trace;           /* every step to stderr */
};
struct sched_result {
        uint64_t steps, switches, timeouts;
        unsigned threads;
        uint64_t trace_hash; /* of who did what: equal for equal schedules */
};

/* The calling thread is the first one. */
void sched_begin(const struct sched_config *config);
/* Waits for all others. */
void sched_end(struct sched_result *out);
/* PCT: priorities drop within the next points, not where they were to. */
void sched_changes_within(uint64_t points);
/* What the calling thread is called in reports; static storage. */
void sched_name(const char *name);
/* A point of the test's own. */
void sched_point(const char *what);
/* Of who did what so far: equal for equal schedules. */
uint64_t sched_trace_hash(void);
/* Of the schedule's random numbers: less than n. */
uint64_t sched_random(uint64_t n);
/* The system's I/O with a point before every call that changes or opens something. */
const struct cas_io *sched_io(void);
/* Says what went wrong, what every thread does and how to play it again, and aborts. */
CAS_NORETURN void sched_fail(const char *fmt, ...) CAS_PRINTF(1, 2);

#endif
