/* SPDX-License-Identifier: Apache-2.0 */
/* A file of "user:hash" lines with bcrypt hashes, as `htpasswd -B` writes it,
 * read again when it changes. Thread-safe. */
#ifndef REG_HTPASSWD_H
#define REG_HTPASSWD_H

#include "cas/digest.h"

#define REG_PASSWORD_BYTES_MAX 1024

struct reg_htpasswd;
/* Errors: NOTFOUND, DENIED, IO, INVALID (a line that is none, a hash of another kind, a user
 * twice), LIMIT. */
int reg_htpasswd_open(const char *path, struct reg_htpasswd **out,
                      struct cas_err *err) CAS_MUST_CHECK;
void reg_htpasswd_free(struct reg_htpasswd *h);
/* Reads the file again if it is another than before, or always (`force`). The former stays in force
 * when it cannot be read. */
int reg_htpasswd_refresh(struct reg_htpasswd *h, bool force, struct cas_err *err) CAS_MUST_CHECK;
/* Grows when the file's content was taken anew: what was found out before may be wrong now. */
uint64_t reg_htpasswd_generation(const struct reg_htpasswd *h);
/* Slow on purpose, and as slow for users that are not there. */
bool reg_htpasswd_verify(struct reg_htpasswd *h, const char *user, const char *password);
/* A digest of the user's line, so that what was given to a user ends with the password. False:
 * there is no such user. */
bool reg_htpasswd_stamp(struct reg_htpasswd *h, const char *user, struct cas_hash *out);

#endif
