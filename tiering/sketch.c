/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/sketch.h"

#define ROWS 4
#define BLOCK_WORDS 8
#define KEYS_MIN 64u
#define KEYS_MAX (UINT64_C(1) << 32)
#define SAMPLE_OF_KEY 10 /* so many notes for each key until all are halved */
#define LOW_THREE_BITS UINT64_C(0x7777777777777777)

static uint32_t blocks_for(uint64_t keys)
{
        uint32_t blocks = 1;
        keys = cas_min_u64(cas_max_u64(keys, KEYS_MIN), KEYS_MAX);
        while ((uint64_t)blocks * BLOCK_WORDS < keys)
                blocks *= 2;
        return blocks;
}

static void set_blocks(struct tier_sketch *s, uint32_t blocks)
{
        s->blocks = blocks;
        s->sample = (uint64_t)blocks * BLOCK_WORDS * SAMPLE_OF_KEY;
}

void tier_sketch_init(struct tier_sketch *s, uint64_t keys)
{
        *s = (struct tier_sketch){0};
        set_blocks(s, blocks_for(keys));
        s->words = cas_xcalloc((size_t)s->blocks * BLOCK_WORDS, sizeof(s->words[0]));
}

void tier_sketch_release(struct tier_sketch *s)
{
        free(s->words);
        s->words = NULL;
}

/* A key's block is its hash modulo their number, a power of two: in a table of twice the size it
 * is the same one of the first or of the second half. */
void tier_sketch_grow(struct tier_sketch *s, uint64_t keys)
{
        for (uint32_t wanted = blocks_for(keys); s->blocks < wanted;) {
                size_t words = (size_t)s->blocks * BLOCK_WORDS;
                s->words = cas_xrealloc(s->words, 2 * words * sizeof(s->words[0]));
                memcpy(s->words + words, s->words, words * sizeof(s->words[0]));
                set_blocks(s, s->blocks * 2);
        }
}

static uint64_t *word_of(const struct tier_sketch *s, uint64_t hash, unsigned row, unsigned *shift)
{
        unsigned bits = (unsigned)(hash >> (32 + 8 * row)) & 0x1f; /* above those of the block */
        *shift = (bits & 15) * 4;
        return &s->words[(size_t)(hash & (s->blocks - 1)) * BLOCK_WORDS + 2 * row + (bits >> 4)];
}

static void halve(struct tier_sketch *s)
{
        for (size_t i = 0; i < (size_t)s->blocks * BLOCK_WORDS; i++)
                s->words[i] = s->words[i] >> 1 & LOW_THREE_BITS;
        s->noted /= 2;
}

void tier_sketch_note(struct tier_sketch *s, uint64_t hash)
{
        unsigned count = tier_sketch_count(s, hash);
        if (count == TIER_SKETCH_MAX)
                return;
        for (unsigned row = 0; row < ROWS; row++) {
                unsigned shift;
                uint64_t *word = word_of(s, hash, row, &shift);
                if ((*word >> shift & 15) == count) /* the others say too much already */
                        *word += UINT64_C(1) << shift;
        }
        if (++s->noted >= s->sample)
                halve(s);
}

unsigned tier_sketch_count(const struct tier_sketch *s, uint64_t hash)
{
        unsigned least = TIER_SKETCH_MAX;
        for (unsigned row = 0; row < ROWS; row++) {
                unsigned shift;
                uint64_t word = *word_of(s, hash, row, &shift);
                unsigned count = (unsigned)(word >> shift) & 15;
                least = count < least ? count : least;
        }
        return least;
}

uint64_t tier_sketch_bytes(const struct tier_sketch *s)
{
        return (uint64_t)s->blocks * BLOCK_WORDS * sizeof(s->words[0]);
}
