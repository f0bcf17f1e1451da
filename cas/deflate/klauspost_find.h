/* SPDX-License-Identifier: Apache-2.0 */
/* What klauspost's match finders have in common: loads, hashes, lengths of matches. */
#ifndef CAS_KLAUSPOST_FIND_H
#define CAS_KLAUSPOST_FIND_H

#include "cas/deflate/klauspost_int.h"

static inline uint32_t cas_kp_load32(const uint8_t *p)
{
        uint32_t v;
        memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap32(v);
#endif
        return v;
}
static inline uint64_t cas_kp_load64(const uint8_t *p)
{
        uint64_t v;
        memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap64(v);
#endif
        return v;
}

/* Of the lowest 4, 5, 6, 7 or 8 bytes, `bits` wide. */
static inline uint32_t cas_kp_hash4(uint64_t v, unsigned bits)
{
        return ((uint32_t)v * UINT32_C(2654435761)) >> (32 - bits);
}
static inline uint32_t cas_kp_hash5(uint64_t v, unsigned bits)
{
        return (uint32_t)(((v << 24) * UINT64_C(889523592379)) >> (64 - bits));
}
static inline uint32_t cas_kp_hash6(uint64_t v, unsigned bits)
{
        return (uint32_t)(((v << 16) * UINT64_C(227718039650203)) >> (64 - bits));
}
static inline uint32_t cas_kp_hash7(uint64_t v, unsigned bits)
{
        return (uint32_t)(((v << 8) * UINT64_C(58295818150454627)) >> (64 - bits));
}
static inline uint32_t cas_kp_hash8(uint64_t v, unsigned bits)
{
        return (uint32_t)((v * UINT64_C(0xcf1bbcdcb7a56463)) >> (64 - bits));
}

/* How many bytes at a and b are equal, `most` at the most. May read CAS_KP_SLACK_BYTES behind. */
static inline uint32_t cas_kp_equal(const uint8_t *a, const uint8_t *b, uint32_t most)
{
        for (uint32_t n = 0; n < most; n += 8) {
                uint64_t differ = cas_kp_load64(a + n) ^ cas_kp_load64(b + n);
                if (differ) {
                        n += (uint32_t)__builtin_ctzll(differ) >> 3;
                        return n < most ? n : most;
                }
        }
        return most;
}
/* Of the next 16 bytes; without a branch. */
static inline uint32_t cas_kp_equal16(const uint8_t *a, const uint8_t *b)
{
        uint64_t low = cas_kp_load64(a) ^ cas_kp_load64(b);
        uint64_t high = cas_kp_load64(a + 8) ^ cas_kp_load64(b + 8);
        uint64_t differ = low ? low : high;
        uint32_t n = differ ? (uint32_t)__builtin_ctzll(differ) >> 3 : 8;
        return n + (low ? 0 : 8);
}
/* How many bytes before a and b are equal, no more than either number. */
static inline uint32_t cas_kp_equal_back(const uint8_t *a, const uint8_t *b, uint32_t most_a,
                                         uint32_t most_b)
{
        uint32_t n = 0;
        if (__builtin_expect(most_b >= 8, 1)) {
                uint64_t differ = cas_kp_load64(a - 8) ^ cas_kp_load64(b - 8);
                if (differ) {
                        n = (uint32_t)__builtin_clzll(differ) >> 3;
                        return n < most_a ? n : most_a;
                }
                if (most_a <= 8)
                        return most_a;
                n = 8;
        }
        while (n < most_a && n < most_b && a[-1 - (ptrdiff_t)n] == b[-1 - (ptrdiff_t)n])
                n++;
        return n;
}

/* Where position 0 would be, when data[0] has position base: only what is added to it counts. */
static inline const uint8_t *cas_kp_origin(const uint8_t *data, uint32_t base)
{
        return (const uint8_t *)((uintptr_t)data - base);
}

/* The following take positions. 0 when `candidate` is in reach of s and has the four bytes that are
 * at s; without a branch. */
static inline uint32_t cas_kp_miss(const uint8_t *origin, uint32_t s, uint32_t candidate,
                                   uint32_t bytes)
{
        uint32_t distance = s - candidate;
        uint32_t at = distance < CAS_KP_REACH ? candidate : s;
        return (cas_kp_load32(origin + at) ^ bytes) | distance >> 15;
}
/* Length of a match, of which the first four bytes are known. */
static inline uint32_t cas_kp_length(const uint8_t *origin, uint32_t s, uint32_t t, uint32_t end)
{
        uint32_t n = 4 + cas_kp_equal16(origin + s + 4, origin + t + 4);
        if (n == 20)
                n += cas_kp_equal(origin + s + 20, origin + t + 20,
                                  end - s > 20 ? end - s - 20 : 0);
        return n < end - s ? n : end - s;
}
/* As lengths are compared with each other. */
static inline uint32_t cas_kp_limited(uint32_t length)
{
        return length < 258 ? length : 258;
}

/* Tokens are added without counting bytes and lengths: cas_kp_tokens_count does it for the whole
 * block. */
static inline void cas_kp_run(struct cas_kp_tokens *t, const uint8_t *data, uint32_t len)
{
        typedef uint8_t eight_bytes __attribute__((vector_size(8)));
        typedef uint32_t eight_words __attribute__((vector_size(32)));
        uint32_t *at = t->token + t->count;
        for (uint32_t i = 0; i < len; i += 8) {
                eight_bytes bytes;
                memcpy(&bytes, data + i, sizeof bytes);
                eight_words words =
                        __builtin_convertvector(bytes, eight_words) << 15 | CAS_KP_LITERAL_TOKEN(0);
                memcpy(at + i, &words, sizeof words);
        }
        t->count += len;
}
static inline void cas_kp_match_quick(struct cas_kp_tokens *t, enum cas_kp_date date,
                                      uint32_t length, uint32_t distance)
{
        while (__builtin_expect(length > 258, 0)) {
                uint32_t part = cas_kp_match_part(date, length);
                cas_kp_match_token(t, part, distance);
                length -= part;
        }
        cas_kp_match_token(t, length, distance);
}

/* For tables of positions, and of two positions an entry. */
static inline void cas_kp_rebase32(uint32_t *table, size_t count, uint32_t less)
{
        for (size_t i = 0; i < count; i++)
                table[i] = table[i] > less ? table[i] - less : 0;
}
static inline void cas_kp_rebase64(uint64_t *table, size_t count, uint32_t less)
{
        for (size_t i = 0; i < count; i++) {
                uint32_t low = (uint32_t)table[i], high = (uint32_t)(table[i] >> 32);
                table[i] = (uint64_t)(high > less ? high - less : 0) << 32 |
                           (low > less ? low - less : 0);
        }
}

#endif
