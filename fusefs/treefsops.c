/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel is told of a connection, and who answers which request: that
 * follows from the node alone. The root of a shared connection, whose names are the
 * volumes' ids, is answered here.
 *
 * Flags of INIT, and why:
 *
 *   PASSTHROUGH, backing files not stacked      one overlay may still lie upon it
 *   no WRITEBACK_CACHE                          it excludes passthrough
 *   NO_OPEN (inode mode), NO_OPENDIR            no request to open; listings are then cached, and
 *                                               dropped by the kernel when it changes a directory
 *   no AUTO_INVAL_DATA, EXPLICIT_INVAL_DATA     content changes through the kernel only
 *   POSIX_ACL, DONT_MASK                        ACLs count; defaults are applied by who makes
 *   HANDLE_KILLPRIV_V2                          else each write asks for security.capability
 *   NO_EXPORT_SUPPORT                           handles would outlive the node ids' meaning, and an
 *                                               overlay upon this keeps them
 *   no POSIX_LOCKS, FLOCK_LOCKS                 locks are the kernel's own and survive a takeover
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/log.h"
#include "fusefs/ffs_err.h"
#include "fusefs/sharednodes_int.h"
#include "fusefs/treefscore_int.h"
#include "fusefs/treero_int.h"
#include "fusefs/treerw_int.h"

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
        const struct ffs_treefs *t = userdata;
        bool passthrough = ffs_treefs_pages(t) == FFS_PAGES_PASSTHROUGH;
        conn->max_write = FFS_REQUEST_BYTES_MAX;
        conn->max_background = 64;
        conn->congestion_threshold = 48;
        conn->time_gran = 1;
        static const uint64_t wanted[] = {
                FUSE_CAP_ASYNC_READ,         FUSE_CAP_PARALLEL_DIROPS,
                FUSE_CAP_CACHE_SYMLINKS,     FUSE_CAP_EXPLICIT_INVAL_DATA,
                FUSE_CAP_READDIRPLUS,        FUSE_CAP_READDIRPLUS_AUTO,
                FUSE_CAP_POSIX_ACL,          FUSE_CAP_DONT_MASK,
                FUSE_CAP_NO_OPENDIR_SUPPORT, FUSE_CAP_HANDLE_KILLPRIV_V2,
                FUSE_CAP_NO_EXPORT_SUPPORT,
        };
        static const uint64_t unwanted[] = {
                FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_SPLICE_READ,     FUSE_CAP_SPLICE_WRITE,
                FUSE_CAP_SPLICE_MOVE,     FUSE_CAP_ASYNC_DIO,       FUSE_CAP_WRITEBACK_CACHE,
                FUSE_CAP_OVER_IO_URING,   FUSE_CAP_POSIX_LOCKS,     FUSE_CAP_FLOCK_LOCKS,
                FUSE_CAP_EXPORT_SUPPORT,  FUSE_CAP_HANDLE_KILLPRIV, FUSE_CAP_IOCTL_DIR,
        };
        for (size_t i = 0; i < CAS_COUNT(wanted); i++)
                (void)fuse_set_feature_flag(conn, wanted[i]);
        for (size_t i = 0; i < CAS_COUNT(unwanted); i++)
                fuse_unset_feature_flag(conn, unwanted[i]);
        if (!passthrough) {
                /* No OPEN that could truncate is seen: the kernel is to send a SETATTR. */
                fuse_unset_feature_flag(conn, FUSE_CAP_ATOMIC_O_TRUNC);
                (void)fuse_set_feature_flag(conn, FUSE_CAP_NO_OPEN_SUPPORT);
                return;
        }
        (void)fuse_set_feature_flag(conn, FUSE_CAP_ATOMIC_O_TRUNC);
        fuse_unset_feature_flag(conn, FUSE_CAP_NO_OPEN_SUPPORT);
        conn->max_backing_stack_depth = FUSE_BACKING_STACKED_UNDER;
        if (!fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH))
                cas_log(CAS_LOG_WARN, "treefs.passthrough", "why=\"the kernel has none\"");
}

/* ---- whose node it is ---- */

struct target {
        struct ffs_treefs *t;
        enum ffs_node_kind kind;
        struct ffs_volume *v; /* RO and RW; counted */
        uint64_t vid;         /* RO */
        uint64_t node;        /* RW, SHARED */
};

static uint64_t private_root(const struct ffs_volume *v)
{
        return v->rw ? ffs_rw_root(v->rw) : ffs_node_ro(v->number, ffs_view_root(v->view));
}

/* The one volume of a private connection. */
static struct ffs_volume *only_volume(struct ffs_treefs *t)
{
        cas_cleanup_free struct ffs_treefs_name *names = NULL;
        return ffs_treefs_names(t, &names) > 0 ? ffs_treefs_volume_get(t, names[0].number) : NULL;
}

static bool target_find(struct ffs_treefs *t, uint64_t node, struct target *out)
{
        uint32_t number;
        *out = (struct target){.t = t, .node = node};
        if (node == FUSE_ROOT_ID && !ffs_treefs_is_shared(t)) {
                out->v = only_volume(t);
                if (!out->v)
                        return false;
                out->node = private_root(out->v);
        }
        out->kind = ffs_node_kind(out->node);
        out->vid = out->node & ((UINT64_C(1) << FFS_VID_BITS) - 1);
        switch (out->kind) {
        case FFS_NODE_ROOT:
                return node == FUSE_ROOT_ID;
        case FFS_NODE_SHARED:
                return true;
        case FFS_NODE_RO:
                number = (uint32_t)(out->node >> FFS_VID_BITS) & (FFS_NODE_VOLUMES_MAX - 1);
                break;
        case FFS_NODE_RW:
                if (out->v)
                        return true;
                if (!ffs_nodes_volume(ffs_treefs_nodes(t), node, &number))
                        return false;
                break;
        }
        if (!out->v)
                out->v = ffs_treefs_volume_get(t, number);
        return out->v && (out->kind == FFS_NODE_RW) == (out->v->rw != NULL);
}

static void target_release(struct target *x)
{
        if (x->v)
                ffs_treefs_volume_put(x->t, x->v);
}
#define cleanup_target __attribute__((cleanup(target_release)))

/* False: answered, ESTALE. */
static bool enter(fuse_req_t req, uint64_t node, struct target *out)
{
        if (target_find(fuse_req_userdata(req), node, out))
                return true;
        (void)fuse_reply_err(req, ESTALE);
        return false;
}

/* The same for what changes something: read-only volumes answer EROFS. */
static bool enter_writable(fuse_req_t req, uint64_t node, struct target *out)
{
        if (!enter(req, node, out))
                return false;
        if (out->kind != FFS_NODE_RW)
                (void)fuse_reply_err(req, EROFS);
        return out->kind == FFS_NODE_RW;
}

/* ---- the root of a shared connection ---- */

static void root_attr(struct stat *st)
{
        *st = (struct stat){.st_ino = FUSE_ROOT_ID,
                            .st_mode = S_IFDIR | 0555,
                            .st_nlink = 2,
                            .st_blksize = 4096};
}

static int volume_entry(struct ffs_volume *v, struct fuse_entry_param *out, struct cas_err *err)
{
        if (!v->rw)
                return ffs_ro_root_entry(v, out, err);
        *out = (struct fuse_entry_param){.ino = ffs_rw_root(v->rw),
                                         .attr_timeout = FFS_TREEFS_FOREVER_S,
                                         .entry_timeout = FFS_TREEFS_FOREVER_S};
        ffs_rw_root_attr(v->rw, &out->attr);
        return 0;
}

static void root_lookup(struct ffs_treefs *t, fuse_req_t req, const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        struct fuse_entry_param e;
        struct ffs_volume *v = ffs_treefs_volume_named(t, name);
        if (!v) {
                (void)fuse_reply_err(req, ENOENT); /* it may come: not remembered */
                return;
        }
        if (volume_entry(v, &e, &err) < 0)
                (void)fuse_reply_err(req, ffs_errno_of(err.code));
        else if (fuse_reply_entry(req, &e) == -ENOENT && !v->rw)
                ffs_treefs_known(v, -1);
        ffs_treefs_volume_put(t, v);
}

/* Offsets: 1 behind ".", 2 behind "..", then a volume's number above. Entries of readdirplus name
 * no node: the kernel looks volumes up when they are wanted. */
static void root_readdir(struct ffs_treefs *t, fuse_req_t req, size_t size, off_t offset, bool plus)
{
        cas_cleanup_free struct ffs_treefs_name *names = NULL;
        size_t count = ffs_treefs_names(t, &names), len = 0;
        size_t room = (size_t)cas_min_u64(size, 65536);
        cas_cleanup_free char *out = cas_xmalloc(room + 1);
        struct fuse_entry_param e = {0};
        root_attr(&e.attr);
        for (size_t i = 0; i < count + 2; i++) {
                off_t next = i < 2 ? (off_t)i + 1 : (off_t)names[i - 2].number + 2;
                const char *name = i == 0 ? "." : i == 1 ? ".." : names[i - 2].id;
                if (next <= offset)
                        continue;
                size_t n =
                        plus ? fuse_add_direntry_plus(req, out + len, room - len, name, &e, next)
                             : fuse_add_direntry(req, out + len, room - len, name, &e.attr, next);
                if (n > room - len)
                        break;
                len += n;
        }
        (void)fuse_reply_buf(req, out, len);
}

/* ---- reading operations ---- */

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        cleanup_target struct target x = {0};
        if (!enter(req, parent, &x))
                return;
        switch (x.kind) {
        case FFS_NODE_ROOT:
                root_lookup(x.t, req, name);
                return;
        case FFS_NODE_RO:
                ffs_ro_lookup(x.t, x.v, req, x.vid, name);
                return;
        case FFS_NODE_SHARED:
                (void)fuse_reply_err(req, ENOTDIR);
                return;
        case FFS_NODE_RW:
                ffs_rw_lookup(x.v, req, x.node, name);
                return;
        }
}

static void forget(struct ffs_treefs *t, uint64_t node, uint64_t count)
{
        cleanup_target struct target x = {0};
        if (ffs_node_kind(node) == FFS_NODE_SHARED) {
                ffs_sharednodes_forget(ffs_treefs_shared(t), node, count);
                return;
        }
        if (node == FUSE_ROOT_ID || !target_find(t, node, &x))
                return;
        if (x.kind == FFS_NODE_RW)
                ffs_rw_forget(t, node, count);
        else
                ffs_treefs_known(x.v, -(int64_t)count);
        if (ffs_treefs_retires(t))
                ffs_treefs_retire(t, x.v);
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t count)
{
        forget(fuse_req_userdata(req), node, count);
        fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
        for (size_t i = 0; i < count; i++)
                forget(fuse_req_userdata(req), forgets[i].ino, forgets[i].nlookup);
        fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        struct stat st;
        if (!enter(req, node, &x))
                return;
        switch (x.kind) {
        case FFS_NODE_ROOT:
                root_attr(&st);
                (void)fuse_reply_attr(req, &st, FFS_TREEFS_FOREVER_S);
                return;
        case FFS_NODE_RO:
                ffs_ro_getattr(x.v, req, x.vid);
                return;
        case FFS_NODE_SHARED:
                ffs_shared_getattr(x.t, req, x.node);
                return;
        case FFS_NODE_RW:
                ffs_rw_getattr(x.v, req, x.node, fi);
                return;
        }
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_readlink(x.v, req, x.vid);
        else if (x.kind == FFS_NODE_SHARED)
                ffs_shared_readlink(x.t, req, x.node);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_readlink(x.v, req, x.node);
        else
                (void)fuse_reply_err(req, EINVAL);
}

static void list(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, bool plus,
                 struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_readdir(x.t, x.v, req, x.vid, size, offset, plus);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_readdir(x.v, req, x.node, size, offset, plus, fi);
        else if (x.kind == FFS_NODE_ROOT)
                root_readdir(x.t, req, size, offset, plus);
        else
                (void)fuse_reply_err(req, ENOTDIR);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
        list(req, node, size, offset, false, fi);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                           struct fuse_file_info *fi)
{
        list(req, node, size, offset, true, fi);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
        cleanup_target struct target x = {0};
        struct statvfs st = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = CAS_NAME_BYTES_MAX};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_statfs(x.v, req);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_statfs(x.v, req, x.node);
        else
                (void)fuse_reply_statfs(req, &st);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_getxattr(x.v, req, x.vid, name, size);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_getxattr(x.v, req, x.node, name, size);
        else
                (void)fuse_reply_err(req, ENODATA);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_listxattr(x.v, req, x.vid, size);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_listxattr(x.v, req, x.node, size);
        else if (size == 0)
                (void)fuse_reply_xattr(req, 0);
        else
                (void)fuse_reply_buf(req, NULL, 0);
}

static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (ffs_treefs_pages(x.t) == FFS_PAGES_INODE)
                (void)fuse_reply_err(req, ENOSYS); /* once: the kernel never asks again */
        else if (x.kind == FFS_NODE_RO)
                ffs_ro_open(x.t, x.v, req, x.vid, fi);
        else if (x.kind == FFS_NODE_SHARED)
                ffs_shared_open(x.t, req, x.node, fi);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_open_file(x.v, req, x.node, fi);
        else
                (void)fuse_reply_err(req, EISDIR);
}

static void op_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_release(x.t, x.v, req, x.vid, fi);
        else if (x.kind == FFS_NODE_SHARED)
                ffs_shared_release(x.t, req, x.node, fi);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_release(x.v, req, x.node, fi);
        else
                (void)fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RO)
                ffs_ro_read(x.t, x.v, req, x.vid, size, offset);
        else if (x.kind == FFS_NODE_SHARED)
                ffs_shared_read(x.t, req, x.node, size, offset);
        else if (x.kind == FFS_NODE_RW)
                ffs_rw_read(x.v, req, x.node, size, offset, fi);
        else
                (void)fuse_reply_err(req, EISDIR);
}

/* Holes are nowhere but in uppers: ENOSYS would end the question for those too. */
static void op_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        struct ffs_shared_file file;
        struct cas_inode inode = {0};
        struct cas_err err = CAS_ERR_INIT;
        struct stat st;
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RW) {
                ffs_rw_lseek(x.v, req, x.node, offset, whence, fi);
                return;
        }
        if (x.kind == FFS_NODE_RO && ffs_view_inode(x.v->view, x.vid, &inode, &err) == 0)
                st.st_size = (off_t)inode.size_bytes;
        else if (x.kind != FFS_NODE_SHARED ||
                 !ffs_sharednodes_get(ffs_treefs_shared(x.t), x.node, &file, &st))
                st.st_size = 0;
        if (offset < 0 || offset >= st.st_size)
                (void)fuse_reply_err(req, ENXIO);
        else
                (void)fuse_reply_lseek(req, whence == SEEK_HOLE ? st.st_size : offset);
}

/* ---- changing operations ---- */

static void op_setattr(fuse_req_t req, fuse_ino_t node, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, node, &x))
                ffs_rw_setattr(x.v, req, x.node, attr, to_set, fi);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_mknod(x.v, req, x.node, name, mode, rdev);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_mkdir(x.v, req, x.node, name, mode);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_unlink(x.v, req, x.node, name);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_rmdir(x.v, req, x.node, name);
}

static void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_symlink(x.v, req, link, x.node, name);
}

/* Both of one volume, else EXDEV. */
static bool enter_two(fuse_req_t req, uint64_t a, uint64_t b, struct target *x, struct target *y)
{
        if (!enter_writable(req, a, x) || !enter_writable(req, b, y))
                return false;
        if (x->v != y->v)
                (void)fuse_reply_err(req, EXDEV);
        return x->v == y->v;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
        cleanup_target struct target x = {0}, y = {0};
        if (enter_two(req, parent, new_parent, &x, &y))
                ffs_rw_rename(x.v, req, x.node, name, y.node, new_name, flags);
}

static void op_link(fuse_req_t req, fuse_ino_t node, fuse_ino_t new_parent, const char *new_name)
{
        cleanup_target struct target x = {0}, y = {0};
        if (enter_two(req, node, new_parent, &x, &y))
                ffs_rw_link(x.v, req, x.node, y.node, new_name);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_create(x.v, req, x.node, name, mode, fi);
}

static void op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, parent, &x))
                ffs_rw_tmpfile(x.v, req, x.node, mode, fi);
}

static void op_write(fuse_req_t req, fuse_ino_t node, struct fuse_bufvec *data, off_t offset,
                     struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, node, &x))
                ffs_rw_write(x.v, req, x.node, data, offset, fi);
}

static void op_fsync(fuse_req_t req, fuse_ino_t node, int datasync, struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (!enter(req, node, &x))
                return;
        if (x.kind == FFS_NODE_RW)
                ffs_rw_fsync(x.v, req, x.node, datasync, fi);
        else
                (void)fuse_reply_err(req, 0);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t node, const char *name, const char *value,
                        size_t size, int flags)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, node, &x))
                ffs_rw_setxattr(x.v, req, x.node, name, value, size, flags);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t node, const char *name)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, node, &x))
                ffs_rw_removexattr(x.v, req, x.node, name);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t node, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
        cleanup_target struct target x = {0};
        if (enter_writable(req, node, &x))
                ffs_rw_fallocate(x.v, req, x.node, mode, offset, length, fi);
}

static void op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
                               struct fuse_file_info *from_fi, fuse_ino_t to, off_t to_offset,
                               struct fuse_file_info *to_fi, size_t len, int flags)
{
        cleanup_target struct target x = {0}, y = {0};
        if (!enter(req, from, &x) || !enter_writable(req, to, &y))
                return;
        if (x.v == y.v && x.kind == FFS_NODE_RW)
                ffs_rw_copy_file_range(y.v, req, x.node, from_offset, from_fi, y.node, to_offset,
                                       to_fi, len, flags);
        else
                (void)fuse_reply_err(req, EXDEV); /* the kernel copies by reading and writing */
}

/* What is not here is answered ENOSYS by libfuse, which the kernel remembers: opendir, flush,
 * access, ioctl, poll, locks, bmap. */
const struct fuse_lowlevel_ops ffs_treefs_operations = {
        .init = op_init,
        .lookup = op_lookup,
        .forget = op_forget,
        .forget_multi = op_forget_multi,
        .getattr = op_getattr,
        .setattr = op_setattr,
        .readlink = op_readlink,
        .mknod = op_mknod,
        .mkdir = op_mkdir,
        .unlink = op_unlink,
        .rmdir = op_rmdir,
        .symlink = op_symlink,
        .rename = op_rename,
        .link = op_link,
        .open = op_open,
        .create = op_create,
        .tmpfile = op_tmpfile,
        .read = op_read,
        .write_buf = op_write,
        .release = op_release,
        .fsync = op_fsync,
        .fsyncdir = op_fsync,
        .readdir = op_readdir,
        .readdirplus = op_readdirplus,
        .statfs = op_statfs,
        .setxattr = op_setxattr,
        .getxattr = op_getxattr,
        .listxattr = op_listxattr,
        .removexattr = op_removexattr,
        .fallocate = op_fallocate,
        .copy_file_range = op_copy_file_range,
        .lseek = op_lseek,
};
