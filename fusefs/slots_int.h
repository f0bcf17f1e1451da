/* SPDX-License-Identifier: Apache-2.0 */
/* Inodes that the kernel knows and that are named by what they are: a key of 32
 * bytes and a value of fixed size. Objects of the object file system, and files that
 * images share in a tree file system. The table is in a memfd that `lamina hold`
 * keeps: all a successor of a killed `lamina fs` needs (spec/mounts.md, "Takeover").
 * A node id is made of the slot's number and a generation, and so is never used again.
 *
 * Whatever instant the process is killed at, the table is whole: a slot is
 * filled before its count becomes positive. Counts may be too high after a kill
 * (a FORGET that was read and not done), never too low.
 *
 * Thread-safe. One process at a time maps it for writing. */
#ifndef FFS_SLOTS_INT_H
#define FFS_SLOTS_INT_H

#include "fusefs/memtable_int.h"

#define FFS_NODE_FIRST UINT64_C(1024) /* of objects; smaller ones: the root and its directories */
#define FFS_SLOTS_MAX (UINT32_C(1) << 26)
#define FFS_SLOTS_VALUE_BYTES_MAX 128
#define FFS_SLOTS_NOTES_BYTES 64

/* What a table is of. */
struct ffs_slots_kind {
        struct ffs_memtable_kind table; /* made by FFS_SLOTS_KIND */
        uint32_t value_bytes;
        /* Node ids: tag, then the generation in so many bits, then 32 bits of slot number, counted
         * from first. */
        uint64_t node_tag;
        unsigned generation_bits;
        uint32_t first;
};
/* value_bytes: multiple of 8. */
#define FFS_SLOTS_KIND(NAME, VALUE_BYTES, TAG, GENERATION_BITS, FIRST)                             \
        {                                                                                          \
                .table = {.name = (NAME),                                                          \
                          .version = 2,                                                            \
                          .owner_bytes = FFS_SLOTS_OWNER_BYTES,                                    \
                          .slot_bytes = FFS_SLOTS_HEAD_BYTES + (VALUE_BYTES),                      \
                          .slots_max = FFS_SLOTS_MAX,                                              \
                          .in_use = ffs_slots_in_use_},                                            \
                .value_bytes = (VALUE_BYTES), .node_tag = (TAG),                                   \
                .generation_bits = (GENERATION_BITS), .first = (FIRST)                             \
        }
#define FFS_SLOTS_OWNER_BYTES 640
#define FFS_SLOTS_HEAD_BYTES 48
bool ffs_slots_in_use_(const void *slot);
extern const struct ffs_slots_kind ffs_slots_objects; /* the value is the size, uint64_t */

struct ffs_slots;

/* Makes an empty table. The descriptor is the caller's. */
int ffs_slots_create(const struct ffs_slots_kind *kind, int *out_fd,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Maps a table; the descriptor is borrowed until close. Errors: CORRUPT, UNSUPPORTED. */
int ffs_slots_open(const struct ffs_slots_kind *kind, int fd, struct ffs_slots **out,
                   struct cas_err *err) CAS_MUST_CHECK;
void ffs_slots_close(struct ffs_slots *s);
CAS_DEFINE_CLEANUP(ffs_cleanup_slots_, struct ffs_slots *, ffs_slots_close);
#define ffs_cleanup_slots __attribute__((cleanup(ffs_cleanup_slots_)))

/* The INIT request of the connection, as the kernel sent it; *len 0: none was saved yet. */
void ffs_slots_save_init(struct ffs_slots *s, const void *request, size_t len);
const void *ffs_slots_init(const struct ffs_slots *s, size_t *len);
/* FFS_SLOTS_NOTES_BYTES for whoever keeps the table, zero at first; aligned to 8. */
void *ffs_slots_notes(struct ffs_slots *s);

/* Takes a reference of the kernel to a key that has a slot. NOTFOUND is no error here: false. */
bool ffs_slots_lookup(struct ffs_slots *s, const struct cas_hash *key, uint64_t *node, void *value);
/* The same, making the slot. Errors: LIMIT (FFS_SLOTS_MAX), NOSPACE. */
int ffs_slots_insert(struct ffs_slots *s, const struct cas_hash *key, const void *value,
                     uint64_t *node, struct cas_err *err) CAS_MUST_CHECK;
/* What the node is; false for one that the kernel cannot know. */
bool ffs_slots_get(struct ffs_slots *s, uint64_t node, struct cas_hash *key, void *value);
/* Drops references; the slot is free when none are left. Unknown nodes are ignored. */
void ffs_slots_forget(struct ffs_slots *s, uint64_t node, uint64_t count);
size_t ffs_slots_count(struct ffs_slots *s);

#endif
