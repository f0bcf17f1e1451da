/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/view_text.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "cas/map.h"
#include "tests/support/listing_text.h"

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

/* ---- making ---- */

/* In a file without a name, as the view keeps what it maps. */
static struct cas_tree *tree_in_file(const struct cas_buf *image)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree *t;
        cas_cleanup_fd int fd = memfd_create("tree", MFD_CLOEXEC);
        must(write(fd, image->data, image->len_bytes) == (ssize_t)image->len_bytes);
        must(cas_tree_open_fd(fd, &t, &err) == 0);
        return t;
}

int view_of_text(const char *const *layers, size_t base, struct ffs_view **out, struct cas_err *err)
{
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_buf struct cas_buf top = CAS_BUF_INIT, bottom = CAS_BUF_INIT;
        struct cas_digest digests[2];
        const struct cas_tree_options flat = {.stacked = false}, stacked = {.stacked = base > 0};
        for (size_t i = 0; layers[i]; i++) {
                if (merge_text(m, layers[i], err) < 0)
                        return -(int)err->code;
                if (i + 1 == base &&
                    (cas_merge_write_erofs(m, &flat, &bottom, &digests[1], err) < 0 ||
                     cas_merge_mark_base(m, err) < 0))
                        return -(int)err->code;
        }
        if (cas_merge_write_erofs(m, &stacked, &top, &digests[0], err) < 0)
                return -(int)err->code;
        struct cas_tree *trees[2] = {tree_in_file(&top), base ? tree_in_file(&bottom) : NULL};
        return ffs_view_new(digests, trees, base ? 2 : 1, out, err);
}

/* ---- telling ---- */

struct name {
        char *name;
        uint64_t vid;
};

struct names {
        struct name *list;
        size_t count;
};

struct text {
        const struct ffs_view *v;
        struct cas_buf *out;
        struct cas_map *seen; /* vid -> 1 + offset of its first path in paths */
        struct cas_buf *paths;
};

static bool add_name(void *arg, const char *name, size_t len, uint64_t vid, uint8_t type CAS_UNUSED,
                     uint64_t next CAS_UNUSED)
{
        struct names *n = arg;
        n->list = cas_xrealloc(n->list, (n->count + 1) * sizeof(n->list[0]));
        n->list[n->count++] = (struct name){cas_xstrndup(name, len), vid};
        return true;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(((const struct name *)a)->name, ((const struct name *)b)->name);
}

struct xattr_texts {
        char **texts;
        size_t count;
};

static bool add_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct xattr_texts *x = arg;
        x->texts = cas_xrealloc(x->texts, (x->count + 1) * sizeof(x->texts[0]));
        x->texts[x->count++] = xattr_to_text(name, value, len);
        return true;
}

static void content_to_text(const struct text *t, uint64_t vid, const struct cas_inode *i)
{
        struct cas_err err = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        const void *data;
        size_t len;
        if (S_ISCHR(i->mode) || S_ISBLK(i->mode)) {
                cas_buf_printf(t->out, " %u:%u", major(i->rdev), minor(i->rdev));
        } else if (i->has_object) {
                cas_buf_printf(t->out, " @%.16s", cas_hash_hex(&i->object, hex));
        } else if (S_ISLNK(i->mode) || S_ISREG(i->mode)) {
                must(ffs_view_inline(t->v, vid, &data, &len, &err) == 0);
                cas_buf_printf(t->out, " \"%.*s\"", (int)len, (const char *)data);
        }
        struct xattr_texts x = {0};
        must(ffs_view_xattrs(t->v, vid, add_xattr, &x, &err) == 0);
        xattrs_append(x.texts, x.count, t->out);
        cas_buf_append_byte(t->out, '\n');
}

static void inode_to_text(struct text *t, uint64_t vid, const char *path);

static void directory_to_text(struct text *t, uint64_t dir, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct names names = {0};
        uint64_t cookie = 0, vid;
        must(ffs_view_readdir(t->v, dir, &cookie, add_name, &names, &err) == 0);
        if (names.count > 0)
                qsort(names.list, names.count, sizeof(names.list[0]), compare_names);
        for (size_t i = 0; i < names.count; i++) {
                cas_cleanup_free char *name = names.list[i].name;
                cas_cleanup_free char *child = cas_xasprintf("%s/%s", path, name);
                must(ffs_view_lookup(t->v, dir, name, strlen(name), &vid, &err) == 0);
                must(vid == names.list[i].vid);
                inode_to_text(t, vid, child);
        }
        free(names.list);
}

static void inode_to_text(struct text *t, uint64_t vid, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_inode i;
        must(ffs_view_inode(t->v, vid, &i, &err) == 0);
        uint64_t *seen = cas_map_put(t->seen, &vid, sizeof(vid), NULL);
        if (*seen > 0) {
                cas_buf_printf(t->out, "%s =%s\n", path, (char *)t->paths->data + *seen - 1);
                return;
        }
        *seen = t->paths->len_bytes + 1;
        cas_buf_append(t->paths, path, strlen(path) + 1);
        cas_buf_printf(t->out, "%s %o %u %u %u %lld.%u %llu", *path ? path : "/", i.mode, i.uid,
                       i.gid, i.nlink, (long long)i.mtime_s, i.mtime_ns,
                       (unsigned long long)(S_ISDIR(i.mode) ? 0 : i.size_bytes));
        content_to_text(t, vid, &i);
        if (S_ISDIR(i.mode))
                directory_to_text(t, vid, path);
}

char *view_to_text(const struct ffs_view *v)
{
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        cas_cleanup_buf struct cas_buf paths = CAS_BUF_INIT;
        struct cas_buf out = CAS_BUF_INIT;
        struct text t = {v, &out, seen, &paths};
        inode_to_text(&t, ffs_view_root(v), "");
        cas_buf_append_byte(&out, '\0');
        return (char *)out.data;
}
