/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: one that is linked becomes a node, with all below it that is here. One that is brought
 * and was named before becomes a node then. So that neither misses the other, a commit that sees
 * one to be absent holds the lock of blob files alone, which those who bring blobs share.
 *
 * Listings and recipes that are replaced lose their reference under the same lock, since somebody
 * else may be about to publish just that one. */
#include "cas/publishrefs_int.h"

#include <time.h>

#include "cas/blob.h"
#include "cas/blobcache_int.h"
#include "cas/condemned_int.h"
#include "cas/elsewhere.h"
#include "cas/layer.h"
#include "cas/map.h"
#include "cas/recipe_int.h"

/* Manifests that one commit reads to make them nodes, beside those that it links. */
#define NODES_MAX CAS_INDEX_CHILDREN_MAX
#define NODES_BYTES_MAX (64 * CAS_MIB)

void cas_publish_refs_init(struct cas_publish_refs *r, struct cas_store *s)
{
        *r = (struct cas_publish_refs){.store = s,
                                       .told = cas_batch_new(),
                                       .settled = cas_batch_new(),
                                       .kept = cas_map_new(),
                                       .named = cas_map_new()};
}

void cas_publish_refs_release(struct cas_publish_refs *r)
{
        cas_batch_free(r->told);
        cas_batch_free(r->settled);
        cas_map_free(r->kept);
        cas_map_free(r->named);
        cas_prefixset_release(&r->objects);
        free(r->parents);
}

/* ---- what is told ---- */

static void add_parent(struct cas_publish_refs *r, const struct cas_publish_parent *parent)
{
        if (r->parent_count == r->parent_max) {
                r->parent_max = r->parent_max ? 2 * r->parent_max : 4;
                r->parents = cas_xrealloc(r->parents, r->parent_max * sizeof(r->parents[0]));
        }
        r->parents[r->parent_count++] = *parent;
}

static int tell(void *arg, const struct cas_reference *ref, struct cas_err *err CAS_UNUSED)
{
        struct cas_publish_refs *r = arg;
        struct cas_hash child = {.bytes = {0}};
        cas_assert(ref->family == CAS_FAMILY_OBJECT_REFS);
        memcpy(child.bytes, ref->key, CAS_REF_CHILD_BYTES);
        cas_prefixset_add(&r->objects, &child);
        cas_batch_put_reference(r->told, ref);
        return 0;
}

int cas_publish_refs_layer(struct cas_publish_refs *r, enum cas_family family,
                           const struct cas_layer_record *layer, const struct cas_listing *listing,
                           struct cas_err *err)
{
        add_parent(r, &(struct cas_publish_parent){
                              .family = family, .blob = layer->blob, .object = layer->listing});
        return cas_layer_references(&layer->blob, &layer->listing, listing, tell, r, err);
}

/* The recipe that the index has of a blob now; zero: none. */
static int recipe_now(struct cas_store *s, const struct cas_digest *blob, struct cas_hash *out,
                      struct cas_err *err)
{
        struct cas_recipe_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        *out = (struct cas_hash){.bytes = {0}};
        int rc = cas_recipe_stat(s, blob, &rec, &miss);
        if (rc == 0)
                *out = rec.recipe;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* Once more as a whole also where the recipe is the blob's already: what the index says of it by
 * now may be gone at the commit. */
int cas_publish_refs_recipe(struct cas_publish_refs *r, const struct cas_recipe_record *recipe,
                            struct cas_recipe *opened, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *from_store = NULL;
        add_parent(r, &(struct cas_publish_parent){.family = CAS_FAMILY_RECIPES,
                                                   .blob = recipe->blob,
                                                   .object = recipe->recipe});
        if (cas_hash_is_zero(&recipe->recipe))
                return 0;
        if (!opened) {
                int rc = cas_recipe_open(r->store, &recipe->recipe, &from_store, err);
                if (rc < 0)
                        return rc;
                opened = from_store;
        }
        return cas_recipe_references(&recipe->blob, &recipe->recipe, opened, tell, r, err);
}

const struct cas_prefixset *cas_publish_refs_objects(struct cas_publish_refs *r)
{
        cas_prefixset_settle(&r->objects);
        return &r->objects;
}

/* ---- what is replaced ---- */

/* The listing of a blob's layer that a family tells of; zero: none. */
static int listing_now(struct cas_store *s, enum cas_family family, const struct cas_digest *blob,
                       struct cas_hash *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc;
        *out = (struct cas_hash){.bytes = {0}};
        if (family == CAS_FAMILY_LAYERS) {
                struct cas_layer_record rec;
                rc = cas_layer_stat(s, blob, &rec, &miss);
                if (rc == 0)
                        *out = rec.listing;
        } else {
                cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
                rc = cas_elsewhere_stat(s, blob, rec, &miss);
                if (rc == 0)
                        *out = rec->layer.listing;
        }
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* The object that a parent's record will not tell of any more; zero: none. */
static int find_replaced(struct cas_store *s, const struct cas_publish_parent *parent,
                         struct cas_hash *out, struct cas_err *err)
{
        struct cas_hash other;
        if (parent->family == CAS_FAMILY_RECIPES) {
                int rc = recipe_now(s, &parent->blob, out, err);
                if (rc == 0 && cas_hash_equal(out, &parent->object))
                        *out = (struct cas_hash){.bytes = {0}};
                return rc;
        }
        int rc = listing_now(s, parent->family, &parent->blob, out, err);
        if (rc < 0 || cas_hash_is_zero(out))
                return rc;
        /* A layer that was elsewhere and has come has two records for a while. */
        rc = listing_now(
                s, parent->family == CAS_FAMILY_LAYERS ? CAS_FAMILY_ELSEWHERE : CAS_FAMILY_LAYERS,
                &parent->blob, &other, err);
        if (cas_hash_equal(out, &parent->object) || cas_hash_equal(out, &other))
                *out = (struct cas_hash){.bytes = {0}};
        return rc;
}

static int settle_parents(struct cas_publish_refs *r, uint64_t now, bool *again,
                          struct cas_err *err)
{
        for (size_t i = 0; i < r->parent_count; i++) {
                const struct cas_publish_parent *parent = &r->parents[i];
                const bool is_recipe = parent->family == CAS_FAMILY_RECIPES;
                struct cas_hash replaced;
                struct cas_record_key key;
                int rc = find_replaced(r->store, parent, &replaced, err);
                if (rc < 0)
                        return rc;
                if (cas_hash_is_zero(&replaced))
                        continue;
                *again = true;
                cas_key_digest(&parent->blob, &key);
                cas_batch_del_object_ref(r->settled, &replaced,
                                         is_recipe ? CAS_OBJECT_RECIPE : CAS_OBJECT_LISTING,
                                         key.bytes, key.len);
                cas_batch_condemn(r->settled,
                                  is_recipe ? CAS_CONDEMNED_RECIPE : CAS_CONDEMNED_LISTING,
                                  &replaced, now);
        }
        return 0;
}

/* ---- manifests ---- */

struct settling {
        struct cas_publish_refs *r;
        const struct cas_publish_plan *plan;
        uint64_t now;
        struct cas_map *seen;     /* owned: digests of manifests that were looked at */
        struct cas_digest *queue; /* owned: what may have to become a node */
        size_t count, max;
        size_t made;    /* nodes, of the queue */
        uint64_t bytes; /* read for them */
        bool again;
};

static const struct cas_staged_blob *find_staged(const struct settling *st,
                                                 const struct cas_digest *digest)
{
        for (size_t i = 0; i < st->plan->staged_count; i++) {
                if (cas_digest_equal(&st->plan->staged[i].digest, digest))
                        return &st->plan->staged[i];
        }
        return NULL;
}

/* A manifest that is here or comes with this commit. What is no manifest, or cannot be read, is
 * none (found false). *here: there is such a blob. */
static int load_manifest(struct settling *st, const struct cas_digest *digest,
                         struct cas_manifest *out, bool *found, bool *here, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        struct cas_store *s = st->r->store;
        const struct cas_staged_blob *staged = find_staged(st, digest);
        int rc;
        *found = false;
        if (staged && staged->size_bytes > CAS_MANIFEST_BYTES_MAX)
                rc = -CAS_E_LIMIT;
        else if (staged)
                rc = cas_io_read_file(s->io, s->dirfd, staged->path, CAS_MANIFEST_BYTES_MAX, &bytes,
                                      &why);
        else
                rc = cas_blob_read(s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, &why);
        *here = rc != -CAS_E_NOTFOUND;
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_LIMIT || rc == -CAS_E_CORRUPT ||
            rc == -CAS_E_UNSUPPORTED)
                return 0;
        if (rc < 0) {
                *err = why;
                return rc;
        }
        st->bytes += bytes.len_bytes;
        rc = cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, out, &why);
        *found = rc == 0;
        if (rc != -CAS_E_NOMEM)
                return 0;
        *err = why;
        return rc;
}

static void enqueue(struct settling *st, const struct cas_digest *digest)
{
        bool is_new;
        (void)cas_map_put(st->seen, digest, sizeof(*digest), &is_new);
        if (!is_new)
                return;
        if (st->count == st->max) {
                st->max = st->max ? 2 * st->max : 16;
                st->queue = cas_xrealloc(st->queue, st->max * sizeof(st->queue[0]));
        }
        st->queue[st->count++] = *digest;
}

static void keep(struct cas_publish_refs *r, const struct cas_digest *blob)
{
        (void)cas_map_put(r->kept, blob, sizeof(*blob), NULL);
}

/* Its references are in the batch; what it names as manifests is to be looked at. */
static void put_node(struct settling *st, const struct cas_digest *digest,
                     const struct cas_manifest *m)
{
        struct cas_publish_refs *r = st->r;
        cas_batch_put_manifest_refs(r->settled, digest, m);
        if (m->kind == CAS_MANIFEST_IMAGE)
                keep(r, &m->config.digest);
        for (size_t i = 0; i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                keep(r, &d->digest);
                if (m->kind == CAS_MANIFEST_INDEX && cas_media_type_is_manifest(d->media_type))
                        enqueue(st, &d->digest);
        }
}

static int run_queue(struct settling *st, struct cas_err *err)
{
        st->bytes = 0;
        for (size_t i = 0; i < st->count; i++) {
                cas_cleanup_manifest struct cas_manifest m = {0};
                const struct cas_digest digest = st->queue[i];
                bool is_node, found, here;
                int rc = cas_node_get(st->r->store->index, &digest, &is_node, NULL, err);
                if (rc == 0 && !is_node)
                        rc = load_manifest(st, &digest, &m, &found, &here, err);
                if (rc < 0)
                        return rc;
                if (is_node)
                        continue;
                if (!here)
                        st->again = true;
                if (found)
                        put_node(st, &digest, &m);
                st->made += found;
                if (st->made > NODES_MAX || st->bytes > NODES_BYTES_MAX)
                        return cas_fail(err, CAS_E_LIMIT,
                                        "an index with more than %d manifests or %d MiB below it",
                                        NODES_MAX, (int)(NODES_BYTES_MAX / CAS_MIB));
        }
        return 0;
}

static void name_one(struct cas_publish_refs *r, const char *repo, const struct cas_digest *blob)
{
        struct cas_record_key key;
        cas_key_repo_digest(repo, blob, &key);
        (void)cas_map_put(r->named, key.bytes, key.len, NULL);
}

static int link_manifest(struct settling *st, const struct cas_name_record *rec,
                         struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        bool found, here;
        int rc = load_manifest(st, &rec->digest, &m, &found, &here, err);
        keep(st->r, &rec->digest);
        if (rc < 0 || !found)
                return rc;
        (void)cas_map_put(st->seen, &rec->digest, sizeof(rec->digest), NULL);
        put_node(st, &rec->digest, &m);
        if (m.kind == CAS_MANIFEST_IMAGE)
                name_one(st->r, rec->repo, &m.config.digest);
        for (size_t i = 0; i < m.child_count; i++)
                name_one(st->r, rec->repo, &m.children[i].digest);
        return 0;
}

/* What is not linked any more by a manifest that goes is for collection to look at. */
static int condemn_link(struct settling *st, const char *repo, const struct cas_digest *blob,
                        struct cas_err *err)
{
        struct cas_record_key key;
        bool linked;
        cas_key_repo_digest(repo, blob, &key);
        int rc = cas_index_has(st->r->store->index, CAS_FAMILY_BLOB_LINKS, key.bytes, key.len,
                               &linked, err);
        if (rc == 0 && linked)
                cas_batch_condemn_link(st->r->settled, repo, blob, st->now);
        return rc;
}

/* Of all that it leads to: a repository may link what only a child of its index names. */
static int unlink_manifest(struct settling *st, const struct cas_name_record *rec,
                           struct cas_err *err)
{
        struct settling below = {.r = st->r, .plan = st->plan, .now = st->now};
        int rc = 0;
        below.seen = cas_map_new();
        enqueue(&below, &rec->digest);
        for (size_t i = 0;
             rc == 0 && i < below.count && i < NODES_MAX && below.bytes <= NODES_BYTES_MAX; i++) {
                cas_cleanup_manifest struct cas_manifest m = {0};
                const struct cas_digest digest = below.queue[i];
                bool found, here;
                rc = load_manifest(&below, &digest, &m, &found, &here, err);
                if (rc == 0 && found && m.kind == CAS_MANIFEST_IMAGE)
                        rc = condemn_link(st, rec->repo, &m.config.digest, err);
                for (size_t c = 0; rc == 0 && c < m.child_count; c++) {
                        rc = condemn_link(st, rec->repo, &m.children[c].digest, err);
                        if (m.kind == CAS_MANIFEST_INDEX &&
                            cas_media_type_is_manifest(m.children[c].media_type))
                                enqueue(&below, &m.children[c].digest);
                }
        }
        cas_map_free(below.seen);
        free(below.queue);
        return rc;
}

static int settle_names(struct settling *st, struct cas_err *err)
{
        struct cas_name_record rec;
        struct cas_cursor at = cas_cursor_over(st->plan->names->data, st->plan->names->len_bytes);
        int rc = 0;
        for (uint32_t i = 0; rc == 0 && i < st->plan->name_count; i++) {
                rc = cas_name_record_decode(&at, &rec, err);
                cas_assert(rc == 0); /* it was encoded here */
                if (rec.kind == CAS_NAME_MANIFEST_LINK)
                        rc = link_manifest(st, &rec, err);
                else if (rec.kind == CAS_NAME_MANIFEST_UNLINK)
                        rc = unlink_manifest(st, &rec, err);
                else if (rec.kind == CAS_NAME_BLOB_LINK)
                        keep(st->r, &rec.digest);
        }
        return rc;
}

static int see_manifest_ref(void *arg, const struct cas_ref_seen *ref,
                            struct cas_err *err CAS_UNUSED)
{
        bool *named = arg;
        *named = ref->role == CAS_BLOB_CHILD || ref->role == CAS_BLOB_LINKED;
        return *named;
}

/* Blobs that come, and that the index knows to be manifests. */
static int settle_arrivals(struct settling *st, struct cas_err *err)
{
        for (size_t i = 0; i < st->plan->staged_count; i++) {
                const struct cas_staged_blob *b = &st->plan->staged[i];
                bool named = false;
                if (b->size_bytes > CAS_MANIFEST_BYTES_MAX)
                        continue;
                int rc = cas_blob_refs_each(st->r->store->index, &b->digest, see_manifest_ref,
                                            &named, err);
                if (rc < 0)
                        return rc;
                if (named)
                        enqueue(st, &b->digest);
        }
        return 0;
}

/* ---- all ---- */

bool cas_publish_refs_lock(const struct cas_publish_refs *r, const struct cas_publish_plan *plan)
{
        return r->parent_count > 0 || plan->name_count > 0 || plan->staged_count > 0;
}

static void start_anew(struct cas_publish_refs *r)
{
        cas_batch_free(r->settled);
        cas_map_free(r->kept);
        cas_map_free(r->named);
        r->settled = cas_batch_new();
        r->kept = cas_map_new();
        r->named = cas_map_new();
}

int cas_publish_refs_settle(struct cas_publish_refs *r, const struct cas_publish_plan *plan,
                            bool *again, struct cas_err *err)
{
        struct settling st = {
                .r = r, .plan = plan, .now = (uint64_t)time(NULL), .seen = cas_map_new()};
        start_anew(r);
        int rc = settle_parents(r, st.now, &st.again, err);
        if (rc == 0)
                rc = settle_names(&st, err);
        if (rc == 0)
                rc = settle_arrivals(&st, err);
        if (rc == 0)
                rc = run_queue(&st, err);
        *again = rc == 0 && st.again && !plan->exclusive;
        cas_map_free(st.seen);
        free(st.queue);
        return rc;
}

bool cas_publish_refs_keeps(const struct cas_publish_refs *r, const struct cas_digest *blob)
{
        return cas_map_get(r->kept, blob, sizeof(*blob)) != NULL;
}

void cas_publish_refs_write(struct cas_publish_refs *r, struct cas_batch *batch)
{
        cas_batch_join(batch, r->settled);
        cas_batch_join(batch, r->told);
}
