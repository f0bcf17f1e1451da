/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of zlib, and of nobody, by difference and back; what corrections may cost; frozen
 * corrections (tests/golden/difference). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <cmocka.h>
#include <zlib.h>

#include "cas/deflate/bitwriter.h"
#include "cas/deflate/diffguess.h"
#include "cas/digest.h"
#include "tests/support/deflatesample.h"
#include "tests/support/diffround.h"
#include "tests/support/packs.h"

static const struct cas_predict_params zlib_6 = {.policy = CAS_PREDICT_LAZY,
                                                 .hash = CAS_PREDICT_HASH_SHIFT3,
                                                 .hash_bits = 15,
                                                 .depth = 128,
                                                 .good = 8,
                                                 .lazy = 16,
                                                 .nice = 128,
                                                 .distance = 32506,
                                                 .far = 4096,
                                                 .insert_whole = 258};

/* A stream of zlib; every `flush_every` bytes one of its flushes, 0: none. */
static void zlib_stream(const struct cas_buf *plain, int level, int strategy, size_t flush_every,
                        struct cas_buf *out)
{
        static const int flushes[] = {Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_PARTIAL_FLUSH, Z_BLOCK};
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, -15, 8, strategy), Z_OK);
        size_t done = 0;
        int ret = Z_OK;
        for (unsigned n = 0; ret != Z_STREAM_END; n++) {
                size_t len = plain->len_bytes - done;
                if (flush_every > 0 && len > flush_every)
                        len = flush_every;
                z.next_in = plain->data + done;
                z.avail_in = (uInt)len;
                done += len;
                bool last = done == plain->len_bytes;
                do {
                        cas_buf_reserve(out, 100000);
                        z.next_out = out->data + out->len_bytes;
                        z.avail_out = 100000;
                        ret = deflate(&z, last ? Z_FINISH : flushes[n % CAS_COUNT(flushes)]);
                        out->len_bytes += 100000 - z.avail_out;
                } while (z.avail_out == 0);
        }
        (void)deflateEnd(&z);
}

static size_t round_trip(const struct cas_predict_params *predict, const struct cas_buf *stream,
                         unsigned events_max, unsigned *segments)
{
        cleanup_diffround struct diffround r = {.params = {.predict = *predict}};
        assert_true(diffround_run(&r, stream->data, stream->len_bytes, events_max));
        assert_int_equal(r.again.len_bytes, stream->len_bytes);
        if (segments)
                *segments = r.segments;
        return r.corrections.len_bytes;
}

static void all_samples_come_back(void **state CAS_UNUSED)
{
        for (enum deflate_sample kind = 0; kind < DEFLATE_SAMPLE_COUNT; kind++)
                for (int level = 0; level <= 9; level += 3)
                        for (size_t flush = 0; flush <= 7000; flush += 7000) {
                                cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
                                cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT;
                                deflate_sample(kind, 3, 150000, &plain);
                                zlib_stream(&plain, level, Z_DEFAULT_STRATEGY, flush, &stream);
                                (void)round_trip(&zlib_6, &stream, 0, NULL);
                                (void)round_trip(&zlib_6, &stream, 1, NULL);
                        }
}

/* The other strategies are parameters that the stream tells itself. */
static void the_same_encoder_costs_next_to_nothing(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TAR, 1, 3000000, &plain);
        for (int strategy = Z_DEFAULT_STRATEGY; strategy <= Z_FIXED; strategy++) {
                cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT;
                if (strategy == Z_RLE)
                        continue;
                zlib_stream(&plain, 6, strategy, 0, &stream);
                size_t cost = round_trip(&zlib_6, &stream, 0, NULL);
                assert_true(cost * 500 < stream.len_bytes);
        }
}

static void guesses_what_is_known(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_MIXED, 1, 700000, &plain);
        for (int level = 1; level <= 9; level += 4) {
                cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT;
                zlib_stream(&plain, level, Z_DEFAULT_STRATEGY, 0, &stream);
                struct memsource source = {
                        .data = stream.data, .len = stream.len_bytes, .step = SIZE_MAX};
                cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                        cas_deflate_parser_new(memsource_read, &source);
                cas_cleanup_diffsegment struct cas_diffsegment *s = cas_diffsegment_new();
                cas_cleanup_difference struct cas_difference *d = cas_difference_new();
                struct cas_deflate_event e;
                do {
                        test_ok(cas_deflate_parser_next(p, &e, err));
                        cas_diffsegment_event(s, &e);
                } while (e.kind != CAS_DEFLATE_END);
                struct cas_difference_params params;
                char name[] = "zlib level 0";
                name[sizeof(name) - 2] = (char)('0' + level);
                assert_string_equal(cas_diffguess(s, d, &params), name);
                assert_true(round_trip(&params.predict, &stream, 0, NULL) * 200 < stream.len_bytes);
        }
}

/* Blocks are cut where they do not end, and segments begin within them. */
static void long_blocks_are_cut(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT;
        struct cas_bitwriter w = {.out = &stream};
        struct test_random r = {5};
        unsigned segments = 0;
        cas_bitwriter_put(&w, 3, 3);             /* final, fixed */
        for (unsigned i = 0; i < 7000000; i++) { /* literals 0 to 143 have 8 bits, from 0x30 on */
                unsigned code = 0x30 + (unsigned)(test_random_next(&r) % 144), bits = 0;
                for (unsigned b = 0; b < 8; b++)
                        bits |= (code >> b & 1) << (7 - b);
                cas_bitwriter_put(&w, bits, 8);
        }
        cas_bitwriter_put(&w, 0, 7);
        cas_bitwriter_align(&w);
        (void)round_trip(&zlib_6, &stream, 0, &segments);
        assert_int_equal(segments, 2);
}

/* ---- heads that nobody writes ---- */

static void put_code(struct cas_bitwriter *w, const uint8_t *lengths, const uint16_t *codes,
                     unsigned symbol)
{
        assert_true(lengths[symbol] > 0);
        cas_bitwriter_put(w, codes[symbol], lengths[symbol]);
}

/* Lengths of codes for `count` symbols of any frequency; at least `least` of them are used. */
static void any_lengths(struct test_random *r, unsigned count, unsigned max, uint8_t *out)
{
        uint32_t frequencies[288];
        for (unsigned i = 0; i < count; i++)
                frequencies[i] = 1 + (uint32_t)(test_random_next(r) % 50);
        cas_diffhead_lengths(CAS_DIFFHEAD_SORT, frequencies, count, max, out);
}

/* Code lengths, with runs here and there where one can be. */
static unsigned any_runs(struct test_random *r, const uint8_t *lengths, unsigned count,
                         uint8_t *symbols, uint8_t *extras)
{
        unsigned n = 0;
        for (unsigned at = 0; at < count; n++) {
                unsigned run = 1;
                while (at + run < count && run < 6 && at > 0 && lengths[at + run] == lengths[at])
                        run++;
                bool repeats = at > 0 && lengths[at] == lengths[at - 1] && run >= 3;
                if (repeats && test_random_next(r) % 2) {
                        symbols[n] = 16;
                        extras[n] = (uint8_t)(test_random_next(r) % (run - 2));
                        at += 3U + extras[n];
                } else {
                        symbols[n] = lengths[at++];
                        extras[n] = 0;
                }
        }
        return n;
}

static void put_odd_head(struct cas_bitwriter *w, struct test_random *r, uint8_t *literals,
                         uint8_t *distances)
{
        static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                          11, 4,  12, 3, 13, 2, 14, 1, 15};
        uint8_t all[286 + 30], symbols[286 + 30], extras[286 + 30], clens[19];
        uint16_t codes[19];
        any_lengths(r, 286, 15, literals);
        any_lengths(r, 30, 15, distances);
        if (test_random_next(r) % 3 == 0) { /* the one code that may be incomplete */
                memset(distances, 0, 30);
                distances[test_random_next(r) % 30] = 1;
        }
        memcpy(all, literals, 286);
        memcpy(all + 286, distances, 30);
        unsigned n = any_runs(r, all, sizeof(all), symbols, extras);
        any_lengths(r, 19, 7, clens);
        assert_true(cas_diffhead_codes(clens, 19, codes));
        cas_bitwriter_put(w, 286 - 257, 5);
        cas_bitwriter_put(w, 30 - 1, 5);
        cas_bitwriter_put(w, 19 - 4, 4);
        for (unsigned i = 0; i < 19; i++)
                cas_bitwriter_put(w, clens[order[i]], 3);
        for (unsigned i = 0; i < n; i++) {
                put_code(w, clens, codes, symbols[i]);
                if (symbols[i] == 16)
                        cas_bitwriter_put(w, extras[i], 2);
        }
}

static void put_odd_tokens(struct cas_bitwriter *w, struct test_random *r, const uint8_t *literals,
                           const uint8_t *distances, uint32_t *have)
{
        uint16_t literal_codes[286], distance_codes[30];
        assert_true(cas_diffhead_codes(literals, 286, literal_codes));
        assert_true(cas_diffhead_codes(distances, 30, distance_codes));
        for (unsigned i = (unsigned)(test_random_next(r) % 300); i > 0; i--) {
                unsigned distance = (unsigned)(test_random_next(r) % 30);
                const struct cas_deflate_extra *de = &cas_deflate_distance_extra[distance];
                if (test_random_next(r) % 2 || distances[distance] == 0 ||
                    de->base + (1U << de->bits) > *have) {
                        put_code(w, literals, literal_codes, (unsigned)(test_random_next(r) % 4));
                        ++*have;
                        continue;
                }
                bool odd = test_random_next(r) % 3 == 0; /* 258 as 227 + 31 */
                unsigned length = odd ? 27 : (unsigned)(test_random_next(r) % 29);
                const struct cas_deflate_extra *le = &cas_deflate_length_extra[length];
                unsigned extra = odd ? 31 : (unsigned)(test_random_next(r) % (1U << le->bits));
                put_code(w, literals, literal_codes, 257 + length);
                cas_bitwriter_put(w, extra, le->bits);
                put_code(w, distances, distance_codes, distance);
                cas_bitwriter_put(w, test_random_next(r) % (1U << de->bits), de->bits);
                *have += le->base + extra;
        }
        put_code(w, literals, literal_codes, 256);
}

static void put_odd_stored(struct cas_bitwriter *w, struct test_random *r, uint32_t *have)
{
        unsigned room = (8 - w->count % 8) % 8, n = (unsigned)(test_random_next(r) % 300);
        cas_bitwriter_put(w, test_random_next(r) % (1U << room), room);
        cas_bitwriter_put(w, n, 16);
        cas_bitwriter_put(w, n ^ 0xffff, 16);
        for (unsigned i = 0; i < n; i++)
                cas_bitwriter_put(w, test_random_next(r) % 3, 8);
        *have += n;
}

static void streams_of_nobody(void **state CAS_UNUSED)
{
        for (unsigned seed = 0; seed < 200; seed++) {
                cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT;
                struct cas_bitwriter w = {.out = &stream};
                struct test_random r = {seed};
                uint32_t have = 0;
                for (unsigned blocks = 1 + seed % 7; blocks > 0; blocks--) {
                        uint8_t literals[286], distances[30];
                        bool stored = test_random_next(&r) % 4 == 0;
                        cas_bitwriter_put(&w, blocks == 1, 1);
                        cas_bitwriter_put(&w, stored ? 0 : 2, 2);
                        if (stored) {
                                put_odd_stored(&w, &r, &have);
                                continue;
                        }
                        put_odd_head(&w, &r, literals, distances);
                        put_odd_tokens(&w, &r, literals, distances, &have);
                }
                unsigned room = (8 - w.count % 8) % 8;
                cas_bitwriter_put(&w, test_random_next(&r) % (1U << room), room);
                cas_bitwriter_drain(&w);
                (void)round_trip(&zlib_6, &stream, seed % 5, NULL);
        }
}

/* ---- hostile corrections ---- */

/* Ranks are looked up for matches that would go past the data, too. */
static void ranks_stay_within_the_data(void **state CAS_UNUSED)
{
        static const uint8_t zeros[2000];
        cas_cleanup_predict struct cas_predict *p = cas_predict_new();
        cas_predict_begin(p, &zlib_6, zeros, 0, 996, 1000);
        assert_int_equal(cas_predict_ranked(p, 4, 0), 1);
        assert_int_equal(cas_predict_ranked(p, 5, 0), 0);
        assert_int_equal(cas_predict_ranked(p, 258, 0), 0);
}

/* Few different numbers: many candidates for everything. */
static void put_numbers(struct cas_buf *plain, size_t len)
{
        struct test_random random = {12};
        while (plain->len_bytes < len)
                cas_buf_append_le64(plain, test_random_next(&random) % 1024);
}

static const struct cas_predict_params thorough = {.policy = CAS_PREDICT_SCORED2,
                                                   .hash = CAS_PREDICT_HASH_SHIFT3,
                                                   .hash_bits = 15,
                                                   .depth = 4096,
                                                   .good = 300,
                                                   .lazy = 300,
                                                   .nice = 300,
                                                   .distance = 32768,
                                                   .far = 32768,
                                                   .insert_whole = 258};

/* A block of as many tokens as there can be; zeros behind it say that all are as predicted. */
static void put_endless_block(struct cas_buf *out)
{
        cas_range_context fresh[4 + 4 + 5];
        struct cas_range_number count;
        struct cas_rangecoder c;
        cas_range_contexts_init(fresh, sizeof(fresh));
        cas_range_contexts_init(&count, sizeof(count));
        cas_rangecoder_encode_init(&c, out);
        (void)cas_range_tree(&c, fresh, CAS_DIFFERENCE_BLOCK, 2);
        (void)cas_range_bit(&c, &fresh[8], 0); /* not final */
        (void)cas_range_tree(&c, fresh + 4, CAS_DEFLATE_FIXED, 2);
        (void)cas_range_bit(&c, &fresh[9], 0);  /* neither as many tokens as before */
        (void)cas_range_bit(&c, &fresh[10], 0); /* … nor bytes */
        (void)cas_range_number(&c, &count, CAS_DIFFERENCE_TOKENS_MAX);
        (void)cas_range_bit(&c, &fresh[11], 0); /* it does not end */
        cas_rangecoder_finish(&c);
        cas_buf_append_zero(out, 5000);
}

static void work_is_bounded(void **state CAS_UNUSED)
{
        const struct cas_difference_params params = {.predict = thorough};
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, corrections = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT, out = CAS_BUF_INIT;
        cas_cleanup_difference struct cas_difference *d = cas_difference_new();
        struct cas_err reason = CAS_ERR_INIT;
        bool more = true;
        put_numbers(&plain, 200000);
        zlib_stream(&plain, 9, Z_DEFAULT_STRATEGY, 0, &stream);
        const struct cas_difference_plain p = {.data = plain.data, .plain_bytes = 200000};
        cas_buf_append_zero(&plain, CAS_PREDICT_SLACK_BYTES);
        put_endless_block(&corrections);
        cas_difference_decode_begin(d, &params, &p, corrections.data, corrections.len_bytes, 0, 0);
        assert_int_equal(cas_difference_decode(d, &out, &more, &reason), -CAS_E_CORRUPT);
        assert_non_null(strstr(reason.msg, "too much work"));
        /* An encoder does not make what a decoder refuses. */
        cleanup_diffround struct diffround r = {.params = params};
        assert_false(diffround_run(&r, stream.data, stream.len_bytes, 0));
}

static void segments_of_nothing_are_refused(void **state CAS_UNUSED)
{
        const struct cas_difference_params params = {.predict = zlib_6};
        static const uint8_t zeros[CAS_PREDICT_SLACK_BYTES];
        const struct cas_difference_plain none = {.data = zeros};
        cas_range_context kind[4];
        struct cas_rangecoder c;
        cas_cleanup_buf struct cas_buf corrections = CAS_BUF_INIT, out = CAS_BUF_INIT;
        cas_cleanup_difference struct cas_difference *d = cas_difference_new();
        struct cas_err reason = CAS_ERR_INIT;
        bool more = true;
        cas_range_contexts_init(kind, sizeof(kind));
        cas_rangecoder_encode_init(&c, &corrections);
        (void)cas_range_tree(&c, kind, CAS_DIFFERENCE_END, 2);
        cas_rangecoder_finish(&c);
        cas_difference_decode_begin(d, &params, &none, corrections.data, corrections.len_bytes, 0,
                                    0);
        assert_int_equal(cas_difference_decode(d, &out, &more, &reason), -CAS_E_CORRUPT);
}

/* ---- damage ---- */

static void damage_is_noticed_or_harmless(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT, stream = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_SHORT, 2, 60000, &plain);
        zlib_stream(&plain, 1, Z_DEFAULT_STRATEGY, 5000, &stream);
        cleanup_diffround struct diffround r = {.params = {.predict = zlib_6}};
        assert_true(diffround_run(&r, stream.data, stream.len_bytes, 0));
        size_t len = r.corrections.len_bytes;
        cas_buf_append_zero(&plain, CAS_PREDICT_SLACK_BYTES);
        struct cas_difference_plain p = {.data = plain.data, .plain_bytes = 60000};
        struct test_random random = {9};
        for (unsigned round = 0; round < 400; round++) {
                cas_cleanup_buf struct cas_buf bad = CAS_BUF_INIT, out = CAS_BUF_INIT;
                struct cas_err reason = CAS_ERR_INIT;
                size_t at = test_random_next(&random) % len;
                bool cut = round % 2, more = true;
                int rc = 0;
                cas_buf_append(&bad, r.corrections.data, cut ? at : len);
                if (!cut)
                        bad.data[at] ^= (uint8_t)(1 + test_random_next(&random) % 255);
                cas_difference_decode_begin(r.d, &r.params, &p, bad.data, bad.len_bytes, 0, 0);
                while (rc == 0 && more)
                        rc = cas_difference_decode(r.d, &out, &more, &reason);
                assert_int_equal(rc, -(int)reason.code);
                assert_true(rc == 0 || rc == -CAS_E_CORRUPT);
                if (rc == 0 && !cut)
                        assert_true(out.len_bytes != stream.len_bytes ||
                                    memcmp(out.data, stream.data, out.len_bytes) != 0);
        }
}

static void parameters_are_checked(void **state CAS_UNUSED)
{
        struct cas_difference_params p = {.predict = zlib_6, .tree = CAS_DIFFHEAD_SORT}, q;
        uint8_t good[CAS_DIFFERENCE_PARAMS_BYTES], bad[CAS_DIFFERENCE_PARAMS_BYTES];
        cas_difference_params_put(&p, good);
        assert_true(cas_difference_params_get(good, &q));
        assert_memory_equal(&p, &q, sizeof(p));
        static const uint8_t spoilt[][2] = {{0, CAS_PREDICT_POLICY_COUNT},
                                            {1, CAS_PREDICT_HASH_COUNT},
                                            {2, 7},
                                            {2, 17},
                                            {3, 16},
                                            {5, 0x11}, /* depth */
                                            {13, 0x80},
                                            {20, CAS_DIFFHEAD_TREE_COUNT}};
        for (unsigned i = 0; i < CAS_COUNT(spoilt); i++) {
                memcpy(bad, good, sizeof(bad));
                bad[spoilt[i][0]] = spoilt[i][1];
                assert_false(cas_difference_params_get(bad, &q));
        }
        memcpy(bad, good, sizeof(bad));
        cas_put_le16(bad + 4, 0);
        assert_false(cas_difference_params_get(bad, &q));
        cas_put_le16(bad + 4, 1);
        cas_put_le16(bad + 12, 0);
        assert_false(cas_difference_params_get(bad, &q));
}

/* ---- frozen ---- */

#define GOLDEN "tests/golden/difference/"

static void vector_line(const char *name, const uint8_t params[CAS_DIFFERENCE_PARAMS_BYTES],
                        const struct cas_buf *corrections, struct cas_buf *out)
{
        struct cas_digest digest;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_buf_printf(out, "%s\t", name);
        for (unsigned i = 0; i < CAS_DIFFERENCE_PARAMS_BYTES; i++)
                cas_buf_printf(out, "%02x", params[i]);
        cas_digest_of(CAS_DIGEST_SHA256, corrections->data, corrections->len_bytes, &digest);
        cas_digest_text(&digest, text);
        cas_buf_printf(out, "\t%zu\t%s\n", corrections->len_bytes, text);
}

static void corrections_are_frozen(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf vectors = CAS_BUF_INIT, now = CAS_BUF_INIT;
        test_ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, GOLDEN "vectors.tsv", 65536, &vectors,
                                 err));
        unsigned count = 0;
        for (char *line = (char *)vectors.data, *next; *line; line = next, count++) {
                cas_cleanup_buf struct cas_buf stream = CAS_BUF_INIT;
                cleanup_diffround struct diffround r = {0};
                char name[40], hex[64], path[100];
                uint8_t params[CAS_DIFFERENCE_PARAMS_BYTES];
                next = strchr(line, '\n') + 1;
                assert_int_equal(sscanf(line, "%39s %63s", name, hex), 2);
                assert_int_equal(strlen(hex), 2 * sizeof(params));
                for (unsigned i = 0; i < sizeof(params); i++) {
                        unsigned byte;
                        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
                        params[i] = (uint8_t)byte;
                }
                assert_true(cas_difference_params_get(params, &r.params));
                snprintf(path, sizeof(path), GOLDEN "%s", name);
                test_ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 100000, &stream, err));
                assert_true(diffround_run(&r, stream.data, stream.len_bytes, 0));
                assert_int_equal(r.again.len_bytes, stream.len_bytes);
                vector_line(name, params, &r.corrections, &now);
        }
        assert_true(count >= 10);
        if (getenv("LAMINA_WRITE_GOLDEN"))
                test_ok(cas_io_replace_file(cas_io_posix(), AT_FDCWD, "tests/golden/difference",
                                            GOLDEN "vectors.tsv", now.data, now.len_bytes, 0644,
                                            err));
        else
                assert_string_equal(cas_buf_str(&now), cas_buf_str(&vectors));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(all_samples_come_back),
                cmocka_unit_test(the_same_encoder_costs_next_to_nothing),
                cmocka_unit_test(guesses_what_is_known),
                cmocka_unit_test(long_blocks_are_cut),
                cmocka_unit_test(streams_of_nobody),
                cmocka_unit_test(ranks_stay_within_the_data),
                cmocka_unit_test(work_is_bounded),
                cmocka_unit_test(segments_of_nothing_are_refused),
                cmocka_unit_test(damage_is_noticed_or_harmless),
                cmocka_unit_test(parameters_are_checked),
                cmocka_unit_test(corrections_are_frozen),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
