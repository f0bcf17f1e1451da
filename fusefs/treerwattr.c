/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes: stat, chmod, chown, times, sizes, extended attributes, links' text. */
#include <errno.h>
#include <fcntl.h>
#include <sys/xattr.h>

#include "cas/buf.h"
#include "fusefs/treerwcore_int.h"

#define XATTR_BYTES_MAX 65536

/* ---- stat ---- */

static double attr_timeout(struct ffs_rw *rw, uint64_t id, const struct ffs_node *node,
                           const struct stat *st)
{
        /* Who still has the data from before the copy-up is told of what happens to the file. */
        return node->id != id ? 0 : ffs_rw_timeout(rw, node, st);
}

static int getattr(struct ffs_rw *rw, uint64_t id, struct stat *st, double *timeout)
{
        struct ffs_node node;
        int rc = ffs_rw_node(rw, id, &node);
        if (rc == 0)
                rc = ffs_rw_attr(rw, &node, st);
        if (rc == 0)
                *timeout = attr_timeout(rw, id, &node, st);
        return rc;
}

void ffs_rw_getattr(struct ffs_volume *v, fuse_req_t req, uint64_t node,
                    struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        struct stat st;
        double timeout = 0;
        cas_rwlock_read(&rw->lock);
        int rc = getattr(rw, node, &st, &timeout);
        cas_rwlock_unlock(&rw->lock);
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else
                (void)fuse_reply_attr(req, &st, timeout);
}

/* ---- setattr ---- */

struct setting {
        uint64_t id;
        const struct stat *attr;
        int to_set;
        bool by_path; /* no open file: may be asked for again under another node */
        struct stat st;
        double timeout;
};

static int to_image_ids(struct ffs_rw *rw, const struct setting *s, uint32_t *uid, uint32_t *gid)
{
        const struct ffs_idmap *map = &rw->volume->spec.map;
        *uid = *gid = UINT32_MAX;
        if (s->to_set & FUSE_SET_ATTR_UID && !ffs_idmap_uid_to_image(map, s->attr->st_uid, uid))
                return -EINVAL;
        if (s->to_set & FUSE_SET_ATTR_GID && !ffs_idmap_gid_to_image(map, s->attr->st_gid, gid))
                return -EINVAL;
        return 0;
}

static void times_of(const struct setting *s, struct timespec times[2])
{
        static const struct timespec now = {.tv_nsec = UTIME_NOW}, omit = {.tv_nsec = UTIME_OMIT};
        times[0] = s->to_set & FUSE_SET_ATTR_ATIME_NOW ? now
                   : s->to_set & FUSE_SET_ATTR_ATIME   ? s->attr->st_atim
                                                       : omit;
        times[1] = s->to_set & FUSE_SET_ATTR_MTIME_NOW ? now
                   : s->to_set & FUSE_SET_ATTR_MTIME   ? s->attr->st_mtim
                                                       : omit;
}

/* What a change of owner or content takes away with it. */
static int kill_privileges(struct ffs_rw *rw, int fd)
{
        struct ffs_upper_entry e;
        int rc = ffs_upper_look_fd(rw->upper, fd, &e);
        if (rc < 0)
                return rc;
        mode_t mode = e.st.st_mode & 07777, kept = mode & ~(mode_t)S_ISUID;
        if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
                kept &= ~(mode_t)S_ISGID;
        if (S_ISREG(e.st.st_mode) && kept != mode)
                rc = ffs_upper_chmod(rw->upper, fd, kept);
        ffs_upper_entry_release(&e);
        return rc;
}

int ffs_rw_kill_privileges(struct ffs_rw *rw, int fd)
{
        int rc = kill_privileges(rw, fd);
        if (rc < 0)
                return rc;
        rc = ffs_upper_removexattr(rw->upper, fd, "security.capability");
        return rc == -ENODATA || rc == -EOPNOTSUPP || rc == -EPERM ? 0 : rc;
}

int ffs_rw_truncate(struct ffs_rw *rw, const struct ffs_node *node, uint64_t size)
{
        cas_cleanup_fd int fd = -1;
        struct stat st;
        int rc = ffs_rw_open_data(rw, node, &fd);
        if (rc < 0)
                return rc;
        if (fstat(fd, &st) < 0)
                return -errno;
        uint64_t before = ffs_upper_cost((uint64_t)st.st_size), after = ffs_upper_cost(size);
        if (after > before)
                rc = ffs_upper_reserve(rw->upper, after - before);
        if (rc < 0)
                return rc;
        if (ftruncate(fd, (off_t)size) < 0) {
                rc = -errno;
                ffs_upper_unreserve(rw->upper, after > before ? after - before : 0);
                return rc;
        }
        if (before > after)
                ffs_upper_unreserve(rw->upper, before - after);
        /* A size that stays the same changes the times all the same. */
        static const struct timespec now[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
        return (uint64_t)st.st_size == size ? ffs_upper_utimens(rw->upper, fd, now) : 0;
}

/* Of what has nothing on the disk any more. */
static int set_kept(struct ffs_rw *rw, struct ffs_node *node, struct setting *s)
{
        struct timespec now, times[2];
        struct stat st;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        if (!ffs_nodes_attr(rw->nodes, node->id, &st))
                return -ESTALE;
        if (s->to_set & FUSE_SET_ATTR_MODE)
                st.st_mode = (st.st_mode & S_IFMT) | (s->attr->st_mode & 07777);
        if (s->to_set & FUSE_SET_ATTR_UID)
                st.st_uid = s->attr->st_uid;
        if (s->to_set & FUSE_SET_ATTR_GID)
                st.st_gid = s->attr->st_gid;
        times_of(s, times);
        if (times[0].tv_nsec != UTIME_OMIT)
                st.st_atim = times[0].tv_nsec == UTIME_NOW ? now : times[0];
        if (times[1].tv_nsec != UTIME_OMIT)
                st.st_mtim = times[1].tv_nsec == UTIME_NOW ? now : times[1];
        st.st_ctim = now;
        return ffs_nodes_update(rw->nodes, node, &st);
}

/* Nothing but what a change of owner always does: chown(2) to nobody, and what the kernel asks for
 * before it writes past us. */
static bool kills_privileges(const struct setting *s)
{
        static const int changes = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID |
                                   FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME |
                                   FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
        return s->to_set & FUSE_SET_ATTR_KILL_SUID || !(s->to_set & changes);
}

static int set_in_upper(struct ffs_rw *rw, const struct ffs_node *node, const struct setting *s)
{
        cas_cleanup_fd int fd = -1;
        uint32_t uid, gid;
        struct timespec times[2];
        int rc = to_image_ids(rw, s, &uid, &gid);
        if (rc == 0)
                rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc == 0 && (uid != UINT32_MAX || gid != UINT32_MAX))
                rc = ffs_upper_chown(rw->upper, fd, uid, gid);
        if (rc == 0 && s->to_set & FUSE_SET_ATTR_SIZE)
                rc = ffs_rw_truncate(rw, node, (uint64_t)s->attr->st_size);
        if (rc == 0 && kills_privileges(s))
                rc = ffs_rw_kill_privileges(rw, fd);
        if (rc == 0 && s->to_set & FUSE_SET_ATTR_MODE)
                rc = ffs_upper_chmod(rw->upper, fd, s->attr->st_mode & 07777);
        times_of(s, times);
        if (rc == 0 && (times[0].tv_nsec != UTIME_OMIT || times[1].tv_nsec != UTIME_OMIT))
                rc = ffs_upper_utimens(rw->upper, fd, times);
        return rc;
}

static int set_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct setting *s = arg;
        struct ffs_node node;
        bool sized = s->to_set & FUSE_SET_ATTR_SIZE;
        int rc = ffs_rw_node(rw, s->id, &node);
        if (rc < 0)
                return rc;
        if (node.flags & FFS_NODE_ORPHAN) {
                rc = sized ? -ESTALE : set_kept(rw, &node, s);
        } else {
                rc = ffs_rw_require(rw, &node,
                                    !sized                  ? FFS_RW_ATTR
                                    : s->attr->st_size == 0 ? FFS_RW_EMPTY
                                                            : FFS_RW_DATA,
                                    need);
                if (rc == 0 && sized && node.flags & FFS_NODE_DATA_LOWER) {
                        rc = ffs_rw_supersede(rw, &node, need);
                        /* The kernel looks the path up again and finds the new node. */
                        if (rc == 0 && s->by_path && node.id != s->id)
                                return -ESTALE;
                }
                if (rc == 0)
                        rc = set_in_upper(rw, &node, s);
        }
        if (rc == 0)
                rc = ffs_rw_attr(rw, &node, &s->st);
        if (rc == 0)
                s->timeout = attr_timeout(rw, s->id, &node, &s->st);
        return rc;
}

/* Who changed a file by an open file of before its copy-up changed what the kernel knows of another
 * node, too. Without lock. */
static void tell_successor(struct ffs_rw *rw, uint64_t asked)
{
        struct ffs_node node;
        if (ffs_rw_node(rw, asked, &node) == 0 && node.id != asked)
                ffs_rw_forget_attr(rw, node.id);
}

void ffs_rw_setattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, struct stat *attr,
                    int to_set, struct fuse_file_info *fi)
{
        struct setting s = {.id = node, .attr = attr, .to_set = to_set, .by_path = fi == NULL};
        int rc = ffs_rw_change(v->rw, set_locked, &s);
        tell_successor(v->rw, node);
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else
                (void)fuse_reply_attr(req, &s.st, s.timeout);
}

/* ---- text of a link ---- */

static int read_link(struct ffs_rw *rw, uint64_t id, char *out, size_t out_bytes)
{
        struct ffs_node node;
        cas_cleanup_fd int fd = -1;
        int rc = ffs_rw_node(rw, id, &node);
        if (rc < 0)
                return rc;
        if (node.flags & FFS_NODE_HAS_UPPER) {
                rc = ffs_rw_open_upper(rw, &node, O_PATH, &fd);
                if (rc < 0)
                        return rc;
                ssize_t n = readlinkat(fd, "", out, out_bytes - 1);
                if (n < 0)
                        return -errno;
                out[n] = '\0';
                return 0;
        }
        const void *text;
        size_t len;
        struct cas_err err = CAS_ERR_INIT;
        if (node.flags & FFS_NODE_ORPHAN)
                return -ESTALE;
        if (ffs_view_inline(rw->view, node.vid, &text, &len, &err) < 0)
                return ffs_rw_errno(&err);
        if (len >= out_bytes)
                return -ENAMETOOLONG;
        memcpy(out, text, len);
        out[len] = '\0';
        return 0;
}

void ffs_rw_readlink(struct ffs_volume *v, fuse_req_t req, uint64_t node)
{
        struct ffs_rw *rw = v->rw;
        char text[4097];
        cas_rwlock_read(&rw->lock);
        int rc = read_link(rw, node, text, sizeof(text));
        cas_rwlock_unlock(&rw->lock);
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else
                (void)fuse_reply_readlink(req, text);
}

/* ---- extended attributes: reading ---- */

/* Names that are only a prefix are no names. */
static bool is_prefix(const char *name)
{
        static const char *const prefixes[] = {"user.", "trusted.", "security.", "system."};
        for (size_t i = 0; i < CAS_COUNT(prefixes); i++)
                if (strcmp(name, prefixes[i]) == 0)
                        return true;
        return false;
}

static bool is_acl(const char *name)
{
        return strcmp(name, "system.posix_acl_access") == 0 ||
               strcmp(name, "system.posix_acl_default") == 0;
}

struct xattr_search {
        const char *name; /* NULL: all names are listed */
        struct cas_buf *out;
        bool found;
};

static bool see_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct xattr_search *s = arg;
        if (!s->name) {
                cas_buf_append(s->out, name, strlen(name) + 1);
        } else if (strcmp(name, s->name) == 0) {
                cas_buf_append(s->out, value, len);
                s->found = true;
        }
        return !s->found;
}

static int xattr_of_lower(struct ffs_rw *rw, uint64_t vid, const char *name, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        struct xattr_search s = {.name = name, .out = out};
        if (ffs_view_xattrs(rw->view, vid, see_xattr, &s, &err) < 0)
                return ffs_rw_errno(&err);
        return name && !s.found ? -ENODATA : 0;
}

static int xattr_of_upper(struct ffs_rw *rw, const struct ffs_node *node, const char *name,
                          struct cas_buf *out)
{
        cas_cleanup_fd int fd = -1;
        int rc = ffs_rw_open_upper(rw, node, O_PATH, &fd);
        if (rc < 0)
                return rc;
        cas_buf_reserve(out, XATTR_BYTES_MAX);
        char *at = (char *)out->data;
        ssize_t n = name ? ffs_upper_getxattr(rw->upper, fd, name, at, XATTR_BYTES_MAX)
                         : ffs_upper_listxattr(rw->upper, fd, at, XATTR_BYTES_MAX);
        if (n < 0)
                return (int)n;
        out->len_bytes = (size_t)n;
        return 0;
}

static int read_xattr(struct ffs_rw *rw, uint64_t id, const char *name, struct cas_buf *out)
{
        struct ffs_node node;
        int rc = ffs_rw_node(rw, id, &node);
        if (rc < 0)
                return rc;
        if (node.flags & FFS_NODE_ORPHAN)
                return name ? -ENODATA : 0;
        return node.flags & FFS_NODE_HAS_UPPER ? xattr_of_upper(rw, &node, name, out)
                                               : xattr_of_lower(rw, node.vid, name, out);
}

/* Only root sees trusted xattrs, which the kernel leaves to us. */
static void hide_trusted(struct cas_buf *list)
{
        static const char prefix[] = "trusted.";
        char *to = (char *)list->data;
        const char *end = to + list->len_bytes;
        for (const char *at = to; at < end;) {
                size_t len = strlen(at) + 1;
                if (strncmp(at, prefix, sizeof(prefix) - 1) != 0) {
                        memmove(to, at, len);
                        to += len;
                }
                at += len;
        }
        list->len_bytes = (size_t)(to - (char *)list->data);
}

static void answer_xattr(struct ffs_rw *rw, fuse_req_t req, uint64_t node, const char *name,
                         size_t size)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        cas_rwlock_read(&rw->lock);
        int rc = name && is_prefix(name) ? -EINVAL : read_xattr(rw, node, name, &out);
        cas_rwlock_unlock(&rw->lock);
        if (rc == 0 && !name && out.len_bytes > 0 && fuse_req_ctx(req)->uid != 0)
                hide_trusted(&out);
        if (rc == 0 && name) {
                cas_buf_reserve(&out, FFS_IDMAP_XATTR_GROWTH);
                out.len_bytes = ffs_idmap_xattr_to_host(&rw->volume->spec.map, name, out.data,
                                                        out.len_bytes);
        }
        if (rc == 0 && size > 0 && out.len_bytes > size)
                rc = -ERANGE;
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else if (size == 0)
                (void)fuse_reply_xattr(req, out.len_bytes);
        else
                (void)fuse_reply_buf(req, (const char *)out.data, out.len_bytes);
}

void ffs_rw_getxattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, const char *name,
                     size_t size)
{
        answer_xattr(v->rw, req, node, name, size);
}

void ffs_rw_listxattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, size_t size)
{
        answer_xattr(v->rw, req, node, NULL, size);
}

/* ---- extended attributes: writing ---- */

struct xattr_setting {
        uint64_t id;
        const char *name;
        const void *value; /* NULL: it is removed */
        size_t size;
        int flags;
        struct ffs_rw_intent *intent;
};

static int check_absent(struct ffs_rw *rw, const struct xattr_setting *x)
{
        cas_cleanup_buf struct cas_buf old = CAS_BUF_INIT;
        int rc = read_xattr(rw, x->id, x->name, &old);
        if (rc < 0 && rc != -ENODATA)
                return rc;
        if (rc == 0)
                return x->value && x->flags & XATTR_CREATE ? -EEXIST : 0;
        return !x->value || x->flags & XATTR_REPLACE ? -ENODATA : 0;
}

static int xattr_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct xattr_setting *x = arg;
        struct ffs_node node;
        cas_cleanup_fd int fd = -1;
        struct ffs_rw_intent intent = {.kind = FFS_RW_INTENT_XATTR};
        int before = 0;
        bool repeated = ffs_rw_intent_resent(rw, FFS_RW_INTENT_XATTR, &before);
        if (repeated && before <= 0)
                return before;
        if (is_prefix(x->name))
                return -EINVAL;
        int rc = ffs_rw_node(rw, x->id, &node);
        /* What would fail, or do nothing, must not copy the file up first. */
        if (rc == 0 && !repeated)
                rc = check_absent(rw, x);
        if (rc == -ENODATA && !x->value && is_acl(x->name))
                return 0;
        if (rc == 0)
                rc = ffs_rw_require(rw, &node, FFS_RW_ATTR, need);
        if (rc == 0)
                rc = ffs_rw_open_upper(rw, &node, O_PATH, &fd);
        if (rc < 0)
                return rc;
        x->intent = ffs_rw_intent_begin(rw, &intent);
        if (x->value)
                rc = ffs_upper_setxattr(rw->upper, fd, x->name, x->value, x->size,
                                        repeated ? 0 : x->flags);
        else
                rc = ffs_upper_removexattr(rw->upper, fd, x->name);
        if (repeated && rc == -ENODATA)
                rc = 0;
        ffs_rw_intent_done(x->intent, rc);
        return rc;
}

static void change_xattr(struct ffs_rw *rw, fuse_req_t req, struct xattr_setting *x)
{
        int rc = ffs_rw_change(rw, xattr_locked, x);
        tell_successor(rw, x->id);
        (void)fuse_reply_err(req, -rc);
        ffs_rw_intent_end(rw, x->intent);
}

void ffs_rw_setxattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, const char *name,
                     const void *value, size_t size, int flags)
{
        cas_cleanup_free void *copy = cas_xmalloc(size + FFS_IDMAP_XATTR_GROWTH);
        memcpy(copy, value, size);
        if (!ffs_idmap_xattr_to_image(&v->spec.map, name, copy, &size)) {
                (void)fuse_reply_err(req, EINVAL);
                return;
        }
        struct xattr_setting x = {
                .id = node, .name = name, .value = copy, .size = size, .flags = flags};
        change_xattr(v->rw, req, &x);
}

void ffs_rw_removexattr(struct ffs_volume *v, fuse_req_t req, uint64_t node, const char *name)
{
        struct xattr_setting x = {.id = node, .name = name};
        change_xattr(v->rw, req, &x);
}
