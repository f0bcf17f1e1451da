/* SPDX-License-Identifier: Apache-2.0 */
/* Copy-up: what is below gets its place in the upper before it is changed.
 *
 * A directory is made with everything that it has but its entries. Of a file, in
 * the trusted format, attributes alone can be copied (a metacopy); data is copied
 * without the volume's lock, while the node is marked as unsettled, into a file
 * that has no name yet, or into the metacopy, which stays one until all is there. */
#include <errno.h>
#include <fcntl.h>

#include "fusefs/treerwcore_int.h"

#define COPY_PIECE_BYTES (1 << 20)
#define COPY_HOLE_BYTES 4096

/* ---- attributes of what is below ---- */

struct lower_copy {
        struct cas_inode inode;
        struct ffs_upper_new what;
        struct cas_entry holder; /* owns xattrs */
        char *target;            /* owned */
        struct cas_err err;
        bool failed;
};

static void lower_copy_release(struct lower_copy *c)
{
        cas_entry_release(&c->holder);
        free(c->target);
}
#define cleanup_lower_copy __attribute__((cleanup(lower_copy_release)))

static bool add_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct lower_copy *c = arg;
        c->failed = cas_entry_set_xattr(&c->holder, name, value, len, &c->err) < 0;
        return !c->failed;
}

static int lower_copy_init(struct ffs_rw *rw, uint64_t vid, struct lower_copy *c)
{
        struct cas_err err = CAS_ERR_INIT;
        *c = (struct lower_copy){0};
        if (ffs_view_inode(rw->view, vid, &c->inode, &err) < 0 ||
            ffs_view_xattrs(rw->view, vid, add_xattr, c, &err) < 0)
                return ffs_rw_errno(&err);
        if (c->failed)
                return ffs_rw_errno(&c->err);
        if (S_ISLNK(c->inode.mode)) {
                const void *text;
                size_t len;
                if (ffs_view_inline(rw->view, vid, &text, &len, &err) < 0)
                        return ffs_rw_errno(&err);
                c->target = cas_xstrndup(text, len);
        }
        c->what = (struct ffs_upper_new){.mode = c->inode.mode,
                                         .uid = c->inode.uid,
                                         .gid = c->inode.gid,
                                         .rdev = c->inode.rdev,
                                         .target = c->target,
                                         .mtime_s = c->inode.mtime_s,
                                         .mtime_ns = c->inode.mtime_ns,
                                         .set_mtime = true,
                                         .has_origin = true,
                                         .origin = vid,
                                         .xattrs = c->holder.xattrs,
                                         .xattr_count = c->holder.xattr_count};
        return 0;
}

/* ---- directories ---- */

/* Copying up is no change of the parent: its times stay. */
static int keep_times(int fd, struct timespec times[2])
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return -errno;
        times[0] = st.st_atim;
        times[1] = st.st_mtim;
        return 0;
}

static struct ffs_rw_intent *intend(struct ffs_rw *rw, const struct ffs_node *node)
{
        struct ffs_rw_intent what = {.kind = FFS_RW_INTENT_COPY,
                                     .node = node->id,
                                     .parent = node->parent,
                                     .vid = node->vid};
        memcpy(what.name, node->name, sizeof(what.name));
        return ffs_rw_intent_begin(rw, &what);
}

static int make_dir(struct ffs_rw *rw, int parent_fd, const char *name, uint64_t vid)
{
        struct timespec times[2];
        cleanup_lower_copy struct lower_copy c = {0};
        int rc = lower_copy_init(rw, vid, &c);
        if (rc == 0)
                rc = keep_times(parent_fd, times);
        if (rc < 0)
                return rc;
        c.what.has_origin = false; /* what a directory is merged with says it */
        rc = ffs_upper_make(rw->upper, parent_fd, name, &c.what, NULL);
        if (rc == 0)
                (void)ffs_upper_utimens(rw->upper, parent_fd, times);
        return rc;
}

int ffs_rw_make_dir(struct ffs_rw *rw, int parent_fd, const char *name, uint64_t vid,
                    struct ffs_node *node)
{
        if (!node)
                return make_dir(rw, parent_fd, name, vid);
        struct ffs_rw_intent *in = intend(rw, node);
        int rc = make_dir(rw, parent_fd, name, vid);
        if (rc == 0) {
                node->flags |= FFS_NODE_HAS_UPPER;
                rc = ffs_nodes_update(rw->nodes, node, NULL);
        }
        ffs_rw_intent_end(rw, in);
        return rc;
}

static int copy_up_one_dir(struct ffs_rw *rw, struct ffs_node *dir)
{
        struct ffs_node parent;
        cas_cleanup_fd int parent_fd = -1;
        if (!ffs_nodes_get(rw->nodes, dir->parent, &parent))
                return -ESTALE;
        int rc = ffs_rw_dir_fd(rw, &parent, &parent_fd);
        return rc < 0 ? rc : ffs_rw_make_dir(rw, parent_fd, dir->name, dir->vid, dir);
}

int ffs_rw_copy_up_dir(struct ffs_rw *rw, struct ffs_node *dir)
{
        while (!(dir->flags & FFS_NODE_HAS_UPPER)) {
                /* The topmost that the upper has not. */
                struct ffs_node at = *dir, parent;
                while (ffs_nodes_get(rw->nodes, at.parent, &parent) &&
                       !(parent.flags & FFS_NODE_HAS_UPPER))
                        at = parent;
                int rc = copy_up_one_dir(rw, &at);
                if (rc < 0)
                        return rc;
                if (!ffs_nodes_get(rw->nodes, dir->id, dir))
                        return -ESTALE;
        }
        return 0;
}

/* ---- data ---- */

static bool is_zero(const uint8_t *p, size_t len)
{
        return len > 0 && p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static int write_all(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
        while (len > 0) {
                ssize_t n = pwrite(fd, data, len, (off_t)offset);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                data += n;
                len -= (size_t)n;
                offset += (uint64_t)n;
        }
        return 0;
}

/* Writes a piece without its runs of zero, which stay holes. */
static int write_sparse(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
        for (size_t at = 0; at < len;) {
                size_t end = at, n = 0;
                while (end < len) {
                        n = cas_min_u64(COPY_HOLE_BYTES, len - end);
                        if (is_zero(data + end, n))
                                break;
                        end += n;
                }
                int rc = end > at ? write_all(fd, data + at, end - at, offset + at) : 0;
                if (rc < 0)
                        return rc;
                at = end + n;
        }
        return 0;
}

static int copy_object(struct ffs_rw *rw, const struct cas_inode *inode, int fd)
{
        size_t piece_bytes = cas_min_u64(inode->size_bytes, COPY_PIECE_BYTES);
        cas_cleanup_free uint8_t *piece = malloc(piece_bytes + 1);
        if (!piece)
                return -ENOMEM;
        for (uint64_t at = 0; at < inode->size_bytes;) {
                size_t len = cas_min_u64(inode->size_bytes - at, piece_bytes);
                int rc = ffs_treefs_read_object(rw->treefs, &inode->object, inode->size_bytes, at,
                                                piece, len);
                if (rc == 0)
                        rc = write_sparse(fd, piece, len, at);
                if (rc < 0)
                        return rc;
                at += len;
        }
        return 0;
}

/* All of a lower file into fd, durable. May wait for the owner of the store: without lock. */
static int copy_data(struct ffs_rw *rw, uint64_t vid, const struct cas_inode *inode, int fd)
{
        uint64_t cost = ffs_upper_cost(inode->size_bytes);
        int rc = ffs_upper_reserve(rw->upper, cost);
        if (rc < 0)
                return rc;
        if (inode->has_object) {
                rc = copy_object(rw, inode, fd);
        } else {
                const void *data;
                size_t len;
                struct cas_err err = CAS_ERR_INIT;
                rc = ffs_view_inline(rw->view, vid, &data, &len, &err) < 0
                             ? ffs_rw_errno(&err)
                             : write_all(fd, data, len, 0);
        }
        if (rc == 0 && ftruncate(fd, (off_t)inode->size_bytes) < 0)
                rc = -errno;
        /* The name must never be there without the data, whatever the machine does. */
        if (rc == 0 && inode->size_bytes > 0 && fdatasync(fd) < 0)
                rc = -errno;
        if (rc < 0)
                ffs_upper_unreserve(rw->upper, cost);
        return rc;
}

/* ---- files ---- */

struct file_copy {
        struct ffs_rw *rw;
        struct ffs_node node;
        enum ffs_rw_level level;
        struct lower_copy lower;
        int fd;         /* the copy: a file without a name, the metacopy that is filled, or any */
        bool fill;      /* the second */
        bool has_place; /* the copy has its first name */
};

static bool wants_data(const struct file_copy *c)
{
        if (!S_ISREG(c->node.type) || c->level == FFS_RW_EMPTY)
                return false;
        return c->level == FFS_RW_DATA || !c->rw->trusted || !c->lower.inode.has_object;
}

/* One name of the copy: the first is where it appears, others are links to it. */
static int place_at(void *arg, int dir_fd, const char *name)
{
        struct file_copy *c = arg;
        struct ffs_rw *rw = c->rw;
        struct timespec times[2];
        int rc = keep_times(dir_fd, times);
        if (rc < 0)
                return rc;
        if (c->has_place) {
                rc = ffs_upper_link(rw->upper, c->fd, dir_fd, name);
        } else if (c->fd >= 0) {
                rc = ffs_upper_finish(rw->upper, c->fd, &c->lower.what, dir_fd, name, false);
        } else {
                rc = ffs_upper_make(rw->upper, dir_fd, name, &c->lower.what, NULL);
                if (rc == 0)
                        rc = ffs_upper_open(rw->upper, dir_fd, name, O_PATH, &c->fd);
        }
        c->has_place = c->has_place || rc == 0;
        if (rc == 0)
                (void)ffs_upper_utimens(rw->upper, dir_fd, times);
        return rc;
}

/* A lower file without a name, held open by somebody: made whole for its hidden name. */
static int place_hidden(struct file_copy *c)
{
        struct ffs_rw *rw = c->rw;
        char hidden[17];
        struct stat st;
        if (fstat(c->fd, &st) < 0)
                return -errno;
        ffs_rw_hidden_name(st.st_ino, hidden);
        int rc = ffs_upper_link_hidden(rw->upper, c->fd, hidden);
        if (rc < 0)
                return rc;
        c->node.flags = (c->node.flags & ~(uint32_t)FFS_NODE_UNLINKED) | FFS_NODE_HIDDEN;
        c->node.parent = 0;
        c->node.name[0] = '\0';
        return 0;
}

static int place_linked(struct file_copy *c)
{
        int rc = ffs_rw_links_each(c->rw, c->node.vid, place_at, c);
        return rc == 0 && !c->has_place ? -ESTALE : rc;
}

static int place_named(struct file_copy *c)
{
        struct ffs_rw *rw = c->rw;
        struct ffs_node parent;
        cas_cleanup_fd int dir_fd = -1;
        if (!ffs_nodes_get(rw->nodes, c->node.parent, &parent))
                return -ESTALE;
        int rc = ffs_rw_require_dir(rw, &parent, &dir_fd);
        return rc < 0 ? rc : place_at(c, dir_fd, c->node.name);
}

/* The record follows when the copy has its names. */
static int place(struct file_copy *c)
{
        struct ffs_rw *rw = c->rw;
        struct stat st;
        struct ffs_rw_intent *in = intend(rw, &c->node);
        int rc = c->node.flags & FFS_NODE_UNLINKED ? place_hidden(c)
                 : c->lower.inode.nlink > 1        ? place_linked(c)
                                                   : place_named(c);
        if (rc == 0 && fstat(c->fd, &st) < 0)
                rc = -errno;
        if (rc == 0) {
                c->node.flags |= FFS_NODE_HAS_UPPER;
                c->node.upper_ino = st.st_ino;
                rc = ffs_nodes_update(rw->nodes, &c->node, NULL);
        }
        ffs_rw_intent_end(rw, in);
        return rc;
}

int ffs_rw_copy_recover(struct ffs_rw *rw, const struct ffs_rw_intent *in)
{
        struct ffs_node node, dir;
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int dir_fd = -1;
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        if (ffs_view_inode(rw->view, in->vid, &inode, &err) < 0)
                return ffs_rw_errno(&err);
        int rc = inode.nlink > 1 && !S_ISDIR(inode.mode) ? ffs_rw_links_finish(rw, in->vid) : 0;
        if (rc < 0 || !ffs_nodes_get(rw->nodes, in->node, &node) || node.flags & FFS_NODE_HAS_UPPER)
                return rc;
        if (node.flags & FFS_NODE_UNLINKED)
                return 0;
        rc = ffs_rw_dir(rw, in->parent, &dir);
        if (rc == 0)
                rc = ffs_rw_dir_fd(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = ffs_rw_find(rw, &dir, dir_fd, in->name, &f);
        if (rc < 0 || f.upper.kind != FFS_UPPER_PRESENT)
                return rc;
        node.flags |= FFS_NODE_HAS_UPPER;
        node.upper_ino = S_ISDIR(node.type) ? 0 : f.upper.st.st_ino;
        return ffs_nodes_update(rw->nodes, &node, NULL);
}

/* Everything that needs the volume's lock after the data is there. */
static int finish(struct file_copy *c)
{
        return c->fill ? ffs_upper_clear_metacopy(c->rw->upper, c->fd) : place(c);
}

/* The file that the data goes to, when any does. */
static int open_copy(struct file_copy *c)
{
        struct ffs_upperlayer *u = c->rw->upper;
        if (c->node.flags & FFS_NODE_UNLINKED)
                return ffs_upper_tmpfile(u, ffs_upperlayer_root_fd(u), &c->lower.what, &c->fd);
        if (c->fill)
                return ffs_rw_open_upper(c->rw, &c->node, O_RDWR, &c->fd);
        return wants_data(c) ? ffs_upper_begin(u, &c->fd) : 0;
}

/* With the lock: finds out what to do, and does what needs no data. FFS_RW_AGAIN: the rest is for
 * copy_without_lock(), or need->level is SETTLED. */
static int begin(struct file_copy *c, struct ffs_rw_need *need)
{
        struct ffs_rw *rw = c->rw;
        int rc = ffs_rw_node(rw, c->node.id, &c->node);
        if (rc == 0)
                rc = ffs_rw_require(rw, &c->node, c->level, need);
        if (rc != FFS_RW_AGAIN || need->level == FFS_RW_SETTLED)
                return rc;
        if (S_ISDIR(c->node.type))
                return ffs_rw_copy_up_dir(rw, &c->node);
        rc = lower_copy_init(rw, c->node.vid, &c->lower);
        if (rc < 0)
                return rc;
        c->fill = c->node.flags & FFS_NODE_HAS_UPPER;
        if (!c->fill && S_ISREG(c->node.type) && !wants_data(c)) {
                c->lower.what.metacopy = c->level == FFS_RW_ATTR;
                c->lower.what.size_bytes = c->lower.inode.size_bytes;
        }
        if (wants_data(c) && !ffs_rw_copying_begin(rw, c->node.id)) {
                need->level = FFS_RW_SETTLED; /* too many at once */
                return FFS_RW_AGAIN;
        }
        rc = open_copy(c);
        if (wants_data(c)) {
                if (rc < 0)
                        ffs_rw_copying_end(rw, c->node.id);
                return rc < 0 ? rc : FFS_RW_AGAIN;
        }
        if (rc < 0)
                return rc;
        if (c->fill && ftruncate(c->fd, 0) < 0)
                return -errno;
        return finish(c);
}

/* Data for what has its attributes already: writing takes capabilities away, and the times. */
static int copy_into(struct file_copy *c)
{
        static const char name[] = "security.capability";
        struct ffs_rw *rw = c->rw;
        struct timespec times[2];
        uint8_t caps[64];
        int rc = keep_times(c->fd, times);
        ssize_t len = ffs_upper_getxattr(rw->upper, c->fd, name, caps, sizeof(caps));
        if (rc == 0)
                rc = copy_data(rw, c->node.vid, &c->lower.inode, c->fd);
        if (rc == 0 && len > 0)
                rc = ffs_upper_setxattr(rw->upper, c->fd, name, caps, (size_t)len, 0);
        return rc < 0 ? rc : ffs_upper_utimens(rw->upper, c->fd, times);
}

static int copy_without_lock(struct file_copy *c)
{
        struct ffs_rw *rw = c->rw;
        bool into = c->fill || c->node.flags & FFS_NODE_UNLINKED;
        ffs_treefs_blocks(rw->treefs);
        int rc = into ? copy_into(c) : copy_data(rw, c->node.vid, &c->lower.inode, c->fd);
        ffs_treefs_goes_on(rw->treefs);
        cas_rwlock_write(&rw->lock);
        if (rc == 0)
                rc = finish(c);
        ffs_rw_copying_end(rw, c->node.id);
        cas_rwlock_unlock(&rw->lock);
        return rc;
}

int ffs_rw_copy_up(struct ffs_rw *rw, uint64_t node, enum ffs_rw_level level)
{
        for (;;) {
                struct ffs_rw_need need = {0};
                struct file_copy c = {.rw = rw, .node = {.id = node}, .level = level, .fd = -1};
                cas_rwlock_write(&rw->lock);
                int rc = begin(&c, &need);
                cas_rwlock_unlock(&rw->lock);
                bool wait = rc == FFS_RW_AGAIN && need.level == FFS_RW_SETTLED;
                if (rc == FFS_RW_AGAIN && !wait)
                        rc = copy_without_lock(&c);
                lower_copy_release(&c.lower);
                if (c.fd >= 0)
                        (void)close(c.fd);
                if (!wait)
                        return rc;
                ffs_rw_copying_wait(rw, node);
        }
}

int ffs_rw_supersede(struct ffs_rw *rw, struct ffs_node *node, struct ffs_rw_need *need)
{
        struct ffs_node made = *node;
        if (!(node->flags & FFS_NODE_DATA_LOWER))
                return 0;
        made.flags &= ~(uint32_t)FFS_NODE_DATA_LOWER;
        made.vid = FFS_VID_NONE;
        if (ffs_treefs_pages(rw->treefs) == FFS_PAGES_INODE) {
                *node = made;
                return ffs_nodes_update(rw->nodes, node, NULL);
        }
        int rc = ffs_nodes_supersede(rw->nodes, node->id, &made, &made);
        if (rc < 0)
                return rc;
        need->superseded = node->id;
        *node = made;
        return 0;
}
