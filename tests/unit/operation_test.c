/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted, what is logged, and what becomes HTML. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

#include "cas/json.h"
#include "registry/accesslog.h"
#include "registry/metrics.h"
#include "registry/operation_config.h"
#include "registry/webhtml.h"
#include "tests/support/scratch.h"

#define ok(call) assert_int_equal(call, 0)

static struct reg_http_done request(const char *method, const char *target, unsigned status)
{
        return (struct reg_http_done){.method = method,
                                      .target = target,
                                      .client = "192.0.2.1",
                                      .agent = "a",
                                      .referer = "",
                                      .status = status,
                                      .whole = true,
                                      .in_bytes = 3,
                                      .out_bytes = 5,
                                      .duration_ns = 700000};
}

/* ---- metrics ---- */

static void requests_are_counted_by_kind(void **state CAS_UNUSED)
{
        static const struct {
                const char *target, *kind;
        } cases[] = {
                {"/v2/", "ping"},
                {"/v2", "ping"},
                {"/v2/_catalog?n=3", "catalog"},
                {"/v2/a/b/manifests/latest", "manifest"},
                {"/v2/a/blobs/sha256:00", "blob"},
                {"/v2/a/blobs/uploads/", "upload"},
                {"/v2/a/blobs/uploads?mount=x/manifests/y", "upload"},
                {"/v2/a/blobs/uploads/5", "upload"},
                {"/v2/a/tags/list?last=x", "tags"},
                {"/v2/a/referrers/sha256:00", "referrers"},
                {"/v2/a", "other"},
                {"/v2/manifests", "other"},
                {"/v3/a/manifests/x", "other"},
                {"", "other"},
                {"/", "web"},
                {"/web/repo?name=x", "web"},
                {"/metrics", "operation"},
                {"/healthz?x", "operation"},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                struct reg_metrics *m = reg_metrics_new();
                const struct reg_http_done done = request("GET", cases[i].target, 206);
                reg_metrics_done(m, &done, false);
                reg_metrics_append(m, &out);
                cas_cleanup_free char *line =
                        cas_xasprintf("\nlamina_http_requests_total{kind=\"%s\",method=\"GET\","
                                      "status=\"2xx\"} 1\n",
                                      cases[i].kind);
                if (!strstr(cas_buf_str(&out), line))
                        fail_msg("%s is no %s", cases[i].target, cases[i].kind);
                reg_metrics_free(m);
        }
}

static void *count_many(void *arg)
{
        struct reg_metrics *m = arg;
        const struct reg_http_done done = request("BREW", "/v2/a/manifests/x", 999);
        const struct reg_event event = {.kind = REG_EVENT_DELETE_BLOB};
        for (int i = 0; i < 1000; i++) {
                reg_metrics_begun(m);
                reg_metrics_done(m, &done, i > 0);
                reg_metrics_event(m, &event);
                reg_metrics_add(m, REG_COUNTER_WEB_PAGES, 2);
        }
        return NULL;
}

static void threads_count_together(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct reg_metrics *m = reg_metrics_new();
        pthread_t threads[40]; /* more than there are shards */
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_create(&threads[i], NULL, count_many, m));
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_join(threads[i], NULL));
        reg_metrics_append(m, &out);
        static const char *const lines[] = {
                "\nlamina_http_requests_total{kind=\"manifest\",method=\"?\",status=\"none\"} "
                "40000\n",
                "\nlamina_http_request_duration_seconds_bucket{kind=\"manifest\",le=\"0.0005\"} "
                "0\n",
                "\nlamina_http_request_duration_seconds_bucket{kind=\"manifest\",le=\"0.001\"} "
                "40000\n",
                "\nlamina_http_request_duration_seconds_bucket{kind=\"manifest\",le=\"+Inf\"} "
                "40000\n",
                "\nlamina_http_request_duration_seconds_sum{kind=\"manifest\"} 28.000000000\n",
                "\nlamina_http_request_duration_seconds_count{kind=\"manifest\"} 40000\n",
                "\nlamina_http_received_bytes_total{kind=\"manifest\"} 120000\n",
                "\nlamina_http_sent_bytes_total{kind=\"manifest\"} 200000\n",
                "\nlamina_events_total{event=\"delete_blob\"} 40000\n",
                "\nlamina_web_pages_total 80000\n",
                "\nlamina_http_requests_in_flight 40\n",
        };
        for (size_t i = 0; i < CAS_COUNT(lines); i++) {
                if (!strstr(cas_buf_str(&out), lines[i]))
                        fail_msg("missing: %s", lines[i]);
        }
        reg_metrics_free(m);
}

/* ---- the access log ---- */

static const char evil[] = "a\"b\\c\nd\te\x80\x1b[31m {\"status\":200}";

static void lines_cannot_be_forged(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf line = CAS_BUF_INIT;
        cas_cleanup_json json_t *doc = NULL;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_http_done done = request("GET", evil, 404);
        done.agent = done.referer = evil;
        reg_accesslog_line(REG_ACCESS_LOG_JSON, &done, "us\"er", "id1", 1700000000123456789, &line);
        assert_ptr_equal(strchr(cas_buf_str(&line), '\n'),
                         (const char *)line.data + line.len_bytes - 1);
        ok(cas_json_parse(line.data, line.len_bytes, 100000, &doc, &err));
        assert_string_equal(json_string_value(json_object_get(doc, "time")),
                            "2023-11-14T22:13:20.123Z");
        assert_int_equal(json_integer_value(json_object_get(doc, "status")), 404);
        assert_string_equal(json_string_value(json_object_get(doc, "user")), "us\"er");
        assert_non_null(strstr(json_string_value(json_object_get(doc, "target")), "\"b\\c\nd"));
        cas_buf_clear(&line);
        reg_accesslog_line(REG_ACCESS_LOG_COMBINED, &done, "us er", "id1", 1700000000123456789,
                           &line);
        assert_string_equal(cas_buf_str(&line),
                            "192.0.2.1 - us\\x20er [14/Nov/2023:22:13:20 +0000] \"GET "
                            "a\\x22b\\x5cc\\x0ad\\x09e\\x80\\x1b[31m\\x20{\\x22status\\x22:200} "
                            "HTTP/1.1\" 404 5 "
                            "\"a\\x22b\\x5cc\\x0ad\\x09e\\x80\\x1b[31m {\\x22status\\x22:200}\" "
                            "\"a\\x22b\\x5cc\\x0ad\\x09e\\x80\\x1b[31m {\\x22status\\x22:200}\"\n");
}

static void long_texts_are_cut(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf line = CAS_BUF_INIT;
        static char text[9000];
        memset(text, '"', sizeof(text) - 1);
        struct reg_http_done done = request("GET", text, 400);
        for (int format = REG_ACCESS_LOG_JSON; format <= REG_ACCESS_LOG_COMBINED; format++) {
                cas_buf_clear(&line);
                reg_accesslog_line((enum reg_access_log_format)format, &done, "", "", 0, &line);
                assert_true(line.len_bytes < 4 * 2048 + 400);
        }
}

static void *log_many(void *arg)
{
        const struct reg_http_done done = request("GET", "/v2/", 200);
        for (int i = 0; i < 500; i++)
                reg_accesslog_add(arg, &done, "", "");
        return NULL;
}

/* Written or counted as dropped, and none twice, whoever reopens the file meanwhile. */
static void no_line_is_lost_unnoticed(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        char *dir = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/log", dir);
        cas_cleanup_free char *moved = cas_xasprintf("%s/log.1", dir);
        struct reg_log_config config = {.access = REG_ACCESS_LOG_JSON, .file = path};
        struct reg_metrics *m = reg_metrics_new();
        struct reg_accesslog *log = NULL;
        ok(reg_accesslog_open(&config, m, &log, &err));
        pthread_t threads[4];
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_create(&threads[i], NULL, log_many, log));
        ok(rename(path, moved));
        ok(reg_accesslog_reopen(log, &err));
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_join(threads[i], NULL));
        reg_accesslog_close(log);
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT, counts = CAS_BUF_INIT;
        ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 10000000, &text, &err));
        ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, moved, 10000000, &text, &err));
        unsigned lines = 0;
        for (size_t i = 0; i < text.len_bytes; i++)
                lines += text.data[i] == '\n';
        reg_metrics_append(m, &counts);
        unsigned written = 0, dropped = 0;
        const char *at = strstr(cas_buf_str(&counts), "\nlamina_access_log_lines_total ");
        assert_int_equal(sscanf(at, "\nlamina_access_log_lines_total %u", &written), 1);
        at = strstr(cas_buf_str(&counts), "\nlamina_access_log_dropped_total ");
        assert_int_equal(sscanf(at, "\nlamina_access_log_dropped_total %u", &dropped), 1);
        assert_int_equal(written + dropped, 2000);
        assert_int_equal(lines, written);
        reg_metrics_free(m);
        scratch_free(dir);
}

/* ---- pages and settings ---- */

static void nothing_becomes_markup(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        reg_html_text(&out, "<a href=\"x\" b='y'>&\n");
        assert_string_equal(cas_buf_str(&out), "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp; ");
        cas_buf_clear(&out);
        reg_html_query(&out, "a/b:c&d=\"<\xff");
        assert_string_equal(cas_buf_str(&out), "a/b%3Ac%26d%3D%22%3C%FF");
        cas_buf_clear(&out);
        reg_html_bytes(&out, 1536);
        reg_html_bytes(&out, UINT64_MAX);
        assert_string_equal(cas_buf_str(&out), "1.5&nbsp;KiB16&nbsp;EiB");
}

static void settings_are_checked(void **state CAS_UNUSED)
{
        static const struct {
                const struct reg_config_area *area;
                const char *name, *key, *value;
                int rc;
        } cases[] = {
                {&reg_operation_area, "", "metrics", "all", 0},
                {&reg_operation_area, "", "metrics", "some", -CAS_E_INVALID},
                {&reg_operation_area, "x", "metrics", "all", -CAS_E_INVALID},
                {&reg_operation_area, "", "min_free", "1GiB", 0},
                {&reg_operation_area, "", "colour", "red", -CAS_E_NOTFOUND},
                {&reg_log_area, "", "access", "combined", 0},
                {&reg_log_area, "", "access", "yes", -CAS_E_INVALID},
                {&reg_log_area, "", "file", "/var/log/x", 0},
                {&reg_log_area, "", "file", "stderr", 0},
                {&reg_log_area, "", "file", "x", -CAS_E_INVALID},
                {&reg_web_area, "", "enabled", "yes", 0},
                {&reg_web_area, "", "enabled", "1", -CAS_E_INVALID},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                void *area = NULL;
                assert_int_equal(cases[i].area->set(&area, cases[i].name, cases[i].key,
                                                    cases[i].value, &err),
                                 cases[i].rc);
                if (area)
                        cases[i].area->release(area);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(requests_are_counted_by_kind),
                cmocka_unit_test(threads_count_together),
                cmocka_unit_test(lines_cannot_be_forged),
                cmocka_unit_test(long_texts_are_cut),
                cmocka_unit_test(no_line_is_lost_unnoticed),
                cmocka_unit_test(nothing_becomes_markup),
                cmocka_unit_test(settings_are_checked),
        };
        return cmocka_run_group_tests_name("operation", tests, NULL, NULL);
}
