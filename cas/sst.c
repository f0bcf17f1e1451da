/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/sst_int.h"

#include <xxhash.h>
#include <zstd.h>

#include "cas/limits.h"

/* ---- tables: layout (RocksDB, block-based table, format version 5) ----
 *
 * Blocks back to back, each followed by one byte that tells its compression and four of a checksum
 * of both; at the file's end a footer: the checksum's kind, places of metaindex and index as
 * varints, zeros up to 41 bytes, version and magic. */
#define TRAILER_BYTES 5
#define FOOTER_BYTES 53
#define FOOTER_HANDLES_END 41
#define TABLE_VERSION 5
#define TABLE_MAGIC UINT64_C(0x88e241b785f4cff7)
#define CHECKSUM_XXH3 4
#define COMPRESSION_NONE 0
#define COMPRESSION_ZSTD 7
/* Of an index or a metaindex, decoded. */
#define INDEX_BYTES_MAX (256 * CAS_MIB)
#define READ_BYTES (1 * CAS_MIB)

struct place {
        uint64_t offset, bytes; /* without the trailer */
};

struct table {
        const struct cas_io *io;
        int fd;
        const char *what;
        uint64_t end; /* where the footer begins */
        struct place metaindex, index;
        struct place *blocks; /* owned; in the order of the file, once sorted */
        size_t count, max;
};

static int bad(const struct table *t, const char *why, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "%s: %s", t->what, why);
}

/* As LevelDB writes them: any number of bytes up to 10, but ours are always the shortest. */
static uint64_t get_varint(struct cas_cursor *c)
{
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
                uint8_t byte = cas_cursor_u8(c);
                v |= (uint64_t)(byte & 0x7f) << shift;
                if (!(byte & 0x80)) {
                        c->failed = c->failed || (byte == 0 && shift > 0);
                        return v;
                }
        }
        c->failed = true;
        return 0;
}

static struct place get_place(struct cas_cursor *c)
{
        struct place p;
        p.offset = get_varint(c);
        p.bytes = get_varint(c);
        return p;
}

/* Adds a block; it lies before the footer. */
static int add_block(struct table *t, const struct place *p, struct cas_err *err)
{
        if (p->offset > t->end || p->bytes > t->end ||
            p->bytes + TRAILER_BYTES > t->end - p->offset)
                return bad(t, "a block lies behind its end", err);
        if (t->count == t->max) {
                t->max = t->max ? 2 * t->max : 256;
                t->blocks = cas_xrealloc(t->blocks, t->max * sizeof(t->blocks[0]));
        }
        t->blocks[t->count++] = *p;
        return 0;
}

/* ---- blocks ---- */

static bool has_checksum(const uint8_t *block, size_t bytes)
{
        uint32_t sum = (uint32_t)XXH3_64bits(block, bytes);
        return (sum ^ block[bytes] * UINT32_C(0x6b9083d9)) == cas_get_le32(block + bytes + 1);
}

static int decode_block(const struct table *t, struct cas_buf *block, struct cas_err *err)
{
        size_t bytes = block->len_bytes - TRAILER_BYTES;
        uint8_t compression = block->data[bytes];
        block->len_bytes = bytes;
        if (compression == COMPRESSION_NONE)
                return 0;
        if (compression != COMPRESSION_ZSTD)
                return bad(t, "its index is compressed in an unknown way", err);
        struct cas_cursor c = cas_cursor_over(block->data, bytes);
        uint64_t raw_bytes = get_varint(&c);
        struct cas_buf raw = CAS_BUF_INIT;
        if (c.failed)
                return bad(t, "its index cannot be decoded", err);
        if (cas_buf_try_reserve(&raw, raw_bytes, INDEX_BYTES_MAX, err) < 0)
                return -(int)err->code;
        raw.len_bytes = ZSTD_decompress(raw.data, raw_bytes, c.at, cas_cursor_left(&c));
        bool good = raw.len_bytes == raw_bytes;
        cas_buf_release(block);
        *block = raw;
        if (!good)
                block->len_bytes = 0;
        return good ? 0 : bad(t, "its index cannot be decoded", err);
}

/* An index or a metaindex, decoded: *entries are its entries. */
static int read_index(struct table *t, const struct place *p, struct cas_buf *out,
                      struct cas_cursor *entries, struct cas_err *err)
{
        size_t len = p->bytes + TRAILER_BYTES;
        int rc = cas_buf_try_reserve(out, len, INDEX_BYTES_MAX, err);
        if (rc == 0)
                rc = cas_io_pread_exact(t->io, t->fd, out->data, len, p->offset, t->what, err);
        if (rc < 0)
                return rc;
        out->len_bytes = len;
        if (!has_checksum(out->data, p->bytes))
                return bad(t, "the checksum of its index differs", err);
        rc = decode_block(t, out, err);
        if (rc < 0)
                return rc;
        /* At the end of a block: restart points, 4 bytes each, and their number. */
        if (out->len_bytes < 4)
                return bad(t, "its index is too short", err);
        uint64_t restarts = cas_get_le32(out->data + out->len_bytes - 4) & 0x7fffffff;
        if (restarts > (out->len_bytes - 4) / 4)
                return bad(t, "its index is too short", err);
        *entries = cas_cursor_over(out->data, out->len_bytes - 4 - 4 * restarts);
        return 0;
}

/* Entries: bytes shared with the key before, other bytes of the key, length of the value; key,
 * value: a place. */
static int add_metaindex(struct table *t, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf block = CAS_BUF_INIT;
        struct cas_cursor c;
        int rc = read_index(t, &t->metaindex, &block, &c, err);
        while (rc == 0 && cas_cursor_left(&c) > 0) {
                (void)get_varint(&c);
                uint64_t key_len = get_varint(&c), value_len = get_varint(&c);
                (void)cas_cursor_take(&c, key_len);
                const uint8_t *value = cas_cursor_take(&c, value_len);
                struct cas_cursor v = cas_cursor_over(value, value ? value_len : 0);
                struct place p = get_place(&v);
                if (c.failed || v.failed)
                        return bad(t, "its metaindex is malformed", err);
                rc = add_block(t, &p, err);
        }
        return rc;
}

static int64_t get_signed(struct cas_cursor *c)
{
        uint64_t v = get_varint(c);
        return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* Entries: shared, other bytes of the key; key; a place, or where some of the key is shared, how
 * much longer the block is than the one before, which it follows. */
static int add_index(struct table *t, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf block = CAS_BUF_INIT;
        struct cas_cursor c;
        struct place p = {0, 0};
        int rc = read_index(t, &t->index, &block, &c, err);
        while (rc == 0 && cas_cursor_left(&c) > 0) {
                uint64_t shared = get_varint(&c), key_len = get_varint(&c);
                (void)cas_cursor_take(&c, key_len);
                if (shared) {
                        p.offset += p.bytes + TRAILER_BYTES;
                        p.bytes += (uint64_t)get_signed(&c);
                } else {
                        p = get_place(&c);
                }
                if (c.failed)
                        return bad(t, "its index is malformed", err);
                rc = add_block(t, &p, err);
        }
        return rc;
}

/* ---- a whole table ---- */

static int read_footer(struct table *t, struct cas_err *err)
{
        uint8_t footer[FOOTER_BYTES];
        int rc = cas_io_pread_exact(t->io, t->fd, footer, sizeof(footer), t->end, t->what, err);
        if (rc < 0)
                return rc;
        struct cas_cursor c = cas_cursor_over(footer + 1, FOOTER_HANDLES_END - 1);
        t->metaindex = get_place(&c);
        t->index = get_place(&c);
        while (!c.failed && cas_cursor_left(&c) > 0)
                c.failed = cas_cursor_u8(&c) != 0;
        if (c.failed || footer[0] != CHECKSUM_XXH3 ||
            cas_get_le32(footer + FOOTER_HANDLES_END) != TABLE_VERSION ||
            cas_get_le64(footer + FOOTER_HANDLES_END + 4) != TABLE_MAGIC)
                return bad(t, "its footer is malformed", err);
        rc = add_block(t, &t->metaindex, err);
        return rc < 0 ? rc : add_block(t, &t->index, err);
}

static int by_offset(const void *a, const void *b)
{
        const struct place *x = a, *y = b;
        return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Every byte before the footer is of one block. */
static int check_cover(struct table *t, struct cas_err *err)
{
        uint64_t at = 0;
        qsort(t->blocks, t->count, sizeof(t->blocks[0]), by_offset);
        for (size_t i = 0; i < t->count; i++) {
                if (t->blocks[i].offset != at)
                        return bad(t, "its blocks do not follow each other", err);
                at += t->blocks[i].bytes + TRAILER_BYTES;
        }
        return at == t->end ? 0 : bad(t, "its blocks do not follow each other", err);
}

/* Reads the file in order. */
static int check_blocks(const struct table *t, XXH3_state_t *sum, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf run = CAS_BUF_INIT; /* of blocks in a row */
        for (size_t i = 0; i < t->count;) {
                uint64_t start = t->blocks[i].offset, bytes = 0;
                size_t end = i;
                while (end < t->count && (end == i || bytes < READ_BYTES))
                        bytes += t->blocks[end++].bytes + TRAILER_BYTES;
                cas_buf_clear(&run);
                int rc = cas_buf_try_reserve(&run, bytes, 2 * INDEX_BYTES_MAX, err);
                if (rc == 0)
                        rc = cas_io_pread_exact(t->io, t->fd, run.data, bytes, start, t->what, err);
                if (rc < 0)
                        return rc;
                for (; i < end; i++) {
                        if (!has_checksum(run.data + (t->blocks[i].offset - start),
                                          t->blocks[i].bytes))
                                return cas_fail(
                                        err, CAS_E_CORRUPT,
                                        "%s: the checksum of the block at byte %llu differs",
                                        t->what, (unsigned long long)t->blocks[i].offset);
                }
                (void)XXH3_128bits_update(sum, run.data, bytes);
        }
        return 0;
}

static int verify_table(struct table *t, XXH3_state_t *sum, struct cas_err *err)
{
        uint8_t footer[FOOTER_BYTES];
        int rc = read_footer(t, err);
        if (rc == 0)
                rc = add_metaindex(t, err);
        if (rc == 0)
                rc = add_index(t, err);
        if (rc == 0)
                rc = check_cover(t, err);
        if (rc == 0)
                rc = check_blocks(t, sum, err);
        if (rc == 0)
                rc = cas_io_pread_exact(t->io, t->fd, footer, sizeof(footer), t->end, t->what, err);
        if (rc == 0)
                (void)XXH3_128bits_update(sum, footer, sizeof(footer));
        return rc;
}

int cas_table_verify(const struct cas_io *io, int fd, uint64_t file_bytes, const char *what,
                     uint8_t sum[CAS_TABLE_SUM_BYTES], struct cas_err *err)
{
        struct table t = {.io = io, .fd = fd, .what = what};
        XXH128_canonical_t canonical;
        if (file_bytes < FOOTER_BYTES)
                return bad(&t, "it is too short", err);
        t.end = file_bytes - FOOTER_BYTES;
        XXH3_state_t *state = XXH3_createState();
        cas_assert(state != NULL);
        (void)XXH3_128bits_reset(state);
        int rc = verify_table(&t, state, err);
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
        memcpy(sum, canonical.digest, CAS_TABLE_SUM_BYTES);
        (void)XXH3_freeState(state);
        free(t.blocks);
        return rc;
}

/* ---- logs: layout ----
 *
 * Blocks of 32 KiB. In them records: masked CRC-32C of all behind it (4 bytes), length (2), type
 * (1), in a log that is written again its number (4), content. What is left of a block that is too
 * short for a head is zero. */
#define LOG_BLOCK_BYTES (32 * CAS_KIB)
#define LOG_HEAD_BYTES 7
#define LOG_RECYCLED_HEAD_BYTES 11
#define LOG_TYPE_RECYCLED_FIRST 5
#define LOG_TYPE_RECYCLED_LAST 8
#define LOG_TYPE_MAX 10

static uint32_t crc32c(const uint8_t *data, size_t len)
{
        /* Of four bits. */
        static const uint32_t table[16] = {
                0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
        };
        uint32_t crc = UINT32_MAX;
        for (size_t i = 0; i < len; i++) {
                crc ^= data[i];
                crc = crc >> 4 ^ table[crc & 15];
                crc = crc >> 4 ^ table[crc & 15];
        }
        return ~crc;
}

static uint32_t unmask(uint32_t masked)
{
        uint32_t rotated = masked - UINT32_C(0xa282ead8);
        return rotated >> 17 | rotated << 15;
}

static bool is_zero(const uint8_t *at, size_t len)
{
        for (size_t i = 0; i < len; i++) {
                if (at[i] != 0)
                        return false;
        }
        return true;
}

/* One block of a log, at byte `at` of the file; `len` less than a block: its end. */
static int check_log_block(const uint8_t *block, size_t len, uint64_t at, const char *what,
                           struct cas_err *err)
{
        size_t pos = 0;
        while (LOG_BLOCK_BYTES - pos >= LOG_HEAD_BYTES) {
                const uint8_t *head = block + pos;
                if (is_zero(block + pos, len - pos))
                        return 0; /* the end, or room that was asked for */
                if (len - pos < LOG_HEAD_BYTES)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "%s: ends within the record at byte %llu", what,
                                        (unsigned long long)(at + pos));
                uint8_t type = head[6];
                bool recycled = type >= LOG_TYPE_RECYCLED_FIRST && type <= LOG_TYPE_RECYCLED_LAST;
                size_t head_bytes = recycled ? LOG_RECYCLED_HEAD_BYTES : LOG_HEAD_BYTES;
                size_t end = pos + head_bytes + cas_get_le16(head + 4);
                if (type > LOG_TYPE_MAX || end > LOG_BLOCK_BYTES)
                        return cas_fail(err, CAS_E_CORRUPT, "%s: no record at byte %llu", what,
                                        (unsigned long long)(at + pos));
                if (end > len)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "%s: ends within the record at byte %llu", what,
                                        (unsigned long long)(at + pos));
                if (crc32c(head + 6, end - pos - 6) != unmask(cas_get_le32(head)))
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "%s: the checksum of the record at byte %llu differs", what,
                                        (unsigned long long)(at + pos));
                pos = end;
        }
        if (pos < len && !is_zero(block + pos, len - pos))
                return cas_fail(err, CAS_E_CORRUPT, "%s: no record at byte %llu", what,
                                (unsigned long long)(at + pos));
        return 0;
}

int cas_log_verify(const struct cas_io *io, int fd, const char *what, struct cas_err *err)
{
        cas_cleanup_free uint8_t *block = cas_xmalloc(LOG_BLOCK_BYTES);
        size_t len = LOG_BLOCK_BYTES;
        int rc = 0;
        for (uint64_t at = 0; rc == 0 && len == LOG_BLOCK_BYTES; at += len) {
                rc = cas_io_pread(io, fd, block, LOG_BLOCK_BYTES, at, &len, what, err);
                if (rc == 0)
                        rc = check_log_block(block, len, at, what, err);
        }
        return rc;
}
