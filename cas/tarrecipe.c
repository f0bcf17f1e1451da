/* SPDX-License-Identifier: Apache-2.0 */
/* The tar stream of a recipe, made again from any byte on (spec/recipe.md). Operations are read
 * one by one; memory is a buffer for output, one for each section, and a window of the listing. No
 * operation makes more than what is missing of the recipe's tar_bytes. */
#include <inttypes.h>

#include "cas/listingwindow_int.h"
#include "cas/tarrecipe_int.h"

#define BUFFER_BYTES (128 * CAS_KIB)
#define IDLE_OPS_MAX 64 /* in a row, which make nothing */

/* What is made at present. */
enum piece_kind { PIECE_BYTES, PIECE_ZEROS, PIECE_OBJECT, PIECE_INLINE, PIECE_HEADER };

struct cas_tarrecipe_reader {
        struct cas_recipe *recipe; /* borrowed */
        struct cas_recipe_stream ops, bytes;
        struct cas_listing_window *listing; /* NULL: the recipe has none */
        uint64_t object_count;              /* hashes in TAR_OBJECTS */
        uint64_t position;                  /* in the tar, of what comes next */

        bool has_entry; /* a place was gone to */
        struct cas_listing_place place;
        struct cas_tarheader_model headers;
        uint8_t header[CAS_TAR_BLOCK_BYTES];

        unsigned idle_ops;
        enum piece_kind kind;
        uint64_t piece_left;
        uint64_t padding_left; /* zeros after the piece */
        struct cas_hash object;
        uint64_t object_offset; /* in it, or in what is inline or the header, of what comes next */

        uint8_t *buffer; /* owned; made and not given yet is [at, end) */
        size_t at, end;
};

static int fail_op(struct cas_tarrecipe_reader *t, const char *what, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "recipe: tar at byte %" PRIu64 ": %s", t->position,
                        what);
}

/* ---- operations ---- */

static int object_id(struct cas_tarrecipe_reader *t, uint64_t number, struct cas_hash *out,
                     struct cas_err *err)
{
        if (number >= t->object_count)
                return fail_op(t, "an object that it does not list", err);
        return cas_recipe_read(t->recipe, CAS_RECIPE_TAR_OBJECTS, number * CAS_HASH_BYTES,
                               out->bytes, CAS_HASH_BYTES, err);
}

static int op_place(struct cas_tarrecipe_reader *t, uint64_t operand, struct cas_err *err)
{
        if (!t->listing)
                return fail_op(t, "a listing that it does not name", err);
        uint64_t at = t->place.end + (uint64_t)cas_unzigzag(operand);
        t->has_entry = false; /* the entry before is released in any case */
        if (cas_listing_window_read(t->listing, at, &t->place, err) < 0)
                return -(int)err->code;
        t->has_entry = true;
        return 0;
}

static int op_content(struct cas_tarrecipe_reader *t, uint64_t operand, struct cas_err *err)
{
        const struct cas_entry *e = &t->place.entry;
        if (!t->has_entry || e->type != CAS_ENTRY_FILE || operand > CAS_TAROP_CONTENT_BARE)
                return fail_op(t, "content of what is no file", err);
        t->kind = e->size_bytes <= CAS_INLINE_BYTES_MAX ? PIECE_INLINE : PIECE_OBJECT;
        t->piece_left = e->size_bytes;
        t->object = e->object;
        t->object_offset = 0;
        if (operand == CAS_TAROP_CONTENT_PADDED)
                t->padding_left = cas_align_up(e->size_bytes, CAS_TAR_BLOCK_BYTES) - e->size_bytes;
        return 0;
}

static int op_object(struct cas_tarrecipe_reader *t, uint64_t operand, struct cas_err *err)
{
        t->kind = PIECE_OBJECT;
        if (object_id(t, operand, &t->object, err) < 0 ||
            cas_recipe_stream_varint(&t->ops, &t->object_offset, err) < 0 ||
            cas_recipe_stream_varint(&t->ops, &t->piece_left, err) < 0)
                return -(int)err->code;
        if (t->object_offset > CAS_OBJECT_BYTES_MAX)
                return fail_op(t, "a piece of an object beyond its end", err);
        return 0;
}

/* The bytes of a header that are not as foretold. */
static int change_header(struct cas_tarrecipe_reader *t, uint64_t changes, struct cas_err *err)
{
        size_t at = 0;
        for (uint64_t i = 0; i < changes; i++) {
                uint64_t kept = 0, bytes = 0;
                if (cas_recipe_stream_varint(&t->ops, &kept, err) < 0 ||
                    cas_recipe_stream_varint(&t->ops, &bytes, err) < 0)
                        return -(int)err->code;
                if (kept > sizeof(t->header) - at || bytes > sizeof(t->header) - at - kept ||
                    bytes == 0)
                        return fail_op(t, "a change beyond the end of a header", err);
                at += kept;
                if (cas_recipe_stream_read(&t->bytes, t->header + at, bytes, err) < 0)
                        return -(int)err->code;
                at += bytes;
        }
        return 0;
}

static int op_header(struct cas_tarrecipe_reader *t, uint64_t operand, struct cas_err *err)
{
        const struct cas_entry *e = NULL;
        if (operand & CAS_TAROP_HEADER_LISTED)
                e = &t->place.entry;
        if (e && !t->has_entry)
                return fail_op(t, "a header of no entry", err);
        cas_tarheader_foretell(&t->headers, e, t->header);
        if (change_header(t, operand >> CAS_TAROP_HEADER_FLAG_BITS, err) < 0)
                return -(int)err->code;
        if (!(operand & CAS_TAROP_HEADER_CHECKSUM))
                cas_tarheader_set_checksum(t->header);
        else if (cas_recipe_stream_read(&t->bytes, t->header + CAS_TARHEADER_CHECKSUM_AT,
                                        CAS_TARHEADER_CHECKSUM_BYTES, err) < 0)
                return -(int)err->code;
        cas_tarheader_learn(&t->headers, e, t->header);
        t->kind = PIECE_HEADER;
        t->piece_left = sizeof(t->header);
        t->object_offset = 0;
        return 0;
}

static int op_reset(struct cas_tarrecipe_reader *t, uint64_t operand, struct cas_err *err)
{
        if (operand != 0)
                return fail_op(t, "an operation that is not known", err);
        t->has_entry = false;
        t->headers = (struct cas_tarheader_model){0};
        return 0;
}

/* The next operation; it may make nothing. */
static int next_op(struct cas_tarrecipe_reader *t, struct cas_err *err)
{
        uint64_t op;
        int ret = 0;
        if (cas_recipe_stream_varint(&t->ops, &op, err) < 0)
                return -(int)err->code;
        uint64_t operand = op >> CAS_TAROP_KIND_BITS;
        switch (op & ((1U << CAS_TAROP_KIND_BITS) - 1)) {
        case CAS_TAROP_BYTES:
                t->kind = PIECE_BYTES;
                t->piece_left = operand;
                break;
        case CAS_TAROP_ZEROS:
                t->kind = PIECE_ZEROS;
                t->piece_left = operand;
                break;
        case CAS_TAROP_PLACE:
                ret = op_place(t, operand, err);
                break;
        case CAS_TAROP_CONTENT:
                ret = op_content(t, operand, err);
                break;
        case CAS_TAROP_OBJECT:
                ret = op_object(t, operand, err);
                break;
        case CAS_TAROP_HEADER:
                ret = op_header(t, operand, err);
                break;
        case CAS_TAROP_RESET:
                ret = op_reset(t, operand, err);
                break;
        default:
                ret = fail_op(t, "an operation that is not known", err);
                break;
        }
        if (ret < 0)
                return ret;
        uint64_t left = cas_recipe_head(t->recipe)->tar_bytes - t->position;
        if (t->piece_left > left || t->padding_left > left - t->piece_left)
                return fail_op(t, "more than its length", err);
        t->idle_ops = t->piece_left > 0 ? 0 : t->idle_ops + 1;
        if (t->idle_ops > IDLE_OPS_MAX)
                return fail_op(t, "operations that make nothing", err);
        return 0;
}

/* ---- output ---- */

static int give_object(struct cas_tarrecipe_reader *t, void *buf, size_t len, struct cas_err *err)
{
        size_t got = 0;
        if (cas_object_pread(cas_recipe_store(t->recipe), &t->object, t->object_offset, buf, len,
                             &got, err) < 0)
                return -(int)err->code;
        return got == len ? 0 : fail_op(t, "a piece of an object beyond its end", err);
}

/* len bytes of the piece, out of those that are left; buf NULL: they are passed over. */
static int give_piece(struct cas_tarrecipe_reader *t, uint8_t *buf, size_t len, struct cas_err *err)
{
        switch (t->kind) {
        case PIECE_BYTES:
                if (!buf)
                        return cas_recipe_stream_skip(&t->bytes, len, err);
                return cas_recipe_stream_read(&t->bytes, buf, len, err);
        case PIECE_ZEROS:
                if (buf)
                        memset(buf, 0, len);
                return 0;
        case PIECE_OBJECT:
                if (buf && give_object(t, buf, len, err) < 0)
                        return -(int)err->code;
                t->object_offset += len;
                return 0;
        case PIECE_INLINE:
                if (buf)
                        memcpy(buf, t->place.entry.inline_data + t->object_offset, len);
                t->object_offset += len;
                return 0;
        case PIECE_HEADER:
                if (buf)
                        memcpy(buf, t->header + t->object_offset, len);
                t->object_offset += len;
                return 0;
        }
        return 0;
}

/* Makes up to len bytes; fewer only at the end. */
static int give(struct cas_tarrecipe_reader *t, uint8_t *buf, uint64_t len, uint64_t *out_len,
                struct cas_err *err)
{
        uint64_t done = 0;
        while (done < len) {
                if (t->piece_left == 0 && t->padding_left > 0) {
                        t->kind = PIECE_ZEROS;
                        t->piece_left = t->padding_left;
                        t->padding_left = 0;
                }
                if (t->piece_left == 0) {
                        if (cas_recipe_stream_left(&t->ops) == 0)
                                break;
                        if (next_op(t, err) < 0)
                                return -(int)err->code;
                        continue;
                }
                size_t n = cas_min_u64(len - done, t->piece_left);
                if (give_piece(t, buf ? buf + done : NULL, n, err) < 0)
                        return -(int)err->code;
                t->piece_left -= n;
                t->position += n;
                done += n;
        }
        if (done < len && t->position != cas_recipe_head(t->recipe)->tar_bytes)
                return fail_op(t, "less than its length", err);
        *out_len = done;
        return 0;
}

int cas_tarrecipe_read(void *reader, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct cas_tarrecipe_reader *t = reader;
        uint64_t n = 0;
        if (t->at == t->end && len >= BUFFER_BYTES) {
                if (give(t, buf, len, &n, err) < 0)
                        return -(int)err->code;
                *out_len = n;
                return 0;
        }
        if (t->at == t->end) {
                if (give(t, t->buffer, BUFFER_BYTES, &n, err) < 0)
                        return -(int)err->code;
                t->at = 0;
                t->end = n;
        }
        *out_len = cas_min_u64(len, t->end - t->at);
        if (*out_len > 0)
                memcpy(buf, t->buffer + t->at, *out_len);
        t->at += *out_len;
        return 0;
}

/* ---- opening ---- */

static int seek_entry(struct cas_recipe *r, uint64_t index, struct cas_tarseek *out,
                      struct cas_err *err)
{
        uint8_t bytes[CAS_TARSEEK_BYTES];
        if (cas_recipe_read(r, CAS_RECIPE_TAR_SEEK, index * CAS_TARSEEK_BYTES, bytes, sizeof(bytes),
                            err) < 0)
                return -(int)err->code;
        *out = (struct cas_tarseek){
                .tar_offset = cas_get_le64(bytes),
                .ops_offset = cas_get_le64(bytes + 8),
                .bytes_offset = cas_get_le64(bytes + 16),
                .place = cas_get_le64(bytes + 24),
        };
        return 0;
}

/* The last entry at or before offset. */
static int find_seek(struct cas_recipe *r, uint64_t offset, struct cas_tarseek *out,
                     struct cas_err *err)
{
        uint64_t low = 0;
        uint64_t high = cas_recipe_head(r)->section_bytes[CAS_RECIPE_TAR_SEEK] / CAS_TARSEEK_BYTES;
        *out = (struct cas_tarseek){.place = CAS_LISTING_HEAD_BYTES};
        while (low < high) {
                struct cas_tarseek entry = {0};
                uint64_t middle = low + (high - low) / 2;
                if (seek_entry(r, middle, &entry, err) < 0)
                        return -(int)err->code;
                if (entry.tar_offset <= offset) {
                        *out = entry;
                        low = middle + 1;
                } else {
                        high = middle;
                }
        }
        return 0;
}

static int open_listing(struct cas_tarrecipe_reader *t, struct cas_err *err)
{
        static const struct cas_hash none;
        struct cas_hash listing;
        if (t->object_count == 0)
                return 0;
        if (object_id(t, 0, &listing, err) < 0)
                return -(int)err->code;
        if (cas_hash_equal(&listing, &none))
                return 0;
        return cas_listing_window_open(cas_recipe_store(t->recipe), &listing, &t->listing, err);
}

static int reader_new(struct cas_recipe *r, struct cas_tarrecipe_reader **out, struct cas_err *err)
{
        uint64_t bytes = cas_recipe_head(r)->section_bytes[CAS_RECIPE_TAR_OBJECTS];
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = cas_xcalloc(1, sizeof(*t));
        t->recipe = r;
        t->buffer = cas_xmalloc(BUFFER_BYTES);
        t->object_count = bytes / CAS_HASH_BYTES;
        if (bytes % CAS_HASH_BYTES != 0 ||
            cas_recipe_head(r)->section_bytes[CAS_RECIPE_TAR_SEEK] % CAS_TARSEEK_BYTES != 0)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a section of odd length");
        if (open_listing(t, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&t);
        return 0;
}

int cas_tarrecipe_open(struct cas_recipe *r, uint64_t offset, struct cas_tarrecipe_reader **out,
                       struct cas_err *err)
{
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = NULL;
        struct cas_tarseek seek = {0};
        uint64_t passed = 0;
        if (offset > cas_recipe_head(r)->tar_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: byte %" PRIu64 " is beyond its tar",
                                offset);
        if (reader_new(r, &t, err) < 0 || find_seek(r, offset, &seek, err) < 0)
                return -(int)err->code;
        cas_recipe_stream_init(&t->ops, r, CAS_RECIPE_TAR_OPS, seek.ops_offset);
        cas_recipe_stream_init(&t->bytes, r, CAS_RECIPE_TAR_BYTES, seek.bytes_offset);
        t->place.end = seek.place;
        t->position = seek.tar_offset;
        if (give(t, NULL, offset - seek.tar_offset, &passed, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&t);
        return 0;
}

void cas_tarrecipe_close(struct cas_tarrecipe_reader *t)
{
        if (!t)
                return;
        cas_recipe_stream_release(&t->ops);
        cas_recipe_stream_release(&t->bytes);
        cas_listing_window_close(t->listing);
        free(t->buffer);
        free(t);
}

/* ---- what it refers to ---- */

int cas_tarrecipe_each_object(struct cas_recipe *r,
                              int (*fn)(void *arg, const struct cas_hash *object,
                                        struct cas_err *err),
                              void *arg, struct cas_err *err)
{
        static const struct cas_hash none;
        cas_cleanup_tarrecipe struct cas_tarrecipe_reader *t = NULL;
        struct cas_hash id;
        if (reader_new(r, &t, err) < 0)
                return -(int)err->code;
        for (uint64_t i = 0; i < t->object_count; i++)
                if (object_id(t, i, &id, err) < 0 ||
                    (!cas_hash_equal(&id, &none) && fn(arg, &id, err) < 0))
                        return -(int)err->code;
        cas_recipe_stream_init(&t->ops, r, CAS_RECIPE_TAR_OPS, 0);
        cas_recipe_stream_init(&t->bytes, r, CAS_RECIPE_TAR_BYTES, 0);
        t->place.end = CAS_LISTING_HEAD_BYTES;
        while (cas_recipe_stream_left(&t->ops) > 0) {
                t->kind = PIECE_ZEROS;
                if (next_op(t, err) < 0 ||
                    (t->kind == PIECE_OBJECT && fn(arg, &t->object, err) < 0) ||
                    (t->kind == PIECE_BYTES &&
                     cas_recipe_stream_skip(&t->bytes, t->piece_left, err) < 0))
                        return -(int)err->code;
                t->position += t->piece_left + t->padding_left;
                t->piece_left = t->padding_left = 0;
        }
        return 0;
}
