/* SPDX-License-Identifier: Apache-2.0 */
/* The tiers of a store, as configured: STORE/tiers (spec/tiering.md) tells which devices and
 * buckets there are; each carries the store's id, and one that comes back empty or another store's
 * is refused. Changing the list is durable on return. */
#ifndef TIERING_TIER_H
#define TIERING_TIER_H

#include "cas/backend.h"

#define TIER_NAME_BYTES 32 /* letters, digits, '-', '_', '.'; with NUL */
#define TIERS_MAX 16

enum tier_class { TIER_NVME, TIER_SSD, TIER_HDD, TIER_REMOTE }; /* from fast to slow */
enum tier_state {
        TIER_OK,
        TIER_LEAVING, /* nothing new goes there; being evacuated */
        TIER_REFUSED, /* empty, another store's, or not what it was: not touched */
        TIER_FAILED   /* not reachable, or it answered with errors of I/O */
};
struct tier_config {
        uint32_t id; /* 0: the store's own directory */
        char name[TIER_NAME_BYTES];
        enum tier_class class;
        char *where;             /* absolute directory, or s3://BUCKET/PREFIX; owned */
        uint64_t capacity_bytes; /* of all that tiering places there; 0: as the file system has */
        unsigned high_percent, low_percent; /* of the capacity: the mover begins, and ends */
        uint8_t density;                    /* enum cas_pack_density of home copies */
        uint64_t cache_bytes;  /* of them, for copies of blocks of slower tiers; 0: none */
        uint64_t bytes_per_s;  /* of the mover there; 0: no bound */
        uint64_t cool_after_s; /* packs not read for so long sink; 0: only when room is wanted */
        struct s3_config *s3;  /* of a remote one; owned */
};

#endif
