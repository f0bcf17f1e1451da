/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/rights.h"

#include "registry/repo_pattern.h"

#define ALL_ACTIONS (REG_ACTION_PULL | REG_ACTION_PUSH | REG_ACTION_DELETE)

struct rule {
        unsigned allow, deny;
        bool everybody; /* "anonymous" */
        bool known;     /* "*" */
        size_t user_count;
        const char **users; /* sorted; the strings are in the names of struct reg_rights */
        size_t pattern_count;
        struct reg_repo_pattern *patterns;
};

struct reg_rights {
        bool open; /* no rules */
        size_t count;
        struct rule *rules;
        struct reg_words names; /* of users, owned */
};

void reg_rights_free(struct reg_rights *r)
{
        if (!r)
                return;
        for (size_t i = 0; i < r->count; i++) {
                for (size_t j = 0; j < r->rules[i].pattern_count; j++)
                        reg_repo_pattern_release(&r->rules[i].patterns[j]);
                free(r->rules[i].patterns);
                free(r->rules[i].users);
        }
        for (size_t i = 0; i < r->names.count; i++)
                free(r->names.items[i]);
        free(r->names.items);
        free(r->rules);
        free(r);
}
CAS_DEFINE_CLEANUP(cleanup_rights_, struct reg_rights *, reg_rights_free);

static void add_user(struct reg_rights *r, struct rule *rule, const char *name)
{
        r->names.items = cas_xrealloc(r->names.items, (r->names.count + 1) * sizeof(char *));
        r->names.items[r->names.count++] = cas_xstrdup(name);
        rule->users = cas_xrealloc(rule->users, (rule->user_count + 1) * sizeof(char *));
        rule->users[rule->user_count++] = r->names.items[r->names.count - 1];
}

static int add_group(struct reg_rights *r, struct rule *rule,
                     const struct reg_access_groups *groups, const char *name, struct cas_err *err)
{
        for (size_t i = 0; groups && i < groups->count; i++) {
                const struct reg_access_group *g = &groups->items[i];
                if (strcmp(g->name, name) != 0)
                        continue;
                for (size_t j = 0; j < g->users.count; j++)
                        add_user(r, rule, g->users.items[j]);
                return 0;
        }
        return cas_fail(err, CAS_E_INVALID, "no such group: %.64s", name);
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int add_users(struct reg_rights *r, struct rule *rule, const struct reg_words *users,
                     const struct reg_access_groups *groups, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < users->count; i++) {
                const char *word = users->items[i];
                if (strcmp(word, "anonymous") == 0)
                        rule->everybody = true;
                else if (strcmp(word, "*") == 0)
                        rule->known = true;
                else if (word[0] == '@')
                        rc = add_group(r, rule, groups, word + 1, err);
                else
                        add_user(r, rule, word);
        }
        if (rule->user_count > 0)
                qsort(rule->users, rule->user_count, sizeof(*rule->users), compare_names);
        return rc;
}

static int add_rule(struct reg_rights *r, const struct reg_access_rule *from,
                    const struct reg_access_groups *groups, struct cas_err *err)
{
        struct rule *rule = &r->rules[r->count++];
        if (from->repositories.count == 0 || from->users.count == 0 || !(from->allow | from->deny))
                return cas_fail(err, CAS_E_INVALID, "repositories, users and actions are wanted");
        if (from->allow & from->deny)
                return cas_fail(err, CAS_E_INVALID, "an action is both allowed and denied");
        rule->allow = from->allow;
        rule->deny = from->deny;
        rule->patterns = cas_xcalloc(from->repositories.count, sizeof(*rule->patterns));
        for (size_t i = 0; i < from->repositories.count; i++) {
                int rc =
                        reg_repo_pattern_init(&rule->patterns[i], from->repositories.items[i], err);
                if (rc < 0)
                        return rc;
                rule->pattern_count++;
        }
        return add_users(r, rule, &from->users, groups, err);
}

int reg_rights_new(const struct reg_access_rules *rules, const struct reg_access_groups *groups,
                   struct reg_rights **out, struct cas_err *err)
{
        __attribute__((cleanup(cleanup_rights_))) struct reg_rights *r = cas_xcalloc(1, sizeof(*r));
        r->open = !rules;
        r->rules = cas_xcalloc(rules ? rules->count : 1, sizeof(*r->rules));
        for (size_t i = 0; rules && i < rules->count; i++) {
                if (add_rule(r, &rules->items[i], groups, err) < 0)
                        return cas_err_wrap(err, "[rule %s]", rules->items[i].name);
        }
        *out = cas_steal(&r);
        return 0;
}

static bool rule_has_user(const struct rule *rule, const char *user)
{
        if (rule->everybody || (rule->known && user[0]))
                return true;
        return user[0] && rule->user_count > 0 &&
               bsearch(&user, rule->users, rule->user_count, sizeof(*rule->users), compare_names);
}

static bool rule_has_repo(const struct rule *rule, const char *user, const char *repo)
{
        for (size_t i = 0; i < rule->pattern_count; i++) {
                if (reg_repo_pattern_match(&rule->patterns[i], repo, user))
                        return true;
        }
        return false;
}

unsigned reg_rights_of(const struct reg_rights *r, const char *user, const char *repo)
{
        unsigned allowed = 0, open = ALL_ACTIONS; /* open: not decided yet */
        if (r->open)
                return user[0] ? ALL_ACTIONS : 0;
        for (size_t i = 0; i < r->count && open; i++) {
                const struct rule *rule = &r->rules[i];
                if (!((rule->allow | rule->deny) & open) || !rule_has_user(rule, user) ||
                    !rule_has_repo(rule, user, repo))
                        continue;
                allowed |= rule->allow & open;
                open &= ~(rule->allow | rule->deny);
        }
        return allowed;
}

bool reg_rights_any_public(const struct reg_rights *r)
{
        for (size_t i = 0; i < r->count; i++) {
                if (r->rules[i].everybody && (r->rules[i].allow & REG_ACTION_PULL))
                        return true;
        }
        return false;
}
