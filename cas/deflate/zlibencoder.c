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

/* A mark's state: flags (bit 0: pending; bits 1 and 2: waiting), bit_count, bits, a zero, pos and
 * history as le32, match_len and match_distance as le16. */
#define MARK_STATE_BYTES 16

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
        uint32_t waiting = 0;
        if (e->insert_from < pos)
                waiting = pos - e->insert_from;
        else if (e->base.level <= CAS_ZLIB_LEVEL_FAST_MAX)
                waiting = e->skipped_to == pos ? 0 : e->skipped_to + 1 == pos ? 1 : 2;
        else
                waiting = 2;
        e->mark = (struct cas_zlib_mark){
                .in_bytes = in_bytes,
                .out_bytes = e->out_bytes + e->bits.out->len_bytes - e->out_begin,
                .pos = pos,
                .history = (uint32_t)cas_min_u64(in_bytes - e->history, CAS_ZLIB_RESTART_BYTES),
                .bits = (uint8_t)e->bits.bits,
                .bit_count = (uint8_t)e->bits.count,
                .waiting = (uint8_t)(waiting > pos ? pos : waiting),
                .is_pending = is_pending,
                .match_len = (uint16_t)(is_pending ? e->match_len : 2),
                .match_distance =
                        (uint16_t)(is_pending && e->match_len >= 3 ? pos - e->match_start : 0),
        };
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
                .state_bytes = MARK_STATE_BYTES,
        };
        out->state[0] = (uint8_t)(m->is_pending | m->waiting << 1);
        out->state[1] = m->bit_count;
        out->state[2] = m->bits;
        cas_put_le32(out->state + 4, m->pos);
        cas_put_le32(out->state + 8, m->history);
        cas_put_le16(out->state + 12, m->match_len);
        cas_put_le16(out->state + 14, m->match_distance);
        return true;
}

/* Whatever is in it, the encoder stays within its buffers. */
static int mark_read(const struct cas_deflate_mark *mark, size_t window_bytes,
                     struct cas_zlib_mark *out, struct cas_err *err)
{
        if (mark->state_bytes != MARK_STATE_BYTES)
                return cas_fail(err, CAS_E_INVALID, "zlib mark of %u bytes", mark->state_bytes);
        const uint8_t *s = mark->state;
        *out = (struct cas_zlib_mark){
                .in_bytes = mark->in_bytes,
                .out_bytes = mark->out_bytes,
                .is_pending = s[0] & 1,
                .waiting = s[0] >> 1,
                .bit_count = s[1],
                .bits = s[2],
                .pos = cas_get_le32(s + 4),
                .history = cas_get_le32(s + 8),
                .match_len = cas_get_le16(s + 12),
                .match_distance = cas_get_le16(s + 14),
        };
        if (out->bit_count > 7 || out->bits >> out->bit_count != 0 || s[3] != 0)
                return cas_fail(err, CAS_E_INVALID, "zlib mark with wrong bits");
        if (out->pos >= CAS_ZLIB_BUFFER_BYTES - 1 || out->history > window_bytes ||
            out->pos > out->history || out->waiting > 2 || out->waiting > out->pos)
                return cas_fail(err, CAS_E_INVALID, "zlib mark outside its window");
        bool has_match = out->match_distance != 0;
        if (out->match_len > CAS_ZLIB_MATCH_MAX || has_match != (out->match_len >= 3) ||
            out->match_len < 2 || out->match_distance > CAS_ZLIB_DISTANCE_MAX ||
            out->match_distance > out->pos || (has_match && !out->is_pending))
                return cas_fail(err, CAS_E_INVALID, "zlib mark with a wrong match");
        return 0;
}

/* ---- runs ---- */

static void reset(struct cas_zlib_encoder *e)
{
        cas_zlib_block_clear(&e->block);
        cas_zlib_window_forget(&e->window);
        if (e->flavour.is_gnu)
                memset(e->window.bytes, 0, CAS_ZLIB_BUFFER_BYTES);
        e->bits = (struct cas_bitwriter){0};
        e->out_bytes = e->origin = e->history = 0;
        e->fill = e->pos = e->skipped_to = e->match_start = 0;
        e->insert_from = CAS_ZLIB_INSERT_NONE;
        e->match_len = 2;
        e->is_pending = e->is_at_end = e->is_rehearsing = e->has_mark = false;
        e->block_start = 0;
        e->split_at = 0;
}

/* At an empty window: what came before the input, all of it inserted. */
static void take_dictionary(struct cas_zlib_encoder *e, const uint8_t *dictionary, uint32_t len)
{
        memcpy(e->window.bytes + e->fill, dictionary, len);
        uint32_t at = e->fill;
        e->fill += len;
        for (; at + 3 <= e->fill; at++)
                (void)cas_zlib_insert(&e->window, at);
        e->insert_from = at;
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

/* What was seen is not known any more. */
static void forget(struct cas_zlib_encoder *e)
{
        cas_zlib_window_forget(&e->window);
        e->origin += e->pos;
        e->history = e->origin;
        e->fill = e->pos = e->skipped_to = 0;
        e->insert_from = CAS_ZLIB_INSERT_NONE;
        e->block_start = 0;
}

static void end_blocks(struct cas_zlib_encoder *e, bool is_final)
{
        if (e->base.level == 0) {
                if (e->fill > 0 || is_final)
                        write_stored(e, is_final);
                return;
        }
        cas_zlib_deflate(e, true);
        e->insert_from = e->pos - (e->pos < 2 ? e->pos : 2);
        if (is_final || e->block.token_count > 0)
                cas_zlib_close_block(e, e->pos, is_final);
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
                forget(e);
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
        if (end != CAS_DEFLATE_END_FINISH)
                cas_zlib_set_mark(e, e->pos, false);
        output_end(e);
}

/* ---- restart ---- */

/* Every string of the window is inserted: its chains are as they were. */
static void refill_slow(struct cas_zlib_encoder *e, const struct cas_zlib_mark *m,
                        const uint8_t *window, size_t len)
{
        uint32_t from = m->pos > CAS_ZLIB_WINDOW_BYTES ? m->pos - CAS_ZLIB_WINDOW_BYTES : 0;
        uint8_t *bytes = e->window.bytes;
        memcpy(bytes + from, window + len - (m->pos - from), m->pos - from);
        for (uint32_t at = from; at + 3 <= m->pos; at++)
                (void)cas_zlib_insert(&e->window, at);
        e->fill = m->pos;
        e->pos = m->pos;
}

/* Which strings were inserted depends on the matches that were taken, so the encoder is run over
 * what came before the mark. Begun in the middle it comes to the same matches, and in time to the
 * same chains, as a rule. */
static int refill_fast(struct cas_zlib_encoder *e, const struct cas_zlib_mark *m,
                       const uint8_t *window, size_t len, struct cas_err *err)
{
        size_t left = m->history;
        const uint8_t *data = window + len - left;
        e->is_rehearsing = true;
        e->fill = e->pos = (m->pos - m->history) % CAS_ZLIB_WINDOW_BYTES;
        cas_zlib_begin_block(e, e->pos);
        if (m->history > m->in_bytes) {
                size_t dictionary = m->history - m->in_bytes;
                if (dictionary > CAS_ZLIB_WINDOW_BYTES)
                        return cas_fail(err, CAS_E_INVALID, "zlib mark with a long dictionary");
                take_dictionary(e, data, (uint32_t)dictionary);
                cas_zlib_begin_block(e, e->pos);
                data += dictionary;
                left -= dictionary;
        }
        while (left > 0) {
                size_t n = cas_min_u64(left, CAS_ZLIB_BUFFER_BYTES - e->fill);
                memcpy(e->window.bytes + e->fill, data, n);
                data += n;
                left -= n;
                e->fill += (uint32_t)n;
                cas_zlib_deflate(e, left == 0);
        }
        if (e->pos != m->pos)
                return cas_fail(err, CAS_E_INVALID, "zlib mark at %u, window ends at %u", m->pos,
                                e->pos);
        e->is_rehearsing = false;
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
        if (base->level > CAS_ZLIB_LEVEL_FAST_MAX)
                refill_slow(e, &m, window, len);
        else if (base->level > 0 && (rc = refill_fast(e, &m, window, len, err)) < 0)
                return rc;
        e->origin = m.in_bytes - m.pos;
        e->history = m.in_bytes - m.history;
        e->out_bytes = m.out_bytes;
        e->bits.bits = m.bits;
        e->bits.count = m.bit_count;
        e->insert_from = m.pos - m.waiting;
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
        cas_zlib_block_init(&e->block, flavour->token_max);
        encoder_begin(&e->base, NULL, 0);
        return &e->base;
}
