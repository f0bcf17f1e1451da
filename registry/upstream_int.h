/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the pull-through share: upstream.c (which registry, what
 * is fresh, when not to ask), upstreamflight.c (one request for many clients),
 * upstreamfetch.c (what a flight does), upstreamblob.c (blobs served while they
 * come), upstreamserve.c (clients).
 *
 * Locks: reg_upstreams.mutex guards flights, waiters and what is known of tags;
 * a blob flight's own mutex guards its bytes and readers. Neither is held around
 * a call of cas or of the HTTP client; the streams of the HTTP server are woken
 * under a blob flight's. */
#ifndef REG_UPSTREAM_INT_H
#define REG_UPSTREAM_INT_H

#include "cas/map.h"
#include "cas/mutex.h"
#include "registry/metrics.h"
#include "registry/remote.h"
#include "registry/upstream.h"
#include "registry/upstream_config.h"
#include "registry/work_int.h"

#define REG_FLIGHTS_MAX 64            /* under way at a time; more wait */
#define REG_UPSTREAM_KNOWN_MAX 100000 /* tags whose freshness is remembered */
#define REG_UPSTREAM_PAUSE_S 5        /* after a failure without Retry-After */
#define REG_UPSTREAM_PAUSE_MAX_S 3600
#define REG_UPSTREAM_LIST_BYTES_MAX (4 * CAS_MIB)

struct reg_upstream {
        struct reg_upstreams *set;
        const struct reg_upstream_config *config;
        bool shared;               /* not a registry: what the nodes share (upstreamshared.c) */
        const char *prefix;        /* of local repositories; "" for all */
        struct reg_httpc *http;    /* made at the first use, with remote */
        struct reg_remote *remote; /* … and NULL before */
        uint64_t not_before_s;     /* the registry is left alone until then */
        bool paused_by_limit;      /* it said that it was asked too often */
};

struct reg_upstreams {
        struct cas_store *store;
        struct reg_metrics *metrics;
        struct reg_work *work;
        uint64_t start_s;
        size_t count;
        struct reg_upstream *list;
        struct reg_upstream_config shared; /* of the one that is shared */
        char shared_name[16];
        struct cas_mutex mutex; /* guards all below, and the changing parts of the list */
        bool stopping;
        struct cas_map *known;      /* "repo\ntag" -> when it was asked for, see upstream.c */
        struct reg_flight *flights; /* all that are under way */
        struct cas_map *joinable;   /* key -> flight: those of them that can be joined */
};

/* upstream.c */
enum reg_fresh {
        REG_FRESH_NOT,  /* ask */
        REG_FRESH_HERE, /* what is here is what there is */
        REG_FRESH_NONE, /* there was none a moment ago */
};
enum reg_fresh reg_upstream_fresh(struct reg_upstream *up, const char *repo, const char *ref);
void reg_upstream_note(struct reg_upstream *up, const char *repo, const char *ref, bool there);
uint64_t reg_upstream_now_s(void);
/* The same of what was so at that time. */
void reg_upstream_note_at(struct reg_upstream *up, const char *repo, const char *ref, bool there,
                          uint64_t since_s);
/* Whether what is here may stand in for a failing upstream. */
bool reg_upstream_stale_ok(struct reg_upstream *up, const char *repo, const char *ref);
/* The registry, when it may be asked now. Errors: BUSY (left alone: failure says for how long),
 * or what opening it met. */
int reg_upstream_remote(struct reg_upstream *up, struct reg_remote **out,
                        struct reg_remote_failure *failure, struct cas_err *err) CAS_MUST_CHECK;
/* A request failed: the registry is left alone for a while, as it says or as the failure suggests.
 */
void reg_upstream_failed(struct reg_upstream *up, const struct reg_remote_failure *failure);

bool reg_upstream_is_paused(struct reg_upstream *up);

/* upstreamflight.c */
enum reg_flight_kind {
        REG_FLIGHT_MANIFEST,
        REG_FLIGHT_BLOB,
        REG_FLIGHT_BLOB_HEAD,
        REG_FLIGHT_LIST,
};
enum reg_flight_state {
        REG_FLIGHT_RUNNING,
        REG_FLIGHT_ARRIVING, /* a blob whose length is known */
        REG_FLIGHT_DONE,
};

struct reg_blob_reader;
struct reg_flight {
        struct reg_work_item work; /* first */
        struct reg_upstream *up;
        enum reg_flight_kind kind;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];   /* here */
        char remote[CAS_REPO_NAME_BYTES_MAX + 1]; /* there */
        char *what;   /* owned: tag, digest, or a list's path and query */
        char *key;    /* owned: what makes it the same flight */
        bool ns_used; /* LIST: names are those that are used there */

        /* guarded by the set's mutex */
        unsigned refs;
        enum reg_flight_state state;
        struct reg_waiter *waiters;
        struct reg_flight *next, **link;

        /* set before DONE, by the flight alone */
        int rc;
        struct cas_err err;
        struct reg_remote_failure failure;
        bool stale;          /* failed, but what is here will do */
        struct cas_buf body; /* LIST: as clients get it */
        char *next_link;     /* LIST: owned; their Link, or NULL */

        /* set before ARRIVING */
        uint64_t total_bytes; /* BLOB, BLOB_HEAD */
        int fd;               /* BLOB: what has come, to be read */

        struct cas_mutex mutex; /* guards all below */
        uint64_t bytes;         /* come */
        bool ended, broken;
        struct reg_blob_reader *readers;
};

/* A client that waits. */
struct reg_waiter {
        struct reg_waiter *next;
        struct reg_flight *flight; /* a reference */
        struct reg_call call;
        reg_handler local;
        bool ns_used;
};
/* Joins the flight for this, or starts it; the request is parked, and `resume` goes on with the
 * waiter, which it frees, once the flight has arrived. False: all stops, nothing was done. */
bool reg_flight_join(struct reg_upstream *up, enum reg_flight_kind kind, const char *what,
                     struct reg_waiter *waiter,
                     void (*resume)(void *waiter, struct reg_http_req *req));
void reg_flight_unref(struct reg_flight *f);
/* Called by a flight that has failed, before anybody is told: who comes now starts another. */
void reg_flight_close(struct reg_flight *f);
/* Called by the flight: wakes the clients. */
void reg_flight_arrive(struct reg_flight *f, enum reg_flight_state state);

/* upstreamfetch.c: what a flight does; on a worker's thread. */
void reg_flight_run(struct reg_flight *f);

/* upstreamshared.c */
void reg_flight_run_shared(struct reg_flight *f);
void reg_shared_list(const struct reg_call *call, reg_handler local);

/* upstreamblob.c */
/* More has come, or the end: readers go on. */
void reg_flight_blob_more(struct reg_flight *f, uint64_t bytes);
void reg_flight_blob_end(struct reg_flight *f, bool broken);
/* Answers with `bytes` of the blob from `first` on, as they come; the last byte of all leaves only
 * when the digest was compared. Takes a reference of its own. */
void reg_flight_blob_reply(struct reg_flight *f, struct reg_http_req *req, unsigned status,
                           uint64_t first, uint64_t bytes);

#endif
