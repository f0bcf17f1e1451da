/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/resolve_msg_int.h"

#include "cas/limits.h"

/* Numbers of spec/resolve.md; they are not those of enum cas_code, which may grow. */
enum wire_code {
        WIRE_OK = 0,
        WIRE_NOTFOUND = 1,
        WIRE_CORRUPT = 2,
        WIRE_IO = 3,
        WIRE_DENIED = 4,
        WIRE_INVALID = 5,
        WIRE_COMING = 6,
};

static uint16_t wire_code_of(enum cas_code code)
{
        switch (code) {
        case CAS_OK:
                return WIRE_OK;
        case CAS_E_NOTFOUND:
                return WIRE_NOTFOUND;
        case CAS_E_CORRUPT:
                return WIRE_CORRUPT;
        case CAS_E_DENIED:
                return WIRE_DENIED;
        case CAS_E_INVALID:
        case CAS_E_UNSUPPORTED:
                return WIRE_INVALID;
        case CAS_E_BUSY:
                return WIRE_COMING;
        case CAS_E_EXISTS:
        case CAS_E_NOSPACE:
        case CAS_E_IO:
        case CAS_E_LIMIT:
        case CAS_E_NOMEM:
        case CAS_E_AWAY:
                return WIRE_IO;
        }
        return WIRE_IO;
}

static bool code_of_wire(uint16_t wire, enum cas_code *out)
{
        static const enum cas_code codes[] = {
                [WIRE_OK] = CAS_OK,
                [WIRE_NOTFOUND] = CAS_E_NOTFOUND,
                [WIRE_CORRUPT] = CAS_E_CORRUPT,
                [WIRE_IO] = CAS_E_IO,
                [WIRE_DENIED] = CAS_E_DENIED,
                [WIRE_INVALID] = CAS_E_INVALID,
                [WIRE_COMING] = CAS_E_BUSY,
        };
        if (wire >= CAS_COUNT(codes))
                return false;
        *out = codes[wire];
        return true;
}

/* Bits of a request. */
#define ASKS_AGAIN 1U
#define KNOWS_TIERS 2U
#define WAS_BAD 4U
/* Bits of an answer. */
#define HAS_HOME 1U
#define HAS_CACHE 2U
#define WANTS_TOUCHED 4U
#define FILLS 8U

void ffs_resolve_request_encode(const struct ffs_resolve_request *r,
                                uint8_t out[FFS_RESOLVE_REQUEST_BYTES])
{
        memset(out, 0, FFS_RESOLVE_REQUEST_BYTES);
        cas_put_le32(out, FFS_RESOLVE_MAGIC);
        cas_put_le16(out + 4, (uint16_t)r->type);
        cas_put_le16(out + 6,
                     (uint16_t)((r->asks_again ? ASKS_AGAIN : 0) |
                                (r->knows_tiers ? KNOWS_TIERS : 0) | (r->was_bad ? WAS_BAD : 0)));
        cas_put_le64(out + 8, r->tag);
        if (r->type == FFS_RESOLVE_EXTENTS) {
                memcpy(out + 16, r->object.bytes, CAS_HASH_BYTES);
                cas_put_le32(out + 48, r->first_chunk);
                cas_put_le32(out + 52, r->count_max);
        } else if (r->type == FFS_RESOLVE_PACK) {
                cas_put_le64(out + 16, r->pack_id);
        } else if (r->type == FFS_RESOLVE_FILL) {
                cas_put_le64(out + 16, r->pack_id);
                cas_put_le64(out + 24, r->offset);
                cas_put_le32(out + 32, r->bytes);
        } else if (r->type == FFS_RESOLVE_TOUCHED) {
                cas_put_le32(out + 52, r->touches);
        }
}

void ffs_resolve_touch_encode(const struct ffs_resolve_touch *t,
                              uint8_t out[FFS_RESOLVE_TOUCH_BYTES])
{
        memset(out, 0, FFS_RESOLVE_TOUCH_BYTES);
        cas_put_le64(out, t->pack_id);
        cas_put_le64(out + 8, t->offset);
        cas_put_le32(out + 16, t->bytes);
        cas_put_le32(out + 20, t->was_bad);
}

void ffs_resolve_touch_decode(const void *msg, uint32_t i, struct ffs_resolve_touch *out)
{
        const uint8_t *p = (const uint8_t *)msg + FFS_RESOLVE_REQUEST_BYTES +
                           (size_t)i * FFS_RESOLVE_TOUCH_BYTES;
        *out = (struct ffs_resolve_touch){.pack_id = cas_get_le64(p),
                                          .offset = cas_get_le64(p + 8),
                                          .bytes = cas_get_le32(p + 16),
                                          .was_bad = (cas_get_le32(p + 20) & 1) != 0};
}

static int decode_fill(const uint8_t *p, struct ffs_resolve_request *out, struct cas_err *err)
{
        out->pack_id = cas_get_le64(p + 16);
        out->offset = cas_get_le64(p + 24);
        out->bytes = cas_get_le32(p + 32);
        if (out->bytes < 1 || out->bytes > FFS_RESOLVE_FILL_BYTES_MAX ||
            out->offset > (uint64_t)INT64_MAX - FFS_RESOLVE_FILL_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "resolve: %u bytes of a pack asked for",
                                out->bytes);
        return 0;
}

static int decode_touched(const uint8_t *p, size_t len, struct ffs_resolve_request *out,
                          struct cas_err *err)
{
        out->touches = cas_get_le32(p + 52);
        if (out->touches < 1 || out->touches > FFS_RESOLVE_TOUCHES_MAX ||
            len != FFS_RESOLVE_REQUEST_BYTES + (size_t)out->touches * FFS_RESOLVE_TOUCH_BYTES)
                return cas_fail(err, CAS_E_INVALID, "resolve: %u reads told of in %zu bytes",
                                out->touches, len);
        return 0;
}

int ffs_resolve_request_decode(const void *msg, size_t len, struct ffs_resolve_request *out,
                               struct cas_err *err)
{
        const uint8_t *p = msg;
        if (len < FFS_RESOLVE_REQUEST_BYTES || cas_get_le32(p) != FFS_RESOLVE_MAGIC)
                return cas_fail(err, CAS_E_INVALID, "not a resolve request");
        uint16_t type = cas_get_le16(p + 4), bits = cas_get_le16(p + 6);
        *out = (struct ffs_resolve_request){.asks_again = (bits & ASKS_AGAIN) != 0,
                                            .knows_tiers = (bits & KNOWS_TIERS) != 0,
                                            .was_bad = (bits & WAS_BAD) != 0,
                                            .tag = cas_get_le64(p + 8)};
        if (type != FFS_RESOLVE_TOUCHED && len != FFS_RESOLVE_REQUEST_BYTES)
                return cas_fail(err, CAS_E_INVALID, "resolve: a request of %zu bytes", len);
        switch (type) {
        case FFS_RESOLVE_PING:
                break;
        case FFS_RESOLVE_EXTENTS:
                memcpy(out->object.bytes, p + 16, CAS_HASH_BYTES);
                out->first_chunk = cas_get_le32(p + 48);
                out->count_max = cas_get_le32(p + 52);
                if (out->count_max < 1 || out->count_max > FFS_RESOLVE_EXTENTS_MAX)
                        return cas_fail(err, CAS_E_INVALID, "resolve: %u extents asked for",
                                        out->count_max);
                break;
        case FFS_RESOLVE_PACK:
                out->pack_id = cas_get_le64(p + 16);
                break;
        case FFS_RESOLVE_FILL:
                if (decode_fill(p, out, err) < 0)
                        return -(int)err->code;
                break;
        case FFS_RESOLVE_TOUCHED:
                if (decode_touched(p, len, out, err) < 0)
                        return -(int)err->code;
                break;
        default:
                return cas_fail(err, CAS_E_INVALID, "resolve: request of type %u", type);
        }
        out->type = (enum ffs_resolve_type)type;
        return 0;
}

static void append_extent(struct cas_buf *out, const struct cas_extent *e)
{
        cas_buf_append_le64(out, e->object_offset);
        cas_buf_append_le64(out, e->pack_id);
        cas_buf_append_le64(out, e->block_offset);
        cas_buf_append_le64(out, e->block_checksum);
        cas_buf_append_le32(out, e->length_bytes);
        cas_buf_append_le32(out, e->chunk_offset);
        cas_buf_append_le32(out, e->block_stored_bytes);
        cas_buf_append_le32(out, e->block_raw_bytes);
        cas_buf_append_byte(out, e->codec);
        cas_buf_append_zero(out, 7);
}

void ffs_resolve_reply_encode(const struct ffs_resolve_reply *r, const struct cas_extent *extents,
                              struct cas_buf *out)
{
        cas_assert(r->count <= FFS_RESOLVE_EXTENTS_MAX);
        cas_buf_append_le32(out, FFS_RESOLVE_MAGIC);
        cas_buf_append_le16(out, (uint16_t)r->type);
        cas_buf_append_le16(out, wire_code_of(r->code));
        cas_buf_append_le64(out, r->tag);
        cas_buf_append_le64(out, r->size_bytes);
        cas_buf_append_le32(out, r->chunk_count);
        cas_buf_append_le32(out, r->first_chunk);
        cas_buf_append_le32(out, r->count);
        cas_buf_append_le32(out, (r->home ? HAS_HOME : 0) | (r->cache ? HAS_CACHE : 0) |
                                         (r->wants_touched ? WANTS_TOUCHED : 0) |
                                         (r->fills ? FILLS : 0));
        for (uint32_t i = 0; i < r->count; i++)
                append_extent(out, &extents[i]);
}

static void take_extent(struct cas_cursor *c, struct cas_extent *e)
{
        e->object_offset = cas_cursor_le64(c);
        e->pack_id = cas_cursor_le64(c);
        e->block_offset = cas_cursor_le64(c);
        e->block_checksum = cas_cursor_le64(c);
        e->length_bytes = cas_cursor_le32(c);
        e->chunk_offset = cas_cursor_le32(c);
        e->block_stored_bytes = cas_cursor_le32(c);
        e->block_raw_bytes = cas_cursor_le32(c);
        e->codec = cas_cursor_u8(c);
        (void)cas_cursor_take(c, 7);
}

static bool extent_is_sane(const struct cas_extent *e, uint64_t size_bytes)
{
        return e->length_bytes > 0 && e->length_bytes <= CAS_CHUNK_BYTES_MAX &&
               e->object_offset <= size_bytes && e->length_bytes <= size_bytes - e->object_offset &&
               e->block_raw_bytes <= CAS_BLOCK_BYTES_MAX &&
               e->block_stored_bytes <= 2 * CAS_BLOCK_BYTES_MAX &&
               e->chunk_offset <= e->block_raw_bytes &&
               e->length_bytes <= e->block_raw_bytes - e->chunk_offset &&
               e->block_offset <= INT64_MAX - 2 * CAS_BLOCK_BYTES_MAX;
}

static int decode_extents(struct cas_cursor *c, const struct ffs_resolve_reply *r,
                          struct cas_extent *extents, struct cas_err *err)
{
        for (uint32_t i = 0; i < r->count; i++) {
                struct cas_extent *e = &extents[i];
                take_extent(c, e);
                bool follows = i == 0 ? (e->object_offset == 0) == (r->first_chunk == 0)
                                      : e->object_offset == extents[i - 1].object_offset +
                                                                    extents[i - 1].length_bytes;
                if (!follows || !extent_is_sane(e, r->size_bytes))
                        return cas_fail(err, CAS_E_INVALID, "resolve: extent %u is out of bounds",
                                        r->first_chunk + i);
        }
        return 0;
}

int ffs_resolve_reply_decode(const void *msg, size_t len, struct ffs_resolve_reply *out,
                             struct cas_extent *extents, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(msg, len);
        uint32_t magic = cas_cursor_le32(&c);
        uint16_t type = cas_cursor_le16(&c);
        uint16_t code = cas_cursor_le16(&c);
        struct ffs_resolve_reply r = {.tag = cas_cursor_le64(&c)};
        r.size_bytes = cas_cursor_le64(&c);
        r.chunk_count = cas_cursor_le32(&c);
        r.first_chunk = cas_cursor_le32(&c);
        r.count = cas_cursor_le32(&c);
        uint32_t bits = cas_cursor_le32(&c);
        if (c.failed || magic != FFS_RESOLVE_MAGIC || type < FFS_RESOLVE_PING ||
            type > FFS_RESOLVE_TOUCHED || !code_of_wire(code, &r.code))
                return cas_fail(err, CAS_E_INVALID, "not a resolve reply");
        r.type = (enum ffs_resolve_type)type;
        if (r.type == FFS_RESOLVE_PACK) {
                r.home = (bits & HAS_HOME) != 0;
                r.cache = (bits & HAS_CACHE) != 0;
                r.wants_touched = (bits & WANTS_TOUCHED) != 0;
                r.fills = (bits & FILLS) != 0;
        }
        if (r.count > FFS_RESOLVE_EXTENTS_MAX ||
            (r.count && (r.type != FFS_RESOLVE_EXTENTS || !extents)) ||
            r.size_bytes > CAS_OBJECT_BYTES_MAX || r.first_chunk > r.chunk_count ||
            r.count > r.chunk_count - r.first_chunk ||
            cas_cursor_left(&c) != (size_t)r.count * FFS_RESOLVE_EXTENT_BYTES)
                return cas_fail(err, CAS_E_INVALID, "resolve: a reply that contradicts itself");
        if (decode_extents(&c, &r, extents, err) < 0)
                return -(int)err->code;
        *out = r;
        return 0;
}
