/* SPDX-License-Identifier: Apache-2.0 */
/* The cache of blocks (spec/tiering.md): pieces of packs whose home copy is slow or in a bucket,
 * kept in one directory of a fast tier, in a sparse twin file for each pack. What the backend's
 * block operations (cas/backend.h) are made of; it is asked only for packs that are to be cached.
 *
 * A block is known by its pack and its offset there. Which of them stay is decided by an evictor;
 * a block that is being read is not punched out before its reader is done. Memory: 40 bytes for
 * each cached block, and the evictor's, 200 for each pack, 2 MiB (or a block) for each thread at
 * work. Thread-safe; nothing is verified here: who reads a block has its checksum, and tells when
 * it is bad. */
#ifndef TIERING_BLOCKS_H
#define TIERING_BLOCKS_H

#include "cas/backend.h"
#include "cas/io.h"
#include "tiering/evictor.h"

struct tier_blocks;

/* What the cache asks of the tiers. Called from many threads. */
struct tier_blocks_ops {
        /* A descriptor (the caller's) of the home copy of a pack of a directory. Errors: NOTFOUND,
         * IO, UNSUPPORTED. */
        int (*home_open)(void *arg, uint32_t tier, uint64_t pack_id, int *out_fd,
                         struct cas_err *err);
        /* Exactly len bytes of a pack in a bucket. NULL: there are no buckets. Errors: NOTFOUND,
         * CORRUPT, IO, BUSY. */
        int (*remote_read)(void *arg, uint32_t tier, const struct cas_pack_file *pack,
                           uint64_t offset, void *out, size_t len, struct cas_err *err);
        /* So many bytes are about to be written to the cache's tier (false: not now), or are there
         * no more. NULL: there is always room. Called with a lock of the cache held: neither may
         * block, nor call back. */
        bool (*room_take)(void *arg, uint64_t bytes);
        void (*room_give)(void *arg, uint64_t bytes);
};

struct tier_blocks_config {
        int dirfd;               /* of the directory of twins; duplicated. -1: nothing is kept */
        uint64_t capacity_bytes; /* of all twins, whole pages */
        enum tier_evictor_kind evictor;
        bool exact;              /* of buckets, too, nothing is fetched but what is asked for */
        unsigned threads;        /* that bring blocks up; 0: 1 for directories and 8 for buckets */
        const struct cas_io *io; /* NULL: the system's */
        const struct tier_blocks_ops *ops; /* borrowed until close */
        void *arg;
};
/* Takes up what is there of an earlier run, and throws out what is not known to be whole. Blocks.
 * Errors: IO. */
int tier_blocks_open(const struct tier_blocks_config *config, struct tier_blocks **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* No place may be open. What is cached stays there. */
void tier_blocks_close(struct tier_blocks *b);
/* Removes what a cache left in its directory; for one that is not to be used again. */
int tier_blocks_remove(int dirfd, struct cas_err *err) CAS_MUST_CHECK;
/* Also what makes room for others: to be called with less, and again with more. */
void tier_blocks_resize(struct tier_blocks *b, uint64_t capacity_bytes);

/* The operations of the same names of cas_backend_ops. A pack is remote when home_fd is -1. A place
 * is a twin, the home copy, or what was fetched and not kept. */
int tier_blocks_block_open(struct tier_blocks *b, uint32_t tier, const struct cas_pack_file *pack,
                           int home_fd, uint64_t offset, uint32_t bytes,
                           struct cas_block_place *out, struct cas_err *err) CAS_MUST_CHECK;
void tier_blocks_block_close(struct tier_blocks *b, struct cas_block_place *place, bool bad);
/* *out_fd -1 where nothing is kept. */
int tier_blocks_cache_open(struct tier_blocks *b, const struct cas_pack_file *pack, int *out_fd,
                           struct cas_err *err) CAS_MUST_CHECK;
/* Bytes of a pack were read elsewhere: counted as a hit when they are cached; a block of a
 * directory's pack that is not is brought up later when it is worth it. bytes 0: all that is
 * known is that something was read; does nothing. */
void tier_blocks_touched(struct tier_blocks *b, uint32_t tier, bool remote, uint64_t pack_id,
                         uint64_t offset, uint32_t bytes);
int tier_blocks_bring(struct tier_blocks *b, uint32_t tier, const struct cas_pack_file *pack,
                      int home_fd, const struct cas_block_range *ranges, size_t count,
                      bool (*stop)(void *arg), void *stop_arg, struct cas_err *err) CAS_MUST_CHECK;
void tier_blocks_pack_gone(struct tier_blocks *b, uint64_t pack_id);

/* For metrics. */
struct tier_blocks_counts {
        uint64_t hits, misses;          /* reads of blocks */
        uint64_t admitted, rejected;    /* by the evictor, after a miss */
        uint64_t evicted, bad;          /* bad: readers found them damaged */
        uint64_t shared;                /* readers that waited for another's fetch */
        uint64_t hit_bytes, miss_bytes; /* of the blocks read */
        uint64_t brought_bytes;         /* read from home copies, to be kept or given out */
        uint64_t unkept;                /* fetched from a bucket, and given out without a twin */
        uint64_t cached_bytes;          /* now: pages of twins */
        uint64_t cached_blocks, cached_packs, capacity_bytes, memory_bytes;
};
void tier_blocks_counts(struct tier_blocks *b, struct tier_blocks_counts *out);

#endif
