/* SPDX-License-Identifier: Apache-2.0 */
/* How the owner of a store reaches registries: one HTTP client for what is
 * brought of layers that are elsewhere, and one for each operation that asks. Thread-safe. */
#ifndef TOOLS_REMOTES_H
#define TOOLS_REMOTES_H

#include "cas/store.h"
#include "registry/remote.h"

struct remotes;
/* Wires the store, before anybody else uses it. */
int remotes_start(struct cas_store *s, unsigned wait_ms, struct remotes **out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* A client of its own for an operation (remote_client); r NULL: nobody breaks it off. */
int remotes_client(struct remotes *r, bool insecure, unsigned jobs, struct reg_httpc **out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* http NULL is fine. */
void remotes_client_free(struct remotes *r, struct reg_httpc *http);
/* What is under way fails, also that of operations, and what is begun from now on. */
void remotes_break(struct remotes *r);
/* After the store was closed. NULL is fine. */
void remotes_free(struct remotes *r);

#endif
