/* SPDX-License-Identifier: Apache-2.0 */
/* How the owner of a store reaches registries: one HTTP client for what is
 * brought of layers that are elsewhere. */
#ifndef TOOLS_REMOTES_H
#define TOOLS_REMOTES_H

#include "cas/store.h"
#include "registry/remote.h"

struct remotes;
/* Wires the store, before anybody else uses it. */
int remotes_start(struct cas_store *s, unsigned wait_ms, struct remotes **out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* What is under way fails. */
void remotes_break(struct remotes *r);
/* After the store was closed. NULL is fine. */
void remotes_free(struct remotes *r);

#endif
