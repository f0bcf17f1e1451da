/* SPDX-License-Identifier: Apache-2.0 */
/* Huffman codes as Go's compress/flate and klauspost/compress make them: package-merge, where a
 * package comes before a leaf of the same weight. Which of several optimal codes comes out hangs on
 * that. As long as the limit does not bind, the same counts come from joining the two lightest
 * trees again and again, joined ones first among equals: that is tried first, it takes a tenth of
 * the time. */
#include "cas/deflate/klauspost_int.h"

#define SYMBOLS_MAX 288U
#define BITS_MAX 15U

struct leaf {
        uint16_t symbol;
        uint16_t weight;
};

/* By weight, then by symbol: two stable passes over the bytes of the weight. */
static void sort_leaves(struct leaf *leaves, unsigned n)
{
        struct leaf spare[SYMBOLS_MAX];
        uint16_t low[256] = {0}, high[256] = {0};
        for (unsigned i = 0; i < n; i++) {
                low[leaves[i].weight & 255]++;
                high[leaves[i].weight >> 8]++;
        }
        unsigned at_low = 0, at_high = 0;
        for (unsigned i = 0; i < 256; i++) {
                unsigned next_low = at_low + low[i], next_high = at_high + high[i];
                low[i] = (uint16_t)at_low;
                high[i] = (uint16_t)at_high;
                at_low = next_low;
                at_high = next_high;
        }
        for (unsigned i = 0; i < n; i++)
                spare[low[leaves[i].weight & 255]++] = leaves[i];
        for (unsigned i = 0; i < n; i++)
                leaves[high[spare[i].weight >> 8]++] = spare[i];
}

/* Fills count[bits] of leaves; false when some would need more than bits_max. n >= 2. */
static bool counts_by_joining(const struct leaf *leaves, unsigned n, unsigned bits_max,
                              uint16_t count[BITS_MAX + 1])
{
        uint32_t weight[SYMBOLS_MAX]; /* of joined trees, in order of making: never falling */
        uint16_t parent[2 * SYMBOLS_MAX];
        unsigned leaf = 0, tree = 0;
        for (unsigned made = 0; made < n - 1; made++) {
                uint32_t sum = 0;
                for (unsigned k = 0; k < 2; k++) {
                        if (tree < made && (leaf == n || weight[tree] <= leaves[leaf].weight)) {
                                sum += weight[tree];
                                parent[n + tree++] = (uint16_t)made;
                        } else {
                                sum += leaves[leaf].weight;
                                parent[leaf++] = (uint16_t)made;
                        }
                }
                weight[made] = sum;
        }
        uint16_t depth[SYMBOLS_MAX];
        depth[n - 2] = 0;
        for (unsigned i = n - 2; i-- > 0;)
                depth[i] = (uint16_t)(depth[parent[n + i]] + 1);
        memset(count, 0, (BITS_MAX + 1) * sizeof *count);
        for (unsigned i = 0; i < n; i++) {
                unsigned bits = depth[parent[i]] + 1U;
                if (bits > bits_max)
                        return false;
                count[bits]++;
        }
        return true;
}

/* The same within the limit, for n >= 3. Level by level from the longest codes: each level's row is
 * the leaves and the pairs of the row before, by weight. */
static void counts_by_packages(const struct leaf *leaves, unsigned n, unsigned bits_max,
                               uint16_t count[BITS_MAX + 1])
{
        uint32_t row[2][2 * SYMBOLS_MAX];
        /* Of the first k of a row, how many are leaves. */
        uint16_t among[BITS_MAX][2 * SYMBOLS_MAX + 1];
        unsigned len = 0, want = 2 * n - 2;
        for (unsigned level = 0; level < bits_max; level++) {
                const uint32_t *below = row[~level & 1];
                uint32_t *here = row[level & 1];
                unsigned pairs = len / 2, pair = 0, leaf = 0;
                for (len = 0; len < want && (pair < pairs || leaf < n); len++) {
                        among[level][len] = (uint16_t)leaf;
                        uint32_t both = pair < pairs ? below[2 * pair] + below[2 * pair + 1] : 0;
                        if (leaf < n && (pair == pairs || leaves[leaf].weight < both)) {
                                here[len] = leaves[leaf++].weight;
                        } else {
                                here[len] = both;
                                pair++;
                        }
                }
                among[level][len] = (uint16_t)leaf;
        }
        memset(count, 0, (BITS_MAX + 1) * sizeof *count);
        /* Leaves that are taken on a level have one bit more than its depth from the top. */
        unsigned taken_before = n;
        for (unsigned level = bits_max, bits = 0; level-- > 0; bits++) {
                unsigned taken = among[level][want];
                if (bits > 0)
                        count[bits] = (uint16_t)(taken_before - taken);
                taken_before = taken;
                want = 2 * (want - taken);
        }
        count[bits_max] = (uint16_t)taken_before;
}

static uint16_t reverse(unsigned code, unsigned bits)
{
        code = (code & 0x5555) << 1 | (code >> 1 & 0x5555);
        code = (code & 0x3333) << 2 | (code >> 2 & 0x3333);
        code = (code & 0x0f0f) << 4 | (code >> 4 & 0x0f0f);
        code = (code & 0x00ff) << 8 | (code >> 8 & 0x00ff);
        return (uint16_t)(code >> (16 - bits));
}

/* From the lengths, as RFC 1951 says. */
static void assign_bits(struct cas_kp_code *c, unsigned symbols, const uint16_t count[BITS_MAX + 1])
{
        unsigned next[BITS_MAX + 1], code = 0;
        for (unsigned bits = 1; bits <= BITS_MAX; bits++) {
                code = (code + (bits > 1 ? count[bits - 1] : 0)) << 1;
                next[bits] = code;
        }
        for (unsigned i = 0; i < symbols; i++)
                if (c->length[i])
                        c->bits[i] = reverse(next[c->length[i]]++, c->length[i]);
}

void cas_kp_code_make(struct cas_kp_code *c, const uint32_t *freq, unsigned count,
                      unsigned bits_max)
{
        cas_assert(count <= SYMBOLS_MAX);
        cas_assert(bits_max >= 1 && bits_max <= BITS_MAX);
        struct leaf leaves[SYMBOLS_MAX];
        unsigned n = 0;
        for (unsigned i = 0; i < count; i++) {
                c->length[i] = 0;
                c->bits[i] = 0;
                if (freq[i])
                        leaves[n++] = (struct leaf){(uint16_t)i, (uint16_t)freq[i]};
        }
        if (n <= 2) {
                for (unsigned i = 0; i < n; i++) {
                        c->length[leaves[i].symbol] = 1;
                        c->bits[leaves[i].symbol] = (uint16_t)i;
                }
                return;
        }
        sort_leaves(leaves, n);
        if (bits_max > n - 1)
                bits_max = n - 1;
        uint16_t by_bits[BITS_MAX + 1];
        if (!counts_by_joining(leaves, n, bits_max, by_bits))
                counts_by_packages(leaves, n, bits_max, by_bits);
        /* The heaviest get the shortest. */
        unsigned at = n;
        for (unsigned bits = 1; bits <= BITS_MAX; bits++)
                for (unsigned k = 0; k < by_bits[bits]; k++)
                        c->length[leaves[--at].symbol] = (uint8_t)bits;
        assign_bits(c, count, by_bits);
}

uint32_t cas_kp_code_size(const struct cas_kp_code *c, const uint32_t *freq, unsigned count)
{
        uint32_t sum = 0;
        for (unsigned i = 0; i < count; i++)
                sum += freq[i] * c->length[i];
        return sum;
}
