/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/rangecoder.h"

/* 65536 / (n + 1.5): the n-th use of a context moves its probability by this share. */
#define R1(n) 131072 / (2 * (n) + 3)
#define R4(n) R1(n), R1(n + 1), R1(n + 2), R1(n + 3)
#define R16(n) R4(n), R4(n + 4), R4(n + 8), R4(n + 12)
#define R64(n) R16(n), R16(n + 16), R16(n + 32), R16(n + 48)
const uint16_t cas_range_rates_[CAS_RANGE_COUNT_MAX + 1] = {R64(0), R64(64), R64(128), R64(192)};

void cas_rangecoder_encode_init(struct cas_rangecoder *c, struct cas_buf *out)
{
        *c = (struct cas_rangecoder){.range = UINT32_MAX, .out = out};
}

void cas_rangecoder_decode_init(struct cas_rangecoder *c, const uint8_t *data, size_t len)
{
        *c = (struct cas_rangecoder){
                .decodes = true, .range = UINT32_MAX, .at = data, .end = data + len};
        /* The first byte of an encoder is its empty `first`, left out. */
        for (unsigned i = 0; i < 4; i++) {
                c->code <<= 8;
                if (c->at < c->end)
                        c->code |= *c->at++;
                else
                        c->past_end_bytes++;
        }
}

void cas_rangecoder_shift_out_(struct cas_rangecoder *c)
{
        uint64_t low = c->low;
        if (low < UINT64_C(0xff000000) || low > UINT32_MAX) {
                uint8_t carry = (uint8_t)(low >> 32);
                /* pending counts `first` too; nothing is there before the first byte. */
                if (c->pending > 0)
                        cas_buf_append_byte(c->out, (uint8_t)(c->first + carry));
                for (; c->pending > 1; c->pending--)
                        cas_buf_append_byte(c->out, (uint8_t)(0xff + carry));
                c->first = (uint8_t)(low >> 24);
                c->pending = 0;
        }
        c->pending++;
        c->low = (low & 0x00ffffff) << 8;
}

void cas_rangecoder_finish(struct cas_rangecoder *c)
{
        cas_assert(!c->decodes);
        for (unsigned i = 0; i < 5; i++)
                cas_rangecoder_shift_out_(c);
        /* A decoder reads zeros past the end. */
        size_t *len = &c->out->len_bytes;
        for (unsigned i = 0; i < 4 && *len > 0 && c->out->data[*len - 1] == 0; i++)
                (*len)--;
}

uint32_t cas_range_direct(struct cas_rangecoder *c, uint32_t value, unsigned count)
{
        uint32_t unit = c->range >> count;
        c->range = unit;
        if (c->decodes) {
                value = c->code / unit;
                /* The rest of the division belongs to no value. */
                if (value >> count)
                        value = (UINT32_C(1) << count) - 1;
                c->code -= value * unit;
        } else {
                c->low += (uint64_t)value * unit;
        }
        cas_rangecoder_normalise_(c);
        return value;
}

uint32_t cas_range_tree(struct cas_rangecoder *c, cas_range_context *contexts, uint32_t value,
                        unsigned count)
{
        uint32_t node = 1;
        for (unsigned i = count; i-- > 0;)
                node = node << 1 | cas_range_bit(c, &contexts[node], value >> i & 1);
        return node - (UINT32_C(1) << count);
}

uint32_t cas_range_number(struct cas_rangecoder *c, struct cas_range_number *model, uint32_t value)
{
        uint32_t plus = value + 1;
        unsigned width = c->decodes ? 0 : 31 - (unsigned)__builtin_clz(plus);
        unsigned n = 0;
        while (n < 30 && cas_range_bit(c, &model->width[n], n < width))
                n++;
        if (n < 4) {
                plus = n == 0 ? 1
                              : 1U << n |
                                        cas_range_tree(c, model->top[n], plus & ((1U << n) - 1), n);
                return plus - 1;
        }
        unsigned rest = n - 3;
        uint32_t top = cas_range_tree(c, model->top[n], plus >> rest & 7, 3);
        uint32_t low = 0;
        if (rest > 16) {
                low = cas_range_direct(c, plus >> 16 & ((1U << (rest - 16)) - 1), rest - 16) << 16;
                rest = 16;
        }
        low |= cas_range_direct(c, plus & ((1U << rest) - 1), rest);
        return (1U << n | top << (n - 3) | low) - 1;
}

void cas_range_contexts_init(void *contexts, size_t bytes)
{
        cas_range_context *at = contexts;
        for (size_t i = 0; i < bytes / sizeof(*at); i++)
                at[i] = CAS_RANGE_CONTEXT_INIT;
}
