/* SPDX-License-Identifier: Apache-2.0 */
/* The table: a slot for each key that has an id (memtable.c), and in its head what
 * makes each change whole: a change is first described in `change`, then made,
 * then the description is taken back. A successor that finds one makes it again, which does
 * no harm. One kill leaves something behind: between the kernel's giving an id and its
 * being described. Ids are handed out upwards, so the successor closes the first one behind
 * the last that is known: it is this one or none.
 *
 * Which requests were counted is in a ring of the latest. A request that comes again was
 * among the last that were served before the kill, at most one of each thread. */
#include "fusefs/backing_int.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/connection_int.h"
#include "fusefs/memtable_int.h"

/* Of the kernel's protocol, newer than some systems' header. */
struct backing_map {
        int32_t fd;
        uint32_t flags;
        uint64_t padding;
};
#define IOC_BACKING_OPEN _IOW(229, 1, struct backing_map)
#define IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

#define BACKINGS_MAX (UINT32_C(1) << 20)
#define RING_COUNT 512
#define NO_SLOT UINT32_MAX

struct slot {
        struct cas_hash key;
        _Atomic int32_t id;     /* 0: free */
        _Atomic uint32_t opens; /* files that are open on it */
};
_Static_assert(sizeof(struct slot) == 40, "layout of the table");

struct change {
        _Atomic uint32_t is_set; /* the rest is valid */
        uint32_t slot;
        int32_t id;     /* of the slot afterwards; 0: it is free */
        int32_t old_id; /* to be closed, when it is free */
        uint32_t opens; /* of the slot afterwards */
        uint32_t ring_at;
        uint64_t unique; /* counted; 0: none */
        struct cas_hash key;
};

struct owner {
        struct change change;
        int32_t last_id; /* the latest that the kernel gave */
        uint32_t ring_at;
        uint64_t ring[RING_COUNT]; /* `unique` of requests, without the mark of those that come
                                      again */
};

/* What the process itself remembers of a slot: its place among the idle ones. */
struct idle {
        uint32_t next, previous;
        bool is_idle;
};

struct ffs_backings {
        int fuse_fd;            /* borrowed */
        struct cas_mutex mutex; /* guards all below and the table; leaf; held for ioctls */
        struct ffs_memtable *table;
        struct owner *owner;
        struct idle *idle; /* by slot number */
        size_t idle_room;
        uint32_t idle_first, idle_last; /* oldest first */
        size_t idle_count;
        uint64_t open_files;
};

static bool in_use(const void *slot)
{
        return atomic_load_explicit(&((const struct slot *)slot)->id, memory_order_acquire) != 0;
}

static const struct ffs_memtable_kind kind = {.name = "backings",
                                              .version = 1,
                                              .owner_bytes = sizeof(struct owner),
                                              .slot_bytes = sizeof(struct slot),
                                              .slots_max = BACKINGS_MAX,
                                              .in_use = in_use};

static struct slot *slot_at(struct ffs_backings *b, uint32_t number)
{
        return ffs_memtable_slot(b->table, number);
}

/* ---- the kernel ---- */

static int register_fd(struct ffs_backings *b, int fd, int32_t *id)
{
        struct backing_map map = {.fd = fd};
        int rc = ioctl(b->fuse_fd, IOC_BACKING_OPEN, &map);
        if (rc <= 0)
                return rc < 0 ? -errno : -EIO;
        *id = rc;
        return 0;
}

/* ENOENT: it was closed before. EPERM: the connection has no passthrough. */
static void unregister(struct ffs_backings *b, int32_t id)
{
        uint32_t number = (uint32_t)id;
        if (ioctl(b->fuse_fd, IOC_BACKING_CLOSE, &number) < 0 && errno != ENOENT &&
            errno != ENOTCONN && errno != EPERM)
                cas_log(CAS_LOG_WARN, "backing.close", "id=%d errno=%d", id, errno);
}

/* ---- changes ---- */

static bool was_counted(const struct ffs_backings *b, uint64_t unique)
{
        if (!(unique & FFS_UNIQUE_RESENT))
                return false;
        for (size_t i = 0; i < RING_COUNT; i++)
                if (b->owner->ring[i] == (unique & ~FFS_UNIQUE_RESENT))
                        return true;
        return false;
}

/* Makes the change that is described, once or again. */
static void change_make(struct ffs_backings *b)
{
        struct owner *o = b->owner;
        struct change *c = &o->change;
        struct slot *slot = slot_at(b, c->slot);
        if (c->id) {
                slot->key = c->key;
                atomic_store(&slot->opens, c->opens);
                if (c->id > o->last_id)
                        o->last_id = c->id;
        }
        atomic_store_explicit(&slot->id, c->id, memory_order_release);
        if (!c->id && c->old_id)
                unregister(b, c->old_id);
        if (c->unique) {
                o->ring[c->ring_at % RING_COUNT] = c->unique;
                o->ring_at = c->ring_at + 1;
        }
        atomic_store_explicit(&c->is_set, 0, memory_order_release);
}

static void change_describe(struct ffs_backings *b, uint32_t number, const struct cas_hash *key,
                            int32_t id, uint32_t opens, uint64_t unique)
{
        struct change *c = &b->owner->change;
        cas_assert_held(&b->mutex);
        c->slot = number;
        c->key = *key;
        c->old_id = atomic_load(&slot_at(b, number)->id);
        c->id = id;
        c->opens = opens;
        c->unique = unique & ~FFS_UNIQUE_RESENT;
        c->ring_at = b->owner->ring_at;
        atomic_store_explicit(&c->is_set, 1, memory_order_release);
}

/* ---- ids without open files ---- */

static void idle_reserve(struct ffs_backings *b)
{
        size_t want = ffs_memtable_slot_count(b->table);
        if (want <= b->idle_room)
                return;
        b->idle = cas_xrealloc(b->idle, want * sizeof(b->idle[0]));
        memset(b->idle + b->idle_room, 0, (want - b->idle_room) * sizeof(b->idle[0]));
        b->idle_room = want;
}

static void idle_add(struct ffs_backings *b, uint32_t number)
{
        struct idle *i = &b->idle[number];
        *i = (struct idle){.next = NO_SLOT, .previous = b->idle_last, .is_idle = true};
        if (b->idle_last == NO_SLOT)
                b->idle_first = number;
        else
                b->idle[b->idle_last].next = number;
        b->idle_last = number;
        b->idle_count++;
}

static void idle_remove(struct ffs_backings *b, uint32_t number)
{
        struct idle *i = &b->idle[number];
        if (!i->is_idle)
                return;
        if (i->previous == NO_SLOT)
                b->idle_first = i->next;
        else
                b->idle[i->previous].next = i->next;
        if (i->next == NO_SLOT)
                b->idle_last = i->previous;
        else
                b->idle[i->next].previous = i->previous;
        i->is_idle = false;
        b->idle_count--;
}

/* Gives an id back, which no open file needs. */
static void drop_locked(struct ffs_backings *b, uint32_t number)
{
        struct cas_hash key = slot_at(b, number)->key;
        idle_remove(b, number);
        change_describe(b, number, &key, 0, 0, 0);
        ffs_memtable_remove(b->table, number);
        change_make(b);
}

static void settle_locked(struct ffs_backings *b, uint32_t number, bool keep)
{
        if (!keep) {
                drop_locked(b, number);
                return;
        }
        idle_add(b, number);
        if (b->idle_count > FFS_BACKINGS_IDLE_MAX)
                drop_locked(b, b->idle_first);
}

/* ---- opening ---- */

int ffs_backings_state_create(int *out_fd, struct cas_err *err)
{
        return ffs_memtable_create(&kind, out_fd, err);
}

/* What a predecessor was in the middle of. */
static int recover(struct ffs_backings *b, struct cas_err *err)
{
        const struct change *c = &b->owner->change;
        if (!atomic_load_explicit(&c->is_set, memory_order_acquire))
                return 0;
        if (c->slot >= ffs_memtable_slot_count(b->table))
                return cas_fail(err, CAS_E_CORRUPT, "table of backings: change of slot %u",
                                c->slot);
        change_make(b);
        return 0;
}

/* The id of a predecessor that no slot has. */
static void close_unknown(struct ffs_backings *b)
{
        if (b->owner->last_id == INT32_MAX)
                return;
        uint32_t count = ffs_memtable_slot_count(b->table);
        int32_t first = b->owner->last_id + 1;
        cas_cleanup_free bool *known = cas_xcalloc((size_t)count + 1, sizeof(known[0]));
        for (uint32_t i = 0; i < count; i++) {
                int32_t id = atomic_load(&slot_at(b, i)->id);
                if (id >= first && (uint32_t)(id - first) <= count)
                        known[id - first] = true;
        }
        for (uint32_t i = 0; i <= count; i++) {
                if (known[i])
                        continue;
                unregister(b, first + (int32_t)i);
                return;
        }
}

int ffs_backings_open(int state_fd, int fuse_fd, struct ffs_backings **out, struct cas_err *err)
{
        struct ffs_backings *b = cas_xcalloc(1, sizeof(*b));
        cas_mutex_init(&b->mutex, "backings");
        b->fuse_fd = fuse_fd;
        b->idle_first = b->idle_last = NO_SLOT;
        /* Twice: the first look at the table is for the change that the second finds made. */
        if (ffs_memtable_open(&kind, state_fd, &b->table, err) < 0)
                goto failed;
        b->owner = ffs_memtable_owner(b->table);
        if (recover(b, err) < 0)
                goto failed;
        ffs_memtable_close(cas_steal(&b->table));
        if (ffs_memtable_open(&kind, state_fd, &b->table, err) < 0)
                goto failed;
        b->owner = ffs_memtable_owner(b->table);
        close_unknown(b);
        idle_reserve(b);
        for (uint32_t i = 0; i < ffs_memtable_slot_count(b->table); i++) {
                const struct slot *slot = slot_at(b, i);
                b->open_files += in_use(slot) ? atomic_load(&slot->opens) : 0;
                if (in_use(slot) && !atomic_load(&slot->opens))
                        idle_add(b, i);
        }
        *out = b;
        return 0;
failed:
        ffs_backings_close(b);
        return -(int)err->code;
}

void ffs_backings_close(struct ffs_backings *b)
{
        if (!b)
                return;
        ffs_memtable_close(b->table);
        cas_mutex_release(&b->mutex);
        free(b->idle);
        free(b);
}

/* ---- use ---- */

/* Counts one open file more of a key that has an id; 0: it has none. */
static int32_t count_locked(struct ffs_backings *b, const struct cas_hash *key, uint64_t unique)
{
        uint32_t number;
        cas_assert_held(&b->mutex);
        if (!ffs_memtable_find(b->table, key, &number))
                return 0;
        struct slot *slot = slot_at(b, number);
        int32_t id = atomic_load(&slot->id);
        if (was_counted(b, unique))
                return id;
        idle_remove(b, number);
        change_describe(b, number, key, id, atomic_load(&slot->opens) + 1, unique);
        change_make(b);
        b->open_files++;
        return id;
}

static int add_locked(struct ffs_backings *b, const struct cas_hash *key, uint64_t unique, int fd,
                      int32_t *id)
{
        struct cas_err err = CAS_ERR_INIT;
        uint32_t number;
        cas_assert_held(&b->mutex);
        if (ffs_memtable_take(b->table, &number, &err) < 0)
                return -ENFILE;
        idle_reserve(b);
        int rc = register_fd(b, fd, id);
        if (rc < 0) {
                ffs_memtable_give_back(b->table, number);
                return rc;
        }
        change_describe(b, number, key, *id, 1, unique);
        change_make(b);
        ffs_memtable_add(b->table, number);
        b->open_files++;
        return 0;
}

int ffs_backings_get(struct ffs_backings *b, const struct cas_hash *key, uint64_t unique,
                     int (*make)(void *arg, int *out_fd), void *arg, int32_t *id)
{
        cas_cleanup_fd int fd = -1;
        cas_mutex_lock(&b->mutex);
        *id = count_locked(b, key, unique);
        cas_mutex_unlock(&b->mutex);
        if (*id)
                return 0;
        int rc = make(arg, &fd); /* may take its time */
        if (rc < 0)
                return rc;
        cas_mutex_lock(&b->mutex);
        *id = count_locked(b, key, unique);
        if (!*id)
                rc = add_locked(b, key, unique, fd, id);
        cas_mutex_unlock(&b->mutex);
        return rc;
}

void ffs_backings_put(struct ffs_backings *b, const struct cas_hash *key, uint64_t unique,
                      bool keep)
{
        uint32_t number;
        cas_mutex_lock(&b->mutex);
        if (!was_counted(b, unique) && ffs_memtable_find(b->table, key, &number)) {
                struct slot *slot = slot_at(b, number);
                uint32_t opens = atomic_load(&slot->opens);
                if (opens > 0) {
                        change_describe(b, number, key, atomic_load(&slot->id), opens - 1, unique);
                        change_make(b);
                        b->open_files--;
                        if (opens == 1)
                                settle_locked(b, number, keep);
                }
        }
        cas_mutex_unlock(&b->mutex);
}

void ffs_backings_count(struct ffs_backings *b, uint64_t *ids, uint64_t *open_files)
{
        cas_mutex_lock(&b->mutex);
        *ids = ffs_memtable_used_count(b->table);
        *open_files = b->open_files;
        cas_mutex_unlock(&b->mutex);
}
