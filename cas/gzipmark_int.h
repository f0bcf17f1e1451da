/* SPDX-License-Identifier: Apache-2.0 */
/* State of a mark in a replayed gzip blob (spec/recipe-gzip.md). Private to cas. */
#ifndef CAS_GZIPMARK_INT_H
#define CAS_GZIPMARK_INT_H

#include "cas/deflate/encoder.h"
#include "cas/recipe_int.h"

/* More of the past than any class wants to see. */
#define CAS_GZIP_WINDOW_BYTES_MAX (1 * CAS_MIB)

struct cas_gzip_mark {
        uint64_t part_index;   /* of the plan */
        uint32_t window_bytes; /* from tar_offset on: what came before the mark */
        bool is_within;        /* the part has begun: the rest counts */
        uint64_t fed_bytes;    /* of the part, before the mark */
        uint32_t seen_bytes;   /* the end of the window, which the encoder wants */
        struct cas_deflate_mark encoder;
};
void cas_gzip_mark_encode(const struct cas_gzip_mark *m, struct cas_recipe_mark *out);
/* Of a mark without state: the beginning. Errors: CORRUPT. */
int cas_gzip_mark_decode(const struct cas_recipe_mark *mark, struct cas_gzip_mark *out,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
