/* SPDX-License-Identifier: Apache-2.0 */
/* lamina pack: a directory becomes an image of one layer. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/image_options.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct pack_args {
        const char *platform;
        struct image_options image;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct pack_args, platform), "OS/ARCH[/VARIANT]",
         "what the programs in it are built for; default: this host"},
        IMAGE_OPTIONS(offsetof(struct pack_args, image)),
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
        struct pack_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = NULL;
        cas_cleanup_free char *config = NULL;
        op_cleanup_json json_t *call = json_object();
        int rc = image_options_config(&a->image, &config, &err);
        image_options_release(&a->image);
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
