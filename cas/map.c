/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/map.h"

#include <pthread.h>
#include <sys/random.h>
#include <xxhash.h>

struct slot {
        uint64_t hash; /* 0 empty, 1 removed */
        uint64_t value;
        uint8_t *key;
        size_t key_len;
};

struct cas_map {
        struct slot *slots;
        size_t capacity; /* power of two */
        size_t count;
        size_t used; /* with removed ones */
};

static uint64_t hash_secret;
static pthread_once_t hash_once = PTHREAD_ONCE_INIT;

static void make_secret(void)
{
        ssize_t n = getrandom(&hash_secret, sizeof(hash_secret), 0);
        cas_assert(n == (ssize_t)sizeof(hash_secret));
}

static uint64_t hash_key(const void *key, size_t len)
{
        uint64_t h = XXH3_64bits_withSeed(key, len, hash_secret);
        return h < 2 ? h + 2 : h;
}

struct cas_map *cas_map_new(void)
{
        (void)pthread_once(&hash_once, make_secret);
        struct cas_map *m = cas_xcalloc(1, sizeof(*m));
        m->capacity = 16;
        m->slots = cas_xcalloc(m->capacity, sizeof(m->slots[0]));
        return m;
}

void cas_map_free(struct cas_map *m)
{
        if (!m)
                return;
        for (size_t i = 0; i < m->capacity; i++)
                free(m->slots[i].key);
        free(m->slots);
        free(m);
}

size_t cas_map_count(const struct cas_map *m)
{
        return m->count;
}

static struct slot *find(const struct cas_map *m, uint64_t hash, const void *key, size_t len)
{
        for (size_t i = hash & (m->capacity - 1);; i = (i + 1) & (m->capacity - 1)) {
                struct slot *s = &m->slots[i];
                if (s->hash == 0)
                        return NULL;
                if (s->hash == hash && s->key_len == len && memcmp(s->key, key, len) == 0)
                        return s;
        }
}

static struct slot *free_slot(struct slot *slots, size_t capacity, uint64_t hash)
{
        size_t i = hash & (capacity - 1);
        while (slots[i].hash > 1)
                i = (i + 1) & (capacity - 1);
        return &slots[i];
}

static void rehash(struct cas_map *m, size_t capacity)
{
        struct slot *slots = cas_xcalloc(capacity, sizeof(slots[0]));
        for (size_t i = 0; i < m->capacity; i++) {
                if (m->slots[i].hash > 1)
                        *free_slot(slots, capacity, m->slots[i].hash) = m->slots[i];
        }
        free(m->slots);
        m->slots = slots;
        m->capacity = capacity;
        m->used = m->count;
}

uint64_t *cas_map_get(const struct cas_map *m, const void *key, size_t key_len)
{
        struct slot *s = find(m, hash_key(key, key_len), key, key_len);
        return s ? &s->value : NULL;
}

uint64_t *cas_map_put(struct cas_map *m, const void *key, size_t key_len, bool *inserted)
{
        uint64_t hash = hash_key(key, key_len);
        struct slot *s = find(m, hash, key, key_len);
        if (inserted)
                *inserted = s == NULL;
        if (s)
                return &s->value;
        if ((m->used + 1) * 4 > m->capacity * 3)
                rehash(m, m->count * 2 >= m->capacity ? m->capacity * 2 : m->capacity);
        s = free_slot(m->slots, m->capacity, hash);
        m->used += s->hash == 0;
        m->count++;
        s->hash = hash;
        s->value = 0;
        s->key = cas_xmalloc(key_len);
        if (key_len)
                memcpy(s->key, key, key_len);
        s->key_len = key_len;
        return &s->value;
}

bool cas_map_remove(struct cas_map *m, const void *key, size_t key_len)
{
        struct slot *s = find(m, hash_key(key, key_len), key, key_len);
        if (!s)
                return false;
        free(s->key);
        *s = (struct slot){.hash = 1};
        m->count--;
        return true;
}

void cas_map_each(const struct cas_map *m,
                  void (*fn)(void *arg, const void *key, size_t key_len, uint64_t value), void *arg)
{
        for (size_t i = 0; i < m->capacity; i++) {
                const struct slot *s = &m->slots[i];
                if (s->hash > 1)
                        fn(arg, s->key, s->key_len, s->value);
        }
}
