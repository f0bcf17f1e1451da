/* SPDX-License-Identifier: Apache-2.0 */
/* lamina checkpoint: a consistent copy of the store. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

static int show(const struct cli *cli, const json_t *result)
{
        char bytes[24];
        printf("%s: %lld files linked, %lld copied (%s)\n", cli->operands[0],
               (long long)json_integer_value(json_object_get(result, "linked")),
               (long long)json_integer_value(json_object_get(result, "copied")),
               cli_bytes_text((uint64_t)json_integer_value(json_object_get(result, "copiedBytes")),
                              bytes, sizeof(bytes)));
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = NULL;
        op_cleanup_json json_t *call = json_object();
        if (path_absolute(cli->operands[0], &dir, &err) < 0 ||
            access_arg(call, "dir", dir, &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "checkpoint", cas_steal(&call), show);
}

const struct cli_command cmd_checkpoint = {
        .name = "checkpoint",
        .synopsis = "DIR",
        .summary = "make a consistent copy of the store while it is used",
        .description =
                "DIR, which must be new or empty, becomes a store that has all that this one has "
                "at "
                "one instant. Files that never change are hard-linked where DIR lies on the same "
                "file system, so a copy takes little time and space; elsewhere they are copied. "
                "Opening it (--store DIR) is restoring it. Unfinished uploads and the changes of "
                "sandboxes are not in it. On the same disk it is no guard against that disk's "
                "failing.",
        .examples = "lamina checkpoint /backup/lamina-$(date +%F)",
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
