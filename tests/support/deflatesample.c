/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/deflatesample.h"

const char *const deflate_sample_names[DEFLATE_SAMPLE_COUNT] = {
        "text", "tar", "binary", "random", "zeros", "far", "short", "mixed",
};

/* xorshift64*, high half. */
static uint32_t next(uint64_t *state)
{
        uint64_t x = *state;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        *state = x;
        return (uint32_t)((x * UINT64_C(0x2545f4914f6cdd1d)) >> 32);
}

static uint32_t below(uint64_t *state, uint32_t n)
{
        return (uint32_t)(((uint64_t)next(state) * n) >> 32);
}

static void text(uint64_t *state, size_t len, struct cas_buf *out)
{
        size_t end = out->len_bytes + len;
        while (out->len_bytes < end) {
                /* A word of the vocabulary is made from its number; small numbers are common. */
                uint32_t word = below(state, 1U << (2 + below(state, 11)));
                uint64_t letters = word * UINT64_C(0x9e3779b97f4a7c15) + 1;
                for (uint32_t n = 2 + word % 9; n > 0; n--)
                        cas_buf_append_byte(out, (uint8_t)('a' + below(&letters, 26)));
                uint32_t what = below(state, 16);
                cas_buf_append_str(out, what == 0   ? ".\n"
                                        : what == 1 ? ", "
                                        : what == 2 ? "\n\t"
                                                    : " ");
        }
        out->len_bytes = end;
}

static void binary(uint64_t *state, size_t len, struct cas_buf *out)
{
        size_t end = out->len_bytes + len;
        for (uint32_t i = 0; out->len_bytes < end; i++) {
                cas_buf_append_le32(out, i);
                cas_buf_append_le32(out, below(state, 5) * 0x01010101U);
                cas_buf_append_le16(out, (uint16_t)below(state, 300));
                cas_buf_append_zero(out, below(state, 3) * 4);
        }
        out->len_bytes = end;
}

static void tar(uint64_t *state, size_t len, struct cas_buf *out)
{
        size_t end = out->len_bytes + len;
        for (uint32_t i = 0; out->len_bytes < end; i++) {
                uint32_t size = below(state, 1U << (4 + below(state, 13)));
                size_t header = out->len_bytes;
                cas_buf_printf(out, "usr/share/doc/package-%u/file-%u.txt", below(state, 40), i);
                cas_buf_append_zero(out, 100 - (out->len_bytes - header));
                cas_buf_printf(out, "0000644%c0000000%c0000000%c%011o%c%011o%c", 0, 0, 0, size, 0,
                               1600000000U + below(state, 100), 0);
                cas_buf_printf(out, "%06o%c 0", below(state, 040000), 0);
                cas_buf_append_zero(out, 512 - (out->len_bytes - header));
                if (below(state, 3) > 0)
                        text(state, size, out);
                else
                        binary(state, size, out);
                cas_buf_append_zero(out, (512 - size % 512) % 512);
        }
        out->len_bytes = end;
}

static void random_bytes(uint64_t *state, size_t len, struct cas_buf *out)
{
        for (; len > 0; len--)
                cas_buf_append_byte(out, (uint8_t)next(state));
}

static void zeros(uint64_t *state, size_t len, struct cas_buf *out)
{
        size_t end = out->len_bytes + len;
        while (out->len_bytes < end) {
                cas_buf_append_zero(out, below(state, 1U << (1 + below(state, 17))));
                random_bytes(state, 1 + below(state, 6), out);
        }
        out->len_bytes = end;
}

static void copy_back(struct cas_buf *out, size_t start, size_t distance, size_t n)
{
        for (; n > 0; n--)
                cas_buf_append_byte(out, distance <= out->len_bytes - start
                                                 ? out->data[out->len_bytes - distance]
                                                 : 'x');
}

static void far_repeats(uint64_t *state, size_t len, struct cas_buf *out)
{
        static const uint32_t around[] = {32768, 32767, 32769, 32506, 32507,
                                          65535, 65536, 16384, 8192};
        size_t start = out->len_bytes, end = start + len;
        while (out->len_bytes < end) {
                random_bytes(state, 1 + below(state, 200), out);
                uint32_t distance = around[below(state, 9)] + below(state, 9) - 4;
                copy_back(out, start, distance, 3 + below(state, 400));
        }
        out->len_bytes = end;
}

static void short_repeats(uint64_t *state, size_t len, struct cas_buf *out)
{
        size_t start = out->len_bytes, end = start + len;
        while (out->len_bytes < end) {
                random_bytes(state, 1 + below(state, 4), out);
                copy_back(out, start, 1 + below(state, 20), 3 + below(state, 300));
        }
        out->len_bytes = end;
}

static void some(enum deflate_sample kind, uint64_t *state, size_t len, struct cas_buf *out)
{
        switch (kind) {
        case DEFLATE_SAMPLE_TEXT:
                text(state, len, out);
                break;
        case DEFLATE_SAMPLE_TAR:
                tar(state, len, out);
                break;
        case DEFLATE_SAMPLE_BINARY:
                binary(state, len, out);
                break;
        case DEFLATE_SAMPLE_RANDOM:
                random_bytes(state, len, out);
                break;
        case DEFLATE_SAMPLE_ZEROS:
                zeros(state, len, out);
                break;
        case DEFLATE_SAMPLE_FAR:
                far_repeats(state, len, out);
                break;
        case DEFLATE_SAMPLE_SHORT:
                short_repeats(state, len, out);
                break;
        case DEFLATE_SAMPLE_MIXED:
        case DEFLATE_SAMPLE_COUNT:
                while (len > 0) {
                        size_t n = cas_min_u64(len, 1000 + below(state, 99000));
                        some((enum deflate_sample)below(state, DEFLATE_SAMPLE_MIXED), state, n,
                             out);
                        len -= n;
                }
                break;
        }
}

void deflate_sample(enum deflate_sample kind, uint32_t seed, size_t len, struct cas_buf *out)
{
        uint64_t state = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + kind;
        some(kind, &state, len, out);
}
