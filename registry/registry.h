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
/* Ends: requests under way are finished, at most for wait_ms. */
void reg_stop(struct reg_registry *r, unsigned wait_ms);

#endif
