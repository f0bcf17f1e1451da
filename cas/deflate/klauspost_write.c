/* SPDX-License-Identifier: Apache-2.0 */
/* The block writer of klauspost's encoders. A dynamic block is left open: when the codes of the one
 * before serve the next tokens well enough, these simply follow, and what began as two blocks is
 * one in the stream. `header_bits` above 0 says that a block is open; its end is owed. */
#include "cas/deflate/bitwriter.h"
#include "cas/deflate/klauspost_int.h"

#define LITERALS 286U
#define DISTANCES 30U
#define END 256U
/* Of tokens: from here on nobody asks whether the fixed codes are shorter. */
#define FIXED_TOKENS_MAX 250U
/* What a header is thought to need before there was one. */
#define HEADER_BITS_GUESS 560U
/* No token needs more: two codes and their extra bits. */
#define TOKEN_BYTES_MAX 6U

struct code_lengths { /* as a header says them */
        unsigned literals, distances, used;
        unsigned symbol_count;
        uint8_t symbol[LITERALS + DISTANCES], extra[LITERALS + DISTANCES];
        uint32_t freq[19];
        struct cas_kp_code code;
};

struct cas_kp_writer {
        enum cas_kp_date date;
        unsigned penalty; /* a new code is thought to cost 1/2^penalty more */
        bool alone;       /* no block of tokens is left open */
        struct cas_bitwriter bits;
        uint64_t out_before; /* of the run, before what is in bits.out now */
        size_t out_start;    /* length of bits.out when it was attached */
        uint32_t header_bits;
        bool literals_only; /* the open block has no codes for matches */
        struct cas_kp_point point;
        uint32_t literal_freq[288], distance_freq[32]; /* of the block at hand */
        struct cas_kp_code literal, distance;          /* of the open block, or the latest */
        struct cas_kp_code other;                      /* of literals alone, while it is tried */
        struct cas_kp_code fixed_literal, fixed_distance;
        struct code_lengths header;
};

static unsigned penalty_of(enum cas_kp_date date, int level)
{
        if (level < 0)
                return date < CAS_KP_2021_03 ? 4 : date < CAS_KP_2021_05 ? 8 : 10;
        if (level <= 6)
                return date < CAS_KP_2021_03 ? 6 : date < CAS_KP_2022_01 ? 8 : 7;
        return date < CAS_KP_2022_01 ? 10 : 8;
}

static void make_fixed(struct cas_kp_writer *w)
{
        /* Frequencies that have just these lengths would do as well, but this is shorter. */
        for (unsigned i = 0; i < 288; i++) {
                unsigned bits = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
                unsigned code = i < 144   ? 0x30 + i
                                : i < 256 ? 0x190 + i - 144
                                : i < 280 ? i - 256
                                          : 0xc0 + i - 280;
                w->fixed_literal.length[i] = (uint8_t)bits;
                for (unsigned k = 0; k < bits; k++)
                        w->fixed_literal.bits[i] |= (uint16_t)((code >> k & 1) << (bits - 1 - k));
        }
        for (unsigned i = 0; i < DISTANCES; i++) {
                w->fixed_distance.length[i] = 5;
                for (unsigned k = 0; k < 5; k++)
                        w->fixed_distance.bits[i] |= (uint16_t)((i >> k & 1) << (4 - k));
        }
}

struct cas_kp_writer *cas_kp_writer_new(enum cas_kp_date date, int level)
{
        struct cas_kp_writer *w = cas_xcalloc(1, sizeof *w);
        w->date = date;
        w->penalty = penalty_of(date, level);
        w->alone = level >= 7 && date < CAS_KP_2022_01;
        make_fixed(w);
        return w;
}

void cas_kp_writer_free(struct cas_kp_writer *w)
{
        free(w);
}

void cas_kp_writer_begin(struct cas_kp_writer *w)
{
        cas_kp_writer_restart(w, &(struct cas_kp_point){0});
}

void cas_kp_writer_restart(struct cas_kp_writer *w, const struct cas_kp_point *at)
{
        cas_assert(at->bit_count < 8);
        w->bits.bits = at->bits & ((1U << at->bit_count) - 1);
        w->bits.count = at->bit_count;
        w->out_before = at->out_bytes;
        w->header_bits = 0;
        w->literals_only = false;
        w->point = *at;
}

void cas_kp_writer_attach(struct cas_kp_writer *w, struct cas_buf *out)
{
        w->bits.out = out;
        w->out_start = out->len_bytes;
}

void cas_kp_writer_detach(struct cas_kp_writer *w)
{
        cas_bitwriter_drain(&w->bits);
        w->out_before += w->bits.out->len_bytes - w->out_start;
        w->bits.out = NULL;
}

struct cas_kp_point cas_kp_writer_point(const struct cas_kp_writer *w)
{
        return w->point;
}

static void note_point(struct cas_kp_writer *w)
{
        cas_bitwriter_drain(&w->bits);
        w->point = (struct cas_kp_point){
                .out_bytes = w->out_before + (w->bits.out->len_bytes - w->out_start),
                .bit_count = (uint8_t)w->bits.count,
                .bits = (uint8_t)w->bits.bits,
        };
}

static void put_symbol(struct cas_kp_writer *w, const struct cas_kp_code *c, unsigned symbol)
{
        cas_bitwriter_put(&w->bits, c->bits[symbol], c->length[symbol]);
}

static void close_block(struct cas_kp_writer *w)
{
        if (w->header_bits > 0)
                put_symbol(w, &w->literal, END);
        w->header_bits = 0;
}

/* ------------------------------------------------------------------ headers */
static const uint8_t code_order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                       11, 4,  12, 3, 13, 2, 14, 1, 15};

static void add_length(struct code_lengths *h, unsigned symbol, unsigned extra)
{
        h->symbol[h->symbol_count] = (uint8_t)symbol;
        h->extra[h->symbol_count++] = (uint8_t)extra;
        h->freq[symbol]++;
}

static void add_run(struct code_lengths *h, unsigned length, unsigned run)
{
        if (length) {
                add_length(h, length, 0);
                run--;
                for (unsigned part; run >= 3; run -= part) {
                        part = run < 6 ? run : 6;
                        add_length(h, 16, part - 3);
                }
        } else {
                for (unsigned part; run >= 11; run -= part) {
                        part = run < 138 ? run : 138;
                        add_length(h, 18, part - 11);
                }
                if (run >= 3) {
                        add_length(h, 17, run - 3);
                        run = 0;
                }
        }
        for (; run > 0; run--)
                add_length(h, length, 0);
}

/* How the header says these lengths. */
static void make_header(struct code_lengths *h, const uint8_t *literal, unsigned literals,
                        const uint8_t *distance, unsigned distances)
{
        uint8_t all[LITERALS + DISTANCES];
        memcpy(all, literal, literals);
        memcpy(all + literals, distance, distances);
        unsigned n = literals + distances;
        h->literals = literals;
        h->distances = distances;
        h->symbol_count = 0;
        memset(h->freq, 0, sizeof h->freq);
        for (unsigned i = 0, run; i < n; i += run) {
                for (run = 1; i + run < n && all[i + run] == all[i];)
                        run++;
                add_run(h, all[i], run);
        }
        cas_kp_code_make(&h->code, h->freq, 19, 7);
        for (h->used = 19; h->used > 4 && h->freq[code_order[h->used - 1]] == 0;)
                h->used--;
}

static uint32_t header_size(const struct code_lengths *h)
{
        return 3 + 5 + 5 + 4 + 3 * h->used + cas_kp_code_size(&h->code, h->freq, 19) +
               2 * h->freq[16] + 3 * h->freq[17] + 7 * h->freq[18];
}

static void put_header(struct cas_kp_writer *w)
{
        const struct code_lengths *h = &w->header;
        cas_bitwriter_put(&w->bits, 4, 3);
        cas_bitwriter_put(&w->bits, h->literals - 257, 5);
        cas_bitwriter_put(&w->bits, h->distances - 1, 5);
        cas_bitwriter_put(&w->bits, h->used - 4, 4);
        for (unsigned i = 0; i < h->used; i++)
                cas_bitwriter_put(&w->bits, h->code.length[code_order[i]], 3);
        for (unsigned i = 0; i < h->symbol_count; i++) {
                unsigned symbol = h->symbol[i];
                put_symbol(w, &h->code, symbol);
                if (symbol >= 16)
                        cas_bitwriter_put(&w->bits, h->extra[i],
                                          symbol == 16   ? 2
                                          : symbol == 17 ? 3
                                                         : 7);
        }
}

/* ------------------------------------------------------------------ content */
/* Codes as they are put: bits below, how many from bit 24 on. */
static void pack_codes(uint32_t *packed, const struct cas_kp_code *c, unsigned count)
{
        for (unsigned i = 0; i < count; i++)
                packed[i] = (uint32_t)c->length[i] << 24 | c->bits[i];
}

/* Stores whole bytes at *at. At most 7 bits are left. */
static inline void spill(uint8_t **at, uint64_t *bits, unsigned *count)
{
        uint64_t le = *bits;
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
        le = __builtin_bswap64(le);
#endif
        memcpy(*at, &le, sizeof le);
        *at += *count >> 3;
        *bits >>= *count & ~7U;
        *count &= 7;
}

/* Codes of bytes, and of lengths with their extra bits. */
static void pack_lengths(uint32_t packed[512], const struct cas_kp_code *literal)
{
        pack_codes(packed, literal, 256);
        for (unsigned i = 0, symbol = ~0U, first = 0; i < 256; i++) {
                if (cas_kp_length_symbol[i] != symbol) {
                        symbol = cas_kp_length_symbol[i];
                        first = i;
                }
                unsigned bits = literal->length[257 + symbol];
                packed[256 + i] = (bits + cas_kp_length_extra[symbol]) << 24 | (i - first) << bits |
                                  literal->bits[257 + symbol];
        }
}

struct distance_code {
        uint16_t code, mask; /* of the extra bits */
        uint8_t bits, all;   /* of the code; extra bits included */
};

static void put_tokens(struct cas_kp_writer *w, const struct cas_kp_tokens *t,
                       const struct cas_kp_code *literal, const struct cas_kp_code *distance)
{
        uint32_t lengths[512];
        struct distance_code distances[32] = {{0}};
        pack_lengths(lengths, literal);
        for (unsigned i = 0; i < DISTANCES; i++) {
                unsigned bits = distance->length[i], extra = cas_kp_distance_extra[i];
                distances[i] =
                        (struct distance_code){distance->bits[i], (uint16_t)((1U << extra) - 1),
                                               (uint8_t)bits, (uint8_t)(bits + extra)};
        }

        cas_bitwriter_drain(&w->bits);
        struct cas_buf *out = w->bits.out;
        cas_buf_reserve(out, (size_t)t->count * TOKEN_BYTES_MAX + 16);
        uint8_t *at = out->data + out->len_bytes;
        uint64_t bits = w->bits.bits;
        unsigned count = w->bits.count;
        for (uint32_t i = 0; i < t->count; i++) {
                uint32_t token = t->token[i];
                uint32_t length = lengths[token >> 15 & 0x1ff];
                struct distance_code d = distances[token >> 24];
                uint64_t both = (uint64_t)(token & d.mask) << d.bits | d.code;
                both = both << (length >> 24) | (length & 0xffffff);
                bits |= both << count;
                count += (length >> 24) + d.all;
                spill(&at, &bits, &count);
        }
        out->len_bytes = (size_t)(at - out->data);
        w->bits.bits = bits;
        w->bits.count = count;
}

static void put_literals(struct cas_kp_writer *w, const uint8_t *input, size_t len)
{
        uint32_t literals[256];
        pack_codes(literals, &w->literal, 256);
        cas_bitwriter_drain(&w->bits);
        struct cas_buf *out = w->bits.out;
        cas_buf_reserve(out, 2 * len + 16);
        uint8_t *at = out->data + out->len_bytes;
        uint64_t bits = w->bits.bits;
        unsigned count = w->bits.count;
        size_t i = 0;
        for (; i + 3 <= len; i += 3) {
                for (unsigned k = 0; k < 3; k++) {
                        uint32_t c = literals[input[i + k]];
                        bits |= (uint64_t)(c & 0xffffff) << count;
                        count += c >> 24;
                }
                spill(&at, &bits, &count);
        }
        for (; i < len; i++) {
                uint32_t c = literals[input[i]];
                bits |= (uint64_t)(c & 0xffffff) << count;
                count += c >> 24;
                spill(&at, &bits, &count);
        }
        out->len_bytes = (size_t)(at - out->data);
        w->bits.bits = bits;
        w->bits.count = count;
}

/* ------------------------------------------------------------------ stored and fixed blocks */
static void put_stored(struct cas_kp_writer *w, const uint8_t *input, size_t len, bool final)
{
        cas_assert(len <= CAS_KP_BLOCK_BYTES_MAX);
        cas_bitwriter_put(&w->bits, final, 3);
        cas_bitwriter_align(&w->bits);
        cas_buf_append_le16(w->bits.out, (uint16_t)len);
        cas_buf_append_le16(w->bits.out, (uint16_t)~len);
        if (len > 0)
                cas_buf_append(w->bits.out, input, len);
}

static uint32_t stored_size(size_t len)
{
        return (uint32_t)(len + 5) * 8;
}

bool cas_kp_write_stored(struct cas_kp_writer *w, const uint8_t *input, size_t len)
{
        close_block(w);
        note_point(w);
        put_stored(w, input, len, false);
        return true;
}

void cas_kp_write_sync(struct cas_kp_writer *w)
{
        close_block(w);
        put_stored(w, NULL, 0, false);
        note_point(w);
}

void cas_kp_write_finish(struct cas_kp_writer *w)
{
        close_block(w);
        if (w->date < CAS_KP_2020_02B) {
                put_stored(w, NULL, 0, true);
        } else {
                cas_bitwriter_put(&w->bits, 3, 3);
                cas_bitwriter_put(&w->bits, 0, 7);
                cas_bitwriter_align(&w->bits);
        }
        note_point(w);
}

static uint32_t fixed_size(const struct cas_kp_writer *w, uint32_t extra_bits)
{
        return 3 + cas_kp_code_size(&w->fixed_literal, w->literal_freq, LITERALS) +
               cas_kp_code_size(&w->fixed_distance, w->distance_freq, DISTANCES) + extra_bits;
}

static void put_fixed(struct cas_kp_writer *w, const struct cas_kp_tokens *t)
{
        cas_bitwriter_put(&w->bits, 2, 3);
        put_tokens(w, t, &w->fixed_literal, &w->fixed_distance);
        put_symbol(w, &w->fixed_literal, END);
}

/* ------------------------------------------------------------------ blocks of tokens */
static bool open_codes_hold(const struct cas_kp_writer *w)
{
        for (unsigned i = 0; i < DISTANCES; i++)
                if (w->distance_freq[i] && !w->distance.length[i])
                        return false;
        for (unsigned i = 0; i < LITERALS; i++)
                if (w->literal_freq[i] && !w->literal.length[i])
                        return false;
        return true;
}

static uint32_t extra_bits(const struct cas_kp_writer *w)
{
        uint32_t sum = 0;
        for (unsigned i = 0; i < CAS_COUNT(cas_kp_length_extra); i++)
                sum += w->literal_freq[257 + i] * cas_kp_length_extra[i];
        for (unsigned i = 0; i < DISTANCES; i++)
                sum += w->distance_freq[i] * cas_kp_distance_extra[i];
        return sum;
}

/* Until 2021 every code holds all symbols, so that it serves whatever comes. */
static uint32_t fill_tokens(struct cas_kp_tokens *t)
{
        uint32_t filled = 0;
        for (unsigned i = 0; i < 256; i++)
                if (!t->literals[i]) {
                        t->literals[i] = 1;
                        filled++;
                }
        for (unsigned i = 0; i < LITERALS - 256; i++)
                if (!t->lengths[i]) {
                        t->lengths[i] = 1;
                        filled++;
                }
        for (unsigned i = 0; i < DISTANCES; i++)
                if (!t->distances[i])
                        t->distances[i] = 1;
        return filled;
}

static unsigned used(const uint32_t *freq, unsigned count)
{
        while (count > 0 && freq[count - 1] == 0)
                count--;
        return count;
}

/* Takes over the frequencies, and says how many lengths a header of its own would give. */
static void index_tokens(struct cas_kp_writer *w, const struct cas_kp_tokens *t, bool sync,
                         unsigned *literals, unsigned *distances)
{
        memcpy(w->literal_freq, t->literals, 256 * sizeof *t->literals);
        memcpy(w->literal_freq + 256, t->lengths, 32 * sizeof *t->lengths);
        memcpy(w->distance_freq, t->distances, sizeof w->distance_freq);
        *literals = LITERALS;
        *distances = DISTANCES;
        if (!sync && w->date < CAS_KP_2025_10)
                return;
        if (w->date >= CAS_KP_2025_12)
                w->literal_freq[END] = 1;
        *literals = used(w->literal_freq, LITERALS);
        /* The retracted release wrote rubbish there. */
        if (*literals <= END)
                *literals = END + 1;
        *distances = used(w->distance_freq, DISTANCES);
        if (*distances == 0) {
                w->distance_freq[0] = 1;
                *distances = 1;
        }
}

/* What the open block's codes lead to. */
enum reuse { REUSE, NEW_CODES, WRITTEN };

/* A block is open, and its codes hold all symbols. size: what the better of the two needs. */
static enum reuse weigh_reuse(struct cas_kp_writer *w, struct cas_kp_tokens *t, uint32_t total,
                              uint32_t extra, const uint8_t *input, size_t len)
{
        uint32_t fresh = w->header_bits + cas_kp_tokens_estimate(t, w->date, total);
        fresh += (fresh >> w->penalty) + (w->date >= CAS_KP_2022_01 ? w->literal.length[END] : 0U);
        uint32_t reused = cas_kp_code_size(&w->literal, w->literal_freq, LITERALS) +
                          cas_kp_code_size(&w->distance, w->distance_freq, DISTANCES) + extra;
        bool is_fresh = fresh < reused;
        uint32_t size = is_fresh ? fresh : reused;

        bool is_fixed = false;
        if (w->date >= CAS_KP_2022_02 ? total < FIXED_TOKENS_MAX : w->date >= CAS_KP_2022_01)
                is_fixed = fixed_size(w, extra) + 7 < size;
        bool is_stored = false;
        if (input)
                is_stored = w->date >= CAS_KP_2022_01 ? stored_size(len) <= size
                                                      : stored_size(len) < size + (size >> 4);
        if (is_fresh || is_fixed || is_stored)
                close_block(w);
        if (is_stored)
                put_stored(w, input, len, false);
        else if (is_fixed)
                put_fixed(w, t);
        if (is_stored || is_fixed)
                return WRITTEN;
        return is_fresh ? NEW_CODES : REUSE;
}

/* Codes of its own, unless fixed or stored is shorter. False: nothing of the block is left. */
static bool begin_dynamic(struct cas_kp_writer *w, const struct cas_kp_tokens *t, uint32_t total,
                          uint32_t extra, const uint8_t *input, size_t len, bool sync,
                          unsigned literals, unsigned distances)
{
        if (w->date >= CAS_KP_2022_01)
                w->literal_freq[END] = 1;
        cas_kp_code_make(&w->literal, w->literal_freq, LITERALS, 15);
        cas_kp_code_make(&w->distance, w->distance_freq, DISTANCES, 15);
        make_header(&w->header, w->literal.length, literals, w->distance.length, distances);
        uint32_t header = header_size(&w->header);
        uint32_t size = header + cas_kp_code_size(&w->literal, w->literal_freq, LITERALS) +
                        cas_kp_code_size(&w->distance, w->distance_freq, DISTANCES) + extra;
        if (w->date < CAS_KP_2022_01) {
                if (input && stored_size(len) < size + (size >> 4)) {
                        put_stored(w, input, len, false);
                        return false;
                }
        } else {
                uint32_t fixed = w->date < CAS_KP_2022_02 || total < FIXED_TOKENS_MAX
                                         ? fixed_size(w, extra)
                                         : UINT32_MAX;
                if (input && stored_size(len) <= (fixed < size ? fixed : size)) {
                        put_stored(w, input, len, false);
                        return false;
                }
                if (fixed <= size) {
                        put_fixed(w, t);
                        return false;
                }
        }
        put_header(w);
        w->header_bits = sync ? 0 : header;
        w->literals_only = false;
        return true;
}

/* The shortest of dynamic, fixed and stored; the first of those that are as short. */
static void write_alone(struct cas_kp_writer *w, struct cas_kp_tokens *t, const uint8_t *input,
                        size_t len)
{
        unsigned literals, distances;
        t->lengths[0] = 1;
        index_tokens(w, t, true, &literals, &distances);
        note_point(w);
        cas_kp_code_make(&w->literal, w->literal_freq, LITERALS, 15);
        cas_kp_code_make(&w->distance, w->distance_freq, DISTANCES, 15);
        make_header(&w->header, w->literal.length, literals, w->distance.length, distances);
        uint32_t dynamic = header_size(&w->header) +
                           cas_kp_code_size(&w->literal, w->literal_freq, LITERALS) +
                           cas_kp_code_size(&w->distance, w->distance_freq, DISTANCES);
        uint32_t fixed = fixed_size(w, 0);
        uint32_t size = dynamic < fixed ? dynamic : fixed;
        if (input && len <= CAS_KP_BLOCK_BYTES_MAX && stored_size(len) < size + extra_bits(w)) {
                put_stored(w, input, len, false);
        } else if (dynamic < fixed) {
                put_header(w);
                put_tokens(w, t, &w->literal, &w->distance);
                put_symbol(w, &w->literal, END);
        } else {
                put_fixed(w, t);
        }
}

bool cas_kp_write_tokens(struct cas_kp_writer *w, struct cas_kp_tokens *t, const uint8_t *input,
                         size_t len, bool sync)
{
        cas_assert(t->count > 0);
        if (w->alone) {
                write_alone(w, t, input, len);
                return true;
        }
        t->lengths[0] = sync;
        uint32_t total = t->count;
        if (w->date >= CAS_KP_2022_01B && sync)
                total++;
        if (w->date < CAS_KP_2022_01 && !sync)
                total += fill_tokens(t);
        if (w->literals_only)
                close_block(w);
        if (len > CAS_KP_BLOCK_BYTES_MAX)
                input = NULL;
        unsigned literals, distances;
        index_tokens(w, t, sync, &literals, &distances);
        if (w->header_bits > 0 && w->date >= CAS_KP_2022_01 && !open_codes_hold(w))
                close_block(w);
        /* They are left out where they make no difference; a number may come out of it. */
        uint32_t extra = extra_bits(w);

        if (w->header_bits > 0) {
                enum reuse reuse = weigh_reuse(w, t, total, extra, input, len);
                if (reuse == WRITTEN)
                        return false;
                if (reuse == REUSE) {
                        put_tokens(w, t, &w->literal, &w->distance);
                        if (sync)
                                close_block(w);
                        return false;
                }
        }
        note_point(w);
        if (begin_dynamic(w, t, total, extra, input, len, sync, literals, distances)) {
                put_tokens(w, t, &w->literal, &w->distance);
                if (sync)
                        put_symbol(w, &w->literal, END);
        }
        return true;
}

/* ------------------------------------------------------------------ blocks of literals */
static void count_literals(uint32_t freq[256], const uint8_t *input, size_t len)
{
        uint32_t part[4][256] = {{0}};
        size_t i = 0;
        for (; i + 4 <= len; i += 4)
                for (unsigned k = 0; k < 4; k++)
                        part[k][input[i + k]]++;
        for (; i < len; i++)
                part[0][input[i]]++;
        for (unsigned k = 0; k < 256; k++)
                freq[k] = part[0][k] + part[1][k] + part[2][k] + part[3][k];
}

/* All bytes are about as frequent: the variance is below two. */
static bool is_even(const uint32_t freq[256], size_t len)
{
        uint64_t sum = 0;
        for (unsigned i = 0; i < 256; i++) {
                int64_t off = (int64_t)freq[i] * 256 - (int64_t)len;
                sum += (uint64_t)(off * off);
        }
        return sum < (uint64_t)len * 2 * 65536;
}

/* Bytes that do not occur count once, when the code shall serve later blocks; how many. */
static unsigned fill_literals(uint32_t freq[256])
{
        unsigned absent = 0;
        for (unsigned i = 0; i < 256; i++)
                if (!freq[i]) {
                        freq[i] = 1;
                        absent++;
                }
        return absent;
}

/* What a code of its own is thought to need, without header and penalty. From 2021-05 on the code
 * is made for that, in `other`. absent_bits: what the filling adds, that is not in it. */
static uint32_t own_size(struct cas_kp_writer *w, size_t len, bool sync, uint32_t *absent_bits)
{
        uint32_t *freq = w->literal_freq, total = (uint32_t)len;
        *absent_bits = 0;
        if (w->date >= CAS_KP_2021_05) {
                freq[END] = 1;
                cas_kp_code_make(&w->other, freq, END + 1, 15);
                return cas_kp_code_size(&w->other, freq, END + 1);
        }
        if (w->date >= CAS_KP_2021_03) {
                for (unsigned i = 0; i < 256 && !sync; i++)
                        total += freq[i] == 0;
                return cas_kp_literals_estimate(freq, total) + (uint32_t)len / 32;
        }
        uint32_t size = cas_kp_literals_estimate(freq, total) + 15;
        if (!sync)
                *absent_bits = cas_kp_absent_estimate(fill_literals(freq), total);
        return size;
}

static uint32_t with_header(const struct cas_kp_writer *w, uint32_t size, uint32_t header_bits)
{
        size += header_bits > 0 ? header_bits : HEADER_BITS_GUESS;
        return size + (size >> w->penalty);
}

/* The same with the open block's codes. */
static uint32_t reused_size(const struct cas_kp_writer *w)
{
        if (w->date >= CAS_KP_2021_05)
                for (unsigned i = 0; i < 256; i++)
                        if (w->literal_freq[i] && !w->literal.length[i])
                                return UINT32_MAX;
        return cas_kp_code_size(&w->literal, w->literal_freq, 256);
}

static void begin_literals(struct cas_kp_writer *w, bool sync)
{
        if (w->date < CAS_KP_2021_05) {
                if (!sync && w->date >= CAS_KP_2021_03)
                        (void)fill_literals(w->literal_freq);
                w->literal_freq[END] = 1;
                cas_kp_code_make(&w->other, w->literal_freq, END + 1, 15);
        }
        w->literal = w->other;
        make_header(&w->header, w->literal.length, END + 1, &(uint8_t){1}, 1);
        put_header(w);
        w->header_bits = header_size(&w->header);
        w->literals_only = true;
}

bool cas_kp_write_literals(struct cas_kp_writer *w, const uint8_t *input, size_t len, bool sync)
{
        memset(w->literal_freq, 0, sizeof w->literal_freq);
        count_literals(w->literal_freq, input, len);
        if (w->date >= CAS_KP_2022_02 && len > 1024 && is_even(w->literal_freq, len))
                return cas_kp_write_stored(w, input, len);

        uint32_t absent_bits, own = own_size(w, len, sync, &absent_bits);
        /* Equal sizes: stored since 2021-05. */
        uint32_t stored = stored_size(len) + (w->date < CAS_KP_2021_05);
        uint32_t size = with_header(w, own, w->header_bits);
        bool fresh_is_stored = stored <= with_header(w, own, 0);
        if (stored <= size)
                return cas_kp_write_stored(w, input, len) && fresh_is_stored;
        if (w->header_bits > 0 && size + absent_bits < reused_size(w))
                close_block(w);
        bool is_fresh = w->header_bits == 0;
        if (is_fresh) {
                note_point(w);
                begin_literals(w, sync);
        }
        put_literals(w, input, len);
        if (sync) {
                close_block(w);
                w->literals_only = false;
        }
        return is_fresh && !fresh_is_stored;
}
