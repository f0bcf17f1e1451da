/* SPDX-License-Identifier: Apache-2.0 */
/* lamina gc: frees what nothing needs. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/ops_json.h"

struct gc_args {
        bool dry_run;
        bool full;
        const char *grace;
        const char *live_percent;
        const char *share;
};

static const struct cli_option options[] = {
        {"dry-run", 'n', CLI_FLAG, offsetof(struct gc_args, dry_run), NULL,
         "only count what would go; lamina-why(1) says of one thing why it stays"},
        {"full", 'f', CLI_FLAG, offsetof(struct gc_args, full), NULL,
         "look at everything, not only at what has changed since the last run"},
        {"grace", 0, CLI_STRING, offsetof(struct gc_args, grace), "SECONDS",
         "keep what was brought, asked for or last needed later than this; default: 86400 while "
         "the store is served as a registry, else 0"},
        {"live-percent", 0, CLI_STRING, offsetof(struct gc_args, live_percent), "PERCENT",
         "rewrite packs of which less than this is still in use; default: 50"},
        {"share", 0, CLI_STRING, offsetof(struct gc_args, share), "PERCENT",
         "of the time that it works; default: 100"},
        {0},
};

static long long count(const json_t *result, const char *key)
{
        return json_integer_value(json_object_get(result, key));
}

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        char freed[24];
        long long bytes = count(result, "bytesFreed");
        printf("removed %lld blobs, %lld files and %lld packs, rewrote %lld packs: %s%s\n",
               count(result, "blobsRemoved"), count(result, "objectsRemoved"),
               count(result, "packsRemoved"), count(result, "packsRewritten"), bytes < 0 ? "-" : "",
               cli_bytes_text((uint64_t)(bytes < 0 ? -bytes : bytes), freed, sizeof(freed)));
        long long waiting = count(result, "waiting"), grace = count(result, "grace");
        if (waiting > 0 && grace > 0)
                printf("%lld things wait: they are in use, or for the grace of %lld s to be over "
                       "(--grace 0 does not wait)\n",
                       waiting, grace);
        else if (waiting > 0)
                printf("%lld things wait: they are in use\n", waiting);
        if (json_is_true(json_object_get(result, "stopped")))
                printf("the store's owner is ending: the next run goes on\n");
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
        op_cleanup_json json_t *call =
                json_pack("{s:b, s:b}", "dryRun", a->dry_run, "full", a->full);
        if (number_arg(call, "grace", "grace", a->grace, INT32_MAX, &err) < 0 ||
            number_arg(call, "livePercent", "live-percent", a->live_percent, 100, &err) < 0 ||
            number_arg(call, "share", "share", a->share, 100, &err) < 0)
                return cli_usage_error(cli, "%s", err.msg);
        return access_command(cli, "gc", cas_steal(&call), show);
}

const struct cli_command cmd_gc = {
        .name = "gc",
        .synopsis = "",
        .summary = "free what nothing needs",
        .description =
                "Removes what no name and no mount leads to, and rewrites packs of which little is "
                "in use. Pushes, pulls, mounts and imports go on meanwhile, and nothing that one "
                "of "
                "them counts on is removed. A run looks at what has changed since the last one; "
                "broken off, the next goes on. `lamina serve` collects by itself, see [gc] in "
                "lamina-serve(1).",
        .options = options,
        .args_bytes = sizeof(struct gc_args),
        .run = run,
};
