/* SPDX-License-Identifier: Apache-2.0 */
/* One exchange of HTTP by libcurl, without repeats: a request that is ready to be sent, and its
 * answer in memory or in a file. Handles (each with its connection) are kept in a pool. */
#ifndef TIERING_S3HTTP_INT_H
#define TIERING_S3HTTP_INT_H

#include <curl/curl.h>
#include <stdatomic.h>

#include "cas/digest.h"
#include "cas/mutex.h"
#include "tiering/s3.h"
#include "tiering/s3sign_int.h"

#define S3_CONNECTIONS_MAX 256
#define S3_CONNECT_TIMEOUT_MS 10000
#define S3_ERROR_BODY_BYTES_MAX ((size_t)65536)
#define S3_ANSWER_HEADERS_MAX 200
#define S3_SLOW_ANSWER_FACTOR 4 /* longer without progress: the store puts parts together */

/* ---- the pool ---- */

struct s3_handles {
        struct cas_mutex mutex; /* guards what follows but `broken` */
        pthread_cond_t changed;
        CURL *idle[S3_CONNECTIONS_MAX]; /* the last one first: its connection is the warmest */
        unsigned idle_count, busy_count, max_count;
        _Atomic bool broken; /* nothing more is to be done */
};
void s3_handles_init(struct s3_handles *h, unsigned max_count);
void s3_handles_release(struct s3_handles *h);
/* What is under way and what waits ends soon. */
void s3_handles_break(struct s3_handles *h);
/* Waits, at most until the handles are broken. False then. */
bool s3_handles_sleep(struct s3_handles *h, unsigned ms);

/* ---- an exchange ---- */

enum s3_sink { S3_SINK_NONE, S3_SINK_BUF, S3_SINK_MEMORY, S3_SINK_FILE };
/* Where the body of a successful answer goes; from its beginning again with each try. */
struct s3_into {
        enum s3_sink kind;
        struct cas_buf *buf; /* BUF: cleared first */
        void *memory;        /* MEMORY: exactly `bytes` */
        int fd;              /* FILE: exactly `bytes`, at `offset` */
        uint64_t offset;
        uint64_t bytes; /* BUF: at most */
};
/* What is sent as body. */
struct s3_from {
        bool there;
        const void *memory; /* or NULL: of fd, from offset */
        int fd;
        uint64_t offset, bytes;
};
struct s3_exchange {
        const char *method, *url;
        const struct s3_pair *headers;
        size_t header_count;
        struct s3_from from;
        struct s3_into into;
        const char *ca_file;
        unsigned timeout_ms; /* without progress */
        bool no_proxy;
};
struct s3_answer {
        unsigned status;
        uint64_t length; /* Content-Length; UINT64_MAX: not said */
        char etag[S3_ETAG_BYTES];
        char region[64], date[64];
        char nonce[64], sha256[CAS_HASH_HEX_BYTES], checksum[64]; /* "" where not said */
        char range[96];                                           /* Content-Range */
        int64_t modified_unix_s;
        unsigned retry_after_s;
        struct cas_buf error; /* body of an answer that is no success */
        uint64_t body_bytes;
        uint64_t sent_bytes, received_bytes; /* for counts */
        bool may_have_arrived;               /* a failure after which the store may have done it */
        bool final;                          /* a failure that will not go away */
};
void s3_answer_release(struct s3_answer *a);
#define s3_cleanup_answer __attribute__((cleanup(s3_answer_release)))

/* Any status is success. Errors: IO, CORRUPT (the body is longer, or shorter, than was said or
 * wanted), LIMIT, DENIED (a certificate), BUSY (broken), NOSPACE. `a` is cleared first. */
int s3_http(struct s3_handles *h, const struct s3_exchange *x, struct s3_answer *a,
            struct cas_err *err) CAS_MUST_CHECK;
/* A small exchange on a connection of its own, by no proxy. Errors: NOTFOUND (status 404), DENIED
 * (401, 403), IO. header may be NULL. */
int s3_http_plain(const char *method, const char *url, const char *header, const char *value,
                  unsigned timeout_ms, size_t max_bytes, struct cas_buf *out,
                  struct cas_err *err) CAS_MUST_CHECK;

uint64_t s3_now_ms(void); /* monotonic */

#endif
