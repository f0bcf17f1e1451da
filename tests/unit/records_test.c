/* SPDX-License-Identifier: Apache-2.0 */
/* Records of mounts and the advice for reading ahead: what needs no mount. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "fusefs/ffs_err.h"
#include "fusefs/process_int.h"
#include "fusefs/readahead_int.h"
#include "fusefs/records_int.h"

static struct ffs_record sample(void)
{
        struct ffs_record r = {.tree_count = 2, .upper_is_ours = true};
        (void)snprintf(r.info.dir, sizeof(r.info.dir), "/mnt/ü \"quoted\"\n");
        ffs_record_id(r.info.dir, r.info.id);
        (void)snprintf(r.info.name, sizeof(r.info.name), "node:20");
        (void)snprintf(r.info.driver, sizeof(r.info.driver), "overlay");
        (void)snprintf(r.info.lease, sizeof(r.info.lease), "mount:1");
        (void)snprintf(r.info.upper, sizeof(r.info.upper), "/upper");
        (void)snprintf(r.boot, sizeof(r.boot), "boot");
        r.info.rw = true;
        cas_digest_of(CAS_DIGEST_SHA256, "m", 1, &r.info.manifest);
        cas_digest_of(CAS_DIGEST_SHA256, "a", 1, &r.trees[0]);
        cas_digest_of(CAS_DIGEST_SHA512, "b", 1, &r.trees[1]);
        return r;
}

static void records_round_trip(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_record r = sample(), back;
        assert_int_equal(strlen(r.info.id), 32);
        cas_cleanup_free char *text = ffs_record_format(&r);
        memset(&back, 0, sizeof(back));
        assert_int_equal(ffs_record_parse(text, strlen(text), &back, &err), 0);
        assert_string_equal(back.info.dir, r.info.dir);
        assert_string_equal(back.info.lease, "mount:1");
        assert_string_equal(back.info.upper, "/upper");
        assert_true(back.info.rw);
        assert_true(back.upper_is_ours);
        assert_int_equal(back.tree_count, 2);
        assert_true(cas_digest_equal(&back.trees[1], &r.trees[1]));
        assert_true(cas_digest_equal(&back.info.manifest, &r.info.manifest));
}

static void damaged_records_are_refused(void **state CAS_UNUSED)
{
        struct ffs_record r = sample(), back;
        cas_cleanup_free char *text = ffs_record_format(&r);
        size_t len = strlen(text);
        for (size_t cut = 0; cut < len; cut++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(ffs_record_parse(text, cut, &back, &err), -CAS_E_CORRUPT);
        }
        static const char *const wrong[] = {"{}", "[]", "{\"version\": 2}", "null", "\"\""};
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(ffs_record_parse(wrong[i], strlen(wrong[i]), &back, &err),
                                 -CAS_E_CORRUPT);
        }
        (void)snprintf(r.image, sizeof(r.image), "../../etc");
        cas_cleanup_free char *escaping = ffs_record_format(&r);
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(ffs_record_parse(escaping, strlen(escaping), &back, &err), -CAS_E_CORRUPT);
}

static void processes_understand_each_other(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_serving back, s = {.dev_minor = 55,
                                      .instance = "0123456789abcdef0123456789abcdef",
                                      .fs_pid = 77,
                                      .restarts = 3};
        char text[FFS_MESSAGE_BYTES_MAX];
        (void)ffs_serving_format("ok", &s, text, sizeof(text));
        assert_int_equal(ffs_serving_parse("ok", text, &back, &err), 0);
        assert_int_equal(back.dev_minor, 55);
        assert_int_equal(back.fs_pid, 77);
        assert_int_equal(back.restarts, 3);
        assert_string_equal(back.instance, s.instance);
        assert_int_equal(ffs_serving_parse("start", text, &back, &err), -CAS_E_INVALID);
        assert_int_equal(ffs_serving_parse("ok", "ok 1:2 xyz", &back, &err), -CAS_E_INVALID);
        assert_int_equal(ffs_serving_parse("ok", "ok 0:1 ab 3 4 5", &back, &err), -CAS_E_INVALID);
        assert_int_equal(ffs_serving_parse("ok", "", &back, &err), -CAS_E_INVALID);
}

static void sequential_readers_are_read_ahead(void **state CAS_UNUSED)
{
        struct ffs_readahead *r = ffs_readahead_new();
        struct ffs_readahead_advice advice;
        uint64_t at = 0, fetched_end = 0, largest = 0;
        for (int i = 0; i < 100; i++, at += 100000) {
                ffs_readahead_note(r, 1, at, 100000, &advice);
                assert_int_equal(advice.drop_bytes, 0);
                if (!advice.fetch_bytes)
                        continue;
                /* Nothing twice, nothing left out, nothing that was read already. */
                assert_true(advice.fetch_offset >= fetched_end);
                assert_true(fetched_end < at + 100000 || advice.fetch_offset == fetched_end);
                fetched_end = advice.fetch_offset + advice.fetch_bytes;
                largest = cas_max_u64(largest, advice.fetch_bytes);
                assert_true(fetched_end <= at + 100000 + FFS_READAHEAD_MAX_BYTES);
        }
        assert_true(fetched_end > at);
        assert_true(largest >= FFS_READAHEAD_MAX_BYTES / 2);
        ffs_readahead_free(r);
}

static void random_readers_are_left_alone(void **state CAS_UNUSED)
{
        struct ffs_readahead *r = ffs_readahead_new();
        struct ffs_readahead_advice advice;
        for (uint64_t i = 0; i < 200; i++) {
                uint64_t at = (i * UINT64_C(2654435761)) % 4096 * (4 << 20);
                ffs_readahead_note(r, i % 3, at, 50000, &advice);
                assert_int_equal(advice.fetch_bytes, 0);
        }
        /* What was fetched for a stream is dropped when it ends. */
        ffs_readahead_note(r, 9, 0, 50000, &advice);
        ffs_readahead_note(r, 9, 50000, 50000, &advice);
        assert_true(advice.fetch_bytes > 0);
        uint64_t end = advice.fetch_offset + advice.fetch_bytes;
        bool dropped = false;
        for (uint64_t i = 0; i < 64 && !dropped; i++) {
                ffs_readahead_note(r, 10 + i, 0, 100, &advice);
                dropped = advice.drop_bytes > 0;
        }
        assert_true(dropped);
        assert_int_equal(advice.drop_pack, 9);
        assert_int_equal(advice.drop_offset + advice.drop_bytes, end);
        ffs_readahead_free(r);
}

static void every_code_has_an_errno(void **state CAS_UNUSED)
{
        assert_int_equal(ffs_errno_of(CAS_OK), 0);
#define X(name, text) assert_true(ffs_errno_of(CAS_E_##name) > 0);
        CAS_ERR_TABLE(X)
#undef X
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(records_round_trip),
                cmocka_unit_test(damaged_records_are_refused),
                cmocka_unit_test(processes_understand_each_other),
                cmocka_unit_test(sequential_readers_are_read_ahead),
                cmocka_unit_test(random_readers_are_left_alone),
                cmocka_unit_test(every_code_has_an_errno),
        };
        return cmocka_run_group_tests_name("records", tests, NULL, NULL);
}
