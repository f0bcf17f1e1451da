/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/diffguess.h"

#define FIRST_BYTES (96U << 10)   /* tried with every encoder */
#define SECOND_BYTES (384U << 10) /* tried with the best */
#define SECOND_COUNT 4
#define ROUNDS 6

struct known {
        const char *name;
        struct cas_predict_params p;
};

#define ALL 258
#define ANY_FAR 32768
/* name, policy, hash, bits, flags, depth, good, lazy, nice, farthest, far of 3, insert */
#define KNOWN(name, policy, hash, bits, flags, depth, good, lazy, nice, distance, far, whole,      \
              first)                                                                               \
        {                                                                                          \
                name,                                                                              \
                {                                                                                  \
                        CAS_PREDICT_##policy, CAS_PREDICT_HASH_##hash, bits, flags, depth, good,   \
                                lazy, nice, distance, far, whole, first                            \
                }                                                                                  \
        }
#define ZLIB_SLOW(name, bits, good, lazy, nice, depth)                                             \
        KNOWN(name, LAZY, SHIFT3, bits, 0, depth, good, lazy, nice, 32506, 4096, ALL, 0)
#define ZLIB_FAST(name, bits, lazy, nice, depth)                                                   \
        KNOWN(name, GREEDY, SHIFT3, bits, 0, depth, ALL + 1, 0, nice, 32506, ANY_FAR, lazy, 1)
#define CHROMIUM_SLOW(name, good, lazy, nice, depth)                                               \
        KNOWN(name, LAZY, KNUTH4, 15, 0, depth, good, lazy, nice, 32506, 4096, ALL, 0)
#define CHROMIUM_FAST(name, lazy, nice, depth)                                                     \
        KNOWN(name, GREEDY, KNUTH4, 15, 0, depth, ALL + 1, 0, nice, 32506, ANY_FAR, lazy, 1)
#define LIBDEFLATE(name, policy, depth, nice)                                                      \
        KNOWN(name, policy, LCG4, 16, CAS_PREDICT_SHORT_TABLE, depth, ALL + 1, nice, nice, 32767,  \
              policy_far_##policy, ALL, 0)
#define policy_far_GREEDY 4096
#define policy_far_SCORED 8192
#define policy_far_SCORED2 8192
#define ZLIB_NG(name, policy, flags, depth, good, lazy, nice)                                      \
        KNOWN(name, policy, MUL4, 16, flags, depth, good, lazy, nice, 32506, ANY_FAR, ALL, 0)
#define MINIZ(name, policy, depth)                                                                 \
        KNOWN(name, policy, SHIFT3, 15, CAS_PREDICT_TRIPLES, depth, 32, 128, ALL, 32768, 8191,     \
              ALL, 0)
#define IGZIP(name, hash, bits, whole, first)                                                      \
        KNOWN(name, GREEDY, hash, bits, 0, 1, ALL + 1, 0, ALL, 32768, ANY_FAR, whole, first)

static const struct known known[] = {
        ZLIB_FAST("zlib level 1", 15, 4, 8, 4),
        ZLIB_FAST("zlib level 2", 15, 5, 16, 8),
        ZLIB_FAST("zlib level 3", 15, 6, 32, 32),
        ZLIB_SLOW("zlib level 4", 15, 4, 4, 16, 16),
        ZLIB_SLOW("zlib level 5", 15, 8, 16, 32, 32),
        ZLIB_SLOW("zlib level 6", 15, 8, 16, 128, 128),
        ZLIB_SLOW("zlib level 7", 15, 8, 32, 128, 256),
        ZLIB_SLOW("zlib level 8", 15, 32, 128, 258, 1024),
        ZLIB_SLOW("zlib level 9", 15, 32, 258, 258, 4096),
        CHROMIUM_FAST("Chromium's zlib level 1", 4, 8, 4),
        CHROMIUM_FAST("Chromium's zlib level 3", 6, 32, 32),
        CHROMIUM_SLOW("Chromium's zlib level 6", 8, 16, 128, 128),
        CHROMIUM_SLOW("Chromium's zlib level 9", 32, 258, 258, 4096),
        KNOWN("libdeflate level 1", GREEDY, LCG4, 15, 0, 2, ALL + 1, 0, 32, 32767, ANY_FAR, ALL, 0),
        LIBDEFLATE("libdeflate level 2", GREEDY, 6, 10),
        LIBDEFLATE("libdeflate level 3", GREEDY, 12, 14),
        LIBDEFLATE("libdeflate level 4", GREEDY, 16, 30),
        LIBDEFLATE("libdeflate level 5", SCORED, 16, 30),
        LIBDEFLATE("libdeflate level 6", SCORED, 35, 65),
        LIBDEFLATE("libdeflate level 7", SCORED, 100, 130),
        LIBDEFLATE("libdeflate level 8", SCORED2, 300, 258),
        LIBDEFLATE("libdeflate level 9", SCORED2, 600, 258),
        KNOWN("zlib-ng level 1", GREEDY, MUL4, 16, 0, 1, ALL + 1, 0, ALL, 32506, ANY_FAR, 0, 1),
        KNOWN("zlib-ng level 2", GREEDY, MUL4, 16, CAS_PREDICT_STOP_WORSE | CAS_PREDICT_INSERT_LAST,
              4, ALL + 1, 0, 8, 32506, ANY_FAR, 4, 1),
        ZLIB_NG("zlib-ng level 3", GREEDY, CAS_PREDICT_STOP_WORSE, 6, ALL + 1, 6, 16),
        ZLIB_NG("zlib-ng level 4", GREEDY, CAS_PREDICT_STOP_WORSE, 24, ALL + 1, 12, 32),
        ZLIB_NG("zlib-ng level 5", MEDIUM, 0, 32, ALL + 1, 16, 32),
        ZLIB_NG("zlib-ng level 6", MEDIUM, 0, 128, ALL + 1, 16, 128),
        ZLIB_NG("zlib-ng level 7", LAZY, 0, 256, 8, 32, 128),
        ZLIB_NG("zlib-ng level 8", LAZY, 0, 1024, 32, 128, 258),
        ZLIB_NG("zlib-ng level 9", LAZY, 0, 4096, 32, 258, 258),
        MINIZ("miniz level 1", GREEDY, 1),
        KNOWN("miniz level 1, fast", GREEDY, FOLD3, 12, 0, 1, ALL + 1, 0, ALL, 32768, 8191, 0, 1),
        MINIZ("miniz level 2", GREEDY, 6),
        MINIZ("miniz level 3", GREEDY, 32),
        MINIZ("miniz level 4", LAZY, 16),
        MINIZ("miniz level 5", LAZY, 32),
        MINIZ("miniz level 6", LAZY, 128),
        MINIZ("miniz level 7", LAZY, 256),
        MINIZ("miniz level 9", LAZY, 768),
        IGZIP("igzip level 0 or 1", CRC4, 13, 0, 4),
        IGZIP("igzip level 2", CRC4, 15, 0, 4),
        KNOWN("igzip level 3", LAZY, HALVES4, 15, 0, 1, ALL + 1, ALL, ALL, 32768, ANY_FAR, ALL, 0),
        IGZIP("igzip level 0 or 1 without CRC", TWICE4, 13, 0, 3),
        IGZIP("igzip level 2 without CRC", TWICE4, 15, 0, 3),
};

/* ---- trials ---- */

struct trial {
        const struct cas_diffsegment *segment;
        struct cas_difference *d;
        struct cas_difference_plain plain; /* what is tried on, and a window before it */
        size_t first_item;
        struct cas_buf out;
        uint32_t farthest;
};

static uint32_t item_plain_bytes(const struct cas_difference_item *item)
{
        uint32_t bytes = 0;
        if (item->kind == CAS_DIFFERENCE_RAW)
                return 0;
        if (item->block.type == CAS_DEFLATE_STORED)
                return item->block.stored_bytes;
        for (uint32_t i = 0; i < item->token_count; i++)
                bytes += item->tokens[i] & CAS_TOKEN_IS_MATCH ? cas_token_length(item->tokens[i])
                                                              : 1;
        return bytes;
}

/* A third in, when there is enough: segments begin with what was before as often as not. */
static void choose_place(struct trial *t)
{
        struct cas_difference_item item;
        uint32_t at = 0, wanted = t->plain.plain_bytes / 3;
        size_t i = 0;
        if (t->plain.plain_bytes < 3 * SECOND_BYTES)
                return;
        for (; at < wanted && cas_diffsegment_item(t->segment, i, &item); i++) {
                uint32_t bytes = item_plain_bytes(&item);
                if (at + bytes > t->plain.plain_bytes / 2)
                        break;
                at += bytes;
        }
        uint32_t from = t->plain.window_bytes + at;
        uint32_t window = from < CAS_DIFFERENCE_WINDOW_BYTES ? from : CAS_DIFFERENCE_WINDOW_BYTES;
        t->first_item = i;
        t->plain.data += from - window;
        t->plain.window_bytes = window;
        t->plain.plain_bytes -= at;
}

static size_t cost_of(struct trial *t, const struct cas_predict_params *p, uint32_t bytes)
{
        struct cas_difference_params params = {.predict = *p};
        uint32_t limit = t->plain.window_bytes +
                         (bytes < t->plain.plain_bytes ? bytes : t->plain.plain_bytes);
        size_t cost = 0;
        cas_buf_clear(&t->out);
        cas_difference_encode_begin(t->d, &params, &t->plain, &t->out);
        struct cas_difference_item item;
        uint32_t done = t->plain.window_bytes;
        for (size_t i = t->first_item; done < limit && cas_diffsegment_item(t->segment, i, &item);
             i++)
                cost = cas_difference_try(t->d, &item, limit, &done);
        return cost;
}

/* The parameters for this stream: it tells itself how far matches reach. */
static struct cas_predict_params fitted(const struct trial *t, const struct cas_predict_params *p)
{
        struct cas_predict_params out = *p;
        if (t->farthest > out.distance)
                out.distance = (uint16_t)t->farthest;
        return out;
}

/* ---- variations ---- */

static uint16_t scaled(uint16_t value, bool up, uint16_t max)
{
        unsigned n = up ? value * 2U : value / 2U;
        n = n < 1 ? 1 : n > max ? max : n;
        return (uint16_t)n;
}

static void set_policy(struct cas_predict_params *p, unsigned policy)
{
        p->policy = (uint8_t)policy;
        if (policy != CAS_PREDICT_GREEDY && p->lazy < 4)
                p->lazy = ALL;
}

/* The `index`-th neighbour. False: there are no more. */
static bool vary(const struct trial *t, const struct cas_predict_params *p, unsigned index,
                 struct cas_predict_params *out)
{
        static const uint16_t distances[] = {32768, 32767, 32506};
        static const uint16_t fars[] = {4096, 8191, 8192, 32768};
        *out = *p;
        if (index < 2)
                out->depth = scaled(p->depth, index & 1, CAS_PREDICT_DEPTH_MAX);
        else if (index < 4)
                out->nice = scaled(p->nice, index & 1, 258);
        else if (index < 6)
                out->lazy = scaled(p->lazy, index & 1, 258);
        else if (index < 8)
                out->good = scaled(p->good, index & 1, 259);
        else if (index < 8 + CAS_PREDICT_POLICY_COUNT)
                set_policy(out, index - 8);
        else if (index < 16)
                out->distance = distances[index - 13];
        else if (index < 20)
                out->far = fars[index - 16];
        else if (index < 24)
                out->flags = p->flags ^ (uint8_t)(1U << (index - 20));
        else if (index < 24 + CAS_PREDICT_HASH_COUNT)
                out->hash = (uint8_t)(index - 24);
        else if (index < 35)
                out->hash_bits = (uint8_t)(index == 33 ? p->hash_bits - 1 : p->hash_bits + 1);
        else if (index < 37)
                out->insert_whole = index == 35 ? ALL : 0;
        else if (index < 41)
                out->insert_first = (uint16_t)(index - 36);
        else
                return false;
        if (out->hash_bits < 8)
                out->hash_bits = 8;
        if (out->hash_bits > CAS_PREDICT_BITS_MAX)
                out->hash_bits = CAS_PREDICT_BITS_MAX;
        if (out->distance < t->farthest)
                out->distance = p->distance;
        return true;
}
_Static_assert(CAS_PREDICT_POLICY_COUNT == 5 && CAS_PREDICT_HASH_COUNT == 9, "indices of vary");

static void climb(struct trial *t, struct cas_predict_params *p, size_t cost)
{
        for (unsigned round = 0; round < ROUNDS; round++) {
                struct cas_predict_params best = *p, other;
                size_t before = cost;
                for (unsigned i = 0; vary(t, &best, i, &other); i++) {
                        if (memcmp(&other, &best, sizeof(other)) == 0)
                                continue;
                        size_t c = cost_of(t, &other, SECOND_BYTES);
                        if (c < cost) {
                                cost = c;
                                best = other;
                        }
                }
                *p = best;
                if (cost + cost / 64 + 8 >= before)
                        break;
        }
}

struct ranked {
        size_t index, cost;
};

static int ranked_before(const void *a, const void *b)
{
        const struct ranked *x = a, *y = b;
        if (x->cost != y->cost)
                return x->cost < y->cost ? -1 : 1;
        return x->index < y->index ? -1 : 1;
}

const char *cas_diffguess(struct cas_diffsegment *s, struct cas_difference *d,
                          struct cas_difference_params *out)
{
        struct trial t = {.segment = s, .d = d, .farthest = cas_diffsegment_farthest(s)};
        cas_diffsegment_plain(s, &t.plain);
        choose_place(&t);
        struct ranked order[CAS_COUNT(known)];
        for (size_t i = 0; i < CAS_COUNT(known); i++) {
                struct cas_predict_params p = fitted(&t, &known[i].p);
                order[i] = (struct ranked){i, cost_of(&t, &p, FIRST_BYTES)};
        }
        qsort(order, CAS_COUNT(order), sizeof(order[0]), ranked_before);
        for (size_t i = 0; i < SECOND_COUNT; i++) {
                struct cas_predict_params p = fitted(&t, &known[order[i].index].p);
                order[i].cost = cost_of(&t, &p, SECOND_BYTES);
        }
        qsort(order, SECOND_COUNT, sizeof(order[0]), ranked_before);
        out->predict = fitted(&t, &known[order[0].index].p);
        out->tree = CAS_DIFFHEAD_HEAP;
        uint32_t tried = t.plain.plain_bytes < SECOND_BYTES ? t.plain.plain_bytes : SECOND_BYTES;
        /* Not worth varying what is nearly perfect. */
        if (order[0].cost > tried / 2048 + 64)
                climb(&t, &out->predict, order[0].cost);
        cas_buf_release(&t.out);
        return known[order[0].index].name;
}
