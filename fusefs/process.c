/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/process_int.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "cas/log.h"
#include "fusefs/opener_int.h"
#include "fusefs/unixsock_int.h"

#define START_WAIT_MS 10000
#define ANSWER_WAIT_MS 5000

extern char **environ;

int ffs_process_socketpair(int out[2], struct cas_err *err)
{
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, out) < 0)
                return cas_fail_sys(err, errno, "socketpair");
        return 0;
}

static int prepare_files(posix_spawn_file_actions_t *files, const char *log, int socket_fd)
{
        int rc = posix_spawn_file_actions_addopen(files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (!rc)
                rc = posix_spawn_file_actions_addopen(files, STDOUT_FILENO, log,
                                                      O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(files, STDOUT_FILENO, STDERR_FILENO);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(files, socket_fd, FFS_PROCESS_FD);
        if (!rc)
                rc = posix_spawn_file_actions_addclosefrom_np(files, FFS_PROCESS_FD + 1);
        return rc;
}

/* Output goes to RUN_DIR/LOG.log; argv ends with NULL. */
static int spawn(const struct ffs_host *host, const char *log, const char *const *argv,
                 int socket_fd, pid_t *out_pid, struct cas_err *err)
{
        cas_cleanup_free char *log_path = cas_xasprintf("%s/%s.log", host->run_dir, log);
        /* A descriptor that is the target already would stay close-on-exec. */
        cas_cleanup_fd int moved = fcntl(socket_fd, F_DUPFD_CLOEXEC, FFS_PROCESS_FD + 1);
        if (moved < 0)
                return cas_fail_sys(err, errno, "dup");
        posix_spawn_file_actions_t files;
        posix_spawnattr_t attr;
        if (posix_spawn_file_actions_init(&files) != 0 || posix_spawnattr_init(&attr) != 0)
                return cas_fail(err, CAS_E_NOMEM, "spawn");
        int rc = prepare_files(&files, log_path, moved);
        sigset_t none, defaults;
        (void)sigemptyset(&none);
        (void)sigfillset(&defaults);
        (void)posix_spawnattr_setsigmask(&attr, &none);
        (void)posix_spawnattr_setsigdefault(&attr, &defaults);
        (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                      POSIX_SPAWN_SETSIGDEF);
        if (rc == 0)
                rc = posix_spawn(out_pid, host->program, &files, &attr, (char **)argv, environ);
        (void)posix_spawn_file_actions_destroy(&files);
        (void)posix_spawnattr_destroy(&attr);
        if (rc)
                return cas_fail_sys(err, rc, "start %s %s", host->program, argv[1]);
        return 0;
}

int ffs_process_spawn(const struct ffs_host *host, const char *role, const char *option,
                      int socket_fd, pid_t *out_pid, struct cas_err *err)
{
        const char *const argv[] = {
                "lamina",         role,        "--run-dir",        host->run_dir, "--store-path",
                host->store_path, "--resolve", host->resolve_path, option,        NULL};
        return spawn(host, role, argv, socket_fd, out_pid, err);
}

int ffs_process_start_owner(const struct ffs_host *host, struct cas_err *err)
{
        const char *const argv[] = {host->program,   "serve",      "--store", host->store_path,
                                    "--no-registry", "--ready-fd", "3",       NULL};
        _Static_assert(FFS_PROCESS_FD == 3, "the descriptor is named in argv");
        int pair[2];
        if (ffs_process_socketpair(pair, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int mine CAS_UNUSED = pair[0]; /* nobody listens to what it reports */
        cas_cleanup_fd int theirs = pair[1];
        pid_t pid;
        return spawn(host, "owner", argv, theirs, &pid, err);
}

void ffs_process_protect(void)
{
        (void)umask(077);
        (void)!chdir("/");
        cas_cleanup_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void)!write(fd, "-900", 4); /* only root may */
}

int ffs_process_drop_capabilities(struct cas_err *err)
{
        struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
        const struct __user_cap_data_struct none[2] = {{0}};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 ||
            syscall(SYS_capset, &head, none) != 0)
                return cas_fail_sys(err, errno, "give up capabilities");
        return 0;
}

void ffs_process_raise_file_limit(void)
{
        struct rlimit files;
        if (getrlimit(RLIMIT_NOFILE, &files) != 0)
                return;
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
                cas_log(CAS_LOG_WARN, "process.files", "errno=%d", errno);
}

int ffs_serving_format(const char *verb, const struct ffs_serving *s, char *out, size_t out_bytes)
{
        return snprintf(out, out_bytes, "%s %u:%u %s %d %u", verb, s->dev_major, s->dev_minor,
                        s->instance, (int)s->fs_pid, s->restarts);
}

int ffs_serving_parse(const char *verb, const char *text, struct ffs_serving *out,
                      struct cas_err *err)
{
        size_t verb_len = strlen(verb);
        struct ffs_serving s = {0};
        int pid = 0, end = 0;
        if (strncmp(text, verb, verb_len) != 0 || text[verb_len] != ' ' ||
            sscanf(text + verb_len, " %u:%u %32[0-9a-f] %d %u%n", &s.dev_major, &s.dev_minor,
                   s.instance, &pid, &s.restarts, &end) != 5 ||
            text[verb_len + (size_t)end] != '\0')
                return cas_fail(err, CAS_E_INVALID, "%s expected, not \"%.200s\"", verb, text);
        s.fs_pid = (pid_t)pid;
        *out = s;
        return 0;
}

int ffs_process_answer(const char *text, struct cas_err *err)
{
        char name[32];
        int at = 0;
        if (strncmp(text, "ok", 2) == 0 && (text[2] == '\0' || text[2] == ' '))
                return 0;
        if (sscanf(text, "failed %31s %n", name, &at) != 1 || !at)
                return cas_fail(err, CAS_E_INVALID, "not an answer: \"%.200s\"", text);
        enum cas_code code = cas_code_by_name(name);
        return cas_fail(err, code ? code : CAS_E_IO, "%s", text + at);
}

int ffs_process_answer_format(int rc, const struct cas_err *err, char *out, size_t out_bytes)
{
        if (rc == 0)
                return snprintf(out, out_bytes, "ok");
        return snprintf(out, out_bytes, "failed %s %s", cas_code_name(err->code), err->msg);
}

static int receive_answer(int fd, int timeout_ms, struct ffs_serving *out, struct cas_err *err)
{
        char text[FFS_MESSAGE_BYTES_MAX + 1];
        size_t len = 0, no_fds = 0;
        if (ffs_sock_receive(fd, text, FFS_MESSAGE_BYTES_MAX, &len, NULL, &no_fds, timeout_ms,
                             err) < 0)
                return -(int)err->code;
        text[len] = '\0';
        if (len == 0)
                return cas_fail(err, CAS_E_IO, "it ended without an answer: see its log");
        if (ffs_process_answer(text, err) < 0)
                return -(int)err->code;
        return ffs_serving_parse("ok", text, out, err);
}

int ffs_hold_ask(const char *run_dir, const char *verb, struct ffs_serving *out,
                 struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/hold.sock", run_dir);
        cas_cleanup_fd int fd = -1;
        if (ffs_sock_connect(path, &fd, err) < 0 ||
            ffs_sock_send(fd, verb, strlen(verb), NULL, 0, err) < 0 ||
            receive_answer(fd, ANSWER_WAIT_MS, out, err) < 0)
                return cas_err_wrap(err, "lamina hold");
        return 0;
}

int ffs_hold_start(const struct ffs_host *host, struct ffs_serving *out, struct cas_err *err)
{
        int pair[2];
        if (ffs_process_socketpair(pair, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int mine = pair[0];
        cas_cleanup_fd int theirs = pair[1];
        pid_t pid;
        if (ffs_process_spawn(host, "hold", NULL, theirs, &pid, err) < 0)
                return -(int)err->code;
        (void)close(cas_steal_fd(&theirs)); /* so that its end is noticed */
        if (receive_answer(mine, START_WAIT_MS, out, err) < 0)
                return cas_err_wrap(err, "lamina hold");
        return 0;
}

int ffs_process_main(int argc, char **argv)
{
        static const struct option options[] = {
                {"run-dir", required_argument, NULL, 'r'},
                {"store-path", required_argument, NULL, 's'},
                {"resolve", required_argument, NULL, 'o'},
                {"adopt", no_argument, NULL, 'a'},
                {0},
        };
        char self[4096];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        self[n > 0 ? n : 0] = '\0';
        static const char deleted[] =
                " (deleted)"; /* the program was replaced: start the new one */
        if (n > (ssize_t)sizeof(deleted) &&
            strcmp(self + n - (ssize_t)sizeof(deleted) + 1, deleted) == 0)
                self[n - (ssize_t)sizeof(deleted) + 1] = '\0';
        if (access(self, X_OK) != 0) /* as seen from another root, or mount namespace */
                (void)snprintf(self, sizeof(self), "/proc/self/exe");
        struct ffs_host host = {.program = self};
        bool adopt = false;
        int c;
        optind = 1;
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c == 'r')
                        host.run_dir = optarg;
                else if (c == 's')
                        host.store_path = optarg;
                else if (c == 'o')
                        host.resolve_path = optarg;
                else if (c == 'a')
                        adopt = true;
                else
                        return 2;
        }
        if (!host.run_dir || !host.store_path || !host.resolve_path ||
            fcntl(FFS_PROCESS_FD, F_GETFD) < 0) {
                fprintf(stderr, "lamina: %s is started by the other commands only\n", argv[0]);
                return 2;
        }
        if (strcmp(argv[0], "fs") == 0)
                return ffs_fs_main(&host, FFS_PROCESS_FD);
        if (strcmp(argv[0], "opener") == 0)
                return ffs_opener_main(&host, FFS_PROCESS_FD);
        return adopt ? ffs_hold_adopt_main(&host, FFS_PROCESS_FD) : ffs_hold_main(&host);
}
