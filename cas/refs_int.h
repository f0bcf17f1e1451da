/* SPDX-License-Identifier: Apache-2.0 */
/* References: what needs what, child first (spec/gc.md). Kept true by whoever makes or removes a
 * parent, in the same batch; asked by collection, by fsck and by `lamina why`. Private to cas. */
#ifndef CAS_REFS_INT_H
#define CAS_REFS_INT_H

#include "cas/index_int.h"
#include "cas/manifest_int.h"
#include "cas/record_int.h"

/* Text: they are bytes of keys. */
enum cas_blob_role {
        CAS_BLOB_LINKED = 'r',  /* parent: repository that has it as a manifest */
        CAS_BLOB_IN_REPO = 'b', /* parent: repository that links it as a blob */
        CAS_BLOB_NAMED = 'm',   /* parent: manifest */
        CAS_BLOB_CHILD = 'i',   /* parent: index that names it as a manifest */
        CAS_BLOB_IN_TREE = 't', /* parent: key of a tree; keeps nothing */
};
enum cas_object_role {
        CAS_OBJECT_LISTING = 'l', /* parent: blob */
        CAS_OBJECT_RECIPE = 'r',  /* parent: blob */
        CAS_OBJECT_FILE = 'f',    /* parent: listing */
        CAS_OBJECT_SOURCE = 's',  /* parent: recipe */
};

/* ---- writing: into the batch that makes the parent known, or removes it ---- */

/* A repository, a blob (manifest) or a tree as a parent; value: what people are told. */
void cas_batch_put_blob_ref(struct cas_batch *b, const struct cas_digest *child,
                            enum cas_blob_role role, const void *parent, size_t parent_len);
void cas_batch_del_blob_ref(struct cas_batch *b, const struct cas_digest *child,
                            enum cas_blob_role role, const void *parent, size_t parent_len);
/* parent: a blob's digest as cas_digest_append writes it (LISTING, RECIPE), or an object's hash. */
void cas_batch_put_object_ref(struct cas_batch *b, const struct cas_hash *child,
                              enum cas_object_role role, const void *parent, size_t parent_len);
void cas_batch_del_object_ref(struct cas_batch *b, const struct cas_hash *child,
                              enum cas_object_role role, const void *parent, size_t parent_len);
void cas_batch_put_chunk_ref(struct cas_batch *b, const struct cas_hash *chunk,
                             const struct cas_hash *object);
void cas_batch_del_chunk_ref(struct cas_batch *b, const struct cas_hash *chunk,
                             const struct cas_hash *object);
/* A parsed manifest becomes a node: its references, and its record. */
void cas_batch_put_manifest_refs(struct cas_batch *b, const struct cas_digest *manifest,
                                 const struct cas_manifest *m);
void cas_batch_del_manifest_refs(struct cas_batch *b, const struct cas_digest *manifest,
                                 const struct cas_manifest *m);

/* ---- asking ---- */

/* Whether something keeps it: any role but IN_TREE. Leases and pins are not asked. */
int cas_blob_is_needed(struct cas_index *ix, const struct cas_digest *blob, bool *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* roles: text of the roles asked for, e.g. "l"; NULL: any. Of an object's references 64 bits of its
 * name are the key: two that share these keep each other (they are never removed too early). */
int cas_object_is_needed(struct cas_index *ix, const struct cas_hash *object, const char *roles,
                         bool *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_chunk_is_needed(struct cas_index *ix, const struct cas_hash *chunk, bool *out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* What one reference tells. `parent`: whole where value has it, else the 16 bytes of the key. */
struct cas_ref_seen {
        uint8_t role;          /* 0: of a chunk */
        const uint8_t *parent; /* borrowed during the call */
        size_t parent_len;
};
typedef int (*cas_ref_fn)(void *arg, const struct cas_ref_seen *ref, struct cas_err *err);
int cas_blob_refs_each(struct cas_index *ix, const struct cas_digest *blob, cas_ref_fn fn,
                       void *arg, struct cas_err *err) CAS_MUST_CHECK;
int cas_object_refs_each(struct cas_index *ix, const struct cas_hash *object, cas_ref_fn fn,
                         void *arg, struct cas_err *err) CAS_MUST_CHECK;
int cas_chunk_refs_each(struct cas_index *ix, const struct cas_hash *chunk, cas_ref_fn fn,
                        void *arg, struct cas_err *err) CAS_MUST_CHECK;

/* ---- all of them ---- */

/* Makes all references anew from layers, recipes, manifests, links, trees and objects: for an
 * index that was made again, and for a store of an older version. Nobody else uses the store. */
int cas_refs_rebuild(struct cas_store *s, const struct cas_progress *progress,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
