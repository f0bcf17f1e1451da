/* SPDX-License-Identifier: Apache-2.0 */
/* lamina run: mounts an image, runs a program in it, and leaves nothing behind. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "fusefs/broker.h"
#include "fusefs/userns.h"
#include "tools/bundle.h"
#include "tools/mount_choice.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/run_cgroup.h"
#include "tools/run_place.h"
#include "tools/run_spec.h"
#include "tools/sandbox.h"
#include "tools/uid_pool.h"

#define BROKER_SOCKET_ENV "LAMINA_BROKER" /* another than the usual one */

struct run_args {
        struct mount_choice mount;
        const char *upper;
        const char *runtime;
        const char *user;
        const char *workdir;
        const char *entrypoint;
        const char *network;
        const char *hostname;
        const char *memory;
        struct cli_list binds;
        struct cli_list volumes;
        struct cli_list env;
        struct cli_list dns;
        struct cli_list dns_search;
        struct cli_list hosts;
        bool read_only;
        bool keep;
        bool broker;
        bool nested;
};

#define FIELD(name) offsetof(struct run_args, name)
static const struct cli_option options[] = {
        {"runtime", 0, CLI_STRING, FIELD(runtime), "bwrap|crun",
         "what makes the sandbox; default: bwrap"},
        MOUNT_CHOICE_OPTIONS(FIELD(mount)),
        {"upper", 0, CLI_STRING, FIELD(upper), "DIR",
         "keep changes in DIR, and begin with those that are there"},
        {"keep", 0, CLI_FLAG, FIELD(keep), NULL,
         "keep changes in the store, and say on stderr where"},
        {"broker", 0, CLI_FLAG, FIELD(broker), NULL,
         "the image is the host's: ask its broker for it (lamina-broker(1))"},
        {"read-only", 0, CLI_FLAG, FIELD(read_only), NULL,
         "the root file system cannot be written; /tmp can"},
        {"nested", 0, CLI_FLAG, FIELD(nested), NULL,
         "let it make containers in it: /proc is shown whole; only with --uid-range, or as a user "
         "other than root"},
        {"bind", 'v', CLI_LIST, FIELD(binds), "SRC:DST[:ro]",
         "show a file or directory of the host at DST; again for more"},
        {"volume", 0, CLI_LIST, FIELD(volumes), "PATH",
         "a directory of the sandbox that is none of its root file system, kept with its changes: "
         "where programs inside need what overlays cannot give; again for more"},
        {"env", 'e', CLI_LIST, FIELD(env), "KEY[=VALUE]",
         "set a variable, or take it from here; again for more"},
        {"user", 'u', CLI_STRING, FIELD(user), "USER[:GROUP]", "instead of the image's user"},
        {"workdir", 'w', CLI_STRING, FIELD(workdir), "DIR", "instead of the image's"},
        {"entrypoint", 0, CLI_STRING, FIELD(entrypoint), "PROGRAM",
         "instead of the image's; empty: none"},
        {"network", 0, CLI_STRING, FIELD(network), "host|none",
         "none: a network of its own with nothing but loopback; default: host"},
        {"memory", 0, CLI_STRING, FIELD(memory), "BYTES",
         "limit of the memory it may use (K, M, G or T may follow)"},
        {"hostname", 0, CLI_STRING, FIELD(hostname), "NAME", "instead of the host's"},
        {"dns", 0, CLI_LIST, FIELD(dns), "ADDRESS",
         "a resolver, instead of those in the host's resolv.conf; again for more"},
        {"dns-search", 0, CLI_LIST, FIELD(dns_search), "DOMAIN",
         "where short names are looked for; again for more"},
        {"hosts", 0, CLI_LIST, FIELD(hosts), "NAME:ADDRESS",
         "a line more of /etc/hosts; again for more"},
        {0},
};

/* ---- the sandbox ---- */

/* A range of the pool in place of "auto"; *text is owned by the caller. */
static int range_choose(struct run_place *s, struct run_args *a, char **text, struct cas_err *err)
{
        if (!a->mount.uid_range || strcmp(a->mount.uid_range, "auto") != 0 || s->rootless)
                return 0;
        if (uid_pool_take(s->m.host.run_dir, &s->pool_first, err) < 0)
                return -(int)err->code;
        *text = cas_xasprintf("%u:%d", s->pool_first, UID_POOL_COUNT);
        a->mount.uid_range = *text;
        return 0;
}

/* Has the image made ready, and says how it is to be mounted. */
static int sandbox_prepare(struct run_place *s, const struct run_args *a, const char *name,
                           struct ffs_image *image, json_t **prepared,
                           struct ffs_mount_options *mount, struct cas_err *err)
{
        *mount = (struct ffs_mount_options){
                .dir = s->root, .rw = true, .upper = s->upper, .guarded = true};
        if (mount_choice_apply(&a->mount, mount, &s->id_map, err) < 0)
                return -(int)err->code;
        if (s->rootless) {
                if (mount->driver == FFS_DRIVER_OVERLAY)
                        return cas_fail(err, CAS_E_DENIED, "--driver overlay needs root");
                mount->driver = FFS_DRIVER_FUSE;
                free(s->id_map);
                s->id_map = rootless_map_inside(&s->ids);
                mount->id_map = s->id_map;
        } else if (s->id_map && ffs_userns_open(s->id_map, &s->userns_fd, err) < 0) {
                return -(int)err->code;
        }
        return mounting_prepare(&s->m, name, &a->mount.wish, image, prepared, err);
}

static int sandbox_spec(const struct run_place *s, const struct run_args *a, const struct cli *cli,
                        const json_t *prepared, struct run_spec *out, struct cas_err *err)
{
        bool behind = cli->rest_count > 0;
        struct run_request request = {
                .root = s->root,
                .config = json_object_get(prepared, "config"),
                .user = a->user,
                .workdir = a->workdir,
                .entrypoint = a->entrypoint,
                .env = a->env.items,
                .env_count = a->env.count,
                .binds = a->binds.items,
                .bind_count = a->binds.count,
                .words = behind ? cli->rest : cli->operands + 1,
                .word_count = behind ? cli->rest_count : cli->operand_count - 1,
                .dns = a->dns.items,
                .dns_count = a->dns.count,
                .dns_search = a->dns_search.items,
                .dns_search_count = a->dns_search.count,
                .hosts = a->hosts.items,
                .host_count = a->hosts.count,
                .volumes = a->volumes.items,
                .volume_count = a->volumes.count,
                .hostname = a->hostname,
                .files_dir = s->dir,
                .volume_dir = s->volumes,
                .read_only = a->read_only,
                .network = !a->network || strcmp(a->network, "host") == 0,
        };
        if (run_spec_make(&request, out, err) < 0)
                return -(int)err->code;
        out->nested = s->rootless;
        out->whole_proc = a->nested;
        out->userns_fd = s->userns_fd;
        out->cgroup_fd = s->cgroup_fd;
        if (s->rootless && s->ids.uid_count == 1 && run_spec_alone(out, err) < 0)
                return -(int)err->code;
        return run_points_make(out, err);
}

static int runtime_start(const struct run_place *s, const struct run_args *a,
                         const struct run_spec *spec, pid_t *pid, pid_t *signal_pid,
                         struct cas_err *err)
{
        if (!a->runtime || strcmp(a->runtime, "bwrap") == 0)
                return sandbox_start(spec, pid, signal_pid, err);
        if (path_make_dirs(s->state, 0700, err) < 0 || bundle_write(spec, s->dir, err) < 0 ||
            bundle_start(spec, s->dir, s->state, s->id, pid, err) < 0)
                return -(int)err->code;
        *signal_pid = *pid;
        return 0;
}

/* ---- signals ---- */

static void signals_block(sigset_t *out)
{
        static const int passed_on[] = {SIGTERM, SIGINT,  SIGHUP,  SIGQUIT,
                                        SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};
        sigemptyset(out);
        for (size_t i = 0; i < CAS_COUNT(passed_on); i++)
                sigaddset(out, passed_on[i]);
        sigaddset(out, SIGCHLD);
        (void)sigprocmask(SIG_BLOCK, out, NULL);
}

/* Waits for the runtime and passes signals on. Returns the exit status. */
static int runtime_wait(pid_t pid, pid_t signal_pid, const sigset_t *signals)
{
        for (;;) {
                int status;
                if (waitpid(pid, &status, WNOHANG) == pid)
                        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                siginfo_t info;
                int sig = sigwaitinfo(signals, &info);
                if (sig <= 0 || sig == SIGCHLD || info.si_code == SI_KERNEL || signal_pid <= 0)
                        continue; /* the terminal's own go to the whole group anyway */
                (void)kill(signal_pid, sig);
        }
}

/* What is to be run, and by whom it was asked for. */
struct run {
        struct run_place *s;
        const struct run_args *args;
        const struct cli *cli;
        const sigset_t *signals;
        json_t *prepared; /* owned */
};

/* In the namespaces in which the root file system is mounted. *status: the program's. */
static int run_here(const struct run *r, int *status, struct cas_err *err)
{
        run_cleanup_spec struct run_spec spec = RUN_SPEC_INIT;
        pid_t pid, signal_pid;
        if (sandbox_spec(r->s, r->args, r->cli, r->prepared, &spec, err) < 0 ||
            runtime_start(r->s, r->args, &spec, &pid, &signal_pid, err) < 0)
                return -(int)err->code;
        *status = runtime_wait(pid, signal_pid, r->signals);
        return 0;
}

static int run_in_child(void *arg)
{
        const struct run *r = arg;
        struct cas_err err = CAS_ERR_INIT;
        int status;
        return run_here(r, &status, &err) < 0 ? cli_report(r->cli->command->name, &err) : status;
}

/* A user without privileges: a child makes its namespaces and mounts in them, this process has that
 * served, and then the child runs the sandbox. */
static int run_rootless(struct run *r, const struct ffs_image *image,
                        struct ffs_mount_options *mount, int *status, struct cas_err *err)
{
        struct rootless_child child;
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        if (rootless_start(&r->s->ids, r->s->root, run_in_child, r, &child, err) < 0)
                return -(int)err->code;
        mount->fuse_fd = &child.fuse_fd;
        int rc = mounting_mount(&r->s->m, image, r->prepared, mount, info, err);
        if (rc == 0) {
                (void)close(
                        cas_steal_fd(&child.fuse_fd)); /* so that the mount ends with the child */
                rootless_go(&child);
                *status = runtime_wait(child.pid, child.pid, r->signals);
                child.pid = 0;
        }
        rootless_release(&child);
        return rc;
}

/* {"image", "platform"?} */
static char *broker_request(const struct run *r)
{
        op_cleanup_json json_t *request = json_pack("{s:s}", "image", r->cli->operands[0]);
        if (request && r->args->mount.wish.platform)
                json_object_set_new(request, "platform", json_string(r->args->mount.wish.platform));
        return request ? json_dumps(request, JSON_COMPACT) : NULL;
}

/* In the sandbox's namespaces, whose ids the broker shows the image's owners as: attaches what it
 * grants, and stacks the user's changes upon it. The broker keeps it while this process lives. */
static int mount_from_broker(struct run *r, struct cas_err *err)
{
        const char *path = getenv(BROKER_SOCKET_ENV);
        cas_cleanup_free char *request = broker_request(r);
        cas_cleanup_free char *reply = NULL;
        cas_cleanup_free char *lower = cas_xasprintf("%s/lower", r->s->dir);
        cas_cleanup_fd int mount_fd = -1;
        int connection_fd; /* open until the end */
        if (!request)
                return cas_fail(err, CAS_E_INVALID, "the image's name is not UTF-8");
        if (ffs_broker_ask(path ? path : FFS_BROKER_SOCKET, request, &reply, &mount_fd,
                           &connection_fd, err) < 0 ||
            path_make_dirs(lower, 0700, err) < 0 || ffs_broker_attach(mount_fd, lower, err) < 0 ||
            ffs_userns_mount_overlay(lower, r->s->upper, r->s->root, err) < 0)
                return -(int)err->code;
        r->prepared = json_loads(reply, JSON_REJECT_DUPLICATES, NULL);
        return r->prepared ? 0 : cas_fail(err, CAS_E_INVALID, "the broker's answer is no JSON");
}

static int run_from_broker(void *arg)
{
        struct run *r = arg;
        struct cas_err err = CAS_ERR_INIT;
        if (mount_from_broker(r, &err) < 0)
                return cli_report(r->cli->command->name, &err);
        return run_in_child(r);
}

static int run_brokered(struct run *r, int *status, struct cas_err *err)
{
        struct rootless_child child;
        if (!r->s->rootless)
                return cas_fail(err, CAS_E_INVALID,
                                "--broker is for users who may not mount: root runs images as they "
                                "are");
        if (rootless_start(&r->s->ids, NULL, run_from_broker, r, &child, err) < 0)
                return -(int)err->code;
        rootless_go(&child);
        *status = runtime_wait(child.pid, child.pid, r->signals);
        child.pid = 0;
        rootless_release(&child);
        return 0;
}

static int limit_memory(struct run_place *s, const struct run_args *a, struct cas_err *err)
{
        uint64_t bytes;
        if (!a->memory)
                return 0;
        if (!cli_bytes_parse(a->memory, &bytes) || bytes == 0)
                return cas_fail(err, CAS_E_INVALID, "--memory %s: bytes, K, M, G or T", a->memory);
        return run_cgroup_make(s->id, bytes, &s->cgroup_fd, err);
}

static int sandbox_run(struct run *r, int *status, struct cas_err *err)
{
        struct ffs_mount_options mount;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        if (limit_memory(r->s, r->args, err) < 0)
                return -(int)err->code;
        if (r->args->broker)
                return run_brokered(r, status, err);
        if (sandbox_prepare(r->s, r->args, r->cli->operands[0], image, &r->prepared, &mount, err) <
            0)
                return -(int)err->code;
        if (r->s->rootless)
                return run_rootless(r, image, &mount, status, err);
        if (mounting_mount(&r->s->m, image, r->prepared, &mount, info, err) < 0)
                return -(int)err->code;
        return run_here(r, status, err);
}

static const char *choice_wrong(const struct run_args *a)
{
        if (a->runtime && strcmp(a->runtime, "bwrap") != 0 && strcmp(a->runtime, "crun") != 0)
                return "--runtime: bwrap or crun";
        if (a->network && strcmp(a->network, "host") != 0 && strcmp(a->network, "none") != 0)
                return "--network: host or none";
        if (a->nested && !a->mount.uid_range && geteuid() == 0)
                return "--nested: with --uid-range only, since root would be the host's";
        return NULL;
}

static int run(const struct cli *cli, void *args)
{
        struct run_args *a = args;
        const char *wrong = choice_wrong(a);
        if (wrong)
                return cli_usage_error(cli, "%s", wrong);
        sigset_t signals;
        signals_block(&signals);
        struct cas_err err = CAS_ERR_INIT;
        struct run_place s = RUN_PLACE_INIT;
        cas_cleanup_free char *range = NULL;
        struct run r = {.s = &s, .args = a, .cli = cli, .signals = &signals};
        int status = CLI_FAILED;
        s.rootless = geteuid() != 0;
        s.keep = a->keep;
        s.has_cgroup = a->memory != NULL;
        s.brokered = a->broker;
        int rc = mounting_open(cli, &s.m, &err);
        if (rc == 0 && s.rootless)
                rc = rootless_ids_find(&s.ids, &err);
        if (rc == 0)
                rc = range_choose(&s, a, &range, &err);
        if (rc == 0)
                rc = run_place_make(&s, a->upper, &err);
        if (rc == 0)
                rc = run_place_watch(&s, &err);
        if (rc == 0)
                rc = sandbox_run(&r, &status, &err);
        if (rc < 0)
                status = cli_report(cli->command->name, &err);
        struct cas_err undone = CAS_ERR_INIT;
        if (run_place_undo(&s, &undone) < 0)
                status = cli_report(cli->command->name, &undone);
        else if (s.dir && s.keep && s.upper_is_ours)
                fprintf(stderr, "changes are kept in %s\n", s.upper);
        run_place_release(&s);
        json_decref(r.prepared);
        struct cli_list *const lists[] = {&a->binds, &a->volumes,    &a->env,
                                          &a->dns,   &a->dns_search, &a->hosts};
        for (size_t i = 0; i < CAS_COUNT(lists); i++)
                cli_list_release(lists[i]);
        return status;
}

const struct cli_command cmd_run = {
        .name = "run",
        .synopsis = "[HOST/]NAME:TAG [-- ARGUMENT …]",
        .summary = "run a program in a sandbox over an image",
        .description =
                "Mounts the image with a writable upper directory, runs its entrypoint and command "
                "in a sandbox, and takes everything away at the end, however it ends. User, Env, "
                "Entrypoint, Cmd and WorkingDir of the image are honoured; what follows -- takes "
                "the place of Cmd. The host's resolv.conf is shown when the network is the "
                "host's. An image at a registry is named as for lamina-mount(1).\n\n"
                "SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on. The exit "
                "status is the program's, 128 and the number of the signal when one ended it, 127 "
                "when it is not in the image.\n\n"
                "With --uid-range the sandbox is a user namespace of its own: root in it is FIRST "
                "on "
                "the host, and nobody there; `--uid-range auto` takes a free range of those that "
                "/etc/subuid and /etc/subgid give to the name lamina. A --volume is a plain "
                "directory of the host, made for "
                "this sandbox: podman in it wants one at /var/lib/containers, and --nested.\n\n"
                "A user other than root is root in the sandbox, and its subordinate ids "
                "(/etc/subuid, "
                "/etc/subgid) are the others in it; without those, everything belongs to it alone. "
                "The file system is mounted in the sandbox's own namespaces and goes with it.\n\n"
                "The sandbox has PID, IPC, UTS and mount namespaces of its own, few capabilities "
                "and no way to gain privileges. It is no border against hostile programs that run "
                "as root: use a user (--user) for those.",
        .examples = "lamina run web:1.0\n"
                    "lamina run --env PORT=8080 --bind /srv/data:/data web:1.0\n"
                    "lamina run --network none debian:12 -- sh -c 'id; ls /'",
        .options = options,
        .args_bytes = sizeof(struct run_args),
        .operands_min = 1,
        .operands_max = 1000,
        .takes_rest = true,
        .run = run,
};
