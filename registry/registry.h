/* SPDX-License-Identifier: Apache-2.0 */
/* The OCI registry over a store: distribution-spec 1.1 routes on the HTTP
 * server of registry/http.h. */
#ifndef REG_REGISTRY_H
#define REG_REGISTRY_H

#include "cas/store.h"

struct reg_config {
        const char *listen; /* "ADDR:PORT", "[v6]:PORT"; port 0: any, see reg_port */
        unsigned threads;   /* 0: one per CPU */
};
struct reg_registry;
/* Serves until stop. The store outlives it. */
int reg_start(struct cas_store *s, const struct reg_config *config, struct reg_registry **out,
              struct cas_err *err) CAS_MUST_CHECK;
unsigned reg_port(const struct reg_registry *r);
/* Ends: requests under way are finished, at most for wait_ms. */
void reg_stop(struct reg_registry *r, unsigned wait_ms);

#endif
