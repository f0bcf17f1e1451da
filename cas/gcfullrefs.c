/* SPDX-License-Identifier: Apache-2.0 */
/* A full run's look at references without a parent, at objects and chunks without a reference, and
 * at what lives in packs. */
#include "cas/gcfull_int.h"

#include "cas/elsewhere_int.h"
#include "cas/map.h"
#include "cas/pack_int.h"
#include "cas/packfile_int.h"

/* Parents that were seen are remembered, this many at most. */
#define PARENTS_MAX (1U << 20)
/* Records of packs beside blocks. */
#define OBJECT_RECORD_BYTES (CAS_PACK_RECORD_BYTES + CAS_HASH_BYTES)
#define LAYER_RECORD_BYTES (CAS_PACK_RECORD_BYTES + 192)
#define RECIPE_RECORD_BYTES (CAS_PACK_RECORD_BYTES + 224)

/* ---- parents ---- */

/* A set is of whole hashes, of which it looks at the second and the last quarter; name: the 16
 * bytes that references have of a parent. */
static struct cas_hash hash_of_parent(const uint8_t *name)
{
        struct cas_hash hash = {{0}};
        memcpy(hash.bytes + 8, name + 8, 8);
        memcpy(hash.bytes + 24, name, 8);
        return hash;
}

static bool parent_was_seen(const struct cas_gc_full *f, const uint8_t *name)
{
        const struct cas_hash hash = hash_of_parent(name);
        return !f->sure && cas_hashset_has(&f->parents, hash.bytes);
}

static void note_parent(struct cas_gc_full *f, const uint8_t *name)
{
        if (f->parents.count >= PARENTS_MAX)
                cas_hashset_release(&f->parents);
        const struct cas_hash hash = hash_of_parent(name);
        (void)cas_hashset_add(&f->parents, hash.bytes);
}

static int take_first(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                      struct cas_err *err CAS_UNUSED)
{
        *(bool *)arg = true;
        return 1;
}

/* Whether a family has a key that starts so. */
static int has_prefix(struct cas_gc_full *f, enum cas_family family, const void *prefix,
                      size_t prefix_len, bool *out, struct cas_err *err)
{
        *out = false;
        return cas_index_scan(
                f->gc->ix,
                &(struct cas_scan){.family = family, .prefix = prefix, .prefix_len = prefix_len},
                take_first, out, err);
}

/* ---- references of blobs ---- */

static int repo_has(struct cas_gc_full *f, enum cas_family family, const uint8_t *repo, size_t len,
                    const struct cas_digest *child, bool *out, struct cas_err *err)
{
        char name[CAS_REPO_NAME_BYTES_MAX + 1];
        struct cas_record_key key;
        if (len == 0 || len > CAS_REPO_NAME_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "reference: malformed repository");
        memcpy(name, repo, len);
        name[len] = '\0';
        if (!cas_repo_name_valid(name))
                return cas_fail(err, CAS_E_CORRUPT, "reference: malformed repository");
        cas_key_repo_digest(name, child, &key);
        return cas_gc_has(f->gc, family, &key, out, err);
}

static int node_is_there(struct cas_gc_full *f, const uint8_t *parent, size_t len, bool *out,
                         struct cas_err *err)
{
        struct cas_digest manifest;
        int rc = cas_digest_value_decode(parent, len, &manifest, err);
        if (rc < 0)
                return rc;
        *out = parent_was_seen(f, manifest.bytes);
        if (*out)
                return 0;
        rc = cas_node_get(f->gc->ix, &manifest, out, NULL, err);
        if (rc == 0 && *out)
                note_parent(f, manifest.bytes);
        return rc;
}

int cas_gc_look_at_blob_ref(struct cas_gc_full *f, const void *key, size_t key_len,
                            const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(key, key_len);
        struct cas_digest child;
        bool there = true;
        int rc = 0;
        cas_cursor_digest(&c, &child);
        const uint8_t role = cas_cursor_u8(&c);
        if (c.failed || cas_cursor_left(&c) != CAS_REF_PARENT_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "reference: malformed key");
        switch ((enum cas_blob_role)role) {
        case CAS_BLOB_LINKED:
                rc = repo_has(f, CAS_FAMILY_MANIFESTS, value, value_len, &child, &there, err);
                break;
        case CAS_BLOB_IN_REPO:
                rc = repo_has(f, CAS_FAMILY_BLOB_LINKS, value, value_len, &child, &there, err);
                break;
        case CAS_BLOB_NAMED:
        case CAS_BLOB_CHILD:
                rc = node_is_there(f, value, value_len, &there, err);
                break;
        case CAS_BLOB_IN_TREE:
                rc = cas_index_has(f->gc->ix, CAS_FAMILY_TREES, value, value_len, &there, err);
                break;
        }
        if (rc < 0 || there)
                return rc;
        if (!f->sure)
                return cas_gc_full_suspect(f, key, key_len);
        cas_batch_del(f->batch, CAS_FAMILY_BLOB_REFS, key, key_len);
        return role == CAS_BLOB_IN_TREE ? 0 : cas_gc_full_condemn_blob(f, &child, err);
}

/* ---- references of objects ---- */

/* Whether the blob's layer, or recipe, is the child: its first bytes. */
static int blob_refers(struct cas_gc_full *f, bool listing, const struct cas_digest *blob,
                       const uint8_t *child, bool *out, struct cas_err *err)
{
        struct cas_layer_record layer;
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        const struct cas_hash *object = listing ? &layer.listing : &recipe.recipe;
        int rc = listing ? cas_index_get_layer(f->gc->ix, blob, &layer, &miss)
                         : cas_index_get_recipe(f->gc->ix, blob, &recipe, &miss);
        *out = rc == 0 && memcmp(object->bytes, child, CAS_REF_CHILD_BYTES) == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int elsewhere_refers(struct cas_gc_full *f, const struct cas_digest *blob,
                            const uint8_t *child, bool *out, struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_digest(blob, &key);
        int rc = cas_index_get(f->gc->ix, CAS_FAMILY_ELSEWHERE, key.bytes, key.len, &value, &miss);
        if (rc == 0)
                rc = cas_elsewhere_decode(blob, value.data, value.len_bytes, rec, &miss);
        *out = rc == 0 && memcmp(rec->layer.listing.bytes, child, CAS_REF_CHILD_BYTES) == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int of_blob(struct cas_gc_full *f, uint8_t role, const uint8_t *child, const void *value,
                   size_t value_len, bool *out, struct cas_err *err)
{
        struct cas_digest blob;
        int rc = cas_digest_value_decode(value, value_len, &blob, err);
        if (rc == 0)
                rc = blob_refers(f, role == CAS_OBJECT_LISTING, &blob, child, out, err);
        if (rc == 0 && !*out && role == CAS_OBJECT_LISTING)
                rc = elsewhere_refers(f, &blob, child, out, err);
        return rc;
}

/* A listing or recipe that something needs as such, or that is condemned as such: then its
 * references go with it. */
static int of_object(struct cas_gc_full *f, uint8_t role, const uint8_t *parent, bool *out,
                     struct cas_err *err)
{
        const bool listing = role == CAS_OBJECT_FILE;
        uint8_t need[CAS_REF_CHILD_BYTES + 1], condemned[1 + CAS_REF_PARENT_BYTES];
        *out = parent_was_seen(f, parent);
        if (*out)
                return 0;
        memcpy(need, parent, CAS_REF_CHILD_BYTES);
        need[CAS_REF_CHILD_BYTES] = listing ? CAS_OBJECT_LISTING : CAS_OBJECT_RECIPE;
        condemned[0] = listing ? CAS_CONDEMNED_LISTING : CAS_CONDEMNED_RECIPE;
        memcpy(condemned + 1, parent, CAS_REF_PARENT_BYTES);
        int rc = has_prefix(f, CAS_FAMILY_OBJECT_REFS, need, sizeof(need), out, err);
        if (rc == 0 && !*out)
                rc = has_prefix(f, CAS_FAMILY_CONDEMNED, condemned, sizeof(condemned), out, err);
        if (rc == 0 && *out)
                note_parent(f, parent);
        return rc;
}

struct namesakes {
        struct cas_gc_full *f;
        enum cas_condemned_kind kind;
};

static int condemn_namesake(void *arg, const void *key, size_t key_len,
                            const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                            struct cas_err *err)
{
        const struct namesakes *n = arg;
        struct cas_hash hash;
        if (key_len != CAS_HASH_BYTES)
                return 0;
        memcpy(hash.bytes, key, CAS_HASH_BYTES);
        return cas_gc_full_condemn(n->f, n->kind, &hash, err);
}

/* All that the first bytes may stand for. */
static int condemn_child(struct cas_gc_full *f, enum cas_condemned_kind kind, const uint8_t *child,
                         struct cas_err *err)
{
        struct namesakes n = {.f = f, .kind = kind};
        return cas_index_scan(f->gc->ix,
                              &(struct cas_scan){.family = kind == CAS_CONDEMNED_CHUNK
                                                                   ? CAS_FAMILY_CHUNKS
                                                                   : CAS_FAMILY_OBJECTS,
                                                 .prefix = child,
                                                 .prefix_len = CAS_REF_CHILD_BYTES},
                              condemn_namesake, &n, err);
}

int cas_gc_look_at_object_ref(struct cas_gc_full *f, const void *key, size_t key_len,
                              const void *value, size_t value_len, struct cas_err *err)
{
        const uint8_t *child = key, *parent = child + CAS_REF_CHILD_BYTES + 1;
        bool there = true;
        if (key_len != CAS_REF_CHILD_BYTES + 1 + CAS_REF_PARENT_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "reference: malformed key");
        const uint8_t role = child[CAS_REF_CHILD_BYTES];
        int rc = role == CAS_OBJECT_LISTING || role == CAS_OBJECT_RECIPE
                         ? of_blob(f, role, child, value, value_len, &there, err)
                         : of_object(f, role, parent, &there, err);
        if (rc < 0 || there)
                return rc;
        if (!f->sure)
                return cas_gc_full_suspect(f, key, key_len);
        cas_batch_del(f->batch, CAS_FAMILY_OBJECT_REFS, key, key_len);
        if (role == CAS_OBJECT_LISTING)
                rc = condemn_child(f, CAS_CONDEMNED_LISTING, child, err);
        else if (role == CAS_OBJECT_RECIPE)
                rc = condemn_child(f, CAS_CONDEMNED_RECIPE, child, err);
        else
                rc = condemn_child(f, CAS_CONDEMNED_OBJECT, child, err);
        return rc;
}

int cas_gc_look_at_chunk_ref(struct cas_gc_full *f, const void *key, size_t key_len,
                             const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                             struct cas_err *err)
{
        const uint8_t *child = key, *parent = child + CAS_REF_CHILD_BYTES;
        if (key_len != CAS_REF_CHILD_BYTES + CAS_REF_PARENT_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "reference: malformed key");
        bool there = parent_was_seen(f, parent);
        if (there)
                return 0;
        int rc = has_prefix(f, CAS_FAMILY_OBJECTS, parent, CAS_REF_PARENT_BYTES, &there, err);
        if (rc == 0 && there)
                note_parent(f, parent);
        if (rc < 0 || there)
                return rc;
        if (!f->sure)
                return cas_gc_full_suspect(f, key, key_len);
        cas_batch_del(f->batch, CAS_FAMILY_CHUNK_REFS, key, key_len);
        return condemn_child(f, CAS_CONDEMNED_CHUNK, child, err);
}

/* ---- objects and chunks beside their references ---- */

static int beside_has(struct cas_gc_full *f, const void *key, bool *out, struct cas_err *err)
{
        return cas_index_walk_has(f->beside, key, CAS_REF_CHILD_BYTES, out, err);
}

int cas_gc_look_at_object(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                          size_t value_len, struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_hash id;
        bool needed;
        if (key_len != CAS_HASH_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "object: malformed key");
        int rc = cas_object_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        if (rec.chunk_count != 1)
                f->list_bytes +=
                        OBJECT_RECORD_BYTES + (uint64_t)rec.chunk_count * CAS_PACK_CHUNK_BYTES;
        rc = beside_has(f, key, &needed, err);
        if (rc < 0 || needed)
                return rc;
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        return cas_gc_full_condemn(f, CAS_CONDEMNED_OBJECT, &id, err);
}

int cas_gc_look_at_chunk(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_record_key pack;
        struct cas_hash id;
        bool needed;
        if (key_len != CAS_HASH_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "chunk: malformed key");
        int rc = cas_chunk_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        cas_key_pack(rec.pack_id, &pack);
        *cas_map_put(f->live, pack.bytes, pack.len, NULL) += cas_chunk_stored_bytes(&rec);
        rc = beside_has(f, key, &needed, err);
        if (rc == 0 && !needed) /* an object of one chunk? */
                rc = cas_index_has(f->gc->ix, CAS_FAMILY_OBJECTS, key, key_len, &needed, err);
        if (rc < 0 || needed)
                return rc;
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        return cas_gc_full_condemn(f, CAS_CONDEMNED_CHUNK, &id, err);
}

void cas_gc_full_note_record(struct cas_gc_full *f, enum cas_family family)
{
        if (family == CAS_FAMILY_LAYERS)
                f->list_bytes += LAYER_RECORD_BYTES;
        if (family == CAS_FAMILY_RECIPES)
                f->list_bytes += RECIPE_RECORD_BYTES;
}

/* ---- packs ---- */

struct recount {
        struct cas_gc_full *f;
        uint64_t pack_bytes; /* of all */
        bool sum;
        struct cas_err *err;
        int rc;
};

/* Bytes behind what the index knows of a pack to which nobody writes any more: a crash or an error
 * left them. */
static int tail_of(struct cas_store *s, uint64_t pack_id, const struct cas_pack_record *rec,
                   uint64_t *out, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        uint64_t file_bytes = 0;
        struct cas_err why = CAS_ERR_INIT;
        struct cas_pack_home home;
        *out = 0;
        if (rec->sealed || cas_packset_is_open(s->packset, pack_id) ||
            !cas_packset_is_reachable(s->packset, rec->tier))
                return 0;
        int rc = cas_packset_home(s->packset, pack_id, &home, &why);
        if (rc == 0 && home.dirfd < 0)
                return 0; /* sealed since, and gone to a bucket */
        if (rc == 0)
                rc = cas_io_size(s->io, home.dirfd, cas_pack_name(pack_id, name), &file_bytes,
                                 &why);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = why;
                return rc;
        }
        *out = file_bytes - cas_min_u64(file_bytes, rec->size_bytes);
        return 0;
}

static bool recount_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct recount *r = arg;
        struct cas_record_key key;
        uint64_t tail;
        if (r->sum) {
                r->pack_bytes += rec->size_bytes;
                return true;
        }
        r->rc = tail_of(r->f->gc->s, pack_id, rec, &tail, r->err);
        if (r->rc < 0)
                return false;
        cas_key_pack(pack_id, &key);
        const uint64_t *live = cas_map_get(r->f->live, key.bytes, key.len);
        /* Nobody knows in which pack other records lie: they are taken to be spread evenly. */
        long double share = (long double)rec->size_bytes / (long double)r->pack_bytes;
        uint64_t others = CAS_PACK_HEADER_BYTES + (uint64_t)(share * (long double)r->f->list_bytes);
        uint64_t used = (live ? *live : 0) + others;
        uint64_t dead = rec->size_bytes - cas_min_u64(used, rec->size_bytes) + tail;
        cas_batch_put_pack_dead(r->f->batch, pack_id, cas_min_u64(dead, rec->size_bytes));
        return true;
}

int cas_gc_recount_packs(struct cas_gc_full *f, struct cas_err *err)
{
        struct recount r = {.f = f, .sum = true, .err = err};
        int rc = cas_index_each_pack(f->gc->ix, recount_pack, &r, err);
        r.sum = false;
        if (rc == 0)
                rc = cas_index_each_pack(f->gc->ix, recount_pack, &r, err);
        if (rc == 0)
                rc = r.rc;
        return rc < 0 ? rc : cas_index_write(f->gc->ix, f->batch, err);
}
