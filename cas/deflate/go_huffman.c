/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/go_huffman.h"

/* Symbols that occur, packed as frequency << 16 | symbol: sorted by number they are in the
 * order that breaks ties. */
struct leaves {
        uint64_t list[CAS_GO_SYMBOLS_MAX];
        unsigned count;
};

static uint32_t leaf_freq(const struct leaves *l, unsigned i)
{
        return (uint32_t)(l->list[i] >> 16);
}

static void leaves_sort(struct leaves *l)
{
        /* Shell's: short lists, half in order already. */
        static const unsigned gaps[] = {132, 57, 23, 10, 4, 1};
        for (unsigned g = 0; g < CAS_COUNT(gaps); g++) {
                unsigned gap = gaps[g];
                for (unsigned i = gap; i < l->count; i++) {
                        uint64_t leaf = l->list[i];
                        unsigned at = i;
                        for (; at >= gap && l->list[at - gap] > leaf; at -= gap)
                                l->list[at] = l->list[at - gap];
                        l->list[at] = leaf;
                }
        }
}

/* One list of package-merge: leaves and pairs of the list before in the order of their weights, a
 * pair before a leaf of the same weight. leaves_before[i] counts the leaves among the first i.
 * Returns the number of items, at most `limit`. */
static unsigned merge(const struct leaves *l, const uint32_t *below, unsigned below_count,
                      unsigned limit, uint32_t *weights, uint16_t *leaves_before)
{
        unsigned leaf = 0, pair = 0, pairs = below_count / 2, n = 0;
        leaves_before[0] = 0;
        while (n < limit && (leaf < l->count || pair < pairs)) {
                uint32_t of_leaf = leaf < l->count ? leaf_freq(l, leaf) : UINT32_MAX;
                uint32_t of_pair =
                        pair < pairs ? below[2 * pair] + below[2 * pair + 1] : UINT32_MAX;
                bool is_leaf = of_leaf < of_pair;
                leaf += is_leaf;
                pair += !is_leaf;
                weights[n++] = is_leaf ? of_leaf : of_pair;
                leaves_before[n] = (uint16_t)leaf;
        }
        return n;
}

/* counts[b]: how many symbols get b bits; 3 or more leaves. */
static void count_lengths(const struct leaves *l, unsigned bits_max, unsigned *counts)
{
        uint32_t weights[2][2 * CAS_GO_SYMBOLS_MAX];
        uint16_t leaves_before[CAS_GO_CODE_BITS_MAX][2 * CAS_GO_SYMBOLS_MAX + 1];
        unsigned levels = bits_max < l->count - 1 ? bits_max : l->count - 1;
        unsigned want = 2 * l->count - 2, have = 0;
        for (unsigned i = 0; i < levels; i++)
                have = merge(l, weights[~i & 1], have, want, weights[i & 1], leaves_before[i]);
        /* The lightest items of the last list, taken apart again: a leaf is one bit more for its
         * symbol. The symbols that are leaves in a list are the rarest ones. */
        unsigned longer = 0;
        for (unsigned bits = 1; bits <= levels; bits++) {
                unsigned leaves = leaves_before[levels - bits][want];
                if (bits > 1)
                        counts[bits - 1] = longer - leaves;
                longer = leaves;
                want = 2 * (want - leaves);
        }
        counts[levels] = longer;
}

static uint16_t reversed(unsigned code, unsigned bits)
{
        code = (code & 0x5555) << 1 | (code >> 1 & 0x5555);
        code = (code & 0x3333) << 2 | (code >> 2 & 0x3333);
        code = (code & 0x0f0f) << 4 | (code >> 4 & 0x0f0f);
        code = (code & 0x00ff) << 8 | (code >> 8 & 0x00ff);
        return (uint16_t)(code >> (16 - bits));
}

/* Codes of RFC 1951, 3.2.2, from lengths. */
static void assign_codes(const unsigned *counts, unsigned count, struct cas_go_code *codes)
{
        unsigned next[CAS_GO_CODE_BITS_MAX + 1], code = 0;
        for (unsigned bits = 1; bits <= CAS_GO_CODE_BITS_MAX; bits++) {
                next[bits] = code;
                code = (code + counts[bits]) << 1;
        }
        for (unsigned i = 0; i < count; i++)
                if (codes[i].bits > 0)
                        codes[i].code = reversed(next[codes[i].bits]++, codes[i].bits);
}

void cas_go_huffman(const uint32_t *freq, unsigned count, unsigned bits_max,
                    struct cas_go_code *codes)
{
        struct leaves l;
        unsigned counts[CAS_GO_CODE_BITS_MAX + 1] = {0};
        cas_assert(count <= CAS_GO_SYMBOLS_MAX && bits_max <= CAS_GO_CODE_BITS_MAX);
        l.count = 0;
        for (unsigned i = 0; i < count; i++) {
                codes[i] = (struct cas_go_code){0};
                if (freq[i] > 0)
                        l.list[l.count++] = (uint64_t)freq[i] << 16 | i;
        }
        if (l.count <= 2) {
                counts[1] = l.count;
        } else {
                leaves_sort(&l);
                count_lengths(&l, bits_max, counts);
        }
        /* The most frequent get the shortest. */
        unsigned leaf = l.count;
        for (unsigned bits = 1; bits <= CAS_GO_CODE_BITS_MAX; bits++)
                for (unsigned i = 0; i < counts[bits]; i++)
                        codes[l.list[--leaf] & 0xffff].bits = (uint16_t)bits;
        assign_codes(counts, count, codes);
}
