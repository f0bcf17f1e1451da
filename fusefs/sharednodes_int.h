/* SPDX-License-Identifier: Apache-2.0 */
/* Files of read-only volumes that are one inode for all images that have them:
 * small attributes and content (or its object) equal, at the same path. A node says
 * all of it by itself, in the table that a successor gets (slots.c); it needs none of
 * the volumes that it was found in.
 *
 * The path counts for the sake of who stacks an overlay upon a volume: overlayfs takes
 * two names of one inode without further links for one file, and a write to one
 * would be one to both. */
#ifndef FFS_SHAREDNODES_INT_H
#define FFS_SHAREDNODES_INT_H

#include "fusefs/slots_int.h"
#include "fusefs/treefs_int.h"

#define FFS_SHARED_INLINE_BYTES 64

/* What is equal; ids as they are shown. Without padding, since its bytes are hashed. */
struct ffs_shared_file {
        uint32_t mode, uid, gid, mtime_ns;
        int64_t mtime_s;
        uint64_t size_bytes;
        uint32_t has_object; /* data begins with its digest; else with size_bytes of content */
        uint32_t reserved;
        uint8_t data[FFS_SHARED_INLINE_BYTES]; /* the rest zero */
};
_Static_assert(sizeof(struct ffs_shared_file) == 104, "no padding");
extern const struct ffs_slots_kind ffs_slots_shared;

struct ffs_sharednodes;
/* slots: borrowed, of ffs_slots_shared. */
struct ffs_sharednodes *ffs_sharednodes_new(struct ffs_slots *slots);
void ffs_sharednodes_free(struct ffs_sharednodes *s);
/* The shared node of a name in a directory of the volume, with its attributes, counted as looked up
 * once; false: this inode is the volume's own (`st` is untouched). */
bool ffs_sharednodes_lookup(struct ffs_sharednodes *s, const struct ffs_volume *v, uint64_t dir,
                            const char *name, size_t name_len, uint64_t vid,
                            const struct cas_inode *inode, uint64_t *node, struct stat *st);
/* False: the kernel cannot know it. */
bool ffs_sharednodes_get(struct ffs_sharednodes *s, uint64_t node, struct ffs_shared_file *out,
                         struct stat *st);
void ffs_sharednodes_forget(struct ffs_sharednodes *s, uint64_t node, uint64_t count);

#endif
