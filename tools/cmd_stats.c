/* SPDX-License-Identifier: Apache-2.0 */
/* lamina stats: what the store holds, in numbers. */
#include <stdio.h>

#include "tools/access.h"

static void bytes_show(const char *name, const char *what, const json_t *o, const char *key)
{
        char text[24];
        printf("%s.%s %s\n", name, what,
               cli_bytes_text((uint64_t)json_integer_value(json_object_get(o, key)), text,
                              sizeof(text)));
}

/* A tier's lines; the rest is told by `lamina tier list`. */
static void tiers_show(const json_t *all)
{
        const json_t *tiers = json_object_get(all, "tiers");
        for (size_t i = 0; i < json_array_size(tiers); i++) {
                const json_t *t = json_array_get(tiers, i);
                const char *name = json_string_value(json_object_get(t, "name"));
                bytes_show(name, "home", t, "homeBytes");
                bytes_show(name, "other", t, "otherBytes");
                bytes_show(name, "cache", t, "cachedBytes");
                bytes_show(name, "written", t, "writtenBytes");
        }
        const json_t *cache = json_object_get(all, "blockCache");
        long long hits = json_integer_value(json_object_get(cache, "hits"));
        long long reads = hits + json_integer_value(json_object_get(cache, "misses"));
        if (reads > 0)
                printf("%-16s %.1f %% of %lld\n", "blockCacheHits",
                       100.0 * (double)hits / (double)reads, reads);
        bytes_show("mover", "backlog", json_object_get(all, "mover"), "dueBytes");
}

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
                if (json_is_object(value))
                        tiers_show(value);
                else if (json_is_string(value))
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
