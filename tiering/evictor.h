/* SPDX-License-Identifier: Apache-2.0 */
/* Which copies stay in a cache of limited size: one interface, several policies. Keys are opaque;
 * sizes differ. Not thread-safe: its user has a lock. Memory is bounded by a stated number of bytes
 * for each entry that fits, ghosts included. */
#ifndef TIERING_EVICTOR_H
#define TIERING_EVICTOR_H

#include "cas/base.h"

enum tier_evictor_kind { TIER_EVICT_LRU, TIER_EVICT_S3FIFO, TIER_EVICT_SIEVE, TIER_EVICT_TINYLFU };
#define TIER_EVICT_KINDS 4
#define TIER_EVICT_DEFAULT TIER_EVICT_S3FIFO /* why: spec/tiering.md, Policy */
/* Of memory, for each entry that fits, at most. */
#define TIER_EVICTOR_ENTRY_BYTES_MAX 160
struct tier_key {
        uint64_t hi, lo; /* e.g. pack id, offset in the pack; or 16 bytes of a digest */
};

struct tier_evictor;
/* expected_bytes: of one entry on average, for the sizes of tables (e.g. 256 KiB). */
struct tier_evictor *tier_evictor_new(enum tier_evictor_kind kind, uint64_t capacity_bytes,
                                      uint64_t expected_bytes);
void tier_evictor_free(struct tier_evictor *p);
const char *tier_evictor_name(enum tier_evictor_kind kind);
bool tier_evictor_parse(const char *name, enum tier_evictor_kind *out);

/* A read: whether the key is in the cache; notes the use. */
bool tier_evictor_hit(struct tier_evictor *p, const struct tier_key *key);
/* After a miss: whether the key shall be kept; makes room for it first, telling `evicted` (may be
 * NULL; it must not call the evictor) of each that goes (not of this one). `must`: it is kept in
 * any case (it has to be somewhere), unless it is larger than the whole cache. One that is in is
 * success. */
bool tier_evictor_admit(struct tier_evictor *p, const struct tier_key *key, uint64_t bytes,
                        bool must,
                        void (*evicted)(void *arg, const struct tier_key *key, uint64_t bytes),
                        void *arg);
/* It has gone for another reason. */
void tier_evictor_remove(struct tier_evictor *p, const struct tier_key *key);
/* Whether it is in; notes nothing. */
bool tier_evictor_has(const struct tier_evictor *p, const struct tier_key *key);
void tier_evictor_resize(struct tier_evictor *p, uint64_t capacity_bytes,
                         void (*evicted)(void *arg, const struct tier_key *key, uint64_t bytes),
                         void *arg);
uint64_t tier_evictor_used_bytes(const struct tier_evictor *p);
uint64_t tier_evictor_memory_bytes(const struct tier_evictor *p);

#endif
