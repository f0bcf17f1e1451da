/* SPDX-License-Identifier: Apache-2.0 */
/* lamina upgrade: brings a store of an older format up to this program. */
#include <stdio.h>

#include "cas/maintain.h"
#include "tiering/tierset.h"
#include "tools/access.h"
#include "tools/paths.h"

static int run(const struct cli *cli, void *args)
{
        (void)args;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *store = NULL;
        unsigned from = 0, to = 0;
        if (path_store(cli->store_option, &store, &err) < 0 || access_nobody(store, &err) < 0)
                return cli_report(cli->command->name, &err);
        struct cas_store_config config = {
                .path = store,
                .backend_open = tier_set_open,
                .must_exist = true,
                .lock_wait_ms = ACCESS_WAIT_MS,
        };
        if (cas_upgrade(&config, &from, &to, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (cli->json) {
                json_t *result = json_pack("{s:i, s:i}", "from", (int)from, "to", (int)to);
                int status = cli_print_json(result);
                json_decref(result);
                return status;
        }
        if (from == to)
                printf("format %u already\n", to);
        else
                printf("format %u is now %u\n", from, to);
        return cli_finish();
}

const struct cli_command cmd_upgrade = {
        .name = "upgrade",
        .synopsis = "",
        .summary = "bring the store to the format of this version",
        .description =
                "Changes a store that an older version made into the format of this one. Nothing "
                "may have it open. A format that is newer, or not known, is refused and left "
                "as it is.",
        .run = run,
};
