/* SPDX-License-Identifier: Apache-2.0 */
/* The match finder of klauspost/compress level 4: a table for 7 bytes and one for 4; a short match
 * gives way to a longer one a step ahead. */
#include "cas/deflate/klauspost_cursor.h"

#define TABLE_BITS 15U
#define TABLE_BITS_2020_02 16U
#define MARGIN_BYTES 11U
#define BLOCK_BYTES_MIN 13U
#define SKIP_SHIFT 6U

struct level4 {
        struct cas_kp_finder base;
        uint32_t by4[1U << TABLE_BITS_2020_02];
        uint32_t by7[1U << TABLE_BITS_2020_02];
};

/* What differs by date; constants where they are used. */
struct variant {
        unsigned bits;
        bool misplaced; /* compares the match ahead at the wrong place */
};

static inline void enter(struct level4 *f, struct variant v, uint64_t value, uint32_t position)
{
        f->by4[cas_kp_hash4(value, v.bits)] = position;
        f->by7[cas_kp_hash7(value, v.bits)] = position;
}

/* The match at `at` is a short one: is there a longer one at `next`? Takes it then. */
static inline void look_ahead(struct cas_kp_cursor *c, const struct level4 *f, struct variant v,
                              uint64_t ahead)
{
        uint32_t candidate = f->by7[cas_kp_hash7(ahead, v.bits)];
        uint32_t distance = c->base + c->next - candidate;
        if (distance >= CAS_KP_REACH || cas_kp_bytes_at(c, candidate) != (uint32_t)ahead)
                return;
        uint32_t other = c->next - distance;
        uint32_t compared = v.misplaced ? distance : other;
        uint32_t here = cas_kp_cursor_equal(c, c->at + 4, c->found + 4);
        uint32_t there = cas_kp_cursor_equal(c, c->next + 4, compared + 4);
        if (there > here) {
                c->at = c->next;
                c->found = other;
        }
}

static inline bool search(struct cas_kp_cursor *c, struct level4 *f, struct variant v)
{
        c->next = c->at;
        for (;;) {
                uint32_t *by4 = &f->by4[cas_kp_hash4(c->value, v.bits)];
                uint32_t *by7 = &f->by7[cas_kp_hash7(c->value, v.bits)];
                c->at = c->next;
                c->next = c->at + 1 + ((c->at - c->emitted) >> SKIP_SHIFT);
                if (c->next > c->limit)
                        return false;
                uint32_t candidate4 = *by4, candidate7 = *by7;
                uint32_t position = c->base + c->at;
                uint64_t ahead = cas_kp_load64(c->data + c->next);
                *by4 = position;
                *by7 = position;
                if (position - candidate7 < CAS_KP_REACH &&
                    cas_kp_bytes_at(c, candidate7) == (uint32_t)c->value) {
                        c->found = candidate7 - c->base;
                        return true;
                }
                if (position - candidate4 < CAS_KP_REACH &&
                    cas_kp_bytes_at(c, candidate4) == (uint32_t)c->value) {
                        c->found = candidate4 - c->base;
                        look_ahead(c, f, v, ahead);
                        return true;
                }
                c->value = ahead;
        }
}

/* Takes the match and enters places of it: two of three from `next` on, the last one, and where it
 * ends. False: near the end of the block. */
static inline bool follow(struct cas_kp_cursor *c, struct level4 *f, struct variant v,
                          enum cas_kp_date date, struct cas_kp_tokens *out)
{
        cas_kp_cursor_take(c, date, out);
        if (c->at >= c->limit) {
                if (c->at + 8 < c->end)
                        enter(f, v, cas_kp_load64(c->data + c->at), c->base + c->at);
                return false;
        }
        for (uint32_t i = c->next; i + 1 < c->at; i += 3) {
                uint64_t value = cas_kp_load64(c->data + i);
                f->by7[cas_kp_hash7(value, v.bits)] = c->base + i;
                enter(f, v, value >> 8, c->base + i + 1);
        }
        uint64_t value = cas_kp_load64(c->data + c->at - 1);
        enter(f, v, value, c->base + c->at - 1);
        c->value = value >> 8;
        return true;
}

__attribute__((always_inline)) static inline void find(struct cas_kp_cursor *c, struct level4 *f,
                                                       struct variant v, enum cas_kp_date date,
                                                       struct cas_kp_tokens *out)
{
        while (search(c, f, v) && follow(c, f, v, date, out))
                ;
}

static void level4_encode(struct cas_kp_finder *finder, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level4 *f = (struct level4 *)finder;
        if (end - start < BLOCK_BYTES_MIN)
                return;
        struct cas_kp_cursor c = {
                .data = data,
                .end = end,
                .limit = end - MARGIN_BYTES,
                .base = base,
                .at = start,
                .emitted = start,
                .value = cas_kp_load64(data + start),
        };
        enum cas_kp_date date = finder->date;
        if (date >= CAS_KP_2025_02)
                find(&c, f, (struct variant){TABLE_BITS, true}, date, out);
        else if (date >= CAS_KP_2020_02B)
                find(&c, f, (struct variant){TABLE_BITS, false}, date, out);
        else
                find(&c, f, (struct variant){TABLE_BITS_2020_02, false}, date, out);
        cas_kp_cursor_finish(&c, out);
}

static void level4_rebase(struct cas_kp_finder *finder, uint32_t less)
{
        struct level4 *f = (struct level4 *)finder;
        cas_kp_rebase32(f->by4, CAS_COUNT(f->by4), less);
        cas_kp_rebase32(f->by7, CAS_COUNT(f->by7), less);
}

static void level4_reset(struct cas_kp_finder *finder)
{
        struct level4 *f = (struct level4 *)finder;
        memset(f->by4, 0, sizeof(f->by4));
        memset(f->by7, 0, sizeof(f->by7));
}

static void level4_free(struct cas_kp_finder *finder)
{
        free(finder);
}

static const struct cas_kp_finder_ops level4_ops = {
        .encode = level4_encode,
        .rebase = level4_rebase,
        .reset = level4_reset,
        .free = level4_free,
};

struct cas_kp_finder *cas_kp_level4_new(enum cas_kp_date date)
{
        struct level4 *f = cas_xcalloc(1, sizeof(*f));
        f->base = (struct cas_kp_finder){.ops = &level4_ops, .date = date};
        return &f->base;
}
