/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs: bytes named by an OCI digest. Reading side and upload sessions;
 * cas/publish.h writes. */
#ifndef CAS_BLOB_H
#define CAS_BLOB_H

#include "cas/store.h"

/* What a store has of a blob. Numbers are in the index. */
enum cas_blob_copy {
        CAS_BLOB_VERBATIM = 0, /* its bytes, and nothing else to make them from */
        CAS_BLOB_CACHED = 1,   /* its bytes, and a proved recipe: the file may go at any time */
        CAS_BLOB_CONDENSED = 2 /* a proved recipe (cas/condense.h) and no file */
};

/* Errors: NOTFOUND, also when its bytes are gone (a file that should be there is not, or has
 * another length; a recipe is not proved any more): whoever brings the blob again heals it
 * (cas/publish.h). out_bytes may be NULL. */
int cas_blob_stat(struct cas_store *s, const struct cas_digest *digest, uint64_t *out_bytes,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Which of them. Errors: NOTFOUND (there is no such blob; its bytes are not looked for). */
int cas_blob_copy(struct cas_store *s, const struct cas_digest *digest, enum cas_blob_copy *out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* When it was published last, in Unix time. Errors: NOTFOUND. */
int cas_blob_added(struct cas_store *s, const struct cas_digest *digest, uint64_t *out_unix_s,
                   struct cas_err *err) CAS_MUST_CHECK;
/* A read-only descriptor of the verbatim bytes, fit for sendfile(2), to be closed by the caller.
 * Errors: UNSUPPORTED when the blob is condensed and has no copy: it is there, but has to be made
 * again from its recipe (cas/regen.h); NOTFOUND; CORRUPT (its file is gone). */
int cas_blob_open(struct cas_store *s, const struct cas_digest *digest, int *out_fd,
                  uint64_t *out_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* Whole blob, appended: of manifests and configs, which are never condensed. Errors: LIMIT (>
 * max_bytes), NOTFOUND, CORRUPT (its digest is compared), UNSUPPORTED (as cas_blob_open). */
int cas_blob_read(struct cas_store *s, const struct cas_digest *digest, size_t max_bytes,
                  struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
/* A verbatim copy of a condensed blob, for those who come later. Takes the file `name` of
 * STORE/uploads, whose bytes have been compared with the digest; makes room under the store's
 * budget by dropping the copies that were used the longest time ago. *kept false: it is larger than
 * the budget, or the blob is not condensed; the file is removed then. Thread-safe; blocks for a
 * sync. */
int cas_blob_cache_put(struct cas_store *s, const char *name, const struct cas_digest *digest,
                       bool *kept, struct cas_err *err) CAS_MUST_CHECK;
/* Drops copies beyond `budget_bytes`, used the longest time ago first. *freed may be NULL. */
int cas_blob_cache_shrink(struct cas_store *s, uint64_t budget_bytes, uint64_t *freed_bytes,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Drops one blob's copy, e.g. a damaged one. No copy, or none that may go, is success. */
int cas_blob_cache_drop(struct cas_store *s, const struct cas_digest *digest,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Whether the repository may serve it (linked there by upload, mount or import). */
int cas_blob_linked(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                    bool *out, struct cas_err *err) CAS_MUST_CHECK;
/* Whether a blob that the repository links waits for a manifest that names it, or for collection to
 * see that one does: then the link goes when its grace is over, and until then nothing else. Asked
 * before cas_blob_linked, so that a link that is found then lasts for the grace at least. Costs one
 * look in the index. */
int cas_blob_waits(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                   bool *out, struct cas_err *err) CAS_MUST_CHECK;
/* The grace of such a link begins anew, durably: before a client is told that the repository has
 * the blob, so that a push which relies on it has the time to finish. No link is success. Blocks
 * for a sync. */
int cas_blob_renew(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                   struct cas_err *err) CAS_MUST_CHECK;

/* Upload sessions: bytes that arrive in pieces, kept in STORE/uploads under a
 * random id, surviving a restart (what was received and synced; the length tells); a power cut
 * only once cas_upload_sync was called. One writer at a time per session: a second one gets BUSY.
 */
#define CAS_UPLOAD_ID_BYTES 37 /* UUID text with NUL */
struct cas_upload;

int cas_upload_create(struct cas_store *s, const char *repo, char id[CAS_UPLOAD_ID_BYTES],
                      struct cas_err *err) CAS_MUST_CHECK;
/* What is known of a session, and kept with it. */
#define CAS_UPLOAD_OWNER_BYTES_MAX 511
struct cas_upload_info {
        char id[CAS_UPLOAD_ID_BYTES];
        char owner[CAS_UPLOAD_OWNER_BYTES_MAX + 1]; /* who began it, printable; "" */
        enum cas_digest_alg alg;  /* computed while bytes arrive, so that the end need not read them
                                   * again; NONE: the digest's, or SHA-256 */
        struct cas_digest digest; /* of the whole, when it was said at the beginning */
        bool here_only;           /* this node's alone, where uploads are shared (cas/shared.h) */
        uint64_t size_bytes;      /* so far; of cas_upload_each only, as is */
        uint64_t touched_unix_s;  /* when bytes came last */
};
/* cas_upload_create with what the caller knows: owner, alg and digest of info. */
int cas_upload_begin(struct cas_store *s, const char *repo, const struct cas_upload_info *info,
                     char id[CAS_UPLOAD_ID_BYTES], struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for each session of the repository, in no order, until it returns false; blocks. A
 * session may end meanwhile. */
int cas_upload_each(struct cas_store *s, const char *repo,
                    bool (*fn)(void *arg, const struct cas_upload_info *info), void *arg,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND (no such session in this repository), BUSY. */
int cas_upload_open(struct cas_store *s, const char *repo, const char *id, struct cas_upload **out,
                    struct cas_err *err) CAS_MUST_CHECK;
uint64_t cas_upload_bytes(const struct cas_upload *u);
int cas_upload_append(struct cas_upload *u, const void *data, size_t len,
                      struct cas_err *err) CAS_MUST_CHECK;
/* A read-only descriptor, the caller's, of what was and will be appended; it goes on after finish
 * or cancel. */
int cas_upload_reader(struct cas_upload *u, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
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
