/* SPDX-License-Identifier: Apache-2.0 */
/* How many bytes repositories may hold: each for itself, several together, or
 * all that are one user's.
 *
 * What is held is counted from the store when the registry starts, and now and
 * then again; between, what is pushed, mounted and deleted is added and taken
 * away, so that a count can be somewhat wrong for a while, and heals: a refusal
 * asks for a new count in the background, at most one in some seconds.
 *
 * Thread-safe. Counters are in shards; there is none that all pushes share,
 * unless a quota is for all of them. */
#ifndef REG_QUOTA_H
#define REG_QUOTA_H

#include "registry/access_config.h"

struct reg_events;
struct reg_quotas;
/* store is borrowed until free; quotas during the call. Counts in the background.
 * Errors: INVALID. */
int reg_quotas_new(const struct reg_access_quotas *quotas, struct cas_store *store,
                   struct reg_quotas **out, struct cas_err *err) CAS_MUST_CHECK;
void reg_quotas_free(struct reg_quotas *q);
/* Before the first event: counts what happens from then on. */
void reg_quotas_listen(struct reg_quotas *q, struct reg_events *events);
/* How much the repository may still add; UINT64_MAX: nothing limits it. Does not block. */
uint64_t reg_quotas_room(struct reg_quotas *q, const char *repo);
/* The upload sessions of the repository have `add` bytes more, or `sub` less. */
void reg_quotas_uploaded(struct reg_quotas *q, const char *repo, uint64_t add, uint64_t sub);

#endif
