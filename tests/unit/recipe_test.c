/* SPDX-License-Identifier: Apache-2.0 */
/* The container of recipes: what is written is read, out of the writer and out of the object. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/recipe_int.h"
#include "tests/support/packs.h"
#include "tests/support/teststore.h"

#define MARKS 1000

static const size_t section_bytes[CAS_RECIPE_SECTION_COUNT] = {100000, 1500000, 0, 40, 7, 70000};
static uint8_t *sections[CAS_RECIPE_SECTION_COUNT];

static void mark_of(uint32_t i, struct cas_recipe_mark *mark)
{
        *mark = (struct cas_recipe_mark){.blob_offset = i * UINT64_C(1000),
                                         .tar_offset = i / 2 * UINT64_C(5000),
                                         .state_bytes = (uint8_t)(i % 41)};
        memset(mark->state, (int)i, mark->state_bytes);
}

static void fill_writer(struct cas_recipe_writer *w)
{
        struct test_random r = {11};
        w->head.blob_bytes = MARKS * 1000;
        w->head.tar_bytes = MARKS * 2500;
        w->head.wrap = CAS_WRAP_GZIP_REPLAY;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++) {
                if (!sections[i]) {
                        sections[i] = cas_xmalloc(section_bytes[i] + 1);
                        test_random_fill(&r, sections[i], section_bytes[i]);
                }
                test_ok(cas_spool_append(w->sections[i], sections[i], section_bytes[i], err));
        }
        for (uint32_t i = 0; i < MARKS; i++) {
                struct cas_recipe_mark mark;
                mark_of(i, &mark);
                test_ok(cas_recipe_writer_mark(w, &mark, err));
        }
}

static struct cas_hash publish(struct cas_store *s, struct cas_recipe_writer *w)
{
        struct cas_hash id;
        cas_cleanup_publish struct cas_publish *p = NULL;
        test_ok(cas_publish_begin(s, &p, err));
        test_ok(cas_recipe_writer_publish(w, p, &id, err));
        test_ok(cas_publish_commit(p, err));
        return id;
}

static struct cas_hash publish_bytes(struct cas_store *s, const void *data, size_t len)
{
        struct cas_hash id;
        cas_cleanup_publish struct cas_publish *p = NULL;
        test_ok(cas_publish_begin(s, &p, err));
        test_ok(cas_publish_object(p, data, len, &id, err));
        test_ok(cas_publish_commit(p, err));
        return id;
}

static void check_sections(struct cas_recipe *r, struct test_random *random)
{
        cas_cleanup_free uint8_t *buf = cas_xmalloc(1500000);
        for (unsigned n = 0; n < 3000; n++) {
                enum cas_recipe_section i = test_random_next(random) % CAS_RECIPE_MARKS;
                size_t at = test_random_next(random) % (section_bytes[i] + 1);
                size_t len = test_random_next(random) % (section_bytes[i] - at + 1);
                if (n % 10)
                        len = cas_min_u64(len, 100);
                test_ok(cas_recipe_read(r, i, at, buf, len, err));
                assert_memory_equal(buf, sections[i] + at, len);
        }
        for (unsigned i = 0; i < CAS_RECIPE_MARKS; i++) {
                struct cas_err reason = CAS_ERR_INIT;
                assert_int_equal(cas_recipe_read(r, i, section_bytes[i], buf, 1, &reason),
                                 -CAS_E_CORRUPT);
                assert_int_equal(cas_recipe_read(r, i, UINT64_MAX, buf, 1, &reason),
                                 -CAS_E_CORRUPT);
        }
}

static void check_marks(struct cas_recipe *r, uint32_t step)
{
        assert_int_equal(cas_recipe_head(r)->mark_count, (MARKS + step - 1) / step);
        for (uint32_t i = 0; i < MARKS; i += step) {
                struct cas_recipe_mark mark, want;
                uint32_t index;
                mark_of(i, &want);
                test_ok(cas_recipe_mark(r, i / step, &mark, err));
                assert_int_equal(mark.blob_offset, want.blob_offset);
                assert_int_equal(mark.tar_offset, want.tar_offset);
                assert_int_equal(mark.state_bytes, want.state_bytes);
                assert_memory_equal(mark.state, want.state, want.state_bytes);
                test_ok(cas_recipe_find_mark(r, i * UINT64_C(1000), &index, err));
                assert_int_equal(index, i / step);
                test_ok(cas_recipe_find_mark(r, i * UINT64_C(1000) + 999, &index, err));
                assert_int_equal(index, i / step);
        }
}

static void reads_what_was_written(void **state)
{
        struct teststore *t = *state;
        struct test_random random = {5};
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_recipe_writer_init(&w, t->store);
        fill_writer(&w);
        for (int published = 0; published < 2; published++) {
                cas_cleanup_recipe struct cas_recipe *r = NULL;
                if (published) {
                        struct cas_hash id = publish(t->store, &w);
                        test_ok(cas_recipe_open(t->store, &id, &r, err));
                        assert_int_equal(cas_recipe_head(r)->mark_bytes, 17 + 40);
                } else {
                        test_ok(cas_recipe_open_writer(&w, &r, err));
                }
                assert_int_equal(cas_recipe_head(r)->blob_bytes, MARKS * 1000);
                assert_int_equal(cas_recipe_head(r)->tar_bytes, MARKS * 2500);
                assert_int_equal(cas_recipe_head(r)->wrap, CAS_WRAP_GZIP_REPLAY);
                check_sections(r, &random);
                check_marks(r, 1);
        }
}

static void marks_can_be_taken_back(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        bool drop[MARKS];
        cas_recipe_writer_init(&w, t->store);
        fill_writer(&w);
        for (unsigned i = 0; i < MARKS; i++)
                drop[i] = i % 3 != 0;
        test_ok(cas_recipe_writer_drop_marks(&w, drop, err));
        struct cas_hash id = publish(t->store, &w);
        test_ok(cas_recipe_open(t->store, &id, &r, err));
        check_marks(r, 3);
}

static void marks_must_be_in_order(void **state)
{
        struct teststore *t = *state;
        static const struct cas_recipe_mark bad[] = {
                {.blob_offset = 5, .tar_offset = 30},
                {.blob_offset = 10, .tar_offset = 30},
                {.blob_offset = 11, .tar_offset = 19},
        };
        static const struct cas_recipe_mark first = {0},
                                            second = {.blob_offset = 10, .tar_offset = 20};
        struct cas_err reason = CAS_ERR_INIT;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_recipe_writer_init(&w, t->store);
        assert_int_equal(cas_recipe_writer_mark(&w, &second, &reason), -CAS_E_INVALID);
        test_ok(cas_recipe_writer_mark(&w, &first, err));
        test_ok(cas_recipe_writer_mark(&w, &second, err));
        for (unsigned i = 0; i < CAS_COUNT(bad); i++)
                assert_int_equal(cas_recipe_writer_mark(&w, &bad[i], &reason), -CAS_E_INVALID);
}

static void streams_read_in_order(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        cas_cleanup_free uint8_t *buf = cas_xmalloc(CAS_MIB);
        struct cas_recipe_stream st;
        struct test_random random = {6};
        struct cas_err reason = CAS_ERR_INIT;
        uint64_t v;
        cas_recipe_writer_init(&w, t->store);
        fill_writer(&w);
        test_ok(cas_recipe_open_writer(&w, &r, err));
        cas_recipe_stream_init(&st, r, CAS_RECIPE_TAR_BYTES, 3);
        for (uint64_t at = 3; at < section_bytes[CAS_RECIPE_TAR_BYTES];) {
                size_t n = test_random_next(&random) % (test_random_next(&random) % 3 ? 50 : 40000);
                n = cas_min_u64(n, section_bytes[CAS_RECIPE_TAR_BYTES] - at);
                assert_int_equal(cas_recipe_stream_left(&st),
                                 section_bytes[CAS_RECIPE_TAR_BYTES] - at);
                if (n % 4 == 1) {
                        test_ok(cas_recipe_stream_skip(&st, n, err));
                } else {
                        test_ok(cas_recipe_stream_read(&st, buf, n, err));
                        assert_memory_equal(buf, sections[CAS_RECIPE_TAR_BYTES] + at, n);
                }
                at += n;
        }
        assert_int_equal(cas_recipe_stream_left(&st), 0);
        assert_int_equal(cas_recipe_stream_read(&st, buf, 1, &reason), -CAS_E_CORRUPT);
        assert_int_equal(cas_recipe_stream_varint(&st, &v, &reason), -CAS_E_CORRUPT);
        assert_int_equal(cas_recipe_stream_skip(&st, 1, &reason), -CAS_E_CORRUPT);
        cas_recipe_stream_release(&st);
}

static void numbers_are_checked(void **state)
{
        static const uint8_t bytes[] = {0x05, 0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff,
                                        0xff, 0xff, 0xff, 0xff, 0x01, 0x80, 0x00, 0x80};
        struct teststore *t = *state;
        static const struct cas_recipe_mark first = {0};
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_recipe_stream st;
        uint64_t v;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        cas_recipe_writer_init(&w, t->store);
        test_ok(cas_spool_append(w.sections[CAS_RECIPE_WRAP], bytes, sizeof(bytes), err));
        test_ok(cas_recipe_writer_mark(&w, &first, err));
        test_ok(cas_recipe_open_writer(&w, &r, err));
        cas_recipe_stream_init(&st, r, CAS_RECIPE_WRAP, 0);
        test_ok(cas_recipe_stream_varint(&st, &v, err));
        assert_int_equal(v, 5);
        test_ok(cas_recipe_stream_varint(&st, &v, err));
        assert_int_equal(v, 128);
        test_ok(cas_recipe_stream_varint(&st, &v, err));
        assert_int_equal(v, UINT64_MAX);
        assert_int_equal(cas_recipe_stream_varint(&st, &v, &reason),
                         -CAS_E_CORRUPT); /* not shortest */
        assert_int_equal(cas_recipe_stream_varint(&st, &v, &reason), -CAS_E_CORRUPT); /* cut off */
        cas_recipe_stream_release(&st);
}

/* Every byte of the head that is changed is noticed, or changes what the head says. */
static void bad_heads_are_refused(void **state)
{
        struct teststore *t = *state;
        static const struct cas_recipe_mark first = {0};
        cas_cleanup_buf struct cas_buf good = CAS_BUF_INIT;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_recipe_writer_init(&w, t->store);
        w.head.blob_bytes = w.head.tar_bytes = 3;
        test_ok(cas_spool_append(w.sections[CAS_RECIPE_TAR_BYTES], "abc", 3, err));
        test_ok(cas_recipe_writer_mark(&w, &first, err));
        struct cas_hash id = publish(t->store, &w);
        test_ok(cas_object_read(t->store, &id, 10000, &good, err));
        assert_int_equal(good.len_bytes, CAS_RECIPE_HEAD_BYTES + 3 + 17);
        for (size_t i = 0; i < good.len_bytes; i++) {
                struct cas_err reason = CAS_ERR_INIT;
                cas_cleanup_recipe struct cas_recipe *r = NULL;
                bool size = i >= 8 && i < 24, data = i >= CAS_RECIPE_HEAD_BYTES;
                good.data[i] ^= 0x85;
                id = publish_bytes(t->store, good.data, good.len_bytes);
                int rc = cas_recipe_open(t->store, &id, &r, &reason);
                good.data[i] ^= 0x85;
                if (rc < 0)
                        assert_true(rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED);
                else
                        assert_true(size || data);
        }
        for (size_t len = 0; len < good.len_bytes; len += 9) {
                struct cas_err reason = CAS_ERR_INIT;
                struct cas_recipe *r = NULL;
                id = publish_bytes(t->store, good.data, len);
                assert_int_equal(cas_recipe_open(t->store, &id, &r, &reason), -CAS_E_CORRUPT);
        }
        cas_buf_append_byte(&good, 0);
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_recipe *r = NULL;
        id = publish_bytes(t->store, good.data, good.len_bytes);
        assert_int_equal(cas_recipe_open(t->store, &id, &r, &reason), -CAS_E_CORRUPT);
        memset(&id, 7, sizeof(id));
        assert_int_equal(cas_recipe_open(t->store, &id, &r, &reason), -CAS_E_NOTFOUND);
}

struct reader {
        struct cas_recipe *recipe;
        uint64_t seed;
};

static void *read_many(void *arg)
{
        const struct reader *reader = arg;
        struct test_random random = {reader->seed};
        check_sections(reader->recipe, &random);
        return NULL;
}

static void threads_share_a_recipe(void **state)
{
        struct teststore *t = *state;
        pthread_t threads[3];
        struct reader readers[3];
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        cas_recipe_writer_init(&w, t->store);
        fill_writer(&w);
        struct cas_hash id = publish(t->store, &w);
        test_ok(cas_recipe_open(t->store, &id, &r, err));
        for (unsigned i = 0; i < 3; i++) {
                readers[i] = (struct reader){.recipe = r, .seed = i};
                assert_int_equal(pthread_create(&threads[i], NULL, read_many, &readers[i]), 0);
        }
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static int release_sections(void **state)
{
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                free(sections[i]);
        (void)state;
        return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(reads_what_was_written), TEST(marks_can_be_taken_back),
                TEST(marks_must_be_in_order), TEST(streams_read_in_order),
                TEST(numbers_are_checked),    TEST(bad_heads_are_refused),
                TEST(threads_share_a_recipe),
        };
        return cmocka_run_group_tests(tests, NULL, release_sections);
}
