/* SPDX-License-Identifier: Apache-2.0 */
/* `lamina opener`: a process that opens files of the object file system for
 * `lamina fs`, which serves that file system. fs may not do it itself: a thread that
 * waits for its own process cannot be killed, and the process that should answer it
 * in its stead is not started until it is gone. This is fs's side; thread-safe. */
#ifndef FFS_OPENER_INT_H
#define FFS_OPENER_INT_H

#include "fusefs/mount.h"

/* In the root of the object file system: its names are objects' 64 hex digits. Who looks them up
 * is the opener, so that these look-ups are told apart from those it makes for others. */
#define FFS_OPENER_DIR ".open"

struct ffs_opener;
/* Starts the process; it is started again when it dies, and ends with this one. host is borrowed
 * for good. `done` is called by a thread here when what ffs_opener_prepare asked for is done, or
 * cannot be. */
int ffs_opener_start(const struct ffs_host *host, void (*done)(void *arg, uint64_t tag), void *arg,
                     struct ffs_opener **out, struct cas_err *err) CAS_MUST_CHECK;
/* Lets go of the object file system, so that it can go: nothing is opened from now on. */
void ffs_opener_stop(struct ffs_opener *o);

/* A descriptor of an object's file, the kernel asked for its first bytes; blocks as long as its
 * look-up takes, timeout_ms at most. 0 or a negative errno; EAGAIN: it may be asked for again. */
int ffs_opener_open(struct ffs_opener *o, const struct cas_hash *object, uint64_t bytes,
                    int timeout_ms, int *out_fd);
/* The kernel gets an inode for the object, kept for a while, and begins to read its first bytes
 * into the page cache. False: too much to do, and `done` will not be called. Does not block. */
bool ffs_opener_prepare(struct ffs_opener *o, const struct cas_hash *object, uint64_t bytes,
                        uint64_t tag) CAS_MUST_CHECK;
/* The kernel begins to read [from, to) into the page cache. Does not block; may not happen. */
void ffs_opener_read_ahead(struct ffs_opener *o, const struct cas_hash *object, uint64_t from,
                           uint64_t to);

/* ---- the process ---- */
int ffs_opener_main(const struct ffs_host *host, int fs_fd);

#endif
