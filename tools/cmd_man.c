/* SPDX-License-Identifier: Apache-2.0 */
/* lamina man: the manual page of a command, for `make install`. */
#include "tools/help.h"

static int run(const struct cli *cli, void *args)
{
        (void)args;
        const struct cli_command *c = cli_command_find(cli->operands[0]);
        if (!c)
                return cli_usage_error(cli, "%s: no such command", cli->operands[0]);
        cli_help_mdoc(c, stdout);
        return cli_finish();
}

const struct cli_command cmd_man = {
        .name = "man",
        .synopsis = "COMMAND",
        .summary = "print the manual page of a command",
        .description = "Prints the source of lamina-COMMAND(1), as mdoc(7).",
        .operands_min = 1,
        .operands_max = 1,
        .hidden = true,
        .run = run,
};
