/* SPDX-License-Identifier: Apache-2.0 */
/* What people need to run a registry (spec/registry-operation.md): metrics,
 * health, the access log. One thread of its own keeps what costs time to
 * find out. Thread-safe. */
#ifndef REG_OPERATION_H
#define REG_OPERATION_H

#include "registry/metrics.h"
#include "registry/tagclock.h"
#include "registry/reg_config.h"
#include "registry/events.h"
#include "cas/store.h"

struct reg_access;
struct reg_operation;
struct reg_websharing;
/* Before the first request; listens to events. All of it is borrowed until the end. */
int reg_operation_start(struct cas_store *store, const struct reg_config *config,
                        struct reg_access *access, struct reg_events *events,
                        struct reg_operation **out, struct cas_err *err) CAS_MUST_CHECK;
/* From here on the registry is not ready. */
void reg_operation_stopping(struct reg_operation *op);
/* After the last request. NULL is nothing. */
void reg_operation_stop(struct reg_operation *op);
/* Opens the access log anew. */
int reg_operation_reload(struct reg_operation *op, struct cas_err *err) CAS_MUST_CHECK;

/* What the store held when it was looked at last. False: it was not yet. */
bool reg_operation_stats(struct reg_operation *op, struct cas_store_stats *out);
/* For the web page; NULL when that is off. */
struct reg_websharing *reg_operation_sharing(struct reg_operation *op);
struct reg_tagclock *reg_operation_tagclock(struct reg_operation *op);
struct reg_metrics *reg_operation_metrics(struct reg_operation *op);
/* A name that no other request or event has, in hex. */
#define REG_OPERATION_ID_BYTES 33
void reg_operation_id(struct reg_operation *op, char out[REG_OPERATION_ID_BYTES]);
/* /metrics, /healthz and /readyz: true when the request was one of those, and was answered or
 * will be. From begin, on the registry's own address. */
bool reg_operation_serve(struct reg_operation *op, struct reg_http_req *req);
/* A request that is over. user, id: "" when they are not known; begun: reg_metrics_begun was called
 * for it. */
void reg_operation_done(struct reg_operation *op, const struct reg_http_done *done,
                        const char *user, const char *id, bool begun);

#endif
