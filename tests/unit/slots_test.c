/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>

#include "fusefs/slots_int.h"

static struct cas_hash name_of(uint32_t i)
{
        struct cas_hash h;
        cas_sha256(&i, sizeof(i), &h);
        return h;
}

static struct ffs_slots *table_new(int *fd)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_slots *s;
        assert_int_equal(ffs_slots_create(&ffs_slots_objects, fd, &err), 0);
        assert_int_equal(ffs_slots_open(&ffs_slots_objects, *fd, &s, &err), 0);
        return s;
}

static uint64_t insert(struct ffs_slots *s, uint32_t i, uint64_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash h = name_of(i);
        uint64_t node = 0;
        assert_int_equal(ffs_slots_insert(s, &h, &size, &node, &err), 0);
        return node;
}

static void remembers_objects(void **state CAS_UNUSED)
{
        cas_cleanup_fd int fd = -1;
        ffs_cleanup_slots struct ffs_slots *s = table_new(&fd);
        uint64_t node = insert(s, 1, 100), again = insert(s, 1, 100), size = 0, found = 0;
        struct cas_hash h = name_of(1), got;
        assert_int_equal(node, again);
        assert_true(node >= FFS_NODE_FIRST);
        assert_true(ffs_slots_lookup(s, &h, &found, &size));
        assert_int_equal(found, node);
        assert_int_equal(size, 100);
        assert_true(ffs_slots_get(s, node, &got, &size));
        assert_true(cas_hash_equal(&got, &h));
        h = name_of(2);
        assert_false(ffs_slots_lookup(s, &h, &found, &size));
        assert_false(ffs_slots_get(s, node + 1, &got, &size));
        assert_false(ffs_slots_get(s, 1, &got, &size));
        assert_false(ffs_slots_get(s, node + (UINT64_C(1) << 32), &got, &size));
        assert_int_equal(ffs_slots_count(s), 1);
}

static void forgets_with_the_last_reference(void **state CAS_UNUSED)
{
        cas_cleanup_fd int fd = -1;
        ffs_cleanup_slots struct ffs_slots *s = table_new(&fd);
        uint64_t node = insert(s, 1, 5), size;
        struct cas_hash got;
        (void)insert(s, 1, 5);
        (void)insert(s, 1, 5);
        ffs_slots_forget(s, node, 2);
        assert_true(ffs_slots_get(s, node, &got, &size));
        ffs_slots_forget(s, node, 1);
        assert_false(ffs_slots_get(s, node, &got, &size));
        ffs_slots_forget(s, node, 1); /* of a node that is gone */
        assert_int_equal(ffs_slots_count(s), 0);
        /* The slot is used again, the node id never. */
        uint64_t other = insert(s, 2, 6);
        assert_int_not_equal(other, node);
        assert_int_equal(other & UINT32_MAX, node & UINT32_MAX);
        assert_false(ffs_slots_get(s, node, &got, &size));
        ffs_slots_forget(s, node, 1);
        assert_true(ffs_slots_get(s, other, &got, &size));
}

static void a_successor_reads_the_table(void **state CAS_UNUSED)
{
        enum { COUNT = 40000 };
        cas_cleanup_fd int fd = -1;
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_slots *s = table_new(&fd);
        cas_cleanup_free uint64_t *nodes = cas_xcalloc(COUNT, sizeof(nodes[0]));
        for (uint32_t i = 0; i < COUNT; i++)
                nodes[i] = insert(s, i, i);
        for (uint32_t i = 0; i < COUNT; i += 3)
                ffs_slots_forget(s, nodes[i], 1);
        ffs_slots_save_init(s, "hello", 5);
        ffs_slots_close(s);
        ffs_cleanup_slots struct ffs_slots *next = NULL;
        assert_int_equal(ffs_slots_open(&ffs_slots_objects, fd, &next, &err), 0);
        size_t len;
        assert_memory_equal(ffs_slots_init(next, &len), "hello", 5);
        assert_int_equal(len, 5);
        assert_int_equal(ffs_slots_count(next), COUNT - (COUNT + 2) / 3);
        for (uint32_t i = 0; i < COUNT; i++) {
                struct cas_hash h = name_of(i), got;
                uint64_t size, node;
                assert_int_equal(ffs_slots_get(next, nodes[i], &got, &size), i % 3 != 0);
                assert_int_equal(ffs_slots_lookup(next, &h, &node, &size), i % 3 != 0);
                if (i % 3) {
                        assert_int_equal(node, nodes[i]);
                        assert_int_equal(size, i);
                }
        }
        for (uint32_t i = 0; i < COUNT; i += 3)
                assert_int_not_equal(insert(next, i, i), nodes[i]);
}

static void refuses_what_is_no_table(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_slots *s;
        cas_cleanup_fd int fd = -1;
        assert_int_equal(ffs_slots_create(&ffs_slots_objects, &fd, &err), 0);
        assert_int_equal(ftruncate(fd, 100), 0);
        assert_int_equal(ffs_slots_open(&ffs_slots_objects, fd, &s, &err), -CAS_E_CORRUPT);
        assert_int_equal(ftruncate(fd, 8192), 0);
        uint32_t many = 1000, version = 99;
        assert_int_equal(pwrite(fd, &many, 4, 20), 4); /* more slots than the file has */
        assert_int_equal(ffs_slots_open(&ffs_slots_objects, fd, &s, &err), -CAS_E_CORRUPT);
        assert_int_equal(pwrite(fd, &version, 4, 8), 4);
        assert_int_equal(ffs_slots_open(&ffs_slots_objects, fd, &s, &err), -CAS_E_UNSUPPORTED);
        assert_int_equal(pwrite(fd, &version, 4, 0), 4);
        assert_int_equal(ffs_slots_open(&ffs_slots_objects, fd, &s, &err), -CAS_E_CORRUPT);
}

static void *churn(void *arg)
{
        struct ffs_slots *s = arg;
        for (uint32_t round = 0; round < 200; round++) {
                for (uint32_t i = 0; i < 50; i++) {
                        struct cas_err err = CAS_ERR_INIT;
                        struct cas_hash h = name_of(i), got;
                        uint64_t node, size;
                        if (ffs_slots_insert(s, &h, &(uint64_t){i}, &node, &err) < 0 ||
                            !ffs_slots_get(s, node, &got, &size) || !cas_hash_equal(&got, &h) ||
                            size != i)
                                return s;
                        ffs_slots_forget(s, node, 1);
                }
        }
        return NULL;
}

static void many_threads_at_once(void **state CAS_UNUSED)
{
        cas_cleanup_fd int fd = -1;
        ffs_cleanup_slots struct ffs_slots *s = table_new(&fd);
        pthread_t threads[4];
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, churn, s), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++) {
                void *failed;
                assert_int_equal(pthread_join(threads[i], &failed), 0);
                assert_null(failed);
        }
        assert_int_equal(ffs_slots_count(s), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(remembers_objects),
                cmocka_unit_test(forgets_with_the_last_reference),
                cmocka_unit_test(a_successor_reads_the_table),
                cmocka_unit_test(refuses_what_is_no_table),
                cmocka_unit_test(many_threads_at_once),
        };
        return cmocka_run_group_tests_name("slots", tests, NULL, NULL);
}
