/* SPDX-License-Identifier: Apache-2.0 */
/* Making: files, directories, links of both kinds, devices, and files without a
 * name. */
#include <errno.h>
#include <fcntl.h>
#include <sys/sysmacros.h>

#include "cas/buf.h"
#include "fusefs/treerwcore_int.h"

/* ---- owner and mode of what is new ---- */

struct make {
        fuse_req_t req;
        uint64_t parent; /* node */
        const char *name;
        struct ffs_upper_new what;
        bool tmpfile;
        struct fuse_file_info *fi; /* opened as well */
        struct ffs_rw_intent *intent;
        struct fuse_entry_param e; /* out */
        struct ffs_node node;      /* out */
};

/* The kernel says who asks; the directory may give its group, and a default ACL in place of the
 * umask. */
static int set_owner(struct ffs_rw *rw, struct make *m, int dir_fd)
{
        const struct fuse_ctx *ctx = fuse_req_ctx(m->req);
        const struct ffs_idmap *map = &rw->volume->spec.map;
        struct ffs_upper_entry e;
        int rc = ffs_upper_look_fd(rw->upper, dir_fd, &e);
        if (rc < 0)
                return rc;
        if (!ffs_idmap_uid_to_image(map, ctx->uid, &m->what.uid) ||
            !ffs_idmap_gid_to_image(map, ctx->gid, &m->what.gid))
                rc = -EOVERFLOW;
        if (e.st.st_mode & S_ISGID) {
                m->what.gid = e.st.st_gid;
                if (S_ISDIR(m->what.mode))
                        m->what.mode |= S_ISGID;
        }
        ffs_upper_entry_release(&e);
        if (rc == 0 && !S_ISLNK(m->what.mode) &&
            ffs_upper_getxattr(rw->upper, dir_fd, "system.posix_acl_default", NULL, 0) <= 0)
                m->what.mode &= ~(ctx->umask & 0777);
        return rc;
}

/* ---- names ---- */

/* The entry of what is there now; it is as it was made, or (a request that came again) as it is. */
static int answer_found(struct ffs_rw *rw, struct make *m, const struct ffs_node *dir, int dir_fd)
{
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        int rc = ffs_rw_find(rw, dir, dir_fd, m->name, &f);
        if (rc == 0 && !f.exists)
                rc = -ESTALE;
        if (rc == 0)
                rc = ffs_rw_entry(rw, &f, &m->e);
        m->node = f.node;
        return rc;
}

static int make_new(struct ffs_rw *rw, struct make *m, const struct ffs_node *dir, int dir_fd)
{
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        struct ffs_rw_intent intent = {.kind = FFS_RW_INTENT_MAKE, .parent = dir->id};
        int rc = ffs_rw_find(rw, dir, dir_fd, m->name, &f);
        if (rc == 0 && f.exists)
                rc = -EEXIST;
        if (rc == 0)
                rc = set_owner(rw, m, dir_fd);
        if (rc < 0)
                return rc;
        /* What lies below must not show through. */
        m->what.opaque = S_ISDIR(m->what.mode) &&
                         (f.below != FFS_VID_NONE || f.upper.kind == FFS_UPPER_WHITEOUT);
        memcpy(intent.name, f.node.name, sizeof(intent.name));
        m->intent = ffs_rw_intent_begin(rw, &intent);
        rc = ffs_upper_make(rw->upper, dir_fd, m->name, &m->what, NULL);
        ffs_rw_listings_drop(rw->listings, dir->id);
        return rc;
}

static int make_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need CAS_UNUSED)
{
        struct make *m = arg;
        struct ffs_node dir;
        cas_cleanup_fd int dir_fd = -1;
        int before = 0;
        bool done = ffs_rw_intent_resent(rw, FFS_RW_INTENT_MAKE, &before);
        int rc = ffs_rw_dir(rw, m->parent, &dir);
        if (rc == 0)
                rc = ffs_rw_require_dir(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = done ? before : make_new(rw, m, &dir, dir_fd);
        if (rc == 0)
                rc = answer_found(rw, m, &dir, dir_fd);
        ffs_rw_intent_done(m->intent, rc);
        return rc;
}

static int make_tmpfile(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need CAS_UNUSED)
{
        struct make *m = arg;
        struct ffs_node dir;
        struct stat st;
        char hidden[17];
        cas_cleanup_fd int dir_fd = -1, fd = -1;
        int rc = ffs_rw_dir(rw, m->parent, &dir);
        if (rc == 0)
                rc = ffs_rw_require_dir(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = set_owner(rw, m, dir_fd);
        if (rc == 0)
                rc = ffs_upper_tmpfile(rw->upper, dir_fd, &m->what, &fd);
        if (rc < 0)
                return rc;
        if (fstat(fd, &st) < 0)
                return -errno;
        m->node = (struct ffs_node){.volume = rw->volume->number,
                                    .flags = FFS_NODE_HAS_UPPER | FFS_NODE_HIDDEN,
                                    .vid = FFS_VID_NONE,
                                    .upper_ino = st.st_ino,
                                    .ino = ffs_rw_upper_ino(st.st_ino),
                                    .type = S_IFREG};
        rc = ffs_nodes_intern(rw->nodes, &m->node, 1, &m->node);
        if (rc < 0)
                return rc;
        ffs_rw_hidden_name(st.st_ino, hidden);
        rc = ffs_upper_link_hidden(rw->upper, fd, hidden);
        if (rc == 0)
                rc = ffs_rw_attr(rw, &m->node, &m->e.attr);
        if (rc < 0) {
                ffs_rw_unlook(rw, m->node.id);
                return rc;
        }
        m->e.ino = m->node.id;
        m->e.entry_timeout = m->e.attr_timeout = FFS_TREEFS_FOREVER_S;
        return 0;
}

/* Does it and answers, opening it too where that was asked for. */
static void make(struct ffs_rw *rw, struct make *m)
{
        int rc = ffs_rw_change(rw, m->tmpfile ? make_tmpfile : make_locked, m);
        if (rc == 0 && m->fi) {
                rc = ffs_rw_open_new(rw, &m->node, m->fi);
                if (rc < 0)
                        ffs_rw_unlook(rw, m->node.id);
        }
        if (rc < 0) {
                (void)fuse_reply_err(m->req, -rc);
        } else if (!m->fi) {
                ffs_rw_reply_entry(rw, m->req, 0, &m->e);
        } else if (fuse_reply_create(m->req, &m->e, m->fi) < 0) {
                ffs_rw_close_new(rw, &m->node, m->fi);
                ffs_rw_unlook(rw, m->node.id);
        }
        ffs_rw_intent_end(rw, m->intent);
}

/* ---- requests ---- */

void ffs_rw_mknod(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name,
                  mode_t mode, dev_t rdev)
{
        struct make m = {.req = req,
                         .parent = parent,
                         .name = name,
                         .what = {.mode = mode & S_IFMT ? mode : mode | S_IFREG, .rdev = rdev}};
        /* That is a whiteout, which nobody may make in this way. */
        if (S_ISCHR(mode) && rdev == makedev(0, 0))
                (void)fuse_reply_err(req, EPERM);
        else
                make(v->rw, &m);
}

void ffs_rw_mkdir(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name,
                  mode_t mode)
{
        struct make m = {.req = req,
                         .parent = parent,
                         .name = name,
                         .what = {.mode = (mode & ~(mode_t)S_IFMT) | S_IFDIR}};
        make(v->rw, &m);
}

void ffs_rw_symlink(struct ffs_volume *v, fuse_req_t req, const char *target, uint64_t parent,
                    const char *name)
{
        struct make m = {.req = req,
                         .parent = parent,
                         .name = name,
                         .what = {.mode = S_IFLNK | 0777, .target = target}};
        make(v->rw, &m);
}

void ffs_rw_create(struct ffs_volume *v, fuse_req_t req, uint64_t parent, const char *name,
                   mode_t mode, struct fuse_file_info *fi)
{
        struct make m = {.req = req,
                         .parent = parent,
                         .name = name,
                         .what = {.mode = (mode & ~(mode_t)S_IFMT) | S_IFREG},
                         .fi = fi};
        make(v->rw, &m);
}

void ffs_rw_tmpfile(struct ffs_volume *v, fuse_req_t req, uint64_t parent, mode_t mode,
                    struct fuse_file_info *fi)
{
        struct make m = {.req = req,
                         .parent = parent,
                         .name = "",
                         .what = {.mode = (mode & ~(mode_t)S_IFMT) | S_IFREG},
                         .tmpfile = true,
                         .fi = fi};
        make(v->rw, &m);
}

/* ---- hard links ---- */

struct linking {
        struct make m;
        uint64_t node;
};

int ffs_rw_fix_redirect(struct ffs_rw *rw, const struct ffs_node *node, int fd)
{
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
        struct ffs_upper_entry e;
        int rc = ffs_upper_look_fd(rw->upper, fd, &e);
        bool needed = rc == 0 && (S_ISDIR(node->type) ? node->vid != FFS_VID_NONE : e.metacopy) &&
                      !(e.redirect && e.redirect[0] == '/');
        ffs_upper_entry_release(&e);
        if (!needed)
                return rc;
        rc = ffs_rw_lower_path(rw, node, &path);
        return rc < 0 ? rc : ffs_upper_set_redirect(rw->upper, fd, cas_buf_str(&path));
}

static int link_new(struct ffs_rw *rw, struct linking *l, const struct ffs_node *node,
                    const struct ffs_node *dir, int dir_fd)
{
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        cas_cleanup_fd int fd = -1;
        struct ffs_rw_intent intent = {.kind = FFS_RW_INTENT_MAKE, .parent = dir->id};
        int rc = ffs_rw_find(rw, dir, dir_fd, l->m.name, &f);
        if (rc == 0 && f.exists)
                rc = -EEXIST;
        if (rc == 0)
                rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc == 0 && node->flags & FFS_NODE_DATA_LOWER)
                rc = ffs_rw_fix_redirect(rw, node, fd);
        if (rc < 0)
                return rc;
        memcpy(intent.name, f.node.name, sizeof(intent.name));
        l->m.intent = ffs_rw_intent_begin(rw, &intent);
        rc = ffs_upper_link(rw->upper, fd, dir_fd, l->m.name);
        ffs_rw_listings_drop(rw->listings, dir->id);
        return rc;
}

static int link_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct linking *l = arg;
        struct ffs_node node, dir;
        cas_cleanup_fd int dir_fd = -1;
        int before = 0;
        bool done = ffs_rw_intent_resent(rw, FFS_RW_INTENT_MAKE, &before);
        int rc = ffs_rw_node(rw, l->node, &node);
        if (rc == 0 && S_ISDIR(node.type))
                rc = -EPERM;
        if (rc == 0)
                rc = ffs_rw_require(rw, &node, FFS_RW_ATTR, need);
        if (rc == 0)
                rc = ffs_rw_dir(rw, l->m.parent, &dir);
        if (rc == 0)
                rc = ffs_rw_require_dir(rw, &dir, &dir_fd);
        if (rc == 0)
                rc = done ? before : link_new(rw, l, &node, &dir, dir_fd);
        if (rc == 0)
                rc = answer_found(rw, &l->m, &dir, dir_fd);
        ffs_rw_intent_done(l->m.intent, rc);
        return rc;
}

void ffs_rw_link(struct ffs_volume *v, fuse_req_t req, uint64_t node, uint64_t parent,
                 const char *name)
{
        struct ffs_rw *rw = v->rw;
        struct linking l = {.m = {.req = req, .parent = parent, .name = name}, .node = node};
        int rc = ffs_rw_change(rw, link_locked, &l);
        ffs_rw_reply_entry(rw, req, rc, &l.m.e);
        ffs_rw_intent_end(rw, l.m.intent);
}
