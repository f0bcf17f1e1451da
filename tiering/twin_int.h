/* SPDX-License-Identifier: Apache-2.0 */
/* Which pieces of one pack are in its twin file: blocks by their offsets, none of which overlap,
 * and the pages of the file that they stand on. Neighbours share pages: one counts once, and may be
 * punched out when nothing stands on it. No I/O and no lock of its own. */
#ifndef TIERING_TWIN_INT_H
#define TIERING_TWIN_INT_H

#include "cas/base.h"

#define TIER_PAGE_BYTES 4096U
/* "%016x.blocks", with NUL. */
#define TIER_TWIN_NAME_BYTES 24

struct tier_block {
        uint64_t offset;
        uint32_t bytes;
        uint16_t users; /* readers, and who fills it */
        bool filling;   /* its bytes are not there yet */
        bool doomed;    /* not in the cache any more: punched out when nobody uses it */
};
_Static_assert(sizeof(struct tier_block) == 16, "stated in tiering/blocks.h");

struct tier_twin {
        uint64_t pack_id;
        struct tier_block *blocks; /* owned; by offset */
        size_t count, room;
        uint64_t page_count;
        uint64_t ahead_end; /* of what was fetched last, and how much more than was asked for */
        uint32_t ahead_bytes;
        int fd; /* owned; -1: not open */
        unsigned fd_users;
        bool in_trash; /* on the list of those with doomed blocks */
        struct tier_twin *next_trash;
};

char *tier_twin_name(uint64_t pack_id, char out[TIER_TWIN_NAME_BYTES]);
bool tier_twin_name_parse(const char *name, uint64_t *pack_id);

struct tier_twin *tier_twin_new(uint64_t pack_id);
/* Closes its descriptor. */
void tier_twin_free(struct tier_twin *t);

/* Pointers to blocks are good until the next insertion or removal. */

/* The first block that has a byte of the range or behind it, or NULL. */
struct tier_block *tier_twin_first(struct tier_twin *t, uint64_t offset);
/* The one behind it, or NULL. */
struct tier_block *tier_twin_next(struct tier_twin *t, struct tier_block *block);
/* Whether no block has a byte of the range. */
bool tier_twin_is_free(struct tier_twin *t, uint64_t offset, uint64_t bytes);
/* Whether blocks that are there have all of it: not filling, not doomed. */
bool tier_twin_has(struct tier_twin *t, uint64_t offset, uint64_t bytes);
/* The block that begins there, or NULL. */
struct tier_block *tier_twin_at(struct tier_twin *t, uint64_t offset);
/* How many pages would come with it. Nothing may stand on the range. */
uint64_t tier_twin_new_pages(const struct tier_twin *t, uint64_t offset, uint32_t bytes);
struct tier_block *tier_twin_insert(struct tier_twin *t, uint64_t offset, uint32_t bytes);
/* The pages that are the block's alone: from *first_page, *count of them (0: none). */
void tier_twin_own_pages(const struct tier_twin *t, const struct tier_block *block,
                         uint64_t *first_page, uint64_t *count);
/* Gives how many pages went with it. */
uint64_t tier_twin_remove(struct tier_twin *t, struct tier_block *block);

#endif
