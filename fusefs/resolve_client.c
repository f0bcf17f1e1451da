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

/* What comes along with an answer; the descriptors are owned. */
struct answer {
        struct ffs_resolve_reply reply;
        struct cas_extent *extents; /* room for what is asked for, or NULL */
        int fds[FFS_SOCK_FDS_MAX];
        size_t fd_count;
};

static void answer_clear(struct answer *a)
{
        for (size_t i = 0; i < a->fd_count; i++)
                (void)close(a->fds[i]);
        a->fd_count = 0;
}

/* How many descriptors belong to an answer. */
static size_t fds_wanted(const struct ffs_resolve_reply *r)
{
        if (r->code != CAS_OK)
                return 0;
        if (r->type == FFS_RESOLVE_PACK)
                return r->fills ? (size_t)r->home + (size_t)r->cache : 1;
        return r->type == FFS_RESOLVE_FILL;
}

/* One request over one connection. INVALID for an answer that breaks the protocol. */
static int exchange(int fd, const struct ffs_resolve_request *request, const struct cas_buf *msg,
                    int timeout_ms, struct answer *a, struct cas_err *err)
{
        if (ffs_sock_send(fd, msg->data, msg->len_bytes, NULL, 0, err) < 0)
                return -(int)err->code;
        uint8_t answer[FFS_RESOLVE_REPLY_BYTES_MAX];
        size_t len = 0;
        a->fd_count = CAS_COUNT(a->fds);
        if (ffs_sock_receive(fd, answer, sizeof(answer), &len, a->fds, &a->fd_count, timeout_ms,
                             err) < 0) {
                a->fd_count = 0;
                return -(int)err->code;
        }
        int rc = 0;
        if (len == 0)
                rc = cas_fail(err, CAS_E_IO, "the owner closed the connection");
        else
                rc = ffs_resolve_reply_decode(answer, len, &a->reply, a->extents, err);
        if (rc == 0 && (a->reply.type != request->type || a->reply.tag != request->tag ||
                        a->fd_count != fds_wanted(&a->reply)))
                rc = cas_fail(err, CAS_E_INVALID, "resolve: an answer to something else");
        if (rc < 0)
                answer_clear(a);
        return rc;
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

static void encode(const struct ffs_resolve_request *request,
                   const struct ffs_resolve_touch *touches, struct cas_buf *out)
{
        uint8_t head[FFS_RESOLVE_REQUEST_BYTES], touch[FFS_RESOLVE_TOUCH_BYTES];
        cas_buf_clear(out);
        ffs_resolve_request_encode(request, head);
        cas_buf_append(out, head, sizeof(head));
        for (uint32_t i = 0; i < request->touches; i++) {
                ffs_resolve_touch_encode(&touches[i], touch);
                cas_buf_append(out, touch, sizeof(touch));
        }
}

/* Sends the request over a kept connection, and over a new one when that had died. */
static int call(struct ffs_resolve_client *c, struct ffs_resolve_request *request,
                const struct ffs_resolve_touch *touches, int timeout_ms, struct answer *a,
                struct cas_err *err)
{
        if (request->type != FFS_RESOLVE_PING && is_away(c))
                return cas_fail(err, CAS_E_BUSY, "the owner of the store is away");
        cas_cleanup_buf struct cas_buf msg = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        for (;;) {
                cas_cleanup_fd int fd = take_idle(c, &request->tag);
                bool kept = fd >= 0;
                why = (struct cas_err)CAS_ERR_INIT;
                if (!kept && ffs_sock_connect(c->path, &fd, &why) < 0)
                        break;
                encode(request, touches, &msg);
                if (exchange(fd, request, &msg, timeout_ms, a, &why) == 0) {
                        give_idle(c, &fd);
                        atomic_store(&c->away_until_ns, 0);
                        if (a->reply.code == CAS_OK)
                                return 0;
                        return cas_fail(err, a->reply.code, "the owner answers: %s",
                                        cas_code_text(a->reply.code));
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
        struct answer a = {0};
        return call(c, &request, NULL, timeout_ms, &a, err);
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
        struct answer a = {.extents = extents};
        int rc = call(c, &request, NULL, timeout_ms, &a, err);
        *out = a.reply;
        return rc;
}

int ffs_resolve_pack(struct ffs_resolve_client *c, uint64_t pack_id, int timeout_ms,
                     struct ffs_resolved_pack *out, struct cas_err *err)
{
        struct ffs_resolve_request request = {
                .type = FFS_RESOLVE_PACK, .knows_tiers = true, .pack_id = pack_id};
        struct answer a = {0};
        if (call(c, &request, NULL, timeout_ms, &a, err) < 0)
                return -(int)err->code;
        /* An owner that does not know tiers says nothing of what it gives. */
        bool home = a.reply.home || !a.reply.fills;
        *out = (struct ffs_resolved_pack){.home_fd = home ? a.fds[0] : -1,
                                          .cache_fd = a.reply.cache ? a.fds[home] : -1,
                                          .wants_touched = a.reply.wants_touched,
                                          .fills = a.reply.fills};
        return 0;
}

int ffs_resolve_fill(struct ffs_resolve_client *c, uint64_t pack_id, uint64_t offset,
                     uint32_t bytes, bool was_bad, int timeout_ms, int *out_fd, struct cas_err *err)
{
        struct ffs_resolve_request request = {.type = FFS_RESOLVE_FILL,
                                              .asks_again = true,
                                              .was_bad = was_bad,
                                              .pack_id = pack_id,
                                              .offset = offset,
                                              .bytes = bytes};
        struct answer a = {0};
        if (call(c, &request, NULL, timeout_ms, &a, err) < 0)
                return -(int)err->code;
        *out_fd = a.fds[0];
        return 0;
}

int ffs_resolve_touched(struct ffs_resolve_client *c, const struct ffs_resolve_touch *touches,
                        uint32_t count, int timeout_ms, struct cas_err *err)
{
        struct ffs_resolve_request request = {.type = FFS_RESOLVE_TOUCHED, .touches = count};
        struct answer a = {0};
        cas_assert(count > 0 && count <= FFS_RESOLVE_TOUCHES_MAX);
        return call(c, &request, touches, timeout_ms, &a, err);
}
