/* SPDX-License-Identifier: Apache-2.0 */
/* A backend of a few tiers for tests: directories, and a remote one that is a directory as well, in
 * which packs lie under their names of spec/tiering.md, written by the same calls as the rest (so
 * that a recorder below libc sees them). Thread-safe but for what tests set. */
#ifndef TESTS_SUPPORT_FEWTIERS_H
#define TESTS_SUPPORT_FEWTIERS_H

#include <stdatomic.h>

#include "cas/backend.h"
#include "cas/index_int.h"

#define FEWTIERS_MAX 4

struct fewtier {
        char name[16];
        char *dir; /* owned; absolute */
        int dirfd;
        /* tests set these at any time while nothing is under way */
        bool remote, unreachable, leaving, shared;
        uint8_t density;
        uint64_t capacity_bytes; /* 0: no bound */
        _Atomic(uint64_t)
                used_bytes; /* by pack_grow and pack_shrunk, and what lay there at first */
};
struct fewtiers {
        struct cas_backend backend; /* first; close does nothing */
        struct fewtier tiers[FEWTIERS_MAX];
        unsigned count;
        /* what tests count and set */
        unsigned bad_places; /* so many of the next places give other bytes */
        _Atomic(unsigned) stores, fetches, deletes, places, bad_closed, gone, touched;
        _Atomic(uint32_t) touched_tier;
        struct cas_backend_ops ops; /* private */
};
void fewtiers_init(struct fewtiers *t);
/* The next tier, number 0 first; its directory (copied) is made when it is not there. */
struct fewtier *fewtiers_add(struct fewtiers *t, const char *name, const char *dir, bool remote,
                             enum cas_pack_density density);
/* Counts anew what lies there, as a restart does. */
void fewtiers_recount(struct fewtiers *t);
void fewtiers_release(struct fewtiers *t);
/* Packs in its directory (no other files); *others: files that are none. */
unsigned fewtiers_packs(const struct fewtiers *t, uint32_t tier, unsigned *others);
/* Path of a pack's copy on a tier; owned by the caller. */
char *fewtiers_path(const struct fewtiers *t, uint32_t tier, const struct cas_pack_file *pack);

#endif
