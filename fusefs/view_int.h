/* SPDX-License-Identifier: Apache-2.0 */
/* An image's merged root file system as its mapped trees give it: what the fuse
 * driver shows of an image that nobody has written to. Nothing is loaded and
 * nothing allocated per entry; every byte of a tree may be hostile (CORRUPT).
 *
 * A vid names an inode of a view: the tree it lies in and its nid there. A
 * directory that is in several of the stacked trees has the vid of the topmost.
 * Hard links are one vid; a vid never changes while the view's trees are the same.
 *
 * Immutable and counted; thread-safe. */
#ifndef FFS_VIEW_INT_H
#define FFS_VIEW_INT_H

#include "cas/tree.h"

#define FFS_VIEW_TREES_MAX 4
#define FFS_VID_NONE UINT64_MAX
#define FFS_VID_BITS 42 /* tree (2) above nid (40) */

struct ffs_view;
/* Maps the trees, topmost first. One view may serve any number of volumes.
 * Errors: CORRUPT, UNSUPPORTED, NOTFOUND (a file). */
int ffs_view_open(const struct cas_digest *trees, const char *const *paths, size_t count,
                  struct ffs_view **out, struct cas_err *err) CAS_MUST_CHECK;
/* The same of trees that are open; they are the view's on success. */
int ffs_view_new(const struct cas_digest *digests, struct cas_tree *const *trees, size_t count,
                 struct ffs_view **out, struct cas_err *err) CAS_MUST_CHECK;
struct ffs_view *ffs_view_ref(struct ffs_view *v);
void ffs_view_unref(struct ffs_view *v);
CAS_DEFINE_CLEANUP(ffs_cleanup_view_, struct ffs_view *, ffs_view_unref);
#define ffs_cleanup_view __attribute__((cleanup(ffs_cleanup_view_)))

uint64_t ffs_view_root(const struct ffs_view *v);
size_t ffs_view_tree_count(const struct ffs_view *v);
const struct cas_digest *ffs_view_tree(const struct ffs_view *v, size_t i);
/* Names and bytes of regular files, for statfs: of the trees together, whiteouts not counted
 * against. */
uint64_t ffs_view_entry_count(const struct ffs_view *v);

/* A number that is the same in every mount of the same trees, and no other vid's of the view. */
uint64_t ffs_view_ino(const struct ffs_view *v, uint64_t vid);
int ffs_view_inode(const struct ffs_view *v, uint64_t vid, struct cas_inode *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND (absent, or a whiteout stands for it), INVALID (no directory). */
int ffs_view_lookup(const struct ffs_view *v, uint64_t dir, const char *name, size_t name_len,
                    uint64_t *out_vid, struct cas_err *err) CAS_MUST_CHECK;
/* As cas_tree_readdir, of the merged directory: each name once, no whiteouts, "." and ".." not
 * shown; *cookie 0 starts, and fn false stands still at the refused entry. Cookies stay below
 * 2^62. Names last as long as the view. */
int ffs_view_readdir(const struct ffs_view *v, uint64_t dir, uint64_t *cookie,
                     bool (*fn)(void *arg, const char *name, size_t name_len, uint64_t vid,
                                uint8_t type, uint64_t next_cookie),
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;
int ffs_view_xattrs(const struct ffs_view *v, uint64_t vid,
                    bool (*fn)(void *arg, const char *name, const void *value, size_t len),
                    void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Text of a symbolic link, data of a small file; borrowed from the map. */
int ffs_view_inline(const struct ffs_view *v, uint64_t vid, const void **out, size_t *out_len,
                    struct cas_err *err) CAS_MUST_CHECK;

/* The inode of a path from the root ("/a/b" or "a/b"; "" and "/" are the root), for the redirects
 * of uppers: no link is followed, and ".", ".." and empty parts are refused.
 * Errors: NOTFOUND, INVALID. */
int ffs_view_path(const struct ffs_view *v, const char *path, uint64_t *out_vid,
                  struct cas_err *err) CAS_MUST_CHECK;
/* The directory that a directory lies in; of the root, itself. */
int ffs_view_parent(const struct ffs_view *v, uint64_t dir, uint64_t *out_vid,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A name for the path of a directory from the root, the same in every view. Reads the directories
 * above it. */
int ffs_view_dir_key(const struct ffs_view *v, uint64_t dir, struct cas_hash *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Every name of an inode of more than one (path from the root without a leading slash), until fn
 * returns false. The names of all such inodes are found by one walk, kept from then on. */
int ffs_view_links(const struct ffs_view *v, uint64_t vid, bool (*fn)(void *arg, const char *path),
                   void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
