/* SPDX-License-Identifier: Apache-2.0 */
/* A set of hashes by their first 8 bytes, in the order of these: as references know objects
 * (cas/refs_int.h). Filled first, then settled, then asked; 8 bytes an element, also when each is
 * added many times. Not thread-safe. */
#ifndef CAS_PREFIXSET_H
#define CAS_PREFIXSET_H

#include "cas/digest.h"

struct cas_prefixset {
        uint64_t *list; /* owned; in order, each once, while count is `settled` */
        size_t count, settled, max;
};
#define CAS_PREFIXSET_INIT                                                                         \
        {                                                                                          \
                0                                                                                  \
        }
void cas_prefixset_release(struct cas_prefixset *set);
void cas_prefixset_add(struct cas_prefixset *set, const struct cas_hash *hash);
void cas_prefixset_settle(struct cas_prefixset *set);
/* Settled only, as the next. */
bool cas_prefixset_has(const struct cas_prefixset *set, const struct cas_hash *hash);
/* The element at a place below count, followed by zeros. */
struct cas_hash cas_prefixset_at(const struct cas_prefixset *set, size_t place);

#endif
