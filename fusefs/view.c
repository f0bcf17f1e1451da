/* SPDX-License-Identifier: Apache-2.0 */
/* Merges mapped trees by name, as overlayfs merges them (spec/tree.md): what is
 * on top hides what has its name below, but directories join unless the upper one
 * is opaque.
 *
 * A directory's vid tells only where its topmost part is. The parts below are
 * remembered when the directory is found by name; a process that was not asked
 * for that name (it took over) finds all of them by one walk of the directories of the
 * upper trees. The directories of the lowest tree need nothing of it.
 *
 * Damaged trees may hold loops. Nothing here recurses; walks end after as many names
 * as the trees say they have. A directory of an upper tree that is found in two
 * places is CORRUPT. */
#include "fusefs/view_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cas/buf.h"
#include "cas/map.h"
#include "cas/mutex.h"

#define NID_BITS 40
#define NO_NID UINT32_MAX /* trees are below 64 GiB and nids 32 bytes each */
#define NIDS_MAX (CAS_TREE_BYTES_MAX / 32)
_Static_assert(NIDS_MAX < NO_NID, "a nid fits");
#define COOKIE_BITS 58

/* The parts of a directory, NO_NID where a tree has none. */
struct parts {
        uint32_t nid[FFS_VIEW_TREES_MAX];
};

struct link_dir {
        uint32_t parent; /* in dirs; the root is its own */
        uint32_t name_len;
        const char *name; /* in the map */
        uint64_t vid;
        bool used;
};

struct link_name {
        uint64_t vid;
        uint32_t dir; /* in dirs */
        uint32_t name_len;
        const char *name; /* in the map */
};

/* Names of inodes that have several, sorted by vid; immutable when made. */
struct links {
        struct link_dir *dirs;
        struct link_name *names;
        size_t dir_count, name_count;
};

struct ffs_view {
        atomic_uint refs;
        size_t count;
        struct cas_tree *trees[FFS_VIEW_TREES_MAX]; /* owned */
        struct cas_digest digests[FFS_VIEW_TREES_MAX];
        struct parts root;
        uint64_t names_max;     /* that a walk may meet */
        struct cas_mutex mutex; /* guards all below; leaf */
        struct cas_map *merged; /* vid of a directory above the lowest tree -> 1 + place */
        struct parts *places;
        size_t place_count;
        bool walked; /* or tried to: what is not known now is not there */
        struct links *links;
};

/* ---- vids ---- */

static uint64_t vid_make(size_t tree, uint32_t nid)
{
        return (uint64_t)tree << NID_BITS | nid;
}

static int vid_split(const struct ffs_view *v, uint64_t vid, size_t *tree, uint32_t *nid,
                     struct cas_err *err)
{
        uint64_t number = vid & ((UINT64_C(1) << NID_BITS) - 1);
        if (vid >> NID_BITS >= v->count || number >= NIDS_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "no inode has the number %#llx",
                                (unsigned long long)vid);
        *tree = (size_t)(vid >> NID_BITS);
        *nid = (uint32_t)number;
        return 0;
}

static int nid_check(uint64_t nid, struct cas_err *err)
{
        if (nid < NIDS_MAX)
                return 0;
        return cas_fail(err, CAS_E_CORRUPT, "tree: inode %llu is outside of it",
                        (unsigned long long)nid);
}

/* ---- opening ---- */

static void links_free(struct links *l)
{
        if (!l)
                return;
        free(l->dirs);
        free(l->names);
        free(l);
}
CAS_DEFINE_CLEANUP(cleanup_links_, struct links *, links_free);
#define cleanup_links __attribute__((cleanup(cleanup_links_)))

static void view_free(struct ffs_view *v)
{
        for (size_t i = 0; i < v->count; i++)
                cas_tree_close(v->trees[i]);
        cas_map_free(v->merged);
        free(v->places);
        links_free(v->links);
        cas_mutex_release(&v->mutex);
        free(v);
}

/* What the topmost part of a directory adds to it, and whether anything below still shows. */
static int part_add(const struct ffs_view *v, size_t tree, uint64_t nid, struct parts *p,
                    bool *covers, struct cas_err *err)
{
        struct cas_inode inode;
        if (cas_tree_inode(v->trees[tree], nid, &inode, err) < 0)
                return -(int)err->code;
        if (S_ISDIR(inode.mode))
                p->nid[tree] = (uint32_t)nid;
        *covers = !S_ISDIR(inode.mode) || inode.opaque;
        return 0;
}

static int view_init_root(struct ffs_view *v, struct cas_err *err)
{
        bool covered = false;
        for (size_t i = 0; i < FFS_VIEW_TREES_MAX; i++)
                v->root.nid[i] = NO_NID;
        for (size_t i = 0; i < v->count && !covered; i++) {
                uint64_t nid = cas_tree_root(v->trees[i]);
                if (nid_check(nid, err) < 0 || part_add(v, i, nid, &v->root, &covered, err) < 0)
                        return cas_err_wrap(err, "root");
        }
        return 0;
}

int ffs_view_new(const struct cas_digest *digests, struct cas_tree *const *trees, size_t count,
                 struct ffs_view **out, struct cas_err *err)
{
        cas_assert(count >= 1);
        cas_assert(count <= FFS_VIEW_TREES_MAX);
        struct ffs_view *v = cas_xcalloc(1, sizeof(*v));
        atomic_init(&v->refs, 1);
        cas_mutex_init(&v->mutex, "view");
        v->merged = cas_map_new();
        v->count = count;
        for (size_t i = 0; i < count; i++) {
                v->trees[i] = trees[i];
                v->digests[i] = digests[i];
                v->names_max += cas_min_u64(cas_tree_entry_count(trees[i]), CAS_TREE_ENTRIES_MAX);
        }
        if (view_init_root(v, err) < 0) {
                v->count = 0; /* the trees stay the caller's */
                view_free(v);
                return -(int)err->code;
        }
        *out = v;
        return 0;
}

static int tree_open(const char *path, struct cas_tree **out, struct cas_err *err)
{
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open tree %s", path);
        if (cas_tree_open_fd(fd, out, err) < 0)
                return cas_err_wrap(err, "%s", path);
        return 0;
}

int ffs_view_open(const struct cas_digest *trees, const char *const *paths, size_t count,
                  struct ffs_view **out, struct cas_err *err)
{
        struct cas_tree *opened[FFS_VIEW_TREES_MAX] = {NULL};
        if (count < 1 || count > FFS_VIEW_TREES_MAX)
                return cas_fail(err, CAS_E_INVALID, "an image of %zu trees", count);
        int rc = 0;
        for (size_t i = 0; i < count && rc == 0; i++)
                rc = tree_open(paths[i], &opened[i], err);
        if (rc == 0)
                rc = ffs_view_new(trees, opened, count, out, err);
        for (size_t i = 0; i < count && rc < 0; i++)
                cas_tree_close(opened[i]);
        return rc;
}

struct ffs_view *ffs_view_ref(struct ffs_view *v)
{
        atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
        return v;
}

void ffs_view_unref(struct ffs_view *v)
{
        if (v && atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) == 1)
                view_free(v);
}

uint64_t ffs_view_root(const struct ffs_view *v)
{
        return vid_make(0, v->root.nid[0]);
}

size_t ffs_view_tree_count(const struct ffs_view *v)
{
        return v->count;
}

const struct cas_digest *ffs_view_tree(const struct ffs_view *v, size_t i)
{
        cas_assert(i < v->count);
        return &v->digests[i];
}

uint64_t ffs_view_entry_count(const struct ffs_view *v)
{
        return v->names_max;
}

/* ---- inodes ---- */

/* The tree's own name, its place in the view and the nid: 30, 2 and 31 bits. */
uint64_t ffs_view_ino(const struct ffs_view *v, uint64_t vid)
{
        size_t tree = (size_t)(vid >> NID_BITS);
        cas_assert(tree < v->count);
        uint64_t name = cas_get_le32(v->digests[tree].bytes) & ((UINT32_C(1) << 30) - 1);
        return name << 33 | (uint64_t)tree << 31 | (vid & ((UINT32_C(1) << 31) - 1));
}
_Static_assert(NIDS_MAX <= UINT64_C(1) << 31, "a nid has 31 bits");

int ffs_view_inode(const struct ffs_view *v, uint64_t vid, struct cas_inode *out,
                   struct cas_err *err)
{
        size_t tree = 0;
        uint32_t nid = 0;
        struct cas_inode inode;
        if (vid_split(v, vid, &tree, &nid, err) < 0 ||
            cas_tree_inode(v->trees[tree], nid, &inode, err) < 0)
                return -(int)err->code;
        if (inode.whiteout)
                return cas_fail(err, CAS_E_CORRUPT, "tree: inode %u is a whiteout", nid);
        inode.opaque = false;
        *out = inode;
        return 0;
}

int ffs_view_xattrs(const struct ffs_view *v, uint64_t vid,
                    bool (*fn)(void *arg, const char *name, const void *value, size_t len),
                    void *arg, struct cas_err *err)
{
        size_t tree = 0;
        uint32_t nid = 0;
        if (vid_split(v, vid, &tree, &nid, err) < 0)
                return -(int)err->code;
        return cas_tree_xattrs(v->trees[tree], nid, fn, arg, err);
}

int ffs_view_inline(const struct ffs_view *v, uint64_t vid, const void **out, size_t *out_len,
                    struct cas_err *err)
{
        size_t tree = 0;
        uint32_t nid = 0;
        if (vid_split(v, vid, &tree, &nid, err) < 0)
                return -(int)err->code;
        return cas_tree_inline(v->trees[tree], nid, out, out_len, err);
}

/* ---- names ---- */

/* What a name in a directory of these parts stands for. `found` is all NO_NID unless it is a
 * directory. Errors: NOTFOUND. */
static int parts_lookup(const struct ffs_view *v, const struct parts *dir, const char *name,
                        size_t name_len, uint64_t *out_vid, struct parts *found,
                        struct cas_err *err)
{
        bool covered = false, any = false;
        *found = (struct parts){{NO_NID, NO_NID, NO_NID, NO_NID}};
        for (size_t i = 0; i < v->count && !covered; i++) {
                struct cas_inode inode;
                struct cas_err missing = CAS_ERR_INIT;
                uint64_t nid;
                if (dir->nid[i] == NO_NID)
                        continue;
                int rc = cas_tree_lookup(v->trees[i], dir->nid[i], name, name_len, &nid, &missing);
                if (rc == -CAS_E_NOTFOUND)
                        continue;
                if (rc < 0) {
                        *err = missing;
                        return rc;
                }
                if (nid_check(nid, err) < 0 || cas_tree_inode(v->trees[i], nid, &inode, err) < 0)
                        return -(int)err->code;
                bool is_dir = S_ISDIR(inode.mode);
                if (inode.whiteout || (any && !is_dir))
                        break;
                if (!any)
                        *out_vid = vid_make(i, (uint32_t)nid);
                any = true;
                if (is_dir)
                        found->nid[i] = (uint32_t)nid;
                covered = !is_dir || inode.opaque;
        }
        if (!any)
                return cas_fail(err, CAS_E_NOTFOUND, "no such name");
        return 0;
}
_Static_assert(FFS_VIEW_TREES_MAX == 4, "parts_lookup() writes them out");

/* Keeps the parts of a directory; those of the lowest tree have one only. */
static int parts_remember(const struct ffs_view *view, uint64_t vid, const struct parts *p,
                          struct cas_err *err)
{
        struct ffs_view *v = (struct ffs_view *)view; /* what is remembered shows nowhere */
        bool same = true;
        size_t tree = (size_t)(vid >> NID_BITS);
        if (tree + 1 >= v->count || p->nid[tree] == NO_NID)
                return 0;
        cas_mutex_lock(&v->mutex);
        uint64_t *place = cas_map_put(v->merged, &vid, sizeof(vid), NULL);
        if (*place == 0) {
                if ((v->place_count & (v->place_count - 1)) == 0) /* full at each power of two */
                        v->places = cas_xrealloc(v->places,
                                                 (v->place_count * 2 + 1) * sizeof(v->places[0]));
                v->places[v->place_count++] = *p;
                *place = v->place_count;
        } else {
                same = memcmp(&v->places[*place - 1], p, sizeof(*p)) == 0;
        }
        cas_mutex_unlock(&v->mutex);
        return same ? 0 : cas_fail(err, CAS_E_CORRUPT, "tree: a directory is in two places");
}

/* *walked: nothing more will be found by a walk. */
static bool parts_recall(const struct ffs_view *view, uint64_t vid, struct parts *out, bool *walked)
{
        struct ffs_view *v = (struct ffs_view *)view;
        cas_mutex_lock(&v->mutex);
        const uint64_t *place = cas_map_get(v->merged, &vid, sizeof(vid));
        if (place)
                *out = v->places[*place - 1];
        *walked = v->walked;
        cas_mutex_unlock(&v->mutex);
        return place != NULL;
}

/* ---- the walk of the upper trees ---- */

struct walk {
        const struct ffs_view *v;
        struct cas_map *seen;   /* vids of directories */
        struct parts *todo;     /* directories to be read */
        size_t count, capacity; /* of todo */
        uint64_t names_left;
        struct parts dir; /* being read */
        struct cas_err *err;
        int rc;
};

static bool walk_name(void *arg, const char *name, size_t name_len, uint64_t nid CAS_UNUSED,
                      uint8_t type, uint64_t next CAS_UNUSED)
{
        struct walk *w = arg;
        struct parts found;
        struct cas_err why = CAS_ERR_INIT;
        uint64_t vid;
        bool is_new;
        if (w->names_left-- == 0) {
                w->rc = cas_fail(w->err, CAS_E_CORRUPT, "tree: more names than it says");
                return false;
        }
        if (type != DT_DIR && type != DT_UNKNOWN)
                return true;
        w->rc = parts_lookup(w->v, &w->dir, name, name_len, &vid, &found, &why);
        if (w->rc == -CAS_E_NOTFOUND)
                w->rc = 0; /* covered by a whiteout further up */
        else if (w->rc < 0)
                *w->err = why;
        else if (vid >> NID_BITS < w->v->count - 1 && found.nid[vid >> NID_BITS] != NO_NID) {
                (void)cas_map_put(w->seen, &vid, sizeof(vid), &is_new);
                if (!is_new)
                        return true;
                w->rc = parts_remember(w->v, vid, &found, w->err);
                if (w->count == w->capacity) {
                        w->capacity = w->capacity * 2 + 64;
                        w->todo = cas_xrealloc(w->todo, w->capacity * sizeof(w->todo[0]));
                }
                w->todo[w->count++] = found;
        }
        return w->rc == 0;
}

static int walk_run(struct walk *w)
{
        while (w->count > 0) {
                w->dir = w->todo[--w->count];
                for (size_t i = 0; i + 1 < w->v->count; i++) {
                        uint64_t cookie = 0;
                        if (w->dir.nid[i] == NO_NID)
                                continue;
                        if (cas_tree_readdir(w->v->trees[i], w->dir.nid[i], &cookie, walk_name, w,
                                             w->err) < 0)
                                return -(int)w->err->code;
                        if (w->rc < 0)
                                return w->rc;
                }
        }
        return 0;
}

/* Remembers every directory that begins in a tree above the lowest. */
static int walk_upper(const struct ffs_view *view, struct cas_err *err)
{
        struct ffs_view *v = (struct ffs_view *)view;
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        struct walk w = {.v = v, .seen = seen, .names_left = v->names_max, .err = err};
        w.todo = cas_xmalloc(sizeof(w.todo[0]));
        w.capacity = w.count = 1;
        w.todo[0] = v->root;
        int rc = walk_run(&w);
        free(w.todo);
        cas_mutex_lock(&v->mutex);
        v->walked = true;
        cas_mutex_unlock(&v->mutex);
        return rc;
}

/* All parts of a directory. Errors: INVALID (no directory), CORRUPT. */
static int parts_of(const struct ffs_view *v, uint64_t vid, struct parts *out, struct cas_err *err)
{
        size_t tree = 0;
        uint32_t nid = 0;
        struct cas_inode inode;
        bool was_walked;
        if (vid_split(v, vid, &tree, &nid, err) < 0)
                return -(int)err->code;
        if (vid == ffs_view_root(v)) {
                *out = v->root;
                return 0;
        }
        if (tree + 1 == v->count) {
                *out = (struct parts){{NO_NID, NO_NID, NO_NID, NO_NID}};
                out->nid[tree] = nid;
                return 0;
        }
        if (parts_recall(v, vid, out, &was_walked))
                return 0;
        if (ffs_view_inode(v, vid, &inode, err) < 0)
                return -(int)err->code;
        if (!S_ISDIR(inode.mode))
                return cas_fail(err, CAS_E_INVALID, "no directory");
        if (!was_walked && walk_upper(v, err) < 0)
                return -(int)err->code;
        if (parts_recall(v, vid, out, &was_walked))
                return 0;
        return cas_fail(err, CAS_E_CORRUPT, "tree: directory %u is nowhere in it", nid);
}

int ffs_view_lookup(const struct ffs_view *v, uint64_t dir, const char *name, size_t name_len,
                    uint64_t *out_vid, struct cas_err *err)
{
        struct parts parts, found;
        if (parts_of(v, dir, &parts, err) < 0 ||
            parts_lookup(v, &parts, name, name_len, out_vid, &found, err) < 0)
                return -(int)err->code;
        return parts_remember(v, *out_vid, &found, err);
}

int ffs_view_path(const struct ffs_view *v, const char *path, uint64_t *out_vid,
                  struct cas_err *err)
{
        uint64_t vid = ffs_view_root(v);
        if (*path == '/')
                path++;
        while (*path) {
                size_t len = strcspn(path, "/");
                if (len == 0 || (len == 1 && path[0] == '.') ||
                    (len == 2 && path[0] == '.' && path[1] == '.') ||
                    (path[len] == '/' && path[len + 1] == '\0'))
                        return cas_fail(err, CAS_E_INVALID, "no plain path");
                if (ffs_view_lookup(v, vid, path, len, &vid, err) < 0)
                        return -(int)err->code;
                path += len + (path[len] == '/');
        }
        *out_vid = vid;
        return 0;
}

/* ---- upwards ---- */

/* A directory's own tree has all directories above it. */
int ffs_view_parent(const struct ffs_view *v, uint64_t dir, uint64_t *out_vid, struct cas_err *err)
{
        size_t tree = 0;
        uint32_t nid = 0;
        uint64_t parent;
        if (vid_split(v, dir, &tree, &nid, err) < 0)
                return -(int)err->code;
        if (nid == cas_tree_root(v->trees[tree])) {
                *out_vid = ffs_view_root(v);
                return 0;
        }
        if (cas_tree_lookup(v->trees[tree], nid, "..", 2, &parent, err) < 0 ||
            nid_check(parent, err) < 0)
                return -(int)err->code;
        *out_vid = vid_make(tree, (uint32_t)parent);
        return 0;
}

struct name_search {
        uint64_t nid;
        const char *name; /* NULL: not found */
        size_t name_len;
        uint64_t names_left;
};

static bool name_matches(void *arg, const char *name, size_t name_len, uint64_t nid,
                         uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        struct name_search *s = arg;
        if (nid == s->nid) {
                s->name = name;
                s->name_len = name_len;
        }
        return !s->name && s->names_left-- > 1;
}

int ffs_view_dir_key(const struct ffs_view *v, uint64_t dir, struct cas_hash *out,
                     struct cas_err *err)
{
        size_t tree = 0;
        uint32_t nid = 0;
        if (vid_split(v, dir, &tree, &nid, err) < 0)
                return -(int)err->code;
        cas_cleanup_buf struct cas_buf names = CAS_BUF_INIT; /* from the last to the first */
        struct name_search s = {.names_left = v->names_max + 1};
        uint64_t at = nid, root = cas_tree_root(v->trees[tree]);
        for (unsigned depth = 0; at != root; depth++) {
                uint64_t parent, cookie = 0;
                s.nid = at;
                s.name = NULL;
                if (cas_tree_lookup(v->trees[tree], at, "..", 2, &parent, err) < 0 ||
                    cas_tree_readdir(v->trees[tree], parent, &cookie, name_matches, &s, err) < 0)
                        return -(int)err->code;
                if (!s.name || depth > CAS_TREE_DEPTH_MAX)
                        return cas_fail(err, CAS_E_CORRUPT, "tree: a directory is not in its own");
                cas_buf_append(&names, s.name, s.name_len);
                cas_buf_append_byte(&names, '/');
                at = parent;
        }
        cas_sha256(names.data, names.len_bytes, out);
        return 0;
}

/* ---- listing ---- */

struct listing {
        const struct ffs_view *v;
        const struct parts *dir;
        size_t tree; /* being listed */
        bool (*fn)(void *arg, const char *name, size_t name_len, uint64_t vid, uint8_t type,
                   uint64_t next_cookie);
        void *arg;
        struct cas_err *err;
        int rc;
        bool refused;
};

/* A name is shown where it is met first, unless it is a whiteout there. */
static int listing_shows(const struct listing *l, const char *name, size_t name_len, uint64_t nid,
                         uint8_t type, bool *shows)
{
        struct cas_inode inode;
        *shows = false;
        for (size_t i = 0; i < l->tree; i++) {
                struct cas_err why = CAS_ERR_INIT;
                uint64_t above;
                if (l->dir->nid[i] == NO_NID)
                        continue;
                int rc = cas_tree_lookup(l->v->trees[i], l->dir->nid[i], name, name_len, &above,
                                         &why);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_NOTFOUND) {
                        *l->err = why;
                        return rc;
                }
        }
        if (nid_check(nid, l->err) < 0)
                return -(int)l->err->code;
        *shows = true;
        if (type != DT_CHR && type != DT_UNKNOWN)
                return 0;
        if (cas_tree_inode(l->v->trees[l->tree], nid, &inode, l->err) < 0)
                return -(int)l->err->code;
        *shows = !inode.whiteout;
        return 0;
}

/* Who is told of a directory may ask for what is in it. */
static int listing_remember(const struct listing *l, const char *name, size_t name_len)
{
        struct parts found;
        uint64_t vid;
        if (l->tree + 1 == l->v->count)
                return 0;
        if (parts_lookup(l->v, l->dir, name, name_len, &vid, &found, l->err) < 0)
                return -(int)l->err->code;
        return parts_remember(l->v, vid, &found, l->err);
}

static bool listing_name(void *arg, const char *name, size_t name_len, uint64_t nid, uint8_t type,
                         uint64_t next)
{
        struct listing *l = arg;
        bool shows;
        l->rc = listing_shows(l, name, name_len, nid, type, &shows);
        if (l->rc == 0 && shows && (type == DT_DIR || type == DT_UNKNOWN))
                l->rc = listing_remember(l, name, name_len);
        if (l->rc < 0)
                return false;
        if (shows)
                l->refused = !l->fn(l->arg, name, name_len, vid_make(l->tree, (uint32_t)nid), type,
                                    (uint64_t)l->tree << COOKIE_BITS | next);
        return !l->refused;
}

int ffs_view_readdir(const struct ffs_view *v, uint64_t dir, uint64_t *cookie,
                     bool (*fn)(void *arg, const char *name, size_t name_len, uint64_t vid,
                                uint8_t type, uint64_t next_cookie),
                     void *arg, struct cas_err *err)
{
        struct parts parts;
        if (parts_of(v, dir, &parts, err) < 0)
                return -(int)err->code;
        struct listing l = {.v = v, .dir = &parts, .fn = fn, .arg = arg, .err = err};
        uint64_t first = *cookie >> COOKIE_BITS;
        uint64_t at = *cookie & ((UINT64_C(1) << COOKIE_BITS) - 1);
        for (l.tree = (size_t)first; l.tree < v->count; l.tree++, at = 0) {
                if (parts.nid[l.tree] == NO_NID)
                        continue;
                if (cas_tree_readdir(v->trees[l.tree], parts.nid[l.tree], &at, listing_name, &l,
                                     err) < 0)
                        return -(int)err->code;
                *cookie = (uint64_t)l.tree << COOKIE_BITS | at;
                if (l.rc < 0 || l.refused)
                        return l.rc;
        }
        *cookie = (uint64_t)v->count << COOKIE_BITS;
        return 0;
}

/* ---- names of inodes that have several ---- */

struct links_making {
        const struct ffs_view *v;
        struct links *l;
        uint32_t dir;
        uint64_t names_left;
        struct cas_err *err;
        int rc;
};

static int links_add_dir(struct links_making *m, uint64_t vid, const char *name, size_t name_len)
{
        struct links *l = m->l;
        if (l->dir_count >= UINT32_MAX)
                return cas_fail(m->err, CAS_E_LIMIT, "too many directories");
        if ((l->dir_count & (l->dir_count - 1)) == 0)
                l->dirs = cas_xrealloc(l->dirs, (l->dir_count * 2 + 1) * sizeof(l->dirs[0]));
        l->dirs[l->dir_count++] = (struct link_dir){
                .parent = m->dir, .name_len = (uint32_t)name_len, .name = name, .vid = vid};
        return 0;
}

static void links_add_name(struct links_making *m, uint64_t vid, const char *name, size_t name_len)
{
        struct links *l = m->l;
        if ((l->name_count & (l->name_count - 1)) == 0)
                l->names = cas_xrealloc(l->names, (l->name_count * 2 + 1) * sizeof(l->names[0]));
        l->names[l->name_count++] = (struct link_name){
                .vid = vid, .dir = m->dir, .name_len = (uint32_t)name_len, .name = name};
}

static bool links_see(void *arg, const char *name, size_t name_len, uint64_t vid,
                      uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        struct links_making *m = arg;
        struct cas_inode inode;
        m->rc = -CAS_E_CORRUPT;
        if (m->names_left-- == 0) {
                (void)cas_fail(m->err, CAS_E_CORRUPT, "tree: more names than it says");
                return false;
        }
        m->rc = ffs_view_inode(m->v, vid, &inode, m->err);
        if (m->rc == 0 && S_ISDIR(inode.mode))
                m->rc = links_add_dir(m, vid, name, name_len);
        else if (m->rc == 0 && inode.nlink > 1)
                links_add_name(m, vid, name, name_len);
        return m->rc == 0;
}

static int link_compare(const void *a, const void *b)
{
        const struct link_name *x = a, *y = b;
        if (x->vid != y->vid)
                return x->vid < y->vid ? -1 : 1;
        if (x->dir != y->dir)
                return x->dir < y->dir ? -1 : 1;
        return x->name < y->name ? -1 : x->name > y->name;
}

/* Only directories above a name that is kept stay. A parent comes before its children. */
static void links_trim(struct links *l)
{
        for (size_t i = 0; i < l->name_count; i++)
                l->dirs[l->names[i].dir].used = true;
        for (size_t i = l->dir_count; i-- > 1;)
                if (l->dirs[i].used)
                        l->dirs[l->dirs[i].parent].used = true;
        cas_cleanup_free uint32_t *place = cas_xcalloc(l->dir_count, sizeof(place[0]));
        size_t count = 0;
        for (size_t i = 0; i < l->dir_count; i++) {
                if (!l->dirs[i].used)
                        continue;
                place[i] = (uint32_t)count;
                l->dirs[count] = l->dirs[i];
                l->dirs[count].parent = place[l->dirs[i].parent];
                count++;
        }
        for (size_t i = 0; i < l->name_count; i++)
                l->names[i].dir = place[l->names[i].dir];
        l->dir_count = count;
        l->dirs = cas_xrealloc(l->dirs, (count + 1) * sizeof(l->dirs[0]));
        l->names = cas_xrealloc(l->names, (l->name_count + 1) * sizeof(l->names[0]));
}

static int links_make(const struct ffs_view *v, struct links **out, struct cas_err *err)
{
        cleanup_links struct links *l = cas_xcalloc(1, sizeof(*l));
        struct links_making m = {.v = v, .l = l, .names_left = v->names_max, .err = err};
        if (links_add_dir(&m, ffs_view_root(v), "", 0) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < l->dir_count; i++) {
                uint64_t cookie = 0;
                m.dir = (uint32_t)i;
                if (ffs_view_readdir(v, l->dirs[i].vid, &cookie, links_see, &m, err) < 0 ||
                    m.rc < 0)
                        return -(int)err->code;
        }
        qsort(l->names, l->name_count, sizeof(l->names[0]), link_compare);
        links_trim(l);
        *out = cas_steal(&l);
        return 0;
}

/* Made by whoever asks first; of two that do so at once, one is dropped. */
static int links_of(const struct ffs_view *view, const struct links **out, struct cas_err *err)
{
        struct ffs_view *v = (struct ffs_view *)view;
        cleanup_links struct links *made = NULL;
        cas_mutex_lock(&v->mutex);
        *out = v->links;
        cas_mutex_unlock(&v->mutex);
        if (*out)
                return 0;
        if (links_make(v, &made, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&v->mutex);
        if (!v->links)
                v->links = cas_steal(&made);
        *out = v->links;
        cas_mutex_unlock(&v->mutex);
        return 0;
}

/* The path of a name. NULL: deeper than any tree is. Owned. */
static char *link_path(const struct links *l, const struct link_name *name)
{
        size_t len = name->name_len, depth = 0;
        for (uint32_t d = name->dir; d != 0; d = l->dirs[d].parent) {
                len += l->dirs[d].name_len + 1;
                if (++depth > CAS_TREE_DEPTH_MAX)
                        return NULL;
        }
        char *path = cas_xmalloc(len + 1), *at = path + len - name->name_len;
        path[len] = '\0';
        memcpy(at, name->name, name->name_len);
        for (uint32_t d = name->dir; d != 0; d = l->dirs[d].parent) {
                *--at = '/';
                at -= l->dirs[d].name_len;
                memcpy(at, l->dirs[d].name, l->dirs[d].name_len);
        }
        return path;
}

int ffs_view_links(const struct ffs_view *v, uint64_t vid, bool (*fn)(void *arg, const char *path),
                   void *arg, struct cas_err *err)
{
        const struct links *l;
        if (links_of(v, &l, err) < 0)
                return -(int)err->code;
        size_t low = 0, high = l->name_count;
        while (low < high) {
                size_t mid = low + (high - low) / 2;
                if (l->names[mid].vid < vid)
                        low = mid + 1;
                else
                        high = mid;
        }
        for (; low < l->name_count && l->names[low].vid == vid; low++) {
                cas_cleanup_free char *path = link_path(l, &l->names[low]);
                if (!path)
                        return cas_fail(err, CAS_E_CORRUPT, "tree: too deep");
                if (!fn(arg, path))
                        break;
        }
        return 0;
}
