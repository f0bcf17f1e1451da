/* SPDX-License-Identifier: Apache-2.0 */
/* Who we are to a store: keys from the environment, from the shared files of AWS's tools, from the
 * metadata service of a container or a machine; the latter are fetched again before they expire.
 * Secrets are never part of an error or a log line. */
#ifndef TIERING_S3CREDS_INT_H
#define TIERING_S3CREDS_INT_H

#include "cas/buf.h"

#define S3_SECRET_BYTES_MAX 8192              /* of one value: tokens of sessions are long */
#define S3_PROFILE_BYTES_MAX ((size_t)262144) /* of a shared file */
#define S3_METADATA_BYTES_MAX ((size_t)65536)

struct s3_secret {
        char *key_id, *secret;  /* owned */
        char *token;            /* owned; NULL: none */
        int64_t expires_unix_s; /* 0: never */
};
void s3_secret_release(struct s3_secret *s);
#define s3_cleanup_secret __attribute__((cleanup(s3_secret_release)))

struct s3_credentials;
/* profile: of the shared files, and nothing but those; NULL: environment, files, metadata. */
struct s3_credentials *s3_credentials_new(const char *profile);
void s3_credentials_free(struct s3_credentials *c);
/* A copy of what is valid now. Thread-safe; may ask the metadata service. Errors: DENIED (there are
 * none anywhere), INVALID (a file), IO. */
int s3_credentials_get(struct s3_credentials *c, struct s3_secret *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* The store does not know them (any more): they are looked for again. */
void s3_credentials_refused(struct s3_credentials *c, const char *key_id);

/* Sections are [NAME], in a configuration file [profile NAME] (but for [default]). Errors: NOTFOUND
 * (no such section, or no keys in it), INVALID. */
int s3_profile_parse(const void *data, size_t len, const char *profile, bool config_file,
                     struct s3_secret *out, struct cas_err *err) CAS_MUST_CHECK;
/* What metadata services answer. Errors: INVALID, LIMIT. */
int s3_metadata_parse(const void *data, size_t len, struct s3_secret *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Whether keys may be asked for there: https, or this machine or its link by number. */
bool s3_metadata_url_allowed(const char *url);

#endif
