/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "cas/filler.h"
#include "cas/image.h"
#include "cas/learner_int.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "tests/support/farstore.h"

#define ok(call) assert_int_equal(call, 0)
#define FILES 60
#define LONG_MS 20000

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void expect_file(struct cas_store *s, const struct cas_hash *id, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT, got = CAS_BUF_INIT;
        test_file(seed, &want);
        ok(cas_object_read(s, id, 1 << 26, &got, &err));
        assert_int_equal(got.len_bytes, want.len_bytes);
        assert_memory_equal(got.data, want.data, want.len_bytes);
}

static void collect(void *arg, enum cas_fsck_severity severity CAS_UNUSED, const char *id,
                    const char *subject CAS_UNUSED, const char *message)
{
        cas_buf_printf(arg, "%s ", id);
        if (strcmp(id, "layer-elsewhere") != 0)
                fprintf(stderr, "%s: %s\n", id, message);
}

static void expect_fsck(struct cas_store *s, const char *expected)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        ok(cas_fsck(s, NULL, NULL, collect, &ids, &r, &err));
        assert_string_equal(cas_buf_str(&ids), expected);
        assert_int_equal(r.errors, 0);
        assert_int_equal(r.warnings, 0);
}

static struct cas_elsewhere_progress progress_of(struct cas_store *s, const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_elsewhere_progress p;
        ok(cas_elsewhere_progress(s, &image->layer.blob, &p, &err));
        return p;
}

static void a_file_comes_with_its_neighbours(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct cas_layer_record layer;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        assert_int_equal(cas_layer_stat(t->store, &image.layer.blob, &layer, &err),
                         -CAS_E_NOTFOUND);
        assert_int_equal(cas_blob_stat(t->store, &image.layer.blob, NULL, &err), -CAS_E_NOTFOUND);
        ok(cas_elsewhere_layer(t->store, &image.layer.blob, &layer, &err));
        assert_true(layer.is_elsewhere);
        struct cas_elsewhere_progress p = progress_of(t->store, &image);
        assert_int_equal(p.file_count, FILES);
        assert_int_equal(p.here_count, 0);
        struct cas_hash id = farstore_file(&far, &image, 10);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        expect_file(t->store, &id, 10);
        p = progress_of(t->store, &image);
        assert_true(p.here_count > 1 && p.here_count < FILES / 2);
        assert_int_equal(far.requests, 1);
        /* What came along costs nothing any more. */
        id = farstore_file(&far, &image, 11);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        assert_int_equal(far.requests, 1);
        struct cas_hash unknown = {{1}};
        assert_int_equal(cas_elsewhere_bring(t->store, &unknown, LONG_MS, &err), -CAS_E_NOTFOUND);
        expect_fsck(t->store, "layer-elsewhere ");
        farstore_close(&far);
}

static void completed_it_is_an_ordinary_image(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct cas_layer_record layer;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        ok(cas_layer_ensure(t->store, &image.layer.blob, NULL, &layer, &err));
        assert_int_equal(far.objects, FILES);
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        assert_int_equal(cas_elsewhere_stat(t->store, &image.layer.blob, rec, &err),
                         -CAS_E_NOTFOUND);
        free(rec);
        expect_fsck(t->store, "");
        teststore_reopen(t);
        expect_fsck(t->store, "");
        farstore_close(&far);
}

struct reader {
        struct cas_store *s;
        struct cas_hash id;
        int rc;
};

static void *read_one(void *arg)
{
        struct reader *r = arg;
        struct cas_err err = CAS_ERR_INIT;
        r->rc = cas_elsewhere_bring(r->s, &r->id, LONG_MS, &err);
        return NULL;
}

static void many_readers_fetch_once(void **state)
{
        struct teststore *t = *state;
        struct farstore far;
        struct testimage image;
        struct reader readers[24];
        pthread_t threads[24];
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        far.delay_ms = 50;
        for (unsigned i = 0; i < 24; i++) {
                readers[i] = (struct reader){.s = t->store,
                                             .id = farstore_file(&far, &image, i % 3 * 20)};
                ok(pthread_create(&threads[i], NULL, read_one, &readers[i]));
        }
        for (unsigned i = 0; i < 24; i++) {
                (void)pthread_join(threads[i], NULL);
                assert_int_equal(readers[i].rc, 0);
        }
        assert_true(far.requests <= 3);
        for (unsigned i = 0; i < far.log_count; i++) {
                for (unsigned j = 0; j < i; j++)
                        assert_memory_not_equal(&far.log[i], &far.log[j], sizeof(far.log[i]));
        }
        farstore_close(&far);
}

static void a_slow_source_is_asked_again_later(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        struct cas_hash id = farstore_file(&far, &image, 3);
        far.delay_ms = 300;
        uint64_t start = now_ms();
        assert_int_equal(cas_elsewhere_bring(t->store, &id, 50, &err), -CAS_E_BUSY);
        assert_true(now_ms() - start < 250);
        start = now_ms();
        assert_int_equal(cas_elsewhere_bring(t->store, &id, 50, &err), -CAS_E_BUSY);
        assert_true(now_ms() - start < 40); /* held once only */
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        assert_int_equal(far.requests, 1);
        farstore_close(&far);
}

static void a_dead_source_is_given_up_and_found_again(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        farstore_open(&far, t, 700);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        struct cas_hash id = farstore_file(&far, &image, 3);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        far.dead = true;
        struct cas_hash other = farstore_file(&far, &image, 50);
        uint64_t start = now_ms();
        assert_int_equal(cas_elsewhere_bring(t->store, &other, LONG_MS, &err), -CAS_E_IO);
        uint64_t took = now_ms() - start;
        assert_true(took >= 500 && took < 3000);
        expect_file(t->store, &id, 3);
        /* Now it is known: nobody waits long. */
        unsigned failed = 0;
        start = now_ms();
        for (unsigned i = 0; i < 20; i++) {
                struct cas_hash more = farstore_file(&far, &image, 30 + i);
                failed += cas_elsewhere_bring(t->store, &more, LONG_MS, &err) < 0;
        }
        assert_true(now_ms() - start < 1500);
        assert_int_equal(failed, 20);
        assert_true(far.requests < 20);
        far.dead = false;
        start = now_ms();
        while (cas_elsewhere_bring(t->store, &other, LONG_MS, &err) < 0 && now_ms() - start < 10000)
                (void)usleep(20000);
        expect_file(t->store, &other, 50);
        farstore_close(&far);
}

static void what_a_source_refuses_or_forges_is_an_error_of_that_file_alone(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct cas_layer_record layer;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        far.victim = farstore_file(&far, &image, 12);
        for (unsigned i = 0; i < 2; i++) {
                struct cas_hash id = farstore_file(&far, &image, 10 + i);
                far.lies = i == 0;
                far.misses = i == 1;
                ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err)); /* 12 is a neighbour */
                expect_file(t->store, &id, 10 + i);
        }
        far.lies = true;
        far.misses = false;
        assert_int_equal(cas_elsewhere_bring(t->store, &far.victim, LONG_MS, &err), -CAS_E_IO);
        struct cas_object_info info;
        assert_int_equal(cas_object_stat(t->store, &far.victim, &info, &err), -CAS_E_NOTFOUND);
        assert_true(cas_layer_ensure(t->store, &image.layer.blob, NULL, &layer, &err) < 0);
        assert_int_equal(progress_of(t->store, &image).here_count, FILES - 1);
        assert_non_null(strstr(err.msg, "1 of 60 files"));
        farstore_close(&far);
}

static void collection_keeps_what_images_want(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_gc_options all = {.live_percent_min = 100};
        struct farstore far;
        struct testimage image, gone;
        struct cas_gc_result gc;
        struct cas_hash id, old;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        farstore_image(&far, "other", "1", 1000, FILES, &gone);
        id = farstore_file(&far, &image, 3);
        old = farstore_file(&far, &gone, 3);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        ok(cas_elsewhere_bring(t->store, &old, LONG_MS, &err));
        struct cas_lease lease = {.id = "mount:1", .root = gone.manifest};
        ok(cas_lease_put(t->store, &lease, &err));
        ok(cas_manifest_delete(t->store, "other", NULL, &gone.manifest, NULL, NULL, &err));
        ok(cas_gc(t->store, &all, NULL, &gc, &err));
        expect_file(t->store, &id, 3);
        expect_file(t->store, &old, 1003); /* it is mounted */
        ok(cas_lease_drop(t->store, "mount:1", &err));
        ok(cas_gc(t->store, &all, NULL, &gc, &err));
        expect_file(t->store, &id, 3);
        struct cas_object_info info;
        assert_int_equal(cas_object_stat(t->store, &old, &info, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_elsewhere_bring(t->store, &old, LONG_MS, &err), -CAS_E_NOTFOUND);
        id = farstore_file(&far, &image, 40);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        expect_fsck(t->store, "layer-elsewhere ");
        farstore_close(&far);
}

static bool is_whole_soon(struct cas_store *s, const struct testimage *image)
{
        struct cas_layer_record layer;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t start = now_ms();
        while (now_ms() - start < 15000) {
                if (cas_layer_stat(s, &image->layer.blob, &layer, &err) == 0)
                        return true;
                (void)usleep(10000);
        }
        return false;
}

static void the_background_brings_the_rest_learned_files_first(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct cas_hash ids[3];
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        ids[0] = farstore_file(&far, &image, 57);
        ids[1] = farstore_file(&far, &image, 2);
        ids[2] = farstore_file(&far, &image, 33);
        ok(cas_order_put(t->store, "app", &image.manifest, ids, 3, &err));
        struct cas_filler *filler = cas_filler_start(t->store);
        assert_true(is_whole_soon(t->store, &image));
        cas_filler_stop(filler);
        for (unsigned i = 0; i < 3; i++)
                assert_memory_equal(&far.log[i], &ids[i], sizeof(ids[i]));
        assert_int_equal(far.objects, FILES);
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        expect_fsck(t->store, "");
        farstore_close(&far);
}

/* Who waits while the store is closed asks again, and is answered by the next owner. */
static void readers_outlive_the_end_of_the_owner(void **state)
{
        struct teststore *t = *state;
        struct farstore far;
        struct testimage image;
        struct reader reader = {.s = t->store};
        pthread_t thread;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        reader.id = farstore_file(&far, &image, 3);
        far.dead = true;
        struct cas_filler *filler = cas_filler_start(t->store);
        ok(pthread_create(&thread, NULL, read_one, &reader));
        (void)usleep(100000);
        cas_filler_stop(filler);
        ok(pthread_join(thread, NULL));
        assert_int_equal(reader.rc, -CAS_E_BUSY);
        far.dead = false;
        teststore_reopen(t);
        farstore_wire(&far, LONG_MS);
        reader.s = t->store;
        (void)read_one(&reader);
        ok(reader.rc);
        farstore_close(&far);
}

static void it_goes_on_after_a_restart(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        struct cas_hash id = farstore_file(&far, &image, 3);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        uint64_t before = progress_of(t->store, &image).here_count;
        teststore_reopen(t);
        farstore_wire(&far, LONG_MS);
        assert_int_equal(progress_of(t->store, &image).here_count, before);
        far.dead = true;
        struct cas_filler *filler = cas_filler_start(t->store);
        (void)usleep(200000);
        far.dead = false;
        assert_true(is_whole_soon(t->store, &image));
        cas_filler_stop(filler);
        assert_int_equal(far.objects, FILES);
        farstore_close(&far);
}

static void what_is_read_first_is_learned(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct cas_hash ids[4], *got;
        size_t count;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        for (unsigned i = 0; i < 3; i++)
                ids[i] = farstore_file(&far, &image, 50 - 7 * i);
        ids[3] = (struct cas_hash){{9}};
        cas_order_seen(t->store, &ids[0]); /* before it is watched */
        cas_order_set_watch_ms(t->store, 100);
        cas_order_watch(t->store, "app", &image.manifest);
        cas_order_seen(t->store, &ids[3]);
        for (unsigned i = 0; i < 6; i++)
                cas_order_seen(t->store, &ids[i % 3]);
        cas_learner_tick(t->store);
        ok(cas_order_get(t->store, &image.manifest, &got, &count, 100, &err));
        assert_int_equal(count, 0);
        (void)usleep(150000);
        cas_learner_tick(t->store);
        ok(cas_order_get(t->store, &image.manifest, &got, &count, 100, &err));
        assert_int_equal(count, 3);
        assert_memory_equal(got, ids, 3 * sizeof(ids[0]));
        free(got);
        farstore_close(&far);
}

static void a_blob_that_is_pushed_meanwhile_wins(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image, same;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        ok(testimage_put(t->store, "pushed", "1", 0, FILES, &same, &err));
        cas_elsewhere_changed(t->store);
        struct cas_elsewhere_progress p;
        assert_int_equal(cas_elsewhere_progress(t->store, &image.layer.blob, &p, &err),
                         -CAS_E_NOTFOUND);
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        expect_fsck(t->store, "");
        farstore_close(&far);
}

static void rebuilding_the_index_keeps_it(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct cas_layer_record layer;
        farstore_open(&far, t, LONG_MS);
        farstore_image(&far, "app", "1", 0, FILES, &image);
        struct cas_hash id = farstore_file(&far, &image, 3);
        ok(cas_elsewhere_bring(t->store, &id, LONG_MS, &err));
        teststore_close(t);
        const struct cas_store_config config = {.path = t->path};
        ok(cas_rebuild(&config, NULL, &err));
        ok(teststore_open(t, &err));
        farstore_wire(&far, LONG_MS);
        expect_fsck(t->store, "layer-elsewhere ");
        expect_file(t->store, &id, 3);
        ok(cas_layer_ensure(t->store, &image.layer.blob, NULL, &layer, &err));
        expect_fsck(t->store, "");
        farstore_close(&far);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_file_comes_with_its_neighbours),
                TEST(completed_it_is_an_ordinary_image),
                TEST(many_readers_fetch_once),
                TEST(a_slow_source_is_asked_again_later),
                TEST(a_dead_source_is_given_up_and_found_again),
                TEST(what_a_source_refuses_or_forges_is_an_error_of_that_file_alone),
                TEST(collection_keeps_what_images_want),
                TEST(the_background_brings_the_rest_learned_files_first),
                TEST(it_goes_on_after_a_restart),
                TEST(readers_outlive_the_end_of_the_owner),
                TEST(what_is_read_first_is_learned),
                TEST(a_blob_that_is_pushed_meanwhile_wins),
                TEST(rebuilding_the_index_keeps_it),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
