/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate: what a registry wants to see (RFC 9110, 11.6.1). Pure
 * functions over text that is not trusted; anything malformed is an error. */
#ifndef REG_CHALLENGE_H
#define REG_CHALLENGE_H

#include "cas/err.h"

#define REG_CHALLENGE_BYTES_MAX 16384
#define REG_CHALLENGE_PARAMS_MAX 32

enum reg_challenge_kind { REG_CHALLENGE_NONE, REG_CHALLENGE_BASIC, REG_CHALLENGE_BEARER };
/* Strings are owned, and NULL when they were not given. They hold visible ASCII and spaces. */
struct reg_challenge {
        enum reg_challenge_kind kind;
        char *realm, *service, *scope, *error;
};
void reg_challenge_release(struct reg_challenge *c);
#define reg_cleanup_challenge __attribute__((cleanup(reg_challenge_release)))
/* One header's value, which may hold several challenges: the first Bearer with a realm, else the
 * first Basic, else NONE. Errors: INVALID, LIMIT. */
int reg_challenge_parse(const char *header, struct reg_challenge *out,
                        struct cas_err *err) CAS_MUST_CHECK;

#endif
