/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/gzipmark_int.h"

#include "cas/record_int.h"

enum mark_kind { MARK_BEFORE_PART = 0, MARK_WITHIN_PART = 1 };

void cas_gzip_mark_encode(const struct cas_gzip_mark *m, struct cas_recipe_mark *out)
{
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        cas_buf_append_byte(&b, m->is_within ? MARK_WITHIN_PART : MARK_BEFORE_PART);
        cas_varint_append(&b, m->part_index);
        cas_varint_append(&b, m->window_bytes);
        if (m->is_within) {
                cas_varint_append(&b, m->fed_bytes);
                cas_varint_append(&b, m->seen_bytes);
                cas_varint_append(&b, m->encoder.in_bytes);
                cas_varint_append(&b, m->encoder.out_bytes);
                cas_buf_append(&b, m->encoder.state, m->encoder.state_bytes);
        }
        _Static_assert(1 + 6 * 10 + CAS_DEFLATE_STATE_BYTES_MAX <= CAS_MARK_STATE_BYTES_MAX,
                       "room for all numbers");
        out->state_bytes = (uint8_t)b.len_bytes;
        memcpy(out->state, b.data, b.len_bytes);
}

int cas_gzip_mark_decode(const struct cas_recipe_mark *mark, struct cas_gzip_mark *out,
                         struct cas_err *err)
{
        *out = (struct cas_gzip_mark){0};
        if (mark->state_bytes == 0 && mark->blob_offset == 0 && mark->tar_offset == 0)
                return 0;
        struct cas_cursor c = cas_cursor_over(mark->state, mark->state_bytes);
        uint8_t kind = cas_cursor_u8(&c);
        out->part_index = cas_cursor_varint(&c);
        uint64_t window = cas_cursor_varint(&c), seen = 0;
        out->is_within = kind == MARK_WITHIN_PART;
        if (out->is_within) {
                out->fed_bytes = cas_cursor_varint(&c);
                seen = cas_cursor_varint(&c);
                out->encoder.in_bytes = cas_cursor_varint(&c);
                out->encoder.out_bytes = cas_cursor_varint(&c);
                size_t left = cas_cursor_left(&c);
                if (left > CAS_DEFLATE_STATE_BYTES_MAX)
                        return cas_fail(err, CAS_E_CORRUPT, "gzip mark: too much state");
                const uint8_t *state = cas_cursor_take(&c, left);
                out->encoder.state_bytes = (uint8_t)left;
                if (state && left > 0)
                        memcpy(out->encoder.state, state, left);
        }
        if (c.failed || kind > MARK_WITHIN_PART || cas_cursor_left(&c) > 0 ||
            window > CAS_GZIP_WINDOW_BYTES_MAX || seen > window)
                return cas_fail(err, CAS_E_CORRUPT, "gzip mark: invalid");
        out->window_bytes = (uint32_t)window;
        out->seen_bytes = (uint32_t)seen;
        return 0;
}
