/* SPDX-License-Identifier: Apache-2.0 */
/* Caches that are told when what they keep has changed: [purge NAME]
 * (spec/registry-cache.md). */
#ifndef REG_PURGE_CONFIG_H
#define REG_PURGE_CONFIG_H

#include "registry/reg_config.h"

#define REG_PURGE_TARGETS_MAX 8
#define REG_PURGE_HEADERS_MAX 8
/* In url, headers and body stand {key}, {repo}, {tag}, {digest} and {path} for what changed. */
struct reg_purge_target {
        char *name;
        char *method; /* NULL: PURGE */
        char *url;    /* NULL: not set */
        size_t header_count;
        char *headers[REG_PURGE_HEADERS_MAX]; /* "Name: value" */
        char *body;                           /* NULL: none */
        uint64_t wait_ms;                     /* that a push waits for its purges, at most */
};
struct reg_purge_config {
        size_t count;
        struct reg_purge_target targets[REG_PURGE_TARGETS_MAX];
};
extern const struct reg_config_area reg_purge_area;

#endif
