/* SPDX-License-Identifier: Apache-2.0 */
/* Looking up: what the upper says of a name, and what is below where it says
 * nothing. */
#include <errno.h>

#include "fusefs/treerwcore_int.h"

void ffs_rw_found_release(struct ffs_rw_found *f)
{
        ffs_upper_entry_release(&f->upper);
}

/* A name of a lower directory; FFS_VID_NONE where it has none. */
static int look_below(struct ffs_rw *rw, uint64_t dir, const char *name, uint64_t *vid)
{
        struct cas_err err = CAS_ERR_INIT;
        *vid = FFS_VID_NONE;
        if (dir == FFS_VID_NONE ||
            ffs_view_lookup(rw->view, dir, name, strlen(name), vid, &err) == 0)
                return 0;
        *vid = FFS_VID_NONE;
        return err.code == CAS_E_NOTFOUND ? 0 : ffs_rw_errno(&err);
}

/* What an upper inode stands upon: the target of its redirect, or what has its name. */
static int follow_redirect(struct ffs_rw *rw, const struct ffs_node *dir, const char *redirect,
                           uint64_t *vid)
{
        struct cas_err err = CAS_ERR_INIT;
        if (redirect[0] != '/')
                return look_below(rw, dir->vid, redirect, vid);
        if (ffs_view_path(rw->view, redirect, vid, &err) == 0)
                return 0;
        *vid = FFS_VID_NONE;
        return err.code == CAS_E_NOTFOUND ? 0 : ffs_rw_errno(&err);
}

static uint64_t ino_of_upper(struct ffs_rw *rw, const struct ffs_upper_entry *e, uint64_t vid)
{
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        if (vid == FFS_VID_NONE && e->has_origin)
                vid = e->origin;
        /* What an upper says of its origin is checked: a number of nothing below is not shown. */
        if (vid == FFS_VID_NONE || ffs_view_inode(rw->view, vid, &inode, &err) < 0)
                return ffs_rw_upper_ino(e->st.st_ino);
        return ffs_view_ino(rw->view, vid);
}

static int find_in_upper(struct ffs_rw *rw, const struct ffs_node *dir, struct ffs_rw_found *f)
{
        const struct ffs_upper_entry *e = &f->upper;
        struct ffs_node *node = &f->node;
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t vid = FFS_VID_NONE;
        bool is_dir = S_ISDIR(e->st.st_mode);
        if ((is_dir && !e->opaque) || e->metacopy) {
                int rc = 0;
                vid = f->below;
                if (e->redirect)
                        rc = follow_redirect(rw, dir, e->redirect, &vid);
                if (rc < 0)
                        return rc;
        }
        if (vid != FFS_VID_NONE) {
                if (ffs_view_inode(rw->view, vid, &inode, &err) < 0)
                        return ffs_rw_errno(&err);
                if (is_dir && !S_ISDIR(inode.mode))
                        vid = FFS_VID_NONE;
        }
        if (e->metacopy && (vid == FFS_VID_NONE || !S_ISREG(inode.mode)))
                return -EIO; /* its data is not there */
        node->vid = vid;
        node->flags = FFS_NODE_HAS_UPPER | (e->metacopy ? FFS_NODE_DATA_LOWER : 0);
        node->upper_ino = is_dir ? 0 : e->st.st_ino;
        node->type = e->st.st_mode & S_IFMT;
        node->ino = ino_of_upper(rw, e, vid);
        f->exists = true;
        return 0;
}

static int find_below(struct ffs_rw *rw, struct ffs_rw_found *f)
{
        struct ffs_node *node = &f->node;
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_view_inode(rw->view, f->below, &inode, &err) < 0)
                return ffs_rw_errno(&err);
        node->vid = f->below;
        node->type = inode.mode & S_IFMT;
        node->flags = S_ISREG(inode.mode) ? FFS_NODE_DATA_LOWER : 0;
        node->ino = ffs_view_ino(rw->view, f->below);
        f->exists = true;
        return 0;
}

int ffs_rw_find(struct ffs_rw *rw, const struct ffs_node *dir, int dir_fd, const char *name,
                struct ffs_rw_found *f)
{
        *f = (struct ffs_rw_found){.below = FFS_VID_NONE};
        size_t len = strlen(name);
        if (len >= sizeof(f->node.name))
                return -ENAMETOOLONG;
        f->node = (struct ffs_node){
                .volume = rw->volume->number, .parent = dir->id, .vid = FFS_VID_NONE};
        memcpy(f->node.name, name, len + 1);
        int rc = dir_fd < 0 ? 0 : ffs_upper_look(rw->upper, dir_fd, name, &f->upper);
        if (rc == 0)
                rc = look_below(rw, dir->vid, name, &f->below);
        if (rc == 0 && f->upper.kind == FFS_UPPER_PRESENT)
                rc = find_in_upper(rw, dir, f);
        else if (rc == 0 && f->upper.kind == FFS_UPPER_ABSENT && f->below != FFS_VID_NONE)
                rc = find_below(rw, f);
        return rc;
}

int ffs_rw_intern(struct ffs_rw *rw, struct ffs_rw_found *f, uint64_t lookups)
{
        return ffs_nodes_intern(rw->nodes, &f->node, lookups, &f->node);
}

int ffs_rw_pin(struct ffs_rw *rw, struct ffs_rw_found *f, uint64_t *pin)
{
        bool again = *pin != 0;
        int rc = ffs_rw_intern(rw, f, again ? 0 : 1);
        if (rc == 0 && !again)
                *pin = f->node.id;
        return rc;
}

double ffs_rw_timeout(const struct ffs_rw *rw, const struct ffs_node *node, const struct stat *st)
{
        /* Passthrough gives a file another node when it is copied up. Where only one of several
         * names was opened for that, the others must be asked for again. */
        if (ffs_treefs_pages(rw->treefs) == FFS_PAGES_PASSTHROUGH && st->st_nlink > 1 &&
            node->flags & FFS_NODE_DATA_LOWER)
                return 0;
        return FFS_TREEFS_FOREVER_S;
}

/* Interns what was found once more and fills the entry. */
int ffs_rw_entry(struct ffs_rw *rw, struct ffs_rw_found *f, struct fuse_entry_param *out)
{
        int rc = ffs_rw_intern(rw, f, 1);
        if (rc < 0)
                return rc;
        if (f->upper.kind == FFS_UPPER_PRESENT)
                rc = ffs_rw_attr_of_entry(rw, &f->node, &f->upper, &out->attr);
        else
                rc = ffs_rw_attr(rw, &f->node, &out->attr);
        if (rc < 0) {
                ffs_rw_unlook(rw, f->node.id);
                return rc;
        }
        out->ino = f->node.id;
        out->generation = 0;
        out->entry_timeout = out->attr_timeout = ffs_rw_timeout(rw, &f->node, &out->attr);
        return 0;
}

void ffs_rw_reply_entry(struct ffs_rw *rw, fuse_req_t req, int rc, const struct fuse_entry_param *e)
{
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else if (fuse_reply_entry(req, e) < 0 && e->ino)
                ffs_rw_unlook(rw, e->ino);
}

static int lookup(struct ffs_rw *rw, uint64_t parent, const char *name, struct fuse_entry_param *e)
{
        struct ffs_node dir;
        cas_cleanup_fd int dir_fd = -1;
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        int rc = ffs_rw_dir(rw, parent, &dir);
        if (rc == 0)
                rc = ffs_rw_dir_fd(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = ffs_rw_find(rw, &dir, dir_fd, name, &f);
        if (rc < 0)
                return rc;
        if (!f.exists) {
                /* Absent, and to be remembered: whatever makes it comes through the kernel. */
                *e = (struct fuse_entry_param){.entry_timeout = FFS_TREEFS_FOREVER_S};
                return 0;
        }
        return ffs_rw_entry(rw, &f, e);
}

void ffs_rw_lookup(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name)
{
        struct ffs_rw *rw = v->rw;
        struct fuse_entry_param e = {0};
        cas_rwlock_read(&rw->lock);
        int rc = lookup(rw, parent, name, &e);
        cas_rwlock_unlock(&rw->lock);
        ffs_rw_reply_entry(rw, req, rc, &e);
}
