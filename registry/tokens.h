/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of the registry: those that it signs itself, or those of one outside
 * issuer, never both. Thread-safe. */
#ifndef REG_TOKENS_H
#define REG_TOKENS_H

#include "registry/access_config.h"
#include "registry/htpasswd.h"
#include "registry/logins.h"
#include "registry/scope.h"

#define REG_SERVICE_DEFAULT "lamina"

struct reg_tokens;
/* settings and logins are borrowed until free. The key of our own tokens is made when there is
 * none, in the store (0600); without a store and without a key file, none lasts longer than this
 * process. Errors: INVALID, NOTFOUND, IO … of the files. */
int reg_tokens_new(const struct reg_access_settings *settings, struct cas_store *store,
                   struct reg_logins *logins, struct reg_tokens **out,
                   struct cas_err *err) CAS_MUST_CHECK;
void reg_tokens_free(struct reg_tokens *t);
/* Reads the keys again. */
int reg_tokens_reload(struct reg_tokens *t, struct cas_err *err) CAS_MUST_CHECK;
/* The same if a file of keys has changed. */
void reg_tokens_watch(struct reg_tokens *t);
bool reg_tokens_ours(const struct reg_tokens *t);

/* Who a token says it is and what for: ALLOWED, UNAUTHORIZED, LATER (keys must be
 * fetched, and may_block is false). */
enum reg_verdict reg_tokens_identify(struct reg_tokens *t, const char *text, bool may_block,
                                     struct reg_identity *out);

/* Why a token was not believed, for people: what can be told without looking at its signature, or
 * else that. */
void reg_tokens_why(struct reg_tokens *t, const char *text, struct cas_err *err);

/* Our own; reg_tokens_ours only. The answer's token, and for how long. */
int reg_tokens_issue(struct reg_tokens *t, const char *user, const struct reg_grants *grants,
                     struct cas_buf *out, uint64_t *lifetime_s, struct cas_err *err) CAS_MUST_CHECK;
/* A token that stands for the user's password until that changes, and for nothing else. stamp:
 * reg_htpasswd_stamp. */
int reg_tokens_issue_refresh(struct reg_tokens *t, const char *user, const struct cas_hash *stamp,
                             struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
/* Whose it is. Errors: DENIED, INVALID. */
int reg_tokens_refresh_user(struct reg_tokens *t, const char *text, struct reg_htpasswd *users,
                            char user[REG_USER_BYTES_MAX + 1], struct cas_err *err) CAS_MUST_CHECK;

#endif
