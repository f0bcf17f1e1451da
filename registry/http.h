/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server seam: HTTP/1.1 over TCP or a Unix socket. What implements it
 * (http.c over libmicrohttpd) can be replaced without touching a handler.
 *
 * Calling sequence, for each request:
 *
 *   begin   once, when the headers are here, on an event thread. It answers
 *           (reg_http_reply_*: what is sent of a body is then thrown away), or
 *           calls reg_http_accept() to take the body and the rest of the work.
 *   piece   for each piece of the body, on an event thread; the client is read
 *           no faster than piece returns. It may answer: then it is not called again.
 *   end     once, when the whole body was seen and nothing answered yet, on a
 *           thread of the worker pool. It answers before it returns.
 *   free    once, whatever happened: after end, after an answer given by
 *           begin or piece, or because the client went away in the middle of its body
 *           (then end was not called). Gives back what the state holds.
 *           Always before the client can see the answer, but for streams.
 *
 * Threads. Event threads serve many connections each: begin and piece may do
 * short disk work, no more. end may block for as long as it likes. A request is
 * used by one thread at a time; only a stream may be handed to another.
 *
 * Ownership. A request is valid in these calls only; strings it gives are
 * borrowed for as long. Each request is answered exactly once (asserted). */
#ifndef REG_HTTP_H
#define REG_HTTP_H

#include "cas/buf.h"
#include "registry/http_uri.h"

struct reg_http_server;
struct reg_http_req;
struct reg_http_stream;
struct reg_http_answer;

/* TLS by certificate files (PEM), read again by reg_http_tls_reload. */
struct reg_http_tls {
        const char *cert_path, *key_path; /* the chain, and its key */
        const char *client_ca_path;       /* certificates of clients are asked for; NULL: are not */
        bool client_required;             /* connections without one are refused */
};

/* A request that is over: for logs and metrics. Borrowed for the call. out_bytes of an answer that
 * is not whole is what the client has acknowledged of a file, within its headers' length. */
struct reg_http_done {
        const char *method;          /* "?" when it is none that is known */
        const char *target;          /* as sent; "" when it could not be read */
        const char *client;          /* address, reg_http_client */
        const char *agent, *referer; /* "" when not sent */
        void *context;               /* reg_http_set_context; NULL */
        unsigned status;             /* 0: no answer of ours: what came was no HTTP, or broke off */
        bool whole;                  /* the answer was sent to its end */
        uint64_t in_bytes, out_bytes; /* of bodies */
        uint64_t duration_ns;         /* from the request's first line to the end of its answer */
};

struct reg_http_config {
        /* "ADDR:PORT", "[V6]:PORT" (port 0: any), or the absolute path of a Unix socket, where a
         * socket that nobody answers on is replaced. NULL: listen_fd. */
        const char *listen;
        int listen_fd;        /* a listening stream socket, taken over on success */
        unsigned socket_mode; /* of a Unix socket's file; 0: 0600 */
        unsigned threads;     /* event threads; 0: one per CPU, at least 2 */
        unsigned workers_max; /* threads that run `end`, started when wanted; 0: 64 */
        /* From 80 percent of it on, connections without a request are closed; beyond it, clients
         * wait to be accepted. 0: 16384. At most a third of RLIMIT_NOFILE. */
        unsigned connections_max;
        unsigned idle_s; /* a connection with no traffic or request for as long is closed; 0: 120 */
        unsigned header_s; /* from the target to the end of the headers, at most; 0: 30 */
        /* Bytes a second that bodies, and answers that wait to be taken, must keep up on average
         * after header_s; 0: 512. */
        unsigned rate_min;
        const char *name; /* event word of the access log lines; static storage */
        void (*begin)(void *arg, struct reg_http_req *req);
        /* Asked before begin, and before the target is even parsed: it answers at once, from
         * memory, or does nothing. May be NULL. */
        void (*ready)(void *arg, struct reg_http_req *req);
        /* Answers a request whose target or body length makes no sense, in the protocol's own
         * words; begin is not called. NULL: the status alone. */
        void (*refuse)(void *arg, struct reg_http_req *req, unsigned status, const char *why);
        /* Told of each request when all is over, on any thread; must not block. May be NULL. */
        void (*done)(void *arg, const struct reg_http_done *done);
        void *arg;
        const struct reg_http_tls *tls; /* NULL: plain. Borrowed during start */
        /* Networks ("10.0.0.0/8, ::1/128, unix") of proxies whose X-Forwarded-For (client) and
         * X-Forwarded-Proto are believed; NULL: none. Borrowed during start */
        const char *trusted_proxies;
};

/* Listens and serves until stop. Errors: INVALID (address), BUSY (address in use), DENIED, IO. */
int reg_http_start(const struct reg_http_config *config, struct reg_http_server **out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* The TCP port, 0 for a Unix socket. */
unsigned reg_http_port(const struct reg_http_server *server);
/* Reads the certificates again: connections from now on use them, those that are open go on.
 * Errors: INVALID, NOTFOUND, IO; the former stay in force then. */
int reg_http_tls_reload(struct reg_http_server *server, struct cas_err *err) CAS_MUST_CHECK;
/* Listens no more; requests under way are finished, for at most wait_ms; then connections are
 * closed and streams fail. Returns when every `end` has returned. */
void reg_http_stop(struct reg_http_server *server, unsigned wait_ms);

/* The request. */

enum reg_http_method {
        REG_HTTP_GET,
        REG_HTTP_HEAD,
        REG_HTTP_POST,
        REG_HTTP_PUT,
        REG_HTTP_PATCH,
        REG_HTTP_DELETE,
        REG_HTTP_OTHER,
};
enum reg_http_method reg_http_method(const struct reg_http_req *req);
/* As it was sent, not checked. */
const char *reg_http_target(const struct reg_http_req *req);
/* What a client has sent, for a line of the log: cut, and nothing in it ends the text or speaks to
 * a terminal. */
#define REG_HTTP_LOG_TEXT_BYTES 513
const char *reg_http_log_text(const char *text, char out[REG_HTTP_LOG_TEXT_BYTES]);
/* Path and query, split and percent-decoded. Never NULL: what cannot be parsed is refused with
 * 400 or 414 before begin is called (and is empty in `refuse`). Not in `ready`. */
const struct reg_uri *reg_http_uri(const struct reg_http_req *req);
/* The first header of this name (any case), or NULL. Of what was sent twice, see header_each. */
const char *reg_http_header(const struct reg_http_req *req, const char *name);
/* Every header of this name, in the order they came, until fn returns false. */
void reg_http_header_each(const struct reg_http_req *req, const char *name,
                          bool (*fn)(void *arg, const char *value), void *arg);
/* Whether a body follows. *out_bytes (may be NULL): its length, or UINT64_MAX when it is chunked
 * and so unknown; 0 when there is none. */
bool reg_http_body(const struct reg_http_req *req, uint64_t *out_bytes);
/* Who is at the other end of a Unix socket. False on TCP. */
bool reg_http_peer_uid(const struct reg_http_req *req, uid_t *out);

/* Who asks: the address of the other end, or what a trusted proxy says; "unix" on a Unix socket.
 * Valid as long as the request. */
const char *reg_http_client(const struct reg_http_req *req);
/* Whether the client sees https: TLS here, or a trusted proxy says so. */
bool reg_http_is_https(const struct reg_http_req *req);
/* The common name of the client's certificate, which a trusted authority has signed, or NULL. */
const char *reg_http_client_cert_name(const struct reg_http_req *req);
/* Something of the caller's that lives as long as the request, set at most once (asserted), from
 * begin; free_fn (may be NULL) is called when all is over, after `done`. */
void reg_http_set_context(struct reg_http_req *req, void *context, void (*free_fn)(void *context));
/* From begin, which may not use the request afterwards: fn goes on in its place, on a thread of the
 * worker pool, where it may block; it answers or accepts a body, as begin would. No byte of the
 * body is read before. */
void reg_http_defer(struct reg_http_req *req, void (*fn)(void *arg, struct reg_http_req *req),
                    void *arg);

/* The same, but fn waits for reg_http_unpark: no thread is taken meanwhile. Unpark is called
 * exactly once, from any thread, even before begin has returned; and for all that are parked before
 * reg_http_stop is called. */
void reg_http_park(struct reg_http_req *req, void (*fn)(void *arg, struct reg_http_req *req),
                   void *arg);
void reg_http_unpark(struct reg_http_req *req);

struct reg_http_body_ops {
        uint64_t bytes_max; /* a longer body is answered by too_long */
        /* May be NULL: a body is then an error of the client, but for an empty one. */
        void (*piece)(struct reg_http_req *req, void *state, const void *data, size_t len);
        void (*end)(struct reg_http_req *req, void *state);
        void (*free)(void *state);                               /* may be NULL */
        void (*too_long)(struct reg_http_req *req, void *state); /* NULL: 413, no text */
};
/* From begin. ops has static storage; state is handed to each of its functions. */
void reg_http_accept(struct reg_http_req *req, const struct reg_http_body_ops *ops, void *state);
/* The same for bodies that are wanted in memory: `end` gets the whole; body is borrowed. */
struct reg_http_whole_ops {
        size_t bytes_max;
        void (*end)(struct reg_http_req *req, void *state, const struct cas_buf *body);
        void (*free)(void *state);
        void (*too_long)(struct reg_http_req *req, void *state);
};
void reg_http_accept_whole(struct reg_http_req *req, const struct reg_http_whole_ops *ops,
                           void *state);

/* The answer. Headers first. Names are static storage; values are copied, and must be of one
 * line (a control character in a value drops the header). */
void reg_http_reply_header(struct reg_http_req *req, const char *name, const char *value);
void reg_http_reply_headerf(struct reg_http_req *req, const char *name, const char *fmt, ...)
        CAS_PRINTF(3, 4);
/* Content-Length is set by all of these but the stream, and none sends a body to HEAD. */
void reg_http_reply_empty(struct reg_http_req *req, unsigned status);
/* Copies. */
void reg_http_reply_bytes(struct reg_http_req *req, unsigned status, const void *data, size_t len);
/* Takes the buffer's memory; *body is empty then. */
void reg_http_reply_buf(struct reg_http_req *req, unsigned status, struct cas_buf *body);
/* len bytes of a file from offset, by sendfile. Takes fd. */
void reg_http_reply_fd(struct reg_http_req *req, unsigned status, int fd, uint64_t offset,
                       uint64_t len);
/* An answer of len bytes that an event thread reads from `source` as the client takes them. read
 * does not wait: *out_len 0 means that `wake` will be called, once, when there is more. An error
 * cuts the connection. free is called once, and ends all calls of `wake`. len is above 0. */
struct reg_http_source_ops {
        int (*read)(void *source, void *buf, size_t len, size_t *out_len, void (*wake)(void *arg),
                    void *arg, struct cas_err *err);
        void (*free)(void *source);
};
void reg_http_reply_source(struct reg_http_req *req, unsigned status, uint64_t len,
                           const struct reg_http_source_ops *ops, void *source);
/* The headers of an answer of len bytes, for HEAD and 304. */
void reg_http_reply_head(struct reg_http_req *req, unsigned status, uint64_t len);

/* An answer made once and sent to many: status, headers and body, immutable. Refcounted and
 * thread-safe. The body is copied. */
struct reg_http_header {
        const char *name, *value;
};
struct reg_http_answer *reg_http_answer_new(unsigned status, const struct reg_http_header *headers,
                                            size_t count, const void *body, size_t len);
struct reg_http_answer *reg_http_answer_ref(struct reg_http_answer *a);
void reg_http_answer_unref(struct reg_http_answer *a); /* NULL is nothing */
/* Answers with it, and with nothing else: no header may have been set. To HEAD without the body. */
void reg_http_reply_answer(struct reg_http_req *req, struct reg_http_answer *a);

/* Answers with the headers that were set and a copy of the body, and gives what may be sent again
 * to others. data NULL: only the headers of an answer of len bytes, for 304. */
struct reg_http_answer *reg_http_reply_kept(struct reg_http_req *req, unsigned status,
                                            const void *data, size_t len);

/* An answer that is written while it is made: status and headers leave at once, the bytes as
 * they are written. From begin, piece or end, which may not use the request after it; the stream
 * may be used by any one thread at a time, also after end has returned, and must be closed. */
struct reg_http_stream *reg_http_reply_stream(struct reg_http_req *req, unsigned status);
/* Blocks while much is waiting to be sent. Errors: IO (the client is gone, or the server stops:
 * the writer should end what it does). Not on an event thread. */
int reg_http_stream_write(struct reg_http_stream *stream, const void *data, size_t len,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Ends the answer and frees the stream. broken: the connection is cut, so that the client
 * sees that the answer is not whole. */
void reg_http_stream_close(struct reg_http_stream *stream, bool broken);

#endif
