/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>

#include "cas/index_int.h"
#include "cas/record_int.h"
#include "cas/sst_int.h"
#include "tests/support/scratch.h"

#define ok(call) assert_int_equal(call, 0)

/* A file in memory. */
static ssize_t memory_pread(void *ctx, int fd, void *buf, size_t len, off_t offset)
{
        const struct cas_buf *file = ctx;
        (void)fd;
        if ((size_t)offset >= file->len_bytes)
                return 0;
        size_t n = cas_min_u64(len, file->len_bytes - (size_t)offset);
        memcpy(buf, file->data + offset, n);
        return (ssize_t)n;
}
static const struct cas_io_ops memory_ops = {.pread = memory_pread};

static int verify_table(struct cas_buf *file, uint8_t sum[CAS_TABLE_SUM_BYTES], struct cas_err *err)
{
        const struct cas_io io = {.ops = &memory_ops, .ctx = file};
        return cas_table_verify(&io, 0, file->len_bytes, "table", sum, err);
}

static int verify_log(struct cas_buf *file, struct cas_err *err)
{
        const struct cas_io io = {.ops = &memory_ops, .ctx = file};
        return cas_log_verify(&io, 0, "log", err);
}

/* An index with some records of all columns; dense: at rest, so that its blocks are compressed. */
static char *make_index(unsigned records, bool dense)
{
        struct cas_err err = CAS_ERR_INIT;
        char *dir = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/index", dir);
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_index *ix;
        ok(cas_index_open(path, true, &ix, &err));
        for (uint64_t i = 0; i < records; i++) {
                const struct cas_chunk_record chunk = {.pack_id = 1,
                                                       .block_offset = 100 * i,
                                                       .block_stored_bytes = 90,
                                                       .block_raw_bytes = 200,
                                                       .chunk_offset = 3,
                                                       .length_bytes = 20};
                struct cas_hash hash;
                cas_sha256(&i, sizeof(i), &hash);
                cas_batch_put_chunk(batch, &hash, &chunk);
                cas_batch_put_object(batch, &hash, i + 1, NULL, 1);
        }
        ok(cas_index_write(ix, batch, &err));
        if (dense)
                ok(cas_index_compact(ix, &err));
        else
                ok(cas_index_flush(ix, &err));
        for (unsigned i = 0; i < 20; i++) { /* stays in the log */
                cas_batch_put(batch, CAS_FAMILY_META, "key", 3, dir, i);
                ok(cas_index_write(ix, batch, &err));
        }
        cas_index_close(ix);
        return dir;
}

/* Files of the index whose names end so. */
static unsigned each_file(const char *dir, const char *part, void (*fn)(struct cas_buf *file))
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/index", dir);
        DIR *d = opendir(path);
        unsigned count = 0;
        assert_non_null(d);
        for (const struct dirent *e; (e = readdir(d));) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                if (!strstr(e->d_name, part))
                        continue;
                ok(cas_io_read_file(cas_io_posix(), dirfd(d), e->d_name, 1 << 24, &bytes, &err));
                fn(&bytes);
                count++;
        }
        (void)closedir(d);
        return count;
}

static void expect_whole_table(struct cas_buf *file)
{
        struct cas_err err = CAS_ERR_INIT;
        uint8_t sum[CAS_TABLE_SUM_BYTES];
        if (verify_table(file, sum, &err) < 0)
                fail_msg("%s", err.msg);
}

static void expect_whole_log(struct cas_buf *file)
{
        struct cas_err err = CAS_ERR_INIT;
        if (verify_log(file, &err) < 0)
                fail_msg("%s", err.msg);
}

static void flip_every_bit_of_a_table(struct cas_buf *file)
{
        uint8_t sum[CAS_TABLE_SUM_BYTES];
        expect_whole_table(file);
        for (size_t bit = 0; bit < 8 * file->len_bytes; bit++) {
                struct cas_err err = CAS_ERR_INIT;
                file->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
                if (verify_table(file, sum, &err) == 0)
                        fail_msg("bit %zu of %zu bytes was not found", bit, file->len_bytes);
                file->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        for (size_t len = file->len_bytes; len-- > 0;) { /* and cut anywhere */
                struct cas_err err = CAS_ERR_INIT;
                struct cas_buf cut = {.data = file->data, .len_bytes = len};
                assert_int_not_equal(verify_table(&cut, sum, &err), 0);
        }
}

static void flip_every_bit_of_a_log(struct cas_buf *file)
{
        expect_whole_log(file);
        for (size_t bit = 0; bit < 8 * file->len_bytes; bit++) {
                struct cas_err err = CAS_ERR_INIT;
                file->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
                if (verify_log(file, &err) == 0)
                        fail_msg("bit %zu of %zu bytes was not found", bit, file->len_bytes);
                file->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
}

static void tables_are_whole(void **state CAS_UNUSED)
{
        for (unsigned i = 0; i < 4; i++) {
                char *dir = make_index(i < 2 ? 1 : 60000, i % 2);
                assert_true(each_file(dir, ".sst", expect_whole_table) > 0);
                assert_true(each_file(dir, ".log", expect_whole_log) > 0);
                assert_int_equal(each_file(dir, "MANIFEST", expect_whole_log), 1);
                scratch_free(dir);
        }
}

static void every_bit_of_a_table_counts(void **state CAS_UNUSED)
{
        for (unsigned dense = 0; dense < 2; dense++) {
                char *dir = make_index(60, dense);
                assert_true(each_file(dir, ".sst", flip_every_bit_of_a_table) > 0);
                scratch_free(dir);
        }
}

static void every_bit_of_a_log_counts(void **state CAS_UNUSED)
{
        char *dir = make_index(3, false);
        assert_true(each_file(dir, ".log", flip_every_bit_of_a_log) > 0);
        assert_int_equal(each_file(dir, "MANIFEST", flip_every_bit_of_a_log), 1);
        scratch_free(dir);
}

static void what_is_no_table_is_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        uint8_t sum[CAS_TABLE_SUM_BYTES];
        cas_cleanup_buf struct cas_buf none = CAS_BUF_INIT;
        assert_int_equal(verify_table(&none, sum, &err), -CAS_E_CORRUPT);
        cas_buf_append_zero(&none, 4096);
        assert_int_equal(verify_table(&none, sum, &err), -CAS_E_CORRUPT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(tables_are_whole),
                cmocka_unit_test(every_bit_of_a_table_counts),
                cmocka_unit_test(every_bit_of_a_log_counts),
                cmocka_unit_test(what_is_no_table_is_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
