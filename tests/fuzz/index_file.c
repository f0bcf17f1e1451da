/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a table or a log of RocksDB, and as a place of scrub. Input: what it is, the file.
 */
#include "cas/scrub_int.h"
#include "cas/sst_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct file {
        const uint8_t *data;
        size_t len;
};

static ssize_t file_pread(void *ctx, int fd CAS_UNUSED, void *buf, size_t len, off_t offset)
{
        const struct file *file = ctx;
        if ((size_t)offset >= file->len)
                return 0;
        size_t n = cas_min_u64(len, file->len - (size_t)offset);
        memcpy(buf, file->data + offset, n);
        return (ssize_t)n;
}

static void try_place(const uint8_t *data, size_t size)
{
        struct cas_scrub_place place;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        if (cas_scrub_place_decode(data, size, &place, &err) < 0)
                return;
        cas_scrub_place_encode(&place, &again);
        cas_assert(again.len_bytes == size);
        cas_assert(size == 0 || memcmp(again.data, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const struct cas_io_ops ops = {.pread = file_pread};
        if (size == 0)
                return 0;
        struct file file = {.data = data + 1, .len = size - 1};
        const struct cas_io io = {.ops = &ops, .ctx = &file};
        struct cas_err err = CAS_ERR_INIT;
        uint8_t sum[CAS_TABLE_SUM_BYTES];
        switch (data[0] % 3) {
        case 0:
                return cas_table_verify(&io, 0, file.len, "table", sum, &err) > 0;
        case 1:
                return cas_log_verify(&io, 0, "log", &err) > 0;
        default:
                try_place(file.data, file.len);
                return 0;
        }
}
