/* SPDX-License-Identifier: Apache-2.0 */
/* Upper directories of writable mounts. overlayfs stores file handles into the
 * trees in them, so one belongs to the exact trees and options that it was made
 * over: DIR/lamina.json records them, and nothing else is mounted with it. */
#ifndef FFS_UPPER_INT_H
#define FFS_UPPER_INT_H

#include "fusefs/binding_int.h"

struct ffs_upper {
        char upper[4096];
        char work[4096];
        bool fresh;                 /* upper was made now, and has no attributes of an image yet */
        struct ffs_binding binding; /* as it is on disk */
};

/* Makes DIR/upper and DIR/work where they are not, binds DIR as `want` says, or checks that it is
 * bound so. Durable. Errors: INVALID (bound otherwise, or not made by us), DENIED (others can
 * write to DIR). */
int ffs_upper_prepare(const char *dir, const struct ffs_binding *want, struct ffs_upper *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Removes a sandbox of ours with all that was written to it. */
int ffs_upper_remove(const char *dir, struct cas_err *err) CAS_MUST_CHECK;

#endif
