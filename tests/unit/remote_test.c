/* SPDX-License-Identifier: Apache-2.0 */
/* Remote registries: retries, tokens, what is refused, streams that break, and blobs
 * in stripes, against an HTTP server that does as it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "cas/log.h"
#include "registry/http.h"
#include "registry/range.h"
#include "registry/remote_int.h"
#include "registry/stripes.h"

#define BLOB_BYTES (REG_STRIPES_BLOB_BYTES_MIN + 12345)

struct fixture {
        struct reg_http_server *server;
        struct reg_httpc *c;
        char *host;    /* owned */
        uint8_t *blob; /* owned */
        struct cas_digest digest;
        _Atomic unsigned requests, tokens, cut_count;
        _Atomic unsigned refusals; /* requests to come that get `status` */
        unsigned status;
        char last[64]; /* target */
        const char *retry_after;
        bool no_ranges, wants_token, wants_basic, wrong_range;
        uint64_t cut_after; /* bytes of an answer; 0: whole */
};

/* ---- the registry ---- */

struct piece {
        struct fixture *f;
        uint64_t at, cut_at;
};

static int piece_read(void *source, void *buf, size_t len, size_t *out_len, void (*wake)(void *arg),
                      void *arg, struct cas_err *err)
{
        struct piece *p = source;
        (void)wake;
        (void)arg;
        if (p->at >= p->cut_at)
                return cas_fail(err, CAS_E_IO, "cut");
        *out_len = cas_min_u64(len, p->cut_at - p->at);
        memcpy(buf, p->f->blob + p->at, *out_len);
        p->at += *out_len;
        return 0;
}

static void piece_free(void *source)
{
        free(source);
}

static void reply_blob(struct fixture *f, struct reg_http_req *req)
{
        static const struct reg_http_source_ops ops = {.read = piece_read, .free = piece_free};
        struct reg_range range = {.first = 0, .bytes = BLOB_BYTES};
        const char *header = f->no_ranges ? NULL : reg_http_header(req, "Range");
        bool part = reg_range_parse(header, BLOB_BYTES, &range) == REG_RANGE_PART;
        struct piece *p = cas_xcalloc(1, sizeof(*p));
        *p = (struct piece){.f = f, .at = range.first, .cut_at = UINT64_MAX};
        if (f->cut_after && range.bytes > f->cut_after) {
                p->cut_at = range.first + f->cut_after;
                atomic_fetch_add(&f->cut_count, 1);
        }
        if (part)
                reg_http_reply_headerf(req, "Content-Range", "bytes %llu-%llu/%llu",
                                       (unsigned long long)range.first + f->wrong_range,
                                       (unsigned long long)(range.first + range.bytes - 1),
                                       (unsigned long long)BLOB_BYTES);
        reg_http_reply_source(req, part ? 206 : 200, range.bytes, &ops, p);
}

static bool refuse(struct fixture *f, struct reg_http_req *req)
{
        if (atomic_load(&f->refusals) == 0)
                return false;
        atomic_fetch_sub(&f->refusals, 1);
        if (f->retry_after)
                reg_http_reply_header(req, "Retry-After", f->retry_after);
        static const char said[] = "{\"errors\":[{\"code\":\"X\",\"message\":\"a\\nb\"}]}";
        reg_http_reply_bytes(req, f->status, said, strlen(said));
        return true;
}

static bool challenge(struct fixture *f, struct reg_http_req *req)
{
        const char *given = reg_http_header(req, "Authorization");
        bool token = given && strncmp(given, "Bearer t", 8) == 0;
        bool basic = given && strcmp(given, "Basic bWU6c2VjcmV0") == 0;
        if ((!f->wants_token || token) && (!f->wants_basic || basic))
                return false;
        if (f->wants_token)
                reg_http_reply_headerf(req, "WWW-Authenticate",
                                       "Bearer realm=\"http://%s/token\",service=\"s\"", f->host);
        else
                reg_http_reply_header(req, "WWW-Authenticate", "Basic realm=\"r\"");
        reg_http_reply_bytes(req, 401, "", 0);
        return true;
}

static void begin(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        const struct reg_uri *uri = reg_http_uri(req);
        if (strncmp(uri->raw, "/token", 6) == 0) {
                const char *given = reg_http_header(req, "Authorization");
                atomic_fetch_add(&f->tokens, 1);
                if (given && strcmp(given, "Basic bWU6c2VjcmV0") == 0)
                        reg_http_reply_bytes(req, 200, "{\"access_token\":\"t1\"}", 21);
                else
                        reg_http_reply_bytes(req, 403, "", 0);
                return;
        }
        (void)snprintf(f->last, sizeof(f->last), "%s", uri->raw);
        atomic_fetch_add(&f->requests, 1);
        if (refuse(f, req) || challenge(f, req))
                return;
        if (strstr(uri->raw, "/blobs/"))
                reply_blob(f, req);
        else if (strstr(uri->raw, "/manifests/evil"))
                reg_http_reply_bytes(req, 200, "{}", 2);
        else
                reg_http_reply_bytes(req, strstr(uri->raw, "/ok") ? 200 : 404, "", 0);
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        cas_log_set_level(CAS_LOG_ERROR);
        struct reg_http_config config = {
                .listen = "127.0.0.1:0", .listen_fd = -1, .name = "test", .begin = begin, .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
        f->host = cas_xasprintf("127.0.0.1:%u", reg_http_port(f->server));
        f->blob = cas_xmalloc(BLOB_BYTES);
        for (size_t i = 0; i < BLOB_BYTES; i++)
                f->blob[i] = (uint8_t)(i * 131 + (i >> 9));
        cas_digest_of(CAS_DIGEST_SHA256, f->blob, BLOB_BYTES, &f->digest);
        struct reg_httpc_config http = {.connections_per_host = 16};
        assert_int_equal(reg_httpc_new(&http, &f->c, &err), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_httpc_free(f->c);
        reg_http_stop(f->server, 100);
        free(f->host);
        free(f->blob);
        free(f);
        return 0;
}

static struct reg_remote *open_as(struct fixture *f, const char *user, const char *password)
{
        struct reg_remote *r = NULL;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_remote_config config = {.http = f->c,
                                           .host = f->host,
                                           .plain_http = true,
                                           .user = user,
                                           .password = password,
                                           .anonymous = !user,
                                           .attempts = 3};
        assert_int_equal(reg_remote_open(&config, &r, &err), 0);
        atomic_store(&f->requests, 0);
        atomic_store(&f->tokens, 0);
        return r;
}

static int ask(struct reg_remote *r, const char *path, struct reg_remote_failure *failure,
               struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        struct reg_remote_request q = {.method = "GET", .path = path, .scope_repo = "x"};
        return reg_remote_exchange(r, &q, &t, failure, err);
}

static void test_retries(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_remote_failure failure;
        reg_cleanup_remote struct reg_remote *r = open_as(f, NULL, NULL);
        static const unsigned transient[] = {408, 429, 500, 502, 503, 504};
        for (size_t i = 0; i < CAS_COUNT(transient); i++) {
                f->status = transient[i];
                atomic_store(&f->refusals, 1);
                assert_int_equal(ask(r, "x/ok", &failure, &err), 0);
                assert_int_equal(failure.status, 200);
        }
        atomic_store(&f->requests, 0);
        f->status = 503;
        atomic_store(&f->refusals, 100);
        assert_int_equal(ask(r, "x/ok", &failure, &err), -CAS_E_BUSY);
        assert_int_equal(failure.status, 503);
        assert_int_equal(f->requests, 3);
        assert_non_null(strstr(err.msg, "X, a?b")); /* nothing of it can move a cursor */
        atomic_store(&f->requests, 0);
        f->retry_after = "100000";
        assert_int_equal(ask(r, "x/ok", &failure, &err), -CAS_E_BUSY);
        assert_int_equal(failure.retry_after_s, 100000);
        assert_int_equal(f->requests, 1);
        f->retry_after = NULL;
        f->status = 400;
        atomic_store(&f->requests, 0);
        assert_int_equal(ask(r, "x/ok", &failure, &err), -CAS_E_INVALID);
        assert_int_equal(f->requests, 1);
        atomic_store(&f->refusals, 0);
        assert_int_equal(ask(r, "x/no", &failure, &err), -CAS_E_NOTFOUND);
}

static void test_basic(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        f->wants_basic = true;
        {
                reg_cleanup_remote struct reg_remote *r = open_as(f, "me", "secret");
                assert_int_equal(ask(r, "x/ok", NULL, &err), 0);
                assert_int_equal(f->requests, 2);
                assert_int_equal(ask(r, "x/ok", NULL, &err), 0);
                assert_int_equal(f->requests, 3); /* unasked from now on */
        }
        {
                reg_cleanup_remote struct reg_remote *r = open_as(f, "me", "wrong");
                assert_int_equal(ask(r, "x/ok", NULL, &err), -CAS_E_DENIED);
                assert_int_equal(f->requests, 2);
        }
        reg_cleanup_remote struct reg_remote *r = open_as(f, NULL, NULL);
        assert_int_equal(ask(r, "x/ok", NULL, &err), -CAS_E_DENIED);
        f->wants_basic = false;
}

static void test_tokens(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        f->wants_token = true;
        {
                reg_cleanup_remote struct reg_remote *r = open_as(f, "me", "secret");
                for (int i = 0; i < 5; i++)
                        assert_int_equal(ask(r, "x/ok", NULL, &err), 0);
                assert_int_equal(f->tokens, 1);
        }
        reg_cleanup_remote struct reg_remote *r = open_as(f, "me", "wrong");
        assert_int_equal(ask(r, "x/ok", NULL, &err), -CAS_E_DENIED);
        assert_int_equal(f->tokens, 1);
        f->wants_token = false;
}

static void test_manifest_of_others(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        reg_cleanup_remote struct reg_remote *r = open_as(f, NULL, NULL);
        assert_int_equal(reg_remote_manifest(r, "x", "evil", NULL, &out, &info, NULL, NULL, &err),
                         -CAS_E_INVALID);
        assert_int_equal(reg_remote_manifest(r, "x", cas_digest_text(&f->digest, text), NULL, &out,
                                             &info, NULL, NULL, &err),
                         -CAS_E_NOTFOUND);
        assert_int_equal(out.len_bytes, 0);
}

static int read_stream(struct fixture *f,
                       int (*read)(void *, void *, size_t, size_t *, struct cas_err *),
                       void *stream, uint64_t at, struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(100000);
        for (size_t n = 1; n > 0; at += n) {
                if (read(stream, piece, 100000, &n, err) < 0)
                        return -(int)err->code;
                assert_true(at + n <= BLOB_BYTES);
                assert_memory_equal(piece, f->blob + at, n);
        }
        assert_int_equal(at, BLOB_BYTES);
        return 0;
}

static void test_blob(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_remote struct reg_remote *r = open_as(f, NULL, NULL);
        for (int ranges = 0; ranges < 2; ranges++) {
                for (int cut = 0; cut < 2; cut++) {
                        reg_cleanup_remote_blob struct reg_remote_blob *b = NULL;
                        uint64_t total;
                        f->no_ranges = !ranges;
                        f->cut_after = cut && ranges ? BLOB_BYTES / 3 : 0;
                        atomic_store(&f->cut_count, 0);
                        assert_int_equal(reg_remote_blob_open(r, "x", &f->digest, 1000, &b, &total,
                                                              NULL, &err),
                                         0);
                        assert_int_equal(total, BLOB_BYTES);
                        if (read_stream(f, reg_remote_blob_read, b, 1000, &err) < 0)
                                fail_msg("%s", err.msg);
                        assert_true(!f->cut_after || f->cut_count >= 2);
                }
        }
        f->cut_after = 0;
        f->wrong_range = true;
        reg_cleanup_remote_blob struct reg_remote_blob *b = NULL;
        assert_int_equal(reg_remote_blob_open(r, "x", &f->digest, 1000, &b, NULL, NULL, &err),
                         -CAS_E_CORRUPT);
        f->wrong_range = false;
}

static void test_stripes(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_remote struct reg_remote *r = open_as(f, NULL, NULL);
        for (int mode = 0; mode < 4; mode++) {
                reg_cleanup_stripes struct reg_stripes *s = NULL;
                uint64_t from = mode == 3 ? 0 : 7;
                f->no_ranges = mode == 1;
                f->cut_after = mode == 2 ? 3000000 : 0;
                assert_int_equal(
                        reg_stripes_open(r, "x", &f->digest, from, BLOB_BYTES, 3, &s, &err), 0);
                if (read_stream(f, reg_stripes_read, s, from, &err) < 0)
                        fail_msg("mode %d: %s", mode, err.msg);
        }
        f->cut_after = 0;
        /* given up in the middle; of another size */
        reg_cleanup_stripes struct reg_stripes *s = NULL, *other = NULL;
        uint8_t piece[1000];
        size_t n;
        assert_int_equal(reg_stripes_open(r, "x", &f->digest, 0, BLOB_BYTES, 3, &s, &err), 0);
        assert_int_equal(reg_stripes_read(s, piece, sizeof(piece), &n, &err), 0);
        assert_int_equal(reg_stripes_open(r, "x", &f->digest, 0, BLOB_BYTES + 1, 3, &other, &err),
                         -CAS_E_CORRUPT);
}

/* What a registry says leads neither to this machine, nor out of what it may be asked for. */
static void test_elsewhere(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_remote_config config = {
                .http = f->c, .host = "registry.example", .anonymous = true, .attempts = 1};
        reg_cleanup_remote struct reg_remote *far = NULL;
        assert_int_equal(reg_remote_open(&config, &far, &err), 0);
        atomic_store(&f->requests, 0);
        cas_cleanup_free char *upload = cas_xasprintf("https://%s/v2/x/blobs/uploads/ok", f->host);
        cas_cleanup_free char *plain = cas_xasprintf("http://%s/ok", f->host);
        cas_cleanup_free char *dot =
                cas_xasprintf("http://localhost.:%s/ok", strchr(f->host, ':') + 1);
        assert_int_equal(ask(far, upload, NULL, &err), -CAS_E_DENIED);
        assert_int_equal(ask(far, "http://registry.example/ok", NULL, &err), -CAS_E_DENIED);
        /* of a foreign layer */
        struct reg_remote_blob *blob = NULL;
        uint64_t bytes;
        assert_int_equal(reg_remote_blob_open_url(far, plain, 0, &blob, &bytes, NULL, &err),
                         -CAS_E_DENIED);
        assert_true(reg_remote_blob_open_url(far, dot, 0, &blob, &bytes, NULL, &err) < 0);
        /* of tokens: no password goes here, nor anything else */
        const struct reg_remote_request q = {.method = "GET", .path = "x/ok", .scope_repo = "x"};
        const char *host[] = {f->host, strchr(dot, 'l')};
        for (size_t i = 0; i < CAS_COUNT(host); i++) {
                cas_cleanup_free char *header = NULL;
                reg_challenge_release(&far->challenge);
                far->challenge.kind = REG_CHALLENGE_BEARER;
                far->challenge.realm = cas_xasprintf("https://%s/token", host[i]);
                int rc = remote_auth_header(far, &q, NULL, NULL, &header, &err);
                assert_true(i == 0 ? rc == -CAS_E_DENIED : rc < 0);
                assert_null(header);
        }
        assert_int_equal(f->tokens, 0);
        assert_int_equal(f->requests, 0);
        /* from here, all of them may */
        reg_cleanup_remote struct reg_remote *near = open_as(f, NULL, NULL);
        assert_int_equal(ask(near, plain, NULL, &err), 0);
        assert_int_equal(ask(near, "x/ok?last=a://b", NULL, &err), 0);
        assert_string_equal(f->last, "/v2/x/ok?last=a://b");
}

static void test_names(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        char out[REG_REMOTE_REPO_BYTES];
        struct reg_remote_config config = {.http = f->c, .host = "docker.io"};
        struct reg_remote *bad = NULL;
        {
                reg_cleanup_remote struct reg_remote *hub = NULL;
                assert_int_equal(reg_remote_open(&config, &hub, &err), 0);
                assert_string_equal(reg_remote_host(hub), "docker.io");
                assert_string_equal(reg_remote_repo(hub, "alpine", out), "library/alpine");
                assert_string_equal(reg_remote_repo(hub, "a/b", out), "a/b");
                cas_cleanup_free char *base = remote_base(hub);
                assert_string_equal(base, "https://registry-1.docker.io");
        }
        reg_cleanup_remote struct reg_remote *r = open_as(f, NULL, NULL);
        assert_string_equal(reg_remote_repo(r, "alpine", out), "alpine");
        static const char *const hosts[] = {"", "a/b", "a@b", "a b", "a?b"};
        for (size_t i = 0; i < CAS_COUNT(hosts); i++) {
                config.host = hosts[i];
                assert_int_equal(reg_remote_open(&config, &bad, &err), -CAS_E_INVALID);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_retries), cmocka_unit_test(test_basic),
                cmocka_unit_test(test_tokens),  cmocka_unit_test(test_manifest_of_others),
                cmocka_unit_test(test_blob),    cmocka_unit_test(test_stripes),
                cmocka_unit_test(test_names),   cmocka_unit_test(test_elsewhere),
        };
        return cmocka_run_group_tests(tests, setup, teardown);
}
