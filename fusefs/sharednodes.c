/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/sharednodes_int.h"

#include <sys/stat.h>

#include "cas/mutex.h"

/* Keys of directories that were used last. A missing one costs reading the directories above. */
#define DIRS_KEPT 1024

struct dir_key {
        uint64_t vid; /* with FFS_NODE_RO's tag and the volume, as a node id; 0: none */
        struct cas_hash key;
};

struct ffs_sharednodes {
        struct ffs_slots *slots;
        struct cas_mutex mutex; /* guards dirs; leaf */
        struct dir_key dirs[DIRS_KEPT];
};

const struct ffs_slots_kind ffs_slots_shared = FFS_SLOTS_KIND(
        "shared", sizeof(struct ffs_shared_file), (uint64_t)FFS_NODE_SHARED << 62, 30, 0);

struct ffs_sharednodes *ffs_sharednodes_new(struct ffs_slots *slots)
{
        struct ffs_sharednodes *s = cas_xcalloc(1, sizeof(*s));
        cas_mutex_init(&s->mutex, "sharednodes");
        s->slots = slots;
        return s;
}

void ffs_sharednodes_free(struct ffs_sharednodes *s)
{
        if (!s)
                return;
        cas_mutex_release(&s->mutex);
        free(s);
}

static bool dir_key(struct ffs_sharednodes *s, const struct ffs_volume *v, uint64_t dir,
                    struct cas_hash *out)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t node = ffs_node_ro(v->number, dir);
        struct dir_key *kept = &s->dirs[(node * UINT64_C(0x9e3779b97f4a7c15) >> 32) % DIRS_KEPT];
        cas_mutex_lock(&s->mutex);
        bool found = kept->vid == node;
        if (found)
                *out = kept->key;
        cas_mutex_unlock(&s->mutex);
        if (found)
                return true;
        if (ffs_view_dir_key(v->view, dir, out, &err) < 0)
                return false;
        cas_mutex_lock(&s->mutex);
        kept->vid = node;
        kept->key = *out;
        cas_mutex_unlock(&s->mutex);
        return true;
}

static bool found_xattr(void *arg, const char *name CAS_UNUSED, const void *value CAS_UNUSED,
                        size_t len CAS_UNUSED)
{
        *(bool *)arg = true;
        return false;
}

/* Describes what can be shared: a file or symbolic link of one name, without xattrs, whose content
 * fits. */
static bool describe(const struct ffs_volume *v, uint64_t vid, const struct cas_inode *i,
                     struct ffs_shared_file *out)
{
        struct cas_err err = CAS_ERR_INIT;
        const void *data;
        size_t len;
        bool has_xattr = false;
        if (i->nlink != 1 || !(S_ISREG(i->mode) || S_ISLNK(i->mode)) ||
            ffs_view_xattrs(v->view, vid, found_xattr, &has_xattr, &err) < 0 || has_xattr)
                return false;
        *out = (struct ffs_shared_file){.mode = i->mode,
                                        .uid = ffs_idmap_uid_to_host(&v->spec.map, i->uid),
                                        .gid = ffs_idmap_gid_to_host(&v->spec.map, i->gid),
                                        .mtime_s = i->mtime_s,
                                        .mtime_ns = i->mtime_ns,
                                        .size_bytes = i->size_bytes,
                                        .has_object = i->has_object};
        if (i->has_object) {
                memcpy(out->data, i->object.bytes, sizeof(i->object.bytes));
                return true;
        }
        if (ffs_view_inline(v->view, vid, &data, &len, &err) < 0 || len > sizeof(out->data))
                return false;
        memcpy(out->data, data, len);
        return true;
}

/* The number follows from the key; 63 bits of a view's are never like it. */
static void attributes(const struct ffs_shared_file *f, const struct cas_hash *key, struct stat *st)
{
        *st = (struct stat){.st_ino = cas_get_le64(key->bytes) | (UINT64_C(1) << 63),
                            .st_mode = f->mode,
                            .st_nlink = 1,
                            .st_uid = f->uid,
                            .st_gid = f->gid,
                            .st_size = (off_t)f->size_bytes,
                            .st_blocks = (blkcnt_t)((f->size_bytes + 511) / 512),
                            .st_blksize = 4096,
                            .st_mtim = {.tv_sec = f->mtime_s, .tv_nsec = f->mtime_ns}};
        st->st_atim = st->st_ctim = st->st_mtim;
}

bool ffs_sharednodes_lookup(struct ffs_sharednodes *s, const struct ffs_volume *v, uint64_t dir,
                            const char *name, size_t name_len, uint64_t vid,
                            const struct cas_inode *inode, uint64_t *node, struct stat *st)
{
        struct cas_err err = CAS_ERR_INIT;
        struct {
                struct ffs_shared_file file;
                struct cas_hash dir;
                char name[CAS_NAME_BYTES_MAX];
        } whole;
        struct cas_hash key;
        if (name_len > sizeof(whole.name) || !describe(v, vid, inode, &whole.file) ||
            !dir_key(s, v, dir, &whole.dir))
                return false;
        memcpy(whole.name, name, name_len);
        cas_sha256(&whole, sizeof(whole.file) + sizeof(whole.dir) + name_len, &key);
        if (ffs_slots_insert(s->slots, &key, &whole.file, node, &err) < 0)
                return false; /* the table is full: nothing is lost but sharing */
        attributes(&whole.file, &key, st);
        return true;
}

bool ffs_sharednodes_get(struct ffs_sharednodes *s, uint64_t node, struct ffs_shared_file *out,
                         struct stat *st)
{
        struct cas_hash key;
        if (!ffs_slots_get(s->slots, node, &key, out))
                return false;
        attributes(out, &key, st);
        return true;
}

void ffs_sharednodes_forget(struct ffs_sharednodes *s, uint64_t node, uint64_t count)
{
        ffs_slots_forget(s->slots, node, count);
}
