/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/logins.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
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
        EVP_MD *sha256; /* owned: looking for it costs more than hashing */
        uint8_t key[64];
        struct shard shards[SHARDS];
};

struct reg_logins *reg_logins_new(void)
{
        struct reg_logins *l = cas_xcalloc(1, sizeof(*l));
        l->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
        cas_assert(l->sha256 != NULL);
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
        EVP_MD_free(l->sha256);
        OPENSSL_cleanse(l->key, sizeof(l->key));
        free(l);
}

/* SHA-256 behind a secret of its own block's length: nobody sees what comes out, so that nothing
 * can be appended to what is known. HMAC takes several times as long, with every request. */
void reg_logins_mac(const struct reg_logins *l, char kind, const char *text, struct cas_hash *out)
{
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        unsigned len = 0;
        cas_assert(ctx != NULL);
        bool good = EVP_DigestInit_ex2(ctx, l->sha256, NULL) == 1 &&
                    EVP_DigestUpdate(ctx, l->key, sizeof(l->key)) == 1 &&
                    EVP_DigestUpdate(ctx, &kind, 1) == 1 &&
                    EVP_DigestUpdate(ctx, text, strlen(text)) == 1 &&
                    EVP_DigestFinal_ex(ctx, out->bytes, &len) == 1;
        cas_assert(good);
        cas_assert(len == sizeof(out->bytes));
        EVP_MD_CTX_free(ctx);
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
