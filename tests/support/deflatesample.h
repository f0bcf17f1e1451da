/* SPDX-License-Identifier: Apache-2.0 */
/* Data to compress in tests: made from a number alone, the same everywhere and for ever, because
 * golden vectors stand on it. */
#ifndef TESTS_DEFLATESAMPLE_H
#define TESTS_DEFLATESAMPLE_H

#include "cas/buf.h"

enum deflate_sample {
        DEFLATE_SAMPLE_TEXT = 0,   /* words of a skewed vocabulary */
        DEFLATE_SAMPLE_TAR = 1,    /* headers of 512 bytes, text and binary content, padding */
        DEFLATE_SAMPLE_BINARY = 2, /* records with counters and few distinct fields */
        DEFLATE_SAMPLE_RANDOM = 3, /* nothing to find */
        DEFLATE_SAMPLE_ZEROS = 4,  /* long runs, some bytes between */
        DEFLATE_SAMPLE_FAR = 5,    /* repeats at and around distances of 32768 and 65536 */
        DEFLATE_SAMPLE_SHORT = 6,  /* periods of 1 to 20 bytes, matches of 3 to 300 */
        DEFLATE_SAMPLE_MIXED = 7,  /* pieces of all of them, 1 to 100 KB each */
        DEFLATE_SAMPLE_COUNT
};
extern const char *const deflate_sample_names[DEFLATE_SAMPLE_COUNT];

/* Appends len bytes. */
void deflate_sample(enum deflate_sample kind, uint32_t seed, size_t len, struct cas_buf *out);

#endif
