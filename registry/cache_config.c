/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/cache_config.h"

#define REDIRECT_SECONDS_MIN 60
#define REDIRECT_SECONDS_MAX (7 * 86400)

const struct reg_cache_config reg_cache_defaults = {
        .tag_s = 5,
        .list_s = 5,
        .revalidate_s = 60,
        .error_s = 600,
        .keys = true,
        .redirect_s = 1200,
};

static int host_set(const char *value, char **out, struct cas_err *err)
{
        const char *host = NULL;
        if (strncmp(value, "https://", 8) == 0)
                host = value + 8;
        else if (strncmp(value, "http://", 7) == 0)
                host = value + 7;
        if (!host || !host[0] || host[strcspn(host, "/?# \t\"<>")])
                return cas_fail(err, CAS_E_INVALID,
                                "not a scheme and host such as https://cdn.example: %.128s", value);
        return reg_config_text(value, out, err);
}

static int path_set(const char *value, char **out, struct cas_err *err)
{
        if (value[0] != '/')
                return cas_fail(err, CAS_E_INVALID, "not an absolute path: %.128s", value);
        return reg_config_text(value, out, err);
}

static int redirect_seconds_set(const char *value, uint64_t *out, struct cas_err *err)
{
        uint64_t s;
        int rc = reg_config_seconds(value, &s, err);
        if (rc == 0 && (s < REDIRECT_SECONDS_MIN || s > REDIRECT_SECONDS_MAX))
                return cas_fail(err, CAS_E_INVALID, "not between a minute and seven days");
        if (rc == 0)
                *out = s;
        return rc;
}

static int cache_set(void **area, const char *name, const char *key, const char *value,
                     struct cas_err *err)
{
        if (name[0])
                return cas_fail(err, CAS_E_NOTFOUND, "the section has no name");
        if (!*area) {
                *area = cas_xmalloc(sizeof(struct reg_cache_config));
                memcpy(*area, &reg_cache_defaults, sizeof(reg_cache_defaults));
        }
        struct reg_cache_config *c = *area;
        if (strcmp(key, "tag_seconds") == 0)
                return reg_config_seconds(value, &c->tag_s, err);
        if (strcmp(key, "list_seconds") == 0)
                return reg_config_seconds(value, &c->list_s, err);
        if (strcmp(key, "stale_while_revalidate") == 0)
                return reg_config_seconds(value, &c->revalidate_s, err);
        if (strcmp(key, "stale_if_error") == 0)
                return reg_config_seconds(value, &c->error_s, err);
        if (strcmp(key, "keys") == 0)
                return reg_config_switch(value, &c->keys, err);
        if (strcmp(key, "redirect") == 0)
                return reg_globs_add(&c->redirect, value, err);
        if (strcmp(key, "redirect_private") == 0)
                return reg_config_switch(value, &c->redirect_private, err);
        if (strcmp(key, "redirect_seconds") == 0)
                return redirect_seconds_set(value, &c->redirect_s, err);
        if (strcmp(key, "redirect_networks") == 0)
                return reg_networks_add(&c->redirect_networks, value, err);
        if (strcmp(key, "redirect_off_networks") == 0)
                return reg_networks_add(&c->redirect_off_networks, value, err);
        if (strcmp(key, "canonical_host") == 0)
                return host_set(value, &c->canonical_host, err);
        if (strcmp(key, "key_file") == 0)
                return path_set(value, &c->key_file, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void cache_release(void *area)
{
        struct reg_cache_config *c = area;
        reg_globs_release(&c->redirect);
        reg_networks_release(&c->redirect_networks);
        reg_networks_release(&c->redirect_off_networks);
        free(c->canonical_host);
        free(c->key_file);
        free(c);
}

const struct reg_config_area reg_cache_area = {"cache", cache_set, cache_release};
