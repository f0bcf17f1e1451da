/* SPDX-License-Identifier: Apache-2.0 */
/* Retention: what goes and what stays, and what tags are remembered by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <time.h>

#include "cas/image.h"
#include "cas/maintain.h"
#include "registry/retention.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define DAY 86400

struct fixture {
        struct teststore *t;
        void *rules, *immutable;
        struct reg_events *events;
        struct reg_tagclock *clock;
        uint64_t now;
        char gone[512]; /* "repo:tag " or "repo@ " of each */
};

static void set(const struct reg_config_area *area, void **to, const char *name, const char *key,
                const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(area->set(to, name, key, value, &err));
}

static void rule(struct fixture *f, const char *key, const char *value)
{
        set(&reg_retention_area, &f->rules, "r", key, value);
}

/* A tag that was set so many days ago, with a manifest of its own. */
static struct cas_digest tag_aged(struct fixture *f, const char *repo, const char *tag,
                                  unsigned pushed_days, unsigned pulled_days)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = cas_xasprintf("manifest of %s:%s", repo, tag);
        struct cas_digest d = test_put_manifest(f->t->store, repo, tag, text);
        const struct cas_tag_note note = {.repo = repo,
                                          .tag = tag,
                                          .manifest = d,
                                          .times = {f->now - pushed_days * DAY,
                                                    pulled_days ? f->now - pulled_days * DAY : 0}};
        ok(cas_tag_times_note(f->t->store, &note, 1, &err));
        return d;
}

static void item_seen(void *arg, const struct reg_retention_item *item)
{
        struct fixture *f = arg;
        size_t at = strlen(f->gone);
        assert_true(item->reason[0]);
        (void)snprintf(f->gone + at, sizeof(f->gone) - at, "%s%s%s ", item->repo,
                       item->tag[0] ? ":" : "@", item->tag);
}

static void apply(struct fixture *f, bool dry_run, const char *gone)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_retention_result result;
        const struct reg_retention_run run = {.store = f->t->store,
                                              .config = f->rules,
                                              .immutable = f->immutable,
                                              .clock = f->clock,
                                              .events = f->events,
                                              .now_unix_s = f->now,
                                              .dry_run = dry_run,
                                              .fn = item_seen,
                                              .arg = f};
        f->gone[0] = '\0';
        ok(reg_retention_apply(&run, &result, &err));
        assert_int_equal(result.failed, 0);
        assert_string_equal(f->gone, gone);
}

static bool has_tag(struct fixture *f, const char *repo, const char *tag)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d;
        return cas_tag_get(f->t->store, repo, tag, &d, &err) == 0;
}

static void the_newest_stay(void **state)
{
        struct fixture *f = *state;
        rule(f, "repositories", "app/*");
        rule(f, "tags", "v*");
        rule(f, "keep", "2");
        tag_aged(f, "app/a", "v1", 9, 0);
        tag_aged(f, "app/a", "v2", 5, 0);
        tag_aged(f, "app/a", "v3", 7, 1);
        tag_aged(f, "app/a", "v4", 3, 0);
        tag_aged(f, "app/a", "latest", 90, 0);
        tag_aged(f, "other", "v0", 900, 0);
        tag_aged(f, "app/b", "v1", 900, 0);
        apply(f, true, "app/a:v3 app/a:v1 ");
        assert_true(has_tag(f, "app/a", "v1"));
        apply(f, false, "app/a:v3 app/a:v1 ");
        assert_false(has_tag(f, "app/a", "v1"));
        assert_true(has_tag(f, "app/a", "v4") && has_tag(f, "app/b", "v1"));
        apply(f, false, "");
}

static void every_condition_must_hold(void **state)
{
        struct fixture *f = *state;
        rule(f, "repositories", "**");
        rule(f, "keep", "1");
        rule(f, "max_age", "30d");
        rule(f, "not_pulled_for", "7d");
        tag_aged(f, "a", "newest", 1, 0);
        tag_aged(f, "a", "young", 20, 0);
        tag_aged(f, "a", "pulled", 50, 3);
        tag_aged(f, "a", "forgotten", 40, 10);
        tag_aged(f, "a", "never", 45, 0);
        tag_aged(f, "b", "alone", 500, 0);
        apply(f, false, "a:forgotten a:never ");
}

static void immutable_tags_stay(void **state)
{
        struct fixture *f = *state;
        rule(f, "repositories", "**");
        rule(f, "max_age", "1d");
        set(&reg_immutable_area, &f->immutable, "i", "tags", "v*");
        tag_aged(f, "a", "v1", 100, 0);
        tag_aged(f, "a", "x1", 100, 0);
        apply(f, false, "a:x1 ");
        assert_true(has_tag(f, "a", "v1"));
}

/* A tag that nobody has noted counts from when it is first looked at. */
static void unknown_tags_are_young(void **state)
{
        struct fixture *f = *state;
        rule(f, "repositories", "**");
        rule(f, "max_age", "1d");
        (void)test_put_manifest(f->t->store, "a", "x", "some manifest");
        apply(f, false, "");
        f->now += DAY / 2;
        apply(f, false, "");
        f->now += DAY;
        apply(f, false, "a:x ");
}

/* What was noted is of another manifest: the tag has moved since. */
static void moved_tags_are_young(void **state)
{
        struct fixture *f = *state;
        rule(f, "repositories", "**");
        rule(f, "max_age", "1d");
        tag_aged(f, "a", "x", 100, 0);
        (void)test_put_manifest(f->t->store, "a", "x", "another manifest");
        apply(f, false, "");
        assert_true(has_tag(f, "a", "x"));
}

static struct cas_digest put_json(struct fixture *f, const char *repo, const char *tag,
                                  const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        const struct cas_manifest_put_options options = {
                .repo = repo, .tag = tag, .allow_sparse = true};
        ok(cas_manifest_put(f->t->store, &options, text, strlen(text), &info, &err));
        return info.digest;
}

static bool has_manifest(struct fixture *f, const char *repo, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        return cas_manifest_stat(f->t->store, repo, d, &info, &err) == 0;
}

static void untagged_manifests_go_with_what_nothing_needs(void **state)
{
        struct fixture *f = *state;
        char text[CAS_DIGEST_TEXT_BYTES];
        const struct cas_digest config = test_put_blob(f->t->store, "a", "{}");
        cas_cleanup_free char *parts = cas_xasprintf(
                "\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST "\",\"config\":"
                "{\"mediaType\":\"application/"
                "vnd.oci.empty.v1+json\",\"digest\":\"%s\",\"size\":2},"
                "\"layers\":[]",
                cas_digest_text(&config, text));
        cas_cleanup_free char *child_text =
                cas_xasprintf("{%s,\"annotations\":{\"a\":\"1\"}}", parts);
        cas_cleanup_free char *alone_text =
                cas_xasprintf("{%s,\"annotations\":{\"a\":\"2\"}}", parts);
        const struct cas_digest child = put_json(f, "a", NULL, child_text);
        const struct cas_digest alone = put_json(f, "a", NULL, alone_text);
        cas_cleanup_free char *index_text = cas_xasprintf(
                "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_INDEX "\",\"manifests\":[{"
                "\"mediaType\":\"" CAS_MT_OCI_MANIFEST "\",\"digest\":\"%s\",\"size\":%zu}]}",
                cas_digest_text(&child, text), strlen(child_text));
        (void)put_json(f, "a", "many", index_text);
        cas_cleanup_free char *signed_text =
                cas_xasprintf("{%s,\"subject\":{\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                              "\",\"digest\":\"%s\",\"size\":%zu}}",
                              parts, cas_digest_text(&child, text), strlen(child_text));
        const struct cas_digest signature = put_json(f, "a", NULL, signed_text);
        rule(f, "repositories", "a");
        rule(f, "untagged_after", "7d");
        apply(f, false, "");
        f->now += 8 * DAY;
        apply(f, true, "a@ ");
        apply(f, false, "a@ ");
        assert_false(has_manifest(f, "a", &alone));
        assert_true(has_manifest(f, "a", &child) && has_manifest(f, "a", &signature));
}

static void count_event(void *arg, const struct reg_event *event)
{
        *(unsigned *)arg += event->kind == REG_EVENT_DELETE_TAG && strcmp(event->tag, "x") == 0;
}

static void events_are_told_and_heard(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tag_times times;
        unsigned count = 0;
        f->events = reg_events_new();
        f->clock = reg_tagclock_new(f->t->store, f->events);
        reg_events_listen(f->events, count_event, &count);
        rule(f, "repositories", "**");
        rule(f, "not_pulled_for", "7d");
        const struct cas_digest d = tag_aged(f, "a", "x", 30, 20);
        apply(f, true, "a:x ");
        struct reg_event event = {
                .kind = REG_EVENT_PULL_MANIFEST, .repo = "a", .tag = "x", .digest = d};
        reg_events_tell(f->events, &event);
        apply(f, false, ""); /* pulled just now */
        ok(reg_tagclock_write(f->clock, &err));
        ok(cas_tag_times_get(f->t->store, "a", "x", &d, &times, &err));
        assert_true(times.pulled_unix_s + 60 >= f->now);
        assert_int_equal(times.pushed_unix_s, f->now - 30 * DAY);
        assert_int_equal(count, 0);
        f->now += 8 * DAY;
        apply(f, false, "a:x ");
        assert_int_equal(count, 1);
        /* Collection forgets what is of no tag. */
        const struct cas_gc_options options = {.grace_s = 3600};
        struct cas_gc_result result;
        ok(cas_gc(f->t->store, &options, NULL, &result, &err));
        assert_int_equal(cas_tag_times_get(f->t->store, "a", "x", &d, &times, &err),
                         -CAS_E_NOTFOUND);
}

static void times_survive_a_rebuild(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tag_times times;
        const struct cas_digest d = tag_aged(f, "a", "x", 30, 20);
        teststore_close(f->t);
        const struct cas_store_config config = {.path = f->t->path};
        ok(cas_rebuild(&config, NULL, &err));
        ok(teststore_open(f->t, &err));
        ok(cas_tag_times_get(f->t->store, "a", "x", &d, &times, &err));
        assert_int_equal(times.pulled_unix_s, f->now - 20 * DAY);
}

static int setup(void **state)
{
        void *t = NULL;
        if (teststore_setup(&t) != 0)
                return -1;
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->t = t;
        f->now = (uint64_t)time(NULL);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        void *t = f->t;
        reg_tagclock_free(f->clock);
        reg_events_free(f->events);
        reg_retention_area.release(f->rules);
        if (f->immutable)
                reg_immutable_area.release(f->immutable);
        free(f);
        return teststore_teardown(&t);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(the_newest_stay),
                TEST(every_condition_must_hold),
                TEST(immutable_tags_stay),
                TEST(unknown_tags_are_young),
                TEST(moved_tags_are_young),
                TEST(untagged_manifests_go_with_what_nothing_needs),
                TEST(events_are_told_and_heard),
                TEST(times_survive_a_rebuild),
        };
        return cmocka_run_group_tests_name("retention", tests, NULL, NULL);
}
