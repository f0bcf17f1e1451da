/* SPDX-License-Identifier: Apache-2.0 */
/* Docker's credential helpers: docker-credential-NAME get, the server on stdin,
 * {"Username","Secret"} on stdout. A helper that hangs is killed. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/json.h"
#include "registry/authfile.h"

extern char **environ;

#define NAME_BYTES_MAX 100
#define ANSWER_BYTES_MAX (4 * REG_CREDENTIAL_BYTES_MAX)

static bool name_valid(const char *name)
{
        size_t n =
                strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
        return n > 0 && n <= NAME_BYTES_MAX && name[n] == 0 && name[0] != '.';
}

static int64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Its stdin is a file of one line, its stdout our pipe; no other descriptor is its. */
static int start(const char *program, int in, int out, pid_t *pid)
{
        posix_spawn_file_actions_t files;
        posix_spawnattr_t attr;
        sigset_t none;
        const char *argv[] = {program, "get", NULL};
        int rc = posix_spawn_file_actions_init(&files);
        cas_assert(rc == 0);
        rc = posix_spawnattr_init(&attr);
        cas_assert(rc == 0);
        (void)sigemptyset(&none);
        rc = posix_spawnattr_setsigmask(&attr, &none);
        if (!rc) /* a group of its own, to be killed with what it starts */
                rc = posix_spawnattr_setflags(&attr,
                                              POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
        if (!rc)
                rc = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
        if (!rc)
                rc = posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
        if (!rc)
                rc = posix_spawnp(pid, program, &files, &attr, (char **)(uintptr_t)argv, environ);
        (void)posix_spawn_file_actions_destroy(&files);
        (void)posix_spawnattr_destroy(&attr);
        return rc;
}

/* All that it writes, until the end or the deadline. */
static int read_answer(int fd, int64_t until_ms, struct cas_buf *out, struct cas_err *err)
{
        for (;;) {
                int64_t left = until_ms - now_ms();
                struct pollfd p = {.fd = fd, .events = POLLIN};
                int ready = left > 0 ? poll(&p, 1, (int)left) : 0;
                if (ready < 0 && errno == EINTR)
                        continue;
                if (ready <= 0)
                        return cas_fail(err, CAS_E_UNSUPPORTED, "it does not answer");
                uint8_t piece[4096];
                ssize_t n = read(fd, piece, sizeof(piece));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? cas_fail_sys(err, errno, "read") : 0;
                if (out->len_bytes + (size_t)n > ANSWER_BYTES_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "it says too much");
                cas_buf_append(out, piece, (size_t)n);
        }
}

/* Waits for the end of a process that has closed its output; one that stays is killed. */
static int reap(pid_t pid, int64_t until_ms, bool kill_now)
{
        int status = 0;
        for (;;) {
                if (kill_now || now_ms() >= until_ms)
                        (void)kill(-pid, SIGKILL);
                pid_t got = waitpid(pid, &status, WNOHANG);
                if (got == pid)
                        return status;
                if (got < 0 && errno != EINTR)
                        return -1;
                (void)poll(NULL, 0, 5);
        }
}

static int take_answer(const struct cas_buf *text, struct reg_credentials *out, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        const char *user, *secret;
        if (cas_json_parse(text->data, text->len_bytes, ANSWER_BYTES_MAX, &j, err) < 0 ||
            cas_json_string_in(j, "Username", &user, err) < 0 ||
            cas_json_string_in(j, "Secret", &secret, err) < 0)
                return -(int)err->code;
        if (!user || !secret)
                return cas_fail(err, CAS_E_INVALID, "its answer has no Username and Secret");
        if (strcmp(user, "<token>") == 0) {
                out->identity_token = cas_xstrdup(secret);
        } else if (*user) {
                out->user = cas_xstrdup(user);
                out->password = cas_xstrdup(secret);
        }
        return 0;
}

static int line_file(const char *text, int *out, struct cas_err *err)
{
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        size_t len = strlen(text); /* fits a pipe: the caller saw to it */
        bool written = write(ends[1], text, len) == (ssize_t)len;
        (void)close(ends[1]);
        if (!written) {
                (void)close(ends[0]);
                return cas_fail(err, CAS_E_IO, "write to a pipe");
        }
        *out = ends[0];
        return 0;
}

static int run(const char *program, const char *server, unsigned wait_ms, struct cas_buf *answer,
               int *status, struct cas_err *err)
{
        int ends[2];
        cas_cleanup_fd int in = -1;
        int64_t until_ms = now_ms() + wait_ms;
        pid_t pid = -1;
        cas_cleanup_free char *line = cas_xasprintf("%s\n", server);
        if (strlen(line) > 4096)
                return cas_fail(err, CAS_E_INVALID, "a server's name is too long");
        if (line_file(line, &in, err) < 0)
                return -(int)err->code;
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        int rc = start(program, in, ends[1], &pid);
        (void)close(ends[1]);
        if (rc) {
                (void)close(ends[0]);
                return cas_fail(err, CAS_E_UNSUPPORTED, "it cannot be started: %s",
                                rc == ENOENT ? "it is not installed" : strerrordesc_np(rc));
        }
        rc = read_answer(ends[0], until_ms, answer, err);
        (void)close(ends[0]);
        *status = reap(pid, until_ms, rc < 0);
        return rc;
}

int reg_credhelper_get(const char *name, const char *server, unsigned wait_ms,
                       struct reg_credentials *out, struct cas_err *err)
{
        if (!name_valid(name))
                return cas_fail(err, CAS_E_INVALID, "credential helper %.50s: not a name", name);
        cas_cleanup_free char *program = cas_xasprintf("docker-credential-%s", name);
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        int status = 0;
        int rc = run(program, server, wait_ms, &answer, &status, err);
        if (rc == 0 && status != 0) {
                /* Having none is said in words alone. */
                if (!strstr(cas_buf_str(&answer), "credentials not found"))
                        rc = cas_fail(err, CAS_E_UNSUPPORTED, "%.200s",
                                      answer.len_bytes ? cas_buf_str(&answer) : "it failed");
        } else if (rc == 0) {
                rc = take_answer(&answer, out, err);
        }
        if (answer.data)
                OPENSSL_cleanse(answer.data, answer.len_bytes);
        return rc < 0 ? cas_err_wrap(err, "%s", program) : 0;
}
