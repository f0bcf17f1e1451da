/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of access share: reg_access.c (who asks, and whether they may),
 * challenge (reg_refuse.c), token_endpoint.c (tokens for clients).
 *
 * Immutable once made, but for what its parts guard themselves. */
#ifndef REG_ACCESS_INT_H
#define REG_ACCESS_INT_H

#include "registry/access_config.h"
#include "registry/passwords.h"
#include "registry/quota.h"
#include "registry/rights.h"
#include "registry/tokens.h"

struct reg_access {
        const struct reg_access_settings *settings; /* borrowed; defaults when none were given */
        struct reg_access_settings defaults;
        bool checked; /* there is a question who asks; else everybody may everything */
        struct reg_rights *rights;
        struct reg_logins *logins;
        struct reg_htpasswd *htpasswd; /* NULL: there are no passwords */
        struct reg_passwords *passwords;
        struct reg_tokens *tokens; /* NULL: tokens are not taken */
        struct reg_quotas *quotas; /* NULL: none */
        struct reg_limiter *failures;
        size_t request_count, pull_count;
        struct {
                struct reg_limiter *limiter;
                bool per_user;
        } requests[REG_RATES_MAX], pulls[REG_RATES_MAX];
        _Atomic uint64_t watched_s; /* when the files were last looked at */
};

/* Takes what the rates have for it. */
bool reg_access_take(struct reg_access *a, const struct reg_http_req *req, const char *user);
/* Sets Retry-After, for who asks too often. */
void reg_access_retry_after(struct reg_access *a, struct reg_http_req *req, const char *user);
/* Looks at most once a second whether files have changed. */
void reg_access_watch(struct reg_access *a);
/* Whoever gives a name and a password, or a certificate. out->user is "" for neither. */
enum reg_verdict reg_access_basic(struct reg_access *a, const struct reg_http_req *req,
                                  const char *credentials, bool may_block,
                                  struct reg_identity *out);
/* What follows the scheme in Authorization, or NULL when that is of another one. */
const char *reg_access_scheme(const char *header, const char *scheme);

/* The text with what would break a log line replaced; cut to the size of out. */
#define REG_AUDIT_BYTES 256
const char *reg_audit_text(const char *text, char out[REG_AUDIT_BYTES]);

/* "repository:x:pull,push" for what was refused. */
void reg_challenge_scope(const char *repo, unsigned actions, struct cas_buf *out);
/* Where tokens are given: configured, or as the client has called this host. */
void reg_challenge_realm(const struct reg_access *a, const struct reg_http_req *req,
                         struct cas_buf *out);

#endif
