/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/base64.h"

static const char common[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

static char digit_text(enum reg_base64 kind, unsigned digit)
{
        if (digit < 62)
                return common[digit];
        if (kind == REG_BASE64)
                return digit == 62 ? '+' : '/';
        return digit == 62 ? '-' : '_';
}

static int digit_value(enum reg_base64 kind, char c)
{
        if (c >= 'A' && c <= 'Z')
                return c - 'A';
        if (c >= 'a' && c <= 'z')
                return c - 'a' + 26;
        if (c >= '0' && c <= '9')
                return c - '0' + 52;
        if (c == digit_text(kind, 62))
                return 62;
        return c == digit_text(kind, 63) ? 63 : -1;
}

void reg_base64_append(enum reg_base64 kind, const void *data, size_t len, struct cas_buf *out)
{
        const uint8_t *bytes = data;
        for (size_t i = 0; i < len; i += 3) {
                size_t have = len - i < 3 ? len - i : 3;
                uint32_t group = (uint32_t)bytes[i] << 16;
                if (have > 1)
                        group |= (uint32_t)bytes[i + 1] << 8;
                if (have > 2)
                        group |= bytes[i + 2];
                for (size_t j = 0; j < 4; j++) {
                        if (j <= have)
                                cas_buf_append_byte(
                                        out,
                                        (uint8_t)digit_text(kind, (group >> (18 - 6 * j)) & 63));
                        else if (kind == REG_BASE64)
                                cas_buf_append_byte(out, '=');
                }
        }
}

bool reg_base64_decode(enum reg_base64 kind, const char *text, size_t len, struct cas_buf *out)
{
        size_t before = out->len_bytes, digits = len;
        if (kind == REG_BASE64) {
                if (len % 4 != 0)
                        return false;
                while (digits > 0 && len - digits < 2 && text[digits - 1] == '=')
                        digits--;
        }
        if (digits % 4 == 1)
                return false;
        uint32_t group = 0;
        unsigned bits = 0;
        for (size_t i = 0; i < digits; i++) {
                int value = digit_value(kind, text[i]);
                if (value < 0) {
                        out->len_bytes = before;
                        return false;
                }
                group = group << 6 | (uint32_t)value;
                bits += 6;
                if (bits >= 8) {
                        bits -= 8;
                        cas_buf_append_byte(out, (uint8_t)(group >> bits));
                        group &= (1U << bits) - 1;
                }
        }
        if (group == 0) /* bits that stand for nothing are zero */
                return true;
        out->len_bytes = before;
        return false;
}
