/* SPDX-License-Identifier: Apache-2.0 */
/* Level 5 of klauspost's encoders: one position for a hash of 4 bytes, two for one of 7. */
#include "cas/deflate/klauspost_find.h"

#define TABLE_BITS_MAX 16U
#define MARGIN 11U /* of bytes at the end of a block where no match begins */
#define BLOCK_MIN (MARGIN + 2)
#define END_CHECK_BELOW 30U

struct level5 {
        struct cas_kp_finder finder;
        uint32_t near[1U << TABLE_BITS_MAX]; /* by 4 bytes */
        uint64_t far[1U << TABLE_BITS_MAX];  /* by 7 bytes: the latest low, the one before high */
};

static inline void far_push(uint64_t *slot, uint32_t position)
{
        *slot = *slot << 32 | position;
}

/* Finds matches from `start` to `end`, all as positions: `origin` is where position 0 would be.
 * `bits`, `end_check` and `skip` are constant in each caller, see level5_encode. end_check: whether
 * the end of a match is looked up for a longer one, of which the first `skip` bytes may differ.
 *
 * What costs time is branches that are foretold wrongly. So all candidates of a place are compared
 * before the only branch that most places take; one that is out of reach is replaced by the place
 * itself, which can be read. */
static inline __attribute__((always_inline)) void find(struct level5 *self, const uint8_t *origin,
                                                       uint32_t first, uint32_t start, uint32_t end,
                                                       struct cas_kp_tokens *out, unsigned bits,
                                                       bool end_check, uint32_t skip)
{
        const uint32_t limit = end - MARGIN;
        uint32_t emitted = start, next = start;
        uint64_t next_bytes = cas_kp_load64(origin + start);
        for (;;) {
                uint32_t s, t, length, latest, earlier, close, miss_latest, miss_earlier,
                        miss_close;
                uint64_t both;
                uint32_t h4 = cas_kp_hash4(next_bytes, bits), h7 = cas_kp_hash7(next_bytes, bits);
                do {
                        uint32_t bytes = (uint32_t)next_bytes;
                        s = next;
                        next = s + 1 + ((s - emitted) >> 6);
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
                        miss_latest = cas_kp_miss(origin, s, latest, bytes);
                        miss_earlier = cas_kp_miss(origin, s, earlier, bytes) | (s - latest) >> 15;
                        miss_close = cas_kp_miss(origin, s, close, bytes);
                } while ((miss_latest != 0) & (miss_earlier != 0) & (miss_close != 0));
                bool is_latest = miss_latest == 0, is_earlier = miss_earlier == 0;

                both = self->far[h7];
                self->near[h4] = next;
                self->far[h7] = both << 32 | next;
                if (is_latest | is_earlier) {
                        t = is_latest ? latest : earlier;
                        length = cas_kp_length(origin, s, t, end);
                        if (is_latest & is_earlier) {
                                uint32_t other = cas_kp_length(origin, s, earlier, end);
                                if (cas_kp_limited(other) > cas_kp_limited(length)) {
                                        t = earlier;
                                        length = other;
                                }
                        }
                } else {
                        t = close;
                        length = cas_kp_length(origin, s, t, end);
                        /* A longer one may begin at the next place. */
                        latest = (uint32_t)both;
                        earlier = (uint32_t)(both >> 32);
                        is_latest = !cas_kp_miss(origin, next, latest, (uint32_t)next_bytes);
                        is_earlier = !(cas_kp_miss(origin, next, earlier, (uint32_t)next_bytes) |
                                       (next - latest) >> 15);
                        if (is_latest) {
                                uint32_t other = cas_kp_length(origin, next, latest, end);
                                if (cas_kp_limited(other) > cas_kp_limited(length)) {
                                        s = next;
                                        t = latest;
                                        length = other;
                                        is_earlier = false;
                                }
                        }
                        if (is_earlier) {
                                uint32_t other = cas_kp_length(origin, next, earlier, end);
                                if (cas_kp_limited(other) > cas_kp_limited(length)) {
                                        s = next;
                                        t = earlier;
                                        length = other;
                                }
                        }
                }

                if (end_check && length < END_CHECK_BELOW && s + length < limit) {
                        uint64_t behind = cas_kp_load64(origin + s + length);
                        /* Where the match would begin, if it has what was found behind it. */
                        uint32_t distance =
                                s + length - (uint32_t)self->far[cas_kp_hash7(behind, bits)];
                        uint32_t s2 = s + skip;
                        bool is_there =
                                (distance - 1 < CAS_KP_REACH - 1) & (distance <= s2 - first);
                        uint32_t t2 = s2 - (is_there ? distance : 0);
                        uint32_t some = cas_kp_equal16(origin + s2, origin + t2);
                        if (is_there & (some > (length < 16 ? length : 15))) {
                                uint32_t other = cas_kp_equal(origin + s2, origin + t2, end - s2);
                                if (other > length) {
                                        t = t2;
                                        length = other;
                                        s = s2;
                                }
                        }
                }

                uint32_t back = cas_kp_equal_back(origin + s, origin + t, s - emitted, t - first);
                cas_kp_run(out, origin + emitted, s - back - emitted);
                cas_kp_match_quick(out, self->finder.date, length + back, s - t);
                uint32_t i = s - back + 1;
                s += length;
                emitted = s;
                if (next >= s)
                        i += next + 1 - s;
                if (next >= s)
                        s = next + 1;
                if (s >= limit)
                        goto rest;

                /* Of the places within it two of three are remembered. */
                if (i < s - 1) {
                        uint64_t bytes = cas_kp_load64(origin + i);
                        self->near[cas_kp_hash4(bytes, bits)] = i;
                        far_push(&self->far[cas_kp_hash7(bytes, bits)], i);
                        far_push(&self->far[cas_kp_hash7(bytes >> 8, bits)], i + 1);
                        self->near[cas_kp_hash4(bytes >> 16, bits)] = i + 2;
                        for (i += 4; i < s - 1; i += 3) {
                                bytes = cas_kp_load64(origin + i);
                                far_push(&self->far[cas_kp_hash7(bytes, bits)], i);
                                self->near[cas_kp_hash4(bytes >> 8, bits)] = i + 1;
                        }
                }
                uint64_t bytes = cas_kp_load64(origin + s - 1);
                self->near[cas_kp_hash4(bytes, bits)] = s - 1;
                far_push(&self->far[cas_kp_hash7(bytes, bits)], s - 1);
                next = s;
                next_bytes = bytes >> 8;
        }
rest:
        if (out->count > 0) {
                cas_kp_run(out, origin + emitted, end - emitted);
                cas_kp_tokens_count(out);
        }
}

static void level5_encode(struct cas_kp_finder *f, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level5 *self = (struct level5 *)f;
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

static void level5_rebase(struct cas_kp_finder *f, uint32_t less)
{
        struct level5 *self = (struct level5 *)f;
        cas_kp_rebase32(self->near, CAS_COUNT(self->near), less);
        cas_kp_rebase64(self->far, CAS_COUNT(self->far), less);
}

static void level5_reset(struct cas_kp_finder *f)
{
        struct level5 *self = (struct level5 *)f;
        memset(self->near, 0, sizeof self->near);
        memset(self->far, 0, sizeof self->far);
}

static void level5_free(struct cas_kp_finder *f)
{
        free(f);
}

struct cas_kp_finder *cas_kp_level5_new(enum cas_kp_date date)
{
        static const struct cas_kp_finder_ops ops = {level5_encode, level5_rebase, level5_reset,
                                                     level5_free};
        struct level5 *self = cas_xcalloc(1, sizeof *self);
        self->finder = (struct cas_kp_finder){&ops, date};
        return &self->finder;
}
