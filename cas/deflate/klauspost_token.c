/* SPDX-License-Identifier: Apache-2.0 */
/* The tokens of a block of klauspost's encoders. The estimates are sums of single precision numbers
 * in a fixed order: each operation must round by itself, so no fused multiply and add. */
#include <math.h>

#include "cas/deflate/klauspost_int.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#define ROUND_EACH
#else
#define ROUND_EACH __attribute__((optimize("fp-contract=off")))
#endif
_Static_assert(__FLT_EVAL_METHOD__ == 0, "single precision must be kept");

const uint8_t cas_kp_length_extra[29] = {
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
};
const uint8_t cas_kp_distance_extra[30] = {
        0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
        6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
};

#define TIMES4(x) x, x, x, x
#define TIMES8(x) TIMES4(x), TIMES4(x)
#define TIMES16(x) TIMES8(x), TIMES8(x)
#define TIMES32(x) TIMES16(x), TIMES16(x)
#define TIMES64(x) TIMES32(x), TIMES32(x)
const uint8_t cas_kp_length_symbol[256] = {
        0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 10, 10, 11, 11, TIMES4(12), TIMES4(13), TIMES4(14),
        TIMES4(15), TIMES8(16), TIMES8(17), TIMES8(18), TIMES8(19), TIMES16(20), TIMES16(21),
        TIMES16(22), TIMES16(23), TIMES32(24), TIMES32(25), TIMES32(26),
        /* 258 is a symbol of its own. */
        TIMES16(27), TIMES8(27), TIMES4(27), 27, 27, 27, 28};
const uint8_t cas_kp_distance_symbol[512] = {
        /* distance - 1 below 256 */
        0, 1, 2, 3, 4, 4, 5, 5, TIMES4(6), TIMES4(7), TIMES8(8), TIMES8(9), TIMES16(10),
        TIMES16(11), TIMES32(12), TIMES32(13), TIMES64(14), TIMES64(15),
        /* (distance - 1) / 128 */
        14, 15, 16, 17, 18, 18, 19, 19, TIMES4(20), TIMES4(21), TIMES8(22), TIMES8(23), TIMES16(24),
        TIMES16(25), TIMES32(26), TIMES32(27), TIMES64(28), TIMES64(29)};

void cas_kp_tokens_clear(struct cas_kp_tokens *t)
{
        memset(t, 0, offsetof(struct cas_kp_tokens, token));
}

void cas_kp_match_long(struct cas_kp_tokens *t, enum cas_kp_date date, uint32_t length,
                       uint32_t distance)
{
        while (length > 258) {
                uint32_t part = cas_kp_match_part(date, length);
                cas_kp_match(t, part, distance);
                length -= part;
        }
        cas_kp_match(t, length, distance);
}

void cas_kp_tokens_count(struct cas_kp_tokens *t)
{
        /* By turns, so that equal neighbours do not wait for each other. */
        uint32_t symbols[2][512] = {{0}};
        t->token[t->count] = 0;
        for (uint32_t i = 0; i < t->count; i += 2) {
                symbols[0][t->token[i] >> 15 & 0x1ff]++;
                symbols[1][t->token[i + 1] >> 15 & 0x1ff]++;
        }
        if (t->count & 1)
                symbols[1][0]--;
        for (unsigned i = 0; i < 256; i++) {
                t->literals[i] += symbols[0][i] + symbols[1][i];
                t->lengths[1 + cas_kp_length_symbol[i]] +=
                        symbols[0][256 + i] + symbols[1][256 + i];
        }
}

/* About the binary logarithm: a parabola for the fraction. */
ROUND_EACH static float log2_about(float value)
{
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        float whole = (float)((int32_t)(bits >> 23 & 255) - 128);
        bits = (bits & UINT32_C(0x807fffff)) + (UINT32_C(127) << 23);
        float part;
        memcpy(&part, &bits, sizeof part);
        float sum = -0.34484843F * part;
        sum = sum + 2.02466578F;
        sum = sum * part;
        sum = sum - 0.67487759F;
        return whole + sum;
}

/* Adds what `count` symbols of share count * inverse are thought to need. */
ROUND_EACH static float add_cost(float sum, uint32_t count, float inverse, float least, float most)
{
        float n = (float)count;
        float share = n * inverse;
        float cost = -log2_about(share);
        cost = cost < least ? least : cost > most ? most : cost;
        float all = cost * n;
        return sum + all;
}

uint32_t cas_kp_tokens_estimate(const struct cas_kp_tokens *t, enum cas_kp_date date,
                                uint32_t total)
{
        float least = date >= CAS_KP_2021_05 ? 1.0F : -INFINITY;
        float most = date >= CAS_KP_2021_05 ? 15.0F : INFINITY;
        float sum = 0;
        uint32_t extra = 0, matches = 0;
        if (total > 0) {
                float inverse = 1.0F / (float)total;
                for (unsigned i = 0; i < 256; i++)
                        if (t->literals[i])
                                sum = add_cost(sum, t->literals[i], inverse, least, most);
                sum = sum + 15.0F; /* the end of the block */
                for (unsigned i = 0; i < 29; i++) {
                        uint32_t n = t->lengths[1 + i];
                        if (n) {
                                sum = add_cost(sum, n, inverse, least, most);
                                extra += cas_kp_length_extra[i] * n;
                                matches += n;
                        }
                }
        }
        if (matches > 0) {
                float inverse = 1.0F / (float)matches;
                for (unsigned i = 0; i < 30; i++) {
                        uint32_t n = t->distances[i];
                        if (n) {
                                sum = add_cost(sum, n, inverse, least, most);
                                extra += cas_kp_distance_extra[i] * n;
                        }
                }
        }
        return (uint32_t)((int32_t)sum + (int32_t)extra);
}

uint32_t cas_kp_literals_estimate(const uint32_t freq[256], uint32_t total)
{
        float sum = 0, inverse = 1.0F / (float)total;
        for (unsigned i = 0; i < 256; i++)
                if (freq[i])
                        sum = add_cost(sum, freq[i], inverse, 1.0F, INFINITY);
        return (uint32_t)(sum + 0.99F);
}

ROUND_EACH uint32_t cas_kp_absent_estimate(unsigned absent, uint32_t total)
{
        float inverse = 1.0F / (float)total;
        float each = add_cost(0, 1, inverse, 1.0F, INFINITY), sum = 0;
        for (unsigned i = 0; i < absent; i++)
                sum = sum + each;
        return (uint32_t)(sum + 0.99F);
}
