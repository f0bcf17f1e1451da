/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "registry/ratelimit.h"

#define SECOND UINT64_C(1000000000)

static unsigned take_many(struct reg_limiter *l, const char *key, uint64_t now_ns, unsigned count)
{
        unsigned taken = 0;
        uint64_t wait_ns;
        for (unsigned i = 0; i < count; i++)
                taken += reg_limiter_take(l, key, now_ns, &wait_ns);
        return taken;
}

static void a_burst_then_the_rate(void **state CAS_UNUSED)
{
        struct reg_limiter *l = reg_limiter_new(10, 1, 5);
        uint64_t now = 100 * SECOND, wait_ns;
        assert_int_equal(take_many(l, "a", now, 100), 5);
        assert_false(reg_limiter_take(l, "a", now, &wait_ns));
        assert_true(wait_ns > 0 && wait_ns <= SECOND / 10);
        assert_int_equal(reg_limiter_wait_ns(l, "a", now), wait_ns);
        assert_int_equal(reg_limiter_wait_ns(l, "a", now + wait_ns), 0);
        assert_int_equal(take_many(l, "a", now + wait_ns, 10), 1);
        assert_int_equal(take_many(l, "b", now, 100), 5);
        /* ten a second from then on */
        unsigned taken = 0;
        for (unsigned ms = 100; ms <= 10000; ms += 10)
                taken += take_many(l, "c", now + ms * (SECOND / 1000), 3);
        assert_in_range(taken, 99 + 5 - 2, 99 + 5 + 2);
        reg_limiter_free(l);
}

/* Many addresses once make nobody forgotten who is over the rate. */
static void floods_of_keys_do_not_forgive(void **state CAS_UNUSED)
{
        struct reg_limiter *l = reg_limiter_new(60, 60, 100);
        uint64_t now = 100 * SECOND, wait_ns;
        char key[32];
        assert_int_equal(take_many(l, "bad", now, 1000), 100);
        for (unsigned i = 0; i < 200000; i++) {
                (void)snprintf(key, sizeof(key), "10.%u.%u", i / 256, i % 256);
                assert_true(reg_limiter_take(l, key, now, &wait_ns));
        }
        assert_false(reg_limiter_take(l, "bad", now, &wait_ns));
        reg_limiter_free(l);
}

struct many {
        struct reg_limiter *limiter;
        atomic_uint taken;
};

static void *take_in_thread(void *arg)
{
        struct many *m = arg;
        atomic_fetch_add(&m->taken, take_many(m->limiter, "a", SECOND, 100000));
        return NULL;
}

static void threads_do_not_get_more(void **state CAS_UNUSED)
{
        struct many m = {.limiter = reg_limiter_new(1, 86400, 1000)};
        uint64_t wait_ns;
        pthread_t threads[4];
        assert_true(reg_limiter_take(m.limiter, "a", SECOND, &wait_ns));
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, take_in_thread, &m), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(atomic_load(&m.taken), 999);
        reg_limiter_free(m.limiter);
}

static void one_key_for_a_network(void **state CAS_UNUSED)
{
        static const struct {
                const char *address, *key;
        } cases[] = {
                {"10.1.2.3", "10.1.2.3"},
                {"::ffff:10.1.2.3", "10.1.2.3"},
                {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
                {"2001:db8:1:2::9", "2001:db8:1:2::"},
                {"::1", "::"},
                {"unix", "unix"},
        };
        char key[REG_CLIENT_KEY_BYTES];
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                reg_client_key(cases[i].address, key);
                assert_string_equal(key, cases[i].key);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_burst_then_the_rate),
                cmocka_unit_test(floods_of_keys_do_not_forgive),
                cmocka_unit_test(threads_do_not_get_more),
                cmocka_unit_test(one_key_for_a_network),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
