/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/cachepolicy.h"

#include <stdio.h>

struct reg_cachepolicy {
        bool keys;
        char *control[REG_CACHED_LIST + 1][2]; /* by kind; private, public */
};

struct reg_cachepolicy *reg_cachepolicy_new(const struct reg_cache_config *config)
{
        const struct reg_cache_config *c = config ? config : &reg_cache_defaults;
        struct reg_cachepolicy *p = cas_xcalloc(1, sizeof(*p));
        p->keys = c->keys;
        /* s-maxage and must-revalidate would let shared caches keep answers to requests with
         * Authorization (RFC 9111, 3.5): they are for what is public alone */
        p->control[REG_CACHED_CONTENT][false] =
                cas_xstrdup("private, max-age=31536000, immutable, no-transform");
        p->control[REG_CACHED_CONTENT][true] =
                cas_xstrdup("public, max-age=31536000, immutable, no-transform");
        p->control[REG_CACHED_TAG][false] = cas_xstrdup("private, max-age=0, no-transform");
        p->control[REG_CACHED_TAG][true] =
                cas_xasprintf("public, max-age=0, s-maxage=%llu, stale-while-revalidate=%llu, "
                              "stale-if-error=%llu, no-transform",
                              (unsigned long long)c->tag_s, (unsigned long long)c->revalidate_s,
                              (unsigned long long)c->error_s);
        p->control[REG_CACHED_LIST][false] = cas_xstrdup("private, max-age=0");
        p->control[REG_CACHED_LIST][true] =
                cas_xasprintf("public, max-age=0, s-maxage=%llu", (unsigned long long)c->list_s);
        return p;
}

void reg_cachepolicy_free(struct reg_cachepolicy *p)
{
        if (!p)
                return;
        for (size_t i = 0; i < CAS_COUNT(p->control); i++) {
                free(p->control[i][false]);
                free(p->control[i][true]);
        }
        free(p);
}

/* Keys with the separator that the header has. */
static void write_keys(const struct reg_cached *what, char separator, char *out)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        size_t len = 0;
        const char *repo = what->repo && what->repo[0] ? what->repo : NULL;
        out[0] = '\0';
        if (repo && what->kind == REG_CACHED_LIST)
                len += (size_t)snprintf(out, REG_CACHE_KEYS_BYTES, "repo:%s%clist:%s", repo,
                                        separator, repo);
        else if (repo && what->kind == REG_CACHED_TAG)
                len += (size_t)snprintf(out, REG_CACHE_KEYS_BYTES, "repo:%s%ctag:%s:%s", repo,
                                        separator, repo, what->tag);
        else if (repo)
                len += (size_t)snprintf(out, REG_CACHE_KEYS_BYTES, "repo:%s", repo);
        cas_assert(len < REG_CACHE_KEYS_BYTES);
        if (!what->digest)
                return;
        if (len > 0)
                out[len++] = separator;
        int n = snprintf(out + len, REG_CACHE_KEYS_BYTES - len, "dg:%s",
                         cas_digest_hex(what->digest, text));
        cas_assert(n > 0 && (size_t)n < REG_CACHE_KEYS_BYTES - len);
}

void reg_cachepolicy_headers(const struct reg_cachepolicy *p, const struct reg_cached *what,
                             struct reg_cache_headers *out)
{
        out->control = p->control[what->kind][what->is_public];
        out->surrogate_key[0] = out->cache_tag[0] = '\0';
        if (!p->keys || !what->is_public)
                return; /* nothing is kept that could be purged */
        write_keys(what, ' ', out->surrogate_key);
        write_keys(what, ',', out->cache_tag);
}

void reg_cachepolicy_reply(const struct reg_cachepolicy *p, const struct reg_cached *what,
                           struct reg_http_req *req)
{
        struct reg_cache_headers h;
        reg_cachepolicy_headers(p, what, &h);
        reg_http_reply_header(req, "Cache-Control", h.control);
        if (h.surrogate_key[0])
                reg_http_reply_header(req, "Surrogate-Key", h.surrogate_key);
        if (h.cache_tag[0])
                reg_http_reply_header(req, "Cache-Tag", h.cache_tag);
}
