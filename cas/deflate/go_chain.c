/* SPDX-License-Identifier: Apache-2.0 */
/* Levels 2 to 9: chains of earlier places with the same hash of 4 bytes; without lazy matches
 * (2 and 3) and with them.
 *
 * What is chosen must be what the original chooses. Of the `tries` latest places of the chain, it
 * takes the first one that is longest, ends the search with the first one that is `nice`, and
 * takes no match of 4 bytes that lies more than 4096 back. The length that was found one byte
 * before plays no part in that.
 *
 * Places are numbers that grow with the input, so that moving the window changes none of them. */
#include "cas/deflate/go_int.h"

#define HASH_BITS 17
#define WINDOW_MASK (CAS_GO_WINDOW_BYTES - 1)
#define BUFFER_BYTES (2 * (uint32_t)CAS_GO_WINDOW_BYTES)
#define MATCH_BYTES_MIN 4
#define MATCH_BYTES_MAX 258
/* Fewer bytes than this ahead are left for later, unless there is a flush. */
#define AHEAD_BYTES (MATCH_BYTES_MIN + MATCH_BYTES_MAX)
/* The window moves behind a flush from here on. */
#define MOVE_INDEX (BUFFER_BYTES - AHEAD_BYTES)
#define SHORT_DISTANCE_MAX 4096
#define PLACE_FIRST (2 * CAS_GO_WINDOW_BYTES) /* 0 in the tables is out of reach */
#define PLACE_MAX UINT32_C(0xff000000)
#define HEAL_WINDOWS 3
#define NOT_IN_WINDOW UINT32_MAX

struct level {
        uint16_t lazy; /* a match this long is not compared with the next; 0: none is */
        uint16_t nice, tries;
        uint16_t skip; /* not lazy: the inside of longer matches is not put into the chains */
};
static const struct level levels[10] = {
        [2] = {0, 16, 8, 5},       [3] = {0, 32, 32, 6},      [4] = {4, 16, 16, 0},
        [5] = {16, 32, 32, 0},     [6] = {16, 128, 128, 0},   [7] = {32, 128, 256, 0},
        [8] = {128, 258, 1024, 0}, [9] = {258, 258, 4096, 0},
};

struct cas_go_chain {
        struct level level;
        cas_go_block_fn block;
        void *block_arg;
        uint64_t base_bytes;  /* of the input are before the window; wraps with a dictionary */
        uint32_t base;        /* place of the window's first byte */
        uint32_t index, end;  /* of the window: done, filled */
        uint32_t block_index; /* where the present block begins, or NOT_IN_WINDOW */
        uint32_t length, distance;
        bool is_byte_pending; /* lazy: the byte before index waits for the match at index */
        uint8_t late;         /* bit i: end - 1 - i was to be hashed, but lay too near the end */
        uint32_t token_count;
        uint32_t tokens[CAS_GO_BLOCK_TOKENS + 1];
        uint32_t head[1 << HASH_BITS];      /* latest place of each hash */
        uint16_t back[CAS_GO_WINDOW_BYTES]; /* from each place to the one before; 65535: out of
                                               reach */
        uint8_t window[BUFFER_BYTES + 16];
};

struct cas_go_chain *cas_go_chain_new(int level, cas_go_block_fn block, void *arg)
{
        struct cas_go_chain *c = cas_xcalloc(1, sizeof(*c));
        cas_assert(level >= 2 && level <= 9);
        c->level = levels[level];
        c->block = block;
        c->block_arg = arg;
        cas_go_chain_begin(c, NULL, 0);
        return c;
}

void cas_go_chain_free(struct cas_go_chain *c)
{
        free(c);
}

static inline uint32_t hash4(const uint8_t *p)
{
        return (__builtin_bswap32(cas_get_le32(p)) * UINT32_C(0x1e35a7bd)) >> (32 - HASH_BITS);
}

/* The place before with the same hash. */
static inline uint32_t insert(struct cas_go_chain *c, uint32_t index)
{
        uint32_t *head = &c->head[hash4(c->window + index)];
        uint32_t place = c->base + index, before = *head;
        uint32_t back = place - before;
        c->back[place & WINDOW_MASK] = (uint16_t)(back < UINT16_MAX ? back : UINT16_MAX);
        *head = place;
        return before;
}

/* Equal bytes at a and b, at most max; the first `from` are known to be equal. Reads 8 at a
 * time. */
static inline uint32_t equal_bytes(const uint8_t *a, const uint8_t *b, uint32_t from, uint32_t max)
{
        for (uint32_t n = from; n < max; n += 8) {
                uint64_t differ = cas_get_le64(a + n) ^ cas_get_le64(b + n);
                if (differ != 0) {
                        n += (uint32_t)__builtin_ctzll(differ) / 8;
                        return n < max ? n : max;
                }
        }
        return max;
}

/* Sets length and distance when there is a match at index; `place` is the chain's first. ahead:
 * bytes from index on, 4 to 258. */
static inline void search(struct cas_go_chain *c, uint32_t place, uint32_t ahead)
{
        const uint8_t *here = c->window + c->index;
        uint32_t now = c->base + c->index;
        uint32_t low = c->index > CAS_GO_WINDOW_BYTES ? now - CAS_GO_WINDOW_BYTES : c->base;
        uint32_t nice = c->level.nice < ahead ? c->level.nice : ahead;
        uint32_t length = MATCH_BYTES_MIN - 1, tries = c->level.tries;
        uint32_t wanted = cas_get_le32(here);
        const uint8_t *tail = c->window - c->base;
        while (place >= low) {
                if (cas_get_le32(tail + place) == wanted) {
                        const uint8_t *there = here - (now - place);
                        uint32_t n = equal_bytes(here, there, 0, ahead);
                        if (n > length &&
                            (n > MATCH_BYTES_MIN || now - place <= SHORT_DISTANCE_MAX)) {
                                length = n;
                                c->length = n;
                                c->distance = now - place;
                                if (n >= nice)
                                        return;
                                tail = c->window - c->base + n - 3;
                                wanted = cas_get_le32(here + n - 3);
                        }
                }
                if (--tries == 0)
                        return;
                place -= c->back[place & WINDOW_MASK];
        }
}

static void end_block(struct cas_go_chain *c)
{
        const uint8_t *input = c->block_index <= c->index ? c->window + c->block_index : NULL;
        size_t len = input ? c->index - c->block_index : 0;
        c->block_index = c->index;
        c->block(c->block_arg, c->tokens, c->token_count, input, len, c->base_bytes + c->index);
        c->token_count = 0;
}

/* Puts what is at index into the chains; the place before, or 0 when it is too near the end. */
static inline uint32_t insert_checked(struct cas_go_chain *c, uint32_t index)
{
        if (index + MATCH_BYTES_MIN <= c->end)
                return insert(c, index);
        c->late |= (uint8_t)(1U << (c->end - 1 - index));
        return 0;
}

/* One step of levels 4 to 9. is_near_end: fewer than AHEAD_BYTES are ahead. */
static inline void step_lazy(struct cas_go_chain *c, bool is_near_end)
{
        uint32_t ahead = c->end - c->index;
        uint32_t place = is_near_end ? insert_checked(c, c->index) : insert(c, c->index);
        uint32_t length_before = c->length, distance_before = c->distance;
        c->length = MATCH_BYTES_MIN - 1;
        c->distance = 0;
        if (length_before < c->level.lazy && ahead > length_before)
                search(c, place, ahead < MATCH_BYTES_MAX ? ahead : MATCH_BYTES_MAX);
        if (length_before >= MATCH_BYTES_MIN && c->length <= length_before) {
                c->tokens[c->token_count++] = cas_token_match(length_before, distance_before);
                uint32_t last = c->index + length_before - 1;
                while (++c->index < last)
                        is_near_end ? insert_checked(c, c->index) : insert(c, c->index);
                c->is_byte_pending = false;
                c->length = MATCH_BYTES_MIN - 1;
                if (c->token_count == CAS_GO_BLOCK_TOKENS)
                        end_block(c);
                return;
        }
        if (c->is_byte_pending) {
                c->tokens[c->token_count++] = c->window[c->index - 1];
                if (c->token_count == CAS_GO_BLOCK_TOKENS)
                        end_block(c);
        }
        c->index++;
        c->is_byte_pending = true;
}

/* One step of levels 2 and 3. */
static inline void step_greedy(struct cas_go_chain *c, bool is_near_end)
{
        uint32_t ahead = c->end - c->index;
        uint32_t place = is_near_end ? insert_checked(c, c->index) : insert(c, c->index);
        c->length = 0;
        if (ahead >= MATCH_BYTES_MIN)
                search(c, place, ahead < MATCH_BYTES_MAX ? ahead : MATCH_BYTES_MAX);
        if (c->length > 0) {
                uint32_t next = c->index + c->length;
                c->tokens[c->token_count++] = cas_token_match(c->length, c->distance);
                if (c->length <= c->level.skip)
                        while (++c->index < next)
                                is_near_end ? insert_checked(c, c->index) : insert(c, c->index);
                c->index = next;
        } else {
                c->tokens[c->token_count++] = c->window[c->index++];
        }
        if (c->token_count == CAS_GO_BLOCK_TOKENS)
                end_block(c);
}

/* What a restart could not hash for want of the bytes behind it. */
static void insert_late(struct cas_go_chain *c)
{
        for (uint32_t i = 3; i > 0; i--)
                if ((c->late >> (i - 1) & 1) && c->index - i + MATCH_BYTES_MIN <= c->end)
                        (void)insert(c, c->index - i);
        c->late = 0;
}

static void run(struct cas_go_chain *c)
{
        if (c->late)
                insert_late(c);
        if (c->level.lazy > 0)
                while (c->end - c->index >= AHEAD_BYTES)
                        step_lazy(c, false);
        else
                while (c->end - c->index >= AHEAD_BYTES)
                        step_greedy(c, false);
}

static void places_rebase(struct cas_go_chain *c)
{
        uint32_t gone = c->base - PLACE_FIRST;
        for (size_t i = 0; i < CAS_COUNT(c->head); i++)
                c->head[i] = c->head[i] > gone ? c->head[i] - gone : 0;
        c->base = PLACE_FIRST;
}

static void window_move(struct cas_go_chain *c)
{
        memmove(c->window, c->window + CAS_GO_WINDOW_BYTES, CAS_GO_WINDOW_BYTES);
        c->base += CAS_GO_WINDOW_BYTES;
        c->base_bytes += CAS_GO_WINDOW_BYTES;
        c->index -= CAS_GO_WINDOW_BYTES;
        c->end -= CAS_GO_WINDOW_BYTES;
        if (c->block_index != NOT_IN_WINDOW)
                c->block_index = c->block_index >= CAS_GO_WINDOW_BYTES
                                         ? c->block_index - CAS_GO_WINDOW_BYTES
                                         : NOT_IN_WINDOW;
        if (c->base > PLACE_MAX)
                places_rebase(c);
}

void cas_go_chain_write(struct cas_go_chain *c, const uint8_t *data, size_t len)
{
        while (len > 0) {
                if (c->end == BUFFER_BYTES) {
                        run(c);
                        window_move(c);
                }
                size_t n = cas_min_u64(len, BUFFER_BYTES - c->end);
                memcpy(c->window + c->end, data, n);
                c->end += (uint32_t)n;
                data += n;
                len -= n;
        }
}

/* Everything up to the end, leaving `late` as it is then. */
static void run_to_end(struct cas_go_chain *c)
{
        run(c);
        while (c->index < c->end)
                c->level.lazy > 0 ? step_lazy(c, true) : step_greedy(c, true);
        if (c->is_byte_pending) {
                c->tokens[c->token_count++] = c->window[c->index - 1];
                c->is_byte_pending = false;
        }
        if (c->token_count > 0)
                end_block(c);
}

void cas_go_chain_flush(struct cas_go_chain *c)
{
        run_to_end(c);
        c->late = 0;
        if (c->index >= MOVE_INDEX)
                window_move(c);
}

static void clear(struct cas_go_chain *c)
{
        memset(c->head, 0, sizeof(c->head));
        memset(c->back, 0xff, sizeof(c->back));
        c->base = PLACE_FIRST;
        c->base_bytes = 0;
        c->index = c->end = c->block_index = 0;
        c->length = MATCH_BYTES_MIN - 1;
        c->distance = 0;
        c->is_byte_pending = false;
        c->late = 0;
        c->token_count = 0;
}

void cas_go_chain_begin(struct cas_go_chain *c, const uint8_t *dictionary, size_t len)
{
        clear(c);
        if (len > CAS_GO_WINDOW_BYTES) {
                dictionary += len - CAS_GO_WINDOW_BYTES;
                len = CAS_GO_WINDOW_BYTES;
        }
        if (len == 0)
                return;
        memcpy(c->window, dictionary, len);
        for (uint32_t i = 0; i + MATCH_BYTES_MIN <= len; i++)
                (void)insert(c, i);
        c->index = c->end = (uint32_t)len;
        c->base_bytes = 0 - (uint64_t)len;
        /* block_index stays at the dictionary's first byte, as in the original: a stored first
         * block would hold the dictionary too. */
}

uint32_t cas_go_chain_index(const struct cas_go_chain *c)
{
        return c->index;
}

uint32_t cas_go_chain_memory(const struct cas_go_chain *c)
{
        return c->level.lazy > 0 ? CAS_GO_WINDOW_BYTES : (2 + HEAL_WINDOWS) * CAS_GO_WINDOW_BYTES;
}

static void ignore_block(void *arg, const uint32_t *tokens, size_t count, const uint8_t *input,
                         size_t len, uint64_t end)
{
        (void)arg, (void)tokens, (void)count, (void)input, (void)len, (void)end;
}

/* Levels 4 to 9: every place is in the chains but the three before a flush. */
static void restore_chains(struct cas_go_chain *c, const uint32_t *cuts, unsigned cut_count)
{
        uint32_t first = c->index > CAS_GO_WINDOW_BYTES ? c->index - CAS_GO_WINDOW_BYTES : 0;
        uint32_t i = first;
        for (unsigned cut = cut_count; cut-- > 0;) {
                uint32_t at = cuts[cut] < c->index ? c->index - cuts[cut] : 0;
                for (; i + MATCH_BYTES_MIN <= at; i++)
                        (void)insert(c, i);
                i = i > at ? i : at;
        }
        for (; i < c->index; i++)
                if (i + MATCH_BYTES_MIN <= c->index)
                        (void)insert(c, i);
                else
                        c->late |= (uint8_t)(1U << (c->index - 1 - i));
}

/* Levels 2 and 3: encodes again what came before, as far back as there is; the choice of matches
 * becomes the same after a short while, and is the same when the run's beginning is there. */
static bool replay(struct cas_go_chain *c, uint64_t end, uint32_t index, const uint8_t *before,
                   size_t len, const uint32_t *cuts, unsigned cut_count)
{
        cas_go_block_fn block = c->block;
        uint32_t from = index;
        c->block = ignore_block;
        if (end <= len && (len < CAS_GO_RESTART_BYTES || len - end >= CAS_GO_WINDOW_BYTES)) {
                from = (uint32_t)end;
                cas_go_chain_begin(c, before, len - end);
        } else {
                for (unsigned i = 0; i < HEAL_WINDOWS && from + CAS_GO_WINDOW_BYTES <= len; i++)
                        from += CAS_GO_WINDOW_BYTES;
        }
        const uint8_t *at = before + len - from;
        for (unsigned cut = cut_count; cut-- > 0;) {
                const uint8_t *to = before + len - cas_min_u64(cuts[cut], len);
                if (to < at)
                        continue;
                cas_go_chain_write(c, at, (size_t)(to - at));
                cas_go_chain_flush(c);
                at = to;
        }
        cas_go_chain_write(c, at, (size_t)(before + len - at));
        bool is_flushed = c->index == c->end;
        if (!is_flushed)
                run_to_end(c);
        c->block = block;
        return c->index == index;
}

bool cas_go_chain_restore(struct cas_go_chain *c, uint64_t end, uint32_t index,
                          const uint8_t *before, size_t len, const uint32_t *cuts,
                          unsigned cut_count)
{
        clear(c);
        if (index > len || index > BUFFER_BYTES)
                return false;
        if (c->level.lazy == 0) {
                if (!replay(c, end, index, before, len, cuts, cut_count))
                        return false;
        } else {
                memcpy(c->window, before + len - index, index);
                c->index = c->end = index;
                restore_chains(c, cuts, cut_count);
        }
        c->base_bytes = end - index;
        c->block_index = index;
        return true;
}
