/* SPDX-License-Identifier: Apache-2.0 */
/* lamina clone: a sandbox's changes become those of a second one. */
#include <stdio.h>

#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/sandboxes.h"

struct clone_args {
        bool upper;
        bool frozen;
};

#define FIELD(name) offsetof(struct clone_args, name)
static const struct cli_option options[] = {
        {"upper", 0, CLI_FLAG, FIELD(upper), NULL,
         "DIR is an upper directory, though it be a mount point too"},
        {"frozen", 0, CLI_FLAG, FIELD(frozen), NULL,
         "NEW-DIR is a snapshot: never mounted, but cloned, committed and compared"},
        {0},
};

static int run(const struct cli *cli, void *args)
{
        const struct clone_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_clone_counts counts = {0};
        cas_cleanup_free char *to = NULL;
        mounting_cleanup struct mounting m = {0};
        sandbox_cleanup_arg struct sandbox_arg s = {0};
        if (path_real(cli->operands[1], &to, &err) < 0 || mounting_open(cli, &m, &err) < 0 ||
            sandbox_arg_find(&m, cli->operands[0], a->upper, &s, &err) < 0 ||
            ffs_upper_clone(s.upper, to, a->frozen, &counts, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (!cli->json) {
                puts(to);
                return cli_finish();
        }
        op_cleanup_json json_t *result =
                json_pack("{s:o, s:I, s:I, s:I}", "dir", op_text_json(to), "files",
                          (json_int_t)counts.files, "sharedBytes", (json_int_t)counts.shared_bytes,
                          "copiedBytes", (json_int_t)counts.copied_bytes);
        return cli_print_json(result);
}

const struct cli_command cmd_clone = {
        .name = "clone",
        .synopsis = "DIR NEW-DIR",
        .summary = "give a sandbox's changes to a second one",
        .description =
                "Makes NEW-DIR an upper directory with the changes of the writable mount at "
                "DIR, or of the directory that keeps them. It is mounted over the same image: "
                "`lamina mount --upper NEW-DIR`. Data is shared where NEW-DIR's file system can "
                "share it (xfs, btrfs), else copied. DIR may be in use: then the clone is of no "
                "single instant, as any copy of a live directory.\n\n"
                "Files of a sandbox are written in place, so they are never shared by hard "
                "links, but for those of two snapshots (--frozen), which nobody writes.",
        .examples = "lamina clone /mnt /srv/second\n"
                    "lamina mount --upper /srv/second web:1.0 /mnt2",
        .options = options,
        .args_bytes = sizeof(struct clone_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
