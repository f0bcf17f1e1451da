/* SPDX-License-Identifier: Apache-2.0 */
/* The access log: a line for each request that is over (spec/registry-operation.md).
 * Lines are made where the request ends and put into memory; a thread of the
 * log's own writes them. When it cannot keep up, lines are dropped and counted,
 * and nobody waits. Thread-safe. */
#ifndef REG_ACCESSLOG_H
#define REG_ACCESSLOG_H

#include "registry/http.h"
#include "registry/metrics.h"
#include "registry/operation_config.h"

struct reg_accesslog;
/* Errors: as of opening the file. config and metrics are borrowed until free. */
int reg_accesslog_open(const struct reg_log_config *config, struct reg_metrics *metrics,
                       struct reg_accesslog **out, struct cas_err *err) CAS_MUST_CHECK;
/* Writes what is there, and ends. NULL is nothing. */
void reg_accesslog_close(struct reg_accesslog *l);
/* user: "" when it is not known. id: the request's, "" when it has none. Does not block. */
void reg_accesslog_add(struct reg_accesslog *l, const struct reg_http_done *done, const char *user,
                       const char *id);
/* Opens the file anew, after it was moved away. Errors: the former is written on then. */
int reg_accesslog_reopen(struct reg_accesslog *l, struct cas_err *err) CAS_MUST_CHECK;

/* One line with its newline, appended. unix_ns: the time of the request's end. */
void reg_accesslog_line(enum reg_access_log_format format, const struct reg_http_done *done,
                        const char *user, const char *id, uint64_t unix_ns, struct cas_buf *out);

#endif
