/* SPDX-License-Identifier: Apache-2.0 */
/* Which pieces the pool of owners has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tools/uid_pool.h"

static void check(const char *subuid, const char *subgid, const uint32_t *want, size_t count)
{
        uint32_t from = 1, first;
        for (size_t i = 0; i < count; i++) {
                assert_true(uid_pool_next(subuid, subgid, from, &first));
                assert_int_equal(first, want[i]);
                from = first + 1;
        }
        assert_false(uid_pool_next(subuid, subgid, from, &first));
}

static void pieces(void **state)
{
        (void)state;
        static const uint32_t two[] = {100000, 165536};
        check("lamina:100000:131072\n", "lamina:100000:131072\n", two, 2);
        check("lamina:100000:196607\n", "lamina:100000:131073\n", two, 2);
        static const uint32_t apart[] = {100000, 500000, 565536, 631072};
        check("lamina:500000:200000\nx:1:99999999\nlamina:100000:65536\n",
              "lamina:100000:65536\nlamina:500000:200000\n", apart, 4);
        static const uint32_t last[] = {4294901759U};
        check("lamina:4294901759:65536", "lamina:4294901759:65536", last, 1);
}

static void none(void **state)
{
        (void)state;
        check("", "", NULL, 0);
        check("lamina:100000:65535\n", "lamina:100000:65536\n", NULL, 0);
        check("lamina:100000:65536\n", "", NULL, 0);
        check("lamina:100000:65536\n", "lamina:200000:65536\n", NULL, 0);
        check("4294967295:100000:65536\n", "lamina:100000:65536\n", NULL, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(pieces), cmocka_unit_test(none)};
        return cmocka_run_group_tests(tests, NULL, NULL);
}
