/* SPDX-License-Identifier: Apache-2.0 */
/* The tree file systems that this process serves: one for each FUSE connection
 * that a command handed over, with its volumes. Whatever is added is with hold
 * (spec/mounts.md, "What hold keeps") before anybody relies on it, and is taken
 * from there by a successor.
 *
 * Thread-safe, but for reap, which is one thread's; additions come one at a time. */
#ifndef FFS_TREESET_INT_H
#define FFS_TREESET_INT_H

#include "fusefs/keep_int.h"
#include "fusefs/treefs_int.h"

#define FFS_TREE_NAME_BYTES 40
#define FFS_TREE_TEXT_BYTES 128

/* What a connection is. */
struct ffs_tree_spec {
        char name[FFS_TREE_NAME_BYTES]; /* [0-9a-z-] */
        enum ffs_pages pages;
        bool shared;                   /* volumes are directories of the root; else it has one */
        unsigned dev_major, dev_minor; /* of the mount, as far as it is known */
};
/* `NAME PAGES shared|single MAJOR:MINOR`. out of format: FFS_TREE_TEXT_BYTES. Errors: INVALID. */
void ffs_tree_spec_format(const struct ffs_tree_spec *spec, char *out);
int ffs_tree_spec_parse(const char *text, struct ffs_tree_spec *out,
                        struct cas_err *err) CAS_MUST_CHECK;

struct ffs_treeset;
/* Borrowed for good. */
struct ffs_treeset_config {
        struct ffs_opener *opener; /* of objects; NULL: none */
        struct ffs_keep *keep;
        struct ffs_reader *reader;
        struct ffs_ownerwait *wait;
        unsigned threads; /* of a shared connection */
};
/* Serves what hold has. What cannot be served is given up, with a line in the log, so that its
 * users get errors and wait for nothing. Errors: UNSUPPORTED (another version made the state). */
int ffs_treeset_open(const struct ffs_treeset_config *config, struct ffs_treeset **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Serves a connection that was just mounted; volume: its only one, NULL when it is shared.
 * Descriptors are taken over; dir_fd -1: none. Errors: EXISTS (the name), those of treefs. */
int ffs_treeset_add(struct ffs_treeset *s, const struct ffs_tree_spec *spec, int fuse_fd,
                    const struct ffs_volume_spec *volume, int dir_fd,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A volume more of a shared connection; it may be there already. dir_fd is taken over. *tree is
 * filled. Errors: BUSY (there is no such connection), EXISTS (another volume has the id),
 * UNSUPPORTED (what the connection cannot pass through), those of treefs. */
int ffs_treeset_volume_add(struct ffs_treeset *s, const char *name,
                           const struct ffs_volume_spec *volume, int dir_fd,
                           struct ffs_tree_spec *tree, struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. */
int ffs_treeset_volume_remove(struct ffs_treeset *s, const char *name, const char *id,
                              struct cas_err *err) CAS_MUST_CHECK;

/* Readable when a connection has ended: reap, which is to be called again, some time later, while
 * it says that there is something left to free. */
int ffs_treeset_ended_fd(const struct ffs_treeset *s);
bool ffs_treeset_reap(struct ffs_treeset *s);
/* Connections that have not ended. */
size_t ffs_treeset_count(struct ffs_treeset *s);
/* What there is, as a JSON array (spec/mounts.md, "fs.sock"); owned. */
char *ffs_treeset_status(struct ffs_treeset *s);

#endif
