/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/tarheader_int.h"

/* Fields: offset and size (POSIX.1-1988 ustar). */
struct field {
        size_t at, bytes;
};
static const struct field name_field = {0, 100}, mode_field = {100, 8}, uid_field = {108, 8},
                          gid_field = {116, 8}, size_field = {124, 12}, mtime_field = {136, 12},
                          checksum_field = {CAS_TARHEADER_CHECKSUM_AT,
                                            CAS_TARHEADER_CHECKSUM_BYTES},
                          link_field = {157, 100}, major_field = {329, 8}, minor_field = {337, 8},
                          prefix_field = {345, 155};
#define TYPE_AT 156
#define MAGIC_AT 257

static bool is_octal(uint8_t byte)
{
        return byte >= '0' && byte <= '7';
}

/* The first run of digits of the field; *digits 0: none. */
static uint8_t *find_digits(uint8_t *block, const struct field *f, size_t *digits)
{
        uint8_t *at = block + f->at, *end = at + f->bytes;
        while (at < end && !is_octal(*at))
                at++;
        *digits = 0;
        while (at + *digits < end && is_octal(at[*digits]))
                ++*digits;
        return at;
}

/* Writes v over the digits of the field, with as many; what does not fit, or is written in another
 * way, stays as it is. */
static void set_number(uint8_t *block, const struct field *f, uint64_t v)
{
        size_t digits;
        uint8_t *at = find_digits(block, f, &digits);
        if (digits == 0 || v >> (3 * digits) != 0)
                return;
        for (size_t i = digits; i-- > 0; v >>= 3)
                at[i] = (uint8_t)('0' + (v & 7));
}

/* Some tars have the bits of the file's type in its mode: those stay. */
static void set_mode(uint8_t *block, uint32_t mode)
{
        size_t digits;
        uint8_t *at = find_digits(block, &mode_field, &digits);
        uint32_t v = 0;
        for (size_t i = 0; i < digits; i++)
                v = v << 3 | (uint32_t)(at[i] - '0');
        set_number(block, &mode_field, (v & ~07777U) | mode);
}

static void set_text(uint8_t *block, const struct field *f, const char *text, size_t len)
{
        len = cas_min_u64(len, f->bytes);
        memcpy(block + f->at, text, len);
        memset(block + f->at + len, 0, f->bytes - len);
}

/* "./" or "/" when the text of the field begins so. */
static const char *lead_of(const uint8_t *block, const struct field *f)
{
        const uint8_t *at = block + f->at;
        if (at[0] == '.' && at[1] == '/')
                return "./";
        return at[0] == '/' ? "/" : "";
}

/* Where a name that is too long for its field is split; 0: nowhere. The prefix is as long as it can
 * be, and the rest is not empty. */
static size_t split_at(const char *name, size_t len)
{
        size_t at = cas_min_u64(len - 1, prefix_field.bytes + 1);
        while (at > 0 && name[at - 1] != '/')
                at--;
        return at > 1 && len - at <= name_field.bytes ? at - 1 : 0;
}

static void set_name(uint8_t *block, const char *name)
{
        size_t len = strlen(name), split;
        if (memcmp(block + MAGIC_AT, "ustar", 6) != 0) {
                set_text(block, &name_field, name, len);
                return;
        }
        split = len > name_field.bytes ? split_at(name, len) : 0;
        set_text(block, &prefix_field, name, split);
        if (split > 0)
                split++; /* the slash is in neither */
        set_text(block, &name_field, name + split, len - split);
}

static char *name_of(const struct cas_entry *e, const char *lead)
{
        const char *slash = strrchr(e->path, '/');
        size_t dir_bytes = slash ? (size_t)(slash + 1 - e->path) : 0;
        if (e->type == CAS_ENTRY_WHITEOUT)
                return cas_xasprintf("%s%.*s.wh.%s", lead, (int)dir_bytes, e->path,
                                     e->path + dir_bytes);
        bool slashed = e->type == CAS_ENTRY_DIR && e->path[0] != '\0';
        return cas_xasprintf("%s%s%s", lead, e->path, slashed ? "/" : "");
}

static char type_of(const struct cas_entry *e)
{
        static const char types[CAS_ENTRY_WHITEOUT + 1] = {
                [CAS_ENTRY_DIR] = '5',     [CAS_ENTRY_FILE] = '0',     [CAS_ENTRY_SYMLINK] = '2',
                [CAS_ENTRY_CHARDEV] = '3', [CAS_ENTRY_BLOCKDEV] = '4', [CAS_ENTRY_FIFO] = '6',
                [CAS_ENTRY_SOCKET] = '0',  [CAS_ENTRY_HARDLINK] = '1', [CAS_ENTRY_WHITEOUT] = '0',
        };
        return types[e->type];
}

/* What stands in the first header of a tar. */
static void make_first(uint8_t block[CAS_TAR_BLOCK_BYTES])
{
        static const struct field *const numbers[] = {&mode_field,  &uid_field,   &gid_field,
                                                      &size_field,  &mtime_field, &checksum_field,
                                                      &major_field, &minor_field};
        memset(block, 0, CAS_TAR_BLOCK_BYTES);
        for (size_t i = 0; i < CAS_COUNT(numbers); i++)
                memset(block + numbers[i]->at, '0', numbers[i]->bytes - 1);
        memcpy(block + checksum_field.at + 6, "\0 ", 2);
        memcpy(block + MAGIC_AT, "ustar\00000", 8);
}

static void set_attributes(uint8_t *block, const struct cas_entry *e)
{
        set_mode(block, e->mode);
        set_number(block, &uid_field, e->uid);
        set_number(block, &gid_field, e->gid);
        set_number(block, &mtime_field, (uint64_t)e->mtime_s);
        if (e->type == CAS_ENTRY_CHARDEV || e->type == CAS_ENTRY_BLOCKDEV) {
                set_number(block, &major_field, e->dev_major);
                set_number(block, &minor_field, e->dev_minor);
        }
}

static void set_link(uint8_t *block, const struct cas_entry *e, const char *lead)
{
        cas_cleanup_free char *target = NULL;
        if (e->type == CAS_ENTRY_HARDLINK)
                target = cas_xasprintf("%s%s", lead, e->target);
        const char *text = target ? target : e->target ? e->target : "";
        set_text(block, &link_field, text, strlen(text));
}

void cas_tarheader_foretell(const struct cas_tarheader_model *m, const struct cas_entry *e,
                            uint8_t out[CAS_TAR_BLOCK_BYTES])
{
        unsigned number = e ? (unsigned)e->type : 0;
        bool same_type = m->has[number];
        if (same_type)
                memcpy(out, m->blocks[number], CAS_TAR_BLOCK_BYTES);
        else if (m->has[m->last])
                memcpy(out, m->blocks[m->last], CAS_TAR_BLOCK_BYTES);
        else
                make_first(out);
        if (!e)
                return;
        const char *lead = lead_of(out, &name_field);
        cas_cleanup_free char *name = name_of(e, lead);
        set_name(out, name);
        set_link(out, e, lead);
        if (!same_type)
                out[TYPE_AT] = (uint8_t)type_of(e);
        if (e->type != CAS_ENTRY_HARDLINK && e->type != CAS_ENTRY_WHITEOUT && !e->implied)
                set_attributes(out, e);
        set_number(out, &size_field, e->type == CAS_ENTRY_FILE ? e->size_bytes : 0);
}

void cas_tarheader_set_checksum(uint8_t block[CAS_TAR_BLOCK_BYTES])
{
        unsigned sum = 0;
        for (size_t i = 0; i < CAS_TAR_BLOCK_BYTES; i++)
                sum += block[i];
        for (size_t i = 0; i < checksum_field.bytes; i++)
                sum += (unsigned)' ' - block[checksum_field.at + i];
        set_number(block, &checksum_field, sum);
}

void cas_tarheader_learn(struct cas_tarheader_model *m, const struct cas_entry *e,
                         const uint8_t block[CAS_TAR_BLOCK_BYTES])
{
        unsigned number = e ? (unsigned)e->type : 0;
        memcpy(m->blocks[number], block, CAS_TAR_BLOCK_BYTES);
        m->has[number] = true;
        m->last = number;
}
