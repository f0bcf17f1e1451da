/* SPDX-License-Identifier: Apache-2.0 */
/* lamina bundle: an image as an OCI runtime's bundle, for crun, runc and what
 * starts them. `lamina umount DIR` takes it away. */
#include <stdio.h>
#include <sys/stat.h>

#include "tools/bundle.h"
#include "tools/mount_choice.h"
#include "tools/mounting.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct bundle_args {
        struct mount_choice mount;
        const char *upper;
        const char *user;
        const char *workdir;
        const char *entrypoint;
        const char *network;
        const char *hostname;
        struct cli_list binds;
        struct cli_list env;
        bool rw;
        bool terminal;
};

#define FIELD(name) offsetof(struct bundle_args, name)
static const struct cli_option options[] = {
        MOUNT_CHOICE_OPTIONS(FIELD(mount)),
        {"rw", 0, CLI_FLAG, FIELD(rw), NULL,
         "writable; changes are kept in the store until it is unmounted"},
        {"upper", 0, CLI_STRING, FIELD(upper), "DIR", "writable; changes are kept in DIR"},
        {"bind", 'v', CLI_LIST, FIELD(binds), "SRC:DST[:ro]",
         "show a file or directory of the host at DST; again for more"},
        {"env", 'e', CLI_LIST, FIELD(env), "KEY[=VALUE]",
         "set a variable, or take it from here; again for more"},
        {"user", 'u', CLI_STRING, FIELD(user), "USER[:GROUP]", "instead of the image's user"},
        {"workdir", 'w', CLI_STRING, FIELD(workdir), "DIR", "instead of the image's"},
        {"entrypoint", 0, CLI_STRING, FIELD(entrypoint), "PROGRAM",
         "instead of the image's; empty: none"},
        {"network", 0, CLI_STRING, FIELD(network), "host|none", "default: host"},
        {"hostname", 0, CLI_STRING, FIELD(hostname), "NAME", "instead of the host's"},
        {"terminal", 't', CLI_FLAG, FIELD(terminal), NULL, "the program is given a terminal"},
        {0},
};

/* Where it is made, and what of it is there. */
struct target {
        struct mounting m;
        char *dir;    /* owned, as rootfs and id_map */
        char *rootfs; /* DIR/rootfs */
        char *upper;
        char *id_map;
        bool mounted;
};

static void target_release(struct target *t)
{
        mounting_close(&t->m);
        free(t->dir);
        free(t->rootfs);
        free(t->upper);
        free(t->id_map);
}

static int target_make(struct target *t, const char *dir, const char *upper, struct cas_err *err)
{
        cas_cleanup_free char *absolute = NULL;
        if (path_absolute(dir, &absolute, err) < 0 || path_make_dirs(absolute, 0700, err) < 0 ||
            path_real(absolute, &t->dir, err) < 0 ||
            (upper && path_real(upper, &t->upper, err) < 0))
                return -(int)err->code;
        t->rootfs = cas_xasprintf("%s/rootfs", t->dir);
        cas_cleanup_free char *config = cas_xasprintf("%s/config.json", t->dir);
        if (access(config, F_OK) == 0)
                return cas_fail(err, CAS_E_EXISTS, "%s has a config.json already", t->dir);
        return path_make_dirs(t->rootfs, 0700, err);
}

/* Of the container: a range of its own, or what a user without privileges has. */
static int ids_choose(const struct bundle_args *a, struct bundle_ids *out, struct cas_err *err)
{
        *out = (struct bundle_ids){0};
        if (a->mount.uid_range) {
                if (mount_choice_range(a->mount.uid_range, &out->first, &out->count, err) < 0)
                        return -(int)err->code;
                out->first_gid = out->first;
        } else if (geteuid() != 0) {
                *out = (struct bundle_ids){.first = geteuid(), .first_gid = getegid(), .count = 1};
        }
        return 0;
}

static int config_make(const struct target *t, const struct bundle_args *a, const struct cli *cli,
                       const json_t *prepared, struct cas_err *err)
{
        bool behind = cli->rest_count > 0;
        struct bundle_ids ids;
        run_cleanup_spec struct run_spec spec = RUN_SPEC_INIT;
        struct run_request request = {
                .root = t->rootfs,
                .config = json_object_get(prepared, "config"),
                .user = a->user,
                .workdir = a->workdir,
                .entrypoint = a->entrypoint,
                .env = a->env.items,
                .env_count = a->env.count,
                .binds = a->binds.items,
                .bind_count = a->binds.count,
                .words = behind ? cli->rest : cli->operands + 2,
                .word_count = behind ? cli->rest_count : cli->operand_count - 2,
                .hostname = a->hostname,
                .files_dir = t->dir,
                .read_only = !a->rw && !a->upper,
                .fixed = !a->rw && !a->upper,
                .network = !a->network || strcmp(a->network, "host") == 0,
        };
        if (ids_choose(a, &ids, err) < 0 || run_spec_make(&request, &spec, err) < 0)
                return -(int)err->code;
        if (ids.count == 1 && run_spec_alone(&spec, err) < 0)
                return -(int)err->code;
        spec.terminal = a->terminal;
        return bundle_write_plain(&spec, cli->operands[0], &ids, t->dir, err);
}

static int bundle_make(struct target *t, const struct bundle_args *a, const struct cli *cli,
                       struct ffs_mount_options *mount, struct cas_err *err)
{
        op_cleanup_json json_t *prepared = NULL;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        if (target_make(t, cli->operands[1], a->upper, err) < 0)
                return -(int)err->code;
        mount->dir = t->rootfs;
        mount->upper = t->upper;
        if (mounting_prepare(&t->m, cli->operands[0], &a->mount.wish, image, &prepared, err) < 0 ||
            mounting_mount(&t->m, image, prepared, mount, info, err) < 0)
                return -(int)err->code;
        t->mounted = true;
        return config_make(t, a, cli, prepared, err);
}

static int bundle_run(const struct cli *cli, void *args)
{
        struct bundle_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        struct target t = {0};
        struct ffs_mount_options mount = {
                .rw = a->rw || a->upper, .upper = a->upper, .guarded = a->rw || a->upper};
        if (a->network && strcmp(a->network, "host") != 0 && strcmp(a->network, "none") != 0)
                return cli_usage_error(cli, "--network: host or none");
        if (mount_choice_apply(&a->mount, &mount, &t.id_map, &err) < 0)
                return cli_usage_error(cli, "%s", err.msg);
        if (geteuid() != 0) {
                /* Runtimes map one id by themselves. */
                free(t.id_map);
                t.id_map = cas_xasprintf("0:%u:1;0:%u:1;squash", geteuid(), getegid());
                mount.id_map = t.id_map;
        }
        int status = CLI_OK;
        if (mounting_open(cli, &t.m, &err) < 0 || bundle_make(&t, a, cli, &mount, &err) < 0) {
                status = cli_report(cli->command->name, &err);
                struct cas_err ignored = CAS_ERR_INIT;
                struct ffs_mount_info gone;
                if (t.mounted && mounting_umount(&t.m, t.rootfs, &gone, &ignored) == 0)
                        bundle_clear(t.dir);
                else if (t.rootfs)
                        (void)rmdir(t.rootfs);
        } else {
                puts(t.dir);
                status = cli_finish();
        }
        target_release(&t);
        cli_list_release(&a->binds);
        cli_list_release(&a->env);
        return status;
}

const struct cli_command cmd_bundle = {
        .name = "bundle",
        .synopsis = "NAME:TAG DIR [-- ARGUMENT …]",
        .summary = "make a bundle for crun or runc of an image",
        .description =
                "Mounts the image on DIR/rootfs and writes DIR/config.json beside it, out of the "
                "image's User, Env, Entrypoint, Cmd and WorkingDir; what follows -- takes the "
                "place "
                "of Cmd. Any OCI runtime runs it: `crun run --bundle DIR ID`. DIR is made when it "
                "is not there.\n\n"
                "Read-only unless --rw or --upper is given: an image must then have what is "
                "mounted upon, such as /proc. `lamina umount DIR` unmounts it and removes "
                "config.json; it leaves DIR.\n\n"
                "With --uid-range, and for users other than root, the container is a user "
                "namespace of its own.",
        .examples = "lamina bundle --rw web:1.0 /run/web && crun run --bundle /run/web web\n"
                    "lamina umount /run/web",
        .options = options,
        .args_bytes = sizeof(struct bundle_args),
        .operands_min = 2,
        .operands_max = 1000,
        .takes_rest = true,
        .run = bundle_run,
};
