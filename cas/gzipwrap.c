/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of replayed gzip blobs: follows the plan, part by part, and feeds the tar stream to
 * the encoders that it names. Memory: an encoder, its output of one step, a window. */
#include <isa-l/crc.h>

#include "cas/gzipmark_int.h"
#include "cas/gzipplan_int.h"
#include "cas/wrap_int.h"

#define STEP_BYTES (64 * CAS_KIB)
#define IDLE_PARTS_MAX 1024 /* in a row, which make nothing of nothing */

enum phase {
        PHASE_NEXT,   /* a part is to be taken from the plan */
        PHASE_PREFIX, /* of the present part … */
        PHASE_BEGIN,
        PHASE_FEED,
        PHASE_ENDS,
        PHASE_OVER /* the plan is */
};

struct replay_reader {
        struct cas_wrap_reader base;
        struct cas_recipe *recipe; /* borrowed */
        cas_source_fn tar;
        void *tar_arg;
        uint64_t left_bytes; /* of the blob, not given yet */
        struct cas_gzipplan_reader plan;
        struct cas_gzip_part part;
        enum phase phase;
        uint64_t left_of_phase;              /* bytes of the prefix, or to feed */
        struct cas_deflate_encoder *encoder; /* NULL: none yet */
        bool is_running;                     /* the encoder has begun and not finished */
        unsigned idle_parts;
        bool is_idle; /* the present part has made nothing so far */

        uint8_t history[CAS_GZIP_DICTIONARY_BYTES_MAX]; /* the tar bytes before … */
        size_t history_bytes;                           /* … as many as there are */
        bool knows_crc;                                 /* since the last prefix */
        uint32_t crc;
        uint64_t crc_bytes;

        struct cas_buf out; /* made, not given yet: from out_at on */
        size_t out_at;
        uint8_t *step; /* STEP_BYTES */
};

static int bad_recipe(struct cas_err *err, const char *what)
{
        return cas_fail(err, CAS_E_CORRUPT, "gzip recipe: %s", what);
}

static void replay_close(struct cas_wrap_reader *wr)
{
        struct replay_reader *g = (struct replay_reader *)wr;
        cas_deflate_encoder_free(g->encoder);
        cas_gzipplan_reader_release(&g->plan);
        cas_buf_release(&g->out);
        free(g->step);
        free(g);
}

/* ---- tar ---- */

/* Exactly len bytes into step. */
static int read_tar(struct replay_reader *g, size_t len, struct cas_err *err)
{
        for (size_t at = 0; at < len;) {
                size_t got = 0;
                if (g->tar(g->tar_arg, g->step + at, len - at, &got, err) < 0)
                        return -(int)err->code;
                if (got == 0)
                        return bad_recipe(err, "the tar stream ends too early");
                at += got;
        }
        return 0;
}

static void remember(struct replay_reader *g, const uint8_t *data, size_t len)
{
        if (len >= sizeof(g->history)) {
                memcpy(g->history, data + len - sizeof(g->history), sizeof(g->history));
                g->history_bytes = sizeof(g->history);
                return;
        }
        size_t kept = cas_min_u64(g->history_bytes, sizeof(g->history) - len);
        memmove(g->history, g->history + g->history_bytes - kept, kept);
        memcpy(g->history + kept, data, len);
        g->history_bytes = kept + len;
}

/* ---- parts ---- */

static int take_coder(struct replay_reader *g, struct cas_err *err)
{
        const struct cas_gzip_part *part = &g->part;
        struct cas_deflate_encoder *e = g->encoder;
        if (e && e->class->id == part->class_id && e->level == part->level)
                return 0;
        const struct cas_deflate_class *class = cas_deflate_class_by_id(part->class_id);
        if (!class)
                return cas_fail(err, CAS_E_UNSUPPORTED, "gzip recipe: unknown encoder class %u",
                                part->class_id);
        cas_deflate_encoder_free(e);
        g->encoder = NULL;
        g->is_running = false;
        /* -1 is another name of the usual level: encoders are not made for it. */
        if (part->level >= class->level_min && part->level <= class->level_max && part->level != -1)
                g->encoder = class->create(class, part->level);
        return g->encoder ? 0 : bad_recipe(err, "no such level");
}

static int begin_part(struct replay_reader *g, struct cas_err *err)
{
        const struct cas_gzip_part *part = &g->part;
        bool is_used = part->class_id != 0 &&
                       (part->begins || part->end_count > 0 || part->length_bytes > 0);
        if (part->class_id == 0 && (part->begins || part->end_count > 0))
                return bad_recipe(err, "a part without an encoder begins or ends it");
        if (is_used && take_coder(g, err) < 0)
                return -(int)err->code;
        if (part->begins) {
                if (part->dictionary_bytes > g->history_bytes)
                        return bad_recipe(err, "a dictionary of more than there was");
                g->encoder->ops->begin(g->encoder,
                                       part->dictionary_bytes ? g->history + g->history_bytes -
                                                                        part->dictionary_bytes
                                                              : NULL,
                                       part->dictionary_bytes);
                g->is_running = true;
        }
        if (is_used && !g->is_running)
                return bad_recipe(err, "an encoder goes on that has not begun");
        return 0;
}

static int feed(struct replay_reader *g, struct cas_err *err)
{
        size_t len = (size_t)cas_min_u64(g->left_of_phase, STEP_BYTES);
        if (len == 0)
                return 0;
        if (read_tar(g, len, err) < 0)
                return -(int)err->code;
        g->left_of_phase -= len;
        g->crc = crc32_gzip_refl(g->crc, g->step, len);
        g->crc_bytes += len;
        remember(g, g->step, len);
        g->is_idle = false;
        if (g->part.class_id != 0)
                g->encoder->ops->write(g->encoder, g->step, len, &g->out);
        return 0;
}

static int end_part(struct replay_reader *g, struct cas_err *err)
{
        const struct cas_gzip_part *part = &g->part;
        for (unsigned i = 0; i < part->end_count; i++) {
                enum cas_deflate_end end = (enum cas_deflate_end)part->ends[i];
                if (!g->is_running || !(g->encoder->class->ends >> end & 1))
                        return bad_recipe(err, "an end that the encoder does not have");
                g->encoder->ops->end(g->encoder, end, &g->out);
                g->is_running = end != CAS_DEFLATE_END_FINISH;
        }
        if (part->has_trailer) {
                if (!g->knows_crc)
                        return bad_recipe(err, "a mark within bytes of which a checksum is wanted");
                cas_buf_append_le32(&g->out, g->crc);
                cas_buf_append_le32(&g->out, (uint32_t)g->crc_bytes);
        }
        return 0;
}

static int next_part(struct replay_reader *g, struct cas_err *err)
{
        bool has;
        g->idle_parts = g->is_idle ? g->idle_parts + 1 : 0;
        if (g->idle_parts > IDLE_PARTS_MAX)
                return bad_recipe(err, "parts that make nothing");
        if (cas_gzipplan_reader_next(&g->plan, &g->part, &has, err) < 0)
                return -(int)err->code;
        g->is_idle = true;
        g->phase = has ? PHASE_PREFIX : PHASE_OVER;
        g->left_of_phase = has ? g->part.prefix_bytes : 0;
        return 0;
}

static int copy_prefix(struct replay_reader *g, struct cas_err *err)
{
        size_t len = (size_t)cas_min_u64(g->left_of_phase, STEP_BYTES);
        if (len == 0)
                return 0;
        cas_buf_reserve(&g->out, len);
        if (cas_recipe_read(g->recipe, CAS_RECIPE_WRAP,
                            g->part.prefix_at + g->part.prefix_bytes - g->left_of_phase,
                            g->out.data + g->out.len_bytes, len, err) < 0)
                return -(int)err->code;
        g->out.len_bytes += len;
        g->left_of_phase -= len;
        g->knows_crc = true;
        g->crc = 0;
        g->crc_bytes = 0;
        return 0;
}

/* One step of the present phase; appends to `out` what it makes. */
static int step(struct replay_reader *g, struct cas_err *err)
{
        switch (g->phase) {
        case PHASE_NEXT:
                return next_part(g, err);
        case PHASE_PREFIX:
                if (copy_prefix(g, err) < 0)
                        return -(int)err->code;
                if (g->left_of_phase == 0)
                        g->phase = PHASE_BEGIN;
                break;
        case PHASE_BEGIN:
                if (begin_part(g, err) < 0)
                        return -(int)err->code;
                g->left_of_phase = g->part.length_bytes;
                g->phase = PHASE_FEED;
                break;
        case PHASE_FEED:
                if (feed(g, err) < 0)
                        return -(int)err->code;
                if (g->left_of_phase == 0)
                        g->phase = PHASE_ENDS;
                break;
        case PHASE_ENDS:
                if (end_part(g, err) < 0)
                        return -(int)err->code;
                g->phase = PHASE_NEXT;
                break;
        case PHASE_OVER:
                return bad_recipe(err, "it makes less than the blob");
        }
        if (g->out.len_bytes > 0)
                g->is_idle = false;
        return 0;
}

/* ---- the wrap ---- */

/* Takes up a part that has begun before the mark. */
static int restart_within(struct replay_reader *g, const struct cas_gzip_mark *m,
                          const uint8_t *window, struct cas_err *err)
{
        bool has;
        if (cas_gzipplan_reader_next(&g->plan, &g->part, &has, err) < 0)
                return -(int)err->code;
        if (!has || g->part.class_id == 0 || m->fed_bytes > g->part.length_bytes)
                return bad_recipe(err, "a mark behind the end of its part");
        if (take_coder(g, err) < 0)
                return -(int)err->code;
        if (g->encoder->ops->restart(g->encoder, &m->encoder,
                                     window + m->window_bytes - m->seen_bytes, m->seen_bytes,
                                     err) < 0)
                return -(int)err->code;
        g->is_running = true;
        g->phase = PHASE_FEED;
        g->left_of_phase = g->part.length_bytes - m->fed_bytes;
        return 0;
}

static int begin_at_mark(struct replay_reader *g, const struct cas_recipe_mark *mark,
                         struct cas_err *err)
{
        struct cas_gzip_mark m;
        if (cas_gzip_mark_decode(mark, &m, err) < 0)
                return -(int)err->code;
        cas_cleanup_free uint8_t *window = cas_xmalloc(m.window_bytes + 1);
        for (size_t at = 0; at < m.window_bytes;) {
                size_t len = cas_min_u64(m.window_bytes - at, STEP_BYTES);
                if (read_tar(g, len, err) < 0)
                        return -(int)err->code;
                memcpy(window + at, g->step, len);
                at += len;
        }
        remember(g, window, m.window_bytes);
        if (cas_gzipplan_reader_skip(&g->plan, m.part_index, err) < 0)
                return -(int)err->code;
        return m.is_within ? restart_within(g, &m, window, err) : 0;
}

static int replay_open(struct cas_recipe *r, const struct cas_recipe_mark *mark, cas_source_fn tar,
                       void *tar_arg, struct cas_wrap_reader **out, struct cas_err *err)
{
        uint64_t blob_bytes = cas_recipe_head(r)->blob_bytes;
        if (mark->blob_offset > blob_bytes)
                return bad_recipe(err, "a mark behind the end of the blob");
        struct replay_reader *g = cas_xcalloc(1, sizeof(*g));
        g->base.ops = &cas_wrap_gzip_replay;
        g->recipe = r;
        g->tar = tar;
        g->tar_arg = tar_arg;
        g->left_bytes = blob_bytes - mark->blob_offset;
        g->step = cas_xmalloc(STEP_BYTES);
        if (cas_gzipplan_reader_init(&g->plan, r, err) < 0 || begin_at_mark(g, mark, err) < 0) {
                replay_close(&g->base);
                return -(int)err->code;
        }
        *out = &g->base;
        return 0;
}

static int replay_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err)
{
        struct replay_reader *g = (struct replay_reader *)wr;
        *out_len = 0;
        if (len == 0 || g->left_bytes == 0)
                return 0;
        while (g->out_at == g->out.len_bytes) {
                g->out_at = 0;
                cas_buf_clear(&g->out);
                if (step(g, err) < 0)
                        return -(int)err->code;
                if (g->out.len_bytes > g->left_bytes)
                        return bad_recipe(err, "it makes more than the blob");
        }
        size_t n = cas_min_u64(len, g->out.len_bytes - g->out_at);
        memcpy(buf, g->out.data + g->out_at, n);
        g->out_at += n;
        g->left_bytes -= n;
        *out_len = n;
        return 0;
}

const struct cas_wrap_ops cas_wrap_gzip_replay = {
        .open = replay_open,
        .read = replay_read,
        .close = replay_close,
};
