/* SPDX-License-Identifier: Apache-2.0 */
/* AWS Signature Version 4, for services that encode a path once (S3). Values only: no clock, no
 * state, no I/O; thread-safe. */
#ifndef TIERING_S3SIGN_INT_H
#define TIERING_S3SIGN_INT_H

#include "cas/buf.h"
#include "cas/digest.h"

#define S3_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"
#define S3_TIME_BYTES 17 /* 20130524T000000Z, with NUL */
#define S3_PAIRS_MAX 24  /* of a query, or of headers */
#define S3_PRESIGN_S_MAX 604800

/* Borrowed; of headers the name is in small letters, and none comes twice. */
struct s3_pair {
        const char *name, *value;
};
struct s3_signing {
        const char *method;
        const char *path;            /* encoded */
        const struct s3_pair *query; /* not encoded, in any order */
        size_t query_count;
        const struct s3_pair *headers; /* all that are signed, "host" among them, in any order */
        size_t header_count;
        const char *payload; /* hex digest of the body, or S3_UNSIGNED_PAYLOAD */
        const char *time;    /* S3_TIME_BYTES */
        const char *region, *service;
        const char *key_id, *secret;
};

void s3_canonical_request(const struct s3_signing *g, struct cas_buf *out);
void s3_string_to_sign(const struct s3_signing *g, const char *canonical, struct cas_buf *out);
/* out has CAS_HASH_HEX_BYTES. */
void s3_signature(const struct s3_signing *g, const char *string_to_sign, char *out);
/* What the header Authorization says. */
void s3_authorization(const struct s3_signing *g, struct cas_buf *out);
/* The query of a URL that needs no header but those of g->headers, for so many seconds. token: of a
 * session, or NULL. The query's pairs and the added ones together are at most S3_PAIRS_MAX. */
void s3_presigned_query(const struct s3_signing *g, const char *token, unsigned seconds,
                        struct cas_buf *out);

/* Percent-encodes all but letters, digits, '-', '.', '_', '~' (and '/', when it is kept). */
void s3_encode(const char *text, bool keep_slash, struct cas_buf *out);
/* Undoes percent-encoding, in place. False where it is malformed, or holds a NUL. */
bool s3_decode(char *text);
/* name=value&… encoded, in the order that is signed. */
void s3_query_text(const struct s3_pair *query, size_t count, struct cas_buf *out);
/* out has S3_TIME_BYTES. */
void s3_time_text(int64_t unix_s, char *out);

#endif
