/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/codec.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/packset_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 12

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

static void say(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                const char *message)
{
        if (severity == CAS_FSCK_ERROR)
                print_error("%s %s: %s\n", id, subject, message);
        cas_buf_printf(arg, "%s ", severity == CAS_FSCK_ERROR ? id : "");
}

static void expect_no_errors(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        ok(cas_fsck(t->store, NULL, NULL, say, &ids, &r, &err));
        assert_int_equal(r.errors, 0);
}

struct packs {
        unsigned count, by_density[3];
        uint64_t bytes;
};

static bool count_pack(void *arg, uint64_t pack_id CAS_UNUSED, const struct cas_pack_record *rec)
{
        struct packs *packs = arg;
        packs->count++;
        packs->by_density[rec->density]++;
        packs->bytes += rec->size_bytes;
        return true;
}

static struct packs packs_of(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct packs packs = {0};
        ok(cas_index_each_pack(t->store->index, count_pack, &packs, &err));
        return packs;
}

static struct testimage put(struct teststore *t, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        cas_cleanup_free char *tag = cas_xasprintf("t%u", seed);
        ok(testimage_put(t->store, "r", tag, seed, FILES, &image, &err));
        return image;
}

static struct cas_recode_result recode(struct teststore *t, enum cas_condense_codec codec)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result r;
        ok(cas_condense_packs(t->store, codec, NULL, NULL, &r, &err));
        return r;
}

/* Every chunk lies in a block of zstd, or in one that does not compress. */
static int check_chunk(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_chunk_record rec;
        uint32_t *largest = arg;
        int rc = cas_chunk_record_decode(value, value_len, &rec, err);
        assert_int_not_equal(rec.codec, CAS_CODEC_LZ4);
        if (rec.block_raw_bytes > *largest)
                *largest = rec.block_raw_bytes;
        return rc;
}

static uint32_t largest_block(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        uint32_t largest = 0;
        ok(cas_index_scan(t->store->index, &(struct cas_scan){.family = CAS_FAMILY_CHUNKS},
                          check_chunk, &largest, &err));
        return largest;
}

static void packs_become_denser(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage a = put(t, 0), b = put(t, 40);
        ok(cas_packset_seal(t->store->packset, &err));
        struct testimage c = put(t, 80);
        struct packs before = packs_of(t);
        struct cas_recode_result r = recode(t, CAS_CONDENSE_DEFAULT);
        struct packs after = packs_of(t);
        assert_int_equal(r.packs, before.count);
        assert_int_equal(r.bytes_before, before.bytes);
        assert_int_equal(after.by_density[CAS_PACK_FAST], 0);
        assert_true(after.bytes < before.bytes);
        assert_in_range(largest_block(t), CAS_MIB, CAS_MIB + CAS_CHUNK_BYTES_MAX);
        expect_no_errors(t);
        assert_true(testimage_is_whole(t->store, &a, 0, FILES));
        /* Nothing is left to do; what is new goes to a pack of its own. */
        assert_int_equal(recode(t, CAS_CONDENSE_DEFAULT).packs, 0);
        struct testimage d = put(t, 120);
        assert_int_equal(packs_of(t).by_density[CAS_PACK_FAST], 1);
        teststore_reopen(t);
        assert_int_equal(recode(t, CAS_CONDENSE_DEFAULT).packs, 1);
        assert_int_equal(packs_of(t).by_density[CAS_PACK_DEFAULT],
                         after.by_density[CAS_PACK_DEFAULT]);
        /* Colder still, and not back again. */
        assert_true(recode(t, CAS_CONDENSE_COLD).packs > 0);
        assert_int_equal(recode(t, CAS_CONDENSE_DEFAULT).packs, 0);
        assert_int_equal(packs_of(t).by_density[CAS_PACK_COLD], packs_of(t).count);
        assert_true(largest_block(t) > 2 * CAS_MIB);
        expect_no_errors(t);
        assert_true(testimage_is_whole(t->store, &b, 40, FILES));
        assert_true(testimage_is_whole(t->store, &c, 80, FILES));
        assert_true(testimage_is_whole(t->store, &d, 120, FILES));
}

/* The index can be made again from what recoding wrote. */
static void recoded_packs_rebuild(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage a = put(t, 0), b = put(t, 40);
        (void)recode(t, CAS_CONDENSE_DEFAULT);
        const struct cas_store_config config = {.path = t->path};
        teststore_close(t);
        ok(cas_rebuild(&config, NULL, &err));
        teststore_reopen(t);
        expect_no_errors(t);
        assert_true(testimage_is_whole(t->store, &a, 0, FILES));
        assert_true(testimage_is_whole(t->store, &b, 40, FILES));
        assert_int_equal(recode(t, CAS_CONDENSE_DEFAULT).packs, 0);
}

static void what_is_dead_goes(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result gc;
        const struct cas_gc_options options = {.live_percent_min = 1};
        struct testimage gone = put(t, 0), stays = put(t, 40);
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", &gone.manifest, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(cas_steal(&p));
        /* Collected, but its pack is not thin enough to be rewritten. */
        ok(cas_gc(t->store, &options, NULL, &gc, &err));
        assert_int_equal(gc.packs_rewritten, 0);
        struct packs before = packs_of(t);
        (void)recode(t, CAS_CONDENSE_DEFAULT);
        assert_true(packs_of(t).bytes < before.bytes * 3 / 5);
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        struct cas_fsck_result r;
        ok(cas_fsck(t->store, NULL, NULL, say, &ids, &r, &err));
        assert_int_equal(r.errors + r.warnings, 0);
        assert_true(testimage_is_whole(t->store, &stays, 40, FILES));
}

/* A dense pack that is thinned out stays small, and is made dense again. */
static void collection_thins_dense_packs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result gc;
        const struct cas_gc_options options = {.live_percent_min = 95};
        struct testimage gone = put(t, 0), stays = put(t, 40);
        (void)recode(t, CAS_CONDENSE_COLD);
        struct packs before = packs_of(t);
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", &gone.manifest, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(cas_steal(&p));
        ok(cas_gc(t->store, &options, NULL, &gc, &err));
        assert_int_equal(gc.packs_rewritten, 1);
        assert_true(packs_of(t).bytes < before.bytes * 3 / 5);
        (void)largest_block(t);                                  /* no lz4 */
        assert_int_equal(recode(t, CAS_CONDENSE_COLD).packs, 0); /* as dense as it was */
        expect_no_errors(t);
        assert_true(testimage_is_whole(t->store, &stays, 40, FILES));
}

static void a_stop_keeps_what_is_done(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result r;
        _Atomic(bool) stop = true;
        struct testimage a = put(t, 0);
        ok(cas_condense_packs(t->store, CAS_CONDENSE_DEFAULT, &stop, NULL, &r, &err));
        assert_int_equal(r.packs, 0);
        expect_no_errors(t);
        stop = false;
        ok(cas_condense_packs(t->store, CAS_CONDENSE_DEFAULT, &stop, NULL, &r, &err));
        assert_int_equal(r.packs, 1);
        assert_true(testimage_is_whole(t->store, &a, 0, FILES));
}

/* Whoever counts on a chunk that is not in the index yet keeps its pack. */
static void packs_in_use_stay(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT, got = CAS_BUF_INIT;
        struct cas_hash id;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct testimage a = put(t, 0);
        ok(cas_publish_begin(t->store, &p, &err));
        test_file(4, &bytes);
        bytes.data[0] ^= 1;
        ok(cas_publish_object(p, bytes.data, bytes.len_bytes, &id, &err));
        ok(cas_publish_drain(p, &err));
        assert_int_equal(recode(t, CAS_CONDENSE_DEFAULT).packs, 0);
        ok(cas_publish_commit(p, &err));
        cas_publish_free(cas_steal(&p));
        assert_int_equal(recode(t, CAS_CONDENSE_DEFAULT).packs, 1);
        ok(cas_object_read(t->store, &id, 1 << 20, &got, &err));
        assert_int_equal(got.len_bytes, bytes.len_bytes);
        assert_true(testimage_is_whole(t->store, &a, 0, FILES));
}

static void damage_stays_where_it_is(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_record rec;
        struct cas_chunk_record chunk;
        cas_cleanup_listing struct cas_listing listing = {0};
        struct testimage a = put(t, 0);
        ok(cas_packset_seal(t->store->packset, &err));
        ok(cas_layer_listing(t->store, &a.layer, &listing, &err));
        ok(cas_index_get_chunk(t->store->index, &listing.entries[0].object, &chunk, &err));
        ok(cas_index_get_pack(t->store->index, chunk.pack_id, &rec, &err));
        cas_cleanup_free char *path =
                cas_xasprintf("%s/packs/%016llx.pack", t->path, (unsigned long long)chunk.pack_id);
        FILE *f = fopen(path, "r+");
        assert_non_null(f);
        assert_int_equal(fseek(f, (long)chunk.block_offset + 10, SEEK_SET), 0);
        assert_int_equal(fwrite("damage", 1, 6, f), 6);
        assert_int_equal(fclose(f), 0);
        struct testimage b = put(t, 40);
        struct cas_recode_result r = recode(t, CAS_CONDENSE_DEFAULT);
        assert_int_equal(r.damaged, 1);
        assert_int_equal(r.packs, 1);
        ok(cas_index_get_pack(t->store->index, chunk.pack_id, &rec, &err));
        assert_true(testimage_is_whole(t->store, &b, 40, FILES));
}

/* ---- beside others ---- */

struct traffic {
        struct teststore *t;
        _Atomic(bool) stop;
        unsigned seed;
        unsigned images;
};

static void *push_images(void *arg)
{
        struct traffic *traffic = arg;
        struct cas_err err = CAS_ERR_INIT;
        while (!traffic->stop && traffic->images < 12) {
                struct testimage image;
                unsigned seed = traffic->seed + traffic->images * 3;
                cas_cleanup_free char *tag = cas_xasprintf("p%u", seed);
                ok(testimage_put(traffic->t->store, "r", tag, seed, FILES, &image, &err));
                assert_true(testimage_is_whole(traffic->t->store, &image, seed, FILES));
                traffic->images++;
        }
        return NULL;
}

static void *collect_garbage(void *arg)
{
        struct traffic *traffic = arg;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        const struct cas_gc_options options = {.live_percent_min = 60, .grace_s = 3600};
        while (!traffic->stop)
                ok(cas_gc(traffic->t->store, &options, NULL, &r, &err));
        return NULL;
}

static void everything_goes_on_meanwhile(void **state)
{
        struct teststore *t = *state;
        struct testimage a = put(t, 0);
        struct traffic pushes[2] = {{.t = t, .seed = 100}, {.t = t, .seed = 120}};
        struct traffic gc = {.t = t};
        pthread_t threads[3];
        assert_int_equal(pthread_create(&threads[0], NULL, push_images, &pushes[0]), 0);
        assert_int_equal(pthread_create(&threads[1], NULL, push_images, &pushes[1]), 0);
        assert_int_equal(pthread_create(&threads[2], NULL, collect_garbage, &gc), 0);
        for (int i = 0; i < 8; i++) {
                (void)recode(t, i % 2 ? CAS_CONDENSE_COLD : CAS_CONDENSE_DEFAULT);
                assert_true(testimage_is_whole(t->store, &a, 0, FILES));
        }
        for (int i = 0; i < 2; i++)
                (void)pthread_join(threads[i], NULL);
        gc.stop = true;
        (void)pthread_join(threads[2], NULL);
        (void)recode(t, CAS_CONDENSE_DEFAULT);
        assert_int_equal(packs_of(t).by_density[CAS_PACK_FAST], 0);
        expect_no_errors(t);
        for (int i = 0; i < 2; i++) {
                for (unsigned n = 0; n < pushes[i].images; n++) {
                        struct testimage image;
                        unsigned seed = pushes[i].seed + n * 3;
                        struct cas_err err = CAS_ERR_INIT;
                        ok(testimage_put(t->store, "r", NULL, seed, FILES, &image, &err));
                        assert_true(testimage_is_whole(t->store, &image, seed, FILES));
                }
        }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(packs_become_denser),       TEST(recoded_packs_rebuild),
                TEST(what_is_dead_goes),         TEST(collection_thins_dense_packs),
                TEST(a_stop_keeps_what_is_done), TEST(packs_in_use_stay),
                TEST(damage_stays_where_it_is),  TEST(everything_goes_on_meanwhile),
        };
        return cmocka_run_group_tests_name("recode", tests, NULL, NULL);
}
