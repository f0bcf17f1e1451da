/* SPDX-License-Identifier: Apache-2.0 */
/* lamina rm: removes names. */
#include "tools/access.h"
#include "tools/ops_json.h"

#define RM_NAMES_MAX 1000

static int run(const struct cli *cli, void *args)
{
        (void)args;
        int status = CLI_OK;
        for (size_t i = 0; i < cli->operand_count; i++) {
                struct cas_err err = CAS_ERR_INIT;
                op_cleanup_json json_t *call = json_object();
                int one = access_arg(call, "name", cli->operands[i], &err) < 0
                                  ? cli_report(cli->command->name, &err)
                                  : access_command(cli, "rm", cas_steal(&call), NULL);
                if (one != CLI_OK)
                        status = one;
        }
        return status;
}

const struct cli_command cmd_rm = {
        .name = "rm",
        .synopsis = "NAME:TAG|NAME@DIGEST …",
        .summary = "remove images",
        .description =
                "Removes a tag. When no other tag of the same repository leads to the manifest, it "
                "goes too, with what only it needed. NAME@DIGEST removes a manifest with all its "
                "tags. What is mounted goes on working. `lamina gc` then frees the space.",
        .operands_min = 1,
        .operands_max = RM_NAMES_MAX,
        .run = run,
};
