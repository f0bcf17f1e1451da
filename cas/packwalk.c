/* SPDX-License-Identifier: Apache-2.0 */
/* Walking a pack file. Its bytes are not trusted: every length is checked
 * against a limit and against the file before memory is asked for. */
#include <errno.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "cas/codec.h"
#include "cas/pack_int.h"

#define READ_STEP_BYTES (1 * CAS_MIB)
/* After so many beginnings of records that are none, content imitates records: no more is tried. */
#define FALSE_RECORDS_MAX 256
/* Bytes of tables that are hashed in vain while records behind damage are looked for. */
#define SALVAGE_TRIED_BYTES_MAX (1 * CAS_GIB)

struct walk {
        const struct cas_io *io;
        int fd;
        uint64_t pack_id;
        uint32_t version;
        uint64_t file_bytes;
        char what[CAS_PACK_NAME_BYTES];
        struct cas_buf buf; /* bytes of the file from base_offset on */
        uint64_t base_offset;
        struct cas_pack_chunk *chunks; /* grown as blocks need it */
        uint32_t chunks_max;
        struct cas_chunk_ref *refs;
        uint32_t refs_max;
        /* footer of a sealed pack */
        bool sealed;
        uint64_t footer_offset;
        struct cas_pack_entry *entries;
        uint32_t entry_count;
};

static void walk_release(struct walk *w)
{
        cas_buf_release(&w->buf);
        free(w->chunks);
        free(w->refs);
        free(w->entries);
}

/* len bytes of the file at offset, borrowed until the next call. Errors: CORRUPT past its end. */
static int bytes_at(struct walk *w, uint64_t offset, uint64_t len, const uint8_t **out,
                    struct cas_err *err)
{
        if (offset > w->file_bytes || len > w->file_bytes - offset)
                return cas_fail(err, CAS_E_CORRUPT, "offset %llu: ends within a record",
                                (unsigned long long)offset);
        if (offset < w->base_offset || offset + len > w->base_offset + w->buf.len_bytes) {
                size_t want =
                        cas_min_u64(cas_max_u64(len, READ_STEP_BYTES), w->file_bytes - offset);
                cas_buf_clear(&w->buf);
                int rc = cas_buf_try_reserve(&w->buf, want, want, err);
                if (rc < 0)
                        return rc;
                rc = cas_io_pread_exact(w->io, w->fd, w->buf.data, want, offset, w->what, err);
                if (rc < 0)
                        return rc;
                w->base_offset = offset;
                w->buf.len_bytes = want;
        }
        *out = w->buf.data + (offset - w->base_offset);
        return 0;
}

struct head {
        uint64_t offset;
        unsigned kind, codec;
        uint32_t table_bytes, count, stored_bytes, raw_bytes;
        uint64_t raw_checksum, stored_checksum, size;
};

static int bad_record(const struct head *h, const char *why, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "offset %llu: %s", (unsigned long long)h->offset, why);
}

/* The length that the table of a record of that kind and count must have; 0: none is right. */
static uint64_t table_bytes_of(const struct head *h)
{
        switch (h->kind) {
        case CAS_PACK_BLOCK:
                return h->count > CAS_BLOCK_CHUNKS_MAX ? 0
                                                       : (uint64_t)h->count * CAS_PACK_CHUNK_BYTES;
        case CAS_PACK_OBJECT:
                if (h->count == 1 || h->count > CAS_OBJECT_CHUNKS_MAX)
                        return 0;
                return CAS_HASH_BYTES + (uint64_t)h->count * CAS_PACK_CHUNK_BYTES;
        case CAS_PACK_LAYER:
                return h->count == 0 ? CAS_PACK_LAYER_BYTES : 0;
        case CAS_PACK_RECIPE:
                return h->count == 0 ? CAS_PACK_RECIPE_BYTES : 0;
        case CAS_PACK_FOOTER:
                if (h->count > CAS_PACK_RECORDS_MAX)
                        return 0;
                return CAS_HASH_BYTES + (uint64_t)h->count * CAS_PACK_ENTRY_BYTES;
        default:
                return 0;
        }
}

static bool stored_length_is_good(const struct head *h)
{
        if (h->codec == CAS_CODEC_NONE)
                return h->stored_bytes == h->raw_bytes;
        if (h->codec == CAS_CODEC_ZSTD_KEPT)
                return h->stored_bytes > 0 &&
                       h->stored_bytes <= CAS_KEPT_STORED_BYTES_MAX(h->raw_bytes);
        return h->stored_bytes > 0 && h->stored_bytes < h->raw_bytes;
}

static int check_block_head(const struct head *h, uint32_t version, struct cas_err *err)
{
        bool is_kept = h->codec == CAS_CODEC_ZSTD_KEPT;
        if (!cas_codec_is_known(h->codec) || (is_kept && version < 2))
                return bad_record(h, "codec is not known", err);
        if (is_kept && h->count != 1)
                return bad_record(h, "a kept frame of several chunks", err);
        if (h->raw_bytes == 0 || h->raw_bytes > CAS_BLOCK_BYTES_MAX)
                return bad_record(h, "decoded length is out of range", err);
        if (!stored_length_is_good(h))
                return bad_record(h, "stored length is out of range", err);
        if (h->size != 0)
                return bad_record(h, "field that must be zero is not", err);
        return 0;
}

/* Reads and checks head and table; *table is borrowed until the next read. */
static int read_head(struct walk *w, uint64_t offset, struct head *h, const uint8_t **table,
                     struct cas_err *err)
{
        const uint8_t *at;
        int rc = bytes_at(w, offset, CAS_PACK_RECORD_BYTES, &at, err);
        if (rc < 0)
                return rc;
        *h = (struct head){
                .offset = offset,
                .kind = at[4],
                .codec = at[5],
                .table_bytes = cas_get_le32(at + 8),
                .count = cas_get_le32(at + 12),
                .stored_bytes = cas_get_le32(at + 16),
                .raw_bytes = cas_get_le32(at + 20),
                .raw_checksum = cas_get_le64(at + 24),
                .stored_checksum = cas_get_le64(at + 32),
                .size = cas_get_le64(at + 40),
        };
        if (cas_get_le32(at) != CAS_PACK_RECORD_MAGIC || cas_get_le16(at + 6) != 0)
                return bad_record(h, "no record", err);
        if (h->table_bytes == 0 || table_bytes_of(h) != h->table_bytes)
                return bad_record(h, "table length does not fit kind and count", err);
        rc = bytes_at(w, offset, (uint64_t)CAS_PACK_RECORD_BYTES + h->table_bytes, &at, err);
        if (rc < 0)
                return rc;
        if (cas_pack_record_checksum(at, h->table_bytes, offset) != cas_get_le64(at + 48))
                return bad_record(h, "checksum of the record differs", err);
        *table = at + CAS_PACK_RECORD_BYTES;
        if (h->kind == CAS_PACK_BLOCK)
                return check_block_head(h, w->version, err);
        bool is_kept_list = h->kind == CAS_PACK_OBJECT && h->codec == CAS_CODEC_ZSTD_KEPT &&
                            h->count > 0 && w->version >= 2;
        if ((h->codec && !is_kept_list) || h->stored_bytes || h->raw_bytes || h->raw_checksum ||
            h->stored_checksum)
                return bad_record(h, "field that must be zero is not", err);
        return 0;
}

/* Makes room for `count` elements; sizes were checked against limits and the file. */
static int grow(void **array, uint32_t *max, uint32_t count, size_t element_bytes,
                struct cas_err *err)
{
        if (count <= *max)
                return 0;
        void *bigger = realloc(*array, (size_t)count * element_bytes);
        if (!bigger)
                return cas_fail(err, CAS_E_NOMEM, "no memory for a table of %u", count);
        *array = bigger;
        *max = count;
        return 0;
}

/* The chunks of a block by its table. */
static int block_table(struct walk *w, const struct head *h, const uint8_t *table,
                       struct cas_pack_item *item, struct cas_err *err)
{
        int rc = grow((void **)&w->chunks, &w->chunks_max, h->count, sizeof(w->chunks[0]), err);
        if (rc < 0)
                return rc;
        uint64_t raw_bytes = 0;
        for (uint32_t i = 0; i < h->count; i++, table += CAS_PACK_CHUNK_BYTES) {
                uint32_t word = cas_get_le32(table + CAS_HASH_BYTES);
                struct cas_pack_chunk *chunk = &w->chunks[i];
                memcpy(chunk->chunk.bytes, table, CAS_HASH_BYTES);
                chunk->is_object = (word & CAS_PACK_CHUNK_IS_OBJECT) != 0;
                chunk->length_bytes = word & ~CAS_PACK_CHUNK_IS_OBJECT;
                chunk->chunk_offset = (uint32_t)raw_bytes;
                if (chunk->length_bytes == 0 || chunk->length_bytes > CAS_CHUNK_BYTES_MAX)
                        return bad_record(h, "length of a chunk is out of range", err);
                raw_bytes += chunk->length_bytes;
                if (raw_bytes > h->raw_bytes)
                        break;
        }
        if (raw_bytes != h->raw_bytes)
                return bad_record(h, "chunks do not fill the block", err);
        item->chunks = w->chunks;
        item->chunk_count = h->count;
        return 0;
}

static int decode_block(struct walk *w, const struct head *h, const uint8_t *table,
                        struct cas_pack_item *item, struct cas_err *err)
{
        uint64_t frame_offset = h->offset + CAS_PACK_RECORD_BYTES + h->table_bytes;
        const uint8_t *frame;
        int rc = block_table(w, h, table, item, err);
        if (rc == 0)
                rc = bytes_at(w, frame_offset, h->stored_bytes, &frame, err);
        if (rc < 0)
                return rc;
        if (XXH3_64bits(frame, h->stored_bytes) != h->stored_checksum)
                return bad_record(h, "checksum of the stored block differs", err);
        item->block = (struct cas_extent){
                .length_bytes = h->raw_bytes,
                .pack_id = w->pack_id,
                .block_offset = frame_offset,
                .block_stored_bytes = h->stored_bytes,
                .block_raw_bytes = h->raw_bytes,
                .block_checksum = h->raw_checksum,
                .codec = (uint8_t)h->codec,
        };
        item->frame = frame;
        return 0;
}

static int decode_object(struct walk *w, const struct head *h, const uint8_t *table,
                         struct cas_pack_item *item, struct cas_err *err)
{
        int rc = grow((void **)&w->refs, &w->refs_max, h->count, sizeof(w->refs[0]), err);
        if (rc < 0)
                return rc;
        memcpy(item->object.bytes, table, CAS_HASH_BYTES);
        table += CAS_HASH_BYTES;
        uint64_t size_bytes = 0;
        for (uint32_t i = 0; i < h->count; i++, table += CAS_PACK_CHUNK_BYTES) {
                uint32_t length_bytes = cas_get_le32(table + CAS_HASH_BYTES);
                if (length_bytes == 0 || length_bytes > CAS_CHUNK_BYTES_MAX)
                        return bad_record(h, "length of a chunk is out of range", err);
                memcpy(w->refs[i].chunk.bytes, table, CAS_HASH_BYTES);
                w->refs[i].length_bytes = length_bytes;
                size_bytes += length_bytes;
        }
        if (size_bytes != h->size)
                return bad_record(h, "chunks do not fill the object", err);
        item->object_bytes = size_bytes;
        item->is_kept = h->codec == CAS_CODEC_ZSTD_KEPT;
        item->refs = h->count ? w->refs : NULL;
        item->ref_count = h->count;
        return 0;
}

static bool get_digest(const uint8_t *at, struct cas_digest *d)
{
        *d = (struct cas_digest){.alg = at[0]};
        size_t len = cas_digest_alg_bytes((enum cas_digest_alg)d->alg);
        memcpy(d->bytes, at + 1, len);
        for (size_t i = len; i < CAS_DIGEST_BYTES_MAX; i++)
                if (at[1 + i] != 0)
                        return false;
        return len > 0;
}

static int decode_layer(const struct head *h, const uint8_t *table, struct cas_pack_item *item,
                        struct cas_err *err)
{
        struct cas_layer_record *layer = &item->layer;
        if (h->size != 0 || table[191] != 0)
                return bad_record(h, "field that must be zero is not", err);
        if (!get_digest(table, &layer->blob) || !get_digest(table + 65, &layer->diff_id))
                return bad_record(h, "digest of a layer is malformed", err);
        layer->tar_bytes = cas_get_le64(table + 130);
        layer->content_bytes = cas_get_le64(table + 138);
        layer->entry_count = cas_get_le64(table + 146);
        memcpy(layer->listing.bytes, table + 154, CAS_HASH_BYTES);
        layer->listing_version = cas_get_le32(table + 186);
        layer->compression = table[190];
        return 0;
}

static bool is_zero(const uint8_t *at, size_t len)
{
        for (size_t i = 0; i < len; i++)
                if (at[i] != 0)
                        return false;
        return true;
}

static int decode_recipe(const struct walk *w, const struct head *h, const uint8_t *table,
                         struct cas_pack_item *item, struct cas_err *err)
{
        struct cas_recipe_record *recipe = &item->recipe;
        const char *text = (const char *)table + 128;
        size_t text_len = strnlen(text, sizeof(recipe->text));
        if (w->version < 2)
                return bad_record(h, "a recipe in a pack of version 1", err);
        if (h->size != 0 || table[66] != 0 || table[67] != 0)
                return bad_record(h, "field that must be zero is not", err);
        if (!get_digest(table, &recipe->blob))
                return bad_record(h, "digest of a blob is malformed", err);
        if (text_len == sizeof(recipe->text) ||
            !is_zero(table + 128 + text_len, sizeof(recipe->text) - text_len))
                return bad_record(h, "text of a recipe is malformed", err);
        recipe->is_proved = true;
        recipe->wrap = table[65];
        recipe->analysis = cas_get_le32(table + 68);
        recipe->blob_bytes = cas_get_le64(table + 72);
        recipe->recipe_bytes = cas_get_le64(table + 80);
        recipe->corrections_bytes = cas_get_le64(table + 88);
        memcpy(recipe->recipe.bytes, table + 96, CAS_HASH_BYTES);
        memcpy(recipe->text, text, text_len);
        if (cas_hash_is_zero(&recipe->recipe))
                return bad_record(h, "a recipe without an object", err);
        return 0;
}

static int decode_record(struct walk *w, uint64_t offset, struct cas_pack_item *item,
                         struct cas_err *err)
{
        struct head h;
        const uint8_t *table;
        int rc = read_head(w, offset, &h, &table, err);
        if (rc < 0)
                return rc;
        *item = (struct cas_pack_item){
                .kind = (enum cas_pack_record_kind)h.kind,
                .record_offset = offset,
                .record_bytes = (uint64_t)CAS_PACK_RECORD_BYTES + h.table_bytes + h.stored_bytes,
        };
        switch (h.kind) {
        case CAS_PACK_BLOCK:
                return decode_block(w, &h, table, item, err);
        case CAS_PACK_OBJECT:
                return decode_object(w, &h, table, item, err);
        case CAS_PACK_LAYER:
                return decode_layer(&h, table, item, err);
        case CAS_PACK_RECIPE:
                return decode_recipe(w, &h, table, item, err);
        default:
                return bad_record(&h, "a footer that does not end the file", err);
        }
}

static int decode_footer(struct walk *w, const struct head *h, const uint8_t *table,
                         struct cas_err *err)
{
        uint32_t max = 0;
        int rc = grow((void **)&w->entries, &max, h->count ? h->count : 1, sizeof(w->entries[0]),
                      err);
        if (rc < 0)
                return rc;
        uint64_t expected = CAS_PACK_HEADER_BYTES;
        table += CAS_HASH_BYTES;
        for (uint32_t i = 0; i < h->count; i++, table += CAS_PACK_ENTRY_BYTES) {
                uint32_t kind = cas_get_le32(table + 12);
                w->entries[i] = (struct cas_pack_entry){
                        .offset = cas_get_le64(table),
                        .length_bytes = cas_get_le32(table + 8),
                        .kind = (uint8_t)kind,
                };
                if (w->entries[i].offset != expected || kind == 0 || kind == CAS_PACK_FOOTER ||
                    kind > CAS_PACK_RECIPE)
                        return bad_record(h, "entry of the footer is out of range", err);
                expected += w->entries[i].length_bytes;
        }
        if (expected != h->offset)
                return bad_record(h, "footer does not name the whole pack", err);
        w->entry_count = h->count;
        return 0;
}

/* Sets w->sealed when the file ends with a valid footer and trailer. */
static int find_footer(struct walk *w, struct cas_err *err)
{
        if (w->file_bytes < CAS_PACK_HEADER_BYTES + CAS_PACK_RECORD_BYTES + CAS_PACK_TRAILER_BYTES)
                return 0;
        uint64_t end = w->file_bytes - CAS_PACK_TRAILER_BYTES;
        const uint8_t *trailer;
        int rc = bytes_at(w, end, CAS_PACK_TRAILER_BYTES, &trailer, err);
        if (rc < 0)
                return rc;
        if (memcmp(trailer, CAS_PACK_TRAILER_MAGIC, 8) != 0)
                return 0;
        uint64_t offset = cas_get_le64(trailer + 8);
        struct head h;
        const uint8_t *table;
        struct cas_err reason = CAS_ERR_INIT;
        rc = read_head(w, offset, &h, &table, &reason);
        if (rc == 0 && (h.kind != CAS_PACK_FOOTER || h.size != offset ||
                        offset + CAS_PACK_RECORD_BYTES + h.table_bytes != end))
                return 0;
        if (rc == 0)
                rc = decode_footer(w, &h, table, &reason);
        if (rc == -CAS_E_CORRUPT)
                return 0;
        if (rc < 0) {
                *err = reason;
                return rc;
        }
        w->sealed = true;
        w->footer_offset = offset;
        return 0;
}

static int check_entry(const struct walk *w, uint32_t index, const struct cas_pack_item *item,
                       struct cas_err *err)
{
        const struct cas_pack_entry *entry = &w->entries[index];
        if (index >= w->entry_count || entry->offset != item->record_offset ||
            entry->length_bytes != item->record_bytes || entry->kind != (unsigned)item->kind)
                return cas_fail(err, CAS_E_CORRUPT, "offset %llu: footer tells of another record",
                                (unsigned long long)item->record_offset);
        return 0;
}

static int walk_records(struct walk *w, uint64_t *offset,
                        int (*fn)(void *arg, const struct cas_pack_item *item, struct cas_err *err),
                        void *arg, struct cas_err *err)
{
        uint64_t end = w->sealed ? w->footer_offset : w->file_bytes;
        uint32_t entry = 0;
        while (entry < w->entry_count && w->entries[entry].offset < *offset)
                entry++;
        while (*offset < end) {
                struct cas_pack_item item;
                struct cas_err reason = CAS_ERR_INIT;
                int rc = decode_record(w, *offset, &item, &reason);
                if (rc == 0 && w->sealed)
                        rc = check_entry(w, entry++, &item, &reason);
                if (rc == -CAS_E_CORRUPT && !w->sealed)
                        return 0;
                if (rc < 0) {
                        *err = reason;
                        return rc;
                }
                rc = fn(arg, &item, err);
                if (rc < 0)
                        return rc;
                *offset += item.record_bytes;
        }
        return 0;
}

int cas_pack_walk_from(const struct cas_io *io, int fd, uint64_t pack_id, uint64_t offset,
                       int (*fn)(void *arg, const struct cas_pack_item *item, struct cas_err *err),
                       void *arg, uint64_t *end_offset, bool *sealed, struct cas_err *err)
{
        __attribute__((cleanup(walk_release))) struct walk w = {
                .io = io, .fd = fd, .pack_id = pack_id};
        struct stat st;
        (void)cas_pack_name(pack_id, w.what);
        if (fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "stat %s", w.what);
        w.file_bytes = (uint64_t)st.st_size;
        *end_offset = 0;
        *sealed = false;
        const uint8_t *header;
        int rc = bytes_at(&w, 0, CAS_PACK_HEADER_BYTES, &header, err);
        if (rc == 0)
                rc = cas_pack_header_decode(header, pack_id, &w.version, err);
        if (rc == 0)
                rc = find_footer(&w, err);
        if (rc == 0) {
                *end_offset = cas_max_u64(offset, CAS_PACK_HEADER_BYTES);
                *sealed = w.sealed;
                rc = walk_records(&w, end_offset, fn, arg, err);
        }
        return rc < 0 ? cas_err_wrap(err, "%s", w.what) : 0;
}

/* ---- looking behind damage ---- */

/* Where the next record could begin, at `offset` or behind it; the file's length when nowhere. */
static int next_magic(struct walk *w, uint64_t *offset, struct cas_err *err)
{
        uint8_t magic[4];
        cas_put_le32(magic, CAS_PACK_RECORD_MAGIC);
        while (*offset + CAS_PACK_RECORD_BYTES <= w->file_bytes) {
                const uint8_t *at;
                size_t len = cas_min_u64(READ_STEP_BYTES, w->file_bytes - *offset);
                int rc = bytes_at(w, *offset, len, &at, err);
                if (rc < 0)
                        return rc;
                const uint8_t *hit = memmem(at, len, magic, sizeof(magic));
                if (hit) {
                        *offset += (uint64_t)(hit - at);
                        return 0;
                }
                *offset += len - (sizeof(magic) - 1);
        }
        *offset = w->file_bytes;
        return 0;
}

int cas_pack_has_record(const struct cas_io *io, int fd, uint64_t pack_id, uint64_t offset,
                        bool *out, struct cas_err *err)
{
        __attribute__((cleanup(walk_release))) struct walk w = {
                .io = io, .fd = fd, .pack_id = pack_id};
        struct stat st;
        (void)cas_pack_name(pack_id, w.what);
        if (fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "stat %s", w.what);
        w.file_bytes = (uint64_t)st.st_size;
        *out = false;
        for (unsigned tries = 0;; tries++, offset++) {
                struct head h;
                const uint8_t *table;
                struct cas_err reason = CAS_ERR_INIT;
                int rc = next_magic(&w, &offset, err);
                if (rc < 0 || offset >= w.file_bytes)
                        return rc;
                rc = read_head(&w, offset, &h, &table, &reason);
                *out = rc == 0 || tries == FALSE_RECORDS_MAX;
                if (*out)
                        return 0;
                if (rc != -CAS_E_CORRUPT) {
                        *err = reason;
                        return rc;
                }
        }
}

/* ---- all that is whole ---- */

struct salvage {
        struct walk w;
        const struct cas_pack_salvage *hooks;
        uint64_t tried_bytes;
};

/* The next offset from `*offset` on where a head and a table are whole; the file's length when
 * there is none, or when content imitates records again and again. */
static int next_record(struct salvage *sv, uint64_t *offset, struct cas_err *err)
{
        struct walk *w = &sv->w;
        for (;; ++*offset) {
                struct head h = {0};
                const uint8_t *table;
                struct cas_err reason = CAS_ERR_INIT;
                int rc = next_magic(w, offset, err);
                if (rc < 0 || *offset >= w->file_bytes)
                        return rc;
                rc = read_head(w, *offset, &h, &table, &reason);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_CORRUPT) {
                        *err = reason;
                        return rc;
                }
                sv->tried_bytes += h.table_bytes;
                if (sv->tried_bytes > SALVAGE_TRIED_BYTES_MAX)
                        *offset = w->file_bytes;
        }
}

/* A record that cannot be used begins at *offset: tells how far that goes, and goes on behind it.
 */
static int tell_damage(struct salvage *sv, uint64_t *offset, struct cas_err *err)
{
        struct walk *w = &sv->w;
        struct cas_pack_damage damage = {.offset = *offset};
        struct head h;
        const uint8_t *table;
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_pack_item item = {0};
        int rc = read_head(w, *offset, &h, &table, &reason);
        if (rc == 0) {
                damage.end_offset =
                        cas_min_u64(w->file_bytes, *offset + CAS_PACK_RECORD_BYTES + h.table_bytes +
                                                           (uint64_t)h.stored_bytes);
                damage.kind = h.kind;
                rc = h.kind == CAS_PACK_BLOCK ? block_table(w, &h, table, &item, &reason) : 0;
        } else if (rc == -CAS_E_CORRUPT) {
                damage.end_offset = *offset + 1;
                rc = next_record(sv, &damage.end_offset, err);
                if (rc < 0)
                        return rc;
        }
        if (rc < 0 && rc != -CAS_E_CORRUPT) {
                *err = reason;
                return rc;
        }
        damage.chunks = item.chunks;
        damage.chunk_count = item.chunk_count;
        *offset = damage.end_offset;
        return sv->hooks->damage ? sv->hooks->damage(sv->hooks->arg, &damage, err) : 0;
}

/* Whether the footer's record, whole, and then the trailer stand at `offset`, and end the file. */
static bool is_footer(struct walk *w, uint64_t offset)
{
        struct head h;
        const uint8_t *table;
        struct cas_err ignored = CAS_ERR_INIT;
        return read_head(w, offset, &h, &table, &ignored) == 0 && h.kind == CAS_PACK_FOOTER &&
               offset + CAS_PACK_RECORD_BYTES + h.table_bytes + CAS_PACK_TRAILER_BYTES ==
                       w->file_bytes;
}

static int salvage_records(struct salvage *sv, struct cas_err *err)
{
        struct walk *w = &sv->w;
        for (uint64_t offset = CAS_PACK_HEADER_BYTES; offset < w->file_bytes;) {
                struct cas_pack_item item;
                struct cas_err reason = CAS_ERR_INIT;
                int rc = decode_record(w, offset, &item, &reason);
                if (rc == 0) {
                        rc = sv->hooks->item(sv->hooks->arg, &item, err);
                        offset += item.record_bytes;
                } else if (rc == -CAS_E_CORRUPT && is_footer(w, offset)) {
                        return 0;
                } else if (rc == -CAS_E_CORRUPT) {
                        rc = tell_damage(sv, &offset, err);
                } else {
                        *err = reason;
                }
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* A header that is damaged costs nothing: records tell their place themselves, and what they mean
 * has not changed since the first version. */
static int salvage_header(struct salvage *sv, struct cas_err *err)
{
        struct walk *w = &sv->w;
        const uint8_t *header;
        struct cas_err reason = CAS_ERR_INIT;
        struct cas_pack_damage damage = {.end_offset =
                                                 cas_min_u64(CAS_PACK_HEADER_BYTES, w->file_bytes)};
        int rc = bytes_at(w, 0, CAS_PACK_HEADER_BYTES, &header, &reason);
        if (rc == 0)
                rc = cas_pack_header_decode(header, w->pack_id, &w->version, &reason);
        if (rc == -CAS_E_CORRUPT) {
                w->version = CAS_PACK_VERSION;
                return sv->hooks->damage ? sv->hooks->damage(sv->hooks->arg, &damage, err) : 0;
        }
        if (rc < 0)
                *err = reason;
        return rc;
}

static void salvage_release(struct salvage *sv)
{
        walk_release(&sv->w);
}

int cas_pack_salvage(const struct cas_io *io, int fd, uint64_t pack_id,
                     const struct cas_pack_salvage *hooks, struct cas_err *err)
{
        __attribute__((cleanup(salvage_release))) struct salvage sv = {
                .w = {.io = io, .fd = fd, .pack_id = pack_id}, .hooks = hooks};
        struct stat st;
        (void)cas_pack_name(pack_id, sv.w.what);
        if (fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "stat %s", sv.w.what);
        sv.w.file_bytes = (uint64_t)st.st_size;
        int rc = salvage_header(&sv, err);
        if (rc == 0)
                rc = salvage_records(&sv, err);
        return rc < 0 ? cas_err_wrap(err, "%s", sv.w.what) : 0;
}

int cas_pack_walk(const struct cas_io *io, int fd, uint64_t pack_id,
                  int (*fn)(void *arg, const struct cas_pack_item *item, struct cas_err *err),
                  void *arg, uint64_t *end_offset, bool *sealed, struct cas_err *err)
{
        return cas_pack_walk_from(io, fd, pack_id, 0, fn, arg, end_offset, sealed, err);
}
