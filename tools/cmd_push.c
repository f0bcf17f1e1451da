/* SPDX-License-Identifier: Apache-2.0 */
/* lamina push: an image to another registry. */
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/remote_arg.h"

struct push_args {
        struct remote_args remote;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct push_args, remote.platform),
         "OS/ARCH[/VARIANT]", "only this one of an index; default: all that is here"},
        REMOTE_OPTIONS_CONNECTION(struct push_args),
        REMOTE_OPTIONS_USER(struct push_args),
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        printf("%s %s\n", cli->operands[1], json_string_value(json_object_get(result, "digest")));
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        const struct push_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        struct remote_address to;
        op_cleanup_json json_t *call = json_object();
        if (remote_address_parse(cli->operands[1], &to, &err) < 0 ||
            access_arg(call, "name", cli->operands[0], &err) < 0 ||
            remote_args_add(call, &a->remote, &to, &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "push", cas_steal(&call), show);
}

const struct cli_command cmd_push = {
        .name = "push",
        .synopsis = "NAME[:TAG][@DIGEST] HOST[:PORT]/NAME[:TAG]",
        .summary = "send an image to another registry",
        .description =
                "Sends an image with exactly the bytes that came in: condensed layers are made "
                "again while they are sent. What the registry has already stays there, and is "
                "mounted from another of its repositories where it offers that. Layers go side by "
                "side; one that breaks goes on where the registry has it, and to another lamina "
                "also in a later push. The image has its name there last.\n\n"
                "Credentials, certificates and proxies are those of lamina-pull(1).",
        .examples = "lamina push app:1.0 registry.example.org/team/app:1.0\n"
                    "echo secret | lamina push -u me --password-stdin app:1.0 docker.io/me/app:1.0",
        .options = options,
        .args_bytes = sizeof(struct push_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
