/* SPDX-License-Identifier: Apache-2.0 */
/* PAX extended headers: records "LENGTH KEY=VALUE\n" that overrule fields of
 * the header block, and add what it cannot say. */
#include "cas/tar_int.h"

static const char xattr_prefix[] = "SCHILY.xattr.";
static const char sparse_prefix[] = "GNU.sparse.";

/* One record; key and value are borrowed, both end with a NUL. */
struct record {
        const char *key;
        const char *value;
        size_t value_bytes;
};

static bool parse_u64(const char *text, uint64_t max, uint64_t *out)
{
        uint64_t v = 0;
        if (*text == '\0')
                return false;
        for (; *text; text++) {
                if (*text < '0' || *text > '9')
                        return false;
                uint64_t digit = (uint64_t)(*text - '0');
                if (v > (max - digit) / 10)
                        return false;
                v = v * 10 + digit;
        }
        *out = v;
        return v <= max;
}

static bool parse_u32(const char *text, uint32_t *out)
{
        uint64_t v;
        if (!parse_u64(text, UINT32_MAX, &v))
                return false;
        *out = (uint32_t)v;
        return true;
}

bool cas_tar_pax_time(const char *text, int64_t *s, uint32_t *ns)
{
        bool negative = *text == '-';
        text += negative;
        char whole[24];
        size_t digits = strcspn(text, ".");
        if (digits >= sizeof(whole))
                return false;
        memcpy(whole, text, digits);
        whole[digits] = '\0';
        uint64_t seconds;
        if (!parse_u64(whole, INT64_MAX, &seconds))
                return false;
        uint32_t fraction = 0, unit = 100000000;
        if (text[digits] == '.')
                for (const char *at = text + digits + 1; *at; at++, unit /= 10) {
                        if (*at < '0' || *at > '9')
                                return false;
                        fraction += unit * (uint32_t)(*at - '0'); /* digits past 9: unit is 0 */
                }
        *s = negative ? -(int64_t)seconds : (int64_t)seconds;
        *ns = fraction;
        if (negative && fraction > 0) {
                *s -= 1;
                *ns = 1000000000 - fraction;
        }
        return true;
}

static int fail_value(const struct record *r, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "PAX header: damaged value of %.100s", r->key);
}

/* Paths are C strings from here on, so a NUL in one would hide its rest. */
static int set_text(char **field, const struct record *r, struct cas_err *err)
{
        if (memchr(r->value, '\0', r->value_bytes))
                return fail_value(r, err);
        free(*field);
        *field = cas_xstrndup(r->value, r->value_bytes);
        return 0;
}

/* GNU.sparse.map of version 0.1: "offset,length,…". */
static int parse_map(struct cas_tar_header *h, const struct record *r, struct cas_err *err)
{
        uint64_t pair[2];
        unsigned have = 0;
        cas_tar_map_release(&h->map);
        for (const char *at = r->value; *at;) {
                char number[24];
                size_t n = strcspn(at, ",");
                if (n >= sizeof(number))
                        return fail_value(r, err);
                memcpy(number, at, n);
                number[n] = '\0';
                if (!parse_u64(number, INT64_MAX, &pair[have++]))
                        return fail_value(r, err);
                if (have == 2) {
                        have = 0;
                        if (cas_tar_map_add(&h->map, pair[0], pair[1], err) < 0)
                                return -(int)err->code;
                }
                at += n + (at[n] == ',');
        }
        h->sparse = CAS_TAR_SPARSE_MAPPED;
        return have == 0 ? 0 : fail_value(r, err);
}

/* Records of sparse files: 0.0 has pairs of offset and numbytes, 0.1 a map, 1.0 the map in the
 * data. `major` comes with 1.0 only. */
static int apply_sparse(struct cas_tar_header *h, const char *key, const struct record *r,
                        struct cas_err *err)
{
        uint64_t v = 0;
        if (strcmp(key, "name") == 0)
                return set_text(&h->sparse_name, r, err);
        if (strcmp(key, "map") == 0)
                return parse_map(h, r, err);
        if (!parse_u64(r->value, INT64_MAX, &v))
                return fail_value(r, err);
        if (strcmp(key, "size") == 0 || strcmp(key, "realsize") == 0) {
                h->real_bytes = v;
                h->has_real_bytes = true;
        } else if (strcmp(key, "major") == 0) {
                if (v > 1)
                        return cas_fail(err, CAS_E_UNSUPPORTED, "sparse file of format %.20s",
                                        r->value);
                if (v == 1)
                        h->sparse = CAS_TAR_SPARSE_IN_DATA;
        } else if (strcmp(key, "numblocks") == 0) {
                h->sparse = CAS_TAR_SPARSE_MAPPED;
        } else if (strcmp(key, "offset") == 0) {
                h->sparse_offset = v;
        } else if (strcmp(key, "numbytes") == 0) {
                return cas_tar_map_add(&h->map, h->sparse_offset, v, err);
        }
        return 0;
}

static const char *xattr_name(const char *key)
{
        size_t n = strlen(xattr_prefix);
        return strncmp(key, xattr_prefix, n) == 0 ? key + n : NULL;
}

/* An empty value: what the header block says holds again. */
static int take_back(struct cas_tar_header *h, const char *key, struct cas_err *err)
{
        struct cas_tar_header plain = {0};
        bool extended;
        if (xattr_name(key)) {
                cas_entry_remove_xattr(&h->entry, xattr_name(key));
                return 0;
        }
        int ret = cas_tar_block_parse(h->block, &plain, &extended, err);
        if (strcmp(key, "path") == 0) {
                free(h->entry.path);
                h->entry.path = cas_steal(&plain.entry.path);
        } else if (strcmp(key, "linkpath") == 0) {
                free(h->entry.target);
                h->entry.target = cas_steal(&plain.entry.target);
        } else if (strcmp(key, "size") == 0) {
                h->stored_bytes = plain.stored_bytes;
        } else if (strcmp(key, "uid") == 0) {
                h->entry.uid = plain.entry.uid;
        } else if (strcmp(key, "gid") == 0) {
                h->entry.gid = plain.entry.gid;
        } else if (strcmp(key, "mtime") == 0) {
                h->entry.mtime_s = plain.entry.mtime_s;
                h->entry.mtime_ns = plain.entry.mtime_ns;
        }
        cas_tar_header_release(&plain);
        return ret;
}

static int apply_record(struct cas_tar_header *h, const struct record *r, struct cas_err *err)
{
        struct cas_entry *e = &h->entry;
        bool good = true;
        if (r->value_bytes == 0)
                return take_back(h, r->key, err);
        if (strcmp(r->key, "path") == 0)
                return set_text(&e->path, r, err);
        if (strcmp(r->key, "linkpath") == 0)
                return set_text(&e->target, r, err);
        if (xattr_name(r->key))
                return cas_entry_set_xattr(e, xattr_name(r->key), r->value, r->value_bytes, err);
        if (strncmp(r->key, sparse_prefix, strlen(sparse_prefix)) == 0)
                return apply_sparse(h, r->key + strlen(sparse_prefix), r, err);
        if (strcmp(r->key, "size") == 0)
                good = parse_u64(r->value, INT64_MAX, &h->stored_bytes);
        else if (strcmp(r->key, "uid") == 0)
                good = parse_u32(r->value, &e->uid);
        else if (strcmp(r->key, "gid") == 0)
                good = parse_u32(r->value, &e->gid);
        else if (strcmp(r->key, "mtime") == 0)
                good = cas_tar_pax_time(r->value, &e->mtime_s, &e->mtime_ns);
        return good ? 0 : fail_value(r, err);
}

/* ---- records ---- */

static bool key_known(const char *key)
{
        static const char *const known[] = {"path", "linkpath", "size", "uid", "gid", "mtime"};
        for (size_t i = 0; i < CAS_COUNT(known); i++)
                if (strcmp(key, known[i]) == 0)
                        return true;
        return xattr_name(key) || strncmp(key, sparse_prefix, strlen(sparse_prefix)) == 0;
}

/* The length of the record at the cursor, which then stands behind the blank; 0 when damaged. */
static size_t record_length(struct cas_cursor *c)
{
        const uint8_t *start = c->at;
        size_t len = 0;
        while (c->at < c->end && *c->at >= '0' && *c->at <= '9' && len <= CAS_TAR_HEADER_BYTES_MAX)
                len = len * 10 + (size_t)(*c->at++ - '0');
        size_t head = (size_t)(c->at - start) + 1;
        if (head == 1 || cas_cursor_u8(c) != ' ' || len <= head)
                return 0;
        return len - head;
}

int cas_tar_pax_parse(const struct cas_buf *text, struct cas_buf *records, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(text->data, text->len_bytes);
        while (cas_cursor_left(&c) > 0) {
                size_t len = record_length(&c);
                const uint8_t *at = len > 0 ? cas_cursor_take(&c, len) : NULL;
                const uint8_t *equals = at ? memchr(at, '=', len) : NULL;
                if (!equals || equals == at || at[len - 1] != '\n' ||
                    memchr(at, '\0', (size_t)(equals - at)))
                        return cas_fail(err, CAS_E_CORRUPT, "PAX header: damaged record");
                size_t key_len = (size_t)(equals - at), value_len = len - key_len - 2;
                size_t start = records->len_bytes;
                cas_buf_append_le32(records, (uint32_t)key_len);
                cas_buf_append_le32(records, (uint32_t)value_len);
                cas_buf_append(records, at, key_len);
                cas_buf_append_byte(records, '\0');
                if (!key_known((const char *)records->data + start + 8)) {
                        records->len_bytes = start;
                        continue;
                }
                cas_buf_append(records, equals + 1, value_len);
                cas_buf_append_byte(records, '\0');
        }
        return 0;
}

int cas_tar_pax_apply(const struct cas_buf *records, struct cas_tar_header *h, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(records->data, records->len_bytes);
        while (cas_cursor_left(&c) > 0) {
                uint32_t key_len = cas_cursor_le32(&c), value_len = cas_cursor_le32(&c);
                struct record r = {.value_bytes = value_len};
                r.key = (const char *)cas_cursor_take(&c, (size_t)key_len + 1);
                r.value = (const char *)cas_cursor_take(&c, (size_t)value_len + 1);
                cas_assert(!c.failed);
                if (apply_record(h, &r, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}
