/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/objectfs_int.h"

#include <errno.h>
#include <stdio.h>

#include "cas/log.h"
#include "fusefs/connection_int.h"
#include "fusefs/ffs_err.h"
#include "fusefs/fill_int.h"

/* Nothing here ever changes: the kernel may remember it as long as it likes. */
#define FOREVER_S 1e9
/* Node ids: 1 the root, 2 … 257 its directories, 258 that of the opener, from FFS_NODE_FIRST on
 * objects. */
#define DIR_FIRST 2
#define DIR_COUNT 256
#define OPENER_NODE (DIR_FIRST + DIR_COUNT)

/* A request that needs content: served at once, or kept while the owner is away. */
struct pending {
        fuse_req_t req;
        bool is_read;   /* else a lookup */
        bool of_opener; /* lookup */
        struct cas_hash object;
        uint64_t size_bytes;  /* read: of the object */
        uint64_t offset, len; /* read */
};
_Static_assert(sizeof(struct pending) <= FFS_OWNERWAIT_ITEM_BYTES_MAX, "it can wait");

struct ffs_objectfs {
        struct ffs_connection *connection;
        struct ffs_slots *slots;
        struct ffs_reader *reader;
        struct ffs_fill *fill; /* owned */
        struct ffs_ownerwait *wait;
};

/* What each serving thread has for itself. */
struct worker {
        struct cas_buf scratch;
        uint8_t *reply; /* FFS_REQUEST_BYTES_MAX, touched as far as replies go */
};
static __thread struct worker worker;

/* ---- attributes ---- */

static void directory_attr(uint64_t node, struct stat *st)
{
        *st = (struct stat){.st_ino = node,
                            .st_mode = S_IFDIR | 0555,
                            .st_nlink = node == FUSE_ROOT_ID ? DIR_COUNT + 2 : 2,
                            .st_blksize = 4096};
}

/* The inode number follows from the content, so that it is the same after any remount. */
static void object_attr(const struct cas_hash *object, uint64_t size_bytes, struct stat *st)
{
        *st = (struct stat){.st_ino = cas_get_le64(object->bytes) | (UINT64_C(1) << 63),
                            .st_mode = S_IFREG | 0444,
                            .st_nlink = 1,
                            .st_size = (off_t)size_bytes,
                            .st_blocks = (blkcnt_t)((size_bytes + 511) / 512),
                            .st_blksize = 4096};
}

static bool is_directory(uint64_t node)
{
        return node >= DIR_FIRST && node <= OPENER_NODE;
}

/* ---- requests that need content ---- */

static void send_entry(struct ffs_objectfs *fs, fuse_req_t req, uint64_t node,
                       const struct cas_hash *object, uint64_t size_bytes, double entry_s)
{
        struct fuse_entry_param e = {
                .ino = node, .attr_timeout = FOREVER_S, .entry_timeout = entry_s};
        object_attr(object, size_bytes, &e.attr);
        if (fuse_reply_entry(req, &e) == -ENOENT)
                ffs_slots_forget(fs->slots, node, 1); /* the request was interrupted */
}

static void reply_entry(void *arg, fuse_req_t req, uint64_t node, const struct cas_hash *object,
                        uint64_t size_bytes)
{
        send_entry(arg, req, node, object, size_bytes, FOREVER_S);
}

static int serve_lookup(struct ffs_objectfs *fs, const struct pending *p, int timeout_ms,
                        struct cas_err *err)
{
        uint64_t node, size_bytes = 0;
        bool known = ffs_slots_lookup(fs->slots, &p->object, &node, &size_bytes);
        if (!known && (ffs_reader_stat(fs->reader, &p->object, timeout_ms, &size_bytes, err) < 0 ||
                       ffs_slots_insert(fs->slots, &p->object, &size_bytes, &node, err) < 0))
                return -(int)err->code;
        if (p->of_opener)
                /* Its name is not kept: it would stay as long as the inode. */
                send_entry(fs, p->req, node, &p->object, size_bytes, 0);
        else if (known || size_bytes == 0 ||
                 !ffs_fill_lookup(fs->fill, p->req, node, &p->object, size_bytes))
                reply_entry(fs, p->req, node, &p->object, size_bytes);
        return 0;
}

static int serve_read(struct ffs_objectfs *fs, const struct pending *p, int timeout_ms,
                      struct cas_err *err)
{
        if (!worker.reply)
                worker.reply = cas_xmalloc(FFS_REQUEST_BYTES_MAX);
        if (ffs_reader_read(fs->reader, &p->object, p->size_bytes, p->offset, worker.reply, p->len,
                            &worker.scratch, timeout_ms, err) < 0)
                return -(int)err->code;
        (void)fuse_reply_buf(p->req, (const char *)worker.reply, p->len);
        return 0;
}

static void reply_failure(const struct pending *p, const struct cas_err *err)
{
        int error = ffs_errno_of(err->code);
        if (p->is_read || err->code != CAS_E_NOTFOUND) {
                char hex[CAS_HASH_HEX_BYTES];
                cas_log(CAS_LOG_WARN, p->is_read ? "read.failed" : "lookup.failed",
                        "object=%s offset=%ju why=\"%s\"", cas_hash_hex(&p->object, hex),
                        (uintmax_t)p->offset, err->msg);
                error = EIO;
        }
        (void)fuse_reply_err(p->req, error);
}

/* Answers, or says BUSY: the owner is away and the request was not answered. */
static int attempt(void *arg, const void *item, int timeout_ms)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct pending *p = item;
        int rc = p->is_read ? serve_read(arg, p, timeout_ms, &err)
                            : serve_lookup(arg, p, timeout_ms, &err);
        if (rc == -CAS_E_BUSY)
                return rc;
        if (rc < 0)
                reply_failure(p, &err);
        return 0;
}

static void fail(void *arg CAS_UNUSED, const void *item, int error)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct pending *p = item;
        if (error == EINTR) {
                (void)fuse_reply_err(p->req, error);
                return;
        }
        (void)cas_fail(&err, CAS_E_IO, "the owner of the store is away");
        reply_failure(p, &err);
}

static void serve(struct ffs_objectfs *fs, const struct pending *p)
{
        const struct ffs_ownerwait_job job = {.req = p->req,
                                              .attempt = attempt,
                                              .fail = fail,
                                              .arg = fs,
                                              .item = p,
                                              .item_bytes = sizeof(*p)};
        ffs_ownerwait_serve(fs->wait, &job);
}

/* ---- operations ---- */

static void op_init(void *userdata CAS_UNUSED, struct fuse_conn_info *conn)
{
        conn->max_write =
                FFS_REQUEST_BYTES_MAX; /* bounds reads as well: max_pages follows from it */
        conn->max_background = 64;
        conn->congestion_threshold = 48;
        conn->time_gran = 1;
        static const uint64_t wanted[] = {
                FUSE_CAP_ASYNC_READ,      FUSE_CAP_NO_OPEN_SUPPORT,     FUSE_CAP_NO_OPENDIR_SUPPORT,
                FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_EXPLICIT_INVAL_DATA,
        };
        static const uint64_t unwanted[] = {
                FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_SPLICE_READ, FUSE_CAP_SPLICE_WRITE,
                FUSE_CAP_SPLICE_MOVE,     FUSE_CAP_ASYNC_DIO,   FUSE_CAP_WRITEBACK_CACHE,
                FUSE_CAP_OVER_IO_URING,
        };
        for (size_t i = 0; i < CAS_COUNT(wanted); i++)
                (void)fuse_set_feature_flag(conn, wanted[i]);
        for (size_t i = 0; i < CAS_COUNT(unwanted); i++)
                fuse_unset_feature_flag(conn, unwanted[i]);
}

static int hex_digit(char c)
{
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void lookup_directory(fuse_req_t req, const char *name)
{
        int high = hex_digit(name[0]), low = high < 0 ? -1 : hex_digit(name[1]);
        bool opener = strcmp(name, FFS_OPENER_DIR) == 0;
        if (!opener && (low < 0 || name[2] != '\0')) {
                (void)fuse_reply_err(req, ENOENT);
                return;
        }
        struct fuse_entry_param e = {.ino = opener ? OPENER_NODE
                                                   : (fuse_ino_t)(DIR_FIRST + high * 16 + low),
                                     .attr_timeout = FOREVER_S,
                                     .entry_timeout = FOREVER_S};
        directory_attr(e.ino, &e.attr);
        (void)fuse_reply_entry(req, &e);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        struct pending p = {.req = req};
        char hex[CAS_HASH_HEX_BYTES];
        if (parent == FUSE_ROOT_ID) {
                lookup_directory(req, name);
                return;
        }
        /* What is no digest is absent; what is one may come later, so no "no" is kept. */
        p.of_opener = parent == OPENER_NODE;
        if (!is_directory(parent) || strlen(name) != sizeof(hex) - (p.of_opener ? 1 : 3)) {
                (void)fuse_reply_err(req, ENOENT);
                return;
        }
        if (p.of_opener)
                memcpy(hex, name, sizeof(hex));
        else
                (void)snprintf(hex, sizeof(hex), "%02x%s", (unsigned)(parent - DIR_FIRST), name);
        if (cas_hash_from_hex(hex, sizeof(hex) - 1, &p.object))
                serve(fuse_req_userdata(req), &p);
        else
                (void)fuse_reply_err(req, ENOENT);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_objectfs *fs = fuse_req_userdata(req);
        struct stat st;
        struct cas_hash object;
        uint64_t size_bytes;
        if (node == FUSE_ROOT_ID || is_directory(node))
                directory_attr(node, &st);
        else if (ffs_slots_get(fs->slots, node, &object, &size_bytes))
                object_attr(&object, size_bytes, &st);
        else {
                (void)fuse_reply_err(req, ESTALE);
                return;
        }
        (void)fuse_reply_attr(req, &st, FOREVER_S);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_objectfs *fs = fuse_req_userdata(req);
        struct pending p = {.req = req, .is_read = true, .offset = (uint64_t)offset};
        if (!ffs_slots_get(fs->slots, node, &p.object, &p.size_bytes)) {
                (void)fuse_reply_err(req, ESTALE);
                return;
        }
        if (offset < 0 || p.offset >= p.size_bytes) {
                (void)fuse_reply_buf(req, NULL, 0);
                return;
        }
        p.len = cas_min_u64(cas_min_u64(size, FFS_REQUEST_BYTES_MAX), p.size_bytes - p.offset);
        ffs_fill_read(fs->fill, node, &p.object, p.size_bytes, p.offset, p.len);
        serve(fs, &p);
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t count)
{
        struct ffs_objectfs *fs = fuse_req_userdata(req);
        ffs_slots_forget(fs->slots, node, count);
        fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
        struct ffs_objectfs *fs = fuse_req_userdata(req);
        for (size_t i = 0; i < count; i++)
                ffs_slots_forget(fs->slots, forgets[i].ino, forgets[i].nlookup);
        fuse_reply_none(req);
}

/* The root lists its directories; those list nothing. */
static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                       struct fuse_file_info *fi CAS_UNUSED)
{
        char out[8192];
        size_t max = (size_t)cas_min_u64(size, sizeof(out)), len = 0;
        off_t last = node == FUSE_ROOT_ID ? DIR_COUNT + 2 : 2;
        for (off_t i = offset < 0 ? last : offset; i < last; i++) {
                char name[8] = ".";
                struct stat st;
                directory_attr(i < 2 ? node : (uint64_t)(DIR_FIRST + i - 2), &st);
                if (i == 1)
                        (void)snprintf(name, sizeof(name), "..");
                else if (i > 1)
                        (void)snprintf(name, sizeof(name), "%02x", (unsigned)(i - 2) & 0xff);
                size_t n = fuse_add_direntry(req, out + len, max - len, name, &st, i + 1);
                if (n > max - len)
                        break;
                len += n;
        }
        (void)fuse_reply_buf(req, out, len);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node CAS_UNUSED)
{
        struct ffs_objectfs *fs = fuse_req_userdata(req);
        struct statvfs st = {.f_bsize = 4096,
                             .f_frsize = 4096,
                             .f_files = ffs_slots_count(fs->slots),
                             .f_namemax = 62};
        (void)fuse_reply_statfs(req, &st);
}

/* What is not here is answered ENOSYS by libfuse, which the kernel remembers: open, opendir,
 * flush, xattrs, access. */
static const struct fuse_lowlevel_ops operations = {
        .init = op_init,
        .lookup = op_lookup,
        .getattr = op_getattr,
        .read = op_read,
        .forget = op_forget,
        .forget_multi = op_forget_multi,
        .readdir = op_readdir,
        .statfs = op_statfs,
};

/* ---- serving ---- */

static const void *init_load(void *userdata, size_t *len)
{
        const struct ffs_objectfs *fs = userdata;
        return ffs_slots_init(fs->slots, len);
}

static void init_save(void *userdata, const void *request, size_t len)
{
        const struct ffs_objectfs *fs = userdata;
        ffs_slots_save_init(fs->slots, request, len);
}

int ffs_objectfs_start(const struct ffs_objectfs_config *config, struct ffs_objectfs **out,
                       struct cas_err *err)
{
        /* Threads run until the process ends, so nothing here is freed after a failure either. */
        struct ffs_objectfs *fs = cas_xcalloc(1, sizeof(*fs));
        fs->slots = config->slots;
        fs->reader = config->reader;
        fs->fill = ffs_fill_new(reply_entry, fs);
        fs->wait = config->wait;
        struct ffs_connection_config connection = {
                .fuse_fd = config->fuse_fd,
                .ops = &operations,
                .userdata = fs,
                .threads = config->threads,
                .name = "objects",
                .init_load = init_load,
                .init_save = init_save,
        };
        if (ffs_connection_start(&connection, &fs->connection, err) < 0)
                return -(int)err->code;
        *out = fs;
        return 0;
}

int ffs_objectfs_ended_fd(const struct ffs_objectfs *fs)
{
        return ffs_connection_ended_fd(fs->connection);
}

struct ffs_fill *ffs_objectfs_fill(const struct ffs_objectfs *fs)
{
        return fs->fill;
}
