/* SPDX-License-Identifier: Apache-2.0 */
/* Writing packs anew with a denser codec, beside publications.
 *
 * A pack is walked, and what is live in it is added to a writer of the wanted
 * style. A step ends when the writer has written STEP_BYTES: packs synced, then
 * one batch of the index that moves those chunks which it still has where they
 * were read. During a step collection is kept away, so a writer's pack is not
 * collected under it; between steps everything may happen, since a chunk that
 * was moved or removed meanwhile is left out of the next batch.
 *
 * Only packs are taken to which nobody writes, and in which nobody counts on
 * what the index does not know yet. One that was walked to its end goes with the
 * batch that moves its last chunk, unless something was appended to it since it
 * was taken: then it stays for the next time.
 *
 * Readers go on: they look a chunk up again when its pack has gone. */
#include "cas/packwriter_int.h"
#include "cas/record_int.h"

/* Decoded bytes of a step: a second or two of compression. */
#define STEP_BLOCKS 4
#define STEP_BYTES_MIN (16 * CAS_MIB)

/* A pack that was walked, and waits for its last chunks to be committed. */
struct walked {
        uint64_t pack_id;
        uint64_t quiet_bytes; /* its length when it was taken */
        uint64_t size_bytes;
        uint32_t tier;
        struct cas_packfile *claimed; /* while it is being removed; may be NULL then, too */
        bool removing;
};

struct cas_recoder {
        struct cas_packset *ps;
        struct cas_recode_hooks hooks;
        struct cas_packwriter writer;
        bool in_step;
        uint64_t step_bytes; /* taken in during this step */
        uint64_t pack_id;    /* that is being walked */
        int fd;              /* of it */
        struct cas_buf block, scratch;
        struct walked *walked; /* owned */
        size_t walked_count, walked_max;
        struct cas_recode_result result;
};

static const struct cas_packstyle *style_of(enum cas_pack_density density)
{
        return density == CAS_PACK_COLD ? &cas_packstyle_cold : &cas_packstyle_default;
}

struct cas_recoder *cas_recoder_new(struct cas_packset *ps, enum cas_pack_density density,
                                    const struct cas_recode_hooks *hooks)
{
        struct cas_recoder *r = cas_xcalloc(1, sizeof(*r));
        cas_assert(density != CAS_PACK_FAST);
        r->ps = ps;
        r->hooks = *hooks;
        r->fd = -1;
        cas_packwriter_init(&r->writer, ps, style_of(density));
        return r;
}

static void step_begin(struct cas_recoder *r)
{
        if (r->in_step)
                return;
        r->hooks.enter(r->hooks.arg);
        r->in_step = true;
        r->step_bytes = 0;
}

static void step_leave(struct cas_recoder *r)
{
        if (!r->in_step)
                return;
        r->in_step = false;
        r->hooks.leave(r->hooks.arg);
}

void cas_recoder_free(struct cas_recoder *r)
{
        if (!r)
                return;
        cas_packwriter_release(&r->writer);
        step_leave(r);
        cas_buf_release(&r->block);
        cas_buf_release(&r->scratch);
        free(r->walked);
        free(r);
}

/* ---- removing what was moved ---- */

/* Packs of which everything has moved, or is about to with this batch. */
static void choose_removals(struct cas_recoder *r, struct cas_batch *batch)
{
        for (size_t i = 0; i < r->walked_count; i++) {
                struct walked *w = &r->walked[i];
                w->removing = !cas_packwriter_waits(&r->writer, w->pack_id) &&
                              cas_packset_claim(r->ps, w->pack_id, w->quiet_bytes, &w->claimed);
                if (w->removing)
                        cas_batch_del_pack(batch, w->pack_id);
        }
}

/* The index has forgotten them, or has not (`gone` false). */
static int settle_removals(struct cas_recoder *r, bool gone, struct cas_err *err)
{
        size_t kept = 0;
        int rc = 0;
        for (size_t i = 0; i < r->walked_count; i++) {
                struct walked w = r->walked[i];
                if (w.claimed && gone)
                        cas_packfile_unref(r->ps, w.claimed);
                else if (w.claimed)
                        cas_packset_give(r->ps, w.claimed);
                if (w.removing && gone && rc == 0) {
                        rc = cas_packset_unlink(r->ps, w.pack_id, w.tier, err);
                        r->result.packs++;
                        r->result.bytes_before += w.size_bytes;
                }
                /* One that could not be claimed is written to: it is for the next time. */
                if (!gone || (!w.removing && cas_packwriter_waits(&r->writer, w.pack_id)))
                        r->walked[kept++] = (struct walked){.pack_id = w.pack_id,
                                                            .quiet_bytes = w.quiet_bytes,
                                                            .size_bytes = w.size_bytes,
                                                            .tier = w.tier};
        }
        r->walked_count = kept;
        return rc;
}

/* ---- steps ---- */

static int step_commit(struct cas_recoder *r, bool all, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        step_begin(r);
        /* Nobody replaces a chunk between the look at where it is and the batch that moves it. */
        cas_mutex_lock(&r->ps->replacing);
        int rc = all ? cas_packwriter_flush(&r->writer, batch, err)
                     : cas_packwriter_flush_full(&r->writer, batch, err);
        if (rc == 0) {
                choose_removals(r, batch);
                rc = cas_index_write(r->ps->index, batch, err);
                struct cas_err unlink_err = CAS_ERR_INIT;
                int settled = settle_removals(r, rc == 0, &unlink_err);
                if (rc == 0 && settled < 0) {
                        *err = unlink_err;
                        rc = settled;
                }
        }
        cas_mutex_unlock(&r->ps->replacing);
        if (rc == 0)
                cas_packwriter_published(&r->writer);
        step_leave(r);
        return rc;
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

static int chunk_is_here(struct cas_recoder *r, const struct cas_pack_item *item,
                         const struct cas_pack_chunk *chunk, bool *out, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_chunk(r->ps->index, &chunk->chunk, &rec, &miss);
        *out = rc == 0 && rec.pack_id == item->block.pack_id &&
               rec.block_offset == item->block.block_offset &&
               rec.chunk_offset == chunk->chunk_offset;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

static int any_is_here(struct cas_recoder *r, const struct cas_pack_item *item, bool *out,
                       struct cas_err *err)
{
        int rc = 0;
        *out = false;
        for (uint32_t i = 0; rc == 0 && !*out && i < item->chunk_count; i++)
                rc = chunk_is_here(r, item, &item->chunks[i], out, err);
        return rc;
}

static int move_chunk(struct cas_recoder *r, const struct cas_pack_item *item,
                      const struct cas_pack_chunk *chunk, struct cas_err *err)
{
        bool here;
        int rc = chunk_is_here(r, item, chunk, &here, err);
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

/* A frame that a recipe counts on. */
static int move_kept(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        r->step_bytes += item->block.block_raw_bytes;
        cas_buf_clear(&r->block);
        cas_buf_reserve(&r->block, item->block.block_stored_bytes);
        if (cas_io_pread_exact(r->ps->io, r->fd, r->block.data, item->block.block_stored_bytes,
                               item->block.block_offset, "pack", err) < 0)
                return -(int)err->code;
        return cas_packwriter_add_frame(&r->writer, item, r->block.data, err);
}

static int move_block(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        bool here;
        int rc = any_is_here(r, item, &here, err);
        if (rc < 0 || !here)
                return rc;
        if (item->block.codec == CAS_CODEC_ZSTD_KEPT)
                return move_kept(r, item, err);
        cas_buf_clear(&r->block);
        cas_buf_reserve(&r->block, item->block.block_raw_bytes);
        rc = cas_block_read(r->fd, &item->block, r->block.data, &r->scratch, err);
        for (uint32_t i = 0; rc == 0 && i < item->chunk_count; i++)
                rc = move_chunk(r, item, &item->chunks[i], err);
        return rc;
}

/* Records beside blocks matter while the index knows what they tell of. */
static int move_object(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        bool known;
        int rc = cas_index_has(r->ps->index, CAS_FAMILY_OBJECTS, item->object.bytes, CAS_HASH_BYTES,
                               &known, err);
        if (rc < 0 || !known)
                return rc;
        return cas_packwriter_object(&r->writer, &item->object, item->object_bytes, item->refs,
                                     item->ref_count, item->is_kept, err);
}

static int move_layer(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_record_key key;
        bool known;
        cas_key_digest(&item->layer.blob, &key);
        int rc = cas_index_has(r->ps->index, CAS_FAMILY_LAYERS, key.bytes, key.len, &known, err);
        if (rc < 0 || !known)
                return rc;
        return cas_packwriter_layer(&r->writer, &item->layer, err);
}

static int move_recipe(struct cas_recoder *r, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_recipe_record now;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_recipe(r->ps->index, &item->recipe.blob, &now, &miss);
        if (rc == -CAS_E_NOTFOUND ||
            (rc == 0 && !cas_hash_equal(&now.recipe, &item->recipe.recipe)))
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        return cas_packwriter_recipe(&r->writer, &item->recipe, err);
}

static int move_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_recoder *r = arg;
        int rc = 0;
        step_begin(r);
        switch (item->kind) {
        case CAS_PACK_BLOCK:
                rc = move_block(r, item, err);
                break;
        case CAS_PACK_OBJECT:
                rc = move_object(r, item, err);
                break;
        case CAS_PACK_LAYER:
                rc = move_layer(r, item, err);
                break;
        case CAS_PACK_RECIPE:
                rc = move_recipe(r, item, err);
                break;
        }
        return rc < 0 ? rc : step_check(r, err);
}

static void note_walked(struct cas_recoder *r, const struct cas_pack_record *rec, uint64_t quiet)
{
        if (r->walked_count == r->walked_max) {
                r->walked_max = r->walked_max ? 2 * r->walked_max : 16;
                r->walked = cas_xrealloc(r->walked, r->walked_max * sizeof(r->walked[0]));
        }
        r->walked[r->walked_count++] = (struct walked){.pack_id = r->pack_id,
                                                       .quiet_bytes = quiet,
                                                       .size_bytes = rec->size_bytes,
                                                       .tier = rec->tier};
}

static int walk(struct cas_recoder *r, const struct cas_pack_record *rec, uint64_t quiet_bytes,
                struct cas_err *err)
{
        uint64_t end;
        bool sealed;
        int rc = cas_pack_walk(r->ps->io, r->fd, r->pack_id, move_item, r, &end, &sealed, err);
        /* An unsealed pack ends for a walk at damage too. */
        if (rc == 0 && !sealed && end < rec->size_bytes)
                rc = cas_fail(err, CAS_E_CORRUPT, "record at %llu is damaged",
                              (unsigned long long)end);
        if (rc == 0)
                note_walked(r, rec, quiet_bytes);
        return rc;
}

int cas_recoder_pack(struct cas_recoder *r, uint64_t pack_id, struct cas_err *err)
{
        struct cas_pack_record rec;
        struct cas_err gone = CAS_ERR_INIT;
        char name[CAS_PACK_NAME_BYTES];
        uint64_t quiet_bytes;
        if (!cas_packset_is_quiet(r->ps, pack_id, &quiet_bytes))
                return 0;
        int rc = cas_index_get_pack(r->ps->index, pack_id, &rec, &gone);
        if (rc == 0)
                rc = cas_packset_open_pack(r->ps, pack_id, &r->fd, &gone);
        if (rc == -CAS_E_NOTFOUND && cas_index_get_pack(r->ps->index, pack_id, &rec, err) < 0)
                return 0; /* collected since */
        if (rc < 0) {
                *err = gone;
                return rc;
        }
        r->pack_id = pack_id;
        rc = walk(r, &rec, quiet_bytes, err);
        (void)close(cas_steal_fd(&r->fd));
        return rc < 0 ? cas_err_wrap(err, "recode pack %s", cas_pack_name(pack_id, name)) : 0;
}

int cas_recoder_finish(struct cas_recoder *r, struct cas_recode_result *out, struct cas_err *err)
{
        int rc = step_commit(r, true, err);
        r->result.bytes_after = r->writer.written_bytes;
        *out = r->result;
        return rc;
}
