/* SPDX-License-Identifier: Apache-2.0 */
/* References: what needs what, child first (spec/gc.md; as bytes: spec/index.md). Kept true by
 * whoever makes or removes a parent, in the same batch; asked by collection, by scrub and by
 * `lamina why`. Private to cas. */
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

/* parent: a repository's name, the digest of a manifest as cas_digest_append writes it, or the hash
 * that is a tree's key. */
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
/* A parsed manifest becomes a node, or is none any more: its references, and its record. */
void cas_batch_put_manifest_refs(struct cas_batch *b, const struct cas_digest *manifest,
                                 const struct cas_manifest *m);
void cas_batch_del_manifest_refs(struct cas_batch *b, const struct cas_digest *manifest,
                                 const struct cas_manifest *m);

/* ---- asking ---- */

/* Whether a manifest's references were written, and what it is. media_type may be NULL. */
int cas_node_get(struct cas_index *ix, const struct cas_digest *manifest, bool *out,
                 char media_type[256], struct cas_err *err) CAS_MUST_CHECK;
/* Whether something keeps it: any role but IN_TREE. Leases and pins are not asked. */
int cas_blob_is_needed(struct cas_index *ix, const struct cas_digest *blob, bool *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* roles: text of the roles asked for, e.g. "l"; NULL: any. Of an object's references 64 bits of its
 * name are the key: two that share these keep each other (they are never removed too early). */
int cas_object_is_needed(struct cas_index *ix, const struct cas_hash *object, const char *roles,
                         bool *out, struct cas_err *err) CAS_MUST_CHECK;
/* By an object of several chunks, or by the object that is this chunk and nothing else. */
int cas_chunk_is_needed(struct cas_index *ix, const struct cas_hash *chunk, bool *out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* What one reference tells. `parent`: whole where the value has it (as it was given to put), else
 * CAS_REF_PARENT_BYTES of an object's hash. */
#define CAS_REF_PARENT_BYTES 16
struct cas_ref_seen {
        uint8_t role;          /* 0: of a chunk */
        const uint8_t *parent; /* borrowed during the call */
        size_t parent_len;
};
/* 0 goes on; 1 ends with success; -code is returned. */
typedef int (*cas_ref_fn)(void *arg, const struct cas_ref_seen *ref, struct cas_err *err);
int cas_blob_refs_each(struct cas_index *ix, const struct cas_digest *blob, cas_ref_fn fn,
                       void *arg, struct cas_err *err) CAS_MUST_CHECK;
int cas_object_refs_each(struct cas_index *ix, const struct cas_hash *object, cas_ref_fn fn,
                         void *arg, struct cas_err *err) CAS_MUST_CHECK;
int cas_chunk_refs_each(struct cas_index *ix, const struct cas_hash *chunk, cas_ref_fn fn,
                        void *arg, struct cas_err *err) CAS_MUST_CHECK;

/* ---- as they stand in the index ---- */

/* The first bytes of a key: all that a child has of references. */
#define CAS_REF_CHILD_BYTES 8 /* of objects and chunks; of blobs: the digest */
struct cas_reference {
        uint8_t family; /* enum cas_family: BLOB_REFS, OBJECT_REFS, CHUNK_REFS, NODES */
        uint8_t key_len;
        uint16_t value_len;
        uint8_t key[CAS_DIGEST_KEY_BYTES_MAX + 1 + CAS_REF_PARENT_BYTES];
        uint8_t value[CAS_REPO_NAME_BYTES_MAX + 2];
};
void cas_reference_of_blob(struct cas_reference *out, const struct cas_digest *child,
                           enum cas_blob_role role, const void *parent, size_t parent_len);
void cas_reference_of_object(struct cas_reference *out, const struct cas_hash *child,
                             enum cas_object_role role, const void *parent, size_t parent_len);
void cas_reference_of_chunk(struct cas_reference *out, const struct cas_hash *chunk,
                            const struct cas_hash *object);
void cas_reference_of_node(struct cas_reference *out, const struct cas_digest *manifest,
                           const char *media_type);
void cas_batch_put_reference(struct cas_batch *b, const struct cas_reference *ref);
void cas_batch_del_reference(struct cas_batch *b, const struct cas_reference *ref);

/* ---- what a parent refers to (cas/refsof.c) ---- */

/* Each calls fn for all references that a parent has, maybe for one more than once, until fn
 * returns other than 0: 1 ends with success, -code is returned. */
typedef int (*cas_reference_fn)(void *arg, const struct cas_reference *ref, struct cas_err *err);
/* Of a parsed manifest, its node among them. */
int cas_manifest_references(const struct cas_digest *manifest, const struct cas_manifest *m,
                            cas_reference_fn fn, void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* A blob's layer: its listing, and that listing's files. */
struct cas_listing;
int cas_layer_references(const struct cas_digest *blob, const struct cas_hash *listing_id,
                         const struct cas_listing *listing, cas_reference_fn fn, void *arg,
                         struct cas_err *err) CAS_MUST_CHECK;
/* A blob's recipe, and what the recipe is made of. opened: that recipe. Errors: LIMIT (more than a
 * layer can have), and those of reading. */
struct cas_recipe;
int cas_recipe_references(const struct cas_digest *blob, const struct cas_hash *recipe,
                          struct cas_recipe *opened, cas_reference_fn fn, void *arg,
                          struct cas_err *err) CAS_MUST_CHECK;
int cas_tree_references(const struct cas_hash *key, const struct cas_tree_record *rec,
                        cas_reference_fn fn, void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* The chunks of an object of several. */
int cas_object_references(struct cas_index *ix, const struct cas_hash *object, cas_reference_fn fn,
                          void *arg, struct cas_err *err) CAS_MUST_CHECK;

/* ---- all of them ---- */

/* Makes all references anew from layers, recipes, manifests, links, trees and objects: for an
 * index that was made again, and for a store of an older version. Nobody else uses the store. */
int cas_refs_rebuild(struct cas_store *s, const struct cas_progress *progress,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
