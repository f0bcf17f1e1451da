/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <time.h>

#include "cas/mutex.h"
#include "registry/purge.h"

#define ok(call) assert_int_equal(call, 0)

/* A cache that notes what it is told. */
struct cache {
        struct cas_mutex mutex;
        struct cas_buf seen; /* a line for each request; guarded by mutex */
        unsigned status;     /* of its answers; 0: it cannot be reached */
        unsigned delay_ms;
};

static int told(void *arg, const struct reg_httpc_request *r, unsigned *out_status,
                struct cas_err *err)
{
        struct cache *c = arg;
        struct timespec delay = {.tv_nsec = (long)c->delay_ms * 1000000};
        (void)nanosleep(&delay, NULL);
        cas_mutex_lock(&c->mutex);
        cas_buf_printf(&c->seen, "%s %s", r->method, r->url);
        for (size_t i = 0; r->headers[i]; i++)
                cas_buf_printf(&c->seen, " [%s]", r->headers[i]);
        if (r->body)
                cas_buf_printf(&c->seen, " %.*s", (int)r->body_bytes, (const char *)r->body);
        cas_buf_append_str(&c->seen, "\n");
        unsigned status = c->status;
        cas_mutex_unlock(&c->mutex);
        *out_status = status;
        return status ? 0 : cas_fail(err, CAS_E_IO, "nobody is there");
}

struct fixture {
        struct cache cache;
        void *config;
        struct reg_purger *purger;
};

static void set(struct fixture *f, const char *key, const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(reg_purge_area.set(&f->config, "edge", key, value, &err));
}

static void begin(struct fixture *f)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_mutex_init(&f->cache.mutex, "test.cache");
        ok(reg_purger_new(f->config, told, &f->cache, &f->purger, &err));
}

static void end(struct fixture *f)
{
        reg_purger_free(f->purger);
        reg_purge_area.release(f->config);
        cas_buf_release(&f->cache.seen);
        cas_mutex_release(&f->cache.mutex);
}

static void tell(struct fixture *f, enum reg_event_kind kind, const char *tag, const char *before,
                 const char *now)
{
        struct reg_event e = {.kind = kind,
                              .repo = "a/b",
                              .tag = tag,
                              .from_repo = "",
                              .media_type = "",
                              .user = "",
                              .client = ""};
        if (before)
                cas_digest_of(CAS_DIGEST_SHA256, before, strlen(before), &e.before);
        cas_digest_of(CAS_DIGEST_SHA256, now, strlen(now), &e.digest);
        reg_purger_event(f->purger, &e);
}

static void what_changed_is_purged_before_the_push_returns(void **state CAS_UNUSED)
{
        struct fixture f = {.cache.status = 200};
        set(&f, "url", "http://cache{path}");
        set(&f, "header", "Surrogate-Key: {key}");
        set(&f, "wait_ms", "10000");
        begin(&f);
        tell(&f, REG_EVENT_PUSH_MANIFEST, "v1", "old", "new");
        assert_string_equal(cas_buf_str(&f.cache.seen),
                            "PURGE http://cache/v2/a/b/manifests/v1 [Surrogate-Key: tag:a/b:v1]\n");
        cas_buf_clear(&f.cache.seen);
        tell(&f, REG_EVENT_PUSH_MANIFEST, "v1", "new", "new"); /* nothing changed */
        tell(&f, REG_EVENT_PULL_MANIFEST, "v1", NULL, "new");
        tell(&f, REG_EVENT_PUSH_BLOB, "", NULL, "blob");
        assert_int_equal(f.cache.seen.len_bytes, 0);
        tell(&f, REG_EVENT_DELETE_TAG, "v1", NULL, "new");
        assert_string_equal(cas_buf_str(&f.cache.seen),
                            "PURGE http://cache/v2/a/b/manifests/v1 [Surrogate-Key: tag:a/b:v1]\n"
                            "PURGE http://cache/v2/a/b/tags/list [Surrogate-Key: list:a/b]\n");
        cas_buf_clear(&f.cache.seen);
        tell(&f, REG_EVENT_DELETE_BLOB, "", NULL, "x");
        assert_string_equal(
                cas_buf_str(&f.cache.seen),
                "PURGE http://cache/v2/a/b/blobs/"
                "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 "
                "[Surrogate-Key: "
                "dg:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881]\n");
        end(&f);
}

static void templates_are_filled_in(void **state CAS_UNUSED)
{
        struct fixture f = {.cache.status = 204};
        set(&f, "url", "https://api.example/purge?{unknown}");
        set(&f, "method", "POST");
        set(&f, "header", "Token: {secret");
        set(&f, "header", "Soft: 1");
        set(&f, "body", "{\"tags\":[\"{key}\"],\"of\":\"{repo}:{tag}\"}");
        begin(&f);
        tell(&f, REG_EVENT_PUSH_MANIFEST, "v1", "old", "new");
        assert_string_equal(cas_buf_str(&f.cache.seen),
                            "POST https://api.example/purge?{unknown} [Token: {secret] [Soft: 1] "
                            "{\"tags\":[\"tag:a/b:v1\"],\"of\":\"a/b:v1\"}\n");
        end(&f);
}

static double now_s(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void a_slow_cache_delays_a_push_for_a_moment_only(void **state CAS_UNUSED)
{
        struct fixture f = {.cache = {.status = 200, .delay_ms = 900}};
        set(&f, "url", "http://cache/");
        set(&f, "wait_ms", "50");
        begin(&f);
        double start = now_s();
        tell(&f, REG_EVENT_PUSH_MANIFEST, "v1", "old", "new");
        assert_true(now_s() - start < 0.8);
        end(&f);
}

static void a_cache_that_fails_delays_nobody(void **state CAS_UNUSED)
{
        struct fixture f = {.cache.status = 0};
        set(&f, "url", "http://cache/{tag}");
        set(&f, "wait_ms", "10000");
        begin(&f);
        double start = now_s();
        char tag[32];
        for (unsigned i = 0; i < 1500; i++) { /* more than the queue takes */
                (void)snprintf(tag, sizeof(tag), "t%u", i);
                tell(&f, REG_EVENT_PUSH_MANIFEST, tag, "old", "new");
        }
        assert_true(now_s() - start < 8);
        end(&f);
}

static void it_is_asked_again_until_it_is_well(void **state CAS_UNUSED)
{
        struct fixture f = {.cache.status = 503};
        set(&f, "url", "http://cache/{tag}");
        set(&f, "wait_ms", "10000");
        begin(&f);
        tell(&f, REG_EVENT_PUSH_MANIFEST, "v1", "old", "new"); /* returns once it has failed */
        cas_mutex_lock(&f.cache.mutex);
        f.cache.status = 200;
        cas_mutex_unlock(&f.cache.mutex);
        for (double start = now_s(); now_s() - start < 10;) {
                cas_mutex_lock(&f.cache.mutex);
                bool again = strcmp(cas_buf_str(&f.cache.seen),
                                    "PURGE http://cache/v1\nPURGE http://cache/v1\n") == 0;
                cas_mutex_unlock(&f.cache.mutex);
                if (again)
                        break;
                struct timespec pause = {.tv_nsec = 20000000};
                (void)nanosleep(&pause, NULL);
        }
        assert_string_equal(cas_buf_str(&f.cache.seen),
                            "PURGE http://cache/v1\nPURGE http://cache/v1\n");
        end(&f);
}

static void settings_that_make_no_sense_are_refused(void **state CAS_UNUSED)
{
        static const char *const bad[][2] = {
                {"url", "ftp://x"}, {"url", ""},       {"method", "purge"}, {"method", "A B"},
                {"header", "none"}, {"header", ": x"}, {"wait_ms", "x"},    {"wait_ms", "100000"}};
        void *area = NULL;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_purger *p;
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_int_equal(reg_purge_area.set(&area, "edge", bad[i][0], bad[i][1], &err),
                                 -CAS_E_INVALID);
        assert_int_equal(reg_purge_area.set(&area, "", "url", "http://x", &err), -CAS_E_INVALID);
        assert_int_equal(reg_purge_area.set(&area, "edge", "nothing", "x", &err), -CAS_E_NOTFOUND);
        assert_int_equal(reg_purger_new(area, told, NULL, &p, &err), -CAS_E_INVALID);
        reg_purge_area.release(area);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_changed_is_purged_before_the_push_returns),
                cmocka_unit_test(templates_are_filled_in),
                cmocka_unit_test(a_slow_cache_delays_a_push_for_a_moment_only),
                cmocka_unit_test(a_cache_that_fails_delays_nobody),
                cmocka_unit_test(it_is_asked_again_until_it_is_well),
                cmocka_unit_test(settings_that_make_no_sense_are_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
