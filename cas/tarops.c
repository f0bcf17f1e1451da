/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/tarops_int.h"

static int put_varint(struct cas_tarops *o, uint64_t v, struct cas_err *err)
{
        uint8_t bytes[10];
        size_t n = 0;
        while (v >= 0x80) {
                bytes[n++] = (uint8_t)(v | 0x80);
                v >>= 7;
        }
        bytes[n++] = (uint8_t)v;
        return cas_spool_append(o->writer->sections[CAS_RECIPE_TAR_OPS], bytes, n, err);
}

static int flush_run(struct cas_tarops *o, struct cas_err *err)
{
        uint64_t bytes = o->run_bytes;
        o->run_bytes = 0;
        return bytes > 0 ? put_varint(o, bytes << CAS_TAROP_KIND_BITS | o->run_kind, err) : 0;
}

static int put_op(struct cas_tarops *o, enum cas_tarop kind, uint64_t operand, struct cas_err *err)
{
        if (flush_run(o, err) < 0)
                return -(int)err->code;
        return put_varint(o, operand << CAS_TAROP_KIND_BITS | kind, err);
}

static int add_run(struct cas_tarops *o, enum cas_tarop kind, uint64_t bytes, struct cas_err *err)
{
        if (o->run_kind != kind && flush_run(o, err) < 0)
                return -(int)err->code;
        o->run_kind = kind;
        o->run_bytes += bytes;
        o->position += bytes;
        return 0;
}

int cas_tarops_own(struct cas_tarops *o, const void *data, size_t len, struct cas_err *err)
{
        o->stats.own_bytes += len;
        if (cas_spool_append(o->writer->sections[CAS_RECIPE_TAR_BYTES], data, len, err) < 0)
                return -(int)err->code;
        return add_run(o, CAS_TAROP_BYTES, len, err);
}

int cas_tarops_zeros(struct cas_tarops *o, uint64_t bytes, struct cas_err *err)
{
        return add_run(o, CAS_TAROP_ZEROS, bytes, err);
}

static int put_place(struct cas_tarops *o, const struct cas_listed *l, struct cas_err *err)
{
        if (o->current == l)
                return 0;
        if (put_op(o, CAS_TAROP_PLACE, cas_zigzag((int64_t)(l->start - o->place)), err) < 0)
                return -(int)err->code;
        o->place = l->end;
        o->current = l;
        return 0;
}

int cas_tarops_content(struct cas_tarops *o, const struct cas_listed *l, bool padded,
                       struct cas_err *err)
{
        uint64_t bytes = l->entry.size_bytes;
        if (put_place(o, l, err) < 0 ||
            put_op(o, CAS_TAROP_CONTENT, padded ? CAS_TAROP_CONTENT_PADDED : CAS_TAROP_CONTENT_BARE,
                   err) < 0)
                return -(int)err->code;
        o->stats.object_refs++;
        o->stats.object_bytes += bytes;
        o->position += padded ? cas_align_up(bytes, CAS_TAR_BLOCK_BYTES) : bytes;
        return 0;
}

/* The number of an object in TAR_OBJECTS. */
static int object_number(struct cas_tarops *o, const struct cas_hash *id, uint64_t *out,
                         struct cas_err *err)
{
        bool inserted;
        uint64_t *number = cas_map_put(o->objects, id->bytes, CAS_HASH_BYTES, &inserted);
        if (inserted) {
                *number = o->object_count++;
                if (cas_spool_append(o->writer->sections[CAS_RECIPE_TAR_OBJECTS], id->bytes,
                                     CAS_HASH_BYTES, err) < 0)
                        return -(int)err->code;
        }
        *out = *number;
        return 0;
}

int cas_tarops_object(struct cas_tarops *o, const struct cas_hash *id, uint64_t offset,
                      uint64_t bytes, struct cas_err *err)
{
        uint64_t number = 0;
        if (object_number(o, id, &number, err) < 0 ||
            put_op(o, CAS_TAROP_OBJECT, number, err) < 0 || put_varint(o, offset, err) < 0 ||
            put_varint(o, bytes, err) < 0)
                return -(int)err->code;
        o->stats.object_refs++;
        o->stats.object_bytes += bytes;
        o->position += bytes;
        return 0;
}

/* ---- headers ---- */

/* Bytes that are as foretold between two changes cost more than to be changed as well. */
#define KEPT_BYTES_MIN 4
#define CHANGES_MAX (CAS_TAR_BLOCK_BYTES / KEPT_BYTES_MIN)

struct change {
        size_t kept, bytes;
};

/* What must be changed in `foretold` to be `block`, the checksum left out. */
static size_t find_changes(const uint8_t *foretold, const uint8_t *block,
                           struct change changes[CHANGES_MAX])
{
        size_t count = 0, end = 0;
        for (size_t at = 0; at < CAS_TAR_BLOCK_BYTES; at++) {
                if (foretold[at] == block[at] ||
                    at - CAS_TARHEADER_CHECKSUM_AT < CAS_TARHEADER_CHECKSUM_BYTES)
                        continue;
                if (count > 0 && at - end < KEPT_BYTES_MIN)
                        changes[count - 1].bytes += at + 1 - end;
                else
                        changes[count++] = (struct change){.kept = at - end, .bytes = 1};
                end = at + 1;
        }
        return count;
}

static int put_changes(struct cas_tarops *o, const uint8_t *block, const struct change *changes,
                       size_t count, struct cas_err *err)
{
        struct cas_spool *bytes = o->writer->sections[CAS_RECIPE_TAR_BYTES];
        for (size_t i = 0, at = 0; i < count; i++) {
                at += changes[i].kept;
                if (put_varint(o, changes[i].kept, err) < 0 ||
                    put_varint(o, changes[i].bytes, err) < 0 ||
                    cas_spool_append(bytes, block + at, changes[i].bytes, err) < 0)
                        return -(int)err->code;
                at += changes[i].bytes;
                o->stats.own_bytes += changes[i].bytes;
        }
        return 0;
}

int cas_tarops_header(struct cas_tarops *o, const uint8_t block[CAS_TAR_BLOCK_BYTES],
                      const struct cas_listed *l, struct cas_err *err)
{
        struct change changes[CHANGES_MAX];
        uint8_t summed[CAS_TAR_BLOCK_BYTES], foretold[CAS_TAR_BLOCK_BYTES];
        const size_t sum_at = CAS_TARHEADER_CHECKSUM_AT, sum_bytes = CAS_TARHEADER_CHECKSUM_BYTES;
        uint64_t flags = l ? CAS_TAROP_HEADER_LISTED : 0;
        if (l && put_place(o, l, err) < 0)
                return -(int)err->code;
        cas_tarheader_foretell(&o->headers, l ? &l->entry : NULL, foretold);
        memcpy(summed, block, sizeof(summed));
        memcpy(summed + sum_at, foretold + sum_at, sum_bytes);
        cas_tarheader_set_checksum(summed);
        bool odd = memcmp(summed, block, sizeof(summed)) != 0;
        size_t count = find_changes(foretold, block, changes);
        if (odd)
                flags |= CAS_TAROP_HEADER_CHECKSUM;
        if (put_op(o, CAS_TAROP_HEADER, count << CAS_TAROP_HEADER_FLAG_BITS | flags, err) < 0 ||
            put_changes(o, block, changes, count, err) < 0 ||
            (odd && cas_spool_append(o->writer->sections[CAS_RECIPE_TAR_BYTES], block + sum_at,
                                     sum_bytes, err) < 0))
                return -(int)err->code;
        o->stats.own_bytes += odd ? sum_bytes : 0;
        o->position += CAS_TAR_BLOCK_BYTES;
        cas_tarheader_learn(&o->headers, l ? &l->entry : NULL, block);
        return 0;
}

/* ---- places to begin at ---- */

int cas_tarops_seek(struct cas_tarops *o, struct cas_err *err)
{
        uint8_t bytes[CAS_TARSEEK_BYTES];
        if (o->position < o->next_seek)
                return 0;
        if (flush_run(o, err) < 0)
                return -(int)err->code;
        if (o->position > 0 && put_op(o, CAS_TAROP_RESET, 0, err) < 0)
                return -(int)err->code;
        o->headers = (struct cas_tarheader_model){0};
        cas_put_le64(bytes, o->position);
        cas_put_le64(bytes + 8, cas_spool_bytes(o->writer->sections[CAS_RECIPE_TAR_OPS]));
        cas_put_le64(bytes + 16, cas_spool_bytes(o->writer->sections[CAS_RECIPE_TAR_BYTES]));
        cas_put_le64(bytes + 24, o->place);
        o->current = NULL;
        o->next_seek = o->position + CAS_TARSEEK_SPACING_BYTES;
        return cas_spool_append(o->writer->sections[CAS_RECIPE_TAR_SEEK], bytes, sizeof(bytes),
                                err);
}

/* ---- beginning and end ---- */

/* The first of TAR_OBJECTS is the listing; all zeros when there is none. */
int cas_tarops_begin(struct cas_tarops *o, struct cas_recipe_writer *w,
                     const struct cas_hash *listing, struct cas_err *err)
{
        static const struct cas_hash none;
        uint64_t number = 0;
        *o = (struct cas_tarops){.writer = w, .place = CAS_LISTING_HEAD_BYTES};
        o->objects = cas_map_new();
        return object_number(o, listing ? listing : &none, &number, err);
}

void cas_tarops_release(struct cas_tarops *o)
{
        cas_map_free(o->objects);
        *o = (struct cas_tarops){0};
}

int cas_tarops_finish(struct cas_tarops *o, struct cas_tarrecipe_stats *out, struct cas_err *err)
{
        if (flush_run(o, err) < 0)
                return -(int)err->code;
        o->stats.tar_bytes = o->writer->head.tar_bytes = o->position;
        *out = o->stats;
        return 0;
}
