/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that bring images in and out by files. */
#include "cas/transfer.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

static void import_seen(void *arg, const struct cas_ref *ref, const struct cas_manifest_info *m)
{
        json_array_append_new(arg, op_manifest_json(ref->repo, ref->tag, m));
}

int op_import(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err)
{
        const char *name;
        op_cleanup_address struct cas_transfer_address address = {0};
        if (op_arg_string_opt(args, "name", &name, err) < 0 ||
            op_arg_address(args, "from", &address, err) < 0)
                return -(int)err->code;
        op_cleanup_json json_t *images = json_array();
        if (cas_import(s, &address, name, ctx->progress, import_seen, images, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:O}", "images", images);
        return 0;
}

int op_export(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_platform platform;
        bool has_platform;
        op_cleanup_address struct cas_transfer_address address = {0};
        if (op_arg_ref(args, "name", &ref, err) < 0 ||
            op_arg_address(args, "to", &address, err) < 0 ||
            op_arg_platform(args, &platform, &has_platform, err) < 0)
                return -(int)err->code;
        if (cas_export(s, &ref, has_platform ? &platform : NULL, &address, ctx->progress, err) < 0)
                return -(int)err->code;
        *result = json_object();
        return 0;
}

int op_pack(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_platform platform;
        bool has_platform;
        const char *config;
        cas_cleanup_free char *dir = NULL;
        if (op_arg_path(args, "dir", &dir, err) < 0 || op_arg_ref(args, "name", &ref, err) < 0 ||
            op_arg_string_opt(args, "config", &config, err) < 0 ||
            op_arg_platform(args, &platform, &has_platform, err) < 0)
                return -(int)err->code;
        struct cas_pack_options options = {.config_json = config,
                                           .platform = has_platform ? &platform : NULL};
        struct cas_manifest_info info;
        if (cas_pack_dir(s, dir, &ref, &options, ctx->progress, &info, err) < 0)
                return -(int)err->code;
        *result = op_manifest_json(ref.repo, ref.tag, &info);
        return 0;
}

int op_unpack(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_platform platform;
        bool has_platform;
        cas_cleanup_free char *dir = NULL;
        if (op_arg_ref(args, "name", &ref, err) < 0 || op_arg_path(args, "dir", &dir, err) < 0 ||
            op_arg_platform(args, &platform, &has_platform, err) < 0)
                return -(int)err->code;
        cas_cleanup_image struct cas_image image = {0};
        if (cas_image_open(s, &ref, has_platform ? &platform : NULL, ctx->progress, &image, err) <
            0)
                return -(int)err->code;
        struct cas_unpack_counts counts = {0};
        if (cas_unpack(s, &image, dir, ctx->progress, &counts, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:I}", "lossy", (json_int_t)counts.lossy);
        return 0;
}
