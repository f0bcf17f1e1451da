/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "tools/enter_program.h"

/* The last two are for tools/enter alone, which drops them: crun forgets nodev and nosuid of the
 * root, and enter sets them again. */
#define PROGRAM_CAPABILITIES (CAS_COUNT(capabilities) - 2)
#define BUNDLE_MARK "lamina.image" /* an annotation */
static const char *const capabilities[] = {
        "CAP_CHOWN",      "CAP_DAC_OVERRIDE", "CAP_FOWNER",    "CAP_FSETID",
        "CAP_KILL",       "CAP_SETGID",       "CAP_SETUID",    "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT", "CAP_SETFCAP",      "CAP_SYS_ADMIN", "CAP_SETPCAP",
};
static const char *const masked_paths[] = {
        "/proc/acpi",          "/proc/asound",     "/proc/kcore",       "/proc/keys",
        "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
        "/proc/scsi",          "/sys/firmware",
};
static const char *const read_only_paths[] = {
        "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
};

static json_t *texts(const char *const *list, size_t count)
{
        json_t *out = json_array();
        for (size_t i = 0; i < count; i++)
                json_array_append_new(out, json_string(list[i]));
        return out;
}

static json_t *strings(char *const *list)
{
        json_t *out = json_array();
        for (; list && *list; list++)
                json_array_append_new(out, json_string(*list));
        return out;
}

static json_t *mount_json(const char *to, const char *type, const char *from, const char *options)
{
        json_t *list = json_array();
        cas_cleanup_free char *copy = cas_xstrdup(options);
        char *at = copy;
        for (char *one; (one = strsep(&at, ","));)
                json_array_append_new(list, json_string(one));
        return json_pack("{s:s, s:s, s:s, s:o}", "destination", to, "type", type, "source", from,
                         "options", list);
}

static json_t *mounts_json(const struct run_spec *s, bool mapped)
{
        json_t *m = json_array();
        json_array_append_new(m, mount_json("/proc", "proc", "proc", "nosuid,noexec,nodev"));
        json_array_append_new(
                m, mount_json("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"));
        json_array_append_new(m, mount_json("/dev/pts", "devpts", "devpts",
                                            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"));
        json_array_append_new(m, mount_json("/dev/shm", "tmpfs", "shm",
                                            "nosuid,noexec,nodev,mode=1777,size=65536k"));
        json_array_append_new(m,
                              mount_json("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"));
        /* Without what is mounted below: cgroups and debugfs would be writable there. To a user
         * namespace they are not, and the kernel shows it no mount without those below. */
        json_array_append_new(m, mount_json("/sys", "none", "/sys",
                                            mapped ? "rbind,nosuid,noexec,nodev,ro"
                                                   : "bind,nosuid,noexec,nodev,ro"));
        if (s->read_only)
                json_array_append_new(
                        m, mount_json("/tmp", "tmpfs", "tmpfs", "nosuid,nodev,mode=1777"));
        for (size_t i = 0; i < s->bind_count; i++)
                json_array_append_new(m,
                                      mount_json(s->binds[i].to, "none", s->binds[i].from,
                                                 s->binds[i].read_only ? "rbind,ro" : "rbind,rw"));
        return m;
}

/* The first process is tools/enter, which begins as root and becomes the user. */
static json_t *process_json(const struct run_spec *s)
{
        json_t *caps = json_object();
        static const char *const sets[] = {"bounding", "effective", "permitted"};
        for (size_t i = 0; i < CAS_COUNT(sets); i++)
                json_object_set_new(caps, sets[i], texts(capabilities, CAS_COUNT(capabilities)));
        char **argv = enter_program_argv(s);
        json_t *args = strings(argv);
        for (char **a = argv; *a; a++)
                free(*a);
        free(argv);
        return json_pack("{s:b, s:{s:i, s:i}, s:o, s:o, s:s, s:o, s:b}", "terminal", s->terminal,
                         "user", "uid", 0, "gid", 0, "args", args, "env", strings(s->env), "cwd",
                         "/", "capabilities", caps, "noNewPrivileges", 1);
}

static json_t *linux_json(const struct run_spec *s)
{
        json_t *namespaces = json_array();
        static const char *const kinds[] = {"pid", "mount", "ipc", "uts"};
        for (size_t i = 0; i < CAS_COUNT(kinds); i++)
                json_array_append_new(namespaces, json_pack("{s:s}", "type", kinds[i]));
        if (!s->network)
                json_array_append_new(namespaces, json_pack("{s:s}", "type", "network"));
        size_t masked = s->whole_proc ? 0 : CAS_COUNT(masked_paths);
        size_t read_only = s->whole_proc ? 0 : CAS_COUNT(read_only_paths);
        return json_pack("{s:o, s:o, s:o}", "namespaces", namespaces, "maskedPaths",
                         texts(masked_paths, masked), "readonlyPaths",
                         texts(read_only_paths, read_only));
}

/* Takes over process, linux_part and annotations (which may be NULL). */
static int config_write(const struct run_spec *spec, const char *root, json_t *process,
                        json_t *linux_part, json_t *annotations, const char *dir,
                        struct cas_err *err)
{
        bool mapped = spec->nested || spec->whole_proc ||
                      json_object_get(linux_part, "uidMappings") != NULL;
        json_t *config =
                json_pack("{s:s, s:s*, s:o, s:{s:s, s:b}, s:o, s:o, s:o*}", "ociVersion", "1.0.2",
                          "hostname", spec->hostname, "process", process, "root", "path", root,
                          "readonly", spec->read_only, "mounts", mounts_json(spec, mapped), "linux",
                          linux_part, "annotations", annotations);
        if (!config)
                return cas_fail(err, CAS_E_INVALID,
                                "command, environment or paths are not UTF-8 text");
        cas_cleanup_free char *path = cas_xasprintf("%s/config.json", dir);
        int rc = json_dump_file(config, path, JSON_INDENT(2));
        json_decref(config);
        return rc != 0 ? cas_fail_sys(err, errno ? errno : EIO, "%s", path) : 0;
}

int bundle_write(const struct run_spec *spec, const char *dir, struct cas_err *err)
{
        return config_write(spec, spec->root, process_json(spec), linux_json(spec), NULL, dir, err);
}

/* ---- for others ---- */

/* A user other than root gains nothing: what is not in the bounding set is lost to all. */
static json_t *plain_process_json(const struct run_spec *s)
{
        static const char *const sets[] = {"bounding", "effective", "permitted"};
        json_t *caps = json_object();
        json_t *groups = json_array();
        for (size_t i = 0; i < (s->uid == 0 ? CAS_COUNT(sets) : 1); i++)
                json_object_set_new(caps, sets[i], texts(capabilities, PROGRAM_CAPABILITIES));
        for (size_t i = 0; i < s->group_count; i++)
                json_array_append_new(groups, json_integer(s->groups[i]));
        return json_pack("{s:b, s:{s:I, s:I, s:o}, s:o, s:o, s:s, s:o, s:b}", "terminal",
                         s->terminal, "user", "uid", (json_int_t)s->uid, "gid", (json_int_t)s->gid,
                         "additionalGids", groups, "args", strings(s->argv), "env", strings(s->env),
                         "cwd", s->workdir, "capabilities", caps, "noNewPrivileges", 1);
}

static json_t *mapping_json(uint32_t first, uint32_t count)
{
        return json_pack("[{s:i, s:I, s:I}]", "containerID", 0, "hostID", (json_int_t)first, "size",
                         (json_int_t)count);
}

static json_t *plain_linux_json(const struct run_spec *s, const struct bundle_ids *ids)
{
        json_t *out = linux_json(s);
        if (ids->count) {
                json_array_append_new(json_object_get(out, "namespaces"),
                                      json_pack("{s:s}", "type", "user"));
                json_object_set_new(out, "uidMappings", mapping_json(ids->first, ids->count));
                json_object_set_new(out, "gidMappings", mapping_json(ids->first_gid, ids->count));
        }
        return out;
}

int bundle_write_plain(const struct run_spec *spec, const char *name, const struct bundle_ids *ids,
                       const char *dir, struct cas_err *err)
{
        return config_write(spec, "rootfs", plain_process_json(spec), plain_linux_json(spec, ids),
                            json_pack("{s:s}", BUNDLE_MARK, name), dir, err);
}

bool bundle_is_ours(const char *dir)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/config.json", dir);
        json_t *config = json_load_file(path, 0, NULL);
        const json_t *marks = json_object_get(config, "annotations");
        bool ours = json_is_string(json_object_get(marks, BUNDLE_MARK));
        json_decref(config);
        return ours;
}

void bundle_clear(const char *dir)
{
        static const char *const files[] = {"config.json", "resolv.conf", "hosts"};
        for (size_t i = 0; i < CAS_COUNT(files); i++) {
                cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, files[i]);
                (void)unlink(path);
        }
        cas_cleanup_free char *rootfs = cas_xasprintf("%s/rootfs", dir);
        (void)rmdir(rootfs);
}

/* ---- crun ---- */

/* crun gives up where both cgroup hierarchies are mounted ("hybrid"), though it is told to leave
 * cgroups alone: there it gets a mount namespace of its own, without the second one. */
static void cgroups_hide(void)
{
        static const char unified[] = "/sys/fs/cgroup/unified";
        if (access(unified, F_OK) == 0 && unshare(CLONE_NEWNS) == 0 &&
            mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0)
                (void)umount2(unified, MNT_DETACH);
}

/* helper: the first process's program, or -1; spec: for what it is started, or NULL. */
static CAS_NORETURN void crun_exec(char **argv, int helper, const struct run_spec *spec, bool quiet,
                                   int failed)
{
        int userns = spec ? spec->userns_fd : -1;
        sigset_t none;
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        cgroups_hide();
        int null_fd = quiet ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;
        if (null_fd >= 0)
                (void)dup2(null_fd, STDERR_FILENO);
        /* Out of the way of the numbers that they are to get. */
        int high_helper = helper < 0 ? -1 : fcntl(helper, F_DUPFD_CLOEXEC, 10);
        int high_userns = userns < 0 ? -1 : fcntl(userns, F_DUPFD_CLOEXEC, 10);
        int high = fcntl(failed, F_DUPFD_CLOEXEC, 10);
        if ((!spec || spec->cgroup_fd < 0 || write(spec->cgroup_fd, "0", 1) == 1) &&
            (helper < 0 || dup2(high_helper, ENTER_PROGRAM_FD) >= 0) &&
            (userns < 0 || dup2(high_userns, ENTER_USERNS_FD) >= 0))
                (void)execvp(argv[0], argv);
        int code = errno;
        (void)!write(high, &code, sizeof(code));
        _exit(127);
}

/* Returns 0, or the errno of what failed. */
static int crun_spawn(const char *state_dir, const char *const *words, int helper,
                      const struct run_spec *spec, bool quiet, pid_t *out)
{
        const char *argv[12] = {"crun", "--root", state_dir, "--cgroup-manager=disabled"};
        size_t count = 4;
        for (; *words; words++) {
                cas_assert(count + 1 < CAS_COUNT(argv));
                argv[count++] = *words;
        }
        argv[count] = NULL;
        int failed[2];
        if (pipe2(failed, O_CLOEXEC) != 0)
                return errno;
        cas_cleanup_fd int from = failed[0];
        cas_cleanup_fd int to = failed[1];
        *out = fork();
        if (*out < 0)
                return errno;
        if (*out == 0)
                crun_exec((char **)(uintptr_t)argv, helper, spec, quiet, to);
        (void)close(cas_steal_fd(&to));
        int code = 0;
        if (read(from, &code, sizeof(code)) != (ssize_t)sizeof(code))
                return 0;
        (void)waitpid(*out, NULL, 0);
        return code;
}

int bundle_start(const struct run_spec *spec, const char *dir, const char *state_dir,
                 const char *id, pid_t *out_pid, struct cas_err *err)
{
        const char *words[] = {
                "run", "--preserve-fds", spec->userns_fd < 0 ? "1" : "2", "--bundle", dir, id,
                NULL};
        cas_cleanup_fd int helper = -1;
        if (enter_program_open(&helper, err) < 0)
                return -(int)err->code;
        int rc = crun_spawn(state_dir, words, helper, spec, false, out_pid);
        if (rc == ENOENT)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "crun is not installed: install it, or use --runtime bwrap");
        return rc ? cas_fail_sys(err, rc, "start crun") : 0;
}

void bundle_delete(const char *state_dir, const char *id)
{
        const char *words[] = {"delete", "--force", id, NULL};
        pid_t pid;
        if (crun_spawn(state_dir, words, -1, NULL, true, &pid) == 0)
                (void)waitpid(pid, NULL, 0);
}
