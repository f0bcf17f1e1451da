/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <cmocka.h>

#include "cas/limits.h"
#include "cas/spool.h"
#include "tests/support/packs.h"
#include "tests/support/teststore.h"

#define TOTAL (3 * CAS_MIB + 12345)

static unsigned files_in_uploads(struct cas_store *s)
{
        unsigned count = 0;
        DIR *dir = fdopendir(
                openat(cas_store_dirfd(s), "uploads", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        assert_non_null(dir);
        for (struct dirent *e; (e = readdir(dir));)
                count += e->d_name[0] != '.';
        (void)closedir(dir);
        return count;
}

static void check(struct cas_spool *sp, const uint8_t *want, size_t len, struct test_random *r)
{
        cas_cleanup_free uint8_t *buf = cas_xmalloc(len + 1);
        assert_int_equal(cas_spool_bytes(sp), len);
        test_ok(cas_spool_read(sp, 0, buf, len, err));
        assert_memory_equal(buf, want, len);
        for (unsigned i = 0; i < 100; i++) {
                size_t at = test_random_next(r) % (len + 1);
                size_t n = test_random_next(r) % (len - at + 1);
                test_ok(cas_spool_read(sp, at, buf, n, err));
                assert_memory_equal(buf, want + at, n);
        }
}

static void keeps_what_it_is_given(void **state)
{
        struct teststore *t = *state;
        struct test_random r = {3};
        cas_cleanup_free uint8_t *data = cas_xmalloc(TOTAL);
        cas_cleanup_spool struct cas_spool *sp = cas_spool_new(t->store);
        cas_cleanup_spool struct cas_spool *copy = cas_spool_new(t->store);
        test_random_fill(&r, data, TOTAL);
        for (size_t at = 0, n; at < TOTAL; at += n) {
                n = cas_min_u64(test_random_next(&r) % 30000, TOTAL - at);
                test_ok(cas_spool_append(sp, data + at, n, err));
                if (at < 100000)
                        check(sp, data, at + n, &r);
        }
        check(sp, data, TOTAL, &r);
        assert_int_equal(files_in_uploads(t->store), 0);
        test_ok(cas_spool_append_spool(copy, sp, err));
        check(copy, data, TOTAL, &r);
}

static void forgets_what_is_cut_off(void **state)
{
        struct teststore *t = *state;
        struct test_random r = {4};
        cas_cleanup_free uint8_t *data = cas_xmalloc(TOTAL);
        cas_cleanup_spool struct cas_spool *sp = cas_spool_new(t->store);
        test_random_fill(&r, data, TOTAL);
        static const size_t cuts[] = {TOTAL - 5, 2 * CAS_MIB + 1, CAS_MIB, 7, 0};
        test_ok(cas_spool_append(sp, data, TOTAL, err));
        for (unsigned i = 0; i < CAS_COUNT(cuts); i++) {
                cas_spool_truncate(sp, cuts[i]);
                check(sp, data, cuts[i], &r);
                test_ok(cas_spool_append(sp, data + cuts[i], TOTAL - cuts[i], err));
                check(sp, data, TOTAL, &r);
        }
}

/* Readers that follow the one who appends. */
struct following {
        struct cas_spool *spool;
        const uint8_t *data;
        _Atomic size_t made;
        _Atomic unsigned wrong;
};

static void *follow(void *arg)
{
        struct following *f = arg;
        uint8_t piece[5000];
        for (size_t at = 0; at < TOTAL;) {
                size_t n = cas_min_u64(sizeof(piece), atomic_load(&f->made) - at);
                struct cas_err err = CAS_ERR_INIT;
                if (n > 0 && (cas_spool_read(f->spool, at, piece, n, &err) < 0 ||
                              memcmp(piece, f->data + at, n) != 0)) {
                        atomic_fetch_add(&f->wrong, 1);
                        return NULL;
                }
                at += n;
        }
        return NULL;
}

static void is_read_while_it_grows(void **state)
{
        struct teststore *t = *state;
        struct test_random r = {5};
        cas_cleanup_free uint8_t *data = cas_xmalloc(TOTAL);
        cas_cleanup_spool struct cas_spool *sp = cas_spool_new(t->store);
        struct following f = {.spool = sp, .data = data};
        pthread_t threads[3];
        test_random_fill(&r, data, TOTAL);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(pthread_create(&threads[i], NULL, follow, &f), 0);
        for (size_t at = 0, n; at < TOTAL; at += n) {
                n = cas_min_u64(test_random_next(&r) % 30000, TOTAL - at);
                test_ok(cas_spool_append(sp, data + at, n, err));
                atomic_store(&f.made, at + n);
        }
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(f.wrong, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(keeps_what_it_is_given, teststore_setup,
                                                teststore_teardown),
                cmocka_unit_test_setup_teardown(is_read_while_it_grows, teststore_setup,
                                                teststore_teardown),
                cmocka_unit_test_setup_teardown(forgets_what_is_cut_off, teststore_setup,
                                                teststore_teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
