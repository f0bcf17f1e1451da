/* SPDX-License-Identifier: Apache-2.0 */
/* Applying layers over each other, with the outcome of extracting them in
 * order into one root directory (spec/tree.md, "Merging"). A layer is applied
 * in two passes: whiteouts and opaque marks act on what lies below, then the
 * other entries follow in tar order. Symlinks in a path are followed inside
 * the root, as an extractor confined to it does. */
#include "cas/erofs.h"
#include "cas/merge_int.h"

#include <sys/random.h>
#include <xxhash.h>

/* As the image's own they are escaped when they are written, so that an overlay over the tree gives
 * them to the one that stands on it. */
#define MARK_OPAQUE "trusted." OVERLAY_OPAQUE
#define MARK_WHITEOUT "trusted." OVERLAY_WHITEOUT

#define SLAB_ITEMS ((size_t)1 << CAS_MERGE_SLAB_BITS)

/* ---- storage ---- */

/* The index of a new, zeroed item. */
static int slab_add(struct cas_merge_slabs *s, size_t item_bytes, uint32_t *out,
                    struct cas_err *err)
{
        if (s->count >= CAS_TREE_ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "tree has more than %u entries",
                                (unsigned)CAS_TREE_ENTRIES_MAX);
        if (s->count == s->slab_count * SLAB_ITEMS) {
                if (s->slab_count == s->slab_alloc) {
                        s->slab_alloc = s->slab_alloc ? s->slab_alloc * 2 : 16;
                        s->slabs = cas_xrealloc(s->slabs, s->slab_alloc * sizeof(s->slabs[0]));
                }
                void *slab = calloc(SLAB_ITEMS, item_bytes);
                if (!slab)
                        return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's entries");
                s->slabs[s->slab_count++] = slab;
        }
        *out = s->count++;
        return 0;
}

static void slabs_release(struct cas_merge_slabs *s)
{
        for (size_t i = 0; i < s->slab_count; i++)
                free(s->slabs[i]);
        free(s->slabs);
}

/* A copy that lives as long as the merge, or NULL and an error. */
static const void *keep_bytes(struct cas_merge *m, const void *data, size_t len, size_t align,
                              struct cas_err *err)
{
        const void *p = cas_arena_copy(&m->arena, data, len, align);
        if (!p)
                (void)cas_fail(err, CAS_E_NOMEM, "no memory for the tree's names");
        return p;
}

struct cas_merge *cas_merge_new(void)
{
        struct cas_merge *m = cas_xcalloc(1, sizeof(*m));
        cas_assert(getrandom(&m->secret, sizeof(m->secret), 0) == (ssize_t)sizeof(m->secret));
        m->table_mask = 1023;
        m->table = cas_xcalloc(m->table_mask + 1, sizeof(m->table[0]));
        struct cas_err err = CAS_ERR_INIT;
        uint32_t none, root;
        bool made = slab_add(&m->inodes, sizeof(struct cas_merge_inode), &none, &err) == 0 &&
                    slab_add(&m->inodes, sizeof(struct cas_merge_inode), &root, &err) == 0;
        cas_assert(made);
        cas_assert(none == CAS_MERGE_NONE && root == CAS_MERGE_ROOT);
        struct cas_merge_inode *inode = cas_merge_inode(m, root);
        inode->type = CAS_ENTRY_DIR;
        inode->mode = 0755;
        inode->dir.parent = CAS_MERGE_ROOT;
        return m;
}

void cas_merge_free(struct cas_merge *m)
{
        if (!m)
                return;
        slabs_release(&m->nodes);
        slabs_release(&m->inodes);
        cas_arena_release(&m->arena);
        free(m->table);
        free(m->base_inode_of);
        free(m->base_nlink);
        free(m);
}

/* ---- nodes ---- */

static uint32_t name_hash(const struct cas_merge *m, uint32_t dir, const char *name, size_t len)
{
        uint64_t seed = m->secret ^ (dir * UINT64_C(0x9e3779b97f4a7c15));
        uint64_t h = XXH3_64bits_withSeed(name, len, seed);
        return (uint32_t)(h ^ (h >> 32));
}

/* NULL when there is no node of that name (a node may be there and absent). */
static struct cas_merge_node *node_find(const struct cas_merge *m, uint32_t dir, const char *name,
                                        size_t len, uint32_t hash)
{
        for (uint32_t i = hash & m->table_mask;; i = (i + 1) & m->table_mask) {
                if (m->table[i] == 0)
                        return NULL;
                struct cas_merge_node *n = cas_merge_node(m, m->table[i] - 1);
                if (n->hash == hash && n->parent == dir && n->name_len == len &&
                    memcmp(n->name, name, len) == 0)
                        return n;
        }
}

static void table_insert(uint32_t *table, uint32_t mask, uint32_t hash, uint32_t node)
{
        uint32_t i = hash & mask;
        while (table[i] != 0)
                i = (i + 1) & mask;
        table[i] = node + 1;
}

static int table_grow(struct cas_merge *m, struct cas_err *err)
{
        uint32_t mask = m->table_mask * 2 + 1;
        uint32_t *table = calloc((size_t)mask + 1, sizeof(table[0]));
        if (!table)
                return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's names");
        for (uint32_t i = 0; i < m->nodes.count; i++)
                table_insert(table, mask, cas_merge_node(m, i)->hash, i);
        free(m->table);
        m->table = table;
        m->table_mask = mask;
        return 0;
}

/* The node of that name, made absent when it is new. */
static int node_get(struct cas_merge *m, uint32_t dir, const char *name, size_t len,
                    struct cas_merge_node **out, struct cas_err *err)
{
        uint32_t hash = name_hash(m, dir, name, len);
        struct cas_merge_node *n = node_find(m, dir, name, len, hash);
        if (n) {
                *out = n;
                return 0;
        }
        if (len > CAS_NAME_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "name of %zu bytes", len);
        if (m->nodes.count >= m->table_mask / 4 * 3 && table_grow(m, err) < 0)
                return -(int)err->code;
        uint32_t index;
        const char *kept = keep_bytes(m, name, len, 1, err);
        if (!kept || slab_add(&m->nodes, sizeof(struct cas_merge_node), &index, err) < 0)
                return -(int)err->code;
        n = cas_merge_node(m, index);
        *n = (struct cas_merge_node){.name = kept,
                                     .parent = dir,
                                     .index = index,
                                     .hash = hash,
                                     .name_len = (uint8_t)len};
        table_insert(m->table, m->table_mask, hash, index);
        *out = n;
        return 0;
}

/* The inode of a name in a directory, or none. */
static uint32_t child_of(const struct cas_merge *m, uint32_t dir, const char *name, size_t len)
{
        struct cas_merge_node *n = node_find(m, dir, name, len, name_hash(m, dir, name, len));
        return n ? n->inode : CAS_MERGE_NONE;
}

static bool is_dir(const struct cas_merge *m, uint32_t inode)
{
        return inode != CAS_MERGE_NONE && cas_merge_inode(m, inode)->type == CAS_ENTRY_DIR;
}

/* Points a name to another inode, or to none. */
static void node_set(struct cas_merge *m, struct cas_merge_node *n, uint32_t inode)
{
        if (n->inode != CAS_MERGE_NONE) {
                uint8_t type = cas_merge_inode(m, n->inode)->type;
                if (type == CAS_ENTRY_DIR || type == CAS_ENTRY_SYMLINK)
                        m->last_dir_inode = CAS_MERGE_NONE;
        }
        n->inode = inode;
}

/* node: the name that the directory will have. */
static int dir_new(struct cas_merge *m, uint32_t parent, const struct cas_merge_node *node,
                   uint32_t *out, struct cas_err *err)
{
        uint32_t depth = cas_merge_inode(m, parent)->depth + 1u;
        if (depth > CAS_TREE_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "directories nested deeper than %u",
                                (unsigned)CAS_TREE_DEPTH_MAX);
        if (slab_add(&m->inodes, sizeof(struct cas_merge_inode), out, err) < 0)
                return -(int)err->code;
        struct cas_merge_inode *inode = cas_merge_inode(m, *out);
        inode->type = CAS_ENTRY_DIR;
        inode->mode = 0755;
        inode->dir.parent = parent;
        inode->depth = (uint16_t)depth;
        inode->dir.node = node->index;
        return 0;
}

/* ---- paths ---- */

struct path_part {
        const char *name;
        size_t len;
};

/* A path on its way to a directory: `dir` is reached, `missing` names under it
 * are not there, `text` is what is left. */
struct walk {
        uint32_t dir;
        struct path_part *missing; /* owned */
        size_t missing_count, missing_alloc;
        unsigned link_count;
        struct cas_buf *links; /* owned: the texts that replaced the path after each symlink */
        const char *at, *end;
};

static void walk_release(struct walk *w)
{
        free(w->missing);
        for (unsigned i = 0; i < w->link_count; i++)
                cas_buf_release(&w->links[i]);
        free(w->links);
}

static void walk_miss(struct walk *w, struct path_part part)
{
        if (w->missing_count == w->missing_alloc) {
                w->missing_alloc = w->missing_alloc ? w->missing_alloc * 2 : 16;
                w->missing = cas_xrealloc(w->missing, w->missing_alloc * sizeof(w->missing[0]));
        }
        w->missing[w->missing_count++] = part;
}

/* Goes on with the symlink's text and then the rest of the path. */
static int walk_follow(struct cas_merge *m, struct walk *w, uint32_t link, struct cas_err *err)
{
        const struct cas_merge_inode *inode = cas_merge_inode(m, link);
        if (w->link_count == CAS_TREE_LINKS_MAX)
                return cas_fail(err, CAS_E_INVALID, "more than %u symbolic links in its path",
                                CAS_TREE_LINKS_MAX);
        size_t rest = (size_t)(w->end - w->at);
        uint64_t steps = inode->size_bytes + rest + 1;
        if (steps > m->link_steps_left)
                return cas_fail(err, CAS_E_LIMIT,
                                "paths of the layer lead through too many "
                                "symbolic links");
        m->link_steps_left -= steps;
        w->links = cas_xrealloc(w->links, (w->link_count + 1) * sizeof(w->links[0]));
        struct cas_buf *text = &w->links[w->link_count++];
        cas_buf_init(text);
        cas_buf_append(text, inode->payload, inode->size_bytes);
        cas_buf_append_byte(text, '/');
        cas_buf_append(text, w->at, rest);
        w->at = cas_buf_str(text);
        w->end = w->at + text->len_bytes;
        if (w->at[0] == '/')
                w->dir = CAS_MERGE_ROOT;
        return 0;
}

static int walk_step(struct cas_merge *m, struct walk *w, struct path_part part,
                     struct cas_err *err)
{
        if (part.len == 0 || (part.len == 1 && part.name[0] == '.'))
                return 0;
        if (part.len == 2 && part.name[0] == '.' && part.name[1] == '.') {
                if (w->missing_count > 0)
                        w->missing_count--;
                else
                        w->dir = cas_merge_inode(m, w->dir)->dir.parent;
                return 0;
        }
        uint32_t child = CAS_MERGE_NONE;
        if (w->missing_count == 0)
                child = child_of(m, w->dir, part.name, part.len);
        if (child == CAS_MERGE_NONE) {
                walk_miss(w, part);
                return 0;
        }
        switch ((enum cas_entry_type)cas_merge_inode(m, child)->type) {
        case CAS_ENTRY_DIR:
                w->dir = child;
                return 0;
        case CAS_ENTRY_SYMLINK:
                return walk_follow(m, w, child, err);
        default:
                if (child >= m->layer_first_inode)
                        return cas_fail(err, CAS_E_INVALID,
                                        "its path leads through a file of the same layer");
                walk_miss(w, part); /* a file of a lower layer gives way to a directory */
                return 0;
        }
}

/* Makes the directories that are missing; a path names them, no entry does. */
static int walk_make(struct cas_merge *m, struct walk *w, struct cas_err *err)
{
        for (size_t i = 0; i < w->missing_count; i++) {
                struct cas_merge_node *n;
                uint32_t made;
                if (node_get(m, w->dir, w->missing[i].name, w->missing[i].len, &n, err) < 0 ||
                    dir_new(m, w->dir, n, &made, err) < 0)
                        return -(int)err->code;
                node_set(m, n, made);
                w->dir = made;
        }
        return 0;
}

/* The directory that `path` names, every symlink in it followed. Without `make`, *out is
 * CAS_MERGE_NONE when it is not there. */
static int dir_walk(struct cas_merge *m, const char *path, size_t len, bool make, uint32_t *out,
                    struct cas_err *err)
{
        if (len == 0) {
                *out = CAS_MERGE_ROOT;
                return 0;
        }
        if (m->last_dir_inode != CAS_MERGE_NONE && m->last_dir_len == len &&
            memcmp(m->last_dir, path, len) == 0) {
                *out = m->last_dir_inode;
                return 0;
        }
        __attribute__((cleanup(walk_release))) struct walk w = {
                .dir = CAS_MERGE_ROOT, .at = path, .end = path + len};
        while (w.at < w.end) {
                const char *slash = memchr(w.at, '/', (size_t)(w.end - w.at));
                const char *stop = slash ? slash : w.end;
                struct path_part part = {w.at, (size_t)(stop - w.at)};
                w.at = slash ? slash + 1 : w.end;
                if (walk_step(m, &w, part, err) < 0)
                        return -(int)err->code;
        }
        if (w.missing_count > 0 && !make) {
                *out = CAS_MERGE_NONE;
                return 0;
        }
        if (walk_make(m, &w, err) < 0)
                return -(int)err->code;
        m->last_dir = path;
        m->last_dir_len = len;
        m->last_dir_inode = w.dir;
        *out = w.dir;
        return 0;
}

/* Splits a path into its directory and its last name. */
static int path_split(const char *path, size_t *dir_len, struct path_part *name,
                      struct cas_err *err)
{
        size_t len = strlen(path);
        const char *slash = memrchr(path, '/', len);
        *dir_len = slash ? (size_t)(slash - path) : 0;
        name->name = slash ? slash + 1 : path;
        name->len = len - (size_t)(name->name - path);
        if (name->len == 0 || strcmp(name->name, ".") == 0 || strcmp(name->name, "..") == 0)
                return cas_fail(err, CAS_E_INVALID, "path does not end in a name");
        return 0;
}

/* ---- whiteouts and opaque marks ---- */

/* The node that a path names, or NULL. Makes nothing; the last component is not followed. */
static int node_below(struct cas_merge *m, const char *path, struct cas_merge_node **out,
                      struct cas_err *err)
{
        *out = NULL;
        size_t dir_len;
        struct path_part name;
        uint32_t dir;
        if (path_split(path, &dir_len, &name, err) < 0 ||
            dir_walk(m, path, dir_len, false, &dir, err) < 0)
                return -(int)err->code;
        if (dir != CAS_MERGE_NONE)
                *out = node_find(m, dir, name.name, name.len,
                                 name_hash(m, dir, name.name, name.len));
        return 0;
}

/* The directory goes on with its attributes and without what is in it. */
static int dir_empty(struct cas_merge *m, uint32_t dir, uint32_t *out, struct cas_err *err)
{
        if (slab_add(&m->inodes, sizeof(struct cas_merge_inode), out, err) < 0)
                return -(int)err->code;
        *cas_merge_inode(m, *out) = *cas_merge_inode(m, dir);
        m->last_dir_inode = CAS_MERGE_NONE;
        return 0;
}

/* The root keeps its number, so its children are dropped one by one. */
static void root_empty(struct cas_merge *m)
{
        for (uint32_t i = 0; i < m->nodes.count; i++) {
                struct cas_merge_node *n = cas_merge_node(m, i);
                if (n->parent == CAS_MERGE_ROOT)
                        node_set(m, n, CAS_MERGE_NONE);
        }
}

static int empty_at(struct cas_merge *m, struct cas_merge_node *n, struct cas_err *err)
{
        uint32_t emptied;
        if (!n || !is_dir(m, n->inode))
                return 0;
        if (dir_empty(m, n->inode, &emptied, err) < 0)
                return -(int)err->code;
        node_set(m, n, emptied);
        return 0;
}

/* An opaque mark without its directory acts on what the whole path leads to, a symlink at its
 * end followed; the node that this directory has is then looked for by its inode. */
static int empty_followed(struct cas_merge *m, const char *path, struct cas_err *err)
{
        uint32_t dir;
        if (dir_walk(m, path, strlen(path), false, &dir, err) < 0)
                return -(int)err->code;
        if (dir == CAS_MERGE_ROOT)
                root_empty(m);
        else if (dir != CAS_MERGE_NONE)
                return empty_at(m, cas_merge_node(m, cas_merge_inode(m, dir)->dir.node), err);
        return 0;
}

static int apply_hiding(struct cas_merge *m, const struct cas_entry *e, struct cas_err *err)
{
        if (e->type == CAS_ENTRY_DIR && (e->implied || e->path[0] == '\0'))
                return empty_followed(m, e->path, err);
        struct cas_merge_node *n;
        if (node_below(m, e->path, &n, err) < 0)
                return -(int)err->code;
        if (e->type == CAS_ENTRY_DIR)
                return empty_at(m, n, err);
        if (n)
                node_set(m, n, CAS_MERGE_NONE);
        return 0;
}

/* ---- hard links ---- */

/* The inode that a hard link's target names by now; its last component is not followed. */
static int link_target(struct cas_merge *m, const struct cas_entry *e, uint32_t *out,
                       struct cas_err *err)
{
        struct cas_merge_node *n;
        const char *target = e->target ? e->target : "";
        if (node_below(m, target, &n, err) < 0)
                return cas_err_wrap(err, "hard link to %.200s", target);
        if (!n || n->inode == CAS_MERGE_NONE)
                return cas_fail(err, CAS_E_INVALID, "hard link to %.200s, which is not there",
                                target);
        if (is_dir(m, n->inode))
                return cas_fail(err, CAS_E_INVALID, "hard link to the directory %.200s", target);
        *out = n->inode;
        return 0;
}

/* Links into the layers below refer to what was there before this layer changes it. */
static int resolve_links(struct cas_merge *m, const struct cas_listing *layer, uint32_t *out,
                         struct cas_err *err)
{
        for (size_t i = 0, link = 0; i < layer->count; i++) {
                const struct cas_entry *e = &layer->entries[i];
                if (e->type == CAS_ENTRY_HARDLINK && e->below &&
                    link_target(m, e, &out[link++], err) < 0)
                        return cas_err_wrap(err, "%.200s", e->path);
        }
        return 0;
}

static size_t below_link_count(const struct cas_listing *layer)
{
        size_t count = 0;
        for (size_t i = 0; i < layer->count; i++)
                count += layer->entries[i].type == CAS_ENTRY_HARDLINK && layer->entries[i].below;
        return count;
}

/* ---- other entries ---- */

static int keep_xattrs(struct cas_merge *m, const struct cas_entry *e,
                       const struct cas_merge_xattrs **out, struct cas_err *err)
{
        *out = NULL;
        if (e->xattr_count == 0)
                return 0;
        struct cas_merge_xattrs *set = cas_arena_alloc(
                &m->arena, sizeof(*set) + e->xattr_count * sizeof(set->items[0]), 8);
        if (!set)
                return cas_fail(err, CAS_E_NOMEM, "no memory for xattrs");
        set->count = e->xattr_count;
        for (size_t i = 0; i < e->xattr_count; i++) {
                const struct cas_xattr *x = &e->xattrs[i];
                struct cas_merge_xattr *item = &set->items[i];
                size_t name_len = strlen(x->name);
                if (name_len > CAS_XATTR_NAME_BYTES_MAX ||
                    x->value_bytes > UINT16_MAX) /* EROFS's field */
                        return cas_fail(err, CAS_E_LIMIT, "xattr %.64s is too large", x->name);
                item->name_bytes = (uint16_t)name_len;
                item->value_bytes = (uint32_t)x->value_bytes;
                item->name = keep_bytes(m, x->name, name_len + 1, 1, err);
                item->value = keep_bytes(m, x->value, x->value_bytes, 1, err);
                if (!item->name || !item->value)
                        return -(int)err->code;
        }
        *out = set;
        return 0;
}

/* What all types have. */
static int keep_attributes(struct cas_merge *m, const struct cas_entry *e, uint32_t index,
                           struct cas_err *err)
{
        struct cas_merge_inode *inode = cas_merge_inode(m, index);
        if (e->mtime_ns >= 1000000000)
                return cas_fail(err, CAS_E_INVALID, "%u nanoseconds", e->mtime_ns);
        inode->mode = e->mode & 07777;
        inode->uid = e->uid;
        inode->gid = e->gid;
        inode->mtime_s = e->mtime_s;
        inode->mtime_ns = e->mtime_ns;
        return keep_xattrs(m, e, &inode->xattrs, err);
}

static int keep_file(struct cas_merge *m, const struct cas_entry *e, struct cas_merge_inode *inode,
                     struct cas_err *err)
{
        if (e->size_bytes > CAS_OBJECT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "file of %llu bytes",
                                (unsigned long long)e->size_bytes);
        inode->size_bytes = e->size_bytes;
        inode->payload = e->size_bytes <= CAS_INLINE_BYTES_MAX
                                 ? keep_bytes(m, e->inline_data, e->size_bytes, 1, err)
                                 : keep_bytes(m, e->object.bytes, CAS_HASH_BYTES, 8, err);
        return inode->payload ? 0 : -(int)err->code;
}

static int keep_symlink(struct cas_merge *m, const struct cas_entry *e,
                        struct cas_merge_inode *inode, struct cas_err *err)
{
        inode->size_bytes = e->target ? strlen(e->target) : 0;
        if (inode->size_bytes == 0)
                return cas_fail(err, CAS_E_INVALID, "symbolic link without a target");
        if (inode->size_bytes > CAS_SYMLINK_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "symbolic link of %zu bytes", strlen(e->target));
        inode->payload = keep_bytes(m, e->target, inode->size_bytes, 1, err);
        return inode->payload ? 0 : -(int)err->code;
}

static int keep_content(struct cas_merge *m, const struct cas_entry *e,
                        struct cas_merge_inode *inode, struct cas_err *err)
{
        switch (e->type) {
        case CAS_ENTRY_FILE:
                return keep_file(m, e, inode, err);
        case CAS_ENTRY_SYMLINK:
                return keep_symlink(m, e, inode, err);
        case CAS_ENTRY_CHARDEV:
        case CAS_ENTRY_BLOCKDEV:
                if (e->dev_major >= 1u << 12 || e->dev_minor >= 1u << 20)
                        return cas_fail(err, CAS_E_INVALID, "device number %u:%u", e->dev_major,
                                        e->dev_minor);
                inode->dev.major = e->dev_major;
                inode->dev.minor = e->dev_minor;
                return 0;
        case CAS_ENTRY_FIFO:
        case CAS_ENTRY_SOCKET:
                return 0;
        case CAS_ENTRY_DIR:
        case CAS_ENTRY_HARDLINK:
        case CAS_ENTRY_WHITEOUT:
                break;
        }
        return cas_fail(err, CAS_E_INVALID, "entry of type %d", (int)e->type);
}

static int apply_dir(struct cas_merge *m, const struct cas_entry *e, uint32_t dir,
                     struct cas_merge_node *n, struct cas_err *err)
{
        if (is_dir(m, n->inode)) {
                cas_merge_inode(m, n->inode)->touched = true;
                return keep_attributes(m, e, n->inode, err);
        }
        uint32_t made;
        if (dir_new(m, dir, n, &made, err) < 0 || keep_attributes(m, e, made, err) < 0)
                return -(int)err->code;
        node_set(m, n, made);
        return 0;
}

/* A hard link's own header says nothing new: the inode keeps its attributes.
 * target: of a link below. */
static int apply_hardlink(struct cas_merge *m, const struct cas_entry *e, uint32_t target,
                          struct cas_merge_node *n, struct cas_err *err)
{
        if (!e->below && link_target(m, e, &target, err) < 0)
                return -(int)err->code;
        node_set(m, n, target);
        return 0;
}

/* target: the inode of a hard link below. */
static int apply_entry(struct cas_merge *m, const struct cas_entry *e, uint32_t target,
                       struct cas_err *err)
{
        if (e->path[0] == '\0') {
                if (e->type != CAS_ENTRY_DIR)
                        return cas_fail(err, CAS_E_INVALID, "the root is not a directory");
                cas_merge_inode(m, CAS_MERGE_ROOT)->touched = true;
                return keep_attributes(m, e, CAS_MERGE_ROOT, err);
        }
        size_t dir_len;
        struct path_part name;
        uint32_t dir;
        struct cas_merge_node *n;
        if (path_split(e->path, &dir_len, &name, err) < 0 ||
            dir_walk(m, e->path, dir_len, true, &dir, err) < 0 ||
            node_get(m, dir, name.name, name.len, &n, err) < 0)
                return -(int)err->code;
        if (e->type == CAS_ENTRY_DIR)
                return apply_dir(m, e, dir, n, err);
        if (e->type == CAS_ENTRY_HARDLINK)
                return apply_hardlink(m, e, target, n, err);
        uint32_t made;
        if (slab_add(&m->inodes, sizeof(struct cas_merge_inode), &made, err) < 0)
                return -(int)err->code;
        struct cas_merge_inode *inode = cas_merge_inode(m, made);
        inode->type = (uint8_t)e->type;
        if (keep_attributes(m, e, made, err) < 0 || keep_content(m, e, inode, err) < 0)
                return -(int)err->code;
        node_set(m, n, made);
        return 0;
}

/* ---- one layer by itself ---- */

/* Adds or replaces, in order of names. name and value are static. */
static int set_xattr(struct cas_merge *m, uint32_t index, const char *name, const char *value,
                     struct cas_err *err)
{
        struct cas_merge_inode *inode = cas_merge_inode(m, index);
        const struct cas_merge_xattrs *old = inode->xattrs;
        size_t old_count = old ? old->count : 0;
        struct cas_merge_xattrs *set = cas_arena_alloc(
                &m->arena, sizeof(*set) + (old_count + 1) * sizeof(set->items[0]), 8);
        if (!set)
                return cas_fail(err, CAS_E_NOMEM, "no memory for xattrs");
        const struct cas_merge_xattr added = {.name = name,
                                              .name_bytes = (uint16_t)strlen(name),
                                              .value = (const uint8_t *)value,
                                              .value_bytes = (uint32_t)strlen(value)};
        size_t at = 0;
        set->count = 0;
        for (; at < old_count && strcmp(old->items[at].name, name) < 0; at++)
                set->items[set->count++] = old->items[at];
        set->items[set->count++] = added;
        at += at < old_count && strcmp(old->items[at].name, name) == 0;
        for (; at < old_count; at++)
                set->items[set->count++] = old->items[at];
        inode->xattrs = set;
        return 0;
}

/* A directory that the layer has, or only its mark names: then it is made. */
static int mark_opaque(struct cas_merge *m, const struct cas_entry *e, struct cas_err *err)
{
        uint32_t dir;
        if (dir_walk(m, e->path, strlen(e->path), true, &dir, err) < 0)
                return -(int)err->code;
        cas_merge_inode(m, dir)->opaque = true;
        return set_xattr(m, dir, MARK_OPAQUE, "y", err);
}

/* In an opaque directory, and all below it, there is nothing that a whiteout could hide. */
static bool hides_all(const struct cas_merge *m, uint32_t dir)
{
        while (!cas_merge_inode(m, dir)->opaque) {
                if (dir == CAS_MERGE_ROOT)
                        return false;
                dir = cas_merge_inode(m, dir)->dir.parent;
        }
        return true;
}

/* All whiteouts are one inode. */
static int whiteout_inode(struct cas_merge *m, struct cas_err *err)
{
        if (m->whiteout != CAS_MERGE_NONE)
                return 0;
        if (slab_add(&m->inodes, sizeof(struct cas_merge_inode), &m->whiteout, err) < 0)
                return -(int)err->code;
        struct cas_merge_inode *inode = cas_merge_inode(m, m->whiteout);
        inode->type = CAS_ENTRY_FILE;
        inode->payload = (const uint8_t *)"";
        return set_xattr(m, m->whiteout, MARK_WHITEOUT, "", err);
}

static int mark_has_whiteouts(struct cas_merge *m, uint32_t dir, struct cas_err *err)
{
        const struct cas_merge_xattrs *set = cas_merge_inode(m, dir)->xattrs;
        for (size_t i = 0; set && i < set->count; i++)
                if (strcmp(set->items[i].name, MARK_OPAQUE) == 0 &&
                    set->items[i].value_bytes == 1 && set->items[i].value[0] == 'x')
                        return 0;
        return set_xattr(m, dir, MARK_OPAQUE, "x", err);
}

/* Where the layer has nothing itself. overlayfs looks for whiteouts of this kind only in
 * directories that say so, in layers whose root says so. */
static int mark_whiteout(struct cas_merge *m, const struct cas_entry *e, struct cas_err *err)
{
        size_t dir_len;
        struct path_part name;
        uint32_t dir;
        struct cas_merge_node *n;
        if (path_split(e->path, &dir_len, &name, err) < 0 ||
            dir_walk(m, e->path, dir_len, true, &dir, err) < 0)
                return -(int)err->code;
        if (hides_all(m, dir))
                return 0;
        if (whiteout_inode(m, err) < 0 || node_get(m, dir, name.name, name.len, &n, err) < 0)
                return -(int)err->code;
        if (n->inode != CAS_MERGE_NONE)
                return 0;
        node_set(m, n, m->whiteout);
        if (mark_has_whiteouts(m, dir, err) < 0)
                return -(int)err->code;
        return mark_has_whiteouts(m, CAS_MERGE_ROOT, err);
}

/* What hide_all makes of a layer over others, kept for who stacks them. */
static int mark_all(struct cas_merge *m, const struct cas_listing *layer, struct cas_err *err)
{
        for (int pass = 0; pass < 2; pass++) {
                for (size_t i = 0; i < layer->count; i++) {
                        const struct cas_entry *e = &layer->entries[i];
                        int rc = 0;
                        if (pass == 0 && e->type == CAS_ENTRY_DIR && e->opaque)
                                rc = mark_opaque(m, e, err);
                        if (pass == 1 && e->type == CAS_ENTRY_WHITEOUT)
                                rc = mark_whiteout(m, e, err);
                        if (rc < 0)
                                return cas_err_wrap(err, "%.200s", e->path);
                }
        }
        return 0;
}

void cas_merge_keep_marks(struct cas_merge *m)
{
        cas_assert(m->nodes.count == 0);
        m->keep_marks = true;
}

/* ---- layers ---- */

static int hide_all(struct cas_merge *m, const struct cas_listing *layer, struct cas_err *err)
{
        for (size_t i = 0; i < layer->count; i++) {
                const struct cas_entry *e = &layer->entries[i];
                bool hides =
                        e->type == CAS_ENTRY_WHITEOUT || (e->type == CAS_ENTRY_DIR && e->opaque);
                if (hides && apply_hiding(m, e, err) < 0)
                        return cas_err_wrap(err, "%.200s", e->path);
        }
        return 0;
}

static int add_all(struct cas_merge *m, const struct cas_listing *layer, const uint32_t *targets,
                   struct cas_err *err)
{
        for (size_t i = 0; i < layer->count; i++) {
                const struct cas_entry *e = &layer->entries[i];
                if (e->type == CAS_ENTRY_WHITEOUT || e->implied)
                        continue;
                bool below = e->type == CAS_ENTRY_HARDLINK && e->below;
                if (apply_entry(m, e, below ? *targets++ : CAS_MERGE_NONE, err) < 0)
                        return cas_err_wrap(err, "%.200s", e->path);
        }
        return 0;
}

int cas_merge_apply(struct cas_merge *m, struct cas_listing *layer, struct cas_err *err)
{
        if (m->keep_marks && below_link_count(layer) > 0)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "the layer has hard links to files of the layers below");
        m->layer_first_inode = m->inodes.count;
        m->link_steps_left = CAS_TREE_LINK_STEPS_MAX;
        m->last_dir_inode = CAS_MERGE_NONE;
        cas_cleanup_free uint32_t *targets =
                calloc(below_link_count(layer) + 1, sizeof(targets[0]));
        if (!targets)
                return cas_fail(err, CAS_E_NOMEM, "no memory for the hard links of a layer");
        int rc = resolve_links(m, layer, targets, err);
        if (rc == 0)
                rc = hide_all(m, layer, err);
        if (rc == 0)
                rc = add_all(m, layer, targets, err);
        if (rc == 0 && m->keep_marks)
                rc = mark_all(m, layer, err);
        m->last_dir_inode = CAS_MERGE_NONE; /* its text is the listing's */
        return rc;
}

/* ---- the base mark ---- */

int cas_merge_mark_base(struct cas_merge *m, struct cas_err *err)
{
        cas_assert(m->base_inode_of == NULL);
        uint32_t *inode_of = calloc((size_t)m->nodes.count + 1, sizeof(inode_of[0]));
        uint32_t *nlink = calloc(m->inodes.count, sizeof(nlink[0]));
        m->base_inode_of = inode_of; /* owned from here on */
        m->base_nlink = nlink;
        if (!inode_of || !nlink)
                return cas_fail(err, CAS_E_NOMEM, "no memory for the tree's base");
        for (uint32_t i = 0; i < m->nodes.count; i++)
                inode_of[i] = cas_merge_node(m, i)->inode;
        for (uint32_t i = 0; i < m->inodes.count; i++)
                cas_merge_inode(m, i)->touched = false;
        m->base_node_count = m->nodes.count;
        m->base_inode_count = m->inodes.count;
        return cas_plan_count_links(m, nlink, err);
}
