/* SPDX-License-Identifier: Apache-2.0 */
/* The granting end. One thread accepts; each connection has one of its own, since
 * granting blocks, and its end is when the mount is let go. What a peer can do: send
 * one request of bounded length, and hold one mount for each of a bounded number of
 * connections. */
#include "fusefs/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "cas/buf.h"
#include "cas/io.h"
#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/idmap_int.h"
#include "fusefs/kmount_int.h"
#include "fusefs/process_int.h"
#include "fusefs/unixsock_int.h"

#define REQUEST_WAIT_MS 10000
#define MAP_BYTES_MAX 4096
#define THREAD_STACK_BYTES (256 * 1024)
#define SUBUIDS_PATH "/etc/subuid"
#define SUBUIDS_BYTES_MAX (1024 * 1024)
#define ACCEPT_PAUSE_MS 100 /* when there is no descriptor or memory for one more */

struct client {
        struct broker *broker;
        int fd; /* -1: free */
        uint32_t uid;
};

struct broker {
        const struct ffs_broker_config *config;
        int stop_fd;
        struct cas_mutex mutex; /* guards what follows; leaf */
        pthread_cond_t changed;
        struct client clients[FFS_BROKER_CLIENTS_MAX];
        size_t count;
};

void ffs_broker_grant_release(struct ffs_broker_grant *g)
{
        free(cas_steal(&g->reply));
        free(cas_steal(&g->dir));
}

/* ---- who it is ---- */

static int read_map(pid_t pid, const char *name, struct cas_buf *out, struct cas_err *err)
{
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        char text[MAP_BYTES_MAX + 1];
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n < 0)
                return cas_fail_sys(err, errno, "read %s", path);
        text[n] = '\0';
        char *line = text, *rest;
        for (unsigned i = 0; (rest = strchr(line, '\n')); line = rest + 1, i++) {
                unsigned inside, outside, count;
                if (sscanf(line, "%u %u %u", &inside, &outside, &count) != 3)
                        return cas_fail(err, CAS_E_INVALID, "%s is not understood", path);
                cas_buf_printf(out, "%s%u:%u:%u", i ? "," : "", inside, outside, count);
        }
        return 0;
}

/* The ids of its user namespace, which must be one that maps no id of the host's but the user's own
 * and those that the system gave the user; the initial one has them all. */
static int read_id_map(pid_t pid, char *out, size_t out_bytes, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (read_map(pid, "uid_map", &text, err) < 0)
                return -(int)err->code;
        cas_buf_printf(&text, ";");
        if (read_map(pid, "gid_map", &text, err) < 0)
                return -(int)err->code;
        struct ffs_idmap map;
        if (text.len_bytes + 1 > out_bytes || ffs_idmap_parse(cas_buf_str(&text), &map, err) < 0)
                return cas_fail(err, CAS_E_INVALID,
                                "its user namespace has more ranges of ids than are understood");
        if (map.uid_count == 0 || map.gid_count == 0 || map.uids[0].count == UINT32_MAX)
                return cas_fail(err, CAS_E_DENIED,
                                "ask from a user namespace of your own, with ids mapped (lamina "
                                "run makes one)");
        (void)snprintf(out, out_bytes, "%s", cas_buf_str(&text));
        return 0;
}

/* False: it is not there. */
static bool read_start(pid_t pid, uint64_t *ticks)
{
        char path[64], text[1024];
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        text[n > 0 ? n : 0] = '\0';
        const char *at = strrchr(text, ')'); /* the name may hold anything */
        for (int field = 2; at && field < 22; field++)
                at = strchr(at + 1, ' ');
        return at && sscanf(at, "%" SCNu64, ticks) == 1;
}

bool ffs_broker_await_process(int32_t pid, uint64_t start_ticks, int stop_fd)
{
        cas_cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        uint64_t ticks;
        if (pidfd < 0 || !read_start(pid, &ticks) || ticks != start_ticks)
                return true;
        struct pollfd fds[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
        while (poll(fds, 2, -1) < 0 && errno == EINTR)
                ;
        return fds[0].revents != 0;
}

/* The process that connected must be there until its map was read: else another could have its
 * pid by then. */
static int identify(int fd, struct ffs_broker_peer *out, struct cas_err *err)
{
        struct ucred peer;
        socklen_t len = sizeof(peer), groups_len = sizeof(out->groups), fd_len = sizeof(int);
        cas_cleanup_fd int pidfd = -1;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
                return cas_fail_sys(err, errno, "who asks");
#ifdef SO_PEERPIDFD
        const int peer_pidfd = SO_PEERPIDFD;
#else
        const int peer_pidfd = 77; /* Linux 6.5 */
#endif
        if (getsockopt(fd, SOL_SOCKET, peer_pidfd, &pidfd, &fd_len) < 0)
                return cas_fail_sys(err, errno, "which process asks (Linux 6.5 can tell)");
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, out->groups, &groups_len) < 0)
                groups_len = 0; /* more than are understood: the first alone counts */
        out->uid = peer.uid;
        out->gid = peer.gid;
        out->group_count = groups_len / sizeof(out->groups[0]);
        out->pid = peer.pid;
        if (!read_start(peer.pid, &out->start_ticks))
                return cas_fail(err, CAS_E_IO, "who asked has gone");
        if (read_id_map(peer.pid, out->id_map, sizeof(out->id_map), err) < 0)
                return -(int)err->code;
        struct pollfd alive = {.fd = pidfd, .events = POLLIN};
        if (poll(&alive, 1, 0) != 0)
                return cas_fail(err, CAS_E_IO, "who asked has gone");
        return 0;
}

/* ---- a connection ---- */

static void answer_failure(int fd, const struct cas_err *err)
{
        char text[1024];
        struct cas_err ignored = CAS_ERR_INIT;
        int n = snprintf(text, sizeof(text), "failed %s %s", cas_code_name(err->code), err->msg);
        if (ffs_sock_send(fd, text, cas_min_u64((uint64_t)n, sizeof(text) - 1), NULL, 0, &ignored) <
            0)
                cas_log(CAS_LOG_DEBUG, "broker.answer", "why=gone");
}

static int send_grant(int fd, const struct ffs_broker_grant *grant, struct cas_err *err)
{
        cas_cleanup_fd int mount_fd =
                open_tree(AT_FDCWD, grant->dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (mount_fd < 0)
                return cas_fail_sys(err, errno, "detach the mount");
        /* The image is not the user's to trust with devices. */
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV};
        if (mount_setattr(mount_fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
                return cas_fail_sys(err, errno, "attributes of the mount");
        cas_cleanup_free char *text = cas_xasprintf("ok\n%s", grant->reply);
        return ffs_sock_send(fd, text, strlen(text), &mount_fd, 1, err);
}

static int receive_request(int fd, char *text, struct cas_err *err)
{
        size_t len = 0, no_fds = 0;
        if (ffs_sock_receive(fd, text, FFS_BROKER_MESSAGE_BYTES_MAX, &len, NULL, &no_fds,
                             REQUEST_WAIT_MS, err) < 0)
                return -(int)err->code;
        text[len] = '\0';
        return len ? 0 : cas_fail(err, CAS_E_IO, "it went without a request");
}

/* True when the client has gone, false when the broker ends. */
static bool await_end(const struct broker *b, int fd)
{
        struct pollfd fds[2] = {{.fd = fd, .events = POLLRDHUP},
                                {.fd = b->stop_fd, .events = POLLIN}};
        while (poll(fds, 2, -1) < 0 && errno == EINTR)
                ;
        return fds[0].revents != 0;
}

static void serve_client(const struct client *c)
{
        const struct ffs_broker_config *config = c->broker->config;
        cas_cleanup_free struct ffs_broker_peer *peer = cas_xcalloc(1, sizeof(*peer));
        cas_cleanup_free char *text = cas_xmalloc(FFS_BROKER_MESSAGE_BYTES_MAX + 1);
        struct ffs_broker_grant grant = {0};
        struct cas_err err = CAS_ERR_INIT;
        if (receive_request(c->fd, text, &err) < 0 || identify(c->fd, peer, &err) < 0 ||
            config->grant(config->arg, peer, text, &grant, &err) < 0) {
                cas_log(CAS_LOG_INFO, "broker.refused", "uid=%u why=\"%s\"", c->uid, err.msg);
                answer_failure(c->fd, &err);
                return;
        }
        bool over = true;
        if (send_grant(c->fd, &grant, &err) == 0)
                over = await_end(c->broker, c->fd);
        else
                answer_failure(c->fd, &err);
        if (over)
                config->release(config->arg, &grant);
        ffs_broker_grant_release(&grant);
}

static void *client_thread(void *arg)
{
        struct client *c = arg;
        struct broker *b = c->broker;
        serve_client(c);
        cas_mutex_lock(&b->mutex);
        (void)close(cas_steal_fd(&c->fd));
        b->count--;
        (void)pthread_cond_broadcast(&b->changed);
        cas_mutex_unlock(&b->mutex);
        return NULL;
}

/* ---- accepting ---- */

/* A free place, or NULL: too many, of all or of this user. */
static struct client *take_place(struct broker *b, uint32_t uid, int fd)
{
        struct client *free_one = NULL;
        unsigned of_user = 0, max = b->config->per_user_max;
        cas_mutex_lock(&b->mutex);
        for (size_t i = 0; i < FFS_BROKER_CLIENTS_MAX; i++) {
                struct client *c = &b->clients[i];
                if (c->fd < 0)
                        free_one = c;
                else if (c->uid == uid)
                        of_user++;
        }
        if (free_one && (!max || of_user < max)) {
                *free_one = (struct client){.broker = b, .fd = fd, .uid = uid};
                b->count++;
        } else {
                free_one = NULL;
        }
        cas_mutex_unlock(&b->mutex);
        return free_one;
}

static int start_thread(struct client *c)
{
        pthread_t thread;
        pthread_attr_t attr;
        (void)pthread_attr_init(&attr);
        (void)pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
        (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        int rc = pthread_create(&thread, &attr, client_thread, c);
        (void)pthread_attr_destroy(&attr);
        return rc;
}

/* "NAME:FIRST:COUNT" in each line. */
bool ffs_broker_is_subordinate(const char *subuids, size_t len, uint32_t uid)
{
        cas_cleanup_free char *copy = cas_xstrndup(subuids, len);
        char *rest = copy;
        for (char *line; (line = strsep(&rest, "\n"));) {
                const char *numbers = strchr(line, ':');
                unsigned long long first, count;
                if (numbers && sscanf(numbers, ":%llu:%llu", &first, &count) == 2 && uid >= first &&
                    uid - first < count)
                        return true;
        }
        return false;
}

/* Users have thousands of ids in their namespaces, and would have as many times what one may. */
static bool is_subordinate(uint32_t uid)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_io_read_file(cas_io_posix(), AT_FDCWD, SUBUIDS_PATH, SUBUIDS_BYTES_MAX, &text,
                                &ignored) == 0 &&
               ffs_broker_is_subordinate(cas_buf_str(&text), text.len_bytes, uid);
}

static void pause_accepting(const struct broker *b)
{
        cas_log(CAS_LOG_WARN, "broker.accept", "errno=%d", errno);
        struct pollfd stop = {.fd = b->stop_fd, .events = POLLIN};
        (void)poll(&stop, 1, ACCEPT_PAUSE_MS);
}

static void accept_client(struct broker *b, int listen_fd)
{
        cas_cleanup_fd int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct ucred peer;
        socklen_t len = sizeof(peer);
        struct cas_err err = CAS_ERR_INIT;
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
                pause_accepting(b);
        if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
                return;
        struct client *c = NULL;
        if (is_subordinate(peer.uid))
                (void)cas_fail(&err, CAS_E_DENIED,
                               "ask as a user of the host, not by a subordinate id (" SUBUIDS_PATH
                               ")");
        else if (!(c = take_place(b, peer.uid, fd)))
                (void)cas_fail(&err, CAS_E_LIMIT, "too many mounts are out: end some sandboxes");
        if (!c) {
                answer_failure(fd, &err);
                return;
        }
        int taken = cas_steal_fd(&fd);
        int rc = start_thread(c);
        if (rc) {
                (void)cas_fail_sys(&err, rc, "thread");
                answer_failure(taken, &err);
                cas_mutex_lock(&b->mutex);
                (void)close(cas_steal_fd(&c->fd));
                b->count--;
                cas_mutex_unlock(&b->mutex);
        }
}

int ffs_broker_serve(const struct ffs_broker_config *config, int stop_fd, struct cas_err *err)
{
        cas_cleanup_fd int listen_fd = -1;
        if (ffs_sock_listen(config->path, &listen_fd, err) < 0)
                return -(int)err->code;
        ffs_process_raise_file_limit(); /* a descriptor for each connection, and more to mount */
        if (chmod(config->path, 0666) < 0)
                return cas_fail_sys(err, errno, "let users connect to %s", config->path);
        struct broker *b = cas_xcalloc(1, sizeof(*b));
        b->config = config;
        b->stop_fd = stop_fd;
        cas_mutex_init(&b->mutex, "broker");
        cas_cond_init(&b->changed);
        for (size_t i = 0; i < FFS_BROKER_CLIENTS_MAX; i++)
                b->clients[i].fd = -1;
        struct pollfd fds[2] = {{.fd = listen_fd, .events = POLLIN},
                                {.fd = stop_fd, .events = POLLIN}};
        while (!fds[1].revents) {
                fds[0].revents = 0;
                if (poll(fds, 2, -1) > 0 && fds[0].revents)
                        accept_client(b, listen_fd);
        }
        (void)unlink(config->path);
        cas_mutex_lock(&b->mutex);
        while (b->count)
                cas_mutex_wait(&b->mutex, &b->changed);
        cas_mutex_unlock(&b->mutex);
        cas_mutex_release(&b->mutex);
        free(b);
        return 0;
}
