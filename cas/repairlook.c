/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at what may be damaged: from the disk, past every cache, and by digest alone. */
#include <fcntl.h>

#include "cas/codec.h"
#include "cas/object.h"
#include "cas/repair_run_int.h"
#include "cas/verity.h"

#define REFS_AT_ONCE 256
#define READ_BYTES (256 * CAS_KIB)

bool cas_repair_is_damage(int rc)
{
        return rc == -CAS_E_CORRUPT || rc == -CAS_E_NOTFOUND || rc == -CAS_E_LIMIT;
}

bool cas_repair_is_chunk(const struct cas_hash *name, bool is_object, const void *data, size_t len)
{
        struct cas_hash got;
        if (is_object)
                cas_verity_of(data, len, &got);
        else
                cas_sha256(data, len, &got);
        return cas_hash_equal(&got, name);
}

/* ---- chunks ---- */

struct disk_block {
        const struct cas_extent *extent;
        uint8_t *raw;
        struct cas_buf *scratch;
};

static int read_disk_block(void *arg, int fd, struct cas_err *err)
{
        const struct disk_block *b = arg;
        return cas_block_read(fd, b->extent, b->raw, b->scratch, err);
}

static int read_block(struct cas_store *s, const struct cas_chunk_record *rec, uint8_t *raw,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        const struct cas_extent extent = {.length_bytes = rec->length_bytes,
                                          .chunk_offset = rec->chunk_offset,
                                          .pack_id = rec->pack_id,
                                          .block_offset = rec->block_offset,
                                          .block_stored_bytes = rec->block_stored_bytes,
                                          .block_raw_bytes = rec->block_raw_bytes,
                                          .block_checksum = rec->block_checksum,
                                          .codec = rec->codec};
        struct disk_block block = {.extent = &extent, .raw = raw, .scratch = &scratch};
        struct cas_packfd fd;
        int rc = cas_packset_fd_get(s->packset, rec->pack_id, &fd, err);
        if (rc < 0)
                return rc;
        const bool is_remote = fd.fd < 0;
        if (!is_remote)
                rc = read_disk_block(&block, fd.fd, err);
        cas_packset_fd_put(s->packset, &fd);
        /* What cannot be had but by blocks is looked at as readers do. */
        return is_remote ? cas_packset_read(s->packset, rec->pack_id, rec->block_offset,
                                            rec->block_stored_bytes, read_disk_block, &block, err)
                         : rc;
}

int cas_repair_read_chunk(struct cas_store *s, const struct cas_hash *name, struct cas_buf *buf,
                          struct cas_err *err)
{
        struct cas_chunk_record rec;
        char hex[CAS_HASH_HEX_BYTES];
        int rc = cas_index_get_chunk(s->index, name, &rec, err);
        if (rc < 0)
                return rc;
        if (rec.block_raw_bytes == 0 || rec.block_raw_bytes > CAS_BLOCK_BYTES_MAX ||
            rec.length_bytes == 0 || rec.length_bytes > CAS_CHUNK_BYTES_MAX ||
            rec.chunk_offset > rec.block_raw_bytes ||
            rec.length_bytes > rec.block_raw_bytes - rec.chunk_offset)
                return cas_fail(err, CAS_E_CORRUPT, "chunk %s: its record is out of range",
                                cas_hash_hex(name, hex));
        cas_cleanup_free uint8_t *raw = cas_xmalloc(rec.block_raw_bytes);
        rc = read_block(s, &rec, raw, err);
        if (rc < 0)
                return rc;
        const uint8_t *data = raw + rec.chunk_offset;
        if (!cas_repair_is_chunk(name, false, data, rec.length_bytes) &&
            !cas_repair_is_chunk(name, true, data, rec.length_bytes))
                return cas_fail(err, CAS_E_CORRUPT, "chunk %s: its bytes have another digest",
                                cas_hash_hex(name, hex));
        cas_buf_clear(buf);
        cas_buf_append(buf, data, rec.length_bytes);
        return 0;
}

/* ---- objects ---- */

struct look {
        struct cas_store *s;
        const struct cas_hash *object;
        struct cas_losses *losses; /* may be NULL */
        struct cas_verity *verity;
        struct cas_buf chunk;
        uint64_t size_bytes;
        bool damaged;       /* chunks of it */
        struct cas_err why; /* of the first */
};

static void look_release(struct look *k)
{
        cas_verity_free(k->verity);
        cas_buf_release(&k->chunk);
}

static int look_chunk(struct look *k, const struct cas_chunk_ref *ref, struct cas_err *err)
{
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_repair_read_chunk(k->s, &ref->chunk, &k->chunk, &bad);
        if (rc == 0 && k->chunk.len_bytes != ref->length_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "a chunk has %zu bytes, the list says %u",
                                k->chunk.len_bytes, ref->length_bytes);
        if (rc == 0) {
                k->size_bytes += ref->length_bytes;
                cas_verity_update(k->verity, k->chunk.data, k->chunk.len_bytes);
                return 0;
        }
        if (!cas_repair_is_damage(rc)) {
                *err = bad;
                return rc;
        }
        if (k->losses)
                cas_losses_add(k->losses, &ref->chunk, false);
        if (!k->damaged)
                k->why = bad;
        k->damaged = true;
        return 0;
}

static int look_list(struct look *k, struct cas_err *err)
{
        struct cas_chunk_ref refs[REFS_AT_ONCE];
        uint32_t first = 0, count;
        do {
                int rc = cas_index_get_object_chunks(k->s->index, k->object, first, refs,
                                                     REFS_AT_ONCE, &count, err);
                for (uint32_t i = 0; rc == 0 && i < count; i++)
                        rc = look_chunk(k, &refs[i], err);
                if (rc < 0)
                        return rc;
                first += count;
        } while (count > 0);
        return 0;
}

/* The record and the list are right when all chunks are, and their bytes are the object. */
static int look(struct look *k, struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_hash got;
        int rc = cas_index_get_object(k->s->index, k->object, &rec, err);
        if (rc == 0 && rec.chunk_count == 1) {
                const struct cas_chunk_ref only = {.chunk = *k->object,
                                                   .length_bytes = (uint32_t)rec.size_bytes};
                rc = look_chunk(k, &only, err);
        } else if (rc == 0) {
                rc = look_list(k, err);
        }
        if (rc < 0)
                return rc;
        if (k->damaged) {
                *err = k->why;
                err->code = CAS_E_CORRUPT;
                return -CAS_E_CORRUPT;
        }
        cas_verity_final(k->verity, &got);
        if (k->size_bytes != rec.size_bytes || !cas_hash_equal(&got, k->object))
                return cas_fail(err, CAS_E_CORRUPT, "its bytes have another digest");
        return 0;
}

int cas_repair_look_object(struct cas_store *s, const struct cas_hash *object, struct cas_losses *l,
                           struct cas_err *err)
{
        __attribute__((cleanup(look_release))) struct look k = {
                .s = s, .object = object, .losses = l, .verity = cas_verity_new()};
        char hex[CAS_HASH_HEX_BYTES];
        int rc = look(&k, err);
        if (rc < 0 && cas_repair_is_damage(rc) && !k.damaged && l)
                cas_losses_add(l, object, true);
        return rc < 0 ? cas_err_wrap(err, "object %s", cas_hash_hex(object, hex)) : 0;
}

/* ---- files ---- */

int cas_repair_look_file(struct cas_store *s, const struct cas_digest *blob, uint64_t size_bytes,
                         struct cas_err *err)
{
        char path[CAS_BLOB_PATH_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free uint8_t *piece = cas_xmalloc(READ_BYTES);
        cas_cleanup_hasher struct cas_hasher *hasher =
                cas_hasher_new((enum cas_digest_alg)blob->alg);
        cas_cleanup_fd int fd = -1;
        struct cas_digest got;
        uint64_t at = 0;
        size_t len = READ_BYTES;
        cas_blob_path(blob, path);
        int rc = cas_io_open(s->io, s->dirfd, path, O_RDONLY | O_NOFOLLOW, 0, &fd, err);
        while (rc == 0 && len == READ_BYTES) {
                rc = cas_io_pread(s->io, fd, piece, READ_BYTES, at, &len, path, err);
                if (rc < 0)
                        break;
                cas_hasher_update(hasher, piece, len);
                at += len;
        }
        if (rc < 0)
                return rc;
        cas_hasher_final(hasher, &got);
        if (at != size_bytes || !cas_digest_equal(&got, blob))
                return cas_fail(err, CAS_E_CORRUPT, "blob %s: its bytes have another digest",
                                cas_digest_text(blob, text));
        return 0;
}
