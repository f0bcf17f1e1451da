/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the HTTP server share: http.c (requests and the daemon),
 * http_reply.c (answers), http_stream.c (answers written while they are made),
 * http_client.c (who asks), http_tls.c, http_watch.c (those who do not get on), http_work.c
 * (threads for `end`), http_linger.c (closing after an early answer). */
#ifndef REG_HTTP_INT_H
#define REG_HTTP_INT_H

#include <arpa/inet.h>
#include <microhttpd.h>

#include "cas/mutex.h"
#include "registry/http.h"
#include "registry/work_int.h"

#define REG_HTTP_REPLY_HEADERS_MAX 32
/* An unwanted body of up to this is read and thrown away, so that the connection can go on. */
#define REG_HTTP_DISCARD_BYTES_MAX (1024 * 1024)
/* The same for what follows an answer that was given in the middle of a body. */
#define REG_HTTP_DISCARD_REST_BYTES_MAX (256 * 1024 * 1024)
/* A writer of a stream waits while this much is not sent yet. */
#define REG_HTTP_STREAM_BYTES_MAX (256 * 1024)

/* Sockets that were answered before their client had sent all: closing them at once would
 * reset the connection, and the client would lose the answer. They are read for a while. */
struct reg_linger;
struct reg_linger *reg_linger_new(void);
/* Takes fd, whose writing side is shut down already. */
void reg_linger_add(struct reg_linger *l, int fd);
void reg_linger_free(struct reg_linger *l);

/* Ends connections that do not get on, and idle ones when they are too many. */
struct reg_watch;
/* config is borrowed. */
struct reg_watch *reg_watch_new(const struct reg_http_config *config);
void reg_watch_free(struct reg_watch *w); /* NULL is nothing; no connection is left */
struct reg_http_conn;
void reg_watch_add(struct reg_watch *w, struct reg_http_conn *conn);
/* Before its descriptor is closed. */
void reg_watch_remove(struct reg_watch *w, struct reg_http_conn *conn);

/* Networks of proxies that are believed. */
struct reg_proxies;
/* "10.0.0.0/8, ::1, unix". Errors: INVALID. */
int reg_proxies_parse(const char *text, struct reg_proxies **out,
                      struct cas_err *err) CAS_MUST_CHECK;
void reg_proxies_free(struct reg_proxies *p);

/* TLS: what it needs of files, and the library of it. */
struct reg_tls;
/* Errors: INVALID, NOTFOUND, IO, LIMIT (too many servers). */
int reg_tls_new(const struct reg_http_tls *config, struct reg_tls **out,
                struct cas_err *err) CAS_MUST_CHECK;
/* After the daemon has ended. */
void reg_tls_free(struct reg_tls *tls);
/* The function of MHD_OPTION_HTTPS_CERT_CALLBACK2. */
void *reg_tls_retrieve(const struct reg_tls *tls);

struct reg_http_server {
        struct reg_http_config config; /* defaults filled in; what was borrowed is NULL */
        struct MHD_Daemon *daemon;
        int listen_fd;
        unsigned port;
        char *socket_path; /* owned; NULL unless this server made a Unix socket */
        struct reg_work *work;
        struct reg_linger *linger;
        struct reg_watch *watch;
        struct reg_proxies *proxies; /* NULL: none */
        struct reg_tls *tls;         /* NULL: plain */

        _Atomic bool quiet; /* stop has begun: answers close their connections */
        _Atomic unsigned request_count;

        struct cas_mutex mutex;          /* guards all below; taken before a stream's */
        pthread_cond_t change;           /* request_count is 0 */
        bool ended;                      /* the time is over: nothing new is begun */
        struct reg_http_stream *streams; /* those that the daemon still holds */
};

enum reg_http_stage {
        REG_HTTP_NEW,
        REG_HTTP_DEFERRED,  /* suspended: what begin has handed to a worker */
        REG_HTTP_RECEIVING, /* body, if any, is on its way */
        REG_HTTP_WORKING,   /* suspended: `end` has the request */
};

enum reg_http_park {
        REG_HTTP_PARK_NONE,
        REG_HTTP_PARK_WANTED,    /* begin has not returned yet */
        REG_HTTP_PARK_SUSPENDED, /* waits */
        REG_HTTP_PARK_OVER,      /* unparked */
};

/* What a connection is about: http_watch.c ends those that do not get on. */
enum reg_http_phase {
        REG_HTTP_PHASE_IDLE,    /* between requests, and before the target is here */
        REG_HTTP_PHASE_HEADERS, /* the target is here, the headers are not */
        REG_HTTP_PHASE_BODY,
        REG_HTTP_PHASE_WORK, /* it waits for us */
        REG_HTTP_PHASE_ANSWER,
};

#define REG_HTTP_CLIENT_BYTES INET6_ADDRSTRLEN
struct reg_http_conn {
        int fd;        /* the daemon's */
        bool is_local; /* a Unix socket: its client may be as slow as it likes */
        _Atomic(enum reg_http_phase) phase;
        _Atomic uint64_t since_ns;          /* that it is in this phase */
        _Atomic uint64_t body_bytes;        /* seen in this phase */
        uint64_t read_since_ns, read_bytes; /* http_watch.c's own, as are these: */
        struct reg_http_conn *next, **link;
        bool linger;     /* answered early: its end needs care */
        bool is_proxy;   /* its other end is a trusted proxy; valid once `client` is filled */
        bool cert_known; /* cert_name is filled */
        char *cert_name; /* owned; NULL: none that is trusted */
        char client[REG_HTTP_CLIENT_BYTES];    /* address of the other end; "" until asked for */
        char forwarded[REG_HTTP_CLIENT_BYTES]; /* what the proxy says of this request; likewise */
};

struct reg_http_req {
        struct reg_work_item work; /* first */
        struct reg_http_server *server;
        struct MHD_Connection *connection;
        _Atomic unsigned refs; /* the daemon's, and the worker's while `end` runs */
        enum reg_http_stage stage;
        enum reg_http_method method;
        struct reg_uri *uri; /* owned; NULL until the request is begun */
        uint64_t start_ns;

        uint64_t body_bytes; /* announced; UINT64_MAX: chunked */
        uint64_t body_seen_bytes;
        uint64_t discard_bytes; /* what may still be thrown away once it is answered */
        uint64_t body_bytes_max;
        const struct reg_http_body_ops *ops; /* until its free was called */
        void *state;

        void (*defer_fn)(void *arg, struct reg_http_req *req); /* reg_http_defer */
        void *defer_arg;
        enum reg_http_park park; /* guarded by the server's mutex */
        void *context;           /* reg_http_set_context */
        void (*context_free)(void *context);

        bool answered;
        bool queued;             /* the answer is the daemon's */
        bool streamed;           /* `end` has sent its answer on its way before it returned */
        unsigned status;         /* 0 until answered */
        uint64_t body_out_bytes; /* of the answer; of streams, what was sent so far */
        uint64_t acked_bytes;    /* of files: what the other end had taken from us before */
        bool is_file;
        unsigned header_count;
        struct {
                const char *name;
                char *value; /* owned */
        } headers[REG_HTTP_REPLY_HEADERS_MAX];
        struct MHD_Response *response;  /* until it is queued */
        struct reg_http_answer *answer; /* the same, of one made before; owned */
        char target[];                  /* as it was sent */
};

/* http_watch.c; on the connection's event thread */
void reg_watch_phase(struct reg_http_conn *conn, enum reg_http_phase phase);

/* http.c */
struct reg_http_conn *reg_http_conn(const struct reg_http_req *req);
int reg_http_fd(const struct reg_http_req *req);

/* http_reply.c */
/* Takes response, of a body of len bytes, and adds the headers. */
void reg_http_reply_response(struct reg_http_req *req, unsigned status,
                             struct MHD_Response *response, uint64_t len);
/* The answer that is kept: given to the daemon. closing: the connection ends with it. */
enum MHD_Result reg_http_reply_queue(struct reg_http_req *req, bool closing);
/* Bytes of the body that were sent. broken: the connection ended before all were. */
uint64_t reg_http_reply_sent_bytes(const struct reg_http_req *req, bool broken);

/* http_stream.c */
/* Makes every stream of the server fail. */
void reg_http_streams_break(struct reg_http_server *server);

#endif
