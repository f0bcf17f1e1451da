/* SPDX-License-Identifier: Apache-2.0 */
/* What a sandbox changed: its upper directory read through the trees it stands
 * on, metacopy and redirects resolved, as a listing of one layer. Whoever wrote
 * the upper is hostile: what it says that no overlay may say is an error
 * (CORRUPT), nothing outside of it is opened, no link followed.
 *
 * The upper may be mounted and in use; then the result is as of no single
 * instant, as with any copy of a live directory. */
#ifndef FFS_CHANGES_H
#define FFS_CHANGES_H

#include "cas/entry.h"
#include "fusefs/mount.h"

enum ffs_change_kind { FFS_CHANGE_ADDED, FFS_CHANGE_MODIFIED, FFS_CHANGE_DELETED };

/* Where the data of a changed regular file is. */
enum ffs_change_data {
        FFS_CHANGE_NO_DATA,   /* no regular file, or deleted */
        FFS_CHANGE_IN_UPPER,  /* fd */
        FFS_CHANGE_IN_OBJECT, /* entry->object, or inline data, of the trees below */
};
struct ffs_change {
        enum ffs_change_kind kind;
        const struct cas_entry *entry; /* as a layer would list it, with image ids: a deletion is a
                                        * WHITEOUT, a hard link names an earlier path */
        enum ffs_change_data data;
        int fd; /* IN_UPPER: O_RDONLY, borrowed for the call */
};

struct ffs_changes_options {
        bool with_unchanged_directories; /* parents of changes, as overlayfs copied them up */
        bool explicit_deletions; /* no opaque marks: all that a directory hides is deleted by name
                                  */
};
/* Calls fn for each change in the order of cas_path_compare, until it returns non-zero (a -code
 * with err filled). upper_dir is the directory that holds upper/ and lamina.json. A directory that
 * was renamed is a deletion of the old name and everything below the new one. Errors: CORRUPT,
 * DENIED, INVALID (not an upper of these trees), IO, LIMIT, and fn's. */
int ffs_changes_each(const char *upper_dir, const struct ffs_image *image,
                     const struct ffs_changes_options *options,
                     int (*fn)(void *arg, const struct ffs_change *change, struct cas_err *err),
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
