/* SPDX-License-Identifier: Apache-2.0 */
/* Two walks. The first finds what is changed by more than its own name: lower
 * hard-link groups that were copied up (overlayfs keeps those by its index, under
 * names that the upper does not have), and such groups of which a name lies in a
 * directory that was moved. All their names are marked, since a layer holds a group
 * whole or not at all. The second walk lists.
 *
 * Each directory has two counterparts in the view: `below` is what the upper lets
 * show through in it (through redirects), `base` is what the image has at that very
 * path. Where they are the same, only what the upper names (or a mark) is a change;
 * else everything that shows is listed, and hides what the base has. */
#include "fusefs/changes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/map.h"
#include "cas/path.h"
#include "fusefs/binding_int.h"
#include "fusefs/changes_int.h"
#include "fusefs/upper_int.h"

#define UUID_OFFSET (1024 + 48) /* in a tree, spec/tree.md */
#define INDEXED_MAX 4096        /* hard-link groups by index: a descriptor each */
#define VISITS_MAX CAS_TAR_ENTRIES_MAX

struct names {
        char **list; /* owned, as are its strings */
        size_t count;
        bool sorted;
};

struct walk {
        const struct ffs_changes_source *source;
        const struct ffs_changes_options *options;
        int (*fn)(void *arg, const struct ffs_change *change, struct cas_err *err);
        void *arg;
        uint64_t visits; /* names looked at by this walk */

        struct cas_map *marks; /* vid of a directory -> 1 + place in mark_names */
        struct names *mark_names;
        size_t mark_count;
        struct cas_map *marked;  /* vids of files whose names are marked */
        struct cas_map *indexed; /* vid of a lower file -> 1 + place in index_fds */
        int *index_fds;          /* O_PATH of the inode that stands for it */
        size_t index_count;

        struct cas_map *groups; /* struct identity -> 1 + place in group_paths */
        char **group_paths;     /* the first name that was listed */
        size_t group_count;
};

/* A directory that is walked. */
struct dir {
        const char *path;
        unsigned depth;
        int fd; /* of the upper; -1: it has none */
        uint64_t below, base;
        bool hidden; /* an opaque mark on the way here hides the base */
};

/* Which inode a name is of: equal ones are hard links. */
struct identity {
        uint64_t of_view; /* else of the upper */
        uint64_t number, device;
};

static bool is_plain(const struct dir *d)
{
        return d->below == d->base && d->below != FFS_VID_NONE && !d->hidden;
}

/* ---- names ---- */

static void names_release(struct names *n)
{
        for (size_t i = 0; i < n->count; i++)
                free(n->list[i]);
        free(n->list);
        *n = (struct names){0};
}
#define cleanup_names __attribute__((cleanup(names_release)))

static void names_add(struct names *n, const char *name, size_t len)
{
        if ((n->count & (n->count - 1)) == 0)
                n->list = cas_xrealloc(n->list, (n->count ? n->count * 2 : 1) * sizeof(*n->list));
        n->list[n->count++] = cas_xstrndup(name, len);
        n->sorted = false;
}

static int name_order(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Byte-wise order, each once: the order of listings among siblings. */
static void names_sort(struct names *n)
{
        size_t kept = 0;
        if (n->sorted || n->count == 0)
                return;
        qsort(n->list, n->count, sizeof(*n->list), name_order);
        for (size_t i = 0; i < n->count; i++) {
                if (kept > 0 && strcmp(n->list[kept - 1], n->list[i]) == 0)
                        free(n->list[i]);
                else
                        n->list[kept++] = n->list[i];
        }
        n->count = kept;
        n->sorted = true;
}

static bool names_have(const struct names *n, const char *name)
{
        return n->count > 0 &&
               bsearch(&name, n->list, n->count, sizeof(*n->list), name_order) != NULL;
}

static bool add_view_name(void *arg, const char *name, size_t len, uint64_t vid CAS_UNUSED,
                          uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        names_add(arg, name, len);
        return true;
}

static int names_of_view(struct walk *w, uint64_t dir, struct names *out, struct cas_err *err)
{
        uint64_t cookie = 0;
        return ffs_view_readdir(w->source->view, dir, &cookie, add_view_name, out, err);
}

static bool add_upper_name(void *arg, const char *name, enum ffs_upper_kind kind CAS_UNUSED,
                           uint8_t type CAS_UNUSED, uint64_t ino CAS_UNUSED)
{
        names_add(arg, name, strlen(name));
        return true;
}

static int names_of_upper(struct walk *w, const struct dir *d, struct names *out,
                          struct cas_err *err)
{
        int rc = ffs_upper_list(w->source->upper, d->fd, add_upper_name, out);
        return rc < 0 ? cas_fail_sys(err, -rc, "list /%.200s", d->path) : 0;
}

static int count_visit(struct walk *w, struct cas_err *err)
{
        if (++w->visits > VISITS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "changes of more than %d names", VISITS_MAX);
        return 0;
}

static char *join(const char *dir, const char *name)
{
        return dir[0] ? cas_xasprintf("%s/%s", dir, name) : cas_xstrdup(name);
}

/* FFS_VID_NONE where there is nothing. */
static int find_below(struct walk *w, uint64_t dir, const char *name, uint64_t *out,
                      struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        *out = FFS_VID_NONE;
        if (dir == FFS_VID_NONE)
                return 0;
        int rc = ffs_view_lookup(w->source->view, dir, name, strlen(name), out, &why);
        if (rc == 0)
                return 0;
        *out = FFS_VID_NONE;
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        *err = why;
        return rc;
}

static int view_mode(struct walk *w, uint64_t vid, mode_t *mode, uint32_t *nlink,
                     struct cas_err *err)
{
        struct cas_inode inode;
        if (ffs_view_inode(w->source->view, vid, &inode, err) < 0)
                return -(int)err->code;
        *mode = inode.mode;
        *nlink = inode.nlink;
        return 0;
}

/* The vid itself if it is a directory. */
static int only_directory(struct walk *w, uint64_t vid, uint64_t *out, struct cas_err *err)
{
        mode_t mode = 0;
        uint32_t nlink;
        *out = FFS_VID_NONE;
        if (vid == FFS_VID_NONE)
                return 0;
        if (view_mode(w, vid, &mode, &nlink, err) < 0)
                return -(int)err->code;
        if (S_ISDIR(mode))
                *out = vid;
        return 0;
}

/* What a name of the upper stands over: what has its name in the directory below, or what its
 * redirect says. */
static int follow_redirect(struct walk *w, const struct dir *d, const char *path,
                           const char *redirect, uint64_t *out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = 0;
        if (redirect[0] == '/')
                rc = ffs_view_path(w->source->view, redirect, out, &why);
        else
                rc = find_below(w, d->below, redirect, out, &why);
        if (rc == 0 && *out == FFS_VID_NONE)
                rc = -CAS_E_NOTFOUND;
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_INVALID)
                return cas_fail(err, CAS_E_CORRUPT,
                                "%.200s: redirected to %.200s, which is not there", path, redirect);
        if (rc < 0)
                *err = why;
        return rc;
}

/* The lower directory that shows through a directory of the upper. */
static int below_of(struct walk *w, const struct dir *d, const char *path,
                    const struct ffs_upper_entry *e, uint64_t named, uint64_t *out,
                    struct cas_err *err)
{
        *out = FFS_VID_NONE;
        if (e->opaque)
                return 0;
        if (!e->redirect)
                return only_directory(w, named, out, err);
        uint64_t vid;
        if (follow_redirect(w, d, path, e->redirect, &vid, err) < 0 ||
            only_directory(w, vid, out, err) < 0)
                return -(int)err->code;
        if (*out == FFS_VID_NONE)
                return cas_fail(err, CAS_E_CORRUPT, "%.200s: redirected to %.200s, no directory",
                                path, e->redirect);
        return 0;
}

static int check_depth(const struct dir *d, const char *path, struct cas_err *err)
{
        if (d->depth >= CAS_PATH_DEPTH_MAX || strlen(path) > CAS_PATH_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "directories are nested too deep");
        return 0;
}

/* ---- the first walk: marks ---- */

static void mark_name(struct walk *w, uint64_t dir, const char *name, size_t len)
{
        bool inserted;
        uint64_t *at = cas_map_put(w->marks, &dir, sizeof(dir), &inserted);
        if (inserted) {
                size_t n = w->mark_count++;
                *at = 1 + n;
                if ((n & (n - 1)) == 0)
                        w->mark_names = cas_xrealloc(w->mark_names,
                                                     (n ? n * 2 : 1) * sizeof(*w->mark_names));
                w->mark_names[n] = (struct names){0};
        }
        names_add(&w->mark_names[*at - 1], name, len);
}

static struct names *marks_in(struct walk *w, uint64_t dir)
{
        uint64_t *at = cas_map_get(w->marks, &dir, sizeof(dir));
        struct names *n = at ? &w->mark_names[*at - 1] : NULL;
        if (n)
                names_sort(n);
        return n;
}

/* The path, and the directories that lead there. */
static int mark_path(struct walk *w, const char *path, struct cas_err *err)
{
        uint64_t dir = ffs_view_root(w->source->view);
        for (const char *at = path; *at;) {
                size_t len = strcspn(at, "/");
                mark_name(w, dir, at, len);
                if (at[len] == '\0')
                        break;
                if (ffs_view_lookup(w->source->view, dir, at, len, &dir, err) < 0)
                        return -(int)err->code;
                at += len + 1;
        }
        return 0;
}

static bool add_link_path(void *arg, const char *path)
{
        names_add(arg, path, strlen(path));
        return true;
}

/* All names of a file that has several. */
static int mark_group(struct walk *w, uint64_t vid, struct cas_err *err)
{
        bool inserted;
        cleanup_names struct names paths = {0};
        (void)cas_map_put(w->marked, &vid, sizeof(vid), &inserted);
        if (!inserted)
                return 0;
        if (ffs_view_links(w->source->view, vid, add_link_path, &paths, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < paths.count; i++) {
                if (mark_path(w, paths.list[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* Marks the groups of which a name lies in or below a directory of the view. */
static int mark_groups_below(struct walk *w, uint64_t dir, unsigned depth, struct cas_err *err)
{
        cleanup_names struct names names = {0};
        if (depth >= CAS_PATH_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "directories are nested too deep");
        if (names_of_view(w, dir, &names, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < names.count; i++) {
                uint64_t vid;
                mode_t mode = 0;
                uint32_t nlink = 0;
                int rc = count_visit(w, err);
                if (rc == 0)
                        rc = find_below(w, dir, names.list[i], &vid, err);
                if (rc == 0 && vid != FFS_VID_NONE)
                        rc = view_mode(w, vid, &mode, &nlink, err);
                if (rc == 0 && S_ISDIR(mode))
                        rc = mark_groups_below(w, vid, depth + 1, err);
                else if (rc == 0 && nlink > 1)
                        rc = mark_group(w, vid, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

static bool add_upper_directory(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                                uint64_t ino CAS_UNUSED)
{
        if (kind == FFS_UPPER_PRESENT && (type == DT_DIR || type == DT_UNKNOWN))
                names_add(arg, name, strlen(name));
        return true;
}

static int mark_moved(struct walk *w, const struct dir *d, struct cas_err *err);

static int mark_moved_in(struct walk *w, const struct dir *d, const char *name, struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = FFS_UPPER_INODE_INIT;
        cas_cleanup_free char *path = join(d->path, name);
        struct dir child = {.path = path, .depth = d->depth + 1};
        uint64_t named;
        if (count_visit(w, err) < 0 || check_depth(d, path, err) < 0 ||
            ffs_upper_inode_at(w->source->upper, d->fd, name, path, &i, err) < 0)
                return -(int)err->code;
        if (i.look.kind != FFS_UPPER_PRESENT || !S_ISDIR(i.look.st.st_mode))
                return 0;
        if (find_below(w, d->below, name, &named, err) < 0 ||
            below_of(w, d, path, &i.look, named, &child.below, err) < 0)
                return -(int)err->code;
        if (i.look.redirect && child.below != FFS_VID_NONE &&
            mark_groups_below(w, child.below, child.depth, err) < 0)
                return -(int)err->code;
        child.fd = i.fd;
        return mark_moved(w, &child, err);
}

/* Looks for directories of the upper that were moved. */
static int mark_moved(struct walk *w, const struct dir *d, struct cas_err *err)
{
        cleanup_names struct names names = {0};
        int rc = ffs_upper_list(w->source->upper, d->fd, add_upper_directory, &names);
        if (rc < 0)
                return cas_fail_sys(err, -rc, "list /%.200s", d->path);
        for (size_t i = 0; i < names.count; i++) {
                if (mark_moved_in(w, d, names.list[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

struct index_walk {
        struct walk *w;
        struct cas_err *err;
        int rc;
};

static int keep_indexed(struct walk *w, uint64_t vid, int fd, struct cas_err *err)
{
        bool inserted;
        if (w->index_count == INDEXED_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d hard links by index", INDEXED_MAX);
        uint64_t *at = cas_map_put(w->indexed, &vid, sizeof(vid), &inserted);
        if (!inserted)
                return 0;
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
                *at = 0;
                return cas_fail_sys(err, errno, "index of the upper directory");
        }
        size_t n = w->index_count++;
        if ((n & (n - 1)) == 0)
                w->index_fds = cas_xrealloc(w->index_fds, (n ? n * 2 : 1) * sizeof(int));
        w->index_fds[n] = copy;
        *at = 1 + n;
        return mark_group(w, vid, err);
}

static bool take_indexed(void *arg, const uint8_t uuid[16], uint64_t nid, int fd)
{
        struct index_walk *walk = arg;
        struct walk *w = walk->w;
        struct cas_err ignored = CAS_ERR_INIT;
        for (size_t i = 0; i < ffs_view_tree_count(w->source->view); i++) {
                uint64_t vid = (uint64_t)i << (FFS_VID_BITS - 2) | nid;
                mode_t mode = 0;
                uint32_t nlink = 0;
                if (nid >> (FFS_VID_BITS - 2) || memcmp(uuid, w->source->uuids[i], 16) != 0)
                        continue;
                /* Leftovers, and what is no file of several names, mean nothing. */
                if (view_mode(w, vid, &mode, &nlink, &ignored) < 0 || S_ISDIR(mode) || nlink < 2)
                        return true;
                walk->rc = keep_indexed(w, vid, fd, walk->err);
                return walk->rc == 0;
        }
        return true;
}

static int mark_indexed(struct walk *w, struct cas_err *err)
{
        struct index_walk walk = {.w = w, .err = err};
        int rc = ffs_upperlayer_index_each(w->source->upper, take_indexed, &walk);
        if (walk.rc < 0)
                return walk.rc;
        return rc < 0 ? cas_fail_sys(err, -rc, "index of the upper directory") : 0;
}

/* ---- listing ---- */

static int emit(struct walk *w, enum ffs_change_kind kind, const struct cas_entry *e,
                enum ffs_change_data data, int fd, struct cas_err *err)
{
        struct ffs_change change = {.kind = kind, .entry = e, .data = data, .fd = fd};
        return w->fn(w->arg, &change, err);
}

static int emit_deleted(struct walk *w, const char *path, struct cas_err *err)
{
        const struct cas_entry e = {.type = CAS_ENTRY_WHITEOUT, .path = (char *)(uintptr_t)path};
        return emit(w, FFS_CHANGE_DELETED, &e, FFS_CHANGE_NO_DATA, -1, err);
}

/* A further name of an inode that was listed is a hard link. */
static int emit_if_link(struct walk *w, enum ffs_change_kind kind, const char *path,
                        const struct identity *id, bool *is_link, struct cas_err *err)
{
        const uint64_t *at = cas_map_get(w->groups, id, sizeof(*id));
        *is_link = at != NULL;
        if (!at)
                return 0;
        const struct cas_entry e = {.type = CAS_ENTRY_HARDLINK,
                                    .path = (char *)(uintptr_t)path,
                                    .target = w->group_paths[*at - 1]};
        return emit(w, kind, &e, FFS_CHANGE_NO_DATA, -1, err);
}

static void note_group(struct walk *w, const char *path, const struct identity *id)
{
        size_t n = w->group_count++;
        *cas_map_put(w->groups, id, sizeof(*id), NULL) = 1 + n;
        if ((n & (n - 1)) == 0)
                w->group_paths =
                        cas_xrealloc(w->group_paths, (n ? n * 2 : 1) * sizeof(*w->group_paths));
        w->group_paths[n] = cas_xstrdup(path);
}

/* Lists a file of the upper with the data that belongs to it. */
static int emit_upper_file(struct walk *w, enum ffs_change_kind kind, struct cas_entry *e,
                           const struct ffs_upper_inode *i, uint64_t data_vid, struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        if (e->type != CAS_ENTRY_FILE)
                return emit(w, kind, e, FFS_CHANGE_NO_DATA, -1, err);
        if (i->look.metacopy) {
                if (data_vid == FFS_VID_NONE)
                        return cas_fail(err, CAS_E_CORRUPT, "%.200s: its data is not there",
                                        e->path);
                if (ffs_changed_data_from_view(w->source->view, data_vid,
                                               (uint64_t)i->look.st.st_size, e, err) < 0)
                        return -(int)err->code;
                return emit(w, kind, e, FFS_CHANGE_IN_OBJECT, -1, err);
        }
        int rc = ffs_upper_reopen(w->source->upper, i->fd, O_RDONLY, &fd);
        if (rc < 0)
                return cas_fail_sys(err, -rc, "open %.200s", e->path);
        return emit(w, kind, e, FFS_CHANGE_IN_UPPER, fd, err);
}

static int list_upper_file(struct walk *w, enum ffs_change_kind kind, const char *path,
                           const struct ffs_upper_inode *i, uint64_t data_vid, struct cas_err *err)
{
        struct identity id = {.number = i->ino, .device = i->dev};
        struct cas_entry e = {.path = cas_xstrdup(path)};
        bool is_link = false;
        int rc = 0;
        if (i->nlink > 1)
                rc = emit_if_link(w, kind, path, &id, &is_link, err);
        if (rc == 0 && !is_link) {
                rc = ffs_changed_entry_from_upper(w->source->upper, i, &e, err);
                if (rc == 0)
                        rc = emit_upper_file(w, kind, &e, i, data_vid, err);
                if (rc == 0 && i->nlink > 1)
                        note_group(w, path, &id);
        }
        cas_entry_release(&e);
        return rc;
}

static int list_indexed(struct walk *w, enum ffs_change_kind kind, const char *path, uint64_t vid,
                        int index_fd, struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = FFS_UPPER_INODE_INIT;
        int fd = fcntl(index_fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%.200s", path);
        if (ffs_upper_inode_of(w->source->upper, fd, path, &i, err) < 0)
                return -(int)err->code;
        if (S_ISDIR(i.look.st.st_mode))
                return cas_fail(err, CAS_E_CORRUPT, "%.200s: its index is a directory", path);
        i.nlink++; /* this name, which the upper does not have */
        return list_upper_file(w, kind, path, &i, vid, err);
}

/* Lists what is no directory and has its inode below. */
static int list_view_file(struct walk *w, enum ffs_change_kind kind, const char *path, uint64_t vid,
                          uint32_t nlink, struct cas_err *err)
{
        const uint64_t *indexed = cas_map_get(w->indexed, &vid, sizeof(vid));
        if (indexed)
                return list_indexed(w, kind, path, vid, w->index_fds[*indexed - 1], err);
        struct identity id = {.of_view = 1, .number = vid};
        struct cas_entry e = {.path = cas_xstrdup(path)};
        bool is_link = false;
        int rc = 0;
        if (nlink > 1)
                rc = emit_if_link(w, kind, path, &id, &is_link, err);
        if (rc == 0 && !is_link) {
                rc = ffs_changed_entry_from_view(w->source->view, vid, &e, err);
                if (rc == 0)
                        rc = emit(w, kind, &e,
                                  e.type == CAS_ENTRY_FILE ? FFS_CHANGE_IN_OBJECT
                                                           : FFS_CHANGE_NO_DATA,
                                  -1, err);
                if (rc == 0 && nlink > 1)
                        note_group(w, path, &id);
        }
        cas_entry_release(&e);
        return rc;
}

/* Whether a directory says what the base's says of it. */
static int is_unchanged(struct walk *w, const struct dir *d, const struct cas_entry *e, bool *out,
                        struct cas_err *err)
{
        struct cas_entry below = {.path = cas_xstrdup(d->path)};
        *out = false;
        int rc = 0;
        if (is_plain(d)) {
                rc = ffs_changed_entry_from_view(w->source->view, d->base, &below, err);
                *out = rc == 0 && ffs_changed_entry_equal(e, &below);
        }
        cas_entry_release(&below);
        return rc;
}

/* Lists a directory itself. What the base has in it is hidden by an opaque mark, where it does not
 * show through. */
static int list_directory(struct walk *w, struct dir *d, struct cas_entry *e, bool base_is_there,
                          struct cas_err *err)
{
        bool unchanged;
        if (d->base != FFS_VID_NONE && d->base != d->below && !d->hidden &&
            !w->options->explicit_deletions)
                d->hidden = e->opaque = true;
        if (is_unchanged(w, d, e, &unchanged, err) < 0)
                return -(int)err->code;
        if (unchanged && !w->options->with_unchanged_directories)
                return 0;
        return emit(w, base_is_there ? FFS_CHANGE_MODIFIED : FFS_CHANGE_ADDED, e,
                    FFS_CHANGE_NO_DATA, -1, err);
}

static int list_in(struct walk *w, const struct dir *d, struct cas_err *err);

static int visit_upper_directory(struct walk *w, const struct dir *parent, const char *name,
                                 const char *path, const struct ffs_upper_inode *i, uint64_t base,
                                 struct cas_err *err)
{
        struct dir d = {
                .path = path, .depth = parent->depth + 1, .fd = i->fd, .hidden = parent->hidden};
        struct cas_entry e = {.path = cas_xstrdup(path)};
        uint64_t named;
        int rc = find_below(w, parent->below, name, &named, err);
        if (rc == 0)
                rc = below_of(w, parent, path, &i->look, named, &d.below, err);
        if (rc == 0)
                rc = only_directory(w, base, &d.base, err);
        if (rc == 0)
                rc = ffs_changed_entry_from_upper(w->source->upper, i, &e, err);
        if (rc == 0)
                rc = list_directory(w, &d, &e, base != FFS_VID_NONE, err);
        cas_entry_release(&e);
        return rc < 0 ? rc : list_in(w, &d, err);
}

static int visit_upper_file(struct walk *w, const struct dir *parent, const char *name,
                            const char *path, const struct ffs_upper_inode *i, uint64_t base,
                            struct cas_err *err)
{
        uint64_t data = FFS_VID_NONE;
        int rc = 0;
        if (i->look.metacopy && i->look.redirect)
                rc = follow_redirect(w, parent, path, i->look.redirect, &data, err);
        else if (i->look.metacopy)
                rc = find_below(w, parent->below, name, &data, err);
        if (rc < 0)
                return rc;
        return list_upper_file(w, base != FFS_VID_NONE ? FFS_CHANGE_MODIFIED : FFS_CHANGE_ADDED,
                               path, i, data, err);
}

/* A name that the upper does not have, but shows: in a moved directory, or marked. */
static int visit_view(struct walk *w, const struct dir *parent, const char *path, uint64_t vid,
                      uint64_t base, struct cas_err *err)
{
        mode_t mode = 0;
        uint32_t nlink = 0;
        struct dir d = {.path = path,
                        .depth = parent->depth + 1,
                        .fd = -1,
                        .below = vid,
                        .hidden = parent->hidden};
        if (view_mode(w, vid, &mode, &nlink, err) < 0)
                return -(int)err->code;
        if (!S_ISDIR(mode))
                return list_view_file(w,
                                      base != FFS_VID_NONE ? FFS_CHANGE_MODIFIED : FFS_CHANGE_ADDED,
                                      path, vid, nlink, err);
        if (only_directory(w, base, &d.base, err) < 0)
                return -(int)err->code;
        if (!is_plain(parent)) {
                struct cas_entry e = {.path = cas_xstrdup(path)};
                int rc = ffs_changed_entry_from_view(w->source->view, vid, &e, err);
                if (rc == 0)
                        rc = list_directory(w, &d, &e, base != FFS_VID_NONE, err);
                cas_entry_release(&e);
                if (rc < 0)
                        return rc;
        }
        return list_in(w, &d, err);
}

static bool shows_through(struct walk *w, const struct dir *d, const char *name)
{
        if (!is_plain(d))
                return true;
        const struct names *marks = marks_in(w, d->below);
        return marks && names_have(marks, name);
}

static int visit(struct walk *w, const struct dir *d, const char *name, struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = FFS_UPPER_INODE_INIT;
        cas_cleanup_free char *path = join(d->path, name);
        uint64_t base, below;
        if (count_visit(w, err) < 0 || check_depth(d, path, err) < 0 ||
            (d->fd >= 0 && ffs_upper_inode_at(w->source->upper, d->fd, name, path, &i, err) < 0) ||
            find_below(w, d->base, name, &base, err) < 0 ||
            find_below(w, d->below, name, &below, err) < 0)
                return -(int)err->code;
        if (i.look.kind == FFS_UPPER_PRESENT)
                return S_ISDIR(i.look.st.st_mode)
                               ? visit_upper_directory(w, d, name, path, &i, base, err)
                               : visit_upper_file(w, d, name, path, &i, base, err);
        if (i.look.kind == FFS_UPPER_ABSENT && below != FFS_VID_NONE)
                return shows_through(w, d, name) ? visit_view(w, d, path, below, base, err) : 0;
        if (base != FFS_VID_NONE && !d->hidden)
                return emit_deleted(w, path, err);
        return 0;
}

/* Lists what is in a directory. */
static int list_in(struct walk *w, const struct dir *d, struct cas_err *err)
{
        cleanup_names struct names names = {0};
        if ((d->fd >= 0 && names_of_upper(w, d, &names, err) < 0) ||
            (!is_plain(d) && d->below != FFS_VID_NONE &&
             names_of_view(w, d->below, &names, err) < 0) ||
            (!is_plain(d) && d->base != FFS_VID_NONE && !d->hidden &&
             names_of_view(w, d->base, &names, err) < 0))
                return -(int)err->code;
        const struct names *marks = is_plain(d) ? marks_in(w, d->below) : NULL;
        for (size_t i = 0; marks && i < marks->count; i++)
                names_add(&names, marks->list[i], strlen(marks->list[i]));
        names_sort(&names);
        for (size_t i = 0; i < names.count; i++) {
                if (visit(w, d, names.list[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* The root of the upper always lies over the root of the image. */
static int list_root(struct walk *w, struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = FFS_UPPER_INODE_INIT;
        uint64_t root = ffs_view_root(w->source->view);
        struct dir d = {.path = "", .below = root, .base = root};
        struct cas_entry e = {.path = cas_xstrdup("")};
        int fd = fcntl(ffs_upperlayer_root_fd(w->source->upper), F_DUPFD_CLOEXEC, 0);
        int rc = fd < 0 ? cas_fail_sys(err, errno, "upper directory") : 0;
        if (rc == 0)
                rc = ffs_upper_inode_of(w->source->upper, fd, "/", &i, err);
        if (rc == 0 && !S_ISDIR(i.look.st.st_mode))
                rc = cas_fail(err, CAS_E_CORRUPT, "the root of the upper is no directory");
        d.fd = i.fd;
        if (rc == 0)
                rc = mark_indexed(w, err);
        if (rc == 0)
                rc = mark_moved(w, &d, err);
        w->visits = 0;
        if (rc == 0)
                rc = ffs_changed_entry_from_upper(w->source->upper, &i, &e, err);
        if (rc == 0)
                rc = list_directory(w, &d, &e, true, err);
        cas_entry_release(&e);
        return rc < 0 ? rc : list_in(w, &d, err);
}

static void walk_release(struct walk *w)
{
        for (size_t i = 0; i < w->mark_count; i++)
                names_release(&w->mark_names[i]);
        free(w->mark_names);
        for (size_t i = 0; i < w->index_count; i++)
                (void)close(w->index_fds[i]);
        free(w->index_fds);
        for (size_t i = 0; i < w->group_count; i++)
                free(w->group_paths[i]);
        free(w->group_paths);
        cas_map_free(w->marks);
        cas_map_free(w->marked);
        cas_map_free(w->indexed);
        cas_map_free(w->groups);
}

int ffs_changes_walk(const struct ffs_changes_source *source,
                     const struct ffs_changes_options *options,
                     int (*fn)(void *arg, const struct ffs_change *change, struct cas_err *err),
                     void *arg, struct cas_err *err)
{
        struct walk w = {.source = source,
                         .options = options,
                         .fn = fn,
                         .arg = arg,
                         .marks = cas_map_new(),
                         .marked = cas_map_new(),
                         .indexed = cas_map_new(),
                         .groups = cas_map_new()};
        int rc = list_root(&w, err);
        walk_release(&w);
        return rc;
}

/* ---- opening ---- */

static int open_view(const struct ffs_image *image, struct ffs_view **out, struct cas_err *err)
{
        const char *paths[CAS_COUNT(image->trees)];
        for (size_t i = 0; i < image->tree_count; i++)
                paths[i] = image->tree_paths[i];
        return ffs_view_open(image->trees, paths, image->tree_count, out, err);
}

static int read_uuid(const char *path, uint8_t out[16], struct cas_err *err)
{
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : pread(fd, out, 16, UUID_OFFSET);
        if (n < 0)
                return cas_fail_sys(err, errno, "tree %s", path);
        return n == 16 ? 0 : cas_fail(err, CAS_E_CORRUPT, "tree %s is too short", path);
}

static int check_trees(const struct ffs_binding *b, const struct ffs_image *image,
                       const char *upper_dir, struct cas_err *err)
{
        bool same = b->tree_count == image->tree_count;
        for (size_t i = 0; same && i < b->tree_count; i++)
                same = cas_digest_equal(&b->trees[i], &image->trees[i]);
        if (!same)
                return cas_fail(err, CAS_E_INVALID, "%s is the upper directory of another image",
                                upper_dir);
        return 0;
}

static int open_upper(const struct ffs_binding *b, int dir_fd, struct ffs_upperlayer **out,
                      struct cas_err *err)
{
        const struct ffs_upperlayer_config config = {.dir_fd = dir_fd,
                                                     .format = b->format,
                                                     .owners_in_xattrs = b->owners_in_xattrs,
                                                     .read_only = true};
        int rc = ffs_upperlayer_open(&config, out);
        return rc < 0 ? cas_fail_sys(err, -rc, "open the upper directory") : 0;
}

int ffs_changes_each(const char *upper_dir, const struct ffs_image *image,
                     const struct ffs_changes_options *options,
                     int (*fn)(void *arg, const struct ffs_change *change, struct cas_err *err),
                     void *arg, struct cas_err *err)
{
        struct ffs_changes_source source = {0};
        struct ffs_binding binding;
        ffs_cleanup_view struct ffs_view *view = NULL;
        cas_cleanup_fd int fd = -1;
        if (ffs_upper_reach(upper_dir, &binding, &fd, err) < 0 ||
            check_trees(&binding, image, upper_dir, err) < 0 || open_view(image, &view, err) < 0)
                return -(int)err->code;
        source.view = view;
        for (size_t i = 0; i < image->tree_count; i++) {
                if (read_uuid(image->tree_paths[i], source.uuids[i], err) < 0)
                        return -(int)err->code;
        }
        if (open_upper(&binding, fd, &source.upper, err) < 0)
                return cas_err_wrap(err, "%s", upper_dir);
        int rc = ffs_changes_walk(&source, options, fn, arg, err);
        ffs_upperlayer_close(source.upper);
        return rc;
}
