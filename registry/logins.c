/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/logins.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include "cas/mutex.h"
#include "registry/scope.h"

#define SHARDS 128 /* power of two */
#define WAYS 16

struct entry {
        struct cas_hash mac;
        uint64_t generation;
        uint64_t until_s; /* 0: empty */
        struct reg_identity identity;
};

struct shard {
        struct cas_mutex mutex; /* registry.logins; a leaf */
        struct entry entries[WAYS];
};

struct reg_logins {
        uint8_t key[32];
        struct shard shards[SHARDS];
};

struct reg_logins *reg_logins_new(void)
{
        struct reg_logins *l = cas_xcalloc(1, sizeof(*l));
        cas_assert(getrandom(l->key, sizeof(l->key), 0) == sizeof(l->key));
        for (size_t i = 0; i < SHARDS; i++)
                cas_mutex_init(&l->shards[i].mutex, "registry.logins");
        return l;
}

void reg_logins_free(struct reg_logins *l)
{
        if (!l)
                return;
        for (size_t i = 0; i < SHARDS; i++) {
                for (size_t j = 0; j < WAYS; j++)
                        reg_identity_release(&l->shards[i].entries[j].identity);
                cas_mutex_release(&l->shards[i].mutex);
        }
        OPENSSL_cleanse(l->key, sizeof(l->key));
        free(l);
}

void reg_logins_mac(const struct reg_logins *l, char kind, const char *text, struct cas_hash *out)
{
        uint8_t key[sizeof(l->key)];
        unsigned len = 0;
        memcpy(key, l->key, sizeof(key));
        key[0] ^= (uint8_t)kind;
        const void *made = HMAC(EVP_sha256(), key, sizeof(key), (const unsigned char *)text,
                                strlen(text), out->bytes, &len);
        cas_assert(made != NULL);
        cas_assert(len == sizeof(out->bytes));
        OPENSSL_cleanse(key, sizeof(key));
}

static struct shard *shard_of(struct reg_logins *l, const struct cas_hash *mac)
{
        return &l->shards[mac->bytes[0] % SHARDS];
}

bool reg_logins_get(struct reg_logins *l, const struct cas_hash *mac, uint64_t generation,
                    uint64_t now_s, struct reg_identity *out)
{
        struct shard *s = shard_of(l, mac);
        bool found = false;
        cas_mutex_lock(&s->mutex);
        for (size_t i = 0; i < WAYS && !found; i++) {
                const struct entry *e = &s->entries[i];
                found = e->until_s > now_s && e->generation == generation &&
                        CRYPTO_memcmp(&e->mac, mac, sizeof(*mac)) == 0;
                if (found)
                        reg_identity_copy(&e->identity, out);
        }
        cas_mutex_unlock(&s->mutex);
        return found;
}

void reg_logins_put(struct reg_logins *l, const struct cas_hash *mac, uint64_t generation,
                    uint64_t until_s, const struct reg_identity *identity)
{
        struct shard *s = shard_of(l, mac);
        cas_mutex_lock(&s->mutex);
        struct entry *best = &s->entries[0];
        for (size_t i = 0; i < WAYS; i++) {
                struct entry *e = &s->entries[i];
                if (CRYPTO_memcmp(&e->mac, mac, sizeof(*mac)) == 0) {
                        best = e;
                        break;
                }
                if (e->until_s < best->until_s)
                        best = e;
        }
        reg_identity_release(&best->identity);
        best->mac = *mac;
        best->generation = generation;
        best->until_s = until_s;
        reg_identity_copy(identity, &best->identity);
        cas_mutex_unlock(&s->mutex);
}
