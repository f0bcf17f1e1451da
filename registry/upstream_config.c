/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/upstream_config.h"

#include <string.h>

#include "cas/names.h"

#define TAG_S_DEFAULT 60
#define STALE_S_DEFAULT (7 * UINT64_C(86400))
#define NEGATIVE_S_DEFAULT 10

static struct reg_upstream_config *find_or_add(struct reg_upstreams_config *c, const char *name)
{
        for (size_t i = 0; i < c->count; i++) {
                if (strcmp(c->list[i].name, name) == 0)
                        return &c->list[i];
        }
        if (c->count == REG_UPSTREAMS_MAX)
                return NULL;
        struct reg_upstream_config *up = &c->list[c->count++];
        *up = (struct reg_upstream_config){
                .name = cas_xstrdup(name),
                .tag_s = TAG_S_DEFAULT,
                .stale_s = STALE_S_DEFAULT,
                .negative_s = NEGATIVE_S_DEFAULT,
        };
        return up;
}

/* "team/mirror", or "*" for every repository that is no other upstream's. */
static int prefix_set(struct reg_upstream_config *up, const char *value, struct cas_err *err)
{
        bool all = strcmp(value, "*") == 0;
        if (!all && !cas_repo_name_valid(value))
                return cas_fail(err, CAS_E_INVALID, "not a repository's name nor *: %.64s", value);
        free(up->prefix);
        up->prefix = cas_xstrdup(all ? "" : value);
        return 0;
}

/* The settings that are text. NULL: it is none of them. */
static char **text_of(struct reg_upstream_config *up, const char *key)
{
        const struct {
                const char *key;
                char **slot;
        } texts[] = {
                {"host", &up->host},
                {"user", &up->user},
                {"password_file", &up->password_file},
                {"auth_file", &up->auth_file},
                {"ca", &up->ca_file},
        };
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                if (strcmp(texts[i].key, key) == 0)
                        return texts[i].slot;
        }
        return NULL;
}

static int set(void **area, const char *name, const char *key, const char *value,
               struct cas_err *err)
{
        if (!name[0] || strpbrk(name, " \t/"))
                return cas_fail(err, CAS_E_INVALID, "[upstream HOST] names a registry");
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_upstreams_config));
        struct reg_upstream_config *up = find_or_add(*area, name);
        if (!up)
                return cas_fail(err, CAS_E_INVALID, "more than %d upstreams", REG_UPSTREAMS_MAX);
        char **text = text_of(up, key);
        if (text)
                return reg_config_text(value, text, err);
        if (strcmp(key, "prefix") == 0)
                return prefix_set(up, value, err);
        if (strcmp(key, "plain_http") == 0)
                return reg_config_switch(value, &up->plain_http, err);
        if (strcmp(key, "insecure") == 0)
                return reg_config_switch(value, &up->insecure, err);
        if (strcmp(key, "anonymous") == 0)
                return reg_config_switch(value, &up->anonymous, err);
        if (strcmp(key, "tag_seconds") == 0)
                return reg_config_seconds(value, &up->tag_s, err);
        if (strcmp(key, "stale_seconds") == 0)
                return reg_config_seconds(value, &up->stale_s, err);
        if (strcmp(key, "negative_seconds") == 0)
                return reg_config_seconds(value, &up->negative_s, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void release(void *area)
{
        struct reg_upstreams_config *c = area;
        for (size_t i = 0; i < c->count; i++) {
                struct reg_upstream_config *up = &c->list[i];
                char *owned[] = {up->name,          up->host,      up->prefix, up->user,
                                 up->password_file, up->auth_file, up->ca_file};
                for (size_t k = 0; k < CAS_COUNT(owned); k++)
                        free(owned[k]);
        }
        free(c);
}

const struct reg_config_area reg_upstream_area = {
        .word = "upstream",
        .set = set,
        .release = release,
};
