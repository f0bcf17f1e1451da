/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that take more than they should: requests that do not get on, and
 * idle ones when there are nearly as many as there may be. One thread looks at
 * all of them every few seconds; it shuts a socket down, and the daemon does the
 * rest. What a connection is about, its event thread says in atomics. */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "cas/log.h"
#include "registry/http_int.h"

#define WATCH_MS 2000
#define SECOND UINT64_C(1000000000)
/* From this share of the connections on, idle ones go: the oldest, down to the second. */
#define CROWDED_PERCENT 80
#define ROOM_PERCENT 60
#define CROWDED_IDLE_NS (SECOND / 2)
#define OLDEST_MAX 1024 /* that are closed at a time */

struct reg_watch {
        const struct reg_http_config *config;
        pthread_t thread;
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;
        struct reg_http_conn *first;
        unsigned count;
        bool stopping;
};

static uint64_t now_ns(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static bool is_crowded(const struct reg_watch *w, unsigned percent)
{
        return (uint64_t)w->count * 100 > (uint64_t)w->config->connections_max * percent;
}

/* Whether less came in the time than the slowest that is borne. */
static bool is_slow(const struct reg_watch *w, uint64_t bytes, uint64_t ns)
{
        uint64_t grace = w->config->header_s * SECOND;
        return ns > grace && bytes < (ns - grace) / SECOND * w->config->rate_min;
}

/* The client does not take what there is to be sent. */
static bool reads_slowly(const struct reg_watch *w, struct reg_http_conn *conn, uint64_t now)
{
        struct tcp_info info = {0};
        socklen_t len = sizeof(info);
        int unsent = 0;
        if (conn->is_local || ioctl(conn->fd, SIOCOUTQ, &unsent) != 0 || unsent == 0 ||
            getsockopt(conn->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) {
                conn->read_since_ns = 0;
                return false;
        }
        if (!conn->read_since_ns) {
                conn->read_since_ns = now;
                conn->read_bytes = info.tcpi_bytes_acked;
                return false;
        }
        uint64_t ns = now - conn->read_since_ns, bytes = info.tcpi_bytes_acked - conn->read_bytes;
        bool slow = is_slow(w, bytes, ns);
        if (!slow && ns > 2 * w->config->header_s * SECOND) {
                conn->read_since_ns = now; /* what it was fast before does not count for ever */
                conn->read_bytes = info.tcpi_bytes_acked;
        }
        return slow;
}

/* The client has gone in the middle of a request. The daemon, which is told of changes only, does
 * not see that when it came together with the last bytes. */
static bool is_gone(const struct reg_http_conn *conn, uint64_t ns)
{
        char c;
        return ns > SECOND && recv(conn->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* Why the connection is to end, or NULL. */
static const char *fault_of(const struct reg_watch *w, struct reg_http_conn *conn, uint64_t now)
{
        uint64_t since = atomic_load(&conn->since_ns);
        uint64_t ns = now > since ? now - since : 0;
        enum reg_http_phase phase = atomic_load(&conn->phase);
        if (phase != REG_HTTP_PHASE_ANSWER)
                conn->read_since_ns = 0;
        switch (phase) {
        case REG_HTTP_PHASE_IDLE:
                if (ns > w->config->idle_s * SECOND)
                        return "idle";
                return is_gone(conn, ns) ? "gone" : NULL;
        case REG_HTTP_PHASE_HEADERS:
                if (ns > w->config->header_s * SECOND)
                        return "slow-headers";
                return is_gone(conn, ns) ? "gone" : NULL;
        case REG_HTTP_PHASE_BODY:
                return !conn->is_local && is_slow(w, atomic_load(&conn->body_bytes), ns)
                               ? "slow-body"
                               : NULL;
        case REG_HTTP_PHASE_WORK:
                return NULL;
        case REG_HTTP_PHASE_ANSWER:
                return reads_slowly(w, conn, now) ? "slow-reader" : NULL;
        }
        return NULL;
}

/* at_once: what waits to be sent is thrown away. */
static void cut(struct reg_http_conn *conn, bool at_once)
{
        const struct linger now = {.l_onoff = 1};
        if (at_once)
                (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        (void)shutdown(conn->fd, SHUT_RDWR);
}

static void cut_faulty_locked(struct reg_watch *w, uint64_t now)
{
        cas_assert_held(&w->mutex);
        for (struct reg_http_conn *c = w->first; c; c = c->next) {
                const char *why = fault_of(w, c, now);
                if (!why)
                        continue;
                cas_log(CAS_LOG_DEBUG, w->config->name, "fd=%d closed=%s", c->fd, why);
                cut(c, atomic_load(&c->phase) != REG_HTTP_PHASE_IDLE);
        }
}

/* New ones are put at the front: those at the end of the list are the oldest. */
static void cut_idle_locked(struct reg_watch *w, uint64_t now)
{
        cas_assert_held(&w->mutex);
        struct reg_http_conn *oldest[OLDEST_MAX];
        unsigned count = 0, cut_count = 0;
        unsigned wanted =
                w->count - (unsigned)((uint64_t)w->config->connections_max * ROOM_PERCENT / 100);
        for (struct reg_http_conn *c = w->first; c; c = c->next) {
                if (atomic_load(&c->phase) == REG_HTTP_PHASE_IDLE &&
                    now > atomic_load(&c->since_ns) + CROWDED_IDLE_NS)
                        oldest[count++ % OLDEST_MAX] = c;
        }
        for (; cut_count < wanted && cut_count < cas_min_u64(count, OLDEST_MAX); cut_count++)
                cut(oldest[(count - 1 - cut_count) % OLDEST_MAX], false);
        if (cut_count > 0)
                cas_log(CAS_LOG_INFO, w->config->name, "connections=%u closed=%u", w->count,
                        cut_count);
}

static void *watch_main(void *arg)
{
        struct reg_watch *w = arg;
        cas_mutex_lock(&w->mutex);
        while (!w->stopping) {
                struct timespec deadline;
                bool crowded = is_crowded(w, CROWDED_PERCENT);
                (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
                uint64_t at = (uint64_t)deadline.tv_nsec +
                              (crowded ? WATCH_MS / 8 : WATCH_MS) * UINT64_C(1000000);
                deadline.tv_sec += (time_t)(at / SECOND);
                deadline.tv_nsec = (long)(at % SECOND);
                (void)cas_mutex_timedwait(&w->mutex, &w->change, &deadline);
                uint64_t now = now_ns();
                cut_faulty_locked(w, now);
                if (is_crowded(w, CROWDED_PERCENT))
                        cut_idle_locked(w, now);
        }
        cas_mutex_unlock(&w->mutex);
        return NULL;
}

struct reg_watch *reg_watch_new(const struct reg_http_config *config)
{
        struct reg_watch *w = cas_xcalloc(1, sizeof(*w));
        w->config = config;
        cas_mutex_init(&w->mutex, "http watch");
        cas_cond_init(&w->change);
        int rc = pthread_create(&w->thread, NULL, watch_main, w);
        cas_assert(rc == 0);
        return w;
}

void reg_watch_free(struct reg_watch *w)
{
        if (!w)
                return;
        cas_mutex_lock(&w->mutex);
        w->stopping = true;
        (void)pthread_cond_signal(&w->change);
        cas_mutex_unlock(&w->mutex);
        (void)pthread_join(w->thread, NULL);
        (void)pthread_cond_destroy(&w->change);
        cas_mutex_release(&w->mutex);
        free(w);
}

void reg_watch_add(struct reg_watch *w, struct reg_http_conn *conn)
{
        atomic_store(&conn->since_ns, now_ns());
        cas_mutex_lock(&w->mutex);
        conn->next = w->first;
        conn->link = &w->first;
        if (conn->next)
                conn->next->link = &conn->next;
        w->first = conn;
        w->count++;
        cas_mutex_unlock(&w->mutex);
}

void reg_watch_remove(struct reg_watch *w, struct reg_http_conn *conn)
{
        cas_mutex_lock(&w->mutex);
        *conn->link = conn->next;
        if (conn->next)
                conn->next->link = conn->link;
        w->count--;
        cas_mutex_unlock(&w->mutex);
}

void reg_watch_phase(struct reg_http_conn *conn, enum reg_http_phase phase)
{
        atomic_store_explicit(&conn->since_ns, now_ns(), memory_order_relaxed);
        atomic_store_explicit(&conn->phase, phase, memory_order_relaxed);
}
