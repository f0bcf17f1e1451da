/* SPDX-License-Identifier: Apache-2.0 */
/* Sandboxes of users without privileges: a user namespace in which the user is
 * root, its subordinate ids (/etc/subuid, /etc/subgid) are the others, and a FUSE
 * file system of its own is mounted. What it mounts goes when it ends. */
#ifndef TOOLS_ROOTLESS_H
#define TOOLS_ROOTLESS_H

#include <sys/types.h>

#include "cas/err.h"

#define ROOTLESS_RANGES_MAX 5

struct rootless_range {
        uint32_t inside, outside, count;
};
/* The first of each is the user, or its group, as 0; the rest follows without a gap inside. */
struct rootless_ids {
        struct rootless_range uids[ROOTLESS_RANGES_MAX], gids[ROOTLESS_RANGES_MAX];
        size_t uid_count, gid_count; /* 1: nobody but the user */
};
/* This user's. Without subordinate ids of both kinds, or the programs that map them, only itself.
 * Errors: IO. */
int rootless_ids_find(struct rootless_ids *out, struct cas_err *err) CAS_MUST_CHECK;
/* Appends the ranges of a user in the text of /etc/subuid or /etc/subgid, as far as there is room;
 * inside ids go on where the last one ends. Lines that make no sense are passed over. id
 * UINT32_MAX: the name only. */
void rootless_ranges_add(const char *text, size_t len, const char *name, uint32_t id,
                         struct rootless_range *ranges, size_t *count);
/* Id maps for ffs_mount; owned by the caller. Of a file system that is mounted inside, and of one
 * that is mounted outside, where the kernel says the ids of the host. */
char *rootless_map_inside(const struct rootless_ids *ids);
char *rootless_map_outside(const struct rootless_ids *ids);

/* A child in a user namespace and a mount namespace of its own, as its root. */
struct rootless_child {
        pid_t pid;
        int fd;      /* closed: the child gives up; see rootless_go */
        int fuse_fd; /* of what it mounted; -1: nothing */
};
/* fn(arg) is what it does once it is told to go; it returns the exit status. fuse_dir: where it
 * mounts a FUSE file system before that, or NULL. It is killed when this process ends.
 * Errors: DENIED, UNSUPPORTED, with what to do about it. */
int rootless_start(const struct rootless_ids *ids, const char *fuse_dir, int (*fn)(void *arg),
                   void *arg, struct rootless_child *out, struct cas_err *err) CAS_MUST_CHECK;
void rootless_go(struct rootless_child *c);
/* Gives up what was not told to go, and waits for it. */
void rootless_release(struct rootless_child *c);
/* Removes a tree in which subordinate ids own files. */
int rootless_remove_tree(const struct rootless_ids *ids, const char *dir,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
