/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <fcntl.h>
#include <cmocka.h>

#include "cas/codec.h"
#include "cas/packwriter_int.h"
#include "tests/support/packs.h"

#define LARGE (3 * CAS_MIB + 777)

struct fixture {
        struct test_packs t;
        uint8_t *large; /* the bytes of the object `id` */
        struct cas_hash id, small, empty;
};

static int setup(void **state)
{
        static struct fixture f;
        struct test_random r = {42};
        test_packs_init(&f.t, NULL);
        f.large = cas_xmalloc(LARGE);
        test_random_fill(&r, f.large, LARGE);
        test_packs_put(&f.t, f.large, LARGE, &f.id);
        test_packs_put(&f.t, f.large, 100, &f.small);
        test_packs_put(&f.t, f.large, 0, &f.empty);
        *state = &f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        test_packs_release(&f->t);
        free(f->large);
        return 0;
}

static void reads_any_range(void **state)
{
        struct fixture *f = *state;
        struct test_random r = {7};
        cas_cleanup_free uint8_t *buf = cas_xmalloc(LARGE + 10);
        size_t got;
        for (unsigned i = 0; i < 300; i++) {
                uint64_t offset = test_random_next(&r) % (LARGE + 100);
                size_t len = test_random_next(&r) % (i % 10 ? 5000 : LARGE);
                uint64_t left = offset < LARGE ? LARGE - offset : 0;
                test_ok(cas_object_pread(&f->t.store, &f->id, offset, buf, len, &got, err));
                assert_int_equal(got, cas_min_u64(len, left));
                if (got)
                        assert_memory_equal(buf, f->large + offset, got);
        }
        test_ok(cas_object_pread(&f->t.store, &f->small, 90, buf, 50, &got, err));
        assert_int_equal(got, 10);
        assert_memory_equal(buf, f->large + 90, 10);
        test_ok(cas_object_pread(&f->t.store, &f->empty, 0, buf, 50, &got, err));
        assert_int_equal(got, 0);
        test_ok(cas_object_pread(&f->t.store, &f->id, UINT64_MAX, buf, 50, &got, err));
        assert_int_equal(got, 0);
}

static void whole_reads_are_bounded(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_hash absent = {{9}};
        cas_buf_append_str(&out, "before");
        assert_int_equal(cas_object_read(&f->t.store, &f->id, LARGE - 1, &out, &reason),
                         -CAS_E_LIMIT);
        assert_int_equal(cas_object_read(&f->t.store, &absent, LARGE, &out, &reason),
                         -CAS_E_NOTFOUND);
        assert_string_equal(cas_buf_str(&out), "before");
        test_ok(cas_object_read(&f->t.store, &f->id, LARGE, &out, err));
        assert_int_equal(out.len_bytes, 6 + LARGE);
        assert_memory_equal(out.data + 6, f->large, LARGE);
        test_ok(cas_object_read(&f->t.store, &f->empty, 0, &out, err));
        assert_int_equal(out.len_bytes, 6 + LARGE);
}

static int stop_at_third(void *arg, const void *data CAS_UNUSED, size_t len CAS_UNUSED,
                         struct cas_err *err)
{
        unsigned *count = arg;
        return ++*count == 3 ? cas_fail(err, CAS_E_BUSY, "enough") : 0;
}

static void streaming_stops_when_told(void **state)
{
        struct fixture *f = *state;
        struct cas_err reason = CAS_ERR_INIT;
        unsigned count = 0;
        assert_int_equal(cas_object_each(&f->t.store, &f->id, stop_at_third, &count, &reason),
                         -CAS_E_BUSY);
        assert_int_equal(count, 3);
}

/* What `lamina fs` does: extents from the store, the rest by itself; with and without O_DIRECT. */
static void extents_are_enough_to_read(void **state)
{
        struct fixture *f = *state;
        struct cas_object_info info;
        struct cas_extent extents[5];
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        cas_cleanup_free uint8_t *block = cas_xmalloc(CAS_BLOCK_BYTES_MAX);
        test_ok(cas_object_stat(&f->t.store, &f->id, &info, err));
        assert_int_equal(info.size_bytes, LARGE);
        for (int direct = 0; direct < 2; direct++) {
                uint64_t at = 0;
                uint32_t count, first = 0;
                for (;; first += count) {
                        test_ok(cas_object_extents(&f->t.store, &f->id, first, extents, 5, &count,
                                                   err));
                        if (count == 0)
                                break;
                        for (uint32_t i = 0; i < count; i++) {
                                cas_cleanup_fd int fd = -1;
                                test_ok(cas_pack_open_fd(&f->t.store, extents[i].pack_id, &fd,
                                                         err));
                                if (direct && fcntl(fd, F_SETFL, O_DIRECT) != 0)
                                        skip(); /* this file system has none */
                                test_ok(cas_block_read(fd, &extents[i], block, &scratch, err));
                                assert_int_equal(extents[i].object_offset, at);
                                assert_memory_equal(block + extents[i].chunk_offset, f->large + at,
                                                    extents[i].length_bytes);
                                at += extents[i].length_bytes;
                        }
                }
                assert_int_equal(at, LARGE);
                assert_int_equal(first, info.chunk_count);
        }
        uint32_t count = 7;
        test_ok(cas_object_extents(&f->t.store, &f->empty, 0, extents, 5, &count, err));
        assert_int_equal(count, 0);
}

static void lying_extents_are_refused(void **state)
{
        struct fixture *f = *state;
        struct cas_extent good;
        uint32_t count;
        cas_cleanup_fd int fd = -1;
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        cas_cleanup_free uint8_t *block = cas_xmalloc(CAS_BLOCK_BYTES_MAX);
        test_ok(cas_object_extents(&f->t.store, &f->id, 2, &good, 1, &count, err));
        test_ok(cas_pack_open_fd(&f->t.store, good.pack_id, &fd, err));
        test_ok(cas_block_read(fd, &good, block, &scratch, err));
        for (unsigned i = 0; i < 10; i++) {
                struct cas_err reason = CAS_ERR_INIT;
                struct cas_extent e = good;
                switch (i) {
                case 0:
                        e.block_checksum ^= 1;
                        break;
                case 1:
                        e.block_raw_bytes--;
                        break;
                case 2:
                        e.block_raw_bytes = UINT32_MAX;
                        break;
                case 3:
                        e.block_stored_bytes--;
                        break;
                case 4:
                        e.block_stored_bytes = UINT32_MAX;
                        break;
                case 5:
                        e.block_offset++;
                        break;
                case 6:
                        e.block_offset = UINT64_C(1) << 50;
                        break;
                case 7:
                        e.codec = 9;
                        break;
                case 8:
                        e.chunk_offset = e.block_raw_bytes;
                        break;
                default:
                        e.length_bytes = UINT32_MAX;
                        break;
                }
                int rc = cas_block_read(fd, &e, block, &scratch, &reason);
                assert_true(rc == -CAS_E_CORRUPT || rc == -CAS_E_LIMIT || rc == -CAS_E_UNSUPPORTED);
        }
}

/* An index that says something else than the packs hold. */
static void wrong_bytes_are_not_handed_out_whole(void **state)
{
        struct fixture *f = *state;
        struct cas_store *s = &f->t.store;
        struct cas_chunk_record rec;
        struct cas_err reason = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct cas_hash name = {{1, 1, 1}};
        test_ok(cas_index_get_chunk(s->index, &f->small, &rec, err));
        cas_batch_put_chunk(batch, &name, &rec); /* the bytes of `small` under another name */
        cas_batch_put_object(batch, &name, rec.length_bytes, NULL, 1);
        test_ok(cas_index_write(s->index, batch, err));
        assert_int_equal(cas_object_read(s, &name, 1000, &out, &reason), -CAS_E_CORRUPT);
        assert_int_equal(out.len_bytes, 0);
        cas_batch_put_object(batch, &name, rec.length_bytes + 1, NULL, 1);
        test_ok(cas_index_write(s->index, batch, err));
        assert_int_equal(cas_object_read(s, &name, 1000, &out, &reason), -CAS_E_CORRUPT);
        cas_batch_del_chunk(batch, &name);
        test_ok(cas_index_write(s->index, batch, err));
        assert_int_equal(cas_object_read(s, &name, 1000, &out, &reason), -CAS_E_CORRUPT);
}

/* A list of several pages: chunks are found by number and by byte without reading those before. */
static void long_lists_are_entered_in_the_middle(void **state)
{
        enum { COUNT = 1000, LEN = 100 };
        struct fixture *f = *state;
        struct cas_store *s = &f->t.store;
        struct cas_hash id = {{2, 2, 2}};
        struct cas_extent extent;
        static struct cas_chunk_ref refs[COUNT];
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        for (unsigned i = 0; i < COUNT; i++)
                refs[i] = (struct cas_chunk_ref){.chunk = f->small, .length_bytes = LEN};
        cas_batch_put_object(batch, &id, COUNT * LEN, refs, COUNT);
        test_ok(cas_index_write(s->index, batch, err));
        for (uint64_t offset = 0; offset <= COUNT * LEN; offset += 1111) {
                uint8_t buf[250];
                uint32_t chunk;
                uint64_t at;
                size_t got;
                test_ok(cas_index_seek_object_chunk(s->index, &id, COUNT, UINT32_MAX, offset,
                                                    &chunk, &at, err));
                assert_int_equal(at, (uint64_t)chunk * LEN);
                assert_true(at <= offset);
                assert_in_range(offset / LEN - chunk, 0, 256);
                test_ok(cas_object_pread(s, &id, offset, buf, sizeof(buf), &got, err));
                assert_int_equal(got, cas_min_u64(sizeof(buf), COUNT * LEN - offset));
                for (size_t i = 0; i < got; i++)
                        assert_int_equal(buf[i], f->large[(offset + i) % LEN]);
        }
        for (uint32_t i = 0; i <= COUNT; i += 37) {
                uint32_t count;
                test_ok(cas_object_extents(s, &id, i, &extent, 1, &count, err));
                assert_int_equal(count, i < COUNT);
                if (count)
                        assert_int_equal(extent.object_offset, i * LEN);
        }
        cas_batch_put_object(batch, &id, COUNT * LEN + 1, refs, COUNT);
        test_ok(cas_index_write(s->index, batch, err));
        struct cas_err reason = CAS_ERR_INIT;
        uint8_t byte;
        size_t got;
        assert_int_equal(cas_object_pread(s, &id, COUNT * LEN, &byte, 1, &got, &reason),
                         -CAS_E_CORRUPT);
}

struct reader {
        struct fixture *f;
        uint64_t seed;
};

static void *read_much(void *arg)
{
        struct reader *reader = arg;
        struct test_random r = {reader->seed};
        uint8_t buf[4096];
        for (unsigned i = 0; i < 400; i++) {
                uint64_t offset = test_random_next(&r) % (LARGE - sizeof(buf));
                size_t got;
                test_ok(cas_object_pread(&reader->f->t.store, &reader->f->id, offset, buf,
                                         sizeof(buf), &got, err));
                cas_assert(got == sizeof(buf));
                cas_assert(memcmp(buf, reader->f->large + offset, got) == 0);
        }
        return NULL;
}

static void many_threads_read(void **state)
{
        pthread_t threads[4];
        struct reader readers[4];
        for (unsigned i = 0; i < 4; i++) {
                readers[i] = (struct reader){.f = *state, .seed = i};
                assert_int_equal(pthread_create(&threads[i], NULL, read_much, &readers[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(reads_any_range),
                cmocka_unit_test(whole_reads_are_bounded),
                cmocka_unit_test(streaming_stops_when_told),
                cmocka_unit_test(extents_are_enough_to_read),
                cmocka_unit_test(lying_extents_are_refused),
                cmocka_unit_test(wrong_bytes_are_not_handed_out_whole),
                cmocka_unit_test(long_lists_are_entered_in_the_middle),
                cmocka_unit_test(many_threads_read),
        };
        return cmocka_run_group_tests_name("object", tests, setup, teardown);
}
