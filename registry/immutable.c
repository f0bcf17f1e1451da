/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/immutable.h"

/* The section of this name, made when it is not there. NULL: too many. */
static struct reg_immutable_rule *rule_of(struct reg_immutable *config, const char *name)
{
        for (size_t i = 0; i < config->count; i++) {
                if (strcmp(config->rules[i].name, name) == 0)
                        return &config->rules[i];
        }
        if (config->count == REG_IMMUTABLE_RULES_MAX)
                return NULL;
        struct reg_immutable_rule *rule = &config->rules[config->count++];
        rule->name = cas_xstrdup(name);
        return rule;
}

static int immutable_set(void **area, const char *name, const char *key, const char *value,
                         struct cas_err *err)
{
        if (!*area)
                *area = cas_xcalloc(1, sizeof(struct reg_immutable));
        struct reg_immutable_rule *rule = rule_of(*area, name);
        if (!rule)
                return cas_fail(err, CAS_E_INVALID, "more than %d sections",
                                REG_IMMUTABLE_RULES_MAX);
        if (strcmp(key, "repositories") == 0)
                return reg_globs_add(&rule->repositories, value, err);
        if (strcmp(key, "tags") == 0)
                return reg_globs_add(&rule->tags, value, err);
        return cas_fail(err, CAS_E_NOTFOUND, "no such setting");
}

static void immutable_release(void *area)
{
        struct reg_immutable *config = area;
        for (size_t i = 0; i < config->count; i++) {
                free(config->rules[i].name);
                reg_globs_release(&config->rules[i].repositories);
                reg_globs_release(&config->rules[i].tags);
        }
        free(config);
}

const struct reg_config_area reg_immutable_area = {"immutable", immutable_set, immutable_release};

static bool holds(const struct reg_globs *globs, const char *name)
{
        return globs->count == 0 || reg_globs_match(globs, name);
}

const char *reg_immutable_rule(const struct reg_immutable *i, const char *repo, const char *tag)
{
        for (size_t n = 0; i && n < i->count; n++) {
                const struct reg_immutable_rule *rule = &i->rules[n];
                if (holds(&rule->repositories, repo) && holds(&rule->tags, tag))
                        return rule->name;
        }
        return NULL;
}
