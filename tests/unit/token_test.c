/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <zlib.h>

#include "cas/deflate/bitwriter.h"
#include "cas/deflate/token.h"
#include "tests/support/deflatesample.h"
#include "tests/support/memsource.h"

/* What a stream was parsed to. */
struct parsed {
        struct cas_buf plain, tokens_plain;
        unsigned blocks, stored, fixed, dynamic, odd_258, token_count;
        uint8_t padding, end_padding; /* of the last stored block; of the end */
        uint64_t bits;
        struct cas_deflate_block last;
};

static void parsed_release(struct parsed *p)
{
        cas_buf_release(&p->plain);
        cas_buf_release(&p->tokens_plain);
}
#define cleanup_parsed __attribute__((cleanup(parsed_release)))

static void take_tokens(struct parsed *out, const struct cas_deflate_event *e)
{
        struct cas_buf *to = &out->tokens_plain;
        for (size_t i = 0; i < e->token_count; i++) {
                uint32_t t = e->tokens[i];
                if (!(t & CAS_TOKEN_IS_MATCH)) {
                        assert_true(t < 256);
                        cas_buf_append_byte(to, (uint8_t)t);
                        continue;
                }
                out->odd_258 += (t & CAS_TOKEN_ODD_258) != 0;
                assert_true(cas_token_distance(t) <= to->len_bytes);
                for (uint32_t k = 0; k < cas_token_length(t); k++)
                        cas_buf_append_byte(to, to->data[to->len_bytes - cas_token_distance(t)]);
        }
        out->token_count += (unsigned)e->token_count;
}

static int parse_with(struct cas_deflate_parser *p, struct parsed *out, struct cas_err *err)
{
        struct cas_deflate_event e;
        bool in_block = false;
        do {
                if (cas_deflate_parser_next(p, &e, err) < 0)
                        return -(int)err->code;
                if (e.kind == CAS_DEFLATE_BLOCK) {
                        assert_false(in_block);
                        in_block = true;
                        out->blocks++;
                        out->stored += e.block->type == CAS_DEFLATE_STORED;
                        out->fixed += e.block->type == CAS_DEFLATE_FIXED;
                        out->dynamic += e.block->type == CAS_DEFLATE_DYNAMIC;
                        out->last = *e.block;
                        assert_int_equal(e.block->plain_offset, out->plain.len_bytes);
                } else if (e.kind == CAS_DEFLATE_BLOCK_END) {
                        assert_true(in_block);
                        in_block = false;
                } else if (e.kind != CAS_DEFLATE_END) {
                        assert_true(in_block);
                        assert_true(e.plain_bytes > 0);
                }
                cas_buf_append(&out->plain, e.plain, e.plain_bytes);
                if (e.kind == CAS_DEFLATE_BYTES)
                        cas_buf_append(&out->tokens_plain, e.plain, e.plain_bytes);
                take_tokens(out, &e);
        } while (e.kind != CAS_DEFLATE_END);
        out->end_padding = e.padding;
        out->bits = cas_deflate_parser_bits(p);
        assert_int_equal(out->plain.len_bytes, out->tokens_plain.len_bytes);
        if (out->plain.len_bytes > 0)
                assert_memory_equal(out->plain.data, out->tokens_plain.data, out->plain.len_bytes);
        return 0;
}

static int parse(const struct cas_buf *stored, size_t step, struct parsed *out, struct cas_err *err)
{
        struct memsource s = {.data = stored->data, .len = stored->len_bytes, .step = step};
        cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                cas_deflate_parser_new(memsource_read, &s);
        return parse_with(p, out, err);
}

static void expect_plain(const struct cas_buf *stored, const struct cas_buf *plain)
{
        static const size_t steps[] = {SIZE_MAX, 1, 7};
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cleanup_parsed struct parsed out = {0};
                assert_int_equal(parse(stored, steps[i], &out, &err), 0);
                assert_int_equal(out.plain.len_bytes, plain->len_bytes);
                if (plain->len_bytes > 0)
                        assert_memory_equal(out.plain.data, plain->data, plain->len_bytes);
                assert_int_equal(out.bits, stored->len_bytes * 8);
        }
}

static void expect_refused(const struct cas_buf *stored)
{
        struct cas_err err = CAS_ERR_INIT;
        cleanup_parsed struct parsed out = {0};
        assert_int_equal(parse(stored, SIZE_MAX, &out, &err), -CAS_E_CORRUPT);
}

/* Deflates with a flush of some kind here and there. */
static void deflate_with(const struct cas_buf *plain, int level, int strategy, int flush,
                         size_t piece, struct cas_buf *out)
{
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, -15, 8, strategy), Z_OK);
        for (size_t at = 0;; at += piece) {
                bool last = plain->len_bytes - at <= piece;
                z.next_in = plain->data + at;
                z.avail_in = (uInt)(last ? plain->len_bytes - at : piece);
                int ret;
                do {
                        cas_buf_reserve(out, 65536);
                        z.next_out = out->data + out->len_bytes;
                        z.avail_out = 65536;
                        ret = deflate(&z, last ? Z_FINISH : flush);
                        out->len_bytes += 65536 - z.avail_out;
                } while (z.avail_out == 0);
                if (last) {
                        assert_int_equal(ret, Z_STREAM_END);
                        break;
                }
        }
        (void)deflateEnd(&z);
}

static void test_zlib_streams(void **state)
{
        (void)state;
        static const int flushes[] = {Z_NO_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_PARTIAL_FLUSH,
                                      Z_BLOCK};
        for (int kind = 0; kind < DEFLATE_SAMPLE_COUNT; kind++) {
                cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
                deflate_sample((enum deflate_sample)kind, 7, 300000, &plain);
                for (size_t f = 0; f < CAS_COUNT(flushes); f++) {
                        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
                        static const int levels[] = {6, 1, 9, 3, 0};
                        deflate_with(&plain, levels[f], Z_DEFAULT_STRATEGY, flushes[f], 10007,
                                     &stored);
                        expect_plain(&stored, &plain);
                }
                for (int strategy = Z_FILTERED; strategy <= Z_FIXED; strategy++) {
                        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
                        deflate_with(&plain, 6, strategy, Z_NO_FLUSH, SIZE_MAX, &stored);
                        expect_plain(&stored, &plain);
                }
        }
}

/* Cut off anywhere, a stream is refused. */
static void test_cut_off(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, stored = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 3, 4000, &plain);
        deflate_with(&plain, 6, Z_DEFAULT_STRATEGY, Z_FULL_FLUSH, 900, &stored);
        size_t whole = stored.len_bytes;
        for (stored.len_bytes = 0; stored.len_bytes < whole; stored.len_bytes++)
                expect_refused(&stored);
}

struct stream {
        struct cas_buf bytes;
        struct cas_bitwriter w;
};

static void stream_init(struct stream *s)
{
        *s = (struct stream){0};
        s->w.out = &s->bytes;
}
static void stream_release(struct stream *s)
{
        cas_buf_release(&s->bytes);
}
#define cleanup_stream __attribute__((cleanup(stream_release)))

static void put_code(struct stream *s, unsigned code, unsigned bits)
{
        for (unsigned i = bits; i-- > 0;)
                cas_bitwriter_put(&s->w, code >> i & 1, 1);
}

static void put_fixed_symbol(struct stream *s, unsigned symbol)
{
        if (symbol < 144)
                put_code(s, 0x30 + symbol, 8);
        else if (symbol < 256)
                put_code(s, 0x190 + symbol - 144, 9);
        else if (symbol < 280)
                put_code(s, symbol - 256, 7);
        else
                put_code(s, 0xc0 + symbol - 280, 8);
}

static void put_head(struct stream *s, bool is_final, unsigned type)
{
        cas_bitwriter_put(&s->w, is_final, 1);
        cas_bitwriter_put(&s->w, type, 2);
}

/* Lengths of the code-length code: symbols 0, 1, 2 and 18 have two bits each: 00, 01, 10, 11. */
static void put_clens(struct stream *s, unsigned literal_count, unsigned distance_count)
{
        static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                          11, 4,  12, 3, 13, 2, 14, 1, 15};
        cas_bitwriter_put(&s->w, literal_count - 257, 5);
        cas_bitwriter_put(&s->w, distance_count - 1, 5);
        cas_bitwriter_put(&s->w, 18 - 4, 4);
        for (unsigned i = 0; i < 18; i++)
                cas_bitwriter_put(
                        &s->w,
                        order[i] == 18 || order[i] == 0 || order[i] == 1 || order[i] == 2 ? 2 : 0,
                        3);
}
static void put_length(struct stream *s, unsigned length)
{
        put_code(s, length, 2);
}
static void put_zeros(struct stream *s, unsigned count)
{
        for (; count > 138; count -= count - 138 < 11 ? 127 : 138) {
                put_code(s, 3, 2);
                cas_bitwriter_put(&s->w, (count - 138 < 11 ? 127 : 138) - 11, 7);
        }
        put_code(s, 3, 2);
        cas_bitwriter_put(&s->w, count - 11, 7);
}

/* A head with codes for 'a' and the end of the block and length 3 of 2, 2 and 1 bits, then
 * distance codes of the lengths given. */
static void put_dynamic(struct stream *s, const uint8_t *distances, unsigned count)
{
        put_head(s, true, 2);
        put_clens(s, 258, count);
        put_zeros(s, 'a');
        put_length(s, 2);
        put_zeros(s, 256 - 'a' - 1);
        put_length(s, 2);
        put_length(s, 1);
        for (unsigned i = 0; i < count; i++)
                put_length(s, distances[i]);
}
#define CODE_MATCH 0, 1
#define CODE_A 2, 2
#define CODE_END 3, 2

static void test_one_distance_code(void **state)
{
        (void)state;
        cleanup_stream struct stream s;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        stream_init(&s);
        put_dynamic(&s, (const uint8_t[]){1}, 1);
        put_code(&s, CODE_A);
        put_code(&s, CODE_MATCH);
        put_code(&s, 0, 1); /* distance 1 */
        put_code(&s, CODE_END);
        cas_bitwriter_align(&s.w);
        cas_buf_append_str(&plain, "aaaa");
        expect_plain(&s.bytes, &plain);

        /* The other bit has no meaning. */
        cleanup_stream struct stream bad;
        stream_init(&bad);
        put_dynamic(&bad, (const uint8_t[]){1}, 1);
        put_code(&bad, CODE_A);
        put_code(&bad, CODE_MATCH);
        put_code(&bad, 1, 1);
        put_code(&bad, CODE_END);
        cas_bitwriter_align(&bad.w);
        expect_refused(&bad.bytes);
}

static void test_no_distance_code(void **state)
{
        (void)state;
        cleanup_stream struct stream s;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        stream_init(&s);
        put_dynamic(&s, (const uint8_t[]){0}, 1);
        put_code(&s, CODE_A);
        put_code(&s, CODE_END);
        cas_bitwriter_align(&s.w);
        cas_buf_append_str(&plain, "a");
        expect_plain(&s.bytes, &plain);

        cleanup_stream struct stream bad;
        stream_init(&bad);
        put_dynamic(&bad, (const uint8_t[]){0}, 1);
        put_code(&bad, CODE_A);
        put_code(&bad, CODE_MATCH);
        cas_bitwriter_put(&bad.w, 0, 24);
        cas_bitwriter_align(&bad.w);
        expect_refused(&bad.bytes);
}

static void test_bad_codes(void **state)
{
        (void)state;
        static const struct {
                unsigned count;
                uint8_t lengths[4];
        } cases[] = {
                {1, {2}},          /* incomplete, and not of one bit */
                {2, {2, 1}},       /* incomplete */
                {2, {2, 2}},       /* incomplete */
                {3, {1, 1, 1}},    /* over-subscribed */
                {4, {1, 2, 2, 2}}, /* over-subscribed */
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cleanup_stream struct stream s;
                stream_init(&s);
                put_dynamic(&s, cases[i].lengths, cases[i].count);
                put_code(&s, CODE_END);
                cas_bitwriter_align(&s.w);
                expect_refused(&s.bytes);
        }
        /* No end of block; too many symbols of either kind. */
        static const unsigned counts[][2] = {{257, 1}, {287, 1}, {258, 31}};
        for (size_t i = 0; i < CAS_COUNT(counts); i++) {
                cleanup_stream struct stream s;
                stream_init(&s);
                put_head(&s, true, 2);
                put_clens(&s, counts[i][0], counts[i][1]);
                put_length(&s, 1);
                put_length(&s, 1);
                put_zeros(&s, counts[i][0] + counts[i][1] - 2);
                cas_bitwriter_put(&s.w, 0, 32);
                cas_bitwriter_align(&s.w);
                expect_refused(&s.bytes);
        }
}

static void test_fixed_reserved(void **state)
{
        (void)state;
        for (unsigned symbol = 285; symbol < 288; symbol++)
                for (unsigned distance = 29; distance < 32; distance++) {
                        if (symbol == 285 && distance == 29)
                                continue;
                        cleanup_stream struct stream s;
                        stream_init(&s);
                        put_head(&s, true, 1);
                        put_fixed_symbol(&s, 'x');
                        put_fixed_symbol(&s, symbol);
                        put_code(&s, distance, 5);
                        cas_bitwriter_put(&s.w, 0, 13);
                        put_fixed_symbol(&s, 256);
                        cas_bitwriter_align(&s.w);
                        expect_refused(&s.bytes);
                }
}

static void test_length_258(void **state)
{
        (void)state;
        cleanup_stream struct stream s;
        stream_init(&s);
        put_head(&s, true, 1);
        put_fixed_symbol(&s, 'x');
        put_fixed_symbol(&s, 285);
        put_code(&s, 0, 5);
        put_fixed_symbol(&s, 284);
        cas_bitwriter_put(&s.w, 31, 5);
        put_code(&s, 0, 5);
        put_fixed_symbol(&s, 256);
        cas_bitwriter_align(&s.w);
        struct cas_err err = CAS_ERR_INIT;
        cleanup_parsed struct parsed out = {0};
        assert_int_equal(parse(&s.bytes, SIZE_MAX, &out, &err), 0);
        assert_int_equal(out.plain.len_bytes, 1 + 2 * 258);
        assert_int_equal(out.token_count, 3);
        assert_int_equal(out.odd_258, 1);
}

static void test_distance_too_far(void **state)
{
        (void)state;
        for (unsigned have = 1; have <= 2; have++) {
                cleanup_stream struct stream s;
                stream_init(&s);
                put_head(&s, true, 1);
                for (unsigned i = 0; i < have; i++)
                        put_fixed_symbol(&s, 'x');
                put_fixed_symbol(&s, 257);
                put_code(&s, 1, 5); /* distance 2 */
                put_fixed_symbol(&s, 256);
                cas_bitwriter_align(&s.w);
                struct cas_err err = CAS_ERR_INIT;
                cleanup_parsed struct parsed out = {0};
                assert_int_equal(parse(&s.bytes, SIZE_MAX, &out, &err),
                                 have == 1 ? -CAS_E_CORRUPT : 0);
        }
}

static void put_stored(struct stream *s, bool is_final, unsigned padding, const char *text)
{
        put_head(s, is_final, 0);
        unsigned pad_bits = (8 - s->w.count % 8) % 8;
        cas_bitwriter_put(&s->w, padding & ((1U << pad_bits) - 1), pad_bits);
        cas_bitwriter_put(&s->w, strlen(text), 16);
        cas_bitwriter_put(&s->w, strlen(text) ^ 0xffff, 16);
        cas_bitwriter_align(&s->w);
        cas_buf_append_str(&s->bytes, text);
}

static void test_stored_blocks(void **state)
{
        (void)state;
        cleanup_stream struct stream s;
        stream_init(&s);
        put_stored(&s, false, 0x15, "first, ");
        put_head(&s, false, 1);
        put_fixed_symbol(&s, 256);
        put_stored(&s, false, 0, "");
        put_stored(&s, true, 0x1f, "last");
        struct cas_err err = CAS_ERR_INIT;
        cleanup_parsed struct parsed out = {0};
        assert_int_equal(parse(&s.bytes, SIZE_MAX, &out, &err), 0);
        assert_int_equal(out.blocks, 4);
        assert_int_equal(out.stored, 3);
        assert_int_equal(out.fixed, 1);
        assert_int_equal(out.last.padding, 0x1f);
        assert_int_equal(out.last.stored_bytes, 4);
        assert_true(out.last.is_final);
        assert_string_equal(cas_buf_str(&out.plain), "first, last");
        s.bytes.data[1] ^= 1; /* the first block's length */
        expect_refused(&s.bytes);
}

static void test_block_type_3(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        cas_buf_append(&b, "\x07\0\0\0\0\0\0\0\0\0", 10);
        expect_refused(&b);
}

/* Bits after the last block are told; what is behind is left to the caller. */
static void test_end_padding_and_rest(void **state)
{
        (void)state;
        cleanup_stream struct stream s;
        stream_init(&s);
        for (unsigned i = 0; i < 2; i++) {
                put_head(&s, true, 1);
                put_fixed_symbol(&s, 'a' + i);
                put_fixed_symbol(&s, 256);
                cas_bitwriter_put(&s.w, 5, 8 - s.w.count % 8);
                cas_bitwriter_align(&s.w);
                cas_buf_append_str(&s.bytes, "between!");
        }
        static const size_t steps[] = {SIZE_MAX, 1};
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                struct memsource m = {
                        .data = s.bytes.data, .len = s.bytes.len_bytes, .step = steps[i]};
                cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                        cas_deflate_parser_new(memsource_read, &m);
                for (unsigned k = 0; k < 2; k++) {
                        struct cas_err err = CAS_ERR_INIT;
                        cleanup_parsed struct parsed out = {0};
                        const uint8_t *rest;
                        size_t len;
                        assert_int_equal(parse_with(p, &out, &err), 0);
                        assert_int_equal(out.plain.data[0], 'a' + k);
                        assert_int_equal(out.end_padding, 5);
                        assert_int_equal(cas_deflate_parser_fill(p, 8, &err), 0);
                        cas_deflate_parser_rest(p, &rest, &len);
                        assert_true(len >= 8);
                        assert_memory_equal(rest, "between!", 8);
                        cas_deflate_parser_restart(p, 8);
                }
        }
}

static int failing_source(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        (void)arg;
        (void)buf;
        (void)len;
        (void)out_len;
        return cas_fail(err, CAS_E_IO, "broken");
}

static void test_source_error(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                cas_deflate_parser_new(failing_source, NULL);
        struct cas_deflate_event e;
        assert_int_equal(cas_deflate_parser_next(p, &e, &err), -CAS_E_IO);
}

int main(void)
{
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_zlib_streams),
                cmocka_unit_test(test_cut_off),
                cmocka_unit_test(test_one_distance_code),
                cmocka_unit_test(test_no_distance_code),
                cmocka_unit_test(test_bad_codes),
                cmocka_unit_test(test_fixed_reserved),
                cmocka_unit_test(test_length_258),
                cmocka_unit_test(test_distance_too_far),
                cmocka_unit_test(test_stored_blocks),
                cmocka_unit_test(test_block_type_3),
                cmocka_unit_test(test_end_padding_and_rest),
                cmocka_unit_test(test_source_error),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
