/* SPDX-License-Identifier: Apache-2.0 */
/* lamina: finds the command, parses its options by its table and runs it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>

#include "fusefs/mount.h"
#include "tools/cli.h"
#include "tools/help.h"

struct global_args {
        const char *store;
        bool json;
        bool help;
        bool version;
};

const struct cli_option cli_global_options[] = {
        {"store", 0, CLI_STRING, offsetof(struct global_args, store), "DIR",
         "the store; default: $LAMINA_STORE, else /var/lib/lamina for root and "
         "$XDG_DATA_HOME/lamina for others"},
        {"json", 0, CLI_FLAG, offsetof(struct global_args, json), NULL, "print the result as JSON"},
        {"help", 'h', CLI_FLAG, offsetof(struct global_args, help), NULL, "print help"},
        {0},
};
static const struct cli_option version_option[] = {
        {"version", 0, CLI_FLAG, offsetof(struct global_args, version), NULL, "print the version"},
        {0},
};

const struct cli_command *const cli_commands[] = {
        &cmd_pull,      &cmd_push,   &cmd_copy,    &cmd_import,  &cmd_export,     &cmd_pack,
        &cmd_unpack,    &cmd_images, &cmd_inspect, &cmd_tag,     &cmd_rm,         &cmd_mount,
        &cmd_umount,    &cmd_mounts, &cmd_als,     &cmd_run,     &cmd_commit,     &cmd_diff,
        &cmd_reset,     &cmd_clone,  &cmd_bundle,  &cmd_broker,  &cmd_serve,      &cmd_gc,
        &cmd_retention, &cmd_why,    &cmd_fsck,    &cmd_scrub,   &cmd_checkpoint, &cmd_condense,
        &cmd_stats,     &cmd_tier,   &cmd_cluster, &cmd_upgrade, &cmd_dump,       &cmd_man,
        NULL,
};

const struct cli_command *cli_command_find(const char *name)
{
        for (size_t i = 0; cli_commands[i]; i++) {
                if (strcmp(cli_commands[i]->name, name) == 0)
                        return cli_commands[i];
        }
        return NULL;
}

/* A command started with closed standard streams must not write into a file of the store. */
static void standard_streams_open(void)
{
        for (int fd = 0; fd <= 2; fd++) {
                if (fcntl(fd, F_GETFD) < 0) {
                        int opened = open("/dev/null", fd ? O_WRONLY : O_RDONLY);
                        cas_assert(opened == fd);
                }
        }
}

/* Splits at the first "--": options and operands before it, words for the program behind it. */
static int rest_find(int argc, char **argv)
{
        for (int i = 1; i < argc; i++) {
                if (strcmp(argv[i], "--") == 0)
                        return i;
        }
        return argc;
}

static int operands_check(const struct cli *cli)
{
        const struct cli_command *c = cli->command;
        if (cli->operand_count < c->operands_min)
                return cli_usage_error(cli, "too few arguments");
        if (cli->operand_count > c->operands_max)
                return cli_usage_error(cli, "too many arguments");
        if (cli->rest_count > 0 && !c->takes_rest)
                return cli_usage_error(cli, "nothing may follow --");
        return CLI_OK;
}

/* argv[0] is the name of the command. */
static int command_run(struct cli *cli, struct global_args *global, int argc, char **argv)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free void *args = cas_xcalloc(1, cli->command->args_bytes + 1);
        struct cli_option_set sets[] = {{cli->command->options, args},
                                        {cli_global_options, global}};
        int rest = rest_find(argc, argv);
        char *after = argv[rest];
        argv[rest] = NULL; /* getopt permutes up to here */
        int first;
        int rc = cli_options_parse(sets, CAS_COUNT(sets), rest, argv, false, &first, &err);
        argv[rest] = after;
        if (rc < 0)
                return cli_usage_error(cli, "%s", err.msg);
        if (global->help) {
                cli_help_command(cli->command, stdout);
                return cli_finish();
        }
        cli->store_option = global->store;
        cli->json = global->json;
        cli->operands = (const char **)argv + first;
        cli->operand_count = (size_t)(rest - first);
        cli->rest = (const char **)argv + (rest < argc ? rest + 1 : argc);
        cli->rest_count = rest < argc ? (size_t)(argc - rest - 1) : 0;
        rc = operands_check(cli);
        return rc == CLI_OK ? cli->command->run(cli, args) : rc;
}

int main(int argc, char **argv)
{
        standard_streams_open();
        struct cli cli = {0};
        struct global_args global = {0};
        struct cli_option_set sets[] = {{cli_global_options, &global}, {version_option, &global}};
        struct cas_err err = CAS_ERR_INIT;
        int first;
        if (cli_options_parse(sets, CAS_COUNT(sets), argc, argv, true, &first, &err) < 0)
                return cli_usage_error(&cli, "%s", err.msg);
        if (global.version) {
                puts("lamina " LAMINA_VERSION);
                return cli_finish();
        }
        const char *name = first < argc ? argv[first] : NULL;
        if (name && strcmp(name, "help") == 0 && !global.help) {
                global.help = true;
                name = ++first < argc ? argv[first] : NULL;
        }
        if (!name) {
                cli_help_all(global.help ? stdout : stderr);
                return global.help ? cli_finish() : CLI_USAGE;
        }
        if (strcmp(name, "hold") == 0 || strcmp(name, "fs") == 0 ||
            strcmp(name, "opener") == 0) /* mounts start these */
                return ffs_process_main(argc - first, argv + first);
        cli.command = cli_command_find(name);
        if (!cli.command)
                return cli_usage_error(&cli, "%s: no such command", name);
        return command_run(&cli, &global, argc - first, argv + first);
}
