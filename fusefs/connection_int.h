/* SPDX-License-Identifier: Apache-2.0 */
/* One /dev/fuse descriptor that is served by threads of this process: INIT is
 * saved and replayed, requests of a dead predecessor are asked for again, the end
 * is signalled. What is served is libfuse's table of operations. */
#ifndef FFS_CONNECTION_INT_H
#define FFS_CONNECTION_INT_H

#include <fuse_lowlevel.h>

#include "cas/err.h"

#define FFS_INIT_BYTES_MAX 512
#define FFS_REQUEST_BYTES_MAX (1 << 20) /* of one read or write */
/* Set in `unique` of a request that was delivered before (FUSE_UNIQUE_RESEND, Linux 6.9). */
#define FFS_UNIQUE_RESENT (UINT64_C(1) << 63)

struct ffs_connection;
struct ffs_connection_config {
        int fuse_fd; /* borrowed */
        const struct fuse_lowlevel_ops *ops;
        void *userdata;   /* of the requests */
        unsigned threads; /* and more while some of them wait: ffs_connection_blocks() */
        const char *name; /* static; of threads and log lines */
        /* The INIT request that the connection began with; load gives *len 0 when there is none
         * yet. Borrowed. */
        const void *(*init_load)(void *userdata, size_t *len);
        void (*init_save)(void *userdata, const void *request, size_t len);
        /* May be NULL. A chance to see each request before libfuse does (its `unique` with the bit
         * above, its opcode and node), in the thread that will serve it. */
        void (*request_seen)(void *userdata, uint64_t unique, uint32_t opcode, uint64_t node);
        /* May be NULL: called by each thread that has served, at its end. */
        void (*thread_ends)(void *userdata);
        /* May be NULL: called after INIT has been answered, before any other request. */
        void (*inited)(void *userdata, struct fuse_session *session);
};
int ffs_connection_start(const struct ffs_connection_config *config, struct ffs_connection **out,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Readable when it was unmounted or aborted. Borrowed. */
int ffs_connection_ended_fd(const struct ffs_connection *c);
/* It has ended, and so have its threads: what they were asked is answered, or kept somewhere. */
bool ffs_connection_is_still(const struct ffs_connection *c);
struct fuse_session *ffs_connection_session(const struct ffs_connection *c);
/* Around what may take a thread that serves a request long: others serve meanwhile, within bounds,
 * so that one user of a shared connection does not keep all waiting. */
void ffs_connection_blocks(struct ffs_connection *c);
void ffs_connection_goes_on(struct ffs_connection *c);
/* Of one that has ended, with none of its requests kept anywhere: waits for its threads. */
void ffs_connection_free(struct ffs_connection *c);

#endif
