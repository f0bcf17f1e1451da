/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/refscheck_int.h"

#include <stdio.h>

#include "cas/blob.h"
#include "cas/blobcache_int.h"
#include "cas/elsewhere_int.h"
#include "cas/namerecord_int.h"
#include "cas/recipe_int.h"
#include "cas/refnodes_int.h"

bool cas_refs_checks(enum cas_family family)
{
        switch (family) {
        case CAS_FAMILY_MANIFESTS:
        case CAS_FAMILY_BLOB_LINKS:
        case CAS_FAMILY_LAYERS:
        case CAS_FAMILY_ELSEWHERE:
        case CAS_FAMILY_RECIPES:
        case CAS_FAMILY_TREES:
        case CAS_FAMILY_OBJECTS:
        case CAS_FAMILY_NODES:
        case CAS_FAMILY_BLOB_REFS:
        case CAS_FAMILY_OBJECT_REFS:
        case CAS_FAMILY_CHUNK_REFS:
                return true;
        default:
                return false;
        }
}

/* One record, and what is found of it. */
struct looking {
        struct cas_store *s;
        enum cas_family family;
        const void *key;
        size_t key_len;
        cas_refs_found_fn fn; /* NULL: only whether there is anything */
        void *arg;
        size_t found;
};

static void found(struct looking *l, bool missing, const struct cas_reference *ref)
{
        l->found++;
        if (l->fn)
                l->fn(l->arg, missing, ref);
}

static int is_there(struct cas_store *s, const struct cas_reference *ref, bool *out,
                    struct cas_err *err)
{
        return cas_index_has(s->index, (enum cas_family)ref->family, ref->key, ref->key_len, out,
                             err);
}

/* ---- what a record asks for ---- */

static int expect(void *arg, const struct cas_reference *ref, struct cas_err *err)
{
        struct looking *l = arg;
        bool there;
        int rc = is_there(l->s, ref, &there, err);
        if (rc == 0 && !there)
                found(l, true, ref);
        return rc;
}

/* Of reading objects and blobs: what is damaged or gone is not for this to tell. */
static int pass_damage(int rc, const struct cas_err *why, struct cas_err *err)
{
        if (rc == 0 || rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED ||
            rc == -CAS_E_INVALID || rc == -CAS_E_LIMIT)
                return 0;
        *err = *why;
        return rc;
}

/* The manifest, where it is here and is one. */
static int load(struct looking *l, const struct cas_digest *digest, struct cas_manifest *m,
                bool *is, struct cas_err *err)
{
        cas_cleanup_nodes struct cas_nodes nodes = {.store = l->s};
        bool here;
        cas_nodes_init(&nodes);
        return cas_nodes_load(&nodes, digest, m, is, &here, err);
}

/* What is here and is a manifest has to be a node. */
static int expect_node(struct looking *l, const struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        bool is_node, is_manifest = false;
        int rc = cas_node_get(l->s->index, digest, &is_node, NULL, err);
        if (rc == 0 && !is_node)
                rc = load(l, digest, &m, &is_manifest, err);
        if (rc < 0 || !is_manifest)
                return rc;
        struct cas_reference ref;
        cas_reference_of_node(&ref, digest, m.media_type);
        return expect(l, &ref, err);
}

static int check_name(struct looking *l, const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_name_record rec;
        struct cas_reference ref;
        struct cas_err bad = CAS_ERR_INIT;
        bool is_manifest = l->family == CAS_FAMILY_MANIFESTS;
        if (cas_name_record_from_index(l->family, l->key, l->key_len, value, value_len, &rec,
                                       &bad) < 0)
                return 0;
        cas_reference_of_blob(&ref, &rec.digest, is_manifest ? CAS_BLOB_LINKED : CAS_BLOB_IN_REPO,
                              rec.repo, strlen(rec.repo));
        int rc = expect(l, &ref, err);
        return rc == 0 && is_manifest ? expect_node(l, &rec.digest, err) : rc;
}

static int check_listing(struct looking *l, const struct cas_layer_record *rec, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        const struct cas_listing none = {0};
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_layer_listing(l->s, rec, &listing, &why);
        if (pass_damage(rc, &why, err) < 0)
                return rc;
        return cas_layer_references(&rec->blob, &rec->listing, rc == 0 ? &listing : &none, expect,
                                    l, err);
}

static int check_layer(struct looking *l, const struct cas_digest *blob, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct cas_layer_record rec;
        struct cas_err bad = CAS_ERR_INIT;
        if (cas_layer_record_decode(blob, value, value_len, &rec, &bad) < 0)
                return 0;
        return check_listing(l, &rec, err);
}

static int check_elsewhere(struct looking *l, const struct cas_digest *blob, const void *value,
                           size_t value_len, struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        struct cas_err bad = CAS_ERR_INIT;
        if (cas_elsewhere_decode(blob, value, value_len, rec, &bad) < 0)
                return 0;
        return check_listing(l, &rec->layer, err);
}

static int check_recipe(struct looking *l, const struct cas_digest *blob, const void *value,
                        size_t value_len, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *opened = NULL;
        struct cas_recipe_record rec;
        struct cas_err why = CAS_ERR_INIT;
        if (cas_recipe_record_decode(blob, value, value_len, &rec, &why) < 0 ||
            cas_hash_is_zero(&rec.recipe))
                return 0;
        int rc = cas_recipe_open(l->s, &rec.recipe, &opened, &why);
        if (rc == 0)
                rc = cas_recipe_references(blob, &rec.recipe, opened, expect, l, &why);
        return pass_damage(rc, &why, err);
}

static int check_tree(struct looking *l, const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_tree_record rec = {0};
        struct cas_err bad = CAS_ERR_INIT;
        struct cas_hash key;
        if (l->key_len != CAS_HASH_BYTES ||
            cas_tree_record_decode(value, value_len, &rec, &bad) < 0)
                return 0;
        memcpy(key.bytes, l->key, CAS_HASH_BYTES);
        int rc = cas_tree_references(&key, &rec, expect, l, err);
        free(rec.layers);
        return rc;
}

static int check_object(struct looking *l, const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_err why = CAS_ERR_INIT;
        struct cas_hash id;
        if (l->key_len != CAS_HASH_BYTES ||
            cas_object_record_decode(value, value_len, &rec, &why) < 0 || rec.chunk_count < 2)
                return 0;
        memcpy(id.bytes, l->key, CAS_HASH_BYTES);
        return pass_damage(cas_object_references(l->s->index, &id, expect, l, &why), &why, err);
}

/* ---- what is there ---- */

/* Of one key of a family that begins so. */
static int any_key(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                   const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                   struct cas_err *err CAS_UNUSED)
{
        *(bool *)arg = true;
        return 1;
}

static int has_prefix(struct cas_store *s, enum cas_family family, const void *prefix, size_t len,
                      bool *out, struct cas_err *err)
{
        *out = false;
        return cas_index_scan(
                s->index, &(struct cas_scan){.family = family, .prefix = prefix, .prefix_len = len},
                any_key, out, err);
}

static void reference_from(struct cas_reference *ref, enum cas_family family, const void *key,
                           size_t key_len, const void *value, size_t value_len)
{
        memset(ref, 0, sizeof(*ref));
        ref->family = (uint8_t)family;
        ref->key_len = (uint8_t)cas_min_u64(key_len, sizeof(ref->key));
        ref->value_len = (uint16_t)cas_min_u64(value_len, sizeof(ref->value));
        memcpy(ref->key, key, ref->key_len);
        if (ref->value_len > 0)
                memcpy(ref->value, value, ref->value_len);
}

/* The record that a reference to a blob comes from. */
static int blob_parent(struct cas_store *s, const struct cas_reference *ref, bool *out,
                       struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(ref->key, ref->key_len);
        struct cas_digest child;
        struct cas_record_key key;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        cas_cursor_digest(&c, &child);
        const uint8_t role = cas_cursor_u8(&c);
        *out = false;
        if (c.failed || cas_cursor_left(&c) != CAS_REF_PARENT_BYTES)
                return 0;
        switch ((enum cas_blob_role)role) {
        case CAS_BLOB_LINKED:
        case CAS_BLOB_IN_REPO:
                if (ref->value_len == 0 || ref->value_len >= sizeof(repo))
                        return 0;
                memcpy(repo, ref->value, ref->value_len);
                repo[ref->value_len] = '\0';
                cas_key_repo_digest(repo, &child, &key);
                return cas_index_has(s->index,
                                     role == CAS_BLOB_LINKED ? CAS_FAMILY_MANIFESTS
                                                             : CAS_FAMILY_BLOB_LINKS,
                                     key.bytes, key.len, out, err);
        case CAS_BLOB_NAMED:
        case CAS_BLOB_CHILD:
                return cas_index_has(s->index, CAS_FAMILY_NODES, ref->value, ref->value_len, out,
                                     err);
        case CAS_BLOB_IN_TREE:
                return cas_index_has(s->index, CAS_FAMILY_TREES, ref->value, ref->value_len, out,
                                     err);
        }
        return 0;
}

/* Whether a blob's layer, here or elsewhere, or recipe is the object that begins so. */
static int is_object_of(struct cas_store *s, enum cas_object_role role,
                        const struct cas_digest *blob, const uint8_t *prefix, bool *out,
                        struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *far = cas_xcalloc(1, sizeof(*far));
        struct cas_layer_record layer;
        struct cas_recipe_record recipe;
        struct cas_err why = CAS_ERR_INIT;
        int rc;
        if (role == CAS_OBJECT_RECIPE) {
                rc = cas_recipe_stat(s, blob, &recipe, &why);
                *out = rc == 0 && memcmp(recipe.recipe.bytes, prefix, CAS_REF_CHILD_BYTES) == 0;
                return pass_damage(rc, &why, err);
        }
        rc = cas_layer_stat(s, blob, &layer, &why);
        *out = rc == 0 && memcmp(layer.listing.bytes, prefix, CAS_REF_CHILD_BYTES) == 0;
        if (*out || pass_damage(rc, &why, err) < 0)
                return *out ? 0 : rc;
        rc = cas_elsewhere_stat(s, blob, far, &why);
        *out = rc == 0 && memcmp(far->layer.listing.bytes, prefix, CAS_REF_CHILD_BYTES) == 0;
        return pass_damage(rc, &why, err);
}

static int object_parent(struct cas_store *s, const struct cas_reference *ref, bool *out,
                         struct cas_err *err)
{
        const uint8_t role = ref->key[CAS_REF_CHILD_BYTES];
        struct cas_digest blob;
        struct cas_err bad = CAS_ERR_INIT;
        *out = false;
        if (ref->key_len != CAS_REF_CHILD_BYTES + 1 + CAS_REF_PARENT_BYTES)
                return 0;
        switch ((enum cas_object_role)role) {
        case CAS_OBJECT_LISTING:
        case CAS_OBJECT_RECIPE:
                if (cas_digest_value_decode(ref->value, ref->value_len, &blob, &bad) < 0)
                        return 0;
                return is_object_of(s, (enum cas_object_role)role, &blob, ref->key, out, err);
        case CAS_OBJECT_FILE:
        case CAS_OBJECT_SOURCE:
                return has_prefix(s, CAS_FAMILY_OBJECTS, ref->key + CAS_REF_CHILD_BYTES + 1,
                                  CAS_REF_PARENT_BYTES, out, err);
        }
        return 0;
}

/* A node is one as long as there is the blob, or something wants it back. */
static int node_is_right(struct cas_store *s, const struct cas_reference *ref, bool *out,
                         struct cas_err *err)
{
        struct cas_digest digest;
        struct cas_err bad = CAS_ERR_INIT;
        *out = false;
        if (cas_digest_value_decode(ref->key, ref->key_len, &digest, &bad) < 0)
                return 0;
        int rc = cas_index_has(s->index, CAS_FAMILY_BLOBS, ref->key, ref->key_len, out, err);
        return rc < 0 || *out ? rc : cas_blob_is_needed(s->index, &digest, out, err);
}

static int is_right(struct cas_store *s, const struct cas_reference *ref, bool *out,
                    struct cas_err *err)
{
        switch ((enum cas_family)ref->family) {
        case CAS_FAMILY_NODES:
                return node_is_right(s, ref, out, err);
        case CAS_FAMILY_BLOB_REFS:
                return blob_parent(s, ref, out, err);
        case CAS_FAMILY_OBJECT_REFS:
                return object_parent(s, ref, out, err);
        default:
                *out = false;
                if (ref->key_len != CAS_REF_CHILD_BYTES + CAS_REF_PARENT_BYTES)
                        return 0;
                return has_prefix(s, CAS_FAMILY_OBJECTS, ref->key + CAS_REF_CHILD_BYTES,
                                  CAS_REF_PARENT_BYTES, out, err);
        }
}

/* A parent never goes before its references do. */
static int check_reference(struct looking *l, const struct cas_reference *ref, struct cas_err *err)
{
        bool right, there;
        int rc = is_right(l->s, ref, &right, err);
        if (rc < 0 || right)
                return rc;
        rc = is_there(l->s, ref, &there, err);
        if (rc == 0 && there)
                rc = is_right(l->s, ref, &right, err);
        if (rc == 0 && there && !right)
                found(l, false, ref);
        return rc;
}

/* A node's own references, and those that its children should be. */
static int check_node(struct looking *l, const void *value, size_t value_len, struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_reference ref;
        struct cas_digest digest;
        struct cas_err bad = CAS_ERR_INIT;
        bool is_manifest;
        reference_from(&ref, CAS_FAMILY_NODES, l->key, l->key_len, value, value_len);
        int rc = check_reference(l, &ref, err);
        if (rc < 0 || cas_digest_value_decode(l->key, l->key_len, &digest, &bad) < 0)
                return rc;
        rc = load(l, &digest, &m, &is_manifest, err);
        if (rc == 0 && is_manifest)
                rc = cas_manifest_references(&digest, &m, expect, l, err);
        for (size_t i = 0; rc == 0 && m.kind == CAS_MANIFEST_INDEX && i < m.child_count; i++) {
                if (cas_media_type_is_manifest(m.children[i].media_type))
                        rc = expect_node(l, &m.children[i].digest, err);
        }
        return rc;
}

/* ---- records ---- */

static int look(struct looking *l, const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_digest blob;
        struct cas_err bad = CAS_ERR_INIT;
        struct cas_reference ref;
        switch (l->family) {
        case CAS_FAMILY_MANIFESTS:
        case CAS_FAMILY_BLOB_LINKS:
                return check_name(l, value, value_len, err);
        case CAS_FAMILY_LAYERS:
        case CAS_FAMILY_ELSEWHERE:
        case CAS_FAMILY_RECIPES:
                if (cas_digest_value_decode(l->key, l->key_len, &blob, &bad) < 0)
                        return 0;
                return (l->family == CAS_FAMILY_LAYERS ? check_layer
                        : l->family == CAS_FAMILY_ELSEWHERE
                                ? check_elsewhere
                                : check_recipe)(l, &blob, value, value_len, err);
        case CAS_FAMILY_TREES:
                return check_tree(l, value, value_len, err);
        case CAS_FAMILY_OBJECTS:
                return check_object(l, value, value_len, err);
        case CAS_FAMILY_NODES:
                return check_node(l, value, value_len, err);
        default:
                cas_assert(cas_refs_checks(l->family));
                reference_from(&ref, l->family, l->key, l->key_len, value, value_len);
                return check_reference(l, &ref, err);
        }
}

int cas_refs_check_record(struct cas_store *s, enum cas_family family, const void *key,
                          size_t key_len, const void *value, size_t value_len, cas_refs_found_fn fn,
                          void *arg, struct cas_err *err)
{
        struct looking l = {.s = s, .family = family, .key = key, .key_len = key_len};
        cas_cleanup_buf struct cas_buf now = CAS_BUF_INIT;
        struct cas_err gone = CAS_ERR_INIT;
        int rc = look(&l, value, value_len, err);
        if (rc < 0 || l.found == 0)
                return rc;
        /* Once more, by what the record says now. */
        rc = cas_index_get(s->index, family, key, key_len, &now, &gone);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = gone;
                return rc;
        }
        l.fn = fn;
        l.arg = arg;
        return look(&l, now.data, now.len_bytes, err);
}

struct checking {
        struct cas_store *s;
        enum cas_family family;
        unsigned left;
        struct cas_record_key *at;
        cas_refs_found_fn fn;
        void *arg;
};

static int check_one(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        struct checking *c = arg;
        if (c->left == 0) {
                cas_assert(key_len <= sizeof(c->at->bytes));
                memcpy(c->at->bytes, key, key_len);
                c->at->len = key_len;
                return 1;
        }
        c->left--;
        return cas_refs_check_record(c->s, c->family, key, key_len, value, value_len, c->fn, c->arg,
                                     err);
}

int cas_refs_check(struct cas_store *s, enum cas_family family, struct cas_record_key *at,
                   unsigned max, cas_refs_found_fn fn, void *arg, struct cas_err *err)
{
        const struct cas_record_key from = *at;
        struct checking c = {.s = s, .family = family, .left = max, .at = at, .fn = fn, .arg = arg};
        at->len = 0;
        return cas_index_scan(
                s->index,
                &(struct cas_scan){.family = family, .from = from.bytes, .from_len = from.len},
                check_one, &c, err);
}

/* ---- repair ---- */

static int put_missing(struct cas_store *s, const struct cas_reference *ref,
                       struct cas_batch *batch, struct cas_err *err)
{
        cas_cleanup_nodes struct cas_nodes nodes = {.store = s, .batch = batch};
        struct cas_digest digest;
        if (ref->family != CAS_FAMILY_NODES) {
                cas_batch_put_reference(batch, ref);
                return 0;
        }
        int rc = cas_digest_value_decode(ref->key, ref->key_len, &digest, err);
        if (rc < 0)
                return rc;
        cas_nodes_init(&nodes);
        cas_nodes_add(&nodes, &digest);
        return cas_nodes_run(&nodes, err);
}

/* Nobody publishes a manifest, a layer or a recipe meanwhile, and so nobody is about to need what
 * is taken away; lists of chunks are looked at again by who finds one stale. */
int cas_refs_repair(struct cas_store *s, bool missing, const struct cas_reference *ref,
                    struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        bool right = false;
        int rc;
        cas_blob_files_lock(s, true);
        if (missing) {
                rc = put_missing(s, ref, batch, err);
        } else {
                rc = is_right(s, ref, &right, err);
                if (rc == 0 && !right)
                        cas_batch_del_reference(batch, ref);
        }
        if (rc == 0)
                rc = cas_index_write(s->index, batch, err);
        cas_blob_files_unlock(s);
        return rc;
}

static void hex(const uint8_t *data, size_t len, struct cas_buf *out)
{
        for (size_t i = 0; i < len; i++)
                cas_buf_printf(out, "%02x", data[i]);
}

/* The repository's name, of a reference that has one. */
static bool repo_of(const struct cas_reference *ref, size_t child_len,
                    char repo[CAS_REPO_NAME_BYTES_MAX + 1])
{
        if (ref->family != CAS_FAMILY_BLOB_REFS || child_len == 0 ||
            ref->value_len > CAS_REPO_NAME_BYTES_MAX)
                return false;
        const uint8_t role = ref->key[child_len - 1];
        memcpy(repo, ref->value, ref->value_len);
        repo[ref->value_len] = '\0';
        return (role == CAS_BLOB_LINKED || role == CAS_BLOB_IN_REPO) && cas_repo_name_valid(repo);
}

char *cas_reference_text(const struct cas_reference *ref, char out[CAS_REFERENCE_TEXT_BYTES])
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        size_t child = ref->key_len;
        if (ref->family != CAS_FAMILY_NODES && child > CAS_REF_PARENT_BYTES)
                child -= CAS_REF_PARENT_BYTES;
        cas_buf_printf(&text, "%s ", cas_family_name((enum cas_family)ref->family));
        hex(ref->key, child, &text);
        if (child < ref->key_len)
                cas_buf_append_str(&text, " of ");
        if (child < ref->key_len && repo_of(ref, child, repo))
                cas_buf_append_str(&text, repo);
        else
                hex(ref->key + child, ref->key_len - child, &text);
        (void)snprintf(out, CAS_REFERENCE_TEXT_BYTES, "%s", cas_buf_str(&text));
        return out;
}
