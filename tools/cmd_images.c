/* SPDX-License-Identifier: Apache-2.0 */
/* lamina images: what the store holds by name. */
#include <stdio.h>

#include "tools/access.h"

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i;
        json_t *image;
        json_array_foreach(json_object_get(result, "images"), i, image)
        {
                const json_t *percent = json_object_get(image, "percent");
                printf("%s\t%s", json_string_value(json_object_get(image, "name")),
                       json_string_value(json_object_get(image, "digest")));
                if (percent)
                        printf("\t%d%% here", (int)json_integer_value(percent));
                putchar('\n');
        }
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        (void)args;
        return access_command(cli, "images", json_object(), show);
}

const struct cli_command cmd_images = {
        .name = "images",
        .synopsis = "",
        .summary = "list images",
        .description =
                "Lists every tagged image: NAME:TAG, a tab, and the digest of its manifest, in "
                "byte order of the names. A third field says how much has come of an image at "
                "another lamina that was mounted and is not whole yet.",
        .run = run,
};
