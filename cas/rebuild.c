/* SPDX-License-Identifier: Apache-2.0 */
/* Making the index anew: chunks, objects, layers and proved recipes from packs,
 * blobs from their files and recipes, names from the journal; leases and trees, which nothing else
 * holds, from the old index where it can be read. The new index grows as
 * index.new and takes the old one's place when it is whole, so that a crash, or
 * a failure, leaves what there was. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
#include "cas/blockcache.h"
#include "cas/codec.h"
#include "cas/commit_int.h"
#include "cas/elsewhere_int.h"
#include "cas/dirwalk_int.h"
#include "cas/format_int.h"
#include "cas/hashset.h"
#include "cas/layer.h"
#include "cas/maintain.h"
#include "cas/packfile_int.h"
#include "cas/recipe_int.h"
#include "cas/refs_int.h"

#define NEW_DIR "index.new"
#define OLD_DIR CAS_DIR_INDEX_OLD
#define BATCH_BYTES (1 * CAS_MIB)
#define BLOCK_CACHE_BYTES (4 * CAS_MIB)

struct kept_object {
        struct cas_hash id;
        uint64_t size_bytes;
        const struct cas_chunk_ref *refs; /* owned once taken; NULL: one chunk */
        uint32_t chunk_count;
};

struct rebuild {
        struct cas_store *s; /* bare: locked, s->index is the new one */
        const struct cas_progress *progress;
        struct cas_index *old; /* NULL: there is none that can be read */
        struct cas_batch *batch;
        uint64_t done_bytes;
        struct cas_hashset kept_chunks; /* as frames, which win over other blocks */
        struct kept_object *kept;       /* owned: lists of such chunks, and objects of one */
        size_t kept_count, kept_max;
        struct cas_recipe_record *recipes; /* owned: what packs told, in their order */
        size_t recipe_count, recipe_max;
        struct cas_map *taken; /* owned: packs that were found, with their tiers */
};

static int flush(struct rebuild *rb, size_t above, struct cas_err *err)
{
        if (cas_batch_bytes(rb->batch) <= above)
                return 0;
        return cas_index_write(rb->s->index, rb->batch, err);
}

/* ---- packs ---- */

/* Whether all its chunks are there is seen when all packs were read. */
static void take_kept(struct rebuild *rb, const struct kept_object *object)
{
        if (rb->kept_count == rb->kept_max) {
                rb->kept_max = rb->kept_max ? 2 * rb->kept_max : 64;
                rb->kept = cas_xrealloc(rb->kept, rb->kept_max * sizeof(rb->kept[0]));
        }
        struct kept_object *k = &rb->kept[rb->kept_count++];
        *k = *object;
        if (object->refs) {
                size_t bytes = object->chunk_count * sizeof(object->refs[0]);
                k->refs = memcpy(cas_xmalloc(bytes), object->refs, bytes);
        }
}

/* Lists of kept frames take the place of lists of our own cutting. */
static int settle_kept(struct rebuild *rb, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < rb->kept_count; i++) {
                const struct kept_object *k = &rb->kept[i];
                bool whole = true;
                for (uint32_t c = 0; k->refs && whole && c < k->chunk_count; c++)
                        whole = cas_hashset_has(&rb->kept_chunks, k->refs[c].chunk.bytes);
                if (!whole)
                        continue;
                struct cas_object_record before;
                struct cas_err none = CAS_ERR_INIT;
                if (cas_index_get_object(rb->s->index, &k->id, &before, &none) == 0)
                        cas_batch_del_object(rb->batch, &k->id, before.chunk_count);
                cas_batch_put_object(rb->batch, &k->id, k->size_bytes, k->refs, k->chunk_count);
                rc = flush(rb, BATCH_BYTES, err);
        }
        return rc < 0 ? rc : flush(rb, 0, err);
}

static void kept_release(struct rebuild *rb)
{
        for (size_t i = 0; i < rb->kept_count; i++)
                free((void *)rb->kept[i].refs);
        free(rb->kept);
        cas_hashset_release(&rb->kept_chunks);
}

static void take_block(struct rebuild *rb, const struct cas_pack_item *item)
{
        bool is_kept = item->block.codec == CAS_CODEC_ZSTD_KEPT;
        for (uint32_t i = 0; i < item->chunk_count; i++) {
                const struct cas_pack_chunk *chunk = &item->chunks[i];
                const struct cas_chunk_record rec = {
                        .pack_id = item->block.pack_id,
                        .block_offset = item->block.block_offset,
                        .block_stored_bytes = item->block.block_stored_bytes,
                        .block_raw_bytes = item->block.block_raw_bytes,
                        .block_checksum = item->block.block_checksum,
                        .chunk_offset = chunk->chunk_offset,
                        .length_bytes = chunk->length_bytes,
                        .codec = item->block.codec,
                };
                if (is_kept ? cas_hashset_add(&rb->kept_chunks, chunk->chunk.bytes)
                            : !cas_hashset_has(&rb->kept_chunks, chunk->chunk.bytes))
                        cas_batch_put_chunk(rb->batch, &chunk->chunk, &rec);
                if (chunk->is_object && is_kept)
                        take_kept(rb, &(struct kept_object){.id = chunk->chunk,
                                                            .size_bytes = chunk->length_bytes,
                                                            .chunk_count = 1});
                else if (chunk->is_object)
                        cas_batch_put_object(rb->batch, &chunk->chunk, chunk->length_bytes, NULL,
                                             1);
        }
}

static void take_list(struct rebuild *rb, const struct cas_pack_item *item)
{
        if (item->is_kept)
                take_kept(rb, &(struct kept_object){.id = item->object,
                                                    .size_bytes = item->object_bytes,
                                                    .refs = item->refs,
                                                    .chunk_count = item->ref_count});
        else
                cas_batch_put_object(rb->batch, &item->object, item->object_bytes, item->refs,
                                     item->ref_count);
}

/* Whether they hold is seen when all objects are known. */
static void take_recipe(struct rebuild *rb, const struct cas_recipe_record *recipe)
{
        if (rb->recipe_count == rb->recipe_max) {
                rb->recipe_max = rb->recipe_max ? 2 * rb->recipe_max : 64;
                rb->recipes = cas_xrealloc(rb->recipes, rb->recipe_max * sizeof(rb->recipes[0]));
        }
        rb->recipes[rb->recipe_count++] = *recipe;
}

static int take_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct rebuild *rb = arg;
        switch (item->kind) {
        case CAS_PACK_BLOCK:
                take_block(rb, item);
                break;
        case CAS_PACK_OBJECT:
                take_list(rb, item);
                break;
        case CAS_PACK_LAYER:
                cas_batch_put_layer(rb->batch, &item->layer);
                break;
        case CAS_PACK_RECIPE:
                take_recipe(rb, &item->recipe);
                break;
        }
        rb->done_bytes += item->record_bytes;
        cas_progress_update(rb->progress, "packs", rb->done_bytes, 0);
        return flush(rb, BATCH_BYTES, err);
}

struct pack_source {
        struct rebuild *rb;
        uint64_t whole_end; /* of the last whole record */
        bool damaged;       /* something stands before that, or in the header's place */
        bool damage_ahead;  /* … when a whole record follows */
};

static int take_whole(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct pack_source *from = arg;
        from->whole_end = item->record_offset + item->record_bytes;
        from->damaged = from->damaged || from->damage_ahead;
        return take_item(from->rb, item, err);
}

static int note_damage(void *arg, const struct cas_pack_damage *damage,
                       struct cas_err *err CAS_UNUSED)
{
        struct pack_source *from = arg;
        from->damage_ahead = true;
        from->damaged = from->damaged || damage->offset == 0;
        return 0;
}

static void note_taken(struct rebuild *rb, uint64_t pack_id, uint32_t tier)
{
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        *cas_map_put(rb->taken, key.bytes, key.len, NULL) = tier;
}

/* Whether the pack was found, and on that tier. */
static bool was_taken(const struct rebuild *rb, uint64_t pack_id, uint32_t *tier)
{
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        const uint64_t *value = cas_map_get(rb->taken, key.bytes, key.len);
        if (value)
                *tier = (uint32_t)*value;
        return value != NULL;
}

/* What is whole is good, before damage and behind it; fsck tells of what is missing. */
static int take_pack(struct rebuild *rb, uint32_t tier, int dirfd, const char *name,
                     uint64_t pack_id, struct cas_err *err)
{
        const struct cas_io *io = rb->s->io;
        struct pack_source from = {.rb = rb};
        const struct cas_pack_salvage hooks = {
                .item = take_whole, .damage = note_damage, .arg = &from};
        struct cas_err bad = CAS_ERR_INIT;
        int fd;
        int rc = cas_io_open(io, dirfd, name, O_RDONLY, 0, &fd, err);
        if (rc < 0)
                return rc;
        rc = cas_pack_salvage(io, fd, pack_id, &hooks, &bad);
        (void)io->ops->close(io->ctx, fd);
        note_taken(rb, pack_id, tier);
        if (rc == -CAS_E_UNSUPPORTED)
                return 0;
        if (rc < 0) {
                *err = bad;
                return rc;
        }
        /* Opening the packs would take damage for the torn tail of a write, and cut it off. */
        if (from.damaged && from.whole_end > 0)
                cas_batch_put_pack(
                        rb->batch, pack_id,
                        &(struct cas_pack_record){.tier = tier, .size_bytes = from.whole_end});
        return 0;
}

static void close_dir(DIR **dir)
{
        if (*dir)
                (void)closedir(*dir);
}

static int take_tier(void *arg, const struct cas_tier_info *info, int dirfd, struct cas_err *err)
{
        uint32_t tier = info->tier;
        struct rebuild *rb = arg;
        /* An index without what lies there would have it collected. */
        if (!info->reachable)
                return cas_fail(err, CAS_E_IO,
                                "tier %s cannot be reached, and what lies there would be forgotten",
                                info->name);
        if (info->remote)
                return 0; /* later: what is nearer goes first */
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "list packs");
        __attribute__((cleanup(close_dir))) DIR *dir = fdopendir(fd);
        cas_assert(dir != NULL);
        for (;;) {
                uint64_t pack_id;
                errno = 0;
                const struct dirent *e = readdir(dir);
                if (!e && errno != 0)
                        return cas_fail_sys(err, errno, "list packs");
                if (!e)
                        return 0;
                if (!cas_pack_name_parse(e->d_name, &pack_id))
                        continue;
                int rc = take_pack(rb, tier, dirfd, e->d_name, pack_id, err);
                if (rc < 0)
                        return rc;
        }
}

/* ---- remote packs: sealed, and whole ---- */

struct remote_source {
        struct rebuild *rb;
        uint32_t tier;
};

static int read_remote_pack(struct rebuild *rb, uint32_t tier, const struct cas_pack_file *pack,
                            struct cas_err *err)
{
        struct cas_backend *backend = rb->s->backend;
        const struct cas_pack_salvage hooks = {.item = take_item, .arg = rb};
        cas_cleanup_fd int fd = -1;
        int rc = cas_pack_temporary(rb->s->io, backend, 0, &fd, err);
        if (rc == 0)
                rc = backend->ops->remote_get(backend, tier, pack, fd, err);
        return rc < 0 ? rc : cas_pack_salvage(rb->s->io, fd, pack->pack_id, &hooks, err);
}

static int take_remote_pack(void *arg, const struct cas_pack_file *pack, struct cas_err *err)
{
        const struct remote_source *from = arg;
        struct rebuild *rb = from->rb;
        struct cas_err why = CAS_ERR_INIT;
        uint32_t where;
        if (was_taken(rb, pack->pack_id, &where))
                return 0;
        int rc = read_remote_pack(rb, from->tier, pack, &why);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED)
                return 0; /* as if it were not there: fsck tells what is missing */
        if (rc < 0) {
                *err = why;
                return rc;
        }
        note_taken(rb, pack->pack_id, from->tier);
        cas_batch_put_pack(rb->batch, pack->pack_id,
                           &(struct cas_pack_record){.tier = from->tier,
                                                     .sealed = true,
                                                     .size_bytes = pack->size_bytes,
                                                     .sha256 = pack->sha256});
        return flush(rb, BATCH_BYTES, err);
}

static int take_remote_tier(void *arg, const struct cas_tier_info *info, int dirfd CAS_UNUSED,
                            struct cas_err *err)
{
        struct remote_source from = {.rb = arg, .tier = info->tier};
        struct cas_backend *backend = from.rb->s->backend;
        if (!info->remote)
                return 0;
        int rc = backend->ops->remote_each(backend, info->tier, take_remote_pack, &from, err);
        return rc < 0 ? cas_err_wrap(err, "tier %s", info->name) : 0;
}

static bool keep_known_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct rebuild *rb = arg;
        uint32_t tier;
        if (was_taken(rb, pack_id, &tier) && tier == rec->tier)
                cas_batch_put_pack(rb->batch, pack_id, rec);
        return true;
}

/* How long packs are by the old index: damage within that is not the torn tail of a write, and
 * nothing behind it is cut off. */
static void keep_known_packs(struct rebuild *rb)
{
        struct cas_err bad = CAS_ERR_INIT;
        if (rb->old)
                (void)!cas_index_each_pack(rb->old, keep_known_pack, rb, &bad);
}

static int take_packs(struct rebuild *rb, const struct cas_store_config *config,
                      struct cas_err *err)
{
        struct cas_store *s = rb->s;
        int rc = cas_store_open_backend(s, config, err);
        if (rc < 0)
                return rc;
        s->blocks = cas_blockcache_new(BLOCK_CACHE_BYTES);
        rc = s->backend->ops->tier_each(s->backend, take_tier, rb, err);
        if (rc == 0)
                rc = s->backend->ops->tier_each(s->backend, take_remote_tier, rb, err);
        if (rc == 0) {
                keep_known_packs(rb);
                rc = flush(rb, 0, err);
        }
        /* Opening them makes the packs themselves known. */
        return rc < 0 ? rc
                      : cas_packset_open(s->io, s->backend, s->index, &s->removals, &s->packset,
                                         err);
}

/* ---- blobs ---- */

static int take_blob(void *arg, const char *path, const struct cas_digest *digest,
                     struct cas_err *err)
{
        struct rebuild *rb = arg;
        struct stat st;
        if (rb->s->io->ops->fstatat(rb->s->io->ctx, rb->s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) !=
            0)
                return cas_fail_sys(err, errno, "stat %s", path);
        if (!S_ISREG(st.st_mode))
                return 0;
        const struct cas_blob_record rec = {
                .size_bytes = (uint64_t)st.st_size,
                .added_unix_s = st.st_mtime > 0 ? (uint64_t)st.st_mtime : 0,
        };
        cas_batch_put_blob(rb->batch, digest, &rec);
        return flush(rb, BATCH_BYTES, err);
}

/* ---- names ---- */

static int take_name(void *arg, const struct cas_name_record *rec, struct cas_err *err)
{
        struct rebuild *rb = arg;
        cas_name_record_apply(rec, rb->batch);
        return flush(rb, BATCH_BYTES, err);
}

struct copy {
        struct rebuild *rb;
        enum cas_family family;
};

/* Damage of the old index is not taken over. */
static bool is_readable(enum cas_family family, const void *key, size_t key_len, const void *value,
                        size_t value_len)
{
        struct cas_err bad = CAS_ERR_INIT;
        struct cas_lease lease;
        struct cas_tree_record tree = {0};
        struct cas_digest blob;
        int rc = 0;
        if (family == CAS_FAMILY_LEASES) {
                rc = cas_lease_decode(key, key_len, value, value_len, &lease, &bad);
        } else if (family == CAS_FAMILY_TREES) {
                rc = key_len == CAS_HASH_BYTES
                             ? cas_tree_record_decode(value, value_len, &tree, &bad)
                             : -CAS_E_CORRUPT;
                free(tree.layers);
        } else if (family == CAS_FAMILY_ELSEWHERE) {
                cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
                rc = cas_digest_value_decode(key, key_len, &blob, &bad);
                if (rc == 0)
                        rc = cas_elsewhere_decode(&blob, value, value_len, rec, &bad);
        }
        return rc == 0;
}

static int copy_entry(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        const struct copy *copy = arg;
        if (!is_readable(copy->family, key, key_len, value, value_len))
                return 0;
        cas_batch_put(copy->rb->batch, copy->family, key, key_len, value, value_len);
        return flush(copy->rb, BATCH_BYTES, err);
}

/* What the old index holds of a family. */
static int copy_family(struct rebuild *rb, enum cas_family family, struct cas_err *err)
{
        struct copy copy = {.rb = rb, .family = family};
        return cas_index_scan(rb->old, &(struct cas_scan){.family = family}, copy_entry, &copy,
                              err);
}

/* Names from the old index, because the journal lost some; then the journal from the new one. */
static int names_from_old(struct rebuild *rb, struct cas_err *err)
{
        static const enum cas_family named[] = {CAS_FAMILY_MANIFESTS, CAS_FAMILY_BLOB_LINKS,
                                                CAS_FAMILY_TAGS, CAS_FAMILY_REFERRERS};
        struct cas_store *s = rb->s;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(named); i++)
                rc = copy_family(rb, named[i], err);
        if (rc == 0)
                rc = flush(rb, 0, err);
        if (rc == 0 && !s->journal) {
                rc = cas_journal_create(s->io, s->dirfd, s->id, err);
                if (rc == 0)
                        rc = cas_journal_open(s->io, s->dirfd, s->id, NULL, &s->journal, err);
        }
        return rc < 0 ? rc : cas_commit_compact(s, err);
}

static int ignore_name(void *arg CAS_UNUSED, const struct cas_name_record *rec CAS_UNUSED,
                       struct cas_err *err CAS_UNUSED)
{
        return 0;
}

static int take_names(struct rebuild *rb, struct cas_err *err)
{
        struct cas_store *s = rb->s;
        struct cas_journal_position seen = {0}, have = {0};
        struct cas_err bad = CAS_ERR_INIT;
        if (rb->old && cas_commit_seen(rb->old, &seen, &bad) < 0)
                seen = (struct cas_journal_position){0};
        int rc = cas_journal_open(s->io, s->dirfd, s->id, NULL, &s->journal, &bad);
        if (rc == 0) {
                have = cas_journal_position(s->journal);
                rc = cas_journal_replay(s->journal, ignore_name, NULL, NULL, &bad);
        }
        if (rc < 0 && !rb->old) {
                *err = bad;
                return rc;
        }
        bool lost = rc < 0 || have.sequence < seen.sequence || have.generation < seen.generation;
        bool readable = rc == 0;
        if (lost) {
                rc = names_from_old(rb, err);
                /* Both are damaged: the journal as far as it goes is more than nothing. */
                if (rc == -CAS_E_CORRUPT && readable)
                        lost = false;
        }
        if (!lost)
                rc = cas_journal_replay(s->journal, take_name, rb, NULL, err);
        if (rc < 0)
                return rc;
        have = cas_journal_position(s->journal);
        cas_commit_note_seen(rb->batch, &have);
        return flush(rb, 0, err);
}

/* ---- what does not fit together ---- */

/* Packs keep lists of objects that were collected: their chunks may be gone. */
static int object_is_whole(struct rebuild *rb, const struct cas_hash *id, bool *out,
                           struct cas_err *err)
{
        struct cas_chunk_ref refs[256];
        uint32_t first = 0, count;
        *out = true;
        do {
                int rc = cas_index_get_object_chunks(rb->s->index, id, first, refs, CAS_COUNT(refs),
                                                     &count, err);
                for (uint32_t i = 0; rc == 0 && *out && i < count; i++)
                        rc = cas_index_has(rb->s->index, CAS_FAMILY_CHUNKS, refs[i].chunk.bytes,
                                           CAS_HASH_BYTES, out, err);
                if (rc < 0)
                        return rc;
                first += count;
        } while (count > 0 && *out);
        return 0;
}

static int prune_object(void *arg, const void *key, size_t key_len CAS_UNUSED, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct rebuild *rb = arg;
        struct cas_object_record rec;
        struct cas_hash id;
        bool whole = true;
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        int rc = cas_object_record_decode(value, value_len, &rec, err);
        if (rc == 0 && rec.chunk_count > 1)
                rc = object_is_whole(rb, &id, &whole, err);
        if (rc == 0 && !whole)
                cas_batch_del_object(rb->batch, &id, rec.chunk_count);
        return rc < 0 ? rc : flush(rb, BATCH_BYTES, err);
}

/* ---- recipes ---- */

struct referred {
        struct rebuild *rb;
        bool whole;
};

static int look_for_referred(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct referred *r = arg;
        bool here;
        int rc = cas_index_has(r->rb->s->index, CAS_FAMILY_OBJECTS, object->bytes, CAS_HASH_BYTES,
                               &here, err);
        r->whole = r->whole && rc == 0 && here;
        return rc;
}

/* Packs keep recipes of blobs that were collected, and old ones of others. */
static int recipe_is_whole(struct rebuild *rb, const struct cas_recipe_record *record, bool *out,
                           struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        struct referred referred = {.rb = rb, .whole = true};
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_recipe_open(rb->s, &record->recipe, &recipe, &bad);
        if (rc == 0)
                rc = cas_tarrecipe_each_object(recipe, look_for_referred, &referred, &bad);
        *out = rc == 0 && referred.whole;
        if (rc != -CAS_E_IO && rc != -CAS_E_NOMEM)
                return 0;
        *err = bad;
        return rc;
}

/* A blob that has a whole recipe is there, with its file or without. */
static int settle_recipe(struct rebuild *rb, const struct cas_recipe_record *recipe,
                         struct cas_err *err)
{
        struct cas_blob_record rec;
        struct cas_err absent = CAS_ERR_INIT;
        bool whole;
        int rc = recipe_is_whole(rb, recipe, &whole, err);
        if (rc < 0 || !whole)
                return rc;
        rc = cas_blob_record_get(rb->s, &recipe->blob, &rec, &absent);
        if (rc == -CAS_E_NOTFOUND)
                rec = (struct cas_blob_record){0};
        else if (rc < 0) {
                *err = absent;
                return rc;
        }
        bool file =
                rc == 0 && rec.copy != CAS_BLOB_CONDENSED && rec.size_bytes == recipe->blob_bytes;
        /* Packs do not tell whether the proof was taken back since: where there is a file, it stays
         * the truth until condensing has proved the recipe again. */
        struct cas_recipe_record settled = *recipe;
        settled.is_proved = !file;
        rec.size_bytes = recipe->blob_bytes;
        rec.copy = file ? CAS_BLOB_VERBATIM : CAS_BLOB_CONDENSED;
        cas_batch_put_blob(rb->batch, &recipe->blob, &rec);
        cas_batch_put_recipe(rb->batch, &settled);
        return flush(rb, 0, err); /* another of the same blob looks there */
}

static int settle_recipes(struct rebuild *rb, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < rb->recipe_count; i++)
                rc = settle_recipe(rb, &rb->recipes[i], err);
        return rc;
}

/* Whether the layer's listing can be read and every file in it is there. */
static int layer_is_whole(struct rebuild *rb, const struct cas_layer_record *rec, bool *out,
                          struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        struct cas_err bad = CAS_ERR_INIT;
        *out = false;
        int rc = cas_layer_listing(rb->s, rec, &listing, &bad);
        if (rc == -CAS_E_IO || rc == -CAS_E_NOMEM) {
                *err = bad;
                return rc;
        }
        *out = rc == 0;
        rc = 0;
        for (size_t i = 0; rc == 0 && *out && i < listing.count; i++) {
                const struct cas_entry *e = &listing.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        rc = cas_index_has(rb->s->index, CAS_FAMILY_OBJECTS, e->object.bytes,
                                           CAS_HASH_BYTES, out, err);
        }
        return rc;
}

/* A layer that lacks its listing or a file is decoded again when it is wanted; one that lacks its
 * blob was collected, and its pack was not. */
static int prune_layer(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct rebuild *rb = arg;
        struct cas_layer_record rec;
        struct cas_digest blob;
        bool whole = false;
        int rc = cas_digest_value_decode(key, key_len, &blob, err);
        if (rc == 0)
                rc = cas_layer_record_decode(&blob, value, value_len, &rec, err);
        if (rc == 0)
                rc = cas_index_has(rb->s->index, CAS_FAMILY_BLOBS, key, key_len, &whole, err);
        if (rc == 0 && whole)
                rc = layer_is_whole(rb, &rec, &whole, err);
        if (rc == 0 && !whole)
                cas_batch_del(rb->batch, CAS_FAMILY_LAYERS, key, key_len);
        return rc < 0 ? rc : flush(rb, BATCH_BYTES, err);
}

static int prune(struct rebuild *rb, struct cas_err *err)
{
        int rc = settle_kept(rb, err);
        if (rc == 0)
                rc = cas_index_scan(rb->s->index, &(struct cas_scan){.family = CAS_FAMILY_OBJECTS},
                                    prune_object, rb, err);
        if (rc == 0)
                rc = flush(rb, 0, err);
        if (rc == 0)
                rc = settle_recipes(rb, err);
        if (rc == 0)
                rc = cas_index_scan(rb->s->index, &(struct cas_scan){.family = CAS_FAMILY_LAYERS},
                                    prune_layer, rb, err);
        return rc < 0 ? rc : flush(rb, 0, err);
}

/* ---- all ---- */

static int fill(struct rebuild *rb, const struct cas_store_config *config, struct cas_err *err)
{
        int rc = cas_blob_files_each(rb->s, take_blob, NULL, rb, err);
        if (rc == 0)
                rc = flush(rb, 0, err);
        if (rc == 0)
                rc = take_packs(rb, config, err);
        if (rc == 0)
                rc = prune(rb, err);
        if (rc == 0)
                rc = take_names(rb, err);
        if (rc == 0 && rb->old) {
                /* Damage there loses leases, not content. */
                struct cas_err bad = CAS_ERR_INIT;
                rc = copy_family(rb, CAS_FAMILY_LEASES, &bad);
                rc = copy_family(rb, CAS_FAMILY_TREES, &bad);
                rc = copy_family(rb, CAS_FAMILY_CHAINS, &bad);
                rc = copy_family(rb, CAS_FAMILY_ELSEWHERE, &bad);
                rc = copy_family(rb, CAS_FAMILY_ORDERS, &bad);
                rc = copy_family(rb, CAS_FAMILY_TAG_TIMES, &bad);
                rc = flush(rb, 0, err);
        }
        return rc < 0 ? rc : cas_refs_rebuild(rb->s, rb->progress, err);
}

/* Closes both, puts the new one in the old one's place and removes the old one. */
static int swap(struct rebuild *rb, struct cas_err *err)
{
        struct cas_store *s = rb->s;
        cas_packset_close(cas_steal(&s->packset));
        cas_index_close(cas_steal(&s->index));
        cas_index_close(cas_steal(&rb->old));
        cas_cleanup_free char *old = cas_xasprintf("%s/" OLD_DIR, s->path);
        int rc = cas_index_destroy(old, err);
        if (rc < 0)
                return rc;
        struct cas_err absent = CAS_ERR_INIT;
        rc = cas_io_rename(s->io, s->dirfd, CAS_DIR_INDEX, s->dirfd, OLD_DIR, &absent);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = absent;
                return rc;
        }
        rc = cas_io_rename(s->io, s->dirfd, NEW_DIR, s->dirfd, CAS_DIR_INDEX, err);
        if (rc == 0)
                rc = cas_io_sync_dir(s->io, s->dirfd, ".", err);
        if (rc == 0)
                rc = cas_index_open(s->index_path, false, &s->index, err); /* it works */
        return rc < 0 ? rc : cas_index_destroy(old, err);
}

static int run(struct rebuild *rb, const struct cas_store_config *config, struct cas_err *err)
{
        struct cas_store *s = rb->s;
        struct cas_format format;
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_format_read(s->io, s->dirfd, &format, err);
        /* One of an older version may need its index before it can be upgraded. */
        if (rc == 0 && format.version < CAS_FORMAT_VERSION)
                format.version = CAS_FORMAT_VERSION;
        if (rc == 0)
                rc = cas_format_check(&format, err);
        if (rc < 0)
                return rc;
        memcpy(s->id, format.id, sizeof(s->id));
        rc = cas_store_settle_index(s, err);
        if (rc < 0)
                return rc;
        if (cas_index_open(s->index_path, false, &rb->old, &bad) < 0)
                rb->old = NULL;
        cas_cleanup_free char *path = cas_xasprintf("%s/" NEW_DIR, s->path);
        rc = cas_index_destroy(path, err);
        if (rc == 0)
                rc = cas_index_open(path, true, &s->index, err);
        if (rc == 0)
                rc = fill(rb, config, err);
        return rc < 0 ? rc : swap(rb, err);
}

int cas_rebuild(const struct cas_store_config *config, const struct cas_progress *progress,
                struct cas_err *err)
{
        cas_cleanup_store struct cas_store *s = NULL;
        struct cas_store_config existing = *config;
        existing.must_exist = true;
        int rc = cas_store_open_bare(&existing, &s, err);
        if (rc < 0)
                return rc;
        struct rebuild rb = {
                .s = s, .progress = progress, .batch = cas_batch_new(), .taken = cas_map_new()};
        rc = run(&rb, &existing, err);
        cas_index_close(rb.old);
        cas_batch_free(rb.batch);
        cas_map_free(rb.taken);
        free(rb.recipes);
        kept_release(&rb);
        return rc;
}
