/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/klauspost_window.h"

#define NEAR_BYTES 4096U /* matches of 4 bytes are worth it up to here */
#define END_MOVED_MAX 2U /* the first bytes of a match that another one need not have */

void cas_kp_window_clear(struct cas_kp_window *w)
{
        memset(w->head, 0, sizeof(w->head));
        memset(w->before, 0, sizeof(w->before));
        w->start = 0;
}

static void places_shift(uint16_t *places, size_t count)
{
        for (size_t i = 0; i < count; i++)
                places[i] = places[i] > CAS_KP_CHAIN_WINDOW_BYTES
                                    ? (uint16_t)(places[i] - CAS_KP_CHAIN_WINDOW_BYTES)
                                    : 0;
}

void cas_kp_window_shift(struct cas_kp_window *w)
{
        memcpy(w->bytes, w->bytes + CAS_KP_CHAIN_WINDOW_BYTES, CAS_KP_CHAIN_WINDOW_BYTES);
        places_shift(w->head, CAS_COUNT(w->head));
        places_shift(w->before, CAS_COUNT(w->before));
        w->start = w->start > CAS_KP_CHAIN_WINDOW_BYTES ? w->start - CAS_KP_CHAIN_WINDOW_BYTES : 0;
}

/* ------------------------------------------------------------------ prices */
/* Bits of a code for these bytes alone. Counts are 16 bits wide: 65536 is 0. */
static void price_by_code(struct cas_kp_window *w, const struct cas_kp_chain_params *p,
                          uint32_t from, uint32_t end)
{
        uint32_t freq[256] = {0};
        struct cas_kp_code code;
        uint32_t n = end - from < p->price_bytes_max ? end - from : p->price_bytes_max;
        for (uint32_t i = 0; i < n; i++)
                freq[w->bytes[from + i]]++;
        for (unsigned i = 0; i < 256; i++)
                freq[i] &= 0xffff;
        cas_kp_code_make(&code, freq, 256, 15);
        for (unsigned i = 0; i < 256; i++)
                if (code.length[i] == 0)
                        code.length[i] = p->price_absent;
        uint32_t sum = 0;
        for (uint32_t i = from; i < end; i++) {
                w->price[i] = sum;
                sum += code.length[w->bytes[i]];
        }
        w->price[end] = sum;
}

#define LOG2_FRACTION_BITS 48U

/* The binary logarithm of total / n, 1 <= n <= total < 2^17, in units of 2^-48, rounded down; exact
 * for powers of two. */
static uint64_t log2_ratio(uint32_t total, uint32_t n)
{
        unsigned whole = 0;
        while (total >> (whole + 1) >= n)
                whole++;
        /* 1 to below 2, in units of 2^-63 */
        uint64_t rest = (uint64_t)(((unsigned __int128)total << (63 - whole)) / n);
        uint64_t log2 = whole;
        for (unsigned i = 0; i < LOG2_FRACTION_BITS; i++) {
                unsigned __int128 square = (unsigned __int128)rest * rest;
                unsigned bit = (unsigned)(square >> 127);
                rest = (uint64_t)(square >> (63 + bit));
                log2 = log2 << 1 | bit;
        }
        return log2;
}

/* What a literal needs in the mean, by the entropy of these bytes: rounded up for each value of a
 * byte, down in the end, and one more. */
static void price_by_entropy(struct cas_kp_window *w, uint32_t from, uint32_t end)
{
        uint32_t freq[256] = {0};
        for (uint32_t i = from; i < end; i++)
                freq[w->bytes[i]]++;
        uint64_t bits = 0, unit = UINT64_C(1) << LOG2_FRACTION_BITS;
        for (unsigned i = 0; i < 256; i++)
                if (freq[i] > 0)
                        bits += (uint64_t)(((unsigned __int128)log2_ratio(end - from, freq[i]) *
                                                    freq[i] +
                                            unit - 1) /
                                           unit);
        w->entropy_bits = (int32_t)(1 + bits / (end - from));
}

void cas_kp_window_price(struct cas_kp_window *w, const struct cas_kp_chain_params *p,
                         uint32_t from, uint32_t end, bool sync)
{
        if (from == end)
                return;
        if (p->choice == CAS_KP_CHOICE_PRICES)
                price_by_code(w, p, from, end);
        if (p->choice == CAS_KP_CHOICE_ENTROPY) {
                w->entropy_bits = 8;
                if (!sync)
                        price_by_entropy(w, from, end);
        }
}

/* ------------------------------------------------------------------ search */
/* The original takes the extra bits of the next distance for those of this one, and 6 for the
 * distance that has no next one. */
static inline int32_t extra_bits_taken(uint32_t length, uint32_t distance)
{
        int32_t bits = distance == CAS_KP_CHAIN_WINDOW_BYTES
                               ? 6
                               : cas_kp_distance_extra[cas_kp_distance_code(distance + 1)];
        return bits + cas_kp_length_extra[cas_kp_length_symbol[length - 3]];
}

/* Constant `choice` makes this four functions. A candidate is better only if it is longer, so the
 * four bytes that end one further are compared first. */
static inline __attribute__((always_inline)) struct cas_kp_found
find(const struct cas_kp_window *w, const struct cas_kp_chain_params *p, uint32_t at, uint32_t head,
     uint32_t lookahead, enum cas_kp_choice choice)
{
        const uint8_t *here = w->bytes + at;
        uint32_t most = lookahead < CAS_KP_LENGTH_MAX ? lookahead : CAS_KP_LENGTH_MAX;
        uint32_t nice = p->nice < most ? p->nice : most;
        uint32_t low = at > CAS_KP_CHAIN_WINDOW_BYTES ? at - CAS_KP_CHAIN_WINDOW_BYTES : 0;
        struct cas_kp_found best = {CAS_KP_LENGTH_NONE, 0};
        int32_t best_gain =
                choice == CAS_KP_CHOICE_ENTROPY ? 4 * w->entropy_bits - 12 : p->gain_min;
        uint32_t wanted = cas_kp_load32(here);
        const uint8_t *ends = w->bytes; /* of candidates, by their places */
        for (uint32_t tries = p->tries; tries > 0; tries--) {
                uint32_t i = head - 1;
                if (cas_kp_load32(ends + i) == wanted) {
                        uint32_t n = cas_kp_equal(here, w->bytes + i, most);
                        bool better = n > best.length;
                        int32_t gain = 0;
                        if (better && choice == CAS_KP_CHOICE_NEAR)
                                better = n > CAS_KP_LENGTH_MIN || at - i <= NEAR_BYTES;
                        if (better && choice == CAS_KP_CHOICE_ENTROPY)
                                gain = (int32_t)n * w->entropy_bits - (32 - __builtin_clz(at - i));
                        if (better && choice == CAS_KP_CHOICE_PRICES)
                                gain = (int32_t)(w->price[at + n] - w->price[at]) -
                                       p->price_of_match - extra_bits_taken(n, at - i);
                        if (choice == CAS_KP_CHOICE_ENTROPY || choice == CAS_KP_CHOICE_PRICES)
                                better = better && gain > best_gain;
                        if (better) {
                                best = (struct cas_kp_found){n, at - i};
                                best_gain = gain;
                                if (n >= nice)
                                        break;
                                wanted = cas_kp_load32(here + n - 3);
                                ends = w->bytes + n - 3;
                        }
                }
                if (i <= low)
                        break;
                head = w->before[i % CAS_KP_CHAIN_WINDOW_BYTES];
                if (head <= low)
                        break;
        }
        return best;
}

struct cas_kp_found cas_kp_window_find(const struct cas_kp_window *w,
                                       const struct cas_kp_chain_params *p, uint32_t at,
                                       uint32_t head, uint32_t lookahead)
{
        switch (p->choice) {
        case CAS_KP_CHOICE_NEAR:
                return find(w, p, at, head, lookahead, CAS_KP_CHOICE_NEAR);
        case CAS_KP_CHOICE_ENTROPY:
                return find(w, p, at, head, lookahead, CAS_KP_CHOICE_ENTROPY);
        case CAS_KP_CHOICE_LENGTH:
                return find(w, p, at, head, lookahead, CAS_KP_CHOICE_LENGTH);
        case CAS_KP_CHOICE_PRICES:
                return find(w, p, at, head, lookahead, CAS_KP_CHOICE_PRICES);
        }
        cas_assert(false);
        return (struct cas_kp_found){0};
}

/* ------------------------------------------------------------------ ends of matches */
/* Index of the latest place that is like the one at `at`, -1 for none. */
static int32_t latest(const struct cas_kp_window *w, uint32_t at)
{
        uint32_t value = cas_kp_load32(w->bytes + at);
        return (int32_t)w->head[cas_kp_hash4(value, CAS_KP_CHAIN_HASH_BITS)] - 1;
}

static int32_t lowest(uint32_t at)
{
        return at > CAS_KP_CHAIN_WINDOW_BYTES ? (int32_t)(at - CAS_KP_CHAIN_WINDOW_BYTES) : 0;
}

struct cas_kp_found cas_kp_window_end_same(const struct cas_kp_window *w, uint32_t next,
                                           uint32_t insert_end, uint32_t lookahead,
                                           struct cas_kp_found m)
{
        uint32_t at = next - 1;
        if (at + m.length + 2 >= insert_end)
                return m;
        int32_t other = latest(w, at + m.length - 2) - (int32_t)m.length + 2;
        if (other <= lowest(next))
                return m;
        uint32_t most = lookahead < CAS_KP_LENGTH_MAX ? lookahead : CAS_KP_LENGTH_MAX;
        uint32_t n = cas_kp_equal(w->bytes + at, w->bytes + other, most);
        return n > m.length ? (struct cas_kp_found){n, at - (uint32_t)other} : m;
}

struct cas_kp_found cas_kp_window_end_moved(const struct cas_kp_window *w, uint32_t next,
                                            uint32_t insert_end, uint32_t lookahead,
                                            struct cas_kp_found m, uint32_t *owed)
{
        uint32_t at = next - 1;
        *owed = 0;
        if (m.length >= CAS_KP_LENGTH_MAX - END_MOVED_MAX || at + m.length >= insert_end)
                return m;
        int32_t other = latest(w, at + m.length) - (int32_t)m.length;
        if (other <= lowest(next) + (int32_t)END_MOVED_MAX || at - (uint32_t)other == m.distance)
                return m;
        const uint8_t *a = w->bytes + at, *b = w->bytes + other;
        uint32_t most = lookahead < CAS_KP_LENGTH_MAX + END_MOVED_MAX
                                ? lookahead
                                : CAS_KP_LENGTH_MAX + END_MOVED_MAX;
        uint32_t n = cas_kp_equal(a + END_MOVED_MAX, b + END_MOVED_MAX, most - END_MOVED_MAX);
        if (n <= m.length)
                return m;
        *owed = END_MOVED_MAX;
        while (*owed > 0 && n < CAS_KP_LENGTH_MAX && a[*owed - 1] == b[*owed - 1]) {
                n++;
                (*owed)--;
        }
        return (struct cas_kp_found){n, at - (uint32_t)other};
}
