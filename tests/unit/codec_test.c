/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/codec.h"
#include "tests/support/packs.h"

#define LEN 100000
static const enum cas_codec codecs[] = {CAS_CODEC_LZ4, CAS_CODEC_ZSTD};

static void gives_back_what_it_got(void **state CAS_UNUSED)
{
        struct test_random r = {1};
        static uint8_t data[LEN], frame[LEN], back[LEN];
        test_random_fill(&r, data, LEN);
        for (size_t i = 0; i < CAS_COUNT(codecs); i++) {
                cas_cleanup_compressor struct cas_compressor *c = cas_compressor_new(codecs[i], 1);
                size_t n = cas_compressor_run(c, data, LEN, frame, LEN);
                assert_in_range(n, 1, LEN - 1);
                memset(back, 0, LEN);
                test_ok(cas_codec_decode(codecs[i], frame, n, back, LEN, err));
                assert_memory_equal(back, data, LEN);
                /* Again with the same state. */
                assert_int_equal(cas_compressor_run(c, data, LEN, back, LEN), n);
                assert_memory_equal(back, frame, n);
        }
}

static void says_when_it_does_not_win(void **state CAS_UNUSED)
{
        struct test_random r = {2};
        static uint8_t data[LEN], frame[LEN];
        for (size_t i = 0; i < LEN; i++)
                data[i] = (uint8_t)(test_random_next(&r) >> 40);
        for (size_t i = 0; i < CAS_COUNT(codecs); i++) {
                cas_cleanup_compressor struct cas_compressor *c = cas_compressor_new(codecs[i], 1);
                assert_int_equal(cas_compressor_run(c, data, LEN, frame, LEN - LEN / 16), 0);
        }
}

/* Wrong lengths and flipped bytes never write past the buffer (a sanitizer's job to see), and
 * never pass for another length. */
static void refuses_what_is_damaged(void **state CAS_UNUSED)
{
        struct test_random r = {3};
        static uint8_t data[LEN], frame[LEN];
        struct cas_err err = CAS_ERR_INIT;
        test_random_fill(&r, data, LEN);
        for (size_t i = 0; i < CAS_COUNT(codecs); i++) {
                cas_cleanup_compressor struct cas_compressor *c = cas_compressor_new(codecs[i], 1);
                size_t n = cas_compressor_run(c, data, LEN, frame, LEN);
                cas_cleanup_free uint8_t *out = cas_xmalloc(LEN + 1);
                assert_int_equal(cas_codec_decode(codecs[i], frame, n, out, LEN - 1, &err),
                                 -CAS_E_CORRUPT);
                assert_int_equal(cas_codec_decode(codecs[i], frame, n, out, LEN + 1, &err),
                                 -CAS_E_CORRUPT);
                assert_int_equal(cas_codec_decode(codecs[i], frame, n - 1, out, LEN, &err),
                                 -CAS_E_CORRUPT);
                assert_int_equal(cas_codec_decode(codecs[i], frame, 0, out, LEN, &err),
                                 -CAS_E_CORRUPT);
                for (unsigned k = 0; k < 200; k++) {
                        size_t at = test_random_next(&r) % n;
                        uint8_t old = frame[at];
                        frame[at] ^= (uint8_t)(1 + test_random_next(&r) % 255);
                        int rc = cas_codec_decode(codecs[i], frame, n, out, LEN, &err);
                        assert_true(rc == 0 || rc == -CAS_E_CORRUPT);
                        frame[at] = old;
                }
        }
        assert_int_equal(cas_codec_decode(CAS_CODEC_NONE, data, 5, frame, 6, &err), -CAS_E_CORRUPT);
        assert_int_equal(cas_codec_decode(4, data, 5, frame, 5, &err), -CAS_E_UNSUPPORTED);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(gives_back_what_it_got),
                cmocka_unit_test(says_when_it_does_not_win),
                cmocka_unit_test(refuses_what_is_damaged),
        };
        return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
