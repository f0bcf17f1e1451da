/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks, and what they may do (spec/registry-access.md): htpasswd, bearer
 * tokens of our own and of an outside issuer, client certificates, rules by
 * repository, rates and quotas.
 *
 * Thread-safe. What is looked up in files is read again when they change. */
#ifndef REG_ACCESS_H
#define REG_ACCESS_H

#include "registry/http.h"

/* What is done to a repository; a set of bits. */
enum reg_action {
        REG_ACTION_PULL = 1,
        REG_ACTION_PUSH = 2, /* upload sessions may also be cancelled by who may push */
        REG_ACTION_DELETE = 4,
};

#define REG_USER_BYTES_MAX 255
/* Who asks. Copied freely; `grants` is the token's own list of what it is for, when it has one. */
struct reg_identity {
        char user[REG_USER_BYTES_MAX + 1]; /* "" when anonymous */
        struct reg_grants *grants;         /* refcounted; NULL: rules alone decide */
};
void reg_identity_release(struct reg_identity *identity);

struct reg_access;
struct reg_access_config; /* registry/access_config.h */
/* config NULL: everybody may do everything. What config points to is borrowed until free. Errors:
 * INVALID (settings that do not fit together), and those of the files that they name. */
int reg_access_new(const struct reg_access_config *config, struct reg_access **out,
                   struct cas_err *err) CAS_MUST_CHECK;
void reg_access_free(struct reg_access *a);
/* Before the first event: quotas count what happens. */
struct reg_events;
void reg_access_listen(struct reg_access *a, struct reg_events *events);
/* Reads its files again; what cannot be read leaves the former in force, and is told. */
int reg_access_reload(struct reg_access *a, struct cas_err *err) CAS_MUST_CHECK;

enum reg_verdict {
        REG_ALLOWED,
        REG_UNAUTHORIZED, /* who asks is not known, or needs to say: 401 with a challenge */
        REG_FORBIDDEN,    /* known, and may not: 403 */
        REG_LIMITED,      /* too often: 429 with Retry-After */
        REG_LATER,        /* only with may_block false: ask again where blocking is allowed */
};
/* Finds out who asks from Authorization or the client's certificate. Slow password hashes are
 * computed only with may_block; results are kept for a while. out is to be released. */
enum reg_verdict reg_access_identify(struct reg_access *a, const struct reg_http_req *req,
                                     bool may_block, struct reg_identity *out);
/* For the audit log: reg_access_identify has said UNAUTHORIZED. Once a request, which may have been
 * identified several times. */
void reg_access_disbelieved(struct reg_access *a, const struct reg_http_req *req);
/* Whether who asks may do all of `actions` (bits) to the repository. Does not block. repo NULL:
 * the API as such (/v2/, actions 0), or the catalog (pull). Counts against rates. */
enum reg_verdict reg_access_check(struct reg_access *a, const struct reg_http_req *req,
                                  const struct reg_identity *identity, const char *repo,
                                  unsigned actions);
/* The same without counting or refusing: to filter lists, and for mounts from other repositories.
 */
bool reg_access_allows(struct reg_access *a, const struct reg_identity *identity, const char *repo,
                       unsigned actions);
/* Whether the repository is shown in the catalog: who asks could pull from it, if need be with
 * another token. */
bool reg_access_lists(struct reg_access *a, const struct reg_identity *identity, const char *repo);
/* Whether everybody may pull from it: what is served from there may be kept by shared caches. repo
 * NULL: from every repository that there is or could be. */
bool reg_access_public(struct reg_access *a, const char *repo);
/* Answers with the verdict, which is none of ALLOWED and LATER. identity: NULL when it is not known
 * who asks; repo NULL and actions as for reg_access_check. */
void reg_access_refuse(struct reg_access *a, struct reg_http_req *req,
                       const struct reg_identity *identity, enum reg_verdict verdict,
                       const char *repo, unsigned actions);
/* For begin, before anything is asked: answers what asks for a token of our own, or takes it on.
 * False: the request is for somebody else. */
bool reg_token_serve(struct reg_access *a, struct reg_http_req *req);

/* Bytes that the user and the repository may still add; UINT64_MAX when nothing limits them. */
uint64_t reg_access_room(struct reg_access *a, const struct reg_identity *identity,
                         const char *repo);
/* Upload sessions of the repository have `add` bytes more, or `sub` less: they are room, too. */
void reg_access_uploaded(struct reg_access *a, const char *repo, uint64_t add, uint64_t sub);

#endif
