/* SPDX-License-Identifier: Apache-2.0 */
/* lamina retention: applies the rules of the configuration that remove old tags. */
#include <errno.h>
#include <ini.h>
#include <stdio.h>

#include "cas/limits.h"
#include "tools/access.h"
#include "tools/ops_json.h"

struct retention_args {
        const char *config;
        const char *now;
        bool dry_run;
};

static const struct cli_option options[] = {
        {"config", 'c', CLI_STRING, offsetof(struct retention_args, config), "FILE",
         "the file whose rules are applied, as lamina-serve(1) reads it"},
        {"dry-run", 'n', CLI_FLAG, offsetof(struct retention_args, dry_run), NULL,
         "only say what would go, and why"},
        {"now", 0, CLI_STRING, offsetof(struct retention_args, now), "SECONDS",
         "with --dry-run: as if it were this Unix time"},
        {0},
};

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i;
        const json_t *item;
        json_array_foreach(json_object_get(result, "removed"), i, item)
        {
                const char *tag = json_string_value(json_object_get(item, "tag"));
                const char *digest = json_string_value(json_object_get(item, "digest"));
                printf("%s%s%.*s  %s: %s\n", json_string_value(json_object_get(item, "repository")),
                       tag ? ":" : "@", tag ? CAS_TAG_BYTES_MAX : 19, tag ? tag : digest,
                       json_string_value(json_object_get(item, "rule")),
                       json_string_value(json_object_get(item, "why")));
        }
        printf("%lld of %lld tags and %lld untagged manifests\n",
               (long long)json_integer_value(json_object_get(result, "tags")),
               (long long)json_integer_value(json_object_get(result, "seen")),
               (long long)json_integer_value(json_object_get(result, "manifests")));
        return cli_finish();
}

/* The lines that matter here. */
static int line_seen(void *arg, const char *section, const char *key, const char *value)
{
        json_t *settings = arg;
        if (strncmp(section, "retention ", 10) != 0 && strncmp(section, "immutable ", 10) != 0)
                return 1;
        json_t *line = json_pack("[s, s, s]", section, key, value);
        return line && json_array_append_new(settings, line) == 0;
}

static int read_config(const char *path, json_t *settings, struct cas_err *err)
{
        errno = 0;
        int line = ini_parse(path, line_seen, settings);
        if (line < 0)
                return cas_fail_sys(err, errno ? errno : EIO, "%s", path);
        if (line > 0)
                return cas_fail(err, CAS_E_INVALID, "%s: line %d: not understood", path, line);
        if (json_array_size(settings) == 0)
                return cas_fail(err, CAS_E_INVALID, "%s: no [retention NAME] in it", path);
        return 0;
}

static int run(const struct cli *cli, void *args)
{
        const struct retention_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *settings = json_array();
        char *end = NULL;
        if (!a->config)
                return cli_usage_error(cli, "--config is missing");
        long long now = a->now ? strtoll(a->now, &end, 10) : 0;
        if (a->now && (!a->dry_run || *end || now <= 0))
                return cli_usage_error(cli, "--now: a Unix time, with --dry-run");
        if (read_config(a->config, settings, &err) < 0)
                return cli_report(cli->command->name, &err);
        json_t *call = json_pack("{s:O, s:b, s:I}", "settings", settings, "dryRun", a->dry_run,
                                 "now", (json_int_t)now);
        return access_command(cli, "retention", call, show);
}

const struct cli_command cmd_retention = {
        .name = "retention",
        .synopsis = "--config FILE",
        .summary = "remove tags that the configuration's rules give up",
        .description =
                "Applies the sections [retention NAME] of a configuration file once, as "
                "lamina-serve(1) does now and then by itself: removes tags that are too many, too "
                "old or not pulled, and manifests that have been without a tag for long. Tags "
                "that are immutable stay, and so does what a tag leads to. Space is freed by "
                "lamina-gc(1).\n\n"
                "A tag of which nothing is known, because it was set before rules were in force or "
                "by other commands, counts as set when the rules are first applied to it.",
        .examples = "lamina retention --config /etc/lamina.conf --dry-run",
        .options = options,
        .args_bytes = sizeof(struct retention_args),
        .run = run,
};
