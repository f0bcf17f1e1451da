/* SPDX-License-Identifier: Apache-2.0 */
/* What was found out about credentials, kept for a while: a password's slow
 * hash or a token's signature is checked once, not with each request.
 * Credentials themselves are not kept, but a MAC of them under a key that lives
 * as long as the process. Fixed memory: the entry that ends first makes room.
 * Thread-safe. */
#ifndef REG_LOGINS_H
#define REG_LOGINS_H

#include "cas/digest.h"
#include "registry/reg_access.h"

struct reg_logins;
struct reg_logins *reg_logins_new(void);
void reg_logins_free(struct reg_logins *l);
/* The name of some credentials. `kind` keeps those of different sorts apart. */
void reg_logins_mac(const struct reg_logins *l, char kind, const char *text, struct cas_hash *out);
/* generation: of what the credentials were checked against; entries of another one do not count.
 * False: not known. out is to be released. */
bool reg_logins_get(struct reg_logins *l, const struct cas_hash *mac, uint64_t generation,
                    uint64_t now_s, struct reg_identity *out);
void reg_logins_put(struct reg_logins *l, const struct cas_hash *mac, uint64_t generation,
                    uint64_t until_s, const struct reg_identity *identity);

#endif
