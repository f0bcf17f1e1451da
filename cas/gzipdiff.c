/* SPDX-License-Identifier: Apache-2.0 */
/* Analysis: the blob is parsed into segments, each is coded with the parameters that were guessed
 * on the first, and guessed again where they do badly. */
#include "cas/gzipdiff_int.h"

#include "cas/deflate/diffguess.h"
#include "cas/gzipheader.h"

#define GUESSES_MAX 4
#define GUESS_AGAIN_PERCENT 1
/* From so many segments on, twice the bound is clearly too much. */
#define HOPELESS_SEGMENTS 3
#define MARK_PLAIN_BYTES (1U << 20) /* marks are no closer */

struct analysis {
        const struct cas_wrap_input *in;
        uint64_t read_bytes; /* of the blob, by the parser */
        struct cas_recipe_writer *w;
        struct cas_wrap_report *report;
        struct cas_deflate_parser *parser;
        struct cas_diffsegment *segment;
        struct cas_difference *difference;
        struct cas_difference_params params;
        const char *near;
        unsigned guesses;
        struct cas_buf corrections; /* of the present segment … */
        bool is_encoded;            /* … when it could be */
        uint64_t stream_byte;       /* where the present deflate stream begins in the blob */
        uint64_t segment_bit;       /* where the present segment begins in the blob */
        uint64_t segment_plain;     /* … and in the tar stream */
        uint64_t segment_count;
        bool marked;
        uint64_t marked_plain, marked_blob;
        bool stopped; /* report->reason is set */
};

static int read_blob(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct analysis *a = arg;
        uint64_t left = a->in->blob_bytes - a->read_bytes;
        if (cas_io_pread(a->in->io, a->in->fd, buf, (size_t)cas_min_u64(len, left), a->read_bytes,
                         out_len, "blob", err) < 0)
                return -(int)err->code;
        a->read_bytes += *out_len;
        return 0;
}

/* ---- segments ---- */

/* False: that would take readers too long. */
static bool encode_with(struct analysis *a, const struct cas_difference_params *params,
                        struct cas_buf *out)
{
        struct cas_difference_plain plain;
        struct cas_difference_item item;
        cas_diffsegment_plain(a->segment, &plain);
        cas_difference_encode_begin(a->difference, params, &plain, out);
        for (size_t i = 0; cas_diffsegment_item(a->segment, i, &item); i++)
                cas_difference_encode(a->difference, &item);
        return cas_difference_encode_finish(a->difference);
}

/* Takes the parameters when they do better than what is in corrections. */
static void try_params(struct analysis *a, const struct cas_difference_params *params)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        if (!encode_with(a, params, &out) ||
            (a->is_encoded && out.len_bytes >= a->corrections.len_bytes))
                return;
        a->is_encoded = true;
        a->params = *params;
        cas_buf_release(&a->corrections);
        a->corrections = out;
        cas_buf_init(&out);
}

static void guess(struct analysis *a)
{
        struct cas_difference_params params;
        const char *near = cas_diffguess(a->segment, a->difference, &params);
        bool was_encoded = a->is_encoded;
        size_t before = a->corrections.len_bytes;
        for (unsigned tree = 0; tree < CAS_DIFFHEAD_TREE_COUNT; tree++) {
                params.tree = (uint8_t)tree;
                try_params(a, &params);
        }
        if (!was_encoded || a->corrections.len_bytes < before)
                a->near = near;
        a->guesses++;
}

static void encode(struct analysis *a, uint64_t end_bit)
{
        uint64_t blob_bytes = (end_bit - a->segment_bit) / 8;
        cas_buf_clear(&a->corrections);
        a->is_encoded = a->guesses > 0 && encode_with(a, &a->params, &a->corrections);
        if (a->guesses < GUESSES_MAX &&
            (!a->is_encoded || a->corrections.len_bytes * 100 > blob_bytes * GUESS_AGAIN_PERCENT))
                guess(a);
}

static int add_mark(struct analysis *a, const struct cas_gzipdiff_head *head, struct cas_err *err)
{
        uint64_t at = a->segment_plain - head->window_bytes;
        uint64_t blob_offset = a->segment_bit / 8;
        if (a->marked && (at < a->marked_plain + MARK_PLAIN_BYTES || blob_offset <= a->marked_blob))
                return 0;
        struct cas_recipe_mark mark = {.blob_offset = blob_offset,
                                       .tar_offset = at,
                                       .state_bytes = CAS_GZIPDIFF_STATE_BYTES};
        cas_put_le64(mark.state, cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP_DATA]));
        a->marked = true;
        a->marked_plain = at;
        a->marked_blob = blob_offset;
        return cas_recipe_writer_mark(a->w, &mark, err);
}

/* Is it worth going on? */
static void judge(struct analysis *a, uint64_t end_bit)
{
        uint64_t cost = cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP_DATA]);
        uint64_t bound = a->in->blob_bytes / 100 * CAS_WRAP_DIFF_PERCENT_MAX;
        bool hopeless = a->segment_count >= HOPELESS_SEGMENTS &&
                        cost * 100 > 2 * CAS_WRAP_DIFF_PERCENT_MAX * (end_bit / 8);
        bool huge = a->corrections.len_bytes > CAS_GZIPDIFF_CORRECTIONS_BYTES_MAX;
        if (cost <= bound && !hopeless && !huge)
                return;
        uint64_t per_mille = cost * 1000 / cas_max_u64(end_bit / 8, 1);
        snprintf(a->report->reason, sizeof(a->report->reason),
                 "corrections take %llu.%llu %% of the first %llu bytes, nearest is %s",
                 (unsigned long long)per_mille / 10, (unsigned long long)per_mille % 10,
                 (unsigned long long)end_bit / 8, a->near);
        a->stopped = true;
}

/* The segment ends before bit end_bit of the blob. */
static int end_segment(struct analysis *a, uint64_t end_bit, struct cas_err *err)
{
        struct cas_difference_plain plain;
        if (cas_diffsegment_is_empty(a->segment))
                return 0;
        encode(a, end_bit);
        if (!a->is_encoded) {
                snprintf(a->report->reason, sizeof(a->report->reason),
                         "prediction takes too much work, nearest is %s", a->near);
                a->stopped = true;
                return 0;
        }
        cas_diffsegment_plain(a->segment, &plain);
        struct cas_gzipdiff_head head = {.plain_bytes = plain.plain_bytes,
                                         .corrections_bytes = (uint32_t)a->corrections.len_bytes,
                                         .window_bytes = plain.window_bytes,
                                         .start_bits = (uint8_t)(a->segment_bit % 8),
                                         .params = a->params};
        if (head.start_bits > 0 && cas_io_pread_exact(a->in->io, a->in->fd, &head.start, 1,
                                                      a->segment_bit / 8, "blob", err) < 0)
                return -(int)err->code;
        head.start &= (uint8_t)((1U << head.start_bits) - 1);
        uint8_t bytes[CAS_GZIPDIFF_HEAD_BYTES];
        cas_gzipdiff_head_put(&head, bytes);
        struct cas_spool *data = a->w->sections[CAS_RECIPE_WRAP_DATA];
        if (add_mark(a, &head, err) < 0 || cas_spool_append(data, bytes, sizeof(bytes), err) < 0 ||
            cas_spool_append(data, a->corrections.data, a->corrections.len_bytes, err) < 0)
                return -(int)err->code;
        a->segment_count++;
        a->segment_bit = end_bit;
        a->segment_plain += plain.plain_bytes;
        cas_diffsegment_next(a->segment);
        judge(a, end_bit);
        return 0;
}

/* ---- the blob ---- */

static int take_stream(struct analysis *a, struct cas_err *err)
{
        struct cas_deflate_event e;
        uint64_t stream_bit = a->stream_byte * 8, done = 0;
        do {
                if (cas_deflate_parser_next(a->parser, &e, err) < 0)
                        return -(int)err->code;
                if (cas_diffsegment_is_full(a->segment, &e)) {
                        uint64_t end = e.kind == CAS_DEFLATE_BLOCK ? e.block->bit_offset : done;
                        if (end_segment(a, stream_bit + end, err) < 0)
                                return -(int)err->code;
                }
                cas_diffsegment_event(a->segment, &e);
                done = cas_deflate_parser_bits(a->parser);
        } while (e.kind != CAS_DEFLATE_END && !a->stopped);
        a->stream_byte += (done + 7) / 8;
        return 0;
}

/* Bytes that no stream makes: what the parser would give next. */
static int take_raw(struct analysis *a, size_t len, struct cas_err *err)
{
        while (len > 0 && !a->stopped) {
                const uint8_t *data;
                size_t have, n = (size_t)cas_min_u64(len, CAS_DIFFERENCE_RAW_BYTES_MAX);
                cas_deflate_parser_rest(a->parser, &data, &have);
                cas_assert(n <= have);
                if (!cas_diffsegment_raw(a->segment, data, n)) {
                        if (end_segment(a, a->stream_byte * 8, err) < 0)
                                return -(int)err->code;
                        continue;
                }
                cas_deflate_parser_restart(a->parser, n);
                a->stream_byte += n;
                len -= n;
        }
        return 0;
}

/* The trailer of the member before, and the header of the next; *out_more false: there is none, and
 * all that was left has been taken. */
static int take_between(struct analysis *a, bool first, bool *out_more, struct cas_err *err)
{
        const uint8_t *data;
        size_t len, trailer = first ? 0 : CAS_GZIP_TRAILER_BYTES, header = 0;
        if (cas_deflate_parser_fill(a->parser, CAS_GZIP_HEADER_BYTES_MAX + CAS_GZIP_TRAILER_BYTES,
                                    err) < 0)
                return -(int)err->code;
        cas_deflate_parser_rest(a->parser, &data, &len);
        struct cas_err bad = CAS_ERR_INIT;
        if (len > trailer &&
            cas_gzip_header_find_end(data + trailer, len - trailer, &header, &bad) < 0) {
                header = 0;
                if (first) {
                        *err = bad;
                        return -(int)err->code;
                }
        }
        *out_more = header > 0;
        if (header > 0)
                return take_raw(a, trailer + header, err);
        while (len > 0 && !a->stopped) {
                if (take_raw(a, len, err) < 0 ||
                    cas_deflate_parser_fill(a->parser, CAS_DIFFERENCE_RAW_BYTES_MAX, err) < 0)
                        return -(int)err->code;
                cas_deflate_parser_rest(a->parser, &data, &len);
        }
        return 0;
}

static int analyse(struct analysis *a, struct cas_err *err)
{
        bool more = true;
        for (bool first = true; more && !a->stopped; first = false) {
                if (take_between(a, first, &more, err) < 0)
                        return -(int)err->code;
                if (more && !a->stopped && take_stream(a, err) < 0)
                        return -(int)err->code;
        }
        if (!a->stopped && end_segment(a, a->stream_byte * 8, err) < 0)
                return -(int)err->code;
        if (a->stopped)
                return 0;
        if (a->stream_byte != a->in->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "the blob has another size than was said");
        uint8_t wrap[CAS_GZIPDIFF_WRAP_BYTES] = {CAS_GZIPDIFF_VERSION};
        return cas_spool_append(a->w->sections[CAS_RECIPE_WRAP], wrap, sizeof(wrap), err);
}

int cas_gzipdiff_analyse(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                         struct cas_wrap_report *report, struct cas_err *err)
{
        struct analysis a = {.in = in, .w = w, .report = report, .near = ""};
        a.parser = cas_deflate_parser_new(read_blob, &a);
        a.segment = cas_diffsegment_new();
        a.difference = cas_difference_new();
        int rc = analyse(&a, err);
        if (rc == 0) {
                snprintf(report->text, sizeof(report->text), "deflate like %s", a.near);
                report->corrections_bytes = cas_spool_bytes(w->sections[CAS_RECIPE_WRAP_DATA]);
        }
        cas_buf_release(&a.corrections);
        cas_deflate_parser_free(a.parser);
        cas_diffsegment_free(a.segment);
        cas_difference_free(a.difference);
        return rc;
}
