/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that need the owner of the store while it is away: kept, killable,
 * up to a stated time, and tried again when it is back. One thread for all
 * connections of the process. */
#ifndef FFS_OWNERWAIT_INT_H
#define FFS_OWNERWAIT_INT_H

#include <fuse_lowlevel.h>

#include "fusefs/reader_int.h"

/* How long a request waits for an owner that is away. */
#define FFS_OWNER_WAIT_MS 60000
#define FFS_OWNER_AWAY_MS 1000

struct ffs_ownerwait;
struct ffs_ownerwait_config {
        struct ffs_reader *reader; /* borrowed */
        unsigned wait_ms;          /* FFS_OWNER_WAIT_MS but in tests */
        /* Called by one thread, again and again while requests have been waiting for the owner for
         * longer than FFS_OWNER_AWAY_MS. */
        void (*owner_away)(void *arg);
        void *owner_away_arg;
};
/* Starts the thread, which runs until the process ends. */
int ffs_ownerwait_start(const struct ffs_ownerwait_config *config, struct ffs_ownerwait **out,
                        struct cas_err *err) CAS_MUST_CHECK;

/* A request to be served: attempt() answers it and returns 0, or returns -CAS_E_BUSY without having
 * answered because the owner is away. fail() answers what cannot be (EINTR, EIO). Both may run in
 * another thread, with `item` copied (item_bytes). Tries at once, and keeps it on BUSY. */
#define FFS_OWNERWAIT_ITEM_BYTES_MAX 160
struct ffs_ownerwait_job {
        fuse_req_t req;
        int (*attempt)(void *arg, const void *item, int timeout_ms);
        void (*fail)(void *arg, const void *item, int error);
        void *arg;
        const void *item;
        size_t item_bytes;
};
void ffs_ownerwait_serve(struct ffs_ownerwait *w, const struct ffs_ownerwait_job *job);
/* The same for who can do nothing without the result: waits. attempt() fills what item points to
 * and returns 0 or a negative code. 0, or what it returned; -CAS_E_BUSY: the owner stayed away. */
int ffs_ownerwait_block(struct ffs_ownerwait *w, int (*attempt)(void *arg, int timeout_ms),
                        void *arg);
/* Requests that wait now, of all connections. */
uint64_t ffs_ownerwait_count(struct ffs_ownerwait *w);

#endif
