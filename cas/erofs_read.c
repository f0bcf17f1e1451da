/* SPDX-License-Identifier: Apache-2.0 */
/* Reads trees (spec/tree.md). The bytes are not trusted: every offset is
 * checked against the map before it is used, and every loop ends after a number
 * of steps that the map's size bounds. A directory may still name its own
 * parents: who descends bounds the depth (CAS_TREE_DEPTH_MAX).
 * Immutable after open, so thread-safe. */
#include <dirent.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "cas/erofs.h"
#include "cas/tree.h"

struct cas_tree {
        const uint8_t *data;
        uint64_t len_bytes;
        bool mapped;
        bool stacked;
        uint64_t root_nid;
        uint64_t xattr_at;
        int64_t time_s;
        uint32_t time_ns;
};

/* An inode's place, and what its layout needs. */
struct raw_inode {
        uint64_t at, core_bytes, xattr_at, xattr_bytes, body_at;
        unsigned layout;
        uint16_t mode;
        uint64_t size_bytes;
        uint32_t uni;
};

/* NULL unless `len` bytes at `at` are in the map. */
static const uint8_t *bytes_at(const struct cas_tree *t, uint64_t at, uint64_t len)
{
        return at <= t->len_bytes && len <= t->len_bytes - at ? t->data + at : NULL;
}

/* ---- opening ---- */

static int check_super(struct cas_tree *t, struct cas_err *err)
{
        uint8_t block[EROFS_BLOCK_BYTES - EROFS_SUPER_OFFSET];
        memcpy(block, t->data + EROFS_SUPER_OFFSET, sizeof(block));
        const uint8_t *sb = t->data + EROFS_SUPER_OFFSET;
        if (cas_get_le32(sb + EROFS_SB_MAGIC) != EROFS_MAGIC ||
            memcmp(t->data + TREE_OFF_MAGIC, TREE_MAGIC, 8) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "tree: bad magic");
        uint32_t version = cas_get_le32(t->data + TREE_OFF_VERSION);
        uint32_t flags = cas_get_le32(t->data + TREE_OFF_FLAGS);
        if (version != CAS_TREE_VERSION || (flags & ~TREE_FLAG_STACKED) != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "tree: version %u, flags %#x", version,
                                flags);
        cas_put_le32(block + EROFS_SB_CHECKSUM, 0);
        if (cas_erofs_crc32c(block, sizeof(block)) != cas_get_le32(sb + EROFS_SB_CHECKSUM))
                return cas_fail(err, CAS_E_CORRUPT, "tree: bad checksum of the super block");
        if (sb[EROFS_SB_BLOCK_BITS] != EROFS_BLOCK_BITS ||
            cas_get_le32(sb + EROFS_SB_INCOMPAT) != EROFS_INCOMPAT_CHUNKED ||
            cas_get_le32(sb + EROFS_SB_META_BLOCK) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "tree: unexpected form of the super block");
        if ((uint64_t)cas_get_le32(sb + EROFS_SB_BLOCKS) * EROFS_BLOCK_BYTES != t->len_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "tree: %llu bytes, %u blocks expected",
                                (unsigned long long)t->len_bytes,
                                cas_get_le32(sb + EROFS_SB_BLOCKS));
        /* Who walks a tree goes by this number. */
        if (cas_tree_entry_count(t) > t->len_bytes / EROFS_DIRENT_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "tree: no room for %llu names",
                                (unsigned long long)cas_tree_entry_count(t));
        t->stacked = (flags & TREE_FLAG_STACKED) != 0;
        t->root_nid = cas_get_le16(sb + EROFS_SB_ROOT_NID);
        t->xattr_at = (uint64_t)cas_get_le32(sb + EROFS_SB_XATTR_BLOCK) * EROFS_BLOCK_BYTES;
        t->time_s = (int64_t)cas_get_le64(sb + EROFS_SB_TIME_S);
        t->time_ns = cas_get_le32(sb + EROFS_SB_TIME_NS);
        return 0;
}

static int check_tree(struct cas_tree *t, struct cas_err *err)
{
        if (t->len_bytes < EROFS_BLOCK_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "tree: %llu bytes",
                                (unsigned long long)t->len_bytes);
        struct cas_inode root;
        if (check_super(t, err) < 0)
                return -(int)err->code;
        if (cas_tree_inode(t, t->root_nid, &root, err) < 0)
                return cas_err_wrap(err, "root");
        if (!S_ISDIR(root.mode))
                return cas_fail(err, CAS_E_CORRUPT, "tree: the root is not a directory");
        return 0;
}

int cas_tree_open_mem(const void *data, size_t len, struct cas_tree **out, struct cas_err *err)
{
        cas_cleanup_tree struct cas_tree *t = cas_xcalloc(1, sizeof(*t));
        t->data = data;
        t->len_bytes = len;
        if (check_tree(t, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&t);
        return 0;
}

int cas_tree_open_fd(int fd, struct cas_tree **out, struct cas_err *err)
{
        struct stat st;
        if (fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "stat of a tree");
        if (!S_ISREG(st.st_mode) || st.st_size < (off_t)EROFS_BLOCK_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "tree: not a file of at least one block");
        cas_cleanup_tree struct cas_tree *t = cas_xcalloc(1, sizeof(*t));
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
                return cas_fail_sys(err, errno, "map a tree");
        t->data = map;
        t->len_bytes = (uint64_t)st.st_size;
        t->mapped = true;
        if (check_tree(t, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&t);
        return 0;
}

void cas_tree_close(struct cas_tree *t)
{
        if (t && t->mapped)
                (void)munmap((void *)t->data, t->len_bytes);
        free(t);
}

uint64_t cas_tree_root(const struct cas_tree *t)
{
        return t->root_nid;
}

bool cas_tree_is_stacked(const struct cas_tree *t)
{
        return t->stacked;
}

uint64_t cas_tree_entry_count(const struct cas_tree *t)
{
        return cas_get_le64(t->data + TREE_OFF_ENTRIES);
}

/* ---- xattrs ---- */

struct raw_xattr {
        uint8_t index;
        uint8_t name_len;
        const char *name; /* behind the prefix */
        const uint8_t *value;
        uint16_t value_bytes;
        uint64_t bytes; /* of the entry */
};

/* Goes through the xattrs of an inode: shared ones, then those in line. */
struct xattr_iter {
        const struct cas_tree *t;
        uint64_t ids_at, in_line_at, end;
        unsigned shared_left;
};

static int xattr_iter_start(const struct cas_tree *t, const struct raw_inode *raw,
                            struct xattr_iter *out, struct cas_err *err)
{
        *out = (struct xattr_iter){.t = t};
        if (raw->xattr_bytes == 0)
                return 0;
        unsigned shared = t->data[raw->xattr_at + EROFS_X_SHARED];
        if (EROFS_XATTR_HEADER_BYTES + 4u * shared > raw->xattr_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "tree: too many shared xattrs");
        out->shared_left = shared;
        out->ids_at = raw->xattr_at + EROFS_XATTR_HEADER_BYTES;
        out->in_line_at = out->ids_at + 4u * shared;
        out->end = raw->xattr_at + raw->xattr_bytes;
        return 0;
}

static int xattr_at(const struct cas_tree *t, uint64_t at, uint64_t end, struct raw_xattr *out,
                    struct cas_err *err)
{
        const uint8_t *e = at < end ? bytes_at(t, at, EROFS_XATTR_ENTRY_BYTES) : NULL;
        if (e) {
                out->name_len = e[EROFS_XE_NAME_BYTES];
                out->index = e[EROFS_XE_INDEX];
                out->value_bytes = cas_get_le16(e + EROFS_XE_VALUE_BYTES);
                out->name = (const char *)e + EROFS_XATTR_ENTRY_BYTES;
                out->value = (const uint8_t *)out->name + out->name_len;
                out->bytes = cas_erofs_xattr_entry_bytes(out->name_len, out->value_bytes);
        }
        if (!e || out->bytes > end - at)
                return cas_fail(err, CAS_E_CORRUPT, "tree: xattr outside of its area");
        return 0;
}

/* Gives the next xattr; *more is false at the end. */
static int xattr_next(struct xattr_iter *it, struct raw_xattr *out, bool *more, struct cas_err *err)
{
        *more = true;
        if (it->shared_left > 0) {
                uint64_t id = cas_get_le32(it->t->data + it->ids_at);
                it->ids_at += 4;
                it->shared_left--;
                return xattr_at(it->t, it->t->xattr_at + id * 4, it->t->len_bytes, out, err);
        }
        if (it->in_line_at >= it->end) {
                *more = false;
                return 0;
        }
        if (xattr_at(it->t, it->in_line_at, it->end, out, err) < 0)
                return -(int)err->code;
        it->in_line_at += out->bytes;
        return 0;
}

static bool xattr_is(const struct raw_xattr *x, const char *trusted_name)
{
        return x->index == EROFS_XATTR_TRUSTED && x->name_len == strlen(trusted_name) &&
               memcmp(x->name, trusted_name, x->name_len) == 0;
}

/* "/xx/yyyy…" */
static bool redirect_parse(const struct raw_xattr *x, struct cas_hash *out)
{
        char hex[64];
        if (x->value_bytes != OVERLAY_REDIRECT_BYTES || x->value[0] != '/' || x->value[3] != '/')
                return false;
        memcpy(hex, x->value + 1, 2);
        memcpy(hex + 2, x->value + 4, 62);
        return cas_hash_from_hex(hex, sizeof(hex), out);
}

/* ---- inodes ---- */

static int read_raw(const struct cas_tree *t, uint64_t nid, struct raw_inode *out,
                    struct cas_inode *inode, struct cas_err *err)
{
        if (nid > t->len_bytes >> EROFS_SLOT_BITS)
                return cas_fail(err, CAS_E_CORRUPT, "tree: inode %llu is outside of it",
                                (unsigned long long)nid);
        uint64_t at = nid << EROFS_SLOT_BITS;
        const uint8_t *p = bytes_at(t, at, EROFS_COMPACT_BYTES);
        uint16_t format = p ? cas_get_le16(p + EROFS_I_FORMAT) : 0;
        bool extended = format & EROFS_FORMAT_EXTENDED;
        if (p && extended)
                p = bytes_at(t, at, EROFS_EXTENDED_BYTES);
        if (!p || at < EROFS_SUPER_OFFSET + EROFS_SUPER_BYTES || format >> 4 != 0)
                return cas_fail(err, CAS_E_CORRUPT, "tree: bad inode %llu",
                                (unsigned long long)nid);
        unsigned icount = cas_get_le16(p + EROFS_I_XATTR_COUNT);
        out->at = at;
        out->core_bytes = extended ? EROFS_EXTENDED_BYTES : EROFS_COMPACT_BYTES;
        out->xattr_at = at + out->core_bytes;
        out->xattr_bytes = icount == 0 ? 0 : EROFS_XATTR_HEADER_BYTES + 4ull * (icount - 1);
        out->body_at = out->xattr_at + out->xattr_bytes;
        if (!bytes_at(t, out->xattr_at, out->xattr_bytes))
                return cas_fail(err, CAS_E_CORRUPT, "tree: xattrs of inode %llu outside of it",
                                (unsigned long long)nid);
        out->layout = format >> EROFS_LAYOUT_SHIFT & 7;
        out->mode = cas_get_le16(p + EROFS_I_MODE);
        *inode = (struct cas_inode){.nid = nid, .mode = out->mode};
        if (extended) {
                out->size_bytes = cas_get_le64(p + EROFS_IE_SIZE);
                out->uni = cas_get_le32(p + EROFS_IE_UNION);
                inode->uid = cas_get_le32(p + EROFS_IE_UID);
                inode->gid = cas_get_le32(p + EROFS_IE_GID);
                inode->mtime_s = (int64_t)cas_get_le64(p + EROFS_IE_MTIME_S);
                inode->mtime_ns = cas_get_le32(p + EROFS_IE_MTIME_NS);
                inode->nlink = cas_get_le32(p + EROFS_IE_NLINK);
        } else {
                out->size_bytes = cas_get_le32(p + EROFS_IC_SIZE);
                out->uni = cas_get_le32(p + EROFS_IC_UNION);
                inode->uid = cas_get_le16(p + EROFS_IC_UID);
                inode->gid = cas_get_le16(p + EROFS_IC_GID);
                inode->mtime_s = t->time_s;
                inode->mtime_ns = t->time_ns;
                inode->nlink = cas_get_le16(p + EROFS_IC_NLINK);
        }
        inode->size_bytes = out->size_bytes;
        return 0;
}

/* Where a directory's, symlink's or small file's bytes are: whole blocks, then a tail. */
struct data_span {
        const uint8_t *blocks, *tail;
        uint64_t block_bytes, tail_bytes;
};

static int find_data(const struct cas_tree *t, const struct raw_inode *raw, struct data_span *out,
                     struct cas_err *err)
{
        *out = (struct data_span){0};
        if (raw->layout == EROFS_LAYOUT_INLINE) {
                out->tail_bytes = raw->size_bytes % EROFS_BLOCK_BYTES;
                if (raw->body_at % EROFS_BLOCK_BYTES + out->tail_bytes > EROFS_BLOCK_BYTES)
                        return cas_fail(err, CAS_E_CORRUPT, "tree: data crosses a block's end");
        } else if (raw->layout != EROFS_LAYOUT_PLAIN) {
                return cas_fail(err, CAS_E_CORRUPT, "tree: data of layout %u", raw->layout);
        }
        out->block_bytes = raw->size_bytes - out->tail_bytes;
        out->tail = bytes_at(t, raw->body_at, out->tail_bytes);
        out->blocks = bytes_at(t, (uint64_t)raw->uni * EROFS_BLOCK_BYTES, out->block_bytes);
        if (!out->tail || (out->block_bytes > 0 && !out->blocks))
                return cas_fail(err, CAS_E_CORRUPT, "tree: data outside of it");
        return 0;
}

static int read_marks(const struct cas_tree *t, const struct raw_inode *raw,
                      struct cas_inode *inode, struct cas_err *err)
{
        struct xattr_iter it;
        struct raw_xattr x;
        bool more, device = false;
        if (xattr_iter_start(t, raw, &it, err) < 0)
                return -(int)err->code;
        while (true) {
                if (xattr_next(&it, &x, &more, err) < 0)
                        return -(int)err->code;
                if (!more)
                        break;
                if (xattr_is(&x, OVERLAY_REDIRECT)) {
                        inode->has_object = redirect_parse(&x, &inode->object);
                        if (!inode->has_object)
                                return cas_fail(err, CAS_E_CORRUPT, "tree: bad redirect");
                } else if (xattr_is(&x, OVERLAY_OPAQUE)) {
                        inode->opaque = x.value_bytes == 1 && x.value[0] == 'y';
                } else if (xattr_is(&x, OVERLAY_DEVICE)) {
                        device = true;
                }
        }
        inode->whiteout = t->stacked && S_ISCHR(inode->mode) && inode->rdev == 0 && !device;
        return 0;
}

int cas_tree_inode(const struct cas_tree *t, uint64_t nid, struct cas_inode *out,
                   struct cas_err *err)
{
        struct raw_inode raw;
        struct cas_inode inode;
        struct data_span span;
        if (read_raw(t, nid, &raw, &inode, err) < 0)
                return -(int)err->code;
        if (inode.mtime_ns >= 1000000000)
                return cas_fail(err, CAS_E_CORRUPT, "tree: inode %llu: bad time",
                                (unsigned long long)nid);
        switch (inode.mode & S_IFMT) {
        case S_IFREG:
        case S_IFDIR:
        case S_IFLNK:
                break;
        case S_IFCHR:
        case S_IFBLK:
                inode.rdev = raw.uni;
                break;
        case S_IFIFO:
        case S_IFSOCK:
                break;
        default:
                return cas_fail(err, CAS_E_CORRUPT, "tree: inode %llu: mode %o",
                                (unsigned long long)nid, inode.mode);
        }
        if (read_marks(t, &raw, &inode, err) < 0)
                return -(int)err->code;
        bool chunked = raw.layout == EROFS_LAYOUT_CHUNKED;
        if (chunked != inode.has_object || (chunked && !S_ISREG(inode.mode)))
                return cas_fail(err, CAS_E_CORRUPT, "tree: inode %llu: layout and object disagree",
                                (unsigned long long)nid);
        if (!chunked && find_data(t, &raw, &span, err) < 0)
                return -(int)err->code;
        *out = inode;
        return 0;
}

int cas_tree_inline(const struct cas_tree *t, uint64_t nid, const void **out, size_t *out_len,
                    struct cas_err *err)
{
        struct raw_inode raw;
        struct cas_inode inode;
        struct data_span span;
        if (read_raw(t, nid, &raw, &inode, err) < 0 || find_data(t, &raw, &span, err) < 0)
                return -(int)err->code;
        if (!S_ISREG(raw.mode) && !S_ISLNK(raw.mode))
                return cas_fail(err, CAS_E_INVALID, "inode %llu has no data of its own",
                                (unsigned long long)nid);
        if (span.block_bytes > 0 && span.tail_bytes > 0)
                return cas_fail(err, CAS_E_CORRUPT, "tree: inode %llu: data in two pieces",
                                (unsigned long long)nid);
        *out = span.block_bytes > 0 ? span.blocks : span.tail;
        *out_len = raw.size_bytes;
        return 0;
}

/* The image's name of an xattr in `out` (at least 288 bytes). False: overlayfs's own, or of a
 * prefix that trees do not have. */
static bool xattr_full_name(const struct raw_xattr *x, char *out)
{
        static const struct cas_erofs_xattr_prefix prefixes[] = EROFS_XATTR_PREFIXES;
        size_t overlay = strlen(OVERLAY_PREFIX);
        const char *name = x->name;
        size_t len = x->name_len;
        if (x->index == EROFS_XATTR_TRUSTED && len >= overlay &&
            memcmp(name, OVERLAY_PREFIX, overlay) == 0) {
                if (len < 2 * overlay || memcmp(name + overlay, OVERLAY_PREFIX, overlay) != 0)
                        return false;
                name += overlay;
                len -= overlay;
        }
        if (memchr(name, '\0', len))
                return false;
        for (size_t i = 0; i < CAS_COUNT(prefixes); i++) {
                if (prefixes[i].index != x->index)
                        continue;
                memcpy(out, prefixes[i].text, prefixes[i].len);
                memcpy(out + prefixes[i].len, name, len);
                out[prefixes[i].len + len] = '\0';
                return true;
        }
        return false;
}

int cas_tree_xattrs(const struct cas_tree *t, uint64_t nid,
                    bool (*fn)(void *arg, const char *name, const void *value, size_t len),
                    void *arg, struct cas_err *err)
{
        struct raw_inode raw;
        struct cas_inode inode;
        struct xattr_iter it;
        struct raw_xattr x;
        bool more;
        if (read_raw(t, nid, &raw, &inode, err) < 0 || xattr_iter_start(t, &raw, &it, err) < 0)
                return -(int)err->code;
        while (true) {
                char name[288];
                if (xattr_next(&it, &x, &more, err) < 0)
                        return -(int)err->code;
                if (!more)
                        return 0;
                if (xattr_full_name(&x, name) && !fn(arg, name, x.value, x.value_bytes))
                        return 0;
        }
}

/* ---- directories ---- */

struct dir {
        struct data_span span;
        uint64_t size_bytes;
        uint64_t block_count;
};

struct dir_block {
        const uint8_t *at;
        uint32_t bytes;
        uint32_t count; /* dirents */
};

struct dir_name {
        const char *name;
        uint32_t len;
};

static int dir_open(const struct cas_tree *t, uint64_t nid, struct dir *out, struct cas_err *err)
{
        struct raw_inode raw;
        struct cas_inode inode;
        if (read_raw(t, nid, &raw, &inode, err) < 0)
                return -(int)err->code;
        if (!S_ISDIR(raw.mode))
                return cas_fail(err, CAS_E_INVALID, "inode %llu is not a directory",
                                (unsigned long long)nid);
        if (find_data(t, &raw, &out->span, err) < 0)
                return -(int)err->code;
        out->size_bytes = raw.size_bytes;
        out->block_count = (raw.size_bytes + EROFS_BLOCK_BYTES - 1) / EROFS_BLOCK_BYTES;
        return 0;
}

static int dir_block(const struct dir *d, uint64_t index, struct dir_block *out,
                     struct cas_err *err)
{
        uint64_t at = index * EROFS_BLOCK_BYTES;
        out->bytes = (uint32_t)cas_min_u64(EROFS_BLOCK_BYTES, d->size_bytes - at);
        out->at = at < d->span.block_bytes ? d->span.blocks + at : d->span.tail;
        if (out->bytes < EROFS_DIRENT_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "tree: directory block of %u bytes",
                                out->bytes);
        uint32_t first = cas_get_le16(out->at + EROFS_D_NAME_OFF);
        if (first == 0 || first % EROFS_DIRENT_BYTES != 0 || first > out->bytes)
                return cas_fail(err, CAS_E_CORRUPT, "tree: bad directory block");
        out->count = first / EROFS_DIRENT_BYTES;
        return 0;
}

static int dir_name(const struct dir_block *b, uint32_t index, struct dir_name *out,
                    struct cas_err *err)
{
        const uint8_t *d = b->at + (size_t)index * EROFS_DIRENT_BYTES;
        uint32_t start = cas_get_le16(d + EROFS_D_NAME_OFF), end = b->bytes;
        if (index + 1 < b->count)
                end = cas_get_le16(d + EROFS_DIRENT_BYTES + EROFS_D_NAME_OFF);
        if (start < b->count * EROFS_DIRENT_BYTES || end > b->bytes || start >= end)
                return cas_fail(err, CAS_E_CORRUPT, "tree: bad name in a directory");
        out->name = (const char *)b->at + start;
        out->len = end - start;
        if (index + 1 == b->count)
                out->len = (uint32_t)strnlen(out->name, out->len); /* zeros fill the block */
        if (out->len == 0 || out->len > CAS_NAME_BYTES_MAX || memchr(out->name, '/', out->len) ||
            memchr(out->name, '\0', out->len))
                return cas_fail(err, CAS_E_CORRUPT, "tree: bad name in a directory");
        return 0;
}

static int name_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
        int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
        if (order != 0)
                return order;
        return a_len < b_len ? -1 : a_len > b_len;
}

static bool is_dots(const struct dir_name *n)
{
        return n->name[0] == '.' && (n->len == 1 || (n->len == 2 && n->name[1] == '.'));
}

/* The last block whose first name is not behind the wanted one. */
static int find_block(const struct dir *d, const char *name, size_t len, uint64_t *out,
                      struct cas_err *err)
{
        uint64_t low = 0, high = d->block_count; /* the answer is in [low, high) if anywhere */
        while (high - low > 1) {
                uint64_t mid = low + (high - low) / 2;
                struct dir_block b;
                struct dir_name first;
                if (dir_block(d, mid, &b, err) < 0 || dir_name(&b, 0, &first, err) < 0)
                        return -(int)err->code;
                if (name_compare(first.name, first.len, name, len) <= 0)
                        low = mid;
                else
                        high = mid;
        }
        *out = low;
        return 0;
}

int cas_tree_lookup(const struct cas_tree *t, uint64_t dir_nid, const char *name, size_t name_len,
                    uint64_t *out_nid, struct cas_err *err)
{
        struct dir d;
        struct dir_block b;
        uint64_t block = 0;
        if (dir_open(t, dir_nid, &d, err) < 0)
                return -(int)err->code;
        if (d.block_count == 0)
                return cas_fail(err, CAS_E_NOTFOUND, "%.*s", (int)cas_min_u64(name_len, 255), name);
        if (find_block(&d, name, name_len, &block, err) < 0 || dir_block(&d, block, &b, err) < 0)
                return -(int)err->code;
        uint32_t low = 0, high = b.count;
        while (low < high) {
                uint32_t mid = low + (high - low) / 2;
                struct dir_name n;
                if (dir_name(&b, mid, &n, err) < 0)
                        return -(int)err->code;
                int order = name_compare(n.name, n.len, name, name_len);
                if (order == 0) {
                        *out_nid = cas_get_le64(b.at + (size_t)mid * EROFS_DIRENT_BYTES);
                        return 0;
                }
                if (order < 0)
                        low = mid + 1;
                else
                        high = mid;
        }
        return cas_fail(err, CAS_E_NOTFOUND, "%.*s", (int)cas_min_u64(name_len, 255), name);
}

static uint8_t dirent_type(uint8_t type)
{
        static const uint8_t types[] = {
                [EROFS_FT_REG] = DT_REG,     [EROFS_FT_DIR] = DT_DIR,   [EROFS_FT_CHR] = DT_CHR,
                [EROFS_FT_BLK] = DT_BLK,     [EROFS_FT_FIFO] = DT_FIFO, [EROFS_FT_SOCK] = DT_SOCK,
                [EROFS_FT_SYMLINK] = DT_LNK,
        };
        return type < CAS_COUNT(types) ? types[type] : DT_UNKNOWN;
}

/* A cookie is the block's number and the index in it. */
#define COOKIE_SHIFT 16

int cas_tree_readdir(const struct cas_tree *t, uint64_t dir_nid, uint64_t *cookie,
                     bool (*fn)(void *arg, const char *name, size_t name_len, uint64_t nid,
                                uint8_t type, uint64_t next_cookie),
                     void *arg, struct cas_err *err)
{
        struct dir d;
        if (dir_open(t, dir_nid, &d, err) < 0)
                return -(int)err->code;
        uint64_t block = *cookie >> COOKIE_SHIFT;
        uint32_t index = (uint32_t)(*cookie & ((1u << COOKIE_SHIFT) - 1));
        for (; block < d.block_count; block++, index = 0) {
                struct dir_block b;
                if (dir_block(&d, block, &b, err) < 0)
                        return -(int)err->code;
                for (; index < b.count; index++) {
                        const uint8_t *e = b.at + (size_t)index * EROFS_DIRENT_BYTES;
                        struct dir_name n;
                        *cookie = block << COOKIE_SHIFT | index;
                        if (dir_name(&b, index, &n, err) < 0)
                                return -(int)err->code;
                        uint64_t next = block << COOKIE_SHIFT | (index + 1);
                        if (!is_dots(&n) && !fn(arg, n.name, n.len, cas_get_le64(e),
                                                dirent_type(e[EROFS_D_TYPE]), next))
                                return 0;
                }
        }
        *cookie = d.block_count << COOKIE_SHIFT;
        return 0;
}
