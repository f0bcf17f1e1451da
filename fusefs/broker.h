/* SPDX-License-Identifier: Apache-2.0 */
/* The broker's socket: users without privileges ask for an image and get a mount
 * that is attached nowhere yet, as a descriptor (spec/broker.md). Here are the two
 * ends and who is at the other; what is granted to whom is the caller's. */
#ifndef FFS_BROKER_H
#define FFS_BROKER_H

#include <stdbool.h>

#include "cas/err.h"

#define FFS_BROKER_SOCKET "/run/lamina/broker.sock"
#define FFS_BROKER_MESSAGE_BYTES_MAX 32768
#define FFS_BROKER_GROUPS_MAX 256
#define FFS_BROKER_CLIENTS_MAX 4096 /* connections, each with at most one mount */

/* Who asks, as the kernel says. */
struct ffs_broker_peer {
        int32_t pid;
        uint64_t start_ticks; /* when it started, as /proc/PID/stat counts: with pid it is unique */
        uint32_t uid, gid;
        uint32_t groups[FFS_BROKER_GROUPS_MAX];
        size_t group_count;
        /* The ids of the peer's user namespace, as ffs_mount_options.id_map: what image ids are to
         * be shown as. The kernel let the user have these ids. */
        char id_map[512];
};

/* What was granted. */
struct ffs_broker_grant {
        char *reply; /* owned; text for the client */
        char *dir;   /* owned; where it is mounted for the time being */
};
void ffs_broker_grant_release(struct ffs_broker_grant *g);

struct ffs_broker_config {
        const char *path; /* of the socket; every user of the host may connect */
        /* Both are called by threads of the broker, several at a time, and may block. grant: what
         * the request is answered with; release: the client has gone, or nothing could be sent. */
        int (*grant)(void *arg, const struct ffs_broker_peer *peer, const char *request,
                     struct ffs_broker_grant *out, struct cas_err *err);
        void (*release)(void *arg, const struct ffs_broker_grant *grant);
        void *arg;
        unsigned per_user_max; /* connections of one user; 0: no other limit than of all */
};
/* Serves until stop_fd is readable. What is out then is not released: whoever has it still runs,
 * and a successor finds it by what grant wrote down. Errors: BUSY (another listens). */
int ffs_broker_serve(const struct ffs_broker_config *config, int stop_fd,
                     struct cas_err *err) CAS_MUST_CHECK;

/* Whether a uid is in a range of /etc/subuid's text: of somebody's user namespaces, and no user. */
bool ffs_broker_is_subordinate(const char *subuids, size_t len, uint32_t uid);

/* Blocks until that process has ended (true), or stop_fd is readable. */
bool ffs_broker_await_process(int32_t pid, uint64_t start_ticks, int stop_fd);

/* Asks; blocks until the answer. The mount is kept as long as this process
 * has the connection open.
 * *reply is owned by the caller. Errors: NOTFOUND or BUSY (no broker), DENIED, those of grant. */
int ffs_broker_ask(const char *path, const char *request, char **reply, int *out_mount_fd,
                   int *out_connection_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Attaches what was got at a directory of this mount namespace. */
int ffs_broker_attach(int mount_fd, const char *dir, struct cas_err *err) CAS_MUST_CHECK;

#endif
