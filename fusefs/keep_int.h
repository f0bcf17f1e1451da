/* SPDX-License-Identifier: Apache-2.0 */
/* What `lamina hold` keeps for `lamina fs`: named items of a little text and a
 * few descriptors, given to the successor when one dies (spec/mounts.md, "What
 * hold keeps"). hold knows nothing of what they are. */
#ifndef FFS_KEEP_INT_H
#define FFS_KEEP_INT_H

#include "fusefs/process_int.h"

#define FFS_KEEP_NAME_BYTES 96
#define FFS_KEEP_TEXT_BYTES_MAX 24576
#define FFS_KEEP_FDS_MAX 4
#define FFS_KEEP_MESSAGE_BYTES_MAX 32768
#define FFS_KEEP_OBJECTS "objects" /* the item of the object file system: /dev/fuse, table */

/* ---- items, on both sides ---- */

struct ffs_keep_item {
        char name[FFS_KEEP_NAME_BYTES]; /* printable, without spaces */
        char *text;                     /* owned */
        int fds[FFS_KEEP_FDS_MAX];      /* owned */
        size_t fd_count;
};
void ffs_keep_item_release(struct ffs_keep_item *item);

struct ffs_keep_items {
        struct ffs_keep_item *list; /* owned; in the order in which they came */
        size_t count, room;
};
/* The item of a name, or NULL. */
struct ffs_keep_item *ffs_keep_items_find(const struct ffs_keep_items *items, const char *name);
/* Adds or replaces; takes the item over. */
void ffs_keep_items_put(struct ffs_keep_items *items, struct ffs_keep_item *item);
void ffs_keep_items_drop(struct ffs_keep_items *items, const char *name); /* absent: nothing */
void ffs_keep_items_release(struct ffs_keep_items *items);

/* One item as a message: `VERB NAME`, a line feed, the text. Errors: IO. */
int ffs_keep_send(int fd, const char *verb, const struct ffs_keep_item *item,
                  struct cas_err *err) CAS_MUST_CHECK;
/* The item of such a message behind its verb; takes the descriptors over, on failure too.
 * Errors: INVALID. */
int ffs_keep_item_parse(const char *text, const int *fds, size_t fd_count,
                        struct ffs_keep_item *out, struct cas_err *err) CAS_MUST_CHECK;

/* ---- the side of fs; thread-safe ---- */

struct ffs_keep; /* the socket to hold, and a copy of all that was given */
/* Fetches what hold keeps; hold_fd is taken over, host borrowed for good. *serving is sent to a new
 * hold. */
int ffs_keep_open(const struct ffs_host *host, int hold_fd, const struct ffs_serving *serving,
                  struct ffs_keep **out, struct cas_err *err) CAS_MUST_CHECK;
/* Closes everything, which hold goes on to have. */
void ffs_keep_close(struct ffs_keep *k);
/* Calls fn with each item; it must not put or drop. */
void ffs_keep_each(struct ffs_keep *k, void (*fn)(void *arg, const struct ffs_keep_item *item),
                   void *arg);
/* Duplicates of an item's descriptors, the caller's. Errors: NOTFOUND, INVALID (another number). */
int ffs_keep_fds(struct ffs_keep *k, const char *name, int *fds, size_t fd_count,
                 struct cas_err *err) CAS_MUST_CHECK;
/* Gives or replaces an item. hold has it when this returns; blocks until then. Descriptors stay the
 * caller's too. A hold that has died is replaced first. Errors: LIMIT, IO (there is no hold, and
 * none can be started; the next one gets the item), INVALID. */
int ffs_keep_put(struct ffs_keep *k, const char *name, const char *text, const int *fds,
                 size_t fd_count, struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. */
int ffs_keep_drop(struct ffs_keep *k, const char *name, struct cas_err *err) CAS_MUST_CHECK;
/* Everything is served. */
int ffs_keep_ready(struct ffs_keep *k, struct cas_err *err) CAS_MUST_CHECK;
/* The run directory is given up: another hold may take it. */
int ffs_keep_leave(struct ffs_keep *k, struct cas_err *err) CAS_MUST_CHECK;
/* Hung up (POLLHUP, with no events asked for) when hold has died; changes when it is replaced. */
int ffs_keep_hold_fd(struct ffs_keep *k);
/* Starts another hold when this one has died, and gives it everything. */
int ffs_keep_revive(struct ffs_keep *k, struct cas_err *err) CAS_MUST_CHECK;

#endif
