/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/evictor_int.h"

#include <sys/random.h>
#include <xxhash.h>

#define BUCKETS_MIN 64u
#define ENTRIES_MIN 64u

static const struct tier_policy *const policies[] = {
        [TIER_EVICT_LRU] = &tier_policy_lru,
        [TIER_EVICT_S3FIFO] = &tier_policy_s3fifo,
        [TIER_EVICT_SIEVE] = &tier_policy_sieve,
        [TIER_EVICT_TINYLFU] = &tier_policy_tinylfu,
};

struct tier_evictor *tier_evictor_new_seeded(enum tier_evictor_kind kind, uint64_t capacity_bytes,
                                             uint64_t expected_bytes, uint64_t seed)
{
        cas_assert((size_t)kind < CAS_COUNT(policies));
        const struct tier_policy *policy = policies[kind];
        struct tier_evictor *p = cas_xcalloc(1, policy->size_bytes);
        p->policy = policy;
        p->capacity_bytes = capacity_bytes;
        p->expected_bytes = cas_max_u64(expected_bytes, 1);
        p->seed = seed;
        p->free_first = TIER_NO_ENTRY;
        for (unsigned q = 0; q < TIER_QUEUES; q++)
                p->queues[q] = (struct tier_queue){TIER_NO_ENTRY, TIER_NO_ENTRY, 0, 0};
        p->bucket_count = BUCKETS_MIN;
        p->buckets = cas_xmalloc(p->bucket_count * sizeof(p->buckets[0]));
        memset(p->buckets, 0xff, p->bucket_count * sizeof(p->buckets[0]));
        if (policy->init)
                policy->init(p);
        return p;
}

struct tier_evictor *tier_evictor_new(enum tier_evictor_kind kind, uint64_t capacity_bytes,
                                      uint64_t expected_bytes)
{
        uint64_t seed;
        ssize_t n = getrandom(&seed, sizeof(seed), 0);
        cas_assert(n == (ssize_t)sizeof(seed));
        return tier_evictor_new_seeded(kind, capacity_bytes, expected_bytes, seed);
}

void tier_evictor_free(struct tier_evictor *p)
{
        if (!p)
                return;
        if (p->policy->release)
                p->policy->release(p);
        free(p->entries);
        free(p->buckets);
        free(p);
}

const char *tier_evictor_name(enum tier_evictor_kind kind)
{
        cas_assert((size_t)kind < CAS_COUNT(policies));
        return policies[kind]->name;
}

bool tier_evictor_parse(const char *name, enum tier_evictor_kind *out)
{
        for (size_t i = 0; i < CAS_COUNT(policies); i++) {
                if (strcmp(policies[i]->name, name) == 0) {
                        *out = (enum tier_evictor_kind)i;
                        return true;
                }
        }
        return false;
}

uint64_t tier_evictor_hash(const struct tier_evictor *p, const struct tier_key *key)
{
        return XXH3_64bits_withSeed(key, sizeof(*key), p->seed);
}

/* ---- the table ---- */

static uint32_t *bucket_of(const struct tier_evictor *p, uint64_t hash)
{
        return &p->buckets[hash & (p->bucket_count - 1)];
}

static uint32_t find(const struct tier_evictor *p, const struct tier_key *key, uint64_t hash)
{
        uint32_t i = *bucket_of(p, hash);
        while (i != TIER_NO_ENTRY &&
               (p->entries[i].key.lo != key->lo || p->entries[i].key.hi != key->hi))
                i = p->entries[i].next;
        return i;
}

static void widen_table(struct tier_evictor *p)
{
        uint32_t old_count = p->bucket_count, *old = p->buckets;
        p->bucket_count *= 2;
        p->buckets = cas_xmalloc(p->bucket_count * sizeof(p->buckets[0]));
        memset(p->buckets, 0xff, p->bucket_count * sizeof(p->buckets[0]));
        for (uint32_t b = 0; b < old_count; b++) {
                for (uint32_t i = old[b], next; i != TIER_NO_ENTRY; i = next) {
                        next = p->entries[i].next;
                        uint32_t *bucket = bucket_of(p, tier_evictor_hash(p, &p->entries[i].key));
                        p->entries[i].next = *bucket;
                        *bucket = i;
                }
        }
        free(old);
}

/* An entry in the table, in no queue. */
static uint32_t entry_new(struct tier_evictor *p, const struct tier_key *key, uint64_t hash,
                          uint64_t bytes)
{
        if (p->free_first == TIER_NO_ENTRY) {
                uint32_t first = p->entries_max;
                cas_assert(first < TIER_NO_ENTRY / 2);
                p->entries_max = first ? first + first / 2 : ENTRIES_MIN;
                p->entries = cas_xrealloc(p->entries, p->entries_max * sizeof(p->entries[0]));
                for (uint32_t i = p->entries_max; i-- > first;) {
                        p->entries[i].next = p->free_first;
                        p->free_first = i;
                }
        }
        if (p->entry_count >= p->bucket_count)
                widen_table(p);
        uint32_t i = p->free_first, *bucket = bucket_of(p, hash);
        struct tier_entry *e = &p->entries[i];
        p->free_first = e->next;
        p->entry_count++;
        *e = (struct tier_entry){.key = *key, .bytes = bytes, .next = *bucket};
        *bucket = i;
        return i;
}

static void entry_drop(struct tier_evictor *p, uint32_t i)
{
        uint32_t *link = bucket_of(p, tier_evictor_hash(p, &p->entries[i].key));
        while (*link != i)
                link = &p->entries[*link].next;
        *link = p->entries[i].next;
        p->entries[i].next = p->free_first;
        p->free_first = i;
        p->entry_count--;
}

/* ---- queues ---- */

void tier_queue_push(struct tier_evictor *p, unsigned queue, uint32_t i)
{
        struct tier_queue *q = &p->queues[queue];
        struct tier_entry *e = &p->entries[i];
        e->queue = (uint8_t)queue;
        e->newer = TIER_NO_ENTRY;
        e->older = q->newest;
        *(q->newest != TIER_NO_ENTRY ? &p->entries[q->newest].newer : &q->oldest) = i;
        q->newest = i;
        q->count++;
        q->bytes += e->bytes;
        if (queue != TIER_QUEUE_GHOSTS)
                p->used_bytes += e->bytes;
}

void tier_queue_take(struct tier_evictor *p, uint32_t i)
{
        struct tier_entry *e = &p->entries[i];
        struct tier_queue *q = &p->queues[e->queue];
        if (p->policy->leaving)
                p->policy->leaving(p, i);
        *(e->newer != TIER_NO_ENTRY ? &p->entries[e->newer].older : &q->newest) = e->older;
        *(e->older != TIER_NO_ENTRY ? &p->entries[e->older].newer : &q->oldest) = e->newer;
        q->count--;
        q->bytes -= e->bytes;
        if (e->queue != TIER_QUEUE_GHOSTS)
                p->used_bytes -= e->bytes;
}

void tier_queue_move(struct tier_evictor *p, unsigned queue, uint32_t i)
{
        tier_queue_take(p, i);
        tier_queue_push(p, queue, i);
}

static void tell(const struct tier_evictor *p, uint32_t i, const struct tier_eviction *told)
{
        if (told && told->evicted)
                told->evicted(told->arg, &p->entries[i].key, p->entries[i].bytes);
}

void tier_entry_evict(struct tier_evictor *p, uint32_t i, const struct tier_eviction *told)
{
        tier_queue_take(p, i);
        tell(p, i, told);
        entry_drop(p, i);
}

static void trim_ghosts(struct tier_evictor *p)
{
        struct tier_queue *ghosts = &p->queues[TIER_QUEUE_GHOSTS];
        while (ghosts->count > 0 && (ghosts->bytes > p->capacity_bytes ||
                                     ghosts->count > p->entry_count - ghosts->count))
                tier_entry_evict(p, ghosts->oldest, NULL);
}

void tier_entry_haunt(struct tier_evictor *p, uint32_t i, const struct tier_eviction *told)
{
        tier_queue_take(p, i);
        tell(p, i, told);
        tier_queue_push(p, TIER_QUEUE_GHOSTS, i);
        trim_ghosts(p);
}

/* ---- the interface ---- */

bool tier_evictor_hit(struct tier_evictor *p, const struct tier_key *key)
{
        uint64_t hash = tier_evictor_hash(p, key);
        if (p->policy->seen)
                p->policy->seen(p, hash);
        uint32_t i = find(p, key, hash);
        if (i == TIER_NO_ENTRY || p->entries[i].queue == TIER_QUEUE_GHOSTS)
                return false;
        p->policy->used(p, i);
        return true;
}

bool tier_evictor_admit(struct tier_evictor *p, const struct tier_key *key, uint64_t bytes,
                        bool must,
                        void (*evicted)(void *arg, const struct tier_key *key, uint64_t bytes),
                        void *arg)
{
        struct tier_eviction told = {evicted, arg};
        uint64_t hash = tier_evictor_hash(p, key);
        uint32_t i = find(p, key, hash);
        bool ghost = i != TIER_NO_ENTRY && p->entries[i].queue == TIER_QUEUE_GHOSTS;
        if (i != TIER_NO_ENTRY && !ghost)
                return true;
        if (bytes > p->capacity_bytes)
                return false;
        if (ghost) {
                tier_queue_take(p, i);
                p->entries[i].bytes = bytes;
                p->entries[i].uses = 0;
        } else {
                i = entry_new(p, key, hash, bytes);
        }
        bool in = p->policy->admit(p, i, ghost, must, &told);
        cas_assert(p->used_bytes <= p->capacity_bytes);
        return in;
}

void tier_evictor_remove(struct tier_evictor *p, const struct tier_key *key)
{
        uint32_t i = find(p, key, tier_evictor_hash(p, key));
        if (i != TIER_NO_ENTRY)
                tier_entry_evict(p, i, NULL);
}

bool tier_evictor_has(const struct tier_evictor *p, const struct tier_key *key)
{
        uint32_t i = find(p, key, tier_evictor_hash(p, key));
        return i != TIER_NO_ENTRY && p->entries[i].queue != TIER_QUEUE_GHOSTS;
}

void tier_evictor_resize(struct tier_evictor *p, uint64_t capacity_bytes,
                         void (*evicted)(void *arg, const struct tier_key *key, uint64_t bytes),
                         void *arg)
{
        struct tier_eviction told = {evicted, arg};
        p->capacity_bytes = capacity_bytes;
        p->policy->shrink(p, &told);
        cas_assert(p->used_bytes <= p->capacity_bytes);
        trim_ghosts(p);
}

uint64_t tier_evictor_used_bytes(const struct tier_evictor *p)
{
        return p->used_bytes;
}

uint64_t tier_evictor_memory_bytes(const struct tier_evictor *p)
{
        return p->policy->size_bytes + p->entries_max * sizeof(p->entries[0]) +
               p->bucket_count * sizeof(p->buckets[0]) +
               (p->policy->memory_bytes ? p->policy->memory_bytes(p) : 0);
}
