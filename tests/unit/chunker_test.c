/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <fcntl.h>
#include <cmocka.h>

#include "cas/chunker.h"
#include "cas/digest.h"
#include "tests/support/packs.h"

#define GOLDEN "tests/golden/chunker.txt"

static uint8_t *uniform_bytes(uint64_t seed, size_t len)
{
        struct test_random r = {seed};
        uint8_t *data = cas_xmalloc(len);
        for (size_t i = 0; i < len; i++)
                data[i] = (uint8_t)(test_random_next(&r) >> 56);
        return data;
}

/* spec/chunker.md, step by step. */
static size_t cut_as_specified(const uint8_t *data, size_t n)
{
        static uint64_t gear[256];
        for (unsigned b = 0; gear[255] == 0 && b < 256; b++) {
                uint8_t text[22] = "lamina chunker gear 1";
                struct cas_hash h;
                text[21] = (uint8_t)b;
                cas_sha256(text, 22, &h);
                gear[b] = cas_get_le64(h.bytes);
        }
        if (n <= 32768)
                return n;
        size_t end = n < 262144 ? n : 262144;
        size_t even = end & ~(size_t)1;
        uint64_t hash = 0;
        for (size_t i = 32768; i < even; i++) {
                hash = 2 * hash + gear[data[i]];
                if ((hash & (i < 98304 ? 0xffffc00000000000 : 0xfffe000000000000)) == 0)
                        return i + 1;
        }
        return end;
}

static void cuts_as_specified(void **state CAS_UNUSED)
{
        for (unsigned round = 0; round < 40; round++) {
                struct test_random r = {round};
                size_t len = round < 5 ? 32767 + round : test_random_next(&r) % 700000;
                cas_cleanup_free uint8_t *data = uniform_bytes(round, len + 1);
                for (size_t at = 0; at < len;) {
                        size_t n = cas_chunker_cut(data + at, len - at);
                        assert_int_equal(n, cut_as_specified(data + at, len - at));
                        at += n;
                }
        }
}

static void stays_in_bounds(void **state CAS_UNUSED)
{
        const size_t len = 16 * CAS_MIB;
        cas_cleanup_free uint8_t *data = uniform_bytes(1, len);
        size_t count = 0;
        for (size_t at = 0; at < len; count++) {
                size_t n = cas_chunker_cut(data + at, len - at);
                assert_in_range(n, at + n == len ? 1 : CAS_CHUNKER_BYTES_MIN + 1,
                                CAS_CHUNKER_BYTES_MAX);
                at += n;
        }
        assert_in_range(len / count, 96 * CAS_KIB, 128 * CAS_KIB);
        memset(data, 0, len); /* nothing to cut at: every chunk is the longest */
        assert_int_equal(cas_chunker_cut(data, len), CAS_CHUNKER_BYTES_MAX);
        assert_int_equal(cas_chunker_cut(data, 0), 0);
        assert_int_equal(cas_chunker_cut(data, CAS_CHUNKER_BYTES_MIN), CAS_CHUNKER_BYTES_MIN);
        assert_int_equal(cas_chunker_cut(data, CAS_CHUNKER_BYTES_MIN + 1),
                         CAS_CHUNKER_BYTES_MIN + 1);
}

/* Frozen for ever: stores share by these cuts. */
static void golden_cuts(void **state CAS_UNUSED)
{
        const size_t len = 4 * CAS_MIB + 1;
        cas_cleanup_free uint8_t *data = uniform_bytes(2026, len);
        cas_cleanup_buf struct cas_buf cuts = CAS_BUF_INIT, golden = CAS_BUF_INIT;
        for (size_t at = 0; at < len;) {
                size_t n = cas_chunker_cut(data + at, len - at);
                cas_buf_printf(&cuts, "%zu\n", n);
                at += n;
        }
        if (getenv("LAMINA_WRITE_GOLDEN"))
                test_ok(cas_io_replace_file(cas_io_posix(), AT_FDCWD, "tests/golden", GOLDEN,
                                            cuts.data, cuts.len_bytes, 0644, err));
        test_ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, GOLDEN, 65536, &golden, err));
        assert_string_equal(cas_buf_str(&cuts), cas_buf_str(&golden));
}

static void an_insertion_moves_only_near_cuts(void **state CAS_UNUSED)
{
        const size_t len = 8 * CAS_MIB;
        cas_cleanup_free uint8_t *data = uniform_bytes(9, len);
        cas_cleanup_map struct cas_map *names = cas_map_new();
        size_t shared = 0, count = 0;
        for (unsigned round = 0; round < 2; round++) {
                for (size_t at = 0; at < len; count += round) {
                        struct cas_hash name;
                        bool is_new;
                        size_t n = cas_chunker_cut(data + at, len - at);
                        cas_sha256(data + at, n, &name);
                        (void)cas_map_put(names, name.bytes, CAS_HASH_BYTES, &is_new);
                        shared += round && !is_new;
                        at += n;
                }
                memmove(data + 1000001, data + 1000000, len - 1000001);
        }
        assert_in_range(count - shared, 1, 4); /* at the insertion, and the last */
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(cuts_as_specified),
                cmocka_unit_test(stays_in_bounds),
                cmocka_unit_test(golden_cuts),
                cmocka_unit_test(an_insertion_moves_only_near_cuts),
        };
        return cmocka_run_group_tests_name("chunker", tests, NULL, NULL);
}
