/* SPDX-License-Identifier: Apache-2.0 */
/* The S3 client against a store that fails: nothing is lost, no wrong byte is taken, errors are
 * clear, and time is bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "tests/support/s3server.h"
#include "tiering/bucket.h"
#include "tiering/s3_int.h"

#define MIB ((size_t)1024 * 1024)
#define FILE_BYTES (12 * MIB + 5) /* three parts */

struct fixture {
        struct s3server *server;
        struct s3 *s3;
};

static struct s3 *open_client(struct fixture *f, unsigned tries, unsigned timeout_ms)
{
        struct cas_err err = CAS_ERR_INIT;
        struct s3_config config = s3server_config(f->server);
        struct s3 *s3;
        config.part_bytes = 5 * MIB;
        config.tries = tries;
        config.timeout_ms = timeout_ms;
        assert_int_equal(s3_open(&config, &s3, &err), 0);
        return s3;
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->server = s3server_start_bad();
        f->s3 = open_client(f, 4, 3000);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        s3_close(f->s3);
        s3server_stop(f->server);
        free(f);
        return 0;
}

static int heal(void **state)
{
        struct fixture *f = *state;
        s3server_heal(f->server);
        return 0;
}

#define OK(call)                                                                                   \
        do {                                                                                       \
                if ((call) < 0)                                                                    \
                        fail_msg("%s: %s", #call, err.msg);                                        \
        } while (0)

static void expect_content(struct fixture *f, const char *key, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        OK(s3_get(f->s3, key, 1000, &body, NULL, &err));
        assert_string_equal(cas_buf_str(&body), text);
}

static void goes_on_after_failures(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const char *const faults[] = {
                "{\"do\": \"error\", \"status\": 500, \"times\": 2}",
                "{\"do\": \"error\", \"status\": 502, \"code\": \"BadGateway\", \"times\": 1}",
                "{\"do\": \"error\", \"status\": 503, \"code\": \"SlowDown\", \"times\": 2}",
                "{\"do\": \"error\", \"status\": 429, \"code\": \"TooManyRequests\", "
                "\"retry_after\": 1, \"times\": 1}",
                "{\"do\": \"error\", \"status\": 400, \"code\": \"RequestTimeout\", \"times\": 2}",
                "{\"do\": \"error\", \"status\": 409, \"code\": \"ConditionalRequestConflict\", "
                "\"times\": 2}",
                "{\"do\": \"drop\", \"times\": 3}",
                "{\"do\": \"lost_ack\", \"times\": 2}",
                "{\"do\": \"latency\", \"ms\": 50, \"times\": 2}",
        };
        for (size_t i = 0; i < CAS_COUNT(faults); i++) {
                struct s3_object object;
                cas_cleanup_free char *text = cas_xasprintf("content %zu", i);
                s3server_fault(f->server, faults[i]);
                OK(s3_put(f->s3, "k", text, strlen(text), NULL, NULL, &err));
                s3server_heal(f->server);
                s3server_fault(f->server, faults[i]);
                expect_content(f, "k", text);
                s3server_heal(f->server);
                if (!strstr(faults[i], "RequestTimeout") && !strstr(faults[i], "Conflict"))
                        s3server_fault(f->server, faults[i]); /* HEAD tells no codes */
                OK(s3_head(f->s3, "k", &object, &err));
                s3server_heal(f->server);
                s3server_fault(f->server, faults[i]);
                OK(s3_delete(f->s3, "k", NULL, &err));
                s3server_heal(f->server);
                assert_int_equal(s3_head(f->s3, "k", &object, &err), -CAS_E_NOTFOUND);
        }
        struct s3_counts counts;
        s3_counts(f->s3, &counts);
        assert_true(counts.retried > 20 && counts.slowed > 6 && counts.failed == 0);
}

static void gives_up(void **state)
{
        struct fixture *f = *state;
        static const struct {
                const char *fault;
                enum cas_code code;
                const char *says;
        } cases[] = {
                {"{\"do\": \"error\", \"status\": 500}", CAS_E_IO, "InternalError"},
                {"{\"do\": \"error\", \"status\": 503, \"code\": \"SlowDown\"}", CAS_E_BUSY,
                 "SlowDown"},
                {"{\"do\": \"error\", \"status\": 409, \"code\": \"ConditionalRequestConflict\"}",
                 CAS_E_EXISTS, "Conflict"},
                {"{\"do\": \"error\", \"status\": 403, \"code\": \"AccessDenied\"}", CAS_E_DENIED,
                 "AccessDenied"},
                {"{\"do\": \"error\", \"status\": 403, \"code\": \"QuotaExceeded\"}", CAS_E_NOSPACE,
                 "QuotaExceeded"},
                {"{\"do\": \"error\", \"status\": 307, \"code\": \"TemporaryRedirect\"}",
                 CAS_E_INVALID, "redirects are not followed"},
                {"{\"do\": \"drop\"}", CAS_E_IO, "k"},
                {"{\"do\": \"lost_ack\"}", CAS_E_IO, "k"},
                {"{\"do\": \"hang\", \"s\": 3}", CAS_E_IO, "nothing moved"},
        };
        struct s3 *s3 = open_client(f, 2, 300);
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                uint64_t began = s3_now_ms();
                s3server_fault(f->server, cases[i].fault);
                assert_int_equal(s3_put(s3, "k", "x", 1, NULL, NULL, &err), -(int)cases[i].code);
                assert_true(s3_now_ms() - began < 5000);
                if (!strstr(err.msg, cases[i].says))
                        fail_msg("%s", err.msg);
                assert_null(strstr(err.msg, "secret"));
                s3server_heal(f->server);
        }
        s3_close(s3);
}

static void settles_lost_answers(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct s3_condition absent = {.if_absent = true};
        static const char *const faults[] = {
                "{\"do\": \"lost_ack\", \"method\": \"PUT\", \"times\": 1}",
                "{\"do\": \"drop\", \"method\": \"PUT\", \"times\": 1}",
                "{\"do\": \"error\", \"status\": 500, \"method\": \"PUT\", \"times\": 1}",
        };
        for (size_t i = 0; i < CAS_COUNT(faults); i++) {
                struct s3_object first, second, there;
                s3server_fault(f->server, faults[i]);
                OK(s3_put(f->s3, "once", "mine", 4, &absent, &first, &err));
                OK(s3_head(f->s3, "once", &there, &err));
                assert_string_equal(first.etag, there.etag);
                const struct s3_condition match = {.if_match = first.etag};
                s3server_fault(f->server, faults[i]);
                OK(s3_put(f->s3, "once", "changed", 7, &match, &second, &err));
                OK(s3_head(f->s3, "once", &there, &err));
                assert_string_equal(second.etag, there.etag);
                /* It is another's by now: the condition does not hold, whatever became of ours. */
                s3server_fault(f->server, faults[i]);
                assert_int_equal(s3_put(f->s3, "once", "late", 4, &match, NULL, &err),
                                 -CAS_E_EXISTS);
                s3server_fault(f->server, faults[i]);
                assert_int_equal(s3_put(f->s3, "once", "late", 4, &absent, NULL, &err),
                                 -CAS_E_EXISTS);
                expect_content(f, "once", "changed");
                OK(s3_delete(f->s3, "once", NULL, &err));
                s3server_heal(f->server);
        }
        /* Every answer is lost, all the way: it was done nevertheless. */
        s3server_fault(f->server, "{\"do\": \"lost_ack\", \"method\": \"PUT\"}");
        OK(s3_put(f->s3, "once", "mine", 4, &absent, NULL, &err));
        s3server_heal(f->server);
        expect_content(f, "once", "mine");
        OK(s3_delete(f->s3, "once", NULL, &err));
}

static void takes_no_wrong_byte(void **state)
{
        struct fixture *f = *state;
        static const char *const kinds[] = {"truncate", "corrupt"};
        struct cas_err err = CAS_ERR_INIT;
        OK(s3_put(f->s3, "k", "0123456789", 10, NULL, NULL, &err));
        struct s3 *twice = open_client(f, 2, 3000);
        for (size_t i = 0; i < CAS_COUNT(kinds); i++) {
                cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
                cas_cleanup_free char *once = cas_xasprintf(
                        "{\"do\": \"%s\", \"op\": \"GetObject\", \"times\": 1}", kinds[i]);
                cas_cleanup_free char *always =
                        cas_xasprintf("{\"do\": \"%s\", \"op\": \"GetObject\"}", kinds[i]);
                s3server_fault(f->server, once);
                expect_content(f, "k", "0123456789");
                s3server_fault(f->server, always);
                int rc = s3_get(twice, "k", 100, &body, NULL, &err);
                assert_true(rc == -CAS_E_CORRUPT || rc == -CAS_E_IO);
                assert_int_equal(body.len_bytes, 0);
                s3server_heal(f->server);
        }
        static const char *const ranges[] = {"wrong_range", "ignore_range", "truncate"};
        for (size_t i = 0; i < CAS_COUNT(ranges); i++) {
                char piece[4] = "";
                cas_cleanup_free char *once = cas_xasprintf(
                        "{\"do\": \"%s\", \"op\": \"GetObject\", \"times\": 1}", ranges[i]);
                cas_cleanup_free char *always =
                        cas_xasprintf("{\"do\": \"%s\", \"op\": \"GetObject\"}", ranges[i]);
                s3server_fault(f->server, once);
                OK(s3_get_range(f->s3, "k", 3, piece, 4, &err));
                assert_memory_equal(piece, "3456", 4);
                s3server_fault(f->server, always);
                int rc = s3_get_range(twice, "k", 3, piece, 4, &err);
                assert_true(rc == -CAS_E_CORRUPT || rc == -CAS_E_IO);
                s3server_heal(f->server);
        }
        s3_close(twice);
}

static int make_file(struct cas_digest *digest)
{
        int fd = memfd_create("s3", MFD_CLOEXEC);
        cas_cleanup_free uint8_t *data = cas_xmalloc(FILE_BYTES + 8);
        for (size_t i = 0; i < FILE_BYTES; i += 8)
                cas_put_le64(data + i, (i + 1) * UINT64_C(0x9e3779b97f4a7c15));
        assert_int_equal(write(fd, data, FILE_BYTES), FILE_BYTES);
        cas_digest_of(CAS_DIGEST_SHA256, data, FILE_BYTES, digest);
        return fd;
}

static void expect_file(struct fixture *f, const struct cas_digest *digest)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int back = memfd_create("back", MFD_CLOEXEC);
        struct cas_hash hash;
        OK(s3_get_file(f->s3, "file", back, FILE_BYTES, digest, &err));
        OK(s3_hash_file(back, 0, FILE_BYTES, &hash, &err));
        assert_memory_equal(hash.bytes, digest->bytes, CAS_HASH_BYTES);
}

static void puts_files_against_odds(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        cas_cleanup_fd int fd = make_file(&digest);
        static const char *const faults[] = {
                "{\"do\": \"error\", \"op\": \"UploadPart\", \"times\": 3}",
                "{\"do\": \"drop\", \"op\": \"UploadPart\", \"times\": 2}",
                "{\"do\": \"lost_ack\", \"op\": \"UploadPart\", \"times\": 2}",
                "{\"do\": \"lost_ack\", \"op\": \"CompleteMultipartUpload\", \"times\": 1}",
                "{\"do\": \"drop\", \"op\": \"CompleteMultipartUpload\", \"times\": 2}",
                "{\"do\": \"late_error\", \"op\": \"CompleteMultipartUpload\", \"times\": 2}",
                "{\"do\": \"error\", \"op\": \"CompleteMultipartUpload\", \"times\": 2}",
                "{\"do\": \"drop\", \"op\": \"CreateMultipartUpload\", \"times\": 1}",
                "{\"do\": \"slow\", \"rate\": 20000000, \"op\": \"UploadPart\"}",
        };
        for (size_t i = 0; i < CAS_COUNT(faults); i++) {
                const struct s3_condition absent = {.if_absent = true};
                s3server_fault(f->server, faults[i]);
                OK(s3_put_file(f->s3, "file", fd, FILE_BYTES, &digest, i % 2 ? &absent : NULL,
                               &err));
                s3server_heal(f->server);
                expect_file(f, &digest);
                assert_int_equal(s3server_count(f->server, "uploads"), 0);
                OK(s3_delete(f->s3, "file", NULL, &err));
        }
}

static void cleans_up_after_files(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        struct s3_object object;
        unsigned count;
        cas_cleanup_fd int fd = make_file(&digest);
        static const char *const faults[] = {
                "{\"do\": \"error\", \"status\": 403, \"code\": \"AccessDenied\", "
                "\"op\": \"UploadPart\", \"skip\": 1}",
                "{\"do\": \"error\", \"op\": \"UploadPart\", \"skip\": 2}",
                "{\"do\": \"late_error\", \"op\": \"CompleteMultipartUpload\"}",
        };
        struct s3 *s3 = open_client(f, 2, 3000);
        for (size_t i = 0; i < CAS_COUNT(faults); i++) {
                s3server_fault(f->server, faults[i]);
                assert_true(s3_put_file(s3, "file", fd, FILE_BYTES, &digest, NULL, &err) < 0);
                assert_int_equal(s3server_count(f->server, "uploads"), 0);
                s3server_heal(f->server);
                assert_int_equal(s3_head(s3, "file", &object, &err), -CAS_E_NOTFOUND);
        }
        /* Not even that works: it is left behind, and found when it is old. */
        s3server_fault(f->server, "{\"do\": \"drop\", \"op\": \"UploadPart\"}");
        s3server_fault(f->server, "{\"do\": \"drop\", \"op\": \"AbortMultipartUpload\"}");
        assert_int_equal(s3_put_file(s3, "file", fd, FILE_BYTES, &digest, NULL, &err), -CAS_E_IO);
        s3server_heal(f->server);
        assert_int_equal(s3server_count(f->server, "uploads"), 1);
        OK(s3_abort_uploads(s3, "", 3600, &count, &err));
        assert_int_equal(count, 0);
        s3server_control(f->server, "age_uploads", "3700");
        OK(s3_abort_uploads(s3, "other", 3600, &count, &err));
        assert_int_equal(count, 0);
        OK(s3_abort_uploads(s3, "", 3600, &count, &err));
        assert_int_equal(count, 1);
        assert_int_equal(s3server_count(f->server, "uploads"), 0);
        s3_close(s3);
}

static void gets_files_against_odds(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        cas_cleanup_fd int fd = make_file(&digest), back = memfd_create("back", MFD_CLOEXEC);
        OK(s3_put_file(f->s3, "file", fd, FILE_BYTES, &digest, NULL, &err));
        static const char *const kinds[] = {"truncate",    "corrupt",      "drop",       "error",
                                            "wrong_range", "ignore_range", "lying_range"};
        for (size_t i = 0; i < CAS_COUNT(kinds); i++) {
                cas_cleanup_free char *once = cas_xasprintf(
                        "{\"do\": \"%s\", \"op\": \"GetObject\", \"times\": 1}", kinds[i]);
                s3server_fault(f->server, once);
                expect_file(f, &digest);
                s3server_heal(f->server);
        }
        s3server_fault(f->server, "{\"do\": \"lying_range\", \"op\": \"GetObject\"}");
        assert_int_equal(s3_get_file(f->s3, "file", back, FILE_BYTES, &digest, &err),
                         -CAS_E_CORRUPT);
        s3server_heal(f->server);
        OK(s3_delete(f->s3, "file", NULL, &err));
}

static int see_key(void *arg, const char *key CAS_UNUSED, const struct s3_object *object CAS_UNUSED,
                   struct cas_err *err CAS_UNUSED)
{
        ++*(unsigned *)arg;
        return 0;
}

static void bounds_lists(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        unsigned count = 0;
        OK(s3_put(f->s3, "l/1", "x", 1, NULL, NULL, &err));
        OK(s3_put(f->s3, "l/2", "x", 1, NULL, NULL, &err));
        static const char *const faults[] = {"{\"do\": \"garbage\", \"op\": \"ListObjects\"}",
                                             "{\"do\": \"endless\", \"op\": \"ListObjects\"}"};
        for (size_t i = 0; i < CAS_COUNT(faults); i++) {
                s3server_fault(f->server, faults[i]);
                assert_int_equal(s3_list(f->s3, "l/", NULL, 0, see_key, &count, &err),
                                 -CAS_E_CORRUPT);
                s3server_heal(f->server);
        }
        s3server_fault(f->server, "{\"do\": \"truncate\", \"op\": \"ListObjects\", \"times\": 1}");
        count = 0;
        OK(s3_list(f->s3, "l/", NULL, 0, see_key, &count, &err));
        assert_int_equal(count, 2);
        OK(s3_delete(f->s3, "l/1", NULL, &err));
        OK(s3_delete(f->s3, "l/2", NULL, &err));
}

static void goes_by_the_stores_clock(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct s3_object object;
        static const char *const clocks[] = {"{\"clock_skew_s\": 7200}",
                                             "{\"clock_skew_s\": -90000}"};
        for (size_t i = 0; i < CAS_COUNT(clocks); i++) {
                struct s3 *s3 = open_client(f, 2, 3000), *head = open_client(f, 2, 3000);
                s3server_set(f->server, clocks[i]);
                OK(s3_put(s3, "k", "x", 1, NULL, NULL, &err));
                OK(s3_head(head, "k", &object, &err));
                s3_close(s3);
                s3_close(head);
        }
        s3server_set(f->server, "{\"clock_skew_s\": 0}");
        OK(s3_delete(f->s3, "k", NULL, &err));
}

static void names_the_region(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        s3server_set(f->server, "{\"region\": \"eu-north-7\"}");
        assert_int_equal(s3_put(f->s3, "k", "x", 1, NULL, NULL, &err), -CAS_E_INVALID);
        assert_non_null(strstr(err.msg, "eu-north-7"));
        s3server_set(f->server, "{\"region\": \"us-east-1\"}");
}

static void *break_main(void *arg)
{
        usleep(300000);
        s3_break(arg);
        return NULL;
}

static void breaks_off(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct s3 *s3 = open_client(f, 5, 20000);
        pthread_t thread;
        uint64_t began = s3_now_ms();
        s3server_fault(f->server, "{\"do\": \"hang\", \"s\": 10}");
        assert_int_equal(pthread_create(&thread, NULL, break_main, s3), 0);
        assert_int_equal(s3_put(s3, "k", "x", 1, NULL, NULL, &err), -CAS_E_BUSY);
        assert_int_equal(s3_put(s3, "k", "x", 1, NULL, NULL, &err), -CAS_E_BUSY);
        assert_true(s3_now_ms() - began < 5000);
        assert_int_equal(pthread_join(thread, NULL), 0);
        s3_close(s3);
}

static void says_when_nobody_is_there(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        char bucket[] = "bucket", nobody[] = "http://127.0.0.1:1", tls[] = "https://127.0.0.1:1";
        struct s3_config config = {.endpoint = nobody, .bucket = bucket, .path_style = true};
        struct s3 *s3;
        config.tries = 2;
        assert_int_equal(s3_open(&config, &s3, &err), 0);
        assert_int_equal(s3_put(s3, "k", "x", 1, NULL, NULL, &err), -CAS_E_IO);
        s3_close(s3);
        config.endpoint = tls;
        config.ca_file = nobody;
        assert_int_equal(s3_open(&config, &s3, &err), 0);
        assert_true(s3_put(s3, "k", "x", 1, NULL, NULL, &err) < 0);
        s3_close(s3);
}

static void refuses_configurations(void **state CAS_UNUSED)
{
        char bucket[] = "bucket", ftp[] = "ftp://x", path[] = "http://x/y", user[] = "http://u@x";
        char good[] = "https://s3.example.com", dotted[] = "a.bucket", slash[] = "/x",
             sse[] = "AES";
        char port[] = "http://x:99999", number[] = "http://10.0.0.1", region[] = "a/b";
        const struct s3_config cases[] = {
                {.endpoint = ftp, .bucket = bucket},
                {.endpoint = path, .bucket = bucket},
                {.endpoint = user, .bucket = bucket},
                {.endpoint = port, .bucket = bucket},
                {.endpoint = number, .bucket = bucket},
                {.endpoint = good, .bucket = dotted},
                {.endpoint = good, .bucket = slash},
                {.endpoint = good},
                {.endpoint = good, .bucket = bucket, .prefix = slash},
                {.endpoint = good, .bucket = bucket, .sse = sse},
                {.endpoint = good, .bucket = bucket, .region = region},
                {.endpoint = good, .bucket = bucket, .part_bytes = 1000},
                {.endpoint = good, .bucket = bucket, .connections = 100000},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct s3 *s3;
                assert_int_equal(s3_open(&cases[i], &s3, &err), -CAS_E_INVALID);
        }
        struct cas_err err = CAS_ERR_INIT;
        struct s3_place place;
        const struct s3_config aws = {.bucket = bucket};
        assert_int_equal(s3_place_init(&aws, &place, &err), 0);
        assert_string_equal(place.origin, "https://bucket.s3.us-east-1.amazonaws.com");
        s3_place_release(&place);
        char v6[] = "HTTP://[::1]:80/";
        const struct s3_config local = {.endpoint = v6, .bucket = bucket, .path_style = true};
        assert_int_equal(s3_place_init(&local, &place, &err), 0);
        assert_string_equal(place.origin, "http://[::1]");
        assert_string_equal(place.base_path, "/bucket");
        s3_place_release(&place);
}

/* Names below localhost are this machine by the resolver's own rules. */
static void speaks_to_virtual_hosts(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *endpoint =
                cas_xasprintf("http://localhost:%u", s3server_port(f->server));
        struct s3_config config = s3server_config(f->server);
        struct s3 *s3;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        config.endpoint = endpoint;
        config.path_style = false;
        assert_int_equal(s3_open(&config, &s3, &err), 0);
        OK(s3_put(s3, "virtual/k +", "x", 1, NULL, NULL, &err));
        OK(s3_get(s3, "virtual/k +", 10, &body, NULL, &err));
        unsigned count = 0;
        OK(s3_list(s3, "virtual/", NULL, 0, see_key, &count, &err));
        assert_int_equal(count, 1);
        s3_close(s3);
        OK(s3_delete(f->s3, "virtual/k +", NULL, &err));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(goes_on_after_failures, heal),
                cmocka_unit_test_setup(gives_up, heal),
                cmocka_unit_test_setup(settles_lost_answers, heal),
                cmocka_unit_test_setup(takes_no_wrong_byte, heal),
                cmocka_unit_test_setup(puts_files_against_odds, heal),
                cmocka_unit_test_setup(cleans_up_after_files, heal),
                cmocka_unit_test_setup(gets_files_against_odds, heal),
                cmocka_unit_test_setup(bounds_lists, heal),
                cmocka_unit_test_setup(goes_by_the_stores_clock, heal),
                cmocka_unit_test_setup(names_the_region, heal),
                cmocka_unit_test_setup(breaks_off, heal),
                cmocka_unit_test_setup(speaks_to_virtual_hosts, heal),
                cmocka_unit_test(says_when_nobody_is_there),
                cmocka_unit_test(refuses_configurations),
        };
        return cmocka_run_group_tests(tests, setup, teardown);
}
