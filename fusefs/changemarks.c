/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/changemarks_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/map.h"
#include "cas/path.h"

#define INDEXED_MAX 4096 /* hard-link groups by index: a descriptor each */

struct ffs_marks {
        const struct ffs_changes_source *source;
        uint64_t visits;
        struct cas_map *dirs; /* vid of a directory -> 1 + place in names */
        struct ffs_names *names;
        size_t count;
        struct cas_map *marked;  /* vids of files whose names are marked */
        struct cas_map *indexed; /* vid of a lower file -> 1 + place in index_fds */
        int *index_fds;          /* O_PATH of the inode that stands for it */
        size_t index_count;
};

static void mark_name(struct ffs_marks *m, uint64_t dir, const char *name, size_t len)
{
        bool inserted;
        uint64_t *at = cas_map_put(m->dirs, &dir, sizeof(dir), &inserted);
        if (inserted) {
                size_t n = m->count++;
                *at = 1 + n;
                if ((n & (n - 1)) == 0)
                        m->names = cas_xrealloc(m->names, (n ? n * 2 : 1) * sizeof(*m->names));
                m->names[n] = (struct ffs_names){0};
        }
        ffs_names_add(&m->names[*at - 1], name, len);
}

const struct ffs_names *ffs_marks_in(struct ffs_marks *m, uint64_t dir)
{
        uint64_t *at = cas_map_get(m->dirs, &dir, sizeof(dir));
        struct ffs_names *n = at ? &m->names[*at - 1] : NULL;
        if (n)
                ffs_names_sort(n);
        return n;
}

/* The path, and the directories that lead there. */
static int mark_path(struct ffs_marks *m, const char *path, struct cas_err *err)
{
        uint64_t dir = ffs_view_root(m->source->view);
        for (const char *at = path; *at;) {
                size_t len = strcspn(at, "/");
                mark_name(m, dir, at, len);
                if (at[len] == '\0')
                        break;
                if (ffs_view_lookup(m->source->view, dir, at, len, &dir, err) < 0)
                        return -(int)err->code;
                at += len + 1;
        }
        return 0;
}

static bool add_link_path(void *arg, const char *path)
{
        ffs_names_add(arg, path, strlen(path));
        return true;
}

/* All names of a file that has several. */
static int mark_group(struct ffs_marks *m, uint64_t vid, struct cas_err *err)
{
        bool inserted;
        ffs_cleanup_names struct ffs_names paths = {0};
        (void)cas_map_put(m->marked, &vid, sizeof(vid), &inserted);
        if (!inserted)
                return 0;
        if (ffs_view_links(m->source->view, vid, add_link_path, &paths, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < paths.count; i++) {
                if (mark_path(m, paths.list[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* Marks the groups of which a name lies in or below a directory of the view. */
static int mark_groups_below(struct ffs_marks *m, uint64_t dir, unsigned depth, struct cas_err *err)
{
        ffs_cleanup_names struct ffs_names names = {0};
        if (depth >= CAS_PATH_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "directories are nested too deep");
        if (ffs_names_of_view(m->source, dir, &names, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < names.count; i++) {
                uint64_t vid;
                mode_t mode = 0;
                uint32_t nlink = 0;
                int rc = ffs_change_count(&m->visits, err);
                if (rc == 0)
                        rc = ffs_change_find(m->source, dir, names.list[i], &vid, err);
                if (rc == 0 && vid != FFS_VID_NONE)
                        rc = ffs_change_mode(m->source, vid, &mode, &nlink, err);
                if (rc == 0 && S_ISDIR(mode))
                        rc = mark_groups_below(m, vid, depth + 1, err);
                else if (rc == 0 && nlink > 1)
                        rc = mark_group(m, vid, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

static bool add_upper_directory(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                                uint64_t ino CAS_UNUSED)
{
        if (kind == FFS_UPPER_PRESENT && (type == DT_DIR || type == DT_UNKNOWN))
                ffs_names_add(arg, name, strlen(name));
        return true;
}

static int mark_moved(struct ffs_marks *m, const struct ffs_change_dir *d, struct cas_err *err);

static int mark_moved_in(struct ffs_marks *m, const struct ffs_change_dir *d, const char *name,
                         struct cas_err *err)
{
        ffs_cleanup_upper_inode struct ffs_upper_inode i = FFS_UPPER_INODE_INIT;
        cas_cleanup_free char *path = ffs_change_path(d->path, name);
        struct ffs_change_dir child = {.path = path, .depth = d->depth + 1};
        uint64_t named;
        if (ffs_change_count(&m->visits, err) < 0 || ffs_change_check_depth(d, path, err) < 0 ||
            ffs_upper_inode_at(m->source->upper, d->fd, name, path, &i, err) < 0)
                return -(int)err->code;
        if (i.look.kind != FFS_UPPER_PRESENT || !S_ISDIR(i.look.st.st_mode))
                return 0;
        if (ffs_change_find(m->source, d->below, name, &named, err) < 0 ||
            ffs_change_below(m->source, d, path, &i.look, named, &child.below, err) < 0)
                return -(int)err->code;
        if (i.look.redirect && child.below != FFS_VID_NONE &&
            mark_groups_below(m, child.below, child.depth, err) < 0)
                return -(int)err->code;
        child.fd = i.fd;
        return mark_moved(m, &child, err);
}

/* Looks for directories of the upper that were moved. */
static int mark_moved(struct ffs_marks *m, const struct ffs_change_dir *d, struct cas_err *err)
{
        ffs_cleanup_names struct ffs_names names = {0};
        int rc = ffs_upper_list(m->source->upper, d->fd, add_upper_directory, &names);
        if (rc < 0)
                return cas_fail_sys(err, -rc, "list /%.200s", d->path);
        for (size_t i = 0; i < names.count; i++) {
                if (mark_moved_in(m, d, names.list[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

struct index_walk {
        struct ffs_marks *m;
        struct cas_err *err;
        int rc;
};

static int keep_indexed(struct ffs_marks *m, uint64_t vid, int fd, struct cas_err *err)
{
        bool inserted;
        if (m->index_count == INDEXED_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d hard links by index", INDEXED_MAX);
        uint64_t *at = cas_map_put(m->indexed, &vid, sizeof(vid), &inserted);
        if (!inserted)
                return 0;
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
                *at = 0;
                return cas_fail_sys(err, errno, "index of the upper directory");
        }
        size_t n = m->index_count++;
        if ((n & (n - 1)) == 0)
                m->index_fds = cas_xrealloc(m->index_fds, (n ? n * 2 : 1) * sizeof(int));
        m->index_fds[n] = copy;
        *at = 1 + n;
        return mark_group(m, vid, err);
}

static bool take_indexed(void *arg, const uint8_t uuid[16], uint64_t nid, int fd)
{
        struct index_walk *walk = arg;
        struct ffs_marks *m = walk->m;
        struct cas_err ignored = CAS_ERR_INIT;
        for (size_t i = 0; i < ffs_view_tree_count(m->source->view); i++) {
                uint64_t vid = (uint64_t)i << (FFS_VID_BITS - 2) | nid;
                mode_t mode = 0;
                uint32_t nlink = 0;
                if (nid >> (FFS_VID_BITS - 2) || memcmp(uuid, m->source->uuids[i], 16) != 0)
                        continue;
                /* Leftovers, and what is no file of several names, mean nothing. */
                if (ffs_change_mode(m->source, vid, &mode, &nlink, &ignored) < 0 || S_ISDIR(mode) ||
                    nlink < 2)
                        return true;
                walk->rc = keep_indexed(m, vid, fd, walk->err);
                return walk->rc == 0;
        }
        return true;
}

static int mark_indexed(struct ffs_marks *m, struct cas_err *err)
{
        struct index_walk walk = {.m = m, .err = err};
        int rc = ffs_upperlayer_index_each(m->source->upper, take_indexed, &walk);
        if (walk.rc < 0)
                return walk.rc;
        return rc < 0 ? cas_fail_sys(err, -rc, "index of the upper directory") : 0;
}

int ffs_marks_indexed_fd(const struct ffs_marks *m, uint64_t vid)
{
        const uint64_t *at = cas_map_get(m->indexed, &vid, sizeof(vid));
        return at ? m->index_fds[*at - 1] : -1;
}

int ffs_marks_find(const struct ffs_changes_source *source, struct ffs_marks **out,
                   struct cas_err *err)
{
        ffs_cleanup_marks struct ffs_marks *m = cas_xcalloc(1, sizeof(*m));
        uint64_t root = ffs_view_root(source->view);
        const struct ffs_change_dir d = {.path = "",
                                         .fd = ffs_upperlayer_root_fd(source->upper),
                                         .below = root,
                                         .base = root};
        m->source = source;
        m->dirs = cas_map_new();
        m->marked = cas_map_new();
        m->indexed = cas_map_new();
        if (mark_indexed(m, err) < 0 || mark_moved(m, &d, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&m);
        return 0;
}

void ffs_marks_free(struct ffs_marks *m)
{
        if (!m)
                return;
        for (size_t i = 0; i < m->count; i++)
                ffs_names_release(&m->names[i]);
        free(m->names);
        for (size_t i = 0; i < m->index_count; i++)
                (void)close(m->index_fds[i]);
        free(m->index_fds);
        cas_map_free(m->dirs);
        cas_map_free(m->marked);
        cas_map_free(m->indexed);
        free(m);
}
