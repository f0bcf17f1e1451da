/* SPDX-License-Identifier: Apache-2.0 */
/* lamina fsck: checks everything; --rebuild makes the index anew. */
#include <stdio.h>

#include "cas/maintain.h"
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/progressline.h"

struct fsck_args {
        bool rebuild;
};

static const struct cli_option options[] = {
        {"rebuild", 0, CLI_FLAG, offsetof(struct fsck_args, rebuild), NULL,
         "first make the index again from packs, blobs and journal; nothing may have the store "
         "open"},
        {0},
};

static const char *member(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));
        return text ? text : "";
}

static int show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i;
        json_t *finding;
        json_array_foreach(json_object_get(result, "findings"), i, finding)
        {
                printf("%s %s: %s: %s\n", member(finding, "severity"), member(finding, "id"),
                       member(finding, "subject"), member(finding, "message"));
        }
        const json_t *checked = json_object_get(result, "checked");
        const char *key;
        json_t *count;
        const char *before = "checked ";
        json_object_foreach((json_t *)(uintptr_t)checked, key, count)
        {
                printf("%s%lld %s", before, (long long)json_integer_value(count), key);
                before = ", ";
        }
        printf("\n%lld errors, %lld warnings\n",
               (long long)json_integer_value(json_object_get(result, "errors")),
               (long long)json_integer_value(json_object_get(result, "warnings")));
        return cli_finish();
}

static int rebuild(const struct cli *cli, const char *store)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_config config = {
                .path = store, .must_exist = true, .lock_wait_ms = ACCESS_WAIT_MS};
        cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
        if (access_nobody(store, &err) < 0 ||
            cas_rebuild(&config, cli_progress_sink(progress), &err) < 0)
                return cli_report(cli->command->name, &err);
        return CLI_OK;
}

static int check(const struct cli *cli, const char *store)
{
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *args = json_object();
        op_cleanup_json json_t *result = NULL;
        cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
        int rc = access_call(store, "fsck", args, cli_progress_sink(progress), &result, &err);
        if (rc == -CAS_E_CORRUPT) {
                cli_report(cli->command->name, &err);
                fputs("`lamina fsck --rebuild` makes the index again.\n", stderr);
                return CLI_FAILED;
        }
        if (rc < 0)
                return cli_report(cli->command->name, &err);
        int status = cli->json ? cli_print_json(result) : show(cli, result);
        return json_integer_value(json_object_get(result, "errors")) > 0 ? CLI_FAILED : status;
}

static int run(const struct cli *cli, void *args)
{
        const struct fsck_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *store = NULL;
        if (path_store(cli->store_option, &store, &err) < 0)
                return cli_report(cli->command->name, &err);
        int status = a->rebuild ? rebuild(cli, store) : CLI_OK;
        return status == CLI_OK ? check(cli, store) : status;
}

const struct cli_command cmd_fsck = {
        .name = "fsck",
        .synopsis = "",
        .summary = "check the whole store",
        .description =
                "Reads every pack, blob, file, layer, tree and name, compares digests and looks "
                "for what does not fit together. Prints what it finds; exit status 1 when there "
                "is an error among it.",
        .options = options,
        .args_bytes = sizeof(struct fsck_args),
        .run = run,
};
