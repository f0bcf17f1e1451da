/* SPDX-License-Identifier: Apache-2.0 */
/* `lamina hold`: keeps the descriptors of FUSE connections and of what belongs
 * to them, as items that `lamina fs` gives it, and an `lamina fs` that serves
 * them: one that dies is followed by another, and nobody who reads notices more
 * than a pause. It does nothing else, so that there is nothing in it to fail: one
 * thread, one loop. Of items it makes one itself, for root, who may mount it: the
 * object file system.
 *
 * States: starting (fs runs, not ready) -> serving -> (fs died) backing off ->
 * starting. `stop` unmounts the object file system and gives the run directory
 * up; it ends when fs says, by its exit status, that nothing is left to serve. */
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
#include "fusefs/keep_int.h"
#include "fusefs/kmount_int.h"
#include "fusefs/process_int.h"
#include "fusefs/pulse_int.h"
#include "fusefs/slots_int.h"
#include "fusefs/unixsock_int.h"

#define BACKOFF_FIRST_MS 50
#define BACKOFF_MAX_MS 5000
#define LIVED_WELL_MS 10000 /* after such a life the next start waits for nothing */
#define MAX_READ_BYTES 1048576
/* A killed fs is gone at once, but for threads that the kernel keeps until a disk has answered, for
 * which a successor should wait, or fs itself, for which it must not. */
#define DYING_MS 3000

struct hold {
        struct ffs_host host;
        char *program, *fallback;        /* owned; fallback: until the new program has been ready */
        char *objects_dir, *socket_path; /* owned */
        int listen_fd;                   /* -1: the run directory is another's */
        struct ffs_keep_items items;
        struct ffs_serving serving;
        int fs_socket;           /* -1: no fs */
        int fs_pidfd;            /* -1: no fs */
        uint64_t dying_until_ms; /* 0: not dying */
        int late_pidfd;          /* of an earlier fs that is not wholly gone; -1: none */
        bool ready;
        int starter_fd;      /* who waits for the first start, or -1 */
        uint64_t started_ms; /* of the fs that runs */
        uint64_t restart_at_ms;
        unsigned backoff_ms;
        bool ended;
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- the mount ---- */

static int mount_fuse(const struct hold *h, int fuse_fd, struct cas_err *err)
{
        char options[160];
        (void)snprintf(options, sizeof(options),
                       "fd=%d,rootmode=40555,user_id=%u,group_id=%u,allow_other,"
                       "default_permissions,max_read=%d",
                       fuse_fd, (unsigned)geteuid(), (unsigned)getegid(), MAX_READ_BYTES);
        if (mount("lamina-objects", h->objects_dir, "fuse.lamina",
                  MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, options) < 0)
                return cas_fail_sys(err, errno, "mount the object file system at %s",
                                    h->objects_dir);
        return 0;
}

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
        cas_cleanup_fd int fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        if (fuse_fd < 0)
                return cas_fail_sys(err, errno, "open /dev/fuse");
        cas_cleanup_fd int table_fd = -1;
        if (ffs_slots_create(&ffs_slots_objects, &table_fd, err) < 0 ||
            mount_fuse(h, fuse_fd, err) < 0 || ffs_kmount_identify(h->objects_dir, &id, err) < 0)
                return -(int)err->code;
        h->serving.dev_major = id.dev_major;
        h->serving.dev_minor = id.dev_minor;
        struct ffs_keep_item item = {.name = FFS_KEEP_OBJECTS, .text = cas_xstrdup("")};
        item.fds[item.fd_count++] = cas_steal_fd(&fuse_fd);
        item.fds[item.fd_count++] = cas_steal_fd(&table_fd);
        ffs_keep_items_put(&h->items, &item);
        return 0;
}

/* Who may not mount goes without: its connections come from elsewhere. */
static int begin(struct hold *h, struct cas_err *err)
{
        struct cas_hash random;
        char hex[CAS_HASH_HEX_BYTES];
        if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return cas_fail_sys(err, errno, "getrandom");
        (void)snprintf(h->serving.instance, sizeof(h->serving.instance), "%.32s",
                       cas_hash_hex(&random, hex));
        return geteuid() == 0 ? mount_objects(h, err) : 0;
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
        int n = ffs_serving_format("start", &h->serving, text, sizeof(text));
        pid_t pid;
        if (ffs_sock_send(mine, text, (size_t)n, NULL, 0, err) < 0 ||
            ffs_process_spawn(&h->host, "fs", NULL, theirs, &pid, err) < 0)
                return -(int)err->code;
        h->serving.fs_pid = pid;
        if (h->fs_socket >= 0)
                (void)close(h->fs_socket);
        h->fs_socket = cas_steal_fd(&mine);
        h->fs_pidfd = open_pidfd(pid); /* our child: it is there until we wait for it */
        h->ready = false;
        h->started_ms = now_ms();
        return h->fs_pidfd < 0 ? cas_fail_sys(err, errno, "pidfd of fs") : 0;
}

static void use_program(struct hold *h, char *program)
{
        free(h->program);
        h->program = program;
        h->host.program = program;
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

/* fs has ended: by itself when the connection has (status 0), else it is replaced. Called also when
 * it was killed and takes too long: then its successor answers what its last threads wait for. */
static void fs_ended(struct hold *h)
{
        siginfo_t info = {0};
        bool ended = waitid(P_PIDFD, (id_t)h->fs_pidfd, &info, WEXITED | WNOHANG) == 0 &&
                     info.si_code == CLD_EXITED && info.si_status == 0;
        struct pollfd gone = {.fd = h->fs_pidfd, .events = POLLIN};
        if (poll(&gone, 1, 0) == 0) {
                cas_log(CAS_LOG_WARN, "hold.fs_late", "pid=%d", (int)h->serving.fs_pid);
                if (h->late_pidfd < 0)
                        h->late_pidfd = fcntl(h->fs_pidfd, F_DUPFD_CLOEXEC, 0);
        }
        h->dying_until_ms = 0;
        ffs_keep_items_drop(&h->items, FFS_PULSE_ITEM);
        (void)close(cas_steal_fd(&h->fs_pidfd));
        if (h->fs_socket >= 0)
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
        if (!h->ready && h->fallback) {
                cas_log(CAS_LOG_ERROR, "hold.fallback", "program=%s", h->program);
                use_program(h, cas_steal(&h->fallback));
        }
        h->ready = false;
        if (h->backoff_ms == 0)
                try_start_fs(h);
        else
                h->restart_at_ms = now + h->backoff_ms;
}

/* ---- what fs says ---- */

static void fs_ready(struct hold *h)
{
        char text[FFS_MESSAGE_BYTES_MAX];
        h->ready = true;
        free(cas_steal(&h->fallback));
        (void)ffs_serving_format("ok", &h->serving, text, sizeof(text));
        tell_starter(h, text);
}

/* From now on another hold may take the run directory. */
static void leave(struct hold *h)
{
        if (h->listen_fd < 0)
                return;
        (void)unlink(h->socket_path);
        (void)close(cas_steal_fd(&h->listen_fd));
}

static int send_item(struct hold *h, const char *number, struct cas_err *err)
{
        size_t i = strtoul(number, NULL, 10);
        return i < h->items.count ? ffs_keep_send(h->fs_socket, "item", &h->items.list[i], err)
                                  : ffs_sock_send(h->fs_socket, "ok", 2, NULL, 0, err);
}

/* The verb before the first space, and what follows it. */
static const char *split(char *text)
{
        char *space = strchr(text, ' ');
        if (!space)
                return "";
        *space = '\0';
        return space + 1;
}

/* Takes the descriptors over. */
static int keep_item(struct hold *h, const char *rest, const int *fds, size_t *fd_count,
                     struct cas_err *err)
{
        struct ffs_keep_item item;
        size_t count = *fd_count;
        *fd_count = 0;
        if (ffs_keep_item_parse(rest, fds, count, &item, err) < 0)
                return -(int)err->code;
        ffs_keep_items_put(&h->items, &item);
        return 0;
}

static void fs_says(struct hold *h)
{
        static char text[FFS_KEEP_MESSAGE_BYTES_MAX + 1];
        int fds[FFS_KEEP_FDS_MAX];
        size_t len = 0, fd_count = FFS_KEEP_FDS_MAX;
        struct cas_err err = CAS_ERR_INIT;
        int rc = ffs_sock_receive(h->fs_socket, text, FFS_KEEP_MESSAGE_BYTES_MAX, &len, fds,
                                  &fd_count, 0, &err);
        if (rc == 0 && len == 0)
                return; /* its end shows in the pidfd */
        text[rc == 0 ? len : 0] = '\0';
        const char *rest = split(text);
        if (rc == 0 && strcmp(text, "get") == 0) {
                if (send_item(h, rest, &err) < 0)
                        cas_log(CAS_LOG_WARN, "hold.item", "why=\"%s\"", err.msg);
                return;
        }
        if (rc == 0 && strcmp(text, "put") == 0)
                rc = keep_item(h, rest, fds, &fd_count, &err);
        else if (rc == 0 && strcmp(text, "drop") == 0)
                ffs_keep_items_drop(&h->items, rest);
        else if (rc == 0 && strcmp(text, "ready") == 0)
                fs_ready(h);
        else if (rc == 0 && strcmp(text, "leave") == 0)
                leave(h);
        else if (rc == 0)
                rc = cas_fail(&err, CAS_E_INVALID, "what is \"%.32s\"?", text);
        for (size_t i = 0; i < fd_count; i++)
                (void)close(fds[i]);
        (void)ffs_process_answer_format(rc, &err, text, sizeof(text));
        if (ffs_sock_send(h->fs_socket, text, strlen(text), NULL, 0, &err) < 0)
                cas_log(CAS_LOG_DEBUG, "hold.answer", "why=gone");
}

/* ---- commands ---- */

/* The file system goes with its last user, which may be an overlay in another namespace: until
 * then fs is kept alive as before. From now on another hold may take the place of this one. */
static int stop(struct hold *h, struct cas_err *err)
{
        /* Lazily: the opener has files open there, and ends when it is gone. */
        if (geteuid() == 0 && ffs_kmount_detach(h->objects_dir, true, err) < 0)
                return -(int)err->code;
        leave(h);
        return 0;
}

/* By the program at an absolute path, or by the same as before. A new one that ends before it is
 * ready is followed by this one, whatever became of its file. */
static int replace_fs(struct hold *h, const char *program, struct cas_err *err)
{
        if (h->fs_pidfd < 0)
                return cas_fail(err, CAS_E_BUSY, "it is being replaced already");
        if (program[0] && (program[0] != '/' || access(program, X_OK) < 0))
                return cas_fail(err, CAS_E_INVALID, "%s is no program here", program);
        if (program[0]) {
                use_program(h, cas_xstrdup(program));
                free(h->fallback);
                h->fallback = cas_xstrdup("/proc/self/exe");
        }
        /* What it was doing is delivered to the successor. */
        if (syscall(SYS_pidfd_send_signal, h->fs_pidfd, SIGKILL, NULL, 0) < 0)
                return cas_fail_sys(err, errno, "end fs");
        return 0;
}

static int run_command(struct hold *h, char *text, struct cas_err *err)
{
        const char *rest = split(text);
        if (strcmp(text, "status") == 0)
                return 0;
        if (strcmp(text, "stop") == 0)
                return stop(h, err);
        if (strcmp(text, "replace") == 0)
                return replace_fs(h, rest, err);
        return cas_fail(err, CAS_E_INVALID, "what is \"%.32s\"?", text);
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
        int rc = run_command(h, text, &err);
        if (rc < 0)
                (void)ffs_process_answer_format(rc, &err, text, sizeof(text));
        else
                (void)ffs_serving_format("ok", &h->serving, text, sizeof(text));
        if (ffs_sock_send(fd, text, strlen(text), NULL, 0, &err) < 0)
                cas_log(CAS_LOG_DEBUG, "hold.answer", "why=gone");
}

/* ---- the loop ---- */

static int wait_ms(const struct hold *h)
{
        uint64_t until = h->restart_at_ms ? h->restart_at_ms : h->dying_until_ms;
        if (!until)
                return -1;
        uint64_t now = now_ms();
        return now >= until ? 0 : (int)(until - now);
}

/* What tells that fs was killed before all of it is gone; -1: known already, or not there. */
static int pulse_fd(const struct hold *h)
{
        const struct ffs_keep_item *pulse = ffs_keep_items_find(&h->items, FFS_PULSE_ITEM);
        return pulse && pulse->fd_count && !h->dying_until_ms ? pulse->fds[0] : -1;
}

static void late_ended(struct hold *h)
{
        siginfo_t info;
        (void)waitid(P_PIDFD, (id_t)h->late_pidfd, &info, WEXITED | WNOHANG);
        (void)close(cas_steal_fd(&h->late_pidfd));
}

static void loop(struct hold *h)
{
        while (!h->ended) {
                struct pollfd fds[5] = {{.fd = h->listen_fd, .events = POLLIN},
                                        {.fd = h->fs_pidfd, .events = POLLIN},
                                        {.fd = h->fs_socket, .events = POLLIN},
                                        {.fd = pulse_fd(h)},
                                        {.fd = h->late_pidfd, .events = POLLIN}};
                if (poll(fds, CAS_COUNT(fds), wait_ms(h)) < 0)
                        continue;
                if (fds[2].revents)
                        fs_says(h);
                if (fds[4].revents)
                        late_ended(h);
                if (fds[3].revents)
                        h->dying_until_ms = now_ms() + DYING_MS;
                if (fds[1].revents || (h->dying_until_ms && now_ms() >= h->dying_until_ms))
                        fs_ended(h);
                if (fds[0].revents)
                        answer_command(h);
                if (h->restart_at_ms && now_ms() >= h->restart_at_ms)
                        try_start_fs(h);
        }
}

static void prepare(struct hold *h, const struct ffs_host *host)
{
        *h = (struct hold){.host = *host,
                           .objects_dir = cas_xasprintf("%s/objects", host->run_dir),
                           .socket_path = cas_xasprintf("%s/hold.sock", host->run_dir),
                           .listen_fd = -1,
                           .fs_socket = -1,
                           .fs_pidfd = -1,
                           .late_pidfd = -1,
                           .starter_fd = -1};
        use_program(h, cas_xstrdup(host->program));
        ffs_process_protect();
        ffs_process_raise_file_limit();
        (void)signal(SIGPIPE, SIG_IGN);
        (void)signal(SIGTERM, SIG_IGN); /* mounts stand on this: `stop` ends it, or nothing */
        (void)signal(SIGINT, SIG_IGN);
        (void)signal(SIGHUP, SIG_IGN);
}

static int run(struct hold *h)
{
        cas_log(CAS_LOG_INFO, "hold.serving", "device=%u:%u objects=%s", h->serving.dev_major,
                h->serving.dev_minor, h->objects_dir);
        loop(h);
        leave(h);
        ffs_keep_items_release(&h->items);
        cas_log(CAS_LOG_INFO, "hold.ended", "restarts=%u", h->serving.restarts);
        return 0;
}

int ffs_hold_main(const struct ffs_host *host)
{
        struct hold h;
        struct cas_err err = CAS_ERR_INIT;
        prepare(&h, host);
        h.starter_fd = FFS_PROCESS_FD;
        (void)fcntl(h.starter_fd, F_SETFD, FD_CLOEXEC);
        if (ffs_sock_listen(h.socket_path, &h.listen_fd, &err) < 0 || begin(&h, &err) < 0 ||
            start_fs(&h, &err) < 0) {
                char text[FFS_MESSAGE_BYTES_MAX];
                (void)ffs_process_answer_format(-1, &err, text, sizeof(text));
                tell_starter(&h, text);
                cas_log(CAS_LOG_ERROR, "hold.failed", "why=\"%s\"", err.msg);
                return 1;
        }
        return run(&h);
}

/* Who fs is; its items come by `put`. One whose predecessor had left does not listen either. */
static int receive_adopted(struct hold *h, int fs_fd, struct cas_err *err)
{
        char text[FFS_MESSAGE_BYTES_MAX + 1];
        size_t len = 0, no_fds = 0;
        if (ffs_sock_receive(fs_fd, text, FFS_MESSAGE_BYTES_MAX, &len, NULL, &no_fds, 1000, err) <
            0)
                return -(int)err->code;
        text[len] = '\0';
        if (strncmp(text, "adopt-left ", 11) == 0)
                return ffs_serving_parse("adopt-left", text, &h->serving, err);
        if (ffs_serving_parse("adopt", text, &h->serving, err) < 0 ||
            ffs_sock_listen(h->socket_path, &h->listen_fd, err) < 0)
                return -(int)err->code;
        return 0;
}

int ffs_hold_adopt_main(const struct ffs_host *host, int fs_fd)
{
        struct hold h;
        struct cas_err err = CAS_ERR_INIT;
        (void)fcntl(fs_fd, F_SETFD, FD_CLOEXEC);
        prepare(&h, host);
        if (receive_adopted(&h, fs_fd, &err) < 0) {
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
