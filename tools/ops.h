/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on a store by name, over JSON: the one way in which commands work,
 * whether the store is owned by another process (which then runs the operation,
 * spec/control.md) or by this one. Paths in arguments are absolute.
 *
 * Arguments and results of each operation are written down in spec/control.md. */
#ifndef TOOLS_OPS_H
#define TOOLS_OPS_H

#include <jansson.h>

#include "cas/names.h"

struct reg_registry;
struct remotes;
struct tier_mover;
struct op_context {
        const struct cas_progress *progress; /* may be NULL */
        struct reg_registry *registry;       /* that this process runs on the store; may be NULL */
        struct remotes *remotes;             /* of this process; may be NULL */
        struct tier_mover *mover;            /* the same */
        const _Atomic bool *ending; /* this process is about to end: long work stops where it can go
                                     * on later; may be NULL */
};

/* args: an object, borrowed. *result: a new reference. Thread-safe. */
typedef int (*op_fn)(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                     json_t **result, struct cas_err *err);
struct op {
        const char *name;
        op_fn run;
};
/* Tells the listeners of a registry that runs here that a tag names another manifest (before: alg
 * NONE when it is new), or is gone (info NULL). */
void op_tell_tag(const struct op_context *ctx, const char *repo, const char *tag,
                 const struct cas_digest *before, const struct cas_manifest_info *info);
/* NULL when there is none of this name. */
const struct op *op_find(const char *name);

/* Members of the arguments. Errors: INVALID (absent where it is required, or of another type). */
int op_arg_string(const json_t *args, const char *key, const char **out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* NULL when it is absent. */
int op_arg_string_opt(const json_t *args, const char *key, const char **out,
                      struct cas_err *err) CAS_MUST_CHECK;

/* ops_image.c */
int op_import(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err);
int op_export(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err);
int op_export_disk(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                   json_t **result, struct cas_err *err); /* ops_disk.c */
int op_pack(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err);
int op_unpack(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err);
/* ops_remote.c */
int op_pull(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err);
int op_push(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err);
/* ops_names.c */
int op_images(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err);
int op_tag(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
           struct cas_err *err);
int op_rm(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
          struct cas_err *err);
/* ops_mount.c */
int op_mount_prepare(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                     json_t **result, struct cas_err *err);
int op_lease_keep(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err);
int op_lease_drop(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err);
/* ops_commit.c */
int op_commit(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err);
/* ops_als.c */
int op_als_find(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err);
int op_als_prepare(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                   json_t **result, struct cas_err *err);
int op_als_use(struct cas_store *s, const json_t *args, const struct op_context *ctx,
               json_t **result, struct cas_err *err);
int op_als_reset(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err);
int op_blob_write(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err);
/* ops_maintain.c */
int op_gc(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
          struct cas_err *err);
int op_why(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
           struct cas_err *err);
int op_fsck(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err);
int op_scrub(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
             struct cas_err *err);
int op_checkpoint(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err);
int op_stats(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
             struct cas_err *err);
/* ops_cluster.c */
int op_cluster_status(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                      json_t **result, struct cas_err *err);
int op_cluster_gc(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err);
/* ops_retention.c */
int op_retention(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err);
/* ops_inspect.c */
int op_inspect(struct cas_store *s, const json_t *args, const struct op_context *ctx,
               json_t **result, struct cas_err *err);
/* ops_condense.c */
int op_condense(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err);
/* ops_tier.c */
int op_tier_list(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err);
int op_tier_add(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err);
int op_tier_set(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err);
int op_tier_remove(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                   json_t **result, struct cas_err *err);
int op_tier_move(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err);
int op_tier_evacuate(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                     json_t **result, struct cas_err *err);
int op_tier_pause(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err);
/* ops_tierexplain.c */
int op_tier_explain(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                    json_t **result, struct cas_err *err);

#endif
