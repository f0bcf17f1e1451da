/* SPDX-License-Identifier: Apache-2.0 */
/* STORE/tiers: what is written is read again; what is wrong is told, by its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "tests/support/scratch.h"
#include "tiering/tier.h"

static const char example[] = "next = 7\n"
                              "mover = paused\n"
                              "; a comment\n"
                              "[tier own]\n"
                              "id = 0\n"
                              "class = nvme\n"
                              "capacity = 1000\n"
                              "cache = 100\n"
                              "[tier bulk]\n"
                              "id = 3\n"
                              "class = hdd\n"
                              "where = /mnt/bulk store\n"
                              "high = 70\n"
                              "low = 60\n"
                              "density = cold\n"
                              "rate = 1048576\n"
                              "cool_after = 86400\n"
                              "state = leaving\n"
                              "[tier far]\n"
                              "id = 5\n"
                              "class = remote\n"
                              "where = s3://bucket/some/prefix\n"
                              "endpoint = https://s3.example:8443\n"
                              "style = path\n"
                              "sse = AES256\n";

static void check_example(const struct tier_list *l)
{
        assert_int_equal(l->count, 3);
        assert_int_equal(l->next_id, 7);
        assert_true(l->paused);
        assert_string_equal(l->tiers[0].name, "own");
        assert_int_equal(l->tiers[0].capacity_bytes, 1000);
        assert_int_equal(l->tiers[0].cache_bytes, 100);
        assert_null(l->tiers[0].where);
        const struct tier_config *bulk = &l->tiers[1];
        assert_int_equal(bulk->id, 3);
        assert_int_equal(bulk->class, TIER_HDD);
        assert_string_equal(bulk->where, "/mnt/bulk store");
        assert_int_equal(bulk->high_percent, 70);
        assert_int_equal(bulk->low_percent, 60);
        assert_int_equal(bulk->density, CAS_PACK_COLD);
        assert_int_equal(bulk->bytes_per_s, 1048576);
        assert_int_equal(bulk->cool_after_s, 86400);
        assert_true(bulk->leaving);
        const struct tier_config *far = &l->tiers[2];
        assert_non_null(far->s3);
        assert_string_equal(far->s3->bucket, "bucket");
        assert_string_equal(far->s3->prefix, "some/prefix");
        assert_string_equal(far->s3->endpoint, "https://s3.example:8443");
        assert_true(far->s3->path_style);
        assert_string_equal(far->s3->sse, "AES256");
        assert_null(far->s3->region);
}

static void a_list_is_read_and_written(void **state CAS_UNUSED)
{
        struct tier_list l, again;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        assert_int_equal(tier_list_parse(example, strlen(example), &l, &err), 0);
        check_example(&l);
        tier_list_format(&l, &text);
        assert_int_equal(tier_list_parse(cas_buf_str(&text), text.len_bytes, &again, &err), 0);
        check_example(&again);
        tier_list_release(&l);
        tier_list_release(&again);
}

static void tier_0_is_always_there(void **state CAS_UNUSED)
{
        static const char text[] = "[tier x]\nid = 1\nwhere = /x\n";
        struct tier_list l;
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(tier_list_parse("", 0, &l, &err), 0);
        assert_int_equal(l.count, 1);
        assert_int_equal(l.next_id, 1);
        tier_list_release(&l);
        assert_int_equal(tier_list_parse(text, strlen(text), &l, &err), 0);
        assert_int_equal(l.count, 2);
        assert_int_equal(l.tiers[0].id, CAS_TIER_OWN);
        assert_int_equal(l.next_id, 2);
        assert_non_null(tier_list_find(&l, "x"));
        assert_null(tier_list_find(&l, "y"));
        tier_list_release(&l);
}

static void what_is_wrong_is_told(void **state CAS_UNUSED)
{
        static const struct {
                const char *text, *told;
        } cases[] = {
                {"[tier x]\nid = 1\nwhere = relative\n", "line 3"},
                {"[tier x]\nid = 1\nwhere = /x\nwhere = /y\n", "twice"},
                {"[tier x]\nid = 1\nwhere = /x\n[tier x]\nid = 2\n", "twice"},
                {"[tier x]\nid = 1\nwhere = /x\n[tier y]\nid = 2\n[tier x]\nclass = hdd\n",
                 "two of it"},
                {"[tier x]\nid = 1\nwhere = /x\n[tier y]\nid = 1\nwhere = /y\n", "one id"},
                {"[tier x]\nid = 1\n", "where it lies"},
                {"[tier x]\nid = 1\nwhere = /x\nspeed = 9\n", "no setting speed"},
                {"[tier x]\nid = 1\nwhere = /x\ncapacity = 12G\n", "a number"},
                {"[tier x]\nid = 1\nwhere = /x\ncapacity = 18446744073709551616\n", "a number"},
                {"[tier x]\nid = 1\nwhere = /x\nhigh = 101\n", "1 to 100"},
                {"[tier x]\nid = 1\nwhere = /x\nhigh = 10\nlow = 20\n", "above high"},
                {"[tier x]\nid = 1\nwhere = s3://b/p\n", "remote"},
                {"[tier x]\nid = 1\nclass = remote\nwhere = /x\n", "remote"},
                {"[tier x]\nid = 1\nclass = remote\nwhere = s3:///p\n", "s3://BUCKET"},
                {"[tier x]\nid = 0\nwhere = /x\n", "own directory"},
                {"[tier x]\nid = 1\nwhere = /x\ncapacity = 5\ncache = 6\n", "larger"},
                {"[tier -x]\nid = 1\n", "not [tier NAME]"},
                {"[tiers]\nid = 1\n", "not [tier NAME]"},
                {"mover = running\n", "not understood"},
                {"next = 1\n[tier x]\nid = 1\nwhere = /x\n  /y\n", "indented"},
                {"nonsense\n", "not understood"},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct tier_list l;
                struct cas_err err = CAS_ERR_INIT;
                int rc = tier_list_parse(cases[i].text, strlen(cases[i].text), &l, &err);
                if (rc != -CAS_E_INVALID || !strstr(err.msg, cases[i].told))
                        fail_msg("%s: %d %s", cases[i].text, rc, err.msg);
        }
}

static void long_lines_and_many_tiers(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct tier_list l;
        struct cas_err err = CAS_ERR_INIT;
        cas_buf_append_str(&text, "[tier x]\nid = 1\nwhere = /");
        for (int i = 0; i < 200; i++)
                cas_buf_append_byte(&text, 'a');
        cas_buf_append_byte(&text, '\n');
        assert_int_equal(tier_list_parse(cas_buf_str(&text), text.len_bytes, &l, &err),
                         -CAS_E_INVALID);
        cas_buf_clear(&text);
        for (int i = 0; i <= TIERS_MAX; i++)
                cas_buf_printf(&text, "[tier t%d]\nid = %d\nwhere = /t%d\n", i, i + 1, i);
        assert_int_equal(tier_list_parse(cas_buf_str(&text), text.len_bytes, &l, &err),
                         -CAS_E_INVALID);
}

static void the_file_is_replaced(void **state CAS_UNUSED)
{
        char *dir = scratch_new();
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct tier_list l, again;
        struct stat st;
        bool there = true;
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(tier_list_read(fd, &l, &there, &err), 0);
        assert_false(there);
        assert_int_equal(tier_list_write(fd, &l, &err), 0);
        l.paused = true;
        l.tiers[0].capacity_bytes = 4711;
        assert_int_equal(tier_list_write(fd, &l, &err), 0);
        assert_int_equal(tier_list_read(fd, &again, &there, &err), 0);
        assert_true(there && again.paused);
        assert_int_equal(again.tiers[0].capacity_bytes, 4711);
        assert_int_equal(fstatat(fd, "tiers", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        tier_list_release(&l);
        tier_list_release(&again);
        (void)close(fd);
        scratch_free(dir);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_list_is_read_and_written),
                cmocka_unit_test(tier_0_is_always_there),
                cmocka_unit_test(what_is_wrong_is_told),
                cmocka_unit_test(long_lines_and_many_tiers),
                cmocka_unit_test(the_file_is_replaced),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
