/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file of `lamina serve`: INI, described in lamina-serve(1). */
#ifndef TOOLS_CONFIG_H
#define TOOLS_CONFIG_H

#include "cas/err.h"
#include "registry/reg_config.h"
#include "tools/decoder.h"

struct config {
        char *store_path; /* owned; NULL when it is not set, as the others */
        unsigned store_threads;
        bool flat_trees;
        enum decoder_confine confine;
        unsigned lock_wait_s;
        struct reg_config registry;
        bool condense; /* in the background */
        unsigned condense_share_percent;
        bool condense_cold;
        unsigned regenerations; /* at a time; 0: two per CPU */
        uint64_t blob_cache_bytes;
        uint64_t gc_every_s; /* 0: not in the background */
        uint64_t gc_grace_s;
        unsigned gc_share_percent, gc_live_percent;
        uint64_t scrub_every_s; /* 0: not in the background */
        uint64_t scrub_rate_bytes;
        unsigned scrub_share_percent;
        bool scrub_repair;
        unsigned learn_s;       /* first reads after a mount are noted; 0: the default */
        unsigned source_wait_s; /* of readers of lazy mounts; 0: the default */
};

void config_init(struct config *c); /* the defaults */
void config_release(struct config *c);
/* Errors: INVALID (names file and line; unknown sections and keys too), IO. */
int config_read(const char *path, struct config *c, struct cas_err *err) CAS_MUST_CHECK;

#endif
