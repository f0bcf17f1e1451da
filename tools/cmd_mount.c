/* SPDX-License-Identifier: Apache-2.0 */
/* lamina mount, umount, mounts. */
#include <stdio.h>
#include <sys/stat.h>

#include "tools/access.h"
#include "tools/bundle.h"
#include "tools/control.h"
#include "tools/layerstore.h"
#include "tools/mount_choice.h"
#include "tools/mounting.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

/* ---- mount ---- */

struct mount_args {
        struct mount_choice mount;
        const char *upper;
        bool rw;
};

static const struct cli_option mount_options[] = {
        MOUNT_CHOICE_OPTIONS(offsetof(struct mount_args, mount)),
        {"rw", 0, CLI_FLAG, offsetof(struct mount_args, rw), NULL,
         "writable; changes are kept in the store until it is unmounted"},
        {"upper", 0, CLI_STRING, offsetof(struct mount_args, upper), "DIR",
         "writable; changes are kept in DIR, and found again by the next mount of the same image"},
        {0},
};

static int mount_run(const struct cli *cli, void *args)
{
        const struct mount_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = NULL;
        cas_cleanup_free char *upper = NULL;
        struct ffs_mount_options options = {.rw = a->rw || a->upper};
        cas_cleanup_free char *id_map = NULL;
        options.upper = a->upper;
        if (mount_choice_apply(&a->mount, &options, &id_map, &err) < 0)
                return cli_usage_error(cli, "%s", err.msg);
        if (path_real(cli->operands[1], &dir, &err) < 0 ||
            (a->upper && path_real(a->upper, &upper, &err) < 0))
                return cli_report(cli->command->name, &err);
        options.dir = dir;
        options.upper = upper;
        mounting_cleanup struct mounting m = {0};
        op_cleanup_json json_t *prepared = NULL;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        if (mounting_open(cli, &m, &err) < 0 ||
            mounting_prepare(&m, cli->operands[0], &a->mount.wish, image, &prepared, &err) < 0 ||
            mounting_mount(&m, image, prepared, &options, info, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (!cli->json) {
                puts(info->dir);
                return cli_finish();
        }
        op_cleanup_json json_t *result = mounting_info_json(info);
        return cli_print_json(result);
}

const struct cli_command cmd_mount = {
        .name = "mount",
        .synopsis = "[HOST/]NAME:TAG DIR",
        .summary = "mount an image on a directory",
        .description =
                "Mounts the root file system of an image on DIR, which must be there, and prints "
                "the path. Nothing is copied: content comes out of the store when it is read, and "
                "equal files are one set of pages in memory, whatever image they are in.\n\n"
                "Read-only unless --rw or --upper is given. An upper directory belongs to the "
                "exact "
                "image that it was made over, and is refused over any other.\n\n"
                "The mount goes on working while `lamina serve` is restarted.\n\n"
                "HOST[:PORT]/NAME:TAG is an image at a registry. From another lamina it is usable "
                "once "
                "manifest and names have come: files come when they are read, and all the others "
                "in the background, first what earlier starts have read; `lamina images` says how "
                "far that is. Until then the image is as the other lamina tells it, and what has "
                "not come cannot be read while that is away: reads fail after 20 seconds ([mount] "
                "source_wait_s of lamina-serve(1)). From other registries the image is pulled "
                "first. Here it is called HOST/NAME:TAG, with _ for a colon in HOST. Credentials "
                "are those of the user who runs the owner of the store.",
        .examples = "lamina mount web:1.0 /mnt\n"
                    "lamina mount images.example.org/web:1.0 /mnt\n"
                    "lamina mount --upper /srv/changes web:1.0 /mnt",
        .options = mount_options,
        .args_bytes = sizeof(struct mount_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = mount_run,
};

/* ---- umount ---- */

#define UMOUNT_DIRS_MAX 1000

struct umount_args {
        bool all;
};

static const struct cli_option umount_options[] = {
        {"all", 'a', CLI_FLAG, offsetof(struct umount_args, all), NULL,
         "everything of this store; ends the processes of the object file system, and an owner "
         "that "
         "was started in the background"},
        {0},
};

struct mount_list {
        struct ffs_mount_info *infos; /* owned */
        size_t count;
};

static bool mount_seen(void *arg, const struct ffs_mount_info *info)
{
        struct mount_list *list = arg;
        list->infos = cas_xrealloc(list->infos, (list->count + 1) * sizeof(*info));
        list->infos[list->count++] = *info;
        return true;
}

/* A bundle is its root file system, and what lies beside that. */
static int umount_one(const struct mounting *m, const char *dir, struct cas_err *err)
{
        struct ffs_mount_info gone;
        cas_cleanup_free char *inner = cas_xasprintf("%s/rootfs", dir);
        struct cas_err why = CAS_ERR_INIT;
        int rc = layerstore_end(m, dir, err);
        if (rc == 0)
                return 0;
        if (rc != -CAS_E_NOTFOUND)
                return rc;
        rc = mounting_umount(m, dir, &gone, &why);
        if (rc == -CAS_E_NOTFOUND && bundle_is_ours(dir))
                rc = mounting_umount(m, inner, &gone, err);
        else if (rc < 0)
                *err = why;
        if (rc < 0)
                return rc;
        const char *slash = strrchr(gone.dir, '/');
        cas_cleanup_free char *parent = cas_xstrndup(gone.dir, (size_t)(slash - gone.dir));
        if (strcmp(slash, "/rootfs") == 0 && bundle_is_ours(parent))
                bundle_clear(parent);
        return 0;
}

static int umount_all(const struct mounting *m, struct cas_err *err)
{
        struct mount_list list = {0};
        if (layerstore_end_any(m, err) < 0)
                return -(int)err->code;
        int rc = ffs_mount_each(&m->host, mount_seen, &list, err);
        for (size_t i = 0; rc == 0 && i < list.count; i++) {
                rc = umount_one(m, list.infos[i].dir, err);
        }
        free(list.infos);
        if (rc < 0 || ffs_host_shutdown(&m->host, err) < 0)
                return -(int)err->code;
        if (!json_is_true(json_object_get(m->info, "background")))
                return 0;
        return control_end(m->store, err);
}

static int umount_run(const struct cli *cli, void *args)
{
        const struct umount_args *a = args;
        if (a->all == (cli->operand_count > 0))
                return cli_usage_error(cli, "directories, or --all");
        struct cas_err err = CAS_ERR_INIT;
        mounting_cleanup struct mounting m = {0};
        if (mounting_open(cli, &m, &err) < 0 || (a->all && umount_all(&m, &err) < 0))
                return cli_report(cli->command->name, &err);
        int status = CLI_OK;
        for (size_t i = 0; i < cli->operand_count; i++) {
                struct cas_err one = CAS_ERR_INIT;
                cas_cleanup_free char *dir = NULL;
                if (path_real(cli->operands[i], &dir, &one) < 0 || umount_one(&m, dir, &one) < 0)
                        status = cli_report(cli->command->name, &one);
        }
        return status;
}

const struct cli_command cmd_umount = {
        .name = "umount",
        .synopsis = "DIR …|--all",
        .summary = "unmount images",
        .description = "Unmounts what `lamina mount` mounted on each DIR, or takes away what "
                       "`lamina bundle` "
                       "made in it, or ends the `lamina als` that serves it.",
        .options = umount_options,
        .args_bytes = sizeof(struct umount_args),
        .operands_max = UMOUNT_DIRS_MAX,
        .run = umount_run,
};

/* ---- mounts ---- */

static bool mount_list_json(void *arg, const struct ffs_mount_info *info)
{
        json_array_append_new(arg, mounting_info_json(info));
        return true;
}

static int mounts_run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        mounting_cleanup struct mounting m = {0};
        op_cleanup_json json_t *list = json_array();
        if (mounting_open(cli, &m, &err) < 0 ||
            ffs_mount_each(&m.host, mount_list_json, list, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (cli->json) {
                op_cleanup_json json_t *result = json_pack("{s:O}", "mounts", list);
                return cli_print_json(result);
        }
        size_t i;
        json_t *mount;
        json_array_foreach(list, i, mount)
        {
                const char *pages = json_string_value(json_object_get(mount, "pages"));
                printf("%s\t%s\t%s\t%s\t%s\n", json_string_value(json_object_get(mount, "dir")),
                       json_string_value(json_object_get(mount, "name")),
                       json_string_value(json_object_get(mount, "driver")),
                       json_is_true(json_object_get(mount, "rw")) ? "rw" : "ro",
                       pages[0] ? pages : "-");
        }
        return cli_finish();
}

const struct cli_command cmd_mounts = {
        .name = "mounts",
        .synopsis = "",
        .summary = "list mounted images",
        .description =
                "Lists what is mounted: directory, image, driver, ro or rw, and where the fuse "
                "driver keeps pages of files, with tabs between.",
        .run = mounts_run,
};
