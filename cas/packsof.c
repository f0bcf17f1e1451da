/* SPDX-License-Identifier: Apache-2.0 */
/* In which packs content lies: of a chunk, of a file object by its chunks, of a layer by its
 * listing, its files and its recipe. */
#include "cas/blobcache_int.h"
#include "cas/condense.h"
#include "cas/layer.h"
#include "cas/map.h"
#include "cas/object.h"
#include "cas/packset_int.h"
#include "cas/recipe_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "cas/tiers.h"

#define REFS_AT_ONCE 256

struct places {
        struct cas_store *s;
        struct cas_map *objects, *chunks; /* that were looked at */
        struct cas_map *packs;            /* be64 id to bytes */
        bool found;                       /* the thing itself is in the store */
};

static void places_release(struct places *p)
{
        cas_map_free(p->objects);
        cas_map_free(p->chunks);
        cas_map_free(p->packs);
}

/* What is not here lies nowhere; whether that is damage is for others to tell. */
static int settle(int rc, const struct cas_err *why, struct cas_err *err)
{
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = *why;
        return rc;
}

static int add_chunk(struct places *p, const struct cas_hash *chunk, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_record_key key;
        struct cas_err why = CAS_ERR_INIT;
        bool fresh;
        (void)cas_map_put(p->chunks, chunk->bytes, CAS_HASH_BYTES, &fresh);
        if (!fresh)
                return 0;
        int rc = cas_index_get_chunk(p->s->index, chunk, &rec, &why);
        if (rc < 0)
                return settle(rc, &why, err);
        cas_key_pack(rec.pack_id, &key);
        *cas_map_put(p->packs, key.bytes, key.len, NULL) += cas_chunk_stored_bytes(&rec);
        p->found = true;
        return 0;
}

static int add_list(struct places *p, const struct cas_hash *object, struct cas_err *err)
{
        struct cas_chunk_ref refs[REFS_AT_ONCE];
        uint32_t count = 1;
        int rc = 0;
        for (uint32_t first = 0; rc == 0 && count > 0; first += count) {
                rc = cas_index_get_object_chunks(p->s->index, object, first, refs, REFS_AT_ONCE,
                                                 &count, err);
                for (uint32_t i = 0; rc == 0 && i < count; i++)
                        rc = add_chunk(p, &refs[i].chunk, err);
        }
        return rc;
}

static int add_object(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct places *p = arg;
        struct cas_object_record rec;
        struct cas_err why = CAS_ERR_INIT;
        bool fresh;
        (void)cas_map_put(p->objects, object->bytes, CAS_HASH_BYTES, &fresh);
        if (!fresh)
                return 0;
        int rc = cas_index_get_object(p->s->index, object, &rec, &why);
        if (rc < 0)
                return settle(rc, &why, err);
        p->found = true;
        return rec.chunk_count == 1 ? add_chunk(p, object, err) : add_list(p, object, err);
}

static int add_files(struct places *p, const struct cas_hash *listing, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        int rc = cas_object_read(p->s, listing, CAS_LISTING_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_listing_decode(bytes.data, bytes.len_bytes, &l, err);
        for (size_t i = 0; rc == 0 && i < l.count; i++) {
                const struct cas_entry *e = &l.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        rc = add_object(p, &e->object, err);
        }
        return rc;
}

static int add_layer(struct places *p, const struct cas_digest *blob, struct cas_err *err)
{
        struct cas_layer_record layer;
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_index_get_layer(p->s->index, blob, &layer, &why);
        if (rc < 0)
                return settle(rc, &why, err);
        rc = add_object(p, &layer.listing, err);
        return rc < 0 ? rc : add_files(p, &layer.listing, err);
}

/* And what it is made of, when that is not what the layer's files are. */
static int add_recipe(struct places *p, const struct cas_digest *blob, struct cas_err *err)
{
        struct cas_recipe_record rec;
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_index_get_recipe(p->s->index, blob, &rec, &why);
        if (rc < 0 || !rec.is_proved)
                return settle(rc, &why, err);
        rc = add_object(p, &rec.recipe, err);
        if (rc == 0)
                rc = cas_recipe_open(p->s, &rec.recipe, &recipe, err);
        return rc < 0 ? rc : cas_tarrecipe_each_object(recipe, add_object, p, err);
}

static int add_blob(struct places *p, const struct cas_digest *blob, struct cas_err *err)
{
        struct cas_blob_record rec;
        struct cas_err why = CAS_ERR_INIT;
        int rc = cas_blob_record_get(p->s, blob, &rec, &why);
        if (rc < 0)
                return settle(rc, &why, err);
        p->found = true;
        rc = add_layer(p, blob, err);
        return rc < 0 ? rc : add_recipe(p, blob, err);
}

static int add_hash(struct places *p, const struct cas_hash *hash, struct cas_err *err)
{
        struct cas_digest digest = {.alg = CAS_DIGEST_SHA256};
        int rc = add_object(p, hash, err);
        if (rc == 0 && !p->found)
                rc = add_chunk(p, hash, err);
        if (rc < 0 || p->found)
                return rc;
        memcpy(digest.bytes, hash->bytes, CAS_HASH_BYTES);
        return add_blob(p, &digest, err);
}

struct teller {
        bool (*fn)(void *arg, uint64_t pack_id, uint64_t stored_bytes);
        void *arg;
        bool goes_on;
};

static void tell(void *arg, const void *key, size_t key_len CAS_UNUSED, uint64_t bytes)
{
        struct teller *t = arg;
        if (t->goes_on)
                t->goes_on = t->fn(t->arg, cas_get_be64(key), bytes);
}

int cas_packs_of(struct cas_store *s, const char *digest,
                 bool (*fn)(void *arg, uint64_t pack_id, uint64_t stored_bytes), void *arg,
                 struct cas_err *err)
{
        __attribute__((cleanup(places_release))) struct places p = {
                .s = s, .objects = cas_map_new(), .chunks = cas_map_new(), .packs = cas_map_new()};
        struct teller t = {.fn = fn, .arg = arg, .goes_on = true};
        struct cas_digest blob;
        struct cas_hash hash;
        int rc;
        if (strlen(digest) == 64 && cas_hash_from_hex(digest, 64, &hash)) {
                rc = add_hash(&p, &hash, err);
        } else {
                rc = cas_digest_parse(digest, &blob, err);
                if (rc == 0)
                        rc = add_blob(&p, &blob, err);
        }
        if (rc == 0 && !p.found)
                rc = cas_fail(err, CAS_E_NOTFOUND, "%s is not in the store", digest);
        if (rc < 0)
                return rc;
        cas_map_each(p.packs, tell, &t);
        return 0;
}
