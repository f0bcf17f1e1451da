/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of dynamic blocks by difference: code lengths as Huffman's algorithm gives them for what
 * the block holds, run lengths as they are usually chosen, and what the encoder did otherwise
 * (spec/recipe-gzip-diff.md). */
#ifndef CAS_DIFFHEAD_H
#define CAS_DIFFHEAD_H

#include "cas/deflate/rangecoder.h"
#include "cas/deflate/token.h"

/* How ties are broken and long codes shortened. Numbers are in recipes. */
enum cas_diffhead_tree {
        CAS_DIFFHEAD_HEAP = 0, /* zlib's way: a heap, lower trees first */
        CAS_DIFFHEAD_SORT = 1, /* by sorting, leaves first */
        CAS_DIFFHEAD_TREE_COUNT
};

#define CAS_DIFFHEAD_LITERALS 288
#define CAS_DIFFHEAD_DISTANCES 32
#define CAS_DIFFHEAD_CLENS 19
struct cas_diffhead_histogram {
        uint32_t literals[CAS_DIFFHEAD_LITERALS]; /* 256 is the end of the block */
        uint32_t distances[CAS_DIFFHEAD_DISTANCES];
};

/* Symbol and extra bits of a length (3 to 258) and of a distance (1 to 32768). */
unsigned cas_deflate_length_symbol(unsigned length);
unsigned cas_deflate_distance_symbol(unsigned distance);
struct cas_deflate_extra {
        uint16_t base;
        uint8_t bits;
};
extern const struct cas_deflate_extra cas_deflate_length_extra[29], cas_deflate_distance_extra[30];

void cas_diffhead_count(struct cas_diffhead_histogram *h, const uint32_t *tokens, size_t count);

/* Contexts alone. */
struct cas_diffhead_model {
        cas_range_context count_same[3];
        cas_range_context all_same[2];
        cas_range_context same[2][16][4];
        cas_range_context length[2][16][16];
        cas_range_context joint;
        cas_range_context run_same[4];
        cas_range_context run[4];
        cas_range_context clen_same[8];
        cas_range_context clen[8][8];
};

/* Codes everything of `block` that belongs to DYNAMIC. Decoding fills it in; then the lengths are
 * between 0 and 15, and the symbols give them. Errors: CORRUPT. */
int cas_diffhead_code(struct cas_rangecoder *c, struct cas_diffhead_model *m,
                      enum cas_diffhead_tree tree, const struct cas_diffhead_histogram *h,
                      struct cas_deflate_block *block, struct cas_err *err) CAS_MUST_CHECK;

/* Code lengths of at most `max` bits for frequencies; 0 where the frequency is. count <= 288. */
void cas_diffhead_lengths(enum cas_diffhead_tree tree, const uint32_t *frequencies, unsigned count,
                          unsigned max, uint8_t *out);
/* Codes of those lengths, bits reversed as they are written. False: more codes than there are. */
bool cas_diffhead_codes(const uint8_t *lengths, unsigned count, uint16_t *out);

#endif
