/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the HTTP server share: http.c (requests and the daemon),
 * http_reply.c (answers), http_stream.c (answers written while they are made),
 * http_work.c (threads for `end`), http_linger.c (closing after an early answer). */
#ifndef REG_HTTP_INT_H
#define REG_HTTP_INT_H

#include <microhttpd.h>

#include "cas/mutex.h"
#include "registry/http.h"

#define REG_HTTP_REPLY_HEADERS_MAX 32
/* An unwanted body of up to this is read and thrown away, so that the connection can go on. */
#define REG_HTTP_DISCARD_BYTES_MAX (1024 * 1024)
/* The same for what follows an answer that was given in the middle of a body. */
#define REG_HTTP_DISCARD_REST_BYTES_MAX (256 * 1024 * 1024)
/* A writer of a stream waits while this much is not sent yet. */
#define REG_HTTP_STREAM_BYTES_MAX (256 * 1024)

/* Threads on demand with a queue that requests are linked into: a request is in it once at
 * most, so that it is bounded by the number of connections. */
struct reg_work;
struct reg_work_item {
        struct reg_work_item *next;
        void (*fn)(struct reg_work_item *item);
};
struct reg_work *reg_work_new(unsigned threads_max);
void reg_work_push(struct reg_work *w, struct reg_work_item *item);
/* Runs what is queued, waits for every thread. */
void reg_work_free(struct reg_work *w);

/* Sockets that were answered before their client had sent all: closing them at once would
 * reset the connection, and the client would lose the answer. They are read for a while. */
struct reg_linger;
struct reg_linger *reg_linger_new(void);
/* Takes fd, whose writing side is shut down already. */
void reg_linger_add(struct reg_linger *l, int fd);
void reg_linger_free(struct reg_linger *l);

struct reg_http_server {
        struct reg_http_config config; /* defaults filled in */
        struct MHD_Daemon *daemon;
        int listen_fd;
        unsigned port;
        char *socket_path; /* owned; NULL unless this server made a Unix socket */
        struct reg_work *work;
        struct reg_linger *linger;

        _Atomic bool quiet; /* stop has begun: answers close their connections */

        struct cas_mutex mutex; /* guards all below; taken before a stream's */
        pthread_cond_t change;  /* request_count */
        unsigned request_count;
        bool ended;                      /* the time is over: nothing new is begun */
        struct reg_http_stream *streams; /* those that the daemon still holds */
};

enum reg_http_stage {
        REG_HTTP_NEW,
        REG_HTTP_DEFERRED,  /* suspended: what begin has handed to a worker */
        REG_HTTP_RECEIVING, /* body, if any, is on its way */
        REG_HTTP_WORKING,   /* suspended: `end` has the request */
};

struct reg_http_conn {
        bool linger; /* answered early: its end needs care */
};

struct reg_http_req {
        struct reg_work_item work; /* first */
        struct reg_http_server *server;
        struct MHD_Connection *connection;
        _Atomic unsigned refs; /* the daemon's, and the worker's while `end` runs */
        enum reg_http_stage stage;
        enum reg_http_method method;
        const char *method_text; /* the connection's; in the daemon's calls only */
        struct reg_uri uri;
        unsigned uri_status; /* 0, or what a bad target is answered with */
        uint64_t start_ns;

        uint64_t body_bytes; /* announced; UINT64_MAX: chunked */
        uint64_t body_seen_bytes;
        uint64_t discard_bytes; /* what may still be thrown away once it is answered */
        uint64_t body_bytes_max;
        const struct reg_http_body_ops *ops; /* until its free was called */
        void *state;

        void (*defer_fn)(void *arg, struct reg_http_req *req); /* reg_http_defer */
        void *defer_arg;
        void *context; /* reg_http_set_context */
        void (*context_free)(void *context);

        bool answered;
        bool streamed; /* `end` has sent its answer on its way before it returned */
        unsigned status;
        unsigned header_count;
        struct {
                const char *name;
                char *value; /* owned */
        } headers[REG_HTTP_REPLY_HEADERS_MAX];
        struct MHD_Response *response; /* until it is queued */
};

/* http_reply.c */
/* Takes response, adds the headers. */
void reg_http_reply_response(struct reg_http_req *req, unsigned status,
                             struct MHD_Response *response);

/* http_stream.c */
/* Makes every stream of the server fail. */
void reg_http_streams_break(struct reg_http_server *server);

#endif
