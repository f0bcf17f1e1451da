/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cas/buf.h"
#include "registry/glob.h"

static void matches(void **state CAS_UNUSED)
{
        static const struct {
                const char *pattern, *text;
                bool match;
        } cases[] = {
                {"a", "a", true},
                {"a", "b", false},
                {"a", "", false},
                {"a", "aa", false},
                {"*", "", true},
                {"*", "abc", true},
                {"*", "a/b", false},
                {"**", "", true},
                {"**", "a/b/c", true},
                {"prod/*", "prod/a", true},
                {"prod/*", "prod/", true},
                {"prod/*", "prod", false},
                {"prod/*", "prod/a/b", false},
                {"prod/**", "prod/a/b", true},
                {"prod/**", "prod", false},
                {"prod/**", "production/a", false},
                {"**/base", "x/y/base", true},
                {"**/base", "base", false},
                {"**/base", "x/base/y", false},
                {"a/*/c", "a/b/c", true},
                {"a/*/c", "a/b/b/c", false},
                {"a/**/c", "a/b/b/c", true},
                {"v*", "v1.2.3", true},
                {"v*.*", "v1", false},
                {"*-rc*", "1.0-rc1", true},
                {"*ab", "aab", true},
                {"*ab*ab", "abxab", true},
                {"*ab*ab", "abx", false},
                {"***", "a/b", true},
                {"a***", "b", false},
                {"*/**", "a/b/c", true},
                {"*/**", "abc", false},
                {"v*", "V1", false},
                {"", "", false},
                {"a?", "ab", false},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                if (reg_glob_match(cases[i].pattern, cases[i].text) != cases[i].match)
                        fail_msg("%s with %s", cases[i].pattern, cases[i].text);
        }
}

static void knows_patterns(void **state CAS_UNUSED)
{
        char longest[REG_GLOB_BYTES_MAX + 1];
        memset(longest, 'a', sizeof(longest));
        longest[REG_GLOB_BYTES_MAX] = '\0';
        assert_true(reg_glob_valid(longest));
        assert_true(reg_glob_match(longest, longest));
        char longer[REG_GLOB_BYTES_MAX + 2];
        memset(longer, '*', sizeof(longer));
        longer[sizeof(longer) - 1] = '\0';
        assert_false(reg_glob_valid(longer));
        assert_false(reg_glob_match(longer, "a"));
        static const char *const bad[] = {"", "a b", "a?", "[a]", "a:b", "\xc3\xa9", "a\n"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(reg_glob_valid(bad[i]));
}

/* Many stars are no more work than their number times the name. */
static void takes_no_long_time(void **state CAS_UNUSED)
{
        char pattern[REG_GLOB_BYTES_MAX + 1], text[REG_GLOB_BYTES_MAX + 1];
        for (size_t i = 0; i + 1 < sizeof(pattern); i++)
                pattern[i] = i % 2 ? 'a' : '*';
        pattern[sizeof(pattern) - 2] = 'b';
        pattern[sizeof(pattern) - 1] = '\0';
        memset(text, 'a', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        for (int i = 0; i < 100; i++)
                assert_false(reg_glob_match(pattern, text));
}

static void lists(void **state CAS_UNUSED)
{
        struct reg_globs globs = {0};
        struct cas_err err = CAS_ERR_INIT;
        assert_false(reg_globs_match(&globs, "a"));
        assert_int_equal(reg_globs_add(&globs, " prod/*, base/**\tx ", &err), 0);
        assert_int_equal(globs.count, 3);
        assert_true(reg_globs_match(&globs, "base/a/b"));
        assert_true(reg_globs_match(&globs, "x"));
        assert_false(reg_globs_match(&globs, "y"));
        assert_int_equal(reg_globs_add(&globs, "y a?", &err), -CAS_E_INVALID);
        assert_int_equal(reg_globs_add(&globs, " , ", &err), -CAS_E_INVALID);
        assert_int_equal(globs.count, 3);
        cas_cleanup_buf struct cas_buf many = CAS_BUF_INIT;
        for (int i = 0; i < REG_GLOBS_MAX; i++)
                cas_buf_append_str(&many, "z ");
        assert_int_equal(reg_globs_add(&globs, cas_buf_str(&many), &err), -CAS_E_LIMIT);
        assert_int_equal(globs.count, 3);
        reg_globs_release(&globs);
        reg_globs_release(&globs);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(matches),
                cmocka_unit_test(knows_patterns),
                cmocka_unit_test(takes_no_long_time),
                cmocka_unit_test(lists),
        };
        return cmocka_run_group_tests_name("glob", tests, NULL, NULL);
}
