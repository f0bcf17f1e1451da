/* SPDX-License-Identifier: Apache-2.0 */
/* Regeneration by several threads and proving, with a wrap of the test's own: a header, the tar's
 * bytes under a running key, and a trailer. The key is the state of its marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <cmocka.h>

#include "cas/regen_int.h"
#include "tests/support/deflatesample.h"
#include "tests/support/memsource.h"
#include "tests/support/packs.h"
#include "tests/support/teststore.h"

#define FRAME 4 /* bytes of header, and of trailer */
#define PLAIN_BYTES 9000000

/* ---- the wrap ---- */

struct keyed {
        struct cas_wrap_reader base;
        cas_source_fn tar;
        void *tar_arg;
        uint64_t at, blob_bytes;
        uint32_t key;
        bool ends_early;
};

static atomic_uint slow_ms; /* each read takes so long */

static void encode(uint32_t *key, uint8_t *data, size_t len)
{
        for (size_t i = 0; i < len; i++) {
                uint8_t plain = data[i];
                data[i] = (uint8_t)(plain ^ *key >> 24);
                *key = *key * 1664525 + 1013904223 + plain;
        }
}

static int keyed_open(struct cas_recipe *r, const struct cas_recipe_mark *mark, cas_source_fn tar,
                      void *tar_arg, struct cas_wrap_reader **out, struct cas_err *err)
{
        extern const struct cas_wrap_ops keyed_ops;
        if (mark->blob_offset > 0 && mark->state_bytes < 4)
                return cas_fail(err, CAS_E_CORRUPT, "a mark without its key");
        struct keyed *k = cas_xcalloc(1, sizeof(*k));
        k->base.ops = &keyed_ops;
        k->tar = tar;
        k->tar_arg = tar_arg;
        k->at = mark->blob_offset;
        k->blob_bytes = cas_recipe_head(r)->blob_bytes;
        if (mark->state_bytes >= 4)
                k->key = cas_get_le32(mark->state);
        k->ends_early = mark->state_bytes == 5;
        *out = &k->base;
        return 0;
}

static int keyed_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                      struct cas_err *err)
{
        struct keyed *k = (struct keyed *)wr;
        uint64_t content_end = k->blob_bytes - FRAME;
        if (slow_ms > 0)
                (void)nanosleep(&(struct timespec){.tv_nsec = (long)slow_ms * 1000000}, NULL);
        *out_len = 0;
        if (k->ends_early || k->at == k->blob_bytes)
                return 0;
        if (k->at < FRAME) {
                *out_len = cas_min_u64(len, FRAME - k->at);
                memset(buf, 'H', *out_len);
        } else if (k->at < content_end) {
                size_t want = cas_min_u64(len, content_end - k->at);
                if (k->tar(k->tar_arg, buf, want, out_len, err) < 0)
                        return -(int)err->code;
                encode(&k->key, buf, *out_len);
        } else {
                *out_len = cas_min_u64(len, k->blob_bytes - k->at);
                memset(buf, 'T', *out_len);
        }
        k->at += *out_len;
        return 0;
}

static void keyed_close(struct cas_wrap_reader *wr)
{
        free(wr);
}

extern const struct cas_wrap_ops keyed_ops;
const struct cas_wrap_ops keyed_ops = {
        .open = keyed_open, .read = keyed_read, .close = keyed_close};

/* ---- a blob and its recipe ---- */

struct fixture {
        struct teststore *t;
        struct cas_buf tar, blob;
        struct cas_digest digest;
        struct cas_recipe_writer writer;
        int fd; /* the verbatim blob */
};

/* Marks every `spacing` bytes of tar; `spoil` changes them before they are written. */
static void make(struct fixture *f, struct teststore *t, size_t tar_bytes, size_t spacing,
                 void (*spoil)(uint32_t number, struct cas_recipe_mark *mark))
{
        struct cas_tarrecipe_stats stats;
        uint32_t key = 0, number = 0;
        *f = (struct fixture){.t = t};
        deflate_sample(DEFLATE_SAMPLE_TAR, 1, tar_bytes, &f->tar);
        struct memsource source = {.data = f->tar.data, .len = f->tar.len_bytes, .step = SIZE_MAX};
        cas_recipe_writer_init(&f->writer, t->store);
        test_ok(cas_tarrecipe_make(t->store, NULL, memsource_read, &source, &f->writer, &stats,
                                   err));
        cas_buf_append_str(&f->blob, "HHHH");
        for (size_t at = 0; at < tar_bytes || number == 0; at += spacing) {
                size_t n = cas_min_u64(spacing, tar_bytes - at);
                struct cas_recipe_mark mark = {.blob_offset = at > 0 ? FRAME + at : 0,
                                               .tar_offset = at,
                                               .state_bytes = at > 0 ? 4 : 0};
                cas_put_le32(mark.state, key);
                if (spoil)
                        spoil(number, &mark);
                number++;
                test_ok(cas_recipe_writer_mark(&f->writer, &mark, err));
                cas_buf_append(&f->blob, f->tar.data + at, n);
                encode(&key, f->blob.data + FRAME + at, n);
        }
        cas_buf_append_str(&f->blob, "TTTT");
        f->writer.head.blob_bytes = f->blob.len_bytes;
        cas_digest_of(CAS_DIGEST_SHA256, f->blob.data, f->blob.len_bytes, &f->digest);
        f->fd = memfd_create("blob", MFD_CLOEXEC);
        test_ok(cas_io_pwrite_all(cas_io_posix(), f->fd, f->blob.data, f->blob.len_bytes, 0, "blob",
                                  err));
}

static void release(struct fixture *f)
{
        cas_buf_release(&f->tar);
        cas_buf_release(&f->blob);
        cas_recipe_writer_release(&f->writer);
        (void)close(f->fd);
}
#define cleanup_fixture __attribute__((cleanup(release)))

/* Reads from offset on, in odd steps, to the end or the first error. */
static int read_all(struct fixture *f, struct cas_recipe *r, uint64_t offset, unsigned threads,
                    const struct cas_digest *digest, struct cas_buf *out, struct cas_err *err)
{
        const struct cas_regen_config config = {.recipe = r,
                                                .digest = digest,
                                                .offset = offset,
                                                .threads = threads,
                                                .ops = &keyed_ops};
        cas_cleanup_regen struct cas_regen *g = NULL;
        size_t n = 1, step = 1;
        int ret = cas_regen_start(&config, &g, err);
        assert_true(ret < 0 || cas_regen_blob_bytes(g) == f->blob.len_bytes);
        while (ret == 0 && n > 0) {
                step = step * 7 % 99991 + 1;
                cas_buf_reserve(out, step);
                ret = cas_regen_read(g, out->data + out->len_bytes, step, &n, err);
                if (ret == 0)
                        out->len_bytes += n;
        }
        return ret;
}

static void check_from(struct fixture *f, struct cas_recipe *r, uint64_t offset, unsigned threads)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        test_ok(read_all(f, r, offset, threads, &f->digest, &out, err));
        assert_int_equal(out.len_bytes, f->blob.len_bytes - offset);
        if (out.len_bytes > 0)
                assert_memory_equal(out.data, f->blob.data + offset, out.len_bytes);
}

static struct cas_recipe *open_recipe(struct fixture *f)
{
        struct cas_recipe *r = NULL;
        test_ok(cas_recipe_open_writer(&f->writer, &r, err));
        return r;
}

static void gives_the_blob_from_any_byte(void **state)
{
        static const size_t spacings[] = {1000, 100000, 3000000};
        struct test_random random = {1};
        for (unsigned i = 0; i < CAS_COUNT(spacings); i++) {
                cleanup_fixture struct fixture f;
                make(&f, *state, 2000000, spacings[i], NULL);
                cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
                for (unsigned threads = 0; threads < 5; threads++) {
                        check_from(&f, r, 0, threads);
                        check_from(&f, r, f.blob.len_bytes, threads);
                        check_from(&f, r, 1, threads);
                        for (unsigned j = 0; j < 5; j++)
                                check_from(&f, r, test_random_next(&random) % f.blob.len_bytes,
                                           threads);
                }
        }
}

static void tiny_blobs(void **state)
{
        for (size_t bytes = 0; bytes < 3; bytes++) {
                cleanup_fixture struct fixture f;
                make(&f, *state, bytes, 1, NULL);
                cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
                for (uint64_t at = 0; at <= f.blob.len_bytes; at++)
                        check_from(&f, r, at, 2);
                struct cas_err reason = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                assert_int_equal(read_all(&f, r, f.blob.len_bytes + 1, 2, NULL, &out, &reason),
                                 -CAS_E_INVALID);
        }
}

/* By its object, as those who pull it do, of the kind that is no wrap. */
static void plain_blobs_by_their_object(void **state)
{
        struct teststore *t = *state;
        cleanup_fixture struct fixture f;
        struct cas_hash id;
        struct cas_digest digest;
        make(&f, t, PLAIN_BYTES, PLAIN_BYTES, NULL);
        cas_recipe_writer_clear(&f.writer, CAS_RECIPE_MARKS);
        test_ok(cas_plain_analyse(&f.writer, err));
        assert_int_equal(f.writer.head.mark_count, 3);
        cas_cleanup_publish struct cas_publish *p = NULL;
        test_ok(cas_publish_begin(t->store, &p, err));
        test_ok(cas_recipe_writer_publish(&f.writer, p, &id, err));
        test_ok(cas_publish_commit(p, err));
        cas_digest_of(CAS_DIGEST_SHA256, f.tar.data, f.tar.len_bytes, &digest);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(PLAIN_BYTES + 1);
        for (uint64_t offset = 0; offset < PLAIN_BYTES; offset += 3333333) {
                cas_cleanup_regen struct cas_regen *g = NULL;
                size_t n, total = 0;
                test_ok(cas_regen_open(t->store, &digest, &id, offset, 2, &g, err));
                do {
                        test_ok(cas_regen_read(g, buf + total, PLAIN_BYTES + 1 - total, &n, err));
                        total += n;
                } while (n > 0);
                assert_int_equal(total, PLAIN_BYTES - offset);
                assert_memory_equal(buf, f.tar.data + offset, total);
        }
        memset(&id, 1, sizeof(id));
        struct cas_regen *g = NULL;
        struct cas_err reason = CAS_ERR_INIT;
        assert_int_equal(cas_regen_open(t->store, &digest, &id, 0, 2, &g, &reason),
                         -CAS_E_NOTFOUND);
}

/* The last bytes are held back, so that nobody takes a wrong blob for a right one. */
static void wrong_bytes_never_come_whole(void **state)
{
        cleanup_fixture struct fixture f;
        make(&f, *state, 300000, 50000, NULL);
        cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
        for (unsigned threads = 1; threads < 3; threads++) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                struct cas_err reason = CAS_ERR_INIT;
                struct cas_digest other = f.digest;
                other.bytes[5] ^= 1;
                assert_int_equal(read_all(&f, r, 0, threads, &other, &out, &reason),
                                 -CAS_E_CORRUPT);
                assert_true(out.len_bytes < f.blob.len_bytes);
                assert_non_null(strstr(reason.msg, "other bytes"));
        }
}

static void spoil_third(uint32_t number, struct cas_recipe_mark *mark)
{
        if (number == 3)
                mark->state_bytes = 5; /* ends early */
}

/* What comes before a failure is given first, and the failure stays. */
static void errors_come_in_order(void **state)
{
        cleanup_fixture struct fixture f;
        make(&f, *state, 1000000, 100000, spoil_third);
        cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
        for (unsigned threads = 1; threads < 5; threads++) {
                const struct cas_regen_config config = {
                        .recipe = r, .threads = threads, .ops = &keyed_ops};
                cas_cleanup_regen struct cas_regen *g = NULL;
                struct cas_err reason = CAS_ERR_INIT;
                uint8_t buf[5000];
                size_t n = 0, total = 0;
                test_ok(cas_regen_start(&config, &g, err));
                while (cas_regen_read(g, buf, sizeof(buf), &n, &reason) == 0) {
                        assert_true(n > 0);
                        assert_memory_equal(buf, f.blob.data + total, n);
                        total += n;
                }
                assert_int_equal(total, FRAME + 300000);
                assert_int_equal(reason.code, CAS_E_CORRUPT);
                assert_non_null(strstr(reason.msg, "mark 3"));
                assert_int_equal(cas_regen_read(g, buf, sizeof(buf), &n, &reason), -CAS_E_CORRUPT);
        }
}

/* Each mark stands further on than the one before. */
static void marks_at_one_place_are_refused(void **state)
{
        cleanup_fixture struct fixture f;
        cas_cleanup_buf struct cas_buf marks = CAS_BUF_INIT, out = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        make(&f, *state, 300000, 100000, NULL);
        struct cas_spool *spool = f.writer.sections[CAS_RECIPE_MARKS];
        marks.len_bytes = (size_t)cas_spool_bytes(spool);
        marks.data = cas_xmalloc(marks.len_bytes);
        test_ok(cas_spool_read(spool, 0, marks.data, marks.len_bytes, err));
        memcpy(marks.data + CAS_RECIPE_MARK_BYTES_MAX * 2, marks.data + CAS_RECIPE_MARK_BYTES_MAX,
               CAS_RECIPE_MARK_BYTES_MAX);
        cas_recipe_writer_clear(&f.writer, CAS_RECIPE_MARKS);
        f.writer.head.mark_count = 3;
        test_ok(cas_spool_append(f.writer.sections[CAS_RECIPE_MARKS], marks.data, marks.len_bytes,
                                 err));
        cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
        assert_int_equal(read_all(&f, r, 0, 2, NULL, &out, &reason), -CAS_E_CORRUPT);
        assert_non_null(strstr(reason.msg, "out of order"));
}

/* Nobody reads on: the threads fill what they may, and closing does not wait for the rest. */
static void closing_stops_at_once(void **state)
{
        cleanup_fixture struct fixture f;
        struct timespec before, after;
        make(&f, *state, 30000000, 3000000, NULL);
        cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
        slow_ms = 20;
        for (unsigned i = 0; i < 3; i++) {
                const struct cas_regen_config config = {
                        .recipe = r, .threads = 3, .ops = &keyed_ops};
                struct cas_regen *g = NULL;
                uint8_t byte;
                size_t n;
                test_ok(cas_regen_start(&config, &g, err));
                if (i > 0)
                        test_ok(cas_regen_read(g, &byte, 1, &n, err));
                if (i > 1)
                        (void)nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
                (void)clock_gettime(CLOCK_MONOTONIC, &before);
                cas_regen_close(g);
                (void)clock_gettime(CLOCK_MONOTONIC, &after);
                assert_true(after.tv_sec - before.tv_sec < 2); /* all of it would take 4.6 s */
        }
        slow_ms = 0;
}

/* ---- proving ---- */

static int prove(struct fixture *f, unsigned threads, uint32_t *dropped, struct cas_err *err)
{
        const struct cas_wrap_input verbatim = {
                .io = cas_io_posix(), .fd = f->fd, .blob_bytes = f->blob.len_bytes};
        return cas_regen_prove_ops(&keyed_ops, &f->writer, &f->digest, &verbatim, threads, NULL,
                                   dropped, err);
}

static void spoil_some(uint32_t number, struct cas_recipe_mark *mark)
{
        switch (number) {
        case 2:
        case 3:
        case 9:
                mark->state[1] ^= 1;
                break;
        case 5:
                mark->state_bytes = 0;
                break;
        case 7:
                mark->state_bytes = 5;
                break;
        default:
                break;
        }
}

static void marks_that_do_not_hold_are_dropped(void **state)
{
        for (unsigned threads = 1; threads < 4; threads++) {
                cleanup_fixture struct fixture f;
                uint32_t dropped = 0;
                make(&f, *state, 1000000, 100000, spoil_some);
                test_ok(prove(&f, threads, &dropped, err));
                assert_int_equal(dropped, 5);
                cas_cleanup_recipe struct cas_recipe *r = open_recipe(&f);
                assert_int_equal(cas_recipe_head(r)->mark_count, 5);
                check_from(&f, r, 0, threads);
                check_from(&f, r, 555555, threads);
        }
}

static void good_marks_stay(void **state)
{
        cleanup_fixture struct fixture f;
        uint32_t dropped = 7;
        make(&f, *state, 1000000, 100000, NULL);
        test_ok(prove(&f, 2, &dropped, err));
        assert_int_equal(dropped, 0);
        assert_int_equal(f.writer.head.mark_count, 10);
}

static void what_is_not_the_blob_is_not_proved(void **state)
{
        cleanup_fixture struct fixture f;
        struct cas_err reason = CAS_ERR_INIT;
        uint32_t dropped = 0;
        uint8_t byte;
        make(&f, *state, 1000000, 100000, NULL);
        for (unsigned i = 0; i < 2; i++) { /* in the first segment, and in another */
                uint64_t at = i == 0 ? 77777 : 777777;
                byte = f.blob.data[at] ^ 4;
                test_ok(cas_io_pwrite_all(cas_io_posix(), f.fd, &byte, 1, at, "blob", err));
                assert_int_equal(prove(&f, 2, &dropped, &reason), -CAS_E_CORRUPT);
                assert_non_null(strstr(reason.msg, i == 0 ? "byte 77777 " : "byte 777777 "));
                test_ok(cas_io_pwrite_all(cas_io_posix(), f.fd, &f.blob.data[at], 1, at, "blob",
                                          err));
        }
        f.digest.bytes[0] ^= 1;
        assert_int_equal(prove(&f, 2, &dropped, &reason), -CAS_E_CORRUPT);
        f.digest.bytes[0] ^= 1;
        f.blob.len_bytes--;
        assert_int_equal(prove(&f, 2, &dropped, &reason), -CAS_E_CORRUPT);
        f.blob.len_bytes++;
        test_ok(prove(&f, 2, &dropped, err));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(gives_the_blob_from_any_byte),
                TEST(tiny_blobs),
                TEST(plain_blobs_by_their_object),
                TEST(wrong_bytes_never_come_whole),
                TEST(errors_come_in_order),
                TEST(marks_at_one_place_are_refused),
                TEST(closing_stops_at_once),
                TEST(marks_that_do_not_hold_are_dropped),
                TEST(good_marks_stay),
                TEST(what_is_not_the_blob_is_not_proved),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
