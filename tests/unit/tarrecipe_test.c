/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a stream is, it comes back byte for byte, from any offset; what is a tar costs little.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/layer.h"
#include "cas/tarrecipe_int.h"
#include "cas/tar_int.h"
#include "tests/support/deflatesample.h"
#include "tests/support/memsource.h"
#include "tests/support/packs.h"
#include "tests/support/tarmake.h"
#include "tests/support/teststore.h"

/* One stream in a store, and what its recipe costs. */
struct fixture {
        struct cas_store *store;
        struct cas_recipe_writer writer;
        struct cas_recipe *recipe;
        struct cas_tarrecipe_stats stats;
        bool has_listing; /* it could be decoded as a layer */
};

static void make(struct fixture *f, struct cas_store *s, const struct cas_buf *tar, size_t step,
                 bool decode)
{
        static const struct cas_recipe_mark first = {0};
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_layer_record layer;
        struct memsource blob = {.data = tar->data, .len = tar->len_bytes, .step = SIZE_MAX};
        struct memsource source = {.data = tar->data, .len = tar->len_bytes, .step = step};
        *f = (struct fixture){.store = s};
        f->has_listing = decode && cas_layer_import(s, memsource_read, &blob, NULL, NULL, &layer,
                                                    &reason) == 0;
        cas_recipe_writer_init(&f->writer, s);
        test_ok(cas_tarrecipe_make(s, f->has_listing ? &layer.listing : NULL, memsource_read,
                                   &source, &f->writer, &f->stats, err));
        f->writer.head.blob_bytes = f->writer.head.tar_bytes;
        test_ok(cas_recipe_writer_mark(&f->writer, &first, err));
        test_ok(cas_recipe_open_writer(&f->writer, &f->recipe, err));
}

static void release(struct fixture *f)
{
        cas_recipe_close(f->recipe);
        cas_recipe_writer_release(&f->writer);
}
#define cleanup_fixture __attribute__((cleanup(release)))

/* The stream from `offset` on, read in pieces of up to `step`, at most `max` bytes of it. */
static void check_from(struct fixture *f, const struct cas_buf *tar, uint64_t offset, size_t step,
                       size_t max)
{
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = NULL;
        cas_cleanup_free uint8_t *buf = cas_xmalloc(step);
        size_t n = 1;
        test_ok(cas_tarrecipe_open(f->recipe, offset, &t, err));
        for (uint64_t at = offset; n > 0 && at < offset + max; at += n) {
                test_ok(cas_tarrecipe_read(t, buf, step, &n, err));
                assert_true(n <= tar->len_bytes - at);
                if (n > 0)
                        assert_memory_equal(buf, tar->data + at, n);
                else
                        assert_int_equal(at, tar->len_bytes);
        }
}

static void check(struct fixture *f, const struct cas_buf *tar)
{
        struct test_random r = {tar->len_bytes};
        assert_int_equal(f->stats.tar_bytes, tar->len_bytes);
        assert_int_equal(cas_recipe_head(f->recipe)->tar_bytes, tar->len_bytes);
        check_from(f, tar, 0, 1000, SIZE_MAX);
        check_from(f, tar, 0, 1 << 20, SIZE_MAX);
        check_from(f, tar, tar->len_bytes, 10, SIZE_MAX);
        for (unsigned i = 0; i < 30; i++)
                check_from(f, tar, test_random_next(&r) % (tar->len_bytes + 1), 3000, 20000);
}

/* There and back, decoded as a layer before or not, fed in large and in odd pieces. */
static void check_stream(struct cas_store *s, const struct cas_buf *tar)
{
        for (unsigned i = 0; i < 4; i++) {
                cleanup_fixture struct fixture f;
                make(&f, s, tar, i & 1 ? 777 : SIZE_MAX, i & 2);
                check(&f, tar);
        }
}

static uint64_t recipe_bytes(const struct fixture *f)
{
        uint64_t bytes = 0;
        for (unsigned i = 0; i < CAS_RECIPE_MARKS; i++)
                bytes += cas_recipe_head(f->recipe)->section_bytes[i];
        return bytes;
}

static void put_file(struct cas_buf *tar, const char *name, unsigned seed, size_t len)
{
        struct tarmake h = {.name = name, .size = len, .mode = 0644, .mtime = 1700000000};
        cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_BINARY, seed, len, &content);
        tarmake_header(tar, &h);
        tarmake_data(tar, content.data, len);
}

static void layers_cost_little(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        char name[40];
        uint64_t content = 0;
        for (unsigned i = 0; i < 300; i++) {
                size_t len = i % 7 == 0 ? i % 65 : 100 + (size_t)i * 97;
                (void)snprintf(name, sizeof(name), "dir/file-%03u", i);
                put_file(&tar, name, i, len);
                content += len;
        }
        tarmake_end(&tar);
        cas_buf_append_zero(&tar, 8192);
        check_stream(t->store, &tar);
        cleanup_fixture struct fixture f;
        make(&f, t->store, &tar, SIZE_MAX, true);
        assert_true(f.has_listing);
        assert_int_equal(f.stats.object_bytes, content);
        assert_true(f.stats.own_bytes <= 200); /* the first header, and the first after each seek */
        assert_true(recipe_bytes(&f) <= 300 * 5 + 1000);
}

/* Without a listing, objects that are in the store anyway are found by digest, each named once. */
static void objects_are_found_without_a_listing(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cleanup_fixture struct fixture f, known;
        for (unsigned i = 0; i < 40; i++)
                put_file(&tar, "same", i % 4, 20000 + i % 4);
        tarmake_end(&tar);
        make(&f, t->store, &tar, SIZE_MAX, false);
        assert_int_equal(f.stats.object_refs, 0);
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT;
                cas_cleanup_publish struct cas_publish *p = NULL;
                struct cas_hash id;
                deflate_sample(DEFLATE_SAMPLE_BINARY, i, 20000 + i, &content);
                test_ok(cas_publish_begin(t->store, &p, err));
                test_ok(cas_publish_object(p, content.data, content.len_bytes, &id, err));
                test_ok(cas_publish_commit(p, err));
        }
        make(&known, t->store, &tar, SIZE_MAX, false);
        assert_int_equal(known.stats.object_refs, 40);
        assert_int_equal(cas_recipe_head(known.recipe)->section_bytes[CAS_RECIPE_TAR_OBJECTS],
                         5 * 32);
        check(&known, &tar);
        check(&f, &tar);
}

/* ---- odd streams ---- */

static void no_tar_at_all(void **state)
{
        struct teststore *t = *state;
        static const size_t lengths[] = {0, 1, 511, 512, 513, 70000, 300000};
        for (unsigned kind = 0; kind < DEFLATE_SAMPLE_COUNT; kind++)
                for (unsigned i = 0; i < CAS_COUNT(lengths); i++) {
                        cas_cleanup_buf struct cas_buf data = CAS_BUF_INIT;
                        deflate_sample(kind, i, lengths[i], &data);
                        check_stream(t->store, &data);
                }
}

/* A tar with something of everything. */
static void make_rich(struct cas_buf *tar)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        char name[200];
        memset(name, 'n', 150);
        name[150] = '\0';
        tarmake_header(tar, &(struct tarmake){.name = "./", .type = '5', .mode = 0755});
        put_file(tar, "./a", 1, 1000);
        put_file(tar, "b", 2, 300000);
        tarmake_extension(tar, 'L', name, 151);
        put_file(tar, "nnn", 3, 4096);
        tarmake_record(&text, "path", "c/long/name", 11);
        tarmake_record(&text, "mtime", "1700000000.123456789", 20);
        tarmake_record(&text, "SCHILY.xattr.user.x", "value", 5);
        tarmake_extension(tar, 'x', text.data, text.len_bytes);
        put_file(tar, "short", 4, 100);
        tarmake_header(tar, &(struct tarmake){.name = "link", .type = '2', .link = "a"});
        tarmake_header(tar, &(struct tarmake){.name = "hard", .type = '1', .link = "a"});
        tarmake_file(tar, "inline", "a few bytes");
        tarmake_file(tar, "empty", "");
        put_file(tar, "./a", 5, 2000); /* replaces the first */
        put_file(tar, "copy-of-b", 2, 300000);
        put_file(tar, "b", 2, 300001);
        tarmake_header(tar, &(struct tarmake){.name = "null", .type = '3', .major = 1, .minor = 3});
        tarmake_file(tar, ".wh.gone", "");
        tarmake_end(tar);
}

static void rich_tars(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        make_rich(&tar);
        check_stream(t->store, &tar);
        cleanup_fixture struct fixture f;
        make(&f, t->store, &tar, SIZE_MAX, true);
        assert_true(f.has_listing);
        assert_true(f.stats.own_bytes < 4000);
}

/* Of a large file that was replaced by one of the same length, as much as is equal. */
static void large_files_that_differ_later(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        put_file(&tar, "large", 8, 2000000);
        put_file(&tar, "large", 8, 2000000);
        tarmake_end(&tar);
        tar.data[512 + 1500000] ^= 1;
        check_stream(t->store, &tar);
        cleanup_fixture struct fixture f;
        make(&f, t->store, &tar, SIZE_MAX, true);
        assert_int_equal(f.stats.object_bytes, 1500000 + 2000000);
        assert_true(f.stats.own_bytes >= 500000 && f.stats.own_bytes < 500000 + 100);
}

static void truncated_tars(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf whole = CAS_BUF_INIT;
        make_rich(&whole);
        for (size_t len = 0; len < whole.len_bytes; len += len < 20000 ? 300 : 40000) {
                struct cas_buf tar = {.data = whole.data, .len_bytes = len};
                check_stream(t->store, &tar);
        }
}

static void damaged_tars(void **state)
{
        struct teststore *t = *state;
        struct test_random r = {9};
        cas_cleanup_buf struct cas_buf whole = CAS_BUF_INIT;
        make_rich(&whole);
        for (unsigned i = 0; i < 60; i++) {
                cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                cleanup_fixture struct fixture f;
                cas_buf_append(&tar, whole.data, whole.len_bytes);
                for (unsigned j = 0; j <= i % 8; j++) {
                        uint8_t *block =
                                tar.data + test_random_next(&r) % (tar.len_bytes / 512) * 512;
                        block[test_random_next(&r) % 512] ^= (uint8_t)test_random_next(&r);
                        if (memcmp(block + 257, "ustar", 5) == 0 && j % 2)
                                tarmake_checksum(block);
                }
                make(&f, t->store, &tar, SIZE_MAX, true);
                check(&f, &tar);
        }
}

static void contradictory_sizes(void **state)
{
        struct teststore *t = *state;
        static const uint64_t sizes[] = {0, 1, 511, 100000, UINT64_C(1) << 33};
        static const char types[] = "0127SxgLKVD5";
        for (unsigned i = 0; i < CAS_COUNT(sizes); i++)
                for (unsigned j = 0; j < sizeof(types) - 1; j++) {
                        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                        cas_cleanup_buf struct cas_buf data = CAS_BUF_INIT;
                        struct tarmake h = {.name = "x", .type = types[j], .size = sizes[i]};
                        deflate_sample(DEFLATE_SAMPLE_TEXT, i, 3000, &data);
                        tarmake_file(&tar, "before",
                                     "something that is longer than the others are");
                        tarmake_header(&tar, &h);
                        tarmake_data(&tar, data.data, data.len_bytes);
                        tarmake_pax(&tar, "size", "700");
                        put_file(&tar, "after", 1, 700);
                        tarmake_pax(&tar, "size", "99999999999999999999999");
                        put_file(&tar, "last", 1, 700);
                        tarmake_end(&tar);
                        check_stream(t->store, &tar);
                }
}

static void archives_in_a_row_and_junk(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cleanup_fixture struct fixture f;
        make_rich(&tar);
        cas_buf_append_zero(&tar, 10240);
        make_rich(&tar);
        deflate_sample(DEFLATE_SAMPLE_RANDOM, 1, 5120 + 33, &tar);
        make_rich(&tar); /* not on a multiple of 512 */
        cas_buf_append_str(&tar, "junk");
        check_stream(t->store, &tar);
        make(&f, t->store, &tar, SIZE_MAX, true);
        assert_true(f.has_listing);
        assert_true(f.stats.object_bytes > 2 * 900000);
}

static void padding_that_is_not_zero(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        static const size_t lengths[] = {1, 64, 65, 100, 511, 300001};
        for (unsigned i = 0; i < CAS_COUNT(lengths); i++) {
                char name[8];
                (void)snprintf(name, sizeof(name), "f%u", i);
                put_file(&tar, name, i, lengths[i]);
                tar.data[tar.len_bytes - 1] = 'x';
        }
        tarmake_end(&tar);
        check_stream(t->store, &tar);
}

/* Sparse files of every kind that tar writes, of 100,000 bytes with regions at 4096 and 50,000:
 * what is stored of them are pieces of the expanded file. */
static void sparse_files(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, data = CAS_BUF_INIT, text = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf mapped = CAS_BUF_INIT;
        uint8_t old[109] = {0};
        deflate_sample(DEFLATE_SAMPLE_BINARY, 1, 10600, &data);
        (void)snprintf((char *)old, 48, "%011o%c%011o%c%011o%c%011o", 4096, 0, 600, 0, 50000, 0,
                       10000);
        (void)snprintf((char *)old + 97, 12, "%011o", 100000);
        tarmake_header(&tar, &(struct tarmake){.name = "old",
                                               .type = 'S',
                                               .size = 10600,
                                               .magic = "ustar  ",
                                               .patch_at = 386,
                                               .patch_bytes = sizeof(old),
                                               .patch = old});
        tarmake_data(&tar, data.data, 10600);

        tarmake_record(&text, "GNU.sparse.size", "100000", 6);
        tarmake_record(&text, "GNU.sparse.map", "4096,600,50000,10000", 20);
        tarmake_extension(&tar, 'x', text.data, text.len_bytes);
        tarmake_header(&tar, &(struct tarmake){.name = "pax-0.1", .size = 10600});
        data.data[0]++;
        tarmake_data(&tar, data.data, 10600);

        cas_buf_clear(&text);
        tarmake_record(&text, "GNU.sparse.major", "1", 1);
        tarmake_record(&text, "GNU.sparse.minor", "0", 1);
        tarmake_record(&text, "GNU.sparse.name", "pax-1.0", 7);
        tarmake_record(&text, "GNU.sparse.realsize", "100000", 6);
        tarmake_extension(&tar, 'x', text.data, text.len_bytes);
        tarmake_header(&tar, &(struct tarmake){.name = "GNUSparseFile.0/x", .size = 512 + 10600});
        data.data[0]++;
        cas_buf_append_str(&mapped, "2\n4096\n600\n50000\n10000\n");
        cas_buf_append_zero(&mapped, 512 - mapped.len_bytes);
        cas_buf_append(&mapped, data.data, 10600);
        tarmake_data(&tar, mapped.data, mapped.len_bytes);
        put_file(&tar, "after", 2, 5000);
        tarmake_end(&tar);
        check_stream(t->store, &tar);
        cleanup_fixture struct fixture f;
        make(&f, t->store, &tar, SIZE_MAX, true);
        assert_true(f.has_listing);
        assert_int_equal(f.stats.object_bytes, 3 * 10600 + 5000);
}

/* Maps that lie. */
static void damaged_sparse_files(void **state)
{
        struct teststore *t = *state;
        static const char *const maps[] = {
                "0\n",   "1\n0\n", "2\n5\n5\n0\n9\n", "x", "9999999999\n", "1\n0\n99999999999\n",
                "1\n\n", "",       "3\n1\n2\n"};
        for (unsigned i = 0; i < CAS_COUNT(maps); i++) {
                cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, text = CAS_BUF_INIT;
                put_file(&tar, "x", 1, 3000);
                tarmake_record(&text, "GNU.sparse.major", "1", 1);
                tarmake_record(&text, "GNU.sparse.minor", "0", 1);
                tarmake_record(&text, "GNU.sparse.name", "x", 1);
                tarmake_record(&text, "GNU.sparse.realsize", "3000", 4);
                tarmake_extension(&tar, 'x', text.data, text.len_bytes);
                tarmake_header(&tar, &(struct tarmake){.name = "y", .size = 512});
                tarmake_data(&tar, maps[i], strlen(maps[i]));
                put_file(&tar, "after", 2, 5000);
                tarmake_end(&tar);
                check_stream(t->store, &tar);
        }
}

/* ---- references ---- */

struct seen {
        struct cas_store *store;
        unsigned count;
};

static int see(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct seen *seen = arg;
        struct cas_object_info info;
        seen->count++;
        return cas_object_stat(seen->store, object, &info, err);
}

static void every_object_is_named(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct seen seen = {.store = t->store};
        make_rich(&tar);
        for (unsigned listed = 0; listed < 2; listed++) {
                cleanup_fixture struct fixture f;
                make(&f, t->store, &tar, SIZE_MAX, true);
                if (!listed) { /* the objects stay, the listing is not used */
                        release(&f);
                        make(&f, t->store, &tar, SIZE_MAX, false);
                        assert_true(f.stats.object_refs > 0);
                }
                seen.count = 0;
                test_ok(cas_tarrecipe_each_object(f.recipe, see, &seen, err));
                assert_true(seen.count >= 7);
        }
}

/* Operations of the recipe instead of those that were made. */
static int read_ops(struct fixture *f, const struct cas_buf *ops, struct cas_err *reason)
{
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = NULL;
        uint8_t buf[1000];
        size_t n = 1;
        cas_recipe_close(f->recipe);
        f->recipe = NULL;
        cas_recipe_writer_clear(&f->writer, CAS_RECIPE_TAR_OPS);
        test_ok(cas_spool_append(f->writer.sections[CAS_RECIPE_TAR_OPS], ops->data, ops->len_bytes,
                                 err));
        test_ok(cas_recipe_open_writer(&f->writer, &f->recipe, err));
        int rc = cas_tarrecipe_open(f->recipe, 0, &t, reason);
        while (rc == 0 && n > 0)
                rc = cas_tarrecipe_read(t, buf, sizeof(buf), &n, reason);
        return rc;
}

static void operations_must_make_something(void **state)
{
        static const uint8_t zeros = 10 << CAS_TAROP_KIND_BITS | CAS_TAROP_ZEROS;
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, ops = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        cleanup_fixture struct fixture f;
        cas_buf_append_zero(&tar, (zeros >> CAS_TAROP_KIND_BITS) * 2U);
        make(&f, t->store, &tar, SIZE_MAX, false);
        for (unsigned run = 0; run < 2; run++) {
                for (unsigned i = 0; i < 64; i++)
                        cas_buf_append_byte(&ops, CAS_TAROP_RESET);
                cas_buf_append_byte(&ops, zeros);
        }
        test_ok(read_ops(&f, &ops, err));
        memset(ops.data + 60, CAS_TAROP_RESET, 10);
        assert_int_equal(read_ops(&f, &ops, &reason), -CAS_E_CORRUPT);
        assert_non_null(strstr(reason.msg, "make nothing"));
}

static void changes_must_change_something(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, ops = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        cleanup_fixture struct fixture f;
        cas_buf_append_zero(&tar, CAS_TAR_BLOCK_BYTES);
        make(&f, t->store, &tar, SIZE_MAX, false);
        cas_buf_append_byte(&ops, 1 << CAS_TAROP_HEADER_FLAG_BITS << CAS_TAROP_KIND_BITS |
                                          CAS_TAROP_HEADER);
        cas_buf_append_byte(&ops, 0);
        cas_buf_append_byte(&ops, 0);
        assert_int_equal(read_ops(&f, &ops, &reason), -CAS_E_CORRUPT);
        ops.data[0] = CAS_TAROP_HEADER;
        ops.len_bytes = 1;
        test_ok(read_ops(&f, &ops, err));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(layers_cost_little),
                TEST(objects_are_found_without_a_listing),
                TEST(no_tar_at_all),
                TEST(rich_tars),
                TEST(large_files_that_differ_later),
                TEST(truncated_tars),
                TEST(damaged_tars),
                TEST(contradictory_sizes),
                TEST(archives_in_a_row_and_junk),
                TEST(padding_that_is_not_zero),
                TEST(sparse_files),
                TEST(damaged_sparse_files),
                TEST(every_object_is_named),
                TEST(operations_must_make_something),
                TEST(changes_must_change_something),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
