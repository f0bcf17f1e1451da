/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client against the HTTP server and against raw sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "cas/log.h"
#include "registry/http.h"
#include "registry/httpc_int.h"

#define BIG_BYTES ((size_t)5 * 1024 * 1024 + 17)

struct fixture {
        struct reg_http_server *server, *other;
        struct reg_httpc *c;
        char *base, *other_base; /* owned */
        uint8_t *big;            /* owned */
        _Atomic unsigned requests;
        _Atomic bool saw_authorization;
};

static void echo_end(struct reg_http_req *req, void *state, const struct cas_buf *body)
{
        (void)state;
        reg_http_reply_bytes(req, 200, body->data ? (const char *)body->data : "", body->len_bytes);
}

static const struct reg_http_whole_ops echo_ops = {.bytes_max = BIG_BYTES + 1, .end = echo_end};

static bool is_path(struct reg_http_req *req, const char *path)
{
        return strncmp(reg_http_uri(req)->raw, path, strlen(path)) == 0;
}

static void begin(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        atomic_fetch_add(&f->requests, 1);
        const char *to = reg_uri_param(reg_http_uri(req), "to");
        if (is_path(req, "/echo")) {
                reg_http_accept_whole(req, &echo_ops, f);
        } else if (is_path(req, "/big")) {
                reg_http_reply_header(req, "X-Twice", "one");
                reg_http_reply_header(req, "x-twice", "two");
                reg_http_reply_bytes(req, 200, f->big, BIG_BYTES);
        } else if (is_path(req, "/redirect")) {
                reg_http_reply_header(req, "Location", to);
                reg_http_reply_bytes(req, 307, "", 0);
        } else if (is_path(req, "/found")) {
                reg_http_reply_header(req, "Location", to);
                reg_http_reply_bytes(req, 302, "", 0);
        } else if (is_path(req, "/loop")) {
                reg_http_reply_header(req, "Location", "loop");
                reg_http_reply_bytes(req, 302, "", 0);
        } else if (is_path(req, "/auth")) {
                atomic_store(&f->saw_authorization, reg_http_header(req, "Authorization") != NULL);
                reg_http_reply_bytes(req, 200, "", 0);
        } else {
                reg_http_reply_bytes(req, 404, "nothing", 7);
        }
}

static struct reg_http_server *serve(struct fixture *f, char **base)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_http_server *server;
        struct reg_http_config config = {
                .listen = "127.0.0.1:0", .listen_fd = -1, .name = "test", .begin = begin, .arg = f};
        assert_int_equal(reg_http_start(&config, &server, &err), 0);
        *base = cas_xasprintf("http://127.0.0.1:%u", reg_http_port(server));
        return server;
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        cas_log_set_level(CAS_LOG_ERROR);
        f->server = serve(f, &f->base);
        f->other = serve(f, &f->other_base);
        f->big = cas_xmalloc(BIG_BYTES);
        for (size_t i = 0; i < BIG_BYTES; i++)
                f->big[i] = (uint8_t)(i * 131 + (i >> 8));
        struct reg_httpc_config config = {.connections_per_host = 2, .idle_timeout_ms = 1000};
        assert_int_equal(reg_httpc_new(&config, &f->c, &err), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_httpc_free(f->c);
        reg_http_stop(f->server, 100);
        reg_http_stop(f->other, 100);
        free(f->base);
        free(f->other_base);
        free(f->big);
        free(f);
        return 0;
}

static struct reg_httpc_transfer *get(struct fixture *f, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_httpc_transfer *t = NULL;
        cas_cleanup_free char *url = cas_xasprintf("%s%s", f->base, path);
        struct reg_httpc_request q = {.method = "GET", .url = url};
        if (reg_httpc_begin(f->c, &q, &t, &err) < 0)
                fail_msg("%s", err.msg);
        return t;
}

static void test_get(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_transfer struct reg_httpc_transfer *t = get(f, "/big");
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        assert_int_equal(reg_httpc_status(t), 200);
        assert_int_equal(reg_httpc_length(t), BIG_BYTES);
        assert_string_equal(reg_httpc_header(t, "X-TWICE"), "two");
        assert_string_equal(reg_httpc_header_at(t, "X-Twice", 0), "one");
        assert_null(reg_httpc_header_at(t, "X-Twice", 2));
        assert_null(reg_httpc_header(t, "X-Twic"));
        assert_int_equal(reg_httpc_read_all(t, BIG_BYTES, &body, &err), 0);
        assert_int_equal(body.len_bytes, BIG_BYTES);
        assert_memory_equal(body.data, f->big, BIG_BYTES);
}

static void test_limit(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_transfer struct reg_httpc_transfer *t = get(f, "/big");
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        assert_int_equal(reg_httpc_read_all(t, 100000, &body, &err), -CAS_E_LIMIT);
        assert_true(body.len_bytes <= 100000);
}

/* A reader who takes his time is not cut off, and takes what is there afterwards. */
static void test_slow_reader(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_transfer struct reg_httpc_transfer *t = get(f, "/big");
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct timespec pause = {.tv_sec = 2};
        (void)nanosleep(&pause, NULL);
        assert_int_equal(reg_httpc_read_all(t, BIG_BYTES, &body, &err), 0);
        assert_int_equal(body.len_bytes, BIG_BYTES);
        assert_memory_equal(body.data, f->big, BIG_BYTES);
}

struct source {
        struct fixture *f;
        uint64_t fail_at, end_at;
        unsigned begun;
};

static int source_read(void *arg, uint64_t offset, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err)
{
        struct source *s = arg;
        s->begun += offset == 0;
        if (offset >= s->fail_at)
                return cas_fail(err, CAS_E_CORRUPT, "the source breaks");
        *out_len = offset >= s->end_at ? 0 : cas_min_u64(len, 10000);
        memcpy(buf, s->f->big + offset, *out_len);
        return 0;
}

static int post(struct fixture *f, const char *path, struct source *s, struct cas_buf *answer,
                struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        cas_cleanup_free char *url = cas_xasprintf("%s%s", f->base, path);
        struct reg_httpc_request q = {.method = "POST",
                                      .url = url,
                                      .body = s ? NULL : f->big,
                                      .body_bytes = BIG_BYTES,
                                      .body_read = s ? source_read : NULL,
                                      .body_arg = s};
        if (reg_httpc_begin(f->c, &q, &t, err) < 0)
                return -(int)err->code;
        assert_int_equal(reg_httpc_status(t), 200);
        return reg_httpc_read_all(t, BIG_BYTES, answer, err);
}

static void test_bodies(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        for (int with_source = 0; with_source < 2; with_source++) {
                struct source s = {.f = f, .fail_at = UINT64_MAX, .end_at = UINT64_MAX};
                cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
                assert_int_equal(post(f, "/echo", with_source ? &s : NULL, &answer, &err), 0);
                assert_int_equal(answer.len_bytes, BIG_BYTES);
                assert_memory_equal(answer.data, f->big, BIG_BYTES);
        }
        struct source fails = {.f = f, .fail_at = 1000000, .end_at = UINT64_MAX};
        struct source ends = {.f = f, .fail_at = UINT64_MAX, .end_at = 1000000};
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        assert_int_equal(post(f, "/echo", &fails, &answer, &err), -CAS_E_CORRUPT);
        assert_int_equal(post(f, "/echo", &ends, &answer, &err), -CAS_E_INVALID);
}

static void test_body_redirected(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct source s = {.f = f, .fail_at = UINT64_MAX, .end_at = UINT64_MAX};
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        assert_int_equal(post(f, "/redirect?to=/echo", &s, &answer, &err), 0);
        assert_int_equal(answer.len_bytes, BIG_BYTES);
        assert_memory_equal(answer.data, f->big, BIG_BYTES);
        assert_true(s.begun >= 2);
}

static void test_empty_post(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        cas_cleanup_free char *url = cas_xasprintf("%s/echo", f->base);
        struct reg_httpc_request q = {.method = "POST", .url = url};
        assert_int_equal(reg_httpc_begin(f->c, &q, &t, &err), 0);
        assert_int_equal(reg_httpc_status(t), 200);
        assert_int_equal(reg_httpc_length(t), 0);
}

static int begin_at(struct fixture *f, const char *url, bool authorized, unsigned *status,
                    struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        const char *headers[] = {authorized ? "authorization: Basic eA==" : NULL, NULL};
        struct reg_httpc_request q = {.method = "GET", .url = url, .headers = headers};
        if (reg_httpc_begin(f->c, &q, &t, err) < 0)
                return -(int)err->code;
        *status = reg_httpc_status(t);
        return 0;
}

static void test_redirects(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        unsigned status;
        cas_cleanup_free char *here = cas_xasprintf("%s/found?to=/auth", f->base);
        cas_cleanup_free char *there = cas_xasprintf("%s/found?to=%s/auth", f->base, f->other_base);
        cas_cleanup_free char *loop = cas_xasprintf("%s/loop", f->base);
        cas_cleanup_free char *file = cas_xasprintf("%s/found?to=file:///etc/passwd", f->base);
        cas_cleanup_free char *user = cas_xasprintf("%s/found?to=http://a:b@127.0.0.1/", f->base);
        assert_int_equal(begin_at(f, here, true, &status, &err), 0);
        assert_true(f->saw_authorization);
        assert_int_equal(begin_at(f, there, true, &status, &err), 0);
        assert_int_equal(status, 200);
        assert_false(f->saw_authorization); /* another port is another's */
        assert_int_equal(begin_at(f, loop, false, &status, &err), -CAS_E_DENIED);
        assert_int_equal(begin_at(f, file, false, &status, &err), -CAS_E_INVALID);
        assert_int_equal(begin_at(f, user, false, &status, &err), -CAS_E_INVALID);
}

static void test_redirect_rules(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        static const struct {
                const char *from, *to;
                bool allowed;
        } cases[] = {
                {"https://a.example:443", "https://b.example:443", true},
                {"http://a.example:80", "https://b.example:443", true},
                {"https://a.example:443", "http://a.example:80", false},
                {"https://a.example:443", "https://127.0.0.1:443", false},
                {"https://a.example:443", "https://169.254.169.254:443", false},
                {"https://a.example:443", "https://[::1]:443", false},
                {"https://a.example:443", "https://[::ffff:127.0.0.1]:443", false},
                {"https://a.example:443", "https://localhost:443", false},
                {"https://a.example:443", "https://x.localhost:443", false},
                {"https://a.example:443", "https://0x7f000001:443", false},
                {"https://a.example:443", "https://10.0.0.1:443", true},
                {"http://127.0.0.1:5000", "http://127.0.0.1:9000", true},
                {"http://127.0.0.1:5000", "http://b.example:80", true},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                bool allowed = httpc_redirect_allowed(cases[i].from, cases[i].to, &err) == 0;
                if (allowed != cases[i].allowed)
                        fail_msg("%s to %s", cases[i].from, cases[i].to);
        }
}

static void test_urls(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        static const struct {
                const char *base, *relative, *url, *origin;
        } cases[] = {
                {"http://H.example/a/b?c#d", NULL, "http://H.example/a/b?c", "http://h.example:80"},
                {"https://h:5000/a/b", "../c?x=1", "https://h:5000/c?x=1", "https://h:5000"},
                {"https://h/a", "//other/b", "https://other/b", "https://other:443"},
                {"https://[::1]:5/a", "/b", "https://[::1]:5/b", "https://[::1]:5"},
                {"https://h/a", "ftp://h/b", NULL, NULL},
                {"https://u@h/a", NULL, NULL, NULL},
                {"https://h/a b", NULL, NULL, NULL},
                {"https://h/a", "/x\r\nHost: y", NULL, NULL},
                {"h", NULL, NULL, NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_free char *url = NULL, *origin = NULL;
                int rc = httpc_url(cases[i].base, cases[i].relative, &url, &origin, &err);
                if (!cases[i].url) {
                        if (rc != -CAS_E_INVALID)
                                fail_msg("%s is taken", cases[i].base);
                        continue;
                }
                assert_int_equal(rc, 0);
                assert_string_equal(url, cases[i].url);
                assert_string_equal(origin, cases[i].origin);
        }
}

/* Raw answers, one connection each. */
struct raw {
        int fd;
        unsigned port;
        const char *answer;
        size_t answer_bytes;
        bool stay; /* the connection is left open */
        pthread_t thread;
        int stays[8];
        unsigned stay_count;
};

static void *raw_serve(void *arg)
{
        struct raw *r = arg;
        int fd;
        while ((fd = accept(r->fd, NULL, NULL)) >= 0) {
                char buf[4096];
                ssize_t n = recv(fd, buf, sizeof(buf), 0);
                if (n > 0)
                        n = send(fd, r->answer, r->answer_bytes, MSG_NOSIGNAL);
                if (r->stay && r->stay_count < CAS_COUNT(r->stays))
                        r->stays[r->stay_count++] = fd;
                else
                        (void)close(fd);
        }
        return NULL;
}

static char *raw_start(struct raw *r, const char *answer, bool stay)
{
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(a);
        *r = (struct raw){.answer = answer, .answer_bytes = strlen(answer), .stay = stay};
        r->fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(bind(r->fd, (struct sockaddr *)&a, sizeof(a)), 0);
        assert_int_equal(listen(r->fd, 8), 0);
        assert_int_equal(getsockname(r->fd, (struct sockaddr *)&a, &len), 0);
        assert_int_equal(pthread_create(&r->thread, NULL, raw_serve, r), 0);
        return cas_xasprintf("http://127.0.0.1:%u/x", ntohs(a.sin_port));
}

static void raw_stop(struct raw *r)
{
        (void)shutdown(r->fd, SHUT_RDWR);
        (void)pthread_join(r->thread, NULL);
        for (unsigned i = 0; i < r->stay_count; i++)
                (void)close(r->stays[i]);
        (void)close(r->fd);
}

static int raw_get(struct fixture *f, const char *answer, bool stay, struct cas_buf *body,
                   struct cas_err *err)
{
        struct raw r;
        cas_cleanup_free char *url = raw_start(&r, answer, stay);
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        struct reg_httpc_request q = {.method = "GET", .url = url};
        int rc = reg_httpc_begin(f->c, &q, &t, err);
        if (rc == 0)
                rc = reg_httpc_read_all(t, 1000, body, err);
        raw_stop(&r);
        return rc;
}

static void test_broken(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        assert_int_equal(raw_get(f, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", false,
                                 &body, &err),
                         -CAS_E_IO);
        assert_string_equal(cas_buf_str(&body), "short");
        assert_int_equal(raw_get(f, "", false, &body, &err), -CAS_E_IO);
        assert_int_equal(raw_get(f, "nonsense\r\n\r\n", false, &body, &err), -CAS_E_IO);
        cas_buf_clear(&body);
        assert_int_equal(raw_get(f,
                                 "HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n"
                                 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                                 false, &body, &err),
                         0);
        assert_string_equal(cas_buf_str(&body), "ok");
}

static void test_idle(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        assert_int_equal(
                raw_get(f, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", true, &body, &err),
                -CAS_E_LIMIT);
        assert_int_equal(raw_get(f, "HTTP/1.1 200", true, &body, &err), -CAS_E_LIMIT);
}

static void test_long_head(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT, answer = CAS_BUF_INIT;
        cas_buf_append_str(&answer, "HTTP/1.1 200 OK\r\n");
        for (int i = 0; i < 3000; i++)
                cas_buf_printf(&answer, "X-%d: %050d\r\n", i, i);
        cas_buf_append_str(&answer, "\r\n");
        assert_int_equal(raw_get(f, cas_buf_str(&answer), false, &body, &err), -CAS_E_IO);
}

static void test_refused(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        unsigned status;
        assert_int_equal(begin_at(f, "http://127.0.0.1:1/", false, &status, &err), -CAS_E_IO);
        assert_int_equal(begin_at(f, "gopher://127.0.0.1/", false, &status, &err), -CAS_E_INVALID);
}

/* Transfers beyond what one host allows wait for those before them, but not for ever. */
static void test_slots(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_transfer struct reg_httpc_transfer *a = get(f, "/big"), *b = get(f, "/big");
        unsigned status;
        cas_cleanup_free char *url = cas_xasprintf("%s/big", f->base);
        assert_int_equal(begin_at(f, url, false, &status, &err), -CAS_E_LIMIT);
        reg_httpc_end(cas_steal(&a));
        assert_int_equal(begin_at(f, url, false, &status, &err), 0);
}

static void *many_gets(void *arg)
{
        struct fixture *f = arg;
        for (int i = 0; i < 20; i++) {
                struct cas_err err = CAS_ERR_INIT;
                reg_cleanup_transfer struct reg_httpc_transfer *t = get(f, i % 2 ? "/big" : "/no");
                cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
                if (i % 5 == 0)
                        continue; /* broken off */
                cas_assert(reg_httpc_read_all(t, BIG_BYTES, &body, &err) == 0);
                cas_assert(body.len_bytes == (i % 2 ? BIG_BYTES : 7));
        }
        return NULL;
}

static void test_threads(void **state)
{
        pthread_t threads[6];
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct fixture patient = {.base = f->base, .big = f->big};
        struct reg_httpc_config config = {.connections_per_host = 2};
        assert_int_equal(reg_httpc_new(&config, &patient.c, &err), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, many_gets, &patient), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        reg_httpc_free(patient.c);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_get),
                cmocka_unit_test(test_limit),
                cmocka_unit_test(test_slow_reader),
                cmocka_unit_test(test_bodies),
                cmocka_unit_test(test_body_redirected),
                cmocka_unit_test(test_empty_post),
                cmocka_unit_test(test_redirects),
                cmocka_unit_test(test_redirect_rules),
                cmocka_unit_test(test_urls),
                cmocka_unit_test(test_broken),
                cmocka_unit_test(test_idle),
                cmocka_unit_test(test_long_head),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_slots),
                cmocka_unit_test(test_threads),
        };
        return cmocka_run_group_tests(tests, setup, teardown);
}
