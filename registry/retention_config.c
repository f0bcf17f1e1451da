/* SPDX-License-Identifier: Apache-2.0 */
/* Sections [retention NAME]. */
#include "registry/retention.h"

#define KEEP_MAX 1000000

static struct reg_retention_rule *rule_of(void **area, const char *name, struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_retention_config));
        struct reg_retention_config *c = *area;
        for (size_t i = 0; i < c->count; i++) {
                if (strcmp(c->rules[i].name, name) == 0)
                        return &c->rules[i];
        }
        if (!name[0]) {
                (void)cas_fail(err, CAS_E_INVALID, "[retention NAME]: a name is missing");
                return NULL;
        }
        if (c->count == REG_RETENTION_RULES_MAX) {
                (void)cas_fail(err, CAS_E_LIMIT, "more than %d rules", REG_RETENTION_RULES_MAX);
                return NULL;
        }
        struct reg_retention_rule *rule = &c->rules[c->count++];
        rule->name = cas_xstrdup(name);
        return rule;
}

/* Nothing would mean "at once", which nobody wants who writes 0. */
static int set_age(const char *value, uint64_t *out, struct cas_err *err)
{
        uint64_t s;
        int rc = reg_config_seconds(value, &s, err);
        if (rc == 0 && s == 0)
                rc = cas_fail(err, CAS_E_INVALID, "a time above 0 is expected");
        if (rc == 0)
                *out = s;
        return rc;
}

static int retention_set(void **area, const char *name, const char *key, const char *value,
                         struct cas_err *err)
{
        struct reg_retention_rule *rule = rule_of(area, name, err);
        if (!rule)
                return -(int)err->code;
        if (strcmp(key, "repositories") == 0)
                return reg_globs_add(&rule->repositories, value, err);
        if (strcmp(key, "tags") == 0)
                return reg_globs_add(&rule->tags, value, err);
        if (strcmp(key, "max_age") == 0)
                return set_age(value, &rule->max_age_s, err);
        if (strcmp(key, "not_pulled_for") == 0)
                return set_age(value, &rule->not_pulled_s, err);
        if (strcmp(key, "untagged_after") == 0)
                return set_age(value, &rule->untagged_s, err);
        if (strcmp(key, "keep") != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
        int rc = reg_config_number(value, KEEP_MAX, &rule->keep, err);
        rule->has_keep = rc == 0;
        return rc;
}

static void retention_release(void *area)
{
        struct reg_retention_config *c = area;
        for (size_t i = 0; c && i < c->count; i++) {
                free(c->rules[i].name);
                reg_globs_release(&c->rules[i].repositories);
                reg_globs_release(&c->rules[i].tags);
        }
        free(c);
}

const struct reg_config_area reg_retention_area = {"retention", retention_set, retention_release};
