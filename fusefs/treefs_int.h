/* SPDX-License-Identifier: Apache-2.0 */
/* The tree file system: merged root file systems of images over one FUSE
 * connection. A connection has a page mode and any number of volumes; where it is
 * shared by the host, each volume is a directory of its root, named by its id and
 * bound to where it was asked for; a connection of its own has one volume, whose
 * root is its root.
 *
 * Node ids, from which alone follows who answers (treefs.c):
 *
 *   1                         the root
 *   01 volume(20) vid(42)     read-only, named by what it is: no state at all (treero.c)
 *   10 generation(30) slot    read-only file shared by all that are equal (sharednodes.c)
 *   11 generation(30) slot    of a writable volume: a record in the node table (nodes.c)
 *
 * (two bits, then the fields). None ever means two things while the connection lives: volume
 * numbers are not used again, slots have generations. State that the kernel relies on is in
 * memfds which `lamina hold` keeps, so that a successor answers as its predecessor would
 * (spec/mounts.md, "Takeover"). */
#ifndef FFS_TREEFS_INT_H
#define FFS_TREEFS_INT_H

/* Before libfuse's header wherever it is included: FUSE_USE_VERSION is in the Makefile. */
#include <fuse_lowlevel.h>

#include "fusefs/mount.h"
#include "fusefs/reader_int.h"
#include "fusefs/view_int.h"
#include "fusefs/volume_int.h"

enum ffs_node_kind {
        FFS_NODE_ROOT = 0, /* of the connection */
        FFS_NODE_RO = 1,
        FFS_NODE_SHARED = 2,
        FFS_NODE_RW = 3,
};
static inline enum ffs_node_kind ffs_node_kind(uint64_t node)
{
        return (enum ffs_node_kind)(node >> 62);
}
#define FFS_NODE_VOLUMES_MAX (UINT32_C(1) << 20)
static inline uint64_t ffs_node_ro(uint32_t volume, uint64_t vid)
{
        return UINT64_C(1) << 62 | (uint64_t)volume << FFS_VID_BITS | vid;
}

/* Where pages of files are kept. */
enum ffs_pages {
        FFS_PAGES_PASSTHROUGH, /* in the object file system's inodes, or the upper's files */
        FFS_PAGES_INODE,       /* in this connection's inodes; no OPEN requests at all */
};

struct ffs_rw; /* a writable volume, treerw_int.h */
struct ffs_volume {
        uint32_t number; /* of the connection; never used again */
        struct ffs_volume_spec spec;
        struct ffs_view *view; /* owned */
        struct ffs_rw *rw;     /* owned; NULL: read-only */
};

/* Shared nodes (with INIT and the volume numbers that were given), backings, nodes of writable
 * volumes. */
#define FFS_TREEFS_STATE_FDS 3

struct ffs_opener;
struct ffs_treefs;
struct ffs_treefs_config {
        int fuse_fd;                         /* borrowed */
        int state_fds[FFS_TREEFS_STATE_FDS]; /* borrowed: made by ffs_treefs_state_create, kept by
                                              * hold */
        enum ffs_pages pages;
        bool shared;               /* volumes are directories of the root */
        struct ffs_reader *reader; /* borrowed */
        /* Borrowed: opens objects for passthrough, NULL: none. Nothing here may wait for a file
         * system that this process serves (opener_int.h). */
        struct ffs_opener *opener;
        unsigned threads;
        struct ffs_ownerwait
                *wait; /* borrowed: requests that wait for the owner, ownerwait_int.h */
};
/* The caller's: memfds of what a successor must know. */
int ffs_treefs_state_create(int out_fds[FFS_TREEFS_STATE_FDS], struct cas_err *err) CAS_MUST_CHECK;
/* Opens a connection that is new, or that another process served before; answers nothing yet. */
int ffs_treefs_new(const struct ffs_treefs_config *config, struct ffs_treefs **out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Adds a volume; *number 0 gives it a new one, which is remembered in the state, else it is the one
 * that a predecessor gave. dir_fd: spec->rw's directory, else -1; taken over. Before or after
 * start. Errors: those of the view and of the upper, UNSUPPORTED, LIMIT. */
int ffs_treefs_add(struct ffs_treefs *t, const struct ffs_volume_spec *spec, int dir_fd,
                   uint32_t *number, struct cas_err *err) CAS_MUST_CHECK;
/* Its mounts are gone: the kernel is told to forget its nodes, and it is closed when it has.
 * Errors: NOTFOUND. */
int ffs_treefs_remove(struct ffs_treefs *t, const char *id, struct cas_err *err) CAS_MUST_CHECK;
/* Serves: replays INIT, asks for requests again, starts threads. With all its volumes there. */
int ffs_treefs_start(struct ffs_treefs *t, struct cas_err *err) CAS_MUST_CHECK;
/* Readable when it was unmounted or aborted. Borrowed. */
int ffs_treefs_ended_fd(const struct ffs_treefs *t);
/* Once it has ended: the kernel knows none of its files, and uppers may be mounted again before
 * this is freed. What only open files needed goes now. */
void ffs_treefs_ended(struct ffs_treefs *t);
/* It has ended, and no thread serves it any more. Requests of it may wait for the owner. */
bool ffs_treefs_is_still(const struct ffs_treefs *t);
/* Of one that never started, or has ended FFS_OWNER_WAIT_MS ago or longer, so that none of its
 * requests waits for the owner. Its threads are waited for; volumes are closed. */
void ffs_treefs_free(struct ffs_treefs *t);

struct ffs_treefs_counts {
        uint64_t volumes, shared_nodes, rw_nodes, backings, open_files;
};
void ffs_treefs_count(struct ffs_treefs *t, struct ffs_treefs_counts *out);

/* ---- for treero.c and treerw*.c ---- */

/* Everything lasts as long as the kernel likes: all changes go through it. */
#define FFS_TREEFS_FOREVER_S 1e9
enum ffs_pages ffs_treefs_pages(const struct ffs_treefs *t);
/* The volume of a number; NULL when it is gone (ESTALE). Counted: put it. */
struct ffs_volume *ffs_treefs_volume_get(struct ffs_treefs *t, uint32_t number);
void ffs_treefs_volume_put(struct ffs_treefs *t, struct ffs_volume *v);
struct ffs_backings *ffs_treefs_backings(struct ffs_treefs *t); /* backing_int.h */
struct ffs_nodes *ffs_treefs_nodes(struct ffs_treefs *t);       /* nodes of writable volumes */
struct fuse_session *ffs_treefs_session(struct ffs_treefs *t);  /* for notifications */
/* Around what takes a thread that serves a request long; ffs_connection_blocks(). */
void ffs_treefs_blocks(struct ffs_treefs *t);
void ffs_treefs_goes_on(struct ffs_treefs *t);
/* Content of an object for a read, waiting for the owner as the object file system does: replies
 * to req with [offset, offset + len) cut at the object's end, EIO with a line in the log. */
void ffs_treefs_reply_object(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                             uint64_t size_bytes, uint64_t offset, size_t len);
/* Passthrough: answers an OPEN for reading with the object's backing, on which one open file more
 * counts then; EIO with a line in the log. And one less, at its RELEASE (which the caller answers).
 */
void ffs_treefs_reply_open(struct ffs_treefs *t, fuse_req_t req, const struct cas_hash *object,
                           uint64_t size_bytes, struct fuse_file_info *fi);
void ffs_treefs_release_object(struct ffs_treefs *t, const struct cas_hash *object);
/* Whole pieces of an object into memory, for copy-up; blocks, at most the owner's waiting time.
 * 0 or a negative errno. */
int ffs_treefs_read_object(struct ffs_treefs *t, const struct cas_hash *object, uint64_t size_bytes,
                           uint64_t offset, void *out, size_t len);
/* Attributes of a view's inode as the volume shows them (ids mapped). */
void ffs_treefs_attr(const struct ffs_volume *v, uint64_t vid, const struct cas_inode *inode,
                     struct stat *out);

#endif
