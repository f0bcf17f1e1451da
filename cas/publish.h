/* SPDX-License-Identifier: Apache-2.0 */
/* A publication: what one operation adds to the store becomes durable and
 * visible at once, or not at all. The order is always: pack data and blob
 * files synced, then directory entries, then the journal of names, then one
 * synced index batch. The only way into the store: file objects, verbatim
 * blobs, layer records and names all go through it.
 *
 * One thread at a time uses a publication; different publications run in
 * parallel, share what they both add, and are independent of each other's end.
 * Hashing, compression and pack writes happen on a worker of the publication's
 * own, so object ids arrive later: after cas_publish_drain().  */
#ifndef CAS_PUBLISH_H
#define CAS_PUBLISH_H

#include "cas/store.h"

struct cas_publish;

int cas_publish_begin(struct cas_store *s, struct cas_publish **out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Durable and visible on return. The publication is then only to be freed. */
int cas_publish_commit(struct cas_publish *p, struct cas_err *err) CAS_MUST_CHECK;
/* Frees; what was not committed is dropped (its bytes in packs are garbage). */
void cas_publish_free(struct cas_publish *p);
CAS_DEFINE_CLEANUP(cas_cleanup_publish_, struct cas_publish *, cas_publish_free);
#define cas_cleanup_publish __attribute__((cleanup(cas_cleanup_publish_)))

struct cas_store *cas_publish_store(const struct cas_publish *p); /* borrowed */

/* What it adds is what the store that nodes share (cas/shared.h) is known to have: it is not told
 * there again. */
void cas_publish_learned(struct cas_publish *p);

/* What an operation counts on, it keeps first and looks for afterwards: what it finds then stays
 * until the publication is freed, whatever collection does (spec/gc.md). A blob stays with all that
 * hangs on it: a manifest that is in a repository with what it names, a layer with its files. What
 * is given to the publication is kept by it; publications that add nothing may keep things, too.
 * By any thread. Waits for a batch of collection at most. */
void cas_publish_keep_blob(struct cas_publish *p, const struct cas_digest *blob);
void cas_publish_keep_object(struct cas_publish *p, const struct cas_hash *object);

/* Adds one file object, given in order between begin and end. One object is
 * open at a time. *id_slot (borrowed until drain, commit or free) gets its
 * fs-verity digest. An object that is in the store already costs no space.
 * Errors: LIMIT, and at any of the calls whatever the worker met: NOSPACE, IO. */
int cas_publish_object_begin(struct cas_publish *p, struct cas_hash *id_slot,
                             struct cas_err *err) CAS_MUST_CHECK;
/* The same of an object that must be this one: else drain and commit answer with CORRUPT. */
int cas_publish_named_begin(struct cas_publish *p, const struct cas_hash *id,
                            struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_object_write(struct cas_publish *p, const void *data, size_t len,
                             struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_object_end(struct cas_publish *p, struct cas_err *err) CAS_MUST_CHECK;
/* All three for bytes in memory. */
int cas_publish_object(struct cas_publish *p, const void *data, size_t len,
                       struct cas_hash *id_slot, struct cas_err *err) CAS_MUST_CHECK;
/* Waits until every object given so far has its id. */
int cas_publish_drain(struct cas_publish *p, struct cas_err *err) CAS_MUST_CHECK;

/* Adds one verbatim blob, given in order. One blob may be open beside an open
 * object. end: the digest is compared with `expected` when that is not NULL
 * (INVALID when it differs) and must be given for sha512; out and out_bytes may be NULL.
 * A blob that is in the store already costs no space. */
int cas_publish_blob_begin(struct cas_publish *p, enum cas_digest_alg alg,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_blob_write(struct cas_publish *p, const void *data, size_t len,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_blob_end(struct cas_publish *p, const struct cas_digest *expected,
                         struct cas_digest *out, uint64_t *out_bytes,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Gives up the open blob, if there is one; the publication goes on. */
void cas_publish_blob_drop(struct cas_publish *p);
/* All three for bytes in memory. */
int cas_publish_blob(struct cas_publish *p, const void *data, size_t len,
                     const struct cas_digest *expected, struct cas_digest *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* A file of known content that lies in STORE/uploads already becomes a blob by
 * another name for it: no copy. `name` is relative to that directory; the caller has hashed and
 * synced it, and must not write to the file any more, which has its first name until the caller
 * removes that: so nothing is lost when the process dies before the commit. When the blob is here
 * already, nothing is done. */
int cas_publish_blob_adopt(struct cas_publish *p, const char *name, const struct cas_digest *digest,
                           uint64_t size_bytes, struct cas_err *err) CAS_MUST_CHECK;

/* What decoding a layer blob found (cas/layer.h fills it). */
struct cas_layer_record {
        struct cas_digest blob;    /* the layer as stored: compressed or plain tar */
        struct cas_digest diff_id; /* SHA-256 of the tar stream */
        uint64_t tar_bytes;        /* length of the tar stream */
        uint64_t content_bytes;    /* bytes of regular files */
        uint64_t entry_count;
        struct cas_hash listing; /* object that holds the layer listing (spec/layer.md) */
        uint32_t listing_version;
        uint8_t compression; /* enum cas_compression of cas/decompress.h */
        bool is_elsewhere;   /* not recorded: as another store tells it, and not proved */
};
/* listing: what layer->listing, an object of this publication or of the store, holds; borrowed
 * during the call. */
struct cas_listing;
int cas_publish_layer(struct cas_publish *p, const struct cas_layer_record *layer,
                      const struct cas_listing *listing, struct cas_err *err) CAS_MUST_CHECK;

/* Changes of names; take effect at commit, in the order given. Grammar of
 * names is checked (INVALID). A tag needs its manifest to be in the repository
 * (linked before, or in this publication). */
int cas_publish_manifest_link(struct cas_publish *p, const char *repo,
                              const struct cas_digest *manifest, const char *media_type,
                              uint64_t size_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* Takes the manifest's tags in the repository and its entries as a referrer along. */
int cas_publish_manifest_unlink(struct cas_publish *p, const char *repo,
                                const struct cas_digest *manifest,
                                struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_blob_link(struct cas_publish *p, const char *repo, const struct cas_digest *blob,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Links of blobs that are given, before and after, begin anew however young they are: for answers
 * that tell a client that a blob is in the repository. */
void cas_publish_renew_links(struct cas_publish *p);
int cas_publish_blob_unlink(struct cas_publish *p, const char *repo, const struct cas_digest *blob,
                            struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_tag(struct cas_publish *p, const char *repo, const char *tag,
                    const struct cas_digest *manifest, struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_untag(struct cas_publish *p, const char *repo, const char *tag,
                      struct cas_err *err) CAS_MUST_CHECK;
/* What a commit does to a tag; alg NONE: there is no such tag before, or afterwards. */
struct cas_tag_change {
        const char *repo, *tag;
        struct cas_digest before, after;
};
/* Inside the commit, before anything is written and with nothing that could come in between, fn is
 * told of each tag that is set or removed, also with its manifest, and also when that changes
 * nothing. It may refuse: its error is the commit's then, which has no effect. It runs on the
 * thread of any commit, must be short and must not use the store. Of a commit that fails for other
 * reasons it may have been told. */
typedef int (*cas_tag_guard_fn)(void *arg, const struct cas_tag_change *change,
                                struct cas_err *err);
void cas_publish_guard_tags(struct cas_publish *p, cas_tag_guard_fn fn, void *arg);
/* referrer: a manifest with `subject` (also while the subject is absent). */
int cas_publish_referrer(struct cas_publish *p, const char *repo, const struct cas_digest *subject,
                         const struct cas_digest *referrer, struct cas_err *err) CAS_MUST_CHECK;

#endif
