/* SPDX-License-Identifier: Apache-2.0 */
/* Analysis of gzip blobs: member by member, which encoder made it; the plan and the marks of the
 * recipe. Work is bounded: a coder that fitted one member is tried first on the next, members that
 * need a search are counted, and so are attempts that fail late. */
#include <inttypes.h>

#include "cas/gzipdiff_int.h"
#include "cas/gzipheader.h"
#include "cas/gziptrial_int.h"
#include "cas/io.h"

#define TRIALS_MAX 64              /* members whose encoder is searched */
#define LATE_FAILURES_MAX 8        /* attempts that fail … */
#define LATE_BYTES (8 * CAS_MIB)   /* … after so much content */
#define VERBATIM_MEMBER_BYTES 1024 /* streams of no known encoder that may stand in the plan … */
#define VERBATIM_SHARE 2000        /* … one byte in so many of the blob, and */
#define VERBATIM_BYTES_FREE 2048   /* so many in any case */
#define PLAN_SHARE 100             /* plans longer than one byte in so many of the blob, and … */
#define PLAN_BYTES_FREE (16 * CAS_KIB) /* … than this, are not worth it */
#define MARKS_MAX 16384                /* beyond, every other one is dropped */
#define TAIL_STEP_BYTES 64             /* what follows the last member is mostly zeros */

struct analysis {
        const struct cas_wrap_input *in; /* borrowed */
        struct cas_gzipreplay *replay;
        struct cas_gzipplan plan;
        struct cas_gzip_found_mark *marks; /* owned; part_index counts from the plan's first */
        size_t mark_count, mark_alloc;
        uint64_t spacing, last_mark_at;
        uint64_t tar_at;
        struct cas_buf prefix;   /* of the next part: what no encoder makes */
        uint64_t prefix_blob;    /* where it begins in the blob */
        uint64_t verbatim_bytes; /* streams in prefixes */
        uint64_t member_count;
        struct cas_gzip_coder coder; /* that fitted last; class NULL: none yet */
        enum cas_gzip_framing framing;
        unsigned trials, late_failures;

        /* for people: */
        struct cas_gzip_coder first_coder;
        struct cas_gzip_found_part first_part;
        bool has_pieces, has_several_coders;
};

static void analysis_release(struct analysis *a)
{
        cas_gzipreplay_free(a->replay);
        cas_gzipplan_release(&a->plan);
        cas_buf_release(&a->prefix);
        free(a->marks);
}

/* ---- marks ---- */

/* Twice as far apart from now on. */
static void thin_marks(struct analysis *a)
{
        size_t kept = 0;
        for (size_t i = 1; i < a->mark_count; i += 2)
                a->marks[kept++] = a->marks[i];
        a->mark_count = kept;
        a->spacing *= 2;
}

static void add_mark(struct analysis *a, const struct cas_gzip_found_mark *mark)
{
        if (a->mark_count == MARKS_MAX)
                thin_marks(a);
        if (a->mark_count == a->mark_alloc) {
                a->mark_alloc = a->mark_alloc ? 2 * a->mark_alloc : 64;
                a->marks = cas_xrealloc(a->marks, a->mark_alloc * sizeof(*a->marks));
        }
        a->marks[a->mark_count++] = *mark;
}

/* The beginning of a member is a mark, when one is due. */
static void mark_member(struct analysis *a)
{
        if (a->tar_at < a->last_mark_at + a->spacing || a->prefix_blob == 0)
                return;
        add_mark(a, &(struct cas_gzip_found_mark){
                            .blob_offset = a->prefix_blob,
                            .tar_offset = a->tar_at,
                            .mark = {.part_index = a->plan.part_count},
                    });
        a->last_mark_at = a->tar_at;
}

/* ---- members ---- */

static int cut_off(struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "gzip: the stream is cut off");
}

/* Adds the next len bytes of the blob, which must be there, to the prefix. */
static int take_bytes(struct analysis *a, size_t len, struct cas_err *err)
{
        const uint8_t *data;
        size_t have;
        if (a->prefix.len_bytes == 0)
                a->prefix_blob = cas_gzipreplay_offset(a->replay);
        if (cas_gzipreplay_peek(a->replay, len, &data, &have, err) < 0)
                return -(int)err->code;
        if (have < len)
                return cut_off(err);
        cas_buf_append(&a->prefix, data, len);
        cas_gzipreplay_skip(a->replay, len);
        return 0;
}

static int take_header(struct analysis *a, size_t *header_bytes, struct cas_err *err)
{
        const uint8_t *data;
        size_t have, want = 64;
        for (;;) {
                if (cas_gzipreplay_peek(a->replay, want, &data, &have, err) < 0 ||
                    cas_gzip_header_find_end(data, have, header_bytes, err) < 0)
                        return -(int)err->code;
                if (*header_bytes > 0)
                        return take_bytes(a, *header_bytes, err);
                if (have < want)
                        return cut_off(err);
                want = 2 * have < CAS_DEFLATE_FILL_BYTES_MAX ? 2 * have
                                                             : CAS_DEFLATE_FILL_BYTES_MAX;
        }
}

/* One attempt, from where the stream begins. */
static int attempt(struct analysis *a, uint64_t stream_at, struct cas_gzip_coder coder,
                   enum cas_gzip_framing framing, struct cas_gzip_member *m, bool *fits,
                   struct cas_err *err)
{
        uint64_t mark_before = a->last_mark_at, work = cas_gzipreplay_work_bytes(a->replay);
        if (cas_gzipreplay_offset(a->replay) != stream_at)
                cas_gzipreplay_seek(a->replay, stream_at);
        if (cas_gzipreplay_member(a->replay, coder, framing, a->tar_at, a->spacing,
                                  &a->last_mark_at, m, fits, err) < 0)
                return -(int)err->code;
        if (*fits) {
                a->coder = coder;
                a->framing = framing;
                return 0;
        }
        a->last_mark_at = mark_before;
        a->late_failures += cas_gzipreplay_work_bytes(a->replay) - work > LATE_BYTES;
        /* An offset that is no stream's beginning: the next attempt seeks. */
        cas_gzipreplay_seek(a->replay, stream_at);
        return 0;
}

/* All ways of framing that a coder might have been used with. */
static int attempt_framings(struct analysis *a, uint64_t stream_at, struct cas_gzip_coder coder,
                            struct cas_gzip_member *m, bool *fits, struct cas_err *err)
{
        bool has_points = false;
        *fits = false;
        for (int f = 0; f < CAS_GZIP_FRAMING_COUNT && !*fits; f++) {
                if (f == CAS_GZIP_FRAMING_DOUBT && !has_points)
                        continue;
                if (f == CAS_GZIP_FRAMING_PIECES &&
                    !(coder.class->ends >> CAS_DEFLATE_END_PIGZ & 1))
                        continue;
                if (attempt(a, stream_at, coder, (enum cas_gzip_framing)f, m, fits, err) < 0)
                        return -(int)err->code;
                has_points |= m->has_points;
        }
        return 0;
}

static int search(struct analysis *a, uint64_t stream_at, size_t header_bytes,
                  struct cas_gzip_member *m, bool *fits, struct cas_err *err)
{
        cas_cleanup_gziptrial struct cas_gziptrial *t = NULL;
        struct cas_gzip_coder coder;
        *fits = false;
        if (a->trials++ == TRIALS_MAX)
                return 0;
        if (cas_gziptrial_new(a->in, stream_at - header_bytes, header_bytes, &t, err) < 0)
                return -(int)err->code;
        while (!*fits && a->late_failures < LATE_FAILURES_MAX && cas_gziptrial_next(t, &coder))
                if (attempt_framings(a, stream_at, coder, m, fits, err) < 0)
                        return -(int)err->code;
        return 0;
}

/* A stream that no encoder makes may be short enough to be in the plan as it is. */
static int take_verbatim(struct analysis *a, uint64_t stream_at, struct cas_gzip_member *m,
                         bool *fits, struct cas_err *err)
{
        if (cas_gzipreplay_measure(a->replay, m, err) < 0)
                return -(int)err->code;
        a->verbatim_bytes += m->deflate_bytes;
        *fits = m->deflate_bytes <= VERBATIM_MEMBER_BYTES &&
                a->verbatim_bytes <= VERBATIM_BYTES_FREE + a->in->blob_bytes / VERBATIM_SHARE;
        if (!*fits)
                return 0;
        cas_gzipreplay_seek(a->replay, stream_at);
        if (take_bytes(a, (size_t)m->deflate_bytes, err) < 0)
                return -(int)err->code;
        struct cas_gzip_part part = {.length_bytes = m->plain_bytes};
        cas_gzipplan_add(&a->plan, &part, a->prefix.data, a->prefix.len_bytes, false);
        cas_buf_clear(&a->prefix);
        return 0;
}

/* Puts the parts of a member that fits into the plan. */
static void add_member(struct analysis *a, struct cas_gzip_member *m, bool has_trailer)
{
        for (size_t i = 0; i < m->mark_count; i++) {
                m->marks[i].mark.part_index += a->plan.part_count;
                add_mark(a, &m->marks[i]);
        }
        if (!a->first_coder.class) {
                a->first_coder = a->coder;
                a->first_part = m->parts[0];
        }
        a->has_pieces |= m->has_pieces;
        a->has_several_coders |=
                a->coder.class != a->first_coder.class || a->coder.level != a->first_coder.level;
        for (size_t i = 0; i < m->part_count; i++) {
                struct cas_gzip_part *part = &m->parts[i].part;
                part->has_trailer = has_trailer && i + 1 == m->part_count;
                cas_gzipplan_add(&a->plan, part, a->prefix.data, i == 0 ? a->prefix.len_bytes : 0,
                                 m->parts[i].first_end_is_open);
        }
        cas_buf_clear(&a->prefix);
}

/* The trailer is made of the content, unless a mark is within it or it is wrong. */
static int take_trailer(struct analysis *a, const struct cas_gzip_member *m, bool *out_computed,
                        struct cas_err *err)
{
        const uint8_t *data;
        size_t have;
        if (cas_gzipreplay_peek(a->replay, CAS_GZIP_TRAILER_BYTES, &data, &have, err) < 0)
                return -(int)err->code;
        if (have < CAS_GZIP_TRAILER_BYTES)
                return cut_off(err);
        *out_computed = m->part_count > 0 && m->mark_count == 0 && cas_get_le32(data) == m->crc &&
                        cas_get_le32(data + 4) == (uint32_t)m->plain_bytes;
        if (*out_computed)
                cas_gzipreplay_skip(a->replay, CAS_GZIP_TRAILER_BYTES);
        return 0;
}

static int analyse_member(struct analysis *a, struct cas_gzip_member *m, bool *fits,
                          struct cas_err *err)
{
        size_t header_bytes;
        bool has_trailer = false;
        if (take_header(a, &header_bytes, err) < 0)
                return -(int)err->code;
        if (a->prefix.len_bytes > CAS_GZIP_PREFIX_BYTES_MAX - VERBATIM_MEMBER_BYTES)
                return cas_fail(err, CAS_E_LIMIT, "gzip: a header of %zu bytes",
                                a->prefix.len_bytes);
        uint64_t stream_at = cas_gzipreplay_offset(a->replay);
        mark_member(a);
        *fits = false;
        if (a->coder.class && attempt(a, stream_at, a->coder, a->framing, m, fits, err) < 0)
                return -(int)err->code;
        if (!*fits && search(a, stream_at, header_bytes, m, fits, err) < 0)
                return -(int)err->code;
        if (!*fits && take_verbatim(a, stream_at, m, fits, err) < 0)
                return -(int)err->code;
        if (!*fits)
                return 0;
        if (take_trailer(a, m, &has_trailer, err) < 0)
                return -(int)err->code;
        if (m->part_count > 0)
                add_member(a, m, has_trailer);
        a->tar_at += m->plain_bytes;
        a->member_count++;
        /* Else the next part gives it. */
        return has_trailer ? 0 : take_bytes(a, CAS_GZIP_TRAILER_BYTES, err);
}

/* ---- the blob ---- */

static void flush_prefix(struct analysis *a)
{
        if (a->prefix.len_bytes > 0)
                cas_gzipplan_add(&a->plan, &(struct cas_gzip_part){0}, a->prefix.data,
                                 a->prefix.len_bytes, false);
        cas_buf_clear(&a->prefix);
}

/* Flushed or split too irregularly. */
static bool is_plan_too_long(const struct analysis *a)
{
        return a->plan.bytes.len_bytes + a->plan.lengths.len_bytes >
               PLAN_BYTES_FREE + a->in->blob_bytes / PLAN_SHARE;
}

static int analyse_tail(struct analysis *a, bool *fits, struct cas_err *err)
{
        const uint8_t *data;
        size_t have;
        flush_prefix(a);
        for (;;) {
                if (cas_gzipreplay_peek(a->replay, TAIL_STEP_BYTES, &data, &have, err) < 0)
                        return -(int)err->code;
                if (have == 0)
                        return 0;
                if (take_bytes(a, cas_min_u64(have, TAIL_STEP_BYTES), err) < 0)
                        return -(int)err->code;
                flush_prefix(a);
                if (is_plan_too_long(a)) {
                        *fits = false;
                        return 0;
                }
        }
}

static int analyse_members(struct analysis *a, bool *fits, struct cas_err *err)
{
        cas_cleanup_gzip_member struct cas_gzip_member m = {0};
        const uint8_t *data;
        size_t have;
        do {
                if (analyse_member(a, &m, fits, err) < 0)
                        return -(int)err->code;
                if (*fits && is_plan_too_long(a))
                        *fits = false;
                if (!*fits)
                        return 0;
                if (cas_gzipreplay_peek(a->replay, 2, &data, &have, err) < 0)
                        return -(int)err->code;
        } while (have >= 2 && data[0] == 0x1f && data[1] == 0x8b);
        return analyse_tail(a, fits, err);
}

static void describe(const struct analysis *a, struct cas_wrap_report *report)
{
        const struct cas_gzip_coder *c = &a->first_coder;
        const struct cas_gzip_part *p = &a->first_part.part;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (c->class)
                cas_buf_printf(&text, "%s level %d", c->class->name, c->level);
        else
                cas_buf_append_str(&text, "gzip without content");
        if (a->has_pieces)
                cas_buf_printf(&text, ", pieces of %" PRIu64 " KiB", p->length_bytes / CAS_KIB);
        if (a->member_count > 1)
                cas_buf_printf(&text, ", %" PRIu64 " members", a->member_count);
        if (a->has_several_coders)
                cas_buf_append_str(&text, ", and others");
        size_t len = cas_min_u64(text.len_bytes, sizeof(report->text) - 1);
        memcpy(report->text, text.data, len);
        report->text[len] = '\0';
}

static int write_recipe(struct analysis *a, struct cas_recipe_writer *w, struct cas_err *err)
{
        struct cas_recipe_mark mark = {0};
        cas_gzipplan_finish(&a->plan);
        if (cas_spool_append(w->sections[CAS_RECIPE_WRAP], a->plan.bytes.data,
                             a->plan.bytes.len_bytes, err) < 0 ||
            cas_recipe_writer_mark(w, &mark, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < a->mark_count; i++) {
                mark = (struct cas_recipe_mark){.blob_offset = a->marks[i].blob_offset,
                                                .tar_offset = a->marks[i].tar_offset};
                cas_gzip_mark_encode(&a->marks[i].mark, &mark);
                if (cas_recipe_writer_mark(w, &mark, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

int cas_gzip_analyse(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                     enum cas_wrap_kind *out_kind, struct cas_wrap_report *report,
                     struct cas_err *err)
{
        __attribute__((cleanup(analysis_release))) struct analysis a = {
                .in = in, .spacing = CAS_RECIPE_MARK_SPACING_BYTES};
        bool fits = false;
        *report = (struct cas_wrap_report){0};
        cas_gzipplan_init(&a.plan);
        a.replay = cas_gzipreplay_new(in);
        if (analyse_members(&a, &fits, err) < 0)
                return -(int)err->code;
        if (!fits) {
                *out_kind = CAS_WRAP_GZIP_DIFF;
                return cas_gzipdiff_analyse(in, w, report, err);
        }
        describe(&a, report);
        *out_kind = CAS_WRAP_GZIP_REPLAY;
        return write_recipe(&a, w, err);
}
