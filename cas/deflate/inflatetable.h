/* SPDX-License-Identifier: Apache-2.0 */
/* Tables that decode the prefix codes of deflate (RFC 1951): one look-up for codes up to the root's
 * bits, a second for longer ones. Rules of what is a legal code are zlib's. */
#ifndef CAS_INFLATETABLE_H
#define CAS_INFLATETABLE_H

#include "cas/base.h"

#define CAS_INFLATE_CODE_BITS_MAX 15

/* An entry: bits of the whole code in bits 0 to 7, count of extra bits (of a length or distance)
 * or bits of the second index (of a link) in 8 to 11, kind in 12 to 15, value in 16 to 31. */
enum cas_inflate_kind {
        CAS_INFLATE_LITERAL = 0, /* the byte; in code lengths, the symbol */
        CAS_INFLATE_MATCH = 1,   /* the least length, or the least distance - 1 */
        CAS_INFLATE_END = 2,     /* of the block */
        CAS_INFLATE_LINK = 3,    /* value: where the second table begins */
        CAS_INFLATE_BAD = 4      /* no symbol has this code, or one that means nothing */
};
static inline unsigned cas_inflate_bits(uint32_t entry)
{
        return entry & 0xff;
}
static inline unsigned cas_inflate_extra(uint32_t entry)
{
        return entry >> 8 & 0xf;
}
static inline enum cas_inflate_kind cas_inflate_kind(uint32_t entry)
{
        return (enum cas_inflate_kind)(entry >> 12 & 0xf);
}

#define CAS_INFLATE_ROOT_BITS_MAX 11
/* The root and all second tables: a second table of n bits serves more than n codes, and there are
 * 288 codes at most. */
#define CAS_INFLATE_TABLE_ENTRIES_MAX 4096
struct cas_inflate_table {
        unsigned root_bits;
        uint32_t entries[CAS_INFLATE_TABLE_ENTRIES_MAX];
};

enum cas_inflate_alphabet {
        CAS_INFLATE_LITERALS, /* and lengths: 288 symbols at most */
        CAS_INFLATE_DISTANCES,
        CAS_INFLATE_CODE_LENGTHS
};
/* Builds the table for codes of these lengths (0 to 15 each, 0: no code). False: over-subscribed,
 * or incomplete and not one of the two that are allowed: no code at all, and, but in
 * CODE_LENGTHS, a single code of one bit. */
bool cas_inflate_table_build(struct cas_inflate_table *t, enum cas_inflate_alphabet alphabet,
                             const uint8_t *lengths, unsigned count) CAS_MUST_CHECK;

static inline uint32_t cas_inflate_table_find(const struct cas_inflate_table *t, uint64_t bits)
{
        uint32_t entry = t->entries[bits & ((1U << t->root_bits) - 1)];
        if (cas_inflate_kind(entry) == CAS_INFLATE_LINK)
                entry = t->entries[(entry >> 16) +
                                   (bits >> t->root_bits & ((1U << cas_inflate_extra(entry)) - 1))];
        return entry;
}

#endif
