/* SPDX-License-Identifier: Apache-2.0 */
/* lamina reset: a sandbox is as its image again. */
#include <stdio.h>

#include "tools/ops_json.h"
#include "tools/sandboxes.h"

struct reset_args {
        bool upper;
};

static const struct cli_option options[] = {
        {"upper", 0, CLI_FLAG, offsetof(struct reset_args, upper), NULL,
         "DIR is an upper directory, though it be a mount point too"},
        {0},
};

static enum ffs_page_mode page_mode(const char *text)
{
        if (strcmp(text, "passthrough") == 0)
                return FFS_PAGE_MODE_PASSTHROUGH;
        if (strcmp(text, "inode") == 0)
                return FFS_PAGE_MODE_INODE;
        return strcmp(text, "private") == 0 ? FFS_PAGE_MODE_PRIVATE : FFS_PAGE_MODE_AUTO;
}

/* How it is to be mounted again: as it was. */
static void same_options(const struct sandbox_arg *s, bool ours, struct ffs_mount_options *out)
{
        bool fuse = strcmp(s->mount->driver, "fuse") == 0;
        *out = (struct ffs_mount_options){.dir = s->mount->dir,
                                          .driver = fuse ? FFS_DRIVER_FUSE : FFS_DRIVER_OVERLAY,
                                          .pages = fuse ? page_mode(s->mount->pages)
                                                        : FFS_PAGE_MODE_AUTO,
                                          .rw = true,
                                          .upper = ours ? NULL : s->upper,
                                          .id_map = s->info->id_map[0] ? s->info->id_map : NULL,
                                          .size_limit_bytes = s->info->size_limit_bytes};
}

/* A directory of the store's went with its mount; the next mount makes another. */
static int reset_mounted(const struct mounting *m, const struct sandbox_arg *s, struct cas_err *err)
{
        op_cleanup_json json_t *prepared = NULL;
        struct ffs_mount_options how;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        if (sandbox_arg_prepare(m, s, image, &prepared, err) < 0)
                return -(int)err->code;
        if (mounting_umount(m, s->mount->dir, info, err) < 0) {
                mounting_forget(m, prepared);
                return -(int)err->code;
        }
        bool ours = access(s->upper, F_OK) != 0;
        if (!ours && ffs_upper_reset(s->upper, err) < 0) {
                mounting_forget(m, prepared);
                return cas_err_wrap(err, "%s is unmounted now", s->mount->dir);
        }
        same_options(s, ours, &how);
        if (mounting_mount(m, image, prepared, &how, info, err) < 0)
                return cas_err_wrap(err, "%s is unmounted now", s->mount->dir);
        return 0;
}

static int reset(const struct cli *cli, const struct reset_args *a, struct cas_err *err)
{
        mounting_cleanup struct mounting m = {0};
        sandbox_cleanup_arg struct sandbox_arg s = {0};
        if (mounting_open(cli, &m, err) < 0 ||
            sandbox_arg_find(&m, cli->operands[0], a->upper, &s, err) < 0)
                return -(int)err->code;
        if (!s.by_upper)
                return reset_mounted(&m, &s, err);
        if (s.mounted)
                return cas_fail(err, CAS_E_BUSY, "%s is mounted at %s: lamina reset %s", s.upper,
                                s.mount->dir, s.mount->dir);
        return ffs_upper_reset(s.upper, err);
}

static int run(const struct cli *cli, void *args)
{
        struct cas_err err = CAS_ERR_INIT;
        if (reset(cli, args, &err) < 0)
                return cli_report(cli->command->name, &err);
        return CLI_OK;
}

const struct cli_command cmd_reset = {
        .name = "reset",
        .synopsis = "DIR",
        .summary = "throw away what a sandbox changed",
        .description =
                "Makes the writable mount at DIR show its image again: it is unmounted, its "
                "changes are removed, and it is mounted again with the same options. Fails with "
                "nothing changed while anything is open in it or stands on it. DIR may also be "
                "the directory that keeps a mount's changes, which may not be mounted.",
        .examples = "lamina reset /mnt\n"
                    "lamina reset /srv/changes",
        .options = options,
        .args_bytes = sizeof(struct reset_args),
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
