/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/ops.h"

#include "registry/events.h"
#include "registry/registry.h"

static const struct op ops[] = {
        {"import", op_import},
        {"export", op_export},
        {"export-disk", op_export_disk},
        {"pack", op_pack},
        {"unpack", op_unpack},
        {"pull", op_pull},
        {"push", op_push},
        {"images", op_images},
        {"inspect", op_inspect},
        {"tag", op_tag},
        {"rm", op_rm},
        {"mount-prepare", op_mount_prepare},
        {"lease-keep", op_lease_keep},
        {"lease-drop", op_lease_drop},
        {"commit", op_commit},
        {"als-find", op_als_find},
        {"als-prepare", op_als_prepare},
        {"als-use", op_als_use},
        {"als-reset", op_als_reset},
        {"blob-write", op_blob_write},
        {"gc", op_gc},
        {"why", op_why},
        {"fsck", op_fsck},
        {"scrub", op_scrub},
        {"checkpoint", op_checkpoint},
        {"condense", op_condense},
        {"stats", op_stats},
        {"retention", op_retention},
        {"cluster-status", op_cluster_status},
        {"cluster-gc", op_cluster_gc},
        {"tier-list", op_tier_list},
        {"tier-add", op_tier_add},
        {"tier-set", op_tier_set},
        {"tier-remove", op_tier_remove},
        {"tier-move", op_tier_move},
        {"tier-evacuate", op_tier_evacuate},
        {"tier-explain", op_tier_explain},
        {"tier-pause", op_tier_pause},
};

const struct op *op_find(const char *name)
{
        for (size_t i = 0; i < CAS_COUNT(ops); i++) {
                if (strcmp(ops[i].name, name) == 0)
                        return &ops[i];
        }
        return NULL;
}

void op_tell_tag(const struct op_context *ctx, const char *repo, const char *tag,
                 const struct cas_digest *before, const struct cas_manifest_info *info)
{
        struct reg_event event = {
                .kind = info ? REG_EVENT_PUSH_MANIFEST : REG_EVENT_DELETE_TAG,
                .repo = repo,
                .tag = tag,
                .from_repo = "",
                .digest = info ? info->digest : *before,
                .media_type = info ? info->media_type : "",
                .bytes = info ? info->size_bytes : 0,
                .user = "",
                .client = "",
                .request_id = "",
        };
        if (info)
                event.before = *before;
        if (ctx->registry)
                reg_events_tell(reg_listeners(ctx->registry), &event);
}

int op_arg_string_opt(const json_t *args, const char *key, const char **out, struct cas_err *err)
{
        const json_t *v = json_object_get(args, key);
        if (!v || json_is_null(v)) {
                *out = NULL;
                return 0;
        }
        if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
                return cas_fail(err, CAS_E_INVALID, "argument %s: not a string", key);
        *out = json_string_value(v);
        return 0;
}

int op_arg_string(const json_t *args, const char *key, const char **out, struct cas_err *err)
{
        if (op_arg_string_opt(args, key, out, err) < 0)
                return -(int)err->code;
        if (!*out)
                return cas_fail(err, CAS_E_INVALID, "argument %s is missing", key);
        return 0;
}
