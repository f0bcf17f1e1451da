/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of the configuration, prepared: who may do what to which
 * repository. Immutable: any number of threads. */
#ifndef REG_RIGHTS_H
#define REG_RIGHTS_H

#include "registry/access_config.h"

struct reg_rights;
/* rules NULL: whoever has a name may do everything, others nothing. Borrows nothing.
 * Errors: INVALID (a group that is not there, a rule without users, repositories or actions). */
int reg_rights_new(const struct reg_access_rules *rules, const struct reg_access_groups *groups,
                   struct reg_rights **out, struct cas_err *err) CAS_MUST_CHECK;
void reg_rights_free(struct reg_rights *r);
/* What the user ("": anonymous) may do to the repository, as bits. For each action the first
 * rule decides that matches both and names the action; none: it is not allowed. */
unsigned reg_rights_of(const struct reg_rights *r, const char *user, const char *repo);
/* Whether there is any repository that everybody may pull from. */
bool reg_rights_any_public(const struct reg_rights *r);

#endif
