/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "registry/cachepolicy.h"

#define ok(call) assert_int_equal(call, 0)

static void set(void **area, const char *key, const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(reg_cache_area.set(area, "", key, value, &err));
}

static void what_is_public_is_kept_by_all(void **state CAS_UNUSED)
{
        struct reg_cachepolicy *p = reg_cachepolicy_new(NULL);
        struct reg_cache_headers h;
        struct cas_digest digest;
        char key[CAS_DIGEST_TEXT_BYTES + 32];
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_digest_of(CAS_DIGEST_SHA256, "x", 1, &digest);
        struct reg_cached what = {REG_CACHED_CONTENT, true, "a/b", NULL, &digest};
        reg_cachepolicy_headers(p, &what, &h);
        assert_string_equal(h.control, "public, max-age=31536000, immutable, no-transform");
        cas_digest_hex(&digest, hex);
        assert_memory_equal(h.surrogate_key, "repo:a/b dg:", 12);
        assert_string_equal(h.surrogate_key + 12, hex);
        assert_memory_equal(h.cache_tag, "repo:a/b,dg:", 12);
        what = (struct reg_cached){REG_CACHED_TAG, true, "a/b", "v1.2", &digest};
        reg_cachepolicy_headers(p, &what, &h);
        assert_non_null(strstr(h.control, "public, max-age=0, s-maxage=5,"));
        memcpy(key, "repo:a/b tag:a/b:v1.2 dg:", 26);
        memcpy(key + 25, hex, strlen(hex) + 1);
        assert_string_equal(h.surrogate_key, key);
        what = (struct reg_cached){REG_CACHED_LIST, true, "a/b", NULL, NULL};
        reg_cachepolicy_headers(p, &what, &h);
        assert_string_equal(h.cache_tag, "repo:a/b,list:a/b");
        what = (struct reg_cached){REG_CACHED_LIST, true, NULL, NULL, NULL};
        reg_cachepolicy_headers(p, &what, &h);
        assert_string_equal(h.surrogate_key, "");
        reg_cachepolicy_free(p);
}

static void what_is_private_is_for_no_shared_cache(void **state CAS_UNUSED)
{
        struct reg_cachepolicy *p = reg_cachepolicy_new(NULL);
        for (int kind = REG_CACHED_CONTENT; kind <= REG_CACHED_LIST; kind++) {
                struct reg_cache_headers h;
                struct reg_cached what = {(enum reg_cached_kind)kind, false, "a", "t", NULL};
                reg_cachepolicy_headers(p, &what, &h);
                assert_memory_equal(h.control, "private, ", 9);
                assert_null(strstr(h.control, "s-maxage"));
                assert_null(strstr(h.control, "public"));
                assert_null(strstr(h.control, "revalidate"));
                assert_string_equal(h.surrogate_key, "");
                assert_string_equal(h.cache_tag, "");
        }
        reg_cachepolicy_free(p);
}

static void the_longest_names_have_room(void **state CAS_UNUSED)
{
        struct reg_cachepolicy *p = reg_cachepolicy_new(NULL);
        char repo[CAS_REPO_NAME_BYTES_MAX + 1] = {0}, tag[CAS_TAG_BYTES_MAX + 1] = {0};
        memset(repo, 'r', CAS_REPO_NAME_BYTES_MAX);
        memset(tag, 't', CAS_TAG_BYTES_MAX);
        struct cas_digest digest;
        struct reg_cache_headers h;
        cas_digest_of(CAS_DIGEST_SHA512, "x", 1, &digest);
        struct reg_cached what = {REG_CACHED_TAG, true, repo, tag, &digest};
        reg_cachepolicy_headers(p, &what, &h);
        assert_true(strlen(h.surrogate_key) > 2 * sizeof(repo) + sizeof(tag) + 128);
        reg_cachepolicy_free(p);
}

static void times_and_keys_are_configured(void **state CAS_UNUSED)
{
        void *area = NULL;
        set(&area, "tag_seconds", "1m");
        set(&area, "stale_while_revalidate", "0");
        set(&area, "stale_if_error", "1h");
        set(&area, "list_seconds", "2");
        set(&area, "keys", "no");
        struct reg_cachepolicy *p = reg_cachepolicy_new(area);
        struct reg_cache_headers h;
        struct reg_cached what = {REG_CACHED_TAG, true, "a", "t", NULL};
        reg_cachepolicy_headers(p, &what, &h);
        assert_non_null(strstr(h.control, "s-maxage=60, stale-while-revalidate=0, "
                                          "stale-if-error=3600"));
        assert_string_equal(h.surrogate_key, "");
        what.kind = REG_CACHED_LIST;
        reg_cachepolicy_headers(p, &what, &h);
        assert_string_equal(h.control, "public, max-age=0, s-maxage=2");
        reg_cachepolicy_free(p);
        reg_cache_area.release(area);
}

static void settings_that_make_no_sense_are_refused(void **state CAS_UNUSED)
{
        static const char *const bad[][2] = {
                {"tag_seconds", "soon"},       {"keys", "maybe"},
                {"canonical_host", "cdn"},     {"canonical_host", "ftp://cdn"},
                {"canonical_host", "http://"}, {"canonical_host", "https://cdn/x"},
                {"key_file", "key"},           {"redirect_seconds", "5"},
                {"redirect_seconds", "8d"},    {"redirect_networks", "10/8"},
                {"redirect", "a?b"},           {"redirect_private", ""},
        };
        void *area = NULL;
        struct cas_err err = CAS_ERR_INIT;
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_int_equal(reg_cache_area.set(&area, "", bad[i][0], bad[i][1], &err),
                                 -CAS_E_INVALID);
        assert_int_equal(reg_cache_area.set(&area, "", "nothing", "1", &err), -CAS_E_NOTFOUND);
        assert_int_equal(reg_cache_area.set(&area, "x", "keys", "no", &err), -CAS_E_NOTFOUND);
        reg_cache_area.release(area);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_is_public_is_kept_by_all),
                cmocka_unit_test(what_is_private_is_for_no_shared_cache),
                cmocka_unit_test(the_longest_names_have_room),
                cmocka_unit_test(times_and_keys_are_configured),
                cmocka_unit_test(settings_that_make_no_sense_are_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
