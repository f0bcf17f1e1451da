/* SPDX-License-Identifier: Apache-2.0 */
/* A writable volume on a real mount without the rest of lamina: what treerw*.c asks
 * of the tree file system is here, objects are files of a pattern, and libfuse's
 * requests go straight to it. To be included by one test each: it defines what
 * treefs.c defines. */
#ifndef TESTS_RWBOX_H
#define TESTS_RWBOX_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fusefs/backing_int.h"
#include "fusefs/connection_int.h"
#include "fusefs/treerwcore_int.h"
#include "tests/support/view_text.h"

struct ffs_treefs {
        enum ffs_pages pages;
        struct ffs_nodes *nodes;
        struct ffs_backings *backings;
        struct fuse_session *session;
        struct ffs_volume volume;
        int fuse_fd, nodes_fd, backings_fd;
        char dir[512], objects[512]; /* files of objects are made there … */
        char store[512];             /* … or are there, as XX/YYYY… */
        struct ffs_connection *connection;
        uint8_t init[FFS_INIT_BYTES_MAX];
        size_t init_len;
};

/* ---- what treefs.c gives ---- */

enum ffs_pages ffs_treefs_pages(const struct ffs_treefs *t)
{
        return t->pages;
}
struct ffs_volume *ffs_treefs_volume_get(struct ffs_treefs *t, uint32_t number)
{
        return number == t->volume.number ? &t->volume : NULL;
}
void ffs_treefs_volume_put(struct ffs_treefs *t CAS_UNUSED, struct ffs_volume *v CAS_UNUSED)
{
}
struct ffs_backings *ffs_treefs_backings(struct ffs_treefs *t)
{
        return t->backings;
}
struct ffs_nodes *ffs_treefs_nodes(struct ffs_treefs *t)
{
        return t->nodes;
}
struct fuse_session *ffs_treefs_session(struct ffs_treefs *t)
{
        return t->session;
}
static int rwbox_stored(const struct ffs_treefs *t, const struct cas_hash *object)
{
        char path[700], hex[CAS_HASH_HEX_BYTES];
        (void)cas_hash_hex(object, hex);
        (void)snprintf(path, sizeof(path), "%s/%.2s/%s", t->store, hex, hex + 2);
        return open(path, O_RDONLY | O_CLOEXEC);
}
static void rwbox_content(const struct ffs_treefs *t, const struct cas_hash *object,
                          uint64_t offset, uint8_t *out, size_t len)
{
        if (t->store[0]) {
                cas_cleanup_fd int fd = rwbox_stored(t, object);
                if (pread(fd, out, len, (off_t)offset) != (ssize_t)len)
                        abort();
                return;
        }
        for (size_t i = 0; i < len; i++) {
                uint64_t at = offset + i;
                /* Every fourth page is a hole. */
                out[i] = at / 4096 % 4 == 3 ? 0 : (uint8_t)(object->bytes[at % 31] + at / 4096);
        }
}
void ffs_treefs_reply_object(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                             uint64_t size_bytes CAS_UNUSED, uint64_t offset, size_t len)
{
        cas_cleanup_free uint8_t *out = cas_xmalloc(len + 1);
        rwbox_content(t, object, offset, out, len);
        (void)fuse_reply_buf(req, (const char *)out, len);
}
int ffs_treefs_read_object(struct ffs_treefs *t, const struct cas_hash *object,
                           uint64_t size_bytes CAS_UNUSED, uint64_t offset, void *out, size_t len)
{
        rwbox_content(t, object, offset, out, len);
        return 0;
}
struct rwbox_object {
        struct ffs_treefs *t;
        const struct cas_hash *object;
        uint64_t size_bytes;
};
static int rwbox_open_object(void *arg, int *out_fd)
{
        struct rwbox_object *o = arg;
        char path[600], hex[CAS_HASH_HEX_BYTES];
        if (o->t->store[0]) {
                *out_fd = rwbox_stored(o->t, o->object);
                return *out_fd < 0 ? -EIO : 0;
        }
        cas_cleanup_free uint8_t *data = cas_xmalloc(o->size_bytes + 1);
        (void)cas_hash_hex(o->object, hex);
        (void)snprintf(path, sizeof(path), "%s/%s", o->t->objects, hex);
        rwbox_content(o->t, o->object, 0, data, o->size_bytes);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, data, o->size_bytes) != (ssize_t)o->size_bytes)
                return -EIO;
        *out_fd = fd;
        return 0;
}
void ffs_treefs_reply_open(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                           uint64_t size_bytes, struct fuse_file_info *fi)
{
        struct rwbox_object o = {t, object, size_bytes};
        int32_t id;
        int rc = ffs_backings_get(t->backings, object, ffs_rw_request_unique(), rwbox_open_object,
                                  &o, &id);
        if (rc < 0) {
                (void)fuse_reply_err(req, -rc);
                return;
        }
        fi->backing_id = id;
        (void)fuse_reply_open(req, fi);
}
void ffs_treefs_release_object(struct ffs_treefs *t, const struct cas_hash *object)
{
        ffs_backings_put(t->backings, object, ffs_rw_request_unique(), true);
}
void ffs_treefs_attr(const struct ffs_volume *v, uint64_t vid, const struct cas_inode *inode,
                     struct stat *out)
{
        *out = (struct stat){.st_ino = ffs_view_ino(v->view, vid),
                             .st_mode = inode->mode,
                             .st_nlink = inode->nlink,
                             .st_uid = inode->uid,
                             .st_gid = inode->gid,
                             .st_rdev = inode->rdev,
                             .st_size = (off_t)inode->size_bytes,
                             .st_blocks = (blkcnt_t)((inode->size_bytes + 511) / 512),
                             .st_blksize = 4096,
                             .st_mtim = {inode->mtime_s, inode->mtime_ns},
                             .st_atim = {inode->mtime_s, inode->mtime_ns},
                             .st_ctim = {inode->mtime_s, inode->mtime_ns}};
}

/* ---- libfuse's operations ---- */

static struct ffs_volume *rwbox_volume(fuse_req_t req)
{
        struct ffs_treefs *t = fuse_req_userdata(req);
        return &t->volume;
}
static uint64_t rwbox_node(fuse_req_t req, fuse_ino_t ino)
{
        return ino == FUSE_ROOT_ID ? ffs_rw_root(rwbox_volume(req)->rw) : ino;
}
#define V rwbox_volume(req)
#define N(ino) rwbox_node(req, ino)

static void rwbox_init(void *userdata, struct fuse_conn_info *conn)
{
        struct ffs_treefs *t = userdata;
        static const uint64_t both[] = {
                FUSE_CAP_PARALLEL_DIROPS,    FUSE_CAP_POSIX_ACL,      FUSE_CAP_DONT_MASK,
                FUSE_CAP_READDIRPLUS,        FUSE_CAP_CACHE_SYMLINKS, FUSE_CAP_EXPLICIT_INVAL_DATA,
                FUSE_CAP_HANDLE_KILLPRIV_V2,
        };
        for (size_t i = 0; i < CAS_COUNT(both); i++)
                (void)fuse_set_feature_flag(conn, both[i]);
        fuse_unset_feature_flag(conn, FUSE_CAP_AUTO_INVAL_DATA);
        fuse_unset_feature_flag(conn, FUSE_CAP_READDIRPLUS_AUTO);
        fuse_unset_feature_flag(conn, FUSE_CAP_HANDLE_KILLPRIV);
        fuse_unset_feature_flag(conn, FUSE_CAP_WRITEBACK_CACHE);
        fuse_unset_feature_flag(conn, FUSE_CAP_OVER_IO_URING);
        fuse_unset_feature_flag(conn, FUSE_CAP_SPLICE_READ);
        fuse_unset_feature_flag(conn, FUSE_CAP_SPLICE_WRITE);
        conn->time_gran = 1;
        if (t->pages == FFS_PAGES_PASSTHROUGH) {
                (void)fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
                (void)fuse_set_feature_flag(conn, FUSE_CAP_ATOMIC_O_TRUNC);
                conn->max_backing_stack_depth = 1;
                fuse_unset_feature_flag(conn, FUSE_CAP_NO_OPEN_SUPPORT);
        } else {
                (void)fuse_set_feature_flag(conn, FUSE_CAP_NO_OPEN_SUPPORT);
                fuse_unset_feature_flag(conn, FUSE_CAP_ATOMIC_O_TRUNC);
        }
        (void)fuse_set_feature_flag(conn, FUSE_CAP_NO_OPENDIR_SUPPORT);
}
static void rwbox_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        ffs_rw_lookup(V, req, N(parent), name);
}
static void rwbox_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
        ffs_rw_forget(fuse_req_userdata(req), ino, count);
        fuse_reply_none(req);
}
static void rwbox_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
        for (size_t i = 0; i < count; i++)
                ffs_rw_forget(fuse_req_userdata(req), f[i].ino, f[i].nlookup);
        fuse_reply_none(req);
}
static void rwbox_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        ffs_rw_getattr(V, req, N(ino), fi);
}
static void rwbox_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                          struct fuse_file_info *fi)
{
        ffs_rw_setattr(V, req, N(ino), attr, to_set, fi);
}
static void rwbox_readlink(fuse_req_t req, fuse_ino_t ino)
{
        ffs_rw_readlink(V, req, N(ino));
}
static void rwbox_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                        dev_t rdev)
{
        ffs_rw_mknod(V, req, N(parent), name, mode, rdev);
}
static void rwbox_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
        ffs_rw_mkdir(V, req, N(parent), name, mode);
}
static void rwbox_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        ffs_rw_unlink(V, req, N(parent), name);
}
static void rwbox_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        ffs_rw_rmdir(V, req, N(parent), name);
}
static void rwbox_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
        ffs_rw_symlink(V, req, target, N(parent), name);
}
static void rwbox_rename(fuse_req_t req, fuse_ino_t from, const char *from_name, fuse_ino_t to,
                         const char *to_name, unsigned flags)
{
        ffs_rw_rename(V, req, N(from), from_name, N(to), to_name, flags);
}
static void rwbox_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
        ffs_rw_link(V, req, N(ino), N(parent), name);
}
static void rwbox_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        if (V->rw && ffs_treefs_pages(fuse_req_userdata(req)) == FFS_PAGES_INODE)
                (void)fuse_reply_err(req, ENOSYS);
        else
                ffs_rw_open_file(V, req, N(ino), fi);
}
static void rwbox_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                         struct fuse_file_info *fi)
{
        ffs_rw_create(V, req, N(parent), name, mode, fi);
}
static void rwbox_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
        ffs_rw_tmpfile(V, req, N(parent), mode, fi);
}
static void rwbox_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
        ffs_rw_read(V, req, N(ino), size, offset, fi);
}
static void rwbox_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *data, off_t offset,
                            struct fuse_file_info *fi)
{
        ffs_rw_write(V, req, N(ino), data, offset, fi);
}
static void rwbox_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
        ffs_rw_release(V, req, N(ino), fi);
}
static void rwbox_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
        ffs_rw_fsync(V, req, N(ino), datasync, fi);
}
static void rwbox_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                          struct fuse_file_info *fi)
{
        ffs_rw_readdir(V, req, N(ino), size, offset, false, fi);
}
static void rwbox_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                              struct fuse_file_info *fi)
{
        ffs_rw_readdir(V, req, N(ino), size, offset, true, fi);
}
static void rwbox_statfs(fuse_req_t req, fuse_ino_t ino)
{
        ffs_rw_statfs(V, req, N(ino));
}
static void rwbox_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                           size_t size, int flags)
{
        ffs_rw_setxattr(V, req, N(ino), name, value, size, flags);
}
static void rwbox_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
        ffs_rw_getxattr(V, req, N(ino), name, size);
}
static void rwbox_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
        ffs_rw_listxattr(V, req, N(ino), size);
}
static void rwbox_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
        ffs_rw_removexattr(V, req, N(ino), name);
}
static void rwbox_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                            struct fuse_file_info *fi)
{
        ffs_rw_fallocate(V, req, N(ino), mode, offset, length, fi);
}
static void rwbox_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
                                  struct fuse_file_info *from_fi, fuse_ino_t to, off_t to_offset,
                                  struct fuse_file_info *to_fi, size_t len, int flags)
{
        ffs_rw_copy_file_range(V, req, N(from), from_offset, from_fi, N(to), to_offset, to_fi, len,
                               flags);
}
static void rwbox_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                        struct fuse_file_info *fi)
{
        ffs_rw_lseek(V, req, N(ino), offset, whence, fi);
}
#undef V
#undef N

static const struct fuse_lowlevel_ops rwbox_operations = {
        .init = rwbox_init,
        .lookup = rwbox_lookup,
        .forget = rwbox_forget,
        .forget_multi = rwbox_forget_multi,
        .getattr = rwbox_getattr,
        .setattr = rwbox_setattr,
        .readlink = rwbox_readlink,
        .mknod = rwbox_mknod,
        .mkdir = rwbox_mkdir,
        .unlink = rwbox_unlink,
        .rmdir = rwbox_rmdir,
        .symlink = rwbox_symlink,
        .rename = rwbox_rename,
        .link = rwbox_link,
        .open = rwbox_open,
        .create = rwbox_create,
        .tmpfile = rwbox_tmpfile,
        .read = rwbox_read,
        .write_buf = rwbox_write_buf,
        .release = rwbox_release,
        .fsync = rwbox_fsync,
        .readdir = rwbox_readdir,
        .readdirplus = rwbox_readdirplus,
        .statfs = rwbox_statfs,
        .setxattr = rwbox_setxattr,
        .getxattr = rwbox_getxattr,
        .listxattr = rwbox_listxattr,
        .removexattr = rwbox_removexattr,
        .fallocate = rwbox_fallocate,
        .copy_file_range = rwbox_copy_file_range,
        .lseek = rwbox_lseek,
};

/* ---- mounting ---- */

static const void *rwbox_init_load(void *userdata, size_t *len)
{
        struct ffs_treefs *t = userdata;
        *len = t->init_len;
        return t->init;
}
static void rwbox_init_save(void *userdata, const void *request, size_t len)
{
        struct ffs_treefs *t = userdata;
        memcpy(t->init, request, len);
        t->init_len = len;
}
static void rwbox_seen(void *userdata CAS_UNUSED, uint64_t unique, uint32_t opcode CAS_UNUSED,
                       uint64_t node CAS_UNUSED)
{
        ffs_rw_request_seen(unique);
}
static void rwbox_inited(void *userdata, struct fuse_session *session)
{
        struct ffs_treefs *t = userdata;
        t->session = session;
}

#define rwbox_must(condition)                                                                      \
        do {                                                                                       \
                if (!(condition)) {                                                                \
                        fprintf(stderr, "rwbox: line %d: %s: %s\n", __LINE__, #condition,          \
                                strerror(errno));                                                  \
                        _exit(2);                                                                  \
                }                                                                                  \
        } while (0)

/* The private directory `dir` gets mnt/, box/upper, box/work and objects/. */
static struct ffs_treefs *rwbox_new(const char *dir, enum ffs_pages pages,
                                    enum ffs_upper_format format, struct ffs_view *view)
{
        static const char *const made[] = {"mnt", "box", "box/upper", "box/work", "objects"};
        struct ffs_treefs *t = cas_xcalloc(1, sizeof(*t));
        struct cas_err err = CAS_ERR_INIT;
        char path[600];
        (void)snprintf(t->dir, sizeof(t->dir), "%s", dir);
        (void)snprintf(t->objects, sizeof(t->objects), "%s/objects", dir);
        for (size_t i = 0; i < CAS_COUNT(made); i++) {
                (void)snprintf(path, sizeof(path), "%s/%s", dir, made[i]);
                rwbox_must(mkdir(path, 0755) == 0 || errno == EEXIST);
        }
        t->pages = pages;
        t->volume.number = 1;
        t->volume.view = view;
        t->volume.spec.rw = true;
        t->volume.spec.format = format;
        (void)snprintf(t->volume.spec.id, sizeof(t->volume.spec.id), "test");
        rwbox_must(ffs_nodes_state_create(&t->nodes_fd, &err) == 0);
        rwbox_must(ffs_backings_state_create(&t->backings_fd, &err) == 0);
        t->fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        rwbox_must(t->fuse_fd >= 0);
        return t;
}

static void rwbox_open_volume(struct ffs_treefs *t)
{
        struct cas_err err = CAS_ERR_INIT;
        char path[600];
        rwbox_must(ffs_nodes_open(t->nodes_fd, &t->nodes, &err) == 0);
        rwbox_must(ffs_backings_open(t->backings_fd, t->fuse_fd, &t->backings, &err) == 0);
        (void)snprintf(path, sizeof(path), "%s/box", t->dir);
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rwbox_must(fd >= 0);
        if (ffs_rw_open(t, &t->volume, fd, &t->volume.rw, &err) < 0) {
                fprintf(stderr, "rwbox: %s\n", err.msg);
                _exit(2);
        }
}

static void rwbox_mount(struct ffs_treefs *t)
{
        char path[600], options[200];
        (void)snprintf(path, sizeof(path), "%s/mnt", t->dir);
        (void)snprintf(options, sizeof(options),
                       "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
                       t->fuse_fd);
        rwbox_must(mount("rwbox", path, "fuse.rwbox", 0, options) == 0);
}

static void rwbox_serve(struct ffs_treefs *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_connection_config config = {.fuse_fd = t->fuse_fd,
                                               .ops = &rwbox_operations,
                                               .userdata = t,
                                               .threads = 4,
                                               .name = "rwbox",
                                               .init_load = rwbox_init_load,
                                               .init_save = rwbox_init_save,
                                               .request_seen = rwbox_seen,
                                               .inited = rwbox_inited};
        if (ffs_connection_start(&config, &t->connection, &err) < 0) {
                fprintf(stderr, "rwbox: %s\n", err.msg);
                _exit(2);
        }
}

#endif
