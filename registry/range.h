/* SPDX-License-Identifier: Apache-2.0 */
/* Header values: byte ranges, the registry's Content-Range, entity tags, page
 * sizes. Pure functions over text that is not trusted. */
#ifndef REG_RANGE_H
#define REG_RANGE_H

#include "cas/base.h"

enum reg_range_kind {
        REG_RANGE_WHOLE,         /* none asked for, or one we may ignore: answer 200 */
        REG_RANGE_PART,          /* 206 */
        REG_RANGE_PARTS,         /* 206, multipart/byteranges: several were asked for */
        REG_RANGE_UNSATISFIABLE, /* 416 */
        REG_RANGE_TOO_MANY,      /* 400: clients halve their number then, and give up on 416 */
};
struct reg_range {
        uint64_t first;
        uint64_t bytes; /* > 0 */
};
/* "bytes=A-B", "bytes=A-" or "bytes=-N" over `size` bytes; header may be NULL. The end is
 * clamped to the size. B < A is not satisfiable (the conformance suite wants that, where RFC 9110
 * lets it be ignored); other units, several ranges and nonsense are ignored. */
enum reg_range_kind reg_range_parse(const char *header, uint64_t size, struct reg_range *out);

/* The same with several ranges: PART for a single one in *list; PARTS for what can be served of
 * several, as many as *count says, in the order asked. Together they may be twice as long as the
 * content at most, or the whole is served. *list is to be freed by the caller, whatever comes out.
 */
#define REG_RANGES_MAX 1024
enum reg_range_kind reg_ranges_parse(const char *header, uint64_t size, struct reg_range **list,
                                     size_t *count);

/* "A-B", inclusive, as uploads have it: without a unit, and with none after it. */
bool reg_content_range_parse(const char *header, uint64_t *out_first, uint64_t *out_last);

/* Whether an If-None-Match list has the strong tag `"…"` of text, compared weakly; "*" matches. */
bool reg_etag_listed(const char *header, const char *text);
/* The same compared strongly, as If-Match wants it: weak tags in the list match nothing. */
bool reg_etag_listed_strong(const char *header, const char *text);
/* Whether an If-Range value is exactly that tag, so that a range may be served. NULL: yes. */
bool reg_if_range_allows(const char *header, const char *text);

/* A decimal number of at most `max`; more is clamped. False when it is none. */
bool reg_count_parse(const char *text, uint64_t max, uint64_t *out);

#endif
