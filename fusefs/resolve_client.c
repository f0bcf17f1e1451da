/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/resolve_client_int.h"

#include <time.h>

#include "cas/mutex.h"
#include "fusefs/unixsock_int.h"

#define CLIENT_IDLE_MAX 16
/* After a failure one call in this time tries again, and pings do; the others fail at once: workers
 * of the file system must not spend their time on an owner that is away or hangs. */
#define CLIENT_AWAY_NS (UINT64_C(1000) * 1000 * 1000)

struct ffs_resolve_client {
        char *path;                /* owned */
        struct cas_mutex mutex;    /* leaf */
        int idle[CLIENT_IDLE_MAX]; /* guarded by mutex */
        size_t idle_count;
        uint64_t next_tag;
        _Atomic uint64_t away_until_ns; /* 0: not away */
};

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

struct ffs_resolve_client *ffs_resolve_client_new(const char *path)
{
        struct ffs_resolve_client *c = cas_xcalloc(1, sizeof(*c));
        c->path = cas_xstrdup(path);
        cas_mutex_init(&c->mutex, "resolve_client");
        return c;
}

void ffs_resolve_client_free(struct ffs_resolve_client *c)
{
        if (!c)
                return;
        for (size_t i = 0; i < c->idle_count; i++)
                (void)close(c->idle[i]);
        cas_mutex_release(&c->mutex);
        free(c->path);
        free(c);
}

/* An idle connection or -1, and the tag of the next request. */
static int take_idle(struct ffs_resolve_client *c, uint64_t *tag)
{
        cas_mutex_lock(&c->mutex);
        int fd = c->idle_count ? c->idle[--c->idle_count] : -1;
        *tag = ++c->next_tag;
        cas_mutex_unlock(&c->mutex);
        return fd;
}

static void give_idle(struct ffs_resolve_client *c, int *fd)
{
        cas_mutex_lock(&c->mutex);
        if (c->idle_count < CLIENT_IDLE_MAX)
                c->idle[c->idle_count++] = cas_steal_fd(fd);
        cas_mutex_unlock(&c->mutex);
}

/* One request over one connection. INVALID for an answer that breaks the protocol. */
static int exchange(int fd, const struct ffs_resolve_request *request, int timeout_ms,
                    struct ffs_resolve_reply *reply, struct cas_extent *extents, int *pack_fd,
                    struct cas_err *err)
{
        uint8_t msg[FFS_RESOLVE_REQUEST_BYTES];
        ffs_resolve_request_encode(request, msg);
        if (ffs_sock_send(fd, msg, sizeof(msg), NULL, 0, err) < 0)
                return -(int)err->code;
        uint8_t answer[FFS_RESOLVE_REPLY_BYTES_MAX];
        size_t len = 0, fds = 1;
        cas_cleanup_fd int received = -1;
        if (ffs_sock_receive(fd, answer, sizeof(answer), &len, &received, &fds, timeout_ms, err) <
            0)
                return -(int)err->code;
        if (len == 0)
                return cas_fail(err, CAS_E_IO, "the owner closed the connection");
        if (ffs_resolve_reply_decode(answer, len, reply, extents, err) < 0)
                return -(int)err->code;
        if (reply->type != request->type || reply->tag != request->tag ||
            (reply->type == FFS_RESOLVE_PACK && reply->code == CAS_OK && received < 0))
                return cas_fail(err, CAS_E_INVALID, "resolve: an answer to something else");
        if (pack_fd)
                *pack_fd = cas_steal_fd(&received);
        return 0;
}

/* False for who may try: everyone, or when the owner is away, one at a time. */
static bool is_away(struct ffs_resolve_client *c)
{
        uint64_t until = atomic_load(&c->away_until_ns);
        if (!until)
                return false;
        uint64_t now = now_ns();
        return now < until ||
               !atomic_compare_exchange_strong(&c->away_until_ns, &until, now + CLIENT_AWAY_NS);
}

/* Sends the request over a kept connection, and over a new one when that had died. */
static int call(struct ffs_resolve_client *c, struct ffs_resolve_request *request, int timeout_ms,
                struct ffs_resolve_reply *reply, struct cas_extent *extents, int *pack_fd,
                struct cas_err *err)
{
        if (request->type != FFS_RESOLVE_PING && is_away(c))
                return cas_fail(err, CAS_E_BUSY, "the owner of the store is away");
        struct cas_err why = CAS_ERR_INIT;
        for (;;) {
                cas_cleanup_fd int fd = take_idle(c, &request->tag);
                bool kept = fd >= 0;
                why = (struct cas_err)CAS_ERR_INIT;
                if (!kept && ffs_sock_connect(c->path, &fd, &why) < 0)
                        break;
                if (exchange(fd, request, timeout_ms, reply, extents, pack_fd, &why) == 0) {
                        give_idle(c, &fd);
                        atomic_store(&c->away_until_ns, 0);
                        if (reply->code == CAS_OK)
                                return 0;
                        return cas_fail(err, reply->code, "the owner answers: %s",
                                        cas_code_text(reply->code));
                }
                if (why.code != CAS_E_IO || !kept)
                        break;
        }
        atomic_store(&c->away_until_ns, now_ns() + CLIENT_AWAY_NS);
        return cas_fail(err, CAS_E_BUSY, "the owner of the store is away: %s", why.msg);
}

int ffs_resolve_ping(struct ffs_resolve_client *c, int timeout_ms, struct cas_err *err)
{
        struct ffs_resolve_request request = {.type = FFS_RESOLVE_PING};
        struct ffs_resolve_reply reply;
        return call(c, &request, timeout_ms, &reply, NULL, NULL, err);
}

int ffs_resolve_extents(struct ffs_resolve_client *c, const struct cas_hash *object,
                        uint32_t first_chunk, uint32_t count_max, int timeout_ms,
                        struct ffs_resolve_reply *out, struct cas_extent *extents,
                        struct cas_err *err)
{
        struct ffs_resolve_request request = {.type = FFS_RESOLVE_EXTENTS,
                                              .asks_again = true,
                                              .object = *object,
                                              .first_chunk = first_chunk,
                                              .count_max = count_max};
        return call(c, &request, timeout_ms, out, extents, NULL, err);
}

int ffs_resolve_pack(struct ffs_resolve_client *c, uint64_t pack_id, int timeout_ms, int *out_fd,
                     struct cas_err *err)
{
        struct ffs_resolve_request request = {.type = FFS_RESOLVE_PACK, .pack_id = pack_id};
        struct ffs_resolve_reply reply;
        return call(c, &request, timeout_ms, &reply, NULL, out_fd, err);
}
