/* SPDX-License-Identifier: Apache-2.0 */
/* Packs that garbage collection empties or thins out. The store is held
 * exclusively meanwhile; readers go on, with the descriptors that they have. */
#include "cas/packwriter_int.h"
#include "cas/removals_int.h"

struct rewrite {
        struct cas_packset *ps;
        int fd;
        bool (*live)(void *arg, enum cas_pack_record_kind kind, const void *key, size_t key_len);
        void *arg;
        struct cas_packwriter writer;
        struct cas_buf scratch; /* of cas_block_read */
        struct cas_buf block;   /* frame, or decoded block */
};

/* Live, and this copy is the one that the index means. */
static int chunk_is_live(struct rewrite *r, const struct cas_pack_item *item,
                         const struct cas_pack_chunk *chunk, bool *out, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err reason = CAS_ERR_INIT;
        *out = false;
        if (!r->live(r->arg, CAS_PACK_BLOCK, chunk->chunk.bytes, CAS_HASH_BYTES))
                return 0;
        int rc = cas_index_get_chunk(r->ps->index, &chunk->chunk, &rec, &reason);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = reason;
                return rc;
        }
        *out = rec.pack_id == item->block.pack_id && rec.block_offset == item->block.block_offset &&
               rec.chunk_offset == chunk->chunk_offset;
        return 0;
}

static int copy_frame(struct rewrite *r, const struct cas_pack_item *item, struct cas_err *err)
{
        cas_buf_clear(&r->block);
        cas_buf_reserve(&r->block, item->block.block_stored_bytes);
        int rc = cas_io_pread_exact(r->ps->io, r->fd, r->block.data, item->block.block_stored_bytes,
                                    item->block.block_offset, "pack", err);
        return rc < 0 ? rc : cas_packwriter_add_frame(&r->writer, item, r->block.data, err);
}

static int copy_chunks(struct rewrite *r, const struct cas_pack_item *item, struct cas_err *err)
{
        cas_buf_clear(&r->block);
        cas_buf_reserve(&r->block, item->block.block_raw_bytes);
        int rc = cas_block_read(r->fd, &item->block, r->block.data, &r->scratch, err);
        for (uint32_t i = 0; rc == 0 && i < item->chunk_count; i++) {
                const struct cas_pack_chunk *chunk = &item->chunks[i];
                bool is_live;
                rc = chunk_is_live(r, item, chunk, &is_live, err);
                if (rc == 0 && is_live)
                        rc = cas_packwriter_add(&r->writer,
                                                &(struct cas_packwriter_chunk){
                                                        .name = chunk->chunk,
                                                        .data = r->block.data + chunk->chunk_offset,
                                                        .length_bytes = chunk->length_bytes,
                                                        .is_object = chunk->is_object,
                                                },
                                                err);
        }
        return rc;
}

static int rewrite_block(struct rewrite *r, const struct cas_pack_item *item, struct cas_err *err)
{
        uint32_t live_count = 0;
        for (uint32_t i = 0; i < item->chunk_count; i++) {
                bool is_live;
                int rc = chunk_is_live(r, item, &item->chunks[i], &is_live, err);
                if (rc < 0)
                        return rc;
                live_count += is_live;
        }
        if (live_count == 0)
                return 0;
        return live_count == item->chunk_count ? copy_frame(r, item, err)
                                               : copy_chunks(r, item, err);
}

static int rewrite_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct rewrite *r = arg;
        switch (item->kind) {
        case CAS_PACK_BLOCK:
                return rewrite_block(r, item, err);
        case CAS_PACK_OBJECT:
                if (!r->live(r->arg, CAS_PACK_OBJECT, item->object.bytes, CAS_HASH_BYTES))
                        return 0;
                return cas_packwriter_object(&r->writer, &item->object, item->object_bytes,
                                             item->refs, item->ref_count, item->is_kept, err);
        case CAS_PACK_LAYER:
                if (!r->live(r->arg, CAS_PACK_LAYER, &item->layer.blob, sizeof(item->layer.blob)))
                        return 0;
                return cas_packwriter_layer(&r->writer, &item->layer, err);
        case CAS_PACK_RECIPE:
                if (!r->live(r->arg, CAS_PACK_RECIPE, &item->recipe, sizeof(item->recipe)))
                        return 0;
                return cas_packwriter_recipe(&r->writer, &item->recipe, err);
        }
        return 0;
}

int cas_packset_unlink(struct cas_packset *ps, uint64_t pack_id, uint32_t tier, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        int dirfd;
        cas_packset_fd_drop(ps, pack_id);
        cas_removal_begin(ps->removals);
        int rc = ps->backend->ops->pack_dir(ps->backend, pack_id, tier, &dirfd, err);
        if (rc == 0)
                rc = cas_io_unlink(ps->io, dirfd, cas_pack_name(pack_id, name), err);
        if (rc == 0)
                rc = cas_io_sync_dir(ps->io, dirfd, ".", err);
        cas_removal_end(ps->removals);
        return rc;
}

/* Writes the batch, which already holds what replaces the pack, then removes the pack. */
static int replace_pack(struct cas_packset *ps, uint64_t pack_id, struct cas_batch *batch,
                        struct cas_err *err)
{
        struct cas_pack_record rec;
        int rc = cas_index_get_pack(ps->index, pack_id, &rec, err);
        if (rc < 0)
                return rc;
        cas_batch_del_pack(batch, pack_id);
        rc = cas_index_write(ps->index, batch, err);
        return rc < 0 ? rc : cas_packset_unlink(ps, pack_id, rec.tier, err);
}

static int rewrite_run(struct rewrite *r, uint64_t pack_id, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_pack_record rec;
        uint64_t end;
        bool sealed;
        int rc = cas_index_get_pack(r->ps->index, pack_id, &rec, err);
        if (rc == 0)
                rc = cas_pack_walk(r->ps->io, r->fd, pack_id, rewrite_item, r, &end, &sealed, err);
        /* An unsealed pack ends for a walk at damage too. */
        if (rc == 0 && end < rec.size_bytes && !(sealed && rec.sealed))
                rc = cas_fail(err, CAS_E_CORRUPT, "record at %llu is damaged",
                              (unsigned long long)end);
        if (rc == 0)
                rc = cas_packwriter_flush(&r->writer, batch, err);
        if (rc == 0)
                rc = replace_pack(r->ps, pack_id, batch, err);
        if (rc == 0)
                cas_packwriter_published(&r->writer);
        return rc;
}

/* What is left of a dense pack shall not grow by being moved. */
static const struct cas_packstyle *style_of(struct cas_packset *ps, uint64_t pack_id)
{
        struct cas_pack_record rec;
        struct cas_err err = CAS_ERR_INIT;
        bool dense = cas_index_get_pack(ps->index, pack_id, &rec, &err) == 0 &&
                     rec.density != CAS_PACK_FAST;
        return dense ? &cas_packstyle_thinned : &cas_packstyle_fast;
}

int cas_packset_rewrite(struct cas_packset *ps, uint64_t pack_id,
                        bool (*live)(void *arg, enum cas_pack_record_kind kind, const void *key,
                                     size_t key_len),
                        void *arg, uint64_t *written, struct cas_err *err)
{
        struct rewrite r = {.ps = ps, .live = live, .arg = arg};
        char name[CAS_PACK_NAME_BYTES];
        int rc = cas_packset_open_pack(ps, pack_id, &r.fd, err);
        if (rc < 0)
                return rc;
        /* Nobody appends to it from now on; while it is idle it could be given to this writer. */
        struct cas_packfile *idle = cas_packset_take_id(ps, pack_id);
        cas_packwriter_init(&r.writer, ps, style_of(ps, pack_id));
        rc = rewrite_run(&r, pack_id, err);
        *written = r.writer.written_bytes;
        cas_packwriter_release(&r.writer);
        cas_buf_release(&r.scratch);
        cas_buf_release(&r.block);
        (void)close(r.fd);
        if (idle && rc < 0)
                cas_packset_give(ps, idle);
        else if (idle)
                cas_packfile_unref(ps, idle);
        return rc < 0 ? cas_err_wrap(err, "rewrite pack %s", cas_pack_name(pack_id, name)) : 0;
}

int cas_packset_remove(struct cas_packset *ps, uint64_t pack_id, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        char name[CAS_PACK_NAME_BYTES];
        struct cas_packfile *idle = cas_packset_take_id(ps, pack_id);
        int rc = replace_pack(ps, pack_id, batch, err);
        if (idle && rc < 0)
                cas_packset_give(ps, idle);
        else if (idle)
                cas_packfile_unref(ps, idle);
        return rc < 0 ? cas_err_wrap(err, "remove pack %s", cas_pack_name(pack_id, name)) : 0;
}
