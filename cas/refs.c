/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/refs_int.h"

/* ---- as bytes ---- */

static void key_append(struct cas_reference *r, const void *data, size_t len)
{
        cas_assert(len <= sizeof(r->key) - r->key_len);
        memcpy(r->key + r->key_len, data, len);
        r->key_len = (uint8_t)(r->key_len + len);
}

static void key_append_digest(struct cas_reference *r, const struct cas_digest *d)
{
        size_t len = cas_digest_alg_bytes(d->alg);
        cas_assert(len > 0);
        key_append(r, &d->alg, 1);
        key_append(r, d->bytes, len);
}

static void value_set(struct cas_reference *r, const void *data, size_t len)
{
        cas_assert(len <= sizeof(r->value));
        memcpy(r->value, data, len);
        r->value_len = (uint16_t)len;
}

static void reference_begin(struct cas_reference *r, enum cas_family family)
{
        r->family = (uint8_t)family;
        r->key_len = 0;
        r->value_len = 0;
        r->value[0] = 0;
}

void cas_reference_of_blob(struct cas_reference *out, const struct cas_digest *child,
                           enum cas_blob_role role, const void *parent, size_t parent_len)
{
        const uint8_t role_byte = (uint8_t)role;
        const uint8_t *name = parent;
        struct cas_hash hash;
        reference_begin(out, CAS_FAMILY_BLOB_REFS);
        key_append_digest(out, child);
        key_append(out, &role_byte, 1);
        switch (role) {
        case CAS_BLOB_LINKED:
        case CAS_BLOB_IN_REPO:
                cas_sha256(parent, parent_len, &hash);
                name = hash.bytes;
                break;
        case CAS_BLOB_NAMED:
        case CAS_BLOB_CHILD:
                name++; /* behind the algorithm */
                break;
        case CAS_BLOB_IN_TREE:
                break;
        }
        cas_assert(parent_len > CAS_REF_PARENT_BYTES || name == hash.bytes);
        key_append(out, name, CAS_REF_PARENT_BYTES);
        value_set(out, parent, parent_len);
}

void cas_reference_of_object(struct cas_reference *out, const struct cas_hash *child,
                             enum cas_object_role role, const void *parent, size_t parent_len)
{
        const uint8_t role_byte = (uint8_t)role;
        const bool of_blob = role == CAS_OBJECT_LISTING || role == CAS_OBJECT_RECIPE;
        cas_assert(parent_len > CAS_REF_PARENT_BYTES);
        reference_begin(out, CAS_FAMILY_OBJECT_REFS);
        key_append(out, child->bytes, CAS_REF_CHILD_BYTES);
        key_append(out, &role_byte, 1);
        key_append(out, (const uint8_t *)parent + of_blob, CAS_REF_PARENT_BYTES);
        if (of_blob)
                value_set(out, parent, parent_len);
}

void cas_reference_of_chunk(struct cas_reference *out, const struct cas_hash *chunk,
                            const struct cas_hash *object)
{
        reference_begin(out, CAS_FAMILY_CHUNK_REFS);
        key_append(out, chunk->bytes, CAS_REF_CHILD_BYTES);
        key_append(out, object->bytes, CAS_REF_PARENT_BYTES);
}

void cas_reference_of_node(struct cas_reference *out, const struct cas_digest *manifest,
                           const char *media_type)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        reference_begin(out, CAS_FAMILY_NODES);
        key_append_digest(out, manifest);
        cas_text_append(&value, media_type);
        value_set(out, value.data, value.len_bytes);
}

/* ---- writing ---- */

void cas_batch_put_reference(struct cas_batch *b, const struct cas_reference *ref)
{
        cas_batch_put(b, (enum cas_family)ref->family, ref->key, ref->key_len, ref->value,
                      ref->value_len);
}

void cas_batch_del_reference(struct cas_batch *b, const struct cas_reference *ref)
{
        cas_batch_del(b, (enum cas_family)ref->family, ref->key, ref->key_len);
}

void cas_batch_put_blob_ref(struct cas_batch *b, const struct cas_digest *child,
                            enum cas_blob_role role, const void *parent, size_t parent_len)
{
        struct cas_reference ref;
        cas_reference_of_blob(&ref, child, role, parent, parent_len);
        cas_batch_put_reference(b, &ref);
}

void cas_batch_del_blob_ref(struct cas_batch *b, const struct cas_digest *child,
                            enum cas_blob_role role, const void *parent, size_t parent_len)
{
        struct cas_reference ref;
        cas_reference_of_blob(&ref, child, role, parent, parent_len);
        cas_batch_del_reference(b, &ref);
}

void cas_batch_put_object_ref(struct cas_batch *b, const struct cas_hash *child,
                              enum cas_object_role role, const void *parent, size_t parent_len)
{
        struct cas_reference ref;
        cas_reference_of_object(&ref, child, role, parent, parent_len);
        cas_batch_put_reference(b, &ref);
}

void cas_batch_del_object_ref(struct cas_batch *b, const struct cas_hash *child,
                              enum cas_object_role role, const void *parent, size_t parent_len)
{
        struct cas_reference ref;
        cas_reference_of_object(&ref, child, role, parent, parent_len);
        cas_batch_del_reference(b, &ref);
}

void cas_batch_put_chunk_ref(struct cas_batch *b, const struct cas_hash *chunk,
                             const struct cas_hash *object)
{
        struct cas_reference ref;
        cas_reference_of_chunk(&ref, chunk, object);
        cas_batch_put_reference(b, &ref);
}

void cas_batch_del_chunk_ref(struct cas_batch *b, const struct cas_hash *chunk,
                             const struct cas_hash *object)
{
        struct cas_reference ref;
        cas_reference_of_chunk(&ref, chunk, object);
        cas_batch_del_reference(b, &ref);
}

/* ---- manifests ---- */

int cas_manifest_references(const struct cas_digest *manifest, const struct cas_manifest *m,
                            cas_reference_fn fn, void *arg, struct cas_err *err)
{
        struct cas_reference ref;
        struct cas_record_key parent;
        cas_key_digest(manifest, &parent);
        cas_reference_of_node(&ref, manifest, m->media_type);
        int rc = fn(arg, &ref, err);
        if (rc == 0 && m->kind == CAS_MANIFEST_IMAGE) {
                cas_reference_of_blob(&ref, &m->config.digest, CAS_BLOB_NAMED, parent.bytes,
                                      parent.len);
                rc = fn(arg, &ref, err);
        }
        for (size_t i = 0; rc == 0 && i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                bool child =
                        m->kind == CAS_MANIFEST_INDEX && cas_media_type_is_manifest(d->media_type);
                cas_reference_of_blob(&ref, &d->digest, child ? CAS_BLOB_CHILD : CAS_BLOB_NAMED,
                                      parent.bytes, parent.len);
                rc = fn(arg, &ref, err);
        }
        return rc < 0 ? rc : 0;
}

static int put_one(void *arg, const struct cas_reference *ref, struct cas_err *err CAS_UNUSED)
{
        cas_batch_put_reference(arg, ref);
        return 0;
}

static int del_one(void *arg, const struct cas_reference *ref, struct cas_err *err CAS_UNUSED)
{
        cas_batch_del_reference(arg, ref);
        return 0;
}

void cas_batch_put_manifest_refs(struct cas_batch *b, const struct cas_digest *manifest,
                                 const struct cas_manifest *m)
{
        struct cas_err never = CAS_ERR_INIT;
        int rc = cas_manifest_references(manifest, m, put_one, b, &never);
        cas_assert(rc == 0);
}

void cas_batch_del_manifest_refs(struct cas_batch *b, const struct cas_digest *manifest,
                                 const struct cas_manifest *m)
{
        struct cas_err never = CAS_ERR_INIT;
        int rc = cas_manifest_references(manifest, m, del_one, b, &never);
        cas_assert(rc == 0);
}

/* ---- asking ---- */

int cas_node_get(struct cas_index *ix, const struct cas_digest *manifest, bool *out,
                 char media_type[256], struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        char text[256];
        cas_key_digest(manifest, &key);
        int rc = cas_index_get(ix, CAS_FAMILY_NODES, key.bytes, key.len, &value, &miss);
        *out = rc == 0;
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        struct cas_cursor c = cas_cursor_over(value.data, value.len_bytes);
        cas_cursor_text(&c, text, sizeof(text));
        rc = cas_cursor_end(&c, "node", err);
        if (rc == 0 && media_type)
                memcpy(media_type, text, sizeof(text));
        return rc;
}

struct refs_scan {
        cas_ref_fn fn;
        void *arg;
        size_t child_len; /* of keys, before the role */
        bool has_role;
};

static int see_ref(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                   struct cas_err *err)
{
        const struct refs_scan *scan = arg;
        const uint8_t *at = (const uint8_t *)key + scan->child_len;
        if (key_len != scan->child_len + scan->has_role + CAS_REF_PARENT_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "reference: malformed key");
        struct cas_ref_seen seen = {.role = scan->has_role ? *at : 0,
                                    .parent = at + scan->has_role,
                                    .parent_len = CAS_REF_PARENT_BYTES};
        if (value_len > 0) {
                seen.parent = value;
                seen.parent_len = value_len;
        }
        return scan->fn(scan->arg, &seen, err);
}

int cas_blob_refs_each(struct cas_index *ix, const struct cas_digest *blob, cas_ref_fn fn,
                       void *arg, struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_digest(blob, &key);
        struct refs_scan scan = {.fn = fn, .arg = arg, .child_len = key.len, .has_role = true};
        return cas_index_scan(ix,
                              &(struct cas_scan){.family = CAS_FAMILY_BLOB_REFS,
                                                 .prefix = key.bytes,
                                                 .prefix_len = key.len},
                              see_ref, &scan, err);
}

static int refs_of_hash(struct cas_index *ix, enum cas_family family, const struct cas_hash *child,
                        cas_ref_fn fn, void *arg, struct cas_err *err)
{
        struct refs_scan scan = {.fn = fn,
                                 .arg = arg,
                                 .child_len = CAS_REF_CHILD_BYTES,
                                 .has_role = family == CAS_FAMILY_OBJECT_REFS};
        return cas_index_scan(ix,
                              &(struct cas_scan){.family = family,
                                                 .prefix = child->bytes,
                                                 .prefix_len = CAS_REF_CHILD_BYTES},
                              see_ref, &scan, err);
}

int cas_object_refs_each(struct cas_index *ix, const struct cas_hash *object, cas_ref_fn fn,
                         void *arg, struct cas_err *err)
{
        return refs_of_hash(ix, CAS_FAMILY_OBJECT_REFS, object, fn, arg, err);
}

int cas_chunk_refs_each(struct cas_index *ix, const struct cas_hash *chunk, cas_ref_fn fn,
                        void *arg, struct cas_err *err)
{
        return refs_of_hash(ix, CAS_FAMILY_CHUNK_REFS, chunk, fn, arg, err);
}

struct need {
        const char *roles;
        bool found;
};

static int look_for_role(void *arg, const struct cas_ref_seen *ref, struct cas_err *err CAS_UNUSED)
{
        struct need *need = arg;
        need->found = !need->roles || (ref->role != 0 && strchr(need->roles, ref->role) != NULL);
        return need->found;
}

int cas_blob_is_needed(struct cas_index *ix, const struct cas_digest *blob, bool *out,
                       struct cas_err *err)
{
        static const char keeping[] = {CAS_BLOB_IN_REPO, CAS_BLOB_CHILD, CAS_BLOB_NAMED,
                                       CAS_BLOB_LINKED, '\0'};
        struct need need = {.roles = keeping};
        int rc = cas_blob_refs_each(ix, blob, look_for_role, &need, err);
        *out = need.found;
        return rc;
}

int cas_object_is_needed(struct cas_index *ix, const struct cas_hash *object, const char *roles,
                         bool *out, struct cas_err *err)
{
        struct need need = {.roles = roles};
        int rc = cas_object_refs_each(ix, object, look_for_role, &need, err);
        *out = need.found;
        return rc;
}

int cas_chunk_is_needed(struct cas_index *ix, const struct cas_hash *chunk, bool *out,
                        struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        struct need need = {0};
        int rc = cas_chunk_refs_each(ix, chunk, look_for_role, &need, err);
        *out = need.found;
        if (rc < 0 || need.found)
                return rc;
        rc = cas_index_get_object(ix, chunk, &rec, &miss);
        *out = rc == 0 && rec.chunk_count == 1;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}
