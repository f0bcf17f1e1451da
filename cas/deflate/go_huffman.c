/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/go_huffman.h"

/* Symbols that occur, packed as frequency << 16 | symbol: sorted by number they are in the
 * order that breaks ties. */
struct leaves {
        uint64_t list[CAS_GO_SYMBOLS_MAX];
        unsigned count;
};

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

/* Frequencies of the leaves, and sums of pairs: ended by one that is larger than all. */
#define WEIGHT_END UINT32_MAX

/* One list of package-merge: leaves, and pairs of the list before, in the order of their weights, a
 * pair before a leaf of the same weight. leaves_before[i] counts the leaves among the first i.
 * Returns the number of items, at most `limit`. */
static unsigned merge(const uint32_t *leaves, unsigned leaf_count, const uint32_t *pairs,
                      unsigned pair_count, unsigned limit, uint32_t *weights,
                      uint16_t *leaves_before)
{
        unsigned count = leaf_count + pair_count < limit ? leaf_count + pair_count : limit;
        unsigned leaf = 0;
        leaves_before[0] = 0;
        for (unsigned i = 0; i < count; i++) {
                /* Without branches: nothing tells which one is next. */
                uint32_t of_leaf = leaves[leaf], of_pair = pairs[i - leaf];
                weights[i] = of_leaf < of_pair ? of_leaf : of_pair;
                leaf += of_leaf < of_pair;
                leaves_before[i + 1] = (uint16_t)leaf;
        }
        return count;
}

/* counts[b]: how many symbols get b bits; 3 or more leaves. */
static void count_lengths(const struct leaves *l, unsigned bits_max, unsigned *counts)
{
        uint32_t leaves[CAS_GO_SYMBOLS_MAX + 1], pairs[CAS_GO_SYMBOLS_MAX + 1];
        uint32_t weights[2 * CAS_GO_SYMBOLS_MAX];
        uint16_t leaves_before[CAS_GO_CODE_BITS_MAX][2 * CAS_GO_SYMBOLS_MAX + 1];
        unsigned levels = bits_max < l->count - 1 ? bits_max : l->count - 1;
        unsigned want = 2 * l->count - 2, have = 0;
        for (unsigned i = 0; i < l->count; i++)
                leaves[i] = (uint32_t)(l->list[i] >> 16);
        leaves[l->count] = WEIGHT_END;
        for (unsigned i = 0; i < levels; i++) {
                for (unsigned pair = 0; pair < have / 2; pair++)
                        pairs[pair] = weights[2 * pair] + weights[2 * pair + 1];
                pairs[have / 2] = WEIGHT_END;
                have = merge(leaves, l->count, pairs, have / 2, want, weights, leaves_before[i]);
        }
        /* The lightest items of the last list, taken apart again: a leaf is one bit more for its
         * symbol. The symbols that are leaves in a list are the rarest ones. */
        unsigned longer = 0;
        for (unsigned bits = 1; bits <= levels; bits++) {
                unsigned among = leaves_before[levels - bits][want];
                if (bits > 1)
                        counts[bits - 1] = longer - among;
                longer = among;
                want = 2 * (want - among);
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
