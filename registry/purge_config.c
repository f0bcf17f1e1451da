/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/purge_config.h"

#define WAIT_MS_DEFAULT 300
#define WAIT_MS_MAX 10000

static int find_target(struct reg_purge_config *c, const char *name, struct reg_purge_target **out,
                       struct cas_err *err)
{
        for (size_t i = 0; i < c->count; i++) {
                *out = &c->targets[i];
                if (strcmp(c->targets[i].name, name) == 0)
                        return 0;
        }
        if (c->count == REG_PURGE_TARGETS_MAX)
                return cas_fail(err, CAS_E_INVALID, "more than %d caches", REG_PURGE_TARGETS_MAX);
        *out = &c->targets[c->count++];
        **out = (struct reg_purge_target){.name = cas_xstrdup(name), .wait_ms = WAIT_MS_DEFAULT};
        return 0;
}

static int method_set(const char *value, char **out, struct cas_err *err)
{
        size_t len = strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        if (len == 0 || value[len])
                return cas_fail(err, CAS_E_INVALID, "not a method such as PURGE: %.64s", value);
        return reg_config_text(value, out, err);
}

static int url_set(const char *value, char **out, struct cas_err *err)
{
        if (strncmp(value, "http://", 7) != 0 && strncmp(value, "https://", 8) != 0)
                return cas_fail(err, CAS_E_INVALID, "not an http or https URL: %.128s", value);
        return reg_config_text(value, out, err);
}

static int header_add(struct reg_purge_target *t, const char *value, struct cas_err *err)
{
        size_t name = strcspn(value, ": ");
        if (name == 0 || value[name] != ':')
                return cas_fail(err, CAS_E_INVALID, "not \"Name: value\"");
        if (t->header_count == REG_PURGE_HEADERS_MAX)
                return cas_fail(err, CAS_E_INVALID, "more than %d headers", REG_PURGE_HEADERS_MAX);
        t->headers[t->header_count++] = cas_xstrdup(value);
        return 0;
}

static int purge_set(void **area, const char *name, const char *key, const char *value,
                     struct cas_err *err)
{
        struct reg_purge_target *t;
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_purge_config));
        if (!name[0])
                return cas_fail(err, CAS_E_INVALID, "the section has a name: [purge NAME]");
        int rc = find_target(*area, name, &t, err);
        if (rc < 0)
                return rc;
        if (strcmp(key, "url") == 0)
                return url_set(value, &t->url, err);
        if (strcmp(key, "method") == 0)
                return method_set(value, &t->method, err);
        if (strcmp(key, "header") == 0)
                return header_add(t, value, err);
        if (strcmp(key, "body") == 0)
                return reg_config_text(value, &t->body, err);
        if (strcmp(key, "wait_ms") == 0)
                return reg_config_number(value, WAIT_MS_MAX, &t->wait_ms, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void purge_release(void *area)
{
        struct reg_purge_config *c = area;
        for (size_t i = 0; i < c->count; i++) {
                struct reg_purge_target *t = &c->targets[i];
                for (size_t h = 0; h < t->header_count; h++)
                        free(t->headers[h]);
                free(t->name);
                free(t->method);
                free(t->url);
                free(t->body);
        }
        free(c);
}

const struct reg_config_area reg_purge_area = {"purge", purge_set, purge_release};
