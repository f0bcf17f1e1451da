/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/twin_int.h"

#include <stdio.h>

#define SUFFIX ".blocks"
#define ID_DIGITS 16

char *tier_twin_name(uint64_t pack_id, char out[TIER_TWIN_NAME_BYTES])
{
        (void)snprintf(out, TIER_TWIN_NAME_BYTES, "%016llx" SUFFIX, (unsigned long long)pack_id);
        return out;
}

bool tier_twin_name_parse(const char *name, uint64_t *pack_id)
{
        if (strlen(name) != TIER_TWIN_NAME_BYTES - 1 ||
            strspn(name, "0123456789abcdef") != ID_DIGITS || strcmp(name + ID_DIGITS, SUFFIX) != 0)
                return false;
        *pack_id = strtoull(name, NULL, 16);
        return true;
}

struct tier_twin *tier_twin_new(uint64_t pack_id)
{
        struct tier_twin *t = cas_xcalloc(1, sizeof(*t));
        t->pack_id = pack_id;
        t->fd = -1;
        return t;
}

void tier_twin_free(struct tier_twin *t)
{
        if (!t)
                return;
        if (t->fd >= 0)
                (void)close(t->fd);
        free(t->blocks);
        free(t);
}

static uint64_t end_of(const struct tier_block *block)
{
        return block->offset + block->bytes;
}

static uint64_t first_page(uint64_t offset)
{
        return offset / TIER_PAGE_BYTES;
}

static uint64_t end_page(uint64_t end)
{
        return (end + TIER_PAGE_BYTES - 1) / TIER_PAGE_BYTES;
}

/* Number of the first block that ends behind offset. */
static size_t search(const struct tier_twin *t, uint64_t offset)
{
        size_t low = 0, high = t->count;
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                if (end_of(&t->blocks[middle]) > offset)
                        high = middle;
                else
                        low = middle + 1;
        }
        return low;
}

struct tier_block *tier_twin_first(struct tier_twin *t, uint64_t offset)
{
        size_t i = search(t, offset);
        return i < t->count ? &t->blocks[i] : NULL;
}

struct tier_block *tier_twin_next(struct tier_twin *t, struct tier_block *block)
{
        size_t i = (size_t)(block - t->blocks) + 1;
        return i < t->count ? &t->blocks[i] : NULL;
}

bool tier_twin_is_free(struct tier_twin *t, uint64_t offset, uint64_t bytes)
{
        const struct tier_block *block = tier_twin_first(t, offset);
        return !block || block->offset >= offset + bytes;
}

bool tier_twin_has(struct tier_twin *t, uint64_t offset, uint64_t bytes)
{
        const uint64_t end = offset + bytes;
        struct tier_block *block = tier_twin_first(t, offset);
        while (block && block->offset <= offset && !block->filling && !block->doomed) {
                offset = end_of(block);
                if (offset >= end)
                        return true;
                block = tier_twin_next(t, block);
        }
        return false;
}

struct tier_block *tier_twin_at(struct tier_twin *t, uint64_t offset)
{
        size_t i = search(t, offset);
        return i < t->count && t->blocks[i].offset == offset ? &t->blocks[i] : NULL;
}

/* The pages of a range that no block before number `before`, or from number `after` on, is on. */
static void free_pages(const struct tier_twin *t, size_t before, size_t after, uint64_t offset,
                       uint64_t end, uint64_t *from, uint64_t *count)
{
        uint64_t to = end_page(end);
        *from = first_page(offset);
        if (before > 0)
                *from = cas_max_u64(*from, end_page(end_of(&t->blocks[before - 1])));
        if (after < t->count)
                to = cas_min_u64(to, first_page(t->blocks[after].offset));
        *count = to > *from ? to - *from : 0;
}

uint64_t tier_twin_new_pages(const struct tier_twin *t, uint64_t offset, uint32_t bytes)
{
        uint64_t from, count;
        size_t i = search(t, offset);
        free_pages(t, i, i, offset, offset + bytes, &from, &count);
        return count;
}

struct tier_block *tier_twin_insert(struct tier_twin *t, uint64_t offset, uint32_t bytes)
{
        size_t i = search(t, offset);
        cas_assert(bytes > 0);
        cas_assert(i == t->count || t->blocks[i].offset >= offset + bytes);
        t->page_count += tier_twin_new_pages(t, offset, bytes);
        if (t->count == t->room) {
                t->room = t->room ? t->room + t->room / 2 : 4;
                t->blocks = cas_xrealloc(t->blocks, t->room * sizeof(t->blocks[0]));
        }
        memmove(&t->blocks[i + 1], &t->blocks[i], (t->count - i) * sizeof(t->blocks[0]));
        t->blocks[i] = (struct tier_block){.offset = offset, .bytes = bytes};
        t->count++;
        return &t->blocks[i];
}

void tier_twin_own_pages(const struct tier_twin *t, const struct tier_block *block, uint64_t *from,
                         uint64_t *count)
{
        size_t i = (size_t)(block - t->blocks);
        free_pages(t, i, i + 1, block->offset, end_of(block), from, count);
}

uint64_t tier_twin_remove(struct tier_twin *t, struct tier_block *block)
{
        size_t i = (size_t)(block - t->blocks);
        uint64_t from, count;
        tier_twin_own_pages(t, block, &from, &count);
        t->count--;
        t->page_count -= count;
        memmove(&t->blocks[i], &t->blocks[i + 1], (t->count - i) * sizeof(t->blocks[0]));
        return count;
}
