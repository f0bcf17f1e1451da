/* SPDX-License-Identifier: Apache-2.0 */
/* Level 6 of klauspost's encoders: as level 5, but it tries the latest distance again, looks up the
 * end of every match, and remembers every place within matches. */
#include "cas/deflate/klauspost_find.h"

#define TABLE_BITS_MAX 16U
#define MARGIN 11U /* of bytes at the end of a block where no match begins */
#define BLOCK_MIN (MARGIN + 2)

struct level6 {
        struct cas_kp_finder finder;
        uint32_t near[1U << TABLE_BITS_MAX]; /* by 4 bytes */
        uint64_t far[1U << TABLE_BITS_MAX];  /* by 7 bytes: the latest low, the one before high */
};

struct match {
        uint32_t s, t, length;
};

static inline void far_push(uint64_t *slot, uint32_t position)
{
        *slot = *slot << 32 | position;
}

/* Takes the match at s and t if it is longer, as lengths are compared. True: it was. */
static inline bool try_match(const uint8_t *origin, uint32_t s, uint32_t t, uint32_t end,
                             struct match *m)
{
        uint32_t length = cas_kp_length(origin, s, t, end);
        if (cas_kp_limited(length) <= cas_kp_limited(m->length))
                return false;
        *m = (struct match){s, t, length};
        return true;
}

/* Looks for a longer match by what lies behind the one found: where that came before, the whole
 * may have. The first `skip` bytes may differ. `both`: what the table says of the place behind. */
static inline void try_end(const uint8_t *origin, uint32_t first, uint32_t end, uint32_t skip,
                           uint64_t both, struct match *m)
{
        const uint32_t s = m->s, s2 = s + skip;
        for (unsigned k = 0; k < 2; k++, both >>= 32) {
                int32_t distance = (int32_t)(s + m->length - (uint32_t)both);
                /* The second place is not looked at when the first is too far. */
                if (distance >= (int32_t)CAS_KP_REACH)
                        return;
                bool is_there = (distance > 0) & ((uint32_t)distance <= s2 - first);
                uint32_t t2 = s2 - (is_there ? (uint32_t)distance : 0);
                uint32_t some = cas_kp_equal16(origin + s2, origin + t2);
                if (!(is_there & (some > (m->length < 16 ? m->length : 15))))
                        continue;
                uint32_t length = cas_kp_equal(origin + s2, origin + t2, end - s2);
                if (length > m->length)
                        *m = (struct match){s2, t2, length};
        }
}

/* Finds matches from `start` to `end`, as level 5 does. `bits`, `end_check` and `skip` are constant
 * in each caller, see level6_encode. */
static inline __attribute__((always_inline)) void find(struct level6 *self, const uint8_t *origin,
                                                       uint32_t first, uint32_t start, uint32_t end,
                                                       struct cas_kp_tokens *out, unsigned bits,
                                                       bool end_check, uint32_t skip)
{
        const uint32_t limit = end - MARGIN;
        uint32_t emitted = start, next = start, repeat = 1;
        uint64_t next_bytes = cas_kp_load64(origin + start);
        for (;;) {
                uint32_t s, latest, earlier, close, miss_latest, miss_earlier, miss_close;
                uint64_t both, bytes;
                uint32_t h4 = cas_kp_hash4(next_bytes, bits), h7 = cas_kp_hash7(next_bytes, bits);
                do {
                        bytes = next_bytes;
                        s = next;
                        next = s + 1 + ((s - emitted) >> 7);
                        if (next > limit)
                                goto rest;
                        close = self->near[h4];
                        both = self->far[h7];
                        next_bytes = cas_kp_load64(origin + next);
                        self->near[h4] = s;
                        self->far[h7] = both << 32 | s;
                        h4 = cas_kp_hash4(next_bytes, bits);
                        h7 = cas_kp_hash7(next_bytes, bits);
                        latest = (uint32_t)both;
                        earlier = (uint32_t)(both >> 32);
                        miss_latest = cas_kp_miss(origin, s, latest, (uint32_t)bytes);
                        miss_earlier = cas_kp_miss(origin, s, earlier, (uint32_t)bytes) |
                                       (s - latest) >> 15;
                        miss_close = cas_kp_miss(origin, s, close, (uint32_t)bytes);
                } while ((miss_latest != 0) & (miss_earlier != 0) & (miss_close != 0));

                both = self->far[h7];
                self->near[h4] = next;
                self->far[h7] = both << 32 | next;
                struct match m = {s, close, 0};
                if (miss_latest == 0 || miss_earlier == 0) {
                        m.t = miss_latest == 0 ? latest : earlier;
                        m.length = cas_kp_length(origin, s, m.t, end);
                        if (miss_latest == 0 && miss_earlier == 0)
                                (void)try_match(origin, s, earlier, end, &m);
                } else {
                        m.length = cas_kp_length(origin, s, m.t, end);
                        uint32_t again = s + 1 - repeat;
                        bool is_repeat = cas_kp_load32(origin + again) == (uint32_t)(bytes >> 8) &&
                                         try_match(origin, s + 1, again, end, &m);
                        latest = (uint32_t)both;
                        earlier = (uint32_t)(both >> 32);
                        miss_latest = cas_kp_miss(origin, next, latest, (uint32_t)next_bytes);
                        miss_earlier = cas_kp_miss(origin, next, earlier, (uint32_t)next_bytes) |
                                       (next - latest) >> 15;
                        if (!is_repeat && miss_latest == 0)
                                (void)try_match(origin, next, latest, end, &m);
                        if (!is_repeat && miss_earlier == 0)
                                (void)try_match(origin, next, earlier, end, &m);
                }
                if (end_check && m.s + m.length < limit) {
                        uint64_t behind = cas_kp_load64(origin + m.s + m.length);
                        try_end(origin, first, end, skip, self->far[cas_kp_hash7(behind, bits)],
                                &m);
                }

                uint32_t back =
                        cas_kp_equal_back(origin + m.s, origin + m.t, m.s - emitted, m.t - first);
                cas_kp_run(out, origin + emitted, m.s - back - emitted);
                repeat = m.s - m.t;
                cas_kp_match_quick(out, self->finder.date, m.length + back, repeat);
                s = m.s + m.length;
                emitted = s;
                uint32_t i = next + 1;
                if (next >= s)
                        s = next + 1;
                if (s >= limit) {
                        for (; i + 8 < end; i += 2) {
                                bytes = cas_kp_load64(origin + i);
                                self->near[cas_kp_hash4(bytes, bits)] = i;
                                far_push(&self->far[cas_kp_hash7(bytes, bits)], i);
                        }
                        goto rest;
                }
                for (; i < s - 1; i += 2) {
                        bytes = cas_kp_load64(origin + i);
                        self->near[cas_kp_hash4(bytes, bits)] = i;
                        far_push(&self->far[cas_kp_hash7(bytes, bits)], i);
                        far_push(&self->far[cas_kp_hash7(bytes >> 8, bits)], i + 1);
                }
                next = s;
                next_bytes = cas_kp_load64(origin + s);
        }
rest:
        if (out->count > 0) {
                cas_kp_run(out, origin + emitted, end - emitted);
                cas_kp_tokens_count(out);
        }
}

static void level6_encode(struct cas_kp_finder *f, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level6 *self = (struct level6 *)f;
        if (end - start < BLOCK_MIN)
                return;
        const uint8_t *origin = cas_kp_origin(data, base);
        start += base;
        end += base;
        if (f->date >= CAS_KP_2022_09)
                find(self, origin, base, start, end, out, 15, true, 2);
        else if (f->date >= CAS_KP_2021_04)
                find(self, origin, base, start, end, out, 15, true, 0);
        else if (f->date >= CAS_KP_2020_02B)
                find(self, origin, base, start, end, out, 15, false, 0);
        else
                find(self, origin, base, start, end, out, 16, false, 0);
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
