/* SPDX-License-Identifier: Apache-2.0 */
/* What stores answer in XML, by expat. All of it is hostile: no document types (so no entities of
 * its own), bounded depth, text and size. Values only; thread-safe. */
#ifndef TIERING_S3XML_INT_H
#define TIERING_S3XML_INT_H

#include "tiering/s3.h"

#define S3_XML_BYTES_MAX ((size_t)16 * 1024 * 1024)
#define S3_XML_DEPTH_MAX 8
#define S3_XML_TEXT_BYTES_MAX ((size_t)8192) /* of one element: a key of 1,024 bytes, encoded */
#define S3_XML_ELEMENTS_MAX 200000
#define S3_LISTED_MAX 10000 /* of one page; we ask for 1,000 */

/* <Error>: "" where it was not said. Printable ASCII. */
struct s3_problem {
        char code[64], message[200], region[64];
};
/* Never fails: what is no such document has no code. */
void s3_xml_problem(const void *data, size_t len, struct s3_problem *out);
/* Whether it is an <Error>, which may come with status 200. */
bool s3_xml_is_problem(const void *data, size_t len);

struct s3_listed {
        char *key; /* owned; decoded */
        bool is_prefix;
        struct s3_object object;
};
struct s3_page {
        struct s3_listed *items; /* owned; by key */
        size_t count, alloc_count;
        bool truncated;
        char *token; /* owned; NULL: none */
};
void s3_page_release(struct s3_page *p);
#define s3_cleanup_page __attribute__((cleanup(s3_page_release)))
/* ListObjectsV2. Errors: CORRUPT, LIMIT. */
int s3_xml_page(const void *data, size_t len, struct s3_page *out,
                struct cas_err *err) CAS_MUST_CHECK;

/* An upload in parts that was begun. */
struct s3_upload {
        char *key, *id; /* owned; decoded */
        int64_t begun_unix_s;
};
struct s3_uploads {
        struct s3_upload *items; /* owned */
        size_t count, alloc_count;
        bool truncated;
        char *key_marker, *id_marker; /* owned; NULL: none */
};
void s3_uploads_release(struct s3_uploads *u);
#define s3_cleanup_uploads __attribute__((cleanup(s3_uploads_release)))
int s3_xml_uploads(const void *data, size_t len, struct s3_uploads *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* CreateMultipartUpload: *out is owned. */
int s3_xml_upload_id(const void *data, size_t len, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* CompleteMultipartUpload. Its ETag is not looked at: Ceph 16 leaves it empty. */
int s3_xml_completed(const void *data, size_t len, struct cas_err *err) CAS_MUST_CHECK;

/* 2026-11-21T19:45:10Z, with or without a fraction. False when it is none. */
bool s3_time_parse(const char *text, int64_t *out_unix_s);

#endif
