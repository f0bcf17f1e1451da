/* SPDX-License-Identifier: Apache-2.0 */
/* zstd blobs of many parameters: analysed, and made again from every mark. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>
#include <zstd.h>

#include "cas/wrap_int.h"
#include "cas/zstdencoder_int.h"
#include "tests/support/deflatesample.h"
#include "tests/support/packs.h"
#include "tests/support/scratch.h"
#include "tests/support/teststore.h"

struct memory {
        const uint8_t *data;
        size_t left, piece;
};

static int memory_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct memory *m = arg;
        (void)err;
        *out_len = cas_min_u64(cas_min_u64(len, m->piece), m->left);
        memcpy(buf, m->data, *out_len);
        m->data += *out_len;
        m->left -= *out_len;
        return 0;
}

static int analyse(struct teststore *t, const struct cas_buf *blob, struct cas_recipe_writer *w,
                   struct cas_wrap_report *report, struct cas_err *err)
{
        FILE *file = tmpfile();
        assert_non_null(file);
        assert_int_equal(fwrite(blob->data, 1, blob->len_bytes, file), blob->len_bytes);
        assert_int_equal(fflush(file), 0);
        const struct cas_wrap_input in = {
                .io = cas_io_posix(), .fd = fileno(file), .blob_bytes = blob->len_bytes};
        cas_recipe_writer_init(w, t->store);
        int rc = cas_zstd_analyse(&in, NULL, w, &w->head.wrap, report, err);
        w->head.blob_bytes = blob->len_bytes;
        (void)fclose(file);
        return rc;
}

/* From every mark on, in odd pieces. */
static void check_marks(struct cas_recipe_writer *w, const struct cas_buf *plain,
                        const struct cas_buf *blob)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        test_ok(cas_recipe_open_writer(w, &r, err));
        for (uint32_t i = 0; i < cas_recipe_head(r)->mark_count; i++) {
                struct cas_recipe_mark mark;
                struct cas_wrap_reader *wr;
                uint8_t piece[7777];
                size_t len;
                test_ok(cas_recipe_mark(r, i, &mark, err));
                struct memory tar = {plain->data + mark.tar_offset,
                                     plain->len_bytes - mark.tar_offset, 1000 + i * 77777};
                test_ok(cas_wrap_open(r, &mark, memory_read, &tar, &wr, err));
                uint64_t at = mark.blob_offset;
                for (;;) {
                        test_ok(cas_wrap_read(wr, piece, 1 + at % sizeof(piece), &len, err));
                        if (len == 0)
                                break;
                        assert_true(at + len <= blob->len_bytes);
                        assert_memory_equal(piece, blob->data + at, len);
                        at += len;
                }
                assert_int_equal(at, blob->len_bytes);
                cas_wrap_close(wr);
        }
}

static void check_blob(struct teststore *t, const struct cas_buf *plain, const struct cas_buf *blob,
                       const char *text, size_t marks_min)
{
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        struct cas_wrap_report report;
        test_ok(analyse(t, blob, &w, &report, err));
        assert_string_equal(report.reason, "");
        assert_string_equal(report.text, text);
        w.head.tar_bytes = plain->len_bytes;
        assert_true(w.head.mark_count >= marks_min);
        check_marks(&w, plain, blob);
}

static void add_frame(struct cas_buf *blob, const struct cas_zstd_params *p, const void *data,
                      size_t len)
{
        cas_cleanup_zstd_encoder struct cas_zstd_encoder *e = cas_zstd_encoder_new(p, len);
        assert_non_null(e);
        test_ok(cas_zstd_encoder_write(e, data, len, true, blob, err));
}

static void test_levels(void **state)
{
        static const int8_t levels[] = {1, 3, 9, 19, -5};
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 1, 400000, &plain);
        for (size_t i = 0; i < CAS_COUNT(levels) * 4; i++) {
                cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
                const struct cas_zstd_params p = {
                        .level = levels[i / 4], .has_checksum = i % 2, .has_size = i / 2 % 2};
                /* Levels may make the same: which one is named is not asked. */
                add_frame(&blob, &p, plain.data, plain.len_bytes);
                cas_cleanup_recipe_writer struct cas_recipe_writer w;
                struct cas_wrap_report report;
                test_ok(analyse(*state, &blob, &w, &report, err));
                assert_string_equal(report.reason, "");
                w.head.tar_bytes = plain.len_bytes;
                check_marks(&w, &plain, &blob);
        }
}

/* Content of several jobs, so that jobs make a difference. */
static void test_jobs_and_long(void **state)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 3, 5000000, &plain);
        for (unsigned i = 0; i < 3; i++) {
                cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
                const struct cas_zstd_params p = {.level = 1, .by_jobs = i != 1, .is_long = i > 0};
                static const char *const texts[] = {"zstd level 1, by jobs", "zstd level 1, long",
                                                    "zstd level 1, long, by jobs"};
                add_frame(&blob, &p, plain.data, plain.len_bytes);
                check_blob(*state, &plain, &blob, texts[i], 1);
        }
}

static void test_frames(void **state)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 2, 14000000, &plain);
        const struct cas_zstd_params p = {.level = 1, .has_checksum = true};
        size_t at = 0;
        for (unsigned i = 0; at < plain.len_bytes; i++) {
                size_t n = cas_min_u64(i == 3 ? 0 : 900000, plain.len_bytes - at);
                add_frame(&blob, &p, plain.data + at, n);
                if (i % 5 == 2) { /* a skippable frame */
                        cas_buf_append_le32(&blob, 0x184d2a53);
                        cas_buf_append_le32(&blob, 10);
                        cas_buf_append_str(&blob, "0123456789");
                }
                at += n;
        }
        check_blob(*state, &plain, &blob, "zstd level 1, 17 frames", 3);
}

static void test_unknown(void **state)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, blob = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 4, 40000, &plain);
        ZSTD_CCtx *ctx = ZSTD_createCCtx();
        assert_non_null(ctx);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, 3);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_minMatch, 7);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_searchLog, 1);
        cas_buf_reserve(&blob, ZSTD_compressBound(plain.len_bytes));
        blob.len_bytes =
                ZSTD_compress2(ctx, blob.data, blob.alloc_bytes, plain.data, plain.len_bytes);
        assert_false(ZSTD_isError(blob.len_bytes));
        (void)ZSTD_freeCCtx(ctx);
        struct cas_wrap_report report;
        {
                cas_cleanup_recipe_writer struct cas_recipe_writer w;
                test_ok(analyse(*state, &blob, &w, &report, err));
                assert_non_null(strstr(report.reason, "unknown encoder"));
        }
        /* Cut off, or damaged: an error, or a reason. */
        for (size_t n = 0; n < 40; n++) {
                struct cas_err reason = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf bad = CAS_BUF_INIT;
                cas_cleanup_recipe_writer struct cas_recipe_writer w;
                cas_buf_append(&bad, blob.data,
                               n % 2 ? blob.len_bytes : blob.len_bytes * n / 40 + 1);
                if (n % 2)
                        bad.data[blob.len_bytes * n / 40] ^= (uint8_t)(1U << n % 8);
                if (analyse(*state, &bad, &w, &report, &reason) == 0)
                        assert_string_not_equal(report.reason, "");
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_levels, teststore_setup, teststore_teardown),
                cmocka_unit_test_setup_teardown(test_jobs_and_long, teststore_setup,
                                                teststore_teardown),
                cmocka_unit_test_setup_teardown(test_frames, teststore_setup, teststore_teardown),
                cmocka_unit_test_setup_teardown(test_unknown, teststore_setup, teststore_teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
