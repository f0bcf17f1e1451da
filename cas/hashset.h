/* SPDX-License-Identifier: Apache-2.0 */
/* A set of digests by 64 bits of each: 8 to 16 bytes an element. Two digests
 * with equal bits are one: it may say "yes" wrongly (2^-64 for each pair), never
 * "no". Fit for marking what must be kept. Not thread-safe. */
#ifndef CAS_HASHSET_H
#define CAS_HASHSET_H

#include "cas/digest.h"

struct cas_hashset {
        uint64_t *slots; /* owned; 0: empty */
        size_t capacity; /* 0 or a power of two */
        size_t count;
};
#define CAS_HASHSET_INIT                                                                           \
        {                                                                                          \
                0                                                                                  \
        }
void cas_hashset_release(struct cas_hashset *set);
/* Whether it was new. */
bool cas_hashset_add(struct cas_hashset *set, const uint8_t *digest);
bool cas_hashset_has(const struct cas_hashset *set, const uint8_t *digest);

#endif
