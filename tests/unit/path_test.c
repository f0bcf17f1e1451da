/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cas/limits.h"
#include "cas/path.h"

static void clean_gives_relative_paths(void **state)
{
        (void)state;
        static const struct {
                const char *raw, *clean;
        } cases[] = {
                {"", ""},
                {".", ""},
                {"./", ""},
                {"/", ""},
                {"a", "a"},
                {"/a/b/", "a/b"},
                {"./a//b/.", "a/b"},
                {"a/../b", "b"},
                {"a/b/..", "a"},
                {"../../x", "x"},
                {"a/../../x", "x"},
                {"..", ""},
                {"...", "..."},
                {".a/..b/c..", ".a/..b/c.."},
                {"a/b/../../../c/d", "c/d"},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_free char *out = NULL;
                assert_int_equal(cas_path_clean(cases[i].raw, &out, &err), 0);
                assert_string_equal(out, cases[i].clean);
                assert_true(cas_path_valid(out));
        }
}

static void clean_refuses_what_is_too_long(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        char *out = NULL;
        cas_cleanup_free char *name = cas_xcalloc(1, CAS_NAME_BYTES_MAX + 2);
        memset(name, 'n', CAS_NAME_BYTES_MAX + 1);
        assert_int_equal(cas_path_clean(name, &out, &err), -CAS_E_LIMIT);
        name[CAS_NAME_BYTES_MAX] = '\0';
        cas_cleanup_free char *fits = NULL;
        assert_int_equal(cas_path_clean(name, &fits, &err), 0);

        cas_cleanup_free char *deep = cas_xcalloc(1, (CAS_PATH_DEPTH_MAX + 1) * 2 + 1);
        for (size_t i = 0; i <= CAS_PATH_DEPTH_MAX; i++)
                memcpy(deep + 2 * i, "d/", 2);
        assert_int_equal(cas_path_clean(deep, &out, &err), -CAS_E_LIMIT);
        deep[CAS_PATH_DEPTH_MAX * 2] = '\0';
        cas_cleanup_free char *deepest = NULL;
        assert_int_equal(cas_path_clean(deep, &deepest, &err), 0);
        assert_true(cas_path_valid(deepest));

        cas_cleanup_free char *slashes = cas_xcalloc(1, CAS_PATH_BYTES_MAX + 2);
        memset(slashes, '/', CAS_PATH_BYTES_MAX + 1);
        assert_int_equal(cas_path_clean(slashes, &out, &err), -CAS_E_LIMIT);
}

static void valid_refuses_other_forms(void **state)
{
        (void)state;
        static const char *const bad[] = {"/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/.."};
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(cas_path_valid(bad[i]));
        assert_true(cas_path_valid(""));
        assert_true(cas_path_valid("a/...x/.b"));
}

static void order_keeps_directories_before_their_content(void **state)
{
        (void)state;
        static const char *const sorted[] = {"",    "a",   "a/b", "a/b/c", "a/c",
                                             "a b", "a.b", "b",   "\xff"};
        for (size_t i = 0; i < CAS_COUNT(sorted); i++)
                for (size_t j = 0; j < CAS_COUNT(sorted); j++) {
                        int order = cas_path_compare(sorted[i], sorted[j]);
                        assert_int_equal((order > 0) - (order < 0), (i > j) - (i < j));
                }
        assert_true(cas_path_inside("a/b", "a"));
        assert_true(cas_path_inside("a", ""));
        assert_false(cas_path_inside("a", "a"));
        assert_false(cas_path_inside("ab", "a"));
        assert_false(cas_path_inside("", ""));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(clean_gives_relative_paths),
                cmocka_unit_test(clean_refuses_what_is_too_long),
                cmocka_unit_test(valid_refuses_other_forms),
                cmocka_unit_test(order_keeps_directories_before_their_content),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
