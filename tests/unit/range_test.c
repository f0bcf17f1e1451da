/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cas/buf.h"
#include "registry/range.h"

static void parses_ranges(void **state CAS_UNUSED)
{
        static const struct {
                const char *header;
                uint64_t size;
                enum reg_range_kind kind;
                uint64_t first, bytes;
        } cases[] = {
                {NULL, 100, REG_RANGE_WHOLE, 0, 0},
                {"bytes=0-0", 100, REG_RANGE_PART, 0, 1},
                {"bytes=10-19", 100, REG_RANGE_PART, 10, 10},
                {"BYTES= 10-19 ", 100, REG_RANGE_PART, 10, 10},
                {"bytes=10-", 100, REG_RANGE_PART, 10, 90},
                {"bytes=-10", 100, REG_RANGE_PART, 90, 10},
                {"bytes=-200", 100, REG_RANGE_PART, 0, 100},
                {"bytes=50-1000", 100, REG_RANGE_PART, 50, 50},
                {"bytes=0-18446744073709551615", 100, REG_RANGE_PART, 0, 100},
                {"bytes=0-99999999999999999999999", 100, REG_RANGE_PART, 0, 100},
                {"bytes=99-99", 100, REG_RANGE_PART, 99, 1},
                {"bytes=100-", 100, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=100-200", 100, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=50-0", 100, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=-0", 100, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=0-", 0, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=-5", 0, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=99999999999999999999999-", 100, REG_RANGE_UNSATISFIABLE, 0, 0},
                {"bytes=", 100, REG_RANGE_WHOLE, 0, 0},
                {"bytes=-", 100, REG_RANGE_WHOLE, 0, 0},
                {"bytes=5", 100, REG_RANGE_WHOLE, 0, 0},
                {"bytes=1-2,4-5", 100, REG_RANGE_WHOLE, 0, 0},
                {"bytes=1-2x", 100, REG_RANGE_WHOLE, 0, 0},
                {"bytes=+1-2", 100, REG_RANGE_WHOLE, 0, 0},
                {"lines=1-2", 100, REG_RANGE_WHOLE, 0, 0},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct reg_range r = {0};
                if (reg_range_parse(cases[i].header, cases[i].size, &r) != cases[i].kind)
                        fail_msg("%s of %d", cases[i].header, (int)cases[i].size);
                if (cases[i].kind == REG_RANGE_PART &&
                    (r.first != cases[i].first || r.bytes != cases[i].bytes))
                        fail_msg("%s: %d+%d", cases[i].header, (int)r.first, (int)r.bytes);
        }
}

static void parses_several_ranges(void **state CAS_UNUSED)
{
        static const struct {
                const char *header;
                enum reg_range_kind kind;
                size_t count;
                struct reg_range list[3];
        } cases[] = {
                {NULL, REG_RANGE_WHOLE, 0, {{0}}},
                {"bytes=1-2", REG_RANGE_PART, 1, {{1, 2}}},
                {"bytes=100-", REG_RANGE_UNSATISFIABLE, 0, {{0}}},
                {"bytes=1-2,4-5", REG_RANGE_PARTS, 2, {{1, 2}, {4, 2}}},
                {"bytes=1-2, 4-5 , 6-6", REG_RANGE_PARTS, 3, {{1, 2}, {4, 2}, {6, 1}}},
                {"bytes=4-5,1-2", REG_RANGE_PARTS, 2, {{4, 2}, {1, 2}}},
                {"bytes=1-2,2-3,1-2", REG_RANGE_PARTS, 3, {{1, 2}, {2, 2}, {1, 2}}},
                {"bytes=0-49,-50", REG_RANGE_PARTS, 2, {{0, 50}, {50, 50}}},
                {"bytes=0-1,90-", REG_RANGE_PARTS, 2, {{0, 2}, {90, 10}}},
                {"bytes=,1-2,,4-5,", REG_RANGE_PARTS, 2, {{1, 2}, {4, 2}}},
                {"bytes=1-2,100-200", REG_RANGE_PARTS, 1, {{1, 2}}},
                {"bytes=5-1,4-4", REG_RANGE_PARTS, 1, {{4, 1}}},
                {"bytes=100-,200-", REG_RANGE_UNSATISFIABLE, 0, {{0}}},
                {"bytes=,", REG_RANGE_UNSATISFIABLE, 0, {{0}}},
                {"bytes=1-2,x", REG_RANGE_WHOLE, 0, {{0}}},
                {"bytes=1-2,4", REG_RANGE_WHOLE, 0, {{0}}},
                {"bytes=1-2;4-5,6-7", REG_RANGE_WHOLE, 0, {{0}}},
                {"bytes=0-,0-", REG_RANGE_PARTS, 2, {{0, 100}, {0, 100}}},
                {"bytes=0-,0-,0-", REG_RANGE_WHOLE, 0, {{0}}},
                {"lines=1-2,4-5", REG_RANGE_WHOLE, 0, {{0}}},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_free struct reg_range *list = NULL;
                size_t count;
                if (reg_ranges_parse(cases[i].header, 100, &list, &count) != cases[i].kind)
                        fail_msg("%s", cases[i].header);
                if (cases[i].kind != REG_RANGE_PART && cases[i].kind != REG_RANGE_PARTS)
                        continue;
                assert_int_equal(count, cases[i].count);
                for (size_t j = 0; j < count; j++) {
                        assert_int_equal(list[j].first, cases[i].list[j].first);
                        assert_int_equal(list[j].bytes, cases[i].list[j].bytes);
                }
        }
}

static void limits_the_number_of_ranges(void **state CAS_UNUSED)
{
        for (unsigned n = REG_RANGES_MAX - 1; n <= REG_RANGES_MAX + 1; n++) {
                cas_cleanup_buf struct cas_buf header = CAS_BUF_INIT;
                cas_cleanup_free struct reg_range *list = NULL;
                size_t count;
                for (unsigned i = 0; i < n; i++)
                        cas_buf_printf(&header, "%s%u-%u", i ? "," : "bytes=", 2 * i, 2 * i);
                enum reg_range_kind kind =
                        reg_ranges_parse(cas_buf_str(&header), 10000, &list, &count);
                assert_int_equal(kind, n > REG_RANGES_MAX ? REG_RANGE_TOO_MANY : REG_RANGE_PARTS);
                assert_int_equal(count, n > REG_RANGES_MAX ? 0 : n);
        }
}

static void parses_content_ranges(void **state CAS_UNUSED)
{
        uint64_t first, last;
        assert_true(reg_content_range_parse("0-0", &first, &last));
        assert_true(reg_content_range_parse("7-1234567890123", &first, &last));
        assert_int_equal(first, 7);
        assert_int_equal(last, 1234567890123);
        static const char *const bad[] = {"",
                                          "-",
                                          "1",
                                          "1-",
                                          "-1",
                                          "2-1",
                                          " 1-2",
                                          "1-2 ",
                                          "a-b",
                                          "bytes 0-1/2",
                                          "0-1/2",
                                          "1--2",
                                          "0-99999999999999999999999"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                if (reg_content_range_parse(bad[i], &first, &last))
                        fail_msg("%s", bad[i]);
        }
}

static void compares_entity_tags(void **state CAS_UNUSED)
{
        static const char *const match[] = {"\"t\"", "W/\"t\"",      "\"a\", \"t\"",
                                            "*",     " \"a\",\"t\"", "\"t\" , \"b\""};
        static const char *const differ[] = {"",      "t",     "\"T\"",   "\"t",         "\"tt\"",
                                             "W/t",   "\"a\"", "x,\"t\"", "\"a\" \"t\"", "**",
                                             "\"a\","};
        for (size_t i = 0; i < CAS_COUNT(match); i++) {
                if (!reg_etag_listed(match[i], "t"))
                        fail_msg("%s", match[i]);
        }
        for (size_t i = 0; i < CAS_COUNT(differ); i++) {
                if (reg_etag_listed(differ[i], "t"))
                        fail_msg("%s", differ[i]);
        }
        assert_false(reg_etag_listed(NULL, "t"));
        assert_true(reg_if_range_allows(NULL, "t"));
        assert_true(reg_if_range_allows("\"t\"", "t"));
        assert_false(reg_if_range_allows("W/\"t\"", "t")); /* weak tags do not do for ranges */
        assert_false(reg_if_range_allows("\"tt\"", "t"));
        assert_false(reg_if_range_allows("Sat, 01 Jan 2000 00:00:00 GMT", "t"));
        assert_false(reg_if_range_allows("", "t"));
}

static void reads_counts(void **state CAS_UNUSED)
{
        uint64_t n;
        assert_true(reg_count_parse("0", 10, &n) && n == 0);
        assert_true(reg_count_parse("7", 10, &n) && n == 7);
        assert_true(reg_count_parse("99999999999999999999999", 10, &n) && n == 10);
        static const char *const bad[] = {"", "-1", "x", "1x", " 1", "+1"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(reg_count_parse(bad[i], 10, &n));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(parses_ranges),
                cmocka_unit_test(parses_several_ranges),
                cmocka_unit_test(limits_the_number_of_ranges),
                cmocka_unit_test(parses_content_ranges),
                cmocka_unit_test(compares_entity_tags),
                cmocka_unit_test(reads_counts),
        };
        return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
