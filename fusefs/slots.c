/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/slots_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "cas/mutex.h"
#include "fusefs/connection_int.h"

/* The layout of the memfd. It never leaves the machine nor outlives a mount, but a successor may
 * be a newer program: the version says whether it understands it. */
#define TABLE_MAGIC UINT64_C(0x31736566616e696d)
#define TABLE_VERSION 1
#define TABLE_HEAD_BYTES 4096
#define TABLE_GROW_SLOTS 16384

struct table_head {
        uint64_t magic;
        uint32_t version;
        uint32_t slot_bytes;
        _Atomic uint32_t slot_count; /* that the file has room for */
        _Atomic uint32_t init_len;   /* written after init[] */
        uint8_t init[FFS_INIT_BYTES_MAX];
};
_Static_assert(sizeof(struct table_head) <= TABLE_HEAD_BYTES, "the head has a page");

struct slot {
        struct cas_hash object;
        uint64_t size_bytes;
        _Atomic uint64_t lookups; /* 0: free; positive only while the other members are valid */
        uint32_t generation;      /* of the node id in use, or of the last one */
        uint32_t reserved;
};
_Static_assert(sizeof(struct slot) == 56, "layout of the table");

struct ffs_slots {
        struct cas_mutex mutex; /* guards all below, and writing to slots */
        int fd;                 /* borrowed */
        struct table_head *head;
        struct slot *slots;
        uint32_t *index;     /* open addressing by object: slot number + 1, 0 empty */
        size_t index_size;   /* power of two, at least twice the slots in use */
        uint32_t *free_list; /* numbers of free slots */
        size_t free_count;
        size_t used_count;
};

static const size_t map_bytes = TABLE_HEAD_BYTES + (size_t)FFS_SLOTS_MAX * sizeof(struct slot);

int ffs_slots_create(int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = memfd_create("lamina-objects", MFD_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memfd for the object table");
        struct table_head head = {
                .magic = TABLE_MAGIC, .version = TABLE_VERSION, .slot_bytes = sizeof(struct slot)};
        if (ftruncate(fd, TABLE_HEAD_BYTES) < 0 ||
            pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
                return cas_fail_sys(err, errno, "object table");
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* Objects' names are SHA-256: any of their bytes are as good as a hash. */
static size_t index_start(const struct ffs_slots *s, const struct cas_hash *object)
{
        return cas_get_le64(object->bytes + 8) & (s->index_size - 1);
}

static void index_add(struct ffs_slots *s, uint32_t number)
{
        size_t i = index_start(s, &s->slots[number].object);
        while (s->index[i])
                i = (i + 1) & (s->index_size - 1);
        s->index[i] = number + 1;
}

/* The place of an object in the index, or of the empty entry where its chain ends. */
static size_t index_find(const struct ffs_slots *s, const struct cas_hash *object)
{
        size_t i = index_start(s, object);
        while (s->index[i] && !cas_hash_equal(&s->slots[s->index[i] - 1].object, object))
                i = (i + 1) & (s->index_size - 1);
        return i;
}

/* Removes entry i, moving up what follows it in the chain. */
static void index_remove(struct ffs_slots *s, size_t i)
{
        size_t mask = s->index_size - 1;
        s->index[i] = 0;
        for (size_t k = (i + 1) & mask; s->index[k]; k = (k + 1) & mask) {
                uint32_t number = s->index[k] - 1;
                s->index[k] = 0;
                index_add(s, number);
        }
}

static void index_rebuild(struct ffs_slots *s)
{
        uint32_t count = atomic_load(&s->head->slot_count);
        size_t size = 1024;
        while (size < (size_t)count * 2)
                size *= 2;
        free(s->index);
        s->index = cas_xcalloc(size, sizeof(s->index[0]));
        s->index_size = size;
        s->free_list = cas_xrealloc(s->free_list, count * sizeof(s->free_list[0]));
        s->free_count = 0;
        s->used_count = 0;
        for (uint32_t i = count; i-- > 0;) {
                if (atomic_load_explicit(&s->slots[i].lookups, memory_order_acquire)) {
                        index_add(s, i);
                        s->used_count++;
                } else {
                        s->free_list[s->free_count++] = i;
                }
        }
}

static int check_head(const struct ffs_slots *s, struct cas_err *err)
{
        const struct table_head *h = s->head;
        struct stat st;
        if (fstat(s->fd, &st) < 0)
                return cas_fail_sys(err, errno, "object table");
        if (h->magic != TABLE_MAGIC)
                return cas_fail(err, CAS_E_CORRUPT, "object table: bad magic");
        if (h->version != TABLE_VERSION || h->slot_bytes != sizeof(struct slot))
                return cas_fail(err, CAS_E_UNSUPPORTED, "object table of version %u", h->version);
        uint32_t count = atomic_load(&h->slot_count);
        if (count > FFS_SLOTS_MAX || atomic_load(&h->init_len) > FFS_INIT_BYTES_MAX ||
            (uint64_t)st.st_size < TABLE_HEAD_BYTES + (uint64_t)count * sizeof(struct slot))
                return cas_fail(err, CAS_E_CORRUPT, "object table: %u slots", count);
        return 0;
}

int ffs_slots_open(int fd, struct ffs_slots **out, struct cas_err *err)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "object table");
        if (st.st_size < TABLE_HEAD_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "object table: too short");
        /* The whole range is reserved once, so that growing never moves a slot. */
        void *map =
                mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (map == MAP_FAILED)
                return cas_fail_sys(err, errno, "map the object table");
        struct ffs_slots *s = cas_xcalloc(1, sizeof(*s));
        cas_mutex_init(&s->mutex, "slots");
        s->fd = fd;
        s->head = map;
        s->slots = (struct slot *)((uint8_t *)map + TABLE_HEAD_BYTES);
        if (check_head(s, err) < 0) {
                ffs_slots_close(s);
                return -(int)err->code;
        }
        index_rebuild(s);
        *out = s;
        return 0;
}

void ffs_slots_close(struct ffs_slots *s)
{
        if (!s)
                return;
        (void)munmap(s->head, map_bytes);
        cas_mutex_release(&s->mutex);
        free(s->index);
        free(s->free_list);
        free(s);
}

void ffs_slots_save_init(struct ffs_slots *s, const void *request, size_t len)
{
        cas_assert(len <= FFS_INIT_BYTES_MAX);
        memcpy(s->head->init, request, len);
        atomic_store(&s->head->init_len, (uint32_t)len);
}

const void *ffs_slots_init(const struct ffs_slots *s, size_t *len)
{
        *len = atomic_load(&s->head->init_len);
        return s->head->init;
}

static uint64_t node_of(const struct ffs_slots *s, uint32_t number)
{
        return (uint64_t)s->slots[number].generation << 32 | (FFS_NODE_FIRST + number);
}

/* The slot of a node that is in use, or NULL. */
static struct slot *slot_of(struct ffs_slots *s, uint64_t node)
{
        uint64_t number = (node & UINT32_MAX) - FFS_NODE_FIRST;
        if ((node & UINT32_MAX) < FFS_NODE_FIRST || number >= atomic_load(&s->head->slot_count))
                return NULL;
        struct slot *slot = &s->slots[number];
        return slot->generation == node >> 32 && atomic_load(&slot->lookups) ? slot : NULL;
}

static bool lookup_locked(struct ffs_slots *s, const struct cas_hash *object, uint64_t *node,
                          uint64_t *size_bytes)
{
        cas_assert_held(&s->mutex);
        uint32_t entry = s->index[index_find(s, object)];
        if (!entry)
                return false;
        struct slot *slot = &s->slots[entry - 1];
        atomic_fetch_add(&slot->lookups, 1);
        *node = node_of(s, entry - 1);
        *size_bytes = slot->size_bytes;
        return true;
}

bool ffs_slots_lookup(struct ffs_slots *s, const struct cas_hash *object, uint64_t *node,
                      uint64_t *size_bytes)
{
        cas_mutex_lock(&s->mutex);
        bool found = lookup_locked(s, object, node, size_bytes);
        cas_mutex_unlock(&s->mutex);
        return found;
}

static int grow_locked(struct ffs_slots *s, struct cas_err *err)
{
        cas_assert_held(&s->mutex);
        uint32_t count = atomic_load(&s->head->slot_count);
        if (count >= FFS_SLOTS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %u objects in use", FFS_SLOTS_MAX);
        count += TABLE_GROW_SLOTS;
        /* Allocated, not only sized: a page that cannot be had must fail here, not by SIGBUS. */
        int rc = posix_fallocate(s->fd, 0,
                                 TABLE_HEAD_BYTES + (off_t)count * (off_t)sizeof(struct slot));
        if (rc)
                return cas_fail_sys(err, rc, "grow the object table");
        atomic_store(&s->head->slot_count, count);
        index_rebuild(s);
        return 0;
}

int ffs_slots_insert(struct ffs_slots *s, const struct cas_hash *object, uint64_t size_bytes,
                     uint64_t *node, struct cas_err *err)
{
        uint64_t known_size;
        cas_mutex_lock(&s->mutex);
        int rc = 0;
        if (!lookup_locked(s, object, node, &known_size)) {
                if (s->free_count == 0)
                        rc = grow_locked(s, err);
                if (rc == 0) {
                        uint32_t number = s->free_list[--s->free_count];
                        struct slot *slot = &s->slots[number];
                        slot->object = *object;
                        slot->size_bytes = size_bytes;
                        slot->generation++;
                        atomic_store_explicit(&slot->lookups, 1, memory_order_release);
                        index_add(s, number);
                        s->used_count++;
                        *node = node_of(s, number);
                }
        }
        cas_mutex_unlock(&s->mutex);
        return rc;
}

bool ffs_slots_get(struct ffs_slots *s, uint64_t node, struct cas_hash *object,
                   uint64_t *size_bytes)
{
        cas_mutex_lock(&s->mutex);
        struct slot *slot = slot_of(s, node);
        if (slot) {
                *object = slot->object;
                *size_bytes = slot->size_bytes;
        }
        cas_mutex_unlock(&s->mutex);
        return slot != NULL;
}

void ffs_slots_forget(struct ffs_slots *s, uint64_t node, uint64_t count)
{
        cas_mutex_lock(&s->mutex);
        struct slot *slot = slot_of(s, node);
        if (slot) {
                uint64_t lookups = atomic_load(&slot->lookups);
                uint64_t left = lookups > count ? lookups - count : 0;
                if (left == 0) {
                        index_remove(s, index_find(s, &slot->object));
                        s->free_list[s->free_count++] = (uint32_t)(slot - s->slots);
                        s->used_count--;
                }
                atomic_store_explicit(&slot->lookups, left, memory_order_release);
        }
        cas_mutex_unlock(&s->mutex);
}

size_t ffs_slots_count(struct ffs_slots *s)
{
        cas_mutex_lock(&s->mutex);
        size_t n = s->used_count;
        cas_mutex_unlock(&s->mutex);
        return n;
}
