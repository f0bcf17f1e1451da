/* SPDX-License-Identifier: Apache-2.0 */
/* Unpacking: the flat tree of an image becomes a directory.
 *
 * Three passes. The first walks the tree and makes directories, symbolic
 * links and special files, and collects regular files. The second writes file
 * contents on several threads, in the order in which they lie in packs, so
 * that each block is decoded once. The third makes further hard links, and
 * then gives directories their attributes, children first, since every name
 * made in one changes its times.
 *
 * Nothing outside of the target is ever touched: every name is made in a
 * directory that was opened without following links and made here. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "cas/arena.h"
#include "cas/map.h"
#include "cas/object.h"
#include "cas/pool.h"
#include "cas/progress.h"
#include "cas/store_int.h"
#include "cas/transfer.h"

#define BATCH_FILES 32
#define BLOCK_BYTES 4096          /* what block_bytes counts in */
#define OPEN_BELOW_BYTES_MAX 2048 /* of a path that is opened in one call */

struct unpack_dir {
        size_t parent; /* index; the root is its own */
        const char *name;
        uint64_t nid;
};

struct unpack_file {
        size_t dir; /* index */
        const char *name;
        uint64_t nid;
        uint64_t pack_id, block_offset; /* of its first chunk: the order of reading */
        uint32_t chunk_offset;
};

struct unpack_link {
        size_t dir;
        const char *name;
        size_t first_dir; /* where the inode was made, and its name there */
        const char *first_name;
};

struct unpack {
        struct cas_store *s;
        struct cas_tree *tree;
        int rootfd;
        struct cas_arena names;
        uint64_t entry_count;    /* seen so far */
        struct unpack_dir *dirs; /* owned; parents first */
        size_t dir_count;
        struct unpack_file *files; /* owned */
        size_t file_count;
        struct unpack_link *links; /* owned */
        size_t link_count;
        struct cas_map *inodes;     /* owned; nid of several names -> 1 + index in firsts */
        struct unpack_link *firsts; /* owned; where such inodes were made */
        size_t first_count;

        uint64_t inode_count, block_bytes;

        struct cas_progress_sum progress;
        _Atomic size_t next_file;
        _Atomic uint64_t lossy;
        struct cas_mutex mutex; /* guards result and error of the second pass */
        int result;
        struct cas_err error;
};

/* Makes room for one more in an array that doubles at powers of two. */
#define GROW(array, count)                                                                         \
        do {                                                                                       \
                if (((count) & ((count)-1)) == 0)                                                  \
                        (array) = cas_xrealloc((array),                                            \
                                               ((count) ? (count)*2 : 1) * sizeof(*(array)));      \
        } while (0)

/* ---- directories by index ---- */

static int open_below(int dirfd, const char *path, int *out_fd, struct cas_err *err)
{
        struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                               .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
        long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %.200s", path);
        *out_fd = (int)fd;
        return 0;
}

/* Opens a directory that was made here; deep ones in several steps. */
static int dir_open(const struct unpack *u, size_t dir, int *out_fd, struct cas_err *err)
{
        char path[OPEN_BELOW_BYTES_MAX];
        size_t at = sizeof(path) - 1;
        path[at] = 0;
        while (dir != 0) {
                const struct unpack_dir *d = &u->dirs[dir];
                size_t len = strlen(d->name);
                if (len + 1 > at)
                        break;
                path[--at] = '/';
                at -= len;
                memcpy(path + at, d->name, len);
                dir = d->parent;
        }
        cas_cleanup_fd int above = -1;
        if (dir != 0) {
                int r = dir_open(u, dir, &above, err);
                if (r < 0)
                        return r;
        }
        return open_below(dir != 0 ? above : u->rootfd, path[at] ? path + at : ".", out_fd, err);
}

/* ---- attributes ---- */

/* Counts what the caller's privileges do not allow; other failures are errors. */
static int allow_loss(bool *lost, const char *name, const char *what, struct cas_err *err)
{
        if (errno != EPERM && errno != EOPNOTSUPP && errno != EACCES && errno != EINVAL)
                return cas_fail_sys(err, errno, "%.200s: %s", name, what);
        *lost = true;
        return 0;
}

struct xattr_set {
        int fd;           /* of the inode itself, or of the directory that holds `name` */
        const char *leaf; /* NULL: fd is the inode */
        const char *name; /* for messages */
        bool lost;
        int result;
        struct cas_err *err;
};

static bool xattr_one(void *arg, const char *name, const void *value, size_t len)
{
        struct xattr_set *x = arg;
        char path[64 + CAS_NAME_BYTES_MAX];
        int r;
        if (x->leaf) { /* there is no lsetxattrat(2) yet */
                (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", x->fd, x->leaf);
                r = lsetxattr(path, name, value, len, 0);
        } else {
                r = fsetxattr(x->fd, name, value, len, 0);
        }
        if (r < 0)
                x->result = allow_loss(&x->lost, x->name, name, x->err);
        return x->result == 0;
}

static int set_xattrs(struct unpack *u, struct xattr_set *x, uint64_t nid)
{
        int r = cas_tree_xattrs(u->tree, nid, xattr_one, x, x->err);
        return r == 0 ? x->result : r;
}

/* Owner, mode, xattrs and time of an open file or directory. Mode after owner, since chown takes
 * set-id bits away; capabilities after both; the time last. */
static int set_attributes_fd(struct unpack *u, int fd, const char *name,
                             const struct cas_inode *inode, struct cas_err *err)
{
        bool lost = false;
        int r = 0;
        struct xattr_set x = {.fd = fd, .name = name, .err = err};
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                    {.tv_sec = inode->mtime_s, .tv_nsec = inode->mtime_ns}};
        if (fchown(fd, inode->uid, inode->gid) < 0)
                r = allow_loss(&lost, name, "owner", err);
        if (r == 0 && fchmod(fd, inode->mode & 07777) < 0)
                r = allow_loss(&lost, name, "mode", err);
        if (r == 0)
                r = set_xattrs(u, &x, inode->nid);
        if (r == 0 && futimens(fd, times) < 0)
                r = allow_loss(&lost, name, "time", err);
        if (lost || x.lost)
                atomic_fetch_add(&u->lossy, 1);
        return r;
}

/* The same of a symbolic link or a special file, by its name in a directory. */
static int set_attributes_at(struct unpack *u, int dirfd, const char *name,
                             const struct cas_inode *inode, struct cas_err *err)
{
        bool lost = false;
        int r = 0;
        struct xattr_set x = {.fd = dirfd, .leaf = name, .name = name, .err = err};
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                    {.tv_sec = inode->mtime_s, .tv_nsec = inode->mtime_ns}};
        if (fchownat(dirfd, name, inode->uid, inode->gid, AT_SYMLINK_NOFOLLOW) < 0)
                r = allow_loss(&lost, name, "owner", err);
        if (r == 0 && !S_ISLNK(inode->mode) &&
            fchmodat(dirfd, name, inode->mode & 07777, AT_SYMLINK_NOFOLLOW) < 0)
                r = allow_loss(&lost, name, "mode", err);
        if (r == 0)
                r = set_xattrs(u, &x, inode->nid);
        if (r == 0 && utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
                r = allow_loss(&lost, name, "time", err);
        if (lost || x.lost)
                atomic_fetch_add(&u->lossy, 1);
        return r;
}

/* ---- first pass ---- */

struct walk {
        struct unpack *u;
        size_t dir;
        int dirfd;
        int result;
        struct cas_err *err;
};

static int make_symlink(struct unpack *u, int dirfd, const char *name,
                        const struct cas_inode *inode, struct cas_err *err)
{
        const void *text;
        size_t len;
        int r = cas_tree_inline(u->tree, inode->nid, &text, &len, err);
        if (r < 0)
                return r;
        cas_cleanup_free char *target = cas_xstrndup(text, len);
        if (symlinkat(target, dirfd, name) < 0)
                return cas_fail_sys(err, errno, "%.200s: symbolic link", name);
        return set_attributes_at(u, dirfd, name, inode, err);
}

static int make_special(struct unpack *u, int dirfd, const char *name,
                        const struct cas_inode *inode, struct cas_err *err)
{
        if (mknodat(dirfd, name, (inode->mode & S_IFMT) | 0600, inode->rdev) < 0) {
                bool lost = false;
                int r = allow_loss(&lost, name, "make a special file", err);
                if (r == 0)
                        atomic_fetch_add(&u->lossy, 1);
                return r;
        }
        return set_attributes_at(u, dirfd, name, inode, err);
}

static void add_dir(struct unpack *u, size_t parent, const char *name, uint64_t nid)
{
        GROW(u->dirs, u->dir_count);
        u->dirs[u->dir_count++] = (struct unpack_dir){.parent = parent, .name = name, .nid = nid};
}

static int add_file(struct unpack *u, size_t dir, const char *name, const struct cas_inode *inode,
                    struct cas_err *err)
{
        struct unpack_file f = {.dir = dir, .name = name, .nid = inode->nid};
        if (inode->has_object) {
                struct cas_extent first;
                uint32_t count;
                int r = cas_object_extents(u->s, &inode->object, 0, &first, 1, &count, err);
                if (r < 0)
                        return r;
                if (count > 0) {
                        f.pack_id = first.pack_id;
                        f.block_offset = first.block_offset;
                        f.chunk_offset = first.chunk_offset;
                }
        }
        u->progress.total_bytes += inode->size_bytes;
        GROW(u->files, u->file_count);
        u->files[u->file_count++] = f;
        return 0;
}

/* Remembers inodes of several names. True when this name is a further one. */
static bool is_further_name(struct unpack *u, size_t dir, const char *name,
                            const struct cas_inode *inode)
{
        bool inserted;
        if (S_ISDIR(inode->mode) || inode->nlink < 2)
                return false;
        uint64_t *at = cas_map_put(u->inodes, &inode->nid, sizeof(inode->nid), &inserted);
        if (inserted) {
                GROW(u->firsts, u->first_count);
                u->firsts[u->first_count++] = (struct unpack_link){.dir = dir, .name = name};
                *at = u->first_count;
                return false;
        }
        GROW(u->links, u->link_count);
        u->links[u->link_count++] = (struct unpack_link){.dir = dir,
                                                         .name = name,
                                                         .first_dir = u->firsts[*at - 1].dir,
                                                         .first_name = u->firsts[*at - 1].name};
        return true;
}

static void count_inode(struct unpack *u, const struct cas_inode *inode)
{
        u->inode_count++;
        if (S_ISDIR(inode->mode) || S_ISREG(inode->mode))
                u->block_bytes += cas_align_up(inode->size_bytes, BLOCK_BYTES);
}

static int walk_inode(struct walk *w, const char *name, const struct cas_inode *inode,
                      struct cas_err *err)
{
        struct unpack *u = w->u;
        if (is_further_name(u, w->dir, name, inode))
                return 0;
        count_inode(u, inode);
        switch (inode->mode & S_IFMT) {
        case S_IFDIR:
                if (mkdirat(w->dirfd, name, 0700) < 0)
                        return cas_fail_sys(err, errno, "%.200s: directory", name);
                add_dir(u, w->dir, name, inode->nid);
                return 0;
        case S_IFREG:
                return add_file(u, w->dir, name, inode, err);
        case S_IFLNK:
                return make_symlink(u, w->dirfd, name, inode, err);
        default:
                return make_special(u, w->dirfd, name, inode, err);
        }
}

static bool walk_entry(void *arg, const char *name, size_t name_len, uint64_t nid,
                       uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        struct walk *w = arg;
        struct cas_inode inode;
        if (++w->u->entry_count > cas_tree_entry_count(w->u->tree)) {
                w->result = cas_fail(w->err, CAS_E_CORRUPT, "the tree leads into itself");
                return false;
        }
        char *copy = cas_arena_alloc(&w->u->names, name_len + 1, 1);
        if (!copy) {
                w->result = cas_fail(w->err, CAS_E_NOMEM, "no memory for names");
                return false;
        }
        memcpy(copy, name, name_len);
        copy[name_len] = 0;
        w->result = cas_tree_inode(w->u->tree, nid, &inode, w->err);
        if (w->result == 0)
                w->result = walk_inode(w, copy, &inode, w->err);
        return w->result == 0;
}

static int walk_tree(struct unpack *u, struct cas_err *err)
{
        add_dir(u, 0, "", cas_tree_root(u->tree));
        for (size_t i = 0; i < u->dir_count; i++) {
                cas_cleanup_fd int fd = -1;
                struct walk w = {.u = u, .dir = i, .err = err};
                uint64_t cookie = 0;
                int r = dir_open(u, i, &fd, err);
                w.dirfd = fd;
                if (r == 0)
                        r = cas_tree_readdir(u->tree, u->dirs[i].nid, &cookie, walk_entry, &w, err);
                if (r == 0)
                        r = w.result;
                if (r < 0)
                        return r;
        }
        return 0;
}

/* ---- second pass ---- */

static int file_order(const void *a, const void *b)
{
        const struct unpack_file *x = a, *y = b;
        if (x->pack_id != y->pack_id)
                return x->pack_id < y->pack_id ? -1 : 1;
        if (x->block_offset != y->block_offset)
                return x->block_offset < y->block_offset ? -1 : 1;
        return x->chunk_offset < y->chunk_offset ? -1 : x->chunk_offset > y->chunk_offset;
}

struct content {
        int fd;
        uint64_t offset;
        struct cas_progress_part *part;
};

static int content_write(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct content *c = arg;
        int r = cas_io_pwrite_all(cas_io_posix(), c->fd, data, len, c->offset, "file", err);
        c->offset += len;
        cas_progress_update(&c->part->progress, "unpack", c->offset, 0);
        return r;
}

static int file_write(struct unpack *u, const struct unpack_file *f, struct cas_err *err)
{
        struct cas_inode inode;
        cas_cleanup_fd int dirfd = -1;
        int r = cas_tree_inode(u->tree, f->nid, &inode, err);
        if (r == 0)
                r = dir_open(u, f->dir, &dirfd, err);
        if (r < 0)
                return r;
        cas_cleanup_fd int fd =
                openat(dirfd, f->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%.200s: create", f->name);
        struct cas_progress_part part;
        cas_progress_part_init(&part, &u->progress, inode.size_bytes);
        struct content c = {.fd = fd, .part = &part};
        if (inode.has_object) {
                r = cas_object_each(u->s, &inode.object, content_write, &c, err);
        } else if (inode.size_bytes > 0) {
                const void *data;
                size_t len;
                r = cas_tree_inline(u->tree, f->nid, &data, &len, err);
                if (r == 0)
                        r = content_write(&c, data, len, err);
        }
        if (r == 0 && c.offset != inode.size_bytes)
                r = cas_fail(err, CAS_E_CORRUPT, "%.200s: %llu bytes instead of %llu", f->name,
                             (unsigned long long)c.offset, (unsigned long long)inode.size_bytes);
        return r == 0 ? set_attributes_fd(u, fd, f->name, &inode, err) : r;
}

/* One of several equal tasks: takes batches of files until there are none. */
static void files_task(void *arg)
{
        struct unpack *u = arg;
        struct cas_err err = CAS_ERR_INIT;
        int r = 0;
        while (r == 0) {
                size_t from = atomic_fetch_add(&u->next_file, BATCH_FILES);
                if (from >= u->file_count)
                        return;
                size_t to = (size_t)cas_min_u64(from + BATCH_FILES, u->file_count);
                for (size_t i = from; r == 0 && i < to; i++)
                        r = file_write(u, &u->files[i], &err);
        }
        atomic_store(&u->next_file, u->file_count); /* the others stop as well */
        cas_mutex_lock(&u->mutex);
        if (u->result == 0) {
                u->result = r;
                u->error = err;
        }
        cas_mutex_unlock(&u->mutex);
}

static int write_files(struct unpack *u, struct cas_err *err)
{
        if (u->file_count == 0)
                return 0;
        qsort(u->files, u->file_count, sizeof(*u->files), file_order);
        unsigned threads = cas_pool_threads(u->s->pool);
        struct cas_pool *pool = cas_pool_new(threads, threads);
        struct cas_pool_group group = {0};
        for (unsigned i = 0; i < threads; i++)
                cas_pool_submit(pool, &group, files_task, u);
        cas_pool_wait(pool, &group);
        cas_pool_free(pool);
        if (u->result < 0)
                *err = u->error;
        return u->result;
}

/* ---- third pass ---- */

static int make_links(struct unpack *u, struct cas_err *err)
{
        for (size_t i = 0; i < u->link_count; i++) {
                const struct unpack_link *l = &u->links[i];
                cas_cleanup_fd int from = -1, to = -1;
                int r = dir_open(u, l->first_dir, &from, err);
                if (r == 0)
                        r = dir_open(u, l->dir, &to, err);
                if (r < 0)
                        return r;
                if (linkat(from, l->first_name, to, l->name, 0) == 0)
                        continue;
                /* The first name was lost (a device, without privileges): so is this one. */
                if (errno != ENOENT)
                        return cas_fail_sys(err, errno, "%.200s: hard link", l->name);
                atomic_fetch_add(&u->lossy, 1);
        }
        return 0;
}

static int finish_dirs(struct unpack *u, struct cas_err *err)
{
        for (size_t i = u->dir_count; i-- > 0;) {
                struct cas_inode inode;
                cas_cleanup_fd int fd = -1;
                int r = cas_tree_inode(u->tree, u->dirs[i].nid, &inode, err);
                if (r == 0)
                        r = dir_open(u, i, &fd, err);
                if (r == 0)
                        r = set_attributes_fd(u, fd, i ? u->dirs[i].name : "/", &inode, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* ---- the whole ---- */

/* Makes the target, or takes it when it is empty. */
static int target_open(const char *dir, int *out_fd, struct cas_err *err)
{
        if (mkdir(dir, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", dir);
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int listed = fd < 0 ? -1 : openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *list = listed < 0 ? NULL : fdopendir(listed);
        if (!list) {
                int saved = errno;
                if (listed >= 0)
                        (void)close(listed);
                return cas_fail_sys(err, saved, "open %s", dir);
        }
        bool empty = true;
        for (struct dirent *e; (e = readdir(list)) != NULL;)
                empty &= strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
        (void)closedir(list);
        if (!empty)
                return cas_fail(err, CAS_E_EXISTS, "%s is not empty", dir);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int tree_open(struct cas_store *s, const struct cas_image *image, struct cas_tree **out,
                     struct cas_err *err)
{
        struct cas_tree_ref ref;
        char path[4096];
        int r = cas_tree_ensure(s, image->layers, image->manifest.child_count, &ref, err);
        if (r < 0)
                return r;
        cas_tree_path(s, &ref.digest, path, sizeof(path));
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%s", path);
        return cas_tree_open_fd(fd, out, err);
}

static void unpack_release(struct unpack *u)
{
        cas_tree_close(u->tree);
        if (u->rootfd >= 0)
                (void)close(u->rootfd);
        cas_arena_release(&u->names);
        free(u->dirs);
        free(u->files);
        free(u->links);
        free(u->firsts);
        cas_map_free(u->inodes);
        cas_progress_sum_release(&u->progress);
        cas_mutex_release(&u->mutex);
}

int cas_unpack(struct cas_store *s, const struct cas_image *image, const char *dir,
               const struct cas_progress *progress, struct cas_unpack_counts *counts,
               struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *keep = NULL;
        struct unpack u = {.s = s, .rootfd = -1, .inodes = cas_map_new()};
        cas_mutex_init(&u.mutex, "unpack");
        cas_progress_sum_init(&u.progress, progress, "unpack", 0);
        int r = cas_publish_begin(s, &keep, err);
        if (r == 0)
                r = cas_image_keep(keep, image, err);
        if (r == 0)
                r = target_open(dir, &u.rootfd, err);
        if (r == 0)
                r = tree_open(s, image, &u.tree, err);
        if (r == 0)
                r = walk_tree(&u, err);
        if (r == 0)
                r = write_files(&u, err);
        if (r == 0)
                r = make_links(&u, err);
        if (r == 0)
                r = finish_dirs(&u, err);
        if (counts)
                *counts = (struct cas_unpack_counts){.lossy = atomic_load(&u.lossy),
                                                     .inodes = u.inode_count + 1,
                                                     .block_bytes = u.block_bytes + BLOCK_BYTES};
        unpack_release(&u);
        return r < 0 ? cas_err_wrap(err, "unpack to %s", dir) : 0;
}
