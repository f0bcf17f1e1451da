/* SPDX-License-Identifier: Apache-2.0 */
/* The parser of token.h. Memory: a buffer of stored bytes, the window with what was decoded since
 * the last event, and that event's tokens.
 *
 * Bits wait in `bits`, lowest first; `bit_count` of them were taken out of the buffer, and what is
 * above them is either zero or the same as what follows in the buffer, so that it may be or-ed in
 * again. The buffer keeps some bytes before input_at, so that whole bytes can be given back. */
#include "cas/deflate/token.h"

#include "cas/deflate/inflatetable.h"

#define INPUT_BYTES (CAS_DEFLATE_FILL_BYTES_MAX + 64 * 1024)
#define KEPT_BYTES 8
#define WINDOW_BYTES 32768
#define BATCH_BYTES (128 * 1024)
#define MATCH_BYTES_MAX 258
#define COPY_SLACK_BYTES 16 /* a match is copied in words */
#define BATCH_TOKENS (32 * 1024)

#define LITERAL_SYMBOLS_MAX 286
#define DISTANCE_SYMBOLS_MAX 30
#define END_OF_BLOCK 256

enum state {
        STATE_HEAD,  /* a block's head comes, or the end */
        STATE_BLOCK, /* within a block */
        STATE_OVER,  /* behind the last block; what has begun of it in bits was given back */
};

struct cas_deflate_parser {
        cas_source_fn source;
        void *arg;
        uint8_t *input; /* INPUT_BYTES */
        size_t input_at, input_len;
        bool input_ended;
        uint64_t taken_bytes; /* of the present stream, out of the buffer */
        uint64_t bits;
        unsigned bit_count;

        enum state state;
        struct cas_deflate_block block;
        bool block_is_last; /* the stream ends with it */
        bool block_is_over; /* its end is to be told */
        uint32_t stored_left;
        uint8_t padding; /* of the end */

        uint8_t *window; /* WINDOW_BYTES of history at most, then the batch, then slack */
        size_t history, window_len;
        uint64_t plain_bytes; /* of the stream, told or to be told */
        uint32_t *tokens;     /* BATCH_TOKENS */
        size_t token_count;

        struct cas_inflate_table literals, distances;
};

struct cas_deflate_parser *cas_deflate_parser_new(cas_source_fn source, void *arg)
{
        struct cas_deflate_parser *p = cas_xcalloc(1, sizeof(*p));
        p->source = source;
        p->arg = arg;
        p->input = cas_xmalloc(INPUT_BYTES);
        p->window = cas_xmalloc(WINDOW_BYTES + BATCH_BYTES + MATCH_BYTES_MAX + COPY_SLACK_BYTES);
        p->tokens = cas_xmalloc(BATCH_TOKENS * sizeof(*p->tokens));
        return p;
}

void cas_deflate_parser_free(struct cas_deflate_parser *p)
{
        if (!p)
                return;
        free(p->tokens);
        free(p->window);
        free(p->input);
        free(p);
}

/* ---- stored bytes ---- */

static size_t input_left(const struct cas_deflate_parser *p)
{
        return p->input_len - p->input_at;
}

static int fetch(struct cas_deflate_parser *p, struct cas_err *err)
{
        if (p->input_at > KEPT_BYTES) {
                size_t from = p->input_at - KEPT_BYTES;
                memmove(p->input, p->input + from, p->input_len - from);
                p->input_len -= from;
                p->input_at = KEPT_BYTES;
        }
        size_t got = 0;
        if (p->source(p->arg, p->input + p->input_len, INPUT_BYTES - p->input_len, &got, err) < 0)
                return -(int)err->code;
        cas_assert(got <= INPUT_BYTES - p->input_len);
        p->input_len += got;
        p->input_ended = got == 0;
        return 0;
}

int cas_deflate_parser_fill(struct cas_deflate_parser *p, size_t want, struct cas_err *err)
{
        cas_assert(want <= CAS_DEFLATE_FILL_BYTES_MAX);
        while (input_left(p) < want && !p->input_ended)
                if (fetch(p, err) < 0)
                        return -(int)err->code;
        return 0;
}

void cas_deflate_parser_rest(const struct cas_deflate_parser *p, const uint8_t **data, size_t *len)
{
        *data = p->input + p->input_at;
        *len = input_left(p);
}

void cas_deflate_parser_restart(struct cas_deflate_parser *p, size_t skip)
{
        cas_assert(skip <= input_left(p));
        p->input_at += skip;
        p->taken_bytes = 0;
        p->bits = 0;
        p->bit_count = 0;
        p->state = STATE_HEAD;
        p->block_is_last = false;
        p->block_is_over = false;
        p->history = p->window_len = 0;
        p->plain_bytes = 0;
}

uint64_t cas_deflate_parser_bits(const struct cas_deflate_parser *p)
{
        return 8 * p->taken_bytes - p->bit_count;
}

/* ---- bits ---- */

/* At least 56 bits, or all that are left. */
static int refill(struct cas_deflate_parser *p, struct cas_err *err)
{
        if (cas_deflate_parser_fill(p, 8, err) < 0)
                return -(int)err->code;
        while (p->bit_count < 56 && input_left(p) > 0) {
                p->bits |= (uint64_t)p->input[p->input_at++] << p->bit_count;
                p->bit_count += 8;
                p->taken_bytes++;
        }
        return 0;
}

static int cut_off(struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "deflate stream is cut off");
}

static int need_bits(struct cas_deflate_parser *p, unsigned count, struct cas_err *err)
{
        if (p->bit_count < count && refill(p, err) < 0)
                return -(int)err->code;
        return p->bit_count < count ? cut_off(err) : 0;
}

/* Of those that need_bits made sure of. */
static unsigned take_bits(struct cas_deflate_parser *p, unsigned count)
{
        unsigned value = (unsigned)(p->bits & ((UINT64_C(1) << count) - 1));
        p->bits >>= count;
        p->bit_count -= count;
        return value;
}

/* To the next byte of the stream, which is the next of the buffer then. Returns the bits between.
 */
static uint8_t align_to_byte(struct cas_deflate_parser *p)
{
        uint8_t padding = (uint8_t)take_bits(p, p->bit_count % 8);
        p->input_at -= p->bit_count / 8;
        p->taken_bytes -= p->bit_count / 8;
        p->bits = 0;
        p->bit_count = 0;
        return padding;
}

/* ---- heads of blocks ---- */

static int read_stored_head(struct cas_deflate_parser *p, struct cas_err *err)
{
        p->block.padding = align_to_byte(p);
        if (need_bits(p, 32, err) < 0)
                return -(int)err->code;
        unsigned len = take_bits(p, 16), inverted = take_bits(p, 16);
        if (len != (inverted ^ 0xffff))
                return cas_fail(err, CAS_E_CORRUPT, "stored deflate block with a damaged length");
        (void)align_to_byte(p);
        p->block.stored_bytes = (uint16_t)len;
        p->stored_left = len;
        return 0;
}

static void fixed_tables(struct cas_deflate_parser *p)
{
        uint8_t lengths[288];
        memset(lengths, 8, sizeof(lengths));
        memset(lengths + 144, 9, 256 - 144);
        memset(lengths + 256, 7, 280 - 256);
        bool ok = cas_inflate_table_build(&p->literals, CAS_INFLATE_LITERALS, lengths, 288);
        memset(lengths, 5, 32);
        ok = ok && cas_inflate_table_build(&p->distances, CAS_INFLATE_DISTANCES, lengths, 32);
        cas_assert(ok);
}

static int bad_lengths(struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "deflate block with impossible code lengths");
}

/* The run-length coded lengths of both codes. */
static int read_code_lengths(struct cas_deflate_parser *p, const struct cas_inflate_table *clens,
                             struct cas_err *err)
{
        struct cas_deflate_block *b = &p->block;
        unsigned have = 0, total = (unsigned)b->literal_count + b->distance_count;
        for (b->clen_symbol_count = 0; have < total; b->clen_symbol_count++) {
                /* 7 of the code and 7 extra; the stream does not end here, whatever it says. */
                if (p->bit_count < 14 && refill(p, err) < 0)
                        return -(int)err->code;
                uint32_t entry = cas_inflate_table_find(clens, p->bits);
                unsigned symbol = entry >> 16, extra_bits = 0, run = 1;
                uint8_t length = (uint8_t)symbol;
                if (cas_inflate_kind(entry) == CAS_INFLATE_BAD)
                        return bad_lengths(err);
                if (symbol >= 16) {
                        extra_bits = symbol == 16 ? 2 : symbol == 17 ? 3 : 7;
                        run = symbol == 18 ? 11 : 3;
                        length = 0;
                }
                if (p->bit_count < cas_inflate_bits(entry) + extra_bits)
                        return cut_off(err);
                (void)take_bits(p, cas_inflate_bits(entry));
                unsigned extra = take_bits(p, extra_bits);
                run += extra;
                if (run > total - have || (symbol == 16 && have == 0))
                        return bad_lengths(err);
                if (symbol == 16)
                        length = b->lengths[have - 1];
                memset(b->lengths + have, length, run);
                have += run;
                b->clen_symbols[b->clen_symbol_count] = (uint8_t)symbol;
                b->clen_extra[b->clen_symbol_count] = (uint8_t)extra;
        }
        return 0;
}

static int read_dynamic_head(struct cas_deflate_parser *p, struct cas_err *err)
{
        static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                          11, 4,  12, 3, 13, 2, 14, 1, 15};
        struct cas_deflate_block *b = &p->block;
        if (need_bits(p, 14, err) < 0)
                return -(int)err->code;
        b->literal_count = (uint16_t)(take_bits(p, 5) + 257);
        b->distance_count = (uint16_t)(take_bits(p, 5) + 1);
        b->clen_count = (uint8_t)(take_bits(p, 4) + 4);
        if (b->literal_count > LITERAL_SYMBOLS_MAX || b->distance_count > DISTANCE_SYMBOLS_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "deflate block with too many symbols");
        memset(b->clen_lengths, 0, sizeof(b->clen_lengths));
        for (unsigned i = 0; i < b->clen_count; i++) {
                if (need_bits(p, 3, err) < 0)
                        return -(int)err->code;
                b->clen_lengths[order[i]] = (uint8_t)take_bits(p, 3);
        }
        /* The literals' table serves for both. */
        if (!cas_inflate_table_build(&p->literals, CAS_INFLATE_CODE_LENGTHS, b->clen_lengths, 19))
                return bad_lengths(err);
        if (read_code_lengths(p, &p->literals, err) < 0)
                return -(int)err->code;
        if (b->lengths[END_OF_BLOCK] == 0 ||
            !cas_inflate_table_build(&p->literals, CAS_INFLATE_LITERALS, b->lengths,
                                     b->literal_count) ||
            !cas_inflate_table_build(&p->distances, CAS_INFLATE_DISTANCES,
                                     b->lengths + b->literal_count, b->distance_count))
                return bad_lengths(err);
        return 0;
}

static int read_head(struct cas_deflate_parser *p, struct cas_err *err)
{
        struct cas_deflate_block *b = &p->block;
        b->bit_offset = cas_deflate_parser_bits(p);
        b->plain_offset = p->plain_bytes;
        if (need_bits(p, 3, err) < 0)
                return -(int)err->code;
        b->is_final = take_bits(p, 1);
        unsigned type = take_bits(p, 2);
        p->block_is_last = b->is_final;
        b->type = (enum cas_deflate_block_type)type;
        switch (type) {
        case CAS_DEFLATE_STORED:
                return read_stored_head(p, err);
        case CAS_DEFLATE_FIXED:
                fixed_tables(p);
                return 0;
        case CAS_DEFLATE_DYNAMIC:
                return read_dynamic_head(p, err);
        default:
                return cas_fail(err, CAS_E_CORRUPT, "deflate block of an unknown type");
        }
}

/* ---- bodies ---- */

/* Forgets what was told and is out of matches' reach, when there is no room for more. */
static void slide(struct cas_deflate_parser *p)
{
        p->token_count = 0;
        if (p->window_len > WINDOW_BYTES) {
                size_t from = p->window_len - WINDOW_BYTES;
                memmove(p->window, p->window + from, WINDOW_BYTES);
                p->window_len = WINDOW_BYTES;
        }
        p->history = p->window_len;
}

static int decode_stored(struct cas_deflate_parser *p, struct cas_err *err)
{
        while (p->stored_left > 0 && p->window_len < WINDOW_BYTES + BATCH_BYTES) {
                if (cas_deflate_parser_fill(p, 1, err) < 0)
                        return -(int)err->code;
                size_t n = input_left(p);
                if (n == 0)
                        return cut_off(err);
                n = n < p->stored_left ? n : p->stored_left;
                size_t room = WINDOW_BYTES + BATCH_BYTES - p->window_len;
                n = n < room ? n : room;
                memcpy(p->window + p->window_len, p->input + p->input_at, n);
                p->window_len += n;
                p->input_at += n;
                p->taken_bytes += n;
                p->stored_left -= (uint32_t)n;
        }
        p->block_is_over = p->stored_left == 0;
        return 0;
}

/* Copies forwards, as matches that reach into themselves want it; writes up to COPY_SLACK_BYTES
 * more. */
static inline uint8_t *copy_match(uint8_t *out, size_t distance, size_t length)
{
        const uint8_t *from = out - distance;
        uint8_t *end = out + length;
        if (distance >= 8) {
                do {
                        memcpy(out, from, 8);
                        out += 8;
                        from += 8;
                } while (out < end);
        } else if (distance == 1) {
                memset(out, *from, length);
        } else {
                while (out < end)
                        *out++ = *from++;
        }
        return end;
}

/* What the loop below works with; kept in registers. */
struct reader {
        const uint8_t *at, *end;
        uint64_t bits;
        unsigned count;
};

static inline void reader_load(struct reader *r, const struct cas_deflate_parser *p)
{
        r->at = p->input + p->input_at;
        r->end = p->input + p->input_len;
        r->bits = p->bits;
        r->count = p->bit_count;
}

static inline void reader_save(const struct reader *r, struct cas_deflate_parser *p)
{
        size_t at = (size_t)(r->at - p->input);
        p->taken_bytes += at - p->input_at;
        p->input_at = at;
        p->bits = r->bits;
        p->bit_count = r->count;
}

static inline int reader_refill(struct reader *r, struct cas_deflate_parser *p, struct cas_err *err)
{
        if ((size_t)(r->end - r->at) >= 8) {
                r->bits |= cas_get_le64(r->at) << r->count;
                r->at += (63 - r->count) / 8;
                r->count |= 56;
                return 0;
        }
        reader_save(r, p);
        if (refill(p, err) < 0)
                return -(int)err->code;
        reader_load(r, p);
        return 0;
}

/* More bits than there are: the stream is cut off; tells it when all of a token was decoded. */
static inline bool reader_take(struct reader *r, unsigned count)
{
        if (r->count < count)
                return false;
        r->bits >>= count;
        r->count -= count;
        return true;
}

static int bad_symbol(uint32_t entry, unsigned bit_count, struct cas_err *err)
{
        if (cas_inflate_bits(entry) > bit_count)
                return cut_off(err);
        return cas_fail(err, CAS_E_CORRUPT, "deflate code without a meaning");
}

/* The match whose length's entry was found. 48 bits at most: one refill serves. */
static inline int decode_match(const struct cas_deflate_parser *p, struct reader *r, uint32_t entry,
                               const uint8_t *out, uint32_t *token, struct cas_err *err)
{
        unsigned code_bits = cas_inflate_bits(entry), extra_bits = cas_inflate_extra(entry);
        unsigned extra = (unsigned)(r->bits >> code_bits) & ((1U << extra_bits) - 1);
        uint32_t length = (entry >> 16) + extra;
        if (!reader_take(r, code_bits + extra_bits))
                return cut_off(err);
        uint32_t odd = length == MATCH_BYTES_MAX && extra_bits > 0 ? CAS_TOKEN_ODD_258 : 0;
        entry = cas_inflate_table_find(&p->distances, r->bits);
        if (cas_inflate_kind(entry) != CAS_INFLATE_MATCH)
                return bad_symbol(entry, r->count, err);
        code_bits = cas_inflate_bits(entry);
        extra_bits = cas_inflate_extra(entry);
        uint32_t distance =
                (entry >> 16) + 1 + ((uint32_t)(r->bits >> code_bits) & ((1U << extra_bits) - 1));
        if (!reader_take(r, code_bits + extra_bits))
                return cut_off(err);
        if (distance > (size_t)(out - p->window))
                return cas_fail(err, CAS_E_CORRUPT, "deflate distance before the beginning");
        *token = cas_token_match(length, distance) | odd;
        return 0;
}

/* A batch of tokens: until the block ends, or there is no more room. */
static int decode_tokens(struct cas_deflate_parser *p, struct cas_err *err)
{
        uint8_t *out = p->window + p->window_len;
        const uint8_t *out_end = p->window + WINDOW_BYTES + BATCH_BYTES;
        uint32_t *token = p->tokens, *tokens_end = p->tokens + BATCH_TOKENS;
        struct reader r;
        reader_load(&r, p);
        while (out < out_end && token < tokens_end) {
                if (reader_refill(&r, p, err) < 0)
                        return -(int)err->code;
                uint32_t entry = cas_inflate_table_find(&p->literals, r.bits);
                enum cas_inflate_kind kind = cas_inflate_kind(entry);
                if (kind == CAS_INFLATE_LITERAL) {
                        if (!reader_take(&r, cas_inflate_bits(entry)))
                                return cut_off(err);
                        *token++ = entry >> 16;
                        *out++ = (uint8_t)(entry >> 16);
                } else if (kind == CAS_INFLATE_MATCH) {
                        uint32_t match = 0;
                        if (decode_match(p, &r, entry, out, &match, err) < 0)
                                return -(int)err->code;
                        *token++ = match;
                        out = copy_match(out, cas_token_distance(match), cas_token_length(match));
                } else if (kind == CAS_INFLATE_END && reader_take(&r, cas_inflate_bits(entry))) {
                        p->block_is_over = true;
                        break;
                } else {
                        return bad_symbol(entry, r.count, err);
                }
        }
        reader_save(&r, p);
        p->token_count = (size_t)(token - p->tokens);
        p->window_len = (size_t)(out - p->window);
        return 0;
}

/* ---- events ---- */

static int next_head(struct cas_deflate_parser *p, struct cas_deflate_event *out,
                     struct cas_err *err)
{
        if (p->block_is_last) {
                p->padding = align_to_byte(p);
                p->state = STATE_OVER;
                out->kind = CAS_DEFLATE_END;
                out->padding = p->padding;
                return 0;
        }
        if (read_head(p, err) < 0)
                return -(int)err->code;
        p->state = STATE_BLOCK;
        p->block_is_over = false;
        out->kind = CAS_DEFLATE_BLOCK;
        return 0;
}

static int next_body(struct cas_deflate_parser *p, struct cas_deflate_event *out,
                     struct cas_err *err)
{
        bool is_stored = p->block.type == CAS_DEFLATE_STORED;
        slide(p);
        if (!p->block_is_over && (is_stored ? decode_stored(p, err) : decode_tokens(p, err)) < 0)
                return -(int)err->code;
        size_t plain = p->window_len - p->history;
        if (plain == 0) {
                cas_assert(p->block_is_over);
                p->state = STATE_HEAD;
                out->kind = CAS_DEFLATE_BLOCK_END;
                return 0;
        }
        p->plain_bytes += plain;
        out->kind = is_stored ? CAS_DEFLATE_BYTES : CAS_DEFLATE_TOKENS;
        out->tokens = is_stored ? NULL : p->tokens;
        out->token_count = p->token_count;
        out->plain = p->window + p->history;
        out->plain_bytes = plain;
        return 0;
}

int cas_deflate_parser_next(struct cas_deflate_parser *p, struct cas_deflate_event *out,
                            struct cas_err *err)
{
        *out = (struct cas_deflate_event){.block = &p->block};
        switch (p->state) {
        case STATE_HEAD:
                return next_head(p, out, err);
        case STATE_BLOCK:
                return next_body(p, out, err);
        case STATE_OVER:
                out->kind = CAS_DEFLATE_END;
                out->padding = p->padding;
                return 0;
        }
        return 0;
}
