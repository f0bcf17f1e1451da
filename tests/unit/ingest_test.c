/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/chunker.h"
#include "cas/packwriter_int.h"
#include "cas/verity.h"
#include "tests/support/packs.h"

static int setup(void **state)
{
        static struct test_packs t;
        test_packs_init(&t, NULL);
        *state = &t;
        return 0;
}

static int teardown(void **state)
{
        test_packs_release(*state);
        return 0;
}

static uint8_t *some_bytes(uint64_t seed, size_t len)
{
        struct test_random r = {seed};
        uint8_t *data = cas_xmalloc(len ? len : 1);
        test_random_fill(&r, data, len);
        return data;
}

static void assert_holds(struct test_packs *t, const struct cas_hash *id, const uint8_t *data,
                         size_t len)
{
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        struct cas_object_info info;
        test_ok(cas_object_stat(&t->store, id, &info, err));
        assert_int_equal(info.size_bytes, len);
        test_ok(cas_object_read(&t->store, id, len, &got, err));
        assert_int_equal(got.len_bytes, len);
        if (len)
                assert_memory_equal(got.data, data, len);
}

/* Sizes around every boundary: empty, one byte, the longest single chunk, the batch. */
static void gives_back_what_went_in(void **state)
{
        struct test_packs *t = *state;
        static const size_t sizes[] = {0,
                                       1,
                                       4096,
                                       CAS_CHUNK_SMALL_BYTES_MAX - 1,
                                       CAS_CHUNK_SMALL_BYTES_MAX,
                                       CAS_CHUNK_SMALL_BYTES_MAX + 1,
                                       CAS_MIB - 1,
                                       CAS_MIB,
                                       CAS_MIB + 1,
                                       5 * CAS_MIB + 12345};
        struct cas_hash ids[CAS_COUNT(sizes)];
        uint8_t *data[CAS_COUNT(sizes)];
        struct cas_ingest *in = cas_ingest_new(t->store.packset, NULL);
        for (size_t i = 0; i < CAS_COUNT(sizes); i++) {
                data[i] = some_bytes(i, sizes[i]);
                test_ingest_object(in, data[i], sizes[i], &ids[i]);
        }
        test_ok(cas_ingest_drain(in, err));
        for (size_t i = 0; i < CAS_COUNT(sizes); i++) {
                struct cas_hash expected;
                cas_verity_of(data[i], sizes[i], &expected);
                assert_true(cas_hash_equal(&ids[i], &expected));
        }
        test_packs_publish(t, in);
        cas_ingest_free(in);
        for (unsigned round = 0; round < 2; round++) {
                for (size_t i = 0; i < CAS_COUNT(sizes); i++)
                        assert_holds(t, &ids[i], data[i], sizes[i]);
                test_packs_close(t);
                test_packs_open(t);
        }
        for (size_t i = 0; i < CAS_COUNT(sizes); i++)
                free(data[i]);
}

static void what_is_there_costs_no_space(void **state)
{
        struct test_packs *t = *state;
        const size_t len = 3 * CAS_MIB;
        cas_cleanup_free uint8_t *data = some_bytes(7, len);
        struct cas_hash id, again;
        unsigned packs;
        test_packs_put(t, data, len, &id);
        test_packs_put(t, data, 1000, &again);
        uint64_t before = test_packs_bytes(t, &packs);
        test_packs_put(t, data, len, &again);
        assert_true(cas_hash_equal(&id, &again));
        test_packs_put(t, data, 1000, &again);
        assert_int_equal(test_packs_bytes(t, &packs), before);
        assert_int_equal(packs, 1);
        /* An insertion costs the chunks around it and the list. */
        uint64_t small = CAS_PACK_RECORD_BYTES + 64 * CAS_PACK_CHUNK_BYTES;
        memmove(data + 1, data, len - 1);
        test_packs_put(t, data, len, &again);
        assert_false(cas_hash_equal(&id, &again));
        assert_holds(t, &again, data, len);
        assert_in_range(test_packs_bytes(t, &packs), before,
                        before + 2 * CAS_CHUNKER_BYTES_MAX + 2 * small);
}

static void what_is_dropped_is_not_found(void **state)
{
        struct test_packs *t = *state;
        cas_cleanup_free uint8_t *data = some_bytes(3, 2 * CAS_MIB);
        struct cas_hash id;
        struct cas_object_info info;
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_ingest *in = cas_ingest_new(t->store.packset, NULL);
        test_ingest_object(in, data, 2 * CAS_MIB, &id);
        test_ok(cas_ingest_drain(in, err));
        cas_ingest_free(in);
        assert_int_equal(cas_object_stat(&t->store, &id, &info, &reason), -CAS_E_NOTFOUND);
        test_packs_put(t, data, 2 * CAS_MIB, &id);
        assert_holds(t, &id, data, 2 * CAS_MIB);
}

/* B needs a chunk that waits in A's open block: B's commit writes that block, and A's end,
 * whatever it is, takes nothing from B. */
static void publications_share_open_blocks(void **state)
{
        struct test_packs *t = *state;
        for (unsigned drop = 0; drop < 2; drop++) {
                cas_cleanup_free uint8_t *data = some_bytes(100 + drop, 5000);
                struct cas_hash ida, idb;
                struct cas_ingest *a = cas_ingest_new(t->store.packset, NULL);
                struct cas_ingest *b = cas_ingest_new(t->store.packset, NULL);
                test_ingest_object(a, data, 5000, &ida);
                test_ok(cas_ingest_drain(a, err));
                test_ingest_object(b, data, 5000, &idb);
                test_ok(cas_ingest_drain(b, err));
                assert_true(cas_hash_equal(&ida, &idb));
                if (drop)
                        cas_ingest_free(a);
                test_packs_publish(t, b);
                cas_ingest_free(b);
                assert_holds(t, &idb, data, 5000);
                if (!drop) {
                        test_packs_publish(t, a);
                        cas_ingest_free(a);
                }
                test_packs_close(t);
                test_packs_open(t);
                assert_holds(t, &idb, data, 5000);
        }
}

struct import {
        struct test_packs *t;
        uint64_t seed;
        uint8_t *common;
        struct cas_hash ids[64];
        struct cas_hash own;
};

static void *run_import(void *arg)
{
        struct import *im = arg;
        struct cas_ingest *in = cas_ingest_new(im->t->store.packset, NULL);
        cas_cleanup_free uint8_t *own = some_bytes(im->seed, 600000);
        for (size_t i = 0; i < CAS_COUNT(im->ids); i++)
                test_ingest_object(in, im->common + i * 20000, 20000, &im->ids[i]);
        test_ingest_object(in, own, 600000, &im->own);
        test_packs_publish(im->t, in);
        cas_ingest_free(in);
        return NULL;
}

static void parallel_imports_store_shared_content_once(void **state)
{
        struct test_packs *t = *state;
        const size_t len = 64 * 20000;
        cas_cleanup_free uint8_t *common = some_bytes(55, len);
        struct import imports[4];
        pthread_t threads[4];
        for (unsigned i = 0; i < 4; i++) {
                imports[i] = (struct import){.t = t, .seed = 1000 + i, .common = common};
                assert_int_equal(pthread_create(&threads[i], NULL, run_import, &imports[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_free uint8_t *own = some_bytes(1000 + i, 600000);
                assert_holds(t, &imports[i].own, own, 600000);
                for (size_t k = 0; k < 64; k++)
                        assert_holds(t, &imports[i].ids[k], common + k * 20000, 20000);
        }
        /* 4 bits of each byte are random: twice the size of everything once is far below what
         * four copies of the common part would need. */
        unsigned packs;
        uint64_t raw_once = len + 4 * 600000;
        assert_in_range(test_packs_bytes(t, &packs), raw_once / 3, raw_once * 3 / 4);
}

static void many_small_objects_go_to_the_index_on_the_way(void **state)
{
        struct test_packs *t = *state;
        enum { COUNT = 40000 };
        struct cas_ingest *in = cas_ingest_new(t->store.packset, NULL);
        cas_cleanup_free struct cas_hash *ids = cas_xcalloc(COUNT, sizeof(*ids));
        for (unsigned i = 0; i < COUNT; i++)
                test_ingest_object(in, &i, sizeof(i), &ids[i]);
        test_ok(cas_ingest_drain(in, err));
        struct cas_object_info info;
        struct cas_err reason = CAS_ERR_INIT;
        assert_int_equal(cas_object_stat(&t->store, &ids[0], &info, &reason), 0);
        assert_int_equal(cas_object_stat(&t->store, &ids[COUNT - 1], &info, &reason),
                         -CAS_E_NOTFOUND);
        test_packs_publish(t, in);
        cas_ingest_free(in);
        for (unsigned i = 0; i < COUNT; i += 997)
                assert_holds(t, &ids[i], (uint8_t *)&i, sizeof(i));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(gives_back_what_went_in, setup, teardown),
                cmocka_unit_test_setup_teardown(what_is_there_costs_no_space, setup, teardown),
                cmocka_unit_test_setup_teardown(what_is_dropped_is_not_found, setup, teardown),
                cmocka_unit_test_setup_teardown(publications_share_open_blocks, setup, teardown),
                cmocka_unit_test_setup_teardown(parallel_imports_store_shared_content_once, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(many_small_objects_go_to_the_index_on_the_way,
                                                setup, teardown),
        };
        return cmocka_run_group_tests_name("ingest", tests, NULL, NULL);
}
