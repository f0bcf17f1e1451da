/* SPDX-License-Identifier: Apache-2.0 */
/* lamina unpack: the merged tree of an image into a directory. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct unpack_args {
        const char *platform;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct unpack_args, platform), "OS/ARCH[/VARIANT]",
         "which image of an index; default: this host's"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        long long lossy = json_integer_value(json_object_get(result, "lossy"));
        if (lossy > 0)
                fprintf(stderr,
                        "lamina: %s: %lld entries without some attribute that only root can set\n",
                        cli->command->name, lossy);
        return CLI_OK;
}

static int run(const struct cli *cli, void *args)
{
        const struct unpack_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = NULL;
        op_cleanup_json json_t *call = json_object();
        if (path_real(cli->operands[1], &dir, &err) < 0 ||
            access_arg(call, "name", cli->operands[0], &err) < 0 ||
            access_arg(call, "dir", dir, &err) < 0 ||
            access_arg(call, "platform", a->platform, &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "unpack", cas_steal(&call), show);
}

const struct cli_command cmd_unpack = {
        .name = "unpack",
        .synopsis = "NAME:TAG DIR",
        .summary = "write the files of an image into a directory",
        .description =
                "Writes the merged tree of an image with owners, times, links, devices and "
                "extended attributes. DIR is made, or must be empty. What the caller may not "
                "set (owners and devices, when not root) is left out and counted.",
        .options = options,
        .args_bytes = sizeof(struct unpack_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
