/* SPDX-License-Identifier: Apache-2.0 */
/* A deflate stream by difference and back: each segment is encoded and decoded on its own. */
#ifndef TESTS_SUPPORT_DIFFROUND_H
#define TESTS_SUPPORT_DIFFROUND_H

#include "cas/deflate/diffsegment.h"
#include "tests/support/memsource.h"

struct diffround {
        struct cas_difference_params params;
        struct cas_difference *d;
        struct cas_diffsegment *s;
        uint64_t segment_bit;
        const uint8_t *stream;
        unsigned segments;
        struct cas_buf corrections; /* of all segments */
        struct cas_buf again;       /* the stream */
};

static inline void diffround_release(struct diffround *r)
{
        cas_difference_free(r->d);
        cas_diffsegment_free(r->s);
        cas_buf_release(&r->corrections);
        cas_buf_release(&r->again);
}
#define cleanup_diffround __attribute__((cleanup(diffround_release)))

/* False: prediction takes too much work. */
static inline bool diffround_segment(struct diffround *r, uint64_t end_bit)
{
        struct cas_difference_plain plain;
        struct cas_difference_item item;
        struct cas_err err = CAS_ERR_INIT;
        bool more = true;
        size_t before = r->corrections.len_bytes;
        cas_diffsegment_plain(r->s, &plain);
        cas_difference_encode_begin(r->d, &r->params, &plain, &r->corrections);
        for (size_t i = 0; cas_diffsegment_item(r->s, i, &item); i++)
                cas_difference_encode(r->d, &item);
        if (!cas_difference_encode_finish(r->d))
                return false;
        uint8_t start = r->segment_bit % 8 ? r->stream[r->segment_bit / 8] : 0;
        cas_difference_decode_begin(r->d, &r->params, &plain, r->corrections.data + before,
                                    r->corrections.len_bytes - before, start,
                                    (unsigned)(r->segment_bit % 8));
        cas_assert(r->again.len_bytes == r->segment_bit / 8);
        while (more) {
                size_t had = r->again.len_bytes;
                cas_assert(cas_difference_decode(r->d, &r->again, &more, &err) == 0);
                cas_assert(r->again.len_bytes - had <= CAS_DIFFERENCE_ITEM_BYTES_MAX);
        }
        cas_assert(r->again.len_bytes == end_bit / 8);
        cas_assert(cas_difference_pending_bits(r->d) == end_bit % 8);
        r->segment_bit = end_bit;
        r->segments++;
        cas_diffsegment_next(r->s);
        return true;
}

/* False: the parser refuses it, or prediction takes too much work. Segments of at most so many
 * events when not 0. Otherwise asserts that the stream comes out. */
static inline bool diffround_run(struct diffround *r, const uint8_t *stream, size_t len,
                                 unsigned events_max)
{
        struct memsource source = {.data = stream, .len = len, .step = SIZE_MAX};
        cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                cas_deflate_parser_new(memsource_read, &source);
        struct cas_deflate_event e;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t done = 0;
        unsigned events = 0;
        if (!r->d)
                r->d = cas_difference_new();
        if (!r->s)
                r->s = cas_diffsegment_new();
        r->stream = stream;
        do {
                if (cas_deflate_parser_next(p, &e, &err) < 0)
                        return false;
                bool cut = e.kind == CAS_DEFLATE_BLOCK && events_max > 0 && events >= events_max;
                if (cut || cas_diffsegment_is_full(r->s, &e)) {
                        if (!diffround_segment(r, e.kind == CAS_DEFLATE_BLOCK ? e.block->bit_offset
                                                                              : done))
                                return false;
                        events = 0;
                }
                events++;
                cas_diffsegment_event(r->s, &e);
                done = cas_deflate_parser_bits(p);
        } while (e.kind != CAS_DEFLATE_END);
        if (!diffround_segment(r, done))
                return false;
        cas_assert(memcmp(r->again.data, stream, r->again.len_bytes) == 0);
        return true;
}

#endif
