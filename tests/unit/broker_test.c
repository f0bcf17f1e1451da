/* SPDX-License-Identifier: Apache-2.0 */
/* Whom the broker listens to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "fusefs/broker.h"

static bool subordinate(const char *text, uint32_t uid)
{
        return ffs_broker_is_subordinate(text, strlen(text), uid);
}

static void subordinate_ids_are_no_users(void **state CAS_UNUSED)
{
        static const char text[] = "alice:100000:65536\n1001:231072:2\n";
        assert_false(subordinate(text, 1000));
        assert_false(subordinate(text, 99999));
        assert_true(subordinate(text, 100000));
        assert_true(subordinate(text, 165535));
        assert_false(subordinate(text, 165536));
        assert_true(subordinate(text, 231073));
        assert_false(subordinate(text, 231074));
        assert_true(subordinate("a:5:1", 5)); /* the last line may have no end */
}

static void strange_lines_say_nothing(void **state CAS_UNUSED)
{
        assert_false(subordinate("", 0));
        assert_false(subordinate("alice\nbob:\ncarol:100000\ndave:x:y\n", 100000));
        assert_false(subordinate("alice:100000:0\n", 100000));
        assert_true(subordinate("junk\n::\nalice:7:99999999999\n", 4000000000U));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(subordinate_ids_are_no_users),
                cmocka_unit_test(strange_lines_say_nothing),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
