/* SPDX-License-Identifier: Apache-2.0 */
/* lamina tag: another name for an image. */
#include "tools/access.h"
#include "tools/ops_json.h"

static int run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *call = json_object();
        if (access_arg(call, "from", cli->operands[0], &err) < 0 ||
            access_arg(call, "to", cli->operands[1], &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "tag", cas_steal(&call), NULL);
}

const struct cli_command cmd_tag = {
        .name = "tag",
        .synopsis = "NAME:TAG NEW-NAME:TAG",
        .summary = "give an image another name",
        .description = "Makes NEW-NAME:TAG name the same manifest. A tag that is there is moved. "
                       "Costs no space.",
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
