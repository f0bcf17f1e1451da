/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's side of the resolve protocol. A few threads share one epoll
 * instance; a connection is armed for one event at a time, so that one thread
 * at a time serves it, and a request is answered before the next is read.
 * Nothing here waits for a client: one that does not read its answers is cut.
 *
 * An object that has to come from another store first, or a block from another
 * tier, is waited for by threads of their own, started as they are needed; the
 * connection is armed again when its answer was sent. */
#include "fusefs/resolve.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "cas/elsewhere.h"
#include "cas/log.h"
#include "cas/mutex.h"
#include "cas/object.h"
#include "cas/order.h"
#include "fusefs/resolve_fill_int.h"
#include "fusefs/resolve_msg_int.h"
#include "fusefs/unixsock_int.h"

#define RESOLVER_THREADS 4
#define RESOLVER_CONNECTIONS_MAX 256
#define HOLDERS_MAX 32
/* How long an answer is held back for what is on its way. */
#define HOLD_MS 250

/* A request whose object or block has to come first. */
struct held {
        struct held *next;
        int fd; /* its connection, which is not armed */
        struct ffs_resolve_request request;
};

struct ffs_resolver {
        struct cas_store *store; /* borrowed */
        struct ffs_fills *fills;
        char *path; /* owned */
        int listen_fd, epoll_fd, stop_fd;
        pthread_t threads[RESOLVER_THREADS];
        unsigned thread_count;
        struct cas_mutex mutex;                    /* leaf; guards all below */
        int connections[RESOLVER_CONNECTIONS_MAX]; /* -1: free */
        pthread_cond_t changed;
        struct held *held, **held_end; /* oldest first */
        pthread_t holders[HOLDERS_MAX];
        unsigned holder_count, holders_idle;
        bool stopping;
};

static bool remember(struct ffs_resolver *r, int fd)
{
        bool done = false;
        cas_mutex_lock(&r->mutex);
        for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX && !done; i++) {
                if (r->connections[i] < 0) {
                        r->connections[i] = fd;
                        done = true;
                }
        }
        cas_mutex_unlock(&r->mutex);
        return done;
}

static void drop_connection(struct ffs_resolver *r, int fd)
{
        cas_mutex_lock(&r->mutex);
        for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX; i++) {
                if (r->connections[i] == fd)
                        r->connections[i] = -1;
        }
        (void)close(fd); /* leaves the epoll set by that */
        cas_mutex_unlock(&r->mutex);
}

static bool arm(struct ffs_resolver *r, int fd, int op)
{
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.fd = fd};
        /* Another thread may have the next event, and close, before this call is over. */
        cas_mutex_lock(&r->mutex);
        bool armed = epoll_ctl(r->epoll_fd, op, fd, &ev) == 0;
        cas_mutex_unlock(&r->mutex);
        return armed;
}

static void accept_one(struct ffs_resolver *r)
{
        int fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        (void)arm(r, r->listen_fd, EPOLL_CTL_MOD);
        if (fd < 0)
                return;
        if (!ffs_sock_peer_trusted(fd)) {
                cas_log(CAS_LOG_WARN, "resolve.refused", "why=uid");
                (void)close(fd);
        } else if (!remember(r, fd)) {
                cas_log(CAS_LOG_WARN, "resolve.refused", "why=connections max=%d",
                        RESOLVER_CONNECTIONS_MAX);
                (void)close(fd);
        } else if (!arm(r, fd, EPOLL_CTL_ADD)) {
                drop_connection(r, fd);
        }
}

static int find_extents(struct ffs_resolver *r, const struct ffs_resolve_request *request,
                        struct ffs_resolve_reply *reply, struct cas_extent *extents,
                        struct cas_err *err)
{
        struct cas_object_info info;
        if (request->first_chunk == 0)
                cas_order_seen(r->store, &request->object);
        if (cas_object_stat(r->store, &request->object, &info, err) < 0)
                return -(int)err->code;
        uint32_t count = 0;
        if (request->first_chunk < info.chunk_count &&
            cas_object_extents(r->store, &request->object, request->first_chunk, extents,
                               request->count_max, &count, err) < 0)
                return -(int)err->code;
        reply->size_bytes = info.size_bytes;
        reply->chunk_count = info.chunk_count;
        reply->first_chunk = (uint32_t)cas_min_u64(request->first_chunk, info.chunk_count);
        reply->count = count;
        return 0;
}

/* What an answer is made of beside its head. */
struct answer {
        struct ffs_resolve_reply reply;
        struct cas_extent *extents; /* borrowed */
        int fds[FFS_SOCK_FDS_MAX];  /* owned */
        size_t fd_count;
        struct cas_err why; /* code 0: it goes well */
};

static void answer_release(struct answer *a)
{
        for (size_t i = 0; i < a->fd_count; i++)
                (void)close(a->fds[i]);
}
#define cleanup_answer __attribute__((cleanup(answer_release)))

static struct answer answer_to(const struct ffs_resolve_request *request,
                               struct cas_extent *extents)
{
        return (struct answer){.reply = {.type = request->type, .tag = request->tag},
                               .extents = extents};
}

static int answer_send(int fd, const struct ffs_resolve_request *request, struct answer *a,
                       bool held, struct cas_buf *out, struct cas_err *err)
{
        if (a->why.code != CAS_OK) {
                a->reply = (struct ffs_resolve_reply){
                        .type = request->type, .tag = request->tag, .code = a->why.code};
                if (a->why.code == CAS_E_BUSY && !request->asks_again)
                        a->reply.code = CAS_E_IO;
                /* What a source does not give is told by the store, once for all. */
                if (a->why.code != CAS_E_NOTFOUND && a->why.code != CAS_E_BUSY)
                        cas_log(held ? CAS_LOG_DEBUG : CAS_LOG_WARN, "resolve.failed", "why=\"%s\"",
                                a->why.msg);
        }
        cas_buf_clear(out);
        ffs_resolve_reply_encode(&a->reply, a->extents, out);
        return ffs_sock_send(fd, out->data, out->len_bytes, a->fds, a->fd_count, err);
}

static void find_pack(struct ffs_resolver *r, const struct ffs_resolve_request *request,
                      struct answer *a)
{
        struct cas_pack_fds fds;
        if (cas_pack_open_fds(r->store, request->pack_id, &fds, &a->why) < 0)
                return;
        if (fds.home_fd >= 0)
                a->fds[a->fd_count++] = fds.home_fd;
        if (fds.cache_fd >= 0)
                a->fds[a->fd_count++] = fds.cache_fd;
        if (request->knows_tiers) {
                a->reply.home = fds.home_fd >= 0;
                a->reply.cache = fds.cache_fd >= 0;
                a->reply.wants_touched = fds.wants_touched;
                a->reply.fills = true;
                return;
        }
        /* A home copy is all that it can read. */
        while (a->fd_count > (fds.home_fd >= 0))
                (void)close(a->fds[--a->fd_count]);
        if (fds.home_fd < 0)
                (void)cas_fail(&a->why, CAS_E_IO, "pack %016llx is not here",
                               (unsigned long long)request->pack_id);
}

static void take_touches(struct ffs_resolver *r, const void *msg, uint32_t count)
{
        for (uint32_t i = 0; i < count; i++) {
                struct ffs_resolve_touch t;
                ffs_resolve_touch_decode(msg, i, &t);
                cas_pack_touched(r->store, t.pack_id, t.offset, t.bytes, t.was_bad);
        }
}

/* 1: it has to come first, and nothing was answered. */
static int answer(struct ffs_resolver *r, int fd, const struct ffs_resolve_request *request,
                  const void *msg, struct cas_extent *extents, struct cas_buf *out,
                  struct cas_err *err)
{
        cleanup_answer struct answer a = answer_to(request, extents);
        switch (request->type) {
        case FFS_RESOLVE_PING:
                break;
        case FFS_RESOLVE_EXTENTS:
                if (find_extents(r, request, &a.reply, extents, &a.why) == -CAS_E_NOTFOUND)
                        return 1;
                break;
        case FFS_RESOLVE_PACK:
                find_pack(r, request, &a);
                break;
        case FFS_RESOLVE_FILL:
                return 1;
        case FFS_RESOLVE_TOUCHED:
                take_touches(r, msg, request->touches);
                break;
        }
        return answer_send(fd, request, &a, false, out, err);
}

/* ---- what has to come first ---- */

static void *holder_thread(void *arg);

static void hold_locked(struct ffs_resolver *r, int fd, const struct ffs_resolve_request *request)
{
        struct held *h = cas_xcalloc(1, sizeof(*h));
        *h = (struct held){.fd = fd, .request = *request};
        *r->held_end = h;
        r->held_end = &h->next;
        if (r->holders_idle == 0 && r->holder_count < HOLDERS_MAX &&
            pthread_create(&r->holders[r->holder_count], NULL, holder_thread, r) == 0)
                r->holder_count++;
        (void)pthread_cond_signal(&r->changed);
}

/* False when there is nobody to hold it. */
static bool hold(struct ffs_resolver *r, int fd, const struct ffs_resolve_request *request)
{
        cas_mutex_lock(&r->mutex);
        if (!r->stopping)
                hold_locked(r, fd, request);
        bool held = !r->stopping;
        cas_mutex_unlock(&r->mutex);
        return held;
}

static struct held *next_held(struct ffs_resolver *r)
{
        cas_mutex_lock(&r->mutex);
        r->holders_idle++;
        while (!r->held && !r->stopping)
                cas_mutex_wait(&r->mutex, &r->changed);
        r->holders_idle--;
        struct held *h = r->stopping ? NULL : r->held;
        if (h) {
                r->held = h->next;
                if (!r->held)
                        r->held_end = &r->held;
        }
        cas_mutex_unlock(&r->mutex);
        return h;
}

static int answer_held(struct ffs_resolver *r, const struct held *h, struct cas_extent *extents,
                       struct cas_buf *out, struct cas_err *err)
{
        const struct ffs_resolve_request *request = &h->request;
        cleanup_answer struct answer a = answer_to(request, extents);
        if (request->type == FFS_RESOLVE_FILL) {
                const struct ffs_fill_wish wish = {.pack_id = request->pack_id,
                                                   .offset = request->offset,
                                                   .bytes = request->bytes,
                                                   .was_bad = request->was_bad};
                if (ffs_fills_get(r->fills, &wish, HOLD_MS, &a.fds[0], &a.why) == 0)
                        a.fd_count = 1;
        } else if (cas_elsewhere_bring(r->store, &request->object, HOLD_MS, &a.why) == 0) {
                (void)find_extents(r, request, &a.reply, extents, &a.why);
        }
        return answer_send(h->fd, request, &a, true, out, err);
}

static void *holder_thread(void *arg)
{
        struct ffs_resolver *r = arg;
        cas_cleanup_free struct cas_extent *extents =
                cas_xcalloc(FFS_RESOLVE_EXTENTS_MAX, sizeof(*extents));
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        for (;;) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_free struct held *h = next_held(r);
                if (!h)
                        return NULL;
                if (answer_held(r, h, extents, &out, &err) < 0 || !arm(r, h->fd, EPOLL_CTL_MOD))
                        drop_connection(r, h->fd);
        }
}

static void holders_stop(struct ffs_resolver *r)
{
        cas_mutex_lock(&r->mutex);
        r->stopping = true;
        (void)pthread_cond_broadcast(&r->changed);
        cas_mutex_unlock(&r->mutex);
        for (unsigned i = 0; i < r->holder_count; i++)
                (void)pthread_join(r->holders[i], NULL);
        while (r->held) {
                struct held *h = r->held;
                r->held = h->next;
                free(h);
        }
}

/* ---- connections ---- */

enum served { SERVED, SERVED_LATER, SERVED_LAST };

/* Serves one request. SERVED_LAST: the connection is over. */
static enum served serve_one(struct ffs_resolver *r, int fd, struct cas_extent *extents,
                             struct cas_buf *out)
{
        uint8_t msg[FFS_RESOLVE_REQUEST_BYTES_MAX + 1];
        size_t len = 0, no_fds = 0;
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_resolve_request request;
        if (ffs_sock_receive(fd, msg, sizeof(msg), &len, NULL, &no_fds, 0, &err) < 0)
                return err.code == CAS_E_BUSY ? SERVED : SERVED_LAST;
        if (len == 0)
                return SERVED_LAST;
        int rc = ffs_resolve_request_decode(msg, len, &request, &err);
        if (rc == 0)
                rc = answer(r, fd, &request, msg, extents, out, &err);
        if (rc == 1)
                return hold(r, fd, &request) ? SERVED_LATER : SERVED_LAST;
        if (rc < 0)
                cas_log(CAS_LOG_WARN, "resolve.cut", "why=\"%s\"", err.msg);
        return rc < 0 ? SERVED_LAST : SERVED;
}

/* Serves what a connection asks for, and has it watched again. */
static void serve_connection(struct ffs_resolver *r, int fd, struct cas_extent *extents,
                             struct cas_buf *out)
{
        switch (serve_one(r, fd, extents, out)) {
        case SERVED_LATER:
                return;
        case SERVED:
                if (arm(r, fd, EPOLL_CTL_MOD))
                        return;
                break;
        case SERVED_LAST:
                break;
        }
        drop_connection(r, fd);
}

static void *resolver_thread(void *arg)
{
        struct ffs_resolver *r = arg;
        cas_cleanup_free struct cas_extent *extents =
                cas_xcalloc(FFS_RESOLVE_EXTENTS_MAX, sizeof(*extents));
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        for (;;) {
                struct epoll_event ev;
                int n = epoll_wait(r->epoll_fd, &ev, 1, -1);
                if (n < 0 && errno == EINTR)
                        continue;
                cas_assert(n == 1);
                if (ev.data.fd == r->stop_fd)
                        return NULL;
                if (ev.data.fd == r->listen_fd)
                        accept_one(r);
                else
                        serve_connection(r, ev.data.fd, extents, &out);
        }
}

static int open_descriptors(struct ffs_resolver *r, struct cas_err *err)
{
        if (ffs_sock_listen(r->path, &r->listen_fd, err) < 0)
                return -(int)err->code;
        r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        r->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct epoll_event stop = {.events = EPOLLIN, .data.fd = r->stop_fd};
        if (r->epoll_fd < 0 || r->stop_fd < 0 || !arm(r, r->listen_fd, EPOLL_CTL_ADD) ||
            epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, r->stop_fd, &stop) < 0)
                return cas_fail_sys(err, errno, "resolver: epoll");
        return 0;
}

int ffs_resolver_start(struct cas_store *s, const char *path, struct ffs_resolver **out,
                       struct cas_err *err)
{
        struct ffs_resolver *r = cas_xcalloc(1, sizeof(*r));
        *r = (struct ffs_resolver){.store = s,
                                   .fills = ffs_fills_new(s),
                                   .path = cas_xstrdup(path),
                                   .listen_fd = -1,
                                   .epoll_fd = -1,
                                   .stop_fd = -1};
        cas_mutex_init(&r->mutex, "resolver");
        cas_cond_init(&r->changed);
        r->held_end = &r->held;
        for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX; i++)
                r->connections[i] = -1;
        int rc = open_descriptors(r, err);
        while (rc == 0 && r->thread_count < RESOLVER_THREADS) {
                int failed = pthread_create(&r->threads[r->thread_count], NULL, resolver_thread, r);
                if (failed)
                        rc = cas_fail_sys(err, failed, "resolver: thread");
                else
                        r->thread_count++;
        }
        if (rc < 0) {
                ffs_resolver_stop(r);
                return rc;
        }
        *out = r;
        return 0;
}

void ffs_resolver_stop(struct ffs_resolver *r)
{
        if (!r)
                return;
        if (r->stop_fd >= 0) {
                uint64_t one = 1; /* level-triggered and never read: every thread sees it */
                (void)!write(r->stop_fd, &one, sizeof(one));
        }
        for (unsigned i = 0; i < r->thread_count; i++)
                (void)pthread_join(r->threads[i], NULL);
        holders_stop(r);
        ffs_fills_free(r->fills);
        for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX; i++) {
                if (r->connections[i] >= 0)
                        (void)close(r->connections[i]);
        }
        if (r->listen_fd >= 0) {
                (void)close(r->listen_fd);
                (void)unlink(r->path);
        }
        if (r->epoll_fd >= 0)
                (void)close(r->epoll_fd);
        if (r->stop_fd >= 0)
                (void)close(r->stop_fd);
        (void)pthread_cond_destroy(&r->changed);
        cas_mutex_release(&r->mutex);
        free(r->path);
        free(r);
}
