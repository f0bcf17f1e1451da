/* SPDX-License-Identifier: Apache-2.0 */
/* Lower files of several names. Copied up, they are links to one file under all
 * of their names at once, so that no index is needed; this finds the names. A
 * lower path may be elsewhere by now, when a directory of it was renamed: the
 * upper's redirects say where, and are searched when they are needed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "cas/buf.h"
#include "cas/map.h"
#include "fusefs/treerwcore_int.h"

/* ---- where directories were moved to ---- */

static void free_path(void *arg CAS_UNUSED, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      uint64_t value)
{
        free((char *)(uintptr_t)value);
}

void ffs_rw_moved_forget(struct ffs_rw *rw)
{
        if (rw->moved) {
                cas_map_each(rw->moved, free_path, NULL);
                cas_map_free(rw->moved);
        }
        rw->moved = NULL;
}

/* A directory of the upper that is to be searched. */
struct searched {
        char *path, *lower; /* owned; in the upper, and what it stands upon: "" or "/a/b" */
};
struct search {
        struct searched *todo;
        size_t count, room;
        struct cas_buf names; /* of the directory's subdirectories */
};

static void search_push(struct search *s, char *path, char *lower)
{
        if (s->count == s->room) {
                s->room = s->room ? s->room * 2 : 32;
                s->todo = cas_xrealloc(s->todo, s->room * sizeof(s->todo[0]));
        }
        s->todo[s->count++] = (struct searched){.path = path, .lower = lower};
}

static bool note_dir(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                     uint64_t ino CAS_UNUSED)
{
        struct search *s = arg;
        if (kind == FFS_UPPER_PRESENT && type == DT_DIR)
                cas_buf_append(&s->names, name, strlen(name) + 1);
        return true;
}

static int search_child(struct ffs_rw *rw, struct search *s, const struct searched *dir, int fd,
                        const char *name)
{
        struct ffs_upper_entry e;
        int rc = ffs_upper_look(rw->upper, fd, name, &e);
        if (rc < 0)
                return rc == -EUCLEAN ? 0 : rc; /* nothing below it can be reached either */
        if (e.kind == FFS_UPPER_PRESENT && S_ISDIR(e.st.st_mode)) {
                char *path = cas_xasprintf("%s%s%s", dir->path, dir->path[0] ? "/" : "", name);
                char *lower = e.redirect && e.redirect[0] == '/'
                                      ? cas_xstrdup(e.redirect)
                                      : cas_xasprintf("%s/%s", dir->lower,
                                                      e.redirect ? e.redirect : name);
                if (e.redirect) {
                        bool fresh;
                        uint64_t *value = cas_map_put(rw->moved, lower, strlen(lower), &fresh);
                        if (fresh)
                                *value = (uint64_t)(uintptr_t)cas_xstrdup(path);
                }
                search_push(s, path, lower);
        }
        ffs_upper_entry_release(&e);
        return 0;
}

static int search_dir(struct ffs_rw *rw, struct search *s, const struct searched *dir)
{
        cas_cleanup_fd int fd = -1;
        cas_buf_clear(&s->names);
        int rc = ffs_upperlayer_open_dir(rw->upper, dir->path, &fd);
        if (rc == 0)
                rc = ffs_upper_list(rw->upper, fd, note_dir, s);
        for (size_t at = 0; rc == 0 && at < s->names.len_bytes;) {
                const char *name = (const char *)s->names.data + at;
                rc = search_child(rw, s, dir, fd, name);
                at += strlen(name) + 1;
        }
        return rc;
}

/* The map is as the upper is now. */
static int moved_update(struct ffs_rw *rw)
{
        if (!rw->trusted || (rw->moved && rw->moved_at == rw->moves))
                return 0;
        ffs_rw_moved_forget(rw);
        rw->moved = cas_map_new();
        rw->moved_at = rw->moves;
        struct search s = {0};
        int rc = 0;
        search_push(&s, cas_xstrdup(""), cas_xstrdup(""));
        while (s.count > 0) {
                struct searched dir = s.todo[--s.count];
                if (rc == 0)
                        rc = search_dir(rw, &s, &dir);
                free(dir.path);
                free(dir.lower);
        }
        free(s.todo);
        cas_buf_release(&s.names);
        if (rc < 0)
                ffs_rw_moved_forget(rw);
        return rc;
}

/* ---- where a lower path is ---- */

struct place {
        int fd;        /* upper directory (owned), -1: it has none */
        uint64_t vid;  /* lower directory */
        uint64_t node; /* its record, or 0 */
        bool gone;     /* what follows is hidden, removed or replaced */
};

static uint64_t node_of_path(struct ffs_rw *rw, const char *path)
{
        uint64_t at = rw->root;
        while (*path && at) {
                char name[256];
                struct ffs_node node;
                size_t len = strcspn(path, "/");
                if (len >= sizeof(name))
                        return 0;
                memcpy(name, path, len);
                name[len] = '\0';
                at = ffs_nodes_find_dir(rw->nodes, at, name, &node) ? node.id : 0;
                path += len + (path[len] == '/');
        }
        return at;
}

static int make_missing(struct ffs_rw *rw, struct place *p, const char *name, uint64_t child)
{
        struct ffs_node node;
        bool known = p->node && ffs_nodes_find_dir(rw->nodes, p->node, name, &node);
        int rc = ffs_rw_make_dir(rw, p->fd, name, child, known ? &node : NULL);
        return known && rc == -ESTALE ? 0 : rc; /* the kernel has forgotten it meanwhile */
}

/* One directory down a lower path. */
static int step(struct ffs_rw *rw, struct place *p, const char *lower, const char *name, bool make)
{
        struct ffs_node node;
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_upper_entry e = {0};
        uint64_t child;
        if (ffs_view_lookup(rw->view, p->vid, name, strlen(name), &child, &err) < 0)
                return ffs_rw_errno(&err);
        uint64_t *moved = rw->moved ? cas_map_get_str(rw->moved, lower) : NULL;
        cas_cleanup_fd int parent_fd = p->fd;
        p->fd = -1;
        p->vid = child;
        if (moved) {
                const char *path = (const char *)(uintptr_t)*moved;
                p->gone = false;
                p->node = node_of_path(rw, path);
                return ffs_upperlayer_open_dir(rw->upper, path, &p->fd);
        }
        if (p->gone)
                return 0;
        int rc = parent_fd < 0 ? 0 : ffs_upper_look(rw->upper, parent_fd, name, &e);
        if (rc == 0 && e.kind == FFS_UPPER_ABSENT && make) {
                p->fd = parent_fd;
                rc = make_missing(rw, p, name, child);
                p->fd = -1;
                e.kind = FFS_UPPER_PRESENT;
                e.st.st_mode = S_IFDIR;
        }
        if (rc == 0 && e.kind == FFS_UPPER_PRESENT && S_ISDIR(e.st.st_mode) && !e.opaque &&
            !e.redirect)
                rc = ffs_upper_open(rw->upper, parent_fd, name, O_PATH | O_DIRECTORY, &p->fd);
        else if (rc == 0 && e.kind != FFS_UPPER_ABSENT)
                p->gone = true;
        p->node = p->node && ffs_nodes_find_dir(rw->nodes, p->node, name, &node) ? node.id : 0;
        ffs_upper_entry_release(&e);
        return rc;
}

/* The directory of a lower path, made where make says so, and the last name (in path). */
static int find_place(struct ffs_rw *rw, const char *path, bool make, struct place *p,
                      const char **name)
{
        cas_cleanup_buf struct cas_buf lower = CAS_BUF_INIT;
        *p = (struct place){.fd = dup(ffs_upperlayer_root_fd(rw->upper)),
                            .vid = ffs_view_root(rw->view),
                            .node = rw->root};
        if (p->fd < 0)
                return -errno;
        for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
                char part[256];
                size_t len = (size_t)(slash - path);
                if (len >= sizeof(part))
                        return -EIO;
                memcpy(part, path, len);
                part[len] = '\0';
                cas_buf_append_byte(&lower, '/');
                cas_buf_append_str(&lower, part);
                int rc = step(rw, p, cas_buf_str(&lower), part, make);
                if (rc < 0)
                        return rc;
        }
        *name = path;
        return 0;
}

static void place_release(struct place *p)
{
        if (p->fd >= 0)
                (void)close(p->fd);
}

static bool add_path(void *arg, const char *path)
{
        cas_buf_append(arg, path, strlen(path) + 1);
        return true;
}

static int all_paths(struct ffs_rw *rw, uint64_t vid, struct cas_buf *paths)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = moved_update(rw);
        if (rc == 0 && ffs_view_links(rw->view, vid, add_path, paths, &err) < 0)
                rc = ffs_rw_errno(&err);
        return rc;
}

/* What the upper has at the place; ABSENT: what is below shows. */
static int look_at(struct ffs_rw *rw, const struct place *p, const char *name,
                   struct ffs_upper_entry *e)
{
        *e = (struct ffs_upper_entry){.kind = p->gone ? FFS_UPPER_WHITEOUT : FFS_UPPER_ABSENT};
        return p->gone || p->fd < 0 ? 0 : ffs_upper_look(rw->upper, p->fd, name, e);
}

/* Calls fn where nothing of the upper hides the lower name, its directory made. */
static int each_visible(struct ffs_rw *rw, const char *path,
                        int (*fn)(void *arg, int dir_fd, const char *name), void *arg)
{
        struct place p;
        const char *name;
        struct ffs_upper_entry e = {0};
        int rc = find_place(rw, path, false, &p, &name);
        if (rc == 0)
                rc = look_at(rw, &p, name, &e);
        bool visible = rc == 0 && e.kind == FFS_UPPER_ABSENT;
        ffs_upper_entry_release(&e);
        place_release(&p);
        if (!visible)
                return rc;
        rc = find_place(rw, path, true, &p, &name);
        if (rc == 0)
                rc = p.fd < 0 ? -EIO : fn(arg, p.fd, name);
        place_release(&p);
        return rc;
}

int ffs_rw_links_each(struct ffs_rw *rw, uint64_t vid,
                      int (*fn)(void *arg, int dir_fd, const char *name), void *arg)
{
        cas_cleanup_buf struct cas_buf paths = CAS_BUF_INIT;
        int rc = all_paths(rw, vid, &paths);
        for (size_t at = 0; rc == 0 && at < paths.len_bytes;) {
                const char *path = (const char *)paths.data + at;
                rc = each_visible(rw, path, fn, arg);
                at += strlen(path) + 1;
        }
        return rc;
}

/* ---- what was begun before ---- */

struct linking {
        struct ffs_rw *rw;
        int fd;
};

static int link_here(void *arg, int dir_fd, const char *name)
{
        struct linking *l = arg;
        struct stat st;
        if (fstat(dir_fd, &st) < 0)
                return -errno;
        int rc = ffs_upper_link(l->rw->upper, l->fd, dir_fd, name);
        const struct timespec times[2] = {st.st_atim, st.st_mtim};
        return rc < 0 ? rc : ffs_upper_utimens(l->rw->upper, dir_fd, times);
}

/* A name that the copy has already, or -1. */
static int find_copy(struct ffs_rw *rw, uint64_t vid, const struct cas_buf *paths, int *out_fd)
{
        int rc = 0;
        for (size_t at = 0; rc == 0 && *out_fd < 0 && at < paths->len_bytes;) {
                const char *path = (const char *)paths->data + at, *name;
                struct place p;
                struct ffs_upper_entry e = {0};
                at += strlen(path) + 1;
                rc = find_place(rw, path, false, &p, &name);
                if (rc == 0)
                        rc = look_at(rw, &p, name, &e);
                if (rc == 0 && e.kind == FFS_UPPER_PRESENT && !S_ISDIR(e.st.st_mode) &&
                    e.has_origin && e.origin == vid)
                        rc = ffs_upper_open(rw->upper, p.fd, name, O_PATH, out_fd);
                ffs_upper_entry_release(&e);
                place_release(&p);
        }
        return rc;
}

int ffs_rw_links_finish(struct ffs_rw *rw, uint64_t vid)
{
        cas_cleanup_buf struct cas_buf paths = CAS_BUF_INIT;
        cas_cleanup_fd int fd = -1;
        int rc = all_paths(rw, vid, &paths);
        if (rc == 0)
                rc = find_copy(rw, vid, &paths, &fd);
        if (rc < 0 || fd < 0)
                return rc;
        struct linking l = {.rw = rw, .fd = fd};
        return ffs_rw_links_each(rw, vid, link_here, &l);
}

/* ---- links by overlayfs's index ---- */

#define EROFS_UUID_OFFSET (1024 + 48)
#define VID_NID_BITS 40

struct indexing {
        struct ffs_rw *rw;
        uint8_t uuids[FFS_VOLUME_TREES_MAX][16];
        int rc;
        size_t count;
};

static int read_uuid(const char *path, uint8_t uuid[16])
{
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || pread(fd, uuid, 16, EROFS_UUID_OFFSET) != 16)
                return -EIO;
        return 0;
}

static bool link_indexed(void *arg, const uint8_t uuid[16], uint64_t nid, int fd)
{
        struct indexing *x = arg;
        const struct ffs_volume_spec *spec = &x->rw->volume->spec;
        struct linking l = {.rw = x->rw, .fd = fd};
        x->count++;
        for (size_t i = 0; i < spec->tree_count; i++) {
                struct cas_inode inode;
                struct cas_err err = CAS_ERR_INIT;
                uint64_t vid = (uint64_t)i << VID_NID_BITS | nid;
                if (memcmp(uuid, x->uuids[i], 16) != 0 || nid >> VID_NID_BITS ||
                    ffs_view_inode(x->rw->view, vid, &inode, &err) < 0 || inode.nlink < 2)
                        continue;
                x->rc = ffs_rw_links_each(x->rw, vid, link_here, &l);
        }
        return x->rc == 0;
}

int ffs_rw_links_from_index(struct ffs_rw *rw)
{
        const struct ffs_volume_spec *spec = &rw->volume->spec;
        struct indexing x = {.rw = rw};
        for (size_t i = 0; i < spec->tree_count; i++)
                if (read_uuid(spec->tree_paths[i], x.uuids[i]) < 0)
                        return 0; /* trees that were not mounted from files were never indexed */
        int rc = ffs_upperlayer_index_each(rw->upper, link_indexed, &x);
        if (rc == 0)
                rc = x.rc;
        return rc < 0 || x.count == 0 ? rc : ffs_upperlayer_index_drop(rw->upper);
}
