/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/go_blockwriter.h"

#define END_OF_BLOCK 256
#define LENGTHS_AT 257

/* RFC 1951, 3.2.5, as lengths less 3 and distances less 1. */
static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint8_t length_base[29] = {0,  1,  2,  3,   4,   5,   6,   7,   8,  10,
                                        12, 14, 16, 20,  24,  28,  32,  40,  48, 56,
                                        64, 80, 96, 112, 128, 160, 192, 224, 255};
static const uint8_t clen_order[CAS_GO_CLENS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                 11, 4,  12, 3, 13, 2, 14, 1, 15};

static unsigned distance_extra(unsigned symbol)
{
        return symbol < 4 ? 0 : symbol / 2 - 1;
}

static unsigned distance_base(unsigned symbol)
{
        return symbol < 4 ? symbol : (2 + (symbol & 1)) << (symbol / 2 - 1);
}

/* length: less 3. */
static inline unsigned length_symbol(unsigned length)
{
        if (length < 8)
                return length;
        if (length == 255)
                return 28;
        unsigned top = 31 - (unsigned)__builtin_clz(length);
        return 4 * (top - 1) + (length >> (top - 2) & 3);
}

void cas_go_histogram_of(struct cas_go_histogram *h, const struct cas_go_counts *c)
{
        memset(h, 0, sizeof(*h));
        memcpy(h->literals, c->literals, sizeof(c->literals));
        memcpy(h->distances, c->distances, sizeof(c->distances));
        for (unsigned i = 0; i < 256; i++)
                h->literals[LENGTHS_AT + length_symbol(i)] += c->lengths[i];
        h->literals[END_OF_BLOCK] = 1;
}

static void header_symbol(struct cas_go_header *h, uint32_t *freq, unsigned symbol, unsigned extra)
{
        h->symbols[h->symbol_count] = (uint8_t)symbol;
        h->extras[h->symbol_count++] = (uint8_t)extra;
        freq[symbol]++;
}

/* `run` times the same length. */
static void header_run(struct cas_go_header *h, uint32_t *freq, unsigned length, unsigned run)
{
        if (length == 0) {
                while (run >= 11) {
                        unsigned n = run < 138 ? run : 138;
                        header_symbol(h, freq, 18, n - 11);
                        run -= n;
                }
                if (run >= 3) {
                        header_symbol(h, freq, 17, run - 3);
                        run = 0;
                }
        } else {
                header_symbol(h, freq, length, 0);
                run--;
                while (run >= 3) {
                        unsigned n = run < 6 ? run : 6;
                        header_symbol(h, freq, 16, n - 3);
                        run -= n;
                }
        }
        for (; run > 0; run--)
                header_symbol(h, freq, length, 0);
}

void cas_go_header_make(struct cas_go_header *h, const struct cas_go_codes *codes,
                        unsigned literal_count, unsigned distance_count)
{
        uint8_t lengths[CAS_GO_LITERALS + CAS_GO_DISTANCES];
        uint32_t freq[CAS_GO_CLENS] = {0};
        unsigned total = literal_count + distance_count;
        h->literal_count = literal_count;
        h->distance_count = distance_count;
        h->symbol_count = 0;
        for (unsigned i = 0; i < literal_count; i++)
                lengths[i] = (uint8_t)codes->literals[i].bits;
        for (unsigned i = 0; i < distance_count; i++)
                lengths[literal_count + i] = (uint8_t)codes->distances[i].bits;
        for (unsigned at = 0; at < total;) {
                unsigned run = 1;
                while (at + run < total && lengths[at + run] == lengths[at])
                        run++;
                header_run(h, freq, lengths[at], run);
                at += run;
        }
        cas_go_huffman(freq, CAS_GO_CLENS, 7, h->clens);
        h->clen_count = CAS_GO_CLENS;
        while (h->clen_count > 4 && freq[clen_order[h->clen_count - 1]] == 0)
                h->clen_count--;
        h->size_bits =
                3 + 5 + 5 + 4 + 3 * h->clen_count + 2 * freq[16] + 3 * freq[17] + 7 * freq[18];
        for (unsigned i = 0; i < CAS_GO_CLENS; i++)
                h->size_bits += freq[i] * h->clens[i].bits;
}

size_t cas_go_codes_bits(const struct cas_go_codes *codes, const struct cas_go_histogram *h)
{
        size_t bits = 0;
        for (unsigned i = 0; i < CAS_GO_LITERALS; i++)
                bits += (size_t)h->literals[i] * codes->literals[i].bits;
        for (unsigned i = 0; i < CAS_GO_DISTANCES; i++)
                bits += (size_t)h->distances[i] * codes->distances[i].bits;
        return bits;
}

size_t cas_go_extra_bits(const struct cas_go_histogram *h)
{
        size_t bits = 0;
        for (unsigned i = 0; i < CAS_COUNT(length_extra); i++)
                bits += (size_t)h->literals[LENGTHS_AT + i] * length_extra[i];
        for (unsigned i = 0; i < CAS_GO_DISTANCES; i++)
                bits += (size_t)h->distances[i] * distance_extra(i);
        return bits;
}

void cas_go_put_header(struct cas_bitwriter *w, const struct cas_go_header *h)
{
        static const uint8_t extra_bits[3] = {2, 3, 7}; /* of 16, 17 and 18 */
        cas_bitwriter_put(w, CAS_DEFLATE_DYNAMIC << 1, 3);
        cas_bitwriter_put(w, h->literal_count - 257, 5);
        cas_bitwriter_put(w, h->distance_count - 1, 5);
        cas_bitwriter_put(w, h->clen_count - 4, 4);
        for (unsigned i = 0; i < h->clen_count; i++)
                cas_bitwriter_put(w, h->clens[clen_order[i]].bits, 3);
        for (unsigned i = 0; i < h->symbol_count; i++) {
                unsigned symbol = h->symbols[i];
                cas_bitwriter_put(w, h->clens[symbol].code, h->clens[symbol].bits);
                if (symbol >= 16)
                        cas_bitwriter_put(w, h->extras[i], extra_bits[symbol - 16]);
        }
}

void cas_go_put_stored_header(struct cas_bitwriter *w, size_t len, bool is_final)
{
        cas_bitwriter_put(w, CAS_DEFLATE_STORED << 1 | is_final, 3);
        cas_bitwriter_align(w);
        cas_bitwriter_put(w, len | (~len & 0xffff) << 16, 32);
        cas_bitwriter_drain(w);
}

void cas_go_put_stored(struct cas_bitwriter *w, const uint8_t *data, size_t len)
{
        cas_go_put_stored_header(w, len, false);
        cas_buf_append(w->out, data, len);
}

/* Everything that stands for a length: its code with the extra bits. */
struct length_code {
        uint32_t value;
        uint32_t bits;
};

static void length_codes(const struct cas_go_code *literals, struct length_code *all)
{
        for (unsigned i = 0; i < 256; i++) {
                unsigned symbol = length_symbol(i);
                struct cas_go_code code = literals[LENGTHS_AT + symbol];
                all[i].value = code.code | (i - length_base[symbol]) << code.bits;
                all[i].bits = code.bits + length_extra[symbol];
        }
}

void cas_go_put_tokens(struct cas_bitwriter *w, const struct cas_go_codes *codes,
                       const uint32_t *tokens, size_t count)
{
        struct length_code lengths[256];
        cas_bitwriter_drain(w);
        /* A match takes 15 + 5 + 15 + 13 bits at most. */
        cas_buf_reserve(w->out, count * 6 + 16);
        uint8_t *at = w->out->data + w->out->len_bytes;
        uint64_t bits = w->bits;
        unsigned n = w->count;
        length_codes(codes->literals, lengths);
        for (size_t i = 0; i < count; i++) {
                uint32_t t = tokens[i];
                if (t & CAS_TOKEN_IS_MATCH) {
                        unsigned distance = t & 0x7fff, symbol = cas_go_distance_symbol(distance);
                        struct length_code length = lengths[t >> 16 & 0xff];
                        struct cas_go_code code = codes->distances[symbol];
                        bits |= (uint64_t)length.value << n;
                        n += length.bits;
                        bits |= (uint64_t)code.code << n;
                        n += code.bits;
                        bits |= (uint64_t)(distance - distance_base(symbol)) << n;
                        n += distance_extra(symbol);
                } else {
                        bits |= (uint64_t)codes->literals[t].code << n;
                        n += codes->literals[t].bits;
                }
                cas_put_le64(at, bits);
                at += n / 8;
                bits >>= n & ~7U;
                n &= 7;
        }
        w->out->len_bytes = (size_t)(at - w->out->data);
        w->bits = bits;
        w->count = n;
        cas_bitwriter_put(w, codes->literals[END_OF_BLOCK].code,
                          codes->literals[END_OF_BLOCK].bits);
        cas_bitwriter_drain(w);
}

static const struct cas_go_codes *fixed_codes(struct cas_go_codes *fixed)
{
        for (unsigned i = 0; i < CAS_GO_LITERALS; i++) {
                unsigned bits = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
                unsigned first = i < 144   ? 0x30
                                 : i < 256 ? 0x190 - 144
                                 : i < 280 ? -256U
                                           : 0xc0 - 280U;
                unsigned code = i + first, out = 0;
                for (unsigned b = 0; b < bits; b++)
                        out |= (code >> b & 1) << (bits - 1 - b);
                fixed->literals[i] = (struct cas_go_code){(uint16_t)out, (uint16_t)bits};
        }
        for (unsigned i = 0; i < CAS_GO_DISTANCES; i++) {
                unsigned out = 0;
                for (unsigned b = 0; b < 5; b++)
                        out |= (i >> b & 1) << (4 - b);
                fixed->distances[i] = (struct cas_go_code){(uint16_t)out, 5};
        }
        return fixed;
}

/* Codes for the histogram, and their head. A block without a match counts one distance, so that
 * there is a code for it. */
static void make_codes(struct cas_go_histogram *h, struct cas_go_codes *codes,
                       struct cas_go_header *header)
{
        unsigned literals = CAS_GO_LITERALS, distances = CAS_GO_DISTANCES;
        while (h->literals[literals - 1] == 0)
                literals--;
        while (distances > 0 && h->distances[distances - 1] == 0)
                distances--;
        if (distances == 0)
                h->distances[distances++] = 1;
        cas_go_huffman(h->literals, CAS_GO_LITERALS, 15, codes->literals);
        cas_go_huffman(h->distances, CAS_GO_DISTANCES, 15, codes->distances);
        cas_go_header_make(header, codes, literals, distances);
}

void cas_go_block_best(struct cas_bitwriter *w, const struct cas_go_block *b)
{
        struct cas_go_histogram h;
        struct cas_go_codes codes, fixed;
        struct cas_go_header header;
        bool is_storable = b->input && b->input_bytes <= CAS_GO_STORED_BYTES_MAX;
        cas_go_histogram_of(&h, b->counts);
        make_codes(&h, &codes, &header);
        fixed_codes(&fixed);
        size_t extra = cas_go_extra_bits(&h);
        size_t fixed_bits = 3 + cas_go_codes_bits(&fixed, &h) + extra;
        size_t dynamic_bits = header.size_bits + cas_go_codes_bits(&codes, &h) + extra;
        bool is_dynamic = dynamic_bits < fixed_bits;
        size_t bits = is_dynamic ? dynamic_bits : fixed_bits;
        if (is_storable && (b->input_bytes + 5) * 8 < bits) {
                cas_go_put_stored(w, b->input, b->input_bytes);
                return;
        }
        if (is_dynamic)
                cas_go_put_header(w, &header);
        else
                cas_bitwriter_put(w, CAS_DEFLATE_FIXED << 1, 3);
        cas_go_put_tokens(w, is_dynamic ? &codes : &fixed, b->tokens, b->token_count);
}

/* Level 1 and literals alone forget the extra bits, and want a sixteenth to be gained. */
static bool is_stored_better(size_t size_bits, size_t len)
{
        return len <= CAS_GO_STORED_BYTES_MAX && (len + 5) * 8 < size_bits + (size_bits >> 4);
}

void cas_go_block_dynamic(struct cas_bitwriter *w, const struct cas_go_block *b)
{
        struct cas_go_histogram h;
        struct cas_go_codes codes;
        struct cas_go_header header;
        cas_go_histogram_of(&h, b->counts);
        make_codes(&h, &codes, &header);
        if (is_stored_better(header.size_bits + cas_go_codes_bits(&codes, &h), b->input_bytes)) {
                cas_go_put_stored(w, b->input, b->input_bytes);
                return;
        }
        cas_go_put_header(w, &header);
        cas_go_put_tokens(w, &codes, b->tokens, b->token_count);
}

void cas_go_block_literals(struct cas_bitwriter *w, const uint8_t *input, size_t len)
{
        struct cas_go_histogram h = {0};
        struct cas_go_codes codes;
        struct cas_go_header header;
        for (size_t i = 0; i < len; i++)
                h.literals[input[i]]++;
        h.literals[END_OF_BLOCK] = 1;
        make_codes(&h, &codes, &header);
        if (is_stored_better(header.size_bits + cas_go_codes_bits(&codes, &h), len)) {
                cas_go_put_stored(w, input, len);
                return;
        }
        cas_go_put_header(w, &header);
        cas_bitwriter_drain(w);
        cas_buf_reserve(w->out, len * 2 + 16);
        uint8_t *at = w->out->data + w->out->len_bytes;
        for (size_t i = 0; i < len; i++) {
                w->bits |= (uint64_t)codes.literals[input[i]].code << w->count;
                w->count += codes.literals[input[i]].bits;
                cas_put_le64(at, w->bits);
                at += w->count / 8;
                w->bits >>= w->count & ~7U;
                w->count &= 7;
        }
        w->out->len_bytes = (size_t)(at - w->out->data);
        cas_bitwriter_put(w, codes.literals[END_OF_BLOCK].code, codes.literals[END_OF_BLOCK].bits);
        cas_bitwriter_drain(w);
}
