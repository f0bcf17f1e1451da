/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of any stream stand for the bytes that zlib's inflate makes of it, and what the one
 * refuses the other does. */
#include <zlib.h>

#include "cas/buf.h"
#include "cas/deflate/token.h"
#include "tests/support/memsource.h"

#define PLAIN_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Appends what an event's tokens stand for. */
static void expand(const struct cas_deflate_event *e, struct cas_buf *plain)
{
        for (size_t i = 0; i < e->token_count; i++) {
                uint32_t t = e->tokens[i];
                if (!(t & CAS_TOKEN_IS_MATCH)) {
                        cas_assert(t < 256);
                        cas_buf_append_byte(plain, (uint8_t)t);
                        continue;
                }
                cas_assert(cas_token_distance(t) <= plain->len_bytes);
                for (uint32_t k = 0; k < cas_token_length(t); k++)
                        cas_buf_append_byte(plain,
                                            plain->data[plain->len_bytes - cas_token_distance(t)]);
        }
}

/* Bytes decoded, -1 when refused, -2 when over the bound. */
static ssize_t parse(const uint8_t *data, size_t size, size_t step, uint8_t *plain, size_t *used)
{
        struct cas_err err = CAS_ERR_INIT;
        struct memsource s = {.data = data, .len = size, .step = step};
        cas_cleanup_deflate_parser struct cas_deflate_parser *p =
                cas_deflate_parser_new(memsource_read, &s);
        cas_cleanup_buf struct cas_buf expanded = CAS_BUF_INIT;
        struct cas_deflate_event e;
        size_t len = 0;
        do {
                if (cas_deflate_parser_next(p, &e, &err) < 0)
                        return -1;
                if (e.plain_bytes > PLAIN_BYTES_MAX - len)
                        return -2;
                if (e.plain_bytes > 0)
                        memcpy(plain + len, e.plain, e.plain_bytes);
                len += e.plain_bytes;
                if (e.kind == CAS_DEFLATE_BYTES)
                        cas_buf_append(&expanded, e.plain, e.plain_bytes);
                expand(&e, &expanded);
                cas_assert(expanded.len_bytes == len);
        } while (e.kind != CAS_DEFLATE_END);
        cas_assert(len == 0 || memcmp(expanded.data, plain, len) == 0);
        *used = (size_t)(cas_deflate_parser_bits(p) / 8);
        cas_assert(cas_deflate_parser_bits(p) % 8 == 0);
        return (ssize_t)len;
}

static ssize_t inflate_zlib(const uint8_t *data, size_t size, uint8_t *plain, size_t *used)
{
        z_stream z = {.next_in = (Bytef *)(uintptr_t)data,
                      .avail_in = (uInt)size,
                      .next_out = plain,
                      .avail_out = PLAIN_BYTES_MAX};
        cas_assert(inflateInit2(&z, -15) == Z_OK);
        int ret = inflate(&z, Z_FINISH);
        *used = z.total_in;
        ssize_t len = ret == Z_STREAM_END ? (ssize_t)z.total_out : -1;
        if (ret != Z_STREAM_END && z.avail_out == 0)
                len = -2;
        (void)inflateEnd(&z);
        return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static uint8_t ours[PLAIN_BYTES_MAX], again[PLAIN_BYTES_MAX], theirs[PLAIN_BYTES_MAX];
        size_t used = 0, used_again = 0, used_zlib = 0;
        ssize_t len = parse(data, size, SIZE_MAX, ours, &used);
        ssize_t stepped = parse(data, size, 3, again, &used_again);
        ssize_t want = inflate_zlib(data, size, theirs, &used_zlib);
        cas_assert(len == stepped && used == used_again);
        /* At the bound, who notices first decides what it is. */
        if (len == -2 || want == -2)
                return 0;
        cas_assert(len == want);
        if (len < 0)
                return 0;
        cas_assert(used == used_zlib);
        cas_assert(len == 0 || memcmp(ours, theirs, (size_t)len) == 0);
        cas_assert(len == 0 || memcmp(ours, again, (size_t)len) == 0);
        return 0;
}
