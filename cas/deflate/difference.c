/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/bitwriter.h"
#include "cas/deflate/difference.h"

#define BUCKETS 16
#define HISTORIES 8
#define RAW_PLACES 64
#define SHORTEST_NONE 259 /* of an item without matches */

/* Contexts alone: all of it is reset at once. */
struct model {
        cas_range_context kind[4][4]; /* by the kind before */
        cas_range_context final;
        cas_range_context type[4][4]; /* by the type before */
        cas_range_context ends;
        cas_range_context like_before[4]; /* stored bytes, tokens, plain bytes, shortest */
        struct cas_range_number stored_bytes, token_count, shortest;
        cas_range_context padding_zero, odd[2];
        cas_range_context hit[CAS_PREDICT_REASON_COUNT][BUCKETS][HISTORIES];
        cas_range_context is_literal[CAS_PREDICT_REASON_COUNT][BUCKETS];
        cas_range_context same_distance[BUCKETS];
        cas_range_context cut_full[BUCKETS];
        cas_range_context length_order[BUCKETS][4];
        struct cas_range_number cut, shorter, longer, length;
        cas_range_context ranked[BUCKETS];
        struct cas_range_number rank[2];
        cas_range_context distance_log[16];
        cas_range_context raw_same[RAW_PLACES][2];
        cas_range_context raw_byte[256];
        struct cas_range_number raw_bytes;
        struct cas_diffhead_model head;
};

struct cas_difference {
        struct cas_rangecoder coder;
        struct cas_predict *predict; /* owned */
        enum cas_diffhead_tree tree;
        const uint8_t *data; /* borrowed */
        uint32_t end;
        uint64_t work_max;  /* of prediction */
        bool is_overworked; /* encoding: this segment is given up */
        struct model model;
        /* what contexts and predictions are taken from */
        enum cas_difference_kind last_kind;
        unsigned last_type;
        uint32_t last_stored_bytes, last_tokens, last_plain_bytes, last_shortest;
        uint32_t misses;  /* of the last tokens, a bit each */
        bool in_block;    /* a block was begun and has not ended */
        bool has_head;    /* … and its head was coded in this segment */
        bool stream_over; /* the next block begins a stream */
        uint8_t last_raw[RAW_PLACES];
        uint32_t last_raw_bytes;
        /* decoding */
        struct cas_difference_item item;
        uint32_t *tokens; /* owned */
        uint8_t *raw;     /* owned */
        uint16_t literal_codes[CAS_DIFFHEAD_LITERALS], distance_codes[CAS_DIFFHEAD_DISTANCES];
        uint8_t literal_lengths[CAS_DIFFHEAD_LITERALS], distance_lengths[CAS_DIFFHEAD_DISTANCES];
        uint64_t bits; /* that are pending */
        unsigned bit_count;
};

void cas_difference_params_put(const struct cas_difference_params *p,
                               uint8_t out[CAS_DIFFERENCE_PARAMS_BYTES])
{
        cas_predict_params_put(&p->predict, out);
        out[CAS_PREDICT_PARAMS_BYTES] = p->tree;
}

bool cas_difference_params_get(const uint8_t in[CAS_DIFFERENCE_PARAMS_BYTES],
                               struct cas_difference_params *out)
{
        out->tree = in[CAS_PREDICT_PARAMS_BYTES];
        return cas_predict_params_get(in, &out->predict) && out->tree < CAS_DIFFHEAD_TREE_COUNT;
}

struct cas_difference *cas_difference_new(void)
{
        struct cas_difference *d = cas_xcalloc(1, sizeof(*d));
        d->predict = cas_predict_new();
        return d;
}

void cas_difference_free(struct cas_difference *d)
{
        if (!d)
                return;
        cas_predict_free(d->predict);
        free(d->tokens);
        free(d->raw);
        free(d);
}

static void begin(struct cas_difference *d, const struct cas_difference_params *params,
                  const struct cas_difference_plain *plain)
{
        cas_assert(plain->window_bytes <= CAS_DIFFERENCE_WINDOW_BYTES);
        cas_assert(plain->plain_bytes <= CAS_DIFFERENCE_PLAIN_BYTES_MAX);
        d->tree = (enum cas_diffhead_tree)params->tree;
        d->data = plain->data;
        d->end = plain->window_bytes + plain->plain_bytes;
        d->work_max = CAS_DIFFERENCE_WORK_MIN +
                      (uint64_t)CAS_DIFFERENCE_WORK_PER_BYTE * plain->plain_bytes;
        d->is_overworked = false;
        cas_predict_begin(d->predict, &params->predict, plain->data, 0, plain->window_bytes,
                          d->end);
        cas_range_contexts_init(&d->model, sizeof(d->model));
        d->last_kind = CAS_DIFFERENCE_END;
        d->last_type = CAS_DEFLATE_DYNAMIC;
        d->last_stored_bytes = d->last_tokens = d->last_plain_bytes = 0;
        d->last_shortest = 3;
        d->misses = 0;
        d->in_block = d->has_head = d->stream_over = false;
        memset(d->last_raw, 0, sizeof(d->last_raw));
        d->last_raw_bytes = 0;
}

/* ---- tokens ---- */

static unsigned bucket_of(uint32_t token)
{
        if (!(token & CAS_TOKEN_IS_MATCH))
                return 0;
        unsigned length = cas_token_length(token);
        if (length < 8)
                return length - 2;
        if (length == 258)
                return 15;
        unsigned log = 31 - (unsigned)__builtin_clz(length);
        return 2 * (log - 3) + (length >> (log - 1) & 1) + 6 < 15
                       ? 2 * (log - 3) + (length >> (log - 1) & 1) + 6
                       : 14;
}

static uint32_t code_distance(struct cas_difference *d, unsigned bucket, unsigned length,
                              uint32_t distance)
{
        struct cas_rangecoder *c = &d->coder;
        struct model *m = &d->model;
        uint32_t rank = 0;
        bool ranked = !c->decodes && cas_predict_rank(d->predict, length, distance, &rank);
        if (cas_range_bit(c, &m->ranked[bucket], ranked)) {
                rank = cas_range_number(c, &m->rank[bucket > 0], rank);
                return c->decodes ? cas_predict_ranked(d->predict, length, rank) : distance;
        }
        uint32_t n = distance; /* 1 to 32768 */
        unsigned log = c->decodes ? 0 : 31 - (unsigned)__builtin_clz(n);
        log = cas_range_tree(c, m->distance_log, log, 4);
        if (!c->decodes)
                return cas_range_direct(c, n & ((1U << log) - 1), log), distance;
        return 1U << log | cas_range_direct(c, 0, log);
}

/* A match that is not the predicted token; that may be a match too. Decoding returns anything:
 * checked by who calls. */
static uint32_t code_match(struct cas_difference *d, uint32_t predicted, uint32_t token)
{
        struct cas_rangecoder *c = &d->coder;
        struct model *m = &d->model;
        unsigned bucket = bucket_of(predicted);
        uint32_t length = c->decodes ? 0 : cas_token_length(token);
        uint32_t distance = c->decodes ? 0 : cas_token_distance(token);
        if (bucket == 0) {
                length = 3 + cas_range_number(c, &m->length, length - 3);
                if (length > 258)
                        return CAS_TOKEN_IS_MATCH | 0x7fff;
                distance = code_distance(d, bucket, length, distance);
                return distance == 0 || distance > 32768 ? CAS_TOKEN_IS_MATCH | 0x7fff
                                                         : cas_token_match(length, distance);
        }
        unsigned expected = cas_token_length(predicted);
        if (cas_range_bit(c, &m->same_distance[bucket],
                          distance == cas_token_distance(predicted))) {
                /* Cut short of what was predicted, which was all that matches. */
                uint32_t up = cas_range_bit(c, &m->cut_full[bucket], length > expected);
                uint32_t by = up ? length - expected - 1 : expected - 1 - length;
                by = cas_range_number(c, &m->cut, by);
                length = up ? expected + 1 + by : expected - 1 - by;
                distance = cas_token_distance(predicted);
        } else {
                unsigned order = length == expected ? 0 : length < expected ? 1 : 2;
                order = cas_range_tree(c, m->length_order[bucket], order, 2);
                if (order == 0)
                        length = expected;
                else if (order == 1)
                        length = expected - 1 -
                                 cas_range_number(c, &m->shorter, expected - 1 - length);
                else
                        length = expected + 1 +
                                 cas_range_number(c, &m->longer, length - expected - 1);
                if (length < 3 || length > 258)
                        return CAS_TOKEN_IS_MATCH | 0x7fff;
                distance = code_distance(d, bucket, length, distance);
        }
        if (length < 3 || length > 258 || distance == 0 || distance > 32768)
                return CAS_TOKEN_IS_MATCH | 0x7fff;
        return cas_token_match(length, distance);
}

/* The token at the predictor's position, without CAS_TOKEN_ODD_258. */
static uint32_t code_token(struct cas_difference *d, uint32_t token)
{
        struct cas_rangecoder *c = &d->coder;
        struct model *m = &d->model;
        enum cas_predict_reason reason;
        uint32_t predicted = cas_predict_next(d->predict, &reason);
        unsigned bucket = bucket_of(predicted);
        cas_range_context *hit = &m->hit[reason][bucket][d->misses & (HISTORIES - 1)];
        bool is_hit = cas_range_bit(c, hit, token == predicted);
        d->misses = d->misses << 1 | !is_hit;
        if (is_hit)
                return predicted;
        if (bucket > 0) {
                bool literal = !(token & CAS_TOKEN_IS_MATCH);
                if (cas_range_bit(c, &m->is_literal[reason][bucket], literal))
                        return d->data[cas_predict_at(d->predict)];
        }
        return code_match(d, predicted, token);
}

static bool token_fits(const struct cas_difference *d, uint32_t token)
{
        uint32_t at = cas_predict_at(d->predict);
        if (!(token & CAS_TOKEN_IS_MATCH))
                return at < d->end;
        return cas_token_length(token) <= d->end - at &&
               cas_token_distance(token) <= cas_predict_reach(d->predict);
}

static unsigned shortest_of(const struct cas_difference_item *item)
{
        unsigned shortest = SHORTEST_NONE;
        for (uint32_t i = 0; i < item->token_count; i++)
                if (item->tokens[i] & CAS_TOKEN_IS_MATCH &&
                    cas_token_length(item->tokens[i]) < shortest)
                        shortest = cas_token_length(item->tokens[i]);
        return shortest;
}

static void code_shortest(struct cas_difference *d, unsigned shortest)
{
        struct cas_rangecoder *c = &d->coder;
        if (!cas_range_bit(c, &d->model.like_before[3], shortest == d->last_shortest)) {
                uint32_t n = cas_range_number(c, &d->model.shortest, shortest - 3);
                d->last_shortest = n > SHORTEST_NONE - 3 ? SHORTEST_NONE : n + 3;
        }
        cas_predict_set_shortest(d->predict, d->last_shortest);
}

/* Which 258s are written oddly: hardly ever any. */
static void code_odd(struct cas_difference *d, const struct cas_difference_item *item)
{
        struct cas_rangecoder *c = &d->coder;
        bool any = false;
        for (uint32_t i = 0; !c->decodes && i < item->token_count; i++)
                any |= (item->tokens[i] & CAS_TOKEN_ODD_258) != 0 &&
                       item->tokens[i] & CAS_TOKEN_IS_MATCH;
        if (!cas_range_bit(c, &d->model.odd[0], any))
                return;
        for (uint32_t i = 0; i < item->token_count; i++) {
                uint32_t t = item->tokens[i];
                if (!(t & CAS_TOKEN_IS_MATCH) || cas_token_length(t) != 258)
                        continue;
                bool odd = cas_range_bit(c, &d->model.odd[1], (t & CAS_TOKEN_ODD_258) != 0);
                if (c->decodes && odd)
                        d->tokens[i] |= CAS_TOKEN_ODD_258;
        }
}

/* How many tokens: as in the block before, as many bytes as in the block before, or a number. */
static int code_tokens(struct cas_difference *d, struct cas_difference_item *item,
                       struct cas_err *err)
{
        struct cas_rangecoder *c = &d->coder;
        struct model *m = &d->model;
        uint32_t from = cas_predict_at(d->predict), count = item->token_count;
        uint32_t plain_bytes = 0;
        for (uint32_t i = 0; !c->decodes && i < count; i++)
                plain_bytes += item->tokens[i] & CAS_TOKEN_IS_MATCH
                                       ? cas_token_length(item->tokens[i])
                                       : 1;
        bool by_bytes = false;
        if (cas_range_bit(c, &m->like_before[1], count == d->last_tokens)) {
                count = d->last_tokens;
        } else {
                by_bytes = cas_range_bit(c, &m->like_before[2],
                                         count > 0 && plain_bytes == d->last_plain_bytes);
                if (!by_bytes)
                        count = cas_range_number(c, &m->token_count, count);
        }
        if (c->decodes && by_bytes)
                count = CAS_DIFFERENCE_TOKENS_MAX;
        if (count > CAS_DIFFERENCE_TOKENS_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "too many tokens in an item");
        item->ends = cas_range_bit(c, &m->ends, item->ends);
        code_shortest(d, c->decodes ? 0 : shortest_of(item));
        uint32_t i = 0;
        for (; i < count; i++) {
                if (by_bytes && cas_predict_at(d->predict) - from >= d->last_plain_bytes)
                        break;
                if (cas_predict_at(d->predict) >= d->end)
                        return cas_fail(err, CAS_E_CORRUPT, "tokens past the segment's end");
                uint32_t token = c->decodes ? 0 : item->tokens[i] & ~CAS_TOKEN_ODD_258;
                token = code_token(d, token);
                if (cas_predict_work(d->predict) > d->work_max) {
                        d->is_overworked = true;
                        return cas_fail(err, CAS_E_CORRUPT, "prediction takes too much work");
                }
                if (!token_fits(d, token))
                        return cas_fail(err, CAS_E_CORRUPT, "match out of reach");
                if (c->decodes)
                        d->tokens[i] = token;
                cas_predict_accept(d->predict, token);
                if (cas_rangecoder_overrun(c))
                        return cas_fail(err, CAS_E_CORRUPT, "corrections end too early");
        }
        if (i == 0 && !item->ends && item->kind == CAS_DIFFERENCE_MORE)
                return cas_fail(err, CAS_E_CORRUPT, "an item of nothing");
        item->token_count = i;
        d->last_tokens = i;
        d->last_plain_bytes = cas_predict_at(d->predict) - from;
        code_odd(d, item);
        return 0;
}

/* ---- items ---- */

static uint8_t code_padding(struct cas_difference *d, uint8_t padding)
{
        struct cas_rangecoder *c = &d->coder;
        if (cas_range_bit(c, &d->model.padding_zero, padding == 0))
                return 0;
        return (uint8_t)cas_range_direct(c, padding, 7);
}

static int code_stored(struct cas_difference *d, struct cas_difference_item *item,
                       struct cas_err *err)
{
        struct cas_rangecoder *c = &d->coder;
        struct cas_deflate_block *b = &item->block;
        uint32_t bytes = b->stored_bytes;
        if (cas_range_bit(c, &d->model.like_before[0], bytes == d->last_stored_bytes))
                bytes = d->last_stored_bytes;
        else
                bytes = cas_range_number(c, &d->model.stored_bytes, bytes);
        if (bytes > 65535 || bytes > d->end - cas_predict_at(d->predict))
                return cas_fail(err, CAS_E_CORRUPT, "stored block past the segment's end");
        b->stored_bytes = (uint16_t)bytes;
        d->last_stored_bytes = bytes;
        b->padding = code_padding(d, b->padding);
        cas_predict_skip(d->predict, bytes);
        item->ends = true;
        return 0;
}

static int code_block(struct cas_difference *d, struct cas_difference_item *item,
                      struct cas_err *err)
{
        struct cas_rangecoder *c = &d->coder;
        struct model *m = &d->model;
        struct cas_deflate_block *b = &item->block;
        bool begins = item->kind == CAS_DIFFERENCE_BLOCK;
        if (begins ? d->in_block : !d->in_block && d->last_kind != CAS_DIFFERENCE_END)
                return cas_fail(err, CAS_E_CORRUPT, "blocks do not follow each other");
        if (begins && d->stream_over)
                cas_predict_restart(d->predict);
        bool names_head = begins || !d->in_block;
        if (names_head) {
                b->is_final = cas_range_bit(c, &m->final, b->is_final);
                uint32_t type = cas_range_tree(c, m->type[d->last_type], b->type, 2);
                if (type > CAS_DEFLATE_DYNAMIC || (!begins && type == CAS_DEFLATE_STORED))
                        return cas_fail(err, CAS_E_CORRUPT, "unknown type of block");
                b->type = (enum cas_deflate_block_type)type;
                d->last_type = type;
        }
        d->in_block = true;
        d->stream_over = false;
        if (b->type == CAS_DEFLATE_STORED) {
                int rc = code_stored(d, item, err);
                if (rc < 0)
                        return rc;
        } else {
                int rc = code_tokens(d, item, err);
                if (rc < 0)
                        return rc;
        }
        if (names_head && b->type == CAS_DEFLATE_DYNAMIC) {
                struct cas_diffhead_histogram h = {0};
                cas_diffhead_count(&h, item->tokens, item->token_count);
                h.literals[256] = 1;
                int rc = cas_diffhead_code(c, &m->head, d->tree, &h, b, err);
                if (rc < 0)
                        return rc;
        }
        if (item->ends) {
                d->in_block = false;
                d->stream_over = b->is_final;
                if (b->is_final)
                        item->padding = code_padding(d, item->padding);
        }
        return 0;
}

static int code_raw(struct cas_difference *d, struct cas_difference_item *item, struct cas_err *err)
{
        struct cas_rangecoder *c = &d->coder;
        if (d->in_block)
                return cas_fail(err, CAS_E_CORRUPT, "bytes within a block");
        uint32_t count = cas_range_number(c, &d->model.raw_bytes, item->raw_bytes - 1) + 1;
        if (count > CAS_DIFFERENCE_RAW_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "too many bytes in an item");
        item->raw_bytes = count;
        unsigned missed = 0;
        for (uint32_t i = 0; i < count; i++) {
                uint8_t byte = c->decodes ? 0 : item->raw[i];
                if (i < RAW_PLACES) {
                        bool same = cas_range_bit(c, &d->model.raw_same[i][missed],
                                                  byte == d->last_raw[i]);
                        missed = !same;
                        if (same) {
                                byte = d->last_raw[i];
                        } else {
                                byte = (uint8_t)cas_range_tree(c, d->model.raw_byte, byte, 8);
                                d->last_raw[i] = byte;
                        }
                } else {
                        byte = (uint8_t)cas_range_tree(c, d->model.raw_byte, byte, 8);
                }
                if (c->decodes)
                        d->raw[i] = byte;
        }
        return 0;
}

static int code_item(struct cas_difference *d, struct cas_difference_item *item,
                     struct cas_err *err)
{
        unsigned kind = cas_range_tree(&d->coder, d->model.kind[d->last_kind], item->kind, 2);
        item->kind = (enum cas_difference_kind)kind;
        int rc = 0;
        if (kind == CAS_DIFFERENCE_BLOCK || kind == CAS_DIFFERENCE_MORE)
                rc = code_block(d, item, err);
        else if (kind == CAS_DIFFERENCE_RAW)
                rc = code_raw(d, item, err);
        d->last_kind = item->kind;
        if (rc == 0 && cas_rangecoder_overrun(&d->coder))
                return cas_fail(err, CAS_E_CORRUPT, "corrections end too early");
        return rc;
}

/* ---- encoding ---- */

void cas_difference_encode_begin(struct cas_difference *d,
                                 const struct cas_difference_params *params,
                                 const struct cas_difference_plain *plain, struct cas_buf *out)
{
        begin(d, params, plain);
        cas_rangecoder_encode_init(&d->coder, out);
}

void cas_difference_encode(struct cas_difference *d, const struct cas_difference_item *item)
{
        struct cas_err err = CAS_ERR_INIT;
        if (d->is_overworked)
                return;
        d->item = *item;
        int rc = code_item(d, &d->item, &err);
        cas_assert(rc == 0 || d->is_overworked);
}

bool cas_difference_encode_finish(struct cas_difference *d)
{
        struct cas_difference_item end = {.kind = CAS_DIFFERENCE_END};
        cas_difference_encode(d, &end);
        if (d->is_overworked)
                return false;
        cas_assert(cas_predict_at(d->predict) == d->end);
        cas_rangecoder_finish(&d->coder);
        return true;
}

size_t cas_difference_try(struct cas_difference *d, const struct cas_difference_item *item,
                          uint32_t limit, uint32_t *at)
{
        if (item->kind == CAS_DIFFERENCE_BLOCK || item->kind == CAS_DIFFERENCE_MORE) {
                if (d->stream_over && item->kind == CAS_DIFFERENCE_BLOCK)
                        cas_predict_restart(d->predict);
                d->stream_over = item->ends && item->block.is_final;
                if (item->block.type == CAS_DEFLATE_STORED && item->kind == CAS_DIFFERENCE_BLOCK)
                        cas_predict_skip(d->predict, item->block.stored_bytes);
                else
                        code_shortest(d, shortest_of(item));
        }
        for (uint32_t i = 0; i < item->token_count; i++) {
                if (cas_predict_at(d->predict) >= limit)
                        break;
                uint32_t token = item->tokens[i] & ~CAS_TOKEN_ODD_258;
                cas_predict_accept(d->predict, code_token(d, token));
        }
        *at = cas_predict_at(d->predict);
        return d->coder.out->len_bytes;
}

/* ---- decoding ---- */

void cas_difference_decode_begin(struct cas_difference *d,
                                 const struct cas_difference_params *params,
                                 const struct cas_difference_plain *plain,
                                 const uint8_t *corrections, size_t corrections_bytes,
                                 uint8_t start, unsigned start_bits)
{
        cas_assert(start_bits < 8);
        begin(d, params, plain);
        cas_rangecoder_decode_init(&d->coder, corrections, corrections_bytes);
        if (!d->tokens)
                d->tokens = cas_xmalloc(CAS_DIFFERENCE_TOKENS_MAX * sizeof(*d->tokens));
        if (!d->raw)
                d->raw = cas_xmalloc(CAS_DIFFERENCE_RAW_BYTES_MAX);
        d->bits = start & ((1U << start_bits) - 1);
        d->bit_count = start_bits;
}

static void fixed_lengths(struct cas_difference *d)
{
        for (unsigned i = 0; i < CAS_DIFFHEAD_LITERALS; i++)
                d->literal_lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        memset(d->distance_lengths, 5, sizeof(d->distance_lengths));
}

static int make_codes(struct cas_difference *d, struct cas_err *err)
{
        const struct cas_deflate_block *b = &d->item.block;
        if (b->type == CAS_DEFLATE_FIXED) {
                fixed_lengths(d);
        } else {
                memset(d->literal_lengths, 0, sizeof(d->literal_lengths));
                memset(d->distance_lengths, 0, sizeof(d->distance_lengths));
                memcpy(d->literal_lengths, b->lengths, b->literal_count);
                memcpy(d->distance_lengths, b->lengths + b->literal_count, b->distance_count);
        }
        if (!cas_diffhead_codes(d->literal_lengths, CAS_DIFFHEAD_LITERALS, d->literal_codes) ||
            !cas_diffhead_codes(d->distance_lengths, CAS_DIFFHEAD_DISTANCES, d->distance_codes))
                return cas_fail(err, CAS_E_CORRUPT, "more codes than there can be");
        return 0;
}

static int write_dynamic(const struct cas_deflate_block *b, struct cas_bitwriter *w,
                         struct cas_err *err)
{
        static const uint8_t order[CAS_DIFFHEAD_CLENS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                          11, 4,  12, 3, 13, 2, 14, 1, 15};
        uint16_t codes[CAS_DIFFHEAD_CLENS];
        if (!cas_diffhead_codes(b->clen_lengths, CAS_DIFFHEAD_CLENS, codes))
                return cas_fail(err, CAS_E_CORRUPT, "more codes than there can be");
        cas_bitwriter_put(w, b->literal_count - 257U, 5);
        cas_bitwriter_put(w, b->distance_count - 1U, 5);
        cas_bitwriter_put(w, b->clen_count - 4U, 4);
        for (unsigned i = 0; i < b->clen_count; i++)
                cas_bitwriter_put(w, b->clen_lengths[order[i]], 3);
        for (unsigned i = 0; i < b->clen_symbol_count; i++) {
                unsigned symbol = b->clen_symbols[i];
                unsigned extra = symbol < 16 ? 0 : symbol == 16 ? 2 : symbol == 17 ? 3 : 7;
                cas_bitwriter_put(w, codes[symbol], b->clen_lengths[symbol]);
                cas_bitwriter_put(w, b->clen_extra[i], extra);
        }
        return 0;
}

static bool write_token(const struct cas_difference *d, struct cas_bitwriter *w, uint32_t token)
{
        if (!(token & CAS_TOKEN_IS_MATCH)) {
                cas_bitwriter_put(w, d->literal_codes[token & 0xff],
                                  d->literal_lengths[token & 0xff]);
                return d->literal_lengths[token & 0xff] > 0;
        }
        unsigned length = cas_token_length(token), distance = cas_token_distance(token);
        bool odd = (token & CAS_TOKEN_ODD_258) != 0;
        unsigned ls = odd ? 284 : cas_deflate_length_symbol(length);
        unsigned ds = cas_deflate_distance_symbol(distance);
        const struct cas_deflate_extra *le = &cas_deflate_length_extra[ls - 257];
        const struct cas_deflate_extra *de = &cas_deflate_distance_extra[ds];
        uint64_t bits = d->literal_codes[ls];
        unsigned n = d->literal_lengths[ls];
        bits |= (uint64_t)(length - le->base) << n;
        n += le->bits;
        bits |= (uint64_t)d->distance_codes[ds] << n;
        n += d->distance_lengths[ds];
        bits |= (uint64_t)(distance - de->base) << n;
        n += de->bits;
        cas_bitwriter_put(w, bits, n);
        return d->literal_lengths[ls] > 0 && d->distance_lengths[ds] > 0;
}

/* Up to the next byte, with bits as they were. */
static void write_padding(struct cas_bitwriter *w, uint8_t padding)
{
        unsigned room = (8 - w->count % 8) % 8;
        cas_bitwriter_put(w, padding & ((1U << room) - 1), room);
}

static void write_stored(const struct cas_difference *d, struct cas_bitwriter *w)
{
        const struct cas_deflate_block *b = &d->item.block;
        write_padding(w, b->padding);
        cas_bitwriter_put(w, b->stored_bytes, 16);
        cas_bitwriter_put(w, b->stored_bytes ^ 0xffffU, 16);
        cas_bitwriter_drain(w);
        cas_buf_append(w->out, d->data + cas_predict_at(d->predict) - b->stored_bytes,
                       b->stored_bytes);
}

static int write_block(struct cas_difference *d, struct cas_bitwriter *w, struct cas_err *err)
{
        const struct cas_difference_item *item = &d->item;
        const struct cas_deflate_block *b = &item->block;
        bool begins = item->kind == CAS_DIFFERENCE_BLOCK;
        if (begins) {
                cas_bitwriter_put(w, b->is_final, 1);
                cas_bitwriter_put(w, b->type, 2);
        }
        if (b->type == CAS_DEFLATE_STORED) {
                write_stored(d, w);
        } else {
                int rc = 0;
                if (begins && b->type == CAS_DEFLATE_DYNAMIC)
                        rc = write_dynamic(b, w, err);
                if (rc == 0 && !d->has_head)
                        rc = make_codes(d, err);
                if (rc < 0)
                        return rc;
                d->has_head = !item->ends;
                bool coded = true;
                for (uint32_t i = 0; i < item->token_count; i++)
                        coded &= write_token(d, w, item->tokens[i]);
                if (item->ends) {
                        cas_bitwriter_put(w, d->literal_codes[256], d->literal_lengths[256]);
                        coded &= d->literal_lengths[256] > 0;
                }
                if (!coded)
                        return cas_fail(err, CAS_E_CORRUPT, "a token has no code");
        }
        if (item->ends && b->is_final)
                write_padding(w, item->padding);
        return 0;
}

int cas_difference_decode(struct cas_difference *d, struct cas_buf *out, bool *out_more,
                          struct cas_err *err)
{
        struct cas_difference_item *item = &d->item;
        item->tokens = d->tokens;
        item->raw = d->raw;
        item->token_count = 0;
        item->ends = false;
        item->padding = 0;
        bool is_first = d->last_kind == CAS_DIFFERENCE_END;
        int rc = code_item(d, item, err);
        if (rc < 0)
                return rc;
        *out_more = item->kind != CAS_DIFFERENCE_END;
        struct cas_bitwriter w = {.out = out, .bits = d->bits, .count = d->bit_count};
        if (item->kind == CAS_DIFFERENCE_END) {
                if (is_first || cas_predict_at(d->predict) != d->end)
                        return cas_fail(err, CAS_E_CORRUPT, "the segment ends too early");
                return 0;
        }
        if (item->kind == CAS_DIFFERENCE_RAW) {
                if (w.count % 8 != 0)
                        return cas_fail(err, CAS_E_CORRUPT, "bytes between bytes");
                cas_bitwriter_drain(&w);
                cas_buf_append(out, item->raw, item->raw_bytes);
        } else {
                rc = write_block(d, &w, err);
                if (rc < 0)
                        return rc;
        }
        cas_bitwriter_drain(&w);
        d->bits = w.bits;
        d->bit_count = w.count;
        return 0;
}

unsigned cas_difference_pending_bits(const struct cas_difference *d)
{
        return d->bit_count;
}

uint8_t cas_difference_pending(const struct cas_difference *d)
{
        return (uint8_t)d->bits;
}
