/* SPDX-License-Identifier: Apache-2.0 */
/* Renaming. What lies below is copied up first; a directory that stands on one
 * below takes a redirect along, which says where that is, and one that stands on
 * nothing must not be merged with what it comes to lie over. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "fusefs/treerwcore_int.h"

struct side {
        struct ffs_node dir;
        int dir_fd;
        const char *name;
        struct ffs_rw_found f;
        uint64_t pin;
};
struct renaming {
        uint64_t from_parent, to_parent;
        const char *from_name, *to_name;
        unsigned flags;
        struct ffs_rw_intent *intent;
        uint64_t from_pin, to_pin; /* nodes looked up for this */
};

/* ---- the table ---- */

static int relocate(struct ffs_rw *rw, uint64_t id, uint64_t dir, const char *name, uint64_t to_dir,
                    const char *to_name)
{
        struct ffs_node node;
        /* A file of several names may have been found by another one. */
        if (!ffs_nodes_get(rw->nodes, id, &node) || node.parent != dir ||
            strcmp(node.name, name) != 0)
                return 0;
        node.parent = to_dir;
        (void)snprintf(node.name, sizeof(node.name), "%s", to_name);
        return ffs_nodes_update(rw->nodes, &node, NULL);
}

int ffs_rw_rename_finish(struct ffs_rw *rw, const struct ffs_rw_intent *in)
{
        int rc = relocate(rw, in->node, in->parent, in->name, in->to_parent, in->to_name);
        if (rc == 0 && in->target)
                rc = relocate(rw, in->target, in->to_parent, in->to_name, in->parent, in->name);
        return rc;
}

/* ---- one side ---- */

static void side_release(struct side *s)
{
        ffs_rw_found_release(&s->f);
        if (s->dir_fd >= 0)
                (void)close(s->dir_fd);
}
#define cleanup_side __attribute__((cleanup(side_release)))

static int side_find(struct ffs_rw *rw, struct side *s, uint64_t parent, uint64_t *pin)
{
        int rc = ffs_rw_dir(rw, parent, &s->dir);
        if (rc == 0)
                rc = ffs_rw_dir_fd(rw, &s->dir, &s->dir_fd);
        if (rc == 0)
                rc = ffs_rw_find(rw, &s->dir, s->dir_fd, s->name, &s->f);
        if (rc == 0 && s->f.exists)
                rc = ffs_rw_pin(rw, &s->f, pin);
        return rc;
}

static int side_require_dir(struct ffs_rw *rw, struct side *s)
{
        return s->dir_fd >= 0 ? 0 : ffs_rw_require_dir(rw, &s->dir, &s->dir_fd);
}

/* What moves is in the upper, and may move. */
static int require_movable(struct ffs_rw *rw, struct side *s, struct ffs_rw_need *need)
{
        if (S_ISDIR(s->f.node.type) && s->f.node.vid != FFS_VID_NONE && !rw->trusted)
                return -EXDEV; /* no redirects in the user format */
        return ffs_rw_require(rw, &s->f.node, FFS_RW_ATTR, need);
}

/* What moves says what it stands on, wherever it comes to. */
static int prepare_to_move(struct ffs_rw *rw, const struct side *s, const struct side *other,
                           uint64_t *upper_ino)
{
        const struct ffs_node *node = &s->f.node;
        struct stat st;
        cas_cleanup_fd int fd = -1;
        int rc = ffs_upper_open(rw->upper, s->dir_fd, s->name, O_PATH, &fd);
        if (rc < 0)
                return rc;
        if (fstat(fd, &st) < 0)
                return -errno;
        *upper_ino = st.st_ino;
        if (S_ISDIR(node->type) && node->vid == FFS_VID_NONE)
                return other->f.below == FFS_VID_NONE ? 0 : ffs_upper_set_opaque(rw->upper, fd);
        return ffs_rw_fix_redirect(rw, node, fd);
}

/* ---- the rename ---- */

static int check(const struct renaming *r, const struct side *from, const struct side *to)
{
        bool exchange = r->flags & RENAME_EXCHANGE;
        if (r->flags & ~(unsigned)(RENAME_EXCHANGE | RENAME_NOREPLACE))
                return -EINVAL;
        if (!from->f.exists || (exchange && !to->f.exists))
                return -ENOENT;
        if (r->flags & RENAME_NOREPLACE && to->f.exists)
                return -EEXIST;
        if (exchange || !to->f.exists)
                return 0;
        bool is_dir = S_ISDIR(from->f.node.type);
        if (is_dir != S_ISDIR(to->f.node.type))
                return is_dir ? -ENOTDIR : -EISDIR;
        return 0;
}

static int require_all(struct ffs_rw *rw, const struct renaming *r, struct side *from,
                       struct side *to, struct ffs_rw_need *need)
{
        int rc = require_movable(rw, from, need);
        if (rc == 0 && r->flags & RENAME_EXCHANGE)
                rc = require_movable(rw, to, need);
        else if (rc == 0 && to->f.exists)
                rc = ffs_rw_require_removable(rw, &to->f.node, need);
        if (rc == 0)
                rc = side_require_dir(rw, from);
        return rc < 0 ? rc : side_require_dir(rw, to);
}

static void after(struct ffs_rw *rw, const struct side *from, const struct side *to)
{
        ffs_rw_listings_drop(rw->listings, from->dir.id);
        ffs_rw_listings_drop(rw->listings, to->dir.id);
        if (S_ISDIR(from->f.node.type) || (to->f.exists && S_ISDIR(to->f.node.type)))
                rw->moves++;
}

static int rename_now(struct ffs_rw *rw, struct renaming *r, struct side *from, struct side *to)
{
        bool exchange = r->flags & RENAME_EXCHANGE;
        struct ffs_rw_intent intent = {.kind = FFS_RW_INTENT_RENAME,
                                       .node = from->f.node.id,
                                       .target = exchange ? to->f.node.id : 0,
                                       .parent = from->dir.id,
                                       .to_parent = to->dir.id};
        struct ffs_node target = to->f.node;
        uint64_t other_ino;
        int rc = prepare_to_move(rw, from, to, &intent.upper_ino);
        if (rc == 0 && exchange)
                rc = prepare_to_move(rw, to, from, &other_ino);
        else if (rc == 0 && to->f.exists)
                rc = ffs_rw_detach(rw, to->dir.id, to->name, &target);
        if (rc < 0)
                return rc;
        (void)snprintf(intent.name, sizeof(intent.name), "%s", from->name);
        (void)snprintf(intent.to_name, sizeof(intent.to_name), "%s", to->name);
        r->intent = ffs_rw_intent_begin(rw, &intent);
        rc = ffs_upper_rename(rw->upper, from->dir_fd, from->name, to->dir_fd, to->name,
                              r->flags & RENAME_EXCHANGE,
                              !exchange && from->f.below != FFS_VID_NONE);
        if (rc == 0)
                rc = ffs_rw_rename_finish(rw, &intent);
        else if (!exchange && to->f.exists && !(target.flags & FFS_NODE_HIDDEN))
                (void)ffs_nodes_update(rw->nodes, &to->f.node, NULL);
        if (rc == 0 && target.flags & FFS_NODE_ORPHAN)
                ffs_rw_fdcache_drop(S_ISDIR(target.type) ? rw->dirs : rw->files, target.id);
        after(rw, from, to);
        ffs_rw_intent_done(r->intent, rc);
        return rc;
}

static int rename_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct renaming *r = arg;
        cleanup_side struct side from = {.dir_fd = -1, .name = r->from_name};
        cleanup_side struct side to = {.dir_fd = -1, .name = r->to_name};
        int rc = 0;
        if (ffs_rw_intent_resent(rw, FFS_RW_INTENT_RENAME, &rc))
                return rc;
        rc = side_find(rw, &from, r->from_parent, &r->from_pin);
        if (rc == 0)
                rc = side_find(rw, &to, r->to_parent, &r->to_pin);
        if (rc == 0)
                rc = check(r, &from, &to);
        if (rc == 0 && to.f.exists && from.f.node.id == to.f.node.id)
                return 0; /* two names of one file */
        if (rc == 0)
                rc = require_all(rw, r, &from, &to, need);
        return rc < 0 ? rc : rename_now(rw, r, &from, &to);
}

void ffs_rw_rename(struct ffs_volume *v, fuse_req_t req, uint64_t from, const char *from_name,
                   uint64_t to, const char *to_name, unsigned flags)
{
        struct ffs_rw *rw = v->rw;
        struct renaming r = {.from_parent = from,
                             .to_parent = to,
                             .from_name = from_name,
                             .to_name = to_name,
                             .flags = flags};
        int rc = ffs_rw_change(rw, rename_locked, &r);
        if (r.from_pin)
                ffs_rw_unlook(rw, r.from_pin);
        if (r.to_pin)
                ffs_rw_unlook(rw, r.to_pin);
        (void)fuse_reply_err(req, -rc);
        ffs_rw_intent_end(rw, r.intent);
}
