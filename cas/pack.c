/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding of packs; cas/packwalk.c reads them. */
#include "cas/pack_int.h"

#include <xxhash.h>

#include "cas/codec.h"

_Static_assert(sizeof(struct cas_chunk_ref) == CAS_PACK_CHUNK_BYTES, "a reference has no padding");

char *cas_pack_name(uint64_t pack_id, char *out)
{
        (void)snprintf(out, CAS_PACK_NAME_BYTES, "%016llx.pack", (unsigned long long)pack_id);
        return out;
}

char *cas_pack_moving_name(uint64_t pack_id, char *out)
{
        (void)snprintf(out, CAS_PACK_MOVING_NAME_BYTES, "%016llx.pack.moving",
                       (unsigned long long)pack_id);
        return out;
}

static bool parse_name(const char *name, const char *end, uint64_t *pack_id)
{
        uint64_t id = 0;
        for (unsigned i = 0; i < 16; i++) {
                char c = name[i];
                if (c >= '0' && c <= '9')
                        id = id << 4 | (uint64_t)(c - '0');
                else if (c >= 'a' && c <= 'f')
                        id = id << 4 | (uint64_t)(c - 'a' + 10);
                else
                        return false;
        }
        *pack_id = id;
        return strcmp(name + 16, end) == 0;
}

bool cas_pack_name_parse(const char *name, uint64_t *pack_id)
{
        return parse_name(name, ".pack", pack_id);
}

bool cas_pack_moving_name_parse(const char *name, uint64_t *pack_id)
{
        return parse_name(name, ".pack.moving", pack_id);
}

void cas_pack_header_encode(uint64_t pack_id, uint8_t out[CAS_PACK_HEADER_BYTES])
{
        memcpy(out, CAS_PACK_MAGIC, 8);
        cas_put_le32(out + 8, CAS_PACK_VERSION);
        cas_put_le32(out + 12, 0);
        cas_put_le64(out + 16, pack_id);
        cas_put_le64(out + 24, XXH3_64bits(out, 24));
}

int cas_pack_header_decode(const uint8_t in[CAS_PACK_HEADER_BYTES], uint64_t pack_id,
                           uint32_t *version, struct cas_err *err)
{
        if (memcmp(in, CAS_PACK_MAGIC, 8) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "not a pack: no magic");
        if (cas_get_le64(in + 24) != XXH3_64bits(in, 24))
                return cas_fail(err, CAS_E_CORRUPT, "header: checksum differs");
        *version = cas_get_le32(in + 8);
        if (*version < CAS_PACK_VERSION_OLDEST || *version > CAS_PACK_VERSION ||
            cas_get_le32(in + 12) != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "pack of version %u, flags %#x",
                                cas_get_le32(in + 8), cas_get_le32(in + 12));
        if (cas_get_le64(in + 16) != pack_id)
                return cas_fail(err, CAS_E_CORRUPT, "header: is of pack %016llx",
                                (unsigned long long)cas_get_le64(in + 16));
        return 0;
}

uint64_t cas_pack_record_checksum(const uint8_t *record, uint32_t table_bytes, uint64_t offset)
{
        /* Head and table are neighbours but for the checksum between them. */
        uint64_t head = XXH3_64bits_withSeed(record, CAS_PACK_RECORD_BYTES - 8, offset);
        return XXH3_64bits_withSeed(record + CAS_PACK_RECORD_BYTES, table_bytes, head);
}

bool cas_pack_kept_is_sound(const uint8_t *record, uint32_t stored_bytes, uint64_t offset)
{
        return cas_get_le32(record) == CAS_PACK_RECORD_MAGIC && record[4] == CAS_PACK_BLOCK &&
               cas_get_le32(record + 8) == CAS_PACK_CHUNK_BYTES &&
               cas_get_le32(record + 16) == stored_bytes &&
               cas_pack_record_checksum(record, CAS_PACK_CHUNK_BYTES, offset) ==
                       cas_get_le64(record + 48) &&
               XXH3_64bits(record + cas_pack_block_frame(1), stored_bytes) ==
                       cas_get_le64(record + 32);
}

struct head {
        unsigned kind; /* enum cas_pack_record_kind or CAS_PACK_FOOTER */
        uint8_t codec; /* OBJECT: of its chunks, when they are kept frames */
        uint32_t table_bytes, count;
        uint64_t size;
};

/* The fields of a record without a frame, then the checksum; its table is in place. */
static void finish_plain(uint8_t *record, uint64_t offset, const struct head *head)
{
        memset(record, 0, CAS_PACK_RECORD_BYTES);
        cas_put_le32(record, CAS_PACK_RECORD_MAGIC);
        record[4] = (uint8_t)head->kind;
        record[5] = head->codec;
        cas_put_le32(record + 8, head->table_bytes);
        cas_put_le32(record + 12, head->count);
        cas_put_le64(record + 40, head->size);
        cas_put_le64(record + 48, cas_pack_record_checksum(record, head->table_bytes, offset));
}

static void put_chunk(uint8_t *entry, const struct cas_hash *chunk, uint32_t length_and_flag)
{
        memcpy(entry, chunk->bytes, CAS_HASH_BYTES);
        cas_put_le32(entry + CAS_HASH_BYTES, length_and_flag);
}

void cas_pack_block_entry(uint8_t *record, uint32_t index, const struct cas_hash *chunk,
                          uint32_t length_bytes, bool is_object)
{
        put_chunk(record + cas_pack_block_frame(index), chunk,
                  length_bytes | (is_object ? CAS_PACK_CHUNK_IS_OBJECT : 0));
}

size_t cas_pack_block_finish(uint8_t *record, uint64_t offset, const struct cas_pack_block *block)
{
        uint32_t table_bytes = block->chunk_count * CAS_PACK_CHUNK_BYTES;
        uint8_t *frame = record + cas_pack_block_frame(block->chunk_count);
        memset(record, 0, CAS_PACK_RECORD_BYTES);
        cas_put_le32(record, CAS_PACK_RECORD_MAGIC);
        record[4] = CAS_PACK_BLOCK;
        record[5] = block->codec;
        cas_put_le32(record + 8, table_bytes);
        cas_put_le32(record + 12, block->chunk_count);
        cas_put_le32(record + 16, block->stored_bytes);
        cas_put_le32(record + 20, block->raw_bytes);
        cas_put_le64(record + 24, block->raw_checksum);
        cas_put_le64(record + 32, XXH3_64bits(frame, block->stored_bytes));
        cas_put_le64(record + 48, cas_pack_record_checksum(record, table_bytes, offset));
        return CAS_PACK_RECORD_BYTES + (size_t)table_bytes + block->stored_bytes;
}

/* Room for a record at the end of out. */
static uint8_t *record_room(struct cas_buf *out, size_t table_bytes)
{
        cas_buf_reserve(out, CAS_PACK_RECORD_BYTES + table_bytes);
        uint8_t *record = out->data + out->len_bytes;
        out->len_bytes += CAS_PACK_RECORD_BYTES + table_bytes;
        return record;
}

void cas_pack_object_encode(uint64_t offset, const struct cas_hash *id, uint64_t size_bytes,
                            const struct cas_chunk_ref *refs, uint32_t chunk_count, bool is_kept,
                            struct cas_buf *out)
{
        cas_assert(chunk_count != 1);
        cas_assert(chunk_count <= CAS_OBJECT_CHUNKS_MAX);
        uint32_t table_bytes = CAS_HASH_BYTES + chunk_count * CAS_PACK_CHUNK_BYTES;
        uint8_t *record = record_room(out, table_bytes);
        uint8_t *table = record + CAS_PACK_RECORD_BYTES;
        memcpy(table, id->bytes, CAS_HASH_BYTES);
        for (uint32_t i = 0; i < chunk_count; i++)
                put_chunk(table + CAS_HASH_BYTES + (size_t)i * CAS_PACK_CHUNK_BYTES, &refs[i].chunk,
                          refs[i].length_bytes);
        finish_plain(record, offset,
                     &(struct head){.kind = CAS_PACK_OBJECT,
                                    .codec = is_kept ? CAS_CODEC_ZSTD_KEPT : CAS_CODEC_NONE,
                                    .table_bytes = table_bytes,
                                    .count = chunk_count,
                                    .size = size_bytes});
}

static void put_digest(uint8_t *out, const struct cas_digest *d)
{
        out[0] = d->alg;
        memcpy(out + 1, d->bytes, CAS_DIGEST_BYTES_MAX);
}

void cas_pack_layer_encode(uint64_t offset, const struct cas_layer_record *layer,
                           struct cas_buf *out)
{
        uint8_t *record = record_room(out, CAS_PACK_LAYER_BYTES);
        uint8_t *table = record + CAS_PACK_RECORD_BYTES;
        put_digest(table, &layer->blob);
        put_digest(table + 65, &layer->diff_id);
        cas_put_le64(table + 130, layer->tar_bytes);
        cas_put_le64(table + 138, layer->content_bytes);
        cas_put_le64(table + 146, layer->entry_count);
        memcpy(table + 154, layer->listing.bytes, CAS_HASH_BYTES);
        cas_put_le32(table + 186, layer->listing_version);
        table[190] = layer->compression;
        table[191] = 0;
        finish_plain(record, offset,
                     &(struct head){.kind = CAS_PACK_LAYER, .table_bytes = CAS_PACK_LAYER_BYTES});
}

void cas_pack_recipe_encode(uint64_t offset, const struct cas_recipe_record *recipe,
                            struct cas_buf *out)
{
        cas_assert(recipe->is_proved);
        cas_assert(!cas_hash_is_zero(&recipe->recipe));
        uint8_t *record = record_room(out, CAS_PACK_RECIPE_BYTES);
        uint8_t *table = record + CAS_PACK_RECORD_BYTES;
        memset(table, 0, CAS_PACK_RECIPE_BYTES);
        put_digest(table, &recipe->blob);
        table[65] = recipe->wrap;
        cas_put_le32(table + 68, recipe->analysis);
        cas_put_le64(table + 72, recipe->blob_bytes);
        cas_put_le64(table + 80, recipe->recipe_bytes);
        cas_put_le64(table + 88, recipe->corrections_bytes);
        memcpy(table + 96, recipe->recipe.bytes, CAS_HASH_BYTES);
        memcpy(table + 128, recipe->text, strnlen(recipe->text, sizeof(recipe->text) - 1));
        finish_plain(record, offset,
                     &(struct head){.kind = CAS_PACK_RECIPE, .table_bytes = CAS_PACK_RECIPE_BYTES});
}

void cas_pack_footer_encode(uint64_t offset, const struct cas_hash *sha256,
                            const struct cas_pack_entry *entries, uint32_t count,
                            struct cas_buf *out)
{
        cas_assert(count <= CAS_PACK_RECORDS_MAX);
        uint32_t table_bytes = CAS_HASH_BYTES + count * CAS_PACK_ENTRY_BYTES;
        uint8_t *record = record_room(out, table_bytes);
        uint8_t *table = record + CAS_PACK_RECORD_BYTES;
        memcpy(table, sha256->bytes, CAS_HASH_BYTES);
        for (uint32_t i = 0; i < count; i++) {
                uint8_t *entry = table + CAS_HASH_BYTES + (size_t)i * CAS_PACK_ENTRY_BYTES;
                cas_put_le64(entry, entries[i].offset);
                cas_put_le32(entry + 8, entries[i].length_bytes);
                cas_put_le32(entry + 12, entries[i].kind);
        }
        finish_plain(record, offset,
                     &(struct head){.kind = CAS_PACK_FOOTER,
                                    .table_bytes = table_bytes,
                                    .count = count,
                                    .size = offset});
        cas_buf_append(out, CAS_PACK_TRAILER_MAGIC, 8);
        cas_buf_append_le64(out, offset);
}
