/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "cas/layer.h"
#include "cas/object.h"
#include "cas/store_int.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static void a_blob_comes_back(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_put_blob(t->store, NULL, "some bytes");
        teststore_reopen(t);
        uint64_t size;
        ok(cas_blob_stat(t->store, &d, &size, &err));
        assert_int_equal(size, 10);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        ok(cas_blob_read(t->store, &d, 100, &out, &err));
        assert_string_equal(cas_buf_str(&out), "some bytes");
        assert_int_equal(cas_blob_read(t->store, &d, 9, &out, &err), -CAS_E_LIMIT);
        int fd;
        ok(cas_blob_open(t->store, &d, &fd, &size, &err));
        char raw[16];
        assert_int_equal(read(fd, raw, sizeof(raw)), 10);
        (void)close(fd);
        struct cas_digest other = test_digest("other");
        assert_int_equal(cas_blob_stat(t->store, &other, NULL, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_blob_open(t->store, &other, &fd, NULL, &err), -CAS_E_NOTFOUND);
}

static void checks_expected_digests(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest wrong = test_digest("b"), sha512, got;
        cas_digest_of(CAS_DIGEST_SHA512, "a", 1, &sha512);
        ok(cas_publish_begin(t->store, &p, &err));
        assert_int_equal(cas_publish_blob(p, "a", 1, &wrong, NULL, &err), -CAS_E_INVALID);
        ok(cas_publish_blob(p, "a", 1, &sha512, &got, &err));
        assert_true(cas_digest_equal(&got, &sha512));
        ok(cas_publish_commit(p, &err));
        assert_true(test_has_blob(t->store, &sha512));
        assert_false(test_has_blob(t->store, &wrong));
}

static unsigned files_in(struct teststore *t, const char *dir)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, dir);
        DIR *d = opendir(path);
        assert_non_null(d);
        unsigned n = 0;
        while (readdir(d))
                n++;
        (void)closedir(d);
        return n - 2;
}

static void what_is_not_committed_is_not_there(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_publish *p = NULL;
        struct cas_digest d;
        struct cas_hash id;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob(p, "a", 1, NULL, &d, &err));
        ok(cas_publish_blob_link(p, "r", &d, &err));
        ok(cas_publish_object(p, "content", 7, &id, &err));
        ok(cas_publish_drain(p, &err));
        ok(cas_publish_blob_begin(p, CAS_DIGEST_SHA256, &err));
        ok(cas_publish_blob_write(p, "half", 4, &err));
        cas_publish_free(p);
        struct cas_object_info info;
        bool linked;
        assert_false(test_has_blob(t->store, &d));
        assert_int_equal(cas_object_stat(t->store, &id, &info, &err), -CAS_E_NOTFOUND);
        ok(cas_blob_linked(t->store, "r", &d, &linked, &err));
        assert_false(linked);
        assert_int_equal(files_in(t, "uploads"), 0);
}

static void the_same_blob_costs_nothing(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest first = test_put_blob(t->store, NULL, "same"), second, third;
        struct cas_publish *p = NULL, *q = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob(p, "same", 4, NULL, &second, &err));
        assert_int_equal(files_in(t, "uploads"), 0);
        assert_true(cas_digest_equal(&first, &second));
        /* Two that are open at once, neither knowing of the other. */
        ok(cas_publish_begin(t->store, &q, &err));
        ok(cas_publish_blob(p, "new", 3, NULL, &second, &err));
        ok(cas_publish_blob(q, "new", 3, NULL, &third, &err));
        ok(cas_publish_blob(q, "new", 3, NULL, &third, &err));
        ok(cas_publish_commit(p, &err));
        ok(cas_publish_commit(q, &err));
        cas_publish_free(p);
        cas_publish_free(q);
        assert_true(test_has_blob(t->store, &third));
        assert_int_equal(files_in(t, "uploads"), 0);
}

/* The same length, other bytes: who brings the blob again heals it. */
static void a_damaged_small_blob_is_healed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        const struct cas_digest d = test_put_blob(t->store, "r", "some bytes");
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_digest_hex(&d, hex);
        cas_cleanup_free char *path = cas_xasprintf("%s/blobs/sha256/%.2s/%s", t->path, hex, hex);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "X", 1, 0), 1);
        assert_int_equal(cas_blob_read(t->store, &d, 100, &out, &err), -CAS_E_CORRUPT);
        (void)test_put_blob(t->store, "r", "some bytes");
        ok(cas_blob_read(t->store, &d, 100, &out, &err));
}

static void a_whole_publication_is_there(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_layer_record layer = {.tar_bytes = 10240,
                                         .content_bytes = 7,
                                         .entry_count = 1,
                                         .listing_version = 1,
                                         .compression = 1};
        struct cas_hash id;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob(p, "layer", 5, NULL, &layer.blob, &err));
        layer.diff_id = layer.blob;
        ok(cas_publish_object(p, "content", 7, &id, &err));
        ok(cas_publish_drain(p, &err));
        layer.listing = id;
        ok(cas_publish_layer(p, &layer, &(struct cas_listing){0}, &err));
        ok(cas_publish_manifest_link(p, "r", &layer.blob, "t", 5, &err));
        ok(cas_publish_tag(p, "r", "v1", &layer.blob, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(cas_steal(&p));
        teststore_reopen(t);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        ok(cas_object_read(t->store, &id, 100, &out, &err));
        assert_string_equal(cas_buf_str(&out), "content");
        struct cas_digest tagged;
        ok(cas_tag_get(t->store, "r", "v1", &tagged, &err));
        assert_true(cas_digest_equal(&tagged, &layer.blob));
}

struct guard {
        const struct cas_digest *expected; /* NULL: the tag must not be there */
        struct cas_tag_change last;
        int calls;
};

static int guard_tag(void *arg, const struct cas_tag_change *change, struct cas_err *err)
{
        struct guard *g = arg;
        static const struct cas_digest none;
        g->calls++;
        g->last = *change;
        if (cas_digest_equal(&change->before, g->expected ? g->expected : &none))
                return 0;
        return cas_fail(err, CAS_E_DENIED, "not what was expected");
}

static int guarded_tag(struct cas_store *s, struct guard *g, const struct cas_digest *to)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_err err = CAS_ERR_INIT;
        ok(cas_publish_begin(s, &p, &err));
        cas_publish_guard_tags(p, guard_tag, g);
        ok(to ? cas_publish_tag(p, "r", "t", to, &err) : cas_publish_untag(p, "r", "t", &err));
        return cas_publish_commit(p, &err);
}

static void tags_change_under_guard(void **state)
{
        struct teststore *t = *state;
        const struct cas_digest one = test_put_manifest(t->store, "r", NULL, "one");
        const struct cas_digest two = test_put_manifest(t->store, "r", NULL, "two");
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest now;
        struct guard absent = {0}, is_one = {.expected = &one};
        assert_int_equal(guarded_tag(t->store, &is_one, &two), -CAS_E_DENIED);
        assert_int_equal(is_one.last.before.alg, CAS_DIGEST_NONE);
        ok(guarded_tag(t->store, &absent, &one));
        assert_true(cas_digest_equal(&absent.last.after, &one));
        assert_int_equal(guarded_tag(t->store, &absent, &two), -CAS_E_DENIED);
        ok(guarded_tag(t->store, &is_one, &one)); /* changes nothing, and is asked nevertheless */
        assert_int_equal(is_one.calls, 2);
        ok(cas_tag_get(t->store, "r", "t", &now, &err));
        assert_true(cas_digest_equal(&now, &one));
        ok(guarded_tag(t->store, &is_one, &two));
        assert_int_equal(guarded_tag(t->store, &is_one, NULL), -CAS_E_DENIED);

        /* A manifest takes its tags along. */
        struct guard is_two = {.expected = &two};
        for (int refused = 1; refused >= 0; refused--) {
                cas_cleanup_publish struct cas_publish *p = NULL;
                ok(cas_publish_begin(t->store, &p, &err));
                cas_publish_guard_tags(p, guard_tag, refused ? &is_one : &is_two);
                ok(cas_publish_manifest_unlink(p, "r", &two, &err));
                assert_int_equal(cas_publish_commit(p, &err), refused ? -CAS_E_DENIED : 0);
        }
        assert_int_equal(is_two.last.after.alg, CAS_DIGEST_NONE);
        assert_int_equal(cas_tag_get(t->store, "r", "t", &now, &err), -CAS_E_NOTFOUND);
        struct cas_manifest_info info;
        assert_int_equal(cas_manifest_stat(t->store, "r", &two, &info, &err), -CAS_E_NOTFOUND);
}

/* Each moves the tag once from what it saw to its own. */
#define RACERS 8
struct racer {
        struct cas_store *store;
        struct cas_digest mine;
        atomic_int *won;
};

static void *race_tag(void *arg)
{
        struct racer *r = arg;
        struct guard absent = {0};
        if (guarded_tag(r->store, &absent, &r->mine) == 0)
                atomic_fetch_add(r->won, 1);
        return NULL;
}

static void one_of_many_conditional_changes_wins(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct racer racers[RACERS];
        for (int i = 0; i < RACERS; i++) {
                char text[32];
                (void)snprintf(text, sizeof(text), "racer %d", i);
                racers[i].mine = test_put_manifest(t->store, "r", NULL, text);
        }
        for (int round = 0; round < 20; round++) {
                pthread_t threads[RACERS];
                atomic_int won = 0;
                for (int i = 0; i < RACERS; i++) {
                        racers[i].store = t->store;
                        racers[i].won = &won;
                        ok(pthread_create(&threads[i], NULL, race_tag, &racers[i]));
                }
                for (int i = 0; i < RACERS; i++)
                        ok(pthread_join(threads[i], NULL));
                assert_int_equal(won, 1);
                cas_cleanup_publish struct cas_publish *p = NULL;
                ok(cas_publish_begin(t->store, &p, &err));
                ok(cas_publish_untag(p, "r", "t", &err));
                ok(cas_publish_commit(p, &err));
        }
}

static void refuses_bad_names(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest d = test_digest("x");
        ok(cas_publish_begin(t->store, &p, &err));
        assert_int_equal(cas_publish_tag(p, "UPPER", "t", &d, &err), -CAS_E_INVALID);
        assert_int_equal(cas_publish_tag(p, "r", "-t", &d, &err), -CAS_E_INVALID);
        assert_int_equal(cas_publish_blob_link(p, "../etc", &d, &err), -CAS_E_INVALID);
        char media_type[300];
        memset(media_type, 'a', sizeof(media_type));
        media_type[299] = '\0';
        assert_int_equal(cas_publish_manifest_link(p, "r", &d, media_type, 1, &err),
                         -CAS_E_INVALID);
}

/* ---- many at once ---- */

#define THREADS 8
#define ROUNDS 12

struct publisher {
        struct cas_store *store;
        unsigned number;
        pthread_t thread;
};

static void *publish_rounds(void *arg)
{
        const struct publisher *me = arg;
        for (unsigned i = 0; i < ROUNDS; i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_publish *p = NULL;
                struct cas_digest shared, own;
                struct cas_hash id, shared_id;
                char text[64], tag[32];
                int n = snprintf(text, sizeof(text), "own %u %u", me->number, i);
                (void)snprintf(tag, sizeof(tag), "t%u-%u", me->number, i);
                ok(cas_publish_begin(me->store, &p, &err));
                ok(cas_publish_object(p, text, (size_t)n, &id, &err));
                ok(cas_publish_object(p, &i, sizeof(i), &shared_id, &err));
                ok(cas_publish_blob(p, &i, sizeof(i), NULL, &shared, &err));
                ok(cas_publish_blob(p, text, (size_t)n, NULL, &own, &err));
                ok(cas_publish_blob_link(p, "shared", &shared, &err));
                ok(cas_publish_manifest_link(p, "shared", &own, "t", (uint64_t)n, &err));
                ok(cas_publish_tag(p, "shared", tag, &own, &err));
                ok(cas_publish_commit(p, &err));
                if (i % 3 == 2) { /* and some names go again */
                        cas_publish_free(p);
                        ok(cas_publish_begin(me->store, &p, &err));
                        ok(cas_publish_manifest_unlink(p, "shared", &own, &err));
                        ok(cas_publish_commit(p, &err));
                }
                cas_publish_free(p);
        }
        return NULL;
}

static bool count_tag(void *arg, const char *tag CAS_UNUSED, const struct cas_digest *d CAS_UNUSED)
{
        (*(unsigned *)arg)++;
        return true;
}

static void who_brings_a_damaged_blob_heals_it(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_put_blob(t->store, "r", "precious");
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_digest_hex(&d, hex);
        cas_cleanup_free char *path = cas_xasprintf("%s/blobs/sha256/%.2s/%s", t->path, hex, hex);
        for (int cut = 0; cut < 2; cut++) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                ok(cut ? truncate(path, 3) : unlink(path));
                assert_int_not_equal(cas_blob_read(t->store, &d, 100, &out, &err), 0);
                (void)test_put_blob(t->store, "r", "precious");
                ok(cas_blob_read(t->store, &d, 100, &out, &err));
                assert_string_equal(cas_buf_str(&out), "precious");
        }
}

static void many_publish_at_once(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct publisher publishers[THREADS];
        for (unsigned i = 0; i < THREADS; i++) {
                publishers[i] = (struct publisher){.store = t->store, .number = i};
                ok(pthread_create(&publishers[i].thread, NULL, publish_rounds, &publishers[i]));
        }
        for (unsigned i = 0; i < THREADS; i++)
                ok(pthread_join(publishers[i].thread, NULL));
        teststore_reopen(t);
        unsigned tags = 0;
        ok(cas_tag_each(t->store, "shared", NULL, count_tag, &tags, &err));
        assert_int_equal(tags, THREADS * ROUNDS - THREADS * (ROUNDS / 3));
        for (unsigned i = 0; i < ROUNDS; i++) {
                struct cas_digest d;
                cas_digest_of(CAS_DIGEST_SHA256, &i, sizeof(i), &d);
                assert_true(test_has_blob(t->store, &d));
        }
}

/* The journal's sync waits until the test lets it go on. */
static atomic_bool sync_held, sync_waits;
static int held_fdatasync(void *ctx CAS_UNUSED, int fd)
{
        while (atomic_load(&sync_held)) {
                atomic_store(&sync_waits, true);
                (void)usleep(1000);
        }
        return fdatasync(fd);
}

struct linker {
        struct cas_store *store;
        struct cas_digest blob;
        bool links;
};

static void *link_or_unlink(void *arg)
{
        const struct linker *l = arg;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_publish *p = NULL;
        ok(cas_publish_begin(l->store, &p, &err));
        ok((l->links ? cas_publish_blob_link : cas_publish_blob_unlink)(p, "r", &l->blob, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(p);
        return NULL;
}

static void wait_queued(struct cas_store *s, unsigned wanted)
{
        unsigned count = 0;
        while (count != wanted) {
                (void)usleep(1000);
                count = 0;
                cas_mutex_lock(&s->names);
                for (const void *const *c = (const void *const *)s->commit_first; c; c = *c)
                        count++; /* its first member is the next one */
                cas_mutex_unlock(&s->names);
        }
}

/* Commits that wait share a sync, and each is checked against the index: not behind one that takes
 * away what it needs. */
static void a_link_behind_an_unlink_holds(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        const struct cas_io io = {.ops = &ops};
        pthread_t threads[3];
        ops.fdatasync = held_fdatasync;
        t->io = &io;
        teststore_reopen(t);
        struct linker unlinks = {.store = t->store, .blob = test_put_blob(t->store, "r", "bytes")};
        struct linker links = unlinks, first = unlinks;
        first.links = links.links = true;
        first.blob = test_digest("whatever");
        atomic_store(&sync_held, true);
        ok(pthread_create(&threads[0], NULL, link_or_unlink, &first));
        while (!atomic_load(&sync_waits))
                (void)usleep(1000);
        ok(pthread_create(&threads[1], NULL, link_or_unlink, &unlinks));
        wait_queued(t->store, 1);
        ok(pthread_create(&threads[2], NULL, link_or_unlink, &links));
        wait_queued(t->store, 2);
        atomic_store(&sync_held, false);
        for (int i = 0; i < 3; i++)
                ok(pthread_join(threads[i], NULL));
        bool linked;
        ok(cas_blob_linked(t->store, "r", &links.blob, &linked, &err));
        assert_true(linked);
        teststore_close(t);
        t->io = NULL;
        ok(teststore_open(t, &err));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_blob_comes_back),
                TEST(checks_expected_digests),
                TEST(what_is_not_committed_is_not_there),
                TEST(the_same_blob_costs_nothing),
                TEST(who_brings_a_damaged_blob_heals_it),
                TEST(a_damaged_small_blob_is_healed),
                TEST(a_whole_publication_is_there),
                TEST(tags_change_under_guard),
                TEST(one_of_many_conditional_changes_wins),
                TEST(refuses_bad_names),
                TEST(many_publish_at_once),
                TEST(a_link_behind_an_unlink_holds),
        };
        return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
