/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs: bytes named by an OCI digest. Reading side and upload sessions;
 * cas/publish.h writes. */
#ifndef CAS_BLOB_H
#define CAS_BLOB_H

#include "cas/store.h"

/* Errors: NOTFOUND, also when its file is gone or has another length: whoever brings the blob again
 * heals it (cas/publish.h). out_bytes may be NULL. */
int cas_blob_stat(struct cas_store *s, const struct cas_digest *digest, uint64_t *out_bytes,
                  struct cas_err *err) CAS_MUST_CHECK;
/* A read-only descriptor of the verbatim bytes, fit for sendfile(2), to be closed by the caller. */
int cas_blob_open(struct cas_store *s, const struct cas_digest *digest, int *out_fd,
                  uint64_t *out_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* Whole blob, appended. Errors: LIMIT (> max_bytes), NOTFOUND, CORRUPT (its digest is compared). */
int cas_blob_read(struct cas_store *s, const struct cas_digest *digest, size_t max_bytes,
                  struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
/* Whether the repository may serve it (linked there by upload, mount or import). */
int cas_blob_linked(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                    bool *out, struct cas_err *err) CAS_MUST_CHECK;

/* Upload sessions: bytes that arrive in pieces, kept in STORE/uploads under a
 * random id, surviving a restart (what was received and synced; the length tells). One writer
 * at a time per session: a second one gets BUSY. */
#define CAS_UPLOAD_ID_BYTES 37 /* UUID text with NUL */
struct cas_upload;

int cas_upload_create(struct cas_store *s, const char *repo, char id[CAS_UPLOAD_ID_BYTES],
                      struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND (no such session in this repository), BUSY. */
int cas_upload_open(struct cas_store *s, const char *repo, const char *id, struct cas_upload **out,
                    struct cas_err *err) CAS_MUST_CHECK;
uint64_t cas_upload_bytes(const struct cas_upload *u);
int cas_upload_append(struct cas_upload *u, const void *data, size_t len,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Cuts back to `bytes`: what a failed request added is taken back. */
int cas_upload_truncate(struct cas_upload *u, uint64_t bytes, struct cas_err *err) CAS_MUST_CHECK;
/* What was appended survives a power cut. After an error the session is over, and its file gone:
 * what could not be synced is not to be trusted. */
int cas_upload_sync(struct cas_upload *u, struct cas_err *err) CAS_MUST_CHECK;
/* Ends this writer; the session stays. Syncs, but tells nobody: call cas_upload_sync before a
 * client is told that its bytes were taken. */
void cas_upload_close(struct cas_upload *u);
/* Verifies the whole, publishes it as a blob linked to the repository, ends the
 * session. Errors: INVALID (digest differs; the session stays), NOTFOUND (the session is over).
 * After any other error the session is over: publishing takes the file, and what could not be
 * synced is not to be trusted. Consumes u on success. */
int cas_upload_finish(struct cas_upload *u, const struct cas_digest *expected,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Drops the session. Consumes u on success. */
int cas_upload_cancel(struct cas_upload *u, struct cas_err *err) CAS_MUST_CHECK;
/* Drops sessions that nobody touched for `age_s` seconds. */
int cas_upload_expire(struct cas_store *s, uint64_t age_s, uint64_t *out_count,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
