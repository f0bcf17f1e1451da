/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/changelook_int.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "cas/path.h"

#define VISITS_MAX CAS_TAR_ENTRIES_MAX

/* ---- names ---- */

void ffs_names_release(struct ffs_names *n)
{
        for (size_t i = 0; i < n->count; i++)
                free(n->list[i]);
        free(n->list);
        *n = (struct ffs_names){0};
}

void ffs_names_add(struct ffs_names *n, const char *name, size_t len)
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
void ffs_names_sort(struct ffs_names *n)
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

bool ffs_names_have(const struct ffs_names *n, const char *name)
{
        return n->count > 0 &&
               bsearch(&name, n->list, n->count, sizeof(*n->list), name_order) != NULL;
}

static bool add_view_name(void *arg, const char *name, size_t len, uint64_t vid CAS_UNUSED,
                          uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        ffs_names_add(arg, name, len);
        return true;
}

int ffs_names_of_view(const struct ffs_changes_source *s, uint64_t dir, struct ffs_names *out,
                      struct cas_err *err)
{
        uint64_t cookie = 0;
        return ffs_view_readdir(s->view, dir, &cookie, add_view_name, out, err);
}

static bool add_upper_name(void *arg, const char *name, enum ffs_upper_kind kind CAS_UNUSED,
                           uint8_t type CAS_UNUSED, uint64_t ino CAS_UNUSED)
{
        ffs_names_add(arg, name, strlen(name));
        return true;
}

int ffs_names_of_upper(const struct ffs_changes_source *s, const struct ffs_change_dir *d,
                       struct ffs_names *out, struct cas_err *err)
{
        int rc = ffs_upper_list(s->upper, d->fd, add_upper_name, out);
        return rc < 0 ? cas_fail_sys(err, -rc, "list /%.200s", d->path) : 0;
}

/* ---- places ---- */

int ffs_change_count(uint64_t *visits, struct cas_err *err)
{
        if (++*visits > VISITS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "changes of more than %d names", VISITS_MAX);
        return 0;
}

char *ffs_change_path(const char *dir, const char *name)
{
        return dir[0] ? cas_xasprintf("%s/%s", dir, name) : cas_xstrdup(name);
}

/* FFS_VID_NONE where there is nothing. */
int ffs_change_find(const struct ffs_changes_source *s, uint64_t dir, const char *name,
                    uint64_t *out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        *out = FFS_VID_NONE;
        if (dir == FFS_VID_NONE)
                return 0;
        int rc = ffs_view_lookup(s->view, dir, name, strlen(name), out, &why);
        if (rc == 0)
                return 0;
        *out = FFS_VID_NONE;
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        *err = why;
        return rc;
}

int ffs_change_mode(const struct ffs_changes_source *s, uint64_t vid, mode_t *mode, uint32_t *nlink,
                    struct cas_err *err)
{
        struct cas_inode inode;
        if (ffs_view_inode(s->view, vid, &inode, err) < 0)
                return -(int)err->code;
        *mode = inode.mode;
        *nlink = inode.nlink;
        return 0;
}

/* The vid itself if it is a directory. */
int ffs_change_only_directory(const struct ffs_changes_source *s, uint64_t vid, uint64_t *out,
                              struct cas_err *err)
{
        mode_t mode = 0;
        uint32_t nlink;
        *out = FFS_VID_NONE;
        if (vid == FFS_VID_NONE)
                return 0;
        if (ffs_change_mode(s, vid, &mode, &nlink, err) < 0)
                return -(int)err->code;
        if (S_ISDIR(mode))
                *out = vid;
        return 0;
}

/* What a name of the upper stands over: what has its name in the directory below, or what its
 * redirect says. */
int ffs_change_redirect(const struct ffs_changes_source *s, const struct ffs_change_dir *d,
                        const char *path, const char *redirect, uint64_t *out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = 0;
        if (redirect[0] == '/')
                rc = ffs_view_path(s->view, redirect, out, &why);
        else
                rc = ffs_change_find(s, d->below, redirect, out, &why);
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
int ffs_change_below(const struct ffs_changes_source *s, const struct ffs_change_dir *d,
                     const char *path, const struct ffs_upper_entry *e, uint64_t named,
                     uint64_t *out, struct cas_err *err)
{
        *out = FFS_VID_NONE;
        if (e->opaque)
                return 0;
        if (!e->redirect)
                return ffs_change_only_directory(s, named, out, err);
        uint64_t vid;
        if (ffs_change_redirect(s, d, path, e->redirect, &vid, err) < 0 ||
            ffs_change_only_directory(s, vid, out, err) < 0)
                return -(int)err->code;
        if (*out == FFS_VID_NONE)
                return cas_fail(err, CAS_E_CORRUPT, "%.200s: redirected to %.200s, no directory",
                                path, e->redirect);
        return 0;
}

int ffs_change_check_depth(const struct ffs_change_dir *d, const char *path, struct cas_err *err)
{
        if (d->depth >= CAS_PATH_DEPTH_MAX || strlen(path) > CAS_PATH_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "directories are nested too deep");
        return 0;
}
