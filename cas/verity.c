/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/verity.h"

#include <openssl/evp.h>

#define HASHES_PER_BLOCK (CAS_VERITY_BLOCK_BYTES / CAS_HASH_BYTES)
/* 128^8 blocks of 4 KiB: more than any file has. */
#define LEVELS_MAX 9

/* levels[i] holds the hashes of level i's blocks that are not yet hashed into
 * one block of level i + 1. */
struct level {
        uint8_t hashes[CAS_VERITY_BLOCK_BYTES];
        unsigned count;
};

struct cas_verity {
        EVP_MD *md;
        EVP_MD_CTX *ctx;
        uint64_t size_bytes;
        size_t fill_bytes;
        uint8_t block[CAS_VERITY_BLOCK_BYTES];
        unsigned level_count;
        struct level levels[LEVELS_MAX];
};

struct cas_verity *cas_verity_new(void)
{
        struct cas_verity *v = cas_xcalloc(1, sizeof(*v));
        v->md = EVP_MD_fetch(NULL, "SHA256", NULL);
        v->ctx = EVP_MD_CTX_new();
        cas_assert(v->md != NULL);
        cas_assert(v->ctx != NULL);
        return v;
}

void cas_verity_free(struct cas_verity *v)
{
        if (!v)
                return;
        EVP_MD_CTX_free(v->ctx);
        EVP_MD_free(v->md);
        free(v);
}

static void hash_bytes(struct cas_verity *v, const void *data, size_t len, uint8_t *out)
{
        int ok = EVP_DigestInit_ex(v->ctx, v->md, NULL) && EVP_DigestUpdate(v->ctx, data, len) &&
                 EVP_DigestFinal_ex(v->ctx, out, NULL);
        cas_assert(ok);
}

static void level_add(struct cas_verity *v, unsigned index, const uint8_t *hash)
{
        cas_assert(index < LEVELS_MAX);
        struct level *level = &v->levels[index];
        if (index == v->level_count) {
                v->level_count++;
                level->count = 0;
        }
        if (level->count == HASHES_PER_BLOCK) {
                uint8_t up[CAS_HASH_BYTES];
                hash_bytes(v, level->hashes, sizeof(level->hashes), up);
                level->count = 0;
                level_add(v, index + 1, up);
        }
        memcpy(level->hashes + level->count * CAS_HASH_BYTES, hash, CAS_HASH_BYTES);
        level->count++;
}

static void add_block(struct cas_verity *v, const uint8_t *block)
{
        uint8_t hash[CAS_HASH_BYTES];
        hash_bytes(v, block, CAS_VERITY_BLOCK_BYTES, hash);
        level_add(v, 0, hash);
}

void cas_verity_update(struct cas_verity *v, const void *data, size_t len)
{
        const uint8_t *at = data;
        v->size_bytes += len;
        while (len > 0) {
                if (v->fill_bytes == 0 && len >= CAS_VERITY_BLOCK_BYTES) {
                        add_block(v, at);
                        at += CAS_VERITY_BLOCK_BYTES;
                        len -= CAS_VERITY_BLOCK_BYTES;
                        continue;
                }
                size_t n = cas_min_u64(len, CAS_VERITY_BLOCK_BYTES - v->fill_bytes);
                memcpy(v->block + v->fill_bytes, at, n);
                v->fill_bytes += n;
                at += n;
                len -= n;
                if (v->fill_bytes == CAS_VERITY_BLOCK_BYTES) {
                        add_block(v, v->block);
                        v->fill_bytes = 0;
                }
        }
}

/* The root hash: the single hash that is left when every level is folded up.
 * An empty file's root is zero; a file of one block has that block's hash. */
static void root_hash(struct cas_verity *v, uint8_t *root)
{
        memset(root, 0, CAS_HASH_BYTES);
        if (v->size_bytes == 0)
                return;
        if (v->fill_bytes > 0) {
                memset(v->block + v->fill_bytes, 0, CAS_VERITY_BLOCK_BYTES - v->fill_bytes);
                add_block(v, v->block);
        }
        for (unsigned i = 0;; i++) {
                struct level *level = &v->levels[i];
                if (i + 1 == v->level_count && level->count == 1) {
                        memcpy(root, level->hashes, CAS_HASH_BYTES);
                        return;
                }
                memset(level->hashes + level->count * CAS_HASH_BYTES, 0,
                       sizeof(level->hashes) - level->count * CAS_HASH_BYTES);
                uint8_t up[CAS_HASH_BYTES];
                hash_bytes(v, level->hashes, sizeof(level->hashes), up);
                level_add(v, i + 1, up);
        }
}

void cas_verity_final(struct cas_verity *v, struct cas_hash *out)
{
        /* struct fsverity_descriptor: version, hash algorithm, log2 of the block size, salt
         * size, 4 reserved bytes, data size, root hash (64), salt (32), reserved (144). */
        uint8_t descriptor[256] = {1, 1, 12, 0};
        cas_put_le64(descriptor + 8, v->size_bytes);
        root_hash(v, descriptor + 16);
        hash_bytes(v, descriptor, sizeof(descriptor), out->bytes);
        v->size_bytes = 0;
        v->fill_bytes = 0;
        v->level_count = 0;
}

void cas_verity_of(const void *data, size_t len, struct cas_hash *out)
{
        cas_cleanup_verity struct cas_verity *v = cas_verity_new();
        cas_verity_update(v, data, len);
        cas_verity_final(v, out);
}
