/* SPDX-License-Identifier: Apache-2.0 */
/* Condemned: what may be garbage since a change, for collection to look at (spec/gc.md). Written in
 * the batch of the change. Private to cas. */
#ifndef CAS_CONDEMNED_INT_H
#define CAS_CONDEMNED_INT_H

#include "cas/index_int.h"
#include "cas/record_int.h"

/* In the order in which a run looks at them: what one removes condemns of later kinds only. */
enum cas_condemned_kind {
        CAS_CONDEMNED_LINK = 1, /* a blob's link in a repository */
        CAS_CONDEMNED_BLOB = 2,
        CAS_CONDEMNED_LISTING = 3, /* an object as a listing */
        CAS_CONDEMNED_RECIPE = 4,  /* an object as a recipe */
        CAS_CONDEMNED_OBJECT = 5,
        CAS_CONDEMNED_CHUNK = 6, /* of an object of several */
};
/* since: seconds; grace counts from there. An earlier record of the same thing is replaced. */
void cas_batch_condemn_link(struct cas_batch *b, const char *repo, const struct cas_digest *blob,
                            uint64_t since_unix_s);
void cas_batch_condemn_blob(struct cas_batch *b, const struct cas_digest *blob,
                            uint64_t since_unix_s);
/* kind: LISTING, RECIPE, OBJECT or CHUNK. */
void cas_batch_condemn(struct cas_batch *b, enum cas_condemned_kind kind,
                       const struct cas_hash *hash, uint64_t since_unix_s);
/* Its record goes: it is needed, or it has gone. */
void cas_batch_uncondemn_link(struct cas_batch *b, const char *repo, const struct cas_digest *blob);
void cas_batch_uncondemn_blob(struct cas_batch *b, const struct cas_digest *blob);
void cas_batch_uncondemn(struct cas_batch *b, enum cas_condemned_kind kind,
                         const struct cas_hash *hash);

struct cas_condemned {
        enum cas_condemned_kind kind;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1]; /* LINK */
        struct cas_digest blob;                 /* LINK, BLOB */
        struct cas_hash hash;                   /* the others */
        uint64_t since_unix_s;
};
int cas_condemned_decode(const void *key, size_t key_len, const void *value, size_t value_len,
                         struct cas_condemned *out, struct cas_err *err) CAS_MUST_CHECK;
/* The key of a record, for scans that go on behind it. */
void cas_condemned_key(const struct cas_condemned *c, struct cas_record_key *out);
/* When a blob was condemned last. Errors: NOTFOUND (it is not). */
int cas_condemned_blob_since(struct cas_index *ix, const struct cas_digest *blob,
                             uint64_t *out_unix_s, struct cas_err *err) CAS_MUST_CHECK;
int cas_condemned_link_since(struct cas_index *ix, const char *repo, const struct cas_digest *blob,
                             uint64_t *out_unix_s, struct cas_err *err) CAS_MUST_CHECK;

/* ---- dead bytes of packs ---- */

/* Stored bytes of chunks that were removed from a pack or moved elsewhere, about; 0 when nothing
 * is known. Whoever counts holds off others who do. */
int cas_pack_dead_get(struct cas_index *ix, uint64_t pack_id, uint64_t *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* 0 takes the record away, e.g. with its pack. */
void cas_batch_put_pack_dead(struct cas_batch *b, uint64_t pack_id, uint64_t bytes);

#endif
