/* SPDX-License-Identifier: Apache-2.0 */
/* What is decided about who asks; how it is asked and answered is in tests/sys/registry_access.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "registry/access_config.h"
#include "registry/reg_access.h"
#include "registry/scope.h"

#define ok(call) assert_int_equal(call, 0)
#define PULL REG_ACTION_PULL
#define PUSH REG_ACTION_PUSH

struct fixture {
        struct reg_config config;
        struct reg_access_config parts;
        struct reg_access *access;
};

/* Lines "SECTION|KEY|VALUE". */
static void open_access(struct fixture *f, const char *const *lines)
{
        struct cas_err err = CAS_ERR_INIT;
        *f = (struct fixture){0};
        for (; *lines; lines++) {
                cas_cleanup_free char *line = cas_xstrdup(*lines);
                char *key = strchr(line, '|'), *value = key ? strchr(key + 1, '|') : NULL;
                bool known;
                assert_non_null(value);
                *key++ = '\0';
                *value++ = '\0';
                ok(reg_config_set(&f->config, line, key, value, &known, &err));
        }
        bool any = reg_access_configured(&f->config, NULL, &f->parts);
        ok(reg_access_new(any ? &f->parts : NULL, &f->access, &err));
}

static void close_access(struct fixture *f)
{
        reg_access_free(f->access);
        reg_config_release(&f->config);
}

static struct reg_identity user(const char *name)
{
        struct reg_identity who = {0};
        (void)snprintf(who.user, sizeof(who.user), "%s", name);
        return who;
}

/* A token for one repository, or (NULL) for the catalog. */
static struct reg_identity token(const char *name, bool ours, const char *repo, unsigned actions)
{
        struct reg_identity who = user(name);
        struct reg_scope scope = {.type = repo ? REG_SCOPE_REPOSITORY : REG_SCOPE_CATALOG,
                                  .actions = actions};
        (void)snprintf(scope.repo, sizeof(scope.repo), "%s", repo ? repo : "");
        who.grants = reg_grants_new(ours);
        assert_true(reg_grants_add(who.grants, &scope));
        return who;
}

static void without_a_configuration_all_is_open(void **state CAS_UNUSED)
{
        static const char *const none[] = {NULL}, *const limits[] = {"limits|requests|9/s", NULL};
        static const char *const *const cases[] = {none, limits};
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct fixture f;
                struct reg_identity nobody = user("");
                open_access(&f, cases[i]);
                assert_true(reg_access_allows(f.access, &nobody, "a", 7));
                assert_true(reg_access_allows(f.access, &nobody, NULL, 0));
                assert_true(reg_access_lists(f.access, &nobody, "a"));
                assert_true(reg_access_public(f.access, "a"));
                assert_true(reg_access_public(f.access, NULL));
                assert_true(reg_access_room(f.access, &nobody, "a") == UINT64_MAX);
                close_access(&f);
        }
}

static void rules_hold_with_tokens_of_our_own(void **state CAS_UNUSED)
{
        static const char *const lines[] = {"rule public|repositories|public",
                                            "rule public|users|anonymous",
                                            "rule public|actions|pull",
                                            "rule dev|repositories|dev",
                                            "rule dev|users|alice",
                                            "rule dev|actions|pull, push",
                                            NULL};
        struct fixture f;
        struct reg_identity nobody = user(""), alice = user("alice"), bob = user("bob");
        struct reg_identity alices = token("alice", true, "dev", 7);
        struct reg_identity bobs = token("bob", true, "dev", 7);
        struct reg_identity shown = token("alice", true, NULL, 0);
        open_access(&f, lines);
        assert_false(reg_access_public(f.access, NULL));
        assert_true(reg_access_public(f.access, "public"));
        assert_false(reg_access_public(f.access, "dev"));
        assert_true(reg_access_allows(f.access, &nobody, "public", PULL));
        assert_false(reg_access_allows(f.access, &nobody, "public", PULL | PUSH));
        assert_false(reg_access_allows(f.access, &nobody, NULL, 0));
        assert_true(reg_access_allows(f.access, &alice, NULL, 0));
        assert_true(reg_access_allows(f.access, &alice, "dev", PULL | PUSH));
        assert_false(reg_access_allows(f.access, &bob, "dev", PULL));
        /* a token gives no more than the rules, and no more than it says */
        assert_true(reg_access_allows(f.access, &alices, "dev", PULL | PUSH));
        assert_false(reg_access_allows(f.access, &alices, "dev", REG_ACTION_DELETE));
        assert_false(reg_access_allows(f.access, &alices, "public", PULL));
        assert_false(reg_access_allows(f.access, &bobs, "dev", PULL));
        assert_true(reg_access_allows(f.access, &alices, NULL, 0));
        assert_false(reg_access_allows(f.access, &alices, NULL, PULL));
        assert_true(reg_access_allows(f.access, &shown, NULL, PULL));
        assert_true(reg_access_lists(f.access, &shown, "dev"));
        assert_false(reg_access_lists(f.access, &shown, "other"));
        assert_false(reg_access_allows(f.access, &shown, "dev", PULL));
        reg_identity_release(&alices);
        reg_identity_release(&bobs);
        reg_identity_release(&shown);
        close_access(&f);
}

static void tokens_of_an_outside_issuer_decide(void **state CAS_UNUSED)
{
        static const char *const lines[] = {"rule dev|repositories|dev", "rule dev|users|alice",
                                            "rule dev|actions|pull", NULL};
        struct fixture f;
        struct reg_identity grants = token("carol", false, "any", PULL | PUSH);
        struct reg_identity shown = token("carol", false, NULL, 0), alice = user("alice");
        open_access(&f, lines);
        assert_true(reg_access_allows(f.access, &grants, "any", PULL | PUSH));
        assert_false(reg_access_allows(f.access, &grants, "dev", PULL));
        assert_true(reg_access_lists(f.access, &shown, "dev"));
        assert_true(reg_access_allows(f.access, &alice, "dev", PULL)); /* a token without grants */
        reg_identity_release(&grants);
        reg_identity_release(&shown);
        close_access(&f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(without_a_configuration_all_is_open),
                cmocka_unit_test(rules_hold_with_tokens_of_our_own),
                cmocka_unit_test(tokens_of_an_outside_issuer_decide),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
