/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/opener_int.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/opener_msg_int.h"
#include "fusefs/process_int.h"
#include "fusefs/unixsock_int.h"

#define PENDING_MAX 256
#define RESTART_PAUSE_MS 100 /* doubles while it does not live */
#define RESTART_PAUSE_MAX_MS 10000

/* Something that was asked for and not yet answered. */
struct pending {
        bool used;
        bool waits; /* open: its caller waits for `finished`; else `done` is called */
        bool finished;
        bool abandoned; /* open: its caller has waited long enough */
        uint64_t tag;   /* prepare: the caller's; open: unused */
        int fd, error;  /* open */
};

struct ffs_opener {
        const struct ffs_host *host;
        void (*done)(void *arg, uint64_t tag);
        void *arg;
        struct cas_mutex mutex; /* guards what follows; leaf */
        pthread_cond_t changed;
        int socket; /* -1: no process */
        bool stopped;
        struct pending pending[PENDING_MAX]; /* the message's tag is the place here */
};

/* ---- asking ---- */

/* Takes a place and sends; the place's number, or -1. */
static int ask_locked(struct ffs_opener *o, struct ffs_opener_request *r, bool waits, uint64_t tag)
{
        cas_assert_held(&o->mutex);
        struct cas_err ignored = CAS_ERR_INIT;
        for (int i = 0; o->socket >= 0 && i < PENDING_MAX; i++) {
                struct pending *p = &o->pending[i];
                if (p->used)
                        continue;
                r->tag = (uint64_t)i;
                if (ffs_sock_send(o->socket, r, sizeof(*r), NULL, 0, &ignored) < 0)
                        return -1;
                *p = (struct pending){.used = true, .waits = waits, .tag = tag, .fd = -1};
                return i;
        }
        return -1;
}

static struct timespec deadline_in(int timeout_ms)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_sec += timeout_ms / 1000;
        t.tv_nsec += timeout_ms % 1000 * 1000000L;
        if (t.tv_nsec >= 1000000000L) {
                t.tv_sec++;
                t.tv_nsec -= 1000000000L;
        }
        return t;
}

/* The look-up may be parked until the owner is there, by the thread that waits here. */
int ffs_opener_open(struct ffs_opener *o, const struct cas_hash *object, uint64_t bytes,
                    int timeout_ms, int *out_fd)
{
        struct ffs_opener_request r = {.kind = FFS_OPENER_OPEN, .object = *object, .to = bytes};
        struct timespec deadline = deadline_in(timeout_ms);
        cas_mutex_lock(&o->mutex);
        int place = ask_locked(o, &r, true, 0), error = EAGAIN;
        if (place >= 0) {
                struct pending *p = &o->pending[place];
                bool in_time = true;
                while (!p->finished && in_time)
                        in_time = cas_mutex_timedwait(&o->mutex, &o->changed, &deadline);
                if (p->finished) {
                        *out_fd = p->fd;
                        error = p->error;
                        p->used = false;
                } else {
                        p->abandoned = true;
                }
        }
        cas_mutex_unlock(&o->mutex);
        return -error;
}

bool ffs_opener_prepare(struct ffs_opener *o, const struct cas_hash *object, uint64_t bytes,
                        uint64_t tag)
{
        struct ffs_opener_request r = {.kind = FFS_OPENER_PREPARE, .object = *object, .to = bytes};
        cas_mutex_lock(&o->mutex);
        int place = ask_locked(o, &r, false, tag);
        cas_mutex_unlock(&o->mutex);
        return place >= 0;
}

void ffs_opener_read_ahead(struct ffs_opener *o, const struct cas_hash *object, uint64_t from,
                           uint64_t to)
{
        struct ffs_opener_request r = {
                .kind = FFS_OPENER_READ_AHEAD, .object = *object, .from = from, .to = to};
        struct cas_err ignored = CAS_ERR_INIT;
        cas_mutex_lock(&o->mutex);
        if (o->socket >= 0)
                (void)!ffs_sock_send(o->socket, &r, sizeof(r), NULL, 0, &ignored);
        cas_mutex_unlock(&o->mutex);
}

/* ---- answers ---- */

static void finish(struct ffs_opener *o, uint64_t place, int fd, int error)
{
        struct pending prepared = {0};
        cas_mutex_lock(&o->mutex);
        struct pending *p = place < PENDING_MAX ? &o->pending[place] : NULL;
        if (p && p->used && p->abandoned) {
                p->used = false;
        } else if (p && p->used && p->waits && !p->finished) {
                p->fd = fd;
                p->error = fd < 0 && !error ? EIO : error;
                p->finished = true;
                fd = -1;
                (void)pthread_cond_broadcast(&o->changed);
        } else if (p && p->used && !p->waits) {
                prepared = *p;
                p->used = false;
        }
        cas_mutex_unlock(&o->mutex);
        if (fd >= 0)
                (void)close(fd);
        if (prepared.used)
                o->done(o->arg, prepared.tag);
}

static int start_process(struct ffs_opener *o, struct cas_err *err)
{
        int pair[2];
        pid_t pid;
        if (ffs_process_socketpair(pair, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int mine = pair[0];
        cas_cleanup_fd int theirs = pair[1];
        if (ffs_process_spawn(o->host, "opener", NULL, theirs, &pid, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&o->mutex);
        if (!o->stopped)
                o->socket = cas_steal_fd(&mine);
        cas_mutex_unlock(&o->mutex);
        return 0;
}

/* Answers are read until the process ends; whatever it was asked for then fails. True when it
 * answered anything. */
static bool receive_all(struct ffs_opener *o, int socket)
{
        bool answered = false;
        for (;;) {
                struct ffs_opener_reply reply;
                int fd = -1;
                size_t len = 0, fds = 1;
                struct cas_err err = CAS_ERR_INIT;
                if (ffs_sock_receive(socket, &reply, sizeof(reply), &len, &fd, &fds, -1, &err) <
                            0 ||
                    len != sizeof(reply))
                        break;
                finish(o, reply.tag, fds ? fd : -1, reply.error);
                answered = true;
        }
        cas_mutex_lock(&o->mutex);
        o->socket = -1;
        cas_mutex_unlock(&o->mutex);
        (void)close(socket);
        for (uint64_t i = 0; i < PENDING_MAX; i++)
                finish(o, i, -1, EAGAIN);
        return answered;
}

static void *opener_thread(void *arg)
{
        struct ffs_opener *o = arg;
        unsigned pause_ms = RESTART_PAUSE_MS;
        for (;;) {
                cas_mutex_lock(&o->mutex);
                int socket = o->socket;
                bool stopped = o->stopped;
                cas_mutex_unlock(&o->mutex);
                if (socket >= 0) {
                        if (receive_all(o, socket))
                                pause_ms = RESTART_PAUSE_MS;
                        continue;
                }
                if (stopped)
                        return NULL;
                struct timespec pause = {.tv_sec = pause_ms / 1000,
                                         .tv_nsec = pause_ms % 1000 * 1000000L};
                (void)nanosleep(&pause, NULL);
                pause_ms = (unsigned)cas_min_u64(pause_ms * 2, RESTART_PAUSE_MAX_MS);
                struct cas_err err = CAS_ERR_INIT;
                if (start_process(o, &err) < 0)
                        cas_log(CAS_LOG_WARN, "opener.start", "why=\"%s\"", err.msg);
        }
}

int ffs_opener_start(const struct ffs_host *host, void (*done)(void *arg, uint64_t tag), void *arg,
                     struct ffs_opener **out, struct cas_err *err)
{
        struct ffs_opener *o = cas_xcalloc(1, sizeof(*o));
        *o = (struct ffs_opener){.host = host, .done = done, .arg = arg, .socket = -1};
        cas_mutex_init(&o->mutex, "opener");
        cas_cond_init(&o->changed);
        pthread_t thread;
        int rc = 0;
        if (start_process(o, err) < 0)
                rc = -(int)err->code;
        else if ((rc = pthread_create(&thread, NULL, opener_thread, o)) != 0)
                rc = cas_fail_sys(err, rc, "thread");
        if (rc < 0) {
                if (o->socket >= 0)
                        (void)close(o->socket);
                free(o);
                return rc;
        }
        (void)pthread_detach(thread);
        *out = o;
        return 0;
}

void ffs_opener_stop(struct ffs_opener *o)
{
        cas_mutex_lock(&o->mutex);
        o->stopped = true;
        if (o->socket >= 0)
                (void)shutdown(o->socket, SHUT_RDWR); /* its end, and that of our thread */
        cas_mutex_unlock(&o->mutex);
}
