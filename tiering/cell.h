/* SPDX-License-Identifier: Apache-2.0 */
/* Cells: the small objects of a cluster that change, and the text that they are (spec/cluster.md).
 * One struct for all kinds; each uses what it needs. Not thread-safe. */
#ifndef TIERING_CELL_H
#define TIERING_CELL_H

#include "cas/buf.h"
#include "cas/digest.h"
#include "cas/limits.h"

#define TIER_CELL_BYTES_MAX (2 * CAS_MIB)
#define TIER_CELL_CONTENT_BYTES_MAX (64 * CAS_KIB)
#define TIER_CELL_PIECES_MAX 20000
#define TIER_CELL_NONCE_BYTES 33
#define TIER_CELL_TEXT_BYTES 512
#define TIER_PIECE_KEY_BYTES 96

enum tier_cell_state {
        TIER_CELL_LIVE,
        TIER_CELL_CONDEMNED,
        TIER_CELL_DEAD,
        TIER_CELL_FINISHING,
};
struct tier_piece {
        char key[TIER_PIECE_KEY_BYTES];
        uint64_t bytes;
};
struct tier_cell {
        char nonce[TIER_CELL_NONCE_BYTES];
        enum tier_cell_state state;
        struct cas_digest digest; /* alg NONE: none; alike below */
        struct cas_digest wanted;
        enum cas_digest_alg alg;
        uint64_t size_bytes;
        char type[256];
        char owner[TIER_CELL_TEXT_BYTES];
        char name[TIER_CELL_TEXT_BYTES];
        char store[64];
        char holder[64];
        uint64_t seen_unix_s, token;
        uint64_t fresh_s, grace_s, gc_s;
        struct tier_piece *pieces; /* owned */
        size_t piece_count;
        struct cas_buf content; /* what follows the text */
};
#define TIER_CELL_INIT                                                                             \
        {                                                                                          \
                0                                                                                  \
        }
void tier_cell_release(struct tier_cell *cell);
#define tier_cleanup_cell __attribute__((cleanup(tier_cell_release)))

/* Others may rely on it, once it is held. */
static inline bool tier_cell_is_there(const struct tier_cell *cell)
{
        return cell->state == TIER_CELL_LIVE || cell->state == TIER_CELL_CONDEMNED;
}

void tier_cell_add_piece(struct tier_cell *cell, const char *key, uint64_t bytes);
bool tier_cell_has_piece(const struct tier_cell *cell, const char *key);
/* Appends. Errors: LIMIT (too many pieces), INVALID (a text has control characters). */
int tier_cell_encode(const struct tier_cell *cell, struct cas_buf *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* out is empty before, and released by the caller also after an error. Errors: CORRUPT. */
int tier_cell_decode(const void *data, size_t len, struct tier_cell *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
