/* SPDX-License-Identifier: Apache-2.0 */
/* lamina inspect: manifest and configuration of an image. */
#include "tools/access.h"
#include "tools/ops_json.h"

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        return cli_print_json(result);
}

static int run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *call = json_object();
        if (access_arg(call, "name", cli->operands[0], &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "inspect", cas_steal(&call), show);
}

const struct cli_command cmd_inspect = {
        .name = "inspect",
        .synopsis = "NAME:TAG",
        .summary = "show the manifest and the configuration of an image",
        .description = "Prints a JSON object: name, digest, size and media type, the manifest or "
                       "index, and of an image its configuration.",
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
