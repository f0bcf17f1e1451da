/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/object.h"

#include <stdio.h>

#include "cas/blockcache.h"
#include "cas/codec.h"
#include "cas/damage_int.h"
#include "cas/kept_int.h"
#include "cas/limits.h"
#include "cas/pack_int.h"
#include "cas/packfile_int.h"
#include "cas/store_int.h"
#include "cas/verity.h"

/* Chunks of a list taken from the index at a time. */
#define REFS_AT_ONCE 128
/* A pack may be rewritten between looking a chunk up and opening the pack; twice in a row only
 * while the store is being collected again and again. */
#define LOOKUPS_MAX 4

/* Ends what is told of damage. */
#define REPAIR_HINT " (`lamina scrub --repair` looks for another copy)"

/* Goes through the chunks of an object in order. */
struct chunk_iter {
        struct cas_store *s;
        struct cas_hash id;
        struct cas_object_record object;
        uint32_t next_index;  /* of the chunk that chunk_iter_next gives */
        uint64_t next_offset; /* in the object */
        struct cas_chunk_ref refs[REFS_AT_ONCE];
        uint32_t refs_first, refs_count;
        bool torn; /* what was read of the list does not fit together: it may have been replaced */
};

static int object_wrap(struct cas_err *err, const struct cas_hash *id)
{
        char hex[CAS_HASH_HEX_BYTES];
        return cas_err_wrap(err, "object %s", cas_hash_hex(id, hex));
}

static int chunk_iter_start(struct chunk_iter *it, struct cas_store *s, const struct cas_hash *id,
                            struct cas_err *err)
{
        it->s = s;
        it->id = *id;
        it->next_index = 0;
        it->next_offset = 0;
        it->refs_first = 0;
        it->refs_count = 0;
        it->torn = false;
        return cas_index_get_object(s->index, id, &it->object, err);
}

/* Goes to the chunk number `chunk`, or that with byte `offset` (UINT64_MAX: not wanted), or to one
 * a little before. To be called before the first chunk_iter_next. */
static int chunk_iter_seek(struct chunk_iter *it, uint32_t chunk, uint64_t offset,
                           struct cas_err *err)
{
        int rc = cas_index_seek_object_chunk(it->s->index, &it->id, it->object.chunk_count, chunk,
                                             offset, &it->next_index, &it->next_offset, err);
        it->torn = rc == -CAS_E_CORRUPT;
        return rc;
}

/* The list's own sum must be the object's size: nothing else bounds it. */
static int chunk_iter_check(struct chunk_iter *it, struct cas_err *err)
{
        it->torn = it->next_offset > it->object.size_bytes ||
                   (it->next_index == it->object.chunk_count &&
                    it->next_offset != it->object.size_bytes);
        if (it->torn)
                return cas_fail(err, CAS_E_CORRUPT, "its chunks do not add up to %llu bytes",
                                (unsigned long long)it->object.size_bytes);
        return 0;
}

/* *out NULL past the end. Borrowed until the next call. *offset: where it is in the object. */
static int chunk_iter_next(struct chunk_iter *it, const struct cas_chunk_ref **out,
                           uint64_t *offset, struct cas_err *err)
{
        *out = NULL;
        if (it->next_index == it->object.chunk_count)
                return 0;
        uint32_t in_refs = it->next_index - it->refs_first;
        if (it->object.chunk_count == 1) {
                it->refs[0] = (struct cas_chunk_ref){
                        .chunk = it->id, .length_bytes = (uint32_t)it->object.size_bytes};
                in_refs = 0;
        } else if (in_refs >= it->refs_count) {
                uint64_t at = 0;
                int rc = cas_index_get_object_chunks_at(it->s->index, &it->id, it->next_index,
                                                        it->refs, REFS_AT_ONCE, &it->refs_count,
                                                        &at, err);
                if (rc < 0)
                        return rc;
                it->torn = it->refs_count == 0 || at != it->next_offset;
                if (it->torn)
                        return cas_fail(err, CAS_E_CORRUPT, "its list breaks at chunk %u of %u",
                                        it->next_index, it->object.chunk_count);
                it->refs_first = it->next_index;
                in_refs = 0;
        }
        *offset = it->next_offset;
        it->next_offset += it->refs[in_refs].length_bytes;
        it->next_index++;
        *out = &it->refs[in_refs];
        return chunk_iter_check(it, err);
}

int cas_object_stat(struct cas_store *s, const struct cas_hash *id, struct cas_object_info *out,
                    struct cas_err *err)
{
        struct cas_object_record rec;
        int rc = cas_index_get_object(s->index, id, &rec, err);
        if (rc < 0)
                return rc;
        *out = (struct cas_object_info){.size_bytes = rec.size_bytes,
                                        .chunk_count = rec.chunk_count};
        return 0;
}

/* Notes a chunk that cannot be read, and says what can be done about it. */
static int tell_damage(struct cas_store *s, const struct cas_hash *chunk, struct cas_err *err)
{
        size_t len = strlen(err->msg);
        cas_damage_note_chunk(s, chunk);
        if (!strstr(err->msg, REPAIR_HINT))
                (void)snprintf(err->msg + len, sizeof(err->msg) - len, "%s", REPAIR_HINT);
        return -(int)err->code;
}

static int chunk_extent(struct cas_store *s, const struct cas_chunk_ref *ref, uint64_t offset,
                        struct cas_extent *out, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err reason = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        int rc = cas_index_get_chunk(s->index, &ref->chunk, &rec, &reason);
        if (rc == -CAS_E_NOTFOUND)
                return cas_fail(err, CAS_E_CORRUPT, "chunk %s is missing",
                                cas_hash_hex(&ref->chunk, hex));
        if (rc < 0) {
                *err = reason;
                return rc;
        }
        if (rec.length_bytes != ref->length_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "chunk %s has %u bytes, not %u",
                                cas_hash_hex(&ref->chunk, hex), rec.length_bytes,
                                ref->length_bytes);
        *out = (struct cas_extent){
                .object_offset = offset,
                .length_bytes = rec.length_bytes,
                .chunk_offset = rec.chunk_offset,
                .pack_id = rec.pack_id,
                .block_offset = rec.block_offset,
                .block_stored_bytes = rec.block_stored_bytes,
                .block_raw_bytes = rec.block_raw_bytes,
                .block_checksum = rec.block_checksum,
                .codec = rec.codec,
        };
        return 0;
}

static int iter_extents(struct chunk_iter *it, uint32_t first_chunk, struct cas_extent *out,
                        uint32_t max, uint32_t *count, struct cas_err *err)
{
        int rc = chunk_iter_seek(it, first_chunk, UINT64_MAX, err);
        for (*count = 0; rc == 0 && *count < max;) {
                const struct cas_chunk_ref *ref;
                uint64_t offset;
                rc = chunk_iter_next(it, &ref, &offset, err);
                if (rc < 0 || !ref)
                        break;
                if (it->next_index > first_chunk)
                        rc = chunk_extent(it->s, ref, offset, &out[(*count)++], err);
        }
        return rc;
}

int cas_object_extents(struct cas_store *s, const struct cas_hash *id, uint32_t first_chunk,
                       struct cas_extent *out, uint32_t max, uint32_t *count, struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        for (unsigned i = 0; i < LOOKUPS_MAX; i++) {
                struct chunk_iter it;
                int rc = chunk_iter_start(&it, s, id, err);
                if (rc < 0)
                        return rc;
                rc = iter_extents(&it, first_chunk, out, max, count, &reason);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_CORRUPT)
                        break;
        }
        *err = reason;
        return object_wrap(err, id);
}

static int list_chunks(struct cas_store *s, const struct cas_hash *id, uint32_t first,
                       struct cas_object_chunk *out, uint32_t max, uint32_t *count,
                       uint64_t *offset, struct cas_err *err)
{
        struct chunk_iter it;
        uint64_t at = 0;
        *count = 0;
        *offset = 0;
        int rc = chunk_iter_start(&it, s, id, err);
        if (rc == 0)
                rc = chunk_iter_seek(&it, first, UINT64_MAX, err);
        while (rc == 0 && *count < max) {
                const struct cas_chunk_ref *ref;
                rc = chunk_iter_next(&it, &ref, &at, err);
                if (rc < 0 || !ref)
                        break;
                if (it.next_index <= first)
                        continue;
                if (*count == 0)
                        *offset = at;
                out[(*count)++] = (struct cas_object_chunk){ref->chunk, ref->length_bytes};
        }
        return rc;
}

int cas_object_chunks(struct cas_store *s, const struct cas_hash *id, uint32_t first,
                      struct cas_object_chunk *out, uint32_t max, uint32_t *count, uint64_t *offset,
                      struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        for (unsigned i = 0; i < LOOKUPS_MAX; i++) { /* the list may be replaced meanwhile */
                int rc = list_chunks(s, id, first, out, max, count, offset, &reason);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_CORRUPT)
                        break;
        }
        *err = reason;
        return object_wrap(err, id);
}

int cas_pack_open_fd(struct cas_store *s, uint64_t pack_id, int *out_fd, struct cas_err *err)
{
        struct cas_pack_record rec;
        char name[CAS_PACK_NAME_BYTES];
        int rc = cas_packset_open_home(s->packset, pack_id, out_fd, &rec, err);
        if (rc == 0 && *out_fd < 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "pack %s has no file here",
                                cas_pack_name(pack_id, name));
        return rc;
}

struct block_read {
        struct cas_store *s;
        const struct cas_extent *extent;
        struct cas_block *block;
};

static int read_block(void *arg, int fd, struct cas_err *err)
{
        struct block_read *r = arg;
        return cas_blockcache_get(r->s->blocks, fd, r->extent, &r->block, err);
}

/* The decoded block of an extent. Errors: NOTFOUND when its pack is gone. */
static int extent_block(struct cas_store *s, const struct cas_extent *extent,
                        struct cas_block **out, struct cas_err *err)
{
        struct block_read r = {.s = s, .extent = extent};
        *out = cas_blockcache_find(s->blocks, extent);
        if (*out)
                return 0;
        int rc = cas_packset_read(s->packset, extent->pack_id, extent->block_offset,
                                  extent->block_stored_bytes, read_block, &r, err);
        *out = r.block;
        return rc;
}

/* The decoded block that holds a chunk, wherever it has moved to. */
static int chunk_block(struct cas_store *s, const struct cas_chunk_ref *ref,
                       struct cas_extent *extent, struct cas_block **out, struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        for (unsigned i = 0; i < LOOKUPS_MAX; i++) {
                int rc = chunk_extent(s, ref, 0, extent, &reason);
                if (rc == 0)
                        rc = extent_block(s, extent, out, &reason);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_NOTFOUND)
                        break;
        }
        *err = reason;
        if (err->code == CAS_E_NOTFOUND)
                err->code = CAS_E_CORRUPT; /* the object is there, what it is made of is not */
        return err->code == CAS_E_CORRUPT ? tell_damage(s, &ref->chunk, err) : -(int)err->code;
}

int cas_chunk_find(struct cas_store *s, const struct cas_hash *name, uint32_t length_bytes,
                   bool *out, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_chunk(s->index, name, &rec, &miss);
        *out = rc == 0 && rec.length_bytes == length_bytes;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

int cas_chunk_read(struct cas_store *s, const struct cas_hash *name, uint32_t length_bytes,
                   void *out, struct cas_err *err)
{
        const struct cas_chunk_ref ref = {.chunk = *name, .length_bytes = length_bytes};
        struct cas_chunk_record rec;
        struct cas_extent extent;
        struct cas_block *block;
        char hex[CAS_HASH_HEX_BYTES];
        int rc = cas_index_get_chunk(s->index, name, &rec, err);
        if (rc < 0)
                return rc;
        if (rec.length_bytes != length_bytes)
                return cas_fail(err, CAS_E_NOTFOUND, "chunk %s has %u bytes, not %u",
                                cas_hash_hex(name, hex), rec.length_bytes, length_bytes);
        rc = chunk_block(s, &ref, &extent, &block, err);
        if (rc < 0)
                return rc;
        memcpy(out, block->data + extent.chunk_offset, length_bytes);
        cas_blockcache_put(s->blocks, block);
        return 0;
}

/* ---- kept frames ---- */

/* The record of a block that is a kept frame: the index has no sum of the frame's own bytes. */
struct frame_read {
        struct cas_store *s;
        const struct cas_chunk_record *rec;
        uint64_t offset; /* of the record */
        size_t bytes;
        struct cas_buf *out;
};

static int read_frame_record(void *arg, int fd, struct cas_err *err)
{
        const struct frame_read *r = arg;
        int rc = cas_io_pread_exact(r->s->io, fd, r->out->data, r->bytes, r->offset, "pack", err);
        if (rc < 0)
                return rc;
        if (!cas_pack_kept_is_sound(r->out->data, r->rec->block_stored_bytes, r->offset))
                return cas_fail(err, CAS_E_CORRUPT, "pack %016llx, frame at %llu is damaged",
                                (unsigned long long)r->rec->pack_id,
                                (unsigned long long)r->rec->block_offset);
        return 0;
}

static int read_frame(struct cas_store *s, const struct cas_chunk_record *rec, struct cas_buf *out,
                      struct cas_err *err)
{
        const size_t head = cas_pack_block_frame(1), bytes = head + rec->block_stored_bytes;
        if (rec->block_offset < head)
                return cas_fail(err, CAS_E_CORRUPT, "a block at byte %llu",
                                (unsigned long long)rec->block_offset);
        struct frame_read r = {
                .s = s, .rec = rec, .offset = rec->block_offset - head, .bytes = bytes, .out = out};
        cas_buf_clear(out);
        cas_buf_reserve(out, bytes);
        int rc = cas_packset_read(s->packset, rec->pack_id, r.offset, (uint32_t)bytes,
                                  read_frame_record, &r, err);
        if (rc < 0)
                return rc;
        memmove(out->data, out->data + head, rec->block_stored_bytes);
        out->len_bytes = rec->block_stored_bytes;
        return 0;
}

int cas_chunk_frame(struct cas_store *s, const struct cas_hash *chunk, struct cas_buf *out,
                    bool *is_kept, struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        for (unsigned i = 0; i < LOOKUPS_MAX; i++) {
                struct cas_chunk_record rec;
                int rc = cas_index_get_chunk(s->index, chunk, &rec, &reason);
                *is_kept = rc == 0 && rec.codec == CAS_CODEC_ZSTD_KEPT &&
                           rec.block_stored_bytes <= CAS_KEPT_STORED_BYTES_MAX(CAS_CHUNK_BYTES_MAX);
                if (rc == -CAS_E_NOTFOUND || (rc == 0 && !*is_kept))
                        return 0;
                if (rc == 0)
                        rc = read_frame(s, &rec, out, &reason);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_NOTFOUND)
                        break;
        }
        *err = reason;
        if (err->code == CAS_E_NOTFOUND)
                err->code = CAS_E_CORRUPT;
        if (err->code == CAS_E_CORRUPT)
                (void)tell_damage(s, chunk, err);
        return cas_err_wrap(err, "chunk %s", cas_hash_hex(chunk, hex));
}

/* The name of a chunk of an object. */
static int chunk_name(struct cas_store *s, const struct cas_hash *id, uint32_t chunk,
                      struct cas_hash *out, struct cas_err *err)
{
        struct cas_object_record object;
        struct cas_chunk_ref ref = {.chunk = *id};
        uint32_t count = chunk == 0;
        int rc = cas_index_get_object(s->index, id, &object, err);
        if (rc < 0)
                return rc;
        if (object.chunk_count != 1 &&
            cas_index_get_object_chunks(s->index, id, chunk, &ref, 1, &count, err) < 0)
                return -(int)err->code;
        if (count == 0)
                return cas_fail(err, CAS_E_CORRUPT, "it has no chunk %u", chunk);
        *out = ref.chunk;
        return 0;
}

int cas_object_frame(struct cas_store *s, const struct cas_hash *id, uint32_t chunk,
                     struct cas_buf *out, struct cas_err *err)
{
        struct cas_hash name;
        bool is_kept = false;
        int rc = chunk_name(s, id, chunk, &name, err);
        if (rc == 0)
                rc = cas_chunk_frame(s, &name, out, &is_kept, err);
        if (rc == 0 && !is_kept)
                rc = cas_fail(err, CAS_E_CORRUPT, "chunk %u is no kept frame", chunk);
        return rc < 0 ? object_wrap(err, id) : 0;
}

/* ---- content ---- */

typedef int (*piece_fn)(void *arg, const void *data, size_t len, struct cas_err *err);

/* Gives the bytes from *start to end, in order, in pieces; *start is how far it came. */
static int each_chunk(struct chunk_iter *it, uint64_t *start, uint64_t end, piece_fn fn, void *arg,
                      struct cas_err *err)
{
        while (*start < end) {
                const struct cas_chunk_ref *ref;
                struct cas_extent extent;
                struct cas_block *block;
                uint64_t offset;
                int rc = chunk_iter_next(it, &ref, &offset, err);
                if (rc < 0)
                        return rc;
                if (!ref) /* the sizes agree, so this is not reached by data */
                        return cas_fail(err, CAS_E_CORRUPT, "its list is too short");
                if (offset + ref->length_bytes <= *start)
                        continue;
                rc = chunk_block(it->s, ref, &extent, &block, err);
                it->torn = rc == -CAS_E_CORRUPT; /* gone with the list, perhaps */
                if (rc < 0)
                        return rc;
                uint64_t skip = *start - offset;
                uint64_t n = cas_min_u64(ref->length_bytes - skip, end - *start);
                rc = fn(arg, block->data + extent.chunk_offset + skip, n, err);
                cas_blockcache_put(it->s->blocks, block);
                if (rc < 0)
                        return rc;
                *start += n;
        }
        return 0;
}

/* The same from a fresh iterator on, also while the list is replaced. */
static int each_piece(struct chunk_iter *it, uint64_t start, uint64_t end, piece_fn fn, void *arg,
                      struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        for (unsigned i = 1;; i++) {
                int rc = chunk_iter_seek(it, UINT32_MAX, start, &reason);
                if (rc == 0)
                        rc = each_chunk(it, &start, end, fn, arg, &reason);
                if (rc == 0)
                        return 0;
                if (!it->torn || i == LOOKUPS_MAX)
                        break;
                const uint64_t size_bytes = it->object.size_bytes;
                if (chunk_iter_start(it, it->s, &it->id, err) < 0)
                        return -(int)err->code;
                if (it->object.size_bytes != size_bytes)
                        break;
        }
        *err = reason;
        return -(int)err->code;
}

static int copy_piece(void *arg, const void *data, size_t len, struct cas_err *err CAS_UNUSED)
{
        uint8_t **out = arg;
        memcpy(*out, data, len);
        *out += len;
        return 0;
}

int cas_object_pread(struct cas_store *s, const struct cas_hash *id, uint64_t offset, void *buf,
                     size_t len, size_t *out_len, struct cas_err *err)
{
        struct chunk_iter it;
        uint8_t *at = buf;
        int rc = chunk_iter_start(&it, s, id, err);
        if (rc < 0)
                return rc;
        if (offset > it.object.size_bytes)
                offset = it.object.size_bytes;
        len = cas_min_u64(len, it.object.size_bytes - offset);
        rc = each_piece(&it, offset, offset + len, copy_piece, &at, err);
        if (rc < 0)
                return object_wrap(err, id);
        *out_len = len;
        return 0;
}

struct verified {
        struct cas_verity *verity;
        piece_fn fn;
        void *arg;
};

static int verified_piece(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct verified *v = arg;
        cas_verity_update(v->verity, data, len);
        return v->fn(v->arg, data, len, err);
}

static int each_verified(struct chunk_iter *it, piece_fn fn, void *arg, struct cas_err *err)
{
        cas_cleanup_verity struct cas_verity *verity = cas_verity_new();
        struct verified v = {.verity = verity, .fn = fn, .arg = arg};
        struct cas_hash digest;
        int rc = each_piece(it, 0, it->object.size_bytes, verified_piece, &v, err);
        if (rc < 0)
                return rc;
        cas_verity_final(verity, &digest);
        if (!cas_hash_equal(&digest, &it->id))
                return cas_fail(err, CAS_E_CORRUPT, "its bytes have another digest");
        return 0;
}

int cas_object_each(struct cas_store *s, const struct cas_hash *id,
                    int (*fn)(void *arg, const void *data, size_t len, struct cas_err *err),
                    void *arg, struct cas_err *err)
{
        struct chunk_iter it;
        int rc = chunk_iter_start(&it, s, id, err);
        if (rc < 0)
                return rc;
        rc = each_verified(&it, fn, arg, err);
        return rc < 0 ? object_wrap(err, id) : 0;
}

static int append_piece(void *arg, const void *data, size_t len, struct cas_err *err CAS_UNUSED)
{
        cas_buf_append(arg, data, len);
        return 0;
}

int cas_object_read(struct cas_store *s, const struct cas_hash *id, size_t max_bytes,
                    struct cas_buf *out, struct cas_err *err)
{
        struct chunk_iter it;
        size_t before = out->len_bytes;
        int rc = chunk_iter_start(&it, s, id, err);
        if (rc < 0)
                return rc;
        if (it.object.size_bytes > max_bytes)
                rc = cas_fail(err, CAS_E_LIMIT, "%llu bytes, more than %zu",
                              (unsigned long long)it.object.size_bytes, max_bytes);
        if (rc == 0)
                rc = cas_buf_try_reserve(out, it.object.size_bytes, before + max_bytes, err);
        if (rc == 0)
                rc = each_verified(&it, append_piece, out, err);
        if (rc < 0) {
                out->len_bytes = before;
                return object_wrap(err, id);
        }
        return 0;
}
