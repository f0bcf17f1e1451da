/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of changes.c: what is read, and entries as listings have them, made of what
 * an upper and what a view say. One thread. */
#ifndef FFS_CHANGES_INT_H
#define FFS_CHANGES_INT_H

#include "fusefs/changes.h"
#include "fusefs/upperlayer_int.h"
#include "fusefs/view_int.h"

/* An inode of an upper, as it was when it was looked at. */
struct ffs_upper_inode {
        int fd;            /* O_PATH; owned; -1: none */
        uint64_t dev, ino; /* on the upper's disk */
        uint64_t nlink;    /* there: names in work/ count */
        struct ffs_upper_entry look;
};
#define FFS_UPPER_INODE_INIT                                                                       \
        {                                                                                          \
                .fd = -1                                                                           \
        }
void ffs_upper_inode_release(struct ffs_upper_inode *i);
#define ffs_cleanup_upper_inode __attribute__((cleanup(ffs_upper_inode_release)))

/* kind ABSENT or WHITEOUT: `out` has no descriptor. path is for messages. Errors: CORRUPT (what no
 * overlay may say), IO. */
int ffs_upper_inode_at(struct ffs_upperlayer *u, int dirfd, const char *name, const char *path,
                       struct ffs_upper_inode *out, struct cas_err *err) CAS_MUST_CHECK;
/* The same of a descriptor, which is taken over. */
int ffs_upper_inode_of(struct ffs_upperlayer *u, int fd, const char *path,
                       struct ffs_upper_inode *out, struct cas_err *err) CAS_MUST_CHECK;

/* Fills out, whose path is set and which is else zero: type, attributes, target, xattrs, and the
 * size of a file that is no metacopy. */
int ffs_changed_entry_from_upper(struct ffs_upperlayer *u, const struct ffs_upper_inode *inode,
                                 struct cas_entry *out, struct cas_err *err) CAS_MUST_CHECK;
/* The same of a view's inode, with its data: object or inline. */
int ffs_changed_entry_from_view(const struct ffs_view *v, uint64_t vid, struct cas_entry *out,
                                struct cas_err *err) CAS_MUST_CHECK;
/* Data of a metacopy is that of a file below. Errors: CORRUPT (no file, or of another size). */
int ffs_changed_data_from_view(const struct ffs_view *v, uint64_t vid, uint64_t size_bytes,
                               struct cas_entry *out, struct cas_err *err) CAS_MUST_CHECK;
/* Mode, owner, time and xattrs. */
bool ffs_changed_entry_equal(const struct cas_entry *a, const struct cas_entry *b);

struct ffs_changes_source {
        struct ffs_upperlayer *upper;
        const struct ffs_view *view;
        uint8_t uuids[FFS_VIEW_TREES_MAX][16]; /* of the view's trees */
};
/* ffs_changes_each of what is open. */
int ffs_changes_walk(const struct ffs_changes_source *source,
                     const struct ffs_changes_options *options,
                     int (*fn)(void *arg, const struct ffs_change *change, struct cas_err *err),
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
