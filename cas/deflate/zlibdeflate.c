/* SPDX-License-Identifier: Apache-2.0 */
/* Which tokens zlib and GNU gzip choose. Both loops exist once for each, made from one text, so
 * that what differs costs nothing where it does not matter. */
#include "cas/deflate/zlib_int.h"

/* A match of three bytes that is farther away is not taken. */
#define TOO_FAR 4096

const struct cas_zlib_level cas_zlib_levels[10] = {
        {0, 0, 0, 0},         {4, 4, 8, 4},         {4, 5, 16, 8},     {4, 6, 32, 32},
        {4, 4, 16, 16},       {8, 16, 32, 32},      {8, 16, 128, 128}, {8, 32, 128, 256},
        {32, 128, 258, 1024}, {32, 258, 258, 4096},
};

void cas_zlib_begin_block(struct cas_zlib_encoder *e, uint32_t at)
{
        e->block_start = (int32_t)at;
        e->split_at = e->flavour.is_gnu && e->base.level >= CAS_GNUGZIP_SPLIT_LEVEL_MIN
                              ? CAS_GNUGZIP_SPLIT_TOKENS
                              : e->block.token_max;
}

void cas_zlib_close_block(struct cas_zlib_encoder *e, uint32_t end, bool is_final)
{
        if (e->is_rehearsing) {
                cas_zlib_block_clear(&e->block);
        } else {
                const uint8_t *plain =
                        e->block_start >= 0 ? e->window.bytes + e->block_start : NULL;
                cas_zlib_block_write(&e->block, plain, (size_t)((int64_t)end - e->block_start),
                                     is_final, &e->bits);
        }
        cas_zlib_begin_block(e, end);
}

/* After each token: pos is where it was found. */
static inline bool block_is_full(struct cas_zlib_encoder *e, uint32_t pos, bool is_gnu)
{
        if (__builtin_expect(e->block.token_count != e->split_at, 1))
                return false;
        if (!is_gnu || e->block.token_count >= e->block.token_max || cas_gnugzip_splits(e, pos))
                return true;
        e->split_at =
                (uint32_t)cas_min_u64(e->split_at + CAS_GNUGZIP_SPLIT_TOKENS, e->block.token_max);
        return false;
}

static void slide(struct cas_zlib_encoder *e)
{
        bool is_fast = e->base.level <= CAS_ZLIB_LEVEL_FAST_MAX;
        cas_zlib_window_slide(&e->window, is_fast);
        if (!is_fast)
                cas_zlib_chains_slide(&e->chains);
        e->pos -= CAS_ZLIB_WINDOW_BYTES;
        e->fill -= CAS_ZLIB_WINDOW_BYTES;
        e->block_start -= (int32_t)CAS_ZLIB_WINDOW_BYTES;
        e->match_start -= CAS_ZLIB_WINDOW_BYTES; /* may wrap: only differences are used */
        e->skipped_to =
                e->skipped_to > CAS_ZLIB_WINDOW_BYTES ? e->skipped_to - CAS_ZLIB_WINDOW_BYTES : 0;
        e->origin += CAS_ZLIB_WINDOW_BYTES;
}

/* Little input is left at e->pos: makes room for more. False: nothing can be done now. */
static bool look_ahead(struct cas_zlib_encoder *e, bool is_end)
{
        if (e->is_at_end || (e->is_cut && is_end && e->pos == e->fill))
                return e->pos < e->fill;
        /* Offered all its input at once, the original finds the buffer full when it comes here,
         * but for the end: so it slides at the first position beyond SLIDE_AT, and at SLIDE_AT
         * itself when the input ends within its lookahead. */
        if (e->pos > CAS_ZLIB_SLIDE_AT || (e->pos == CAS_ZLIB_SLIDE_AT && is_end && !e->is_cut))
                slide(e);
        if (!is_end)
                return false;
        if (e->flavour.is_gnu && !e->is_cut) {
                e->is_at_end = true;
                memset(e->window.bytes + e->fill, 0, 2);
        }
        return e->pos < e->fill;
}

/* How to search for something longer than `best` when `ahead` bytes are left. */
static inline struct cas_zlib_search search_of(const struct cas_zlib_encoder *e, uint32_t best,
                                               uint32_t ahead, bool is_gnu)
{
        struct cas_zlib_search s = {
                .chain = best >= e->level.good ? e->level.chain >> 2 : e->level.chain,
                .nice = e->level.nice,
                .len_max = CAS_ZLIB_MATCH_MAX,
        };
        /* GNU gzip compares whatever is in the buffer behind the input, which may decide between
         * two candidates. */
        if (!is_gnu && ahead < CAS_ZLIB_MATCH_MAX) {
                s.len_max = ahead;
                s.nice = s.nice > ahead ? ahead : s.nice;
        }
        return s;
}

static inline bool can_search(const struct cas_zlib_encoder *e, bool is_gnu)
{
        return !is_gnu || e->pos <= CAS_ZLIB_BUFFER_BYTES - CAS_ZLIB_LOOKAHEAD;
}

/* Searches the string at e->pos; at least three bytes are ahead. Fast levels insert it. */
static inline uint32_t search_fast(struct cas_zlib_encoder *e, uint32_t ahead, bool is_gnu)
{
        uint32_t candidate = cas_zlib_insert(&e->window, e->pos);
        if (!can_search(e, is_gnu) || candidate == 0 || e->pos - candidate > CAS_ZLIB_DISTANCE_MAX)
                return 2;
        uint32_t len = cas_zlib_longest(&e->window, e->pos, candidate, 2,
                                        search_of(e, 2, ahead, is_gnu), &e->match_start);
        return len < ahead ? len : ahead;
}

static inline uint32_t search_slow(struct cas_zlib_encoder *e, uint32_t best, uint32_t ahead,
                                   bool is_gnu)
{
        if (best >= e->level.lazy || !can_search(e, is_gnu))
                return 2;
        uint32_t len = cas_zlib_chains_longest(&e->chains, &e->window, e->pos, ahead, best,
                                               search_of(e, best, ahead, is_gnu), &e->match_start);
        return len < ahead ? len : ahead;
}

/* Levels 4 to 9: a match is taken unless the next position has a longer one. */
static inline __attribute__((always_inline)) void deflate_slow(struct cas_zlib_encoder *e,
                                                               bool is_end, bool is_gnu)
{
        struct cas_zlib_window *w = &e->window;
        for (;;) {
                if (e->fill - e->pos < CAS_ZLIB_LOOKAHEAD && !look_ahead(e, is_end))
                        break;
                uint32_t pos = e->pos, ahead = e->fill - pos;
                uint32_t prev_len = e->match_len, prev_start = e->match_start;
                uint32_t len = ahead >= 3 ? search_slow(e, prev_len, ahead, is_gnu) : 2;
                if (len == 3 && pos - e->match_start > TOO_FAR)
                        len = 2;
                e->match_len = len;
                if (prev_len >= 3 && len <= prev_len) {
                        cas_zlib_block_match(&e->block, prev_len, pos - 1 - prev_start);
                        bool is_full = block_is_full(e, pos, is_gnu);
                        uint32_t end = pos - 1 + prev_len;
                        e->pos = end;
                        e->is_pending = false;
                        e->match_len = 2;
                        if (is_full) {
                                cas_zlib_close_block(e, end, false);
                                cas_zlib_set_mark(e, end, false);
                        }
                } else if (e->is_pending) {
                        cas_zlib_block_literal(&e->block, w->bytes[pos - 1]);
                        if (block_is_full(e, pos, is_gnu)) {
                                cas_zlib_close_block(e, pos, false);
                                cas_zlib_set_mark(e, pos, true);
                        }
                        e->pos++;
                } else {
                        e->is_pending = true;
                        e->pos++;
                }
        }
        if (is_end && e->is_pending) {
                cas_zlib_block_literal(&e->block, w->bytes[e->pos - 1]);
                e->is_pending = false;
        }
}

/* Levels 1 to 3: a match is taken at once; the strings of a long one are not inserted. */
static inline __attribute__((always_inline)) void deflate_fast(struct cas_zlib_encoder *e,
                                                               bool is_end, bool is_gnu)
{
        struct cas_zlib_window *w = &e->window;
        for (;;) {
                if (e->fill - e->pos < CAS_ZLIB_LOOKAHEAD && !look_ahead(e, is_end))
                        break;
                uint32_t pos = e->pos, ahead = e->fill - pos, len = 2;
                /* GNU gzip also inserts the last two strings of the input, which nobody finds. */
                if (ahead >= 3)
                        len = search_fast(e, ahead, is_gnu);
                bool is_full;
                if (len >= 3) {
                        cas_zlib_block_match(&e->block, len, pos - e->match_start);
                        is_full = block_is_full(e, pos, is_gnu);
                        uint32_t end = pos + len;
                        if (len <= e->level.lazy && (is_gnu || e->is_cut || e->fill - end >= 3)) {
                                for (uint32_t at = pos + 1; at < end && at + 3 <= e->fill; at++)
                                        (void)cas_zlib_insert(w, at);
                        } else {
                                e->skipped_to = end;
                        }
                        e->pos = end;
                } else {
                        cas_zlib_block_literal(&e->block, w->bytes[pos]);
                        is_full = block_is_full(e, pos, is_gnu);
                        e->pos++;
                }
                if (is_full) {
                        cas_zlib_close_block(e, e->pos, false);
                        cas_zlib_set_mark(e, e->pos, false);
                }
        }
}

/* Strings at the end of earlier input, now that their third byte is there. */
static void insert_waiting(struct cas_zlib_encoder *e)
{
        while (e->insert_from < e->pos && e->insert_from + 3 <= e->fill)
                (void)cas_zlib_insert(&e->window, e->insert_from++);
        if (e->insert_from >= e->pos)
                e->insert_from = CAS_ZLIB_INSERT_NONE;
}

/* A mark may tell of a match that reaches beyond the end, or of a byte that never comes. */
static void bound_pending(struct cas_zlib_encoder *e)
{
        if (!e->is_pending)
                return;
        if (e->pos > e->fill) {
                e->pos = e->fill;
                e->is_pending = false;
                e->match_len = 2;
        } else if (e->match_len > e->fill - e->pos + 1) {
                e->match_len = 2;
        }
}

void cas_zlib_deflate(struct cas_zlib_encoder *e, bool is_end)
{
        bool is_fast = e->base.level <= CAS_ZLIB_LEVEL_FAST_MAX, is_gnu = e->flavour.is_gnu;
        if (is_end)
                bound_pending(e);
        else if (e->pos > e->fill)
                return;
        if (is_fast)
                insert_waiting(e);
        else
                cas_zlib_chains_enter(&e->chains, &e->window, e->fill);
        if (is_fast && is_gnu)
                deflate_fast(e, is_end, true);
        else if (is_fast)
                deflate_fast(e, is_end, false);
        else if (is_gnu)
                deflate_slow(e, is_end, true);
        else
                deflate_slow(e, is_end, false);
}
