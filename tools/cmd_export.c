/* SPDX-License-Identifier: Apache-2.0 */
/* lamina export: images into layouts, archives and disks. */
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/transfer_arg.h"

struct export_args {
        const char *platform;
        const char *format;
        uint64_t size_bytes;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct export_args, platform), "OS/ARCH[/VARIANT]",
         "only this platform of an index; default: all that is here; of a disk: this host's"},
        {"format", 0, CLI_STRING, offsetof(struct export_args, format), "erofs|ext4",
         "FILE becomes a disk with the image's files"},
        {"size", 0, CLI_NUMBER, offsetof(struct export_args, size_bytes), "BYTES",
         "size of an ext4 disk; default: what the files need, a quarter more, and 64 MiB"},
        {0},
};

static int export_disk(const struct cli *cli, const struct export_args *a)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *file = NULL;
        op_cleanup_json json_t *call = json_object();
        if (path_real(cli->operands[1], &file, &err) < 0 ||
            access_arg(call, "name", cli->operands[0], &err) < 0 ||
            access_arg(call, "file", file, &err) < 0 ||
            access_arg(call, "format", a->format, &err) < 0 ||
            access_arg(call, "platform", a->platform, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (a->size_bytes > 0)
                json_object_set_new(call, "size", json_integer((json_int_t)a->size_bytes));
        return access_command(cli, "export-disk", cas_steal(&call), NULL);
}

static int run(const struct cli *cli, void *args)
{
        const struct export_args *a = args;
        if (a->size_bytes > INT64_MAX || (a->size_bytes > 0 && !a->format))
                return cli_usage_error(cli, "--size is the size of an ext4 disk");
        if (a->format)
                return export_disk(cli, a);
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *to = NULL;
        op_cleanup_json json_t *call = json_object();
        if (transfer_arg_absolute(cli->operands[1], &to, &err) < 0 ||
            access_arg(call, "name", cli->operands[0], &err) < 0 ||
            access_arg(call, "to", to, &err) < 0 ||
            access_arg(call, "platform", a->platform, &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "export", cas_steal(&call), NULL);
}

const struct cli_command cmd_export = {
        .name = "export",
        .synopsis =
                "NAME:TAG oci:DIR[:TAG]|oci-archive:FILE[:TAG]|docker-archive:FILE[:NAME:TAG]|FILE",
        .summary = "write an image into a layout, an archive or a disk",
        .description =
                "Writes an image with exactly the bytes that came in. A layout that is there "
                "is added to; an archive or a disk is written as a whole or not at all.\n"
                "\n"
                "With --format, FILE becomes a disk that a virtual machine takes as its root: a "
                "file system without a partition table. erofs is read-only and compact: equal "
                "files and the holes of sparse ones take their space once or not at all; Linux "
                "5.4 and later mount it, 5.15 and later when files have holes. The same image "
                "gives the same bytes. ext4 is made by mke2fs(8), can be written to, and needs "
                "root and space for the files beside FILE while it is made; times are kept to "
                "the second.",
        .examples = "lamina export web:1.0 oci:/srv/layout:web\n"
                    "lamina export web:1.0 oci-archive:web.tar\n"
                    "lamina export --format erofs web:1.0 root.erofs",
        .options = options,
        .args_bytes = sizeof(struct export_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
