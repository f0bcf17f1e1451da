/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of the sections [operation], [log] and [web] (lamina-serve(1)). */
#ifndef REG_OPERATION_CONFIG_H
#define REG_OPERATION_CONFIG_H

#include "registry/reg_config.h"

/* Who may read metrics, and the details of readiness, where the registry itself listens. */
enum reg_metrics_for { REG_METRICS_LOOPBACK, REG_METRICS_ALL, REG_METRICS_NOBODY };

struct reg_operation_config {
        char *listen; /* owned; NULL: no address of its own */
        enum reg_metrics_for metrics_for;
        uint64_t min_free_bytes;    /* below it the store is not ready */
        uint64_t stats_every_s;     /* the index is walked at most as often; 0: never */
        uint64_t retention_every_s; /* the rules are applied; 0: never by themselves */
};

enum reg_access_log_format { REG_ACCESS_LOG_OFF, REG_ACCESS_LOG_JSON, REG_ACCESS_LOG_COMBINED };
struct reg_log_config {
        enum reg_access_log_format access;
        char *file; /* owned; NULL: stderr */
};

struct reg_web_config {
        bool enabled;
};

/* What was set, else the defaults; borrowed from the configuration. */
const struct reg_operation_config *reg_operation_config(const struct reg_config *c);
const struct reg_log_config *reg_log_config(const struct reg_config *c);
const struct reg_web_config *reg_web_config(const struct reg_config *c);

/* Of reg_config.c. */
extern const struct reg_config_area reg_operation_area, reg_log_area, reg_web_area;

#endif
