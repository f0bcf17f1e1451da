/* SPDX-License-Identifier: Apache-2.0 */
/* The file system itself (spec/als.md):
 *
 *   /                    names nothing that can be listed
 *   /BASE64(REF)/        any text
 *   /BASE64(REF)/LAYER/  where `find` knows the layer: info, blob, and diff, a
 *                        symbolic link to where it is mounted
 *
 * A node id is made of the names that lead to it, so that a successor of a
 * process that died gives the same ones. It does not know the nodes that the
 * kernel has (ESTALE), but learns them again at once: nothing is valid for longer
 * than the lookup that gave it, so every path is walked from the root. What the
 * kernel forgets is forgotten here. Threads: any; one lock around the table, never
 * held while somebody is asked. */
#include "fusefs/als.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "cas/log.h"
#include "cas/map.h"
#include "cas/mutex.h"
#include "fusefs/connection_int.h"
#include "fusefs/ffs_err.h"
#include "fusefs/kmount_int.h"

#define THREADS 4
#define READ_BYTES_MAX FFS_REQUEST_BYTES_MAX
#define SUBTYPE "lamina-als"
/* The three low bits of a node id. */
#define LEAF_BITS 3
enum leaf { LEAF_SELF, LEAF_INFO, LEAF_DIFF, LEAF_BLOB, LEAF_COUNT };
static const char *const leaf_names[LEAF_COUNT] = {NULL, "info", "diff", "blob"};

/* A reference, or a layer of one. */
struct entry {
        uint64_t node; /* LEAF_SELF */
        char *ref;     /* owned */
        bool is_layer;
        struct cas_digest layer;
        struct ffs_als_layer found;
        uint64_t lookups; /* of all its nodes */
};

struct als_init {
        uint64_t len;
        uint8_t bytes[FFS_INIT_BYTES_MAX];
};
_Static_assert(sizeof(struct als_init) <= FFS_ALS_STATE_BYTES, "the state has room");

struct als {
        const struct ffs_als_ops *ops; /* borrowed, as all of these */
        void *arg;
        struct als_init *init;
        struct cas_mutex mutex;  /* guards all that follows */
        struct cas_map *entries; /* owned; node id -> struct entry */
};

static void entry_free(struct entry *e)
{
        free(e->ref);
        free(e->found.info);
        free(e);
}

static uint64_t self_of(uint64_t node)
{
        return node & ~((UINT64_C(1) << LEAF_BITS) - 1);
}

static enum leaf leaf_of(uint64_t node)
{
        return (enum leaf)(node & ((UINT64_C(1) << LEAF_BITS) - 1));
}

/* layer NULL: of the reference itself. */
static uint64_t node_of(const char *ref, const struct cas_digest *layer)
{
        char digest[CAS_DIGEST_TEXT_BYTES] = "";
        if (layer)
                cas_digest_text(layer, digest);
        cas_cleanup_free char *text = cas_xasprintf("%s%c%s", ref, '\0', digest);
        struct cas_hash hash;
        cas_sha256(text, strlen(ref) + 1 + strlen(digest), &hash);
        return self_of(cas_get_le64(hash.bytes)) | UINT64_C(1) << 63; /* never the root's */
}

/* ---- the table ---- */

static struct entry *entry_get_locked(struct als *a, uint64_t node)
{
        cas_assert_held(&a->mutex);
        uint64_t self = self_of(node);
        uint64_t *at = cas_map_get(a->entries, &self, sizeof(self));
        return at ? (struct entry *)(uintptr_t)*at : NULL;
}

/* The entry of these names, made when it is not there. found is taken over by a new one.
 * NULL: two names have one number. */
static struct entry *entry_put_locked(struct als *a, const char *ref,
                                      const struct cas_digest *layer, struct ffs_als_layer *found)
{
        uint64_t node = node_of(ref, layer);
        struct entry *e = entry_get_locked(a, node);
        if (!e) {
                e = cas_xcalloc(1, sizeof(*e));
                e->node = node;
                e->ref = cas_xstrdup(ref);
                e->is_layer = layer != NULL;
                if (layer)
                        e->layer = *layer;
                if (found) {
                        e->found = *found;
                        *found = (struct ffs_als_layer){0};
                }
                *cas_map_put(a->entries, &node, sizeof(node), NULL) = (uint64_t)(uintptr_t)e;
        }
        bool same = strcmp(e->ref, ref) == 0 && e->is_layer == (layer != NULL) &&
                    (!layer || cas_digest_equal(&e->layer, layer));
        return same ? e : NULL;
}

static void entry_forget(struct als *a, uint64_t node, uint64_t count)
{
        cas_mutex_lock(&a->mutex);
        struct entry *e = entry_get_locked(a, node);
        if (e) {
                /* Some may be of a predecessor's. */
                e->lookups -= cas_min_u64(count, e->lookups);
                if (e->lookups == 0) {
                        (void)cas_map_remove(a->entries, &e->node, sizeof(e->node));
                        entry_free(e);
                }
        }
        cas_mutex_unlock(&a->mutex);
}

/* What is known of a node, out of the table: the strings are the caller's. */
struct known {
        char *ref;
        char *info;
        struct cas_digest layer;
        bool is_layer;
        uint64_t blob_bytes;
        size_t info_bytes;
};

static void known_release(struct known *k)
{
        free(k->ref);
        free(k->info);
}
#define known_cleanup __attribute__((cleanup(known_release)))

static void known_fill_locked(const struct entry *e, struct known *k)
{
        *k = (struct known){.ref = cas_xstrdup(e->ref),
                            .layer = e->layer,
                            .is_layer = e->is_layer,
                            .blob_bytes = e->found.blob_bytes};
        if (e->is_layer) {
                k->info = cas_xstrdup(e->found.info);
                k->info_bytes = strlen(k->info);
        }
}

/* False when a predecessor gave the node: who uses it looks it up again. */
static bool known_get(struct als *a, uint64_t node, struct known *k)
{
        cas_mutex_lock(&a->mutex);
        const struct entry *e = entry_get_locked(a, node);
        if (e)
                known_fill_locked(e, k);
        cas_mutex_unlock(&a->mutex);
        return e != NULL;
}

static struct ffs_als_name name_of(const struct known *k)
{
        return (struct ffs_als_name){.ref = k->ref, .layer = k->layer};
}

/* ---- attributes ---- */

static void attr_dir(uint64_t node, struct stat *out)
{
        *out = (struct stat){.st_ino = node, .st_mode = S_IFDIR | 0755, .st_nlink = 2};
}

static void attr_of(const struct known *k, uint64_t node, struct stat *out)
{
        attr_dir(node, out);
        switch (leaf_of(node)) {
        case LEAF_INFO:
                out->st_mode = S_IFREG | 0444;
                out->st_size = (off_t)k->info_bytes;
                break;
        case LEAF_BLOB:
                out->st_mode = S_IFREG | 0444;
                out->st_size = (off_t)k->blob_bytes;
                break;
        case LEAF_DIFF:
                out->st_mode = S_IFLNK | 0777;
                break;
        case LEAF_SELF:
        case LEAF_COUNT:
                return;
        }
        out->st_nlink = 1;
        out->st_blocks = (out->st_size + 511) / 512;
}

/* ---- names ---- */

static int base64_digit(char c)
{
        static const char digits[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *at = c ? strchr(digits, c) : NULL;
        return at ? (int)(at - digits) : -1;
}

bool ffs_als_ref_decode(const char *text, char out[static FFS_ALS_REF_BYTES_MAX + 1])
{
        size_t len = strlen(text), at = 0, count = 0;
        uint32_t bits = 0;
        if (len == 0 || len % 4 != 0 || len / 4 * 3 > FFS_ALS_REF_BYTES_MAX)
                return false;
        while (len > 0 && text[len - 1] == '=' && count < 2) {
                len--;
                count++;
        }
        for (size_t i = 0; i < len; i++) {
                int digit = base64_digit(text[i]);
                if (digit < 0)
                        return false;
                bits = bits << 6 | (uint32_t)digit;
                if (i % 4 == 0)
                        continue;
                out[at] = (char)(bits >> (6 - 2 * (i % 4)));
                if (out[at++] == '\0')
                        return false;
        }
        out[at] = '\0';
        return true;
}

static int lookup_ref(struct als *a, const char *name, struct known *k, uint64_t *out_node)
{
        char ref[FFS_ALS_REF_BYTES_MAX + 1];
        if (!ffs_als_ref_decode(name, ref))
                return ENOENT;
        cas_mutex_lock(&a->mutex);
        struct entry *e = entry_put_locked(a, ref, NULL, NULL);
        if (e) {
                e->lookups++;
                known_fill_locked(e, k);
                *out_node = e->node;
        }
        cas_mutex_unlock(&a->mutex);
        return e ? 0 : EIO;
}

static void complain(const char *event, const struct ffs_als_name *name, const struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_log(CAS_LOG_WARN, event, "ref=%s layer=%s error=\"%s\"", name->ref,
                cas_digest_text(&name->layer, text), err->msg);
}

/* The layer is asked for each time: it may have gone, or come. */
static int lookup_layer(struct als *a, const struct known *parent, const char *name,
                        struct known *k, uint64_t *out_node)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_als_layer found = {0};
        struct ffs_als_name asked = {.ref = parent->ref};
        if (cas_digest_parse(name, &asked.layer, &err) < 0)
                return ENOENT;
        int rc = a->ops->find(a->arg, &asked, &found, &err);
        if (rc < 0) {
                if (rc != -CAS_E_NOTFOUND)
                        complain("als.find", &asked, &err);
                return rc == -CAS_E_NOTFOUND ? ENOENT : EIO;
        }
        cas_mutex_lock(&a->mutex);
        struct entry *e = entry_put_locked(a, asked.ref, &asked.layer, &found);
        if (e) {
                e->lookups++;
                known_fill_locked(e, k);
                *out_node = e->node;
        }
        cas_mutex_unlock(&a->mutex);
        free(found.info);
        return e ? 0 : EIO;
}

static int lookup_leaf(struct als *a, uint64_t parent, const char *name, struct known *k,
                       uint64_t *out_node)
{
        enum leaf leaf = LEAF_INFO;
        while (leaf < LEAF_COUNT && strcmp(name, leaf_names[leaf]) != 0)
                leaf++;
        if (leaf == LEAF_COUNT)
                return ENOENT;
        cas_mutex_lock(&a->mutex);
        struct entry *e = entry_get_locked(a, parent);
        if (e) {
                e->lookups++;
                known_fill_locked(e, k);
                *out_node = e->node | leaf;
        }
        cas_mutex_unlock(&a->mutex);
        return e ? 0 : ESTALE;
}

static int lookup_any(struct als *a, uint64_t parent, const char *name, struct known *k,
                      uint64_t *out_node)
{
        known_cleanup struct known dir = {0};
        if (parent == FUSE_ROOT_ID)
                return lookup_ref(a, name, k, out_node);
        if (!known_get(a, parent, &dir))
                return ESTALE;
        if (leaf_of(parent) != LEAF_SELF)
                return ENOTDIR;
        return dir.is_layer ? lookup_leaf(a, parent, name, k, out_node)
                            : lookup_layer(a, &dir, name, k, out_node);
}

/* ---- operations ---- */

static struct als *als_of(fuse_req_t req)
{
        return fuse_req_userdata(req);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        struct als *a = als_of(req);
        known_cleanup struct known k = {0};
        struct fuse_entry_param e = {0}; /* of no duration */
        int rc = lookup_any(a, parent, name, &k, &e.ino);
        if (rc != 0) {
                (void)fuse_reply_err(req, rc);
                return;
        }
        attr_of(&k, e.ino, &e.attr);
        if (fuse_reply_entry(req, &e) == -ENOENT)
                entry_forget(a, e.ino, 1); /* nobody waited for it any more */
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t count)
{
        entry_forget(als_of(req), node, count);
        fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
        for (size_t i = 0; i < count; i++)
                entry_forget(als_of(req), forgets[i].ino, forgets[i].nlookup);
        fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi CAS_UNUSED)
{
        known_cleanup struct known k = {0};
        struct stat st;
        if (node == FUSE_ROOT_ID) {
                attr_dir(node, &st);
        } else if (known_get(als_of(req), node, &k)) {
                attr_of(&k, node, &st);
        } else {
                (void)fuse_reply_err(req, ESTALE);
                return;
        }
        (void)fuse_reply_attr(req, &st, 0);
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
        struct als *a = als_of(req);
        known_cleanup struct known k = {0};
        struct cas_err err = CAS_ERR_INIT;
        char path[FFS_ALS_PATH_BYTES];
        if (!known_get(a, node, &k) || !k.is_layer) {
                (void)fuse_reply_err(req, ESTALE);
                return;
        }
        struct ffs_als_name name = name_of(&k);
        int rc = a->ops->mount(a->arg, &name, path, &err);
        if (rc == 0) {
                (void)fuse_reply_readlink(req, path);
                return;
        }
        complain("als.mount", &name, &err);
        (void)fuse_reply_err(req, ffs_errno_of(err.code));
}

/* fh: the blob's descriptor + 1, of this process; a file that a predecessor opened is read by
 * nobody any more but who opened it, and gets EIO. */
static uint64_t handle_of(int fd)
{
        return (uint64_t)getpid() << 32 | ((uint64_t)fd + 1);
}

static int handle_fd(uint64_t fh)
{
        return fh >> 32 == (uint64_t)getpid() ? (int)(fh & UINT32_MAX) - 1 : -1;
}

static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
        struct als *a = als_of(req);
        known_cleanup struct known k = {0};
        struct cas_err err = CAS_ERR_INIT;
        fi->fh = 0;
        if (!known_get(a, node, &k)) {
                (void)fuse_reply_err(req, ESTALE);
                return;
        }
        if ((fi->flags & O_ACCMODE) != O_RDONLY) {
                (void)fuse_reply_err(req, EROFS);
                return;
        }
        int fd = -1;
        if (leaf_of(node) == LEAF_BLOB) {
                struct ffs_als_name name = name_of(&k);
                if (a->ops->blob(a->arg, &name, &fd, &err) < 0) {
                        complain("als.blob", &name, &err);
                        (void)fuse_reply_err(req, ffs_errno_of(err.code));
                        return;
                }
                fi->fh = handle_of(fd);
        }
        if (fuse_reply_open(req, fi) == -ENOENT && fd >= 0)
                (void)close(fd);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t len, off_t offset,
                    struct fuse_file_info *fi)
{
        known_cleanup struct known k = {0};
        if (leaf_of(node) == LEAF_INFO && known_get(als_of(req), node, &k)) {
                size_t at = (size_t)cas_min_u64((uint64_t)offset, k.info_bytes);
                (void)fuse_reply_buf(req, k.info + at, (size_t)cas_min_u64(len, k.info_bytes - at));
                return;
        }
        int fd = handle_fd(fi->fh);
        if (fd < 0) {
                (void)fuse_reply_err(req, EIO);
                return;
        }
        len = (size_t)cas_min_u64(len, READ_BYTES_MAX);
        cas_cleanup_free char *data = cas_xmalloc(len);
        ssize_t n = pread(fd, data, len, offset);
        if (n < 0)
                (void)fuse_reply_err(req, errno);
        else
                (void)fuse_reply_buf(req, data, (size_t)n);
}

static void op_release(fuse_req_t req, fuse_ino_t node CAS_UNUSED, struct fuse_file_info *fi)
{
        int fd = handle_fd(fi->fh);
        if (fd >= 0)
                (void)close(fd);
        (void)fuse_reply_err(req, 0);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node CAS_UNUSED, size_t len CAS_UNUSED,
                       off_t offset CAS_UNUSED, struct fuse_file_info *fi CAS_UNUSED)
{
        (void)fuse_reply_buf(req, NULL, 0); /* names are known to who asks for them */
}

static void use(struct als *a, const struct known *k, bool begins)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_als_name name = name_of(k);
        if (a->ops->use(a->arg, &name, begins, &err) < 0)
                complain(begins ? "als.use" : "als.release", &name, &err);
}

/* Making `use` says that the layer is used. ENOENT is the answer that is understood as "yes". */
static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode CAS_UNUSED,
                      struct fuse_file_info *fi CAS_UNUSED)
{
        known_cleanup struct known k = {0};
        int rc = EROFS;
        if (parent != FUSE_ROOT_ID && !known_get(als_of(req), parent, &k)) {
                rc = ESTALE;
        } else if (k.is_layer && leaf_of(parent) == LEAF_SELF && strcmp(name, "use") == 0) {
                use(als_of(req), &k, true);
                rc = ENOENT;
        }
        (void)fuse_reply_err(req, rc);
}

/* Removing a layer's directory says that it is used no more; so does the answer. */
static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
        known_cleanup struct known k = {0};
        struct cas_err err = CAS_ERR_INIT;
        int rc = EROFS;
        if (parent != FUSE_ROOT_ID && !known_get(als_of(req), parent, &k)) {
                rc = ESTALE;
        } else if (k.ref && !k.is_layer) {
                rc = ENOENT;
                if (cas_digest_parse(name, &k.layer, &err) == 0)
                        use(als_of(req), &k, false);
        }
        (void)fuse_reply_err(req, rc);
}

/* ---- what nobody may ---- */

static void op_mkdir(fuse_req_t req, fuse_ino_t parent CAS_UNUSED, const char *name CAS_UNUSED,
                     mode_t mode CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent CAS_UNUSED, const char *name CAS_UNUSED,
                     mode_t mode CAS_UNUSED, dev_t dev CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

static void op_symlink(fuse_req_t req, const char *text CAS_UNUSED, fuse_ino_t parent CAS_UNUSED,
                       const char *name CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

static void op_link(fuse_req_t req, fuse_ino_t node CAS_UNUSED, fuse_ino_t parent CAS_UNUSED,
                    const char *name CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent CAS_UNUSED, const char *name CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent CAS_UNUSED, const char *name CAS_UNUSED,
                      fuse_ino_t to CAS_UNUSED, const char *to_name CAS_UNUSED,
                      unsigned flags CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

static void op_setattr(fuse_req_t req, fuse_ino_t node CAS_UNUSED, struct stat *st CAS_UNUSED,
                       int set CAS_UNUSED, struct fuse_file_info *fi CAS_UNUSED)
{
        (void)fuse_reply_err(req, EROFS);
}

/* ---- serving ---- */

static void op_init(void *userdata CAS_UNUSED, struct fuse_conn_info *conn)
{
        conn->max_write = FFS_REQUEST_BYTES_MAX;
        static const uint64_t unwanted[] = {FUSE_CAP_SPLICE_READ, FUSE_CAP_SPLICE_WRITE,
                                            FUSE_CAP_SPLICE_MOVE, FUSE_CAP_WRITEBACK_CACHE,
                                            FUSE_CAP_OVER_IO_URING};
        for (size_t i = 0; i < CAS_COUNT(unwanted); i++)
                fuse_unset_feature_flag(conn, unwanted[i]);
}

static const struct fuse_lowlevel_ops operations = {
        .init = op_init,
        .lookup = op_lookup,
        .forget = op_forget,
        .forget_multi = op_forget_multi,
        .getattr = op_getattr,
        .readlink = op_readlink,
        .open = op_open,
        .read = op_read,
        .release = op_release,
        .readdir = op_readdir,
        .create = op_create,
        .rmdir = op_rmdir,
        .mkdir = op_mkdir,
        .mknod = op_mknod,
        .symlink = op_symlink,
        .link = op_link,
        .unlink = op_unlink,
        .rename = op_rename,
        .setattr = op_setattr,
};

static const void *init_load(void *userdata, size_t *len)
{
        const struct als *a = userdata;
        *len = (size_t)cas_min_u64(a->init->len, FFS_INIT_BYTES_MAX);
        return a->init->bytes;
}

static void init_save(void *userdata, const void *request, size_t len)
{
        struct als *a = userdata;
        cas_assert(len <= FFS_INIT_BYTES_MAX);
        memcpy(a->init->bytes, request, len);
        a->init->len = len;
}

static void free_value(void *arg CAS_UNUSED, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       uint64_t value)
{
        entry_free((struct entry *)(uintptr_t)value);
}

int ffs_als_serve(int fuse_fd, void *state, const struct ffs_als_ops *ops, void *arg,
                  void (*started)(void *arg), struct cas_err *err)
{
        struct als a = {.ops = ops, .arg = arg, .init = state};
        struct ffs_connection *connection;
        const struct ffs_connection_config config = {.fuse_fd = fuse_fd,
                                                     .ops = &operations,
                                                     .userdata = &a,
                                                     .threads = THREADS,
                                                     .name = "als",
                                                     .init_load = init_load,
                                                     .init_save = init_save};
        cas_mutex_init(&a.mutex, "als");
        a.entries = cas_map_new();
        if (ffs_connection_start(&config, &connection, err) < 0)
                return -(int)err->code; /* threads may be in it: a failure leaves all as it is */
        if (started)
                started(arg);
        struct pollfd ended = {.fd = ffs_connection_ended_fd(connection), .events = POLLIN};
        while (poll(&ended, 1, -1) < 1)
                ;
        ffs_connection_free(connection);
        cas_map_each(a.entries, free_value, NULL);
        cas_map_free(a.entries);
        cas_mutex_release(&a.mutex);
        return 0;
}

/* ---- mounting ---- */

int ffs_als_mount(const char *dir, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        ffs_cleanup_kmount struct ffs_kmount m = {.context_fd = -1};
        char text[16];
        if (fd < 0)
                return cas_fail_sys(err, errno, "open /dev/fuse");
        (void)snprintf(text, sizeof(text), "%d", fd);
        if (ffs_kmount_open("fuse", &m, err) < 0 || ffs_kmount_set(&m, "fd", text, err) < 0 ||
            ffs_kmount_set(&m, "rootmode", "40000", err) < 0 ||
            ffs_kmount_set(&m, "user_id", "0", err) < 0 ||
            ffs_kmount_set(&m, "group_id", "0", err) < 0 ||
            ffs_kmount_flag(&m, "default_permissions", err) < 0 ||
            ffs_kmount_set(&m, "source", "lamina", err) < 0 ||
            ffs_kmount_set(&m, "subtype", SUBTYPE, err) < 0 ||
            ffs_kmount_finish(&m, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME, dir,
                              err) < 0)
                return -(int)err->code;
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

bool ffs_als_is_mounted(const char *dir)
{
        struct ffs_mount_id id;
        struct cas_err ignored = CAS_ERR_INIT;
        if (ffs_kmount_identify(dir, &id, &ignored) < 0 || !id.is_mount_root)
                return false;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        if (!f)
                return false;
        char *line = NULL;
        size_t alloc = 0;
        bool found = false;
        while (!found && getline(&line, &alloc, f) > 0)
                found = strtoull(line, NULL, 10) == id.mount_id &&
                        strstr(line, " - fuse." SUBTYPE " ") != NULL;
        free(line);
        (void)fclose(f);
        return found;
}

int ffs_als_umount(const char *dir, struct cas_err *err)
{
        if (!ffs_als_is_mounted(dir))
                return cas_fail(err, CAS_E_NOTFOUND, "%s is no additional layer store", dir);
        return ffs_kmount_detach(dir, false, err);
}
