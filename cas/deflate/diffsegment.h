/* SPDX-License-Identifier: Apache-2.0 */
/* Collects the events of parsed deflate streams, and the bytes around them, into segments for
 * cas/deflate/difference.h: at most 6 MiB of plain bytes each, ending with a block where that is
 * near. Memory: a segment's plain bytes and tokens. One thread at a time. */
#ifndef CAS_DIFFSEGMENT_H
#define CAS_DIFFSEGMENT_H

#include "cas/deflate/difference.h"

#define CAS_DIFFSEGMENT_PLAIN_BYTES (4U << 20) /* aimed at */

struct cas_diffsegment;
struct cas_diffsegment *cas_diffsegment_new(void);
void cas_diffsegment_free(struct cas_diffsegment *s);
CAS_DEFINE_CLEANUP(cas_cleanup_diffsegment_, struct cas_diffsegment *, cas_diffsegment_free);
#define cas_cleanup_diffsegment __attribute__((cleanup(cas_cleanup_diffsegment_)))

/* Must the segment be ended before this event? It then ends where the event begins, for tokens
 * where the event before ended. */
bool cas_diffsegment_is_full(const struct cas_diffsegment *s, const struct cas_deflate_event *next);
void cas_diffsegment_event(struct cas_diffsegment *s, const struct cas_deflate_event *e);
/* Bytes outside of streams; between streams only. False: end the segment first. */
bool cas_diffsegment_raw(struct cas_diffsegment *s, const uint8_t *data, size_t len);
bool cas_diffsegment_is_empty(const struct cas_diffsegment *s);

/* What was collected; borrowed until next. */
void cas_diffsegment_plain(struct cas_diffsegment *s, struct cas_difference_plain *out);
/* False: there are no more items. */
bool cas_diffsegment_item(const struct cas_diffsegment *s, size_t index,
                          struct cas_difference_item *out);
/* The farthest distance of all matches; 0 without any. */
uint32_t cas_diffsegment_farthest(const struct cas_diffsegment *s);

/* Begins the next segment, which keeps what it must know of this one. */
void cas_diffsegment_next(struct cas_diffsegment *s);

#endif
