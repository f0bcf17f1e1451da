/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tarmake.h"

#include <inttypes.h>

static void put_octal(uint8_t *at, size_t len, uint64_t value)
{
        char text[32];
        (void)snprintf(text, sizeof(text), "%0*" PRIo64, (int)len - 1, value);
        memcpy(at, text, len);
}

static void put_text(uint8_t *at, size_t len, const char *text)
{
        if (text)
                memcpy(at, text, strnlen(text, len));
}

void tarmake_checksum(uint8_t block[512])
{
        uint64_t sum = 0;
        memset(block + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++)
                sum += block[i];
        put_octal(block + 148, 7, sum);
}

void tarmake_header(struct cas_buf *out, const struct tarmake *h)
{
        uint8_t block[512] = {0};
        put_text(block, 100, h->name);
        put_octal(block + 100, 8, h->mode);
        put_octal(block + 108, 8, h->uid);
        put_octal(block + 116, 8, h->gid);
        put_octal(block + 124, 12, h->size);
        put_octal(block + 136, 12, h->mtime);
        block[156] = h->type ? (uint8_t)h->type : '0';
        put_text(block + 157, 100, h->link);
        memcpy(block + 257, h->magic ? h->magic : "ustar\00000", 8);
        put_octal(block + 329, 8, h->major);
        put_octal(block + 337, 8, h->minor);
        put_text(block + 345, 155, h->prefix);
        if (h->patch_bytes)
                memcpy(block + h->patch_at, h->patch, h->patch_bytes);
        tarmake_checksum(block);
        cas_buf_append(out, block, sizeof(block));
}

void tarmake_data(struct cas_buf *out, const void *data, size_t len)
{
        cas_buf_append(out, data, len);
        cas_buf_append_zero(out, -len & 511);
}

void tarmake_file(struct cas_buf *out, const char *name, const char *content)
{
        struct tarmake h = {.name = name, .mode = 0644, .size = strlen(content)};
        tarmake_header(out, &h);
        tarmake_data(out, content, strlen(content));
}

void tarmake_extension(struct cas_buf *out, char type, const void *data, size_t len)
{
        struct tarmake h = {.name = "extension", .type = type, .size = len};
        tarmake_header(out, &h);
        tarmake_data(out, data, len);
}

void tarmake_record(struct cas_buf *text, const char *key, const void *value, size_t len)
{
        size_t rest = strlen(key) + len + 3, total = rest + 1;
        char digits[24];
        while (rest + (size_t)snprintf(digits, sizeof(digits), "%zu", total) != total)
                total++;
        cas_buf_printf(text, "%zu %s=", total, key);
        cas_buf_append(text, value, len);
        cas_buf_append_byte(text, '\n');
}

void tarmake_pax(struct cas_buf *out, const char *key, const char *value)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        tarmake_record(&text, key, value, strlen(value));
        tarmake_extension(out, 'x', text.data, text.len_bytes);
}

void tarmake_end(struct cas_buf *out)
{
        cas_buf_append_zero(out, 1024);
}
