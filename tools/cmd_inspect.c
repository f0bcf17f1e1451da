/* SPDX-License-Identifier: Apache-2.0 */
/* lamina inspect: manifest, configuration and layers of an image. */
#include "tools/access.h"
#include "tools/ops_json.h"

struct inspect_args {
        bool sharing;
};

static const struct cli_option options[] = {
        {"sharing", 0, CLI_FLAG, offsetof(struct inspect_args, sharing), NULL,
         "also say how much of each layer's files other layers of the store have; reads the "
         "listings of all layers"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        return cli_print_json(result);
}

static int run(const struct cli *cli, void *args)
{
        const struct inspect_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *call = json_pack("{s:b}", "sharing", a->sharing);
        if (access_arg(call, "name", cli->operands[0], &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "inspect", cas_steal(&call), show);
}

const struct cli_command cmd_inspect = {
        .name = "inspect",
        .synopsis = "NAME:TAG",
        .summary = "show what an image is, and how its layers are kept",
        .description =
                "Prints a JSON object: name, digest, size and media type, the manifest or index, "
                "and of an image its configuration and its layers. Of each layer: `size` of the "
                "blob, `condensed` (a recipe makes it), `verbatimBytes` (of a copy that is kept), "
                "`class` (what made the blob), `reason` (why it stays as it is), `recipeBytes`, of "
                "them `wrapBytes` for the compression and in those `correctionsBytes`; with "
                "--sharing, `ownBytes` of files that no other layer has, and `sharedBytes`.",
        .options = options,
        .args_bytes = sizeof(struct inspect_args),
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
