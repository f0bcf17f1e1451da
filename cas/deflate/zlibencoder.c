/* SPDX-License-Identifier: Apache-2.0 */
/* The zlib family's encoders as encoder.h wants them. */
#include "cas/deflate/zlib_int.h"

enum { STORED_BYTES_MAX = 65535 };

/* ---- output ---- */

static void output_begin(struct cas_zlib_encoder *e, struct cas_buf *out)
{
        e->bits.out = out;
        e->out_begin = out->len_bytes;
}

static void output_end(struct cas_zlib_encoder *e)
{
        cas_bitwriter_drain(&e->bits);
        e->out_bytes += e->bits.out->len_bytes - e->out_begin;
        e->bits.out = NULL;
}

/* ---- marks ---- */

/* A mark's state: flags (bit 0: pending; bits 1 and 2: waiting), bit_count, bits, end_count, pos
 * and history as le32, match_len and match_distance as le16, ends as le32 each. */
#define MARK_STATE_BYTES 16
_Static_assert(MARK_STATE_BYTES + 4 * CAS_ZLIB_MARK_ENDS_MAX <= CAS_DEFLATE_STATE_BYTES_MAX, "");

/* The ends that the fast levels' chains depend on. False: too many to tell. */
static bool mark_ends(const struct cas_zlib_encoder *e, struct cas_zlib_mark *m)
{
        uint64_t count = 0;
        for (; count < e->end_count; count++) {
                if (count == CAS_COUNT(e->ends))
                        return false;
                uint64_t end = e->ends[(e->end_count - 1 - count) % CAS_COUNT(e->ends)];
                if (m->in_bytes - end > m->history)
                        break;
        }
        if (count > CAS_ZLIB_MARK_ENDS_MAX)
                return false;
        m->end_count = (uint8_t)count;
        for (uint64_t i = 0; i < count; i++)
                m->ends[i] = (uint32_t)(m->in_bytes -
                                        e->ends[(e->end_count - count + i) % CAS_COUNT(e->ends)]);
        return true;
}

void cas_zlib_set_mark(struct cas_zlib_encoder *e, uint32_t pos, bool is_pending)
{
        if (e->is_rehearsing)
                return;
        /* Near the end of GNU gzip's input, and just behind a slide, the buffer holds more than can
         * be made again from the input before the mark. */
        if (e->is_at_end || (e->flavour.is_gnu && e->origin != 0 && pos < CAS_ZLIB_WINDOW_BYTES))
                return;
        cas_bitwriter_drain(&e->bits);
        uint64_t in_bytes = e->origin + pos;
        struct cas_zlib_mark m = {
                .in_bytes = in_bytes,
                .out_bytes = e->out_bytes + e->bits.out->len_bytes - e->out_begin,
                .pos = pos,
                .history = (uint32_t)cas_min_u64(in_bytes - e->history, CAS_ZLIB_RESTART_BYTES),
                .bits = (uint8_t)e->bits.bits,
                .bit_count = (uint8_t)e->bits.count,
                .is_pending = is_pending,
                .match_len = 2,
        };
        if (is_pending && e->match_len >= 3) {
                m.match_len = (uint16_t)e->match_len;
                m.match_distance = (uint16_t)(pos - e->match_start);
        }
        if (e->base.level > 0 && e->base.level <= CAS_ZLIB_LEVEL_FAST_MAX) {
                /* The strings of a match that was just skipped are never inserted. */
                uint32_t waiting = e->insert_from < pos       ? pos - e->insert_from
                                   : e->skipped_to == pos     ? 0
                                   : e->skipped_to + 1 == pos ? 1
                                                              : 2;
                m.waiting = (uint8_t)(waiting > pos ? pos : waiting);
                if (!mark_ends(e, &m))
                        return;
        }
        e->mark = m;
        e->has_mark = true;
}

static bool encoder_mark(const struct cas_deflate_encoder *base, struct cas_deflate_mark *out)
{
        const struct cas_zlib_encoder *e = (const struct cas_zlib_encoder *)base;
        if (!e->has_mark)
                return false;
        const struct cas_zlib_mark *m = &e->mark;
        *out = (struct cas_deflate_mark){
                .in_bytes = m->in_bytes,
                .out_bytes = m->out_bytes,
                .state_bytes = (uint8_t)(MARK_STATE_BYTES + 4 * m->end_count),
        };
        uint8_t *s = out->state;
        s[0] = (uint8_t)(m->is_pending | m->waiting << 1);
        s[1] = m->bit_count;
        s[2] = m->bits;
        s[3] = m->end_count;
        cas_put_le32(s + 4, m->pos);
        cas_put_le32(s + 8, m->history);
        cas_put_le16(s + 12, m->match_len);
        cas_put_le16(s + 14, m->match_distance);
        for (uint32_t i = 0; i < m->end_count; i++)
                cas_put_le32(s + MARK_STATE_BYTES + (size_t)4 * i, m->ends[i]);
        return true;
}

/* Whatever is in it, the encoder stays within its buffers. */
static int mark_read(const struct cas_deflate_mark *mark, size_t window_bytes,
                     struct cas_zlib_mark *out, struct cas_err *err)
{
        const uint8_t *s = mark->state;
        if (mark->state_bytes < MARK_STATE_BYTES || s[3] > CAS_ZLIB_MARK_ENDS_MAX ||
            mark->state_bytes != MARK_STATE_BYTES + 4 * s[3])
                return cas_fail(err, CAS_E_INVALID, "zlib mark of %u bytes", mark->state_bytes);
        *out = (struct cas_zlib_mark){
                .in_bytes = mark->in_bytes,
                .out_bytes = mark->out_bytes,
                .is_pending = s[0] & 1,
                .waiting = s[0] >> 1,
                .bit_count = s[1],
                .bits = s[2],
                .end_count = s[3],
                .pos = cas_get_le32(s + 4),
                .history = cas_get_le32(s + 8),
                .match_len = cas_get_le16(s + 12),
                .match_distance = cas_get_le16(s + 14),
        };
        if (out->bit_count > 7 || out->bits >> out->bit_count != 0)
                return cas_fail(err, CAS_E_INVALID, "zlib mark with wrong bits");
        if (out->pos >= CAS_ZLIB_BUFFER_BYTES - 1 || out->history > window_bytes ||
            out->pos > out->history || out->waiting > 2 || out->waiting > out->pos)
                return cas_fail(err, CAS_E_INVALID, "zlib mark outside its window");
        bool has_match = out->match_distance != 0;
        if (out->match_len > CAS_ZLIB_MATCH_MAX || has_match != (out->match_len >= 3) ||
            out->match_len < 2 || out->match_distance > CAS_ZLIB_DISTANCE_MAX ||
            out->match_distance > out->pos || (has_match && !out->is_pending))
                return cas_fail(err, CAS_E_INVALID, "zlib mark with a wrong match");
        for (uint32_t i = 0, before = out->history; i < out->end_count; before = out->ends[i++]) {
                out->ends[i] = cas_get_le32(s + MARK_STATE_BYTES + (size_t)4 * i);
                if (out->ends[i] > before)
                        return cas_fail(err, CAS_E_INVALID, "zlib mark with wrong ends");
        }
        return 0;
}

/* ---- runs ---- */

static bool is_fast(const struct cas_zlib_encoder *e)
{
        return e->base.level <= CAS_ZLIB_LEVEL_FAST_MAX;
}

/* All of the buffer is forgotten. */
static void forget_strings(struct cas_zlib_encoder *e)
{
        if (is_fast(e))
                cas_zlib_window_forget(&e->window);
        else
                cas_zlib_chains_forget(&e->chains, 0);
        e->fill = e->pos = e->skipped_to = 0;
        e->insert_from = CAS_ZLIB_INSERT_NONE;
        e->block_start = 0;
        e->end_count = 0;
}

static void reset(struct cas_zlib_encoder *e)
{
        cas_zlib_block_clear(&e->block);
        forget_strings(e);
        if (e->flavour.is_gnu)
                memset(e->window.bytes, 0, CAS_ZLIB_BUFFER_BYTES);
        e->bits = (struct cas_bitwriter){0};
        e->out_bytes = e->origin = e->history = 0;
        e->match_start = e->split_at = 0;
        e->match_len = 2;
        e->is_pending = e->is_at_end = e->is_rehearsing = e->is_cut = e->has_mark = false;
}

/* At an empty window: what came before the input, all of it inserted. */
static void take_dictionary(struct cas_zlib_encoder *e, const uint8_t *dictionary, uint32_t len)
{
        memcpy(e->window.bytes + e->fill, dictionary, len);
        e->insert_from = e->fill;
        e->fill += len;
        e->pos = e->fill;
}

static void encoder_begin(struct cas_deflate_encoder *base, const uint8_t *dictionary, size_t len)
{
        struct cas_zlib_encoder *e = (struct cas_zlib_encoder *)base;
        reset(e);
        if (len > 0 && !e->flavour.is_gnu && base->level > 0) {
                size_t used = cas_min_u64(len, CAS_ZLIB_WINDOW_BYTES);
                take_dictionary(e, dictionary + len - used, (uint32_t)used);
                e->origin = e->history = 0 - (uint64_t)used;
        }
        cas_zlib_begin_block(e, e->pos);
}

/* Level 0 keeps up to a block's bytes in the window, since the last one may be full, too. */
static void write_stored(struct cas_zlib_encoder *e, bool is_final)
{
        cas_zlib_write_stored(&e->bits, e->window.bytes, e->fill, is_final);
        e->origin += e->fill;
        e->fill = 0;
        if (!is_final)
                cas_zlib_set_mark(e, 0, false);
}

static void encoder_write(struct cas_deflate_encoder *base, const uint8_t *data, size_t len,
                          struct cas_buf *out)
{
        struct cas_zlib_encoder *e = (struct cas_zlib_encoder *)base;
        uint32_t room = base->level == 0 ? STORED_BYTES_MAX : CAS_ZLIB_BUFFER_BYTES;
        output_begin(e, out);
        while (len > 0) {
                if (base->level == 0 && e->fill == room)
                        write_stored(e, false);
                size_t n = cas_min_u64(len, room - e->fill);
                memcpy(e->window.bytes + e->fill, data, n);
                data += n;
                len -= n;
                e->fill += (uint32_t)n;
                if (base->level > 0)
                        cas_zlib_deflate(e, false);
        }
        output_end(e);
}

/* ---- ends ---- */

/* Fills the last byte up with empty fixed blocks when the number of bits allows it, else with an
 * empty stored one. */
static void end_pigz(struct cas_zlib_encoder *e)
{
        cas_bitwriter_drain(&e->bits);
        if (e->bits.count & 1)
                cas_zlib_write_stored(&e->bits, NULL, 0, false);
        while (e->bits.count != 0)
                cas_zlib_write_empty_fixed(&e->bits);
}

static void end_blocks(struct cas_zlib_encoder *e, bool is_final)
{
        if (e->base.level == 0) {
                if (e->fill > 0 || is_final)
                        write_stored(e, is_final);
                return;
        }
        cas_zlib_deflate(e, true);
        if (is_final || e->block.token_count > 0)
                cas_zlib_close_block(e, e->pos, is_final);
}

/* What is known of the input before an end, and how. */
static void end_piece(struct cas_zlib_encoder *e, bool is_full)
{
        uint64_t at = e->origin + e->pos;
        if (is_full) {
                forget_strings(e);
                e->origin = e->history = at;
                return;
        }
        e->ends[e->end_count++ % CAS_COUNT(e->ends)] = at;
        e->insert_from = e->pos - (e->pos < 2 ? e->pos : 2);
}

static void encoder_end(struct cas_deflate_encoder *base, enum cas_deflate_end end,
                        struct cas_buf *out)
{
        struct cas_zlib_encoder *e = (struct cas_zlib_encoder *)base;
        cas_assert((base->class->ends >> end & 1) != 0);
        output_begin(e, out);
        end_blocks(e, end == CAS_DEFLATE_END_FINISH);
        switch (end) {
        case CAS_DEFLATE_END_SYNC:
                cas_zlib_write_stored(&e->bits, NULL, 0, false);
                break;
        case CAS_DEFLATE_END_FULL:
                cas_zlib_write_stored(&e->bits, NULL, 0, false);
                break;
        case CAS_DEFLATE_END_PARTIAL:
                cas_zlib_write_empty_fixed(&e->bits);
                break;
        case CAS_DEFLATE_END_PIGZ:
                end_pigz(e);
                break;
        case CAS_DEFLATE_END_NONE:
        case CAS_DEFLATE_END_FINISH:
        case CAS_DEFLATE_END_BLOCK:
                break;
        }
        if (end != CAS_DEFLATE_END_FINISH) {
                end_piece(e, end == CAS_DEFLATE_END_FULL);
                cas_zlib_set_mark(e, e->pos, false);
        }
        output_end(e);
}

/* ---- restart ---- */

/* Every string of the window is known: they are entered again with the next. */
static void refill_slow(struct cas_zlib_encoder *e, const struct cas_zlib_mark *m,
                        const uint8_t *window, size_t len)
{
        uint32_t from = m->pos > CAS_ZLIB_WINDOW_BYTES ? m->pos - CAS_ZLIB_WINDOW_BYTES : 0;
        memcpy(e->window.bytes + from, window + len - (m->pos - from), m->pos - from);
        cas_zlib_chains_forget(&e->chains, from);
        e->fill = e->pos = m->pos;
}

/* Runs over input whose tokens do not count. */
static void rehearse(struct cas_zlib_encoder *e, const uint8_t *data, size_t len)
{
        while (len > 0) {
                size_t n = cas_min_u64(len, CAS_ZLIB_BUFFER_BYTES - e->fill);
                memcpy(e->window.bytes + e->fill, data, n);
                data += n;
                len -= n;
                e->fill += (uint32_t)n;
                cas_zlib_deflate(e, false);
        }
        cas_zlib_deflate(e, true);
}

/* Which strings were inserted depends on the matches that were taken, so the encoder is run over
 * what came before the mark. Begun in the middle it comes to the same matches, and in time to the
 * same chains, as a rule. */
static int refill_fast(struct cas_zlib_encoder *e, const struct cas_zlib_mark *m,
                       const uint8_t *window, size_t len, struct cas_err *err)
{
        uint32_t left = m->history;
        const uint8_t *data = window + len - left;
        e->is_rehearsing = true;
        e->fill = e->pos = (m->pos - m->history) % CAS_ZLIB_WINDOW_BYTES;
        cas_zlib_begin_block(e, e->pos);
        if (m->history > m->in_bytes) {
                uint32_t dictionary = m->history - (uint32_t)m->in_bytes;
                if (dictionary > CAS_ZLIB_WINDOW_BYTES)
                        return cas_fail(err, CAS_E_INVALID, "zlib mark with a long dictionary");
                take_dictionary(e, data, dictionary);
                cas_zlib_begin_block(e, e->pos);
                data += dictionary;
                left -= dictionary;
        }
        for (uint32_t i = 0; i <= m->end_count; i++) {
                uint32_t end = i < m->end_count ? m->ends[i] : 0;
                if (end > left)
                        return cas_fail(err, CAS_E_INVALID, "zlib mark with an early end");
                e->is_cut = i == m->end_count;
                rehearse(e, data, left - end);
                if (!e->is_cut)
                        end_piece(e, false);
                data += left - end;
                left = end;
        }
        if (e->pos != m->pos)
                return cas_fail(err, CAS_E_INVALID, "zlib mark at %u, window ends at %u", m->pos,
                                e->pos);
        e->is_rehearsing = e->is_cut = false;
        e->insert_from = m->pos - m->waiting;
        cas_zlib_block_clear(&e->block);
        return 0;
}

static int encoder_restart(struct cas_deflate_encoder *base, const struct cas_deflate_mark *mark,
                           const uint8_t *window, size_t len, struct cas_err *err)
{
        struct cas_zlib_encoder *e = (struct cas_zlib_encoder *)base;
        struct cas_zlib_mark m = {0};
        reset(e);
        int rc = mark_read(mark, len, &m, err);
        if (rc < 0)
                return rc;
        if (!is_fast(e))
                refill_slow(e, &m, window, len);
        else if (base->level > 0 && (rc = refill_fast(e, &m, window, len, err)) < 0)
                return rc;
        e->origin = m.in_bytes - m.pos;
        e->history = m.in_bytes - m.history;
        e->end_count = m.end_count;
        for (uint32_t i = 0; i < m.end_count; i++)
                e->ends[i] = m.in_bytes - m.ends[i];
        e->out_bytes = m.out_bytes;
        e->bits.bits = m.bits;
        e->bits.count = m.bit_count;
        if (m.is_pending) {
                e->is_pending = true;
                e->pos++;
                e->match_len = m.match_len;
                e->match_start = m.pos - m.match_distance;
        }
        cas_zlib_begin_block(e, m.pos);
        /* GNU gzip's buffer has the bytes of its last round behind the input. */
        if (e->flavour.is_gnu && e->origin != 0 && m.pos >= CAS_ZLIB_WINDOW_BYTES)
                memcpy(e->window.bytes + m.pos, e->window.bytes + m.pos - CAS_ZLIB_WINDOW_BYTES,
                       CAS_ZLIB_BUFFER_BYTES - m.pos);
        return 0;
}

static void encoder_free(struct cas_deflate_encoder *base)
{
        struct cas_zlib_encoder *e = (struct cas_zlib_encoder *)base;
        cas_zlib_window_release(&e->window);
        cas_zlib_chains_release(&e->chains);
        cas_zlib_block_release(&e->block);
        free(e);
}

struct cas_deflate_encoder *cas_zlib_encoder_create(const struct cas_deflate_class *class,
                                                    int level,
                                                    const struct cas_zlib_flavour *flavour)
{
        static const struct cas_deflate_encoder_ops ops = {
                .begin = encoder_begin,
                .write = encoder_write,
                .end = encoder_end,
                .mark = encoder_mark,
                .restart = encoder_restart,
                .free = encoder_free,
        };
        cas_assert(level >= class->level_min && level <= class->level_max);
        struct cas_zlib_encoder *e = cas_xcalloc(1, sizeof(*e));
        e->base = (struct cas_deflate_encoder){.ops = &ops, .class = class, .level = level};
        e->flavour = *flavour;
        e->level = cas_zlib_levels[level];
        cas_zlib_window_init(&e->window, flavour->hash_bits);
        if (!is_fast(e))
                cas_zlib_chains_init(&e->chains, flavour->hash_bits);
        cas_zlib_block_init(&e->block, flavour->token_max);
        encoder_begin(&e->base, NULL, 0);
        return &e->base;
}
