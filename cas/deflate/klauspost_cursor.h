/* SPDX-License-Identifier: Apache-2.0 */
/* A cursor that goes over the input, for the match finders of klauspost's levels 1 to 4. */
#ifndef CAS_KLAUSPOST_CURSOR_H
#define CAS_KLAUSPOST_CURSOR_H

#include "cas/deflate/klauspost_find.h"

/* Of the lowest 4 bytes, at levels 1 and 3 of old dates. */
static inline uint32_t cas_kp_hash4_old(uint64_t v, unsigned bits)
{
        return ((uint32_t)v * UINT32_C(0x1e35a7bd)) >> (32 - bits);
}

/* Where a finder is. Indexes are into data; a position is base + index. */
struct cas_kp_cursor {
        const uint8_t *data;
        uint32_t end;   /* of the block */
        uint32_t limit; /* no search from here on */
        uint32_t base;
        uint32_t at;      /* the search stands here */
        uint32_t next;    /* and goes on here */
        uint32_t found;   /* a match for the bytes at `at` */
        uint32_t emitted; /* tokens were made up to here */
        uint64_t value;   /* at least the bytes at `at` that are hashed */
};

/* The bytes at a position of a table, which must be in reach. */
static inline uint32_t cas_kp_bytes_at(const struct cas_kp_cursor *c, uint32_t position)
{
        return cas_kp_load32(c->data + (position - c->base));
}

/* How many bytes from `at` on are as those from `other` on. */
static inline uint32_t cas_kp_cursor_equal(const struct cas_kp_cursor *c, uint32_t at,
                                           uint32_t other)
{
        return cas_kp_equal(c->data + at, c->data + other, c->end - at);
}

/* Four bytes at `at` and `found` are the same: takes what is the same behind them, and before them
 * as far as it was not emitted; makes the tokens; goes behind the match. Returns its length. */
static inline uint32_t cas_kp_cursor_take(struct cas_kp_cursor *c, enum cas_kp_date date,
                                          struct cas_kp_tokens *out)
{
        uint32_t length = 4 + cas_kp_cursor_equal(c, c->at + 4, c->found + 4);
        while (c->found > 0 && c->at > c->emitted && c->data[c->found - 1] == c->data[c->at - 1]) {
                c->found--;
                c->at--;
                length++;
        }
        cas_kp_literals(out, c->data + c->emitted, c->at - c->emitted);
        cas_kp_match_long(out, date, length, c->at - c->found);
        c->at += length;
        c->emitted = c->at;
        if (c->next >= c->at)
                c->at = c->next + 1;
        return length;
}

/* The rest of the block, unless there was no match at all. */
static inline void cas_kp_cursor_finish(const struct cas_kp_cursor *c, struct cas_kp_tokens *out)
{
        if (out->count > 0)
                cas_kp_literals(out, c->data + c->emitted, c->end - c->emitted);
}

#endif
