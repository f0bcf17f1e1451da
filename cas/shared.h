/* SPDX-License-Identifier: Apache-2.0 */
/* A store that several nodes share (spec/cluster.md): tiering implements the table over a bucket.
 * What it holds is the truth for names and for blobs that names lead to; the store of this node is
 * a cache of it. A publication of names goes there first, then into the journal and the index
 * (cas/publish.c); what this node does not know, or knows from too long ago, is learned from there
 * by the functions below, which may be called for every store: where nothing is shared they do
 * nothing, or say what the store itself says. All of them block on the network.
 *
 * Errors of all operations, besides those that are named: AWAY (it cannot be reached now), BUSY
 * (others got in between again and again, or took it away: try again), CORRUPT, LIMIT, DENIED. */
#ifndef CAS_SHARED_H
#define CAS_SHARED_H

#include "cas/blob.h"
#include "cas/names.h"
#include "cas/publish.h"

struct cas_shared;

/* ---- the table ---- */

/* One change of names, in the order of the publication. */
enum cas_shared_change {
        CAS_SHARED_LINK_MANIFEST,
        CAS_SHARED_UNLINK_MANIFEST, /* its tags, and its entries as a referrer, go with it */
        CAS_SHARED_LINK_BLOB,
        CAS_SHARED_UNLINK_BLOB,
        CAS_SHARED_TAG,
        CAS_SHARED_UNTAG,
        CAS_SHARED_REFERRER,
};
struct cas_shared_name {
        enum cas_shared_change change;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        char tag[CAS_TAG_BYTES_MAX + 1]; /* TAG, UNTAG */
        struct cas_digest digest;        /* of the manifest, the blob, the subject */
        struct cas_digest referrer;      /* REFERRER */
        uint64_t size_bytes;             /* LINK_MANIFEST */
        char media_type[256];            /* LINK_MANIFEST */
};
struct cas_shared_names {
        const struct cas_shared_name *list;
        size_t count;
        cas_tag_guard_fn guard; /* asked before each tag is changed; NULL: none */
        void *guard_arg;
};

/* Which state of an upload session this node knows; text of the table's own. */
#define CAS_SHARED_VERSION_BYTES 136
struct cas_shared_session {
        const char *repo, *id;                  /* borrowed */
        char version[CAS_SHARED_VERSION_BYTES]; /* "": none */
        uint64_t size_bytes;                    /* that are there */
};

/* Bytes in order. out_len 0: the end. */
typedef int (*cas_shared_source_fn)(void *arg, void *buf, size_t len, size_t *out_len,
                                    struct cas_err *err);
typedef int (*cas_shared_sink_fn)(void *arg, const void *data, size_t len, struct cas_err *err);

/* All operations are called from many threads at once. */
struct cas_shared_ops {
        /* Whether the blob is there; it stays for the grace then. Errors: NOTFOUND. */
        int (*blob_hold)(struct cas_shared *sh, const struct cas_digest *blob, uint64_t *out_bytes,
                         struct cas_err *err);
        /* Durable on return. One that is there already is success, too. */
        int (*blob_put)(struct cas_shared *sh, const struct cas_digest *blob, uint64_t bytes,
                        cas_shared_source_fn source, void *arg, struct cas_err *err);
        /* All of it, in order; the digest is the caller's to compare. Errors: NOTFOUND, the
         * sink's. */
        int (*blob_read)(struct cas_shared *sh, const struct cas_digest *blob,
                         cas_shared_sink_fn sink, void *arg, struct cas_err *err);
        /* In the order in which names may be relied upon (spec/cluster.md). Blobs are there, and
         * links that a manifest needs are in the list. Durable, and seen by all, on return; after
         * an error it may have had effect. Errors: NOTFOUND (a tag's manifest is not in the
         * repository), the guard's. */
        int (*publish)(struct cas_shared *sh, const struct cas_shared_names *names,
                       struct cas_err *err);
        /* Errors: NOTFOUND. */
        int (*tag_get)(struct cas_shared *sh, const char *repo, const char *tag,
                       struct cas_digest *out, struct cas_err *err);
        int (*manifest_get)(struct cas_shared *sh, const char *repo,
                            const struct cas_digest *manifest, struct cas_manifest_info *out,
                            struct cas_err *err);
        /* hold: who asks will be told of it, and it stays for the grace. Errors: NOTFOUND. */
        int (*link_get)(struct cas_shared *sh, const char *repo, const struct cas_digest *blob,
                        bool hold, uint64_t *out_bytes, struct cas_err *err);
        int (*repo_exists)(struct cas_shared *sh, const char *repo, bool *out, struct cas_err *err);
        /* In byte order, behind `last`, until fn returns false. */
        int (*tag_each)(struct cas_shared *sh, const char *repo, const char *last,
                        bool (*fn)(void *arg, const char *tag), void *arg, struct cas_err *err);
        int (*repo_each)(struct cas_shared *sh, const char *last,
                         bool (*fn)(void *arg, const char *repo), void *arg, struct cas_err *err);
        int (*referrer_each)(struct cas_shared *sh, const char *repo,
                             const struct cas_digest *subject,
                             bool (*fn)(void *arg, const struct cas_digest *referrer), void *arg,
                             struct cas_err *err);

        /* ---- uploads ---- */
        int (*upload_begin)(struct cas_shared *sh, struct cas_shared_session *session,
                            const struct cas_upload_info *info, struct cas_err *err);
        /* Fills in version, size and info (owner, alg, digest). Errors: NOTFOUND. */
        int (*upload_load)(struct cas_shared *sh, struct cas_shared_session *session,
                           struct cas_upload_info *info, struct cas_err *err);
        /* All bytes of the session's version. Errors: NOTFOUND, BUSY (it is another by now). */
        int (*upload_read)(struct cas_shared *sh, const struct cas_shared_session *session,
                           cas_shared_sink_fn sink, void *arg, struct cas_err *err);
        /* Bytes of the file from session->size_bytes to `end` are there on return, and the session
         * is of another version. Errors: NOTFOUND, BUSY (another node was faster). */
        int (*upload_append)(struct cas_shared *sh, struct cas_shared_session *session, int fd,
                             uint64_t end, struct cas_err *err);
        /* What is there, and the rest of the file to `end`, becomes the blob, whose digest was
         * compared. The session stays, for upload_end alone. Errors: as append. */
        int (*upload_finish)(struct cas_shared *sh, struct cas_shared_session *session, int fd,
                             uint64_t end, const struct cas_digest *blob, struct cas_err *err);
        /* Whatever its version. Absent is success. */
        int (*upload_end)(struct cas_shared *sh, const struct cas_shared_session *session,
                          struct cas_err *err);
        int (*upload_each)(struct cas_shared *sh, const char *repo,
                           bool (*fn)(void *arg, const struct cas_upload_info *info), void *arg,
                           struct cas_err *err);

        unsigned (*fresh_s)(struct cas_shared *sh); /* a tag is believed for so long */
        void (*close)(struct cas_shared *sh);
};
/* Implementations embed this as their first member. */
struct cas_shared {
        const struct cas_shared_ops *ops;
};

/* ---- the store's side ---- */

/* NULL: the store is this machine's alone. Borrowed. */
struct cas_shared *cas_store_shared(const struct cas_store *s);

/* What the shared store has under a tag or a digest (text) becomes known here: the manifest with
 * its bytes, and the tag; or that it is gone. Errors: NOTFOUND (of the shared store). */
int cas_shared_learn_manifest(struct cas_store *s, const char *repo, const char *ref,
                              struct cas_err *err) CAS_MUST_CHECK;
/* Whether the repository may serve the blob becomes known here. *here: its bytes are here, too.
 * Errors: NOTFOUND (the repository has no such blob). */
int cas_shared_learn_blob(struct cas_store *s, const char *repo, const struct cas_digest *blob,
                          bool *here, uint64_t *out_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* The same of all referrers of a subject. */
int cas_shared_learn_referrers(struct cas_store *s, const char *repo,
                               const struct cas_digest *subject,
                               struct cas_err *err) CAS_MUST_CHECK;
/* Before somebody is told that a blob is in a repository, or a publication relies on it: it stays
 * for the grace. Where nothing is shared: cas_blob_linked and cas_blob_stat. Errors: NOTFOUND. */
int cas_shared_hold_blob(struct cas_store *s, const char *repo, const struct cas_digest *blob,
                         uint64_t *out_bytes, struct cas_err *err) CAS_MUST_CHECK;

#endif
