/* SPDX-License-Identifier: Apache-2.0 */
/* The blob again: segment by segment, each from its plain bytes and its corrections. Memory: one
 * segment's plain bytes (6 MiB), its corrections (1 MiB) and what one item makes (1 MiB). */
#include "cas/gzipdiff_int.h"

/* ---- heads of segments ---- */

void cas_gzipdiff_head_put(const struct cas_gzipdiff_head *h, uint8_t out[CAS_GZIPDIFF_HEAD_BYTES])
{
        memset(out, 0, CAS_GZIPDIFF_HEAD_BYTES);
        cas_put_le32(out, h->plain_bytes);
        cas_put_le32(out + 4, h->corrections_bytes);
        cas_put_le32(out + 8, h->window_bytes);
        out[12] = h->start_bits;
        out[13] = h->start;
        cas_difference_params_put(&h->params, out + 14);
}
_Static_assert(14 + CAS_DIFFERENCE_PARAMS_BYTES <= CAS_GZIPDIFF_HEAD_BYTES, "head's size");

int cas_gzipdiff_head_get(const uint8_t in[CAS_GZIPDIFF_HEAD_BYTES], struct cas_gzipdiff_head *out,
                          struct cas_err *err)
{
        struct cas_gzipdiff_head h = {.plain_bytes = cas_get_le32(in),
                                      .corrections_bytes = cas_get_le32(in + 4),
                                      .window_bytes = cas_get_le32(in + 8),
                                      .start_bits = in[12],
                                      .start = in[13]};
        bool zero = true;
        for (unsigned i = 14 + CAS_DIFFERENCE_PARAMS_BYTES; i < CAS_GZIPDIFF_HEAD_BYTES; i++)
                zero &= in[i] == 0;
        if (!cas_difference_params_get(in + 14, &h.params) || !zero ||
            h.plain_bytes > CAS_DIFFERENCE_PLAIN_BYTES_MAX ||
            h.corrections_bytes > CAS_GZIPDIFF_CORRECTIONS_BYTES_MAX ||
            h.window_bytes > CAS_DIFFERENCE_WINDOW_BYTES || h.start_bits > 7 ||
            h.start >> h.start_bits != 0)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: impossible head of a segment");
        *out = h;
        return 0;
}

/* ---- reading ---- */

struct reader {
        struct cas_wrap_reader base;
        struct cas_recipe *recipe; /* borrowed */
        cas_source_fn tar;
        void *tar_arg;
        uint64_t data_offset; /* of the next segment in WRAP_DATA */
        uint64_t left_bytes;  /* of the blob, as the recipe says */
        struct cas_difference *difference;
        bool is_begun; /* there was a segment */
        bool in_segment;
        uint8_t *plain; /* window, plain bytes, slack */
        size_t plain_len;
        struct cas_buf corrections;
        struct cas_buf out;
        size_t out_at;
};

#define PLAIN_ROOM                                                                                 \
        (CAS_DIFFERENCE_WINDOW_BYTES + CAS_DIFFERENCE_PLAIN_BYTES_MAX + CAS_PREDICT_SLACK_BYTES)

static void diff_close(struct cas_wrap_reader *wr)
{
        struct reader *r = (struct reader *)wr;
        cas_difference_free(r->difference);
        free(r->plain);
        cas_buf_release(&r->corrections);
        cas_buf_release(&r->out);
        free(r);
}

static int check_version(struct cas_recipe *recipe, struct cas_err *err)
{
        uint8_t wrap[CAS_GZIPDIFF_WRAP_BYTES];
        if (cas_recipe_head(recipe)->section_bytes[CAS_RECIPE_WRAP] != sizeof(wrap))
                return cas_fail(err, CAS_E_CORRUPT, "recipe: section of a wrong size");
        if (cas_recipe_read(recipe, CAS_RECIPE_WRAP, 0, wrap, sizeof(wrap), err) < 0)
                return -(int)err->code;
        if (cas_get_le64(wrap) != CAS_GZIPDIFF_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "recipe: unknown version of differences");
        return 0;
}

static int diff_open(struct cas_recipe *recipe, const struct cas_recipe_mark *mark,
                     cas_source_fn tar, void *tar_arg, struct cas_wrap_reader **out,
                     struct cas_err *err)
{
        const struct cas_recipe_head *head = cas_recipe_head(recipe);
        if (check_version(recipe, err) < 0)
                return -(int)err->code;
        if (mark->state_bytes != CAS_GZIPDIFF_STATE_BYTES || mark->blob_offset > head->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: impossible mark");
        struct reader *r = cas_xcalloc(1, sizeof(*r));
        r->base.ops = &cas_wrap_gzip_diff;
        r->recipe = recipe;
        r->tar = tar;
        r->tar_arg = tar_arg;
        r->data_offset = cas_get_le64(mark->state);
        r->left_bytes = head->blob_bytes - mark->blob_offset;
        r->difference = cas_difference_new();
        r->plain = cas_xmalloc(PLAIN_ROOM);
        *out = &r->base;
        return 0;
}

static int read_plain(struct reader *r, size_t want, struct cas_err *err)
{
        while (r->plain_len < want) {
                size_t got = 0;
                if (r->tar(r->tar_arg, r->plain + r->plain_len, want - r->plain_len, &got, err) < 0)
                        return -(int)err->code;
                if (got == 0)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "recipe: the tar stream ends too early");
                r->plain_len += got;
        }
        return 0;
}

/* The plain bytes: what is kept of those before is the window, or comes first when the stream was
 * begun here. */
static int fill_plain(struct reader *r, const struct cas_gzipdiff_head *head, bool first,
                      struct cas_err *err)
{
        size_t window = head->window_bytes;
        if (!first) {
                if (window > r->plain_len)
                        return cas_fail(err, CAS_E_CORRUPT, "recipe: no such window");
                memmove(r->plain, r->plain + r->plain_len - window, window);
                r->plain_len = window;
        }
        if (read_plain(r, window + head->plain_bytes, err) < 0)
                return -(int)err->code;
        memset(r->plain + r->plain_len, 0, CAS_PREDICT_SLACK_BYTES);
        return 0;
}

static int begin_segment(struct reader *r, struct cas_err *err)
{
        uint64_t data_bytes = cas_recipe_head(r->recipe)->section_bytes[CAS_RECIPE_WRAP_DATA];
        uint8_t bytes[CAS_GZIPDIFF_HEAD_BYTES];
        struct cas_gzipdiff_head head;
        if (r->data_offset >= data_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: the corrections end too early");
        if (cas_recipe_read(r->recipe, CAS_RECIPE_WRAP_DATA, r->data_offset, bytes, sizeof(bytes),
                            err) < 0 ||
            cas_gzipdiff_head_get(bytes, &head, err) < 0)
                return -(int)err->code;
        if (r->is_begun && (head.start_bits != cas_difference_pending_bits(r->difference) ||
                            head.start != cas_difference_pending(r->difference)))
                return cas_fail(err, CAS_E_CORRUPT, "recipe: segments do not follow each other");
        cas_buf_clear(&r->corrections);
        cas_buf_reserve(&r->corrections, head.corrections_bytes + 1U); /* never NULL */
        if (cas_recipe_read(r->recipe, CAS_RECIPE_WRAP_DATA, r->data_offset + sizeof(bytes),
                            r->corrections.data, head.corrections_bytes, err) < 0 ||
            fill_plain(r, &head, !r->is_begun, err) < 0)
                return -(int)err->code;
        r->data_offset += sizeof(bytes) + head.corrections_bytes;
        struct cas_difference_plain plain = {.data = r->plain,
                                             .window_bytes = head.window_bytes,
                                             .plain_bytes = head.plain_bytes};
        cas_difference_decode_begin(r->difference, &head.params, &plain, r->corrections.data,
                                    head.corrections_bytes, head.start, head.start_bits);
        r->is_begun = r->in_segment = true;
        return 0;
}

/* Makes more of the blob, at least a byte. */
static int make_more(struct reader *r, struct cas_err *err)
{
        cas_buf_clear(&r->out);
        r->out_at = 0;
        while (r->out.len_bytes == 0) {
                bool more = false;
                if (!r->in_segment && begin_segment(r, err) < 0)
                        return -(int)err->code;
                if (cas_difference_decode(r->difference, &r->out, &more, err) < 0)
                        return cas_err_wrap(err, "recipe");
                r->in_segment = more;
        }
        if (r->out.len_bytes > r->left_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: makes more than the blob");
        r->left_bytes -= r->out.len_bytes;
        return 0;
}

static int diff_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        struct reader *r = (struct reader *)wr;
        *out_len = 0;
        if (r->out_at == r->out.len_bytes) {
                if (r->left_bytes == 0 || len == 0)
                        return 0;
                if (make_more(r, err) < 0)
                        return -(int)err->code;
        }
        size_t n = (size_t)cas_min_u64(len, r->out.len_bytes - r->out_at);
        memcpy(buf, r->out.data + r->out_at, n);
        r->out_at += n;
        *out_len = n;
        return 0;
}

const struct cas_wrap_ops cas_wrap_gzip_diff = {
        .open = diff_open,
        .read = diff_read,
        .close = diff_close,
};
