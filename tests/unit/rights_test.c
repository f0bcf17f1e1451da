/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "registry/repo_pattern.h"
#include "registry/rights.h"

#define ok(call) assert_int_equal(call, 0)
#define PULL REG_ACTION_PULL
#define PUSH REG_ACTION_PUSH
#define DELETE REG_ACTION_DELETE

/* Sections as the configuration has them: lines "SECTION|KEY|VALUE". */
static int read_lines(struct reg_config *c, const char *const *lines, struct cas_err *err)
{
        int rc = 0;
        for (; rc == 0 && *lines; lines++) {
                cas_cleanup_free char *line = cas_xstrdup(*lines);
                char *key = strchr(line, '|'), *value = key ? strchr(key + 1, '|') : NULL;
                bool known;
                assert_non_null(value);
                *key++ = '\0';
                *value++ = '\0';
                rc = reg_config_set(c, line, key, value, &known, err);
                assert_true(known);
        }
        return rc;
}

static int rights_of(const char *const *lines, struct reg_rights **out, struct cas_err *err)
{
        struct reg_config c = {0};
        struct reg_access_config config;
        int rc = read_lines(&c, lines, err);
        if (rc == 0) {
                (void)reg_access_configured(&c, NULL, &config);
                rc = reg_rights_new(config.rules, config.groups, out, err);
        }
        reg_config_release(&c);
        return rc;
}

static void first_rule_decides_each_action(void **state CAS_UNUSED)
{
        static const char *const lines[] = {"rule frozen|repositories|team/frozen",
                                            "rule frozen|users|anonymous",
                                            "rule frozen|deny|push, delete",
                                            "rule public|repositories|public/** team/frozen",
                                            "rule public|users|anonymous",
                                            "rule public|actions|pull",
                                            "rule all|repositories|**",
                                            "rule all|users|root",
                                            "rule all|actions|all",
                                            "rule team|repositories|team/**",
                                            "rule team|users|@team, carol",
                                            "rule team|actions|pull push",
                                            "rule known|repositories|shared",
                                            "rule known|users|*",
                                            "rule known|actions|pull",
                                            "group team|users|alice",
                                            "group team|users|bob",
                                            NULL};
        static const struct {
                const char *user, *repo;
                unsigned actions;
        } cases[] = {
                {"", "public/a", PULL},
                {"", "public", 0},
                {"", "team/a", 0},
                {"", "shared", 0},
                {"dave", "shared", PULL},
                {"dave", "team/a", 0},
                {"alice", "team/a", PULL | PUSH},
                {"bob", "team/a/b", PULL | PUSH},
                {"carol", "team/a", PULL | PUSH},
                {"carol", "team", 0},
                {"carol", "teams/a", 0},
                {"root", "team/a", PULL | PUSH | DELETE},
                {"root", "team/frozen", PULL},
                {"alice", "team/frozen", PULL},
                {"", "team/frozen", PULL},
                {"team", "team/a", 0},
                {"@team", "team/a", 0},
                {"anonymous", "team/a", 0},
                {"*", "shared", PULL},
        };
        struct cas_err err = CAS_ERR_INIT;
        struct reg_rights *r;
        ok(rights_of(lines, &r, &err));
        for (size_t i = 0; i < CAS_COUNT(cases); i++)
                assert_int_equal(reg_rights_of(r, cases[i].user, cases[i].repo), cases[i].actions);
        assert_true(reg_rights_any_public(r));
        reg_rights_free(r);
}

static void without_rules_who_has_a_name_may_all(void **state CAS_UNUSED)
{
        static const char *const lines[] = {NULL};
        struct cas_err err = CAS_ERR_INIT;
        struct reg_rights *r;
        ok(rights_of(lines, &r, &err));
        assert_int_equal(reg_rights_of(r, "alice", "a"), PULL | PUSH | DELETE);
        assert_int_equal(reg_rights_of(r, "", "a"), 0);
        assert_false(reg_rights_any_public(r));
        reg_rights_free(r);
}

static void rules_that_make_no_sense_are_refused(void **state CAS_UNUSED)
{
        static const char *const wrong[][5] = {
                {"rule a|repositories|**", "rule a|users|*", NULL},
                {"rule a|repositories|**", "rule a|actions|pull", NULL},
                {"rule a|users|*", "rule a|actions|pull", NULL},
                {"rule a|repositories|**", "rule a|users|@none", "rule a|actions|pull", NULL},
                {"rule a|repositories|**", "rule a|users|*", "rule a|actions|pull",
                 "rule a|deny|pull", NULL},
                {"rule a|repositories|a", "rule a|repositories|", NULL},
                {"rule a|repositories|a b!", NULL},
                {"rule a|actions|pull, fly", NULL},
                {"rule a|actions|", NULL},
                {"rule a|colour|red", NULL},
                {"rule|actions|pull", NULL},
                {"group g|users|@h", NULL},
                {"group g|users|anonymous", NULL},
                {"access|challenge|digest", NULL},
                {"access|token_lifetime|59", NULL},
                {"access|realm|a\"b", NULL},
                {"access x|realm|a", NULL},
                {"access|token_keys_url|file:///etc/passwd", NULL},
                {"limits|requests|0/s", NULL},
                {"limits|failed_logins|1/s per user", NULL},
                {"quota q|bytes|many", NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct reg_rights *r = NULL;
                int rc = rights_of(wrong[i], &r, &err);
                assert_true(rc < 0);
                assert_null(r);
        }
}

static void users_have_places_of_their_own(void **state CAS_UNUSED)
{
        static const char *const lines[] = {"rule home|repositories|home/${user}/** ${user}",
                                            "rule home|users|*", "rule home|actions|all", NULL};
        struct cas_err err = CAS_ERR_INIT;
        struct reg_rights *r;
        ok(rights_of(lines, &r, &err));
        assert_int_equal(reg_rights_of(r, "alice", "home/alice/x"), PULL | PUSH | DELETE);
        assert_int_equal(reg_rights_of(r, "alice", "alice"), PULL | PUSH | DELETE);
        assert_int_equal(reg_rights_of(r, "alice", "home/bob/x"), 0);
        assert_int_equal(reg_rights_of(r, "", "home/alice/x"), 0);
        /* names that would mean more than themselves */
        assert_int_equal(reg_rights_of(r, "*", "home/alice/x"), 0);
        assert_int_equal(reg_rights_of(r, "**", "home/alice/x"), 0);
        assert_int_equal(reg_rights_of(r, "alice/x", "home/alice/x/y"), 0);
        assert_int_equal(reg_rights_of(r, "Alice", "home/alice/x"), 0);
        reg_rights_free(r);
}

static void patterns_know_whose_a_repository_is(void **state CAS_UNUSED)
{
        static const char *const wrong[] = {"",         "a b",      "**/${user}",
                                            "x${user}", "${user}x", "${user}/${user}",
                                            "${name}",  "a$"};
        struct reg_repo_pattern p;
        struct cas_err err = CAS_ERR_INIT;
        char user[64];
        for (size_t i = 0; i < CAS_COUNT(wrong); i++)
                assert_int_equal(reg_repo_pattern_init(&p, wrong[i], &err), -CAS_E_INVALID);
        ok(reg_repo_pattern_init(&p, "*/${user}/**", &err));
        assert_true(reg_repo_pattern_owner(&p, "home/alice/x/y", user, sizeof(user)));
        assert_string_equal(user, "alice");
        assert_false(reg_repo_pattern_owner(&p, "home", user, sizeof(user)));
        assert_false(reg_repo_pattern_owner(&p, "home/alice", user, sizeof(user)));
        reg_repo_pattern_release(&p);
        ok(reg_repo_pattern_init(&p, "a/**", &err));
        assert_int_equal(p.kind, REG_PATTERN_BELOW);
        assert_true(reg_repo_pattern_owner(&p, "a/b/c", user, sizeof(user)));
        assert_string_equal(user, "");
        assert_false(reg_repo_pattern_match(&p, "a", ""));
        assert_false(reg_repo_pattern_match(&p, "ab/c", ""));
        reg_repo_pattern_release(&p);
}

static void rates_are_read(void **state CAS_UNUSED)
{
        static const char *const wrong[] = {
                "",      "10",           "10/w",          "/s",
                "0/s",   "-1/s",         "10/s per host", "10/s burst",
                "1 0/s", "10/s burst 0", "10/s x",        "99999999999/s"};
        struct cas_err err = CAS_ERR_INIT;
        struct reg_rate rate;
        ok(reg_rate_parse("100/m", &rate, &err));
        assert_true(rate.count == 100 && rate.period_s == 60 && rate.burst == 100 &&
                    !rate.per_user);
        ok(reg_rate_parse(" 5/s  per user burst 20 ", &rate, &err));
        assert_true(rate.count == 5 && rate.period_s == 1 && rate.burst == 20 && rate.per_user);
        for (size_t i = 0; i < CAS_COUNT(wrong); i++)
                assert_int_equal(reg_rate_parse(wrong[i], &rate, &err), -CAS_E_INVALID);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(first_rule_decides_each_action),
                cmocka_unit_test(without_rules_who_has_a_name_may_all),
                cmocka_unit_test(rules_that_make_no_sense_are_refused),
                cmocka_unit_test(users_have_places_of_their_own),
                cmocka_unit_test(patterns_know_whose_a_repository_is),
                cmocka_unit_test(rates_are_read),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
