/* SPDX-License-Identifier: Apache-2.0 */
/* Repair of a pack: what is sound and live moves to others, what is damaged is brought from other
 * sources, and the pack goes: away, or aside when something of it could not be had. */
#include <time.h>

#include "cas/object.h"
#include "cas/pack_int.h"
#include "cas/record_int.h"
#include "cas/repair_run_int.h"

/* A pack may be in a writer's hands for a moment. */
#define CLAIM_TRIES 200
#define CLAIM_PAUSE_NS (20 * 1000 * 1000L)

struct live_chunk {
        struct cas_hash name;
        struct cas_chunk_record at;
        bool moved;
};

struct pack_repair {
        struct cas_repair *r;
        uint64_t pack_id;
        struct cas_pack_record rec;
        struct cas_pack_claim claim;
        bool is_claimed, is_remote;
        int fd; /* -1: its file is gone */
        struct cas_packwriter writer;
        struct live_chunk *chunks; /* owned: what the index has in it */
        size_t count, max;
        struct cas_map *by_name; /* to its number */
        struct cas_buf block, scratch;
        bool records_lost;    /* others than blocks, perhaps */
        struct cas_map *seen; /* lists, layers and recipes that packs tell of */
};

static void pack_repair_release(struct pack_repair *p)
{
        cas_packwriter_release(&p->writer);
        if (p->fd >= 0)
                (void)close(p->fd);
        if (p->is_claimed)
                cas_packset_unclaim(p->r->s->packset, &p->claim, false);
        cas_map_free(p->by_name);
        cas_map_free(p->seen);
        cas_buf_release(&p->block);
        cas_buf_release(&p->scratch);
        free(p->chunks);
}

/* ---- what is live ---- */

static int note_chunk(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct pack_repair *p = arg;
        struct live_chunk chunk = {0};
        struct cas_err malformed = CAS_ERR_INIT;
        if (key_len != CAS_HASH_BYTES ||
            cas_chunk_record_decode(value, value_len, &chunk.at, &malformed) < 0 ||
            chunk.at.pack_id != p->pack_id)
                return 0;
        memcpy(chunk.name.bytes, key, CAS_HASH_BYTES);
        if (p->count == p->max) {
                p->max = p->max ? 2 * p->max : 1024;
                p->chunks = cas_xrealloc(p->chunks, p->max * sizeof(p->chunks[0]));
        }
        *cas_map_put(p->by_name, chunk.name.bytes, CAS_HASH_BYTES, NULL) = p->count;
        p->chunks[p->count++] = chunk;
        return 0;
}

static struct live_chunk *live_chunk_of(struct pack_repair *p, const struct cas_pack_item *item,
                                        const struct cas_pack_chunk *chunk)
{
        const uint64_t *index = cas_map_get(p->by_name, chunk->chunk.bytes, CAS_HASH_BYTES);
        struct live_chunk *live = index ? &p->chunks[*index] : NULL;
        return live && !live->moved && live->at.block_offset == item->block.block_offset &&
                               live->at.chunk_offset == chunk->chunk_offset
                       ? live
                       : NULL;
}

/* ---- moving ---- */

static int move_kept(struct pack_repair *p, const struct cas_pack_item *item, struct cas_err *err)
{
        cas_buf_clear(&p->scratch);
        cas_buf_reserve(&p->scratch, item->block.block_stored_bytes);
        int rc = cas_io_pread_exact(p->r->s->io, p->fd, p->scratch.data,
                                    item->block.block_stored_bytes, item->block.block_offset,
                                    "pack", err);
        return rc < 0 ? rc : cas_packwriter_add_frame(&p->writer, item, p->scratch.data, err);
}

static int move_chunk(struct pack_repair *p, const struct cas_pack_item *item,
                      const struct cas_pack_chunk *chunk, struct cas_err *err)
{
        struct live_chunk *live = live_chunk_of(p, item, chunk);
        const uint8_t *data = p->block.data + chunk->chunk_offset;
        if (!live || live->at.length_bytes != chunk->length_bytes ||
            !cas_repair_is_chunk(&chunk->chunk, chunk->is_object, data, chunk->length_bytes))
                return 0;
        const struct cas_packwriter_chunk moved = {
                .name = chunk->chunk,
                .data = data,
                .length_bytes = chunk->length_bytes,
                .is_object = chunk->is_object,
                .from = {.pack_id = p->pack_id,
                         .block_offset = item->block.block_offset,
                         .chunk_offset = chunk->chunk_offset},
        };
        int rc = item->block.codec == CAS_CODEC_ZSTD_KEPT
                         ? move_kept(p, item, err)
                         : cas_packwriter_add(&p->writer, &moved, err);
        live->moved = rc == 0;
        return rc;
}

static int move_block(struct pack_repair *p, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_err bad = CAS_ERR_INIT;
        bool live = false;
        for (uint32_t i = 0; i < item->chunk_count && !live; i++)
                live = live_chunk_of(p, item, &item->chunks[i]) != NULL;
        if (!live)
                return 0;
        cas_buf_clear(&p->block);
        cas_buf_reserve(&p->block, item->block.block_raw_bytes);
        if (cas_block_read(p->fd, &item->block, p->block.data, &p->scratch, &bad) < 0)
                return 0;
        int rc = 0;
        for (uint32_t i = 0; rc == 0 && i < item->chunk_count; i++)
                rc = move_chunk(p, item, &item->chunks[i], err);
        return rc;
}

/* Records beside blocks matter while the index knows what they tell of. */
static int move_record(struct pack_repair *p, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_index *ix = p->r->s->index;
        struct cas_record_key key;
        bool known = false;
        int rc;
        if (item->kind == CAS_PACK_OBJECT) {
                rc = cas_index_has(ix, CAS_FAMILY_OBJECTS, item->object.bytes, CAS_HASH_BYTES,
                                   &known, err);
                return rc < 0 || !known
                               ? rc
                               : cas_packwriter_object(&p->writer, &item->object,
                                                       item->object_bytes, item->refs,
                                                       item->ref_count, item->is_kept, err);
        }
        bool is_layer = item->kind == CAS_PACK_LAYER;
        cas_key_digest(is_layer ? &item->layer.blob : &item->recipe.blob, &key);
        rc = cas_index_has(ix, is_layer ? CAS_FAMILY_LAYERS : CAS_FAMILY_RECIPES, key.bytes,
                           key.len, &known, err);
        if (rc < 0 || !known)
                return rc;
        return is_layer ? cas_packwriter_layer(&p->writer, &item->layer, err)
                        : cas_packwriter_recipe(&p->writer, &item->recipe, err);
}

static int move_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        return item->kind == CAS_PACK_BLOCK ? move_block(arg, item, err)
                                            : move_record(arg, item, err);
}

/* Whether the bytes are those of one block that the index knows: then nothing else was in them. */
static bool is_one_block(const struct pack_repair *p, const struct cas_pack_damage *damage)
{
        for (size_t i = 0; i < p->count; i++) {
                const struct cas_chunk_record *at = &p->chunks[i].at;
                if (at->block_offset > damage->offset + CAS_PACK_RECORD_BYTES &&
                    at->block_offset + at->block_stored_bytes == damage->end_offset &&
                    (at->block_offset - damage->offset - CAS_PACK_RECORD_BYTES) %
                                    CAS_PACK_CHUNK_BYTES ==
                            0)
                        return true;
        }
        return false;
}

static int note_damage(void *arg, const struct cas_pack_damage *damage,
                       struct cas_err *err CAS_UNUSED)
{
        struct pack_repair *p = arg;
        bool header = damage->end_offset <= CAS_PACK_HEADER_BYTES;
        if (!header && damage->kind != CAS_PACK_BLOCK && !is_one_block(p, damage))
                p->records_lost = true;
        return 0;
}

/* ---- records that were lost with the pack ---- */

/* What a record tells of, in one key. */
static void record_key(unsigned kind, const void *name, size_t len, struct cas_record_key *out)
{
        out->bytes[0] = (uint8_t)kind;
        memcpy(out->bytes + 1, name, len);
        out->len = 1 + len;
}

static void item_key(const struct cas_pack_item *item, struct cas_record_key *out)
{
        struct cas_record_key digest;
        out->len = 0;
        switch (item->kind) {
        case CAS_PACK_OBJECT:
        case CAS_PACK_BLOCK:
                record_key(CAS_PACK_OBJECT, item->object.bytes, CAS_HASH_BYTES, out);
                return;
        case CAS_PACK_LAYER:
                cas_key_digest(&item->layer.blob, &digest);
                record_key(CAS_PACK_LAYER, digest.bytes, digest.len, out);
                return;
        case CAS_PACK_RECIPE:
                cas_key_digest(&item->recipe.blob, &digest);
                record_key(CAS_PACK_RECIPE, digest.bytes, digest.len, out);
                return;
        }
}

static int see_item(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        struct pack_repair *p = arg;
        struct cas_record_key key;
        if (item->kind == CAS_PACK_BLOCK)
                return 0;
        item_key(item, &key);
        (void)cas_map_put(p->seen, key.bytes, key.len, NULL);
        return 0;
}

struct see_packs {
        struct pack_repair *p;
        struct cas_err *err;
        int rc;
};

static bool see_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec CAS_UNUSED)
{
        struct see_packs *see = arg;
        struct cas_store *s = see->p->r->s;
        const struct cas_pack_salvage hooks = {.item = see_item, .arg = see->p};
        struct cas_err why = CAS_ERR_INIT;
        cas_cleanup_fd int fd = -1;
        if (cas_packset_open_pack(s->packset, pack_id, &fd, &why) < 0)
                return true;
        int rc = cas_pack_salvage(s->io, fd, pack_id, &hooks, &why);
        if (rc < 0 && rc != -CAS_E_UNSUPPORTED) {
                see->rc = rc;
                *see->err = why;
        }
        return see->rc == 0;
}

static bool is_seen(struct pack_repair *p, unsigned kind, const void *name, size_t len)
{
        struct cas_record_key key;
        record_key(kind, name, len, &key);
        return cas_map_get(p->seen, key.bytes, key.len) != NULL;
}

/* The list of an object, from the index. *is_kept: all its chunks are kept frames. */
static int read_list(struct cas_index *ix, const struct cas_hash *id, uint32_t count,
                     struct cas_chunk_ref *out, bool *is_kept, struct cas_err *err)
{
        uint32_t got = 0;
        int rc = count > 0 ? cas_index_get_object_chunks(ix, id, 0, out, count, &got, err) : 0;
        *is_kept = rc == 0 && count > 0 && got == count;
        for (uint32_t i = 0; *is_kept && i < count; i++) {
                struct cas_chunk_record chunk;
                struct cas_err miss = CAS_ERR_INIT;
                *is_kept = cas_index_get_chunk(ix, &out[i].chunk, &chunk, &miss) == 0 &&
                           chunk.codec == CAS_CODEC_ZSTD_KEPT;
        }
        if (rc == 0 && got != count)
                rc = cas_fail(err, CAS_E_CORRUPT, "a list of %u chunks, %u expected", got, count);
        return rc;
}

static int write_list(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        struct pack_repair *p = arg;
        struct cas_object_record rec;
        struct cas_err bad = CAS_ERR_INIT;
        struct cas_hash id;
        bool is_kept;
        if (key_len != CAS_HASH_BYTES ||
            cas_object_record_decode(value, value_len, &rec, &bad) < 0 || rec.chunk_count == 1 ||
            rec.chunk_count > CAS_OBJECT_CHUNKS_MAX ||
            is_seen(p, CAS_PACK_OBJECT, key, CAS_HASH_BYTES))
                return 0;
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        cas_cleanup_free struct cas_chunk_ref *refs =
                cas_xcalloc((size_t)rec.chunk_count + 1, sizeof(refs[0]));
        if (read_list(p->r->s->index, &id, rec.chunk_count, refs, &is_kept, &bad) < 0)
                return 0; /* objects are repaired by themselves */
        return cas_packwriter_object(&p->writer, &id, rec.size_bytes, refs, rec.chunk_count,
                                     is_kept, err);
}

static int write_layer(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct pack_repair *p = arg;
        struct cas_digest blob;
        struct cas_layer_record rec;
        struct cas_err bad = CAS_ERR_INIT;
        if (is_seen(p, CAS_PACK_LAYER, key, key_len) ||
            cas_digest_value_decode(key, key_len, &blob, &bad) < 0 ||
            cas_layer_record_decode(&blob, value, value_len, &rec, &bad) < 0)
                return 0;
        return cas_packwriter_layer(&p->writer, &rec, err);
}

static int write_recipe(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err)
{
        struct pack_repair *p = arg;
        struct cas_digest blob;
        struct cas_recipe_record rec;
        struct cas_err bad = CAS_ERR_INIT;
        if (is_seen(p, CAS_PACK_RECIPE, key, key_len) ||
            cas_digest_value_decode(key, key_len, &blob, &bad) < 0 ||
            cas_recipe_record_decode(&blob, value, value_len, &rec, &bad) < 0 || !rec.is_proved)
                return 0;
        return cas_packwriter_recipe(&p->writer, &rec, err);
}

/* What the index knows and no pack tells of any more is written again, for who makes the index anew
 * from packs. Reads every pack: only after damage that may have hit such a record. */
static int write_lost_records(struct pack_repair *p, struct cas_err *err)
{
        static const struct {
                enum cas_family family;
                cas_scan_fn write;
        } kinds[] = {{CAS_FAMILY_OBJECTS, write_list},
                     {CAS_FAMILY_LAYERS, write_layer},
                     {CAS_FAMILY_RECIPES, write_recipe}};
        struct cas_index *ix = p->r->s->index;
        struct see_packs see = {.p = p, .err = err};
        int rc = cas_index_each_pack(ix, see_pack, &see, err);
        if (rc == 0)
                rc = see.rc;
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(kinds); i++)
                rc = cas_index_scan(ix, &(struct cas_scan){.family = kinds[i].family},
                                    kinds[i].write, p, err);
        return rc;
}

/* ---- the whole ---- */

static int commit(struct pack_repair *p, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_packset *ps = p->r->s->packset;
        cas_mutex_lock(&ps->replacing);
        int rc = cas_packwriter_flush(&p->writer, batch, err);
        if (rc == 0)
                rc = cas_index_write(p->r->s->index, batch, err);
        cas_mutex_unlock(&ps->replacing);
        if (rc == 0)
                cas_packwriter_published(&p->writer);
        return rc;
}

/* One whose record is damaged, and which can be read all the same, since the index tells what it
 * must be. */
static int move_in_place(struct pack_repair *p, struct live_chunk *live, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_repair_read_chunk(p->r->s, &live->name, &bytes, &bad);
        if (rc < 0 && !cas_repair_is_damage(rc)) {
                *err = bad;
                return rc;
        }
        if (rc < 0)
                return 0;
        const struct cas_chunk_record *at = &live->at;
        const struct cas_pack_chunk chunk = {
                .chunk = live->name,
                .length_bytes = (uint32_t)bytes.len_bytes,
                .is_object = cas_repair_is_chunk(&live->name, true, bytes.data, bytes.len_bytes)};
        const struct cas_pack_item item = {.block = {.pack_id = p->pack_id,
                                                     .block_offset = at->block_offset,
                                                     .block_stored_bytes = at->block_stored_bytes,
                                                     .block_raw_bytes = at->block_raw_bytes,
                                                     .block_checksum = at->block_checksum,
                                                     .codec = at->codec},
                                           .chunks = &chunk,
                                           .chunk_count = 1};
        const struct cas_packwriter_chunk moved = {
                .name = live->name,
                .data = bytes.data,
                .length_bytes = chunk.length_bytes,
                .is_object = chunk.is_object,
                .from = {.pack_id = p->pack_id,
                         .block_offset = at->block_offset,
                         .chunk_offset = at->chunk_offset},
        };
        rc = at->codec == CAS_CODEC_ZSTD_KEPT ? move_kept(p, &item, err)
                                              : cas_packwriter_add(&p->writer, &moved, err);
        live->moved = rc == 0;
        return rc;
}

static int move_rest(struct pack_repair *p, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && p->fd >= 0 && i < p->count; i++)
                if (!p->chunks[i].moved)
                        rc = move_in_place(p, &p->chunks[i], err);
        return rc;
}

static int move_sound(struct pack_repair *p, struct cas_err *err)
{
        const struct cas_pack_salvage hooks = {.item = move_item, .damage = note_damage, .arg = p};
        p->records_lost = p->fd < 0;
        int rc = p->fd < 0 ? 0 : cas_pack_salvage(p->r->s->io, p->fd, p->pack_id, &hooks, err);
        if (rc == 0)
                rc = move_rest(p, err);
        return rc < 0 ? rc : commit(p, err);
}

/* What did not move is damaged. */
static int repair_rest(struct pack_repair *p, enum cas_repaired *out, struct cas_err *err)
{
        cas_cleanup_losses struct cas_losses l;
        cas_losses_init(&l);
        for (size_t i = 0; i < p->count; i++)
                if (!p->chunks[i].moved)
                        cas_losses_add(&l, &p->chunks[i].name, false);
        *out = p->count > 0 ? CAS_REPAIRED : CAS_NOT_NEEDED;
        return l.count > 0 ? cas_losses_settle(p->r, &l, out, err) : 0;
}

static int forget_pack(struct pack_repair *p, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_del_pack(batch, p->pack_id);
        return cas_index_write(p->r->s->index, batch, err);
}

/* Away: index first. Aside: the file first, so that it is not taken for an unknown pack. */
static int end_pack(struct pack_repair *p, bool aside, struct cas_err *err)
{
        struct cas_store *s = p->r->s;
        char name[CAS_PACK_NAME_BYTES];
        int dirfd, rc = 0;
        cas_cleanup_free char *to = cas_xasprintf("packs/%s", cas_pack_name(p->pack_id, name));
        if (aside && p->is_remote) {
                rc = p->fd >= 0 ? cas_quarantine_bytes(s, p->fd, to, err) : 0;
        } else if (aside) {
                rc = s->backend->ops->pack_dir(s->backend, p->pack_id, p->rec.tier, &dirfd, err);
                if (rc == 0)
                        rc = cas_quarantine_file(s, dirfd, name, to, err);
        }
        if (rc == 0)
                rc = forget_pack(p, err);
        if (rc < 0)
                return rc;
        if (aside && !p->is_remote)
                cas_packset_fd_drop(s->packset, p->pack_id);
        else
                rc = cas_packset_unlink(s->packset, p->pack_id, &p->rec, err);
        cas_packset_unclaim(s->packset, &p->claim, true);
        p->is_claimed = false;
        return rc;
}

/* From then on nobody writes to it. */
static int claim(struct pack_repair *p, struct cas_err *err)
{
        struct cas_packset *ps = p->r->s->packset;
        for (unsigned i = 0; i < CLAIM_TRIES; i++) {
                p->is_claimed = cas_packset_claim(ps, p->pack_id, &p->claim);
                if (p->is_claimed)
                        return 0;
                (void)nanosleep(&(struct timespec){.tv_nsec = CLAIM_PAUSE_NS}, NULL);
        }
        return cas_fail(err, CAS_E_BUSY, "it is being written to");
}

static int repair_pack(struct pack_repair *p, enum cas_repaired *out, struct cas_err *err)
{
        struct cas_err gone = CAS_ERR_INIT;
        int rc = claim(p, err);
        if (rc == 0)
                rc = cas_index_scan(p->r->s->index, &(struct cas_scan){.family = CAS_FAMILY_CHUNKS},
                                    note_chunk, p, err);
        if (rc == 0) {
                rc = cas_packset_open_pack(p->r->s->packset, p->pack_id, &p->fd, &gone);
                if (rc == -CAS_E_NOTFOUND)
                        rc = 0;
                else if (rc < 0)
                        *err = gone;
        }
        if (rc == 0)
                rc = move_sound(p, err);
        if (rc == 0)
                rc = repair_rest(p, out, err);
        if (rc == 0 && p->records_lost) {
                rc = write_lost_records(p, err);
                if (rc == 0)
                        rc = commit(p, err);
        }
        return rc < 0 ? rc : end_pack(p, *out == CAS_QUARANTINED, err);
}

int cas_repair_pack(struct cas_repair *r, uint64_t pack_id, enum cas_repaired *out,
                    struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        struct cas_pack_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        cas_mutex_lock(&r->mutex);
        int rc = cas_index_get_pack(r->s->index, pack_id, &rec, &miss);
        *out = CAS_NOT_NEEDED;
        if (rc == 0) {
                __attribute__((cleanup(pack_repair_release))) struct pack_repair p = {
                        .r = r,
                        .pack_id = pack_id,
                        .rec = rec,
                        .fd = -1,
                        .by_name = cas_map_new(),
                        .seen = cas_map_new()};
                cas_packwriter_init(&p.writer, r->s->packset,
                                    cas_packstyle_of((enum cas_pack_density)rec.density));
                p.is_remote = cas_packset_is_remote(r->s->packset, rec.tier);
                rc = repair_pack(&p, out, err);
        } else if (rc == -CAS_E_NOTFOUND) {
                rc = 0; /* it has gone since */
        } else {
                *err = miss;
        }
        cas_mutex_unlock(&r->mutex);
        return rc < 0 ? cas_err_wrap(err, "repair pack %s", cas_pack_name(pack_id, name)) : 0;
}
