/* SPDX-License-Identifier: Apache-2.0 */
/* Level 5 of klauspost's encoders: one position for a hash of 4 bytes, two for one of 7. */
#include "cas/deflate/klauspost_find.h"

#define TABLE_BITS_MAX 16U
#define MARGIN 11U /* of bytes at the end of a block where no match begins */
#define BLOCK_MIN (MARGIN + 2)
#define LIMITED_MAX 254U /* bytes behind the first four of a match when candidates are compared */
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

/* Everything but `self` and the block is constant in each caller, see level5_encode. end_check:
 * whether the end of a match is looked up for a longer one, of which the first `skip` bytes may
 * differ. */
static inline __attribute__((always_inline)) void find(struct level5 *self, const uint8_t *data,
                                                       uint32_t start, uint32_t end, uint32_t base,
                                                       struct cas_kp_tokens *out, unsigned bits,
                                                       bool end_check, uint32_t skip)
{
        uint32_t *near = self->near;
        uint64_t *far = self->far;
        const uint32_t limit = end - MARGIN;
        uint32_t emitted = start, s = start;
        uint64_t here = cas_kp_load64(data + s);
        for (;;) {
                uint32_t next_s = s, t, length = 0;
                uint32_t h4 = cas_kp_hash4(here, bits), h7 = cas_kp_hash7(here, bits);
                for (;;) {
                        s = next_s;
                        next_s = s + 1 + ((s - emitted) >> 6);
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
                        if (at - latest < CAS_KP_REACH) {
                                bool has_earlier =
                                        at - earlier < CAS_KP_REACH &&
                                        cas_kp_load32(data + (earlier - base)) == (uint32_t)here;
                                t = latest - base;
                                if (cas_kp_load32(data + t) == (uint32_t)here) {
                                        near[h4] = next_at;
                                        far_push(&far[h7], next_at);
                                        if (!has_earlier)
                                                break;
                                        uint32_t most = end - s - 4;
                                        most = most < LIMITED_MAX ? most : LIMITED_MAX;
                                        length = 4 + cas_kp_equal(data + s + 4, data + t + 4, most);
                                        uint32_t t2 = earlier - base;
                                        uint32_t length2 =
                                                4 + cas_kp_equal(data + s + 4, data + t2 + 4, most);
                                        if (length2 > length) {
                                                t = t2;
                                                length = length2;
                                        }
                                        break;
                                }
                                if (has_earlier) {
                                        near[h4] = next_at;
                                        far_push(&far[h7], next_at);
                                        t = earlier - base;
                                        break;
                                }
                        }
                        t = close - base;
                        if (at - close < CAS_KP_REACH &&
                            cas_kp_load32(data + t) == (uint32_t)here) {
                                uint32_t most = end - s - 4;
                                most = most < LIMITED_MAX ? most : LIMITED_MAX;
                                length = 4 + cas_kp_equal(data + s + 4, data + t + 4, most);
                                both = far[h7];
                                near[h4] = next_at;
                                far[h7] = both << 32 | next_at;
                                /* A longer one may begin at the next place. */
                                most = end - next_s - 4;
                                most = most < LIMITED_MAX ? most : LIMITED_MAX;
                                latest = (uint32_t)both;
                                earlier = (uint32_t)(both >> 32);
                                if (next_at - latest >= CAS_KP_REACH)
                                        break;
                                uint32_t t2 = latest - base;
                                if (cas_kp_load32(data + t2) == (uint32_t)next) {
                                        uint32_t length2 = 4 + cas_kp_equal(data + next_s + 4,
                                                                            data + t2 + 4, most);
                                        if (length2 > length) {
                                                t = t2;
                                                s = next_s;
                                                length = length2;
                                                break;
                                        }
                                }
                                t2 = earlier - base;
                                if (next_at - earlier < CAS_KP_REACH &&
                                    cas_kp_load32(data + t2) == (uint32_t)next) {
                                        uint32_t length2 = 4 + cas_kp_equal(data + next_s + 4,
                                                                            data + t2 + 4, most);
                                        if (length2 > length) {
                                                t = t2;
                                                s = next_s;
                                                length = length2;
                                        }
                                }
                                break;
                        }
                        here = next;
                }

                if (length == 0)
                        length = 4 + cas_kp_equal(data + s + 4, data + t + 4, end - s - 4);
                else if (length == LIMITED_MAX + 4)
                        length += cas_kp_equal(data + s + length, data + t + length,
                                               end - s - length);

                if (end_check && length < END_CHECK_BELOW && s + length < limit) {
                        uint64_t behind = cas_kp_load64(data + s + length);
                        uint32_t latest = (uint32_t)far[cas_kp_hash7(behind, bits)];
                        /* Where the match would begin, if it has what was found behind it. */
                        uint32_t distance = base + s + length - latest;
                        uint32_t s2 = s + skip;
                        if (distance > 0 && distance < CAS_KP_REACH && distance <= s2) {
                                uint32_t t2 = s2 - distance;
                                uint32_t length2 = cas_kp_equal(data + s2, data + t2, end - s2);
                                if (length2 > length) {
                                        t = t2;
                                        length = length2;
                                        s = s2;
                                }
                        }
                }

                while (t > 0 && s > emitted && data[t - 1] == data[s - 1]) {
                        s--;
                        t--;
                        length++;
                }
                cas_kp_literals(out, data + emitted, s - emitted);
                cas_kp_match_long(out, self->finder.date, length, s - t);
                s += length;
                emitted = s;
                if (next_s >= s)
                        s = next_s + 1;
                if (s >= limit)
                        goto rest;

                /* Some places within it are remembered: two of three. */
                uint32_t i = s - length + 1;
                if (i < s - 1) {
                        uint64_t v = cas_kp_load64(data + i);
                        uint32_t at = base + i;
                        near[cas_kp_hash4(v, bits)] = at;
                        far_push(&far[cas_kp_hash7(v, bits)], at);
                        v >>= 8;
                        far_push(&far[cas_kp_hash7(v, bits)], at + 1);
                        v >>= 8;
                        near[cas_kp_hash4(v, bits)] = at + 2;
                        for (i += 4; i < s - 1; i += 3) {
                                v = cas_kp_load64(data + i);
                                at = base + i;
                                far_push(&far[cas_kp_hash7(v, bits)], at);
                                near[cas_kp_hash4(v >> 8, bits)] = at + 1;
                        }
                }
                uint64_t v = cas_kp_load64(data + s - 1);
                near[cas_kp_hash4(v, bits)] = base + s - 1;
                far_push(&far[cas_kp_hash7(v, bits)], base + s - 1);
                here = v >> 8;
        }
rest:
        if (out->count > 0)
                cas_kp_literals(out, data + emitted, end - emitted);
}

static void level5_encode(struct cas_kp_finder *f, const uint8_t *data, uint32_t start,
                          uint32_t end, uint32_t base, struct cas_kp_tokens *out)
{
        struct level5 *self = (struct level5 *)f;
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
