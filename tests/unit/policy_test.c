/* SPDX-License-Identifier: Apache-2.0 */
/* Who may have what, by the broker's policy file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "tests/support/scratch.h"
#include "tools/policy.h"

static char *dir, path[4096];

static int setup(void **state CAS_UNUSED)
{
        dir = scratch_new();
        (void)snprintf(path, sizeof(path), "%s/policy", dir);
        return 0;
}

static int teardown(void **state CAS_UNUSED)
{
        scratch_free(dir);
        return 0;
}

static struct policy *policy_of(const char *text, struct cas_err *err)
{
        FILE *f = fopen(path, "we");
        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        (void)fclose(f);
        assert_int_equal(chmod(path, 0644), 0);
        struct policy *p = NULL;
        return policy_read(path, &p, err) == 0 ? p : NULL;
}

static void rules_add_up(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct policy *p = policy_of("[user 1000]\nimages = web:* base:12\n"
                                     "[group 50]\nimages = apps/*\n"
                                     "[user *]\nimages = public/*\n",
                                     &err);
        assert_non_null(p);
        const uint32_t gids[] = {100, 50}, others[] = {100};
        assert_true(policy_allows(p, 1000, others, 1, "web:1.0"));
        assert_true(policy_allows(p, 1000, others, 1, "base:12"));
        assert_false(policy_allows(p, 1000, others, 1, "base:13"));
        assert_false(policy_allows(p, 1001, others, 1, "web:1.0"));
        assert_true(policy_allows(p, 1001, gids, 2, "apps/a/b:1"));
        assert_false(policy_allows(p, 1001, others, 1, "apps/a/b:1"));
        assert_true(policy_allows(p, 7, NULL, 0, "public/x:1"));
        assert_false(policy_allows(p, 7, NULL, 0, "public"));
        policy_free(p);
}

static void what_is_wrong_is_named(void **state CAS_UNUSED)
{
        static const char *const wrong[] = {
                "[user no-such-user-here]\nimages = *\n",
                "[users *]\nimages = *\n",
                "[user *]\nimage = *\n",
                "[user *]\nimages =\n",
                "images = *\n",
                "[user *\nimages = *\n",
        };
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_null(policy_of(wrong[i], &err));
                assert_int_equal(err.code, CAS_E_INVALID);
                assert_non_null(strstr(err.msg, "line "));
        }
}

static void only_its_owner_may_write_it(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct policy *p = policy_of("[user *]\nimages = *\n", &err);
        assert_non_null(p);
        policy_free(p);
        assert_int_equal(chmod(path, 0664), 0);
        assert_int_equal(policy_read(path, &p, &err), -CAS_E_DENIED);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(rules_add_up),
                cmocka_unit_test(what_is_wrong_is_named),
                cmocka_unit_test(only_its_owner_may_write_it),
        };
        return cmocka_run_group_tests_name("policy", tests, setup, teardown);
}
