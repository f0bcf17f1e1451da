/* SPDX-License-Identifier: Apache-2.0 */
/* The first process of a sandbox: becomes the user that the image names, runs
 * the program, passes signals on to it, reaps what is orphaned, and ends with
 * the program's status. Linked statically and carried inside of lamina, so that
 * it runs over any root file system.
 *
 * With a descriptor of a user namespace, all of it happens in there: the owners of
 * the root file system are then ids of that namespace; p: /proc is mounted anew, whole.
 *
 * enter USERNS[p]|- UID GID GROUP,GROUP,…|- DIR PROGRAM ARGUMENT… */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GROUPS_MAX 1024
#define EXIT_NOT_STARTED 126
#define EXIT_NOT_FOUND 127

static _Noreturn void die(int status, const char *what)
{
        fprintf(stderr, "lamina: run: %s: %s\n", what, strerror(errno));
        _exit(status);
}

/* What an architecture that this kernel runs as well calls ioctl(2). */
#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define ARCH_OTHER AUDIT_ARCH_I386
#define IOCTL_ALIAS 514 /* x32 */
#define IOCTL_OTHER 54
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define ARCH_OTHER AUDIT_ARCH_ARM
#define IOCTL_ALIAS __NR_ioctl
#define IOCTL_OTHER 54
#else
#error "say how ioctl(2) is called here"
#endif
#define X32_BIT 0x40000000u

/* The terminal may be a shell's of the host: nothing in the sandbox types into it. */
static int terminal_guard(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH_OTHER, 0, 9),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IOCTL_OTHER, 4, 7),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~X32_BIT),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 1, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IOCTL_ALIAS, 0, 3),
                /* The kernel looks at the lower half of the request only. */
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TIOCSTI, 2, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TIOCLINUX, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        };
        struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
                return -1;
        return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* Device nodes and set-id files of the image have no effect, whatever the runtime made of the
 * mount's flags. */
static int root_guard(void)
{
        struct statvfs st;
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID};
        if (statvfs("/", &st) != 0)
                return -1;
        if ((st.f_flag & ST_NODEV) && (st.f_flag & ST_NOSUID))
                return 0;
        return mount_setattr(AT_FDCWD, "/", 0, &attr, sizeof(attr));
}

/* Who joins a user namespace has all rights in it: what was given, and no more, is kept. */
static int capabilities_keep(const struct __user_cap_data_struct *given)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        return (int)syscall(SYS_capset, &header, given);
}

/* A runtime that is root of the host hides parts of /proc. The kernel lets no user namespace mount
 * one where it sees none that is whole. */
static int proc_remount(void)
{
        if (umount2("/proc", MNT_DETACH) != 0)
                return -1;
        return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static int userns_join(const char *text)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct given[_LINUX_CAPABILITY_U32S_3];
        int parent_death = 0;
        char *end;
        if (strcmp(text, "-") == 0)
                return 0;
        int userns_fd = (int)strtoul(text, &end, 10);
        if (*end == 'p' && proc_remount() != 0)
                return -1;
        if (prctl(PR_GET_PDEATHSIG, &parent_death) != 0 ||
            syscall(SYS_capget, &header, given) != 0 || setns(userns_fd, CLONE_NEWUSER) != 0 ||
            setgroups(0, NULL) != 0 || setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
                return -1;
        /* Other ids have taken it away. */
        if (prctl(PR_SET_PDEATHSIG, parent_death) != 0)
                return -1;
        return capabilities_keep(given);
}

/* What was given for this program alone goes, and so does what others would inherit, or gain up to
 * the bound: root has its capabilities without that. */
static int capabilities_drop(void)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
        static const int own[] = {CAP_SYS_ADMIN, CAP_SETPCAP};
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 ||
            syscall(SYS_capget, &header, data) != 0)
                return -1;
        for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
                data[CAP_TO_INDEX(own[i])].permitted &= ~CAP_TO_MASK(own[i]);
        for (int cap = 0; cap < 32 * _LINUX_CAPABILITY_U32S_3; cap++) {
                if (!(data[CAP_TO_INDEX(cap)].permitted & CAP_TO_MASK(cap)) &&
                    prctl(PR_CAPBSET_READ, cap) == 1 && prctl(PR_CAPBSET_DROP, cap) != 0)
                        return -1;
        }
        for (size_t i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
                data[i].effective = data[i].permitted;
                data[i].inheritable = 0;
        }
        return (int)syscall(SYS_capset, &header, data);
}

static size_t groups_parse(char *text, gid_t *out)
{
        size_t count = 0;
        char *save = NULL;
        if (strcmp(text, "-") == 0)
                return 0;
        for (char *p = strtok_r(text, ",", &save); p && count < GROUPS_MAX;
             p = strtok_r(NULL, ",", &save))
                out[count++] = (gid_t)strtoul(p, NULL, 10);
        return count;
}

static _Noreturn void program_exec(char **argv, const sigset_t *mask)
{
        static gid_t groups[GROUPS_MAX];
        uid_t uid = (uid_t)strtoul(argv[0], NULL, 10);
        gid_t gid = (gid_t)strtoul(argv[1], NULL, 10);
        size_t count = groups_parse(argv[2], groups);
        /* Where a user namespace forbids it, there is nothing to be dropped either: its groups are
         * those of the user who made it. */
        if (setgroups(count, groups) != 0 && (errno != EPERM || count > 0))
                die(EXIT_NOT_STARTED, "change the groups");
        if (setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
                die(EXIT_NOT_STARTED, "change the user");
        if (chdir(argv[3]) != 0)
                die(EXIT_NOT_STARTED, argv[3]);
        (void)setenv("PWD", argv[3], 1); /* a runtime's is of another directory */
        (void)sigprocmask(SIG_SETMASK, mask, NULL);
        (void)execvp(argv[4], argv + 4);
        die(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_STARTED, argv[4]);
}

/* Reaps; returns the exit status of the program when it was among them, else -1. */
static int reap(pid_t program)
{
        int result = -1;
        for (;;) {
                int status;
                pid_t pid = waitpid(-1, &status, WNOHANG);
                if (pid <= 0)
                        return result;
                if (pid == program)
                        result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
}

int main(int argc, char **argv)
{
        if (argc < 7)
                return EXIT_NOT_STARTED;
        (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC); /* for the program, not for this one */
        sigset_t all, none;
        sigfillset(&all);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        for (int sig = 1; sig < SIGRTMIN; sig++)
                (void)signal(sig, SIG_DFL);
        if (root_guard() != 0 || userns_join(argv[1]) != 0 || capabilities_drop() != 0 ||
            terminal_guard() != 0)
                die(EXIT_NOT_STARTED, "give privileges up");
        pid_t program = fork();
        if (program < 0)
                die(EXIT_NOT_STARTED, "fork");
        if (program == 0)
                program_exec(argv + 2, &none);
        for (;;) {
                siginfo_t info;
                int sig = sigwaitinfo(&all, &info);
                if (sig == SIGCHLD) {
                        int status = reap(program);
                        if (status >= 0)
                                return status;
                } else if (sig > 0 && info.si_code != SI_KERNEL) {
                        (void)kill(program, sig); /* what the terminal sends, it gets itself */
                }
        }
}
