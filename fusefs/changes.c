/* SPDX-License-Identifier: Apache-2.0 */
/* Two walks: the first marks names that are changed without being in the upper
 * (changemarks.c), the second lists.
 *
 * Each directory has two counterparts in the view: `below` is what the upper lets
 * show through in it (through redirects), `base` is what the image has at that very
 * path. Where they are the same, only what the upper names (or a mark) is a change;
 * else everything that shows is listed, and hides what the base has. */
#include "fusefs/changes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/map.h"
#include "cas/path.h"
#include "fusefs/binding_int.h"
#include "fusefs/changemarks_int.h"
#include "fusefs/upper_int.h"

#define UUID_OFFSET (1024 + 48) /* in a tree, spec/tree.md */

struct walk {
        const struct ffs_changes_source *source;
        const struct ffs_changes_options *options;
        int (*fn)(void *arg, const struct ffs_change *change, struct cas_err *err);
        void *arg;
        uint64_t visits; /* names looked at by this walk */

        struct ffs_marks *marks;

        struct cas_map *groups; /* struct identity -> 1 + place in group_paths */
        char **group_paths;     /* the first name that was listed */
        size_t group_count;
};

/* Which inode a name is of: equal ones are hard links. */
struct identity {
        uint64_t of_view; /* else of the upper */
        uint64_t number, device;
};

static bool is_plain(const struct ffs_change_dir *d)
{
        return d->below == d->base && d->below != FFS_VID_NONE && !d->hidden;
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
        int indexed = ffs_marks_indexed_fd(w->marks, vid);
        if (indexed >= 0)
                return list_indexed(w, kind, path, vid, indexed, err);
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
static int is_unchanged(struct walk *w, const struct ffs_change_dir *d, const struct cas_entry *e,
                        bool *out, struct cas_err *err)
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
static int list_directory(struct walk *w, struct ffs_change_dir *d, struct cas_entry *e,
                          bool base_is_there, struct cas_err *err)
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

static int list_in(struct walk *w, const struct ffs_change_dir *d, struct cas_err *err);

static int visit_upper_directory(struct walk *w, const struct ffs_change_dir *parent,
                                 const char *name, const char *path,
                                 const struct ffs_upper_inode *i, uint64_t base,
                                 struct cas_err *err)
{
        struct ffs_change_dir d = {
                .path = path, .depth = parent->depth + 1, .fd = i->fd, .hidden = parent->hidden};
        struct cas_entry e = {.path = cas_xstrdup(path)};
        uint64_t named;
        int rc = ffs_change_find(w->source, parent->below, name, &named, err);
        if (rc == 0)
                rc = ffs_change_below(w->source, parent, path, &i->look, named, &d.below, err);
        if (rc == 0)
                rc = ffs_change_only_directory(w->source, base, &d.base, err);
        if (rc == 0)
                rc = ffs_changed_entry_from_upper(w->source->upper, i, &e, err);
        if (rc == 0)
                rc = list_directory(w, &d, &e, base != FFS_VID_NONE, err);
        cas_entry_release(&e);
        return rc < 0 ? rc : list_in(w, &d, err);
}

static int visit_upper_file(struct walk *w, const struct ffs_change_dir *parent, const char *name,
                            const char *path, const struct ffs_upper_inode *i, uint64_t base,
                            struct cas_err *err)
{
        uint64_t data = FFS_VID_NONE;
        int rc = 0;
        if (i->look.metacopy && i->look.redirect)
                rc = ffs_change_redirect(w->source, parent, path, i->look.redirect, &data, err);
        else if (i->look.metacopy)
                rc = ffs_change_find(w->source, parent->below, name, &data, err);
        if (rc < 0)
                return rc;
        return list_upper_file(w, base != FFS_VID_NONE ? FFS_CHANGE_MODIFIED : FFS_CHANGE_ADDED,
                               path, i, data, err);
}

/* A name that the upper does not have, but shows: in a moved directory, or marked. */
static int visit_view(struct walk *w, const struct ffs_change_dir *parent, const char *path,
                      uint64_t vid, uint64_t base, struct cas_err *err)
{
        mode_t mode = 0;
        uint32_t nlink = 0;
        struct ffs_change_dir d = {.path = path,
                                   .depth = parent->depth + 1,
                                   .fd = -1,
                                   .below = vid,
                                   .hidden = parent->hidden};
        if (ffs_change_mode(w->source, vid, &mode, &nlink, err) < 0)
                return -(int)err->code;
        if (!S_ISDIR(mode))
                return list_view_file(w,
                                      base != FFS_VID_NONE ? FFS_CHANGE_MODIFIED : FFS_CHANGE_ADDED,
                                      path, vid, nlink, err);
        if (ffs_change_only_directory(w->source, base, &d.base, err) < 0)
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

static bool shows_through(struct walk *w, const struct ffs_change_dir *d, const char *name)
{
        if (!is_plain(d))
                return true;
        const struct ffs_names *marks = ffs_marks_in(w->marks, d->below);
        return marks && ffs_names_have(marks, name);
}

static int visit(struct walk *w, const struct ffs_change_dir *d, const char *name,
                 struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = FFS_UPPER_INODE_INIT;
        cas_cleanup_free char *path = ffs_change_path(d->path, name);
        uint64_t base, below;
        if (ffs_change_count(&w->visits, err) < 0 || ffs_change_check_depth(d, path, err) < 0 ||
            (d->fd >= 0 && ffs_upper_inode_at(w->source->upper, d->fd, name, path, &i, err) < 0) ||
            ffs_change_find(w->source, d->base, name, &base, err) < 0 ||
            ffs_change_find(w->source, d->below, name, &below, err) < 0)
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
static int list_in(struct walk *w, const struct ffs_change_dir *d, struct cas_err *err)
{
        ffs_cleanup_names struct ffs_names names = {0};
        if ((d->fd >= 0 && ffs_names_of_upper(w->source, d, &names, err) < 0) ||
            (!is_plain(d) && d->below != FFS_VID_NONE &&
             ffs_names_of_view(w->source, d->below, &names, err) < 0) ||
            (!is_plain(d) && d->base != FFS_VID_NONE && !d->hidden &&
             ffs_names_of_view(w->source, d->base, &names, err) < 0))
                return -(int)err->code;
        const struct ffs_names *marks = is_plain(d) ? ffs_marks_in(w->marks, d->below) : NULL;
        for (size_t i = 0; marks && i < marks->count; i++)
                ffs_names_add(&names, marks->list[i], strlen(marks->list[i]));
        ffs_names_sort(&names);
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
        struct ffs_change_dir d = {.path = "", .below = root, .base = root};
        struct cas_entry e = {.path = cas_xstrdup("")};
        int fd = fcntl(ffs_upperlayer_root_fd(w->source->upper), F_DUPFD_CLOEXEC, 0);
        int rc = fd < 0 ? cas_fail_sys(err, errno, "upper directory") : 0;
        if (rc == 0)
                rc = ffs_upper_inode_of(w->source->upper, fd, "/", &i, err);
        if (rc == 0 && !S_ISDIR(i.look.st.st_mode))
                rc = cas_fail(err, CAS_E_CORRUPT, "the root of the upper is no directory");
        d.fd = i.fd;
        if (rc == 0)
                rc = ffs_marks_find(w->source, &w->marks, err);
        if (rc == 0)
                rc = ffs_changed_entry_from_upper(w->source->upper, &i, &e, err);
        if (rc == 0)
                rc = list_directory(w, &d, &e, true, err);
        cas_entry_release(&e);
        return rc < 0 ? rc : list_in(w, &d, err);
}

static void walk_release(struct walk *w)
{
        for (size_t i = 0; i < w->group_count; i++)
                free(w->group_paths[i]);
        free(w->group_paths);
        ffs_marks_free(w->marks);
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
