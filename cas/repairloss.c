/* SPDX-License-Identifier: Apache-2.0 */
/* Losses and the sources that bring them again.
 *
 * A source mends: it publishes what was lost once more, and the batch of that publication points
 * the index to the new bytes. Nothing is written in place. Whether a source has really brought
 * something is seen by looking at it again, not by what the source says. */
#include <time.h>

#include "cas/blob.h"
#include "cas/blockcache.h"
#include "cas/condemned_int.h"
#include "cas/log.h"
#include "cas/object.h"
#include "cas/pack_int.h"
#include "cas/pins_int.h"
#include "cas/record_int.h"
#include "cas/refs_int.h"
#include "cas/repair_run_int.h"

/* ---- the list ---- */

void cas_losses_init(struct cas_losses *l)
{
        *l = (struct cas_losses){.known = cas_map_new()};
}

void cas_losses_release(struct cas_losses *l)
{
        free(l->list);
        free(l->blobs);
        cas_map_free(l->known);
}

void cas_losses_add(struct cas_losses *l, const struct cas_hash *name, bool is_list)
{
        bool made;
        (void)cas_map_put(l->known, name->bytes, CAS_HASH_BYTES, &made);
        if (!made)
                return;
        if (l->count == l->max) {
                l->max = l->max ? 2 * l->max : 16;
                l->list = cas_xrealloc(l->list, l->max * sizeof(l->list[0]));
        }
        l->list[l->count++] = (struct cas_loss){.name = *name, .is_list = is_list};
}

size_t cas_losses_left(const struct cas_losses *l)
{
        size_t left = 0;
        for (size_t i = 0; i < l->count; i++)
                left += !l->list[i].found;
        return left;
}

static void add_blob(void *arg, const struct cas_digest *blob, bool is_layer)
{
        struct cas_losses *l = arg;
        bool made;
        uint64_t *index = cas_map_put(l->known, blob, sizeof(*blob), &made);
        if (made) {
                if (l->blob_count == l->blob_max) {
                        l->blob_max = l->blob_max ? 2 * l->blob_max : 16;
                        l->blobs = cas_xrealloc(l->blobs, l->blob_max * sizeof(l->blobs[0]));
                }
                *index = l->blob_count++;
                l->blobs[*index] = (struct cas_loss_blob){.blob = *blob};
        }
        l->blobs[*index].is_layer |= is_layer;
        l->blobs[*index].is_recipe |= !is_layer;
}

int cas_losses_find_blobs(struct cas_store *s, struct cas_losses *l, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->count; i++)
                rc = l->list[i].is_list ? cas_needs_of_object(s, &l->list[i].name, add_blob, l, err)
                                        : cas_needs_of_chunk(s, &l->list[i].name, add_blob, l, err);
        return rc;
}

/* ---- looking again ---- */

/* Whether the index still asks for the chunk: the list that had it may be another one by now. */
static int is_asked_for(struct cas_store *s, const struct cas_hash *chunk, bool *out,
                        struct cas_err *err)
{
        int rc =
                cas_index_has(s->index, CAS_FAMILY_OBJECTS, chunk->bytes, CAS_HASH_BYTES, out, err);
        return rc < 0 || *out ? rc : cas_chunk_is_needed(s->index, chunk, out, err);
}

static int look_again(struct cas_store *s, struct cas_loss *loss, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err bad = CAS_ERR_INIT;
        int rc = loss->is_list ? cas_repair_look_object(s, &loss->name, NULL, &bad)
                               : cas_repair_read_chunk(s, &loss->name, &bytes, &bad);
        loss->found = rc == 0;
        if (rc < 0 && !cas_repair_is_damage(rc)) {
                *err = bad;
                return rc;
        }
        return 0;
}

static int look_at_all(struct cas_store *s, struct cas_losses *l, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->count; i++)
                if (!l->list[i].found)
                        rc = look_again(s, &l->list[i], err);
        return rc;
}

/* ---- lists ---- */

struct list_drop {
        const struct cas_hash *object;
        struct cas_batch *batch;
        uint64_t now;
};

/* A page that cannot be read leaves references behind; a full collection finds them. */
static int drop_page(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err CAS_UNUSED)
{
        const struct list_drop *d = arg;
        struct cas_chunk_ref refs[256];
        struct cas_err malformed = CAS_ERR_INIT;
        uint32_t count = 0;
        cas_batch_del(d->batch, CAS_FAMILY_OBJECT_CHUNKS, key, key_len);
        if (value_len < sizeof(uint64_t) ||
            cas_chunk_refs_decode((const uint8_t *)value + sizeof(uint64_t),
                                  value_len - sizeof(uint64_t), refs, CAS_COUNT(refs), &count,
                                  &malformed) < 0)
                return 0;
        for (uint32_t i = 0; i < count; i++) {
                cas_batch_del_chunk_ref(d->batch, &refs[i].chunk, d->object);
                cas_batch_condemn(d->batch, CAS_CONDEMNED_CHUNK, &refs[i].chunk, d->now);
        }
        return 0;
}

int cas_losses_drop_list(struct cas_store *s, const struct cas_hash *object,
                         struct cas_batch *batch, struct cas_err *err)
{
        struct list_drop drop = {.object = object, .batch = batch, .now = (uint64_t)time(NULL)};
        const struct cas_scan scan = {.family = CAS_FAMILY_OBJECT_CHUNKS,
                                      .prefix = object->bytes,
                                      .prefix_len = CAS_HASH_BYTES};
        cas_batch_del(batch, CAS_FAMILY_OBJECTS, object->bytes, CAS_HASH_BYTES);
        return cas_index_scan(s->index, &scan, drop_page, &drop, err);
}

/* A list that cannot be read is in the way of the one that comes in its place. */
static int drop_malformed(struct cas_store *s, const struct cas_losses *l, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->count; i++) {
                cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
                struct cas_chunk_ref refs[256];
                struct cas_object_record rec;
                struct cas_err bad = CAS_ERR_INIT;
                uint32_t first = 0, count = 0;
                if (l->list[i].found || !l->list[i].is_list)
                        continue;
                int read = cas_index_get_object(s->index, &l->list[i].name, &rec, &bad);
                do {
                        if (read == 0)
                                read = cas_index_get_object_chunks(s->index, &l->list[i].name,
                                                                   first, refs, CAS_COUNT(refs),
                                                                   &count, &bad);
                        first += count;
                } while (read == 0 && count > 0);
                if (read != -CAS_E_CORRUPT)
                        continue;
                rc = cas_losses_drop_list(s, &l->list[i].name, batch, err);
                if (rc == 0)
                        rc = cas_index_write(s->index, batch, err);
        }
        return rc;
}

/* ---- mending by layers ---- */

static void mend_object(void *arg, const struct cas_hash *object)
{
        (void)cas_hashset_add(arg, object->bytes);
}

/* What a decoding is to write anew: what was lost, and lists that were cut in another way than
 * decoding cuts. */
static int fill_mend(struct cas_store *s, const struct cas_losses *l, struct cas_mend *mend,
                     struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->count; i++) {
                const struct cas_loss *loss = &l->list[i];
                if (loss->found)
                        continue;
                (void)cas_hashset_add(&mend->names, loss->name.bytes);
                if (loss->was_kept && !loss->is_list)
                        rc = cas_needs_objects(s, &loss->name, mend_object, &mend->names, err);
        }
        return rc;
}

static void mend_release(struct cas_mend *mend)
{
        cas_hashset_release(&mend->names);
}

/* Decodes a blob again. That it cannot be is no failure: there are other sources. */
static int mend_by_layer(struct cas_repair *r, struct cas_losses *l, const struct cas_digest *blob,
                         struct cas_err *err)
{
        __attribute__((cleanup(mend_release))) struct cas_mend mend = {.names = CAS_HASHSET_INIT};
        struct cas_err why = CAS_ERR_INIT;
        int rc = fill_mend(r->s, l, &mend, err);
        if (rc < 0)
                return rc;
        rc = cas_layer_mend(r->s, blob, &mend, &why);
        if (rc < 0) {
                cas_log(CAS_LOG_WARN, "repair", "layer error=\"%s\"", why.msg);
                if (rc == -CAS_E_NOSPACE || rc == -CAS_E_IO) {
                        *err = why;
                        return rc;
                }
        }
        return look_at_all(r->s, l, err);
}

/* Blobs of which the very bytes are here: what is made from recipes needs what was lost. */
static int from_layers(struct cas_repair *r, struct cas_losses *l, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->blob_count && cas_losses_left(l) > 0; i++) {
                enum cas_blob_copy copy;
                struct cas_err gone = CAS_ERR_INIT;
                if (!l->blobs[i].is_layer ||
                    cas_blob_copy(r->s, &l->blobs[i].blob, &copy, &gone) < 0 ||
                    copy == CAS_BLOB_CONDENSED)
                        continue;
                rc = mend_by_layer(r, l, &l->blobs[i].blob, err);
        }
        return rc;
}

static int from_upstream(struct cas_repair *r, struct cas_losses *l, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->blob_count && cas_losses_left(l) > 0; i++) {
                bool found = false;
                if (!l->blobs[i].is_layer)
                        continue;
                rc = cas_repair_fetch(r, &l->blobs[i].blob, &found, err);
                if (rc == 0 && found)
                        rc = mend_by_layer(r, l, &l->blobs[i].blob, err);
        }
        return rc;
}

/* ---- other blocks of packs ---- */

struct pack_search {
        struct cas_repair *r;
        struct cas_losses *l;
        struct cas_map *places; /* name of a chunk to its number in the list */
        struct cas_packwriter writer;
        struct cas_batch *batch;
        int fd;
        struct cas_buf block, scratch;
        uint64_t *packs; /* owned */
        size_t pack_count, pack_max;
};

static void search_release(struct pack_search *p)
{
        cas_packwriter_release(&p->writer);
        cas_map_free(p->places);
        cas_batch_free(p->batch);
        cas_buf_release(&p->block);
        cas_buf_release(&p->scratch);
        free(p->packs);
}

static struct cas_loss *loss_of(struct pack_search *p, const struct cas_hash *name)
{
        const uint64_t *index = cas_map_get(p->places, name->bytes, CAS_HASH_BYTES);
        return index ? &p->l->list[*index] : NULL;
}

static bool is_wanted(struct pack_search *p, const struct cas_pack_item *item,
                      const struct cas_pack_chunk *chunk)
{
        const struct cas_loss *loss = loss_of(p, &chunk->chunk);
        /* One that was kept as a frame is wanted so, even where another was found. */
        return loss && !loss->is_list &&
               (!loss->found || (loss->was_kept && item->block.codec == CAS_CODEC_ZSTD_KEPT));
}

static int take_chunk(struct pack_search *p, const struct cas_pack_item *item,
                      const struct cas_pack_chunk *chunk, struct cas_err *err)
{
        struct cas_loss *loss = loss_of(p, &chunk->chunk);
        const struct cas_packwriter_chunk found = {.name = chunk->chunk,
                                                   .data = p->block.data + chunk->chunk_offset,
                                                   .length_bytes = chunk->length_bytes,
                                                   .is_object = chunk->is_object,
                                                   .from = loss->from};
        int rc;
        if (!cas_repair_is_chunk(&chunk->chunk, chunk->is_object, found.data, found.length_bytes))
                return 0;
        if (item->block.codec == CAS_CODEC_ZSTD_KEPT) {
                cas_buf_clear(&p->scratch);
                cas_buf_reserve(&p->scratch, item->block.block_stored_bytes);
                rc = cas_io_pread_exact(p->r->s->io, p->fd, p->scratch.data,
                                        item->block.block_stored_bytes, item->block.block_offset,
                                        "pack", err);
                if (rc == 0)
                        rc = cas_packwriter_add_kept(&p->writer, &found, p->scratch.data,
                                                     item->block.block_stored_bytes, err);
                loss->was_kept = false;
        } else {
                rc = cas_packwriter_add(&p->writer, &found, err);
        }
        loss->found = rc == 0;
        return rc;
}

static int search_block(struct pack_search *p, const struct cas_pack_item *item,
                        struct cas_err *err)
{
        struct cas_err bad = CAS_ERR_INIT;
        bool wanted = false;
        for (uint32_t i = 0; i < item->chunk_count && !wanted; i++)
                wanted = is_wanted(p, item, &item->chunks[i]);
        if (!wanted)
                return 0;
        cas_buf_clear(&p->block);
        cas_buf_reserve(&p->block, item->block.block_raw_bytes);
        if (cas_block_read(p->fd, &item->block, p->block.data, &p->scratch, &bad) < 0)
                return 0; /* damaged as well */
        int rc = 0;
        for (uint32_t i = 0; rc == 0 && i < item->chunk_count; i++)
                if (is_wanted(p, item, &item->chunks[i]))
                        rc = take_chunk(p, item, &item->chunks[i], err);
        return rc;
}

/* Another list of an object. Whether its chunks are there is seen when it is looked at. */
static int search_list(struct pack_search *p, const struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_loss *loss = loss_of(p, &item->object);
        if (!loss || !loss->is_list || loss->found)
                return 0;
        int rc = cas_losses_drop_list(p->r->s, &item->object, p->batch, err);
        if (rc < 0)
                return rc;
        cas_batch_put_object(p->batch, &item->object, item->object_bytes, item->refs,
                             item->ref_count);
        for (uint32_t i = 0; i < item->ref_count; i++)
                cas_batch_put_chunk_ref(p->batch, &item->refs[i].chunk, &item->object);
        /* Written at once: the next list of the object takes its place. */
        rc = cas_index_write(p->r->s->index, p->batch, err);
        return rc < 0 ? rc : look_again(p->r->s, loss, err);
}

static int search_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        if (item->kind == CAS_PACK_OBJECT)
                return search_list(arg, item, err);
        return item->kind == CAS_PACK_BLOCK ? search_block(arg, item, err) : 0;
}

static bool note_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec CAS_UNUSED)
{
        struct pack_search *p = arg;
        if (p->pack_count == p->pack_max) {
                p->pack_max = p->pack_max ? 2 * p->pack_max : 64;
                p->packs = cas_xrealloc(p->packs, p->pack_max * sizeof(p->packs[0]));
        }
        p->packs[p->pack_count++] = pack_id;
        return true;
}

static int search_pack(struct pack_search *p, uint64_t pack_id, struct cas_err *err)
{
        const struct cas_pack_salvage hooks = {.item = search_item, .arg = p};
        struct cas_err gone = CAS_ERR_INIT;
        if (cas_packset_open_pack(p->r->s->packset, pack_id, &p->fd, &gone) < 0)
                return 0;
        int rc = cas_pack_salvage(p->r->s->io, p->fd, pack_id, &hooks, &gone);
        (void)close(p->fd);
        if (rc == 0 || rc == -CAS_E_UNSUPPORTED)
                return 0;
        *err = gone;
        return rc;
}

static int commit_search(struct pack_search *p, struct cas_err *err)
{
        struct cas_packset *ps = p->r->s->packset;
        cas_mutex_lock(&ps->replacing);
        int rc = cas_packwriter_flush(&p->writer, p->batch, err);
        if (rc == 0)
                rc = cas_index_write(p->r->s->index, p->batch, err);
        cas_mutex_unlock(&ps->replacing);
        if (rc == 0)
                cas_packwriter_published(&p->writer);
        return rc;
}

static int from_packs(struct cas_repair *r, struct cas_losses *l, struct cas_err *err)
{
        __attribute__((cleanup(search_release))) struct pack_search p = {
                .r = r, .l = l, .places = cas_map_new(), .batch = cas_batch_new()};
        cas_packwriter_init(&p.writer, r->s->packset, &cas_packstyle_fast);
        for (size_t i = 0; i < l->count; i++)
                if (!l->list[i].found)
                        *cas_map_put(p.places, l->list[i].name.bytes, CAS_HASH_BYTES, NULL) = i;
        int rc = cas_index_each_pack(r->s->index, note_pack, &p, err);
        for (size_t i = 0; rc == 0 && i < p.pack_count; i++)
                rc = search_pack(&p, p.packs[i], err);
        if (rc == 0)
                rc = commit_search(&p, err);
        for (size_t i = 0; i < l->count; i++) /* what was found is believed when it is seen */
                if (cas_map_get(p.places, l->list[i].name.bytes, CAS_HASH_BYTES))
                        l->list[i].found = false;
        return rc < 0 ? rc : look_at_all(r->s, l, err);
}

/* ---- all of them ---- */

/* In this order: what is cheap first. */
static const struct {
        const char *name;
        int (*bring)(struct cas_repair *r, struct cas_losses *l, struct cas_err *err);
} sources[] = {
        {"the blob of a layer", from_layers},
        {"another block", from_packs},
        {"an upstream", from_upstream},
};

/* What the index has of each at this moment. */
static int note_places(struct cas_store *s, struct cas_losses *l, struct cas_err *err)
{
        for (size_t i = 0; i < l->count; i++) {
                struct cas_loss *loss = &l->list[i];
                struct cas_chunk_record rec;
                struct cas_err miss = CAS_ERR_INIT;
                loss->from = (struct cas_chunk_place){0};
                if (loss->is_list)
                        continue;
                int rc = cas_index_get_chunk(s->index, &loss->name, &rec, &miss);
                if (rc < 0 && !cas_repair_is_damage(rc)) {
                        *err = miss;
                        return rc;
                }
                if (rc < 0)
                        continue;
                loss->was_kept = rec.codec == CAS_CODEC_ZSTD_KEPT;
                loss->from = (struct cas_chunk_place){.pack_id = rec.pack_id,
                                                      .block_offset = rec.block_offset,
                                                      .chunk_offset = rec.chunk_offset};
        }
        return 0;
}

/* A chunk that no list has any more needs no bytes. */
static int drop_unasked(struct cas_store *s, struct cas_losses *l, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = 0;
        cas_gate_close(s); /* who is about to ask for one has pinned it */
        for (size_t i = 0; rc == 0 && i < l->count; i++) {
                struct cas_loss *loss = &l->list[i];
                bool asked = true;
                if (loss->found || loss->is_list || cas_chunk_is_pinned(s, &loss->name))
                        continue;
                rc = is_asked_for(s, &loss->name, &asked, err);
                if (rc == 0 && !asked) {
                        cas_batch_del_chunk(batch, &loss->name);
                        loss->found = true;
                }
        }
        if (rc == 0 && cas_batch_bytes(batch) > 0)
                rc = cas_index_write(s->index, batch, err);
        cas_gate_open(s);
        return rc;
}

int cas_losses_repair(struct cas_repair *r, struct cas_losses *l, struct cas_err *err)
{
        cas_blockcache_clear(r->s->blocks);
        int rc = look_at_all(r->s, l, err);
        if (rc == 0)
                rc = drop_unasked(r->s, l, err);
        if (rc == 0)
                rc = drop_malformed(r->s, l, err);
        if (rc == 0)
                rc = note_places(r->s, l, err);
        if (rc == 0)
                rc = cas_losses_find_blobs(r->s, l, err);
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(sources) && cas_losses_left(l) > 0; i++) {
                size_t before = cas_losses_left(l);
                rc = sources[i].bring(r, l, err);
                if (rc == 0)
                        rc = drop_unasked(r->s, l, err);
                if (rc == 0 && cas_losses_left(l) < before)
                        cas_log(CAS_LOG_INFO, "repair", "repaired=%zu from=\"%s\"",
                                before - cas_losses_left(l), sources[i].name);
        }
        return rc;
}

static int tell_left(struct cas_repair *r, const struct cas_losses *left, struct cas_err *err)
{
        cas_cleanup_free struct cas_digest *blobs =
                cas_xcalloc(left->blob_count + 1, sizeof(blobs[0]));
        char hex[CAS_HASH_HEX_BYTES];
        size_t count = 0;
        int rc = 0;
        for (size_t i = 0; i < left->blob_count; i++)
                if (!left->blobs[i].is_whole)
                        blobs[count++] = left->blobs[i].blob;
        for (size_t i = 0; rc == 0 && i < left->count; i++)
                rc = cas_needs_tell(r, left->list[i].is_list ? "object" : "chunk",
                                    cas_hash_hex(&left->list[i].name, hex), blobs, count, err);
        return rc;
}

/* Blobs whose recipes need what is gone: another way to have them may be there. *lost: of one there
 * is none, or files of a layer are gone. */
static int settle_recipes(struct cas_repair *r, struct cas_losses *left, bool *lost,
                          struct cas_err *err)
{
        int rc = 0;
        *lost = left->blob_count == 0;
        for (size_t i = 0; rc == 0 && i < left->blob_count; i++) {
                enum cas_repaired how = CAS_REPAIRED;
                if (left->blobs[i].is_recipe)
                        rc = cas_repair_recipe_blob(r, &left->blobs[i].blob, &how, err);
                left->blobs[i].is_whole = !left->blobs[i].is_layer && how == CAS_REPAIRED;
                *lost = *lost || !left->blobs[i].is_whole;
        }
        return rc;
}

int cas_losses_settle(struct cas_repair *r, struct cas_losses *l, enum cas_repaired *out,
                      struct cas_err *err)
{
        cas_cleanup_losses struct cas_losses left;
        bool lost = false;
        cas_losses_init(&left);
        int rc = cas_losses_repair(r, l, err);
        *out = CAS_REPAIRED;
        for (size_t i = 0; i < l->count; i++)
                if (!l->list[i].found)
                        cas_losses_add(&left, &l->list[i].name, l->list[i].is_list);
        if (rc < 0 || left.count == 0)
                return rc;
        rc = cas_losses_find_blobs(r->s, &left, err);
        if (rc == 0)
                rc = cas_quarantine_losses(r->s, &left, err);
        if (rc == 0)
                rc = settle_recipes(r, &left, &lost, err);
        if (rc < 0 || !lost)
                return rc;
        *out = CAS_QUARANTINED;
        return tell_left(r, &left, err);
}
