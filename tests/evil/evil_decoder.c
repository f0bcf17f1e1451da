/* SPDX-License-Identifier: Apache-2.0 */
/* A decoder that was taken over: confined as the real one is, it then does what its "layer" says.
 * A word that is refused ends it; one that is not, it says so. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "cas/decodeframe.h"
#include "tools/decoder/confine.h"
#include "tools/decoder/decoder_limits.h"

/* Where these calls never were, others do the same. */
#ifndef SYS_open
#define SYS_open SYS_openat
#define SYS_readlink SYS_readlinkat
#define SYS_unlink SYS_unlinkat
#define SYS_fork SYS_clone
#define SYS_vfork SYS_clone
#endif

static void say(uint32_t kind, const void *data, uint32_t len)
{
        uint8_t head[CAS_DECODEFRAME_HEAD_BYTES];
        cas_put_le32(head, kind);
        cas_put_le32(head + 4, len);
        const struct iovec parts[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)data, len}};
        (void)!writev(STDOUT_FILENO, parts, 2);
}

/* By its number: what libc would do instead is of no interest. */
static const struct {
        const char *word;
        long number;
        long args[6];
} calls[] = {
        {"openat", SYS_openat, {AT_FDCWD, (long)"/etc/passwd", O_RDONLY}},
        {"open", SYS_open, {(long)"/etc/passwd", O_RDONLY}},
        {"creat", SYS_openat, {AT_FDCWD, (long)"/tmp/evil", O_CREAT | O_WRONLY, 0600}},
        {"readlink", SYS_readlink, {(long)"/proc/self/exe", 0, 0}},
        {"stat", SYS_newfstatat, {AT_FDCWD, (long)"/", 0, 0}},
        {"unlink", SYS_unlink, {(long)"/tmp/evil"}},
        {"socket", SYS_socket, {AF_INET, SOCK_STREAM, 0}},
        {"unix", SYS_socket, {AF_UNIX, SOCK_STREAM, 0}},
        {"netlink", SYS_socket, {AF_NETLINK, SOCK_RAW, 0}},
        {"connect", SYS_connect, {0, 0, 0}},
        {"fork", SYS_fork, {0}},
        {"vfork", SYS_vfork, {0}},
        {"clone", SYS_clone, {SIGCHLD}},
        {"clone3", SYS_clone3, {0, 0}},
        {"execve", SYS_execve, {(long)"/bin/sh", 0, 0}},
        {"execveat", SYS_execveat, {0, (long)"", 0, 0, AT_EMPTY_PATH}},
        {"ptrace", SYS_ptrace, {PTRACE_ATTACH, 1}},
        {"process_vm_readv", SYS_process_vm_readv, {1, 0, 0, 0, 0, 0}},
        {"kill-1", SYS_kill, {-1, 0}},
        {"kill-parent", SYS_tgkill, {1, 1, SIGABRT}},
        {"write-0", SYS_write, {0, (long)"x", 1}},
        {"write-3", SYS_write, {3, (long)"x", 1}},
        {"writev-2", SYS_writev, {2, 0, 0}},
        {"read-1", SYS_read, {1, 0, 0}},
        {"dup", SYS_dup, {1}},
        {"setuid", SYS_setuid, {0}},
        {"unshare", SYS_unshare, {CLONE_NEWUSER}},
        {"mount", SYS_mount, {0, (long)"/", 0, 0, 0}},
        {"chroot", SYS_chroot, {(long)"/"}},
        {"prctl", SYS_prctl, {PR_SET_DUMPABLE, 1}},
        {"seccomp", SYS_seccomp, {0, 0, 0}},
        {"setrlimit", SYS_prlimit64, {0, 0, 0, 0}},
        {"mmap-exec", SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1}},
        {"mmap-file", SYS_mmap, {0, 4096, PROT_READ, MAP_PRIVATE, 0}},
        {"mprotect", SYS_mprotect, {0, 4096, PROT_READ | PROT_EXEC}},
        {"bpf", SYS_bpf, {0, 0, 0}},
        {"io_uring", SYS_io_uring_setup, {1, 0}},
        {"userfaultfd", SYS_userfaultfd, {0}},
        {"memfd", SYS_memfd_create, {(long)"x", 0}},
        {"shmget", SYS_shmget, {1, 4096, 0600}},
        {"perf", SYS_perf_event_open, {0, 0, 0, 0, 0}},
        {"keyctl", SYS_keyctl, {0}},
        {"sleep", SYS_nanosleep, {0, 0}},
};

static void try_call(const char *word)
{
        for (size_t i = 0; i < CAS_COUNT(calls); i++) {
                const long *a = calls[i].args;
                if (strcmp(calls[i].word, word) == 0)
                        (void)syscall(calls[i].number, a[0], a[1], a[2], a[3], a[4], a[5]);
        }
}

static void eat(void)
{
        for (;;) {
                volatile uint8_t *p = cas_xmalloc(64 << 20);
                p[0] = 1; /* the limit is of addresses: no page more is needed */
        }
}

static void misbehave(const char *word)
{
        volatile uint64_t spins = 0;
        if (strcmp(word, "spin") == 0)
                while (true)
                        spins++;
        if (strcmp(word, "eat") == 0)
                eat();
        if (strcmp(word, "fault") == 0)
                __builtin_trap();
        if (strcmp(word, "leave") == 0)
                _exit(7);
        if (strcmp(word, "nonsense") == 0)
                for (;;)
                        say(4711, "xxxx", 4);
        if (strcmp(word, "early") == 0) {
                say(CAS_DECODEFRAME_LISTING, "LLST", 4);
                say(CAS_DECODEFRAME_END, "\0", 1);
                while (true)
                        spins++;
        }
        try_call(word);
}

int main(void)
{
        char word[64] = "";
        uint32_t confined;
        confine(DECODER_MEMORY_BYTES, DECODER_CPU_S_MAX, &confined);
        if (!cas_decodeframe_ready(STDOUT_FILENO, confined))
                return EXIT_FAILURE;
        ssize_t n = read(STDIN_FILENO, word, sizeof(word) - 1);
        if (n <= 0)
                return EXIT_FAILURE;
        misbehave(word);
        uint8_t let[4 + 10];
        cas_put_le32(let, CAS_E_UNSUPPORTED);
        memcpy(let + 4, "it was let", 10);
        say(CAS_DECODEFRAME_ERROR, let, sizeof(let));
        return EXIT_SUCCESS;
}
