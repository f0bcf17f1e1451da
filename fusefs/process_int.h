/* SPDX-License-Identifier: Apache-2.0 */
/* What the processes of a host have in common: how they are started, what they
 * say to each other (spec/mounts.md, "Processes"), and the socket of `lamina
 * hold` seen from a command. */
#ifndef FFS_PROCESS_INT_H
#define FFS_PROCESS_INT_H

#include "fusefs/mount.h"

#define FFS_PROCESS_FD 3 /* the socket to whoever started it */
#define FFS_MESSAGE_BYTES_MAX 6144
#define FFS_INSTANCE_HEX_BYTES 33

/* Starts `program role …` in a session of its own: its socket at FFS_PROCESS_FD, output to
 * RUN_DIR/ROLE.log. option is an argument more, or NULL. */
int ffs_process_spawn(const struct ffs_host *host, const char *role, const char *option,
                      int socket_fd, pid_t *out_pid, struct cas_err *err) CAS_MUST_CHECK;
/* Starts an owner of the store in the background, as a command does: it ends by itself when it is
 * not needed, makes way for one that was asked for, and at once when there is one. */
int ffs_process_start_owner(const struct ffs_host *host, struct cas_err *err) CAS_MUST_CHECK;
/* Whatever happens to other processes, these are to be killed last. */
void ffs_process_protect(void);
/* No capabilities any more, and none to come by: of a process that opens what its owner may open.
 * Before it has threads. Errors: DENIED, IO. */
int ffs_process_drop_capabilities(struct cas_err *err) CAS_MUST_CHECK;
/* Every connection and volume is descriptors. */
void ffs_process_raise_file_limit(void);
/* A connected pair of message sockets. */
int ffs_process_socketpair(int out[2], struct cas_err *err) CAS_MUST_CHECK;

/* The object file system of this boot, as hold and fs tell each other. */
struct ffs_serving {
        unsigned dev_major, dev_minor;
        char instance[FFS_INSTANCE_HEX_BYTES]; /* of the mount */
        pid_t fs_pid;
        unsigned restarts;
};
int ffs_serving_format(const char *verb, const struct ffs_serving *s, char *out, size_t out_bytes);
/* Errors: INVALID. */
int ffs_serving_parse(const char *verb, const char *text, struct ffs_serving *out,
                      struct cas_err *err) CAS_MUST_CHECK;

/* Answers are `ok`, `ok WHAT` and `failed CODE TEXT`: 0, or the error that was sent. */
int ffs_process_answer(const char *text, struct cas_err *err) CAS_MUST_CHECK;
/* `ok`, or what `err` says; as snprintf. */
int ffs_process_answer_format(int rc, const struct cas_err *err, char *out, size_t out_bytes);

/* Asks hold: `verb` is status, replace, `replace PROGRAM` or stop. Errors: NOTFOUND or BUSY (no
 * hold), and what hold answers. *out as of then. */
int ffs_hold_ask(const char *run_dir, const char *verb, struct ffs_serving *out,
                 struct cas_err *err) CAS_MUST_CHECK;
/* Starts hold and waits until the object file system is served. */
int ffs_hold_start(const struct ffs_host *host, struct ffs_serving *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Takes over from a hold that died; fs_fd is the socket to fs, which sends what it has. */
int ffs_hold_adopt_main(const struct ffs_host *host, int fs_fd);

#endif
