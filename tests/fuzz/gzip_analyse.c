/* SPDX-License-Identifier: Apache-2.0 */
/* A deflate stream of any kind, as a gzip blob: when analysis gives a recipe, that makes the blob
 * again, byte for byte. Input: the stream. */
#include <sys/mman.h>
#include <zlib.h>

#include "cas/io.h"
#include "cas/wrap_int.h"
#include "tests/support/memsource.h"

#define STREAM_BYTES_MAX 8192
#define PLAIN_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes decoded, or -1. *used: of the stream. */
static ssize_t inflate_stream(const uint8_t *data, size_t size, uint8_t *plain, size_t *used)
{
        z_stream z = {.next_in = (Bytef *)(uintptr_t)data,
                      .avail_in = (uInt)size,
                      .next_out = plain,
                      .avail_out = PLAIN_BYTES_MAX};
        cas_assert(inflateInit2(&z, -15) == Z_OK);
        ssize_t len = inflate(&z, Z_FINISH) == Z_STREAM_END ? (ssize_t)z.total_out : -1;
        *used = z.total_in;
        (void)inflateEnd(&z);
        return len;
}

static void check_recipe(struct cas_recipe_writer *w, const struct cas_buf *blob,
                         const uint8_t *plain, size_t len)
{
        struct cas_err err = CAS_ERR_INIT;
        struct memsource s = {.data = plain, .len = len, .step = SIZE_MAX};
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        cas_cleanup_wrap struct cas_wrap_reader *wr = NULL;
        struct cas_recipe_mark mark;
        uint8_t made[4096];
        size_t at = 0, got = 1;
        cas_assert(cas_recipe_open_writer(w, &r, &err) == 0);
        cas_assert(cas_recipe_mark(r, 0, &mark, &err) == 0);
        cas_assert(cas_wrap_open(r, &mark, memsource_read, &s, &wr, &err) == 0);
        for (; got > 0; at += got) {
                cas_assert(cas_wrap_read(wr, made, sizeof(made), &got, &err) == 0);
                cas_assert(got <= blob->len_bytes - at);
                cas_assert(memcmp(made, blob->data + at, got) == 0);
        }
        cas_assert(at == blob->len_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static uint8_t plain[PLAIN_BYTES_MAX];
        size_t used = 0;
        ssize_t len = inflate_stream(data, size, plain, &used);
        if (len < 0 || used > STREAM_BYTES_MAX)
                return 0;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
        cas_buf_append(&blob, "\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
        cas_buf_append(&blob, data, used);
        cas_buf_append_le32(&blob, (uint32_t)crc32(0, plain, (uInt)len));
        cas_buf_append_le32(&blob, (uint32_t)len);

        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = memfd_create("blob", MFD_CLOEXEC);
        cas_assert(write(fd, blob.data, blob.len_bytes) == (ssize_t)blob.len_bytes);
        struct cas_wrap_input in = {.io = cas_io_posix(), .fd = fd, .blob_bytes = blob.len_bytes};
        struct cas_wrap_report report;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_recipe_writer_init(&w, NULL);
        int ret = cas_gzip_analyse(&in, &w, &w.head.wrap, &report, &err);
        cas_assert(ret == 0);
        w.head.blob_bytes = blob.len_bytes;
        w.head.tar_bytes = (uint64_t)len;
        if (!report.reason[0])
                check_recipe(&w, &blob, plain, (size_t)len);
        return 0;
}
