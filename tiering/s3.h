/* SPDX-License-Identifier: Apache-2.0 */
/* A client of S3-compatible stores, by libcurl, signed by ourselves (AWS Signature Version 4).
 * Thread-safe: connections are pooled. Calls block, with time limits, and repeat what may be
 * repeated: connection errors, 500, 502, 503 (SlowDown), 504, 429, with growing, jittered waits.
 * A conditional write whose answer was lost is looked up before it is repeated. Bodies are checked
 * against their digests where the caller has them. Keys are UTF-8 without the prefix of the
 * configuration. */
#ifndef TIERING_S3_H
#define TIERING_S3_H

#include "cas/buf.h"
#include "cas/digest.h"

struct s3;
struct s3_config {
        char *endpoint; /* https://HOST[:PORT]; NULL: AWS's of the region. All owned */
        char *region;   /* NULL: us-east-1 */
        char *bucket, *prefix;
        bool path_style;      /* HOST/BUCKET/KEY instead of BUCKET.HOST/KEY */
        char *ca_file;        /* PEM; NULL: the system's */
        char *sse;            /* NULL, "AES256", "aws:kms" */
        char *sse_kms_key;    /* NULL: the bucket's */
        char *credentials;    /* profile in the shared files; NULL: environment, files, metadata */
        uint64_t part_bytes;  /* of multipart uploads; 0: 16 MiB */
        unsigned connections; /* at a time; 0: 16 */
        unsigned timeout_ms;  /* of a request without progress; 0: 30,000 */
        unsigned tries;       /* 0: 6 */
};

/* Asks nobody yet. Errors: INVALID. */
int s3_open(const struct s3_config *config, struct s3 **out, struct cas_err *err) CAS_MUST_CHECK;
/* No call may be under way. */
void s3_close(struct s3 *s);
CAS_DEFINE_CLEANUP(s3_cleanup_client_, struct s3 *, s3_close);
#define s3_cleanup_client __attribute__((cleanup(s3_cleanup_client_)))
/* What is under way and all that comes fails soon, with BUSY. Does not wait. */
void s3_break(struct s3 *s);
void s3_config_release(struct s3_config *config);
void s3_config_copy(const struct s3_config *from, struct s3_config *out);

#define S3_ETAG_BYTES 136
struct s3_object {
        char etag[S3_ETAG_BYTES]; /* with its quotes */
        uint64_t size_bytes;
        int64_t modified_unix_s;
};
/* What a write asks for. Both not set: no condition. A write whose answer is lost is told from
 * another's by a mark that it carries; where another one has replaced it before it could be looked
 * up, EXISTS is answered though it had been done. */
struct s3_condition {
        const char *if_match; /* an ETag: only in place of that one */
        bool if_absent;       /* If-None-Match: * */
};
/* Errors of all calls: DENIED (keys, rights, a certificate), BUSY (SlowDown to the end, or
 * s3_break), INVALID (a key; another region than that of the bucket, which is named), NOSPACE
 * (quotas), IO (all else, to the end; no such bucket). */
/* Small objects (up to 64 MiB), whole. The digest goes along, and is compared when the object is
 * read whole. Errors: NOTFOUND, EXISTS (a condition did not hold: 412, or 409 after tries; if_match
 * and there is none), CORRUPT (other bytes than were put, after tries), LIMIT. out may be NULL. */
int s3_put(struct s3 *s, const char *key, const void *data, size_t len,
           const struct s3_condition *condition, struct s3_object *out,
           struct cas_err *err) CAS_MUST_CHECK;
int s3_get(struct s3 *s, const char *key, size_t max_bytes, struct cas_buf *out,
           struct s3_object *object, struct cas_err *err) CAS_MUST_CHECK;
/* The same, unless its ETag is still `etag`: *changed false then. */
int s3_get_changed(struct s3 *s, const char *key, const char *etag, size_t max_bytes,
                   struct cas_buf *out, struct s3_object *object, bool *changed,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Exactly len bytes at offset. Errors: CORRUPT (short, or not the range that was asked for). */
int s3_get_range(struct s3 *s, const char *key, uint64_t offset, void *out, size_t len,
                 struct cas_err *err) CAS_MUST_CHECK;
int s3_head(struct s3 *s, const char *key, struct s3_object *out,
            struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. if_match may be NULL; where the store is not known to do conditional deletes
 * (s3_probe, s3_set_abilities): UNSUPPORTED. Errors: EXISTS (it is another one by now). */
int s3_delete(struct s3 *s, const char *key, const char *if_match,
              struct cas_err *err) CAS_MUST_CHECK;
/* A file of any length: `bytes` of fd from its beginning, in parallel parts where it is long. What
 * is sent is what sha256 says, when it is given; it is kept with the object. Errors: CORRUPT (the
 * file has another digest: nothing is put), EXISTS. */
int s3_put_file(struct s3 *s, const char *key, int fd, uint64_t bytes,
                const struct cas_digest *sha256, const struct s3_condition *condition,
                struct cas_err *err) CAS_MUST_CHECK;
/* Whole object to the beginning of fd, in parallel ranges where it is long; the digest is compared
 * when it is given. Errors: CORRUPT. */
int s3_get_file(struct s3 *s, const char *key, int fd, uint64_t bytes,
                const struct cas_digest *sha256, struct cas_err *err) CAS_MUST_CHECK;
/* Keys that begin with prefix, in order, behind `after` (may be NULL), until fn returns other than
 * 0 (1 ends with success, -code is returned). With a delimiter (0: none) common prefixes are told
 * once, with object NULL. */
int s3_list(struct s3 *s, const char *prefix, const char *after, char delimiter,
            int (*fn)(void *arg, const char *key, const struct s3_object *object,
                      struct cas_err *err),
            void *arg, struct cas_err *err) CAS_MUST_CHECK;

/* What the store honours, tried out on objects of our own: each must hold for what needs it. */
struct s3_abilities {
        bool if_absent, if_match;                     /* on PutObject */
        bool multipart_if_absent, conditional_delete; /* on CompleteMultipartUpload, DeleteObject */
        bool checksums; /* x-amz-checksum-sha256 is kept and checked */
        bool ranges;
        bool list_after_write;
        bool bare_etags; /* If-Match holds for ETags without their quotes (Ceph 16): sent so */
};
int s3_probe(struct s3 *s, struct s3_abilities *out, struct cas_err *err) CAS_MUST_CHECK;
/* What an earlier probe found. */
void s3_set_abilities(struct s3 *s, const struct s3_abilities *abilities);

/* A URL by which anybody can read (GET, HEAD) or write (PUT) the object for so many seconds (a week
 * at most): a secret until then. Owned by the caller. Asks nobody. */
int s3_presign(struct s3 *s, const char *method, const char *key, unsigned seconds, char **out,
               struct cas_err *err) CAS_MUST_CHECK;

/* Aborts uploads in parts of keys with this prefix that were begun at least so long ago by the
 * store's clock, and says how many (NULL: nobody asks). */
int s3_abort_uploads(struct s3 *s, const char *prefix, unsigned older_s, unsigned *out_count,
                     struct cas_err *err) CAS_MUST_CHECK;

/* For metrics. */
struct s3_counts {
        uint64_t requests, failed, retried, slowed; /* slowed: 503 SlowDown and 429 */
        uint64_t bytes_in, bytes_out;
};
void s3_counts(struct s3 *s, struct s3_counts *out);

#endif
