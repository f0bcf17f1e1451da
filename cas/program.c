/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/program.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#define MESSAGE_BYTES 240 /* of what a program says when it fails */

/* The last line that a program wrote, or what is known otherwise. */
static int program_failed(const char *program, const char *package, char *said, int status,
                          struct cas_err *err)
{
        size_t len = strlen(said);
        while (len > 0 && said[len - 1] == '\n')
                said[--len] = 0;
        const char *line = strrchr(said, '\n');
        if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s is not installed (%s)", program,
                                package);
        return cas_fail(err, CAS_E_UNSUPPORTED, "%s", len > 0 ? line ? line + 1 : said : program);
}

/* Reads all of it, and keeps the end. */
static void read_output(int fd, char said[static MESSAGE_BYTES])
{
        char piece[512];
        size_t have = 0;
        ssize_t n;
        while ((n = read(fd, piece, sizeof(piece))) > 0 || (n < 0 && errno == EINTR)) {
                for (ssize_t i = 0; i < n; i++) {
                        if (have == MESSAGE_BYTES - 1)
                                memmove(said, said + 1, --have);
                        said[have++] = piece[i];
                }
        }
        said[have] = 0;
}

int cas_program_run(const char *const *argv, const char *const *envp, const char *package,
                    struct cas_err *err)
{
        int ends[2], status = 0;
        char said[MESSAGE_BYTES];
        pid_t pid;
        posix_spawn_file_actions_t files;
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        int rc = posix_spawn_file_actions_init(&files);
        cas_assert(rc == 0);
        rc = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (!rc)
                rc = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY,
                                                      0);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(&files, ends[1], STDERR_FILENO);
        if (!rc)
                rc = posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
        if (!rc)
                rc = posix_spawnp(&pid, argv[0], &files, NULL, (char **)(uintptr_t)argv,
                                  (char **)(uintptr_t)envp);
        (void)posix_spawn_file_actions_destroy(&files);
        (void)close(ends[1]);
        if (rc == 0)
                read_output(ends[0], said);
        (void)close(ends[0]);
        if (rc == ENOENT)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s is not installed (%s)", argv[0],
                                package);
        if (rc)
                return cas_fail_sys(err, rc, "start %s", argv[0]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        return status == 0 ? 0 : program_failed(argv[0], package, said, status, err);
}
