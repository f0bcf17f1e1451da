/* SPDX-License-Identifier: Apache-2.0 */
/* The window of the zlib family and the search in it. Positions are indices into a buffer of 64
 * KiB that slides down by 32 KiB; strings of three bytes hang in chains by their hash, the latest
 * first, and 0 ends a chain: the string at index 0 is never found. Which strings are found and
 * which are not is part of the format (spec/deflate-classes.md). */
#ifndef CAS_ZLIBWINDOW_H
#define CAS_ZLIBWINDOW_H

#include "cas/base.h"

#define CAS_ZLIB_WINDOW_BYTES 32768U
#define CAS_ZLIB_BUFFER_BYTES (2 * CAS_ZLIB_WINDOW_BYTES)
#define CAS_ZLIB_MATCH_MAX 258U
/* Input that has to be there before a position is searched, unless it is the end. */
#define CAS_ZLIB_LOOKAHEAD (CAS_ZLIB_MATCH_MAX + 3 + 1)
#define CAS_ZLIB_DISTANCE_MAX (CAS_ZLIB_WINDOW_BYTES - CAS_ZLIB_LOOKAHEAD)
/* At and behind this index the window slides before more input is taken. */
#define CAS_ZLIB_SLIDE_AT (CAS_ZLIB_WINDOW_BYTES + CAS_ZLIB_DISTANCE_MAX)

struct cas_zlib_window {
        uint8_t *bytes; /* owned, with room to read 8 bytes past a match */
        uint16_t *head; /* owned; by hash */
        uint16_t *prev; /* owned; by position modulo 32 KiB */
        uint32_t hash_bits, hash_shift, hash_mask;
};

void cas_zlib_window_init(struct cas_zlib_window *w, uint32_t hash_bits);
void cas_zlib_window_release(struct cas_zlib_window *w);
/* Empties the chains. */
void cas_zlib_window_forget(struct cas_zlib_window *w);
void cas_zlib_window_slide(struct cas_zlib_window *w, bool has_chains);

/* Indices after a slide: what would become negative, and 32 KiB itself, ends a chain. */
void cas_zlib_slide_links(uint16_t *links, uint32_t count);

static inline uint32_t cas_zlib_hash(const struct cas_zlib_window *w, uint32_t at)
{
        const uint8_t *b = w->bytes + at;
        return ((uint32_t)b[0] << 2 * w->hash_shift ^ (uint32_t)b[1] << w->hash_shift ^ b[2]) &
               w->hash_mask;
}

/* Puts the string at `at` in front of its chain; returns what was there. */
static inline uint32_t cas_zlib_insert(struct cas_zlib_window *w, uint32_t at)
{
        uint32_t hash = cas_zlib_hash(w, at);
        uint32_t before = w->head[hash];
        w->prev[at % CAS_ZLIB_WINDOW_BYTES] = (uint16_t)before;
        w->head[hash] = (uint16_t)at;
        return before;
}

/* How many bytes are the same, at most len_max. */
static inline uint32_t cas_zlib_common(const uint8_t *a, const uint8_t *b, uint32_t len_max)
{
        for (uint32_t n = 0; n < len_max; n += 8) {
                uint64_t differ = cas_get_le64(a + n) ^ cas_get_le64(b + n);
                if (differ != 0) {
                        n += (uint32_t)__builtin_ctzll(differ) / 8;
                        return n < len_max ? n : len_max;
                }
        }
        return len_max;
}

struct cas_zlib_search {
        uint32_t chain;   /* strings that are looked at */
        uint32_t nice;    /* a match of this length ends the search */
        uint32_t len_max; /* nothing is compared beyond */
};

/* Walks the chain from `candidate` for a match of `at` that is longer than `best`, which is at
 * least 2. Returns its length, and where it begins in *match; or `best`. */
static inline uint32_t cas_zlib_longest(const struct cas_zlib_window *w, uint32_t at,
                                        uint32_t candidate, uint32_t best,
                                        struct cas_zlib_search search, uint32_t *match)
{
        const uint8_t *bytes = w->bytes, *scan = bytes + at;
        const uint16_t *prev = w->prev;
        uint32_t limit = at > CAS_ZLIB_DISTANCE_MAX ? at - CAS_ZLIB_DISTANCE_MAX : 0;
        uint32_t chain = search.chain;
        if (best >= search.len_max)
                return best;
        uint32_t head = cas_get_le32(scan), head_mask = best == 2 ? 0xffffff : 0xffffffff;
        uint32_t back = best == 2 ? 0 : best - 3; /* where the four bytes are that must agree */
        uint32_t tail = cas_get_le32(scan + back);
        for (;;) {
                const uint8_t *there = bytes + candidate;
                if (((cas_get_le32(there + back) ^ tail) & head_mask) == 0 &&
                    ((cas_get_le32(there) ^ head) & head_mask) == 0) {
                        uint32_t len = cas_zlib_common(scan, there, search.len_max);
                        if (len > best) {
                                best = len;
                                *match = candidate;
                                if (len >= search.nice)
                                        return best;
                                head_mask = 0xffffffff;
                                back = best - 3;
                                tail = cas_get_le32(scan + back);
                        }
                }
                candidate = prev[candidate % CAS_ZLIB_WINDOW_BYTES];
                if (candidate <= limit || --chain == 0)
                        return best;
        }
}

#endif
