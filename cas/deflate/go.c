/* SPDX-License-Identifier: Apache-2.0 */
/* The class "go-1.26": Go's compress/flate up to Go 1.26, levels -2 (literals alone), 0 (stored),
 * 1 (go_fast.c) and 2 to 9 (go_chain.c).
 *
 * The original's output depends, very rarely, on how its caller cut the input: this is the one of
 * calls that fill its window. spec/deflate-classes.md */
#include "cas/deflate/go.h"
#include "cas/deflate/go_int.h"

#define SMALL_BYTES 128 /* level 1: a flush of less has no matches, and forgets */
#define TINY_BYTES 16   /* … and of so few is stored */
#define CUTS_MAX 48
/* Levels 1 to 3: input that is kept for proofs of marks, and how often there is one. */
#define RECENT_BYTES (4 * CAS_GO_RESTART_BYTES)
#define PIECE_BYTES 65536
#define PROOF_EVERY_BYTES (8 * CAS_GO_RESTART_BYTES)

struct go_encoder {
        struct cas_deflate_encoder base;
        struct cas_bitwriter bits;
        uint64_t out_bytes; /* of the run in earlier calls */
        size_t out_at;      /* where the present call's begin in bits.out */
        uint64_t in_bytes;  /* of the run that were taken */
        bool is_marked;
        struct cas_deflate_mark mark;
        /* Places in the run that a restart has to know, oldest first: flushes of levels 2 to 9,
         * ends of blocks of level 1. */
        uint64_t cuts[CUTS_MAX];
        unsigned cut_count;
        struct cas_go_chain *chain; /* levels 2 to 9 */
        struct cas_go_fast *fast;   /* level 1 */
        uint8_t *room;              /* levels below 2: bytes of the present block */
        size_t room_bytes;
        uint8_t *stored_room; /* levels 0 and -2 */
        /* Levels 1 to 3. What they find depends on all that was before: a restart with a part of
         * it nearly always comes to the same, and a mark is given where that was tried. */
        uint64_t start;  /* nothing before this matters (level 1) */
        uint8_t *recent; /* the latest input */
        size_t recent_bytes;
        uint64_t recent_end; /* in the run */
        uint64_t proof_next; /* no proof before this place */
        struct go_encoder *proof;
};
static struct cas_deflate_encoder *go_create(const struct cas_deflate_class *class, int level);
static int restore(struct go_encoder *g, const struct cas_deflate_mark *mark, const uint8_t *window,
                   size_t len, struct cas_err *err);

static struct go_encoder *go_of(struct cas_deflate_encoder *e)
{
        return (struct go_encoder *)e;
}

static void cut_note(struct go_encoder *g, uint64_t at)
{
        if (g->cut_count == CUTS_MAX) {
                memmove(g->cuts, g->cuts + 1, (CUTS_MAX - 1) * sizeof(g->cuts[0]));
                g->cut_count--;
        }
        g->cuts[g->cut_count++] = at;
}

static bool state_put(struct cas_deflate_mark *m, uint64_t n)
{
        do {
                if (m->state_bytes == CAS_DEFLATE_STATE_BYTES_MAX)
                        return false;
                m->state[m->state_bytes++] = (uint8_t)((n & 0x7f) | (n > 0x7f ? 0x80 : 0));
                n >>= 7;
        } while (n > 0);
        return true;
}

static uint64_t state_get(struct cas_cursor *c)
{
        uint64_t n = 0;
        for (unsigned shift = 0; shift < 63; shift += 7) {
                uint8_t byte = cas_cursor_u8(c);
                n |= (uint64_t)(byte & 0x7f) << shift;
                if (byte < 0x80)
                        return n;
        }
        c->failed = true;
        return 0;
}

static bool is_history_deep(const struct go_encoder *g)
{
        return g->base.level >= 1 && g->base.level <= 3;
}

static void recent_note(struct go_encoder *g, const uint8_t *data, size_t len)
{
        if (!g->recent)
                g->recent = cas_xmalloc(RECENT_BYTES);
        if (g->recent_bytes + len > RECENT_BYTES) {
                size_t keep = CAS_GO_RESTART_BYTES + 2 * PIECE_BYTES;
                memmove(g->recent, g->recent + g->recent_bytes - keep, keep);
                g->recent_bytes = keep;
        }
        memcpy(g->recent + g->recent_bytes, data, len);
        g->recent_bytes += len;
        g->recent_end += len;
}

/* Whether a restart from the mark comes to what is here now. */
static bool mark_prove(struct go_encoder *g, const struct cas_deflate_mark *m)
{
        struct cas_err err = CAS_ERR_INIT;
        size_t behind = (size_t)(g->recent_end - m->in_bytes);
        if (m->in_bytes < g->proof_next || g->recent_bytes < behind + CAS_GO_RESTART_BYTES)
                return false;
        if (!g->proof)
                g->proof = go_of(go_create(g->base.class, g->base.level));
        const uint8_t *window = g->recent + g->recent_bytes - behind - CAS_GO_RESTART_BYTES;
        bool is_same = restore(g->proof, m, window, CAS_GO_RESTART_BYTES, &err) == 0 &&
                       (g->chain ? cas_go_chain_same(g->chain, g->proof->chain)
                                 : cas_go_fast_same(g->fast, g->proof->fast));
        g->proof_next = m->in_bytes + (is_same ? PROOF_EVERY_BYTES : CAS_GO_RESTART_BYTES);
        return is_same;
}

/* A block ended at input byte `at`, or a flush is done. No mark is made where more cuts matter
 * than there is room for, or where a restart would come to something else. */
static void mark_make(struct go_encoder *g, uint64_t at)
{
        struct cas_deflate_mark m = {.in_bytes = at};
        uint64_t memory = g->chain  ? cas_go_chain_memory(g->chain)
                          : g->fast ? CAS_GO_RESTART_BYTES
                                    : 0;
        cas_bitwriter_drain(&g->bits);
        m.out_bytes = g->out_bytes + g->bits.out->len_bytes - g->out_at;
        m.state[m.state_bytes++] = (uint8_t)g->bits.count;
        m.state[m.state_bytes++] = (uint8_t)g->bits.bits;
        bool fits = !g->chain || state_put(&m, cas_go_chain_index(g->chain));
        uint64_t last = at;
        for (unsigned i = g->cut_count; i > 0 && fits && at - g->cuts[i - 1] <= memory; i--) {
                fits = state_put(&m, last - g->cuts[i - 1]);
                last = g->cuts[i - 1];
        }
        bool is_whole =
                !is_history_deep(g) ||
                (g->fast ? last == g->start : at <= CAS_GO_RESTART_BYTES - CAS_GO_WINDOW_BYTES);
        if (fits && (is_whole || mark_prove(g, &m))) {
                g->mark = m;
                g->is_marked = true;
        } else if (g->is_marked && g->mark.in_bytes == at) {
                g->is_marked = false; /* it lay before a flush, and would be taken for one behind */
        }
}

static void chain_block(void *arg, const struct cas_go_block *block, uint64_t end)
{
        struct go_encoder *g = arg;
        cas_go_block_best(&g->bits, block);
        mark_make(g, end);
}

static void fast_block(struct go_encoder *g)
{
        struct cas_go_block block;
        cas_go_fast_encode(g->fast, g->room_bytes, &block);
        if (block.token_count > block.input_bytes - (block.input_bytes >> 4))
                cas_go_block_literals(&g->bits, block.input, block.input_bytes);
        else
                cas_go_block_dynamic(&g->bits, &block);
        g->room = cas_go_fast_room(g->fast);
}

/* Level 1, before a flush. */
static void fast_small_block(struct go_encoder *g)
{
        if (g->room_bytes <= TINY_BYTES)
                cas_go_put_stored(&g->bits, g->room, g->room_bytes);
        else
                cas_go_block_literals(&g->bits, g->room, g->room_bytes);
        cas_go_fast_reset(g->fast);
        g->room = cas_go_fast_room(g->fast);
        g->cut_count = 0;
        g->start = g->in_bytes;
}

/* Levels below 2: the bytes in the room become a block. */
static void room_block(struct go_encoder *g)
{
        if (g->room_bytes == 0)
                return;
        if (g->fast && g->room_bytes >= SMALL_BYTES)
                fast_block(g);
        else if (g->fast)
                fast_small_block(g);
        else if (g->base.level == 0)
                cas_go_put_stored(&g->bits, g->room, g->room_bytes);
        else
                cas_go_block_literals(&g->bits, g->room, g->room_bytes);
        g->room_bytes = 0;
        if (g->fast)
                cut_note(g, g->in_bytes);
        mark_make(g, g->in_bytes);
}

static void call_begin(struct go_encoder *g, struct cas_buf *out)
{
        g->bits.out = out;
        g->out_at = out->len_bytes;
}

static void call_end(struct go_encoder *g)
{
        cas_bitwriter_drain(&g->bits);
        g->out_bytes += g->bits.out->len_bytes - g->out_at;
        g->bits.out = NULL;
}

static void run_clear(struct go_encoder *g)
{
        g->bits.bits = 0;
        g->bits.count = 0;
        g->out_bytes = g->in_bytes = 0;
        g->is_marked = false;
        g->cut_count = 0;
        g->room_bytes = 0;
        g->start = g->proof_next = 0;
        g->recent_bytes = 0;
        g->recent_end = 0;
        if (g->fast) {
                cas_go_fast_clear(g->fast);
                g->room = cas_go_fast_room(g->fast);
        }
}

static void go_begin(struct cas_deflate_encoder *e, const uint8_t *dictionary, size_t len)
{
        struct go_encoder *g = go_of(e);
        run_clear(g);
        if (g->chain)
                cas_go_chain_begin(g->chain, dictionary, len);
        /* The levels below 2 look at no dictionary. The others leave its last three bytes out, as
         * those before a flush. */
        if (g->fast || (g->chain && len > 0))
                cut_note(g, 0);
}

static void room_write(struct go_encoder *g, const uint8_t *data, size_t len)
{
        while (len > 0) {
                size_t n = cas_min_u64(len, CAS_GO_STORED_BYTES_MAX - g->room_bytes);
                memcpy(g->room + g->room_bytes, data, n);
                g->room_bytes += n;
                g->in_bytes += n;
                data += n;
                len -= n;
                if (g->room_bytes == CAS_GO_STORED_BYTES_MAX)
                        room_block(g);
        }
}

static void go_write(struct cas_deflate_encoder *e, const uint8_t *data, size_t len,
                     struct cas_buf *out)
{
        struct go_encoder *g = go_of(e);
        call_begin(g, out);
        while (len > 0) {
                size_t n = len;
                if (is_history_deep(g)) {
                        n = cas_min_u64(len, PIECE_BYTES);
                        recent_note(g, data, n);
                }
                if (g->chain) {
                        g->in_bytes += n;
                        cas_go_chain_write(g->chain, data, n);
                } else {
                        room_write(g, data, n);
                }
                data += n;
                len -= n;
        }
        call_end(g);
}

static void go_end(struct cas_deflate_encoder *e, enum cas_deflate_end end, struct cas_buf *out)
{
        struct go_encoder *g = go_of(e);
        cas_assert(e->class->ends >> end & 1);
        if (end == CAS_DEFLATE_END_NONE)
                return;
        call_begin(g, out);
        if (g->chain)
                cas_go_chain_flush(g->chain);
        else
                room_block(g);
        cas_go_put_stored_header(&g->bits, 0, end == CAS_DEFLATE_END_FINISH);
        if (end == CAS_DEFLATE_END_SYNC) {
                if (g->chain)
                        cut_note(g, g->in_bytes);
                mark_make(g, g->in_bytes);
        }
        call_end(g);
}

static bool go_mark(const struct cas_deflate_encoder *e, struct cas_deflate_mark *out)
{
        const struct go_encoder *g = (const struct go_encoder *)e;
        if (g->is_marked)
                *out = g->mark;
        return g->is_marked;
}

/* Level 1: encodes the blocks before the mark again. With all of them since the last reset the
 * table is as it was; else it has become the same after the first ones but for rare cases. */
static int fast_restore(struct go_encoder *g, const uint8_t *before, size_t len,
                        const uint32_t *cuts, unsigned cut_count, struct cas_err *err)
{
        for (unsigned i = cut_count; i-- > 1;) {
                size_t block = cuts[i] - cuts[i - 1];
                struct cas_go_block ignored;
                if (cuts[i] > len || block < SMALL_BYTES || block > CAS_GO_STORED_BYTES_MAX)
                        return cas_fail(err, CAS_E_INVALID, "deflate mark: a block of %zu bytes",
                                        block);
                memcpy(cas_go_fast_room(g->fast), before + len - cuts[i], block);
                cas_go_fast_encode(g->fast, block, &ignored);
        }
        g->room = cas_go_fast_room(g->fast);
        return 0;
}

static int cuts_read(struct go_encoder *g, struct cas_cursor *c, uint64_t end, uint32_t *cuts,
                     unsigned *count, struct cas_err *err)
{
        uint64_t back = 0;
        for (*count = 0; cas_cursor_left(c) > 0; (*count)++) {
                uint64_t step = state_get(c);
                if (c->failed || *count == CUTS_MAX || step > UINT32_MAX / 2 - back ||
                    back + step > end)
                        return cas_fail(err, CAS_E_INVALID, "deflate mark: its state is damaged");
                back += step;
                cuts[*count] = (uint32_t)back;
        }
        for (unsigned i = *count; i-- > 0;)
                cut_note(g, end - cuts[i]);
        return 0;
}

static int restore(struct go_encoder *g, const struct cas_deflate_mark *mark, const uint8_t *window,
                   size_t len, struct cas_err *err)
{
        uint32_t cuts[CUTS_MAX];
        unsigned cut_count;
        run_clear(g);
        if (mark->state_bytes > CAS_DEFLATE_STATE_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "deflate mark: %u bytes of state",
                                mark->state_bytes);
        struct cas_cursor c = cas_cursor_over(mark->state, mark->state_bytes);
        unsigned count = cas_cursor_u8(&c), bits = cas_cursor_u8(&c);
        uint64_t index = g->chain ? state_get(&c) : 0;
        if (c.failed || count > 7 || bits >> count != 0 || index > UINT32_MAX)
                return cas_fail(err, CAS_E_INVALID, "deflate mark: its state is damaged");
        int ret = cuts_read(g, &c, mark->in_bytes, cuts, &cut_count, err);
        if (ret == 0 && g->fast)
                ret = fast_restore(g, window, len, cuts, cut_count, err);
        if (ret < 0)
                return ret;
        if (g->chain && !cas_go_chain_restore(g->chain, mark->in_bytes, (uint32_t)index, window,
                                              len, cuts, cut_count))
                return cas_fail(err, CAS_E_INVALID, "deflate mark: not with this input before it");
        g->bits.count = count;
        g->bits.bits = bits;
        return 0;
}

static int go_restart(struct cas_deflate_encoder *e, const struct cas_deflate_mark *mark,
                      const uint8_t *window, size_t len, struct cas_err *err)
{
        struct go_encoder *g = go_of(e);
        int ret = restore(g, mark, window, len, err);
        if (ret < 0)
                return ret;
        g->in_bytes = mark->in_bytes;
        g->out_bytes = mark->out_bytes;
        g->mark = *mark;
        g->is_marked = true;
        if (is_history_deep(g)) {
                size_t n = cas_min_u64(len, CAS_GO_RESTART_BYTES);
                g->recent_end = mark->in_bytes - n; /* may wrap: the dictionary lies before 0 */
                recent_note(g, window + len - n, n);
                g->proof_next = mark->in_bytes + PROOF_EVERY_BYTES;
        }
        return 0;
}

static void go_free(struct cas_deflate_encoder *e)
{
        struct go_encoder *g = go_of(e);
        cas_go_chain_free(g->chain);
        cas_go_fast_free(g->fast);
        free(g->stored_room);
        free(g->recent);
        if (g->proof)
                go_free(&g->proof->base);
        free(g);
}

static const struct cas_deflate_encoder_ops go_ops = {
        .begin = go_begin,
        .write = go_write,
        .end = go_end,
        .mark = go_mark,
        .restart = go_restart,
        .free = go_free,
};

static struct cas_deflate_encoder *go_create(const struct cas_deflate_class *class, int level)
{
        struct go_encoder *g = cas_xcalloc(1, sizeof(*g));
        cas_assert(level >= class->level_min && level <= class->level_max && level != -1);
        g->base = (struct cas_deflate_encoder){&go_ops, class, level};
        if (level >= 2)
                g->chain = cas_go_chain_new(level, chain_block, g);
        else if (level == 1)
                g->fast = cas_go_fast_new();
        else
                g->room = g->stored_room = cas_xmalloc(CAS_GO_STORED_BYTES_MAX);
        run_clear(g);
        return &g->base;
}

const struct cas_deflate_class cas_deflate_go = {
        .id = 1,
        .name = "go-1.26",
        .level_min = -2,
        .level_max = 9,
        .ends = 1U << CAS_DEFLATE_END_NONE | 1U << CAS_DEFLATE_END_FINISH |
                1U << CAS_DEFLATE_END_SYNC,
        .window_bytes = CAS_GO_RESTART_BYTES,
        .create = go_create,
};
