/* SPDX-License-Identifier: Apache-2.0 */
/* lamina why: what keeps a thing in the store. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"

struct why_args {
        const char *paths;
};

static const struct cli_option options[] = {
        {"paths", 'p', CLI_STRING, offsetof(struct why_args, paths), "NUMBER",
         "show so many different ways at most; default: 3"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i, k;
        const json_t *path, *step;
        json_array_foreach(json_object_get(result, "paths"), i, path)
        {
                if (i > 0)
                        printf("\n");
                json_array_foreach(path, k, step)
                {
                        printf("%*s%s%s\n", (int)(2 * k), "", k > 0 ? "kept by " : "",
                               json_string_value(json_object_get(step, "text")));
                }
        }
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        const struct why_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *call = json_object();
        char *end = NULL;
        unsigned long paths = a->paths ? strtoul(a->paths, &end, 10) : 0;
        if (a->paths && (*end || paths < 1 || paths > 1000))
                return cli_usage_error(cli, "--paths: a number from 1 to 1000, not %s", a->paths);
        if (a->paths)
                json_object_set_new(call, "paths", json_integer((json_int_t)paths));
        if (access_arg(call, "what", cli->operands[0], &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "why", cas_steal(&call), show);
}

const struct cli_command cmd_why = {
        .name = "why",
        .synopsis = "DIGEST | NAME[:TAG]",
        .summary = "say why something stays in the store",
        .description =
                "Shows what keeps a blob, a file object, a chunk or an image: step by step up to a "
                "repository, a tag, a mount or another lease; or that nothing does, and when "
                "lamina-gc(1) may take it. DIGEST is that of a blob (sha256:...), or of a file "
                "object "
                "or chunk, 64 hex digits.",
        .examples = "lamina why "
                    "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        .options = options,
        .operands_min = 1,
        .operands_max = 1,
        .args_bytes = sizeof(struct why_args),
        .run = run,
};
