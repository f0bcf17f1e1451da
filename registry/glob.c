/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/glob.h"

#define SEPARATORS " \t,"

static bool may_hold(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-' || c == '/' || c == '*';
}

bool reg_glob_valid(const char *pattern)
{
        size_t len = 0;
        for (; pattern[len]; len++) {
                if (len == REG_GLOB_BYTES_MAX || !may_hold(pattern[len]))
                        return false;
        }
        return len > 0;
}

/* Places in the pattern that what was read so far may have led to. */
struct places {
        bool at[REG_GLOB_BYTES_MAX + 1];
};

/* Stars may stand for nothing: whoever is at one is behind it, too. */
static void pass_stars(const char *pattern, size_t len, struct places *p)
{
        for (size_t i = 0; i < len; i++) {
                if (p->at[i] && pattern[i] == '*')
                        p->at[pattern[i + 1] == '*' ? i + 2 : i + 1] = true;
        }
}

/* One character more. False: nothing can match any more. */
static bool step(const char *pattern, size_t len, struct places *p, char c)
{
        struct places next = {0};
        bool any = false;
        for (size_t i = 0; i < len; i++) {
                if (!p->at[i])
                        continue;
                bool star = pattern[i] == '*';
                if (star && (c != '/' || pattern[i + 1] == '*'))
                        next.at[i] = any = true;
                else if (!star && pattern[i] == c)
                        next.at[i + 1] = any = true;
        }
        *p = next;
        pass_stars(pattern, len, p);
        return any;
}

bool reg_glob_match(const char *pattern, const char *text)
{
        struct places p = {.at = {true}};
        if (!reg_glob_valid(pattern))
                return false;
        size_t len = strlen(pattern);
        pass_stars(pattern, len, &p);
        for (; *text; text++) {
                if (!step(pattern, len, &p, *text))
                        return false;
        }
        return p.at[len];
}

static int globs_take(struct reg_globs *globs, const char *text, struct cas_err *err)
{
        for (const char *at = text + strspn(text, SEPARATORS); *at; at += strspn(at, SEPARATORS)) {
                size_t len = strcspn(at, SEPARATORS);
                cas_cleanup_free char *pattern = cas_xasprintf("%.*s", (int)len, at);
                if (!reg_glob_valid(pattern))
                        return cas_fail(err, CAS_E_INVALID,
                                        "neither a name nor a pattern of names: %.64s", pattern);
                if (globs->count == REG_GLOBS_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "more than %d patterns", REG_GLOBS_MAX);
                globs->patterns = cas_xrealloc(globs->patterns,
                                               (globs->count + 1) * sizeof(*globs->patterns));
                globs->patterns[globs->count++] = cas_steal(&pattern);
                at += len;
        }
        return 0;
}

static void globs_cut(struct reg_globs *globs, size_t count)
{
        while (globs->count > count)
                free(globs->patterns[--globs->count]);
}

int reg_globs_add(struct reg_globs *globs, const char *text, struct cas_err *err)
{
        size_t before = globs->count;
        int rc = globs_take(globs, text, err);
        if (rc == 0 && globs->count == before)
                rc = cas_fail(err, CAS_E_INVALID, "a pattern of names is missing");
        if (rc < 0)
                globs_cut(globs, before);
        return rc;
}

bool reg_globs_match(const struct reg_globs *globs, const char *text)
{
        for (size_t i = 0; i < globs->count; i++) {
                if (reg_glob_match(globs->patterns[i], text))
                        return true;
        }
        return false;
}

void reg_globs_release(struct reg_globs *globs)
{
        globs_cut(globs, 0);
        free(globs->patterns);
        *globs = (struct reg_globs){0};
}
