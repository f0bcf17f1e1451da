/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server, seen from raw sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "registry/http.h"
#include "registry/http_listen.h"

#define BIG_BYTES (3 * 1024 * 1024 + 17)

struct fixture {
        struct reg_http_server *server;
        _Atomic unsigned freed_count;
        _Atomic unsigned ended_count;
        _Atomic uint64_t body_bytes;
        _Atomic unsigned slow_count;
        _Atomic bool let_go;
        _Atomic(struct reg_http_req *) parked;
        int file_fd;
};

static uint8_t pattern(uint64_t at)
{
        return (uint8_t)(at * 131 + (at >> 8));
}

/* /echo: the body comes back; /count: its length, pieces counted; /big: a range of a file;
 * /lines: a stream; /whoami: the peer; anything else is refused at once. */

static void echo_end(struct reg_http_req *req, void *state, const struct cas_buf *body)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->ended_count, 1);
        reg_http_reply_header(req, "X-Bad", "a\r\nInjected: b");
        reg_http_reply_bytes(req, 200, body->data ? (const char *)body->data : "", body->len_bytes);
}

static void count_freed(void *state)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->freed_count, 1);
}

static void count_piece(struct reg_http_req *req, void *state, const void *data, size_t len)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->body_bytes, len);
        if (memchr(data, '!', len))
                reg_http_reply_bytes(req, 400, "no !", 4);
}

static void count_end(struct reg_http_req *req, void *state)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->ended_count, 1);
        char text[32];
        int n = snprintf(text, sizeof(text), "%llu",
                         (unsigned long long)atomic_load(&f->body_bytes));
        reg_http_reply_bytes(req, 200, text, (size_t)n);
}

static void lines_end(struct reg_http_req *req, void *state)
{
        struct fixture *f = state;
        struct cas_err err = CAS_ERR_INIT;
        bool endless = reg_uri_param(reg_http_uri(req), "endless") != NULL;
        bool cut = reg_uri_param(reg_http_uri(req), "cut") != NULL;
        reg_http_reply_header(req, "Content-Type", "application/jsonl");
        struct reg_http_stream *stream = reg_http_reply_stream(req, 200);
        int rc = 0;
        for (unsigned i = 0; rc == 0 && (endless || i < 20); i++) {
                char line[64];
                int n = snprintf(line, sizeof(line), "{\"line\":%u}\n", i);
                rc = reg_http_stream_write(stream, line, (size_t)n, &err);
                (void)usleep(2000);
        }
        assert_true(endless || rc == 0);
        reg_http_stream_close(stream, cut);
        atomic_fetch_add(&f->ended_count, 1);
}

/* Waits until the test lets it go on. */
static void slow_end(struct reg_http_req *req, void *state)
{
        struct fixture *f = state;
        atomic_fetch_add(&f->slow_count, 1);
        while (!atomic_load(&f->let_go))
                (void)usleep(1000);
        reg_http_reply_empty(req, 200);
}

static void go_on(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        atomic_fetch_add(&f->ended_count, 1);
        reg_http_reply_empty(req, 200);
}

static const struct reg_http_body_ops slow_ops = {.bytes_max = 0, .end = slow_end};
static const struct reg_http_whole_ops echo_ops = {
        .bytes_max = 65536, .end = echo_end, .free = count_freed};
static const struct reg_http_body_ops count_ops = {
        .bytes_max = 64 << 20, .piece = count_piece, .end = count_end, .free = count_freed};
static const struct reg_http_body_ops lines_ops = {
        .bytes_max = 0, .end = lines_end, .free = count_freed};

static void begin(void *arg, struct reg_http_req *req)
{
        struct fixture *f = arg;
        const struct reg_uri *uri = reg_http_uri(req);
        const char *first = uri->segments[0];
        if (strcmp(first, "echo") == 0) {
                reg_http_accept_whole(req, &echo_ops, f);
        } else if (strcmp(first, "count") == 0) {
                atomic_store(&f->body_bytes, 0);
                reg_http_accept(req, &count_ops, f);
        } else if (strcmp(first, "lines") == 0) {
                reg_http_accept(req, &lines_ops, f);
        } else if (strcmp(first, "slow") == 0) {
                reg_http_accept(req, &slow_ops, f);
        } else if (strcmp(first, "park") == 0) {
                reg_http_park(req, go_on, f);
                atomic_store(&f->parked, req);
        } else if (strcmp(first, "big") == 0) {
                reg_http_reply_fd(req, 200, dup(f->file_fd), 5, BIG_BYTES - 5);
        } else if (strcmp(first, "gone") == 0) {
                reg_http_reply_empty(req, 204);
        } else if (strcmp(first, "same") == 0) {
                reg_http_reply_header(req, "ETag", "\"x\"");
                reg_http_reply_head(req, 304, 1234);
        } else if (strcmp(first, "whoami") == 0) {
                uid_t uid;
                char text[32] = "tcp";
                if (reg_http_peer_uid(req, &uid))
                        (void)snprintf(text, sizeof(text), "uid %u", (unsigned)uid);
                reg_http_reply_bytes(req, 200, text, strlen(text));
        } else {
                reg_http_reply_bytes(req, 404, "nothing", 7);
        }
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        f->file_fd = memfd_create("big", MFD_CLOEXEC);
        cas_cleanup_free uint8_t *data = cas_xmalloc(BIG_BYTES);
        for (uint64_t i = 0; i < BIG_BYTES; i++)
                data[i] = pattern(i);
        assert_int_equal(pwrite(f->file_fd, data, BIG_BYTES, 0), BIG_BYTES);
        struct reg_http_config config = {.listen = "127.0.0.1:0", .begin = begin, .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_http_stop(f->server, 1000);
        (void)close(f->file_fd);
        free(f);
        return 0;
}

/* A client. */

static int dial(const struct fixture *f)
{
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)reg_http_port(f->server)),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct timeval limit = {.tv_sec = 20};
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
        assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

static void say(int fd, const char *text)
{
        size_t len = strlen(text);
        assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Reads until the head of an answer is whole; the rest stays in `out` after it. Returns the
 * offset of the body. */
static size_t hear_head(int fd, struct cas_buf *out)
{
        cas_buf_clear(out);
        for (;;) {
                const char *end = out->data ? strstr(cas_buf_str(out), "\r\n\r\n") : NULL;
                if (end)
                        return (size_t)(end - cas_buf_str(out)) + 4;
                cas_buf_reserve(out, 4096);
                ssize_t n = recv(fd, out->data + out->len_bytes, 1, 0);
                assert_int_equal(n, 1);
                out->data[++out->len_bytes] = '\0';
        }
}

static unsigned status_of(const struct cas_buf *head)
{
        return (unsigned)strtoul(cas_buf_str(head) + strlen("HTTP/1.1 "), NULL, 10);
}

static size_t length_of(const struct cas_buf *head)
{
        const char *at = strstr(cas_buf_str(head), "Content-Length: ");
        assert_non_null(at);
        return strtoul(at + 16, NULL, 10);
}

/* A whole answer with Content-Length; the body replaces the head in `out`. */
static unsigned hear(int fd, struct cas_buf *out)
{
        (void)hear_head(fd, out);
        unsigned status = status_of(out);
        size_t left = length_of(out);
        cas_buf_clear(out);
        cas_buf_reserve(out, left + 1);
        while (out->len_bytes < left) {
                ssize_t n = recv(fd, out->data + out->len_bytes, left - out->len_bytes, 0);
                assert_true(n > 0);
                out->len_bytes += (size_t)n;
        }
        out->data[left] = '\0';
        return status;
}

static bool at_end(int fd)
{
        char c;
        return recv(fd, &c, 1, 0) == 0;
}

static void wait_count(_Atomic unsigned *count, unsigned wanted)
{
        for (unsigned i = 0; i < 1000 && atomic_load(count) < wanted; i++)
                (void)usleep(5000);
        assert_int_equal(atomic_load(count), wanted);
}

/* Tests. */

static void keeps_connections_and_bodies_apart(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        for (unsigned i = 0; i < 3; i++) {
                say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
                assert_int_equal(hear(fd, &b), 200);
                assert_string_equal(cas_buf_str(&b), "hello");
                say(fd, "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                        "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
                assert_int_equal(hear(fd, &b), 200);
                assert_string_equal(cas_buf_str(&b), "abcdefg");
                /* refused, with a body that nobody asked for: the connection stays */
                say(fd, "POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nGET ");
                assert_int_equal(hear(fd, &b), 404);
                say(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
                assert_int_equal(hear(fd, &b), 200);
                assert_int_equal(b.len_bytes, 0);
        }
        assert_int_equal(atomic_load(&f->ended_count), 9);
        assert_int_equal(atomic_load(&f->freed_count), 9);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n2"
                "GET /no HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(hear(fd, &b), 200);
        assert_string_equal(cas_buf_str(&b), "1");
        assert_int_equal(hear(fd, &b), 200);
        assert_string_equal(cas_buf_str(&b), "2");
        assert_int_equal(hear(fd, &b), 404);
}

static void sends_files_and_heads(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd, "HEAD /big HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)hear_head(fd, &b);
        assert_int_equal(status_of(&b), 200);
        assert_int_equal(length_of(&b), BIG_BYTES - 5);
        say(fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(hear(fd, &b), 200);
        assert_int_equal(b.len_bytes, BIG_BYTES - 5);
        for (size_t i = 0; i < b.len_bytes; i++) {
                if (b.data[i] != pattern(i + 5))
                        fail_msg("byte %zu", i);
        }
        say(fd, "DELETE /gone HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)hear_head(fd, &b);
        assert_int_equal(status_of(&b), 204);
        assert_null(strstr(cas_buf_str(&b), "Content-Length"));
        say(fd, "GET /same HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)hear_head(fd, &b);
        assert_int_equal(status_of(&b), 304);
        say(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"); /* no stray body before this */
        (void)hear_head(fd, &b);
        assert_int_equal(status_of(&b), 200);
        assert_null(strstr(cas_buf_str(&b), "Injected"));
}

static void expect_continue(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd,
            "PUT /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        (void)hear_head(fd, &b);
        assert_int_equal(status_of(&b), 100);
        say(fd, "ok");
        assert_int_equal(hear(fd, &b), 200);
        assert_string_equal(cas_buf_str(&b), "ok");
        /* refused before the client sends anything */
        say(fd, "PUT /no HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        assert_int_equal(hear(fd, &b), 404);
        assert_true(at_end(fd));
}

/* A client that sends all before it reads gets its answer, not a reset. */
static void early_answer_survives_a_long_body(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        cas_cleanup_free char *mib = cas_xcalloc(1, 1 << 20);
        static const struct {
                const char *head;
                bool chunked;
        } cases[] = {
                {"PUT /no HTTP/1.1\r\nHost: x\r\nContent-Length: 16777216\r\n\r\n", false},
                {"PUT /no HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_fd int fd = dial(f);
                say(fd, cases[i].head);
                for (unsigned k = 0; k < 16; k++) {
                        if (cases[i].chunked)
                                say(fd, "100000\r\n");
                        size_t left = 1 << 20;
                        while (left > 0) {
                                ssize_t n = send(fd, mib, left, MSG_NOSIGNAL);
                                assert_true(n > 0);
                                left -= (size_t)n;
                        }
                        if (cases[i].chunked)
                                say(fd, "\r\n");
                }
                assert_int_equal(hear(fd, &b), 404);
                assert_string_equal(cas_buf_str(&b), "nothing");
                assert_true(at_end(fd));
        }
}

static void limits_bodies(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        cas_cleanup_fd int fd = dial(f);
        say(fd, "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n"
                "Expect: 100-continue\r\n\r\n");
        assert_int_equal(hear(fd, &b), 413);
        cas_cleanup_fd int chunked = dial(f);
        say(chunked, "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        char piece[1024 + 1] = {0};
        memset(piece, 'x', 1024);
        for (unsigned i = 0; i < 65; i++) {
                say(chunked, "400\r\n");
                say(chunked, piece);
                say(chunked, "\r\n");
        }
        say(chunked, "0\r\n\r\n");
        assert_int_equal(hear(chunked, &b), 413);
        /* answered in the middle of the body by the handler; the connection goes on */
        say(chunked, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12!");
        (void)usleep(50000);
        say(chunked, "4567890");
        assert_int_equal(hear(chunked, &b), 400);
        assert_string_equal(cas_buf_str(&b), "no !");
        say(chunked, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        assert_int_equal(hear(chunked, &b), 200);
        assert_string_equal(cas_buf_str(&b), "3");
        assert_int_equal(atomic_load(&f->freed_count), 4);
}

static void a_client_that_leaves_is_cleaned_up(void **state)
{
        struct fixture *f = *state;
        int fd = dial(f);
        say(fd, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\npart");
        (void)usleep(50000);
        (void)close(fd);
        wait_count(&f->freed_count, 1);
        assert_int_equal(atomic_load(&f->ended_count), 0);
        assert_int_equal(atomic_load(&f->body_bytes), 4);
}

static void bad_requests_are_refused(void **state)
{
        struct fixture *f = *state;
        static const struct {
                const char *text;
                unsigned status;
        } cases[] = {
                {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
                {"GET /a%2fb HTTP/1.1\r\nHost: x\r\n\r\n", 400},
                {"GET http://h/a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
                {"GET /echo HTTP/1.1\r\n\r\n", 400},
                {"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                 "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                 400},
                {"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
                {"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n"
                 "\r\n1",
                 400},
                {"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                 "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                 400},
                {"GET /no HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n", 400},
                {"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_fd int fd = dial(f);
                cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
                say(fd, cases[i].text);
                (void)hear_head(fd, &b);
                if (status_of(&b) != cases[i].status)
                        fail_msg("case %zu: %u", i, status_of(&b));
        }
        assert_int_equal(atomic_load(&f->ended_count), 0);
}

static void streams_lines(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd, "GET /lines HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        (void)hear_head(fd, &b);
        assert_non_null(strstr(cas_buf_str(&b), "Transfer-Encoding: chunked"));
        cas_buf_clear(&b);
        cas_buf_reserve(&b, 65536);
        for (ssize_t n; (n = recv(fd, b.data + b.len_bytes, 4096, 0)) > 0;)
                b.len_bytes += (size_t)n;
        b.data[b.len_bytes] = '\0';
        assert_non_null(strstr(cas_buf_str(&b), "{\"line\":0}\n"));
        assert_non_null(strstr(cas_buf_str(&b), "{\"line\":19}\n"));
        assert_string_equal(cas_buf_str(&b) + b.len_bytes - 5, "0\r\n\r\n");
        /* a stream that was cut has no last chunk */
        cas_cleanup_fd int cut = dial(f);
        say(cut, "GET /lines?cut HTTP/1.1\r\nHost: x\r\n\r\n");
        cas_buf_clear(&b);
        for (ssize_t n; (n = recv(cut, b.data + b.len_bytes, 4096, 0)) > 0;)
                b.len_bytes += (size_t)n;
        b.data[b.len_bytes] = '\0';
        assert_non_null(strstr(cas_buf_str(&b), "{\"line\":19}\n"));
        assert_null(strstr(cas_buf_str(&b), "\r\n0\r\n\r\n"));
        wait_count(&f->freed_count, 2);
}

/* Ends that take long hold up nobody else: there are more of them than event threads. */
static void slow_ends_starve_nobody(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        int slow[20];
        for (size_t i = 0; i < CAS_COUNT(slow); i++) {
                slow[i] = dial(f);
                say(slow[i], "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        wait_count(&f->slow_count, CAS_COUNT(slow));
        for (unsigned i = 0; i < 20; i++) {
                cas_cleanup_fd int fd = dial(f);
                say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
                assert_int_equal(hear(fd, &b), 200);
        }
        atomic_store(&f->let_go, true);
        for (size_t i = 0; i < CAS_COUNT(slow); i++) {
                assert_int_equal(hear(slow[i], &b), 200);
                (void)close(slow[i]);
        }
}

static void a_stream_ends_when_its_client_leaves(void **state)
{
        struct fixture *f = *state;
        int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd, "GET /lines?endless HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)hear_head(fd, &b);
        (void)close(fd);
        wait_count(&f->ended_count, 1);
}

/* Stop does not wait for ever for a stream that is. */
static void stop_breaks_streams(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = dial(f);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd, "GET /lines?endless HTTP/1.1\r\nHost: x\r\n\r\n");
        (void)hear_head(fd, &b);
        reg_http_stop(f->server, 50);
        assert_int_equal(atomic_load(&f->ended_count), 1);
        struct reg_http_config config = {.listen = "127.0.0.1:0", .begin = begin, .arg = f};
        assert_int_equal(reg_http_start(&config, &f->server, &err), 0);
}

static void unix_sockets(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        char dir[] = "/tmp/lamina-http-XXXXXX";
        assert_non_null(mkdtemp(dir));
        /* longer than a socket address */
        cas_cleanup_free char *long_dir = cas_xasprintf("%s/%0100d", dir, 1);
        cas_cleanup_free char *path = cas_xasprintf("%s/s", long_dir);
        assert_int_equal(mkdir(long_dir, 0700), 0);
        struct reg_http_config config = {.listen = path, .begin = begin, .arg = f};
        struct reg_http_server *server, *second;
        assert_int_equal(reg_http_start(&config, &server, &err), 0);
        assert_int_equal(reg_http_start(&config, &second, &err), -CAS_E_BUSY);
        cas_cleanup_fd int fd = -1;
        assert_int_equal(reg_connect_unix(path, &fd, &err), 0);
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        say(fd, "GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(hear(fd, &b), 200);
        cas_cleanup_free char *uid = cas_xasprintf("uid %u", (unsigned)getuid());
        assert_string_equal(cas_buf_str(&b), uid);
        reg_http_stop(server, 100);
        assert_int_equal(access(path, F_OK), -1);
        /* a socket that a dead process left is replaced */
        int left = -1;
        assert_int_equal(reg_listen(path, 0600, &left, &err), 0);
        (void)close(left);
        assert_int_equal(reg_http_start(&config, &server, &err), 0);
        reg_http_stop(server, 100);
        assert_int_equal(rmdir(long_dir), 0);
        assert_int_equal(rmdir(dir), 0);
}

static void inherited_sockets(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_http_config config = {.begin = begin, .arg = f};
        assert_int_equal(reg_listen("[::1]:0", 0, &config.listen_fd, &err), 0);
        struct reg_http_server *server;
        assert_int_equal(reg_http_start(&config, &server, &err), 0);
        assert_true(reg_http_port(server) != 0);
        reg_http_stop(server, 0);
        int fd;
        static const char *const bad[] = {"127.0.0.1", "::1:80", "127.0.0.1:x", "127.0.0.1:99999"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_int_equal(reg_listen(bad[i], 0, &fd, &err), -CAS_E_INVALID);
}

/* Who waits for us is not slow, though it has said all and shut down its side. */
static void parked_requests_are_not_cut_off(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        struct fixture own = {.file_fd = -1};
        struct reg_http_config config = {
                .listen = "127.0.0.1:0", .header_s = 1, .begin = begin, .arg = &own};
        assert_int_equal(reg_http_start(&config, &own.server, &err), 0);
        cas_cleanup_fd int fd = dial(&own);
        say(fd, "GET /park HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        (void)usleep(5000000); /* twice the time that the watch takes to look */
        struct reg_http_req *req = atomic_exchange(&own.parked, NULL);
        assert_non_null(req);
        reg_http_unpark(req);
        assert_int_equal(hear(fd, &b), 200);
        assert_int_equal(atomic_load(&own.ended_count), 1);
        reg_http_stop(own.server, 1000);
        assert_int_equal(atomic_load(&f->ended_count), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(keeps_connections_and_bodies_apart),
                TEST(pipelined_requests_are_answered_in_order),
                TEST(sends_files_and_heads),
                TEST(expect_continue),
                TEST(early_answer_survives_a_long_body),
                TEST(limits_bodies),
                TEST(a_client_that_leaves_is_cleaned_up),
                TEST(bad_requests_are_refused),
                TEST(streams_lines),
                TEST(slow_ends_starve_nobody),
                TEST(a_stream_ends_when_its_client_leaves),
                TEST(stop_breaks_streams),
                TEST(unix_sockets),
                TEST(inherited_sockets),
                TEST(parked_requests_are_not_cut_off),
        };
        return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
