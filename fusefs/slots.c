/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/slots_int.h"

#include <stdatomic.h>

#include "cas/mutex.h"
#include "fusefs/connection_int.h"

struct owner {
        _Atomic uint32_t init_len; /* written after init[] */
        uint32_t reserved;
        uint64_t notes[FFS_SLOTS_NOTES_BYTES / 8];
        uint8_t init[FFS_INIT_BYTES_MAX];
};
_Static_assert(sizeof(struct owner) <= FFS_SLOTS_OWNER_BYTES, "the owner's part of the head");

struct slot {
        struct cas_hash key;
        _Atomic uint64_t lookups; /* 0: free; positive only while the other members are valid */
        uint32_t generation;      /* of the node id in use, or of the last one */
        uint32_t reserved;
        uint8_t value[];
};
_Static_assert(sizeof(struct slot) == FFS_SLOTS_HEAD_BYTES, "layout of the table");

struct ffs_slots {
        const struct ffs_slots_kind *kind;
        struct cas_mutex mutex; /* guards all below, and writing to slots; leaf */
        struct ffs_memtable *table;
};

const struct ffs_slots_kind ffs_slots_objects =
        FFS_SLOTS_KIND("objects", sizeof(uint64_t), 0, 32, FFS_NODE_FIRST);

bool ffs_slots_in_use_(const void *slot)
{
        const struct slot *s = slot;
        return atomic_load_explicit(&s->lookups, memory_order_acquire) > 0;
}

int ffs_slots_create(const struct ffs_slots_kind *kind, int *out_fd, struct cas_err *err)
{
        return ffs_memtable_create(&kind->table, out_fd, err);
}

int ffs_slots_open(const struct ffs_slots_kind *kind, int fd, struct ffs_slots **out,
                   struct cas_err *err)
{
        cas_assert(kind->value_bytes <= FFS_SLOTS_VALUE_BYTES_MAX);
        ffs_cleanup_memtable struct ffs_memtable *table = NULL;
        if (ffs_memtable_open(&kind->table, fd, &table, err) < 0)
                return -(int)err->code;
        const struct owner *owner = ffs_memtable_owner(table);
        if (atomic_load(&owner->init_len) > FFS_INIT_BYTES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "table of %s: bad INIT", kind->table.name);
        struct ffs_slots *s = cas_xcalloc(1, sizeof(*s));
        s->kind = kind;
        s->table = cas_steal(&table);
        cas_mutex_init(&s->mutex, "slots");
        *out = s;
        return 0;
}

void ffs_slots_close(struct ffs_slots *s)
{
        if (!s)
                return;
        ffs_memtable_close(s->table);
        cas_mutex_release(&s->mutex);
        free(s);
}

void ffs_slots_save_init(struct ffs_slots *s, const void *request, size_t len)
{
        struct owner *owner = ffs_memtable_owner(s->table);
        cas_assert(len <= FFS_INIT_BYTES_MAX);
        memcpy(owner->init, request, len);
        atomic_store(&owner->init_len, (uint32_t)len);
}

const void *ffs_slots_init(const struct ffs_slots *s, size_t *len)
{
        const struct owner *owner = ffs_memtable_owner(s->table);
        *len = atomic_load(&owner->init_len);
        return owner->init;
}

void *ffs_slots_notes(struct ffs_slots *s)
{
        struct owner *owner = ffs_memtable_owner(s->table);
        return owner->notes;
}

static uint32_t generation_of(const struct ffs_slots *s, const struct slot *slot)
{
        return slot->generation & (uint32_t)((UINT64_C(1) << s->kind->generation_bits) - 1);
}

static uint64_t node_of(const struct ffs_slots *s, const struct slot *slot, uint32_t number)
{
        return s->kind->node_tag | (uint64_t)generation_of(s, slot) << 32 |
               ((uint64_t)s->kind->first + number);
}

/* The slot of a node that is in use, or NULL. */
static struct slot *slot_of(const struct ffs_slots *s, uint64_t node, uint32_t *number)
{
        uint64_t n = (node & UINT32_MAX) - s->kind->first;
        struct slot *slot = n <= UINT32_MAX ? ffs_memtable_slot(s->table, (uint32_t)n) : NULL;
        if (!slot || !ffs_slots_in_use_(slot) || node_of(s, slot, (uint32_t)n) != node)
                return NULL;
        *number = (uint32_t)n;
        return slot;
}

static bool lookup_locked(struct ffs_slots *s, const struct cas_hash *key, uint64_t *node,
                          void *value)
{
        uint32_t number;
        cas_assert_held(&s->mutex);
        if (!ffs_memtable_find(s->table, key, &number))
                return false;
        struct slot *slot = ffs_memtable_slot(s->table, number);
        atomic_fetch_add(&slot->lookups, 1);
        *node = node_of(s, slot, number);
        memcpy(value, slot->value, s->kind->value_bytes);
        return true;
}

bool ffs_slots_lookup(struct ffs_slots *s, const struct cas_hash *key, uint64_t *node, void *value)
{
        cas_mutex_lock(&s->mutex);
        bool found = lookup_locked(s, key, node, value);
        cas_mutex_unlock(&s->mutex);
        return found;
}

static int insert_locked(struct ffs_slots *s, const struct cas_hash *key, const void *value,
                         uint64_t *node, struct cas_err *err)
{
        uint32_t number;
        if (ffs_memtable_take(s->table, &number, err) < 0)
                return -(int)err->code;
        struct slot *slot = ffs_memtable_slot(s->table, number);
        slot->key = *key;
        memcpy(slot->value, value, s->kind->value_bytes);
        slot->generation++;
        atomic_store_explicit(&slot->lookups, 1, memory_order_release);
        ffs_memtable_add(s->table, number);
        *node = node_of(s, slot, number);
        return 0;
}

int ffs_slots_insert(struct ffs_slots *s, const struct cas_hash *key, const void *value,
                     uint64_t *node, struct cas_err *err)
{
        uint64_t known[FFS_SLOTS_VALUE_BYTES_MAX / 8];
        int rc = 0;
        cas_mutex_lock(&s->mutex);
        if (!lookup_locked(s, key, node, known))
                rc = insert_locked(s, key, value, node, err);
        cas_mutex_unlock(&s->mutex);
        return rc;
}

bool ffs_slots_get(struct ffs_slots *s, uint64_t node, struct cas_hash *key, void *value)
{
        uint32_t number;
        cas_mutex_lock(&s->mutex);
        const struct slot *slot = slot_of(s, node, &number);
        if (slot) {
                *key = slot->key;
                memcpy(value, slot->value, s->kind->value_bytes);
        }
        cas_mutex_unlock(&s->mutex);
        return slot != NULL;
}

void ffs_slots_forget(struct ffs_slots *s, uint64_t node, uint64_t count)
{
        uint32_t number;
        cas_mutex_lock(&s->mutex);
        struct slot *slot = slot_of(s, node, &number);
        if (slot) {
                uint64_t lookups = atomic_load(&slot->lookups);
                uint64_t left = lookups > count ? lookups - count : 0;
                if (left == 0)
                        ffs_memtable_remove(s->table, number);
                atomic_store_explicit(&slot->lookups, left, memory_order_release);
        }
        cas_mutex_unlock(&s->mutex);
}

size_t ffs_slots_count(struct ffs_slots *s)
{
        cas_mutex_lock(&s->mutex);
        size_t n = ffs_memtable_used_count(s->table);
        cas_mutex_unlock(&s->mutex);
        return n;
}
