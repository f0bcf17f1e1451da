/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever plan and mark a recipe has, its reader gives no more than the blob's length, stops, and
 * stays within its memory. Input: bytes of the mark's state, the state, the plan. */
#include "cas/wrap_int.h"
#include "tests/support/memsource.h"

#define BLOB_BYTES 300000
#define TAR_BYTES 200000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *tar(void)
{
        static uint8_t bytes[TAR_BYTES];
        for (size_t i = 0; bytes[TAR_BYTES - 1] == 0 && i < TAR_BYTES; i++)
                bytes[i] = (uint8_t)(1 + (i * i / 7 + i / 300) % 23);
        return bytes;
}

static void read_all(struct cas_recipe *r, const struct cas_recipe_mark *mark)
{
        static uint8_t buf[65536];
        struct cas_err err = CAS_ERR_INIT;
        struct memsource s = {.data = tar(), .len = TAR_BYTES, .step = SIZE_MAX};
        s.at = (size_t)mark->tar_offset;
        struct cas_wrap_reader *wr = NULL;
        uint64_t at = mark->blob_offset;
        size_t got = 1;
        if (cas_wrap_open(r, mark, memsource_read, &s, &wr, &err) < 0)
                return;
        while (got > 0 && cas_wrap_read(wr, buf, sizeof(buf), &got, &err) == 0) {
                at += got;
                cas_assert(at <= BLOB_BYTES);
        }
        cas_wrap_close(wr);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        if (size < 1 || data[0] > CAS_MARK_STATE_BYTES_MAX || size - 1 < data[0])
                return 0;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        cas_recipe_writer_init(&w, NULL);
        w.head.blob_bytes = BLOB_BYTES;
        w.head.tar_bytes = TAR_BYTES;
        w.head.wrap = CAS_WRAP_GZIP_REPLAY;
        struct cas_recipe_mark mark = {0};
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        int ret = cas_spool_append(w.sections[CAS_RECIPE_WRAP], data + 1 + data[0],
                                   size - 1 - data[0], &err);
        cas_assert(ret == 0 && cas_recipe_writer_mark(&w, &mark, &err) == 0 &&
                   cas_recipe_open_writer(&w, &r, &err) == 0);
        read_all(r, &mark);
        if (data[0] > 0) {
                mark.blob_offset = 1000;
                mark.tar_offset = 2000;
                mark.state_bytes = data[0];
                memcpy(mark.state, data + 1, data[0]);
                read_all(r, &mark);
        }
        return 0;
}
