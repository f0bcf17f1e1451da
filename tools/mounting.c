/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/mounting.h"

#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/progressline.h"

static const char *member(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));
        return text ? text : "";
}

int mounting_open(const struct cli *cli, struct mounting *out, struct cas_err *err)
{
        *out = (struct mounting){0};
        if (path_store(cli->store_option, &out->store, err) < 0 ||
            path_program(&out->program, err) < 0 || access_owner(out->store, &out->info, err) < 0)
                return -(int)err->code;
        out->host = (struct ffs_host){.run_dir = member(out->info, "runDir"),
                                      .store_path = member(out->info, "store"),
                                      .resolve_path = member(out->info, "resolve"),
                                      .program = out->program};
        return 0;
}

void mounting_close(struct mounting *m)
{
        free(m->store);
        free(m->program);
        json_decref(m->info);
        *m = (struct mounting){0};
}

static int lease_call(const struct mounting *m, const char *op, const char *lease,
                      struct cas_err *err)
{
        op_cleanup_json json_t *args = json_pack("{s:s}", "lease", lease);
        op_cleanup_json json_t *result = NULL;
        return access_call(m->store, op, args, NULL, &result, err);
}

static int image_fill(const json_t *prepared, struct ffs_image *image, struct cas_err *err)
{
        *image = (struct ffs_image){0};
        snprintf(image->name, sizeof(image->name), "%s", member(prepared, "name"));
        if (cas_digest_parse(member(prepared, "manifest"), &image->manifest, err) < 0)
                return -(int)err->code;
        size_t i;
        json_t *tree;
        json_array_foreach(json_object_get(prepared, "trees"), i, tree)
        {
                const char *path = member(tree, "path");
                if (i >= CAS_COUNT(image->trees) || strlen(path) >= sizeof(image->tree_paths[0]))
                        return cas_fail(err, CAS_E_LIMIT, "too many trees, or a path too long: %s",
                                        path);
                if (cas_digest_parse(member(tree, "digest"), &image->trees[i], err) < 0)
                        return -(int)err->code;
                snprintf(image->tree_paths[i], sizeof(image->tree_paths[i]), "%s", path);
                image->tree_count = i + 1;
        }
        return 0;
}

int mounting_prepare_by(const struct mounting *m, const char *op, json_t *args,
                        struct ffs_image *image, json_t **prepared, struct cas_err *err)
{
        op_cleanup_json json_t *result = NULL;
        cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
        if (access_arg(args, "owner", m->host.run_dir, err) < 0 ||
            access_call(m->store, op, args, cli_progress_sink(progress), &result, err) < 0)
                return -(int)err->code;
        if (image_fill(result, image, err) < 0) {
                mounting_forget(m, result);
                return -(int)err->code;
        }
        *prepared = cas_steal(&result);
        return 0;
}

int mounting_prepare(const struct mounting *m, const char *name, const struct mounting_wish *wish,
                     struct ffs_image *image, json_t **prepared, struct cas_err *err)
{
        op_cleanup_json json_t *args = json_object();
        if (access_arg(args, "name", name, err) < 0 ||
            access_arg(args, "platform", wish->platform, err) < 0 ||
            access_arg(args, "pull", wish->pull, err) < 0)
                return -(int)err->code;
        if (wish->no_background)
                json_object_set_new(args, "background", json_false());
        return mounting_prepare_by(m, "mount-prepare", args, image, prepared, err);
}

int mounting_prepare_manifest(const struct mounting *m, const char *name,
                              const struct cas_digest *manifest, struct ffs_image *image,
                              json_t **prepared, struct cas_err *err)
{
        op_cleanup_json json_t *args = json_object();
        char text[CAS_DIGEST_TEXT_BYTES];
        if (access_arg(args, "name", name, err) < 0 ||
            access_arg(args, "manifest", cas_digest_text(manifest, text), err) < 0)
                return -(int)err->code;
        return mounting_prepare_by(m, "mount-prepare", args, image, prepared, err);
}

void mounting_forget(const struct mounting *m, const json_t *prepared)
{
        struct cas_err ignored = CAS_ERR_INIT;
        (void)!lease_call(m, "lease-drop", member(prepared, "lease"), &ignored); /* it expires */
}

int mounting_mount(const struct mounting *m, const struct ffs_image *image, const json_t *prepared,
                   const struct ffs_mount_options *options, struct ffs_mount_info *out,
                   struct cas_err *err)
{
        const char *lease = member(prepared, "lease");
        int rc = ffs_mount(&m->host, image, options, lease, out, err);
        if (rc < 0) {
                mounting_forget(m, prepared);
                return rc;
        }
        rc = lease_call(m, "lease-keep", lease, err);
        if (rc < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                struct ffs_mount_info gone;
                (void)!ffs_umount(&m->host, options->dir, &gone, &ignored);
        }
        return rc;
}

int mounting_umount(const struct mounting *m, const char *dir, struct ffs_mount_info *out,
                    struct cas_err *err)
{
        if (ffs_umount(&m->host, dir, out, err) < 0)
                return -(int)err->code;
        return out->lease[0] ? lease_call(m, "lease-drop", out->lease, err) : 0;
}

int mounting_driver(const char *text, enum ffs_driver *out, struct cas_err *err)
{
        if (!text || strcmp(text, "auto") == 0)
                *out = FFS_DRIVER_AUTO;
        else if (strcmp(text, "overlay") == 0)
                *out = FFS_DRIVER_OVERLAY;
        else if (strcmp(text, "fuse") == 0)
                *out = FFS_DRIVER_FUSE;
        else
                return cas_fail(err, CAS_E_INVALID, "--driver %s: auto, overlay or fuse", text);
        return 0;
}

json_t *mounting_info_json(const struct ffs_mount_info *info)
{
        char manifest[CAS_DIGEST_TEXT_BYTES];
        return json_pack("{s:o, s:o, s:s, s:s, s:s, s:b, s:o}", "dir", op_text_json(info->dir),
                         "name", op_text_json(info->name), "manifest",
                         cas_digest_text(&info->manifest, manifest), "driver", info->driver,
                         "pages", info->pages, "rw", info->rw, "upper", op_text_json(info->upper));
}
