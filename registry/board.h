/* SPDX-License-Identifier: Apache-2.0 */
/* Progress of a transfer of many blobs: each that is under way is an item, and
 * the sum of all is told. Thread-safe; a part belongs to one thread. */
#ifndef REG_BOARD_H
#define REG_BOARD_H

#include "cas/mutex.h"
#include "cas/store.h"

#define REG_BOARD_ITEMS_MAX 64
#define REG_BOARD_NAME_BYTES 32

struct reg_board_part {
        struct reg_board *board; /* borrowed */
        char name[REG_BOARD_NAME_BYTES];
        uint64_t done_bytes, total_bytes;
        struct reg_board_part *next; /* guarded by board->mutex, as the numbers are */
};
struct reg_board {
        struct cas_mutex mutex;
        const struct cas_progress *to; /* borrowed; may be NULL */
        const char *what;              /* borrowed */
        struct reg_board_part *parts;  /* under way, in the order in which they began */
        uint64_t done_bytes, total_bytes, moved_bytes, told_at_ns;
};
void reg_board_init(struct reg_board *b, const struct cas_progress *to, const char *what);
void reg_board_release(struct reg_board *b);
#define reg_cleanup_board __attribute__((cleanup(reg_board_release)))
/* More is to be done. */
void reg_board_expect(struct reg_board *b, uint64_t bytes);
/* total_bytes were expected before. */
void reg_board_begin(struct reg_board *b, struct reg_board_part *part, const char *name,
                     uint64_t total_bytes);
/* Bytes of this part that are done, from its beginning; it may go back. moved: over the network. */
void reg_board_move(struct reg_board_part *part, uint64_t done_bytes, uint64_t moved_bytes);
/* The part counts as done whole. */
void reg_board_end(struct reg_board_part *part);
uint64_t reg_board_moved(struct reg_board *b); /* bytes, over the network */

#endif
