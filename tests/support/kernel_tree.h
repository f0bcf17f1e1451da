/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel makes of trees: mounted in a child's own mount namespace, walked, and told in
 * the words of tree_to_text(). */
#ifndef TESTS_KERNEL_TREE_H
#define TESTS_KERNEL_TREE_H

#include "cas/tree.h"

/* False, with a reason printed, where trees cannot be mounted. */
bool kernel_tree_possible(void);
/* Mounts the images (topmost first) under one overlay, over a directory with the objects of all,
 * each of which holds its own id. Directories show no link count, since overlayfs has none for
 * merged ones. NULL, with a reason printed, when something failed. Owned. */
char *kernel_tree_overlay(const struct cas_buf *const *images, size_t count);
/* One image as EROFS shows it, without overlayfs; xattrs of overlayfs left out. */
char *kernel_tree_erofs(const struct cas_buf *image);

#endif
