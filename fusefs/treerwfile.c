/* SPDX-License-Identifier: Apache-2.0 */
/* Open files. In passthrough mode the kernel reads and writes the backing file
 * by itself; what comes here is opening, and the rest for files that cannot be
 * passed through. In inode mode there is no opening: every request stands alone.
 *
 * A node shows either what is below or the upper's file, never one after the
 * other (but in inode mode, whose pages are the node's own): who opens the former
 * for writing gets ESTALE once it is copied up, looks the name up again and finds
 * the latter. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "cas/log.h"
#include "fusefs/backing_int.h"
#include "fusefs/connection_int.h"
#include "fusefs/treerwcore_int.h"

/* What fi->fh says of an open file. */
enum { FH_CACHED, FH_UPPER, FH_OBJECT };

#define COPY_PIECE_BYTES (1 << 20)
#define COPY_BYTES_MAX (64 << 20) /* of one copy_file_range request */

static bool inode_mode(const struct ffs_rw *rw)
{
        return ffs_treefs_pages(rw->treefs) == FFS_PAGES_INODE;
}

/* ---- backing ---- */

static struct cas_hash key_of(uint64_t node)
{
        struct cas_hash key = {0};
        cas_put_le64(key.bytes, node);
        return key;
}

struct backing_file {
        struct ffs_rw *rw;
        const struct ffs_node *node;
};

static int open_backing(void *arg, int *out_fd)
{
        struct backing_file *b = arg;
        return ffs_rw_open_upper(b->rw, b->node, O_PATH, out_fd);
}

/* Fills fi for a file of the upper. */
static int open_upper_file(struct ffs_rw *rw, const struct ffs_node *node,
                           struct fuse_file_info *fi)
{
        fi->fh = FH_CACHED;
        fi->keep_cache = 1;
        fi->noflush = 1;
        if (!rw->passthrough)
                return 0;
        struct backing_file b = {.rw = rw, .node = node};
        struct cas_hash key = key_of(node->id);
        int32_t id;
        int rc = ffs_backings_get(ffs_treefs_backings(rw->treefs), &key, ffs_rw_request_unique(),
                                  open_backing, &b, &id);
        if (rc == -EPERM || rc == -ELOOP || rc == -EOPNOTSUPP) {
                /* The upper's file system cannot be passed through, and so none of its files. */
                cas_log(CAS_LOG_INFO, "treerw.cached", "volume=%s errno=%d", rw->volume->spec.id,
                        -rc);
                rw->passthrough = false;
                return 0;
        }
        if (rc < 0)
                return rc;
        fi->fh = FH_UPPER;
        fi->keep_cache = 0;
        fi->backing_id = id;
        return 0;
}

static void put_backing(struct ffs_rw *rw, const struct ffs_node *node, uint64_t fh,
                        uint64_t unique)
{
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash key = key_of(node->id);
        if (fh == FH_UPPER)
                ffs_backings_put(ffs_treefs_backings(rw->treefs), &key, unique, false);
        else if (fh == FH_OBJECT && ffs_view_inode(rw->view, node->vid, &inode, &err) == 0)
                ffs_treefs_release_object(rw->treefs, &inode.object);
}

int ffs_rw_open_new(struct ffs_rw *rw, const struct ffs_node *node, struct fuse_file_info *fi)
{
        if (inode_mode(rw)) {
                fi->keep_cache = 1;
                fi->noflush = 1;
                return 0;
        }
        cas_rwlock_read(&rw->lock);
        (void)ffs_nodes_opens(rw->nodes, node->id, 1);
        int rc = open_upper_file(rw, node, fi);
        cas_rwlock_unlock(&rw->lock);
        if (rc < 0)
                (void)ffs_nodes_opens(rw->nodes, node->id, -1);
        return rc;
}

void ffs_rw_close_new(struct ffs_rw *rw, const struct ffs_node *node, struct fuse_file_info *fi)
{
        if (inode_mode(rw))
                return;
        (void)ffs_nodes_opens(rw->nodes, node->id, -1);
        /* The request's own number counts for what is taken back. */
        put_backing(rw, node, fi->fh, 0);
}

/* ---- open ---- */

struct opening {
        uint64_t id;
        uid_t uid;
        struct fuse_file_info *fi;
        struct ffs_node node;
        struct cas_inode lower;
        bool below; /* what is below is opened, for reading */
};

static bool wants_write(const struct fuse_file_info *fi)
{
        return (fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC;
}

/* Passed-through writes do not take set-id bits away from whom they should: opening for them does.
 */
static int kill_privileges(struct ffs_rw *rw, const struct opening *o)
{
        cas_cleanup_fd int fd = -1;
        int rc = o->uid == 0 ? 0 : ffs_rw_open_upper(rw, &o->node, O_PATH, &fd);
        return rc < 0 || fd < 0 ? rc : ffs_rw_kill_privileges(rw, fd);
}

static int open_for_write(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct opening *o = arg;
        int rc = ffs_rw_node(rw, o->id, &o->node);
        if (rc == 0)
                rc = ffs_rw_require(rw, &o->node,
                                    o->fi->flags & O_TRUNC ? FFS_RW_EMPTY : FFS_RW_DATA, need);
        if (rc == 0)
                rc = ffs_rw_supersede(rw, &o->node, need);
        if (rc == 0 && o->node.id != o->id)
                return -ESTALE;
        if (rc == 0)
                rc = kill_privileges(rw, o);
        if (rc == 0 && o->fi->flags & O_TRUNC)
                rc = ffs_rw_truncate(rw, &o->node, 0);
        if (rc < 0)
                return rc;
        (void)ffs_nodes_opens(rw->nodes, o->id, 1);
        rc = open_upper_file(rw, &o->node, o->fi);
        if (rc < 0)
                (void)ffs_nodes_opens(rw->nodes, o->id, -1);
        return rc;
}

static int open_for_read(struct ffs_rw *rw, struct opening *o)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = ffs_rw_node(rw, o->id, &o->node);
        if (rc < 0)
                return rc;
        if (o->node.id != o->id || o->node.flags & FFS_NODE_ORPHAN)
                return -ESTALE;
        o->below = o->node.flags & FFS_NODE_DATA_LOWER;
        if (o->below && ffs_view_inode(rw->view, o->node.vid, &o->lower, &err) < 0)
                return ffs_rw_errno(&err);
        (void)ffs_nodes_opens(rw->nodes, o->id, 1);
        if (o->below) {
                o->fi->fh = o->lower.has_object ? FH_OBJECT : FH_CACHED;
                o->fi->keep_cache = !o->lower.has_object;
                o->fi->noflush = 1;
                return 0;
        }
        rc = open_upper_file(rw, &o->node, o->fi);
        if (rc < 0)
                (void)ffs_nodes_opens(rw->nodes, o->id, -1);
        return rc;
}

void ffs_rw_open_file(struct ffs_volume *v, fuse_req_t req, uint64_t node,
                      struct fuse_file_info *fi)
{
        struct ffs_rw *rw = v->rw;
        struct opening o = {.id = node, .uid = fuse_req_ctx(req)->uid, .fi = fi};
        int rc;
        if (wants_write(fi)) {
                rc = ffs_rw_change(rw, open_for_write, &o);
        } else {
                cas_rwlock_read(&rw->lock);
                rc = open_for_read(rw, &o);
                cas_rwlock_unlock(&rw->lock);
        }
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else if (o.below && o.lower.has_object)
                ffs_treefs_reply_open(rw->treefs, req, &o.lower.object, o.lower.size_bytes, fi);
        else if (fuse_reply_open(req, fi) < 0)
                ffs_rw_close_new(rw, &o.node, fi);
}

void ffs_rw_release(struct ffs_volume *v, fuse_req_t req, uint64_t id, struct fuse_file_info *fi)
{
        struct ffs_rw *rw = v->rw;
        struct ffs_node node;
        bool resent = ffs_rw_request_unique() & FFS_UNIQUE_RESENT;
        /* What was counted down before must not be again; too many does no harm. */
        if (!inode_mode(rw) && ffs_nodes_get(rw->nodes, id, &node)) {
                if (!resent)
                        (void)ffs_nodes_opens(rw->nodes, id, -1);
                put_backing(rw, &node, fi->fh, ffs_rw_request_unique());
                /* What was written to a map of it shows from now on, at the latest. */
                if (fi->fh == FH_UPPER && (fi->flags & O_ACCMODE) != O_RDONLY)
                        ffs_rw_forget_attr(rw, id);
        }
        (void)fuse_reply_err(req, 0);
}

/* ---- reading ---- */

/* The node as it is asked for: open files of one that was superseded still see what is below. */
static int data_node(struct ffs_rw *rw, uint64_t id, struct ffs_node *out)
{
        return ffs_nodes_get(rw->nodes, id, out) && out->volume == rw->volume->number ? 0 : -ESTALE;
}

static void reply_lower(struct ffs_rw *rw, fuse_req_t req, const struct ffs_node *node, size_t size,
                        off_t offset)
{
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        const void *data;
        size_t len;
        if (ffs_view_inode(rw->view, node->vid, &inode, &err) < 0) {
                (void)fuse_reply_err(req, -ffs_rw_errno(&err));
        } else if (offset < 0 || (uint64_t)offset >= inode.size_bytes) {
                (void)fuse_reply_buf(req, NULL, 0);
        } else if (inode.has_object) {
                len = cas_min_u64(size, inode.size_bytes - (uint64_t)offset);
                ffs_treefs_reply_object(rw->treefs, req, &inode.object, inode.size_bytes,
                                        (uint64_t)offset, len);
        } else if (ffs_view_inline(rw->view, node->vid, &data, &len, &err) < 0) {
                (void)fuse_reply_err(req, -ffs_rw_errno(&err));
        } else {
                size_t at = cas_min_u64((uint64_t)offset, len);
                (void)fuse_reply_buf(req, (const char *)data + at, cas_min_u64(size, len - at));
        }
}

void ffs_rw_read(struct ffs_volume *v, fuse_req_t req, uint64_t id, size_t size, off_t offset,
                 struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        struct ffs_node node;
        cas_cleanup_fd int fd = -1;
        cas_rwlock_read(&rw->lock);
        int rc = data_node(rw, id, &node);
        bool below = rc == 0 && node.flags & FFS_NODE_DATA_LOWER;
        if (rc == 0 && !below)
                rc = ffs_rw_open_data(rw, &node, &fd);
        cas_rwlock_unlock(&rw->lock);
        if (rc < 0) {
                (void)fuse_reply_err(req, -rc);
        } else if (below) {
                reply_lower(rw, req, &node, size, offset);
        } else {
                struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);
                buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY;
                buf.buf[0].fd = fd;
                buf.buf[0].pos = offset;
                (void)fuse_reply_data(req, &buf, (enum fuse_buf_copy_flags)0);
        }
}

/* ---- writing ---- */

struct writing {
        uint64_t id;
        int fd; /* owned */
};

static int prepare_locked(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need)
{
        struct writing *w = arg;
        struct ffs_node node;
        int rc = ffs_rw_node(rw, w->id, &node);
        if (rc == 0)
                rc = ffs_rw_require(rw, &node, FFS_RW_DATA, need);
        if (rc == 0)
                rc = ffs_rw_supersede(rw, &node, need);
        if (rc == 0)
                rc = ffs_rw_open_data(rw, &node, &w->fd);
        return rc;
}

/* A descriptor of the upper's file for writing, copied up where need be. */
static int prepare_write(struct ffs_rw *rw, uint64_t id, int *out_fd)
{
        struct ffs_node node;
        cas_rwlock_read(&rw->lock);
        int rc = ffs_rw_node(rw, id, &node);
        bool ready =
                rc == 0 && node.flags & FFS_NODE_HAS_UPPER && !(node.flags & FFS_NODE_DATA_LOWER);
        if (ready)
                rc = ffs_rw_open_data(rw, &node, out_fd);
        cas_rwlock_unlock(&rw->lock);
        if (rc < 0 || ready)
                return rc;
        struct writing w = {.id = id, .fd = -1};
        rc = ffs_rw_change(rw, prepare_locked, &w);
        *out_fd = w.fd;
        return rc;
}

/* Room for [offset, offset + len); *grown is what was reserved. */
static int reserve(struct ffs_rw *rw, int fd, uid_t uid, off_t offset, uint64_t len,
                   uint64_t *grown)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return -errno;
        /* The disk takes capabilities away itself, and shows set-id bits, but not of what is kept
         * in xattrs. */
        bool privileged =
                rw->volume->spec.owners_in_xattrs || (st.st_mode & (S_ISUID | S_ISGID)) != 0;
        int rc = uid != 0 && privileged ? ffs_rw_kill_privileges(rw, fd) : 0;
        uint64_t end = (uint64_t)offset + len, size = (uint64_t)st.st_size;
        *grown = end > size ? ffs_upper_cost(end) - ffs_upper_cost(size) : 0;
        return rc < 0 ? rc : ffs_upper_reserve(rw->upper, *grown);
}

void ffs_rw_write(struct ffs_volume *v, fuse_req_t req, uint64_t node, struct fuse_bufvec *data,
                  off_t offset, struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        cas_cleanup_fd int fd = -1;
        uint64_t grown = 0;
        ssize_t n = 0;
        struct fuse_bufvec out = FUSE_BUFVEC_INIT(fuse_buf_size(data));
        int rc = prepare_write(rw, node, &fd);
        if (rc == 0)
                rc = reserve(rw, fd, fuse_req_ctx(req)->uid, offset, fuse_buf_size(data), &grown);
        if (rc == 0) {
                out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY;
                out.buf[0].fd = fd;
                out.buf[0].pos = offset;
                n = fuse_buf_copy(&out, data, (enum fuse_buf_copy_flags)0);
                if (n < 0) {
                        rc = (int)n;
                        ffs_upper_unreserve(rw->upper, grown);
                }
        }
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else
                (void)fuse_reply_write(req, (size_t)n);
}

void ffs_rw_fallocate(struct ffs_volume *v, fuse_req_t req, uint64_t node, int mode, off_t offset,
                      off_t length, struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        cas_cleanup_fd int fd = -1;
        uint64_t grown = 0;
        int rc = prepare_write(rw, node, &fd);
        if (rc == 0 && !(mode & FALLOC_FL_PUNCH_HOLE))
                rc = reserve(rw, fd, fuse_req_ctx(req)->uid, offset, (uint64_t)length, &grown);
        if (rc == 0 && fallocate(fd, mode, offset, length) < 0) {
                rc = -errno;
                ffs_upper_unreserve(rw->upper, grown);
        }
        (void)fuse_reply_err(req, -rc);
}

/* ---- copying ---- */

/* From what is below; it does not change, so nothing is locked. */
static ssize_t copy_from_lower(struct ffs_rw *rw, const struct ffs_node *from, off_t from_offset,
                               int to_fd, off_t to_offset, size_t len)
{
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        const void *data;
        size_t have;
        if (ffs_view_inode(rw->view, from->vid, &inode, &err) < 0)
                return ffs_rw_errno(&err);
        if ((uint64_t)from_offset >= inode.size_bytes)
                return 0;
        len = cas_min_u64(len, inode.size_bytes - (uint64_t)from_offset);
        if (!inode.has_object) {
                if (ffs_view_inline(rw->view, from->vid, &data, &have, &err) < 0)
                        return ffs_rw_errno(&err);
                ssize_t n = pwrite(to_fd, (const char *)data + from_offset, len, to_offset);
                return n < 0 ? -errno : n;
        }
        cas_cleanup_free char *piece = cas_xmalloc(COPY_PIECE_BYTES);
        size_t done = 0;
        while (done < len) {
                size_t size = cas_min_u64(len - done, COPY_PIECE_BYTES);
                int rc = ffs_treefs_read_object(rw->treefs, &inode.object, inode.size_bytes,
                                                (uint64_t)from_offset + done, piece, size);
                ssize_t n = rc < 0 ? rc : pwrite(to_fd, piece, size, to_offset + (off_t)done);
                if (n < 0 && rc == 0)
                        n = -errno;
                if (n <= 0)
                        return done ? (ssize_t)done : n;
                done += (size_t)n;
        }
        return (ssize_t)done;
}

static ssize_t copy_range(struct ffs_rw *rw, uid_t uid, uint64_t from, off_t from_offset,
                          uint64_t to, off_t to_offset, size_t len)
{
        struct ffs_node source;
        cas_cleanup_fd int from_fd = -1, to_fd = -1;
        uint64_t grown = 0;
        ssize_t n;
        int rc = prepare_write(rw, to, &to_fd);
        if (rc < 0)
                return rc;
        cas_rwlock_read(&rw->lock);
        rc = data_node(rw, from, &source);
        bool below = rc == 0 && source.flags & FFS_NODE_DATA_LOWER;
        if (rc == 0 && !below)
                rc = ffs_rw_open_data(rw, &source, &from_fd);
        cas_rwlock_unlock(&rw->lock);
        if (rc == 0)
                rc = reserve(rw, to_fd, uid, to_offset, len, &grown);
        if (rc < 0)
                return rc;
        ffs_treefs_blocks(rw->treefs);
        if (below) {
                n = copy_from_lower(rw, &source, from_offset, to_fd, to_offset, len);
        } else {
                n = copy_file_range(from_fd, &from_offset, to_fd, &to_offset, len, 0);
                n = n < 0 ? -errno : n;
        }
        ffs_treefs_goes_on(rw->treefs);
        uint64_t short_by = n < 0 ? len : len - (size_t)n;
        /* Whole blocks of it: what was written may have begun in the last one. */
        short_by -= short_by % FFS_UPPER_BLOCK_BYTES;
        ffs_upper_unreserve(rw->upper, cas_min_u64(grown, short_by));
        return n;
}

void ffs_rw_copy_file_range(struct ffs_volume *v, fuse_req_t req, uint64_t from, off_t from_offset,
                            struct fuse_file_info *from_fi CAS_UNUSED, uint64_t to, off_t to_offset,
                            struct fuse_file_info *to_fi CAS_UNUSED, size_t len, int flags)
{
        if (flags != 0 || from_offset < 0 || to_offset < 0) {
                (void)fuse_reply_err(req, EINVAL);
                return;
        }
        ssize_t n = copy_range(v->rw, fuse_req_ctx(req)->uid, from, from_offset, to, to_offset,
                               cas_min_u64(len, COPY_BYTES_MAX));
        if (n < 0)
                (void)fuse_reply_err(req, (int)-n);
        else
                (void)fuse_reply_write(req, (size_t)n);
}

/* ---- the rest ---- */

/* For syncing: what has nothing in the upper (-1) never changed. */
static int open_dir(struct ffs_rw *rw, const struct ffs_node *dir, int *out_fd)
{
        cas_cleanup_fd int fd = -1;
        int rc = ffs_rw_dir_fd(rw, dir, &fd);
        return rc < 0 || fd < 0 ? rc
                                : ffs_upper_reopen(rw->upper, fd, O_RDONLY | O_DIRECTORY, out_fd);
}

void ffs_rw_fsync(struct ffs_volume *v, fuse_req_t req, uint64_t id, int datasync,
                  struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        struct ffs_node node;
        cas_cleanup_fd int fd = -1;
        cas_rwlock_read(&rw->lock);
        int rc = ffs_rw_node(rw, id, &node);
        if (rc == 0 && S_ISREG(node.type) && node.flags & FFS_NODE_HAS_UPPER)
                rc = ffs_rw_open_data(rw, &node, &fd);
        else if (rc == 0 && S_ISDIR(node.type) && !(node.flags & FFS_NODE_ORPHAN))
                rc = open_dir(rw, &node, &fd);
        cas_rwlock_unlock(&rw->lock);
        if (rc == 0 && fd >= 0) {
                ffs_treefs_blocks(rw->treefs);
                if ((datasync ? fdatasync(fd) : fsync(fd)) < 0)
                        rc = -errno;
                ffs_treefs_goes_on(rw->treefs);
        }
        (void)fuse_reply_err(req, -rc);
}

static off_t seek_lower(struct ffs_rw *rw, const struct ffs_node *node, off_t offset, int whence)
{
        struct cas_inode inode;
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_view_inode(rw->view, node->vid, &inode, &err) < 0)
                return ffs_rw_errno(&err);
        if (offset < 0 || (uint64_t)offset >= inode.size_bytes)
                return -ENXIO;
        return whence == SEEK_DATA ? offset : (off_t)inode.size_bytes; /* no holes are known */
}

void ffs_rw_lseek(struct ffs_volume *v, fuse_req_t req, uint64_t id, off_t offset, int whence,
                  struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        struct ffs_node node;
        cas_cleanup_fd int fd = -1;
        off_t at = 0;
        cas_rwlock_read(&rw->lock);
        int rc = whence == SEEK_DATA || whence == SEEK_HOLE ? data_node(rw, id, &node) : -EINVAL;
        bool below = rc == 0 && node.flags & FFS_NODE_DATA_LOWER;
        if (rc == 0 && !below)
                rc = ffs_rw_open_data(rw, &node, &fd);
        cas_rwlock_unlock(&rw->lock);
        if (below) {
                at = seek_lower(rw, &node, offset, whence);
        } else if (rc == 0) {
                at = lseek(fd, offset, whence);
                at = at < 0 ? -errno : at;
        }
        if (rc < 0 || at < 0)
                (void)fuse_reply_err(req, rc < 0 ? -rc : (int)-at);
        else
                (void)fuse_reply_lseek(req, at);
}

void ffs_rw_statfs(struct ffs_volume *v, fuse_req_t req, uint64_t node CAS_UNUSED)
{
        struct statvfs st;
        int rc = ffs_upper_statvfs(v->rw->upper, &st);
        if (rc < 0)
                (void)fuse_reply_err(req, -rc);
        else
                (void)fuse_reply_statfs(req, &st);
}
