/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <time.h>

#include "registry/events.h"
#include "registry/quota.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

/* Lines "NAME|KEY|VALUE" of [quota NAME]. */
static struct reg_quotas *quotas_of(struct cas_store *s, const char *const *lines,
                                    struct reg_events *events)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_quotas *q;
        void *area = NULL;
        for (; *lines; lines++) {
                cas_cleanup_free char *line = cas_xstrdup(*lines);
                char *key = strchr(line, '|'), *value = key ? strchr(key + 1, '|') : NULL;
                assert_non_null(value);
                *key++ = '\0';
                *value++ = '\0';
                ok(reg_quota_area.set(&area, line, key, value, &err));
        }
        ok(reg_quotas_new(area, s, &q, &err));
        reg_quotas_listen(q, events);
        reg_quota_area.release(area);
        return q;
}

static void tell(struct reg_events *events, enum reg_event_kind kind, const char *repo,
                 uint64_t bytes)
{
        reg_events_tell(events, &(struct reg_event){.kind = kind,
                                                    .repo = repo,
                                                    .tag = "",
                                                    .from_repo = "",
                                                    .media_type = "",
                                                    .user = "",
                                                    .client = "",
                                                    .request_id = "",
                                                    .bytes = bytes});
}

/* Counting is in the background. */
static void wait_for_room(struct reg_quotas *q, const char *repo, uint64_t room)
{
        const struct timespec nap = {.tv_nsec = 20000000};
        for (unsigned i = 0; i < 500 && reg_quotas_room(q, repo) != room; i++)
                (void)nanosleep(&nap, NULL);
        assert_int_equal(reg_quotas_room(q, repo), room);
}

static const char *const lines[] = {
        "each|repositories|dev/**", "each|bytes|1000",   "home|repositories|home/${user}/**",
        "home|bytes|500",           "home|together|yes", "all|repositories|**",
        "all|bytes|10000",          "all|together|yes",  NULL};

static void what_happens_is_counted(void **state CAS_UNUSED)
{
        struct reg_events *events = reg_events_new();
        struct reg_quotas *q = quotas_of(NULL, lines, events);
        assert_int_equal(reg_quotas_room(q, "dev/a"), 1000);
        assert_int_equal(reg_quotas_room(q, "home/alice/x"), 500);
        assert_int_equal(reg_quotas_room(q, "else"), 10000);
        tell(events, REG_EVENT_PUSH_BLOB, "dev/a", 300);
        tell(events, REG_EVENT_MOUNT_BLOB, "dev/a", 100);
        tell(events, REG_EVENT_PULL_BLOB, "dev/a", 100);
        tell(events, REG_EVENT_PUSH_MANIFEST, "home/alice/x", 150);
        tell(events, REG_EVENT_PUSH_BLOB, "home/alice/y", 250);
        assert_int_equal(reg_quotas_room(q, "dev/a"), 600);
        assert_int_equal(reg_quotas_room(q, "dev/b"), 1000);
        assert_int_equal(reg_quotas_room(q, "home/alice/z"), 100);
        assert_int_equal(reg_quotas_room(q, "home/bob/x"), 500);
        assert_int_equal(reg_quotas_room(q, "else"), 9200);
        tell(events, REG_EVENT_PUSH_BLOB, "dev/a", UINT64_MAX);
        assert_int_equal(reg_quotas_room(q, "dev/a"), 0);
        reg_quotas_free(q);
        reg_events_free(events);
}

static void counts_heal_from_the_store(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_events *events = reg_events_new();
        (void)test_put_blob(t->store, "dev/a", "ten bytes.");
        (void)test_put_blob(t->store, "home/alice/x", "ten bytes.");
        (void)test_put_manifest(t->store, "home/alice/y", "tag", "{}");
        struct reg_quotas *q = quotas_of(t->store, lines, events);
        wait_for_room(q, "dev/a", 990);
        wait_for_room(q, "home/alice/x", 488);
        wait_for_room(q, "else", 9978);
        /* pushed again: it was there already */
        tell(events, REG_EVENT_PUSH_BLOB, "dev/a", 10);
        wait_for_room(q, "dev/a", 990);
        const struct cas_digest d = test_digest("ten bytes.");
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob_unlink(p, "home/alice/x", &d, &err));
        ok(cas_publish_commit(p, &err));
        tell(events, REG_EVENT_DELETE_BLOB, "home/alice/x", 0);
        wait_for_room(q, "home/alice/x", 498);
        wait_for_room(q, "else", 9988);
        reg_quotas_free(q);
        reg_events_free(events);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_happens_is_counted),
                cmocka_unit_test_setup_teardown(counts_heal_from_the_store, teststore_setup,
                                                teststore_teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
