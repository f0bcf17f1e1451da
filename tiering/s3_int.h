/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the S3 client share: a request is described once, and then signed, sent and
 * repeated by s3_perform() until there is an answer that will not change. */
#ifndef TIERING_S3_INT_H
#define TIERING_S3_INT_H

#include "cas/pool.h"
#include "tiering/s3creds_int.h"
#include "tiering/s3http_int.h"
#include "tiering/s3xml_int.h"

#define S3_KEY_BYTES_MAX 1024
#define S3_SMALL_BYTES_MAX ((size_t)64 * 1024 * 1024)
#define S3_PART_BYTES ((uint64_t)16 * 1024 * 1024)
#define S3_PART_BYTES_MIN ((uint64_t)5 * 1024 * 1024) /* what stores take; the last may be less */
#define S3_PART_BYTES_MAX ((uint64_t)1024 * 1024 * 1024)
#define S3_PARTS_MAX 10000
#define S3_UPLOAD_PAGES_MAX 1000
#define S3_CONNECTIONS 16
#define S3_TIMEOUT_MS 30000
#define S3_TRIES 6
#define S3_TRIES_MAX 100
#define S3_WAIT_FIRST_MS 100
#define S3_WAIT_MAX_MS 20000
#define S3_SKEW_S 60 /* other clocks are wrong by more when it matters */

/* Where requests go. */
struct s3_place {
        char *origin;    /* owned; scheme://host[:port] of the bucket */
        char *host;      /* owned; as the header says it */
        char *base_path; /* owned; "" or "/BUCKET" */
        bool tls;
};
/* Errors: INVALID. */
int s3_place_init(const struct s3_config *config, struct s3_place *out,
                  struct cas_err *err) CAS_MUST_CHECK;
void s3_place_release(struct s3_place *p);

struct s3 {
        struct s3_config config; /* owned copies, with what 0 stands for; fixed */
        struct s3_place place;
        struct s3_credentials *credentials;
        struct s3_handles handles;
        _Atomic int64_t skew_s;   /* of the store's clock: added to ours */
        _Atomic bool bucket_seen; /* it is there: what is not found is an object */
        _Atomic uint64_t requests, failed, retried, slowed, bytes_in, bytes_out;

        struct cas_mutex mutex; /* guards what follows */
        struct s3_abilities abilities;
        struct cas_pool *workers; /* owned; NULL until first needed */
};

struct s3_request {
        const char *method;
        const char *key; /* whole, with the prefix; NULL: the bucket */
        struct s3_pair query[8];
        size_t query_count;
        struct s3_pair headers[12]; /* borrowed values */
        size_t header_count;
        struct s3_from from;
        const struct cas_hash *from_sha256; /* of the body; NULL: is found out */
        struct s3_into into;
        bool whole;           /* of an answer to GET: an object's digest is compared */
        const char *nonce;    /* a conditional write that can be looked up by it; or NULL */
        const char *if_match; /* its condition, as headers have it, too */
        bool slow;            /* the answer may take its time */
        unsigned tries;       /* 0: as configured */
};
void s3_request_query(struct s3_request *r, const char *name, const char *value);
void s3_request_header(struct s3_request *r, const char *name, const char *value);

/* Status 2xx, 304, 404 (of an object), 412, 416: success, look at it. All else becomes an error, in
 * the end: DENIED, BUSY, IO, CORRUPT, LIMIT, INVALID, NOSPACE, EXISTS (409 to the end). */
int s3_perform(struct s3 *s, struct s3_request *r, struct s3_answer *a,
               struct cas_err *err) CAS_MUST_CHECK;
/* What an answer that is none of these says. */
int s3_fail_answer(struct s3 *s, const struct s3_request *r, const struct s3_answer *a,
                   struct cas_err *err);
/* Whether what was written last under the key carries this mark (HEAD). a: of the HEAD. */
int s3_look_up(struct s3 *s, const char *key, const char *nonce, struct s3_answer *a, bool *ours,
               struct cas_err *err) CAS_MUST_CHECK;

/* The whole key, with the prefix; owned. Errors: INVALID, LIMIT. */
int s3_key(const struct s3 *s, const char *key, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* 32 random hex digits. */
#define S3_NONCE_BYTES 33
void s3_nonce(char *out);
/* Base64 of a digest, as the checksum headers have it. */
#define S3_CHECKSUM_BYTES 45
void s3_checksum(const struct cas_hash *hash, char *out);
/* Of `bytes` of fd from offset. Errors: IO, CORRUPT (it is shorter). */
int s3_hash_file(int fd, uint64_t offset, uint64_t bytes, struct cas_hash *out,
                 struct cas_err *err) CAS_MUST_CHECK;
/* Headers that every object is written with: server-side encryption, digest. Memory of the values
 * is the caller's. */
struct s3_write_headers {
        char sha256[CAS_HASH_HEX_BYTES], checksum[S3_CHECKSUM_BYTES], nonce[S3_NONCE_BYTES];
        char etag[S3_ETAG_BYTES];
};
void s3_write_headers(struct s3 *s, struct s3_request *r, const struct cas_hash *sha256,
                      struct s3_write_headers *h);
/* A mark by which a write can be looked up. */
void s3_mark_header(struct s3_request *r, struct s3_write_headers *h);
/* If-Match, as the store takes it. */
void s3_if_match_header(struct s3 *s, struct s3_request *r, const char *etag,
                        struct s3_write_headers *h);
/* Whether there is a condition. */
bool s3_condition_headers(struct s3 *s, struct s3_request *r, const struct s3_condition *condition,
                          struct s3_write_headers *h);
/* The same, and a mark when there is one. */
void s3_marked_condition_headers(struct s3 *s, struct s3_request *r,
                                 const struct s3_condition *condition, struct s3_write_headers *h);
/* How long to wait after so many tries; the store's wish is heard. */
unsigned s3_wait_ms(unsigned tried, unsigned retry_after_s);
/* In parts, however short it is; key: whole, hash: of all. */
int s3_put_parts(struct s3 *s, const char *key, int fd, uint64_t bytes, const struct cas_hash *hash,
                 const struct s3_condition *condition, struct cas_err *err) CAS_MUST_CHECK;
/* into->bytes at offset, into memory or a file; key: whole. whole_bytes: of the object, UINT64_MAX
 * where it is not known. Errors: NOTFOUND, CORRUPT. */
int s3_fetch_range(struct s3 *s, const char *key, uint64_t offset, uint64_t whole_bytes,
                   const struct s3_into *into, struct cas_err *err) CAS_MUST_CHECK;
/* key: whole. One that is gone is success. */
int s3_abort_upload(struct s3 *s, const char *key, const char *id,
                    struct cas_err *err) CAS_MUST_CHECK;
struct s3_abilities s3_known_abilities(struct s3 *s);
struct cas_pool *s3_workers(struct s3 *s);
void s3_object_of(const struct s3_answer *a, uint64_t size_bytes, struct s3_object *out);
/* The error of a write's answer, or 0. Errors: EXISTS … */
int s3_check_written(struct s3 *s, const struct s3_request *r, const struct s3_answer *a,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
