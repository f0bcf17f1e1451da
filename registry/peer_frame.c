/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/peer_frame.h"

#include "cas/codec.h"
#include "cas/limits.h"

#define FRAME_MAGIC "LPF1"
/* Denser levels win little over so short pieces, and take the time of whoever asks. */
#define FRAME_ZSTD_LEVEL 6
#define PAGE_HEAD_BYTES 8

_Static_assert(REG_PEER_GROUP_BYTES + CAS_CHUNK_BYTES_MAX <= REG_PEER_RAW_BYTES_MAX,
               "a part has room for its last chunk");
_Static_assert(PAGE_HEAD_BYTES + REG_PEER_PAGE_CHUNKS * REG_PEER_CHUNK_ENTRY_BYTES <=
                       REG_PEER_RAW_BYTES_MAX,
               "a page fits into a frame");
_Static_assert(REG_PEER_IDS_MAX *CAS_HASH_BYTES <= REG_PEER_RAW_BYTES_MAX, "so do digests");

void reg_peer_frame_release(struct reg_peer_frame *f)
{
        cas_buf_release(&f->raw);
}

void reg_peer_frame_encode(enum reg_peer_frame_kind kind, uint64_t object_bytes, const void *raw,
                           size_t len, struct cas_buf *out)
{
        cas_cleanup_free uint8_t *packed = cas_xmalloc(len + 1);
        cas_cleanup_compressor struct cas_compressor *z =
                cas_compressor_new(CAS_CODEC_ZSTD, FRAME_ZSTD_LEVEL);
        cas_assert(len <= REG_PEER_RAW_BYTES_MAX);
        size_t stored = cas_compressor_run(z, raw, len, packed, len - len / 16);
        bool plain = stored == 0 || stored >= len;
        cas_buf_append(out, FRAME_MAGIC, 4);
        cas_buf_append_byte(out, (uint8_t)kind);
        cas_buf_append_byte(out, plain ? CAS_CODEC_NONE : CAS_CODEC_ZSTD);
        cas_buf_append_le16(out, 0);
        cas_buf_append_le64(out, object_bytes);
        cas_buf_append_le32(out, (uint32_t)len);
        cas_buf_append_le32(out, (uint32_t)(plain ? len : stored));
        cas_buf_append(out, plain ? raw : packed, plain ? len : stored);
}

int reg_peer_frame_decode(const void *data, size_t len, size_t raw_max, struct reg_peer_frame *out,
                          struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        const uint8_t *magic = cas_cursor_take(&c, 4);
        uint8_t kind = cas_cursor_u8(&c), codec = cas_cursor_u8(&c);
        uint16_t zero = cas_cursor_le16(&c);
        uint64_t object_bytes = cas_cursor_le64(&c);
        uint32_t raw_bytes = cas_cursor_le32(&c), stored_bytes = cas_cursor_le32(&c);
        if (c.failed || memcmp(magic, FRAME_MAGIC, 3) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "no frame of a lamina");
        if (memcmp(magic, FRAME_MAGIC, 4) != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "a frame of another version");
        if (kind > REG_PEER_IDS || codec > CAS_CODEC_ZSTD || zero != 0 ||
            object_bytes > CAS_OBJECT_BYTES_MAX || stored_bytes != cas_cursor_left(&c))
                return cas_fail(err, CAS_E_CORRUPT, "frame: its head is malformed");
        if (raw_bytes > raw_max)
                return cas_fail(err, CAS_E_LIMIT, "frame: %u bytes, at most %zu are expected",
                                raw_bytes, raw_max);
        struct reg_peer_frame f = {.kind = kind, .object_bytes = object_bytes};
        int rc = cas_buf_try_reserve(&f.raw, raw_bytes, raw_max, err);
        if (rc == 0)
                rc = cas_codec_decode(codec, c.at, stored_bytes, f.raw.data, raw_bytes, err);
        if (rc < 0) {
                cas_buf_release(&f.raw);
                return cas_err_wrap(err, "frame");
        }
        f.raw.len_bytes = raw_bytes;
        f.raw.data[raw_bytes] = '\0';
        *out = f;
        return 0;
}

/* ---- pages of chunks ---- */

void reg_peer_page_release(struct reg_peer_page *page)
{
        free(page->chunks);
        *page = (struct reg_peer_page){0};
}

void reg_peer_page_encode(const struct reg_peer_page *page, struct cas_buf *out)
{
        cas_assert(page->count <= REG_PEER_PAGE_CHUNKS);
        cas_buf_append_le64(out, page->offset);
        for (size_t i = 0; i < page->count; i++) {
                cas_buf_append(out, page->chunks[i].sha256.bytes, CAS_HASH_BYTES);
                cas_buf_append_le32(out, page->chunks[i].length_bytes);
        }
}

int reg_peer_page_decode(const struct reg_peer_frame *frame, struct reg_peer_page *out,
                         struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(frame->raw.data, frame->raw.len_bytes);
        struct reg_peer_page page = {.offset = cas_cursor_le64(&c)};
        size_t left = cas_cursor_left(&c);
        if (frame->kind != REG_PEER_CHUNKS || c.failed || left == 0 ||
            left % REG_PEER_CHUNK_ENTRY_BYTES != 0 ||
            left / REG_PEER_CHUNK_ENTRY_BYTES > REG_PEER_PAGE_CHUNKS ||
            page.offset > frame->object_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "chunks: the page is malformed");
        page.count = left / REG_PEER_CHUNK_ENTRY_BYTES;
        page.chunks = cas_xcalloc(page.count, sizeof(page.chunks[0]));
        uint64_t room = frame->object_bytes - page.offset;
        for (size_t i = 0; i < page.count; i++) {
                struct reg_peer_chunk *chunk = &page.chunks[i];
                memcpy(chunk->sha256.bytes, cas_cursor_take(&c, CAS_HASH_BYTES), CAS_HASH_BYTES);
                chunk->length_bytes = cas_cursor_le32(&c);
                if (chunk->length_bytes == 0 || chunk->length_bytes > CAS_CHUNK_BYTES_MAX ||
                    chunk->length_bytes > room) {
                        reg_peer_page_release(&page);
                        return cas_fail(err, CAS_E_CORRUPT, "chunks: number %zu is malformed", i);
                }
                room -= chunk->length_bytes;
        }
        *out = page;
        return 0;
}
