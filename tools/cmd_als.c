/* SPDX-License-Identifier: Apache-2.0 */
/* lamina als: an additional layer store for podman. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/layerstore.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct als_args {
        bool reset;
};

static const struct cli_option options[] = {
        {"reset", 0, CLI_FLAG, offsetof(struct als_args, reset), NULL,
         "nobody uses any layer: for when podman's storage is gone"},
        {0},
};

static int reset(const struct mounting *m, struct cas_err *err)
{
        op_cleanup_json json_t *args = json_object();
        op_cleanup_json json_t *result = NULL;
        return access_call(m->store, "als-reset", args, NULL, &result, err);
}

static int run(const struct cli *cli, void *args)
{
        const struct als_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *dir = NULL;
        mounting_cleanup struct mounting m = {0};
        if (path_real(cli->operands[0], &dir, &err) < 0 || mounting_open(cli, &m, &err) < 0 ||
            (a->reset && reset(&m, &err) < 0) || layerstore_start(&m, dir, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (!cli->json) {
                puts(dir);
                return cli_finish();
        }
        op_cleanup_json json_t *result = json_pack("{s:s}", "dir", dir);
        return cli_print_json(result);
}

const struct cli_command cmd_als = {
        .name = "als",
        .synopsis = "DIR",
        .summary = "let podman, buildah and CRI-O take layers from the store",
        .description =
                "Serves an additional layer store on DIR, which must be there, in the background "
                "until `lamina umount DIR`. In storage.conf(5) it goes as\n\n"
                "    [storage.options]\n"
                "    additionallayerstores = [\"DIR:ref\"]\n\n"
                "With that, an image that is pulled by a name that the store knows is pulled "
                "without its layers: the manifest and the config come from the registry, the "
                "layers are mounted from here, and containers run on them at once. "
                "HOST/NAME:TAG is looked for as it stands, and as NAME:TAG. A layer that is not "
                "here is pulled as ever.\n\n"
                "What an image of podman uses is kept in the store until the image is removed "
                "there, even when its name goes. Needs root, and Linux 6.8.",
        .examples = "lamina als /var/lib/lamina-layers\n"
                    "podman run registry.example.org/web:1.0",
        .options = options,
        .args_bytes = sizeof(struct als_args),
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
