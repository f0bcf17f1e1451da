/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks as Go's compress/flate writes them: which kind of block it takes, how it codes the code
 * lengths, and the bits themselves. Below are the parts that its forks have in common with it; the
 * choice between the kinds of blocks (the three functions at the end) is Go's own. */
#ifndef CAS_GO_BLOCKWRITER_H
#define CAS_GO_BLOCKWRITER_H

#include "cas/deflate/bitwriter.h"
#include "cas/deflate/go_huffman.h"
#include "cas/deflate/token.h"

#define CAS_GO_LITERALS 286
#define CAS_GO_DISTANCES 30
#define CAS_GO_CLENS 19
#define CAS_GO_STORED_BYTES_MAX 65535

/* How often each symbol occurs; the end of the block is literal 256. */
struct cas_go_histogram {
        uint32_t literals[CAS_GO_LITERALS];
        uint32_t distances[CAS_GO_DISTANCES];
};

/* The same while tokens are made: match lengths are counted each by itself. */
struct cas_go_counts {
        uint32_t literals[256];
        uint32_t lengths[256]; /* less 3 */
        uint32_t distances[CAS_GO_DISTANCES];
};

/* The two codes of a block. */
struct cas_go_codes {
        struct cas_go_code literals[CAS_GO_LITERALS];
        struct cas_go_code distances[CAS_GO_DISTANCES];
};

/* The head of a dynamic block. */
struct cas_go_header {
        unsigned literal_count, distance_count, clen_count; /* as in the stream: 257…, 1…, 4… */
        unsigned symbol_count;
        uint8_t symbols[CAS_GO_LITERALS + CAS_GO_DISTANCES]; /* 0 to 18 … */
        uint8_t extras[CAS_GO_LITERALS + CAS_GO_DISTANCES];  /* … and the bits behind it */
        struct cas_go_code clens[CAS_GO_CLENS];
        size_t size_bits; /* with the 3 bits of the block's kind */
};

/* distance: less 1. */
static inline unsigned cas_go_distance_symbol(unsigned distance)
{
        if (distance < 4)
                return distance;
        unsigned top = 31 - (unsigned)__builtin_clz(distance);
        return 2 * top + (distance >> (top - 1) & 1);
}
static inline void cas_go_count_match(struct cas_go_counts *c, uint32_t length, uint32_t distance)
{
        c->lengths[length - 3]++;
        c->distances[cas_go_distance_symbol(distance - 1)]++;
}

/* With one end of block. */
void cas_go_histogram_of(struct cas_go_histogram *h, const struct cas_go_counts *c);
/* literal_count and distance_count: 1 + the last symbol that has a code. */
void cas_go_header_make(struct cas_go_header *h, const struct cas_go_codes *codes,
                        unsigned literal_count, unsigned distance_count);
/* What the symbols cost without extra bits. */
size_t cas_go_codes_bits(const struct cas_go_codes *codes, const struct cas_go_histogram *h);
/* The extra bits of all lengths and distances. */
size_t cas_go_extra_bits(const struct cas_go_histogram *h);

void cas_go_put_header(struct cas_bitwriter *w, const struct cas_go_header *h);
/* Head of a stored block; the output is at a byte's end then. */
void cas_go_put_stored_header(struct cas_bitwriter *w, size_t len, bool is_final);
void cas_go_put_stored(struct cas_bitwriter *w, const uint8_t *data, size_t len);
/* Tokens and the end of the block. */
void cas_go_put_tokens(struct cas_bitwriter *w, const struct cas_go_codes *codes,
                       const uint32_t *tokens, size_t count);

struct cas_go_block {
        const uint32_t *tokens;
        size_t token_count;
        const struct cas_go_counts *counts; /* of the tokens */
        const uint8_t *input;               /* what they stand for */
        size_t input_bytes;
};
/* A block of hash chains: the smallest of fixed, dynamic and stored. input NULL: a stored block is
 * out of the question. */
void cas_go_block_best(struct cas_bitwriter *w, const struct cas_go_block *b);
/* A block of level 1: dynamic, or stored where that is hardly larger. */
void cas_go_block_dynamic(struct cas_bitwriter *w, const struct cas_go_block *b);
/* The same of literals alone. */
void cas_go_block_literals(struct cas_bitwriter *w, const uint8_t *input, size_t len);

#endif
