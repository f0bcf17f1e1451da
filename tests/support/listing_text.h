/* SPDX-License-Identifier: Apache-2.0 */
/* Layers and trees as text, for tests: one line per entry.
 *
 *   d PATH [ATTRIBUTES] [opaque] [implied]
 *   f PATH SIZE [ATTRIBUTES]     above 64 bytes: the object that stands for PATH@SIZE
 *   f PATH =TEXT [ATTRIBUTES]
 *   l PATH TARGET
 *   h PATH TARGET [below]
 *   c PATH MAJOR MINOR [ATTRIBUTES]     b: a block device
 *   p PATH [ATTRIBUTES]     s: a socket
 *   w PATH
 *   x NAME VALUE     an xattr of the entry above
 *
 * ATTRIBUTES is MODE [UID [GID [MTIME[.NS]]]]. "." is the root. Words have no
 * spaces; %XX stands for a byte. */
#ifndef TESTS_LISTING_TEXT_H
#define TESTS_LISTING_TEXT_H

#include "cas/tree.h"

/* Aborts on text that it does not understand. */
void listing_from_text(const char *text, struct cas_listing *out);
/* The object that stands for a file of that size made at that path. */
void listing_object(const char *path, uint64_t size_bytes, struct cas_hash *out);
/* Applies one layer of text; aborts on failure when err is NULL. */
int merge_text(struct cas_merge *m, const char *text, struct cas_err *err);
/* An xattr as the lines have it: " NAME=VALUE". Owned. */
char *xattr_to_text(const char *name, const void *value, size_t len);
/* Appends xattrs in order of their text, and frees them. */
void xattrs_append(char **texts, size_t count, struct cas_buf *out);
/* The tree as lines "PATH TYPE MODE UID GID NLINK MTIME.NS SIZE [WHAT] [XATTRS]" in order of
 * path; hard links show their first path as "=PATH". */
void tree_to_text(const struct cas_tree *t, struct cas_buf *out);

#endif
