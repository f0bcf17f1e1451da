/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a writable volume (treerw*.c) share: the volume, how an inode
 * is found in upper and lower, how a change is made.
 *
 * Locks: `lock` of the volume (shared: look, list, open; exclusive: change), then
 * `hiding`, then the leaves: `settling`, `cache_mutex`, the node table's. None is held while a
 * request is answered or the content of an object is read.
 *
 * Functions return 0 or a negative errno. Ids of owners in `struct stat` are
 * image ids as far as ffs_rw_show_stat. */
#ifndef FFS_TREERWCORE_INT_H
#define FFS_TREERWCORE_INT_H

#include "cas/mutex.h"
#include "fusefs/nodes_int.h"
#include "fusefs/upperlayer_int.h"

#define FFS_RW_COPYING_MAX 64 /* copies of data under way at once; more wait */

struct ffs_rw_fdcache;
struct ffs_rw_listings;

struct ffs_rw {
        struct ffs_treefs *treefs; /* borrowed, as are volume, view and nodes */
        struct ffs_volume *volume;
        struct ffs_view *view;
        struct ffs_nodes *nodes;
        struct ffs_upperlayer *upper; /* owned, as is dir_fd */
        int dir_fd;
        bool trusted;             /* renames of lower directories and metacopy are there */
        _Atomic bool passthrough; /* open files of the upper are backed by it */
        uint64_t root;            /* node */
        struct cas_rwlock lock;
        struct cas_mutex settling; /* guards copying */
        pthread_cond_t settled;
        struct cas_mutex hiding;  /* held from a change of a hidden name to that of its record */
        _Atomic bool is_given_up; /* hidden names are another's */
        uint64_t copying[FFS_RW_COPYING_MAX]; /* nodes whose data is being copied up */
        size_t copying_count;
        struct ffs_rw_fdcache *dirs;  /* descriptors (O_PATH) of upper directories, by node */
        struct ffs_rw_fdcache *files; /* open upper files, by node */
        struct ffs_rw_listings *listings;
        uint32_t known_at;     /* of ffs_nodes_any_known() */
        uint64_t moves;        /* directories renamed or removed so far; guarded by lock */
        struct cas_map *moved; /* lower path → upper path of redirected directories, as of
                                * moved_at; owned, guarded by lock */
        uint64_t moved_at;
};

/* ---- finding (treerw.c, treerwlookup.c) ---- */

/* What a name of a directory stands for, or an inode's state. */
struct ffs_rw_found {
        bool exists;
        struct ffs_upper_entry upper;
        uint64_t below;       /* vid of the name in the lower directory, FFS_VID_NONE */
        struct ffs_node node; /* exists: what a record of it would be, or (id) is */
};
void ffs_rw_found_release(struct ffs_rw_found *f);
#define ffs_rw_cleanup_found __attribute__((cleanup(ffs_rw_found_release)))

/* A record that is of this volume, what replaced it followed; -ESTALE. */
int ffs_rw_node(struct ffs_rw *rw, uint64_t id, struct ffs_node *out);
/* The same, and a directory that is still there: -ENOTDIR, -ENOENT. */
int ffs_rw_dir(struct ffs_rw *rw, uint64_t id, struct ffs_node *out);
/* A descriptor (owned) of its part in the upper; -1 where it has none. */
int ffs_rw_dir_fd(struct ffs_rw *rw, const struct ffs_node *dir, int *out_fd);
/* Opens what the upper has of an inode (FFS_NODE_HAS_UPPER). */
int ffs_rw_open_upper(struct ffs_rw *rw, const struct ffs_node *node, int flags, int *out_fd);
/* The same of a regular file for its data, O_RDWR, from the cache. */
int ffs_rw_open_data(struct ffs_rw *rw, const struct ffs_node *node, int *out_fd);
/* Looks up a name. dir_fd as of ffs_rw_dir_fd. */
int ffs_rw_find(struct ffs_rw *rw, const struct ffs_node *dir, int dir_fd, const char *name,
                struct ffs_rw_found *out);
/* The record of what was found, looked up `lookups` times more; out->node becomes it. */
int ffs_rw_intern(struct ffs_rw *rw, struct ffs_rw_found *f, uint64_t lookups);
/* The record of what was found, looked up once more the first time (*pin 0) and noted in *pin, for
 * who gives that back when the change is made. */
int ffs_rw_pin(struct ffs_rw *rw, struct ffs_rw_found *f, uint64_t *pin);
/* Attributes as they are shown. */
int ffs_rw_attr(struct ffs_rw *rw, const struct ffs_node *node, struct stat *out);
/* The same from what the upper said of it. */
int ffs_rw_attr_of_entry(struct ffs_rw *rw, const struct ffs_node *node,
                         const struct ffs_upper_entry *e, struct stat *out);
/* Name in work/ of a hidden file, by its inode there; out: 17 bytes. */
void ffs_rw_hidden_name(uint64_t upper_ino, char *out);
/* Path of a directory in the upper, from its root. */
int ffs_rw_dir_path(struct ffs_rw *rw, const struct ffs_node *dir, struct cas_buf *out);
/* Path of an inode in the lower trees, "/a/b", for a redirect. */
int ffs_rw_lower_path(struct ffs_rw *rw, const struct ffs_node *node, struct cas_buf *out);
/* The inode number shown of what has nothing below. */
uint64_t ffs_rw_upper_ino(uint64_t ino);
/* A negative errno for the error of a view. */
int ffs_rw_errno(const struct cas_err *err);
/* How long the kernel may keep what it was told of a node. */
double ffs_rw_timeout(const struct ffs_rw *rw, const struct ffs_node *node, const struct stat *st);
/* The answer to a look-up: interned once more, attributes, timeouts. */
int ffs_rw_entry(struct ffs_rw *rw, struct ffs_rw_found *f, struct fuse_entry_param *out);
void ffs_rw_reply_entry(struct ffs_rw *rw, fuse_req_t req, int rc,
                        const struct fuse_entry_param *e);
/* The kernel refused an answer that counted a look-up. */
void ffs_rw_unlook(struct ffs_rw *rw, uint64_t node);

/* ---- changing (treerw.c) ---- */

/* What has to be there before a change can be made at one stroke. */
enum ffs_rw_level {
        FFS_RW_SETTLED, /* no copy of its data under way */
        FFS_RW_ATTR,    /* its attributes in the upper */
        FFS_RW_DATA,    /* its data too */
        FFS_RW_EMPTY,   /* its data too, which will be truncated away: none is copied */
};
struct ffs_rw_need {
        uint64_t node;
        enum ffs_rw_level level;
        uint64_t superseded; /* node of which the kernel is to forget the attributes, or 0 */
};
/* Returned by a change that has set what it needs first, and done nothing. */
#define FFS_RW_AGAIN (-10000)
/* Calls fn with the volume's lock held for changing, again and again while it needs something. */
int ffs_rw_change(struct ffs_rw *rw,
                  int (*fn)(struct ffs_rw *rw, void *arg, struct ffs_rw_need *need), void *arg);
/* In a change: 0 where the node is at that level, else FFS_RW_AGAIN with need set. */
int ffs_rw_require(struct ffs_rw *rw, struct ffs_node *node, enum ffs_rw_level level,
                   struct ffs_rw_need *need);
/* In a change: the directory (all of its parents too) is in the upper; with its descriptor. */
int ffs_rw_require_dir(struct ffs_rw *rw, struct ffs_node *dir, int *out_fd);

/* What the kernel remembers of a node's attributes is not true any more. Without lock. */
void ffs_rw_forget_attr(struct ffs_rw *rw, uint64_t node);
/* Who copies data of a node without the lock says so; false: too many do. */
bool ffs_rw_copying_begin(struct ffs_rw *rw, uint64_t node);
void ffs_rw_copying_end(struct ffs_rw *rw, uint64_t node);
bool ffs_rw_is_copying(struct ffs_rw *rw, uint64_t node);
void ffs_rw_copying_wait(struct ffs_rw *rw, uint64_t node);

/* A metacopy, or a directory that stands on one below, says by an absolute redirect (set where it
 * is missing) where that is. fd: of it. */
int ffs_rw_fix_redirect(struct ffs_rw *rw, const struct ffs_node *node, int fd);
/* Of what loses a name by unlink, rmdir or by being replaced: nothing of it is in the way. */
int ffs_rw_require_removable(struct ffs_rw *rw, struct ffs_node *node, struct ffs_rw_need *need);
/* The node's record for the time without that name; *node is changed. Before the disk is. */
int ffs_rw_detach(struct ffs_rw *rw, uint64_t dir, const char *name, struct ffs_node *node);

/* ---- attributes (treerwattr.c) ---- */

/* Set-id bits and capabilities go, as they do when who may not keep them changes a file. */
int ffs_rw_kill_privileges(struct ffs_rw *rw, int fd);
int ffs_rw_truncate(struct ffs_rw *rw, const struct ffs_node *node, uint64_t size);

/* ---- open files (treerwfile.c) ---- */

/* Opens a file that was just made: fi is filled. Without lock. And takes that back. */
int ffs_rw_open_new(struct ffs_rw *rw, const struct ffs_node *node, struct fuse_file_info *fi);
void ffs_rw_close_new(struct ffs_rw *rw, const struct ffs_node *node, struct fuse_file_info *fi);

/* ---- copy-up (treerwcopy.c) ---- */

/* Held for changing; what has no data to copy. */
int ffs_rw_copy_up_dir(struct ffs_rw *rw, struct ffs_node *dir);
/* Makes a lower directory in the upper under a name of parent_fd, whose times stay as they were;
 * its record, if there is one, follows. */
int ffs_rw_make_dir(struct ffs_rw *rw, int parent_fd, const char *name, uint64_t vid,
                    struct ffs_node *node);
/* Without lock. */
int ffs_rw_copy_up(struct ffs_rw *rw, uint64_t node, enum ffs_rw_level level);
/* The lower data of a node gives way to the upper's: passthrough makes another node of it, inode
 * mode only changes the record. Held for changing. */
int ffs_rw_supersede(struct ffs_rw *rw, struct ffs_node *node, struct ffs_rw_need *need);

/* Every name of a lower file of several is a link to one upper file (treerwlinks.c). Held for
 * changing: fn is called for each place, with the directory in the upper, until it fails. Names
 * that are there no more are passed over. */
int ffs_rw_links_each(struct ffs_rw *rw, uint64_t vid,
                      int (*fn)(void *arg, int dir_fd, const char *name), void *arg);
/* Finishes what a process that died had begun. */
int ffs_rw_links_finish(struct ffs_rw *rw, uint64_t vid);
/* Hard links that overlayfs kept by its index become links. */
int ffs_rw_links_from_index(struct ffs_rw *rw);
void ffs_rw_moved_forget(struct ffs_rw *rw);

/* ---- what a successor must know of a request (treerwintent.c) ---- */

enum ffs_rw_intent_kind {
        FFS_RW_INTENT_MAKE = 1, /* also a further link */
        FFS_RW_INTENT_REMOVE,
        FFS_RW_INTENT_RENAME,
        FFS_RW_INTENT_XATTR,
        FFS_RW_INTENT_COPY, /* copying up: the names of a lower file */
};
struct ffs_rw_intent {
        _Atomic uint32_t state; /* treerwintent.c */
        int32_t result;         /* once it is done */
        uint64_t unique;        /* of the request */
        uint32_t kind, volume;
        uint64_t node, target; /* what is moved; what it is exchanged with, or 0 */
        uint64_t parent, to_parent;
        uint64_t upper_ino; /* of what is moved */
        uint64_t vid;       /* COPY: of the lower file */
        char name[256], to_name[256];
};
_Static_assert(sizeof(struct ffs_rw_intent) <= FFS_NODES_INTENT_BYTES, "an intent has its piece");

/* Of the request that this thread serves; FFS_UNIQUE_RESENT is in it where it came before. */
uint64_t ffs_rw_request_unique(void);
/* Of this thread's request, which a dead process had read: true where that one did it, with what is
 * to be answered. */
bool ffs_rw_intent_resent(struct ffs_rw *rw, enum ffs_rw_intent_kind kind, int *result);
#define FFS_RW_PERHAPS 1 /* a result: it was begun, and may have been done */
/* Writes down what is about to happen: what->kind and the members behind it but volume. Held for
 * changing. */
struct ffs_rw_intent *ffs_rw_intent_begin(struct ffs_rw *rw, const struct ffs_rw_intent *what);
/* Before the lock is let go: at most one change of a volume is half done, and what was done before
 * is not judged by a disk that has changed since. May be NULL. */
void ffs_rw_intent_done(struct ffs_rw_intent *in, int result);
/* The request has been answered, or nothing had been done. May be NULL. */
void ffs_rw_intent_end(struct ffs_rw *rw, struct ffs_rw_intent *in);
/* What a copy-up had begun is completed or undone (treerwcopy.c). */
int ffs_rw_copy_recover(struct ffs_rw *rw, const struct ffs_rw_intent *in);
/* The table after a rename that happened (treerwrename.c). */
int ffs_rw_rename_finish(struct ffs_rw *rw, const struct ffs_rw_intent *in);
/* Before anything is served: completes what was begun. */
int ffs_rw_intent_recover(struct ffs_rw *rw);

/* ---- caches (treerwcache.c) ---- */

struct ffs_rw_fdcache *ffs_rw_fdcache_new(size_t max);
void ffs_rw_fdcache_free(struct ffs_rw_fdcache *c);
/* A descriptor of its own for the caller, or -1. */
int ffs_rw_fdcache_get(struct ffs_rw_fdcache *c, uint64_t node);
/* Keeps a duplicate. */
void ffs_rw_fdcache_put(struct ffs_rw_fdcache *c, uint64_t node, int fd);
void ffs_rw_fdcache_drop(struct ffs_rw_fdcache *c, uint64_t node);

/* Listings of directories that are being read (treerwdir.c). */
struct ffs_rw_listings *ffs_rw_listings_new(void);
void ffs_rw_listings_free(struct ffs_rw_listings *l);
/* The directory changed. */
void ffs_rw_listings_drop(struct ffs_rw_listings *l, uint64_t dir);
/* Whether anything is shown in it. Held for changing. */
int ffs_rw_dir_is_empty(struct ffs_rw *rw, const struct ffs_node *dir, bool *empty);

#endif
