/* SPDX-License-Identifier: Apache-2.0 */
/* All references anew. Families of parents are read one after the other, and what they refer to is
 * written as it comes: memory does not grow with the store, but for one layer's listing.
 *
 * What a damaged listing or recipe refers to cannot be known; it is told in the log. Nothing rests
 * on that: the layer cannot be used, nor the blob be made, before it was brought again. */
#include "cas/blob.h"
#include "cas/elsewhere_int.h"
#include "cas/log.h"
#include "cas/namerecord_int.h"
#include "cas/refnodes_int.h"
#include "cas/recipe_int.h"

#define BATCH_BYTES (1 * CAS_MIB)

struct anew {
        struct cas_store *s;
        const struct cas_progress *progress;
        struct cas_batch *batch;
        uint64_t done; /* parents */
};

static int flush(struct anew *a, size_t above, struct cas_err *err)
{
        if (cas_batch_bytes(a->batch) <= above)
                return 0;
        return cas_index_write(a->s->index, a->batch, err);
}

static int put(void *arg, const struct cas_reference *ref, struct cas_err *err)
{
        struct anew *a = arg;
        cas_batch_put_reference(a->batch, ref);
        return flush(a, BATCH_BYTES, err);
}

/* After each parent. */
static int step(struct anew *a, struct cas_err *err)
{
        cas_progress_update(a->progress, "references", ++a->done, 0);
        return flush(a, BATCH_BYTES, err);
}

/* What cannot be read is told and left out; other errors are the caller's. */
static int pass_damage(const char *what, const struct cas_digest *blob, const struct cas_err *why,
                       struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        switch (why->code) {
        case CAS_E_NOTFOUND:
        case CAS_E_CORRUPT:
        case CAS_E_UNSUPPORTED:
        case CAS_E_INVALID:
        case CAS_E_LIMIT:
                cas_log(CAS_LOG_WARN, "references", "%s=%s error=\"%s\"", what,
                        cas_digest_text(blob, text), why->msg);
                return 0;
        default:
                *err = *why;
                return -(int)why->code;
        }
}

/* ---- what there was ---- */

struct dropping {
        struct anew *a;
        enum cas_family family;
};

static int drop_one(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                    size_t value_len CAS_UNUSED, struct cas_err *err)
{
        const struct dropping *d = arg;
        cas_batch_del(d->a->batch, d->family, key, key_len);
        return flush(d->a, BATCH_BYTES, err);
}

static int drop_family(struct anew *a, enum cas_family family, struct cas_err *err)
{
        struct dropping d = {.a = a, .family = family};
        int rc = cas_index_scan(a->s->index, &(struct cas_scan){.family = family}, drop_one, &d,
                                err);
        return rc < 0 ? rc : flush(a, 0, err);
}

/* ---- names and leases ---- */

static int add_nodes(struct anew *a, const struct cas_digest *root, struct cas_err *err)
{
        cas_cleanup_nodes struct cas_nodes nodes = {.store = a->s, .batch = a->batch};
        cas_nodes_init(&nodes);
        cas_nodes_add(&nodes, root);
        return cas_nodes_run(&nodes, err);
}

static int of_name(struct anew *a, enum cas_family family, enum cas_blob_role role, const void *key,
                   size_t key_len, const void *value, size_t value_len, struct cas_name_record *rec,
                   struct cas_err *err)
{
        int rc = cas_name_record_from_index(family, key, key_len, value, value_len, rec, err);
        if (rc == 0)
                cas_batch_put_blob_ref(a->batch, &rec->digest, role, rec->repo, strlen(rec->repo));
        return rc;
}

static int of_manifest(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct anew *a = arg;
        struct cas_name_record rec;
        int rc = of_name(a, CAS_FAMILY_MANIFESTS, CAS_BLOB_LINKED, key, key_len, value, value_len,
                         &rec, err);
        if (rc == 0)
                rc = add_nodes(a, &rec.digest, err);
        return rc < 0 ? rc : step(a, err);
}

static int of_link(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                   struct cas_err *err)
{
        struct anew *a = arg;
        struct cas_name_record rec;
        int rc = of_name(a, CAS_FAMILY_BLOB_LINKS, CAS_BLOB_IN_REPO, key, key_len, value, value_len,
                         &rec, err);
        return rc < 0 ? rc : step(a, err);
}

/* Of an image that is linked no more, but mounted. */
static int of_lease(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *err)
{
        struct anew *a = arg;
        struct cas_lease lease;
        int rc = cas_lease_decode(key, key_len, value, value_len, &lease, err);
        if (rc == 0)
                rc = add_nodes(a, &lease.root, err);
        return rc < 0 ? rc : step(a, err);
}

/* ---- layers, recipes, trees, objects ---- */

static int add_layer(struct anew *a, const struct cas_layer_record *rec, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        const struct cas_listing none = {0};
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_layer_listing(a->s, rec, &listing, &why);
        if (rc < 0)
                rc = pass_damage("layer", &rec->blob, &why, err);
        if (rc == 0)
                rc = cas_layer_references(&rec->blob, &rec->listing,
                                          why.code == CAS_OK ? &listing : &none, put, a, err);
        return rc < 0 ? rc : step(a, err);
}

static int of_layer(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *err)
{
        struct cas_layer_record rec;
        struct cas_digest blob;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc == 0)
                rc = cas_layer_record_decode(&blob, value, value_len, &rec, err);
        return rc < 0 ? rc : add_layer(arg, &rec, err);
}

static int of_elsewhere(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        struct cas_digest blob;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc == 0)
                rc = cas_elsewhere_decode(&blob, value, value_len, rec, err);
        return rc < 0 ? rc : add_layer(arg, &rec->layer, err);
}

static int add_recipe(struct anew *a, const struct cas_recipe_record *rec, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *opened = NULL;
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_recipe_open(a->s, &rec->recipe, &opened, &why);
        if (rc == 0)
                rc = cas_recipe_references(&rec->blob, &rec->recipe, opened, put, a, &why);
        if (rc == 0)
                return 0;
        struct cas_record_key key; /* it is the blob's, and can be repaired */
        cas_key_digest(&rec->blob, &key);
        cas_batch_put_object_ref(a->batch, &rec->recipe, CAS_OBJECT_RECIPE, key.bytes, key.len);
        return pass_damage("recipe", &rec->blob, &why, err);
}

static int of_recipe(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        struct anew *a = arg;
        struct cas_recipe_record rec;
        struct cas_digest blob;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc == 0)
                rc = cas_recipe_record_decode(&blob, value, value_len, &rec, err);
        if (rc == 0 && !cas_hash_is_zero(&rec.recipe))
                rc = add_recipe(a, &rec, err);
        return rc < 0 ? rc : step(a, err);
}

static int of_tree(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                   struct cas_err *err)
{
        struct anew *a = arg;
        struct cas_tree_record rec = {0};
        struct cas_hash hash;
        if (key_len != CAS_HASH_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "tree: malformed key");
        memcpy(hash.bytes, key, CAS_HASH_BYTES);
        int rc = cas_tree_record_decode(value, value_len, &rec, err);
        if (rc == 0)
                rc = cas_tree_references(&hash, &rec, put, a, err);
        free(rec.layers);
        return rc < 0 ? rc : step(a, err);
}

static int of_object(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        struct anew *a = arg;
        struct cas_object_record rec;
        struct cas_hash id;
        if (key_len != CAS_HASH_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "object: malformed key");
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        int rc = cas_object_record_decode(value, value_len, &rec, err);
        if (rc == 0 && rec.chunk_count > 1)
                rc = cas_object_references(a->s->index, &id, put, a, err);
        return rc < 0 ? rc : step(a, err);
}

/* ---- all ---- */

static int run(struct anew *a, struct cas_err *err)
{
        static const enum cas_family references[] = {CAS_FAMILY_NODES, CAS_FAMILY_BLOB_REFS,
                                                     CAS_FAMILY_OBJECT_REFS, CAS_FAMILY_CHUNK_REFS};
        static const struct {
                enum cas_family family;
                cas_scan_fn fn;
        } parents[] = {
                {CAS_FAMILY_MANIFESTS, of_manifest},  {CAS_FAMILY_BLOB_LINKS, of_link},
                {CAS_FAMILY_LEASES, of_lease},        {CAS_FAMILY_LAYERS, of_layer},
                {CAS_FAMILY_ELSEWHERE, of_elsewhere}, {CAS_FAMILY_RECIPES, of_recipe},
                {CAS_FAMILY_TREES, of_tree},          {CAS_FAMILY_OBJECTS, of_object},
        };
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(references); i++)
                rc = drop_family(a, references[i], err);
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(parents); i++)
                rc = cas_index_scan(a->s->index, &(struct cas_scan){.family = parents[i].family},
                                    parents[i].fn, a, err);
        return rc < 0 ? rc : flush(a, 0, err);
}

int cas_refs_rebuild(struct cas_store *s, const struct cas_progress *progress, struct cas_err *err)
{
        struct anew a = {.s = s, .progress = progress, .batch = cas_batch_new()};
        int rc = run(&a, err);
        cas_batch_free(a.batch);
        return rc < 0 ? cas_err_wrap(err, "references") : 0;
}
