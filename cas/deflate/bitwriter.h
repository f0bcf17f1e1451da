/* SPDX-License-Identifier: Apache-2.0 */
/* Bits, lowest first, as deflate wants them, appended to a buffer. */
#ifndef CAS_BITWRITER_H
#define CAS_BITWRITER_H

#include "cas/buf.h"

struct cas_bitwriter {
        struct cas_buf *out; /* borrowed; the bytes that are whole */
        uint64_t bits;
        unsigned count; /* of bits that are pending: below 8 after cas_bitwriter_drain */
};

/* Moves whole bytes out. Room in `out` grows as needed. */
static inline void cas_bitwriter_drain(struct cas_bitwriter *w)
{
        cas_buf_reserve(w->out, 8);
        uint8_t *at = w->out->data + w->out->len_bytes;
        uint64_t bits = w->bits;
        for (unsigned i = 0; i < 8; i++)
                at[i] = (uint8_t)(bits >> (8 * i));
        unsigned whole = w->count / 8;
        w->out->len_bytes += whole;
        w->bits = whole == 8 ? 0 : bits >> (8 * whole);
        w->count -= 8 * whole;
}
/* count <= 48; value has no bits above. */
static inline void cas_bitwriter_put(struct cas_bitwriter *w, uint64_t value, unsigned count)
{
        if (w->count + count > 56)
                cas_bitwriter_drain(w);
        w->bits |= value << w->count;
        w->count += count;
}
/* Zero bits up to the next byte; everything is in `out` then. */
static inline void cas_bitwriter_align(struct cas_bitwriter *w)
{
        w->count = (w->count + 7) & ~7U;
        cas_bitwriter_drain(w);
}

#endif
