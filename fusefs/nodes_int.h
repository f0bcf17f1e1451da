/* SPDX-License-Identifier: Apache-2.0 */
/* The node table: what the kernel knows of a connection's writable volumes, in
 * a memfd that `lamina hold` keeps (spec/mounts.md, "Nodes"). A record says where
 * its inode is, not what it is like: that is on the disk. Records are whole at
 * every instant; who maps the memfd after a kill finds each as it was before its
 * last change or after it. Look-up counts can be too high afterwards, never too
 * low.
 *
 * A record lives while the kernel has looked it up, while another record names it
 * as parent or successor, or while it is a volume's root. Thread-safe. */
#ifndef FFS_NODES_INT_H
#define FFS_NODES_INT_H

#include <sys/stat.h>

#include "fusefs/treerw_int.h"

#define FFS_NODES_MAX (UINT32_C(1) << 24)
#define FFS_NODES_INTENTS 64
#define FFS_NODES_INTENT_BYTES 1024

enum ffs_node_flag {
        FFS_NODE_HAS_UPPER = 1 << 0,  /* upper/ has it (a directory: or what is merged into it) */
        FFS_NODE_DATA_LOWER = 1 << 1, /* file: its content is that of vid */
        FFS_NODE_HIDDEN = 1 << 2,     /* has a name in work/ and no parent here */
        FFS_NODE_ORPHAN = 1 << 3,     /* nothing on the disk is left: only kept attributes */
        FFS_NODE_UNLINKED = 1 << 4,   /* lower file without upper that has lost its name */
        FFS_NODE_SUPERSEDED = 1 << 5, /* lower data that open files still see; `successor` is the
                                       * file from now on */
        FFS_NODE_IS_ROOT = 1 << 6,    /* of its volume */
};

/* A record, copied. */
struct ffs_node {
        uint64_t id;
        uint32_t volume;
        uint32_t flags;
        uint64_t parent;    /* node id; 0: none */
        uint64_t successor; /* node id; 0: none */
        uint64_t vid;       /* inode below, FFS_VID_NONE */
        uint64_t upper_ino; /* of the upper's file system; 0: not there, or a directory */
        uint64_t ino;       /* as it is shown */
        mode_t type;        /* S_IFMT */
        char name[256];
};

/* The record that stands for the same inode as `what` (a directory: the same parent and name; else
 * the same upper inode, or without one the same vid), or a new one like it; the kernel has looked
 * it up `lookups` times more. *out may be `what`. Errors: -ENFILE (FFS_NODES_MAX), -ENOMEM. */
int ffs_nodes_intern(struct ffs_nodes *n, const struct ffs_node *what, uint64_t lookups,
                     struct ffs_node *out);
/* False: there is no such node (any more). */
bool ffs_nodes_get(struct ffs_nodes *n, uint64_t id, struct ffs_node *out);
bool ffs_nodes_find_dir(struct ffs_nodes *n, uint64_t parent, const char *name,
                        struct ffs_node *out);
bool ffs_nodes_find_upper(struct ffs_nodes *n, uint32_t volume, uint64_t upper_ino,
                          struct ffs_node *out);
bool ffs_nodes_find_vid(struct ffs_nodes *n, uint32_t volume, uint64_t vid, struct ffs_node *out);
/* Writes what was changed of a record: everything but id, volume and type. An orphan keeps `attr`,
 * else NULL. Errors: as intern, -ESTALE (the record went). */
int ffs_nodes_update(struct ffs_nodes *n, const struct ffs_node *node, const struct stat *attr);
/* Adds a record like `what` for the same inode, and makes it the successor of `id`, which is in no
 * directory any more. */
int ffs_nodes_supersede(struct ffs_nodes *n, uint64_t id, const struct ffs_node *what,
                        struct ffs_node *out);
/* What an orphan kept. */
bool ffs_nodes_attr(struct ffs_nodes *n, uint64_t id, struct stat *out);
uint64_t ffs_nodes_lookups(struct ffs_nodes *n, uint64_t id);
/* Open files of it, plus delta; never below 0. */
uint32_t ffs_nodes_opens(struct ffs_nodes *n, uint64_t id, int delta);
/* One look-up more or `count` fewer. After the last, gone() is called (without lock) for each
 * record that went, with what it was. */
void ffs_nodes_ref(struct ffs_nodes *n, uint64_t id);
void ffs_nodes_forget(struct ffs_nodes *n, uint64_t id, uint64_t count,
                      void (*gone)(void *arg, const struct ffs_node *node), void *arg);
/* Every record of a volume, until fn returns false; fn may not call the table. */
void ffs_nodes_each(struct ffs_nodes *n, uint32_t volume,
                    bool (*fn)(void *arg, const struct ffs_node *node, uint64_t lookups),
                    void *arg);
/* Whether the kernel knows a record of the volume that is not its root. *at, at first 0 and guarded
 * by the table's lock, is where one was: asked again after each one that is forgotten, this takes
 * no time for those before. */
bool ffs_nodes_any_known(struct ffs_nodes *n, uint32_t volume, uint32_t *at);
/* All records of a volume go; of all volumes but these. */
void ffs_nodes_drop_volume(struct ffs_nodes *n, uint32_t volume);
void ffs_nodes_drop_others(struct ffs_nodes *n, const uint32_t *volumes, size_t count);

/* Memory beside the records, as old and as lasting: one piece for each thread that changes
 * something (treerwintent.c). */
void *ffs_nodes_intent(struct ffs_nodes *n, unsigned index);
/* A piece for one thread of this process. */
bool ffs_nodes_intent_claim(struct ffs_nodes *n, unsigned index);
void ffs_nodes_intent_release(struct ffs_nodes *n, unsigned index);

#endif
