/* SPDX-License-Identifier: Apache-2.0 */
/* Keys that tokens are signed with: RSA (RS256), P-256 (ES256), Ed25519
 * (EdDSA). A key signs by one algorithm only, which follows from its type,
 * whatever a token says. Immutable: any number of threads. */
#ifndef REG_KEYSET_H
#define REG_KEYSET_H

#include "cas/json.h"

enum reg_key_alg { REG_KEY_RS256, REG_KEY_ES256, REG_KEY_EDDSA };
const char *reg_key_alg_name(enum reg_key_alg alg);
/* False: none that is known. */
bool reg_key_alg_of(const char *name, enum reg_key_alg *out);

#define REG_KEYS_MAX 64
#define REG_KEYS_BYTES_MAX (256 << 10) /* of a file or an answer that holds keys */
#define REG_SIGNATURE_BYTES_MAX 1024

struct reg_key;
struct reg_keyset; /* refcounted */
struct reg_keyset *reg_keyset_ref(struct reg_keyset *k);
void reg_keyset_unref(struct reg_keyset *k); /* NULL is nothing */
size_t reg_keyset_count(const struct reg_keyset *k);
CAS_DEFINE_CLEANUP(reg_cleanup_keyset_, struct reg_keyset *, reg_keyset_unref);
#define reg_cleanup_keyset __attribute__((cleanup(reg_cleanup_keyset_)))

/* A JWK Set (RFC 7517), or public keys and certificates as PEM, one after the other. Keys of a
 * JWK Set that are of another kind or for another use are passed over. Errors: INVALID, LIMIT. */
int reg_keyset_parse(const void *data, size_t len, struct reg_keyset **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Whether a key of the set, of this algorithm and (when both have one) of this id, made the
 * signature. *tried (may be NULL): a key fitted. */
bool reg_keyset_verify(const struct reg_keyset *k, enum reg_key_alg alg, const char *kid,
                       const void *data, size_t len, const void *signature, size_t signature_len,
                       bool *tried);

/* A private key. */
int reg_key_make(struct reg_key **out, struct cas_err *err) CAS_MUST_CHECK; /* Ed25519 */
/* PEM. Errors: INVALID. */
int reg_key_parse(const void *pem, size_t len, struct reg_key **out,
                  struct cas_err *err) CAS_MUST_CHECK;
void reg_key_pem(const struct reg_key *key, struct cas_buf *out);
void reg_key_free(struct reg_key *key);
enum reg_key_alg reg_key_alg(const struct reg_key *key);
/* A short name of its public half. */
const char *reg_key_id(const struct reg_key *key);
/* Appends the signature, in the form that tokens have it. Errors: IO (of the library). */
int reg_key_sign(const struct reg_key *key, const void *data, size_t len, struct cas_buf *out,
                 struct cas_err *err) CAS_MUST_CHECK;
/* The set of its public half alone. */
struct reg_keyset *reg_keyset_of(const struct reg_key *key);

#endif
