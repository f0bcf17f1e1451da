/* SPDX-License-Identifier: Apache-2.0 */
/* An upper directory in the kernel's overlay format (Linux
 * Documentation/filesystems/overlayfs.rst; spec/upper.md): reading what either
 * side wrote, and the single steps that write it. It knows names and
 * descriptors, nothing of nodes, views or FUSE: treerw*.c decides what to do,
 * changes.c reads. Whoever made the upper may be hostile: no link is ever
 * followed, nothing outside of upper/ and work/ is touched, special files are
 * never opened.
 *
 * Functions return 0 or a negative errno, as their callers answer the kernel.
 * All are thread-safe; who changes one name or one inode from two threads orders
 * that. Every step is seen whole or not at all, also by who comes after a kill;
 * nothing is synced. The process's umask is 0. Ids, those in ACLs too, are image ids, here and on
 * the disk. `dirfd` is a directory below upper/ (any of O_PATH or O_RDONLY), `name` one component.
 */
#ifndef FFS_UPPERLAYER_INT_H
#define FFS_UPPERLAYER_INT_H

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "cas/entry.h"
#include "fusefs/volume_int.h"

struct ffs_upperlayer;
struct ffs_upperlayer_config {
        int dir_fd; /* holds upper/ and work/; borrowed until close */
        enum ffs_upper_format format;
        bool owners_in_xattrs;
        bool read_only;   /* nothing is written, work/ need not be there */
        bool keep_hidden; /* names that ffs_upper_hide and _link_hidden gave are in use: who served
                           * this upper before was replaced */
        uint64_t size_limit_bytes; /* 0: none; else counted, ENOSPC beyond */
};
/* Opens upper/, which must be there, makes work/ where it is missing, and clears what a crash left
 * in work/ (keep_hidden: but for hidden names). With a limit the whole upper is walked and counted.
 * Hard links that overlayfs keeps by its index (work/index) are told by ffs_upperlayer_index_each.
 * EUCLEAN: a part of it is no directory, or overlayfs says in work/ that it must not be used again
 * ("volatile"); EXDEV: upper/ and work/ are on two file systems; EOPNOTSUPP: theirs lacks xattrs,
 * O_TMPFILE or RENAME_WHITEOUT. */
int ffs_upperlayer_open(const struct ffs_upperlayer_config *config, struct ffs_upperlayer **out);
void ffs_upperlayer_close(struct ffs_upperlayer *u);
int ffs_upperlayer_root_fd(const struct ffs_upperlayer *u); /* O_PATH of upper/; borrowed */
/* A directory below upper/ by its path ("" is the root), of any length; for reading, or O_PATH
 * where that is not allowed. ESTALE: a part of it is absent; EUCLEAN: a part is no directory (a
 * link, or another mount, say). */
int ffs_upperlayer_open_dir(const struct ffs_upperlayer *u, const char *path, int *out_fd);

enum ffs_upper_kind { FFS_UPPER_ABSENT, FFS_UPPER_WHITEOUT, FFS_UPPER_PRESENT };
struct ffs_upper_entry {
        enum ffs_upper_kind kind;
        struct stat st; /* present: as it is shown (image ids; mode and device from the override) */
        bool opaque;    /* directory: nothing below shows through */
        bool metacopy;  /* file: its data is that of the inode below (of `redirect`, if there) */
        char *redirect; /* owned, may be NULL: absolute from the root, or one name beside it */
        bool has_origin; /* copied up by us: which inode below it was (ffs_upper_new), as hostile as
                          * the rest; shown as its inode number */
        uint64_t origin;
};
void ffs_upper_entry_release(struct ffs_upper_entry *e);
/* What the upper says of a name. EUCLEAN: it says something that no overlay may say. */
int ffs_upper_look(struct ffs_upperlayer *u, int dirfd, const char *name,
                   struct ffs_upper_entry *out);
/* The same of what a descriptor (O_PATH, or any) stands for; never a whiteout. */
int ffs_upper_look_fd(struct ffs_upperlayer *u, int fd, struct ffs_upper_entry *out);
/* Calls fn for every name, whiteouts as FFS_UPPER_WHITEOUT; type is DT_*, ino the upper's. False
 * ends. One pass over a directory opened anew. */
int ffs_upper_list(struct ffs_upperlayer *u, int dirfd,
                   bool (*fn)(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                              uint64_t ino),
                   void *arg);

/* ---- making ---- */

struct ffs_upper_new {
        mode_t mode; /* S_IFMT and permissions, exactly as they are to be */
        uint32_t uid, gid;
        dev_t rdev;
        const char *target; /* symbolic links */
        int64_t mtime_s;    /* copied up: the time of what is below */
        uint32_t mtime_ns;
        bool set_mtime;
        bool opaque;          /* directories */
        const char *redirect; /* directories, and metacopy files; or NULL */
        bool metacopy;        /* files: a size (st_size below) and no data */
        uint64_t size_bytes;  /* of a metacopy */
        bool has_origin;      /* copied up: remembered in an xattr of ours */
        uint64_t origin;
        /* Extended attributes that it starts with, as an image names them. */
        const struct cas_xattr *xattrs;
        size_t xattr_count;
};
/* Makes it, whole or not at all; a whiteout that has the name gives way (EEXIST where something is
 * present). What is new gets the directory's default ACL, and its mode is cut by that; what is
 * copied up (set_mtime or has_origin) does not. mode is otherwise what it is to be, without umask,
 * but for what a set-group-id directory gives on the disk. EPERM: device 0/0, which would be a
 * whiteout, and in the user. format a redirect or metacopy. fd: of a new regular file, O_RDWR, when
 * out_fd is not NULL. */
int ffs_upper_make(struct ffs_upperlayer *u, int dirfd, const char *name,
                   const struct ffs_upper_new *what, int *out_fd);
/* The same in two steps, for data that is copied meanwhile: an empty file without a name (O_RDWR,
 * mode 0600, owned by who serves), and, when its data is there, everything else: owner, mode,
 * xattrs (written data would take capabilities away), time and name. A whiteout or, with `replace`,
 * a file of one name gives way, in one step. Nothing is synced: who needs the data to survive a
 * crash of the machine syncs fd before. */
int ffs_upper_begin(struct ffs_upperlayer *u, int *out_fd);
int ffs_upper_finish(struct ffs_upperlayer *u, int fd, const struct ffs_upper_new *what, int dirfd,
                     const char *name, bool replace);
/* O_TMPFILE of a sandbox: a regular file that has no name, as if it were made in dirfd. */
int ffs_upper_tmpfile(struct ffs_upperlayer *u, int dirfd, const struct ffs_upper_new *what,
                      int *out_fd);
/* One name more for what fd stands for (no directory); a whiteout gives way. */
int ffs_upper_link(struct ffs_upperlayer *u, int fd, int dirfd, const char *name);
/* Puts a whiteout there, over what is present (a directory must be empty but for whiteouts, which
 * go with it), in one step. */
int ffs_upper_whiteout(struct ffs_upperlayer *u, int dirfd, const char *name);
/* Takes away what is present (a directory: as above), leaving nothing. */
int ffs_upper_unlink(struct ffs_upperlayer *u, int dirfd, const char *name, bool is_dir);
/* Moves what is present to a name in work/, for nodes that live on without one, and leaves a
 * whiteout or nothing. The caller chooses `hidden`, 16 hex digits. EEXIST. */
int ffs_upper_hide(struct ffs_upperlayer *u, int dirfd, const char *name, bool whiteout,
                   const char *hidden);
/* Gives what fd stands for (any file, one without a name included) one more such name. EEXIST. */
int ffs_upper_link_hidden(struct ffs_upperlayer *u, int fd, const char *hidden);
int ffs_upper_open_hidden(struct ffs_upperlayer *u, const char *hidden, int flags, int *out_fd);
int ffs_upper_drop_hidden(struct ffs_upperlayer *u, const char *hidden, bool is_dir);
/* Removes the hidden names that is_used() does not know. */
int ffs_upper_sweep_hidden(struct ffs_upperlayer *u, bool (*is_used)(void *arg, const char *hidden),
                           void *arg);
/* rename(2) between two names of the upper; a whiteout at the target gives way, one is left at the
 * source when asked for; flags: RENAME_NOREPLACE, RENAME_EXCHANGE. One step. A directory at the
 * target that the caller knows to be empty as it is shown may have whiteouts, which go first. */
int ffs_upper_rename(struct ffs_upperlayer *u, int from_fd, const char *from, int to_fd,
                     const char *to, unsigned flags, bool leave_whiteout);
int ffs_upper_set_opaque(struct ffs_upperlayer *u, int fd);
int ffs_upper_set_redirect(struct ffs_upperlayer *u, int fd, const char *path);
/* Data has been copied: the file is a metacopy no longer. */
int ffs_upper_clear_metacopy(struct ffs_upperlayer *u, int fd);

/* ---- attributes (of what is present) ---- */

/* Opens what is there: flags O_PATH or O_DIRECTORY, or of a regular file (else EUCLEAN) O_RDONLY,
 * O_RDWR …; links are not followed, special files not touched. */
int ffs_upper_open(struct ffs_upperlayer *u, int dirfd, const char *name, int flags, int *out_fd);
/* The same file once more, with other flags. */
int ffs_upper_reopen(struct ffs_upperlayer *u, int fd, int flags, int *out_fd);
int ffs_upper_chmod(struct ffs_upperlayer *u, int fd, mode_t mode);
int ffs_upper_chown(struct ffs_upperlayer *u, int fd, uint32_t uid, uint32_t gid); /* -1: as is */
int ffs_upper_utimens(struct ffs_upperlayer *u, int fd, const struct timespec times[2]);
/* Names as the sandbox sees them: overlay's own are escaped. size 0 asks for the length; lists are
 * name\0name\0. Answers are those of getxattr(2) and listxattr(2): bytes, or a negative errno. */
ssize_t ffs_upper_getxattr(struct ffs_upperlayer *u, int fd, const char *name, void *value,
                           size_t size);
ssize_t ffs_upper_listxattr(struct ffs_upperlayer *u, int fd, char *list, size_t size);
int ffs_upper_setxattr(struct ffs_upperlayer *u, int fd, const char *name, const void *value,
                       size_t size, int flags);
int ffs_upper_removexattr(struct ffs_upperlayer *u, int fd, const char *name);

/* ---- space ---- */

#define FFS_UPPER_BLOCK_BYTES 4096
/* What a file of this size is counted as: its blocks, holes included. What it may hold is counted
 * when it gets its size, so that nothing is written, or given back, that was not counted. */
uint64_t ffs_upper_cost(uint64_t size_bytes);
/* Before files of the upper come to cost so much more, and when they cost less. 0 or -ENOSPC;
 * nothing to do without a limit. Inodes are counted where they are made and go, with what they cost
 * when they go for good. */
int ffs_upper_reserve(struct ffs_upperlayer *u, uint64_t bytes);
void ffs_upper_unreserve(struct ffs_upperlayer *u, uint64_t bytes);
int ffs_upper_statvfs(struct ffs_upperlayer *u, struct statvfs *out);

/* ---- hard links by overlayfs's index ---- */

/* Of every inode that overlayfs keeps in work/index: where it lies below (UUID of the lower file
 * system, which is in the tree's super block, and nid), and its descriptor (O_PATH, closed
 * afterwards). Entries of another form are passed over. */
int ffs_upperlayer_index_each(struct ffs_upperlayer *u,
                              bool (*fn)(void *arg, const uint8_t uuid[16], uint64_t nid, int fd),
                              void *arg);
/* The index has been made good by links under every name: it goes, and so do overlayfs's marks on
 * the files that it names ("nlink", "origin"). */
int ffs_upperlayer_index_drop(struct ffs_upperlayer *u);

#endif
