/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of the zlib family (zlib, GNU gzip): tokens are collected and counted, then written as a
 * stored, fixed or dynamic block, whichever zlib would take, with the codes that its construction
 * gives (spec/deflate-classes.md). Belongs to one thread. */
#ifndef CAS_ZLIBTREES_H
#define CAS_ZLIBTREES_H

#include "cas/deflate/bitwriter.h"
#include "cas/deflate/token.h"

#define CAS_ZLIB_LITERALS 286 /* literals, end of block, lengths */
#define CAS_ZLIB_DISTANCES 30
#define CAS_ZLIB_END_OF_BLOCK 256

struct cas_zlib_code {
        uint16_t bits; /* reversed, as they are written */
        uint16_t len;
};

struct cas_zlib_block {
        uint32_t *tokens; /* owned; as in token.h */
        uint32_t token_count;
        uint32_t token_max; /* a block that has so many is closed */
        uint16_t literal_freq[CAS_ZLIB_LITERALS];
        uint16_t distance_freq[CAS_ZLIB_DISTANCES];
        /* Constant once made. */
        uint8_t length_symbols[256]; /* of length - 3, less 257 */
        uint8_t distance_symbols[512];
        struct cas_zlib_code fixed_literals[288], fixed_distances[CAS_ZLIB_DISTANCES];
};

void cas_zlib_block_init(struct cas_zlib_block *b, uint32_t token_max);
void cas_zlib_block_release(struct cas_zlib_block *b);
/* Forgets the tokens. */
void cas_zlib_block_clear(struct cas_zlib_block *b);
/* Writes the tokens as a block, and forgets them. plain: what they stand for, NULL when it is not
 * there any more, so that the block cannot be stored. A final block ends at a whole byte. */
void cas_zlib_block_write(struct cas_zlib_block *b, const uint8_t *plain, size_t len, bool is_final,
                          struct cas_bitwriter *w);
/* len <= 65535. */
void cas_zlib_write_stored(struct cas_bitwriter *w, const uint8_t *plain, size_t len,
                           bool is_final);
/* A fixed block of nothing but its end: 10 bits. */
void cas_zlib_write_empty_fixed(struct cas_bitwriter *w);

extern const uint8_t cas_zlib_distance_extra[CAS_ZLIB_DISTANCES];

/* distance - 1 to its symbol. */
static inline uint32_t cas_zlib_distance_symbol(const struct cas_zlib_block *b, uint32_t less1)
{
        return b->distance_symbols[less1 < 256 ? less1 : 256 + (less1 >> 7)];
}
static inline void cas_zlib_block_literal(struct cas_zlib_block *b, uint8_t literal)
{
        b->tokens[b->token_count++] = literal;
        b->literal_freq[literal]++;
}
static inline void cas_zlib_block_match(struct cas_zlib_block *b, uint32_t len, uint32_t distance)
{
        b->tokens[b->token_count++] = cas_token_match(len, distance);
        b->literal_freq[b->length_symbols[len - 3] + CAS_ZLIB_END_OF_BLOCK + 1]++;
        b->distance_freq[cas_zlib_distance_symbol(b, distance - 1)]++;
}

#endif
