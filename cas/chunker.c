/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/chunker.h"

#include <pthread.h>

#include "cas/digest.h"

_Static_assert(CAS_CHUNKER_BYTES_MAX <= CAS_CHUNK_BYTES_MAX, "chunks fit the format");
_Static_assert(CAS_CHUNKER_BYTES_MAX <= CAS_CHUNK_SMALL_BYTES_MAX,
               "a file that is cut has at least two chunks");
_Static_assert(CAS_CHUNKER_BYTES_MIN % 2 == 0 && CAS_CHUNKER_BYTES_NORMAL % 2 == 0,
               "the scan goes by two bytes");

/* The highest bits of the hash depend on the most bytes (64 of them), and none
 * of them is lost when the two-byte step tests the hash shifted by one. */
#define BITS_BEFORE_NORMAL 18
#define BITS_AFTER_NORMAL 15
#define MASK_BEFORE (((UINT64_C(1) << BITS_BEFORE_NORMAL) - 1) << (64 - BITS_BEFORE_NORMAL))
#define MASK_AFTER (((UINT64_C(1) << BITS_AFTER_NORMAL) - 1) << (64 - BITS_AFTER_NORMAL))

#define GEAR_LABEL "lamina chunker gear 1"

static uint64_t gear[256];
static pthread_once_t gear_once = PTHREAD_ONCE_INIT;

/* gear[i] is the first 8 bytes, little-endian, of SHA-256(label ‖ byte i). */
static void make_gear(void)
{
        for (unsigned i = 0; i < CAS_COUNT(gear); i++) {
                uint8_t text[sizeof(GEAR_LABEL)] = GEAR_LABEL;
                struct cas_hash hash;
                text[sizeof(text) - 1] = (uint8_t)i; /* in place of the NUL */
                cas_sha256(text, sizeof(text), &hash);
                gear[i] = cas_get_le64(hash.bytes);
        }
}

/* The first position after `at` and up to `end` behind which the hash has no
 * bit of mask; 0 when there is none. (end - at) is even. */
static size_t scan(const uint8_t *data, size_t at, size_t end, uint64_t mask, uint64_t *state)
{
        uint64_t hash = *state;
        for (; at < end; at += 2) {
                /* One multiplication by four for two bytes; the odd position
                 * is hash << 1 | …, so it is tested before it is shifted out. */
                uint64_t odd = (hash << 1) + gear[data[at]];
                hash = (odd << 1) + gear[data[at + 1]];
                if (__builtin_expect((odd & mask) == 0, 0))
                        return at + 1;
                if (__builtin_expect((hash & mask) == 0, 0))
                        return at + 2;
        }
        *state = hash;
        return 0;
}

size_t cas_chunker_cut(const uint8_t *data, size_t len)
{
        (void)pthread_once(&gear_once, make_gear);
        if (len <= CAS_CHUNKER_BYTES_MIN)
                return len;
        size_t end = cas_min_u64(len, CAS_CHUNKER_BYTES_MAX);
        size_t even = end & ~(size_t)1; /* an odd last byte cannot be cut before */
        size_t normal = cas_min_u64(even, CAS_CHUNKER_BYTES_NORMAL);
        uint64_t hash = 0;
        size_t cut = scan(data, CAS_CHUNKER_BYTES_MIN, normal, MASK_BEFORE, &hash);
        if (cut == 0)
                cut = scan(data, normal, even, MASK_AFTER, &hash);
        return cut ? cut : end;
}
