/* SPDX-License-Identifier: Apache-2.0 */
/* Levels 7 to 9 of klauspost's encoders: hash chains over a window of 64 KiB, lazy matching, and a
 * look at the end of a match for a longer one (klauspost_window.h searches the chains).
 *
 * The window fills up; then a step goes over it until fewer than LOOKAHEAD bytes are left, and its
 * upper half becomes the lower one. A flush makes a step that goes to the end. Where the window
 * stands matters: matches do not reach below its beginning, and a step prices literals by what the
 * window holds when it begins.
 *
 * A block ends where it has so many tokens, anywhere in a step. A mark therefore says where in a
 * step it stands, and which of the latest places are in no chain: those at the end of a step that
 * were not followed by 4 bytes at that time. */
#include "cas/deflate/klauspost_window.h"

#define LENGTH_NONE CAS_KP_LENGTH_NONE
#define LENGTH_MAX CAS_KP_LENGTH_MAX
#define WINDOW_BYTES CAS_KP_CHAIN_WINDOW_BYTES
#define BUFFER_BYTES CAS_KP_CHAIN_BUFFER_BYTES
#define LOOKAHEAD (CAS_KP_LENGTH_MIN + LENGTH_MAX)
#define LOST UINT32_MAX /* block_start: the window has moved on since */
#define GAPS_MAX 12U
#define GAP_BYTES_MAX 3U

/* Where tokens were handed to the writer, and what comes next there. In marks. */
enum place {
        PLACE_TOP = 0,     /* the next position is looked at */
        PLACE_FLUSHED = 1, /* the same, in another step */
        PLACE_LITERAL = 2, /* behind a literal; a match may be pending */
        PLACE_SKIP = 3,    /* literals without a search, `left` of them with this one */
        PLACE_OWED = 4     /* literals before a match that was moved, `left` with this one */
};

/* Places that are in no chain; positions of the run. */
struct gap {
        uint64_t start;
        uint32_t len;
};

/* What a mark holds beside its position. */
struct state {
        enum place place;
        uint64_t in_bytes;
        uint32_t index;      /* in the window as it stands then */
        uint32_t step_start; /* likewise, at most `index` */
        uint32_t length, distance, literals, left;
        struct gap gaps[GAPS_MAX]; /* the latest; those with len 0 are none */
};

struct chain {
        struct cas_kp_engine engine;
        struct cas_kp_window w;
        struct cas_kp_chain_params params;
        uint32_t tokens_max;  /* of a block */
        uint64_t position;    /* of the run, of window[0]; wraps below 0 with a dictionary */
        uint32_t index;       /* up to here it is done, or decided */
        uint32_t window_end;  /* of the input */
        uint32_t block_start; /* of the tokens, or LOST */
        uint32_t insert_end;  /* in this step, positions from here on enter no chain */
        uint32_t step_start;
        uint32_t length, distance; /* of the match at the position before, LENGTH_NONE: none */
        uint16_t literals;         /* in a row; begins again at 65536 */
        bool pending;              /* the byte before index is not in a token yet */
        bool sync;                 /* this step goes to the end */
        bool resume;               /* the next step goes on with `state` */
        bool state_valid;          /* `state` is where the latest block began */
        bool untold;               /* a gap that states cannot hold */
        uint64_t untold_end;
        struct state state;
        struct gap gaps[GAPS_MAX]; /* ring */
        unsigned gaps_next;
        struct cas_kp_tokens tokens;
};

/* ------------------------------------------------------------------ marks */
/* Gaps that a chain of a later position could reach; false: more than a state holds. */
static bool gaps_near(const struct chain *c, struct gap out[GAPS_MAX])
{
        uint64_t here = c->position + c->index;
        memset(out, 0, GAPS_MAX * sizeof(*out));
        if (c->untold && (int64_t)(here - c->untold_end) < (int64_t)WINDOW_BYTES)
                return false;
        unsigned n = 0;
        for (unsigned i = 0; i < GAPS_MAX; i++)
                if (c->gaps[i].len > 0 && here - c->gaps[i].start <= WINDOW_BYTES + GAP_BYTES_MAX)
                        out[n++] = c->gaps[i];
        return true;
}

/* Places up to `end`, a position of the run, are in no chain, and no state tells. */
static void gap_untold(struct chain *c, uint64_t end)
{
        if (!c->untold || (int64_t)(end - c->untold_end) > 0)
                c->untold_end = end;
        c->untold = true;
}

static void gap_note(struct chain *c, uint32_t start, uint32_t end)
{
        struct gap *g = &c->gaps[c->gaps_next];
        if (end == start)
                return;
        if (g->len > 0)
                gap_untold(c, g->start + g->len);
        *g = (struct gap){.start = c->position + start, .len = end - start};
        c->gaps_next = (c->gaps_next + 1) % GAPS_MAX;
}

/* State of marks, after what the encoder keeps there: u8 place, u8 gaps, u24 index, u24 step_start,
 * u16 length, u16 distance, u16 literals, u16 left, u24 length of each gap less 1 (2 bits each),
 * u16 each: index less start of a gap. */
#define STATE_FIXED_BYTES 19U

static void state_note(struct chain *c, enum place place, uint32_t left)
{
        struct state *s = &c->state;
        *s = (struct state){
                .place = place,
                .in_bytes = c->position + c->index,
                .index = c->index,
                .step_start = c->step_start,
                .length = c->length,
                .distance = c->distance,
                .literals = c->literals,
                .left = left,
        };
        c->state_valid = gaps_near(c, s->gaps);
}

static void state_put(const struct chain *c, struct cas_kp_mark *mark)
{
        const struct state *s = &c->state;
        uint8_t *p = mark->state;
        uint32_t lens = 0;
        uint8_t n = 0;
        for (; n < GAPS_MAX && s->gaps[n].len > 0; n++) {
                lens |= (s->gaps[n].len - 1) << (2 * n);
                cas_put_le16(p + STATE_FIXED_BYTES + 2 * n,
                             (uint16_t)(s->in_bytes - s->gaps[n].start));
        }
        p[0] = (uint8_t)s->place;
        p[1] = n;
        cas_put_le32(p + 2, s->index);
        cas_put_le32(p + 5, s->step_start);
        cas_put_le16(p + 8, (uint16_t)s->length);
        cas_put_le16(p + 10, (uint16_t)s->distance);
        cas_put_le16(p + 12, (uint16_t)s->literals);
        cas_put_le16(p + 14, (uint16_t)s->left);
        memcpy(p + 16, &(uint8_t[3]){(uint8_t)lens, (uint8_t)(lens >> 8), (uint8_t)(lens >> 16)},
               3);
        mark->state_bytes = (uint8_t)(STATE_FIXED_BYTES + 2 * n);
        mark->in_bytes = s->in_bytes;
}
_Static_assert(STATE_FIXED_BYTES + 2 * GAPS_MAX <= sizeof(((struct cas_kp_mark *)0)->state),
               "the state of a chain must fit in a mark");

/* False: no state that this engine makes. */
static bool state_get(const struct cas_kp_mark *mark, struct state *s)
{
        const uint8_t *p = mark->state;
        if (mark->state_bytes < STATE_FIXED_BYTES || p[1] > GAPS_MAX ||
            mark->state_bytes != STATE_FIXED_BYTES + 2U * p[1] || p[0] > PLACE_OWED)
                return false;
        *s = (struct state){
                .place = (enum place)p[0],
                .in_bytes = mark->in_bytes,
                .index = cas_get_le32(p + 2) & 0xffffff,
                .step_start = cas_get_le32(p + 5) & 0xffffff,
                .length = cas_get_le16(p + 8),
                .distance = cas_get_le16(p + 10),
                .literals = cas_get_le16(p + 12),
                .left = cas_get_le16(p + 14),
        };
        for (unsigned i = 0; i < p[1]; i++) {
                uint32_t lens = p[16] | (uint32_t)p[17] << 8 | (uint32_t)p[18] << 16;
                s->gaps[i] = (struct gap){
                        .start = mark->in_bytes - cas_get_le16(p + STATE_FIXED_BYTES + 2 * i),
                        .len = (lens >> (2 * i) & 3) + 1,
                };
        }
        return s->index > 0 && s->index <= BUFFER_BYTES && s->step_start <= s->index &&
               s->length >= LENGTH_NONE && s->length <= LENGTH_MAX && s->distance <= s->index &&
               s->distance <= WINDOW_BYTES && (s->distance > 0 || s->length == LENGTH_NONE);
}

/* ------------------------------------------------------------------ tokens and blocks */
static void block_write(struct chain *c, enum place place, uint32_t left)
{
        struct cas_kp_mark *mark = &c->engine.mark;
        const uint8_t *input = c->block_start <= c->index ? c->w.bytes + c->block_start : NULL;
        bool is_point = cas_kp_write_tokens(c->engine.writer, &c->tokens, input,
                                            input ? c->index - c->block_start : 0, c->sync);
        if (is_point && c->state_valid) {
                state_put(c, mark);
                mark->point = cas_kp_writer_point(c->engine.writer);
                mark->valid = true;
        }
        cas_kp_tokens_clear(&c->tokens);
        c->block_start = c->index;
        state_note(c, place, left);
}

static inline void literal(struct chain *c, enum place place, uint32_t left)
{
        cas_kp_literal(&c->tokens, c->w.bytes[c->index - 1]);
        if (c->tokens.count == c->tokens_max)
                block_write(c, place, left);
}

/* The next position enters its chain. */
static inline void advance(struct chain *c)
{
        c->index++;
        if (c->index < c->insert_end)
                cas_kp_window_insert(&c->w, c->params.swap, c->index);
}

/* The match that begins before index. */
static void match(struct chain *c, uint32_t length, uint32_t distance)
{
        cas_kp_match(&c->tokens, length, distance);
        uint32_t next = c->index + length - 1;
        uint32_t end = next < c->insert_end ? next : c->insert_end;
        for (uint32_t i = c->index + 1; i < end; i++)
                cas_kp_window_insert(&c->w, c->params.swap, i);
        c->index = next;
        c->pending = false;
        c->length = LENGTH_NONE;
        if (c->params.end_check != CAS_KP_END_NONE)
                c->literals = 0;
        if (c->tokens.count == c->tokens_max)
                block_write(c, PLACE_TOP, 0);
}

/* The match that was found at the position before is moved behind so many literals. */
static void owed_literals(struct chain *c, uint32_t left, uint32_t length, uint32_t distance)
{
        c->length = length;
        c->distance = distance;
        for (; left > 0; left--) {
                literal(c, PLACE_OWED, left);
                advance(c);
        }
        match(c, length, distance);
}

static void skip_advance(struct chain *c)
{
        if (c->params.skip_inserts && c->index < c->insert_end)
                cas_kp_window_insert(&c->w, c->params.swap, c->index);
        c->index++;
}

static void skip_rest(struct chain *c, uint32_t left)
{
        for (; left > 0 && c->index + 1 < c->window_end; left--) {
                literal(c, PLACE_SKIP, left);
                skip_advance(c);
        }
        c->pending = false;
        c->length = LENGTH_NONE;
        literal(c, PLACE_TOP, 0);
}

/* After a long row of literals, some are taken without a search. */
static void skip(struct chain *c)
{
        if (!c->params.skip_inserts) {
                if (c->literals <= 31)
                        return;
                gap_untold(c, c->position + c->index + (c->literals >> 5));
                skip_rest(c, c->literals >> 5);
        } else if (c->literals > c->params.tries) {
                skip_rest(c, 1 + ((c->literals - c->params.tries) >> 6));
        }
}

/* ------------------------------------------------------------------ steps */
/* A match was found at the position before, and none longer here. */
static void step_match(struct chain *c, uint32_t length, uint32_t distance, uint32_t lookahead)
{
        struct cas_kp_found m = {length, distance};
        uint32_t owed = 0;
        if (c->params.end_check == CAS_KP_END_SAME)
                m = cas_kp_window_end_same(&c->w, c->index, c->insert_end, lookahead, m);
        else if (c->params.end_check == CAS_KP_END_MOVED)
                m = cas_kp_window_end_moved(&c->w, c->index, c->insert_end, lookahead, m, &owed);
        owed_literals(c, owed, m.length, m.distance);
}

static void step_literal(struct chain *c)
{
        if (c->length > LENGTH_NONE)
                c->literals = 0;
        if (!c->pending) {
                c->index++;
                c->pending = true;
                return;
        }
        c->literals++;
        literal(c, PLACE_LITERAL, 0);
        c->index++;
        skip(c);
}

static void step_position(struct chain *c, uint32_t lookahead)
{
        uint32_t head = 0;
        if (c->index < c->insert_end)
                head = cas_kp_window_insert(&c->w, c->params.swap, c->index);
        uint32_t length = c->length, distance = c->distance;
        c->length = LENGTH_NONE;
        c->distance = 0;
        uint32_t low = c->index > WINDOW_BYTES ? c->index - WINDOW_BYTES : 0;
        if (head > low && lookahead > length && length < c->params.lazy) {
                struct cas_kp_found m =
                        cas_kp_window_find(&c->w, &c->params, c->index, head, lookahead);
                c->length = m.length;
                c->distance = m.distance;
        }
        if (length > LENGTH_NONE && c->length <= length)
                step_match(c, length, distance, lookahead);
        else
                step_literal(c);
}

/* What is pending at the end of the input goes out. */
static void step_end(struct chain *c)
{
        if (c->pending) {
                cas_kp_literal(&c->tokens, c->w.bytes[c->index - 1]);
                c->pending = false;
        }
        if (c->tokens.count > 0)
                block_write(c, PLACE_FLUSHED, 0);
}

/* Whether the input goes as far as a mark says: that of this engine always does. */
static bool place_fits(const struct state *s, uint32_t room)
{
        switch (s->place) {
        case PLACE_TOP:
        case PLACE_FLUSHED:
                return true;
        case PLACE_LITERAL:
                return room >= (s->length > LENGTH_NONE ? s->length : 1);
        case PLACE_SKIP:
                return s->left > 0 && room >= 2;
        case PLACE_OWED:
                return s->left > 0 && s->distance > 0 && s->left + s->length <= room + 1;
        }
        return false;
}

/* The chains as they were at the mark; goes on to the top of the loop. */
static void step_resume(struct chain *c)
{
        struct state s = c->state;
        if (!place_fits(&s, c->window_end - c->index))
                s.place = PLACE_TOP;
        uint32_t end = c->index + (s.place == PLACE_LITERAL || s.place == PLACE_OWED);
        if (end > c->insert_end)
                end = c->insert_end;
        for (uint32_t i = c->w.start; i < end; i++) {
                bool is_gap = false;
                for (unsigned k = 0; k < GAPS_MAX; k++)
                        is_gap |= c->position + i - s.gaps[k].start < s.gaps[k].len;
                if (!is_gap)
                        cas_kp_window_insert(&c->w, c->params.swap, i);
        }
        switch (s.place) {
        case PLACE_TOP:
        case PLACE_FLUSHED:
                break;
        case PLACE_LITERAL:
                c->index++;
                c->pending = true;
                c->length = s.length;
                c->distance = s.distance;
                skip(c);
                break;
        case PLACE_SKIP:
                c->pending = true;
                skip_advance(c);
                skip_rest(c, s.left - 1);
                break;
        case PLACE_OWED:
                advance(c);
                owed_literals(c, s.left - 1, s.length, s.distance);
                break;
        }
}

static void step(struct chain *c, bool sync)
{
        if (c->window_end - c->index < LOOKAHEAD && !sync && !c->resume)
                return;
        c->sync = sync;
        c->insert_end = c->window_end > GAP_BYTES_MAX ? c->window_end - GAP_BYTES_MAX : 0;
        bool resume = c->resume && c->state.place != PLACE_FLUSHED;
        c->step_start = resume ? c->state.step_start : c->index;
        cas_kp_window_price(&c->w, &c->params, c->step_start, c->window_end, sync);
        if (c->resume)
                step_resume(c);
        c->resume = false;
        for (;;) {
                uint32_t lookahead = c->window_end - c->index;
                if (lookahead < LOOKAHEAD && !sync)
                        break;
                if (lookahead == 0) {
                        step_end(c);
                        break;
                }
                step_position(c, lookahead);
        }
        uint32_t gap = c->insert_end > c->step_start ? c->insert_end : c->step_start;
        if (c->index > gap)
                gap_note(c, gap, c->index);
        c->sync = false;
}

/* ------------------------------------------------------------------ the engine */
static void start_over(struct chain *c)
{
        cas_kp_window_clear(&c->w);
        cas_kp_tokens_clear(&c->tokens);
        memset(c->gaps, 0, sizeof(c->gaps));
        c->gaps_next = 0;
        c->untold = false;
        c->position = 0;
        c->index = c->window_end = c->block_start = 0;
        c->length = LENGTH_NONE;
        c->distance = 0;
        c->literals = 0;
        c->pending = false;
        c->resume = false;
        c->state_valid = false;
}

static void chain_begin(struct cas_kp_engine *e, const uint8_t *dictionary, size_t len)
{
        struct chain *c = (struct chain *)e;
        start_over(c);
        uint32_t n = len < WINDOW_BYTES ? (uint32_t)len : WINDOW_BYTES;
        if (n == 0)
                return;
        memcpy(c->w.bytes, dictionary + (len - n), n);
        uint32_t end = n > GAP_BYTES_MAX ? n - GAP_BYTES_MAX : 0;
        for (uint32_t i = 0; i < end; i++)
                cas_kp_window_insert(&c->w, c->params.swap, i);
        c->index = c->window_end = n;
        c->position = 0 - (uint64_t)n;
        /* Older ones take the dictionary for a part of the first block. */
        if (e->date >= CAS_KP_GO_1_27)
                c->block_start = n;
        gap_note(c, end, n);
}

/* The upper half of the window becomes the lower one. */
static void shift(struct chain *c)
{
        cas_kp_window_shift(&c->w);
        c->index -= WINDOW_BYTES;
        c->window_end -= WINDOW_BYTES;
        c->position += WINDOW_BYTES;
        c->block_start = c->block_start != LOST && c->block_start >= WINDOW_BYTES
                                 ? c->block_start - WINDOW_BYTES
                                 : LOST;
}

static void chain_write(struct cas_kp_engine *e, const uint8_t *data, size_t len)
{
        struct chain *c = (struct chain *)e;
        while (len > 0) {
                if (c->window_end == BUFFER_BYTES)
                        step(c, false);
                if (c->index > BUFFER_BYTES - LOOKAHEAD - 1 &&
                    !(c->resume && c->state.place != PLACE_FLUSHED))
                        shift(c);
                size_t n = BUFFER_BYTES - c->window_end;
                if (n > len)
                        n = len;
                memcpy(c->w.bytes + c->window_end, data, n);
                c->window_end += (uint32_t)n;
                data += n;
                len -= n;
        }
}

static bool chain_sync(struct cas_kp_engine *e)
{
        struct chain *c = (struct chain *)e;
        step(c, true);
        c->step_start = c->index;
        state_note(c, PLACE_FLUSHED, 0);
        if (c->state_valid)
                state_put(c, &e->mark);
        return c->state_valid;
}

static int chain_restart(struct cas_kp_engine *e, const struct cas_kp_mark *mark,
                         const uint8_t *window, size_t len, struct cas_err *err)
{
        struct chain *c = (struct chain *)e;
        struct state s;
        if (!state_get(mark, &s))
                return cas_fail(err, CAS_E_INVALID, "mark of a deflate stream: odd state");
        uint32_t known = len < s.index ? (uint32_t)len : s.index;
        uint32_t wanted = s.index < WINDOW_BYTES ? s.index : WINDOW_BYTES;
        bool priced = c->params.choice == CAS_KP_CHOICE_PRICES ||
                      c->params.choice == CAS_KP_CHOICE_ENTROPY;
        if (priced && s.index - s.step_start > wanted)
                wanted = s.index - s.step_start;
        if (known < wanted)
                return cas_fail(err, CAS_E_INVALID, "mark of a deflate stream: window too small");
        start_over(c);
        c->w.start = s.index - known;
        memcpy(c->w.bytes + c->w.start, window + (len - known), known);
        c->position = s.in_bytes - s.index;
        c->index = c->window_end = c->block_start = s.index;
        c->literals = (uint16_t)s.literals;
        memcpy(c->gaps, s.gaps, sizeof(c->gaps));
        while (c->gaps_next < GAPS_MAX - 1 && c->gaps[c->gaps_next].len > 0)
                c->gaps_next++;
        c->state = s;
        c->state_valid = true;
        c->resume = true;
        return 0;
}

static void chain_free(struct cas_kp_engine *e)
{
        free(e);
}

/* ------------------------------------------------------------------ levels and dates */
static struct cas_kp_chain_params params_2020_02(int level)
{
        static const struct cas_kp_chain_params by_level[] = {
                {.lazy = 8, .nice = 24, .tries = 16},
                {.lazy = 16, .nice = 24, .tries = 64},
                {.lazy = 258, .nice = 258, .tries = 4096},
        };
        struct cas_kp_chain_params p = by_level[level - 7];
        p.choice = CAS_KP_CHOICE_NEAR;
        p.end_check = CAS_KP_END_NONE;
        p.swap = true;
        return p;
}

static struct cas_kp_chain_params params_2022_01(int level)
{
        static const struct cas_kp_chain_params by_level[] = {
                {.lazy = 10, .nice = 12, .tries = 16},
                {.lazy = 24, .nice = 32, .tries = 64},
                {.lazy = 258, .nice = 258, .tries = 1024},
        };
        struct cas_kp_chain_params p = by_level[level - 7];
        p.choice = CAS_KP_CHOICE_ENTROPY;
        p.end_check = CAS_KP_END_SAME;
        p.skip_inserts = true;
        return p;
}

static struct cas_kp_chain_params params_2022_01b(int level, enum cas_kp_date date)
{
        static const struct cas_kp_chain_params by_level[] = {
                {.lazy = 12, .nice = 16, .tries = 24, .choice = CAS_KP_CHOICE_LENGTH},
                {.lazy = 30, .nice = 40, .tries = 64, .choice = CAS_KP_CHOICE_LENGTH},
                {.lazy = 258, .nice = 258, .tries = 1024, .choice = CAS_KP_CHOICE_PRICES},
        };
        struct cas_kp_chain_params p = by_level[level - 7];
        p.skip_inserts = true;
        p.end_check = date < CAS_KP_2023_01 ? CAS_KP_END_SAME : CAS_KP_END_MOVED;
        p.price_of_match = date < CAS_KP_2023_01 ? 6 : 3;
        p.gain_min = date < CAS_KP_2023_01 ? 0 : 4;
        p.price_bytes_max = date < CAS_KP_2025_12 ? BUFFER_BYTES : 32768;
        p.price_absent = date < CAS_KP_GO_1_27 ? 0 : 1;
        return p;
}

struct cas_kp_engine *cas_kp_chain_new(struct cas_kp_writer *w, enum cas_kp_date date, int level)
{
        static const struct cas_kp_engine_ops ops = {
                .begin = chain_begin,
                .write = chain_write,
                .sync = chain_sync,
                .restart = chain_restart,
                .free = chain_free,
        };
        cas_assert(level >= 7 && level <= 9);
        struct chain *c = cas_xcalloc(1, sizeof(*c));
        c->engine = (struct cas_kp_engine){.ops = &ops, .writer = w, .date = date, .level = level};
        c->params = date < CAS_KP_2022_01    ? params_2020_02(level)
                    : date < CAS_KP_2022_01B ? params_2022_01(level)
                                             : params_2022_01b(level, date);
        c->tokens_max = date < CAS_KP_2022_01 ? 1U << 14 : 1U << 15;
        start_over(c);
        return &c->engine;
}
