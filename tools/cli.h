/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: the table of commands, what each of them is given, and how
 * results, errors and progress reach the person. One file per command
 * (tools/cmd_NAME.c); --help and the manual pages are made from the same table.
 * One thread, but where a function says otherwise. */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#include <jansson.h>

#include "cas/version.h"
#include "cas/err.h"
#include "tools/options.h"

#define LAMINA_VERSION CAS_VERSION

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* What every command is given. Strings are borrowed for the whole run. */
struct cli {
        const struct cli_command *command;
        const char *store_option; /* --store as it was given, or NULL */
        bool json;
        const char **operands; /* what is left after the options */
        size_t operand_count;
        const char **rest; /* what follows "--"; NULL-terminated */
        size_t rest_count;
};

struct cli_command {
        const char *name;
        const char *synopsis;             /* operands only */
        const char *summary;              /* one line */
        const char *description;          /* paragraphs, separated by an empty line */
        const char *examples;             /* lines, or NULL */
        const struct cli_option *options; /* ends with a NULL name; or NULL */
        size_t args_bytes;                /* size of what the options fill */
        size_t operands_min, operands_max;
        bool takes_rest; /* may have "-- …" */
        bool hidden;     /* not for people */
        int (*run)(const struct cli *cli, void *args);
};

extern const struct cli_command cmd_pull, cmd_push, cmd_copy, cmd_import, cmd_export, cmd_pack,
        cmd_unpack, cmd_images, cmd_commit, cmd_diff, cmd_reset, cmd_clone, cmd_inspect, cmd_tag,
        cmd_rm, cmd_mount, cmd_umount, cmd_mounts, cmd_als, cmd_run, cmd_bundle, cmd_broker,
        cmd_serve, cmd_gc, cmd_why, cmd_retention, cmd_fsck, cmd_scrub, cmd_checkpoint,
        cmd_condense, cmd_stats, cmd_tier, cmd_upgrade, cmd_dump, cmd_man, cmd_cluster;

/* All commands, in the order in which they are shown; ends with NULL. */
extern const struct cli_command *const cli_commands[];
const struct cli_command *cli_command_find(const char *name);
/* Options that every command takes. */
extern const struct cli_option cli_global_options[];

/* "lamina: what: why", and what to do next where the code tells it. Returns CLI_FAILED. */
int cli_report(const char *what, const struct cas_err *err);
/* A mistake in the arguments: message, and where help is. Returns CLI_USAGE. */
int cli_usage_error(const struct cli *cli, const char *fmt, ...) CAS_PRINTF(2, 3);
/* Prints a JSON value and a newline on stdout. Returns CLI_OK, or CLI_FAILED when stdout fails. */
int cli_print_json(const json_t *value);
/* Flushes stdout: a full disk or a closed pipe is a failure too. Returns an exit status. */
int cli_finish(void);
/* "1.5 MiB"; out has 16 bytes or more. Returns out. */
char *cli_bytes_text(uint64_t bytes, char *out, size_t out_bytes);

#endif
