/* SPDX-License-Identifier: Apache-2.0 */
/* The order of locks is checked in builds with CAS_LOCK_ORDER: each wrong order ends a child. */
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

#define TEXT_BYTES 4096

static struct cas_mutex a, b, c, b_again;
static struct cas_rwlock r;

static int setup(void **state CAS_UNUSED)
{
        cas_mutex_init(&a, "test.a");
        cas_mutex_init(&b, "test.b");
        cas_mutex_init(&b_again, "test.b");
        cas_mutex_init(&c, "test.c");
        cas_rwlock_init(&r, "test.r");
        return 0;
}

static void nest(struct cas_mutex *outer, struct cas_mutex *inner)
{
        cas_mutex_lock(outer);
        cas_mutex_lock(inner);
        cas_mutex_unlock(inner);
        cas_mutex_unlock(outer);
}

/* Runs fn in a child; true when that was ended by abort(). What it said goes to `said`. */
static bool dies(void (*fn)(void), char said[TEXT_BYTES])
{
        int fds[2], status;
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void)dup2(fds[1], 2);
                fn();
                _exit(0);
        }
        (void)close(fds[1]);
        size_t len = 0;
        ssize_t n;
        while (len < TEXT_BYTES - 1 && (n = read(fds[0], said + len, TEXT_BYTES - 1 - len)) > 0)
                len += (size_t)n;
        said[len] = '\0';
        (void)close(fds[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#ifdef CAS_LOCK_ORDER
#define assert_dies(fn, ...)                                                                       \
        do {                                                                                       \
                char said_[TEXT_BYTES];                                                            \
                const char *const words_[] = {__VA_ARGS__};                                        \
                assert_true(dies(fn, said_));                                                      \
                for (size_t i_ = 0; i_ < CAS_COUNT(words_); i_++)                                  \
                        if (!strstr(said_, words_[i_]))                                            \
                                fail_msg("no \"%s\" in: %s", words_[i_], said_);                   \
        } while (0)
#else
#define assert_dies(fn, ...)                                                                       \
        do {                                                                                       \
                char said_[TEXT_BYTES];                                                            \
                assert_false(dies(fn, said_));                                                     \
                assert_string_equal(said_, "");                                                    \
        } while (0)
#endif

static void learned_circle(void)
{
        nest(&a, &b);
        nest(&b, &c);
        nest(&c, &a); /* nobody met: but two threads could */
}

static void two_of_a_class(void)
{
        nest(&b, &b_again);
}

static void read_twice(void)
{
        cas_mutex_lock(&a);
        cas_rwlock_read(&r);
        cas_mutex_unlock(&a); /* in any order */
        cas_rwlock_unlock(&r);
        cas_rwlock_write(&r);
        cas_rwlock_unlock(&r);
        cas_rwlock_read(&r);
        cas_mutex_lock(&a);
        cas_mutex_unlock(&a);
        cas_rwlock_unlock(&r);
}

static void against_ranks(void)
{
        struct cas_mutex names = CAS_MUTEX_INIT("store.names");
        struct cas_mutex packset = CAS_MUTEX_INIT("packset");
        nest(&packset, &names); /* the other way was never gone */
}

static void against_ranks_by_others(void)
{
        struct cas_mutex names = CAS_MUTEX_INIT("store.names");
        struct cas_mutex packset = CAS_MUTEX_INIT("packset");
        nest(&packset, &a);
        nest(&a, &names);
}

static void leaf_in_leaf(void)
{
        struct cas_mutex pool = CAS_MUTEX_INIT("pool");
        struct cas_mutex spool = CAS_MUTEX_INIT("spool");
        nest(&pool, &spool);
}

static void wait_while_another_is_held(void)
{
        pthread_cond_t never;
        struct timespec now;
        cas_cond_init(&never);
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        cas_mutex_lock(&a);
        cas_mutex_lock(&b);
        (void)cas_mutex_timedwait(&a, &never, &now); /* takes a again inside of b */
        cas_mutex_unlock(&b);
        cas_mutex_unlock(&a);
}

static void right_order(void)
{
        struct cas_mutex keeping = CAS_MUTEX_INIT("store.keeping");
        struct cas_mutex names = CAS_MUTEX_INIT("store.names");
        struct cas_mutex pool = CAS_MUTEX_INIT("pool");
        for (int i = 0; i < 2; i++) {
                nest(&keeping, &names);
                nest(&names, &pool);
                nest(&keeping, &pool);
                nest(&a, &keeping);
                nest(&a, &b);
        }
        cas_rwlock_read(&r);
        nest(&a, &b);
        cas_rwlock_unlock(&r);
}

static void test_circles(void **state CAS_UNUSED)
{
        assert_dies(learned_circle, "test.a is taken while test.c is held",
                    "now:    test.c > test.a", "before: test.a > test.b",
                    "before: test.b > test.c");
        assert_dies(two_of_a_class, "two locks of one class");
        assert_dies(read_twice, "test.a is taken while test.r is held", "before: test.a > test.r");
        assert_dies(wait_while_another_is_held, "test.a is taken while test.b is held");
}

static void test_ranks(void **state CAS_UNUSED)
{
        assert_dies(against_ranks, "store.names is taken while packset is held",
                    "cas/mutex.h has it so");
        assert_dies(against_ranks_by_others, "store.names is taken while test.a is held",
                    "cas/mutex.h has it so", "before: packset > test.a");
        assert_dies(leaf_in_leaf, "both have rank");
}

static void test_right_order(void **state CAS_UNUSED)
{
        char said[TEXT_BYTES];
        assert_false(dies(right_order, said));
        assert_string_equal(said, "");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_circles),
                cmocka_unit_test(test_ranks),
                cmocka_unit_test(test_right_order),
        };
        return cmocka_run_group_tests(tests, setup, NULL);
}
