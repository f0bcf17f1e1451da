/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a layer listing (spec/layer.md). One checker holds what a
 * listing must be: it runs before writing and while reading. */
#include "cas/layer.h"

#include <inttypes.h>

#include "cas/path.h"

#define LISTING_ENTRY_BYTES_MIN 28

static const uint8_t listing_magic[4] = {'L', 'L', 'S', 'T'};

enum listing_flag {
        LISTING_OPAQUE = 1,
        LISTING_IMPLIED = 2,
        LISTING_BELOW = 4,
        LISTING_XATTRS = 8,
};
#define LISTING_FLAGS_ALL (LISTING_OPAQUE | LISTING_IMPLIED | LISTING_BELOW | LISTING_XATTRS)

void cas_listing_release(struct cas_listing *l)
{
        for (size_t i = 0; i < l->count; i++)
                cas_entry_release(&l->entries[i]);
        free(l->entries);
        *l = (struct cas_listing){0};
}

/* ---- what an entry must be ---- */

static bool has_attributes(const struct cas_entry *e)
{
        return e->mode || e->uid || e->gid || e->mtime_s || e->mtime_ns || e->xattr_count;
}

static bool is_device(const struct cas_entry *e)
{
        return e->type == CAS_ENTRY_CHARDEV || e->type == CAS_ENTRY_BLOCKDEV;
}

/* Why the entry cannot stand in a listing, or NULL. */
static const char *entry_fault(const struct cas_entry *e)
{
        bool dir = e->type == CAS_ENTRY_DIR;
        bool bare = e->type == CAS_ENTRY_HARDLINK || e->type == CAS_ENTRY_WHITEOUT || e->implied;
        bool has_target = e->type == CAS_ENTRY_SYMLINK || e->type == CAS_ENTRY_HARDLINK;
        if (e->type < CAS_ENTRY_DIR || e->type > CAS_ENTRY_WHITEOUT)
                return "unknown type";
        if (!cas_path_valid(e->path))
                return "malformed path";
        if (e->path[0] == '\0' && !dir)
                return "the root is not a directory";
        if (e->mode & ~07777U || e->mtime_ns >= 1000000000)
                return "mode or time out of range";
        if ((e->opaque && !dir) || (e->implied && !e->opaque) ||
            (e->below && e->type != CAS_ENTRY_HARDLINK))
                return "flags that do not go with the type";
        if (bare && has_attributes(e))
                return "attributes where there can be none";
        if (has_target != (e->target != NULL))
                return "a link without target, or a target without link";
        if (e->type == CAS_ENTRY_SYMLINK &&
            (e->target[0] == '\0' || strlen(e->target) > CAS_SYMLINK_BYTES_MAX))
                return "malformed symbolic link";
        if (e->type == CAS_ENTRY_HARDLINK && (!cas_path_valid(e->target) || !e->target[0]))
                return "malformed hard link target";
        if (is_device(e) && (e->dev_major > 0xfff || e->dev_minor > 0xfffff))
                return "device number out of range";
        if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_OBJECT_BYTES_MAX)
                return "file too large";
        return NULL;
}

static int entry_order(const void *key, const void *element)
{
        return cas_path_compare(key, ((const struct cas_entry *)element)->path);
}

/* Why entry i cannot stand after those before it, or NULL. */
static const char *place_fault(const struct cas_entry *entries, size_t i)
{
        const struct cas_entry *e = &entries[i];
        if (i > 0) {
                const struct cas_entry *before = &entries[i - 1];
                if (cas_path_compare(before->path, e->path) >= 0)
                        return "out of order";
                /* What is in a directory follows it at once, so looking one back is enough. */
                if (before->type != CAS_ENTRY_DIR && cas_path_inside(e->path, before->path))
                        return "lies below what is not a directory";
        }
        if (e->type == CAS_ENTRY_HARDLINK && !e->below) {
                const struct cas_entry *to =
                        i == 0 ? NULL : bsearch(e->target, entries, i, sizeof(*e), entry_order);
                if (!to || to->type == CAS_ENTRY_DIR || to->type == CAS_ENTRY_WHITEOUT ||
                    (to->type == CAS_ENTRY_HARDLINK && !to->below))
                        return "a hard link whose target is no earlier file";
        }
        return NULL;
}

static int check_entry(const struct cas_entry *entries, size_t i, enum cas_code code,
                       struct cas_err *err)
{
        const char *fault = entry_fault(&entries[i]);
        if (!fault)
                fault = place_fault(entries, i);
        if (!fault)
                return 0;
        return cas_fail(err, code, "listing: entry %zu \"%.200s\": %s", i, entries[i].path, fault);
}

/* ---- writing ---- */

static void append_string(struct cas_buf *out, const char *s)
{
        size_t len = strlen(s);
        cas_buf_append_le32(out, (uint32_t)len);
        cas_buf_append(out, s, len);
}

static void append_xattrs(struct cas_buf *out, const struct cas_entry *e)
{
        cas_buf_append_le32(out, (uint32_t)e->xattr_count);
        for (size_t i = 0; i < e->xattr_count; i++) {
                const struct cas_xattr *x = &e->xattrs[i];
                append_string(out, x->name);
                cas_buf_append_le32(out, (uint32_t)x->value_bytes);
                cas_buf_append(out, x->value, x->value_bytes);
        }
}

static void append_entry(struct cas_buf *out, const struct cas_entry *e)
{
        unsigned flags = (e->opaque ? LISTING_OPAQUE : 0U) | (e->implied ? LISTING_IMPLIED : 0U) |
                         (e->below ? LISTING_BELOW : 0U) | (e->xattr_count ? LISTING_XATTRS : 0U);
        cas_buf_append_byte(out, (uint8_t)e->type);
        cas_buf_append_byte(out, (uint8_t)flags);
        cas_buf_append_le16(out, (uint16_t)e->mode);
        cas_buf_append_le32(out, e->uid);
        cas_buf_append_le32(out, e->gid);
        cas_buf_append_le64(out, (uint64_t)e->mtime_s);
        cas_buf_append_le32(out, e->mtime_ns);
        append_string(out, e->path);
        if (e->target)
                append_string(out, e->target);
        if (is_device(e)) {
                cas_buf_append_le32(out, e->dev_major);
                cas_buf_append_le32(out, e->dev_minor);
        }
        if (e->type == CAS_ENTRY_FILE) {
                cas_buf_append_le64(out, e->size_bytes);
                if (e->size_bytes <= CAS_INLINE_BYTES_MAX)
                        cas_buf_append(out, e->inline_data, (size_t)e->size_bytes);
                else
                        cas_buf_append(out, e->object.bytes, CAS_HASH_BYTES);
        }
        if (e->xattr_count)
                append_xattrs(out, e);
}

int cas_listing_encode(const struct cas_listing *l, struct cas_buf *out, struct cas_err *err)
{
        size_t start = out->len_bytes;
        if (l->count > CAS_TAR_ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a layer of %zu entries", l->count);
        cas_buf_append(out, listing_magic, sizeof(listing_magic));
        cas_buf_append_le32(out, CAS_LISTING_VERSION);
        cas_buf_append_le64(out, l->count);
        for (size_t i = 0; i < l->count; i++) {
                if (check_entry(l->entries, i, CAS_E_INVALID, err) < 0)
                        return -(int)err->code;
                append_entry(out, &l->entries[i]);
                if (out->len_bytes - start > CAS_LISTING_BYTES_MAX)
                        return cas_fail(err, CAS_E_LIMIT,
                                        "a layer whose names and attributes "
                                        "take more than %" PRIu64 " MiB",
                                        CAS_LISTING_BYTES_MAX / CAS_MIB);
        }
        return 0;
}

/* ---- reading ---- */

/* An owned copy of a string of at most max bytes, without NUL; NULL (and failed) otherwise. */
static char *take_string(struct cas_cursor *c, size_t max)
{
        uint32_t len = cas_cursor_le32(c);
        const uint8_t *at = len <= max ? cas_cursor_take(c, len) : NULL;
        if (!at || memchr(at, '\0', len)) {
                c->failed = true;
                return NULL;
        }
        return cas_xstrndup((const char *)at, len);
}

/* The names come sorted, so that setting them one by one appends; order is checked. */
static int take_xattrs(struct cas_cursor *c, struct cas_entry *e, struct cas_err *err)
{
        uint32_t count = cas_cursor_le32(c);
        if (count == 0)
                c->failed = true;
        for (uint32_t i = 0; i < count && !c->failed; i++) {
                cas_cleanup_free char *name = take_string(c, CAS_XATTR_NAME_BYTES_MAX);
                uint32_t len = cas_cursor_le32(c);
                const uint8_t *value = cas_cursor_take(c, len);
                if (!name || !value ||
                    (i > 0 && strcmp(e->xattrs[e->xattr_count - 1].name, name) >= 0)) {
                        c->failed = true;
                        break;
                }
                if (cas_entry_set_xattr(e, name, value, len, err) < 0)
                        return cas_fail(err, CAS_E_CORRUPT, "listing: xattrs over the limits");
        }
        return 0;
}

static void take_content(struct cas_cursor *c, struct cas_entry *e)
{
        e->size_bytes = cas_cursor_le64(c);
        bool small = e->size_bytes <= CAS_INLINE_BYTES_MAX;
        size_t len = small ? (size_t)e->size_bytes : CAS_HASH_BYTES;
        const uint8_t *at = cas_cursor_take(c, len);
        if (at && len > 0)
                memcpy(small ? e->inline_data : e->object.bytes, at, len);
}

static int take_entry(struct cas_cursor *c, struct cas_entry *e, struct cas_err *err)
{
        e->type = cas_cursor_u8(c);
        uint8_t flags = cas_cursor_u8(c);
        e->opaque = flags & LISTING_OPAQUE;
        e->implied = flags & LISTING_IMPLIED;
        e->below = flags & LISTING_BELOW;
        e->mode = cas_cursor_le16(c);
        e->uid = cas_cursor_le32(c);
        e->gid = cas_cursor_le32(c);
        e->mtime_s = (int64_t)cas_cursor_le64(c);
        e->mtime_ns = cas_cursor_le32(c);
        e->path = take_string(c, CAS_PATH_BYTES_MAX);
        if (e->type == CAS_ENTRY_SYMLINK || e->type == CAS_ENTRY_HARDLINK)
                e->target = take_string(c, CAS_PATH_BYTES_MAX);
        if (is_device(e)) {
                e->dev_major = cas_cursor_le32(c);
                e->dev_minor = cas_cursor_le32(c);
        }
        if (e->type == CAS_ENTRY_FILE)
                take_content(c, e);
        if (flags & LISTING_XATTRS && take_xattrs(c, e, err) < 0)
                return -(int)err->code;
        if (c->failed || flags & ~LISTING_FLAGS_ALL)
                return cas_fail(err, CAS_E_CORRUPT, "listing: damaged entry");
        return 0;
}

int cas_listing_check_head(const void *data, size_t len, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        const uint8_t *magic = cas_cursor_take(&c, sizeof(listing_magic));
        uint32_t version = cas_cursor_le32(&c);
        (void)cas_cursor_le64(&c);
        if (!magic || memcmp(magic, listing_magic, sizeof(listing_magic)) != 0 || c.failed)
                return cas_fail(err, CAS_E_CORRUPT, "not a layer listing");
        if (version != CAS_LISTING_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "layer listing of version %u", version);
        return 0;
}

int cas_listing_decode_entry(const void *data, size_t len, struct cas_entry *out, size_t *out_bytes,
                             struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        struct cas_entry e = {0};
        const char *fault;
        int ret = take_entry(&c, &e, err);
        if (ret == 0 && (fault = entry_fault(&e)))
                ret = cas_fail(err, CAS_E_CORRUPT, "listing: %s", fault);
        if (ret < 0) {
                cas_entry_release(&e);
                return ret;
        }
        *out = e;
        *out_bytes = len - cas_cursor_left(&c);
        return 0;
}

int cas_listing_decode(const void *data, size_t len, struct cas_listing *out, struct cas_err *err)
{
        struct cas_cursor c;
        if (cas_listing_check_head(data, len, err) < 0)
                return -(int)err->code;
        c = cas_cursor_over(data, len);
        (void)cas_cursor_take(&c, CAS_LISTING_HEAD_BYTES - 8);
        uint64_t count = cas_cursor_le64(&c);
        if (count > CAS_TAR_ENTRIES_MAX || count > cas_cursor_left(&c) / LISTING_ENTRY_BYTES_MIN)
                return cas_fail(err, CAS_E_CORRUPT, "listing: impossible count %" PRIu64, count);

        cas_cleanup_listing struct cas_listing l = {0};
        l.entries = calloc(count ? (size_t)count : 1, sizeof(*l.entries));
        if (!l.entries)
                return cas_fail(err, CAS_E_NOMEM, "listing of %" PRIu64 " entries", count);
        for (size_t i = 0; i < count; i++) {
                l.count = i + 1;
                if (take_entry(&c, &l.entries[i], err) < 0 ||
                    check_entry(l.entries, i, CAS_E_CORRUPT, err) < 0)
                        return -(int)err->code;
        }
        if (cas_cursor_left(&c) > 0)
                return cas_fail(err, CAS_E_CORRUPT, "listing: bytes after the last entry");
        *out = l;
        l = (struct cas_listing){0};
        return 0;
}
