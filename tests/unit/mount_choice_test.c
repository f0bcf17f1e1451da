/* SPDX-License-Identifier: Apache-2.0 */
/* Options of mounts: what is taken, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tools/mount_choice.h"

static int apply(const struct mount_choice *c, bool rw, struct ffs_mount_options *out,
                 char id_map[128])
{
        struct cas_err err = CAS_ERR_INIT;
        char *map = NULL;
        *out = (struct ffs_mount_options){.rw = rw};
        int rc = mount_choice_apply(c, out, &map, &err);
        snprintf(id_map, 128, "%s", map ? map : "");
        assert_ptr_equal(rc == 0 ? out->id_map : map, map);
        free(map);
        return rc;
}

static void ranges(void **state)
{
        (void)state;
        static const struct {
                const char *text;
                int rc;
                uint32_t first, count;
        } cases[] = {
                {"100000", 0, 100000, 65536},
                {"1:1", 0, 1, 1},
                {"4294967294:1", 0, 4294967294U, 1},
                {"65536:4294901759", 0, 65536, 4294901759U},
                {"65536:4294901760", -CAS_E_INVALID, 0, 0},
                {"0:5", -CAS_E_INVALID, 0, 0},
                {"5:0", -CAS_E_INVALID, 0, 0},
                {"", -CAS_E_INVALID, 0, 0},
                {":5", -CAS_E_INVALID, 0, 0},
                {"5:", -CAS_E_INVALID, 0, 0},
                {"5:6 ", -CAS_E_INVALID, 0, 0},
                {"+5", -CAS_E_INVALID, 0, 0},
                {"0x10", -CAS_E_INVALID, 0, 0},
                {"4294967295", -CAS_E_INVALID, 0, 0},
                {"99999999999999999999", -CAS_E_INVALID, 0, 0},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                uint32_t first, count;
                int rc = mount_choice_range(cases[i].text, &first, &count, &err);
                assert_int_equal(rc, cases[i].rc);
                if (rc == 0)
                        assert_true(first == cases[i].first && count == cases[i].count);
        }
}

static void choices(void **state)
{
        (void)state;
        struct ffs_mount_options o;
        char map[128];
        assert_int_equal(apply(&(struct mount_choice){0}, false, &o, map), 0);
        assert_true(o.driver == FFS_DRIVER_AUTO && o.pages == FFS_PAGE_MODE_AUTO && !o.id_map);
        assert_int_equal(
                apply(&(struct mount_choice){.pages = "inode", .driver = "fuse"}, false, &o, map),
                0);
        assert_true(o.driver == FFS_DRIVER_FUSE && o.pages == FFS_PAGE_MODE_INODE);
        assert_int_equal(apply(&(struct mount_choice){.private_pages = true}, false, &o, map), 0);
        assert_int_equal(o.pages, FFS_PAGE_MODE_PRIVATE);
        assert_int_equal(apply(&(struct mount_choice){.uid_range = "500:10"}, false, &o, map), 0);
        assert_string_equal(map, "0:500:10;0:500:10");
        assert_int_equal(apply(&(struct mount_choice){.size = "3M"}, true, &o, map), 0);
        assert_int_equal(o.size_limit_bytes, 3 << 20);
}

static void contradictions(void **state)
{
        (void)state;
        static const struct mount_choice cases[] = {
                {.pages = "some"},
                {.driver = "some"},
                {.pages = "inode", .private_pages = true},
                {.pages = "private", .driver = "overlay"},
                {.pages = "inode", .driver = "overlay"},
                {.private_pages = true, .driver = "overlay"},
                {.uid_range = "x"},
                {.size = "1"}, /* of a mount that is not writable */
        };
        struct ffs_mount_options o;
        char map[128];
        for (size_t i = 0; i < CAS_COUNT(cases); i++)
                assert_int_equal(apply(&cases[i], false, &o, map), -CAS_E_INVALID);
        assert_int_equal(apply(&(struct mount_choice){.size = "0"}, true, &o, map), -CAS_E_INVALID);
        assert_int_equal(apply(&(struct mount_choice){.size = "9X"}, true, &o, map),
                         -CAS_E_INVALID);
}

static void bytes(void **state)
{
        (void)state;
        uint64_t n;
        assert_true(cli_bytes_parse("0", &n) && n == 0);
        assert_true(cli_bytes_parse("4096", &n) && n == 4096);
        assert_true(cli_bytes_parse("2T", &n) && n == UINT64_C(2) << 40);
        static const char *const bad[] = {
                "", "K", "-1", "1KB", "1k", " 1", "99999999999999999999", "99999999T"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(cli_bytes_parse(bad[i], &n));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(ranges),
                cmocka_unit_test(choices),
                cmocka_unit_test(contradictions),
                cmocka_unit_test(bytes),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
