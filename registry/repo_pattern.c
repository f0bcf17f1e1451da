/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/repo_pattern.h"

#include <stdio.h>

#include "registry/glob.h"

#define USER_PART "${user}"
#define USER_PART_LEN (sizeof(USER_PART) - 1)

/* Replaces the part; "" when the outcome is too long. */
static void put_user(const char *pattern, const char *user, size_t user_len,
                     char out[REG_GLOB_BYTES_MAX + 1])
{
        const char *at = strstr(pattern, USER_PART);
        int before = (int)(at - pattern);
        int n = snprintf(out, REG_GLOB_BYTES_MAX + 1, "%.*s%.*s%s", before, pattern, (int)user_len,
                         user, at + USER_PART_LEN);
        if (n < 0 || n > REG_GLOB_BYTES_MAX)
                out[0] = '\0';
}

/* Such a pattern can tell whose a repository is: the user is one whole part, found by counting. */
static bool init_of_user(struct reg_repo_pattern *p, const char *text, const char *at)
{
        char probe[REG_GLOB_BYTES_MAX + 1];
        const char *after = at + USER_PART_LEN;
        p->kind = REG_PATTERN_OF_USER;
        for (const char *c = text; c < at; c++) {
                p->part += *c == '/';
                if (c[0] == '*' && c[1] == '*')
                        return false;
        }
        if ((at > text && at[-1] != '/') || (*after && *after != '/') || strstr(after, USER_PART))
                return false;
        put_user(text, "u", 1, probe);
        return reg_glob_valid(probe);
}

int reg_repo_pattern_init(struct reg_repo_pattern *p, const char *text, struct cas_err *err)
{
        const char *at = strstr(text, USER_PART);
        size_t len = strlen(text);
        *p = (struct reg_repo_pattern){.kind = REG_PATTERN_GLOB, .len = len};
        if (at ? !init_of_user(p, text, at) : !reg_glob_valid(text))
                return cas_fail(err, CAS_E_INVALID, "not a pattern of repositories: %.200s", text);
        if (!at && strcmp(text, "**") == 0)
                p->kind = REG_PATTERN_ALL;
        else if (!at && !strchr(text, '*'))
                p->kind = REG_PATTERN_NAME;
        else if (!at && strchr(text, '*') == text + len - 2 && len > 3 && text[len - 3] == '/' &&
                 text[len - 1] == '*')
                p->kind = REG_PATTERN_BELOW;
        if (p->kind == REG_PATTERN_BELOW)
                p->len = len - 2;
        p->text = cas_xstrdup(text);
        return 0;
}

void reg_repo_pattern_release(struct reg_repo_pattern *p)
{
        free(p->text);
        *p = (struct reg_repo_pattern){0};
}

/* What a part of a repository's name is made of: nothing that means more in a pattern. */
static bool is_part(const char *user, size_t len)
{
        size_t fits = strspn(user, "abcdefghijklmnopqrstuvwxyz0123456789._-");
        return len > 0 && fits >= len;
}

static bool match_of_user(const struct reg_repo_pattern *p, const char *repo, const char *user,
                          size_t user_len)
{
        char pattern[REG_GLOB_BYTES_MAX + 1];
        if (!is_part(user, user_len))
                return false;
        put_user(p->text, user, user_len, pattern);
        return reg_glob_match(pattern, repo);
}

bool reg_repo_pattern_match(const struct reg_repo_pattern *p, const char *repo, const char *user)
{
        switch (p->kind) {
        case REG_PATTERN_ALL:
                return true;
        case REG_PATTERN_NAME:
                return strcmp(p->text, repo) == 0;
        case REG_PATTERN_BELOW:
                return strncmp(p->text, repo, p->len) == 0;
        case REG_PATTERN_GLOB:
                return reg_glob_match(p->text, repo);
        case REG_PATTERN_OF_USER:
                return match_of_user(p, repo, user, strlen(user));
        }
        return false;
}

bool reg_repo_pattern_owner(const struct reg_repo_pattern *p, const char *repo, char *user,
                            size_t size)
{
        const char *part = repo;
        user[0] = '\0';
        if (p->kind != REG_PATTERN_OF_USER)
                return reg_repo_pattern_match(p, repo, "");
        for (size_t i = 0; i < p->part; i++) {
                part = strchr(part, '/');
                if (!part)
                        return false;
                part++;
        }
        size_t len = strcspn(part, "/");
        if (len >= size || !match_of_user(p, repo, part, len))
                return false;
        memcpy(user, part, len);
        user[len] = '\0';
        return true;
}
