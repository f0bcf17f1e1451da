/* SPDX-License-Identifier: Apache-2.0 */
/* What caches between us and clients may keep, and for how long: by what it is
 * that is served, and by whether everybody may read it (spec/registry-cache.md).
 * No answer ever has Vary. Immutable once made, so thread-safe. */
#ifndef REG_CACHEPOLICY_H
#define REG_CACHEPOLICY_H

#include "cas/digest.h"
#include "cas/limits.h"
#include "registry/cache_config.h"
#include "registry/http.h"

/* What must not be kept: errors, tokens, uploads, redirects, 201, 202, 204. */
#define REG_CACHE_NONE "no-store"

enum reg_cached_kind {
        REG_CACHED_CONTENT, /* named by its digest: for ever */
        REG_CACHED_TAG,     /* a manifest by tag: until the tag may have moved */
        REG_CACHED_LIST,    /* tags, referrers, catalog */
};
struct reg_cached {
        enum reg_cached_kind kind;
        bool is_public;                  /* everybody may read it (reg_access_public) */
        const char *repo;                /* NULL or "": of none */
        const char *tag;                 /* of REG_CACHED_TAG */
        const struct cas_digest *digest; /* may be NULL */
};

/* "repo:NAME tag:NAME:TAG dg:HEX", "list:NAME" */
#define REG_CACHE_KEYS_BYTES                                                                       \
        (2 * (CAS_REPO_NAME_BYTES_MAX + 8) + CAS_TAG_BYTES_MAX + CAS_DIGEST_TEXT_BYTES + 8)
struct reg_cache_headers {
        const char *control;                      /* Cache-Control; borrowed from the policy */
        char surrogate_key[REG_CACHE_KEYS_BYTES]; /* "" when it is not to be sent, as the next */
        char cache_tag[REG_CACHE_KEYS_BYTES];
};

struct reg_cachepolicy;
/* config NULL: the defaults; else borrowed. */
struct reg_cachepolicy *reg_cachepolicy_new(const struct reg_cache_config *config);
void reg_cachepolicy_free(struct reg_cachepolicy *p);
/* The headers of an answer (also 304) to `what`, for those who keep answers themselves. */
void reg_cachepolicy_headers(const struct reg_cachepolicy *p, const struct reg_cached *what,
                             struct reg_cache_headers *out);
/* The same, set on an answer. */
void reg_cachepolicy_reply(const struct reg_cachepolicy *p, const struct reg_cached *what,
                           struct reg_http_req *req);

#endif
