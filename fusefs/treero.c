/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/treero_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/buf.h"
#include "cas/log.h"
#include "fusefs/backing_int.h"
#include "fusefs/connection_int.h"
#include "fusefs/ffs_err.h"
#include "fusefs/opener_int.h"
#include "fusefs/ownerwait_int.h"
#include "fusefs/sharednodes_int.h"

#define DIRENTS_BYTES_MAX (128 * 1024)
/* A file of the image's that was opened with a backing id, so that its release counts. */
#define FH_BACKED 1

/* ---- errors ---- */

static void reply_error(fuse_req_t req, const struct cas_err *err)
{
        if (err->code != CAS_E_NOTFOUND)
                cas_log(CAS_LOG_WARN, "tree.failed", "why=\"%s\"", err->msg);
        (void)fuse_reply_err(req, ffs_errno_of(err->code));
}

/* The inode of a node that the kernel has; what is damaged is EIO. */
static bool inode_or_reply(const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                           struct cas_inode *out)
{
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_view_inode(v->view, vid, out, &err) == 0)
                return true;
        reply_error(req, &err);
        return false;
}

/* ---- names ---- */

/* A node for what a name stands for, counted. */
static int entry_of(struct ffs_treefs *t, struct ffs_volume *v, uint64_t dir, const char *name,
                    size_t name_len, uint64_t vid, struct fuse_entry_param *out,
                    struct cas_err *err)
{
        struct cas_inode inode;
        *out = (struct fuse_entry_param){.attr_timeout = FFS_TREEFS_FOREVER_S,
                                         .entry_timeout = FFS_TREEFS_FOREVER_S};
        if (ffs_view_inode(v->view, vid, &inode, err) < 0)
                return -(int)err->code;
        if (ffs_sharednodes_lookup(ffs_treefs_shared(t), v, dir, name, name_len, vid, &inode,
                                   &out->ino, &out->attr))
                return 0;
        out->ino = ffs_node_ro(v->number, vid);
        ffs_treefs_attr(v, vid, &inode, &out->attr);
        ffs_treefs_known(v, 1);
        return 0;
}

/* The kernel did not get it. */
static void entry_forget(struct ffs_treefs *t, struct ffs_volume *v, uint64_t node)
{
        if (ffs_node_kind(node) == FFS_NODE_SHARED)
                ffs_sharednodes_forget(ffs_treefs_shared(t), node, 1);
        else
                ffs_treefs_known(v, -1);
}

void ffs_ro_lookup(struct ffs_treefs *t, struct ffs_volume *v, fuse_req_t req, uint64_t dir,
                   const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        struct fuse_entry_param e;
        uint64_t vid;
        size_t len = strlen(name);
        int rc = ffs_view_lookup(v->view, dir, name, len, &vid, &err);
        if (rc == -CAS_E_NOTFOUND) {
                /* Node 0: an absence that the kernel may remember. */
                e = (struct fuse_entry_param){.entry_timeout = FFS_TREEFS_FOREVER_S};
                (void)fuse_reply_entry(req, &e);
                return;
        }
        if (rc < 0 || entry_of(t, v, dir, name, len, vid, &e, &err) < 0)
                reply_error(req, &err);
        else if (fuse_reply_entry(req, &e) == -ENOENT)
                entry_forget(t, v, e.ino); /* the request was interrupted */
}

int ffs_ro_root_entry(struct ffs_volume *v, struct fuse_entry_param *out, struct cas_err *err)
{
        struct cas_inode inode;
        uint64_t vid = ffs_view_root(v->view);
        if (ffs_view_inode(v->view, vid, &inode, err) < 0)
                return -(int)err->code;
        *out = (struct fuse_entry_param){.ino = ffs_node_ro(v->number, vid),
                                         .attr_timeout = FFS_TREEFS_FOREVER_S,
                                         .entry_timeout = FFS_TREEFS_FOREVER_S};
        ffs_treefs_attr(v, vid, &inode, &out->attr);
        ffs_treefs_known(v, 1);
        return 0;
}

/* ---- listing ---- */

struct listing {
        struct ffs_treefs *t;
        struct ffs_volume *v;
        fuse_req_t req;
        uint64_t dir;
        bool plus;
        char *out;
        size_t len, room;
        uint64_t *given; /* nodes in the answer, when plus */
        size_t given_count;
        struct cas_err err;
        int rc;
};

/* Offsets are the view's cookies behind those of "." and "..". */
#define COOKIES_FROM 2

static bool listing_add(struct listing *l, const char *name, const struct fuse_entry_param *e,
                        off_t next)
{
        size_t n = l->plus ? fuse_add_direntry_plus(l->req, l->out + l->len, l->room - l->len, name,
                                                    e, next)
                           : fuse_add_direntry(l->req, l->out + l->len, l->room - l->len, name,
                                               &e->attr, next);
        if (n > l->room - l->len)
                return false;
        l->len += n;
        return true;
}

static bool listing_name(void *arg, const char *name, size_t name_len, uint64_t vid, uint8_t type,
                         uint64_t next)
{
        struct listing *l = arg;
        char text[CAS_NAME_BYTES_MAX + 1];
        struct fuse_entry_param e = {
                .attr = {.st_ino = ffs_view_ino(l->v->view, vid), .st_mode = (mode_t)DTTOIF(type)}};
        memcpy(text, name, name_len);
        text[name_len] = '\0';
        if (l->plus) {
                l->rc = entry_of(l->t, l->v, l->dir, name, name_len, vid, &e, &l->err);
                if (l->rc < 0)
                        return false;
        }
        bool fits = listing_add(l, text, &e, (off_t)(next + COOKIES_FROM));
        if (l->plus && fits)
                l->given[l->given_count++] = e.ino;
        else if (l->plus)
                entry_forget(l->t, l->v, e.ino);
        return fits;
}

/* "." and "..", which the kernel looks up itself. False: no room. */
static bool listing_dots(struct listing *l, off_t *offset)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t parent = l->dir;
        if (*offset < 1) {
                struct fuse_entry_param e = {
                        .attr = {.st_ino = ffs_view_ino(l->v->view, l->dir), .st_mode = S_IFDIR}};
                if (!listing_add(l, ".", &e, 1))
                        return false;
                *offset = 1;
        }
        if (*offset < 2) {
                if (ffs_view_parent(l->v->view, l->dir, &parent, &err) < 0)
                        parent = l->dir;
                struct fuse_entry_param e = {
                        .attr = {.st_ino = ffs_view_ino(l->v->view, parent), .st_mode = S_IFDIR}};
                if (!listing_add(l, "..", &e, 2))
                        return false;
                *offset = 2;
        }
        return true;
}

void ffs_ro_readdir(struct ffs_treefs *t, struct ffs_volume *v, fuse_req_t req, uint64_t dir,
                    size_t size, off_t offset, bool plus)
{
        size_t room = (size_t)cas_min_u64(size, DIRENTS_BYTES_MAX);
        struct cas_inode inode;
        if (!inode_or_reply(v, req, dir, &inode)) /* before its number is asked for */
                return;
        cas_cleanup_free char *out = cas_xmalloc(room + 1);
        /* An entry of readdirplus has 152 bytes at least. */
        cas_cleanup_free uint64_t *given = cas_xmalloc((room / 128 + 1) * sizeof(given[0]));
        struct listing l = {.t = t,
                            .v = v,
                            .req = req,
                            .dir = dir,
                            .plus = plus,
                            .out = out,
                            .room = room,
                            .given = given,
                            .err = CAS_ERR_INIT};
        if (offset < 0)
                offset = 0;
        if (listing_dots(&l, &offset)) {
                uint64_t cookie = (uint64_t)offset - COOKIES_FROM;
                if (ffs_view_readdir(v->view, dir, &cookie, listing_name, &l, &l.err) < 0)
                        l.rc = -(int)l.err.code;
        }
        /* What was read before the damage is shown; who goes on meets it. */
        if (l.rc < 0 && l.len == 0)
                reply_error(req, &l.err);
        else if (fuse_reply_buf(req, out, l.len) == -ENOENT)
                for (size_t i = 0; i < l.given_count; i++)
                        entry_forget(t, v, given[i]);
}

/* ---- attributes ---- */

void ffs_ro_getattr(const struct ffs_volume *v, fuse_req_t req, uint64_t vid)
{
        struct cas_inode inode;
        struct stat st;
        if (!inode_or_reply(v, req, vid, &inode))
                return;
        ffs_treefs_attr(v, vid, &inode, &st);
        (void)fuse_reply_attr(req, &st, FFS_TREEFS_FOREVER_S);
}

static void reply_link(fuse_req_t req, const void *text, size_t len)
{
        char target[CAS_SYMLINK_BYTES_MAX + 1];
        if (len > CAS_SYMLINK_BYTES_MAX) {
                (void)fuse_reply_err(req, EIO);
                return;
        }
        memcpy(target, text, len);
        target[len] = '\0';
        (void)fuse_reply_readlink(req, target);
}

void ffs_ro_readlink(const struct ffs_volume *v, fuse_req_t req, uint64_t vid)
{
        struct cas_err err = CAS_ERR_INIT;
        const void *text;
        size_t len;
        if (ffs_view_inline(v->view, vid, &text, &len, &err) < 0)
                reply_error(req, &err);
        else
                reply_link(req, text, len);
}

void ffs_ro_statfs(const struct ffs_volume *v, fuse_req_t req)
{
        struct statvfs st = {.f_bsize = 4096,
                             .f_frsize = 4096,
                             .f_files = ffs_view_entry_count(v->view),
                             .f_namemax = CAS_NAME_BYTES_MAX};
        (void)fuse_reply_statfs(req, &st);
}

/* ---- xattrs ---- */

struct xattr_search {
        const char *name;
        const void *value; /* NULL: not found */
        size_t len;
};

static bool xattr_matches(void *arg, const char *name, const void *value, size_t len)
{
        struct xattr_search *s = arg;
        if (strcmp(name, s->name) != 0)
                return true;
        s->value = value;
        s->len = len;
        return false;
}

static void reply_xattr(fuse_req_t req, const void *value, size_t len, size_t size)
{
        if (size == 0)
                (void)fuse_reply_xattr(req, len);
        else if (len > size)
                (void)fuse_reply_err(req, ERANGE);
        else
                (void)fuse_reply_buf(req, value, len);
}

void ffs_ro_getxattr(const struct ffs_volume *v, fuse_req_t req, uint64_t vid, const char *name,
                     size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct xattr_search s = {.name = name};
        if (ffs_view_xattrs(v->view, vid, xattr_matches, &s, &err) < 0) {
                reply_error(req, &err);
        } else if (!s.value) {
                (void)fuse_reply_err(req, ENODATA);
        } else {
                cas_cleanup_free uint8_t *value = cas_xmalloc(s.len + FFS_IDMAP_XATTR_GROWTH);
                memcpy(value, s.value, s.len);
                size_t len = ffs_idmap_xattr_to_host(&v->spec.map, name, value, s.len);
                reply_xattr(req, value, len, size);
        }
}

static bool xattr_list(void *arg, const char *name, const void *value CAS_UNUSED,
                       size_t len CAS_UNUSED)
{
        cas_buf_append(arg, name, strlen(name) + 1);
        return ((struct cas_buf *)arg)->len_bytes <= CAS_XATTRS_BYTES_MAX;
}

void ffs_ro_listxattr(const struct ffs_volume *v, fuse_req_t req, uint64_t vid, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf names = CAS_BUF_INIT;
        if (ffs_view_xattrs(v->view, vid, xattr_list, &names, &err) < 0)
                reply_error(req, &err);
        else
                reply_xattr(req, names.data, names.len_bytes, size);
}

/* ---- files ---- */

/* An open that needs a backing file. */
struct opening {
        fuse_req_t req;
        uint64_t unique;
        struct cas_hash object;
        uint64_t size_bytes;
        struct fuse_file_info fi;
};
_Static_assert(sizeof(struct opening) <= FFS_OWNERWAIT_ITEM_BYTES_MAX, "it can wait");

struct making {
        struct ffs_treefs *t;
        const struct opening *o;
        int timeout_ms;
};

/* Asks the owner first: what the opener waits for cannot be interrupted. */
static int make_backing(void *arg, int *out_fd)
{
        const struct making *m = arg;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t size_bytes;
        int rc = ffs_reader_stat(ffs_treefs_reader(m->t), &m->o->object, m->timeout_ms, &size_bytes,
                                 &err);
        if (rc == -CAS_E_BUSY)
                return -EAGAIN;
        if (rc < 0) {
                cas_log(CAS_LOG_WARN, "open.failed", "why=\"%s\"", err.msg);
                return -EIO;
        }
        return ffs_opener_open(ffs_treefs_opener(m->t), &m->o->object,
                               cas_min_u64(m->o->size_bytes, FFS_REQUEST_BYTES_MAX), m->timeout_ms,
                               out_fd);
}

/* Pages in this connection's inode. */
static void reply_cached(fuse_req_t req, struct fuse_file_info *fi)
{
        fi->keep_cache = 1;
        fi->noflush = 1;
        fi->fh = 0;
        (void)fuse_reply_open(req, fi);
}

static int opening_attempt(void *arg, const void *item, int timeout_ms)
{
        struct ffs_treefs *t = arg;
        const struct opening *o = item;
        struct making m = {.t = t, .o = o, .timeout_ms = timeout_ms};
        struct fuse_file_info fi = o->fi;
        int32_t id;
        int rc = ffs_backings_get(ffs_treefs_backings(t), &o->object, o->unique, make_backing, &m,
                                  &id);
        if (rc == -EAGAIN)
                return -CAS_E_BUSY;
        if (rc == -EPERM || rc == -ELOOP || rc == -EOPNOTSUPP) {
                reply_cached(o->req, &fi); /* and so is every other open of it */
        } else if (rc < 0) {
                (void)fuse_reply_err(o->req, -rc);
        } else {
                fi.backing_id = id;
                fi.noflush = 1;
                if (fuse_reply_open(o->req, &fi) == -ENOENT) /* interrupted: no release follows */
                        ffs_backings_put(ffs_treefs_backings(t), &o->object, 0, true);
        }
        return 0;
}

static void opening_fail(void *arg CAS_UNUSED, const void *item, int error)
{
        const struct opening *o = item;
        (void)fuse_reply_err(o->req, error);
}

void ffs_treefs_reply_open(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                           uint64_t size_bytes, struct fuse_file_info *fi)
{
        if (!ffs_treefs_opener(t)) {
                reply_cached(req, fi);
                return;
        }
        struct opening o = {.req = req,
                            .unique = ffs_treefs_unique(),
                            .object = *object,
                            .size_bytes = size_bytes,
                            .fi = *fi};
        const struct ffs_ownerwait_job job = {.req = req,
                                              .attempt = opening_attempt,
                                              .fail = opening_fail,
                                              .arg = t,
                                              .item = &o,
                                              .item_bytes = sizeof(o)};
        ffs_ownerwait_serve(ffs_treefs_wait(t), &job);
}

void ffs_treefs_release_object(struct ffs_treefs *t, const struct cas_hash *object)
{
        ffs_backings_put(ffs_treefs_backings(t), object, ffs_treefs_unique(), true);
}

/* object NULL: the content is in the tree. */
static void open_file(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                      uint64_t size_bytes, struct fuse_file_info *fi)
{
        if (ffs_treefs_pages(t) == FFS_PAGES_INODE) {
                (void)fuse_reply_err(req, ENOSYS); /* once: the kernel never asks again */
        } else if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
                (void)fuse_reply_err(req, EROFS);
        } else if (!object) {
                reply_cached(req, fi);
        } else {
                fi->fh = FH_BACKED;
                ffs_treefs_reply_open(t, req, object, size_bytes, fi);
        }
}

static void release_file(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                         const struct fuse_file_info *fi)
{
        if (object && fi->fh == FH_BACKED)
                ffs_treefs_release_object(t, object);
        (void)fuse_reply_err(req, 0);
}

/* [offset, offset + size) of what the tree holds itself. */
static void reply_inline(fuse_req_t req, const uint8_t *data, uint64_t len, size_t size,
                         off_t offset)
{
        if (offset < 0 || (uint64_t)offset >= len)
                (void)fuse_reply_buf(req, NULL, 0);
        else
                (void)fuse_reply_buf(req, (const char *)data + offset,
                                     (size_t)cas_min_u64(size, len - (uint64_t)offset));
}

void ffs_ro_open(struct ffs_treefs *t, const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                 struct fuse_file_info *fi)
{
        struct cas_inode inode;
        if (inode_or_reply(v, req, vid, &inode))
                open_file(t, req, inode.has_object ? &inode.object : NULL, inode.size_bytes, fi);
}

void ffs_ro_release(struct ffs_treefs *t, const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                    const struct fuse_file_info *fi)
{
        struct cas_inode inode;
        if (inode_or_reply(v, req, vid, &inode))
                release_file(t, req, inode.has_object ? &inode.object : NULL, fi);
}

void ffs_ro_read(struct ffs_treefs *t, const struct ffs_volume *v, fuse_req_t req, uint64_t vid,
                 size_t size, off_t offset)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_inode inode;
        const void *data;
        size_t len;
        if (!inode_or_reply(v, req, vid, &inode))
                return;
        if (inode.has_object)
                ffs_treefs_reply_object(t, req, &inode.object, inode.size_bytes, (uint64_t)offset,
                                        size);
        else if (ffs_view_inline(v->view, vid, &data, &len, &err) < 0)
                reply_error(req, &err);
        else
                reply_inline(req, data, len, size, offset);
}

/* ---- shared nodes ---- */

static bool shared_or_reply(struct ffs_treefs *t, fuse_req_t req, uint64_t node,
                            struct ffs_shared_file *out, struct stat *st, struct cas_hash *object)
{
        if (!ffs_sharednodes_get(ffs_treefs_shared(t), node, out, st)) {
                (void)fuse_reply_err(req, ESTALE);
                return false;
        }
        memcpy(object->bytes, out->data, sizeof(object->bytes));
        return true;
}

void ffs_shared_getattr(struct ffs_treefs *t, fuse_req_t req, uint64_t node)
{
        struct ffs_shared_file f;
        struct cas_hash object;
        struct stat st;
        if (shared_or_reply(t, req, node, &f, &st, &object))
                (void)fuse_reply_attr(req, &st, FFS_TREEFS_FOREVER_S);
}

void ffs_shared_readlink(struct ffs_treefs *t, fuse_req_t req, uint64_t node)
{
        struct ffs_shared_file f;
        struct cas_hash object;
        struct stat st;
        if (shared_or_reply(t, req, node, &f, &st, &object))
                reply_link(req, f.data, (size_t)f.size_bytes);
}

void ffs_shared_open(struct ffs_treefs *t, fuse_req_t req, uint64_t node, struct fuse_file_info *fi)
{
        struct ffs_shared_file f;
        struct cas_hash object;
        struct stat st;
        if (shared_or_reply(t, req, node, &f, &st, &object))
                open_file(t, req, f.has_object ? &object : NULL, f.size_bytes, fi);
}

void ffs_shared_release(struct ffs_treefs *t, fuse_req_t req, uint64_t node,
                        const struct fuse_file_info *fi)
{
        struct ffs_shared_file f;
        struct cas_hash object;
        struct stat st;
        if (shared_or_reply(t, req, node, &f, &st, &object))
                release_file(t, req, f.has_object ? &object : NULL, fi);
}

void ffs_shared_read(struct ffs_treefs *t, fuse_req_t req, uint64_t node, size_t size, off_t offset)
{
        struct ffs_shared_file f;
        struct cas_hash object;
        struct stat st;
        if (!shared_or_reply(t, req, node, &f, &st, &object))
                return;
        if (f.has_object)
                ffs_treefs_reply_object(t, req, &object, f.size_bytes, (uint64_t)offset, size);
        else
                reply_inline(req, f.data, f.size_bytes, size, offset);
}
