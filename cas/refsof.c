/* SPDX-License-Identifier: Apache-2.0 */
/* What parents refer to: for those who publish them, make all references anew, and check. */
#include "cas/layer.h"
#include "cas/prefixset.h"
#include "cas/recipe_int.h"
#include "cas/refs_int.h"

/* References of one role to each object of a set. */
static int refer_to_all(struct cas_prefixset *children, enum cas_object_role role,
                        const struct cas_hash *parent, cas_reference_fn fn, void *arg,
                        struct cas_err *err)
{
        int rc = 0;
        cas_prefixset_settle(children);
        for (size_t i = 0; rc == 0 && i < children->count; i++) {
                const struct cas_hash child = cas_prefixset_at(children, i);
                struct cas_reference ref;
                cas_reference_of_object(&ref, &child, role, parent->bytes, CAS_HASH_BYTES);
                rc = fn(arg, &ref, err);
        }
        return rc;
}

static int refer_to_one(const struct cas_hash *child, enum cas_object_role role,
                        const struct cas_digest *parent, cas_reference_fn fn, void *arg,
                        struct cas_err *err)
{
        struct cas_reference ref;
        struct cas_record_key key;
        cas_key_digest(parent, &key);
        cas_reference_of_object(&ref, child, role, key.bytes, key.len);
        return fn(arg, &ref, err);
}

int cas_layer_references(const struct cas_digest *blob, const struct cas_hash *listing_id,
                         const struct cas_listing *listing, cas_reference_fn fn, void *arg,
                         struct cas_err *err)
{
        __attribute__((cleanup(cas_prefixset_release))) struct cas_prefixset files =
                CAS_PREFIXSET_INIT;
        for (size_t i = 0; i < listing->count; i++) {
                const struct cas_entry *e = &listing->entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        cas_prefixset_add(&files, &e->object);
        }
        int rc = refer_to_one(listing_id, CAS_OBJECT_LISTING, blob, fn, arg, err);
        if (rc == 0)
                rc = refer_to_all(&files, CAS_OBJECT_FILE, listing_id, fn, arg, err);
        return rc < 0 ? rc : 0;
}

static int take_source(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct cas_prefixset *sources = arg;
        cas_prefixset_add(sources, object);
        if (sources->count <= 2 * (size_t)CAS_TAR_ENTRIES_MAX)
                return 0;
        cas_prefixset_settle(sources);
        if (sources->count > CAS_TAR_ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "recipe: more than %d objects",
                                CAS_TAR_ENTRIES_MAX);
        return 0;
}

int cas_recipe_references(const struct cas_digest *blob, const struct cas_hash *recipe,
                          struct cas_recipe *opened, cas_reference_fn fn, void *arg,
                          struct cas_err *err)
{
        __attribute__((cleanup(cas_prefixset_release))) struct cas_prefixset sources =
                CAS_PREFIXSET_INIT;
        int rc = cas_tarrecipe_each_object(opened, take_source, &sources, err);
        if (rc == 0)
                rc = refer_to_one(recipe, CAS_OBJECT_RECIPE, blob, fn, arg, err);
        if (rc == 0)
                rc = refer_to_all(&sources, CAS_OBJECT_SOURCE, recipe, fn, arg, err);
        return rc < 0 ? rc : 0;
}

int cas_tree_references(const struct cas_hash *key, const struct cas_tree_record *rec,
                        cas_reference_fn fn, void *arg, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < rec->layer_count; i++) {
                struct cas_reference ref;
                cas_reference_of_blob(&ref, &rec->layers[i], CAS_BLOB_IN_TREE, key->bytes,
                                      CAS_HASH_BYTES);
                rc = fn(arg, &ref, err);
        }
        if (rc == 0) { /* its file, which others may have as well */
                struct cas_reference ref;
                cas_reference_of_blob(&ref, &rec->tree, CAS_BLOB_IN_TREE, key->bytes,
                                      CAS_HASH_BYTES);
                rc = fn(arg, &ref, err);
        }
        return rc < 0 ? rc : 0;
}

int cas_object_references(struct cas_index *ix, const struct cas_hash *object, cas_reference_fn fn,
                          void *arg, struct cas_err *err)
{
        struct cas_chunk_ref refs[256];
        uint32_t first = 0, count;
        int rc;
        do {
                rc = cas_index_get_object_chunks(ix, object, first, refs, CAS_COUNT(refs), &count,
                                                 err);
                for (uint32_t i = 0; rc == 0 && i < count; i++) {
                        struct cas_reference ref;
                        cas_reference_of_chunk(&ref, &refs[i].chunk, object);
                        rc = fn(arg, &ref, err);
                }
                first += count;
        } while (rc == 0 && count > 0);
        return rc < 0 ? rc : 0;
}
