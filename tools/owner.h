/* SPDX-License-Identifier: Apache-2.0 */
/* The owner: the one process that has a store open, with the control API, the
 * resolver of the object file system and, where it is wanted, the registry. */
#ifndef TOOLS_OWNER_H
#define TOOLS_OWNER_H

#include "cas/caretaker.h"
#include "registry/reg_config.h"
#include "tools/decoder.h"

struct owner_config {
        const char *store_path; /* absolute */
        unsigned store_threads; /* 0: one per CPU */
        bool flat_trees;
        enum decoder_confine confine;
        unsigned regenerations;          /* 0: two per CPU */
        uint64_t blob_cache_bytes;       /* of verbatim copies of condensed blobs */
        unsigned condense_share_percent; /* 0: not in the background */
        bool condense_cold;
        struct cas_caretaker_config care; /* gc_every_s, scrub_every_s 0: not in the background */
        unsigned learn_ms;       /* first reads after a mount are noted for so long; 0: default */
        unsigned source_wait_ms; /* readers wait so long for a source of a lazy mount; 0: default */
        const struct reg_config *registry; /* NULL: none */
        unsigned lock_wait_ms;
        bool upgrade;    /* takes the place of an owner that runs, and gives mounts this program */
        unsigned idle_s; /* ends by itself after as long without requests and mounts; 0: never */
        int ready_fd; /* told when all answers, then closed, and output goes to RUN_DIR/owner.log;
                       * -1: none, output stays where it is */
};

/* Runs until SIGTERM or SIGINT, or until it is idle. Mounts stay as they are when it ends;
 * where there are none, the processes of the object file system end with it. */
int owner_run(const struct owner_config *config, struct cas_err *err) CAS_MUST_CHECK;

#endif
