/* SPDX-License-Identifier: Apache-2.0 */
/* Header blocks of a tar: 512 bytes of text fields (POSIX.1-1988 ustar, and
 * GNU's use of the same block). */
#include "cas/tar_int.h"

/* ustar fields: offset and size. */
enum {
        NAME_AT = 0,
        NAME_BYTES = 100,
        MODE_AT = 100,
        UID_AT = 108,
        GID_AT = 116,
        SIZE_AT = 124,
        MTIME_AT = 136,
        CHECKSUM_AT = 148,
        TYPE_AT = 156,
        LINK_AT = 157,
        LINK_BYTES = 100,
        MAGIC_AT = 257,
        MAJOR_AT = 329,
        MINOR_AT = 337,
        PREFIX_AT = 345,
        PREFIX_BYTES = 155,
        SHORT_BYTES = 8, /* mode, uid, gid, checksum, major, minor */
        LONG_BYTES = 12, /* size, mtime, sparse numbers */
        SPARSE_AT = 386, /* old GNU: four regions, then two fields */
        SPARSE_COUNT = 4,
        SPARSE_EXTENDED_AT = 482,
        SPARSE_REAL_AT = 483,
        SPARSE_BYTES = 24,
        MAP_COUNT = 21, /* regions of a map block */
        MAP_EXTENDED_AT = 504,
        STAR_PREFIX_BYTES = 131, /* star keeps times behind its shorter prefix */
        STAR_MAGIC_AT = 508,
};

void cas_tar_map_release(struct cas_tar_map *m)
{
        free(m->regions);
        *m = (struct cas_tar_map){0};
}

int cas_tar_map_add(struct cas_tar_map *m, uint64_t offset, uint64_t length, struct cas_err *err)
{
        const struct cas_tar_region *last = m->count ? &m->regions[m->count - 1] : NULL;
        if (m->count == CAS_TAR_SPARSE_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a sparse file of more than %d regions",
                                CAS_TAR_SPARSE_MAX);
        if (length > INT64_MAX - cas_min_u64(offset, INT64_MAX) ||
            (last && offset < last->offset + last->length))
                return cas_fail(err, CAS_E_CORRUPT, "damaged sparse map");
        if (m->count == m->alloc) {
                m->alloc = m->alloc ? m->alloc * 2 : 16;
                m->regions = cas_xrealloc(m->regions, m->alloc * sizeof(*m->regions));
        }
        m->regions[m->count++] = (struct cas_tar_region){.offset = offset, .length = length};
        return 0;
}

void cas_tar_header_release(struct cas_tar_header *h)
{
        cas_entry_release(&h->entry);
        cas_tar_map_release(&h->map);
        free(h->sparse_name);
        *h = (struct cas_tar_header){0};
}

bool cas_tar_block_zero(const uint8_t block[CAS_TAR_BLOCK_BYTES])
{
        return block[0] == 0 && memcmp(block, block + 1, CAS_TAR_BLOCK_BYTES - 1) == 0;
}

/* Octal digits between spaces and NULs; none at all is 0. */
static bool parse_octal(const uint8_t *field, size_t len, uint64_t *out)
{
        size_t i = 0;
        uint64_t v = 0;
        while (i < len && (field[i] == ' ' || field[i] == '\0'))
                i++;
        for (; i < len && field[i] >= '0' && field[i] <= '7'; i++) {
                if (v >> 60)
                        return false;
                v = v << 3 | (uint64_t)(field[i] - '0');
        }
        *out = v;
        return i == len || field[i] == ' ' || field[i] == '\0';
}

/* GNU's binary numbers: the first bit marks one, the rest is big-endian two's complement. */
static bool parse_binary(const uint8_t *field, size_t len, int64_t *out)
{
        uint8_t fill = field[0] & 0x40 ? 0xff : 0;
        uint64_t v = 0;
        for (size_t i = 0; i < len; i++) {
                uint8_t byte = i > 0 ? field[i] : (uint8_t)((field[0] & 0x7f) | (fill & 0x80));
                if (len - i > sizeof(v) && byte != fill)
                        return false;
                v = v << 8 | byte;
        }
        *out = (int64_t)v;
        return (*out < 0) == (fill != 0);
}

static bool parse_signed(const uint8_t *field, size_t len, int64_t *out)
{
        uint64_t v;
        if (field[0] & 0x80)
                return parse_binary(field, len, out);
        if (!parse_octal(field, len, &v) || v > INT64_MAX)
                return false;
        *out = (int64_t)v;
        return true;
}

static bool parse_unsigned(const uint8_t *field, size_t len, uint64_t max, uint64_t *out)
{
        int64_t v;
        if (!parse_signed(field, len, &v) || v < 0 || (uint64_t)v > max)
                return false;
        *out = (uint64_t)v;
        return true;
}

static bool parse_u32(const uint8_t *field, size_t len, uint32_t *out)
{
        uint64_t v;
        if (!parse_unsigned(field, len, UINT32_MAX, &v))
                return false;
        *out = (uint32_t)v;
        return true;
}

bool cas_tar_block_valid(const uint8_t block[CAS_TAR_BLOCK_BYTES])
{
        uint64_t stored;
        int64_t as_signed = 0, as_unsigned = 0;
        if (!parse_octal(block + CHECKSUM_AT, SHORT_BYTES, &stored))
                return false;
        for (size_t i = 0; i < CAS_TAR_BLOCK_BYTES; i++) {
                bool in_sum = i < CHECKSUM_AT || i >= CHECKSUM_AT + SHORT_BYTES;
                uint8_t byte = in_sum ? block[i] : ' ';
                as_unsigned += byte;
                as_signed += (int8_t)byte;
        }
        return (int64_t)stored == as_unsigned || (int64_t)stored == as_signed;
}

static char *field_text(const uint8_t *field, size_t len)
{
        return cas_xstrndup((const char *)field, strnlen((const char *)field, len));
}

static char *block_name(const uint8_t *block, bool ustar)
{
        cas_cleanup_free char *name = field_text(block + NAME_AT, NAME_BYTES);
        bool star = memcmp(block + STAR_MAGIC_AT, "tar", 4) == 0;
        size_t prefix_bytes = star ? STAR_PREFIX_BYTES : PREFIX_BYTES;
        if (!ustar || block[PREFIX_AT] == '\0')
                return cas_steal(&name);
        cas_cleanup_free char *prefix = field_text(block + PREFIX_AT, prefix_bytes);
        return cas_xasprintf("%s/%s", prefix, name);
}

static int parse_regions(const uint8_t *at, size_t count, struct cas_tar_map *map,
                         struct cas_err *err)
{
        for (size_t i = 0; i < count; i++, at += SPARSE_BYTES) {
                uint64_t offset, length;
                if (at[0] == '\0' && at[LONG_BYTES] == '\0')
                        break; /* unused slots */
                if (!parse_unsigned(at, LONG_BYTES, INT64_MAX, &offset) ||
                    !parse_unsigned(at + LONG_BYTES, LONG_BYTES, INT64_MAX, &length))
                        return cas_fail(err, CAS_E_CORRUPT, "damaged sparse map");
                if (cas_tar_map_add(map, offset, length, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

int cas_tar_block_sparse(const uint8_t block[CAS_TAR_BLOCK_BYTES], struct cas_tar_map *map,
                         bool *extended, struct cas_err *err)
{
        *extended = block[MAP_EXTENDED_AT] != 0;
        return parse_regions(block, MAP_COUNT, map, err);
}

static bool is_device(char type)
{
        return type == '3' || type == '4';
}

int cas_tar_block_parse(const uint8_t block[CAS_TAR_BLOCK_BYTES], struct cas_tar_header *h,
                        bool *extended, struct cas_err *err)
{
        bool gnu = memcmp(block + MAGIC_AT, "ustar  ", 8) == 0;
        bool ustar = memcmp(block + MAGIC_AT, "ustar", 6) == 0;
        struct cas_entry *e = &h->entry;
        *extended = false;
        memcpy(h->block, block, CAS_TAR_BLOCK_BYTES);
        h->typeflag = (char)block[TYPE_AT];
        e->path = block_name(block, ustar);
        e->target = field_text(block + LINK_AT, LINK_BYTES);
        if (!parse_u32(block + MODE_AT, SHORT_BYTES, &e->mode) ||
            !parse_u32(block + UID_AT, SHORT_BYTES, &e->uid) ||
            !parse_u32(block + GID_AT, SHORT_BYTES, &e->gid) ||
            !parse_unsigned(block + SIZE_AT, LONG_BYTES, INT64_MAX, &h->stored_bytes) ||
            !parse_signed(block + MTIME_AT, LONG_BYTES, &e->mtime_s))
                return cas_fail(err, CAS_E_CORRUPT, "\"%.200s\": damaged number in a header",
                                e->path);
        if (is_device(h->typeflag) && (gnu || ustar) &&
            (!parse_u32(block + MAJOR_AT, SHORT_BYTES, &e->dev_major) ||
             !parse_u32(block + MINOR_AT, SHORT_BYTES, &e->dev_minor)))
                return cas_fail(err, CAS_E_CORRUPT, "\"%.200s\": damaged device number", e->path);
        if (h->typeflag != 'S')
                return 0;
        h->sparse = CAS_TAR_SPARSE_MAPPED;
        *extended = block[SPARSE_EXTENDED_AT] != 0;
        if (!parse_unsigned(block + SPARSE_REAL_AT, LONG_BYTES, INT64_MAX, &h->real_bytes))
                return cas_fail(err, CAS_E_CORRUPT, "\"%.200s\": damaged size", e->path);
        h->has_real_bytes = true;
        return parse_regions(block + SPARSE_AT, SPARSE_COUNT, &h->map, err);
}
