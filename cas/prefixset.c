/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/prefixset.h"

void cas_prefixset_release(struct cas_prefixset *set)
{
        free(set->list);
        *set = (struct cas_prefixset)CAS_PREFIXSET_INIT;
}

static int by_number(const void *a, const void *b)
{
        uint64_t x, y;
        memcpy(&x, a, sizeof(x));
        memcpy(&y, b, sizeof(y));
        return (x > y) - (x < y);
}

void cas_prefixset_settle(struct cas_prefixset *set)
{
        if (set->settled == set->count)
                return;
        qsort(set->list, set->count, sizeof(set->list[0]), by_number);
        size_t kept = 1;
        for (size_t i = 1; i < set->count; i++) {
                if (set->list[i] != set->list[kept - 1])
                        set->list[kept++] = set->list[i];
        }
        set->count = set->settled = kept;
}

/* When what is there is full of repetitions, these go first. */
static void make_room(struct cas_prefixset *set)
{
        if (set->count < set->max)
                return;
        cas_prefixset_settle(set);
        if (set->max > 0 && set->count * 2 <= set->max)
                return;
        set->max = set->max ? 2 * set->max : 256;
        set->list = cas_xrealloc(set->list, set->max * sizeof(set->list[0]));
}

void cas_prefixset_add(struct cas_prefixset *set, const struct cas_hash *hash)
{
        make_room(set);
        set->list[set->count++] = cas_get_be64(hash->bytes);
}

bool cas_prefixset_has(const struct cas_prefixset *set, const struct cas_hash *hash)
{
        const uint64_t wanted = cas_get_be64(hash->bytes);
        cas_assert(set->settled == set->count);
        return set->count > 0 &&
               bsearch(&wanted, set->list, set->count, sizeof(set->list[0]), by_number) != NULL;
}

struct cas_hash cas_prefixset_at(const struct cas_prefixset *set, size_t place)
{
        struct cas_hash out = {.bytes = {0}};
        cas_assert(place < set->count);
        cas_put_be64(out.bytes, set->list[place]);
        return out;
}
