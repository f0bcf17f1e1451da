/* SPDX-License-Identifier: Apache-2.0 */
/* lamina diff: what a sandbox changed. */
#include <stdio.h>

#include "fusefs/changes.h"
#include "tools/ops_json.h"
#include "tools/sandboxes.h"

struct diff_args {
        bool upper;
        bool all;
};

#define FIELD(name) offsetof(struct diff_args, name)
static const struct cli_option options[] = {
        {"upper", 0, CLI_FLAG, FIELD(upper), NULL,
         "DIR is an upper directory, though it be a mount point too"},
        {"all", 'a', CLI_FLAG, FIELD(all), NULL,
         "directories too that are in the upper directory, but as they are in the image"},
        {0},
};

static const char *const letters[] = {
        [FFS_CHANGE_ADDED] = "A", [FFS_CHANGE_MODIFIED] = "M", [FFS_CHANGE_DELETED] = "D"};
static const char *const kinds[] = {[FFS_CHANGE_ADDED] = "added",
                                    [FFS_CHANGE_MODIFIED] = "modified",
                                    [FFS_CHANGE_DELETED] = "deleted"};
static const char *const types[] = {
        [CAS_ENTRY_DIR] = "directory",
        [CAS_ENTRY_FILE] = "file",
        [CAS_ENTRY_SYMLINK] = "symlink",
        [CAS_ENTRY_CHARDEV] = "character device",
        [CAS_ENTRY_BLOCKDEV] = "block device",
        [CAS_ENTRY_FIFO] = "fifo",
        [CAS_ENTRY_SOCKET] = "socket",
        [CAS_ENTRY_HARDLINK] = "hard link",
        [CAS_ENTRY_WHITEOUT] = "",
};

/* One line for any name: what would break lines is told in octal. */
static void print_path(const char *path)
{
        putchar('/');
        for (const char *p = path; *p; p++) {
                unsigned char c = (unsigned char)*p;
                if (c < ' ' || c == 0x7f || c == '\\')
                        printf("\\%03o", c);
                else
                        putchar(c);
        }
        putchar('\n');
}

static int show_line(void *arg, const struct ffs_change *change, struct cas_err *err)
{
        (void)arg;
        (void)err;
        printf("%s ", letters[change->kind]);
        print_path(change->entry->path);
        return 0;
}

static int add_json(void *arg, const struct ffs_change *change, struct cas_err *err)
{
        (void)err;
        const struct cas_entry *e = change->entry;
        cas_cleanup_free char *path = cas_xasprintf("/%s", e->path);
        json_t *j =
                json_pack("{s:s, s:o}", "kind", kinds[change->kind], "path", op_text_json(path));
        if (change->kind != FFS_CHANGE_DELETED)
                json_object_set_new(j, "type", json_string(types[e->type]));
        if (e->type == CAS_ENTRY_FILE)
                json_object_set_new(j, "size", json_integer((json_int_t)e->size_bytes));
        if (e->type == CAS_ENTRY_HARDLINK) {
                cas_cleanup_free char *target = cas_xasprintf("/%s", e->target);
                json_object_set_new(j, "target", op_text_json(target));
        }
        json_array_append_new(arg, j);
        return 0;
}

static int diff(const struct cli *cli, const struct diff_args *a, const struct mounting *m,
                json_t *list, struct cas_err *err)
{
        sandbox_cleanup_arg struct sandbox_arg s = {0};
        op_cleanup_json json_t *prepared = NULL;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        struct ffs_changes_options how = {.with_unchanged_directories = a->all,
                                          .explicit_deletions = true};
        if (sandbox_arg_find(m, cli->operands[0], a->upper, &s, err) < 0 ||
            sandbox_arg_prepare(m, &s, image, &prepared, err) < 0)
                return -(int)err->code;
        int rc = ffs_changes_each(s.upper, image, &how, list ? add_json : show_line, list, err);
        mounting_forget(m, prepared);
        return rc;
}

static int run(const struct cli *cli, void *args)
{
        struct cas_err err = CAS_ERR_INIT;
        mounting_cleanup struct mounting m = {0};
        op_cleanup_json json_t *list = cli->json ? json_array() : NULL;
        if (mounting_open(cli, &m, &err) < 0 || diff(cli, args, &m, list, &err) < 0)
                return cli_report(cli->command->name, &err);
        if (!list)
                return cli_finish();
        op_cleanup_json json_t *result = json_pack("{s:O}", "changes", list);
        return cli_print_json(result);
}

const struct cli_command cmd_diff = {
        .name = "diff",
        .synopsis = "DIR",
        .summary = "show what a sandbox changed",
        .description =
                "Lists what differs from the image in the writable mount at DIR, or in the "
                "directory that keeps a mount's changes: A (added), M (modified) or D "
                "(deleted), and the path; a directory that was deleted is one line. Lines are "
                "sorted by path, a directory before what is in it. A renamed directory is "
                "deleted under its old name, and all that is in it added under the new one. "
                "Control characters and backslashes in names are written as \\ and three octal "
                "digits. With --json, types and sizes too.\n\n"
                "Files that were opened for writing count as modified, whatever was written.",
        .examples = "lamina diff /mnt\n"
                    "lamina diff --json /srv/changes",
        .options = options,
        .args_bytes = sizeof(struct diff_args),
        .operands_min = 1,
        .operands_max = 1,
        .run = run,
};
