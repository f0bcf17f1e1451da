/* SPDX-License-Identifier: Apache-2.0 */
/* lamina broker: mounts images for users who may not mount. */
#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "cas/log.h"
#include "fusefs/broker.h"
#include "tools/mounting.h"
#include "tools/ops.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/policy.h"

#define POLICY_DEFAULT "/etc/lamina/broker.conf"
#define PER_USER_DEFAULT 256
#define PER_USER_MAX FFS_BROKER_CLIENTS_MAX

struct broker_args {
        const char *listen;
        const char *policy;
        uint64_t per_user;
        bool prepare;
};

static const struct cli_option options[] = {
        {"listen", 'l', CLI_STRING, offsetof(struct broker_args, listen), "PATH",
         "the socket; default: " FFS_BROKER_SOCKET},
        {"policy", 'p', CLI_STRING, offsetof(struct broker_args, policy), "FILE",
         "who may have which images; default: " POLICY_DEFAULT},
        {"per-user", 0, CLI_NUMBER, offsetof(struct broker_args, per_user), "N",
         "mounts that one user may have at a time; default: 256"},
        {"prepare", 0, CLI_FLAG, offsetof(struct broker_args, prepare), NULL,
         "only start the processes that serve mounts, which need more rights than the broker"},
        {0},
};

struct broker_tool {
        struct mounting mounting;
        struct policy *policy; /* owned */
        char *dir;             /* owned: RUN_DIR/broker */
        int stop_fd;
        atomic_uint_fast64_t next;
};

/* ---- what is granted ---- */

/* {"image": NAME:TAG, "platform"?: TEXT}. */
static int parse_request(const char *text, json_t **out, struct cas_ref *ref, struct cas_err *err)
{
        op_cleanup_json json_t *request = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(request))
                return cas_fail(err, CAS_E_INVALID, "the request is no JSON object");
        if (op_arg_ref(request, "image", ref, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&request);
        return 0;
}

static int check_policy(const struct broker_tool *b, const struct ffs_broker_peer *peer,
                        const char *image, struct cas_err *err)
{
        uint32_t gids[FFS_BROKER_GROUPS_MAX + 1];
        gids[0] = peer->gid;
        memcpy(gids + 1, peer->groups, peer->group_count * sizeof(gids[0]));
        if (policy_allows(b->policy, peer->uid, gids, peer->group_count + 1, image))
                return 0;
        return cas_fail(err, CAS_E_DENIED,
                        "the policy does not let you have %s: ask who runs this host", image);
}

static char *reply_text(const json_t *prepared)
{
        op_cleanup_json json_t *reply =
                json_pack("{s:O, s:O, s:O}", "name", json_object_get(prepared, "name"), "manifest",
                          json_object_get(prepared, "manifest"), "config",
                          json_object_get(prepared, "config"));
        return json_dumps(reply, JSON_COMPACT);
}

static int mount_for(struct broker_tool *b, const struct ffs_broker_peer *peer,
                     const struct ffs_image *image, const json_t *prepared,
                     struct ffs_broker_grant *out, struct cas_err *err)
{
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        /* By this name a broker that is started anew knows whose it is. */
        cas_cleanup_free char *dir =
                cas_xasprintf("%s/%d.%ju.%ju", b->dir, (int)peer->pid, (uintmax_t)peer->start_ticks,
                              (uintmax_t)atomic_fetch_add(&b->next, 1));
        const struct ffs_mount_options mount = {
                .dir = dir, .driver = FFS_DRIVER_OVERLAY, .id_map = peer->id_map};
        if (mkdir(dir, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", dir);
        if (mounting_mount(&b->mounting, image, prepared, &mount, info, err) < 0) {
                (void)rmdir(dir);
                return -(int)err->code;
        }
        *out = (struct ffs_broker_grant){.reply = reply_text(prepared), .dir = cas_steal(&dir)};
        return 0;
}

static int grant(void *arg, const struct ffs_broker_peer *peer, const char *request,
                 struct ffs_broker_grant *out, struct cas_err *err)
{
        struct broker_tool *b = arg;
        struct cas_ref ref;
        op_cleanup_json json_t *asked = NULL;
        op_cleanup_json json_t *prepared = NULL;
        cas_cleanup_free struct ffs_image *image = cas_xcalloc(1, sizeof(*image));
        const char *platform;
        if (parse_request(request, &asked, &ref, err) < 0 ||
            op_arg_string_opt(asked, "platform", &platform, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *name = op_ref_text(&ref);
        /* What may not be had is not looked for: the answer tells nothing of what there is. */
        /* Whoever asks has nothing fetched from anywhere. */
        const struct mounting_wish wish = {.platform = platform, .pull = "never"};
        if (check_policy(b, peer, name, err) < 0 ||
            mounting_prepare(&b->mounting, name, &wish, image, &prepared, err) < 0 ||
            mount_for(b, peer, image, prepared, out, err) < 0)
                return -(int)err->code;
        cas_log(CAS_LOG_INFO, "broker.granted", "uid=%u image=%s dir=%s", peer->uid, name,
                out->dir);
        return 0;
}

static void release(void *arg, const struct ffs_broker_grant *granted)
{
        struct broker_tool *b = arg;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free struct ffs_mount_info *info = cas_xcalloc(1, sizeof(*info));
        if (mounting_umount(&b->mounting, granted->dir, info, &err) < 0)
                cas_log(CAS_LOG_WARN, "broker.release", "dir=%s why=\"%s\"", granted->dir, err.msg);
        else
                (void)rmdir(granted->dir);
}

/* ---- start ---- */

/* A mount that an earlier broker made. */
struct left {
        struct broker_tool *broker;
        char *dir; /* owned */
        int pid;
        uintmax_t start_ticks;
};

static void *left_thread(void *arg)
{
        struct left *left = arg;
        const struct ffs_broker_grant granted = {.dir = left->dir};
        if (ffs_broker_await_process(left->pid, left->start_ticks, left->broker->stop_fd))
                release(left->broker, &granted);
        free(left->dir);
        free(left);
        return NULL;
}

static bool note_left(void *arg, const struct ffs_mount_info *info)
{
        json_t *dirs = arg;
        json_array_append_new(dirs, json_string(info->dir));
        return true;
}

/* Who has one of them may still run: it is kept for so long. */
static int adopt_left(struct broker_tool *b, struct cas_err *err)
{
        op_cleanup_json json_t *dirs = json_array();
        if (ffs_mount_each(&b->mounting.host, note_left, dirs, err) < 0)
                return -(int)err->code;
        size_t i, prefix = strlen(b->dir);
        json_t *dir;
        json_array_foreach(dirs, i, dir)
        {
                const char *path = json_string_value(dir);
                struct left one = {.broker = b};
                if (strncmp(path, b->dir, prefix) != 0 ||
                    sscanf(path + prefix, "/%d.%ju.", &one.pid, &one.start_ticks) != 2)
                        continue;
                struct left *left = cas_xmalloc(sizeof(*left));
                *left = one;
                left->dir = cas_xstrdup(path);
                pthread_t thread;
                int rc = pthread_create(&thread, NULL, left_thread, left);
                if (rc)
                        return cas_fail_sys(err, rc, "thread");
                (void)pthread_detach(thread);
        }
        return 0;
}

/* Mounting, and the ids of other users' namespaces: nothing else is needed. Processes that are
 * started have all that the unit allows. */
static int drop_capabilities(struct cas_err *err)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[2] = {0};
        const uint32_t kept =
                1u << CAP_SYS_ADMIN | 1u << CAP_SETUID | 1u << CAP_SETGID | 1u << CAP_DAC_OVERRIDE;
        data[0].effective = data[0].permitted = kept;
        if (syscall(SYS_capset, &header, data) < 0)
                return cas_fail_sys(err, errno, "give up capabilities");
        return 0;
}

static int serve(struct broker_tool *b, const struct broker_args *a, int stop_fd,
                 struct cas_err *err)
{
        const char *path = a->listen ? a->listen : FFS_BROKER_SOCKET;
        struct ffs_broker_config config = {
                .path = path,
                .grant = grant,
                .release = release,
                .arg = b,
                .per_user_max = a->per_user ? (unsigned)cas_min_u64(a->per_user, PER_USER_MAX)
                                            : PER_USER_DEFAULT,
        };
        b->dir = cas_xasprintf("%s/broker", b->mounting.host.run_dir);
        if (mkdir(b->dir, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", b->dir);
        if (adopt_left(b, err) < 0 || drop_capabilities(err) < 0)
                return -(int)err->code;
        cas_log(CAS_LOG_INFO, "broker.serving", "socket=%s store=%s", path,
                b->mounting.host.store_path);
        return ffs_broker_serve(&config, stop_fd, err);
}

static int run(const struct cli *cli, void *args)
{
        const struct broker_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        mounting_cleanup struct mounting m = {0};
        struct broker_tool b = {0};
        sigset_t signals;
        (void)sigemptyset(&signals);
        (void)sigaddset(&signals, SIGTERM);
        (void)sigaddset(&signals, SIGINT);
        (void)sigprocmask(SIG_BLOCK, &signals, NULL);
        (void)signal(SIGPIPE, SIG_IGN);
        cas_cleanup_fd int stop_fd = signalfd(-1, &signals, SFD_CLOEXEC);
        int rc = 0;
        if (geteuid() != 0)
                rc = cas_fail(&err, CAS_E_DENIED, "it mounts for others: run it as root");
        else if (stop_fd < 0)
                rc = cas_fail_sys(&err, errno, "signalfd");
        if (rc == 0 && !a->prepare)
                rc = policy_read(a->policy ? a->policy : POLICY_DEFAULT, &b.policy, &err);
        if (rc == 0)
                rc = mounting_open(cli, &m, &err);
        b.mounting = m;
        b.stop_fd = stop_fd;
        if (rc == 0)
                rc = a->prepare ? ffs_host_start(&m.host, &err) : serve(&b, a, stop_fd, &err);
        policy_free(b.policy);
        free(b.dir);
        return rc < 0 ? cli_report(cli->command->name, &err) : CLI_OK;
}

const struct cli_command cmd_broker = {
        .name = "broker",
        .synopsis = "",
        .summary = "mount images for users who may not mount",
        .description =
                "Runs as root, until it is ended by SIGTERM or SIGINT, and mounts images of the "
                "store for other users of the host: `lamina run` of a user asks it, and gets the "
                "image with the pages that all sandboxes of the host share, without a second "
                "copy in a store of the user's. Images are read-only and shown with the owners "
                "of the user's own namespace; what a sandbox changes is the user's.\n\n"
                "The policy file says who may have what; nobody else may have anything:\n\n"
                "[user alice]\n"
                "images = web:* base:12\n\n"
                "[group sandboxes]\n"
                "images = apps/*\n\n"
                "[user *]\n"
                "images = public/*\n\n"
                "Names of images are matched as NAME:TAG; * matches a slash, too. It is read once: "
                "restart the broker when it changed; sandboxes that run keep what they have.",
        .examples = "lamina broker --policy /etc/lamina/broker.conf",
        .options = options,
        .args_bytes = sizeof(struct broker_args),
        .run = run,
};
