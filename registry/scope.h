/* SPDX-License-Identifier: Apache-2.0 */
/* Scopes and grants: "repository:NAME:pull,push" as clients ask for them, and
 * the `access` claim of a token that says what was granted. Pure functions;
 * grants are immutable and refcounted. */
#ifndef REG_SCOPE_H
#define REG_SCOPE_H

#include "cas/json.h"
#include "registry/reg_access.h"

#define REG_GRANTS_MAX 256 /* of one token; and scopes of one request */

struct reg_scope {
        enum { REG_SCOPE_REPOSITORY, REG_SCOPE_CATALOG, REG_SCOPE_OTHER } type;
        char repo[256];
        unsigned actions; /* those that are known; "*" is all */
};
/* Reads one scope. What is of another type is OTHER. Errors: INVALID (not a scope, or the name is
 * none of a repository). */
int reg_scope_parse(const char *text, size_t len, struct reg_scope *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* "pull,push,delete", those that are set. */
void reg_actions_text(unsigned actions, struct cas_buf *out);

/* What a token is for. */
struct reg_grants *reg_grants_new(bool ours);
/* Before it is shared. False: there are REG_GRANTS_MAX already. */
bool reg_grants_add(struct reg_grants *g, const struct reg_scope *scope);
struct reg_grants *reg_grants_ref(struct reg_grants *g); /* NULL gives NULL */
void reg_grants_unref(struct reg_grants *g);             /* NULL is nothing */
/* Our own token: what it grants was cut by the rules, which still hold. */
bool reg_grants_ours(const struct reg_grants *g);
unsigned reg_grants_of(const struct reg_grants *g, const char *repo);
bool reg_grants_catalog(const struct reg_grants *g);

/* The claim [{"type","name","actions"}…]. Unknown types are passed over. Errors: INVALID, LIMIT. */
int reg_grants_from_json(const json_t *access, bool ours, struct reg_grants **out,
                         struct cas_err *err) CAS_MUST_CHECK;
json_t *reg_grants_to_json(const struct reg_grants *g); /* owned by the caller */

/* Copies, with a reference of its own. */
void reg_identity_copy(const struct reg_identity *from, struct reg_identity *to);

#endif
