/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/zlibtrees.h"

enum {
        CODE_BITS_MAX = 15,
        CLEN_BITS_MAX = 7,
        CLEN_SYMBOLS = 19,
        NODES_MAX = 2 * CAS_ZLIB_LITERALS + 1,
        CLEN_REPEAT = 16,
        CLEN_ZEROS_SHORT = 17,
        CLEN_ZEROS_LONG = 18,
        STORED_BYTES_MAX = 65535
};

static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
const uint8_t cas_zlib_distance_extra[CAS_ZLIB_DISTANCES] = {0, 0, 0,  0,  1,  1,  2,  2,  3,  3,
                                                             4, 4, 5,  5,  6,  6,  7,  7,  8,  8,
                                                             9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
static const uint8_t clen_extra[CLEN_SYMBOLS] = {[16] = 2, [17] = 3, [18] = 7};
static const uint8_t clen_order[CLEN_SYMBOLS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                 11, 4,  12, 3, 13, 2, 14, 1, 15};
static const uint8_t length_base[29] = {0,  1,  2,  3,   4,   5,   6,   7,   8,  10,
                                        12, 14, 16, 20,  24,  28,  32,  40,  48, 56,
                                        64, 80, 96, 112, 128, 160, 192, 224, 255};
static const uint16_t distance_base[CAS_ZLIB_DISTANCES] = {
        0,   1,   2,   3,   4,   6,    8,    12,   16,   24,   32,   48,   64,    96,    128,
        192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576};

/* ---- Huffman codes ---- */

/* A code under construction: leaves are symbols, inner nodes are numbered from symbol_count on. */
struct tree {
        uint32_t symbol_count;
        uint32_t bits_max;
        int max_symbol; /* the highest that has a code */
        uint32_t freq[NODES_MAX];
        uint16_t parent[NODES_MAX];
        uint8_t depth[NODES_MAX];
        uint8_t len[NODES_MAX];
        /* A binary heap from index 1 on, the rarest node first; nodes that were taken from it are
         * collected from the end of the array down. */
        uint16_t heap[NODES_MAX];
        uint32_t heap_len, sorted_from;
        uint32_t len_count[CODE_BITS_MAX + 1];
        struct cas_zlib_code codes[288];
};

static bool comes_before(const struct tree *t, uint32_t a, uint32_t b)
{
        return t->freq[a] < t->freq[b] || (t->freq[a] == t->freq[b] && t->depth[a] <= t->depth[b]);
}

static void sift_down(struct tree *t, uint32_t at)
{
        uint16_t node = t->heap[at];
        for (uint32_t son = 2 * at; son <= t->heap_len; son = 2 * at) {
                if (son < t->heap_len && comes_before(t, t->heap[son + 1], t->heap[son]))
                        son++;
                if (comes_before(t, node, t->heap[son]))
                        break;
                t->heap[at] = t->heap[son];
                at = son;
        }
        t->heap[at] = node;
}

/* Leaves into the heap; a code of fewer than two symbols gets one or two that never occur. Returns
 * how many. */
static uint32_t heap_fill(struct tree *t)
{
        t->heap_len = 0;
        t->sorted_from = NODES_MAX;
        t->max_symbol = -1;
        for (uint32_t n = 0; n < t->symbol_count; n++) {
                t->len[n] = 0;
                t->depth[n] = 0;
                if (t->freq[n] == 0)
                        continue;
                t->heap[++t->heap_len] = (uint16_t)n;
                t->max_symbol = (int)n;
        }
        uint32_t added = 0;
        for (; t->heap_len < 2; added++) {
                int n = t->max_symbol < 2 ? ++t->max_symbol : 0;
                t->heap[++t->heap_len] = (uint16_t)n;
                t->freq[n] = 1;
        }
        for (uint32_t n = t->heap_len / 2; n >= 1; n--)
                sift_down(t, n);
        return added;
}

/* Joins the two rarest nodes until one is left. */
static void heap_join(struct tree *t)
{
        uint32_t node = t->symbol_count;
        for (; t->heap_len >= 2; node++) {
                uint16_t a = t->heap[1];
                t->heap[1] = t->heap[t->heap_len--];
                sift_down(t, 1);
                uint16_t b = t->heap[1];
                t->heap[--t->sorted_from] = a;
                t->heap[--t->sorted_from] = b;
                t->freq[node] = t->freq[a] + t->freq[b];
                t->depth[node] =
                        (uint8_t)((t->depth[a] >= t->depth[b] ? t->depth[a] : t->depth[b]) + 1);
                t->parent[a] = t->parent[b] = (uint16_t)node;
                t->heap[1] = (uint16_t)node;
                sift_down(t, 1);
        }
        t->heap[--t->sorted_from] = t->heap[1];
}

/* Lengths that are too long were cut to bits_max: makes the code complete again, then hands the
 * lengths out anew, the longest to the rarest. */
static void lengths_repair(struct tree *t, int overflow)
{
        for (; overflow > 0; overflow -= 2) {
                uint32_t bits = t->bits_max - 1;
                while (t->len_count[bits] == 0)
                        bits--;
                t->len_count[bits]--;
                t->len_count[bits + 1] += 2;
                t->len_count[t->bits_max]--;
        }
        uint32_t at = NODES_MAX;
        for (uint32_t bits = t->bits_max; bits != 0; bits--)
                for (uint32_t n = t->len_count[bits]; n != 0;) {
                        uint32_t leaf = t->heap[--at];
                        if ((int)leaf > t->max_symbol)
                                continue;
                        t->len[leaf] = (uint8_t)bits;
                        n--;
                }
}

static void lengths_find(struct tree *t)
{
        memset(t->len_count, 0, sizeof(t->len_count));
        int overflow = 0;
        t->len[t->heap[t->sorted_from]] = 0;
        for (uint32_t at = t->sorted_from + 1; at < NODES_MAX; at++) {
                uint32_t n = t->heap[at], bits = t->len[t->parent[n]] + 1U;
                if (bits > t->bits_max) {
                        bits = t->bits_max;
                        overflow++;
                }
                t->len[n] = (uint8_t)bits;
                if ((int)n <= t->max_symbol)
                        t->len_count[bits]++;
        }
        if (overflow > 0)
                lengths_repair(t, overflow);
}

static uint16_t reverse(uint32_t code, uint32_t len)
{
        uint32_t out = 0;
        for (; len > 0; len--, code >>= 1)
                out = out << 1 | (code & 1);
        return (uint16_t)out;
}

/* The canonical code of the lengths. */
static void codes_assign(const uint8_t *lens, uint32_t count, struct cas_zlib_code *out)
{
        uint32_t len_count[CODE_BITS_MAX + 1] = {0}, next[CODE_BITS_MAX + 2] = {0};
        for (uint32_t n = 0; n < count; n++)
                len_count[lens[n]]++;
        len_count[0] = 0;
        for (uint32_t bits = 1; bits <= CODE_BITS_MAX; bits++)
                next[bits] = (next[bits - 1] + len_count[bits - 1]) << 1;
        for (uint32_t n = 0; n < count; n++) {
                out[n].len = lens[n];
                out[n].bits = lens[n] > 0 ? reverse(next[lens[n]]++, lens[n]) : 0;
        }
}

/* Of t->freq, symbol_count and bits_max. Returns how many bits the symbols take, without their
 * extra bits. */
static uint64_t tree_build(struct tree *t)
{
        uint32_t added = heap_fill(t);
        heap_join(t);
        lengths_find(t);
        codes_assign(t->len, t->symbol_count, t->codes);
        uint64_t bits = 0;
        for (int n = 0; n <= t->max_symbol; n++)
                bits += (uint64_t)t->freq[n] * t->len[n];
        return bits - added; /* those are of one bit, and are never written */
}

/* ---- the code lengths of a dynamic block ---- */

struct clens {
        uint32_t count;
        uint8_t symbols[CAS_ZLIB_LITERALS + CAS_ZLIB_DISTANCES];
        uint8_t extra[CAS_ZLIB_LITERALS + CAS_ZLIB_DISTANCES];
        uint32_t freq[CLEN_SYMBOLS];
};

static void clens_put(struct clens *c, uint32_t symbol, uint32_t extra)
{
        c->symbols[c->count] = (uint8_t)symbol;
        c->extra[c->count++] = (uint8_t)extra;
        c->freq[symbol]++;
}

/* A run of equal lengths: cut where the limit of a repetition is reached, and too short to be one
 * it is written out. */
static void clens_scan(struct clens *c, const uint8_t *lens, uint32_t count)
{
        int before = -1;
        for (uint32_t n = 0; n < count;) {
                uint32_t len = lens[n], run = 1;
                uint32_t run_max = len == 0 ? 138 : (int)len == before ? 6 : 7;
                uint32_t run_min = len == 0 || (int)len == before ? 3 : 4;
                while (run < run_max && n + run < count && lens[n + run] == len)
                        run++;
                n += run;
                if (run < run_min) {
                        for (; run > 0; run--)
                                clens_put(c, len, 0);
                } else if (len != 0) {
                        if ((int)len != before) {
                                clens_put(c, len, 0);
                                run--;
                        }
                        clens_put(c, CLEN_REPEAT, run - 3);
                } else if (run <= 10) {
                        clens_put(c, CLEN_ZEROS_SHORT, run - 3);
                } else {
                        clens_put(c, CLEN_ZEROS_LONG, run - 11);
                }
                before = (int)len;
        }
}

/* ---- blocks ---- */

/* The codes of one block, and what they cost. */
struct plan {
        struct tree literals, distances, clen;
        struct clens clens;
        uint32_t clen_count; /* of lengths of the code of lengths that are written */
        uint64_t dynamic_bits, fixed_bits;
};

static void plan_make(const struct cas_zlib_block *b, struct plan *p)
{
        uint64_t extra_bits = 0;
        p->fixed_bits = 0;
        p->literals.symbol_count = CAS_ZLIB_LITERALS;
        p->distances.symbol_count = CAS_ZLIB_DISTANCES;
        p->clen.symbol_count = CLEN_SYMBOLS;
        p->literals.bits_max = p->distances.bits_max = CODE_BITS_MAX;
        p->clen.bits_max = CLEN_BITS_MAX;
        for (uint32_t n = 0; n < CAS_ZLIB_LITERALS; n++) {
                uint32_t freq = b->literal_freq[n];
                p->literals.freq[n] = freq;
                p->fixed_bits += (uint64_t)freq * b->fixed_literals[n].len;
                if (n > CAS_ZLIB_END_OF_BLOCK)
                        extra_bits += (uint64_t)freq * length_extra[n - CAS_ZLIB_END_OF_BLOCK - 1];
        }
        for (uint32_t n = 0; n < CAS_ZLIB_DISTANCES; n++) {
                uint32_t freq = b->distance_freq[n];
                p->distances.freq[n] = freq;
                p->fixed_bits += (uint64_t)freq * b->fixed_distances[n].len;
                extra_bits += (uint64_t)freq * cas_zlib_distance_extra[n];
        }
        p->fixed_bits += extra_bits;
        p->dynamic_bits = extra_bits + tree_build(&p->literals) + tree_build(&p->distances);

        p->clens = (struct clens){0};
        clens_scan(&p->clens, p->literals.len, (uint32_t)p->literals.max_symbol + 1);
        clens_scan(&p->clens, p->distances.len, (uint32_t)p->distances.max_symbol + 1);
        for (uint32_t n = 0; n < CLEN_SYMBOLS; n++) {
                p->clen.freq[n] = p->clens.freq[n];
                p->dynamic_bits += (uint64_t)p->clens.freq[n] * clen_extra[n];
        }
        p->dynamic_bits += tree_build(&p->clen);
        p->clen_count = CLEN_SYMBOLS;
        while (p->clen_count > 4 && p->clen.len[clen_order[p->clen_count - 1]] == 0)
                p->clen_count--;
        p->dynamic_bits += 3 * p->clen_count + 5 + 5 + 4;
}

static void put_head(const struct plan *p, struct cas_bitwriter *w)
{
        cas_bitwriter_put(w, (uint64_t)p->literals.max_symbol + 1 - 257, 5);
        cas_bitwriter_put(w, (uint64_t)p->distances.max_symbol + 1 - 1, 5);
        cas_bitwriter_put(w, p->clen_count - 4, 4);
        for (uint32_t n = 0; n < p->clen_count; n++)
                cas_bitwriter_put(w, p->clen.len[clen_order[n]], 3);
        for (uint32_t n = 0; n < p->clens.count; n++) {
                uint32_t symbol = p->clens.symbols[n];
                cas_bitwriter_put(w, p->clen.codes[symbol].bits, p->clen.codes[symbol].len);
                cas_bitwriter_put(w, p->clens.extra[n], clen_extra[symbol]);
        }
}

/* The codes of all lengths, with their extra bits. */
struct length_code {
        uint32_t bits;
        uint32_t len;
};

static void length_codes_make(const struct cas_zlib_block *b, const struct cas_zlib_code *literals,
                              struct length_code out[256])
{
        for (uint32_t n = 0; n < 256; n++) {
                uint32_t symbol = b->length_symbols[n];
                struct cas_zlib_code code = literals[CAS_ZLIB_END_OF_BLOCK + 1 + symbol];
                out[n].bits = code.bits | (n - length_base[symbol]) << code.len;
                out[n].len = code.len + (uint32_t)length_extra[symbol];
        }
}

static void put_tokens(const struct cas_zlib_block *b, const struct cas_zlib_code *literals,
                       const struct cas_zlib_code *distances, uint64_t block_bits,
                       struct cas_bitwriter *w)
{
        struct length_code lengths[256];
        length_codes_make(b, literals, lengths);
        cas_bitwriter_drain(w);
        cas_buf_reserve(w->out, block_bits / 8 + 32);
        uint8_t *at = w->out->data + w->out->len_bytes;
        uint64_t bits = w->bits;
        unsigned count = w->count; /* below 8, and no token is longer than 48 bits */
        for (uint32_t n = 0; n < b->token_count; n++) {
                uint32_t token = b->tokens[n];
                if (token < 256) {
                        bits |= (uint64_t)literals[token].bits << count;
                        count += literals[token].len;
                } else {
                        struct length_code length = lengths[token >> 16 & 0xff];
                        bits |= (uint64_t)length.bits << count;
                        count += length.len;
                        uint32_t less1 = token & 0x7fff;
                        uint32_t symbol = cas_zlib_distance_symbol(b, less1);
                        struct cas_zlib_code code = distances[symbol];
                        uint32_t extra = less1 - distance_base[symbol];
                        bits |= (uint64_t)(code.bits | extra << code.len) << count;
                        count += code.len + (uint32_t)cas_zlib_distance_extra[symbol];
                }
                cas_put_le64(at, bits);
                at += count / 8;
                bits >>= count & ~7U;
                count &= 7;
        }
        w->out->len_bytes = (size_t)(at - w->out->data);
        w->bits = bits;
        w->count = count;
        struct cas_zlib_code end = literals[CAS_ZLIB_END_OF_BLOCK];
        cas_bitwriter_put(w, end.bits, end.len);
}

void cas_zlib_write_stored(struct cas_bitwriter *w, const uint8_t *plain, size_t len, bool is_final)
{
        cas_assert(len <= STORED_BYTES_MAX);
        cas_bitwriter_put(w, is_final, 3);
        cas_bitwriter_align(w);
        cas_buf_append_le16(w->out, (uint16_t)len);
        cas_buf_append_le16(w->out, (uint16_t)~len);
        cas_buf_append(w->out, plain, len);
}

void cas_zlib_write_empty_fixed(struct cas_bitwriter *w)
{
        cas_bitwriter_put(w, CAS_DEFLATE_FIXED << 1, 3 + 7);
        cas_bitwriter_drain(w);
}

void cas_zlib_block_write(struct cas_zlib_block *b, const uint8_t *plain, size_t len, bool is_final,
                          struct cas_bitwriter *w)
{
        struct plan p;
        plan_make(b, &p);
        /* The choice is made in whole bytes. */
        uint64_t dynamic_bytes = (p.dynamic_bits + 3 + 7) / 8;
        uint64_t fixed_bytes = (p.fixed_bits + 3 + 7) / 8;
        bool is_fixed = fixed_bytes <= dynamic_bytes;
        if (plain && len + 4 <= (is_fixed ? fixed_bytes : dynamic_bytes)) {
                cas_zlib_write_stored(w, plain, len, is_final);
        } else if (is_fixed) {
                cas_bitwriter_put(w, (uint64_t)is_final | CAS_DEFLATE_FIXED << 1, 3);
                put_tokens(b, b->fixed_literals, b->fixed_distances, p.fixed_bits, w);
        } else {
                cas_bitwriter_put(w, (uint64_t)is_final | CAS_DEFLATE_DYNAMIC << 1, 3);
                put_head(&p, w);
                put_tokens(b, p.literals.codes, p.distances.codes, p.dynamic_bits, w);
        }
        if (is_final)
                cas_bitwriter_align(w);
        else
                cas_bitwriter_drain(w);
        cas_zlib_block_clear(b);
}

void cas_zlib_block_clear(struct cas_zlib_block *b)
{
        b->token_count = 0;
        memset(b->literal_freq, 0, sizeof(b->literal_freq));
        memset(b->distance_freq, 0, sizeof(b->distance_freq));
        b->literal_freq[CAS_ZLIB_END_OF_BLOCK] = 1;
}

void cas_zlib_block_init(struct cas_zlib_block *b, uint32_t token_max)
{
        *b = (struct cas_zlib_block){.token_max = token_max};
        b->tokens = cas_xmalloc(token_max * sizeof(*b->tokens));
        for (uint32_t n = 0, symbol = 0; n < 256; n++) {
                while (symbol + 1 < CAS_COUNT(length_base) && n >= length_base[symbol + 1])
                        symbol++;
                b->length_symbols[n] = (uint8_t)symbol;
        }
        for (uint32_t less1 = 0, symbol = 0; less1 < 32768; less1++) {
                while (symbol + 1 < CAS_ZLIB_DISTANCES && less1 >= distance_base[symbol + 1])
                        symbol++;
                b->distance_symbols[less1 < 256 ? less1 : 256 + (less1 >> 7)] = (uint8_t)symbol;
        }
        uint8_t lens[288];
        for (uint32_t n = 0; n < 288; n++)
                lens[n] = n < 144 ? 8 : n < 256 ? 9 : n < 280 ? 7 : 8;
        codes_assign(lens, 288, b->fixed_literals);
        memset(lens, 5, CAS_ZLIB_DISTANCES);
        codes_assign(lens, CAS_ZLIB_DISTANCES, b->fixed_distances);
        cas_zlib_block_clear(b);
}

void cas_zlib_block_release(struct cas_zlib_block *b)
{
        free(b->tokens);
        b->tokens = NULL;
}
