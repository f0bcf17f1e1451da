/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/scope.h"

#include <stdatomic.h>
#include <stdio.h>

#include "cas/names.h"

#define ALL_ACTIONS (REG_ACTION_PULL | REG_ACTION_PUSH | REG_ACTION_DELETE)

struct reg_grants {
        _Atomic unsigned refs;
        bool ours;
        bool catalog;
        size_t count;
        struct reg_scope *items; /* owned; of type REPOSITORY */
};

static const struct {
        const char *word;
        unsigned actions;
} action_words[] = {
        {"pull", REG_ACTION_PULL},
        {"push", REG_ACTION_PUSH},
        {"delete", REG_ACTION_DELETE},
        {"*", ALL_ACTIONS},
};

static bool is_word(const char *word, const char *text, size_t len)
{
        return strlen(word) == len && memcmp(word, text, len) == 0;
}

/* Actions that are not known are none. */
static unsigned action_of(const char *text, size_t len)
{
        for (size_t i = 0; i < CAS_COUNT(action_words); i++) {
                if (is_word(action_words[i].word, text, len))
                        return action_words[i].actions;
        }
        return 0;
}

static unsigned actions_of(const char *text, size_t len)
{
        unsigned actions = 0;
        for (size_t at = 0; at <= len;) {
                const char *comma = memchr(text + at, ',', len - at);
                size_t end = comma ? (size_t)(comma - text) : len;
                actions |= action_of(text + at, end - at);
                at = end + 1;
        }
        return actions;
}

/* Type and name, which is checked. */
static int scope_name(const char *type, size_t type_len, const char *name, size_t name_len,
                      struct reg_scope *out, struct cas_err *err)
{
        *out = (struct reg_scope){.type = REG_SCOPE_OTHER};
        if (is_word("registry", type, type_len) && is_word("catalog", name, name_len)) {
                out->type = REG_SCOPE_CATALOG;
                return 0;
        }
        if (!is_word("repository", type, type_len))
                return 0;
        if (name_len >= sizeof(out->repo))
                return cas_fail(err, CAS_E_INVALID, "a scope's name is too long");
        memcpy(out->repo, name, name_len);
        if (strlen(out->repo) != name_len || !cas_repo_name_valid(out->repo))
                return cas_fail(err, CAS_E_INVALID, "not a repository's name in a scope");
        out->type = REG_SCOPE_REPOSITORY;
        return 0;
}

int reg_scope_parse(const char *text, size_t len, struct reg_scope *out, struct cas_err *err)
{
        const char *first = memchr(text, ':', len);
        const char *last = memrchr(text, ':', len);
        if (!first || first == last)
                return cas_fail(err, CAS_E_INVALID, "a scope is TYPE:NAME:ACTIONS");
        int rc = scope_name(text, (size_t)(first - text), first + 1, (size_t)(last - first - 1),
                            out, err);
        if (rc == 0)
                out->actions = actions_of(last + 1, (size_t)(text + len - last - 1));
        return rc;
}

void reg_actions_text(unsigned actions, struct cas_buf *out)
{
        const char *separator = "";
        for (size_t i = 0; i < 3; i++) {
                if (!(actions & action_words[i].actions))
                        continue;
                cas_buf_append_str(out, separator);
                cas_buf_append_str(out, action_words[i].word);
                separator = ",";
        }
}

struct reg_grants *reg_grants_new(bool ours)
{
        struct reg_grants *g = cas_xcalloc(1, sizeof(*g));
        atomic_init(&g->refs, 1);
        g->ours = ours;
        return g;
}

bool reg_grants_add(struct reg_grants *g, const struct reg_scope *scope)
{
        if (scope->type == REG_SCOPE_CATALOG)
                g->catalog = true;
        if (scope->type != REG_SCOPE_REPOSITORY || !scope->actions)
                return true;
        for (size_t i = 0; i < g->count; i++) {
                if (strcmp(g->items[i].repo, scope->repo) == 0) {
                        g->items[i].actions |= scope->actions;
                        return true;
                }
        }
        if (g->count == REG_GRANTS_MAX)
                return false;
        g->items = cas_xrealloc(g->items, (g->count + 1) * sizeof(*g->items));
        g->items[g->count++] = *scope;
        return true;
}

struct reg_grants *reg_grants_ref(struct reg_grants *g)
{
        if (g)
                atomic_fetch_add(&g->refs, 1);
        return g;
}

void reg_grants_unref(struct reg_grants *g)
{
        if (!g || atomic_fetch_sub(&g->refs, 1) != 1)
                return;
        free(g->items);
        free(g);
}

bool reg_grants_ours(const struct reg_grants *g)
{
        return g->ours;
}

unsigned reg_grants_of(const struct reg_grants *g, const char *repo)
{
        for (size_t i = 0; i < g->count; i++) {
                if (strcmp(g->items[i].repo, repo) == 0)
                        return g->items[i].actions;
        }
        return 0;
}

bool reg_grants_catalog(const struct reg_grants *g)
{
        return g->catalog;
}

static int grant_from_json(const json_t *item, struct reg_scope *out, struct cas_err *err)
{
        const char *type, *name;
        const json_t *actions, *action;
        size_t i;
        if (!json_is_object(item))
                return cas_fail(err, CAS_E_INVALID, "access: not an object");
        if (cas_json_string_in(item, "type", &type, err) < 0 ||
            cas_json_string_in(item, "name", &name, err) < 0 ||
            cas_json_array_in(item, "actions", &actions, err) < 0)
                return cas_err_wrap(err, "access");
        if (!type || !name)
                return cas_fail(err, CAS_E_INVALID, "access: no type or name");
        if (scope_name(type, strlen(type), name, strlen(name), out, err) < 0)
                return cas_err_wrap(err, "access");
        json_array_foreach(actions, i, action)
        {
                const char *word = json_string_value(action);
                if (!word)
                        return cas_fail(err, CAS_E_INVALID, "access: an action is no text");
                out->actions |= action_of(word, strlen(word));
        }
        return 0;
}

int reg_grants_from_json(const json_t *access, bool ours, struct reg_grants **out,
                         struct cas_err *err)
{
        struct reg_grants *g = reg_grants_new(ours);
        const json_t *item;
        struct reg_scope scope;
        size_t i;
        int rc = 0;
        json_array_foreach(access, i, item)
        {
                rc = grant_from_json(item, &scope, err);
                if (rc == 0 && !reg_grants_add(g, &scope))
                        rc = cas_fail(err, CAS_E_LIMIT, "more than %d grants", REG_GRANTS_MAX);
                if (rc < 0)
                        break;
        }
        if (rc == 0)
                *out = g;
        else
                reg_grants_unref(g);
        return rc;
}

static json_t *actions_to_json(unsigned actions)
{
        json_t *list = json_array();
        for (size_t i = 0; i < 3; i++) {
                if (actions & action_words[i].actions)
                        (void)json_array_append_new(list, json_string(action_words[i].word));
        }
        return list;
}

json_t *reg_grants_to_json(const struct reg_grants *g)
{
        json_t *list = json_array();
        for (size_t i = 0; i < g->count; i++) {
                const struct reg_scope *s = &g->items[i];
                (void)json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "type", "repository",
                                                            "name", s->repo, "actions",
                                                            actions_to_json(s->actions)));
        }
        if (g->catalog)
                (void)json_array_append_new(list, json_pack("{s:s, s:s, s:[s]}", "type", "registry",
                                                            "name", "catalog", "actions", "*"));
        return list;
}

void reg_identity_release(struct reg_identity *identity)
{
        reg_grants_unref(identity->grants);
        *identity = (struct reg_identity){0};
}

void reg_identity_copy(const struct reg_identity *from, struct reg_identity *to)
{
        *to = *from;
        (void)reg_grants_ref(to->grants);
}
