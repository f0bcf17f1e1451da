/* SPDX-License-Identifier: Apache-2.0 */
/* Kept answers: true as long as the names they were made from, and bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "cas/blob.h"
#include "cas/publish.h"
#include "registry/answers.h"
#include "tests/support/scratch.h"

struct fixture {
        char *dir;
        struct cas_store *store;
        struct reg_answers *answers;
};

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        f->dir = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/s", f->dir);
        const struct cas_store_config config = {.path = path};
        assert_int_equal(cas_store_open(&config, &f->store, &err), 0);
        f->answers = reg_answers_new(f->store, 1 << 20);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        reg_answers_free(f->answers);
        cas_store_close(f->store);
        scratch_free(f->dir);
        free(f);
        return 0;
}

/* Gives a repository another name. */
static void link_something(struct fixture *f, const char *repo, unsigned number)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_digest_of(CAS_DIGEST_SHA256, &number, sizeof(number), &digest);
        assert_int_equal(cas_publish_begin(f->store, &p, &err), 0);
        assert_int_equal(cas_publish_blob_link(p, repo, &digest, &err), 0);
        assert_int_equal(cas_publish_commit(p, &err), 0);
}

static void keep(struct fixture *f, const char *target, const char *repo, uint64_t generation,
                 const char *etag, bool is_304, size_t body_bytes)
{
        struct reg_http_answer *answer = reg_http_answer_new(200, NULL, 0, "x", 1);
        const struct reg_event pull = {
                .kind = REG_EVENT_PULL_MANIFEST, .tag = "t", .media_type = "m", .bytes = 1};
        reg_answers_keep(f->answers, target, repo, generation, etag, answer, is_304, body_bytes,
                         is_304 ? NULL : &pull);
        reg_http_answer_unref(answer);
}

static void lives_as_long_as_names(void **state)
{
        struct fixture *f = *state;
        uint64_t before = cas_names_generation(f->store, "a");
        keep(f, "/a", "a", before, "1", false, 1);
        const struct reg_kept *kept = reg_answers_get(f->answers, "/a");
        assert_non_null(kept);
        assert_string_equal(kept->repo, "a");
        assert_string_equal(kept->etag, "1");
        assert_true(kept->is_pull);
        assert_string_equal(kept->pull.tag, "t");
        assert_null(kept->same);
        assert_null(reg_answers_get(f->answers, "/A"));
        link_something(f, "b", 1);
        const struct reg_kept *again = reg_answers_get(f->answers, "/a");
        assert_ptr_equal(again, kept);
        reg_answers_put_back(again);
        link_something(f, "a", 1);
        assert_true(cas_names_generation(f->store, "a") != before);
        assert_null(reg_answers_get(f->answers, "/a"));
        assert_non_null(kept->whole); /* it is still held */
        reg_answers_put_back(kept);
        /* what was looked up before a change is never served after it */
        keep(f, "/a", "a", before, "1", false, 1);
        assert_null(reg_answers_get(f->answers, "/a"));
        keep(f, "/a", "a", cas_names_generation(f->store, "a"), "1", false, 1);
        reg_answers_clear(f->answers);
        assert_null(reg_answers_get(f->answers, "/a"));
}

static void joins_both_answers(void **state)
{
        struct fixture *f = *state;
        uint64_t now = cas_names_generation(f->store, "a");
        keep(f, "/a", "a", now, "1", true, 0);
        keep(f, "/a", "a", now, "1", false, 1);
        const struct reg_kept *kept = reg_answers_get(f->answers, "/a");
        assert_non_null(kept->same);
        assert_non_null(kept->whole);
        reg_answers_put_back(kept);
        keep(f, "/a", "a", now, "1", true, 0);
        kept = reg_answers_get(f->answers, "/a");
        assert_non_null(kept->whole);
        assert_string_equal(kept->pull.media_type, "m");
        reg_answers_put_back(kept);
        keep(f, "/a", "a", now, "2", true, 0); /* something else */
        kept = reg_answers_get(f->answers, "/a");
        assert_null(kept->whole);
        reg_answers_put_back(kept);
}

static void is_bounded(void **state)
{
        struct fixture *f = *state;
        uint64_t now = cas_names_generation(f->store, "a");
        unsigned left = 0, hot = 0;
        char target[32];
        for (unsigned i = 0; i < 2000; i++) {
                (void)snprintf(target, sizeof(target), "/a/%u", i);
                keep(f, target, "a", now, "1", false, 10000);
                const struct reg_kept *kept = reg_answers_get(f->answers, "/a/7");
                if (kept) {
                        hot++;
                        reg_answers_put_back(kept);
                }
        }
        for (unsigned i = 0; i < 2000; i++) {
                (void)snprintf(target, sizeof(target), "/a/%u", i);
                const struct reg_kept *kept = reg_answers_get(f->answers, target);
                if (kept) {
                        left++;
                        reg_answers_put_back(kept);
                }
        }
        assert_in_range(left, 48, (1 << 20) / 11000);
        assert_int_equal(hot, 1993); /* what is asked for stays */
}

struct race {
        struct fixture *f;
        _Atomic unsigned committed;
        _Atomic bool stop;
};

static void *commit_main(void *arg)
{
        struct race *race = arg;
        for (unsigned i = 1; i <= 60; i++) {
                link_something(race->f, "r", i);
                atomic_store(&race->committed, i);
        }
        atomic_store(&race->stop, true);
        return NULL;
}

/* The newest of the links 1, 2, … that are there. */
static unsigned newest(struct fixture *f)
{
        for (unsigned i = 60; i > 0; i--) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_digest digest;
                bool linked;
                cas_digest_of(CAS_DIGEST_SHA256, &i, sizeof(i), &digest);
                assert_int_equal(cas_blob_linked(f->store, "r", &digest, &linked, &err), 0);
                if (linked)
                        return i;
        }
        return 0;
}

/* What was acknowledged before somebody asks is in what they get, kept or not. */
static void never_shows_the_past(void **state)
{
        struct race race = {.f = *state};
        pthread_t thread;
        unsigned kept_count = 0;
        assert_int_equal(pthread_create(&thread, NULL, commit_main, &race), 0);
        while (!atomic_load(&race.stop)) {
                unsigned committed = atomic_load(&race.committed), seen;
                const struct reg_kept *kept = reg_answers_get(race.f->answers, "/r");
                if (kept) {
                        seen = (unsigned)strtoul(kept->etag, NULL, 10);
                        reg_answers_put_back(kept);
                        kept_count++;
                } else {
                        char etag[16];
                        uint64_t generation = cas_names_generation(race.f->store, "r");
                        seen = newest(race.f);
                        (void)snprintf(etag, sizeof(etag), "%u", seen);
                        keep(race.f, "/r", "r", generation, etag, false, 1);
                }
                assert_true(seen >= committed);
        }
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(kept_count > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(lives_as_long_as_names),
                TEST(joins_both_answers),
                TEST(is_bounded),
                TEST(never_shows_the_past),
        };
        return cmocka_run_group_tests_name("answers", tests, NULL, NULL);
}
