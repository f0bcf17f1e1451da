/* SPDX-License-Identifier: Apache-2.0 */
/* Plain zstd, replayed (spec/recipe-zstd.md). A blob is a row of parts: frames that libzstd makes
 * again of the tar stream, and bytes as they are (skippable frames). */
#include <zstd.h>

#include "cas/record_int.h"
#include "cas/wrap_int.h"
#include "cas/zstdencoder_int.h"
#include "cas/zstdframes_int.h"

enum part_kind { PART_BYTES = 0, PART_FRAME = 1, PART_KIND_COUNT };
enum part_flag { CHECKSUM = 1, SIZE = 2, JOBS = 4, LONG = 8, FLAGS_KNOWN = 15 };

struct part {
        enum part_kind kind;
        uint64_t blob_bytes;
        uint64_t plain_bytes; /* FRAME */
        struct cas_zstd_params params;
};

/* Bytes of the tar that are compressed at a time. */
#define PIECE_BYTES (64 * CAS_KIB)
/* Of a frame's content, to choose the parameters by: more than a block, so that one comes out. */
#define TRIAL_BYTES (160 * CAS_KIB)

/* ---- analysis: the blob's frames ---- */

struct analysis {
        const struct cas_wrap_input *in;
        struct cas_recipe_writer *w;
        ZSTD_DCtx *decoder;
        uint8_t *input; /* INPUT_BYTES */
        uint8_t *plain; /* TRIAL_BYTES */
        uint64_t blob_at, tar_at;
        struct cas_zstd_params last; /* of the frame before: tried first */
        bool has_last;
        struct cas_recipe_mark mark; /* of the frame that was marked last */
        uint64_t ops_bytes;          /* of section WRAP, without its head */
        struct cas_buf op;
};
#define INPUT_BYTES (128 * CAS_KIB)

static int read_blob(const struct analysis *a, uint64_t offset, void *buf, size_t len,
                     struct cas_err *err)
{
        return cas_io_pread_exact(a->in->io, a->in->fd, buf, len, offset, "blob", err);
}

/* Decodes the frame that starts at blob_at, piece by piece; fn may be called with less than what it
 * could take. */
struct frame_reader {
        struct analysis *a;
        ZSTD_inBuffer in;
        uint64_t fetched; /* of the frame's bytes, at least */
        bool ended;
};

static void frame_begin(struct frame_reader *f, struct analysis *a)
{
        *f = (struct frame_reader){.a = a};
        (void)ZSTD_DCtx_reset(a->decoder, ZSTD_reset_session_only);
}

/* Stored bytes that were used. */
static uint64_t frame_bytes(const struct frame_reader *f)
{
        return f->fetched - (f->in.size - f->in.pos);
}

/* Up to len bytes of content; fewer only at its end. */
static int frame_read(struct frame_reader *f, void *buf, size_t len, size_t *out_len,
                      struct cas_err *err)
{
        ZSTD_outBuffer out = {.dst = buf, .size = len};
        while (out.pos < len && !f->ended) {
                uint64_t at = f->a->blob_at + f->fetched;
                if (f->in.pos == f->in.size && at < f->a->in->blob_bytes) {
                        size_t n = cas_min_u64(INPUT_BYTES, f->a->in->blob_bytes - at);
                        if (read_blob(f->a, at, f->a->input, n, err) < 0)
                                return -(int)err->code;
                        f->in = (ZSTD_inBuffer){.src = f->a->input, .size = n};
                        f->fetched += n;
                }
                size_t before = out.pos + f->in.pos;
                size_t left = ZSTD_decompressStream(f->a->decoder, &out, &f->in);
                if (ZSTD_isError(left))
                        return cas_fail(err, CAS_E_CORRUPT, "zstd: %s", ZSTD_getErrorName(left));
                f->ended = left == 0;
                if (!f->ended && out.pos + f->in.pos == before)
                        return cas_fail(err, CAS_E_CORRUPT, "zstd: the stream is cut off");
        }
        *out_len = out.pos;
        return 0;
}

/* ---- analysis: which parameters ---- */

/* Whether `bytes` is what stands `offset` into the frame. */
static int compare(struct analysis *a, uint64_t offset, const struct cas_buf *bytes, bool *same,
                   struct cas_err *err)
{
        uint8_t there[4096];
        *same = a->blob_at + offset + bytes->len_bytes <= a->in->blob_bytes;
        for (size_t at = 0; *same && at < bytes->len_bytes; at += sizeof(there)) {
                size_t n = cas_min_u64(sizeof(there), bytes->len_bytes - at);
                if (read_blob(a, a->blob_at + offset + at, there, n, err) < 0)
                        return -(int)err->code;
                *same = memcmp(there, bytes->data + at, n) == 0;
        }
        return 0;
}

/* Whether the frame begins with what `params` make of the beginning of its content. */
static int try_beginning(struct analysis *a, const struct cas_zstd_params *params,
                         uint64_t plain_bytes, const void *plain, size_t len, bool whole,
                         bool *same, struct cas_err *err)
{
        cas_cleanup_zstd_encoder struct cas_zstd_encoder *e =
                cas_zstd_encoder_new(params, plain_bytes);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        if (!e)
                return cas_fail(err, CAS_E_NOMEM, "zstd encoder");
        if (cas_zstd_encoder_write(e, plain, len, whole, &out, err) < 0)
                return -(int)err->code;
        return compare(a, 0, &out, same, err);
}

/* Whether `params` make the whole frame; *plain_bytes and *blob_bytes are its lengths then. */
static int try_whole(struct analysis *a, const struct cas_zstd_params *params, uint64_t size,
                     bool *same, uint64_t *plain_bytes, uint64_t *blob_bytes, struct cas_err *err)
{
        cas_cleanup_zstd_encoder struct cas_zstd_encoder *e = cas_zstd_encoder_new(params, size);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct frame_reader f;
        uint64_t made = 0;
        if (!e)
                return cas_fail(err, CAS_E_NOMEM, "zstd encoder");
        frame_begin(&f, a);
        *plain_bytes = 0;
        for (*same = true; *same && !f.ended;) {
                size_t len;
                cas_buf_clear(&out);
                if (frame_read(&f, a->plain, PIECE_BYTES, &len, err) < 0 ||
                    cas_zstd_encoder_write(e, a->plain, len, f.ended, &out, err) < 0 ||
                    compare(a, made, &out, same, err) < 0)
                        return -(int)err->code;
                *plain_bytes += len;
                made += out.len_bytes;
        }
        *blob_bytes = frame_bytes(&f);
        *same = *same && made == *blob_bytes;
        return 0;
}

/* The frame's own head says what it can. */
static int head_params(struct analysis *a, struct cas_zstd_params *out, uint64_t *size,
                       bool *may_be_long, bool *known, struct cas_err *err)
{
        uint8_t head[18] = {0};
        size_t n = cas_min_u64(sizeof(head), a->in->blob_bytes - a->blob_at);
        if (read_blob(a, a->blob_at, head, n, err) < 0)
                return -(int)err->code;
        uint8_t descriptor = head[4]; /* RFC 8878, 3.1.1.1.1 */
        unsigned long long content = ZSTD_getFrameContentSize(head, n);
        *out = (struct cas_zstd_params){.has_checksum = descriptor & 4};
        out->has_size = content != ZSTD_CONTENTSIZE_UNKNOWN && content != ZSTD_CONTENTSIZE_ERROR;
        *size = out->has_size ? content : 0;
        /* No dictionary. */
        *known = content != ZSTD_CONTENTSIZE_ERROR && (descriptor & 3) == 0;
        *may_be_long = (descriptor & 32) || head[5] >> 3 == 17;
        return 0;
}

static int find_params(struct analysis *a, bool *found, struct part *part, struct cas_err *err)
{
        struct cas_zstd_params base;
        struct frame_reader f;
        uint64_t size = 0;
        bool may_be_long = false, known = false, same;
        size_t len;
        *found = false;
        if (head_params(a, &base, &size, &may_be_long, &known, err) < 0)
                return -(int)err->code;
        frame_begin(&f, a);
        if (!known || frame_read(&f, a->plain, TRIAL_BYTES, &len, err) < 0)
                return known ? -(int)err->code : 0;
        cas_cleanup_buf struct cas_buf beginning = CAS_BUF_INIT;
        cas_buf_append(&beginning, a->plain, len);
        bool whole = f.ended;
        /* The usual ones first; those of the frame before even earlier. */
        static const int8_t levels[] = {3,  1,  2,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,
                                        14, 15, 16, 17, 18, 19, -1, -2, -3, -4, -5, -6, -7};
        for (size_t i = 0; i < CAS_COUNT(levels) * 4 + 1; i++) {
                struct cas_zstd_params p = base;
                if (i == 0 && !a->has_last)
                        continue;
                p.level = i == 0 ? a->last.level : levels[(i - 1) / 4];
                p.by_jobs = i == 0 ? a->last.by_jobs : (i - 1) % 4 < 2;
                p.is_long = i == 0 ? a->last.is_long : (i - 1) % 2;
                if (p.is_long && !may_be_long)
                        continue;
                struct cas_zstd_params trial = p;
                trial.by_jobs = whole && p.by_jobs; /* jobs give nothing before they are full */
                if (try_beginning(a, &trial, size, beginning.data, len, whole, &same, err) < 0)
                        return -(int)err->code;
                if (!same)
                        continue;
                if (try_whole(a, &p, size, &same, &part->plain_bytes, &part->blob_bytes, err) < 0)
                        return -(int)err->code;
                if (same) {
                        part->kind = PART_FRAME;
                        part->params = a->last = p;
                        a->has_last = *found = true;
                        return 0;
                }
        }
        return 0;
}

/* ---- analysis: the recipe ---- */

static void op_encode(struct cas_buf *op, const struct part *p)
{
        cas_buf_clear(op);
        cas_buf_append_byte(op, (uint8_t)p->kind);
        cas_varint_append(op, p->blob_bytes);
        if (p->kind != PART_FRAME)
                return;
        cas_varint_append(op, p->plain_bytes);
        cas_buf_append_byte(op, (uint8_t)p->params.level);
        cas_buf_append_byte(op, (uint8_t)((p->params.has_checksum ? CHECKSUM : 0) |
                                          (p->params.has_size ? SIZE : 0) |
                                          (p->params.by_jobs ? JOBS : 0) |
                                          (p->params.is_long ? LONG : 0)));
}

/* A mark's state: where in WRAP and in WRAP_DATA its part is. */
static int add_mark(struct analysis *a, struct cas_err *err)
{
        bool first = a->blob_at == 0;
        if (!first && a->tar_at < a->mark.tar_offset + CAS_RECIPE_MARK_SPACING_BYTES)
                return 0;
        cas_cleanup_buf struct cas_buf state = CAS_BUF_INIT;
        cas_varint_append(&state, cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP]));
        cas_varint_append(&state, cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP_DATA]));
        a->mark = (struct cas_recipe_mark){.blob_offset = a->blob_at, .tar_offset = a->tar_at};
        a->mark.state_bytes = (uint8_t)state.len_bytes;
        memcpy(a->mark.state, state.data, state.len_bytes);
        return cas_recipe_writer_mark(a->w, &a->mark, err);
}

static int add_part(struct analysis *a, const struct part *p, struct cas_err *err)
{
        if (add_mark(a, err) < 0)
                return -(int)err->code;
        for (uint64_t done = 0; p->kind == PART_BYTES && done < p->blob_bytes;) {
                size_t n = cas_min_u64(INPUT_BYTES, p->blob_bytes - done);
                if (read_blob(a, a->blob_at + done, a->input, n, err) < 0 ||
                    cas_spool_append(a->w->sections[CAS_RECIPE_WRAP_DATA], a->input, n, err) < 0)
                        return -(int)err->code;
                done += n;
        }
        op_encode(&a->op, p);
        a->blob_at += p->blob_bytes;
        a->tar_at += p->plain_bytes;
        return cas_spool_append(a->w->sections[CAS_RECIPE_WRAP], a->op.data, a->op.len_bytes, err);
}

/* The part that starts at blob_at; *found false: a frame that cannot be replayed. */
static int next_part(struct analysis *a, struct part *p, bool *found, struct cas_err *err)
{
        uint8_t head[8] = {0};
        uint64_t left = a->in->blob_bytes - a->blob_at;
        *p = (struct part){0};
        if (read_blob(a, a->blob_at, head, cas_min_u64(sizeof(head), left), err) < 0)
                return -(int)err->code;
        uint32_t magic = cas_get_le32(head);
        if (left < sizeof(head) ||
            (magic & ZSTD_MAGIC_SKIPPABLE_MASK) != ZSTD_MAGIC_SKIPPABLE_START)
                return find_params(a, found, p, err);
        p->kind = PART_BYTES;
        p->blob_bytes = sizeof(head) + (uint64_t)cas_get_le32(head + 4);
        *found = p->blob_bytes <= left;
        return 0;
}

static int analyse(struct analysis *a, struct cas_wrap_report *report, struct cas_err *err)
{
        unsigned frame_count = 0;
        while (a->blob_at < a->in->blob_bytes) {
                struct part p;
                bool found = false;
                if (next_part(a, &p, &found, err) < 0)
                        return -(int)err->code;
                if (!found) {
                        (void)snprintf(report->reason, sizeof(report->reason),
                                       "zstd of an unknown encoder (frame %u)", frame_count + 1);
                        return 0;
                }
                if (add_part(a, &p, err) < 0)
                        return -(int)err->code;
                frame_count += p.kind == PART_FRAME;
        }
        if (cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP_DATA]) * 100 >
            a->in->blob_bytes * CAS_WRAP_DIFF_PERCENT_MAX) {
                (void)snprintf(report->reason, sizeof(report->reason),
                               "zstd with much beside its content");
                return 0;
        }
        int n = snprintf(report->text, sizeof(report->text), "zstd level %d%s%s", a->last.level,
                         a->last.is_long ? ", long" : "", a->last.by_jobs ? ", by jobs" : "");
        if (frame_count > 1)
                (void)snprintf(report->text + n, sizeof(report->text) - (size_t)n, ", %u frames",
                               frame_count);
        return 0;
}

static int analyse_replay(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                          struct cas_wrap_report *report, struct cas_err *err)
{
        struct analysis a = {.in = in, .w = w};
        if (!cas_zstd_can_replay()) {
                (void)snprintf(report->reason, sizeof(report->reason),
                               "zstd, and this program has another libzstd than recipes rely on");
                return 0;
        }
        a.decoder = ZSTD_createDCtx();
        a.input = cas_xmalloc(INPUT_BYTES);
        a.plain = cas_xmalloc(TRIAL_BYTES);
        int rc = -CAS_E_NOMEM;
        if (!a.decoder || ZSTD_isError(ZSTD_DCtx_setParameter(a.decoder, ZSTD_d_windowLogMax,
                                                              CAS_ZSTD_WINDOW_LOG_MAX)))
                rc = cas_fail(err, CAS_E_NOMEM, "zstd decoder");
        else
                rc = analyse(&a, report, err);
        cas_buf_release(&a.op);
        (void)ZSTD_freeDCtx(a.decoder);
        free(a.input);
        free(a.plain);
        return rc;
}

int cas_zstd_analyse(const struct cas_wrap_input *in, struct cas_publish *p,
                     struct cas_recipe_writer *w, enum cas_wrap_kind *out_kind,
                     struct cas_wrap_report *report, struct cas_err *err)
{
        bool kept = false;
        *report = (struct cas_wrap_report){0};
        if (analyse_replay(in, w, report, err) < 0 ||
            (report->reason[0] && p && cas_zstdframes_analyse(in, w, &kept, report, err) < 0))
                return -(int)err->code;
        *out_kind = kept ? CAS_WRAP_ZSTD_FRAMES : CAS_WRAP_ZSTD_REPLAY;
        return 0;
}

/* ---- reading ---- */

struct reader {
        struct cas_wrap_reader base;
        struct cas_recipe_stream ops, data;
        cas_source_fn tar;
        void *tar_arg;
        uint64_t blob_left; /* of the whole blob */
        struct part part;
        uint64_t part_left;  /* of its blob bytes, to be given out */
        uint64_t plain_left; /* of its content, to be compressed */
        struct cas_zstd_encoder *encoder;
        struct cas_buf out; /* made, from out_at on not given out yet */
        size_t out_at;
        uint8_t *piece; /* PIECE_BYTES */
};

static void replay_close(struct cas_wrap_reader *wr)
{
        struct reader *r = (struct reader *)wr;
        cas_recipe_stream_release(&r->ops);
        cas_recipe_stream_release(&r->data);
        cas_zstd_encoder_free(r->encoder);
        cas_buf_release(&r->out);
        free(r->piece);
        free(r);
}

static int part_begin(struct reader *r, struct cas_err *err)
{
        uint8_t kind = 0, level = 0, flags = 0;
        struct part *p = &r->part;
        *p = (struct part){0};
        if (cas_recipe_stream_read(&r->ops, &kind, 1, err) < 0 ||
            cas_recipe_stream_varint(&r->ops, &p->blob_bytes, err) < 0)
                return -(int)err->code;
        if (kind >= PART_KIND_COUNT || p->blob_bytes == 0 || p->blob_bytes > r->blob_left)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a part of zstd that cannot be");
        p->kind = (enum part_kind)kind;
        r->part_left = p->blob_bytes;
        if (p->kind == PART_BYTES)
                return 0;
        if (cas_recipe_stream_varint(&r->ops, &p->plain_bytes, err) < 0 ||
            cas_recipe_stream_read(&r->ops, &level, 1, err) < 0 ||
            cas_recipe_stream_read(&r->ops, &flags, 1, err) < 0)
                return -(int)err->code;
        p->params = (struct cas_zstd_params){.level = (int8_t)level,
                                             .has_checksum = flags & CHECKSUM,
                                             .has_size = flags & SIZE,
                                             .by_jobs = flags & JOBS,
                                             .is_long = flags & LONG};
        if ((flags & ~FLAGS_KNOWN) || !cas_zstd_params_valid(&p->params) ||
            p->plain_bytes > CAS_TAR_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: parameters of zstd that cannot be");
        r->plain_left = p->plain_bytes;
        cas_zstd_encoder_free(r->encoder);
        r->encoder = cas_zstd_encoder_new(&p->params, p->plain_bytes);
        if (!r->encoder)
                return cas_fail(err, CAS_E_NOMEM, "zstd encoder");
        return 0;
}

/* Compresses until there is something. */
static int frame_make(struct reader *r, struct cas_err *err)
{
        cas_buf_clear(&r->out);
        r->out_at = 0;
        while (r->out.len_bytes == 0) {
                size_t want = cas_min_u64(PIECE_BYTES, r->plain_left), len = 0;
                if (!r->encoder)
                        return cas_fail(err, CAS_E_CORRUPT, "recipe: a frame ends too early");
                if (want > 0 && r->tar(r->tar_arg, r->piece, want, &len, err) < 0)
                        return -(int)err->code;
                if (want > 0 && len == 0)
                        return cas_fail(err, CAS_E_CORRUPT, "recipe: the tar ends too early");
                r->plain_left -= len;
                bool last = r->plain_left == 0;
                if (cas_zstd_encoder_write(r->encoder, r->piece, len, last, &r->out, err) < 0)
                        return -(int)err->code;
                if (last) {
                        cas_zstd_encoder_free(r->encoder);
                        r->encoder = NULL;
                }
        }
        return 0;
}

static int replay_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err)
{
        struct reader *r = (struct reader *)wr;
        *out_len = 0;
        if (r->blob_left == 0 || len == 0)
                return 0;
        if (r->part_left == 0 && part_begin(r, err) < 0)
                return -(int)err->code;
        size_t n = cas_min_u64(len, r->part_left);
        if (r->part.kind == PART_BYTES) {
                if (cas_recipe_stream_read(&r->data, buf, n, err) < 0)
                        return -(int)err->code;
        } else {
                if (r->out_at == r->out.len_bytes && frame_make(r, err) < 0)
                        return -(int)err->code;
                n = cas_min_u64(n, r->out.len_bytes - r->out_at);
                memcpy(buf, r->out.data + r->out_at, n);
                r->out_at += n;
        }
        r->part_left -= n;
        r->blob_left -= n;
        if (r->part_left == 0 && (r->plain_left > 0 || r->out_at < r->out.len_bytes))
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a frame is longer than it says");
        *out_len = n;
        return 0;
}

static int replay_open(struct cas_recipe *recipe, const struct cas_recipe_mark *mark,
                       cas_source_fn tar, void *tar_arg, struct cas_wrap_reader **out,
                       struct cas_err *err)
{
        const struct cas_recipe_head *head = cas_recipe_head(recipe);
        struct cas_cursor state = cas_cursor_over(mark->state, mark->state_bytes);
        uint64_t ops_at = cas_cursor_varint(&state), data_at = cas_cursor_varint(&state);
        if (!cas_zstd_can_replay())
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "zstd is replayed by libzstd %d, and this program has another",
                                CAS_ZSTD_REPLAY_VERSION);
        if (cas_cursor_end(&state, "mark of zstd", err) < 0)
                return -(int)err->code;
        if (mark->blob_offset > head->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a mark behind the end");
        struct reader *r = cas_xcalloc(1, sizeof(*r));
        r->base.ops = &cas_wrap_zstd_replay;
        r->tar = tar;
        r->tar_arg = tar_arg;
        r->blob_left = head->blob_bytes - mark->blob_offset;
        r->piece = cas_xmalloc(PIECE_BYTES);
        cas_buf_init(&r->out);
        cas_recipe_stream_init(&r->ops, recipe, CAS_RECIPE_WRAP, ops_at);
        cas_recipe_stream_init(&r->data, recipe, CAS_RECIPE_WRAP_DATA, data_at);
        *out = &r->base;
        return 0;
}

const struct cas_wrap_ops cas_wrap_zstd_replay = {replay_open, replay_read, replay_close};
