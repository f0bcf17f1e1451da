/* SPDX-License-Identifier: Apache-2.0 */
/* The server: requests of libmicrohttpd become calls of begin, piece and end.
 *
 * The library calls on_access once when the headers are here, once for each
 * piece of the body, and once when all is here. An answer queued at the first
 * call closes the connection, so it is kept until the last one, but where that
 * would mean reading a body that nobody wants. Before `end` the connection is
 * suspended and the request goes to the workers; it is resumed with the answer,
 * and on_access is called once more. */
#include "registry/http.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "cas/log.h"
#include "registry/http_int.h"
#include "registry/http_listen.h"

#define HTTP_CONNECTION_MEMORY_BYTES (32 * 1024) /* bounds the headers of a request, too */
#define HTTP_WORKERS_MAX 64
#define HTTP_CONNECTIONS_MAX 16384
#define HTTP_IDLE_S 120
#define HTTP_HEADER_S 30
#define HTTP_RATE_MIN 512
static char tls_priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

static uint64_t now_ns(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Requests */

static struct reg_http_conn *conn_of(struct MHD_Connection *connection)
{
        return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)
                ->socket_context;
}

static void req_unref(struct reg_http_req *req)
{
        if (atomic_fetch_sub(&req->refs, 1) != 1)
                return;
        for (unsigned i = 0; i < req->header_count; i++)
                free(req->headers[i].value);
        if (req->context_free)
                req->context_free(req->context);
        if (req->uri)
                reg_uri_release(req->uri);
        free(req->uri);
        free(req);
}

/* Gives the handler's state back, once. */
static void release_state(struct reg_http_req *req)
{
        const struct reg_http_body_ops *ops = req->ops;
        req->ops = NULL;
        if (ops && ops->free)
                ops->free(req->state);
}

static const struct {
        const char *text;
        enum reg_http_method method;
} methods[] = {
        {"GET", REG_HTTP_GET}, {"HEAD", REG_HTTP_HEAD},   {"POST", REG_HTTP_POST},
        {"PUT", REG_HTTP_PUT}, {"PATCH", REG_HTTP_PATCH}, {"DELETE", REG_HTTP_DELETE},
};

static enum reg_http_method method_of(const char *text)
{
        for (size_t i = 0; i < CAS_COUNT(methods); i++) {
                if (strcmp(text, methods[i].text) == 0)
                        return methods[i].method;
        }
        return REG_HTTP_OTHER;
}

static const char *text_of(enum reg_http_method method)
{
        for (size_t i = 0; i < CAS_COUNT(methods); i++) {
                if (method == methods[i].method)
                        return methods[i].text;
        }
        return "?";
}

/* The first thing the library says of a request; its answer is the request's context. */
static void *on_target(void *arg, const char *target, struct MHD_Connection *connection)
{
        struct reg_http_server *server = arg;
        size_t len = target ? strlen(target) : 0;
        struct reg_http_req *req = cas_xcalloc(1, sizeof(*req) + len + 1);
        req->server = server;
        req->connection = connection;
        req->start_ns = now_ns();
        req->method = REG_HTTP_OTHER;
        atomic_init(&req->refs, 1);
        if (len > 0)
                memcpy(req->target, target, len);
        atomic_fetch_add(&server->request_count, 1);
        reg_watch_phase(conn_of(connection), REG_HTTP_PHASE_HEADERS);
        return req;
}

static void log_request(const struct reg_http_req *req)
{
        bool bad = req->status == MHD_HTTP_BAD_REQUEST;
        enum cas_log_level level = bad ? CAS_LOG_WARN : CAS_LOG_DEBUG;
        if (!cas_log_enabled(level))
                return;
        char target[REG_HTTP_LOG_TEXT_BYTES];
        double ms = (double)(now_ns() - req->start_ns) / 1e6;
        cas_log(level, req->server->config.name,
                "method=%s target=\"%s\" status=%u in=%llu ms=%.2f", text_of(req->method),
                reg_http_log_text(reg_http_target(req), target), req->status,
                (unsigned long long)req->body_seen_bytes, ms);
}

/* Tells who wants to know that a request is over. */
static void tell_done(const struct reg_http_req *req, bool whole)
{
        const struct reg_http_config *config = &req->server->config;
        if (!config->done)
                return;
        const char *agent = reg_http_header(req, MHD_HTTP_HEADER_USER_AGENT);
        const char *referer = reg_http_header(req, MHD_HTTP_HEADER_REFERER);
        const struct reg_http_done done = {
                .method = text_of(req->method),
                .target = req->target,
                .client = reg_http_client(req),
                .agent = agent ? agent : "",
                .referer = referer ? referer : "",
                .context = req->context,
                .status = req->status,
                .whole = whole,
                .in_bytes = req->body_seen_bytes,
                .out_bytes = reg_http_reply_sent_bytes(req, !whole),
                .duration_ns = now_ns() - req->start_ns,
        };
        config->done(config->arg, &done);
}

/* On a worker's thread: giving back may wait for the disk, as end may. */
static void run_release(struct reg_work_item *item)
{
        struct reg_http_req *req = (struct reg_http_req *)item;
        release_state(req);
        req_unref(req);
}

/* The client went away in the middle of its body. */
static void release_abandoned(struct reg_http_req *req)
{
        struct reg_http_server *server = req->server;
        atomic_fetch_add(&req->refs, 1);
        req->work.fn = run_release;
        cas_mutex_lock(&server->mutex);
        bool ended = server->ended;
        if (!ended)
                reg_work_push(server->work, &req->work);
        cas_mutex_unlock(&server->mutex);
        if (ended)
                run_release(&req->work);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
        struct reg_http_server *server = arg;
        struct reg_http_req *req = *context;
        *context = NULL;
        if (!req)
                return;
        bool whole = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && req->queued;
        if (req->response)
                MHD_destroy_response(cas_steal(&req->response));
        if (!req->queued)
                req->status = 0;
        log_request(req);
        tell_done(req, whole);
        conn_of(connection)->forwarded[0] = '\0';
        reg_watch_phase(conn_of(connection), REG_HTTP_PHASE_IDLE);
        reg_http_answer_unref(cas_steal(&req->answer));
        /* a request that a worker has is released by it */
        if (req->stage != REG_HTTP_WORKING && req->ops)
                release_abandoned(req);
        req_unref(req);
        if (atomic_fetch_sub(&server->request_count, 1) == 1 && atomic_load(&server->quiet)) {
                cas_mutex_lock(&server->mutex);
                (void)pthread_cond_broadcast(&server->change);
                cas_mutex_unlock(&server->mutex);
        }
}

/* Connections */

static int fd_of(struct MHD_Connection *connection)
{
        return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

struct reg_http_conn *reg_http_conn(const struct reg_http_req *req)
{
        return conn_of(req->connection);
}

int reg_http_fd(const struct reg_http_req *req)
{
        return fd_of(req->connection);
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
        struct reg_http_server *server = arg;
        if (code == MHD_CONNECTION_NOTIFY_STARTED) {
                struct reg_http_conn *made = cas_xcalloc(1, sizeof(*made));
                const struct sockaddr *peer =
                        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)
                                ->client_addr;
                made->fd = fd_of(connection);
                made->is_local = !peer || peer->sa_family == AF_UNIX;
                reg_watch_add(server->watch, made);
                *context = made;
                return;
        }
        struct reg_http_conn *conn = *context;
        *context = NULL;
        if (conn)
                reg_watch_remove(server->watch, conn);
        if (conn && conn->linger) {
                /* the library closes its descriptor; the connection lives on in ours */
                int fd = fcntl(fd_of(connection), F_DUPFD_CLOEXEC, 3);
                if (fd >= 0)
                        reg_linger_add(server->linger, fd);
        }
        if (conn)
                free(conn->cert_name);
        free(conn);
}

/* From headers to an answer */

static void refuse(struct reg_http_req *req, unsigned status, const char *why)
{
        const struct reg_http_config *config = &req->server->config;
        if (config->refuse)
                config->refuse(config->arg, req, status, why);
        else
                reg_http_reply_empty(req, status);
        cas_assert(req->answered);
}

/* Of these two programs could take two different ones when there are several. */
static const char *const once_headers[] = {MHD_HTTP_HEADER_CONTENT_LENGTH,
                                           MHD_HTTP_HEADER_TRANSFER_ENCODING, MHD_HTTP_HEADER_HOST};
struct repeats {
        bool seen[CAS_COUNT(once_headers)];
        bool found;
};

static enum MHD_Result note_header(void *arg, enum MHD_ValueKind kind CAS_UNUSED, const char *name,
                                   size_t name_len, const char *value CAS_UNUSED,
                                   size_t value_len CAS_UNUSED)
{
        struct repeats *r = arg;
        for (size_t i = 0; i < CAS_COUNT(once_headers); i++) {
                if (strlen(once_headers[i]) != name_len || strcasecmp(name, once_headers[i]) != 0)
                        continue;
                r->found |= r->seen[i];
                r->seen[i] = true;
        }
        return MHD_YES;
}

/* Content-Length or chunked; an answer when it is neither, both or several. Whoever sent that may
 * mean what follows differently: it is not read, and the connection ends. */
static void read_body_length(struct reg_http_req *req)
{
        const char *coding = reg_http_header(req, MHD_HTTP_HEADER_TRANSFER_ENCODING);
        const char *length = reg_http_header(req, MHD_HTTP_HEADER_CONTENT_LENGTH);
        struct repeats repeats = {0};
        (void)MHD_get_connection_values_n(req->connection, MHD_HEADER_KIND, note_header, &repeats);
        if (repeats.found) {
                req->body_bytes = UINT64_MAX;
                refuse(req, MHD_HTTP_BAD_REQUEST, "a header that may be there once is repeated");
        } else if (coding) {
                req->body_bytes = UINT64_MAX;
                if (strcasecmp(coding, "chunked") != 0)
                        refuse(req, MHD_HTTP_NOT_IMPLEMENTED, "unknown Transfer-Encoding");
                else if (length)
                        refuse(req, MHD_HTTP_BAD_REQUEST,
                               "both Content-Length and Transfer-Encoding");
        } else if (length) {
                req->body_bytes = strtoull(length, NULL, 10); /* the library checked it */
        }
}

static void refuse_long_body(struct reg_http_req *req)
{
        if (req->ops->too_long)
                req->ops->too_long(req, req->state);
        else
                reg_http_reply_empty(req, MHD_HTTP_CONTENT_TOO_LARGE);
        cas_assert(req->answered);
}

/* Whether the rest of the body is not worth reading: a client that waits for
 * "100 Continue" will not send it, and a long one costs more than a new connection. */
static bool wants_early_answer(const struct reg_http_req *req)
{
        return req->body_bytes > REG_HTTP_DISCARD_BYTES_MAX ||
               (req->body_bytes > 0 && reg_http_header(req, MHD_HTTP_HEADER_EXPECT));
}

static enum MHD_Result queue_answer(struct reg_http_req *req)
{
        req->queued = true;
        reg_watch_phase(conn_of(req->connection), REG_HTTP_PHASE_ANSWER);
        return reg_http_reply_queue(req, atomic_load(&req->server->quiet));
}

/* begin has answered, or wants the body. */
static enum MHD_Result begun(struct reg_http_req *req)
{
        req->stage = REG_HTTP_RECEIVING;
        cas_assert(req->answered || req->ops);
        if (!req->answered && req->body_bytes != UINT64_MAX &&
            req->body_bytes > req->body_bytes_max)
                refuse_long_body(req);
        struct reg_http_conn *conn = conn_of(req->connection);
        atomic_store_explicit(&conn->body_bytes, 0, memory_order_relaxed);
        reg_watch_phase(conn, REG_HTTP_PHASE_BODY);
        if (!req->answered)
                return MHD_YES;
        release_state(req);
        if (!wants_early_answer(req))
                return MHD_YES;
        conn->linger = true;
        return queue_answer(req);
}

/* On a worker's thread: what begin has left for later. */
static void run_deferred(struct reg_work_item *item)
{
        struct reg_http_req *req = (struct reg_http_req *)item;
        req->defer_fn(req->defer_arg, req);
        cas_assert(req->answered || req->ops);
        MHD_resume_connection(req->connection);
        req_unref(req);
}

/* Hands a request to the workers, its connection suspended meanwhile. */
static enum MHD_Result hand_over(struct reg_http_req *req, enum reg_http_stage stage,
                                 void (*fn)(struct reg_work_item *item))
{
        struct reg_http_server *server = req->server;
        req->stage = stage;
        reg_watch_phase(conn_of(req->connection), REG_HTTP_PHASE_WORK);
        cas_mutex_lock(&server->mutex);
        bool ended = server->ended;
        if (!ended) {
                atomic_fetch_add(&req->refs, 1);
                req->work.fn = fn;
                MHD_suspend_connection(req->connection);
                reg_work_push(server->work, &req->work);
        }
        cas_mutex_unlock(&server->mutex);
        return ended ? MHD_NO : MHD_YES;
}

/* What is parked waits, unless it was unparked meanwhile. */
static enum MHD_Result park(struct reg_http_req *req)
{
        struct reg_http_server *server = req->server;
        cas_mutex_lock(&server->mutex);
        bool waits = req->park == REG_HTTP_PARK_WANTED;
        if (waits) {
                req->park = REG_HTTP_PARK_SUSPENDED;
                req->stage = REG_HTTP_DEFERRED;
                reg_watch_phase(conn_of(req->connection), REG_HTTP_PHASE_WORK);
                MHD_suspend_connection(req->connection);
        }
        cas_mutex_unlock(&server->mutex);
        if (waits || hand_over(req, REG_HTTP_DEFERRED, run_deferred) == MHD_YES)
                return MHD_YES;
        req->defer_fn(req->defer_arg, req); /* the server has stopped: nobody hears the answer */
        return MHD_NO;
}

/* The target in parts. False: refused. */
static bool parse_target(struct reg_http_req *req)
{
        struct cas_err err = CAS_ERR_INIT;
        req->uri = cas_xmalloc(sizeof(*req->uri));
        int rc = reg_uri_parse(req->target, req->uri, &err);
        if (rc < 0)
                refuse(req, rc == -CAS_E_LIMIT ? MHD_HTTP_URI_TOO_LONG : MHD_HTTP_BAD_REQUEST,
                       "the URL cannot be read");
        return rc == 0;
}

static enum MHD_Result start_request(struct reg_http_req *req, const char *method)
{
        const struct reg_http_config *config = &req->server->config;
        req->method = method_of(method);
        req->discard_bytes = REG_HTTP_DISCARD_BYTES_MAX;
        read_body_length(req);
        if (!req->answered && config->ready)
                config->ready(config->arg, req);
        if (!req->answered && parse_target(req))
                config->begin(config->arg, req);
        if (req->defer_fn && req->park != REG_HTTP_PARK_NONE)
                return park(req);
        if (req->defer_fn)
                return hand_over(req, REG_HTTP_DEFERRED, run_deferred);
        return begun(req);
}

/* Where a client has gone away right behind what was read, the library is told of that no more
 * (edge-triggered: one event was for both), and would hold the request until it is idle for too
 * long. Shutting down what is shut down already makes an event, and does nothing else. */
static void tell_of_end(struct reg_http_req *req)
{
        char next;
        int fd = fd_of(req->connection);
        if (recv(fd, &next, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
                (void)shutdown(fd, SHUT_RD);
}

static enum MHD_Result take_piece(struct reg_http_req *req, const void *data, size_t len)
{
        req->body_seen_bytes += len;
        atomic_store_explicit(&conn_of(req->connection)->body_bytes, req->body_seen_bytes,
                              memory_order_relaxed);
        if (req->answered) {
                if (len > req->discard_bytes)
                        return MHD_NO; /* cut off: the library cannot answer in the middle */
                req->discard_bytes -= len;
                return MHD_YES;
        }
        if (!req->ops->piece || req->body_seen_bytes > req->body_bytes_max)
                refuse_long_body(req);
        else
                req->ops->piece(req, req->state, data, len);
        if (req->answered) {
                req->discard_bytes = REG_HTTP_DISCARD_REST_BYTES_MAX;
                release_state(req);
        }
        return MHD_YES;
}

/* On a worker's thread. */
static void run_end(struct reg_work_item *item)
{
        struct reg_http_req *req = (struct reg_http_req *)item;
        req->ops->end(req, req->state);
        cas_assert(req->answered);
        release_state(req);
        if (!req->streamed)
                MHD_resume_connection(req->connection);
        req_unref(req);
}

static enum MHD_Result on_access(void *arg CAS_UNUSED, struct MHD_Connection *connection CAS_UNUSED,
                                 const char *url CAS_UNUSED, const char *method,
                                 const char *version CAS_UNUSED, const char *data, size_t *len,
                                 void **context)
{
        struct reg_http_req *req = *context;
        if (!req)
                return MHD_NO;
        if (req->stage == REG_HTTP_NEW)
                return start_request(req, method);
        if (req->stage == REG_HTTP_DEFERRED) /* resumed: nothing of a body was read */
                return begun(req);
        if (*len > 0) {
                size_t piece_len = *len;
                *len = 0;
                tell_of_end(req);
                return take_piece(req, data, piece_len);
        }
        return req->answered ? queue_answer(req) : hand_over(req, REG_HTTP_WORKING, run_end);
}

/* The request, for handlers */

enum reg_http_method reg_http_method(const struct reg_http_req *req)
{
        return req->method;
}

const struct reg_uri *reg_http_uri(const struct reg_http_req *req)
{
        static const struct reg_uri none = {.raw = "", .query = ""};
        return req->uri ? req->uri : &none;
}

const char *reg_http_target(const struct reg_http_req *req)
{
        return req->target;
}

const char *reg_http_log_text(const char *text, char out[REG_HTTP_LOG_TEXT_BYTES])
{
        size_t i = 0;
        for (; text[i] && i < REG_HTTP_LOG_TEXT_BYTES - 1; i++) {
                char c = text[i];
                out[i] = c < ' ' || c > '~' || c == '"' || c == '\\' ? '?' : c;
        }
        out[i] = '\0';
        return out;
}

const char *reg_http_header(const struct reg_http_req *req, const char *name)
{
        return MHD_lookup_connection_value(req->connection, MHD_HEADER_KIND, name);
}

struct header_each {
        const char *name;
        bool (*fn)(void *arg, const char *value);
        void *arg;
};

static enum MHD_Result each_header(void *arg, enum MHD_ValueKind kind CAS_UNUSED, const char *name,
                                   const char *value)
{
        const struct header_each *each = arg;
        if (strcasecmp(name, each->name) != 0 || each->fn(each->arg, value ? value : ""))
                return MHD_YES;
        return MHD_NO;
}

void reg_http_header_each(const struct reg_http_req *req, const char *name,
                          bool (*fn)(void *arg, const char *value), void *arg)
{
        struct header_each each = {.name = name, .fn = fn, .arg = arg};
        (void)MHD_get_connection_values(req->connection, MHD_HEADER_KIND, each_header, &each);
}

bool reg_http_body(const struct reg_http_req *req, uint64_t *out_bytes)
{
        if (out_bytes)
                *out_bytes = req->body_bytes;
        return req->body_bytes > 0;
}

void reg_http_set_context(struct reg_http_req *req, void *context, void (*free_fn)(void *context))
{
        cas_assert(!req->context);
        req->context = context;
        req->context_free = free_fn;
}

bool reg_http_peer_uid(const struct reg_http_req *req, uid_t *out)
{
        struct ucred peer;
        socklen_t len = sizeof(peer);
        int fd = fd_of(req->connection);
        int domain = 0;
        socklen_t domain_len = sizeof(domain);
        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) != 0 || domain != AF_UNIX ||
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
                return false;
        *out = peer.uid;
        return true;
}

void reg_http_accept(struct reg_http_req *req, const struct reg_http_body_ops *ops, void *state)
{
        cas_assert(!req->ops);
        cas_assert(!req->answered);
        cas_assert(ops->end != NULL);
        req->ops = ops;
        req->state = state;
        req->body_bytes_max = ops->bytes_max;
}

void reg_http_defer(struct reg_http_req *req, void (*fn)(void *arg, struct reg_http_req *req),
                    void *arg)
{
        cas_assert(!req->defer_fn);
        cas_assert(!req->ops);
        cas_assert(!req->answered);
        req->defer_fn = fn;
        req->defer_arg = arg;
}

void reg_http_park(struct reg_http_req *req, void (*fn)(void *arg, struct reg_http_req *req),
                   void *arg)
{
        reg_http_defer(req, fn, arg);
        req->park = REG_HTTP_PARK_WANTED;
        atomic_fetch_add(&req->refs, 1); /* of who unparks */
}

void reg_http_unpark(struct reg_http_req *req)
{
        struct reg_http_server *server = req->server;
        cas_mutex_lock(&server->mutex);
        bool waits = req->park == REG_HTTP_PARK_SUSPENDED;
        cas_assert(waits || req->park == REG_HTTP_PARK_WANTED);
        req->park = REG_HTTP_PARK_OVER;
        if (waits) {
                cas_assert(!server->ended);
                req->work.fn = run_deferred; /* our reference becomes the worker's */
                reg_work_push(server->work, &req->work);
        }
        cas_mutex_unlock(&server->mutex);
        if (!waits)
                req_unref(req);
}

/* Whole bodies: the ops of one that collects pieces. */

struct whole {
        const struct reg_http_whole_ops *ops;
        void *state;
        struct cas_buf body;
};

static void whole_too_long(struct reg_http_req *req, void *state)
{
        struct whole *w = state;
        if (w->ops->too_long)
                w->ops->too_long(req, w->state);
        else
                reg_http_reply_empty(req, MHD_HTTP_CONTENT_TOO_LARGE);
}

static void whole_piece(struct reg_http_req *req, void *state, const void *data, size_t len)
{
        struct whole *w = state;
        struct cas_err err = CAS_ERR_INIT;
        if (cas_buf_try_reserve(&w->body, len, w->ops->bytes_max, &err) < 0)
                whole_too_long(req, w);
        else
                cas_buf_append(&w->body, data, len);
}

static void whole_end(struct reg_http_req *req, void *state)
{
        struct whole *w = state;
        w->ops->end(req, w->state, &w->body);
}

static void whole_free(void *state)
{
        struct whole *w = state;
        if (w->ops->free)
                w->ops->free(w->state);
        cas_buf_release(&w->body);
        free(w);
}

void reg_http_accept_whole(struct reg_http_req *req, const struct reg_http_whole_ops *ops,
                           void *state)
{
        static const struct reg_http_body_ops collect = {
                .bytes_max = SIZE_MAX,
                .piece = whole_piece,
                .end = whole_end,
                .free = whole_free,
                .too_long = whole_too_long,
        };
        struct whole *w = cas_xcalloc(1, sizeof(*w));
        w->ops = ops;
        w->state = state;
        cas_buf_init(&w->body);
        reg_http_accept(req, &collect, w);
        req->body_bytes_max = ops->bytes_max;
}

/* Start and stop */

static unsigned cpu_count(void)
{
        cpu_set_t set;
        return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

/* A connection may need a descriptor beside its own, and the rest of the program some, too. */
static unsigned connections_for_descriptors(unsigned wanted)
{
        struct rlimit files;
        if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur / 3 >= wanted)
                return wanted;
        return (unsigned)cas_max_u64(files.rlim_cur / 3, 16);
}

static void fill_defaults(struct reg_http_config *c)
{
        if (c->threads == 0)
                c->threads = cpu_count();
        if (c->threads < 2)
                c->threads = 2; /* one busy with the disk must not stop all others */
        if (c->workers_max == 0)
                c->workers_max = HTTP_WORKERS_MAX;
        if (c->connections_max == 0)
                c->connections_max = HTTP_CONNECTIONS_MAX;
        c->connections_max = connections_for_descriptors(c->connections_max);
        if (c->idle_s == 0)
                c->idle_s = HTTP_IDLE_S;
        if (c->header_s == 0)
                c->header_s = HTTP_HEADER_S;
        if (c->rate_min == 0)
                c->rate_min = HTTP_RATE_MIN;
        if (c->socket_mode == 0)
                c->socket_mode = 0600;
        if (!c->name)
                c->name = "http";
}

/* Escapes are decoded by reg_uri_parse, once. */
static size_t keep_escapes(void *arg CAS_UNUSED, struct MHD_Connection *connection CAS_UNUSED,
                           char *text)
{
        return strlen(text);
}

static int start_daemon(struct reg_http_server *server, struct cas_err *err)
{
        const struct reg_http_config *c = &server->config;
        unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
        struct MHD_OptionItem tls[] = {
                {.option = MHD_OPTION_END},
                {.option = MHD_OPTION_END},
                {.option = MHD_OPTION_END},
        };
        if (server->tls) {
                flags |= MHD_USE_TLS;
                tls[0].option = MHD_OPTION_HTTPS_CERT_CALLBACK2;
                tls[0].ptr_value = reg_tls_retrieve(server->tls);
                tls[1].option = MHD_OPTION_HTTPS_PRIORITIES;
                tls[1].ptr_value = tls_priorities;
        }
        server->daemon = MHD_start_daemon(
                flags, 0, NULL, NULL, on_access, server, MHD_OPTION_LISTEN_SOCKET,
                server->listen_fd, MHD_OPTION_THREAD_POOL_SIZE, c->threads,
                MHD_OPTION_CONNECTION_LIMIT, c->connections_max, MHD_OPTION_CONNECTION_TIMEOUT,
                c->idle_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_MEMORY_BYTES,
                MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
                MHD_OPTION_URI_LOG_CALLBACK, on_target, server, MHD_OPTION_NOTIFY_COMPLETED,
                on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
                MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
        if (!server->daemon)
                return cas_fail(err, CAS_E_IO, "HTTP server %s does not start", c->name);
        return 0;
}

static void server_free(struct reg_http_server *server)
{
        if (server->listen_fd >= 0)
                (void)close(server->listen_fd);
        if (server->socket_path)
                (void)unlink(server->socket_path);
        free(server->socket_path);
        reg_work_free(server->work);
        reg_linger_free(server->linger);
        reg_watch_free(server->watch);
        reg_proxies_free(server->proxies);
        reg_tls_free(server->tls);
        (void)pthread_cond_destroy(&server->change);
        cas_mutex_release(&server->mutex);
        free(server);
}
CAS_DEFINE_CLEANUP(cleanup_server, struct reg_http_server *, server_free);

int reg_http_start(const struct reg_http_config *config, struct reg_http_server **out,
                   struct cas_err *err)
{
        cas_assert(config->begin != NULL);
        __attribute__((cleanup(cleanup_server))) struct reg_http_server *server =
                cas_xcalloc(1, sizeof(*server));
        server->config = *config;
        server->listen_fd = -1;
        cas_mutex_init(&server->mutex, "http server");
        cas_cond_init(&server->change);
        fill_defaults(&server->config);
        int rc = config->trusted_proxies
                         ? reg_proxies_parse(config->trusted_proxies, &server->proxies, err)
                         : 0;
        if (rc == 0 && config->tls)
                rc = reg_tls_new(config->tls, &server->tls, err);
        if (rc < 0)
                return rc;
        server->config.tls = NULL; /* was borrowed, as were those below */
        int fd = config->listen_fd;
        if (config->listen) {
                rc = reg_listen(config->listen, server->config.socket_mode, &fd, err);
                if (rc < 0)
                        return rc;
                server->listen_fd = fd;
                if (config->listen[0] == '/')
                        server->socket_path = cas_xstrdup(config->listen);
        } else if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
                return cas_fail_sys(err, errno, "inherited socket %d", fd);
        }
        server->config.listen = server->config.trusted_proxies = NULL;
        server->port = reg_listen_port(fd);
        server->work = reg_work_new(server->config.workers_max);
        server->linger = reg_linger_new();
        server->watch = reg_watch_new(&server->config);
        int inherited_fd = server->listen_fd;
        server->listen_fd = fd;
        rc = start_daemon(server, err);
        if (rc < 0) {
                server->listen_fd = inherited_fd; /* not ours yet */
                return rc;
        }
        *out = cas_steal(&server);
        return 0;
}

unsigned reg_http_port(const struct reg_http_server *server)
{
        return server->port;
}

/* Waits until no request is under way. */
static void wait_requests(struct reg_http_server *server, unsigned wait_ms)
{
        struct timespec deadline;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += wait_ms / 1000;
        deadline.tv_nsec += (long)(wait_ms % 1000) * 1000000;
        if (deadline.tv_nsec >= 1000000000) {
                deadline.tv_sec++;
                deadline.tv_nsec -= 1000000000;
        }
        atomic_store(&server->quiet, true);
        cas_mutex_lock(&server->mutex);
        while (atomic_load(&server->request_count) > 0 &&
               cas_mutex_timedwait(&server->mutex, &server->change, &deadline))
                ;
        server->ended = true;
        cas_mutex_unlock(&server->mutex);
}

void reg_http_stop(struct reg_http_server *server, unsigned wait_ms)
{
        if (!server)
                return;
        (void)MHD_quiesce_daemon(server->daemon);
        wait_requests(server, wait_ms);
        /* every suspended connection is resumed before the daemon is stopped: streams by this,
         * others by the worker that has them */
        reg_http_streams_break(server);
        reg_work_free(cas_steal(&server->work));
        MHD_stop_daemon(server->daemon);
        server_free(server);
}
