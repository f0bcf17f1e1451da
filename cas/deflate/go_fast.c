/* SPDX-License-Identifier: Apache-2.0 */
/* Level 1: one table of the last place of each hash of 4 bytes, and longer and longer steps where
 * nothing is found. The previous block lies right before the present one, so that a match that
 * begins there goes on here. */
#include "cas/deflate/go_int.h"

#define TABLE_BITS 14
#define MARGIN 15 /* the last bytes of a block, where no match begins */
#define MATCH_BYTES_MAX 258
#define DISTANCE_MAX 32768
#define BUFFER_BYTES (8 * (size_t)CAS_GO_STORED_BYTES_MAX)
/* Positions that are no longer in reach of anything. */
#define FORGOTTEN (2 * DISTANCE_MAX)
#define POSITION_MAX (UINT32_MAX - (uint32_t)(4 * BUFFER_BYTES))

struct entry {
        uint32_t bytes, position;
};

struct cas_go_fast {
        struct entry table[1 << TABLE_BITS];
        uint32_t position; /* of buffer[block] */
        uint32_t known;    /* bytes right before it that matches may be compared with */
        size_t block;
        uint32_t tokens[CAS_GO_STORED_BYTES_MAX];
        struct cas_go_counts counts;
        uint8_t buffer[BUFFER_BYTES + 8];
};

struct cas_go_fast *cas_go_fast_new(void)
{
        struct cas_go_fast *f = cas_xcalloc(1, sizeof(*f));
        cas_go_fast_clear(f);
        return f;
}

void cas_go_fast_free(struct cas_go_fast *f)
{
        free(f);
}

void cas_go_fast_clear(struct cas_go_fast *f)
{
        memset(f->table, 0, sizeof(f->table));
        f->position = FORGOTTEN;
        f->known = 0;
        f->block = 0;
}

void cas_go_fast_reset(struct cas_go_fast *f)
{
        f->known = 0;
        f->block = 0;
        f->position += FORGOTTEN;
        if (f->position > POSITION_MAX)
                cas_go_fast_clear(f);
}

uint8_t *cas_go_fast_room(struct cas_go_fast *f)
{
        return f->buffer + f->block;
}

static inline uint32_t hash(uint32_t bytes)
{
        return (bytes * UINT32_C(0x1e35a7bd)) >> (32 - TABLE_BITS);
}

/* Equal bytes at a and b, at most max. Reads 8 at a time. */
static inline size_t equal_bytes(const uint8_t *a, const uint8_t *b, size_t max)
{
        for (size_t n = 0; n < max; n += 8) {
                uint64_t differ = cas_get_le64(a + n) ^ cas_get_le64(b + n);
                if (differ != 0)
                        return cas_min_u64(n + (size_t)__builtin_ctzll(differ) / 8, max);
        }
        return max;
}

static inline uint32_t *put_literals(struct cas_go_fast *f, uint32_t *to, const uint8_t *from,
                                     const uint8_t *end)
{
        for (; from < end; from++) {
                f->counts.literals[*from]++;
                *to++ = *from;
        }
        return to;
}

/* Puts the bytes at s into the table; the place where they were before, or UINT32_MAX when that is
 * out of reach or other bytes. */
static inline uint32_t look_up(struct cas_go_fast *f, uint32_t position, uint32_t bytes)
{
        struct entry *e = &f->table[hash(bytes)];
        struct entry was = *e;
        *e = (struct entry){bytes, position};
        return was.bytes == bytes && position - was.position <= DISTANCE_MAX
                       ? position - was.position
                       : UINT32_MAX;
}

/* A match of at least 4 bytes at s; returns its length. */
static uint32_t match_length(const struct cas_go_fast *f, const uint8_t *block, size_t len,
                             uint32_t s, uint32_t distance)
{
        /* Only 4 bytes are known of what lies before the previous block. */
        if (distance > s + 4 + f->known)
                return 4;
        size_t max = cas_min_u64(MATCH_BYTES_MAX - 4, len - s - 4);
        const uint8_t *at = block + s + 4;
        return 4 + (uint32_t)equal_bytes(at, at - distance, max);
}

static size_t encode(struct cas_go_fast *f, const uint8_t *block, size_t len)
{
        uint32_t *to = f->tokens, base = f->position;
        uint32_t s = 0, next = 0, emitted = 0, limit = (uint32_t)len - MARGIN;
        for (;;) {
                uint32_t skip = 32, distance = UINT32_MAX;
                while (distance == UINT32_MAX) {
                        s = next;
                        next = s + (skip >> 5);
                        skip += skip >> 5;
                        if (next > limit)
                                goto rest;
                        distance = look_up(f, base + s, cas_get_le32(block + s));
                }
                to = put_literals(f, to, block + emitted, block + s);
                while (distance != UINT32_MAX) {
                        uint32_t length = match_length(f, block, len, s, distance);
                        *to++ = cas_token_match(length, distance);
                        cas_go_count_match(&f->counts, length, distance);
                        s += length;
                        emitted = s;
                        if (s >= limit)
                                goto rest;
                        uint32_t before = cas_get_le32(block + s - 1);
                        f->table[hash(before)] = (struct entry){before, base + s - 1};
                        distance = look_up(f, base + s, cas_get_le32(block + s));
                }
                next = s + 1;
        }
rest:
        to = put_literals(f, to, block + emitted, block + len);
        return (size_t)(to - f->tokens);
}

static void positions_rebase(struct cas_go_fast *f)
{
        for (size_t i = 0; i < CAS_COUNT(f->table); i++) {
                uint32_t age = f->position - f->table[i].position;
                f->table[i].position = FORGOTTEN - (age < FORGOTTEN ? age : FORGOTTEN);
        }
        f->position = FORGOTTEN;
}

void cas_go_fast_encode(struct cas_go_fast *f, size_t len, struct cas_go_block *out)
{
        const uint8_t *block = f->buffer + f->block;
        cas_assert(len > MARGIN && len <= CAS_GO_STORED_BYTES_MAX);
        if (f->position > POSITION_MAX)
                positions_rebase(f);
        memset(&f->counts, 0, sizeof(f->counts));
        size_t count = encode(f, block, len);
        f->position += (uint32_t)len;
        f->known = (uint32_t)len;
        f->block += len;
        if (f->block > BUFFER_BYTES - CAS_GO_STORED_BYTES_MAX) {
                memmove(f->buffer, block, len);
                block = f->buffer;
                f->block = len;
        }
        *out = (struct cas_go_block){f->tokens, count, &f->counts, block, len};
}

bool cas_go_fast_same(const struct cas_go_fast *a, const struct cas_go_fast *b)
{
        for (size_t i = 0; i < CAS_COUNT(a->table); i++) {
                uint32_t age = a->position - a->table[i].position;
                uint32_t other = b->position - b->table[i].position;
                if (age > DISTANCE_MAX && other > DISTANCE_MAX)
                        continue;
                if (age != other || a->table[i].bytes != b->table[i].bytes)
                        return false;
        }
        return a->known == b->known;
}
