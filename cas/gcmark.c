/* SPDX-License-Identifier: Apache-2.0 */
/* Roots are: manifests linked in repositories; blobs linked there that one of
 * the repository's manifests names, or that are young; leases that have not
 * expired; blobs that are young, or are being regenerated for somebody. A manifest keeps config,
 * layers and children; a layer keeps its listing and file objects; a blob keeps its recipe with all
 * objects that it refers to; an object keeps its chunks. */
#include <time.h>

#include "cas/blob.h"
#include "cas/elsewhere.h"
#include "cas/flights_int.h"
#include "cas/gc_int.h"
#include "cas/image.h"
#include "cas/lease.h"
#include "cas/recipe_int.h"

struct marking {
        struct cas_store *s;
        struct cas_gc_marks *m;
        uint64_t young_unix_s;
        uint64_t now_unix_s;
        const struct cas_progress *progress;
        struct cas_hashset named;     /* by manifests of the repository that is looked at */
        struct cas_hashset manifests; /* parsed for that repository */
        const char *repo;
        struct cas_err *err; /* of callbacks that return bool */
        int rc;
};

void cas_gc_marks_release(struct cas_gc_marks *m)
{
        cas_hashset_release(&m->blobs);
        cas_hashset_release(&m->layers);
        cas_hashset_release(&m->objects);
        cas_hashset_release(&m->chunks);
        cas_buf_release(&m->unlinks);
}

/* ---- layers and objects ---- */

static int mark_listing(struct marking *mk, const struct cas_layer_record *rec, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        int rc = cas_layer_listing(mk->s, rec, &listing, err);
        if (rc < 0) {
                char text[CAS_DIGEST_TEXT_BYTES];
                return cas_err_wrap(err, "listing of layer %s", cas_digest_text(&rec->blob, text));
        }
        (void)cas_hashset_add(&mk->m->objects, rec->listing.bytes);
        for (size_t i = 0; i < listing.count; i++) {
                const struct cas_entry *e = &listing.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        (void)cas_hashset_add(&mk->m->objects, e->object.bytes);
        }
        return 0;
}

/* A layer that is here, or one that has not wholly come, with what has. */
static int mark_layer(struct marking *mk, const struct cas_digest *blob, struct cas_err *err)
{
        struct cas_layer_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_elsewhere_layer(mk->s, blob, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0; /* not a layer, or not decoded yet */
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (!cas_hashset_add(&mk->m->layers, blob->bytes))
                return 0;
        return mark_listing(mk, &rec, err);
}

static int mark_referred(void *arg, const struct cas_hash *object, struct cas_err *err CAS_UNUSED)
{
        struct marking *mk = arg;
        (void)cas_hashset_add(&mk->m->objects, object->bytes);
        return 0;
}

/* The recipe of a blob that stays. One that is not proved keeps what it can: nobody relies on it.
 */
static int mark_recipe(struct marking *mk, const struct cas_digest *blob, struct cas_err *err)
{
        struct cas_recipe_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_recipe_stat(mk->s, blob, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND || (rc == 0 && cas_hash_is_zero(&rec.recipe)))
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        (void)cas_hashset_add(&mk->m->objects, rec.recipe.bytes);
        rc = cas_recipe_open(mk->s, &rec.recipe, &recipe, &miss);
        if (rc == 0)
                rc = cas_tarrecipe_each_object(recipe, mark_referred, mk, &miss);
        if (rc == 0 || (!rec.is_proved && (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT)))
                return 0;
        char text[CAS_DIGEST_TEXT_BYTES];
        *err = miss;
        return cas_err_wrap(err, "recipe of %s", cas_digest_text(blob, text));
}

/* A blob that stays, and what it keeps when it is a decoded layer, or has a recipe. */
static int mark_blob(struct marking *mk, const struct cas_digest *blob, struct cas_err *err)
{
        (void)cas_hashset_add(&mk->named, blob->bytes);
        if (!cas_hashset_add(&mk->m->blobs, blob->bytes))
                return 0;
        int rc = mark_layer(mk, blob, err);
        return rc < 0 ? rc : mark_recipe(mk, blob, err);
}

/* ---- manifests ---- */

static int mark_manifest(struct marking *mk, const struct cas_digest *digest,
                         const char *media_type, unsigned depth, struct cas_err *err);

static int mark_children(struct marking *mk, const struct cas_manifest *m, unsigned depth,
                         struct cas_err *err)
{
        int rc = 0;
        if (m->kind == CAS_MANIFEST_IMAGE)
                rc = mark_blob(mk, &m->config.digest, err);
        for (size_t i = 0; rc == 0 && i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                if (m->kind == CAS_MANIFEST_INDEX && cas_media_type_is_manifest(d->media_type))
                        rc = mark_manifest(mk, &d->digest, d->media_type, depth + 1, err);
                else
                        rc = mark_blob(mk, &d->digest, err);
        }
        return rc;
}

/* media_type NULL: it may be something else than a manifest. */
static int mark_manifest(struct marking *mk, const struct cas_digest *digest,
                         const char *media_type, unsigned depth, struct cas_err *err)
{
        int rc = mark_blob(mk, digest, err);
        if (rc < 0 || depth > CAS_INDEX_DEPTH_MAX ||
            !cas_hashset_add(&mk->manifests, digest->bytes))
                return rc;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err why = CAS_ERR_INIT;
        rc = cas_blob_read(mk->s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, &why);
        if (rc == -CAS_E_NOTFOUND)
                return 0; /* an index may name what is not here */
        if (rc == -CAS_E_LIMIT && !media_type)
                return 0;
        if (rc == 0) {
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, media_type, &m, &why);
                if ((rc == -CAS_E_INVALID || rc == -CAS_E_LIMIT) && !media_type)
                        return 0;
        }
        if (rc < 0) {
                char text[CAS_DIGEST_TEXT_BYTES];
                *err = why;
                return cas_err_wrap(err, "manifest %s", cas_digest_text(digest, text));
        }
        return mark_children(mk, &m, depth, err);
}

/* ---- repositories ---- */

static bool mark_linked_manifest(void *arg, const struct cas_manifest_info *info)
{
        struct marking *mk = arg;
        /* Others than manifests may have been linked as one: they name nothing. */
        const char *media_type =
                cas_media_type_is_manifest(info->media_type) ? info->media_type : NULL;
        mk->rc = mark_manifest(mk, &info->digest, media_type, 0, mk->err);
        return mk->rc == 0;
}

static int mark_link(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        struct marking *mk = arg;
        struct cas_name_record rec;
        int rc = cas_name_record_from_index(CAS_FAMILY_BLOB_LINKS, key, key_len, value, value_len,
                                            &rec, err);
        if (rc < 0)
                return rc;
        if (cas_hashset_has(&mk->named, rec.digest.bytes) || rec.number >= mk->young_unix_s)
                return mark_blob(mk, &rec.digest, err);
        rec.kind = CAS_NAME_BLOB_UNLINK;
        cas_name_record_encode(&rec, &mk->m->unlinks);
        mk->m->unlink_count++;
        return 0;
}

static bool mark_repo(void *arg, const char *repo)
{
        struct marking *mk = arg;
        cas_hashset_release(&mk->named);
        cas_hashset_release(&mk->manifests);
        mk->rc = 0;
        int rc = cas_manifest_each(mk->s, repo, mark_linked_manifest, mk, mk->err);
        if (rc == 0)
                rc = mk->rc;
        if (rc == 0) {
                struct cas_record_key prefix;
                cas_key_repo(repo, &prefix);
                rc = cas_index_scan(mk->s->index,
                                    &(struct cas_scan){.family = CAS_FAMILY_BLOB_LINKS,
                                                       .prefix = prefix.bytes,
                                                       .prefix_len = prefix.len},
                                    mark_link, mk, mk->err);
        }
        mk->rc = rc;
        return rc == 0;
}

static bool mark_lease(void *arg, const struct cas_lease *lease)
{
        struct marking *mk = arg;
        if (lease->expires_unix_s != 0 && lease->expires_unix_s < mk->now_unix_s)
                return true;
        mk->rc = mark_manifest(mk, &lease->root, NULL, 0, mk->err);
        return mk->rc == 0;
}

static int mark_wanted(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct marking *mk = arg;
        struct cas_blob_record rec;
        struct cas_digest digest;
        int rc = cas_digest_value_decode(key, key_len, &digest, err);
        if (rc == 0)
                rc = cas_blob_record_decode(value, value_len, &rec, err);
        if (rc < 0 ||
            (rec.added_unix_s < mk->young_unix_s && !cas_flights_have(mk->s->flights, &digest)))
                return rc;
        return mark_blob(mk, &digest, err);
}

/* ---- chunks ---- */

static int mark_list(struct marking *mk, const struct cas_hash *object, struct cas_err *err)
{
        struct cas_chunk_ref refs[256];
        uint32_t first = 0, count;
        do {
                int rc = cas_index_get_object_chunks(mk->s->index, object, first, refs,
                                                     CAS_COUNT(refs), &count, err);
                if (rc < 0)
                        return rc;
                for (uint32_t i = 0; i < count; i++)
                        (void)cas_hashset_add(&mk->m->chunks, refs[i].chunk.bytes);
                first += count;
        } while (count > 0);
        return 0;
}

static int mark_object(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct marking *mk = arg;
        struct cas_object_record rec;
        struct cas_hash id;
        int rc = cas_object_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        if (key_len != CAS_HASH_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "object: malformed key");
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        if (!cas_hashset_has(&mk->m->objects, id.bytes))
                return 0;
        if (rec.chunk_count == 1)
                (void)cas_hashset_add(&mk->m->chunks, id.bytes);
        return rec.chunk_count > 1 ? mark_list(mk, &id, err) : 0;
}

static int mark_all(struct marking *mk, struct cas_err *err)
{
        int rc = cas_repo_each(mk->s, NULL, mark_repo, mk, err);
        if (rc == 0)
                rc = mk->rc;
        cas_hashset_release(&mk->manifests);
        if (rc == 0)
                rc = cas_lease_each(mk->s, mark_lease, mk, err);
        if (rc == 0)
                rc = mk->rc;
        if (rc == 0)
                rc = cas_index_scan(mk->s->index, &(struct cas_scan){.family = CAS_FAMILY_BLOBS},
                                    mark_wanted, mk, err);
        if (rc == 0)
                rc = cas_index_scan(mk->s->index, &(struct cas_scan){.family = CAS_FAMILY_OBJECTS},
                                    mark_object, mk, err);
        return rc;
}

int cas_gc_mark(struct cas_store *s, uint64_t young_unix_s, const struct cas_progress *progress,
                struct cas_gc_marks *m, struct cas_err *err)
{
        struct marking mk = {.s = s,
                             .m = m,
                             .young_unix_s = young_unix_s,
                             .now_unix_s = (uint64_t)time(NULL),
                             .progress = progress,
                             .err = err};
        int rc = mark_all(&mk, err);
        cas_hashset_release(&mk.named);
        cas_hashset_release(&mk.manifests);
        return rc;
}
