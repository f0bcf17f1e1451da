/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "registry/tagguard.h"

static struct cas_digest digest_of(const char *text)
{
        struct cas_digest d;
        cas_digest_of(CAS_DIGEST_SHA256, text, strlen(text), &d);
        return d;
}

static void conditions_are_those_of_http(void **state CAS_UNUSED)
{
        const struct cas_digest one = digest_of("one"), none = {0};
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&one, text);
        cas_cleanup_free char *same = cas_xasprintf("\"x\", \"%s\"", text);
        cas_cleanup_free char *weak = cas_xasprintf("W/\"%s\"", text);
        const struct {
                struct reg_conditions c;
                bool there, absent; /* whether they hold */
        } cases[] = {
                {{NULL, NULL}, true, true},      {{"*", NULL}, true, false},
                {{same, NULL}, true, false},     {{weak, NULL}, false, false},
                {{"\"x\"", NULL}, false, false}, {{"nonsense", NULL}, false, false},
                {{NULL, "*"}, false, true},      {{NULL, same}, false, true},
                {{NULL, weak}, false, true},     {{NULL, "\"x\""}, true, true},
                {{same, "*"}, false, false},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                if (reg_conditions_hold(&cases[i].c, &one) != cases[i].there ||
                    reg_conditions_hold(&cases[i].c, &none) != cases[i].absent ||
                    reg_conditions_hold(&cases[i].c, NULL) != cases[i].absent)
                        fail_msg("case %zu", i);
        }
}

static void configure(void **area, const char *name, const char *key, const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(reg_immutable_area.set(area, name, key, value, &err), 0);
}

static void tags_are_immutable_by_section(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        void *area = NULL;
        assert_null(reg_immutable_rule(NULL, "prod/a", "v1"));
        configure(&area, "releases", "repositories", "prod/* base/**");
        configure(&area, "releases", "tags", "v*");
        configure(&area, "archive", "repositories", "archive/**");
        assert_int_equal(reg_immutable_area.set(&area, "releases", "tags", "a?", &err),
                         -CAS_E_INVALID);
        assert_int_equal(reg_immutable_area.set(&area, "releases", "x", "a", &err),
                         -CAS_E_NOTFOUND);
        assert_string_equal(reg_immutable_rule(area, "prod/a", "v1"), "releases");
        assert_string_equal(reg_immutable_rule(area, "base/a/b", "v1"), "releases");
        assert_string_equal(reg_immutable_rule(area, "archive/x", "latest"), "archive");
        assert_null(reg_immutable_rule(area, "prod/a", "latest"));
        assert_null(reg_immutable_rule(area, "prod/a/b", "v1"));
        reg_immutable_area.release(area);
}

static void guards_tags(void **state CAS_UNUSED)
{
        const struct cas_digest one = digest_of("one"), two = digest_of("two"), none = {0};
        struct cas_err err = CAS_ERR_INIT;
        void *area = NULL;
        const char *tags[] = {"a", "v1"};
        configure(&area, "", "tags", "v*");
        struct reg_tagguard g = {.immutable = area, .tags = tags, .tag_count = 2};
        struct cas_tag_change change = {"r", "v1", none, one};
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), 0);
        change.before = one; /* to what it is already */
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), 0);
        assert_true(cas_digest_equal(&g.before[1], &one) && g.before[0].alg == CAS_DIGEST_NONE);
        change.after = two;
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), -CAS_E_DENIED);
        assert_true(g.refused && g.code == REG_E_TAG_IMMUTABLE);
        change.after = none;
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), -CAS_E_DENIED);
        change = (struct cas_tag_change){"r", "a", one, two};
        g.refused = false;
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), 0);
        g.conditions.if_none_match = "*";
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), -CAS_E_DENIED);
        assert_true(g.refused && g.code == REG_E_PRECONDITION_FAILED);
        g = (struct reg_tagguard){.must_exist = true};
        change = (struct cas_tag_change){"r", "a", none, none};
        assert_int_equal(reg_tagguard_ask(&g, &change, &err), -CAS_E_NOTFOUND);
        assert_false(g.refused);
        reg_immutable_area.release(area);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(conditions_are_those_of_http),
                cmocka_unit_test(tags_are_immutable_by_section),
                cmocka_unit_test(guards_tags),
        };
        return cmocka_run_group_tests_name("tagguard", tests, NULL, NULL);
}
