/* SPDX-License-Identifier: Apache-2.0 */
/* What the vectors of the klauspost classes do not show: Huffman codes in themselves, positions
 * that are made smaller, marks that nobody made, levels that did not change from class to class,
 * and the framing of pgzip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/deflate/klauspost.h"
#include "cas/deflate/klauspost_int.h"
#include "cas/digest.h"
#include "tests/support/deflatesample.h"

static uint32_t next_random(uint32_t *seed)
{
        *seed = *seed * 1664525 + 1013904223;
        return *seed >> 8;
}

/* The cost of an optimal code without a limit: joining the two lightest. */
static uint64_t optimal_cost(const uint32_t *freq, unsigned count)
{
        uint64_t weight[288], cost = 0;
        unsigned n = 0;
        for (unsigned i = 0; i < count; i++)
                if (freq[i])
                        weight[n++] = freq[i];
        for (; n > 1; n--) {
                for (unsigned k = 0; k < 2; k++) /* the two lightest to the end */
                        for (unsigned i = 0; i + 1 < n - k; i++)
                                if (weight[i] < weight[i + 1]) {
                                        uint64_t w = weight[i];
                                        weight[i] = weight[i + 1];
                                        weight[i + 1] = w;
                                }
                weight[n - 2] += weight[n - 1];
                cost += weight[n - 2];
        }
        return cost;
}

static void codes(void **state CAS_UNUSED)
{
        static struct cas_kp_code c;
        uint32_t seed = 1;
        for (unsigned round = 0; round < 400; round++) {
                uint32_t freq[286] = {0};
                unsigned count = 3 + next_random(&seed) % 284, limit = round % 2 ? 15 : 9;
                unsigned shape = round % 5, used = 0;
                for (unsigned i = 0; i < count; i++) {
                        uint32_t r = next_random(&seed);
                        freq[i] = shape == 0   ? r % 3
                                  : shape == 1 ? r % 60000
                                  : shape == 2 ? 1U << r % 16
                                  : shape == 3 ? (r % 7 ? 0 : 1 + r % 100)
                                               : 1;
                        used += freq[i] > 0;
                }
                cas_kp_code_make(&c, freq, count, limit);
                uint32_t kraft = 0;
                unsigned longest = 0;
                for (unsigned i = 0; i < count; i++) {
                        assert_int_equal(c.length[i] > 0, freq[i] > 0);
                        assert_true(c.length[i] <= limit);
                        longest = c.length[i] > longest ? c.length[i] : longest;
                        kraft += c.length[i] ? 1U << (15 - c.length[i]) : 0;
                }
                if (used > 1)
                        assert_int_equal(kraft, 1U << 15);
                if (used > 1 && longest < limit)
                        assert_int_equal(cas_kp_code_size(&c, freq, count),
                                         optimal_cost(freq, count));
        }
}

/* The same tokens, whatever number the positions begin with. */
static void rebase(void **state CAS_UNUSED)
{
        static struct cas_kp_finder *(*const finder_new[])(enum cas_kp_date) = {
                cas_kp_level1_new, cas_kp_level2_new, cas_kp_level3_new,
                cas_kp_level4_new, cas_kp_level5_new, cas_kp_level6_new,
        };
        static const enum cas_kp_date dates[] = {CAS_KP_2020_02, CAS_KP_2022_09, CAS_KP_GO_1_27};
        cas_cleanup_buf struct cas_buf data = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 31, 100000, &data);
        cas_buf_append_zero(&data, CAS_KP_SLACK_BYTES);
        struct cas_kp_tokens *a = cas_xmalloc(sizeof *a), *b = cas_xmalloc(sizeof *b);
        for (unsigned i = 0; i < CAS_COUNT(finder_new) * CAS_COUNT(dates); i++) {
                enum cas_kp_date date = dates[i % CAS_COUNT(dates)];
                struct cas_kp_finder *f = finder_new[i / CAS_COUNT(dates)](date);
                struct cas_kp_finder *g = finder_new[i / CAS_COUNT(dates)](date);
                const uint32_t base = 65535, far = 1U << 30, less = far - base;
                cas_kp_tokens_clear(a);
                f->ops->encode(f, data.data, 0, 50000, base, a);
                cas_kp_tokens_clear(a);
                f->ops->encode(f, data.data, 50000, 100000, base, a);
                cas_kp_tokens_clear(b);
                g->ops->encode(g, data.data, 0, 50000, far, b);
                g->ops->rebase(g, less);
                cas_kp_tokens_clear(b);
                g->ops->encode(g, data.data, 50000, 100000, far - less, b);
                assert_true(a->count > 0);
                assert_int_equal(a->count, b->count);
                assert_memory_equal(a->token, b->token, a->count * sizeof *a->token);
                assert_memory_equal(a->literals, b->literals, sizeof a->literals);
                f->ops->free(f);
                g->ops->free(g);
        }
        free(a);
        free(b);
}

static void encode(const struct cas_deflate_class *class, int level, const uint8_t *data,
                   size_t len, struct cas_buf *out)
{
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e = class->create(class, level);
        size_t third = len / 3;
        e->ops->begin(e, data, third);
        e->ops->write(e, data + third, third, out);
        e->ops->end(e, CAS_DEFLATE_END_SYNC, out);
        e->ops->write(e, data + 2 * third, len - 2 * third, out);
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

static void unchanged_levels(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf data = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 32, 300000, &data);
        const struct cas_deflate_class *go = cas_deflate_class_by_name("go-1.27");
        assert_ptr_equal(cas_deflate_class_first(go, 5),
                         cas_deflate_class_by_name("klauspost-2025-12"));
        assert_ptr_equal(cas_deflate_class_first(go, 9), go);
        assert_ptr_equal(cas_deflate_class_first(go, 0),
                         cas_deflate_class_by_name("klauspost-2020-02b"));
        const struct cas_deflate_class *other = cas_deflate_class_by_name("go-1.26");
        assert_ptr_equal(cas_deflate_class_first(other, 5), other);
        unsigned same = 0;
        for (unsigned i = 0; i < CAS_KLAUSPOST_CLASS_COUNT; i++)
                for (int level = -2; level <= 9; level++) {
                        const struct cas_deflate_class *class = &cas_klauspost_classes[i];
                        if (level == -1 || cas_deflate_class_first(class, level) == class)
                                continue;
                        cas_cleanup_buf struct cas_buf a = CAS_BUF_INIT, b = CAS_BUF_INIT;
                        encode(class, level, data.data, data.len_bytes, &a);
                        encode(cas_deflate_class_first(class, level), level, data.data,
                               data.len_bytes, &b);
                        assert_int_equal(a.len_bytes, b.len_bytes);
                        assert_memory_equal(a.data, b.data, a.len_bytes);
                        same++;
                }
        assert_true(same > 0);
}

static void odd_marks(void **state CAS_UNUSED)
{
        static const int levels[] = {-2, 5, 9};
        static const uint8_t window[1000];
        for (unsigned i = 0; i < CAS_COUNT(levels); i++) {
                struct cas_err err = CAS_ERR_INIT;
                const struct cas_deflate_class *class = &cas_klauspost_classes[CAS_KP_2022_09];
                cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                        class->create(class, levels[i]);
                struct cas_deflate_mark m = {.in_bytes = 1000, .state_bytes = 1};
                assert_int_equal(e->ops->restart(e, &m, window, 1000, &err), -CAS_E_INVALID);
                m.state_bytes = CAS_DEFLATE_STATE_BYTES_MAX + 1;
                assert_int_equal(e->ops->restart(e, &m, window, 1000, &err), -CAS_E_INVALID);
                m.state_bytes = 2;
                m.state[0] = 8; /* bits of a byte */
                assert_int_equal(e->ops->restart(e, &m, window, 1000, &err), -CAS_E_INVALID);
                m.state[0] = 3;
                m.state[1] = 8; /* more than three bits */
                assert_int_equal(e->ops->restart(e, &m, window, 1000, &err), -CAS_E_INVALID);
        }
        /* A history longer than the window. */
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_deflate_class *class = &cas_klauspost_classes[CAS_KP_2022_09];
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e = class->create(class, 5);
        struct cas_deflate_mark m = {.in_bytes = 1000, .state_bytes = 5, .state = {0, 0, 0xe9, 3}};
        assert_int_equal(e->ops->restart(e, &m, window, 1000, &err), -CAS_E_INVALID);
        m.state[2] = 0xe8;
        assert_int_equal(e->ops->restart(e, &m, window, 1000, &err), 0);
}

/* Made with klauspost/pgzip on klauspost/compress v1.17.11, less header and trailer: runs of 1 MiB,
 * each with the last 16 KiB of the one before as dictionary, each flushed; the last one, which may
 * be empty, is finished behind that. */
static void pgzip(void **state CAS_UNUSED)
{
        static const struct {
                size_t len;
                const char *sha256;
        } wants[] = {
                {1500000, "9722d7483660dab46461f1dc52a7d400dc85e895ed7f4b144bb1bebf357d43b4"},
                {1048576, "e40eb561061e64b2b890b1b4e7f016f2d9c5753afabd3b30e94b4ec27ca6a308"},
        };
        const struct cas_deflate_class *class = cas_deflate_class_by_name("klauspost-2023-01");
        for (unsigned i = 0; i < CAS_COUNT(wants); i++) {
                const size_t block = 1U << 20, tail = 16384;
                cas_cleanup_buf struct cas_buf data = CAS_BUF_INIT, out = CAS_BUF_INIT;
                deflate_sample(DEFLATE_SAMPLE_TAR, 33, wants[i].len, &data);
                cas_cleanup_deflate_encoder struct cas_deflate_encoder *e = class->create(class, 5);
                for (size_t at = 0; at <= data.len_bytes; at += block) {
                        size_t n = data.len_bytes - at < block ? data.len_bytes - at : block;
                        e->ops->begin(e, at > 0 ? data.data + at - tail : NULL, at > 0 ? tail : 0);
                        e->ops->write(e, data.data + at, n, &out);
                        e->ops->end(e, CAS_DEFLATE_END_SYNC, &out);
                        if (n < block)
                                e->ops->end(e, CAS_DEFLATE_END_FINISH, &out);
                }
                struct cas_hash hash;
                char hex[65];
                cas_sha256(out.data, out.len_bytes, &hash);
                for (unsigned k = 0; k < 32; k++)
                        snprintf(hex + 2 * k, 3, "%02x", hash.bytes[k]);
                assert_string_equal(hex, wants[i].sha256);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(codes),     cmocka_unit_test(rebase),
                cmocka_unit_test(odd_marks), cmocka_unit_test(unchanged_levels),
                cmocka_unit_test(pgzip),
        };
        return cmocka_run_group_tests_name("klauspost", tests, NULL, NULL);
}
