/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns for names of repositories (registry/glob.h) as access rules and
 * quotas have them: prepared, since every request looks at some, and with one
 * part that may be "${user}". Immutable once made: any number of threads. */
#ifndef REG_REPO_PATTERN_H
#define REG_REPO_PATTERN_H

#include "cas/err.h"

enum reg_repo_pattern_kind {
        REG_PATTERN_ALL,     /* "**" */
        REG_PATTERN_NAME,    /* no star */
        REG_PATTERN_BELOW,   /* a name, and all that is below it */
        REG_PATTERN_GLOB,    /* anything else */
        REG_PATTERN_OF_USER, /* one part of the name is "${user}" */
};

struct reg_repo_pattern {
        enum reg_repo_pattern_kind kind;
        char *text;  /* owned */
        size_t len;  /* of what is compared: BELOW is without its stars */
        size_t part; /* OF_USER: which part of the name is the user's, from 0 */
};

/* Errors: INVALID. */
int reg_repo_pattern_init(struct reg_repo_pattern *p, const char *text,
                          struct cas_err *err) CAS_MUST_CHECK;
void reg_repo_pattern_release(struct reg_repo_pattern *p);
/* user: "" for nobody, for whom "${user}" matches nothing. */
bool reg_repo_pattern_match(const struct reg_repo_pattern *p, const char *repo, const char *user);
/* Whether it matches for anybody; user gets who that is, "" when the pattern names none. Users
 * whose name cannot be a part of a repository's have none. */
bool reg_repo_pattern_owner(const struct reg_repo_pattern *p, const char *repo, char *user,
                            size_t size);

#endif
