/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/inflatetable.h"

#define END_OF_BLOCK 256

static const uint16_t length_base[29] = {3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                         15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                         67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};

static uint32_t entry_of(enum cas_inflate_kind kind, uint32_t value, unsigned extra)
{
        return value << 16 | (uint32_t)kind << 12 | extra << 8;
}

/* What a symbol means, with no bits yet. */
static uint32_t meaning(enum cas_inflate_alphabet alphabet, unsigned symbol)
{
        switch (alphabet) {
        case CAS_INFLATE_LITERALS:
                if (symbol < END_OF_BLOCK)
                        return entry_of(CAS_INFLATE_LITERAL, symbol, 0);
                if (symbol == END_OF_BLOCK)
                        return entry_of(CAS_INFLATE_END, 0, 0);
                symbol -= END_OF_BLOCK + 1;
                if (symbol >= CAS_COUNT(length_base))
                        return entry_of(CAS_INFLATE_BAD, 0, 0);
                return entry_of(CAS_INFLATE_MATCH, length_base[symbol], length_extra[symbol]);
        case CAS_INFLATE_DISTANCES:
                if (symbol >= 30)
                        return entry_of(CAS_INFLATE_BAD, 0, 0);
                if (symbol < 4)
                        return entry_of(CAS_INFLATE_MATCH, symbol, 0);
                unsigned extra = symbol / 2 - 1;
                return entry_of(CAS_INFLATE_MATCH, (2 + symbol % 2) << extra, extra);
        case CAS_INFLATE_CODE_LENGTHS:
                return entry_of(CAS_INFLATE_LITERAL, symbol, 0);
        }
        return entry_of(CAS_INFLATE_BAD, 0, 0);
}

static unsigned reverse(unsigned code, unsigned bits)
{
        unsigned out = 0;
        for (unsigned i = 0; i < bits; i++)
                out |= (code >> i & 1) << (bits - 1 - i);
        return out;
}

struct counts {
        uint16_t of[CAS_INFLATE_CODE_BITS_MAX + 1]; /* codes by length */
        unsigned longest;                           /* 0: no codes */
};

/* False: codes of these lengths are not allowed. */
static bool count_lengths(struct counts *c, enum cas_inflate_alphabet alphabet,
                          const uint8_t *lengths, unsigned count)
{
        *c = (struct counts){0};
        for (unsigned i = 0; i < count; i++) {
                if (lengths[i] > 0)
                        c->of[lengths[i]]++;
                if (lengths[i] > c->longest)
                        c->longest = lengths[i];
        }
        int left = 1;
        for (unsigned len = 1; len <= CAS_INFLATE_CODE_BITS_MAX; len++) {
                left = 2 * left - c->of[len];
                if (left < 0)
                        return false;
        }
        if (left == 0 || c->longest == 0)
                return true;
        return c->longest == 1 && alphabet != CAS_INFLATE_CODE_LENGTHS;
}

/* Symbols by length of code, then by number: the order of their codes. */
static unsigned sort_symbols(const struct counts *c, const uint8_t *lengths, unsigned count,
                             uint16_t *sorted)
{
        uint16_t at[CAS_INFLATE_CODE_BITS_MAX + 2] = {0};
        for (unsigned len = 1; len <= CAS_INFLATE_CODE_BITS_MAX; len++)
                at[len + 1] = (uint16_t)(at[len] + c->of[len]);
        for (unsigned i = 0; i < count; i++)
                if (lengths[i] > 0)
                        sorted[at[lengths[i]]++] = (uint16_t)i;
        return at[CAS_INFLATE_CODE_BITS_MAX];
}

/* Makes a second table behind `used` entries, for the codes that begin with those of the code at
 * hand, whose length is len. Returns its bits. */
static unsigned add_second(struct cas_inflate_table *t, struct counts left, unsigned len,
                           unsigned root_slot, unsigned used)
{
        unsigned bits = len - t->root_bits;
        /* Long enough for the last code that fits under this root slot. */
        for (int room = 1 << bits; bits + t->root_bits < left.longest; bits++) {
                room -= left.of[bits + t->root_bits];
                if (room <= 0)
                        break;
                room *= 2;
        }
        cas_assert(used + (1U << bits) <= CAS_INFLATE_TABLE_ENTRIES_MAX);
        t->entries[root_slot] = entry_of(CAS_INFLATE_LINK, used, bits);
        return bits;
}

bool cas_inflate_table_build(struct cas_inflate_table *t, enum cas_inflate_alphabet alphabet,
                             const uint8_t *lengths, unsigned count)
{
        struct counts left;
        uint16_t sorted[288];
        cas_assert(count <= CAS_COUNT(sorted));
        if (!count_lengths(&left, alphabet, lengths, count))
                return false;
        t->root_bits = left.longest == 0 ? 1 : left.longest;
        if (t->root_bits > CAS_INFLATE_ROOT_BITS_MAX)
                t->root_bits = CAS_INFLATE_ROOT_BITS_MAX;
        unsigned root_size = 1U << t->root_bits, used = root_size;
        if (left.longest <= 1)
                for (unsigned i = 0; i < root_size; i++)
                        t->entries[i] = entry_of(CAS_INFLATE_BAD, 0, 0) | 1;
        unsigned symbols = sort_symbols(&left, lengths, count, sorted);
        unsigned code = 0, len = 1, second_slot = UINT32_MAX, second = 0, second_bits = 0;
        for (unsigned i = 0; i < symbols; i++, code++) {
                unsigned symbol = sorted[i];
                for (; len < lengths[symbol]; len++)
                        code <<= 1;
                uint32_t entry = meaning(alphabet, symbol) | len;
                unsigned slot = reverse(code, len);
                if (len <= t->root_bits) {
                        for (; slot < root_size; slot += 1U << len)
                                t->entries[slot] = entry;
                } else {
                        if ((slot & (root_size - 1)) != second_slot) {
                                second_slot = slot & (root_size - 1);
                                second = used;
                                second_bits = add_second(t, left, len, second_slot, used);
                                used += 1U << second_bits;
                        }
                        for (slot >>= t->root_bits; slot < 1U << second_bits;
                             slot += 1U << (len - t->root_bits))
                                t->entries[second + slot] = entry;
                }
                left.of[len]--;
        }
        return true;
}
