/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the cache of blocks.
 *
 * A "block" here is a range that was brought in one piece: a block of a pack, or, of a bucket, one
 * and what follows. A read may lie on several of them.
 *
 * A block of a twin is *filling* from when room was taken for it until its bytes are there, then
 * there, then *doomed*, and goes when nobody uses it. One thread at a time punches out what is
 * doomed (blockstrash.c), without the lock; nothing is put on pages that are just being punched.
 * Nothing is written before what had to go for it has gone, so that the capacity holds at every
 * instant. The lock is not held while files are read or written, but for the few bytes of the log
 * and for opening twins. */
#ifndef TIERING_BLOCKS_INT_H
#define TIERING_BLOCKS_INT_H

#include "cas/map.h"
#include "cas/mutex.h"
#include "cas/pool.h"
#include "tiering/blocks.h"
#include "tiering/twin_int.h"
#include "tiering/twinlog_int.h"

/* Of a frame: blocks have at most 4 MiB, and what an encoder adds. */
#define TIER_BLOCK_BYTES_MAX (UINT32_C(8) << 20)
/* Blocks nearer to each other are read in one go, of at most so many bytes. */
#define TIER_RUN_GAP_BYTES (UINT64_C(1) << 20)
#define TIER_RUN_BYTES_MAX (UINT64_C(2) << 20)
#define TIER_RUN_BLOCKS_MAX 256
/* What is fetched of a bucket when small pieces are asked for, or one behind the other. */
#define TIER_SMALL_BYTES (UINT32_C(32) << 10)
#define TIER_AHEAD_BYTES_MIN (UINT32_C(256) << 10)
#define TIER_AHEAD_BYTES_MAX (UINT32_C(1) << 20)
/* Descriptors of twins kept open. */
#define TIER_TWINS_OPEN_MAX 256
/* Blocks waiting to be brought up; more are forgotten. */
#define TIER_PROMOTIONS_MAX 256
#define TIER_PROMOTERS_MAX 8
#define TIER_FETCHERS_DEFAULT 8
#define TIER_PROMOTERS_DEFAULT 1 /* a disk has one head */

/* Where a pack's home copy is read. */
struct tier_source {
        uint32_t tier;
        struct cas_pack_file pack;
        int home_fd; /* borrowed; -1: by the table's remote_read */
};

struct tier_promotion {
        uint64_t pack_id;
        uint32_t tier;
        struct cas_block_range range;
};

struct tier_blocks {
        const struct tier_blocks_ops *ops; /* borrowed */
        void *arg;
        const struct cas_io *io;
        int dirfd; /* owned; -1: nothing is kept */
        bool exact;
        struct cas_pool *fetchers;

        struct cas_mutex mutex; /* guards all below, evictor and log included */
        pthread_cond_t changed; /* a block was filled or went, punching ended */
        struct cas_map *twins;  /* pack id to struct tier_twin */
        struct tier_evictor *evictor;
        struct tier_twinlog *log; /* NULL: nothing is kept */
        uint64_t capacity_bytes;
        uint64_t page_count; /* of all twins, those included that are about to be written */
        uint64_t block_count;
        struct tier_twin *open[TIER_TWINS_OPEN_MAX]; /* with a descriptor */
        size_t open_count, open_hand;
        struct tier_twin *trash; /* twins with doomed blocks */
        bool draining;
        struct {
                struct tier_twin *twin; /* NULL: nothing is */
                uint64_t first_page, end_page;
        } punching;
        struct tier_blocks_counts counts;

        pthread_cond_t wanted; /* there are promotions, or it ends */
        struct tier_promotion promotions[TIER_PROMOTIONS_MAX];
        size_t promotion_count;
        bool stopping;
        pthread_t promoters[TIER_PROMOTERS_MAX];
        unsigned promoter_count;
};

/* ---- twins (blocks.c) ---- */
struct tier_twin *tier_blocks_twin_locked(struct tier_blocks *b, uint64_t pack_id);
/* Frees it when nothing is known of it and nobody uses it. */
void tier_blocks_forget_locked(struct tier_blocks *b, struct tier_twin *t);
/* Its descriptor, in use until tier_blocks_fd_put_locked. Errors: IO, LIMIT. */
int tier_blocks_fd_get_locked(struct tier_blocks *b, struct tier_twin *t, int *out,
                              struct cas_err *err) CAS_MUST_CHECK;
void tier_blocks_fd_put_locked(struct tier_twin *t);
/* Closes it when it is open. */
void tier_blocks_fd_close_locked(struct tier_blocks *b, struct tier_twin *t);
struct tier_key tier_blocks_key(uint64_t pack_id, uint64_t offset);

/* ---- going (blockstrash.c) ---- */
/* The evictor knows the block no more. */
void tier_blocks_doom_locked(struct tier_blocks *b, struct tier_twin *t, struct tier_block *block);
/* The callback of the evictor; arg is the struct tier_blocks. */
void tier_blocks_evicted_locked(void *arg, const struct tier_key *key, uint64_t bytes);
/* Ends a use of a block. */
void tier_blocks_unuse_locked(struct tier_blocks *b, struct tier_twin *t, struct tier_block *block);
/* Punches out what is doomed and not in use, unless another thread is at it. Lets go of the lock
 * meanwhile: pointers to twins and blocks that are not in use are no longer good. */
void tier_blocks_drain_locked(struct tier_blocks *b);
/* Waits until what may be written fits. False: blocks that had to go are in use. As above. */
bool tier_blocks_make_room_locked(struct tier_blocks *b) CAS_MUST_CHECK;

/* ---- coming (blocksfill.c) ---- */
enum tier_claim {
        TIER_CLAIM_OURS,    /* it is filling, and has one user: the caller */
        TIER_CLAIM_THERE,   /* or some of it is being filled by another */
        TIER_CLAIM_REFUSED, /* not to be kept */
};
/* Takes room for a block that is not there. Waits while its pages are being punched. */
enum tier_claim tier_blocks_claim_locked(struct tier_blocks *b, uint64_t pack_id,
                                         const struct cas_block_range *range, bool must);
/* Brings the range and keeps it, with one user more when `use` is given: its twin. REFUSED in
 * *claim: it was not kept. The caller holds no lock. Errors: those of reading and writing. */
int tier_blocks_fill(struct tier_blocks *b, const struct tier_source *source,
                     const struct cas_block_range *range, enum tier_claim *claim,
                     struct tier_twin **use, struct cas_err *err) CAS_MUST_CHECK;
int tier_blocks_read_source(struct tier_blocks *b, const struct tier_source *source,
                            uint64_t offset, void *out, size_t len,
                            struct cas_err *err) CAS_MUST_CHECK;
void tier_blocks_promote_locked(struct tier_blocks *b, uint32_t tier, uint64_t pack_id,
                                const struct cas_block_range *range);
int tier_blocks_promoters_start(struct tier_blocks *b, unsigned threads,
                                struct cas_err *err) CAS_MUST_CHECK;
void tier_blocks_promoters_stop(struct tier_blocks *b);

/* ---- an earlier run's (blocksopen.c) ---- */
int tier_blocks_recover(struct tier_blocks *b, struct cas_err *err) CAS_MUST_CHECK;
void tier_blocks_log_locked(struct tier_blocks *b, enum tier_twinlog_kind kind, uint64_t pack_id,
                            uint64_t offset, uint32_t bytes);

#endif
