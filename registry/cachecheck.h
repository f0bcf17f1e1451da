/* SPDX-License-Identifier: Apache-2.0 */
/* Tests a cache or proxy in front of a registry from outside, with content of
 * its own, and says what is wrong and what to do (spec/registry-cache.md). */
#ifndef REG_CACHECHECK_H
#define REG_CACHECHECK_H

#include "registry/httpc.h"

struct reg_cachecheck_config {
        const char *url;             /* "https://registry.example[:PORT]" */
        const char *repo;            /* NULL: one of its own, "lamina-check/RANDOM" */
        const char *user, *password; /* NULL: nobody */
        uint64_t upload_bytes;       /* of the large upload; 0: 128 MiB */
        bool insecure;               /* certificates are not checked */
};

enum reg_finding_kind {
        REG_FINDING_GOOD,
        REG_FINDING_NOTE,  /* worth knowing; costs time or bandwidth */
        REG_FINDING_WRONG, /* breaks pulls or pushes, or shows what is private */
        REG_FINDING_SKIPPED,
};
/* Texts are borrowed for the call. */
struct reg_finding {
        const char *check; /* its stable name */
        enum reg_finding_kind kind;
        const char *what;
        const char *advice; /* what to do; "" when there is nothing */
};
const char *reg_finding_kind_text(enum reg_finding_kind kind);

/* Calls tell for each finding. What it pushed is deleted at the end. Blocks for seconds.
 * *out_wrong: how many are WRONG. Errors: IO and others when the registry cannot be used at all. */
int reg_cachecheck_run(const struct reg_cachecheck_config *config,
                       void (*tell)(void *arg, const struct reg_finding *finding), void *arg,
                       unsigned *out_wrong, struct cas_err *err) CAS_MUST_CHECK;

#endif
