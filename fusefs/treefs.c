/* SPDX-License-Identifier: Apache-2.0 */
/* Connections: their state, their volumes, and what all volumes need. Requests are
 * given out by treefsops.c.
 *
 * A volume goes in two steps. Removed, it has no name any more, and the kernel is told to
 * let its directory go; it is closed when the kernel has forgotten all of its nodes. */
#include "fusefs/treefs_int.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cas/log.h"
#include "cas/map.h"
#include "cas/mutex.h"
#include "fusefs/backing_int.h"
#include "fusefs/ffs_err.h"
#include "fusefs/nodes_int.h"
#include "fusefs/ownerwait_int.h"
#include "fusefs/sharednodes_int.h"
#include "fusefs/treefscore_int.h"
#include "fusefs/treero_int.h"
#include "fusefs/treerw_int.h"

struct entry {
        struct ffs_volume volume;
        atomic_uint refs;   /* one of the table, one of each request */
        atomic_llong known; /* nodes of it that the kernel has, read-only; since this process */
        atomic_bool is_removed;
};

struct ffs_treefs {
        struct ffs_treefs_config config;
        struct ffs_connection *connection; /* NULL: not started */
        struct ffs_slots *slots;
        struct ffs_sharednodes *shared;
        struct ffs_backings *backings;
        struct ffs_nodes *nodes;
        struct cas_mutex mutex;  /* guards all below; no call but of cas_map under it */
        struct cas_map *volumes; /* number -> struct entry * */
        struct cas_map *names;   /* id -> number, of those that are not removed */
        struct ffs_treefs_notes *notes;
        atomic_uint removed_count;
};

/* In the table of shared nodes. */
struct ffs_treefs_notes {
        uint64_t last_number;
};
_Static_assert(sizeof(struct ffs_treefs_notes) <= FFS_SLOTS_NOTES_BYTES, "they fit");

/* What each thread that serves has for itself. */
static __thread uint64_t request_unique;
static __thread struct cas_buf read_scratch;
static __thread uint8_t *read_reply; /* FFS_REQUEST_BYTES_MAX, touched as far as replies go */

/* ---- state ---- */

int ffs_treefs_state_create(int out_fds[FFS_TREEFS_STATE_FDS], struct cas_err *err)
{
        cas_cleanup_fd int shared = -1, backings = -1, nodes = -1;
        if (ffs_slots_create(&ffs_slots_shared, &shared, err) < 0 ||
            ffs_backings_state_create(&backings, err) < 0 ||
            ffs_nodes_state_create(&nodes, err) < 0)
                return -(int)err->code;
        out_fds[0] = cas_steal_fd(&shared);
        out_fds[1] = cas_steal_fd(&backings);
        out_fds[2] = cas_steal_fd(&nodes);
        return 0;
}

int ffs_treefs_new(const struct ffs_treefs_config *config, struct ffs_treefs **out,
                   struct cas_err *err)
{
        struct ffs_treefs *t = cas_xcalloc(1, sizeof(*t));
        t->config = *config;
        cas_mutex_init(&t->mutex, "treefs");
        t->volumes = cas_map_new();
        t->names = cas_map_new();
        if (ffs_slots_open(&ffs_slots_shared, config->state_fds[0], &t->slots, err) < 0 ||
            ffs_backings_open(config->state_fds[1], config->fuse_fd, &t->backings, err) < 0 ||
            ffs_nodes_open(config->state_fds[2], &t->nodes, err) < 0) {
                ffs_treefs_free(t);
                return -(int)err->code;
        }
        t->notes = ffs_slots_notes(t->slots);
        t->shared = ffs_sharednodes_new(t->slots);
        *out = t;
        return 0;
}

static void entry_free(struct entry *e)
{
        if (e->volume.rw)
                ffs_rw_close(e->volume.rw);
        ffs_view_unref(e->volume.view);
        free(e);
}

static void entry_free_each(void *arg CAS_UNUSED, const void *key CAS_UNUSED,
                            size_t key_len CAS_UNUSED, uint64_t value)
{
        entry_free((struct entry *)(uintptr_t)value);
}

void ffs_treefs_free(struct ffs_treefs *t)
{
        if (!t)
                return;
        if (t->connection)
                ffs_connection_free(t->connection);
        cas_map_each(t->volumes, entry_free_each, NULL);
        cas_map_free(t->volumes);
        cas_map_free(t->names);
        ffs_sharednodes_free(t->shared);
        ffs_backings_close(t->backings);
        ffs_slots_close(t->slots);
        if (t->nodes)
                ffs_nodes_close(t->nodes);
        cas_mutex_release(&t->mutex);
        free(t);
}

/* ---- volumes ---- */

static struct entry *entry_of(struct ffs_volume *v)
{
        return (struct entry *)v; /* its first member */
}

static struct entry *entry_get_locked(struct ffs_treefs *t, uint32_t number)
{
        const uint64_t *found = cas_map_get(t->volumes, &number, sizeof(number));
        struct entry *e = found ? (struct entry *)(uintptr_t)*found : NULL;
        cas_assert_held(&t->mutex);
        if (e)
                atomic_fetch_add(&e->refs, 1);
        return e;
}

struct ffs_volume *ffs_treefs_volume_get(struct ffs_treefs *t, uint32_t number)
{
        cas_mutex_lock(&t->mutex);
        struct entry *e = entry_get_locked(t, number);
        cas_mutex_unlock(&t->mutex);
        return e ? &e->volume : NULL;
}

struct ffs_volume *ffs_treefs_volume_named(struct ffs_treefs *t, const char *id)
{
        struct entry *e = NULL;
        cas_mutex_lock(&t->mutex);
        const uint64_t *number = cas_map_get_str(t->names, id);
        if (number)
                e = entry_get_locked(t, (uint32_t)*number);
        cas_mutex_unlock(&t->mutex);
        return e ? &e->volume : NULL;
}

void ffs_treefs_volume_put(struct ffs_treefs *t CAS_UNUSED, struct ffs_volume *v)
{
        struct entry *e = entry_of(v);
        if (atomic_fetch_sub(&e->refs, 1) == 1)
                entry_free(e);
}

void ffs_treefs_known(struct ffs_volume *v, int64_t count)
{
        (void)atomic_fetch_add_explicit(&entry_of(v)->known, count, memory_order_relaxed);
}

/* A removed volume that the kernel knows nothing of is closed. The caller has a reference. */
void ffs_treefs_retire(struct ffs_treefs *t, struct ffs_volume *v)
{
        struct entry *e = entry_of(v);
        if (!atomic_load(&e->is_removed)) /* first: the rest may look through many nodes */
                return;
        if (v->rw ? !ffs_rw_is_idle(v->rw) : atomic_load(&e->known) > 0)
                return;
        cas_mutex_lock(&t->mutex);
        bool gone = cas_map_remove(t->volumes, &v->number, sizeof(v->number));
        cas_mutex_unlock(&t->mutex);
        if (!gone)
                return;
        atomic_fetch_sub(&t->removed_count, 1);
        ffs_treefs_volume_put(t, v);
}

bool ffs_treefs_retires(const struct ffs_treefs *t)
{
        return atomic_load(&t->removed_count) > 0;
}

static int view_open(const struct ffs_volume_spec *spec, struct ffs_view **out, struct cas_err *err)
{
        const char *paths[FFS_VOLUME_TREES_MAX];
        for (size_t i = 0; i < spec->tree_count && i < FFS_VOLUME_TREES_MAX; i++)
                paths[i] = spec->tree_paths[i];
        return ffs_view_open(spec->trees, paths, spec->tree_count, out, err);
}

/* A number that no volume had, remembered before it is used. */
static int number_give(struct ffs_treefs *t, const char *id, uint32_t *number, struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&t->mutex);
        if (cas_map_get_str(t->names, id))
                rc = cas_fail(err, CAS_E_EXISTS, "volume %s is there already", id);
        else if (!t->config.shared && cas_map_count(t->names) > 0)
                rc = cas_fail(err, CAS_E_INVALID, "a private connection has one volume");
        else if (*number >= FFS_NODE_VOLUMES_MAX ||
                 (*number == 0 && t->notes->last_number + 1 >= FFS_NODE_VOLUMES_MAX))
                rc = cas_fail(err, CAS_E_LIMIT, "too many volumes on one connection");
        else if (*number == 0)
                *number = (uint32_t)++t->notes->last_number;
        else if (cas_map_get(t->volumes, number, sizeof(*number)))
                rc = cas_fail(err, CAS_E_EXISTS, "volume number %u is there already", *number);
        else if (*number > t->notes->last_number)
                t->notes->last_number = *number;
        cas_mutex_unlock(&t->mutex);
        return rc;
}

int ffs_treefs_add(struct ffs_treefs *t, const struct ffs_volume_spec *spec, int dir_fd,
                   uint32_t *number, struct cas_err *err)
{
        cas_cleanup_fd int dir = dir_fd;
        ffs_cleanup_view struct ffs_view *view = NULL;
        if (view_open(spec, &view, err) < 0 || number_give(t, spec->id, number, err) < 0)
                return -(int)err->code;
        struct entry *e = cas_xcalloc(1, sizeof(*e));
        atomic_init(&e->refs, 1);
        e->volume.number = *number;
        e->volume.spec = *spec;
        e->volume.view = cas_steal(&view);
        /* In the table first: what opens it may meet nodes of it. */
        cas_mutex_lock(&t->mutex);
        *cas_map_put(t->volumes, number, sizeof(*number), NULL) = (uintptr_t)e;
        cas_mutex_unlock(&t->mutex);
        int rc = spec->rw ? ffs_rw_open(t, &e->volume, cas_steal_fd(&dir), &e->volume.rw, err) : 0;
        cas_mutex_lock(&t->mutex);
        if (rc < 0)
                (void)cas_map_remove(t->volumes, number, sizeof(*number));
        else
                *cas_map_put(t->names, spec->id, strlen(spec->id), NULL) = *number;
        cas_mutex_unlock(&t->mutex);
        if (rc < 0)
                ffs_treefs_volume_put(t, &e->volume);
        return rc;
}

int ffs_treefs_remove(struct ffs_treefs *t, const char *id, struct cas_err *err)
{
        struct ffs_volume *v = ffs_treefs_volume_named(t, id);
        if (!v)
                return cas_fail(err, CAS_E_NOTFOUND, "no volume %s", id);
        cas_mutex_lock(&t->mutex);
        bool was_there = cas_map_remove(t->names, id, strlen(id));
        cas_mutex_unlock(&t->mutex);
        if (was_there) {
                atomic_fetch_add(&t->removed_count, 1);
                atomic_store(&entry_of(v)->is_removed, true);
                /* The kernel drops the directory and all below that nobody has open. */
                if (t->config.shared && t->connection)
                        (void)fuse_lowlevel_notify_inval_entry(ffs_treefs_session(t), FUSE_ROOT_ID,
                                                               id, strlen(id));
                ffs_treefs_retire(t, v);
        }
        ffs_treefs_volume_put(t, v);
        return 0;
}

struct names {
        struct ffs_treefs_name *list;
        size_t count;
};

static void names_add(void *arg, const void *key, size_t key_len, uint64_t value)
{
        struct names *n = arg;
        struct ffs_treefs_name *name = &n->list[n->count++];
        cas_assert(key_len < sizeof(name->id));
        memcpy(name->id, key, key_len);
        name->id[key_len] = '\0';
        name->number = (uint32_t)value;
}

static int compare_names(const void *a, const void *b)
{
        uint32_t x = ((const struct ffs_treefs_name *)a)->number;
        uint32_t y = ((const struct ffs_treefs_name *)b)->number;
        return x < y ? -1 : x > y;
}

size_t ffs_treefs_names(struct ffs_treefs *t, struct ffs_treefs_name **out)
{
        struct names n = {0};
        cas_mutex_lock(&t->mutex);
        n.list = cas_xcalloc(cas_map_count(t->names) + 1, sizeof(n.list[0]));
        cas_map_each(t->names, names_add, &n);
        cas_mutex_unlock(&t->mutex);
        qsort(n.list, n.count, sizeof(n.list[0]), compare_names);
        *out = n.list;
        return n.count;
}

/* ---- serving ---- */

static const void *init_load(void *userdata, size_t *len)
{
        const struct ffs_treefs *t = userdata;
        return ffs_slots_init(t->slots, len);
}

static void init_save(void *userdata, const void *request, size_t len)
{
        const struct ffs_treefs *t = userdata;
        ffs_slots_save_init(t->slots, request, len);
}

static void request_seen(void *userdata CAS_UNUSED, uint64_t unique, uint32_t opcode CAS_UNUSED,
                         uint64_t node CAS_UNUSED)
{
        request_unique = unique;
        ffs_rw_request_seen(unique);
}

uint64_t ffs_treefs_unique(void)
{
        return request_unique;
}

/* Volumes that are wholly there, removed ones too; counted. */
struct entries {
        struct ffs_treefs *t;
        struct entry **list; /* owned */
        size_t count;
};

static void entries_add(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                        uint64_t value)
{
        struct entries *all = arg;
        struct entry *e = (struct entry *)(uintptr_t)value;
        const uint64_t *named = cas_map_get_str(all->t->names, e->volume.spec.id);
        if (!atomic_load(&e->is_removed) && !(named && *named == e->volume.number))
                return;
        atomic_fetch_add(&e->refs, 1);
        all->list[all->count++] = e;
}

static void entries_get(struct ffs_treefs *t, struct entries *out)
{
        *out = (struct entries){.t = t};
        cas_mutex_lock(&t->mutex);
        out->list = cas_xcalloc(cas_map_count(t->volumes) + 1, sizeof(out->list[0]));
        cas_map_each(t->volumes, entries_add, out);
        cas_mutex_unlock(&t->mutex);
}

static void entries_put(struct entries *all)
{
        for (size_t i = 0; i < all->count; i++)
                ffs_treefs_volume_put(all->t, &all->list[i]->volume);
        free(all->list);
}

/* Of a volume that a killed predecessor was adding or removing. */
static void drop_strange_nodes(struct ffs_treefs *t)
{
        struct entries all;
        entries_get(t, &all);
        cas_cleanup_free uint32_t *numbers = cas_xcalloc(all.count + 1, sizeof(numbers[0]));
        for (size_t i = 0; i < all.count; i++)
                numbers[i] = all.list[i]->volume.number;
        ffs_nodes_drop_others(t->nodes, numbers, all.count);
        entries_put(&all);
}

static void thread_ends(void *userdata CAS_UNUSED)
{
        cas_buf_release(&read_scratch);
        free(cas_steal(&read_reply));
}

int ffs_treefs_start(struct ffs_treefs *t, struct cas_err *err)
{
        drop_strange_nodes(t);
        const struct ffs_connection_config connection = {
                .fuse_fd = t->config.fuse_fd,
                .ops = &ffs_treefs_operations,
                .userdata = t,
                .threads = t->config.threads,
                .name = t->config.pages == FFS_PAGES_INODE ? "trees-inode" : "trees-pass",
                .init_load = init_load,
                .init_save = init_save,
                .request_seen = request_seen,
                .thread_ends = thread_ends,
        };
        return ffs_connection_start(&connection, &t->connection, err);
}

void ffs_treefs_ended(struct ffs_treefs *t)
{
        struct entries all;
        entries_get(t, &all);
        for (size_t i = 0; i < all.count; i++)
                if (all.list[i]->volume.rw)
                        ffs_rw_give_up(all.list[i]->volume.rw);
        entries_put(&all);
}

bool ffs_treefs_is_still(const struct ffs_treefs *t)
{
        return ffs_connection_is_still(t->connection);
}

int ffs_treefs_ended_fd(const struct ffs_treefs *t)
{
        return ffs_connection_ended_fd(t->connection);
}

static void count_open(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       uint64_t value CAS_UNUSED)
{
        ++*(uint64_t *)arg;
}

void ffs_treefs_count(struct ffs_treefs *t, struct ffs_treefs_counts *out)
{
        *out = (struct ffs_treefs_counts){.shared_nodes = ffs_slots_count(t->slots),
                                          .rw_nodes = ffs_nodes_count(t->nodes)};
        ffs_backings_count(t->backings, &out->backings, &out->open_files);
        cas_mutex_lock(&t->mutex);
        cas_map_each(t->volumes, count_open, &out->volumes);
        cas_mutex_unlock(&t->mutex);
}

/* ---- for those who answer ---- */

enum ffs_pages ffs_treefs_pages(const struct ffs_treefs *t)
{
        return t->config.pages;
}

bool ffs_treefs_is_shared(const struct ffs_treefs *t)
{
        return t->config.shared;
}

struct ffs_backings *ffs_treefs_backings(struct ffs_treefs *t)
{
        return t->backings;
}

struct ffs_nodes *ffs_treefs_nodes(struct ffs_treefs *t)
{
        return t->nodes;
}

struct ffs_sharednodes *ffs_treefs_shared(struct ffs_treefs *t)
{
        return t->shared;
}

struct ffs_ownerwait *ffs_treefs_wait(struct ffs_treefs *t)
{
        return t->config.wait;
}

struct ffs_reader *ffs_treefs_reader(struct ffs_treefs *t)
{
        return t->config.reader;
}

struct ffs_opener *ffs_treefs_opener(struct ffs_treefs *t)
{
        return t->config.opener;
}

struct fuse_session *ffs_treefs_session(struct ffs_treefs *t)
{
        return ffs_connection_session(t->connection);
}

void ffs_treefs_blocks(struct ffs_treefs *t)
{
        if (t->connection)
                ffs_connection_blocks(t->connection);
}

void ffs_treefs_goes_on(struct ffs_treefs *t)
{
        if (t->connection)
                ffs_connection_goes_on(t->connection);
}

void ffs_treefs_attr(const struct ffs_volume *v, uint64_t vid, const struct cas_inode *inode,
                     struct stat *out)
{
        *out = (struct stat){.st_ino = ffs_view_ino(v->view, vid),
                             .st_mode = inode->mode,
                             .st_nlink = inode->nlink,
                             .st_uid = ffs_idmap_uid_to_host(&v->spec.map, inode->uid),
                             .st_gid = ffs_idmap_gid_to_host(&v->spec.map, inode->gid),
                             .st_rdev = inode->rdev,
                             .st_size = (off_t)inode->size_bytes,
                             .st_blocks = (blkcnt_t)((inode->size_bytes + 511) / 512),
                             .st_blksize = 4096,
                             .st_mtim = {.tv_sec = inode->mtime_s, .tv_nsec = inode->mtime_ns}};
        out->st_atim = out->st_ctim = out->st_mtim;
}

/* ---- content ---- */

struct content {
        fuse_req_t req;
        struct cas_hash object;
        uint64_t size_bytes, offset, len;
};
_Static_assert(sizeof(struct content) <= FFS_OWNERWAIT_ITEM_BYTES_MAX, "it can wait");

static void content_failed(const struct content *c, const char *why)
{
        char hex[CAS_HASH_HEX_BYTES];
        cas_log(CAS_LOG_WARN, "read.failed", "object=%s offset=%ju why=\"%s\"",
                cas_hash_hex(&c->object, hex), (uintmax_t)c->offset, why);
        (void)fuse_reply_err(c->req, EIO);
}

static int content_attempt(void *arg, const void *item, int timeout_ms)
{
        struct ffs_treefs *t = arg;
        struct cas_err err = CAS_ERR_INIT;
        const struct content *c = item;
        if (!read_reply)
                read_reply = cas_xmalloc(FFS_REQUEST_BYTES_MAX);
        int rc = ffs_reader_read(t->config.reader, &c->object, c->size_bytes, c->offset, read_reply,
                                 c->len, &read_scratch, timeout_ms, &err);
        if (rc == -CAS_E_BUSY)
                return rc;
        if (rc < 0)
                content_failed(c, err.msg);
        else
                (void)fuse_reply_buf(c->req, (const char *)read_reply, c->len);
        return 0;
}

static void content_fail(void *arg CAS_UNUSED, const void *item, int error)
{
        const struct content *c = item;
        if (error == EINTR)
                (void)fuse_reply_err(c->req, error);
        else
                content_failed(c, "the owner of the store is away");
}

void ffs_treefs_reply_object(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                             uint64_t size_bytes, uint64_t offset, size_t len)
{
        if (offset >= size_bytes) {
                (void)fuse_reply_buf(req, NULL, 0);
                return;
        }
        struct content c = {
                .req = req, .object = *object, .size_bytes = size_bytes, .offset = offset};
        c.len = cas_min_u64(cas_min_u64(len, FFS_REQUEST_BYTES_MAX), size_bytes - offset);
        const struct ffs_ownerwait_job job = {.req = req,
                                              .attempt = content_attempt,
                                              .fail = content_fail,
                                              .arg = t,
                                              .item = &c,
                                              .item_bytes = sizeof(c)};
        ffs_ownerwait_serve(t->config.wait, &job);
}

struct piece {
        struct ffs_treefs *t;
        const struct cas_hash *object;
        uint64_t size_bytes, offset;
        uint8_t *out;
        size_t len;
        struct cas_err err;
};

static int piece_attempt(void *arg, int timeout_ms)
{
        struct piece *p = arg;
        return ffs_reader_read(p->t->config.reader, p->object, p->size_bytes, p->offset, p->out,
                               p->len, &read_scratch, timeout_ms, &p->err);
}

int ffs_treefs_read_object(struct ffs_treefs *t, const struct cas_hash *object, uint64_t size_bytes,
                           uint64_t offset, void *out, size_t len)
{
        struct piece p = {.t = t,
                          .object = object,
                          .size_bytes = size_bytes,
                          .offset = offset,
                          .out = out,
                          .len = len,
                          .err = CAS_ERR_INIT};
        if (offset > size_bytes || len > size_bytes - offset)
                return -EINVAL;
        int rc = ffs_ownerwait_block(t->config.wait, piece_attempt, &p);
        if (rc == 0)
                return 0;
        cas_log(CAS_LOG_WARN, "read.failed", "offset=%ju why=\"%s\"", (uintmax_t)offset, p.err.msg);
        return -EIO;
}
