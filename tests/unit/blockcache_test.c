/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <xxhash.h>
#include <cmocka.h>

#include "cas/blockcache.h"
#include "cas/mutex.h"
#include "tests/support/packs.h"

#define BLOCK 1000
#define BLOCKS 20

struct fixture {
        int fd; /* BLOCKS blocks as they are, each filled with its number */
        struct cas_extent extents[BLOCKS];
};

static int setup(void **state)
{
        static struct fixture f;
        uint8_t raw[BLOCK];
        f.fd = memfd_create("pack", MFD_CLOEXEC);
        for (unsigned i = 0; i < BLOCKS; i++) {
                memset(raw, (int)i, BLOCK);
                test_ok(cas_io_pwrite_all(cas_io_posix(), f.fd, raw, BLOCK, i * BLOCK, "x", err));
                f.extents[i] = (struct cas_extent){.pack_id = 1,
                                                   .block_offset = i * BLOCK,
                                                   .block_stored_bytes = BLOCK,
                                                   .block_raw_bytes = BLOCK,
                                                   .length_bytes = BLOCK,
                                                   .block_checksum = XXH3_64bits(raw, BLOCK)};
        }
        *state = &f;
        return 0;
}

static int teardown(void **state)
{
        (void)close(((struct fixture *)*state)->fd);
        return 0;
}

static bool is_kept(struct cas_blockcache *c, const struct cas_extent *e)
{
        struct cas_block *b = cas_blockcache_find(c, e);
        if (b)
                cas_blockcache_put(c, b);
        return b != NULL;
}

static void touch(struct fixture *f, struct cas_blockcache *c, unsigned i)
{
        struct cas_block *b;
        test_ok(cas_blockcache_get(c, f->fd, &f->extents[i], &b, err));
        assert_int_equal(b->length_bytes, BLOCK);
        assert_int_equal(b->data[BLOCK - 1], i);
        cas_blockcache_put(c, b);
}

static void keeps_the_most_recent(void **state)
{
        struct fixture *f = *state;
        struct cas_blockcache *c = cas_blockcache_new(3 * BLOCK);
        for (unsigned i = 0; i < 3; i++)
                touch(f, c, i);
        touch(f, c, 0);
        touch(f, c, 3);
        assert_true(is_kept(c, &f->extents[0]));
        assert_false(is_kept(c, &f->extents[1]));
        assert_true(is_kept(c, &f->extents[2]));
        assert_true(is_kept(c, &f->extents[3]));
        cas_blockcache_free(c);
}

static void what_is_in_use_stays(void **state)
{
        struct fixture *f = *state;
        struct cas_blockcache *c = cas_blockcache_new(2 * BLOCK);
        struct cas_block *held[5];
        for (unsigned i = 0; i < 5; i++)
                test_ok(cas_blockcache_get(c, f->fd, &f->extents[i], &held[i], err));
        for (unsigned i = 0; i < 5; i++)
                assert_int_equal(held[i]->data[0], i);
        for (unsigned i = 0; i < 5; i++)
                cas_blockcache_put(c, held[i]);
        unsigned kept = 0;
        for (unsigned i = 0; i < 5; i++)
                kept += is_kept(c, &f->extents[i]);
        assert_int_equal(kept, 2);
        cas_blockcache_free(c);
}

static void a_cache_of_nothing_still_reads(void **state)
{
        struct fixture *f = *state;
        struct cas_blockcache *c = cas_blockcache_new(0);
        touch(f, c, 4);
        assert_false(is_kept(c, &f->extents[4]));
        cas_blockcache_free(c);
}

static void what_is_damaged_is_not_kept(void **state)
{
        struct fixture *f = *state;
        struct cas_blockcache *c = cas_blockcache_new(10 * BLOCK);
        struct cas_extent bad = f->extents[0];
        struct cas_block *b = NULL;
        struct cas_err reason = CAS_ERR_INIT;
        bad.block_checksum ^= 1;
        for (unsigned i = 0; i < 2; i++)
                assert_int_equal(cas_blockcache_get(c, f->fd, &bad, &b, &reason), -CAS_E_CORRUPT);
        assert_null(b);
        bad.block_raw_bytes = UINT32_MAX;
        assert_int_equal(cas_blockcache_get(c, f->fd, &bad, &b, &reason), -CAS_E_LIMIT);
        touch(f, c, 0); /* the same place, the right checksum */
        cas_blockcache_free(c);
}

struct user {
        struct fixture *f;
        struct cas_blockcache *c;
        uint64_t seed;
};

static void *use_much(void *arg)
{
        struct user *u = arg;
        struct test_random r = {u->seed};
        for (unsigned i = 0; i < 3000; i++) {
                unsigned index = (unsigned)(test_random_next(&r) % BLOCKS);
                struct cas_extent e = u->f->extents[index];
                struct cas_err err = CAS_ERR_INIT;
                struct cas_block *b;
                bool bad = i % 7 == 0;
                if (bad)
                        e.block_checksum ^= 1;
                int rc = cas_blockcache_get(u->c, u->f->fd, &e, &b, &err);
                cas_assert(rc == (bad ? -CAS_E_CORRUPT : 0));
                if (rc == 0) {
                        cas_assert(b->data[0] == index);
                        cas_assert(b->data[BLOCK - 1] == index);
                        cas_blockcache_put(u->c, b);
                }
        }
        return NULL;
}

static void many_threads_use_it(void **state)
{
        struct cas_blockcache *c = cas_blockcache_new(4 * BLOCK);
        pthread_t threads[4];
        struct user users[4];
        for (unsigned i = 0; i < 4; i++) {
                users[i] = (struct user){.f = *state, .c = c, .seed = i};
                assert_int_equal(pthread_create(&threads[i], NULL, use_much, &users[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        cas_blockcache_free(c); /* asserts that nothing is left */
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(keeps_the_most_recent),
                cmocka_unit_test(what_is_in_use_stays),
                cmocka_unit_test(a_cache_of_nothing_still_reads),
                cmocka_unit_test(what_is_damaged_is_not_kept),
                cmocka_unit_test(many_threads_use_it),
        };
        return cmocka_run_group_tests_name("blockcache", tests, setup, teardown);
}
