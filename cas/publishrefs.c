/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: one that is linked becomes a node, with all below it that is here. One that is brought
 * and was named before becomes a node then. So that neither misses the other, a commit that sees
 * one to be absent holds the lock of blob files alone, which those who bring blobs share.
 *
 * Listings and recipes that are replaced lose their reference under the same lock, since somebody
 * else may be about to publish just that one. */
#include "cas/publishrefs_int.h"

#include <time.h>

#include "cas/blobcache_int.h"
#include "cas/condemned_int.h"
#include "cas/elsewhere.h"
#include "cas/layer.h"
#include "cas/map.h"
#include "cas/recipe_int.h"

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
        struct cas_nodes nodes;
        bool again;
};

static void keep(struct cas_publish_refs *r, const struct cas_digest *blob)
{
        (void)cas_map_put(r->kept, blob, sizeof(*blob), NULL);
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
        int rc = cas_nodes_load(&st->nodes, &rec->digest, &m, &found, &here, err);
        keep(st->r, &rec->digest);
        if (rc < 0 || !found)
                return rc;
        cas_nodes_put(&st->nodes, &rec->digest, &m);
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

static int condemn_links_of(struct settling *st, const char *repo, const struct cas_manifest *m,
                            struct cas_nodes *below, struct cas_err *err)
{
        int rc = 0;
        if (m->kind == CAS_MANIFEST_IMAGE)
                rc = condemn_link(st, repo, &m->config.digest, err);
        for (size_t i = 0; rc == 0 && i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                rc = condemn_link(st, repo, &d->digest, err);
                if (m->kind == CAS_MANIFEST_INDEX && cas_media_type_is_manifest(d->media_type))
                        cas_nodes_add(below, &d->digest);
        }
        return rc;
}

/* Of all that it leads to, since a repository may link what only a child of its index names. Links
 * below an index that is larger than can be linked are found by full runs. */
static int unlink_manifest(struct settling *st, const struct cas_name_record *rec,
                           struct cas_err *err)
{
        cas_cleanup_nodes struct cas_nodes below = {.store = st->r->store,
                                                    .staged = st->plan->staged,
                                                    .staged_count = st->plan->staged_count};
        struct cas_digest digest;
        int rc = 0;
        cas_nodes_init(&below);
        cas_nodes_add(&below, &rec->digest);
        while (rc == 0 && below.next < CAS_NODES_MAX && below.bytes <= CAS_NODES_BYTES_MAX &&
               cas_nodes_take(&below, &digest)) {
                cas_cleanup_manifest struct cas_manifest m = {0};
                bool found, here;
                rc = cas_nodes_load(&below, &digest, &m, &found, &here, err);
                if (rc == 0 && found)
                        rc = condemn_links_of(st, rec->repo, &m, &below, err);
        }
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
                        cas_nodes_add(&st->nodes, &b->digest);
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
        struct settling st = {.r = r, .plan = plan, .now = (uint64_t)time(NULL)};
        start_anew(r);
        st.nodes = (struct cas_nodes){.store = r->store,
                                      .batch = r->settled,
                                      .staged = plan->staged,
                                      .staged_count = plan->staged_count,
                                      .kept = r->kept,
                                      .limited = true};
        cas_nodes_init(&st.nodes);
        int rc = settle_parents(r, st.now, &st.again, err);
        if (rc == 0)
                rc = settle_names(&st, err);
        if (rc == 0)
                rc = settle_arrivals(&st, err);
        if (rc == 0)
                rc = cas_nodes_run(&st.nodes, err);
        *again = rc == 0 && (st.again || st.nodes.absent) && !plan->exclusive;
        cas_nodes_release(&st.nodes);
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
