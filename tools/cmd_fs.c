/* SPDX-License-Identifier: Apache-2.0 */
/* lamina fs, lamina hold: the processes of the object file system. They are
 * started by mounts, with the places they need, and not by people. */
#include "fusefs/mount.h"
#include "tools/cli.h"
#include "tools/paths.h"

struct fs_args {
        const char *run_dir;
        const char *resolve;
        uint64_t hold_fd;
};

static const struct cli_option hold_options[] = {
        {"run-dir", 0, CLI_STRING, offsetof(struct fs_args, run_dir), "DIR",
         "the runtime directory"},
        {"resolve", 0, CLI_STRING, offsetof(struct fs_args, resolve), "SOCKET",
         "where the owner resolves objects"},
        {0},
};
static const struct cli_option fs_options[] = {
        {"run-dir", 0, CLI_STRING, offsetof(struct fs_args, run_dir), "DIR",
         "the runtime directory"},
        {"resolve", 0, CLI_STRING, offsetof(struct fs_args, resolve), "SOCKET",
         "where the owner resolves objects"},
        {"hold-fd", 0, CLI_NUMBER, offsetof(struct fs_args, hold_fd), "FD",
         "the connection to the holder of the descriptors"},
        {0},
};

static int host_run(const struct cli *cli, const struct fs_args *a, int (*main_fn)(
                                                                            const struct ffs_host *,
                                                                            const struct fs_args *))
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *store = NULL;
        cas_cleanup_free char *program = NULL;
        if (!a->run_dir || !a->resolve)
                return cli_usage_error(cli, "--run-dir and --resolve are needed");
        if (path_store(cli->store_option, &store, &err) < 0 || path_program(&program, &err) < 0)
                return cli_report(cli->command->name, &err);
        struct ffs_host host = {.run_dir = a->run_dir,
                                .store_path = store,
                                .resolve_path = a->resolve,
                                .program = program};
        return main_fn(&host, a);
}

static int hold_main(const struct ffs_host *host, const struct fs_args *a)
{
        (void)a;
        return ffs_hold_main(host);
}

static int fs_main(const struct ffs_host *host, const struct fs_args *a)
{
        return ffs_fs_main(host, (int)a->hold_fd);
}

static int run_hold(const struct cli *cli, void *args)
{
        return host_run(cli, args, hold_main);
}

static int run_fs(const struct cli *cli, void *args)
{
        return host_run(cli, args, fs_main);
}

const struct cli_command cmd_hold = {
        .name = "hold",
        .synopsis = "",
        .summary = "hold the descriptors of the object file system",
        .description = "Started by mounts. Keeps the FUSE descriptors and starts `lamina fs` anew when "
                       "it ends.",
        .options = hold_options,
        .args_bytes = sizeof(struct fs_args),
        .hidden = true,
        .run = run_hold,
};

const struct cli_command cmd_fs = {
        .name = "fs",
        .synopsis = "",
        .summary = "serve the object file system",
        .description = "Started by `lamina hold`.",
        .options = fs_options,
        .args_bytes = sizeof(struct fs_args),
        .hidden = true,
        .run = run_fs,
};
