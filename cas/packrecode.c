/* SPDX-License-Identifier: Apache-2.0 */
/* Writing packs anew, denser or without what is dead in them, beside publications.
 *
 * A pack is claimed, so that nobody else writes to it or takes it, and walked; what is live in it
 * is added to a writer of the wanted style. A step ends when the writer has written STEP_BYTES:
 * packs synced, then one batch of the index that moves those chunks which it still has where they
 * were read. Between steps everything may happen, since a chunk that was moved or removed meanwhile
 * is left out of the next batch.
 *
 * Only packs are taken to which nobody writes, and in which nobody counts on what the index does
 * not know yet. One that was walked to its end goes with the batch that moves its last chunk.
 *
 * Readers go on: they look a chunk up again when its pack has gone. */
#include "cas/pace.h"
#include "cas/packwriter_int.h"
#include "cas/record_int.h"

/* Decoded bytes of a step: a second or two of compression. */
#define STEP_BLOCKS 4
#define STEP_BYTES_MIN (16 * CAS_MIB)

/* A pack that was walked, and waits for its last chunks to be committed. */
struct walked {
        struct cas_pack_record rec;
        struct cas_pack_claim claim;
        bool was_empty; /* nothing in it was live */
        bool removing;
};

struct cas_recoder {
        struct cas_packset *ps;
        struct cas_recode_hooks hooks;
        struct cas_packwriter writer;
        uint32_t tier;    /* where packs go */
        bool stages;      /* it is remote */
        uint64_t *staged; /* owned; packs that are to go there */
        size_t staged_count;
        uint64_t step_bytes;         /* taken in during this step */
        struct cas_pack_claim claim; /* of the pack that is being walked */
        enum cas_pack_density from;  /* its density */
        int fd;                      /* of it */
        bool any_live;               /* in it */
        struct cas_buf block, scratch;
        struct walked *walked; /* owned */
        size_t walked_count, walked_max;
        struct cas_recode_result result;
};

struct cas_recoder *cas_recoder_new(struct cas_packset *ps, enum cas_pack_density density,
                                    uint32_t tier, const struct cas_recode_hooks *hooks)
{
        struct cas_recoder *r = cas_xcalloc(1, sizeof(*r));
        r->ps = ps;
        r->hooks = *hooks;
        r->fd = -1;
        r->tier = tier;
        r->stages = cas_packset_is_remote(ps, tier);
        cas_packwriter_init(&r->writer, ps, cas_packstyle_of(density));
        r->writer.tier = r->stages ? CAS_TIER_ANY : tier;
        r->writer.alone = r->stages;
        return r;
}

void cas_recoder_free(struct cas_recoder *r)
{
        if (!r)
                return;
        cas_packwriter_release(&r->writer);
        for (size_t i = 0; i < r->walked_count; i++)
                cas_packset_unclaim(r->ps, &r->walked[i].claim, false);
        cas_buf_release(&r->block);
        cas_buf_release(&r->scratch);
        free(r->walked);
        free(r->staged);
        free(r);
}

static void pay(const struct cas_recoder *r, uint64_t bytes)
{
        if (r->hooks.pace)
                cas_pace_read(r->hooks.pace, bytes);
}

/* ---- removing what was moved ---- */

/* Packs of which everything has moved, or is about to with this batch. */
static void choose_removals(struct cas_recoder *r, struct cas_batch *batch)
{
        for (size_t i = 0; i < r->walked_count; i++) {
                struct walked *w = &r->walked[i];
                struct cas_record_key key;
                w->removing = !cas_packwriter_waits(&r->writer, w->claim.pack_id);
                if (!w->removing)
                        continue;
                cas_key_pack(w->claim.pack_id, &key);
                cas_batch_del_pack(batch, w->claim.pack_id);
                cas_batch_del(batch, CAS_FAMILY_PACK_DEAD, key.bytes, key.len);
        }
}

/* The index has forgotten them: their files go. */
static int settle_removals(struct cas_recoder *r, struct cas_err *err)
{
        size_t kept = 0;
        int rc = 0;
        for (size_t i = 0; i < r->walked_count; i++) {
                struct walked w = r->walked[i];
                if (!w.removing) {
                        r->walked[kept++] = w;
                        continue;
                }
                /* Claimed until it has gone: who finds the file meanwhile knows that by it. */
                if (rc == 0)
                        rc = cas_packset_unlink(r->ps, w.claim.pack_id, &w.rec, err);
                cas_packset_unclaim(r->ps, &w.claim, true);
                r->result.packs++;
                r->result.empty += w.was_empty;
                r->result.bytes_before += w.rec.size_bytes;
        }
        r->walked_count = kept;
        return rc;
}

/* ---- packs for a remote tier ---- */

static bool is_staged(const struct cas_recoder *r, uint64_t pack_id)
{
        for (size_t i = r->staged_count; i-- > 0;)
                if (r->staged[i] == pack_id)
                        return true;
        return false;
}

/* The packs of this step. */
static void note_staged(struct cas_recoder *r)
{
        for (size_t i = 0; r->stages && i < r->writer.touched_count; i++) {
                const uint64_t pack_id = r->writer.touched[i].pack->id;
                if (is_staged(r, pack_id))
                        continue;
                r->staged = cas_xrealloc(r->staged, (r->staged_count + 1) * sizeof(r->staged[0]));
                r->staged[r->staged_count++] = pack_id;
        }
}

static bool is_stopped(void *arg)
{
        const struct cas_recoder *r = arg;
        return !r->hooks.yield(r->hooks.arg);
}

/* One that cannot go now is well where it is, and is moved some other time. */
static int move_staged(struct cas_recoder *r, struct cas_err *err)
{
        const struct cas_pack_move_options options = {
                .to = r->tier, .pace = r->hooks.pace, .stop = is_stopped, .stop_arg = r};
        cas_packwriter_end_pack(&r->writer);
        for (size_t i = 0; i < r->staged_count; i++) {
                struct cas_err why = CAS_ERR_INIT;
                uint64_t bytes;
                bool as_it_is;
                int rc = cas_packset_move(r->ps, r->staged[i], &options, &bytes, &as_it_is, &why);
                if (rc == 0 || rc == -CAS_E_BUSY || rc == -CAS_E_NOTFOUND)
                        continue;
                *err = why;
                return rc;
        }
        r->staged_count = 0;
        return 0;
}

/* ---- steps ---- */

static int step_commit(struct cas_recoder *r, bool all, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = cas_packwriter_settle(&r->writer, all, err);
        if (rc < 0)
                return rc;
        /* Nobody replaces a chunk between the look at where it is and the batch that moves it. */
        cas_mutex_lock(&r->ps->replacing);
        rc = all ? cas_packwriter_flush(&r->writer, batch, err)
                 : cas_packwriter_flush_full(&r->writer, batch, err);
        note_staged(r);
        if (rc == 0) {
                choose_removals(r, batch);
                rc = cas_index_write(r->ps->index, batch, err);
        }
        cas_mutex_unlock(&r->ps->replacing);
        if (rc < 0)
                return rc;
        cas_packwriter_published(&r->writer);
        r->step_bytes = 0;
        return settle_removals(r, err);
}

/* After each item: ends a step that is long enough. */
static int step_check(struct cas_recoder *r, struct cas_err *err)
{
        uint64_t most =
                cas_max_u64(STEP_BYTES_MIN, (uint64_t)STEP_BLOCKS * r->writer.style->block_bytes);
        if (r->step_bytes < most)
                return 0;
        int rc = step_commit(r, false, err);
        if (rc == 0 && !r->hooks.yield(r->hooks.arg))
                rc = cas_fail(err, CAS_E_BUSY, "stopped");
        return rc;
}

/* ---- walking ---- */

static int chunk_is_here(struct cas_index *ix, const struct cas_pack_item *item,
                         const struct cas_pack_chunk *chunk, bool *out, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_chunk(ix, &chunk->chunk, &rec, &miss);
        *out = rc == 0 && rec.pack_id == item->block.pack_id &&
               rec.block_offset == item->block.block_offset &&
               rec.chunk_offset == chunk->chunk_offset;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int recipe_is_known(struct cas_index *ix, const struct cas_recipe_record *recipe, bool *out,
                           struct cas_err *err)
{
        struct cas_recipe_record now;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_recipe(ix, &recipe->blob, &now, &miss);
        *out = rc == 0 && cas_hash_equal(&now.recipe, &recipe->recipe);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

int cas_pack_item_is_live(struct cas_index *ix, const struct cas_pack_item *item, bool *out,
                          struct cas_err *err)
{
        struct cas_record_key key;
        int rc = 0;
        *out = false;
        switch (item->kind) {
        case CAS_PACK_BLOCK:
                for (uint32_t i = 0; rc == 0 && !*out && i < item->chunk_count; i++)
                        rc = chunk_is_here(ix, item, &item->chunks[i], out, err);
                return rc;
        case CAS_PACK_OBJECT:
                return cas_index_has(ix, CAS_FAMILY_OBJECTS, item->object.bytes, CAS_HASH_BYTES,
                                     out, err);
        case CAS_PACK_LAYER:
                cas_key_digest(&item->layer.blob, &key);
                return cas_index_has(ix, CAS_FAMILY_LAYERS, key.bytes, key.len, out, err);
        case CAS_PACK_RECIPE:
                return recipe_is_known(ix, &item->recipe, out, err);
        }
        return 0;
}

static int count_here(struct cas_recoder *r, const struct cas_pack_item *item, uint32_t *out,
                      struct cas_err *err)
{
        int rc = 0;
        *out = 0;
        for (uint32_t i = 0; rc == 0 && i < item->chunk_count; i++) {
                bool here;
                rc = chunk_is_here(r->ps->index, item, &item->chunks[i], &here, err);
                *out += rc == 0 && here;
        }
        return rc;
}

static int move_chunk(struct cas_recoder *r, const struct cas_pack_item *item,
                      const struct cas_pack_chunk *chunk, struct cas_err *err)
{
        bool here;
        int rc = chunk_is_here(r->ps->index, item, chunk, &here, err);
        if (rc < 0 || !here)
                return rc;
        r->step_bytes += chunk->length_bytes;
        return cas_packwriter_add(&r->writer,
                                  &(struct cas_packwriter_chunk){
                                          .name = chunk->chunk,
                                          .data = r->block.data + chunk->chunk_offset,
                                          .length_bytes = chunk->length_bytes,
                                          .is_object = chunk->is_object,
                                          .from = {.pack_id = item->block.pack_id,
                                                   .block_offset = item->block.block_offset,
                                                   .chunk_offset = chunk->chunk_offset},
                                  },
                                  err);
}

/* A block as it is. */
static int move_frame(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        r->step_bytes += item->block.block_raw_bytes;
        cas_buf_clear(&r->block);
        cas_buf_reserve(&r->block, item->block.block_stored_bytes);
        if (cas_io_pread_exact(r->ps->io, r->fd, r->block.data, item->block.block_stored_bytes,
                               item->block.block_offset, "pack", err) < 0)
                return -(int)err->code;
        return cas_packwriter_add_frame(&r->writer, item, r->block.data, err);
}

/* A frame that a recipe counts on, and one that is as dense as it shall be and wholly live, stay as
 * they are. */
static int move_block(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        uint32_t here;
        int rc = count_here(r, item, &here, err);
        if (rc < 0)
                return rc;
        if (item->block.codec == CAS_CODEC_ZSTD_KEPT ||
            (here == item->chunk_count && r->from == r->writer.style->density))
                return move_frame(r, item, err);
        cas_buf_clear(&r->block);
        cas_buf_reserve(&r->block, item->block.block_raw_bytes);
        rc = cas_block_read(r->fd, &item->block, r->block.data, &r->scratch, err);
        for (uint32_t i = 0; rc == 0 && i < item->chunk_count; i++)
                rc = move_chunk(r, item, &item->chunks[i], err);
        return rc;
}

static int move_live(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        switch (item->kind) {
        case CAS_PACK_BLOCK:
                return move_block(r, item, err);
        case CAS_PACK_OBJECT:
                return cas_packwriter_object(&r->writer, &item->object, item->object_bytes,
                                             item->refs, item->ref_count, item->is_kept, err);
        case CAS_PACK_LAYER:
                return cas_packwriter_layer(&r->writer, &item->layer, err);
        case CAS_PACK_RECIPE:
                return cas_packwriter_recipe(&r->writer, &item->recipe, err);
        }
        return 0;
}

static int move_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_recoder *r = arg;
        const uint64_t written_before = r->writer.written_bytes;
        bool live;
        int rc = cas_pack_item_is_live(r->ps->index, item, &live, err);
        if (rc == 0 && live)
                rc = move_live(r, item, err);
        r->any_live = r->any_live || live;
        pay(r, item->record_bytes + r->writer.written_bytes - written_before);
        return rc < 0 ? rc : step_check(r, err);
}

/* The recoder has the claim from now on. */
static void note_walked(struct cas_recoder *r, const struct cas_pack_record *rec)
{
        if (r->walked_count == r->walked_max) {
                r->walked_max = r->walked_max ? 2 * r->walked_max : 16;
                r->walked = cas_xrealloc(r->walked, r->walked_max * sizeof(r->walked[0]));
        }
        r->walked[r->walked_count++] =
                (struct walked){.claim = r->claim, .rec = *rec, .was_empty = !r->any_live};
}

static int walk(struct cas_recoder *r, const struct cas_pack_record *rec, struct cas_err *err)
{
        uint64_t end;
        bool sealed;
        int rc =
                cas_pack_walk(r->ps->io, r->fd, r->claim.pack_id, move_item, r, &end, &sealed, err);
        /* An unsealed pack ends for a walk at damage too. */
        if (rc == 0 && !sealed && end < rec->size_bytes)
                rc = cas_fail(err, CAS_E_CORRUPT, "record at %llu is damaged",
                              (unsigned long long)end);
        return rc;
}

/* Of a pack that was claimed. *walked: it was read to its end. */
static int take_pack(struct cas_recoder *r, bool *walked, struct cas_err *err)
{
        const uint64_t pack_id = r->claim.pack_id;
        struct cas_pack_record rec;
        struct cas_err gone = CAS_ERR_INIT;
        *walked = false;
        int rc = cas_index_get_pack(r->ps->index, pack_id, &rec, &gone);
        if (rc == -CAS_E_NOTFOUND)
                return 0; /* removed since */
        if (rc == 0)
                rc = cas_packset_open_pack(r->ps, pack_id, &r->fd, &gone);
        if (rc < 0) {
                *err = gone;
                return rc;
        }
        if (cas_packset_is_remote(r->ps, rec.tier))
                pay(r, rec.size_bytes); /* it was fetched */
        r->from = (enum cas_pack_density)rec.density;
        r->any_live = false;
        rc = walk(r, &rec, err);
        (void)close(cas_steal_fd(&r->fd));
        *walked = rc == 0;
        if (*walked)
                note_walked(r, &rec);
        return rc;
}

int cas_recoder_pack(struct cas_recoder *r, uint64_t pack_id, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        bool walked;
        if (!cas_packset_claim(r->ps, pack_id, &r->claim))
                return 0;
        int rc = take_pack(r, &walked, err);
        if (!walked)
                cas_packset_unclaim(r->ps, &r->claim, false);
        return rc < 0 ? cas_err_wrap(err, "recode pack %s", cas_pack_name(pack_id, name)) : 0;
}

int cas_recoder_finish(struct cas_recoder *r, struct cas_recode_result *out, struct cas_err *err)
{
        int rc = step_commit(r, true, err);
        if (rc == 0)
                rc = move_staged(r, err);
        r->result.bytes_after = r->writer.written_bytes;
        *out = r->result;
        return rc;
}
