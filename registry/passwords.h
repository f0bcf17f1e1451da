/* SPDX-License-Identifier: Apache-2.0 */
/* Names with passwords, checked against a file (registry/htpasswd.h) without
 * letting anybody guess quickly, or keep the processors busy: few hashes are
 * computed at a time, the same one once, and clients that fail have to wait.
 * Thread-safe. */
#ifndef REG_PASSWORDS_H
#define REG_PASSWORDS_H

#include "registry/htpasswd.h"
#include "registry/logins.h"
#include "registry/ratelimit.h"

struct reg_passwords;
/* All are borrowed until free. */
struct reg_passwords *reg_passwords_new(struct reg_htpasswd *file, struct reg_logins *logins,
                                        struct reg_limiter *failures);
void reg_passwords_free(struct reg_passwords *p);

/* "user:password" in Base64, as Basic has it. False: it is none. Empty texts are possible. */
struct reg_credentials {
        char user[REG_USER_BYTES_MAX + 1];
        char password[REG_PASSWORD_BYTES_MAX + 1];
};
bool reg_credentials_parse(const char *text, struct reg_credentials *out);
/* Whether the name can be a user's at all: text of a line, not empty. */
bool reg_user_valid(const char *user);

/* UNAUTHORIZED, LIMITED, LATER (only without may_block), or ALLOWED. client: reg_client_key. */
enum reg_verdict reg_passwords_check(struct reg_passwords *p, const struct reg_credentials *c,
                                     const char *client, bool may_block);

#endif
