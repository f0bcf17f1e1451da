/* SPDX-License-Identifier: Apache-2.0 */
/* The match finders of klauspost/compress levels 1 and 2: one table, one candidate, steps that grow
 * while nothing is found. Level 2 has a larger table and enters more places of a match. */
#include "cas/deflate/klauspost_cursor.h"

#define LEVEL1_BITS 15U
#define LEVEL2_BITS 17U
#define BITS_MAX (LEVEL2_BITS + 1)
#define MARGIN_BYTES 11U
#define BLOCK_BYTES_MIN 13U
#define SKIP_SHIFT 5U

struct level12 {
        struct cas_kp_finder base;
        uint32_t table[1U << BITS_MAX]; /* level 1 uses the first part */
};

/* What differs by level and date; constants where they are used. */
struct variant {
        int level;
        bool hash5;
        unsigned bits;
};

static inline uint32_t hash(struct variant v, uint64_t value)
{
        if (v.hash5)
                return cas_kp_hash5(value, v.bits);
        return v.level == 1 ? cas_kp_hash4_old(value, v.bits) : cas_kp_hash4(value, v.bits);
}

static inline bool fits(const struct cas_kp_cursor *c, uint32_t candidate, uint32_t reach)
{
        return c->base + c->at - candidate < reach &&
               cas_kp_bytes_at(c, candidate) == (uint32_t)c->value;
}

/* Two places are tried before the step grows: `next`, and the one behind it. */
static inline bool search(struct cas_kp_cursor *c, uint32_t *table, struct variant v)
{
        for (;;) {
                uint32_t slot = hash(v, c->value);
                uint32_t candidate = table[slot];
                c->next = c->at + 2 + ((c->at - c->emitted) >> SKIP_SHIFT);
                if (c->next > c->limit)
                        return false;
                uint64_t ahead = cas_kp_load64(c->data + c->next);
                table[slot] = c->base + c->at;
                slot = hash(v, ahead);
                if (!fits(c, candidate, CAS_KP_REACH)) {
                        c->value = ahead;
                        c->at = c->next++;
                        candidate = table[slot];
                        table[slot] = c->base + c->at;
                        if (!fits(c, candidate, CAS_KP_REACH)) {
                                c->value = ahead >> 8;
                                c->at = c->next;
                                continue;
                        }
                        if (v.level == 1)
                                table[slot] = c->base + c->next;
                } else {
                        table[slot] = c->base + c->next;
                }
                c->found = candidate - c->base;
                return true;
        }
}

/* Three places of seven within a match of level 2. The third is hashed with a zero for its fifth
 * byte. */
static inline void enter_inside(const struct cas_kp_cursor *c, uint32_t *table, struct variant v,
                                uint32_t length)
{
        for (uint32_t i = c->at - length + 2; i + 5 < c->at; i += 7) {
                uint64_t value = cas_kp_load64(c->data + i);
                table[hash(v, value)] = c->base + i;
                table[hash(v, value >> 16)] = c->base + i + 2;
                table[hash(v, value >> 32)] = c->base + i + 4;
        }
}

/* Takes the match, and those that begin where one ends. False: near the end of the block. */
static inline bool follow(struct cas_kp_cursor *c, uint32_t *table, struct variant v,
                          enum cas_kp_date date, struct cas_kp_tokens *out)
{
        for (;;) {
                uint32_t length = cas_kp_cursor_take(c, date, out);
                if (c->at >= c->limit) {
                        if (!v.hash5 && c->at + length + 4 < c->end)
                                table[hash(v, cas_kp_load32(c->data + c->at))] = c->base + c->at;
                        return false;
                }
                if (v.level == 2)
                        enter_inside(c, table, v, length);
                uint64_t value = cas_kp_load64(c->data + c->at - 2);
                table[hash(v, value)] = c->base + c->at - 2;
                if (v.level == 2)
                        table[hash(v, value >> 8)] = c->base + c->at - 1;
                c->value = value >> 16;
                uint32_t slot = hash(v, c->value);
                uint32_t candidate = table[slot];
                table[slot] = c->base + c->at;
                if (!fits(c, candidate, CAS_KP_REACH + 1)) {
                        c->value >>= 8;
                        c->at++;
                        return true;
                }
                c->found = candidate - c->base;
        }
}

__attribute__((always_inline)) static inline void find(struct cas_kp_cursor *c, uint32_t *table,
                                                       struct variant v, enum cas_kp_date date,
                                                       struct cas_kp_tokens *out)
{
        while (search(c, table, v) && follow(c, table, v, date, out))
                ;
}

static struct cas_kp_cursor cursor(const uint8_t *data, uint32_t start, uint32_t end, uint32_t base)
{
        return (struct cas_kp_cursor){
                .data = data,
                .end = end,
                .limit = end - MARGIN_BYTES,
                .base = base,
                .at = start,
                .emitted = start,
                .value = cas_kp_load64(data + start),
        };
}

static void level1_encode(struct cas_kp_finder *finder, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level12 *f = (struct level12 *)finder;
        if (end - start < BLOCK_BYTES_MIN)
                return;
        struct cas_kp_cursor c = cursor(data, start, end, base);
        enum cas_kp_date date = finder->date;
        if (date >= CAS_KP_2022_09B)
                find(&c, f->table, (struct variant){1, true, LEVEL1_BITS}, date, out);
        else if (date >= CAS_KP_2020_02B)
                find(&c, f->table, (struct variant){1, false, LEVEL1_BITS}, date, out);
        else
                find(&c, f->table, (struct variant){1, false, LEVEL1_BITS + 1}, date, out);
        cas_kp_cursor_finish(&c, out);
}

static void level2_encode(struct cas_kp_finder *finder, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level12 *f = (struct level12 *)finder;
        if (end - start < BLOCK_BYTES_MIN)
                return;
        struct cas_kp_cursor c = cursor(data, start, end, base);
        if (finder->date >= CAS_KP_2022_09B)
                find(&c, f->table, (struct variant){2, true, LEVEL2_BITS}, finder->date, out);
        else if (finder->date >= CAS_KP_2020_02B)
                find(&c, f->table, (struct variant){2, false, LEVEL2_BITS}, finder->date, out);
        else
                find(&c, f->table, (struct variant){2, false, LEVEL2_BITS + 1}, finder->date, out);
        cas_kp_cursor_finish(&c, out);
}

static void level12_rebase(struct cas_kp_finder *finder, uint32_t less)
{
        struct level12 *f = (struct level12 *)finder;
        cas_kp_rebase32(f->table, CAS_COUNT(f->table), less);
}

static void level12_reset(struct cas_kp_finder *finder)
{
        struct level12 *f = (struct level12 *)finder;
        memset(f->table, 0, sizeof(f->table));
}

static void level12_free(struct cas_kp_finder *finder)
{
        free(finder);
}

static const struct cas_kp_finder_ops level1_ops = {
        .encode = level1_encode,
        .rebase = level12_rebase,
        .reset = level12_reset,
        .free = level12_free,
};
static const struct cas_kp_finder_ops level2_ops = {
        .encode = level2_encode,
        .rebase = level12_rebase,
        .reset = level12_reset,
        .free = level12_free,
};

static struct cas_kp_finder *level12_new(const struct cas_kp_finder_ops *ops, enum cas_kp_date date)
{
        struct level12 *f = cas_xcalloc(1, sizeof(*f));
        f->base = (struct cas_kp_finder){.ops = ops, .date = date};
        return &f->base;
}

struct cas_kp_finder *cas_kp_level1_new(enum cas_kp_date date)
{
        return level12_new(&level1_ops, date);
}

struct cas_kp_finder *cas_kp_level2_new(enum cas_kp_date date)
{
        return level12_new(&level2_ops, date);
}
