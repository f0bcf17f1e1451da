/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is given out in small pieces and released all at once. Pieces do
 * not move. Not thread-safe. */
#ifndef CAS_ARENA_H
#define CAS_ARENA_H

#include "cas/base.h"

struct cas_arena {
        struct cas_arena_chunk *chunks; /* owned; the newest first */
        uint8_t *at;                    /* next free byte of the newest chunk */
        size_t left_bytes;
};

#define CAS_ARENA_INIT                                                                             \
        {                                                                                          \
                0                                                                                  \
        }

void cas_arena_release(struct cas_arena *a);
/* NULL when there is no memory. align is a power of two, at most 16. Not zeroed. */
void *cas_arena_alloc(struct cas_arena *a, size_t size, size_t align);
/* A copy of the bytes, or NULL when there is no memory. */
void *cas_arena_copy(struct cas_arena *a, const void *data, size_t len, size_t align);

#endif
