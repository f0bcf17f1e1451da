/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of wraps, and the one that is none: the blob is the tar stream. */
#include "cas/wrap_int.h"

/* NULL: no such kind. */
static const struct cas_wrap_ops *ops_of(enum cas_wrap_kind kind)
{
        static const struct cas_wrap_ops *const table[CAS_WRAP_KIND_COUNT] = {
                [CAS_WRAP_PLAIN] = &cas_wrap_plain,
                [CAS_WRAP_GZIP_REPLAY] = &cas_wrap_gzip_replay,
                [CAS_WRAP_GZIP_DIFF] = &cas_wrap_gzip_diff,
                [CAS_WRAP_ZSTD_REPLAY] = &cas_wrap_zstd_replay,
                [CAS_WRAP_ZSTD_FRAMES] = &cas_wrap_zstd_frames,
        };
        return (unsigned)kind < CAS_COUNT(table) ? table[kind] : NULL;
}

int cas_wrap_open(struct cas_recipe *r, const struct cas_recipe_mark *mark, cas_source_fn tar,
                  void *tar_arg, struct cas_wrap_reader **out, struct cas_err *err)
{
        const struct cas_wrap_ops *ops = ops_of(cas_recipe_head(r)->wrap);
        if (!ops)
                return cas_fail(err, CAS_E_UNSUPPORTED, "recipe: unknown kind of wrap %d",
                                (int)cas_recipe_head(r)->wrap);
        return ops->open(r, mark, tar, tar_arg, out, err);
}

int cas_wrap_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                  struct cas_err *err)
{
        return wr->ops->read(wr, buf, len, out_len, err);
}

void cas_wrap_close(struct cas_wrap_reader *wr)
{
        if (wr)
                wr->ops->close(wr);
}

/* ---- plain ---- */

int cas_plain_analyse(struct cas_recipe_writer *w, struct cas_err *err)
{
        uint64_t at = 0;
        w->head.wrap = CAS_WRAP_PLAIN;
        w->head.blob_bytes = w->head.tar_bytes;
        do {
                const struct cas_recipe_mark mark = {.blob_offset = at, .tar_offset = at};
                if (cas_recipe_writer_mark(w, &mark, err) < 0)
                        return -(int)err->code;
                at += CAS_RECIPE_MARK_SPACING_BYTES;
        } while (at < w->head.tar_bytes);
        return 0;
}

struct plain_reader {
        struct cas_wrap_reader base;
        cas_source_fn tar;
        void *tar_arg;
        uint64_t left_bytes; /* of the blob, as the recipe says */
};

static int plain_open(struct cas_recipe *r, const struct cas_recipe_mark *mark, cas_source_fn tar,
                      void *tar_arg, struct cas_wrap_reader **out, struct cas_err *err)
{
        const struct cas_recipe_head *head = cas_recipe_head(r);
        if (mark->blob_offset != mark->tar_offset || mark->blob_offset > head->blob_bytes ||
            head->blob_bytes != head->tar_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a plain blob that is not its tar");
        struct plain_reader *p = cas_xcalloc(1, sizeof(*p));
        p->base.ops = &cas_wrap_plain;
        p->tar = tar;
        p->tar_arg = tar_arg;
        p->left_bytes = head->blob_bytes - mark->blob_offset;
        *out = &p->base;
        return 0;
}

static int plain_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                      struct cas_err *err)
{
        struct plain_reader *p = (struct plain_reader *)wr;
        size_t want = (size_t)cas_min_u64(len, p->left_bytes), got = 0;
        if (want > 0 && p->tar(p->tar_arg, buf, want, &got, err) < 0)
                return -(int)err->code;
        if (want > 0 && got == 0)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: the tar stream ends too early");
        p->left_bytes -= got;
        *out_len = got;
        return 0;
}

static void plain_close(struct cas_wrap_reader *wr)
{
        free(wr);
}

const struct cas_wrap_ops cas_wrap_plain = {
        .open = plain_open,
        .read = plain_read,
        .close = plain_close,
};
