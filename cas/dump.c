/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/dump.h"

#include "cas/store_int.h"

struct dump {
        enum cas_family family;
        int (*fn)(void *arg, const char *line, struct cas_err *err);
        void *arg;
        struct cas_buf line;
};

static void append_hex(struct cas_buf *line, const void *data, size_t len)
{
        static const char digits[] = "0123456789abcdef";
        const uint8_t *bytes = data;
        if (len == 0)
                cas_buf_append_byte(line, '-');
        for (size_t i = 0; i < len; i++) {
                cas_buf_append_byte(line, (uint8_t)digits[bytes[i] >> 4]);
                cas_buf_append_byte(line, (uint8_t)digits[bytes[i] & 15]);
        }
}

static int dump_entry(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        struct dump *dump = arg;
        cas_buf_clear(&dump->line);
        cas_buf_printf(&dump->line, "%s ", cas_family_name(dump->family));
        append_hex(&dump->line, key, key_len);
        cas_buf_append_byte(&dump->line, ' ');
        append_hex(&dump->line, value, value_len);
        return dump->fn(dump->arg, cas_buf_str(&dump->line), err);
}

int cas_dump_index(struct cas_store *s, int (*fn)(void *arg, const char *line, struct cas_err *err),
                   void *arg, struct cas_err *err)
{
        struct dump dump = {.fn = fn, .arg = arg};
        int rc = 0;
        for (int family = 0; family < CAS_FAMILY_COUNT && rc == 0; family++) {
                dump.family = (enum cas_family)family;
                rc = cas_index_scan(s->index, &(struct cas_scan){.family = dump.family}, dump_entry,
                                    &dump, err);
        }
        cas_buf_release(&dump.line);
        return rc;
}
