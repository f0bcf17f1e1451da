/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/memtable_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define OWNER_AT 64
#define GROW_SLOTS 1024 /* at first; a quarter of what is there later */

struct head {
        char name[8];
        uint32_t version;
        uint32_t slot_bytes;
        uint32_t owner_bytes;
        _Atomic uint32_t slot_count; /* that the file has room for */
};
_Static_assert(sizeof(struct head) <= OWNER_AT, "the head has its place");

struct ffs_memtable {
        const struct ffs_memtable_kind *kind;
        int fd; /* borrowed */
        size_t map_bytes;
        uint8_t *map;
        uint32_t *index;     /* open addressing by key: slot number + 1, 0 empty */
        size_t index_size;   /* power of two, at least twice the slots */
        uint32_t *free_list; /* numbers of free slots */
        size_t free_count;
        size_t used_count;
};

static struct head *head_of(const struct ffs_memtable *t)
{
        return (struct head *)t->map;
}

static void name_of(const struct ffs_memtable_kind *kind, char out[8])
{
        size_t len = strlen(kind->name);
        cas_assert(len <= 8);
        memset(out, 0, 8);
        memcpy(out, kind->name, len);
}

static uint64_t bytes_for(const struct ffs_memtable_kind *kind, uint32_t slots)
{
        return OWNER_AT + cas_align_up(kind->owner_bytes, 64) + (uint64_t)slots * kind->slot_bytes;
}

int ffs_memtable_create(const struct ffs_memtable_kind *kind, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = memfd_create(kind->name, MFD_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memfd for the table of %s", kind->name);
        struct head head = {.version = kind->version,
                            .slot_bytes = kind->slot_bytes,
                            .owner_bytes = kind->owner_bytes};
        name_of(kind, head.name);
        /* Allocated, not only sized: a page that cannot be had must fail here, not by SIGBUS. */
        int rc = posix_fallocate(fd, 0, (off_t)bytes_for(kind, 0));
        if (rc)
                return cas_fail_sys(err, rc, "table of %s", kind->name);
        if (pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
                return cas_fail_sys(err, errno, "table of %s", kind->name);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* ---- the index ---- */

static uint8_t *slot_at(const struct ffs_memtable *t, uint32_t number)
{
        return t->map + bytes_for(t->kind, number);
}

/* Keys are SHA-256 or numbers in their first bytes. */
static size_t index_start(const struct ffs_memtable *t, const uint8_t *key)
{
        uint64_t mixed = (cas_get_le64(key) ^ cas_get_le64(key + 8)) * UINT64_C(0x9e3779b97f4a7c15);
        return (mixed >> 32) & (t->index_size - 1);
}

static void index_add(struct ffs_memtable *t, uint32_t number)
{
        size_t i = index_start(t, slot_at(t, number));
        while (t->index[i])
                i = (i + 1) & (t->index_size - 1);
        t->index[i] = number + 1;
}

/* The place of a key in the index, or of the empty entry where its chain ends. */
static size_t index_find(const struct ffs_memtable *t, const uint8_t *key)
{
        size_t i = index_start(t, key);
        while (t->index[i] && memcmp(slot_at(t, t->index[i] - 1), key, CAS_HASH_BYTES) != 0)
                i = (i + 1) & (t->index_size - 1);
        return i;
}

/* Removes entry i, moving up what follows it in the chain. */
static void index_remove(struct ffs_memtable *t, size_t i)
{
        size_t mask = t->index_size - 1;
        t->index[i] = 0;
        for (size_t k = (i + 1) & mask; t->index[k]; k = (k + 1) & mask) {
                uint32_t number = t->index[k] - 1;
                t->index[k] = 0;
                index_add(t, number);
        }
}

static void index_rebuild(struct ffs_memtable *t)
{
        uint32_t count = ffs_memtable_slot_count(t);
        size_t size = 1024;
        while (size < (size_t)count * 2)
                size *= 2;
        free(t->index);
        t->index = cas_xcalloc(size, sizeof(t->index[0]));
        t->index_size = size;
        t->free_list = cas_xrealloc(t->free_list, (count + (size_t)1) * sizeof(t->free_list[0]));
        t->free_count = 0;
        t->used_count = 0;
        for (uint32_t i = count; i-- > 0;) {
                if (t->kind->in_use(slot_at(t, i))) {
                        index_add(t, i);
                        t->used_count++;
                } else {
                        t->free_list[t->free_count++] = i;
                }
        }
}

/* ---- opening ---- */

static int check_head(const struct ffs_memtable *t, uint64_t file_bytes, struct cas_err *err)
{
        const struct head *h = head_of(t);
        char name[8];
        name_of(t->kind, name);
        if (memcmp(h->name, name, sizeof(name)) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "no table of %s", t->kind->name);
        if (h->version != t->kind->version || h->slot_bytes != t->kind->slot_bytes ||
            h->owner_bytes != t->kind->owner_bytes)
                return cas_fail(err, CAS_E_UNSUPPORTED, "table of %s, version %u", t->kind->name,
                                h->version);
        uint32_t count = atomic_load(&h->slot_count);
        if (count > t->kind->slots_max || file_bytes < bytes_for(t->kind, count))
                return cas_fail(err, CAS_E_CORRUPT, "table of %s: %u slots", t->kind->name, count);
        return 0;
}

int ffs_memtable_open(const struct ffs_memtable_kind *kind, int fd, struct ffs_memtable **out,
                      struct cas_err *err)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "table of %s", kind->name);
        if (st.st_size < (off_t)bytes_for(kind, 0))
                return cas_fail(err, CAS_E_CORRUPT, "table of %s: too short", kind->name);
        ffs_cleanup_memtable struct ffs_memtable *t = cas_xcalloc(1, sizeof(*t));
        t->kind = kind;
        t->fd = fd;
        /* The whole range is reserved once, so that growing never moves a slot. */
        t->map_bytes = bytes_for(kind, kind->slots_max);
        void *map =
                mmap(NULL, t->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (map == MAP_FAILED)
                return cas_fail_sys(err, errno, "map the table of %s", kind->name);
        t->map = map;
        if (check_head(t, (uint64_t)st.st_size, err) < 0)
                return -(int)err->code;
        index_rebuild(t);
        *out = cas_steal(&t);
        return 0;
}

void ffs_memtable_close(struct ffs_memtable *t)
{
        if (!t)
                return;
        if (t->map)
                (void)munmap(t->map, t->map_bytes);
        free(t->index);
        free(t->free_list);
        free(t);
}

/* ---- use ---- */

void *ffs_memtable_owner(struct ffs_memtable *t)
{
        return t->map + OWNER_AT;
}

uint32_t ffs_memtable_slot_count(const struct ffs_memtable *t)
{
        return atomic_load_explicit(&head_of(t)->slot_count, memory_order_acquire);
}

size_t ffs_memtable_used_count(const struct ffs_memtable *t)
{
        return t->used_count;
}

void *ffs_memtable_slot(struct ffs_memtable *t, uint32_t number)
{
        return number < ffs_memtable_slot_count(t) ? slot_at(t, number) : NULL;
}

bool ffs_memtable_find(const struct ffs_memtable *t, const struct cas_hash *key, uint32_t *number)
{
        uint32_t entry = t->index[index_find(t, key->bytes)];
        if (entry)
                *number = entry - 1;
        return entry != 0;
}

static int grow(struct ffs_memtable *t, struct cas_err *err)
{
        uint32_t count = ffs_memtable_slot_count(t);
        uint32_t more = count / 4 > GROW_SLOTS ? count / 4 : GROW_SLOTS;
        if (more > t->kind->slots_max - count)
                more = t->kind->slots_max - count;
        if (more == 0)
                return cas_fail(err, CAS_E_LIMIT, "more than %u %s", count, t->kind->name);
        int rc = posix_fallocate(t->fd, 0, (off_t)bytes_for(t->kind, count + more));
        if (rc)
                return cas_fail_sys(err, rc, "grow the table of %s", t->kind->name);
        atomic_store_explicit(&head_of(t)->slot_count, count + more, memory_order_release);
        index_rebuild(t);
        return 0;
}

int ffs_memtable_take(struct ffs_memtable *t, uint32_t *number, struct cas_err *err)
{
        if (t->free_count == 0 && grow(t, err) < 0)
                return -(int)err->code;
        *number = t->free_list[--t->free_count];
        return 0;
}

void ffs_memtable_give_back(struct ffs_memtable *t, uint32_t number)
{
        t->free_list[t->free_count++] = number;
}

void ffs_memtable_add(struct ffs_memtable *t, uint32_t number)
{
        index_add(t, number);
        t->used_count++;
}

void ffs_memtable_remove(struct ffs_memtable *t, uint32_t number)
{
        index_remove(t, index_find(t, slot_at(t, number)));
        t->free_list[t->free_count++] = number;
        t->used_count--;
}
