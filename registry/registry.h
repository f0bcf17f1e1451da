/* SPDX-License-Identifier: Apache-2.0 */
/* The OCI registry over a store: distribution-spec 1.1 routes on the HTTP
 * server of registry/http.h. */
#ifndef REG_REGISTRY_H
#define REG_REGISTRY_H

#include "cas/store.h"
#include "registry/reg_config.h"

struct reg_events;
struct reg_registry;
struct reg_tagclock;
struct cas_publish;
/* Serves at config->listen until stop. The store and the configuration outlive it. */
int reg_start(struct cas_store *s, const struct reg_config *config, struct reg_registry **out,
              struct cas_err *err) CAS_MUST_CHECK;
/* Certificates, password files and keys are read again; what cannot be read stays as it was, and
 * the error says why. No connection is dropped. */
int reg_reload(struct reg_registry *r, struct cas_err *err) CAS_MUST_CHECK;
/* For commands that work in this process: who listens to what they do. */
struct reg_events *reg_listeners(struct reg_registry *r);
struct reg_tagclock *reg_clock(struct reg_registry *r);
unsigned reg_port(const struct reg_registry *r);
/* Adds a blob to a publication, from the upstream of its repository here. Blocks. Errors: NOTFOUND
 * (no upstream, or it has no such blob), CORRUPT or INVALID (other bytes), BUSY, DENIED, IO. */
int reg_blob_from_upstream(struct reg_registry *r, const char *repo,
                           const struct cas_digest *digest, struct cas_publish *p,
                           struct cas_err *err) CAS_MUST_CHECK;
/* Ends: requests under way are finished, at most for wait_ms. */
void reg_stop(struct reg_registry *r, unsigned wait_ms);

#endif
