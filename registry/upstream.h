/* SPDX-License-Identifier: Apache-2.0 */
/* Pull-through: repositories whose content comes from registries elsewhere
 * (spec/registry-upstream.md). What was pulled once is kept, tags are asked for
 * again after a while, and what is here is served while an upstream is away. */
#ifndef REG_UPSTREAM_H
#define REG_UPSTREAM_H

#include "registry/registry_int.h"

struct reg_metrics;
struct reg_upstreams;
struct reg_upstreams_config; /* registry/upstream_config.h */
/* config NULL: none. All is borrowed until free. */
int reg_upstreams_new(const struct reg_upstreams_config *config, struct cas_store *s,
                      struct reg_metrics *metrics, struct reg_upstreams **out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* What waits is answered, and nothing more is asked for; to be called before the server stops. */
void reg_upstreams_stop(struct reg_upstreams *u);
/* Waits for what is under way, which is broken off. */
void reg_upstreams_free(struct reg_upstreams *u);

/* Which upstream a request is for, by the repository's name or ?ns=: the route is then that of the
 * local repository. NULL: none. *ns_used: the answer says OCI-Namespace. */
struct reg_upstream;
struct reg_upstream *reg_upstream_of(struct reg_upstreams *u, const char *ns,
                                     struct reg_route *route, bool *ns_used);

/* It is the store that nodes share: to be pushed to, besides. */
bool reg_upstream_is_shared(const struct reg_upstream *up);
/* Before a request that changes something: this node learns what its handler looks for. Blocks; not
 * in begin. False: answered with why not. Where nothing is shared: true. */
bool reg_shared_prepare(const struct reg_call *call);

/* From begin, for GET and HEAD of manifests, blobs, tags and referrers of an upstream's repository:
 * answers from here what is here and fresh, else asks the upstream first, once for however many
 * clients wait. `local` is the handler that serves what is here. */
void reg_upstream_serve(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                        bool ns_used);

#endif
