/* SPDX-License-Identifier: Apache-2.0 */
/* lamina export: images into layouts and archives. */
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/transfer_arg.h"

struct export_args {
        const char *platform;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct export_args, platform), "OS/ARCH[/VARIANT]",
         "only this platform of an index; default: all that is here"},
        {0},
};

static int run(const struct cli *cli, void *args)
{
        const struct export_args *a = args;
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
        .synopsis = "NAME:TAG oci:DIR[:TAG]|oci-archive:FILE[:TAG]|docker-archive:FILE[:NAME:TAG]",
        .summary = "write an image into a layout or an archive",
        .description =
                "Writes an image with exactly the bytes that came in. A layout that is there "
                "is added to; an archive is written as a whole or not at all.",
        .examples = "lamina export web:1.0 oci:/srv/layout:web\n"
                    "lamina export web:1.0 oci-archive:web.tar",
        .options = options,
        .args_bytes = sizeof(struct export_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
