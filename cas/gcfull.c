/* SPDX-License-Identifier: Apache-2.0 */
/* A full run: looks for what never was condemned, and condemns it (spec/gc.md). Families are gone
 * through in the order of their keys, page by page, each page beside the references of what is in
 * it; between pages the place is kept in the index. It is due after an unclean end: what is in an
 * operation's hands when the process dies is nobody's.
 *
 * Nothing is condemned that an operation under way has not written yet: it cannot be seen. What it
 * has written may be condemned, and stays as long as it is pinned. */
#include "cas/gc_int.h"

#include <stdio.h>
#include <time.h>

#include "cas/blobcache_int.h"
#include "cas/chain_int.h"
#include "cas/dirwalk_int.h"
#include "cas/elsewhere_int.h"
#include "cas/gcfull_int.h"
#include "cas/map.h"
#include "cas/namerecord_int.h"
#include "cas/packset_int.h"

/* Keys of a family that are looked at before the place is noted. */
#define PAGE_KEYS 4096

/* Keys that are to be looked at again, at once. */
#define SUSPECTS_BYTES (32 * CAS_KIB)

struct stage {
        enum cas_family family;
        enum cas_family beside; /* references of what is in it; CAS_FAMILY_COUNT: none */
        cas_gc_look_fn look;
};

static const char place_key[] = "gc";
static const char clean_key[] = "clean";

/* ---- the place ---- */

static void put_place(struct cas_batch *batch, unsigned stage, const struct cas_record_key *after)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_varint_append(&value, stage);
        cas_buf_append(&value, after->bytes, after->len);
        cas_batch_put(batch, CAS_FAMILY_META, place_key, sizeof(place_key) - 1, value.data,
                      value.len_bytes);
}

/* *due false: none is noted. */
static int get_place(struct cas_index *ix, bool *due, unsigned *stage, struct cas_record_key *after,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        *stage = 0;
        after->len = 0;
        int rc =
                cas_index_get(ix, CAS_FAMILY_META, place_key, sizeof(place_key) - 1, &value, &miss);
        *due = rc == 0;
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        struct cas_cursor c = cas_cursor_over(value.data, value.len_bytes);
        uint64_t number = cas_cursor_varint(&c);
        size_t left = cas_cursor_left(&c);
        if (c.failed || number > UINT16_MAX || left > sizeof(after->bytes))
                return 0; /* from the start */
        *stage = (unsigned)number;
        memcpy(after->bytes, c.at, left);
        after->len = left;
        return 0;
}

int cas_gc_full_is_due(struct cas_gc_run *gc, bool *out, struct cas_err *err)
{
        unsigned stage;
        struct cas_record_key after;
        return get_place(gc->ix, out, &stage, &after, err);
}

int cas_gc_note_opened(struct cas_index *ix, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        const struct cas_record_key start = {.len = 0};
        bool clean;
        int rc = cas_index_has(ix, CAS_FAMILY_META, clean_key, sizeof(clean_key) - 1, &clean, err);
        if (rc < 0)
                return rc;
        if (clean)
                cas_batch_del(batch, CAS_FAMILY_META, clean_key, sizeof(clean_key) - 1);
        else
                put_place(batch, 0, &start);
        return cas_index_write(ix, batch, err);
}

int cas_gc_note_made(struct cas_index *ix, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_put(batch, CAS_FAMILY_META, clean_key, sizeof(clean_key) - 1, "", 0);
        return cas_index_write(ix, batch, err);
}

void cas_gc_note_closed(struct cas_store *s)
{
        struct cas_gc_run gc = {.s = s, .ix = s->index, .dead = cas_map_new()};
        struct cas_err ignored = CAS_ERR_INIT;
        if (cas_gc_note_dead(&gc, &ignored) == 0)
                (void)!cas_gc_note_made(s->index, &ignored);
        cas_map_free(gc.dead);
}

/* ---- pages of a family ---- */

/* Looks at an entry. What it says is not known when it cannot be read: it keeps what it is of. */
static int look(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                size_t value_len, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = f->look(f, key, key_len, value, value_len, &why);
        if (rc == -CAS_E_CORRUPT) {
                cas_gc_note_damage(f->gc, &why);
                rc = 0;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

static int take_entry(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        struct cas_gc_full *f = arg;
        memcpy(f->after.bytes, key, key_len);
        f->after.bytes[key_len] = 0;
        f->after.len = key_len + 1;
        f->keys++;
        int rc = look(f, key, key_len, value, value_len, err);
        return rc < 0 ? rc
                      : f->keys == PAGE_KEYS || f->suspects.len_bytes >= SUSPECTS_BYTES ||
                                cas_batch_bytes(f->batch) >= CAS_GC_BATCH_BYTES;
}

int cas_gc_full_suspect(struct cas_gc_full *f, const void *key, size_t key_len)
{
        cas_assert(!f->sure);
        cas_buf_append_le32(&f->suspects, (uint32_t)key_len);
        cas_buf_append(&f->suspects, key, key_len);
        return 0;
}

static int look_again(struct cas_gc_full *f, enum cas_family family, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(f->suspects.data, f->suspects.len_bytes);
        int rc = 0;
        f->sure = true;
        while (rc == 0 && cas_cursor_left(&c) > 0) {
                cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
                struct cas_err gone = CAS_ERR_INIT;
                const uint32_t len = cas_cursor_le32(&c);
                const void *key = cas_cursor_take(&c, len);
                rc = cas_index_get(f->gc->ix, family, key, len, &value, &gone);
                if (rc == 0)
                        rc = look(f, key, len, value.data, value.len_bytes, err);
                else if (rc == -CAS_E_NOTFOUND)
                        rc = 0;
                else
                        *err = gone;
        }
        f->sure = false;
        return rc;
}

/* What was found on a page, and where the next begins. */
static int write_page(struct cas_gc_full *f, unsigned stage, enum cas_family family,
                      struct cas_err *err)
{
        put_place(f->batch, stage, &f->after);
        if (f->suspects.len_bytes == 0)
                return cas_index_write(f->gc->ix, f->batch, err);
        cas_gc_plan(f->gc);
        cas_gc_close(f->gc);
        int rc = look_again(f, family, err);
        int written = cas_gc_write(f->gc, f->batch, err);
        cas_buf_clear(&f->suspects);
        rc = rc < 0 ? rc : written;
        for (size_t i = 0; rc == 0 && i < f->tree_count; i++)
                rc = cas_gc_file_later(f->gc, &f->trees[i], true, err);
        f->tree_count = 0;
        return rc;
}

static int read_page(struct cas_gc_full *f, const struct stage *stage, struct cas_err *err)
{
        f->keys = 0;
        f->look = stage->look;
        f->family = stage->family;
        int rc = 0;
        if (stage->beside != CAS_FAMILY_COUNT)
                rc = cas_index_walk_open(f->gc->ix, stage->beside, &f->beside, err);
        if (rc == 0)
                rc = cas_index_scan(f->gc->ix,
                                    &(struct cas_scan){.family = stage->family,
                                                       .from = f->after.bytes,
                                                       .from_len = f->after.len},
                                    take_entry, f, err);
        cas_index_walk_close(cas_steal(&f->beside));
        return rc;
}

static int go_through(struct cas_gc_full *f, unsigned number, const struct stage *stage,
                      struct cas_err *err)
{
        do {
                int rc = read_page(f, stage, err);
                if (rc == 0 && f->keys > 0)
                        rc = write_page(f, number, stage->family, err);
                if (rc < 0)
                        return rc;
                f->seen += f->keys;
                cas_progress_update(f->gc->progress, cas_family_name(stage->family), f->seen, 0);
        } while (f->keys > 0 && cas_gc_goes_on(f->gc));
        return 0;
}

/* ---- condemning ---- */

int cas_gc_full_condemn_blob(struct cas_gc_full *f, const struct cas_digest *blob,
                             struct cas_err *err)
{
        uint64_t since;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_condemned_blob_since(f->gc->ix, blob, &since, &miss);
        if (rc == -CAS_E_NOTFOUND)
                cas_batch_condemn_blob(f->batch, blob, (uint64_t)time(NULL));
        else if (rc < 0)
                *err = miss;
        return rc == -CAS_E_NOTFOUND ? 0 : rc;
}

int cas_gc_full_condemn(struct cas_gc_full *f, enum cas_condemned_kind kind,
                        const struct cas_hash *hash, struct cas_err *err)
{
        return cas_gc_pass_on(f->gc, f->batch, kind, hash, err);
}

/* ---- blobs, and what is noted of them ---- */

/* Records by blob. */
static int look_at_blob(struct cas_gc_full *f, const void *key, size_t key_len,
                        const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                        struct cas_err *err)
{
        struct cas_digest blob;
        bool needed;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        cas_gc_full_note_record(f, f->family);
        if (rc == 0)
                rc = cas_blob_is_needed(f->gc->ix, &blob, &needed, err);
        return rc < 0 || needed ? rc : cas_gc_full_condemn_blob(f, &blob, err);
}

static int look_at_link(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct cas_name_record *rec = cas_xcalloc(1, sizeof(*rec));
        cas_cleanup_free void *owned CAS_UNUSED = rec;
        bool named;
        int rc = cas_name_record_from_index(CAS_FAMILY_BLOB_LINKS, key, key_len, value, value_len,
                                            rec, err);
        if (rc == 0)
                rc = cas_gc_link_is_named(f->gc, rec->repo, &rec->digest, &named, err);
        if (rc < 0 || named)
                return rc;
        struct cas_condemned c = {.kind = CAS_CONDEMNED_LINK, .blob = rec->digest};
        struct cas_record_key condemned;
        bool there;
        memcpy(c.repo, rec->repo, sizeof(c.repo));
        cas_condemned_key(&c, &condemned);
        rc = cas_gc_has(f->gc, CAS_FAMILY_CONDEMNED, &condemned, &there, err);
        if (rc == 0 && !there)
                cas_batch_condemn_link(f->batch, rec->repo, &rec->digest, (uint64_t)time(NULL));
        return rc;
}

static int has_digest(struct cas_gc_full *f, enum cas_family family, const struct cas_digest *d,
                      bool *out, struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_digest(d, &key);
        return cas_gc_has(f->gc, family, &key, out, err);
}

/* A tree whose layers are not all known. */
static int look_at_tree(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct cas_tree_record rec;
        bool known = true;
        int rc = cas_tree_record_decode(value, value_len, &rec, err);
        if (rc < 0 || key_len != CAS_HASH_BYTES)
                return rc;
        for (size_t i = 0; rc == 0 && known && i < rec.layer_count; i++) {
                rc = has_digest(f, CAS_FAMILY_LAYERS, &rec.layers[i], &known, err);
                if (rc == 0 && !known)
                        rc = has_digest(f, CAS_FAMILY_ELSEWHERE, &rec.layers[i], &known, err);
        }
        if (rc == 0 && !known && !f->sure)
                rc = cas_gc_full_suspect(f, key, key_len);
        else if (rc == 0 && !known) {
                for (size_t i = 0; i < rec.layer_count; i++)
                        cas_batch_del_blob_ref(f->batch, &rec.layers[i], CAS_BLOB_IN_TREE, key,
                                               key_len);
                cas_batch_del_blob_ref(f->batch, &rec.tree, CAS_BLOB_IN_TREE, key, key_len);
                cas_batch_del(f->batch, CAS_FAMILY_TREES, key, key_len);
                f->gc->out->trees_removed++;
                f->trees = cas_xrealloc(f->trees, (f->tree_count + 1) * sizeof(f->trees[0]));
                f->trees[f->tree_count++] = rec.tree;
        }
        free(rec.layers);
        return rc;
}

/* Notes of images that are gone, and of cuts that did not work (they are found again). */
static int look_at_chain(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *err)
{
        struct cas_digest manifest;
        bool there = false;
        int rc = 0;
        if (cas_chain_manifest(value, value_len, &manifest))
                rc = has_digest(f, CAS_FAMILY_BLOBS, &manifest, &there, err);
        if (rc == 0 && !there)
                cas_batch_del(f->batch, CAS_FAMILY_CHAINS, key, key_len);
        return rc;
}

static int look_at_order(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *err)
{
        struct cas_digest manifest;
        bool there = false;
        int rc = 0;
        if (cas_order_manifest(key, key_len, value, value_len, &manifest))
                rc = has_digest(f, CAS_FAMILY_BLOBS, &manifest, &there, err);
        if (rc == 0 && !there)
                cas_batch_del(f->batch, CAS_FAMILY_ORDERS, key, key_len);
        return rc;
}

/* Of tags that are gone. */
static int look_at_tag_time(struct cas_gc_full *f, const void *key, size_t key_len,
                            const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                            struct cas_err *err)
{
        bool there;
        int rc = cas_index_has(f->gc->ix, CAS_FAMILY_TAGS, key, key_len, &there, err);
        if (rc == 0 && !there)
                cas_batch_del(f->batch, CAS_FAMILY_TAG_TIMES, key, key_len);
        return rc;
}

/* ---- directories ---- */

static int look_at_blob_file(void *arg, const char *path CAS_UNUSED,
                             const struct cas_digest *digest, struct cas_err *err)
{
        struct cas_gc_full *f = arg;
        struct cas_err miss = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_blob_record rec = {.copy = CAS_BLOB_CONDENSED};
        struct cas_record_key key;
        cas_key_digest(digest, &key);
        int rc = cas_index_get(f->gc->ix, CAS_FAMILY_BLOBS, key.bytes, key.len, &value, &miss);
        if (rc == 0)
                rc = cas_blob_record_decode(value.data, value.len_bytes, &rec, &miss);
        if (rc == -CAS_E_CORRUPT)
                return 0;
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        return rec.copy == CAS_BLOB_CONDENSED ? cas_gc_file_later(f->gc, digest, false, err) : 0;
}

/* All of them: whether a record names one is asked when it is to be removed. */
static int look_at_tree_file(void *arg, const char *path, const char *name, struct cas_err *err)
{
        struct cas_gc_full *f = arg;
        struct cas_digest tree = {.alg = CAS_DIGEST_SHA256};
        struct cas_hash hash;
        if (strlen(name) >= 64 && cas_hash_from_hex(name, 64, &hash) &&
            strcmp(name + 64, ".erofs") == 0) {
                memcpy(tree.bytes, hash.bytes, CAS_HASH_BYTES);
                return cas_gc_file_later(f->gc, &tree, true, err);
        }
        return f->gc->trial ? 0 : cas_io_unlink(f->gc->s->io, f->gc->s->dirfd, path, err);
}

static int look_at_directories(struct cas_gc_full *f, struct cas_err *err)
{
        int rc = cas_blob_files_each(f->gc->s, look_at_blob_file, NULL, f, err);
        if (rc == 0)
                rc = cas_dir_each(f->gc->s, CAS_DIR_TREES, look_at_tree_file, f, err);
        if (rc == 0)
                rc = cas_gc_remote_packs(f->gc, err);
        return rc < 0 ? rc : cas_gc_files(f->gc, err);
}

/* ---- all ---- */

static const struct stage stages[] = {
        {CAS_FAMILY_BLOB_LINKS, CAS_FAMILY_COUNT, look_at_link},
        {CAS_FAMILY_BLOBS, CAS_FAMILY_COUNT, look_at_blob},
        {CAS_FAMILY_LAYERS, CAS_FAMILY_COUNT, look_at_blob},
        {CAS_FAMILY_ELSEWHERE, CAS_FAMILY_COUNT, look_at_blob},
        {CAS_FAMILY_RECIPES, CAS_FAMILY_COUNT, look_at_blob},
        {CAS_FAMILY_NODES, CAS_FAMILY_COUNT, look_at_blob},
        {CAS_FAMILY_TREES, CAS_FAMILY_COUNT, look_at_tree},
        {CAS_FAMILY_CHAINS, CAS_FAMILY_COUNT, look_at_chain},
        {CAS_FAMILY_ORDERS, CAS_FAMILY_COUNT, look_at_order},
        {CAS_FAMILY_TAG_TIMES, CAS_FAMILY_COUNT, look_at_tag_time},
        {CAS_FAMILY_BLOB_REFS, CAS_FAMILY_COUNT, cas_gc_look_at_blob_ref},
        {CAS_FAMILY_OBJECT_REFS, CAS_FAMILY_COUNT, cas_gc_look_at_object_ref},
        {CAS_FAMILY_CHUNK_REFS, CAS_FAMILY_COUNT, cas_gc_look_at_chunk_ref},
        {CAS_FAMILY_OBJECTS, CAS_FAMILY_OBJECT_REFS, cas_gc_look_at_object},
        {CAS_FAMILY_CHUNKS, CAS_FAMILY_CHUNK_REFS, cas_gc_look_at_chunk},
};

/* Live bytes are counted from the first chunk on: what was noted as dead before is not there. */
static void begin_count(struct cas_gc_full *f)
{
        f->after.len = 0;
        if (!f->gc->trial)
                cas_map_free(cas_packset_take_dead(f->gc->s->packset));
}

static int run_stages(struct cas_gc_full *f, unsigned stage, struct cas_err *err)
{
        int rc = 0;
        for (; rc == 0 && stage < CAS_COUNT(stages) && !f->gc->out->stopped; stage++) {
                if (stages[stage].family == CAS_FAMILY_CHUNKS)
                        begin_count(f);
                rc = go_through(f, stage, &stages[stage], err);
                if (!f->gc->out->stopped)
                        f->after.len = 0;
        }
        if (rc == 0 && !f->gc->out->stopped)
                rc = cas_gc_recount_packs(f, err);
        if (rc == 0 && !f->gc->out->stopped)
                rc = look_at_directories(f, err);
        return rc;
}

int cas_gc_full(struct cas_gc_run *gc, struct cas_err *err)
{
        struct cas_gc_full f = {.gc = gc, .batch = cas_batch_new(), .live = cas_map_new()};
        unsigned stage;
        bool due;
        gc->out->full = true;
        int rc = get_place(gc->ix, &due, &stage, &f.after, err);
        if (rc == 0)
                rc = run_stages(&f, stage, err);
        if (rc == 0 && !gc->out->stopped) {
                cas_batch_del(f.batch, CAS_FAMILY_META, place_key, sizeof(place_key) - 1);
                rc = cas_index_write(gc->ix, f.batch, err);
        }
        cas_batch_free(f.batch);
        cas_map_free(f.live);
        cas_hashset_release(&f.parents);
        cas_buf_release(&f.suspects);
        free(f.trees);
        return rc;
}
