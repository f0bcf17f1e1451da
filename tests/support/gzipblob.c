/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/gzipblob.h"

#include <sys/mman.h>
#include <zlib.h>

#include "cas/io.h"
#include "tests/support/memsource.h"

void gzipblob_header(struct cas_buf *out, uint32_t mtime, uint8_t xfl, uint8_t os)
{
        cas_buf_append(out, "\x1f\x8b\x08", 4);
        cas_buf_append_le32(out, mtime);
        cas_buf_append_byte(out, xfl);
        cas_buf_append_byte(out, os);
}

void gzipblob_trailer(struct cas_buf *out, const void *plain, size_t len)
{
        cas_buf_append_le32(out, (uint32_t)crc32(0, plain, (uInt)len));
        cas_buf_append_le32(out, (uint32_t)len);
}

void gzipblob_deflate(struct cas_buf *out, const struct gzipblob_pieces *how, const uint8_t *plain,
                      size_t len)
{
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                how->class->create(how->class, how->level);
        size_t at = 0;
        for (;;) {
                size_t n = cas_min_u64(len - at, how->piece_bytes);
                size_t dictionary = cas_min_u64(at, how->dictionary_bytes);
                e->ops->begin(e, plain + at - dictionary, dictionary);
                e->ops->write(e, plain + at, n, out);
                at += n;
                if (at == len)
                        break;
                e->ops->end(e, how->end, out);
        }
        if (how->last_end != CAS_DEFLATE_END_NONE)
                e->ops->end(e, how->last_end, out);
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

void gzipblob_member(struct cas_buf *out, const struct gzipblob_pieces *how, const uint8_t *plain,
                     size_t len)
{
        gzipblob_header(out, 0, 0, 255);
        gzipblob_deflate(out, how, plain, len);
        gzipblob_trailer(out, plain, len);
}

int gzipblob_analyse(const struct cas_buf *blob, uint64_t tar_bytes, struct gzipblob_recipe *out,
                     struct cas_err *err)
{
        cas_cleanup_fd int fd = memfd_create("blob", MFD_CLOEXEC);
        *out = (struct gzipblob_recipe){0};
        cas_recipe_writer_init(&out->writer, NULL);
        if (cas_io_pwrite_all(cas_io_posix(), fd, blob->data, blob->len_bytes, 0, "blob", err) < 0)
                return -(int)err->code;
        struct cas_wrap_input in = {.io = cas_io_posix(), .fd = fd, .blob_bytes = blob->len_bytes};
        if (cas_gzip_analyse(&in, &out->writer, &out->kind, &out->report, err) < 0)
                return -(int)err->code;
        if (out->report.reason[0])
                return 0;
        out->writer.head.blob_bytes = blob->len_bytes;
        out->writer.head.tar_bytes = tar_bytes;
        out->writer.head.wrap = out->kind;
        if (cas_recipe_open_writer(&out->writer, &out->recipe, err) < 0)
                return -(int)err->code;
        const struct cas_recipe_head *head = cas_recipe_head(out->recipe);
        out->wrap_bytes = head->section_bytes[CAS_RECIPE_WRAP];
        out->mark_count = head->mark_count;
        return 0;
}

void gzipblob_recipe_release(struct gzipblob_recipe *r)
{
        cas_recipe_close(r->recipe);
        cas_recipe_writer_release(&r->writer);
}

int gzipblob_regenerate(struct gzipblob_recipe *r, uint32_t mark, uint64_t end,
                        const struct cas_buf *tar, struct cas_buf *out, struct cas_err *err)
{
        struct cas_recipe_mark m;
        cas_cleanup_wrap struct cas_wrap_reader *wr = NULL;
        if (cas_recipe_mark(r->recipe, mark, &m, err) < 0)
                return -(int)err->code;
        if (m.tar_offset > tar->len_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "a mark behind the end of the tar");
        struct memsource s = {
                .data = tar->data, .len = tar->len_bytes, .at = m.tar_offset, .step = 70001};
        if (cas_wrap_open(r->recipe, &m, memsource_read, &s, &wr, err) < 0)
                return -(int)err->code;
        for (uint64_t at = m.blob_offset; at < end;) {
                size_t got, len = cas_min_u64(end - at, 50021);
                cas_buf_reserve(out, len);
                if (cas_wrap_read(wr, out->data + out->len_bytes, len, &got, err) < 0)
                        return -(int)err->code;
                if (got == 0)
                        break;
                out->len_bytes += got;
                at += got;
        }
        return 0;
}
