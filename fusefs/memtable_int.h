/* SPDX-License-Identifier: Apache-2.0 */
/* A table in a memfd that `lamina hold` keeps: slots of one size, found by the
 * 32 bytes of key that each begins with. What a successor of a killed `lamina fs`
 * finds is what was stored last, so who changes a slot orders the stores (slots.c,
 * backing.c). It never leaves the machine nor outlives a mount, but a successor may
 * be a newer program: name, version and size say whether it understands it.
 *
 * The caller locks; one process at a time maps a table for writing. */
#ifndef FFS_MEMTABLE_INT_H
#define FFS_MEMTABLE_INT_H

#include "cas/digest.h"

struct ffs_memtable_kind {
        const char *name; /* at most 8 bytes: in the head, of the memfd, in messages */
        uint32_t version;
        uint32_t owner_bytes; /* of the head, for whoever keeps the table; zero at first */
        uint32_t slot_bytes;  /* multiple of 8 */
        uint32_t slots_max;
        bool (*in_use)(const void *slot);
};

struct ffs_memtable;
int ffs_memtable_create(const struct ffs_memtable_kind *kind, int *out_fd,
                        struct cas_err *err) CAS_MUST_CHECK;
/* fd and kind are borrowed until close. Errors: CORRUPT, UNSUPPORTED. */
int ffs_memtable_open(const struct ffs_memtable_kind *kind, int fd, struct ffs_memtable **out,
                      struct cas_err *err) CAS_MUST_CHECK;
void ffs_memtable_close(struct ffs_memtable *t);
CAS_DEFINE_CLEANUP(ffs_cleanup_memtable_, struct ffs_memtable *, ffs_memtable_close);
#define ffs_cleanup_memtable __attribute__((cleanup(ffs_cleanup_memtable_)))

void *ffs_memtable_owner(struct ffs_memtable *t);
/* Slots never move. NULL when there is none of that number. */
void *ffs_memtable_slot(struct ffs_memtable *t, uint32_t number);
uint32_t ffs_memtable_slot_count(const struct ffs_memtable *t); /* free ones included */
size_t ffs_memtable_used_count(const struct ffs_memtable *t);
bool ffs_memtable_find(const struct ffs_memtable *t, const struct cas_hash *key, uint32_t *number);
/* A free slot, for the caller to fill and then to add. Errors: LIMIT, NOSPACE. */
int ffs_memtable_take(struct ffs_memtable *t, uint32_t *number, struct cas_err *err) CAS_MUST_CHECK;
void ffs_memtable_give_back(struct ffs_memtable *t, uint32_t number); /* taken, and not used */
void ffs_memtable_add(struct ffs_memtable *t, uint32_t number); /* under the key that it has */
/* Free again; its key is as it was added. */
void ffs_memtable_remove(struct ffs_memtable *t, uint32_t number);

#endif
