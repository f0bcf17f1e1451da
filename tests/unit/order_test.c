/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/order.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static void fill(struct cas_hash *ids, size_t count)
{
        for (size_t i = 0; i < count; i++)
                cas_sha256(&i, sizeof(i), &ids[i]);
}

static void what_is_noted_is_found_again(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest a = test_digest("a"), b = test_digest("b");
        cas_cleanup_free struct cas_hash *ids = cas_xcalloc(5000, sizeof(*ids));
        struct cas_hash *got;
        size_t count;
        fill(ids, 5000);
        ok(cas_order_put(t->store, "repo", &a, ids, 5000, &err));
        teststore_reopen(t);
        ok(cas_order_get(t->store, &a, &got, &count, SIZE_MAX, &err));
        assert_int_equal(count, CAS_ORDER_OBJECTS_MAX);
        assert_memory_equal(got, ids, count * sizeof(*ids));
        free(got);
        ok(cas_order_get(t->store, &a, &got, &count, 7, &err));
        assert_int_equal(count, 7);
        free(got);
        ok(cas_order_get(t->store, &b, &got, &count, 7, &err));
        assert_int_equal(count, 0);
        assert_null(got);
}

/* Images of files seed … seed + 11: version 2 has files 0 to 5 of version 1 moved to other names,
 * so what counts is which names both have. */
static void the_next_version_profits_by_names(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage one, two;
        cas_cleanup_listing struct cas_listing l1 = {0}, l2 = {0};
        struct cas_hash ids[3], *got;
        size_t count;
        ok(testimage_put(t->store, "app", "1", 1, 12, &one, &err));
        ok(testimage_put(t->store, "app", "2", 100, 12, &two, &err));
        ok(cas_layer_listing(t->store, &one.layer, &l1, &err));
        ok(cas_layer_listing(t->store, &two.layer, &l2, &err));
        ids[0] = l1.entries[l1.count - 1].object;
        ids[1] = l1.entries[l1.count - 3].object;
        fill(ids + 2, 1);
        ok(cas_order_put(t->store, "app", &one.manifest, ids, 3, &err));
        ok(cas_order_find(t->store, "app", &two.manifest, &got, &count, 100, &err));
        assert_int_equal(count, 2);
        assert_string_equal(l1.entries[l1.count - 1].path, l2.entries[l2.count - 1].path);
        assert_memory_equal(&got[0], &l2.entries[l2.count - 1].object, sizeof(got[0]));
        assert_memory_equal(&got[1], &l2.entries[l2.count - 3].object, sizeof(got[0]));
        free(got);
        ok(cas_order_find(t->store, "app", &one.manifest, &got, &count, 2, &err));
        assert_int_equal(count, 2);
        free(got);
        ok(cas_order_find(t->store, "other", &two.manifest, &got, &count, 2, &err));
        assert_int_equal(count, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(what_is_noted_is_found_again, teststore_setup,
                                                teststore_teardown),
                cmocka_unit_test_setup_teardown(the_next_version_profits_by_names, teststore_setup,
                                                teststore_teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
