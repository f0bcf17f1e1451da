/* SPDX-License-Identifier: Apache-2.0 */
/* Removing names. A file that somebody may still use lives on under a name in
 * work/; of anything else that the kernel still knows, the record keeps the
 * attributes. Records change before the disk does: one that a dead process had
 * already let go of is found anew by its name. */
#include <errno.h>
#include <fcntl.h>

#include "fusefs/treerwcore_int.h"

static bool is_at(const struct ffs_node *node, uint64_t dir, const char *name)
{
        return node->parent == dir && strcmp(node->name, name) == 0;
}

static int to_orphan(struct ffs_rw *rw, struct ffs_node *node, struct stat *st)
{
        st->st_nlink = 0;
        node->flags = FFS_NODE_ORPHAN;
        node->upper_ino = 0;
        node->vid = FFS_VID_NONE;
        node->parent = 0;
        node->name[0] = '\0';
        return ffs_nodes_update(rw->nodes, node, st);
}

static int to_hidden(struct ffs_rw *rw, struct ffs_node *node)
{
        char hidden[17];
        cas_cleanup_fd int fd = -1;
        int rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc < 0)
                return rc;
        ffs_rw_hidden_name(node->upper_ino, hidden);
        cas_mutex_lock(&rw->hiding);
        rc = ffs_upper_link_hidden(rw->upper, fd, hidden);
        /* There already: of an earlier record. */
        if (rc == 0 || rc == -EEXIST) {
                node->flags |= FFS_NODE_HIDDEN;
                node->parent = 0;
                node->name[0] = '\0';
                rc = ffs_nodes_update(rw->nodes, node, NULL);
        }
        cas_mutex_unlock(&rw->hiding);
        return rc;
}

int ffs_rw_detach(struct ffs_rw *rw, uint64_t dir, const char *name, struct ffs_node *node)
{
        struct stat st;
        if (!S_ISDIR(node->type) && !(node->flags & FFS_NODE_HAS_UPPER)) {
                node->flags |= FFS_NODE_UNLINKED;
                node->parent = 0;
                node->name[0] = '\0';
                return ffs_nodes_update(rw->nodes, node, NULL);
        }
        if (!is_at(node, dir, name))
                return 0; /* it has another name */
        int rc = ffs_rw_attr(rw, node, &st);
        if (rc < 0)
                return rc;
        if (S_ISDIR(node->type))
                return to_orphan(rw, node, &st);
        bool used = S_ISREG(node->type) && (ffs_treefs_pages(rw->treefs) == FFS_PAGES_INODE ||
                                            ffs_nodes_opens(rw->nodes, node->id, 0) > 0);
        if (used || st.st_nlink > 1)
                return to_hidden(rw, node);
        return to_orphan(rw, node, &st);
}

/* ---- unlink and rmdir ---- */

struct removal {
        uint64_t parent;
        const char *name;
        bool is_dir;
        struct ffs_rw_intent *intent;
        uint64_t pin; /* node that was looked up for this */
};

/* One step on the disk; the record is put back where that fails. */
static int remove_name(struct ffs_rw *rw, struct removal *r, const struct ffs_node *dir,
                       const struct ffs_rw_found *f, int dir_fd)
{
        struct ffs_node before = f->node, node = f->node;
        struct ffs_rw_intent intent = {.kind = FFS_RW_INTENT_REMOVE, .parent = dir->id};
        int rc = ffs_rw_detach(rw, dir->id, r->name, &node);
        if (rc < 0)
                return rc;
        (void)strncat(intent.name, r->name, sizeof(intent.name) - 1);
        r->intent = ffs_rw_intent_begin(rw, &intent);
        if (f->below != FFS_VID_NONE)
                rc = ffs_upper_whiteout(rw->upper, dir_fd, r->name);
        else
                rc = ffs_upper_unlink(rw->upper, dir_fd, r->name, r->is_dir);
        if (rc < 0 && !(node.flags & FFS_NODE_HIDDEN))
                (void)ffs_nodes_update(rw->nodes, &before, NULL);
        ffs_rw_listings_drop(rw->listings, dir->id);
        if (rc == 0 && node.flags & FFS_NODE_ORPHAN)
                ffs_rw_fdcache_drop(r->is_dir ? rw->dirs : rw->files, node.id);
        if (rc == 0 && r->is_dir) {
                ffs_rw_listings_drop(rw->listings, node.id);
                rw->moves++;
        }
        ffs_rw_intent_done(r->intent, rc);
        return rc;
}

int ffs_rw_require_removable(struct ffs_rw *rw, struct ffs_node *node, struct ffs_rw_need *need)
{
        bool empty;
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        if (S_ISDIR(node->type)) {
                int rc = ffs_rw_dir_is_empty(rw, node, &empty);
                return rc < 0 ? rc : empty ? 0 : -ENOTEMPTY;
        }
        if (node->flags & FFS_NODE_HAS_UPPER)
                return ffs_rw_require(rw, node, FFS_RW_SETTLED, need);
        if (ffs_view_inode(rw->view, node->vid, &inode, &err) < 0)
                return ffs_rw_errno(&err);
        /* Its other names must know that there is one less: only the upper can count. */
        return ffs_rw_require(rw, node, inode.nlink > 1 ? FFS_RW_ATTR : FFS_RW_SETTLED, need);
}

static int remove_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct removal *r = arg;
        struct ffs_node dir;
        cas_cleanup_fd int dir_fd = -1;
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        int rc = 0;
        if (ffs_rw_intent_resent(rw, FFS_RW_INTENT_REMOVE, &rc))
                return rc;
        rc = ffs_rw_dir(rw, r->parent, &dir);
        if (rc == 0)
                rc = ffs_rw_dir_fd(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = ffs_rw_find(rw, &dir, dir_fd, r->name, &f);
        if (rc == 0 && !f.exists)
                rc = -ENOENT;
        if (rc == 0 && S_ISDIR(f.node.type) != r->is_dir)
                rc = r->is_dir ? -ENOTDIR : -EISDIR;
        if (rc == 0)
                rc = ffs_rw_pin(rw, &f, &r->pin);
        if (rc == 0)
                rc = ffs_rw_require_removable(rw, &f.node, need);
        if (rc == 0 && dir_fd < 0)
                rc = ffs_rw_require_dir(rw, &dir, &dir_fd);
        return rc < 0 ? rc : remove_name(rw, r, &dir, &f, dir_fd);
}

static void answer_removal(struct ffs_rw *rw, fuse_req_t req, struct removal *r)
{
        int rc = ffs_rw_change(rw, remove_locked, r);
        if (r->pin)
                ffs_rw_unlook(rw, r->pin);
        (void)fuse_reply_err(req, -rc);
        ffs_rw_intent_end(rw, r->intent);
}

void ffs_rw_unlink(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name)
{
        struct removal r = {.parent = parent, .name = name};
        answer_removal(v->rw, req, &r);
}

void ffs_rw_rmdir(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name)
{
        struct removal r = {.parent = parent, .name = name, .is_dir = true};
        answer_removal(v->rw, req, &r);
}
