/* SPDX-License-Identifier: Apache-2.0 */
/* Trees: the merged metadata of a chain of layers as an EROFS image in
 * composefs form (spec/tree.md). Deterministic: the same chain and version give
 * the same bytes. Kept in STORE/trees under their digest; any may be dropped
 * and is made again on demand. */
#ifndef CAS_TREE_H
#define CAS_TREE_H

#include "cas/layer.h"

#define CAS_TREE_VERSION 1

/* ---- merging (no store) ---- */
struct cas_merge;
struct cas_merge *cas_merge_new(void);
void cas_merge_free(struct cas_merge *m);
CAS_DEFINE_CLEANUP(cas_cleanup_merge_, struct cas_merge *, cas_merge_free);
#define cas_cleanup_merge __attribute__((cleanup(cas_cleanup_merge_)))
/* Applies a layer over what is there. Takes what it needs out of the listing,
 * which is then only to be released. Errors: INVALID (a hard link without its target …), LIMIT. */
int cas_merge_apply(struct cas_merge *m, struct cas_listing *layer,
                    struct cas_err *err) CAS_MUST_CHECK;
/* To be called of an empty merge: the one layer that is applied then is kept by itself. Its
 * whiteouts and opaque marks become xattrs of the image's own (spec/tree.md, "One layer"), for
 * others to stack. Errors of cas_merge_apply are then also
 * UNSUPPORTED (a hard link to a file of the layers below). */
void cas_merge_keep_marks(struct cas_merge *m);
/* What is merged so far is the lower part of a chain that is cut here; what is applied
 * from now on is the upper one. At most once. Errors: NOMEM. */
int cas_merge_mark_base(struct cas_merge *m, struct cas_err *err) CAS_MUST_CHECK;

struct cas_tree_options {
        bool stacked; /* only what differs from the marked base, for stacking over the base's own
                       * tree, with whiteouts and opaque marks; else everything */
};
/* Writes the EROFS image; what out held is dropped. out_digest (SHA-256 of the bytes) may be
 * NULL. A stacked tree over its base equals the flat tree, hard links and attributes included:
 * hard-link groups whose names changed are in it whole.
 * Errors: LIMIT, NOMEM, UNSUPPORTED (stacked, and the base has a directory /xx of two hex digits,
 * which overlayfs would take for objects: use one flat tree). */
int cas_merge_write_erofs(const struct cas_merge *m, const struct cas_tree_options *options,
                          struct cas_buf *out, struct cas_digest *out_digest,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Names in the merged tree, the root's included. Walks the tree. */
size_t cas_merge_entry_count(const struct cas_merge *m);

/* ---- reading an EROFS image of ours (mapped, hostile bytes) ---- */
struct cas_tree;
/* Maps a file; the descriptor may be closed afterwards. Errors: CORRUPT, UNSUPPORTED. */
int cas_tree_open_fd(int fd, struct cas_tree **out, struct cas_err *err) CAS_MUST_CHECK;
/* Over bytes in memory; borrowed until close. */
int cas_tree_open_mem(const void *data, size_t len, struct cas_tree **out,
                      struct cas_err *err) CAS_MUST_CHECK;
void cas_tree_close(struct cas_tree *t);
CAS_DEFINE_CLEANUP(cas_cleanup_tree_, struct cas_tree *, cas_tree_close);
#define cas_cleanup_tree __attribute__((cleanup(cas_cleanup_tree_)))

struct cas_inode {
        uint64_t nid;
        uint32_t mode; /* S_IFMT and permission bits */
        uint32_t uid, gid, nlink;
        uint32_t rdev; /* as makedev(3) packs it */
        uint64_t size_bytes;
        int64_t mtime_s;
        uint32_t mtime_ns;
        bool has_object;
        struct cas_hash object; /* regular files that are not inline */
        bool opaque;            /* directory of a stacked tree */
        bool whiteout;          /* of a stacked tree; a real 0/0 device has this false */
};
uint64_t cas_tree_root(const struct cas_tree *t); /* nid */
bool cas_tree_is_stacked(const struct cas_tree *t);
uint64_t cas_tree_entry_count(const struct cas_tree *t); /* names, the root's included */
int cas_tree_inode(const struct cas_tree *t, uint64_t nid, struct cas_inode *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND. */
int cas_tree_lookup(const struct cas_tree *t, uint64_t dir_nid, const char *name, size_t name_len,
                    uint64_t *out_nid, struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for every entry but "." and ".." from position *cookie on (0: start),
 * until fn returns false; *cookie then stands at the refused entry. type is DT_*. */
int cas_tree_readdir(const struct cas_tree *t, uint64_t dir_nid, uint64_t *cookie,
                     bool (*fn)(void *arg, const char *name, size_t name_len, uint64_t nid,
                                uint8_t type, uint64_t next_cookie),
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for each xattr of the image; overlayfs's own (redirect, metacopy, opaque) are
 * not shown and escaped ones are unescaped. */
int cas_tree_xattrs(const struct cas_tree *t, uint64_t nid,
                    bool (*fn)(void *arg, const char *name, const void *value, size_t len),
                    void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Symlink text or inline file data: borrowed from the map. */
int cas_tree_inline(const struct cas_tree *t, uint64_t nid, const void **out, size_t *out_len,
                    struct cas_err *err) CAS_MUST_CHECK;

/* ---- trees of the store ---- */
struct cas_tree_ref {
        struct cas_digest digest; /* SHA-256 of the EROFS image: STORE/trees/<hex>.erofs */
        uint64_t size_bytes;
};
/* The flat tree of a chain of decoded layers (lowest first), made when it is not there or its
 * file is damaged. Durable on return. Concurrent calls for one chain make it once. Who holds no
 * lease on the layers may find it gone again. Errors: INVALID, LIMIT (the layers do not go
 * together), NOTFOUND (a listing), CORRUPT, NOSPACE, IO. */
int cas_tree_ensure(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                    struct cas_tree_ref *out, struct cas_err *err) CAS_MUST_CHECK;
/* The chain cut in two: the tree of the first base_count layers (0 < base_count < count), and
 * the tree of what the others change, for stacking on it. Further error: UNSUPPORTED (this
 * base cannot be stacked upon: use cas_tree_ensure). */
int cas_tree_ensure_stacked(struct cas_store *s, const struct cas_layer_record *layers,
                            size_t count, size_t base_count, struct cas_tree_ref *out_top,
                            struct cas_tree_ref *out_base, struct cas_err *err) CAS_MUST_CHECK;
/* The tree of one layer by itself, with whiteouts and opaque marks, as it was packed: for programs
 * that stack layers themselves. Further error: UNSUPPORTED (a hard link to a file below). */
int cas_tree_ensure_layer(struct cas_store *s, const struct cas_layer_record *layer,
                          struct cas_tree_ref *out, struct cas_err *err) CAS_MUST_CHECK;
/* Whether the chain has trees, and where they cut it (0: a flat tree). Errors: IO. */
int cas_tree_find_cut(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                      size_t *out_base_count, bool *found, struct cas_err *err) CAS_MUST_CHECK;
/* "STORE/trees/<hex>.erofs"; out has at least 4096 bytes. */
void cas_tree_path(const struct cas_store *s, const struct cas_digest *tree, char *out,
                   size_t out_bytes);

#endif
