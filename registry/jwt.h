/* SPDX-License-Identifier: Apache-2.0 */
/* Signed tokens (RFC 7515 compact, RFC 7519): read strictly, since they come from
 * anybody, and made. Pure functions. */
#ifndef REG_JWT_H
#define REG_JWT_H

#include "registry/keyset.h"

#define REG_JWT_BYTES_MAX (16 << 10)

/* What a token says; nothing of it is true before reg_jwt_verify. */
struct reg_jwt {
        enum reg_key_alg alg;
        char *kid;           /* owned; NULL when it names none */
        json_t *claims;      /* owned */
        size_t signed_bytes; /* how much of its text the signature is over */
        struct cas_buf signature;
};
/* Errors: INVALID, LIMIT, UNSUPPORTED (an algorithm that is not known, "none" among them; an
 * extension that must be understood). */
int reg_jwt_parse(const char *text, struct reg_jwt *out, struct cas_err *err) CAS_MUST_CHECK;
void reg_jwt_release(struct reg_jwt *t);
#define reg_cleanup_jwt __attribute__((cleanup(reg_jwt_release)))
/* Whether a key of the set signed it; *tried: a key fitted by kind and id. */
bool reg_jwt_verify(const struct reg_jwt *t, const char *text, const struct reg_keyset *keys,
                    bool *tried);

/* Whom a token must be by and for, and when. Clocks may differ by REG_JWT_LEEWAY_S. */
#define REG_JWT_LEEWAY_S 60
struct reg_jwt_wanted {
        const char *issuer;   /* NULL: any */
        const char *audience; /* NULL: any */
        int64_t now_s;        /* of 1970 */
};
/* *until_s gets when it ends, leeway included. Errors: DENIED (says why), INVALID (a claim is of
 * another type, or there is no exp). */
int reg_jwt_check(const struct reg_jwt *t, const struct reg_jwt_wanted *wanted, int64_t *until_s,
                  struct cas_err *err) CAS_MUST_CHECK;

/* Appends a token of these claims. */
int reg_jwt_sign(const struct reg_key *key, const json_t *claims, struct cas_buf *out,
                 struct cas_err *err) CAS_MUST_CHECK;

#endif
