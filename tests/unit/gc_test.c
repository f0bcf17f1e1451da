/* SPDX-License-Identifier: Apache-2.0 */
/* Collection, case by case: what goes, what waits, what a full run finds, and how runs are counted,
 * paced, stopped and gone on with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "cas/condemned_int.h"
#include "cas/image.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/pack_int.h"
#include "cas/packset_int.h"
#include "cas/pins_int.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"
#include "cas/tree.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define FILES 12
#define MANY 300 /* blobs: several batches */

static struct cas_gc_result collect(struct teststore *t, const struct cas_gc_options *options)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        if (cas_gc(t->store, options, NULL, &r, &err) < 0)
                fail_msg("%s", err.msg);
        return r;
}

static struct cas_gc_result collect_all(struct teststore *t)
{
        return collect(t, &(struct cas_gc_options){.live_percent_min = 50});
}

static struct testimage put(struct teststore *t, const char *repo, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        ok(testimage_put(t->store, repo, "t", seed, FILES, &image, &err));
        return image;
}

static void drop(struct teststore *t, const char *repo, const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(cas_manifest_delete(t->store, repo, NULL, &image->manifest, NULL, NULL, &err));
}

/* Blobs that nothing needs, in one publication. */
static void put_loose_blobs(struct teststore *t, unsigned count)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        for (unsigned i = 0; i < count; i++) {
                char text[32];
                int len = snprintf(text, sizeof(text), "loose %u", i);
                ok(cas_publish_blob(p, text, (size_t)len, NULL, NULL, &err));
        }
        ok(cas_publish_commit(p, &err));
}

static int count_one(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                     struct cas_err *err CAS_UNUSED)
{
        ++*(uint64_t *)arg;
        return 0;
}

static uint64_t count_of(struct teststore *t, enum cas_family family)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t count = 0;
        ok(cas_index_scan(t->store->index, &(struct cas_scan){.family = family}, count_one, &count,
                          &err));
        return count;
}

static void expect_clean(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        ok(cas_fsck(t->store, NULL, NULL, NULL, NULL, &r, &err));
        assert_int_equal(r.errors, 0);
        assert_int_equal(r.warnings, 0);
}

static void expect_empty(struct teststore *t)
{
        static const enum cas_family families[] = {
                CAS_FAMILY_BLOBS,      CAS_FAMILY_OBJECTS,     CAS_FAMILY_CHUNKS,
                CAS_FAMILY_LAYERS,     CAS_FAMILY_NODES,       CAS_FAMILY_TREES,
                CAS_FAMILY_BLOB_REFS,  CAS_FAMILY_OBJECT_REFS, CAS_FAMILY_CHUNK_REFS,
                CAS_FAMILY_BLOB_LINKS, CAS_FAMILY_CONDEMNED,   CAS_FAMILY_PACKS};
        for (size_t i = 0; i < CAS_COUNT(families); i++) {
                if (count_of(t, families[i]) != 0)
                        fail_msg("%s: left over", cas_family_name(families[i]));
        }
        expect_clean(t);
}

/* ---- counting ---- */

static void compare_dry_run(struct teststore *t, bool full)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats before, after;
        const struct testimage gone = put(t, "a", 0), stays = put(t, "b", 6);
        const struct cas_lease old = {
                .id = "over", .root = test_put_blob(t->store, NULL, "leased"), .expires_unix_s = 1};
        (void)test_put_blob(t->store, "a", "linked, and named by nothing");
        put_loose_blobs(t, 300);
        ok(cas_lease_put(t->store, &old, &err));
        drop(t, "a", &gone);
        struct cas_gc_options options = {.full = full, .dry_run = true, .live_percent_min = 99};
        const uint64_t condemned = count_of(t, CAS_FAMILY_CONDEMNED);
        ok(cas_store_stats(t->store, &before, &err));
        const struct cas_gc_result dry = collect(t, &options);
        ok(cas_store_stats(t->store, &after, &err));
        assert_memory_equal(&before, &after, sizeof(before));
        assert_int_equal(count_of(t, CAS_FAMILY_CONDEMNED), condemned);
        options.dry_run = false;
        const struct cas_gc_result r = collect(t, &options);
        assert_int_equal(dry.links_removed, r.links_removed);
        assert_int_equal(dry.blobs_removed, r.blobs_removed);
        assert_int_equal(dry.blob_bytes, r.blob_bytes);
        assert_int_equal(dry.objects_removed, r.objects_removed);
        assert_int_equal(dry.chunks_removed, r.chunks_removed);
        assert_int_equal(dry.layers_removed, r.layers_removed);
        assert_int_equal(dry.packs_removed, r.packs_removed);
        assert_int_equal(dry.packs_rewritten, r.packs_rewritten);
        assert_int_equal(dry.waiting, r.waiting);
        assert_int_equal(dry.full, r.full);
        assert_int_equal(r.blobs_removed, 300 + 3 + 2);
        assert_true(testimage_is_whole(t->store, &stays, 6, FILES));
        expect_clean(t);
}

static void a_dry_run_counts_what_a_run_does(void **state)
{
        compare_dry_run(*state, false);
}

static void a_full_dry_run_does_as_well(void **state)
{
        compare_dry_run(*state, true);
}

/* ---- stopping ---- */

static bool stops_after(void *arg)
{
        unsigned *left = arg;
        return *left == 0 || --*left == 0;
}

static void what_was_stopped_goes_on(void **state)
{
        struct teststore *t = *state;
        const struct testimage gone = put(t, "a", 0);
        unsigned runs = 0;
        uint64_t removed = 0;
        bool stopped = true;
        put_loose_blobs(t, MANY);
        drop(t, "a", &gone);
        teststore_reopen(t);
        for (; stopped; runs++) {
                unsigned left = 3;
                const struct cas_gc_result r = collect(
                        t, &(struct cas_gc_options){.stop = stops_after, .stop_arg = &left});
                removed += r.blobs_removed;
                stopped = r.stopped;
                assert_in_range(runs, 0, 100);
        }
        assert_true(runs > 1);
        assert_int_equal(removed, MANY + 3);
        expect_empty(t);
}

/* Between pages of a family, too. */
static void a_full_run_that_was_stopped_goes_on(void **state)
{
        struct teststore *t = *state;
        unsigned runs = 0;
        (void)put(t, "a", 0);
        bool stopped = true;
        for (; stopped; runs++) {
                unsigned left = 2;
                const struct cas_gc_result r = collect(
                        t, &(struct cas_gc_options){
                                   .full = runs == 0, .stop = stops_after, .stop_arg = &left});
                stopped = r.stopped;
                assert_true(r.full); /* due until it has come to its end */
                assert_in_range(runs, 0, 200);
        }
        assert_true(runs > 3);
        assert_false(collect_all(t).full);
        expect_clean(t);
}

/* ---- full runs ---- */

static int forget(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                  size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        cas_batch_del(arg, CAS_FAMILY_CONDEMNED, key, key_len);
        return 0;
}

/* As if nobody had told. */
static void forget_condemned(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        ok(cas_index_scan(t->store->index, &(struct cas_scan){.family = CAS_FAMILY_CONDEMNED},
                          forget, batch, &err));
        ok(cas_index_write(t->store->index, batch, &err));
}

static void put_file(struct teststore *t, const char *path, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = cas_xstrdup(path);
        *strrchr(dir, '/') = '\0';
        ok(cas_io_replace_file(cas_io_posix(), t->store->dirfd, dir, path, text, strlen(text), 0600,
                               &err));
}

static bool has_file(struct teststore *t, const char *path)
{
        return faccessat(t->store->dirfd, path, F_OK, 0) == 0;
}

/* Objects, of one chunk and of several; nobody names them. */
static void put_loose_objects(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_hash ids[5];
        ok(cas_publish_begin(t->store, &p, &err));
        for (unsigned i = 0; i < 5; i++) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                test_file(500 + i, &bytes); /* the last is large */
                ok(cas_publish_object(p, bytes.data, bytes.len_bytes, &ids[i], &err));
        }
        ok(cas_publish_commit(p, &err));
}

static void a_full_run_finds_what_was_never_noted(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char blob_path[CAS_BLOB_PATH_BYTES];
        const struct testimage gone = put(t, "a", 0), stays = put(t, "b", 40);
        const struct cas_digest nobodys = test_digest("a file that no record tells of");
        const struct cas_hash chunk = {.bytes = {1, 2, 3}};
        struct cas_tree_ref tree, kept;
        struct cas_layer_record layer = gone.layer;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        ok(cas_tree_ensure(t->store, &layer, 1, &tree, &err));
        layer = stays.layer;
        ok(cas_tree_ensure(t->store, &layer, 1, &kept, &err));
        (void)test_put_blob(t->store, NULL, "a blob that nobody needs");
        (void)test_put_blob(t->store, "c", "a link that nobody needs");
        put_loose_objects(t);
        struct cas_chunk_record rec = {.length_bytes = 10, .block_raw_bytes = 10};
        ok(cas_packset_seal(t->store->packset, &err));
        cas_batch_put_chunk(batch, &chunk, &rec);
        ok(cas_index_write(t->store->index, batch, &err));
        drop(t, "a", &gone);
        cas_blob_path(&nobodys, blob_path);
        put_file(t, blob_path, "a file that no record tells of");
        cas_cleanup_free char *tree_path = cas_xasprintf("trees/%064d.erofs", 7);
        put_file(t, tree_path, "nor of this");
        forget_condemned(t);
        const struct cas_gc_result less = collect_all(t);
        assert_int_equal(less.looked_at, 0);
        assert_true(has_file(t, blob_path) && has_file(t, tree_path));
        const struct cas_gc_options full = {.full = true, .live_percent_min = 99};
        const struct cas_gc_result r = collect(t, &full);
        assert_int_equal(r.blobs_removed, 3 + 2);
        assert_int_equal(r.links_removed, 2 + 1); /* of the image, and of the other */
        assert_int_equal(r.trees_removed, 1);
        assert_int_equal(r.objects_removed, FILES + 1 + 5);
        assert_false(has_file(t, blob_path) || has_file(t, tree_path));
        assert_false(cas_index_get_chunk(t->store->index, &chunk, &rec, &err) == 0);
        assert_int_equal(count_of(t, CAS_FAMILY_TREES), 1);
        assert_true(testimage_is_whole(t->store, &stays, 40, FILES));
        expect_clean(t);
        drop(t, "b", &stays);
        forget_condemned(t);
        (void)collect(t, &full);
        expect_empty(t);
}

/* References whose parents have gone. */
static void a_full_run_removes_references_of_nothing(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        const struct cas_digest blob = test_put_blob(t->store, NULL, "kept by what is not there");
        const struct cas_digest manifest = test_digest("not there");
        struct cas_record_key key;
        put_loose_objects(t);
        cas_key_digest(&manifest, &key);
        cas_batch_put_blob_ref(batch, &blob, CAS_BLOB_NAMED, key.bytes, key.len);
        ok(cas_index_write(t->store->index, batch, &err));
        assert_int_equal(collect_all(t).blobs_removed, 0);
        assert_int_equal(collect(t, &(struct cas_gc_options){.full = true, .live_percent_min = 99})
                                 .blobs_removed,
                         1);
        expect_empty(t);
}

/* ---- what waits ---- */

static void the_grace_counts_from_the_last_of_all(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_gc_options graceful = {.grace_s = 2};
        const struct cas_digest linked = test_put_blob(t->store, "up", "a push to come");
        const struct cas_digest other = test_put_blob(t->store, "up", "nobody asks for this");
        const struct cas_digest loose = test_put_blob(t->store, NULL, "linked to nothing");
        bool waits, there;
        ok(cas_blob_waits(t->store, "up", &linked, &waits, &err));
        assert_true(waits);
        assert_int_equal(collect(t, &graceful).waiting, 3);
        (void)sleep(2);
        ok(cas_blob_renew(t->store, "up", &linked, &err));
        struct cas_gc_result r = collect(t, &graceful);
        assert_int_equal(r.links_removed, 1);
        assert_true(test_has_blob(t->store, &linked));
        assert_true(test_has_blob(t->store, &other)); /* condemned only now */
        assert_false(test_has_blob(t->store, &loose));
        ok(cas_blob_linked(t->store, "up", &linked, &there, &err));
        assert_true(there);
        (void)sleep(3);
        r = collect(t, &graceful);
        assert_int_equal(r.links_removed, 1);
        assert_false(test_has_blob(t->store, &other));
        assert_int_equal(collect_all(t).blobs_removed, 1);
        expect_empty(t);
}

static void leases_keep_until_they_are_over(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct testimage image = put(t, "a", 0);
        const struct cas_lease lease = {
                .id = "mount", .root = image.manifest, .expires_unix_s = (uint64_t)time(NULL) + 1};
        ok(cas_lease_put(t->store, &lease, &err));
        drop(t, "a", &image);
        assert_int_equal(collect_all(t).blobs_removed, 0);
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        (void)sleep(3);
        assert_int_equal(collect_all(t).blobs_removed, 3);
        expect_empty(t);
}

static void what_is_pinned_waits(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct testimage image = put(t, "a", 0);
        cas_cleanup_listing struct cas_listing listing = {0};
        ok(cas_layer_listing(t->store, &image.layer, &listing, &err));
        const struct cas_hash file = listing.entries[0].object, big = listing.entries[4].object;
        struct cas_chunk_ref refs[1];
        uint32_t count;
        ok(cas_index_get_object_chunks(t->store->index, &big, 0, refs, 1, &count, &err));
        assert_int_equal(count, 1);
        struct cas_pins *blob_pins = cas_pins_new(t->store), *pins = cas_pins_new(t->store);
        cas_pin_blob(blob_pins, &image.manifest);
        cas_pin_object(pins, &file);
        cas_pin_chunk(pins, &refs[0].chunk);
        drop(t, "a", &image);
        struct cas_gc_result r = collect_all(t);
        assert_int_equal(r.blobs_removed, 0);
        assert_true(r.waiting > 0);
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        cas_pins_free(blob_pins);
        r = collect_all(t);
        assert_int_equal(r.blobs_removed, 3);
        assert_int_equal(r.objects_removed, FILES + 1 - 1);
        assert_int_equal(r.waiting, 2);
        assert_int_equal(count_of(t, CAS_FAMILY_OBJECTS), 1);
        assert_int_equal(count_of(t, CAS_FAMILY_CHUNKS), 2);
        cas_pins_free(pins);
        r = collect_all(t);
        assert_int_equal(r.objects_removed, 1);
        assert_int_equal(r.waiting, 0);
        expect_empty(t);
}

/* ---- runs at a time, and pace ---- */

struct runner {
        struct teststore *t;
        struct cas_gc_options options;
        struct cas_gc_result result;
        struct cas_err err;
        pthread_t thread;
};

static void *run(void *arg)
{
        struct runner *r = arg;
        (void)!cas_gc(r->t->store, &r->options, NULL, &r->result, &r->err);
        return NULL;
}

static void start(struct runner *r)
{
        assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static void await(struct runner *r)
{
        assert_int_equal(pthread_join(r->thread, NULL), 0);
        assert_int_equal(r->err.code, CAS_OK);
}

static void two_runs_share_the_work(void **state)
{
        struct teststore *t = *state;
        struct runner runners[2] = {{.t = t}, {.t = t}};
        put_loose_blobs(t, MANY);
        for (unsigned i = 0; i < 2; i++)
                start(&runners[i]);
        for (unsigned i = 0; i < 2; i++)
                await(&runners[i]);
        const uint64_t removed[] = {runners[0].result.blobs_removed,
                                    runners[1].result.blobs_removed};
        assert_int_equal(removed[0] + removed[1], MANY);
        assert_true(removed[0] == 0 || removed[1] == 0); /* one after the other */
        expect_empty(t);
}

/* The first time, it takes long enough for another run to come. */
static bool tells(void *arg)
{
        if (!atomic_exchange((_Atomic(bool) *)arg, true))
                (void)usleep(500000);
        return false;
}

static void a_slow_run_makes_way(void **state)
{
        struct teststore *t = *state;
        _Atomic(bool) reached = false;
        struct runner slow = {.t = t,
                              .options = {.duty_percent = 1, .stop = tells, .stop_arg = &reached}};
        put_loose_blobs(t, MANY);
        start(&slow);
        while (!atomic_load(&reached))
                (void)usleep(1000);
        const struct cas_gc_result r = collect_all(t);
        await(&slow);
        assert_true(slow.result.stopped);
        assert_false(r.stopped);
        assert_int_equal(slow.result.blobs_removed + r.blobs_removed, MANY);
        expect_empty(t);
}

static double seconds(clockid_t clock)
{
        struct timespec now;
        (void)clock_gettime(clock, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The thread is at work for no more than its share. */
static void a_run_keeps_to_its_share(void **state)
{
        struct teststore *t = *state;
        put_loose_blobs(t, MANY);
        const double began = seconds(CLOCK_MONOTONIC), worked = seconds(CLOCK_THREAD_CPUTIME_ID);
        const struct cas_gc_result r = collect(t, &(struct cas_gc_options){.duty_percent = 20});
        const double took = seconds(CLOCK_MONOTONIC) - began;
        assert_int_equal(r.blobs_removed, MANY);
        assert_true((seconds(CLOCK_THREAD_CPUTIME_ID) - worked) * 2 < took);
        expect_empty(t);
}

/* Each batch is counted once, by how long it kept others out. */
static void waits_are_counted(void **state)
{
        struct teststore *t = *state;
        uint64_t sum = 0;
        put_loose_blobs(t, MANY);
        const struct cas_gc_result r = collect_all(t);
        for (size_t i = 0; i < CAS_GC_WAITS_BUCKETS; i++)
                sum += r.waits[i];
        assert_true(r.batches > 1);
        assert_int_equal(sum, r.batches);
        assert_int_equal(r.blob_bytes > 0 && r.bytes_freed >= r.blob_bytes, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_dry_run_counts_what_a_run_does),
                TEST(a_full_dry_run_does_as_well),
                TEST(what_was_stopped_goes_on),
                TEST(a_full_run_that_was_stopped_goes_on),
                TEST(a_full_run_finds_what_was_never_noted),
                TEST(a_full_run_removes_references_of_nothing),
                TEST(the_grace_counts_from_the_last_of_all),
                TEST(leases_keep_until_they_are_over),
                TEST(what_is_pinned_waits),
                TEST(two_runs_share_the_work),
                TEST(a_slow_run_makes_way),
                TEST(a_run_keeps_to_its_share),
                TEST(waits_are_counted),
        };
        return cmocka_run_group_tests_name("gc", tests, NULL, NULL);
}
