/* SPDX-License-Identifier: Apache-2.0 */
/* lamina condense: keeps recipes in place of layers' blobs. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"

struct condense_args {
        bool all;
        bool keep;
        bool again;
        const char *codec;
};

static const struct cli_option options[] = {
        {"all", 'a', CLI_FLAG, offsetof(struct condense_args, all), NULL,
         "every image; packs are rewritten as well"},
        {"codec", 0, CLI_STRING, offsetof(struct condense_args, codec), "default|cold",
         "with --all: how packs are written: zstd -9 in blocks of 1 MiB, or zstd -19 in blocks of "
         "4 MiB, which is slow; default: default"},
        {"keep", 0, CLI_FLAG, offsetof(struct condense_args, keep), NULL,
         "keep the verbatim copies, as a cache that may be dropped"},
        {"again", 0, CLI_FLAG, offsetof(struct condense_args, again), NULL,
         "look again at layers that had to stay as they are"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i;
        const json_t *layer;
        char before[24], after[24];
        json_array_foreach(json_object_get(result, "layers"), i, layer)
        {
                const char *class = json_string_value(json_object_get(layer, "class"));
                const char *reason = json_string_value(json_object_get(layer, "reason"));
                printf("%.19s %10s  %s%s\n", json_string_value(json_object_get(layer, "digest")),
                       cli_bytes_text((uint64_t)json_integer_value(json_object_get(layer, "size")),
                                      before, sizeof(before)),
                       reason ? "stays: " : "", reason ? reason : class);
        }
        printf("condensed %lld of %zu layers\n",
               (long long)json_integer_value(json_object_get(result, "condensed")),
               json_array_size(json_object_get(result, "layers")));
        long long packs = json_integer_value(json_object_get(result, "packs"));
        if (packs > 0)
                printf("rewrote %lld packs: %s, %s before\n", packs,
                       cli_bytes_text((uint64_t)json_integer_value(
                                              json_object_get(result, "packBytesAfter")),
                                      after, sizeof(after)),
                       cli_bytes_text((uint64_t)json_integer_value(
                                              json_object_get(result, "packBytesBefore")),
                                      before, sizeof(before)));
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        const struct condense_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        if (a->all == (cli->operand_count > 0))
                return cli_usage_error(cli, "give NAME:TAG, or --all");
        if (a->codec && !a->all)
                return cli_usage_error(cli, "--codec goes with --all: packs are shared by images");
        op_cleanup_json json_t *call =
                json_pack("{s:b, s:b, s:b}", "all", a->all, "keep", a->keep, "again", a->again);
        if (access_arg(call, "codec", a->codec, &err) < 0 ||
            (!a->all && access_arg(call, "name", cli->operands[0], &err) < 0))
                return cli_report(cli->command->name, &err);
        return access_command(cli, "condense", cas_steal(&call), show);
}

const struct cli_command cmd_condense = {
        .name = "condense",
        .synopsis = "[NAME:TAG]",
        .summary = "keep recipes in place of layers' blobs",
        .description =
                "Finds out how each layer's blob was made of its files and keeps a recipe that "
                "makes it again, bit by bit; then drops the blob. A recipe counts only once the "
                "blob was made from it and its digest compared. Pulls, exports and mounts do not "
                "notice, but that a pull costs the time of compressing. Layers of which nobody "
                "knows how they were made stay as they are: `lamina inspect` says why.\n\n"
                "Safe to break off, and to run beside everything else. `lamina serve` does it in "
                "the background.",
        .examples = "lamina condense --all\n"
                    "lamina condense web:1.0\n"
                    "lamina condense --all --codec cold",
        .options = options,
        .args_bytes = sizeof(struct condense_args),
        .operands_max = 1,
        .run = run,
};
