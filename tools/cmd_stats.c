/* SPDX-License-Identifier: Apache-2.0 */
/* lamina stats: what the store holds, in numbers. */
#include <stdio.h>

#include "tools/access.h"

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)result, key, value)
        {
                char text[24];
                size_t len = strlen(key);
                bool bytes = len > 5 && strcmp(key + len - 5, "Bytes") == 0;
                if (json_is_string(value))
                        printf("%-16s %s\n", key, json_string_value(value));
                else if (bytes)
                        printf("%-16s %s\n", key,
                               cli_bytes_text((uint64_t)json_integer_value(value), text,
                                              sizeof(text)));
                else
                        printf("%-16s %lld\n", key, (long long)json_integer_value(value));
        }
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        (void)args;
        return access_command(cli, "stats", json_object(), show);
}

const struct cli_command cmd_stats = {
        .name = "stats",
        .synopsis = "",
        .summary = "show what the store holds, in numbers",
        .description =
                "Counts names, manifests, layers, files, chunks, packs, trees and leases, with "
                "their sizes. Walks the index: takes time on a large store.",
        .run = run,
};
