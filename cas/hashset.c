/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/hashset.h"

void cas_hashset_release(struct cas_hashset *set)
{
        free(set->slots);
        *set = (struct cas_hashset)CAS_HASHSET_INIT;
}

/* Not from the start of the digest: keys that are chosen to share a prefix shall not collide. */
static uint64_t bits_of(const uint8_t *digest)
{
        uint64_t bits = cas_get_le64(digest + 8) ^ cas_get_le64(digest + 24);
        return bits ? bits : 1;
}

/* The slot that holds bits, or the empty one where they belong. */
static size_t slot_of(const struct cas_hashset *set, uint64_t bits)
{
        size_t at = bits & (set->capacity - 1);
        while (set->slots[at] != 0 && set->slots[at] != bits)
                at = (at + 1) & (set->capacity - 1);
        return at;
}

static void grow(struct cas_hashset *set)
{
        struct cas_hashset bigger = {.capacity = set->capacity ? 2 * set->capacity : 1024};
        bigger.slots = cas_xcalloc(bigger.capacity, sizeof(bigger.slots[0]));
        bigger.count = set->count;
        for (size_t i = 0; i < set->capacity; i++) {
                if (set->slots[i])
                        bigger.slots[slot_of(&bigger, set->slots[i])] = set->slots[i];
        }
        free(set->slots);
        *set = bigger;
}

bool cas_hashset_add(struct cas_hashset *set, const uint8_t *digest)
{
        if (set->count * 4 >= set->capacity * 3)
                grow(set);
        uint64_t bits = bits_of(digest);
        size_t at = slot_of(set, bits);
        if (set->slots[at])
                return false;
        set->slots[at] = bits;
        set->count++;
        return true;
}

bool cas_hashset_has(const struct cas_hashset *set, const uint8_t *digest)
{
        return set->count > 0 && set->slots[slot_of(set, bits_of(digest))] != 0;
}
