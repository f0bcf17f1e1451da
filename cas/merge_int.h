/* SPDX-License-Identifier: Apache-2.0 */
/* The merged tree in memory, and the plan of what an image of it holds. Private
 * to merge.c, merge_plan.c and erofs_write.c. Not thread-safe.
 *
 * A node is a name in a directory; it points to an inode, or to none when the
 * name is not there (any more). Nodes are found by (inode of the directory,
 * name): a directory that is emptied or made anew gets a new inode, and what
 * was in it is out of reach at once. Links are counted when a plan is made.
 * Inode 0 is "none", inode 1 the root. */
#ifndef CAS_MERGE_INT_H
#define CAS_MERGE_INT_H

#include "cas/arena.h"
#include "cas/tree.h"

#define CAS_MERGE_NONE 0u
#define CAS_MERGE_ROOT 1u

struct cas_merge_xattr {
        const char *name; /* full name; borrowed from the arena, like all pointers here */
        const uint8_t *value;
        uint32_t value_bytes;
        uint16_t name_bytes;
};
struct cas_merge_xattrs {
        size_t count;
        struct cas_merge_xattr items[];
};

struct cas_merge_inode {
        uint8_t type;   /* enum cas_entry_type; never HARDLINK or WHITEOUT */
        bool touched;   /* a directory below the base mark whose attributes changed above it */
        bool opaque;    /* a directory that hides what is below; with keep_marks only */
        uint16_t depth; /* of directories */
        uint16_t mode;
        uint32_t uid, gid;
        uint32_t mtime_ns;
        int64_t mtime_s;
        union {
                uint64_t size_bytes; /* files and symlinks */
                struct {
                        uint32_t major, minor;
                } dev;
                struct {
                        uint32_t parent; /* inode; the root's is the root */
                        uint32_t node;   /* its name; the root has none */
                } dir;
        };
        const uint8_t *payload; /* object id (32 bytes), inline data or symlink text */
        const struct cas_merge_xattrs *xattrs; /* NULL: none */
};

struct cas_merge_node {
        const char *name; /* name_len bytes, no NUL */
        uint32_t parent;  /* inode of the directory */
        uint32_t inode;   /* CAS_MERGE_NONE: absent */
        uint32_t index;   /* of this node */
        uint32_t hash;
        uint8_t name_len;
};

/* Items of 1 << CAS_MERGE_SLAB_BITS, which do not move. */
#define CAS_MERGE_SLAB_BITS 12
struct cas_merge_slabs {
        void **slabs;
        size_t slab_count, slab_alloc;
        uint32_t count;
};

struct cas_merge {
        struct cas_arena arena;
        struct cas_merge_slabs nodes, inodes;
        uint32_t *table; /* node + 1, or 0 */
        uint32_t table_mask;
        uint64_t secret;
        uint32_t layer_first_inode; /* inodes from here on are of the layer being applied */
        bool keep_marks;            /* one layer by itself */
        uint32_t whiteout;          /* the inode of all its whiteouts, or none */
        uint64_t link_steps_left;   /* bounds the work that symlinks in paths may cause */
        /* the directory of the last entry's path: most entries follow a sibling */
        const char *last_dir;
        size_t last_dir_len;
        uint32_t last_dir_inode; /* CAS_MERGE_NONE: not known */
        /* the base mark */
        uint32_t *base_inode_of; /* by node; NULL: no mark */
        uint32_t *base_nlink;    /* by inode */
        uint32_t base_node_count, base_inode_count;
};

static inline struct cas_merge_node *cas_merge_node(const struct cas_merge *m, uint32_t i)
{
        struct cas_merge_node *slab = m->nodes.slabs[i >> CAS_MERGE_SLAB_BITS];
        return &slab[i & ((1u << CAS_MERGE_SLAB_BITS) - 1)];
}
static inline struct cas_merge_inode *cas_merge_inode(const struct cas_merge *m, uint32_t i)
{
        struct cas_merge_inode *slab = m->inodes.slabs[i >> CAS_MERGE_SLAB_BITS];
        return &slab[i & ((1u << CAS_MERGE_SLAB_BITS) - 1)];
}

/* ---- merge_plan.c: what an image holds, in the order it holds it ---- */
struct cas_plan_entry {
        const char *name;
        uint32_t inode; /* index into inodes */
        uint8_t name_len;
};
struct cas_plan_inode {
        uint32_t inode; /* of the merge; CAS_MERGE_NONE: the whiteout */
        uint32_t nlink;
        uint32_t parent; /* directories: index into inodes */
        bool opaque;
        uint32_t first_entry, entry_count; /* directories: sorted by name */
};
struct cas_plan {
        struct cas_plan_inode *inodes; /* [0] is the root */
        struct cas_plan_entry *entries;
        uint32_t inode_count, entry_count;
};
void cas_plan_release(struct cas_plan *p);
#define cas_cleanup_plan __attribute__((cleanup(cas_plan_release)))
/* stacked: only what differs from the base mark. Errors: UNSUPPORTED (see
 * cas_merge_write_erofs), NOMEM. */
int cas_plan_make(const struct cas_merge *m, bool stacked, struct cas_plan *out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Counts the links of every inode in reach; out has one number per inode. */
int cas_plan_count_links(const struct cas_merge *m, uint32_t *out,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
