/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/rootless.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "cas/io.h"
#include "cas/removetree.h"
#include "fusefs/userns.h"

#define SUBIDS_BYTES_MAX (1024 * 1024)

extern char **environ;

/* ---- ids ---- */

static bool number_take(char **at, uint32_t *out)
{
        const char *text = strsep(at, ":");
        char *end;
        if (!text || text[0] < '0' || text[0] > '9')
                return false;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        *out = (uint32_t)value;
        return *end == '\0' && errno == 0 && value < UINT32_MAX;
}

void rootless_ranges_add(const char *text, size_t len, const char *name, uint32_t id,
                         struct rootless_range *ranges, size_t *count)
{
        cas_cleanup_free char *copy = cas_xstrndup(text, len);
        char number[16], *rest = copy;
        (void)snprintf(number, sizeof(number), "%u", id);
        for (char *line; *count < ROOTLESS_RANGES_MAX && (line = strsep(&rest, "\n"));) {
                uint32_t first, length;
                char *at = line;
                const char *who = strsep(&at, ":");
                if ((strcmp(who, name) != 0 && (id == UINT32_MAX || strcmp(who, number) != 0)) ||
                    !number_take(&at, &first) || !number_take(&at, &length) || at)
                        continue;
                const struct rootless_range *last = *count ? &ranges[*count - 1] : NULL;
                uint32_t inside = last ? last->inside + last->count : 0;
                /* Neither side may reach the last id of all, which means none. */
                if (length == 0 || length > UINT32_MAX - first || length > UINT32_MAX - inside)
                        continue;
                ranges[(*count)++] = (struct rootless_range){
                        .inside = inside, .outside = first, .count = length};
        }
}

static int subids_read(const char *path, const char *name, uint32_t id,
                       struct rootless_range *ranges, size_t *count, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        if (cas_io_read_file(cas_io_posix(), AT_FDCWD, path, SUBIDS_BYTES_MAX, &text, &why) < 0) {
                if (why.code == CAS_E_NOTFOUND)
                        return 0;
                *err = why;
                return -(int)err->code;
        }
        rootless_ranges_add(cas_buf_str(&text), text.len_bytes, name, id, ranges, count);
        return 0;
}

static bool program_there(const char *name)
{
        const char *path = getenv("PATH");
        cas_cleanup_free char *copy = cas_xstrdup(path ? path : "/usr/bin:/bin");
        char *at = copy;
        for (char *dir; (dir = strsep(&at, ":"));) {
                cas_cleanup_free char *full = cas_xasprintf("%s/%s", dir, name);
                if (access(full, X_OK) == 0)
                        return true;
        }
        return false;
}

int rootless_ids_find(struct rootless_ids *out, struct cas_err *err)
{
        const struct rootless_range self = {.outside = geteuid(), .count = 1};
        const struct rootless_range group = {.outside = getegid(), .count = 1};
        const struct passwd *user = getpwuid(geteuid());
        const char *name = user ? user->pw_name : "";
        *out = (struct rootless_ids){
                .uids = {self}, .gids = {group}, .uid_count = 1, .gid_count = 1};
        if (!program_there("newuidmap") || !program_there("newgidmap"))
                return 0;
        if (subids_read("/etc/subuid", name, geteuid(), out->uids, &out->uid_count, err) < 0 ||
            subids_read("/etc/subgid", name, geteuid(), out->gids, &out->gid_count, err) < 0)
                return -(int)err->code;
        if (out->uid_count == 1 || out->gid_count == 1)
                out->uid_count = out->gid_count = 1;
        return 0;
}

static uint32_t ids_total(const struct rootless_range *ranges, size_t count)
{
        return ranges[count - 1].inside + ranges[count - 1].count;
}

char *rootless_map_inside(const struct rootless_ids *ids)
{
        return cas_xasprintf("0:0:%u;0:0:%u;squash", ids_total(ids->uids, ids->uid_count),
                             ids_total(ids->gids, ids->gid_count));
}

static void ranges_print(struct cas_buf *out, const struct rootless_range *ranges, size_t count)
{
        for (size_t i = 0; i < count; i++)
                cas_buf_printf(out, "%s%u:%u:%u", i ? "," : "", ranges[i].inside, ranges[i].outside,
                               ranges[i].count);
        cas_buf_append_str(out, ";");
}

char *rootless_map_outside(const struct rootless_ids *ids)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        ranges_print(&text, ids->uids, ids->uid_count);
        ranges_print(&text, ids->gids, ids->gid_count);
        cas_buf_append_str(&text, "squash");
        return cas_xstrdup(cas_buf_str(&text));
}

/* ---- what goes wrong ---- */

static bool setting_is(const char *path, char value)
{
        char text = 0;
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd >= 0 && read(fd, &text, 1) == 1 && text == value;
}

/* Why the kernel lets this user have no user namespace, or nothing in it. */
static int fail_userns(int sys_errno, const char *what, struct cas_err *err)
{
        if (setting_is("/proc/sys/kernel/unprivileged_userns_clone", '0'))
                return cas_fail(err, CAS_E_DENIED,
                                "users other than root may not make user namespaces here: root "
                                "lets them by `sysctl kernel.unprivileged_userns_clone=1`");
        if (setting_is("/proc/sys/user/max_user_namespaces", '0') || sys_errno == ENOSPC)
                return cas_fail(err, CAS_E_DENIED,
                                "no user namespaces may be made, or no more of them: root lets "
                                "them by `sysctl user.max_user_namespaces=10000`");
        if (setting_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", '1'))
                return cas_fail(err, CAS_E_DENIED,
                                "AppArmor keeps users from user namespaces: root lets them by an "
                                "AppArmor profile for this program with `userns,`, or by `sysctl "
                                "kernel.apparmor_restrict_unprivileged_userns=0`");
        if (sys_errno == EINVAL || sys_errno == ENOSYS)
                return cas_fail(err, CAS_E_UNSUPPORTED, "this kernel has no user namespaces");
        return cas_fail_sys(err, sys_errno, "%s", what);
}

/* ---- between parent and child ---- */

/* What a step came to, with a descriptor or -1. */
static int report_send(int fd, const struct cas_err *result, int pass_fd)
{
        struct iovec iov = {.iov_base = (void *)(uintptr_t)result, .iov_len = sizeof(*result)};
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
        if (pass_fd >= 0) {
                header.msg_control = control.bytes;
                header.msg_controllen = sizeof(control.bytes);
                struct cmsghdr *c = CMSG_FIRSTHDR(&header);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(c), &pass_fd, sizeof(int));
        }
        return sendmsg(fd, &header, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static int report_receive(int fd, int *passed_fd, struct cas_err *err)
{
        struct cas_err result = CAS_ERR_INIT;
        struct iovec iov = {.iov_base = &result, .iov_len = sizeof(result)};
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr header = {.msg_iov = &iov,
                                .msg_iovlen = 1,
                                .msg_control = control.bytes,
                                .msg_controllen = sizeof(control.bytes)};
        ssize_t n;
        do
                n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n != (ssize_t)sizeof(result))
                return cas_fail(err, CAS_E_IO, "the process of the sandbox ended early");
        const struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        if (c && c->cmsg_type == SCM_RIGHTS)
                memcpy(passed_fd, CMSG_DATA(c), sizeof(int));
        if (result.code == CAS_OK)
                return 0;
        *err = result;
        return -(int)err->code;
}

static bool told_to_go(int fd)
{
        char byte;
        ssize_t n;
        do
                n = read(fd, &byte, 1);
        while (n < 0 && errno == EINTR);
        return n == 1;
}

/* ---- the child ---- */

struct plan {
        const char *fuse_dir;
        int (*fn)(void *arg);
        void *arg;
        pid_t parent;
};

/* With its ids mapped: becomes root and has mounts of its own. */
static int become_root(const struct plan *plan, int *fuse_fd, struct cas_err *err)
{
        /* setgroups is forbidden where only the user is mapped. */
        if ((setgroups(0, NULL) < 0 && errno != EPERM) || setresgid(0, 0, 0) < 0 ||
            setresuid(0, 0, 0) < 0)
                return fail_userns(errno, "become root of a user namespace", err);
        if (unshare(CLONE_NEWNS) < 0)
                return fail_userns(errno, "make a mount namespace", err);
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                return fail_userns(errno, "keep mounts to the sandbox", err);
        if (!plan->fuse_dir)
                return 0;
        if (ffs_userns_mount_fuse(plan->fuse_dir, fuse_fd, err) < 0)
                return err->sys_errno == EPERM ? fail_userns(EPERM, "mount FUSE", err)
                                               : -(int)err->code;
        return 0;
}

static CAS_NORETURN void child_main(const struct plan *plan, int fd)
{
        struct cas_err err = CAS_ERR_INIT;
        int fuse_fd = -1;
        if (unshare(CLONE_NEWUSER) < 0)
                (void)fail_userns(errno, "make a user namespace", &err);
        if (report_send(fd, &err, -1) < 0 || err.code || !told_to_go(fd))
                _exit(1);
        (void)become_root(plan, &fuse_fd, &err);
        /* Other ids have taken it away, had it been set before. */
        if (err.code == CAS_OK && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0))
                (void)cas_fail_sys(&err, errno, "prctl");
        if (report_send(fd, &err, fuse_fd) < 0 || err.code)
                _exit(1);
        if (fuse_fd >= 0)
                (void)close(fuse_fd);
        if (getppid() != plan->parent || !told_to_go(fd))
                _exit(1);
        (void)close(fd);
        int status = plan->fn(plan->arg);
        (void)fflush(NULL);
        _exit(status);
}

/* ---- the parent ---- */

static int proc_write(pid_t pid, const char *name, const char *text, struct cas_err *err)
{
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                return fail_userns(errno, path, err);
        return 0;
}

static int map_by_program(const char *program, pid_t pid, const struct rootless_range *ranges,
                          size_t count, struct cas_err *err)
{
        char numbers[1 + 3 * ROOTLESS_RANGES_MAX][16];
        const char *argv[3 + 3 * ROOTLESS_RANGES_MAX] = {program};
        size_t n = 0;
        (void)snprintf(numbers[n++], sizeof(numbers[0]), "%d", (int)pid);
        for (size_t i = 0; i < count; i++) {
                (void)snprintf(numbers[n++], sizeof(numbers[0]), "%u", ranges[i].inside);
                (void)snprintf(numbers[n++], sizeof(numbers[0]), "%u", ranges[i].outside);
                (void)snprintf(numbers[n++], sizeof(numbers[0]), "%u", ranges[i].count);
        }
        for (size_t i = 0; i < n; i++)
                argv[i + 1] = numbers[i];
        pid_t helper;
        int status = -1;
        int rc = posix_spawnp(&helper, program, NULL, NULL, (char **)(uintptr_t)argv, environ);
        if (rc)
                return cas_fail_sys(err, rc, "start %s", program);
        while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
                continue;
        if (status == 0)
                return 0;
        return cas_fail(err, CAS_E_DENIED,
                        "%s does not map the ids that /etc/subuid and /etc/subgid give this user: "
                        "it is to be set-uid root, or have the capability (package uidmap)",
                        program);
}

static int map_ids(pid_t pid, const struct rootless_ids *ids, struct cas_err *err)
{
        char uid_map[64], gid_map[64];
        if (ids->uid_count > 1) {
                if (map_by_program("newuidmap", pid, ids->uids, ids->uid_count, err) < 0 ||
                    map_by_program("newgidmap", pid, ids->gids, ids->gid_count, err) < 0)
                        return -(int)err->code;
                return 0;
        }
        (void)snprintf(uid_map, sizeof(uid_map), "0 %u 1\n", ids->uids[0].outside);
        (void)snprintf(gid_map, sizeof(gid_map), "0 %u 1\n", ids->gids[0].outside);
        if (proc_write(pid, "uid_map", uid_map, err) < 0 ||
            proc_write(pid, "setgroups", "deny", err) < 0 ||
            proc_write(pid, "gid_map", gid_map, err) < 0)
                return -(int)err->code;
        return 0;
}

void rootless_go(struct rootless_child *c)
{
        (void)!write(c->fd, "", 1);
        (void)close(cas_steal_fd(&c->fd));
}

void rootless_release(struct rootless_child *c)
{
        if (c->fd >= 0)
                (void)close(cas_steal_fd(&c->fd));
        if (c->fuse_fd >= 0)
                (void)close(cas_steal_fd(&c->fuse_fd));
        while (c->pid > 0 && waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
                continue;
        c->pid = 0;
}

int rootless_start(const struct rootless_ids *ids, const char *fuse_dir, int (*fn)(void *arg),
                   void *arg, struct rootless_child *out, struct cas_err *err)
{
        int pair[2];
        const struct plan plan = {.fuse_dir = fuse_dir, .fn = fn, .arg = arg, .parent = getpid()};
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return cas_fail_sys(err, errno, "socketpair");
        struct rootless_child c = {.pid = fork(), .fd = pair[0], .fuse_fd = -1};
        if (c.pid == 0) {
                (void)close(pair[0]);
                child_main(&plan, pair[1]);
        }
        (void)close(pair[1]);
        int none = -1;
        int rc = c.pid < 0 ? cas_fail_sys(err, errno, "fork") : report_receive(c.fd, &none, err);
        if (rc == 0)
                rc = map_ids(c.pid, ids, err);
        if (rc == 0) {
                (void)!write(c.fd, "", 1); /* where it is gone, so is its report */
                rc = report_receive(c.fd, &c.fuse_fd, err);
        }
        if (rc < 0) {
                rootless_release(&c);
                return rc;
        }
        *out = c;
        return 0;
}

static int remove_in_child(void *arg)
{
        struct cas_err err = CAS_ERR_INIT;
        return cas_remove_tree(arg, &err) < 0 ? 1 : 0;
}

int rootless_remove_tree(const struct rootless_ids *ids, const char *dir, struct cas_err *err)
{
        struct rootless_child c;
        cas_cleanup_free char *copy = cas_xstrdup(dir);
        if (access(dir, F_OK) != 0)
                return 0;
        if (rootless_start(ids, NULL, remove_in_child, copy, &c, err) < 0)
                return -(int)err->code;
        rootless_go(&c);
        rootless_release(&c);
        return access(dir, F_OK) == 0 ? cas_fail(err, CAS_E_IO, "%s cannot be removed", dir) : 0;
}
