/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/fusermount_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/io.h"
#include "fusefs/kmount_int.h"
#include "fusefs/unixsock_int.h"

#define HELPER "fusermount3"
#define HELPER_WAIT_MS 10000
#define HELPER_TICK_MS 5
#define HELPER_FD 3 /* its end of the socket pair, named in the environment */
#define HELPER_TEXT_BYTES_MAX 400
#define CONF_PATH "/etc/fuse.conf"
#define CONF_BYTES_MAX 65536

extern char **environ;

/* ---- fuse.conf ---- */

bool ffs_fusermount_conf_allows(const char *conf, size_t len)
{
        static const char word[] = "user_allow_other";
        cas_cleanup_free char *copy = cas_xstrndup(conf, len);
        char *at = copy;
        for (char *line; (line = strsep(&at, "\n"));) {
                line[strcspn(line, "#")] = '\0';
                line += strspn(line, " \t\r");
                size_t end = strlen(line);
                while (end > 0 && strchr(" \t\r", line[end - 1]))
                        end--;
                if (end == sizeof(word) - 1 && memcmp(line, word, end) == 0)
                        return true;
        }
        return false;
}

bool ffs_fusermount_may_allow_other(void)
{
        if (geteuid() == 0)
                return true;
        cas_cleanup_buf struct cas_buf conf = CAS_BUF_INIT;
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_io_read_file(cas_io_posix(), AT_FDCWD, CONF_PATH, CONF_BYTES_MAX, &conf,
                                &ignored) == 0 &&
               ffs_fusermount_conf_allows(cas_buf_str(&conf), conf.len_bytes);
}

/* ---- the helper ---- */

struct helper {
        pid_t pid;
        int text_fd; /* what it writes to stderr */
};

static int64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The environment with the socket's number in it; its array and first text are owned. */
static char **helper_environment(void)
{
        size_t count = 0;
        while (environ[count])
                count++;
        char **out = cas_xcalloc(count + 2, sizeof(*out));
        size_t n = 0;
        out[n++] = cas_xasprintf("_FUSE_COMMFD=%d", HELPER_FD);
        for (size_t i = 0; i < count; i++) {
                if (strncmp(environ[i], "_FUSE_COMMFD", 12) != 0)
                        out[n++] = environ[i];
        }
        return out;
}

static int helper_actions(posix_spawn_file_actions_t *files, int text_fd, int socket_fd)
{
        int rc = posix_spawn_file_actions_addopen(files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(files, text_fd, STDERR_FILENO);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(files, STDERR_FILENO, STDOUT_FILENO);
        if (!rc && socket_fd >= 0)
                rc = posix_spawn_file_actions_adddup2(files, socket_fd, HELPER_FD);
        if (!rc)
                rc = posix_spawn_file_actions_addclosefrom_np(files, HELPER_FD + (socket_fd >= 0));
        return rc;
}

/* Signals as in a new program, whatever the caller does with them. */
static int helper_attributes(posix_spawnattr_t *attr)
{
        sigset_t none, defaults;
        (void)sigemptyset(&none);
        (void)sigfillset(&defaults);
        (void)posix_spawnattr_setsigmask(attr, &none);
        (void)posix_spawnattr_setsigdefault(attr, &defaults);
        return posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

/* socket_fd -1: none. */
static int helper_start(const char *const *argv, int socket_fd, struct helper *out,
                        struct cas_err *err)
{
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0)
                return cas_fail_sys(err, errno, "pipe");
        cas_cleanup_fd int from = ends[0];
        cas_cleanup_fd int to = ends[1];
        /* A descriptor that is the target already would stay close-on-exec. */
        cas_cleanup_fd int text = fcntl(to, F_DUPFD_CLOEXEC, HELPER_FD + 1);
        cas_cleanup_fd int theirs =
                socket_fd < 0 ? -1 : fcntl(socket_fd, F_DUPFD_CLOEXEC, HELPER_FD + 1);
        if (text < 0 || (socket_fd >= 0 && theirs < 0))
                return cas_fail_sys(err, errno, "dup");
        posix_spawn_file_actions_t files;
        posix_spawnattr_t attr;
        if (posix_spawn_file_actions_init(&files) != 0 || posix_spawnattr_init(&attr) != 0)
                return cas_fail(err, CAS_E_NOMEM, "spawn");
        char **env = helper_environment();
        int rc = helper_actions(&files, text, theirs);
        if (rc == 0)
                rc = helper_attributes(&attr);
        if (rc == 0)
                rc = posix_spawnp(&out->pid, HELPER, &files, &attr, (char **)(uintptr_t)argv, env);
        free(env[0]);
        free(env);
        (void)posix_spawn_file_actions_destroy(&files);
        (void)posix_spawnattr_destroy(&attr);
        if (rc == ENOENT)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                HELPER " is not installed, which mounts for users other than root: "
                                       "install the package fuse3");
        if (rc)
                return cas_fail_sys(err, rc, "start " HELPER);
        out->text_fd = cas_steal_fd(&from);
        return 0;
}

/* What it said last, without its own name; text has HELPER_TEXT_BYTES_MAX. */
static void helper_text(int fd, char *text)
{
        size_t len = 0;
        (void)fcntl(fd, F_SETFL, O_NONBLOCK);
        ssize_t n;
        while (len < HELPER_TEXT_BYTES_MAX - 1 &&
               (n = read(fd, text + len, HELPER_TEXT_BYTES_MAX - 1 - len)) > 0)
                len += (size_t)n;
        while (len > 0 && text[len - 1] == '\n')
                len--;
        text[len] = '\0';
        const char *last = strrchr(text, '\n');
        last = last ? last + 1 : text;
        if (strncmp(last, HELPER ": ", sizeof(HELPER) + 1) == 0)
                last += sizeof(HELPER) + 1;
        memmove(text, last, strlen(last) + 1);
}

/* Waits for its end; one that takes too long is killed. *failed: it did not succeed, text says
 * why. */
static int helper_end(struct helper *h, int64_t deadline_ms, bool *failed, char *text,
                      struct cas_err *err)
{
        cas_cleanup_fd int text_fd = h->text_fd;
        int status = 0;
        pid_t got;
        while ((got = waitpid(h->pid, &status, WNOHANG)) == 0 && now_ms() < deadline_ms) {
                struct timespec tick = {.tv_nsec = HELPER_TICK_MS * 1000000};
                (void)nanosleep(&tick, NULL);
        }
        if (got == 0) {
                (void)kill(h->pid, SIGKILL);
                (void)waitpid(h->pid, NULL, 0);
                return cas_fail(err, CAS_E_BUSY,
                                HELPER " did not end within %d s and was killed: is a file system "
                                       "on the way dead?",
                                HELPER_WAIT_MS / 1000);
        }
        helper_text(text_fd, text);
        /* Without a status (the caller ignores SIGCHLD) what follows tells. */
        *failed = got > 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0);
        return 0;
}

/* ---- mounting ---- */

static int fail_mount(const char *dir, const char *text, struct cas_err *err)
{
        if (access("/dev/fuse", F_OK) < 0 && errno == ENOENT)
                return cas_fail(err, CAS_E_UNSUPPORTED, "there is no /dev/fuse (modprobe fuse?)");
        if (access("/dev/fuse", R_OK | W_OK) < 0)
                return cas_fail(err, CAS_E_DENIED,
                                "this user may not open /dev/fuse: root lets it (chmod 0666, or "
                                "its group)");
        enum cas_code code = CAS_E_DENIED;
        if (strstr(text, "option"))
                code = CAS_E_INVALID;
        else if (strstr(text, "No such file"))
                code = CAS_E_NOTFOUND;
        else if (strstr(text, "too many"))
                code = CAS_E_LIMIT;
        return cas_fail(err, code, HELPER " does not mount at %s: %s", dir,
                        text[0] ? text : "it does not say why (is it set-uid root?)");
}

/* Takes the descriptor out of the helper's message: one byte, with one descriptor. */
static int receive_device(int fd, int64_t deadline_ms, int *out, struct cas_err *err)
{
        char byte[8];
        size_t len = 0, fd_count = 1;
        int64_t left_ms = deadline_ms - now_ms();
        *out = -1;
        return ffs_sock_receive(fd, byte, sizeof(byte), &len, out, &fd_count,
                                left_ms > 0 ? (int)left_ms : 0, err);
}

int ffs_fusermount_mount(const char *dir, const char *options, int *out_fuse_fd,
                         struct cas_err *err)
{
        cas_assert(dir[0] == '/');
        cas_cleanup_free char *all = cas_xasprintf(
                "default_permissions%s%s%s", ffs_fusermount_may_allow_other() ? ",allow_other" : "",
                options && options[0] ? "," : "", options ? options : "");
        const char *const argv[] = {HELPER, "-o", all, "--", dir, NULL};
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return cas_fail_sys(err, errno, "socketpair");
        cas_cleanup_fd int mine = pair[0];
        cas_cleanup_fd int theirs = pair[1];
        int64_t deadline_ms = now_ms() + HELPER_WAIT_MS;
        struct helper h;
        if (helper_start(argv, theirs, &h, err) < 0)
                return -(int)err->code;
        (void)close(cas_steal_fd(&theirs)); /* so that its end is noticed */
        cas_cleanup_fd int device = -1;
        char text[HELPER_TEXT_BYTES_MAX];
        bool failed;
        struct cas_err why = CAS_ERR_INIT;
        int received = receive_device(mine, deadline_ms, &device, &why);
        if (helper_end(&h, deadline_ms, &failed, text, err) < 0)
                return -(int)err->code;
        if (received < 0) {
                *err = why;
                return cas_err_wrap(err, HELPER);
        }
        if (failed || device < 0)
                return fail_mount(dir, text, err);
        *out_fuse_fd = cas_steal_fd(&device);
        return 0;
}

int ffs_fusermount_umount(const char *dir, bool lazy, struct cas_err *err)
{
        cas_assert(dir[0] == '/');
        struct ffs_mount_id id;
        struct cas_err why = CAS_ERR_INIT;
        if (ffs_kmount_identify(dir, &id, &why) < 0) {
                if (why.code == CAS_E_NOTFOUND)
                        return 0;
        } else if (!id.is_mount_root) {
                return 0;
        }
        const char *const now[] = {HELPER, "-u", "--", dir, NULL};
        const char *const later[] = {HELPER, "-u", "-z", "--", dir, NULL};
        struct helper h;
        char text[HELPER_TEXT_BYTES_MAX];
        bool failed;
        if (helper_start(lazy ? later : now, -1, &h, err) < 0 ||
            helper_end(&h, now_ms() + HELPER_WAIT_MS, &failed, text, err) < 0)
                return -(int)err->code;
        if (!failed)
                return 0;
        return cas_fail(err, strstr(text, "busy") ? CAS_E_BUSY : CAS_E_DENIED,
                        HELPER " does not unmount %s: %s", dir,
                        text[0] ? text : "it does not say why");
}
