/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a merged tree as an EROFS image: in composefs form (spec/tree.md), or
 * the metadata of a disk whose data is written already (spec/disk.md). Two
 * passes over one plan: the first gives every inode its place, the second
 * writes the bytes.
 *
 *   block 0         headers, super block; a disk has its in a block of its own
 *   from 1152 on    inodes, each with its xattrs and the tail of its data
 *   then            shared xattrs
 *   then, aligned   whole blocks of directories and of long symlinks
 *
 * Nothing depends on addresses, hashing secrets or time, so that equal trees
 * are equal bytes. */
#include <sys/stat.h>

#include "cas/erofs.h"
#include "cas/erofs_image_int.h"
#include "cas/erofs_xattr.h"

#define INODES_AT (EROFS_SUPER_OFFSET + EROFS_SUPER_BYTES)
/* Inodes whose tail would cross a block's end wait for the next block. */
#define PENDING_MAX 32
#define PENDING_BYTES_MAX (2 * (uint64_t)EROFS_BLOCK_BYTES)

/* Where an inode is, and how it is written. */
struct place {
        uint32_t nid;
        uint32_t block;      /* of its whole blocks, counted from the data area's start */
        uint64_t size_bytes; /* as stat gives it */
        uint32_t xattr_bytes;
        uint32_t map_bytes;  /* chunk map behind the xattrs */
        uint32_t tail_bytes; /* data behind the inode */
        size_t list;         /* first of its xattrs in the table's lists */
        uint32_t list_count;
        uint8_t layout; /* EROFS_LAYOUT_* */
        bool compact;
};

struct writer {
        const struct cas_merge *merge;
        const struct cas_plan *plan;
        const struct cas_erofs_disk *disk; /* NULL: composefs form */
        struct cas_erofs_xattr_table xattrs;
        struct place *places; /* owned; by index in the plan */
        int64_t time_s;       /* the mtime of compact inodes */
        uint32_t time_ns;
        uint64_t pos;
        uint64_t block_count; /* of the data area */
        uint64_t xattr_at, data_at;
        struct {
                uint32_t index;
                uint64_t since;
        } pending[PENDING_MAX];
        unsigned pending_count;
        uint8_t *image;
};

static void writer_release(struct writer *w)
{
        cas_erofs_xattr_release(&w->xattrs);
        free(w->places);
}

static const struct cas_merge_inode *inode_of(const struct writer *w, uint32_t index)
{
        return cas_merge_inode(w->merge, w->plan->inodes[index].inode);
}

static bool is_whiteout(const struct writer *w, uint32_t index)
{
        return w->plan->inodes[index].inode == CAS_MERGE_NONE;
}

static enum cas_entry_type type_of(const struct writer *w, uint32_t index)
{
        return is_whiteout(w, index) ? CAS_ENTRY_CHARDEV
                                     : (enum cas_entry_type)inode_of(w, index)->type;
}

/* ---- directories ---- */

struct dirent_ref {
        const char *name;
        uint32_t inode; /* index in the plan */
        uint8_t len;
};

/* Goes through the entries of a directory with "." and ".." at their places. */
struct dir_iter {
        const struct writer *w;
        uint32_t dir;
        uint32_t at, end;
        uint8_t dots; /* how many of the two are still to come */
};

static struct dir_iter dir_iter_over(const struct writer *w, uint32_t dir)
{
        const struct cas_plan_inode *d = &w->plan->inodes[dir];
        return (struct dir_iter){.w = w,
                                 .dir = dir,
                                 .at = d->first_entry,
                                 .end = d->first_entry + d->entry_count,
                                 .dots = 2};
}

/* False at the end. Does not move on. */
static bool dir_iter_peek(const struct dir_iter *it, struct dirent_ref *out)
{
        const struct cas_plan_entry *e = it->at < it->end ? &it->w->plan->entries[it->at] : NULL;
        if (it->dots > 0) {
                uint8_t len = it->dots == 2 ? 1 : 2;
                int order = 1;
                if (e) {
                        order = memcmp(e->name, "..", e->name_len < len ? e->name_len : len);
                        if (order == 0)
                                order = 1; /* "." is a prefix of it: it comes behind */
                }
                if (order > 0) {
                        *out = (struct dirent_ref){
                                .name = "..",
                                .len = len,
                                .inode = len == 1 ? it->dir : it->w->plan->inodes[it->dir].parent};
                        return true;
                }
        }
        if (!e)
                return false;
        *out = (struct dirent_ref){.name = e->name, .len = e->name_len, .inode = e->inode};
        return true;
}

static void dir_iter_next(struct dir_iter *it, const struct dirent_ref *ref)
{
        if (ref->name[0] == '.' && (ref->len == 1 || (ref->len == 2 && ref->name[1] == '.')))
                it->dots--;
        else
                it->at++;
}

#define DIRENTS_PER_BLOCK_MAX (EROFS_BLOCK_BYTES / (EROFS_DIRENT_BYTES + 1))

/* Takes the entries of the next block; gives the bytes that they fill, 0 at the end. */
static uint32_t dir_next_block(struct dir_iter *it,
                               struct dirent_ref refs[static DIRENTS_PER_BLOCK_MAX],
                               uint32_t *out_count)
{
        uint32_t used = 0, count = 0;
        struct dirent_ref ref;
        while (dir_iter_peek(it, &ref)) {
                uint32_t need = EROFS_DIRENT_BYTES + ref.len;
                if (used + need > EROFS_BLOCK_BYTES)
                        break;
                refs[count++] = ref;
                used += need;
                dir_iter_next(it, &ref);
        }
        *out_count = count;
        return used;
}

static uint64_t dir_bytes(const struct writer *w, uint32_t dir)
{
        struct dir_iter it = dir_iter_over(w, dir);
        struct dirent_ref refs[DIRENTS_PER_BLOCK_MAX];
        uint64_t whole = 0;
        uint32_t count, used, last = 0;
        while ((used = dir_next_block(&it, refs, &count)) > 0) {
                if (last > 0)
                        whole += EROFS_BLOCK_BYTES;
                last = used;
        }
        return whole + last;
}

/* ---- the common mtime ---- */

struct time_count {
        int64_t s;
        uint32_t ns;
        uint32_t count;
};

/* An inode that fits 32 bytes but for its mtime. */
static bool fits_compact(const struct writer *w, uint32_t index)
{
        const struct cas_merge_inode *inode = inode_of(w, index);
        return inode->uid <= UINT16_MAX && inode->gid <= UINT16_MAX &&
               w->plan->inodes[index].nlink <= UINT16_MAX &&
               w->places[index].size_bytes <= UINT32_MAX;
}

static struct time_count *time_slot(struct time_count *table, size_t mask,
                                    const struct cas_merge_inode *inode)
{
        uint64_t h = ((uint64_t)inode->mtime_s * UINT64_C(0x9e3779b97f4a7c15)) ^
                     (inode->mtime_ns * UINT64_C(0xc2b2ae3d27d4eb4f));
        for (size_t i = (size_t)(h >> 32) & mask, tries = 0; tries < 16;
             i = (i + 1) & mask, tries++)
                if (table[i].count == 0 ||
                    (table[i].s == inode->mtime_s && table[i].ns == inode->mtime_ns))
                        return &table[i];
        return NULL;
}

/* The mtime that most inodes share goes to the super block, and they are compact. Counting
 * stops at a number of distinct times: what was common has been seen by then. */
static void choose_time(struct writer *w)
{
        enum { TABLE = 1 << 14 };
        cas_cleanup_free struct time_count *table = cas_xcalloc(TABLE, sizeof(table[0]));
        struct time_count best = {0};
        for (uint32_t i = 0; i < w->plan->inode_count; i++) {
                if (!fits_compact(w, i))
                        continue;
                const struct cas_merge_inode *inode = inode_of(w, i);
                struct time_count *t = time_slot(table, TABLE - 1, inode);
                if (!t)
                        continue;
                t->s = inode->mtime_s;
                t->ns = inode->mtime_ns;
                t->count++;
                if (t->count > best.count)
                        best = *t;
        }
        w->time_s = best.s;
        w->time_ns = best.ns;
}

/* ---- first pass: places ---- */

static uint32_t core_bytes(const struct place *p)
{
        return p->compact ? EROFS_COMPACT_BYTES : EROFS_EXTENDED_BYTES;
}

/* Bytes of an inode before its tail, the chunk map included. */
static uint64_t head_bytes(const struct place *p)
{
        return (uint64_t)core_bytes(p) + p->xattr_bytes + p->map_bytes;
}

/* What a file of a disk contains. */
static const struct cas_erofs_content *content_of(const struct writer *w, uint32_t index)
{
        return &w->disk->contents[w->disk->content_of[index]];
}

static uint64_t data_bytes(const struct writer *w, uint32_t index)
{
        switch (type_of(w, index)) {
        case CAS_ENTRY_DIR:
                return dir_bytes(w, index);
        case CAS_ENTRY_FILE:
        case CAS_ENTRY_SYMLINK:
                return inode_of(w, index)->size_bytes;
        default:
                return 0;
        }
}

/* Decides the form of an inode; its size is known. */
static void choose_form(struct writer *w, uint32_t index)
{
        struct place *p = &w->places[index];
        const struct cas_merge_inode *inode = inode_of(w, index);
        p->compact = fits_compact(w, index) && inode->mtime_s == w->time_s &&
                     inode->mtime_ns == w->time_ns;
        p->xattr_bytes = (uint32_t)cas_erofs_xattr_body_bytes(&w->xattrs, w->xattrs.lists + p->list,
                                                              p->list_count);
        if (inode->type == CAS_ENTRY_FILE && p->size_bytes > CAS_INLINE_BYTES_MAX) {
                bool chunked = !w->disk || content_of(w, index)->holes;
                uint64_t chunks = w->disk ? content_of(w, index)->chunk_count
                                          : cas_erofs_chunk_count(p->size_bytes);
                p->layout = chunked ? EROFS_LAYOUT_CHUNKED : EROFS_LAYOUT_PLAIN;
                p->map_bytes = chunked ? (uint32_t)(chunks * EROFS_CHUNK_ENTRY_BYTES) : 0;
                return;
        }
        uint64_t head = core_bytes(p) + p->xattr_bytes;
        uint32_t tail = (uint32_t)(p->size_bytes % EROFS_BLOCK_BYTES);
        uint64_t blocks = p->size_bytes / EROFS_BLOCK_BYTES;
        if (tail > 0 && head % (1u << EROFS_SLOT_BITS) + tail <= EROFS_BLOCK_BYTES) {
                p->layout = EROFS_LAYOUT_INLINE;
                p->tail_bytes = tail;
        } else {
                p->layout = EROFS_LAYOUT_PLAIN;
                blocks += tail > 0;
        }
        p->block = (uint32_t)w->block_count;
        w->block_count += blocks;
}

/* The first slot from `pos` on where an inode's tail lies in one block. */
static uint64_t slot_for(const struct place *p, uint64_t pos)
{
        uint64_t at = cas_align_up(pos, 1u << EROFS_SLOT_BITS);
        uint64_t tail_off = (at + head_bytes(p)) % EROFS_BLOCK_BYTES;
        if (tail_off + p->tail_bytes > EROFS_BLOCK_BYTES)
                at += cas_align_up(EROFS_BLOCK_BYTES - tail_off, 1u << EROFS_SLOT_BITS);
        return at;
}

static bool fits_here(const struct writer *w, uint32_t index)
{
        return slot_for(&w->places[index], w->pos) - w->pos < 1u << EROFS_SLOT_BITS;
}

static void put_here(struct writer *w, uint32_t index)
{
        struct place *p = &w->places[index];
        uint64_t at = slot_for(p, w->pos);
        p->nid = (uint32_t)(at >> EROFS_SLOT_BITS);
        w->pos = at + head_bytes(p) + p->tail_bytes;
}

static void put_pending(struct writer *w, unsigned i)
{
        uint32_t index = w->pending[i].index;
        w->pending_count--;
        memmove(&w->pending[i], &w->pending[i + 1], (w->pending_count - i) * sizeof(w->pending[0]));
        put_here(w, index);
}

/* Places those that fit where we are, and those that have waited long. */
static void put_what_fits(struct writer *w)
{
        for (unsigned i = 0; i < w->pending_count;) {
                if (fits_here(w, w->pending[i].index) ||
                    (i == 0 && w->pos - w->pending[0].since > PENDING_BYTES_MAX)) {
                        put_pending(w, i);
                        i = 0;
                } else {
                        i++;
                }
        }
}

static void put_inode(struct writer *w, uint32_t index)
{
        if (index == 0 || fits_here(w, index)) { /* the root's number has 16 bits */
                put_here(w, index);
        } else {
                if (w->pending_count == PENDING_MAX)
                        put_pending(w, 0);
                w->pending[w->pending_count].index = index;
                w->pending[w->pending_count].since = w->pos;
                w->pending_count++;
        }
        put_what_fits(w);
}

static int collect_xattrs(struct writer *w, struct cas_err *err)
{
        for (uint32_t i = 0; i < w->plan->inode_count; i++) {
                struct place *p = &w->places[i];
                p->list = w->xattrs.list_count;
                if (!is_whiteout(w, i) &&
                    cas_erofs_xattr_collect(&w->xattrs, inode_of(w, i), w->plan->inodes[i].opaque,
                                            err) < 0)
                        return -(int)err->code;
                p->list_count = (uint32_t)(w->xattrs.list_count - p->list);
        }
        return 0;
}

static int place_all(struct writer *w, struct cas_err *err)
{
        w->places = calloc(w->plan->inode_count, sizeof(w->places[0]));
        if (!w->places)
                return cas_fail(err, CAS_E_NOMEM, "no memory to write a tree");
        if (collect_xattrs(w, err) < 0)
                return -(int)err->code;
        for (uint32_t i = 0; i < w->plan->inode_count; i++)
                w->places[i].size_bytes = data_bytes(w, i);
        choose_time(w);
        w->pos = INODES_AT;
        for (uint32_t i = 0; i < w->plan->inode_count; i++) {
                choose_form(w, i);
                put_inode(w, i);
        }
        while (w->pending_count > 0) {
                put_pending(w, 0);
                put_what_fits(w);
        }
        w->xattr_at = cas_align_up(w->pos, 4);
        uint32_t area_id = (uint32_t)(w->xattr_at % EROFS_BLOCK_BYTES / 4);
        uint64_t shared = cas_erofs_xattr_place_shared(&w->xattrs, area_id);
        w->data_at = cas_align_up(w->xattr_at + shared, EROFS_BLOCK_BYTES);
        if (w->data_at + w->block_count * EROFS_BLOCK_BYTES > CAS_TREE_BYTES_MAX ||
            shared > CAS_TREE_BYTES_MAX / 8)
                return cas_fail(err, CAS_E_LIMIT, "tree is larger than %llu bytes",
                                (unsigned long long)CAS_TREE_BYTES_MAX);
        return 0;
}

/* ---- second pass: bytes ---- */

static uint8_t file_type(enum cas_entry_type type)
{
        switch (type) {
        case CAS_ENTRY_DIR:
                return EROFS_FT_DIR;
        case CAS_ENTRY_SYMLINK:
                return EROFS_FT_SYMLINK;
        case CAS_ENTRY_CHARDEV:
                return EROFS_FT_CHR;
        case CAS_ENTRY_BLOCKDEV:
                return EROFS_FT_BLK;
        case CAS_ENTRY_FIFO:
                return EROFS_FT_FIFO;
        case CAS_ENTRY_SOCKET:
                return EROFS_FT_SOCK;
        case CAS_ENTRY_FILE:
        case CAS_ENTRY_HARDLINK:
        case CAS_ENTRY_WHITEOUT:
                break;
        }
        return EROFS_FT_REG;
}

static uint16_t mode_of(enum cas_entry_type type, uint16_t permissions)
{
        switch (file_type(type)) {
        case EROFS_FT_DIR:
                return S_IFDIR | permissions;
        case EROFS_FT_SYMLINK:
                return S_IFLNK | permissions;
        case EROFS_FT_CHR:
                return S_IFCHR | permissions;
        case EROFS_FT_BLK:
                return S_IFBLK | permissions;
        case EROFS_FT_FIFO:
                return S_IFIFO | permissions;
        case EROFS_FT_SOCK:
                return S_IFSOCK | permissions;
        default:
                return S_IFREG | permissions;
        }
}

/* The first block of the metadata in the image. */
static uint32_t meta_block(const struct writer *w)
{
        return w->disk ? w->disk->meta_block : 0;
}

/* The field whose meaning the type and the layout decide. */
static uint32_t union_of(const struct writer *w, uint32_t index)
{
        const struct place *p = &w->places[index];
        const struct cas_merge_inode *inode = inode_of(w, index);
        if (p->layout == EROFS_LAYOUT_CHUNKED)
                return w->disk ? content_of(w, index)->chunk_bits
                               : cas_erofs_chunk_bits(p->size_bytes);
        if (inode->type == CAS_ENTRY_FILE && p->size_bytes > CAS_INLINE_BYTES_MAX)
                return content_of(w, index)->block;
        if (inode->type == CAS_ENTRY_CHARDEV || inode->type == CAS_ENTRY_BLOCKDEV)
                return cas_erofs_rdev(inode->dev.major, inode->dev.minor);
        uint64_t blocks = p->size_bytes / EROFS_BLOCK_BYTES;
        if (blocks == 0 && (p->layout == EROFS_LAYOUT_INLINE || p->size_bytes == 0))
                return 0;
        return meta_block(w) + (uint32_t)(w->data_at / EROFS_BLOCK_BYTES) + p->block;
}

static void write_core(const struct writer *w, uint32_t index, uint8_t *out)
{
        const struct place *p = &w->places[index];
        const struct cas_merge_inode *inode = inode_of(w, index);
        uint32_t nlink = w->plan->inodes[index].nlink;
        unsigned format = (unsigned)p->layout << EROFS_LAYOUT_SHIFT;
        uint16_t icount = 0;
        if (!p->compact)
                format |= EROFS_FORMAT_EXTENDED;
        if (p->xattr_bytes > 0)
                icount = (uint16_t)((p->xattr_bytes - EROFS_XATTR_HEADER_BYTES) / 4 + 1);
        cas_put_le16(out + EROFS_I_FORMAT, (uint16_t)format);
        cas_put_le16(out + EROFS_I_XATTR_COUNT, icount);
        cas_put_le16(out + EROFS_I_MODE, mode_of(type_of(w, index), inode->mode));
        if (p->compact) {
                cas_put_le16(out + EROFS_IC_NLINK, (uint16_t)nlink);
                cas_put_le32(out + EROFS_IC_SIZE, (uint32_t)p->size_bytes);
                cas_put_le32(out + EROFS_IC_UNION, union_of(w, index));
                cas_put_le32(out + EROFS_IC_INO, p->nid);
                cas_put_le16(out + EROFS_IC_UID, (uint16_t)inode->uid);
                cas_put_le16(out + EROFS_IC_GID, (uint16_t)inode->gid);
                return;
        }
        cas_put_le64(out + EROFS_IE_SIZE, p->size_bytes);
        cas_put_le32(out + EROFS_IE_UNION, union_of(w, index));
        cas_put_le32(out + EROFS_IE_INO, p->nid);
        cas_put_le32(out + EROFS_IE_UID, inode->uid);
        cas_put_le32(out + EROFS_IE_GID, inode->gid);
        cas_put_le64(out + EROFS_IE_MTIME_S, (uint64_t)inode->mtime_s);
        cas_put_le32(out + EROFS_IE_MTIME_NS, inode->mtime_ns);
        cas_put_le32(out + EROFS_IE_NLINK, nlink);
}

static void write_dir_block(const struct writer *w, const struct dirent_ref *refs, uint32_t count,
                            uint8_t *out)
{
        uint32_t name_off = count * EROFS_DIRENT_BYTES;
        for (uint32_t i = 0; i < count; i++) {
                uint8_t *d = out + i * EROFS_DIRENT_BYTES;
                cas_put_le64(d + EROFS_D_NID, w->places[refs[i].inode].nid);
                cas_put_le16(d + EROFS_D_NAME_OFF, (uint16_t)name_off);
                d[EROFS_D_TYPE] = file_type(type_of(w, refs[i].inode));
                memcpy(out + name_off, refs[i].name, refs[i].len);
                name_off += refs[i].len;
        }
}

static void write_dir(const struct writer *w, uint32_t index, uint8_t *tail, uint8_t *blocks)
{
        const struct place *p = &w->places[index];
        struct dir_iter it = dir_iter_over(w, index);
        struct dirent_ref refs[DIRENTS_PER_BLOCK_MAX];
        uint32_t count;
        for (uint64_t at = 0; at < p->size_bytes; at += EROFS_BLOCK_BYTES) {
                bool in_tail = p->tail_bytes > 0 && p->size_bytes - at < EROFS_BLOCK_BYTES;
                (void)dir_next_block(&it, refs, &count);
                write_dir_block(w, refs, count, in_tail ? tail : blocks + at);
        }
}

/* A regular file whose data is not in its inode. */
static void write_chunk_map(const struct writer *w, uint32_t index, uint8_t *out)
{
        uint32_t map_bytes = w->places[index].map_bytes;
        if (!w->disk) {
                memset(out, 0xff, map_bytes); /* EROFS_NULL_BLOCK: the data is elsewhere */
                return;
        }
        const uint32_t *map = w->disk->maps + content_of(w, index)->map;
        for (uint32_t i = 0; i < map_bytes / EROFS_CHUNK_ENTRY_BYTES; i++)
                cas_put_le32(out + i * EROFS_CHUNK_ENTRY_BYTES, map[i]);
}

static void write_inode(const struct writer *w, uint32_t index)
{
        const struct place *p = &w->places[index];
        uint8_t *out = w->image + ((uint64_t)p->nid << EROFS_SLOT_BITS);
        uint8_t *blocks = w->image + w->data_at + (uint64_t)p->block * EROFS_BLOCK_BYTES;
        write_core(w, index, out);
        out += core_bytes(p);
        if (p->list_count > 0)
                cas_erofs_xattr_write_body(&w->xattrs, w->xattrs.lists + p->list, p->list_count,
                                           out);
        out += p->xattr_bytes;
        switch (type_of(w, index)) {
        case CAS_ENTRY_DIR:
                write_dir(w, index, out, blocks);
                return;
        case CAS_ENTRY_FILE:
                if (p->size_bytes > CAS_INLINE_BYTES_MAX) {
                        write_chunk_map(w, index, out);
                        return;
                }
                break;
        case CAS_ENTRY_SYMLINK:
                break;
        default:
                return;
        }
        if (p->size_bytes > 0)
                memcpy(p->tail_bytes > 0 ? out : blocks, inode_of(w, index)->payload,
                       p->size_bytes);
}

static void write_tree_header(const struct writer *w, bool stacked)
{
        uint8_t *h = w->image;
        cas_put_le32(h + COMPOSEFS_OFF_MAGIC, COMPOSEFS_MAGIC);
        cas_put_le32(h + COMPOSEFS_OFF_VERSION, COMPOSEFS_VERSION);
        cas_put_le32(h + COMPOSEFS_OFF_FLAGS, w->xattrs.has_acl ? COMPOSEFS_FLAG_ACL : 0);
        memcpy(h + TREE_OFF_MAGIC, TREE_MAGIC, 8);
        cas_put_le32(h + TREE_OFF_VERSION, CAS_TREE_VERSION);
        cas_put_le32(h + TREE_OFF_FLAGS, stacked ? TREE_FLAG_STACKED : 0);
        cas_put_le64(h + TREE_OFF_ENTRIES, (uint64_t)w->plan->entry_count + 1);
}

static void write_super(const struct writer *w, uint8_t *sb)
{
        uint64_t blocks = meta_block(w) + w->data_at / EROFS_BLOCK_BYTES + w->block_count;
        cas_put_le32(sb + EROFS_SB_MAGIC, EROFS_MAGIC);
        cas_put_le32(sb + EROFS_SB_COMPAT,
                     EROFS_COMPAT_SB_CHECKSUM | EROFS_COMPAT_MTIME | EROFS_COMPAT_XATTR_FILTER);
        sb[EROFS_SB_BLOCK_BITS] = EROFS_BLOCK_BITS;
        cas_put_le16(sb + EROFS_SB_ROOT_NID, (uint16_t)w->places[0].nid);
        cas_put_le64(sb + EROFS_SB_INODES, w->plan->inode_count);
        cas_put_le64(sb + EROFS_SB_TIME_S, (uint64_t)w->time_s);
        cas_put_le32(sb + EROFS_SB_TIME_NS, w->time_ns);
        cas_put_le32(sb + EROFS_SB_BLOCKS, (uint32_t)blocks);
        cas_put_le32(sb + EROFS_SB_META_BLOCK, meta_block(w));
        cas_put_le32(sb + EROFS_SB_XATTR_BLOCK,
                     meta_block(w) + (uint32_t)(w->xattr_at / EROFS_BLOCK_BYTES));
        if (!w->disk || w->disk->map_count > 0)
                cas_put_le32(sb + EROFS_SB_INCOMPAT, EROFS_INCOMPAT_CHUNKED);
}

/* The checksum covers the UUID, and all of the block. */
static void seal(uint8_t *sb, const struct cas_hash *hash)
{
        memcpy(sb + EROFS_SB_UUID, hash->bytes, 16);
        sb[EROFS_SB_UUID + 6] = (uint8_t)((hash->bytes[6] & 0x0f) | 0x80); /* version 8 */
        sb[EROFS_SB_UUID + 8] = (uint8_t)((hash->bytes[8] & 0x3f) | 0x80); /* RFC 9562's variant */
        cas_put_le32(sb + EROFS_SB_CHECKSUM,
                     cas_erofs_crc32c(sb, EROFS_BLOCK_BYTES - EROFS_SUPER_OFFSET));
}

/* Everything but headers and super block. */
static int write_plan(struct writer *w, struct cas_buf *out, struct cas_err *err)
{
        if (place_all(w, err) < 0)
                return -(int)err->code;
        size_t bytes = w->data_at + w->block_count * EROFS_BLOCK_BYTES;
        cas_buf_clear(out);
        if (cas_buf_try_reserve(out, bytes, CAS_TREE_BYTES_MAX, err) < 0)
                return -(int)err->code;
        cas_buf_append_zero(out, bytes);
        w->image = out->data;
        for (uint32_t i = 0; i < w->plan->inode_count; i++)
                write_inode(w, i);
        cas_erofs_xattr_write_shared(&w->xattrs, w->image + w->xattr_at / EROFS_BLOCK_BYTES *
                                                                    EROFS_BLOCK_BYTES);
        return 0;
}

int cas_merge_write_erofs(const struct cas_merge *m, const struct cas_tree_options *options,
                          struct cas_buf *out, struct cas_digest *out_digest, struct cas_err *err)
{
        cas_cleanup_plan struct cas_plan plan = {0};
        struct cas_hash hash;
        if (cas_plan_make(m, options->stacked, &plan, err) < 0)
                return -(int)err->code;
        __attribute__((cleanup(writer_release))) struct writer w = {.merge = m, .plan = &plan};
        cas_erofs_xattr_init(&w.xattrs);
        if (write_plan(&w, out, err) < 0)
                return -(int)err->code;
        write_tree_header(&w, options->stacked);
        write_super(&w, w.image + EROFS_SUPER_OFFSET);
        cas_sha256(out->data, out->len_bytes, &hash); /* of the image without UUID */
        seal(w.image + EROFS_SUPER_OFFSET, &hash);
        if (out_digest)
                cas_digest_of(CAS_DIGEST_SHA256, out->data, out->len_bytes, out_digest);
        return 0;
}

int cas_erofs_write_disk(const struct cas_merge *m, const struct cas_plan *plan,
                         const struct cas_erofs_disk *disk, struct cas_buf *out_meta,
                         uint8_t out_super[static EROFS_BLOCK_BYTES], struct cas_err *err)
{
        __attribute__((cleanup(writer_release))) struct writer w = {
                .merge = m, .plan = plan, .disk = disk};
        cas_erofs_xattr_init(&w.xattrs);
        w.xattrs.plain = true;
        if (write_plan(&w, out_meta, err) < 0)
                return -(int)err->code;
        if (out_meta->len_bytes / EROFS_BLOCK_BYTES + disk->meta_block >= EROFS_NULL_BLOCK)
                return cas_fail(err, CAS_E_LIMIT, "a disk of more than 16 TiB");
        memset(out_super, 0, EROFS_BLOCK_BYTES);
        write_super(&w, out_super + EROFS_SUPER_OFFSET);
        cas_cleanup_hasher struct cas_hasher *h = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_digest digest;
        struct cas_hash hash;
        cas_hasher_update(h, out_super, EROFS_BLOCK_BYTES);
        cas_hasher_update(h, out_meta->data, out_meta->len_bytes);
        for (uint32_t i = 0; i < disk->content_count; i++)
                cas_hasher_update(h, disk->contents[i].object.bytes, CAS_HASH_BYTES);
        cas_hasher_final(h, &digest);
        memcpy(hash.bytes, digest.bytes, CAS_HASH_BYTES);
        seal(out_super + EROFS_SUPER_OFFSET, &hash);
        return 0;
}
