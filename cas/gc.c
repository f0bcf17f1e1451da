/* SPDX-License-Identifier: Apache-2.0 */
/* Garbage collection, offline: publications wait. What refers goes before what
 * is referred to, and index entries before files, so that a crash at any point
 * leaves garbage and nothing else:
 * names > trees > layers > recipes > blobs > objects > chunks > packs. */
#include "cas/gc_int.h"
#include "cas/chain_int.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "cas/dirwalk_int.h"
#include "cas/elsewhere_int.h"
#include "cas/map.h"
#include "cas/packset_int.h"

/* A batch of removals is written when it has grown to this. */
#define BATCH_BYTES (1 * CAS_MIB)

struct gc {
        struct cas_store *s;
        const struct cas_gc_options *options;
        const struct cas_progress *progress;
        struct cas_gc_marks marks;
        struct cas_gc_result *out;
        struct cas_batch *batch;
        struct cas_map *pack_live;   /* be64 pack id -> stored bytes of live chunks */
        struct cas_hashset trees;    /* whose files stay */
        struct cas_hashset fileless; /* blobs that stay, without a file */
};

static int flush(struct gc *gc, size_t above, struct cas_err *err)
{
        if (gc->options->dry_run || cas_batch_bytes(gc->batch) <= above)
                return 0;
        return cas_index_write(gc->s->index, gc->batch, err);
}

/* Removes one entry of the index, soon. */
static int drop(struct gc *gc, enum cas_family family, const void *key, size_t key_len,
                struct cas_err *err)
{
        if (!gc->options->dry_run)
                cas_batch_del(gc->batch, family, key, key_len);
        return flush(gc, BATCH_BYTES, err);
}

/* ---- names and leases ---- */

static int drop_links(struct gc *gc, struct cas_err *err)
{
        if (gc->options->dry_run || gc->marks.unlink_count == 0)
                return 0;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        const struct cas_name_changes changes = {.records = &gc->marks.unlinks,
                                                 .count = gc->marks.unlink_count};
        return cas_commit_names(gc->s, batch, &changes, err);
}

static int sweep_lease(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_lease lease;
        int rc = cas_lease_decode(key, key_len, value, value_len, &lease, err);
        if (rc < 0 || lease.expires_unix_s == 0 || lease.expires_unix_s >= (uint64_t)time(NULL))
                return rc;
        return drop(gc, CAS_FAMILY_LEASES, key, key_len, err);
}

/* Of tags that are gone. */
static int sweep_tag_times(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                           size_t value_len CAS_UNUSED, struct cas_err *err)
{
        struct gc *gc = arg;
        bool there;
        int rc = cas_index_has(gc->s->index, CAS_FAMILY_TAGS, key, key_len, &there, err);
        return rc < 0 || there ? rc : drop(gc, CAS_FAMILY_TAG_TIMES, key, key_len, err);
}

/* ---- trees ---- */

static int sweep_tree(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_tree_record rec;
        int rc = cas_tree_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        bool live = true;
        for (size_t i = 0; i < rec.layer_count; i++)
                live = live && cas_hashset_has(&gc->marks.layers, rec.layers[i].bytes);
        free(rec.layers);
        if (live) {
                (void)cas_hashset_add(&gc->trees, rec.tree.bytes);
                return 0;
        }
        gc->out->trees_removed++;
        return drop(gc, CAS_FAMILY_TREES, key, key_len, err);
}

/* Removes a file unless this is a dry run; counts its bytes. */
static int remove_file(struct gc *gc, const char *path, uint64_t *out_bytes, struct cas_err *err)
{
        int rc = cas_io_size(gc->s->io, gc->s->dirfd, path, out_bytes, err);
        if (rc == 0 && !gc->options->dry_run)
                rc = cas_io_unlink(gc->s->io, gc->s->dirfd, path, err);
        if (rc == 0)
                gc->out->bytes_freed += *out_bytes;
        return rc;
}

/* Files of trees that no record names: dropped ones, and what a crash left. */
static int sweep_tree_file(void *arg, const char *path, const char *name, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_hash hash;
        uint64_t bytes;
        if (strlen(name) >= 64 && cas_hash_from_hex(name, 64, &hash) &&
            strcmp(name + 64, ".erofs") == 0 && cas_hashset_has(&gc->trees, hash.bytes))
                return 0;
        return remove_file(gc, path, &bytes, err);
}

static int sweep_trees(struct gc *gc, struct cas_err *err)
{
        int rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_TREES},
                                sweep_tree, gc, err);
        if (rc == 0)
                rc = flush(gc, 0, err);
        return rc < 0 ? rc : cas_dir_each(gc->s, CAS_DIR_TREES, sweep_tree_file, gc, err);
}

/* ---- layers and blobs ---- */

/* A record named by a blob stays while the blob is marked; *removed counts those that go. */
static int sweep_by_blob(struct gc *gc, enum cas_family family, const struct cas_hashset *marked,
                         uint64_t *removed, const void *key, size_t key_len, struct cas_err *err)
{
        struct cas_digest blob;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc < 0 || cas_hashset_has(marked, blob.bytes))
                return rc;
        (*removed)++;
        return drop(gc, family, key, key_len, err);
}

static int sweep_layer(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *err)
{
        struct gc *gc = arg;
        return sweep_by_blob(gc, CAS_FAMILY_LAYERS, &gc->marks.layers, &gc->out->layers_removed,
                             key, key_len, err);
}

/* What is noted of layers that are elsewhere goes with the images that want them. */
static int sweep_elsewhere(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                           size_t value_len CAS_UNUSED, struct cas_err *err)
{
        struct gc *gc = arg;
        return sweep_by_blob(gc, CAS_FAMILY_ELSEWHERE, &gc->marks.layers, &gc->out->layers_removed,
                             key, key_len, err);
}

/* Orders of images that are gone; the latest of a repository goes with its image's. */
static int sweep_order(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_digest manifest;
        if (cas_order_manifest(key, key_len, value, value_len, &manifest) &&
            cas_hashset_has(&gc->marks.blobs, manifest.bytes))
                return 0;
        return drop(gc, CAS_FAMILY_ORDERS, key, key_len, err);
}

static int sweep_recipe(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                        size_t value_len CAS_UNUSED, struct cas_err *err)
{
        struct gc *gc = arg;
        return sweep_by_blob(gc, CAS_FAMILY_RECIPES, &gc->marks.blobs, &gc->out->recipes_removed,
                             key, key_len, err);
}

static int sweep_blob(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_digest blob;
        struct cas_blob_record rec;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc == 0)
                rc = cas_blob_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        if (cas_hashset_has(&gc->marks.blobs, blob.bytes)) {
                if (rec.copy == CAS_BLOB_CONDENSED)
                        (void)cas_hashset_add(&gc->fileless, blob.bytes);
                return 0;
        }
        if (rec.copy == CAS_BLOB_CONDENSED) /* others are counted by their files */
                gc->out->blobs_removed++;
        return drop(gc, CAS_FAMILY_BLOBS, key, key_len, err);
}

/* Notes of images that are gone, and of cuts that did not work (they are found again). */
static int sweep_chain(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_digest manifest;
        if (cas_chain_manifest(value, value_len, &manifest) &&
            cas_hashset_has(&gc->marks.blobs, manifest.bytes))
                return 0;
        return drop(gc, CAS_FAMILY_CHAINS, key, key_len, err);
}

/* Files of blobs that stay in no case: dropped ones, what was never committed, and copies that the
 * index does not count any more. */
static int sweep_blob_file(void *arg, const char *path, const struct cas_digest *digest,
                           struct cas_err *err)
{
        struct gc *gc = arg;
        uint64_t bytes;
        bool is_copy = cas_hashset_has(&gc->fileless, digest->bytes);
        if (cas_hashset_has(&gc->marks.blobs, digest->bytes) && !is_copy)
                return 0;
        int rc = remove_file(gc, path, &bytes, err);
        if (rc == 0 && !is_copy) {
                gc->out->blobs_removed++;
                gc->out->blob_bytes += bytes;
        }
        return rc;
}

static int sweep_blobs(struct gc *gc, struct cas_err *err)
{
        int rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_LAYERS},
                                sweep_layer, gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index,
                                    &(struct cas_scan){.family = CAS_FAMILY_ELSEWHERE},
                                    sweep_elsewhere, gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_ORDERS},
                                    sweep_order, gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_RECIPES},
                                    sweep_recipe, gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_BLOBS},
                                    sweep_blob, gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_CHAINS},
                                    sweep_chain, gc, err);
        if (rc == 0)
                rc = flush(gc, 0, err);
        return rc < 0 ? rc : cas_blob_files_each(gc->s, sweep_blob_file, NULL, gc, err);
}

/* ---- objects and chunks ---- */

static int sweep_object(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_object_record rec;
        struct cas_hash id;
        int rc = cas_object_record_decode(value, value_len, &rec, err);
        if (rc < 0 || key_len != CAS_HASH_BYTES || cas_hashset_has(&gc->marks.objects, key))
                return rc;
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        gc->out->objects_removed++;
        if (!gc->options->dry_run)
                cas_batch_del_object(gc->batch, &id, rec.chunk_count);
        return flush(gc, BATCH_BYTES, err);
}

static int sweep_chunk(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct gc *gc = arg;
        struct cas_chunk_record rec;
        int rc = cas_chunk_record_decode(value, value_len, &rec, err);
        if (rc < 0 || key_len != CAS_HASH_BYTES)
                return rc;
        if (!cas_hashset_has(&gc->marks.chunks, key)) {
                gc->out->chunks_removed++;
                return drop(gc, CAS_FAMILY_CHUNKS, key, key_len, err);
        }
        struct cas_record_key pack;
        cas_key_pack(rec.pack_id, &pack);
        *cas_map_put(gc->pack_live, pack.bytes, pack.len, NULL) +=
                (uint64_t)rec.block_stored_bytes * rec.length_bytes /
                cas_max_u64(rec.block_raw_bytes, 1);
        return 0;
}

static int sweep_objects(struct gc *gc, struct cas_err *err)
{
        int rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_OBJECTS},
                                sweep_object, gc, err);
        if (rc == 0)
                rc = flush(gc, 0, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_CHUNKS},
                                    sweep_chunk, gc, err);
        return rc < 0 ? rc : flush(gc, 0, err);
}

/* ---- packs ---- */

/* The record that the index has now: others of the blob may tell of objects that are gone. */
static bool recipe_is_live(const struct gc *gc, const struct cas_recipe_record *recipe)
{
        struct cas_recipe_record now;
        struct cas_err err = CAS_ERR_INIT;
        if (!cas_hashset_has(&gc->marks.blobs, recipe->blob.bytes))
                return false;
        int rc = cas_index_get_recipe(gc->s->index, &recipe->blob, &now, &err);
        return rc == 0 ? now.is_proved && cas_hash_equal(&now.recipe, &recipe->recipe)
                       : rc != -CAS_E_NOTFOUND;
}

static bool record_is_live(void *arg, enum cas_pack_record_kind kind, const void *key,
                           size_t key_len CAS_UNUSED)
{
        const struct gc *gc = arg;
        switch (kind) {
        case CAS_PACK_BLOCK:
                return cas_hashset_has(&gc->marks.chunks, key);
        case CAS_PACK_OBJECT:
                return cas_hashset_has(&gc->marks.objects, key);
        case CAS_PACK_LAYER:
                return cas_hashset_has(&gc->marks.layers, ((const struct cas_digest *)key)->bytes);
        case CAS_PACK_RECIPE:
                return recipe_is_live(gc, key);
        }
        return true;
}

struct thin_pack {
        uint64_t pack_id;
        uint64_t size_bytes;
};
struct thin_packs {
        struct gc *gc;
        struct thin_pack *list; /* owned */
        size_t count, max;
};

/* Packs below the wanted live share. An empty pack that is still written to is none. */
static bool find_thin_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct thin_packs *thin = arg;
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        const uint64_t *live = cas_map_get(thin->gc->pack_live, key.bytes, key.len);
        uint64_t live_bytes = live ? *live : 0;
        bool worth = live_bytes == 0 ||
                     live_bytes * 100 < rec->size_bytes * thin->gc->options->live_percent_min;
        if (!worth)
                return true;
        if (thin->count == thin->max) {
                thin->max = thin->max ? 2 * thin->max : 64;
                thin->list = cas_xrealloc(thin->list, thin->max * sizeof(thin->list[0]));
        }
        thin->list[thin->count++] =
                (struct thin_pack){.pack_id = pack_id, .size_bytes = rec->size_bytes};
        return true;
}

static int sweep_pack(struct gc *gc, const struct thin_pack *pack, struct cas_err *err)
{
        uint64_t written = 0;
        if (!gc->options->dry_run) {
                int rc = cas_packset_rewrite(gc->s->packset, pack->pack_id, record_is_live, gc,
                                             &written, err);
                if (rc < 0)
                        return rc;
        }
        struct cas_record_key key;
        cas_key_pack(pack->pack_id, &key);
        if (cas_map_get(gc->pack_live, key.bytes, key.len))
                gc->out->packs_rewritten++;
        else
                gc->out->packs_removed++;
        gc->out->bytes_freed += pack->size_bytes - cas_min_u64(written, pack->size_bytes);
        return 0;
}

static int sweep_packs(struct gc *gc, struct cas_err *err)
{
        struct thin_packs thin = {.gc = gc};
        int rc = cas_index_each_pack(gc->s->index, find_thin_pack, &thin, err);
        for (size_t i = 0; rc == 0 && i < thin.count; i++) {
                cas_progress_update(gc->progress, "packs", i, thin.count);
                rc = sweep_pack(gc, &thin.list[i], err);
        }
        free(thin.list);
        return rc;
}

/* ---- all ---- */

static int collect(struct gc *gc, struct cas_err *err)
{
        uint64_t now = (uint64_t)time(NULL);
        uint64_t young = now - cas_min_u64(gc->options->grace_s, now) + (gc->options->grace_s == 0);
        int rc = cas_gc_mark(gc->s, young, gc->progress, &gc->marks, err);
        if (rc < 0)
                return rc;
        rc = drop_links(gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index, &(struct cas_scan){.family = CAS_FAMILY_LEASES},
                                    sweep_lease, gc, err);
        if (rc == 0)
                rc = cas_index_scan(gc->s->index,
                                    &(struct cas_scan){.family = CAS_FAMILY_TAG_TIMES},
                                    sweep_tag_times, gc, err);
        if (rc == 0)
                rc = sweep_trees(gc, err);
        if (rc == 0)
                rc = sweep_blobs(gc, err);
        if (rc == 0)
                rc = sweep_objects(gc, err);
        return rc < 0 ? rc : sweep_packs(gc, err);
}

int cas_gc(struct cas_store *s, const struct cas_gc_options *options,
           const struct cas_progress *progress, struct cas_gc_result *out, struct cas_err *err)
{
        *out = (struct cas_gc_result){0};
        struct gc gc = {.s = s,
                        .options = options,
                        .progress = progress,
                        .out = out,
                        .batch = cas_batch_new(),
                        .pack_live = cas_map_new()};
        cas_store_exclusive_begin(s);
        atomic_fetch_add(&s->collections, 1);
        int rc = collect(&gc, err);
        atomic_fetch_add(&s->collections, 1);
        cas_store_exclusive_end(s);
        cas_elsewhere_changed(s);
        cas_gc_marks_release(&gc.marks);
        cas_hashset_release(&gc.trees);
        cas_hashset_release(&gc.fileless);
        cas_batch_free(gc.batch);
        cas_map_free(gc.pack_live);
        return rc;
}
