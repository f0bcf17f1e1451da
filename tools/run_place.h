/* SPDX-License-Identifier: Apache-2.0 */
/* The place of one sandbox of `lamina run`: its directories, its upper, its limits,
 * and that they are taken away however it ends: by run_place_undo in this process,
 * or by a watcher when this process is killed, which waits on a pipe that only this
 * process holds open. */
#ifndef TOOLS_RUN_PLACE_H
#define TOOLS_RUN_PLACE_H

#include <sys/types.h>

#include "tools/mounting.h"
#include "tools/rootless.h"

/* RUN_DIR/run/ID, and what has been made so far. */
struct run_place {
        struct mounting m;
        char id[33];
        char *dir;   /* owned, as the other paths */
        char *root;  /* DIR/root: the mount point */
        char *state; /* DIR/crun */
        char *upper;
        char *volumes; /* UPPER/volumes */
        char *id_map;  /* NULL: owners as they are */
        bool rootless; /* everything happens in a user namespace of this user, `ids` */
        struct rootless_ids ids;
        int userns_fd; /* of id_map; -1 */
        int cgroup_fd; /* of the limit's group; -1 */
        bool upper_is_ours;
        bool keep;
        bool has_cgroup;
        bool brokered;
        uint32_t pool_first; /* of the pool's range that is taken; 0: none */
        pid_t watcher;       /* 0: none */
        int watcher_fd;      /* closed, or this process's end: undo; a byte: all is done */
};
#define RUN_PLACE_INIT                                                                             \
        {                                                                                          \
                .userns_fd = -1, .cgroup_fd = -1, .watcher_fd = -1                                 \
        }

/* Makes the directories, once `m` is open. upper: the caller's, or NULL for one of the store's. */
int run_place_make(struct run_place *p, const char *upper, struct cas_err *err) CAS_MUST_CHECK;
/* From now on it is taken away when this process dies. What is not yet known of it is not known to
 * the watcher either. */
int run_place_watch(struct run_place *p, struct cas_err *err) CAS_MUST_CHECK;
/* Takes everything back; what was never made is no error. */
int run_place_undo(struct run_place *p, struct cas_err *err) CAS_MUST_CHECK;
/* Dismisses the watcher and frees. */
void run_place_release(struct run_place *p);

#endif
