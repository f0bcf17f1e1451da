/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server: work that is put off, who asks, what is told of requests that
 * are over, and answers that are made before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "cas/mutex.h"
#include "registry/http.h"
#include "registry/http_listen.h"
#include "tests/support/httpclient.h"

#define BIG_BYTES (64 << 20)
#define READY_BODY "a body that was ready"

/* The last request that was over. */
struct over {
        char method[16], target[128], client[64], agent[64], context[16];
        unsigned status;
        bool whole;
        uint64_t in_bytes, out_bytes;
};

struct fixture {
        struct reg_http_server *server;
        struct reg_http_answer *ready;
        struct cas_mutex mutex;
        struct over over;
        _Atomic unsigned over_count, freed_count, deferred_count, ended_count;
        _Atomic bool let_go;
        int file_fd;
};

static void piece(struct reg_http_req *req, void *state, const void *data, size_t len)
{
        (void)req;
        (void)state;
        (void)data;
        (void)len;
}

static void end(struct reg_http_req *req, void *state)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->ended_count, 1);
        reg_http_reply_bytes(req, 201, "stored", 6);
}

static void count_freed(void *state)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->freed_count, 1);
}

static const struct reg_http_body_ops body_ops = {
        .bytes_max = 1 << 20, .piece = piece, .end = end, .free = count_freed};

/* Goes on in place of begin: /later/no answers, /later/body takes the body, /later/stream. */
static void later(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        struct cas_err err = CAS_ERR_INIT;
        const char *what = reg_http_uri(req)->segments[1];
        atomic_fetch_add(&f->deferred_count, 1);
        while (reg_uri_param(reg_http_uri(req), "wait") && !atomic_load(&f->let_go))
                (void)usleep(1000);
        if (strcmp(what, "body") == 0) {
                reg_http_accept(req, &body_ops, f);
        } else if (strcmp(what, "stream") == 0) {
                struct reg_http_stream *stream = reg_http_reply_stream(req, 200);
                assert_int_equal(reg_http_stream_write(stream, "abc", 3, &err), 0);
                reg_http_stream_close(stream, false);
        } else {
                reg_http_reply_bytes(req, 403, "refused", 7);
        }
}

static void begin(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        const char *first = reg_http_uri(req)->segments[0];
        char text[96];
        if (strcmp(first, "later") == 0) {
                reg_http_set_context(req, cas_xstrdup("who"), free);
                reg_http_defer(req, later, f);
        } else if (strcmp(first, "who") == 0) {
                (void)snprintf(text, sizeof(text), "%s %s", reg_http_client(req),
                               reg_http_is_https(req) ? "https" : "http");
                reg_http_reply_bytes(req, 200, text, strlen(text));
        } else if (strcmp(first, "big") == 0) {
                reg_http_reply_fd(req, 200, dup(f->file_fd), 0, BIG_BYTES);
        } else {
                reg_http_reply_bytes(req, 404, "nothing", 7);
        }
}

static void ready(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        if (strcmp(reg_http_target(req), "/ready") == 0)
                reg_http_reply_answer(req, f->ready);
}

static void done(void *arg, const struct reg_http_done *d)
{
        struct fixture *f = arg;
        cas_mutex_lock(&f->mutex);
        struct over *o = &f->over;
        (void)snprintf(o->method, sizeof(o->method), "%s", d->method);
        (void)snprintf(o->target, sizeof(o->target), "%s", d->target);
        (void)snprintf(o->client, sizeof(o->client), "%s", d->client);
        (void)snprintf(o->agent, sizeof(o->agent), "%s", d->agent);
        (void)snprintf(o->context, sizeof(o->context), "%s",
                       d->context ? (const char *)d->context : "");
        o->status = d->status;
        o->whole = d->whole;
        o->in_bytes = d->in_bytes;
        o->out_bytes = d->out_bytes;
        cas_mutex_unlock(&f->mutex);
        atomic_fetch_add(&f->over_count, 1);
}

static int setup(void **state)
{
        static const struct reg_http_header headers[] = {{"ETag", "\"r\""}, {"X-A", "b"}};
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        f->file_fd = memfd_create("big", MFD_CLOEXEC);
        assert_int_equal(ftruncate(f->file_fd, BIG_BYTES), 0);
        cas_mutex_init(&f->mutex, "http test");
        f->ready = reg_http_answer_new(200, headers, CAS_COUNT(headers), READY_BODY,
                                       strlen(READY_BODY));
        struct reg_http_config config = {.listen = "127.0.0.1:0",
                                         .begin = begin,
                                         .ready = ready,
                                         .done = done,
                                         .trusted_proxies = "127.0.0.0/8, 10.1.0.0/16 fd00::/8",
                                         .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_http_stop(f->server, 1000);
        reg_http_answer_unref(f->ready);
        cas_mutex_release(&f->mutex);
        (void)close(f->file_fd);
        free(f);
        return 0;
}

static int dial(const struct fixture *f)
{
        return httpclient_dial(reg_http_port(f->server));
}

static void wait_count(_Atomic unsigned *count, unsigned wanted)
{
        for (unsigned i = 0; i < 2000 && atomic_load(count) < wanted; i++)
                (void)usleep(5000);
        assert_int_equal(atomic_load(count), wanted);
}

static struct over last_over(struct fixture *f, unsigned count)
{
        wait_count(&f->over_count, count);
        cas_mutex_lock(&f->mutex);
        struct over over = f->over;
        cas_mutex_unlock(&f->mutex);
        return over;
}

/* Tests. */

static void deferred_requests_are_answered(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        for (unsigned i = 0; i < 3; i++) {
                httpclient_say(fd, "GET /later/no HTTP/1.1\r\nHost: x\r\n\r\n");
                assert_int_equal(httpclient_hear(fd, &b), 403);
                assert_string_equal(cas_buf_str(&b), "refused");
                httpclient_say(fd,
                               "PUT /later/body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
                               "hello");
                assert_int_equal(httpclient_hear(fd, &b), 201);
                /* refused with a short body: the connection goes on */
                httpclient_say(fd, "PUT /later/no HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
                                   "hello");
                assert_int_equal(httpclient_hear(fd, &b), 403);
                httpclient_say(fd, "GET /later/stream HTTP/1.1\r\nHost: x\r\n\r\n");
                (void)httpclient_hear_head(fd, &b);
                assert_int_equal(httpclient_status(&b), 200);
                httpclient_hear_until(fd, &b, "0\r\n\r\n");
        }
        assert_int_equal(atomic_load(&f->deferred_count), 12);
        assert_int_equal(atomic_load(&f->freed_count), 3);
}

static void deferred_and_expected(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        httpclient_say(fd, "PUT /later/body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                           "Expect: 100-continue\r\n\r\n");
        (void)httpclient_hear_head(fd, &b);
        assert_int_equal(httpclient_status(&b), 100);
        httpclient_say(fd, "hello");
        assert_int_equal(httpclient_hear(fd, &b), 201);
        httpclient_say(fd, "PUT /later/no HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                           "Expect: 100-continue\r\n\r\n");
        assert_int_equal(httpclient_hear(fd, &b), 403);
        assert_true(httpclient_at_end(fd));
}

/* A body that is too long for what takes it is refused before it is read, later too. */
static void deferred_and_too_long(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        httpclient_say(fd,
                       "PUT /later/body HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n");
        assert_int_equal(httpclient_hear(fd, &b), 413);
        wait_count(&f->freed_count, 1);
        assert_int_equal(atomic_load(&f->ended_count), 0);
}

static void clients_leave_what_is_deferred(void **state)
{
        struct fixture *f = *state;
        static const char *const requests[] = {
                "GET /later/no?wait HTTP/1.1\r\nHost: x\r\n\r\n",
                "PUT /later/body?wait HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe",
                "GET /later/stream?wait HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        for (size_t i = 0; i < CAS_COUNT(requests); i++) {
                int fd = dial(f);
                httpclient_say(fd, requests[i]);
                wait_count(&f->deferred_count, (unsigned)i + 1);
                httpclient_reset(fd);
        }
        atomic_store(&f->let_go, true);
        wait_count(&f->over_count, CAS_COUNT(requests));
        wait_count(&f->freed_count, 1);
        assert_int_equal(atomic_load(&f->ended_count), 0);
}

static void *let_go_soon(void *arg)
{
        struct fixture *f = arg;
        (void)usleep(100000);
        atomic_store(&f->let_go, true);
        return NULL;
}

/* Stop waits for what workers have, and closes what still wants a body. */
static void stop_while_deferred(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int answered = dial(f), body = dial(f);
        httpclient_say(answered, "GET /later/no?wait HTTP/1.1\r\nHost: x\r\n\r\n");
        httpclient_say(body,
                       "PUT /later/body?wait HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n");
        wait_count(&f->deferred_count, 2);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, let_go_soon, f), 0);
        reg_http_stop(f->server, 20);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(atomic_load(&f->over_count), 2);
        assert_int_equal(atomic_load(&f->freed_count), 1);
        assert_int_equal(atomic_load(&f->ended_count), 0);
        struct reg_http_config config = {.listen = "127.0.0.1:0", .begin = begin, .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
}

static void tells_of_what_is_over(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        httpclient_say(fd, "PUT /later/body?x=1 HTTP/1.1\r\nHost: x\r\nUser-Agent: me/1\r\n"
                           "Content-Length: 5\r\n\r\nhello");
        assert_int_equal(httpclient_hear(fd, &b), 201);
        struct over over = last_over(f, 1);
        assert_string_equal(over.method, "PUT");
        assert_string_equal(over.target, "/later/body?x=1");
        assert_string_equal(over.client, "127.0.0.1");
        assert_string_equal(over.agent, "me/1");
        assert_string_equal(over.context, "who");
        assert_int_equal(over.status, 201);
        assert_int_equal(over.in_bytes, 5);
        assert_int_equal(over.out_bytes, 6);
        assert_true(over.whole);
        httpclient_say(fd, "HEAD /ready HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)httpclient_hear_head(fd, &b);
        over = last_over(f, 2);
        assert_string_equal(over.method, "HEAD");
        assert_int_equal(over.out_bytes, 0);
        httpclient_say(fd, "BREW /ready HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(httpclient_hear(fd, &b), 200);
        over = last_over(f, 3);
        assert_string_equal(over.method, "?");
        assert_int_equal(over.out_bytes, strlen(READY_BODY));
        httpclient_say(fd, "GET /later/stream HTTP/1.1\r\nHost: x\r\n\r\n");
        httpclient_hear_until(fd, &b, "0\r\n\r\n");
        over = last_over(f, 4);
        assert_int_equal(over.out_bytes, 3);
        assert_true(over.whole);
}

static void tells_of_what_broke(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        int fd = dial(f);
        httpclient_say(fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)httpclient_hear_head(fd, &b);
        httpclient_reset(fd);
        struct over over = last_over(f, 1);
        assert_int_equal(over.status, 200);
        assert_false(over.whole);
        assert_true(over.out_bytes < BIG_BYTES);
        fd = dial(f);
        httpclient_say(fd, "PUT /later/body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe");
        wait_count(&f->deferred_count, 1);
        (void)usleep(50000);
        httpclient_reset(fd);
        over = last_over(f, 2);
        assert_int_equal(over.status, 0);
        assert_false(over.whole);
        assert_int_equal(over.in_bytes, 2);
        assert_int_equal(over.out_bytes, 0);
}

static void proxies_are_believed(void **state)
{
        struct fixture *f = *state;
        static const struct {
                const char *headers, *answer;
        } cases[] = {
                {"", "127.0.0.1 http"},
                {"X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7 http"},
                {"X-Forwarded-For: 1.1.1.1, 192.0.2.7\r\n", "192.0.2.7 http"},
                {"X-Forwarded-For: 1.1.1.1,192.0.2.7 ,10.1.3.4\r\n", "192.0.2.7 http"},
                {"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 192.0.2.7, 10.1.0.1\r\n",
                 "192.0.2.7 http"},
                {"X-Forwarded-For: 10.2.0.1\r\nX-Forwarded-Proto: https\r\n", "10.2.0.1 https"},
                {"X-Forwarded-For: [2001:db8::1]:443\r\nX-Forwarded-Proto: http, HTTPS\r\n",
                 "2001:db8::1 https"},
                {"X-Forwarded-For: 2001:db8::1, fd00::2, 192.0.2.1:80\r\n", "192.0.2.1 http"},
                {"X-Forwarded-For: 2001:db8::1, fd00::2\r\n", "2001:db8::1 http"},
                {"X-Forwarded-For: ::ffff:192.0.2.9\r\n", "192.0.2.9 http"},
                {"X-Forwarded-For: 10.1.0.1, 10.1.0.2\r\n", "10.1.0.1 http"},
                {"X-Forwarded-For: me\r\nX-Forwarded-Proto: https\r\n"
                 "X-Forwarded-Proto: http\r\n",
                 "127.0.0.1 http"},
                {"X-Forwarded-For: 192.0.2.1, me, 10.1.0.1\r\n", "10.1.0.1 http"},
        };
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_free char *text =
                        cas_xasprintf("GET /who HTTP/1.1\r\nHost: x\r\n%s\r\n", cases[i].headers);
                httpclient_say(fd, text);
                assert_int_equal(httpclient_hear(fd, &b), 200);
                assert_string_equal(cas_buf_str(&b), cases[i].answer);
        }
}

static void others_are_not_believed(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_http_server *server;
        struct reg_http_config config = {.listen = "127.0.0.1:0",
                                         .begin = begin,
                                         .arg = f,
                                         .trusted_proxies = "127.0.0.2, 10.0.0.0/7,::1,unix"};
        assert_int_equal(reg_http_start(&config, &server, &err), 0);
        cas_cleanup_fd int fd = httpclient_dial(reg_http_port(server));
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        httpclient_say(fd, "GET /who HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\n"
                           "X-Forwarded-Proto: https\r\n\r\n");
        assert_int_equal(httpclient_hear(fd, &b), 200);
        assert_string_equal(cas_buf_str(&b), "127.0.0.1 http");
        reg_http_stop(server, 100);
        static const char *const bad[] = {"127.0.0", "10.0.0.0/33", "::/129",
                                          "::1/",    "a",           "::1/-1"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                config.trusted_proxies = bad[i];
                assert_int_equal(reg_http_start(&config, &server, &err), -CAS_E_INVALID);
        }
}

static void ready_answers(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        int fds[8];
        for (size_t i = 0; i < CAS_COUNT(fds); i++) {
                fds[i] = dial(f);
                /* pipelined, with and without a body that is wanted by nobody */
                httpclient_say(fds[i],
                               "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
                               "HEAD /ready HTTP/1.1\r\nHost: x\r\n\r\n"
                               "PUT /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n123"
                               "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        for (size_t i = 0; i < CAS_COUNT(fds); i++) {
                assert_int_equal(httpclient_hear(fds[i], &b), 200);
                assert_string_equal(cas_buf_str(&b), READY_BODY);
                (void)httpclient_hear_head(fds[i], &b);
                assert_non_null(strstr(cas_buf_str(&b), "ETag: \"r\"\r\n"));
                assert_non_null(strstr(cas_buf_str(&b), "Content-Length: 21\r\n"));
                assert_int_equal(httpclient_hear(fds[i], &b), 200);
                assert_int_equal(httpclient_hear(fds[i], &b), 200);
                assert_string_equal(cas_buf_str(&b), READY_BODY);
        }
        for (size_t i = 0; i < CAS_COUNT(fds); i++)
                (void)close(fds[i]);
}

/* While a server stops, its answers end their connections; those that are made before stay as
 * they are for others. */
static void ready_answers_at_the_end(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int slow = dial(f), fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        httpclient_say(slow, "GET /later/no?wait HTTP/1.1\r\nHost: x\r\n\r\n");
        httpclient_say(fd, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(httpclient_hear(fd, &b), 200);
        wait_count(&f->deferred_count, 1);
        pthread_t thread;
        struct httpclient_stop stop = {f->server, 5000};
        assert_int_equal(pthread_create(&thread, NULL, httpclient_stop_main, &stop), 0);
        (void)usleep(100000);
        httpclient_say(fd, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)httpclient_hear_head(fd, &b);
        assert_non_null(strstr(cas_buf_str(&b), "Connection: close\r\n"));
        assert_non_null(strstr(cas_buf_str(&b), "ETag: \"r\"\r\n"));
        atomic_store(&f->let_go, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        struct reg_http_config config = {
                .listen = "127.0.0.1:0", .begin = begin, .ready = ready, .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
        cas_cleanup_fd int again = dial(f);
        httpclient_say(again, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)httpclient_hear_head(again, &b);
        assert_null(strstr(cas_buf_str(&b), "Connection: close\r\n"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(deferred_requests_are_answered),
                TEST(deferred_and_expected),
                TEST(deferred_and_too_long),
                TEST(clients_leave_what_is_deferred),
                TEST(stop_while_deferred),
                TEST(tells_of_what_is_over),
                TEST(tells_of_what_broke),
                TEST(proxies_are_believed),
                TEST(others_are_not_believed),
                TEST(ready_answers),
                TEST(ready_answers_at_the_end),
        };
        return cmocka_run_group_tests_name("http answers", tests, NULL, NULL);
}
