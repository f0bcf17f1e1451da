/* SPDX-License-Identifier: Apache-2.0 */
/* An adaptive binary range coder (spec/recipe-gzip-diff.md). One set of functions serves both
 * directions: each takes what is to be coded and returns what was coded, so that encoder and
 * decoder are the same code and cannot drift apart. When decoding, the given values are ignored.
 *
 * Any bytes can be decoded: past their end zeros are read and cas_rangecoder_overrun tells. */
#ifndef CAS_RANGECODER_H
#define CAS_RANGECODER_H

#include "cas/buf.h"

/* A context: the probability of a 1 in the upper 22 bits, how often it was used in the lower 10. */
typedef uint32_t cas_range_context;
#define CAS_RANGE_CONTEXT_INIT (UINT32_C(1) << 31)
#define CAS_RANGE_COUNT_MAX 255

struct cas_rangecoder {
        bool decodes;
        uint32_t range;
        /* encoding */
        uint64_t low;
        uint64_t pending; /* bytes 0xff that a carry may still change, and the one before */
        uint8_t first;    /* that one */
        struct cas_buf *out;
        /* decoding */
        uint32_t code;
        const uint8_t *at, *end;
        size_t past_end_bytes;
};

/* Appends to `out`, which is borrowed. */
void cas_rangecoder_encode_init(struct cas_rangecoder *c, struct cas_buf *out);
/* `data` is borrowed. */
void cas_rangecoder_decode_init(struct cas_rangecoder *c, const uint8_t *data, size_t len);
/* Encoding: writes the last bytes. */
void cas_rangecoder_finish(struct cas_rangecoder *c);
/* Decoding: more bytes were wanted than an encoder can have left out. */
static inline bool cas_rangecoder_overrun(const struct cas_rangecoder *c)
{
        return c->past_end_bytes > 4;
}

void cas_rangecoder_shift_out_(struct cas_rangecoder *c);
extern const uint16_t cas_range_rates_[CAS_RANGE_COUNT_MAX + 1];

static inline void cas_rangecoder_normalise_(struct cas_rangecoder *c)
{
        while (c->range < UINT32_C(1) << 24) {
                c->range <<= 8;
                if (!c->decodes) {
                        cas_rangecoder_shift_out_(c);
                        continue;
                }
                c->code <<= 8;
                if (c->at < c->end)
                        c->code |= *c->at++;
                else
                        c->past_end_bytes++;
        }
}

static inline unsigned cas_range_bit(struct cas_rangecoder *c, cas_range_context *context,
                                     unsigned bit)
{
        uint32_t used = *context & 0x3ff, p = *context >> 10;
        uint32_t p16 = p >> 6;
        uint32_t bound = (c->range >> 16) * (p16 | (p16 == 0));
        if (c->decodes)
                bit = c->code < bound;
        uint32_t rate = cas_range_rates_[used];
        if (bit) {
                c->range = bound;
                p += (uint32_t)((uint64_t)((1 << 22) - 1 - p) * rate >> 16);
        } else {
                c->range -= bound;
                if (c->decodes)
                        c->code -= bound;
                else
                        c->low += bound;
                p -= (uint32_t)((uint64_t)p * rate >> 16);
        }
        *context = p << 10 | (used + (used < CAS_RANGE_COUNT_MAX));
        cas_rangecoder_normalise_(c);
        return bit;
}

/* `count` bits of even chance, at most 16. */
uint32_t cas_range_direct(struct cas_rangecoder *c, uint32_t value, unsigned count);
/* `count` bits, highest first, each in the context of those before: 1 << count contexts. */
uint32_t cas_range_tree(struct cas_rangecoder *c, cas_range_context *contexts, uint32_t value,
                        unsigned count);

/* Numbers of 0 to 2^30 - 1, small ones short. */
struct cas_range_number {
        cas_range_context width[31]; /* unary: bits of value + 1, less one */
        cas_range_context top[32][8];
};
uint32_t cas_range_number(struct cas_rangecoder *c, struct cas_range_number *model, uint32_t value);

/* `bytes` is a multiple of 4: a struct of contexts alone. */
void cas_range_contexts_init(void *contexts, size_t bytes);

#endif
