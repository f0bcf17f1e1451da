/* SPDX-License-Identifier: Apache-2.0 */
/* Upper directories as such: what they say of themselves, emptying and copying
 * them. DIR is the directory that holds lamina.json. Called in the process of the
 * command. What of an upper changed is told by fusefs/changes.h. */
#ifndef FFS_UPPER_H
#define FFS_UPPER_H

#include "cas/digest.h"

struct ffs_upper_info {
        char name[512];             /* of the image; "" when it is not known */
        struct cas_digest manifest; /* alg NONE when it is not known */
        size_t tree_count;
        struct cas_digest trees[4]; /* topmost first */
        char id_map[640];           /* as in ffs_mount_options; "" for none */
        uint64_t size_limit_bytes;  /* 0: none */
        bool frozen;                /* a snapshot: never mounted writable */
};
/* Errors: NOTFOUND, INVALID (no upper of ours). */
int ffs_upper_describe(const char *dir, struct ffs_upper_info *out,
                       struct cas_err *err) CAS_MUST_CHECK;

/* Drops everything that was written to it; the next mount begins anew. The caller knows that it is
 * not mounted. Errors: as above, INVALID (frozen). */
int ffs_upper_reset(const char *dir, struct cas_err *err) CAS_MUST_CHECK;

struct ffs_clone_counts {
        uint64_t files;        /* regular files with data of their own */
        uint64_t shared_bytes; /* of them, shared with the original (reflinks or hard links) */
        uint64_t copied_bytes;
};
/* Makes new_dir (absent, or an empty directory) an upper like `dir`: names, attributes, overlayfs's
 * xattrs, whiteouts, hard links, holes; bound to the same image. Data is shared where the file
 * system can (FICLONE), else copied. `dir` may be mounted and in use: then the clone is of no
 * single instant. frozen: it is a snapshot, which is committed, compared and cloned, but never
 * mounted; of two that are frozen the files are hard links. On errors nothing is left. Errors:
 * EXISTS, DENIED, NOSPACE, IO, LIMIT, INVALID, UNSUPPORTED. */
int ffs_upper_clone(const char *dir, const char *new_dir, bool frozen, struct ffs_clone_counts *out,
                    struct cas_err *err) CAS_MUST_CHECK;

#endif
