/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/arena.h"

#define ARENA_CHUNK_BYTES ((size_t)256 << 10)

struct cas_arena_chunk {
        _Alignas(16) struct cas_arena_chunk *next;
};

void cas_arena_release(struct cas_arena *a)
{
        while (a->chunks) {
                struct cas_arena_chunk *next = a->chunks->next;
                free(a->chunks);
                a->chunks = next;
        }
        *a = (struct cas_arena)CAS_ARENA_INIT;
}

/* A piece too large to share a chunk gets one of its own, behind the newest. */
static void *alloc_alone(struct cas_arena *a, size_t size)
{
        if (size > SIZE_MAX - sizeof(struct cas_arena_chunk))
                return NULL;
        struct cas_arena_chunk *chunk = malloc(sizeof(*chunk) + size);
        if (!chunk)
                return NULL;
        if (a->chunks) {
                chunk->next = a->chunks->next;
                a->chunks->next = chunk;
        } else {
                chunk->next = NULL;
                a->chunks = chunk;
        }
        return chunk + 1;
}

void *cas_arena_alloc(struct cas_arena *a, size_t size, size_t align)
{
        cas_assert(align <= 16);
        size += size == 0; /* never NULL for an empty piece */
        size_t skip = (size_t)(-(uintptr_t)a->at & (align - 1));
        if (a->left_bytes >= skip && a->left_bytes - skip >= size) {
                uint8_t *p = a->at + skip;
                a->at = p + size;
                a->left_bytes -= skip + size;
                return p;
        }
        if (size > ARENA_CHUNK_BYTES / 8)
                return alloc_alone(a, size);
        struct cas_arena_chunk *chunk = malloc(sizeof(*chunk) + ARENA_CHUNK_BYTES);
        if (!chunk)
                return NULL;
        chunk->next = a->chunks;
        a->chunks = chunk;
        uint8_t *p = (uint8_t *)(chunk + 1);
        a->at = p + size;
        a->left_bytes = ARENA_CHUNK_BYTES - size;
        return p;
}

void *cas_arena_copy(struct cas_arena *a, const void *data, size_t len, size_t align)
{
        void *p = cas_arena_alloc(a, len, align);
        if (p && len > 0)
                memcpy(p, data, len);
        return p;
}
