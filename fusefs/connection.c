/* SPDX-License-Identifier: Apache-2.0 */
/* Threads read one descriptor, which is not cloned: requests that were read from
 * a clone would be aborted when its process dies. A request that comes again
 * keeps its mark in `unique`, and so must its answer: the kernel finds the request
 * by all 64 bits. */
#include "fusefs/connection_int.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "cas/log.h"
#include "cas/mutex.h"

#define REQUEST_BUFFER_BYTES (FFS_REQUEST_BYTES_MAX + 65536)
#define THREAD_NAME_BYTES 16
/* While others wait for a disk or a copy, so many threads at least can serve. */
#define FREE_THREADS_MIN 2
#define EXTRA_THREADS_MAX 64
/* Of the kernel's protocol, newer than some systems' header. */
#define NOTIFY_RESEND 7
#define OPCODE_INIT 26
/* Of a request's header: length, opcode, unique, node, … */
#define HEADER_BYTES 40

struct ffs_connection {
        struct ffs_connection_config config;
        struct fuse_session *session;
        int ended_fd;
        struct cas_mutex mutex; /* guards all below; leaf */
        pthread_t *threads;     /* owned; has room for all that there may be */
        unsigned thread_count;
        atomic_uint running; /* threads */
        unsigned blocked;    /* of them */
};

/* One request from the kernel; 0 when the connection has ended. */
static size_t receive(struct ffs_connection *c, uint8_t *buffer)
{
        for (;;) {
                ssize_t n = read(c->config.fuse_fd, buffer, REQUEST_BUFFER_BYTES);
                if (n >= HEADER_BYTES)
                        return (size_t)n;
                if (n >= 0 || errno == ENODEV)
                        return 0;
                /* ENOENT: the request was interrupted before we had it. */
                if (errno != EINTR && errno != ENOENT && errno != EAGAIN) {
                        cas_log(CAS_LOG_ERROR, "fuse.read", "connection=%s errno=%d",
                                c->config.name, errno);
                        return 0;
                }
        }
}

static void process(struct ffs_connection *c, void *request, size_t len)
{
        const uint8_t *header = request;
        struct fuse_buf buf = {.mem = request, .size = len};
        if (c->config.request_seen)
                c->config.request_seen(c->config.userdata, cas_get_le64(header + 8),
                                       cas_get_le32(header + 4), cas_get_le64(header + 16));
        fuse_session_process_buf(c->session, &buf);
}

static void *worker_thread(void *arg)
{
        struct ffs_connection *c = arg;
        uint8_t *buffer = cas_xmalloc(REQUEST_BUFFER_BYTES);
        size_t len;
        while ((len = receive(c, buffer)) > 0)
                process(c, buffer, len);
        free(buffer);
        if (c->config.thread_ends)
                c->config.thread_ends(c->config.userdata);
        uint64_t one = 1;
        (void)!write(c->ended_fd, &one, sizeof(one));
        atomic_fetch_sub(&c->running, 1);
        return NULL;
}

/* Requests that a dead process had read and not answered come again. */
static void resend(struct ffs_connection *c)
{
        struct {
                uint32_t len;
                int32_t error;
                uint64_t unique;
        } notify = {.len = sizeof(notify), .error = NOTIFY_RESEND};
        if (write(c->config.fuse_fd, &notify, sizeof(notify)) < 0)
                cas_log(CAS_LOG_WARN, "fuse.resend", "connection=%s errno=%d", c->config.name,
                        errno);
}

/* The first request of a connection is INIT. It is saved before it is answered, and given to the
 * session of each successor again; the kernel drops an answer that it had already (ENOENT). */
static int begin(struct ffs_connection *c, struct cas_err *err)
{
        cas_cleanup_free uint8_t *buffer = cas_xmalloc(REQUEST_BUFFER_BYTES);
        size_t len;
        const void *saved = c->config.init_load(c->config.userdata, &len);
        if (len == 0) {
                /* A process may have read it and died before it was saved. */
                resend(c);
                len = receive(c, buffer);
                if (len == 0)
                        return cas_fail(err, CAS_E_IO, "the FUSE connection has ended");
                if (len > FFS_INIT_BYTES_MAX || cas_get_le32(buffer + 4) != OPCODE_INIT)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "the FUSE connection begins without INIT");
                c->config.init_save(c->config.userdata, buffer, len);
        } else {
                memcpy(buffer, saved, len);
        }
        struct fuse_buf buf = {.mem = buffer, .size = len};
        fuse_session_process_buf(c->session, &buf);
        if (c->config.inited)
                c->config.inited(c->config.userdata, c->session);
        return 0;
}

static int make_session(struct ffs_connection *c, struct cas_err *err)
{
        char name[] = "lamina", path[64];
        char *argv[] = {name, NULL};
        struct fuse_args args = FUSE_ARGS_INIT(1, argv);
        c->session =
                fuse_session_new(&args, c->config.ops, sizeof(*c->config.ops), c->config.userdata);
        fuse_opt_free_args(&args);
        if (!c->session)
                return cas_fail(err, CAS_E_NOMEM, "no FUSE session");
        int fd = dup(c->config.fuse_fd); /* the session closes its own */
        if (fd < 0)
                return cas_fail_sys(err, errno, "dup");
        (void)snprintf(path, sizeof(path), "/dev/fd/%d", fd);
        if (fuse_session_mount(c->session, path) != 0) {
                (void)close(fd);
                return cas_fail(err, CAS_E_IO, "the FUSE session refuses the descriptor");
        }
        return 0;
}

static int start_thread_locked(struct ffs_connection *c, struct cas_err *err)
{
        char name[THREAD_NAME_BYTES];
        cas_assert_held(&c->mutex);
        (void)snprintf(name, sizeof(name), "%s", c->config.name);
        pthread_t *thread = &c->threads[c->thread_count];
        atomic_fetch_add(&c->running, 1);
        int rc = pthread_create(thread, NULL, worker_thread, c);
        if (rc) {
                atomic_fetch_sub(&c->running, 1);
                return cas_fail_sys(err, rc, "thread");
        }
        c->thread_count++;
        (void)pthread_setname_np(*thread, name);
        return 0;
}

static int start_threads(struct ffs_connection *c, struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&c->mutex);
        while (rc == 0 && c->thread_count < c->config.threads)
                rc = start_thread_locked(c, err);
        cas_mutex_unlock(&c->mutex);
        return rc;
}

void ffs_connection_blocks(struct ffs_connection *c)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_mutex_lock(&c->mutex);
        c->blocked++;
        if (c->thread_count < c->blocked + FREE_THREADS_MIN &&
            c->thread_count < c->config.threads + EXTRA_THREADS_MAX &&
            start_thread_locked(c, &err) < 0)
                cas_log(CAS_LOG_WARN, "fuse.thread", "why=\"%s\"", err.msg);
        cas_mutex_unlock(&c->mutex);
}

void ffs_connection_goes_on(struct ffs_connection *c)
{
        cas_mutex_lock(&c->mutex);
        c->blocked--;
        cas_mutex_unlock(&c->mutex);
}

int ffs_connection_start(const struct ffs_connection_config *config, struct ffs_connection **out,
                         struct cas_err *err)
{
        /* A session that has begun may have threads in it: a failure leaves all as it is. */
        struct ffs_connection *c = cas_xcalloc(1, sizeof(*c));
        c->config = *config;
        cas_mutex_init(&c->mutex, "connection");
        c->threads = cas_xcalloc(config->threads + EXTRA_THREADS_MAX, sizeof(c->threads[0]));
        c->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (c->ended_fd < 0)
                return cas_fail_sys(err, errno, "eventfd");
        if (make_session(c, err) < 0 || begin(c, err) < 0)
                return -(int)err->code;
        resend(c);
        /* Before a request is served: who serves it may look here. */
        *out = c;
        return start_threads(c, err);
}

int ffs_connection_ended_fd(const struct ffs_connection *c)
{
        return c->ended_fd;
}

bool ffs_connection_is_still(const struct ffs_connection *c)
{
        return atomic_load(&c->running) == 0;
}

struct fuse_session *ffs_connection_session(const struct ffs_connection *c)
{
        return c->session;
}

void ffs_connection_free(struct ffs_connection *c)
{
        for (unsigned i = 0;; i++) {
                cas_mutex_lock(&c->mutex); /* those that still run may start more */
                bool more = i < c->thread_count;
                cas_mutex_unlock(&c->mutex);
                if (!more)
                        break;
                (void)pthread_join(c->threads[i], NULL);
        }
        cas_mutex_release(&c->mutex);
        fuse_session_destroy(c->session);
        (void)close(c->ended_fd);
        free(c->threads);
        free(c);
}
