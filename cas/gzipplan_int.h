/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a replayed gzip blob: section WRAP of its recipe (spec/recipe-gzip.md). A blob is a
 * sequence of parts. A part gives bytes as they are (headers of members, trailers), then feeds a
 * number of bytes of the tar stream to an encoder, which may begin anew, and ends in one or more
 * of the ways that a deflate stream can be flushed. Parts that are alike are one group of the
 * section. Private to cas. */
#ifndef CAS_GZIPPLAN_INT_H
#define CAS_GZIPPLAN_INT_H

#include "cas/deflate/encoder.h"
#include "cas/recipe_int.h"

#define CAS_GZIP_ENDS_MAX 3
#define CAS_GZIP_DICTIONARY_BYTES_MAX 32768
#define CAS_GZIP_PREFIX_BYTES_MAX (256 * CAS_KIB)
#define CAS_GZIP_PLAN_BYTES_MAX (64 * CAS_MIB)

struct cas_gzip_part {
        uint16_t class_id; /* 0: of the tar bytes nothing is made */
        int8_t level;
        bool begins;               /* with a fresh encoder … */
        uint32_t dictionary_bytes; /* … which sees so much of what came before */
        uint64_t length_bytes;     /* of tar */
        uint8_t end_count;
        uint8_t ends[CAS_GZIP_ENDS_MAX]; /* enum cas_deflate_end */
        bool has_trailer;   /* CRC-32 and length of the tar bytes since the last prefix follow */
        uint64_t prefix_at; /* reading: where it is in the section */
        uint32_t prefix_bytes;
};

/* ---- writing ---- */

struct cas_gzipplan {
        struct cas_buf bytes; /* whole groups */
        uint64_t part_count;
        /* The group that is under way: */
        struct cas_gzip_part like;
        bool first_end_is_open; /* SYNC and PIGZ are the same for all its parts */
        struct cas_buf prefix;
        struct cas_buf lengths; /* as they are written, when they differ */
        uint64_t group_count;   /* parts of it; 0: none */
        bool is_listed;
        uint16_t coder_class; /* of the group before */
        int8_t coder_level;
};
void cas_gzipplan_init(struct cas_gzipplan *p);
void cas_gzipplan_release(struct cas_gzipplan *p);
#define cas_cleanup_gzipplan __attribute__((cleanup(cas_gzipplan_release)))
/* first_end_is_open: ends[0] is SYNC, and PIGZ would give the same. */
void cas_gzipplan_add(struct cas_gzipplan *p, const struct cas_gzip_part *part, const void *prefix,
                      size_t prefix_bytes, bool first_end_is_open);
/* Closes the last group: `bytes` is the section then. */
void cas_gzipplan_finish(struct cas_gzipplan *p);

/* ---- reading ---- */

struct cas_gzipplan_reader {
        struct cas_recipe_stream stream;
        struct cas_gzip_part like; /* of the group that is under way */
        uint64_t left_count;       /* its parts that were not given */
        bool is_listed;
};
/* Errors: CORRUPT (more than CAS_GZIP_PLAN_BYTES_MAX). Released in any case. */
int cas_gzipplan_reader_init(struct cas_gzipplan_reader *pr, struct cas_recipe *r,
                             struct cas_err *err) CAS_MUST_CHECK;
void cas_gzipplan_reader_release(struct cas_gzipplan_reader *pr);
/* False in *out_has: the plan is over. Errors: CORRUPT. */
int cas_gzipplan_reader_next(struct cas_gzipplan_reader *pr, struct cas_gzip_part *out,
                             bool *out_has, struct cas_err *err) CAS_MUST_CHECK;
/* Passes over so many parts. Errors: CORRUPT (there are fewer). */
int cas_gzipplan_reader_skip(struct cas_gzipplan_reader *pr, uint64_t count,
                             struct cas_err *err) CAS_MUST_CHECK;

#endif
