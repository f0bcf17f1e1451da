/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate, auth files and credential helpers, certs.d. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "registry/authfile.h"
#include "registry/challenge.h"
#include "registry/hostcerts.h"

static void test_challenges(void **state)
{
        (void)state;
        static const struct {
                const char *header;
                int rc;
                enum reg_challenge_kind kind;
                const char *realm, *service, *scope, *error;
        } cases[] = {
                {"Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull,push\"", 0,
                 REG_CHALLENGE_BEARER, "https://a/t", "s", "repository:x:pull,push", NULL},
                {"bearer Realm=\"r\" , ERROR=insufficient_scope", 0, REG_CHALLENGE_BEARER, "r",
                 NULL, NULL, "insufficient_scope"},
                {"Basic realm=\"a \\\"b\\\\\"", 0, REG_CHALLENGE_BASIC, "a \"b\\", NULL, NULL,
                 NULL},
                {"Basic", 0, REG_CHALLENGE_BASIC, NULL, NULL, NULL, NULL},
                {"Basic realm=\"x\", Bearer realm=\"y\"", 0, REG_CHALLENGE_BEARER, "y", NULL, NULL,
                 NULL},
                {"Bearer realm=\"y\", Basic realm=\"x\"", 0, REG_CHALLENGE_BEARER, "y", NULL, NULL,
                 NULL},
                {"Negotiate, Basic realm=\"x\"", 0, REG_CHALLENGE_BASIC, "x", NULL, NULL, NULL},
                {"Negotiate abcd==, Basic realm=\"x\"", 0, REG_CHALLENGE_BASIC, "x", NULL, NULL,
                 NULL},
                {"Digest realm=\"d\",nonce=\"n\"", 0, REG_CHALLENGE_NONE, NULL, NULL, NULL, NULL},
                {"Bearer service=\"s\"", 0, REG_CHALLENGE_NONE, NULL, NULL, NULL, NULL},
                {"", 0, REG_CHALLENGE_NONE, NULL, NULL, NULL, NULL},
                {" , ,", 0, REG_CHALLENGE_NONE, NULL, NULL, NULL, NULL},
                {"Bearer realm=\"x", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
                {"Bearer realm=\"x\\", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
                {"Bearer realm=\"x\" service=\"y\"", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
                {"Bearer realm=\"x\",realm=\"y\"", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
                {"Bearer realm=\"x\r\ny\"", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
                {"Bearer realm=\"x\x7f\"", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
                {"\"realm\"", -CAS_E_INVALID, 0, NULL, NULL, NULL, NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                reg_cleanup_challenge struct reg_challenge c = {0};
                struct cas_err err = CAS_ERR_INIT;
                int rc = reg_challenge_parse(cases[i].header, &c, &err);
                const char *const want[] = {cases[i].realm, cases[i].service, cases[i].scope,
                                            cases[i].error};
                const char *const got[] = {c.realm, c.service, c.scope, c.error};
                if (rc != cases[i].rc || c.kind != cases[i].kind)
                        fail_msg("%s: %d, kind %d", cases[i].header, rc, (int)c.kind);
                for (size_t j = 0; j < CAS_COUNT(want); j++) {
                        if (!want[j] != !got[j] || (want[j] && strcmp(want[j], got[j]) != 0))
                                fail_msg("%s: %s", cases[i].header, got[j] ? got[j] : "nothing");
                }
        }
}

static void test_long_challenge(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_challenge struct reg_challenge c = {0};
        cas_cleanup_buf struct cas_buf many = CAS_BUF_INIT;
        cas_buf_append_str(&many, "Bearer realm=\"x\"");
        for (int i = 0; i < REG_CHALLENGE_PARAMS_MAX; i++)
                cas_buf_printf(&many, ",p%d=1", i);
        assert_int_equal(reg_challenge_parse(cas_buf_str(&many), &c, &err), -CAS_E_LIMIT);
        for (int i = 0; i < 3000; i++)
                cas_buf_append_str(&many, "      ");
        assert_int_equal(reg_challenge_parse(cas_buf_str(&many), &c, &err), -CAS_E_LIMIT);
}

/* me:secret, you:pass:word */
#define ME "bWU6c2VjcmV0"
#define YOU "eW91OnBhc3M6d29yZA=="

static void test_auth_files(void **state)
{
        (void)state;
        static const struct {
                const char *text, *host, *repo;
                int rc;
                const char *user, *password, *token, *helper, *server;
        } cases[] = {
                {"{\"auths\":{\"h:5\":{\"auth\":\"" ME "\"}}}", "h:5", "a", 0, "me", "secret", NULL,
                 NULL, NULL},
                {"{\"auths\":{\"h:5\":{\"auth\":\"" ME "\"}}}", "h", "a", 0, NULL, NULL, NULL, NULL,
                 NULL},
                {"{\"auths\":{\"h\":{\"auth\":\"" ME "\"},\"h/a/b\":{\"auth\":\"" YOU "\"}}}", "h",
                 "a/b/c", 0, "you", "pass:word", NULL, NULL, NULL},
                {"{\"auths\":{\"h\":{\"auth\":\"" ME "\"},\"h/a/b\":{\"auth\":\"" YOU "\"}}}", "h",
                 "a/bc", 0, "me", "secret", NULL, NULL, NULL},
                {"{\"auths\":{\"https://index.docker.io/v1/\":{\"auth\":\"" ME "\"}}}", "docker.io",
                 "library/x", 0, "me", "secret", NULL, NULL, NULL},
                {"{\"auths\":{\"docker.io\":{\"auth\":\"" ME "\"}}}", "registry-1.docker.io", NULL,
                 0, "me", "secret", NULL, NULL, NULL},
                {"{\"auths\":{\"https://h/v1/\":{\"auth\":\"" ME "\"}}}", "h", NULL, 0, "me",
                 "secret", NULL, NULL, NULL},
                {"{\"auths\":{\"h\":{\"auth\":\"\",\"identitytoken\":\"tok\"}}}", "h", NULL, 0,
                 NULL, NULL, "tok", NULL, NULL},
                {"{\"auths\":{\"h\":{\"username\":\"u\",\"password\":\"p\"}}}", "h", NULL, 0, "u",
                 "p", NULL, NULL, NULL},
                {"{\"auths\":{\"h\":{}},\"credsStore\":\"desk\"}", "h", NULL, 0, NULL, NULL, NULL,
                 "desk", "h"},
                {"{\"credsStore\":\"desk\"}", "docker.io", NULL, 0, NULL, NULL, NULL, "desk",
                 "https://index.docker.io/v1/"},
                {"{\"credHelpers\":{\"h\":\"one\"},\"credsStore\":\"desk\"}", "h", "x", 0, NULL,
                 NULL, NULL, "one", "h"},
                {"{\"credHelpers\":{\"h\":7}}", "h", NULL, -CAS_E_INVALID, NULL, NULL, NULL, NULL,
                 NULL},
                {"{\"auths\":{\"h\":{\"auth\":\"bm9jb2xvbg==\"}}}", "h", NULL, -CAS_E_INVALID, NULL,
                 NULL, NULL, NULL, NULL},
                {"{\"auths\":{\"h\":{\"auth\":\"!!!!\"}}}", "h", NULL, -CAS_E_INVALID, NULL, NULL,
                 NULL, NULL, NULL},
                {"{\"auths\":{\"h\":[]}}", "h", NULL, -CAS_E_INVALID, NULL, NULL, NULL, NULL, NULL},
                {"{\"auths\":[]}", "h", NULL, -CAS_E_INVALID, NULL, NULL, NULL, NULL, NULL},
                {"{", "h", NULL, -CAS_E_INVALID, NULL, NULL, NULL, NULL, NULL},
                {"{}", "h", NULL, 0, NULL, NULL, NULL, NULL, NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                reg_cleanup_credentials struct reg_credentials c = {0};
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_free char *helper = NULL, *server = NULL;
                int rc = reg_authfile_parse(cases[i].text, strlen(cases[i].text), cases[i].host,
                                            cases[i].repo, &c, &helper, &server, &err);
                const char *const want[] = {cases[i].user, cases[i].password, cases[i].token,
                                            cases[i].helper, cases[i].server};
                const char *const got[] = {c.user, c.password, c.identity_token, helper, server};
                if (rc != cases[i].rc)
                        fail_msg("%s: %d %s", cases[i].text, rc, err.msg);
                for (size_t j = 0; j < CAS_COUNT(want); j++) {
                        if (!want[j] != !got[j] || (want[j] && strcmp(want[j], got[j]) != 0))
                                fail_msg("%s: %s", cases[i].text, got[j] ? got[j] : "nothing");
                }
        }
}

static char *scratch(void)
{
        char *dir = cas_xstrdup("/tmp/lamina-auth-XXXXXX");
        assert_non_null(mkdtemp(dir));
        return dir;
}

static void write_file(const char *dir, const char *name, mode_t mode, const char *text)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void drop_file(const char *dir, const char *name)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        assert_int_equal(unlink(path), 0);
}

static int ask(const char *name, unsigned wait_ms, struct reg_credentials *c, struct cas_err *err)
{
        return reg_credhelper_get(name, "h:5", wait_ms, c, err);
}

static void test_helpers(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = scratch();
        cas_cleanup_free char *path = cas_xasprintf("%s:%s", dir, getenv("PATH"));
        assert_int_equal(setenv("PATH", path, 1), 0);
        static const struct {
                const char *name, *script;
                int rc;
                const char *user, *password, *token;
        } cases[] = {
                {"ok",
                 "#!/bin/sh\nread -r s; [ \"$1 $s\" = 'get h:5' ] || exit 3\n"
                 "echo '{\"Username\":\"u\",\"Secret\":\"p\"}'\n",
                 0, "u", "p", NULL},
                {"tok", "#!/bin/sh\necho '{\"Username\":\"<token>\",\"Secret\":\"t\"}'\n", 0, NULL,
                 NULL, "t"},
                {"none", "#!/bin/sh\necho 'credentials not found in native keychain'; exit 1\n", 0,
                 NULL, NULL, NULL},
                {"bad", "#!/bin/sh\necho 'locked'; exit 1\n", -CAS_E_UNSUPPORTED, NULL, NULL, NULL},
                {"json", "#!/bin/sh\necho '[]'\n", -CAS_E_INVALID, NULL, NULL, NULL},
                {"much", "#!/bin/sh\nhead -c 1000000 /dev/zero\n", -CAS_E_LIMIT, NULL, NULL, NULL},
                {"slow", "#!/bin/sh\nsleep 20\n", -CAS_E_UNSUPPORTED, NULL, NULL, NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_free char *file = cas_xasprintf("docker-credential-%s", cases[i].name);
                reg_cleanup_credentials struct reg_credentials c = {0};
                write_file(dir, file, 0755, cases[i].script);
                time_t began = time(NULL);
                int rc = ask(cases[i].name, strcmp(cases[i].name, "slow") ? 10000 : 300, &c, &err);
                assert_true(time(NULL) - began < 10);
                const char *const want[] = {cases[i].user, cases[i].password, cases[i].token};
                const char *const got[] = {c.user, c.password, c.identity_token};
                if (rc != cases[i].rc)
                        fail_msg("%s: %d %s", cases[i].name, rc, err.msg);
                for (size_t j = 0; j < CAS_COUNT(want); j++) {
                        if (!want[j] != !got[j] || (want[j] && strcmp(want[j], got[j]) != 0))
                                fail_msg("%s: %s", cases[i].name, got[j] ? got[j] : "nothing");
                }
                drop_file(dir, file);
        }
        reg_cleanup_credentials struct reg_credentials c = {0};
        assert_int_equal(ask("../x", 100, &c, &err), -CAS_E_INVALID);
        assert_int_equal(ask("", 100, &c, &err), -CAS_E_INVALID);
        assert_int_equal(ask("gone", 100, &c, &err), -CAS_E_UNSUPPORTED);
        assert_int_equal(rmdir(dir), 0);
}

static void test_files(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_credentials struct reg_credentials c = {0};
        cas_cleanup_free char *dir = scratch();
        cas_cleanup_free char *file = cas_xasprintf("%s/a.json", dir);
        assert_int_equal(setenv("HOME", dir, 1), 0);
        assert_int_equal(unsetenv("XDG_RUNTIME_DIR"), 0);
        assert_int_equal(unsetenv("DOCKER_CONFIG"), 0);
        assert_int_equal(unsetenv("REGISTRY_AUTH_FILE"), 0);
        assert_int_equal(reg_authfile_find(NULL, "h", "r", &c, &err), 0);
        assert_null(c.user);
        assert_int_equal(reg_authfile_find(file, "h", "r", &c, &err), -CAS_E_NOTFOUND);
        write_file(dir, "a.json", 0600, "{\"auths\":{\"h\":{\"auth\":\"" ME "\"}}}");
        assert_int_equal(reg_authfile_find(file, "h", "r", &c, &err), 0);
        assert_string_equal(c.user, "me");
        reg_credentials_release(&c);
        assert_int_equal(setenv("REGISTRY_AUTH_FILE", file, 1), 0);
        assert_int_equal(reg_authfile_find(NULL, "h", "r", &c, &err), 0);
        assert_string_equal(c.password, "secret");
        assert_int_equal(unsetenv("REGISTRY_AUTH_FILE"), 0);
        drop_file(dir, "a.json");
        assert_int_equal(rmdir(dir), 0);
}

static void test_host_certs(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = scratch();
        cas_cleanup_free char *host = cas_xasprintf("%s/h:5", dir);
        const char *const dirs[] = {"/no/such/place", dir, NULL};
        reg_cleanup_hostcerts struct reg_hostcerts c = {0};
        assert_int_equal(mkdir(host, 0700), 0);
        write_file(host, "a.crt", 0600, "A");
        write_file(host, "b.crt", 0600, "B");
        write_file(host, "x.cert", 0600, "C");
        assert_int_equal(reg_hostcerts_find(dirs, "h:5", &c, &err), -CAS_E_INVALID);
        write_file(host, "x.key", 0600, "K");
        assert_int_equal(reg_hostcerts_find(dirs, "h:5", &c, &err), 0);
        assert_int_equal(c.ca.len_bytes, 4);
        assert_int_equal(strlen(c.key_path), strlen(host) + strlen("/x.key"));
        reg_hostcerts_release(&c);
        assert_int_equal(reg_hostcerts_find(dirs, "h", &c, &err), 0);
        assert_int_equal(reg_hostcerts_find(dirs, "../h:5", &c, &err), 0);
        assert_null(c.cert_path);
        drop_file(host, "a.crt");
        drop_file(host, "b.crt");
        drop_file(host, "x.cert");
        drop_file(host, "x.key");
        assert_int_equal(rmdir(host), 0);
        assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_challenges), cmocka_unit_test(test_long_challenge),
                cmocka_unit_test(test_auth_files), cmocka_unit_test(test_helpers),
                cmocka_unit_test(test_files),      cmocka_unit_test(test_host_certs),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
