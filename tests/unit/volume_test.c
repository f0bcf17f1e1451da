/* SPDX-License-Identifier: Apache-2.0 */
/* The text of volumes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "fusefs/volume_int.h"

static struct ffs_volume_spec sample(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_volume_spec spec = {.id = "0f-1",
                                       .tree_count = 2,
                                       .tree_paths = {"/store/trees/ü \"a\"\n", "/store/trees/b"},
                                       .rw = true,
                                       .format = FFS_UPPER_USER,
                                       .owners_in_xattrs = true,
                                       .size_limit_bytes = UINT64_C(5) << 32};
        cas_digest_of(CAS_DIGEST_SHA256, "a", 1, &spec.trees[0]);
        cas_digest_of(CAS_DIGEST_SHA512, "b", 1, &spec.trees[1]);
        assert_int_equal(ffs_idmap_parse("0:1000:1,1:100000:65535;0:100:1;squash", &spec.map, &err),
                         0);
        return spec;
}

static void volumes_round_trip(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_volume_spec spec = sample(), back;
        cas_cleanup_free char *text = ffs_volume_format(&spec);
        assert_non_null(text);
        if (ffs_volume_parse(text, strlen(text), &back, &err) < 0)
                fail_msg("%s", err.msg);
        assert_string_equal(back.id, spec.id);
        assert_int_equal(back.tree_count, 2);
        for (size_t i = 0; i < 2; i++) {
                assert_true(cas_digest_equal(&back.trees[i], &spec.trees[i]));
                assert_string_equal(back.tree_paths[i], spec.tree_paths[i]);
        }
        assert_true(back.rw && back.owners_in_xattrs);
        assert_int_equal(back.format, FFS_UPPER_USER);
        assert_int_equal(back.size_limit_bytes, UINT64_C(5) << 32);
        assert_true(back.map.squash);
        assert_int_equal(back.map.uid_count, 2);
        assert_int_equal(back.map.uids[1].host, 100000);
        assert_int_equal(back.map.gids[0].host, 100);
        cas_cleanup_free char *again = ffs_volume_format(&back);
        assert_string_equal(again, text);
}

static void every_cut_is_refused(void **state CAS_UNUSED)
{
        struct ffs_volume_spec spec = sample(), back;
        cas_cleanup_free char *text = ffs_volume_format(&spec);
        size_t len = strlen(text);
        for (size_t cut = 0; cut < len; cut++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(ffs_volume_parse(text, cut, &back, &err), -CAS_E_INVALID);
        }
}

/* The text with one piece of it replaced by another. */
static char *altered(const char *text, const char *from, const char *to)
{
        const char *at = strstr(text, from);
        assert_non_null(at);
        return cas_xasprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void wrong_members_are_refused(void **state CAS_UNUSED)
{
        static const char *const changes[][2] = {
                {"\"version\":1", "\"version\":2"},
                {"\"0f-1\"", "\"\""},
                {"\"0f-1\"", "\"../x\""},
                {"\"0f-1\"", "\"A\""},
                {"\"0f-1\"", "\"0123456789012345678901234567890123456789\""},
                {"\"0f-1\"", "7"},
                {"\"/store/trees/b\"", "\"trees/b\""},
                {"sha256:", "sha256:x"},
                {"\"trees\":[", "\"trees\":[1,"},
                {"\"trees\":[", "\"trees\":[],\"other\":["},
                {"\"user\"", "\"users\""},
                {"\"sizeLimit\":", "\"sizeLimit\":-"},
                {"\"sizeLimit\":", "\"sizeLimits\":"},
                {"0:1000:1,", "0:1000:9,"},
                {"\"id\":", "\"id\":\"b\",\"id\":"},
        };
        struct ffs_volume_spec spec = sample(), back;
        cas_cleanup_free char *text = ffs_volume_format(&spec);
        for (size_t i = 0; i < CAS_COUNT(changes); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_free char *bad = altered(text, changes[i][0], changes[i][1]);
                if (ffs_volume_parse(bad, strlen(bad), &back, &err) != -CAS_E_INVALID)
                        fail_msg("taken: %s", bad);
        }
}

static void long_texts_are_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_volume_spec spec = sample(), back;
        cas_cleanup_free char *text = ffs_volume_format(&spec);
        cas_cleanup_free char *padded = cas_xasprintf("%s%*s", text, FFS_VOLUME_TEXT_BYTES_MAX, "");
        assert_int_equal(ffs_volume_parse(padded, strlen(padded), &back, &err), -CAS_E_LIMIT);
        (void)snprintf(spec.tree_paths[0], sizeof(spec.tree_paths[0]), "/not-utf-8-\xff");
        assert_null(ffs_volume_format(&spec));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(volumes_round_trip),
                cmocka_unit_test(every_cut_is_refused),
                cmocka_unit_test(wrong_members_are_refused),
                cmocka_unit_test(long_texts_are_refused),
        };
        return cmocka_run_group_tests_name("volume", tests, NULL, NULL);
}
