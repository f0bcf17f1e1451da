/* SPDX-License-Identifier: Apache-2.0 */
/* lamina fsck: checks everything; --rebuild makes the index anew. */
#include <stdio.h>

#include "cas/maintain.h"
#include "tiering/tierset.h"
#include "tools/access.h"
#include "tools/findings.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/progressline.h"

struct fsck_args {
        bool rebuild;
        bool repair;
};

static const struct cli_option options[] = {
        {"rebuild", 0, CLI_FLAG, offsetof(struct fsck_args, rebuild), NULL,
         "first make the index again from packs, blobs and journal; nothing may have the store "
         "open"},
        {"repair", 0, CLI_FLAG, offsetof(struct fsck_args, repair), NULL,
         "put damage right from other copies, and put aside what cannot be"},
        {0},
};

static int rebuild(const struct cli *cli, const char *store)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_config config = {
                .path = store,
                .backend_open = tier_set_open,
                .must_exist = true,
                .lock_wait_ms = ACCESS_WAIT_MS,
        };
        cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
        if (access_nobody(store, &err) < 0 ||
            cas_rebuild(&config, cli_progress_sink(progress), &err) < 0)
                return cli_report(cli->command->name, &err);
        return CLI_OK;
}

static int check(const struct cli *cli, const char *store, bool repair)
{
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *args = json_pack("{s:b}", "repair", repair);
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
        if (!cli->json)
                findings_print(result);
        int status = cli->json ? cli_print_json(result) : cli_finish();
        return findings_good(result) ? status : CLI_FAILED;
}

static int run(const struct cli *cli, void *args)
{
        const struct fsck_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *store = NULL;
        if (path_store(cli->store_option, &store, &err) < 0)
                return cli_report(cli->command->name, &err);
        int status = a->rebuild ? rebuild(cli, store) : CLI_OK;
        return status == CLI_OK ? check(cli, store, a->repair) : status;
}

const struct cli_command cmd_fsck = {
        .name = "fsck",
        .synopsis = "",
        .summary = "check the whole store",
        .description =
                "Reads every pack, blob, file, layer, tree and name, compares digests and looks "
                "for what does not fit together, at full speed, while all others go on. Prints "
                "what it "
                "finds; exit status 1 when there is an error among it that was not repaired. "
                "lamina-scrub(1) does the same at a pace, and `lamina serve` does it by itself.",
        .options = options,
        .args_bytes = sizeof(struct fsck_args),
        .run = run,
};
