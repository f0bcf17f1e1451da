/* SPDX-License-Identifier: Apache-2.0 */
/* The steps in which a zstd stream arrives do not matter, and nothing crashes. */
#include "cas/decompress.h"
#include "tests/support/memsource.h"

#define PLAIN_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes decoded before the end or the first error. */
static size_t decode(const uint8_t *data, size_t size, size_t step, uint8_t *plain, bool *good)
{
        struct cas_err err = CAS_ERR_INIT;
        struct memsource s = {.data = data, .len = size, .step = step};
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        size_t len = 0, got = 1;
        *good = cas_decompress_open(memsource_read, &s, &d, &err) == 0;
        while (*good && got > 0 && len < PLAIN_BYTES_MAX) {
                *good = cas_decompress_read(d, plain + len, PLAIN_BYTES_MAX - len, &got, &err) == 0;
                len += *good ? got : 0;
        }
        return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static uint8_t whole[PLAIN_BYTES_MAX], stepped[PLAIN_BYTES_MAX];
        bool whole_good, stepped_good;
        size_t len = decode(data, size, SIZE_MAX, whole, &whole_good);
        size_t stepped_len = decode(data, size, 3, stepped, &stepped_good);
        cas_assert(whole_good == stepped_good);
        if (whole_good) {
                cas_assert(len == stepped_len);
                cas_assert(memcmp(whole, stepped, len) == 0);
        }
        return 0;
}
