/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/keyset.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdio.h>

#include "cas/digest.h"
#include "registry/base64.h"

#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 8192
#define KID_BYTES_MAX 256
#define P256_BYTES 32 /* of a coordinate, and of each half of a signature */

struct reg_key {
        enum reg_key_alg alg;
        EVP_PKEY *pkey; /* owned */
        char *kid;      /* owned; NULL: it has none */
};

struct reg_keyset {
        _Atomic unsigned refs;
        size_t count;
        struct reg_key keys[REG_KEYS_MAX];
};

const char *reg_key_alg_name(enum reg_key_alg alg)
{
        switch (alg) {
        case REG_KEY_RS256:
                return "RS256";
        case REG_KEY_ES256:
                return "ES256";
        case REG_KEY_EDDSA:
                return "EdDSA";
        }
        return "";
}

bool reg_key_alg_of(const char *name, enum reg_key_alg *out)
{
        for (enum reg_key_alg alg = REG_KEY_RS256; alg <= REG_KEY_EDDSA; alg++) {
                if (strcmp(name, reg_key_alg_name(alg)) == 0) {
                        *out = alg;
                        return true;
                }
        }
        return false;
}

/* ---- sets ---- */

struct reg_keyset *reg_keyset_ref(struct reg_keyset *k)
{
        atomic_fetch_add(&k->refs, 1);
        return k;
}

void reg_keyset_unref(struct reg_keyset *k)
{
        if (!k || atomic_fetch_sub(&k->refs, 1) != 1)
                return;
        for (size_t i = 0; i < k->count; i++) {
                EVP_PKEY_free(k->keys[i].pkey);
                free(k->keys[i].kid);
        }
        free(k);
}

size_t reg_keyset_count(const struct reg_keyset *k)
{
        return k->count;
}

static struct reg_keyset *keyset_new(void)
{
        struct reg_keyset *k = cas_xcalloc(1, sizeof(*k));
        atomic_init(&k->refs, 1);
        return k;
}

/* What the key may sign by. */
static int alg_of_pkey(const EVP_PKEY *pkey, enum reg_key_alg *out, struct cas_err *err)
{
        char group[64] = "";
        int bits = EVP_PKEY_get_bits(pkey);
        if (EVP_PKEY_is_a(pkey, "ED25519")) {
                *out = REG_KEY_EDDSA;
                return 0;
        }
        if (EVP_PKEY_is_a(pkey, "RSA") && bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX) {
                *out = REG_KEY_RS256;
                return 0;
        }
        if (EVP_PKEY_is_a(pkey, "EC") &&
            EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL) == 1 &&
            strcmp(group, SN_X9_62_prime256v1) == 0) {
                *out = REG_KEY_ES256;
                return 0;
        }
        return cas_fail(err, CAS_E_INVALID,
                        "a key is none of RSA (%d to %d bits), P-256 and Ed25519", RSA_BITS_MIN,
                        RSA_BITS_MAX);
}

/* Takes pkey, on failure, too. */
static int keyset_add(struct reg_keyset *k, EVP_PKEY *pkey, const char *kid, struct cas_err *err)
{
        enum reg_key_alg alg;
        int rc = alg_of_pkey(pkey, &alg, err);
        if (rc == 0 && k->count == REG_KEYS_MAX)
                rc = cas_fail(err, CAS_E_LIMIT, "more than %d keys", REG_KEYS_MAX);
        if (rc < 0) {
                EVP_PKEY_free(pkey);
                return rc;
        }
        k->keys[k->count++] =
                (struct reg_key){.alg = alg, .pkey = pkey, .kid = kid ? cas_xstrdup(kid) : NULL};
        return 0;
}

/* ---- JWK ---- */

/* The bytes of a member in Base64. Empty: it is not there, or not right. */
static void member_bytes(const json_t *jwk, const char *name, struct cas_buf *out)
{
        const char *text = json_string_value(json_object_get(jwk, name));
        if (!text || !reg_base64_decode(REG_BASE64_URL, text, strlen(text), out))
                cas_buf_clear(out);
}

static EVP_PKEY *pkey_from_params(const char *type, OSSL_PARAM_BLD *build)
{
        EVP_PKEY *pkey = NULL;
        OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
        EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
        if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
            EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1)
                pkey = NULL;
        EVP_PKEY_CTX_free(ctx);
        OSSL_PARAM_free(params);
        return pkey;
}

static EVP_PKEY *pkey_of_rsa(const json_t *jwk)
{
        cas_cleanup_buf struct cas_buf n = CAS_BUF_INIT, e = CAS_BUF_INIT;
        member_bytes(jwk, "n", &n);
        member_bytes(jwk, "e", &e);
        if (n.len_bytes == 0 || n.len_bytes > RSA_BITS_MAX / 8 || e.len_bytes == 0 ||
            e.len_bytes > 8)
                return NULL;
        BIGNUM *bn = BN_bin2bn(n.data, (int)n.len_bytes, NULL);
        BIGNUM *be = BN_bin2bn(e.data, (int)e.len_bytes, NULL);
        OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
        EVP_PKEY *pkey = NULL;
        if (bn && be && build && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, bn) == 1 &&
            OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, be) == 1)
                pkey = pkey_from_params("RSA", build);
        OSSL_PARAM_BLD_free(build);
        BN_free(bn);
        BN_free(be);
        return pkey;
}

static EVP_PKEY *pkey_of_p256(const json_t *jwk)
{
        cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT, y = CAS_BUF_INIT;
        uint8_t point[1 + 2 * P256_BYTES] = {POINT_CONVERSION_UNCOMPRESSED};
        member_bytes(jwk, "x", &x);
        member_bytes(jwk, "y", &y);
        if (x.len_bytes != P256_BYTES || y.len_bytes != P256_BYTES)
                return NULL;
        memcpy(point + 1, x.data, P256_BYTES);
        memcpy(point + 1 + P256_BYTES, y.data, P256_BYTES);
        OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
        EVP_PKEY *pkey = NULL;
        if (build &&
            OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) ==
                    1 &&
            OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point,
                                             sizeof(point)) == 1)
                pkey = pkey_from_params("EC", build);
        OSSL_PARAM_BLD_free(build);
        return pkey;
}

static EVP_PKEY *pkey_of_ed25519(const json_t *jwk)
{
        cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
        member_bytes(jwk, "x", &x);
        if (x.len_bytes != 32)
                return NULL;
        return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x.data, x.len_bytes);
}

static bool member_is(const json_t *jwk, const char *name, const char *value)
{
        const char *text = json_string_value(json_object_get(jwk, name));
        return text && strcmp(text, value) == 0;
}

/* Keys for something else are passed over: a set may hold any. */
static int add_jwk(struct reg_keyset *k, const json_t *jwk, struct cas_err *err)
{
        const char *kid = json_string_value(json_object_get(jwk, "kid"));
        const json_t *use = json_object_get(jwk, "use"), *alg = json_object_get(jwk, "alg");
        enum reg_key_alg wanted;
        EVP_PKEY *pkey;
        if (!json_is_object(jwk) || (use && !member_is(jwk, "use", "sig")) ||
            (kid && strlen(kid) > KID_BYTES_MAX))
                return 0;
        if (member_is(jwk, "kty", "RSA")) {
                wanted = REG_KEY_RS256;
                pkey = pkey_of_rsa(jwk);
        } else if (member_is(jwk, "kty", "EC") && member_is(jwk, "crv", "P-256")) {
                wanted = REG_KEY_ES256;
                pkey = pkey_of_p256(jwk);
        } else if (member_is(jwk, "kty", "OKP") && member_is(jwk, "crv", "Ed25519")) {
                wanted = REG_KEY_EDDSA;
                pkey = pkey_of_ed25519(jwk);
        } else {
                return 0;
        }
        ERR_clear_error();
        if (!pkey)
                return cas_fail(err, CAS_E_INVALID, "a %s key is damaged",
                                reg_key_alg_name(wanted));
        if (alg && !member_is(jwk, "alg", reg_key_alg_name(wanted))) {
                EVP_PKEY_free(pkey);
                return 0;
        }
        return keyset_add(k, pkey, kid, err);
}

static int parse_jwks(struct reg_keyset *k, const void *data, size_t len, struct cas_err *err)
{
        cas_cleanup_json json_t *doc = NULL;
        const json_t *keys, *jwk;
        size_t i;
        if (cas_json_parse(data, len, REG_KEYS_BYTES_MAX, &doc, err) < 0 ||
            cas_json_array_in(doc, "keys", &keys, err) < 0)
                return cas_err_wrap(err, "JWK Set");
        json_array_foreach(keys, i, jwk)
        {
                int rc = add_jwk(k, jwk, err);
                if (rc < 0)
                        return cas_err_wrap(err, "JWK Set: key %zu", i);
        }
        return 0;
}

/* ---- PEM ---- */

/* No key file is ever asked to be decrypted. */
static int no_password(char *buf CAS_UNUSED, int size CAS_UNUSED, int rwflag CAS_UNUSED,
                       void *arg CAS_UNUSED)
{
        return -1;
}

static EVP_PKEY *pkey_of_pem(const char *name, const unsigned char *data, long len)
{
        if (strcmp(name, PEM_STRING_PUBLIC) == 0)
                return d2i_PUBKEY(NULL, &data, len);
        if (strcmp(name, PEM_STRING_X509) != 0)
                return NULL;
        X509 *cert = d2i_X509(NULL, &data, len);
        EVP_PKEY *pkey = cert ? X509_get_pubkey(cert) : NULL;
        X509_free(cert);
        return pkey;
}

static int parse_pem(struct reg_keyset *k, const void *data, size_t len, struct cas_err *err)
{
        BIO *bio = BIO_new_mem_buf(data, (int)len);
        char *name, *header;
        unsigned char *bytes;
        long bytes_len;
        int rc = 0;
        cas_assert(bio != NULL);
        while (rc == 0 && PEM_read_bio(bio, &name, &header, &bytes, &bytes_len) == 1) {
                EVP_PKEY *pkey = pkey_of_pem(name, bytes, bytes_len);
                if (pkey)
                        rc = keyset_add(k, pkey, NULL, err);
                else
                        rc = cas_fail(err, CAS_E_INVALID,
                                      "neither a public key nor a certificate: %.64s", name);
                OPENSSL_free(name);
                OPENSSL_free(header);
                OPENSSL_free(bytes);
        }
        ERR_clear_error();
        BIO_free(bio);
        return rc;
}

int reg_keyset_parse(const void *data, size_t len, struct reg_keyset **out, struct cas_err *err)
{
        reg_cleanup_keyset struct reg_keyset *k = keyset_new();
        const char *text = data;
        size_t blank = 0;
        if (len > REG_KEYS_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d bytes", REG_KEYS_BYTES_MAX);
        while (blank < len && strchr(" \t\r\n", text[blank]) && text[blank])
                blank++;
        int rc = 0;
        if (blank < len)
                rc = text[blank] == '{' ? parse_jwks(k, data, len, err)
                                        : parse_pem(k, data, len, err);
        if (rc == 0 && k->count == 0)
                rc = cas_fail(err, CAS_E_INVALID, "no key is in it that tokens can be signed with");
        if (rc == 0)
                *out = cas_steal(&k);
        return rc;
}

/* ---- signatures ---- */

/* r and s, as tokens have them, as OpenSSL wants them. */
static bool p256_der(const uint8_t *raw, size_t len, uint8_t **out, int *out_len)
{
        if (len != 2 * P256_BYTES)
                return false;
        ECDSA_SIG *sig = ECDSA_SIG_new();
        BIGNUM *r = BN_bin2bn(raw, P256_BYTES, NULL);
        BIGNUM *s = BN_bin2bn(raw + P256_BYTES, P256_BYTES, NULL);
        cas_assert(sig != NULL);
        cas_assert(r != NULL);
        cas_assert(s != NULL);
        cas_assert(ECDSA_SIG_set0(sig, r, s) == 1);
        *out = NULL;
        *out_len = i2d_ECDSA_SIG(sig, out);
        ECDSA_SIG_free(sig);
        return *out_len > 0;
}

static const EVP_MD *md_of(enum reg_key_alg alg)
{
        return alg == REG_KEY_EDDSA ? NULL : EVP_sha256();
}

static bool key_verify(const struct reg_key *key, const void *data, size_t len, const void *sig,
                       size_t sig_len)
{
        uint8_t *der = NULL;
        int der_len = 0;
        if (key->alg == REG_KEY_ES256) {
                if (!p256_der(sig, sig_len, &der, &der_len))
                        return false;
                sig = der;
                sig_len = (size_t)der_len;
        }
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        cas_assert(ctx != NULL);
        bool good = EVP_DigestVerifyInit(ctx, NULL, md_of(key->alg), NULL, key->pkey) == 1 &&
                    EVP_DigestVerify(ctx, sig, sig_len, data, len) == 1;
        ERR_clear_error();
        EVP_MD_CTX_free(ctx);
        OPENSSL_free(der);
        return good;
}

bool reg_keyset_verify(const struct reg_keyset *k, enum reg_key_alg alg, const char *kid,
                       const void *data, size_t len, const void *signature, size_t signature_len,
                       bool *tried)
{
        bool good = false, any = false;
        for (size_t i = 0; i < k->count && !good; i++) {
                const struct reg_key *key = &k->keys[i];
                if (key->alg != alg || (kid && key->kid && strcmp(kid, key->kid) != 0))
                        continue;
                any = true;
                good = key_verify(key, data, len, signature, signature_len);
        }
        if (tried)
                *tried = any;
        return good;
}

/* ---- a private key ---- */

static void key_name(struct reg_key *key)
{
        uint8_t *der = NULL;
        struct cas_hash hash;
        char hex[CAS_HASH_HEX_BYTES];
        int len = i2d_PUBKEY(key->pkey, &der);
        cas_assert(len > 0);
        cas_sha256(der, (size_t)len, &hash);
        OPENSSL_free(der);
        key->kid = cas_xasprintf("%.16s", cas_hash_hex(&hash, hex));
}

static int fail_library(struct cas_err *err, const char *what)
{
        char text[160];
        ERR_error_string_n(ERR_get_error(), text, sizeof(text));
        ERR_clear_error();
        return cas_fail(err, CAS_E_IO, "%s: %s", what, text);
}

static struct reg_key *key_new(EVP_PKEY *pkey, enum reg_key_alg alg)
{
        struct reg_key *key = cas_xcalloc(1, sizeof(*key));
        key->alg = alg;
        key->pkey = pkey;
        key_name(key);
        return key;
}

int reg_key_make(struct reg_key **out, struct cas_err *err)
{
        EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
        if (!pkey)
                return fail_library(err, "making a key");
        *out = key_new(pkey, REG_KEY_EDDSA);
        return 0;
}

int reg_key_parse(const void *pem, size_t len, struct reg_key **out, struct cas_err *err)
{
        enum reg_key_alg alg;
        if (len == 0 || len > REG_KEYS_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "not a private key");
        BIO *bio = BIO_new_mem_buf(pem, (int)len);
        cas_assert(bio != NULL);
        EVP_PKEY *pkey = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
        BIO_free(bio);
        ERR_clear_error();
        if (!pkey)
                return cas_fail(err, CAS_E_INVALID, "not a private key in PEM without a password");
        int rc = alg_of_pkey(pkey, &alg, err);
        if (rc < 0)
                EVP_PKEY_free(pkey);
        else
                *out = key_new(pkey, alg);
        return rc;
}

void reg_key_pem(const struct reg_key *key, struct cas_buf *out)
{
        BIO *bio = BIO_new(BIO_s_secmem());
        char *text;
        cas_assert(bio != NULL);
        cas_assert(PEM_write_bio_PKCS8PrivateKey(bio, key->pkey, NULL, NULL, 0, NULL, NULL) == 1);
        long len = BIO_get_mem_data(bio, &text);
        cas_buf_append(out, text, (size_t)len);
        BIO_free(bio);
}

void reg_key_free(struct reg_key *key)
{
        if (!key)
                return;
        EVP_PKEY_free(key->pkey);
        free(key->kid);
        free(key);
}

enum reg_key_alg reg_key_alg(const struct reg_key *key)
{
        return key->alg;
}

const char *reg_key_id(const struct reg_key *key)
{
        return key->kid;
}

static bool p256_raw(const uint8_t *der, size_t len, uint8_t raw[2 * P256_BYTES])
{
        ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);
        bool good = sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, P256_BYTES) == P256_BYTES &&
                    BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + P256_BYTES, P256_BYTES) == P256_BYTES;
        ECDSA_SIG_free(sig);
        return good;
}

int reg_key_sign(const struct reg_key *key, const void *data, size_t len, struct cas_buf *out,
                 struct cas_err *err)
{
        uint8_t sig[REG_SIGNATURE_BYTES_MAX], raw[2 * P256_BYTES];
        size_t sig_len = sizeof(sig);
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        cas_assert(ctx != NULL);
        bool good = EVP_DigestSignInit(ctx, NULL, md_of(key->alg), NULL, key->pkey) == 1 &&
                    EVP_DigestSign(ctx, sig, &sig_len, data, len) == 1;
        EVP_MD_CTX_free(ctx);
        if (!good || (key->alg == REG_KEY_ES256 && !p256_raw(sig, sig_len, raw)))
                return fail_library(err, "signing");
        if (key->alg == REG_KEY_ES256)
                cas_buf_append(out, raw, sizeof(raw));
        else
                cas_buf_append(out, sig, sig_len);
        return 0;
}

struct reg_keyset *reg_keyset_of(const struct reg_key *key)
{
        struct reg_keyset *k = keyset_new();
        cas_assert(EVP_PKEY_up_ref(key->pkey) == 1);
        k->keys[k->count++] =
                (struct reg_key){.alg = key->alg, .pkey = key->pkey, .kid = cas_xstrdup(key->kid)};
        return k;
}
