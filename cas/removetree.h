/* SPDX-License-Identifier: Apache-2.0 */
/* Removal of directories that hostile programs have written into: deeper than
 * any path can say, with whatever names and links. */
#ifndef CAS_REMOVETREE_H
#define CAS_REMOVETREE_H

#include "cas/err.h"

/* Removes a directory with all that is in it, or a single file. Links are not followed and mounts
 * not entered. Nobody else may write there meanwhile. Absent is success; a call after one that was
 * interrupted goes on. Errors: BUSY (a mount in it), DENIED, IO. */
int cas_remove_tree(const char *path, struct cas_err *err) CAS_MUST_CHECK;

#endif
