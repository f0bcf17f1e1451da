/* SPDX-License-Identifier: Apache-2.0 */
/* Levels 1 to 6 of klauspost's encoders: blocks of 65535 bytes, each handed to the level's match
 * finder together with what came before it. A full block waits until it is known that more
 * follows, because the last one before a flush is written in another way.
 *
 * Level 4 of some dates reads the beginning of its history by mistake: there the history is as long
 * as the originals', five blocks. Between blocks the finder keeps nothing but its tables, and these
 * reach back 32767 bytes. A restart fills them by going over the blocks before the mark again:
 * marks are noted only where it knows enough of how these were cut. */
#include "cas/deflate/klauspost_int.h"

#define BLOCK CAS_KP_BLOCK_BYTES_MAX
#define HISTORY_BYTES (3 * BLOCK)
#define HISTORY_BYTES_LEVEL4 (5 * BLOCK)
#define BASE_MAX (UINT32_C(1) << 30)
/* At a flush, so few bytes are not searched for matches, and are forgotten. */
#define TINY_BYTES 128U
#define TINY_STORED_BYTES_MAX 32U
#define STATE_BYTES 3
/* After so many full blocks, how those before were cut is forgotten. */
#define HEALING_BLOCKS 3U

struct fast {
        struct cas_kp_engine engine;
        struct cas_kp_finder *finder; /* owned */
        uint32_t start, end;          /* of the pending block in the history */
        uint32_t base;                /* position of history[0], for the finder */
        uint64_t in_bytes;            /* of the run, before the pending block */
        bool is_moved;                /* history[0] is not where it began */
        /* Whether all blocks since the history began are full, and how many are since the latest
         * that is not. */
        bool is_regular;
        uint32_t full_blocks;
        struct cas_kp_tokens tokens;
        uint32_t history_bytes_max;
        /* A pending block that may be found not to fit included. */
        uint8_t history[HISTORY_BYTES_LEVEL4 + BLOCK + CAS_KP_SLACK_BYTES];
};

/* Positions stay small. */
static void limit_base(struct fast *f)
{
        if (f->base > BASE_MAX) {
                uint32_t less = f->base - BLOCK;
                f->finder->ops->rebase(f->finder, less);
                f->base -= less;
        }
}

/* All but a pending block. */
static void forget_history(struct fast *f)
{
        f->base += CAS_KP_REACH + f->start;
        f->start = f->end = 0;
        f->is_moved = false;
        f->is_regular = true;
        f->full_blocks = 0;
        limit_base(f);
}

/* Only what can be reached is kept of the history. */
static void move_down(struct fast *f)
{
        uint32_t away = f->start - CAS_KP_REACH;
        memmove(f->history, f->history + away, f->end - away);
        f->start -= away;
        f->end -= away;
        f->base += away;
        f->is_moved = true;
        limit_base(f);
}

/* Finds the tokens of the pending block. */
static void encode(struct fast *f)
{
        if (f->end > f->history_bytes_max)
                move_down(f);
        cas_kp_tokens_clear(&f->tokens);
        f->finder->ops->encode(f->finder, f->history, f->start, f->end, f->base, &f->tokens);
}

/* Takes in what is not written, as the originals take in a dictionary. At most a block. */
static void learn(struct fast *f, const uint8_t *data, size_t len)
{
        if (len == 0)
                return;
        memcpy(f->history + f->end, data, len);
        f->end += (uint32_t)len;
        encode(f);
        f->start = f->end;
}

static void fast_begin(struct cas_kp_engine *e, const uint8_t *dictionary, size_t len)
{
        struct fast *f = (struct fast *)e;
        forget_history(f);
        f->in_bytes = 0;
        size_t part = len < CAS_KP_REACH ? len : CAS_KP_REACH;
        if (part > 0)
                learn(f, dictionary + (len - part), part);
}

/* False: no restart is possible here. */
static bool put_state(const struct fast *f, struct cas_kp_mark *mark)
{
        if (!f->is_regular && f->full_blocks < HEALING_BLOCKS)
                return false;
        if (f->start > CAS_KP_WINDOW_BYTES)
                return false;
        /* Blocks of before the history moved saw another beginning of it. */
        if (f->history_bytes_max == HISTORY_BYTES_LEVEL4 && f->is_moved &&
            f->start < CAS_KP_REACH + HEALING_BLOCKS * BLOCK)
                return false;
        mark->in_bytes = f->in_bytes;
        mark->state_bytes = STATE_BYTES;
        mark->state[0] = (uint8_t)f->start;
        mark->state[1] = (uint8_t)(f->start >> 8);
        mark->state[2] = (uint8_t)(f->start >> 16 | (unsigned)f->is_moved << 7);
        return true;
}

static void note_mark(struct fast *f)
{
        struct cas_kp_mark *mark = &f->engine.mark;
        if (!put_state(f, mark))
                return;
        mark->valid = true;
        mark->point = cas_kp_writer_point(f->engine.writer);
}

static void write_block(struct fast *f, bool sync)
{
        struct cas_kp_writer *w = f->engine.writer;
        encode(f);
        const uint8_t *input = f->history + f->start;
        uint32_t len = f->end - f->start;
        bool can_restart;
        if (f->tokens.count == 0)
                can_restart = cas_kp_write_stored(w, input, len);
        else if (f->tokens.count > len - (len >> 4))
                can_restart = cas_kp_write_literals(w, input, len, sync);
        else
                can_restart = cas_kp_write_tokens(w, &f->tokens, input, len, sync);
        if (can_restart)
                note_mark(f);
        f->in_bytes += len;
        f->start = f->end;
        if (len == BLOCK) {
                f->full_blocks++;
        } else {
                f->is_regular = false;
                f->full_blocks = 0;
        }
}

static void write_tiny(struct fast *f)
{
        struct cas_kp_writer *w = f->engine.writer;
        const uint8_t *input = f->history + f->start;
        uint32_t len = f->end - f->start;
        if (len <= TINY_STORED_BYTES_MAX)
                (void)cas_kp_write_stored(w, input, len);
        else
                (void)cas_kp_write_literals(w, input, len, true);
        f->in_bytes += len;
        forget_history(f);
}

static void fast_write(struct cas_kp_engine *e, const uint8_t *data, size_t len)
{
        struct fast *f = (struct fast *)e;
        while (len > 0) {
                if (f->end - f->start == BLOCK)
                        write_block(f, false);
                size_t part = BLOCK - (f->end - f->start);
                if (part > len)
                        part = len;
                memcpy(f->history + f->end, data, part);
                f->end += (uint32_t)part;
                data += part;
                len -= part;
        }
}

static bool fast_sync(struct cas_kp_engine *e)
{
        struct fast *f = (struct fast *)e;
        uint32_t len = f->end - f->start;
        if (len > 0 && len < TINY_BYTES)
                write_tiny(f);
        else if (len > 0)
                write_block(f, true);
        return put_state(f, &e->mark);
}

/* Goes over input before a mark, in pieces that end where blocks ended as far as that is known: the
 * last `kept` bytes of it are what the history holds at the mark. */
static void relearn(struct fast *f, const uint8_t *data, size_t len, size_t kept, bool is_moved)
{
        /* What comes before the first block that was written to the history after it moved. */
        size_t moved_at = is_moved && kept >= CAS_KP_REACH ? kept - CAS_KP_REACH : SIZE_MAX;
        for (size_t left = len; left > 0;) {
                size_t part = left > moved_at ? left - moved_at : left;
                part = part % BLOCK ? part % BLOCK : BLOCK;
                learn(f, data, part);
                data += part;
                left -= part;
                if (left == moved_at && f->start >= CAS_KP_REACH)
                        move_down(f);
        }
        f->is_moved = is_moved;
        f->full_blocks = HEALING_BLOCKS;
}

static int fast_restart(struct cas_kp_engine *e, const struct cas_kp_mark *mark,
                        const uint8_t *window, size_t len, struct cas_err *err)
{
        struct fast *f = (struct fast *)e;
        const uint8_t *state = mark->state;
        if (mark->state_bytes != STATE_BYTES)
                return cas_fail(err, CAS_E_INVALID, "mark of a deflate stream: odd state");
        size_t kept = state[0] | (size_t)state[1] << 8 | (size_t)(state[2] & 0x7f) << 16;
        bool is_moved = state[2] >> 7;
        if (kept > f->history_bytes_max || kept > len)
                return cas_fail(err, CAS_E_INVALID, "mark of a deflate stream: no such history");
        if (!is_moved) {
                /* Nothing before it was remembered. */
                window += len - kept;
                len = kept;
        }
        forget_history(f);
        relearn(f, window, len, kept, is_moved);
        f->in_bytes = mark->in_bytes;
        return 0;
}

static void fast_free(struct cas_kp_engine *e)
{
        struct fast *f = (struct fast *)e;
        f->finder->ops->free(f->finder);
        free(f);
}

struct cas_kp_engine *cas_kp_fast_new(struct cas_kp_writer *w, enum cas_kp_date date, int level)
{
        static const struct cas_kp_engine_ops ops = {fast_begin, fast_write, fast_sync,
                                                     fast_restart, fast_free};
        static struct cas_kp_finder *(*const finder_new[])(enum cas_kp_date date) = {
                [1] = cas_kp_level1_new, [2] = cas_kp_level2_new, [3] = cas_kp_level3_new,
                [4] = cas_kp_level4_new, [5] = cas_kp_level5_new, [6] = cas_kp_level6_new,
        };
        cas_assert(level >= 1 && level <= 6);
        struct fast *f = cas_xcalloc(1, sizeof *f);
        f->engine = (struct cas_kp_engine){.ops = &ops, .writer = w, .date = date, .level = level};
        f->base = BLOCK;
        f->history_bytes_max =
                level == 4 && date >= CAS_KP_2025_02 ? HISTORY_BYTES_LEVEL4 : HISTORY_BYTES;
        f->finder = finder_new[level](date);
        return &f->engine;
}
