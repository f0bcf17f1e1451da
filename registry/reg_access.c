/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/reg_access.h"

struct reg_access {
        const struct reg_access_config *config; /* borrowed */
};

void reg_identity_release(struct reg_identity *identity)
{
        *identity = (struct reg_identity){0};
}

int reg_access_new(const struct reg_access_config *config, struct reg_access **out,
                   struct cas_err *err)
{
        (void)err;
        *out = cas_xcalloc(1, sizeof(**out));
        (*out)->config = config;
        return 0;
}

void reg_access_free(struct reg_access *a)
{
        free(a);
}

int reg_access_reload(struct reg_access *a, struct cas_err *err)
{
        (void)a;
        (void)err;
        return 0;
}

enum reg_verdict reg_access_identify(struct reg_access *a, const struct reg_http_req *req,
                                     bool may_block, struct reg_identity *out)
{
        (void)a;
        (void)req;
        (void)may_block;
        *out = (struct reg_identity){0};
        return REG_ALLOWED;
}

enum reg_verdict reg_access_check(struct reg_access *a, const struct reg_http_req *req,
                                  const struct reg_identity *identity, const char *repo,
                                  unsigned actions)
{
        (void)a;
        (void)req;
        (void)identity;
        (void)repo;
        (void)actions;
        return REG_ALLOWED;
}

bool reg_access_allows(struct reg_access *a, const struct reg_identity *identity, const char *repo,
                       unsigned actions)
{
        (void)a;
        (void)identity;
        (void)repo;
        (void)actions;
        return true;
}

bool reg_access_public(struct reg_access *a, const char *repo)
{
        (void)a;
        (void)repo;
        return true;
}

void reg_access_refuse(struct reg_access *a, struct reg_http_req *req, enum reg_verdict verdict,
                       const char *repo, unsigned actions)
{
        (void)a;
        (void)verdict;
        (void)repo;
        (void)actions;
        reg_http_reply_empty(req, 403);
}

uint64_t reg_access_room(struct reg_access *a, const struct reg_identity *identity,
                         const char *repo)
{
        (void)a;
        (void)identity;
        (void)repo;
        return UINT64_MAX;
}
