/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/index_int.h"
#include "tests/support/scratch.h"

struct fixture {
        char *dir;
        char *path;
        struct cas_index *ix;
};

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        struct cas_err err = CAS_ERR_INIT;
        f->dir = scratch_new();
        f->path = cas_xasprintf("%s/index", f->dir);
        *state = f;
        return cas_index_open(f->path, true, &f->ix, &err);
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        cas_index_close(f->ix);
        scratch_free(f->dir);
        free(f->path);
        free(f);
        return 0;
}

static void reopen(struct fixture *f)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_index_close(f->ix);
        f->ix = NULL;
        assert_int_equal(cas_index_open(f->path, false, &f->ix, &err), 0);
}

static struct cas_hash hash_of(uint32_t n)
{
        struct cas_hash h;
        cas_sha256(&n, sizeof(n), &h);
        return h;
}

static void keeps_chunks_across_opening(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_chunk_record rec = {.pack_id = UINT64_MAX,
                                             .block_offset = 1234567890123,
                                             .block_stored_bytes = 70000,
                                             .block_raw_bytes = 1 << 20,
                                             .block_checksum = 0x8877665544332211,
                                             .chunk_offset = 300,
                                             .length_bytes = 128,
                                             .codec = 2};
        struct cas_hash here = hash_of(1), gone = hash_of(2);
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_batch_put_chunk(b, &here, &rec);
        cas_batch_put_chunk(b, &gone, &rec);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        assert_int_equal(cas_batch_bytes(b), 0);
        cas_batch_del_chunk(b, &gone);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        reopen(f);
        struct cas_chunk_record got;
        memset(&got, 0, sizeof(got));
        assert_int_equal(cas_index_get_chunk(f->ix, &here, &got, &err), 0);
        assert_true(got.pack_id == rec.pack_id && got.block_offset == rec.block_offset);
        assert_true(got.block_stored_bytes == rec.block_stored_bytes);
        assert_true(got.block_raw_bytes == rec.block_raw_bytes);
        assert_true(got.block_checksum == rec.block_checksum && got.codec == rec.codec);
        assert_true(got.chunk_offset == rec.chunk_offset && got.length_bytes == rec.length_bytes);
        assert_int_equal(cas_index_get_chunk(f->ix, &gone, &got, &err), -CAS_E_NOTFOUND);
}

/* Lists around the size of a page, read from every offset in several strides. */
static void pages_lists_of_chunks(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const uint32_t counts[] = {2, 255, 256, 257, 512, 1000};
        for (size_t k = 0; k < CAS_COUNT(counts); k++) {
                struct cas_hash id = hash_of((uint32_t)(100 + k));
                cas_cleanup_free struct cas_chunk_ref *refs =
                        cas_xcalloc(counts[k], sizeof(refs[0]));
                for (uint32_t i = 0; i < counts[k]; i++)
                        refs[i] = (struct cas_chunk_ref){.chunk = hash_of(i), .length_bytes = i};
                cas_cleanup_batch struct cas_batch *b = cas_batch_new();
                cas_batch_put_object(b, &id, 1 << 30, refs, counts[k]);
                assert_int_equal(cas_index_write(f->ix, b, &err), 0);
                struct cas_object_record rec;
                assert_int_equal(cas_index_get_object(f->ix, &id, &rec, &err), 0);
                assert_int_equal(rec.chunk_count, counts[k]);
                assert_int_equal(rec.size_bytes, 1 << 30);
                for (uint32_t stride = 1; stride <= 300; stride += 299) {
                        uint32_t at = 0, got_count;
                        do {
                                struct cas_chunk_ref got[300];
                                assert_int_equal(cas_index_get_object_chunks(f->ix, &id, at, got,
                                                                             stride, &got_count,
                                                                             &err),
                                                 0);
                                for (uint32_t i = 0; i < got_count; i++) {
                                        assert_int_equal(got[i].length_bytes, at + i);
                                        assert_true(
                                                cas_hash_equal(&got[i].chunk, &refs[at + i].chunk));
                                }
                                at += got_count;
                        } while (got_count > 0);
                        assert_int_equal(at, counts[k]);
                }
                cas_batch_del_object(b, &id, counts[k]);
                assert_int_equal(cas_index_write(f->ix, b, &err), 0);
                uint32_t left;
                struct cas_chunk_ref one;
                assert_int_equal(cas_index_get_object_chunks(f->ix, &id, 0, &one, 1, &left, &err),
                                 0);
                assert_int_equal(left, 0);
                assert_int_equal(cas_index_get_object(f->ix, &id, &rec, &err), -CAS_E_NOTFOUND);
        }
}

struct seen {
        char text[256];
};

static int see(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
               size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        struct seen *seen = arg;
        size_t at = strlen(seen->text);
        (void)snprintf(seen->text + at, sizeof(seen->text) - at, "%.*s ", (int)key_len,
                       (const char *)key);
        return key_len == 4 ? 1 : 0;
}

static void scans_one_family_in_order(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const char *const keys[] = {"b", "ab", "a", "abc", "c"};
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        for (size_t i = 0; i < CAS_COUNT(keys); i++) {
                cas_batch_put(b, CAS_FAMILY_TAGS, keys[i], strlen(keys[i]), "x", 1);
                cas_batch_put(b, CAS_FAMILY_LEASES, "other", 5, "x", 1);
                cas_batch_put(b, CAS_FAMILY_REFERRERS, "other", 5, "x", 1);
        }
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        static const struct {
                struct cas_scan scan;
                const char *expected;
        } cases[] = {
                {{.family = CAS_FAMILY_TAGS}, "a ab abc b c "},
                {{.family = CAS_FAMILY_TAGS, .prefix = "a", .prefix_len = 1}, "a ab abc "},
                {{.family = CAS_FAMILY_TAGS, .from = "ac", .from_len = 2}, "b c "},
                {{.family = CAS_FAMILY_TAGS,
                  .prefix = "a",
                  .prefix_len = 1,
                  .from = "ab",
                  .from_len = 2},
                 "ab abc "},
                {{.family = CAS_FAMILY_TAGS,
                  .prefix = "b",
                  .prefix_len = 1,
                  .from = "a",
                  .from_len = 1},
                 "b "},
                {{.family = CAS_FAMILY_BLOB_LINKS}, ""},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct seen seen = {{0}};
                assert_int_equal(cas_index_scan(f->ix, &cases[i].scan, see, &seen, &err), 0);
                assert_string_equal(seen.text, cases[i].expected);
        }
}

static bool count_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        uint64_t *sum = arg;
        *sum += pack_id + (rec->sealed ? rec->size_bytes : 0);
        return true;
}

static void lists_packs(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_batch_put_pack(b, 1, &(struct cas_pack_record){.size_bytes = 77});
        cas_batch_put_pack(
                b, 300,
                &(struct cas_pack_record){
                        .sealed = true, .tier = 3, .size_bytes = 5000, .sha256 = hash_of(9)});
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        uint64_t sum = 0;
        assert_int_equal(cas_index_each_pack(f->ix, count_pack, &sum, &err), 0);
        assert_int_equal(sum, 5301);
        struct cas_pack_record rec;
        assert_int_equal(cas_index_get_pack(f->ix, 300, &rec, &err), 0);
        struct cas_hash sha256 = hash_of(9);
        assert_true(rec.sealed && rec.tier == 3 && cas_hash_equal(&rec.sha256, &sha256));
}

static void says_what_is_wrong_with_an_index(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *absent = cas_xasprintf("%s/none", f->dir);
        struct cas_index *ix = NULL;
        assert_int_equal(cas_index_open(absent, false, &ix, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_index_open(f->path, false, &ix, &err), -CAS_E_BUSY);
        struct cas_hash h = hash_of(1);
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_batch_put(b, CAS_FAMILY_CHUNKS, h.bytes, CAS_HASH_BYTES, "\x01torn", 5);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        struct cas_chunk_record rec;
        assert_int_equal(cas_index_get_chunk(f->ix, &h, &rec, &err), -CAS_E_CORRUPT);
}

static void put_pack(struct cas_batch *b, uint64_t bytes, bool sealed)
{
        const struct cas_pack_record rec = {.tier = 3, .sealed = sealed, .size_bytes = bytes};
        cas_batch_put_pack(b, 7, &rec);
}

static void expect_pack(struct fixture *f, uint64_t bytes, bool sealed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_record rec;
        assert_int_equal(cas_index_get_pack(f->ix, 7, &rec, &err), 0);
        assert_int_equal(rec.size_bytes, bytes);
        assert_int_equal(rec.sealed, sealed);
}

/* Publications that share a pack may write what they know of it in another order. */
static void packs_do_not_shrink(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_cleanup_batch struct cas_batch *other = cas_batch_new();
        put_pack(b, 2000, false);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        put_pack(b, 1000, false);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        expect_pack(f, 2000, false);
        /* Both in one batch. */
        put_pack(b, 5000, false);
        put_pack(other, 4000, false);
        cas_batch_join(b, other);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        expect_pack(f, 5000, false);
        /* Sealed is last. */
        put_pack(b, 6000, true);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        put_pack(b, 6000, false);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        expect_pack(f, 6000, true);
        reopen(f);
        expect_pack(f, 6000, true);
        /* One that was removed starts anew. */
        cas_batch_del_pack(b, 7);
        put_pack(b, 10, false);
        assert_int_equal(cas_index_write(f->ix, b, &err), 0);
        expect_pack(f, 10, false);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(keeps_chunks_across_opening, setup, teardown),
                cmocka_unit_test_setup_teardown(pages_lists_of_chunks, setup, teardown),
                cmocka_unit_test_setup_teardown(scans_one_family_in_order, setup, teardown),
                cmocka_unit_test_setup_teardown(lists_packs, setup, teardown),
                cmocka_unit_test_setup_teardown(says_what_is_wrong_with_an_index, setup, teardown),
                cmocka_unit_test_setup_teardown(packs_do_not_shrink, setup, teardown),
        };
        return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
