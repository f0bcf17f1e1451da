/* SPDX-License-Identifier: Apache-2.0 */
/* Level 6 of klauspost's encoders: as level 5, but it tries the latest distance again, looks up the
 * end of every match, and remembers every place within matches. */
#include "cas/deflate/klauspost_find.h"

#define TABLE_BITS_MAX 16U
#define MARGIN 11U /* of bytes at the end of a block where no match begins */
#define BLOCK_MIN (MARGIN + 2)
#define LIMITED_MAX 254U /* bytes behind the first four of a match when candidates are compared */

struct level6 {
        struct cas_kp_finder finder;
        uint32_t near[1U << TABLE_BITS_MAX]; /* by 4 bytes */
        uint64_t far[1U << TABLE_BITS_MAX];  /* by 7 bytes: the latest low, the one before high */
};

struct match {
        uint32_t s, t, length; /* length 0: four bytes at least, not measured yet */
};

static inline void far_push(uint64_t *slot, uint32_t position)
{
        *slot = *slot << 32 | position;
}

/* Bytes that s and t share, where the first four are known to, 258 at the most. */
static inline uint32_t limited(const uint8_t *data, uint32_t s, uint32_t t, uint32_t end)
{
        uint32_t most = end - s - 4;
        return 4 +
               cas_kp_equal(data + s + 4, data + t + 4, most < LIMITED_MAX ? most : LIMITED_MAX);
}

static inline bool is_near(uint32_t at, uint32_t position)
{
        return at - position < CAS_KP_REACH;
}

/* Looks for a longer match by what lies behind the one found: where that came before, the whole
 * may have. The first `skip` bytes may differ. `both`: what the table says of the place behind. */
static inline void try_end(const uint8_t *data, uint32_t end, uint32_t base, uint32_t skip,
                           uint64_t both, struct match *m)
{
        const uint32_t s = m->s, s2 = s + skip;
        for (unsigned k = 0; k < 2; k++, both >>= 32) {
                int32_t distance = (int32_t)(base + s + m->length - (uint32_t)both);
                /* The second place is not looked at when the first is too far. */
                if (distance >= (int32_t)CAS_KP_REACH)
                        return;
                if (distance <= 0 || (uint32_t)distance > s2)
                        continue;
                uint32_t t2 = s2 - (uint32_t)distance;
                uint32_t length = cas_kp_equal(data + s2, data + t2, end - s2);
                if (length > m->length)
                        *m = (struct match){s2, t2, length};
        }
}

/* A match at next_s by the 7 byte table, if it is longer. */
static inline void try_next(const uint8_t *data, uint32_t end, uint32_t base, uint32_t next_s,
                            uint64_t both, struct match *m)
{
        uint32_t at = base + next_s, next = cas_kp_load32(data + next_s);
        for (unsigned k = 0; k < 2 && is_near(at, (uint32_t)both); k++, both >>= 32) {
                uint32_t t = (uint32_t)both - base;
                if (cas_kp_load32(data + t) != next)
                        continue;
                uint32_t length = limited(data, next_s, t, end);
                if (length > m->length)
                        *m = (struct match){next_s, t, length};
        }
}

/* `bits`, `end_check` and `skip` are constant in each caller, see level6_encode. */
static inline __attribute__((always_inline)) void find(struct level6 *self, const uint8_t *data,
                                                       uint32_t start, uint32_t end, uint32_t base,
                                                       struct cas_kp_tokens *out, unsigned bits,
                                                       bool end_check, uint32_t skip)
{
        uint32_t *near = self->near;
        uint64_t *far = self->far;
        const uint32_t limit = end - MARGIN;
        uint32_t emitted = start, s = start, repeat = 1;
        uint64_t here = cas_kp_load64(data + s);
        for (;;) {
                struct match m;
                uint32_t next_s = s;
                uint32_t h4 = cas_kp_hash4(here, bits), h7 = cas_kp_hash7(here, bits);
                for (;;) {
                        s = next_s;
                        next_s = s + 1 + ((s - emitted) >> 7);
                        if (next_s > limit)
                                goto rest;
                        uint32_t at = base + s, next_at = base + next_s;
                        uint32_t close = near[h4];
                        uint64_t both = far[h7];
                        uint64_t next = cas_kp_load64(data + next_s);
                        near[h4] = at;
                        far[h7] = both << 32 | at;
                        h4 = cas_kp_hash4(next, bits);
                        h7 = cas_kp_hash7(next, bits);

                        uint32_t latest = (uint32_t)both, earlier = (uint32_t)(both >> 32);
                        if (is_near(at, latest)) {
                                bool has_latest =
                                        cas_kp_load32(data + (latest - base)) == (uint32_t)here;
                                bool has_earlier =
                                        is_near(at, earlier) &&
                                        cas_kp_load32(data + (earlier - base)) == (uint32_t)here;
                                if (has_latest || has_earlier) {
                                        near[h4] = next_at;
                                        far_push(&far[h7], next_at);
                                        m = (struct match){
                                                s, (has_latest ? latest : earlier) - base, 0};
                                        if (!has_latest || !has_earlier)
                                                break;
                                        m.length = limited(data, s, m.t, end);
                                        uint32_t length2 = limited(data, s, earlier - base, end);
                                        if (length2 > m.length)
                                                m = (struct match){s, earlier - base, length2};
                                        break;
                                }
                        }
                        if (is_near(at, close) &&
                            cas_kp_load32(data + (close - base)) == (uint32_t)here) {
                                m = (struct match){s, close - base, 0};
                                m.length = limited(data, s, m.t, end);
                                both = far[h7];
                                near[h4] = next_at;
                                far[h7] = both << 32 | next_at;
                                if (cas_kp_load32(data + s + 1 - repeat) == (uint32_t)(here >> 8)) {
                                        uint32_t length2 =
                                                limited(data, s + 1, s + 1 - repeat, end);
                                        if (length2 > m.length) {
                                                m = (struct match){s + 1, s + 1 - repeat, length2};
                                                break;
                                        }
                                }
                                try_next(data, end, base, next_s, both, &m);
                                break;
                        }
                        here = next;
                }

                if (m.length == 0)
                        m.length = 4 + cas_kp_equal(data + m.s + 4, data + m.t + 4, end - m.s - 4);
                else if (m.length == LIMITED_MAX + 4)
                        m.length += cas_kp_equal(data + m.s + m.length, data + m.t + m.length,
                                                 end - m.s - m.length);
                if (end_check && m.s + m.length < limit) {
                        uint64_t behind = cas_kp_load64(data + m.s + m.length);
                        try_end(data, end, base, skip, far[cas_kp_hash7(behind, bits)], &m);
                }
                while (m.t > 0 && m.s > emitted && data[m.t - 1] == data[m.s - 1]) {
                        m.s--;
                        m.t--;
                        m.length++;
                }
                cas_kp_literals(out, data + emitted, m.s - emitted);
                cas_kp_match_long(out, self->finder.date, m.length, m.s - m.t);
                repeat = m.s - m.t;
                s = m.s + m.length;
                emitted = s;
                if (next_s >= s)
                        s = next_s + 1;
                if (s >= limit) {
                        for (uint32_t i = next_s + 1; i + 8 < end; i += 2) {
                                uint64_t v = cas_kp_load64(data + i);
                                near[cas_kp_hash4(v, bits)] = base + i;
                                far_push(&far[cas_kp_hash7(v, bits)], base + i);
                        }
                        goto rest;
                }
                for (uint32_t i = next_s + 1; i < s - 1; i += 2) {
                        uint64_t v = cas_kp_load64(data + i);
                        uint32_t h = cas_kp_hash7(v, bits), h2 = cas_kp_hash7(v >> 8, bits);
                        near[cas_kp_hash4(v, bits)] = base + i;
                        far_push(&far[h], base + i);
                        far_push(&far[h2], base + i + 1);
                }
                here = cas_kp_load64(data + s);
        }
rest:
        if (out->count > 0)
                cas_kp_literals(out, data + emitted, end - emitted);
}

static void level6_encode(struct cas_kp_finder *f, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level6 *self = (struct level6 *)f;
        if (end - start < BLOCK_MIN)
                return;
        if (f->date >= CAS_KP_2022_09)
                find(self, data, start, end, base, out, 15, true, 2);
        else if (f->date >= CAS_KP_2021_04)
                find(self, data, start, end, base, out, 15, true, 0);
        else if (f->date >= CAS_KP_2020_02B)
                find(self, data, start, end, base, out, 15, false, 0);
        else
                find(self, data, start, end, base, out, 16, false, 0);
}

static void level6_rebase(struct cas_kp_finder *f, uint32_t less)
{
        struct level6 *self = (struct level6 *)f;
        cas_kp_rebase32(self->near, CAS_COUNT(self->near), less);
        cas_kp_rebase64(self->far, CAS_COUNT(self->far), less);
}

static void level6_reset(struct cas_kp_finder *f)
{
        struct level6 *self = (struct level6 *)f;
        memset(self->near, 0, sizeof self->near);
        memset(self->far, 0, sizeof self->far);
}

static void level6_free(struct cas_kp_finder *f)
{
        free(f);
}

struct cas_kp_finder *cas_kp_level6_new(enum cas_kp_date date)
{
        static const struct cas_kp_finder_ops ops = {level6_encode, level6_rebase, level6_reset,
                                                     level6_free};
        struct level6 *self = cas_xcalloc(1, sizeof *self);
        self->finder = (struct cas_kp_finder){&ops, date};
        return &self->finder;
}
