/* SPDX-License-Identifier: Apache-2.0 */
/* Retention: rules of the configuration, "[retention NAME]", that remove tags
 * and untagged manifests which nobody wants any more (spec/registry-operation.md).
 * What blobs are left over is for the garbage collection. Immutable tags stay. */
#ifndef REG_RETENTION_H
#define REG_RETENTION_H

#include <stdatomic.h>

#include "registry/immutable.h"
#include "registry/metrics.h"
#include "registry/tagclock.h"

#define REG_RETENTION_RULES_MAX 64

struct reg_retention_rule {
        char *name;                    /* owned */
        struct reg_globs repositories; /* none: the rule does nothing */
        struct reg_globs tags;         /* none: all */
        bool has_keep;
        uint64_t keep;      /* the newest stay */
        uint64_t max_age_s; /* 0: does not matter, as the next two */
        uint64_t not_pulled_s;
        uint64_t untagged_s;
};
struct reg_retention_config {
        size_t count;
        struct reg_retention_rule rules[REG_RETENTION_RULES_MAX];
};
extern const struct reg_config_area reg_retention_area;

/* What goes, and why. Borrowed for the call. */
struct reg_retention_item {
        const char *rule, *repo;
        const char *tag; /* "": an untagged manifest */
        struct cas_digest manifest;
        uint64_t pushed_unix_s,
                pulled_unix_s; /* of a manifest: when it was published last, and 0 */
        const char *reason;
};

struct reg_retention_run {
        struct cas_store *store;
        const struct reg_retention_config *config;
        const struct reg_immutable *immutable; /* may be NULL, as all that follows */
        struct reg_tagclock *clock;
        struct reg_events *events;
        struct reg_metrics *metrics;
        const atomic_bool *stop; /* ends the run early */
        uint64_t now_unix_s;     /* 0: the time it is */
        bool dry_run;
        void (*fn)(void *arg, const struct reg_retention_item *item); /* each that goes */
        void *arg;
};
struct reg_retention_result {
        uint64_t repositories; /* that a rule was for */
        uint64_t tags_seen, tags_removed, manifests_removed;
        uint64_t failed; /* removals that were refused or failed; logged */
};
/* Applies all rules once. Blocks. A tag that is changed meanwhile stays. Errors: of reading. */
int reg_retention_apply(const struct reg_retention_run *run, struct reg_retention_result *out,
                        struct cas_err *err) CAS_MUST_CHECK;

#endif
