/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/ratelimit.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>
#include <xxhash.h>

#define SETS 4096 /* power of two */
#define WAYS 8

/* full_ns: when the bucket of the key is full again; in the past: it is. */
struct slot {
        _Atomic uint64_t key;
        _Atomic uint64_t full_ns;
};

struct reg_limiter {
        uint64_t interval_ns;  /* what one costs */
        uint64_t tolerance_ns; /* how far full_ns may be ahead */
        uint64_t seed;         /* so that nobody can choose who shares a set */
        struct slot slots[SETS][WAYS];
};

struct reg_limiter *reg_limiter_new(uint64_t count, uint64_t period_s, uint64_t burst)
{
        struct reg_limiter *l = cas_xcalloc(1, sizeof(*l));
        cas_assert(count > 0);
        cas_assert(burst > 0);
        l->interval_ns = cas_max_u64(1, period_s * 1000000000 / count);
        l->tolerance_ns = l->interval_ns * (burst - 1);
        cas_assert(getrandom(&l->seed, sizeof(l->seed), 0) == sizeof(l->seed));
        return l;
}

void reg_limiter_free(struct reg_limiter *l)
{
        free(l);
}

static uint64_t key_of(const struct reg_limiter *l, const char *key)
{
        uint64_t hash = XXH3_64bits_withSeed(key, strlen(key), l->seed);
        return hash ? hash : 1; /* 0 is an empty slot */
}

static struct slot *find(const struct reg_limiter *l, uint64_t key)
{
        struct slot *set = ((struct reg_limiter *)l)->slots[key % SETS];
        for (size_t i = 0; i < WAYS; i++) {
                if (atomic_load_explicit(&set[i].key, memory_order_relaxed) == key)
                        return &set[i];
        }
        return NULL;
}

/* The slot of the key, in place of the one that is nearest to full. Two threads that do so at once
 * may give a key two slots, or a bucket another's time: what is forgotten is one burst. */
static struct slot *claim(struct reg_limiter *l, uint64_t key)
{
        struct slot *set = l->slots[key % SETS], *best = &set[0];
        for (size_t i = 1; i < WAYS; i++) {
                if (atomic_load(&set[i].full_ns) < atomic_load(&best->full_ns))
                        best = &set[i];
        }
        atomic_store(&best->full_ns, 0);
        atomic_store(&best->key, key);
        return best;
}

static uint64_t wait_of(const struct reg_limiter *l, uint64_t full_ns, uint64_t now_ns)
{
        if (full_ns <= now_ns || full_ns - now_ns <= l->tolerance_ns)
                return 0;
        return full_ns - now_ns - l->tolerance_ns;
}

bool reg_limiter_take(struct reg_limiter *l, const char *key, uint64_t now_ns, uint64_t *wait_ns)
{
        uint64_t hash = key_of(l, key);
        struct slot *slot = find(l, hash);
        if (!slot)
                slot = claim(l, hash);
        uint64_t full_ns = atomic_load(&slot->full_ns), next;
        do {
                *wait_ns = wait_of(l, full_ns, now_ns);
                if (*wait_ns > 0)
                        return false;
                next = cas_max_u64(full_ns, now_ns) + l->interval_ns;
        } while (!atomic_compare_exchange_weak(&slot->full_ns, &full_ns, next));
        return true;
}

uint64_t reg_limiter_wait_ns(const struct reg_limiter *l, const char *key, uint64_t now_ns)
{
        const struct slot *slot = find(l, key_of(l, key));
        return slot ? wait_of(l, atomic_load(&slot->full_ns), now_ns) : 0;
}

void reg_client_key(const char *address, char *out)
{
        struct in6_addr six;
        if (inet_pton(AF_INET6, address, &six) != 1) {
                (void)snprintf(out, REG_CLIENT_KEY_BYTES, "%s", address);
        } else if (IN6_IS_ADDR_V4MAPPED(&six)) {
                (void)inet_ntop(AF_INET, six.s6_addr + 12, out, REG_CLIENT_KEY_BYTES);
        } else {
                memset(six.s6_addr + 8, 0, 8);
                (void)inet_ntop(AF_INET6, &six, out, REG_CLIENT_KEY_BYTES);
        }
}
