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
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "cas/deflate/go_int.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

/* How far back the last LINKS places of a chain are from a place, ascending; 65535: out of reach.
 * A group of places costs one access of memory, and is compared at once. All numbers of tries are
 * multiples of it. */
#define LINKS 8
typedef uint16_t links __attribute__((vector_size(2 * LINKS)));

/* What changes with each step; local variables of the loops. */
struct progress {
        uint32_t index;            /* of the window: done */
        uint32_t length, distance; /* lazy: the match at index - 1; below 4: none */
        uint32_t token_count;
        bool is_byte_pending; /* lazy: the byte before index has no token yet */
};

struct cas_go_chain {
        struct level level;
        cas_go_block_fn block;
        void *block_arg;
        void (*run)(struct cas_go_chain *c); /* while enough is ahead */
        uint64_t base_bytes;  /* of the input are before the window; wraps with a dictionary */
        uint32_t base;        /* place of the window's first byte */
        uint32_t end;         /* of what is in the window */
        uint32_t block_index; /* where the present block begins, or NOT_IN_WINDOW */
        uint8_t late;         /* bit i: end - 1 - i was to be hashed, but lay too near the end */
        struct progress at;
        struct cas_go_counts counts; /* of the tokens */
        uint32_t tokens[CAS_GO_BLOCK_TOKENS + 1];
        uint32_t head[1 << HASH_BITS];    /* latest place of each hash */
        links links[CAS_GO_WINDOW_BYTES]; /* of each place of the last 32 KiB */
        uint8_t window[BUFFER_BYTES + 16];
};

static inline uint32_t hash4(const uint8_t *p)
{
        return (__builtin_bswap32(cas_get_le32(p)) * UINT32_C(0x1e35a7bd)) >> (32 - HASH_BITS);
}

/* The links of a place `back` before this one, seen from here: what is too far for 16 bits stays
 * out of reach. */
static inline links links_from(links there, uint16_t back)
{
#ifdef __x86_64__
        return (links)_mm_adds_epu16((__m128i)there, _mm_set1_epi16((short)back));
#else
        links sum = there + back;
        return sum | (links)(sum < back);
#endif
}

/* Puts what is at index into its chain. Returns its links. */
ALWAYS_INLINE links insert(struct cas_go_chain *c, uint32_t index)
{
        uint32_t *head = &c->head[hash4(c->window + index)];
        uint32_t place = c->base + index, back = place - *head;
        links before = c->links[*head & WINDOW_MASK];
        *head = place;
        before = __builtin_shufflevector((links){0}, before, 0, 8, 9, 10, 11, 12, 13, 14);
        before = links_from(before, (uint16_t)(back < UINT16_MAX ? back : UINT16_MAX));
        c->links[place & WINDOW_MASK] = before;
        return before;
}

/* Equal bytes at a and b, at most max. Reads 8 at a time. */
static inline uint32_t equal_bytes(const uint8_t *a, const uint8_t *b, uint32_t max)
{
        for (uint32_t n = 0; n < max; n += 8) {
                uint64_t differ = cas_get_le64(a + n) ^ cas_get_le64(b + n);
                if (differ != 0) {
                        n += (uint32_t)__builtin_ctzll(differ) / 8;
                        return n < max ? n : max;
                }
        }
        return max;
}

/* Which of the places, at most `reach` back, have these 4 bytes: a bit each. */
typedef unsigned (*links_compare_fn)(const uint8_t *at, links back, uint32_t reach,
                                     uint32_t wanted);

static inline unsigned links_compare(const uint8_t *at, links back, uint32_t reach, uint32_t wanted)
{
        unsigned found = 0;
        for (unsigned i = 0; i < LINKS && back[i] <= reach; i++)
                found |= (unsigned)(cas_get_le32(at - back[i]) == wanted) << i;
        return found;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static inline unsigned
links_compare_avx2(const uint8_t *at, links back, uint32_t reach, uint32_t wanted)
{
        __m128i all = (__m128i)back;
        __m128i near = _mm_min_epu16(all, _mm_set1_epi16((short)reach));
        __m256i offsets = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_cvtepu16_epi32(near));
        __m256i bytes = _mm256_i32gather_epi32((const int *)(const void *)at, offsets, 1);
        __m256i same = _mm256_and_si256(_mm256_cmpeq_epi32(bytes, _mm256_set1_epi32((int)wanted)),
                                        _mm256_cvtepi16_epi32(_mm_cmpeq_epi16(near, all)));
        return (unsigned)_mm256_movemask_ps((__m256)same);
}
#endif

struct found {
        uint32_t length, distance; /* what is looked for is longer than that */
};

/* The place `distance` back. True: no other is looked for. */
static inline bool consider(struct found *f, const uint8_t *here, uint32_t distance, uint32_t ahead,
                            uint32_t nice)
{
        uint32_t n = equal_bytes(here, here - distance, ahead);
        if (n > f->length && (n > MATCH_BYTES_MIN || distance <= SHORT_DISTANCE_MAX)) {
                *f = (struct found){n, distance};
                return n >= nice;
        }
        if (distance > SHORT_DISTANCE_MAX && f->length < MATCH_BYTES_MIN)
                f->length = MATCH_BYTES_MIN; /* no use from here on */
        return false;
}

/* Looks for a match at index, whose links are `back`, that is longer than f->length, 3 at least,
 * and less than ahead: the bytes from index on, 258 at most. */
ALWAYS_INLINE void search(const struct cas_go_chain *c, uint32_t index, links back, uint32_t ahead,
                          struct found *f, links_compare_fn compare)
{
        const uint8_t *here = c->window + index;
        uint32_t reach = index < CAS_GO_WINDOW_BYTES ? index : CAS_GO_WINDOW_BYTES;
        uint32_t nice = c->level.nice < ahead ? c->level.nice : ahead;
        unsigned left = 0xff, groups = c->level.tries / LINKS;
        if (back[0] > reach)
                return;
        if (f->length < MATCH_BYTES_MIN) {
                if (consider(f, here, back[0], ahead, nice) || back[1] > reach)
                        return;
                left = 0xfe;
        }
        for (;;) {
                while (left) {
                        const uint8_t *tail = here + f->length - 3;
                        unsigned equal = left & compare(tail, back, reach, cas_get_le32(tail));
                        if (!equal)
                                break;
                        unsigned i = (unsigned)__builtin_ctz(equal);
                        if (consider(f, here, back[i], ahead, nice))
                                return;
                        left = 0xff & (0xfeU << i);
                }
                uint16_t last = back[LINKS - 1];
                if (last > reach || --groups == 0)
                        return;
                back = links_from(c->links[(c->base + index - last) & WINDOW_MASK], last);
                left = 0xff;
        }
}

static __attribute__((noinline)) void end_block(struct cas_go_chain *c, uint32_t index,
                                                uint32_t token_count)
{
        const uint8_t *input = c->block_index <= index ? c->window + c->block_index : NULL;
        struct cas_go_block block = {
                .tokens = c->tokens,
                .token_count = token_count,
                .counts = &c->counts,
                .input = input,
                .input_bytes = input ? index - c->block_index : 0,
        };
        c->block_index = index;
        c->at.index = index; /* of a mark */
        c->block(c->block_arg, &block, c->base_bytes + index);
        memset(&c->counts, 0, sizeof(c->counts));
}

ALWAYS_INLINE void put_literal(struct cas_go_chain *c, struct progress *p, uint8_t byte)
{
        c->tokens[p->token_count++] = byte;
        c->counts.literals[byte]++;
}

ALWAYS_INLINE void put_match(struct cas_go_chain *c, struct progress *p, uint32_t length,
                             uint32_t distance)
{
        c->tokens[p->token_count++] = cas_token_match(length, distance);
        cas_go_count_match(&c->counts, length, distance);
}

ALWAYS_INLINE void end_block_if_full(struct cas_go_chain *c, struct progress *p)
{
        if (p->token_count == CAS_GO_BLOCK_TOKENS) {
                end_block(c, p->index, p->token_count);
                p->token_count = 0;
        }
}

/* The same near the end, where fewer than 4 bytes may be left. */
ALWAYS_INLINE links insert_checked(struct cas_go_chain *c, uint32_t index, bool is_near_end)
{
        if (!is_near_end || index + MATCH_BYTES_MIN <= c->end)
                return insert(c, index);
        c->late |= (uint8_t)(1U << (c->end - 1 - index));
        return ~(links){0};
}

/* One step of levels 4 to 9. is_near_end: fewer than AHEAD_BYTES are ahead. */
ALWAYS_INLINE void step_lazy(struct cas_go_chain *c, struct progress *p, bool is_near_end,
                             links_compare_fn compare)
{
        uint32_t ahead = c->end - p->index;
        links back = insert_checked(c, p->index, is_near_end);
        struct found f = {p->length, 0};
        if (p->length < c->level.lazy && ahead > p->length)
                search(c, p->index, back, ahead < MATCH_BYTES_MAX ? ahead : MATCH_BYTES_MAX, &f,
                       compare);
        if (p->length >= MATCH_BYTES_MIN && f.distance == 0) {
                /* What follows is not better. */
                uint32_t next = p->index + p->length - 1;
                put_match(c, p, p->length, p->distance);
                while (++p->index < next)
                        (void)insert_checked(c, p->index, is_near_end);
                p->is_byte_pending = false;
                p->length = MATCH_BYTES_MIN - 1;
                end_block_if_full(c, p);
                return;
        }
        if (p->is_byte_pending) {
                put_literal(c, p, c->window[p->index - 1]);
                end_block_if_full(c, p);
        }
        p->index++;
        p->is_byte_pending = true;
        p->length = f.distance > 0 ? f.length : MATCH_BYTES_MIN - 1;
        p->distance = f.distance;
}

/* One step of levels 2 and 3. */
ALWAYS_INLINE void step_greedy(struct cas_go_chain *c, struct progress *p, bool is_near_end,
                               links_compare_fn compare)
{
        uint32_t ahead = c->end - p->index;
        links back = insert_checked(c, p->index, is_near_end);
        struct found f = {MATCH_BYTES_MIN - 1, 0};
        if (ahead >= MATCH_BYTES_MIN)
                search(c, p->index, back, ahead < MATCH_BYTES_MAX ? ahead : MATCH_BYTES_MAX, &f,
                       compare);
        if (f.distance > 0) {
                uint32_t next = p->index + f.length;
                put_match(c, p, f.length, f.distance);
                if (f.length <= c->level.skip)
                        while (++p->index < next)
                                (void)insert_checked(c, p->index, is_near_end);
                p->index = next;
        } else {
                put_literal(c, p, c->window[p->index++]);
        }
        end_block_if_full(c, p);
}

ALWAYS_INLINE void run_with(struct cas_go_chain *c, links_compare_fn compare)
{
        struct progress p = c->at;
        if (c->level.lazy > 0)
                while (c->end - p.index >= AHEAD_BYTES)
                        step_lazy(c, &p, false, compare);
        else
                while (c->end - p.index >= AHEAD_BYTES)
                        step_greedy(c, &p, false, compare);
        c->at = p;
}

static void run_plain(struct cas_go_chain *c)
{
        run_with(c, links_compare);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void run_avx2(struct cas_go_chain *c)
{
        run_with(c, links_compare_avx2);
}
#endif

static void (*run_choose(void))(struct cas_go_chain *)
{
#ifdef __x86_64__
        if (__builtin_cpu_supports("avx2"))
                return run_avx2;
#endif
        return run_plain;
}

/* What a restart could not hash for want of the bytes behind it. */
static void insert_late(struct cas_go_chain *c)
{
        for (uint32_t i = 3; i > 0; i--)
                if ((c->late >> (i - 1) & 1) && c->at.index - i + MATCH_BYTES_MIN <= c->end)
                        (void)insert(c, c->at.index - i);
        c->late = 0;
}

static void run(struct cas_go_chain *c)
{
        if (c->late)
                insert_late(c);
        c->run(c);
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
        c->at.index -= CAS_GO_WINDOW_BYTES;
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
        struct progress *p = &c->at;
        run(c);
        while (p->index < c->end)
                if (c->level.lazy > 0)
                        step_lazy(c, p, true, links_compare);
                else
                        step_greedy(c, p, true, links_compare);
        if (p->is_byte_pending) {
                put_literal(c, p, c->window[p->index - 1]);
                p->is_byte_pending = false;
        }
        if (p->token_count > 0)
                end_block(c, p->index, p->token_count);
        p->token_count = 0;
}

void cas_go_chain_flush(struct cas_go_chain *c)
{
        run_to_end(c);
        c->late = 0;
        if (c->at.index >= MOVE_INDEX)
                window_move(c);
}

static void clear(struct cas_go_chain *c)
{
        memset(c->head, 0, sizeof(c->head));
        memset(c->links, 0xff, sizeof(c->links));
        c->base = PLACE_FIRST;
        c->base_bytes = 0;
        c->end = c->block_index = 0;
        c->late = 0;
        c->at = (struct progress){.length = MATCH_BYTES_MIN - 1};
        memset(&c->counts, 0, sizeof(c->counts));
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
        c->at.index = c->end = (uint32_t)len;
        c->base_bytes = 0 - (uint64_t)len;
        /* block_index stays at the dictionary's first byte, as in the original: a stored first
         * block would hold the dictionary too. */
}

struct cas_go_chain *cas_go_chain_new(int level, cas_go_block_fn block, void *arg)
{
        struct cas_go_chain *c = cas_xcalloc(1, sizeof(*c));
        cas_assert(level >= 2 && level <= 9);
        c->level = levels[level];
        c->block = block;
        c->block_arg = arg;
        c->run = run_choose();
        cas_go_chain_begin(c, NULL, 0);
        return c;
}

void cas_go_chain_free(struct cas_go_chain *c)
{
        free(c);
}

uint32_t cas_go_chain_index(const struct cas_go_chain *c)
{
        return c->at.index;
}

uint32_t cas_go_chain_memory(const struct cas_go_chain *c)
{
        return c->level.lazy > 0 ? CAS_GO_WINDOW_BYTES : (2 + HEAL_WINDOWS) * CAS_GO_WINDOW_BYTES;
}

static void ignore_block(void *arg, const struct cas_go_block *block, uint64_t end)
{
        (void)arg, (void)block, (void)end;
}

/* Levels 4 to 9: every place is in the chains but the three before a flush. */
static void restore_chains(struct cas_go_chain *c, const uint32_t *cuts, unsigned cut_count)
{
        uint32_t first = c->at.index > CAS_GO_WINDOW_BYTES ? c->at.index - CAS_GO_WINDOW_BYTES : 0;
        uint32_t i = first;
        for (unsigned cut = cut_count; cut-- > 0;) {
                uint32_t at = cuts[cut] < c->at.index ? c->at.index - cuts[cut] : 0;
                for (; i + MATCH_BYTES_MIN <= at; i++)
                        (void)insert(c, i);
                i = i > at ? i : at;
        }
        for (; i < c->at.index; i++)
                if (i + MATCH_BYTES_MIN <= c->at.index)
                        (void)insert(c, i);
                else
                        c->late |= (uint8_t)(1U << (c->at.index - 1 - i));
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
        bool is_flushed = c->at.index == c->end;
        if (!is_flushed)
                run_to_end(c);
        c->block = block;
        return c->at.index == index;
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
                c->at.index = c->end = index;
                restore_chains(c, cuts, cut_count);
        }
        c->base_bytes = end - index;
        c->block_index = index;
        return true;
}

/* The chain that begins `back` before index, as far as it can be reached from there. */
static bool is_chain_same(const struct cas_go_chain *a, const struct cas_go_chain *b,
                          uint32_t index, uint32_t back)
{
        uint32_t reach = index < CAS_GO_WINDOW_BYTES ? index : CAS_GO_WINDOW_BYTES;
        while (back <= reach) {
                links of_a = a->links[(a->base + index - back) & WINDOW_MASK];
                links of_b = b->links[(b->base + index - back) & WINDOW_MASK];
                for (unsigned i = 0; i < LINKS; i++) {
                        bool is_far = back + of_a[i] > reach && back + of_b[i] > reach;
                        if (of_a[i] != of_b[i] && !is_far)
                                return false;
                }
                back += of_a[0];
        }
        return true;
}

bool cas_go_chain_same(const struct cas_go_chain *c, struct cas_go_chain *restored)
{
        uint32_t index = c->at.index;
        uint32_t ahead = c->end - index < 3 ? c->end - index : 3;
        uint32_t reach = index < CAS_GO_WINDOW_BYTES ? index : CAS_GO_WINDOW_BYTES;
        cas_assert(restored->at.index == index);
        memcpy(restored->window + index, c->window + index, ahead);
        restored->end = index + ahead;
        insert_late(restored);
        for (size_t i = 0; i < CAS_COUNT(c->head); i++) {
                uint32_t back = c->base + index - c->head[i];
                uint32_t other = restored->base + index - restored->head[i];
                if (back > reach && other > reach)
                        continue;
                if (back != other || !is_chain_same(c, restored, index, back))
                        return false;
        }
        return true;
}
