/* SPDX-License-Identifier: Apache-2.0 */
/* lamina gc: frees what nothing needs. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"

struct gc_args {
        bool dry_run;
        const char *grace;
        const char *live_percent;
};

static const struct cli_option options[] = {
        {"dry-run", 'n', CLI_FLAG, offsetof(struct gc_args, dry_run), NULL,
         "only count what would go"},
        {"grace", 0, CLI_STRING, offsetof(struct gc_args, grace), "SECONDS",
         "keep what nothing names but is younger than this; default: 3600"},
        {"live-percent", 0, CLI_STRING, offsetof(struct gc_args, live_percent), "PERCENT",
         "rewrite packs of which less than this is still in use; default: 50"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        char freed[24];
        long long blobs = json_integer_value(json_object_get(result, "blobsRemoved"));
        long long objects = json_integer_value(json_object_get(result, "objectsRemoved"));
        long long packs = json_integer_value(json_object_get(result, "packsRemoved"));
        long long rewritten = json_integer_value(json_object_get(result, "packsRewritten"));
        long long bytes = json_integer_value(json_object_get(result, "bytesFreed"));
        printf("removed %lld blobs, %lld files and %lld packs, rewrote %lld packs: %s%s\n", blobs,
               objects, packs, rewritten, bytes < 0 ? "-" : "",
               cli_bytes_text((uint64_t)(bytes < 0 ? -bytes : bytes), freed, sizeof(freed)));
        return cli_finish();
}

static int number_arg(json_t *call, const char *key, const char *option, const char *text,
                      long long max, struct cas_err *err)
{
        if (!text)
                return 0;
        char *end;
        long long v = strtoll(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || v > max)
                return cas_fail(err, CAS_E_INVALID, "--%s: a number up to %lld, not %s", option,
                                max, text);
        json_object_set_new(call, key, json_integer(v));
        return 0;
}

static int run(const struct cli *cli, void *args)
{
        const struct gc_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *call = json_pack("{s:b}", "dryRun", a->dry_run);
        if (number_arg(call, "grace", "grace", a->grace, INT32_MAX, &err) < 0 ||
            number_arg(call, "livePercent", "live-percent", a->live_percent, 100, &err) < 0)
                return cli_usage_error(cli, "%s", err.msg);
        return access_command(cli, "gc", cas_steal(&call), show);
}

const struct cli_command cmd_gc = {
        .name = "gc",
        .synopsis = "",
        .summary = "free what nothing needs",
        .description =
                "Removes what no name and no mount leads to, and rewrites packs of which little "
                "is in use. Safe at any time; pushes and imports wait while it works.",
        .options = options,
        .args_bytes = sizeof(struct gc_args),
        .run = run,
};
