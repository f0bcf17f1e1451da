/* SPDX-License-Identifier: Apache-2.0 */
/* lamina pull: an image of another registry. */
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/remote_arg.h"
#include "tools/remote_name.h"

struct pull_args {
        struct remote_args remote;
        bool proved;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct pull_args, remote.platform),
         "OS/ARCH[/VARIANT]", "of an image for several platforms; default: this host's"},
        {"all-platforms", 0, CLI_FLAG, offsetof(struct pull_args, remote.all_platforms), NULL,
         "all of them"},
        {"proved", 0, CLI_FLAG, offsetof(struct pull_args, proved), NULL,
         "what other repositories here have is brought nevertheless"},
        REMOTE_OPTIONS_CONNECTION(struct pull_args),
        REMOTE_OPTIONS_USER(struct pull_args),
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        printf("%s %s\n", json_string_value(json_object_get(result, "name")),
               json_string_value(json_object_get(result, "digest")));
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        const struct pull_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free struct remote_name *from = cas_xcalloc(1, sizeof(*from));
        op_cleanup_json json_t *call = json_object();
        if (remote_name_parse(cli->operands[0], from, &err) < 0)
                return cli_report(cli->command->name, &err);
        cas_cleanup_free char *same = op_ref_text(&from->here);
        if (access_arg(call, "name", cli->operand_count > 1 ? cli->operands[1] : same, &err) < 0 ||
            remote_args_add(call, &a->remote, &from->there, &err) < 0)
                return cli_report(cli->command->name, &err);
        json_object_set_new(call, "proved", json_boolean(a->proved));
        return access_command(cli, "pull", cas_steal(&call), show);
}

const struct cli_command cmd_pull = {
        .name = "pull",
        .synopsis = "HOST[:PORT]/NAME[:TAG][@DIGEST] [NAME:TAG]",
        .summary = "bring an image in from another registry",
        .description =
                "Brings an image in, and prints its name here and its digest. What is printed is "
                "durable. Without a second operand the name here is the name there, host and all "
                "(with \"_\" for \":\"), as lamina-mount(1) and lamina-run(1) look for it.\n\n"
                "What is here already does not travel. Layers arrive side by side, large ones over "
                "several connections where the registry serves ranges; a connection that breaks is "
                "gone on with, and so is a pull that was broken off, by the next one. Refusals for "
                "a while (429, 503) are waited out as the registry asks. Everything is compared "
                "with its digest before the image has its name.\n\n"
                "From another lamina a layer comes by its parts, where most of its content is here "
                "and it is condensed there: only files, and pieces of large files, that are "
                "missing travel.\n\n"
                "Whoever gives an image a digest gets the content of it that is here, whatever "
                "repository that is in. Where not all who may read the image may read that, too, "
                "--proved is the way for registries that are not trusted: they have to give "
                "everything that the repository here does not have already.\n\n"
                "Credentials are those of --user, else of --authfile, else of what podman and "
                "docker keep: $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json, "
                "~/.config/containers/auth.json and ~/.docker/config.json, with their credential "
                "helpers. Certificates are those of the system and of "
                "/etc/containers/certs.d/HOST:PORT and /etc/docker/certs.d/HOST:PORT. Proxies are "
                "those of the environment of the process that owns the store. A registry on this "
                "machine is asked by https first, then by http.",
        .examples = "lamina pull docker.io/library/alpine:3\n"
                    "lamina pull registry.example.org/team/app:1.0 app:1.0\n"
                    "lamina pull --plain-http 10.0.0.5:5000/app@sha256:… app:tested",
        .options = options,
        .args_bytes = sizeof(struct pull_args),
        .operands_min = 1,
        .operands_max = 2,
        .run = run,
};
