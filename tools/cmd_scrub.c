/* SPDX-License-Identifier: Apache-2.0 */
/* lamina scrub: looks at every byte, at a pace, and goes on where it was. */
#include <stdio.h>
#include <time.h>

#include "tools/access.h"
#include "tools/findings.h"
#include "tools/options.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/progressline.h"

struct scrub_args {
        bool restart;
        bool repair;
        bool state;
        const char *rate;
        const char *share;
};

static const struct cli_option options[] = {
        {"repair", 0, CLI_FLAG, offsetof(struct scrub_args, repair), NULL,
         "put damage right from other copies, and put aside what cannot be"},
        {"rate", 0, CLI_STRING, offsetof(struct scrub_args, rate), "BYTES",
         "read at most so much in a second, such as 20M; default: as fast as it goes"},
        {"share", 0, CLI_STRING, offsetof(struct scrub_args, share), "PERCENT",
         "of the time that it works; default: 100"},
        {"restart", 0, CLI_FLAG, offsetof(struct scrub_args, restart), NULL,
         "begin a new pass; else the one that was broken off goes on"},
        {"state", 0, CLI_FLAG, offsetof(struct scrub_args, state), NULL,
         "only show where the pass under way is, and when the last one ended"},
        {0},
};

static void print_time(const char *what, const json_t *value)
{
        time_t t = (time_t)json_integer_value(value);
        struct tm tm;
        char text[32] = "never";
        if (t > 0 && localtime_r(&t, &tm))
                (void)strftime(text, sizeof(text), "%F %T", &tm);
        printf("%-14s %s\n", what, text);
}

static int show_state(const struct cli *cli, const json_t *result)
{
        (void)cli;
        char bytes[24];
        printf("%-14s %lld\n", "passes",
               (long long)json_integer_value(json_object_get(result, "passes")));
        print_time("last ended", json_object_get(result, "ended"));
        const char *at = json_string_value(json_object_get(result, "at"));
        if (at && at[0]) {
                print_time("began", json_object_get(result, "began"));
                printf("%-14s %s, %s checked\n", "at", at,
                       cli_bytes_text((uint64_t)json_integer_value(
                                              json_object_get(result, "bytesChecked")),
                                      bytes, sizeof(bytes)));
        }
        return cli_finish();
}

static int scrub(const struct cli *cli, const json_t *args)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *store = NULL;
        op_cleanup_json json_t *result = NULL;
        cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
        if (path_store(cli->store_option, &store, &err) < 0 ||
            access_call(store, "scrub", args, cli_progress_sink(progress), &result, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (!cli->json)
                findings_print(result);
        int status = cli->json ? cli_print_json(result) : cli_finish();
        return findings_good(result) ? status : CLI_FAILED;
}

static int run(const struct cli *cli, void *args)
{
        const struct scrub_args *a = args;
        uint64_t rate = 0;
        char *end = NULL;
        unsigned long share = a->share ? strtoul(a->share, &end, 10) : 0;
        if (a->rate && (!cli_bytes_parse(a->rate, &rate) || rate == 0))
                return cli_usage_error(cli, "--rate: a size such as 20M, not %s", a->rate);
        if (a->share && (*end || share < 1 || share > 100))
                return cli_usage_error(cli, "--share: a number from 1 to 100, not %s", a->share);
        op_cleanup_json json_t *call = json_pack(
                "{s:b, s:b, s:b, s:I, s:I}", "state", a->state, "fromStart", a->restart, "repair",
                a->repair, "rate", (json_int_t)rate, "share", (json_int_t)share);
        return a->state ? access_command(cli, "scrub", cas_steal(&call), show_state)
                        : scrub(cli, call);
}

const struct cli_command cmd_scrub = {
        .name = "scrub",
        .synopsis = "",
        .summary = "look at every byte of the store, at a pace",
        .description =
                "Reads every pack, blob, file, layer, tree and name, and the index, compares "
                "digests "
                "and looks for what does not fit together, while all others go on. Broken off, the "
                "next run goes on. With --repair, what is damaged is made whole from another copy: "
                "another block that holds it, a layer's blob, a recipe, the registry it came from; "
                "what cannot be is put aside and counts as absent, so that who brings it again "
                "heals it, and the images that need it are named. Exit status 1 when there is "
                "damage "
                "that was not repaired. `lamina serve` does it by itself, see [scrub] in "
                "lamina-serve(1).",
        .options = options,
        .args_bytes = sizeof(struct scrub_args),
        .run = run,
};
