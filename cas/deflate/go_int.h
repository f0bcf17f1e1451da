/* SPDX-License-Identifier: Apache-2.0 */
/* The two searches for matches of Go's compress/flate, inside of its class (go.c). They make
 * tokens; blocks and bits are go_blockwriter.h's. */
#ifndef CAS_GO_INT_H
#define CAS_GO_INT_H

#include "cas/deflate/go_blockwriter.h"

/* Of input that restarts want to see. */
#define CAS_GO_RESTART_BYTES 262144

/* Level 1: blocks of at most 65535 bytes, each encoded as a whole. */
struct cas_go_fast;
struct cas_go_fast *cas_go_fast_new(void);
void cas_go_fast_free(struct cas_go_fast *f);
/* Nothing was seen. */
void cas_go_fast_clear(struct cas_go_fast *f);
/* Forgets what was seen: later blocks have no matches before them. */
void cas_go_fast_reset(struct cas_go_fast *f);
/* Where the next block's bytes are put: CAS_GO_STORED_BYTES_MAX. */
uint8_t *cas_go_fast_room(struct cas_go_fast *f);
/* Encodes the len bytes in the room, 128 or more; room is another place then. The block is borrowed
 * until the next call. */
void cas_go_fast_encode(struct cas_go_fast *f, size_t len, struct cas_go_block *out);

/* Both will encode all that follows alike. */
bool cas_go_fast_same(const struct cas_go_fast *a, const struct cas_go_fast *b);

/* Levels 2 to 9: hash chains over a window of 64 KiB that moves by 32 KiB. */
#define CAS_GO_WINDOW_BYTES 32768
#define CAS_GO_BLOCK_TOKENS 16384
struct cas_go_chain;

/* Called with each block, and how much of the input is behind it. */
typedef void (*cas_go_block_fn)(void *arg, const struct cas_go_block *block, uint64_t end);

struct cas_go_chain *cas_go_chain_new(int level, cas_go_block_fn block, void *arg);
void cas_go_chain_free(struct cas_go_chain *c);
void cas_go_chain_begin(struct cas_go_chain *c, const uint8_t *dictionary, size_t len);
void cas_go_chain_write(struct cas_go_chain *c, const uint8_t *data, size_t len);
void cas_go_chain_flush(struct cas_go_chain *c);

/* For marks. index: where the input stands in the window, 0 to 65536. */
uint32_t cas_go_chain_index(const struct cas_go_chain *c);
/* How far back flushes matter to a restart. */
uint32_t cas_go_chain_memory(const struct cas_go_chain *c);
/* Goes on at `end` of the input, where a block ended, `index` in the window. before: the input
 * until there. cuts: how far back there was a flush, ascending, all there were within
 * cas_go_chain_memory. False: not possible. */
bool cas_go_chain_restore(struct cas_go_chain *c, uint64_t end, uint32_t index,
                          const uint8_t *before, size_t len, const uint32_t *cuts,
                          unsigned cut_count);
/* `restored`, of the same index, will encode all that follows as `c` does, which is at an end of
 * block. May put what c has ahead into `restored`, which is of no other use then. */
bool cas_go_chain_same(const struct cas_go_chain *c, struct cas_go_chain *restored);

#endif
