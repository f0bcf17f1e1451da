/* SPDX-License-Identifier: Apache-2.0 */
/* Digests: OCI digests ("sha256:…", "sha512:…") that name blobs, and 32-byte
 * hashes that name file objects and chunks. Hashing is OpenSSL's. */
#ifndef CAS_DIGEST_H
#define CAS_DIGEST_H

#include "cas/err.h"

#define CAS_HASH_BYTES 32
#define CAS_HASH_HEX_BYTES 65 /* with the terminating NUL */

/* Names a file object (its fs-verity digest) or a chunk (its SHA-256). */
struct cas_hash {
        uint8_t bytes[CAS_HASH_BYTES];
};

static inline bool cas_hash_equal(const struct cas_hash *a, const struct cas_hash *b)
{
        return memcmp(a->bytes, b->bytes, CAS_HASH_BYTES) == 0;
}
/* All zero: used for "none", since nothing has that hash. */
static inline bool cas_hash_is_zero(const struct cas_hash *h)
{
        static const struct cas_hash zero;
        return cas_hash_equal(h, &zero);
}
/* Lowercase hex; out has CAS_HASH_HEX_BYTES. Returns out. */
char *cas_hash_hex(const struct cas_hash *h, char *out);
/* Exactly 64 lowercase hex digits. False when they are not. */
bool cas_hash_from_hex(const char *hex, size_t len, struct cas_hash *out);

enum cas_digest_alg { CAS_DIGEST_NONE = 0, CAS_DIGEST_SHA256 = 1, CAS_DIGEST_SHA512 = 2 };

#define CAS_DIGEST_BYTES_MAX 64
#define CAS_DIGEST_TEXT_BYTES 136 /* "sha512:" + 128 + NUL */

struct cas_digest {
        uint8_t alg; /* enum cas_digest_alg; 1 byte so that the struct is a key */
        uint8_t bytes[CAS_DIGEST_BYTES_MAX]; /* unused tail is zero */
};

size_t cas_digest_alg_bytes(enum cas_digest_alg alg); /* 32 or 64; 0 for none */
const char *cas_digest_alg_name(enum cas_digest_alg alg);
/* NONE when it is the name of none. */
enum cas_digest_alg cas_digest_alg_find(const char *name);
bool cas_digest_equal(const struct cas_digest *a, const struct cas_digest *b);
/* "alg:hex", NUL-terminated; out has CAS_DIGEST_TEXT_BYTES. Returns out. */
char *cas_digest_text(const struct cas_digest *d, char *out);
/* The hex part only. */
char *cas_digest_hex(const struct cas_digest *d, char *out);
/* OCI grammar, registered algorithms only, lowercase. Errors: INVALID (malformed),
 * UNSUPPORTED (well-formed, algorithm not known). */
int cas_digest_parse(const char *text, struct cas_digest *out, struct cas_err *err) CAS_MUST_CHECK;

/* Incremental hashing. Aborts only where OpenSSL has no memory. */
struct cas_hasher;
struct cas_hasher *cas_hasher_new(enum cas_digest_alg alg);
void cas_hasher_update(struct cas_hasher *h, const void *data, size_t len);
/* Gives the digest and makes the hasher ready for the next message. */
void cas_hasher_final(struct cas_hasher *h, struct cas_digest *out);
/* The digest of what was given so far; the hasher goes on. */
void cas_hasher_peek(const struct cas_hasher *h, struct cas_digest *out);
void cas_hasher_free(struct cas_hasher *h);
CAS_DEFINE_CLEANUP(cas_cleanup_hasher_, struct cas_hasher *, cas_hasher_free);
#define cas_cleanup_hasher __attribute__((cleanup(cas_cleanup_hasher_)))

void cas_digest_of(enum cas_digest_alg alg, const void *data, size_t len, struct cas_digest *out);
void cas_sha256(const void *data, size_t len, struct cas_hash *out);

#endif
