/* SPDX-License-Identifier: Apache-2.0 */
/* Levels 7 to 9 of the klauspost classes: what the vectors of tests/golden/deflate do not reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cas/deflate/encoder.h"
#include "tests/support/deflatesample.h"

#define SAMPLE_BYTES 200000U
#define MARKS_MAX 64U
#define HOSTILE_PER_MARK 40U

static const char *const classes[] = {"klauspost-2020-02", "klauspost-2022-01",
                                      "klauspost-2022-09b", "go-1.27"};

static uint32_t chance(uint32_t *seed)
{
        *seed = *seed * UINT32_C(1664525) + UINT32_C(1013904223);
        return *seed >> 8;
}

struct marks {
        struct cas_deflate_mark list[MARKS_MAX];
        size_t count;
};

static void encode(struct cas_deflate_encoder *e, const uint8_t *data, size_t len, size_t end_every,
                   struct marks *marks, struct cas_buf *out)
{
        for (size_t at = 0; at < len;) {
                size_t n = cas_min_u64(end_every - at % end_every, 4099);
                n = cas_min_u64(n, len - at);
                e->ops->write(e, data + at, n, out);
                at += n;
                if (at % end_every == 0)
                        e->ops->end(e, CAS_DEFLATE_END_SYNC, out);
                struct cas_deflate_mark now;
                if (!marks || marks->count == MARKS_MAX || !e->ops->mark(e, &now))
                        continue;
                if (marks->count == 0 || marks->list[marks->count - 1].in_bytes != now.in_bytes)
                        marks->list[marks->count++] = now;
        }
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

/* A mark with some bytes changed is refused, or gives some output; under a sanitizer, and with the
 * assertions of the writer, that is all there is to say. */
static void hostile_mark(struct cas_deflate_encoder *e, const struct cas_deflate_mark *mark,
                         const struct cas_buf *sample, uint32_t *seed)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct cas_deflate_mark m = *mark;
        for (uint32_t n = 1 + chance(seed) % 4; n > 0; n--)
                m.state[2 + chance(seed) % (m.state_bytes - 2U)] = (uint8_t)chance(seed);
        size_t at = chance(seed) % 4 ? (size_t)m.in_bytes : chance(seed) % SAMPLE_BYTES;
        if (chance(seed) % 8 == 0)
                m.in_bytes = (uint64_t)chance(seed) << 40 | chance(seed);
        size_t window = cas_min_u64(at, e->class->window_bytes);
        if (chance(seed) % 4 == 0)
                window = chance(seed) % (window + 1);
        if (e->ops->restart(e, &m, sample->data + at - window, window, &err) < 0)
                return;
        size_t left = chance(seed) % (SAMPLE_BYTES - at + 1);
        encode(e, sample->data + at, left, 1 + chance(seed) % 90000, NULL, &out);
        assert_true(out.len_bytes > 0);
}

static void marks_of_nobody(void **state CAS_UNUSED)
{
        uint32_t seed = 1;
        size_t tried = 0;
        for (size_t i = 0; i < CAS_COUNT(classes); i++)
                for (int level = 7; level <= 9; level++) {
                        const struct cas_deflate_class *class =
                                cas_deflate_class_by_name(classes[i]);
                        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                                class->create(class, level);
                        cas_cleanup_buf struct cas_buf sample = CAS_BUF_INIT, out = CAS_BUF_INIT;
                        struct marks marks = {.count = 0};
                        deflate_sample(level == 8 ? DEFLATE_SAMPLE_TEXT : DEFLATE_SAMPLE_MIXED,
                                       (uint32_t)level, SAMPLE_BYTES, &sample);
                        e->ops->begin(e, NULL, 0);
                        encode(e, sample.data, SAMPLE_BYTES,
                               level == 9   ? 20011
                               : level == 8 ? 70001
                                            : 1U << 30,
                               &marks, &out);
                        for (size_t k = 0; k < marks.count; k++)
                                for (unsigned n = 0; n < HOSTILE_PER_MARK; n++, tried++)
                                        hostile_mark(e, &marks.list[k], &sample, &seed);
                }
        assert_true(tried > 500);
}

/* Positions grow beyond 16 bits of literals in a row, and the search begins anew. */
static void long_rows_of_literals(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf sample = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_RANDOM, 3, 300000, &sample);
        for (size_t i = 0; i < CAS_COUNT(classes); i++) {
                const struct cas_deflate_class *class = cas_deflate_class_by_name(classes[i]);
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                cas_cleanup_deflate_encoder struct cas_deflate_encoder *e = class->create(class, 7);
                e->ops->begin(e, NULL, 0);
                encode(e, sample.data, sample.len_bytes, 1U << 30, NULL, &out);
                assert_in_range(out.len_bytes, 300000, 300200);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(marks_of_nobody),
                cmocka_unit_test(long_rows_of_literals),
        };
        return cmocka_run_group_tests_name("klauspost_chain", tests, NULL, NULL);
}
