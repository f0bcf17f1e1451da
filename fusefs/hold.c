/* SPDX-License-Identifier: Apache-2.0 */
/* `lamina hold`: keeps the FUSE descriptor of the object file system and the
 * table of its inodes, and an `lamina fs` that serves them: one that dies is
 * followed by another, and nobody who reads notices more than a pause. It does
 * nothing else, so that there is nothing in it to fail: one thread, one loop.
 *
 * States: starting (fs runs, not ready) -> serving -> (fs died) backing off ->
 * starting. `stop` unmounts; it ends when the last user of the file system has
 * gone, or when its connection was aborted. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/log.h"
#include "fusefs/kmount_int.h"
#include "fusefs/process_int.h"
#include "fusefs/slots_int.h"
#include "fusefs/unixsock_int.h"

#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS 5000
#define LIVED_WELL_MS 10000 /* after such a life the next start waits for nothing */
#define MAX_READ_BYTES 1048576

struct hold {
        const struct ffs_host *host;
        char *objects_dir, *socket_path; /* owned */
        int listen_fd, fuse_fd, table_fd;
        struct ffs_serving serving;
        int fs_socket; /* -1: no fs */
        int fs_pidfd;  /* -1: no fs */
        bool ready;
        int starter_fd;      /* who waits for the first start, or -1 */
        uint64_t started_ms; /* of the fs that runs */
        uint64_t restart_at_ms;
        unsigned backoff_ms;
        bool leaving; /* unmounted here; the socket is another's */
        bool ended;
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- the mount ---- */

static int mount_objects(struct hold *h, struct cas_err *err)
{
        if (mkdir(h->objects_dir, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", h->objects_dir);
        /* What is mounted there is left from a host whose hold and fs both died: its connection is
         * gone with them. */
        struct ffs_mount_id id;
        if (ffs_kmount_identify(h->objects_dir, &id, err) < 0 ||
            (id.is_mount_root && ffs_kmount_detach(h->objects_dir, true, err) < 0))
                return -(int)err->code;
        h->fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        if (h->fuse_fd < 0)
                return cas_fail_sys(err, errno, "open /dev/fuse");
        if (ffs_slots_create(&h->table_fd, err) < 0)
                return -(int)err->code;
        char options[160];
        (void)snprintf(options, sizeof(options),
                       "fd=%d,rootmode=40555,user_id=%u,group_id=%u,allow_other,"
                       "default_permissions,max_read=%d",
                       h->fuse_fd, (unsigned)geteuid(), (unsigned)getegid(), MAX_READ_BYTES);
        if (mount("lamina-objects", h->objects_dir, "fuse.lamina",
                  MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, options) < 0)
                return cas_fail_sys(err, errno, "mount the object file system at %s",
                                    h->objects_dir);
        if (ffs_kmount_identify(h->objects_dir, &id, err) < 0)
                return -(int)err->code;
        h->serving.dev_major = id.dev_major;
        h->serving.dev_minor = id.dev_minor;
        struct cas_hash random;
        char hex[CAS_HASH_HEX_BYTES];
        if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return cas_fail_sys(err, errno, "getrandom");
        (void)snprintf(h->serving.instance, sizeof(h->serving.instance), "%.32s",
                       cas_hash_hex(&random, hex));
        return 0;
}

/* ---- fs ---- */

static int open_pidfd(pid_t pid)
{
        return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int start_fs(struct hold *h, struct cas_err *err)
{
        int pair[2];
        if (ffs_process_socketpair(pair, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int mine = pair[0];
        cas_cleanup_fd int theirs = pair[1];
        char text[FFS_MESSAGE_BYTES_MAX];
        int fds[2] = {h->fuse_fd, h->table_fd};
        int n = ffs_serving_format("start", &h->serving, text, sizeof(text));
        pid_t pid;
        if (ffs_sock_send(mine, text, (size_t)n, fds, 2, err) < 0 ||
            ffs_process_spawn(h->host, "fs", NULL, theirs, &pid, err) < 0)
                return -(int)err->code;
        h->serving.fs_pid = pid;
        h->fs_socket = cas_steal_fd(&mine);
        h->fs_pidfd = open_pidfd(pid); /* our child: it is there until we wait for it */
        h->ready = false;
        h->started_ms = now_ms();
        return h->fs_pidfd < 0 ? cas_fail_sys(err, errno, "pidfd of fs") : 0;
}

static void try_start_fs(struct hold *h)
{
        struct cas_err err = CAS_ERR_INIT;
        h->restart_at_ms = 0;
        if (start_fs(h, &err) == 0)
                return;
        cas_log(CAS_LOG_ERROR, "hold.start", "why=\"%s\"", err.msg);
        h->backoff_ms = (unsigned)cas_min_u64(h->backoff_ms * 2 + BACKOFF_FIRST_MS, BACKOFF_MAX_MS);
        h->restart_at_ms = now_ms() + h->backoff_ms;
}

static void tell_starter(struct hold *h, const char *text)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (h->starter_fd < 0)
                return;
        if (ffs_sock_send(h->starter_fd, text, strlen(text), NULL, 0, &ignored) < 0)
                cas_log(CAS_LOG_WARN, "hold.starter", "why=gone");
        (void)close(cas_steal_fd(&h->starter_fd));
}

/* fs has ended: by itself when the connection has (status 0), else it is replaced. */
static void fs_ended(struct hold *h)
{
        siginfo_t info = {0};
        bool ended = waitid(P_PIDFD, (id_t)h->fs_pidfd, &info, WEXITED | WNOHANG) == 0 &&
                     info.si_code == CLD_EXITED && info.si_status == 0;
        (void)close(cas_steal_fd(&h->fs_pidfd));
        (void)close(cas_steal_fd(&h->fs_socket));
        if (ended) {
                h->ended = true;
                return;
        }
        uint64_t now = now_ms();
        h->backoff_ms = now - h->started_ms >= LIVED_WELL_MS || h->ready
                                ? 0
                                : (unsigned)cas_min_u64(h->backoff_ms * 2 + BACKOFF_FIRST_MS,
                                                        BACKOFF_MAX_MS);
        cas_log(CAS_LOG_WARN, "hold.fs_died", "pid=%d status=%d after_ms=%ju wait_ms=%u",
                (int)h->serving.fs_pid, info.si_status, (uintmax_t)(now - h->started_ms),
                h->backoff_ms);
        h->serving.restarts++;
        h->ready = false;
        if (h->backoff_ms == 0)
                try_start_fs(h);
        else
                h->restart_at_ms = now + h->backoff_ms;
}

static void fs_says(struct hold *h)
{
        char text[FFS_MESSAGE_BYTES_MAX];
        size_t len = 0, no_fds = 0;
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_sock_receive(h->fs_socket, text, sizeof(text), &len, NULL, &no_fds, 0, &err) < 0 ||
            len == 0)
                return; /* its end shows in the pidfd */
        h->ready = true;
        (void)ffs_serving_format("ok", &h->serving, text, sizeof(text));
        tell_starter(h, text);
}

/* ---- commands ---- */

/* The file system goes with its last user, which may be an overlay in another namespace: until
 * then fs is kept alive as before. From now on another hold may take the place of this one. */
static int stop(struct hold *h, struct cas_err *err)
{
        if (ffs_kmount_detach(h->objects_dir, false, err) < 0)
                return -(int)err->code;
        (void)unlink(h->socket_path);
        h->leaving = true;
        return 0;
}

static int replace_fs(struct hold *h, struct cas_err *err)
{
        if (h->fs_pidfd < 0)
                return cas_fail(err, CAS_E_BUSY, "it is being replaced already");
        /* What it was doing is delivered to the successor. */
        if (syscall(SYS_pidfd_send_signal, h->fs_pidfd, SIGKILL, NULL, 0) < 0)
                return cas_fail_sys(err, errno, "end fs");
        return 0;
}

static int run_command(struct hold *h, const char *verb, struct cas_err *err)
{
        if (strcmp(verb, "status") == 0)
                return 0;
        if (strcmp(verb, "stop") == 0)
                return stop(h, err);
        if (strcmp(verb, "replace") == 0)
                return replace_fs(h, err);
        return cas_fail(err, CAS_E_INVALID, "what is \"%.32s\"?", verb);
}

static void answer_command(struct hold *h)
{
        cas_cleanup_fd int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 || !ffs_sock_peer_trusted(fd))
                return;
        char text[FFS_MESSAGE_BYTES_MAX + 1];
        size_t len = 0, no_fds = 0;
        struct cas_err err = CAS_ERR_INIT;
        /* The other end sends at once, or is cut: nobody may hold this loop up. */
        if (ffs_sock_receive(fd, text, FFS_MESSAGE_BYTES_MAX, &len, NULL, &no_fds, 100, &err) < 0)
                return;
        text[len] = '\0';
        if (run_command(h, text, &err) < 0)
                (void)snprintf(text, sizeof(text), "failed %s %s", cas_code_name(err.code),
                               err.msg);
        else
                (void)ffs_serving_format("ok", &h->serving, text, sizeof(text));
        if (ffs_sock_send(fd, text, strlen(text), NULL, 0, &err) < 0)
                cas_log(CAS_LOG_DEBUG, "hold.answer", "why=gone");
}

/* ---- the loop ---- */

static int wait_ms(const struct hold *h)
{
        if (!h->restart_at_ms)
                return -1;
        uint64_t now = now_ms();
        return now >= h->restart_at_ms ? 0 : (int)(h->restart_at_ms - now);
}

static void loop(struct hold *h)
{
        while (!h->ended) {
                struct pollfd fds[3] = {{.fd = h->leaving ? -1 : h->listen_fd, .events = POLLIN},
                                        {.fd = h->fs_pidfd, .events = POLLIN},
                                        {.fd = h->ready ? -1 : h->fs_socket, .events = POLLIN}};
                if (poll(fds, CAS_COUNT(fds), wait_ms(h)) < 0)
                        continue;
                if (fds[2].revents)
                        fs_says(h);
                if (fds[1].revents)
                        fs_ended(h);
                if (fds[0].revents)
                        answer_command(h);
                if (h->restart_at_ms && now_ms() >= h->restart_at_ms)
                        try_start_fs(h);
        }
}

static int prepare(struct hold *h, const struct ffs_host *host, struct cas_err *err)
{
        *h = (struct hold){.host = host,
                           .objects_dir = cas_xasprintf("%s/objects", host->run_dir),
                           .socket_path = cas_xasprintf("%s/hold.sock", host->run_dir),
                           .listen_fd = -1,
                           .fuse_fd = -1,
                           .table_fd = -1,
                           .fs_socket = -1,
                           .fs_pidfd = -1,
                           .starter_fd = -1};
        ffs_process_protect();
        (void)signal(SIGPIPE, SIG_IGN);
        (void)signal(SIGTERM, SIG_IGN); /* mounts stand on this: `stop` ends it, or nothing */
        (void)signal(SIGINT, SIG_IGN);
        (void)signal(SIGHUP, SIG_IGN);
        return ffs_sock_listen(h->socket_path, &h->listen_fd, err);
}

static int run(struct hold *h)
{
        cas_log(CAS_LOG_INFO, "hold.serving", "device=%u:%u objects=%s", h->serving.dev_major,
                h->serving.dev_minor, h->objects_dir);
        loop(h);
        if (!h->leaving)
                (void)unlink(h->socket_path);
        cas_log(CAS_LOG_INFO, "hold.ended", "restarts=%u", h->serving.restarts);
        return 0;
}

int ffs_hold_main(const struct ffs_host *host)
{
        struct hold h;
        struct cas_err err = CAS_ERR_INIT;
        int rc = prepare(&h, host, &err);
        h.starter_fd = FFS_PROCESS_FD;
        (void)fcntl(h.starter_fd, F_SETFD, FD_CLOEXEC);
        if (rc < 0 || mount_objects(&h, &err) < 0 || start_fs(&h, &err) < 0) {
                char text[FFS_MESSAGE_BYTES_MAX];
                (void)snprintf(text, sizeof(text), "failed %s %s", cas_code_name(err.code),
                               err.msg);
                tell_starter(&h, text);
                cas_log(CAS_LOG_ERROR, "hold.failed", "why=\"%s\"", err.msg);
                return 1;
        }
        return run(&h);
}

/* Takes what fs sends: the descriptors, and who it is. */
static int receive_adopted(struct hold *h, int fs_fd, struct cas_err *err)
{
        char text[FFS_MESSAGE_BYTES_MAX + 1];
        int fds[2] = {-1, -1};
        size_t len = 0, fd_count = 2;
        if (ffs_sock_receive(fs_fd, text, FFS_MESSAGE_BYTES_MAX, &len, fds, &fd_count, 1000, err) <
            0)
                return -(int)err->code;
        text[len] = '\0';
        if (fd_count != 2)
                return cas_fail(err, CAS_E_INVALID, "fs gave %zu descriptors", fd_count);
        h->fuse_fd = fds[0];
        h->table_fd = fds[1];
        return ffs_serving_parse("adopt", text, &h->serving, err);
}

int ffs_hold_adopt_main(const struct ffs_host *host, int fs_fd)
{
        struct hold h;
        struct cas_err err = CAS_ERR_INIT;
        (void)fcntl(fs_fd, F_SETFD, FD_CLOEXEC);
        if (prepare(&h, host, &err) < 0 || receive_adopted(&h, fs_fd, &err) < 0) {
                cas_log(CAS_LOG_ERROR, "hold.failed", "why=\"%s\"", err.msg);
                return 1;
        }
        h.fs_socket = fs_fd;
        h.ready = true;
        h.started_ms = now_ms();
        h.fs_pidfd = open_pidfd(h.serving.fs_pid);
        if (h.fs_pidfd < 0)
                try_start_fs(&h); /* it has died meanwhile; we have what counts */
        return run(&h);
}
