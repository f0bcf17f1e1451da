/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <crypt.h>
#include <pthread.h>

#include "cas/mutex.h"
#include "registry/base64.h"
#include "registry/passwords.h"
#include "registry/reg_clock.h"
#include "registry/scope.h"
#include "tests/support/scratch.h"

#define ok(call) assert_int_equal(call, 0)

struct fixture {
        char *dir, *path; /* owned */
        struct reg_htpasswd *file;
        struct reg_logins *logins;
        struct reg_limiter *failures;
        struct reg_passwords *passwords;
};

static void write_file(const struct fixture *f, const char *text)
{
        cas_cleanup_free char *temporary = cas_xasprintf("%s.new", f->path);
        FILE *out = fopen(temporary, "we");
        assert_non_null(out);
        assert_true(fputs(text, out) >= 0);
        ok(fclose(out));
        ok(rename(temporary, f->path));
}

/* "user:hash\n" at the least cost. */
static char *line_of(const char *user, const char *password)
{
        struct crypt_data *work = cas_xcalloc(1, sizeof(*work));
        char *line = cas_xasprintf("%s:%s\n", user,
                                   crypt_r(password, "$2y$04$abcdefghijklmnopqrstuu", work));
        free(work);
        return line;
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        f->dir = scratch_new();
        f->path = cas_xasprintf("%s/htpasswd", f->dir);
        cas_cleanup_free char *alice = line_of("alice", "secret");
        cas_cleanup_free char *bob = line_of("bob", "s:e:c");
        cas_cleanup_free char *text = cas_xasprintf("# users\n%s\r\n\n%s", alice, bob);
        write_file(f, text);
        ok(reg_htpasswd_open(f->path, &f->file, &err));
        f->logins = reg_logins_new();
        f->failures = reg_limiter_new(1, 3600, 5);
        f->passwords = reg_passwords_new(f->file, f->logins, f->failures);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_passwords_free(f->passwords);
        reg_limiter_free(f->failures);
        reg_logins_free(f->logins);
        reg_htpasswd_free(f->file);
        scratch_free(f->dir);
        free(f->path);
        free(f);
        return 0;
}

static enum reg_verdict check(struct fixture *f, const char *user, const char *password,
                              const char *client, bool may_block)
{
        struct reg_credentials c;
        (void)snprintf(c.user, sizeof(c.user), "%s", user);
        (void)snprintf(c.password, sizeof(c.password), "%s", password);
        return reg_passwords_check(f->passwords, &c, client, may_block);
}

static void who_knows_the_password_is_believed(void **state)
{
        struct fixture *f = *state;
        assert_int_equal(check(f, "alice", "secret", "c", false), REG_LATER);
        assert_int_equal(check(f, "alice", "secret", "c", true), REG_ALLOWED);
        /* known from then on, without hashing */
        assert_int_equal(check(f, "alice", "secret", "c", false), REG_ALLOWED);
        assert_int_equal(check(f, "bob", "s:e:c", "c", true), REG_ALLOWED);
        assert_int_equal(check(f, "alice", "Secret", "c", true), REG_UNAUTHORIZED);
        assert_int_equal(check(f, "alice", "", "c", true), REG_UNAUTHORIZED);
        assert_int_equal(check(f, "nobody", "secret", "c", true), REG_UNAUTHORIZED);
        assert_int_equal(check(f, "alice\nx", "secret", "c", true), REG_UNAUTHORIZED);
}

static void who_guesses_has_to_wait(void **state)
{
        struct fixture *f = *state;
        assert_int_equal(check(f, "alice", "secret", "good", true), REG_ALLOWED);
        for (unsigned i = 0; i < 5; i++)
                assert_int_equal(check(f, "alice", "guess", "bad", true), REG_UNAUTHORIZED);
        assert_int_equal(check(f, "alice", "guess", "bad", true), REG_LIMITED);
        assert_int_equal(check(f, "bob", "s:e:c", "bad", true), REG_LIMITED);
        /* others do not, nor do those who are known already */
        assert_int_equal(check(f, "bob", "s:e:c", "good", true), REG_ALLOWED);
        assert_int_equal(check(f, "alice", "secret", "bad", true), REG_ALLOWED);
}

static void another_file_is_another_truth(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash before, after;
        assert_int_equal(check(f, "alice", "secret", "c", true), REG_ALLOWED);
        assert_true(reg_htpasswd_stamp(f->file, "alice", &before));
        ok(reg_htpasswd_refresh(f->file, false, &err));
        assert_int_equal(check(f, "alice", "secret", "c", false), REG_ALLOWED);
        cas_cleanup_free char *line = line_of("alice", "other");
        write_file(f, line);
        ok(reg_htpasswd_refresh(f->file, false, &err));
        assert_int_equal(check(f, "alice", "secret", "c", false), REG_LATER);
        assert_int_equal(check(f, "alice", "secret", "c", true), REG_UNAUTHORIZED);
        assert_int_equal(check(f, "alice", "other", "c", true), REG_ALLOWED);
        assert_int_equal(check(f, "bob", "s:e:c", "c", true), REG_UNAUTHORIZED);
        assert_true(reg_htpasswd_stamp(f->file, "alice", &after));
        assert_false(cas_hash_equal(&before, &after));
        assert_false(reg_htpasswd_stamp(f->file, "bob", &after));
}

static void what_cannot_be_read_changes_nothing(void **state)
{
        static const char *const wrong[] = {
                "alice\n",
                "alice:secret\n",
                "alice:$apr1$abcdefgh$abcdefghijklmnopqrstu.\n",
                ":$2y$04$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n",
                "a:$2y$99$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n",
                "a:$2y$04$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0\n",
                "a:$2y$04$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
                "a:$2y$04$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n",
        };
        struct fixture *f = *state;
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                struct cas_err err = CAS_ERR_INIT;
                write_file(f, wrong[i]);
                assert_int_equal(reg_htpasswd_refresh(f->file, true, &err), -CAS_E_INVALID);
                assert_null(strstr(err.msg, "$2y$")); /* no hash is ever told */
                assert_int_equal(check(f, "alice", "secret", "c", true), REG_ALLOWED);
        }
        struct cas_err err = CAS_ERR_INIT;
        write_file(f, "");
        ok(reg_htpasswd_refresh(f->file, true, &err)); /* nobody is left, and that is a file */
        assert_int_equal(check(f, "alice", "secret", "c", true), REG_UNAUTHORIZED);
        ok(unlink(f->path));
        assert_int_equal(reg_htpasswd_refresh(f->file, false, &err), -CAS_E_NOTFOUND);
}

static void *check_in_thread(void *arg)
{
        struct fixture *f = arg;
        return (void *)(uintptr_t)check(f, "alice", "secret", "c", true);
}

static void many_at_once_are_served(void **state)
{
        struct fixture *f = *state;
        pthread_t threads[24];
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_create(&threads[i], NULL, check_in_thread, f));
        for (size_t i = 0; i < CAS_COUNT(threads); i++) {
                void *verdict;
                ok(pthread_join(threads[i], &verdict));
                assert_int_equal((uintptr_t)verdict, REG_ALLOWED);
        }
}

static bool parse(const char *plain, size_t len, struct reg_credentials *out)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        reg_base64_append(REG_BASE64, plain, len, &text);
        return reg_credentials_parse(cas_buf_str(&text), out);
}

static void credentials_are_read(void **state CAS_UNUSED)
{
        struct reg_credentials c;
        assert_true(parse("user:pass:word", 14, &c));
        assert_string_equal(c.user, "user");
        assert_string_equal(c.password, "pass:word");
        assert_true(parse(":", 1, &c)); /* nobody */
        assert_string_equal(c.user, "");
        assert_false(parse("user", 4, &c));
        assert_false(parse("us\0er:x", 7, &c));
        assert_false(parse("us\ner:x", 7, &c));
        assert_false(reg_credentials_parse("not base64!", &c));
        assert_false(reg_credentials_parse("", &c));
        char longest[REG_USER_BYTES_MAX + 2];
        memset(longest, 'u', sizeof(longest));
        longest[REG_USER_BYTES_MAX] = ':';
        assert_true(parse(longest, REG_USER_BYTES_MAX + 1, &c));
        longest[REG_USER_BYTES_MAX] = 'u';
        longest[REG_USER_BYTES_MAX + 1] = ':';
        assert_false(parse(longest, sizeof(longest), &c));
}

static void logins_end(void **state CAS_UNUSED)
{
        struct reg_logins *l = reg_logins_new();
        struct reg_identity who = {.user = "alice", .grants = reg_grants_new(true)}, out;
        struct cas_hash mac, other;
        reg_logins_mac(l, 'T', "token", &mac);
        reg_logins_mac(l, 'P', "token", &other);
        assert_false(cas_hash_equal(&mac, &other));
        reg_logins_put(l, &mac, 7, 100, &who);
        assert_true(reg_logins_get(l, &mac, 7, 99, &out));
        assert_string_equal(out.user, "alice");
        reg_identity_release(&out);
        assert_false(reg_logins_get(l, &mac, 7, 100, &out));
        assert_false(reg_logins_get(l, &mac, 8, 99, &out));
        assert_false(reg_logins_get(l, &other, 7, 99, &out));
        for (unsigned i = 0; i < 10000; i++) { /* memory is bounded: the oldest go */
                char text[32];
                (void)snprintf(text, sizeof(text), "t%u", i);
                reg_logins_mac(l, 'T', text, &other);
                reg_logins_put(l, &other, 7, 200 + i, &who);
        }
        assert_false(reg_logins_get(l, &mac, 7, 99, &out));
        assert_true(reg_logins_get(l, &other, 7, 99, &out));
        reg_identity_release(&out);
        reg_identity_release(&who);
        reg_logins_free(l);
}

static void scopes_are_read(void **state CAS_UNUSED)
{
        static const struct {
                const char *text;
                int code, type;
                const char *repo;
                unsigned actions;
        } cases[] = {
                {"repository:a/b:pull", 0, REG_SCOPE_REPOSITORY, "a/b", REG_ACTION_PULL},
                {"repository:a:pull,push", 0, REG_SCOPE_REPOSITORY, "a",
                 REG_ACTION_PULL | REG_ACTION_PUSH},
                {"repository:a:*", 0, REG_SCOPE_REPOSITORY, "a",
                 REG_ACTION_PULL | REG_ACTION_PUSH | REG_ACTION_DELETE},
                {"repository:a:fly,,delete", 0, REG_SCOPE_REPOSITORY, "a", REG_ACTION_DELETE},
                {"repository:a:", 0, REG_SCOPE_REPOSITORY, "a", 0},
                {"registry:catalog:*", 0, REG_SCOPE_CATALOG, "", 7},
                {"registry:other:*", 0, REG_SCOPE_OTHER, "", 7},
                {"repository(plugin):a:pull", 0, REG_SCOPE_OTHER, "", REG_ACTION_PULL},
                {"repository:A:pull", CAS_E_INVALID, 0, "", 0},
                {"repository:a/../b:pull", CAS_E_INVALID, 0, "", 0},
                {"repository:host:5000/a:pull", CAS_E_INVALID, 0, "", 0},
                {"repository::pull", CAS_E_INVALID, 0, "", 0},
                {"repository:a", CAS_E_INVALID, 0, "", 0},
                {"pull", CAS_E_INVALID, 0, "", 0},
                {"", CAS_E_INVALID, 0, "", 0},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct reg_scope scope;
                int rc = reg_scope_parse(cases[i].text, strlen(cases[i].text), &scope, &err);
                assert_int_equal(rc, -cases[i].code);
                if (rc < 0)
                        continue;
                assert_int_equal(scope.type, cases[i].type);
                assert_string_equal(scope.repo, cases[i].repo);
                assert_int_equal(scope.actions, cases[i].actions);
        }
}

static void grants_survive_a_token(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_grants *g = reg_grants_new(true), *back;
        struct reg_scope scope = {.type = REG_SCOPE_REPOSITORY, .repo = "a/b", .actions = 1};
        assert_true(reg_grants_add(g, &scope));
        scope.actions = 2;
        assert_true(reg_grants_add(g, &scope));
        scope = (struct reg_scope){.type = REG_SCOPE_CATALOG};
        assert_true(reg_grants_add(g, &scope));
        cas_cleanup_json json_t *doc = reg_grants_to_json(g);
        ok(reg_grants_from_json(doc, false, &back, &err));
        assert_int_equal(reg_grants_of(back, "a/b"), 3);
        assert_int_equal(reg_grants_of(back, "a"), 0);
        assert_true(reg_grants_catalog(back));
        assert_false(reg_grants_ours(back));
        reg_grants_unref(back);
        for (unsigned i = 0; i < REG_GRANTS_MAX - 1; i++) {
                scope = (struct reg_scope){.type = REG_SCOPE_REPOSITORY, .actions = 1};
                (void)snprintf(scope.repo, sizeof(scope.repo), "r%u", i);
                assert_true(reg_grants_add(g, &scope));
        }
        scope = (struct reg_scope){.type = REG_SCOPE_REPOSITORY, .repo = "more", .actions = 1};
        assert_false(reg_grants_add(g, &scope));
        reg_grants_unref(g);
        static const char *const wrong[] = {
                "[1]", "[{\"type\":\"repository\"}]",
                "[{\"type\":\"repository\",\"name\":\"A\",\"actions\":[\"pull\"]}]",
                "[{\"type\":\"repository\",\"name\":\"a\",\"actions\":\"pull\"}]",
                "[{\"type\":\"repository\",\"name\":\"a\",\"actions\":[1]}]"};
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                cas_cleanup_json json_t *bad = json_loads(wrong[i], 0, NULL);
                assert_non_null(bad);
                assert_int_equal(reg_grants_from_json(bad, false, &back, &err), -CAS_E_INVALID);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(who_knows_the_password_is_believed, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(who_guesses_has_to_wait, setup, teardown),
                cmocka_unit_test_setup_teardown(another_file_is_another_truth, setup, teardown),
                cmocka_unit_test_setup_teardown(what_cannot_be_read_changes_nothing, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(many_at_once_are_served, setup, teardown),
                cmocka_unit_test(credentials_are_read),
                cmocka_unit_test(logins_end),
                cmocka_unit_test(scopes_are_read),
                cmocka_unit_test(grants_survive_a_token),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
