/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler of tests finds what it is for, in toys: a lost update, a deadlock, a signal that
 * comes too early; and plays a schedule again exactly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/mutex.h"
#include "tests/support/sched.h"

#define SCHEDULES 200
#define TEXT_BYTES 8192

struct toy {
        struct cas_mutex a, b;
        pthread_cond_t change;
        int count;
        bool ready, seen, careful;
};

static void toy_init(struct toy *t)
{
        *t = (struct toy){0};
        cas_mutex_init(&t->a, "toy.a");
        cas_mutex_init(&t->b, "toy.b");
        cas_cond_init(&t->change);
}

static void run_two(struct toy *t, void *(*first)(void *), void *(*second)(void *))
{
        pthread_t one, two;
        assert_int_equal(pthread_create(&one, NULL, first, t), 0);
        assert_int_equal(pthread_create(&two, NULL, second, t), 0);
        assert_int_equal(pthread_join(one, NULL), 0);
        assert_int_equal(pthread_join(two, NULL), 0);
}

static void begin(uint64_t seed)
{
        sched_begin(&(struct sched_config){.seed = seed,
                                           .strategy = seed % 2 ? SCHED_PCT : SCHED_WALK,
                                           .changes = 2,
                                           .steps_guess = 12,
                                           .steps_max = 10000,
                                           .replay = "the same"});
}

/* ---- a lost update ---- */

static void *adds_one(void *arg)
{
        struct toy *t = arg;
        cas_mutex_lock(&t->a);
        int seen = t->count;
        if (!t->careful) {
                cas_mutex_unlock(&t->a);
                cas_mutex_lock(&t->a);
        }
        t->count = seen + 1;
        cas_mutex_unlock(&t->a);
        return NULL;
}

static unsigned lost_updates(bool careful, enum sched_strategy only)
{
        unsigned lost = 0;
        for (uint64_t seed = only == SCHED_PCT; seed < SCHEDULES; seed += 2) {
                struct toy t;
                toy_init(&t);
                t.careful = careful;
                begin(seed);
                run_two(&t, adds_one, adds_one);
                sched_end(NULL);
                lost += t.count != 2;
        }
        return lost;
}

static void finds_a_lost_update(void **state CAS_UNUSED)
{
        assert_true(lost_updates(false, SCHED_WALK) > 0);
        assert_true(lost_updates(false, SCHED_PCT) > 0);
        assert_int_equal(lost_updates(true, SCHED_WALK), 0);
        assert_int_equal(lost_updates(true, SCHED_PCT), 0);
}

/* ---- deadlocks ---- */

/* Without cas_mutex, whose order is checked before two threads meet in builds that do so. */
static void *a_then_b(void *arg)
{
        struct toy *t = arg;
        (void)pthread_mutex_lock(&t->a.mutex);
        (void)pthread_mutex_lock(&t->b.mutex);
        (void)pthread_mutex_unlock(&t->b.mutex);
        (void)pthread_mutex_unlock(&t->a.mutex);
        return NULL;
}

static void *b_then_a(void *arg)
{
        struct toy *t = arg;
        (void)pthread_mutex_lock(&t->b.mutex);
        (void)pthread_mutex_lock(&t->a.mutex);
        (void)pthread_mutex_unlock(&t->a.mutex);
        (void)pthread_mutex_unlock(&t->b.mutex);
        return NULL;
}

static void *waits(void *arg)
{
        struct toy *t = arg;
        cas_mutex_lock(&t->a);
        bool wait = !t->ready;
        if (!t->careful) { /* looks, and waits without looking again */
                cas_mutex_unlock(&t->a);
                cas_mutex_lock(&t->a);
        }
        if (wait)
                cas_mutex_wait(&t->a, &t->change);
        cas_mutex_unlock(&t->a);
        return NULL;
}

static void *signals(void *arg)
{
        struct toy *t = arg;
        cas_mutex_lock(&t->a);
        t->ready = true;
        (void)pthread_cond_signal(&t->change);
        cas_mutex_unlock(&t->a);
        return NULL;
}

/* Runs schedules in children until one is ended by abort(); false when none is. */
static bool is_found(void *(*first)(void *), void *(*second)(void *), bool careful,
                     char said[TEXT_BYTES])
{
        for (uint64_t seed = 0; seed < SCHEDULES; seed++) {
                int fds[2], status;
                assert_int_equal(pipe(fds), 0);
                pid_t pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        struct toy t;
                        toy_init(&t);
                        t.careful = careful;
                        (void)dup2(fds[1], 2);
                        begin(seed);
                        run_two(&t, first, second);
                        sched_end(NULL);
                        _exit(0);
                }
                (void)close(fds[1]);
                size_t len = 0;
                ssize_t n;
                while (len < TEXT_BYTES - 1 &&
                       (n = read(fds[0], said + len, TEXT_BYTES - 1 - len)) > 0)
                        len += (size_t)n;
                said[len] = '\0';
                (void)close(fds[0]);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                if (WIFSIGNALED(status))
                        return WTERMSIG(status) == SIGABRT;
                assert_int_equal(status, 0);
        }
        return false;
}

static void assert_said(const char *said, const char *words)
{
        if (!strstr(said, words))
                fail_msg("no \"%s\" in: %s", words, said);
}

static void finds_deadlocks(void **state CAS_UNUSED)
{
        char said[TEXT_BYTES];
        assert_true(is_found(a_then_b, b_then_a, false, said));
        assert_said(said, "deadlock: nobody can go on");
        assert_said(said, "waits for lock \"toy.a\" of thread 1, holds \"toy.b\"");
        assert_said(said, "waits for lock \"toy.b\" of thread 2, holds \"toy.a\"");
        assert_said(said, "thread 0 (main): waits for thread 1");
        assert_said(said, "again: the same");
        assert_false(is_found(a_then_b, a_then_b, false, said));
}

static void finds_a_lost_signal(void **state CAS_UNUSED)
{
        char said[TEXT_BYTES];
        assert_true(is_found(waits, signals, false, said));
        assert_said(said, "waits for a condition");
        assert_false(is_found(waits, signals, true, said));
}

/* ---- time ---- */

static void *waits_a_while(void *arg)
{
        struct toy *t = arg;
        struct timespec deadline;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += 1000;
        cas_mutex_lock(&t->a);
        bool in_time = true;
        while (!t->ready && in_time)
                in_time = cas_mutex_timedwait(&t->a, &t->change, &deadline);
        t->seen = t->ready;
        cas_mutex_unlock(&t->a);
        return NULL;
}

static void *sleeps(void *arg CAS_UNUSED)
{
        (void)nanosleep(&(struct timespec){.tv_sec = 5000}, NULL);
        return NULL;
}

static void time_is_a_choice(void **state CAS_UNUSED)
{
        unsigned seen = 0, late = 0;
        for (uint64_t seed = 0; seed < 300; seed++) {
                struct toy t;
                struct timespec before, after;
                toy_init(&t);
                begin(seed);
                run_two(&t, waits_a_while, signals);
                (void)clock_gettime(CLOCK_MONOTONIC, &before);
                run_two(&t, waits_a_while, sleeps);
                (void)clock_gettime(CLOCK_MONOTONIC, &after);
                assert_true(t.seen);                               /* was there before */
                assert_true(after.tv_sec - before.tv_sec >= 4999); /* and no time was spent */
                sched_end(NULL);
                seen++;
        }
        for (uint64_t seed = 0; seed < SCHEDULES; seed++) {
                struct toy t;
                toy_init(&t);
                begin(seed);
                run_two(&t, waits_a_while, sleeps);
                late += !t.seen;
                sched_end(NULL);
        }
        assert_int_equal(seen, 300);
        assert_int_equal(late, SCHEDULES);
}

/* ---- readers, and a writer between them ---- */

static struct cas_rwlock rw;

static void *reads_twice(void *arg CAS_UNUSED)
{
        cas_rwlock_read(&rw);
        cas_rwlock_read(&rw);
        cas_rwlock_unlock(&rw);
        cas_rwlock_unlock(&rw);
        return NULL;
}

static void *writes(void *arg CAS_UNUSED)
{
        cas_rwlock_write(&rw);
        cas_rwlock_unlock(&rw);
        return NULL;
}

static void *reads_once(void *arg CAS_UNUSED)
{
        cas_rwlock_read(&rw);
        cas_rwlock_unlock(&rw);
        return NULL;
}

static void finds_a_writer_between_two_reads(void **state CAS_UNUSED)
{
        char said[TEXT_BYTES];
        cas_rwlock_init(&rw, "toy.rw");
        assert_true(is_found(reads_twice, writes, false, said));
        assert_said(said, "toy.rw"); /* as a deadlock, or by the order of locks */
        assert_false(is_found(reads_once, writes, false, said));
}

/* ---- again ---- */

static void plays_it_again(void **state CAS_UNUSED)
{
        uint64_t hashes[SCHEDULES];
        unsigned different = 0;
        for (uint64_t i = 0; i < SCHEDULES * 2; i++) {
                struct toy t;
                struct sched_result r;
                toy_init(&t);
                begin(i % SCHEDULES);
                run_two(&t, adds_one, waits_a_while);
                sched_end(&r);
                assert_true(r.threads == 3 && r.steps > 6);
                if (i < SCHEDULES)
                        hashes[i] = r.trace_hash;
                else
                        assert_true(hashes[i % SCHEDULES] == r.trace_hash);
                different += i > 0 && i < SCHEDULES && hashes[i] != hashes[i - 1];
        }
        assert_true(different > SCHEDULES / 4);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(finds_a_lost_update),
                cmocka_unit_test(finds_deadlocks),
                cmocka_unit_test(finds_a_lost_signal),
                cmocka_unit_test(finds_a_writer_between_two_reads),
                cmocka_unit_test(time_is_a_choice),
                cmocka_unit_test(plays_it_again),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
