/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/treerwcore_int.h"

#include <errno.h>
#include <stdio.h>

#include "cas/buf.h"
#include "cas/log.h"
#include "cas/map.h"
#include "fusefs/ffs_err.h"

#define DIR_FDS_MAX 24
#define FILE_FDS_MAX 24
/* Of upper inodes, so that they are never the number of an inode below (ffs_view_ino). */
#define UPPER_INO_BIT (UINT64_C(1) << 62)

int ffs_rw_errno(const struct cas_err *err)
{
        return -ffs_errno_of(err->code);
}

/* ---- volumes ---- */

struct root_search {
        uint64_t id;
        size_t nodes;
};

static bool note_root(void *arg, const struct ffs_node *node, uint64_t lookups CAS_UNUSED)
{
        struct root_search *s = arg;
        if (node->flags & FFS_NODE_IS_ROOT)
                s->id = node->id;
        return s->id == 0;
}

/* The record of the root: there already where this process is a successor. */
static int make_root(struct ffs_rw *rw)
{
        struct root_search search = {0};
        ffs_nodes_each(rw->nodes, rw->volume->number, note_root, &search);
        rw->root = search.id;
        if (search.id)
                return 0;
        uint64_t vid = ffs_view_root(rw->view);
        struct ffs_node root = {.volume = rw->volume->number,
                                .flags = FFS_NODE_HAS_UPPER | FFS_NODE_IS_ROOT,
                                .vid = vid,
                                .ino = ffs_view_ino(rw->view, vid),
                                .type = S_IFDIR};
        int rc = ffs_nodes_intern(rw->nodes, &root, 0, &root);
        rw->root = root.id;
        return rc;
}

static bool has_nodes(struct ffs_nodes *n, uint32_t volume)
{
        struct root_search search = {0};
        ffs_nodes_each(n, volume, note_root, &search);
        return search.id != 0;
}

static void init_lock(struct ffs_rw *rw)
{
        cas_rwlock_init(&rw->lock, "treerw");
        cas_mutex_init(&rw->settling, "treerw.settling");
        cas_mutex_init(&rw->hiding, "treerw.hiding");
        cas_cond_init(&rw->settled);
}

int ffs_rw_open(struct ffs_treefs *t, struct ffs_volume *v, int dir_fd, struct ffs_rw **out,
                struct cas_err *err)
{
        cas_cleanup_fd int fd = dir_fd;
        struct ffs_nodes *nodes = ffs_treefs_nodes(t);
        struct ffs_upperlayer_config config = {.dir_fd = dir_fd,
                                               .format = v->spec.format,
                                               .owners_in_xattrs = v->spec.owners_in_xattrs,
                                               .keep_hidden = has_nodes(nodes, v->number),
                                               .size_limit_bytes = v->spec.size_limit_bytes};
        struct ffs_upperlayer *upper = NULL;
        int rc = ffs_upperlayer_open(&config, &upper);
        if (rc < 0)
                return cas_fail_sys(err, -rc, "upper directory of %s", v->spec.id);
        struct ffs_rw *rw = cas_xcalloc(1, sizeof(*rw));
        rw->treefs = t;
        rw->volume = v;
        rw->view = v->view;
        rw->nodes = nodes;
        rw->upper = upper;
        rw->dir_fd = cas_steal_fd(&fd);
        rw->trusted = v->spec.format == FFS_UPPER_TRUSTED;
        /* What the kernel writes past us cannot be counted. */
        rw->passthrough =
                ffs_treefs_pages(t) == FFS_PAGES_PASSTHROUGH && v->spec.size_limit_bytes == 0;
        rw->dirs = ffs_rw_fdcache_new(DIR_FDS_MAX);
        rw->files = ffs_rw_fdcache_new(FILE_FDS_MAX);
        rw->listings = ffs_rw_listings_new();
        init_lock(rw);
        rc = make_root(rw);
        if (rc == 0)
                rc = ffs_rw_intent_recover(rw);
        if (rc == 0)
                rc = ffs_rw_links_from_index(rw);
        if (rc < 0) {
                ffs_rw_close(rw);
                return cas_fail_sys(err, -rc, "upper directory of %s", v->spec.id);
        }
        *out = rw;
        return 0;
}

static bool drop_hidden(void *arg, const struct ffs_node *node, uint64_t lookups CAS_UNUSED)
{
        struct ffs_rw *rw = arg;
        char hidden[17];
        if (node->flags & FFS_NODE_HIDDEN && !atomic_load(&rw->is_given_up)) {
                ffs_rw_hidden_name(node->upper_ino, hidden);
                (void)ffs_upper_drop_hidden(rw->upper, hidden, false);
        }
        return true;
}

void ffs_rw_give_up(struct ffs_rw *rw)
{
        ffs_nodes_each(rw->nodes, rw->volume->number, drop_hidden, rw);
        atomic_store(&rw->is_given_up, true);
}

void ffs_rw_close(struct ffs_rw *rw)
{
        if (!rw)
                return;
        ffs_nodes_each(rw->nodes, rw->volume->number, drop_hidden, rw);
        ffs_nodes_drop_volume(rw->nodes, rw->volume->number);
        ffs_rw_moved_forget(rw);
        ffs_rw_fdcache_free(rw->dirs);
        ffs_rw_fdcache_free(rw->files);
        ffs_rw_listings_free(rw->listings);
        ffs_upperlayer_close(rw->upper);
        (void)close(rw->dir_fd);
        cas_rwlock_release(&rw->lock);
        (void)pthread_cond_destroy(&rw->settled);
        cas_mutex_release(&rw->settling);
        cas_mutex_release(&rw->hiding);
        free(rw);
}

uint64_t ffs_rw_root(const struct ffs_rw *rw)
{
        return rw->root;
}

bool ffs_rw_is_idle(struct ffs_rw *rw)
{
        return !ffs_nodes_any_known(rw->nodes, rw->volume->number, &rw->known_at);
}

void ffs_rw_root_attr(struct ffs_rw *rw, struct stat *out)
{
        struct ffs_node root;
        cas_rwlock_read(&rw->lock);
        if (ffs_rw_node(rw, rw->root, &root) < 0 || ffs_rw_attr(rw, &root, out) < 0)
                *out = (struct stat){.st_mode = S_IFDIR | 0555, .st_nlink = 1};
        cas_rwlock_unlock(&rw->lock);
}

/* ---- nodes ---- */

static bool is_hidden(struct ffs_rw *rw, uint64_t upper_ino)
{
        struct ffs_node node;
        return ffs_nodes_find_upper(rw->nodes, rw->volume->number, upper_ino, &node) &&
               node.flags & FFS_NODE_HIDDEN;
}

static void node_gone(void *arg, const struct ffs_node *node)
{
        struct ffs_rw *rw = arg;
        ffs_rw_fdcache_drop(S_ISDIR(node->type) ? rw->dirs : rw->files, node->id);
        if (S_ISDIR(node->type))
                ffs_rw_listings_drop(rw->listings, node->id);
        if (!(node->flags & FFS_NODE_HIDDEN))
                return;
        /* Another record may stand for the inode by now, under the same hidden name. */
        cas_mutex_lock(&rw->hiding);
        if (!is_hidden(rw, node->upper_ino))
                (void)drop_hidden(rw, node, 0);
        cas_mutex_unlock(&rw->hiding);
}

void ffs_rw_forget(struct ffs_treefs *t, uint64_t node, uint64_t count)
{
        uint32_t number;
        if (!ffs_nodes_volume(ffs_treefs_nodes(t), node, &number))
                return;
        struct ffs_volume *v = ffs_treefs_volume_get(t, number);
        if (!v)
                return;
        ffs_nodes_forget(v->rw->nodes, node, count, node_gone, v->rw);
        ffs_treefs_volume_put(t, v);
}

void ffs_rw_unlook(struct ffs_rw *rw, uint64_t node)
{
        ffs_nodes_forget(rw->nodes, node, 1, node_gone, rw);
}

int ffs_rw_node(struct ffs_rw *rw, uint64_t id, struct ffs_node *out)
{
        if (!ffs_nodes_get(rw->nodes, id, out) || out->volume != rw->volume->number)
                return -ESTALE;
        while (out->flags & FFS_NODE_SUPERSEDED)
                if (!ffs_nodes_get(rw->nodes, out->successor, out))
                        return -ESTALE;
        return 0;
}

int ffs_rw_dir(struct ffs_rw *rw, uint64_t id, struct ffs_node *out)
{
        int rc = ffs_rw_node(rw, id, out);
        if (rc < 0)
                return rc;
        if (!S_ISDIR(out->type))
                return -ENOTDIR;
        return out->flags & FFS_NODE_ORPHAN ? -ENOENT : 0;
}

void ffs_rw_hidden_name(uint64_t upper_ino, char *out)
{
        (void)snprintf(out, 17, "%016llx", (unsigned long long)upper_ino);
}

/* Names from the directory up to the root or to the first that stop() wants, put in front of each
 * other. */
static int climb(struct ffs_rw *rw, const struct ffs_node *from, struct cas_buf *out,
                 int (*stop)(struct ffs_rw *rw, const struct ffs_node *node, struct cas_buf *front))
{
        struct ffs_node at = *from;
        cas_cleanup_buf struct cas_buf reversed = CAS_BUF_INIT, front = CAS_BUF_INIT;
        for (;;) {
                int rc = at.flags & FFS_NODE_IS_ROOT ? 1 : stop ? stop(rw, &at, &front) : 0;
                if (rc < 0)
                        return rc;
                if (rc > 0)
                        break;
                size_t len = strlen(at.name);
                for (size_t i = len; i-- > 0;)
                        cas_buf_append_byte(&reversed, (uint8_t)at.name[i]);
                cas_buf_append_byte(&reversed, '/');
                if (!at.parent || !ffs_nodes_get(rw->nodes, at.parent, &at))
                        return -ESTALE;
        }
        cas_buf_append(out, front.data, front.len_bytes);
        for (size_t i = reversed.len_bytes; i-- > 0;)
                cas_buf_append_byte(out, reversed.data[i]);
        return 0;
}

int ffs_rw_dir_path(struct ffs_rw *rw, const struct ffs_node *dir, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
        int rc = climb(rw, dir, &path, NULL);
        if (rc == 0 && path.len_bytes > 0)
                cas_buf_append(out, path.data + 1, path.len_bytes - 1);
        return rc;
}

/* Where the upper says by a redirect where something was, nothing above it matters. */
static int stop_at_redirect(struct ffs_rw *rw, const struct ffs_node *node, struct cas_buf *front)
{
        cas_cleanup_fd int fd = -1;
        struct ffs_upper_entry e = {0};
        if (!(node->flags & FFS_NODE_HAS_UPPER))
                return 0;
        int rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc == 0)
                rc = ffs_upper_look_fd(rw->upper, fd, &e);
        if (rc < 0)
                return rc;
        if (e.redirect && e.redirect[0] == '/') {
                cas_buf_append_str(front, e.redirect);
                rc = 1;
        } else if (e.redirect) {
                /* One name, beside what the directory above it was. */
                struct ffs_node parent;
                rc = node->parent && ffs_nodes_get(rw->nodes, node->parent, &parent)
                             ? climb(rw, &parent, front, stop_at_redirect)
                             : -ESTALE;
                if (rc == 0) {
                        cas_buf_append_byte(front, '/');
                        cas_buf_append_str(front, e.redirect);
                        rc = 1;
                }
        }
        ffs_upper_entry_release(&e);
        return rc;
}

static bool first_path(void *arg, const char *path)
{
        cas_buf_append_byte(arg, '/');
        cas_buf_append_str(arg, path);
        return false;
}

int ffs_rw_lower_path(struct ffs_rw *rw, const struct ffs_node *node, struct cas_buf *out)
{
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        if (S_ISDIR(node->type))
                return climb(rw, node, out, stop_at_redirect);
        /* A file of several names may be known by one that is made, or none; any lower name will
         * do. */
        if (ffs_view_inode(rw->view, node->vid, &inode, &err) < 0 ||
            (inode.nlink > 1 && ffs_view_links(rw->view, node->vid, first_path, out, &err) < 0))
                return ffs_rw_errno(&err);
        return out->len_bytes > 0 ? 0 : climb(rw, node, out, stop_at_redirect);
}

int ffs_rw_dir_fd(struct ffs_rw *rw, const struct ffs_node *dir, int *out_fd)
{
        *out_fd = -1;
        if (!(dir->flags & FFS_NODE_HAS_UPPER))
                return 0;
        *out_fd = ffs_rw_fdcache_get(rw->dirs, dir->id);
        if (*out_fd >= 0)
                return 0;
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
        int rc = ffs_rw_dir_path(rw, dir, &path);
        if (rc == 0)
                rc = ffs_upperlayer_open_dir(rw->upper, cas_buf_str(&path), out_fd);
        if (rc == 0)
                ffs_rw_fdcache_put(rw->dirs, dir->id, *out_fd);
        return rc;
}

int ffs_rw_open_upper(struct ffs_rw *rw, const struct ffs_node *node, int flags, int *out_fd)
{
        char hidden[17];
        struct ffs_node parent;
        cas_cleanup_fd int dir_fd = -1;
        if (node->flags & FFS_NODE_ORPHAN || !(node->flags & FFS_NODE_HAS_UPPER))
                return -ESTALE;
        if (node->flags & FFS_NODE_HIDDEN) {
                ffs_rw_hidden_name(node->upper_ino, hidden);
                return ffs_upper_open_hidden(rw->upper, hidden, flags, out_fd);
        }
        if (S_ISDIR(node->type) && flags == O_PATH)
                return ffs_rw_dir_fd(rw, node, out_fd);
        if (!ffs_nodes_get(rw->nodes, node->parent, &parent))
                return -ESTALE;
        int rc = ffs_rw_dir_fd(rw, &parent, &dir_fd);
        if (rc < 0)
                return rc;
        return dir_fd < 0 ? -ESTALE : ffs_upper_open(rw->upper, dir_fd, node->name, flags, out_fd);
}

int ffs_rw_open_data(struct ffs_rw *rw, const struct ffs_node *node, int *out_fd)
{
        *out_fd = ffs_rw_fdcache_get(rw->files, node->id);
        if (*out_fd >= 0)
                return 0;
        int rc = ffs_rw_open_upper(rw, node, O_RDWR, out_fd);
        if (rc == 0)
                ffs_rw_fdcache_put(rw->files, node->id, *out_fd);
        return rc;
}

/* ---- attributes ---- */

int ffs_rw_attr_of_entry(struct ffs_rw *rw, const struct ffs_node *node,
                         const struct ffs_upper_entry *e, struct stat *out)
{
        const struct ffs_idmap *map = &rw->volume->spec.map;
        *out = e->st;
        if (e->metacopy) {
                /* What a hostile upper says of the size must not decide how much is shown. */
                struct cas_inode inode;
                struct cas_err err = CAS_ERR_INIT;
                if (ffs_view_inode(rw->view, node->vid, &inode, &err) < 0)
                        return ffs_rw_errno(&err);
                out->st_size = (off_t)inode.size_bytes;
                out->st_blocks = (blkcnt_t)((inode.size_bytes + 511) / 512);
        }
        if (S_ISDIR(out->st_mode) && node->vid != FFS_VID_NONE)
                out->st_nlink = 1; /* as overlayfs shows directories of several layers */
        if (node->flags & FFS_NODE_HIDDEN && out->st_nlink > 0)
                out->st_nlink--;
        out->st_uid = ffs_idmap_uid_to_host(map, out->st_uid);
        out->st_gid = ffs_idmap_gid_to_host(map, out->st_gid);
        out->st_ino = node->ino;
        return (out->st_mode & S_IFMT) == node->type ? 0 : -EIO;
}

int ffs_rw_attr(struct ffs_rw *rw, const struct ffs_node *node, struct stat *out)
{
        if (node->flags & FFS_NODE_ORPHAN)
                return ffs_nodes_attr(rw->nodes, node->id, out) ? 0 : -ESTALE;
        if (!(node->flags & FFS_NODE_HAS_UPPER)) {
                struct cas_inode inode;
                struct cas_err err = CAS_ERR_INIT;
                if (ffs_view_inode(rw->view, node->vid, &inode, &err) < 0)
                        return ffs_rw_errno(&err);
                ffs_treefs_attr(rw->volume, node->vid, &inode, out);
                out->st_ino = node->ino;
                if (node->flags & FFS_NODE_UNLINKED)
                        out->st_nlink = 0;
                return 0;
        }
        cas_cleanup_fd int fd = -1;
        struct ffs_upper_entry e = {0};
        int rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc == 0)
                rc = ffs_upper_look_fd(rw->upper, fd, &e);
        if (rc == 0)
                rc = ffs_rw_attr_of_entry(rw, node, &e, out);
        ffs_upper_entry_release(&e);
        return rc;
}

uint64_t ffs_rw_upper_ino(uint64_t ino)
{
        return (ino & (UPPER_INO_BIT - 1)) | UPPER_INO_BIT;
}

/* ---- changes ---- */

static bool is_copying_locked(const struct ffs_rw *rw, uint64_t node)
{
        for (size_t i = 0; i < rw->copying_count; i++)
                if (rw->copying[i] == node)
                        return true;
        return false;
}

bool ffs_rw_is_copying(struct ffs_rw *rw, uint64_t node)
{
        cas_mutex_lock(&rw->settling);
        bool copying = is_copying_locked(rw, node);
        cas_mutex_unlock(&rw->settling);
        return copying;
}

bool ffs_rw_copying_begin(struct ffs_rw *rw, uint64_t node)
{
        cas_mutex_lock(&rw->settling);
        bool room = rw->copying_count < FFS_RW_COPYING_MAX;
        if (room)
                rw->copying[rw->copying_count++] = node;
        cas_mutex_unlock(&rw->settling);
        return room;
}

void ffs_rw_copying_end(struct ffs_rw *rw, uint64_t node)
{
        cas_mutex_lock(&rw->settling);
        for (size_t i = 0; i < rw->copying_count; i++)
                if (rw->copying[i] == node) {
                        rw->copying[i] = rw->copying[--rw->copying_count];
                        break;
                }
        (void)pthread_cond_broadcast(&rw->settled);
        cas_mutex_unlock(&rw->settling);
}

void ffs_rw_copying_wait(struct ffs_rw *rw, uint64_t node)
{
        ffs_treefs_blocks(rw->treefs);
        cas_mutex_lock(&rw->settling);
        while (is_copying_locked(rw, node) || rw->copying_count == FFS_RW_COPYING_MAX)
                cas_mutex_wait(&rw->settling, &rw->settled);
        cas_mutex_unlock(&rw->settling);
        ffs_treefs_goes_on(rw->treefs);
}

/* The kernel takes no locks for attributes alone, and waits for nobody. */
void ffs_rw_forget_attr(struct ffs_rw *rw, uint64_t node)
{
        (void)fuse_lowlevel_notify_inval_inode(ffs_treefs_session(rw->treefs), node, -1, 0);
}

int ffs_rw_change(struct ffs_rw *rw,
                  int (*fn)(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need), void *arg)
{
        for (;;) {
                struct ffs_rw_need need = {0};
                cas_rwlock_write(&rw->lock);
                int rc = fn(rw, arg, &need);
                cas_rwlock_unlock(&rw->lock);
                if (need.superseded)
                        ffs_rw_forget_attr(rw, need.superseded);
                if (rc != FFS_RW_AGAIN)
                        return rc;
                if (need.level == FFS_RW_SETTLED)
                        ffs_rw_copying_wait(rw, need.node);
                else
                        rc = ffs_rw_copy_up(rw, need.node, need.level);
                if (rc < 0 && rc != FFS_RW_AGAIN)
                        return rc;
        }
}

int ffs_rw_require_dir(struct ffs_rw *rw, struct ffs_node *dir, int *out_fd)
{
        int rc = dir->flags & FFS_NODE_HAS_UPPER ? 0 : ffs_rw_copy_up_dir(rw, dir);
        return rc < 0 ? rc : ffs_rw_dir_fd(rw, dir, out_fd);
}

int ffs_rw_require(struct ffs_rw *rw, struct ffs_node *node, enum ffs_rw_level level,
                   struct ffs_rw_need *need)
{
        *need = (struct ffs_rw_need){.node = node->id, .level = level};
        if (ffs_rw_is_copying(rw, node->id)) {
                need->level = FFS_RW_SETTLED;
                return FFS_RW_AGAIN;
        }
        if (node->flags & FFS_NODE_ORPHAN)
                return -ESTALE;
        if (level == FFS_RW_SETTLED)
                return 0;
        if (!(node->flags & FFS_NODE_HAS_UPPER))
                return FFS_RW_AGAIN;
        if (level == FFS_RW_ATTR || !(node->flags & FFS_NODE_DATA_LOWER))
                return 0;
        cas_cleanup_fd int fd = -1;
        struct ffs_upper_entry e = {0};
        int rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc == 0)
                rc = ffs_upper_look_fd(rw->upper, fd, &e);
        if (rc == 0 && e.metacopy)
                rc = FFS_RW_AGAIN;
        ffs_upper_entry_release(&e);
        return rc;
}
