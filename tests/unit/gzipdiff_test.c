/* SPDX-License-Identifier: Apache-2.0 */
/* gzip blobs by difference: analysed, proved from every mark, read from any byte; hostile recipes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <cmocka.h>
#include <zlib.h>

#include "cas/gzipdiff_int.h"
#include "cas/regen_int.h"
#include "tests/support/deflatesample.h"
#include "tests/support/memsource.h"
#include "tests/support/packs.h"
#include "tests/support/teststore.h"

struct fixture {
        struct cas_buf tar, blob;
        struct cas_digest digest;
        struct cas_recipe_writer writer;
        struct cas_wrap_input in;
        struct cas_wrap_report report;
};

static void release(struct fixture *f)
{
        cas_buf_release(&f->tar);
        cas_buf_release(&f->blob);
        cas_recipe_writer_release(&f->writer);
        if (f->in.fd > 0)
                (void)close(f->in.fd);
}
#define cleanup_fixture __attribute__((cleanup(release)))

/* Another member, and its plain bytes. */
static void add_member(struct fixture *f, enum deflate_sample kind, size_t len, int level,
                       int strategy)
{
        size_t at = f->tar.len_bytes;
        deflate_sample(kind, (uint32_t)at, len, &f->tar);
        z_stream z = {.next_in = f->tar.data + at, .avail_in = (uInt)len};
        assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, 31, 8, strategy), Z_OK);
        size_t bound = deflateBound(&z, len);
        cas_buf_reserve(&f->blob, bound);
        z.next_out = f->blob.data + f->blob.len_bytes;
        z.avail_out = (uInt)bound;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        f->blob.len_bytes += z.total_out;
        (void)deflateEnd(&z);
}

static int analyse(struct fixture *f, struct teststore *t, struct cas_err *reason)
{
        struct cas_tarrecipe_stats stats;
        struct memsource source = {.data = f->tar.data, .len = f->tar.len_bytes, .step = SIZE_MAX};
        cas_recipe_writer_init(&f->writer, t->store);
        test_ok(cas_tarrecipe_make(t->store, NULL, memsource_read, &source, &f->writer, &stats,
                                   err));
        f->writer.head.blob_bytes = f->blob.len_bytes;
        f->writer.head.wrap = CAS_WRAP_GZIP_DIFF;
        cas_digest_of(CAS_DIGEST_SHA256, f->blob.data, f->blob.len_bytes, &f->digest);
        f->in = (struct cas_wrap_input){.io = cas_io_posix(),
                                        .fd = memfd_create("blob", MFD_CLOEXEC),
                                        .blob_bytes = f->blob.len_bytes};
        test_ok(cas_io_pwrite_all(f->in.io, f->in.fd, f->blob.data, f->blob.len_bytes, 0, "blob",
                                  err));
        return cas_gzipdiff_analyse(&f->in, &f->writer, &f->report, reason);
}

static void prove(struct fixture *f)
{
        uint32_t dropped = 0;
        assert_string_equal(f->report.reason, "");
        test_ok(cas_regen_prove(&f->writer, &f->digest, &f->in, 2, NULL, &dropped, err));
        assert_int_equal(dropped, 0);
}

static void check_from(struct fixture *f, struct cas_recipe *r, uint64_t offset)
{
        const struct cas_regen_config config = {
                .recipe = r, .digest = &f->digest, .offset = offset, .threads = 1};
        cas_cleanup_regen struct cas_regen *g = NULL;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        size_t n = 1;
        test_ok(cas_regen_start(&config, &g, err));
        while (n > 0) {
                cas_buf_reserve(&out, 70001);
                test_ok(cas_regen_read(g, out.data + out.len_bytes, 70001, &n, err));
                out.len_bytes += n;
        }
        assert_int_equal(out.len_bytes, f->blob.len_bytes - offset);
        if (out.len_bytes > 0)
                assert_memory_equal(out.data, f->blob.data + offset, out.len_bytes);
}

static void blobs_come_back_from_every_mark(void **state)
{
        cleanup_fixture struct fixture f = {0};
        struct test_random random = {3};
        add_member(&f, DEFLATE_SAMPLE_TAR, 14000000, 6, Z_DEFAULT_STRATEGY);
        test_ok(analyse(&f, *state, err));
        prove(&f);
        assert_string_equal(f.report.text, "deflate like zlib level 6");
        assert_true(f.report.corrections_bytes * 500 < f.blob.len_bytes);
        assert_true(f.writer.head.mark_count >= 3);
        struct cas_recipe *r = NULL;
        test_ok(cas_recipe_open_writer(&f.writer, &r, err));
        for (unsigned i = 0; i < 4; i++)
                check_from(&f, r, test_random_next(&random) % f.blob.len_bytes);
        check_from(&f, r, f.blob.len_bytes);
        cas_recipe_close(r);
}

static void members_and_what_follows_them(void **state)
{
        cleanup_fixture struct fixture f = {0};
        for (unsigned i = 0; i < 300; i++)
                add_member(&f, DEFLATE_SAMPLE_TEXT, i * 97, 6, Z_DEFAULT_STRATEGY);
        add_member(&f, DEFLATE_SAMPLE_MIXED, 5000000, 4, Z_DEFAULT_STRATEGY);
        cas_buf_append_str(&f.blob, "what is this doing here?");
        test_ok(analyse(&f, *state, err));
        prove(&f);
}

/* Another encoder from the second segment on. */
static void guesses_again(void **state)
{
        cleanup_fixture struct fixture f = {0};
        add_member(&f, DEFLATE_SAMPLE_TAR, 5000000, 5, Z_DEFAULT_STRATEGY);
        add_member(&f, DEFLATE_SAMPLE_TAR, 7000000, 1, Z_DEFAULT_STRATEGY);
        test_ok(analyse(&f, *state, err));
        prove(&f);
}

static void small_and_empty_ones(void **state)
{
        cleanup_fixture struct fixture f = {0};
        add_member(&f, DEFLATE_SAMPLE_TEXT, 0, 6, Z_DEFAULT_STRATEGY);
        test_ok(analyse(&f, *state, err));
        assert_true(f.report.reason[0] != '\0'); /* smaller than what would be said of it */
}

/* Numbers of which there are few: zlib's best level has too many candidates for each. */
static void what_takes_too_long_stays(void **state)
{
        cleanup_fixture struct fixture f = {0};
        struct test_random random = {12};
        while (f.tar.len_bytes < 700000)
                cas_buf_append_le64(&f.tar, test_random_next(&random) % 1024);
        z_stream z = {.next_in = f.tar.data, .avail_in = (uInt)f.tar.len_bytes};
        assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        cas_buf_reserve(&f.blob, 700000);
        z.next_out = f.blob.data;
        z.avail_out = 700000;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        f.blob.len_bytes = z.total_out;
        (void)deflateEnd(&z);
        test_ok(analyse(&f, *state, err));
        assert_non_null(strstr(f.report.reason, "too much work"));
}

/* Checksums of very many members. */
static void what_costs_too_much_stays(void **state)
{
        cleanup_fixture struct fixture f = {0};
        for (unsigned i = 0; i < 400; i++)
                add_member(&f, DEFLATE_SAMPLE_RANDOM, 1 + i % 7, 6, Z_DEFAULT_STRATEGY);
        test_ok(analyse(&f, *state, err));
        assert_non_null(strstr(f.report.reason, "corrections take"));
}

static void what_is_no_gzip_is_refused(void **state)
{
        for (unsigned cut = 0; cut < 3; cut++) {
                cleanup_fixture struct fixture f = {0};
                struct cas_err reason = CAS_ERR_INIT;
                add_member(&f, DEFLATE_SAMPLE_TAR, 100000, 6, Z_DEFAULT_STRATEGY);
                if (cut == 0)
                        f.blob.len_bytes = 5;
                else if (cut == 1)
                        f.blob.len_bytes /= 2;
                else
                        f.blob.data[0] = 'x';
                int rc = analyse(&f, *state, &reason);
                assert_true(rc == -CAS_E_CORRUPT || f.report.reason[0] != '\0');
        }
}

/* ---- hostile recipes ---- */

static int read_through(struct fixture *f, struct cas_err *reason)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        cas_cleanup_regen struct cas_regen *g = NULL;
        static uint8_t buf[100000];
        test_ok(cas_recipe_open_writer(&f->writer, &r, err));
        const struct cas_regen_config config = {.recipe = r, .digest = &f->digest, .threads = 1};
        uint64_t total = 0;
        size_t n = 1;
        int rc = cas_regen_start(&config, &g, reason);
        while (rc == 0 && n > 0) {
                rc = cas_regen_read(g, buf, sizeof(buf), &n, reason);
                total += rc == 0 ? n : 0;
        }
        assert_true(total <= f->blob.len_bytes);
        return rc;
}

/* Puts a section back with some byte changed, or cut off. */
static void spoil(struct fixture *f, enum cas_recipe_section section, const struct cas_buf *good,
                  struct test_random *random)
{
        cas_cleanup_buf struct cas_buf bad = CAS_BUF_INIT;
        cas_buf_append(&bad, good->data, good->len_bytes);
        if (test_random_next(random) % 4 == 0)
                bad.len_bytes = test_random_next(random) % bad.len_bytes;
        else
                bad.data[test_random_next(random) % cas_min_u64(bad.len_bytes, 64)] ^=
                        (uint8_t)(1 + test_random_next(random) % 255);
        cas_recipe_writer_clear(&f->writer, section);
        test_ok(cas_spool_append(f->writer.sections[section], bad.data, bad.len_bytes, err));
}

static void hostile_recipes_are_refused(void **state)
{
        static const enum cas_recipe_section sections[] = {CAS_RECIPE_WRAP, CAS_RECIPE_WRAP_DATA};
        struct test_random random = {4};
        cleanup_fixture struct fixture f = {0};
        add_member(&f, DEFLATE_SAMPLE_TAR, 100000, 6, Z_DEFAULT_STRATEGY);
        test_ok(analyse(&f, *state, err));
        for (unsigned i = 0; i < CAS_COUNT(sections); i++) {
                cas_cleanup_buf struct cas_buf good = CAS_BUF_INIT;
                struct cas_spool *spool = f.writer.sections[sections[i]];
                good.len_bytes = (size_t)cas_spool_bytes(spool);
                good.data = cas_xmalloc(good.len_bytes);
                test_ok(cas_spool_read(spool, 0, good.data, good.len_bytes, err));
                for (unsigned round = 0; round < 200; round++) {
                        struct cas_err reason = CAS_ERR_INIT;
                        spoil(&f, sections[i], &good, &random);
                        int rc = read_through(&f, &reason);
                        assert_true(rc == 0 || rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED);
                        assert_true(rc < 0 || sections[i] == CAS_RECIPE_WRAP_DATA);
                }
                cas_recipe_writer_clear(&f.writer, sections[i]);
                test_ok(cas_spool_append(f.writer.sections[sections[i]], good.data, good.len_bytes,
                                         err));
                test_ok(read_through(&f, err));
        }
}

static void segments_follow_each_other(void **state)
{
        cleanup_fixture struct fixture f = {0};
        uint8_t head[CAS_GZIPDIFF_HEAD_BYTES];
        cas_cleanup_buf struct cas_buf data = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        add_member(&f, DEFLATE_SAMPLE_TAR, 5000000, 6, Z_DEFAULT_STRATEGY);
        test_ok(analyse(&f, *state, err));
        struct cas_spool *spool = f.writer.sections[CAS_RECIPE_WRAP_DATA];
        data.len_bytes = (size_t)cas_spool_bytes(spool);
        data.data = cas_xmalloc(data.len_bytes);
        test_ok(cas_spool_read(spool, 0, data.data, data.len_bytes, err));
        memcpy(head, data.data, sizeof(head));
        uint8_t *second = data.data + sizeof(head) + cas_get_le32(head + 4);
        assert_true(second < data.data + data.len_bytes);
        second[12] = (uint8_t)((second[12] + 1) % 8);
        second[13] = 0;
        cas_recipe_writer_clear(&f.writer, CAS_RECIPE_WRAP_DATA);
        test_ok(cas_spool_append(f.writer.sections[CAS_RECIPE_WRAP_DATA], data.data, data.len_bytes,
                                 err));
        /* Read on from the first, not from a mark at the second. */
        f.writer.head.mark_count = 1;
        assert_int_equal(read_through(&f, &reason), -CAS_E_CORRUPT);
        assert_non_null(strstr(reason.msg, "follow each other"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(blobs_come_back_from_every_mark),
                cmocka_unit_test(members_and_what_follows_them),
                cmocka_unit_test(guesses_again),
                cmocka_unit_test(small_and_empty_ones),
                cmocka_unit_test(what_takes_too_long_stays),
                cmocka_unit_test(what_costs_too_much_stays),
                cmocka_unit_test(what_is_no_gzip_is_refused),
                cmocka_unit_test(hostile_recipes_are_refused),
                cmocka_unit_test(segments_follow_each_other),
        };
        return cmocka_run_group_tests(tests, teststore_setup, teststore_teardown);
}
