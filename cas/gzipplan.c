/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/gzipplan_int.h"

#include "cas/record_int.h"

/* First byte of a group; the count of ends is in the two bits above. */
enum group_flag {
        GROUP_PREFIX = 1,
        GROUP_CODER = 2, /* another than that of the group before */
        GROUP_BEGINS = 4,
        GROUP_DICTIONARY = 8,
        GROUP_LISTED = 16, /* each part's length, not one for all */
        GROUP_TRAILER = 32
};
#define GROUP_ENDS_SHIFT 6

/* ---- writing ---- */

void cas_gzipplan_init(struct cas_gzipplan *p)
{
        *p = (struct cas_gzipplan){0};
}

void cas_gzipplan_release(struct cas_gzipplan *p)
{
        cas_buf_release(&p->bytes);
        cas_buf_release(&p->prefix);
        cas_buf_release(&p->lengths);
}

/* Whether the part can be of the group that is under way, but for its length. May settle which end
 * the group has. */
static bool is_alike(struct cas_gzipplan *p, const struct cas_gzip_part *part, const void *prefix,
                     size_t prefix_bytes, bool first_end_is_open)
{
        const struct cas_gzip_part *like = &p->like;
        if (p->group_count == 0 || part->class_id != like->class_id || part->level != like->level ||
            part->begins != like->begins || part->dictionary_bytes != like->dictionary_bytes ||
            part->end_count != like->end_count || part->has_trailer != like->has_trailer ||
            prefix_bytes != p->prefix.len_bytes ||
            (prefix_bytes > 0 && memcmp(prefix, p->prefix.data, prefix_bytes) != 0))
                return false;
        for (unsigned i = 1; i < part->end_count; i++)
                if (part->ends[i] != like->ends[i])
                        return false;
        if (part->end_count == 0)
                return true;
        if (part->ends[0] == like->ends[0]) {
                p->first_end_is_open &= first_end_is_open;
                return true;
        }
        if (p->first_end_is_open && part->ends[0] == CAS_DEFLATE_END_PIGZ) {
                p->like.ends[0] = CAS_DEFLATE_END_PIGZ;
                p->first_end_is_open = false;
                return true;
        }
        return first_end_is_open && like->ends[0] == CAS_DEFLATE_END_PIGZ;
}

static void close_group(struct cas_gzipplan *p)
{
        const struct cas_gzip_part *like = &p->like;
        if (p->group_count == 0)
                return;
        bool has_coder = like->class_id != p->coder_class || like->level != p->coder_level;
        cas_buf_append_byte(&p->bytes, (uint8_t)((p->prefix.len_bytes > 0 ? GROUP_PREFIX : 0) |
                                                 (has_coder ? GROUP_CODER : 0) |
                                                 (like->begins ? GROUP_BEGINS : 0) |
                                                 (like->dictionary_bytes ? GROUP_DICTIONARY : 0) |
                                                 (p->is_listed ? GROUP_LISTED : 0) |
                                                 (like->has_trailer ? GROUP_TRAILER : 0) |
                                                 like->end_count << GROUP_ENDS_SHIFT));
        if (p->prefix.len_bytes > 0) {
                cas_varint_append(&p->bytes, p->prefix.len_bytes);
                cas_buf_append(&p->bytes, p->prefix.data, p->prefix.len_bytes);
        }
        if (has_coder) {
                cas_buf_append_le16(&p->bytes, like->class_id);
                cas_buf_append_byte(&p->bytes, (uint8_t)like->level);
                p->coder_class = like->class_id;
                p->coder_level = like->level;
        }
        if (like->dictionary_bytes)
                cas_varint_append(&p->bytes, like->dictionary_bytes);
        cas_buf_append(&p->bytes, like->ends, like->end_count);
        cas_varint_append(&p->bytes, p->group_count);
        if (p->is_listed)
                cas_buf_append(&p->bytes, p->lengths.data, p->lengths.len_bytes);
        else
                cas_varint_append(&p->bytes, like->length_bytes);
        p->group_count = 0;
}

void cas_gzipplan_add(struct cas_gzipplan *p, const struct cas_gzip_part *part, const void *prefix,
                      size_t prefix_bytes, bool first_end_is_open)
{
        cas_assert(part->end_count <= CAS_GZIP_ENDS_MAX);
        cas_assert(prefix_bytes <= CAS_GZIP_PREFIX_BYTES_MAX);
        bool alike = is_alike(p, part, prefix, prefix_bytes, first_end_is_open);
        bool same_length = alike && part->length_bytes == p->like.length_bytes;
        p->part_count++;
        if (alike && (p->is_listed || same_length || p->group_count == 1)) {
                if (!p->is_listed && !same_length) {
                        p->is_listed = true;
                        cas_varint_append(&p->lengths, p->like.length_bytes);
                }
                if (p->is_listed)
                        cas_varint_append(&p->lengths, part->length_bytes);
                p->group_count++;
                return;
        }
        close_group(p);
        p->like = *part;
        p->first_end_is_open = first_end_is_open;
        cas_buf_clear(&p->prefix);
        cas_buf_append(&p->prefix, prefix, prefix_bytes);
        cas_buf_clear(&p->lengths);
        p->is_listed = false;
        p->group_count = 1;
}

void cas_gzipplan_finish(struct cas_gzipplan *p)
{
        close_group(p);
}

/* ---- reading ---- */

int cas_gzipplan_reader_init(struct cas_gzipplan_reader *pr, struct cas_recipe *r,
                             struct cas_err *err)
{
        *pr = (struct cas_gzipplan_reader){0};
        cas_recipe_stream_init(&pr->stream, r, CAS_RECIPE_WRAP, 0);
        if (cas_recipe_head(r)->section_bytes[CAS_RECIPE_WRAP] > CAS_GZIP_PLAN_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "gzip plan: too long");
        return 0;
}

void cas_gzipplan_reader_release(struct cas_gzipplan_reader *pr)
{
        cas_recipe_stream_release(&pr->stream);
}

static int bad_plan(struct cas_err *err, const char *what)
{
        return cas_fail(err, CAS_E_CORRUPT, "gzip plan: %s", what);
}

/* Prefix and coder. */
static int read_group_head(struct cas_gzipplan_reader *pr, uint8_t flags, struct cas_err *err)
{
        struct cas_gzip_part *like = &pr->like;
        uint64_t bytes = 0;
        like->prefix_bytes = 0;
        if (flags & GROUP_PREFIX) {
                if (cas_recipe_stream_varint(&pr->stream, &bytes, err) < 0)
                        return -(int)err->code;
                if (bytes == 0 || bytes > CAS_GZIP_PREFIX_BYTES_MAX)
                        return bad_plan(err, "length of a prefix");
                like->prefix_bytes = (uint32_t)bytes;
                like->prefix_at = pr->stream.offset;
                if (cas_recipe_stream_skip(&pr->stream, bytes, err) < 0)
                        return -(int)err->code;
        }
        if (flags & GROUP_CODER) {
                uint8_t coder[3];
                if (cas_recipe_stream_read(&pr->stream, coder, sizeof(coder), err) < 0)
                        return -(int)err->code;
                like->class_id = cas_get_le16(coder);
                like->level = (int8_t)coder[2];
        }
        return 0;
}

static int read_group(struct cas_gzipplan_reader *pr, struct cas_err *err)
{
        struct cas_gzip_part *like = &pr->like;
        uint8_t flags;
        uint64_t dictionary = 0;
        if (cas_recipe_stream_read(&pr->stream, &flags, 1, err) < 0 ||
            read_group_head(pr, flags, err) < 0)
                return -(int)err->code;
        like->begins = flags & GROUP_BEGINS;
        like->has_trailer = flags & GROUP_TRAILER;
        like->end_count = flags >> GROUP_ENDS_SHIFT;
        pr->is_listed = flags & GROUP_LISTED;
        if (flags & GROUP_DICTIONARY) {
                if (cas_recipe_stream_varint(&pr->stream, &dictionary, err) < 0)
                        return -(int)err->code;
                if (!like->begins || dictionary == 0 || dictionary > CAS_GZIP_DICTIONARY_BYTES_MAX)
                        return bad_plan(err, "dictionary");
        }
        like->dictionary_bytes = (uint32_t)dictionary;
        if (cas_recipe_stream_read(&pr->stream, like->ends, like->end_count, err) < 0 ||
            cas_recipe_stream_varint(&pr->stream, &pr->left_count, err) < 0)
                return -(int)err->code;
        for (unsigned i = 0; i < like->end_count; i++)
                if (like->ends[i] < CAS_DEFLATE_END_FINISH || like->ends[i] > CAS_DEFLATE_END_PIGZ)
                        return bad_plan(err, "unknown end");
        if (pr->left_count == 0)
                return bad_plan(err, "empty group");
        return pr->is_listed ? 0 : cas_recipe_stream_varint(&pr->stream, &like->length_bytes, err);
}

int cas_gzipplan_reader_next(struct cas_gzipplan_reader *pr, struct cas_gzip_part *out,
                             bool *out_has, struct cas_err *err)
{
        *out_has = pr->left_count > 0 || cas_recipe_stream_left(&pr->stream) > 0;
        if (!*out_has)
                return 0;
        if (pr->left_count == 0 && read_group(pr, err) < 0)
                return -(int)err->code;
        if (pr->is_listed && cas_recipe_stream_varint(&pr->stream, &pr->like.length_bytes, err) < 0)
                return -(int)err->code;
        pr->left_count--;
        *out = pr->like;
        return 0;
}

int cas_gzipplan_reader_skip(struct cas_gzipplan_reader *pr, uint64_t count, struct cas_err *err)
{
        while (count > 0) {
                if (pr->left_count > 0 && !pr->is_listed) {
                        uint64_t n = cas_min_u64(count, pr->left_count);
                        pr->left_count -= n;
                        count -= n;
                        continue;
                }
                struct cas_gzip_part part;
                bool has;
                if (cas_gzipplan_reader_next(pr, &part, &has, err) < 0)
                        return -(int)err->code;
                if (!has)
                        return bad_plan(err, "a mark behind its end");
                count--;
        }
        return 0;
}
