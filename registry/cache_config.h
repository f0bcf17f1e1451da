/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration says to caches in front: [cache] (spec/registry-cache.md). */
#ifndef REG_CACHE_CONFIG_H
#define REG_CACHE_CONFIG_H

#include "registry/glob.h"
#include "registry/networks.h"
#include "registry/reg_config.h"

struct reg_cache_config {
        /* How long shared caches may keep what changes, and go on with it while they ask anew or
         * cannot. */
        uint64_t tag_s, list_s, revalidate_s, error_s;
        bool keys; /* Surrogate-Key and Cache-Tag */
        /* Blobs of which repositories are served from addresses that all share. */
        struct reg_globs redirect;
        bool redirect_private;                 /* of those that not everybody may read, too */
        uint64_t redirect_s;                   /* how long such an address is good for, at least */
        struct reg_networks redirect_networks; /* of clients; none: all */
        struct reg_networks redirect_off_networks;
        char *canonical_host; /* "https://cdn.example"; NULL: the registry itself */
        char *key_file;       /* absolute; NULL: in the store */
};
extern const struct reg_config_area reg_cache_area;
/* What holds where nothing is configured. */
extern const struct reg_cache_config reg_cache_defaults;

#endif
