/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs of all kinds get a recipe that makes them again, whole and from every mark. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <zlib.h>

#include "cas/deflate/go.h"
#include "cas/deflate/zlibclass.h"
#include "cas/gzipmark_int.h"
#include "cas/limits.h"
#include "tests/support/deflatesample.h"
#include "tests/support/gzipblob.h"

static void check_made(struct gzipblob_recipe *r, const struct cas_buf *blob,
                       const struct cas_buf *tar)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf whole = CAS_BUF_INIT;
        assert_string_equal(r->report.reason, "");
        assert_int_equal(gzipblob_regenerate(r, 0, UINT64_MAX, tar, &whole, &err), 0);
        assert_int_equal(whole.len_bytes, blob->len_bytes);
        assert_memory_equal(whole.data, blob->data, blob->len_bytes);
}

/* Analyses the blob and makes it again. Returns the bytes of section WRAP. */
static uint64_t check_blob(const struct cas_buf *blob, const struct cas_buf *tar, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cleanup_gzipblob_recipe struct gzipblob_recipe r;
        assert_int_equal(gzipblob_analyse(blob, tar->len_bytes, &r, &err), 0);
        check_made(&r, blob, tar);
        assert_string_equal(r.report.text, text);
        assert_int_equal(r.kind, CAS_WRAP_GZIP_REPLAY);
        assert_true(r.mark_count >= 1 + tar->len_bytes / (2 * CAS_RECIPE_MARK_SPACING_BYTES));
        for (uint32_t i = 1; i < r.mark_count; i++) {
                struct cas_recipe_mark mark, next = {.blob_offset = blob->len_bytes};
                cas_cleanup_buf struct cas_buf part = CAS_BUF_INIT;
                assert_int_equal(cas_recipe_mark(r.recipe, i, &mark, &err), 0);
                if (i + 1 < r.mark_count)
                        assert_int_equal(cas_recipe_mark(r.recipe, i + 1, &next, &err), 0);
                assert_int_equal(gzipblob_regenerate(&r, i, next.blob_offset, tar, &part, &err), 0);
                assert_int_equal(part.len_bytes, next.blob_offset - mark.blob_offset);
                assert_memory_equal(part.data, blob->data + mark.blob_offset, part.len_bytes);
        }
        return r.wrap_bytes;
}

/* What zlib makes, flushed after random numbers of bytes, at most `most` and never when it is 0. */
static void zlib_member(struct cas_buf *out, const struct cas_buf *plain, int level, int flush,
                        size_t most, unsigned seed)
{
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        for (size_t at = 0;;) {
                size_t n = plain->len_bytes - at;
                if (most > 0) {
                        seed = seed * 1103515245 + 12345;
                        n = cas_min_u64(n, 1 + (seed >> 8) % most);
                }
                z.next_in = plain->data + at;
                z.avail_in = (uInt)n;
                at += n;
                do {
                        cas_buf_reserve(out, 65536);
                        z.next_out = out->data + out->len_bytes;
                        z.avail_out = 65536;
                        (void)deflate(&z, at == plain->len_bytes ? Z_FINISH : flush);
                        out->len_bytes += 65536 - z.avail_out;
                } while (z.avail_out == 0);
                if (at == plain->len_bytes)
                        break;
        }
        (void)deflateEnd(&z);
}

static struct gzipblob_pieces whole(const struct cas_deflate_class *class, int level)
{
        return (struct gzipblob_pieces){.class = class, .level = level, .piece_bytes = SIZE_MAX};
}

static void test_one_run(void **state)
{
        (void)state;
        static const struct {
                const struct cas_deflate_class *class;
                int level;
                const char *text;
        } cases[] = {
                {&cas_deflate_go, 6, "go-1.26 level 6"}, {&cas_deflate_go, 1, "go-1.26 level 1"},
                {&cas_deflate_go, 9, "go-1.26 level 9"}, {&cas_deflate_zlib, 6, "zlib level 6"},
                {&cas_deflate_zlib, 1, "zlib level 1"},  {&cas_deflate_zlib, 4, "zlib level 4"},
                {&cas_deflate_gzip, 6, "gzip level 6"},
        };
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 1, 700000, &plain);
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
                struct gzipblob_pieces how = whole(cases[i].class, cases[i].level);
                gzipblob_member(&blob, &how, plain.data, plain.len_bytes);
                assert_in_range(check_blob(&blob, &plain, cases[i].text), 1, 40);
        }
}

/* Long enough for marks. */
static void test_marks(void **state)
{
        (void)state;
        static const struct {
                const struct cas_deflate_class *class;
                int level;
                const char *text;
        } cases[] = {{&cas_deflate_go, 1, "go-1.26 level 1"},
                     {&cas_deflate_gzip, 1, "gzip level 1"},
                     {&cas_deflate_zlib, 1, "zlib level 1"}};
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 1, 9 << 20, &plain);
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
                struct gzipblob_pieces how = whole(cases[i].class, cases[i].level);
                gzipblob_member(&blob, &how, plain.data, plain.len_bytes);
                assert_in_range(check_blob(&blob, &plain, cases[i].text), 1, 40);
        }
}

static void test_windows_fit_marks(void **state)
{
        (void)state;
        for (size_t i = 0; cas_deflate_classes[i]; i++)
                assert_true(cas_deflate_classes[i]->window_bytes <= CAS_GZIP_WINDOW_BYTES_MAX);
}

static void test_flushes(void **state)
{
        (void)state;
        static const int flushes[] = {Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_PARTIAL_FLUSH};
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 5, 900000, &plain);
        for (size_t i = 0; i < CAS_COUNT(flushes); i++)
                for (size_t most = 300; most < 400000; most *= 30) {
                        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
                        struct cas_err err = CAS_ERR_INIT;
                        cleanup_gzipblob_recipe struct gzipblob_recipe r;
                        zlib_member(&blob, &plain, 6, flushes[i], most, 1);
                        assert_int_equal(gzipblob_analyse(&blob, plain.len_bytes, &r, &err), 0);
                        check_made(&r, &blob, &plain);
                        assert_int_equal(r.kind, CAS_WRAP_GZIP_REPLAY);
                        /* A few bytes for each flush. */
                        assert_in_range(r.wrap_bytes, 1, 60 + 4 * (2 * plain.len_bytes / most));
                }
}

/* Text has no stored blocks, in which a flush of this kind does not show. */
static void test_flushed_blocks(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 5, 900000, &plain);
        zlib_member(&blob, &plain, 6, Z_BLOCK, 100000, 1);
        assert_in_range(check_blob(&blob, &plain, "zlib level 6"), 1, 200);
}

/* Pieces as pgzip makes them; the recipe does not grow with their number. */
static void test_pieces_with_dictionary(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 9, 9 << 20, &plain);
        struct gzipblob_pieces how = {.class = cas_deflate_class_by_name("klauspost-2023-01"),
                                      .level = 5,
                                      .piece_bytes = 1 << 20,
                                      .dictionary_bytes = 16384,
                                      .end = CAS_DEFLATE_END_SYNC,
                                      .last_end = CAS_DEFLATE_END_SYNC};
        gzipblob_header(&blob, 0x886e0900, 0, 255);
        gzipblob_deflate(&blob, &how, plain.data, plain.len_bytes);
        gzipblob_trailer(&blob, plain.data, plain.len_bytes);
        assert_in_range(check_blob(&blob, &plain, "klauspost-2023-01 level 5, pieces of 1024 KiB"),
                        1, 80);
}

static void test_pigz(void **state)
{
        (void)state;
        static const struct {
                int kind;
                int level;
        } cases[] = {{DEFLATE_SAMPLE_TAR, 6},   {DEFLATE_SAMPLE_TEXT, 1},
                     {DEFLATE_SAMPLE_MIXED, 9}, {DEFLATE_SAMPLE_RANDOM, 6},
                     {DEFLATE_SAMPLE_ZEROS, 6}, {DEFLATE_SAMPLE_FAR, 6}};
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
                deflate_sample((enum deflate_sample)cases[i].kind, 9, 2 << 20, &plain);
                struct gzipblob_pieces how = {.class = &cas_deflate_zlib,
                                              .level = cases[i].level,
                                              .piece_bytes = (128 * 1024),
                                              .dictionary_bytes = 32768,
                                              .end = CAS_DEFLATE_END_PIGZ};
                gzipblob_header(&blob, 0x5e000000, 0, 3);
                gzipblob_deflate(&blob, &how, plain.data, plain.len_bytes);
                gzipblob_trailer(&blob, plain.data, plain.len_bytes);
                struct cas_err err = CAS_ERR_INIT;
                cleanup_gzipblob_recipe struct gzipblob_recipe r;
                assert_int_equal(gzipblob_analyse(&blob, plain.len_bytes, &r, &err), 0);
                check_made(&r, &blob, &plain);
                assert_int_equal(r.kind, CAS_WRAP_GZIP_REPLAY);
                assert_in_range(r.wrap_bytes, 1, 100);
        }
}

/* Like eStargz: a member for each file, and a footer that holds an offset. */
static void test_many_members(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 4, 5 << 20, &plain);
        struct gzipblob_pieces how = whole(&cas_deflate_go, 9);
        unsigned members = 0;
        for (size_t at = 0, n; at < plain.len_bytes; at += n, members++) {
                n = cas_min_u64(plain.len_bytes - at, 512 * (1 + members * members % 97));
                gzipblob_header(&blob, 0, 2, 255);
                gzipblob_deflate(&blob, &how, plain.data + at, n);
                gzipblob_trailer(&blob, plain.data + at, n);
        }
        static const char footer[] = "\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0"
                                     "0000000000c0ffeeSTARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";
        cas_buf_append(&blob, footer, sizeof(footer) - 1);
        char text[60];
        (void)snprintf(text, sizeof(text), "go-1.26 level 9, %u members", members + 1);
        assert_in_range(check_blob(&blob, &plain, text), 1, 3 * members + 120);
        assert_true(3 * members < blob.len_bytes / 1000 + 1000);
}

static void test_headers_and_tail(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 1, 50000, &plain);
        struct gzipblob_pieces how = whole(&cas_deflate_zlib, 6);
        static const char named[] = "\x1f\x8b\x08\x1c\1\2\3\4\0\3\3\0abclayer.tar\0a comment";
        cas_buf_append(&blob, named, sizeof(named));
        gzipblob_deflate(&blob, &how, plain.data, 30000);
        gzipblob_trailer(&blob, plain.data, 30000);
        /* The second member's checksum is of other bytes. */
        gzipblob_header(&blob, 0, 0, 3);
        gzipblob_deflate(&blob, &how, plain.data + 30000, 20000);
        gzipblob_trailer(&blob, plain.data, 20000);
        cas_buf_append_zero(&blob, 100000);
        (void)check_blob(&blob, &plain, "zlib level 6, 2 members");
}

static void test_several_coders(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 2, 600000, &plain);
        struct gzipblob_pieces first = whole(&cas_deflate_zlib, 6),
                               second = whole(&cas_deflate_go, 6);
        gzipblob_member(&blob, &first, plain.data, 300000);
        gzipblob_member(&blob, &second, plain.data + 300000, 300000);
        (void)check_blob(&blob, &plain, "zlib level 6, 2 members, and others");
}

/* What no known encoder makes, but one near to it, is made by difference. */
static void test_no_class(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 2, 1 << 20, &plain);
        z_stream z = {.next_in = plain.data, .avail_in = (uInt)plain.len_bytes};
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 3, Z_DEFAULT_STRATEGY), Z_OK);
        cas_buf_reserve(&blob, 2 << 20);
        z.next_out = blob.data;
        z.avail_out = 2 << 20;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        blob.len_bytes = z.total_out;
        (void)deflateEnd(&z);
        struct cas_err err = CAS_ERR_INIT;
        cleanup_gzipblob_recipe struct gzipblob_recipe r;
        assert_int_equal(gzipblob_analyse(&blob, plain.len_bytes, &r, &err), 0);
        check_made(&r, &blob, &plain);
        assert_int_equal(r.kind, CAS_WRAP_GZIP_DIFF);
}

static void test_empty(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        struct gzipblob_pieces how = whole(&cas_deflate_zlib, 6);
        gzipblob_header(&blob, 0, 0, 3);
        gzipblob_deflate(&blob, &how, (const uint8_t *)"", 0);
        gzipblob_trailer(&blob, "", 0);
        struct cas_err err = CAS_ERR_INIT;
        cleanup_gzipblob_recipe struct gzipblob_recipe r;
        assert_int_equal(gzipblob_analyse(&blob, 0, &r, &err), 0);
        check_made(&r, &blob, &plain);
}

static void test_damaged(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 1, 5000, &plain);
        struct gzipblob_pieces how = whole(&cas_deflate_zlib, 6);
        gzipblob_member(&blob, &how, plain.data, plain.len_bytes);
        size_t len = blob.len_bytes;
        for (blob.len_bytes = 1; blob.len_bytes < len; blob.len_bytes += 1 + len / 50) {
                struct cas_err err = CAS_ERR_INIT;
                cleanup_gzipblob_recipe struct gzipblob_recipe r;
                assert_int_equal(gzipblob_analyse(&blob, 0, &r, &err), -CAS_E_CORRUPT);
        }
}

/* Whatever a plan and its marks say, no more comes out than the recipe has recorded. */
static void test_hostile_plans(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 1, 200000, &plain);
        struct gzipblob_pieces how = {.class = &cas_deflate_zlib,
                                      .level = 1,
                                      .piece_bytes = 40000,
                                      .dictionary_bytes = 32768,
                                      .end = CAS_DEFLATE_END_SYNC};
        gzipblob_member(&blob, &how, plain.data, plain.len_bytes);
        struct cas_err err = CAS_ERR_INIT;
        cleanup_gzipblob_recipe struct gzipblob_recipe good;
        assert_int_equal(gzipblob_analyse(&blob, plain.len_bytes, &good, &err), 0);
        uint8_t plan[200];
        size_t len = good.wrap_bytes;
        assert_true(len <= sizeof(plan));
        assert_int_equal(cas_recipe_read(good.recipe, CAS_RECIPE_WRAP, 0, plan, len, &err), 0);
        for (size_t bit = 0; bit < 8 * len; bit++) {
                cleanup_gzipblob_recipe struct gzipblob_recipe r = {0};
                cas_cleanup_buf struct cas_buf made = CAS_BUF_INIT;
                cas_recipe_writer_init(&r.writer, NULL);
                r.writer.head.blob_bytes = blob.len_bytes;
                r.writer.head.tar_bytes = plain.len_bytes;
                r.writer.head.wrap = CAS_WRAP_GZIP_REPLAY;
                plan[bit / 8] ^= (uint8_t)(1 << bit % 8);
                struct cas_err e = CAS_ERR_INIT;
                assert_int_equal(
                        cas_spool_append(r.writer.sections[CAS_RECIPE_WRAP], plan, len, &e), 0);
                assert_int_equal(
                        cas_recipe_writer_mark(&r.writer, &(struct cas_recipe_mark){0}, &e), 0);
                assert_int_equal(cas_recipe_open_writer(&r.writer, &r.recipe, &e), 0);
                int ret = gzipblob_regenerate(&r, 0, UINT64_MAX, &plain, &made, &e);
                assert_true(made.len_bytes <= blob.len_bytes);
                assert_true(ret < 0 || made.len_bytes == blob.len_bytes);
                plan[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
}

int main(void)
{
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_one_run),
                cmocka_unit_test(test_marks),
                cmocka_unit_test(test_windows_fit_marks),
                cmocka_unit_test(test_flushes),
                cmocka_unit_test(test_flushed_blocks),
                cmocka_unit_test(test_pieces_with_dictionary),
                cmocka_unit_test(test_pigz),
                cmocka_unit_test(test_many_members),
                cmocka_unit_test(test_headers_and_tail),
                cmocka_unit_test(test_several_coders),
                cmocka_unit_test(test_no_class),
                cmocka_unit_test(test_empty),
                cmocka_unit_test(test_damaged),
                cmocka_unit_test(test_hostile_plans),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
