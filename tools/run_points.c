/* SPDX-License-Identifier: Apache-2.0 */
/* Mount points that an image lacks, made in a sandbox whose owners are mapped:
 * the runtime, being root of the host, has no id there to make them with. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tools/run_spec.h"

/* The runtimes' own. */
static const char *const usual[] = {"/proc", "/dev", "/sys", "/tmp"};

static int point_make(int root_fd, const char *path, bool is_directory)
{
        cas_cleanup_free char *copy = cas_xstrdup(path);
        cas_cleanup_fd int at = fcntl(root_fd, F_DUPFD_CLOEXEC, 0);
        char *rest = copy + strspn(copy, "/");
        for (char *name; at >= 0 && (name = strsep(&rest, "/"));) {
                bool last = !rest;
                if (last && !is_directory) {
                        int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
                        if (fd < 0)
                                return errno == EEXIST ? 0 : errno;
                        (void)close(fd);
                        return 0;
                }
                if (mkdirat(at, name, 0755) < 0 && errno != EEXIST)
                        return errno;
                int next = openat(at, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
                if (next < 0)
                        return last ? 0 : errno; /* a link: the runtime sees where it leads */
                (void)close(at);
                at = next;
        }
        return at < 0 ? errno : 0;
}

static CAS_NORETURN void child_main(const struct run_spec *s, int root_fd)
{
        if (setns(s->userns_fd, CLONE_NEWUSER) < 0 || setgroups(0, NULL) < 0 ||
            setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
                _exit(errno);
        (void)umask(022);
        int code = 0;
        for (size_t i = 0; code == 0 && i < CAS_COUNT(usual); i++)
                code = point_make(root_fd, usual[i], true);
        for (size_t i = 0; code == 0 && i < s->bind_count; i++)
                code = point_make(root_fd, s->binds[i].to, s->binds[i].is_directory);
        _exit(code);
}

int run_points_make(const struct run_spec *s, struct cas_err *err)
{
        if (s->userns_fd < 0)
                return 0;
        cas_cleanup_fd int root_fd = open(s->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root_fd < 0)
                return cas_fail_sys(err, errno, "%s", s->root);
        pid_t pid = fork();
        if (pid < 0)
                return cas_fail_sys(err, errno, "fork");
        if (pid == 0)
                child_main(s, root_fd);
        int status;
        while (waitpid(pid, &status, 0) < 0) {
                if (errno != EINTR)
                        return cas_fail_sys(err, errno, "wait");
        }
        if (status == 0)
                return 0;
        return cas_fail_sys(err, WIFEXITED(status) ? WEXITSTATUS(status) : EIO,
                            "make mount points in the sandbox");
}
