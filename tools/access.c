/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/access.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "tiering/cluster.h"
#include "tiering/mover.h"
#include "tools/control.h"
#include "tools/decoder.h"
#include "tools/ops.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/progressline.h"

#define RETRY_MS 50
#define LOCK_SLICE_MS 200 /* then an owner may have come up: look again */
#define READY_FD 3
#define READY_BYTES_MAX 4096

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void sleep_ms(unsigned ms)
{
        (void)nanosleep(&(struct timespec){.tv_nsec = (long)ms * 1000000}, NULL);
}

/* ---- operations ---- */

static int call_here(const char *store_path, const struct op *op, const json_t *args,
                     const struct cas_progress *progress, json_t **result, bool *busy,
                     struct cas_err *err)
{
        struct cas_store_config config = {.path = store_path,
                                          .backend_open = tier_set_open,
                                          .shared_open = tier_cluster_shared_open,
                                          .lock_wait_ms = LOCK_SLICE_MS,
                                          .decoder = decoder_of(DECODER_AUTO)};
        cas_cleanup_store struct cas_store *s = NULL;
        int rc = cas_store_open(&config, &s, err);
        *busy = rc == -CAS_E_BUSY;
        if (rc < 0)
                return rc;
        struct op_context ctx = {.progress = progress,
                                 .mover = tier_mover_start(s, TIER_MOVER_WANTED)};
        rc = op->run(s, args, &ctx, result, err);
        tier_mover_stop(ctx.mover);
        return rc;
}

/* The owner may see other mounts than we do: it is told whose names the paths are. */
static json_t *with_client(const json_t *args)
{
        char mounts[64] = "";
        ssize_t len = readlink("/proc/self/ns/mnt", mounts, sizeof(mounts) - 1);
        if (len > 0)
                mounts[len] = '\0';
        json_t *copy = json_copy((json_t *)(uintptr_t)args);
        json_object_set_new(
                copy, "client",
                json_pack("{s:i, s:s}", "pid", (int)getpid(), "mountNamespace", mounts));
        return copy;
}

int access_call(const char *store_path, const char *name, const json_t *args,
                const struct cas_progress *progress, json_t **result, struct cas_err *err)
{
        const struct op *op = op_find(name);
        cas_assert(op != NULL);
        op_cleanup_json json_t *remote_args = with_client(args);
        uint64_t deadline_ms = now_ms() + ACCESS_WAIT_MS;
        for (;;) {
                struct cas_err tried = CAS_ERR_INIT;
                bool no_owner, busy = false;
                int rc = control_call(store_path, name, remote_args, progress, result, &no_owner,
                                      &tried);
                if (rc < 0 && no_owner) {
                        tried = (struct cas_err)CAS_ERR_INIT;
                        rc = call_here(store_path, op, args, progress, result, &busy, &tried);
                }
                if (rc < 0 && (!busy || now_ms() >= deadline_ms))
                        *err = tried;
                if (rc == 0 || !busy || now_ms() >= deadline_ms)
                        return rc;
        }
}

/* ---- the owner ---- */

static void owner_exec(const char *program, const char *store_path, int ready_fd)
{
        int null_fd = open("/dev/null", O_RDWR);
        if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0 ||
            dup2(ready_fd, READY_FD) < 0)
                _exit(127);
        (void)close_range(READY_FD + 1, ~0U, 0);
        /* dup2 of a descriptor onto itself leaves close-on-exec set */
        (void)fcntl(READY_FD, F_SETFD, 0);
        sigset_t none;
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (chdir("/") != 0)
                _exit(127);
        char *argv[] = {(char[]){"lamina"},
                        (char[]){"serve"},
                        (char[]){"--store"},
                        (char *)(uintptr_t)store_path,
                        (char[]){"--no-registry"},
                        (char[]){"--ready-fd"},
                        (char[]){"3"},
                        NULL};
        (void)execv(program, argv);
        _exit(127);
}

/* Starts `lamina serve --no-registry` as a process of its own and waits until it is ready.
 * Errors: what it reported. */
static int owner_start(const char *store_path, struct cas_err *err)
{
        cas_cleanup_free char *program = NULL;
        if (path_program(&program, err) < 0)
                return -(int)err->code;
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
                return cas_fail_sys(err, errno, "pipe");
        cas_cleanup_fd int from = ends[0];
        pid_t child = fork();
        if (child < 0) {
                (void)close(ends[1]);
                return cas_fail_sys(err, errno, "fork");
        }
        if (child == 0) {
                (void)setsid();
                if (fork() == 0)
                        owner_exec(program, store_path, ends[1]);
                _exit(0);
        }
        (void)close(ends[1]);
        (void)waitpid(child, NULL, 0);
        char text[READY_BYTES_MAX];
        size_t len = 0;
        for (ssize_t n; len < sizeof(text);) {
                n = read(from, text + len, sizeof(text) - len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break;
                len += (size_t)n;
        }
        /* "ok", or the name of an error code, a blank and its message */
        if (len == 2 && memcmp(text, "ok", 2) == 0)
                return 0;
        char code_name[16] = "";
        int skip = 0;
        text[len < sizeof(text) ? len : sizeof(text) - 1] = '\0';
        (void)sscanf(text, "%15s %n", code_name, &skip);
        enum cas_code code = cas_code_by_name(code_name);
        if (code == CAS_OK)
                return cas_fail(err, CAS_E_IO, "the background process ended while it started");
        return cas_fail(err, code, "%s", text + skip);
}

int access_owner(const char *store_path, json_t **info, struct cas_err *err)
{
        uint64_t deadline_ms = now_ms() + ACCESS_WAIT_MS;
        for (;;) {
                struct cas_err tried = CAS_ERR_INIT;
                int rc = control_info(store_path, info, &tried);
                if (rc != -CAS_E_NOTFOUND) {
                        if (rc < 0)
                                *err = tried;
                        return rc;
                }
                tried = (struct cas_err)CAS_ERR_INIT;
                rc = owner_start(store_path, &tried);
                if (rc == -CAS_E_BUSY && now_ms() < deadline_ms) {
                        sleep_ms(RETRY_MS); /* somebody else is at it */
                } else if (rc < 0) {
                        *err = tried;
                        return cas_err_wrap(err, "start the owner of %s", store_path);
                }
        }
}

int access_nobody(const char *store_path, struct cas_err *err)
{
        op_cleanup_json json_t *info = NULL;
        int rc = control_info(store_path, &info, err);
        if (rc == -CAS_E_NOTFOUND) {
                *err = (struct cas_err)CAS_ERR_INIT;
                return 0;
        }
        if (rc < 0)
                return rc;
        return cas_fail(err, CAS_E_BUSY, "process %lld owns the store %s: end it first (kill %lld)",
                        (long long)json_integer_value(json_object_get(info, "pid")), store_path,
                        (long long)json_integer_value(json_object_get(info, "pid")));
}

/* ---- commands ---- */

int access_arg(json_t *args, const char *key, const char *value, struct cas_err *err)
{
        if (!value)
                return 0;
        json_t *text = json_string(value);
        if (!text)
                return cas_fail(err, CAS_E_INVALID, "%s is not UTF-8 text: %s", key, value);
        json_object_set_new(args, key, text);
        return 0;
}

int access_command(const struct cli *cli, const char *op, json_t *args,
                   int (*show)(const struct cli *cli, const json_t *result))
{
        op_cleanup_json json_t *owned = args;
        op_cleanup_json json_t *result = NULL;
        cas_cleanup_free char *store = NULL;
        struct cas_err err = CAS_ERR_INIT;
        int rc = path_store(cli->store_option, &store, &err);
        if (rc == 0) {
                cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
                rc = access_call(store, op, owned, cli_progress_sink(progress), &result, &err);
        }
        if (rc < 0)
                return cli_report(cli->command->name, &err);
        if (cli->json)
                return cli_print_json(result);
        return show ? show(cli, result) : CLI_OK;
}
