/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a cluster share: cells.c (how they are read and written), cluster.c (joining),
 * clusternames.c, clusterblob.c, clusterupload.c (the table), clustergc.c (collection). Nothing is
 * remembered between calls but the lease and the manifests that collection has read. */
#ifndef TIERING_CLUSTER_INT_H
#define TIERING_CLUSTER_INT_H

#include "cas/background.h"
#include "cas/map.h"
#include "tiering/cell.h"
#include "tiering/cluster.h"

#define TIER_KEY_BYTES 768
#define TIER_PIECE_BYTES (16 * CAS_MIB)
#define TIER_TRIES 16 /* of a condition that does not hold */

struct tier_cluster {
        struct cas_shared shared; /* first */
        struct tier_objects *objects;
        struct s3_abilities abilities;
        struct tier_cluster_settings settings;
        uint64_t node;

        struct cas_background background;
        bool started; /* the thread */
        pthread_t thread;
        struct cas_mutex collecting; /* one run at a time here; guards the rest */
        struct cas_map *references; /* manifest's text -> struct tier_references, see clustergc.c */
        uint64_t reference_count;
        char lease_nonce[TIER_CELL_NONCE_BYTES]; /* somebody's, as last seen … */
        uint64_t lease_seen_ms;                  /* … at first */
};

/* cluster_config.c: replaces STORE/cluster; durable on return. */
int tier_cluster_config_write(int store_dirfd, const struct tier_cluster_config *c,
                              struct cas_err *err) CAS_MUST_CHECK;

/* ---- keys (cells.c) ---- */

void tier_key_blob(const struct cas_digest *blob, char out[TIER_KEY_BYTES]);
/* kind: "_tags", "_manifests", "_links", "_referrers", "_uploads". */
void tier_key_name(const char *repo, const char *kind, const char *name, char out[TIER_KEY_BYTES]);
void tier_key_digest(const char *repo, const char *kind, const struct cas_digest *digest,
                     char out[TIER_KEY_BYTES]);
/* "sha256-HEX" */
char *tier_digest_name(const struct cas_digest *digest, char out[CAS_DIGEST_TEXT_BYTES]);
bool tier_digest_from_name(const char *name, struct cas_digest *out);
/* Splits repos/REPO/KIND/NAME. False: it is none. kind and name borrow from key. */
bool tier_key_split(const char *key, char repo[CAS_REPO_NAME_BYTES_MAX + 1], const char **kind,
                    const char **name);

/* ---- cells ---- */

/* Which version of a cell was read. */
struct tier_version {
        char etag[S3_ETAG_BYTES]; /* "": there is no object */
        int64_t modified_unix_s;
};
/* *there false: absent or empty; the version is good for making it. */
int tier_cell_read(struct tier_cluster *c, const char *key, struct tier_cell *out, bool *there,
                   struct tier_version *version, struct cas_err *err) CAS_MUST_CHECK;
/* A new version in place of that one; gets its nonce here. Errors: EXISTS (there is another). */
int tier_cell_write(struct tier_cluster *c, const char *key, struct tier_cell *cell,
                    const struct tier_version *version, struct tier_version *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Removes that version. Errors: EXISTS. */
int tier_cell_empty(struct tier_cluster *c, const char *key, const struct tier_version *version,
                    struct cas_err *err) CAS_MUST_CHECK;
/* What is there stays for the grace. Errors: NOTFOUND. */
int tier_cell_hold(struct tier_cluster *c, const char *key, struct tier_cell *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Whatever is there; absent is success. */
int tier_cell_remove(struct tier_cluster *c, const char *key, struct cas_err *err) CAS_MUST_CHECK;
int tier_fail_tries(const char *key, struct cas_err *err) CAS_MUST_CHECK;

/* ---- pieces (clusterblob.c) ---- */

/* Puts `bytes` of the source as pieces of session `id`, and notes them in the cell. */
int tier_pieces_put(struct tier_cluster *c, const char *id, uint64_t offset, uint64_t bytes,
                    cas_shared_source_fn source, void *arg, struct tier_cell *cell,
                    struct cas_err *err) CAS_MUST_CHECK;
int tier_pieces_read(struct tier_cluster *c, const struct tier_cell *cell, cas_shared_sink_fn sink,
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Deletes those of `cell` that `kept` (may be NULL) does not have. */
int tier_pieces_delete(struct tier_cluster *c, const struct tier_cell *cell,
                       const struct tier_cell *kept, uint64_t *count, uint64_t *bytes,
                       struct cas_err *err) CAS_MUST_CHECK;
/* The session's pieces become the blob's, or the blob is there already. session_key: of a cell that
 * is finishing, with that nonce; else BUSY. NULL: all is content of `session`. */
int tier_blob_take(struct tier_cluster *c, const struct cas_digest *blob, uint64_t bytes,
                   const struct tier_cell *session, const char *session_key,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Ends a session: its cell goes, and its pieces but for those that became a blob's. */
int tier_session_end(struct tier_cluster *c, const char *key, struct tier_cell *session,
                     struct tier_version *version, uint64_t *pieces, uint64_t *bytes,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Random hex digits. */
void tier_random_hex(char *out, size_t digits);

/* ---- operations ---- */

int tier_op_blob_hold(struct cas_shared *sh, const struct cas_digest *blob, uint64_t *out_bytes,
                      struct cas_err *err);
int tier_op_blob_put(struct cas_shared *sh, const struct cas_digest *blob, uint64_t bytes,
                     cas_shared_source_fn source, void *arg, struct cas_err *err);
int tier_op_blob_read(struct cas_shared *sh, const struct cas_digest *blob, cas_shared_sink_fn sink,
                      void *arg, struct cas_err *err);
int tier_op_publish(struct cas_shared *sh, const struct cas_shared_names *names,
                    struct cas_err *err);
int tier_op_tag_get(struct cas_shared *sh, const char *repo, const char *tag,
                    struct cas_digest *out, struct cas_err *err);
int tier_op_manifest_get(struct cas_shared *sh, const char *repo, const struct cas_digest *manifest,
                         struct cas_manifest_info *out, struct cas_err *err);
int tier_op_link_get(struct cas_shared *sh, const char *repo, const struct cas_digest *blob,
                     bool hold, uint64_t *out_bytes, struct cas_err *err);
int tier_op_repo_exists(struct cas_shared *sh, const char *repo, bool *out, struct cas_err *err);
int tier_op_tag_each(struct cas_shared *sh, const char *repo, const char *last,
                     bool (*fn)(void *arg, const char *tag), void *arg, struct cas_err *err);
int tier_op_repo_each(struct cas_shared *sh, const char *last,
                      bool (*fn)(void *arg, const char *repo), void *arg, struct cas_err *err);
int tier_op_referrer_each(struct cas_shared *sh, const char *repo, const struct cas_digest *subject,
                          bool (*fn)(void *arg, const struct cas_digest *referrer), void *arg,
                          struct cas_err *err);
int tier_op_upload_begin(struct cas_shared *sh, struct cas_shared_session *session,
                         const struct cas_upload_info *info, struct cas_err *err);
int tier_op_upload_load(struct cas_shared *sh, struct cas_shared_session *session,
                        struct cas_upload_info *info, struct cas_err *err);
int tier_op_upload_read(struct cas_shared *sh, const struct cas_shared_session *session,
                        cas_shared_sink_fn sink, void *arg, struct cas_err *err);
int tier_op_upload_append(struct cas_shared *sh, struct cas_shared_session *session, int fd,
                          uint64_t end, struct cas_err *err);
int tier_op_upload_finish(struct cas_shared *sh, struct cas_shared_session *session, int fd,
                          uint64_t end, const struct cas_digest *blob, struct cas_err *err);
int tier_op_upload_end(struct cas_shared *sh, const struct cas_shared_session *session,
                       struct cas_err *err);
int tier_op_upload_each(struct cas_shared *sh, const char *repo,
                        bool (*fn)(void *arg, const struct cas_upload_info *info), void *arg,
                        struct cas_err *err);

/* Ends the thread, and forgets (clustergc.c). */
void tier_cluster_gc_release(struct tier_cluster *c);

static inline struct tier_cluster *tier_cluster_from(struct cas_shared *sh)
{
        return (struct tier_cluster *)sh;
}

#endif
