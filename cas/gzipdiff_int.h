/* SPDX-License-Identifier: Apache-2.0 */
/* gzip by difference: blobs of no known encoder class (spec/recipe-gzip-diff.md). Section WRAP says
 * the version, WRAP_DATA holds the segments, one behind the other, each with its head. A mark
 * stands at a segment. Private to cas. */
#ifndef CAS_GZIPDIFF_INT_H
#define CAS_GZIPDIFF_INT_H

#include "cas/deflate/difference.h"
#include "cas/wrap_int.h"

#define CAS_GZIPDIFF_VERSION 1
#define CAS_GZIPDIFF_WRAP_BYTES 8
/* Of one segment; one that costs more is not worth it. */
#define CAS_GZIPDIFF_CORRECTIONS_BYTES_MAX (1U << 20)

/* Of a segment, as it is in WRAP_DATA. */
#define CAS_GZIPDIFF_HEAD_BYTES 40
struct cas_gzipdiff_head {
        uint32_t plain_bytes;
        uint32_t corrections_bytes;
        uint32_t window_bytes;     /* of the plain bytes before, that are used */
        uint8_t start_bits, start; /* of the byte in which the segment begins */
        struct cas_difference_params params;
};
void cas_gzipdiff_head_put(const struct cas_gzipdiff_head *h, uint8_t out[CAS_GZIPDIFF_HEAD_BYTES]);
/* Errors: CORRUPT. */
int cas_gzipdiff_head_get(const uint8_t in[CAS_GZIPDIFF_HEAD_BYTES], struct cas_gzipdiff_head *out,
                          struct cas_err *err) CAS_MUST_CHECK;

/* State of a mark. */
#define CAS_GZIPDIFF_STATE_BYTES 8 /* where the segment is in WRAP_DATA */

/* Writes sections WRAP and WRAP_DATA and the marks, unless report->reason says why the blob stays
 * verbatim: then the writer may hold anything. report->text says what the encoder was near to.
 * Blocks for I/O and on the CPU; stops early when corrections are clearly too many.
 * Errors: CORRUPT (no gzip, or damaged), LIMIT, IO. */
int cas_gzipdiff_analyse(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                         struct cas_wrap_report *report, struct cas_err *err) CAS_MUST_CHECK;

#endif
