/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "fusefs/cache_int.h"

static _Atomic int loads, frees;

static void free_number(void *value)
{
        atomic_fetch_add(&frees, 1);
        free(value);
}

struct wish {
        uint64_t number;
        size_t weight;
        int fail;
};

static int load_number(void *arg, void **value, size_t *weight, struct cas_err *err)
{
        const struct wish *w = arg;
        atomic_fetch_add(&loads, 1);
        if (w->fail)
                return cas_fail(err, CAS_E_IO, "as asked");
        uint64_t *n = cas_xmalloc(sizeof(*n));
        *n = w->number;
        *value = n;
        *weight = w->weight;
        return 0;
}

static uint64_t *get(struct ffs_cache *c, uint64_t number, size_t weight)
{
        struct cas_err err = CAS_ERR_INIT;
        struct wish w = {.number = number, .weight = weight};
        struct ffs_cache_key key = {.a = number};
        void *value;
        assert_int_equal(ffs_cache_get(c, &key, load_number, &w, &value, &err), 0);
        assert_int_equal(*(uint64_t *)value, number);
        return value;
}

static void put(struct ffs_cache *c, uint64_t number, void *value)
{
        struct ffs_cache_key key = {.a = number};
        ffs_cache_put(c, &key, value);
}

static int begin(void **state CAS_UNUSED)
{
        atomic_store(&loads, 0);
        atomic_store(&frees, 0);
        return 0;
}

static void the_oldest_goes_first(void **state CAS_UNUSED)
{
        struct ffs_cache *c = ffs_cache_new("test", 30, free_number);
        for (uint64_t i = 0; i < 3; i++)
                put(c, i, get(c, i, 10));
        put(c, 0, get(c, 0, 10)); /* now 1 is the oldest */
        put(c, 3, get(c, 3, 10));
        assert_int_equal(ffs_cache_weight(c), 30);
        assert_int_equal(loads, 4);
        put(c, 0, get(c, 0, 10));
        assert_int_equal(loads, 4);
        put(c, 1, get(c, 1, 10));
        assert_int_equal(loads, 5);
        void *used = get(c, 1, 10);
        ffs_cache_trim(c, 15);
        assert_int_equal(ffs_cache_weight(c), 10);
        put(c, 1, used);
        ffs_cache_trim(c, 0);
        assert_int_equal(ffs_cache_weight(c), 0);
        ffs_cache_free(c);
        assert_int_equal(frees, 5);
}

static void what_is_used_stays(void **state CAS_UNUSED)
{
        struct ffs_cache *c = ffs_cache_new("test", 10, free_number);
        uint64_t *a = get(c, 1, 10), *b = get(c, 2, 10);
        assert_int_equal(ffs_cache_weight(c), 20);
        assert_int_equal(frees, 0);
        put(c, 1, a);
        assert_int_equal(frees, 1); /* over the limit: it goes at once */
        put(c, 2, b);
        assert_int_equal(frees, 1);
        ffs_cache_free(c);
}

static void failures_are_not_kept(void **state CAS_UNUSED)
{
        struct ffs_cache *c = ffs_cache_new("test", 10, free_number);
        struct cas_err err = CAS_ERR_INIT;
        struct wish w = {.fail = 1};
        struct ffs_cache_key key = {.a = 1};
        void *value;
        assert_int_equal(ffs_cache_get(c, &key, load_number, &w, &value, &err), -CAS_E_IO);
        put(c, 1, get(c, 1, 1));
        assert_int_equal(loads, 2);
        ffs_cache_free(c);
}

static void dropped_values_are_loaded_anew(void **state CAS_UNUSED)
{
        struct ffs_cache *c = ffs_cache_new("test", 100, free_number);
        struct ffs_cache_key key = {.a = 1};
        uint64_t *old = get(c, 1, 1);
        ffs_cache_drop(c, &key);
        ffs_cache_drop(c, &key);
        uint64_t *new = get(c, 1, 1);
        assert_ptr_not_equal(old, new);
        assert_int_equal(*old, 1); /* still there for its user */
        put(c, 1, old);
        assert_int_equal(frees, 1);
        put(c, 1, new);
        ffs_cache_drop(c, &key);
        assert_int_equal(frees, 2);
        assert_int_equal(ffs_cache_weight(c), 0);
        ffs_cache_free(c);
}

static void *hammer(void *arg)
{
        struct ffs_cache *c = arg;
        for (uint64_t i = 0; i < 20000; i++) {
                uint64_t n = (i * 7) % 40;
                struct cas_err err = CAS_ERR_INIT;
                struct wish w = {.number = n, .weight = 1, .fail = i % 97 == 0};
                struct ffs_cache_key key = {.a = n};
                void *value;
                if (ffs_cache_get(c, &key, load_number, &w, &value, &err) < 0)
                        continue;
                if (*(uint64_t *)value != n)
                        return c;
                if (i % 31 == 0)
                        ffs_cache_drop(c, &key);
                ffs_cache_put(c, &key, value);
        }
        return NULL;
}

static void many_threads_at_once(void **state CAS_UNUSED)
{
        struct ffs_cache *c = ffs_cache_new("test", 20, free_number);
        pthread_t threads[4];
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, hammer, c), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++) {
                void *failed;
                assert_int_equal(pthread_join(threads[i], &failed), 0);
                assert_null(failed);
        }
        assert_true(ffs_cache_weight(c) <= 20);
        ffs_cache_free(c);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(the_oldest_goes_first, begin),
                cmocka_unit_test_setup(what_is_used_stays, begin),
                cmocka_unit_test_setup(failures_are_not_kept, begin),
                cmocka_unit_test_setup(dropped_values_are_loaded_anew, begin),
                cmocka_unit_test_setup(many_threads_at_once, begin),
        };
        return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
