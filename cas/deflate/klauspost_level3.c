/* SPDX-License-Identifier: Apache-2.0 */
/* The match finder of klauspost/compress level 3: one table whose slots hold the latest place and
 * the one before it. */
#include "cas/deflate/klauspost_cursor.h"

#define SLOTS_MAX (1U << 16)
#define REACH (CAS_KP_REACH - 4)

struct pair {
        uint32_t latest, before;
};
_Static_assert(sizeof(struct pair) == 2 * sizeof(uint32_t), "rebased as an array of both");

struct level3 {
        struct cas_kp_finder base;
        struct pair slots[SLOTS_MAX];
        struct pair *values; /* 2020_02 only: the bytes at those places */
};

/* What differs by date; constants where they are used. */
struct variant {
        enum { HASH4_OLD, HASH4, HASH5 } hash;
        unsigned bits;
        unsigned skip_shift;
        unsigned margin_bytes;
        unsigned step; /* between places entered within a match; 0: none, but one more before
                          its end */
        unsigned tail; /* bytes that must follow a place near the end to be entered */
        bool values;   /* bytes of places out of reach are known */
};
static const struct variant variant_2020_02 = {
        .hash = HASH4_OLD,
        .bits = 16,
        .skip_shift = 6,
        .margin_bytes = 7,
        .tail = 4,
        .values = true,
};
static const struct variant variant_2020_02b = {
        .hash = HASH4_OLD,
        .bits = 15,
        .skip_shift = 6,
        .margin_bytes = 7,
        .tail = 4,
};
static const struct variant variant_2022_02 = {
        .hash = HASH4,
        .bits = 16,
        .skip_shift = 6,
        .margin_bytes = 7,
        .step = 5,
        .tail = 4,
};
static const struct variant variant_2022_09b = {
        .hash = HASH5,
        .bits = 16,
        .skip_shift = 7,
        .margin_bytes = 11,
        .step = 6,
        .tail = 8,
};

static inline uint32_t hash(struct variant v, uint64_t value)
{
        if (v.hash == HASH5)
                return cas_kp_hash5(value, v.bits);
        return v.hash == HASH4 ? cas_kp_hash4(value, v.bits) : cas_kp_hash4_old(value, v.bits);
}

/* What was in a slot when a place was entered there. */
struct candidates {
        struct pair places, values;
};

static inline struct candidates enter(struct level3 *f, struct variant v, uint64_t value,
                                      uint32_t position)
{
        uint32_t slot = hash(v, value);
        struct candidates old = {.places = f->slots[slot]};
        f->slots[slot] = (struct pair){position, old.places.latest};
        if (v.values) {
                old.values = f->values[slot];
                f->values[slot] = (struct pair){(uint32_t)value, old.values.latest};
        }
        return old;
}

static inline bool within(const struct cas_kp_cursor *c, uint32_t candidate, uint32_t reach)
{
        return c->base + c->at - candidate <= reach;
}

static inline bool same(const struct cas_kp_cursor *c, uint32_t candidate)
{
        return cas_kp_bytes_at(c, candidate) == (uint32_t)c->value;
}

static inline bool take(struct cas_kp_cursor *c, uint32_t candidate)
{
        c->found = candidate - c->base;
        return true;
}

/* Both fit: the longer one, the latest if they are equal. */
static inline bool take_longer(struct cas_kp_cursor *c, struct pair places)
{
        uint32_t latest = places.latest - c->base, before = places.before - c->base;
        bool older = cas_kp_cursor_equal(c, c->at + 4, before + 4) >
                     cas_kp_cursor_equal(c, c->at + 4, latest + 4);
        c->found = older ? before : latest;
        return true;
}

/* 2020_02 compares the bytes first; the older place is not looked at when those of the latest are
 * the same, be it in reach or not. */
static inline bool choose_by_value(struct cas_kp_cursor *c, struct candidates old, bool longer)
{
        bool before = old.values.before == (uint32_t)c->value &&
                      within(c, old.places.before, CAS_KP_REACH);
        if (old.values.latest != (uint32_t)c->value)
                return before && take(c, old.places.before);
        if (!within(c, old.places.latest, CAS_KP_REACH))
                return false;
        return longer && before ? take_longer(c, old.places) : take(c, old.places.latest);
}

/* During a search. */
static inline bool choose(struct cas_kp_cursor *c, struct variant v, struct candidates old)
{
        if (v.values)
                return choose_by_value(c, old, true);
        if (!within(c, old.places.latest, REACH))
                return false;
        if (!same(c, old.places.latest))
                return within(c, old.places.before, REACH - 1) && same(c, old.places.before) &&
                       take(c, old.places.before);
        if (within(c, old.places.before, REACH) && same(c, old.places.before))
                return take_longer(c, old.places);
        return take(c, old.places.latest);
}

/* Where a match ends. Before 2022_02 the latest place only counts when its bytes differ. */
static inline bool choose_next(struct cas_kp_cursor *c, struct variant v, struct candidates old)
{
        if (v.values)
                return choose_by_value(c, old, false);
        if (!within(c, old.places.latest, REACH - 1))
                return false;
        if (same(c, old.places.latest))
                return v.step > 0 && take(c, old.places.latest);
        return within(c, old.places.before, REACH - 1) && same(c, old.places.before) &&
               take(c, old.places.before);
}

static inline bool search(struct cas_kp_cursor *c, struct level3 *f, struct variant v)
{
        c->next = c->at;
        for (;;) {
                c->at = c->next;
                c->next = c->at + 1 + ((c->at - c->emitted) >> v.skip_shift);
                if (c->next > c->limit)
                        return false;
                uint64_t ahead = cas_kp_load64(c->data + c->next);
                if (choose(c, v, enter(f, v, c->value, c->base + c->at)))
                        return true;
                c->value = ahead;
        }
}

/* Takes the match, and those that begin where one ends. False: near the end of the block. */
static inline bool follow(struct cas_kp_cursor *c, struct level3 *f, struct variant v,
                          enum cas_kp_date date, struct cas_kp_tokens *out)
{
        for (;;) {
                uint32_t length = cas_kp_cursor_take(c, date, out);
                if (c->at >= c->limit) {
                        uint32_t tail = c->found + length;
                        if (tail + v.tail < c->end)
                                enter(f, v, cas_kp_load64(c->data + tail), c->base + tail);
                        return false;
                }
                if (v.step > 0)
                        for (uint32_t i = c->at - length + 2; i + 5 < c->at; i += v.step)
                                enter(f, v, cas_kp_load64(c->data + i), c->base + i);
                else
                        enter(f, v, cas_kp_load64(c->data + c->at - 3), c->base + c->at - 3);
                c->value = cas_kp_load64(c->data + c->at - 2);
                enter(f, v, c->value, c->base + c->at - 2);
                c->value >>= 8;
                enter(f, v, c->value, c->base + c->at - 1);
                c->value >>= 8;
                if (!choose_next(c, v, enter(f, v, c->value, c->base + c->at))) {
                        c->value >>= 8;
                        c->at++;
                        return true;
                }
        }
}

__attribute__((always_inline)) static inline void
find(struct level3 *f, struct variant v, struct cas_kp_cursor c, struct cas_kp_tokens *out)
{
        if (c.end - c.at < v.margin_bytes + 2)
                return;
        c.limit = c.end - v.margin_bytes;
        c.value = cas_kp_load64(c.data + c.at);
        while (search(&c, f, v) && follow(&c, f, v, f->base.date, out))
                ;
        cas_kp_cursor_finish(&c, out);
}

static void level3_encode(struct cas_kp_finder *finder, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level3 *f = (struct level3 *)finder;
        struct cas_kp_cursor c = {
                .data = data, .end = end, .base = base, .at = start, .emitted = start};
        if (finder->date >= CAS_KP_2022_09B)
                find(f, variant_2022_09b, c, out);
        else if (finder->date >= CAS_KP_2022_02)
                find(f, variant_2022_02, c, out);
        else if (finder->date >= CAS_KP_2020_02B)
                find(f, variant_2020_02b, c, out);
        else
                find(f, variant_2020_02, c, out);
}

static void level3_rebase(struct cas_kp_finder *finder, uint32_t less)
{
        struct level3 *f = (struct level3 *)finder;
        cas_kp_rebase32(&f->slots[0].latest, 2 * (size_t)SLOTS_MAX, less);
}

static void level3_reset(struct cas_kp_finder *finder)
{
        struct level3 *f = (struct level3 *)finder;
        memset(f->slots, 0, sizeof(f->slots));
        if (f->values)
                memset(f->values, 0, SLOTS_MAX * sizeof(*f->values));
}

static void level3_free(struct cas_kp_finder *finder)
{
        struct level3 *f = (struct level3 *)finder;
        free(f->values);
        free(f);
}

static const struct cas_kp_finder_ops level3_ops = {
        .encode = level3_encode,
        .rebase = level3_rebase,
        .reset = level3_reset,
        .free = level3_free,
};

struct cas_kp_finder *cas_kp_level3_new(enum cas_kp_date date)
{
        struct level3 *f = cas_xcalloc(1, sizeof(*f));
        f->base = (struct cas_kp_finder){.ops = &level3_ops, .date = date};
        if (date < CAS_KP_2020_02B)
                f->values = cas_xcalloc(SLOTS_MAX, sizeof(*f->values));
        return &f->base;
}
