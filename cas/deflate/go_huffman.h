/* SPDX-License-Identifier: Apache-2.0 */
/* Prefix codes of limited length as Go's compress/flate makes them, and the forks of it: optimal
 * lengths by package-merge, ties broken so that the result is defined (spec/deflate-classes.md,
 * "Huffman codes"). Pure functions. */
#ifndef CAS_GO_HUFFMAN_H
#define CAS_GO_HUFFMAN_H

#include "cas/base.h"

#define CAS_GO_SYMBOLS_MAX 286
#define CAS_GO_CODE_BITS_MAX 15

/* A symbol's code, its bits in the order of the stream (the first one lowest). bits 0: unused. */
struct cas_go_code {
        uint16_t code, bits;
};

/* Codes for all symbols that occur; count <= CAS_GO_SYMBOLS_MAX, bits_max <= CAS_GO_CODE_BITS_MAX
 * and 2 to the power of it is at least the number of symbols that occur. The sum of the
 * frequencies is below 2^26. One or two symbols get one bit each. */
void cas_go_huffman(const uint32_t *freq, unsigned count, unsigned bits_max,
                    struct cas_go_code *codes);

#endif
