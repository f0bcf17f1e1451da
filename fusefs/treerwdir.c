/* SPDX-License-Identifier: Apache-2.0 */
/* Listing directories. The merged names stand in the order of a hash of them,
 * and that hash is an entry's position: so a reader that goes on after the
 * directory was changed, copied up or handed to another process neither misses
 * nor repeats a name that was there all the time. */
#include <errno.h>

#include "cas/buf.h"
#include "cas/map.h"
#include "fusefs/treerwcore_int.h"

#define LISTINGS_MAX 3
#define LISTING_ENTRIES_MAX (1 << 22)
#define POSITION_MASK ((UINT64_C(1) << 62) - 1)
#define POSITION_FIRST 3 /* behind "." and ".." */

struct listed {
        uint64_t position; /* of the entry behind it */
        uint64_t vid;      /* below, where the upper says nothing */
        uint32_t name;     /* offset in names */
        uint8_t type;      /* DT_* */
        bool in_upper;
};
struct listing {
        unsigned refs; /* guarded by the cache's mutex */
        uint64_t dir, used;
        struct cas_buf names;
        struct listed *entries;
        size_t count, room;
        int rc;
};
struct ffs_rw_listings {
        struct cas_mutex mutex; /* leaf */
        uint64_t clock;
        struct listing *kept[LISTINGS_MAX];
};

struct ffs_rw_listings *ffs_rw_listings_new(void)
{
        struct ffs_rw_listings *l = cas_xcalloc(1, sizeof(*l));
        cas_mutex_init(&l->mutex, "treerw.listings");
        return l;
}

static void listing_free(struct listing *l)
{
        cas_buf_release(&l->names);
        free(l->entries);
        free(l);
}

static void unref_locked(struct listing *l)
{
        if (--l->refs == 0)
                listing_free(l);
}

void ffs_rw_listings_free(struct ffs_rw_listings *c)
{
        if (!c)
                return;
        for (size_t i = 0; i < LISTINGS_MAX; i++)
                if (c->kept[i])
                        unref_locked(c->kept[i]);
        cas_mutex_release(&c->mutex);
        free(c);
}

void ffs_rw_listings_drop(struct ffs_rw_listings *c, uint64_t dir)
{
        cas_mutex_lock(&c->mutex);
        for (size_t i = 0; i < LISTINGS_MAX; i++)
                if (c->kept[i] && c->kept[i]->dir == dir) {
                        unref_locked(c->kept[i]);
                        c->kept[i] = NULL;
                }
        cas_mutex_unlock(&c->mutex);
}

static struct listing *get_kept(struct ffs_rw_listings *c, uint64_t dir)
{
        struct listing *found = NULL;
        cas_mutex_lock(&c->mutex);
        for (size_t i = 0; i < LISTINGS_MAX; i++)
                if (c->kept[i] && c->kept[i]->dir == dir) {
                        found = c->kept[i];
                        found->refs++;
                        found->used = ++c->clock;
                }
        cas_mutex_unlock(&c->mutex);
        return found;
}

static void keep(struct ffs_rw_listings *c, struct listing *l)
{
        cas_mutex_lock(&c->mutex);
        size_t oldest = 0;
        for (size_t i = 0; i < LISTINGS_MAX; i++) {
                if (!c->kept[i]) {
                        oldest = i;
                        break;
                }
                if (c->kept[i]->used < c->kept[oldest]->used)
                        oldest = i;
        }
        if (c->kept[oldest])
                unref_locked(c->kept[oldest]);
        c->kept[oldest] = l;
        l->refs++;
        l->used = ++c->clock;
        cas_mutex_unlock(&c->mutex);
}

static void put(struct ffs_rw_listings *c, struct listing *l)
{
        cas_mutex_lock(&c->mutex);
        unref_locked(l);
        cas_mutex_unlock(&c->mutex);
}

/* ---- making a listing ---- */

/* The same in every process: a successor goes on where its predecessor was. */
static uint64_t position_of(const char *name)
{
        uint64_t h = UINT64_C(0xcbf29ce484222325);
        for (; *name; name++)
                h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
        h ^= h >> 29;
        h = (h * UINT64_C(0x9e3779b97f4a7c15)) & POSITION_MASK;
        return h < POSITION_FIRST ? POSITION_FIRST : h;
}

static bool add(struct listing *l, const char *name, const struct listed *what)
{
        if (l->count >= LISTING_ENTRIES_MAX || l->names.len_bytes > UINT32_MAX / 2) {
                l->rc = -EOVERFLOW;
                return false;
        }
        if (l->count == l->room) {
                l->room = l->room ? l->room * 2 : 16;
                l->entries = cas_xrealloc(l->entries, l->room * sizeof(l->entries[0]));
        }
        struct listed *e = &l->entries[l->count++];
        *e = *what;
        e->position = position_of(name);
        e->name = (uint32_t)l->names.len_bytes;
        cas_buf_append(&l->names, name, strlen(name) + 1);
        return true;
}

struct making {
        struct ffs_rw *rw;
        struct listing *l;
        struct cas_map *said; /* names of which the upper says something */
};

static bool add_upper(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                      uint64_t ino CAS_UNUSED)
{
        struct making *m = arg;
        if (m->said)
                (void)cas_map_put(m->said, name, strlen(name), NULL);
        struct listed e = {.vid = FFS_VID_NONE, .type = type, .in_upper = true};
        return kind != FFS_UPPER_PRESENT || add(m->l, name, &e);
}

static bool add_lower(void *arg, const char *name, size_t name_len, uint64_t vid, uint8_t type,
                      uint64_t next_cookie CAS_UNUSED)
{
        struct making *m = arg;
        char text[256];
        if (name_len >= sizeof(text) || (m->said && cas_map_get(m->said, name, name_len)))
                return true;
        memcpy(text, name, name_len);
        text[name_len] = '\0';
        struct listed e = {.vid = vid, .type = type};
        return add(m->l, text, &e);
}

static int compare(const void *a, const void *b, void *names)
{
        const struct listed *x = a, *y = b;
        if (x->position != y->position)
                return x->position < y->position ? -1 : 1;
        return strcmp((const char *)names + x->name, (const char *)names + y->name);
}

static int list_all(struct ffs_rw *rw, const struct ffs_node *dir, struct making *m)
{
        cas_cleanup_fd int fd = -1;
        int rc = ffs_rw_dir_fd(rw, dir, &fd);
        if (rc == 0 && fd >= 0)
                rc = ffs_upper_list(rw->upper, fd, add_upper, m);
        if (rc == 0 && m->l->rc == 0 && dir->vid != FFS_VID_NONE) {
                struct cas_err err = CAS_ERR_INIT;
                uint64_t cookie = 0;
                if (ffs_view_readdir(rw->view, dir->vid, &cookie, add_lower, m, &err) < 0)
                        rc = ffs_rw_errno(&err);
        }
        return rc < 0 ? rc : m->l->rc;
}

static int make_listing(struct ffs_rw *rw, const struct ffs_node *dir, struct listing **out)
{
        struct listing *l = cas_xcalloc(1, sizeof(*l));
        l->refs = 1;
        l->dir = dir->id;
        bool both = dir->vid != FFS_VID_NONE && dir->flags & FFS_NODE_HAS_UPPER;
        cas_cleanup_map struct cas_map *said = both ? cas_map_new() : NULL;
        struct making m = {.rw = rw, .l = l, .said = said};
        int rc = list_all(rw, dir, &m);
        if (rc < 0) {
                listing_free(l);
                return rc;
        }
        if (l->count > 1)
                qsort_r(l->entries, l->count, sizeof(l->entries[0]), compare, l->names.data);
        for (size_t i = 1; i < l->count; i++)
                if (l->entries[i].position <= l->entries[i - 1].position)
                        l->entries[i].position = l->entries[i - 1].position + 1;
        *out = l;
        return 0;
}

int ffs_rw_dir_is_empty(struct ffs_rw *rw, const struct ffs_node *dir, bool *empty)
{
        struct listing *l;
        int rc = make_listing(rw, dir, &l);
        if (rc < 0)
                return rc;
        *empty = l->count == 0;
        listing_free(l);
        return 0;
}

/* ---- answering ---- */

struct answer {
        fuse_req_t req;
        struct ffs_rw *rw;
        struct ffs_node dir;
        int dir_fd;
        bool plus;
        char *out;
        size_t len, max;
        struct cas_buf looked; /* nodes that were looked up */
};

static bool fits(struct answer *a, const char *name)
{
        size_t n = a->plus ? fuse_add_direntry_plus(a->req, NULL, 0, name, NULL, 0)
                           : fuse_add_direntry(a->req, NULL, 0, name, NULL, 0);
        return n <= a->max - a->len;
}

static void append(struct answer *a, const char *name, const struct fuse_entry_param *e,
                   uint64_t position)
{
        char *at = a->out + a->len;
        size_t room = a->max - a->len;
        a->len += a->plus ? fuse_add_direntry_plus(a->req, at, room, name, e, (off_t)position)
                          : fuse_add_direntry(a->req, at, room, name, &e->attr, (off_t)position);
}

static bool answer_dots(struct answer *a, uint64_t offset)
{
        static const char *const names[] = {".", ".."};
        for (uint64_t i = offset; i < 2; i++) {
                struct ffs_node at = a->dir, parent;
                struct fuse_entry_param e = {.attr = {.st_mode = S_IFDIR}};
                if (i == 1 && at.parent && ffs_nodes_get(a->rw->nodes, at.parent, &parent))
                        at = parent;
                e.attr.st_ino = at.ino;
                if (!fits(a, names[i]))
                        return false;
                append(a, names[i], &e, i + 1);
        }
        return true;
}

static int answer_entry(struct answer *a, const struct listing *l, const struct listed *entry)
{
        const char *name = (const char *)l->names.data + entry->name;
        struct fuse_entry_param e = {.attr = {.st_mode = (mode_t)entry->type << 12}};
        ffs_rw_cleanup_found struct ffs_rw_found f = {0};
        if (!entry->in_upper && !a->plus) {
                e.attr.st_ino = ffs_view_ino(a->rw->view, entry->vid);
        } else {
                int rc = ffs_rw_find(a->rw, &a->dir, a->dir_fd, name, &f);
                if (rc == 0 && !f.exists)
                        return 0; /* gone since the listing was made, which cannot be */
                if (rc == 0 && a->plus)
                        rc = ffs_rw_entry(a->rw, &f, &e);
                if (rc == 0 && a->plus)
                        cas_buf_append_le64(&a->looked, e.ino);
                /* What cannot be read is listed all the same; its look-up will say why. */
                if (rc < 0 || !a->plus)
                        e.attr.st_ino = f.exists ? f.node.ino : POSITION_MASK;
        }
        append(a, name, &e, entry->position);
        return 0;
}

static int answer_entries(struct answer *a, uint64_t offset)
{
        struct listing *l = get_kept(a->rw->listings, a->dir.id);
        int rc = 0;
        if (!l) {
                rc = make_listing(a->rw, &a->dir, &l);
                if (rc < 0)
                        return rc;
                keep(a->rw->listings, l);
        }
        size_t low = 0, high = l->count;
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                if (l->entries[middle].position <= offset)
                        low = middle + 1;
                else
                        high = middle;
        }
        for (; low < l->count && rc == 0; low++) {
                if (!fits(a, (const char *)l->names.data + l->entries[low].name))
                        break;
                rc = answer_entry(a, l, &l->entries[low]);
        }
        bool at_end = low == l->count && a->len == 0;
        put(a->rw->listings, l);
        if (at_end)
                ffs_rw_listings_drop(a->rw->listings, a->dir.id); /* nobody needs it now */
        return rc;
}

static int readdir_locked(struct answer *a, uint64_t node, uint64_t offset)
{
        int rc = ffs_rw_dir(a->rw, node, &a->dir);
        if (rc == -ENOENT)
                return 0; /* removed: nothing is in it, not even itself */
        if (rc == 0)
                rc = ffs_rw_dir_fd(a->rw, &a->dir, &a->dir_fd);
        if (rc == 0 && answer_dots(a, offset))
                rc = answer_entries(a, offset);
        return rc;
}

void ffs_rw_readdir(struct ffs_volume *v, fuse_req_t req, uint64_t node, size_t size, off_t offset,
                    bool plus, struct fuse_file_info *fi CAS_UNUSED)
{
        struct ffs_rw *rw = v->rw;
        cas_cleanup_free char *out = malloc(size + 1);
        struct answer a = {
                .req = req, .rw = rw, .plus = plus, .out = out, .max = size, .dir_fd = -1};
        int rc = out ? 0 : -ENOMEM;
        cas_rwlock_read(&rw->lock);
        if (rc == 0)
                rc = readdir_locked(&a, node, (uint64_t)offset);
        cas_rwlock_unlock(&rw->lock);
        int sent = rc < 0 ? fuse_reply_err(req, -rc) : fuse_reply_buf(req, out, a.len);
        if (rc < 0 || sent < 0)
                for (size_t i = 0; i < a.looked.len_bytes; i += sizeof(uint64_t))
                        ffs_rw_unlook(rw, cas_get_le64(a.looked.data + i));
        cas_buf_release(&a.looked);
        if (a.dir_fd >= 0)
                (void)close(a.dir_fd);
}
