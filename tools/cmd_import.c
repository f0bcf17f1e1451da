/* SPDX-License-Identifier: Apache-2.0 */
/* lamina import: images out of layouts and archives. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/transfer_arg.h"

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i;
        json_t *image;
        json_array_foreach(json_object_get(result, "images"), i, image)
        {
                printf("%s %s\n", json_string_value(json_object_get(image, "name")),
                       json_string_value(json_object_get(image, "digest")));
        }
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *from = NULL;
        op_cleanup_json json_t *call = json_object();
        const char *name = cli->operand_count > 1 ? cli->operands[1] : NULL;
        if (transfer_arg_absolute(cli->operands[0], &from, &err) < 0 ||
            access_arg(call, "from", from, &err) < 0 || access_arg(call, "name", name, &err) < 0)
                return cli_report(cli->command->name, &err);
        return access_command(cli, "import", cas_steal(&call), show);
}

const struct cli_command cmd_import = {
        .name = "import",
        .synopsis =
                "oci:DIR[:TAG]|oci-archive:FILE[:TAG]|docker-archive:FILE[:NAME:TAG] [NAME:TAG]",
        .summary = "bring images in from a layout or an archive",
        .description =
                "Brings one image in, or every tagged one when the source names none, and prints "
                "name and digest of each. What is printed is durable.\n\n"
                "NAME:TAG names the image here. Without it the source's own names are kept; "
                "a layout's bare tag T becomes T:latest.\n\n"
                "Every byte is kept as it was: manifests, configs and layers come out of "
                "export and of the registry with the digests they came with. Of an image for "
                "several platforms, those that the source holds are brought in.",
        .examples = "lamina import oci:/srv/layout:web web:1.0\n"
                    "lamina import docker-archive:saved.tar",
        .operands_min = 1,
        .operands_max = 2,
        .run = run,
};
