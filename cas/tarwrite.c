/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/tarwrite.h"

#include <inttypes.h>

#define BLOCK_BYTES 512
#define NAME_BYTES 100
#define WHITEOUT_PREFIX ".wh."
#define OPAQUE_NAME ".wh..wh..opq"
#define OCTAL7_MAX 07777777u
#define OCTAL11_MAX UINT64_C(077777777777)

/* Offsets in a ustar header. */
enum {
        AT_NAME = 0,
        AT_MODE = 100,
        AT_UID = 108,
        AT_GID = 116,
        AT_SIZE = 124,
        AT_MTIME = 136,
        AT_CHECKSUM = 148,
        AT_TYPE = 156,
        AT_LINK = 157,
        AT_MAGIC = 257,
        AT_DEV_MAJOR = 329,
        AT_DEV_MINOR = 337,
};

static void put_octal(uint8_t *at, unsigned digits, uint64_t value)
{
        for (unsigned i = digits; i-- > 0; value >>= 3)
                at[i] = (uint8_t)('0' + (value & 7));
}

static void put_text(uint8_t *at, const char *text)
{
        size_t len = strlen(text);
        memcpy(at, text, len < NAME_BYTES ? len : NAME_BYTES);
}

static void put_checksum(uint8_t block[BLOCK_BYTES])
{
        unsigned sum = 0;
        memset(block + AT_CHECKSUM, ' ', 8);
        for (size_t i = 0; i < BLOCK_BYTES; i++)
                sum += block[i];
        put_octal(block + AT_CHECKSUM, 6, sum);
        block[AT_CHECKSUM + 6] = 0;
}

/* What every header has; numbers too large for their digits are left 0 (PAX says them). */
static void put_header(struct cas_buf *out, char type, const char *name, const char *link,
                       const struct cas_entry *e, uint64_t size_bytes)
{
        uint8_t block[BLOCK_BYTES] = {0};
        put_text(block + AT_NAME, name);
        put_octal(block + AT_MODE, 7, e->mode & 07777);
        put_octal(block + AT_UID, 7, e->uid <= OCTAL7_MAX ? e->uid : 0);
        put_octal(block + AT_GID, 7, e->gid <= OCTAL7_MAX ? e->gid : 0);
        put_octal(block + AT_SIZE, 11, size_bytes <= OCTAL11_MAX ? size_bytes : 0);
        put_octal(block + AT_MTIME, 11,
                  e->mtime_s >= 0 && (uint64_t)e->mtime_s <= OCTAL11_MAX ? (uint64_t)e->mtime_s
                                                                         : 0);
        block[AT_TYPE] = (uint8_t)type;
        put_text(block + AT_LINK, link);
        memcpy(block + AT_MAGIC, "ustar\00000", 8);
        if (type == '3' || type == '4') {
                put_octal(block + AT_DEV_MAJOR, 7, e->dev_major);
                put_octal(block + AT_DEV_MINOR, 7, e->dev_minor);
        }
        put_checksum(block);
        cas_buf_append(out, block, sizeof(block));
}

/* "LENGTH key=value\n", where LENGTH counts itself. */
static void pax_record(struct cas_buf *out, const char *key, const void *value, size_t value_len)
{
        char digits[24];
        size_t rest = 1 + strlen(key) + 1 + value_len + 1, total = rest;
        for (;;) {
                size_t len = (size_t)snprintf(digits, sizeof(digits), "%zu", total);
                if (rest + len == total)
                        break;
                total = rest + len;
        }
        cas_buf_printf(out, "%s %s=", digits, key);
        cas_buf_append(out, value, value_len);
        cas_buf_append_byte(out, '\n');
}

static void pax_text(struct cas_buf *out, const char *key, const char *value)
{
        pax_record(out, key, value, strlen(value));
}

static void pax_number(struct cas_buf *out, const char *key, uint64_t value)
{
        char text[24];
        (void)snprintf(text, sizeof(text), "%" PRIu64, value);
        pax_text(out, key, text);
}

/* Seconds and nanoseconds as one signed decimal: -1.5 is second -2 and 500000000. */
static void pax_time(struct cas_buf *out, const char *key, int64_t s, uint32_t ns)
{
        char text[48];
        bool negative = s < 0;
        uint64_t whole = negative ? (uint64_t)0 - (uint64_t)s : (uint64_t)s;
        if (negative && ns > 0) {
                whole--;
                ns = 1000000000u - ns;
        }
        int len = snprintf(text, sizeof(text), "%s%" PRIu64, negative ? "-" : "", whole);
        if (ns > 0) {
                len += snprintf(text + len, sizeof(text) - (size_t)len, ".%09u", ns);
                while (text[len - 1] == '0')
                        text[--len] = 0;
        }
        pax_text(out, key, text);
}

static bool name_fits(const char *name)
{
        size_t len = strlen(name);
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)name[i] >= 0x80)
                        return false;
        }
        return len <= NAME_BYTES;
}

static int pax_records(struct cas_buf *out, const struct cas_entry *e, const char *name,
                       const char *link, uint64_t size_bytes, struct cas_err *err)
{
        if (!name_fits(name))
                pax_text(out, "path", name);
        if (!name_fits(link))
                pax_text(out, "linkpath", link);
        if (size_bytes > OCTAL11_MAX)
                pax_number(out, "size", size_bytes);
        if (e->uid > OCTAL7_MAX)
                pax_number(out, "uid", e->uid);
        if (e->gid > OCTAL7_MAX)
                pax_number(out, "gid", e->gid);
        if (e->mtime_ns > 0 || e->mtime_s < 0 || (uint64_t)e->mtime_s > OCTAL11_MAX)
                pax_time(out, "mtime", e->mtime_s, e->mtime_ns);
        for (size_t i = 0; i < e->xattr_count; i++) {
                const struct cas_xattr *x = &e->xattrs[i];
                if (strchr(x->name, '='))
                        return cas_fail(err, CAS_E_INVALID, "%.200s: xattr \"%.200s\" has a \"=\"",
                                        e->path, x->name);
                if (x->value_bytes == 0)
                        continue;
                cas_cleanup_free char *key = cas_xasprintf("SCHILY.xattr.%s", x->name);
                pax_record(out, key, x->value, x->value_bytes);
        }
        return 0;
}

static int type_flag(const struct cas_entry *e, char *out, struct cas_err *err)
{
        switch (e->type) {
        case CAS_ENTRY_FILE:
        case CAS_ENTRY_WHITEOUT:
                *out = '0';
                return 0;
        case CAS_ENTRY_HARDLINK:
                *out = '1';
                return 0;
        case CAS_ENTRY_SYMLINK:
                *out = '2';
                return 0;
        case CAS_ENTRY_CHARDEV:
                *out = '3';
                return 0;
        case CAS_ENTRY_BLOCKDEV:
                *out = '4';
                return 0;
        case CAS_ENTRY_DIR:
                *out = '5';
                return 0;
        case CAS_ENTRY_FIFO:
                *out = '6';
                return 0;
        case CAS_ENTRY_SOCKET:
                break;
        }
        return cas_fail(err, CAS_E_INVALID, "%.200s: of a type that tars have not", e->path);
}

/* Name in its directory. */
static const char *base_name(const char *path)
{
        const char *slash = strrchr(path, '/');
        return slash ? slash + 1 : path;
}

/* The entry's name in the tar. Owned by the caller. */
static char *tar_name(const struct cas_entry *e, char type)
{
        const char *base = base_name(e->path);
        if (e->type == CAS_ENTRY_WHITEOUT)
                return cas_xasprintf("%.*s" WHITEOUT_PREFIX "%s", (int)(base - e->path), e->path,
                                     base);
        if (type == '5')
                return cas_xasprintf("%s/", e->path[0] ? e->path : ".");
        return cas_xstrdup(e->path);
}

static int put_entry(struct cas_buf *out, const struct cas_entry *e, char type, const char *name,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf records = CAS_BUF_INIT;
        const char *link = e->target ? e->target : "";
        uint64_t size_bytes = e->type == CAS_ENTRY_FILE ? e->size_bytes : 0;
        int r = pax_records(&records, e, name, link, size_bytes, err);
        if (r < 0)
                return r;
        if (records.len_bytes > 0) {
                struct cas_entry pax = {.mode = 0644};
                put_header(out, 'x', "PaxHeaders/entry", "", &pax, records.len_bytes);
                cas_buf_append(out, records.data, records.len_bytes);
                cas_tarwrite_padding(out, records.len_bytes);
        }
        put_header(out, type, name, link, e, size_bytes);
        return 0;
}

/* What stands in a directory that hides what lies below. */
static int put_opaque_mark(struct cas_buf *out, const struct cas_entry *dir, struct cas_err *err)
{
        const struct cas_entry mark = {.type = CAS_ENTRY_WHITEOUT};
        cas_cleanup_free char *name =
                cas_xasprintf("%s%s" OPAQUE_NAME, dir->path, dir->path[0] ? "/" : "");
        return put_entry(out, &mark, '0', name, err);
}

int cas_tarwrite_header(struct cas_buf *out, const struct cas_entry *e, struct cas_err *err)
{
        char type = 0;
        if (type_flag(e, &type, err) < 0)
                return -(int)err->code;
        if (strncmp(base_name(e->path), WHITEOUT_PREFIX, strlen(WHITEOUT_PREFIX)) == 0)
                return cas_fail(err, CAS_E_INVALID,
                                "%.200s: layers cannot hold names that begin with " WHITEOUT_PREFIX,
                                e->path);
        const struct cas_entry absent = {.type = CAS_ENTRY_WHITEOUT};
        cas_cleanup_free char *name = tar_name(e, type);
        int r = put_entry(out, e->type == CAS_ENTRY_WHITEOUT ? &absent : e, type, name, err);
        if (r == 0 && e->type == CAS_ENTRY_DIR && e->opaque)
                r = put_opaque_mark(out, e, err);
        return r;
}

void cas_tarwrite_padding(struct cas_buf *out, uint64_t size_bytes)
{
        cas_buf_append_zero(out, (size_t)(-size_bytes & (BLOCK_BYTES - 1)));
}

void cas_tarwrite_end(struct cas_buf *out)
{
        cas_buf_append_zero(out, 2 * (size_t)BLOCK_BYTES);
}
