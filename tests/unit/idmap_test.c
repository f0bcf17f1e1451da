/* SPDX-License-Identifier: Apache-2.0 */
/* Maps of ids: translation both ways, and their text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "fusefs/idmap_int.h"

static struct ffs_idmap parsed(const char *text)
{
        struct ffs_idmap m;
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(ffs_idmap_parse(text, &m, &err), 0);
        char again[FFS_IDMAP_TEXT_BYTES];
        ffs_idmap_format(&m, again, sizeof(again));
        assert_string_equal(again, text);
        return m;
}

static void identity(void **state CAS_UNUSED)
{
        struct ffs_idmap m = parsed("");
        uint32_t id;
        assert_int_equal(ffs_idmap_uid_to_host(&m, 70000), 70000);
        assert_true(ffs_idmap_gid_to_image(&m, UINT32_MAX - 1, &id));
        assert_int_equal(id, UINT32_MAX - 1);
}

static void ranges(void **state CAS_UNUSED)
{
        struct ffs_idmap m = parsed("0:1000:1,1:100000:65535;0:5:10");
        uint32_t id;
        assert_int_equal(ffs_idmap_uid_to_host(&m, 0), 1000);
        assert_int_equal(ffs_idmap_uid_to_host(&m, 1), 100000);
        assert_int_equal(ffs_idmap_uid_to_host(&m, 65535), 165534);
        assert_int_equal(ffs_idmap_uid_to_host(&m, 65536), 65534);
        assert_int_equal(ffs_idmap_gid_to_host(&m, 9), 14);
        assert_int_equal(ffs_idmap_gid_to_host(&m, 10), 65534);
        assert_true(ffs_idmap_uid_to_image(&m, 165534, &id));
        assert_int_equal(id, 65535);
        assert_false(ffs_idmap_uid_to_image(&m, 165535, &id));
        assert_false(ffs_idmap_uid_to_image(&m, 0, &id));
        assert_true(ffs_idmap_gid_to_image(&m, 5, &id));
        assert_int_equal(id, 0);
        assert_false(ffs_idmap_gid_to_image(&m, 15, &id));
}

static void squash(void **state CAS_UNUSED)
{
        struct ffs_idmap m = parsed("0:1000:1;0:1001:1;squash");
        assert_int_equal(ffs_idmap_uid_to_host(&m, 33), 1000);
        assert_int_equal(ffs_idmap_gid_to_host(&m, 33), 1001);
        m = parsed("5:1000:1;;squash"); /* nobody stands for image id 0 */
        assert_int_equal(ffs_idmap_uid_to_host(&m, 33), 65534);
}

static void longest(void **state CAS_UNUSED)
{
        char text[FFS_IDMAP_TEXT_BYTES] = "";
        size_t used = 0;
        for (int side = 0; side < 2; side++) {
                for (uint64_t i = 0; i < FFS_IDMAP_RANGES_MAX; i++) {
                        uint64_t at = 2400000000U + i * 200000000U;
                        used += (size_t)snprintf(text + used, sizeof(text) - used,
                                                 "%s%llu:%llu:199999999",
                                                 i      ? ","
                                                 : side ? ";"
                                                        : "",
                                                 (unsigned long long)at, (unsigned long long)at);
                }
        }
        (void)snprintf(text + used, sizeof(text) - used, ";squash");
        (void)parsed(text);
}

static void acls(void **state CAS_UNUSED)
{
        struct ffs_idmap m = parsed("0:1000:10;0:2000:10");
        uint8_t acl[4 + 3 * 8 + 2] = {0}, before[sizeof(acl)];
        cas_put_le32(acl, 2);
        static const uint16_t tags[] = {2, 8, 4};
        for (size_t i = 0; i < 3; i++) {
                cas_put_le16(acl + 4 + 8 * i, tags[i]);
                cas_put_le32(acl + 8 + 8 * i, 5);
        }
        memcpy(before, acl, sizeof(acl));
        ffs_idmap_acl_to_host(&m, acl, sizeof(acl));
        assert_int_equal(cas_get_le32(acl + 8), 1005);
        assert_int_equal(cas_get_le32(acl + 16), 2005);
        assert_int_equal(cas_get_le32(acl + 24), 5);
        assert_true(ffs_idmap_acl_to_image(&m, acl, sizeof(acl)));
        assert_memory_equal(acl, before, sizeof(acl));
        assert_false(ffs_idmap_acl_to_image(&m, acl, sizeof(acl)));
        cas_put_le32(acl, 3);
        assert_true(ffs_idmap_acl_to_image(&m, acl, sizeof(acl)));
        assert_true(ffs_idmap_acl_to_image(&m, acl, 3));
        assert_memory_equal(acl + 4, before + 4, sizeof(acl) - 4);
}

/* Capabilities that an image's file has are its root's, wherever that is mapped to. */
static void capabilities(void **state CAS_UNUSED)
{
        static const char name[] = "security.capability";
        struct ffs_idmap m = parsed("0:1000:10;0:2000:10;squash"), none = parsed("");
        uint8_t caps[20 + FFS_IDMAP_XATTR_GROWTH] = {1, 0, 0, 2, 0, 32}, before[sizeof(caps)];
        size_t len = 20;
        memcpy(before, caps, sizeof(caps));
        assert_int_equal(ffs_idmap_xattr_to_host(&none, name, caps, 20), 20);
        assert_int_equal(ffs_idmap_xattr_to_host(&m, "user.x", caps, 20), 20);
        assert_memory_equal(caps, before, 20);
        assert_false(ffs_idmap_xattr_to_image(&m, name, caps, &len)); /* of the host's root */
        len = ffs_idmap_xattr_to_host(&m, name, caps, 20);
        assert_int_equal(len, 24);
        assert_int_equal(cas_get_le32(caps), 0x03000001);
        assert_int_equal(cas_get_le32(caps + 20), 1000);
        assert_true(ffs_idmap_xattr_to_image(&m, name, caps, &len));
        assert_int_equal(len, 20);
        assert_memory_equal(caps, before, 20);
        cas_put_le32(caps, 0x03000000);
        cas_put_le32(caps + 20, 3);
        assert_int_equal(ffs_idmap_xattr_to_host(&m, name, caps, 24), 24);
        assert_int_equal(cas_get_le32(caps + 20), 1003);
        assert_int_equal(ffs_idmap_xattr_to_host(&m, name, caps, 24), 24);
        assert_int_equal(cas_get_le32(caps + 20), 65534); /* not squashed to root */
        assert_int_equal(ffs_idmap_xattr_to_host(&m, name, caps, 3), 3);
        assert_int_equal(ffs_idmap_xattr_to_host(&m, name, caps, 23), 23);
}

static void refused(void **state CAS_UNUSED)
{
        static const char *const bad[] = {
                "0",
                "0:1",
                "0:1:0",
                "0:1:1,",
                ",",
                "0:1:1 ",
                " 0:1:1",
                "00:1:1",
                "-1:0:1",
                "0:0:4294967296",
                "4294967295:0:1", /* the id that chown takes for none */
                "0:4294967295:1",
                "1:0:4294967295",
                "0:10:5,4:20:1", /* overlap of image ids */
                "0:10:5,5:14:1", /* of host ids */
                "5:14:1,0:10:5",
                "0:1:1;squash",
                ";;",
                ";;squash;",
                "0:0:1,1:1:1,2:2:1,3:3:1,4:4:1,5:5:1,6:6:1,7:7:1,8:8:1",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct ffs_idmap m;
                struct cas_err err = CAS_ERR_INIT;
                if (ffs_idmap_parse(bad[i], &m, &err) != -CAS_E_INVALID)
                        fail_msg("accepted: %s", bad[i]);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(identity), cmocka_unit_test(ranges),
                cmocka_unit_test(squash),   cmocka_unit_test(longest),
                cmocka_unit_test(acls),     cmocka_unit_test(capabilities),
                cmocka_unit_test(refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
