/* SPDX-License-Identifier: Apache-2.0 */
/* Where keys come from: the environment, files, and metadata services (fakes of our own). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>

#include "registry/http.h"
#include "tests/support/scratch.h"
#include "tiering/s3creds_int.h"

struct fixture {
        struct reg_http_server *server;
        char *base, *dir; /* owned */
        _Atomic unsigned fetched;
        _Atomic int lasts_s;
        _Atomic bool fails, names_nonsense;
};

static void reply(struct reg_http_req *req, unsigned status, const char *text)
{
        reg_http_reply_bytes(req, status, text, strlen(text));
}

static void reply_keys(struct fixture *f, struct reg_http_req *req)
{
        char until[64];
        time_t when = time(NULL) + atomic_load(&f->lasts_s);
        struct tm t;
        assert_non_null(gmtime_r(&when, &t));
        assert_true(strftime(until, sizeof(until), "%Y-%m-%dT%H:%M:%SZ", &t) > 0);
        unsigned number = atomic_fetch_add(&f->fetched, 1) + 1;
        cas_cleanup_free char *text = cas_xasprintf(
                "{\"Code\": \"Success\", \"Type\": \"AWS-HMAC\", \"AccessKeyId\": \"ASIA%u\", "
                "\"SecretAccessKey\": \"s%u\", \"Token\": \"t%u\", \"Expiration\": \"%s\"}",
                number, number, number, until);
        reply(req, 200, text);
}

static bool is(struct reg_http_req *req, const char *path)
{
        return strcmp(reg_http_uri(req)->raw, path) == 0;
}

static bool has_header(struct reg_http_req *req, const char *name, const char *value)
{
        const char *given = reg_http_header(req, name);
        return given && strcmp(given, value) == 0;
}

static void begin(void *arg, struct reg_http_req *req)
{
        static const char roles[] = "/latest/meta-data/iam/security-credentials/";
        struct fixture *f = arg;
        bool token = has_header(req, "X-aws-ec2-metadata-token", "TOKEN");
        if (atomic_load(&f->fails))
                reply(req, 500, "");
        else if (is(req, "/latest/api/token"))
                reply(req, reg_http_header(req, "X-aws-ec2-metadata-token-ttl-seconds") ? 200 : 400,
                      "TOKEN");
        else if (is(req, "/container"))
                has_header(req, "Authorization", "Basic of-the-container") ? reply_keys(f, req)
                                                                           : reply(req, 403, "");
        else if (strncmp(reg_http_uri(req)->raw, roles, strlen(roles)) == 0 && !token)
                reply(req, 401, "");
        else if (is(req, roles))
                reply(req, 200, atomic_load(&f->names_nonsense) ? "../../x" : "a-role\n");
        else if (is(req, "/latest/meta-data/iam/security-credentials/a-role"))
                reply_keys(f, req);
        else
                reply(req, 404, "");
}

static const char *const variables[] = {"AWS_ACCESS_KEY_ID",
                                        "AWS_SECRET_ACCESS_KEY",
                                        "AWS_SESSION_TOKEN",
                                        "AWS_PROFILE",
                                        "AWS_SHARED_CREDENTIALS_FILE",
                                        "AWS_CONFIG_FILE",
                                        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                                        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                                        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
                                        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                                        "AWS_EC2_METADATA_DISABLED",
                                        "AWS_EC2_METADATA_SERVICE_ENDPOINT"};

static void set(const char *name, const char *value)
{
        assert_int_equal(setenv(name, value, 1), 0);
}

static int clean(void **state)
{
        struct fixture *f = *state;
        for (size_t i = 0; i < CAS_COUNT(variables); i++)
                (void)unsetenv(variables[i]);
        set("HOME", f->dir);
        set("AWS_EC2_METADATA_DISABLED", "true");
        atomic_store(&f->fails, false);
        atomic_store(&f->names_nonsense, false);
        atomic_store(&f->lasts_s, 3600);
        atomic_store(&f->fetched, 0);
        return 0;
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        struct reg_http_config config = {
                .listen = "127.0.0.1:0", .listen_fd = -1, .name = "test", .begin = begin, .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
        f->base = cas_xasprintf("http://127.0.0.1:%u", reg_http_port(f->server));
        f->dir = scratch_new();
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_http_stop(f->server, 1000);
        scratch_free(f->dir);
        free(f->base);
        free(f);
        return 0;
}

static void expect(struct s3_credentials *c, const char *key_id, const char *token)
{
        struct cas_err err = CAS_ERR_INIT;
        s3_cleanup_secret struct s3_secret s = {0};
        if (s3_credentials_get(c, &s, &err) < 0)
                fail_msg("%s", err.msg);
        assert_string_equal(s.key_id, key_id);
        if (token)
                assert_string_equal(s.token, token);
        else
                assert_null(s.token);
}

static int get(const char *profile, struct cas_err *err)
{
        struct s3_credentials *c = s3_credentials_new(profile);
        s3_cleanup_secret struct s3_secret s = {0};
        int rc = s3_credentials_get(c, &s, err);
        s3_credentials_free(c);
        return rc;
}

static void takes_the_environment(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(get(NULL, &err), -CAS_E_DENIED);
        assert_non_null(strstr(err.msg, "AWS_ACCESS_KEY_ID"));
        set("AWS_ACCESS_KEY_ID", "AKID1");
        set("AWS_SECRET_ACCESS_KEY", "secret1");
        struct s3_credentials *c = s3_credentials_new(NULL);
        expect(c, "AKID1", NULL);
        set("AWS_ACCESS_KEY_ID", "AKID2");
        set("AWS_SESSION_TOKEN", "tok");
        expect(c, "AKID1", NULL);
        s3_credentials_refused(c, "AKID0");
        expect(c, "AKID1", NULL);
        s3_credentials_refused(c, "AKID1");
        expect(c, "AKID2", "tok");
        s3_credentials_free(c);
        set("AWS_SECRET_ACCESS_KEY", "two\nlines");
        assert_int_equal(get(NULL, &err), -CAS_E_INVALID);
        assert_null(strstr(err.msg, "lines"));
}

static const char files_text[] = "# keys\n"
                                 "[default]\n"
                                 "aws_access_key_id = AKIDDEFAULT\r\n"
                                 "aws_secret_access_key=secret=/+x\n"
                                 "\n"
                                 "[ other ]\n"
                                 " aws_access_key_id = nested, not ours\n"
                                 "aws_access_key_id\t=\tAKIDOTHER\n"
                                 "aws_session_token = tok\n"
                                 "aws_secret_access_key = secret2\n"
                                 "; the end\n"
                                 "[empty]\n"
                                 "region = x\n";

static void put_file(const char *path, const char *text)
{
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
}

static void reads_files(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *keys = cas_xasprintf("%s/keys", f->dir);
        cas_cleanup_free char *config = cas_xasprintf("%s/config", f->dir);
        put_file(keys, files_text);
        put_file(config, "[profile third]\naws_access_key_id = AKIDTHIRD\n"
                         "aws_secret_access_key = s\n[fourth]\naws_access_key_id = AKIDFOURTH\n"
                         "aws_secret_access_key = s\n");
        set("AWS_SHARED_CREDENTIALS_FILE", keys);
        set("AWS_CONFIG_FILE", config);
        struct s3_credentials *c = s3_credentials_new(NULL);
        expect(c, "AKIDDEFAULT", NULL);
        s3_credentials_free(c);
        set("AWS_PROFILE", "other");
        c = s3_credentials_new(NULL);
        expect(c, "AKIDOTHER", "tok");
        s3_credentials_free(c);
        /* A profile that is named goes before the environment. */
        set("AWS_ACCESS_KEY_ID", "AKID1");
        set("AWS_SECRET_ACCESS_KEY", "secret1");
        c = s3_credentials_new("third");
        expect(c, "AKIDTHIRD", NULL);
        s3_credentials_free(c);
        assert_int_equal(get("fourth", &err), -CAS_E_NOTFOUND);
        assert_int_equal(get("empty", &err), -CAS_E_NOTFOUND);
        assert_int_equal(get("none", &err), -CAS_E_NOTFOUND);
}

static void asks_the_machine(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)unsetenv("AWS_EC2_METADATA_DISABLED");
        set("AWS_EC2_METADATA_SERVICE_ENDPOINT", f->base);
        struct s3_credentials *c = s3_credentials_new(NULL);
        expect(c, "ASIA1", "t1");
        expect(c, "ASIA1", "t1");
        s3_credentials_refused(c, "ASIA1");
        expect(c, "ASIA2", "t2");
        s3_credentials_free(c);
        /* They will expire within five minutes: fetched again, at most once a second. */
        atomic_store(&f->lasts_s, 100);
        c = s3_credentials_new(NULL);
        expect(c, "ASIA3", "t3");
        usleep(2100000);
        expect(c, "ASIA4", "t4");
        /* That fails: the old ones do as long as they are valid. */
        atomic_store(&f->fails, true);
        usleep(2100000);
        expect(c, "ASIA4", "t4");
        atomic_store(&f->fails, false);
        s3_credentials_free(c);
        atomic_store(&f->lasts_s, 1);
        c = s3_credentials_new(NULL);
        expect(c, "ASIA5", "t5");
        atomic_store(&f->fails, true);
        usleep(2100000);
        s3_cleanup_secret struct s3_secret none = {0};
        assert_int_equal(s3_credentials_get(c, &none, &err), -CAS_E_DENIED);
        s3_credentials_free(c);
        atomic_store(&f->fails, false);
        atomic_store(&f->names_nonsense, true);
        assert_int_equal(get(NULL, &err), -CAS_E_INVALID);
}

static void asks_the_container(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *url = cas_xasprintf("%s/container", f->base);
        cas_cleanup_free char *token = cas_xasprintf("%s/token", f->dir);
        set("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
        assert_int_equal(get(NULL, &err), -CAS_E_DENIED);
        set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic of-the-container");
        struct s3_credentials *c = s3_credentials_new(NULL);
        expect(c, "ASIA1", "t1");
        s3_credentials_free(c);
        put_file(token, "Basic of-the-container\n");
        set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "another");
        set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
        c = s3_credentials_new(NULL);
        expect(c, "ASIA2", "t2");
        s3_credentials_free(c);
        set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/keys");
        assert_int_equal(get(NULL, &err), -CAS_E_DENIED);
}

static void asks_nobody_else(void **state CAS_UNUSED)
{
        static const char *const good[] = {"https://example.com/", "http://127.0.0.1:80/x",
                                           "http://169.254.170.2/", "http://[::1]",
                                           "http://127.0.0.1"};
        static const char *const bad[] = {
                "http://example.com/",           "http://127.0.0.1.example.com/",
                "http://127.0.0.1@example.com/", "ftp://127.0.0.1/",
                "http://169.254.170.21/",        ""};
        for (size_t i = 0; i < CAS_COUNT(good); i++)
                assert_true(s3_metadata_url_allowed(good[i]));
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(s3_metadata_url_allowed(bad[i]));
}

static void reads_metadata(void **state CAS_UNUSED)
{
        static const char *const bad[] = {
                "",
                "[]",
                "{}",
                "{\"AccessKeyId\": \"a\"}",
                "{\"AccessKeyId\": 1, \"SecretAccessKey\": \"b\"}",
                "{\"AccessKeyId\": \"a b\", \"SecretAccessKey\": \"b\"}",
                "{\"AccessKeyId\": \"a/b\", \"SecretAccessKey\": \"b\"}",
                "{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\", \"Expiration\": \"soon\"}",
                "{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\", \"Token\": \"\"}",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                s3_cleanup_secret struct s3_secret s = {0};
                assert_true(s3_metadata_parse(bad[i], strlen(bad[i]), &s, &err) < 0);
        }
        static const char good[] = "{\"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\", "
                                   "\"Expiration\": \"2026-11-21T20:00:00Z\"}";
        struct cas_err err = CAS_ERR_INIT;
        s3_cleanup_secret struct s3_secret s = {0};
        assert_int_equal(s3_metadata_parse(good, strlen(good), &s, &err), 0);
        assert_int_equal(s.expires_unix_s, 1795291200);
        assert_null(s.token);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(takes_the_environment, clean),
                cmocka_unit_test_setup(reads_files, clean),
                cmocka_unit_test_setup(asks_the_machine, clean),
                cmocka_unit_test_setup(asks_the_container, clean),
                cmocka_unit_test(asks_nobody_else),
                cmocka_unit_test(reads_metadata),
        };
        return cmocka_run_group_tests(tests, setup, teardown);
}
