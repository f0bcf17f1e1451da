/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/decoder/confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cas/decodeframe.h"

#define NOBODY 65534
#define CAPABILITIES_MAX 63

/* Of newer kernels than the headers may be. */
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

/* ---- Landlock: no rights to files, ports, other processes ---- */

/* struct landlock_ruleset_attr, as it has grown; a kernel takes as much as it knows. */
struct ruleset {
        uint64_t fs, net, scoped;
};
#define LANDLOCK_VERSION 1U /* flag of the call that asks for the version */

static const struct {
        int abi;
        size_t size; /* of struct ruleset */
        struct ruleset all;
} rulesets[] = {
        {6, 24, {.fs = 0xffff, .net = 3, .scoped = 3}},
        {5, 16, {.fs = 0xffff, .net = 3}},
        {4, 16, {.fs = 0x7fff, .net = 3}},
        {3, 8, {.fs = 0x7fff}},
        {2, 8, {.fs = 0x3fff}},
        {1, 8, {.fs = 0x1fff}},
};

static bool restrict_landlock(void)
{
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION);
        for (size_t i = 0; i < CAS_COUNT(rulesets); i++) {
                if (abi < rulesets[i].abi)
                        continue;
                int fd = (int)syscall(SYS_landlock_create_ruleset, &rulesets[i].all,
                                      rulesets[i].size, 0);
                bool done = fd >= 0 && syscall(SYS_landlock_restrict_self, fd, 0) == 0;
                if (fd >= 0)
                        (void)close(fd);
                return done;
        }
        return false;
}

/* ---- who it is ---- */

/* A place of its own, with nothing in it. Not with a network of its own: to make one costs more
 * than all the rest, and there are no sockets to use it by. */
static bool leave_namespaces(void)
{
        const int places = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
        if (unshare(geteuid() == 0 ? places : places | CLONE_NEWUSER) != 0)
                return false;
        /* A directory in which nothing can be made, and which goes with the process. */
        return chroot("/proc/self/fdinfo") == 0 && chdir("/") == 0;
}

static bool become_nobody(void)
{
        return setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
               setresuid(NOBODY, NOBODY, NOBODY) == 0;
}

static void drop_capabilities(void)
{
        struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {{0}};
        for (int cap = 0; cap <= CAPABILITIES_MAX && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0;
             cap++)
                (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
        (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        (void)syscall(SYS_capset, &head, none);
}

/* ---- limits ---- */

static void limit(__rlimit_resource_t what, uint64_t value)
{
        struct rlimit now;
        if (getrlimit(what, &now) != 0)
                return;
        now.rlim_cur = now.rlim_max = cas_min_u64(value, now.rlim_max);
        (void)setrlimit(what, &now);
}

static void set_limits(uint64_t memory_bytes, uint64_t cpu_s)
{
        limit(RLIMIT_CORE, 0);
        limit(RLIMIT_FSIZE, 0);
        limit(RLIMIT_NOFILE, 0);
        limit(RLIMIT_NPROC, 0);
        limit(RLIMIT_MEMLOCK, 0);
        limit(RLIMIT_MSGQUEUE, 0);
        limit(RLIMIT_SIGPENDING, 0);
        if (memory_bytes)
                limit(RLIMIT_AS, memory_bytes);
        if (cpu_s)
                limit(RLIMIT_CPU, cpu_s);
}

/* ---- system calls ---- */

static bool allow(scmp_filter_ctx f)
{
        const uint32_t act = SCMP_ACT_ALLOW;
        const struct scmp_arg_cmp in = SCMP_A0_32(SCMP_CMP_EQ, STDIN_FILENO);
        const struct scmp_arg_cmp out = SCMP_A0_32(SCMP_CMP_EQ, STDOUT_FILENO);
        const struct scmp_arg_cmp closed = SCMP_A0_32(SCMP_CMP_EQ, STDERR_FILENO);
        const struct scmp_arg_cmp self = SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)getpid());
        const struct scmp_arg_cmp abort_signal = SCMP_A2_32(SCMP_CMP_EQ, SIGABRT);
        const struct scmp_arg_cmp wake = SCMP_A1_32(SCMP_CMP_EQ, FUTEX_WAKE_PRIVATE);
        const struct scmp_arg_cmp plain = SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
        const struct scmp_arg_cmp own =
                SCMP_A3_32(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS | MAP_SHARED, MAP_ANONYMOUS);
        /* What malloc(), pthread_once() and abort() need, and no more. */
        const int bare[] = {SCMP_SYS(brk),          SCMP_SYS(munmap),         SCMP_SYS(mremap),
                            SCMP_SYS(madvise),      SCMP_SYS(exit),           SCMP_SYS(exit_group),
                            SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(getpid),
                            SCMP_SYS(gettid),       SCMP_SYS(getrandom)};
        for (size_t i = 0; i < CAS_COUNT(bare); i++)
                if (seccomp_rule_add(f, act, bare[i], 0) != 0)
                        return false;
        /* What fails is told to nobody: descriptor 2 is closed. qsort() asks how much memory there
         * is, and does without. */
        return seccomp_rule_add(f, act, SCMP_SYS(read), 1, in) == 0 &&
               seccomp_rule_add(f, act, SCMP_SYS(writev), 1, out) == 0 &&
               seccomp_rule_add(f, act, SCMP_SYS(write), 1, closed) == 0 &&
               seccomp_rule_add(f, act, SCMP_SYS(mmap), 2, plain, own) == 0 &&
               seccomp_rule_add(f, act, SCMP_SYS(futex), 1, wake) == 0 &&
               seccomp_rule_add(f, act, SCMP_SYS(tgkill), 2, self, abort_signal) == 0 &&
               seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(sysinfo), 0) == 0;
}

/* All threads there are (one) and will be (none). Last: it forbids what the others need. */
static bool filter_system_calls(void)
{
        scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
        bool done = f != NULL && allow(f) && seccomp_load(f) == 0;
        seccomp_release(f);
        return done;
}

void confine(uint64_t memory_bytes, uint64_t cpu_s, uint32_t *out)
{
        *out = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        (void)close_range(STDERR_FILENO, ~0U, 0);
        if (leave_namespaces())
                *out |= CAS_CONFINED_NAMESPACES;
        if (geteuid() == 0 && become_nobody())
                *out |= CAS_CONFINED_USER;
        drop_capabilities();
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
                return;
        (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* a change of ids has taken it back */
        (void)prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0);
        if (restrict_landlock())
                *out |= CAS_CONFINED_LANDLOCK;
        set_limits(memory_bytes, cpu_s);
        if (filter_system_calls())
                *out |= CAS_CONFINED_SECCOMP;
}
