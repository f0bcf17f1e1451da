/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <grp.h>
#include <ini.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

struct rule {
        enum { RULE_EVERYONE, RULE_USER, RULE_GROUP } whose;
        uint32_t id;
        char *glob; /* owned */
};

struct policy {
        struct rule *rules; /* owned */
        size_t count;
};

struct parse {
        struct policy *policy;
        struct cas_err *err;
        bool failed;
};

static bool number(const char *text, uint32_t *out)
{
        char *end;
        errno = 0;
        unsigned long v = strtoul(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno || v >= UINT32_MAX)
                return false;
        *out = (uint32_t)v;
        return true;
}

/* Section names: whom a rule is for. */
static int parse_whose(const char *section, struct rule *out, struct cas_err *err)
{
        bool is_group = strncmp(section, "group ", 6) == 0;
        if (!is_group && strncmp(section, "user ", 5) != 0)
                return cas_fail(err, CAS_E_INVALID, "[%s]: neither [user …] nor [group …]",
                                section);
        const char *name = section + (is_group ? 6 : 5);
        if (strcmp(name, "*") == 0) {
                out->whose = RULE_EVERYONE;
                return 0;
        }
        out->whose = is_group ? RULE_GROUP : RULE_USER;
        if (number(name, &out->id))
                return 0;
        const struct passwd *user = is_group ? NULL : getpwnam(name);
        const struct group *group = is_group ? getgrnam(name) : NULL;
        if (!user && !group)
                return cas_fail(err, CAS_E_INVALID, "[%s]: there is no such %s", section,
                                is_group ? "group" : "user");
        out->id = is_group ? group->gr_gid : user->pw_uid;
        return 0;
}

static int add_globs(struct policy *p, const struct rule *whose, const char *value)
{
        cas_cleanup_free char *copy = cas_xstrdup(value);
        char *rest = copy;
        int count = 0;
        for (char *glob; (glob = strsep(&rest, " \t"));) {
                if (!glob[0])
                        continue;
                p->rules = cas_xrealloc(p->rules, (p->count + 1) * sizeof(p->rules[0]));
                p->rules[p->count] = *whose;
                p->rules[p->count++].glob = cas_xstrdup(glob);
                count++;
        }
        return count;
}

/* Returns 0 for a line that is wrong, as inih wants it. */
static int line_seen(void *user, const char *section, const char *key, const char *value)
{
        struct parse *p = user;
        struct rule whose = {0};
        struct cas_err err = CAS_ERR_INIT;
        if (parse_whose(section, &whose, &err) == 0) {
                if (strcmp(key, "images") != 0)
                        (void)cas_fail(&err, CAS_E_INVALID, "[%s] %s: no such setting", section,
                                       key);
                else if (add_globs(p->policy, &whose, value) == 0)
                        (void)cas_fail(&err, CAS_E_INVALID, "[%s] images: none are named", section);
                else
                        return 1;
        }
        if (!p->failed)
                *p->err = err;
        p->failed = true;
        return 0;
}

int policy_read(const char *path, struct policy **out, struct cas_err *err)
{
        struct stat st;
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "policy %s", path);
        if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 0022))
                return cas_fail(err, CAS_E_DENIED,
                                "policy %s: others than root can write it (chown root, chmod go-w)",
                                path);
        FILE *file = fdopen(cas_steal_fd(&fd), "re");
        if (!file)
                return cas_fail_sys(err, errno, "policy %s", path);
        struct policy *policy = cas_xcalloc(1, sizeof(*policy));
        struct parse p = {.policy = policy, .err = err};
        int line = ini_parse_file(file, line_seen, &p);
        (void)fclose(file);
        if (line == 0) {
                *out = policy;
                return 0;
        }
        policy_free(policy);
        if (!p.failed)
                return cas_fail(err, CAS_E_INVALID, "policy %s: line %d: not understood", path,
                                line);
        return cas_err_wrap(err, "policy %s: line %d", path, line);
}

void policy_free(struct policy *p)
{
        if (!p)
                return;
        for (size_t i = 0; i < p->count; i++)
                free(p->rules[i].glob);
        free(p->rules);
        free(p);
}

static bool rule_is_for(const struct rule *r, uint32_t uid, const uint32_t *gids, size_t gid_count)
{
        if (r->whose != RULE_GROUP)
                return r->whose == RULE_EVERYONE || r->id == uid;
        for (size_t i = 0; i < gid_count; i++) {
                if (gids[i] == r->id)
                        return true;
        }
        return false;
}

bool policy_allows(const struct policy *p, uint32_t uid, const uint32_t *gids, size_t gid_count,
                   const char *image)
{
        for (size_t i = 0; i < p->count; i++) {
                const struct rule *r = &p->rules[i];
                if (rule_is_for(r, uid, gids, gid_count) && fnmatch(r->glob, image, 0) == 0)
                        return true;
        }
        return false;
}
