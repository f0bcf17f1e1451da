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
