/* SPDX-License-Identifier: Apache-2.0 */
/* lamina pack: a directory becomes an image of one layer. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct pack_args {
        const char *platform;
        const char *user;
        const char *workdir;
        struct cli_list env;
        struct cli_list entrypoint;
        struct cli_list cmd;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct pack_args, platform), "OS/ARCH[/VARIANT]",
         "what the programs in it are built for; default: this host"},
        {"env", 'e', CLI_LIST, offsetof(struct pack_args, env), "KEY=VALUE",
         "set a variable of the image; again for more"},
        {"entrypoint", 0, CLI_LIST, offsetof(struct pack_args, entrypoint), "WORD",
         "a word of the command that always runs; again for more words"},
        {"cmd", 0, CLI_LIST, offsetof(struct pack_args, cmd), "WORD",
         "a word of the default command or its arguments; again for more words"},
        {"user", 'u', CLI_STRING, offsetof(struct pack_args, user), "USER[:GROUP]",
         "whom it runs as"},
        {"workdir", 'w', CLI_STRING, offsetof(struct pack_args, workdir), "DIR", "where it runs"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        printf("%s %s\n", json_string_value(json_object_get(result, "name")),
               json_string_value(json_object_get(result, "digest")));
        return cli_finish();
}

static int list_set(json_t *config, const char *key, const struct cli_list *list,
                    struct cas_err *err)
{
        if (list->count == 0)
                return 0;
        json_t *out = json_array();
        json_object_set_new(config, key, out);
        for (size_t i = 0; i < list->count; i++) {
                json_t *word = json_string(list->items[i]);
                if (!word)
                        return cas_fail(err, CAS_E_INVALID, "%s: not UTF-8 text", key);
                json_array_append_new(out, word);
        }
        return 0;
}

/* The image config that the options describe, as text. */
static int config_text(const struct pack_args *a, char **out, struct cas_err *err)
{
        for (size_t i = 0; i < a->env.count; i++) {
                if (!strchr(a->env.items[i], '='))
                        return cas_fail(err, CAS_E_INVALID, "--env %s: not KEY=VALUE",
                                        a->env.items[i]);
        }
        op_cleanup_json json_t *top = json_object();
        json_t *config = json_object();
        json_object_set_new(top, "config", config);
        if (list_set(config, "Env", &a->env, err) < 0 ||
            list_set(config, "Entrypoint", &a->entrypoint, err) < 0 ||
            list_set(config, "Cmd", &a->cmd, err) < 0 ||
            access_arg(config, "User", a->user, err) < 0 ||
            access_arg(config, "WorkingDir", a->workdir, err) < 0)
                return -(int)err->code;
        *out = json_dumps(top, JSON_COMPACT);
        return 0;
}

static int run(const struct cli *cli, void *args)
{
        struct pack_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = NULL;
        cas_cleanup_free char *config = NULL;
        op_cleanup_json json_t *call = json_object();
        int rc = config_text(a, &config, &err);
        cli_list_release(&a->env);
        cli_list_release(&a->entrypoint);
        cli_list_release(&a->cmd);
        if (rc < 0 || path_real(cli->operands[0], &dir, &err) < 0 ||
            access_arg(call, "dir", dir, &err) < 0 ||
            access_arg(call, "name", cli->operands[1], &err) < 0 ||
            access_arg(call, "config", config, &err) < 0 ||
            access_arg(call, "platform", a->platform, &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "pack", cas_steal(&call), show);
}

const struct cli_command cmd_pack = {
        .name = "pack",
        .synopsis = "DIR NAME:TAG",
        .summary = "make an image of a directory",
        .description =
                "Makes an image of one layer out of a directory: names, owners, times, links, "
                "devices and extended attributes as they are. The same directory gives the "
                "same layer, byte for byte.",
        .examples = "lamina pack ./rootfs app:1.0 --cmd /bin/app --env MODE=production",
        .options = options,
        .args_bytes = sizeof(struct pack_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
