/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/wait.h>

#include "tools/enter_program.h"

#define INFO_BYTES_MAX 4096
#define INFO_FD 5 /* in the child */

/* What a program that believes to be root needs within its own tree; nothing that reaches
 * the host: no mounting, no devices, no modules, no other namespaces. CAP_SETPCAP is for
 * tools/enter alone, which drops it: bwrap leaves the bounding set as it is. */
static const char *const capabilities[] = {
        "CAP_CHOWN",      "CAP_DAC_OVERRIDE", "CAP_FOWNER",  "CAP_FSETID",
        "CAP_KILL",       "CAP_SETGID",       "CAP_SETUID",  "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT", "CAP_SETPCAP",      "CAP_SETFCAP",
};

struct words {
        char **list; /* owned, NULL-terminated */
        size_t count;
};

static void words_release(struct words *w)
{
        for (size_t i = 0; i < w->count; i++)
                free(w->list[i]);
        free(w->list);
}

static void word_take(struct words *w, char *text)
{
        w->list = cas_xrealloc(w->list, (w->count + 2) * sizeof(char *));
        w->list[w->count++] = text;
        w->list[w->count] = NULL;
}

static void word(struct words *w, const char *text)
{
        word_take(w, cas_xstrdup(text));
}

static void words3(struct words *w, const char *a, const char *b, const char *c)
{
        word(w, a);
        if (b)
                word(w, b);
        if (c)
                word(w, c);
}

static void words_namespaces(struct words *w, const struct run_spec *s)
{
        words3(w, "--unshare-pid", "--unshare-ipc", "--unshare-uts");
        if (!s->network)
                word(w, "--unshare-net");
        if (s->hostname)
                words3(w, "--hostname", s->hostname, NULL);
        words3(w, "--die-with-parent", "--as-pid-1", NULL);
        if (!s->terminal)
                word(w, "--new-session");
        words3(w, "--cap-drop", "ALL", NULL);
        for (size_t i = 0; i < CAS_COUNT(capabilities); i++)
                words3(w, "--cap-add", capabilities[i], NULL);
        if (s->whole_proc && s->userns_fd >= 0) /* tools/enter mounts it, and drops this */
                words3(w, "--cap-add", "CAP_SYS_ADMIN", NULL);
}

static void words_cover_proc(struct words *w)
{
        /* bwrap takes /proc/sys for read-only, but root writes the files in it. */
        words3(w, "--ro-bind", "/proc/sys", "/proc/sys");
        words3(w, "--ro-bind-try", "/proc/sysrq-trigger", "/proc/sysrq-trigger");
        words3(w, "--ro-bind-try", "/proc/fs", "/proc/fs");
}

static void words_mounts(struct words *w, const struct run_spec *s)
{
        words3(w, "--bind", s->root, "/");
        words3(w, "--proc", "/proc", NULL);
        if (!s->whole_proc)
                words_cover_proc(w);
        words3(w, "--dev", "/dev", NULL);
        words3(w, "--perms", "1777", NULL);
        words3(w, "--tmpfs", "/dev/shm", NULL);
        words3(w, "--ro-bind-try", "/sys", "/sys");
        if (s->read_only) {
                words3(w, "--perms", "1777", NULL);
                words3(w, "--tmpfs", "/tmp", NULL);
        }
        for (size_t i = 0; i < s->bind_count; i++)
                words3(w, s->binds[i].read_only ? "--ro-bind" : "--bind", s->binds[i].from,
                       s->binds[i].to);
        if (s->read_only)
                words3(w, "--remount-ro", "/", NULL);
}

static void words_environment(struct words *w, const struct run_spec *s)
{
        word(w, "--clearenv");
        words3(w, "--chdir", "/", NULL); /* and not where the caller stands */
        for (char **e = s->env; *e; e++) {
                size_t key = strcspn(*e, "=");
                word(w, "--setenv");
                word_take(w, cas_xstrndup(*e, key));
                word(w, *e + key + 1);
        }
}

static void words_program(struct words *w, const struct run_spec *s)
{
        word(w, "--info-fd");
        word_take(w, cas_xasprintf("%d", INFO_FD));
        word(w, "--");
        char **argv = enter_program_argv(s);
        for (char **a = argv; *a; a++)
                word_take(w, *a);
        free(argv);
}

static CAS_NORETURN void child_exec(char **argv, const struct run_spec *spec, int helper, int info,
                                    int failed)
{
        int userns = spec->userns_fd;
        /* Out of the way of the numbers that they are to get. */
        int high_helper = fcntl(helper, F_DUPFD_CLOEXEC, 10);
        int high_userns = userns < 0 ? -1 : fcntl(userns, F_DUPFD_CLOEXEC, 10);
        int high_info = fcntl(info, F_DUPFD_CLOEXEC, 10);
        int high_failed = fcntl(failed, F_DUPFD_CLOEXEC, 10);
        if ((spec->cgroup_fd < 0 || write(spec->cgroup_fd, "0", 1) == 1) && high_failed >= 0 &&
            dup2(high_helper, ENTER_PROGRAM_FD) >= 0 && dup2(high_info, INFO_FD) >= 0 &&
            (userns < 0 || dup2(high_userns, ENTER_USERNS_FD) >= 0))
                (void)execvp(argv[0], argv);
        int code = errno;
        (void)!write(high_failed, &code, sizeof(code));
        _exit(127);
}

/* bwrap writes {"child-pid": N, …} when the sandbox stands. */
static pid_t info_read(int fd)
{
        char text[INFO_BYTES_MAX];
        size_t len = 0;
        while (len < sizeof(text)) {
                ssize_t n = read(fd, text + len, sizeof(text) - len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break;
                len += (size_t)n;
        }
        json_t *info = json_loadb(text, len, 0, NULL);
        pid_t pid = (pid_t)json_integer_value(json_object_get(info, "child-pid"));
        json_decref(info);
        return pid;
}

int sandbox_start(const struct run_spec *spec, pid_t *out_pid, pid_t *out_signal_pid,
                  struct cas_err *err)
{
        struct words w __attribute__((cleanup(words_release))) = {0};
        word(&w, "bwrap");
        words_namespaces(&w, spec);
        words_mounts(&w, spec);
        words_environment(&w, spec);
        words_program(&w, spec);
        cas_cleanup_fd int helper = -1;
        if (enter_program_open(&helper, err) < 0)
                return -(int)err->code;
        int info[2], failed[2];
        if (pipe2(info, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        cas_cleanup_fd int info_from = info[0];
        cas_cleanup_fd int info_to = info[1];
        if (pipe2(failed, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        cas_cleanup_fd int failed_from = failed[0];
        cas_cleanup_fd int failed_to = failed[1];
        pid_t pid = fork();
        if (pid < 0)
                return cas_fail_sys(err, errno, "fork");
        if (pid == 0)
                child_exec(w.list, spec, helper, info_to, failed_to);
        (void)close(cas_steal_fd(&info_to));
        (void)close(cas_steal_fd(&failed_to));
        int code;
        if (read(failed_from, &code, sizeof(code)) == (ssize_t)sizeof(code)) {
                (void)waitpid(pid, NULL, 0);
                if (code == ENOENT)
                        return cas_fail(err, CAS_E_UNSUPPORTED,
                                        "bwrap is not installed: install bubblewrap, or use "
                                        "--runtime crun");
                return cas_fail_sys(err, code, "start bwrap");
        }
        *out_pid = pid;
        *out_signal_pid = info_read(info_from);
        return 0;
}
