/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/digest.h"

#include <openssl/evp.h>
#include <stdio.h>

static const char hex_digits[] = "0123456789abcdef";

static void hex_encode(const uint8_t *bytes, size_t count, char *out)
{
        for (size_t i = 0; i < count; i++) {
                out[2 * i] = hex_digits[bytes[i] >> 4];
                out[2 * i + 1] = hex_digits[bytes[i] & 15];
        }
        out[2 * count] = '\0';
}

static int hex_value(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return -1;
}

static bool hex_decode(const char *hex, size_t count, uint8_t *out)
{
        for (size_t i = 0; i < count; i++) {
                int high = hex_value(hex[2 * i]);
                int low = high < 0 ? -1 : hex_value(hex[2 * i + 1]);
                if (low < 0)
                        return false;
                out[i] = (uint8_t)(high << 4 | low);
        }
        return true;
}

char *cas_hash_hex(const struct cas_hash *h, char *out)
{
        hex_encode(h->bytes, CAS_HASH_BYTES, out);
        return out;
}

bool cas_hash_from_hex(const char *hex, size_t len, struct cas_hash *out)
{
        return len == 2 * CAS_HASH_BYTES && hex_decode(hex, CAS_HASH_BYTES, out->bytes);
}

size_t cas_digest_alg_bytes(enum cas_digest_alg alg)
{
        switch (alg) {
        case CAS_DIGEST_NONE:
                return 0;
        case CAS_DIGEST_SHA256:
                return 32;
        case CAS_DIGEST_SHA512:
                return 64;
        }
        return 0;
}

const char *cas_digest_alg_name(enum cas_digest_alg alg)
{
        switch (alg) {
        case CAS_DIGEST_NONE:
                return "none";
        case CAS_DIGEST_SHA256:
                return "sha256";
        case CAS_DIGEST_SHA512:
                return "sha512";
        }
        return "none";
}

enum cas_digest_alg cas_digest_alg_find(const char *name)
{
        static const enum cas_digest_alg known[] = {CAS_DIGEST_SHA256, CAS_DIGEST_SHA512};
        for (size_t i = 0; i < CAS_COUNT(known); i++) {
                if (strcmp(cas_digest_alg_name(known[i]), name) == 0)
                        return known[i];
        }
        return CAS_DIGEST_NONE;
}

bool cas_digest_equal(const struct cas_digest *a, const struct cas_digest *b)
{
        return a->alg == b->alg && memcmp(a->bytes, b->bytes, cas_digest_alg_bytes(a->alg)) == 0;
}

char *cas_digest_hex(const struct cas_digest *d, char *out)
{
        hex_encode(d->bytes, cas_digest_alg_bytes(d->alg), out);
        return out;
}

char *cas_digest_text(const struct cas_digest *d, char *out)
{
        int n = snprintf(out, CAS_DIGEST_TEXT_BYTES, "%s:", cas_digest_alg_name(d->alg));
        (void)cas_digest_hex(d, out + n);
        return out;
}

/* algorithm ::= component ([+._-] component)*, component ::= [a-z0-9]+;
 * encoded ::= [a-zA-Z0-9=_-]+  (image-spec descriptor.md) */
static bool digest_well_formed(const char *text)
{
        const char *p = text;
        for (;;) {
                size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789");
                if (n == 0)
                        return false;
                p += n;
                if (*p == ':')
                        break;
                if (*p == '\0' || !strchr("+._-", *p))
                        return false;
                p++;
        }
        p++;
        size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=_-");
        return n > 0 && p[n] == '\0';
}

int cas_digest_parse(const char *text, struct cas_digest *out, struct cas_err *err)
{
        static const struct {
                const char *prefix;
                enum cas_digest_alg alg;
        } algs[] = {{"sha256:", CAS_DIGEST_SHA256}, {"sha512:", CAS_DIGEST_SHA512}};
        struct cas_digest d = {0};
        for (size_t i = 0; i < CAS_COUNT(algs); i++) {
                size_t prefix_len = strlen(algs[i].prefix);
                if (strncmp(text, algs[i].prefix, prefix_len) != 0)
                        continue;
                size_t count = cas_digest_alg_bytes(algs[i].alg);
                const char *hex = text + prefix_len;
                if (strnlen(hex, 2 * count + 1) != 2 * count || !hex_decode(hex, count, d.bytes))
                        return cas_fail(err, CAS_E_INVALID,
                                        "digest \"%.160s\": %zu lowercase hex digits expected",
                                        text, 2 * count);
                d.alg = (uint8_t)algs[i].alg;
                *out = d;
                return 0;
        }
        if (digest_well_formed(text))
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "digest \"%.160s\": only sha256 and sha512 are known", text);
        return cas_fail(err, CAS_E_INVALID, "digest \"%.160s\" is malformed", text);
}

struct cas_hasher {
        EVP_MD_CTX *ctx;
        enum cas_digest_alg alg;
};

static const EVP_MD *evp_of(enum cas_digest_alg alg)
{
        cas_assert(alg == CAS_DIGEST_SHA256 || alg == CAS_DIGEST_SHA512);
        return alg == CAS_DIGEST_SHA512 ? EVP_sha512() : EVP_sha256();
}

struct cas_hasher *cas_hasher_new(enum cas_digest_alg alg)
{
        struct cas_hasher *h = cas_xcalloc(1, sizeof(*h));
        h->alg = alg;
        h->ctx = EVP_MD_CTX_new();
        cas_assert(h->ctx != NULL);
        int ok = EVP_DigestInit_ex(h->ctx, evp_of(alg), NULL);
        cas_assert(ok == 1);
        return h;
}

void cas_hasher_update(struct cas_hasher *h, const void *data, size_t len)
{
        int ok = EVP_DigestUpdate(h->ctx, data, len);
        cas_assert(ok == 1);
}

void cas_hasher_final(struct cas_hasher *h, struct cas_digest *out)
{
        *out = (struct cas_digest){.alg = (uint8_t)h->alg};
        int ok = EVP_DigestFinal_ex(h->ctx, out->bytes, NULL);
        cas_assert(ok == 1);
        ok = EVP_DigestInit_ex(h->ctx, NULL, NULL);
        cas_assert(ok == 1);
}

void cas_hasher_peek(const struct cas_hasher *h, struct cas_digest *out)
{
        EVP_MD_CTX *copy = EVP_MD_CTX_new();
        cas_assert(copy != NULL);
        int ok = EVP_MD_CTX_copy_ex(copy, h->ctx);
        cas_assert(ok == 1);
        *out = (struct cas_digest){.alg = (uint8_t)h->alg};
        ok = EVP_DigestFinal_ex(copy, out->bytes, NULL);
        cas_assert(ok == 1);
        EVP_MD_CTX_free(copy);
}

void cas_hasher_free(struct cas_hasher *h)
{
        if (!h)
                return;
        EVP_MD_CTX_free(h->ctx);
        free(h);
}

void cas_digest_of(enum cas_digest_alg alg, const void *data, size_t len, struct cas_digest *out)
{
        *out = (struct cas_digest){.alg = (uint8_t)alg};
        int ok = EVP_Digest(data, len, out->bytes, NULL, evp_of(alg), NULL);
        cas_assert(ok == 1);
}

void cas_sha256(const void *data, size_t len, struct cas_hash *out)
{
        int ok = EVP_Digest(data, len, out->bytes, NULL, EVP_sha256(), NULL);
        cas_assert(ok == 1);
}
