/* SPDX-License-Identifier: Apache-2.0 */
/* "[upstream NAME]" of the configuration: registries that are pulled through. */
#ifndef REG_UPSTREAM_CONFIG_H
#define REG_UPSTREAM_CONFIG_H

#include "registry/reg_config.h"

#define REG_UPSTREAMS_MAX 64
struct reg_upstream_config {
        char *name;   /* the registry's own: what clients send as ns */
        char *host;   /* HOST[:PORT] that is asked; NULL: the name */
        char *prefix; /* of its repositories here; NULL: the name; "" when all others are its */
        char *user, *password_file, *auth_file; /* NULL: anonymous, or the usual auth files */
        char *ca_file;
        bool plain_http, insecure, anonymous;
        uint64_t tag_s;      /* a tag is not asked for again within … */
        uint64_t stale_s;    /* … and is served as long when the upstream fails */
        uint64_t negative_s; /* what was not there is not asked for again within */
};
struct reg_upstreams_config {
        size_t count;
        struct reg_upstream_config list[REG_UPSTREAMS_MAX];
};
/* Its data is a struct reg_upstreams_config. */
extern const struct reg_config_area reg_upstream_area;

#endif
