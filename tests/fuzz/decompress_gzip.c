/* SPDX-License-Identifier: Apache-2.0 */
/* What zlib accepts as one gzip member decodes to the same bytes; nothing else crashes. */
#include <zlib.h>

#include "cas/decompress.h"
#include "tests/support/memsource.h"

#define PLAIN_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes decoded, or -1. */
static ssize_t decode(const uint8_t *data, size_t size, size_t step, uint8_t *plain)
{
        struct cas_err err = CAS_ERR_INIT;
        struct memsource s = {.data = data, .len = size, .step = step};
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        size_t len = 0, got = 1;
        if (cas_decompress_open(memsource_read, &s, &d, &err) < 0)
                return -1;
        while (got > 0 && len < PLAIN_BYTES_MAX) {
                if (cas_decompress_read(d, plain + len, PLAIN_BYTES_MAX - len, &got, &err) < 0)
                        return -1;
                len += got;
        }
        return (ssize_t)len;
}

static ssize_t decode_zlib(const uint8_t *data, size_t size, uint8_t *plain)
{
        z_stream z = {.next_in = (Bytef *)(uintptr_t)data,
                      .avail_in = (uInt)size,
                      .next_out = plain,
                      .avail_out = PLAIN_BYTES_MAX};
        cas_assert(inflateInit2(&z, 31) == Z_OK);
        int ret = inflate(&z, Z_FINISH);
        ssize_t len = ret == Z_STREAM_END && z.avail_in == 0 ? (ssize_t)z.total_out : -1;
        (void)inflateEnd(&z);
        return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static uint8_t ours[PLAIN_BYTES_MAX], again[PLAIN_BYTES_MAX], theirs[PLAIN_BYTES_MAX];
        ssize_t len = decode(data, size, SIZE_MAX, ours);
        ssize_t stepped = decode(data, size, 3, again);
        ssize_t want = decode_zlib(data, size, theirs);
        cas_assert(len == stepped);
        cas_assert(len < 0 || memcmp(ours, again, (size_t)len) == 0);
        if (want >= 0 && want < PLAIN_BYTES_MAX) {
                cas_assert(len == want);
                cas_assert(memcmp(ours, theirs, (size_t)want) == 0);
        }
        return 0;
}
