/* SPDX-License-Identifier: Apache-2.0 */
/* The first process of a sandbox: becomes the user that the image names, runs
 * the program, passes signals on to it, reaps what is orphaned, and ends with
 * the program's status. Linked statically and carried inside of lamina, so that
 * it runs over any root file system.
 *
 * enter UID GID GROUP,GROUP,…|- DIR PROGRAM ARGUMENT… */
#include <errno.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
        if (setgroups(count, groups) != 0 || setresgid(gid, gid, gid) != 0 ||
            setresuid(uid, uid, uid) != 0)
                die(EXIT_NOT_STARTED, "change the user");
        if (chdir(argv[3]) != 0)
                die(EXIT_NOT_STARTED, argv[3]);
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
        if (argc < 6)
                return EXIT_NOT_STARTED;
        (void)close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
        sigset_t all, none;
        sigfillset(&all);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        for (int sig = 1; sig < SIGRTMIN; sig++)
                (void)signal(sig, SIG_DFL);
        pid_t program = fork();
        if (program < 0)
                die(EXIT_NOT_STARTED, "fork");
        if (program == 0)
                program_exec(argv + 1, &none);
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
