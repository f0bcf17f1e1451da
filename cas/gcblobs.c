/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs, with all that is noted of them: layers, recipes, nodes, trees, chains, orders. */
#include "cas/gc_int.h"

#include <time.h>

#include "cas/blob.h"
#include "cas/blobcache_int.h"
#include "cas/chain_int.h"
#include "cas/elsewhere_int.h"
#include "cas/image.h"
#include "cas/limits.h"
#include "cas/map.h"
#include "cas/pins_int.h"

#define KEY_ORDER_MANIFEST 'm'

/* Records by blob: which of them there are. */
static const enum cas_family of_blob[] = {CAS_FAMILY_LAYERS, CAS_FAMILY_ELSEWHERE,
                                          CAS_FAMILY_RECIPES, CAS_FAMILY_NODES};

/* What keeps a blob, and what goes with it. */
struct needs {
        bool needed;
        size_t tree_count;
        struct cas_hash *trees; /* owned; of the first look */
};

struct gone_tree {
        struct cas_hash key;
        struct cas_digest file;
};

struct blob_plan {
        const struct cas_condemned *c;
        enum cas_gc_verdict verdict;
        struct needs needs;
        bool has_record;
        struct cas_blob_record record;
        bool has[CAS_COUNT(of_blob)];
        struct cas_batch *batch; /* owned: what goes; NULL unless GOES */
        struct gone_tree *trees; /* owned */
        size_t tree_count;
        uint64_t children;
};

static void plan_release(struct blob_plan *p)
{
        cas_batch_free(p->batch);
        free(p->needs.trees);
        free(p->trees);
}

/* ---- what keeps it ---- */

static int see_need(void *arg, const struct cas_ref_seen *ref, struct cas_err *err CAS_UNUSED)
{
        struct needs *n = arg;
        if (ref->role != CAS_BLOB_IN_TREE) {
                n->needed = true;
                return 1;
        }
        if (ref->parent_len == CAS_HASH_BYTES) {
                n->trees = cas_xrealloc(n->trees, (n->tree_count + 1) * sizeof(n->trees[0]));
                memcpy(n->trees[n->tree_count++].bytes, ref->parent, CAS_HASH_BYTES);
        }
        return 0;
}

static int look_at_needs(struct cas_gc_run *gc, const struct cas_digest *blob, struct needs *out,
                         struct cas_err *err)
{
        *out = (struct needs){0};
        return cas_blob_refs_each(gc->ix, blob, see_need, out, err);
}

static int get_record(struct cas_gc_run *gc, const struct cas_digest *blob, bool *has,
                      struct cas_blob_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_digest(blob, &key);
        int rc = cas_index_get(gc->ix, CAS_FAMILY_BLOBS, key.bytes, key.len, &value, &miss);
        *has = rc == 0;
        *out = (struct cas_blob_record){0};
        if (rc == 0)
                return cas_blob_record_decode(value.data, value.len_bytes, out, err);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* ---- what goes with it ---- */

static int plan_listing(struct cas_gc_run *gc, struct blob_plan *p, const struct cas_hash *listing,
                        struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_digest(&p->c->blob, &key);
        cas_batch_del_object_ref(p->batch, listing, CAS_OBJECT_LISTING, key.bytes, key.len);
        return cas_gc_pass_on(gc, p->batch, CAS_CONDEMNED_LISTING, listing, err);
}

static int plan_layer(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        struct cas_layer_record layer;
        int rc = cas_index_get_layer(gc->ix, &p->c->blob, &layer, err);
        return rc < 0 ? rc : plan_listing(gc, p, &layer.listing, err);
}

static int plan_elsewhere(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_digest(&p->c->blob, &key);
        int rc = cas_index_get(gc->ix, CAS_FAMILY_ELSEWHERE, key.bytes, key.len, &value, err);
        if (rc == 0)
                rc = cas_elsewhere_decode(&p->c->blob, value.data, value.len_bytes, rec, err);
        return rc < 0 ? rc : plan_listing(gc, p, &rec->layer.listing, err);
}

static int plan_recipe(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        struct cas_recipe_record rec;
        struct cas_record_key key;
        int rc = cas_index_get_recipe(gc->ix, &p->c->blob, &rec, err);
        if (rc < 0 || cas_hash_is_zero(&rec.recipe))
                return rc;
        cas_key_digest(&p->c->blob, &key);
        cas_batch_del_object_ref(p->batch, &rec.recipe, CAS_OBJECT_RECIPE, key.bytes, key.len);
        return cas_gc_pass_on(gc, p->batch, CAS_CONDEMNED_RECIPE, &rec.recipe, err);
}

/* Notes of the image's chain; a config that cannot be read leaves them to a full run. */
static int plan_chain(struct cas_gc_run *gc, struct blob_plan *p, const struct cas_manifest *m,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_image_config struct cas_image_config config = {0};
        struct cas_err ignored = CAS_ERR_INIT;
        if (m->kind != CAS_MANIFEST_IMAGE || m->config.size_bytes > CAS_CONFIG_BYTES_MAX ||
            cas_blob_read(gc->s, &m->config.digest, CAS_CONFIG_BYTES_MAX, &bytes, &ignored) < 0 ||
            cas_image_config_parse(bytes.data, bytes.len_bytes, &config, &ignored) < 0)
                return 0;
        return cas_chain_forget(gc->ix, p->batch, config.diff_ids, config.diff_id_count,
                                &p->c->blob, err);
}

static int plan_order(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        struct cas_record_key key, order;
        bool there;
        cas_key_digest(&p->c->blob, &key);
        order.bytes[0] = KEY_ORDER_MANIFEST;
        memcpy(order.bytes + 1, key.bytes, key.len);
        order.len = key.len + 1;
        int rc = cas_gc_has(gc, CAS_FAMILY_ORDERS, &order, &there, err);
        if (rc == 0 && there)
                cas_batch_del(p->batch, CAS_FAMILY_ORDERS, order.bytes, order.len);
        return rc;
}

/* What a manifest names is condemned with a grace of its own: a client may have been told that it
 * is here while the manifest kept it. */
static void condemn_child(struct blob_plan *p, const struct cas_digest *child)
{
        cas_batch_condemn_blob(p->batch, child, (uint64_t)time(NULL));
        p->children++;
}

static int plan_node(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        char media_type[256];
        bool node;
        int rc = cas_node_get(gc->ix, &p->c->blob, &node, media_type, err);
        if (rc == 0)
                rc = cas_blob_read(gc->s, &p->c->blob, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, media_type, &m, err);
        if (rc < 0)
                return cas_err_wrap(err, "manifest");
        cas_batch_del_manifest_refs(p->batch, &p->c->blob, &m);
        if (m.kind == CAS_MANIFEST_IMAGE)
                condemn_child(p, &m.config.digest);
        for (size_t i = 0; i < m.child_count; i++)
                condemn_child(p, &m.children[i].digest);
        rc = plan_chain(gc, p, &m, err);
        return rc < 0 ? rc : plan_order(gc, p, err);
}

/* A tree goes with the first of its layers. */
static int plan_tree(struct cas_gc_run *gc, struct blob_plan *p, const struct cas_hash *key,
                     struct cas_err *err)
{
        struct cas_tree_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        bool mine = false;
        cas_batch_del_blob_ref(p->batch, &p->c->blob, CAS_BLOB_IN_TREE, key->bytes, CAS_HASH_BYTES);
        int rc = cas_index_get_tree(gc->ix, key, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        for (size_t i = 0; i < rec.layer_count; i++)
                mine = mine || cas_digest_equal(&rec.layers[i], &p->c->blob);
        if (mine) {
                for (size_t i = 0; i < rec.layer_count; i++)
                        cas_batch_del_blob_ref(p->batch, &rec.layers[i], CAS_BLOB_IN_TREE,
                                               key->bytes, CAS_HASH_BYTES);
                cas_batch_del_blob_ref(p->batch, &rec.tree, CAS_BLOB_IN_TREE, key->bytes,
                                       CAS_HASH_BYTES);
                cas_batch_del(p->batch, CAS_FAMILY_TREES, key->bytes, CAS_HASH_BYTES);
                p->trees[p->tree_count++] = (struct gone_tree){.key = *key, .file = rec.tree};
        }
        free(rec.layers);
        return 0;
}

static int plan_trees(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        int rc = 0;
        p->trees = cas_xcalloc(p->needs.tree_count + 1, sizeof(p->trees[0]));
        for (size_t i = 0; rc == 0 && i < p->needs.tree_count; i++)
                rc = plan_tree(gc, p, &p->needs.trees[i], err);
        return rc;
}

/* Everything; what cannot be read keeps the blob. */
static int plan_all(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        static int (*const plan_of[])(struct cas_gc_run *, struct blob_plan *, struct cas_err *) = {
                plan_layer, plan_elsewhere, plan_recipe, plan_node};
        struct cas_record_key key;
        int rc = plan_trees(gc, p, err);
        cas_key_digest(&p->c->blob, &key);
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(of_blob); i++) {
                if (!p->has[i])
                        continue;
                rc = plan_of[i](gc, p, err);
                cas_batch_del(p->batch, of_blob[i], key.bytes, key.len);
        }
        cas_batch_del(p->batch, CAS_FAMILY_BLOBS, key.bytes, key.len);
        cas_batch_uncondemn_blob(p->batch, &p->c->blob);
        return rc;
}

static int look_at_families(struct cas_gc_run *gc, const struct cas_digest *blob,
                            bool has[CAS_COUNT(of_blob)], struct cas_err *err)
{
        struct cas_record_key key;
        int rc = 0;
        cas_key_digest(blob, &key);
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(of_blob); i++)
                rc = cas_gc_has(gc, of_blob[i], &key, &has[i], err);
        return rc;
}

static bool is_damage(int rc)
{
        return rc == -CAS_E_CORRUPT || rc == -CAS_E_NOTFOUND || rc == -CAS_E_INVALID ||
               rc == -CAS_E_LIMIT || rc == -CAS_E_UNSUPPORTED;
}

static int make_plan(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = look_at_needs(gc, &p->c->blob, &p->needs, err);
        if (rc < 0 || p->needs.needed) {
                p->verdict = CAS_GC_NEEDED;
                return rc;
        }
        rc = get_record(gc, &p->c->blob, &p->has_record, &p->record, &why);
        if (rc == 0 && (cas_gc_is_young(gc, p->c->since_unix_s) ||
                        cas_gc_is_young(gc, p->record.added_unix_s)))
                return 0;
        if (rc == 0)
                rc = look_at_families(gc, &p->c->blob, p->has, &why);
        p->batch = cas_batch_new();
        if (rc == 0)
                rc = plan_all(gc, p, &why);
        if (rc == 0)
                p->verdict = CAS_GC_GOES;
        if (rc < 0 && is_damage(rc)) {
                (void)cas_err_wrap(&why, "%s", cas_digest_text(&p->c->blob, text));
                cas_gc_note_damage(gc, &why);
                rc = 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

/* ---- with the gate closed ---- */

/* Whether a plan that was made before still says what is to go. */
static int is_same(struct cas_gc_run *gc, struct blob_plan *p, bool *out, struct cas_err *err)
{
        struct needs now;
        struct cas_blob_record record;
        bool has_record, has[CAS_COUNT(of_blob)];
        uint64_t since = p->c->since_unix_s;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = look_at_needs(gc, &p->c->blob, &now, err);
        free(now.trees);
        *out = false;
        if (rc == 0)
                rc = get_record(gc, &p->c->blob, &has_record, &record, err);
        if (rc == 0)
                rc = look_at_families(gc, &p->c->blob, has, err);
        if (rc < 0)
                return rc;
        rc = cas_condemned_blob_since(gc->ix, &p->c->blob, &since, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        *out = !now.needed && now.tree_count == p->needs.tree_count &&
               has_record == p->has_record && record.added_unix_s == p->record.added_unix_s &&
               record.copy == p->record.copy && memcmp(has, p->has, sizeof(has)) == 0 &&
               since == p->c->since_unix_s;
        return 0;
}

static int judge(struct cas_gc_run *gc, struct blob_plan *p, struct cas_err *err)
{
        bool same = true;
        int rc = 0;
        if (p->verdict == CAS_GC_NEEDED && !gc->unchanged) {
                bool needed;
                rc = cas_blob_is_needed(gc->ix, &p->c->blob, &needed, err);
                if (!needed)
                        p->verdict = CAS_GC_WAITS;
        }
        if (p->verdict != CAS_GC_GOES)
                return rc;
        if (cas_blob_is_pinned(gc->s, &p->c->blob) || cas_blob_is_leased(gc->s, &p->c->blob))
                same = false;
        else if (!gc->unchanged)
                rc = is_same(gc, p, &same, err);
        if (!same)
                p->verdict = CAS_GC_WAITS;
        return rc;
}

/* What is needed by what goes with this very batch is condemned by that: so that comes last. */
static int write_plans(struct cas_gc_run *gc, struct blob_plan *plans, size_t count,
                       struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = 0;
        cas_gc_close(gc);
        for (size_t i = 0; rc == 0 && i < count; i++) {
                rc = judge(gc, &plans[i], err);
                if (plans[i].verdict == CAS_GC_NEEDED)
                        cas_batch_uncondemn_blob(batch, &plans[i].c->blob);
        }
        for (size_t i = 0; rc == 0 && i < count; i++) {
                if (plans[i].verdict == CAS_GC_GOES)
                        cas_batch_join(batch, plans[i].batch);
        }
        if (rc < 0) {
                cas_batch_free(batch);
                batch = cas_batch_new();
        }
        int written = cas_gc_write(gc, batch, err);
        return rc < 0 ? rc : written;
}

/* ---- afterwards ---- */

static int settle_trees(struct cas_gc_run *gc, struct blob_plan *p, struct cas_map *seen,
                        struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < p->tree_count; i++) {
                bool first;
                (void)cas_map_put(seen, p->trees[i].key.bytes, CAS_HASH_BYTES, &first);
                if (!first) /* another of its layers has gone with this batch */
                        continue;
                gc->out->trees_removed++;
                rc = cas_gc_file_later(gc, &p->trees[i].file, true, err);
        }
        return rc;
}

static int settle(struct cas_gc_run *gc, struct blob_plan *p, struct cas_map *seen,
                  struct cas_err *err)
{
        gc->out->waiting += p->verdict == CAS_GC_WAITS;
        if (p->verdict != CAS_GC_GOES)
                return 0;
        gc->blobs_condemned += p->children;
        gc->out->blobs_removed += p->has_record;
        gc->out->blob_bytes += p->record.size_bytes;
        gc->out->layers_removed += p->has[0] || p->has[1];
        gc->out->recipes_removed += p->has[2];
        int rc = settle_trees(gc, p, seen, err);
        if (rc == 0 && p->has_record && p->record.copy != CAS_BLOB_CONDENSED)
                rc = cas_gc_file_later(gc, &p->c->blob, false, err);
        return rc;
}

int cas_gc_blobs(struct cas_gc_run *gc, struct cas_err *err)
{
        const size_t count = gc->page_count;
        cas_cleanup_free struct blob_plan *plans = cas_xcalloc(count, sizeof(plans[0]));
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        int rc = 0;
        cas_gc_plan(gc);
        for (size_t i = 0; rc == 0 && i < count; i++) {
                plans[i].c = &gc->page[i];
                rc = make_plan(gc, &plans[i], err);
        }
        if (rc == 0)
                rc = write_plans(gc, plans, count, err);
        for (size_t i = 0; i < count; i++) {
                if (rc == 0)
                        rc = settle(gc, &plans[i], seen, err);
                plan_release(&plans[i]);
        }
        return rc;
}
