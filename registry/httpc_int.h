/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the HTTP client share: one exchange (a request and its
 * answer, without redirects), and the thread that libcurl works on.
 *
 * A handle of libcurl is its maker's until the exchange is started, then the
 * thread's until the exchange is done. Lock order: reg_httpc.mutex, then
 * reg_httpc_transfer.mutex; callers ask for work (exchange_ask) holding neither. */
#ifndef REG_HTTPC_INT_H
#define REG_HTTPC_INT_H

#include <curl/curl.h>

#include "cas/mutex.h"
#include "registry/httpc.h"

#define REG_HTTPC_RING_BYTES ((size_t)256 * 1024) /* of an answer, read ahead; of a body, too */
#define REG_HTTPC_PIECE_BYTES ((size_t)64 * 1024) /* asked of a body's source at a time */
#define REG_HTTPC_HEAD_BYTES_MAX ((size_t)128 * 1024)
#define REG_HTTPC_URL_BYTES_MAX ((size_t)64 * 1024)
#define REG_HTTPC_REDIRECTS_MAX 5

/* Bytes between two threads; the memory comes with the first of them. */
struct httpc_ring {
        uint8_t *data; /* owned; REG_HTTPC_RING_BYTES */
        size_t at, have;
};
static inline size_t httpc_ring_room(const struct httpc_ring *r)
{
        return REG_HTTPC_RING_BYTES - r->have;
}
/* len fits (asserted). */
void httpc_ring_put(struct httpc_ring *r, const void *data, size_t len);
size_t httpc_ring_take(struct httpc_ring *r, void *buf, size_t len);

/* What the thread is asked to do with an exchange: bits. */
enum httpc_ask {
        HTTPC_START = 1,  /* take the handle */
        HTTPC_RESUME = 2, /* there is room, or there are bytes, again */
        HTTPC_END = 4,    /* break it off */
};

/* Where requests go, and how many are open there. */
struct httpc_host {
        struct httpc_host *next;
        char *name; /* owned; "scheme://host:port" */
        unsigned open_count;
};

struct reg_httpc_transfer {
        struct reg_httpc *c;     /* borrowed */
        CURL *easy;              /* owned */
        struct curl_slist *sent; /* owned; headers of the request */
        char *url;               /* owned */
        char why[CURL_ERROR_SIZE];
        struct httpc_host *host; /* whose slot it has */
        bool answer_is_slow;     /* a method whose answer may take its time */
        bool from_elsewhere;     /* it must not connect to this machine */

        /* the thread's */
        struct reg_httpc_transfer *active_next, *active_prev;
        uint64_t moved_at_ns;

        /* guarded by reg_httpc.mutex */
        struct reg_httpc_transfer *asked_next;
        unsigned asked; /* enum httpc_ask */
        bool asked_listed;

        struct cas_mutex mutex; /* guards what follows */
        pthread_cond_t changed;
        struct cas_buf head; /* lines, each with a NUL; fixed once head_done */
        unsigned status;
        uint64_t length;
        bool head_done, head_too_long;
        bool was_near; /* who answered is this machine, or on its link */
        bool done;     /* the thread has let go of it */
        bool idle;     /* ended because nothing moved */
        CURLcode result;
        struct httpc_ring in;
        bool in_paused;

        /* A body of bytes, or pieces of a source by way of `out`. */
        const uint8_t *body;      /* borrowed */
        uint64_t body_bytes;      /* UINT64_MAX: none */
        uint64_t body_sent;       /* of bytes; taken by libcurl */
        uint64_t body_offset;     /* of a source: read so far */
        unsigned body_generation; /* counts how often it began again */
        struct httpc_ring out;
        bool out_paused, out_ended;
};

struct reg_httpc {
        struct reg_httpc_config config; /* strings are owned copies */
        CURLM *multi;
        pthread_t thread;
        struct reg_httpc_transfer *active; /* the thread's */

        struct cas_mutex mutex; /* guards what follows */
        pthread_cond_t slot_free;
        struct httpc_host *hosts; /* owned */
        unsigned open_count;
        struct reg_httpc_transfer *asked, *asked_last; /* who waits for the thread */
        bool stopping;
        bool broken; /* reg_httpc_break */
};

uint64_t httpc_now_ns(void);
/* Asks the thread for something. Takes reg_httpc.mutex. */
void httpc_ask(struct reg_httpc_transfer *x, unsigned what);
/* The thread; arg is the client. */
void *httpc_thread(void *arg);

/* libcurl's callbacks, on the thread; arg is the transfer. */
size_t httpc_on_header(char *line, size_t size, size_t count, void *arg);
size_t httpc_on_data(char *data, size_t size, size_t count, void *arg);
size_t httpc_on_send(char *buf, size_t size, size_t count, void *arg);
int httpc_on_rewind(void *arg, curl_off_t offset, int origin);

/* httpc_url.c. URLs that are http or https, without user and fragment, normal. `relative` (may be
 * NULL) is taken from `base`. *origin: "scheme://host:port". Both owned by the caller. Errors:
 * INVALID, LIMIT. */
int httpc_url(const char *base, const char *relative, char **url, char **origin,
              struct cas_err *err) CAS_MUST_CHECK;
/* The same without its query, which may hold what nobody else should read. Owned by the caller. */
char *httpc_url_shown(const char *url);
/* "host" or "host:port" of an origin, the port only when it is not the scheme's. Owned. */
char *httpc_origin_host(const char *origin);
/* Whether the name or address can only be this machine, or its link. */
bool httpc_host_is_near(const char *host);
/* The same of what a name has turned out to mean. */
bool httpc_address_is_near(const struct sockaddr *address);
/* Whether a redirect may be followed: http(s), never from https to http, and never from elsewhere
 * to this machine. Errors: DENIED. */
int httpc_redirect_allowed(const char *from_origin, const char *to_origin,
                           struct cas_err *err) CAS_MUST_CHECK;

#endif
