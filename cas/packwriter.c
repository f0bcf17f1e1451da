/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/packwriter_int.h"

#include <xxhash.h>

const struct cas_packstyle cas_packstyle_fast = {
        .codec = CAS_CODEC_LZ4,
        .level = 1,
        .block_bytes = 256 * CAS_KIB,
        .block_bytes_max = 256 * CAS_KIB,
        .block_chunks = 4096,
        .density = CAS_PACK_FAST,
};
const struct cas_packstyle cas_packstyle_default = {
        .codec = CAS_CODEC_ZSTD,
        .level = 9,
        .block_bytes = 1 * CAS_MIB,
        .block_bytes_max = 1 * CAS_MIB + CAS_CHUNK_BYTES_MAX,
        .block_chunks = 16384,
        .density = CAS_PACK_DEFAULT,
};
const struct cas_packstyle cas_packstyle_cold = {
        .codec = CAS_CODEC_ZSTD,
        .level = 19,
        .block_bytes = 4 * CAS_MIB,
        .block_bytes_max = CAS_BLOCK_BYTES_MAX,
        .block_chunks = CAS_BLOCK_CHUNKS_MAX,
        .density = CAS_PACK_COLD,
};
const struct cas_packstyle *cas_packstyle_of(enum cas_pack_density density)
{
        switch (density) {
        case CAS_PACK_FAST:
                return &cas_packstyle_fast;
        case CAS_PACK_DEFAULT:
                return &cas_packstyle_default;
        case CAS_PACK_COLD:
                return &cas_packstyle_cold;
        }
        cas_assert(false);
}

/* A block is kept as it is unless compression wins at least this share of it. */
#define WIN_DIVISOR 16

static struct cas_openblock *block_new(const struct cas_packstyle *style)
{
        struct cas_openblock *b = cas_xcalloc(1, sizeof(*b));
        cas_mutex_init(&b->mutex, "openblock");
        b->ref_count = 1;
        b->chunks = cas_xmalloc(style->block_chunks * sizeof(struct cas_pending *));
        b->raw = cas_xmalloc(cas_max_u64(style->block_bytes_max, CAS_CHUNK_BYTES_MAX));
        return b;
}

static void block_unref_locked(struct cas_packset *ps, struct cas_openblock *b)
{
        cas_assert_held(&ps->mutex);
        if (--b->ref_count > 0)
                return;
        cas_mutex_release(&b->mutex);
        free(b->chunks);
        free(b->raw);
        free(b);
}

static void block_unref(struct cas_packset *ps, struct cas_openblock *b)
{
        cas_mutex_lock(&ps->mutex);
        block_unref_locked(ps, b);
        cas_mutex_unlock(&ps->mutex);
}

void cas_packwriter_init(struct cas_packwriter *w, struct cas_packset *ps,
                         const struct cas_packstyle *style)
{
        *w = (struct cas_packwriter){.ps = ps, .style = style, .tier = CAS_TIER_ANY};
        w->compressor = cas_compressor_new(style->codec, style->level);
        w->block = block_new(style);
}

static void unmap_locked(struct cas_packset *ps, struct cas_pending *e)
{
        cas_assert_held(&ps->mutex);
        if (e->in_map)
                (void)cas_map_remove(ps->pending, e->chunk.bytes, CAS_HASH_BYTES);
        e->in_map = false;
}

static void pending_unref_locked(struct cas_packset *ps, struct cas_pending *e)
{
        cas_assert_held(&ps->mutex);
        if (--e->ref_count > 0)
                return;
        unmap_locked(ps, e);
        if (e->pack)
                cas_packfile_unref_locked(ps, e->pack);
        free(e);
}

static void entries_push(struct cas_packwriter *w, struct cas_pending *e)
{
        if (w->entry_count == w->entry_max) {
                w->entry_max = w->entry_max ? w->entry_max * 2 : 256;
                w->entries = cas_xrealloc(w->entries, w->entry_max * sizeof(w->entries[0]));
        }
        w->entries[w->entry_count++] = e;
}

/* The pending chunk of that name, if it can be counted on. */
static struct cas_pending *pending_find_locked(struct cas_packset *ps, const struct cas_hash *chunk)
{
        cas_assert_held(&ps->mutex);
        const uint64_t *value = cas_map_get(ps->pending, chunk->bytes, CAS_HASH_BYTES);
        struct cas_pending *e = value ? (struct cas_pending *)(uintptr_t)*value : NULL;
        if (e && e->pack && atomic_load(&e->pack->failed)) {
                unmap_locked(ps, e); /* whoever counts on it will fail; others store it again */
                return NULL;
        }
        return e;
}

static bool claim_locked(struct cas_packwriter *w, const struct cas_hash *chunk)
{
        struct cas_pending *e = pending_find_locked(w->ps, chunk);
        if (!e)
                return false;
        e->ref_count++;
        entries_push(w, e);
        return true;
}

bool cas_packwriter_claim(struct cas_packwriter *w, const struct cas_hash *chunk)
{
        cas_mutex_lock(&w->ps->mutex);
        bool found = claim_locked(w, chunk);
        cas_mutex_unlock(&w->ps->mutex);
        return found;
}

/* ---- packs ---- */

static void touch_locked(struct cas_packwriter *w, struct cas_packfile *pack, uint64_t end_offset)
{
        for (size_t i = w->touched_count; i-- > 0;) {
                if (w->touched[i].pack != pack)
                        continue;
                w->touched[i].end_offset = cas_max_u64(w->touched[i].end_offset, end_offset);
                return;
        }
        if (w->touched_count == w->touched_max) {
                w->touched_max = w->touched_max ? w->touched_max * 2 : 8;
                w->touched = cas_xrealloc(w->touched, w->touched_max * sizeof(w->touched[0]));
        }
        cas_packfile_ref_locked(w->ps, pack);
        w->touched[w->touched_count++] =
                (struct cas_touched){.pack = pack, .end_offset = end_offset};
}

/* Whether the pack in hand is where a new one would be put: its tier may have become full. */
static bool is_well_placed(struct cas_packwriter *w)
{
        struct cas_backend *backend = w->ps->backend;
        struct cas_err ignored = CAS_ERR_INIT;
        uint32_t tier;
        int dirfd;
        return w->tier != CAS_TIER_ANY || w->pack->size_bytes <= CAS_PACK_HEADER_BYTES ||
               backend->ops->pack_place(backend, w->pack->id, CAS_TIER_ANY, &dirfd, &tier,
                                        &ignored) < 0 ||
               tier == w->pack->tier;
}

/* The pack that the next record goes to. */
static int writer_pack(struct cas_packwriter *w, struct cas_err *err)
{
        if (w->pack && !atomic_load(&w->pack->failed) && is_well_placed(w))
                return 0;
        if (w->pack)
                cas_packset_give(w->ps, cas_steal(&w->pack));
        return w->alone ? cas_packset_take_new(w->ps, w->tier, w->style->density, &w->pack, err)
                        : cas_packset_take(w->ps, w->tier, w->style->density, &w->pack, err);
}

/* Appends a record that was made for the end of w->pack; seals the pack when it is full. */
static int writer_append(struct cas_packwriter *w, const void *record, size_t len,
                         struct cas_err *err)
{
        struct cas_packfile *pack = w->pack;
        int rc = cas_packfile_append(w->ps, pack, record, len, err);
        if (rc < 0)
                return rc;
        w->written_bytes += len;
        cas_mutex_lock(&w->ps->mutex);
        touch_locked(w, pack, pack->size_bytes);
        cas_mutex_unlock(&w->ps->mutex);
        return 0;
}

/* After a record: a pack that is full is sealed and left. */
static int writer_seal_full(struct cas_packwriter *w, struct cas_err *err)
{
        struct cas_packfile *pack = w->pack;
        if (pack->size_bytes < CAS_PACK_BYTES_MAX)
                return 0;
        int rc = cas_packfile_seal(w->ps, pack, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&w->ps->mutex);
        touch_locked(w, pack, pack->size_bytes);
        cas_packset_give_locked(w->ps, cas_steal(&w->pack));
        cas_mutex_unlock(&w->ps->mutex);
        return 0;
}

/* ---- blocks ---- */

/* Puts the record of b together in w->record. */
static size_t build_block(struct cas_packwriter *w, const struct cas_openblock *b,
                          struct cas_pack_block *out)
{
        size_t table = cas_pack_block_frame(b->chunk_count);
        cas_buf_clear(&w->record);
        cas_buf_reserve(&w->record, table + b->raw_bytes);
        uint8_t *record = w->record.data;
        for (uint32_t i = 0; i < b->chunk_count; i++)
                cas_pack_block_entry(record, i, &b->chunks[i]->chunk, b->chunks[i]->length_bytes,
                                     b->chunks[i]->is_object);
        *out = (struct cas_pack_block){
                .chunk_count = b->chunk_count,
                .raw_bytes = b->raw_bytes,
                .raw_checksum = XXH3_64bits(b->raw, b->raw_bytes),
                .codec = (uint8_t)cas_compressor_codec(w->compressor),
        };
        uint32_t most = b->raw_bytes - b->raw_bytes / WIN_DIVISOR;
        size_t stored = most < b->raw_bytes ? cas_compressor_run(w->compressor, b->raw,
                                                                 b->raw_bytes, record + table, most)
                                            : 0;
        if (stored == 0) {
                out->codec = CAS_CODEC_NONE;
                stored = b->raw_bytes;
                memcpy(record + table, b->raw, stored);
        }
        out->stored_bytes = (uint32_t)stored;
        return cas_pack_block_finish(record, w->pack->size_bytes, out);
}

/* Tells every chunk of b where it is; b is empty then. */
static void place_chunks_locked(struct cas_packwriter *w, struct cas_openblock *b,
                                const struct cas_pack_block *block, uint64_t record_offset)
{
        uint32_t chunk_offset = 0;
        cas_assert_held(&w->ps->mutex);
        for (uint32_t i = 0; i < b->chunk_count; i++) {
                struct cas_pending *e = b->chunks[i];
                e->block = NULL;
                e->pack = w->pack;
                cas_packfile_ref_locked(w->ps, w->pack);
                e->end_offset = w->pack->size_bytes;
                e->at = (struct cas_chunk_record){
                        .pack_id = w->pack->id,
                        .block_offset = record_offset + cas_pack_block_frame(block->chunk_count),
                        .block_stored_bytes = block->stored_bytes,
                        .block_raw_bytes = block->raw_bytes,
                        .block_checksum = block->raw_checksum,
                        .chunk_offset = chunk_offset,
                        .length_bytes = e->length_bytes,
                        .codec = block->codec,
                };
                chunk_offset += e->length_bytes;
        }
        b->chunk_count = 0;
        b->raw_bytes = 0;
}

/* Writes what is in b, the writer's own block or another's, into the writer's pack. */
static int write_block(struct cas_packwriter *w, struct cas_openblock *b, struct cas_err *err)
{
        struct cas_pack_block block;
        cas_assert_held(&b->mutex);
        if (b->chunk_count == 0)
                return 0;
        int rc = writer_pack(w, err);
        if (rc < 0)
                return rc;
        uint64_t record_offset = w->pack->size_bytes;
        size_t len = build_block(w, b, &block);
        rc = writer_append(w, w->record.data, len, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&w->ps->mutex);
        place_chunks_locked(w, b, &block, record_offset);
        cas_mutex_unlock(&w->ps->mutex);
        return writer_seal_full(w, err);
}

static int add_locked(struct cas_packwriter *w, const struct cas_packwriter_chunk *chunk,
                      struct cas_err *err)
{
        struct cas_openblock *b = w->block;
        cas_assert_held(&b->mutex);
        if (b->raw_bytes >= w->style->block_bytes ||
            b->raw_bytes + chunk->length_bytes > w->style->block_bytes_max ||
            b->chunk_count == w->style->block_chunks) {
                int rc = write_block(w, b, err);
                if (rc < 0)
                        return rc;
        }
        cas_mutex_lock(&w->ps->mutex);
        if (chunk->shared && claim_locked(w, &chunk->name)) {
                cas_mutex_unlock(&w->ps->mutex);
                return 0;
        }
        struct cas_pending *e = cas_xcalloc(1, sizeof(*e));
        e->chunk = chunk->name;
        e->length_bytes = chunk->length_bytes;
        e->is_object = chunk->is_object;
        e->from = chunk->from;
        e->ref_count = 1;
        e->block = b;
        if (chunk->shared) {
                *cas_map_put(w->ps->pending, e->chunk.bytes, CAS_HASH_BYTES, NULL) =
                        (uint64_t)(uintptr_t)e;
                e->in_map = true;
        }
        cas_mutex_unlock(&w->ps->mutex);
        entries_push(w, e);
        /* Others that see the entry wait for the block's mutex before they write the block. */
        memcpy(b->raw + b->raw_bytes, chunk->data, chunk->length_bytes);
        b->raw_bytes += chunk->length_bytes;
        b->chunks[b->chunk_count++] = e;
        return 0;
}

int cas_packwriter_add(struct cas_packwriter *w, const struct cas_packwriter_chunk *chunk,
                       struct cas_err *err)
{
        cas_assert(chunk->length_bytes > 0);
        cas_assert(chunk->length_bytes <= CAS_CHUNK_BYTES_MAX);
        cas_mutex_lock(&w->block->mutex);
        int rc = add_locked(w, chunk, err);
        cas_mutex_unlock(&w->block->mutex);
        return rc;
}

/* Writes a block that is given as a frame; *record_offset: where its record is. */
static int write_frame(struct cas_packwriter *w, const struct cas_pack_item *item,
                       const void *frame, uint64_t *record_offset, struct cas_err *err)
{
        const struct cas_extent *at = &item->block;
        const struct cas_pack_block block = {
                .chunk_count = item->chunk_count,
                .stored_bytes = at->block_stored_bytes,
                .raw_bytes = at->block_raw_bytes,
                .raw_checksum = at->block_checksum,
                .codec = at->codec,
        };
        size_t table = cas_pack_block_frame(item->chunk_count);
        if (writer_pack(w, err) < 0)
                return -(int)err->code;
        *record_offset = w->pack->size_bytes;
        cas_buf_clear(&w->record);
        cas_buf_reserve(&w->record, table + at->block_stored_bytes);
        for (uint32_t i = 0; i < item->chunk_count; i++)
                cas_pack_block_entry(w->record.data, i, &item->chunks[i].chunk,
                                     item->chunks[i].length_bytes, item->chunks[i].is_object);
        memcpy(w->record.data + table, frame, at->block_stored_bytes);
        size_t len = cas_pack_block_finish(w->record.data, *record_offset, &block);
        return writer_append(w, w->record.data, len, err);
}

/* Chunk number i of a block that was just written to w->pack. */
static struct cas_pending *written_chunk_locked(struct cas_packwriter *w,
                                                const struct cas_pack_item *item, uint32_t i,
                                                uint64_t record_offset)
{
        struct cas_pending *e = cas_xcalloc(1, sizeof(*e));
        cas_assert_held(&w->ps->mutex);
        e->chunk = item->chunks[i].chunk;
        e->length_bytes = item->chunks[i].length_bytes;
        e->is_object = item->chunks[i].is_object;
        e->ref_count = 1;
        e->pack = w->pack;
        cas_packfile_ref_locked(w->ps, w->pack);
        e->end_offset = w->pack->size_bytes;
        e->at = (struct cas_chunk_record){
                .pack_id = w->pack->id,
                .block_offset = record_offset + cas_pack_block_frame(item->chunk_count),
                .block_stored_bytes = item->block.block_stored_bytes,
                .block_raw_bytes = item->block.block_raw_bytes,
                .block_checksum = item->block.block_checksum,
                .chunk_offset = item->chunks[i].chunk_offset,
                .length_bytes = e->length_bytes,
                .codec = item->block.codec,
        };
        entries_push(w, e);
        return e;
}

int cas_packwriter_add_frame(struct cas_packwriter *w, const struct cas_pack_item *item,
                             const void *frame, struct cas_err *err)
{
        uint64_t record_offset;
        if (write_frame(w, item, frame, &record_offset, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&w->ps->mutex);
        for (uint32_t i = 0; i < item->chunk_count; i++)
                written_chunk_locked(w, item, i, record_offset)->from = (struct cas_chunk_place){
                        .pack_id = item->block.pack_id,
                        .block_offset = item->block.block_offset,
                        .chunk_offset = item->chunks[i].chunk_offset,
                };
        cas_mutex_unlock(&w->ps->mutex);
        return writer_seal_full(w, err);
}

int cas_packwriter_add_kept(struct cas_packwriter *w, const struct cas_packwriter_chunk *chunk,
                            const void *frame, uint32_t frame_bytes, struct cas_err *err)
{
        cas_assert(chunk->length_bytes > 0 && chunk->length_bytes <= CAS_CHUNK_BYTES_MAX);
        cas_assert(frame_bytes <= CAS_KEPT_STORED_BYTES_MAX(chunk->length_bytes));
        const struct cas_pack_chunk one = {.chunk = chunk->name,
                                           .length_bytes = chunk->length_bytes,
                                           .is_object = chunk->is_object};
        const struct cas_pack_item item = {
                .block = {.block_stored_bytes = frame_bytes,
                          .block_raw_bytes = chunk->length_bytes,
                          .block_checksum = XXH3_64bits(chunk->data, chunk->length_bytes),
                          .codec = CAS_CODEC_ZSTD_KEPT},
                .chunks = &one,
                .chunk_count = 1,
        };
        uint64_t record_offset;
        if (write_frame(w, &item, frame, &record_offset, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&w->ps->mutex);
        /* From now on others count on this one, instead of storing theirs over it. */
        bool is_free = pending_find_locked(w->ps, &one.chunk) == NULL;
        if (is_free) {
                struct cas_pending *e = written_chunk_locked(w, &item, 0, record_offset);
                *cas_map_put(w->ps->pending, e->chunk.bytes, CAS_HASH_BYTES, NULL) =
                        (uint64_t)(uintptr_t)e;
                e->in_map = true;
        }
        cas_mutex_unlock(&w->ps->mutex);
        if (!is_free)
                return cas_fail(err, CAS_E_BUSY, "another publication brings the same chunk");
        return writer_seal_full(w, err);
}

/* ---- other records ---- */

int cas_packwriter_object(struct cas_packwriter *w, const struct cas_hash *id, uint64_t size_bytes,
                          const struct cas_chunk_ref *refs, uint32_t chunk_count, bool is_kept,
                          struct cas_err *err)
{
        int rc = writer_pack(w, err);
        if (rc < 0)
                return rc;
        cas_buf_clear(&w->record);
        cas_pack_object_encode(w->pack->size_bytes, id, size_bytes, refs, chunk_count, is_kept,
                               &w->record);
        rc = writer_append(w, w->record.data, w->record.len_bytes, err);
        return rc < 0 ? rc : writer_seal_full(w, err);
}

int cas_packwriter_layer(struct cas_packwriter *w, const struct cas_layer_record *layer,
                         struct cas_err *err)
{
        int rc = writer_pack(w, err);
        if (rc < 0)
                return rc;
        cas_buf_clear(&w->record);
        cas_pack_layer_encode(w->pack->size_bytes, layer, &w->record);
        rc = writer_append(w, w->record.data, w->record.len_bytes, err);
        return rc < 0 ? rc : writer_seal_full(w, err);
}

int cas_packwriter_recipe(struct cas_packwriter *w, const struct cas_recipe_record *recipe,
                          struct cas_err *err)
{
        int rc = writer_pack(w, err);
        if (rc < 0)
                return rc;
        cas_buf_clear(&w->record);
        cas_pack_recipe_encode(w->pack->size_bytes, recipe, &w->record);
        rc = writer_append(w, w->record.data, w->record.len_bytes, err);
        return rc < 0 ? rc : writer_seal_full(w, err);
}

/* ---- committing ---- */

static int write_own_block(struct cas_packwriter *w, struct cas_err *err)
{
        cas_mutex_lock(&w->block->mutex);
        int rc = write_block(w, w->block, err);
        cas_mutex_unlock(&w->block->mutex);
        return rc;
}

/* The first open block from entry *index on that holds a chunk of this writer, with a reference;
 * NULL when all are written. Packs of written ones are touched on the way. */
static struct cas_openblock *next_foreign_block(struct cas_packwriter *w, size_t *index)
{
        struct cas_openblock *found = NULL;
        cas_mutex_lock(&w->ps->mutex);
        for (; *index < w->entry_count && !found; ++*index) {
                struct cas_pending *e = w->entries[*index];
                if (e->pack) {
                        touch_locked(w, e->pack, e->end_offset);
                } else if (e->block) {
                        found = e->block;
                        found->ref_count++;
                        break;
                }
        }
        cas_mutex_unlock(&w->ps->mutex);
        return found;
}

static int write_foreign_blocks(struct cas_packwriter *w, struct cas_err *err)
{
        size_t index = 0;
        for (struct cas_openblock *b; (b = next_foreign_block(w, &index));) {
                cas_mutex_lock(&b->mutex);
                int rc = write_block(w, b, err);
                cas_mutex_unlock(&b->mutex);
                block_unref(w->ps, b);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* A writer that gave up could not write a block that others counted on. */
static int check_entries(const struct cas_packwriter *w, struct cas_err *err)
{
        for (size_t i = 0; i < w->entry_count; i++) {
                char hex[CAS_HASH_HEX_BYTES];
                if (!w->entries[i]->pack)
                        return cas_fail(err, CAS_E_IO,
                                        "chunk %s was lost with the publication that wrote it",
                                        cas_hash_hex(&w->entries[i]->chunk, hex));
        }
        return 0;
}

/* Whether a chunk that was written goes into the index: one that is moved, only while nobody else
 * has moved or removed it. What it takes the place of is dead. */
static int settle_place(const struct cas_packwriter *w, const struct cas_pending *e, bool *out,
                        struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        *out = e->from.pack_id == 0;
        if (*out && e->at.codec != CAS_CODEC_ZSTD_KEPT)
                return 0;
        int rc = cas_index_get_chunk(w->ps->index, &e->chunk, &rec, &miss);
        if (e->from.pack_id != 0)
                *out = rc == 0 && rec.pack_id == e->from.pack_id &&
                       rec.block_offset == e->from.block_offset &&
                       rec.chunk_offset == e->from.chunk_offset;
        if (rc == 0 && *out)
                cas_packset_note_dead(w->ps, &rec);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* Syncs what was written and fills the batch with it. */
static int flush_written(struct cas_packwriter *w, struct cas_batch *batch, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < w->touched_count; i++) {
                struct cas_pack_record rec;
                rc = cas_packfile_sync(w->ps, w->touched[i].pack, w->touched[i].end_offset, err);
                cas_packfile_record(w->ps, w->touched[i].pack, &rec);
                cas_batch_put_pack(batch, w->touched[i].pack->id, &rec);
        }
        for (size_t i = 0; rc == 0 && i < w->entry_count; i++) {
                const struct cas_pending *e = w->entries[i];
                bool counts = false;
                if (e->pack)
                        rc = settle_place(w, e, &counts, err);
                if (rc == 0 && counts)
                        cas_batch_put_chunk(batch, &e->chunk, &e->at);
        }
        return rc;
}

int cas_packwriter_settle(struct cas_packwriter *w, bool all, struct cas_err *err)
{
        int rc = all ? write_own_block(w, err) : 0;
        for (size_t i = 0; rc == 0 && i < w->touched_count; i++)
                rc = cas_packfile_sync(w->ps, w->touched[i].pack, w->touched[i].end_offset, err);
        return rc;
}

int cas_packwriter_flush(struct cas_packwriter *w, struct cas_batch *batch, struct cas_err *err)
{
        int rc = write_own_block(w, err);
        if (rc == 0)
                rc = write_foreign_blocks(w, err);
        if (rc == 0)
                rc = check_entries(w, err);
        return rc < 0 ? rc : flush_written(w, batch, err);
}

int cas_packwriter_flush_full(struct cas_packwriter *w, struct cas_batch *batch,
                              struct cas_err *err)
{
        return flush_written(w, batch, err);
}

bool cas_packwriter_waits(const struct cas_packwriter *w, uint64_t from_pack_id)
{
        for (uint32_t i = 0; i < w->block->chunk_count; i++)
                if (w->block->chunks[i]->from.pack_id == from_pack_id)
                        return true;
        return false;
}

/* Of all chunks, or of those that are not in the open block. */
static void let_go(struct cas_packwriter *w, bool all)
{
        size_t kept = 0;
        cas_mutex_lock(&w->ps->mutex);
        for (size_t i = 0; i < w->entry_count; i++) {
                if (!all && w->entries[i]->block == w->block)
                        w->entries[kept++] = w->entries[i];
                else
                        pending_unref_locked(w->ps, w->entries[i]);
        }
        for (size_t i = 0; i < w->touched_count; i++)
                cas_packfile_unref_locked(w->ps, w->touched[i].pack);
        if (w->pack && (all || !w->alone))
                cas_packset_give_locked(w->ps, cas_steal(&w->pack));
        cas_mutex_unlock(&w->ps->mutex);
        w->entry_count = kept;
        w->touched_count = 0;
}

void cas_packwriter_end_pack(struct cas_packwriter *w)
{
        if (w->pack)
                cas_packset_give(w->ps, cas_steal(&w->pack));
}

void cas_packwriter_published(struct cas_packwriter *w)
{
        let_go(w, false);
}

/* Takes the open block away from others' eyes, unless somebody counts on a chunk in it. */
static bool hide_block(struct cas_packwriter *w)
{
        bool shared = false;
        cas_mutex_lock(&w->ps->mutex);
        for (uint32_t i = 0; i < w->block->chunk_count; i++)
                shared = shared || w->block->chunks[i]->ref_count > 1;
        for (uint32_t i = 0; i < w->block->chunk_count; i++) {
                if (!shared)
                        unmap_locked(w->ps, w->block->chunks[i]);
        }
        cas_mutex_unlock(&w->ps->mutex);
        return !shared;
}

/* Those who count on the block's chunks must not look for it any more. */
static void lose_block(struct cas_packwriter *w)
{
        cas_mutex_lock(&w->ps->mutex);
        for (uint32_t i = 0; i < w->block->chunk_count; i++) {
                unmap_locked(w->ps, w->block->chunks[i]);
                w->block->chunks[i]->block = NULL;
        }
        cas_mutex_unlock(&w->ps->mutex);
        w->block->chunk_count = 0;
        w->block->raw_bytes = 0;
}

/* Chunks that were written, and that neither the index nor another writer counts on. */
static void note_dropped(struct cas_packwriter *w)
{
        for (size_t i = 0; i < w->entry_count; i++) {
                const struct cas_pending *e = w->entries[i];
                struct cas_chunk_record rec;
                struct cas_err miss = CAS_ERR_INIT;
                cas_mutex_lock(&w->ps->mutex);
                bool alone = e->pack && e->ref_count == 1;
                cas_mutex_unlock(&w->ps->mutex);
                if (!alone)
                        continue;
                int rc = cas_index_get_chunk(w->ps->index, &e->chunk, &rec, &miss);
                if (rc == -CAS_E_NOTFOUND || (rc == 0 && (rec.pack_id != e->at.pack_id ||
                                                          rec.block_offset != e->at.block_offset)))
                        cas_packset_note_dead(w->ps, &e->at);
        }
}

void cas_packwriter_release(struct cas_packwriter *w)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_mutex_lock(&w->block->mutex);
        if (hide_block(w) || write_block(w, w->block, &err) < 0)
                lose_block(w);
        cas_mutex_unlock(&w->block->mutex);
        note_dropped(w);
        let_go(w, true);
        block_unref(w->ps, w->block);
        cas_compressor_free(w->compressor);
        cas_buf_release(&w->record);
        free(w->entries);
        free(w->touched);
}
