/* SPDX-License-Identifier: Apache-2.0 */
/* What the policies of evictor.h are made of: a table of entries by key, and queues of them. A
 * policy says in which queue an entry stands and which goes first; everything else (the table,
 * counting, telling of what goes) is evictor.c's, once. Entries are numbered, 32 bits, so that
 * links are short: 40 bytes an entry, 4 to 8 of the table, and what the policy's sketch takes. */
#ifndef TIERING_EVICTOR_INT_H
#define TIERING_EVICTOR_INT_H

#include "tiering/evictor.h"

#define TIER_NO_ENTRY UINT32_MAX
#define TIER_QUEUES 4
/* Entries there are not in the cache: their keys are remembered, no more. */
#define TIER_QUEUE_GHOSTS 3

struct tier_entry {
        struct tier_key key;
        uint64_t bytes;
        uint32_t next;         /* in its bucket, or in the list of free ones */
        uint32_t older, newer; /* in its queue */
        uint8_t queue;
        uint8_t uses; /* the policy's */
};
struct tier_queue {
        uint32_t newest, oldest;
        uint32_t count;
        uint64_t bytes;
};

/* Whom to tell of what goes. */
struct tier_eviction {
        void (*evicted)(void *arg, const struct tier_key *key, uint64_t bytes);
        void *arg;
};
struct tier_policy {
        const char *name;
        size_t size_bytes; /* of its struct, which begins with struct tier_evictor */
        void (*init)(struct tier_evictor *p);
        void (*release)(struct tier_evictor *p); /* may be NULL */
        /* A read, of whatever key, before `used`. May be NULL. */
        void (*seen)(struct tier_evictor *p, uint64_t hash);
        void (*used)(struct tier_evictor *p, uint32_t i);
        /* Puts a new entry, which is in no queue, into one, and evicts until all fits: it may find
         * that the new one is what goes, unless `must`. ghost: it was one until now. Returns
         * whether it is in. */
        bool (*admit)(struct tier_evictor *p, uint32_t i, bool ghost, bool must,
                      const struct tier_eviction *told);
        /* Evicts until all fits: the capacity is smaller, or queues have new shares of it. */
        void (*shrink)(struct tier_evictor *p, const struct tier_eviction *told);
        /* Before an entry leaves its queue, for whatever reason. May be NULL. */
        void (*leaving)(struct tier_evictor *p, uint32_t i);
        uint64_t (*memory_bytes)(
                const struct tier_evictor *p); /* beside the entries; may be NULL */
};
extern const struct tier_policy tier_policy_lru, tier_policy_s3fifo, tier_policy_sieve,
        tier_policy_tinylfu;

struct tier_evictor {
        const struct tier_policy *policy;
        uint64_t capacity_bytes, expected_bytes, used_bytes;
        uint64_t seed; /* of hashes */
        struct tier_queue queues[TIER_QUEUES];
        struct tier_entry *entries; /* owned */
        uint32_t entry_count, entries_max, free_first;
        uint32_t *buckets;     /* owned */
        uint32_t bucket_count; /* a power of two */
};

/* As tier_evictor_new, with a seed of one's own: every run is the same. */
struct tier_evictor *tier_evictor_new_seeded(enum tier_evictor_kind kind, uint64_t capacity_bytes,
                                             uint64_t expected_bytes, uint64_t seed);

uint64_t tier_evictor_hash(const struct tier_evictor *p, const struct tier_key *key);
void tier_queue_push(struct tier_evictor *p, unsigned queue, uint32_t i); /* as its newest */
void tier_queue_take(struct tier_evictor *p, uint32_t i);
void tier_queue_move(struct tier_evictor *p, unsigned queue, uint32_t i);
/* Out of its queue and the table; told of, unless told is NULL. */
void tier_entry_evict(struct tier_evictor *p, uint32_t i, const struct tier_eviction *told);
/* The same, but its key is remembered; the oldest ghosts are forgotten, so that there are at most
 * as many as entries, of at most the capacity's bytes. */
void tier_entry_haunt(struct tier_evictor *p, uint32_t i, const struct tier_eviction *told);

static inline struct tier_entry *tier_entry_at(const struct tier_evictor *p, uint32_t i)
{
        return &p->entries[i];
}

#endif
