/* SPDX-License-Identifier: Apache-2.0 */
/* Tells caches in front what they must not serve any more: a tag that moved or
 * went, content that was deleted. Each cache has a bounded queue and a thread; a
 * push waits for its purges a moment, as configured, and never for a cache that
 * fails. A purge that could not be brought is logged. */
#ifndef REG_PURGE_H
#define REG_PURGE_H

#include "registry/events.h"
#include "registry/httpc.h"
#include "registry/purge_config.h"

/* Brings one request to its cache; blocks. Errors: those of the way there. */
typedef int (*reg_purge_send_fn)(void *arg, const struct reg_httpc_request *request,
                                 unsigned *out_status, struct cas_err *err);

struct reg_purger;
/* send NULL: over HTTP. config is borrowed. Errors: INVALID (a cache without a URL). */
int reg_purger_new(const struct reg_purge_config *config, reg_purge_send_fn send, void *send_arg,
                   struct reg_purger **out, struct cas_err *err) CAS_MUST_CHECK;
/* What is queued still is lost, and logged. */
void reg_purger_free(struct reg_purger *p); /* NULL is nothing */
/* For reg_events_listen; purger is a struct reg_purger. */
void reg_purger_event(void *purger, const struct reg_event *event);

#endif
