/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/extract.h"

#include <inttypes.h>

#include "cas/map.h"
#include "cas/path.h"
#include "cas/xattr.h"

#define WHITEOUT_PREFIX ".wh."
#define AUFS_PREFIX ".wh..wh."
#define OPAQUE_NAME ".wh..wh..opq"
#define NODE_KEY_BYTES 64 /* what the map takes for a name, about */
#define SYMLINKS_MAX 40   /* as many as the kernel follows in one path */

/* A file of this layer; several nodes may name it. Lives as long as the model, because its
 * content may still be on the way when its last name is gone. */
struct inode {
        struct inode *before;   /* of all inodes */
        struct cas_entry entry; /* path is not set; HARDLINK: a file of the layers below */
        const char *first_path; /* when listed: borrowed from the listing */
};

struct node {
        struct node *parent;                  /* NULL: the root */
        struct node *children, *next, **link; /* siblings in no order; link points at this one */
        size_t child_count;
        struct inode
                *inode; /* NULL: the layer has no entry for it, but for what lies in it or marks */
        size_t path_bytes;
        unsigned depth;
        bool whiteout; /* a whiteout names it */
        bool opaque;   /* an opaque mark lies in it */
        bool cut;      /* a directory in the place of another file: nothing below shows through */
        bool hidden;   /* bookkeeping of AUFS: not part of the image, but links may point at it */
        bool live;     /* when listed: it or something in it has an inode */
        char name[];
};

struct cas_extract {
        struct node *root;
        struct cas_map *names; /* parent and name give the node */
        struct inode *inodes;
        size_t entry_count;
        uint64_t bytes; /* what all this takes, about */
};

/* ---- nodes ---- */

struct node_key {
        uintptr_t parent;
        char name[CAS_NAME_BYTES_MAX];
};

static size_t make_key(struct node_key *key, const struct node *parent, const char *name,
                       size_t name_len)
{
        cas_assert(name_len <= CAS_NAME_BYTES_MAX);
        key->parent = (uintptr_t)parent;
        memcpy(key->name, name, name_len);
        return offsetof(struct node_key, name) + name_len;
}

static struct node *node_new(struct node *parent, const char *name, size_t name_len)
{
        struct node *n = cas_xcalloc(1, sizeof(*n) + name_len + 1);
        memcpy(n->name, name, name_len);
        n->parent = parent;
        if (!parent)
                return n;
        n->depth = parent->depth + 1;
        n->path_bytes = parent->path_bytes + (parent->parent ? 1 : 0) + name_len;
        n->hidden = parent->hidden;
        n->next = parent->children;
        if (n->next)
                n->next->link = &n->next;
        n->link = &parent->children;
        parent->children = n;
        parent->child_count++;
        return n;
}

static struct node *child_find(const struct cas_extract *x, const struct node *parent,
                               const char *name, size_t name_len)
{
        struct node_key key;
        size_t len = make_key(&key, parent, name, name_len);
        uint64_t *at = cas_map_get(x->names, &key, len);
        return at ? (struct node *)(uintptr_t)*at : NULL;
}

static int charge(struct cas_extract *x, size_t bytes, struct cas_err *err)
{
        x->bytes += bytes;
        if (x->bytes <= CAS_LISTING_BYTES_MAX)
                return 0;
        return cas_fail(err, CAS_E_LIMIT,
                        "a layer whose names and attributes take more than %" PRIu64 " MiB",
                        CAS_LISTING_BYTES_MAX / CAS_MIB);
}

static int child_get(struct cas_extract *x, struct node *parent, const char *name, size_t name_len,
                     struct node **out, struct cas_err *err)
{
        *out = child_find(x, parent, name, name_len);
        if (*out)
                return 0;
        if (parent->depth >= CAS_PATH_DEPTH_MAX ||
            parent->path_bytes + 1 + name_len > CAS_PATH_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a path too long or too deep");
        if (charge(x, sizeof(struct node) + 2 * name_len + NODE_KEY_BYTES, err) < 0)
                return -(int)err->code;
        struct node_key key;
        size_t len = make_key(&key, parent, name, name_len);
        *out = node_new(parent, name, name_len);
        *cas_map_put(x->names, &key, len, NULL) = (uintptr_t)*out;
        return 0;
}

/* Takes away all that lies in a node: down by first children to a leaf, up from it when it is
 * gone, without recursion. */
static void remove_children(struct cas_extract *x, struct node *top)
{
        struct node *n = top;
        while (n != top || n->children) {
                if (n->children) {
                        n = n->children;
                        continue;
                }
                struct node *parent = n->parent;
                if (x) {
                        struct node_key key;
                        size_t len = make_key(&key, parent, n->name, strlen(n->name));
                        (void)cas_map_remove(x->names, &key, len);
                }
                *n->link = n->next;
                if (n->next)
                        n->next->link = n->link;
                parent->child_count--;
                free(n);
                n = parent;
        }
}

/* What removing a path recursively leaves of its node. */
static void node_clear(struct cas_extract *x, struct node *n)
{
        remove_children(x, n);
        n->inode = NULL;
        n->opaque = n->cut = false;
}

static bool is_dir(const struct node *n)
{
        return !n->inode || n->inode->entry.type == CAS_ENTRY_DIR;
}

static char *node_path(const struct node *n)
{
        char *path = cas_xcalloc(1, n->path_bytes + 1);
        size_t at = n->path_bytes;
        for (; n->parent; n = n->parent) {
                size_t len = strlen(n->name);
                at -= len;
                memcpy(path + at, n->name, len);
                if (at > 0)
                        path[--at] = '/';
        }
        return path;
}

static struct inode *inode_new(struct cas_extract *x, enum cas_entry_type type)
{
        struct inode *i = cas_xcalloc(1, sizeof(*i));
        i->entry.type = type;
        i->before = x->inodes;
        x->inodes = i;
        return i;
}

struct cas_extract *cas_extract_new(void)
{
        struct cas_extract *x = cas_xcalloc(1, sizeof(*x));
        x->root = node_new(NULL, "", 0);
        x->names = cas_map_new();
        return x;
}

void cas_extract_free(struct cas_extract *x)
{
        if (!x)
                return;
        remove_children(NULL, x->root);
        free(x->root);
        cas_map_free(x->names);
        while (x->inodes) {
                struct inode *i = x->inodes;
                x->inodes = i->before;
                cas_entry_release(&i->entry);
                free(i);
        }
        free(x);
}

/* ---- paths ---- */

/* Where a path leads: the directory of its last name. */
struct place {
        struct node *dir; /* NULL: something on the way is no directory */
        char name[CAS_NAME_BYTES_MAX + 1];
};

static int check_name(const char *name, size_t len, struct cas_err *err)
{
        if (len > CAS_NAME_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a name of %zu bytes", len);
        if (strncmp(name, WHITEOUT_PREFIX, strlen(WHITEOUT_PREFIX)) == 0 &&
            strncmp(name, AUFS_PREFIX, strlen(AUFS_PREFIX)) != 0)
                return cas_fail(err, CAS_E_INVALID, "a whiteout as a directory");
        return 0;
}

/* Walks to the directory of a path, through the symbolic links of this layer, which stay inside
 * of the root. Directories on the way that have no entry get nodes. `rest` is changed. */
static int walk(struct cas_extract *x, struct node *dir, char *rest, unsigned *steps,
                unsigned *links, struct node **out, struct cas_err *err)
{
        *out = NULL;
        while (*rest) {
                size_t len = strcspn(rest, "/");
                const char *name = rest;
                rest += len + (rest[len] == '/');
                if (len == 0 || (len == 1 && name[0] == '.'))
                        continue;
                if (++*steps > CAS_PATH_DEPTH_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "a path through too many directories");
                if (len == 2 && name[0] == '.' && name[1] == '.') {
                        dir = dir->parent ? dir->parent : dir;
                        continue;
                }
                struct node *child;
                if (check_name(name, len, err) < 0 || child_get(x, dir, name, len, &child, err) < 0)
                        return -(int)err->code;
                if (child->inode && child->inode->entry.type == CAS_ENTRY_SYMLINK) {
                        if (++*links > SYMLINKS_MAX)
                                return cas_fail(err, CAS_E_INVALID,
                                                "a path through too many symbolic links");
                        cas_cleanup_free char *target = cas_xstrdup(child->inode->entry.target);
                        struct node *from = target[0] == '/' ? x->root : dir;
                        if (walk(x, from, target, steps, links, &child, err) < 0)
                                return -(int)err->code;
                }
                if (!child || !is_dir(child))
                        return 0;
                dir = child;
        }
        *out = dir;
        return 0;
}

static int find_place(struct cas_extract *x, const char *path, struct place *out,
                      struct cas_err *err)
{
        unsigned steps = 0, links = 0;
        cas_cleanup_free char *dir = cas_xstrdup(path);
        char *slash = strrchr(dir, '/');
        const char *name = slash ? slash + 1 : dir;
        cas_assert(strlen(name) <= CAS_NAME_BYTES_MAX);
        memcpy(out->name, name, strlen(name) + 1);
        (slash ? slash : dir)[0] = '\0';
        return walk(x, x->root, dir, &steps, &links, &out->dir, err);
}

/* ---- entries ---- */

static int add_whiteout(struct cas_extract *x, const struct place *place, struct cas_err *err)
{
        const char *name = place->name + strlen(WHITEOUT_PREFIX);
        struct node *n;
        if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
                return cas_fail(err, CAS_E_INVALID, "a whiteout of no name");
        if (!place->dir)
                return 0; /* below a file there is nothing to hide */
        if (strcmp(place->name, OPAQUE_NAME) == 0) {
                place->dir->opaque = true;
                return 0;
        }
        if (child_get(x, place->dir, name, strlen(name), &n, err) < 0)
                return -(int)err->code;
        n->whiteout = true;
        return 0;
}

/* A directory over a directory replaces its attributes only. */
static void add_directory(struct cas_extract *x, struct node *n, struct cas_entry *e)
{
        if (n->inode && !is_dir(n)) {
                node_clear(x, n);
                n->cut = true;
        }
        if (!n->inode)
                n->inode = inode_new(x, CAS_ENTRY_DIR);
        cas_entry_release(&n->inode->entry);
        n->inode->entry = *e;
        *e = (struct cas_entry){0};
}

static bool cut_above(const struct node *n)
{
        for (; n; n = n->parent)
                if (n->cut)
                        return true;
        return false;
}

static int fail_link(const char *target, const char *why, struct cas_err *err)
{
        return cas_fail(err, CAS_E_INVALID, "a hard link to \"%.200s\", %s", target, why);
}

/* The link takes the inode that its target has at this point of the tar, here or below. */
static int add_hardlink(struct cas_extract *x, struct node *n, const struct cas_entry *e,
                        struct cas_err *err)
{
        cas_cleanup_free char *target = NULL;
        struct place place;
        node_clear(x, n);
        if (cas_path_clean(e->target, &target, err) < 0 || find_place(x, target, &place, err) < 0)
                return cas_err_wrap(err, "hard link target");
        if (!place.dir)
                return fail_link(target, "below what is no directory", err);
        const struct node *to = child_find(x, place.dir, place.name, strlen(place.name));
        if (!*target || (to && is_dir(to) && (to->inode || to->children)))
                return fail_link(target, "a directory", err);
        if (to == n)
                return fail_link(target, "itself", err);
        if (to && to->inode) {
                n->inode = to->inode;
                return 0;
        }
        if (cut_above(place.dir))
                return fail_link(target, "which is not there", err);
        n->inode = inode_new(x, CAS_ENTRY_HARDLINK);
        n->inode->entry.below = true;
        cas_cleanup_free char *dir = node_path(place.dir);
        n->inode->entry.target = cas_xasprintf("%s%s%s", dir, *dir ? "/" : "", place.name);
        return charge(x, strlen(n->inode->entry.target), err);
}

static int add_at(struct cas_extract *x, const struct place *place, struct cas_entry *e,
                  struct cas_entry **file, struct cas_err *err)
{
        struct node *n;
        if (!place->dir)
                return cas_fail(err, CAS_E_INVALID, "lies below what is no directory");
        if (child_get(x, place->dir, place->name, strlen(place->name), &n, err) < 0)
                return -(int)err->code;
        if (strncmp(place->name, AUFS_PREFIX, strlen(AUFS_PREFIX)) == 0)
                n->hidden = true;
        if (e->type == CAS_ENTRY_DIR) {
                add_directory(x, n, e);
                return 0;
        }
        if (e->type == CAS_ENTRY_HARDLINK)
                return add_hardlink(x, n, e, err);
        node_clear(x, n);
        n->inode = inode_new(x, e->type);
        n->inode->entry = *e;
        *e = (struct cas_entry){0};
        if (n->inode->entry.type == CAS_ENTRY_FILE)
                *file = &n->inode->entry;
        return 0;
}

/* Brings the attributes into the form that listings have. */
static int settle(struct cas_entry *e, struct cas_err *err)
{
        free(e->path);
        e->path = NULL;
        if (e->uid == UINT32_MAX || e->gid == UINT32_MAX)
                return cas_fail(err, CAS_E_INVALID, "an owner that is none");
        if (e->dev_major > 0xfff || e->dev_minor > 0xfffff)
                return cas_fail(err, CAS_E_INVALID, "device %u:%u", e->dev_major, e->dev_minor);
        if (e->type == CAS_ENTRY_SYMLINK) {
                e->mode = 0777;
                if (!*e->target)
                        return cas_fail(err, CAS_E_INVALID, "a symbolic link to nothing");
                if (strlen(e->target) > CAS_SYMLINK_BYTES_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "a symbolic link of %zu bytes",
                                        strlen(e->target));
        }
        return cas_xattr_settle(e, err);
}

static size_t entry_bytes(const struct cas_entry *e)
{
        size_t bytes = sizeof(struct inode) + (e->target ? strlen(e->target) : 0);
        for (size_t i = 0; i < e->xattr_count; i++)
                bytes += sizeof(struct cas_xattr) + strlen(e->xattrs[i].name) +
                         e->xattrs[i].value_bytes;
        return bytes;
}

int cas_extract_add(struct cas_extract *x, struct cas_entry *e, struct cas_entry **file,
                    struct cas_err *err)
{
        cas_cleanup_free char *path = NULL;
        struct place place;
        *file = NULL;
        if (++x->entry_count > CAS_TAR_ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a layer of more than %d entries",
                                CAS_TAR_ENTRIES_MAX);
        if (cas_path_clean(e->path, &path, err) < 0 || charge(x, entry_bytes(e), err) < 0 ||
            find_place(x, path, &place, err) < 0)
                return cas_err_wrap(err, "\"%.200s\"", path ? path : e->path);
        bool aufs = strncmp(place.name, AUFS_PREFIX, strlen(AUFS_PREFIX)) == 0;
        bool mark = strncmp(place.name, WHITEOUT_PREFIX, strlen(WHITEOUT_PREFIX)) == 0;
        int ret;
        if (mark && (!aufs || strcmp(place.name, OPAQUE_NAME) == 0)) {
                ret = add_whiteout(x, &place, err);
        } else if ((ret = settle(e, err)) == 0 && *path) {
                ret = add_at(x, &place, e, file, err);
        } else if (ret == 0 && e->type == CAS_ENTRY_DIR) {
                add_directory(x, x->root, e);
        } else if (ret == 0) {
                ret = cas_fail(err, CAS_E_INVALID, "the root is no directory");
        }
        return ret < 0 ? cas_err_wrap(err, "\"%.200s\"", path) : 0;
}

/* ---- listing ---- */

static int order_nodes(const void *a, const void *b)
{
        return strcmp((*(struct node *const *)a)->name, (*(struct node *const *)b)->name);
}

/* Sorts the children of every node, and finds out which nodes are live. Recurses no deeper than
 * CAS_PATH_DEPTH_MAX. */
static void prepare(struct node *n)
{
        n->live = n->inode != NULL;
        if (!n->children)
                return;
        struct node **sorted = cas_xcalloc(n->child_count, sizeof(struct node *));
        size_t count = 0;
        for (struct node *c = n->children; c; c = c->next) {
                prepare(c);
                n->live |= c->live && !c->hidden;
                sorted[count++] = c;
        }
        qsort(sorted, count, sizeof(struct node *), order_nodes);
        n->children = NULL;
        while (count > 0) {
                struct node *c = sorted[--count];
                c->next = n->children;
                if (c->next)
                        c->next->link = &c->next;
                c->link = &n->children;
                n->children = c;
        }
        free(sorted);
}

static struct cas_entry *append(struct cas_listing *out, size_t *alloc, const struct node *n,
                                enum cas_entry_type type)
{
        if (out->count == *alloc) {
                *alloc = *alloc ? *alloc * 2 : 64;
                out->entries = cas_xrealloc(out->entries, *alloc * sizeof(*out->entries));
        }
        struct cas_entry *e = &out->entries[out->count++];
        *e = (struct cas_entry){.type = type, .path = node_path(n)};
        return e;
}

/* Lists a node that has an inode. */
static void list_inode(const struct node *n, bool sealed, struct cas_listing *out, size_t *alloc)
{
        struct inode *i = n->inode;
        struct cas_entry *e = append(out, alloc, n, CAS_ENTRY_HARDLINK);
        if (i->first_path) {
                e->target = cas_xstrdup(i->first_path);
                return;
        }
        char *path = e->path;
        *e = i->entry;
        e->path = path;
        i->entry = (struct cas_entry){.type = e->type};
        i->first_path = path;
        if (e->type == CAS_ENTRY_DIR)
                e->opaque = !sealed && (n->opaque || n->cut || n->whiteout);
}

/* Lists a node that has none; false when what lies in it does not count. */
static bool list_marks(const struct node *n, bool sealed, struct cas_listing *out, size_t *alloc)
{
        if (sealed)
                return true;
        if (n->whiteout && !n->live) {
                (void)append(out, alloc, n, CAS_ENTRY_WHITEOUT);
                return false;
        }
        if (n->whiteout) {
                struct cas_entry *e = append(out, alloc, n, CAS_ENTRY_DIR);
                e->mode = 0755;
                e->opaque = true;
        } else if (n->opaque) {
                struct cas_entry *e = append(out, alloc, n, CAS_ENTRY_DIR);
                e->opaque = e->implied = true;
        }
        return true;
}

/* sealed: a directory above hides all that lies below, so that marks mean nothing here. */
static void list_node(const struct node *n, bool sealed, struct cas_listing *out, size_t *alloc)
{
        if (n->hidden)
                return;
        if (n->inode)
                list_inode(n, sealed, out, alloc);
        else if (!list_marks(n, sealed, out, alloc))
                return;
        sealed |= n->opaque || n->cut || n->whiteout;
        for (const struct node *c = n->children; c; c = c->next)
                list_node(c, sealed, out, alloc);
}

void cas_extract_listing(struct cas_extract *x, struct cas_listing *out)
{
        size_t alloc = 0;
        *out = (struct cas_listing){0};
        prepare(x->root);
        list_node(x->root, false, out, &alloc);
}
